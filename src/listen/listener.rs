//! What an entry of `listeners:` compiles to.
//!
//! That two listeners do not share an address is checked where the whole list is known, not here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::{LimitsConfig, ListenerConfig, ListenerProtocol, ProxyProtocolConfig, TimeoutsConfig, ViaConfig};
use super::guard::Caps;
use super::redirect::Redirect;
use super::tls::TlsAcceptor;
use super::tls::config::ClientAuthMode;
use crate::cidr::CidrSet;
use crate::limits::heavy_hitters::{Allowance, LONGEST};
use crate::path::Handling;
use crate::problem::{Place, Problem, Problems};
use crate::value::{Period, Spanned};
use crate::via::Via;
use crate::wait::Pace;

/// A listener, ready to run. Part of the snapshot, so that a reload changes everything but the address for new connections.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub bind: SocketAddr,
    pub protocol: ListenerProtocol,
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
        let tls =
            config.tls.as_ref().map(|tls| TlsAcceptor::compile(tls, config.protocol.value, config.bind.place, base, problems));
        if config.is_tcp() {
            refuse_what_is_about_requests(config, problems);
        }
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
            protocol: config.protocol.value,
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

    /// Whether connections are carried as they are.
    pub fn is_tcp(&self) -> bool {
        self.protocol == ListenerProtocol::Tcp
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

/// A bound that is written and does not hold is worse than none.
fn refuse_what_is_about_requests(config: &ListenerConfig, problems: &mut Problems) {
    let (timeouts, limits) = (&config.timeouts, &config.limits);
    let written = [
        (config.redirect.as_ref().map(|redirect| redirect.place), "redirect"),
        (config.h2c.then_some(config.bind.place), "h2c"),
        (config.trusted_identity.first().map(|address| address.place), "trusted_identity"),
        (config.via.as_ref().map(|via| via.place), "via"),
        (Some(timeouts.header.place), "timeouts.header"),
        (Some(timeouts.keep_alive.place), "timeouts.keep_alive"),
        (Some(timeouts.body.place), "timeouts.body"),
        (Some(timeouts.body_grace.place), "timeouts.body_grace"),
        (Some(timeouts.write.place), "timeouts.write"),
        (timeouts.request.as_ref().map(|request| request.place), "timeouts.request"),
        (Some(limits.head.place), "limits.head"),
        (Some(limits.headers.place), "limits.headers"),
        (Some(limits.uri.place), "limits.uri"),
        (Some(limits.body.place), "limits.body"),
        (Some(limits.body_rate.place), "limits.body_rate"),
    ];
    for (place, key) in written {
        if let Some(place) = place.filter(Place::is_known) {
            let message = format!("`{key}` is about requests, and this listener has `protocol: tcp`");
            problems.push(Problem::error(place, message).hint("leave it out; `tcp_routes` have `timeouts` of their own"));
        }
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
#[path = "listener_tests.rs"]
mod tests;
