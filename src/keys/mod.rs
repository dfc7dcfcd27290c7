//! API keys that the admin API issues, rotates and revokes while the gateway runs.
//!
//! - [`mint`] makes a key, which is shown once; only its SHA-256 is kept ([`record`]).
//! - A [`store`] keeps the records: a [`file`] on this machine, or [`redis`] where several gateways share them.
//! - [`KeyStore`] holds all of them in memory, writes to the store and to memory, and asks the store a few times a second what others
//!   have changed: what one gateway revokes, every other one refuses within a second.
//! - The request path reads [`IssuedKeys`] alone: never a file, never the network.
//!
//! While the store is away, the keys that are known stay good until they expire, and nothing can be issued or revoked; the metric
//! `portcullis_key_store_stale_seconds` says for how long. A store that has not been read since the process started makes unknown keys
//! a 503, for nobody knows whether they are good.
//!
//! Keys that are written in the configuration are not here: they are [`crate::consumers`]'s.

pub mod config;
pub mod file;
mod mint;
pub mod record;
pub mod redis;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::config::{KeyStoreConfig, Setting};
pub use self::mint::KeyText;
pub use self::record::Record;
use self::store::{Change, News, Position, Store, StoreError};
use crate::clock::unix_seconds as now;
use crate::consumers::issued::IssuedKeys;
use crate::tally::{Counter, Gauge, Tallies};

/// How often the store is asked what is new.
const EVERY: Duration = Duration::from_millis(250);
/// How long a start waits for the first answer.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How many keys a store holds at most.
const MOST: usize = 1_000_000;
/// Keys are forgotten so long after they expired: until then the list says what became of them.
const FORGOTTEN: u64 = 30 * 24 * 3600;
/// How often expired keys are looked for.
const SWEEP: Duration = Duration::from_secs(3600);
/// How many expired keys go at once.
const SWEPT: usize = 500;
/// An id that is taken is tried again; of a million keys, one in a million is.
const TRIES: usize = 4;

/// Why nothing was issued or revoked.
#[derive(Debug)]
pub enum KeyError {
    /// The consumer has no such key.
    Unknown,
    /// The key has expired, or was replaced already.
    Over(&'static str),
    /// Somebody else changed it at the same time.
    Conflict,
    /// There are as many keys as there may be.
    Full,
    /// The store cannot be reached.
    Unavailable(String),
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => KeyError::Conflict,
            StoreError::Unavailable(why) => KeyError::Unavailable(why),
        }
    }
}

/// What a new key is to be.
#[derive(Debug, Clone, Default)]
pub struct Order {
    pub consumer: String,
    pub label: Option<String>,
    /// In place of the consumer's.
    pub scopes: Option<Vec<String>>,
    /// In seconds since 1970.
    pub expires: Option<u64>,
}

/// A key that was just made: its record, and the key itself, which nobody will be shown again.
#[derive(Debug)]
pub struct Minted {
    pub record: Record,
    pub key: KeyText,
}

/// Everything that is known, for the operator: not on the way of a request.
#[derive(Default)]
struct Book {
    records: HashMap<String, Record>,
    /// Consumers and ids.
    index: BTreeSet<(String, String)>,
}

impl Book {
    fn put(&mut self, id: &str, record: Option<Record>) -> Option<Record> {
        let before = match record {
            Some(record) => {
                self.index.insert((record.consumer.clone(), id.to_owned()));
                self.records.insert(id.to_owned(), record)
            }
            None => self.records.remove(id),
        };
        if let Some(before) = &before
            && self.records.get(id).is_none_or(|now| now.consumer != before.consumer)
        {
            self.index.remove(&(before.consumer.clone(), id.to_owned()));
        }
        before
    }
}

/// The keys, in memory and in their store. One for each store; lives in the ledger.
pub struct KeyStore {
    store: OnceLock<Arc<dyn Store>>,
    issued: Arc<IssuedKeys>,
    book: Mutex<Book>,
    /// How far the store was followed. Held over every change and every look, so that memory never goes back behind what was written.
    turn: tokio::sync::Mutex<Position>,
    /// When the store last answered.
    answered: Mutex<Instant>,
    known: Arc<Gauge>,
    stale: Arc<Gauge>,
    errors: Arc<Counter>,
}

