//! Answers that were given before: keys, freshness, whose turn it is to fetch, and the memory tier.
//!
//! The cache belongs to the process and outlives every generation of the configuration; a route only has a [`CachePolicy`]. A request
//! looks for its answer once ([`Cache::look`]). A fresh one is written at once; for what is not there, one request takes the turn
//! ([`Cache::turn`]), asks, and has its answer stored while it passes ([`Cache::admit`]). That is code of our own: Pingora's state machine
//! (`HttpCache`) wants every head as a header map, in its own form, and costs more than the whole rest of a request. It serves on a stock
//! server ([`stock`]), over the same store and rules.
//!
//! Behind the memory tier there may be one on [`disk`], and one in [`redis`] that gateways share. Not in here: who may purge.

pub mod accept;
mod admit;
mod behind;
mod changed;
mod conditions;
mod control;
pub mod credentials;
mod date;
pub mod disk;
mod entry;
mod fetch;
mod flow;
mod hit;
mod keeping;
pub mod key;
mod layout;
mod lent;
pub mod memory;
mod moment;
mod pieces;
pub mod policy;
mod purges;
mod range;
pub mod redis;
mod revalidate;
pub mod rules;
mod said;
mod setback;
pub mod sharing;
pub mod status;
pub mod stock;
pub mod stored;
pub mod tags;
mod turns;
mod validated;
pub mod watch;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use pingora_cache::NoCacheReason;
use pingora_cache::eviction::EvictionManager;
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use pingora_cache::predictor::Predictor;
use tokio::sync::watch::Sender;

use crate::head::RequestHead;
use crate::tally::Tallies;

pub use behind::{Behind, Found};
use changed::Place;
pub use conditions::is_unchanged_anew;
pub use credentials::{Credentials, is_overriding};
use disk::{Disk, DiskStats, Noted};
pub use fetch::{Fetch, Looked, Missed, Next, Patience};
pub use flow::{Flow, Piece as Flown};
pub use hit::{Excuse, Hit, Tier, asked};
pub use keeping::Keeping;
pub use key::{Key, key};
pub use lent::{Lent, Paying};
pub use memory::{MemoryStats, MemoryTier};
use moment::Moment;
pub use pieces::Chunks;
pub use policy::{CachePolicy, Extra};
pub use purges::{Purge, Within, host};
pub use range::range;
use redis::RedisTier;
pub use revalidate::Validation;
pub use rules::{Bypass, Use, Wishes};
use sharing::Sharing;
pub use status::{CACHE_STATUS, Outcome};
pub use stored::StoredHead;
use turns::Turns;
pub use turns::{Heard, Verdict, Waiting};

/// The longest that a request waits for another one's answer before it asks the backend itself, uncached.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often a request goes back to waiting after the one it waited for had nothing to store. On a stock server HEAD and ranges hold the
/// lock for a moment without filling, so it takes a few.
pub const LOCK_RETRIES: usize = 5;
/// How many keys per shard are remembered as "cannot be stored", so that they skip the lookup and, above all, the lock.
const PREDICTED: usize = 512;
const PREDICTOR_SHARDS: usize = 16;
/// How many keys are remembered as asked for once, where a route wants to know.
const ASKED: usize = 1 << 17;

/// The process's cache. Built once at boot, never freed.
pub struct Cache {
    storage: &'static MemoryTier,
    /// The tier evicts by itself: only it knows what an entry really weighs, and it must hold its bound at every moment, not after a
    /// task has been scheduled. pingora's eviction managers would keep a second index of all keys.
    eviction: Option<&'static (dyn EvictionManager + Sync)>,
    /// Pingora's own, for a stock server.
    lock: &'static CacheKeyLockImpl,
    turns: Turns,
    payers: lent::Payers,
    /// What the other gateways are told.
    pub sharing: Sharing,
    /// Answers are kept in another Redis than before.
    redis_bound: Sender<()>,
    predictor: &'static Predictor<PREDICTOR_SHARDS>,
    /// What was asked for before, for routes that store nothing at the first time.
    asked: OnceLock<Box<[AtomicU64]>>,
}

/// What the tiers count of themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub memory: MemoryStats,
    pub disk: Option<DiskStats>,
}

