//! `throttle`: slows clients down instead of refusing them. Requests over the rate wait their turn, in the order in which they came,
//! up to a longest delay; beyond that they are refused with 429.
//!
//! What leaves the throttle never exceeds the rate in any window of time: a turn that comes late, by the granularity of timers
//! (1 ms), is not made up for by the next one. Only at more than 50 requests/s are up to 2 ms made up for, or the lateness alone would
//! cost a part of the rate. A client that goes away leaves the line at once, and those behind it move up.
//!
//! The line is the process's: all its workers share it. Deliberately not here: throttling over several gateways.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::by::By;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::line::{Arrival, Bounds, Gate, Lines, Pass, Refused};
use crate::limits::{Key, nanoseconds};
use crate::policy::{Compile, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::upstream::call::Engine;
use crate::value::{Period, Rate, Spanned};

const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
const DEFAULT_QUEUE: u32 = 100;
const DEFAULT_WAITING: u32 = 10_000;
const MOST_WAITING: u32 = 1_000_000;
const KEYS: usize = 100_000;
/// Turns that are further apart than this need no lateness made up for.
const FINE: u64 = 20_000_000;
/// The lateness that is made up for between finer ones.
const CATCH_UP: u64 = 2_000_000;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrottleConfig {
    /// Whose requests stand in one line, as in `rate_limit`. Default: `client_address`.
    #[serde(default)]
    pub by: By,
    /// How many requests per period pass: `10/s`.
    pub rate: Spanned<Rate>,
    /// How many may pass at once after a pause. Default 0: one at a time, evenly spaced.
    #[serde(default)]
    pub burst: u32,
    /// A request that would wait longer is refused at once. Default 5s, at most 5m. The request's own deadline counts on meanwhile.
    #[serde(default)]
    pub max_delay: Option<Spanned<Period>>,
    /// How many may wait in one line. Default 100; 0 to 1000000.
    #[serde(default)]
    pub max_queue: Option<Spanned<u32>>,
    /// How many may wait in all lines of this policy together. Default 10000; 0 to 1000000.
    #[serde(default)]
    pub max_waiting: Option<Spanned<u32>>,
    /// Delays and refuses nobody, and only counts who would have been: `portcullis_throttle_dry_run_total`. Default false.
    #[serde(default)]
    pub dry_run: bool,
}

/// The rate, as the gate uses it, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    interval: u64,
    /// How far the moment of the next turn may lie ahead of now: a burst's worth.
    ahead: u64,
}

impl Pace {
    fn new(count: u64, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: never above the rate.
        let interval = per.div_ceil(count.max(1)).max(1);
        let burst = interval.saturating_mul(u64::from(burst.saturating_sub(1)));
        Pace { interval, ahead: if interval < FINE { burst.max(CATCH_UP.saturating_sub(interval)) } else { burst } }
    }
}

/// When the next turn would be in an evenly spaced stream (GCRA's theoretical arrival time).
#[derive(Debug, Default)]
pub struct Turn(u64);

impl Gate for Turn {
    type Rule = Pace;

    fn pass(&mut self, pace: Pace, now: u64) -> Pass {
        let due = self.0.saturating_sub(pace.ahead);
        if now < due {
            return Pass::At(due);
        }
        self.0 = self.0.max(now).saturating_add(pace.interval);
        Pass::Now
    }

    fn is_idle(&self, now: u64) -> bool {
        self.0 <= now
    }

    fn delay(&self, pace: Pace, before: usize, now: u64) -> u64 {
        let due = self.0.saturating_sub(pace.ahead).saturating_add(pace.interval.saturating_mul(before as u64));
        due.saturating_sub(now)
    }
}

/// The compiled policy.
pub struct Throttle {
    by: By,
    pace: Pace,
    bounds: Bounds,
    max_delay: Duration,
    lines: Arc<Lines<Turn>>,
    delayed: Arc<Counter>,
    /// Would have been delayed, and would have been refused, where this is only a rehearsal.
    dry_run: Option<[Arc<Counter>; 2]>,
    /// Where it was written, for the log.
    scope: Box<str>,
}

