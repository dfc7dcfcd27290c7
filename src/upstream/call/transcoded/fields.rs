//! Header fields and metadata: what of a request's fields a call takes along, and what of a call's metadata is told.
//!
//! Fields go as they are, by their names, as far as they would go to any service. What is about the message as it was (its type, its
//! length, its coding, conditions) does not, nor does anything whose name is gRPC's own, nor what metadata cannot hold.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, response};

use super::super::Call;
use super::super::h2;
use crate::exchange::{Deadline, Exchange};
use crate::grpc::{Dialect, GRPC_STATUS, metadata};
use crate::head::{AnswerLimits, BodyFraming, HeaderEdit, HeaderEdits, RequestHead};
use crate::wire::answer::{AnswerHead, BadAnswer};
use crate::wire::encode::is_hop_by_hop;

const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The head of the call.
///
/// `length`: of its body, where it is known.
pub fn request(call: &Call<'_>, method: &str, length: Option<usize>) -> RequestHead {
    let mut head = call.head.clone();
    let RequestHead { fields, buffer, .. } = &mut head;
    fields.retain(|field| goes(field.name.of(buffer), field.value.of(buffer)));
    method.clone_into(&mut head.path);
    (head.method, head.version) = (Method::POST, Version::HTTP_2);
    (head.query, head.spelling) = (None, None);
    head.body = length.map_or(BodyFraming::Streamed, |length| BodyFraming::Length(length as u64));
    (head.expects_continue, head.upgrade) = (false, false);
    head
}

/// What the service is told beside the head.
///
/// `endless`: the answer is a stream that may outlive the time that the gateway gives the request, and the service would end it there.
pub fn exchange(exchange: &Exchange, endless: bool) -> Exchange {
    let mut call = exchange.retold();
    call.to_upstream = edits(&exchange.to_upstream);
    let told = |deadline: Deadline| {
        let at = if endless { deadline.asked? } else { deadline.at };
        Some(Deadline { at, grpc: true, asked: deadline.asked })
    };
    call.deadline = exchange.deadline.and_then(told);
    call
}

