//! Whose turn it is to fetch what many want: one at a time for each place in the store, and the others wait for what comes of it.
//!
//! A fetch for which nobody waits, as nearly all are, costs a short lock to begin and one to end, and no memory of its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::entry::Index;
use super::flow::Flowing;

const SHARDS: usize = 64;
/// A backend that takes longer than this to answer no longer holds back the others that want the same: one of them asks again.
pub const OLDEST: Duration = Duration::from_secs(10);

/// What came of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, for a reason that says nothing about the next one: it is another's turn.
    Failed,
    /// It is stored.
    Stored,
    /// It cannot be stored, and what the others would get could not either: each asks for itself, and at once.
    Unfit,
}

#[derive(Default)]
struct Shard {
    fetching: Mutex<HashMap<Index, Fetching, ahash::RandomState>>,
    /// How many fetches have ended.
    ended: AtomicU64,
}

struct Fetching {
    number: u64,
    since: Instant,
    told: Option<watch::Sender<Heard>>,
    flowing: Option<Flowing>,
}

/// What those hear who wait.
#[derive(Clone)]
pub enum Heard {
    Nothing,
    /// It is on its way.
    Flowing(Flowing),
    Over(Verdict),
}

/// See the module.
pub struct Turns {
    shards: Box<[Shard]>,
    numbers: AtomicU64,
}

/// The right to fetch, until it is dropped.
pub struct Turn {
    turns: &'static Turns,
    index: Index,
    number: u64,
    verdict: Verdict,
}

/// Somebody else's turn.
pub struct Waiting {
    told: watch::Receiver<Heard>,
    /// How long it can last.
    left: Duration,
}

/// What there is to do for who has found nothing.
pub enum Next {
    Fetch(Turn),
    Wait(Waiting),
    /// A fetch has ended since it was looked: there may be an answer now.
    Look,
}

impl Turns {
    pub fn new() -> Self {
        Turns { shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect(), numbers: AtomicU64::new(0) }
    }

    fn shard(&self, index: &Index) -> Option<&Shard> {
        self.shards.get(usize::from(index.primary.last().copied().unwrap_or_default()) % SHARDS)
    }

    /// To be asked before one looks into the store, and told to [`Turns::take`].
    pub fn ended(&self, index: &Index) -> u64 {
        self.shard(index).map_or(0, |shard| shard.ended.load(Ordering::Acquire))
    }

    /// Takes the turn to fetch what belongs there, unless it is another's. One who has begun before something that makes what he gets
    /// useless loses it.
    pub fn take(&'static self, index: Index, looked: u64, outdated: impl Fn(Instant, Option<&Flowing>) -> bool) -> Next {
        let Some(shard) = self.shard(&index) else { return Next::Look };
        let mut fetching = shard.fetching.lock();
        let since = Instant::now();
        let mut place = fetching.entry(index);
        if let Entry::Occupied(other) = &mut place
            && !other.get().is_outdated(&outdated)
            && let Some(waiting) = other.get_mut().wait(since)
        {
            return Next::Wait(waiting);
        }
        if shard.ended.load(Ordering::Relaxed) != looked {
            return Next::Look;
        }
        if let Entry::Occupied(other) = &place
            && let Some(told) = &other.get().told
        {
            // Who has waited for it looks again.
            told.send_replace(Heard::Over(Verdict::Failed));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        place.insert_entry(Fetching { number, since, told: None, flowing: None });
        Next::Fetch(Turn { turns: self, index, number, verdict: Verdict::Failed })
    }

    /// Waits for another's turn without wanting one.
    pub fn others(&self, index: &Index, outdated: impl Fn(Instant, Option<&Flowing>) -> bool) -> Option<Waiting> {
        let mut fetching = self.shard(index)?.fetching.lock();
        // Mostly there is none, and then it takes no clock.
        fetching.get_mut(index).filter(|other| !other.is_outdated(&outdated))?.wait(Instant::now())
    }
}

impl Fetching {
    /// Whether it is `outdated`: by when it began, and by what is on its way, if anything is known of that.
    fn is_outdated(&self, outdated: impl Fn(Instant, Option<&Flowing>) -> bool) -> bool {
        outdated(self.since, self.flowing.as_ref())
    }

    /// `None` if it has taken too long.
    fn wait(&mut self, now: Instant) -> Option<Waiting> {
        let left = OLDEST.checked_sub(now.saturating_duration_since(self.since)).filter(|left| !left.is_zero())?;
        let flowing = || self.flowing.clone().map_or(Heard::Nothing, Heard::Flowing);
        let told = self.told.get_or_insert_with(|| watch::Sender::new(flowing())).subscribe();
        Some(Waiting { told, left })
    }
}

impl Turn {
    /// It is on its way, for all who want it.
    pub fn flows(&self, flowing: Flowing) {
        let Some(shard) = self.turns.shard(&self.index) else { return };
        let mut fetching = shard.fetching.lock();
        if let Some(own) = fetching.get_mut(&self.index).filter(|own| own.number == self.number) {
            if let Some(told) = &own.told {
                told.send_replace(Heard::Flowing(flowing.clone()));
            }
            own.flowing = Some(flowing);
        }
    }

    /// Waits until nobody waits for what comes of it.
    pub async fn unwanted(&self) {
        let told = {
            let Some(shard) = self.turns.shard(&self.index) else { return };
            let fetching = shard.fetching.lock();
            fetching.get(&self.index).filter(|own| own.number == self.number).and_then(|own| own.told.clone())
        };
        if let Some(told) = told {
            told.closed().await;
        }
    }