impl Throttle {
    /// Nobody waits in a rehearsal: the turns alone say how long the line would be.
    fn rehearse(&self, [delayed, refused]: &[Arc<Counter>; 2], key: Key, now: u64) {
        let pace = self.pace;
        let (patience, most) = (patience(self.max_delay), self.bounds.per_key as u64);
        self.lines.gate(key, self.bounds, now, |turn| {
            let delay = turn.delay(pace, 0, now);
            if delay == 0 {
                turn.pass(pace, now);
            } else if delay > patience || delay.div_ceil(pace.interval) > most {
                refused.add(1);
            } else {
                turn.0 = turn.0.saturating_add(pace.interval);
                delayed.add(1);
            }
        });
    }

    fn refusal(&self, refused: Refused) -> Flow {
        let (reason, detail, after) = match refused {
            Refused::Full => ("throttle_queue_full", "Too many requests are waiting. Try again later.", self.max_delay),
            Refused::TooLong(delay) => {
                let after = Duration::from_nanos(delay).saturating_sub(self.max_delay);
                ("throttle_delay_exceeded", "Too many requests. Try again later.", after)
            }
        };
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, reason, detail).retry_after(after).decided_by(&*self.scope).refuse()
    }
}

fn patience(max_delay: Duration) -> u64 {
    u64::try_from(max_delay.as_nanos()).unwrap_or(u64::MAX)
}

impl OnWait for Throttle {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let (key, now) = (self.by.key(head, exchange), nanoseconds(Instant::now()));
        if let Some(counters) = &self.dry_run {
            self.rehearse(counters, key, now);
            return Some(Flow::Continue(()));
        }
        match self.lines.arrive(key, self.pace, self.bounds, patience(self.max_delay), now) {
            Arrival::Passed => Some(Flow::Continue(())),
            Arrival::Refused(refused) => Some(self.refusal(refused)),
            Arrival::MayWait => None,
        }
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, _: Engine<'a>) -> Waiting<'a> {
        let key = self.by.key(head, exchange);
        Box::pin(async move {
            let place = self.lines.join(key);
            self.delayed.add(1);
            // Turns come a little late, so a little more patience than was promised: it is not to be refused after the wait.
            let until = Instant::now() + self.max_delay + Duration::from_secs(1);
            if place.turn(self.pace, until).await { Flow::Continue(()) } else { self.refusal(Refused::TooLong(0)) }
        })
    }
}

