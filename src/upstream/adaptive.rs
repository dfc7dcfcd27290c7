//! A service's adaptive concurrency: how many requests it can work on at once is found from its latency ([`gradient`](crate::limits::gradient)), and
//! what is more is not let through to it.
//!
//! Requests of priority `high` may use all of the limit, `normal` ones nine tenths, and `low` ones seven tenths, so that the lower are
//! shed while the higher still pass. It belongs to one service: what another one does, be it on the same route, says nothing about it.
//! One process, one limit: its workers share it, and several gateways find each its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::{Ending, OnEnd, Priority};
use crate::ledger::Ledger;
use crate::limits::gradient::{Gradient, Settings};
use crate::limits::nanoseconds;
use crate::problem::{Problem, Problems};
use crate::tally::{Counter, Gauge, Tallies};
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

/// [`AdaptiveConfig`], checked.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    settings: Settings,
    dry_run: bool,
}

impl Bounds {
    /// What is wrong goes to `problems`.
    pub fn compile(config: &AdaptiveConfig, problems: &mut Problems) -> Option<Self> {
        Some(Bounds { settings: settings(config, problems)?, dry_run: config.dry_run })
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

/// The limit of one service.
pub struct Adaptive {
    state: Arc<State>,
    meters: Arc<Meters>,
    dry_run: Option<Arc<Counter>>,
}

/// One request under way.
struct Under {
    state: Arc<State>,
    meters: Arc<Meters>,
}

impl OnEnd for Under {
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

impl Adaptive {
    /// For the service of this key, as it was written at `scope`. What was found out before a reload stays.
    pub fn keep(bounds: Bounds, scope: &str, service: &str, ledger: &Ledger, tallies: &Tallies) -> Self {
        let now = nanoseconds(Instant::now());
        let state = ledger.keep(&format!("{scope}/adaptive_concurrency/{service}"), || State {
            gradient: Mutex::new(Gradient::new(bounds.settings, now)),
            limit: AtomicU32::new(bounds.settings.initial),
            in_flight: AtomicU32::new(0),
        });
        let limit = {
            let mut gradient = state.gradient.lock();
            gradient.obey(bounds.settings);
            gradient.limit()
        };
        state.limit.store(limit, Ordering::Relaxed);
        let labels = [("scope", scope), ("service", service)];
        let shed = |priority| {
            let help = "Requests that were shed, by priority.";
            tallies.counter("portcullis_adaptive_concurrency_shed_total", help, &[labels[0], labels[1], ("priority", priority)])
        };
        let gauge = |name, help| tallies.gauge(name, help, &labels);
        let meters = Meters {
            limit: gauge(
                "portcullis_adaptive_concurrency_limit",
                "How many requests to a service may be under way at once, as found.",
            ),
            in_flight: gauge("portcullis_adaptive_concurrency_in_flight", "How many requests to a service are under way."),
            shed: [shed("low"), shed("normal"), shed("high")],
        };
        meters.limit.set(limit.into());
        let help = "Requests that adaptive concurrency in dry run would have shed.";
        let dry_run = bounds.dry_run.then(|| tallies.counter("portcullis_adaptive_concurrency_dry_run_total", help, &labels));
        Adaptive { state, meters: Arc::new(meters), dry_run }
    }

    /// A place among those under way, to be kept until the request ends; `None` if the service has as much to do as it can.
    pub fn enter(&self, priority: Priority) -> Option<Box<dyn OnEnd>> {
        let most = share(self.state.limit.load(Ordering::Relaxed), priority);
        let enter = |now| (now < most || self.dry_run.is_some()).then_some(now + 1);
        match self.state.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter) {
            Ok(before) => {
                if before >= most
                    && let Some(counter) = &self.dry_run
                {
                    counter.add(1);
                }
                self.meters.in_flight.add(1);
                Some(Box::new(Under { state: self.state.clone(), meters: self.meters.clone() }))
            }
            Err(_) => {
                if let Some(shed) = self.meters.shed.get(priority as usize) {
                    shed.add(1);
                }
                None
            }
        }
    }
}

fn settings(config: &AdaptiveConfig, problems: &mut Problems) -> Option<Settings> {
    let AdaptiveConfig { min, max, initial, .. } = config;
    let before = problems.iter().count();
    let mut within = |place, good: bool, message: &str| {
        if !good {
            problems.push(Problem::error(place, message));
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
    (problems.iter().count() == before).then(|| Settings {
        min: min.value,
        max: max.value,
        initial: initial.as_ref().map_or(INITIAL, |initial| initial.value).clamp(min.value, max.value),
        tolerance: config.tolerance.value,
        probe_interval: u64::try_from(probe.as_nanos()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(yaml: &str) -> Adaptive {
        let config: AdaptiveConfig = serde_yaml::from_str(yaml).unwrap();
        let bounds = Bounds::compile(&config, &mut Problems::default()).unwrap();
        Adaptive::keep(bounds, "global", "shop", &Ledger::default(), &Tallies::default())
    }

    fn admitted(control: &Adaptive, priority: Priority) -> Vec<Box<dyn OnEnd>> {
        std::iter::from_fn(|| control.enter(priority)).collect()
    }

    #[test]
    fn the_lowest_priority_is_shed_first() {
        let control = control("{ initial: 10, min: 10, max: 10 }");
        let low = admitted(&control, Priority::Low);
        let normal = admitted(&control, Priority::Normal);
        let mut high = admitted(&control, Priority::High);
        assert_eq!((low.len(), normal.len(), high.len()), (7, 2, 1));
        assert!(control.enter(Priority::High).is_none());
        let ending = Ending { status: 499, answered_by: Some("client"), upstream: None, took: Duration::ZERO };
        high.remove(0).release(&ending);
        assert!(control.enter(Priority::Normal).is_none());
        assert!(control.enter(Priority::High).is_some());
        assert_eq!(control.meters.shed.each_ref().map(|shed| shed.sum()), [1, 2, 2]);
    }

    #[test]
    fn a_rehearsal_sheds_nothing() {
        let control = control("{ initial: 4, max: 4, dry_run: true }");
        let all: Vec<_> = (0..10).map(|_| control.enter(Priority::High).unwrap()).collect();
        assert_eq!((all.len(), control.dry_run.unwrap().sum()), (10, 6));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (yaml, key) in [
            ("min: 0", "`min`"),
            ("max: 3", "`max`"),
            ("initial: 5000", "`initial`"),
            ("tolerance: 1.0", "`tolerance`"),
            ("probe_interval: 10ms", "`probe_interval`"),
        ] {
            let mut problems = Problems::default();
            assert!(Bounds::compile(&serde_yaml::from_str(yaml).unwrap(), &mut problems).is_none());
            assert!(problems.iter().any(|problem| problem.message.contains(key)), "{yaml}");
        }
    }
}
