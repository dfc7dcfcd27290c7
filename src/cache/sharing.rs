//! What an operator takes out of one gateway's cache, told to all that share a Redis.
//!
//! One stream in Redis, which every gateway looks at a few times a second. What is purged here is purged at once, and written down for the
//! others; where that fails it is kept and told when Redis is back. A gateway that has missed purges, because Redis has lost them, takes all
//! that it has stored for stale; one that was away for longer than purges are kept forgets all of it.
//!
//! Bounded in bytes on all its ways: a record, what one look brings, what waits to be told. Only operators write here: what requests change
//! (RFC 9111, section 4.4) goes from the cache that they pass, and from Redis where answers are kept there ([`super::redis`]), but is not told
//! to others, for whoever may send a POST could write without end.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::redis::{Bound, Settings};
use super::{Cache, Purge};
use crate::redis::{Redis, Script, Unavailable, cmd};
use crate::tally::{Counter, Gauge, Tallies};

/// How often a gateway looks for news.
const EVERY: Duration = Duration::from_millis(200);
/// For one command: no request waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// About so many records are remembered in Redis.
const KEPT: usize = 1_000;
/// A record goes no further than the thing that takes it beyond so many bytes.
const RECORD: usize = 32 << 10;
/// Records of one look, which ends before as well once it has brought so many bytes.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;
/// What waits for Redis, or may have to be told again; beyond that the others are to forget everything.
const MOST: usize = 1_000;
const MOST_BYTES: usize = 4 << 20;
/// For how long an order is told again if Redis turns out to have lost what it was told.
const REPEATED: Duration = Duration::from_secs(60);

/// `{ how, last, seconds, microseconds, id, by, what, id, by, what ... }`, the time by the clock that makes the ids: `lost` where what was seen is not there any more, nor anything after it, `trimmed` where there is
/// but something after it, else `all`, or `more` where `last` is not the newest. Seen is `0-0` by who has seen nothing.
static NEWS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local seen, time = ARGV[1], redis.call('TIME')
         local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
         local last = newest and newest[1] or '0-0'
         if seen == last then return { 'all', last, time[1], time[2] } end
         local found = redis.call('XRANGE', KEYS[1], seen, '+', 'COUNT', ARGV[2])
         local from = 1
         if seen ~= '0-0' then
           if not found[1] then return { 'lost', last, time[1], time[2] } end
           if found[1][1] ~= seen then return { 'trimmed', last, time[1], time[2] } end
           from = 2
         end
         local answer, bytes = { 'all', seen, time[1], time[2] }, 0
         for i = from, #found do
           local by, what = found[i][2][2] or '', found[i][2][4] or ''
           answer[2] = found[i][1]
           answer[#answer + 1] = found[i][1]
           answer[#answer + 1] = by
           answer[#answer + 1] = what
           bytes = bytes + #what
           if bytes >= tonumber(ARGV[3]) then break end
         end
         if answer[2] ~= last then answer[1] = 'more' end
         return answer",
    )
});

/// What is purged at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub soft: bool,
    pub purges: Vec<Purge>,
}

/// What this gateway has to tell.
pub struct Sharing {
    /// This gateway's name among the others.
    name: String,
    waiting: Mutex<Outbox>,
}

/// A record, and when it was told, if it was.
type Told = (Option<Instant>, Arc<str>);

#[derive(Default)]
struct Outbox {
    untold: VecDeque<Told>,
    told: VecDeque<Told>,
}

impl Order {
    /// As it is written down: in pieces that are short enough. An order says nothing of the order in which it is obeyed.
    fn records(&self) -> Vec<Arc<str>> {
        let (mut records, mut piece, mut bytes) = (Vec::new(), Vec::new(), 0);
        let written = |purges: &mut Vec<Purge>| {
            let piece = Order { soft: self.soft, purges: std::mem::take(purges) };
            serde_json::to_string(&piece).ok().map(Arc::<str>::from)
        };
        for purge in &self.purges {
            piece.push(purge.clone());
            bytes += serde_json::to_string(purge).map_or(0, |text| text.len() + 1);
            if bytes >= RECORD {
                records.extend(written(&mut piece));
                bytes = 0;
            }
        }
        if !piece.is_empty() {
            records.extend(written(&mut piece));
        }
        records
    }
}

impl Sharing {
    pub(super) fn new() -> Self {
        let half = |which: u8| RandomState::new().hash_one((which, std::process::id()));
        Sharing { name: format!("{:016x}{:016x}", half(0), half(1)), waiting: Mutex::default() }
    }

