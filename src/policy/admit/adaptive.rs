//! `adaptive_concurrency`: keeps a service from being asked for more at once than it can do, without anybody having to know how much that
//! is. What is too much is refused with 503 before the service hears of it, the lowest priority first.
//!
//! The limit is found from the service's latency ([`crate::limits::gradient`]). Requests of priority `high` may use all of it, `normal` ones nine
//! tenths, and `low` ones seven tenths, so that the lower are shed while the higher still pass.
//!
//! Written at a service it is one limit for all its routes; written globally or at a route, one for what it stands at. One process,
//! one limit: its workers share it, and several gateways find each its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::{Ending, Exchange, Hold, Priority};
use crate::head::RequestHead;
use crate::limits::gradient::{Gradient, Settings};
use crate::limits::nanoseconds;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::{Counter, Gauge};
use crate::value::{Period, Spanned};

const MOST: u32 = 100_000;
const INITIAL: u32 = 32;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveConfig {
    /// The limit never falls below this. Default 4; at least 1.
    pub min: Spanned<u32>,
    /// Nor rises above this. Default 1000; at most 100000.
    pub max: Spanned<u32>,
    /// Where it starts. Default 32, or the bound that is nearest to it.
    pub initial: Option<Spanned<u32>>,
    /// How many times as long as without load answers may take before the limit falls: 1.1 to 10. Default 1.5.
    pub tolerance: Spanned<f64>,
    /// How often the latency without load is measured anew, for which the limit is halved for a moment: 1s to 1h. Default 30s.
    pub probe_interval: Spanned<Period>,
    /// Refuses nobody, and only counts who would have been: `portcullis_adaptive_concurrency_dry_run_total`. Default false.
    pub dry_run: bool,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        AdaptiveConfig {
            min: Spanned::nowhere(4),
            max: Spanned::nowhere(1000),
            initial: None,
            tolerance: Spanned::nowhere(1.5),
            probe_interval: Spanned::nowhere(Period(Duration::from_secs(30))),
            dry_run: false,
        }
    }
}

/// What outlives a reload.
struct State {
    gradient: Mutex<Gradient>,
    /// Of the gradient, where it can be read without its lock.
    limit: AtomicU32,
    in_flight: AtomicU32,
}

struct Meters {
    limit: Arc<Gauge>,
    in_flight: Arc<Gauge>,
    shed: [Arc<Counter>; 3],
}

/// The compiled policy.
pub struct AdaptiveConcurrency {
    state: Arc<State>,
    meters: Arc<Meters>,
    dry_run: Option<Arc<Counter>>,
}

/// One request under way.
struct Under {
    state: Arc<State>,
    meters: Arc<Meters>,
}

impl Hold for Under {
    fn release(self: Box<Self>, ending: &Ending) {
        let in_flight = self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.meters.in_flight.sub(1);
        let latency = match (ending.upstream, ending.answered_by) {
            (Some(latency), None) if !matches!(ending.status, 502..=504) => {
                Some(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX))
            }
            // The gateway's word for a backend that failed or took too long, or the backend's own for being overloaded.
            (_, Some("upstream")) | (Some(_), None) => None,
            _ if ending.status == StatusCode::GATEWAY_TIMEOUT.as_u16() => None,
            // Refused by a later policy, answered from the cache, or left by its client: nothing to learn from.
            _ => return,
        };
        let mut gradient = self.state.gradient.lock();
        gradient.sample(latency, in_flight, nanoseconds(Instant::now()));
        let limit = gradient.limit();
        drop(gradient);
        self.state.limit.store(limit, Ordering::Relaxed);
        self.meters.limit.set(limit.into());
    }
}

/// How much of the limit a priority may use. Never nothing: it would never learn that the service is well again.
fn share(limit: u32, priority: Priority) -> u32 {
    let tenths = match priority {
        Priority::Low => 7,
        Priority::Normal => 9,
        Priority::High => 10,
    };
    (limit.saturating_mul(tenths) / 10).max(1)
}

impl OnRequest for AdaptiveConcurrency {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        let most = share(self.state.limit.load(Ordering::Relaxed), exchange.priority);
        let state = &self.state;
        let enter = |now| (now < most || self.dry_run.is_some()).then_some(now + 1);
        match state.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter) {
            Ok(before) => {
                if before >= most
                    && let Some(counter) = &self.dry_run
                {
                    counter.add(1);
                }
                self.meters.in_flight.add(1);
                exchange.held.push(Box::new(Under { state: state.clone(), meters: self.meters.clone() }));
                Flow::Continue(())
            }
            Err(_) => {
                if let Some(shed) = self.meters.shed.get(exchange.priority as usize) {
                    shed.add(1);
                }
                let detail = "The service has as much to do as it can. Try again later.";
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "shed_load", detail)
                    .retry_after(Duration::from_secs(1))
                    .refuse()
            }
        }
    }
}

