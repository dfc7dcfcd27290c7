//! API keys in a file on this machine: no server needed.
//!
//! The file is a redb database, crash-safe, in the mode in which several processes may have it open at once: while an upgrade hands
//! over, the old and the new process both do, and each hears of what the other writes.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redb::backends::FileBackend;
use redb::{ConcurrencyMode, Database, ReadableDatabase, ReadableTable, TableDefinition, TransactionError, WriteTransaction};

use super::record::Record;
use super::store::{Change, News, Position, Store, StoreError};

/// Records by their ids.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("api_keys");
/// The ids of changed keys, numbered from 1 in the order of the changes.
const CHANGES: TableDefinition<'_, u64, &str> = TableDefinition::new("api_key_changes");
/// Older changes are forgotten; who is further behind reads everything.
const REMEMBERED: u64 = 10_000;
/// Everything is in memory anyway.
const PAGE_CACHE: usize = 8 << 20;
/// How long a write waits for another process's. They take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file, open.
pub struct FileStore {
    database: Arc<Database>,
}

impl FileStore {
    /// Opens the file; makes it (mode 0600), and its folder (mode 0700), if they are missing. Repairs what a crash left. Blocks.
    ///
    /// # Errors
    /// It cannot be read and written, or is something else than such a file.
    pub fn open(path: &Path) -> Result<Self, String> {
        let cannot = |error: &dyn std::fmt::Display| format!("cannot open the key store {}: {error}", path.display());
        let file = open_file(path).map_err(|error| cannot(&error))?;
        let backend = FileBackend::new(file).map_err(|error| cannot(&error))?;
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE).set_concurrency_mode(ConcurrencyMode::MultiWriter);
        let database = builder.create_with_backend(backend).map_err(|error| cannot(&error))?;
        let store = FileStore { database: Arc::new(database) };
        store.prepare().map_err(|error| cannot(&error))?;
        Ok(store)
    }

    /// Makes the tables, so that reading finds them.
    fn prepare(&self) -> Result<(), StoreError> {
        let reading = self.database.begin_read().map_err(broken)?;
        if reading.open_table(KEYS).is_ok() && reading.open_table(CHANGES).is_ok() {
            return Ok(());
        }
        drop(reading);
        let writing = begin_write(&self.database)?;
        writing.open_table(KEYS).map_err(broken)?;
        writing.open_table(CHANGES).map_err(broken)?;
        writing.commit().map_err(broken)
    }
}

#[async_trait]
impl Store for FileStore {
    async fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        let (database, changes) = (self.database.clone(), changes.to_vec());
        off_the_loop(move || apply(&database, &changes)).await
    }

    async fn news(&self, since: &Position) -> Result<News, StoreError> {
        let (database, since) = (self.database.clone(), since.clone());
        off_the_loop(move || news(&database, &since)).await
    }
}

async fn off_the_loop<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

fn broken(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Unavailable(error.into().to_string())
}

fn open_file(path: &Path) -> io::Result<std::fs::File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Waits for another process's write, but not for ever: it may have been stopped in the middle.
fn begin_write(database: &Database) -> Result<WriteTransaction, StoreError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match database.try_begin_write() {
            Err(TransactionError::WouldBlock) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            begun => return begun.map_err(broken),
        }
    }
}

fn apply(database: &Database, changes: &[Change]) -> Result<(), StoreError> {
    let writing = begin_write(database)?;
    {
        let mut keys = writing.open_table(KEYS).map_err(broken)?;
        let mut log = writing.open_table(CHANGES).map_err(broken)?;
        let mut number = log.last().map_err(broken)?.map_or(0, |(number, _)| number.value());
        for change in changes {
            let known = keys.get(&*change.id).map_err(broken)?.map(|bytes| bytes.value().to_vec());
            if known != change.before.as_ref().map(Record::encode) {
                // Dropped without a commit, the transaction leaves nothing behind.
                return Err(StoreError::Conflict);
            }
            match &change.after {
                Some(record) => keys.insert(&*change.id, &*record.encode()).map_err(broken)?,
                None => keys.remove(&*change.id).map_err(broken)?,
            };
            number += 1;
            log.insert(number, &*change.id).map_err(broken)?;
        }
        log.retain_in(..number.saturating_sub(REMEMBERED), |_, _| false).map_err(broken)?;
    }
    writing.commit().map_err(broken)
}

