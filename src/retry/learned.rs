//! How long answers take, as far as a bound that most of them keep has to be known: a histogram of their times that forgets.
//!
//! Eight cells for each doubling, so that what is read out of it is at most an eighth too long, and never too short. Cores share the cells
//! and wait for nobody: a count that is lost now and then changes nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const CELLS_LOG: u32 = 3;
const CELLS: usize = 1 << CELLS_LOG;
/// Up to 67 s; what takes longer counts as that.
const DOUBLINGS: usize = 26;
/// How many answers have to be known before anything is said.
const ENOUGH: u32 = 64;
/// How many answers it takes until the bound is read out anew.
const AT_A_TIME: u32 = 32;
/// With so many known, each counts for half.
const MOST: u32 = 2048;

/// See the module.
pub struct Learned {
    /// The share of answers that keep the bound.
    share: f64,
    cells: Box<[AtomicU32]>,
    seen: AtomicU32,
    /// In microseconds; 0: not known yet.
    bound: AtomicU32,
}

impl Learned {
    /// For a bound that this share of the answers keeps.
    pub fn new(share: f64) -> Self {
        let cells = (0..DOUBLINGS * CELLS).map(|_| AtomicU32::new(0)).collect();
        Learned { share, cells, seen: AtomicU32::new(0), bound: AtomicU32::new(0) }
    }

    /// `None` while too little is known.
    pub fn bound(&self) -> Option<Duration> {
        let micros = self.bound.load(Ordering::Relaxed);
        (micros != 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Takes in how long an answer took.
    pub fn observe(&self, took: Duration) {
        if let Some(cell) = self.cells.get(cell(took)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if seen >= ENOUGH && seen.is_multiple_of(AT_A_TIME) {
            self.read_out();
        }
    }

    fn read_out(&self) {
        let counts = || self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        let all: u32 = counts().sum();
        let enough = (f64::from(all) * self.share).ceil() as u32;
        let mut sum = 0;
        let found = counts().position(|count| {
            sum += count;
            sum >= enough
        });
        if let Some(found) = found {
            self.bound.store(end(found), Ordering::Relaxed);
        }
        if all >= MOST {
            for cell in &self.cells {
                cell.fetch_sub(cell.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }
}

fn cell(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, (1 << DOUBLINGS) - 1);
    let doubling = micros.ilog2();
    let within = (micros << CELLS_LOG >> doubling) as usize % CELLS;
    doubling as usize * CELLS + within
}

/// The first microsecond behind a cell.
fn end(cell: usize) -> u32 {
    let (doubling, within) = (cell / CELLS, cell % CELLS);
    let end = ((CELLS + within + 1) << doubling).div_ceil(CELLS);
    u32::try_from(end).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(number: f64) -> Duration {
        Duration::from_secs_f64(number / 1000.0)
    }

    #[test]
    fn a_time_is_within_its_cell() {
        for micros in (1..5000).chain([65_535, 65_536, 1_000_000, 67_000_000]) {
            let of = cell(Duration::from_micros(micros));
            assert!(u64::from(end(of)) > micros, "{micros}");
            assert!(u64::from(end(of)) <= micros + micros.div_ceil(8) + 1, "{micros} {}", end(of));
        }
        assert_eq!(cell(Duration::MAX), DOUBLINGS * CELLS - 1);
        assert_eq!(cell(Duration::ZERO), 0);
    }

    #[test]
    fn the_bound_is_kept_by_as_many_as_it_says() {
        let learned = Learned::new(0.95);
        // From 1 to 101 ms, evenly, with a hundredth of stalls.
        let took = |number: u32| if number % 100 == 7 { 1000.0 } else { 1.0 + f64::from(number * 37 % 1000) / 10.0 };
        (0..63).for_each(|number| learned.observe(millis(took(number))));
        assert_eq!(learned.bound(), None, "too little is known");
        (63..10_000).for_each(|number| learned.observe(millis(took(number))));
        let bound = learned.bound().unwrap();
        let beyond = (0..10_000).filter(|number| millis(took(*number)) > bound).count();
        assert!((50..=500).contains(&beyond), "{bound:?} {beyond}");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let learned = Learned::new(0.95);
        (0..100_000).for_each(|_| learned.observe(millis(400.0)));
        (0..10_000).for_each(|_| learned.observe(millis(4.0)));
        assert!(learned.bound().unwrap() < millis(5.0), "{:?}", learned.bound());
        (0..1000).for_each(|_| learned.observe(millis(80.0)));
        assert!(learned.bound().unwrap() > millis(79.0), "{:?}", learned.bound());
    }
}
