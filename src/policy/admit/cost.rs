//! What one request costs: 1 if nothing is said, a number, what a header field says, or what an expression comes to.
//!
//! A cost of 0 is free: the request is admitted and not counted. Whatever names the cost, it is bounded; what names none, such as
//! an expression that fails, costs the most.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::tally::Counter;
use crate::value::Spanned;

/// The most that a request can cost.
pub const MOST: u64 = 1_000_000_000;

/// `cost`, as it is written.
#[derive(Debug, Clone)]
pub enum CostConfig {
    Fixed(u64),
    Header(HeaderCost),
    Cel(CelCost),
    /// What the policy `graphql` has found that it costs, and at least 1.
    Graphql,
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

/// A cost that an expression comes to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CelCost {
    /// A whole number, in CEL: `request.method == "GET" ? 1 : 5`.
    pub cel: Spanned<String>,
    /// The most that a request can cost, 1 to 1000000000. More, less than 0, or an expression that fails, counts as this.
    pub max: u64,
}

fn one() -> u64 {
    1
}

/// What a request costs.
#[derive(Debug)]
pub enum Cost {
    Fixed(u64),
    Header {
        name: HeaderName,
        max: u64,
        default: u64,
    },
    /// With how often the expression failed.
    Cel {
        expression: Expression,
        max: u64,
        failed: Arc<Counter>,
    },
    Graphql,
}

impl Cost {
    /// What is wrong goes to `cx.problems`. `limit` is the limit's name, for the metrics.
    pub fn compile(config: &Spanned<CostConfig>, limit: &str, cx: &mut Compile<'_>) -> Option<Self> {
        if let CostConfig::Cel(CelCost { cel, max }) = &config.value {
            let expression = Expression::compile(cel, cel.place, cx.problems, Kind::Int);
            if !(1..=MOST).contains(max) {
                cx.problems.push(Problem::error(config.place, format!("`max` is between 1 and {MOST}")));
                return None;
            }
            let help = "Requests whose cost an expression could not say: they cost the most.";
            let labels = [("limit", limit), ("scope", cx.scope)];
            let failed = cx.tallies.counter("portcullis_rate_limit_cost_errors_total", help, &labels);
            return Some(Cost::Cel { expression: expression?, max: *max, failed });
        }
        let mut wrong = |message: String| {
            cx.problems.push(Problem::error(config.place, message));
            None
        };
        match &config.value {
            // Above.
            CostConfig::Cel(_) => None,
            CostConfig::Graphql => Some(Cost::Graphql),
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

    /// Whether it is another for another path.
    pub fn looks_at_path(&self) -> bool {
        matches!(self, Cost::Cel { expression, .. } if expression.looks_at_path())
    }

    #[inline]
    pub fn of(&self, head: &RequestHead, exchange: &Exchange) -> u64 {
        match self {
            Cost::Fixed(cost) => *cost,
            Cost::Graphql => {
                let operation = exchange.operation.as_ref();
                // Fields without fields cost nothing beside others; a request of nothing else (a login) is still one.
                operation.and_then(|operation| operation.names.operation_cost(operation.number)).unwrap_or(1).clamp(1, MOST)
            }
            Cost::Header { name, max, default } => match head.header(name.as_str()) {
                None => *default,
                Some(value) => number(value.trim_ascii()).unwrap_or(*max).min(*max),
            },
            Cost::Cel { expression, max, failed } => {
                match expression.int(head, exchange).ok().and_then(|cost| u64::try_from(cost).ok()) {
                    Some(cost) => cost.min(*max),
                    None => {
                        failed.add(1);
                        *max
                    }
                }
            }
        }
    }
}

/// Digits only: `+1`, which `parse` would take, is no count.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// All that may be written, so that a problem in it keeps its place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    header: Option<String>,
    #[serde(default)]
    cel: Option<Spanned<String>>,
    max: u64,
    #[serde(default)]
    default: Option<u64>,
}

impl Written {
    fn config(self) -> Result<CostConfig, &'static str> {
        let Written { header, cel, max, default } = self;
        match (header, cel, default) {
            (Some(header), None, default) => {
                Ok(CostConfig::Header(HeaderCost { header, max, default: default.unwrap_or_else(one) }))
            }
            (None, Some(cel), None) => Ok(CostConfig::Cel(CelCost { cel, max })),
            (None, Some(_), Some(_)) => Err("an expression always says a cost: `default` is for `header`"),
            _ => Err("a cost has either `header` or `cel`"),
        }
    }
}