    /// Takes on to tell the other gateways of what was purged here. To be called before anything is waited for: from now on they will be told,
    /// whatever becomes of whoever has ordered it.
    pub fn telling(&self, order: &Order) -> Telling<'_> {
        Telling { sharing: self, records: order.records().into() }
    }

    /// Under which id it stands there.
    async fn write(&self, redis: &Redis, record: &str) -> Result<String, Unavailable> {
        let mut add = cmd("XADD");
        add.arg(stream_of(redis)).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
        add.arg("by").arg(&self.name).arg("what").arg(record);
        redis.aside(PATIENCE).run::<String>(&add).await
    }
}

/// An order that the others have not been told of yet, or not of all of it. What is left of it when nobody goes on with it waits for Redis.
pub struct Telling<'a> {
    sharing: &'a Sharing,
    records: VecDeque<Arc<str>>,
}

impl Telling<'_> {
    /// Tells them.
    ///
    /// # Errors
    /// They have not been told, or not of all. They will be, once Redis is back.
    pub async fn told(mut self, redis: &Redis) -> Result<(), Unavailable> {
        // Once it has failed nobody waits for the rest.
        while let Some(record) = self.records.front() {
            self.sharing.write(redis, record).await?;
            if let Some(record) = self.records.pop_front() {
                self.sharing.waiting.lock().remember(None, record);
            }
        }
        Ok(())
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut waiting = self.sharing.waiting.lock();
        self.records.drain(..).for_each(|record| waiting.put_off((None, record)));
    }
}

/// Whether there is no room for one more.
fn is_full(records: &VecDeque<Told>, record: &str) -> bool {
    records.len() >= MOST || records.iter().map(|(_, known)| known.len()).sum::<usize>() + record.len() > MOST_BYTES
}

/// What stands for more than can be remembered.
fn everything(soft: bool) -> Option<Arc<str>> {
    Order { soft, purges: vec![Purge::Everything] }.records().pop()
}

fn is_old((at, _): &Told) -> bool {
    at.is_some_and(|at| at.elapsed() > REPEATED)
}

impl Outbox {
    /// `first`: when it was told before.
    fn remember(&mut self, first: Option<Instant>, record: Arc<str>) {
        // Not as of now: what is told again and again would never be old.
        let record = (first.or_else(|| Some(Instant::now())), record);
        while self.told.front().is_some_and(is_old) {
            self.told.pop_front();
        }
        if !is_full(&self.told, &record.1) {
            return self.told.push_back(record);
        }
        self.told.clear();
        self.told.extend(everything(false).map(|all| (Some(Instant::now()), all)));
    }

    fn put_off(&mut self, record: Told) {
        if !is_full(&self.untold, &record.1) {
            return self.untold.push_back(record);
        }
        self.untold.clear();
        self.untold.extend(everything(false).map(|all| (None, all)));
    }

    /// Redis has lost what it was told.
    fn repeat(&mut self) {
        let again = std::mem::take(&mut self.told);
        again.into_iter().filter(|record| !is_old(record)).for_each(|record| self.put_off(record));
    }
}

/// Where a stream begins.
const NOTHING: &str = "0-0";

fn stream_of(redis: &Redis) -> String {
    format!("{}{{cache}}:purges", redis.prefix())
}

/// The Redis of the generation that serves; and in which answers are kept, and how, if they are.
pub type Current = (Arc<Redis>, Option<(Arc<Redis>, Settings)>);

/// Does what the other gateways tell, and tells them what waits for that, for as long as the process lives. Answers are looked for in Redis
/// only as long as that goes well. `current` is there if the generation that serves has a Redis and a cache.
pub async fn follow(cache: &'static Cache, current: impl Fn() -> Option<Current> + Send, tallies: &Tallies) {
    let (mut following, mut was_bound): (Option<Following>, bool) = (None, false);
    loop {
        tokio::time::sleep(EVERY).await;
        let Some((redis, answers)) = current() else {
            following = None;
            if let Some(tier) = cache.storage.redis.get() {
                tier.bind(None);
                tier.set(None);
            }
            continue;
        };
        let known = following.take().filter(|known| Arc::ptr_eq(&known.redis, &redis));
        let step = following.insert(known.unwrap_or_else(|| {
            if let Some(tier) = cache.storage.redis.get() {
                tier.bind(None);
            }
            Following::new(cache, redis, Figures::new(tallies))
        }));
        if let Some((answers, _)) = &answers
            && !step.bound.as_ref().is_some_and(|bound| bound.is_of(answers))
        {
            let bound = Arc::new(Bound::new(answers, std::mem::replace(&mut was_bound, true)));
            cache.redis(tallies).bind(Some(bound.clone()));
            cache.redis_bound.send_replace(());
            // It has to hear all that was purged before it is looked into.
            (step.bound, step.is_primed) = (Some(bound), false);
            step.is_apart = !Arc::ptr_eq(answers, &step.redis);
        }
        step.step().await;
        if let Some(tier) = cache.storage.redis.get() {
            tier.set(answers.map(|(_, settings)| settings));
        }
    }
}

