//! What people write under `services: NAME:`. Bounds are checked when a service is compiled, so that every problem is found at
//! once and at its place.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::balance::Balance;
use super::connect_calls::ConnectChoice;
use super::discover::config::DiscoverConfig;
use super::discover::family::Family;
use super::eligible::PanicConfig;
use super::health_config::HealthCheckConfig;
use super::outlier::config::OutlierChoice;
use super::sticky::config::StickyConfig;
use crate::breaker::config::BreakerConfig;
use crate::credentials::config::UpstreamAuthConfig;
use crate::function::config::LambdaConfig;
use crate::head::AnswerLimits;
use crate::problem::{Place, foreign};
use crate::retry::config::RetriesConfig;
use crate::retry::hedge::HedgingConfig;
use crate::transcode::config::TranscodeConfig;
use crate::value::{Period, Raw, Size, Spanned, switched, switched_schema};

/// A service: a group of endpoints that answer the same requests, and how to talk to them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// Where the service answers: a list of `host:port`, or of `{ address: host:port, weight: 2 }`. A host name is resolved at the
    /// start and kept fresh; every address it resolves to becomes an endpoint. `unix:/run/app.sock` is a Unix socket, `unix:@app` one in
    /// Linux's abstract namespace. At least one unless there is `discover`, at most 10,000.
    pub endpoints: Spanned<Vec<EndpointConfig>>,
    /// Where more endpoints are found: in a file, or in DNS by a resolver of the gateway's own. Default: nowhere.
    pub discover: Option<Spanned<DiscoverConfig>>,
    #[schemars(extend("description" = super::balance::config::about()))]
    pub balance: Balance,
    /// Sends the requests of one session to the same endpoint: `cookie`, or a map. Default: off.
    pub sticky: Option<Spanned<StickyConfig>>,
    /// How long an endpoint that comes or recovers takes to get its full share of the requests, which begins with a tenth, `100ms` to `1h`.
    /// `consistent_hash` and `first` know no shares. Default: it gets it at once.
    pub slow_start: Option<Spanned<Period>>,
    /// By how much the healthy share of the endpoints of one priority, or of the gateway's own zone, is overestimated before requests
    /// spill over to the next: at 1.4, up to two sevenths of them may be ill. 1 to 10. Default: 1.4.
    pub overprovisioning: Spanned<f64>,
    /// How many of the endpoints this gateway sends requests to, 1 to 10,000, for large services behind large fleets: each gateway has its
    /// own part of them, by its `server.number`. Default: all.
    pub subset: Option<Spanned<u32>>,
    /// How many requests of this gateway may be under way at one endpoint, 1 to 1,000,000, unless it has its own `max_requests`. One that
    /// has so many is passed over; if all have, clients are told 503 (`endpoints_full`). Default: no bound.
    pub max_requests: Option<Spanned<u32>>,
    /// How many connections of this gateway there may be to one endpoint, idle ones and all cores together, 1 to 65,536. A request that
    /// finds an endpoint full goes to one that is not; if all are it waits, see `max_pending`. Not for HTTP/2, where `max_requests` says as
    /// much. Default: no bound.
    pub max_connections: Option<Spanned<u32>>,
    /// How many requests may wait for a place at one endpoint, 0 to 1,000,000: for one of `max_connections`, or over HTTP/2 for one of
    /// `max_requests`. They wait for `timeouts.queue`. Beyond, clients are told 503 (`queue_full`, `queue_timeout`). Default: 100 with
    /// `max_connections`, else none.
    pub max_pending: Option<Spanned<u32>>,
    /// Asks every endpoint regularly whether it is well. Without it, every endpoint counts as healthy.
    pub health_check: Option<Spanned<HealthCheckConfig>>,
    /// Leaves endpoints out for a while because of what came of their requests: `false`, `true` or a map. Default: those to which three
    /// connections in a row could not be made; `true` and a map look at what they answer, too. Never more than `max_ejected` of them, and
    /// if nobody else is left they are asked all the same.
    pub outlier_detection: OutlierChoice,
    /// Stops asking a service, or an endpoint, that fails anyway. Default: none.
    pub circuit_breaker: Option<Spanned<BreakerConfig>>,
    /// What happens when too few endpoints are well, such as `{ below: 50%, then: ask_all }`. Default: those that are well are asked,
    /// however few, and with none clients are told 503.
    pub panic: Option<PanicConfig>,
    /// How long the gateway waits for an endpoint.
    pub timeouts: TimeoutsConfig,
    /// What the head of an endpoint's answer may be (beyond, the client gets 502 `answer_head_too_large`), and how fast its body has to come.
    pub limits: AnswerLimitsConfig,
    /// What is tried again, how often, and how much that may cost. A route's `retries` takes its place as a whole.
    pub retries: RetriesConfig,
    /// Sends a second copy of a request to another endpoint if the first has not answered after a while, and takes the first good answer:
    /// after the time within which 95 of 100 answers begin (`p95`, `p50` to `p99.9`; learned, never for more than the share that is left,
    /// 5 %), or after a set time such as `50ms`, `1ms` to `1m`. The rules of `retries` say what may be sent twice (`methods`,
    /// `idempotency_key`, `buffer`), and copies are within its `budget`. A route's `hedging` takes its place. Default: `false`.
    pub hedging: Option<Spanned<HedgingConfig>>,
    /// What the endpoints speak: `http1` (default), `http2` (over TLS, or with prior knowledge over plain TCP), `grpc`: HTTP/2
    /// to servers of gRPC, where a bound on bodies (`limits.body`, `bounds.max_body`) is one on each message of a call, not on all of
    /// a stream's together; or `auto`, for ports that speak both: calls as with `grpc`, everything else as with `http1`.
    pub protocol: Protocol,
    /// TLS to the endpoints: `true`, or `{ verify, ca, server_name }`. Default: plain TCP.
    pub tls: TlsChoice,
    /// How many idle connections to this service each core keeps open, 0 to 65536. Default: 128.
    pub keep_alive: Spanned<u32>,
    /// How many connections to each endpoint each core makes ahead of requests, 0 to 1000: after the start, and when an endpoint is new or
    /// is healthy again. Over HTTP/2 one carries them all. They are closed when they have been idle for `timeouts.idle`. Default: 0.
    pub warm: Spanned<u32>,
    /// What a client is told in `Retry-After` when no endpoint is healthy, `1s` to `1h`. Default: `1s`.
    pub retry_after: Spanned<Period>,
    /// How often host names are resolved again, `1s` to `1h`. Default: `10s`.
    pub dns_refresh: Spanned<Period>,
    /// Which addresses of host names are asked, those of `discover` among them: `any`; `ipv4` or `ipv6` alone; or `prefer_ipv4` or
    /// `prefer_ipv6`, which leave those of the other family for when too few of these are well, or none can be connected to. Default: `any`.
    pub dns_family: Spanned<Family>,
    /// gRPC methods of the service for clients that speak REST and JSON, by the methods' `google.api.http` annotations or by rules. Default:
    /// none.
    pub transcode: Option<Spanned<TranscodeConfig>>,
    /// Unary calls of the [Connect protocol](https://connectrpc.com/docs/protocol), which become calls of gRPC's: `true`, `false`, or a map. Default:
    /// `true` with `protocol: grpc` and with `transcode`; other services get such calls as they came.
    pub connect: Option<Box<Spanned<ConnectChoice>>>,
    /// A function of AWS Lambda that answers the requests, in place of `endpoints`. Default: none.
    pub lambda: Option<Box<Spanned<LambdaConfig>>>,
    /// What the gateway shows to the service to say who it is: a password, a token, a signature. Default: nothing.
    pub upstream_auth: Option<Box<Spanned<UpstreamAuthConfig>>>,
    /// Policies for every route that leads to this service. A route may replace each one whole, or turn it off with `false`.
    pub policies: Option<Raw>,
}

