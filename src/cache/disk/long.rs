//! A body that is too long for memory: in a file of its own, written and read in blocks, each with its code.
//!
//! `NUMBER.new` is written from its beginning, and called `NUMBER.big` once its record stands behind the last block; the file's last bytes
//! say how long that is. Where its head is another one later, because its service has validated it, that is appended in the same way. So what
//! a process has left half-written is no file of ours, and goes when the folder is opened.
//!
//! Memory has no more of one than what waits to be written. How one is read, and by whom after it has gone, is [`super::reader`]'s.
//!
//! One that still comes when the folder is given to another process is written on all the same, for those who read it: its file is open, and the
//! other process takes away its name. So it becomes none of the folder's, and goes with its last reader.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bytes::{CODE, code};
use super::reader::Removed;
use super::record::Place;
use super::store::Store;
use super::{Disk, Write};
use crate::cache::flow::Piece;

/// Of a body, without its code.
pub(super) const BLOCK: usize = 64 << 10;
pub(super) const STEP: u64 = (BLOCK + CODE) as u64;
/// Blocks of one body that wait to be written: beyond that its service waits.
const FLYING: usize = 8;
/// What one of them needs of the memory for bodies that arrive.
pub(in crate::cache) const MEMORY: usize = (FLYING + 2) * BLOCK;
/// The longest that a fill waits for the disk, and a reader for a block behind his first.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Behind a record.
const MARK: [u8; 4] = *b"pcl1";
const END: u64 = 8;

/// See the module.
pub(in crate::cache) struct Long {
    pub(super) disk: &'static Disk,
    pub(super) store: Weak<Store>,
    pub(super) number: u32,
    pub(super) state: Mutex<State>,
    /// There is more of it, or more room for it, or there will be none.
    pub(super) changed: Notify,
    /// Nobody may begin to read it.
    gone: AtomicBool,
    /// One for all who read it.
    open: Mutex<Weak<File>>,
    /// What has been removed, as long as somebody has begun to read it, or is about to.
    pub(super) removed: Mutex<Option<Removed>>,
    pub(super) readers: AtomicUsize,
    /// What was removed has been taken from its readers as well.
    cut: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    /// Of the body, in the file.
    pub(super) written: usize,
    /// What waits to be written.
    pub(super) flying: VecDeque<Bytes>,
    /// Less than a block.
    tail: Vec<u8>,
    /// Once all has come.
    pub(super) total: Option<usize>,
    /// Until it has its name: where it goes, and its file.
    growing: Option<Arc<Store>>,
    pub(super) file: Option<Arc<File>>,
    /// Of the store's bound.
    claimed: u64,
    /// The same once the folder is another process's.
    left: Option<Removed>,
}

impl State {
    fn added(&self) -> usize {
        self.written + self.flying.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }
}

/// Work for the thread that writes them.
pub(super) enum LongWrite {
    /// Nothing of it is there yet.
    Begin(Arc<Long>),
    /// The first of those that wait.
    Block(Arc<Long>),
    /// Behind its last block.
    Head(Write),
    /// Nobody wants it any more, but for those who read what there is of it, if they may.
    Drop(Arc<Long>, Arc<File>, u64),
    /// Nobody at all.
    Forget(Weak<Store>, u32, u64),
}

pub(super) fn name(number: u32) -> String {
    format!("{number:08x}.big")
}

fn new_name(number: u32) -> String {
    format!("{number:08x}.new")
}

/// The number of the file of that name.
pub(super) fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".big").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().filter(|number| *number > 0)
}

/// The number of a file that was being written.
pub(super) fn unfinished(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".new").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

fn longest(store: &Store) -> usize {
    usize::try_from(store.budget() / 4).unwrap_or(usize::MAX)
}

/// Where the last block of a body of that length ends.
fn end_of(body: usize) -> u64 {
    body as u64 + (body.div_ceil(BLOCK) * CODE) as u64
}

/// The record at the end of a file, and how long the file is.
pub(super) fn read_head(file: &File) -> io::Result<Option<(Vec<u8>, u64)>> {
    let length = file.metadata()?.len();
    let Some(at) = length.checked_sub(END) else { return Ok(None) };
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, at)?;
    let Some(digits) = end.strip_prefix(&MARK).and_then(|digits| digits.first_chunk()) else { return Ok(None) };
    let head = u32::from_le_bytes(*digits);
    let Some(start) = at.checked_sub(u64::from(head)).filter(|_| head as usize <= super::record::LONGEST_HEAD) else {
        return Ok(None);
    };
    let mut bytes = vec![0; head as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(Some((bytes, length)))
}

impl Disk {
    /// The longest body that is kept in a file of its own.
    pub(in crate::cache) fn longest(&self) -> usize {
        self.writable().map_or(0, |store| longest(&store))
    }

