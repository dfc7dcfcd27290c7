//! The memory tier: answers, whole, in one process-wide store that is bounded in bytes.
//!
//! - The bound counts everything an entry holds: its key, its header fields, its body and what the tables need for it. Seven eighths
//!   are for entries, one eighth for bodies that are still arriving; where either is full, an answer goes to its client uncached.
//!   Not counted: evicted bodies that some slow client is still reading. Those are of the client's share ([`super::lent`]).
//! - The store is `quick_cache`: sharded, a hit takes a shared lock, and what is asked for once (a crawler's walk) does not push out
//!   what is asked for often, which it would in an LRU.
//! - The index key is a 128-bit hash, since that is all that a purge is told. The entry holds the full key as well, and a lookup
//!   compares it: a collision is a miss, never somebody else's answer.
//! - A body is copied once, into a buffer of exactly its length, and a short one once more, behind its key and its head. That makes the accounting exact (what an upstream codec hands out may
//!   be a corner of a large buffer) and a hit a reference count. A head is kept as it is written to clients: pingora's own form costs a
//!   MessagePack, a zstd and an HTTP parse per hit, and a header map takes more room and a copy per hit.
//! - All that its users need is [`find`](MemoryTier::find), [`Filling`], [`refresh`](MemoryTier::refresh) and
//!   [`forget`](MemoryTier::forget): the engine's own way ([`super::fetch`]) and Pingora's (`super::stock`) share it.
//!
//! Pingora's own streaming of a body to the clients that wait for it is deliberately left out: a tier that does it kills the client's
//! response when its write fails. The engine's is [`super::flow`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quick_cache::sync::{EntryAction, EntryResult};
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::changed::{Changes, Place};
use super::disk::Disk;
use super::disk::long::{Long, MEMORY};
use super::entry::{Entry, Index, Meta};
use super::flow::Flow;
use super::key::{Beside, target_of};
use super::moment::Moment;
use super::pieces::Pieces;
use super::purges::{Finding, Purges};
use super::redis::{RedisTier, Wanted};

/// Only sizes the tables' memory of what was evicted.
const TYPICAL_ENTRY: usize = 16 * 1024;
const SHARD: usize = 16 * 1024 * 1024;
/// No answer is longer than three quarters of a shard: of a large store, a twenty-fourth can be one.
const SHARDS: usize = 16;

#[derive(Clone)]
struct ByBytes;

impl Weighter<Index, Arc<Entry>> for ByBytes {
    fn weight(&self, _: &Index, entry: &Arc<Entry>) -> u64 {
        entry.weight as u64
    }
}

/// Carries evicted entries out of the lock, to be freed there.
#[derive(Clone)]
struct Sweep;

impl Lifecycle<Index, Arc<Entry>> for Sweep {
    type RequestState = Vec<(Index, Arc<Entry>)>;

    fn on_evict(&self, swept: &mut Self::RequestState, index: Index, entry: Arc<Entry>) {
        swept.push((index, entry));
    }
}

type Store = quick_cache::sync::Cache<Index, Arc<Entry>, ByBytes, ahash::RandomState, Sweep>;

/// See the module. Lives as long as the process.
pub struct MemoryTier {
    store: Store,
    /// What was stored before its target was changed is no answer.
    pub(super) changes: Changes,
    /// Nor is what was stored before somebody purged it.
    pub(super) purges: Purges,
    /// The tier behind this one, if there is one.
    pub(super) disk: OnceLock<&'static Disk>,
    /// The one that gateways share, if there ever was one.
    pub(super) redis: OnceLock<&'static RedisTier>,
    /// The most that one entry may weigh.
    longest: usize,
    /// Bytes held by bodies that are still arriving, and their bound.
    filling: AtomicUsize,
    filling_bound: usize,
    stored: AtomicU64,
    evicted: AtomicU64,
    rejected: AtomicU64,
}

/// Counted since the process started; `entries` and `bytes` as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub entries: u64,
    /// Of entries and of bodies that are still arriving.
    pub bytes: u64,
    pub stored: u64,
    /// Made room for others.
    pub evicted: u64,
    /// Arrived, but not stored: too long, cut short, no room to receive them, or another one was asked for later.
    pub rejected: u64,
}

