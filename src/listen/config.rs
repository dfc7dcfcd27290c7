//! What people write under `listeners:`, and what it compiles to.
//!
//! That two listeners do not share an address is checked where the whole list is known, not here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::guard::Caps;
use super::redirect::{Redirect, RedirectConfig};
use super::tls::TlsAcceptor;
use super::tls::config::{ClientAuthMode, TlsConfig};
use crate::cidr::CidrSet;
use crate::limits::heavy_hitters::{Allowance, LONGEST};
use crate::path::{AmbiguousPaths, Handling};
use crate::problem::{Place, Problem, Problems};
use crate::value::{Period, Rate, Size, Spanned};
use crate::via::Via;
use crate::wait::Pace;

/// One address that the gateway listens on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Its name in logs and metrics: 1 to 64 visible ASCII characters. Default: the bind address.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// `0.0.0.0:8080`, `[::]:443`, or `:8080` for every address of this host, IPv4 and IPv6.
    pub bind: Spanned<String>,
    /// Serve TLS. Default: plain text.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Sends every client of a plain listener to TLS, on the same host, path and query: 301 for GET and HEAD, 308 for other methods.
    /// `https`: to the port that URLs need not name, or, for clients that named a port, to that of the only listener with TLS.
    /// `{ port: 8443 }`: to that port. What a trusted proxy says came over TLS is served. Default: requests are served.
    #[serde(default)]
    pub redirect: Option<Spanned<RedirectConfig>>,
    /// Take HTTP/2 without TLS from clients that begin with its preface, beside HTTP/1.1. Default: false.
    #[serde(default)]
    pub h2c: bool,
    /// Connections begin with a PROXY protocol header (version 1 or 2) that says who the client is. Default: none is read.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocolConfig>,
    /// Addresses and CIDR ranges of HTTP proxies in front whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are believed.
    /// From anyone else these fields are replaced. Default: nobody.
    #[serde(default)]
    pub trusted_proxies: Vec<Spanned<String>>,
    /// Addresses and CIDR ranges of peers that have proved who the client is, and may say so: their `X-Consumer-Name`, `X-Auth-*`,
    /// `Client-Cert` and `Client-Cert-Chain` go on to the backend. From anyone else, proxies under `trusted_proxies` included, these fields
    /// are removed. Name only peers that never pass on what their own clients send under these names. Default: nobody.
    #[serde(default)]
    pub trusted_identity: Vec<Spanned<String>>,
    /// What the gateway calls itself in `Via`, which it adds to requests and to the answers that it passes on (RFC 9110, section 7.6.3): a
    /// name, or a host with a port. `false` adds nothing. Default: `portcullis`.
    #[serde(default)]
    pub via: Option<Spanned<ViaConfig>>,
    /// What happens to a path that a backend may read otherwise: one with an encoded slash or backslash (`%2F`, `%5C`), a path parameter
    /// (`;x=1`) or something encoded twice (`%252F`). A route may say otherwise. Default: `auto`, it is refused where the reading makes a
    /// difference to the gateway.
    #[serde(default)]
    pub ambiguous_paths: AmbiguousPaths,
    /// Send backends one slash where the client wrote several (`//`). A route may say otherwise. Default: true.
    #[serde(default = "yes")]
    pub merge_slashes: bool,
    /// The most connections at once; more are closed as they come. At least 1. Default: 65536.
    #[serde(default = "default_connections")]
    pub max_connections: Spanned<u32>,
    /// The most connections at once from one IPv4 address or one IPv6 /64; more are closed as they come. Trusted proxies are not
    /// counted by address. At least 1. Default: 1024.
    #[serde(default = "default_connections_per_address")]
    pub max_connections_per_address: Spanned<u32>,
    /// The most new connections from one IPv4 address or one IPv6 /64 in a time of 1 second to 1 minute: `100/s`, `1000/minute`. More are
    /// closed as they come, before TLS. Whoever begins a flood may bring half as many again in its first second; nobody is refused for
    /// what others do. Trusted proxies are not counted, but for the clients that they name with the PROXY protocol. Default: no bound,
    /// for one address may be a whole office.
    #[serde(default)]
    pub max_new_connections_per_address: Option<Spanned<Rate>>,
    /// How long clients may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// How much clients may send.
    #[serde(default)]
    pub limits: LimitsConfig,
}

