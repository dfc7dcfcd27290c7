//! `concurrency_limit`: how many requests of one client may be under way at once. One more waits for a moment, if it may, or is refused
//! with 429.
//!
//! A request counts from its admission until its answer is through, its client is gone or its upgraded connection closes: the place is
//! given back when the request ends, whatever way it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::by::By;
use crate::exchange::{Ending, Exchange, OnEnd};
use crate::head::RequestHead;
use crate::limits::line::{Arrival, Bounds, Gate, Lines, Pass};
use crate::limits::{Key, nanoseconds};
use crate::policy::{Compile, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::upstream::call::Engine;
use crate::value::{Period, Spanned};

const DEFAULT_QUEUE: u32 = 100;
const MOST: u32 = 1_000_000;
const LONGEST_WAIT: Duration = Duration::from_secs(300);
const KEYS: usize = 100_000;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyConfig {
    /// Whose requests are counted together, as in `rate_limit`. Default: `client_address`.
    #[serde(default)]
    pub by: By,
    /// How many may be under way at once, 1 to 1000000.
    pub limit: Spanned<u32>,
    /// How long one more may wait for its place. Default 0s: it is refused at once. At most 5m.
    #[serde(default)]
    pub max_wait: Option<Spanned<Period>>,
    /// How many may wait for one key. Default 100; 0 to 1000000.
    #[serde(default)]
    pub max_queue: Option<Spanned<u32>>,
    /// Refuses nobody, and only counts who would have been: `portcullis_concurrency_dry_run_total`. Default false.
    #[serde(default)]
    pub dry_run: bool,
}

/// How many are under way.
#[derive(Debug, Default)]
pub struct Places(u32);

impl Gate for Places {
    type Rule = u32;

    fn pass(&mut self, limit: u32, _: u64) -> Pass {
        if self.0 >= limit {
            return Pass::Later;
        }
        self.0 += 1;
        Pass::Now
    }

    fn is_idle(&self, _: u64) -> bool {
        self.0 == 0
    }

    /// Nobody knows how long the others take.
    fn delay(&self, _: u32, _: usize, _: u64) -> u64 {
        0
    }
}

/// The compiled policy.
pub struct ConcurrencyLimit {
    by: By,
    limit: u32,
    max_wait: Duration,
    bounds: Bounds,
    lines: Arc<Lines<Places>>,
    dry_run: Option<Arc<Counter>>,
    /// Where it was written, for the log.
    scope: Box<str>,
}

/// A place that was taken.
struct Taken {
    lines: Arc<Lines<Places>>,
    key: Key,
}

impl OnEnd for Taken {
    fn release(self: Box<Self>, _: &Ending) {
        self.lines.give_back(self.key, |places| places.0 = places.0.saturating_sub(1));
    }
}

impl ConcurrencyLimit {
    fn admitted(&self, key: Key, exchange: &mut Exchange) -> Flow {
        exchange.held.push(Box::new(Taken { lines: self.lines.clone(), key }));
        Flow::Continue(())
    }

    fn refusal(&self) -> Flow {
        let detail = "Too many requests are under way at once. Try again when one of them is answered.";
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, "too_many_concurrent", detail)
            .retry_after(Duration::from_secs(1))
            .decided_by(&*self.scope)
            .refuse()
    }
}

impl OnWait for ConcurrencyLimit {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let key = self.by.key(head, exchange);
        let limit = if self.dry_run.is_some() { u32::MAX } else { self.limit };
        let now = nanoseconds(Instant::now());
        match self.lines.arrive(key, limit, self.bounds, 0, now) {
            Arrival::Passed => {
                if let Some(counter) = &self.dry_run
                    && self.lines.gate(key, self.bounds, now, |places| places.0 > self.limit).unwrap_or(false)
                {
                    counter.add(1);
                }
                Some(self.admitted(key, exchange))
            }
            Arrival::MayWait if !self.max_wait.is_zero() => None,
            // With more keys than can be remembered at once, a rehearsal still stops nobody.
            _ if self.dry_run.is_some() => Some(Flow::Continue(())),
            _ => Some(self.refusal()),
        }
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, _: Engine<'a>) -> Waiting<'a> {
        let key = self.by.key(head, exchange);
        Box::pin(async move {
            let place = self.lines.join(key);
            if place.turn(self.limit, Instant::now() + self.max_wait).await {
                self.admitted(key, exchange)
            } else {
                self.refusal()
            }
        })
    }
}