impl MemoryTier {
    /// A tier of at most `capacity` bytes, leaked: pingora wants storage that outlives every request. Call it once, at boot. A capacity
    /// of 0 stores nothing.
    pub fn new(capacity: usize) -> &'static Self {
        let filling_bound = capacity / 8;
        let entries_bound = capacity - filling_bound;
        let shards = (entries_bound / SHARD).clamp(1, SHARDS).next_power_of_two();
        // A rounded-up share per shard must not add up to more than the whole.
        let entries_bound = entries_bound / shards * shards;
        let items = (entries_bound / TYPICAL_ENTRY).max(shards * 64);
        let options =
            OptionsBuilder::new().shards(shards).estimated_items_capacity(items).weight_capacity(entries_bound as u64).build();
        let hasher = ahash::RandomState::new();
        let store = match options {
            Ok(options) => Store::with_options(options, ByBytes, hasher, Sweep),
            Err(_) => Store::with(items, entries_bound as u64, ByBytes, hasher, Sweep),
        };
        let longest = usize::try_from(store.shard_capacity()).unwrap_or(usize::MAX) / 4 * 3;
        Box::leak(Box::new(MemoryTier {
            store,
            changes: Changes::new(),
            purges: Purges::new(),
            disk: OnceLock::new(),
            redis: OnceLock::new(),
            longest,
            filling: AtomicUsize::new(0),
            filling_bound,
            stored: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        }))
    }

    pub fn stats(&self) -> MemoryStats {
        MemoryStats {
            entries: self.store.len() as u64,
            bytes: self.store.weight() + self.filling.load(Ordering::Relaxed) as u64,
            stored: self.stored.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }

    /// Forgets one entry.
    pub(super) fn forget(&self, index: Index, primary: &[u8]) {
        // First there: what is read meanwhile is taken out of memory, by this or by whoever has put it there.
        if let Some(disk) = self.disk.get() {
            disk.forget(index);
        }
        if let Some(redis) = self.redis.get() {
            // What is found there meanwhile is from before this, here as on other gateways.
            let (target, now) = (target_of(primary), Moment::now());
            self.changes.note(Place::of(target), now);
            redis.changed(now.get(), &[target.into()]);
        }
        self.store.remove(&index.slot());
    }

    /// Forgets one entry, if it has this tag. Whether it was there.
    pub(super) fn remove(&self, index: Index, user_tag: &str) -> bool {
        if let Some(disk) = self.disk.get() {
            disk.forget(index);
        }
        self.store.remove_if(&index.slot(), |entry| *entry.user_tag == *user_tag).is_some()
    }

    /// What there is of a key on disk, or in Redis, put in here.
    pub(super) async fn load(&self, index: Index, primary: &[u8], beside: Beside) -> Option<Arc<Entry>> {
        let disk = self.disk.get().filter(|_| beside.disk);
        let on_disk = match disk {
            Some(disk) => disk.load(index, primary).await,
            None => None,
        };
        match self.redis.get().filter(|_| beside.redis) {
            Some(redis) if on_disk.is_none() => {
                let wanted = Wanted { index, primary, on_disk: disk.is_some() };
                redis.load(wanted, redis.until()?).await
            }
            _ => on_disk,
        }
    }

    /// Puts what was found on disk where it belongs, unless something else is there by now, or it is too long.
    pub(super) fn promote(&self, index: Index, entry: &Arc<Entry>) {
        if entry.weight <= self.longest
            && let EntryResult::Vacant(place) =
                self.store.entry(&index.slot(), Some(Duration::ZERO), |_, _| EntryAction::Retain(()))
        {
            // It goes if something has come meanwhile.
            let _ = place.insert(entry.clone());
        }
    }

    /// The same in the place of what was asked for earlier.
    pub(super) fn promote_over(&self, index: Index, entry: &Arc<Entry>) {
        let is_older = |known: &Entry| known.meta.variance == entry.meta.variance && known.meta.asked < entry.meta.asked;
        let fits = entry.weight <= self.longest;
        if !(fits && self.change(index, |known| is_older(known).then(|| Entry::clone(entry)))) {
            self.promote(index, entry);
        }
    }

    /// Writes an entry where answers are kept beside memory.
    fn keep(&self, index: Index, entry: &Arc<Entry>, body: Body) {
        if let Some(disk) = self.disk.get() {
            disk.keep(index, entry);
        }
        if let Some(redis) = self.redis.get() {
            redis.keep(index, entry, body);
        }
    }

    /// Takes out what was put in by [`MemoryTier::promote`].
    pub(super) fn demote(&self, index: Index, entry: &Arc<Entry>) {
        self.store.remove_if(&index.slot(), |known| known.number == entry.number);
    }

    /// The entry of this very key, variance included, fresh or not.
    pub(super) fn find(&self, index: &Index, primary: &[u8], user_tag: &str) -> Option<Arc<Entry>> {
        self.still(index, primary, user_tag, self.store.get(&index.slot())?)
    }

    /// The same of an entry that was found there, or on disk.
    #[inline]
    pub(super) fn still(&self, index: &Index, primary: &[u8], user_tag: &str, found: Arc<Entry>) -> Option<Arc<Entry>> {
        found.touch();
        let same = index.variance.is_none() || index.variance == found.meta.variance;
        if found.long.as_ref().is_some_and(|long| long.is_gone()) {
            self.store.remove_if(&index.slot(), |entry| entry.number == found.number);
            return None;
        }
        if !found.is_for(primary, user_tag) || !same || self.changes.since(found.place, found.meta.asked) {
            return None;
        }
        if self.purges.concern(found.checked.get()) {
            return self.look_again(index.slot(), found);
        }
        Some(found)
    }

    /// Somebody has purged something since an entry was looked at last.
    #[cold]
    fn look_again(&self, index: Index, found: Arc<Entry>) -> Option<Arc<Entry>> {
        let (finding, until) = self.purges.look_at(&found);
        match finding {
            Finding::Untouched => {
                found.checked.set(until);
                Some(found)
            }
            Finding::Stale => {
                let aged = aged(&found);
                aged.checked.set(until);
                let aged = Arc::new(aged);
                self.change(index, |entry| (entry.number == found.number).then(|| Entry::clone(&aged)));
                Some(aged)
            }
            Finding::Gone => {
                self.store.remove_if(&index, |entry| entry.number == found.number);
                None
            }
        }
    }

    /// What has become of an entry that somebody has, whether it is stored, was, or will be.
    fn finding(&self, entry: &Entry) -> Finding {
        match self.changes.since(entry.place, entry.meta.asked) {
            true => Finding::Gone,
            false if self.purges.concern(entry.checked.get()) => self.purges.look_at(entry).0,
            false => Finding::Untouched,
        }
    }

    /// All that is stored and would be found, one shard after the other: for operators, who look now and then.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Entry>> {
        self.store.iter().map(|(_, entry)| entry).filter(|entry| self.finding(entry) != Finding::Gone)
    }

    /// What a request would find of it that is stored.
    pub(super) fn as_found(&self, entry: Arc<Entry>) -> Arc<Entry> {
        if self.is_aged(&entry) { Arc::new(aged(&entry)) } else { entry }
    }

    /// Whether it was purged softly, and has not been found since.
    pub(super) fn is_aged(&self, entry: &Entry) -> bool {
        self.finding(entry) == Finding::Stale
    }

    /// Whether an answer that is not stored yet was purged since it was asked for.
    pub(super) fn is_purged(&self, entry: &Entry) -> bool {
        self.finding(entry) != Finding::Untouched
    }

    /// Whether what is kept under a key was changed or purged since. What tags its answer will have is not known.
    pub(super) fn was_touched(&self, place: Place, primary: &[u8], since: u64) -> bool {
        self.changes.since(place, since) || self.purges.concern(since) && self.purges.touch(primary, since)
    }

    /// Whether nothing of an entry may be given any more, although somebody has found it before.
    pub(super) fn is_gone(&self, entry: &Entry) -> bool {
        self.finding(entry) == Finding::Gone
    }

    /// How much of an answer's parts is not what is stored there.
    pub(super) fn beyond(&self, index: &Index, pieces: &Pieces) -> usize {
        pieces.beyond(self.store.peek(&index.slot()).as_ref().and_then(|entry| entry.pieces.as_deref()))
    }

    /// Whether this very body is what is stored there.
    pub(super) fn has_body(&self, index: &Index, body: &Bytes) -> bool {
        self.store.peek(&index.slot()).is_some_and(|entry| entry.body.as_ptr() == body.as_ptr())
    }

    /// Replaces an entry's metadata once it was validated, which keeps `created` and `number`: they name the entry that was looked up.
    /// Pingora does not know the number; of two that were `created` at once, what it says is taken to be of either.
    pub(super) fn refresh(&self, index: Index, primary: &[u8], user_tag: &str, meta: Meta, number: Option<u64>) -> bool {
        let done = self.change(index, |entry| {
            let same = entry.meta.created == meta.created && number.is_none_or(|number| entry.number == number);
            if !entry.is_for(primary, user_tag) || !same {
                return None;
            }
            let mut meta = meta;
            meta.set_length(entry.length());
            meta.tags = meta.tags.or_else(|| entry.meta.tags.clone());
            Some(entry.renewed(meta))
        });
        self.kept_anew(index, primary, done, Body::Same);
        done
    }

    /// It is another one than what the service has: it counts as stale from now on, and is given as it is `excused`. Nothing is left of one that is
    /// never to be given, unless other variants are found by it. It stays as old as it is: its service has said that it has another one, so it must
    /// not take the place of that, nor outlive what was purged or changed since it was asked for.
    pub(super) fn outdate(&self, index: Index, primary: &[u8], number: u64, excused: Excused) {
        let done = self.change(index, |entry| {
            let mut entry = (entry.number == number && !self.is_gone(entry)).then(|| aged(entry))?;
            let leads = index.variance.is_none() && entry.meta.variance.is_some();
            let meta = &mut entry.meta;
            meta.stale_while_revalidate = 0;
            (meta.stale_if_error, meta.fallback) = match excused {
                Excused::ForErrors(fallback) => (meta.stale_if_error, fallback),
                Excused::Never => (0, 0),
            };
            (leads || meta.stale_if_error.max(meta.fallback) > 0).then_some(entry)
        });
        if done {
            self.kept_anew(index, primary, done, Body::Outdated);
        } else if self.peek(&index).is_none_or(|entry| entry.number == number) {
            // Nobody has stored another one meanwhile.
            self.forget(index, primary);
        }
    }

    /// What is kept of an entry beside memory follows what it is now; if it was not `done`, what is there is another one.
    fn kept_anew(&self, index: Index, primary: &[u8], done: bool, body: Body) {
        if self.disk.get().is_some() || self.redis.get().is_some() {
            match self.peek(&index) {
                // Its life may be shorter than it was.
                Some(entry) if done => self.keep(index, &entry, body),
                Some(_) => {}
                // What is kept elsewhere is not what it is now.
                None => self.forget(index, primary),
            }
        }
    }

    /// The longest body that may come to be stored, where its entry weighs so much `beside` it.
    pub(super) fn most(&self, beside: usize) -> usize {
        self.longest.saturating_sub(beside).min(self.filling_bound)
    }

    /// The same where it may be on disk alone.
    pub(super) fn most_on_disk(&self, beside: usize) -> usize {
        self.disk.get().map_or(0, |disk| disk.longest()).max(self.most(beside))
    }

    /// Room for `bytes` more of arriving bodies.
    fn reserve(&self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.filling_bound);
        self.filling.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Whether an entry of this weight can be stored.
    pub(super) fn fits(&self, weight: usize) -> bool {
        weight <= self.longest
    }

    /// What stands there, whatever it is.
    pub(super) fn peek(&self, index: &Index) -> Option<Arc<Entry>> {
        self.store.peek(&index.slot())
    }

    /// Stores an answer in the place of what was asked for earlier. `None` if what stands there was asked for later.
    pub(super) fn put(&self, index: Index, entry: Entry) -> Option<Kept> {
        let (kept, entry) = (Kept::of(&entry), Arc::new(entry));
        let is_beside = self.disk.get().is_some() || self.redis.get().is_some();
        if is_beside {
            if self.is_overtaken(&index, &entry) {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            self.keep(index, &entry, Body::New);
        }
        let is_latest = self.insert(index, entry);
        if is_beside
            && !is_latest
            && let Some(later) = self.peek(&index)
        {
            // What stands beside memory is as late.
            self.keep(index, &later, Body::New);
        }
        is_latest.then_some(kept)
    }

    /// Whether what stands there was asked for later.
    fn is_overtaken(&self, index: &Index, entry: &Entry) -> bool {
        self.peek(index).is_some_and(|known| known.overtakes(entry.meta.asked, index, entry.meta.variance))
    }

    /// Parts are in memory alone.
    pub(super) fn put_parts(&self, index: Index, entry: Entry) {
        self.insert(index, Arc::new(entry));
    }

    pub(super) fn forget_parts(&self, index: Index) {
        self.store.remove(&index.slot());
    }

    /// Whether it is the latest there. A fetch that began earlier may end later: the store says what an entry has replaced, and what was asked
    /// for later is put back, unless all of it was forgotten meanwhile.
    fn insert(&self, index: Index, entry: Arc<Entry>) -> bool {
        let index = index.slot();
        let (mut asked, mut variance) = (entry.meta.asked, entry.meta.variance);
        let mut swept = Vec::new();
        self.store.insert_with_lifecycle(index, entry, &mut swept);
        let mut is_latest = true;
        while let Some(later) = self.swept(&index, swept).filter(|known| known.overtakes(asked, &index, variance)) {
            is_latest = false;
            (asked, variance) = (later.meta.asked, later.meta.variance);
            swept = Vec::new();
            let _ = self.store.replace_with_lifecycle(index, later, true, &mut swept);
        }
        let counted = if is_latest { &self.stored } else { &self.rejected };
        counted.fetch_add(1, Ordering::Relaxed);
        is_latest
    }

    /// Counts what made room for an entry. What that has replaced is among them.
    fn swept(&self, index: &Index, swept: Vec<(Index, Arc<Entry>)>) -> Option<Arc<Entry>> {
        let all = swept.len();
        let replaced = swept.into_iter().find(|(other, _)| other == index).map(|(_, entry)| entry);
        self.evicted.fetch_add((all - usize::from(replaced.is_some())) as u64, Ordering::Relaxed);
        replaced
    }

    /// Replaces an entry's metadata, but only in the very entry that was looked up: what was purged stays purged, and what was stored
    /// anew in the meantime keeps its own header fields.
    pub(super) fn change(&self, index: Index, change: impl FnOnce(&Entry) -> Option<Entry>) -> bool {
        let index = index.slot();
        let mut grown = None;
        let found = self.store.entry(&index, Some(Duration::ZERO), |_, entry| {
            let Some(fresh) = change(entry) else { return EntryAction::Retain(false) };
            let (fresh, grows) = (Arc::new(fresh.weighed()), entry.weight);
            if fresh.weight > grows {
                grown = Some(fresh.clone());
            }
            *entry = fresh;
            EntryAction::Retain(true)
        });
        let done = matches!(found, EntryResult::Retained(true));
        // Dropped first: a guard for the missing entry would make others wait.
        drop(found);
        if let Some(entry) = grown {
            // In-place growth does not evict; putting the same entry once more does.
            let (asked, variance) = (entry.meta.asked, entry.meta.variance);
            let mut swept = Vec::new();
            let _ = self.store.replace_with_lifecycle(index, entry, true, &mut swept);
            if let Some(later) = self.swept(&index, swept).filter(|known| known.overtakes(asked, &index, variance)) {
                self.insert(index, later);
            }
        }
        done
    }
}

