//! The answers that the gateway makes itself: every refusal and every error, as `application/problem+json` (RFC 9457), or as the
//! status of a gRPC call, or as Connect's error.

mod connect;
mod page;

use std::borrow::Cow;
use std::ops::ControlFlow;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use smallvec::SmallVec;

use crate::grpc::{self, Dialect, GRPC_MESSAGE, GRPC_RETRY_PUSHBACK, GRPC_STATUS};
use crate::plain::all_plain;
pub use connect::{Detail, connect_error};
pub use page::Page;

/// Ok to go on, or the answer that ends the request here. Works with `?`.
pub type Flow = ControlFlow<Box<Reply>>;

/// An answer of the gateway's own.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    /// Who answered: a policy's name, or `door`, `route`, `upstream`.
    pub policy: &'static str,
    /// Why, as a stable word for logs and metrics: `token_expired`, `no_route`. Never anything that the client sent.
    pub reason: &'static str,
    /// Why, as a sentence for the client. Holds no secret and nothing of the client's unescaped.
    pub detail: Cow<'static, str>,
    /// `WWW-Authenticate`, `Retry-After`, `Allow` and the like.
    pub headers: SmallVec<[(HeaderName, HeaderValue); 2]>,
    /// The connection cannot be used again: its framing is in doubt.
    pub close: bool,
    /// The service is at fault, whoever noticed.
    pub of_service: bool,
    /// More members of the problem document, each with its comma before it: `,"errors":[...]`.
    pub members: Option<Box<str>>,
    /// Which rule, limit, scope ... decided, in the configuration's words: for the log, never for the client.
    pub decided_by: Option<Box<str>>,
}

/// How a client wants to be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wording<'a> {
    pub dialect: Dialect,
    /// In place of a problem document.
    pub page: Option<&'a Page>,
}

/// A [`Reply`] in the words of the client that it goes to.
pub struct Worded<'a> {
    pub status: StatusCode,
    pub media_type: &'a str,
    pub body: Vec<u8>,
    /// What is said beside [`Reply::headers`].
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    pub fn new(
        status: StatusCode,
        policy: &'static str,
        reason: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Box<Self> {
        Box::write(
            Box::new_uninit(),
            Reply {
                status,
                policy,
                reason,
                detail: detail.into(),
                headers: SmallVec::new(),
                close: false,
                of_service: false,
                members: None,
                decided_by: None,
            },
        )
    }

    pub fn header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.push((name, value));
        self
    }

    /// `Retry-After` in whole seconds, at least 1 (RFC 9110, section 10.2.3).
    pub fn retry_after(self: Box<Self>, after: std::time::Duration) -> Box<Self> {
        self.header(header::RETRY_AFTER, in_seconds(after))
    }

    /// Names what decided, for the log.
    pub fn decided_by(mut self: Box<Self>, what: impl Into<Box<str>>) -> Box<Self> {
        self.decided_by = Some(what.into());
        self
    }

    pub fn of_service(mut self: Box<Self>) -> Box<Self> {
        self.of_service = true;
        self
    }

    pub fn closing(mut self: Box<Self>) -> Box<Self> {
        self.close = true;
        self
    }

    /// 400, for a path that a backend may take for one that other rules are about.
    pub fn ambiguous_path() -> Box<Self> {
        let detail = "The path can be read in more than one way: write it without encoded slashes or backslashes, path parameters, \
                      empty segments and double encoding.";
        Reply::new(StatusCode::BAD_REQUEST, "route", "ambiguous_path", detail)
    }

    /// Ends the request with this answer.
    pub fn refuse(self: Box<Self>) -> Flow {
        Flow::Break(self)
    }

    /// The answer as a client of this dialect understands it: gRPC has 200 for every call, and its status in a head that is all there is
    /// ("Trailers-Only").
    pub fn worded<'a>(&self, wording: Wording<'a>, request_id: &str) -> Worded<'a> {
        let Wording { dialect, page } = wording;
        if dialect.is_grpc() {
            return self.worded_as_grpc(dialect);
        }
        if dialect == Dialect::Connect && self.status.as_u16() >= 400 {
            // The status says the same to all who are in between.
            let body = connect_error(grpc::status(self.status), &self.said(), &[]);
            return Worded { status: self.status, media_type: dialect.media_type(), body, fields: Vec::new() };
        }
        let (media_type, body) = match page {
            Some(page) => (page.media_type(), page.filled(self, request_id)),
            None => (Dialect::Plain.media_type(), self.body(request_id)),
        };
        Worded { status: self.status, media_type, body, fields: Vec::new() }
    }

    /// The same as the end of a call that was answered already.
    pub fn trailers(&self) -> HeaderMap {
        self.grpc_fields().into_iter().collect()
    }

    /// All that it says, in one text.
    fn said(&self) -> String {
        format!("{} ({}: {})", self.detail, self.policy, self.reason)
    }

    fn grpc_fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = vec![(GRPC_STATUS, HeaderValue::from(u16::from(grpc::status(self.status))))];
        let message = grpc::message(&self.said());
        // Nothing is left in it that a field cannot carry.
        fields.extend(HeaderValue::try_from(message).map(|message| (GRPC_MESSAGE, message)));
        fields
    }

    #[cold]
    fn worded_as_grpc(&self, dialect: Dialect) -> Worded<'static> {
        let mut fields = self.grpc_fields();
        if let Some(seconds) = self.retry_after_field().and_then(|seconds| seconds.parse::<u64>().ok()) {
            fields.push((GRPC_RETRY_PUSHBACK, HeaderValue::from(seconds.saturating_mul(1000))));
        }
        Worded { status: StatusCode::OK, media_type: dialect.media_type(), body: Vec::new(), fields }
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    fn retry_after_field(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| *name == header::RETRY_AFTER).and_then(|(_, value)| value.to_str().ok())
    }

    /// The RFC 9457 body. `type` is left out, which means `about:blank`: the status says what kind of problem it is, `policy` and
    /// `reason` say which. `request_id` is empty in an answer that others may get, too.
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        if self.status == StatusCode::NO_CONTENT {
            return Vec::new();
        }
        let mut body = Vec::with_capacity(384);
        let title = self.title();
        // These three are words of the program's own, which need no escape.
        debug_assert!([title, self.policy, self.reason].iter().all(|word| all_plain(word.as_bytes())));
        body.extend_from_slice(b"{\"title\":\"");
        body.extend_from_slice(title.as_bytes());
        body.extend_from_slice(b"\",\"status\":");
        body.extend_from_slice(self.status.as_str().as_bytes());
        body.extend_from_slice(b",\"detail\":");
        push_json(&mut body, &self.detail);
        body.extend_from_slice(b",\"policy\":\"");
        body.extend_from_slice(self.policy.as_bytes());
        body.extend_from_slice(b"\",\"reason\":\"");
        body.extend_from_slice(self.reason.as_bytes());
        body.push(b'"');
        if !request_id.is_empty() {
            body.extend_from_slice(b",\"request_id\":");
            push_json(&mut body, request_id);
        }
        body.extend_from_slice(self.members.as_deref().unwrap_or_default().as_bytes());
        body.extend_from_slice(b"}\n");
        body
    }
}

