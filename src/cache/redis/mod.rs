//! The Redis tier: what one gateway has stored is written to Redis as well, and found there by all that share it.
//!
//! | file | what it is for |
//! |---|---|
//! | [`names`] | under which keys answers stand, which show nothing of who asks |
//! | [`value`] | one answer as it is written and read |
//! | [`clock`] | the clock that gateways have in common |
//! | [`bound`] | one Redis: what was purged by its clock, and whether all of that was heard |
//! | [`writer`] | the thread that writes, beside the requests |
//!
//! # What counts
//!
//! - *Asked*: on a miss in memory and on disk, by one command for all who want the same, until a deadline; the breaker stops who would ask in
//!   vain. Whatever goes wrong is a miss.
//! - *Written*: when it is stored in memory, by those rules and no others, from a queue that is bounded.
//! - *Whose*: an answer is found by a digest of its whole key, and bears it; see [`value`] for what makes it whole.
//! - *Gone*: each answer says when it was asked for, by Redis's clock. What was purged since makes it none: every gateway hears the purges with
//!   their times by that clock ([`super::sharing`]), and holds what it finds against them, whoever has written it and whatever he had heard.
//!   Who has not heard of purges for [`UNHEARD`] gives nothing. What a request has changed (RFC 9111, section 4.4) is noted beside the answers
//!   of its target, and answers count only as long as that note is there: who evicts it evicts them.
//! - *Its connections and breaker* are its own, so that limits do not wait behind long answers, nor are judged by them.

mod bound;
mod clock;
mod names;
mod value;
mod writer;

use std::collections::hash_map::{self, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use pingora_cache::key::HashBinary;
use tokio::sync::oneshot;

use super::changed::Place;
use super::entry::{Checked, Entry, Index, VARIANTS};
use super::key::target_of;
use super::memory::{Body, MemoryTier, aged};
use super::moment::Moment;
use super::purges::Finding;
use crate::redis::{Unavailable, cmd};
use crate::tally::{Counter, Gauge, Tallies};
pub(super) use bound::Bound;
use names::{Digest, Names};
use value::Value;
use writer::{AHEAD, Order, Writes};

/// What was purged has to have been heard as lately as that.
const UNHEARD: Duration = Duration::from_secs(1);
/// Lookups under way; more of them are misses. Each may bring a whole answer.
const LOOKUPS: usize = 256;
/// What is longer is not read on an event loop.
const AT_ONCE: usize = 128 << 10;
/// What is not good for so long is not written.
const WORTH: Duration = Duration::from_secs(1);
/// A complaint is made once in so long.
const QUIET: u64 = 60_000_000_000;
/// For a look of an operator's.
const PATIENCE: Duration = Duration::from_secs(1);

/// What people have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The longest that a request waits for Redis.
    pub deadline: Duration,
    /// The longest body that is written.
    pub max_body: usize,
    /// Longer bodies are compressed.
    pub compress_above: usize,
}

/// See the module. Lives as long as the process.
pub(super) struct RedisTier {
    tier: &'static MemoryTier,
    /// Of the generation that serves; `None` while it has no such tier.
    settings: ArcSwapOption<Settings>,
    bound: ArcSwapOption<Bound>,
    loads: Mutex<HashMap<Index, Askers, ahash::RandomState>>,
    writes: Writes,
    complained: AtomicU64,
    figures: Figures,
}

/// Those who wait for the same answer.
type Askers = Vec<oneshot::Sender<Option<Arc<Entry>>>>;

struct Figures {
    hits: Arc<Counter>,
    misses: Arc<Counter>,
    late: Arc<Counter>,
    errors: Arc<Counter>,
    skipped: Arc<Counter>,
    damaged: Arc<Counter>,
    microseconds: Arc<Counter>,
    read: Arc<Counter>,
    stored: Arc<Counter>,
    written: Arc<Counter>,
    dropped: Arc<Counter>,
    open: Arc<Gauge>,
}

