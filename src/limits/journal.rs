//! Where quotas survive a restart: a file of lines, each of which says how much more was used.
//!
//! ```text
//! {"quota":"route:/api/*/consumer-month","key":"acme","from":1793491200,"until":1796083200,"n":12}
//! ```
//!
//! Sums do not care who wrote first, so several processes may append to one file, as the two of an upgrade do for a while: each
//! takes the file's lock for the moment, reads what others appended since it last looked, and appends its own. A line that was
//! torn by a crash is no JSON and is passed over; at most what was counted since the last write is lost. A file that has grown
//! long is replaced by one with a line per client; who then holds the old one sees that the name stands for another file, and
//! reads that from its beginning.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// A file of this many bytes is replaced, once what is left would be half of it.
pub const LONG: u64 = 1 << 20;
/// A line that is longer was not written here.
const LONGEST_LINE: u64 = 64 << 10;

/// How much more was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub quota: String,
    pub key: String,
    /// The period's start and end, in seconds since 1970.
    pub from: i64,
    pub until: i64,
    /// Negative where something was given back.
    pub n: i64,
}

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Up to where it was read.
    read: u64,
    /// How long it was when it was new.
    base: u64,
    /// Nothing of this file was read yet.
    new: bool,
}

impl Journal {
    /// Opens the file, or makes it, readable by its owner only.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(Journal { path: path.to_owned(), file: open(path)?, read: 0, base: 0, new: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file for oneself.
    ///
    /// # Errors
    /// The system's.
    pub fn hold(&mut self) -> io::Result<Held<'_>> {
        loop {
            flock(&self.file, FlockOperation::LockExclusive)?;
            let here = self.file.metadata()?;
            match std::fs::metadata(&self.path) {
                Ok(named) if named.ino() == here.ino() && named.dev() == here.dev() => return Ok(Held(self)),
                _ => *self = Journal::open(&self.path)?,
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// The journal, while nobody else has it.
pub struct Held<'a>(&'a mut Journal);

impl Held<'_> {
    /// Nothing of this file was read yet: what is known of the one before must be forgotten.
    pub fn is_new(&self) -> bool {
        self.0.new
    }

    /// Reads what was appended since the last time.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, mut take: impl FnMut(Entry)) -> io::Result<()> {
        let journal = &mut *self.0;
        journal.file.seek(SeekFrom::Start(journal.read))?;
        let mut reader = BufReader::new(&journal.file);
        let (mut line, mut at) = (Vec::new(), journal.read);
        loop {
            line.clear();
            let got = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            // What has no end yet is being written by nobody: we hold the lock. The next append ends it.
            if got == 0 || line.last() != Some(&b'\n') && got < LONGEST_LINE as usize {
                break;
            }
            at += got as u64;
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line) {
                take(entry);
            }
        }
        journal.read = at;
        journal.base = if journal.new { at } else { journal.base };
        journal.new = false;
        Ok(())
    }

    /// Appends all entries, or none.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let journal = &mut *self.0;
        let length = journal.file.metadata()?.len();
        // Ends what a crash has torn.
        let mut text = if length > journal.read { vec![b'\n'] } else { Vec::new() };
        lines(entries, &mut text)?;
        if let Err(error) = journal.file.write_all(&text).and_then(|()| journal.file.sync_data()) {
            // As if it had not been tried; the next one tries all of it again.
            let _ = journal.file.set_len(length);
            return Err(error);
        }
        journal.read = length + text.len() as u64;
        Ok(())
    }

    /// Whether it pays to replace the file.
    pub fn is_long(&self) -> bool {
        self.0.read > LONG.max(self.0.base.saturating_mul(2))
    }

    /// Replaces the file by one with these entries.
    ///
    /// # Errors
    /// The system's; the file is then as it was.
    pub fn replace(&mut self, entries: &[Entry]) -> io::Result<()> {
        let journal = &mut *self.0;
        let beside = journal.path.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        let mut file = open(&beside)?;
        // Before it has the name: nobody may come first.
        flock(&file, FlockOperation::LockExclusive)?;
        let mut text = Vec::new();
        lines(entries, &mut text)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&beside, &journal.path)?;
        if let Some(folder) = journal.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        journal.read = text.len() as u64;
        journal.base = journal.read;
        journal.file = file;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Closing the file would do the same.
        let _ = flock(&self.0.file, FlockOperation::Unlock);
    }
}

fn lines(entries: &[Entry], into: &mut Vec<u8>) -> io::Result<()> {
    for entry in entries {
        serde_json::to_writer(&mut *into, entry)?;
        into.push(b'\n');
    }
    Ok(())
}
