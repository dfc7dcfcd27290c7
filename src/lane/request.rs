//! The writing of a request to an HTTP/1.1 backend, straight from the client's head.

use http::Version;

use crate::downstream::passes;
use crate::head::{BodyFraming, Edited, HeaderEdits, RequestHead};
use crate::wire::encode::field;

/// How the request's body is framed towards the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentFraming {
    None,
    /// As announced by the client, or as counted in memory.
    Length,
    Chunked,
}

/// What the request's head is made of.
pub struct Parts<'a> {
    pub head: &'a RequestHead,
    pub target: Option<&'a str>,
    pub host: Option<&'a str>,
    pub edits: &'a HeaderEdits,
    /// The client is a trusted proxy.
    pub trusted: bool,
    /// The length of a body that is whole in memory.
    pub buffered: Option<usize>,
    /// There is no body, whatever the framing says (an HTTP/2 stream that ended with its head).
    pub empty: bool,
}

/// Appends the head.
pub fn write(out: &mut Vec<u8>, parts: &Parts<'_>) -> SentFraming {
    let head = parts.head;
    out.reserve(head.buffer.len() + 512);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    match (parts.target, head.query()) {
        (Some(target), _) => out.extend_from_slice(target.as_bytes()),
        (None, query) => {
            out.extend_from_slice(head.path.as_bytes());
            if let Some(query) = query {
                out.push(b'?');
                out.extend_from_slice(query.as_bytes());
            }
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(parts.host.map_or_else(|| head.authority(), str::as_bytes));
    out.extend_from_slice(b"\r\n");
    let nominated = crate::downstream::nominated(head);
    let framing = framing(parts);
    let edited = Edited::new(parts.edits);
    for (name, value) in head.headers() {
        let length = name.len() == 14 && name.eq_ignore_ascii_case(b"content-length");
        if length && (framing != SentFraming::Length || parts.buffered.is_some()) && head.body != BodyFraming::None {
            continue;
        }
        if passes(name, &nominated, parts.trusted) && !edited.replaces(name) {
            field(out, name, value);
        }
    }
    for (name, value) in edited.added() {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match (framing, parts.buffered) {
        (SentFraming::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        (SentFraming::Length, Some(length)) => {
            field(out, b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    framing
}

fn framing(parts: &Parts<'_>) -> SentFraming {
    match (parts.head.body, parts.buffered) {
        (BodyFraming::None, _) => SentFraming::None,
        (BodyFraming::Streamed, None) if parts.empty && parts.head.version == Version::HTTP_2 => SentFraming::None,
        (_, Some(_)) | (BodyFraming::Length(_), None) => SentFraming::Length,
        (BodyFraming::Streamed, None) => SentFraming::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::HeaderEdit;
    use http::{HeaderName, HeaderValue};

    fn written(head: &RequestHead, edits: &HeaderEdits) -> String {
        let mut out = Vec::new();
        write(&mut out, &Parts { head, target: None, host: None, edits, trusted: false, buffered: None, empty: false });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn applies_edits_as_the_other_road_does() {
        let head = RequestHead::build("GET", "/a?b", &[("Host", "h"), ("X-A", "1"), ("X-B", "2"), ("Connection", "x-b")]);
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut edits = HeaderEdits::new();
        edits.push(HeaderEdit::Add(name("x-a"), value("lost")));
        edits.push(HeaderEdit::Set(name("x-a"), value("3")));
        edits.push(HeaderEdit::Add(name("x-a"), value("4")));
        edits.push(HeaderEdit::Set(name("x-c"), value("5")));
        edits.push(HeaderEdit::Remove(name("x-c")));
        assert_eq!(written(&head, &edits), "GET /a?b HTTP/1.1\r\nHost: h\r\nx-a: 3\r\nx-a: 4\r\n\r\n");
    }

    #[test]
    fn frames_a_streamed_body_in_chunks() {
        let mut head = RequestHead::build("POST", "/", &[("Host", "h"), ("Transfer-Encoding", "chunked")]);
        head.body = BodyFraming::Streamed;
        let text = written(&head, &HeaderEdits::new());
        assert_eq!(text.matches("chunked").count(), 1, "{text}");
    }
}