/// What an entry that is written anew has for a body, for those who have it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    New,
    /// The one before: its head alone is another one.
    Same,
    /// The one before, whose service has said that it has another one. Whoever has that one keeps it.
    Outdated,
}

/// As what may be given what is another answer than the service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excused {
    /// In the place of an error, as the answer itself says; and as its route's fallback, for so many seconds.
    ForErrors(u32),
    Never,
}

/// The same once it was purged softly.
pub(super) fn aged(entry: &Entry) -> Entry {
    let mut aged = Entry::clone(entry);
    aged.meta.fresh_until = aged.meta.fresh_until.min(SystemTime::now());
    aged
}

/// What was stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) weight: usize,
}

impl Kept {
    fn of(entry: &Entry) -> Self {
        Kept { number: entry.number, weight: entry.weight }
    }
}

/// A body on its way in. Whatever goes wrong with it is the cache's loss alone: no error ever reaches the client's response.
pub(super) struct Filling {
    tier: &'static MemoryTier,
    /// It is not known yet that it cannot be stored.
    wanted: bool,
    /// `Content-Length`.
    promised: Option<usize>,
    /// What its entry weighs beside the body, at most.
    beside: usize,
    body: Arriving,
    /// What is too long for memory goes to disk.
    spills: bool,
    /// Of the tier's bound for arriving bodies; at least the buffer's capacity.
    reserved: usize,
}

