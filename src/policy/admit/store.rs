//! Where the buckets are: a bounded, sharded map from a client's key to its theoretical arrival time.
//!
//! *Exact at any cardinality*: the whole key is stored and compared. Addresses, and texts of up to 16 bytes, are kept as they are;
//! longer texts as a 128-bit BLAKE3 digest under a key that this process drew at random, so that nobody can prepare two that meet.
//!
//! *Bounded*: a store keeps at least `max_keys` buckets and at most an eighth more (32 bytes each; at most about 96 MB for a million
//! while a shard grows). A full bucket is the same as none, so those are forgotten first. If all are live, the one of a small sample
//! that is nearest to full makes room for the new key. Its client then has a full bucket again, that is, was given a little more than
//! the limit; [`Store::evicted`] counts these.
//!
//! Deliberately not here: sharing between processes.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::Mutex;

use super::gcra::{Gcra, Moment, Quota};
use super::table::{Cell, FIRST_KIND, RawKey, Table};

/// Buckets per store, if the configuration does not say.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// The most that the configuration may say.
pub const MOST_MAX_KEYS: usize = 100_000_000;

const SHARDS: usize = 64;
/// A store for fewer keys has fewer shards, so that a shard's share is large enough for the shares to be even.
const KEYS_PER_SHARD: usize = 1024;

/// A client, as far as one limit is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(RawKey);

impl Key {
    const WHOLE: u8 = FIRST_KIND;
    const IPV4: u8 = FIRST_KIND + 1;
    const IPV6: u8 = FIRST_KIND + 2;
    const DIGEST: u8 = FIRST_KIND + 3;
    const PAIR: u8 = FIRST_KIND + 4;
    /// Plus the length, 0 to 16.
    const TEXT: u8 = 32;

    /// One bucket for everybody.
    pub const ALL: Key = Key(RawKey { kind: Self::WHOLE, bits: [0, 0] });

    /// An IPv4 address, or an IPv6 address's first 64 bits: what one customer of an access network is given (RFC 6177), within which
    /// a client may pick addresses as it likes. An IPv4 address in IPv6 form counts as IPv4.
    pub fn address(address: IpAddr) -> Self {
        Key(match address.to_canonical() {
            IpAddr::V4(address) => RawKey { kind: Self::IPV4, bits: [u64::from(address.to_bits()), 0] },
            IpAddr::V6(address) => RawKey { kind: Self::IPV6, bits: [(address.to_bits() >> 64) as u64, 0] },
        })
    }

    pub fn text(text: &[u8]) -> Self {
        let mut exact = [0u8; 16];
        match exact.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                Key(RawKey { kind: Self::TEXT + text.len() as u8, bits: split(exact) })
            }
            None => Self::digest(Self::DIGEST, &[text]),
        }
    }

    /// Several texts in order. `["a", "bc"]` and `["ab", "c"]` differ.
    pub fn texts(texts: &[&[u8]]) -> Self {
        Self::digest(Self::PAIR, texts)
    }

    fn digest(kind: u8, texts: &[&[u8]]) -> Self {
        static SECRET: LazyLock<[u8; 32]> = LazyLock::new(|| {
            let mut secret = [0; 32];
            // Each `RandomState` is seeded by the operating system.
            for (place, index) in secret.chunks_mut(8).zip(0u64..) {
                place.copy_from_slice(&RandomState::new().hash_one(index).to_ne_bytes());
            }
            secret
        });
        let mut hasher = blake3::Hasher::new_keyed(&SECRET);
        for text in texts {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Key(RawKey { kind, bits: split(digest) })
    }
}

fn split(bytes: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}

// A line of its own per shard, or two cores that work on neighbours would slow each other down.
#[repr(align(64))]
struct Shard(Mutex<Table>);

/// The buckets of one limit. Lives in the ledger, so that a reload keeps it.
pub struct Store {
    hasher: ahash::RandomState,
    /// Made when the first key comes: most limits of a large configuration are idle.
    shards: OnceLock<Box<[Shard]>>,
    shard_count: usize,
    max_per_shard: usize,
    /// Every rate under which buckets were written, at the index that their cells carry.
    rates: Mutex<Rates>,
    evicted: AtomicU64,
}

#[derive(Default)]
struct Rates {
    known: Vec<Gcra>,
    oldest: u8,
}

impl Rates {
    const MOST: usize = 256;

