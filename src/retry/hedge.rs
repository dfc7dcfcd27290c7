//! A second copy of a request that takes unusually long, at another endpoint: after how long, and how much that may cost. After Dean and
//! Barroso, "The Tail at Scale".

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use super::learned::Learned;
use crate::ledger::Ledger;
use crate::problem::{Problem, Problems};
use crate::tally::{Counter, Tallies};
use crate::value::{Period, Spanned};

/// What one copy costs, in the units that requests earn.
const COST: i64 = 1_000_000;
/// The most copies that can be saved up.
const MOST_SAVED: i64 = 10;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(60);
const WANTED: &str = "`p95`, a time such as `50ms`, or `false`";

/// `hedging`, of a service or of a route: `p95`, `50ms` or `false`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgingConfig {
    Off,
    /// After the time that this share of the answers takes.
    Learned(f64),
    Set(Period),
}

struct Shape;

impl Visitor<'_> for Shape {
    type Value = HedgingConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WANTED)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<HedgingConfig, E> {
        if on { Err(E::custom(format!("after how long? write {WANTED}"))) } else { Ok(HedgingConfig::Off) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HedgingConfig, E> {
        let Some(percentile) = text.strip_prefix(['p', 'P']) else {
            return Period::parse(text).map(HedgingConfig::Set).map_err(|_| E::custom(format!("`{text}` is not {WANTED}")));
        };
        let number = percentile.parse::<f64>().ok().filter(|number| (50.0..=99.9).contains(number));
        let number = number.filter(|_| percentile.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        let unknown = || E::custom(format!("`{text}` is no percentile from `p50` to `p99.9`"));
        number.map(|number| HedgingConfig::Learned(number / 100.0)).ok_or_else(unknown)
    }
}

impl<'de> Deserialize<'de> for HedgingConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for HedgingConfig {
    fn schema_name() -> Cow<'static, str> {
        "Hedging".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json_schema!({ "type": "string", "description": "`p95`, `p99`, `50ms` ..." });
        json_schema!({ "anyOf": [text, { "const": false }] })
    }
}

enum After {
    Set(Duration),
    Learned(Arc<Saved>),
}

/// What is known of a service's answers, and how many copies have been saved up. Outlives reloads.
struct Saved {
    learned: Learned,
    /// What each request earns, so that copies are never more than the share that is expected.
    earned: i64,
    saved: AtomicI64,
}

/// The rules of one service, or of a service on one route.
pub struct Hedging {
    after: After,
    won: Arc<Counter>,
    lost: Arc<Counter>,
    over_budget: Arc<Counter>,
}

impl Hedging {
    /// For the service of that key, or one of its routes. `None` if it is off, or there was a problem. `limit`: how long a head is waited
    /// for in any case.
    pub fn compile(
        config: &Spanned<HedgingConfig>,
        service: &str,
        route: Option<&str>,
        limit: Duration,
        (ledger, tallies): (&Ledger, &Tallies),
        problems: &mut Problems,
    ) -> Option<Self> {
        let after = match config.value {
            HedgingConfig::Off => return None,
            HedgingConfig::Set(Period(after)) => {
                if !(SHORTEST..=LONGEST).contains(&after) {
                    problems.push(Problem::error(config.place, "`hedging` must be between 1ms and 1m"));
                    return None;
                }
                if after >= limit {
                    let message = "`hedging` has no effect: an answer is given up before that";
                    problems
                        .push(Problem::error(config.place, message).hint("make it shorter than `timeouts.try` and `response`"));
                    return None;
                }
                After::Set(after)
            }
            HedgingConfig::Learned(share) => {
                let key = format!("service:{service}:hedging:{}:{share}", route.unwrap_or_default());
                let earned = ((1.0 - share) * COST as f64) as i64;
                let new = || Saved { learned: Learned::new(share), earned, saved: AtomicI64::new(COST) };
                After::Learned(ledger.keep(&key, new))
            }
        };
        let help = "Second copies of requests that took unusually long, by what came of them.";
        let counter = |outcome| tallies.counter("portcullis_hedges_total", help, &[("service", service), ("outcome", outcome)]);
        Some(Hedging { after, won: counter("won"), lost: counter("lost"), over_budget: counter("over_budget") })
    }

    /// After how long a copy is sent. `None` while that is not known.
    pub fn after(&self) -> Option<Duration> {
        match &self.after {
            After::Set(after) => Some(*after),
            After::Learned(saved) => saved.learned.bound().map(|bound| bound.max(SHORTEST)),
        }
    }

    /// Takes in a request that may be copied.
    pub fn earn(&self) {
        if let After::Learned(saved) = &self.after
            && saved.saved.load(Ordering::Relaxed) < MOST_SAVED * COST
        {
            saved.saved.fetch_add(saved.earned, Ordering::Relaxed);
        }
    }

    /// Takes in how long an answer took, or at least took.
    pub fn observe(&self, took: Duration) {
        if let After::Learned(saved) = &self.after {
            saved.learned.observe(took);
        }
    }

    /// Takes a copy out of what was saved up, if that is enough for one, and `budget` has one left, too.
    pub fn spend(&self, budget: impl FnOnce() -> bool) -> bool {
        let saved = match &self.after {
            After::Set(_) => None,
            After::Learned(saved) => Some(&saved.saved),
        };
        let pays = saved.is_none_or(|saved| {
            let enough = |left| (left >= COST).then(|| left - COST);
            saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
        });
        let fine = pays && budget();
        if !fine {
            self.over_budget.add(1);
        }
        fine
    }

    /// Counts a copy whose answer was taken, or was not.
    pub fn ended(&self, won: bool) {
        if won { self.won.add(1) } else { self.lost.add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<HedgingConfig, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_a_percentile_or_a_time() {
        assert_eq!(read("p95"), Ok(HedgingConfig::Learned(0.95)));
        assert_eq!(read("50ms"), Ok(HedgingConfig::Set(Period(Duration::from_millis(50)))));
        assert_eq!(read("false"), Ok(HedgingConfig::Off));
        for (bad, says) in [
            ("p100", "p99.9"),
            ("p1e1", "p99.9"),
            ("p", "p99.9"),
            ("pnan", "p99.9"),
            ("true", "after how long"),
            ("50", "p95"),
            ("soon", "p95"),
            ("{}", "p95"),
        ] {
            let told = read(bad).expect_err(bad);
            assert!(told.contains(says), "{bad}: {told}");
        }
    }

    #[test]
    fn copies_are_never_more_than_their_share() {
        let (ledger, tallies, mut problems) = (Ledger::default(), Tallies::default(), Problems::default());
        let config = Spanned::nowhere(HedgingConfig::Learned(0.95));
        let limit = Duration::from_secs(30);
        let hedging = Hedging::compile(&config, "it", None, limit, (&ledger, &tallies), &mut problems).unwrap();
        assert_eq!(hedging.after(), None);
        let made = (0..10_000).filter(|_| {
            hedging.earn();
            hedging.spend(|| true)
        });
        assert!((495..=511).contains(&made.count()));
        // What was saved up is bounded, and outlives a reload.
        (0..10_000).for_each(|_| hedging.earn());
        let again = Hedging::compile(&config, "it", None, limit, (&ledger, &tallies), &mut problems).unwrap();
        assert!((10..=11).contains(&(0..100).filter(|_| again.spend(|| true)).count()));
        assert!(!again.spend(|| true) && problems.is_empty());
    }
}
