//! Answers by route, service and status: what shows that a share of a split fails.
//!
//! Common statuses are told apart, the rest by class, so that no backend can make series without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::tally::shard::Sharded;

/// The statuses that are told apart, in order.
const COMMON: [u16; 33] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 421,
    422, 429, 499, 500, 501, 502, 503, 504,
];
/// What the rest is called.
const REST: [&str; 6] = ["other 1xx", "other 2xx", "other 3xx", "other 4xx", "other 5xx", "other"];
const CELLS: usize = COMMON.len() + REST.len();

/// Where a status is counted.
static CELL: [u8; 600] = cells();

#[allow(clippy::indexing_slicing, reason = "while the program is compiled")]
const fn cells() -> [u8; 600] {
    let mut table = [0; 600];
    let mut status = 0;
    while status < table.len() {
        let class = status / 100;
        table[status] = (COMMON.len() + if class == 0 { 5 } else { class - 1 }) as u8;
        status += 1;
    }
    let mut common = 0;
    while common < COMMON.len() {
        table[COMMON[common] as usize] = common as u8;
        common += 1;
    }
    table
}

#[derive(Debug)]
struct Shard([AtomicU64; CELLS]);

impl Default for Shard {
    fn default() -> Self {
        Shard([const { AtomicU64::new(0) }; CELLS])
    }
}

/// Counts what one service answers on one route, or what the gateway does in its stead.
#[derive(Debug)]
pub struct AnswerMetrics {
    pub(super) route: Arc<str>,
    pub(super) service: Arc<str>,
    shards: Sharded<Shard>,
}

impl AnswerMetrics {
    pub(super) fn new(route: &Arc<str>, service: &Arc<str>) -> Self {
        AnswerMetrics { route: route.clone(), service: service.clone(), shards: Sharded::default() }
    }

    /// Counts an answer.
    pub fn observe(&self, status: u16) {
        let cell = CELL.get(usize::from(status)).map_or(CELLS - 1, |cell| usize::from(*cell));
        self.shards.with(|shard, adder| {
            if let Some(cell) = shard.0.get(cell) {
                adder.add(cell, 1);
            }
        });
    }

    /// Every status that was counted, and how often.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let mut sums = [0; CELLS];
        for shard in self.shards.each() {
            sums.iter_mut().zip(&shard.0).for_each(|(sum, cell)| *sum += cell.load(Ordering::Relaxed));
        }
        let names = COMMON.iter().map(u16::to_string).chain(REST.iter().map(|rest| (*rest).to_owned()));
        names.zip(sums).filter(|(_, sum)| *sum > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_statuses_are_told_apart_and_the_rest_by_class() {
        let answers = AnswerMetrics::new(&"r".into(), &"s".into());
        for status in [200, 200, 503, 418, 451, 599, 0, 999, 101] {
            answers.observe(status);
        }
        let wanted = [("101", 1), ("200", 2), ("503", 1), ("other 4xx", 2), ("other 5xx", 1), ("other", 2)];
        assert_eq!(answers.counts(), wanted.map(|(name, count)| (name.to_owned(), count)));
        assert!(COMMON.is_sorted());
    }
}
