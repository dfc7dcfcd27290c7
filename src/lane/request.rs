//! The writing of a request to an HTTP/1.1 backend, straight from the client's head.

use crate::downstream::passes;
use crate::exchange::{Exchange, is_gateways};
use crate::head::{BodyFraming, Edited, RequestHead};
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
    pub exchange: &'a Exchange,
    /// The length of a body that is whole in memory.
    pub buffered: Option<usize>,
    /// There is no body, whatever the framing says (an HTTP/2 stream that ended without one).
    pub empty: bool,
    /// The client waits for the backend's word before it sends its body.
    pub expects: bool,
}

/// Appends the head.
pub fn write(out: &mut Vec<u8>, parts: &Parts<'_>) -> SentFraming {
    let Parts { head, exchange, .. } = *parts;
    out.reserve(head.buffer.len() + 512);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    match (parts.target, head.query_bytes()) {
        (Some(target), _) => out.extend_from_slice(target.as_bytes()),
        (None, query) => {
            out.extend_from_slice(head.path.as_bytes());
            if let Some(query) = query {
                out.push(b'?');
                out.extend_from_slice(query);
            }
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(exchange.upstream_host.as_deref().map_or_else(|| head.authority(), str::as_bytes));
    out.extend_from_slice(b"\r\n");
    let framing = framing(parts);
    let edited = Edited::new(&exchange.to_upstream);
    for (name, value) in head.headers() {
        let length = name.len() == 14 && name.eq_ignore_ascii_case(b"content-length");
        if length && (framing != SentFraming::Length || parts.buffered.is_some()) && head.body != BodyFraming::None {
            continue;
        }
        if passes(name, exchange.trusted_identity) && !is_gateways(name) && !edited.replaces(name) {
            field(out, name, value);
        }
    }
    tell(out, exchange, &edited);
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
    if parts.expects {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Appends what the gateway itself tells the backend, except where a policy has something else to say.
fn tell(out: &mut Vec<u8>, exchange: &Exchange, edited: &Edited<'_>) {
    if let Some(told) = &exchange.told {
        if told.edits.iter().any(|edit| edited.replaces(edit.name().as_str().as_bytes())) {
            for (name, value) in Edited::new(&told.edits).added() {
                if !edited.replaces(name.as_str().as_bytes()) {
                    field(out, name.as_str().as_bytes(), value.as_bytes());
                }
            }
        } else {
            out.extend_from_slice(&told.wire);
        }
    }
    if !edited.replaces(b"traceparent") {
        field(out, b"traceparent", &exchange.traceparent);
    }
    if !edited.replaces(b"x-request-id") {
        field(out, b"x-request-id", exchange.request_id.as_bytes());
    }
}

fn framing(parts: &Parts<'_>) -> SentFraming {
    match (parts.head.body, parts.buffered) {
        (BodyFraming::None, _) => SentFraming::None,
        (BodyFraming::Streamed, None) if parts.empty => SentFraming::None,
        (_, Some(_)) | (BodyFraming::Length(_), None) => SentFraming::Length,
        (BodyFraming::Streamed, None) => SentFraming::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Told;
    use crate::head::{HeaderEdit, HeaderEdits};
    use http::{HeaderName, HeaderValue};

    /// Without the trace.
    fn written(head: &RequestHead, exchange: &Exchange) -> String {
        let mut out = Vec::new();
        write(&mut out, &Parts { head, target: None, exchange, buffered: None, empty: false, expects: false });
        String::from_utf8(out)
            .unwrap()
            .split("\r\n")
            .filter(|line| !line.starts_with("traceparent"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn applies_edits_as_the_other_road_does() {
        let head = RequestHead::build("GET", "/a?b", &[("Host", "h"), ("X-A", "1")]);
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut exchange = Exchange::for_tests();
        let edits = &mut exchange.to_upstream;
        edits.push(HeaderEdit::Add(name("x-a"), value("lost")));
        edits.push(HeaderEdit::Set(name("x-a"), value("3")));
        edits.push(HeaderEdit::Add(name("x-a"), value("4")));
        edits.push(HeaderEdit::Set(name("x-c"), value("5")));
        edits.push(HeaderEdit::Remove(name("x-c")));
        assert_eq!(written(&head, &exchange), "GET /a?b HTTP/1.1\nHost: h\nx-request-id: test-request\nx-a: 3\nx-a: 4\n\n");
    }

    #[test]
    fn a_policy_has_the_last_word_on_what_is_told() {
        let head = RequestHead::build("GET", "/", &[("Host", "h"), ("X-Request-Id", "mine"), ("X-Forwarded-For", "6.6.6.6")]);
        let set = |name, value| HeaderEdit::Set(HeaderName::from_static(name), HeaderValue::from_static(value));
        let edits = HeaderEdits::from_iter([set("x-forwarded-for", "192.0.2.1"), set("x-real-ip", "192.0.2.1")]);
        let mut exchange = Exchange::for_tests();
        exchange.told = Some(std::sync::Arc::new(Told::new(edits)));
        let told = "GET / HTTP/1.1\nHost: h\nx-forwarded-for: 192.0.2.1\nx-real-ip: 192.0.2.1\nx-request-id: test-request\n\n";
        assert_eq!(written(&head, &exchange), told);
        exchange.to_upstream.push(HeaderEdit::Remove(HeaderName::from_static("x-real-ip")));
        exchange.to_upstream.push(set("x-request-id", "theirs"));
        let less = "GET / HTTP/1.1\nHost: h\nx-forwarded-for: 192.0.2.1\nx-request-id: theirs\n\n";
        assert_eq!(written(&head, &exchange), less);
    }

    #[test]
    fn frames_a_streamed_body_in_chunks() {
        let mut head = RequestHead::build("POST", "/", &[("Host", "h"), ("Transfer-Encoding", "chunked")]);
        head.body = BodyFraming::Streamed;
        let text = written(&head, &Exchange::for_tests());
        assert_eq!(text.matches("chunked").count(), 1, "{text}");
    }
}
