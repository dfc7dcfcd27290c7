//! Reading of long bodies ([`super::long`]), block by block, by as many as like, each with no more than a block in memory.
//!
//! What is removed while somebody reads it stays on the device until he has read it. That is beyond the store's bound, and has one of its own:
//! a quarter of `max_size` in each process (in an upgrade there are two). What is removed beyond that is gone for its readers as well, whose answers break off.
//! What a process goes on writing after it has given the folder away is of the same.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;
use tokio::sync::oneshot;

use super::Disk;
use super::bytes::CODE;
use super::long::{BLOCK, Long, PATIENCE, STEP};
use super::record::Place;
use super::store::Store;
use crate::cache::flow::Piece;

/// How long a reader waits that finds no thread for it.
const AGAIN: Duration = Duration::from_millis(20);

/// A block to be read.
pub(super) struct LongRead {
    store: Arc<Store>,
    long: Arc<Long>,
    file: Option<Arc<File>>,
    offset: u64,
    length: usize,
    tell: oneshot::Sender<Told>,
}

/// What came of it.
enum Told {
    Read(Arc<File>, Vec<u8>),
    /// There is nothing that could be read.
    None,
    /// Not now: that says nothing of what is there.
    Later,
}

impl LongRead {
    pub(super) fn run(self) -> io::Result<()> {
        if self.tell.is_closed() {
            // Whoever wanted it has not waited until its turn came.
            return Ok(());
        }
        let read = || {
            let file = match self.file {
                Some(file) => file,
                None => self.long.open(&self.store)?,
            };
            let mut bytes = vec![0; self.length];
            self.store.touch();
            file.read_exact_at(&mut bytes, self.offset)?;
            Ok((file, bytes))
        };
        let done: io::Result<_> = read();
        let (told, done) = match done {
            Ok((file, bytes)) => (Told::Read(file, bytes), Ok(())),
            // It was evicted.
            Err(error) if error.kind() == io::ErrorKind::NotFound || self.long.is_cut() => (Told::None, Ok(())),
            Err(error) if passes(&error) => (Told::Later, Err(error)),
            Err(error) => (Told::None, Err(error)),
        };
        let _ = self.tell.send(told);
        done
    }
}

/// A removed file that somebody reads, and the room that it takes all the same.
pub(super) struct Removed {
    _file: Arc<File>,
    bytes: u64,
    disk: &'static Disk,
}

impl Removed {
    /// `None` if there is no room for it.
    pub(super) fn take(disk: &'static Disk, file: &Arc<File>, bytes: u64) -> Option<Self> {
        let mut removed = Removed { _file: file.clone(), bytes: 0, disk };
        removed.grow(bytes).then_some(removed)
    }

    /// Whether there is room for so many bytes more of it.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let most = self.disk.settings.max_size / 4;
        let fits = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= most);
        let has_room = self.disk.removed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if has_room {
            self.bytes += bytes;
            self.tell();
        }
        has_room
    }

    fn tell(&self) {
        self.disk.figures.removed.set(self.disk.removed.load(Ordering::Relaxed));
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        self.disk.removed.fetch_sub(self.bytes, Ordering::Relaxed);
        self.tell();
    }
}

/// Whoever reads a long body.
pub(in crate::cache) struct Reader {
    pub(in crate::cache) long: Arc<Long>,
    /// Kept, for the folder may be another process's before all of it is read.
    store: Option<Arc<Store>>,
    /// Once it was opened: what is removed can be read to its end.
    file: Mutex<Option<Arc<File>>>,
    /// The block that was read last, and which one: small parts are often of the same.
    last: Mutex<Option<(usize, Bytes)>>,
}

impl Reader {
    pub(in crate::cache) fn new(long: Arc<Long>) -> Self {
        long.readers.fetch_add(1, Ordering::AcqRel);
        Reader { store: long.store.upgrade(), long, file: Mutex::default(), last: Mutex::default() }
    }

