//! What one gateway's cache has lost, told to all that share a Redis: what an operator purges, and what requests have changed.
//!
//! Two streams in Redis, which every gateway looks at a few times a second. What is purged here is purged at once, and written down for the
//! others; where that fails it is kept and told when Redis is back. A gateway that has missed purges, because Redis has lost them, takes all
//! that it has stored for stale; one that was away for longer than purges are kept forgets all of it. What requests have changed (RFC 9111,
//! section 4.4) is told as well, but nobody makes up for it: the standard asks for it of the cache that the request passes, and no more.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::{Cache, Purge};
use crate::redis::{Redis, Script, Unavailable, cmd};
use crate::tally::{Counter, Gauge, Tallies};

/// How often a gateway looks for news.
const EVERY: Duration = Duration::from_millis(200);
/// For one command: no request waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// About so many of each are remembered in Redis.
const PURGES_KEPT: usize = 1_000;
const CHANGES_KEPT: usize = 200;
/// Records of one look.
const BATCH: usize = 500;
/// Orders that wait for Redis; beyond that the others are to forget everything.
const MOST_UNTOLD: usize = 1_000;
/// Changes that wait to be told.
const MOST_CHANGED: usize = 1_024;
/// Targets of one record.
const TOGETHER: usize = 256;
/// For how long an order is told again if Redis turns out to have lost what it was told.
const REPEATED: Duration = Duration::from_secs(60);
const MOST_REPEATED: usize = 1_000;

/// `{ how, last, by, what, by, what ... }`: `lost` where what was seen is not there any more, nor anything after it, `trimmed` where there is
/// but something after it, else `next`. Seen is `0-0` by who has seen nothing.
static NEWS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local seen = ARGV[1]
         local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
         local last = newest and newest[1] or '0-0'
         if seen == last then return { 'next', last } end
         local found = redis.call('XRANGE', KEYS[1], seen, '+', 'COUNT', ARGV[2])
         local from = 1
         if seen ~= '0-0' then
           if not found[1] then return { 'lost', last } end
           if found[1][1] ~= seen then return { 'trimmed', last } end
           from = 2
         end
         local answer = { 'next', found[#found][1] }
         for i = from, #found do
           answer[#answer + 1] = found[i][2][2]
           answer[#answer + 1] = found[i][2][4]
         end
         return answer",
    )
});

/// What is purged at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub soft: bool,
    pub purges: Vec<Purge>,
}

/// What a record says. Another version of this program may say it otherwise.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Purge(Order),
    /// Hosts, paths and queries.
    Changed(Vec<(String, String, Option<String>)>),
}

/// What this gateway has to tell.
pub struct Sharing {
    /// This gateway's name among the others.
    name: String,
    /// There is a Redis to tell it to.
    active: AtomicBool,
    waiting: Mutex<Outbox>,
}

#[derive(Default)]
struct Outbox {
    untold: VecDeque<Arc<str>>,
    told: VecDeque<(Instant, Arc<str>)>,
    changed: Vec<(String, String, Option<String>)>,
    dropped: u64,
}

impl Sharing {
    pub(super) fn new() -> Self {
        let half = |which: u8| RandomState::new().hash_one((which, std::process::id()));
        Sharing { name: format!("{:016x}{:016x}", half(0), half(1)), active: AtomicBool::new(false), waiting: Mutex::default() }
    }

    /// A request has changed this.
    pub(super) fn changed(&self, host: &str, path: &str, query: Option<&str>) {
        if !self.active.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.changed.len() >= MOST_CHANGED {
            waiting.dropped += 1;
            return;
        }
        waiting.changed.push((host.to_owned(), path.to_owned(), query.map(str::to_owned)));
    }

    /// Tells the other gateways of what was purged here.
    ///
    /// # Errors
    /// They have not been told. They will be, once Redis is back.
    pub async fn tell(&self, redis: &Redis, order: &Order) -> Result<(), Unavailable> {
        let Ok(word) = serde_json::to_string(&Word::Purge(order.clone())) else { return Err(Unavailable::Nonsense) };
        let word: Arc<str> = word.into();
        let told = self.write(redis, PURGES, PURGES_KEPT, &word).await;
        let mut waiting = self.waiting.lock();
        match told {
            Ok(()) => waiting.remember(word),
            Err(_) => waiting.put_off(word),
        }
        told
    }

