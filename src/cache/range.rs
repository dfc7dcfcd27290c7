//! Parts of a stored answer (RFC 9110, section 14).

use http::{StatusCode, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{RangeType, range_header_filter};

use super::rules::asks_for_no_bytes;

/// A request for this many parts of a stored answer gets the whole: Pingora's own default, which has no name.
const MOST_RANGES: usize = 200;

/// The parts that a request asks for, and the answer's head that says so. `empty`: the stored body is.
pub fn range(asked: &RequestHeader, answer: &mut ResponseHeader, empty: bool) -> RangeType {
    let range = asked.headers.get(header::RANGE).map(|range| range.as_bytes());
    let of_nothing = range.is_some_and(|range| empty || asks_for_no_bytes(range));
    if of_nothing && answer.status == StatusCode::OK && answer.insert_header(header::ACCEPT_RANGES, "bytes").is_ok() {
        // Pingora takes no bytes for a part like another, looks for it behind the stored body's end, and closes the connection without an
        // answer. To ignore the field is every server's choice (RFC 9110, section 14.2).
        return RangeType::None;
    }
    range_header_filter(asked, answer, Some(MOST_RANGES))
}