    /// The rate's number. With more than 256 different rates in one process the oldest number is given again; a bucket that has slept
    /// since then is carried over from the wrong rate, clamped like any other.
    fn number(&mut self, gcra: Gcra) -> u8 {
        if let Some(known) = self.known.iter().position(|known| *known == gcra) {
            return known as u8;
        }
        if self.known.len() < Self::MOST {
            self.known.push(gcra);
            return (self.known.len() - 1) as u8;
        }
        let number = self.oldest;
        if let Some(place) = self.known.get_mut(usize::from(number)) {
            *place = gcra;
        }
        self.oldest = number.wrapping_add(1);
        number
    }
}

impl Store {
    /// For about `max_keys` clients at a time. Costs a few hundred bytes until the first one comes.
    pub fn new(max_keys: usize) -> Self {
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
            rates: Mutex::default(),
            evicted: AtomicU64::new(0),
        }
    }

    /// How many clients were given a full bucket because there was no room to remember theirs.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How many buckets are remembered, the expired ones that were not swept yet included. Takes every lock in turn: not for the hot
    /// path.
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

/// A store read under one rate. Generations with different rates may use one store at the same time.
#[derive(Clone)]
pub struct Meter {
    store: Arc<Store>,
    gcra: Gcra,
    epoch: u8,
}

