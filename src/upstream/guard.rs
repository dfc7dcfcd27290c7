//! The circuit breakers of services, of their endpoints and of routes: whose they are, what they are asked, what is told of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::endpoint::Endpoint;
use super::outlier::AttemptOutcome;
use crate::breaker::{Breaker, BreakerView, Change, Pass, Rules, State};
use crate::tally::{Counter, Gauge, Tallies};

/// Whose state it is.
enum Of {
    Service(Arc<Breaker>),
    EachEndpoint,
}

struct Meters {
    opened: Arc<Counter>,
    half_opened: Arc<Counter>,
    closed: Arc<Counter>,
    refused: Arc<Counter>,
    /// None for those of endpoints, of which there may be thousands.
    state: Option<Arc<Gauge>>,
}

/// The rules of one generation for one breaker, or for one breaker an endpoint.
pub struct Guard {
    rules: Rules,
    /// Who it is, for the log.
    name: Box<str>,
    route: Option<Box<str>>,
    of: Of,
    meters: Arc<Meters>,
}

/// A breaker is open.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// For how long.
    pub left: Duration,
    /// No endpoint of the service may be asked.
    pub whole: bool,
}

impl Guard {
    /// For the service of that key, or for one of its routes. Without a `breaker`, each endpoint has its own.
    pub fn new(rules: Rules, service: &str, route: Option<&str>, breaker: Option<Arc<Breaker>>, tallies: &Tallies) -> Self {
        let name = match route {
            Some(route) => format!("route `{route}`, service `{service}`"),
            None => format!("service `{service}`"),
        };
        let labels = [("service", service), ("route", route.unwrap_or_default())];
        let change = |to| {
            let help = "Changes of circuit breakers, by the state that came of them.";
            tallies.counter("portcullis_circuit_breaker_transitions_total", help, &[labels[0], labels[1], ("to", to)])
        };
        let state = breaker.as_ref().map(|breaker| {
            let help = "The state of a circuit breaker: 0 closed, 1 half open, 2 open.";
            let gauge = tallies.gauge("portcullis_circuit_breaker_state", help, &labels);
            gauge.set(breaker.state() as u64);
            gauge
        });
        let help = "Attempts that were not made because a circuit breaker was open.";
        let meters = Meters {
            opened: change("open"),
            half_opened: change("half_open"),
            closed: change("closed"),
            refused: tallies.counter("portcullis_circuit_breaker_refused_total", help, &labels),
            state,
        };
        Guard {
            rules,
            name: name.into(),
            route: route.map(Into::into),
            of: breaker.map_or(Of::EachEndpoint, Of::Service),
            meters: Arc::new(meters),
        }
    }

    fn breaker<'a>(&'a self, endpoint: &'a Endpoint) -> &'a Arc<Breaker> {
        match &self.of {
            Of::Service(breaker) => breaker,
            Of::EachEndpoint => endpoint.breaker(),
        }
    }

    pub fn is_of_endpoints(&self) -> bool {
        matches!(self.of, Of::EachEndpoint)
    }

    /// Whether it has to be known how long answers take.
    pub fn measures(&self) -> bool {
        self.rules.slow_after.is_some()
    }

    /// The state of the whole service's.
    pub fn whole(&self) -> Option<&Arc<Breaker>> {
        match &self.of {
            Of::Service(breaker) => Some(breaker),
            Of::EachEndpoint => None,
        }
    }

    /// Asks whether an attempt may be made.
    ///
    /// # Errors
    /// It is open.
    pub fn enter(&self, endpoint: &Endpoint) -> Result<Pass, Refused> {
        let (entered, changed) = self.breaker(endpoint).enter(&self.rules, Instant::now);
        self.tell(changed, endpoint);
        entered.map_err(|left| {
            self.meters.refused.add(1);
            Refused { left, whole: !self.is_of_endpoints() }
        })
    }

    /// Whether an endpoint's own breaker would let an attempt through.
    pub fn admits(&self, endpoint: &Endpoint, now: Instant) -> bool {
        !self.is_of_endpoints() || endpoint.breaker().admits(&self.rules, now)
    }

    /// Notes what came of an attempt. Whether an endpoint may not be asked any more.
    pub fn note(&self, endpoint: &Endpoint, pass: &mut Pass, outcome: AttemptOutcome, took: Option<Duration>) -> bool {
        let slow = self.rules.slow_after.zip(took).is_some_and(|(most, took)| took > most);
        let changed = self.breaker(endpoint).note(&self.rules, pass, outcome.is_failure(), slow, Instant::now());
        self.tell(changed, endpoint);
        self.is_of_endpoints() && changed == Some(State::Open)
    }

    #[cold]
    fn tell_change(&self, state: Change, endpoint: &Endpoint) {
        let at = if self.is_of_endpoints() { format!(", endpoint {}", endpoint.address()) } else { String::new() };
        let name = &self.name;
        match state {
            State::Open => {
                let why = self.breaker(endpoint).why().unwrap_or_default();
                warn!("{name}{at}: the circuit breaker is open for {:?}: {why}", self.rules.open_for);
                self.meters.opened.add(1);
            }
            State::HalfOpen => {
                info!("{name}{at}: the circuit breaker is half open: up to {} requests are let through", self.rules.probes);
                self.meters.half_opened.add(1);
            }
            State::Closed => {
                info!("{name}{at}: the circuit breaker is closed");
                self.meters.closed.add(1);
            }
        }
        if let Some(gauge) = &self.meters.state {
            gauge.set(state as u64);
        }
    }

    fn tell(&self, changed: Option<Change>, endpoint: &Endpoint) {
        if let Some(change) = changed {
            self.tell_change(change, endpoint);
        }
    }

    /// The route whose it is; `None` for the service's own.
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    pub fn view_of_whole(&self) -> Option<BreakerView> {
        self.whole().map(|breaker| self.view(breaker))
    }

    /// What the whole service's looks like, or an endpoint's.
    pub fn view(&self, breaker: &Breaker) -> BreakerView {
        breaker.view(&self.rules)
    }
}
