//! The sliding window, as pure integer functions: two counts, and the requests of the period before weighed by how much of it the
//! window still covers.
//!
//! A client's first request begins its period; the next period begins where that one ends. At a moment `e` into a period the
//! window reaches back over the rest of the period before, and what was counted there is taken to be spread evenly:
//!
//! ```text
//! used = current + previous * (per - e) / per        (rounded up; in integers, so that nothing drifts)
//! ```
//!
//! A request is admitted if `used + cost <= limit`. That is an approximation of a log of all requests, in the memory of a bucket.
//! It is exact where the requests of the period before came evenly. Its bound: at no moment more than `limit` can come at once,
//! and where one period ends and the next begins nothing is given twice; in the worst case, everything at the very end of one
//! period and the window's decay used up to the last of it, less than `2 * limit` within one `per`, as a full token bucket also
//! gives. In the long run never more than `limit` per period.
//!
//! Deliberately not here: clocks, keys and memory.

use std::time::Duration;

use super::gcra::MAX_PERIOD;
use super::rule::Quota;

/// The most requests per period. It keeps two counts in 48 bits.
pub const MAX_LIMIT: u64 = (1 << 24) - 1;

/// A limit per sliding period, checked and ready to decide with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    limit: u64,
    /// Nanoseconds.
    per: u64,
}

/// What was counted. Only comparable under one [`Window`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The end of the period that follows the current one, after which nothing of this matters. 0: nothing was counted.
    pub until: u64,
    pub current: u32,
    pub previous: u32,
}

impl Window {
    /// # Errors
    /// A sentence about the bound that was passed: [`MAX_LIMIT`], [`MAX_PERIOD`].
    pub fn new(limit: u64, per: Duration) -> Result<Self, &'static str> {
        if limit == 0 || limit > MAX_LIMIT {
            return Err("a sliding window admits between 1 and 16777215 requests per period");
        }
        if per.is_zero() || per > MAX_PERIOD {
            return Err("a limit's period is longer than nothing and at most 366 days");
        }
        let per = u64::try_from(per.as_nanos()).map_err(|_| "a limit's period is at most 366 days")?;
        Ok(Window { limit, per })
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// In nanoseconds.
    pub fn period(&self) -> u64 {
        self.per
    }

    /// The new counts if a request of this cost is admitted at `now`, `None` if it is not.
    #[inline]
    pub fn admit(&self, counts: Counts, now: u64, cost: u64) -> Option<Counts> {
        let counts = self.at(counts, now);
        let used = u64::from(counts.current) + self.carried(&counts, now);
        let cost = u32::try_from(cost).ok().filter(|cost| used + u64::from(*cost) <= self.limit)?;
        Some(Counts { current: counts.current + cost, ..counts })
    }

    /// Gives back what a request of this cost took, unless its period is over.
    pub fn refund(&self, counts: Counts, now: u64, cost: u64) -> Counts {
        let counts = self.at(counts, now);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        Counts { current: counts.current.saturating_sub(cost), ..counts }
    }

    /// What is left at `now`, and when a request of this cost would be admitted.
    pub fn quota(&self, counts: Counts, now: u64, cost: u64) -> Quota {
        let counts = self.at(counts, now);
        let current = u64::from(counts.current);
        let remaining = self.limit.saturating_sub(current + self.carried(&counts, now));
        let end = counts.until.saturating_sub(self.per);
        let left = self.left(&counts, now);
        let next = if remaining >= cost {
            0
        } else if cost > self.limit {
            u64::MAX
        } else if current + cost <= self.limit {
            // Enough of the period before has to pass out of the window.
            left - self.share(self.limit - current - cost, counts.previous, left)
        } else {
            // Then the current period is the one before.
            (end - now.min(end)) + self.per - self.share(self.limit - cost, counts.current, self.per)
        };
        let full = if counts.current > 0 { counts.until.saturating_sub(now) } else { left };
        Quota { remaining, next, full: if counts.current > 0 || counts.previous > 0 { full } else { 0 } }
    }

    /// Counts under another window's limit or none: what was used is carried over, clamped.
    pub fn holding(&self, used: u64, now: u64) -> Counts {
        let current = u32::try_from(used.min(self.limit)).unwrap_or(u32::MAX);
        if current == 0 { Counts::default() } else { Counts { until: self.begun(now), current, previous: 0 } }
    }

    /// The counts as they are at `now`.
    fn at(&self, counts: Counts, now: u64) -> Counts {
        if now >= counts.until {
            return Counts { until: self.begun(now), current: 0, previous: 0 };
        }
        if now >= counts.until - self.per.min(counts.until) {
            return Counts { until: counts.until.saturating_add(self.per), current: 0, previous: counts.current };
        }
        counts
    }

    fn begun(&self, now: u64) -> u64 {
        now.saturating_add(self.per.saturating_mul(2))
    }

    /// How much of the period before the window still covers. A clock that went backwards covers all of it, and no more.
    fn left(&self, counts: &Counts, now: u64) -> u64 {
        counts.until.saturating_sub(self.per).saturating_sub(now).min(self.per)
    }

    /// What the period before still counts for, rounded up.
    fn carried(&self, counts: &Counts, now: u64) -> u64 {
        if counts.previous == 0 {
            return 0;
        }
        let (previous, left) = (u64::from(counts.previous), self.left(counts, now));
        // A 64-bit division is several times cheaper than a 128-bit one.
        match previous.checked_mul(left) {
            Some(weight) => weight.div_ceil(self.per),
            None => u64::try_from((u128::from(previous) * u128::from(left)).div_ceil(u128::from(self.per))).unwrap_or(u64::MAX),
        }
    }

