//! What a service sees of a request: one rule, written as the bytes of an HTTP/1.1 head or as a header map.

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{self, HeaderName};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use crate::exchange::{Exchange, ForwardedHeaders, X_REQUEST_ID, is_gateways, is_identity};
use crate::grpc::metadata;
use crate::head::{BodyFraming, Edited, HeaderEdit, RequestHead};
use crate::wire::encode::{self, field};
use crate::wire::websocket::handshake;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static REQUEST_ID: HeaderName = X_REQUEST_ID;
/// Tells a service that this is not the first attempt at a request, and which one. On the first there is no such field.
const ATTEMPT: &[u8] = b"x-portcullis-attempt";

/// How the request's body is framed towards the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SentFraming {
    #[default]
    None,
    /// As announced by the client, or as counted in memory.
    Length,
    Chunked,
}

/// What the request's head is made of.
pub struct Parts<'a> {
    pub head: &'a RequestHead,
    pub target: Option<&'a str>,
    pub exchange: &'a Exchange,
    /// The length of a body that is whole in memory.
    pub buffered: Option<usize>,
    /// There is no body, whatever the framing says (an HTTP/2 stream that ended without one).
    pub empty: bool,
    /// The client waits for the service's word before it sends its body.
    pub expects: bool,
    /// 1 for the first.
    pub attempt: u32,
    /// The answer is for the cache as well.
    pub fill: Option<&'a Fill>,
}

/// A request whose answer is to be stored: for the whole, whatever part or condition its client asked for, and on the condition that what
/// is stored already does not hold any more.
#[derive(Debug, Default)]
pub struct Fill {
    /// `If-None-Match` and `If-Modified-Since`, from the stored answer.
    pub validators: Vec<(HeaderName, HeaderValue)>,
}

/// Where the fields go.
trait Sink {
    fn field(&mut self, name: &[u8], value: &[u8]);

    /// One that was made here, or read by a policy.
    fn made(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.field(name.as_str().as_bytes(), value.as_bytes());
    }

    /// One that no other request will have.
    fn unique(&mut self, name: &HeaderName, value: &[u8]) {
        self.field(name.as_str().as_bytes(), value);
    }

    fn told(&mut self, told: &ForwardedHeaders) {
        for (name, value) in Edited::new(told.edits()).added() {
            self.made(name, value);
        }
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8]) {
        field(self, name, value);
    }

    fn told(&mut self, told: &ForwardedHeaders) {
        self.extend_from_slice(&told.wire);
    }
}

/// A header map, and whether all fields could be put into it. Where no policy has another word on it, it begins as a copy of
/// [`ForwardedHeaders::map`], which costs a quarter of what it costs to put the fields in one by one.
struct Map<'a> {
    fields: HeaderMap,
    fine: bool,
    /// The head that the client's values stand in: they are not copied.
    head: &'a Bytes,
}

impl Map<'_> {
    fn put(&mut self, name: HeaderName, value: HeaderValue) {
        self.fine &= self.fields.try_append(name, value).is_ok();
    }

    fn value(&self, value: &[u8]) -> Option<HeaderValue> {
        let start = (value.as_ptr() as usize).wrapping_sub(self.head.as_ptr() as usize);
        match start.checked_add(value.len()) {
            Some(end) if end <= self.head.len() => HeaderValue::from_maybe_shared(self.head.slice(start..end)).ok(),
            _ => HeaderValue::from_bytes(value).ok(),
        }
    }
}