impl ListenerConfig {
    /// What it is called, also where nobody named it.
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or(self.bind.value.trim(), |name| &name.value)
    }
}

/// The PROXY protocol on a listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocolConfig {
    /// Addresses and CIDR ranges that may send the header: the load balancers. At least one.
    pub trusted: Vec<Spanned<String>>,
    /// Close connections that come from elsewhere or lack the header. If false they count as direct connections; from elsewhere a
    /// header is never read. Default: true.
    #[serde(default = "yes")]
    pub required: bool,
}

/// A name, or whether there is one at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViaConfig {
    On(bool),
    Name(String),
}

impl<'de> Deserialize<'de> for ViaConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl de::Visitor<'_> for Name {
            type Value = ViaConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or false")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<ViaConfig, E> {
                Ok(ViaConfig::On(on))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ViaConfig, E> {
                Ok(ViaConfig::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Name)
    }
}

impl JsonSchema for ViaConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ViaConfig".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "boolean"] })
    }
}

/// How long clients may take. Each is more than 0 and at most a day.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// From accepting a connection to the end of the PROXY header and the TLS handshake. Default: 10s.
    pub handshake: Spanned<Period>,
    /// From a request's first byte to the end of its head, however slowly the bytes trickle. Default: 10s.
    pub header: Spanned<Period>,
    /// Idle time between two requests on a connection. Default: 75s.
    pub keep_alive: Spanned<Period>,
    /// The longest silence while a request body is awaited, except on gRPC calls. Default: 60s.
    pub body: Spanned<Period>,
    /// How long a request body may be awaited, in all, before `limits.body_rate` counts. Default: 20s.
    pub body_grace: Spanned<Period>,
    /// The longest time in which a client takes nothing of an answer. Default: 60s.
    pub write: Spanned<Period>,
    /// The total deadline of an exchange, from the end of a request's head to the end of its answer; beyond it 504, or a broken-off
    /// answer. A route's `timeout` replaces it. It bounds neither upgraded connections (WebSocket) nor `text/event-stream` once
    /// they have begun, nor gRPC calls, which bring a deadline of their own. Default: none; what makes headway goes on.
    pub request: Option<Spanned<Period>>,
}

/// How much clients may send.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The whole request head: request line and all fields; beyond it 431. 1KiB to 512KiB. Default: 32KiB.
    pub head: Spanned<Size>,
    /// How many header fields; beyond it 431. 1 to 256. Default: 100.
    pub headers: Spanned<u32>,
    /// The request target; beyond it 414. 64 bytes up to `head`. Default: 8KiB.
    pub uri: Spanned<Size>,
    /// A request body, whatever its framing; beyond it 413. A route may set less or more. At least 1. Default: 10MiB.
    pub body: Spanned<Size>,
    /// The least rate of a request body, in bytes per second, over its whole length: what is awaited of it may take `timeouts.body_grace`,
    /// and a second more for each so many bytes that came; beyond it 408. The time in which the service does not take what came is not
    /// counted. Not for gRPC calls, and not once a connection is upgraded or the answer is an event stream. 0: no least rate. Default:
    /// 500.
    pub body_rate: Spanned<Size>,
}

fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned { value, place: Place::NOWHERE }
}

fn yes() -> bool {
    true
}

fn default_connections() -> Spanned<u32> {
    unwritten(65_536)
}

