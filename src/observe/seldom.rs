//! Lines that strangers could cause without end: one is written in so many seconds, and the next one tells how many were not.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One kind of line.
#[derive(Debug)]
pub struct Seldom {
    /// For how many seconds none is written after one.
    quiet: u64,
    /// The second, counted from the start, in which a line was written last.
    last: AtomicU64,
    held_back: AtomicU64,
}

impl Seldom {
    /// One in so many seconds.
    pub const fn every(quiet: u64) -> Self {
        Seldom { quiet, last: AtomicU64::new(u64::MAX), held_back: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; if so, how many were held back since the last one.
    pub fn allow(&self) -> Option<u64> {
        self.allow_in(BEGIN.elapsed().as_secs())
    }

    fn allow_in(&self, second: u64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_due = second.abs_diff(last) >= self.quiet;
        if is_due && self.last.compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// ` (and 3 more)`, or nothing.
pub fn and_more(held_back: u64) -> String {
    if held_back == 0 { String::new() } else { format!(" (and {held_back} more before it)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_the_others() {
        let seldom = Seldom::every(1);
        assert_eq!(seldom.allow_in(1), Some(0));
        assert_eq!((seldom.allow_in(1), seldom.allow_in(1)), (None, None));
        assert_eq!(seldom.allow_in(2), Some(2));
        assert_eq!(seldom.allow_in(9), Some(0));
    }

    #[test]
    fn or_one_a_minute() {
        let seldom = Seldom::every(60);
        assert_eq!(seldom.allow_in(1_000), Some(0));
        assert_eq!((seldom.allow_in(1_000), seldom.allow_in(1_059)), (None, None));
        assert_eq!(seldom.allow_in(1_060), Some(2));
        assert_eq!(seldom.allow_in(500), Some(0), "the clock was set back");
    }
}
