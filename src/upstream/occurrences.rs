//! What happens seldom to a service, counted: a series exists once there is something to count, for most services never have any.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::tally::{Counter, Tallies};

/// The counters of one service.
#[derive(Default)]
pub struct Occurrences {
    tallies: Arc<Tallies>,
    held: Mutex<HashMap<(&'static str, &'static str), Arc<Counter>>>,
}

impl Occurrences {
    pub fn new(tallies: Arc<Tallies>) -> Self {
        Occurrences { tallies, held: Mutex::default() }
    }

    /// Counts one under `name`, with `word` as the value of the last label.
    pub fn count(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], word: &'static str) {
        let mut held = self.held.lock();
        held.entry((name, word)).or_insert_with(|| self.tallies.counter(name, help, labels)).add(1);
    }
}
