//! The whole file.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::cache::{disk, redis};
use crate::consumers::ConsumerConfig;
use crate::keys::KeyStoreConfig;
use crate::listen::config::ListenerConfig;
use crate::listen::share::BodyMemory;
use crate::observe::{AccessLogConfig, Output};
use crate::redis::RedisConfig;
use crate::route::RouteConfig;
use crate::tcp::TcpRouteConfig;
use crate::upstream::ServiceConfig;
use crate::value::{Period, Raw, Secret, Size, Spanned, switched};

/// A Portcullis configuration file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The addresses to listen on. At least one.
    #[serde(default)]
    #[schemars(required)]
    pub listeners: Spanned<Vec<Spanned<ListenerConfig>>>,
    /// The services behind the gateway, by name.
    #[serde(default)]
    pub services: BTreeMap<String, Spanned<ServiceConfig>>,
    /// Who may call, and with which credentials.
    #[serde(default)]
    pub consumers: Vec<ConsumerConfig>,
    /// The Redis that this gateway shares with others. It is connected to when something uses it.
    #[serde(default)]
    pub redis: Option<Spanned<RedisConfig>>,
    /// Where API keys are kept that the admin API issues and revokes, beside those written under `consumers`. Default: nowhere, and
    /// none can be issued.
    #[serde(default)]
    pub key_store: Option<Spanned<KeyStoreConfig>>,
    /// Policies of every route. A service or a route may replace one whole, or turn it off with `false`.
    #[serde(default)]
    pub policies: Option<Raw>,
    /// Which request goes where.
    #[serde(default)]
    pub routes: Vec<Spanned<RouteConfig>>,
    /// Which connection goes where, of those that are carried as they are: plain TCP, and TLS by the name that the client asks for.
    #[serde(default)]
    pub tcp_routes: Vec<Spanned<TcpRouteConfig>>,
    /// The operator's API. On by default, on 127.0.0.1:9901; `false` turns it off.
    #[serde(default, deserialize_with = "or_false")]
    #[schemars(schema_with = "or_false_schema::<AdminConfig>")]
    pub admin: AdminConfig,
    /// Where each request's log line goes; `false` for no log.
    #[serde(default, deserialize_with = "or_false")]
    #[schemars(schema_with = "or_false_schema::<AccessLogConfig>")]
    pub access_log: AccessLogConfig,
    /// What the metrics tell apart.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// The process itself.
    #[serde(default)]
    pub server: ServerConfig,
}

impl Document {
    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Spanned<ListenerConfig>> {
        self.listeners.iter().find(|listener| listener.name() == name)
    }
}

/// What the metrics tell apart.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// How many consumers are told apart, 0 to 100000: those who come first; the rest is `other`. Each is up to six series. Default: 0,
    /// and requests are not counted by consumer.
    pub consumers: Option<Spanned<u32>>,
}

/// A section that `false` turns off, as it does a policy.
trait Switched: DeserializeOwned + JsonSchema + Default {
    fn off() -> Self;
}

impl Switched for AdminConfig {
    fn off() -> Self {
        AdminConfig { enabled: false, ..AdminConfig::default() }
    }
}

impl Switched for AccessLogConfig {
    fn off() -> Self {
        AccessLogConfig { output: Spanned::nowhere(Output::Off), ..AccessLogConfig::default() }
    }
}

fn or_false<'de, D: Deserializer<'de>, S: Switched>(deserializer: D) -> Result<S, D::Error> {
    switched(deserializer, "a map or `false`").map(|section| section.unwrap_or_else(S::off))
}

fn or_false_schema<S: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let table = generator.subschema_for::<S>();
    json_schema!({ "anyOf": [table, { "type": "boolean" }] })
}

/// The operator's API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where it listens. Reading it takes no authentication, so anything but a loopback address is a warning of `check`. Changing it
    /// takes a restart or an upgrade.
    pub bind: Spanned<String>,
    /// `false` turns it off.
    pub enabled: bool,
    /// A bearer token (RFC 6750) of at least 16 bytes, without which nothing can be changed: neither keys nor, by reload, the generation.
    /// Reading needs none. Default: none, and whoever reaches the address may change things.
    pub token: Option<Spanned<Secret>>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { bind: Spanned::nowhere("127.0.0.1:9901".to_owned()), enabled: true, token: None }
    }
}

/// What serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    #[default]
    Portcullis,
    Pingora,
}

