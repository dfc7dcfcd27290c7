//! What is counted of a route's WebSockets. Made with its first one, and kept for as long as the route.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::tally::{Counter, Gauge, Tallies};

/// See the module.
#[derive(Debug)]
pub struct WebSocketMetrics {
    tallies: Arc<Tallies>,
    route: Box<str>,
    open: Arc<Gauge>,
    messages_in: Arc<Counter>,
    messages_out: Arc<Counter>,
    /// By who closed and with which code, as they come.
    closed: Mutex<Vec<(&'static str, &'static str, Arc<Counter>)>>,
}

/// One that is open.
pub struct Open<'a>(&'a WebSocketMetrics);

impl WebSocketMetrics {
    pub(super) fn new(tallies: &Arc<Tallies>, route: &str) -> Self {
        let help = "Messages through WebSockets, by their direction: in is from the client.";
        let messages = |direction| {
            tallies.counter("portcullis_websocket_messages_total", help, &[("route", route), ("direction", direction)])
        };
        WebSocketMetrics {
            open: tallies.gauge("portcullis_websockets_open", "WebSockets that are open.", &[("route", route)]),
            messages_in: messages("in"),
            messages_out: messages("out"),
            closed: Mutex::default(),
            tallies: tallies.clone(),
            route: route.into(),
        }
    }

    pub fn opened(&self) -> Open<'_> {
        self.open.add(1);
        Open(self)
    }

    /// Counts messages from the client, and to it.
    pub fn passed(&self, messages_in: u64, messages_out: u64) {
        if messages_in > 0 {
            self.messages_in.add(messages_in);
        }
        if messages_out > 0 {
            self.messages_out.add(messages_out);
        }
    }

    /// Counts one that was closed.
    pub fn closed(&self, by: &'static str, code: Option<u16>) {
        let code = code.map_or("none", word);
        let mut closed = self.closed.lock();
        let found = closed.iter().find(|(known, known_code, _)| (*known, *known_code) == (by, code));
        if let Some((_, _, counter)) = found {
            return counter.add(1);
        }
        let help = "WebSockets that were closed, by who did so first, client, service or gateway, and with which code.";
        let labels = [("route", &*self.route), ("by", by), ("code", code)];
        let counter = self.tallies.counter("portcullis_websocket_closed_total", help, &labels);
        counter.add(1);
        closed.push((by, code, counter));
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.sub(1);
    }
}

/// The codes that are told apart (RFC 6455, section 7.4.1): applications have thousands of their own.
fn word(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        1014 => "1014",
        _ => "other",
    }
}
