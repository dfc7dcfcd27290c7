//! Where requests wait in line, one line for each key, over all cores of the process.
//!
//! A [`Gate`] at the head of each line says who may pass and when. Whoever arrives while others wait goes to the end; the one at the
//! head waits for its moment, and on leaving, served or not, wakes the next. A place that is dropped leaves its line at once, and
//! those behind it move up. So the order is that of arrival whatever core a request is on, and nothing wakes without a reason.
//!
//! Bounded: in the length of each line, in the number that wait in all lines, and in the number of keys. A line that nobody waits in
//! and whose gate has nothing to remember is forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Key, instant, nanoseconds};
use crate::tally::Gauge;

/// What stands at the head of a line. Its rule comes with every question, so that a reload may change it.
pub trait Gate: Default + Send {
    type Rule: Copy + Send + Sync;

    /// Lets one pass, if that may be now.
    fn pass(&mut self, rule: Self::Rule, now: u64) -> Pass;

    /// Whether there is nothing to remember.
    fn is_idle(&self, now: u64) -> bool;

    /// How long, in nanoseconds, one with so many before it would wait at least, as far as that can be known.
    fn delay(&self, rule: Self::Rule, before: usize, now: u64) -> u64;
}

#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    Now,
    /// Not before this moment, in nanoseconds.
    At(u64),
    /// When something is given back.
    Later,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub per_key: usize,
    pub in_all: usize,
    pub keys: usize,
}

/// Why nobody can wait here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// This line, or all lines together, are as long as they may be.
    Full,
    /// It would take longer than it may: so many nanoseconds in all.
    TooLong(u64),
}

/// What can be said on arrival.
pub enum Arrival {
    Passed,
    Refused(Refused),
    /// There is a place in the line.
    MayWait,
}

#[derive(Default)]
struct Line<G> {
    gate: G,
    waiting: VecDeque<Arc<Notify>>,
}

type Shard<G> = HashMap<Key, Line<G>, ahash::RandomState>;

const SHARDS: usize = 32;

/// The lines of one policy.
pub struct Lines<G> {
    hasher: ahash::RandomState,
    shards: Box<[Mutex<Shard<G>>]>,
    /// How many wait, in all lines.
    waiting: Arc<Gauge>,
}

impl<G: Gate> Lines<G> {
    /// `waiting` tells how many wait, in all lines.
    pub fn new(waiting: Arc<Gauge>) -> Self {
        Lines {
            hasher: ahash::RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            waiting,
        }
    }

    fn with<R>(&self, key: Key, work: impl FnOnce(&mut Shard<G>) -> R) -> Option<R> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards.get(index).map(|shard| work(&mut shard.lock()))
    }

    /// How many wait, in all lines.
    pub fn waiting(&self) -> usize {
        usize::try_from(self.waiting.get()).unwrap_or(usize::MAX)
    }

    /// Passes at once if nobody waits and the gate allows it; else says whether there is room to wait for at most `patience`
    /// nanoseconds.
    pub fn arrive(&self, key: Key, rule: G::Rule, bounds: Bounds, patience: u64, now: u64) -> Arrival {
        let arrived = self.with(key, |lines| {
            let Some(line) = bounded(lines, key, bounds.keys, now) else { return Arrival::Refused(Refused::Full) };
            if line.waiting.is_empty() && line.gate.pass(rule, now) == Pass::Now {
                return Arrival::Passed;
            }
            let delay = line.gate.delay(rule, line.waiting.len(), now);
            if delay > patience {
                return Arrival::Refused(Refused::TooLong(delay));
            }
            if line.waiting.len() >= bounds.per_key || self.waiting() >= bounds.in_all {
                return Arrival::Refused(Refused::Full);
            }
            Arrival::MayWait
        });
        arrived.unwrap_or(Arrival::Refused(Refused::Full))
    }

    /// Takes the last place in the line.
    pub fn join(&self, key: Key) -> Place<'_, G> {
        let ticket = Arc::new(Notify::new());
        self.waiting.add(1);
        self.with(key, |lines| {
            lines.entry(key).or_default().waiting.push_back(ticket.clone());
        });
        Place { lines: self, key, ticket }
    }

    /// Changes what the gate remembers, and wakes who is at the head: something was given back.
    pub fn give_back(&self, key: Key, change: impl FnOnce(&mut G)) {
        self.with(key, |lines| {
            let Some(line) = lines.get_mut(&key) else { return };
            change(&mut line.gate);
            if let Some(head) = line.waiting.front() {
                head.notify_one();
            } else if line.gate.is_idle(nanoseconds(Instant::now())) {
                lines.remove(&key);
            }
        });
    }

    /// Looks at what the gate of a key remembers. `None` if no more keys can be remembered.
    pub fn gate<R>(&self, key: Key, bounds: Bounds, now: u64, look: impl FnOnce(&mut G) -> R) -> Option<R> {
        self.with(key, |lines| bounded(lines, key, bounds.keys, now).map(|line| look(&mut line.gate))).flatten()
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// The line of a key. `None` if it would be a new one, there are as many as there may be (`keys` over all shards), and none can be
/// forgotten.
fn bounded<G: Gate>(lines: &mut Shard<G>, key: Key, keys: usize, now: u64) -> Option<&mut Line<G>> {
    let share = keys.div_ceil(SHARDS).max(1);
    if !lines.contains_key(&key) && lines.len() >= share {
        lines.retain(|_, line| !(line.waiting.is_empty() && line.gate.is_idle(now)));
        if lines.len() >= share {
            return None;
        }
    }
    Some(lines.entry(key).or_default())
}

/// A place in a line, until it is dropped.
pub struct Place<'a, G: Gate> {
    lines: &'a Lines<G>,
    key: Key,
    ticket: Arc<Notify>,
}

