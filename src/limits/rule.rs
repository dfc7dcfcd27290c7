//! The rule of one limit: a token bucket or a sliding window, behind one face, so that keys and memory need not know which.
//!
//! Deliberately not here: clocks, keys and memory.

use std::time::Duration;

use super::gcra::{Gcra, Moment};
use super::window::{Counts, Window};

/// What is left of a limit for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How much would be admitted right now: so many requests of cost 1.
    pub remaining: u64,
    /// Nanoseconds until the request that was asked for would be admitted; 0 if it would be now, `u64::MAX` if it never would.
    pub next: u64,
    /// Nanoseconds until all of the limit is there again.
    pub full: u64,
}

/// What is remembered of one client. What it means is the rule's business; the memory knows only that after `until` it means
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// In nanoseconds. 0: nothing is remembered.
    pub until: u64,
    /// 48 bits.
    pub rest: u64,
}

/// How many requests, and how they are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    TokenBucket(Gcra),
    SlidingWindow(Window),
}

impl Rule {
    /// The highest cost that can ever be admitted.
    pub fn capacity(&self) -> u64 {
        match self {
            Rule::TokenBucket(gcra) => gcra.capacity(),
            Rule::SlidingWindow(window) => window.limit(),
        }
    }

    /// One of so many equal shares of this rule: a bucket of a fraction of the rate and of the capacity, a window of a fraction of the limit, both
    /// at least 1.
    pub fn share(&self, of: u32) -> Rule {
        let of = u64::from(of.max(1));
        let shared = match self {
            Rule::TokenBucket(gcra) => {
                let burst = u32::try_from(gcra.capacity() / of).unwrap_or(u32::MAX);
                let slower = |per| Gcra::new(gcra.count(), Duration::from_nanos(per), Some(burst));
                let fewer = || Gcra::new((gcra.count() / of).max(1), Duration::from_nanos(gcra.period()), Some(burst));
                // Exact where the period may be as much longer.
                slower(gcra.period().saturating_mul(of)).or_else(|_| fewer()).map(Rule::TokenBucket)
            }
            Rule::SlidingWindow(window) => {
                Window::new((window.limit() / of).max(1), Duration::from_nanos(window.period())).map(Rule::SlidingWindow)
            }
        };
        shared.unwrap_or(*self)
    }

    /// The new state if a request of this cost is admitted at `now`, `None` if it is not.
    #[inline]
    pub fn admit(&self, state: State, now: u64, cost: u64) -> Option<State> {
        match self {
            Rule::TokenBucket(gcra) => gcra.admit(moment(state), now, cost).map(of_moment),
            Rule::SlidingWindow(window) => window.admit(counts(state), now, cost).map(of_counts),
        }
    }

    /// Gives back what a request of this cost took.
    pub fn refund(&self, state: State, now: u64, cost: u64) -> State {
        match self {
            Rule::TokenBucket(gcra) => of_moment(gcra.refund(moment(state), cost)),
            Rule::SlidingWindow(window) => of_counts(window.refund(counts(state), now, cost)),
        }
    }

    /// What is left at `now`, and when a request of this cost would be admitted.
    #[inline]
    pub fn quota(&self, state: State, now: u64, cost: u64) -> Quota {
        match self {
            Rule::TokenBucket(gcra) => gcra.quota(moment(state), now, cost),
            Rule::SlidingWindow(window) => window.quota(counts(state), now, cost),
        }
    }

    /// Carries a state over from another rule: what was consumed stays consumed, clamped to this capacity.
    pub fn carry(&self, from: &Rule, state: State, now: u64) -> State {
        if let (Rule::TokenBucket(to), Rule::TokenBucket(from)) = (self, from) {
            return of_moment(to.rescale(from, moment(state), now));
        }
        let used = from.capacity().saturating_sub(from.quota(state, now, 1).remaining);
        match self {
            Rule::TokenBucket(gcra) => of_moment(gcra.holding(used, now)),
            Rule::SlidingWindow(window) => of_counts(window.holding(used, now)),
        }
    }
}

fn moment(state: State) -> Moment {
    Moment { ns: state.until, part: state.rest as u32 }
}

fn of_moment(moment: Moment) -> State {
    State { until: moment.ns, rest: u64::from(moment.part) }
}

const COUNT: u64 = (1 << 24) - 1;

fn counts(state: State) -> Counts {
    Counts { until: state.until, current: (state.rest & COUNT) as u32, previous: (state.rest >> 24 & COUNT) as u32 }
}

fn of_counts(counts: Counts) -> State {
    State { until: counts.until, rest: u64::from(counts.previous) << 24 | u64::from(counts.current) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn bucket(count: u64, seconds: u64) -> Rule {
        Rule::TokenBucket(Gcra::new(count, Duration::from_secs(seconds), None).unwrap())
    }

    fn window(count: u64, seconds: u64) -> Rule {
        Rule::SlidingWindow(Window::new(count, Duration::from_secs(seconds)).unwrap())
    }

    #[test]
    fn a_state_keeps_every_bit() {
        let most = Counts { until: u64::MAX, current: COUNT as u32, previous: COUNT as u32 - 1 };
        assert_eq!(counts(of_counts(most)), most);
        assert!(of_counts(most).rest < 1 << 48);
    }

    #[test]
    fn shares_add_up() {
        let shared = bucket(100, 1).share(4);
        assert_eq!(shared, Rule::TokenBucket(Gcra::new(100, Duration::from_secs(4), Some(25)).unwrap()));
        assert_eq!(window(100, 60).share(3), window(33, 60));
        assert_eq!(bucket(1, 1).share(1), bucket(1, 1));
        let year = bucket(1_000, 366 * 86_400).share(10);
        assert_eq!((year.capacity(), window(1, 1).share(10).capacity()), (100, 1));
    }

    #[test]
    fn what_was_consumed_stays_consumed_under_another_rule() {
        for (from, to) in
            [(bucket(10, 60), window(20, 3600)), (window(10, 60), bucket(20, 3600)), (window(10, 60), window(20, 7))]
        {
            let used = from.admit(State::default(), SECOND, 8).unwrap();
            let carried = to.carry(&from, used, SECOND);
            assert_eq!(to.quota(carried, SECOND, 1).remaining, 12);
            assert_eq!(to.carry(&from, State::default(), SECOND), State::default());
        }
        let clamped = window(3, 60).carry(&bucket(10, 60), bucket(10, 60).admit(State::default(), SECOND, 8).unwrap(), SECOND);
        assert_eq!(window(3, 60).quota(clamped, SECOND, 1).remaining, 0);
    }
}
