//! The strict reader of HTTP/1.1 request heads (RFC 9112), and the checks on a head that HTTP/2 shares (RFC 9113, section 8).

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Version, header};
use smallvec::SmallVec;

pub use super::bad_head::*;
use super::line;
pub use super::scan::HeadScan;
use crate::authority;
use crate::head::{BodyFraming, Field, RequestHead, Span};
use crate::path;
use crate::wire::nominated;
use crate::wire::websocket::handshake;

/// Bounds of a request head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// The whole head in bytes, 431 beyond.
    pub head: usize,
    /// Header fields, 431 beyond. At most [`MAX_FIELDS`].
    pub fields: usize,
    /// The request target in bytes, 414 beyond.
    pub target: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head: 32 * 1024, fields: 100, target: 8 * 1024 }
    }
}

/// The most header fields that any configuration can allow.
pub const MAX_FIELDS: usize = 256;

/// Takes one head off the front of `buffer`, which [`HeadScan::find`] has found to hold a whole one.
///
/// # Errors
/// Whatever is not one well-formed request. `buffer` is then in no defined state, and the connection has to be closed.
pub fn take(buffer: &mut BytesMut, limits: &HeadLimits) -> Result<Box<RequestHead>, Box<Refused>> {
    let refused = |bad: BadHead, bytes: &[u8]| Err(Refused::new(bad, bytes));
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let slots = slots.get_mut(..limits.fields.min(MAX_FIELDS)).unwrap_or_default();
    let length = match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, buffer, slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return refused(MALFORMED_LINE, buffer),
        Err(httparse::Error::Version) if reads_as_11(buffer) => return take(buffer, limits),
        Err(error) => return refused(line::check(buffer).err().unwrap_or_else(|| grammar(error)), buffer),
    };
    let bytes = buffer.get(..length).unwrap_or_default();
    if length > limits.head {
        return refused(HEAD_TOO_LARGE, bytes);
    }
    let method = match method(request.method.unwrap_or_default()) {
        // httparse takes a bare LF for a line's end; whoever is behind us may not.
        Ok(_) if has_bare_lf(bytes) => return refused(BARE_LF, bytes),
        Ok(method) => method,
        // What is wrong with a line first, byte by byte, is said: that is all that a part of it would have shown.
        Err(bad) => return refused(line::check(bytes).err().unwrap_or(bad), bytes),
    };
    let version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let base = bytes.as_ptr() as usize;
    let span = |part: &[u8]| {
        let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
        Span { start, end: start.wrapping_add(part.len() as u32) }
    };
    let raw = request.path.unwrap_or_default();
    if raw.len() > limits.target {
        return refused(TARGET_TOO_LONG, bytes);
    }
    // While it is text: the grammar has seen to that.
    let target = match split_target(raw, span(raw.as_bytes()).start, &method) {
        Ok(target) => target,
        Err(bad) => return refused(bad, bytes),
    };
    // Made where it stays, its fields too: a move would copy them.
    let mut head = Box::write(
        Box::new_uninit(),
        RequestHead {
            path: target.path,
            spelling: target.spelling,
            query: target.query,
            fields: SmallVec::new(),
            method,
            version,
            host: String::new(),
            authority: target.authority.unwrap_or_default(),
            written_host: Span::default(),
            vias: 0,
            body: BodyFraming::None,
            expects_continue: false,
            upgrade: false,
            keep_alive: version == Version::HTTP_11,
            buffer: Bytes::new(),
        },
    );
    let field = |field: &httparse::Header| Field { name: span(field.name.as_bytes()), value: span(field.value.trim_ascii()) };
    head.fields.extend(request.headers.iter().map(field));
    // Mostly there is nothing behind it, and two owners of one buffer cost more than one.
    let bytes = if length == buffer.len() { std::mem::take(buffer) } else { buffer.split_to(length) };
    head.buffer = bytes.freeze();
    put_query(&mut head, target.encoded_query);
    read_fields(&mut head, target.authority.is_some()).map_err(|bad| Refused::new(bad, &head.buffer))?;
    Ok(head)
}

