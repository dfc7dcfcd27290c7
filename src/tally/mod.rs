//! What rooms count for themselves: a family has a name, help and a kind, and a series for each set of labels.
//!
//! A room asks for its handles when it is compiled and counts through them; the scrape reads whatever is still held. Labels come from
//! the configuration, never from a request, so that their number is bounded. Deliberately not here: what is counted of every request
//! ([`crate::observe`]).

pub mod shard;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use shard::Counter;

/// A value that is set, or moved up and down by several threads. Not sharded: for what changes seldom.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Adds so much unless that would pass `most`. Whether it did.
    pub fn add_within(&self, amount: u64, most: u64) -> bool {
        let more = |now: u64| now.checked_add(amount).filter(|sum| *sum <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Names, without quotes or escapes, and what stands behind them in one series.
pub type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Series {
    Counter(Weak<Counter>),
    Gauge(Weak<Gauge>),
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    series: BTreeMap<Labels, Series>,
}

/// One family as it is scraped.
#[derive(Debug)]
pub struct Reading {
    pub name: &'static str,
    pub help: &'static str,
    pub is_counter: bool,
    pub values: Vec<(Labels, u64)>,
}

/// The families of all rooms.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<BTreeMap<&'static str, Family>>);

impl Tallies {
    /// The counter of that name (`portcullis_..._total`) and those labels, for as long as someone holds it.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Counter> {
        let mut families = self.0.lock();
        let series = &mut families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() }).series;
        let labels = owned(labels);
        if let Some(Series::Counter(known)) = series.get(&labels)
            && let Some(held) = known.upgrade()
        {
            return held;
        }
        let fresh = Arc::new(Counter::default());
        series.insert(labels, Series::Counter(Arc::downgrade(&fresh)));
        fresh
    }

    /// The gauge of that name and those labels, for as long as someone holds it.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Arc<Gauge> {
        let mut families = self.0.lock();
        let series = &mut families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() }).series;
        let labels = owned(labels);
        if let Some(Series::Gauge(known)) = series.get(&labels)
            && let Some(held) = known.upgrade()
        {
            return held;
        }
        let fresh = Arc::new(Gauge::default());
        series.insert(labels, Series::Gauge(Arc::downgrade(&fresh)));
        fresh
    }

    /// Every family with a series that is still held, by name. What nobody holds is forgotten.
    pub fn read(&self) -> Vec<Reading> {
        let mut readings = Vec::new();
        self.0.lock().retain(|name, family| {
            let mut reading = Reading { name, help: family.help, is_counter: true, values: Vec::new() };
            family.series.retain(|labels, series| {
                let value = match series {
                    Series::Counter(counter) => counter.upgrade().map(|counter| counter.sum()),
                    Series::Gauge(gauge) => {
                        reading.is_counter = false;
                        gauge.upgrade().map(|gauge| gauge.get())
                    }
                };
                reading.values.extend(value.map(|value| (labels.clone(), value)));
                value.is_some()
            });
            let held = !reading.values.is_empty();
            if held {
                readings.push(reading);
            }
            held
        });
        readings
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_shared_and_lives_as_long_as_its_handles() {
        let tallies = Tallies::default();
        let one = tallies.counter("a_total", "A.", &[("limit", "x")]);
        let same = tallies.counter("a_total", "A.", &[("limit", "x")]);
        let other = tallies.counter("a_total", "A.", &[("limit", "y")]);
        let gauge = tallies.gauge("b", "B.", &[]);
        one.add(1);
        same.add(2);
        gauge.set(7);
        let readings = tallies.read();
        assert_eq!(
            readings.iter().map(|reading| (reading.name, reading.is_counter)).collect::<Vec<_>>(),
            [("a_total", true), ("b", false)]
        );
        assert_eq!(
            readings[0].values.iter().map(|(labels, value)| (labels[0].1.as_str(), *value)).collect::<Vec<_>>(),
            [("x", 3), ("y", 0)]
        );
        drop((one, same, other, gauge));
        assert!(tallies.read().is_empty());
    }
}
