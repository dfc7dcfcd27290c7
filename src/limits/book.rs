//! What was used of every quota: in memory for the request path, and behind it in a [`journal`](super::journal).
//!
//! One book per process. It holds an account for each quota, and an account a sheet for each client, with what is in the journal
//! already and what is not yet. Both processes of an upgrade write to one journal and read there what the other one counted.
//!
//! *Bounded*: an account keeps about 150 bytes and the name of each client, for at most `max_keys` of them. Sheets of periods
//! that are over go first; then, of a few, the one that was used least, whose client then begins anew.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::calendar::Span;
use super::journal::{Entry, Journal};
use super::rule::Quota;
use super::store::Reading;
use crate::ledger::Ledger;
use crate::tally::{Counter, Tallies};

const SHARDS: usize = 16;
/// Sheets that are compared when one has to go.
const SAMPLE: usize = 8;
/// How long what was counted may be lost for, when the process is killed.
pub const FLUSH: Duration = Duration::from_secs(1);

const SECOND: u64 = 1_000_000_000;

/// Seconds since 1970.
pub fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// One client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sheet {
    span: Span,
    /// As the journal has it, from whichever process.
    saved: i64,
    /// What this process has counted and not yet written. Negative after a reset.
    unsaved: i64,
    /// What it could use when it last asked.
    limit: u64,
}

impl Sheet {
    fn used(&self) -> u64 {
        u64::try_from(self.saved.saturating_add(self.unsaved)).unwrap_or(0)
    }
}

#[derive(Default)]
struct Shard {
    sheets: HashMap<Box<str>, Sheet, ahash::RandomState>,
    dirty: bool,
    /// For which period the shard was cleared of those before.
    cleared: i64,
}

/// What one quota's clients have used.
pub struct Account {
    shards: Box<[Mutex<Shard>]>,
    hasher: ahash::RandomState,
    evicted: Mutex<Option<Arc<Counter>>>,
}

/// One client's use of one quota, as the operator's API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub quota: Arc<str>,
    pub key: String,
    pub used: u64,
    /// What it could use when it last asked; 0 if it has not asked since the process started.
    pub limit: u64,
    /// Seconds since 1970.
    pub resets_at: i64,
}

impl Default for Account {
    fn default() -> Self {
        Account {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
            evicted: Mutex::default(),
        }
    }
}

/// What one request wants of an account.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub key: &'a str,
    pub cost: u64,
    pub limit: u64,
    pub span: Span,
    /// Seconds since 1970.
    pub now: i64,
    pub max_keys: usize,
}

impl Draw<'_> {
    fn reading(&self, used: u64, span: Span, admitted: bool) -> Reading {
        let full = u64::try_from(span.end.saturating_sub(self.now)).unwrap_or(0).max(1).saturating_mul(SECOND);
        let remaining = self.limit.saturating_sub(used);
        let next = if self.cost > self.limit {
            u64::MAX
        } else if remaining >= self.cost {
            0
        } else {
            full
        };
        Reading { admitted, quota: Quota { remaining, next, full } }
    }
}

impl Account {
    /// Counts who was forgotten.
    pub fn count_evictions(&self, counter: Arc<Counter>) {
        *self.evicted.lock() = Some(counter);
    }

    fn shard(&self, key: &str) -> Option<&Mutex<Shard>> {
        self.shards.get(self.hasher.hash_one(key) as usize % SHARDS)
    }

    pub fn peek(&self, draw: &Draw<'_>) -> Reading {
        let sheet = self.shard(draw.key).and_then(|shard| shard.lock().sheets.get(draw.key).copied());
        let sheet = sheet.filter(|sheet| sheet.span.start >= draw.span.start);
        let (used, span) = sheet.map_or((0, draw.span), |sheet| (sheet.used(), sheet.span));
        draw.reading(used, span, used.saturating_add(draw.cost) <= draw.limit)
    }

    pub fn take(&self, draw: &Draw<'_>) -> Reading {
        let Some(shard) = self.shard(draw.key) else { return draw.reading(draw.limit, draw.span, false) };
        let mut shard = shard.lock();
        if !shard.sheets.contains_key(draw.key) {
            if draw.cost > draw.limit {
                return draw.reading(0, draw.span, false);
            }
            let evicted = shard.make_room(draw.span, draw.max_keys.div_ceil(SHARDS));
            shard.sheets.insert(draw.key.into(), Sheet { span: draw.span, saved: 0, unsaved: 0, limit: draw.limit });
            if let Some(counter) = self.evicted.lock().as_ref().filter(|_| evicted) {
                counter.add(1);
            }
        }
        let Some(sheet) = shard.sheets.get_mut(draw.key) else { return draw.reading(draw.limit, draw.span, false) };
        // A clock that goes backwards does not begin an old period anew.
        if draw.span.start > sheet.span.start {
            *sheet = Sheet { span: draw.span, saved: 0, unsaved: 0, limit: draw.limit };
        }
        sheet.limit = draw.limit;
        let admitted = sheet.used().saturating_add(draw.cost) <= draw.limit;
        if admitted {
            sheet.unsaved = sheet.unsaved.saturating_add_unsigned(draw.cost);
        }
        let reading = draw.reading(sheet.used(), sheet.span, admitted);
        shard.dirty |= admitted;
        reading
    }

