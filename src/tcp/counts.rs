//! What is counted of a route's connections.

use std::sync::Arc;

use crate::tally::{Counter, Gauge, Tallies};
use crate::upstream::occurrences::Occurrences;

/// The counts of one route. They are the same ones after a reload.
pub struct Counts {
    route: Arc<str>,
    open: Arc<Gauge>,
    received: Arc<Counter>,
    sent: Arc<Counter>,
    ends: Occurrences,
}

impl Counts {
    pub fn new(route: &Arc<str>, tallies: &Arc<Tallies>) -> Self {
        let bytes = |direction: &str| {
            let help = "Bytes that were carried over connections of TCP routes: `in` from clients, `out` to them.";
            tallies.counter("portcullis_tcp_bytes_total", help, &[("route", route), ("direction", direction)])
        };
        Counts {
            open: tallies.gauge(
                "portcullis_tcp_connections_open",
                "Connections of TCP routes that are open.",
                &[("route", route)],
            ),
            received: bytes("in"),
            sent: bytes("out"),
            ends: Occurrences::new(tallies.clone()),
            route: route.clone(),
        }
    }

    /// Counts a connection as open unless so many are.
    pub fn enter(&self, most: Option<u64>) -> Option<Open> {
        let entered = self.open.add_within(1, most.unwrap_or(u64::MAX));
        entered.then(|| Open(self.open.clone()))
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.open.get()
    }

    /// Counts bytes from the client and to it.
    pub fn moved(&self, received: u64, sent: u64) {
        self.received.add(received);
        self.sent.add(sent);
    }

    /// Counts a connection that is over, and why.
    pub fn ended(&self, reason: &'static str) {
        let help = "Connections that TCP routes took, by why they ended.";
        self.ends.count("portcullis_tcp_connections_total", help, &[("route", &*self.route), ("reason", reason)], reason);
    }
}

/// A connection that is open until this is dropped.
pub struct Open(Arc<Gauge>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}
