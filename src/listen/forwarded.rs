//! Who the client really is when proxies stand in front, and what the backend is told about it.
//!
//! `X-Forwarded-For` and `Forwarded` (RFC 7239) are claims of whoever wrote them. They are read from the right, because each proxy
//! appends on the right, and only as far as the addresses on the way are trusted proxies.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderName;
use smallvec::SmallVec;

use crate::authority::{self, canonical, without_default_port};
use crate::cidr::CidrSet;
use crate::exchange::{Connection, ForwardedHeaders, ForwardedUnder, is_gateways, origin_of, push_framed};
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};
use crate::via::Via;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static FORWARDED: HeaderName = http::header::FORWARDED;
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
    match elements(value) {
        Some(elements) => elements.into_iter().map(|element| parameter(element, b"for").and_then(hop_address)).collect(),
        None => SmallVec::from_elem(None, 1),
    }
}

/// The elements of one `Forwarded` field, from the left, without empty ones. `None` if nobody can tell where they begin.
fn elements(value: &[u8]) -> Option<SmallVec<[&[u8]; 4]>> {
    let parts = split_outside_quotes(value, b',').map(|element| element.map(<[u8]>::trim_ascii));
    parts.filter(|element| element.is_none_or(|element| !element.is_empty())).collect()
}

/// A parameter of an element, as it stands. One that occurs twice, which it must not (RFC 7239, section 4), is not believed.
fn parameter<'a>(element: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut found = split_outside_quotes(element, b';').flatten().filter_map(|pair| {
        let mut sides = pair.splitn(2, |&byte| byte == b'=');
        let name = sides.next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(wanted).then(|| sides.next().unwrap_or_default().trim_ascii())
    });
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// A parameter's value without the quotes that it may stand in.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
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
    /// Whether the connection came over TLS.
    pub secure: bool,
    /// What [`scheme`] said.
    pub scheme: &'static str,
    /// The proxies that are believed, if `peer` is one of them.
    pub proxies: Option<&'a CidrSet>,
    /// Fields that say who the client is, which nobody but the gateway sends.
    pub reserved: &'a [HeaderName],
    /// What the gateway calls itself, if it does.
    pub via: Option<&'a Arc<Via>>,
}

/// `http` or `https`: how the client came. `proxies` are those that are believed, if `peer` is one of them: then it is what they say, else
/// how it came to the gateway.
pub fn scheme(peer: IpAddr, secure: bool, head: &RequestHead, proxies: Option<&CidrSet>) -> &'static str {
    let claimed = proxies.and_then(|proxies| claim(peer, head, proxies, "x-forwarded-proto", b"proto", read_scheme));
    claimed.unwrap_or(if secure { "https" } else { "http" })
}

fn read_scheme(text: &[u8]) -> Option<&'static str> {
    let is = |known: &[u8]| text.eq_ignore_ascii_case(known);
    if is(b"https") || is(b"wss") { Some("https") } else { (is(b"http") || is(b"ws")).then_some("http") }
}

/// What trusted proxies claim of the client's request, in the field of that name, or else in the parameter of the `Forwarded` element that
/// the outermost of them added. Several fields are several claims, and none is believed.
fn claim<'a, T>(
    peer: IpAddr,
    head: &'a RequestHead,
    proxies: &CidrSet,
    field: &'static str,
    name: &[u8],
    read: impl Fn(&'a [u8]) -> Option<T>,
) -> Option<T> {
    let mut fields = head.header_all(field);
    match (fields.next(), fields.next()) {
        (Some(value), None) => read(value.trim_ascii()),
        (Some(_), Some(_)) => None,
        (None, _) => outermost(peer, head, proxies).and_then(|element| parameter(element, name)).map(unquoted).and_then(read),
    }
}

