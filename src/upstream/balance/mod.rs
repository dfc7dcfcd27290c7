//! How requests are spread over the endpoints of a service that may be asked.
//!
//! An algorithm is one file, with a [`Balancer`] in it, and one line in [`config`]: from that come the word under `balance`, its settings,
//! its schema and the reference. It is built anew whenever a cluster publishes its endpoints, when health, addresses or weights change, and
//! never changes itself: what it has to remember beyond that is the endpoints' ([`Endpoint`]), which outlive reloads. A pick stands on the
//! path of every request: it waits for nobody and does not allocate.
//!
//! [`levels`] puts priorities and zones around whatever the algorithm is.

pub mod config;
mod consistent_hash;
mod first;
pub mod latency;
mod least_requests;
pub(super) mod levels;
pub(super) mod peak_ewma;
mod random;
mod rota;
mod round_robin;
pub mod slow_start;
pub mod subset;

use std::sync::Arc;
use std::time::Duration;

pub use config::Balance;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::endpoint::{Endpoint, EndpointRef};
use crate::address::EndpointAddress;
use crate::by::By;
use crate::problem::Problems;
use crate::stripe::PerStripe;

/// A way to choose among endpoints.
pub trait Balancer: Sized + Send + Sync + 'static {
    /// The word under `balance`.
    const NAME: &'static str;
    /// One sentence for the reference.
    const SUMMARY: &'static str;
    /// What can be set of it.
    type Settings: Settings;

    /// From the endpoints that may be asked now; there may be none.
    fn build(seats: &[Seat], settings: &Self::Settings) -> Self;

    /// The number of one of `seats`, those it was built from, that the request may take. `None` only if there is none.
    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize>;
}

/// What can be set of an algorithm; all of it has defaults.
pub trait Settings: DeserializeOwned + JsonSchema + Default + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Says what is out of bounds.
    fn check(&self, _problems: &mut Problems) {}

    /// What requests are told apart by, where the algorithm does so.
    fn key(&self) -> Option<&By> {
        None
    }

    /// How soon it forgets how long endpoints took, where it wants to know.
    fn decay(&self) -> Option<Duration> {
        None
    }

    /// Whether it wants to know how many requests are under way at all endpoints together.
    fn counts_all(&self) -> bool {
        false
    }
}

/// Nothing can be set.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl Settings for NoSettings {}

/// An endpoint in its cluster.
pub struct Seat {
    pub endpoint: Arc<Endpoint>,
    /// At least 1. While an endpoint of the cluster starts slowly, all are larger in proportion.
    pub weight: u32,
    /// The weight without what a slow start makes of it: for who must not move meanwhile.
    pub steady: u32,
    /// How many requests may be under way there.
    pub most: Option<u32>,
    /// What the requests of each thread hold.
    held: PerStripe<Arc<EndpointRef>>,
}

impl Seat {
    pub(super) fn new(endpoint: Arc<Endpoint>, weight: u32) -> Self {
        Seat { endpoint, weight, steady: weight, most: None, held: PerStripe::default() }
    }

    pub(super) fn hold(&self) -> Option<Arc<EndpointRef>> {
        self.held.mine(|| Arc::new(EndpointRef::new(self.endpoint.clone()))).cloned()
    }

    /// Whether as many requests are under way as there may be. Threads do not wait for each other to find out, so that in a rush each of
    /// them may let one more pass.
    fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.endpoint.in_flight() >= u64::from(most))
    }
}

/// What a choice is made for.
pub struct Ask<'a> {
    /// Goes up by one with every pick of a thread.
    pub turn: u64,
    /// Another number for every gateway and thread, so that they do not draw the same in step.
    pub seed: u64,
    /// The addresses that were tried in vain.
    pub exclude: &'a [EndpointAddress],
    /// Whether some seat may be full.
    pub limited: bool,
    /// What the algorithm tells requests apart by, where it does.
    pub key: Option<&'a [u8]>,
    /// Where circuit breakers let the request go, if they are to be asked.
    pub admitted: Option<&'a dyn Fn(&Endpoint) -> bool>,
}

impl Ask<'_> {
    /// Whether the request may go anywhere.
    pub fn is_open(&self) -> bool {
        self.exclude.is_empty() && !self.limited && self.admitted.is_none()
    }

    /// Whether the request may go there.
    pub fn takes(&self, seat: &Seat) -> bool {
        !self.exclude.contains(&seat.endpoint.address())
            && (!self.limited || !seat.is_full())
            && self.admitted.is_none_or(|admitted| admitted(&seat.endpoint))
    }

    /// Something drawn at random.
    fn dice(&self) -> u64 {
        mix(self.turn ^ self.seed)
    }
}

/// Turns are consecutive, and draws must not be (SplitMix64).
pub(super) fn mix(turn: u64) -> u64 {
    let mut z = turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::upstream::InFlightGuard;

    /// Endpoints of these weights, on ports from 1.
    pub fn seats(weights: &[u32]) -> Vec<Seat> {
        let seat =
            |(weight, port): (&u32, u16)| Seat::new(Arc::new(Endpoint::new(([10, 0, 0, 1], port).into(), "a:1", None)), *weight);
        weights.iter().zip(1..).map(seat).collect()
    }

    /// A request that is under way there until this is dropped.
    pub fn under_way(seat: &Seat) -> InFlightGuard {
        InFlightGuard::begin(seat.hold().unwrap())
    }

    pub fn ask(turn: u64) -> Ask<'static> {
        Ask { turn, seed: 0, exclude: &[], limited: false, key: None, admitted: None }
    }

    pub fn keyed(key: &[u8]) -> Ask<'_> {
        Ask { key: Some(key), ..ask(0) }
    }

    /// How often each is picked, of so many turns.
    pub fn counts<B: Balancer>(balancer: &B, seats: &[Seat], turns: u64) -> Vec<u64> {
        let mut counts = vec![0; seats.len()];
        (0..turns).for_each(|turn| counts[balancer.pick(seats, &ask(turn)).unwrap()] += 1);
        counts
    }
}
