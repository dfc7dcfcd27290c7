//! The folder while this process has it: segments that records are appended to, and read from.
//!
//! A segment is written from its beginning to its end, and never changed. When there is no more room the oldest one goes as a whole; what of
//! it was asked for since it was written is written once more. A process goes on in a segment of its own, behind whatever the last one had
//! written.
//!
//! Files are read and written through the system's page cache, on purpose: what is asked for often is read without the disk, by every core,
//! in one copy that the system gives back when memory is wanted for something else. With `O_DIRECT` each hit would be a read of the device,
//! and buffers would have to be aligned. What is written is not waited for (no `fsync`): after a power cut the codes tell what came to be
//! on disk whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::ReadWriteFlags;

use super::Disk;
use super::folder::Folder;
use super::index::{Index, Slot};
use super::long::{self, Long};
use super::record::{self, FIXED, Fixed, Kind, Place, Unfit};
use crate::cache::entry::{Entry, Index as Key};
use crate::cache::key;
use crate::cache::moment::Moment;

/// What is written once more of a segment that goes, at most.
const MOST_KEPT: usize = 8 << 20;
/// How much is read at once when a segment is looked through.
const WINDOW: usize = 256 << 10;

/// Of the bound in bytes, for each answer: where they are shorter than this, the index's memory is what bounds them.
const ROOM: u64 = 4096;
/// Of what processes before have left; each is an open file.
const MOST_SEGMENTS: usize = 600;

/// See the module.
pub(super) struct Store {
    pub(super) folder: Folder,
    pub(super) secret: [u8; 32],
    pub(super) index: Index,
    /// What the disk's clock is ahead of this process's by.
    shift: i128,
    pub(super) segment_size: u32,
    /// For all segments.
    budget: u64,
    segments: Mutex<Segments>,
    /// How many notes were written.
    pub(super) notes: AtomicU64,
    /// It is not known yet all that there is.
    pub(super) searching: AtomicBool,
    /// Nothing in it can be believed.
    pub(super) is_lost: AtomicBool,
    /// It may be another process's by now.
    pub(super) is_given: AtomicBool,
    /// The first segment that is not from before.
    first: u32,
    /// Whoever holds it is a disk that hangs.
    #[cfg(test)]
    pub(super) hangs: Mutex<()>,
}

#[derive(Default)]
struct Segments {
    files: BTreeMap<u32, Arc<Segment>>,
    /// Long bodies, each in a file of its own.
    long: BTreeMap<u32, Held>,
    bytes: u64,
    next: u32,
}

/// A long body.
struct Held {
    /// Of its file.
    bytes: u64,
    /// `None` until it was looked at.
    known: Option<(Slot, Place, Arc<Long>)>,
}

/// What is to go next.
enum Oldest {
    Segment(Arc<Segment>),
    Long(u32),
}

impl Segments {
    /// But for so many of the last segments.
    fn oldest(&self, but: usize) -> Option<Oldest> {
        let segment = self.files.values().next().filter(|_| self.files.len() > but);
        let long = self.long.keys().next().copied();
        match (segment, long) {
            (Some(segment), Some(long)) if long > segment.number => Some(Oldest::Segment(segment.clone())),
            (_, Some(long)) => Some(Oldest::Long(long)),
            (Some(segment), None) => Some(Oldest::Segment(segment.clone())),
            (None, None) => None,
        }
    }
}

struct Segment {
    number: u32,
    file: File,
    length: AtomicU64,
}

/// Where the next record goes.
#[derive(Default)]
pub(super) struct End(Option<Arc<Segment>>);

/// What came of writing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) evicted: u64,
}

fn name(segment: u32) -> String {
    format!("{segment:08x}.seg")
}

fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().filter(|number| *number > 0)
}

