//! The disk tier: what is stored is written to disk as well, and found there once memory has let it go, or the process is another one.
//!
//! | file | what it is for |
//! |---|---|
//! | [`folder`] | the folder, and whose it is |
//! | [`store`], [`record`] | segments of answers, appended to and read |
//! | [`long`], [`reader`] | what is too long for memory, in files of their own; and how it is read |
//! | [`index`] | where each of them is, in memory |
//! | [`journal`] | what was purged or changed, for as long as it matters |
//! | [`state`] | what the next process has to know |
//! | [`keeper`] | the threads |
//!
//! # Why it is our own
//!
//! `foyer`, the well-kept library for this, was looked at first. It has no word for what decides here: a purge that counts for what is on
//! disk after a `kill -9` (it would have to be kept in its index, which is made anew of the blocks), the record of a purge that has to be
//! on disk before its order is answered, a full key that is compared, a folder that goes from one process to the next during an upgrade;
//! what is longer than a block vanishes without a word; and its own runtime, queues and memory tier would stand beside ours.
//!
//! # What counts
//!
//! - *Where*: an answer is written when it is stored (not when memory lets it go: what a `kill -9` finds in memory alone would be gone),
//!   by a thread of its own, from a queue that is bounded; what finds it full is not written, and counted. What is good for less than ten
//!   seconds more is not written either.
//! - *Found*: on a miss in memory, the index says whether it is there. What the system has in memory is read at once, what it has not is
//!   read by a thread, once for all who want it, and waited for until a deadline. Then it is put into memory, and found there.
//! - *Whole*: see [`record`]. What is damaged is a miss, and counted.
//! - *Gone*: what was changed or purged after an answer was asked for makes it none, here as in memory, by the same tables. For the next
//!   process they are in the [`journal`]. Moments are those of the disk's own clock, which only goes forward from one process to the next.
//!   After a power cut, or with a damaged journal, nothing that is there counts.
//! - *When*: the times in a record are those of the day. One that comes from the future is none.

pub(in crate::cache) mod bytes;
mod folder;
mod index;
mod journal;
mod keeper;
pub(super) mod long;
mod queue;
pub(super) mod reader;
pub(in crate::cache) mod record;
mod state;
mod store;

use std::collections::HashSet;
use std::collections::hash_map::{self, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::Purge;
use super::entry::{Entry, Index};
use super::key;
use super::memory::MemoryTier;
use super::moment::Moment;
use crate::tally::{Counter, Gauge, Tallies};
use index::Slot;
use journal::Said;
use long::{Long, LongWrite};
use queue::Queue;
use reader::LongRead;
use record::{Kind, Place, Unfit};
use store::Store;

/// What waits to be written, in bytes of memory.
const WAITING: usize = 16 << 20;
/// The same of bodies that are too long for memory.
const LONG_WAITING: usize = 128 << 20;
/// Notes that wait to be written, in bytes of memory; beyond that nothing on disk counts.
const NOTES: usize = 16 << 20;
/// What one of them needs beside its text.
const NOTE: usize = 64;
/// Times that notes are waited for until they are on the device.
const SYNCS: usize = 1024;
/// Reads that wait for a thread; more of them are misses.
const READS: usize = 256;
/// What is longer is read by a thread, even if it is in memory.
const AT_ONCE: u32 = 64 << 10;
/// What is longer is not written.
const LONGEST: usize = 32 << 20;
/// What is not good for so long is not written.
pub(super) const WORTH: Duration = Duration::from_secs(10);
/// What was forgotten before the folder could be opened; beyond that nothing in it counts.
const EARLY: usize = 1 << 20;
/// How long nothing that was there before is given, because other gateways may have purged it, if they are not heard.
const UNHEARD: Duration = Duration::from_secs(2);
/// How long an order to purge waits for its note to be on disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// What people have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub path: PathBuf,
    pub max_size: u64,
    /// The longest that a request waits for the disk.
    pub deadline: Duration,
}

