//! How requests are spread over the endpoints of a service that may be asked.
//!
//! An algorithm is one file, with a [`Balancer`] in it, and one line in [`ALGORITHMS`]: from that come the word under `balance`, its
//! schema and the reference. It is built anew whenever a cluster publishes its endpoints, when health or addresses change, and never
//! changes itself: what it has to remember beyond that is the endpoints' ([`Endpoint`]), which outlive reloads. A pick stands on the path
//! of every request: it waits for nobody and does not allocate.

mod least_requests;
mod rota;
mod round_robin;

use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::config::unknown_word;
use super::endpoint::{Endpoint, EndpointRef};
use crate::address::EndpointAddress;
use crate::stripe::PerStripe;

/// Every algorithm; the first is the default.
#[rustfmt::skip]
static ALGORITHMS: &[Algorithm] = &[
    algorithm::<round_robin::RoundRobin>(),
    algorithm::<least_requests::LeastRequests>(),
];

/// A way to choose among endpoints.
pub trait Balancer: Sized + Send + Sync + 'static {
    /// The word under `balance`.
    const NAME: &'static str;
    /// One sentence for the reference.
    const SUMMARY: &'static str;

    /// From the endpoints that may be asked now; there may be none.
    fn build(seats: &[Seat]) -> Self;

    /// The number of one of `seats`, those it was built from, that the request may take. `None` only if there is none.
    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize>;
}

/// An endpoint in its cluster.
pub struct Seat {
    pub endpoint: Arc<Endpoint>,
    /// At least 1.
    pub weight: u32,
    /// What the requests of each thread hold.
    held: PerStripe<Arc<EndpointRef>>,
}

impl Seat {
    pub(super) fn new(endpoint: Arc<Endpoint>, weight: u32) -> Self {
        Seat { endpoint, weight, held: PerStripe::default() }
    }

    pub(super) fn hold(&self) -> Option<Arc<EndpointRef>> {
        self.held.mine(|| Arc::new(EndpointRef::new(self.endpoint.clone()))).cloned()
    }
}

/// What a choice is made for.
pub struct Ask<'a> {
    /// Goes up by one with every pick of a thread.
    pub turn: u64,
    /// The addresses that were tried in vain.
    pub exclude: &'a [EndpointAddress],
}

impl Ask<'_> {
    /// Whether the request may go there.
    pub fn takes(&self, seat: &Seat) -> bool {
        !self.exclude.contains(&seat.endpoint.address())
    }
}

/// An algorithm over the seats that it was built from.
pub(super) trait Pick: Send + Sync {
    fn seats(&self) -> &[Seat];
    fn pick(&self, ask: &Ask<'_>) -> Option<&Seat>;
}

struct Built<B> {
    seats: Box<[Seat]>,
    balancer: B,
}

impl<B: Balancer> Pick for Built<B> {
    fn seats(&self) -> &[Seat] {
        &self.seats
    }

    fn pick(&self, ask: &Ask<'_>) -> Option<&Seat> {
        self.seats.get(self.balancer.pick(&self.seats, ask)?)
    }
}

/// An algorithm's line.
struct Algorithm {
    name: &'static str,
    summary: &'static str,
    build: fn(Vec<Seat>) -> Box<dyn Pick>,
}

const fn algorithm<B: Balancer>() -> Algorithm {
    Algorithm {
        name: B::NAME,
        summary: B::SUMMARY,
        build: |seats| Box::new(Built { balancer: B::build(&seats), seats: seats.into() }),
    }
}

/// How requests are spread over the healthy endpoints: one of [`ALGORITHMS`].
#[derive(Clone, Copy)]
pub struct Balance(&'static Algorithm);

impl Balance {
    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    pub(super) fn build(self, seats: Vec<Seat>) -> Box<dyn Pick> {
        (self.0.build)(seats)
    }
}

impl Default for Balance {
    fn default() -> Self {
        static FIRST: Algorithm = algorithm::<round_robin::RoundRobin>();
        Balance(ALGORITHMS.first().unwrap_or(&FIRST))
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let names = || ALGORITHMS.iter().map(|algorithm| algorithm.name).collect::<Vec<_>>();
        let known = ALGORITHMS.iter().find(|algorithm| algorithm.name == word);
        known.map(Balance).ok_or_else(|| de::Error::custom(unknown_word("balance", &word, &names())))
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words = ALGORITHMS.iter().map(|one| json_schema!({ "const": one.name, "description": one.summary }));
        json_schema!({ "oneOf": words.collect::<Vec<_>>() })
    }
}

/// What the reference says of the key.
pub(super) fn about() -> String {
    let each = ALGORITHMS.iter().map(|one| format!(" `{}` {}", one.name, one.summary));
    format!("How requests are spread over the healthy endpoints; all honour weights.{}", each.collect::<String>())
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Endpoints of these weights, on ports from 1.
    pub fn seats(weights: &[u32]) -> Vec<Seat> {
        let seat =
            |(weight, port): (&u32, u16)| Seat::new(Arc::new(Endpoint::new(([10, 0, 0, 1], port).into(), "a:1", None)), *weight);
        weights.iter().zip(1..).map(seat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::seats;
    use super::*;

    /// Whatever the algorithm: each honours what was excluded, asks nobody where there is nobody, and finds the last one that is left.
    #[test]
    fn every_algorithm_keeps_its_word() {
        for algorithm in ALGORITHMS {
            let built = (algorithm.build)(seats(&[1, 7, 3, 1]));
            let all: Vec<EndpointAddress> = built.seats().iter().map(|seat| seat.endpoint.address()).collect();
            for turn in (0..100).chain(u64::MAX - 100..u64::MAX) {
                assert!(built.pick(&Ask { turn, exclude: &[] }).is_some(), "{}", algorithm.name);
                for left in 0..all.len() {
                    let exclude: Vec<_> =
                        all.iter().copied().enumerate().filter(|(at, _)| *at != left).map(|(_, one)| one).collect();
                    let picked = built.pick(&Ask { turn, exclude: &exclude }).map(|seat| seat.endpoint.address());
                    assert_eq!(picked, Some(all[left]), "{}", algorithm.name);
                }
                assert!(built.pick(&Ask { turn, exclude: &all }).is_none(), "{}", algorithm.name);
            }
            let none = (algorithm.build)(Vec::new());
            assert!(none.pick(&Ask { turn: 5, exclude: &[] }).is_none(), "{}", algorithm.name);
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
}
