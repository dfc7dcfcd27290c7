//! The generic cell rate algorithm (ITU-T I.371, the virtual scheduling form) as pure integer functions.
//!
//! A bucket's whole state is one moment, the theoretical arrival time (TAT): when the bucket will be full again. A moment in the past
//! is the same as no state at all, which is why a full bucket needs no memory. Time is a `u64` in nanoseconds since any base.
//!
//! The interval between two requests, period / count, is seldom a whole number of nanoseconds. A [`Moment`] therefore counts the
//! remainder in parts of 1/count nanosecond, so that nothing is ever rounded and nothing drifts.
//!
//! A request may cost more than one: it then moves the TAT by as many intervals, or is refused whole.
//!
//! Deliberately not here: clocks, keys and memory.

use std::time::Duration;

use super::rule::Quota;

/// The most requests per period. It keeps a part in 32 bits.
pub const MAX_COUNT: u64 = 1_000_000_000;
/// The longest period.
pub const MAX_PERIOD: Duration = Duration::from_secs(366 * 86_400);
/// The longest time that an empty bucket may need to fill up. It keeps every sum below far from overflow.
pub const MAX_FILL: Duration = Duration::from_secs(3_660 * 86_400);

/// A point in time or a distance: nanoseconds, and parts of 1/count nanosecond. Only comparable under one [`Gcra`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub ns: u64,
    pub part: u32,
}

impl Moment {
    /// Long ago: a full bucket.
    pub const ZERO: Moment = Moment { ns: 0, part: 0 };

    fn at(ns: u64) -> Self {
        Moment { ns, part: 0 }
    }

    fn rounded_up(self) -> u64 {
        self.ns.saturating_add(u64::from(self.part > 0))
    }
}

/// A rate and a capacity, checked and ready to decide with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    count: u64,
    /// Nanoseconds.
    per: u64,
    capacity: u64,
    /// What one request costs: per / count.
    step: Moment,
    /// What a full bucket holds: capacity * per / count.
    depth: Moment,
}