    async fn write(&self, redis: &Redis, stream: &str, kept: usize, word: &str) -> Result<(), Unavailable> {
        let mut add = cmd("XADD");
        add.arg(stream_of(redis, stream)).arg("MAXLEN").arg("~").arg(kept).arg("*");
        add.arg("by").arg(&self.name).arg("what").arg(word);
        redis.run_within::<String>(PATIENCE, &add).await.map(drop)
    }
}

impl Outbox {
    fn remember(&mut self, word: Arc<str>) {
        let now = Instant::now();
        let old = |(at, _): &(Instant, Arc<str>)| now.saturating_duration_since(*at) > REPEATED;
        while self.told.front().is_some_and(old) || self.told.len() >= MOST_REPEATED {
            self.told.pop_front();
        }
        self.told.push_back((now, word));
    }

    fn put_off(&mut self, word: Arc<str>) {
        if self.untold.len() < MOST_UNTOLD {
            return self.untold.push_back(word);
        }
        let all = Word::Purge(Order { soft: false, purges: vec![Purge::Everything] });
        self.untold.clear();
        self.untold.extend(serde_json::to_string(&all).ok().map(Arc::from));
    }

    /// Redis has lost what it was told.
    fn repeat(&mut self) {
        let now = Instant::now();
        let again = std::mem::take(&mut self.told);
        let young = again.into_iter().filter(|(at, _)| now.saturating_duration_since(*at) <= REPEATED);
        young.for_each(|(_, word)| self.put_off(word));
    }
}

const PURGES: &str = "purges";
const CHANGES: &str = "changes";
/// Where a stream begins.
const NOTHING: &str = "0-0";

fn stream_of(redis: &Redis, name: &str) -> String {
    format!("{}{{cache}}:{name}", redis.prefix())
}

/// Does what the other gateways tell, and tells them what waits for that, for as long as the process lives. `current` is the Redis of the
/// generation that serves, if it has one and a cache.
pub async fn follow(
    cache: &'static Cache,
    current: impl Fn() -> Option<Arc<Redis>> + Send,
    figures: impl Fn() -> Figures + Send,
) {
    let mut following: Option<Following> = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let redis = current();
        cache.sharing.active.store(redis.is_some(), Ordering::Relaxed);
        let Some(redis) = redis else {
            following = None;
            continue;
        };
        if following.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.redis, &redis)) {
            following = Some(Following::new(cache, redis, figures()));
        }
        if let Some(following) = &mut following {
            following.step().await;
        }
    }
}

/// How far the streams of one Redis were followed.
struct Following {
    cache: &'static Cache,
    redis: Arc<Redis>,
    purges: String,
    changes: String,
    answered: Instant,
    /// Something was asked for in vain since Redis answered last.
    fails: bool,
    figures: Figures,
}

/// What is counted of it.
pub struct Figures {
    behind: Arc<Gauge>,
    heard: Arc<Counter>,
    missed: Arc<Counter>,
    dropped: Arc<Counter>,
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
            dropped: counter("portcullis_cache_changes_untold_total", "Changes that the other gateways were not told of."),
        }
    }
}

impl Following {
    /// From the streams' beginnings: what was purged while this process was on its way here concerns what it has stored meanwhile.
    fn new(cache: &'static Cache, redis: Arc<Redis>, figures: Figures) -> Self {
        let (purges, changes) = (NOTHING.to_owned(), NOTHING.to_owned());
        Following { cache, redis, purges, changes, answered: Instant::now(), fails: false, figures }
    }