    /// A body that begins to come. `None` if nothing can be written.
    pub(in crate::cache) fn begin_long(&'static self) -> Option<Arc<Long>> {
        let store = self.writable().filter(|store| !self.rests_from_long() && !store.is_lost.load(Ordering::Relaxed))?;
        let number = store.next_number()?;
        let state = State { growing: Some(store.clone()), ..State::default() };
        let long = Arc::new(Long::new(self, &store, number, state));
        // Its file is made before there is a block of it: a process that gives the folder away has to have it by then.
        self.long_writes.push(LongWrite::Begin(long.clone()), 1).then_some(long)
    }

    /// All of it is there, and its head may be another one.
    pub(super) fn write_head(&self, Write { slot, ticket, kind, entry }: &Write) -> io::Result<()> {
        let Some((long, store)) = entry.long.as_ref().and_then(|long| Some((long, long.store.upgrade()?))) else { return Ok(()) };
        if long.is_gone() || store.is_ours().is_err() {
            // Or it is none of the folder's: those who read it need no head.
            store.index.abandon(*slot, *ticket);
            return Ok(());
        }
        match long.write_head(&store, *slot, *kind, entry) {
            Ok(place) => {
                self.figures.stored.add(1);
                if !store.index.settle(*slot, *ticket, place) || long.is_gone() {
                    self.figures.evicted.add(store.drop_long(long.number)?);
                }
                Ok(())
            }
            Err(error) => {
                store.index.abandon(*slot, *ticket);
                let _ = store.drop_long(long.number);
                Err(error)
            }
        }
    }
}

impl LongWrite {
    pub(super) fn run(&self, disk: &Disk) -> io::Result<()> {
        match self {
            LongWrite::Begin(long) => long.begin(),
            LongWrite::Block(long) => long.write_block(),
            LongWrite::Head(write) => disk.write_head(write),
            LongWrite::Drop(long, file, claimed) => {
                let left = long.leave_to_readers(file, *claimed);
                // Whatever comes of that: else its room would be taken until the restart.
                release(&long.store, long.number, *claimed)?;
                left
            }
            LongWrite::Forget(store, number, claimed) => release(store, *number, *claimed),
        }
    }

    /// It has failed.
    pub(super) fn fail(&self) {
        match self {
            LongWrite::Begin(long) | LongWrite::Block(long) => long.fail(),
            LongWrite::Head(write) => write.entry.long.iter().for_each(|long| long.fail()),
            LongWrite::Drop(..) | LongWrite::Forget(..) => {}
        }
    }
}

/// Removes what has never got its name. What is another process's by now, that process removes.
fn release(store: &Weak<Store>, number: u32, claimed: u64) -> io::Result<()> {
    store.upgrade().filter(|store| store.is_ours().is_ok()).map_or(Ok(()), |store| store.release(&new_name(number), claimed))
}

impl Long {
    fn new(disk: &'static Disk, store: &Arc<Store>, number: u32, state: State) -> Self {
        let (state, changed, gone) = (Mutex::new(state), Notify::new(), AtomicBool::new(false));
        let (open, removed, readers, cut) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
        Long { disk, store: Arc::downgrade(store), number, state, changed, gone, open, removed, readers, cut }
    }

    /// One that was written before.
    pub(super) fn found(disk: &'static Disk, store: &Arc<Store>, number: u32, body: usize) -> Self {
        Long::new(disk, store, number, State { written: body, total: Some(body), ..State::default() })
    }