/// See the module. Lives as long as the process.
pub struct Disk {
    settings: Settings,
    tier: &'static MemoryTier,
    /// `None` while the folder is another process's, or cannot be used.
    store: ArcSwapOption<Store>,
    loads: Mutex<HashMap<Slot, Askers>>,
    reads: Queue<Read>,
    writes: Queue<Write>,
    long_reads: Queue<LongRead>,
    long_writes: Queue<LongWrite>,
    /// Bytes of files that were removed, and are still read.
    removed: AtomicU64,
    /// Nothing long is begun before.
    long_rests_until: AtomicU64,
    /// Since when the thread that writes long bodies has been at the same piece of work; 0 while it is at none.
    long_busy_since: AtomicU64,
    orders: Queue<Order>,
    syncs: Queue<Sync>,
    /// There was no room for a note.
    overflowed: AtomicBool,
    /// What makes the folder count could not be taken out of it when it had to be.
    is_doubted: AtomicBool,
    tickets: AtomicU64,
    /// What was stored or forgotten before the folder was opened: what is there of it does not count.
    early: Mutex<Early>,
    /// How far the other gateways' purges were heard.
    heard: Mutex<HashMap<Box<str>, Box<str>>>,
    /// Until then it is waited for what they have purged since, before anything is given.
    behind_until: AtomicU64,
    closing: AtomicBool,
    closed: (Mutex<bool>, Condvar),
    figures: Figures,
}

/// Those who wait for the same read.
type Askers = Vec<oneshot::Sender<Option<Arc<Entry>>>>;

enum Early {
    Few(HashSet<Slot, ahash::RandomState>),
    Many,
}

/// An answer to be written.
struct Write {
    slot: Slot,
    ticket: u64,
    kind: Kind,
    entry: Arc<Entry>,
}

/// An answer to be read.
struct Read {
    store: Arc<Store>,
    index: Index,
    place: Place,
}

/// Work for the keeper.
enum Order {
    Kill(Arc<Store>, Place),
    Note {
        at: u64,
        said: Said,
        /// It has to outlast the machine.
        sync: bool,
        done: Option<oneshot::Sender<()>>,
    },
}

/// Notes that are written, and have to be on the device.
struct Sync {
    store: Arc<Store>,
    file: Arc<File>,
    told: Vec<oneshot::Sender<()>>,
}

struct Figures {
    hits: Arc<Counter>,
    misses: Arc<Counter>,
    late: Arc<Counter>,
    read: Arc<Counter>,
    stored: Arc<Counter>,
    written: Arc<Counter>,
    dropped: Arc<Counter>,
    evicted: Arc<Counter>,
    errors: Arc<Counter>,
    damaged: Arc<Counter>,
    entries: Arc<Gauge>,
    bytes: Arc<Gauge>,
    removed: Arc<Gauge>,
    open: Arc<Gauge>,
}

impl Figures {
    fn new(tallies: &Tallies) -> Self {
        let counter = |name, help| tallies.counter(name, help, &[]);
        let gauge = |name, help| tallies.gauge(name, help, &[]);
        Figures {
            hits: counter(
                "portcullis_cache_disk_hits_total",
                "Stored answers that were found on disk and put into memory, or given from there.",
            ),
            misses: counter("portcullis_cache_disk_misses_total", "Lookups on disk that found nothing."),
            late: counter("portcullis_cache_disk_late_total", "Lookups and notes on disk that took longer than the deadline."),
            read: counter("portcullis_cache_disk_read_bytes_total", "Bytes of stored answers read from disk."),
            stored: counter("portcullis_cache_disk_stored_total", "Answers written to disk."),
            written: counter("portcullis_cache_disk_written_bytes_total", "Bytes of stored answers written to disk."),
            dropped: counter(
                "portcullis_cache_disk_dropped_total",
                "Answers not written to disk because it did not keep up, or failed.",
            ),
            evicted: counter("portcullis_cache_disk_evicted_total", "Answers on disk that made room for others."),
            errors: counter("portcullis_cache_disk_errors_total", "Reads and writes of the disk cache that failed."),
            damaged: counter("portcullis_cache_disk_damaged_total", "Records on disk that were not as they were written."),
            entries: gauge("portcullis_cache_disk_entries", "Answers on disk."),
            bytes: gauge("portcullis_cache_disk_bytes", "Size of the disk cache in bytes."),
            removed: gauge(
                "portcullis_cache_disk_removed_bytes",
                "Bytes of files of the disk cache that were removed, and that clients still read.",
            ),
            open: gauge("portcullis_cache_disk_open", "1 while this process has the disk cache's folder."),
        }
    }
}