impl Meter {
    pub fn new(store: Arc<Store>, gcra: Gcra) -> Self {
        let epoch = store.rates.lock().number(gcra);
        Meter { store, gcra, epoch }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Admits one request of `key` at `now` (nanoseconds), or does not. One short lock.
    pub fn take(&self, key: Key, now: u64) -> Reading {
        let Key(key) = key;
        let hash = self.store.hash(key);
        // There is always a shard; if there were not, nobody could be counted.
        let Some(shard) = self.store.shard(hash) else { return self.reading(Moment::ZERO, now, false) };
        let mut seen = Moment::ZERO;
        let mut admitted = false;
        let hash_of = |key| self.store.hash(key);
        let mut table = shard.lock();
        table.advance(hash_of);
        let known = table.update(hash, key, |cell| {
            seen = self.tat(cell, now);
            let new = self.gcra.admit(seen, now);
            admitted = new.is_some();
            seen = new.unwrap_or(seen);
            // A refusal changes nothing, unless the bucket was just carried over from another rate.
            (admitted || cell.epoch != self.epoch).then(|| self.cell(seen))
        });
        if !known && let Some(new) = self.gcra.admit(Moment::ZERO, now) {
            (seen, admitted) = (new, true);
            if table.insert(hash, key, self.cell(new), now, hash_of) {
                self.store.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(table);
        self.reading(seen, now, admitted)
    }

    /// What [`Meter::take`] would say, without taking.
    pub fn peek(&self, key: Key, now: u64) -> Reading {
        let hash = self.store.hash(key.0);
        let cell = self.store.shard(hash).and_then(|shard| shard.lock().get(hash, key.0));
        let tat = cell.map_or(Moment::ZERO, |cell| self.tat(cell, now));
        let quota = self.gcra.quota(tat, now);
        Reading { admitted: quota.remaining > 0, quota }
    }

    /// Gives one request back.
    pub fn refund(&self, key: Key, now: u64) {
        let hash = self.store.hash(key.0);
        if let Some(shard) = self.store.shard(hash) {
            shard.lock().update(hash, key.0, |cell| Some(self.cell(self.gcra.refund(self.tat(cell, now)))));
        }
    }

    fn reading(&self, tat: Moment, now: u64, admitted: bool) -> Reading {
        Reading { admitted, quota: self.gcra.quota(tat, now) }
    }

    fn cell(&self, tat: Moment) -> Cell {
        Cell { ns: tat.ns, part: tat.part, epoch: self.epoch }
    }

    fn tat(&self, cell: Cell, now: u64) -> Moment {
        let tat = Moment { ns: cell.ns, part: cell.part };
        if cell.epoch == self.epoch {
            return tat;
        }
        // Rare: the first request of a client after its limit was changed.
        match self.store.rates.lock().known.get(usize::from(cell.epoch)) {
            Some(from) => self.gcra.rescale(from, tat, now),
            None => tat,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meter(store: &Arc<Store>, count: u64, seconds: u64, burst: Option<u32>) -> Meter {
        Meter::new(store.clone(), Gcra::new(count, Duration::from_secs(seconds), burst).unwrap())
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
                assert_eq!(meter.take(number(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), SECOND).admitted, round < 2, "{n}");
            }
        }
        assert_eq!((store.len(), store.evicted()), (100_000, 0));
    }

    #[test]
    fn keys_of_different_kinds_differ() {
        let v4: IpAddr = "1.2.3.4".parse().unwrap();
        let long = vec![b'x'; 4096];
        let keys = [
            Key::ALL,
            Key::address(v4),
            Key::address("::102:304:0:0:0:0".parse().unwrap()),
            Key::text(b""),
            Key::text(b"\0"),
            Key::text(&[4, 3, 2, 1]),
            Key::text(&[0; 16]),
            Key::text(&[0; 17]),
            Key::text(&long),
            Key::text(&long[1..]),
            Key::texts(&[b"a", b"bc"]),
            Key::texts(&[b"ab", b"c"]),
            Key::texts(&[&[0; 17]]),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{key:?}");
        }
        assert_eq!(Key::address("::ffff:1.2.3.4".parse().unwrap()), Key::address(v4));
        assert_eq!(Key::address("2001:db8::1".parse().unwrap()), Key::address("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(Key::address("2001:db8::1".parse().unwrap()), Key::address("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(Key::text(&long), Key::text(&long.clone()));
    }

    #[test]
    fn memory_is_bounded_and_says_so() {
        let store = Arc::new(Store::new(10_000));
        let meter = meter(&store, 1, 3600, None);
        for n in 0..50_000 {
            assert!(meter.take(number(n), SECOND).admitted);
        }
        let len = store.len();
        assert!((10_000..=11_250).contains(&len), "{len}");
        assert_eq!(store.evicted(), 50_000 - len as u64);
    }

    #[test]
    fn as_many_keys_as_promised_fit() {
        let store = Arc::new(Store::new(100_000));
        let meter = meter(&store, 1, 3600, None);
        assert!((0..100_000).all(|n| meter.take(number(n), SECOND).admitted));
        assert!((0..100_000).all(|n| !meter.take(number(n), SECOND).admitted));
        assert_eq!(store.evicted(), 0);
    }

    #[test]
    fn the_expired_make_room_without_eviction() {
        let store = Arc::new(Store::new(5_000));
        let meter = meter(&store, 1, 1, None);
        // 1,000 new keys a second, each live for one: many times the bound, never at once.
        for n in 0..100_000 {
            assert!(meter.take(number(n), n * SECOND / 1_000).admitted);
        }
        assert_eq!(store.evicted(), 0);
        assert!(store.len() <= 5_625);
    }

    #[test]
    fn a_peek_takes_nothing_and_a_refund_gives_back() {
        let store = Arc::new(Store::new(100));
        let meter = meter(&store, 3, 60, None);
        assert_eq!(meter.peek(Key::ALL, SECOND).quota.remaining, 3);
        assert!(store.is_empty());
        assert_eq!(meter.take(Key::ALL, SECOND).quota.remaining, 2);
        assert_eq!(meter.peek(Key::ALL, SECOND).quota.remaining, 2);
        meter.refund(Key::ALL, SECOND);
        assert_eq!(meter.peek(Key::ALL, SECOND).quota.remaining, 3);
        meter.refund(number(9), SECOND);
    }

    #[test]
    fn a_changed_rate_finds_what_was_consumed() {
        let store = Arc::new(Store::new(100));
        let old = meter(&store, 100, 60, None);
        for _ in 0..30 {
            old.take(Key::ALL, SECOND);
        }
        let new = meter(&store, 40, 1, None);
        assert_eq!(new.take(Key::ALL, SECOND).quota.remaining, 9);
        // Both generations at once, while the old one drains.
        assert_eq!(old.take(Key::ALL, SECOND).quota.remaining, 68);
        assert_eq!(new.peek(Key::ALL, SECOND).quota.remaining, 8);
        let same = meter(&store, 40, 1, None);
        assert_eq!(same.epoch, new.epoch);
    }

    #[test]
    fn more_rates_than_numbers_are_survived() {
        let store = Arc::new(Store::new(100));
        for count in 1..1_000 {
            meter(&store, count, 60, None).take(Key::ALL, SECOND);
        }
        assert_eq!(store.rates.lock().known.len(), 256);
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
                        admitted.fetch_add(u64::from(meter.take(Key::ALL, SECOND).admitted), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }
}
