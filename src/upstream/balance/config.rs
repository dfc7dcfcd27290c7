//! What people write under `balance`: an algorithm's word, or a map of the one word to its settings.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Balancer, Built, Pick, Seat, Settings, consistent_hash, first, least_requests, peak_ewma, random, round_robin};
use crate::by::By;
use crate::problem::Problems;
use crate::upstream::config::unknown_word;

/// How requests are spread over the healthy endpoints: one of [`ALGORITHMS`], with its settings.
#[derive(Clone)]
pub struct Balance(Arc<dyn Chosen>);

macro_rules! algorithms {
    ($($balancer:ty,)+) => {
        static ALGORITHMS: &[Algorithm] = &[$(algorithm::<$balancer>(),)+];

        /// The settings of the algorithm of that word.
        fn read_settings<'de, A: MapAccess<'de>>(word: &str, map: &mut A) -> Result<Balance, A::Error> {
            match word {
                $(<$balancer as Balancer>::NAME => Ok(Balance::of::<$balancer>(map.next_value()?)),)+
                _ => Err(A::Error::custom(unknown(word))),
            }
        }
    };
}

// The first is the default.
algorithms! {
    round_robin::RoundRobin,
    least_requests::LeastRequests,
    peak_ewma::PeakEwma,
    consistent_hash::ConsistentHash,
    random::Random,
    first::First,
}

/// An algorithm's line.
pub(super) struct Algorithm {
    pub(super) name: &'static str,
    summary: &'static str,
    /// With its settings' defaults.
    pub(super) plain: fn() -> Balance,
    settings: fn(&mut SchemaGenerator) -> Schema,
}

const fn algorithm<B: Balancer>() -> Algorithm {
    Algorithm {
        name: B::NAME,
        summary: B::SUMMARY,
        plain: || Balance::of::<B>(B::Settings::default()),
        settings: |generator| generator.subschema_for::<B::Settings>(),
    }
}

/// All of them, for tests that hold each to its word.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, Balance)> {
    ALGORITHMS.iter().map(|one| (one.name, (one.plain)()))
}

/// An algorithm with its settings.
trait Chosen: Send + Sync {
    fn name(&self) -> &'static str;
    fn settings(&self) -> &dyn Facts;
    fn build(&self, seats: Vec<Seat>) -> Box<dyn Pick>;
}

/// [`Settings`], whatever they are.
trait Facts {
    fn check(&self, problems: &mut Problems);
    fn key(&self) -> Option<&By>;
    fn decay(&self) -> Option<Duration>;
    fn counts_all(&self) -> bool;
}

impl<S: Settings> Facts for S {
    fn check(&self, problems: &mut Problems) {
        Settings::check(self, problems);
    }

    fn key(&self) -> Option<&By> {
        Settings::key(self)
    }

    fn decay(&self) -> Option<Duration> {
        Settings::decay(self)
    }

    fn counts_all(&self) -> bool {
        Settings::counts_all(self)
    }
}

struct With<B: Balancer>(B::Settings);

impl<B: Balancer> Chosen for With<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn settings(&self) -> &dyn Facts {
        &self.0
    }

    fn build(&self, seats: Vec<Seat>) -> Box<dyn Pick> {
        Box::new(Built { balancer: B::build(&seats, &self.0), seats: seats.into() })
    }
}

impl Balance {
    fn of<B: Balancer>(settings: B::Settings) -> Self {
        Balance(Arc::new(With::<B>(settings)))
    }

    pub fn as_str(&self) -> &'static str {
        self.0.name()
    }

    /// How soon it forgets how long endpoints took, where it wants to know.
    pub fn decay(&self) -> Option<Duration> {
        self.0.settings().decay()
    }

    /// What it tells requests apart by, if it does.
    pub fn key(&self) -> Option<&By> {
        self.0.settings().key()
    }

    /// Whether it wants to know how many requests are under way at all endpoints together.
    pub(in crate::upstream) fn counts_all(&self) -> bool {
        self.0.settings().counts_all()
    }

    /// Says what is out of bounds.
    pub(in crate::upstream) fn check(&self, problems: &mut Problems) {
        self.0.settings().check(problems);
    }

    pub(in crate::upstream) fn build(&self, seats: Vec<Seat>) -> Box<dyn Pick> {
        self.0.build(seats)
    }
}