/// When a record was written, by the clock of its Redis in microseconds: at the latest.
fn time_of(id: &str) -> u64 {
    let millis = id.split('-').next().and_then(|millis| millis.parse::<u64>().ok());
    millis.map_or(u64::MAX, |millis| millis.saturating_mul(1_000).saturating_add(999))
}

/// How far the stream of one Redis was followed.
struct Following {
    cache: &'static Cache,
    redis: Arc<Redis>,
    /// Where it has answers as well.
    bound: Option<Arc<Bound>>,
    /// They are kept in another one than the purges, and may outlive those.
    is_apart: bool,
    /// All was heard that was purged before there was this.
    is_primed: bool,
    /// Redis has lost what was purged, and those who start now do not know of it.
    has_lost: bool,
    seen: String,
    answered: Instant,
    /// Something was asked for in vain since Redis answered last.
    fails: bool,
    /// It goes on from what was heard when what is on disk was written, and has not heard all since.
    is_rewound: bool,
    /// So many have come since, where that was nothing.
    since_nothing: Option<usize>,
    /// The disk knows that it listens.
    is_noted: bool,
    figures: Figures,
}

/// What is counted of it.
pub struct Figures {
    behind: Arc<Gauge>,
    heard: Arc<Counter>,
    missed: Arc<Counter>,
}

impl Figures {
    pub fn new(tallies: &Tallies) -> Self {
        let counter = |name, help| tallies.counter(name, help, &[]);
        let help = "Time since the other gateways' purges were last heard of.";
        Figures {
            behind: tallies.gauge("portcullis_cache_purges_behind_seconds", help, &[]),
            heard: counter("portcullis_cache_purges_heard_total", "Orders to purge that other gateways gave."),
            missed: counter(
                "portcullis_cache_purges_missed_total",
                "Times that purges may have been missed, so that all was stale.",
            ),
        }
    }
}

impl Following {
    /// From the stream's beginning: what was purged while this process was on its way here concerns what it has stored meanwhile.
    fn new(cache: &'static Cache, redis: Arc<Redis>, figures: Figures) -> Self {
        Following {
            cache,
            redis,
            bound: None,
            has_lost: false,
            is_apart: false,
            is_primed: false,
            seen: NOTHING.to_owned(),
            answered: Instant::now(),
            fails: false,
            is_rewound: false,
            since_nothing: None,
            is_noted: false,
            figures,
        }
    }

    async fn step(&mut self) {
        let began = Moment::now().get();
        let done = self.go_on().await;
        match done {
            Ok(()) => {
                self.answered = Instant::now();
                if let Some(bound) = &self.bound {
                    bound.has_heard_all(began);
                }
                if std::mem::take(&mut self.fails) {
                    log::info!("the other gateways' purges are heard again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    log::warn!(
                        "Redis does not answer ({error}): until it does, what is purged goes from the cache of this gateway alone, and \
                         what others purge stays in it; requests are answered as before"
                    );
                }
            }
        }
        self.figures.behind.set(if self.fails { self.answered.elapsed().as_secs().max(1) } else { 0 });
    }

    async fn go_on(&mut self) -> Result<(), Unavailable> {
        self.prime().await?;
        self.hear().await?;
        self.tell().await
    }

    /// Hears of all that was purged before, for what is kept in Redis: that may be older than this process.
    async fn prime(&mut self) -> Result<(), Unavailable> {
        let Some(bound) = self.bound.as_ref().filter(|_| !self.is_primed) else { return Ok(()) };
        let (mut seen, mut count, mut first) = (NOTHING.to_owned(), 0, None);
        loop {
            let news = self.news(&seen).await?;
            if !matches!(&*news.how, "all" | "more") {
                // It was lost, or went on, meanwhile.
                (seen, count, first) = (NOTHING.to_owned(), 0, None);
                continue;
            }
            for word in &news.words {
                first.get_or_insert(time_of(&word.id));
                count += 1;
                note(bound, word);
            }
            seen = news.last;
            if news.how == "all" {
                break;
            }
        }
        if let Some(first) = first.filter(|_| count >= KEPT) {
            // There may have been others before, which nobody remembers.
            bound.forget_before(first);
        }
        if count == 0 && self.is_apart {
            self.begin();
        }
        self.is_primed = true;
        Ok(())
    }