    async fn step(&mut self) {
        let done = self.exchange().await;
        match done {
            Ok(()) => {
                self.answered = Instant::now();
                if std::mem::take(&mut self.fails) {
                    log::info!("the other gateways' purges are heard again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    log::error!("the cache does not hear of the other gateways' purges, nor they of its own: Redis: {error}");
                }
            }
        }
        self.figures.behind.set(if self.fails { self.answered.elapsed().as_secs().max(1) } else { 0 });
    }

    async fn exchange(&mut self) -> Result<(), Unavailable> {
        self.hear_purges().await?;
        self.tell_purges().await?;
        self.tell_changes().await?;
        loop {
            let news = self.news(CHANGES, &self.changes).await?;
            news.words.iter().for_each(|word| self.obey(word));
            self.changes = news.last;
            if news.words.len() < BATCH - 1 {
                return Ok(());
            }
        }
    }

    async fn hear_purges(&mut self) -> Result<(), Unavailable> {
        loop {
            let news = self.news(PURGES, &self.purges).await?;
            match &*news.how {
                "next" => {}
                "lost" => {
                    log::warn!("Redis has lost purges of the cache: all that is stored counts as stale");
                    self.figures.missed.add(1);
                    self.cache.purge(&Purge::Everything, true);
                    self.cache.sharing.waiting.lock().repeat();
                    // What the others have told it since.
                    self.purges = NOTHING.to_owned();
                    continue;
                }
                _ => {
                    log::warn!("more of the cache was purged than Redis remembers: all that is stored is forgotten");
                    self.figures.missed.add(1);
                    self.cache.purge(&Purge::Everything, false);
                }
            }
            news.words.iter().for_each(|word| self.obey(word));
            self.purges = news.last;
            if news.words.len() < BATCH - 1 {
                return Ok(());
            }
        }
    }

    /// What there is beyond what was seen.
    async fn news(&self, stream: &str, seen: &str) -> Result<News, Unavailable> {
        let (key, count) = (stream_of(&self.redis, stream), BATCH.to_string());
        let args = [seen.as_bytes(), count.as_bytes()];
        let answer: Vec<String> = self.redis.eval_within(PATIENCE, &NEWS, &[key.as_bytes()], &args).await?;
        let mut answer = answer.into_iter();
        let (Some(how), Some(last)) = (answer.next(), answer.next()) else { return Err(Unavailable::Nonsense) };
        let rest: Vec<String> = answer.collect();
        let (pairs, _) = rest.as_chunks::<2>();
        let words = pairs.iter().map(|[by, what]| (*by != self.cache.sharing.name).then(|| what.clone())).collect();
        Ok(News { how, last, words })
    }

    fn obey(&self, word: &Option<String>) {
        let Some(word) = word else { return };
        match serde_json::from_str(word) {
            Ok(Word::Purge(order)) => {
                self.figures.heard.add(1);
                order.purges.iter().for_each(|purge| self.cache.purge(purge, order.soft));
            }
            Ok(Word::Changed(targets)) => {
                let now = Moment::now();
                let changes = &self.cache.storage.changes;
                targets.iter().for_each(|(host, path, query)| changes.target(host, path, query.as_deref(), now));
            }
            Err(_) => {
                log::error!("another gateway's word on the cache cannot be read: all that is stored counts as stale");
                self.figures.missed.add(1);
                self.cache.purge(&Purge::Everything, true);
            }
        }
    }

    async fn tell_purges(&self) -> Result<(), Unavailable> {
        let sharing = &self.cache.sharing;
        loop {
            let next = sharing.waiting.lock().untold.front().cloned();
            let Some(word) = next else { return Ok(()) };
            sharing.write(&self.redis, PURGES, PURGES_KEPT, &word).await?;
            let mut waiting = sharing.waiting.lock();
            // Unless too many have come meanwhile.
            if waiting.untold.front().is_some_and(|first| Arc::ptr_eq(first, &word)) {
                waiting.untold.pop_front();
            }
            waiting.remember(word);
        }
    }

    async fn tell_changes(&self) -> Result<(), Unavailable> {
        let sharing = &self.cache.sharing;
        loop {
            let targets = {
                let mut waiting = sharing.waiting.lock();
                self.figures.dropped.add(std::mem::take(&mut waiting.dropped));
                let some = waiting.changed.len().min(TOGETHER);
                waiting.changed.drain(..some).collect::<Vec<_>>()
            };
            if targets.is_empty() {
                return Ok(());
            }
            let count = targets.len() as u64;
            let Ok(word) = serde_json::to_string(&Word::Changed(targets)) else { return Err(Unavailable::Nonsense) };
            let told = sharing.write(&self.redis, CHANGES, CHANGES_KEPT, &word).await;
            if told.is_err() {
                self.figures.dropped.add(count);
            }
            told?;
        }
    }
}

struct News {
    how: String,
    last: String,
    /// `None` for what this gateway has said itself.
    words: Vec<Option<String>>,
}