/// A wait as `Retry-After` has it: in whole seconds, and at least one.
pub fn in_seconds(wait: std::time::Duration) -> HeaderValue {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

/// Appends `text` as a JSON string.
pub fn push_json(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if all_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_escaped(out, text);
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f | 0x7f => {
                let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                out.extend_from_slice(b"\\u00");
                out.extend([digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_whatever_it_says() {
        let reply = Reply::new(StatusCode::UNAUTHORIZED, "jwt", "token_expired", "said \"no\"\n\u{1}\u{e9}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body("r-1")).unwrap();
        assert_eq!(body["detail"], "said \"no\"\n\u{1}\u{e9}");
        assert_eq!(body["status"], 401);
        assert_eq!(body["title"], "Unauthorized");
        assert_eq!(body["request_id"], "r-1");
    }

    #[test]
    fn a_call_is_told_its_status_in_the_head() {
        let reply = Reply::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit", "limited", "50 % \u{e9}")
            .retry_after(std::time::Duration::from_secs(3));
        let worded = reply.worded(Wording { dialect: Dialect::Grpc, page: None }, "r-1");
        let fields: Vec<_> = worded.fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let wanted =
            [("grpc-status", "8"), ("grpc-message", "50 %25 %C3%A9 (rate_limit: limited)"), ("grpc-retry-pushback-ms", "3000")];
        assert_eq!((worded.status, worded.media_type, fields.as_slice()), (StatusCode::OK, "application/grpc", &wanted[..]));
        assert!(worded.body.is_empty());
        let worded = reply.worded(Wording { dialect: Dialect::Connect, page: None }, "r-1");
        let told = "{\"code\":\"resource_exhausted\",\"message\":\"50 % \u{e9} (rate_limit: limited)\"}\n";
        assert_eq!((worded.status.as_u16(), worded.media_type, &*worded.body), (429, "application/json", told.as_bytes()));
        let worded = reply.worded(Wording::default(), "r-1");
        assert_eq!((worded.status.as_u16(), worded.media_type), (429, "application/problem+json"));
        assert!(worded.fields.is_empty() && !worded.body.is_empty());
    }

    #[test]
    fn retry_after_rounds_up() {
        let reply = Reply::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit", "limited", "")
            .retry_after(std::time::Duration::from_millis(1001));
        assert_eq!(reply.headers[0].1, "2");
        assert_eq!(in_seconds(std::time::Duration::ZERO), "1", "at once is no wait");
    }
}
