//! Who the client really is when proxies stand in front, and what the backend is told about it.
//!
//! `X-Forwarded-For` and `Forwarded` (RFC 7239) are claims of whoever wrote them. They are read from the right, because each proxy
//! appends on the right, and only as far as the addresses on the way are trusted proxies.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::cidr::CidrSet;
use crate::exchange::{Connection, Told, is_gateways};
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Nobody has this many proxies in a row; it bounds the work of a head that is full of trusted addresses.
const MOST_HOPS: usize = 64;

/// The client's address. `peer` is the other end of the connection, or whom the PROXY protocol named.
///
/// If `peer` is not trusted, it is the client, whatever the fields say. Otherwise the client is the rightmost address that is not a
/// trusted proxy's. A hop that is hidden (`unknown`, `_gazonk`), missing or malformed ends the walk: the trusted proxy that reported
/// it is then the last address that is known, and what stands further left could be anybody's invention.
///
/// With both fields present `X-Forwarded-For` alone is read. Proxies that append to it and pass a client's own `Forwarded` through
/// are common, the reverse is rare; believing `Forwarded` as well would let such a client choose its address.
pub fn real_client(peer: IpAddr, head: &RequestHead, trusted: &CidrSet) -> IpAddr {
    let peer = peer.to_canonical();
    if trusted.is_empty() || !trusted.contains(peer) {
        return peer;
    }
    if head.header("x-forwarded-for").is_some() {
        let hops = fields_from_the_right(head, "x-forwarded-for")
            .flat_map(|value| value.rsplit(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            // Empty list elements mean nothing (RFC 9110, section 5.6.1).
            .filter(|hop| !hop.is_empty())
            .map(hop_address);
        walk(peer, hops, trusted)
    } else {
        let hops = fields_from_the_right(head, "forwarded").flat_map(|value| forwarded_for(value).into_iter().rev());
        walk(peer, hops, trusted)
    }
}

fn walk(peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>, trusted: &CidrSet) -> IpAddr {
    let mut client = peer;
    for hop in hops.take(MOST_HOPS) {
        let Some(hop) = hop else { break };
        client = hop;
        if !trusted.contains(hop) {
            break;
        }
    }
    client
}

/// Several fields of one name are one list (RFC 9110, section 5.3): the last field's end is the list's end.
fn fields_from_the_right<'a>(head: &'a RequestHead, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    head.fields
        .iter()
        .rev()
        .filter(move |field| field.name.of(&head.buffer).eq_ignore_ascii_case(name.as_bytes()))
        .map(|field| field.value.of(&head.buffer))
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`, with or without quotes. The port may be
/// obfuscated (`_port`; RFC 7239, section 6.3).
fn hop_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.strip_prefix('"').map_or(Some(text), |text| text.strip_suffix('"'))?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_is_fine
            .then(|| address.parse::<std::net::Ipv6Addr>().ok())?
            .map(|address| IpAddr::V6(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    is_port(port).then(|| address.parse::<std::net::Ipv4Addr>().ok())?.map(IpAddr::V4)
}

fn is_port(text: &str) -> bool {
    let node_port = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(node_port),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The `for` of each element of one `Forwarded` field, from the left; `None` for an element without a usable one. An element that is
/// malformed makes the whole field one unusable hop, for then nobody knows where its elements begin.
fn forwarded_for(value: &[u8]) -> SmallVec<[Option<IpAddr>; 4]> {
    let mut hops = SmallVec::new();
    for element in split_outside_quotes(value, b',') {
        let Some(element) = element else { return SmallVec::from_elem(None, 1) };
        let element = element.trim_ascii();
        if element.is_empty() {
            continue;
        }
        let mut hop = None;
        let mut seen = false;
        for pair in split_outside_quotes(element, b';').flatten() {
            let mut sides = pair.splitn(2, |&byte| byte == b'=');
            let name = sides.next().unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"for") {
                // A parameter must not occur twice (RFC 7239, section 4): neither is then believed.
                hop = if seen { None } else { sides.next().and_then(|text| hop_address(text.trim_ascii())) };
                seen = true;
            }
        }
        hops.push(hop);
    }
    hops
}

/// Splits at `separator` where it is not inside a quoted string. A quoted string that never ends yields `None`, once, at the end.
fn split_outside_quotes(text: &[u8], separator: u8) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|&byte| {
            if escaped {
                escaped = false;
            } else if quoted && byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                quoted = !quoted;
            }
            byte == separator && !quoted
        });
        match end {
            Some(end) => {
                rest = text.get(end + 1..);
                Some(text.get(..end))
            }
            None => Some((!quoted).then_some(text)),
        }
    })
}

/// What is known of the last hop, to be told to the backend.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The other end of the connection, or whom the PROXY protocol named.
    pub peer: IpAddr,
    /// What [`real_client`] said.
    pub client: IpAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// `http` or `https`, as it came to the gateway.
    pub scheme: &'a str,
    /// Whether `peer` is a trusted proxy.
    pub trusted: bool,
}

/// What the backend is told of who asked, and how.
///
/// From a trusted proxy, `X-Forwarded-For` and `Forwarded` are extended by one hop, and its `X-Forwarded-Proto`, `-Host` and `-Port`
/// stay if they are well formed. From anyone else all of them are replaced, and other `X-Forwarded-*` fields are removed (by adding to
/// `edits`), as backends tend to believe them. Spellings with `_` are removed either way: behind CGI-like interfaces they are the same
/// variable. `X-Real-IP` is the real client in every case.
///
/// Of a hop that is not trusted, every request of a connection that names the same authority tells the same: it is made once.
pub fn told(connection: &Connection, head: &RequestHead, hop: &Hop<'_>, edits: &mut HeaderEdits) -> Arc<Told> {
    remove_forgeries(head, hop.trusted, edits);
    if hop.trusted {
        return Arc::new(tell(head, hop));
    }
    let mut told = connection.told.lock();
    if let Some((_, known)) = told.as_ref().filter(|(authority, _)| **authority == *head.authority()) {
        return known.clone();
    }
    let fresh = Arc::new(tell(head, hop));
    *told = Some((head.authority().into(), fresh.clone()));
    fresh
}

fn tell(head: &RequestHead, hop: &Hop<'_>) -> Told {
    let before = |name: &'static str| if hop.trusted { joined(head, name) } else { None };
    let kept = |name: &'static str, fine: fn(&[u8]) -> bool| {
        hop.trusted.then(|| head.header(name).filter(|value| fine(value))).flatten()
    };
    let proto = kept("x-forwarded-proto", |value| matches!(value, b"http" | b"https")).unwrap_or(hop.scheme.as_bytes());
    let host = kept("x-forwarded-host", is_host).unwrap_or(head.authority());
    let mut port = itoa::Buffer::new();
    let port = kept("x-forwarded-port", is_decimal_port).unwrap_or(port.format(hop.local.port()).as_bytes());

    // One buffer for all the values; each is a slice of it.
    let mut values = Values { text: Vec::with_capacity(256), fields: SmallVec::new() };
    let mut edits = HeaderEdits::new();
    values.put(&X_FORWARDED_FOR, |text| {
        push_list(text, before("x-forwarded-for"));
        push_display(text, hop.peer.to_canonical());
    });
    values.put(&X_FORWARDED_PROTO, |text| text.extend_from_slice(proto));
    if host.is_empty() {
        // An HTTP/1.0 client named no host; someone else's claim must not stand in for it.
        edits.push(HeaderEdit::Remove(X_FORWARDED_HOST.clone()));
    } else {
        values.put(&X_FORWARDED_HOST, |text| text.extend_from_slice(host));
    }
    values.put(&X_FORWARDED_PORT, |text| text.extend_from_slice(port));
    values.put(&http::header::FORWARDED, |text| {
        push_list(text, before("forwarded"));
        push_forwarded(text, hop, head.authority());
    });
    values.put(&X_REAL_IP, |text| push_display(text, hop.client.to_canonical()));
    values.into_edits(&mut edits);
    Told::new(edits)
}

struct Values<'a> {
    text: Vec<u8>,
    fields: SmallVec<[(&'a HeaderName, usize); 8]>,
}

impl<'a> Values<'a> {
    fn put(&mut self, name: &'a HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.fields.push((name, self.text.len()));
    }

    fn into_edits(self, edits: &mut HeaderEdits) {
        let text = Bytes::from(self.text);
        let mut start = 0;
        for (name, end) in self.fields {
            // What cannot stand in a field (it came from the client) is dropped along with what the client claimed under that name.
            edits.push(match HeaderValue::from_maybe_shared(text.slice(start..end)) {
                Ok(value) => HeaderEdit::Set(name.clone(), value),
                Err(_) => HeaderEdit::Remove(name.clone()),
            });
            start = end;
        }
    }
}

/// All fields of that name as one list, from left to right.
fn joined<'a>(head: &'a RequestHead, name: &'static str) -> Option<impl Iterator<Item = &'a [u8]> + 'a> {
    let mut values = head.header_all(name).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty()).peekable();
    values.peek().is_some().then_some(values)
}

fn push_list<'a>(text: &mut Vec<u8>, list: Option<impl Iterator<Item = &'a [u8]>>) {
    for value in list.into_iter().flatten() {
        text.extend_from_slice(value);
        text.extend_from_slice(b", ");
    }
}

/// Addresses and the like, whose formatting cannot fail.
fn push_display(text: &mut Vec<u8>, value: impl std::fmt::Display) {
    let mut short = ShortText(text);
    let _ = write!(short, "{value}");
}

struct ShortText<'a>(&'a mut Vec<u8>);

impl Write for ShortText<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// `for=192.0.2.1;proto=https;host="example.com"` (RFC 7239, section 4).
fn push_forwarded(text: &mut Vec<u8>, hop: &Hop<'_>, authority: &[u8]) {
    text.extend_from_slice(b"for=");
    match hop.peer.to_canonical() {
        IpAddr::V4(address) => push_display(text, address),
        IpAddr::V6(address) => push_display(text, format_args!("\"[{address}]\"")),
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(hop.scheme.as_bytes());
    if !authority.is_empty() {
        text.extend_from_slice(b";host=\"");
        for &byte in authority {
            if matches!(byte, b'"' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'"');
    }
}

fn remove_forgeries(head: &RequestHead, trusted: bool, edits: &mut HeaderEdits) {
    for (name, _) in head.headers() {
        // The cheap look first: most fields begin with something else.
        if !matches!(name.first(), Some(b'x' | b'X')) {
            continue;
        }
        let spelled_with_underscore = name.contains(&b'_') && names_forwarding(name);
        let foreign = !trusted && names_forwarding(name) && !is_gateways(name);
        if (spelled_with_underscore || foreign)
            && let Ok(name) = HeaderName::from_bytes(name)
        {
            edits.push(HeaderEdit::Remove(name));
        }
    }
}

/// `X-Forwarded-*` or `X-Real-IP`, `_` counting as `-`.
fn names_forwarding(name: &[u8]) -> bool {
    let same = |name: &[u8], known: &[u8]| {
        name.len() == known.len()
            && name
                .iter()
                .zip(known)
                .all(|(byte, known)| byte.to_ascii_lowercase() == *known || (*byte == b'_' && *known == b'-'))
    };
    name.get(..12).is_some_and(|prefix| same(prefix, b"x-forwarded-")) || same(name, b"x-real-ip")
}

/// A host with or without port, as far as needed to be harmless.
fn is_host(value: &[u8]) -> bool {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (1..=255).contains(&value.len()) && value.iter().all(fine)
}

fn is_decimal_port(value: &[u8]) -> bool {
    (1..=5).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