    /// Gives back what a request took.
    pub fn refund(&self, draw: &Draw<'_>) {
        let Some(shard) = self.shard(draw.key) else { return };
        let mut shard = shard.lock();
        if let Some(sheet) = shard.sheets.get_mut(draw.key).filter(|sheet| sheet.used() >= draw.cost) {
            sheet.unsaved = sheet.unsaved.saturating_sub_unsigned(draw.cost);
            shard.dirty = true;
        }
    }

    /// Gives all of it back. Whether there was anything.
    pub fn reset(&self, key: &str) -> bool {
        let Some(shard) = self.shard(key) else { return false };
        let mut shard = shard.lock();
        let Some(sheet) = shard.sheets.get_mut(key).filter(|sheet| sheet.used() > 0) else { return false };
        sheet.unsaved = -sheet.saved;
        shard.dirty = true;
        true
    }

    fn lines(&self, quota: &Arc<str>, now: i64, wanted: Option<&str>, into: &mut Vec<Line>) {
        for shard in &self.shards {
            let shard = shard.lock();
            let sheets =
                shard.sheets.iter().filter(|(key, sheet)| sheet.span.end > now && wanted.is_none_or(|wanted| wanted == &***key));
            into.extend(sheets.map(|(key, sheet)| Line {
                quota: quota.clone(),
                key: key.to_string(),
                used: sheet.used(),
                limit: sheet.limit,
                resets_at: sheet.span.end,
            }));
        }
    }

    /// What another process, or an earlier one, has counted.
    fn apply(&self, entry: &Entry) {
        let Some(shard) = self.shard(&entry.key) else { return };
        let mut shard = shard.lock();
        let span = Span { start: entry.from, end: entry.until };
        let sheet = shard.sheets.entry(entry.key.as_str().into()).or_insert(Sheet { span, saved: 0, unsaved: 0, limit: 0 });
        if span.start > sheet.span.start {
            *sheet = Sheet { span, saved: 0, unsaved: 0, limit: sheet.limit };
        }
        if span.start == sheet.span.start {
            sheet.saved = sheet.saved.saturating_add(entry.n);
        }
    }

    /// The journal is about to be read from its beginning.
    fn forget_saved(&self) {
        for shard in &self.shards {
            shard.lock().sheets.values_mut().for_each(|sheet| sheet.saved = 0);
        }
    }

    /// What has to be written.
    fn unsaved(&self, quota: &str, into: &mut Vec<Entry>) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            if std::mem::take(&mut shard.dirty) {
                into.extend(
                    shard
                        .sheets
                        .iter()
                        .filter(|(_, sheet)| sheet.unsaved != 0)
                        .map(|(key, sheet)| entry(quota, key, sheet, sheet.unsaved)),
                );
            }
        }
    }

    /// Everything that still means something.
    fn everything(&self, quota: &str, now: i64, into: &mut Vec<Entry>) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.sheets.retain(|_, sheet| sheet.span.end > now || sheet.unsaved != 0);
            into.extend(
                shard
                    .sheets
                    .iter()
                    .filter(|(_, sheet)| sheet.saved != 0)
                    .map(|(key, sheet)| entry(quota, key, sheet, sheet.saved)),
            );
        }
    }

    /// It was written, or, where it was not, has to be written again.
    fn written(&self, entry: &Entry, good: bool) {
        let Some(shard) = self.shard(&entry.key) else { return };
        let mut shard = shard.lock();
        shard.dirty |= !good;
        let sheet = shard.sheets.get_mut(entry.key.as_str()).filter(|sheet| good && sheet.span.start == entry.from);
        if let Some(sheet) = sheet {
            sheet.saved = sheet.saved.saturating_add(entry.n);
            sheet.unsaved = sheet.unsaved.saturating_sub(entry.n);
        }
    }
}

fn entry(quota: &str, key: &str, sheet: &Sheet, n: i64) -> Entry {
    Entry { quota: quota.to_owned(), key: key.to_owned(), from: sheet.span.start, until: sheet.span.end, n }
}