/// A default: written nowhere.
pub(super) fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned { value, place: Place::NOWHERE }
}

pub(super) fn period(millis: u64) -> Spanned<Period> {
    unwritten(Period(Duration::from_millis(millis)))
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            endpoints: unwritten(Vec::new()),
            discover: None,
            balance: Balance::default(),
            sticky: None,
            slow_start: None,
            overprovisioning: unwritten(1.4),
            subset: None,
            max_requests: None,
            max_connections: None,
            max_pending: None,
            health_check: None,
            outlier_detection: OutlierChoice::default(),
            circuit_breaker: None,
            panic: None,
            timeouts: TimeoutsConfig::default(),
            limits: AnswerLimitsConfig::default(),
            retries: RetriesConfig::default(),
            hedging: None,
            protocol: Protocol::default(),
            tls: TlsChoice::default(),
            keep_alive: unwritten(128),
            warm: unwritten(0),
            retry_after: period(1000),
            dns_refresh: period(10_000),
            dns_family: unwritten(Family::Any),
            transcode: None,
            connect: None,
            lambda: None,
            upstream_auth: None,
            policies: None,
        }
    }
}

/// One endpoint: `host:port`, or with its weight.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    pub address: Spanned<String>,
    pub weight: Spanned<u32>,
    pub priority: Spanned<u32>,
    pub zone: Option<Spanned<String>>,
    pub max_requests: Option<Spanned<u32>>,
}

