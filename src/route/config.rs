//! The YAML of one route.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::back::RewriteBackConfig;
use super::compose::ComposeConfig;
use super::compose::facade::FacadeConfig;
use super::own::{MaintenanceConfig, MockConfig, RedirectConfig, RespondConfig};
use super::views::{ViewParameterConfig, ViewsConfig};
use super::{Device, FallbackConfig};
use crate::breaker::config::BreakerConfig;
use crate::path::AmbiguousPaths;
use crate::retry::config::RetriesConfig;
use crate::retry::hedge::HedgingConfig;
use crate::value::{OneOrMany, Period, Raw, Spanned};

/// One route: which requests it takes, and what answers them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Names the route in logs, metrics and the admin API, and is what its state is kept under across reloads. Unique; 1 to 512
    /// printable characters. Default: the route's methods, hosts, path and predicates, as in
    /// `GET example.com/products/{sku} [API-Version=2]`.
    #[serde(default)]
    pub id: Option<Spanned<String>>,
    /// The host or hosts it serves, without port: `shop.example.com`, `*.example.com` (one or more labels in place of the star), or
    /// `*`. Default: any host that no other route names.
    #[serde(default)]
    pub host: Option<OneOrMany<Spanned<String>>>,
    /// The names of the listeners that serve it: on any other it is not there. Default: all of them.
    #[serde(default)]
    pub listeners: Option<OneOrMany<Spanned<String>>>,
    /// The path it serves: `/a/b` exactly; `/x/{sku}/y` with a parameter that takes one non-empty segment; `/x/*` for `/x`, `/x/` and
    /// all below; `/*` for everything. `/a` and `/a/` differ. At most 64 segments.
    pub path: Spanned<String>,
    /// The methods it takes, in upper case. `GET` includes `HEAD`. Default: any.
    #[serde(default)]
    pub methods: Option<OneOrMany<Spanned<String>>>,
    /// Header fields the request must have, by name: a value, `{ prefix: ... }` or `{ present: true }` or `{ present: false }`. Only
    /// the first field of a name counts.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<ValueMatch>>,
    /// Query parameters the request must have, written like `headers`; compared decoded. Only the first parameter of a name counts.
    #[serde(default)]
    pub query: BTreeMap<String, Spanned<ValueMatch>>,
    /// The version of the API asked for: `"2"` for the header `API-Version`, or `{ header: X-Version, is: "2" }`. (A version in the
    /// path is just a path.)
    #[serde(default)]
    pub version: Option<Spanned<VersionMatch>>,
    /// The class or classes of device it serves, as far as the client's User-Agent and client hints tell. Default: any.
    #[serde(default)]
    pub device: Option<OneOrMany<Device>>,
    /// The service that answers: an entry of `services`, or with `port` a host name. Exactly one of `service`, `split`, `compose`, `graphql`, `respond`,
    /// `redirect`, `maintenance` and `mock`, unless each of `views` has a service or a `compose` of its own.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// The port of `service`, where that is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// Services that share the requests by weight: canaries, A/B tests.
    #[serde(default)]
    pub split: Option<Vec<Spanned<SplitTarget>>>,
    /// Keeps a client with one target of `split`: `{ header: NAME }`, `{ cookie: NAME }` or `client_address`. Requests without the
    /// header or the cookie are spread at random. Default: every request is.
    #[serde(default)]
    pub sticky: Option<Spanned<Sticky>>,
    /// One answer made of those of several services, which are asked at once. Policies hold as for any other route.
    #[serde(default)]
    pub compose: Option<Box<Spanned<ComposeConfig>>>,
    /// A schema of GraphQL whose fields are what services answer to calls. The policy `graphql` bounds what clients may ask, with its defaults if
    /// it is not written.
    #[serde(default)]
    pub graphql: Option<Box<Spanned<FacadeConfig>>>,
    /// Several answers of one route, each for its kind of client: by class of device, header fields, consumer, plan, group or scope, or as the
    /// client asks (`view_parameter`). The first that holds is given, 1 to 32 of them, named `[a-z][a-z0-9_-]*`; the last is for everybody. A view
    /// has a `compose` or a `service` of its own, or the route's, and policies of its own. Caches, and tags of answers, never mix them.
    #[serde(default)]
    pub views: Option<Box<Spanned<ViewsConfig>>>,
    /// The parameter of the query by which clients choose one of `views`: `view` for `?view=tv`, or a table. It never opens a view to a client
    /// that is not among those for whom the view is (`consumers`, `groups`, `plans`, `scopes`). Default: none, and clients do not choose.
    #[serde(default)]
    pub view_parameter: Option<Box<Spanned<ViewParameterConfig>>>,
    /// The answer, from this file: nobody is asked. Policies hold as for any other route.
    #[serde(default)]
    pub respond: Option<Box<Spanned<RespondConfig>>>,
    /// Sends clients elsewhere. Policies hold as for any other route.
    #[serde(default)]
    pub redirect: Option<Box<Spanned<RedirectConfig>>>,
    /// 503 with `Retry-After`, for as long as it is written. gRPC clients get the status UNAVAILABLE. Policies hold as for any other route.
    #[serde(default)]
    pub maintenance: Option<Box<Spanned<MaintenanceConfig>>>,
    /// Answers from the examples of a document of OpenAPI, or with values that its schemas allow, without a service.
    #[serde(default)]
    pub mock: Option<Box<Spanned<MockConfig>>>,
    /// Leading segments of `path` that the service does not see. If nothing is left it sees `/`. Not together with `rewrite`.
    #[serde(default)]
    pub strip_prefix: Option<Spanned<String>>,
    /// The path that the service sees: a template such as `/v2/items/{sku}` with the parameters of `path`, and a final `*` (or
    /// `{*}`) for what a prefix's `*` took. The query is kept. Default: the client's path.
    #[serde(default)]
    pub rewrite: Option<Spanned<String>>,
    /// The `Host` that the service sees. Default: the client's.
    #[serde(default)]
    pub rewrite_host: Option<Spanned<String>>,
    /// Whether what the service says of its own addresses is mapped to what clients see, where `strip_prefix`, `rewrite` and `rewrite_host`
    /// have it see something else; see `RewriteBackConfig`. Default: false.
    #[serde(default)]
    pub rewrite_back: Option<Box<Spanned<RewriteBackConfig>>>,
    /// What happens to a path that a backend may read otherwise: one with an encoded slash or backslash (`%2F`, `%5C`), a path parameter
    /// (`;x=1`) or something encoded twice (`%252F`). `auto`: sent as it came, but refused (400, `ambiguous_path`) where another reading
    /// takes another route or none, or meets another decision of a policy that looks at the path. `refuse`, or `keep` for a service that
    /// takes these for letters like any other. Default: the listener's.
    #[serde(default)]
    pub ambiguous_paths: Option<AmbiguousPaths>,
    /// Send the service one slash where the client wrote several (`//`). False: send them as they came, which object stores, OCSP by GET
    /// and URLs within a path need; they are matched as one all the same. Default: the listener's.
    #[serde(default)]
    pub merge_slashes: Option<bool>,
    /// The deadline of the whole exchange, from the request's head to the answer's end. Default: the listener's `timeouts.request`.
    #[serde(default)]
    pub timeout: Option<Spanned<Period>>,
    /// `true`: every answer is a stream, whatever its media type: once begun it has no deadline, and may be silent for as long as the
    /// service's `timeouts.stream` says. Default: an answer is a stream if its media type is one (`text/event-stream`,
    /// `application/x-ndjson`, `application/grpc` and their like).
    #[serde(default)]
    pub stream: bool,
    /// Reads the whole request body, up to `limits.body` or the route's `bounds.max_body`, before the service is asked: for services
    /// with few workers, which a slow client would keep waiting. The memory is that of `server.buffered_bytes`. Not for upgrades and
    /// gRPC calls. Default: false, and a service is asked as soon as a body has begun.
    #[serde(default)]
    pub buffer_request: bool,
    /// A circuit breaker of this route's own, beside that of its service; behind a `split`, one for each of its services. Default: none.
    #[serde(default)]
    pub circuit_breaker: Option<Box<Spanned<BreakerConfig>>>,
    /// What is tried again of this route's requests, in place of what its service says. Default: the service's `retries`.
    #[serde(default)]
    pub retries: Option<Box<Spanned<RetriesConfig>>>,
    /// When a second copy of this route's requests is sent to another endpoint, in place of what its service says; `false` for never.
    /// What a route learns (`p95`) it learns of its own answers. Default: the service's `hedging`.
    #[serde(default)]
    pub hedging: Option<Box<Spanned<HedgingConfig>>>,
    /// What clients get when the service answers nothing. Default: a problem document that says so.
    #[serde(default)]
    pub fallback: Option<Box<Spanned<FallbackConfig>>>,
    /// Policies of this route. Each replaces the service's or the global policy of that name as a whole; `false` turns it off.
    #[serde(default)]
    pub policies: Option<Raw>,
}

