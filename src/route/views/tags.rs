//! Tags of answers (RFC 9110, section 8.8.3), marked with their view: two services may both say `"1"` of different things under one URL.
//!
//! A client brings back what it was given. What another view gave says nothing here, and is not passed on, but where it is a condition on a
//! change: that one then fails, as it should.

use http::{HeaderValue, Method, header};

use crate::exchange::Exchange;
use crate::head::{HeaderEdit, RequestHead};

/// What comes between a tag and the name of its view.
const MARK: &str = "~";

/// The mark of one view.
#[derive(Clone)]
pub struct Tags {
    /// `~mobile"`, as tags then end.
    end: Box<str>,
}

impl Tags {
    pub fn new(view: &str) -> Tags {
        Tags { end: format!("{MARK}{view}\"").into() }
    }

    /// A tag as the client knows it.
    pub fn marked(&self, tag: &[u8]) -> Option<HeaderValue> {
        let bare = tag.trim_ascii().strip_suffix(b"\"").filter(|bare| bare.starts_with(b"\"") || bare.starts_with(b"W/\""))?;
        HeaderValue::from_bytes(&[bare, self.end.as_bytes()].concat()).ok()
    }

    /// A tag as the service knows it, if it is of this view.
    fn bare(&self, tag: &[u8]) -> Option<Vec<u8>> {
        let bare = tag.strip_suffix(self.end.as_bytes()).filter(|bare| bare.starts_with(b"\"") || bare.starts_with(b"W/\""))?;
        Some([bare, b"\""].concat())
    }

    /// Has the service see the tags that it gave.
    pub fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) {
        let edits = &mut exchange.to_upstream;
        for (name, foreign_too) in [(header::IF_NONE_MATCH, false), (header::IF_MATCH, true)] {
            let mut said = head.header_all(name.as_str()).peekable();
            if said.peek().is_none() {
                continue;
            }
            let tags: Vec<Vec<u8>> = said
                .flat_map(tags)
                .filter_map(|tag| self.bare(tag).or_else(|| (foreign_too || tag == b"*").then(|| tag.to_vec())))
                .collect();
            match HeaderValue::from_bytes(&tags.join(&b", "[..])) {
                Ok(value) if !tags.is_empty() => edits.push(HeaderEdit::Set(name, value)),
                _ => {
                    // A date beside tags says nothing (RFC 9110, section 13.1.3), and must not begin to: it is of the other view's answer.
                    let date = (name == header::IF_NONE_MATCH).then_some(header::IF_MODIFIED_SINCE);
                    edits.extend([name].into_iter().chain(date).map(HeaderEdit::Remove));
                }
            }
        }
        if head.method == Method::GET
            && let Some(said) = head.header("if-range")
        {
            match self.bare(said.trim_ascii()).and_then(|tag| HeaderValue::from_bytes(&tag).ok()) {
                Some(tag) => edits.push(HeaderEdit::Set(header::IF_RANGE, tag)),
                // The client has a part of something else.
                None => edits.extend([header::IF_RANGE, header::RANGE].map(HeaderEdit::Remove)),
            }
        }
    }
}

/// The tags in one field; one has any letter in it but a quotation mark, commas too (RFC 9110, section 8.8.3).
fn tags(field: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut quoted, mut from) = (Vec::new(), false, 0);
    for (at, byte) in field.iter().chain(b",").enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted || at == field.len() => {
                all.extend(field.get(from..at).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()));
                from = at + 1;
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_go_out_marked_and_come_back_bare() {
        let of_tv = Tags::new("tv");
        for tag in ["\"1\"", "W/\"a,b\"", "\"\"", "\"~tv\""] {
            let marked = of_tv.marked(tag.as_bytes()).unwrap();
            assert!(marked.to_str().unwrap().ends_with("~tv\""), "{marked:?}");
            assert_eq!(of_tv.bare(marked.as_bytes()).unwrap(), tag.as_bytes());
            assert_eq!(Tags::new("web").bare(marked.as_bytes()), None);
        }
        assert_eq!((of_tv.marked(b"nonsense"), of_tv.bare(b"~tv\""), of_tv.bare(b"*")), (None, None, None));
    }

    #[test]
    fn what_another_view_gave_says_nothing_but_where_it_is_a_condition_on_a_change() {
        let seen = |name: &'static str, said: &str| {
            let head = RequestHead::build("GET", "/", &[(name, said)]);
            let mut exchange = Exchange::for_tests();
            Tags::new("tv").on_request(&head, &mut exchange);
            let edits = exchange.to_upstream.iter().map(|edit| match edit {
                HeaderEdit::Set(name, value) => format!("{name}: {}", value.to_str().unwrap()),
                HeaderEdit::Remove(name) => format!("-{name}"),
                HeaderEdit::Add(..) => unreachable!(),
            });
            edits.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(seen("If-None-Match", "\"1~tv\", W/\"2,3~tv\", \"4~web\", \"5\""), "if-none-match: \"1\", W/\"2,3\"");
        assert_eq!(seen("If-None-Match", "\"4~web\""), "-if-none-match; -if-modified-since");
        assert_eq!(seen("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"), "");
        assert_eq!(seen("If-None-Match", "*"), "if-none-match: *");
        assert_eq!(seen("If-Match", "\"1~tv\", \"4~web\""), "if-match: \"1\", \"4~web\"");
        assert_eq!(seen("If-Range", "\"1~tv\""), "if-range: \"1\"");
        assert_eq!(seen("If-Range", "\"1~web\""), "-if-range; -range");
        assert_eq!(seen("Accept", "\"1\""), "");
    }
}