fn default_connections_per_address() -> Spanned<u32> {
    unwritten(1024)
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        let seconds = |count| unwritten(Period(Duration::from_secs(count)));
        TimeoutsConfig {
            handshake: seconds(10),
            header: seconds(10),
            keep_alive: seconds(75),
            body: seconds(60),
            body_grace: seconds(20),
            write: seconds(60),
            request: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            head: unwritten(Size(32 << 10)),
            headers: unwritten(100),
            uri: unwritten(Size(8 << 10)),
            body: unwritten(Size(10 << 20)),
            body_rate: unwritten(Size(500)),
        }
    }
}

/// A listener, ready to run. Part of the snapshot, so that a reload changes everything but the address for new connections.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub bind: SocketAddr,
    pub tls: Option<Arc<TlsAcceptor>>,
    /// What is answered instead of serving.
    pub redirect: Option<Redirect>,
    pub h2c: bool,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub trusted_proxies: CidrSet,
    /// Those who may say who the client has proved to be.
    pub trusted_identity: CidrSet,
    /// What the gateway calls itself.
    pub via: Option<Arc<Via>>,
    pub paths: Handling,
    pub caps: Caps,
    /// How many new connections of one address are let in.
    pub arrivals: Option<Allowance>,
    pub timeouts: Timeouts,
    pub limits: Limits,
}

/// See [`TimeoutsConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub handshake: Duration,
    pub header: Duration,
    pub keep_alive: Duration,
    pub body: Duration,
    pub body_grace: Duration,
    pub write: Duration,
    pub request: Option<Duration>,
}

/// See [`LimitsConfig`]. In bytes, but for `headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub head: usize,
    pub headers: usize,
    pub uri: usize,
    pub body: u64,
    pub body_rate: u64,
}

#[derive(Debug, Clone)]
pub struct ProxyProtocol {
    pub trusted: CidrSet,
    pub required: bool,
}

/// How a connection has to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With a PROXY header, or it is closed.
    Header,
    /// With a PROXY header, or without.
    MaybeHeader,
    /// With the client's own bytes; a PROXY header would be somebody's forgery and fails as malformed HTTP or TLS.
    Plain,
    /// Not at all: this listener is only for trusted proxies.
    Refuse,
}

impl Listener {
    /// `base` is the folder that relative file names count from. `None` only if a problem was found.
    pub fn compile(config: &ListenerConfig, base: &Path, problems: &mut Problems) -> Option<Listener> {
        let bind = bind_address(&config.bind, problems);
        let name = name(config, problems);
        let tls = config.tls.as_ref().map(|tls| TlsAcceptor::compile(tls, config.bind.place, base, problems));
        if config.h2c && config.tls.is_some() {
            let message = "`h2c` is HTTP/2 without TLS, and this listener has TLS: it has no effect";
            problems.push(Problem::warning(config.bind.place, message).hint("HTTP/2 over TLS is `tls.h2`"));
        }
        if let (Some(redirect), Some(_)) = (&config.redirect, &config.tls) {
            problems.push(Problem::error(redirect.place, "`redirect` is for a listener without TLS, and this one has it"));
        }
        let proxy_protocol = config.proxy_protocol.as_ref().map(|written| proxy_protocol(written, config.bind.place, problems));
        let trusted_proxies = CidrSet::compile(&config.trusted_proxies, problems);
        warn_of_everyone(&trusted_proxies, &config.trusted_proxies, problems);
        let trusted_identity = CidrSet::compile(&config.trusted_identity, problems);
        warn_of_impostors(&trusted_identity, &config.trusted_identity, problems);
        let via = via(config, problems);
        let caps = caps(config, problems);
        let arrivals = arrivals(config, problems);
        let timeouts = timeouts(&config.timeouts, problems);
        let limits = limits(&config.limits, problems);
        // A listener whose TLS did not compile must never come up as plain text.
        let tls = match tls {
            Some(compiled) => Some(Arc::new(compiled?)),
            None => None,
        };
        Some(Listener {
            name: name?,
            bind: bind?,
            tls,
            redirect: None,
            h2c: config.h2c && config.tls.is_none(),
            proxy_protocol,
            trusted_proxies,
            trusted_identity,
            via: via?,
            paths: Handling { ambiguous: config.ambiguous_paths, merge_slashes: config.merge_slashes },
            caps,
            arrivals,
            timeouts: timeouts?,
            limits: limits?,
        })
    }