impl Default for Balance {
    fn default() -> Self {
        Balance::of::<round_robin::RoundRobin>(super::NoSettings::default())
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn unknown(word: &str) -> String {
    let names: Vec<_> = ALGORITHMS.iter().map(|algorithm| algorithm.name).collect();
    unknown_word("balance", word, &names)
}

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        impl<'de> Visitor<'de> for Shape {
            type Value = Balance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an algorithm, such as `least_requests`, or a map of one to its settings")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Balance, E> {
                let known = ALGORITHMS.iter().find(|algorithm| algorithm.name == word);
                known.map(|algorithm| (algorithm.plain)()).ok_or_else(|| E::custom(unknown(word)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Balance, A::Error> {
                let Some(word) = map.next_key::<String>()? else {
                    return Err(A::Error::custom("expected an algorithm, for example `consistent_hash: { key: consumer }`"));
                };
                let balance = read_settings(&word, &mut map)?;
                match map.next_key::<String>()? {
                    None => Ok(balance),
                    Some(_) => Err(A::Error::custom("expected one algorithm, with its settings in a map of their own")),
                }
            }
        }

        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut shapes: Vec<Schema> =
            ALGORITHMS.iter().map(|one| json_schema!({ "const": one.name, "description": one.summary })).collect();
        let settings = ALGORITHMS.iter().map(|one| {
            let mut schema = (one.settings)(generator);
            schema.insert("description".to_owned(), format!("Settings of `{}`, which {}", one.name, one.summary).into());
            (one.name.to_owned(), schema.to_value())
        });
        let settings: serde_json::Map<String, serde_json::Value> = settings.collect();
        shapes.push(json_schema!({
            "type": "object", "properties": settings, "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
        }));
        json_schema!({ "oneOf": shapes })
    }
}

/// What the reference says of the key.
pub(in crate::upstream) fn about() -> String {
    let each = ALGORITHMS.iter().map(|one| format!(" `{}` {}", one.name, one.summary));
    format!(
        "How requests are spread over the healthy endpoints: an algorithm, or a map of it to its settings, as in `consistent_hash: {{ key: \
         consumer }}`.{}",
        each.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, keyed, seats, under_way};
    use super::*;
    use crate::address::EndpointAddress;
    use crate::upstream::balance::Ask;

    /// Whatever the algorithm: each honours what was excluded, asks nobody where there is nobody, and finds the last one that is left.
    #[test]
    fn every_algorithm_keeps_its_word() {
        for (name, balance) in all() {
            let built = balance.build(seats(&[1, 7, 3, 1]));
            let addresses: Vec<EndpointAddress> = built.seats().iter().map(|seat| seat.endpoint.address()).collect();
            for turn in (0..100).chain(u64::MAX - 100..u64::MAX) {
                let key = turn.to_le_bytes();
                for ask in [ask(turn), Ask { turn, ..keyed(&key) }] {
                    assert!(built.pick(&ask).is_some(), "{name}");
                    for left in 0..addresses.len() {
                        let exclude: Vec<_> =
                            addresses.iter().copied().enumerate().filter(|(at, _)| *at != left).map(|(_, one)| one).collect();
                        let picked = built.pick(&Ask { exclude: &exclude, ..ask }).map(|seat| seat.endpoint.address());
                        assert_eq!(picked, Some(addresses[left]), "{name}");
                    }
                    assert!(built.pick(&Ask { exclude: &addresses, ..ask }).is_none(), "{name}");
                }
            }
            assert!(balance.build(Vec::new()).pick(&ask(5)).is_none(), "{name}");
        }
    }

    /// An endpoint that has as much to do as it may is passed over by each; where all have, there is none.
    #[test]
    fn every_algorithm_passes_over_the_full() {
        for (name, balance) in all() {
            let mut full = seats(&[1, 1, 1]);
            full.iter_mut().for_each(|seat| seat.most = Some(1));
            let built = balance.build(full);
            let busy: Vec<_> = (0..2).map(|at| under_way(&built.seats()[at])).collect();
            for turn in 0..50 {
                let key = turn.to_string();
                let ask = Ask { turn, limited: true, ..keyed(key.as_bytes()) };
                assert_eq!(
                    built.pick(&ask).map(|seat| seat.endpoint.address()),
                    Some(built.seats()[2].endpoint.address()),
                    "{name}"
                );
            }
            let _last = under_way(&built.seats()[2]);
            assert!(built.pick(&Ask { limited: true, ..ask(1) }).is_none(), "{name}");
            drop(busy);
            assert!(built.pick(&Ask { limited: true, ..ask(1) }).is_some(), "{name}");
        }
    }

    #[test]
    fn names_are_unique_and_the_first_is_the_default() {
        let mut names: Vec<_> = ALGORITHMS.iter().map(|algorithm| algorithm.name).collect();
        assert_eq!(Balance::default().as_str(), names[0]);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALGORITHMS.len());
    }

    #[test]
    fn is_a_word_or_a_map_of_one_to_its_settings() {
        let read = |yaml: &str| serde_yaml::from_str::<Balance>(yaml).map_err(|error| error.to_string());
        for (name, _) in all() {
            assert_eq!(read(name).unwrap().as_str(), name);
            assert_eq!(read(&format!("{{ {name}: {{}} }}")).unwrap().as_str(), name);
        }
        let hashed = read("consistent_hash: { key: { cookie: sid }, bounded_load: 1.5 }").unwrap();
        assert_eq!(hashed.key().unwrap().text(), "cookie:sid");
        assert!(hashed.counts_all() && !read("consistent_hash").unwrap().counts_all());
        for (wrong, why) in [
            ("least_conn", "did you mean `least_requests`?"),
            ("ip_hash", "did you mean `consistent_hash`?"),
            ("{ round_robin: { decay: 1s } }", "unknown field"),
            ("{ random: {}, first: {} }", "expected one algorithm"),
            ("{}", "expected an algorithm"),
            ("{ fastest: {} }", "unknown balance `fastest`"),
        ] {
            let said = read(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
