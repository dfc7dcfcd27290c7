//! The threads that do what may wait for the disk: one that opens the folder and writes the notes, one that waits until they are on the
//! device, one that writes answers, some that read them, and one that looks through what there is and ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::folder::Folder;
use super::journal::{self, Journal, Note, Said};
use super::long;
use super::reader::passes;
use super::state::{self, State};
use super::store::{self, End, Store, Written};
use super::{Disk, Early, Order, Read, Settings, Sync, Write};
use crate::cache::changed::Place as Target;
use crate::cache::moment::Moment;

const READERS: usize = 4;
/// For bodies that are read block by block.
const LONG_READERS: usize = 2;
const TICK: Duration = Duration::from_millis(500);
/// How often it is tried to get the folder that another process has.
const AGAIN: Duration = Duration::from_millis(100);
/// How long nothing is tried after a failure.
const REST: Duration = Duration::from_secs(5);
/// The longest that closing takes.
pub(super) const CLOSING: Duration = Duration::from_secs(10);
/// After so long it is worth a warning that another process still has it: one that an upgrade has replaced lets go sooner, but for its last clients.
const LONG: Duration = Duration::from_secs(60);
/// How far ahead the disk's clock may go before that is written down.
const AHEAD: u64 = 3_600_000_000_000;

/// The folder as it is while it is open.
struct Open {
    store: Arc<Store>,
    journal: Journal,
    state: State,
}

/// For the notes, in bytes.
pub(super) fn most_notes(settings: &Settings) -> u64 {
    (settings.max_size / 16).clamp(1 << 20, 64 << 20)
}

