//! The writing of HTTP/1.1 answers.

use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora_http::ResponseHeader;
use smallvec::SmallVec;

use super::answer::{AnswerHead, BadAnswer};
use crate::exchange::RequestId;
use crate::head::{AnswerLimits, Edited, Field, HeaderEdits};

/// How an answer's body is delimited towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFraming {
    /// No body, whatever the fields say (HEAD, 204, 304, 1xx).
    None,
    /// Bytes still to be written.
    Length(u64),
    Chunked,
    /// The end of the connection ends the body: all that HTTP/1.0 knows for unknown lengths.
    UntilClose,
    /// An upgraded connection.
    Tunnel,
}

/// Fields that belong to one connection and never pass a gateway (RFC 9110, section 7.6.1).
pub const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade"];

/// Fields that no nomination takes away: a peer that nominated them would change what the message is, or for whom.
const KEPT: [&str; 4] = ["content-length", "set-cookie", "cache-control", "vary"];

/// An answer that cannot be passed on: its own framing is in doubt.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFraming;

/// Whether answers of that status have no body, whatever their fields say (RFC 9112, section 6.3).
pub fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Decides how the body is delimited from what the backend's answer said, before its fields are stripped.
///
/// # Errors
/// Several or malformed Content-Length fields.
pub fn framing(answer: &ResponseHeader, method: &Method, version: Version) -> Result<AnswerFraming, BadFraming> {
    let length = content_length(answer)?;
    if *method == Method::HEAD || is_bodiless(answer.status) {
        return Ok(AnswerFraming::None);
    }
    Ok(match length {
        Some(length) => AnswerFraming::Length(length),
        None if version == Version::HTTP_11 => AnswerFraming::Chunked,
        None => AnswerFraming::UntilClose,
    })
}

/// Holds a backend's answer to the rules that [`take`](super::answer::take) has, for Pingora's reader has fewer. (It
/// has dropped Content-Length beside Transfer-Encoding already.)
///
/// # Errors
/// Several or malformed Content-Length fields, a transfer coding that is not a single `chunked`, or any in an HTTP/1.0 answer; a head
/// that is too large.
pub fn check_answer(answer: &ResponseHeader, limits: &AnswerLimits) -> Result<(), BadAnswer> {
    let fields: usize = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let line = "HTTP/1.1 200 \r\n\r\n".len() + answer.get_reason_phrase().map_or(0, str::len);
    if line + fields > limits.head || answer.headers.len() > limits.fields {
        return Err(BadAnswer::TooLarge);
    }
    check_framing(answer).map_err(|BadFraming| BadAnswer::Malformed)
}

fn check_framing(answer: &ResponseHeader) -> Result<(), BadFraming> {
    content_length(answer)?;
    let mut codings = answer.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let single = codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if single && answer.version == Version::HTTP_11 { Ok(()) } else { Err(BadFraming) }
}

fn content_length(answer: &ResponseHeader) -> Result<Option<u64>, BadFraming> {
    let mut fields = answer.headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let text = field.to_str().map_err(|_| BadFraming)?;
    if fields.next().is_some() || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadFraming);
    }
    text.parse().map(Some).map_err(|_| BadFraming)
}

/// Removes what must not be passed on: the fields above, those that `Connection` names, and a length where there is none.
pub fn strip(answer: &mut ResponseHeader) {
    if answer.headers.contains_key(header::CONNECTION) {
        let named: Vec<header::HeaderName> = answer
            .headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|token| header::HeaderName::from_bytes(token.trim_ascii()).ok())
            .filter(|name| !KEPT.contains(&name.as_str()))
            .collect();
        for name in named {
            answer.remove_header(&name);
        }
    }
    for name in HOP_BY_HOP {
        if answer.headers.contains_key(name) {
            answer.remove_header(name);
        }
    }
    if answer.status == NO_LENGTH {
        answer.remove_header(&header::CONTENT_LENGTH);
    }
}

/// Answers of this status have no Content-Length (RFC 9110, section 8.6).
const NO_LENGTH: StatusCode = StatusCode::NO_CONTENT;

/// Appends a field.
#[inline]
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a backend's answer as it goes to the client: without what belongs to the backend's connection, and with the
/// gateway's own changes.
#[allow(clippy::too_many_arguments, reason = "the parts of a head, each from somewhere else, on the hot path")]
pub fn relayed(
    out: &mut Vec<u8>,
    answer: &AnswerHead,
    request_id: &RequestId,
    edits: &HeaderEdits,
    via: Option<&HeaderValue>,
    framing: AnswerFraming,
    keep_alive: bool,
    version: Version,
) {
    out.reserve(answer.buffer.len() + 512);
    status_line(out, answer.status, answer.reason.of(&answer.buffer));
    let unframed = matches!(framing, AnswerFraming::Chunked | AnswerFraming::UntilClose | AnswerFraming::Tunnel);
    if framing == AnswerFraming::Tunnel
        && let Some((name, protocol)) = answer.headers().find(|(name, _)| is_name(name, "upgrade"))
    {
        field(out, name, protocol);
    }
    let passing = end_to_end(answer).filter(|(name, _)| !(unframed && is_name(name, "content-length")));
    fields(out, passing, request_id, edits, via, framing, keep_alive, version);
}

