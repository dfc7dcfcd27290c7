//! Answers that have no end of their own.

use super::media::LINES;

/// Media types of which an answer ends when its parties say so: events, messages, pictures of a camera; and lines of JSON.
const STREAMS: [&str; 5] =
    ["text/event-stream", "application/grpc", "application/json-seq", "application/stream+json", "multipart/x-mixed-replace"];

/// Whether a `Content-Type` says so.
pub fn is_stream(content_type: &[u8]) -> bool {
    let begins = |kind: &&str| content_type.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind.as_bytes()));
    // The shortest of them has 16 bytes, and the commonest of others has fewer.
    content_type.len() >= 16 && (STREAMS.iter().any(begins) || LINES.iter().any(begins))
}