/// The element of `Forwarded` that the outermost trusted proxy added, as [`real_client`] finds it. None beside `X-Forwarded-For`, for
/// then it may be the client's own.
fn outermost<'a>(peer: IpAddr, head: &'a RequestHead, proxies: &CidrSet) -> Option<&'a [u8]> {
    if !proxies.contains(peer.to_canonical()) || head.header("x-forwarded-for").is_some() {
        return None;
    }
    let mut found = None;
    let mut hops = 0;
    for field in fields_from_the_right(head, "forwarded") {
        for element in elements(field)?.into_iter().rev() {
            found = Some(element);
            hops += 1;
            let hop = parameter(element, b"for").and_then(hop_address);
            if hops == MOST_HOPS || !hop.is_some_and(|hop| proxies.contains(hop)) {
                return found;
            }
        }
    }
    found
}

/// What the backend is told of who asked, and how.
///
/// From a trusted proxy, `X-Forwarded-For` and `Forwarded` are extended by one hop, and its `X-Forwarded-Proto`, `-Host` and `-Port`
/// stay if they are well formed. Where it sends only one of the two lists, the other is made of it, and `Forwarded` also where it sends both:
/// see [`real_client`]. From anyone else all of them are replaced, and other `X-Forwarded-*` fields are removed (by adding to
/// `edits`), as backends tend to believe them. Spellings with `_` are removed either way: behind CGI-like interfaces they are the same
/// variable. `X-Real-IP` is the real client in every case. `X-Forwarded-Port` never says anything but what the host and the scheme say.
///
/// Of a hop that is not trusted, every request of a connection that names the same authority tells the same: it is made once.
pub fn told(connection: &Connection, head: &RequestHead, hop: &Hop<'_>, edits: &mut HeaderEdits) -> Arc<ForwardedHeaders> {
    remove_forgeries(head, hop, edits);
    if hop.proxies.is_some() {
        return Arc::new(tell(head, hop));
    }
    let mut told = connection.told.lock();
    let same = |(authority, known): &&ForwardedUnder| {
        **authority == *head.authority()
            && known.version == head.version
            && known.via.as_ref().map(Arc::as_ptr) == hop.via.map(Arc::as_ptr)
    };
    if let Some((_, known)) = told.as_ref().filter(same) {
        return known.clone();
    }
    let fresh = Arc::new(tell(head, hop));
    *told = Some((head.authority().into(), fresh.clone()));
    fresh
}

fn tell(head: &RequestHead, hop: &Hop<'_>) -> ForwardedHeaders {
    let claimed = hop.proxies.and_then(|proxies| claim(hop.peer, head, proxies, "x-forwarded-host", b"host", canonical));
    let host = claimed.as_ref().map_or_else(|| head.authority(), |claimed| claimed.text.as_bytes());
    let host = without_default_port(host, hop.scheme);
    let port = told_port(head, hop, host);
    let before = hop.proxies.map(|_| Before::of(head)).unwrap_or_default();

    let mut told = ForwardedHeaders {
        wire: Vec::with_capacity(320),
        scheme: hop.scheme,
        version: head.version,
        via: hop.via.cloned(),
        ..ForwardedHeaders::default()
    };
    let peer = hop.peer.to_canonical();
    // Whether something of what others have sent is in the lists.
    let theirs = hop.proxies.is_some();
    // Where the peer's address stands: it is written up to three times, and the others are copies.
    let mut own = 0..0;
    let stands = put(&mut told, &X_FORWARDED_FOR, theirs, |text| {
        before.addresses(text);
        let start = text.len();
        push_address(text, peer);
        own = start..text.len();
    });
    let push_peer = |text: &mut Vec<u8>| match stands {
        true => text.extend_from_within(own.clone()),
        false => push_address(text, peer),
    };
    put(&mut told, &X_FORWARDED_PROTO, false, |text| text.extend_from_slice(hop.scheme.as_bytes()));
    if host.is_empty() {
        // An HTTP/1.0 client named no host; someone else's claim must not stand in for it.
        told.fields.push((&X_FORWARDED_HOST, None));
    } else {
        put(&mut told, &X_FORWARDED_HOST, true, |text| text.extend_from_slice(host));
    }
    put(&mut told, &X_FORWARDED_PORT, false, |text| text.extend_from_slice(itoa::Buffer::new().format(port).as_bytes()));
    put(&mut told, &FORWARDED, true, |text| {
        before.elements(text, hop.scheme, host);
        match peer {
            IpAddr::V4(_) => {
                text.extend_from_slice(b"for=");
                push_peer(text);
            }
            IpAddr::V6(_) => push_node(text, Some(peer)),
        }
        push_came(text, if hop.secure { "https" } else { "http" }, head.authority());
    });
    put(&mut told, &X_REAL_IP, false, |text| match hop.client.to_canonical() {
        client if client == peer => push_peer(text),
        client => push_address(text, client),
    });
    if let Some(via) = hop.via {
        for part in [&b"via: "[..], via.value(head.version).as_bytes(), b"\r\n"] {
            told.wire.extend_from_slice(part);
        }
    }
    told.origin = origin_of(hop.scheme, host, port);
    if hop.proxies.is_some() {
        before.origin(head, &mut told.origin);
    }
    told
}