impl EndpointConfig {
    /// One with nothing said of it but where it is.
    pub fn of(address: Spanned<String>) -> Self {
        EndpointConfig { address, weight: weight_of_one(), priority: first_priority(), zone: None, max_requests: None }
    }
}

/// One endpoint, written as a map.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    /// `host:port`; the host is an IP address (IPv6 in brackets) or a name. Or `unix:/run/app.sock`, or `unix:@app`.
    address: Spanned<String>,
    /// How many turns it gets compared with the others, 0 to 1000. 0 drains it: it keeps the sticky sessions it has, and gets nothing
    /// else. Default: 1.
    #[serde(default = "weight_of_one")]
    weight: Spanned<u32>,
    /// Endpoints of the lowest number are asked first, the others as far as too few of those are healthy, 0 to 100. Default: 0.
    #[serde(default = "first_priority")]
    priority: Spanned<u32>,
    /// Where it is. A gateway with a `server.zone` asks those of its own zone first, within a priority.
    #[serde(default)]
    zone: Option<Spanned<String>>,
    /// How many requests of this gateway may be under way there, 1 to 1,000,000. Default: the service's `max_requests`.
    #[serde(default)]
    max_requests: Option<Spanned<u32>>,
}

fn first_priority() -> Spanned<u32> {
    unwritten(0)
}

fn weight_of_one() -> Spanned<u32> {
    unwritten(1)
}

enum EndpointShape {
    Text(String),
    Map(EndpointMap),
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The place of the whole entry is taken first: a plain string has no inner place to take it from.
        let Spanned { value, place } = Spanned::<EndpointShape>::deserialize(deserializer)?;
        Ok(match value {
            EndpointShape::Text(text) => EndpointConfig::of(Spanned { value: text, place }),
            EndpointShape::Map(EndpointMap { address, weight, priority, zone, max_requests }) => {
                EndpointConfig { address, weight, priority, zone, max_requests }
            }
        })
    }
}