    /// Whether there is no connection without a good client certificate.
    pub fn requires_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_auth() == Some(ClientAuthMode::Required))
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_for_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_auth().is_some())
    }

    /// How a connection from this address has to begin. `peer` is the other end of the socket.
    pub fn opening(&self, peer: IpAddr) -> Opening {
        match &self.proxy_protocol {
            None => Opening::Plain,
            Some(proxy) => match (proxy.trusted.contains(peer), proxy.required) {
                (true, true) => Opening::Header,
                (true, false) => Opening::MaybeHeader,
                (false, true) => Opening::Refuse,
                (false, false) => Opening::Plain,
            },
        }
    }

    /// How a request's body has to come.
    pub fn body_pace(&self) -> Pace {
        Pace { silence: self.timeouts.body, grace: self.timeouts.body_grace, rate: self.limits.body_rate }
    }

    /// The address to count a connection under: `None` for a trusted proxy, which carries many clients.
    pub fn counted_address(&self, address: IpAddr) -> Option<IpAddr> {
        let proxy = self.trusted_proxies.contains(address)
            || self.proxy_protocol.as_ref().is_some_and(|proxy| proxy.trusted.contains(address));
        (!proxy).then_some(address)
    }
}

fn bind_address(bind: &Spanned<String>, problems: &mut Problems) -> Option<SocketAddr> {
    let text = bind.value.trim();
    let parsed = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        None => text.parse().ok(),
    };
    let hint = "write an address and a port: 0.0.0.0:8080, [::]:443, or :8080 for every address of this host";
    match parsed {
        None => problems.push(Problem::error(bind.place, format!("`{text}` is no address to listen on")).hint(hint)),
        Some(address) if address.port() == 0 => {
            problems.push(Problem::warning(bind.place, "port 0 takes whichever port is free, another one after each start"));
        }
        Some(_) => {}
    }
    parsed
}

fn name(config: &ListenerConfig, problems: &mut Problems) -> Option<Arc<str>> {
    let Some(name) = &config.name else { return Some(config.bind.value.trim().into()) };
    if (1..=64).contains(&name.value.len()) && name.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(name.value.as_str().into());
    }
    let message = "a listener's name is 1 to 64 visible ASCII characters without spaces";
    problems.push(Problem::error(name.place, message));
    None
}

fn proxy_protocol(config: &ProxyProtocolConfig, place: Place, problems: &mut Problems) -> ProxyProtocol {
    if config.trusted.is_empty() {
        let message = "`proxy_protocol.trusted` is empty, so nobody may send the header";
        problems.push(Problem::error(place, message).hint("list the load balancers' addresses"));
    }
    let trusted = CidrSet::compile(&config.trusted, problems);
    warn_of_everyone(&trusted, &config.trusted, problems);
    ProxyProtocol { trusted, required: config.required }
}

fn warn_of_everyone(set: &CidrSet, texts: &[Spanned<String>], problems: &mut Problems) {
    if set.is_everyone() {
        let place = texts.first().map_or(Place::NOWHERE, |text| text.place);
        let message = "every address is trusted here, so every client can choose the address it is taken for";
        problems.push(Problem::warning(place, message));
    }
}

fn warn_of_impostors(set: &CidrSet, texts: &[Spanned<String>], problems: &mut Problems) {
    if set.is_everyone() {
        let place = texts.first().map_or(Place::NOWHERE, |text| text.place);
        let message = "every address is trusted here, so every client can choose who it is taken for";
        problems.push(Problem::warning(place, message));
    }
}

