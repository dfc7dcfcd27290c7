//! Where a limit counts in this process: a bounded, sharded map from a client's key to what is remembered of it.
//!
//! *Exact at any cardinality*: the whole key is stored and compared, so no client is refused for another's requests.
//!
//! *Bounded*: a store keeps at least `max_keys` clients and at most an eighth more, in slots of 32 bytes of which between three
//! eighths and three quarters are taken: 43 to 85 bytes per tracked client, and for a moment, while a shard grows, half as much
//! again (at most about 96 MB for a million). A client whose limit is all there is the same as one that is not remembered, so
//! those are forgotten first. If none is, the one of a small sample that is nearest to it makes room for the new key, and was
//! thereby given a little more than the limit; [`Store::evicted`] counts these.
//!
//! Deliberately not here: sharing between processes.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::key::Key;
use super::rule::{Quota, Rule, State};
use super::table::{Cell, RawKey, Table};
use crate::tally::Counter;

/// Clients per store, if the configuration does not say.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// The most that the configuration may say.
pub const MOST_MAX_KEYS: usize = 100_000_000;

const SHARDS: usize = 64;
/// A store for fewer keys has fewer shards, so that a shard's share is large enough for the shares to be even.
const KEYS_PER_SHARD: usize = 1024;

// A line of its own per shard, or two cores that work on neighbours would slow each other down.
#[repr(align(64))]
struct Shard(Mutex<Table>);

/// The clients of one limit. Lives in the ledger, so that a reload keeps it.
pub struct Store {
    hasher: ahash::RandomState,
    /// Made when the first key comes: most limits of a large configuration are idle.
    shards: OnceLock<Box<[Shard]>>,
    shard_count: usize,
    max_per_shard: usize,
    /// Every rule under which cells were written, at the index that they carry.
    rules: Mutex<Rules>,
    evicted: Arc<Counter>,
}

#[derive(Default)]
struct Rules {
    known: Vec<Rule>,
    oldest: u8,
}

impl Rules {
    const MOST: usize = 256;

    /// The rule's number. With more than 256 different rules in one process the oldest number is given again; a client that was
    /// not heard of since then is carried over from the wrong rule, clamped like any other.
    fn number(&mut self, rule: Rule) -> u8 {
        if let Some(known) = self.known.iter().position(|known| *known == rule) {
            return known as u8;
        }
        if self.known.len() < Self::MOST {
            self.known.push(rule);
            return (self.known.len() - 1) as u8;
        }
        let number = self.oldest;
        if let Some(place) = self.known.get_mut(usize::from(number)) {
            *place = rule;
        }
        self.oldest = number.wrapping_add(1);
        number
    }
}

impl Store {
    /// For about `max_keys` clients at a time. Costs a few hundred bytes until the first one comes.
    pub fn new(max_keys: usize) -> Self {
        Self::counting(max_keys, Arc::default())
    }

    /// The same, with a counter for the clients that had to be forgotten.
    pub fn counting(max_keys: usize, evicted: Arc<Counter>) -> Self {
        let max_keys = max_keys.clamp(1, MOST_MAX_KEYS);
        let shard_count = (max_keys / KEYS_PER_SHARD).next_power_of_two().clamp(1, SHARDS);
        let share = max_keys.div_ceil(shard_count);
        // Shares are even only on average: without the slack a shard would evict before the store is full.
        let max_per_shard = if shard_count == 1 { share } else { share + share / 8 };
        Store {
            hasher: ahash::RandomState::new(),
            shards: OnceLock::new(),
            shard_count,
            max_per_shard,
            rules: Mutex::default(),
            evicted,
        }
    }

    /// How many clients were given all of their limit again because there was no room to remember them.
    pub fn evicted(&self) -> u64 {
        self.evicted.sum()
    }

