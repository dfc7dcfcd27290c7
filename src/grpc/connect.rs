//! Connect: calls that are plain requests of HTTP, after the [Connect protocol](https://connectrpc.com/docs/protocol). Here is how one is known,
//! and what its fields and codes are called. Only unary calls are spoken of: those that stream are not served.

use std::time::Duration;

use http::Method;

use super::CODES;

/// Fields, by their names.
pub const VERSION: &str = "connect-protocol-version";
/// How long the client waits for the call, all told, in milliseconds.
pub const TIMEOUT: &str = "connect-timeout-ms";
/// What begins a field's name that is for the protocol alone.
pub const RESERVED: &str = "connect-";
/// What stands before the name of metadata that came behind the message.
pub const TRAILER: &str = "trailer-";

/// The most digits of a timeout.
const MOST_DIGITS: usize = 10;
/// By this alone a GET is known.
const ASKS: &str = "connect=v1";
/// What a GET says of its call in its query.
const PARAMETERS: [&[u8]; 5] = [b"connect", b"encoding", b"message", b"base64", b"compression"];
const APPLICATION: &[u8] = b"application/";

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Proto,
    Json,
}

/// What a body is by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One message.
    Unary(Codec),
    /// Any number of them, each behind a prefix.
    Streaming,
}

impl Codec {
    pub fn named(name: &[u8]) -> Option<Codec> {
        match () {
            () if name.eq_ignore_ascii_case(b"proto") => Some(Codec::Proto),
            () if name.eq_ignore_ascii_case(b"json") => Some(Codec::Json),
            () => None,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Codec::Proto => "application/proto",
            Codec::Json => "application/json",
        }
    }
}

impl Kind {
    /// `None`: it is of no codec that is known here.
    pub fn of(content_type: &[u8]) -> Option<Kind> {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let (start, name) = essence.split_at_checked(APPLICATION.len())?;
        if !start.eq_ignore_ascii_case(APPLICATION) {
            return None;
        }
        match name.split_at_checked(b"connect+".len()) {
            Some((connect, _)) if connect.eq_ignore_ascii_case(b"connect+") => Some(Kind::Streaming),
            _ => Codec::named(name).map(Kind::Unary),
        }
    }
}

/// Whether a request is a call of Connect's: it says so by its media type where that is nobody else's, by its version, or in its query.
pub fn is_call(method: &Method, kind: Option<&[u8]>, says_version: impl FnOnce() -> bool, query: Option<&[u8]>) -> bool {
    match *method {
        Method::POST => {
            let own = kind.and_then(Kind::of).is_some_and(|kind| kind != Kind::Unary(Codec::Json));
            own || says_version()
        }
        Method::GET | Method::HEAD => query.is_some_and(asks),
        _ => false,
    }
}

/// Whether a request without a body is a call, which stands in its query then.
pub fn is_got(method: &Method, query: Option<&[u8]>) -> bool {
    is_call(method, None, || false, query)
}

/// Whether a parameter of this name is a part of such a call.
pub fn is_parameter(name: &[u8]) -> bool {
    PARAMETERS.contains(&name)
}

/// Whether a query has the parameter by which Connect's calls are told: looked for with each request, by the one letter in it that is rare.
#[inline]
fn asks(query: &[u8]) -> bool {
    const BEFORE: usize = ASKS.len() - 2;
    let long_enough = query.len() >= ASKS.len();
    long_enough
        && memchr::memchr_iter(b'v', query).filter_map(|at| at.checked_sub(BEFORE)).any(|from| {
            let end = from + ASKS.len();
            let is_whole = (from == 0 || query.get(from - 1) == Some(&b'&')) && matches!(query.get(end), None | Some(b'&'));
            is_whole && query.get(from..end) == Some(ASKS.as_bytes())
        })
}

/// Reads a `Connect-Timeout-Ms`.
pub fn read_timeout(value: &[u8]) -> Option<Duration> {
    if !(1..=MOST_DIGITS).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_millis(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))))
}

/// What Connect calls a code of gRPC's. They are the same but for one.
pub fn name(code: u8) -> &'static str {
    match CODES.iter().find(|(_, number)| *number == code) {
        Some((_, 1)) => "canceled",
        Some((name, _)) => name,
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_known_by_what_only_calls_have() {
        let known = |method: Method, kind: &str, version: bool, query: &str| {
            is_call(&method, Some(kind.as_bytes()).filter(|kind| !kind.is_empty()), || version, Some(query.as_bytes()))
        };
        for (method, kind, version, query, is) in [
            (Method::POST, "application/proto", false, "", true),
            (Method::POST, "Application/Proto; x=y", false, "", true),
            (Method::POST, "application/connect+proto", false, "", true),
            (Method::POST, "application/json", false, "", false),
            (Method::POST, "application/json", true, "", true),
            (Method::POST, "application/x-protobuf", false, "", false),
            (Method::POST, "application/thrift", true, "", true),
            (Method::POST, "", false, "connect=v1", false),
            (Method::PUT, "application/proto", true, "", false),
            (Method::GET, "", false, "message=%7B%7D&encoding=json&connect=v1", true),
            (Method::HEAD, "", false, "connect=v1", true),
            (Method::GET, "", true, "connect=v2&message=&encoding=json", false),
            (Method::GET, "", true, "xconnect=v1", false),
            (Method::GET, "", false, "connect=v11", false),
        ] {
            assert_eq!(known(method.clone(), kind, version, query), is, "{method} {kind} {version} {query}");
        }
    }

    #[test]
    fn a_timeout_has_at_most_ten_digits() {
        assert_eq!(read_timeout(b"0"), Some(Duration::ZERO));
        assert_eq!(read_timeout(b"9999999999"), Some(Duration::from_millis(9_999_999_999)));
        for bad in ["", "10000000000", "1s", "-1", "+1", "1.5", " 1", "\u{661}"] {
            assert_eq!(read_timeout(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn codes_have_connects_names() {
        assert_eq!(
            (name(1), name(4), name(16), name(0), name(99)),
            ("canceled", "deadline_exceeded", "unauthenticated", "unknown", "unknown")
        );
    }
}
