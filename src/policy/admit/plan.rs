//! Other limits for consumers of other plans.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::exchange::Exchange;
use crate::policy::Compile;
use crate::problem::{Place, Problem, did_you_mean};
use crate::value::Rate;

/// What a plan's consumers may, as it is written: a rate, a rate with a burst, or `unlimited`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanConfig {
    Limited(PlanLimit),
    Unlimited,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanLimit {
    /// How many requests per period: `1000/minute`.
    pub limit: Rate,
    /// How many requests may come at once. Default: the plan's limit.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// Something for everybody, and something else for the consumers of some plans.
#[derive(Debug)]
pub struct Tiers<T> {
    pub base: T,
    /// `None`: unlimited. Few, so that looking through them beats hashing.
    pub plans: Vec<(Box<str>, Option<T>)>,
}

impl<T> Tiers<T> {
    /// What holds for this request; `None` if its plan is unlimited.
    #[inline]
    pub fn of(&self, exchange: &Exchange) -> Option<&T> {
        if self.plans.is_empty() {
            return Some(&self.base);
        }
        let plan = exchange.identity.as_deref().and_then(|identity| identity.plan.as_deref());
        let known = plan.and_then(|plan| self.plans.iter().find(|(name, _)| **name == *plan));
        known.map_or(Some(&self.base), |(_, tier)| tier.as_ref())
    }
}

/// Warns of a plan that no consumer has, where consumers have plans at all: elsewhere it may come with a token.
pub fn check(plan: &str, place: Place, cx: &mut Compile<'_>) {
    let known: std::collections::BTreeSet<&str> = cx.consumers.plans().collect();
    if known.is_empty() || known.contains(plan) {
        return;
    }
    let hint = match did_you_mean(plan, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the consumers' plans are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    cx.problems.push(Problem::warning(place, format!("no consumer has the plan `{plan}`")).hint(hint));
}

impl<'de> Deserialize<'de> for PlanConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlanVisitor;

        impl<'de> Visitor<'de> for PlanVisitor {
            type Value = PlanConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as 100/minute, { limit: 100/minute, burst: 20 } or `unlimited`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PlanConfig, E> {
                if text == "unlimited" {
                    return Ok(PlanConfig::Unlimited);
                }
                let limit = Rate::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(PlanConfig::Limited(PlanLimit { limit, burst: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PlanConfig, A::Error> {
                PlanLimit::deserialize(de::value::MapAccessDeserializer::new(map)).map(PlanConfig::Limited)
            }
        }

        deserializer.deserialize_any(PlanVisitor)
    }
}

impl JsonSchema for PlanConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PlanLimit".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<Rate>();
        let limit = generator.subschema_for::<PlanLimit>();
        json_schema!({ "anyOf": [{ "const": "unlimited" }, rate, limit] })
    }
}
