//! How many retries a service may cost: a share of its traffic, and a floor for services that have little.
//!
//! Without a bound every failing request becomes several, just when the service has least to spare. After Finagle's and linkerd's retry
//! budgets: requests earn tokens, a retry costs one, and what was earned longer than [`WINDOW`] ago is forgotten. Plain requests pay
//! nothing for it: how many there were is asked of the endpoints' own counters, and only when somebody wants to retry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long a request counts.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How often the traffic is looked at, at most: a service may have thousands of endpoints.
const LOOK: Duration = Duration::from_millis(20);

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Of the requests.
    pub share: f64,
    /// For each second.
    pub floor: f64,
}

/// What is left. Outlives reloads.
pub struct Budget {
    state: Mutex<State>,
    /// Requests to the endpoints that no client asked for, retries and hedges, since the traffic was looked at last.
    extra: AtomicU64,
}

struct State {
    tokens: f64,
    /// Requests within the window, about.
    recent: f64,
    looked: Instant,
    /// Nothing was taken before.
    unused: bool,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        let state = State { tokens: 0.0, recent: 0.0, looked: now, unused: true };
        Budget { state: Mutex::new(state), extra: AtomicU64::new(0) }
    }

    /// Counts a request that no client asked for, so that it earns nothing.
    pub fn note_extra(&self) {
        self.extra.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one. `new`: how many requests the endpoints have had since that was asked last.
    pub fn take(&self, allowance: Allowance, now: Instant, new: impl FnOnce() -> u64) -> bool {
        let mut state = self.state.lock();
        let first = std::mem::take(&mut state.unused);
        if first {
            state.tokens = allowance.floor * WINDOW.as_secs_f64();
        }
        if first || now.saturating_duration_since(state.looked) >= LOOK {
            let new = new();
            state.earn(allowance, now, new.saturating_sub(self.extra.swap(0, Ordering::Relaxed)));
        }
        if state.tokens < 1.0 {
            return false;
        }
        state.tokens -= 1.0;
        true
    }
}

impl State {
    fn earn(&mut self, allowance: Allowance, now: Instant, new: u64) {
        let window = WINDOW.as_secs_f64();
        let passed = now.saturating_duration_since(self.looked).as_secs_f64();
        let new = new as f64;
        self.looked = now;
        // As if what is new had come evenly.
        let kept = (-passed / window).exp();
        let evenly = if passed > window / 1000.0 { (1.0 - kept) * window / passed } else { 1.0 };
        self.recent = self.recent * kept + new * evenly;
        let most = allowance.share * self.recent + allowance.floor * window;
        self.tokens = (self.tokens + allowance.share * new + allowance.floor * passed).min(most.max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `wanted` retries at each of `seconds` are made, where each second has `rate` requests.
    fn made(budget: &Budget, allowance: Allowance, start: Instant, seconds: u64, rate: u64, wanted: u64) -> u64 {
        let (mut made, mut told) = (0, 0);
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            for _ in 0..wanted {
                let new = || {
                    let all = second * rate + made;
                    all - std::mem::replace(&mut told, all)
                };
                if budget.take(allowance, now, new) {
                    budget.note_extra();
                    made += 1;
                }
            }
        }
        made
    }

    #[test]
    fn a_storm_costs_the_share_and_the_floor() {
        let start = Instant::now();
        let allowance = Allowance { share: 0.2, floor: 1.0 };
        let spent = made(&Budget::new(start), allowance, start, 60, 1000, 3000);
        let bound = 0.2 * 60_000.0 + 1.0 * (60.0 + WINDOW.as_secs_f64());
        assert!((spent as f64) <= bound && spent as f64 >= 0.9 * bound, "{spent} of {bound}");
    }

    #[test]
    fn little_traffic_has_the_floor_and_none_has_nothing_to_repeat() {
        let start = Instant::now();
        let spent = made(&Budget::new(start), Allowance { share: 0.2, floor: 10.0 }, start, 60, 2, 2);
        assert_eq!(spent, 120, "every request may be repeated");
        let spent = made(&Budget::new(start), Allowance { share: 0.0, floor: 0.0 }, start, 10, 100, 100);
        assert_eq!(spent, 0);
    }

    #[test]
    fn what_was_earned_long_ago_is_forgotten() {
        let start = Instant::now();
        let (budget, allowance) = (Budget::new(start), Allowance { share: 0.2, floor: 0.0 });
        // An hour of much traffic, then an hour of nothing, then a storm.
        assert!(budget.take(allowance, start + Duration::from_secs(3600), || 3_600_000));
        let later = start + Duration::from_secs(7200);
        let spent = (0..10_000).filter(|_| budget.take(allowance, later, || 0)).count();
        assert!(spent <= 1, "{spent}");
        // Traffic that comes evenly between two looks counts as what it is.
        let spent = (0..10_000).filter(|_| budget.take(allowance, later + Duration::from_secs(100), || 100_000)).count();
        assert!((1900..=2001).contains(&spent), "a fifth of ten seconds of a thousand: {spent}");
    }
}
