//! Requests by consumer, for those who ask for it: every consumer is a series more.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::metrics::{CLASSES, class_index};
use crate::tally::shard::Counter;

/// What all consumers together are called that found no place.
const REST: &str = "other";

type Counts = [Counter; CLASSES.len()];

/// Counts by consumer, as many as are asked for.
#[derive(Debug, Default)]
pub struct Consumers {
    known: RwLock<HashMap<Arc<str>, Arc<Counts>, ahash::RandomState>>,
    rest: Counts,
}

impl Consumers {
    /// Counts a request of this consumer, of whom at most `most` are told apart: those who come first.
    pub fn observe(&self, consumer: &Arc<str>, status: u16, most: usize) {
        let counts = self.find(consumer, most);
        let counts = counts.as_deref().unwrap_or(&self.rest);
        if let Some(count) = counts.get(class_index(status)) {
            count.add(1);
        }
    }

    fn find(&self, consumer: &Arc<str>, most: usize) -> Option<Arc<Counts>> {
        if let Some(counts) = self.known.read().get(consumer) {
            return Some(counts.clone());
        }
        let mut known = self.known.write();
        let room = known.len() < most;
        match known.get(consumer) {
            Some(counts) => Some(counts.clone()),
            None if room => Some(known.entry(consumer.clone()).or_default().clone()),
            None => None,
        }
    }

    /// By consumer and class.
    pub(super) fn counts(&self) -> Vec<(Arc<str>, &'static str, u64)> {
        let each = |name: &Arc<str>, counts: &Counts| {
            CLASSES.iter().zip(counts).map(|(class, count)| (name.clone(), *class, count.sum())).collect::<Vec<_>>()
        };
        let known = self.known.read();
        let all = known.iter().flat_map(|(name, counts)| each(name, counts)).chain(each(&REST.into(), &self.rest));
        all.filter(|(_, _, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_consumers_are_told_apart_and_no_more() {
        let consumers = Consumers::default();
        for number in 0..10 {
            consumers.observe(&format!("c{number}").into(), 200, 3);
        }
        consumers.observe(&"c0".into(), 429, 3);
        let mut counts = consumers.counts();
        counts.sort();
        let counts: Vec<_> = counts.iter().map(|(name, class, count)| (&**name, *class, *count)).collect();
        assert_eq!(counts, [("c0", "2xx", 1), ("c0", "4xx", 1), ("c1", "2xx", 1), ("c2", "2xx", 1), ("other", "2xx", 7)]);
    }
}