    /// The list of purges is empty, and answers are kept elsewhere: whether it was lost nobody can tell. It is given a beginning, and what was
    /// stored before that counts as purged.
    fn begin(&self) {
        if let Ok(record) = serde_json::to_string(&Order { soft: false, purges: Vec::new() }) {
            self.cache.sharing.waiting.lock().put_off((None, record.into()));
        }
    }

    async fn hear(&mut self) -> Result<(), Unavailable> {
        let disk = self.cache.disk();
        if let Some(until) = disk.and_then(|disk| disk.take_heard(&stream_of(&self.redis))) {
            // What is on disk has heard no more than this.
            self.seen = until.into();
            self.is_rewound = true;
            self.since_nothing = (self.seen == NOTHING).then_some(0);
        }
        loop {
            // Wherever it breaks off, it goes on from there.
            let news = self.news(&self.seen).await?;
            match &*news.how {
                "all" | "more" => {}
                "lost" => {
                    log::warn!("Redis has lost purges of the cache: all that is stored counts as stale");
                    self.missed(true);
                    self.has_lost = self.bound.is_some();
                    // What the others have told it since.
                    self.seen = NOTHING.to_owned();
                    continue;
                }
                _ => {
                    log::warn!("more of the cache was purged than Redis remembers: all that is stored is forgotten");
                    self.missed(false);
                }
            }
            for word in &news.words {
                // Its own as well: who has told of it may not have known Redis's time.
                if let Some(bound) = &self.bound {
                    note(bound, word);
                }
                self.has_lost &= !word.is_everything();
                if !word.is_own {
                    self.obey(&word.what);
                }
            }
            if let Some(since) = &mut self.since_nothing {
                *since += news.words.len();
            }
            if (self.seen != news.last || !self.is_noted)
                && let Some(disk) = disk
            {
                // Even if that is nothing: the next process is to wait for what came after it.
                self.is_noted = true;
                // Behind what it was that was heard.
                disk.hear(Moment::now().get(), &stream_of(&self.redis), &news.last);
            }
            self.seen = news.last;
            if news.how != "more" {
                if self.since_nothing.take().is_some_and(|since| since >= KEPT) {
                    // There may have been others before the first of them, which nobody remembers.
                    log::warn!("more of the cache was purged than Redis remembers: all that is stored is forgotten");
                    self.missed(false);
                }
                if let Some(disk) = disk.filter(|_| std::mem::take(&mut self.is_rewound)) {
                    disk.has_heard();
                }
                if std::mem::take(&mut self.has_lost)
                    && let Some(all) = everything(true)
                {
                    // The first of the gateways says so to all who come later: what Redis has may be from before.
                    self.cache.sharing.waiting.lock().put_off((None, all));
                    if self.is_apart {
                        self.begin();
                    }
                }
                return Ok(());
            }
        }
    }

    /// Nobody knows what has been purged; nor whether Redis, if it is another one now, has been told of what was purged here.
    fn missed(&self, soft: bool) {
        self.figures.missed.add(1);
        let _ = self.cache.purge(&Purge::Everything, soft);
        self.cache.sharing.waiting.lock().repeat();
    }

    /// What there is beyond what was seen.
    async fn news(&self, seen: &str) -> Result<News, Unavailable> {
        let (key, count, bytes) = (stream_of(&self.redis), (BATCH + 1).to_string(), BATCH_BYTES.to_string());
        let args = [seen.as_bytes(), count.as_bytes(), bytes.as_bytes()];
        let sent = Moment::now().get();
        let answer: Vec<String> = self.redis.aside(PATIENCE).eval(&NEWS, &[key.as_bytes()], &args).await?;
        let received = Moment::now().get();
        let Some(([how, last, seconds, micros], rest)) = answer.split_first_chunk::<4>() else {
            return Err(Unavailable::Nonsense);
        };
        if let (Some(bound), Ok(seconds), Ok(micros)) = (&self.bound, seconds.parse::<u64>(), micros.parse::<u64>()) {
            bound.look(seconds.saturating_mul(1_000_000).saturating_add(micros), sent, received);
        }
        let (words, _) = rest.as_chunks::<3>();
        let word = |[id, by, what]: &[String; 3]| {
            let is_own = *by == self.cache.sharing.name;
            Word { id: id.clone(), is_own, what: what.clone() }
        };
        Ok(News { how: how.clone(), last: last.clone(), words: words.iter().map(word).collect() })
    }

