//! The reading of a backend's HTTP/1.1 answer.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_http::ResponseHeader;
use smallvec::SmallVec;

use super::body::BodyDecoder;
use super::encode::is_bodiless;
use crate::head::{AnswerLimits, BodyFraming, Field, MAX_ANSWER_FIELDS, Span};
use crate::reply::Reply;

/// An answer's head: one buffer, and ranges into it.
pub struct AnswerHead {
    pub buffer: Bytes,
    pub status: StatusCode,
    pub reason: Span,
    pub fields: SmallVec<[Field; 16]>,
    pub body: BodyDecoder,
    /// What is announced, where it is.
    pub length: Option<u64>,
    /// Whether the backend keeps the connection open.
    pub keep_alive: bool,
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
}

/// An answer that cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadAnswer {
    /// It is none, or could be read in two ways.
    Malformed,
    /// Its head, or what comes before it, is beyond the service's bounds.
    TooLarge,
}

impl BadAnswer {
    /// What the client is told.
    pub fn reply(self) -> Box<Reply> {
        let (reason, detail) = match self {
            BadAnswer::Malformed => ("malformed_answer", "The backend's answer is malformed."),
            BadAnswer::TooLarge => {
                ("answer_head_too_large", "The head of the backend's answer is larger than this gateway accepts.")
            }
        };
        Reply::new(StatusCode::BAD_GATEWAY, "upstream", reason, detail)
    }
}

/// Takes a head off the front of `buffer`; `None` if it is not whole yet.
///
/// What a gateway has to mend, it mends: whitespace before a field's colon goes, and a folded value becomes one line (RFC 9112, sections
/// 5.1 and 5.2).
///
/// # Errors
/// A head that is malformed, too large, or framed ambiguously.
pub fn take(buffer: &mut BytesMut, method: &Method, limits: &AnswerLimits) -> Result<Option<Box<AnswerHead>>, BadAnswer> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_ANSWER_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    let slots = slots.get_mut(..limits.fields.min(MAX_ANSWER_FIELDS)).unwrap_or_default();
    let length = match parser.parse_response_with_uninit_headers(&mut answer, buffer, slots) {
        Ok(httparse::Status::Complete(length)) if length <= limits.head => length,
        Ok(httparse::Status::Partial) if buffer.len() < limits.head => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadAnswer::TooLarge),
        Err(_) => return Err(BadAnswer::Malformed),
    };
    let base = buffer.as_ptr() as usize;
    let span = |part: &[u8]| {
        let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
        Span { start, end: start.wrapping_add(part.len() as u32) }
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadAnswer::Malformed)?;
    let reason = match answer.reason {
        Some(reason) if !reason.is_empty() => span(reason.as_bytes()),
        _ => Span::default(),
    };
    let is_11 = answer.version == Some(1);
    let version = if is_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    // Boxed, for it goes through several hands, and each would copy it; and its fields are read where they stay.
    let (fields, body) = (SmallVec::new(), BodyDecoder::Done);
    let mut head = Box::write(
        Box::new_uninit(),
        AnswerHead { buffer: Bytes::new(), status, reason, fields, body, length: None, keep_alive: is_11, version },
    );
    let field = |field: &httparse::Header| Field { name: span(field.name.as_bytes()), value: span(field.value.trim_ascii()) };
    head.fields.extend(answer.headers.iter().map(field));
    let mut bytes = buffer.split_to(length);
    if has_folds(&bytes) {
        for field in &mut head.fields {
            if memchr::memchr(b'\n', field.value.of(&bytes)).is_some() {
                unfold(&mut bytes, &mut field.value);
            }
        }
    }
    head.buffer = bytes.freeze();
    head.frame(method, is_11, limits.head)?;
    Ok(Some(head))
}

/// Whether a line begins with whitespace: none without a fold does. Without a branch, so that the compiler can look at many bytes at once.
fn has_folds(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    pairs.fold(false, |folds, (&end, &byte)| folds | ((end == b'\n') & ((byte == b' ') | (byte == b'\t'))))
}

/// Makes one line of a folded value: each line's end, with the whitespace that begins the next, becomes a space.
fn unfold(bytes: &mut [u8], value: &mut Span) {
    let (mut to, mut from) = (value.start, value.start);
    let at = |bytes: &[u8], place: u32| bytes.get(place as usize).copied().unwrap_or_default();
    while from < value.end {
        let mut byte = at(bytes, from);
        from += 1;
        if matches!(byte, b'\r' | b'\n') {
            byte = b' ';
            while from < value.end && matches!(at(bytes, from), b'\r' | b'\n' | b' ' | b'\t') {
                from += 1;
            }
        }
        if let Some(slot) = bytes.get_mut(to as usize) {
            *slot = byte;
        }
        to += 1;
    }
    value.end = to;
}