    /// By a thread: it may wait for the disk. One that is shorter than it has to be is none.
    pub(super) fn open(&self, store: &Store) -> io::Result<Arc<File>> {
        let mut open = self.open.lock();
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(store.folder.open_file(&name(self.number))?);
        if file.metadata()?.len() < end_of(self.length()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    /// Its file, if some reader has it open. Waits for nothing.
    pub(super) fn opened(&self) -> Option<Arc<File>> {
        self.open.try_lock()?.upgrade()
    }

    /// Its file, of so many bytes, goes: those who are about to read it still can, if there is room for that.
    pub(super) fn leave(self: &Arc<Self>, store: &Store, bytes: u64) -> io::Result<()> {
        self.fail();
        if self.readers.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.open(store) {
            Ok(file) => self.leave_to_readers(&file, bytes),
            // They will be told.
            Err(_) => Ok(()),
        }
    }

    /// Whether it is one of this store.
    pub(super) fn is_of(&self, store: &Arc<Store>) -> bool {
        std::ptr::eq(self.store.as_ptr(), Arc::as_ptr(store))
    }

    pub(in crate::cache) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.store.strong_count() == 0
    }

    /// How much of it may come: also where nothing else is begun any more.
    pub(in crate::cache) fn longest(&self) -> usize {
        self.store.upgrade().map_or(0, |store| longest(&store))
    }

    /// How much of it has come.
    pub(in crate::cache) fn length(&self) -> usize {
        let state = self.state.lock();
        state.total.unwrap_or_else(|| state.added())
    }

    /// Whether not even those can go on who have begun to read it.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Nobody may begin to read it; no more of it is written.
    pub(in crate::cache) fn fail(self: &Arc<Self>) {
        self.gone.store(true, Ordering::Release);
        let (file, claimed) = {
            let mut state = self.state.lock();
            state.growing = None;
            (state.file.take(), std::mem::take(&mut state.claimed))
        };
        if let Some(file) = file {
            // It will have no name. Who has begun to read it still can, for now.
            *self.open.lock() = Arc::downgrade(&file);
            // It weighs nothing, for it gives room back: however much waits, it must not be refused.
            self.disk.long_writes.push(LongWrite::Drop(self.clone(), file, claimed), 0);
        } else if let Some(store) = self.store.upgrade().filter(|_| claimed > 0) {
            // Another record of one that has its name, which was not written.
            store.give_back(claimed);
        }
        self.changed.notify_waiters();
    }

    /// By a thread: it may wait for the disk.
    fn leave_to_readers(&self, file: &Arc<File>, bytes: u64) -> io::Result<()> {
        let left = self.state.lock().left.take();
        if self.readers.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match left.or_else(|| Removed::take(self.disk, file, bytes)) {
            removed @ Some(_) => *self.removed.lock() = removed,
            None => {
                // A file that is open keeps its room for as long as some client likes.
                self.cut.store(true, Ordering::Release);
                file.set_len(0)?;
            }
        }
        if self.readers.load(Ordering::Acquire) == 0 {
            self.removed.lock().take();
        }
        Ok(())
    }

    /// Whether all of it is in a file that has its name.
    pub(super) fn is_named(&self) -> bool {
        let state = self.state.lock();
        state.file.is_none() && state.total == Some(state.written)
    }

    /// A piece of it. Not after it has gone: of what was added before, all can still be read.
    pub(in crate::cache) fn add(self: &Arc<Self>, data: &[u8]) {
        let mut blocks = 0;
        {
            let (mut state, mut data) = (self.state.lock(), data);
            while !data.is_empty() {
                let room = BLOCK - state.tail.len();
                // A block holds what it is, and no more.
                state.tail.reserve_exact(room);
                let (now, rest) = data.split_at(room.min(data.len()));
                state.tail.extend_from_slice(now);
                data = rest;
                if state.tail.len() == BLOCK {
                    let block = std::mem::take(&mut state.tail);
                    state.flying.push_back(block.into());
                    blocks += 1;
                }
            }
        }
        (0..blocks).for_each(|_| self.send_block());
        self.changed.notify_waiters();
    }

    /// What memory had of it until now, of one that has nothing yet. It is not copied.
    pub(in crate::cache) fn begin_with(self: &Arc<Self>, data: Vec<u8>) {
        let (mut data, mut blocks) = (Bytes::from(data), 0);
        {
            let mut state = self.state.lock();
            while data.len() >= BLOCK {
                state.flying.push_back(data.split_to(BLOCK));
                blocks += 1;
            }
        }
        (0..blocks).for_each(|_| self.send_block());
        self.add(&data);
    }

    fn send_block(self: &Arc<Self>) {
        if !self.disk.long_writes.push(LongWrite::Block(self.clone()), BLOCK) {
            self.disk.figures.dropped.add(1);
            self.fail();
        }
    }

    /// All has come.
    pub(in crate::cache) fn end(self: &Arc<Self>) {
        let has_more = {
            let mut state = self.state.lock();
            state.total = Some(state.added());
            let rest = std::mem::take(&mut state.tail);
            let has_more = !rest.is_empty();
            if has_more {
                state.flying.push_back(rest.into());
            }
            has_more
        };
        if has_more {
            self.send_block();
        }
        self.changed.notify_waiters();
    }

    /// Whether so much waits to be written that no more should come.
    pub(in crate::cache) fn is_full(&self) -> bool {
        self.state.lock().flying.len() > FLYING && !self.is_gone()
    }

    /// Waits until there is room for more, but not for ever: one of which the disk takes nothing for so long is given up. A slow one may take
    /// its time.
    pub(in crate::cache) async fn room(self: &Arc<Self>) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            // With each block that is written, and with nothing else while its fill waits.
            if tokio::time::timeout(PATIENCE, changed).await.is_err() {
                self.disk.figures.late.add(1);
                // Nor would it take the next one, whose client would wait as long.
                self.disk.rest_from_long();
                return self.fail();
            }
        }
    }

    fn begin(&self) -> io::Result<()> {
        let Some(store) = self.store.upgrade().filter(|_| !self.is_gone()) else { return Ok(()) };
        store.is_ours()?;
        store.touch();
        let file = Arc::new(store.folder.create(&new_name(self.number))?);
        self.state.lock().file = Some(file);
        Ok(())
    }

    /// Room for so many bytes more, of what there is for files that have no name any more.
    fn claim_left(&self, file: &Arc<File>, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let claimed = state.claimed;
        let has_room = match &mut state.left {
            Some(left) => left.grow(bytes),
            left => {
                *left = Removed::take(self.disk, file, claimed + bytes);
                left.is_some()
            }
        };
        has_room.then_some(()).ok_or_else(|| io::Error::new(io::ErrorKind::StorageFull, "the folder is another process's"))
    }

    fn write_block(self: &Arc<Self>) -> io::Result<()> {
        let Some(store) = self.store.upgrade().filter(|_| !self.is_gone()) else { return Ok(()) };
        let (block, at, file) = {
            let state = self.state.lock();
            let Some(block) = state.flying.front().cloned() else { return Ok(()) };
            (block, state.written, state.file.clone())
        };
        let file = file.ok_or_else(|| io::Error::other("it has no file"))?;
        let (number, length) = ((at / BLOCK) as u64, (block.len() + CODE) as u64);
        match store.claim(length) {
            Ok(evicted) => self.disk.figures.evicted.add(evicted),
            Err(_) if store.is_ours().is_err() => self.claim_left(&file, length)?,
            Err(error) => return Err(error),
        }
        {
            let mut state = self.state.lock();
            if state.file.is_none() {
                // It has failed meanwhile.
                store.give_back(length);
                return Ok(());
            }
            state.claimed += length;
        }
        let code = self.code(&store, number, &block);
        store.touch();
        file.write_all_at(&block, number * STEP)?;
        file.write_all_at(&code, number * STEP + block.len() as u64)?;
        self.disk.figures.written.add(length);
        {
            let mut state = self.state.lock();
            state.flying.pop_front();
            state.written += block.len();
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn code(&self, store: &Store, number: u64, block: &[u8]) -> [u8; CODE] {
        code(&store.secret, &[b"block", &self.number.to_le_bytes(), &number.to_le_bytes(), block])
    }

    fn write_head(
        self: &Arc<Self>,
        store: &Arc<Store>,
        slot: super::Slot,
        kind: super::Kind,
        entry: &super::Entry,
    ) -> io::Result<Place> {
        store.is_ours()?;
        let (body, file) = {
            let state = self.state.lock();
            let body = state.total.filter(|total| *total == state.written);
            (body.ok_or_else(|| io::Error::other("it is not whole"))?, state.file.clone())
        };
        let is_first = file.is_some();
        let (file, at) = match file {
            Some(file) => (file, end_of(body)),
            None => {
                let file = Arc::new(store.folder.open_file(&name(self.number))?);
                let at = file.metadata()?.len();
                if at > end_of(body) + body as u64 / 16 + (1 << 16) {
                    // It has been validated so often that its records take room: it is fetched anew.
                    return Err(io::Error::other("it has too many records"));
                }
                (file, at)
            }
        };
        let mut record = store.encode_long(self.number, kind, entry, body);
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        record.extend_from_slice(&MARK);
        record.extend_from_slice(&length.to_le_bytes());
        self.disk.figures.evicted.add(store.claim(record.len() as u64)?);
        self.state.lock().claimed += record.len() as u64;
        store.touch();
        file.write_all_at(&record, at)?;
        let place = Place { segment: self.number, offset: Place::LONG, length };
        if is_first {
            store.folder.rename(&new_name(self.number), &name(self.number))?;
        }
        let claimed = {
            let mut state = self.state.lock();
            (state.file, state.growing) = (None, None);
            std::mem::take(&mut state.claimed)
        };
        store.hold_long(slot, place, claimed, self.clone());
        Ok(place)
    }

    /// What there is from here on.
    pub(in crate::cache) fn at(&self, from: usize) -> Piece {
        let state = self.state.lock();
        if from < state.written {
            return Piece::OnDisk;
        }
        let last = |piece: &Bytes| state.total == Some(from + piece.len());
        let mut start = state.written;
        for block in &state.flying {
            if from < start + block.len() {
                let piece = block.slice(from - start..);
                let last = last(&piece);
                return Piece::Some(piece, last);
            }
            start += block.len();
        }
        match state.tail.get(from - start..).filter(|rest| !rest.is_empty()) {
            Some(rest) => Piece::Some(Bytes::copy_from_slice(rest), false),
            None if state.total == Some(from) => Piece::Some(Bytes::new(), true),
            None if self.is_gone() => Piece::Broken,
            None => Piece::NoneYet,
        }
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(file) = state.file.take() {
            // It has never got its name.
            drop(file);
            self.disk.long_writes.push(LongWrite::Forget(self.store.clone(), self.number, state.claimed), 0);
        }
    }
}