/// A request of HTTP/1.2 to HTTP/1.9 is one of HTTP/1.1, the highest minor version there is (RFC 9110, section 2.5). `true` if it was such
/// a one, which then says so.
#[cold]
fn reads_as_11(buffer: &mut BytesMut) -> bool {
    let Some(end) = memchr::memchr(b'\n', buffer) else { return false };
    let line = buffer.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let at = line.len().saturating_sub(1);
    let later = line.get(..at).is_some_and(|start| start.ends_with(b" HTTP/1.")) && matches!(line.last(), Some(b'2'..=b'9'));
    match buffer.get_mut(at) {
        Some(minor) if later => {
            *minor = b'1';
            true
        }
        _ => false,
    }
}

/// Without a branch, so that the compiler can look at many bytes at once.
fn has_bare_lf(bytes: &[u8]) -> bool {
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    let bare = pairs.fold(false, |bare, (&before, &byte)| bare | ((byte == b'\n') & (before != b'\r')));
    bare || bytes.first() == Some(&b'\n')
}

fn grammar(error: httparse::Error) -> BadHead {
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::Version => BAD_VERSION,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => MALFORMED_FIELD,
        _ => MALFORMED_LINE,
    }
}

fn method(name: &str) -> Result<Method, BadHead> {
    if name.len() > line::MAX_METHOD {
        return Err(MALFORMED_LINE);
    }
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(METHOD_CASE);
    }
    match Method::from_bytes(name.as_bytes()) {
        Ok(Method::CONNECT) => Err(NO_CONNECT),
        Ok(Method::TRACE) => Err(NO_TRACE),
        Ok(_) if name == "TRACK" => Err(NO_TRACE),
        Ok(method) => Ok(method),
        Err(_) => Err(MALFORMED_LINE),
    }
}

/// Puts a query that has to be encoded behind the head's other bytes.
fn put_query(head: &mut RequestHead, encoded: Option<Vec<u8>>) {
    let Some(encoded) = encoded else { return };
    let start = head.buffer.len() as u32;
    head.query = Some(Span { start, end: start + encoded.len() as u32 });
    head.buffer = [&head.buffer[..], &encoded].concat().into();
}

struct Target {
    path: String,
    spelling: Option<Box<path::Spelling>>,
    query: Option<Span>,
    /// The query, if it cannot stay as it came.
    encoded_query: Option<Vec<u8>>,
    authority: Option<Span>,
}

impl Target {
    /// `*`
    fn asterisk(authority: Option<Span>) -> Self {
        Target { path: "*".to_owned(), spelling: None, query: None, encoded_query: None, authority }
    }
}

