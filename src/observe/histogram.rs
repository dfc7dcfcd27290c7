//! Durations, counted in fixed buckets: five per decade from 100 microseconds to 10 seconds, and up to a minute.
//!
//! The steps 1, 2, 3, 5, 7 keep neighbouring bounds within a factor of two, so that a quantile is off by less than that, and by
//! much less when interpolated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::tally::shard::Adder;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// The buckets' upper bounds in nanoseconds, inclusive.
pub const BOUNDS: [u64; 29] = [
    100 * US,
    200 * US,
    300 * US,
    500 * US,
    700 * US,
    MS,
    2 * MS,
    3 * MS,
    5 * MS,
    7 * MS,
    10 * MS,
    20 * MS,
    30 * MS,
    50 * MS,
    70 * MS,
    100 * MS,
    200 * MS,
    300 * MS,
    500 * MS,
    700 * MS,
    S,
    2 * S,
    3 * S,
    5 * S,
    7 * S,
    10 * S,
    20 * S,
    30 * S,
    60 * S,
];

/// The bounds, and what lies beyond.
const BUCKETS: usize = BOUNDS.len() + 1;

/// One shard's counts.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Histogram {
    #[inline]
    pub fn observe(&self, duration: Duration, adder: Adder) {
        let nanos = nanos(duration);
        let bucket = BOUNDS.partition_point(|&bound| bound < nanos);
        if let Some(count) = self.counts.get(bucket) {
            adder.add(count, 1);
        }
        adder.add(&self.sum_nanos, nanos);
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The sum of a histogram's shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    counts: [u64; BUCKETS],
    sum_nanos: u64,
}

impl Totals {
    pub fn add(&mut self, shard: &Histogram) {
        for (total, count) in self.counts.iter_mut().zip(&shard.counts) {
            *total += count.load(Ordering::Relaxed);
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(shard.sum_nanos.load(Ordering::Relaxed));
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos as f64 / S as f64
    }

    /// `(upper bound in seconds, how many were at most that)`, without the last, unbounded bucket.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS.iter().zip(&self.counts).scan(0, |sum, (&bound, &count)| {
            *sum += count;
            Some((bound as f64 / S as f64, *sum))
        })
    }

    /// The duration that the share `q` (0 to 1) of all observations did not exceed, interpolated within its bucket. The last bound
    /// for what lies beyond it; `None` without observations.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut below, mut lower) = (0u64, 0u64);
        for (&upper, &count) in BOUNDS.iter().zip(&self.counts) {
            if count > 0 && (below + count) as f64 >= rank {
                let share = (rank - below as f64).max(0.0) / count as f64;
                return Some(Duration::from_nanos(lower + ((upper - lower) as f64 * share) as u64));
            }
            below += count;
            lower = upper;
        }
        BOUNDS.last().map(|&bound| Duration::from_nanos(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::shard::Sharded;

    fn totals(durations: impl IntoIterator<Item = Duration>) -> Totals {
        let histogram = Sharded::<Histogram>::default();
        durations.into_iter().for_each(|duration| histogram.with(|shard, adder| shard.observe(duration, adder)));
        let mut totals = Totals::default();
        histogram.each().for_each(|shard| totals.add(shard));
        totals
    }

    #[test]
    fn bounds_rise_by_at_most_two() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] * 2));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let totals = totals([Duration::from_micros(100), Duration::from_nanos(100_001), Duration::ZERO]);
        let cumulative: Vec<_> = totals.cumulative().take(2).collect();
        assert_eq!(cumulative, [(0.0001, 2), (0.0002, 3)]);
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let totals = totals((1..=10_000).map(|n| Duration::from_micros(n * 10)));
        for (q, truth) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (0.01, 1_000.0)] {
            let found = totals.quantile(q).unwrap().as_micros() as f64;
            assert!((found / truth - 1.0).abs() < 0.05, "{q}: {found} instead of {truth}");
        }
        assert!((totals.sum_seconds() - 500.05).abs() < 0.001);
    }

    #[test]
    fn extremes_are_counted() {
        let totals = totals([Duration::MAX, Duration::from_secs(61)]);
        assert_eq!(totals.count(), 2);
        assert_eq!(totals.quantile(0.99), Some(Duration::from_secs(60)));
        assert_eq!(Totals::default().quantile(0.5), None);
    }
}