    /// It has ended so.
    pub fn end(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shard) = self.turns.shard(&self.index) else { return };
        let mut fetching = shard.fetching.lock();
        // It may have taken so long that another one has begun.
        let ended = match fetching.entry(self.index) {
            Entry::Occupied(own) if own.get().number == self.number => Some(own.remove()),
            _ => None,
        };
        shard.ended.fetch_add(1, Ordering::Release);
        drop(fetching);
        if let Some(told) = ended.and_then(|ended| ended.told) {
            told.send_replace(Heard::Over(self.verdict));
        }
    }
}

impl Waiting {
    /// What came of it; `None` if it took too long.
    pub async fn verdict(&mut self, most: Duration) -> Option<Verdict> {
        match self.heard(most, |heard| matches!(heard, Heard::Over(_))).await {
            Some(Heard::Over(verdict)) => Some(verdict),
            _ => None,
        }
    }

    /// The first news of it.
    pub async fn news(&mut self, most: Duration) -> Option<Heard> {
        self.heard(most, |heard| !matches!(heard, Heard::Nothing)).await
    }

    async fn heard(&mut self, most: Duration, is_it: impl FnMut(&Heard) -> bool) -> Option<Heard> {
        match tokio::time::timeout(self.left.min(most), self.told.wait_for(is_it)).await {
            Ok(Ok(heard)) => Some(heard.clone()),
            // Nobody is left to tell: another one took the place of a fetch that was too old.
            Ok(Err(_)) => Some(Heard::Over(Verdict::Failed)),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> &'static Turns {
        Box::leak(Box::new(Turns::new()))
    }

    fn index(byte: u8) -> Index {
        Index { primary: [byte; 16], variance: None }
    }

    fn take(turns: &'static Turns, index: Index) -> Next {
        turns.take(index, turns.ended(&index), |_, _| false)
    }

    #[tokio::test]
    async fn one_fetches_and_the_others_hear_of_it() {
        let turns = turns();
        for verdict in [Verdict::Stored, Verdict::Unfit, Verdict::Failed] {
            let Next::Fetch(turn) = take(turns, index(1)) else { panic!("nobody else fetches") };
            let Next::Fetch(other) = take(turns, index(2)) else { panic!("another one") };
            assert!(turns.others(&index(3), |_, _| false).is_none());
            let waiting: Vec<_> = (0..10)
                .map(|_| match take(turns, index(1)) {
                    Next::Wait(mut waiting) => tokio::spawn(async move { waiting.verdict(Duration::from_secs(9)).await }),
                    _ => panic!("it is taken"),
                })
                .collect();
            drop(other);
            turn.end(verdict);
            for told in waiting {
                assert_eq!(told.await.unwrap(), Some(verdict));
            }
        }
        assert!(turns.shards.iter().all(|shard| shard.fetching.lock().is_empty()));
    }

    #[tokio::test]
    async fn who_looked_before_a_fetch_ended_looks_again() {
        let turns = turns();
        let looked = turns.ended(&index(1));
        let Next::Fetch(turn) = take(turns, index(1)) else { panic!("nobody else fetches") };
        turn.end(Verdict::Stored);
        assert!(matches!(turns.take(index(1), looked, |_, _| false), Next::Look));
        assert!(matches!(take(turns, index(1)), Next::Fetch(_)));
    }

    #[tokio::test]
    async fn one_that_was_begun_too_soon_is_not_waited_for() {
        let turns = turns();
        let Next::Fetch(old) = take(turns, index(1)) else { panic!("nobody else fetches") };
        let Next::Wait(mut before) = take(turns, index(1)) else { panic!("it is taken") };
        let change = Instant::now();
        let outdated = |since, _: Option<&Flowing>| since <= change;
        assert!(turns.others(&index(1), outdated).is_none());
        // As its own fetch does, whose client has left, and which goes on for those who wait.
        let _told = turns.shard(&index(1)).unwrap().fetching.lock().get(&index(1)).unwrap().told.clone().unwrap();
        let Next::Fetch(new) = turns.take(index(1), turns.ended(&index(1)), outdated) else { panic!("that was before") };
        let Next::Wait(mut after) = turns.take(index(1), turns.ended(&index(1)), outdated) else { panic!("this is after") };
        assert_eq!(before.verdict(Duration::from_secs(9)).await, Some(Verdict::Failed), "who waited looks again");
        old.end(Verdict::Stored);
        new.end(Verdict::Stored);
        assert_eq!(after.verdict(Duration::from_secs(9)).await, Some(Verdict::Stored));
    }

    #[tokio::test]
    async fn one_that_takes_too_long_loses_its_turn_and_ends_nobody_elses() {
        let turns = turns();
        let Next::Fetch(old) = take(turns, index(1)) else { panic!("nobody else fetches") };
        let Next::Wait(mut waiting) = take(turns, index(1)) else { panic!("it is taken") };
        assert_eq!(waiting.verdict(Duration::ZERO).await, None);
        let long_ago = Instant::now().checked_sub(OLDEST).unwrap();
        turns.shard(&index(1)).unwrap().fetching.lock().get_mut(&index(1)).unwrap().since = long_ago;
        let Next::Fetch(new) = take(turns, index(1)) else { panic!("it was too old") };
        drop(old);
        let Next::Wait(mut waiting) = take(turns, index(1)) else { panic!("it is the new one's turn") };
        new.end(Verdict::Stored);
        assert_eq!(waiting.verdict(Duration::from_secs(9)).await, Some(Verdict::Stored));
    }
}