/// The fields that may be passed on, as [`strip`] says.
pub fn end_to_end(answer: &AnswerHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    passing(answer).map(|field| (field.name.of(&answer.buffer), field.value.of(&answer.buffer)))
}

/// As [`end_to_end`], where they stand in the answer's buffer.
pub(super) fn passing(answer: &AnswerHead) -> impl Iterator<Item = &Field> {
    let nominated = nominations(answer.header_all("connection"));
    let no_length = answer.status == NO_LENGTH;
    let passes = move |name: &[u8]| {
        let named = nominated.iter().any(|token| is_nominated(name, token));
        let needless = no_length && is_name(name, "content-length");
        !is_hop_by_hop(name) && !named && !needless
    };
    answer.fields.iter().filter(move |field| passes(field.name.of(&answer.buffer)))
}

/// Appends the head of an answer of the gateway's own.
#[allow(clippy::too_many_arguments, reason = "the parts of a head, each from somewhere else, on the hot path")]
pub fn own<'a>(
    out: &mut Vec<u8>,
    status: StatusCode,
    own: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    request_id: &RequestId,
    edits: &HeaderEdits,
    framing: AnswerFraming,
    keep_alive: bool,
    version: Version,
) {
    out.reserve(512);
    status_line(out, status, status.canonical_reason().unwrap_or_default().as_bytes());
    // Nothing was forwarded.
    fields(out, own, request_id, edits, None, framing, keep_alive, version);
}