impl Shard {
    /// Whether somebody had to go who was still counted.
    fn make_room(&mut self, span: Span, most: usize) -> bool {
        if self.sheets.len() < most.max(1) {
            return false;
        }
        if self.cleared != span.start {
            self.cleared = span.start;
            self.sheets.retain(|_, sheet| sheet.span.end > span.start);
            if self.sheets.len() < most.max(1) {
                return false;
            }
        }
        let least = self.sheets.iter().take(SAMPLE).min_by_key(|(_, sheet)| (sheet.span.end > span.start, sheet.used()));
        let least = least.map(|(key, _)| key.clone());
        least.is_some_and(|key| self.sheets.remove(&key).is_some())
    }
}

/// Every account of the process.
#[derive(Default)]
pub struct Book {
    accounts: Mutex<BTreeMap<Arc<str>, Arc<Account>>>,
    journal: Mutex<Option<Journal>>,
    watched: AtomicBool,
    errors: Mutex<Option<Arc<Counter>>>,
}

impl Book {
    /// The process's.
    pub fn of(ledger: &Ledger) -> Arc<Self> {
        ledger.keep("quotas", Book::default)
    }

    /// What was used of the quota of that id.
    pub fn account(&self, id: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(known) = accounts.get(id) {
            return known.clone();
        }
        let fresh = Arc::new(Account::default());
        accounts.insert(id.into(), fresh.clone());
        fresh
    }

    /// Reads the journal and, from now on, writes to it. Must not be called where waiting for a disk holds others up. A book that
    /// has one keeps it: the path in use is returned.
    ///
    /// # Errors
    /// The file cannot be read or made.
    pub fn open(self: &Arc<Self>, path: &Path, tallies: &Tallies, background: &tokio::runtime::Handle) -> io::Result<PathBuf> {
        let mut journal = self.journal.lock();
        if let Some(known) = journal.as_ref() {
            return Ok(known.path().to_owned());
        }
        let help = "Times that what was used of quotas could not be written; it is tried again.";
        *self.errors.lock() = Some(tallies.counter("portcullis_quota_write_errors_total", help, &[]));
        *journal = Some(Journal::open(path)?);
        drop(journal);
        self.save()?;
        if !self.watched.swap(true, Ordering::Relaxed) {
            let book = Arc::downgrade(self);
            background.spawn(async move {
                loop {
                    tokio::time::sleep(FLUSH).await;
                    let Some(book) = book.upgrade() else { return };
                    // A panic there is no reason to stop writing.
                    let _ = tokio::task::spawn_blocking(move || book.save_and_say()).await;
                }
            });
        }
        Ok(path.to_owned())
    }

    /// Writes what is not written yet, and reads what others wrote. Waits for the disk.
    ///
    /// # Errors
    /// The disk's. What was not written is tried again the next time.
    pub fn save(&self) -> io::Result<()> {
        let mut journal = self.journal.lock();
        let Some(journal) = journal.as_mut() else { return Ok(()) };
        let mut held = journal.hold()?;
        if held.is_new() {
            self.each(|_, account| account.forget_saved());
        }
        held.read(|entry| self.account(&entry.quota).apply(&entry))?;
        let mut entries = Vec::new();
        self.each(|id, account| account.unsaved(id, &mut entries));
        let outcome = held.append(&entries);
        for entry in &entries {
            self.account(&entry.quota).written(entry, outcome.is_ok());
        }
        outcome?;
        if held.is_long() {
            let (mut all, now) = (Vec::new(), wall_clock());
            self.each(|id, account| account.everything(id, now, &mut all));
            held.replace(&all)?;
        }
        Ok(())
    }

    /// [`Book::save`], for when nobody can be told but the log.
    pub fn save_and_say(&self) {
        let Err(error) = self.save() else { return };
        if let Some(errors) = self.errors.lock().as_ref() {
            // Every second would be too often.
            if errors.sum().is_multiple_of(60) {
                log::error!("cannot write what was used of quotas: {error}");
            }
            errors.add(1);
        }
    }

    fn each(&self, mut work: impl FnMut(&str, &Account)) {
        let accounts: Vec<_> = self.accounts.lock().iter().map(|(id, account)| (id.clone(), account.clone())).collect();
        accounts.iter().for_each(|(id, account)| work(id, account));
    }

    /// What was used in the present periods, by quota and key; at most `most` lines.
    pub fn lines(&self, key: Option<&str>, most: usize) -> Vec<Line> {
        let accounts: Vec<_> = self.accounts.lock().iter().map(|(id, account)| (id.clone(), account.clone())).collect();
        let (mut lines, now) = (Vec::new(), wall_clock());
        for (id, account) in &accounts {
            account.lines(id, now, key, &mut lines);
        }
        lines.sort_by(|one, other| (&one.quota, &one.key).cmp(&(&other.quota, &other.key)));
        lines.truncate(most);
        lines
    }