impl Sink for Map<'_> {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        match HeaderName::from_bytes(name).ok().zip(self.value(value)) {
            Some((name, mut value)) => {
                // A server may keep beside the name that this one's value is no good, for whoever comes next.
                value.set_sensitive(metadata::is_binary(name.as_str().as_bytes()));
                self.put(name, value);
            }
            None => self.fine = false,
        }
    }

    fn made(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put(name.clone(), value.clone());
    }

    /// Behind the client's own fields of the same names. The others are there already.
    fn told(&mut self, told: &ForwardedHeaders) {
        for edit in told.edits() {
            if let HeaderEdit::Add(name, value) = edit {
                self.made(name, value);
            }
        }
    }

    fn unique(&mut self, name: &HeaderName, value: &[u8]) {
        let Ok(mut value) = HeaderValue::from_bytes(value) else { return self.fine = false };
        // In the connection's table of fields it would take the place of what the next request has again.
        value.set_sensitive(true);
        self.put(name.clone(), value);
    }
}

/// Without the client's own conditions, which are not the gateway's.
struct Unconditional<'s, S>(&'s mut S);

impl<S: Sink> Sink for Unconditional<'_, S> {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        if !is_condition(name) {
            self.0.field(name, value);
        }
    }

    // The conditions are the client's; what is made here is none, but for a policy's, which are not the gateway's either.
    fn made(&mut self, name: &HeaderName, value: &HeaderValue) {
        if !is_condition(name.as_str().as_bytes()) {
            self.0.made(name, value);
        }
    }

    fn unique(&mut self, name: &HeaderName, value: &[u8]) {
        self.0.unique(name, value);
    }

    fn told(&mut self, told: &ForwardedHeaders) {
        self.0.told(told);
    }
}

fn is_condition(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // By length first, for most names have another.
    match name.len() {
        5 => is("range"),
        8 => is("if-match") || is("if-range"),
        13 => is("if-none-match"),
        17 => is("if-modified-since"),
        19 => is("if-unmodified-since"),
        _ => false,
    }
}

/// The method that the service sees: what is stored for who asks by HEAD is the answer to a GET.
pub(super) fn method<'a>(fill: Option<&Fill>, asked: &'a Method) -> &'a Method {
    if fill.is_some() && *asked == Method::HEAD { &Method::GET } else { asked }
}

impl Parts<'_> {
    fn method(&self) -> &Method {
        method(self.fill, &self.head.method)
    }

    fn framing(&self) -> SentFraming {
        match (self.head.body, self.buffered) {
            (BodyFraming::None, _) => SentFraming::None,
            (BodyFraming::Streamed, None) if self.empty => SentFraming::None,
            (_, Some(_)) | (BodyFraming::Length(_), None) => SentFraming::Length,
            (BodyFraming::Streamed, None) => SentFraming::Chunked,
        }
    }

    fn authority(&self) -> &[u8] {
        authority(self.head, self.exchange)
    }

    /// For a header map's `:path`.
    fn path_and_query(&self) -> Bytes {
        if let Some(target) = self.target {
            return Bytes::copy_from_slice(target.as_bytes());
        }
        let (path, query) = (self.head.path.as_bytes(), self.head.query_bytes());
        let Some(query) = query else { return Bytes::copy_from_slice(path) };
        let mut target = Vec::with_capacity(path.len() + 1 + query.len());
        target.extend_from_slice(path);
        target.push(b'?');
        target.extend_from_slice(query);
        target.into()
    }

    fn fields(&self, framing: SentFraming, sink: &mut impl Sink) {
        match self.fill {
            None => self.all_fields(framing, sink),
            Some(fill) => {
                self.all_fields(framing, &mut Unconditional(sink));
                for (name, value) in &fill.validators {
                    sink.made(name, value);
                }
            }
        }
        if let Some(deadline) = self.exchange.deadline {
            sink.unique(deadline.name(), deadline.left().as_bytes());
        }
        if self.attempt > 1 && !Edited::new(&self.exchange.to_upstream).replaces(ATTEMPT) {
            sink.field(ATTEMPT, itoa::Buffer::new().format(self.attempt).as_bytes());
        }
        if let (SentFraming::Length, Some(length)) = (framing, self.buffered) {
            sink.field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
        }
    }

    /// The client's fields without what belongs to its connection, then what the gateway tells, then the policies' changes.
    #[inline]
    fn all_fields(&self, framing: SentFraming, sink: &mut impl Sink) {
        let (head, exchange) = (self.head, self.exchange);
        let edited = Edited::new(&exchange.to_upstream);
        for (name, value) in head.headers() {
            let length = name.len() == 14 && name.eq_ignore_ascii_case(b"content-length");
            if length && (framing != SentFraming::Length || self.buffered.is_some()) && head.body != BodyFraming::None {
                continue;
            }
            if passes(name, exchange.trusted_identity) && !is_gateways(name) && !edited.replaces(name) {
                sink.field(name, value);
            }
        }
        tell(sink, exchange, &edited);
        for (name, value) in edited.added() {
            sink.made(name, value);
        }
    }
}