/// What the gateway calls itself, if it does. `None` if the name is none.
fn via(config: &ListenerConfig, problems: &mut Problems) -> Option<Option<Arc<Via>>> {
    let name = match config.via.as_ref().map(|via| &via.value) {
        Some(ViaConfig::On(false)) => return Some(None),
        Some(ViaConfig::Name(name)) => name,
        None | Some(ViaConfig::On(true)) => "portcullis",
    };
    let via = Via::new(name);
    if via.is_none() {
        let place = config.via.as_ref().map_or(Place::NOWHERE, |via| via.place);
        let problem = Problem::error(place, "`via` is a name without spaces, or a host with a port");
        problems.push(problem.hint("write `via: edge-1`, or `via: false` to add nothing"));
    }
    Some(Some(Arc::new(via?)))
}

fn caps(config: &ListenerConfig, problems: &mut Problems) -> Caps {
    for (cap, key) in
        [(&config.max_connections, "max_connections"), (&config.max_connections_per_address, "max_connections_per_address")]
    {
        if cap.value == 0 {
            problems.push(Problem::error(cap.place, format!("`{key}: 0` would let nobody in")).hint("write at least 1"));
        }
    }
    Caps { connections: config.max_connections.value as usize, per_address: config.max_connections_per_address.value as usize }
}

fn arrivals(config: &ListenerConfig, problems: &mut Problems) -> Option<Allowance> {
    let rate = config.max_new_connections_per_address.as_ref()?;
    let allowance = Allowance::new(rate.value);
    if allowance.is_none() {
        let message = format!("`max_new_connections_per_address` counts over at most {}", Period(LONGEST));
        problems.push(Problem::error(rate.place, message).hint("write `100/s` or `1000/minute`"));
    }
    allowance
}

fn timeouts(config: &TimeoutsConfig, problems: &mut Problems) -> Option<Timeouts> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let mut checked = |period: &Spanned<Period>, key: &str| {
        let value = period.value.0;
        let fine = !value.is_zero() && value <= DAY;
        if !fine {
            problems.push(Problem::error(period.place, format!("`timeouts.{key}` must be more than 0 and at most a day")));
        }
        fine.then_some(value)
    };
    // All of them are looked at before the first `?`, so that every problem is found.
    let handshake = checked(&config.handshake, "handshake");
    let header = checked(&config.header, "header");
    let keep_alive = checked(&config.keep_alive, "keep_alive");
    let body = checked(&config.body, "body");
    let body_grace = checked(&config.body_grace, "body_grace");
    let write = checked(&config.write, "write");
    let request = config.request.as_ref().map(|request| checked(request, "request"));
    Some(Timeouts {
        handshake: handshake?,
        header: header?,
        keep_alive: keep_alive?,
        body: body?,
        body_grace: body_grace?,
        write: write?,
        request: match request {
            Some(request) => Some(request?),
            None => None,
        },
    })
}

fn limits(config: &LimitsConfig, problems: &mut Problems) -> Option<Limits> {
    let mut checked = |value: u64, place: Place, least: u64, most: u64, what: &str| {
        let fine = (least..=most).contains(&value);
        if !fine {
            problems.push(Problem::error(place, format!("`limits.{what}")));
        }
        fine.then_some(value)
    };
    let head = checked(config.head.value.0, config.head.place, 1 << 10, 512 << 10, "head` must be 1KiB to 512KiB");
    let headers = checked(config.headers.value.into(), config.headers.place, 1, 256, "headers` must be 1 to 256");
    let longest = config.head.value.0.max(64);
    // A smaller head alone must not make the unwritten default of `uri` a problem.
    let uri_size = if config.uri.place.is_known() { config.uri.value.0 } else { config.uri.value.0.min(longest) };
    let uri = checked(uri_size, config.uri.place, 64, longest, "uri` must be 64 bytes up to `limits.head`");
    let body = checked(config.body.value.0, config.body.place, 1, u64::MAX, "body` must be at least 1 byte");
    let body_rate = config.body_rate.value.0;
    Some(Limits { head: head? as usize, headers: headers? as usize, uri: uri? as usize, body: body?, body_rate })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