impl Figures {
    fn new(tallies: &Tallies) -> Self {
        let counter = |name, help| tallies.counter(name, help, &[]);
        Figures {
            hits: counter("portcullis_cache_redis_hits_total", "Stored answers that were found in Redis, and put into memory."),
            misses: counter("portcullis_cache_redis_misses_total", "Lookups in Redis that found nothing that may be given."),
            late: counter("portcullis_cache_redis_late_total", "Lookups in Redis that took longer than the deadline."),
            errors: counter(
                "portcullis_cache_redis_errors_total",
                "Lookups and writes of the Redis cache that failed otherwise.",
            ),
            skipped: counter(
                "portcullis_cache_redis_skipped_total",
                "Lookups that were not made: the breaker was open, purges were not heard, a thread's first connection was not open in time, or too many \
                 were under way.",
            ),
            damaged: counter(
                "portcullis_cache_redis_damaged_total",
                "Values in Redis that were not as this version writes them.",
            ),
            microseconds: counter("portcullis_cache_redis_lookup_microseconds_total", "Time that lookups in Redis took."),
            read: counter("portcullis_cache_redis_read_bytes_total", "Bytes of stored answers read from Redis."),
            stored: counter("portcullis_cache_redis_stored_total", "Answers written to Redis."),
            written: counter("portcullis_cache_redis_written_bytes_total", "Bytes of stored answers written to Redis."),
            dropped: counter(
                "portcullis_cache_redis_dropped_total",
                "Answers, and notes of what was changed, not written to Redis because it did not keep up, or failed.",
            ),
            open: tallies.gauge("portcullis_cache_redis_open", "1 while answers are looked for in Redis.", &[]),
        }
    }
}

/// What is wanted of Redis.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) index: Index,
    pub(super) primary: &'a [u8],
    /// What becomes of it may be written to disk.
    pub(super) on_disk: bool,
}

impl RedisTier {
    pub(super) fn new(tier: &'static MemoryTier, tallies: &Tallies) -> Self {
        RedisTier {
            tier,
            settings: ArcSwapOption::empty(),
            bound: ArcSwapOption::empty(),
            loads: Mutex::default(),
            writes: Writes::default(),
            complained: AtomicU64::new(0),
            figures: Figures::new(tallies),
        }
    }

    /// From now on by these, if by any.
    pub(super) fn set(&self, settings: Option<Settings>) {
        if self.settings.load().as_deref() != settings.as_ref() {
            self.settings.store(settings.map(Arc::new));
        }
        let is_open = self.open().is_some();
        self.figures.open.set(is_open.into());
    }

    /// From now on in this Redis. Nothing is given from it before its purges were heard.
    pub(super) fn bind(&self, bound: Option<Arc<Bound>>) {
        self.bound.store(bound);
    }

    /// By which settings, and where, answers may be looked for now.
    fn open(&self) -> Option<(Arc<Settings>, Arc<Bound>)> {
        let settings = self.settings.load_full()?;
        Some((settings, self.bound.load_full().filter(|bound| bound.has_heard(UNHEARD))?))
    }

    /// By when a request that asks now has its answer, or does without. `None` where nobody may ask.
    pub(super) fn until(&self) -> Option<Instant> {
        let settings = self.settings.load();
        let settings = settings.as_ref()?;
        let heard = self.bound.load().as_ref().is_some_and(|bound| bound.has_heard(UNHEARD));
        if !heard {
            self.figures.skipped.add(1);
        }
        heard.then(|| Instant::now() + settings.deadline)
    }

    /// Opens this thread's connection ahead of its first lookup.
    pub(super) fn warm(&self) {
        if let Some(bound) = self.bound.load().as_ref() {
            bound.redis.warm();
        }
    }

