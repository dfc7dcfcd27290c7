//! What people write under `listeners:`.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::redirect::RedirectConfig;
use super::tls::config::TlsConfig;
use crate::path::AmbiguousPaths;
use crate::problem::Place;
use crate::value::{Period, Rate, Size, Spanned};

/// One address that the gateway listens on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Its name in logs and metrics: 1 to 64 visible ASCII characters. Default: the bind address.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// `0.0.0.0:8080`, `[::]:443`, or `:8080` for every address of this host, IPv4 and IPv6.
    pub bind: Spanned<String>,
    /// What is spoken here: `http`, by which `routes` go, or `tcp`, which is anything: connections then go by `tcp_routes`, and what is
    /// about requests has no place on the listener. Default: `http`.
    #[serde(default)]
    pub protocol: Spanned<ListenerProtocol>,
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
    /// From anyone else these fields are replaced. Their `X-Request-Deadline`, so many milliseconds, is obeyed; anyone else's is dropped.
    /// Default: nobody.
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

    /// Whether it carries connections as they are, and serves no requests.
    pub fn is_tcp(&self) -> bool {
        self.protocol.value == ListenerProtocol::Tcp
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    #[default]
    Http,
    Tcp,
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