    /// How many clients are remembered, the expired ones that were not swept yet included. Takes every lock in turn: not for the
    /// hot path.
    pub fn len(&self) -> usize {
        self.shards.get().map_or(0, |shards| shards.iter().map(|shard| shard.0.lock().len()).sum())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Table>> {
        let shards = self
            .shards
            .get_or_init(|| (0..self.shard_count).map(|_| Shard(Mutex::new(Table::new(self.max_per_shard)))).collect());
        // The top bits: the table uses the bottom ones.
        shards.get((hash >> 32) as usize & (self.shard_count - 1)).map(|shard| &shard.0)
    }

    fn hash(&self, key: RawKey) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// What a meter said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub admitted: bool,
    pub quota: Quota,
}

/// A store read under one rule. Generations, and plans, with different rules may use one store at the same time.
#[derive(Clone)]
pub struct Meter {
    store: Arc<Store>,
    rule: Rule,
    epoch: u8,
}

impl Meter {
    pub fn new(store: Arc<Store>, rule: Rule) -> Self {
        let epoch = store.rules.lock().number(rule);
        Meter { store, rule, epoch }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Admits a request of `key` with this cost at `now` (nanoseconds), or does not. One short lock.
    pub fn take(&self, key: Key, cost: u64, now: u64) -> Reading {
        let Key(key) = key;
        let hash = self.store.hash(key);
        // There is always a shard; if there were not, nobody could be counted.
        let Some(shard) = self.store.shard(hash) else { return self.reading(State::default(), cost, now, false) };
        let mut seen = State::default();
        let mut admitted = false;
        let hash_of = |key| self.store.hash(key);
        let mut table = shard.lock();
        table.advance(hash_of);
        let known = table.update(hash, key, |cell| {
            seen = self.state(cell, now);
            let new = self.rule.admit(seen, now, cost);
            admitted = new.is_some();
            seen = new.unwrap_or(seen);
            // A refusal changes nothing, unless the state was just carried over from another rule.
            (admitted || cell.epoch != self.epoch).then(|| self.cell(seen))
        });
        if !known && let Some(new) = self.rule.admit(State::default(), now, cost) {
            (seen, admitted) = (new, true);
            if table.insert(hash, key, self.cell(new), now, hash_of) {
                self.store.evicted.add(1);
            }
        }
        drop(table);
        self.reading(seen, cost, now, admitted)
    }

    /// What [`Meter::take`] would say, without taking.
    pub fn peek(&self, key: Key, cost: u64, now: u64) -> Reading {
        let hash = self.store.hash(key.0);
        let cell = self.store.shard(hash).and_then(|shard| shard.lock().get(hash, key.0));
        let quota = self.rule.quota(cell.map_or(State::default(), |cell| self.state(cell, now)), now, cost);
        Reading { admitted: quota.remaining >= cost, quota }
    }

    /// Gives back what a request took.
    pub fn refund(&self, key: Key, cost: u64, now: u64) {
        let hash = self.store.hash(key.0);
        if let Some(shard) = self.store.shard(hash) {
            let refunded = |cell| Some(self.cell(self.rule.refund(self.state(cell, now), now, cost)));
            shard.lock().update(hash, key.0, refunded);
        }
    }

    fn reading(&self, state: State, cost: u64, now: u64, admitted: bool) -> Reading {
        // After an admission the next one is asked about.
        Reading { admitted, quota: self.rule.quota(state, now, if admitted { 1 } else { cost }) }
    }

    fn cell(&self, state: State) -> Cell {
        Cell { state, epoch: self.epoch }
    }

    fn state(&self, cell: Cell, now: u64) -> State {
        if cell.epoch == self.epoch {
            return cell.state;
        }
        // Rare: the first request of a client after its limit or its plan was changed.
        match self.store.rules.lock().known.get(usize::from(cell.epoch)) {
            Some(from) => self.rule.carry(from, cell.state, now),
            None => cell.state,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::super::Gcra;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meter(store: &Arc<Store>, count: u64, seconds: u64, burst: Option<u32>) -> Meter {
        Meter::new(store.clone(), Rule::TokenBucket(Gcra::new(count, Duration::from_secs(seconds), burst).unwrap()))
    }

    fn number(n: u64) -> Key {
        Key::text(&n.to_be_bytes())
    }

    #[test]
    fn nobody_is_refused_for_another() {
        let store = Arc::new(Store::new(DEFAULT_MAX_KEYS));
        let meter = meter(&store, 2, 3600, None);
        for round in 0..3 {
            for n in 0..100_000u64 {
                assert_eq!(meter.take(number(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 1, SECOND).admitted, round < 2, "{n}");
            }
        }
        assert_eq!((store.len(), store.evicted()), (100_000, 0));
    }

    #[test]
    fn memory_is_bounded_and_says_so() {
        let store = Arc::new(Store::new(10_000));
        let meter = meter(&store, 1, 3600, None);
        for n in 0..50_000 {
            assert!(meter.take(number(n), 1, SECOND).admitted);
        }
        let len = store.len();
        assert!((10_000..=11_250).contains(&len), "{len}");
        assert_eq!(store.evicted(), 50_000 - len as u64);
    }

    #[test]
    fn as_many_keys_as_promised_fit() {
        let store = Arc::new(Store::new(100_000));
        let meter = meter(&store, 1, 3600, None);
        assert!((0..100_000).all(|n| meter.take(number(n), 1, SECOND).admitted));
        assert!((0..100_000).all(|n| !meter.take(number(n), 1, SECOND).admitted));
        assert_eq!(store.evicted(), 0);
    }

    #[test]
    fn the_expired_make_room_without_eviction() {
        let store = Arc::new(Store::new(5_000));
        let meter = meter(&store, 1, 1, None);
        // 1,000 new keys a second, each live for one: many times the bound, never at once.
        for n in 0..100_000 {
            assert!(meter.take(number(n), 1, n * SECOND / 1_000).admitted);
        }
        assert_eq!(store.evicted(), 0);
        assert!(store.len() <= 5_625);
    }

    #[test]
    fn a_peek_takes_nothing_and_a_refund_gives_back() {
        let store = Arc::new(Store::new(100));
        let meter = meter(&store, 3, 60, None);
        assert_eq!(meter.peek(Key::ALL, 1, SECOND).quota.remaining, 3);
        assert!(store.is_empty());
        assert_eq!(meter.take(Key::ALL, 1, SECOND).quota.remaining, 2);
        assert_eq!(meter.peek(Key::ALL, 1, SECOND).quota.remaining, 2);
        meter.refund(Key::ALL, 1, SECOND);
        assert_eq!(meter.peek(Key::ALL, 1, SECOND).quota.remaining, 3);
        meter.refund(number(9), 1, SECOND);
    }

    #[test]
    fn a_changed_rate_finds_what_was_consumed() {
        let store = Arc::new(Store::new(100));
        let old = meter(&store, 100, 60, None);
        for _ in 0..30 {
            old.take(Key::ALL, 1, SECOND);
        }
        let new = meter(&store, 40, 1, None);
        assert_eq!(new.take(Key::ALL, 1, SECOND).quota.remaining, 9);
        // Both generations at once, while the old one drains.
        assert_eq!(old.take(Key::ALL, 1, SECOND).quota.remaining, 68);
        assert_eq!(new.peek(Key::ALL, 1, SECOND).quota.remaining, 8);
        let same = meter(&store, 40, 1, None);
        assert_eq!(same.epoch, new.epoch);
    }

    #[test]
    fn more_rates_than_numbers_are_survived() {
        let store = Arc::new(Store::new(100));
        for count in 1..1_000 {
            meter(&store, count, 60, None).take(Key::ALL, 1, SECOND);
        }
        assert_eq!(store.rules.lock().known.len(), 256);
    }

    #[test]
    fn threads_together_get_exactly_the_capacity() {
        let store = Arc::new(Store::new(1_000));
        let meter = meter(&store, 1_000, 3600, None);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        admitted.fetch_add(u64::from(meter.take(Key::ALL, 1, SECOND).admitted), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }
}
