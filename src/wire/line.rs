//! The request line's grammar (RFC 9112, section 3), looked at byte by byte: what can begin no request is refused as soon as it shows, be it
//! a TLS hello, another protocol's greeting or noise, and the answer does not depend on how packets cut it.

use http::Method;

use super::head::{BAD_VERSION, BARE_LF, BadHead, MALFORMED_LINE, METHOD_CASE, TLS_HELLO};
use crate::authority;
use crate::head::RequestHead;

/// The longest method.
pub const MAX_METHOD: usize = 32;
/// How a TLS record that begins a handshake begins (RFC 8446, section 5.1). No HTTP message begins so.
pub const TLS_HANDSHAKE: u8 = 0x16;

/// Whether the request line at the front of `bytes` is whole.
///
/// # Errors
/// What can never become a request line. Nothing that comes behind the byte which gave it away changes the answer.
pub fn check(bytes: &[u8]) -> Result<bool, BadHead> {
    let Some(end) = bytes.iter().take(MAX_METHOD + 1).position(|&byte| !is_method(byte)) else {
        return if bytes.len() > MAX_METHOD { Err(MALFORMED_LINE) } else { Ok(false) };
    };
    match bytes.get(end) {
        Some(b' ') if end > 0 => {}
        Some(byte) if byte.is_ascii_lowercase() => return Err(METHOD_CASE),
        Some(b'\n') if end == 0 => return Err(BARE_LF),
        Some(&TLS_HANDSHAKE) if end == 0 => return Err(TLS_HELLO),
        _ => return Err(MALFORMED_LINE),
    }
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let Some(length) = memchr::memchr(b'\n', rest) else { return Ok(false) };
    let line = rest.get(..length).unwrap_or_default();
    let (line, ended) = line.strip_suffix(b"\r").map_or((line, false), |line| (line, true));
    let space = line.iter().position(|&byte| byte <= b' ' || byte == 0x7f).ok_or(MALFORMED_LINE)?;
    let (target, version) = line.split_at_checked(space).ok_or(MALFORMED_LINE)?;
    if target.is_empty() || std::str::from_utf8(target).is_err() {
        return Err(MALFORMED_LINE);
    }
    match version {
        // A later minor version is read as the last one that there is (RFC 9110, section 2.5).
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => {}
        [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(BAD_VERSION),
        _ => return Err(MALFORMED_LINE),
    }
    if ended { Ok(true) } else { Err(BARE_LF) }
}

/// A byte of a token (RFC 9110, section 5.6.2) that is no lower-case letter: methods are case-sensitive, and none has one.
fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What the log may say of a head that was refused: the method, the path and the host, as far as they could be read. No query and no
/// userinfo, for those carry credentials.
pub fn glimpse(bytes: &[u8]) -> RequestHead {
    let mut head = RequestHead::unreadable();
    let mut lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let line = lines.next().unwrap_or_default();
    let Some(space) = memchr::memchr(b' ', line) else { return head };
    let (name, rest) = line.split_at_checked(space).unwrap_or_default();
    if name.len() > MAX_METHOD || head.name_method(name).is_none() {
        return head;
    }
    let target = rest.trim_ascii_start().split(|&byte| byte <= b' ').next().unwrap_or_default();
    let hosts = lines.filter_map(|line| {
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        name.eq_ignore_ascii_case(b"host").then(|| value.get(1..).unwrap_or_default().trim_ascii())
    });
    head.name_target(target, hosts.chain(None).next());
    head
}

fn host_of(authority: &[u8]) -> Option<String> {
    authority::canonical(authority).map(|canonical| canonical.host().to_owned())
}

impl RequestHead {
    /// Takes the method, if it is one.
    fn name_method(&mut self, name: &[u8]) -> Option<()> {
        self.method = Method::from_bytes(name).ok()?;
        Some(())
    }

    /// Takes the path of a target, and the host of the target or else of the field, if it is one.
    pub(super) fn name_target(&mut self, target: &[u8], host: Option<&[u8]>) {
        let mut rest = target;
        let mut authority = None;
        if !target.starts_with(b"/") && target != b"*" {
            // The absolute form, or a bare authority: what CONNECT asks for.
            let begin = memchr::memmem::find(target, b"://").map_or(0, |at| at + 3);
            let after = target.get(begin..).unwrap_or_default();
            let end = after.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(after.len());
            authority = after.get(..end);
            rest = after.get(end..).unwrap_or_default();
        }
        let path = rest.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        self.path = String::from_utf8_lossy(path).into_owned();
        self.host = authority.and_then(host_of).or_else(|| host.and_then(host_of)).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &[u8]) -> &'static str {
        match check(line) {
            Ok(true) => "",
            Ok(false) => "more",
            Err(bad) => bad.reason,
        }
    }

    #[test]
    fn only_a_well_formed_version_is_called_unsupported() {
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/9.9"] {
            assert_eq!(reason(format!("GET / {version}\r\n").as_bytes()), "http_version", "{version}");
        }
        for rest in [
            "/ HTTP/1",
            "/ HTTP/2",
            "/ HTTP/01.1",
            "/ HTTP/1.10",
            "/ HTTP/1.",
            "/ HTTP/.1",
            "/ http/1.1",
            "/ HTTP 1.1",
            "/ HTTP/1.1 ",
            "/  HTTP/1.1",
            " / HTTP/1.1",
            "/a b HTTP/1.1",
            "/ FOO/1.1",
            "/",
            "/ ",
            "HTTP/1.1",
            "/\t HTTP/1.1",
            "/\x7f HTTP/1.1",
        ] {
            assert_eq!(reason(format!("GET {rest}\r\n").as_bytes()), "malformed_request_line", "{rest:?}");
        }
        for line in ["GET / HTTP/1.1\r\n", "OPTIONS * HTTP/1.0\r\n", "M-SEARCH http://a/ HTTP/1.1\r\n"] {
            assert_eq!(reason(line.as_bytes()), "", "{line}");
        }
    }

    #[test]
    fn what_can_begin_no_request_shows_at_once() {
        for (bytes, why) in [
            (&b"\x16"[..], "tls_on_plain_port"),
            (b"\x16\x03\x01\x02", "tls_on_plain_port"),
            (b"\0", "malformed_request_line"),
            (b"\xff", "malformed_request_line"),
            (b" ", "malformed_request_line"),
            (b"\n", "bare_line_feed"),
            (b"g", "method_case"),
            (b"dElete", "method_case"),
            (b"GEt", "method_case"),
            (b"SSH-2.0-X\r", "malformed_request_line"),
            (b"*1\r", "malformed_request_line"),
            (b"GET", "more"),
            (b"GET / ", "more"),
            (b"THISMETHODISMUCHLONGERTHANANYMETH", "malformed_request_line"),
        ] {
            assert_eq!(reason(bytes), why, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_glimpse_holds_no_credentials() {
        let seen = |text: &str| {
            let head = glimpse(text.as_bytes());
            (head.method.as_str().to_owned(), head.path, head.host)
        };
        let all = |method: &str, path: &str, host: &str| (method.to_owned(), path.to_owned(), host.to_owned());
        assert_eq!(seen("POST /a?key=1 HTTP/1.1\r\nX: y\r\nHost: A.example:80\r\nbad\r\n\r\n"), all("POST", "/a", "a.example"));
        assert_eq!(seen("GET http://B/x#y HTTP/1.1\r\nHost: a"), all("GET", "/x", "b"));
        assert_eq!(seen("GET http://u:p@b/x HTTP/1.1\r\nHost: a"), all("GET", "/x", "a"));
        assert_eq!(seen("CONNECT u:p@b:443 HTTP/1.1\r\nHost: a"), all("CONNECT", "", "a"));
        assert_eq!(seen("CONNECT b:443 HTTP/1.1\r\n"), all("CONNECT", "", "b"));
        assert_eq!(seen("OPTIONS * HTTP/1.1\r\nHost: a"), all("OPTIONS", "*", "a"));
        assert_eq!(seen("GET /a b HTTP/1.1\r\nHost: u:p@a\r\n"), all("GET", "/a", ""));
        for unread in ["", "GET", "G@T / HTTP/1.1\r\n", "\x16\x03\x01 /"] {
            assert_eq!(seen(unread), all(RequestHead::unreadable().method.as_str(), "", ""), "{unread:?}");
        }
    }

    proptest::proptest! {
        /// What is refused stays refused, and for the same reason, whatever comes behind it.
        #[test]
        fn a_verdict_is_final(bytes in proptest::collection::vec(proptest::sample::select(&b"GETpost /?HTTP/1.12\r\n\0\x16:;"[..]), 0..60)) {
            let verdicts: Vec<_> = (0..=bytes.len()).map(|end| reason(&bytes[..end])).collect();
            let first = verdicts.iter().find(|verdict| **verdict != "more");
            for verdict in verdicts.iter().skip_while(|verdict| **verdict == "more") {
                proptest::prop_assert_eq!(Some(verdict), first);
            }
        }
    }
}