impl KeyStore {
    fn new(tallies: &Tallies) -> Self {
        KeyStore {
            store: OnceLock::new(),
            issued: Arc::default(),
            book: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            answered: Mutex::new(Instant::now()),
            known: tallies.gauge("portcullis_issued_api_keys", "API keys in the key store, expired ones included.", &[]),
            stale: tallies.gauge("portcullis_key_store_stale_seconds", "Time since the key store last answered.", &[]),
            errors: tallies.counter("portcullis_key_store_errors_total", "Times that the key store did not answer.", &[]),
        }
    }

    fn is_open(&self) -> bool {
        self.store.get().is_some()
    }

    /// From now on this store is asked what is new, until the last user of the keys is gone.
    fn open(self: &Arc<Self>, store: Arc<dyn Store>, background: &tokio::runtime::Handle) {
        if self.store.set(store).is_ok() {
            background.spawn(follow(Arc::downgrade(self)));
        }
    }

    /// What the request path reads.
    pub fn issued(&self) -> &Arc<IssuedKeys> {
        &self.issued
    }

    fn store(&self) -> Result<&Arc<dyn Store>, StoreError> {
        self.store.get().ok_or_else(|| StoreError::Unavailable("the key store is not open".to_owned()))
    }

    /// Asks the store what is new, until nothing is.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        loop {
            let news = self.store()?.news(&turn).await?;
            *self.answered.lock() = Instant::now();
            let more = !news.whole && !news.keys.is_empty();
            let position = news.position.clone();
            self.absorb(news);
            *turn = position;
            if !more {
                return Ok(());
            }
        }
    }

    fn absorb(&self, news: News) {
        let mut book = self.book.lock();
        if news.whole {
            *book = Book::default();
            for (id, record) in news.keys {
                book.put(&id, record);
            }
            self.issued.replace(book.records.values().filter_map(Record::issued));
        } else if !news.keys.is_empty() {
            let (mut removed, mut inserted) = (Vec::new(), Vec::new());
            for (id, record) in news.keys {
                inserted.extend(record.as_ref().and_then(Record::issued));
                removed.extend(book.put(&id, record).and_then(|before| before.digest()));
            }
            self.issued.change(&removed, inserted);
        }
        self.known.set(book.records.len() as u64);
    }

    /// Writes to the store, then to memory.
    async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let turn = self.turn.lock().await;
        self.store()?.apply(&changes).await?;
        let keys = changes.into_iter().map(|change| (change.id, change.after)).collect();
        // The position stays: the next look finds the same changes once more, which changes nothing.
        self.absorb(News { position: turn.clone(), whole: false, keys });
        Ok(())
    }

    /// Issues a key.
    ///
    /// # Errors
    /// There are too many already, or the store cannot be reached. In the latter case a key may have been written that nobody knows.
    pub async fn create(&self, order: Order, prefix: &str) -> Result<Minted, KeyError> {
        self.insert(prefix, |id, hash| {
            let Order { consumer, label, scopes, expires } = order.clone();
            let record = Record { id, consumer, hash, label, scopes, created: now(), expires, replaced_by: None };
            (record, None)
        })
        .await
    }

    /// Issues a key in place of another one, which stays good for `overlap` seconds, though not beyond its own time. The new key has the
    /// old one's label and scopes, and lives as long as the old one was made to, unless `expires` says otherwise.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn rotate(
        &self,
        consumer: &str,
        id: &str,
        overlap: u64,
        expires: Option<u64>,
        prefix: &str,
    ) -> Result<(Minted, Record), KeyError> {
        let before = self.get(consumer, id).ok_or(KeyError::Unknown)?;
        let now = now();
        if before.is_expired(now) {
            return Err(KeyError::Over("the key has expired"));
        }
        if before.replaced_by.is_some() {
            return Err(KeyError::Over("the key was replaced already"));
        }
        let ends = now.saturating_add(overlap);
        let lifetime = before.expires.map(|expires| expires.saturating_sub(before.created));
        let expires = expires.or_else(|| lifetime.map(|lifetime| now.saturating_add(lifetime)));
        let retired = |replaced_by: String| Record {
            expires: Some(before.expires.map_or(ends, |expires| expires.min(ends))),
            replaced_by: Some(replaced_by),
            ..before.clone()
        };
        let minted = self.insert(prefix, |id, hash| {
            let change = Change { id: before.id.clone(), before: Some(before.clone()), after: Some(retired(id.clone())) };
            let record = Record { id, hash, created: now, expires, replaced_by: None, ..before.clone() };
            (record, Some(change))
        });
        let minted = minted.await?;
        let retired = retired(minted.record.id.clone());
        Ok((minted, retired))
    }

    async fn insert(&self, prefix: &str, make: impl Fn(String, String) -> (Record, Option<Change>)) -> Result<Minted, KeyError> {
        if self.book.lock().records.len() >= MOST {
            return Err(KeyError::Full);
        }
        for _ in 0..TRIES {
            let id = mint::id()?;
            if self.book.lock().records.contains_key(&id) {
                continue;
            }
            let key = mint::key(prefix, &id)?;
            let (record, other) = make(id.clone(), key.digest().to_string());
            let mut changes = vec![Change { id, before: None, after: Some(record.clone()) }];
            changes.extend(other);
            self.write(changes).await?;
            return Ok(Minted { record, key });
        }
        Err(KeyError::Conflict)
    }

    /// Takes a key away: at once here, within a second everywhere.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn revoke(&self, consumer: &str, id: &str) -> Result<Record, KeyError> {
        for _ in 0..TRIES {
            let before = self.get(consumer, id).ok_or(KeyError::Unknown)?;
            match self.write(vec![Change { id: id.to_owned(), before: Some(before.clone()), after: None }]).await {
                Ok(()) => return Ok(before),
                // Somebody else has just rotated it, or revoked it: a revocation must not get lost over that.
                Err(StoreError::Conflict) => self.refresh().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Conflict)
    }

    /// One key of a consumer's.
    pub fn get(&self, consumer: &str, id: &str) -> Option<Record> {
        self.book.lock().records.get(id).filter(|record| record.consumer == consumer).cloned()
    }

    /// A consumer's keys by their ids, after `after`, up to `limit`; and whether there are more.
    pub fn list(&self, consumer: &str, after: Option<&str>, limit: usize) -> (Vec<Record>, bool) {
        let book = self.book.lock();
        let start = (consumer.to_owned(), after.unwrap_or_default().to_owned());
        let ids = book.index.range((Bound::Excluded(start), Bound::Unbounded)).take_while(|(name, _)| name == consumer);
        let mut found: Vec<Record> = ids.filter_map(|(_, id)| book.records.get(id).cloned()).take(limit + 1).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }

    /// Removes what expired long ago, some at a time.
    async fn sweep(&self) -> Result<(), StoreError> {
        let long_ago = now().saturating_sub(FORGOTTEN);
        let expired: Vec<Change> = {
            let book = self.book.lock();
            let old = book.records.values().filter(|record| record.is_expired(long_ago)).take(SWEPT);
            old.map(|record| Change { id: record.id.clone(), before: Some(record.clone()), after: None }).collect()
        };
        if expired.is_empty() {
            return Ok(());
        }
        match self.write(expired).await {
            // Another gateway sweeps, too.
            Err(StoreError::Conflict) => Ok(()),
            done => done,
        }
    }
}

/// Asks the store what is new, again and again, for as long as somebody uses the keys.
async fn follow(keys: Weak<KeyStore>) {
    let (mut fails, mut swept) = (false, Instant::now());
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(keys) = keys.upgrade() else { return };
        let mut outcome = keys.refresh().await;
        if outcome.is_ok() && swept.elapsed() >= SWEEP {
            swept = Instant::now();
            outcome = keys.sweep().await;
        }
        keys.stale.set(keys.answered.lock().elapsed().as_secs());
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut fails) {
                    log::info!("the key store answers again");
                }
            }
            Err(error) => {
                keys.errors.add(1);
                if !std::mem::replace(&mut fails, true) {
                    log::error!("the key store does not answer; the keys that are known stay good: {error}");
                }
            }
        }
    }
}