impl Gcra {
    /// `count` requests per `per`, with `burst` as the bucket's capacity: the limit's count if not given, and 0 counts as 1.
    ///
    /// # Errors
    /// A sentence about the bound that was passed: [`MAX_COUNT`], [`MAX_PERIOD`], [`MAX_FILL`].
    pub fn new(count: u64, per: Duration, burst: Option<u32>) -> Result<Self, &'static str> {
        if count == 0 || count > MAX_COUNT {
            return Err("a limit admits between 1 and 1000000000 requests per period");
        }
        if per.is_zero() || per > MAX_PERIOD {
            return Err("a limit's period is longer than nothing and at most 366 days");
        }
        let per = u64::try_from(per.as_nanos()).map_err(|_| "a limit's period is at most 366 days")?;
        let capacity = burst.map_or(count, u64::from).max(1);
        let fill = u128::from(capacity) * u128::from(per);
        let depth = moment(fill, count).filter(|depth| Duration::from_nanos(depth.ns) < MAX_FILL);
        let depth = depth.ok_or("a burst this large would take more than ten years to refill at this rate")?;
        let step = moment(u128::from(per), count).ok_or("a limit's period is at most 366 days")?;
        Ok(Gcra { count, per, capacity, step, depth })
    }

    /// Requests per period.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// In nanoseconds.
    pub fn period(&self) -> u64 {
        self.per
    }

    /// The bucket's capacity in requests, at least 1.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The new TAT if a request of this cost is admitted at `now`, `None` if it is not, in which case the bucket stays as it is.
    ///
    /// Within any window of length `w` this admits at most a cost of `capacity + count * w / per`.
    #[inline]
    pub fn admit(&self, tat: Moment, now: u64, cost: u64) -> Option<Moment> {
        let next = self.plus(tat.max(Moment::at(now)), self.price(cost)?);
        (next <= self.horizon(now)).then_some(next)
    }

    /// Gives back what a request of this cost took.
    pub fn refund(&self, tat: Moment, cost: u64) -> Moment {
        self.price(cost).map_or(tat, |price| self.minus(tat, price))
    }

    /// What is left at `now` in a bucket with this TAT, and when a request of this cost would be admitted.
    pub fn quota(&self, tat: Moment, now: u64, cost: u64) -> Quota {
        let tat = tat.max(Moment::at(now));
        let horizon = self.horizon(now);
        let spare = self.minus(horizon, tat);
        // A 64-bit division is several times cheaper than a 128-bit one, and nearly every limit fits.
        let narrow = spare.ns.checked_mul(self.count).and_then(|ticks| ticks.checked_add(u64::from(spare.part)));
        let remaining = match narrow {
            Some(ticks) => ticks / self.per,
            None => {
                let ticks = u128::from(spare.ns) * u128::from(self.count) + u128::from(spare.part);
                u64::try_from(ticks / u128::from(self.per)).unwrap_or(u64::MAX)
            }
        };
        let next = match self.price(cost) {
            _ if remaining >= cost => 0,
            Some(price) => self.minus(self.plus(tat, price), horizon).rounded_up(),
            None => u64::MAX,
        };
        Quota { remaining, next, full: self.minus(tat, Moment::at(now)).rounded_up() }
    }

    /// Carries a bucket over from another rate: what was consumed stays consumed, clamped to this capacity.
    pub fn rescale(&self, from: &Gcra, tat: Moment, now: u64) -> Moment {
        if tat <= Moment::at(now) {
            return Moment::ZERO;
        }
        // One request is `from.per` ticks.
        let ticks = u128::from(tat.ns - now) * u128::from(from.count) + u128::from(tat.part);
        let (old, new) = (u128::from(from.per), u128::from(self.per));
        let consumed = (ticks / old).min(u128::from(self.capacity));
        let carried = consumed * new + (ticks % old) * new / old;
        let ahead = moment(carried, self.count).map_or(self.depth, |ahead| ahead.min(self.depth));
        Moment { ns: now.saturating_add(ahead.ns), part: ahead.part }
    }

    /// A bucket from which so much was taken at `now`, clamped to the capacity.
    pub fn holding(&self, used: u64, now: u64) -> Moment {
        let ahead = self.price(used.min(self.capacity)).unwrap_or(self.depth);
        if ahead == Moment::ZERO { Moment::ZERO } else { self.plus(Moment::at(now), ahead) }
    }

    /// How far a request of this cost moves the TAT. `None` beyond the capacity: no wait is long enough.
    #[inline]
    fn price(&self, cost: u64) -> Option<Moment> {
        match cost {
            1 => Some(self.step),
            _ if cost > self.capacity => None,
            _ => moment(u128::from(cost) * u128::from(self.per), self.count),
        }
    }

    /// The latest TAT that is still admitted.
    fn horizon(&self, now: u64) -> Moment {
        Moment { ns: now.saturating_add(self.depth.ns), part: self.depth.part }
    }

    fn plus(&self, a: Moment, b: Moment) -> Moment {
        let part = u64::from(a.part) + u64::from(b.part);
        let (carry, part) = if part >= self.count { (1, part - self.count) } else { (0, part) };
        Moment { ns: a.ns.saturating_add(b.ns).saturating_add(carry), part: part as u32 }
    }

    /// `a - b`, or zero.
    fn minus(&self, a: Moment, b: Moment) -> Moment {
        if a <= b {
            return Moment::ZERO;
        }
        match a.part.checked_sub(b.part) {
            Some(part) => Moment { ns: a.ns - b.ns, part },
            // `a > b` with a smaller part means that `a.ns` is larger by at least one.
            None => {
                let part = u64::from(a.part) + self.count - u64::from(b.part);
                Moment { ns: a.ns.saturating_sub(b.ns).saturating_sub(1), part: part as u32 }
            }
        }
    }
}