fn edits(policies: &HeaderEdits) -> HeaderEdits {
    let told = |edit: &HeaderEdit| {
        let name = edit.name();
        if is_about_the_message(name.as_str().as_bytes()) {
            return None;
        }
        match edit {
            HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) if goes(name.as_str().as_bytes(), value.as_bytes()) => {
                Some(edit.clone())
            }
            // The client's own field of that name must not stand in its place.
            HeaderEdit::Set(..) => Some(HeaderEdit::Remove(name.clone())),
            HeaderEdit::Add(..) => None,
            HeaderEdit::Remove(_) => Some(edit.clone()),
        }
    };
    let mut edits: HeaderEdits = policies.iter().filter_map(told).collect();
    edits.push(HeaderEdit::Set(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
    edits.push(HeaderEdit::Set(header::TE, HeaderValue::from_static("trailers")));
    edits.push(HeaderEdit::Set(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    edits
}

/// Whether a field can be metadata: printable ASCII, or base64 behind a name that says so.
fn goes(name: &[u8], value: &[u8]) -> bool {
    metadata::fits(name, value) && value.iter().all(|byte| matches!(byte, 0x20..=0x7e)) && !is_about_the_message(name)
}

pub fn begins(name: &[u8], start: &[u8]) -> bool {
    name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// About the request as HTTP has it, or gRPC's own.
pub fn is_about_the_message(name: &[u8]) -> bool {
    const ABOUT: [&str; 10] = [
        "accept",
        "accept-charset",
        "accept-encoding",
        "range",
        "te",
        "trailer",
        "expect",
        "cache-control",
        "pragma",
        "priority",
    ];
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    begins(name, b"content-")
        || begins(name, b"if-")
        || begins(name, b"grpc-")
        || begins(name, b"sec-websocket-")
        || ABOUT.iter().any(is)
}

pub fn is_grpc(head: &AnswerHead) -> bool {
    head.header_all("content-type").next().is_some_and(|kind| Dialect::of(kind) == Dialect::Grpc)
}

pub fn first<'a>(head: &'a AnswerHead, name: &'a str) -> Option<&'a [u8]> {
    head.header_all(name).next()
}

/// See [`h2::head_of`].
pub fn head_of(parts: &response::Parts, end: bool, limits: &AnswerLimits) -> Result<Box<AnswerHead>, BadAnswer> {
    h2::head_of(parts, end, &Method::GET, limits)
}

/// What came with a call's answer beside its messages: before them, and behind them.
#[derive(Debug, Clone)]
pub struct Metadata(HeaderMap);

impl Metadata {
    pub fn of(head: &AnswerHead) -> Metadata {
        let mut fields = HeaderMap::with_capacity(head.fields.len() + 4);
        for (name, value) in head.headers() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                fields.append(name, value);
            }
        }
        Metadata(fields)
    }

    /// What came behind the messages is told with the rest, for it is known before anything is told.
    pub fn add(&mut self, trailers: &HeaderMap) {
        for (name, value) in trailers {
            // Only an absurd number of fields could be too many.
            let _ = self.0.try_append(name.clone(), value.clone());
        }
    }

    pub fn fields(&self) -> &HeaderMap {
        &self.0
    }

    /// The fields of an answer of this media type. `raw`: its body is as the service has made it.
    pub fn into_fields(self, kind: HeaderValue, raw: bool) -> HeaderMap {
        let mut fields = self.0;
        let own = |name: &HeaderName| {
            let name = name.as_str().as_bytes();
            let coding = raw && (name == b"content-encoding" || name == b"content-language" || name == b"content-disposition");
            is_own(name) && !coding
        };
        remove(&mut fields, own);
        fields.insert(header::CONTENT_TYPE, kind);
        fields
    }
}

/// Leaves of what came behind a stream what clients are told: how the call ended, and metadata.
pub fn filter_trailers(fields: &mut HeaderMap) {
    remove(fields, |name| is_own(name.as_str().as_bytes()) && *name != GRPC_STATUS);
}

/// Whether a field is HTTP's or gRPC's own, and no metadata.
pub fn is_own(name: &[u8]) -> bool {
    is_hop_by_hop(name) || begins(name, b"grpc-") || begins(name, b"content-")
}

fn remove(fields: &mut HeaderMap, own: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = fields.keys().filter(|name| own(name)).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metadata_cannot_hold_still_replaces_the_clients() {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let (user, blob, many) =
            (HeaderName::from_static("x-user"), HeaderName::from_static("x-blob-bin"), HeaderName::from_static("x-many"));
        let policies: HeaderEdits = [
            HeaderEdit::Set(user.clone(), value("Zo\u{eb}")),
            HeaderEdit::Set(blob.clone(), value("a_b")),
            HeaderEdit::Add(many.clone(), value("Zo\u{eb}")),
            HeaderEdit::Set(header::ACCEPT, value("text/html")),
        ]
        .into_iter()
        .collect();
        let edits = edits(&policies);
        let edited = crate::head::Edited::new(&edits);
        for (name, replaced) in [("x-user", true), ("X-User", true), ("x-blob-bin", true), ("x-many", false)] {
            assert_eq!(edited.replaces(name.as_bytes()), replaced, "{name}");
        }
        assert!(edited.added().all(|(name, _)| *name != user && *name != blob && *name != many && *name != header::ACCEPT));
    }

    #[test]
    fn a_stream_without_end_is_told_the_callers_deadline_alone() {
        let now = std::time::Instant::now();
        let (soon, late) = (now + std::time::Duration::from_secs(1), now + std::time::Duration::from_secs(9));
        let mut told = Exchange::for_tests();
        for (asked, endless, at, is_callers) in [
            (None, false, Some(soon), false),
            (None, true, None, false),
            (Some(late), false, Some(soon), false),
            (Some(late), true, Some(late), true),
            (Some(soon), false, Some(soon), true),
        ] {
            told.deadline = Some(Deadline { at: soon, grpc: false, asked });
            let deadline = exchange(&told, endless).deadline;
            assert_eq!(deadline.map(|deadline| deadline.at), at, "{asked:?} {endless}");
            assert_eq!(deadline.is_some_and(Deadline::is_callers), is_callers, "{asked:?} {endless}");
        }
    }

    #[test]
    fn what_is_about_the_message_stays() {
        for (name, value, goes_on) in [
            ("authorization", "Bearer x", true),
            ("x-Request-Id", "1", true),
            ("accept-language", "de", true),
            ("Content-Type", "application/json", false),
            ("grpc-timeout", "1H", false),
            ("GRPC-Status", "0", false),
            ("If-None-Match", "*", false),
            ("cache-control", "no-cache", false),
            ("x-blob-bin", "AAH/", true),
            ("x-blob-bin", "not base64!", false),
            ("x-blob-bin", "zzz", false),
            ("x!a", "1", false),
            ("x-name", "caf\u{e9}", false),
        ] {
            assert_eq!(goes(name.as_bytes(), value.as_bytes()), goes_on, "{name}: {value}");
        }
    }
}