impl Cache {
    /// A cache of at most `bytes` bytes of memory. Leaks it: call it once, at boot.
    pub fn new(bytes: usize) -> &'static Cache {
        // What depends on the moment is not remembered: a backend that answers 503 once should find its lock in place when it is back.
        fn forget(reason: &'static str) -> bool {
            !["set_cookie", "forbidden", "vary", "tags", "unframed", "stream", "unnamed", "stale"].contains(&reason)
        }
        Moment::begin();
        Box::leak(Box::new(Cache {
            storage: MemoryTier::new(bytes),
            eviction: None,
            lock: Box::leak(CacheLock::new_boxed(turns::OLDEST)),
            turns: Turns::new(),
            payers: lent::Payers::default(),
            sharing: Sharing::new(),
            redis_bound: Sender::new(()),
            predictor: Box::leak(Box::new(Predictor::new(PREDICTED, Some(forget)))),
            asked: OnceLock::new(),
        }))
    }

    /// Puts a tier on disk behind memory. To be called once, at boot.
    ///
    /// # Errors
    /// There are no threads for it.
    pub fn add_disk(&'static self, settings: disk::Settings, tallies: &Tallies) -> std::io::Result<()> {
        let disk: &'static Disk = Box::leak(Box::new(Disk::new(settings, self.storage, tallies)));
        if self.storage.disk.set(disk).is_ok() { disk.start() } else { Ok(()) }
    }

    /// The tier in Redis; from now on there is one, though it may be in none.
    fn redis(&self, tallies: &Tallies) -> &'static RedisTier {
        self.storage.redis.get_or_init(|| {
            let tier: &'static RedisTier = Box::leak(Box::new(RedisTier::new(self.storage, tallies)));
            if let Err(error) = tier.start() {
                log::error!("nothing is written to the Redis of the cache: {error}");
            }
            tier
        })
    }

    /// Opens this thread's connection to the Redis that answers are kept in, ahead of its first lookup, and again where that is another Redis.
    /// Does not end.
    pub async fn keep_warm(&'static self) {
        let mut bound = self.redis_bound.subscribe();
        loop {
            bound.borrow_and_update();
            self.storage.redis.get().iter().for_each(|redis| redis.warm());
            if bound.changed().await.is_err() {
                return;
            }
        }
    }

    /// Writes what waits to be written to disk, and lets the next process have it. Takes a while; for good.
    pub fn close_disk(&self) {
        if let Some(disk) = self.disk() {
            disk.close();
        }
    }

    fn disk(&self) -> Option<&'static Disk> {
        self.storage.disk.get().copied()
    }

    /// `hit` is given: where its body is read from disk each time, that is the disk's as well.
    pub fn count_given(&self, hit: &Hit) {
        if let Some(disk) = self.disk().filter(|_| hit.is_long()) {
            disk.gives_long();
        }
    }

    pub fn stats(&self) -> Stats {
        Stats { memory: self.storage.stats(), disk: self.disk().map(Disk::stats) }
    }

    /// A request that is not safe was answered without an error: forgets what it has changed. `named` are the answer's `Location` and
    /// `Content-Location`. Where there is something to be written before its client hears that it is done, gives that to wait for.
    pub fn changed<'a>(&self, head: &RequestHead, scheme: &str, named: impl Iterator<Item = &'a [u8]>) -> Option<Noted> {
        let (disk, redis) = (self.disk(), self.storage.redis.get());
        if disk.is_none() && redis.is_none() {
            self.storage.changes.by(head, scheme, named, |_, _| {});
            return None;
        }
        let (mut targets, mut at) = (Vec::new(), 0);
        self.storage.changes.by(head, scheme, named, |now, target| {
            at = now.get();
            targets.push(target.into_boxed_slice());
        });
        if let Some(redis) = redis {
            redis.changed(at, &targets);
        }
        disk?.changed(at, targets)
    }

    /// Takes out what an operator wants to have out; or marks it stale, so that it may be given only as what has expired may. At once, and
    /// whatever is stored: what it concerns is found out when it is looked for ([`purges`]). Where there is something to be written before
    /// it is sure to outlast the process, gives that to wait for.
    pub fn purge(&self, purge: &Purge, soft: bool) -> Option<Noted> {
        // First there: what is found meanwhile is held against what is noted next.
        if let Some(redis) = self.storage.redis.get() {
            redis.purged(purge, soft);
        }
        self.purge_own(purge, soft)
    }

    /// The same of what this process alone has.
    fn purge_own(&self, purge: &Purge, soft: bool) -> Option<Noted> {
        let at = self.storage.purges.note(purge, soft);
        Some(self.disk()?.purged(at, purge, soft))
    }

    /// Whether what is kept under a key was changed since it was asked for: the answer may be from before the change.
    fn was_changed(&self, place: Place, came: rules::Came) -> bool {
        self.storage.changes.since(place, came.asked)
    }

    /// Whether something of that key was missed before, for all that is remembered. It is from now on.
    fn was_asked(&self, (place, mark): (u64, u64)) -> bool {
        let places = self.asked.get_or_init(|| std::iter::repeat_with(AtomicU64::default).take(ASKED).collect());
        let Some(place) = places.get((place % ASKED as u64) as usize) else { return false };
        place.swap(mark | 1, Ordering::Relaxed) == mark | 1
    }

    /// When an answer came that was asked for then; now, if nobody was asked.
    #[inline]
    fn came(&self, asked: Option<Instant>) -> rules::Came {
        let after = asked.map(|asked| asked.elapsed()).unwrap_or_default();
        rules::Came { now: SystemTime::now(), after, asked: asked.map_or_else(Moment::now, Moment::of).get() }
    }
}

/// Why an answer is not stored, in the words of Pingora's predictor, which remembers some of them.
fn reason(refusal: rules::Refusal) -> NoCacheReason {
    match refusal {
        // Its own word, which makes its size bookkeeping work.
        rules::Refusal::TooLarge => NoCacheReason::ResponseTooLarge,
        refusal => NoCacheReason::Custom(refusal.reason()),
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
pub(crate) mod tests;