    /// The longest rest of a period of `count` requests that counts for no more than `room`, at most `most`.
    fn share(&self, room: u64, count: u32, most: u64) -> u64 {
        let rest = u128::from(room) * u128::from(self.per) / u128::from(count.max(1));
        u64::try_from(rest).unwrap_or(u64::MAX).min(most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn window(limit: u64, seconds: u64) -> Window {
        Window::new(limit, Duration::from_secs(seconds)).unwrap()
    }

    fn spend(window: &Window, counts: &mut Counts, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| window.admit(*counts, now, 1).map(|new| *counts = new).is_some()).count()
    }

    #[test]
    fn nothing_is_given_twice_where_two_periods_meet() {
        let window = window(100, 60);
        let mut counts = Counts::default();
        // The period begins with the first request; everything else comes in its last nanosecond.
        assert_eq!(spend(&window, &mut counts, SECOND, 1), 1);
        assert_eq!(spend(&window, &mut counts, 61 * SECOND - 1, 200), 99);
        assert_eq!(spend(&window, &mut counts, 61 * SECOND, 200), 0);
        assert_eq!(window.quota(counts, 61 * SECOND, 1).next, 600_000_000);
        assert_eq!(spend(&window, &mut counts, 61 * SECOND + 600_000_000, 200), 1);
        // Half of the period before is still seen.
        assert_eq!(spend(&window, &mut counts, 91 * SECOND, 200), 49);
    }

    #[test]
    fn tells_how_long_to_wait_in_this_period_and_in_the_next() {
        let window = window(4, 8);
        let mut counts = Counts::default();
        assert_eq!(spend(&window, &mut counts, 0, 9), 4);
        assert_eq!(window.quota(counts, 0, 1), Quota { remaining: 0, next: 10 * SECOND, full: 16 * SECOND });
        assert_eq!(window.quota(counts, 0, 4).next, 16 * SECOND);
        assert_eq!(window.quota(counts, 0, 5).next, u64::MAX);
        assert_eq!(window.quota(counts, 16 * SECOND, 4), Quota { remaining: 4, next: 0, full: 0 });
    }

    #[test]
    fn a_clock_that_goes_backwards_gives_nothing() {
        let window = window(5, 10);
        let mut counts = Counts::default();
        assert_eq!(spend(&window, &mut counts, 100 * SECOND, 9), 5);
        assert_eq!(spend(&window, &mut counts, 111 * SECOND, 9), 0);
        assert_eq!(spend(&window, &mut counts, 0, 9), 0);
        assert!(window.quota(counts, 0, 1).next > 0);
    }

    #[test]
    fn extremes_do_not_panic() {
        let window = Window::new(MAX_LIMIT, MAX_PERIOD).unwrap();
        let most = Counts { until: u64::MAX, current: MAX_LIMIT as u32, previous: MAX_LIMIT as u32 };
        for now in [0, 1, u64::MAX / 2, u64::MAX] {
            for counts in [most, Counts::default(), Counts { until: 1, ..most }] {
                for cost in [0, 1, u64::MAX] {
                    window.admit(counts, now, cost);
                    window.refund(counts, now, cost);
                    window.quota(counts, now, cost);
                }
            }
        }
        assert!(Window::new(MAX_LIMIT + 1, Duration::from_secs(1)).is_err() && Window::new(0, Duration::from_secs(1)).is_err());
        assert!(Window::new(1, Duration::ZERO).is_err() && Window::new(1, MAX_PERIOD * 2).is_err());
    }

    proptest! {
        /// The bound of the module's documentation, in any window, and the wait that is told is the shortest that helps.
        #[test]
        fn keeps_its_bound(
            limit in 1u64..60, per in 1_000u64..1_000_000,
            gaps in proptest::collection::vec((0u64..4_000, 0u64..4), 1..300), jump in proptest::option::of(0u64..2_000_000),
        ) {
            let window = Window::new(limit, Duration::from_nanos(per)).unwrap();
            let (mut now, mut counts, mut admitted) = (7u64, Counts::default(), Vec::new());
            for (step, (gap, cost)) in gaps.into_iter().enumerate() {
                now += gap + if step == 50 { jump.unwrap_or(0) } else { 0 };
                let new = window.admit(counts, now, cost);
                let quota = window.quota(counts, now, cost);
                prop_assert_eq!(new.is_some(), quota.remaining >= cost);
                prop_assert_eq!(new.is_some(), quota.next == 0);
                if cost <= limit {
                    prop_assert!(window.admit(counts, now + quota.next, cost).is_some());
                    prop_assert!(quota.next == 0 || window.admit(counts, now + quota.next - 1, cost).is_none());
                }
                prop_assert_eq!(window.quota(counts, now + quota.full, 1).remaining, limit);
                if let Some(new) = new {
                    prop_assert!(window.quota(window.refund(new, now, cost), now, 1).remaining >= quota.remaining);
                    counts = new;
                    admitted.push((now, cost));
                }
            }
            for (first, (start, _)) in admitted.iter().enumerate() {
                let sum: u64 = admitted.iter().skip(first).take_while(|(at, _)| at - start < per).map(|(_, cost)| cost).sum();
                prop_assert!(sum < 2 * limit || sum <= limit, "{sum} of {limit}");
            }
        }
    }
}
