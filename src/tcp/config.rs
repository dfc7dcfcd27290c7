//! What people write under `tcp_routes:`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::route::{SplitTarget, Sticky};
use crate::value::{OneOrMany, Period, Raw, Size, Spanned};

/// Connections that go to a service as they are: plain TCP by the listener, TLS by the name that the client asks for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpRouteConfig {
    /// Names the route in logs and metrics. Unique; 1 to 512 printable characters. Default: `SNI@LISTENER`, or the listener alone.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// The name or names of the listeners that serve it. Those with `protocol: tcp`; or, to pass some names on and serve the rest as
    /// HTTPS, those with `tls`.
    pub listeners: OneOrMany<Spanned<String>>,
    /// The server name or names that the client asks for in TLS: `db.example.com`, `*.example.com` (one or more labels in place of the
    /// star), or `*` for all TLS, also without a name. An exact name goes before a wildcard, a longer wildcard before a shorter. Default:
    /// every connection that no other route of the listener takes, with TLS or without.
    #[serde(default)]
    pub sni: Option<OneOrMany<Spanned<String>>>,
    /// The service that the connections go to: an entry of `services`, or with `port` a host name. Exactly one of `service` and `split`.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// The port of `service`, where that is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// Services that share the connections by weight.
    #[serde(default)]
    pub split: Option<Vec<Spanned<SplitTarget>>>,
    /// `client_address` keeps a client with one target of `split`. Default: every connection is spread at random.
    #[serde(default)]
    pub sticky: Option<Spanned<TcpSticky>>,
    /// On a listener with `tls`: whether the client's TLS goes on to the service as it is, and is the service's to answer. Else the gateway
    /// answers it, with the listener's certificates, and the service gets what is inside. A listener without `tls` passes all on. Default:
    /// false.
    #[serde(default)]
    pub passthrough: Option<Spanned<bool>>,
    /// Begins the connection to the service with a PROXY protocol header that says who the client is: `v1` or `v2`. The service has to
    /// expect it. Default: none.
    #[serde(default)]
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// The most connections of this route at once, 1 to 1,000,000; more are closed as they come. Default: the listener's bounds.
    #[serde(default)]
    pub max_connections: Option<Spanned<u32>>,
    /// The most connections of this route at once from one IPv4 address or one IPv6 /64, 1 to 1,000,000; more are closed as they come. Counted
    /// is the client that the PROXY protocol names, where one is read. Default: the listener's bounds.
    #[serde(default)]
    pub max_connections_per_address: Option<Spanned<u32>>,
    /// How many bytes a second a connection may have. What is over it waits with whoever sends it.
    #[serde(default)]
    pub bandwidth: BandwidthConfig,
    /// Breaks connections off, within a second, once health checks find that their endpoint is not well: what stands is not left to an
    /// endpoint that new connections no longer go to. Takes a `health_check` of the service. Default: false, and they go on.
    #[serde(default)]
    pub close_on_unhealthy: Option<Spanned<bool>>,
    /// How long connections may last.
    #[serde(default)]
    pub timeouts: TcpTimeoutsConfig,
    /// `ip_restriction` and `address_limit` (connections of one address), in place of the service's and the global ones, which hold
    /// otherwise. Other policies are about requests.
    #[serde(default)]
    pub policies: Option<Raw>,
}

/// How long connections may last.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpTimeoutsConfig {
    /// How long nothing may come from either end, `1s` to `24h`. Default: the service's `timeouts.stream`, an hour.
    pub idle: Option<Spanned<Period>>,
    /// The same once one end has closed its half and only the other one may still speak, `1s` to `24h`, and never longer than `idle`. HAProxy's
    /// `client-fin` and `server-fin`. Default: 1m.
    pub half_closed: Option<Spanned<Period>>,
    /// How long a connection may last in all, `1s` to `30d`. Default: for as long as its ends like.
    pub lifetime: Option<Spanned<Period>>,
}

/// How many bytes a second a connection may have, each from `1KiB` to `1TiB`. After a pause an eighth of a second's worth may come at once.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BandwidthConfig {
    /// From the client to the service. Default: as fast as they are.
    pub upload: Option<Spanned<Size>>,
    /// From the service to the client. Default: as fast as they are.
    pub download: Option<Spanned<Size>>,
}

/// What keeps a client's connections with one target.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TcpSticky {
    /// Its address; for IPv6 its /64 network.
    ClientAddress,
}

impl From<TcpSticky> for Sticky {
    fn from(sticky: TcpSticky) -> Self {
        match sticky {
            TcpSticky::ClientAddress => Sticky::ClientAddress,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    V1,
    V2,
}