    fn obey(&self, word: &str) {
        match serde_json::from_str::<Order>(word) {
            Ok(order) => {
                self.figures.heard.add(u64::from(!order.purges.is_empty()));
                for purge in &order.purges {
                    let _ = self.cache.purge_own(purge, order.soft);
                }
            }
            // Another version of this program may say it otherwise.
            Err(_) => {
                log::error!("another gateway's word on the cache cannot be read: all that is stored counts as stale");
                self.figures.missed.add(1);
                let _ = self.cache.purge_own(&Purge::Everything, true);
            }
        }
    }

    async fn tell(&self) -> Result<(), Unavailable> {
        let sharing = &self.cache.sharing;
        loop {
            let next = sharing.waiting.lock().untold.front().cloned();
            let Some((first, record)) = next else { return Ok(()) };
            let id = sharing.write(&self.redis, &record).await?;
            if let Some(bound) = &self.bound {
                note(bound, &Word { id, is_own: true, what: record.to_string() });
            }
            let mut waiting = sharing.waiting.lock();
            // Unless too many have come meanwhile.
            if waiting.untold.front().is_some_and(|(_, known)| Arc::ptr_eq(known, &record)) {
                waiting.untold.pop_front();
            }
            waiting.remember(first, record);
        }
    }
}

struct News {
    how: String,
    last: String,
    words: Vec<Word>,
}

struct Word {
    id: String,
    /// This gateway has said it.
    is_own: bool,
    what: String,
}

impl Word {
    fn is_everything(&self) -> bool {
        serde_json::from_str::<Order>(&self.what).is_ok_and(|order| order.purges.contains(&Purge::Everything))
    }
}

/// Holds what is in Redis against that.
fn note(bound: &Bound, word: &Word) {
    let at = time_of(&word.id);
    match serde_json::from_str::<Order>(&word.what) {
        // The list's beginning.
        Ok(order) if order.purges.is_empty() => bound.forget_before(at),
        Ok(order) => order.purges.iter().for_each(|purge| bound.purged(purge, order.soft, at)),
        Err(_) => bound.purged(&Purge::Everything, true, at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(count: usize, length: usize) -> Order {
        let purges = (0..count).map(|number| Purge::Host(format!("{}{number}", "x".repeat(length)))).collect();
        Order { soft: true, purges }
    }

    #[test]
    fn an_order_is_written_in_short_records() {
        for (count, length) in [(1, 3), (1_000, 10), (1_000, 1_024), (100, 8_192), (1, 100_000)] {
            let records = order(count, length).records();
            assert!(records.iter().all(|record| record.len() <= RECORD + length + 64), "{count} {length}");
            let read: Vec<Order> = records.iter().map(|record| serde_json::from_str(record).unwrap()).collect();
            assert!(read.iter().all(|order| order.soft));
            let purges: Vec<Purge> = read.into_iter().flat_map(|order| order.purges).collect();
            assert_eq!(purges, order(count, length).purges);
        }
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_of_it_is_lost() {
        let purged = |records: &VecDeque<Told>| -> Vec<Purge> {
            records.iter().flat_map(|(_, text)| serde_json::from_str::<Order>(text).unwrap().purges).collect()
        };
        let mut outbox = Outbox::default();
        for number in 0..3 * MOST {
            let record = order(1, 1 + number).records().pop().unwrap();
            outbox.put_off((None, record.clone()));
            outbox.remember(None, record);
            for records in [&outbox.untold, &outbox.told] {
                assert!(records.len() <= MOST && records.iter().map(|(_, text)| text.len()).sum::<usize>() <= MOST_BYTES);
                assert!(number < MOST || purged(records).contains(&Purge::Everything), "{number}");
            }
        }
        // What was told is told again, once.
        let (mut outbox, first) = (Outbox::default(), Instant::now());
        outbox.remember(Some(first), "a".into());
        outbox.repeat();
        assert_eq!((outbox.told.len(), outbox.untold.front()), (0, Some(&(Some(first), "a".into()))));
    }
}
