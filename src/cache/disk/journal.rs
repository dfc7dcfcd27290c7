//! Notes of what does not count any more: what was purged, and what requests have changed.
//!
//! An answer on disk is held against them for as long as it is there, whatever became of the process: so they are written before whoever
//! ordered them hears that it is done. A note that is damaged, or one that is missing, may be about any answer, and then nothing on disk
//! counts. The file is bounded: of what is about the same the last counts, and where that is not enough the older half goes, and with it
//! whatever was asked for before.

use std::collections::hash_map::{Entry, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::bytes::{CODE, In, Out, code};
use super::folder::Folder;
use crate::cache::Purge;

pub(super) const NAME: &str = "notes";
/// Before what it says: how long that is, when it was, and the how manieth note it is.
const FIXED: usize = 20;
/// What would be longer says that all was forgotten.
const LONGEST: usize = 1 << 20;

/// What a note says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// A request has changed what is stored of this target.
    Changed(Box<[u8]>),
    Purged {
        purge: Purge,
        soft: bool,
    },
    /// All that was asked for before.
    Forgotten,
    /// How far the other gateways' purges were heard, in this stream.
    Heard {
        stream: Box<str>,
        until: Box<str>,
    },
}

/// When, by the disk's clock, and what.
pub(super) type Note = (u64, Said);

impl Said {
    /// In bytes of memory, beside itself.
    pub(super) fn weight(&self) -> usize {
        match self {
            Said::Changed(target) => target.len(),
            Said::Purged { purge, .. } => purge.weight(),
            Said::Forgotten => 0,
            Said::Heard { stream, until } => stream.len() + until.len(),
        }
    }