fn news(database: &Database, since: &Position) -> Result<News, StoreError> {
    let reading = database.begin_read().map_err(broken)?;
    let keys = reading.open_table(KEYS).map_err(broken)?;
    let log = reading.open_table(CHANGES).map_err(broken)?;
    let last = log.last().map_err(broken)?.map_or(0, |(number, _)| number.value());
    let first = log.first().map_err(broken)?.map_or(1, |(number, _)| number.value());
    let position = Position(last.to_string());
    // What is there can be gone on from only if nothing between then and now was forgotten.
    let seen = since.0.parse::<u64>().ok().filter(|seen| *seen <= last && *seen + 1 >= first);
    let mut found = Vec::new();
    match seen {
        Some(seen) => {
            let changes = log.range(seen + 1..).map_err(broken)?;
            let ids = changes.map(|entry| entry.map(|(_, id)| id.value().to_owned())).collect::<Result<BTreeSet<_>, _>>();
            for id in ids.map_err(broken)? {
                let record = keys.get(&*id).map_err(broken)?.and_then(|bytes| decode(&id, bytes.value()));
                found.push((id, record));
            }
        }
        None => {
            for entry in keys.iter().map_err(broken)? {
                let (id, bytes) = entry.map_err(broken)?;
                found.push((id.value().to_owned(), decode(id.value(), bytes.value())));
            }
        }
    }
    Ok(News { position, whole: seen.is_none(), keys: found })
}

fn decode(id: &str, bytes: &[u8]) -> Option<Record> {
    let record = Record::decode(bytes);
    if record.is_none() {
        log::error!("the key store's entry {id:?} cannot be read: that key is not accepted");
    }
    record
}

/// Where the file is by default: in the folder that systemd gives a service for its state, else beside the configuration.
pub fn default_path(base: &Path) -> PathBuf {
    match std::env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty()) {
        Some(folder) => Path::new(&folder).join("keys.redb"),
        None => base.join("state/keys.redb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::record::tests::record;

    fn put(id: &str) -> Change {
        Change { id: id.to_owned(), before: None, after: Some(record(id, "acme")) }
    }

    fn take(id: &str) -> Change {
        Change { id: id.to_owned(), before: Some(record(id, "acme")), after: None }
    }

    fn ids(news: &News) -> Vec<(&str, bool)> {
        news.keys.iter().map(|(id, record)| (&**id, record.is_some())).collect()
    }

    #[test]
    fn what_was_written_is_found_again() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/keys.redb");
        let store = FileStore::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let start = news(&store.database, &Position::default()).unwrap();
        assert!(start.whole && start.keys.is_empty());
        apply(&store.database, &[put("a"), put("b")]).unwrap();
        let next = news(&store.database, &start.position).unwrap();
        assert_eq!((next.whole, ids(&next)), (false, vec![("a", true), ("b", true)]));
        assert!(news(&store.database, &next.position).unwrap().keys.is_empty());
        drop(store);
        let store = FileStore::open(&path).unwrap();
        apply(&store.database, &[take("a")]).unwrap();
        let later = news(&store.database, &next.position).unwrap();
        assert_eq!((later.whole, ids(&later)), (false, vec![("a", false)]));
        let whole = news(&store.database, &Position::default()).unwrap();
        assert_eq!((whole.whole, ids(&whole)), (true, vec![("b", true)]));
    }

    #[test]
    fn all_or_nothing_and_only_over_what_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(&folder.path().join("keys.redb")).unwrap();
        apply(&store.database, &[put("a")]).unwrap();
        assert!(matches!(apply(&store.database, &[put("b"), put("a")]), Err(StoreError::Conflict)));
        assert!(matches!(apply(&store.database, &[put("c"), take("b")]), Err(StoreError::Conflict)));
        assert_eq!(ids(&news(&store.database, &Position::default()).unwrap()), [("a", true)]);
    }

    #[test]
    fn who_is_too_far_behind_reads_everything() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(&folder.path().join("keys.redb")).unwrap();
        apply(&store.database, &[put("a")]).unwrap();
        let before = news(&store.database, &Position::default()).unwrap().position;
        let many: Vec<Change> = (0..=REMEMBERED + 1).map(|n| put(&format!("k{n}"))).collect();
        apply(&store.database, &many).unwrap();
        assert!(news(&store.database, &before).unwrap().whole);
        assert!(news(&store.database, &Position("99999999".to_owned())).unwrap().whole, "another file");
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.redb");
        std::fs::write(&path, "listeners: []\n".repeat(1000)).unwrap();
        assert!(FileStore::open(&path).err().unwrap().contains("keys.redb"));
        assert!(FileStore::open(folder.path()).is_err());
    }
}