/// How long a segment of a store of this size is.
pub(super) fn segment_size(max_size: u64) -> u32 {
    // Of a large one there are some hundreds: each is an open file.
    let size = (max_size / 32).clamp(1 << 20, 64 << 20).max((max_size / 512).min(2 << 30));
    u32::try_from(size).unwrap_or(1 << 20)
}

/// Removes everything of ours but the key and the lock.
pub(super) fn wipe(folder: &Folder) -> io::Result<()> {
    // First what makes the rest count.
    folder.remove(super::state::NAME)?;
    folder.remove(super::journal::NAME)?;
    for name in folder.names()? {
        if number(&name).is_some() || long::number(&name).is_some() || name.ends_with(".new") {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

impl Store {
    pub(super) fn open(
        folder: Folder,
        secret: [u8; 32],
        shift: i128,
        budget: u64,
        segment_size: u32,
        notes: u64,
    ) -> io::Result<Self> {
        let names = folder.names()?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        let long: Vec<u32> = names.iter().filter_map(|name| long::number(name)).collect();
        let begun = names.iter().filter_map(|name| long::unfinished(name)).max();
        let first = numbers.last().max(long.iter().max()).max(begun.as_ref()).map_or(1, |last| last.saturating_add(1));
        let mut segments = Segments { next: first, ..Segments::default() };
        names.iter().filter(|name| long::unfinished(name).is_some()).try_for_each(|name| folder.remove(name))?;
        for number in long {
            let bytes = folder.open_file(&long::name(number))?.metadata()?.len();
            segments.bytes += bytes;
            segments.long.insert(number, Held { bytes, known: None });
        }
        let spare = numbers.len().saturating_sub(MOST_SEGMENTS);
        for (at, number) in numbers.into_iter().enumerate() {
            let file = folder.open_file(&name(number))?;
            let length = file.metadata()?.len();
            if at < spare || length == 0 {
                folder.remove(&name(number))?;
                continue;
            }
            segments.bytes += length;
            segments.files.insert(number, Arc::new(Segment { number, file, length: AtomicU64::new(length) }));
        }
        Ok(Store {
            folder,
            secret,
            index: Index::new(),
            shift,
            segment_size,
            budget,
            segments: Mutex::new(segments),
            notes: AtomicU64::new(notes),
            searching: AtomicBool::new(true),
            is_lost: AtomicBool::new(false),
            is_given: AtomicBool::new(false),
            first,
            #[cfg(test)]
            hangs: Mutex::default(),
        })
    }

    /// A moment of this process by the disk's clock.
    pub(super) fn to_disk(&self, moment: u64) -> u64 {
        u64::try_from((i128::from(moment) + self.shift).max(0)).unwrap_or(u64::MAX)
    }

    pub(super) fn to_own(&self, moment: u64) -> u64 {
        u64::try_from((i128::from(moment) - self.shift).max(1)).unwrap_or(u64::MAX)
    }

    pub(super) fn is_searching(&self) -> bool {
        self.searching.load(Ordering::Acquire)
    }

    /// On disk, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.lock().bytes
    }

    /// Where a disk may hang.
    pub(super) fn touch(&self) {
        #[cfg(test)]
        drop(self.hangs.lock());
    }

    /// Taken by requests: nobody who has the lock waits for the disk.
    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.lock().files.get(&number).cloned()
    }

    /// A record's bytes. `None` if they are not there any more, or, with `at_once`, if that would take more than a copy.
    pub(super) fn read(&self, place: Place, at_once: bool) -> io::Result<Option<Vec<u8>>> {
        if place.is_long() {
            return if at_once { Ok(None) } else { self.read_long(place.segment) };
        }
        let Some(segment) = self.segment(place.segment) else { return Ok(None) };
        let mut bytes = vec![0; place.length as usize];
        if !at_once {
            self.touch();
            segment.file.read_exact_at(&mut bytes, u64::from(place.offset))?;
            return Ok(Some(bytes));
        }
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match rustix::io::preadv2(&segment.file, &mut parts, u64::from(place.offset), ReadWriteFlags::NOWAIT) {
            Ok(read) if read == place.length as usize => Ok(Some(bytes)),
            // Some of it is not in memory; or nobody can tell.
            _ => Ok(None),
        }
    }

    /// The answer that these bytes are.
    pub(super) fn decode(&self, place: Place, bytes: &[u8]) -> Result<(Entry, Kind), Unfit> {
        let (mut entry, kind) =
            Fixed::read(bytes).ok_or(Unfit::Damaged)?.entry(&self.secret, place, bytes, |moment| self.to_own(moment))?;
        if place.is_long() {
            let segments = self.segments.lock();
            let known = segments.long.get(&place.segment).and_then(|held| held.known.as_ref());
            let (.., long) = known.filter(|(_, known, _)| *known == place).ok_or(Unfit::Later)?;
            entry.long = Some(long.clone());
        }
        Ok((entry, kind))
    }

    /// The record of a long body. `None` if it is not there any more.
    fn read_long(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        self.touch();
        match self.folder.open_file(&long::name(number)) {
            Ok(file) => Ok(long::read_head(&file)?.map(|(head, _)| head)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record of a long body that is whole.
    pub(super) fn encode_long(&self, number: u32, kind: Kind, entry: &Entry, body: usize) -> Vec<u8> {
        let notes = self.notes.load(Ordering::Acquire);
        record::encode_long(&self.secret, number, kind, entry, (self.to_disk(entry.meta.asked), notes), body as u64)
    }

    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// For a new file.
    pub(super) fn next_number(&self) -> Option<u32> {
        let mut segments = self.segments.lock();
        let number = segments.next;
        segments.next = number.checked_add(1)?;
        Some(number)
    }

    pub(super) fn is_ours(&self) -> io::Result<()> {
        match self.is_given.load(Ordering::Acquire) {
            true => Err(io::Error::other("it is another process's")),
            false => Ok(()),
        }
    }

    /// Room for so many bytes more of long bodies; what is older goes for it. How many answers went.
    pub(super) fn claim(&self, bytes: u64) -> io::Result<u64> {
        self.is_ours()?;
        let mut evicted = 0;
        loop {
            let oldest = {
                let mut segments = self.segments.lock();
                if segments.bytes + bytes <= self.budget {
                    segments.bytes += bytes;
                    return Ok(evicted);
                }
                // The last segment may be written to.
                segments.oldest(1)
            };
            match oldest {
                Some(Oldest::Segment(segment)) => {
                    self.drop_segment(&segment)?;
                    evicted += self.sweep();
                }
                Some(Oldest::Long(number)) => evicted += self.drop_long(number)?,
                None => return Err(io::Error::new(io::ErrorKind::StorageFull, "there is no room for it")),
            }
        }
    }

    /// A file that nobody wants.
    pub(super) fn release(&self, name: &str, claimed: u64) -> io::Result<()> {
        self.give_back(claimed);
        // Another process may have a file of that name.
        self.is_ours()?;
        self.folder.remove(name)
    }

    pub(super) fn give_back(&self, claimed: u64) {
        let mut segments = self.segments.lock();
        segments.bytes -= claimed.min(segments.bytes);
    }

    /// A long body is there, or has another record.
    pub(super) fn hold_long(&self, slot: Slot, place: Place, bytes: u64, long: Arc<Long>) {
        let mut segments = self.segments.lock();
        let held = segments.long.entry(place.segment).or_insert(Held { bytes: 0, known: None });
        held.bytes += bytes;
        held.known = Some((slot, place, long));
    }

    /// Lets a long body go. How many answers went with it.
    pub(super) fn drop_long(&self, number: u32) -> io::Result<u64> {
        self.is_ours()?;
        let held = {
            let mut segments = self.segments.lock();
            let Some(held) = segments.long.remove(&number) else { return Ok(0) };
            segments.bytes -= held.bytes.min(segments.bytes);
            held
        };
        let (mut evicted, mut left) = (0, Ok(()));
        if let Some((slot, place, long)) = held.known {
            left = long.leave(self, held.bytes);
            evicted = u64::from(self.index.forget_place(slot, place));
        }
        self.touch();
        self.folder.remove(&long::name(number))?;
        left.map(|()| evicted)
    }

    /// Appends an answer.
    pub(super) fn append(&self, end: &mut End, kind: Kind, entry: &Entry, written: &mut Written) -> io::Result<Place> {
        let asked = self.to_disk(entry.meta.asked);
        let notes = self.notes.load(Ordering::Acquire);
        let mut at = self.end(end, FIXED, written)?;
        let mut record = record::encode(&self.secret, at, kind, entry, asked, notes);
        if record.len() > self.segment_size as usize {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than a segment"));
        }
        if at.1 as usize + record.len() > self.segment_size as usize {
            at = self.end(end, record.len(), written)?;
            record = record::moved(&self.secret, record, at).ok_or_else(|| io::Error::other("it is no record"))?;
        }
        let place = self.put(end, at, &record)?;
        written.bytes += record.len() as u64;
        Ok(place)
    }

    /// The number of the last segment and where it ends, with room for so many bytes more.
    fn end(&self, end: &mut End, room: usize, written: &mut Written) -> io::Result<(u32, u32)> {
        let has_room =
            |segment: &Arc<Segment>| segment.length.load(Ordering::Relaxed) + room as u64 <= u64::from(self.segment_size);
        if !end.0.as_ref().is_some_and(has_room) || self.is_crowded() {
            end.0 = None;
            let begun = self.go_on(end, room, written);
            // Whatever of those that have gone could not be written once more.
            written.evicted += self.sweep();
            begun?;
        }
        let segment = end.0.as_ref().ok_or_else(|| io::Error::other("there is no segment"))?;
        Ok((segment.number, segment.length.load(Ordering::Relaxed) as u32))
    }

    /// Goes on in a new segment.
    fn go_on(&self, end: &mut End, room: usize, written: &mut Written) -> io::Result<()> {
        let kept = self.make_room(u64::from(self.segment_size), written)?;
        let segment = self.begin()?;
        end.0 = Some(segment.clone());
        for (slot, from, record) in kept {
            let at = (segment.number, segment.length.load(Ordering::Relaxed) as u32);
            let Some(record) = record::moved(&self.secret, record, at) else { continue };
            if at.1 as usize + record.len() + room > self.segment_size as usize {
                continue;
            }
            let to = self.put(end, at, &record)?;
            if !self.index.moved(slot, from, to) {
                // It was forgotten meanwhile.
                self.kill(to)?;
            }
            written.bytes += record.len() as u64;
        }
        Ok(())
    }

    /// Whether the index has more entries than it may have.
    fn is_crowded(&self) -> bool {
        self.index.len() as u64 > self.budget / ROOM
    }

    /// Forgets what stood in segments that are not there any more, of which the oldest always goes first. How many that were.
    fn sweep(&self) -> u64 {
        let first = {
            let segments = self.segments.lock();
            segments.files.keys().next().copied().unwrap_or(segments.next)
        };
        self.index.forget_before(first)
    }

    fn put(&self, end: &End, at: (u32, u32), record: &[u8]) -> io::Result<Place> {
        let segment = end.0.as_ref().ok_or_else(|| io::Error::other("there is no segment"))?;
        self.touch();
        segment.file.write_all_at(record, u64::from(at.1))?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        segment.length.store(u64::from(at.1) + u64::from(length), Ordering::Release);
        self.segments.lock().bytes += u64::from(length);
        Ok(Place { segment: at.0, offset: at.1, length })
    }

    fn begin(&self) -> io::Result<Arc<Segment>> {
        self.is_ours()?;
        let number = self.next_number().ok_or_else(|| io::Error::other("there are no more numbers"))?;
        self.touch();
        // A thread may have been behind when the store before this one was given up.
        self.folder.remove(&name(number))?;
        let file = self.folder.create(&name(number))?;
        let segment = Arc::new(Segment { number, file, length: AtomicU64::new(0) });
        let mut segments = self.segments.lock();
        segments.files.insert(number, segment.clone());
        Ok(segment)
    }

    /// Lets the oldest segments go until there is room for so many bytes more. What of them is to be kept.
    fn make_room(&self, room: u64, written: &mut Written) -> io::Result<Vec<(Slot, Place, Vec<u8>)>> {
        let (mut kept, mut bytes) = (Vec::new(), 0);
        let most = MOST_KEPT.min(self.segment_size as usize / 2);
        while self.bytes() + room > self.budget || self.is_crowded() {
            let Some(oldest) = self.segments.lock().oldest(0) else { break };
            let oldest = match oldest {
                Oldest::Segment(oldest) => oldest,
                Oldest::Long(number) => {
                    written.evicted += self.drop_long(number)?;
                    continue;
                }
            };
            self.look_through(&oldest, |slot, fixed| {
                match self.index.was_hit(slot, fixed.place) {
                    Some(true) if bytes + fixed.place.length as usize <= most => {
                        if let Ok(Some(record)) = self.read(fixed.place, false) {
                            bytes += record.len();
                            kept.push((slot, fixed.place, record));
                            return;
                        }
                    }
                    None => return,
                    Some(_) => {}
                }
                if self.index.forget_place(slot, fixed.place) {
                    written.evicted += 1;
                }
            });
            self.drop_segment(&oldest)?;
        }
        Ok(kept)
    }

    fn drop_segment(&self, segment: &Segment) -> io::Result<()> {
        self.is_ours()?;
        self.touch();
        self.folder.remove(&name(segment.number))?;
        let mut segments = self.segments.lock();
        if segments.files.remove(&segment.number).is_some() {
            segments.bytes -= segment.length.load(Ordering::Acquire).min(segments.bytes);
        }
        Ok(())
    }

    /// Lets the oldest segments go until all that is there is within the bound.
    pub(super) fn shrink(&self) -> io::Result<u64> {
        let mut written = Written::default();
        let done = self.make_room(0, &mut written);
        written.evicted += self.sweep();
        done.map(|_| written.evicted)
    }

    /// Lets the oldest segment go, for want of room on the device. How many answers went with it.
    pub(super) fn yield_room(&self) -> io::Result<u64> {
        // The last one may be written to.
        let oldest = self.segments.lock().oldest(1);
        match oldest {
            Some(Oldest::Segment(oldest)) => self.drop_segment(&oldest).map(|()| self.sweep()),
            Some(Oldest::Long(number)) => self.drop_long(number),
            None => Ok(0),
        }
    }

    /// All records of a segment up to the first that is none.
    fn look_through(&self, segment: &Segment, mut found: impl FnMut(Slot, &Fixed)) {
        let length = segment.length.load(Ordering::Acquire);
        let mut window = Window { file: &segment.file, length, bytes: Vec::new(), from: 0 };
        let mut at = 0;
        while at < length {
            let Some(fixed) = window.at(at, FIXED).and_then(Fixed::read) else { return };
            let Ok(offset) = u32::try_from(at) else { return };
            let end = at + u64::from(fixed.place.length);
            let Some(head) = window.at(at, fixed.head()).filter(|_| end <= length) else { return };
            let Some((primary, kind)) = fixed.key(&self.secret, (segment.number, offset), head) else { return };
            found(Slot::of(&Key { primary: key::hash(primary), variance: kind.variance }), &fixed);
            at = end;
        }
    }

    /// That record does not count any more, now or after the next start.
    pub(super) fn kill(&self, place: Place) -> io::Result<()> {
        if place.is_long() {
            return self.drop_long(place.segment).map(drop);
        }
        match self.segment(place.segment) {
            Some(segment) => segment.file.write_all_at(&record::DEAD, u64::from(place.offset)),
            None => Ok(()),
        }
    }

    /// Looks through all that was there before, the newest first.
    pub(super) fn search(self: &Arc<Self>, disk: &'static Disk) {
        self.search_long(disk);
        // What this process has written meanwhile is known.
        let before: Vec<Arc<Segment>> =
            self.segments.lock().files.range(..self.first).rev().map(|(_, segment)| segment.clone()).collect();
        let began = self.to_disk(Moment::FIRST);
        for segment in before {
            let end = Some(segment.number).filter(|number| self.segment(*number).is_some());
            if end.is_none() || self.is_lost.load(Ordering::Relaxed) {
                continue;
            }
            self.look_through(&segment, |slot, fixed| {
                if fixed.notes > self.notes.load(Ordering::Acquire) {
                    // Notes are missing that it was written after.
                    self.is_lost.store(true, Ordering::Relaxed);
                }
                // One that was asked for since is of a process that did not know that it has not got the folder any more.
                let is_none = fixed.is_dead || fixed.asked >= began;
                if !is_none {
                    self.found(slot, fixed.place);
                }
            });
            if self.segment(segment.number).is_none() {
                // It went meanwhile.
                self.sweep();
            }
        }
        // What could not be looked at is of no use.
        let unknown: Vec<u32> = {
            let segments = self.segments.lock();
            segments.long.iter().filter(|(_, held)| held.known.is_none()).map(|(number, _)| *number).collect()
        };
        for number in unknown {
            let _ = self.drop_long(number);
        }
        self.index.is_complete();
        self.searching.store(false, Ordering::Release);
    }
}

impl Store {
    fn found(&self, slot: Slot, place: Place) {
        for place in self.index.found(slot, place) {
            // If it cannot be, it is overtaken at the next start as well.
            let _ = self.kill(place);
        }
    }

    /// All long bodies that were there before.
    fn search_long(self: &Arc<Self>, disk: &'static Disk) {
        let before: Vec<u32> = self.segments.lock().long.range(..self.first).rev().map(|(number, _)| *number).collect();
        let began = self.to_disk(Moment::FIRST);
        for number in before {
            let Ok(Some(head)) = self.read_long(number) else { continue };
            let Some(fixed) = Fixed::read(&head).filter(|fixed| fixed.place.is_long()) else { continue };
            let Some((primary, kind)) = fixed.key(&self.secret, (number, Place::LONG), &head) else { continue };
            if fixed.notes > self.notes.load(Ordering::Acquire) {
                self.is_lost.store(true, Ordering::Relaxed);
            }
            let Some(body) = fixed.long_body().filter(|_| fixed.asked < began) else { continue };
            let slot = Slot::of(&Key { primary: key::hash(primary), variance: kind.variance });
            self.hold_long(slot, fixed.place, 0, Arc::new(Long::found(disk, self, number, body)));
            self.found(slot, fixed.place);
        }
    }
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a File,
    length: u64,
    bytes: Vec<u8>,
    from: u64,
}

impl Window<'_> {
    fn at(&mut self, at: u64, count: usize) -> Option<&[u8]> {
        let end = at.checked_add(count as u64).filter(|end| *end <= self.length)?;
        if at < self.from || end > self.from + self.bytes.len() as u64 {
            let size = usize::try_from((self.length - at).min(WINDOW.max(count) as u64)).ok()?;
            self.bytes.resize(size, 0);
            self.from = at;
            if self.file.read_exact_at(&mut self.bytes, at).is_err() {
                self.bytes.clear();
                return None;
            }
        }
        let start = usize::try_from(at - self.from).ok()?;
        self.bytes.get(start..start + count)
    }
}
