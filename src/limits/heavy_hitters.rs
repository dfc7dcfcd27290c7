//! Who does something more often than he may, among any number of others.
//!
//! Everybody is counted in a sketch of constant size, which estimates too high where addresses fall together, never too low. Whoever is
//! estimated at half of what he may gets a counter of his own, and only that one refuses: nobody is refused for what others do. He begins
//! it with nothing, so that a flood may bring half as much again in its first period.
//!
//! The sketch is `pingora-limits`' `Rate`. Each is behind a lock: threads that share one can meet at the end of its interval in such a way
//! that time runs backwards, and it forgets what it has counted.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora_limits::rate::Rate as Sketch;

use crate::cidr::Occupant;
use crate::value::Rate;

/// As many locks, so that the cores seldom meet at one.
const SHARDS: usize = 16;
/// Counters in one sketch: 16 KiB, twice.
const HASHES: usize = 4;
const SLOTS: usize = 256;
/// How long a sketch counts before it begins anew. Its library panics below a second, where threads meet in its first one.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most exact counters of one shard. Who would have one more is let pass: where so many are too quick at once, there are other bounds.
const MOST_EXACT: usize = 4096;
/// How long it is remembered what an address has not been told.
const REMEMBER: Duration = Duration::from_secs(60);

/// The longest period of an [`Allowance`].
pub const LONGEST: Duration = Duration::from_secs(60);

/// How often one address may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    most: u64,
    per: Duration,
    /// Nobody with so few in one interval of the sketch can pass `most`.
    unsuspected: isize,
}

impl Allowance {
    /// `None` if the rate's period is longer than [`LONGEST`].
    pub fn new(rate: Rate) -> Option<Self> {
        let half = u128::from(rate.count) * INTERVAL.as_nanos() / rate.per.as_nanos().max(1) / 2;
        let unsuspected = isize::try_from(half).unwrap_or(isize::MAX);
        (rate.per <= LONGEST).then_some(Allowance { most: rate.count, per: rate.per, unsuspected })
    }
}

/// One address's own counter.
struct Exact {
    began: Instant,
    count: u64,
    /// What was refused and not told yet.
    untold: u64,
}

struct Shard {
    sketch: Sketch,
    exact: HashMap<Occupant, Exact, ahash::RandomState>,
    /// With so many counters it is time to look for those that are not needed any more.
    crowded: usize,
    swept: Instant,
}

/// See the module. Takes its 256 KiB with the first event.
#[derive(Default)]
pub struct HeavyHitters(OnceLock<Shards>);

struct Shards {
    // Keyed with a random seed: a client must not be able to choose addresses that share a shard.
    hasher: ahash::RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl std::fmt::Debug for HeavyHitters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeavyHitters").field("exact", &self.exact()).finish()
    }
}

impl HeavyHitters {
    /// Counts one event. `None` if the address had all it may; else how many were refused to it before, and not told yet.
    pub fn observe(&self, who: Occupant, may: &Allowance) -> Option<u64> {
        let Shards { hasher, shards } = self.0.get_or_init(Shards::new);
        let [first, ..] = shards;
        let mut shard = shards.get(hasher.hash_one(who) as usize % SHARDS).unwrap_or(first).lock();
        // Under the lock, so that it never runs backwards.
        let now = Instant::now();
        shard.observe(who, may, now)
    }

    /// How many addresses have a counter of their own.
    pub fn exact(&self) -> usize {
        self.0.get().map_or(0, |shards| shards.shards.iter().map(|shard| shard.lock().exact.len()).sum())
    }
}

impl Shards {
    fn new() -> Self {
        let hasher = ahash::RandomState::new();
        Shards { shards: std::array::from_fn(|_| Mutex::new(Shard::new(hasher.clone()))), hasher }
    }
}

impl Shard {
    fn new(hasher: ahash::RandomState) -> Self {
        let sketch = Sketch::new_with_estimator_config(INTERVAL, HASHES, SLOTS);
        Shard { sketch, exact: HashMap::with_hasher(hasher), crowded: 64, swept: Instant::now() }
    }

    fn observe(&mut self, who: Occupant, may: &Allowance, now: Instant) -> Option<u64> {
        if let Some(exact) = self.exact.get_mut(&who) {
            return exact.take(may, now);
        }
        if self.sketch.observe(&who, 1) <= may.unsuspected {
            return Some(0);
        }
        if !self.has_room(may.per, now) {
            return Some(0);
        }
        self.exact.insert(who, Exact { began: now, count: 1, untold: 0 });
        Some(0)
    }