impl Policy for ConcurrencyLimit {
    const NAME: &'static str = "concurrency_limit";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Limits how many requests of a client are under way at once (429).";
    type Config = ConcurrencyConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        if !(1..=MOST).contains(&config.limit.value) {
            cx.problems.push(Problem::error(config.limit.place, format!("`limit` is from 1 to {MOST}")));
        }
        if let Some(wait) = config.max_wait.as_ref().filter(|wait| wait.0 > LONGEST_WAIT) {
            cx.problems.push(Problem::error(wait.place, "`max_wait` is at most 5m"));
        }
        if let Some(queue) = config.max_queue.as_ref().filter(|queue| queue.value > MOST) {
            cx.problems.push(Problem::error(queue.place, format!("`max_queue` is at most {MOST}")));
        }
        let per_key = config.max_queue.as_ref().map_or(DEFAULT_QUEUE, |queue| queue.value) as usize;
        let help = "Requests that a concurrency limit in dry run would have refused.";
        let waiting_help = "Requests that wait for a place.";
        let waiting = cx.tallies.gauge("portcullis_concurrency_waiting", waiting_help, &[("scope", cx.scope)]);
        let shelf = format!("{}/{}/{}", cx.scope, Self::NAME, config.by.word());
        Some(ConcurrencyLimit {
            by: config.by.clone(),
            limit: config.limit.value,
            max_wait: config.max_wait.as_ref().map_or(Duration::ZERO, |wait| wait.0),
            bounds: Bounds { per_key, in_all: MOST as usize, keys: KEYS },
            lines: cx.ledger.keep(&shelf, || Lines::new(waiting)),
            dry_run: config
                .dry_run
                .then(|| cx.tallies.counter("portcullis_concurrency_dry_run_total", help, &[("scope", cx.scope)])),
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

    const ENDING: Ending = Ending { status: 200, answered_by: None, upstream: None, took: Duration::ZERO };

    fn ask(policy: &ConcurrencyLimit, exchange: &mut Exchange) -> Option<Flow> {
        policy.at_once(&RequestHead::build("GET", "/", &[]), exchange)
    }

    #[test]
    fn a_place_comes_back_when_the_request_ends() {
        let policy = compile::<ConcurrencyLimit>(json!({ "limit": 2 })).unwrap();
        let (mut one, mut two, mut three) = (Exchange::for_tests(), Exchange::for_tests(), Exchange::for_tests());
        assert!(ask(&policy, &mut one).unwrap().is_continue() && ask(&policy, &mut two).unwrap().is_continue());
        let reply = ask(&policy, &mut three).unwrap().break_value().unwrap();
        assert_eq!((reply.status.as_u16(), reply.reason), (429, "too_many_concurrent"));
        assert!(three.held.is_empty());
        one.held.drain(..).for_each(|held| held.release(&ENDING));
        assert!(ask(&policy, &mut three).unwrap().is_continue());
    }

    #[tokio::test]
    async fn one_more_waits_for_a_place() {
        let policy = Arc::new(compile::<ConcurrencyLimit>(json!({ "limit": 1, "max_wait": "20s" })).unwrap());
        let mut first = Exchange::for_tests();
        assert!(ask(&policy, &mut first).unwrap().is_continue());
        let mut second = Exchange::for_tests();
        assert!(ask(&policy, &mut second).is_none());
        let (waits, head) = (policy.clone(), RequestHead::build("GET", "/", &[]));
        let waiting = tokio::spawn(async move {
            waits.wait(&head, &mut second, crate::policy::testing::engine()).await.is_continue() && second.held.len() == 1
        });
        while policy.lines.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        first.held.drain(..).for_each(|held| held.release(&ENDING));
        assert!(waiting.await.unwrap());
    }

    #[test]
    fn a_rehearsal_stops_nobody() {
        let policy = compile::<ConcurrencyLimit>(json!({ "limit": 1, "dry_run": true })).unwrap();
        let mut exchanges: Vec<_> = (0..3).map(|_| Exchange::for_tests()).collect();
        assert!(exchanges.iter_mut().all(|exchange| ask(&policy, exchange).unwrap().is_continue()));
        assert_eq!(policy.dry_run.unwrap().sum(), 2);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<ConcurrencyLimit>(json!({ "limit": 0 })).contains("from 1"));
        assert!(complaint::<ConcurrencyLimit>(json!({ "limit": 1, "max_wait": "1h" })).contains("5m"));
    }
}