fn status_line(out: &mut Vec<u8>, status: StatusCode, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Whether neither the edits nor the gateway itself say a field of that name instead.
#[inline(always)]
pub(super) fn stays(name: &[u8], edited: &Edited<'_>) -> bool {
    !edited.replaces(name) && !is_name(name, "x-request-id")
}

/// The fields of an answer, as the edits leave them, the request's id and the gateway's name among them, and the end of its head.
#[allow(clippy::too_many_arguments, reason = "the parts of a head, each from somewhere else, on the hot path")]
fn fields<'a>(
    out: &mut Vec<u8>,
    from: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    request_id: &RequestId,
    edits: &HeaderEdits,
    via: Option<&HeaderValue>,
    framing: AnswerFraming,
    keep_alive: bool,
    version: Version,
) {
    let mut dated = false;
    let edited = Edited::new(edits);
    // From within: an iterator that is made of others costs less that way than step by step.
    from.for_each(|(name, value)| {
        if stays(name, &edited) {
            dated |= is_name(name, "date");
            field(out, name, value);
        }
    });
    if !edited.replaces(b"x-request-id") {
        field(out, b"x-request-id", request_id.as_bytes());
    }
    if let Some(via) = via.filter(|_| !edited.replaces(b"via")) {
        field(out, b"Via", via.as_bytes());
    }
    for (name, value) in edited.added() {
        dated |= *name == header::DATE;
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    end_of_head(out, dated, framing, keep_alive, version);
}

#[inline(always)]
fn is_name(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

/// Appends an interim answer (1xx) without what belongs to the backend's connection.
pub fn interim(out: &mut Vec<u8>, answer: &AnswerHead) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(answer.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(answer.reason.of(&answer.buffer));
    out.extend_from_slice(b"\r\n");
    for (name, value) in end_to_end(answer).filter(|(name, _)| !is_name(name, "content-length")) {
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a name is one of [`HOP_BY_HOP`]. By length first, for most names have another.
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    match name.len() {
        2 => is_name(name, "te"),
        7 => is_name(name, "trailer") || is_name(name, "upgrade"),
        10 => is_name(name, "connection") || is_name(name, "keep-alive"),
        16 => is_name(name, "proxy-connection"),
        17 => is_name(name, "transfer-encoding"),
        18 => is_name(name, "proxy-authenticate"),
        _ => false,
    }
}

/// The names that `Connection` fields nominate, without what nearly all of them say.
pub fn nominations<'a>(values: impl Iterator<Item = &'a [u8]>) -> SmallVec<[&'a [u8]; 2]> {
    let says_nothing = |token: &[u8]| match token.len() {
        0 => true,
        5 => token.eq_ignore_ascii_case(b"close"),
        10 => token.eq_ignore_ascii_case(b"keep-alive"),
        _ => false,
    };
    let mut nominated = SmallVec::new();
    values.for_each(|value| {
        // Mostly one of these words is all that is said.
        if !says_nothing(value) {
            let tokens = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            nominated.extend(tokens.filter(|token| !says_nothing(token)));
        }
    });
    nominated
}

/// Whether a nomination takes this field away.
fn is_nominated(name: &[u8], token: &[u8]) -> bool {
    name.eq_ignore_ascii_case(token) && !KEPT.iter().any(|kept| is_name(name, kept))
}

fn end_of_head(out: &mut Vec<u8>, dated: bool, framing: AnswerFraming, keep_alive: bool, version: Version) {
    out.reserve(128);
    if framing == AnswerFraming::Tunnel {
        out.extend_from_slice(b"Connection: Upgrade\r\n\r\n");
        return;
    }
    if !dated {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if framing == AnswerFraming::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if version == Version::HTTP_10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a final answer whose hop-by-hop fields are already gone.
pub fn head(out: &mut Vec<u8>, answer: &ResponseHeader, framing: AnswerFraming, keep_alive: bool, version: Version) {
    out.reserve(256);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(answer.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(answer.get_reason_phrase().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    answer.header_to_h1_wire(out);
    end_of_head(out, answer.headers.contains_key(header::DATE), framing, keep_alive, version);
}

/// The value of a `Date` field, now.
pub fn date_field() -> HeaderValue {
    // It is made of ASCII.
    HeaderValue::from_bytes(date().as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// Now, as an IMF-fixdate (RFC 9110, section 5.6.7). Formatted once a second per thread.
fn date() -> DateText {
    use std::cell::Cell;
    use std::time::{SystemTime, UNIX_EPOCH};
    thread_local! {
        static LAST: Cell<(u64, DateText)> = const { Cell::new((0, DateText([b' '; 29]))) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with(|last| {
        let (second, text) = last.get();
        if second == now {
            return text;
        }
        let text = DateText::new(now);
        last.set((now, text));
        text
    })
}

#[derive(Clone, Copy)]
struct DateText([u8; 29]);

impl DateText {
    fn new(seconds: u64) -> Self {
        let stamp = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or_default()).unwrap_or_default();
        let text = stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut bytes = [b' '; 29];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        DateText(bytes)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends one chunk. Empty data would end the body, and is left out.
pub fn chunk_head(out: &mut Vec<u8>, length: usize) {
    use std::io::Write;
    let mut text = [0u8; 18];
    let mut rest = &mut text[..];
    // 16 digits and CR LF always fit.
    let _ = write!(rest, "{length:x}\r\n");
    let unused = rest.len();
    out.extend_from_slice(text.get(..18 - unused).unwrap_or_default());
}

pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut answer = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            answer.append_header(*name, *value).unwrap();
        }
        answer
    }

    #[test]
    fn frames_by_status_method_and_version() {
        let plain = answer(200, &[]);
        let sized = answer(200, &[("content-length", "5")]);
        assert_eq!(framing(&plain, &Method::GET, Version::HTTP_11), Ok(AnswerFraming::Chunked));
        assert_eq!(framing(&plain, &Method::GET, Version::HTTP_10), Ok(AnswerFraming::UntilClose));
        assert_eq!(framing(&sized, &Method::GET, Version::HTTP_10), Ok(AnswerFraming::Length(5)));
        assert_eq!(framing(&sized, &Method::HEAD, Version::HTTP_11), Ok(AnswerFraming::None));
        assert_eq!(framing(&answer(204, &[]), &Method::GET, Version::HTTP_11), Ok(AnswerFraming::None));
        let twice = answer(200, &[("content-length", "5"), ("content-length", "6")]);
        assert_eq!(framing(&twice, &Method::GET, Version::HTTP_11), Err(BadFraming));
        assert_eq!(framing(&answer(200, &[("content-length", "-5")]), &Method::GET, Version::HTTP_11), Err(BadFraming));
    }

    #[test]
    fn strips_what_belongs_to_the_other_connection() {
        let mut from = answer(200, &[("connection", "x-private, close"), ("x-private", "1"), ("keep-alive", "5"), ("x", "y")]);
        strip(&mut from);
        let names: Vec<_> = from.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn every_hop_by_hop_name_is_known_by_its_length() {
        assert!(HOP_BY_HOP.iter().all(|name| is_hop_by_hop(name.to_uppercase().as_bytes())));
        assert!(!is_hop_by_hop(b"date") && !is_hop_by_hop(b"content-length"));
    }

    #[test]
    fn dates_are_fixed_length() {
        assert_eq!(DateText::new(784_111_777).as_bytes(), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn chunk_heads() {
        let mut out = Vec::new();
        chunk_head(&mut out, 0x1f40);
        assert_eq!(&out[..], b"1f40\r\n");
    }
}