impl AnswerHead {
    /// The same with another status, and without a phrase, for what the service said is not what this one means.
    pub fn with_status(&self, status: StatusCode) -> AnswerHead {
        let AnswerHead { buffer, fields, body, length, keep_alive, version, .. } = self;
        let (buffer, fields) = (buffer.clone(), fields.clone());
        let (body, length, keep_alive, version) = (*body, *length, *keep_alive, *version);
        AnswerHead { buffer, status, reason: Span::default(), fields, body, length, keep_alive, version }
    }

    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name.of(&self.buffer), field.value.of(&self.buffer)))
    }

    /// Every field of that name, in order.
    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.is_named(name, &self.buffer)).map(|field| field.value.of(&self.buffer))
    }

    /// The same as a header map.
    ///
    /// # Errors
    /// A field that a header map cannot hold.
    pub fn to_header(&self) -> pingora_error::Result<ResponseHeader> {
        use pingora_error::{ErrorType, OrErr};
        const UNFIT: ErrorType = ErrorType::InvalidHTTPHeader;
        let mut header = ResponseHeader::build(self.status, Some(self.fields.len() + 4))?;
        for field in &self.fields {
            let name = HeaderName::from_bytes(field.name.of(&self.buffer)).or_err(UNFIT, "a field's name")?;
            let value = self.buffer.slice(field.value.start as usize..field.value.end as usize);
            header.append_header(name, HeaderValue::from_maybe_shared(value).or_err(UNFIT, "a field's value")?)?;
        }
        Ok(header)
    }

    /// Where the body ends (RFC 9112, section 6.3), and whether the connection outlives it.
    fn frame(&mut self, method: &Method, is_11: bool, trailers: usize) -> Result<(), BadAnswer> {
        let (mut lengths, mut length, mut chunked, mut close, mut stay) = (0, None, false, false, false);
        for field in &self.fields {
            // By length alone: most fields are none of these.
            if !matches!(field.name.len(), 10 | 14 | 17) {
                continue;
            }
            let value = field.value.of(&self.buffer);
            match field.name.len() {
                14 if field.is_named("content-length", &self.buffer) => {
                    length = number(value);
                    lengths += 1;
                }
                17 if field.is_named("transfer-encoding", &self.buffer) => {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") || !is_11 {
                        return Err(BadAnswer::Malformed);
                    }
                    chunked = true;
                }
                10 if field.is_named("connection", &self.buffer) => {
                    for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                        close |= token.eq_ignore_ascii_case(b"close");
                        stay |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => {}
            }
        }
        if chunked && lengths > 0 {
            // Transfer-Encoding wins, and Content-Length must not go on (RFC 9112, section 6.3). Who sends both may not know where its
            // answer ends, though: nothing else is read from this connection.
            length = None;
            close = true;
            let buffer = &self.buffer;
            self.fields.retain(|field| !field.name.of(buffer).eq_ignore_ascii_case(b"content-length"));
        } else if lengths > 1 || lengths == 1 && length.is_none() {
            return Err(BadAnswer::Malformed);
        }
        let bodiless = *method == Method::HEAD || is_bodiless(self.status);
        self.keep_alive = !close && (self.keep_alive || stay);
        self.body = match (bodiless, chunked, length) {
            (true, ..) => BodyDecoder::Done,
            (false, true, _) => BodyDecoder::chunked(trailers),
            (false, false, Some(length)) => BodyDecoder::new(BodyFraming::Length(length)),
            (false, false, None) => BodyDecoder::UntilClose,
        };
        self.keep_alive &= self.body != BodyDecoder::UntilClose;
        self.length = length;
        Ok(())
    }
}

/// A decimal number: digits and nothing else, of which there may be any that change nothing.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Box<AnswerHead>>, BadAnswer> {
        take(&mut BytesMut::from(text), &Method::GET, &AnswerLimits::default())
    }

    #[test]
    fn frames_answers() {
        let head = parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap().unwrap();
        assert_eq!((head.body, head.keep_alive), (BodyDecoder::Length(5), true));
        let head = parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.body, head.keep_alive), (BodyDecoder::UntilClose, false));
        let head = parse("HTTP/1.0 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.body, head.keep_alive), (BodyDecoder::Done, false));
        assert!(parse("HTTP/1.1 200 OK\r\nContent-").unwrap().is_none());
    }

    #[test]
    fn mends_what_a_gateway_has_to() {
        let text = "HTTP/1.1 200 OK\r\nX-A: one\r\n \t two\r\nX-B : b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = parse(text).unwrap().unwrap();
        let fields: Vec<_> = head.headers().collect();
        assert_eq!(fields, [(&b"X-A"[..], &b"one two"[..]), (b"X-B", b"b"), (b"Transfer-Encoding", b"chunked")]);
        assert_eq!((head.length, head.keep_alive), (None, false));
        assert!(matches!(head.body, BodyDecoder::Chunked(_)));
    }

    #[test]
    fn refuses_ambiguous_answers() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: -5",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            assert!(parse(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).is_err(), "{fields}");
        }
        assert!(parse("nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn heads_have_bounds() {
        let limits = AnswerLimits { head: 1000, fields: 3, interim: 1 };
        let take = |text: &str| take(&mut BytesMut::from(text), &Method::GET, &limits).map(|head| head.is_some());
        let fields = |count| format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(count));
        assert_eq!(take(&format!("{}\r\n", fields(3))), Ok(true));
        assert_eq!(take(&format!("{}\r\n", fields(4))), Err(BadAnswer::TooLarge));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(900));
        assert_eq!(take(&long), Ok(false));
        assert_eq!(take(&format!("{long}{long}")), Err(BadAnswer::TooLarge));
        assert_eq!(take(&format!("{long}{}\r\n\r\n", "a".repeat(900))), Err(BadAnswer::TooLarge));
        assert_eq!(take("nonsense"), Err(BadAnswer::Malformed));
    }
}
