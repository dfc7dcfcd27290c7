//! The clock that gateways have in common: that of the Redis which knows what was purged.
//!
//! Moments are each process's own, and times of day may be set wrong, so what one gateway has asked for, and another one purged or changed,
//! is told apart by Redis's clock. Each gateway looks at it with every look for purges, a few times a second. Between the question and the
//! answer it may have said that at any time: whatever is made of it is rounded to the careful side.

use std::time::Duration;

use parking_lot::Mutex;

/// How long the best look counts before a worse one takes its place.
const YOUNG: u64 = 2_000_000_000;
/// After this nobody knows any more.
const OLDEST: u64 = 10_000_000_000;
/// A look whose answer took so long says too little.
const LONGEST: u64 = 2_000_000_000;
/// What clocks may differ by in their speed: one in so many.
const DRIFT: u64 = 1_000;
/// Jumps backwards that are none.
const STEADY: u64 = 100_000;

/// One look: what it said, in microseconds, and between which moments of this process, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Look {
    says: u64,
    sent: u64,
    received: u64,
}

impl Look {
    fn took(&self) -> u64 {
        self.received.saturating_sub(self.sent)
    }

    fn drift(&self, moment: u64) -> u64 {
        moment.abs_diff(self.sent) / DRIFT / 1_000 + 1
    }

    /// What it said at that moment at the earliest.
    fn before(&self, moment: u64) -> u64 {
        let at = match moment.checked_sub(self.received) {
            Some(since) => self.says.saturating_add(since / 1_000),
            None => self.says.saturating_sub(self.received.saturating_sub(moment) / 1_000),
        };
        at.saturating_sub(self.drift(moment))
    }

    /// And at the latest.
    fn after(&self, moment: u64) -> u64 {
        let at = match moment.checked_sub(self.sent) {
            Some(since) => self.says.saturating_add(since / 1_000),
            None => self.says.saturating_sub(self.sent.saturating_sub(moment) / 1_000),
        };
        at.saturating_add(self.drift(moment))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    best: Option<Look>,
    /// It was set then: of moments before it nobody knows what it said.
    set: u64,
}

impl Clock {
    /// A look at it. If it was set back, up to when it had come before.
    pub(super) fn look(&self, says: u64, sent: u64, received: u64) -> Option<u64> {
        let look = Look { says, sent, received };
        let mut known = self.0.lock();
        let before = known.best.map(|best| (best.before(sent), best.after(received)));
        if let Some((earliest, latest)) = before {
            let is_back = says.saturating_add(STEADY) < earliest;
            if is_back || says > latest.saturating_add(STEADY) {
                *known = Known { best: Some(look), set: sent };
                return is_back.then_some(latest);
            }
        }
        let is_better =
            known.best.is_none_or(|best| look.took() <= best.took() || received.saturating_sub(best.received) > YOUNG);
        if is_better && look.took() <= LONGEST {
            known.best = Some(look);
        }
        None
    }

    fn known(&self, now: u64) -> Option<Look> {
        self.0.lock().best.filter(|look| now.saturating_sub(look.received) <= OLDEST)
    }

    /// What it said at that moment at the earliest, in microseconds. `None` where nobody knows, as of what was before it was set.
    pub(super) fn before(&self, moment: u64, now: u64) -> Option<u64> {
        let is_known = moment >= self.0.lock().set;
        Some(self.known(now).filter(|_| is_known)?.before(moment))
    }

    /// And at the latest.
    pub(super) fn after(&self, moment: u64, now: u64) -> Option<u64> {
        Some(self.known(now)?.after(moment))
    }

    /// How long ago it said that, at the longest. `None` if it has not said so yet, for all that is known.
    pub(super) fn since(&self, says: u64, now: u64) -> Option<Duration> {
        Some(Duration::from_micros(self.known(now)?.after(now).checked_sub(says)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn it_is_rounded_to_the_careful_side() {
        let clock = Clock::default();
        assert_eq!((clock.before(1, 1), clock.after(1, 1), clock.since(1, 1)), (None, None, None));
        let base = 1 << 40;
        assert_eq!(clock.look(5_000_000, base, base + 4 * MS), None);
        // It may have said that at the beginning, or at the end.
        for (moment, truth) in [(base + 104 * MS, 5_100_000..=5_104_000), (base - 96 * MS, 4_900_000..=4_904_000)] {
            let (before, after) = (clock.before(moment, moment).unwrap(), clock.after(moment, moment).unwrap());
            assert!(before <= *truth.start() && after >= *truth.end(), "{before} {after}");
            assert!(truth.start() - before < 1_000 && after - truth.end() < 1_000, "{before} {after}");
        }
        let since = clock.since(5_000_000, base + 104 * MS).unwrap();
        assert!(since >= Duration::from_millis(104) && since < Duration::from_millis(106), "{since:?}");
        assert_eq!(clock.since(9_000_000, base + 104 * MS), None, "that is to come");
        assert_eq!(clock.before(base, base + 11_000 * MS), None, "that is too long ago");
    }

    #[test]
    fn the_closest_look_counts_until_it_is_old_or_the_clock_was_set() {
        let clock = Clock::default();
        let base = 1 << 40;
        clock.look(1_000_000, base, base + MS);
        clock.look(1_210_000, base + 200 * MS, base + 220 * MS);
        let at = base + 300 * MS;
        assert!(clock.after(at, at).unwrap() - clock.before(at, at).unwrap() < 2_000, "the first was closer");
        clock.look(3_310_000, base + 2_300 * MS, base + 2_320 * MS);
        assert!(clock.after(at, at).unwrap() - clock.before(at, at).unwrap() > 15_000);
        let later = base + 2_400 * MS;
        assert!(clock.look(1_000_000, later, later + MS).is_some_and(|until| until > 3_300_000), "it was set back");
        assert!(clock.before(later, later).unwrap() < 1_001_000);
        assert_eq!(clock.before(at, later), None, "nobody knows what it would have said");
        let last = later + 100 * MS;
        assert_eq!(clock.look(9_000_000, last, last + MS), None, "it was set forward");
        assert!(clock.before(later, last).is_none() && clock.before(last, last).is_some());
    }
}
