//! Header fields and metadata: what of a request's fields a call takes along, and what of a call's metadata is told.
//!
//! Fields go as they are, by their names, as far as they would go to any service. What is about the message as it was (its type, its
//! length, its coding, conditions) does not, nor does anything whose name is gRPC's own, nor what metadata cannot hold.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use smallvec::SmallVec;

use super::super::Call;
use super::super::h2;
use crate::exchange::{Deadline, Exchange};
use crate::grpc::{Dialect, GRPC_STATUS, metadata};
use crate::head::{AnswerLimits, BodyFraming, Field, HeaderEdit, HeaderEdits, RequestHead};
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
    call.to_upstream = edits(call.to_upstream);
    let told = |deadline: Deadline| {
        let at = if endless { deadline.asked? } else { deadline.at };
        Some(Deadline { at, grpc: true, asked: deadline.asked })
    };
    call.deadline = exchange.deadline.and_then(told);
    call
}

fn edits(policies: HeaderEdits) -> HeaderEdits {
    let told = |edit: HeaderEdit| {
        let name = edit.name().as_str().as_bytes();
        match &edit {
            _ if is_about_the_message(name) => None,
            HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) if fits(name, value.as_bytes()) => Some(edit),
            // The client's own field of that name must not stand in its place.
            HeaderEdit::Set(name, _) => Some(HeaderEdit::Remove(name.clone())),
            HeaderEdit::Add(..) => None,
            HeaderEdit::Remove(_) => Some(edit),
        }
    };
    let mut edits: HeaderEdits = policies.into_iter().filter_map(told).collect();
    edits.push(HeaderEdit::Set(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
    edits.push(HeaderEdit::Set(header::TE, HeaderValue::from_static("trailers")));
    edits.push(HeaderEdit::Set(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    edits
}

/// Whether a field can be metadata: printable ASCII, or base64 behind a name that says so.
fn goes(name: &[u8], value: &[u8]) -> bool {
    fits(name, value) && !is_about_the_message(name)
}

fn fits(name: &[u8], value: &[u8]) -> bool {
    metadata::fits(name, value) && value.iter().all(|byte| matches!(byte, 0x20..=0x7e))
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

/// What came with a call's answer beside its messages: before them, and behind them.
#[derive(Debug, Clone)]
pub struct Metadata {
    buffer: Bytes,
    before: SmallVec<[Field; 16]>,
    behind: HeaderMap,
}

impl Metadata {
    pub fn of(head: &AnswerHead) -> Metadata {
        Metadata { buffer: head.buffer.clone(), before: head.fields.clone(), behind: HeaderMap::new() }
    }

    /// What came behind the messages is told with the rest, for it is known before anything is told.
    pub fn add(&mut self, trailers: HeaderMap) {
        self.behind = trailers;
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let before = self.before.iter().map(|field| (field.name.of(&self.buffer), field.value.of(&self.buffer)));
        before.chain(h2::of_map(&self.behind))
    }

    /// All of it, whoever it is about.
    pub fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(self.before.len() + self.behind.len());
        for (name, value) in self.all() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                // Only an absurd number of fields could be too many.
                let _ = fields.try_append(name, value);
            }
        }
        fields
    }

    /// Leaves out what metadata cannot hold.
    pub fn fitting(mut self) -> Metadata {
        let buffer = &self.buffer;
        self.before.retain(|field| fits(field.name.of(buffer), field.value.of(buffer)));
        self
    }

    /// The fields of an answer of this media type. `raw`: its body is as the service has made it.
    pub fn into_fields(self, kind: HeaderValue, raw: bool) -> HeaderMap {
        let mut fields = self.fields();
        remove(&mut fields, |name| !is_told(name.as_str().as_bytes(), raw));
        fields.insert(header::CONTENT_TYPE, kind);
        fields
    }

    /// The head of an answer with a body of this media type and length, which does not come if it is at its `end` with its head.
    pub fn head(
        &self,
        (kind, raw): (&[u8], bool),
        length: usize,
        end: bool,
        limits: &AnswerLimits,
    ) -> Result<Box<AnswerHead>, BadAnswer> {
        let mut digits = itoa::Buffer::new();
        let about: [(&[u8], &[u8]); 2] = [(b"content-type", kind), (b"content-length", digits.format(length).as_bytes())];
        let all = || self.all().filter(|(name, _)| is_told(name, raw)).chain(about);
        h2::assembled(StatusCode::OK, all, end, limits)
    }
}

/// Whether a client is told this field of a call's.
fn is_told(name: &[u8], raw: bool) -> bool {
    let coding = raw && matches!(name, b"content-encoding" | b"content-language" | b"content-disposition");
    !is_own(name) || coding
}

/// Leaves of what came behind a stream what clients are told: how the call ended, and metadata.
pub fn filter_trailers(fields: &mut HeaderMap) {
    remove(fields, |name| is_own(name.as_str().as_bytes()) && *name != GRPC_STATUS);
}

/// Whether a field is HTTP's or gRPC's own, and no metadata.
pub fn is_own(name: &[u8]) -> bool {
    is_hop_by_hop(name) || begins(name, b"grpc-") || begins(name, b"content-")
}

pub fn remove(fields: &mut HeaderMap, own: impl Fn(&HeaderName) -> bool) {
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
        let edits = edits(policies);
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