/// As of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    pub is_open: bool,
    pub is_searching: bool,
    pub entries: u64,
    pub bytes: u64,
    pub max_bytes: u64,
    pub hits: u64,
    pub stored: u64,
    pub dropped: u64,
    pub evicted: u64,
    pub errors: u64,
    pub damaged: u64,
}

/// A note that is being written.
pub struct Noted {
    written: oneshot::Receiver<()>,
    most: Duration,
    late: Arc<Counter>,
}

impl Noted {
    /// Waits until it is written, but not for ever. Whether it is.
    pub async fn written(self) -> bool {
        let written = matches!(tokio::time::timeout(self.most, self.written).await, Ok(Ok(())));
        if !written {
            self.late.add(1);
        }
        written
    }
}

impl Disk {
    pub(super) fn new(settings: Settings, tier: &'static MemoryTier, tallies: &Tallies) -> Self {
        // While they are written anew there are two of all notes, and what waits.
        let notes = NOTES.min(usize::try_from(keeper::most_notes(&settings) / 2).unwrap_or(NOTES));
        Disk {
            settings,
            tier,
            store: ArcSwapOption::empty(),
            loads: Mutex::default(),
            reads: Queue::new(READS),
            writes: Queue::new(WAITING),
            long_reads: Queue::new(READS),
            long_writes: Queue::new(LONG_WAITING),
            removed: AtomicU64::new(0),
            long_rests_until: AtomicU64::new(0),
            long_busy_since: AtomicU64::new(0),
            orders: Queue::new(notes),
            syncs: Queue::new(SYNCS),
            overflowed: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            tickets: AtomicU64::new(1),
            early: Mutex::new(Early::Few(HashSet::default())),
            heard: Mutex::default(),
            behind_until: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            closed: (Mutex::new(false), Condvar::new()),
            figures: Figures::new(tallies),
        }
    }

    pub fn stats(&self) -> DiskStats {
        let (store, figures) = (self.store.load(), &self.figures);
        DiskStats {
            is_open: store.is_some(),
            is_searching: store.as_ref().is_some_and(|store| store.is_searching()),
            entries: store.as_ref().map_or(0, |store| store.index.len() as u64),
            bytes: store.as_ref().map_or(0, |store| store.bytes()),
            max_bytes: self.settings.max_size,
            hits: figures.hits.sum(),
            stored: figures.stored.sum(),
            dropped: figures.dropped.sum(),
            evicted: figures.evicted.sum(),
            errors: figures.errors.sum(),
            damaged: figures.damaged.sum(),
        }
    }

    /// The store, for as long as something may be written to it.
    fn writable(&self) -> Option<Arc<Store>> {
        self.store.load_full().filter(|_| !self.closing.load(Ordering::Acquire))
    }