impl Disk {
    /// Starts the threads, which live as long as the process.
    pub(in crate::cache) fn start(&'static self) -> io::Result<()> {
        let thread = |name: String, work: fn(&'static Disk)| Builder::new().name(name).spawn(move || work(self)).map(drop);
        thread("cache-disk".to_owned(), Disk::keep_house)?;
        thread("cache-disk-sync".to_owned(), Disk::sync_on)?;
        thread("cache-disk-write".to_owned(), Disk::write_on)?;
        thread("cache-disk-long".to_owned(), Disk::write_long_on)?;
        (0..LONG_READERS).try_for_each(|number| thread(format!("cache-disk-body{number}"), Disk::read_long_on))?;
        (0..READERS).try_for_each(|number| thread(format!("cache-disk-read{number}"), Disk::read_on))
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn keep_house(&'static self) {
        let (mut waits, mut warned, mut fails) = (None, false, false);
        while !self.is_closing() {
            match self.open() {
                Ok(Some(open)) => {
                    (waits, warned, fails) = (None, false, false);
                    self.figures.open.set(1);
                    let done = self.serve(open);
                    self.figures.open.set(0);
                    if let Err(error) = done {
                        self.figures.errors.add(1);
                        log::error!("the disk cache is given up for now, and begins anew: {error}");
                        self.rest(REST);
                    }
                }
                Ok(None) => {
                    if waits.is_none() {
                        log::info!("{} is another process's: the cache is in memory alone until that has let it go", self.path());
                    }
                    if waits.get_or_insert_with(Instant::now).elapsed() > LONG && !std::mem::replace(&mut warned, true) {
                        log::warn!("{} is still another process's: the cache is in memory alone", self.path());
                    }
                    self.rest(AGAIN);
                }
                Err(error) => {
                    self.figures.errors.add(1);
                    if !std::mem::replace(&mut fails, true) {
                        log::error!("the disk cache cannot be had in {}: {error}", self.path());
                    }
                    self.rest(REST);
                }
            }
        }
        *self.closed.0.lock() = true;
        self.closed.1.notify_all();
    }

    fn path(&self) -> String {
        self.settings.path.display().to_string()
    }

    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_closing() {
            sleep(AGAIN.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Nothing long is begun for a while.
    pub(super) fn rest_from_long(&self) {
        self.long_rests_until.store(Moment::of(Instant::now() + REST).get(), Ordering::Relaxed);
    }

    /// Whether nothing long is to be begun: it has failed a moment ago, or the disk hangs, for as long as it does.
    pub(super) fn rests_from_long(&self) -> bool {
        let (until, since) = (self.long_rests_until.load(Ordering::Relaxed), self.long_busy_since.load(Ordering::Relaxed));
        let now = Moment::now().get();
        until > now || since > 0 && u128::from(now.saturating_sub(since)) > long::PATIENCE.as_nanos()
    }

    /// `None` if another process has the folder.
    fn open(&'static self) -> io::Result<Option<Open>> {
        let Some(folder) = Folder::open(&self.settings.path)? else { return Ok(None) };
        let (secret, is_new) = folder.key()?;
        let boot = state::boot();
        let before = if is_new { None } else { State::read(&folder, &secret)? };
        // What a machine has not written when its power went is not known.
        let is_doubted = self.is_doubted.load(Ordering::Relaxed);
        let known = before.filter(|state| !is_doubted && (state.is_clean || state.boot == boot && boot != 0));
        let journal = Journal::open(&folder, secret)?;
        let too_many = matches!(&*self.early.lock(), Early::Many);
        let is_whole = |state: &State, journal: &Journal| match state.is_clean {
            true => journal.count == state.notes,
            false => journal.count >= state.notes,
        };
        let (ceiling, journal, notes) = match (known, journal) {
            (Some(state), Some((journal, notes))) if !too_many && is_whole(&state, &journal) => (state.ceiling, journal, notes),
            (known, _) => {
                if before.is_some() {
                    let why = match known {
                        _ if too_many => "too much was stored before it could be had",
                        _ if is_doubted => "its notes could not be written",
                        None => "the machine has stopped without a warning",
                        Some(_) => "its notes are damaged",
                    };
                    log::warn!("what is in {} does not count any more: {why}", self.path());
                }
                store::wipe(&folder)?;
                // Its clock goes on: there may be a thing that cannot be removed.
                (before.map_or(1, |state| state.ceiling), Journal::new(&folder, secret)?, Vec::new())
            }
        };
        // All moments of those who had it before were before this process began.
        let shift = i128::from(ceiling) - i128::from(Moment::FIRST);
        let size = store::segment_size(self.settings.max_size);
        // While the notes are written anew there are two of them.
        let budget = self.settings.max_size.saturating_sub(2 * most_notes(&self.settings)).max(u64::from(size));
        let store = Arc::new(Store::open(folder, secret, shift, budget, size, journal.count)?);
        let state = State { is_clean: false, boot, ceiling: store.to_disk(Moment::now().get()) + AHEAD, notes: journal.count };
        state.write(&store.folder, &secret)?;
        self.is_doubted.store(false, Ordering::Relaxed);
        for (at, said) in &notes {
            self.remember(store.to_own(*at), said);
        }
        let heard = journal::heard(&notes);
        let until = if heard.is_empty() { 0 } else { Moment::of(Instant::now() + super::UNHEARD).get() };
        self.behind_until.store(until, Ordering::Relaxed);
        *self.heard.lock() = heard;
        let (searched, disk) = (store.clone(), self);
        // The last thing that may fail: until here nobody has the store, and what was stored or forgotten early is still known.
        Builder::new().name("cache-disk-find".to_owned()).spawn(move || disk.search(&searched))?;
        if self.forget_early(&store) && !too_many {
            store.is_lost.store(true, Ordering::Relaxed);
        }
        self.store.store(Some(store.clone()));
        // What came in between.
        if self.forget_early(&store) {
            store.is_lost.store(true, Ordering::Relaxed);
        }
        Ok(Some(Open { store, journal, state }))
    }

    /// What was stored or forgotten before there was a store does not count there. Whether it was too much to be known.
    fn forget_early(&self, store: &Arc<Store>) -> bool {
        match std::mem::replace(&mut *self.early.lock(), Early::Few(Default::default())) {
            Early::Few(slots) => {
                slots.into_iter().for_each(|slot| self.forget_in(store, slot));
                false
            }
            Early::Many => true,
        }
    }

    /// What was noted by those who had the folder before is held against what is found there.
    fn remember(&self, at: u64, said: &Said) {
        match said {
            Said::Changed(target) => self.tier.changes.note_at(Target::of(target), at),
            Said::Purged { purge, soft } => self.tier.purges.note_at(purge, *soft, at),
            Said::Forgotten => self.tier.purges.forget_before(at),
            Said::Heard { .. } => {}
        }
    }

    fn search(&'static self, store: &Arc<Store>) {
        let began = Instant::now();
        // The bound may be another one than it was, and there may never be anything to write. What goes need not be looked through.
        match store.shrink() {
            Ok(evicted) => self.figures.evicted.add(evicted),
            Err(error) => {
                self.figures.errors.add(1);
                log::error!("the disk cache cannot be made smaller: {error}");
            }
        }
        store.search(self);
        let (entries, took) = (store.index.len(), began.elapsed());
        if entries > 0 {
            log::info!("{entries} answers were found in {} in {:.1} s", self.path(), took.as_secs_f64());
        }
    }

    /// Works until the folder is given to another process, or fails.
    fn serve(&self, mut open: Open) -> io::Result<()> {
        let (mut closing, mut looked) = (None, Instant::now());
        let done = loop {
            let orders = self.orders.take_all(if closing.is_some() { AGAIN } else { TICK });
            if let Err(error) = self.obey(&mut open, orders) {
                break Err(error);
            }
            if looked.elapsed() >= TICK {
                // All that is open goes on as if nothing had happened, and nobody ever finds what is written to it.
                if !open.store.folder.is_at(&self.settings.path) || open.journal.is_removed() {
                    break Err(io::Error::other(format!("somebody has removed {}, or what was in it", self.path())));
                }
                looked = Instant::now();
            }
            let store = &open.store;
            self.figures.entries.set(store.index.len() as u64);
            self.figures.bytes.set(store.bytes() + open.journal.length());
            if self.is_closing() {
                let since = *closing.get_or_insert_with(Instant::now);
                if self.writes.is_idle() && self.long_writes.is_idle() && self.orders.is_idle() || since.elapsed() > CLOSING / 2 {
                    break Ok(());
                }
            }
        };
        let Open { store, journal, state, .. } = open;
        self.store.store(None);
        let done = done.and_then(|()| {
            journal.sync()?;
            let ceiling = store.to_disk(Moment::now().get()).saturating_add(1);
            State { is_clean: true, ceiling, notes: journal.count, ..state }.write(&store.folder, &store.secret)
        });
        if done.is_err() {
            store.index.clear();
            // Without it nothing that is there counts.
            if let Err(error) = store.folder.remove(state::NAME) {
                self.is_doubted.store(true, Ordering::Relaxed);
                log::error!("what is in {} counts for the next process, and must not: remove it ({error})", self.path());
            }
        }
        store.is_given.store(true, Ordering::Release);
        store.folder.unlock();
        done
    }

    /// Does it again with more room, if it fails: there may be none on the device, and it is worth more than answers.
    fn with_room<T>(&self, store: &Store, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        work().or_else(|_| {
            self.figures.evicted.add(store.yield_room()?);
            work()
        })
    }

    fn obey(&self, open: &mut Open, orders: Vec<Order>) -> io::Result<()> {
        if open.store.is_lost.load(Ordering::Relaxed) {
            return Err(io::Error::other("notes are missing"));
        }
        let (mut notes, mut sync): (Vec<Note>, bool) = (Vec::new(), false);
        let (mut told, mut told_late): (Vec<oneshot::Sender<()>>, Vec<oneshot::Sender<()>>) = (Vec::new(), Vec::new());
        if self.overflowed.swap(false, Ordering::AcqRel) {
            open.store.index.clear();
            // What a search that is still under way finds counts no more, either.
            self.tier.purges.forget_before(Moment::now().get());
            notes.push((open.store.to_disk(Moment::now().get()), Said::Forgotten));
        }
        for order in orders {
            match order {
                // Where each write takes room of its own, a full device has none for it either.
                Order::Kill(store, place) if Arc::ptr_eq(&store, &open.store) => self.with_room(&store, || store.kill(place))?,
                Order::Kill(..) => {}
                Order::Note { at, said, sync: now, done } => {
                    notes.push((open.store.to_disk(at), said));
                    if now { &mut told_late } else { &mut told }.extend(done);
                    sync |= now;
                }
            }
        }
        let store = &open.store;
        let ahead = store.to_disk(Moment::now().get());
        if ahead + AHEAD / 2 > open.state.ceiling {
            open.state.ceiling = ahead + AHEAD;
            open.state.notes = open.journal.count;
            self.with_room(store, || open.state.write(&store.folder, &store.secret))?;
        }
        if !notes.is_empty() {
            self.with_room(store, || open.journal.append(&notes))?;
            store.notes.store(open.journal.count, Ordering::Release);
        }
        // After a power cut nothing counts that is there, so that who has changed something need not wait for the device.
        told.into_iter().for_each(|done| {
            let _ = done.send(());
        });
        if sync {
            // Nor who does meanwhile. Where there are too many already, they are told that it is not written.
            self.syncs.push(Sync { store: store.clone(), file: open.journal.file(), told: told_late }, 1);
        }
        let most = most_notes(&self.settings);
        if open.journal.length() > most {
            let is_less = self.with_room(store, || open.journal.compact(&store.folder, most))?;
            if is_less {
                log::warn!(
                    "more was purged or changed than the disk cache has room to write down: the older half of what is in {} does not \
                     outlast this process",
                    self.path()
                );
            }
        }
        Ok(())
    }

    fn sync_on(&'static self) {
        loop {
            let mut last: Option<(Arc<std::fs::File>, bool)> = None;
            // What was written later to the same file is on the device as well then.
            for Sync { store, file, told } in self.syncs.take_all(Duration::from_secs(3600)) {
                let is_done = match &last {
                    Some((known, is_done)) if Arc::ptr_eq(known, &file) => *is_done,
                    _ => match file.sync_data() {
                        Ok(()) => true,
                        Err(error) => {
                            self.figures.errors.add(1);
                            log::error!("the disk cache's notes cannot be written: {error}");
                            store.is_lost.store(true, Ordering::Relaxed);
                            false
                        }
                    },
                };
                if is_done {
                    told.into_iter().for_each(|done| {
                        let _ = done.send(());
                    });
                }
                last = Some((file, is_done));
            }
        }
    }

    fn write_on(&'static self) {
        let mut current: Option<(Arc<Store>, End)> = None;
        let (mut fails, mut rest_until) = (false, None::<Instant>);
        loop {
            let Some(Write { slot, ticket, kind, entry }) = self.writes.take(Duration::from_secs(3600)) else { continue };
            let store = self.store.load_full();
            if let Some(store) = &store
                && !current.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, store))
            {
                current = Some((store.clone(), End::default()));
            }
            if store.is_none() {
                current = None;
            }
            let resting = rest_until.is_some_and(|until| Instant::now() < until);
            let mut written = Written::default();
            match &mut current {
                Some((store, end)) if !resting => match store.append(end, kind, &entry, &mut written) {
                    Ok(place) => {
                        if std::mem::take(&mut fails) {
                            log::info!("the disk cache can be written to again");
                        }
                        self.figures.stored.add(1);
                        if !store.index.settle(slot, ticket, place) {
                            self.kill(store, place);
                        }
                    }
                    Err(error) => {
                        store.index.abandon(slot, ticket);
                        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                            // It goes on in less room.
                            written.evicted += store.yield_room().unwrap_or(0);
                        }
                        self.figures.errors.add(1);
                        self.figures.dropped.add(1);
                        rest_until = Some(Instant::now() + REST);
                        if !std::mem::replace(&mut fails, true) {
                            log::error!("the disk cache cannot be written to: {error}");
                        }
                    }
                },
                Some((store, _)) => {
                    store.index.abandon(slot, ticket);
                    self.figures.dropped.add(1);
                }
                None => self.figures.dropped.add(1),
            }
            self.figures.written.add(written.bytes);
            self.figures.evicted.add(written.evicted);
            self.writes.done();
        }
    }

    fn write_long_on(&'static self) {
        let mut fails = false;
        loop {
            let Some(work) = self.long_writes.take(Duration::from_secs(3600)) else { continue };
            self.long_busy_since.store(Moment::now().get(), Ordering::Relaxed);
            let done = work.run(self);
            self.long_busy_since.store(0, Ordering::Relaxed);
            match done {
                Ok(()) => fails = false,
                Err(error) => {
                    work.fail();
                    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                        && let Some(store) = self.store.load_full()
                    {
                        self.figures.evicted.add(store.yield_room().unwrap_or(0));
                    }
                    self.rest_from_long();
                    self.figures.errors.add(1);
                    self.figures.dropped.add(1);
                    if !std::mem::replace(&mut fails, true) {
                        log::error!("a long body cannot be written to the disk cache: {error}");
                    }
                }
            }
            self.long_writes.done();
        }
    }

    fn read_long_on(&'static self) {
        let mut fails = false;
        loop {
            let Some(read) = self.long_reads.take(Duration::from_secs(3600)) else { continue };
            match read.run() {
                Ok(()) => fails = false,
                Err(error) => {
                    self.figures.errors.add(1);
                    if !std::mem::replace(&mut fails, true) {
                        log::error!("a long body cannot be read from the disk cache: {error}");
                    }
                }
            }
            self.long_reads.done();
        }
    }

    fn read_on(&'static self) {
        let mut fails = false;
        loop {
            let Some(Read { store, index, place }) = self.reads.take(Duration::from_secs(3600)) else { continue };
            let slot = super::Slot::of(&index);
            let found = match store.read(place, false) {
                Ok(bytes) => {
                    fails = false;
                    if bytes.is_none() {
                        self.forget_place(&store, slot, place);
                    }
                    bytes.and_then(|bytes| self.take_in(&store, index, place, &bytes))
                }
                Err(error) => {
                    if !passes(&error) {
                        self.forget_place(&store, slot, place);
                    }
                    self.figures.errors.add(1);
                    if !std::mem::replace(&mut fails, true) {
                        log::error!("the disk cache cannot be read: {error}");
                    }
                    None
                }
            };
            let waiting = self.loads.lock().remove(&slot).unwrap_or_default();
            for tell in waiting {
                let _ = tell.send(found.clone());
            }
            self.reads.done();
        }
    }
}