    fn write(&self, out: &mut Out) {
        match self {
            Said::Changed(target) => {
                out.0.push(1);
                out.text(target);
            }
            Said::Purged { purge, soft } => {
                out.0.push(2);
                out.0.push(u8::from(*soft));
                out.text(&serde_json::to_vec(purge).unwrap_or_default());
            }
            Said::Forgotten => out.0.push(3),
            Said::Heard { stream, until } => {
                out.0.push(4);
                out.text(stream.as_bytes());
                out.text(until.as_bytes());
            }
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = In(bytes);
        let [kind] = from.array()?;
        let text = |from: &mut In<'_>| Some(Box::<str>::from(std::str::from_utf8(from.text()?).ok()?));
        Some(match kind {
            1 => Said::Changed(from.text()?.into()),
            2 => {
                let [soft] = from.array()?;
                Said::Purged { soft: soft == 1, purge: serde_json::from_slice(from.text()?).ok()? }
            }
            3 => Said::Forgotten,
            4 => Said::Heard { stream: text(&mut from)?, until: text(&mut from)? },
            _ => return None,
        })
    }
}

/// See the module.
pub(super) struct Journal {
    file: Arc<File>,
    length: u64,
    /// How many notes there are.
    pub(super) count: u64,
    secret: [u8; 32],
}

impl Journal {
    /// The one that is there, and all that it says. `None` if it is damaged.
    pub(super) fn open(folder: &Folder, secret: [u8; 32]) -> io::Result<Option<(Self, Vec<Note>)>> {
        let file = match folder.open_file(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let Some((notes, count, length)) = read(&secret, &bytes) else { return Ok(None) };
        // What was not written to its end was not told to anybody.
        file.set_len(length)?;
        Ok(Some((Journal { file: Arc::new(file), length, count, secret }, notes)))
    }

    pub(super) fn new(folder: &Folder, secret: [u8; 32]) -> io::Result<Self> {
        folder.remove(NAME)?;
        Ok(Journal { file: Arc::new(folder.create(NAME)?), length: 0, count: 0, secret })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn append<'a>(&mut self, notes: impl IntoIterator<Item = &'a Note>) -> io::Result<()> {
        let (bytes, count) = self.encode(notes, self.count);
        self.file.write_all_at(&bytes, self.length)?;
        self.length += bytes.len() as u64;
        self.count = count;
        Ok(())
    }

    fn encode<'a>(&self, notes: impl IntoIterator<Item = &'a Note>, mut count: u64) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        for (at, said) in notes {
            let mut payload = Out::default();
            said.write(&mut payload);
            if payload.0.len() > LONGEST {
                // It would be read as damage.
                payload.0.clear();
                Said::Forgotten.write(&mut payload);
            }
            count += 1;
            let mut fixed = Out::default();
            fixed.u32(u32::try_from(payload.0.len()).unwrap_or(u32::MAX));
            fixed.u64(*at);
            fixed.u64(count);
            let code = code(&self.secret, &[&fixed.0, &payload.0]);
            for part in [&fixed.0[..], &payload.0, &code] {
                bytes.extend_from_slice(part);
            }
        }
        (bytes, count)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether somebody has removed it: nobody will find what is written to it.
    pub(super) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|facts| facts.nlink() == 0)
    }

    /// What is written so far, for whoever waits until it is on the device.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Writes it anew, without what later notes make needless, in at most half of so many bytes. Whether that was too little for all that
    /// matters.
    pub(super) fn compact(&mut self, folder: &Folder, most: u64) -> io::Result<bool> {
        let mut bytes = vec![0; usize::try_from(self.length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        let Some((notes, ..)) = read(&self.secret, &bytes) else { return Err(io::Error::other("the notes are damaged")) };
        let (mut notes, is_less) = shorter(notes, usize::try_from(most / 2).unwrap_or(usize::MAX));
        if notes.is_empty() {
            // The last number has to stand somewhere; nothing was asked for before this.
            notes.push((0, Said::Forgotten));
        }
        // Numbers go on, so that what was written before knows of no more notes than there are.
        let first = self.count.saturating_sub(notes.len() as u64);
        let (bytes, count) = self.encode(&notes, first);
        folder.replace(NAME, &bytes)?;
        self.file = Arc::new(folder.open_file(NAME)?);
        (self.length, self.count) = (bytes.len() as u64, count);
        Ok(is_less)
    }
}

/// All notes, the number of the last one, and where it ends. `None` if one of them is damaged.
fn read(secret: &[u8; 32], bytes: &[u8]) -> Option<(Vec<Note>, u64, u64)> {
    let (mut notes, mut last, mut at) = (Vec::new(), None::<u64>, 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let mut from = In(rest);
        let Some(fixed) = from.bytes(FIXED) else { break };
        let mut numbers = In(fixed);
        let (length, when, number) = (numbers.u32()? as usize, numbers.u64()?, numbers.u64()?);
        if length > LONGEST {
            return None;
        }
        let (Some(payload), Some(known)) = (from.bytes(length), from.bytes(CODE)) else { break };
        if code(secret, &[fixed, payload]) != known || last.is_some_and(|last| last + 1 != number) {
            return None;
        }
        notes.push((when, Said::read(payload)?));
        last = Some(number);
        at += FIXED + length + CODE;
    }
    Some((notes, last.unwrap_or(0), at as u64))
}

/// What is left of notes that has a meaning, and whether some of them had to go for want of room.
fn shorter(notes: Vec<Note>, most: usize) -> (Vec<Note>, bool) {
    let hashers = [RandomState::new(), RandomState::new()];
    let about = |said: &Said| {
        let mut out = Out::default();
        match said {
            // Of one stream the last word counts.
            Said::Heard { stream, .. } => out.text(stream.as_bytes()),
            said => said.write(&mut out),
        }
        hashers.each_ref().map(|hasher| hasher.hash_one(&out.0))
    };
    let mut seen: HashMap<[u64; 2], usize> = HashMap::new();
    let mut left: Vec<Note> = Vec::new();
    for (at, said) in notes.into_iter().rev() {
        match seen.entry(about(&said)) {
            Entry::Vacant(first) => {
                first.insert(left.len());
                left.push((at, said));
            }
            // They are written in the order in which they came here, which need not be that of their moments.
            Entry::Occupied(known) => {
                if let Some((last, _)) = left.get_mut(*known.get()) {
                    *last = at.max(*last);
                }
            }
        }
    }
    // The newest come first here.
    let length = |said: &Said| {
        let mut out = Out::default();
        said.write(&mut out);
        out.0.len() + FIXED + CODE
    };
    let (mut bytes, mut forgotten) = (0, None::<u64>);
    let mut kept = Vec::new();
    for (at, said) in left {
        bytes += length(&said);
        match said {
            Said::Heard { .. } => kept.push((at, said)),
            _ if bytes <= most => kept.push((at, said)),
            _ => forgotten = forgotten.max(Some(at)),
        }
    }
    kept.extend(forgotten.map(|at| (at, Said::Forgotten)));
    kept.reverse();
    (kept, forgotten.is_some())
}

/// The last word of each stream.
pub(super) fn heard(notes: &[Note]) -> HashMap<Box<str>, Box<str>> {
    let words = notes.iter().filter_map(|(_, said)| match said {
        Said::Heard { stream, until } => Some((stream.clone(), until.clone())),
        _ => None,
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn notes() -> Vec<Note> {
        let purged = |host: &str, soft| Said::Purged { purge: Purge::Host(host.to_owned()), soft };
        vec![
            (1, Said::Changed(b"/a".as_slice().into())),
            (2, purged("a", false)),
            (3, Said::Forgotten),
            (4, Said::Heard { stream: "s".into(), until: "1-0".into() }),
            (5, purged("a", true)),
            (6, Said::Changed(b"/a".as_slice().into())),
            (7, Said::Forgotten),
            (8, Said::Heard { stream: "s".into(), until: "2-0".into() }),
            (9, purged("a", false)),
        ]
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(&place.path().join("disk")).unwrap().unwrap();
        (place, folder)
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let (_place, folder) = folder();
        let mut journal = Journal::new(&folder, SECRET).unwrap();
        for note in &notes() {
            journal.append([note]).unwrap();
        }
        let (journal, read) = Journal::open(&folder, SECRET).unwrap().unwrap();
        assert_eq!((read, journal.count), (notes(), 9));
        assert!(Journal::open(&folder, [8; 32]).unwrap().is_none(), "another key");
    }

    #[test]
    fn what_is_too_long_to_be_read_is_written_as_more() {
        let (_place, folder) = folder();
        let mut journal = Journal::new(&folder, SECRET).unwrap();
        let long = Said::Changed(vec![b'x'; LONGEST + 1].into());
        journal.append(&[(5, long), (6, Said::Changed(b"/a".as_slice().into()))]).unwrap();
        let (_, read) = Journal::open(&folder, SECRET).unwrap().unwrap();
        assert_eq!(read, [(5, Said::Forgotten), (6, Said::Changed(b"/a".as_slice().into()))]);
    }

    #[test]
    fn damage_is_known_wherever_it_is_and_a_torn_end_is_none() {
        let (_place, folder) = folder();
        let mut journal = Journal::new(&folder, SECRET).unwrap();
        journal.append(&notes()).unwrap();
        let mut bytes = vec![0; journal.length() as usize];
        journal.file.read_exact_at(&mut bytes, 0).unwrap();
        let mut ends = 0;
        for end in 0..bytes.len() {
            let (read, count, length) = read(&SECRET, &bytes[..end]).expect("a torn end");
            assert!(length <= end as u64 && read == notes()[..count as usize]);
            ends += u64::from(length == end as u64);
        }
        assert_eq!(ends, 9);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            // Where it makes a note seem to be longer than the file, the count tells.
            assert!(read(&SECRET, &damaged).is_none_or(|(_, count, _)| count < 9), "{at}");
        }
    }

    #[test]
    fn of_what_was_noted_out_of_order_the_last_moment_stays() {
        let changed = |at| (at, Said::Changed(b"/a".as_slice().into()));
        for notes in [vec![changed(5), changed(9)], vec![changed(9), changed(5)], vec![changed(5), changed(9), changed(7)]] {
            assert_eq!(shorter(notes, 1000), (vec![changed(9)], false));
        }
    }

    #[test]
    fn what_is_shorter_says_the_same_or_more() {
        let (_place, folder) = folder();
        let mut journal = Journal::new(&folder, SECRET).unwrap();
        journal.append(&notes()).unwrap();
        assert!(!journal.compact(&folder, 1 << 20).unwrap());
        let (mut journal, read) = Journal::open(&folder, SECRET).unwrap().unwrap();
        assert_eq!(read, notes()[4..]);
        assert_eq!(journal.count, 9);
        journal.append(&[(10, Said::Forgotten)]).unwrap();
        assert_eq!(Journal::open(&folder, SECRET).unwrap().unwrap().0.count, 10);
        // Where there is no room, what they were about is forgotten.
        let many: Vec<Note> = (0..1000u64).map(|n| (20 + n, Said::Changed(n.to_le_bytes().as_slice().into()))).collect();
        journal.append(&many).unwrap();
        assert!(journal.compact(&folder, 4000).unwrap());
        assert!(journal.length() < 2500);
        let (_, read) = Journal::open(&folder, SECRET).unwrap().unwrap();
        let forgotten: Vec<u64> =
            read.iter().filter(|(_, said)| *said == Said::Forgotten).map(|(at, _)| *at).max().into_iter().collect();
        let first = read.iter().filter(|(_, said)| matches!(said, Said::Changed(_))).map(|(at, _)| *at).min().unwrap();
        assert_eq!(forgotten, [first - 1]);
        assert!(read.iter().any(|(_, said)| matches!(said, Said::Heard { until, .. } if **until == *"2-0")));
    }
}