    /// An answer was stored, or is another one now: what is on disk of its key does not count any more, and it is written.
    pub(super) fn keep(&self, index: Index, entry: &Arc<Entry>) {
        let slot = Slot::of(&index);
        let Some(store) = self.writable() else { return self.too_early(slot) };
        if let Some(long) = &entry.long {
            return self.keep_long(&store, index, slot, long, entry);
        }
        let is_worth = entry.meta.on_disk && is_worth(entry) && entry.weight <= (store.segment_size as usize / 2).min(LONGEST);
        if !is_worth {
            return self.forget_in(&store, slot);
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if let Some(place) = store.index.expect(slot, ticket, store.is_searching()) {
            self.kill(&store, place);
        }
        let write = Write { slot, ticket, kind: Kind { variance: index.variance }, entry: entry.clone() };
        if !self.writes.push(write, entry.weight) {
            self.figures.dropped.add(1);
            store.index.abandon(slot, ticket);
        }
    }

    /// The same of one whose body is on disk already, or on its way there.
    fn keep_long(&self, store: &Arc<Store>, index: Index, slot: Slot, long: &Arc<Long>, entry: &Arc<Entry>) {
        // What has a name is written again, however short its life is now: what is there says otherwise.
        if !is_worth(entry) && !long.is_named() || !long.is_of(store) || long.is_gone() {
            long.fail();
            return self.forget_in(store, slot);
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let before = store.index.expect(slot, ticket, store.is_searching());
        if let Some(place) = before.filter(|place| !place.is_long() || place.segment != long.number) {
            self.kill(store, place);
        }
        let write = Write { slot, ticket, kind: Kind { variance: index.variance }, entry: entry.clone() };
        if !self.long_writes.push(LongWrite::Head(write), entry.weight) {
            self.figures.dropped.add(1);
            store.index.abandon(slot, ticket);
            long.fail();
        }
    }

    pub(super) fn forget(&self, index: Index) {
        let slot = Slot::of(&index);
        match self.store.load_full() {
            Some(store) => self.forget_in(&store, slot),
            None => self.too_early(slot),
        }
    }

    fn forget_in(&self, store: &Arc<Store>, slot: Slot) {
        if let Some(place) = store.index.forget(slot, store.is_searching()) {
            self.kill(store, place);
        }
    }

    /// Forgets what is there if it is this, so that no process finds it once more when something else has been there since. Whether it was.
    fn forget_place(&self, store: &Arc<Store>, slot: Slot, place: Place) -> bool {
        let is_there = store.index.forget_place(slot, place);
        if is_there {
            self.kill(store, place);
        }
        is_there
    }

    fn too_early(&self, slot: Slot) {
        let mut early = self.early.lock();
        if let Early::Few(slots) = &mut *early {
            slots.insert(slot);
            if slots.len() > EARLY {
                *early = Early::Many;
            }
        }
    }

    fn kill(&self, store: &Arc<Store>, place: Place) {
        self.order(Order::Kill(store.clone(), place));
    }

    fn order(&self, order: Order) {
        let text = match &order {
            Order::Note { said, .. } => said.weight(),
            Order::Kill(..) => 0,
        };
        if !self.orders.push(order, NOTE + text) && !self.overflowed.swap(true, Ordering::AcqRel) {
            if let Some(store) = self.store.load_full() {
                store.index.clear();
            }
            log::error!("the disk cache does not keep up with what is purged: all that is there is forgotten");
        }
    }

    /// These targets were changed at that moment. `None` if nobody need wait for it.
    pub(super) fn changed(&self, at: u64, targets: Vec<Box<[u8]>>) -> Option<Noted> {
        let last = targets.len().checked_sub(1)?;
        let waits = self.writable().is_some();
        let (done, written) = oneshot::channel();
        let mut done = Some(done);
        for (number, target) in targets.into_iter().enumerate() {
            let done = if number == last { done.take() } else { None };
            self.order(Order::Note { at, said: Said::Changed(target), sync: false, done });
        }
        waits.then(|| Noted { written, most: self.settings.deadline, late: self.figures.late.clone() })
    }

    /// This was purged at that moment.
    pub(super) fn purged(&self, at: u64, purge: &Purge, soft: bool) -> Noted {
        // Nobody knows when the folder can be had.
        let most = if self.writable().is_some() { PATIENCE } else { Duration::ZERO };
        let (done, written) = oneshot::channel();
        self.order(Order::Note { at, said: Said::Purged { purge: purge.clone(), soft }, sync: true, done: Some(done) });
        Noted { written, most, late: self.figures.late.clone() }
    }

    /// Whether there may be something on disk.
    pub(super) fn may_have(&self, index: &Index) -> bool {
        self.store.load().as_ref().is_some_and(|store| store.index.peek(Slot::of(index)).is_some()) && !self.is_behind()
    }

    fn is_behind(&self) -> bool {
        let until = self.behind_until.load(Ordering::Relaxed);
        until > 0 && until > Moment::now().get()
    }

    /// What the other gateways have purged was heard.
    pub(super) fn has_heard(&self) {
        self.behind_until.store(0, Ordering::Relaxed);
    }

    /// All that is on disk under a key, for a look now and then: it waits for the disk.
    pub(super) fn all_of(&self, primary: &[u8]) -> Vec<Entry> {
        let Some(store) = self.store.load_full() else { return Vec::new() };
        let key = Index { primary: key::hash(primary), variance: None };
        let slots = std::iter::once(Slot::of(&key)).chain(Slot::variants(&key));
        let read = |slot| {
            let place = store.index.peek(slot)?;
            let (entry, _) = store.decode(place, &store.read(place, false).ok()??).ok()?;
            (*entry.primary == *primary && !self.tier.is_gone(&entry)).then_some(entry)
        };
        slots.filter_map(read).collect()
    }

    /// What is on disk under a key, put into memory.
    pub(super) async fn load(&'static self, index: Index, primary: &[u8]) -> Option<Arc<Entry>> {
        let found = self.look_up(index, primary).await;
        match &found {
            None => self.figures.misses.add(1),
            Some(entry) if entry.long.is_none() => self.figures.hits.add(1),
            // It is counted whenever it is given: memory has its head alone.
            Some(_) => {}
        }
        found
    }

    /// An answer is given whose body is read here.
    pub(in crate::cache) fn gives_long(&self) {
        self.figures.hits.add(1);
    }

    async fn look_up(&'static self, index: Index, primary: &[u8]) -> Option<Arc<Entry>> {
        let store = self.store.load_full().filter(|_| !self.is_behind())?;
        let slot = Slot::of(&index);
        let place = store.index.find(slot).filter(|_| !store.is_lost.load(Ordering::Relaxed))?;
        let is_it = |entry: &Arc<Entry>| *entry.primary == *primary;
        if place.length <= AT_ONCE
            && let Ok(Some(bytes)) = store.read(place, true)
        {
            return self.take_in(&store, index, place, &bytes).filter(is_it);
        }
        let (tell, told) = oneshot::channel();
        {
            let mut loads = self.loads.lock();
            match loads.entry(slot) {
                hash_map::Entry::Occupied(mut known) => {
                    let waiting = known.get_mut();
                    if waiting.len() == waiting.capacity() {
                        // Those who have waited long enough make room, while the disk hangs.
                        waiting.retain(|tell| !tell.is_closed());
                    }
                    waiting.push(tell);
                }
                hash_map::Entry::Vacant(first) => {
                    if !self.reads.push(Read { store, index, place }, 1) {
                        // Nobody would answer.
                        return None;
                    }
                    first.insert(vec![tell]);
                }
            }
        }
        match tokio::time::timeout(self.settings.deadline, told).await {
            Ok(Ok(found)) => found.filter(is_it),
            Ok(Err(_)) | Err(_) => {
                self.figures.late.add(1);
                None
            }
        }
    }

    /// Makes an answer of what was read, and puts it into memory.
    fn take_in(&self, store: &Arc<Store>, index: Index, place: Place, bytes: &[u8]) -> Option<Arc<Entry>> {
        let slot = Slot::of(&index);
        self.figures.read.add(bytes.len() as u64);
        let (entry, kind) = match store.decode(place, bytes) {
            Ok(found) => found,
            Err(Unfit::Later) => return None,
            Err(Unfit::Damaged) => {
                if self.forget_place(store, slot, place) {
                    self.figures.damaged.add(1);
                }
                return None;
            }
        };
        let entry = Arc::new(entry);
        if self.tier.is_gone(&entry) {
            self.forget_place(store, slot, place);
            return None;
        }
        let index = Index { variance: kind.variance, ..index };
        self.tier.promote(index, &entry);
        if store.index.is_at(slot, place) {
            return Some(entry);
        }
        // It was forgotten, or replaced, while it was read.
        self.tier.demote(index, &entry);
        None
    }

    /// How far other gateways' purges in this stream were heard by whoever had the folder before. Says it once.
    pub(super) fn take_heard(&self, stream: &str) -> Option<Box<str>> {
        self.heard.lock().remove(stream)
    }

    /// They were heard so far.
    pub(super) fn hear(&self, at: u64, stream: &str, until: &str) {
        self.order(Order::Note { at, said: Said::Heard { stream: stream.into(), until: until.into() }, sync: false, done: None });
    }

    /// Writes what waits to be written, and lets another process have the folder. For good.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.orders.wake();
        let (closed, told) = &self.closed;
        let mut closed = closed.lock();
        if !*closed {
            told.wait_for(&mut closed, keeper::CLOSING);
        }
    }
}

/// Whether an answer is good for anything for long enough.
fn is_worth(entry: &Entry) -> bool {
    entry.meta.life() >= WORTH
}

#[cfg(test)]
mod tests;
