//! Slow start: an endpoint that has come, or has recovered, gets its full share only after a while, so that it can warm up.
//!
//! The share grows in a line from a tenth to the whole over the window. The cluster publishes its choice anew as it grows; a pick knows
//! nothing of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// By how much weights are multiplied meanwhile, so that parts of them are whole numbers.
pub const SCALE: u32 = 100;
/// The share that an endpoint begins with.
const LEAST: f64 = 0.1;

/// Since when an endpoint has been asked.
#[derive(Default)]
pub struct Arrival {
    asked: AtomicBool,
    /// In milliseconds after [`start`].
    since: AtomicU64,
}

impl Arrival {
    /// Notes whether the endpoint is among those that are asked.
    pub fn note(&self, asked: bool, now: Instant) {
        if self.asked.swap(asked, Ordering::Relaxed) != asked && asked {
            self.since.store(millis(now), Ordering::Relaxed);
        }
    }

    /// Its share of its weight, 0 to 1.
    pub fn share(&self, window: Duration, now: Instant) -> f64 {
        let age = millis(now).saturating_sub(self.since.load(Ordering::Relaxed)) as f64;
        (age / window.as_millis().max(1) as f64).clamp(LEAST, 1.0)
    }
}

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn millis(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start()).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_from_a_tenth_to_the_whole() {
        let (arrival, window) = (Arrival::default(), Duration::from_secs(10));
        let now = start() + Duration::from_secs(100);
        arrival.note(true, now);
        let share = |after: u64| arrival.share(window, now + Duration::from_secs(after));
        assert_eq!([0, 5, 10, 60].map(share), [0.1, 0.5, 1.0, 1.0]);
        // Being asked again is no arrival; having been away is one.
        arrival.note(true, now + Duration::from_secs(5));
        assert_eq!(share(5), 0.5);
        arrival.note(false, now + Duration::from_secs(6));
        arrival.note(true, now + Duration::from_secs(20));
        assert_eq!(share(25), 0.5);
    }
}