/// Writes a field. `theirs`: there is something in it that was sent. Whether it stands.
fn put(told: &mut ForwardedHeaders, name: &'static HeaderName, theirs: bool, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let wire = &mut told.wire;
    let line = wire.len();
    wire.extend_from_slice(name.as_str().as_bytes());
    wire.extend_from_slice(b": ");
    let start = wire.len();
    write(wire);
    let place = start..wire.len();
    // Without a way out, so that it takes many bytes at a time.
    let passes = |value: &[u8]| value.iter().fold(true, |fine, &byte| fine & ((byte >= b' ') & (byte != 0x7f) | (byte == b'\t')));
    let stands = !theirs || passes(wire.get(start..).unwrap_or_default());
    if stands {
        wire.extend_from_slice(b"\r\n");
    } else {
        // What cannot stand in a field (it came from the client) is dropped along with what the client claimed under that name.
        wire.truncate(line);
    }
    told.fields.push((name, stands.then_some(place)));
    stands
}

/// The port of the host that is told; where it names none, the one that a trusted proxy adds, or else the scheme's.
fn told_port(head: &RequestHead, hop: &Hop<'_>, host: &[u8]) -> u16 {
    let of_scheme = |scheme| authority::number(authority::default_port(scheme).as_bytes()).unwrap_or_default();
    if let Some(port) = authority::port(host).and_then(authority::number) {
        return port;
    }
    let own = of_scheme(hop.scheme);
    if let Some(proxies) = hop.proxies {
        let added = claim(hop.peer, head, proxies, "x-forwarded-port", b"", authority::number);
        // Port 80 beside `https` is what a proxy says that does not know of the one before it.
        let other = of_scheme(if hop.scheme == "https" { "http" } else { "https" });
        return added.filter(|port| *port != 0 && *port != other).unwrap_or(own);
    }
    // Without a host there is nothing to contradict.
    if host.is_empty() { hop.local.port() } else { own }
}

