//! What HTTP/2 needs beside its library: the options of a connection, and the heads of a backend's answers.

use h2::server::Builder;
use http::header::VIA;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;

use super::answer::AnswerHead;
use super::encode::{end_to_end, passing, stays};
use crate::exchange::{RequestId, X_REQUEST_ID};
use crate::head::{Edited, HeaderEdits};

/// Streams at once on one connection. More wait for a free one at the client (RFC 9113, section 5.1.2).
pub const MAX_STREAMS: u32 = 128;

/// What one connection may take up at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub streams: u32,
    /// Bytes of bodies that nobody has read yet.
    pub window: u32,
    /// What the library may keep of small frames that nobody has read yet: each costs it some 256 bytes beside its payload, which windows do
    /// not count. Beyond this it ends the connection, with all that goes on there. A client that keeps to its windows seldom comes to that
    /// for its messages being short: whoever waits for something else takes them in meanwhile. It has to do for what comes in one turn
    /// ([`Turn`](super::turn::Turn)), and where nobody takes it in (a policy asks somebody else, a connection is made): a whole window of
    /// messages of some fifty bytes costs four times its bytes.
    pub frames: u32,
}

/// Every connection has this much, however many there are.
const LEAST: Room = Room { streams: 8, window: 64 * 1024, frames: 1280 * 1024 };
const MOST: Room = Room { streams: MAX_STREAMS, window: 1024 * 1024, frames: 4 * 1024 * 1024 };

