//! `services: NAME: health_check`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::config::{period, unwritten, word};
use crate::value::{Period, Spanned, StatusRange};

/// How an endpoint is asked whether it is well. One of `path`, `tcp: true` and `grpc`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheckConfig {
    /// Healthy means: this path answers with one of `status`.
    pub path: Option<Spanned<String>>,
    /// Healthy means: it accepts a connection (and a TLS handshake, where the service speaks TLS).
    pub tcp: Option<Spanned<bool>>,
    /// Healthy means: `grpc.health.v1.Health/Check` answers `SERVING`, of the server as a whole (`true`) or of a service of its
    /// (`shop.Catalog`). Over HTTP/2, whatever the service's `protocol`.
    pub grpc: Option<Spanned<GrpcCheck>>,
    /// From one check to the next, `100ms` to `1h`, varied by a tenth so that checks do not arrive in step. Default: `5s`.
    pub interval: Spanned<Period>,
    /// The same while the endpoint is not healthy. Default: `interval`.
    pub unhealthy_interval: Option<Spanned<Period>>,
    /// How long one check may take in all, `10ms` to `1m`. Default: `1s`.
    pub timeout: Spanned<Period>,
    /// How many good checks in a row make an unhealthy endpoint healthy, 1 to 100. Default: 2.
    pub healthy_after: Spanned<u32>,
    /// How many failed checks in a row make a healthy endpoint unhealthy, 1 to 100. Default: 3.
    pub unhealthy_after: Spanned<u32>,
    /// What an endpoint counts as before its first good check: `healthy`, so that a gateway that has just started refuses nothing, or
    /// `unhealthy`, so that nobody is sent to what has not proved itself. Default: `healthy`.
    pub initial: Initial,
    /// Another port than the endpoint's to check, 1 to 65535. Default: the endpoint's.
    pub port: Option<Spanned<u32>>,
    /// `GET`, `HEAD`, `OPTIONS` or `POST` (without a body). Default: `GET`.
    pub method: Option<Spanned<String>>,
    /// Header fields that the check sends, by name.
    pub headers: BTreeMap<String, Spanned<String>>,
    /// The `Host` that the check sends. Default: the endpoint's address as configured, `localhost` for a Unix socket.
    pub host: Option<Spanned<String>>,
    /// The statuses that count as well: a list of `200`, `2xx` or `200-399`. Default: `[200-399]`.
    pub status: Spanned<Vec<StatusRange>>,
    /// What has to stand in the first 64 KiB of the answer's body: a text, or `{ regex: "..." }`. Default: the body is not read.
    pub body: Option<Spanned<BodyMatch>>,
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        HealthCheckConfig {
            path: None,
            tcp: None,
            grpc: None,
            unhealthy_interval: None,
            initial: Initial::default(),
            port: None,
            method: None,
            headers: BTreeMap::new(),
            body: None,
            interval: period(5000),
            timeout: period(1000),
            healthy_after: unwritten(2),
            unhealthy_after: unwritten(3),
            host: None,
            status: unwritten(vec![StatusRange { first: 200, last: 399 }]),
        }
    }
}

/// What an endpoint counts as before its first good check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Initial {
    #[default]
    Healthy,
    Unhealthy,
}

word!(Initial, "word", "healthy" => Healthy, "unhealthy" => Unhealthy);

/// `true`, `false` or a service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcCheck {
    Off,
    /// The empty name is the server as a whole.
    Service(String),
}

impl<'de> Deserialize<'de> for GrpcCheck {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl Visitor<'_> for Shape {
            type Value = GrpcCheck;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, or the name of a service such as `shop.Catalog`")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<GrpcCheck, E> {
                Ok(if on { GrpcCheck::Service(String::new()) } else { GrpcCheck::Off })
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<GrpcCheck, E> {
                Ok(GrpcCheck::Service(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for GrpcCheck {
    fn schema_name() -> Cow<'static, str> {
        "GrpcCheck".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "string" }] })
    }
}

/// What an answer's body has to have in it.
#[derive(Debug, Clone)]
pub enum BodyMatch {
    Text(String),
    Regex(String),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BodyMap {
    /// A regular expression, without look-around and back references: its cost is linear in the body.
    regex: String,
}

impl<'de> Deserialize<'de> for BodyMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = BodyMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or `{ regex: \"...\" }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<BodyMatch, E> {
                Ok(BodyMatch::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BodyMatch, A::Error> {
                BodyMap::deserialize(MapAccessDeserializer::new(map)).map(|map| BodyMatch::Regex(map.regex))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for BodyMatch {
    fn schema_name() -> Cow<'static, str> {
        "BodyMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<BodyMap>();
        json_schema!({ "anyOf": [{ "type": "string" }, map] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_listed() {
        let config: HealthCheckConfig = serde_yaml::from_str("{ path: /, status: [200, 3xx] }").unwrap();
        let statuses = config.status.value;
        assert!(statuses.iter().any(|range| range.contains(302)) && !statuses.iter().any(|range| range.contains(201)));
    }
}
