//! What is fetched while no client waits for it: behind the backs of clients that were given what is stored, and what goes on when its
//! request's time is over. It is in no line of the access log; so it is counted by what came of it, and what failed is said now and then.

use std::borrow::Cow;

use super::seldom::Seldom;
use super::words::Words;

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
    failures: Seldom,
}

impl Default for Background {
    fn default() -> Self {
        Background { counts: Words::new(OUTCOMES), failures: Seldom::every(QUIET) }
    }
}

impl Background {
    pub(super) fn count(&self, route: &str, service: &str, fetched: &Fetched) {
        self.counts.counter(fetched.word(), "").add(1);
        let Fetched::Failed(why) = fetched else { return };
        if let Some(unsaid) = self.failures.allow() {
            let more = if unsaid == 0 { String::new() } else { format!("; {unsaid} more since the last such line") };
            log::warn!("route `{route}`: what was fetched from `{service}` behind its clients' backs failed: {why}{more}");
        }
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
    fn all_are_counted() {
        let background = Background::default();
        for fetched in [Fetched::Stored, Fetched::Failed("gone".into()), Fetched::Failed("gone".into())] {
            background.count("r", "s", &fetched);
        }
        let mut counts = background.counts();
        counts.sort_unstable();
        assert_eq!(counts, [("failed", 2), ("stored", 1)]);
    }
}
