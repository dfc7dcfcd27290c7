//! What is counted of the calls to Redis.

use std::sync::Arc;
use std::time::Duration;

use super::Unavailable;
use crate::tally::{Counter, Gauge, Tallies};

/// Every way in which a call ends, as [`Unavailable::word`] says it.
const ENDINGS: [&str; 7] = ["ok", "timeout", "connection", "breaker_open", "overloaded", "refused", "nonsense"];

pub(super) struct Counts {
    calls: [Arc<Counter>; ENDINGS.len()],
    /// Of the calls that were answered.
    microseconds: Arc<Counter>,
    connections: Arc<Gauge>,
    breakers_open: Arc<Gauge>,
    up: Arc<Gauge>,
}

impl Counts {
    pub fn new(tallies: &Tallies) -> Self {
        let call = |ending| {
            tallies.counter(
                "portcullis_redis_calls_total",
                "Calls to the shared Redis, by how they ended.",
                &[("result", ending)],
            )
        };
        Counts {
            calls: ENDINGS.map(call),
            microseconds: tallies.counter(
                "portcullis_redis_call_microseconds_total",
                "Time that calls to the shared Redis took, of those that were answered.",
                &[],
            ),
            connections: tallies.gauge(
                "portcullis_redis_connections",
                "Open connections to the shared Redis, one per worker that uses it.",
                &[],
            ),
            breakers_open: tallies.gauge(
                "portcullis_redis_breakers_open",
                "Breakers that keep calls from a Redis that does not answer: 0 or 1, in a Cluster up to 64 (256 slots each).",
                &[],
            ),
            up: tallies.gauge(
                "portcullis_redis_up",
                "1 while the shared Redis answers, 0 before it first did and while a breaker is open.",
                &[],
            ),
        }
    }

    pub fn ended(&self, outcome: Result<Duration, &Unavailable>) {
        let word = match outcome {
            Ok(took) => {
                self.microseconds.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                "ok"
            }
            Err(error) => error.word(),
        };
        if let Some(index) = ENDINGS.iter().position(|known| *known == word)
            && let Some(counter) = self.calls.get(index)
        {
            counter.add(1);
        }
    }

    pub fn connected(&self) {
        self.connections.add(1);
        self.set_up();
    }

    pub fn disconnected(&self) {
        self.connections.sub(1);
    }

    pub fn breaker_opened(&self) {
        self.breakers_open.add(1);
        self.up.set(0);
    }

    pub fn breaker_closed(&self) {
        self.breakers_open.sub(1);
        self.set_up();
    }

    fn set_up(&self) {
        if self.breakers_open.get() == 0 {
            self.up.set(1);
        }
    }
}