impl Policy for Throttle {
    const NAME: &'static str = "throttle";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Slows clients down: requests over the rate wait their turn, up to a longest delay (429).";
    type Config = ThrottleConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let rate = &config.rate;
        if rate.count > 1_000_000 || rate.per > Duration::from_secs(86_400) {
            cx.problems
                .push(Problem::error(rate.place, "a throttle lets at most 1000000 requests pass per period of at most 1d"));
            return None;
        }
        let max_delay = config.max_delay.as_ref().map_or(DEFAULT_MAX_DELAY, |delay| delay.0);
        if max_delay > LONGEST_DELAY {
            let place = config.max_delay.as_ref().map_or(cx.place, |delay| delay.place);
            cx.problems.push(Problem::error(place, "`max_delay` is at most 5m"));
        }
        let mut bound = |given: &Option<Spanned<u32>>, default: u32, name: &str| {
            let value = given.as_ref().map_or(default, |given| given.value);
            if value > MOST_WAITING {
                let place = given.as_ref().map_or(cx.place, |given| given.place);
                cx.problems.push(Problem::error(place, format!("`{name}` is at most {MOST_WAITING}")));
            }
            value as usize
        };
        let per_key = bound(&config.max_queue, DEFAULT_QUEUE, "max_queue");
        let in_all = bound(&config.max_waiting, DEFAULT_WAITING, "max_waiting");
        let counter = |what| {
            let help = "Requests that a throttle in dry run would have delayed or refused.";
            cx.tallies.counter("portcullis_throttle_dry_run_total", help, &[("scope", cx.scope), ("would", what)])
        };
        let waiting = cx.tallies.gauge("portcullis_throttle_waiting", "Requests that wait their turn.", &[("scope", cx.scope)]);
        let shelf = format!("{}/{}/{}", cx.scope, Self::NAME, config.by.word());
        Some(Throttle {
            by: config.by.clone(),
            pace: Pace::new(rate.count, rate.per, config.burst),
            bounds: Bounds { per_key, in_all, keys: KEYS },
            max_delay,
            lines: cx.ledger.keep(&shelf, || Lines::new(waiting)),
            delayed: cx.tallies.counter(
                "portcullis_throttle_delayed_total",
                "Requests that had to wait their turn.",
                &[("scope", cx.scope)],
            ),
            dry_run: config.dry_run.then(|| [counter("delay"), counter("refuse")]),
            scope: cx.scope.into(),
        })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().by_params |= self.by.looks_at_params();
        plan.on_wait(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    const MS: u64 = 1_000_000;

    #[test]
    fn turns_are_evenly_spaced_and_lateness_is_not_made_up_for() {
        let pace = Pace::new(10, Duration::from_secs(1), 0);
        let mut turn = Turn::default();
        assert_eq!(turn.pass(pace, 1000 * MS), Pass::Now);
        assert_eq!(turn.pass(pace, 1050 * MS), Pass::At(1100 * MS));
        assert_eq!(turn.delay(pace, 3, 1050 * MS), 350 * MS);
        assert_eq!(turn.pass(pace, 1107 * MS), Pass::Now);
        assert_eq!(turn.pass(pace, 1110 * MS), Pass::At(1207 * MS));
        assert!(!turn.is_idle(1206 * MS) && turn.is_idle(1207 * MS));
    }

    #[test]
    fn a_burst_passes_at_once_after_a_pause() {
        let pace = Pace::new(10, Duration::from_secs(1), 3);
        let mut turn = Turn::default();
        let passed = (0..5).filter(|_| turn.pass(pace, 5000 * MS) == Pass::Now).count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn a_fine_rate_is_kept_over_coarse_timers() {
        let pace = Pace::new(1000, Duration::from_secs(1), 0);
        let mut turn = Turn::default();
        // Woken every 2 ms, as a coarse timer would: the rate is kept all the same.
        let passed = (0..500).map(|tick| (0..10).take_while(|_| turn.pass(pace, 10 * MS + tick * 2 * MS) == Pass::Now).count());
        let passed: usize = passed.sum();
        assert!((995..=1002).contains(&passed), "{passed}");
    }

    fn ask(policy: &Throttle) -> Option<Flow> {
        policy.at_once(&RequestHead::build("GET", "/", &[]), &mut Exchange::for_tests())
    }

    #[test]
    fn says_at_once_what_would_take_too_long() {
        let policy = compile::<Throttle>(json!({ "rate": "1/minute", "max_delay": "30s" })).unwrap();
        assert!(matches!(ask(&policy), Some(Flow::Continue(()))));
        let reply = ask(&policy).unwrap().break_value().unwrap();
        assert_eq!((reply.status.as_u16(), reply.reason), (429, "throttle_delay_exceeded"));
        assert_eq!(reply.headers[0].1, "30");
        let policy = compile::<Throttle>(json!({ "rate": "1/s", "max_queue": 0 })).unwrap();
        assert!(matches!(ask(&policy), Some(Flow::Continue(()))));
        assert_eq!(ask(&policy).unwrap().break_value().unwrap().reason, "throttle_queue_full");
    }

    #[test]
    fn a_rehearsal_stops_nobody() {
        let policy = compile::<Throttle>(json!({ "rate": "1/s", "max_delay": "3s", "dry_run": true })).unwrap();
        assert!((0..10).all(|_| matches!(ask(&policy), Some(Flow::Continue(())))));
        let [delayed, refused] = policy.dry_run.unwrap();
        assert_eq!((delayed.sum(), refused.sum()), (3, 6));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<Throttle>(json!({ "rate": "10/s", "max_delay": "1h" })).contains("5m"));
        assert!(complaint::<Throttle>(json!({ "rate": "10/s", "max_queue": 2_000_000 })).contains("max_queue"));
        assert!(complaint::<Throttle>(json!({ "rate": "10000000/s" })).contains("1000000"));
    }
}
