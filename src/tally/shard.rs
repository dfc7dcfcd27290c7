//! Counting without contention: every thread that counts owns a slot, and a counter has a cell per slot.
//!
//! A thread takes a slot at its first count and gives it back when it ends. There are a few more slots than cores, which is what
//! a gateway with one runtime per core needs; threads beyond that share one more cell. A cell that only its owner writes is
//! increased by a plain load and store, which costs a fraction of an atomic read-modify-write; the shared cell takes the
//! latter. Sums wrap, so a gauge may be raised on one thread and lowered on another.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use parking_lot::Mutex;

/// Slots beyond the number of cores, for the threads that are not workers: the operator's API, health checks.
const SPARE: usize = 4;

/// Keeps a value on cache lines of its own: 128 bytes, because processors fetch lines in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Padded<T>(pub T);

/// How many threads can own a slot at once.
pub fn slots() -> usize {
    static SLOTS: OnceLock<usize> = OnceLock::new();
    *SLOTS.get_or_init(|| available_parallelism().map_or(1, usize::from) + SPARE)
}

/// The slots that no thread owns.
fn free() -> &'static Mutex<Vec<usize>> {
    static FREE: OnceLock<Mutex<Vec<usize>>> = OnceLock::new();
    FREE.get_or_init(|| Mutex::new((0..slots()).rev().collect()))
}

/// A thread's ownership of a slot, until the thread ends.
struct Lease(Option<usize>);

impl Drop for Lease {
    fn drop(&mut self) {
        // The lock hands what this thread counted over to the slot's next owner.
        if let Some(slot) = self.0.take() {
            free().lock().push(slot);
        }
    }
}

thread_local! {
    static LEASE: Lease = Lease(free().lock().pop());
}

/// The slot that this thread owns; `None` if all were taken when it first asked, or while it ends.
#[inline]
pub fn slot() -> Option<usize> {
    LEASE.try_with(|lease| lease.0).unwrap_or(None)
}

/// How this thread may increase the cells of its shard.
#[derive(Clone, Copy, Debug)]
pub struct Adder {
    exclusive: bool,
}

impl Adder {
    /// Adds to a cell of the shard that came with this adder.
    #[inline]
    pub fn add(self, cell: &AtomicU64, amount: u64) {
        if self.exclusive {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        } else {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

/// One `T` of cells per slot. Memory is taken at a thread's first count: what never counts costs nothing, however many cores.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: OnceLock<Shards<T>>,
}

#[derive(Debug)]
struct Shards<T> {
    own: Box<[OnceLock<Box<Padded<T>>>]>,
    shared: OnceLock<Box<Padded<T>>>,
}

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Sharded { shards: OnceLock::new() }
    }
}

impl<T: Default> Sharded<T> {
    /// Works on this thread's cells. `work` must not touch other cells with that adder.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce(&T, Adder) -> R) -> R {
        let shards = self.shards.get_or_init(|| Shards {
            own: std::iter::repeat_with(OnceLock::new).take(slots()).collect(),
            shared: OnceLock::new(),
        });
        match slot().and_then(|slot| shards.own.get(slot)) {
            Some(own) => work(&own.get_or_init(Default::default).0, Adder { exclusive: true }),
            None => work(&shards.shared.get_or_init(Default::default).0, Adder { exclusive: false }),
        }
    }

    /// Every shard that has counted.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.shards
            .get()
            .into_iter()
            .flat_map(|shards| shards.own.iter().chain(std::iter::once(&shards.shared)))
            .filter_map(|shard| shard.get().map(|shard| &shard.0))
    }
}

/// A sharded number: a counter, or a gauge that goes up and down.
#[derive(Debug, Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.with(|cell, adder| adder.add(cell, amount));
    }

    /// For a gauge. Need not happen on the thread that added.
    #[inline]
    pub fn sub(&self, amount: u64) {
        self.add(amount.wrapping_neg());
    }

    pub fn sum(&self) -> u64 {
        self.0.each().fold(0, |sum, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)))
    }

    /// A gauge's value. The shards are read one after the other, so that a change in between may be seen by half: never below 0.
    pub fn level(&self) -> u64 {
        let sum = self.sum();
        if sum > u64::MAX / 2 { 0 } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn more_threads_than_slots_lose_nothing() {
        let counter = Arc::new(Counter::default());
        let threads: Vec<_> = (0..slots() * 3)
            .map(|_| {
                let counter = counter.clone();
                std::thread::spawn(move || (0..20_000).for_each(|_| counter.add(1)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counter.sum(), slots() as u64 * 3 * 20_000);
    }

    #[test]
    fn slots_come_back_when_threads_end() {
        let counter = Arc::new(Counter::default());
        for _ in 0..slots() * 4 {
            let counter = counter.clone();
            std::thread::spawn(move || counter.add(1)).join().unwrap();
        }
        assert_eq!(counter.sum(), slots() as u64 * 4);
        assert!(counter.0.each().count() <= slots() + 1);
        let owner = std::thread::spawn(|| (slot(), slot())).join().unwrap();
        assert_eq!(owner.0, owner.1);
    }

    #[test]
    fn a_gauge_may_be_lowered_elsewhere() {
        let gauge = Arc::new(Counter::default());
        gauge.add(3);
        let there = gauge.clone();
        std::thread::spawn(move || there.sub(2)).join().unwrap();
        assert_eq!(gauge.level(), 1);
        gauge.sub(2);
        assert_eq!(gauge.level(), 0, "never below 0");
    }
}