    /// What there is from here on, once there is something. Not for ever: after [`PATIENCE`] there is none.
    pub(in crate::cache) async fn next(&self, from: usize) -> Piece {
        loop {
            let mut changed = std::pin::pin!(self.long.changed.notified());
            changed.as_mut().enable();
            match self.long.at(from) {
                Piece::NoneYet => changed.await,
                Piece::OnDisk => {
                    let read = self.read(from).await;
                    return read.map_or(Piece::Broken, |(piece, last)| Piece::Some(piece, last));
                }
                piece => return piece,
            }
        }
    }

    /// The same for who can have it elsewhere: until something of it was read, no longer than anything on disk is waited for. `None` if that
    /// is over, which is no damage.
    pub(in crate::cache) async fn first(&self, from: usize) -> Option<Piece> {
        if self.last.lock().is_some() {
            return Some(self.next(from).await);
        }
        let disk = self.long.disk;
        let found = tokio::time::timeout(disk.settings.deadline, self.next(from)).await;
        if found.is_err() {
            disk.figures.late.add(1);
        }
        found.ok()
    }

    /// From here to the end of a block.
    async fn read(&self, from: usize) -> Option<(Bytes, bool)> {
        let long = &self.long;
        let store = self.store.as_ref().filter(|_| !long.is_cut())?;
        let number = from / BLOCK;
        let (length, total, growing) = {
            let state = long.state.lock();
            (BLOCK.min(state.written.saturating_sub(number * BLOCK)), state.total, state.file.clone())
        };
        // What is not it goes before another one is read: there is one at a time.
        let known = self.last.lock().take().filter(|(which, block)| *which == number && block.len() == length);
        let block = match known {
            Some((_, block)) => block,
            None => self.read_block(store, number, length, growing).await?,
        };
        *self.last.lock() = Some((number, block.clone()));
        let piece = block.slice(from - number * BLOCK..);
        let last = total == Some(from + piece.len());
        Some((piece, last))
    }

    /// One block, held against its code.
    async fn read_block(&self, store: &Arc<Store>, number: usize, length: usize, growing: Option<Arc<File>>) -> Option<Bytes> {
        let long = &self.long;
        let (offset, whole) = (number as u64 * STEP, length + CODE);
        let known = {
            let mut file = self.file.lock();
            if file.is_none() {
                // What somebody else has open need not be opened.
                *file = growing.or_else(|| long.opened());
            }
            file.clone()
        };
        let bytes = match known.as_ref().and_then(|file| read_now(file, offset, whole)) {
            Some(bytes) => bytes,
            None => match self.wait_for(store, known, offset, whole).await {
                Told::Read(file, bytes) => {
                    *self.file.lock() = Some(file);
                    bytes
                }
                Told::None => {
                    self.is_none(store);
                    return None;
                }
                Told::Later => return None,
            },
        };
        long.disk.figures.read.add(whole as u64);
        let (block, known) = bytes.split_at_checked(length)?;
        if long.code(store, number as u64, block) != *known {
            if !long.is_cut() {
                long.disk.figures.damaged.add(1);
            }
            self.is_none(store);
            return None;
        }
        let mut bytes = Bytes::from(bytes);
        bytes.truncate(length);
        Some(bytes)
    }

    /// It cannot be read: it is a miss from now on.
    fn is_none(&self, store: &Arc<Store>) {
        self.long.fail();
        self.long.disk.kill(store, Place { segment: self.long.number, offset: Place::LONG, length: 0 });
    }

    /// What a thread reads; but not for ever.
    async fn wait_for(&self, store: &Arc<Store>, file: Option<Arc<File>>, offset: u64, length: usize) -> Told {
        let disk = self.long.disk;
        let waiting = async {
            loop {
                let (tell, told) = oneshot::channel();
                let read = LongRead { store: store.clone(), long: self.long.clone(), file: file.clone(), offset, length, tell };
                if disk.long_reads.push(read, 1) {
                    return told.await.unwrap_or(Told::Later);
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            disk.figures.late.add(1);
            Told::Later
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.long.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.long.removed.lock().take();
        }
    }
}

/// Whether an error is of this moment, and says nothing of what was to be read: the process, or the machine, has run out of something.
pub(super) fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::INTR, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|error| passing.contains(&error))
}

/// What the system has in memory.
fn read_now(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let read = rustix::io::preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT);
    (read == Ok(length)).then_some(bytes)
}