/// The fields one by one, for who does something else with them than to send them.
#[derive(Default)]
struct Listed(Vec<(Vec<u8>, Vec<u8>)>);

impl Sink for Listed {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.0.push((name.to_vec(), value.to_vec()));
    }
}

/// All fields but `Host` as they would be sent, in order.
pub fn listed(parts: &Parts<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut listed = Listed::default();
    parts.fields(parts.framing(), &mut listed);
    listed.0
}

/// What the service is told as the host.
pub fn authority<'a>(head: &'a RequestHead, exchange: &'a Exchange) -> &'a [u8] {
    exchange.upstream_host.as_deref().map_or_else(|| head.authority(), str::as_bytes)
}

/// The path and the query as they are sent, where no other target is asked for.
pub fn target(head: &RequestHead) -> String {
    match head.query() {
        Some(query) => format!("{}?{query}", head.path),
        None => head.path.clone(),
    }
}

/// Appends an HTTP/1.1 head.
pub fn write(out: &mut Vec<u8>, parts: &Parts<'_>) -> SentFraming {
    let Parts { head, .. } = *parts;
    out.reserve(head.buffer.len() + 512);
    out.extend_from_slice(parts.method().as_str().as_bytes());
    out.push(b' ');
    match (parts.target, head.query_bytes()) {
        (Some(target), _) => out.extend_from_slice(target.as_bytes()),
        (None, query) => {
            out.extend_from_slice(head.path.as_bytes());
            if let Some(query) = query {
                out.push(b'?');
                out.extend_from_slice(query);
            }
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(parts.authority());
    out.extend_from_slice(b"\r\n");
    let framing = parts.framing();
    parts.fields(framing, out);
    if framing == SentFraming::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if parts.expects {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    if let Some(protocol) = head.header("upgrade").filter(|_| head.upgrade) {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        field(out, b"Upgrade", protocol);
        if head.version == Version::HTTP_2 {
            field(out, b"Sec-WebSocket-Key", handshake_key(parts.exchange).as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// The key of the handshake that a service of HTTP/1.1 is asked for in the name of a client of HTTP/2, who has none.
pub fn handshake_key(exchange: &Exchange) -> String {
    handshake::key(&[&exchange.traceparent, exchange.request_id.as_bytes()])
}

/// A request that HTTP/2 cannot carry.
#[derive(Debug)]
pub struct Unfit;

/// An HTTP/2 head (RFC 9113, section 8.3), for a connection with or without TLS; `switches`: an extended CONNECT in place of an upgrade
/// (RFC 8441).
///
/// # Errors
/// The host or the target is none for HTTP/2.
pub fn stream(parts: &Parts<'_>, secure: bool, switches: bool) -> Result<(Request<()>, SentFraming), Unfit> {
    let head = parts.head;
    let mut uri = uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(match (&parts.exchange.told, &parts.exchange.upstream_host) {
        (Some(told), None) => told.authority(head.authority()).ok_or(Unfit)?,
        _ => Authority::from_maybe_shared(Bytes::copy_from_slice(parts.authority())).map_err(|_| Unfit)?,
    });
    uri.path_and_query = Some(PathAndQuery::from_maybe_shared(parts.path_and_query()).map_err(|_| Unfit)?);
    let uri = Uri::from_parts(uri).map_err(|_| Unfit)?;
    let framing = parts.framing();
    let told = parts.exchange.told.as_deref().filter(|told| !is_contradicted(told, &Edited::new(&parts.exchange.to_upstream)));
    let fields = told.map_or_else(|| HeaderMap::with_capacity(head.fields.len() + 10), |told| told.map().clone());
    let mut map = Map { fields, fine: true, head: &head.buffer };
    parts.fields(framing, &mut map);
    // gRPC servers insist on it. Only a client of HTTP/2's can mean it.
    let trailers = head.header("te").is_some_and(|te| te.eq_ignore_ascii_case(b"trailers"));
    if trailers && head.version == Version::HTTP_2 {
        map.fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if parts.expects {
        map.fields.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    if !map.fine {
        return Err(Unfit);
    }
    let mut request = Request::new(());
    *request.method_mut() = parts.method().clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    if switches {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        map.fields.remove(handshake::KEY);
    }
    *request.headers_mut() = map.fields;
    Ok((request, framing))
}

/// Whether a policy has something else to say than what the gateway tells of the client.
fn is_contradicted(told: &ForwardedHeaders, edited: &Edited<'_>) -> bool {
    !edited.is_empty() && told.edits().iter().any(|edit| edited.replaces(edit.name().as_str().as_bytes()))
}

/// What the gateway itself tells the service, except where a policy has something else to say.
fn tell(sink: &mut impl Sink, exchange: &Exchange, edited: &Edited<'_>) {
    if let Some(told) = &exchange.told {
        if is_contradicted(told, edited) {
            for (name, value) in Edited::new(told.edits()).added() {
                if !edited.replaces(name.as_str().as_bytes()) {
                    sink.made(name, value);
                }
            }
        } else {
            sink.told(told);
        }
    }
    if !edited.replaces(b"traceparent") {
        sink.unique(&TRACEPARENT, &exchange.traceparent);
    }
    if !edited.replaces(b"x-request-id") {
        sink.unique(&REQUEST_ID, exchange.request_id.as_bytes());
    }
}

/// Whether a field of the client's goes to the service.
///
/// Names with an underscore do not: CGI-like services fold `X_Auth_Subject` and `X-Auth-Subject` into one variable, so a client
/// could forge what only the gateway may say. For the same reason the fields that carry a proved identity come from a peer that is trusted
/// to prove it, or from the gateway itself, or not at all, whether the route has an `authn` policy or not.
pub fn passes(name: &[u8], trusted_identity: bool) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let hop = encode::is_hop_by_hop(name);
    let ours = is("host") || is("expect") || is("http2-settings") || is("proxy-authorization");
    !hop && !ours && (trusted_identity || !is_identity(name)) && !name.contains(&b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::ForwardedHeaders;
    use crate::head::HeaderEdits;

    /// Without the trace.
    fn written(head: &RequestHead, exchange: &Exchange) -> String {
        let mut out = Vec::new();
        write(
            &mut out,
            &Parts { head, target: None, exchange, buffered: None, empty: false, expects: false, attempt: 1, fill: None },
        );
        String::from_utf8(out)
            .unwrap()
            .split("\r\n")
            .filter(|line| !line.starts_with("traceparent"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn applies_edits_as_the_other_road_does() {
        let head = RequestHead::build("GET", "/a?b", &[("Host", "h"), ("X-A", "1")]);
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut exchange = Exchange::for_tests();
        let edits = &mut exchange.to_upstream;
        edits.push(HeaderEdit::Add(name("x-a"), value("lost")));
        edits.push(HeaderEdit::Set(name("x-a"), value("3")));
        edits.push(HeaderEdit::Add(name("x-a"), value("4")));
        edits.push(HeaderEdit::Set(name("x-c"), value("5")));
        edits.push(HeaderEdit::Remove(name("x-c")));
        assert_eq!(written(&head, &exchange), "GET /a?b HTTP/1.1\nHost: h\nx-request-id: test-request\nx-a: 3\nx-a: 4\n\n");
    }

    #[test]
    fn a_policy_has_the_last_word_on_what_is_told() {
        let head = RequestHead::build("GET", "/", &[("Host", "h"), ("X-Request-Id", "mine"), ("X-Forwarded-For", "6.6.6.6")]);
        let set = |name, value| HeaderEdit::Set(HeaderName::from_static(name), HeaderValue::from_static(value));
        let edits = HeaderEdits::from_iter([set("x-forwarded-for", "192.0.2.1"), set("x-real-ip", "192.0.2.1")]);
        let mut exchange = Exchange::for_tests();
        exchange.told = Some(std::sync::Arc::new(ForwardedHeaders::new(edits)));
        let told = "GET / HTTP/1.1\nHost: h\nx-forwarded-for: 192.0.2.1\nx-real-ip: 192.0.2.1\nx-request-id: test-request\n\n";
        assert_eq!(written(&head, &exchange), told);
        exchange.to_upstream.push(HeaderEdit::Remove(HeaderName::from_static("x-real-ip")));
        exchange.to_upstream.push(set("x-request-id", "theirs"));
        let less = "GET / HTTP/1.1\nHost: h\nx-forwarded-for: 192.0.2.1\nx-request-id: theirs\n\n";
        assert_eq!(written(&head, &exchange), less);
    }

    /// Whatever the map is begun with, and whatever a policy has another word on.
    #[test]
    fn a_header_map_says_what_the_bytes_say() {
        let headers = [("Host", "h"), ("Via", "1.0 theirs"), ("User-Agent", "a"), ("X-Forwarded-For", "6.6.6.6"), ("X-A", "1")];
        let head = RequestHead::build("GET", "/a?b", &headers);
        let field = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let set = |name, value| HeaderEdit::Set(field(name, value).0, field(name, value).1);
        let add = |name, value| HeaderEdit::Add(field(name, value).0, field(name, value).1);
        let told = [set("x-forwarded-for", "192.0.2.1"), set("x-real-ip", "192.0.2.1"), add("via", "1.1 gate")];
        let told = std::sync::Arc::new(ForwardedHeaders::new(HeaderEdits::from_iter(told)));
        for edits in [
            vec![],
            vec![set("x-a", "2"), add("x-a", "3")],
            vec![add("x-forwarded-for", "192.0.2.2")],
            vec![set("x-real-ip", "192.0.2.3")],
            vec![HeaderEdit::Remove(HeaderName::from_static("via")), set("x-request-id", "theirs")],
        ] {
            let mut exchange = Exchange::for_tests();
            (exchange.told, exchange.to_upstream) = (Some(told.clone()), edits.clone());
            let text = written(&head, &exchange);
            let mut lines: Vec<String> = text.lines().skip(2).filter(|line| !line.is_empty()).map(str::to_lowercase).collect();
            let parts = Parts {
                head: &head,
                target: None,
                exchange: &exchange,
                buffered: None,
                empty: false,
                expects: false,
                attempt: 1,
                fill: None,
            };
            let (request, _) = stream(&parts, false, false).unwrap();
            assert_eq!(request.uri(), "http://h/a?b");
            let fields = request.headers().iter().filter(|(name, _)| *name != TRACEPARENT);
            let mut fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            // The order of fields of other names means nothing.
            let name = |line: &String| line.split(':').next().unwrap().to_owned();
            lines.sort_by_key(name);
            fields.sort_by_key(name);
            assert_eq!(lines, fields, "{edits:?}");
        }
    }

    #[test]
    fn frames_a_streamed_body_in_chunks() {
        let mut head = RequestHead::build("POST", "/", &[("Host", "h"), ("Transfer-Encoding", "chunked")]);
        head.body = BodyFraming::Streamed;
        let text = written(&head, &Exchange::for_tests());
        assert_eq!(text.matches("chunked").count(), 1, "{text}");
    }
}