impl Policy for AdaptiveConcurrency {
    const NAME: &'static str = "adaptive_concurrency";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Finds how much a service can do at once, and sheds what is more, lowest priority first (503).";
    type Config = AdaptiveConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let settings = settings(config, cx)?;
        let now = nanoseconds(Instant::now());
        let state = cx.ledger.keep(&format!("{}/{}", cx.scope, Self::NAME), || State {
            gradient: Mutex::new(Gradient::new(settings, now)),
            limit: AtomicU32::new(settings.initial),
            in_flight: AtomicU32::new(0),
        });
        let limit = {
            let mut gradient = state.gradient.lock();
            gradient.obey(settings);
            gradient.limit()
        };
        state.limit.store(limit, Ordering::Relaxed);
        let scope = ("scope", cx.scope);
        let shed = |priority| {
            let help = "Requests that were shed, by priority.";
            cx.tallies.counter("portcullis_adaptive_concurrency_shed_total", help, &[scope, ("priority", priority)])
        };
        let meters = Meters {
            limit: cx.tallies.gauge(
                "portcullis_adaptive_concurrency_limit",
                "How many requests may be under way at once, as found.",
                &[scope],
            ),
            in_flight: cx.tallies.gauge(
                "portcullis_adaptive_concurrency_in_flight",
                "How many requests are under way.",
                &[scope],
            ),
            shed: [shed("low"), shed("normal"), shed("high")],
        };
        meters.limit.set(limit.into());
        let help = "Requests that adaptive concurrency in dry run would have shed.";
        let dry_run = config.dry_run.then(|| cx.tallies.counter("portcullis_adaptive_concurrency_dry_run_total", help, &[scope]));
        Some(AdaptiveConcurrency { state, meters: Arc::new(meters), dry_run })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

fn settings(config: &AdaptiveConfig, cx: &mut Compile<'_>) -> Option<Settings> {
    let AdaptiveConfig { min, max, initial, .. } = config;
    let before = cx.problems.iter().count();
    let mut within = |place, good: bool, message: &str| {
        if !good {
            cx.problems.push(Problem::error(place, message));
        }
    };
    within(min.place, (1..=MOST).contains(&min.value), "`min` is from 1 to 100000");
    within(max.place, (min.value..=MOST).contains(&max.value), "`max` is from `min` to 100000");
    if let Some(initial) = initial {
        within(initial.place, (min.value..=max.value).contains(&initial.value), "`initial` is from `min` to `max`");
    }
    within(config.tolerance.place, (1.1..=10.0).contains(&config.tolerance.value), "`tolerance` is from 1.1 to 10");
    let probe = config.probe_interval.0;
    let probe_is_good = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&probe);
    within(config.probe_interval.place, probe_is_good, "`probe_interval` is from 1s to 1h");
    (cx.problems.iter().count() == before).then(|| Settings {
        min: min.value,
        max: max.value,
        initial: initial.as_ref().map_or(INITIAL, |initial| initial.value).clamp(min.value, max.value),
        tolerance: config.tolerance.value,
        probe_interval: u64::try_from(probe.as_nanos()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    fn ask(policy: &AdaptiveConcurrency, priority: Priority) -> Result<Exchange, Box<Reply>> {
        let mut exchange = Exchange::for_tests();
        exchange.priority = priority;
        match policy.on_request(&RequestHead::build("GET", "/", &[]), &mut exchange) {
            Flow::Continue(()) => Ok(exchange),
            Flow::Break(reply) => Err(reply),
        }
    }

    fn admitted(policy: &AdaptiveConcurrency, priority: Priority) -> Vec<Exchange> {
        std::iter::from_fn(|| ask(policy, priority).ok()).collect()
    }

    #[test]
    fn the_lowest_priority_is_shed_first() {
        let policy = compile::<AdaptiveConcurrency>(json!({ "initial": 10, "min": 10, "max": 10 })).unwrap();
        let low = admitted(&policy, Priority::Low);
        let normal = admitted(&policy, Priority::Normal);
        let mut high = admitted(&policy, Priority::High);
        assert_eq!((low.len(), normal.len(), high.len()), (7, 2, 1));
        let reply = ask(&policy, Priority::High).err().unwrap();
        assert_eq!((reply.status.as_u16(), reply.reason), (503, "shed_load"));
        let ending = Ending { status: 499, answered_by: Some("client"), upstream: None, took: Duration::ZERO };
        high.remove(0).held.drain(..).for_each(|held| held.release(&ending));
        assert!(ask(&policy, Priority::Normal).is_err());
        assert!(ask(&policy, Priority::High).is_ok());
        assert_eq!(policy.meters.shed.each_ref().map(|shed| shed.sum()), [1, 2, 2]);
    }

    #[test]
    fn a_rehearsal_sheds_nothing() {
        let policy = compile::<AdaptiveConcurrency>(json!({ "initial": 4, "max": 4, "dry_run": true })).unwrap();
        let all: Vec<_> = (0..10).map(|_| ask(&policy, Priority::High).ok().unwrap()).collect();
        assert_eq!((all.len(), policy.dry_run.unwrap().sum()), (10, 6));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<AdaptiveConcurrency>(json!({ "min": 0 })).contains("`min`"));
        assert!(complaint::<AdaptiveConcurrency>(json!({ "max": 3 })).contains("`max`"));
        assert!(complaint::<AdaptiveConcurrency>(json!({ "initial": 5000 })).contains("`initial`"));
        assert!(complaint::<AdaptiveConcurrency>(json!({ "tolerance": 1.0 })).contains("`tolerance`"));
        assert!(complaint::<AdaptiveConcurrency>(json!({ "probe_interval": "10ms" })).contains("`probe_interval`"));
    }
}
