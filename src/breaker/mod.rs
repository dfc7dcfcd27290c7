//! Circuit breakers: what fails anyway is not asked for a while.
//!
//! A [`Breaker`] is the state, which outlives reloads; [`Rules`] are one generation's. An attempt [enters](Breaker::enter), and what comes
//! of it is [noted](Breaker::note) with the [`Pass`] that it got, which knows the round it belongs to: what was begun before the breaker
//! changed says nothing about what it is now. Whose breakers there are, and what counts as a failure, is the business of who asks.
//!
//! Where nothing is wrong an attempt costs two looks and a count that only its thread writes.

pub mod config;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use crate::stripe::Striped;
use crate::value::Share;

/// In how many parts the window moves on.
const BUCKETS: usize = 10;
/// What a client is told to wait for while probes are under way.
const MOMENT: Duration = Duration::from_secs(1);

/// What is too much, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    failure_rate: Share,
    row: u32,
    pub slow_after: Option<Duration>,
    slow_rate: Share,
    /// How long one part of the window is, in milliseconds.
    bucket: u64,
    least: u32,
    pub open_for: Duration,
    pub probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed = 0,
    HalfOpen = 1,
    Open = 2,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::HalfOpen => "half_open",
            State::Open => "open",
        }
    }
}

/// What one thread has counted within one part of the window.
#[derive(Default)]
struct Bucket {
    /// Which part, counted from the beginning of time.
    slot: AtomicU64,
    all: AtomicU32,
    failed: AtomicU32,
    slow: AtomicU32,
}

/// The state of one breaker.
pub struct Breaker {
    /// The state in the lowest two bits, and above them the round: it goes up with every change.
    cell: AtomicU64,
    /// When it is half open, or when half-open rounds that came to nothing begin anew, in milliseconds.
    until: AtomicU64,
    /// Of the round in the upper half: how many probes were let through, and how many did well.
    probes: AtomicU64,
    /// Failures in a row.
    row: AtomicU32,
    /// What is not after this slot counts no more.
    cleared: AtomicU64,
    window: Striped<[Bucket; BUCKETS]>,
    /// Why it opened last.
    why: Mutex<Option<Box<str>>>,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            cell: AtomicU64::new(0),
            until: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            row: AtomicU32::new(0),
            cleared: AtomicU64::new(0),
            window: Striped::new(|_| Default::default()),
            why: Mutex::new(None),
        }
    }
}

/// What an attempt was let through under.
pub struct Pass {
    round: u64,
    /// One of the few of a half-open breaker: what comes of it decides. Given back if nothing does.
    probe: Option<Arc<Breaker>>,
    /// Something was noted already.
    noted: bool,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(breaker) = self.probe.take() {
            breaker.give_back(self.round);
        }
    }
}

/// Milliseconds of a clock that only goes forward, from 1 on.
fn millis(now: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = now.saturating_duration_since(*START.get_or_init(|| now));
    // An hour ahead, so that windows reach back to parts that there were.
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(3_600_000)
}