impl<'de> Deserialize<'de> for EndpointShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = EndpointShape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`host:port` or `{ address: host:port, weight: 1 }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<EndpointShape, E> {
                Ok(EndpointShape::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointShape, A::Error> {
                EndpointMap::deserialize(MapAccessDeserializer::new(map)).map(EndpointShape::Map)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for EndpointConfig {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<EndpointMap>();
        json_schema!({ "anyOf": [{ "type": "string", "description": "`host:port` or `unix:PATH`" }, map] })
    }
}

/// How long the gateway waits for an endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For a connection, with its TLS handshake, `1ms` to `1m`. Default: `1s`.
    pub connect: Spanned<Period>,
    /// For the head of the answer, and then between two reads of its body, `1ms` to `24h`. Default: `30s`.
    pub response: Spanned<Period>,
    /// For the whole head of one attempt's answer, however slowly it comes, from the request's last byte on, `1ms` to `24h`. A
    /// request may then be tried again (`retries`, `timeout`), else it is 504 as after `response`. Default: none.
    #[serde(rename = "try")]
    pub attempt: Option<Spanned<Period>>,
    /// How long nothing may come on a stream, that is on an upgraded connection (WebSocket), and in an answer that says it is one by
    /// its media type (`text/event-stream`, `application/x-ndjson`, `application/grpc` ...) or whose route does (`stream: true`), `1s`
    /// to `24h`. `response` then bounds only the wait for the answer's head, from the request's last byte on. Default: `1h`.
    pub stream: Spanned<Period>,
    /// How long an answer's body may be awaited, in all, before `limits.body_rate` counts, `1s` to `24h`. Default: `5m`.
    pub body_grace: Spanned<Period>,
    /// For one write of the request, `1ms` to `24h`. Default: `30s`.
    pub write: Spanned<Period>,
    /// For a place at an endpoint that is full (`max_pending`), `1ms` to `10m`. Default: `1s`.
    pub queue: Spanned<Period>,
    /// How long an unused connection is kept open, `1s` to `1h`. Keep it shorter than the endpoints' own. Default: `60s`.
    pub idle: Spanned<Period>,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        TimeoutsConfig {
            connect: period(1000),
            response: period(30_000),
            attempt: None,
            stream: period(3_600_000),
            body_grace: period(300_000),
            write: period(30_000),
            queue: period(1000),
            idle: period(60_000),
        }
    }
}

/// Bounds of an answer's head, and how fast its body has to come.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerLimitsConfig {
    /// The head of an answer in bytes, `1KiB` to `512KiB`. Default: `64KiB`.
    pub head: Spanned<Size>,
    /// The fields of a head, 1 to 256. Default: 128.
    pub headers: Spanned<u32>,
    /// Interim answers (1xx) before the final one, 1 to 256. Default: 16.
    pub interim: Spanned<u32>,
    /// The least rate of an answer's body, in bytes per second, over its whole length: what is awaited of it may take `timeouts.body_grace`,
    /// and a second more for each so many bytes that came; beyond it the answer is given up (`answer_too_slow`). The time in which the client
    /// does not take what came is not counted. Not for upgrades and streams (see `timeouts.stream`). 0: no least rate. Default: 100.
    pub body_rate: Spanned<Size>,
}

impl Default for AnswerLimitsConfig {
    fn default() -> Self {
        let usual = AnswerLimits::default();
        AnswerLimitsConfig {
            head: unwritten(Size(usual.head as u64)),
            headers: unwritten(usual.fields as u32),
            interim: unwritten(usual.interim),
            body_rate: unwritten(Size(100)),
        }
    }
}

/// TLS to the endpoints: `true`, `false`, or a map.
#[derive(Debug, Clone, Default)]
pub struct TlsChoice(pub Option<Spanned<UpstreamTlsConfig>>);

/// TLS to the endpoints.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTlsConfig {
    /// Whether the endpoint's certificate must be valid and made out to its name. Default: true.
    pub verify: Spanned<bool>,
    /// A PEM file with the certificate authorities to trust, relative to this file. Default: the system's.
    pub ca: Option<Spanned<String>>,
    /// The name to ask for (SNI) and to verify. Default: the endpoint's host name; needed where endpoints are IP addresses or Unix sockets.
    pub server_name: Option<Spanned<String>>,
    /// Takes certificates that carry their name as the subject's common name alone, without a `subjectAltName`, as some old authorities
    /// make them (RFC 9525 says not to). Default: false.
    pub allow_common_name: bool,
}

impl Default for UpstreamTlsConfig {
    fn default() -> Self {
        UpstreamTlsConfig { verify: unwritten(true), ca: None, server_name: None, allow_common_name: false }
    }
}

struct TlsShape(Option<UpstreamTlsConfig>);

impl<'de> Deserialize<'de> for TlsChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, place } = Spanned::<TlsShape>::deserialize(deserializer)?;
        Ok(TlsChoice(value.0.map(|value| Spanned { value, place })))
    }
}

impl<'de> Deserialize<'de> for TlsShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        switched(deserializer, "`true`, `false` or `{ verify: true, ca: FILE, server_name: NAME }`").map(TlsShape)
    }
}

impl JsonSchema for TlsChoice {
    fn schema_name() -> Cow<'static, str> {
        "UpstreamTls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        switched_schema::<UpstreamTlsConfig>(generator)
    }
}

/// An enumeration written as one word. A derive would refuse an unknown word without saying which one was probably meant.
macro_rules! word {
    ($type:ident, $what:literal, $($word:literal => $variant:ident),+) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match &*String::deserialize(deserializer)? {
                    $($word => Ok($type::$variant),)+
                    other => Err(D::Error::custom($crate::upstream::config::unknown_word($what, other, &[$($word),+]))),
                }
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
}

pub(super) use word;

pub(super) fn unknown_word(what: &str, word: &str, known: &[&str]) -> String {
    match foreign::word(word, known) {
        Some(near) => format!("unknown {what} `{word}`; did you mean `{near}`?"),
        None => format!("unknown {what} `{word}`; known: {}", known.join(", ")),
    }
}

/// What the endpoints speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 only (RFC 9113): by ALPN over TLS, with prior knowledge over plain TCP.
    Http2,
    /// HTTP/2 to servers that take nothing but gRPC calls.
    Grpc,
    /// Both: gRPC calls go over HTTP/2, and everything else over HTTP/1.1.
    Auto,
}

word!(Protocol, "protocol", "http1" => Http1, "http2" => Http2, "grpc" => Grpc, "auto" => Auto);

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Auto => "auto",
        }
    }

    /// Whether it can be HTTP/2.
    pub fn is_http2(self) -> bool {
        self != Protocol::Http1
    }

    /// What is spoken for one request: never [`Protocol::Auto`]. `is_call`: whether it is a call of gRPC's.
    pub fn spoken(self, is_call: impl FnOnce() -> bool) -> Protocol {
        match self {
            Protocol::Auto if is_call() => Protocol::Grpc,
            Protocol::Auto => Protocol::Http1,
            known => known,
        }
    }

    /// What is spoken for what is no call.
    pub fn plain(self) -> Protocol {
        self.spoken(|| false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<ServiceConfig, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints_are_strings_or_maps() {
        let config = read("endpoints: ['a:1', { address: 'b:2', weight: 3 }, { address: 'c:3' }]").unwrap();
        let seen: Vec<_> = config.endpoints.iter().map(|e| (e.address.value.as_str(), e.weight.value)).collect();
        assert_eq!(seen, [("a:1", 1), ("b:2", 3), ("c:3", 1)]);
        for wrong in
            ["endpoints: [{ weight: 2 }]", "endpoints: [{ adress: 'a:1' }]", "endpoints: [80]", "endpoints: ['a:1', [b]]"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tls_is_a_switch_or_a_map() {
        let tls = |yaml| read(yaml).map(|config| config.tls.0.map(|tls| tls.value.verify.value));
        assert_eq!(tls("tls: true"), Ok(Some(true)));
        assert_eq!(tls("tls: false"), Ok(None));
        assert_eq!(tls("tls: { verify: false }"), Ok(Some(false)));
        assert_eq!(tls("tls: {}"), Ok(Some(true)));
        assert!(tls("tls: { verfy: false }").is_err());
        assert!(tls("tls: yes please").is_err());
    }

    #[test]
    fn unknown_words_are_answered_with_the_nearest() {
        assert!(read("balance: roundrobin").unwrap_err().contains("did you mean `round_robin`?"));
        assert!(read("balance: best").unwrap_err().contains("known: round_robin, least_requests"));
        assert_eq!(read("protocol: grpc").unwrap().protocol, Protocol::Grpc);
        assert!(read("protocol: http3").is_err());
        let auto = read("protocol: auto").unwrap().protocol;
        assert_eq!((auto.spoken(|| true), auto.spoken(|| false)), (Protocol::Grpc, Protocol::Http1));
        assert_eq!(Protocol::Http2.spoken(|| unreachable!()), Protocol::Http2);
    }

    #[test]
    fn the_schema_describes_every_field() {
        let schema = serde_json::to_value(schemars::schema_for!(ServiceConfig)).unwrap();
        for field in
            ["endpoints", "balance", "health_check", "timeouts", "retries", "protocol", "tls", "keep_alive", "dns_refresh"]
        {
            assert!(schema["properties"][field]["description"].is_string(), "{field}: {schema}");
        }
    }
}
