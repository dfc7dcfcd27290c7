//! What one request costs: 1 if nothing is said, a number, or what a header field says.
//!
//! A cost of 0 is free: the request is admitted and not counted. Whatever names the cost, it is bounded.

use std::fmt;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::Spanned;

/// The most that a request can cost.
pub const MOST: u64 = 1_000_000_000;

/// `cost`, as it is written.
#[derive(Debug, Clone)]
pub enum CostConfig {
    Fixed(u64),
    Header(HeaderCost),
}

impl Default for CostConfig {
    fn default() -> Self {
        CostConfig::Fixed(1)
    }
}

/// A cost that a header field says.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderCost {
    /// The field with the cost, a whole number. The client chooses it: only for fields that a trusted proxy sets.
    pub header: String,
    /// The most that a request can cost, 1 to 1000000000. More, or what is no number, counts as this.
    pub max: u64,
    /// What a request without the field costs. Default 1.
    #[serde(default = "one")]
    pub default: u64,
}

fn one() -> u64 {
    1
}

/// What a request costs.
#[derive(Debug)]
pub enum Cost {
    Fixed(u64),
    Header { name: HeaderName, max: u64, default: u64 },
}

impl Cost {
    /// What is wrong goes to `cx.problems`.
    pub fn compile(config: &Spanned<CostConfig>, cx: &mut Compile<'_>) -> Option<Self> {
        let mut wrong = |message: String| {
            cx.problems.push(Problem::error(config.place, message));
            None
        };
        match &config.value {
            CostConfig::Fixed(cost) if *cost <= MOST => Some(Cost::Fixed(*cost)),
            CostConfig::Fixed(_) => wrong(format!("a request costs at most {MOST}")),
            CostConfig::Header(HeaderCost { header, max, default }) => match HeaderName::from_bytes(header.as_bytes()) {
                Err(_) => wrong(format!("`{header}` is not a header name")),
                Ok(_) if !(1..=MOST).contains(max) || default > max => {
                    wrong(format!("`max` is between 1 and {MOST}, and `default` at most `max`"))
                }
                Ok(name) => Some(Cost::Header { name, max: *max, default: *default }),
            },
        }
    }

    #[inline]
    pub fn of(&self, head: &RequestHead, _: &Exchange) -> u64 {
        match self {
            Cost::Fixed(cost) => *cost,
            Cost::Header { name, max, default } => match head.header(name.as_str()) {
                None => *default,
                Some(value) => number(value.trim_ascii()).unwrap_or(*max).min(*max),
            },
        }
    }
}

/// Digits only: `+1`, which `parse` would take, is no count.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

impl<'de> Deserialize<'de> for CostConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CostVisitor;

        impl<'de> Visitor<'de> for CostVisitor {
            type Value = CostConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or { header: NAME, max: NUMBER }")
            }

            fn visit_u64<E: de::Error>(self, cost: u64) -> Result<CostConfig, E> {
                Ok(CostConfig::Fixed(cost))
            }

            fn visit_i64<E: de::Error>(self, cost: i64) -> Result<CostConfig, E> {
                u64::try_from(cost).map(CostConfig::Fixed).map_err(|_| E::custom("a cost is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CostConfig, E> {
                number(text.as_bytes()).map(CostConfig::Fixed).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CostConfig, A::Error> {
                HeaderCost::deserialize(de::value::MapAccessDeserializer::new(map)).map(CostConfig::Header)
            }
        }

        deserializer.deserialize_any(CostVisitor)
    }
}

impl JsonSchema for CostConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cost".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let header = generator.subschema_for::<HeaderCost>();
        json_schema!({ "oneOf": [{ "type": "integer", "minimum": 0, "maximum": MOST }, header] })
    }
}