/// The hops before the last, as trusted proxies tell of them.
#[derive(Default)]
enum Before<'a> {
    #[default]
    Nothing,
    /// The members of `X-Forwarded-For`.
    Addresses(SmallVec<[&'a [u8]; 8]>),
    /// The elements of `Forwarded`.
    Elements(SmallVec<[&'a [u8]; 8]>),
}

impl<'a> Before<'a> {
    /// Empty members mean nothing (RFC 9110, section 5.6.1) and are not passed on.
    fn of(head: &'a RequestHead) -> Self {
        if head.header("x-forwarded-for").is_some() {
            let members = head.header_all("x-forwarded-for").flat_map(|value| value.split(|&byte| byte == b','));
            return Before::Addresses(members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).collect());
        }
        // One that cannot be read hides where its elements end, and with it where the next hop's would begin.
        Before::Elements(head.header_all("forwarded").filter_map(elements).flatten().collect())
    }

    /// Writes them as a list of addresses that goes on.
    fn addresses(&self, text: &mut Vec<u8>) {
        match self {
            Before::Nothing => {}
            Before::Addresses(members) => members.iter().for_each(|member| push_member(text, member)),
            Before::Elements(elements) => {
                for element in elements {
                    match parameter(element, b"for").and_then(hop_address) {
                        Some(address) => push_address(text, address),
                        None => text.extend_from_slice(b"unknown"),
                    }
                    text.extend_from_slice(b", ");
                }
            }
        }
    }

    /// Writes them as a list of `Forwarded` elements that goes on (RFC 7239, section 7.4). The first one says how the client came.
    fn elements(&self, text: &mut Vec<u8>, scheme: &str, host: &[u8]) {
        match self {
            Before::Nothing => {}
            Before::Elements(elements) => elements.iter().for_each(|element| push_member(text, element)),
            Before::Addresses(members) => {
                for (at, member) in members.iter().enumerate() {
                    push_node(text, hop_address(member));
                    if at == 0 {
                        push_came(text, scheme, host);
                    }
                    text.extend_from_slice(b", ");
                }
            }
        }
    }

    /// What else of the proxies' words a backend may make its links of: the hosts and schemes of elements, and `X-Forwarded-Prefix` and the
    /// like, which pass as they came.
    fn origin(&self, head: &RequestHead, origin: &mut Vec<u8>) {
        if let Before::Elements(elements) = self {
            for element in elements {
                for name in [&b"host"[..], b"proto"] {
                    push_framed(origin, parameter(element, name).unwrap_or_default());
                }
            }
        }
        for (name, value) in head.headers().filter(|(name, _)| names_forwarding(name) && !is_gateways(name)) {
            push_framed(origin, &name.to_ascii_lowercase());
            push_framed(origin, value);
        }
    }
}

fn push_member(text: &mut Vec<u8>, member: &[u8]) {
    text.extend_from_slice(member);
    text.extend_from_slice(b", ");
}

/// IPv4 by hand: it is written several times for every connection, and the library's way costs ten times as much.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else { return push_display(text, address) };
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push(b'.');
        }
        text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
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

/// The beginning of an element of `Forwarded` (RFC 7239, section 4): `for=192.0.2.1;proto=https;host="example.com"`.
fn push_node(text: &mut Vec<u8>, node: Option<IpAddr>) {
    text.extend_from_slice(b"for=");
    match node {
        Some(address @ IpAddr::V4(_)) => push_address(text, address),
        Some(IpAddr::V6(address)) => push_display(text, format_args!("\"[{address}]\"")),
        None => text.extend_from_slice(b"unknown"),
    }
}

/// A canonical authority holds nothing that a quoted string would have to escape.
fn push_came(text: &mut Vec<u8>, scheme: &str, authority: &[u8]) {
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(scheme.as_bytes());
    if !authority.is_empty() {
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(authority);
        text.push(b'"');
    }
}

fn remove_forgeries(head: &RequestHead, hop: &Hop<'_>, edits: &mut HeaderEdits) {
    for (name, _) in head.headers() {
        // The cheap look first: most fields begin with something else.
        if !matches!(name.first(), Some(b'x' | b'X')) {
            continue;
        }
        let spelled_with_underscore = name.contains(&b'_') && names_forwarding(name);
        let foreign = hop.proxies.is_none() && names_forwarding(name) && !is_gateways(name);
        let reserved = || hop.reserved.iter().any(|reserved| name.eq_ignore_ascii_case(reserved.as_str().as_bytes()));
        if (spelled_with_underscore || foreign || reserved())
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

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
