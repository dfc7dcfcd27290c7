//! Which answers have no end of their own, and are never held back.

use http::header;
use pingora_http::ResponseHeader;

use crate::head::{HeaderEdit, HeaderEdits};
use crate::wire::answer::AnswerHead;
use crate::wire::streams::is_stream;

/// Upgrades and streams end when their parties say so.
pub fn is_endless(answer: &ResponseHeader) -> bool {
    let kind = answer.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    answer.status == http::StatusCode::SWITCHING_PROTOCOLS || is_stream(kind)
}

/// Whether a backend's answer says that it is a stream, or the last policy that has a say in that.
pub(super) fn streams(answer: &AnswerHead, edits: &HeaderEdits) -> bool {
    match edits.iter().rev().find(|edit| *edit.name() == header::CONTENT_TYPE) {
        None => answer.header_all("content-type").any(is_stream),
        Some(HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value)) => is_stream(value.as_bytes()),
        Some(HeaderEdit::Remove(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::Method;

    use super::*;

    #[test]
    fn whether_an_answer_streams_is_for_the_last_policy_to_say() {
        let answer = |kind: &str| {
            let raw = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n");
            crate::wire::answer::take(&mut BytesMut::from(raw.as_bytes()), &Method::GET, &Default::default()).unwrap().unwrap()
        };
        let set = |kind| HeaderEdit::Set(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        let (events, plain) = (answer("text/event-stream; charset=utf-8"), answer("text/plain"));
        assert!(streams(&events, &HeaderEdits::new()) && !streams(&plain, &HeaderEdits::new()));
        assert!(streams(&plain, &vec![set("text/plain"), set("application/grpc")]));
        assert!(!streams(&events, &vec![set("text/html")]));
        assert!(!streams(&events, &vec![HeaderEdit::Remove(header::CONTENT_TYPE)]));
    }
}