/// The process itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// What serves: `portcullis`, the gateway's own connections, or `pingora`, a stock Pingora server with the same policies in its
    /// phases. docs/embed.md says what the second one lacks; what it cannot do is refused. Default: `portcullis`. Changing it takes a
    /// restart.
    pub engine: Spanned<Engine>,
    /// Worker threads, each with its own event loop and connection pools. Default: one per core. 1 to 512. Changing it takes an
    /// upgrade.
    pub workers: Option<Spanned<u16>>,
    /// Where this gateway is: of each service, endpoints of the same `zone` are asked first. Default: nowhere in particular.
    pub zone: Option<Spanned<String>>,
    /// Which one of a fleet this gateway is, from 0, for services of which each gateway asks a `subset`.
    pub number: Option<Spanned<u32>>,
    /// Requests in flight at once, in all; more are answered 503 with `Retry-After`. Default 16384.
    pub max_in_flight: Spanned<u32>,
    /// Requests in flight at once from one client: an IPv4 address or an IPv6 /64, behind trusted proxies the client that they name.
    /// More are answered 429 with `Retry-After`. What a trusted proxy asks in its own name is not counted by address. Default: an
    /// eighth of `max_in_flight`, or 256 if that is more, and never more than half of it.
    pub max_in_flight_per_address: Option<Spanned<u32>>,
    /// Memory for request bodies that are read before a service gets them, in all: for checks of the body, for `buffer_request`, and to
    /// send a body a second time; and for what the cache has no room for any more while a slow client still reads it. What finds none
    /// left is answered 503 with `Retry-After` (a second attempt is not made, and an answer that is read too slowly is broken off).
    /// Default 256MiB.
    pub buffered_bytes: Spanned<Size>,
    /// The same for one client, who is the one of `max_in_flight_per_address`. Default: a quarter of `buffered_bytes`.
    pub buffered_bytes_per_address: Option<Spanned<Size>>,
    /// How long requests under way may take to finish when the process stops or hands over. Default 30s, at most 1h.
    pub grace: Spanned<Period>,
    /// Memory for cached answers, in all. At least 1MiB; what goes to disk and to Redis passes through it. With `0` nothing is cached.
    /// Default 64MiB. Changing it takes an upgrade.
    pub cache_memory: Spanned<Size>,
    /// A folder on disk for cached answers, behind `cache_memory`: for more of them, and over restarts. Default: none. Changing it takes an
    /// upgrade.
    pub cache_disk: Option<Box<CacheDisk>>,
    /// Cached answers in the Redis of `redis:` as well, behind `cache_memory` and `cache_disk`: all gateways that share it find there what one
    /// of them has stored. `{}` does. Default: they are not kept there.
    pub cache_redis: Option<Spanned<Box<CacheRedis>>>,
    /// Has no effect: every request goes the same way. It chose between two while there were two.
    pub fast_lane: Option<Spanned<bool>>,
    /// Allows the policy `fault` to delay and refuse requests on purpose. Default: false, and a file that has one is refused.
    pub fault_injection: bool,
    /// The file in which what was used of quotas is kept over restarts, where a route has a `quota`. Default: `quotas.log` in the
    /// folder that systemd gives the service for its state (`$STATE_DIRECTORY`), else `state/quotas.log` beside the configuration.
    /// Changing it takes an upgrade.
    pub quota_log: Option<String>,
    /// The path of the socket over which an upgrade hands the listening sockets to the next process, for the moment of the
    /// upgrade. Default: in a new folder of mode 0700 in the temporary folder.
    pub upgrade_socket: Option<String>,
}

/// The cache's tier on disk.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheDisk {
    /// The folder, as an absolute path. It is made with mode 0700 if it is not there, and is for nothing else. One process has it at a time;
    /// another one that wants it has its cache in memory alone until it is free.
    pub path: Spanned<String>,
    /// What it may take in all, `64MiB` to `16TiB`. Beyond it there may be a quarter of it, in each process (two in an upgrade), that is removed already, but still read by clients.
    pub max_size: Spanned<Size>,
    /// The longest that a request waits for the disk before it goes to its service, `1ms` to `5s`. Default: `100ms`.
    #[serde(default)]
    pub deadline: Option<Spanned<Period>>,
}

/// The cache's tier in Redis.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheRedis {
    /// The longest that a request waits for Redis before it goes to its service, `1ms` to `1s`. Default: `10ms`.
    #[serde(default)]
    pub deadline: Option<Spanned<Period>>,
    /// The longest body that is kept there, before it is compressed, `1KiB` to `32MiB`. Default: `1MiB`.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
    /// Longer bodies are compressed (zstd), unless the service has coded them. Default: `4KiB`.
    #[serde(default)]
    pub compress_above: Option<Size>,
    /// The Redis that answers are kept in, where that is another one than `redis:` at the top level, which goes on carrying purges. Of its
    /// keys `deadline` has no meaning here. Default: that one.
    #[serde(default)]
    pub redis: Option<Spanned<RedisConfig>>,
}

impl CacheRedis {
    pub fn settings(&self) -> redis::Settings {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        redis::Settings {
            deadline: self.deadline.as_ref().map_or(Duration::from_millis(10), |deadline| deadline.value.0),
            max_body: self.max_body.as_ref().map_or(1 << 20, |size| bytes(size.value.0)),
            compress_above: self.compress_above.as_ref().map_or(4 << 10, |size| bytes(size.0)),
        }
    }
}

impl CacheDisk {
    pub fn settings(&self) -> disk::Settings {
        let deadline = self.deadline.as_ref().map_or(Duration::from_millis(100), |deadline| deadline.value.0);
        disk::Settings { path: self.path.value.as_str().into(), max_size: self.max_size.value.0, deadline }
    }
}

impl ServerConfig {
    /// The most requests in flight from one address.
    pub fn in_flight_per_address(&self) -> usize {
        let all = self.max_in_flight.value as usize;
        match &self.max_in_flight_per_address {
            Some(most) => most.value as usize,
            None => (all / 8).max(256).min(all / 2).max(1),
        }
    }

    /// The most memory for bodies.
    pub fn body_memory(&self) -> BodyMemory {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let all = self.buffered_bytes.value.0;
        let per_address = self.buffered_bytes_per_address.as_ref().map_or(all / 4, |size| size.value.0);
        BodyMemory { all: bytes(all), per_address: bytes(per_address) }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            engine: Spanned::nowhere(Engine::Portcullis),
            workers: None,
            zone: None,
            number: None,
            max_in_flight: Spanned::nowhere(16384),
            max_in_flight_per_address: None,
            buffered_bytes: Spanned::nowhere(Size(256 * 1024 * 1024)),
            buffered_bytes_per_address: None,
            grace: Spanned::nowhere(Period(std::time::Duration::from_secs(30))),
            cache_memory: Spanned::nowhere(Size(64 * 1024 * 1024)),
            cache_disk: None,
            cache_redis: None,
            fast_lane: None,
            fault_injection: false,
            quota_log: None,
            upgrade_socket: None,
        }
    }
}