enum Arriving {
    Own(Vec<u8>),
    /// Others read it.
    Shared(Arc<Flow>),
    /// It goes to disk as it comes.
    Long(Arc<Long>),
}

impl Arriving {
    /// `None` of one that goes to disk.
    fn with<T>(&mut self, work: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        match self {
            Arriving::Own(bytes) => Some(work(bytes)),
            Arriving::Shared(flow) => Some(flow.with(work)),
            Arriving::Long(_) => None,
        }
    }
}

impl Filling {
    /// `beside`: what its entry weighs beside the body, at most.
    pub(super) fn new(tier: &'static MemoryTier, promised: Option<usize>, beside: usize, spills: bool) -> Self {
        let spills = spills && tier.disk.get().is_some();
        let body = Arriving::Own(Vec::new());
        let mut filling = Filling { tier, wanted: true, promised, beside, body, spills, reserved: 0 };
        if !tier.fits(beside) {
            // Of what is on disk alone, all but the body is in memory.
            filling.give_up();
        } else if let Some(length) = promised {
            filling.make_room(length);
        }
        filling
    }

    /// Makes the buffer hold `length` bytes, or gives up.
    fn make_room(&mut self, length: usize) {
        if !self.wanted || length <= self.reserved || matches!(self.body, Arriving::Long(_)) {
            return;
        }
        let most = self.tier.most(self.beside);
        // Doubling keeps copying linear; a promised length is reserved as it stands.
        let wanted = if self.promised == Some(length) { length } else { length.max(self.reserved * 2).min(most) };
        let more = wanted.saturating_sub(self.reserved);
        if length > most || !self.tier.reserve(more) {
            if !self.spill() {
                self.give_up();
            }
            return;
        }
        self.reserved += more;
        if self.body.with(|body| body.try_reserve_exact(wanted.saturating_sub(body.len()))).is_some_and(|done| done.is_err()) {
            self.give_up();
        }
    }