/// One share of a split.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitTarget {
    /// The service, written like the route's `service`.
    pub service: Spanned<String>,
    /// The port, where `service` is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its share, relative to the sum of the weights: 0 to 1,000,000, or a percentage such as `90%`. 0 gets nothing.
    #[serde(deserialize_with = "weight")]
    #[schemars(schema_with = "weight_schema")]
    pub weight: u32,
}

/// A whole number, or one with a percent sign.
fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Weight;

    impl Visitor<'_> for Weight {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a weight such as 90 or 90%")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
            // What is too large is said, with the bound, where splits are compiled.
            Ok(u32::try_from(number).unwrap_or(u32::MAX))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
            number.filter(|number| *number <= 100).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Weight)
}

fn weight_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 1_000_000 }, { "type": "string", "pattern": "^[0-9]+ ?%$" }] })
}

/// What keeps a client with one target.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// The value of this header field.
    Header(Spanned<String>),
    /// The value of this cookie.
    Cookie(Spanned<String>),
    /// The client's address; for IPv6 its /64 network, because privacy extensions change the rest every few hours.
    ClientAddress,
}

/// What a header field or a query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this, in this case.
    Exact(String),
    /// Begins with this, in this case.
    Prefix(String),
    /// Is there, or is not, whatever its value.
    Present(bool),
}