enum Step {
    Passed,
    Sleep(u64),
    Queued,
}

impl<G: Gate> Place<'_, G> {
    /// Waits for its turn. `false` if that has not come by `until`.
    pub async fn turn(&self, rule: G::Rule, until: Instant) -> bool {
        loop {
            match self.step(rule) {
                Step::Passed => return true,
                _ if Instant::now() >= until => return false,
                Step::Sleep(at) => tokio::time::sleep_until(instant(at).min(until).into()).await,
                // A late wake-up of this place itself is no harm: it looks again.
                Step::Queued => drop(tokio::time::timeout_at(until.into(), self.ticket.notified()).await),
            }
        }
    }

    fn step(&self, rule: G::Rule) -> Step {
        let step = self.lines.with(self.key, |lines| {
            let Some(line) = lines.get_mut(&self.key) else { return Step::Queued };
            if !line.waiting.front().is_some_and(|head| Arc::ptr_eq(head, &self.ticket)) {
                return Step::Queued;
            }
            // Read under the lock: with a moment from before it, a gate could be asked about the past.
            match line.gate.pass(rule, nanoseconds(Instant::now())) {
                Pass::Now => Step::Passed,
                Pass::At(at) => Step::Sleep(at),
                Pass::Later => Step::Queued,
            }
        });
        step.unwrap_or(Step::Queued)
    }
}

impl<G: Gate> Drop for Place<'_, G> {
    fn drop(&mut self) {
        self.lines.waiting.sub(1);
        self.lines.with(self.key, |lines| {
            let Some(line) = lines.get_mut(&self.key) else { return };
            let Some(at) = line.waiting.iter().position(|place| Arc::ptr_eq(place, &self.ticket)) else { return };
            line.waiting.remove(at);
            if at == 0
                && let Some(next) = line.waiting.front()
            {
                next.notify_one();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Opens once for each of its places.
    #[derive(Default)]
    struct Seats(usize);

    impl Gate for Seats {
        type Rule = usize;

        fn pass(&mut self, seats: usize, _: u64) -> Pass {
            if self.0 >= seats {
                return Pass::Later;
            }
            self.0 += 1;
            Pass::Now
        }

        fn is_idle(&self, _: u64) -> bool {
            self.0 == 0
        }

        fn delay(&self, _: usize, _: usize, _: u64) -> u64 {
            0
        }
    }

    const BOUNDS: Bounds = Bounds { per_key: 3, in_all: 4, keys: 1000 };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn who_leaves_makes_room_for_the_next_in_order() {
        let lines = Arc::new(Lines::<Seats>::new(Arc::default()));
        assert!(matches!(lines.arrive(Key::ALL, 1, BOUNDS, 0, 0), Arrival::Passed));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..3 {
            assert!(matches!(lines.arrive(Key::ALL, 1, BOUNDS, 0, 0), Arrival::MayWait));
            let (lines, order, (joined, wait)) = (lines.clone(), order.clone(), tokio::sync::oneshot::channel());
            tasks.push(tokio::spawn(async move {
                let place = lines.join(Key::ALL);
                joined.send(()).unwrap();
                assert!(place.turn(1, soon()).await);
                order.lock().push(number);
                drop(place);
                lines.give_back(Key::ALL, |seats| seats.0 -= 1);
            }));
            wait.await.unwrap();
        }
        assert!(matches!(lines.arrive(Key::ALL, 1, BOUNDS, 0, 0), Arrival::Refused(Refused::Full)));
        // The second gives up, wherever it stands.
        tasks.remove(1).abort();
        lines.give_back(Key::ALL, |seats| seats.0 -= 1);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 2]);
        assert_eq!((lines.waiting(), lines.keys()), (0, 0));
    }

    #[tokio::test]
    async fn patience_ends() {
        let lines = Lines::<Seats>::new(Arc::default());
        assert!(matches!(lines.arrive(Key::ALL, 1, BOUNDS, 0, 0), Arrival::Passed));
        let place = lines.join(Key::ALL);
        assert!(!place.turn(1, Instant::now() + Duration::from_millis(5)).await);
        drop(place);
        assert_eq!(lines.waiting(), 0);
    }

    #[test]
    fn keys_are_bounded_and_idle_ones_forgotten() {
        let lines = Lines::<Seats>::new(Arc::default());
        let bounds = Bounds { keys: SHARDS, ..BOUNDS };
        let full = (0..1000u32)
            .any(|n| matches!(lines.arrive(Key::text(&n.to_le_bytes()), 1, bounds, 0, 0), Arrival::Refused(Refused::Full)));
        assert!(full && lines.keys() <= SHARDS);
        (0..1000u32).for_each(|n| lines.give_back(Key::text(&n.to_le_bytes()), |seats| seats.0 = 0));
        assert_eq!(lines.keys(), 0);
    }

    #[test]
    fn who_only_looks_is_bounded_as_well() {
        let lines = Lines::<Seats>::new(Arc::default());
        let bounds = Bounds { keys: SHARDS, ..BOUNDS };
        let looked = (0..1000u32).filter(|n| lines.gate(Key::text(&n.to_le_bytes()), bounds, 0, |seats| seats.0 = 1).is_some());
        assert!((1..=SHARDS).contains(&looked.count()) && lines.keys() <= SHARDS);
    }
}
