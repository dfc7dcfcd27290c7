//! Why heads are refused: each reason once.

use http::{HeaderValue, StatusCode, header};

use super::line;
use crate::head::RequestHead;
use crate::reply::Reply;

/// Why a head was refused. Every one of them closes an HTTP/1.1 connection: where the next request begins is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHead {
    pub status: StatusCode,
    pub reason: &'static str,
    pub detail: &'static str,
}

impl BadHead {
    pub(super) const fn new(status: StatusCode, reason: &'static str, detail: &'static str) -> Self {
        BadHead { status, reason, detail }
    }

    pub fn reply(self) -> Box<Reply> {
        let reply = Reply::new(self.status, "door", self.reason, self.detail).closing();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // Which of them a path takes, its route says; these are refused before one is looked for.
            return reply.header(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        reply
    }
}

/// A head that was refused, and what could be read of it, for its log line.
#[derive(Debug)]
pub struct Refused {
    pub bad: BadHead,
    pub head: RequestHead,
}

impl Refused {
    pub fn new(bad: BadHead, bytes: &[u8]) -> Box<Self> {
        Box::new(Refused { bad, head: line::glimpse(bytes) })
    }
}

pub(super) const fn bad(reason: &'static str, detail: &'static str) -> BadHead {
    BadHead::new(StatusCode::BAD_REQUEST, reason, detail)
}

pub const TARGET_TOO_LONG: BadHead =
    BadHead::new(StatusCode::URI_TOO_LONG, "uri_too_long", "The request target is longer than this gateway accepts.");
pub const HEAD_TOO_LARGE: BadHead = BadHead::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "The request head is larger than this gateway accepts.",
);
pub(super) const TOO_MANY_FIELDS: BadHead = BadHead::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "too_many_headers",
    "The request has more header fields than this gateway accepts.",
);
pub const BARE_LF: BadHead = bad("bare_line_feed", "Lines end with CR LF.");
pub const MALFORMED_LINE: BadHead = bad("malformed_request_line", "The request line is malformed.");
pub const METHOD_CASE: BadHead = bad("method_case", "Methods are case-sensitive, and none has a lower-case letter.");
pub const TLS_HELLO: BadHead = bad("tls_on_plain_port", "The client began TLS, and this port speaks plain HTTP.");
pub(super) const MALFORMED_FIELD: BadHead = bad("malformed_header", "A header field is malformed.");
pub const BAD_VERSION: BadHead = BadHead::new(
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    "http_version",
    "This connection speaks HTTP/1.1, HTTP/1.0, or HTTP/2 where it was negotiated.",
);
pub(super) const TE_AND_LENGTH: BadHead = bad("ambiguous_framing", "Content-Length and Transfer-Encoding exclude each other.");
pub(super) const BAD_TE: BadHead =
    bad("transfer_encoding", "The only transfer coding understood is a single `chunked`, on HTTP/1.1.");
pub(super) const BAD_LENGTH: BadHead = bad("content_length", "Content-Length is one field with one decimal number.");
pub(super) const BAD_HOST: BadHead = bad("host", "A request names one valid host.");
pub(super) const BAD_TARGET: BadHead = bad("request_target", "The request target is not a valid one for this method.");
pub(super) const NO_CONNECT: BadHead =
    BadHead::new(StatusCode::METHOD_NOT_ALLOWED, "connect", "This gateway is no forward proxy: CONNECT is not allowed.");
pub(super) const CONNECT_PROTOCOL: BadHead =
    BadHead::new(StatusCode::NOT_IMPLEMENTED, "connect_protocol", "CONNECT is taken for the protocol websocket alone.");
/// TRACE shows a client what only the backend should see: what the gateway adds to its request. TRACK is Microsoft's name for it.
pub(super) const NO_TRACE: BadHead =
    BadHead::new(StatusCode::METHOD_NOT_ALLOWED, "trace", "This gateway does not show requests to their senders: no TRACE.");
pub(super) const BAD_EXPECT: BadHead =
    BadHead::new(StatusCode::EXPECTATION_FAILED, "expectation", "The only expectation understood is 100-continue.");
pub(super) const CONNECTION_FIELD: BadHead = bad("connection_header", "HTTP/2 has no connection-specific header fields.");

pub const HTTP_ON_TLS: BadHead =
    bad("http_on_tls_port", "This port speaks TLS, and the request came in clear: ask for https://.");