impl Room {
    /// For one of so many connections that share so many streams and bytes. The more there are, the less each is told that it may have: a
    /// client that obeys waits instead of being refused.
    pub fn of(connections: usize, streams: usize, bytes: usize) -> Room {
        let each = |of: usize| u32::try_from(of / connections.max(1)).unwrap_or(u32::MAX);
        let window = each(bytes).clamp(LEAST.window, MOST.window);
        Room {
            streams: each(streams).clamp(LEAST.streams, MOST.streams),
            window,
            frames: (4 * window).clamp(LEAST.frames, MOST.frames),
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        MOST
    }
}

/// Bounded options for a downstream connection: `head` is the bound of a request head in bytes, `room` what is left for
/// the connection of what its address may have.
pub fn options(head: usize, room: Room) -> Builder {
    let mut options = Builder::new();
    options
        .max_concurrent_streams(room.streams)
        // For WebSockets (RFC 8441).
        .enable_connect_protocol()
        // The library answers what is larger on its own, without a word to anybody. Up to here the gateway does, and logs it.
        .max_header_list_size(u32::try_from(head.saturating_mul(2)).unwrap_or(u32::MAX))
        // One stream may fill a quarter of the connection's window, so that a slow upload does not stop its neighbours.
        .initial_window_size(256 * 1024)
        .initial_connection_window_size(room.window)
        .data_frame_budget(room.frames as usize)
        // Counted in payload; `SmallFrames` bounds what small ones cost beside it.
        .max_send_buffer_size(64 * 1024)
        // Rapid reset (CVE-2023-44487): streams that were reset but not yet accepted are bounded too.
        .max_pending_accept_reset_streams(32)
        .max_concurrent_reset_streams(32);
    options
}

/// The head of a backend's answer as it goes to the client: without what belongs to the backend's connection, and with the gateway's own
/// changes. Values are not copied.
///
/// # Errors
/// A field that HTTP/2 cannot carry.
pub fn answer(
    answer: &AnswerHead,
    request_id: &RequestId,
    edits: &HeaderEdits,
    via: Option<&HeaderValue>,
) -> Result<ResponseHeader> {
    const UNFIT: ErrorType = ErrorType::InvalidHTTPHeader;
    let mut fields = HeaderMap::with_capacity(answer.fields.len() + edits.len() + 3);
    let edited = Edited::new(edits);
    for field in passing(answer) {
        let name = field.name.of(&answer.buffer);
        if !stays(name, &edited) {
            continue;
        }
        let name = HeaderName::from_bytes(name).or_err(UNFIT, "a field's name")?;
        let value = answer.buffer.slice(field.value.start as usize..field.value.end as usize);
        fields
            .try_append(name, HeaderValue::from_maybe_shared(value).or_err(UNFIT, "a field's value")?)
            .or_err(UNFIT, "fields")?;
    }
    if !edited.replaces(X_REQUEST_ID.as_str().as_bytes()) {
        let id = HeaderValue::from_bytes(request_id.as_bytes()).or_err(UNFIT, "the request id")?;
        fields.try_append(X_REQUEST_ID, id).or_err(UNFIT, "fields")?;
    }
    if let Some(via) = via.filter(|_| !edited.replaces(b"via")) {
        fields.try_append(VIA, via.clone()).or_err(UNFIT, "fields")?;
    }
    for (name, value) in edited.added() {
        fields.try_append(name.clone(), value.clone()).or_err(UNFIT, "fields")?;
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = answer.status;
    parts.headers = fields;
    Ok(parts.into())
}

/// The fields of an interim answer (1xx) as they go to the client.
///
/// # Errors
/// As for [`answer`].
pub fn interim(answer: &AnswerHead) -> Result<HeaderMap> {
    const UNFIT: ErrorType = ErrorType::InvalidHTTPHeader;
    let mut fields = HeaderMap::new();
    for (name, value) in end_to_end(answer).filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length")) {
        let name = HeaderName::from_bytes(name).or_err(UNFIT, "a field's name")?;
        let value = HeaderValue::from_bytes(value).or_err(UNFIT, "a field's value")?;
        fields.try_append(name, value).or_err(UNFIT, "fields")?;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::Method;

    use super::*;
    use crate::head::HeaderEdit;

    #[test]
    fn the_connections_of_an_address_together_have_less_than_there_is_for_all() {
        assert_eq!(Room::of(1, 2048, 64 << 20), MOST);
        assert_eq!(Room::of(1, 1, 1), LEAST);
        let all: Vec<_> = (1..=1024).map(|connections| Room::of(connections, 2048, 64 << 20)).collect();
        assert!(all.iter().map(|room| room.streams).sum::<u32>() < 16_384, "of `max_in_flight`");
        assert!(all.iter().map(|room| u64::from(room.window)).sum::<u64>() < 384 << 20);
        assert!(all.iter().map(|room| u64::from(room.frames)).sum::<u64>() < 1600 << 20);
        assert!(all.iter().all(|room| room.frames >= 4 * room.window && room.frames >= LEAST.frames));
    }

    #[test]
    fn an_answer_goes_on_without_what_was_its_connections() {
        let raw =
            b"HTTP/1.1 200 OK\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
            X-Old: 1\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n";
        let head = super::super::answer::take(&mut BytesMut::from(&raw[..]), &Method::GET, &Default::default()).unwrap().unwrap();
        let name = HeaderName::from_static;
        let edits = vec![
            HeaderEdit::Remove(name("x-old")),
            HeaderEdit::Set(name("x-new"), HeaderValue::from_static("1")),
            HeaderEdit::Add(name("set-cookie"), HeaderValue::from_static("c")),
        ];
        let answer = answer(&head, &"ours".into(), &edits, None).unwrap();
        let mut fields: Vec<_> = answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        fields.sort_unstable();
        let cookies = ["a", "b", "c"].map(|value| ("set-cookie", value));
        let mut wanted = vec![("content-length", "0"), ("x-new", "1"), ("x-request-id", "ours")];
        wanted.splice(1..1, cookies);
        assert_eq!((answer.status.as_u16(), fields), (200, wanted));
    }

    #[test]
    fn no_content_has_no_length() {
        let raw = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
        let head = super::super::answer::take(&mut BytesMut::from(&raw[..]), &Method::GET, &Default::default()).unwrap().unwrap();
        let answer = answer(&head, &"id".into(), &HeaderEdits::new(), None).unwrap();
        assert_eq!(answer.headers.keys().collect::<Vec<_>>(), ["x-request-id"]);
    }
}
