//! What is fetched while no client waits for it: behind the backs of clients that were given what is stored, and what goes on when its
//! request's time is over. It is in no line of the access log; so it is counted by what came of it, and what failed is said now and then.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::words::Words;
use crate::clock;

/// A route's failures are said once in so many seconds.
const QUIET: u64 = 60;
/// As many as there are outcomes.
const OUTCOMES: usize = 8;

/// What came of such a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The service said that what is stored still holds.
    Validated,
    /// Its answer is stored.
    Stored,
    /// Its answer is not one to be stored, or there is no room for it.
    NotStored,
    /// Another gateway had fetched it meanwhile.
    Found,
    /// The service gave none, or an error in whose place what is stored stays; why.
    Failed(Cow<'static, str>),
}

impl Fetched {
    fn word(&self) -> &'static str {
        match self {
            Fetched::Validated => "validated",
            Fetched::Stored => "stored",
            Fetched::NotStored => "not_stored",
            Fetched::Found => "found",
            Fetched::Failed(_) => "failed",
        }
    }
}

/// A route's.
#[derive(Debug)]
pub struct Background {
    counts: Words,
    /// When a failure was said last, in seconds since 1970.
    said: AtomicU64,
    /// How many were not said since.
    unsaid: AtomicU64,
}

impl Default for Background {
    fn default() -> Self {
        Background { counts: Words::new(OUTCOMES), said: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }
}

impl Background {
    pub(super) fn count(&self, route: &str, service: &str, fetched: &Fetched) {
        self.counts.counter(fetched.word(), "").add(1);
        let Fetched::Failed(why) = fetched else { return };
        if let Some(unsaid) = self.is_due(clock::unix_seconds()) {
            let more = if unsaid == 0 { String::new() } else { format!("; {unsaid} more since the last such line") };
            log::warn!("route `{route}`: what was fetched from `{service}` behind its clients' backs failed: {why}{more}");
        }
    }

    /// How many failures were not said since the last one, if this one is to be.
    fn is_due(&self, now: u64) -> Option<u64> {
        let said = self.said.load(Ordering::Relaxed);
        // Whichever way the clock was set.
        let due = now.abs_diff(said) >= QUIET;
        if due && self.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Fetches by what came of them.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counts.counts().into_iter().map(|((outcome, _), count)| (outcome, count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said_once_a_minute_and_all_are_counted() {
        let background = Background::default();
        assert_eq!(background.is_due(1_000), Some(0));
        assert_eq!((background.is_due(1_000), background.is_due(1_059)), (None, None));
        assert_eq!(background.is_due(1_060), Some(2));
        assert_eq!(background.is_due(500), Some(0), "the clock was set back");
        for fetched in [Fetched::Stored, Fetched::Failed("gone".into()), Fetched::Failed("gone".into())] {
            background.count("r", "s", &fetched);
        }
        let mut counts = background.counts();
        counts.sort_unstable();
        assert_eq!(counts, [("failed", 2), ("stored", 1)]);
    }
}
