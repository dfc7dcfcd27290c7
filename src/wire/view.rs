//! An answer's head to look at, whichever kind of head holds it: the wire's own, a stored one, or a header map.

use http::{HeaderMap, StatusCode};
use pingora_http::ResponseHeader;

use super::answer::AnswerHead;
use crate::head::Field;

/// A status, and fields.
#[derive(Clone, Copy)]
pub struct AnswerView<'a> {
    pub status: StatusCode,
    fields: Fields<'a>,
}

#[derive(Clone, Copy)]
enum Fields<'a> {
    /// As they came: ranges into a buffer.
    Spans(&'a [u8], &'a [Field]),
    Map(&'a HeaderMap),
}

impl<'a> From<&'a AnswerHead> for AnswerView<'a> {
    fn from(head: &'a AnswerHead) -> Self {
        AnswerView { status: head.status, fields: Fields::Spans(&head.buffer, &head.fields) }
    }
}

impl<'a> From<&'a ResponseHeader> for AnswerView<'a> {
    fn from(head: &'a ResponseHeader) -> Self {
        AnswerView { status: head.status, fields: Fields::Map(&head.headers) }
    }
}

impl<'a> AnswerView<'a> {
    /// The values of every field of that name, in order. `name` is lower case.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let (buffer, spans, map): (&[u8], &[Field], _) = match self.fields {
            Fields::Spans(buffer, spans) => (buffer, spans, None),
            Fields::Map(map) => (&[], &[], Some(map)),
        };
        let spans = spans.iter().filter(move |field| field.is_named(name, buffer)).map(move |field| field.value.of(buffer));
        let map = map.into_iter().flat_map(move |map| map.get_all(name)).map(|value| value.as_bytes());
        spans.chain(map)
    }

    /// The value of the first field of that name. `name` is lower case.
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::Method;

    use super::*;

    #[test]
    fn both_kinds_of_heads_look_the_same() {
        let raw = b"HTTP/1.1 404 No\r\nX-A: 1\r\nVary: Accept\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n";
        let head = super::super::answer::take(&mut BytesMut::from(&raw[..]), &Method::GET, &Default::default()).unwrap().unwrap();
        let map = head.to_header().unwrap();
        for view in [AnswerView::from(&*head), AnswerView::from(&map)] {
            assert_eq!(view.status, StatusCode::NOT_FOUND);
            assert_eq!(view.all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
            assert_eq!((view.first("vary"), view.first("etag")), (Some(&b"Accept"[..]), None));
        }
    }
}