impl<'de> Deserialize<'de> for CostConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CostVisitor;

        impl<'de> Visitor<'de> for CostVisitor {
            type Value = CostConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, `graphql`, { header: NAME, max: NUMBER } or { cel: EXPRESSION, max: NUMBER }")
            }

            fn visit_u64<E: de::Error>(self, cost: u64) -> Result<CostConfig, E> {
                Ok(CostConfig::Fixed(cost))
            }

            fn visit_i64<E: de::Error>(self, cost: i64) -> Result<CostConfig, E> {
                u64::try_from(cost).map(CostConfig::Fixed).map_err(|_| E::custom("a cost is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CostConfig, E> {
                if text == "graphql" {
                    return Ok(CostConfig::Graphql);
                }
                number(text.as_bytes()).map(CostConfig::Fixed).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CostConfig, A::Error> {
                Written::deserialize(de::value::MapAccessDeserializer::new(map))?.config().map_err(de::Error::custom)
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
        let (header, cel) = (generator.subschema_for::<HeaderCost>(), generator.subschema_for::<CelCost>());
        json_schema!({ "oneOf": [{ "type": "integer", "minimum": 0, "maximum": MOST }, { "type": "string", "enum": ["graphql"] }, header, cel] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ledger::Ledger;
    use crate::policy::testing::context;
    use crate::problem::Problems;

    fn compile(config: serde_json::Value) -> Result<Cost, String> {
        let config: Spanned<CostConfig> = serde_json::from_value(config).map_err(|error| error.to_string())?;
        let (mut problems, ledger, consumers) = (Problems::default(), Ledger::default(), Arc::default());
        let mut cx = context(&mut problems, "global", &ledger, &consumers, std::path::Path::new("."));
        let cost = Cost::compile(&config, "test", &mut cx);
        cost.ok_or_else(|| problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn a_header_is_bounded_and_what_is_no_number_costs_the_most() {
        let cost = compile(json!({ "header": "X-Cost", "max": 50, "default": 3 })).unwrap();
        for (value, expected) in [
            ("7", 7),
            (" 8 ", 8),
            ("0", 0),
            ("51", 50),
            ("99999999999999999999999", 50),
            ("-1", 50),
            ("+1", 50),
            ("1.5", 50),
            ("", 50),
            ("\0", 50),
        ] {
            let head = RequestHead::build("GET", "/", &[("X-Cost", value)]);
            assert_eq!(cost.of(&head, &Exchange::for_tests()), expected, "{value:?}");
        }
        assert_eq!(cost.of(&RequestHead::build("GET", "/", &[]), &Exchange::for_tests()), 3);
    }

    #[test]
    fn an_expression_that_fails_costs_the_most_and_is_counted() {
        let cost = compile(json!({ "cel": "request.method == 'GET' ? 2 : int(request.headers['x-cost'])", "max": 40 })).unwrap();
        let of =
            |method: &str, fields: &[(&str, &str)]| cost.of(&RequestHead::build(method, "/", fields), &Exchange::for_tests());
        assert_eq!((of("GET", &[]), of("POST", &[("x-cost", "9")]), of("POST", &[("x-cost", "41")])), (2, 9, 40));
        let Cost::Cel { failed, .. } = &cost else { panic!("{cost:?}") };
        let before = failed.sum();
        assert_eq!((of("POST", &[]), of("POST", &[("x-cost", "many")]), of("POST", &[("x-cost", "-1")])), (40, 40, 40));
        assert_eq!(failed.sum() - before, 3);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (config, complaint) in [
            (json!(-1), "cost"),
            (json!(2_000_000_000u64), "at most"),
            (json!({ "header": "a b", "max": 5 }), "header name"),
            (json!({ "header": "a", "max": 0 }), "`max`"),
            (json!({ "header": "a", "max": 5, "default": 6 }), "`default`"),
            (json!({ "header": "a", "cel": "1", "max": 5 }), "either"),
            (json!({ "cel": "1", "max": 5, "default": 1 }), "`default`"),
            (json!({ "cel": "1 +", "max": 5 }), ""),
            (json!({ "cel": "request.methid", "max": 5 }), ""),
            (json!({ "cel": "'text'", "max": 5 }), ""),
            (json!({ "max": 5 }), "either"),
            (json!("many"), "whole number"),
        ] {
            let said = compile(config.clone()).unwrap_err();
            assert!(said.contains(complaint), "{config}: {said}");
        }
        assert!(matches!(compile(json!(0)), Ok(Cost::Fixed(0))));
    }
}
