//! Answers that were given before: keys, freshness, the memory tier, and the glue to pingora's cache state machine.
//!
//! The cache belongs to the process and outlives every generation of the configuration; a route only has a [`CachePolicy`]. The
//! hooks of `ProxyHttp` make one call each:
//!
//! | hook | call |
//! |---|---|
//! | `request_cache_filter` | [`Cache::enable`]; keep the [`Use`] in the request's context |
//! | `cache_key_callback` | [`key()`] (pingora's default panics) |
//! | `cache_hit_filter` | [`on_hit`] |
//! | `cache_miss` | [`on_miss`] |
//! | `cache_vary_filter` | [`vary()`] |
//! | `response_cache_filter` | [`Cache::judge`] |
//! | `range_header_filter` | [`range()`] |
//! | `response_filter` | [`Outcome::of`], append its [`Outcome::field`] as [`CACHE_STATUS`] |
//! | `logging` | [`Cache::count`] |
//!
//! A fresh answer needs none of it: it is found with [`Cache::fresh`] and written at once.
//!
//! Not in here: tiers on disk or in Redis, purging by tag, serving stale answers, and who may purge.

mod changed;
pub mod credentials;
mod entry;
mod hit;
pub mod key;
pub mod memory;
pub mod policy;
mod range;
mod revalidate;
pub mod rules;
pub mod status;
mod stored;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::header::{self, HeaderName};
use pingora_cache::eviction::EvictionManager;
use pingora_cache::key::HashBinary;
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};
use pingora_cache::predictor::Predictor;
use pingora_cache::{CacheKey, CacheMeta, CacheOptionOverrides, ForcedFreshness, HttpCache, NoCacheReason, RespCacheable};
use pingora_http::ResponseHeader;

use crate::head::RequestHead;

use changed::Place;
pub use credentials::Credentials;
pub use hit::{Hit, asked};
pub use key::key;
pub use memory::{MemoryStats, MemoryTier};
pub use policy::CachePolicy;
pub use range::range;
pub use revalidate::Validation;
pub use rules::{Bypass, Use};
pub use status::{CACHE_STATUS, Outcome};
pub use stored::StoredHead;

/// A backend that takes longer than this to answer no longer holds back the others that want the same: one of them asks again.
const LOCK_AGE: Duration = Duration::from_secs(10);
/// The longest that a request waits for another one's answer before it asks the backend itself, uncached.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often a request goes back to waiting after the one it waited for had nothing to store. HEAD and ranges hold the lock for a
/// moment without filling, so it takes a few.
const LOCK_RETRIES: usize = 5;
/// How many keys per shard are remembered as "cannot be stored", so that they skip the lookup and, above all, the lock.
const PREDICTED: usize = 512;
const PREDICTOR_SHARDS: usize = 16;

/// The process's cache. Built once at boot, never freed.
pub struct Cache {
    storage: &'static MemoryTier,
    /// The tier evicts by itself: only it knows what an entry really weighs, and it must hold its bound at every moment, not after a
    /// task has been scheduled. pingora's eviction managers would keep a second index of all keys.
    eviction: Option<&'static (dyn EvictionManager + Sync)>,
    lock: &'static CacheKeyLockImpl,
    predictor: &'static Predictor<PREDICTOR_SHARDS>,
    hits: AtomicU64,
    misses: AtomicU64,
    revalidated: AtomicU64,
    bypassed: AtomicU64,
}

/// Counted since the process started; see [`MemoryStats`] for the tier's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub hits: u64,
    /// Asked the backend: nothing stored, or what was stored had expired.
    pub misses: u64,
    /// Asked the backend, which said that the stored answer still holds.
    pub revalidated: u64,
    /// Did not look up.
    pub bypassed: u64,
    pub memory: MemoryStats,
}

