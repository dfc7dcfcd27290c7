//! The file that names the process. It belongs to the process that holds a lock on it: nobody else's is overwritten or removed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// How often it is looked at anew when others change it meanwhile.
const TRIES: usize = 100;

/// This process's own file, for as long as the value lives; then it is removed.
pub struct PidFile {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl PidFile {
    /// Whether the file could be had. Nothing is changed.
    ///
    /// # Errors
    /// `AlreadyExists` if it is a running process's, but for `before`, from which this one takes over.
    pub fn check(path: &Path, before: Option<u32>) -> io::Result<()> {
        match File::open(path) {
            Ok(file) => refuse_running(path, &file, before).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file whole: a reader sees the old or the new content, never a part.
    ///
    /// # Errors
    /// As for [`PidFile::check`], and whatever keeps the file from being written.
    pub fn claim(path: &Path, before: Option<u32>) -> io::Result<PidFile> {
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let claimed = Self::claim_with(path, &beside, before);
        let _ = std::fs::remove_file(&beside);
        claimed
    }

    fn claim_with(path: &Path, beside: &Path, before: Option<u32>) -> io::Result<PidFile> {
        let mut file = File::create(beside)?;
        writeln!(file, "{}", std::process::id())?;
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        for _ in 0..TRIES {
            match File::open(path) {
                // A link is made or not, whoever else tries at the same time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => match std::fs::hard_link(beside, path) {
                    Ok(()) => return Ok(PidFile { path: path.to_owned(), file }),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
                Ok(old) => {
                    // The lock on what was left over is kept until it is replaced, so that only one process replaces it.
                    let _lock = refuse_running(path, &old, before)?;
                    if is_at(&old, path) {
                        std::fs::rename(beside, path)?;
                        return Ok(PidFile { path: path.to_owned(), file });
                    }
                }
            }
        }
        Err(io::Error::other("the file changes all the time"))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let facts = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => facts(open) == facts(there),
        _ => false,
    }
}

/// A lock on a file that no running process holds.
fn refuse_running<'f>(path: &Path, file: &'f File, before: Option<u32>) -> io::Result<&'f File> {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    let named = text.trim().parse::<u32>().ok().filter(|pid| *pid > 0);
    if named.is_some() && (named == before || named == Some(std::process::id())) {
        return Ok(file);
    }
    let locked = is_locked(file, named);
    // Builds before this one took no lock. A number that another program has by now names nobody.
    let running = named.filter(|pid| locked || is_alike(*pid));
    if !locked && running.is_none() {
        return Ok(file);
    }
    let whose = running.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let message = format!("{} is the pid file of {whose}, which runs", path.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}

/// Whether a process holds the lock; this one does afterwards if none did. Others who only look hold it for a moment, and the process that
/// the file names is gone then.
fn is_locked(file: &File, named: Option<u32>) -> bool {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if named.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) => {
                return true;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(2)),
            // Where files cannot be locked, the process that it names still says whether it is left over.
            _ => return false,
        }
    }
    true
}

/// Whether that process runs this program.
fn is_alike(pid: u32) -> bool {
    let name = |pid: &str| std::fs::read(format!("/proc/{pid}/comm")).ok();
    name(&pid.to_string()).is_some_and(|other| Some(other) == name("self"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.pid");
        let own = format!("{}\n", std::process::id());
        // A process that is gone left it, or one that wrote nonsense.
        for stale in ["4194999\n", "", "x", "0"] {
            std::fs::write(&path, stale).unwrap();
            PidFile::check(&path, None).unwrap();
            let file = PidFile::claim(&path, None).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
            drop(file);
            assert!(!path.exists());
        }
        // Another program has the number by now.
        std::fs::write(&path, "1\n").unwrap();
        drop(PidFile::claim(&path, None).unwrap());
        // Somebody holds it.
        std::fs::write(&path, "1\n").unwrap();
        let holder = File::open(&path).unwrap();
        flock(&holder, FlockOperation::NonBlockingLockExclusive).unwrap();
        for refused in [PidFile::check(&path, None), PidFile::claim(&path, None).map(drop)] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("process 1, which runs"), "{refused}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        // The process before is taken over from.
        PidFile::check(&path, Some(1)).unwrap();
        let file = PidFile::claim(&path, Some(1)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        // And does not remove what has become another's.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
