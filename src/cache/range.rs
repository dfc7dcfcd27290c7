//! Parts of a stored answer (RFC 9110, section 14).

use http::{HeaderValue, Method, StatusCode, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{RangeType, range_header_filter};

use super::conditions::may_be_part;
use super::rules::asks_for_no_bytes;
use super::stored::OF_CONTENT;

/// A request for this many parts of a stored answer gets the whole: Pingora's own default, which has no name.
const MOST_RANGES: usize = 200;

/// No body is so long, and sums of two such numbers are some.
const ENOUGH: &[u8] = b"999999999999999999";

/// A `Range` field whose numbers are none that overflow, if some of it are: what is longer than any body means the same as what is a little
/// shorter (RFC 9110, section 14.1.2).
fn bounded(range: &[u8]) -> Option<Vec<u8>> {
    let runs = || range.chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit());
    let is_long = |run: &&[u8]| run.len() > ENOUGH.len();
    runs().any(|run| is_long(&run)).then(|| {
        let bounded = runs().map(|run| {
            let zeros = run.iter().take_while(|digit| **digit == b'0').count().min(run.len() - 1);
            let digits = run.get(zeros..).unwrap_or(run);
            if is_long(&digits) {
                ENOUGH
            } else if is_long(&run) {
                digits
            } else {
                run
            }
        });
        bounded.collect::<Vec<_>>().concat()
    })
}

/// The parts that a request asks for, and the answer's head that says so. `empty`: the stored body is.
pub fn range(asked: &RequestHeader, answer: &mut ResponseHeader, empty: bool) -> RangeType {
    if asked.method != Method::GET {
        // No other method has parts (RFC 9110, section 14.2).
        return RangeType::None;
    }
    let parts = parts(asked, answer, empty);
    if !matches!(parts, RangeType::None) {
        OF_CONTENT.iter().for_each(|name| {
            answer.remove_header(*name);
        });
    }
    parts
}

fn parts(asked: &RequestHeader, answer: &mut ResponseHeader, empty: bool) -> RangeType {
    let range = asked.headers.get(header::RANGE).map(|range| range.as_bytes());
    let of_nothing = range.is_some_and(|range| empty || asks_for_no_bytes(range));
    if of_nothing && answer.status == StatusCode::OK && answer.insert_header(header::ACCEPT_RANGES, "bytes").is_ok() {
        // Pingora takes no bytes for a part like another, looks for it behind the stored body's end, and closes the connection without an
        // answer. To ignore the field is every server's choice (RFC 9110, section 14.2).
        return RangeType::None;
    }
    if range.is_some() && !may_be_part(asked, answer) {
        // Pingora takes a weak tag for as good as a strong one.
        return RangeType::None;
    }
    match range.and_then(bounded).and_then(|range| HeaderValue::from_bytes(&range).ok()) {
        Some(range) => {
            let mut asked = asked.clone();
            // It takes the place of one that is there.
            let _ = asked.insert_header(header::RANGE, range);
            range_header_filter(&asked, answer, Some(MOST_RANGES))
        }
        None => range_header_filter(asked, answer, Some(MOST_RANGES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_all_bodies_mean_the_whole_of_it() {
        for (asked, means) in [
            ("bytes=0-4", None),
            ("bytes=-999999999999999999", None),
            ("bytes=-18446744073709551616", Some("bytes=-999999999999999999")),
            ("bytes=5-18446744073709551616,-1", Some("bytes=5-999999999999999999,-1")),
            ("bytes=00000000000000000000005-0000000000000000000000", Some("bytes=5-0")),
            ("bytes=18446744073709551616-5", Some("bytes=999999999999999999-5")),
        ] {
            assert_eq!(bounded(asked.as_bytes()).as_deref(), means.map(str::as_bytes), "{asked}");
        }
    }
}
