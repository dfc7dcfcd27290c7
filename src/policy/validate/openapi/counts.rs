//! Requests by operation: as many series as a document has operations, up to a bound.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::super::report::Outcome;
use crate::exchange::OperationName;
use crate::policy::Compile;
use crate::tally::{Counter, Tallies};

/// The most operations that are told apart. The others are counted as one.
const MOST: usize = 1000;
const OTHERS: &str = "other";

/// Of one operation: requests, refused, reported.
type Three = [OnceLock<Arc<Counter>>; 3];

/// What is counted where a document is used, kept over reloads.
pub struct Counts {
    kept: Arc<Kept>,
    /// By the operation's number.
    operations: Vec<Three>,
}

/// By the operation and which of the three.
type Known = HashMap<(Box<str>, usize), Arc<Counter>>;

struct Kept {
    scope: String,
    tallies: Arc<Tallies>,
    known: Mutex<Known>,
}

impl Counts {
    pub fn of(operations: usize, cx: &Compile<'_>) -> Counts {
        let fresh = || Kept { scope: cx.scope.to_owned(), tallies: cx.tallies.clone(), known: Mutex::default() };
        let kept = cx.ledger.keep(&format!("{}/openapi", cx.scope), fresh);
        Counts { kept, operations: (0..operations).map(|_| Three::default()).collect() }
    }

    pub fn met(&self, name: &OperationName, number: u32) {
        self.add(name, number, 0);
    }

    pub fn broken(&self, name: &str, number: u32, outcome: Outcome) {
        self.add(name, number, if outcome == Outcome::Refused { 1 } else { 2 });
    }

    fn add(&self, name: &str, number: u32, which: usize) {
        let slot = self.operations.get(number as usize).and_then(|three| three.get(which));
        if let Some(slot) = slot {
            slot.get_or_init(|| self.kept.counter(if (number as usize) < MOST { name } else { OTHERS }, which)).add(1);
        }
    }
}

impl Kept {
    fn counter(&self, operation: &str, which: usize) -> Arc<Counter> {
        const REQUESTS: &str = "Requests by operation of a document of OpenAPI.";
        const BROKEN: &str =
            "Requests and answers that are not as their document of OpenAPI says, by operation and by what became of them.";
        let labels = [("scope", self.scope.as_str()), ("operation", operation)];
        let [scope, named] = labels;
        let make = || match which {
            0 => self.tallies.counter("portcullis_openapi_requests_total", REQUESTS, &labels),
            1 => self.tallies.counter("portcullis_openapi_broken_total", BROKEN, &[scope, named, ("outcome", "refused")]),
            _ => self.tallies.counter("portcullis_openapi_broken_total", BROKEN, &[scope, named, ("outcome", "reported")]),
        };
        self.known.lock().entry((operation.into(), which)).or_insert_with(make).clone()
    }
}