/// Origin-form, absolute-form, or `*` (RFC 9112, section 3.2). `offset` is where the target stands in the head.
fn split_target(raw: &str, offset: u32, method: &Method) -> Result<Target, BadHead> {
    if raw == "*" {
        return match *method {
            Method::OPTIONS => Ok(Target::asterisk(None)),
            _ => Err(BAD_TARGET),
        };
    }
    let mut start = 0;
    let mut authority = None;
    if !raw.starts_with('/') {
        let scheme = ["http://", "https://"]
            .into_iter()
            .find(|scheme| raw.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
            .ok_or(BAD_TARGET)?;
        let rest = raw.get(scheme.len()..).unwrap_or_default();
        let length = rest.bytes().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        start = scheme.len() + length;
        authority = Some(Span { start: offset + scheme.len() as u32, end: offset + start as u32 });
    }
    let rest = raw.get(start..).unwrap_or_default();
    if rest.is_empty() && *method == Method::OPTIONS {
        // How `OPTIONS *` is asked for through a proxy (RFC 9112, section 3.2.4).
        return Ok(Target::asterisk(authority));
    }
    let question = memchr::memchr(b'?', rest.as_bytes());
    let path = rest.get(..question.unwrap_or(rest.len())).unwrap_or_default();
    let query = question.map(|at| Span { start: offset + (start + at + 1) as u32, end: offset + raw.len() as u32 });
    let encoded_query = match question {
        Some(at) => path::read_query(rest.as_bytes().get(at + 1..).unwrap_or_default()).map_err(bad_path)?,
        None => None,
    };
    let (path, spelling) = if path.is_empty() { ("/".to_owned(), None) } else { path::read(path).map_err(bad_path)? };
    Ok(Target { path, spelling, query, encoded_query, authority })
}

fn bad_path(problem: path::PathProblem) -> BadHead {
    bad(problem.reason(), problem.detail())
}

/// What the fields say about the host, the framing and the connection.
fn read_fields(head: &mut RequestHead, authority_in_target: bool) -> Result<(), BadHead> {
    let mut host: Option<Span> = None;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut upgrades = 0;
    let mut websocket = false;
    let mut connection_upgrade = false;
    let mut close = false;
    let mut stay = false;
    let mut nominates = false;
    for field in &head.fields {
        let name = field.name.of(&head.buffer);
        let value = field.value.of(&head.buffer);
        // Names are compared only among those of the same length: most fields cost one comparison of lengths.
        match name.len() {
            3 if name.eq_ignore_ascii_case(b"via") => head.vias = head.vias.saturating_add(1),
            4 if name.eq_ignore_ascii_case(b"host") && host.replace(field.value).is_some() => return Err(BAD_HOST),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(BAD_EXPECT);
                }
                head.expects_continue = head.version == Version::HTTP_11;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                upgrades += 1;
                websocket = value.eq_ignore_ascii_case(b"websocket");
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    let (closes, stays) = (token.eq_ignore_ascii_case(b"close"), token.eq_ignore_ascii_case(b"keep-alive"));
                    close |= closes;
                    stay |= stays;
                    connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                    nominates |= !closes && !stays && !nominated::is_usual(token);
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") && length.replace(decimal(value).ok_or(BAD_LENGTH)?).is_some() => {
                return Err(BAD_LENGTH);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || head.version != Version::HTTP_11 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BAD_TE);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    if nominates {
        nominated::remove(head)?;
    }
    head.body = match (chunked, length) {
        (true, Some(_)) => return Err(TE_AND_LENGTH),
        (true, None) => BodyFraming::Streamed,
        (false, None | Some(0)) => BodyFraming::None,
        (false, Some(length)) => BodyFraming::Length(length),
    };
    // Any other protocol would open a way to the backend past every check here: behind `h2c`, the backend takes further requests
    // that nobody has routed or authorised. Such a field is dropped, which HTTP allows (RFC 9110, section 7.8).
    let upgrade = connection_upgrade && upgrades == 1 && websocket && head.method == Method::GET;
    head.upgrade = upgrade && head.version == Version::HTTP_11 && head.body == BodyFraming::None;
    head.keep_alive = !close && (head.keep_alive || stay);
    let named = match (host, authority_in_target) {
        // An absolute-form target wins over Host (RFC 9112, section 3.2.2); one that disagrees with it is an attack or a fault.
        (Some(host), true) if !same_authority(host.of(&head.buffer), head.authority()) => return Err(BAD_HOST),
        (Some(_), true) => head.authority,
        (Some(host), false) => host,
        // HTTP/1.1 requires Host, even beside an absolute-form target; HTTP/1.0 does not know it.
        (None, _) if head.version == Version::HTTP_11 => return Err(BAD_HOST),
        (None, _) => head.authority,
    };
    head.written_host = host.unwrap_or(named);
    if head.version == Version::HTTP_10 && named == Span::default() {
        head.authority = named;
        return Ok(());
    }
    settle_authority(head, named, authority_in_target)
}

/// Puts the authority into its one spelling, the `Host` field's value included.
fn settle_authority(head: &mut RequestHead, named: Span, in_target: bool) -> Result<(), BadHead> {
    let canonical = authority::canonical(named.of(&head.buffer)).ok_or(BAD_HOST)?;
    head.host = canonical.host().to_owned();
    head.authority = named;
    if let Cow::Owned(text) = canonical.text {
        let start = head.buffer.len() as u32;
        let rewritten = Span { start, end: start + text.len() as u32 };
        head.buffer = [&head.buffer[..], text.as_bytes()].concat().into();
        head.set_authority(rewritten);
    } else if in_target {
        // The field may spell it in another way.
        head.set_authority(named);
    }
    Ok(())
}

/// Whether two authorities name the same host and port.
fn same_authority(one: &[u8], other: &[u8]) -> bool {
    let text = |authority| authority::canonical(authority).map(|canonical| canonical.text);
    one == other || text(one).is_some_and(|one| text(other) == Some(one))
}

/// A decimal number without sign, space or list, as RFC 9110, section 8.6 wants it; and without the leading zeros that it allows,
/// for there are parsers that then read an octal one.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.starts_with(b"0") && text.len() > 1 || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Builds the head of an HTTP/2 request from its pseudo-header fields and fields, under the same rules.
///
/// # Errors
/// Whatever HTTP/1.1 would be refused for, and connection-specific fields (RFC 9113, section 8.2.2).
///
/// `empty` says that there is no body: the stream ended with its head.
pub fn from_h2(request: &http::request::Parts, empty: bool, limits: &HeadLimits) -> Result<Box<RequestHead>, Box<Refused>> {
    read_h2(request, empty, limits).map_err(|bad| {
        let mut head = RequestHead::unreadable();
        head.method = request.method.clone();
        let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = request.headers.get(header::HOST).map(HeaderValue::as_bytes);
        head.name_target(request.uri.path().as_bytes(), authority.or(host));
        head.version = Version::HTTP_2;
        Box::new(Refused { bad, head })
    })
}

fn read_h2(request: &http::request::Parts, empty: bool, limits: &HeadLimits) -> Result<Box<RequestHead>, BadHead> {
    let websocket = match request.extensions.get::<h2::ext::Protocol>() {
        None => false,
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => true,
        // As for `Upgrade`, any other would open a way past every check here.
        Some(_) => return Err(CONNECT_PROTOCOL),
    };
    // An extended CONNECT (RFC 8441) is the handshake of a WebSocket in HTTP/2's words. From here on it is the same request as in
    // HTTP/1.1's, so that no route and no policy has to know of two.
    let method = if websocket { Method::GET } else { method(request.method.as_str())? };
    let mut text = BytesMut::with_capacity(512);
    let mut put = |part: &[u8]| {
        let start = text.len() as u32;
        text.extend_from_slice(part);
        Span { start, end: text.len() as u32 }
    };
    let pseudo = request.uri.authority().map(|authority| put(authority.as_str().as_bytes()));
    // In the absolute form it would name a host a second time (RFC 9113, section 8.3.1).
    let target = request.uri.path_and_query().map(|target| target.as_str()).filter(|target| target.starts_with(['/', '*']));
    let raw_target = target.ok_or(BAD_TARGET)?;
    let target = put(raw_target.as_bytes());
    let host_name = (!request.headers.contains_key(http::header::HOST)).then(|| put(b"host"));
    let mut fields: SmallVec<[Field; 16]> = SmallVec::new();
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (name, value) in request.headers.iter() {
        match name.as_str() {
            "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade" => return Err(CONNECTION_FIELD),
            "te" if !value.as_bytes().eq_ignore_ascii_case(b"trailers") => return Err(CONNECTION_FIELD),
            // The key is between two ends of HTTP/1.1.
            handshake::KEY if websocket => {}
            // HTTP/2 splits cookies for compression; HTTP/1.1 knows one field (RFC 9113, section 8.2.3).
            "cookie" => cookies.push(value.as_bytes()),
            name => fields.push(Field { name: put(name.as_bytes()), value: put(value.as_bytes().trim_ascii()) }),
        }
    }
    if !cookies.is_empty() {
        fields.push(Field { name: put(b"cookie"), value: put(&cookies.join(&b"; "[..])) });
    }
    if fields.len() > limits.fields {
        return Err(TOO_MANY_FIELDS);
    }
    if websocket {
        fields.push(Field { name: put(b"connection"), value: put(b"Upgrade") });
        fields.push(Field { name: put(b"upgrade"), value: put(b"websocket") });
    }
    if text.len() > limits.head {
        return Err(HEAD_TOO_LARGE);
    }
    if target.end - target.start > limits.target as u32 {
        return Err(TARGET_TOO_LONG);
    }
    if let Some((name, authority)) = host_name.zip(pseudo) {
        // As HTTP/1.1 would have carried it, for whoever looks at fields.
        fields.push(Field { name, value: authority });
    }
    let buffer = text.freeze();
    let parts = split_target(raw_target, target.start, &method)?;
    // Made where it stays: a move would copy it.
    let mut head = Box::new(RequestHead {
        path: parts.path,
        spelling: parts.spelling,
        query: parts.query,
        fields,
        method,
        version: Version::HTTP_11,
        host: String::new(),
        authority: pseudo.unwrap_or_default(),
        written_host: Span::default(),
        vias: 0,
        body: BodyFraming::None,
        expects_continue: false,
        upgrade: false,
        keep_alive: true,
        buffer,
    });
    put_query(&mut head, parts.encoded_query);
    read_fields(&mut head, pseudo.is_some())?;
    head.version = Version::HTTP_2;
    head.keep_alive = true;
    if websocket {
        // Its stream is no body, and has no length.
        head.expects_continue = false;
        return if head.upgrade && head.header("content-length").is_none() { Ok(head) } else { Err(BAD_LENGTH) };
    }
    // Most requests end with their head.
    if head.body == BodyFraming::None && head.header("content-length").is_none() && !empty {
        head.body = BodyFraming::Streamed;
    }
    // Any other expectation is refused by now.
    head.expects_continue = head.body != BodyFraming::None && head.header("expect").is_some();
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Box<RequestHead>, BadHead> {
        parse_bytes(text.as_bytes())
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Box<RequestHead>, BadHead> {
        let mut buffer = BytesMut::from(bytes);
        let limits = HeadLimits::default();
        assert!(HeadScan::default().find(&mut buffer, &limits)?, "no whole head in {bytes:?}");
        take(&mut buffer, &limits).map_err(|refused| refused.bad)
    }

    fn reason(text: &str) -> &'static str {
        parse(text).expect_err(text).reason
    }

    #[test]
    fn reads_an_ordinary_request() {
        let head = parse("GET /a/../b?x=1 HTTP/1.1\r\nHost: Example.COM:8080\r\nX-Y:  z \r\n\r\n").unwrap();
        assert_eq!((head.path.as_str(), head.query(), head.host.as_str()), ("/b", Some("x=1"), "example.com"));
        assert_eq!(head.header("x-y"), Some(&b"z"[..]));
        assert_eq!(head.authority(), b"example.com:8080");
        assert_eq!((head.header("host"), head.written_host()), (Some(&b"example.com:8080"[..]), &b"Example.COM:8080"[..]));
        assert!(head.keep_alive);
        assert_eq!(head.body, BodyFraming::None);
    }

    #[test]
    fn refuses_what_two_parsers_could_read_in_two_ways() {
        let request = |line: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        for (line, why) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", "ambiguous_framing"),
            ("Content-Length: 1\r\nContent-Length: 1", "content_length"),
            ("Content-Length: 1, 1", "content_length"),
            ("Content-Length: +1", "content_length"),
            ("Content-Length: 0x1", "content_length"),
            ("Content-Length: 010", "content_length"),
            ("Content-Length: ", "content_length"),
            ("Content-Length: 99999999999999999999", "content_length"),
            ("Transfer-Encoding: xchunked", "transfer_encoding"),
            ("Transfer-Encoding: chunked, chunked", "transfer_encoding"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "transfer_encoding"),
            ("Transfer-Encoding: identity", "transfer_encoding"),
            ("Transfer-Encoding: \u{b}chunked", "malformed_header"),
            ("Transfer-Encoding : chunked", "malformed_header"),
            ("X: a\r\n folded", "malformed_header"),
            ("X: a\0b", "malformed_header"),
            ("X: a\rb", "malformed_header"),
            ("Host: b", "host"),
            (": empty", "malformed_header"),
        ] {
            assert_eq!(reason(&request(line)), why, "{line:?}");
        }
        assert_eq!(reason("GET / HTTP/1.1\nHost: a\n\n"), "bare_line_feed");
        assert_eq!(reason("GET / HTTP/1.1\r\nHost: a\n\r\n"), "bare_line_feed");
        assert_eq!(reason("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "transfer_encoding");
    }

    #[test]
    fn holds_host_and_target_together() {
        assert_eq!(reason("GET / HTTP/1.1\r\n\r\n"), "host");
        assert_eq!(reason("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), "host");
        assert_eq!(reason("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"), "host");
        assert_eq!(reason("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"), "host");
        assert_eq!(reason("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), "host");
        assert_eq!(reason("GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n"), "host");
        assert_eq!(reason("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), "request_target");
        assert_eq!(reason("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), "request_target");
        assert_eq!(reason("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), "request_target");
        assert_eq!(reason("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), "connect");
        let head = parse("GET http://A/x?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((head.path.as_str(), head.query(), head.host.as_str()), ("/x", Some("y"), "a"));
        let head = parse("GET http://a?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((head.path.as_str(), head.query()), ("/", Some("y")));
        assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().path, "*");
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").unwrap().host, "[::1]");
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a.\r\n\r\n").unwrap().host, "a");
        assert_eq!(parse("OPTIONS http://A HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().path, "*");
        assert_eq!(parse("OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().path, "/");
        for host in ["a..", "a..b", ".a", "[::1]x"] {
            assert_eq!(reason(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), "host", "{host}");
        }
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
    }

    #[test]
    fn what_names_the_host_is_one_text() {
        for (line, host, authority) in [
            ("GET / HTTP/1.1", "A.Example.:", "a.example"),
            ("GET / HTTP/1.1", "[0::1]:0080", "[::1]:80"),
            ("GET http://A.example:/ HTTP/1.1", "a.EXAMPLE.", "a.example"),
            ("GET http://a.example/?a={} HTTP/1.1", "A.example", "a.example"),
        ] {
            let head = parse(&format!("{line}\r\nhOst: {host}\r\nX: y\r\n\r\n")).unwrap();
            assert_eq!(head.authority(), authority.as_bytes(), "{line} {host}");
            assert_eq!(head.header("host"), Some(authority.as_bytes()), "{line} {host}");
            assert_eq!(head.written_host(), host.as_bytes(), "{line} {host}");
            assert!(authority.starts_with(&head.host), "{}", head.host);
            assert_eq!(head.header("x"), Some(&b"y"[..]));
        }
        let mut head = parse("GET / HTTP/1.1\r\nHost: a:443\r\n\r\n").unwrap();
        head.drop_default_port("http");
        assert_eq!((head.authority(), head.header("host")), (&b"a:443"[..], Some(&b"a:443"[..])));
        head.drop_default_port("https");
        assert_eq!((head.authority(), head.header("host"), &*head.host), (&b"a"[..], Some(&b"a"[..]), "a"));
    }

    #[test]
    fn later_minor_versions_are_read_as_the_last_one() {
        for minor in 2..=9 {
            let head = parse(&format!("GET /a HTTP/1.{minor}\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!((head.version, head.keep_alive, &*head.path), (Version::HTTP_11, true, "/a"));
        }
        assert_eq!(reason("GET / HTTP/1.2\r\n\r\n"), "host");
        for version in ["HTTP/1.10", "HTTP/1.", "HTTP/1.a", "HTTP/1.2 ", "http/1.2", "HTTP/2.2"] {
            assert!(parse(&format!("GET / {version}\r\nHost: a\r\n\r\n")).is_err(), "{version}");
        }
    }

    #[test]
    fn refuses_odd_lines() {
        assert_eq!(reason("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), "malformed_request_line");
        assert_eq!(reason("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), "malformed_request_line");
        assert_eq!(reason("post / HTTP/1.1\r\nHost: a\r\n\r\n"), "method_case");
        assert_eq!(reason("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), "trace");
        assert_eq!(reason("TRACK / HTTP/1.1\r\nHost: a\r\n\r\n"), "trace");
        assert_eq!(reason("GET / HTTP/3.0\r\nHost: a\r\n\r\n"), "http_version");
        assert_eq!(reason("GET /\r\n\r\n"), "malformed_request_line");
        assert!(parse_bytes(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let upgrade = |line: &str, fields: &str| {
            parse(&format!("{line}\r\nHost: a\r\nConnection: x, Upgrade\r\n{fields}\r\n\r\n")).unwrap().upgrade
        };
        assert!(upgrade("GET / HTTP/1.1", "Upgrade: WebSocket"));
        for fields in [
            "Upgrade: h2c",
            "Upgrade: websocket, h2c",
            "Upgrade: h2c\r\nUpgrade: websocket",
            "Upgrade: TLS/1.2",
            "Upgrade: websocket\r\nContent-Length: 1",
        ] {
            assert!(!upgrade("GET / HTTP/1.1", fields), "{fields}");
        }
        assert!(!upgrade("POST / HTTP/1.1", "Upgrade: websocket"));
        assert!(!upgrade("GET / HTTP/1.0", "Upgrade: websocket"));
    }

    #[test]
    fn empty_lines_before_a_request_are_few() {
        let limits = HeadLimits::default();
        let mut scan = HeadScan::default();
        let mut buffer = BytesMut::new();
        for _ in 0..2 {
            buffer.extend_from_slice(b"\r\n");
            assert_eq!(scan.find(&mut buffer, &limits), Ok(false));
            assert!(buffer.is_empty());
        }
        buffer.extend_from_slice(b"\r");
        assert_eq!(scan.find(&mut buffer, &limits), Err(MALFORMED_LINE));
        let three = b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(HeadScan::default().find(&mut BytesMut::from(&three[..]), &limits), Err(MALFORMED_LINE));
        assert_eq!(HeadScan::default().find(&mut BytesMut::from(&three[2..]), &limits), Ok(true));
    }

    #[test]
    fn bounds_hold_before_the_head_is_whole() {
        let limits = HeadLimits { head: 1000, fields: 3, target: 100 };
        let mut scan = HeadScan::default();
        let long = format!("GET /{}", "a".repeat(200));
        assert_eq!(scan.find(&mut BytesMut::from(long.as_bytes()), &limits), Err(TARGET_TOO_LONG));
        let long = format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(1000));
        assert_eq!(HeadScan::default().find(&mut BytesMut::from(long.as_bytes()), &limits), Err(HEAD_TOO_LARGE));
        let many = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
        assert_eq!(take(&mut BytesMut::from(many), &limits).unwrap_err().bad.reason, "too_many_headers");
    }

    #[test]
    fn finds_the_end_however_the_bytes_arrive() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nNEXT";
        let mut scan = HeadScan::default();
        let mut buffer = BytesMut::new();
        let mut found_at = 0;
        for (at, byte) in text.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            if scan.find(&mut buffer, &HeadLimits::default()).unwrap() {
                found_at = at;
                break;
            }
        }
        assert_eq!(found_at, text.len() - 5);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let limits = HeadLimits::default();
            if let Ok(true) = HeadScan::default().find(&mut buffer, &limits) {
                let _ = take(&mut buffer, &limits);
            }
        }
    }
}
