//! `shared`, as people write it: one word, or a table.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::value::Spanned;

/// How gateways count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each request asks Redis.
    Exact,
    /// The gateway takes some of the limit ahead and decides by itself until that is used up.
    Leased,
}

/// What a limit does while Redis does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fail {
    /// Admits.
    Open,
    /// Refuses with 503 and `Retry-After`.
    Closed,
    /// This gateway counts alone, its share of the limit.
    #[default]
    Local,
}

impl Fail {
    pub fn word(self) -> &'static str {
        match self {
            Fail::Open => "open",
            Fail::Closed => "closed",
            Fail::Local => "local",
        }
    }
}

/// How a limit is shared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedConfig {
    /// `exact`: every request is decided in Redis, in one round trip. `leased`: the gateway takes a slice of the limit ahead and decides by itself.
    pub mode: Mode,
    /// While Redis does not answer: `local` (the default) counts in this gateway alone, `open` admits, `closed` refuses with 503 and `Retry-After`.
    #[serde(default)]
    pub fail: Fail,
    /// How many gateways share the limit, 1 to 10000: with `fail: local` each admits so many times less. Default: 1, which is all of the limit on each.
    #[serde(default = "one")]
    pub gateways: Spanned<u32>,
    /// The most that one gateway takes ahead for one client, in requests: with `leased`, what may come on top of the limit for every gateway there is.
    /// Default: a twentieth of the burst, at least 1.
    #[serde(default)]
    pub lease: Option<Spanned<u64>>,
}

fn one() -> Spanned<u32> {
    1.into()
}

/// `shared: exact`, or `shared: { mode: exact, ... }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared(pub SharedConfig);

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SharedVisitor;

        impl<'de> Visitor<'de> for SharedVisitor {
            type Value = Shared;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`exact`, `leased` or { mode: exact, fail: local }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Shared, E> {
                let mode = Mode::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(Shared(SharedConfig { mode, fail: Fail::default(), gateways: one(), lease: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Shared, A::Error> {
                SharedConfig::deserialize(de::value::MapAccessDeserializer::new(map)).map(Shared)
            }
        }

        deserializer.deserialize_any(SharedVisitor)
    }
}

impl JsonSchema for Shared {
    fn schema_name() -> Cow<'static, str> {
        "SharedLimit".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mode = generator.subschema_for::<Mode>();
        let config = generator.subschema_for::<SharedConfig>();
        json_schema!({ "anyOf": [mode, config] })
    }
}