    /// It goes to disk from here on, if it may. Whether it does.
    fn spill(&mut self) -> bool {
        let Some(disk) = self.tier.disk.get().filter(|_| self.spills) else { return false };
        // What is there of it is held until it is written.
        let more = MEMORY.saturating_sub(self.reserved);
        if self.promised.is_some_and(|length| length > disk.longest()) || !self.tier.reserve(more) {
            return false;
        }
        self.reserved += more;
        let Some(long) = disk.begin_long() else { return false };
        match std::mem::replace(&mut self.body, Arriving::Long(long.clone())) {
            Arriving::Own(bytes) => long.begin_with(bytes),
            Arriving::Shared(flow) => {
                long.begin_with(flow.copied());
                flow.goes_on(long);
            }
            Arriving::Long(_) => {}
        }
        true
    }

    /// More waits to be written to disk than should.
    pub(super) fn full(&self) -> Option<&Arc<Long>> {
        match &self.body {
            Arriving::Long(long) => Some(long).filter(|long| long.is_full()),
            _ => None,
        }
    }

    /// Whether it can still be stored, for all that is known.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn give_up(&mut self) {
        if std::mem::take(&mut self.wanted) {
            self.tier.rejected.fetch_add(1, Ordering::Relaxed);
        }
        match std::mem::replace(&mut self.body, Arriving::Own(Vec::new())) {
            Arriving::Own(_) => {}
            Arriving::Shared(flow) => flow.give_up(),
            Arriving::Long(long) => long.fail(),
        }
        self.release();
    }

    pub(super) fn tier(&self) -> &'static MemoryTier {
        self.tier
    }

    /// `Content-Length`.
    pub(super) fn promised(&self) -> Option<usize> {
        self.promised
    }

    /// What has come of it. `None` of one that goes to disk.
    pub(super) fn look<T>(&mut self, at: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.body.with(|body| at(body))
    }

    /// How much of it has come.
    pub(super) fn length(&mut self) -> usize {
        match &self.body {
            Arriving::Long(long) => long.length(),
            _ => self.body.with(|body| body.len()).unwrap_or_default(),
        }
    }

    /// From now on others may read it while it comes.
    pub(super) fn share(&mut self) -> Arc<Flow> {
        let flow = match &mut self.body {
            Arriving::Own(bytes) => Flow::of(std::mem::take(bytes)),
            Arriving::Shared(flow) => return flow.clone(),
            Arriving::Long(long) => return Flow::of_long(long.clone()),
        };
        self.body = Arriving::Shared(flow.clone());
        flow
    }

    fn release(&mut self) {
        let reserved = std::mem::take(&mut self.reserved);
        if reserved > 0 {
            self.tier.filling.fetch_sub(reserved, Ordering::Relaxed);
        }
    }

    pub(super) fn add(&mut self, data: &[u8]) {
        let length = self.length();
        self.make_room(length.saturating_add(data.len()));
        if !self.wanted {
            return;
        }
        match &self.body {
            // Not this piece any more: whoever reads it has what came before.
            Arriving::Long(long) if long.is_gone() || length.saturating_add(data.len()) > long.longest() => self.give_up(),
            Arriving::Long(long) => {
                long.add(data);
                if self.reserved > MEMORY && !long.is_full() {
                    // The most of what memory had of it is written.
                    self.tier.filling.fetch_sub(self.reserved - MEMORY, Ordering::Relaxed);
                    self.reserved = MEMORY;
                }
            }
            _ => {
                self.body.with(|body| body.extend_from_slice(data));
            }
        }
    }

    /// The body, if all of it has come that was to come.
    pub(super) fn take(mut self, length: usize) -> Option<Bytes> {
        let whole = self.wanted && self.length() == length && self.promised.is_none_or(|promised| promised == length);
        if !whole {
            return None;
        }
        self.wanted = false;
        Some(self.body())
    }

    fn body(&mut self) -> Bytes {
        match std::mem::replace(&mut self.body, Arriving::Own(Vec::new())) {
            Arriving::Own(body) => Bytes::from(body.into_boxed_slice()),
            Arriving::Shared(flow) => flow.end(),
            // It is not a body that memory has.
            Arriving::Long(_) => Bytes::new(),
        }
    }

    /// The body, if it is whole and may be stored: nothing, of one that goes to disk.
    pub(super) fn whole(&mut self) -> Option<Bytes> {
        let length = self.length();
        let whole = self.promised.is_none_or(|promised| promised == length);
        match &self.body {
            _ if !self.wanted || !whole => None,
            Arriving::Long(long) => (!long.is_gone()).then(Bytes::new),
            Arriving::Own(_) | Arriving::Shared(_) => Some(self.body()),
        }
    }

    /// Stores what was made of the [`whole`](Filling::whole). `None` if it is not stored after all.
    pub(super) fn store(&mut self, index: Index, entry: Entry) -> Option<Kept> {
        if let Arriving::Long(long) = &self.body {
            // It is all here for who reads it, whatever becomes of it.
            long.end();
            if self.tier.is_overtaken(&index, &entry) {
                return None;
            }
            let entry = Entry { long: Some(long.clone()), ..entry };
            self.wanted = false;
            let (kept, entry) = (Kept::of(&entry), Arc::new(entry));
            self.tier.keep(index, &entry, Body::New);
            if long.is_gone() {
                return None;
            }
            return self.tier.insert(index, entry).then_some(kept);
        }
        if entry.weight > self.tier.longest {
            return None;
        }
        self.wanted = false;
        self.tier.put(index, entry)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Still wanted here, it was aborted: the backend broke off, or the client left, or it was cut short.
        if self.wanted {
            self.give_up();
        }
        self.release();
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