fn length(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

/// The state that came of a change.
pub type Change = State;

impl Breaker {
    fn read(&self) -> (State, u64) {
        let cell = self.cell.load(Ordering::Acquire);
        let state = match cell & 3 {
            0 => State::Closed,
            1 => State::HalfOpen,
            _ => State::Open,
        };
        (state, cell >> 2)
    }

    fn change(&self, from: (State, u64), to: State) -> bool {
        let cell = |state: State, round: u64| (round << 2) | state as u64;
        let (old, new) = (cell(from.0, from.1), cell(to, from.1.wrapping_add(1)));
        self.cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub fn state(&self) -> State {
        self.read().0
    }

    /// How long it stays open. `None` if it is not, or could be half open already.
    pub fn open_left(&self, now: Instant) -> Option<Duration> {
        let left = self.until.load(Ordering::Acquire).saturating_sub(millis(now));
        (self.state() == State::Open && left > 0).then(|| Duration::from_millis(left))
    }

    /// Asks whether an attempt may be made; if not, how long it is of no use to ask again. And what that has changed.
    pub fn enter(self: &Arc<Self>, rules: &Rules, now: impl Fn() -> Instant) -> (Result<Pass, Duration>, Option<Change>) {
        let mut changed = None;
        // Each turn but the last one loses to somebody who moved it on.
        for _ in 0..4 {
            let (state, round) = self.read();
            if state == State::Closed {
                return (Ok(Pass { round, probe: None, noted: false }), changed);
            }
            let now = millis(now());
            let until = self.until.load(Ordering::Acquire);
            if state == State::HalfOpen {
                if self.take_probe(round, rules.probes) {
                    return (Ok(Pass { round, probe: Some(self.clone()), noted: false }), changed);
                }
                if now < until {
                    return (Err(MOMENT), changed);
                }
            } else if now < until {
                return (Err(Duration::from_millis(until - now)), changed);
            }
            // Time for probes, or for other ones: those under way have come to nothing for so long.
            self.until.store(now.saturating_add(length(rules.open_for)), Ordering::Release);
            if self.change((state, round), State::HalfOpen) && state == State::Open {
                changed = Some(State::HalfOpen);
            }
        }
        (Err(MOMENT), changed)
    }

    fn take_probe(&self, round: u64, most: u32) -> bool {
        let take = |cell| {
            let (issued, passed) = probes_of(cell, round);
            (issued < most).then(|| probes(round, issued + 1, passed))
        };
        self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    fn give_back(&self, round: u64) {
        let give = |cell| {
            let (issued, passed) = probes_of(cell, round);
            (issued > passed).then(|| probes(round, issued - 1, passed))
        };
        // It fails where another round has begun.
        let _ = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, give);
    }

    /// Notes what came of an attempt; a second time if an answer that had begun breaks off. Tells what that has changed.
    pub fn note(&self, rules: &Rules, pass: &mut Pass, failed: bool, slow: bool, now: Instant) -> Option<Change> {
        let again = std::mem::replace(&mut pass.noted, true);
        let (state, round) = self.read();
        if round != pass.round {
            pass.probe = None;
            return None;
        }
        match state {
            State::Closed => self.count(rules, (state, round), again, failed, slow, now),
            State::HalfOpen => {
                pass.probe.take()?;
                if failed || slow {
                    let what = if failed { "a probe failed" } else { "a probe was slow" };
                    return self.open(rules, (state, round), what.to_owned(), now);
                }
                let pass = |cell| {
                    let (issued, passed) = probes_of(cell, round);
                    (issued > 0).then(|| probes(round, issued, passed + 1))
                };
                let before = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, pass).ok()?;
                if probes_of(before, round).1 + 1 < rules.probes {
                    return None;
                }
                self.row.store(0, Ordering::Relaxed);
                self.cleared.store(millis(now) / rules.bucket.max(1), Ordering::Release);
                self.change((state, round), State::Closed).then_some(State::Closed)
            }
            State::Open => None,
        }
    }

    fn count(&self, rules: &Rules, from: (State, u64), again: bool, failed: bool, slow: bool, now: Instant) -> Option<Change> {
        let slot = millis(now) / rules.bucket.max(1);
        if let Some(bucket) = self.window.mine().and_then(|window| window.get((slot % BUCKETS as u64) as usize)) {
            if bucket.slot.load(Ordering::Relaxed) != slot {
                bucket.slot.store(slot, Ordering::Relaxed);
                [&bucket.all, &bucket.failed, &bucket.slow].into_iter().for_each(|count| count.store(0, Ordering::Relaxed));
            }
            bucket.all.fetch_add(u32::from(!again), Ordering::Relaxed);
            if failed || slow {
                bucket.failed.fetch_add(u32::from(failed), Ordering::Relaxed);
                bucket.slow.fetch_add(u32::from(slow), Ordering::Relaxed);
            }
        }
        if !failed && self.row.load(Ordering::Relaxed) != 0 && !again {
            self.row.store(0, Ordering::Relaxed);
        }
        if !failed && !slow {
            // What is well opens nothing.
            return None;
        }
        if failed {
            let row = self.row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            if rules.row > 0 && row >= rules.row {
                return self.open(rules, from, format!("{row} failures in a row"), now);
            }
        }
        let (all, failures, slows) = self.sums(slot);
        let over = |count: u64, share: Share| count > 0 && share.is_reached(count, all);
        let why = if all < u64::from(rules.least) {
            return None;
        } else if over(failures, rules.failure_rate) {
            format!("{failures} of {all} failed")
        } else if rules.slow_after.is_some() && over(slows, rules.slow_rate) {
            format!("{slows} of {all} were slow")
        } else {
            return None;
        };
        self.open(rules, from, why, now)
    }

    fn open(&self, rules: &Rules, from: (State, u64), why: String, now: Instant) -> Option<Change> {
        self.until.store(millis(now).saturating_add(length(rules.open_for)), Ordering::Release);
        if !self.change(from, State::Open) {
            return None;
        }
        *self.why.lock() = Some(why.into());
        Some(State::Open)
    }

    /// Why it opened last.
    pub fn why(&self) -> Option<Box<str>> {
        self.why.lock().clone()
    }

    pub fn view(&self, rules: &Rules) -> BreakerView {
        let (now, state) = (Instant::now(), self.state());
        let (attempts, failures, slow) = self.sums(millis(now) / rules.bucket.max(1));
        let why = self.why().filter(|_| state != State::Closed);
        BreakerView { state: state.as_str(), open_for_ms: self.open_left(now).map(length), why, attempts, failures, slow }
    }

    /// All, failed and slow attempts within the window that ends with `slot`.
    fn sums(&self, slot: u64) -> (u64, u64, u64) {
        let first = slot.saturating_sub(BUCKETS as u64 - 1).max(self.cleared.load(Ordering::Acquire).saturating_add(1));
        let present = |bucket: &&Bucket| (first..=slot).contains(&bucket.slot.load(Ordering::Relaxed));
        self.window.iter().flatten().filter(present).fold((0, 0, 0), |(all, failed, slow), bucket| {
            let read = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
            (all + read(&bucket.all), failed + read(&bucket.failed), slow + read(&bucket.slow))
        })
    }
}

/// The lower halves: how many were let through, and how many did well. None of another round's.
fn probes_of(cell: u64, round: u64) -> (u32, u32) {
    if cell >> 32 != round & u64::from(u32::MAX) {
        return (0, 0);
    }
    (((cell >> 16) & 0xFFFF) as u32, (cell & 0xFFFF) as u32)
}

fn probes(round: u64, issued: u32, passed: u32) -> u64 {
    (round << 32) | u64::from(issued & 0xFFFF) << 16 | u64::from(passed & 0xFFFF)
}

/// A breaker, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct BreakerView {
    pub state: &'static str,
    /// How long it stays open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for_ms: Option<u64>,
    /// Why it opened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Box<str>>,
    /// Attempts within the window, and those of them that failed or were slow.
    pub attempts: u64,
    pub failures: u64,
    pub slow: u64,
}

#[cfg(test)]
mod tests;