    fn has_room(&mut self, per: Duration, now: Instant) -> bool {
        let full = self.exact.len() >= MOST_EXACT;
        // Looking through all of them for each connection would be a flood's best weapon.
        if self.exact.len() < self.crowded || full && now.duration_since(self.swept) < INTERVAL {
            return !full;
        }
        self.exact.retain(|_, exact| {
            let idle = now.saturating_duration_since(exact.began);
            idle < per || exact.untold > 0 && idle < per + REMEMBER
        });
        self.swept = now;
        self.crowded = (self.exact.len() * 2).clamp(64, MOST_EXACT);
        self.exact.shrink_to(self.crowded);
        self.exact.len() < MOST_EXACT
    }
}

impl Exact {
    fn take(&mut self, may: &Allowance, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= may.per {
            (self.began, self.count) = (now, 0);
        }
        if self.count >= may.most {
            self.untold += 1;
            return None;
        }
        self.count += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn may(text: &str) -> Allowance {
        Allowance::new(Rate::parse(text).unwrap()).unwrap()
    }

    fn who(number: u32) -> Occupant {
        IpAddr::from(number.to_be_bytes()).into()
    }

    #[test]
    fn an_address_has_what_it_may_in_each_period_and_hears_of_the_rest() {
        // So few that nobody is left to the sketch, whose time cannot be set.
        let (mut shard, may) = (Shard::new(ahash::RandomState::new()), may("3/10s"));
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let told: Vec<_> = (0..5).map(|second| shard.observe(who(1), &may, at(second))).collect();
        assert_eq!(told, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(shard.observe(who(2), &may, at(5)), Some(0), "another has its own");
        assert_eq!(shard.observe(who(1), &may, at(9)), None);
        assert_eq!(shard.observe(who(1), &may, at(10)), Some(3));
        assert_eq!(shard.observe(who(1), &may, at(10)), Some(0));
    }

    #[test]
    fn whoever_stays_within_it_is_never_refused_however_many_others_there_are() {
        let (hitters, may) = (HeavyHitters::default(), may("20/s"));
        // So many that every counter of the sketch soon stands above the mark.
        for round in 0..20 {
            for number in 0..30_000 {
                assert!(hitters.observe(who(number), &may).is_some(), "{number} in round {round}");
            }
        }
        assert!(hitters.exact() > 1000);
    }

    #[test]
    fn a_flood_of_one_is_held_to_half_as_much_again_in_its_first_second() {
        let (hitters, may, began) = (HeavyHitters::default(), may("100/s"), Instant::now());
        let passed = (0..10_000).filter(|_| hitters.observe(who(7), &may).is_some()).count();
        let seconds = began.elapsed().as_secs() as usize;
        assert!((100..=150 + 100 * seconds).contains(&passed), "{passed}");
        assert_eq!(hitters.observe(who(8), &may), Some(0));
    }

    #[test]
    fn the_counters_are_bounded_and_forgotten() {
        let mut shard = Shard::new(ahash::RandomState::new());
        let may = may("1/s");
        let begin = Instant::now();
        for number in 0..2 * MOST_EXACT as u32 {
            assert_eq!(shard.observe(who(number), &may, begin), Some(0), "nobody is refused for want of a counter");
        }
        assert_eq!(shard.exact.len(), MOST_EXACT);
        assert_eq!(shard.observe(who(3), &may, begin), None);
        let later = begin + Duration::from_secs(2);
        assert_eq!(shard.observe(who(u32::MAX), &may, later), Some(0));
        assert_eq!(shard.exact.len(), 2, "the new one, and the one with something to tell");
        assert_eq!(shard.observe(who(3), &may, later), Some(1));
    }

    #[test]
    fn threads_that_share_it_let_nobody_pass_twice() {
        let (hitters, may, passed) = (HeavyHitters::default(), may("40/60s"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..20_000 {
                        let passes = hitters.observe(who(number % 4), &may).is_some();
                        passed.fetch_add(usize::from(passes), Ordering::Relaxed);
                    }
                });
            }
        });
        let passed = passed.into_inner();
        assert!((160..=4 * 60).contains(&passed), "{passed}");
    }
}
