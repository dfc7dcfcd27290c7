//! `routes[].fallback`, as it is written.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::value::Spanned;

/// What clients get when the route's service answers nothing: an answer of the gateway's own (`status`, `headers`, and `json` or `body`), or
/// that of another `service`. Marked by `X-Portcullis-Fallback` and in the log. gRPC calls get only another service.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FallbackConfig {
    /// When: `open` (a circuit breaker is), `error` (no endpoint is well, none can be reached, or it breaks off before it answers), `timeout`
    /// (none answers in time). Default: all of them.
    pub on: Vec<Cause>,
    /// The status of an answer of the gateway's own, 200 to 599. Default: 200.
    pub status: Option<Spanned<u32>>,
    /// Its header fields, by name.
    pub headers: BTreeMap<String, Spanned<String>>,
    /// Its body, as JSON.
    pub json: Option<Spanned<JsonBody>>,
    /// Its body, as a text.
    pub body: Option<Spanned<String>>,
    /// The service that is asked instead, written like the route's `service`. Not for upgrades, nor once a part of the request's body that is
    /// not kept has been sent.
    pub service: Option<Spanned<String>>,
    /// The port of `service`, where that is a host name. 1 to 65535.
    pub port: Option<u16>,
}

/// Why a service has answered nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Open,
    Error,
    Timeout,
}

impl Cause {
    pub const ALL: [Cause; 3] = [Cause::Open, Cause::Error, Cause::Timeout];

    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Open => "open",
            Cause::Error => "error",
            Cause::Timeout => "timeout",
        }
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let known = Cause::ALL.into_iter().find(|cause| cause.as_str() == word);
        known.ok_or_else(|| serde::de::Error::unknown_variant(&word, &["open", "error", "timeout"]))
    }
}

impl JsonSchema for Cause {
    fn schema_name() -> Cow<'static, str> {
        "FallbackCause".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["open", "error", "timeout"] })
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
