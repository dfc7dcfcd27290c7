//! Lines that strangers could cause without end: one a second is written, and the next one tells how many were not.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Seldom {
    /// The second, counted from 1 at the start, in which a line was written last.
    last: AtomicU64,
    held_back: AtomicU64,
}

impl Seldom {
    pub const fn new() -> Self {
        Seldom { last: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; if so, how many were held back since the last one.
    pub fn allow(&self) -> Option<u64> {
        self.allow_in(BEGIN.elapsed().as_secs() + 1)
    }

    fn allow_in(&self, second: u64) -> Option<u64> {
        if self.last.swap(second, Ordering::Relaxed) == second {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
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
        let seldom = Seldom::new();
        assert_eq!(seldom.allow_in(1), Some(0));
        assert_eq!((seldom.allow_in(1), seldom.allow_in(1)), (None, None));
        assert_eq!(seldom.allow_in(2), Some(2));
        assert_eq!(seldom.allow_in(9), Some(0));
    }
}
