//! The folder: nobody else's, and of one process at a time.
//!
//! Files are opened by their names within the folder that was opened once, never through a symbolic link, and are this user's alone.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};

/// Whoever has this file locked has the folder.
const LOCK: &str = "lock";
/// What the codes of all records are made with.
const SECRET: &str = "key";
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// See the module.
pub(super) struct Folder {
    folder: OwnedFd,
    lock: File,
}

impl Folder {
    /// `None` if another process has it. It is made if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is not absolute"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let facts = folder.metadata()?;
        if facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may look into it: it needs mode 0700"));
        }
        let folder = OwnedFd::from(folder);
        let lock = open_in(&folder, LOCK, OFlags::RDWR | OFlags::CREATE)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Folder { folder, lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets another process have it, although some of its files may still be read here.
    pub(super) fn unlock(&self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }

    /// Whether it is what stands at its path. If that cannot be told, it is.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let Ok(own) = rustix::fs::fstat(&self.folder) else { return true };
        match rustix::fs::lstat(path) {
            Ok(found) => (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino),
            Err(error) => !matches!(error, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR),
        }
    }

    /// A new file.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        open_in(&self.folder, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// A file that is there, to be read and written.
    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        open_in(&self.folder, name, OFlags::RDWR)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Puts these bytes into the place of a file, all or none of them.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        self.remove(&new)?;
        let mut file = self.create(&new)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        self.rename(&new, name)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, from, &self.folder, to)?;
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// The key of this folder, and whether it was made just now.
    pub(super) fn key(&self) -> io::Result<([u8; 32], bool)> {
        let mut key = [0; 32];
        match self.open_file(SECRET) {
            Ok(mut file) if file.metadata()?.len() == 32 => {
                file.read_exact(&mut key)?;
                return Ok((key, false));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
        self.replace(SECRET, &key)?;
        Ok((key, true))
    }
}

fn open_in(folder: &OwnedFd, name: &str, how: OFlags) -> io::Result<File> {
    // What is no file does not block either.
    let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(folder, name, flags, PRIVATE)?);
    let facts = file.metadata()?;
    if !facts.is_file() || facts.uid() != rustix::process::geteuid().as_raw() || facts.nlink() > 1 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("`{name}` is no file of its own")));
    }
    Ok(file)
}
