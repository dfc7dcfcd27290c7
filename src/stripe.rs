//! Counters that threads do not fight over: every thread has a cache line of its own, readers add the lines up.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// More stripes than this cost memory and bring nothing: an endpoint keeps one line of 64 bytes per stripe.
const MOST_STRIPES: usize = 64;

/// How many stripes there are: the number of cores, rounded up to a power of two.
fn stripes() -> usize {
    static STRIPES: OnceLock<usize> = OnceLock::new();
    *STRIPES.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.next_power_of_two().min(MOST_STRIPES)
    })
}

/// This thread's stripe. Threads get theirs in the order in which they first ask; with more threads than stripes some share one,
/// which is slower and never wrong.
fn this_stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static MINE: Cell<usize> = const { Cell::new(usize::MAX) } }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) & (stripes() - 1));
        }
        mine.get()
    })
}

/// A cache line of its own for `T`.
#[repr(align(64))]
struct Line<T>(T);

/// One `T` per stripe.
pub struct Striped<T> {
    lines: Box<[Line<T>]>,
}

impl<T> Striped<T> {
    /// `new` is told the number of the stripe it makes.
    pub fn new(new: impl Fn(usize) -> T) -> Self {
        Striped { lines: (0..stripes()).map(|stripe| Line(new(stripe))).collect() }
    }

    /// This thread's part.
    pub fn mine(&self) -> Option<&T> {
        self.lines.get(this_stripe()).map(|line| &line.0)
    }

    /// How many parts there are.
    pub fn count(&self) -> usize {
        self.lines.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lines.iter().map(|line| &line.0)
    }
}

/// One `T` per stripe, made when a thread first asks for it. Unlike those of [`Striped`] they may lie side by side: for what is hardly
/// ever written.
pub struct PerStripe<T> {
    parts: Box<[OnceLock<T>]>,
}

impl<T> Default for PerStripe<T> {
    fn default() -> Self {
        PerStripe { parts: (0..stripes()).map(|_| OnceLock::new()).collect() }
    }
}

impl<T> PerStripe<T> {
    /// This thread's part.
    pub fn mine(&self, new: impl FnOnce() -> T) -> Option<&T> {
        self.parts.get(this_stripe()).map(|part| part.get_or_init(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_lost_whatever_the_number_of_threads() {
        let counts = Striped::new(|_| AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 * stripes() {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counts.mine().unwrap().fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let total: usize = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert_eq!(total, 3000 * stripes());
    }
}