    /// Gives a client all of its quotas back, or of the one quota. How many there were.
    pub fn reset(&self, key: &str, quota: Option<&str>) -> usize {
        let mut count = 0;
        self.each(|id, account| {
            if quota.is_none_or(|quota| quota == id) {
                count += usize::from(account.reset(key));
            }
        });
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: Span = Span { start: 1_000, end: 4_000_000_000 };

    fn draw(key: &str, cost: u64, limit: u64) -> Draw<'_> {
        Draw { key, cost, limit, span: MONTH, now: 2_000, max_keys: 1_000 }
    }

    fn book(path: &Path) -> Book {
        let book = Book::default();
        *book.journal.lock() = Some(Journal::open(path).unwrap());
        book.save().unwrap();
        book
    }

    fn used(book: &Book, key: &str) -> u64 {
        book.lines(Some(key), 9).first().map_or(0, |line| line.used)
    }

    #[test]
    fn counts_up_to_the_limit_and_begins_anew_with_the_period() {
        let account = Account::default();
        assert!((0..5).all(|_| account.take(&draw("acme", 2, 10)).admitted));
        let refused = account.take(&draw("acme", 2, 10));
        assert_eq!((refused.admitted, refused.quota.remaining), (false, 0));
        assert_eq!(refused.quota.next, (MONTH.end - 2_000) as u64 * SECOND);
        assert!(account.take(&draw("globex", 10, 10)).admitted);
        assert!(!account.take(&draw("initech", 11, 10)).admitted);
        account.refund(&draw("acme", 2, 10));
        assert!(account.take(&draw("acme", 1, 10)).admitted);
        let next = Draw { span: Span { start: MONTH.end, end: i64::MAX / 2 }, now: MONTH.end, ..draw("acme", 9, 10) };
        assert_eq!(account.peek(&next).quota.remaining, 10);
        assert!(account.take(&next).admitted);
        // A clock that went back to the month before.
        assert!(!account.take(&draw("acme", 2, 10)).admitted);
    }

    #[test]
    fn what_was_counted_is_found_again_and_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.log");
        let (one, other) = (book(&path), book(&path));
        for _ in 0..3 {
            one.account("q").take(&draw("acme", 2, 100));
            other.account("q").take(&draw("acme", 1, 100));
        }
        one.save().unwrap();
        other.save().unwrap();
        one.save().unwrap();
        assert_eq!((used(&one, "acme"), used(&other, "acme")), (9, 9));
        assert_eq!(used(&book(&path), "acme"), 9);
        assert_eq!(other.reset("acme", Some("q")), 1);
        other.save().unwrap();
        one.save().unwrap();
        assert_eq!((used(&one, "acme"), used(&other, "acme"), used(&book(&path), "acme")), (0, 0, 0));
        assert_eq!(one.reset("acme", None), 0);
    }

    #[test]
    fn a_journal_that_grows_is_written_anew_under_the_other_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.log");
        let (one, other) = (book(&path), book(&path));
        for round in 0..60 {
            for n in 0..300 {
                let key = format!("a client with a rather long name, number {n}");
                one.account("q").take(&draw(&key, 1, 1_000));
            }
            other.account("q").take(&draw("acme", 1, 1_000));
            one.save().unwrap();
            if round % 7 == 0 {
                other.save().unwrap();
            }
        }
        other.save().unwrap();
        one.save().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < 2 * crate::limits::journal::LONG, "{size}");
        for book in [&one, &other, &book(&path)] {
            assert_eq!((used(book, "acme"), used(book, "a client with a rather long name, number 7")), (60, 60));
        }
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas.log");
        let first = book(&path);
        first.account("q").take(&draw("acme", 7, 100));
        first.save().unwrap();
        drop(first);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\xff\0 noise\n{\"quota\":\"q\",\"key\":\"acme\",\"from\":1000,\"un");
        std::fs::write(&path, bytes).unwrap();
        let second = book(&path);
        second.account("q").take(&draw("acme", 1, 100));
        second.save().unwrap();
        assert_eq!((used(&second, "acme"), used(&book(&path), "acme")), (8, 8));
    }

    #[test]
    fn memory_is_bounded() {
        let account = Account::default();
        for n in 0..20_000 {
            assert!(account.take(&draw(&n.to_string(), 1, 5)).admitted);
        }
        let kept: usize = account.shards.iter().map(|shard| shard.lock().sheets.len()).sum();
        assert!((900..=1_008).contains(&kept), "{kept}");
    }
}