/// `ticks` of 1/count nanosecond.
fn moment(ticks: u128, count: u64) -> Option<Moment> {
    let ns = u64::try_from(ticks / u128::from(count)).ok()?;
    let part = u32::try_from(ticks % u128::from(count)).ok()?;
    Some(Moment { ns, part })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn gcra(count: u64, seconds: u64, burst: Option<u32>) -> Gcra {
        Gcra::new(count, Duration::from_secs(seconds), burst).unwrap()
    }

    /// How many of `tries` requests at the same moment are admitted.
    fn spend(gcra: &Gcra, tat: &mut Moment, now: u64, tries: usize) -> usize {
        (0..tries).filter(|_| gcra.admit(*tat, now, 1).map(|new| *tat = new).is_some()).count()
    }

    #[test]
    fn admits_exactly_its_capacity_at_once() {
        for (count, burst, expected) in [(100, None, 100), (7, None, 7), (100, Some(5), 5), (3, Some(50), 50), (10, Some(0), 1)] {
            let gcra = gcra(count, 60, burst);
            let mut tat = Moment::ZERO;
            assert_eq!(spend(&gcra, &mut tat, 5 * SECOND, 1000), expected);
            assert_eq!(gcra.quota(tat, 5 * SECOND, 1).remaining, 0);
        }
    }

    #[test]
    fn a_seventh_of_a_second_does_not_drift() {
        let gcra = gcra(7, 1, Some(1));
        let (mut tat, mut admitted, mut now) = (Moment::ZERO, 0u64, 0u64);
        // Always exactly when the quota says so, for a long time.
        for _ in 0..700_000 {
            now += gcra.quota(tat, now, 1).next;
            tat = gcra.admit(tat, now, 1).unwrap();
            admitted += 1;
        }
        // Waiting is in whole nanoseconds, so each wait may lose one; the rate itself loses none.
        assert_eq!(admitted, 700_000);
        assert!(now <= 100_000 * SECOND + 700_000, "{now}");
        let mut tat = Moment::ZERO;
        let total: usize = (0..10_000u64).map(|second| spend(&gcra_seven(), &mut tat, second * SECOND, 20)).sum();
        assert_eq!(total, 7 * 10_000);
    }

    fn gcra_seven() -> Gcra {
        gcra(7, 1, None)
    }

    #[test]
    fn tells_when_to_come_back_to_the_nanosecond() {
        let gcra = gcra(3, 1, Some(1));
        let tat = gcra.admit(Moment::ZERO, 0, 1).unwrap();
        let next = gcra.quota(tat, 0, 1).next;
        assert_eq!(next, 333_333_334);
        assert!(gcra.admit(tat, next - 1, 1).is_none());
        assert!(gcra.admit(tat, next, 1).is_some());
    }

    #[test]
    fn huge_limits_are_exact_or_refused() {
        let fastest = gcra(MAX_COUNT, 1, None);
        assert_eq!(fastest.quota(Moment::ZERO, u64::MAX / 2, 1).remaining, MAX_COUNT);
        let slow = Gcra::new(1, MAX_PERIOD, None).unwrap();
        let tat = slow.admit(Moment::ZERO, 7, 1).unwrap();
        assert_eq!(slow.quota(tat, 7, 1).next, MAX_PERIOD.as_nanos() as u64);
        let wide = Gcra::new(MAX_COUNT, MAX_PERIOD, Some(u32::MAX)).unwrap();
        assert_eq!(wide.quota(Moment::ZERO, 0, 1).remaining, u64::from(u32::MAX));
        assert!(Gcra::new(0, Duration::from_secs(1), None).is_err());
        assert!(Gcra::new(MAX_COUNT + 1, Duration::from_secs(1), None).is_err());
        assert!(Gcra::new(1, Duration::ZERO, None).is_err());
        assert!(Gcra::new(1, MAX_PERIOD * 2, None).is_err());
        assert!(Gcra::new(1, Duration::from_secs(86_400), Some(u32::MAX)).is_err());
    }

    #[test]
    fn time_at_the_end_of_its_range_does_not_panic() {
        let gcra = gcra(5, 1, None);
        assert!(gcra.admit(Moment::ZERO, u64::MAX, 1).is_none() || gcra.admit(Moment::ZERO, u64::MAX, 1).is_some());
        gcra.quota(Moment { ns: u64::MAX, part: 4 }, u64::MAX, 5);
        gcra.rescale(&gcra_seven(), Moment { ns: u64::MAX, part: 4 }, 0);
    }

    #[test]
    fn a_changed_rate_keeps_what_was_consumed() {
        let (old, new) = (gcra(100, 60, None), gcra(50, 1, None));
        let mut tat = Moment::ZERO;
        spend(&old, &mut tat, SECOND, 30);
        let carried = new.rescale(&old, tat, SECOND);
        assert_eq!(new.quota(carried, SECOND, 1).remaining, 20);
        // More consumed than the new capacity: clamped, so that waiting for one request is enough.
        spend(&old, &mut tat, SECOND, 60);
        let carried = new.rescale(&old, tat, SECOND);
        assert_eq!(new.quota(carried, SECOND, 1), Quota { remaining: 0, next: SECOND / 50, full: SECOND });
        assert_eq!(new.rescale(&old, Moment { ns: 5, part: 0 }, SECOND), Moment::ZERO);
    }

    #[test]
    fn a_costly_request_takes_more_and_one_beyond_the_capacity_nothing() {
        let gcra = gcra(10, 1, None);
        let tat = gcra.admit(Moment::ZERO, SECOND, 7).unwrap();
        assert_eq!(gcra.quota(tat, SECOND, 4), Quota { remaining: 3, next: SECOND / 10, full: SECOND * 7 / 10 });
        assert!(gcra.admit(tat, SECOND, 4).is_none() && gcra.admit(tat, SECOND, 3).is_some());
        assert_eq!(gcra.admit(tat, SECOND, 0), Some(tat));
        assert!(gcra.admit(Moment::ZERO, 1_000 * SECOND, 11).is_none());
        assert_eq!(gcra.quota(Moment::ZERO, SECOND, u64::MAX).next, u64::MAX);
        assert_eq!(gcra.quota(gcra.holding(4, SECOND), SECOND, 1).remaining, 6);
        assert_eq!(gcra.quota(gcra.holding(u64::MAX, SECOND), SECOND, 1).remaining, 0);
        assert_eq!(gcra.holding(0, SECOND), Moment::ZERO);
    }

    #[test]
    fn a_refund_undoes_one_request() {
        let gcra = gcra(7, 3, None);
        let one = gcra.admit(Moment::ZERO, SECOND, 1).unwrap();
        let two = gcra.admit(one, SECOND, 1).unwrap();
        assert_eq!(gcra.refund(two, 1), one);
        assert_eq!(gcra.quota(gcra.refund(one, 1), SECOND, 1).remaining, 7);
    }

    proptest! {
        /// Decision for decision the same as a token bucket in exact fractions.
        #[test]
        fn agrees_with_a_token_bucket(
            count in 1u64..2000, per in 1u64..5_000_000_000, burst in proptest::option::of(0u32..50),
            gaps in proptest::collection::vec((0u64..2_000_000_000, 0u64..5), 1..200), shrink in 1u64..100_000,
        ) {
            let gcra = Gcra::new(count, Duration::from_nanos(per), burst).unwrap();
            let capacity = u128::from(gcra.capacity()) * u128::from(per);
            let (mut level, mut now, mut tat) = (capacity, 1_000u64, Moment::ZERO);
            for (gap, cost) in gaps {
                let gap = gap / shrink;
                now += gap;
                let price = u128::from(cost) * u128::from(per);
                level = capacity.min(level + u128::from(gap) * u128::from(count));
                prop_assert_eq!(u128::from(gcra.quota(tat, now, 1).remaining), level / u128::from(per));
                let new = gcra.admit(tat, now, cost);
                prop_assert_eq!(new.is_some(), level >= price);
                let wait = gcra.quota(tat, now, cost).next;
                prop_assert_eq!(new.is_some(), wait == 0);
                if cost <= gcra.capacity() {
                    prop_assert!(gcra.admit(tat, now + wait, cost).is_some());
                    prop_assert!(wait == 0 || gcra.admit(tat, now + wait - 1, cost).is_none());
                }
                if let Some(new) = new {
                    prop_assert_eq!(gcra.refund(new, cost).max(Moment::at(now)), tat.max(Moment::at(now)));
                    tat = new;
                    level -= price;
                }
            }
        }

        /// No window of any length, wherever it begins, sees more than the burst and what the rate refilled.
        #[test]
        fn no_window_admits_too_much(
            count in 1u64..500, per in 1_000u64..1_000_000, burst in 0u32..30,
            gaps in proptest::collection::vec(0u64..3_000, 1..300),
        ) {
            let gcra = Gcra::new(count, Duration::from_nanos(per), Some(burst)).unwrap();
            let (mut now, mut tat, mut admitted) = (0u64, Moment::ZERO, Vec::new());
            for gap in gaps {
                now += gap;
                if let Some(new) = gcra.admit(tat, now, 1) {
                    tat = new;
                    admitted.push(now);
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let bound = gcra.capacity() + (end - start) * count / per;
                    prop_assert!((last - first + 1) as u64 <= bound);
                }
            }
        }
    }
}