impl Cache {
    /// A cache of at most `bytes` bytes of memory. Leaks it: call it once, at boot.
    pub fn new(bytes: usize) -> &'static Cache {
        // What depends on the moment is not remembered: a backend that answers 503 once should find its lock in place when it is back.
        fn forget(reason: &'static str) -> bool {
            !["set_cookie", "forbidden", "vary", "unframed"].contains(&reason)
        }
        Box::leak(Box::new(Cache {
            storage: MemoryTier::new(bytes),
            eviction: None,
            lock: Box::leak(CacheLock::new_boxed(LOCK_AGE)),
            predictor: Box::leak(Box::new(Predictor::new(PREDICTED, Some(forget)))),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            revalidated: AtomicU64::new(0),
            bypassed: AtomicU64::new(0),
        }))
    }

    /// `request_cache_filter`: turns the cache on for this request, if it may use it ([`rules::request`]).
    /// Keep the answer in the request's context: the other hooks want it.
    pub fn enable(&'static self, cache: &mut HttpCache, policy: &CachePolicy, used: Use) -> Use {
        // Enabling twice would panic; a subrequest may come with its cache set up.
        if !matches!(used, Use::Bypass(_)) && !cache.enabled() && !cache.bypassing() {
            let mut options = CacheOptionOverrides::default();
            options.wait_timeout = Some(LOCK_WAIT);
            options.max_lock_retries = Some(LOCK_RETRIES);
            cache.enable(self.storage, self.eviction, Some(self.predictor), Some(self.lock), Some(options));
            cache.set_max_file_size_bytes(policy.max_body);
        }
        used
    }

    /// `logging`: counts what came of the request. For routes with a cache policy only.
    pub fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Hit { .. } => &self.hits,
            Outcome::Revalidated => &self.revalidated,
            Outcome::Miss { .. } | Outcome::Expired { .. } => &self.misses,
            Outcome::Predicted { .. } | Outcome::Bypass(_) => &self.bypassed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn stats(&self) -> Stats {
        Stats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            revalidated: self.revalidated.load(Ordering::Relaxed),
            bypassed: self.bypassed.load(Ordering::Relaxed),
            memory: self.storage.stats(),
        }
    }

    /// Forgets what is stored under a key, with all its variants: pingora counts a variant only as long as its primary stands.
    /// `true` if something was.
    pub async fn purge(&'static self, key: &CacheKey) -> bool {
        use pingora_cache::{PurgeOutcome, PurgeTarget, PurgeType, Storage, trace::Span};
        let mut key = key.to_compact();
        key.variance = None;
        let purged = self.storage.purge(PurgeTarget::Active(&key), PurgeType::Invalidation, &Span::inactive().handle()).await;
        matches!(purged, Ok(PurgeOutcome::Purged(_)))
    }

    /// A request that is not safe was answered without an error: forgets what it has changed. `named` are the answer's `Location` and
    /// `Content-Location`.
    pub fn changed<'a>(&self, head: &RequestHead, scheme: &str, named: impl Iterator<Item = &'a [u8]>) {
        self.storage.changes.by(head, scheme, named);
    }

    /// Whether what is kept under a key was changed since `then`: an answer that was asked for before may be from before the change.
    pub fn was_changed(&self, key: &CacheKey, then: SystemTime) -> bool {
        self.storage.changes.since(Place::of(key::target_of(key.primary_key())), then)
    }

    /// `response_cache_filter`: the metadata to store of an answer, or why it is not stored. `asked` is when it was asked for, `validation`
    /// the 304 that stands for it.
    pub fn judge(
        &self,
        answer: &ResponseHeader,
        http: &HttpCache,
        asked: Option<Instant>,
        validation: Option<&Validation>,
        policy: &CachePolicy,
    ) -> RespCacheable {
        let key = http.maybe_cache_key();
        let asked = asked.and_then(|asked| SystemTime::now().checked_sub(asked.elapsed()));
        if let (Some(key), Some(asked)) = (key, asked)
            && self.was_changed(key, asked)
        {
            // It may be what there was before the change.
            return RespCacheable::Uncacheable(NoCacheReason::Custom("changed"));
        }
        match (validation, http.maybe_cache_meta()) {
            (Some(validation), Some(meta)) => validation.store(answer, meta, key, self, policy),
            _ => store(answer, policy),
        }
    }

    /// Forgets one entry.
    fn forget(&self, key: &CacheKey) {
        self.storage.forget(key);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.storage.clear();
    }
}

/// `cache_hit_filter`: a request that may not store must not validate either, because pingora would turn it into a GET for the whole.
pub fn on_hit(used: Use, is_fresh: bool) -> Option<ForcedFreshness> {
    (used == Use::ReadOnly && !is_fresh).then_some(ForcedFreshness::ForceMiss)
}

/// `cache_miss`: goes on to the backend, as a request that stores its answer or as one that does not.
pub fn on_miss(cache: &mut HttpCache, used: Use) {
    if used == Use::Full {
        cache.cache_miss();
    } else {
        // Lets one of the requests that wait behind this one take its place.
        cache.disable(NoCacheReason::Deferred);
    }
}

/// `cache_vary_filter`: which variant of a stored answer a request wants; see [`key::variance`].
pub fn vary<'v, V>(policy: &CachePolicy, meta: &CacheMeta, seen: impl Fn(&HeaderName) -> V) -> Option<HashBinary>
where
    V: IntoIterator<Item = &'v [u8]>,
{
    key::variance(policy, rules::list(&meta.headers().get_all(header::VARY)), seen)
}

/// `response_cache_filter`: the metadata to store, or why the answer is not stored.
pub fn store(answer: &ResponseHeader, policy: &CachePolicy) -> RespCacheable {
    let now = SystemTime::now();
    match rules::response(answer, policy, now) {
        // pingora's own word, which makes its size bookkeeping work.
        Err(rules::Refusal::TooLarge) => RespCacheable::Uncacheable(NoCacheReason::ResponseTooLarge),
        Err(refusal) => RespCacheable::Uncacheable(NoCacheReason::Custom(refusal.reason())),
        Ok(fresh) => {
            let mut header = answer.clone();
            rules::strip(&mut header);
            let mut meta = CacheMeta::new(now + fresh.remaining, now, 0, 0, header);
            // The `Age` of a hit counts from here.
            meta.set_epoch_override(now.checked_sub(fresh.age).unwrap_or(now));
            RespCacheable::Cacheable(meta)
        }
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
pub(crate) mod tests;