/// A header that names the API's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionMatch {
    /// The header's name.
    pub header: String,
    /// Its value.
    pub is: String,
}

impl VersionMatch {
    const DEFAULT_HEADER: &str = "API-Version";
}

/// A string that people may also write as a whole number (`version: 2`). Fractions are refused: `1.10` would become `1.1`.
#[derive(Debug)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string (put quotes around numbers with a point, around true, and around null)")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueMap {
    is: Option<Text>,
    prefix: Option<Text>,
    present: Option<bool>,
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ValueMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, { is: ... }, { prefix: ... } or { present: true | false }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ValueMatch, E> {
                TextVisitor.visit_str(text).map(ValueMatch::Exact)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<ValueMatch, E> {
                TextVisitor.visit_u64(number).map(ValueMatch::Exact)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ValueMatch, E> {
                TextVisitor.visit_i64(number).map(ValueMatch::Exact)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
                match ValueMap::deserialize(MapAccessDeserializer::new(map))? {
                    ValueMap { is: Some(text), prefix: None, present: None } => Ok(ValueMatch::Exact(text.0)),
                    ValueMap { is: None, prefix: Some(text), present: None } => Ok(ValueMatch::Prefix(text.0)),
                    ValueMap { is: None, prefix: None, present: Some(present) } => Ok(ValueMatch::Present(present)),
                    _ => Err(A::Error::custom("exactly one of `is`, `prefix` and `present` is needed")),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionMap {
    header: Option<String>,
    is: Text,
}

impl<'de> Deserialize<'de> for VersionMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        fn short(is: String) -> VersionMatch {
            VersionMatch { header: VersionMatch::DEFAULT_HEADER.to_owned(), is }
        }

        impl<'de> Visitor<'de> for Either {
            type Value = VersionMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version in quotes, or { header: ..., is: ... }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<VersionMatch, E> {
                TextVisitor.visit_str(text).map(short)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<VersionMatch, E> {
                TextVisitor.visit_u64(number).map(short)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<VersionMatch, E> {
                TextVisitor.visit_i64(number).map(short)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VersionMatch, A::Error> {
                let VersionMap { header, is } = VersionMap::deserialize(MapAccessDeserializer::new(map))?;
                let header = header.unwrap_or_else(|| VersionMatch::DEFAULT_HEADER.to_owned());
                Ok(VersionMatch { header, is: is.0 })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({ "type": ["string", "integer"] });
        json_schema!({
            "description": "A value, or what it begins with, or whether it is there.",
            "oneOf": [
                text,
                { "type": "object", "properties": { "is": text }, "required": ["is"], "additionalProperties": false },
                { "type": "object", "properties": { "prefix": text }, "required": ["prefix"], "additionalProperties": false },
                {
                    "type": "object",
                    "properties": { "present": { "type": "boolean" } },
                    "required": ["present"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

impl JsonSchema for VersionMatch {
    fn schema_name() -> Cow<'static, str> {
        "VersionMatch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({ "type": ["string", "integer"] });
        json_schema!({
            "description": "The version asked for, and the header that says so (API-Version by default).",
            "oneOf": [
                text,
                {
                    "type": "object",
                    "properties": { "header": { "type": "string", "default": VersionMatch::DEFAULT_HEADER }, "is": text },
                    "required": ["is"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<RouteConfig, serde_yaml::Error> {
        serde_yaml::from_str(yaml)
    }

    #[test]
    fn the_smallest_route() {
        let route = read("path: /products/*\nservice: catalog\nport: 9001").unwrap();
        assert_eq!(route.path.value, "/products/*");
        assert_eq!(route.port, Some(9001));
        assert!(route.headers.is_empty() && route.split.is_none());
    }

    #[test]
    fn every_way_to_write_a_value() {
        let route = read(concat!(
            "path: /\nservice: a\nversion: 2\ndevice: mobile\nmethods: GET\n",
            "headers: { A: x, B: { present: false }, C: { prefix: ab }, D: { is: y }, E: 7 }"
        ))
        .unwrap();
        let values: Vec<_> = route.headers.values().map(|value| value.value.clone()).collect();
        assert_eq!(
            values,
            [
                ValueMatch::Exact("x".into()),
                ValueMatch::Present(false),
                ValueMatch::Prefix("ab".into()),
                ValueMatch::Exact("y".into()),
                ValueMatch::Exact("7".into()),
            ]
        );
        assert_eq!(route.version.unwrap().value, VersionMatch { header: "API-Version".into(), is: "2".into() });
        let route = read("path: /\nservice: a\nversion: { header: V, is: '3' }\ndevice: [mobile, bot]").unwrap();
        assert_eq!(route.version.unwrap().value, VersionMatch { header: "V".into(), is: "3".into() });
    }

    #[test]
    fn every_way_to_stick() {
        for (sticky, expected) in
            [(r#""client_address""#, "ClientAddress"), (r#"{"header":"X-User"}"#, "Header"), (r#"{"cookie":"sid"}"#, "Cookie")]
        {
            // As JSON, because the YAML reader of these tests wants enums written as tags.
            let json = format!(r#"{{"path":"/","split":[{{"service":"a","weight":1}}],"sticky":{sticky}}}"#);
            let route: RouteConfig = serde_json::from_str(&json).unwrap();
            assert!(format!("{:?}", route.sticky.unwrap().value).starts_with(expected));
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for yaml in [
            "service: a",
            "path: /\nservcie: a",
            "path: /\nservice: a\nheaders: { A: { present: true, prefix: x } }",
            "path: /\nservice: a\nheaders: { A: {} }",
            "path: /\nservice: a\nheaders: { A: true }",
            "path: /\nservice: a\nversion: 1.10",
            "path: /\nservice: a\nversion: { header: X }",
            "path: /\nservice: a\nversion: { is: x, iss: y }",
            "path: /\nservice: a\ndevice: toaster",
            "path: /\nservice: a\nport: 70000",
        ] {
            assert!(read(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn has_a_schema() {
        let schema = serde_json::to_string(&schemars::schema_for!(RouteConfig)).unwrap();
        assert!(schema.contains("API-Version") && schema.contains("client_address"));
    }
}