    /// What is in Redis under a key, put into memory. It is waited for until then.
    pub(super) async fn load(&'static self, wanted: Wanted<'_>, until: Instant) -> Option<Arc<Entry>> {
        let (settings, bound) = self.open()?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        let Wanted { index, primary, on_disk } = wanted;
        let (tell, told) = oneshot::channel();
        let is_first = {
            let mut loads = self.loads.lock();
            let is_full = loads.len() >= LOOKUPS;
            match loads.entry(index) {
                hash_map::Entry::Occupied(mut known) => {
                    known.get_mut().push(tell);
                    false
                }
                hash_map::Entry::Vacant(_) if is_full => {
                    self.figures.skipped.add(1);
                    return None;
                }
                hash_map::Entry::Vacant(first) => {
                    first.insert(vec![tell]);
                    true
                }
            }
        };
        if is_first {
            let primary = primary.to_vec();
            // On a task of its own: those who wait for it do not lose it with who asked first.
            tokio::spawn(async move {
                let mut telling = Telling { tier: self, index, found: None };
                telling.found = self.look_up(&settings, bound, Wanted { index, primary: &primary, on_disk }, left).await;
            });
        }
        match tokio::time::timeout(left, told).await {
            Ok(Ok(found)) => found.filter(|entry| *entry.primary == *primary),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn look_up(
        &'static self,
        settings: &Settings,
        bound: Arc<Bound>,
        wanted: Wanted<'_>,
        deadline: Duration,
    ) -> Option<Arc<Entry>> {
        let names = Names::new(&bound.prefix, wanted.primary);
        let mut ask = cmd("MGET");
        ask.arg(names.changed()).arg(names.answer(wanted.index.variance));
        let began = Instant::now();
        let is_cold = !bound.redis.was_tried();
        if is_cold {
            bound.redis.connect(deadline).await;
        }
        let left = deadline.saturating_sub(began.elapsed());
        // What waits for a thread's first connection is no failure of Redis.
        let asking = if is_cold { bound.redis.aside(left) } else { bound.redis.within(left) };
        let answer = asking.run::<Vec<Option<Vec<u8>>>>(&ask).await;
        self.figures.microseconds.add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let values = match answer {
            Ok(values) => values,
            Err(_) if is_cold => {
                self.figures.skipped.add(1);
                return None;
            }
            Err(error) => {
                self.failed(&error);
                return None;
            }
        };
        let found = self.found(settings, bound, names.digest, wanted, values).await;
        let figures = &self.figures;
        if found.is_some() { &figures.hits } else { &figures.misses }.add(1);
        found
    }

    /// Makes an answer of what Redis said, and puts it into memory.
    async fn found(
        &'static self,
        settings: &Settings,
        bound: Arc<Bound>,
        digest: Digest,
        wanted: Wanted<'_>,
        values: Vec<Option<Vec<u8>>>,
    ) -> Option<Arc<Entry>> {
        let Ok([changed, Some(bytes)]) = <[_; 2]>::try_from(values) else { return None };
        self.figures.read.add(bytes.len() as u64);
        let longest = settings.max_body;
        let read = match value::length(&bytes) > AT_ONCE {
            false => value::read(&bytes, &digest, longest),
            true => tokio::task::spawn_blocking(move || value::read(&bytes, &digest, longest)).await.ok()?,
        };
        if let Some(at) = read.as_ref().map(|value| value.asked) {
            let now = Moment::now().get();
            if bound.clock.after(now, now).is_some_and(|latest| at > latest.saturating_add(AHEAD)) {
                // From before the clock was set back: nobody can tell it from what was purged since.
                self.order(Order::forget(wanted.index, wanted.primary, now));
                return None;
            }
        }
        let Some(value) = read.filter(|value| value.variance.is_some() == wanted.index.variance.is_some()) else {
            self.figures.damaged.add(1);
            return None;
        };
        let index = Index { variance: value.variance, ..wanted.index };
        if index != wanted.index || !is_after(value.asked, changed.as_deref()) {
            return None;
        }
        let entry = Arc::new(self.entry(&bound, wanted, value)?);
        self.tier.promote_over(index, &entry);
        Some(entry)
    }

    /// The entry that it is here, unless it was purged or changed.
    fn entry(&self, bound: &Bound, wanted: Wanted<'_>, mut value: Value) -> Option<Entry> {
        // What is purged from now on is found out by who finds it in memory.
        let checked = Moment::now().get();
        let tags = value.meta.tags.iter().flat_map(|tags| tags.iter());
        let finding = bound.book.judge(wanted.primary, tags, value.asked);
        if finding == Finding::Gone {
            return None;
        }
        value.by_own_clock(|said| bound.clock.since(said, checked))?;
        let ago = bound.clock.since(value.asked, checked)?;
        let asked = checked.saturating_sub(u64::try_from(ago.as_nanos()).ok()?);
        let Value { mut meta, body, .. } = value;
        (meta.asked, meta.on_disk, meta.in_redis) = (asked, wanted.on_disk, true);
        let mut entry = Entry::at(Place::of(target_of(wanted.primary)), wanted.primary, "", meta, body);
        entry.checked = Checked::from(checked);
        if finding == Finding::Stale {
            entry = aged(&entry);
        }
        (!self.tier.is_gone(&entry)).then_some(entry)
    }

    fn failed(&self, error: &Unavailable) {
        match error {
            Unavailable::Open => self.figures.skipped.add(1),
            Unavailable::Timeout => self.figures.late.add(1),
            _ => self.figures.errors.add(1),
        }
        if *error != Unavailable::Open {
            self.complain("the cache does without Redis where it does not answer", error);
        }
    }

    fn complain(&self, what: &str, error: &Unavailable) {
        let (now, last) = (Moment::now().get(), self.complained.load(Ordering::Relaxed));
        let is_due = last == 0 || now.saturating_sub(last) > QUIET;
        if is_due && self.complained.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log::warn!("{what}: {error}");
        }
    }

    /// An answer was stored, or its head is another one.
    pub(super) fn keep(&self, index: Index, entry: &Arc<Entry>, body: Body) {
        let settings = self.settings.load();
        let Some(settings) = settings.as_ref().filter(|_| entry.meta.in_redis && entry.user_tag.is_empty()) else { return };
        // One that is on disk alone is too long for Redis.
        let is_worth = entry.long.is_none() && entry.body.len() <= settings.max_body && entry.meta.life() >= WORTH;
        let is_kept = is_worth && self.order(Order::Store { variance: index.variance, entry: entry.clone(), body });
        if !is_kept {
            // The one before it does not come back in its place.
            let before = match body {
                Body::New | Body::Same => entry.meta.asked,
                // It may be there itself.
                Body::Outdated => Moment::now().get(),
            };
            self.order(Order::forget(index, &entry.primary, before));
        }
    }

    /// Requests have changed these targets at that moment.
    pub(super) fn changed(&self, at: u64, targets: &[Box<[u8]>]) {
        if self.settings.load().is_some() {
            targets.iter().for_each(|target| {
                self.order(Order::Changed { target: target.clone(), at });
            });
        }
    }

    /// Somebody has purged that here.
    pub(super) fn purged(&self, purge: &super::Purge, soft: bool) {
        if let Some(bound) = self.bound.load().as_ref() {
            bound.purged_here(purge, soft);
        }
    }

    fn order(&self, order: Order) -> bool {
        let is_taken = self.writes.push(order);
        if !is_taken {
            self.figures.dropped.add(1);
        }
        is_taken
    }

    /// What is in Redis under a key, with its variants, for a look now and then: it waits for Redis. `None` if that does not answer.
    pub(super) async fn all_of(&self, primary: &[u8]) -> Option<Vec<Entry>> {
        let (settings, bound) = self.open()?;
        let names = Names::new(&bound.prefix, primary);
        let slots = (0..VARIANTS).map(|slot| {
            let mut variance = HashBinary::default();
            variance.iter_mut().take(1).for_each(|first| *first = slot);
            Some(variance)
        });
        let ask = async |variances: &mut dyn Iterator<Item = Option<HashBinary>>| {
            let mut ask = cmd("MGET");
            ask.arg(names.changed());
            variances.for_each(|variance| {
                ask.arg(names.answer(variance));
            });
            let values = bound.redis.aside(PATIENCE).run::<Vec<Option<Vec<u8>>>>(&ask).await.ok()?;
            let mut values = values.into_iter();
            Some((values.next().flatten(), values))
        };
        let read = |bytes: Vec<u8>, changed: Option<&[u8]>| {
            let value = value::read(&bytes, &names.digest, settings.max_body)?;
            let index = Index { primary: super::key::hash(primary), variance: value.variance };
            let counts = is_after(value.asked, changed);
            counts.then(|| self.entry(&bound, Wanted { index, primary, on_disk: false }, value)).flatten()
        };
        let (changed, first) = ask(&mut std::iter::once(None)).await?;
        let mut found: Vec<Entry> = first.flatten().filter_map(|bytes| read(bytes, changed.as_deref())).collect();
        if found.iter().any(|first| first.meta.head.vary().next().is_some()) {
            let (changed, others) = ask(&mut slots.into_iter()).await?;
            found.extend(others.flatten().filter_map(|bytes| read(bytes, changed.as_deref())));
        }
        Some(found)
    }
}

/// Whether what was asked for then counts, where that is noted of its target.
fn is_after(asked: u64, changed: Option<&[u8]>) -> bool {
    changed.and_then(value::time_of).is_some_and(|changed| asked > changed)
}

/// Tells those who wait, whatever comes of it.
struct Telling {
    tier: &'static RedisTier,
    index: Index,
    found: Option<Arc<Entry>>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        let waiting = self.tier.loads.lock().remove(&self.index).unwrap_or_default();
        for tell in waiting {
            let _ = tell.send(self.found.clone());
        }
    }
}
