//! `routes[].fallback`, as it is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::grpc::CODES;
use crate::value::{Period, Spanned, StatusRange};

/// What clients get when the route's service answers nothing: an answer of the gateway's own (`status`, `headers`, and `json` or `body`), that of another `service`, or the last good one
/// that was `cached`. Marked by `X-Portcullis-Fallback` and in the log. gRPC calls get only another service.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FallbackConfig {
    /// When: `open` (a circuit breaker is), `error` (no endpoint is well, none can be reached, or it breaks off before it answers), `timeout`
    /// (none answers in time), a status of the service's answer from 400 on: `503`, `5xx`, `502-504`, or one of gRPC's that stands in an
    /// answer's head, as it does where a call fails at once: `unavailable`, `resource_exhausted`, `internal` and so on. Such an answer is let go
    /// of before anything of it is passed on. Default: `open`, `error` and `timeout`.
    pub on: Vec<Spanned<Condition>>,
    /// Give the last good answer that the route's cache has, as long as it expired no longer ago than this, `1s` to `30d`, and its service has
    /// not forbidden it (`must-revalidate`, `no-cache`). Goes before the others, which are given where there is none.
    pub cached: Option<Spanned<Period>>,
    /// The status of an answer of the gateway's own, 200 to 599. Default: 200.
    pub status: Option<Spanned<u32>>,
    /// Its header fields, by name.
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Its body, as JSON.
    pub json: Option<Spanned<JsonBody>>,
    /// Its body, as a text.
    pub body: Option<Spanned<String>>,
    /// The service that is asked instead, written like the route's `service`. Not for upgrades; and once something was sent to the
    /// route's service, only for requests that its `retries` would repeat: idempotent methods, or what `methods` and `idempotency_key` say. Nor
    /// once a part of the request's body that is not kept has been sent. Policies of its own that the route has not are a problem of `check`:
    /// they would not hold here.
    pub service: Option<Spanned<String>>,
    /// The port of `service`, where that is a host name. 1 to 65535.
    pub port: Option<u16>,
}

/// When a fallback is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Cause(Cause),
    Statuses(StatusRange),
    /// A status of gRPC.
    Grpc(u8),
}

/// Why there is no answer of the service's to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Open,
    Error,
    Timeout,
    /// There is one, of a status that nobody is to see.
    Status,
}

impl Cause {
    pub const ALL: [Cause; 4] = [Cause::Open, Cause::Error, Cause::Timeout, Cause::Status];
    /// Those that are written by their names, and count where nothing is written.
    pub const NAMED: [Cause; 3] = [Cause::Open, Cause::Error, Cause::Timeout];

    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Open => "open",
            Cause::Error => "error",
            Cause::Timeout => "timeout",
            Cause::Status => "status",
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Condition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`open`, `error`, `timeout`, a status from 400 on, such as 503 or 5xx, or one of gRPC's, such as `unavailable`")
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<Condition, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_i64<E: Error>(self, status: i64) -> Result<Condition, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Condition, E> {
                if let Some(cause) = Cause::NAMED.into_iter().find(|cause| cause.as_str() == text) {
                    return Ok(Condition::Cause(cause));
                }
                if let Some((_, code)) = CODES.iter().find(|(name, _)| *name == text) {
                    return Ok(Condition::Grpc(*code));
                }
                let statuses = StatusRange::parse(text).filter(|statuses| statuses.first >= 400);
                statuses.map(Condition::Statuses).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "FallbackCondition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let named = Cause::NAMED.iter().map(|cause| cause.as_str());
        let words: Vec<&str> = named.chain(CODES.iter().map(|(name, _)| *name)).collect();
        json_schema!({ "anyOf": [
            { "type": "string", "enum": words },
            { "type": "integer", "minimum": 400, "maximum": 599 },
            { "type": "string", "pattern": "^([45]xx|[45][0-9]{2}(-[45][0-9]{2})?)$" },
        ] })
    }
}

/// Any JSON but nothing at all, which would be a value that somebody forgot.
#[derive(Debug, Clone)]
pub struct JsonBody(pub serde_json::Value);

impl<'de> Deserialize<'de> for JsonBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Null => Err(serde::de::Error::custom("found nothing where a JSON value is expected")),
            value => Ok(JsonBody(value)),
        }
    }
}

impl JsonSchema for JsonBody {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "JsonBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        serde_json::Value::json_schema(generator)
    }
}
