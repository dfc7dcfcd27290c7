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
    /// When the part begins, in milliseconds: a number that means the same when a reload makes the parts longer or shorter.
    begins: AtomicU64,
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
    /// See [`Probes`].
    probes: AtomicU64,
    /// Failures in a row.
    row: AtomicU32,
    /// What was counted before this moment counts no more, in milliseconds.
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
    /// One of the few of a half-open breaker, and the wave it belongs to: what comes of it decides. Given back if nothing does.
    probe: Option<(Arc<Breaker>, u64)>,
    noted: Noted,
}

impl Pass {
    /// Whether it decides what becomes of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

/// What was noted of an attempt so far.
#[derive(Clone, Copy)]
enum Noted {
    Nothing,
    /// It was well, counts in the part of the window that begins then, and has ended a row of so many failures.
    Well {
        part: u64,
        row: u32,
    },
    Failed,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some((breaker, wave)) = self.probe.take() {
            breaker.end_probe(self.round, wave, false);
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
                return (Ok(Pass { round, probe: None, noted: Noted::Nothing }), changed);
            }
            let now = millis(now());
            let until = self.until.load(Ordering::Acquire);
            if state == State::HalfOpen {
                if let Some(wave) = self.take_probe(round, rules.probes) {
                    return (Ok(Pass { round, probe: Some((self.clone(), wave)), noted: Noted::Nothing }), changed);
                }
                if now < until {
                    return (Err(MOMENT), changed);
                }
                // Those under way have come to nothing for so long: time for others. What comes of the old ones still counts.
                let later = now.saturating_add(length(rules.open_for));
                if self.until.compare_exchange(until, later, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    self.next_wave(round);
                }
                continue;
            } else if now < until {
                return (Err(Duration::from_millis(until - now)), changed);
            }
            self.until.store(now.saturating_add(length(rules.open_for)), Ordering::Release);
            if self.change((state, round), State::HalfOpen) {
                changed = Some(State::HalfOpen);
            }
        }
        (Err(MOMENT), changed)
    }

    /// Whether [`Breaker::enter`] would let an attempt through, as far as one can tell without asking.
    pub fn admits(&self, rules: &Rules, now: Instant) -> bool {
        let (state, round) = self.read();
        let full = || Probes::of(self.probes.load(Ordering::Acquire), round).under_way >= u64::from(rules.probes);
        match state {
            State::Closed => true,
            State::HalfOpen if !full() => true,
            _ => self.until.load(Ordering::Acquire) <= millis(now),
        }
    }

    /// Lets a probe through, if there are not as many under way as there may be. Returns its wave.
    fn take_probe(&self, round: u64, most: u32) -> Option<u64> {
        let take = |cell| {
            let probes = Probes::of(cell, round);
            (probes.under_way < u64::from(most)).then(|| Probes { under_way: probes.under_way + 1, ..probes }.cell(round))
        };
        let before = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Probes::of(before, round).wave)
    }

    fn next_wave(&self, round: u64) {
        let next = |cell| {
            let probes = Probes::of(cell, round);
            Some(Probes { wave: probes.wave.wrapping_add(1) & WAVES, under_way: 0, ..probes }.cell(round))
        };
        let _ = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// A probe is over. Returns how many have done well; `None` where another round has begun.
    fn end_probe(&self, round: u64, wave: u64, well: bool) -> Option<u64> {
        let passed = |probes: Probes| (probes.passed + u64::from(well)).min(COUNTS);
        let end = |cell| {
            let probes = Probes::of(cell, round);
            let under_way = probes.under_way.saturating_sub(u64::from(probes.wave == wave));
            let present = cell >> 32 == round & u64::from(u32::MAX);
            present.then(|| Probes { under_way, passed: passed(probes), ..probes }.cell(round))
        };
        let before = self.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, end).ok()?;
        Some(passed(Probes::of(before, round)))
    }

    /// Notes what came of an attempt; a second time if an answer that had begun breaks off. Tells what that has changed.
    pub fn note(&self, rules: &Rules, pass: &mut Pass, failed: bool, slow: bool, now: Instant) -> Option<Change> {
        let (state, round) = self.read();
        if round != pass.round {
            pass.probe = None;
            return None;
        }
        match state {
            State::Closed => self.count(rules, (state, round), &mut pass.noted, failed, slow, now),
            State::HalfOpen => {
                let probe = pass.probe.take();
                if failed || slow {
                    let what = if failed { "a probe failed" } else { "a probe was slow" };
                    return self.open(rules, (state, round), what.to_owned(), now);
                }
                let (_, wave) = probe?;
                if self.end_probe(round, wave, true)? < u64::from(rules.probes) {
                    return None;
                }
                self.row.store(0, Ordering::Relaxed);
                // The next moment: what was counted within this one is from before.
                self.cleared.store(millis(now).saturating_add(1), Ordering::Release);
                self.change((state, round), State::Closed).then_some(State::Closed)
            }
            State::Open => None,
        }
    }

    fn count(
        &self,
        rules: &Rules,
        from: (State, u64),
        noted: &mut Noted,
        failed: bool,
        slow: bool,
        now: Instant,
    ) -> Option<Change> {
        let (known, again) = match *noted {
            Noted::Nothing => (None, false),
            Noted::Well { part, row } => (Some((part, row)), true),
            Noted::Failed => return None,
        };
        // How long it took was said with its head.
        let slow = slow && !again;
        if again && !failed {
            return None;
        }
        let part = self.part(rules, millis(now));
        *noted = match failed {
            true => Noted::Failed,
            false if self.row.load(Ordering::Relaxed) != 0 => Noted::Well { part, row: self.row.swap(0, Ordering::Relaxed) },
            false => Noted::Well { part, row: 0 },
        };
        if let Some(window) = self.window.mine() {
            let at = |begins: u64| window.get((begins / rules.bucket.max(1) % BUCKETS as u64) as usize);
            let holds = |bucket: &&Bucket, begins: u64| bucket.begins.load(Ordering::Relaxed) == begins;
            let first = self.first(rules, part);
            // One that was counted is amended. If that was too long ago, or on another thread, what comes of it now is one more.
            let amended =
                known.filter(|(part, _)| *part >= first).and_then(|(part, _)| at(part).filter(|bucket| holds(bucket, part)));
            if let Some(bucket) = amended.or_else(|| at(part)) {
                if amended.is_none() {
                    if !holds(&bucket, part) {
                        bucket.begins.store(part, Ordering::Relaxed);
                        [&bucket.all, &bucket.failed, &bucket.slow]
                            .into_iter()
                            .for_each(|count| count.store(0, Ordering::Relaxed));
                    }
                    bucket.all.fetch_add(1, Ordering::Relaxed);
                }
                if failed || slow {
                    bucket.failed.fetch_add(u32::from(failed), Ordering::Relaxed);
                    bucket.slow.fetch_add(u32::from(slow), Ordering::Relaxed);
                }
            }
        }
        if !failed && !slow {
            // What is well opens nothing.
            return None;
        }
        if failed {
            // The row that it seemed to end goes on.
            let more = known.map_or(0, |(_, row)| row).saturating_add(1);
            let row = self.row.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            if rules.row > 0 && row >= rules.row {
                return self.open(rules, from, format!("{row} failures in a row"), now);
            }
        }
        let (all, failures, slows) = self.sums(rules, part);
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
        let (attempts, failures, slow) = self.sums(rules, self.part(rules, millis(now)));
        let why = self.why().filter(|_| state != State::Closed);
        BreakerView { state: state.as_str(), open_for_ms: self.open_left(now).map(length), why, attempts, failures, slow }
    }

    /// When the part of the window begins that holds this moment.
    fn part(&self, rules: &Rules, millis: u64) -> u64 {
        (millis - millis % rules.bucket.max(1)).max(self.cleared.load(Ordering::Acquire))
    }

    /// When the window begins that ends with `part`.
    fn first(&self, rules: &Rules, part: u64) -> u64 {
        let bucket = rules.bucket.max(1);
        let window = (part - part % bucket).saturating_sub(bucket.saturating_mul(BUCKETS as u64 - 1));
        window.max(self.cleared.load(Ordering::Acquire))
    }

    /// All, failed and slow attempts within the window that ends with `part`.
    fn sums(&self, rules: &Rules, part: u64) -> (u64, u64, u64) {
        let first = self.first(rules, part);
        let present = |bucket: &&Bucket| bucket.begins.load(Ordering::Relaxed) >= first;
        self.window.iter().flatten().filter(present).fold((0, 0, 0), |(all, failed, slow), bucket| {
            let read = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
            (all + read(&bucket.all), failed + read(&bucket.failed), slow + read(&bucket.slow))
        })
    }
}

/// What comes of a round's probes. In one word: the round in the upper half, then these, in their order.
#[derive(Clone, Copy, Default)]
struct Probes {
    /// Goes up when those under way come to nothing for too long, and others are let through.
    wave: u64,
    /// Of this wave.
    under_way: u64,
    /// How many did well, of all waves.
    passed: u64,
}

/// The bits of a count, which holds [`Rules::probes`], and of a wave's number.
const COUNTS: u64 = (1 << 11) - 1;
const WAVES: u64 = (1 << 10) - 1;

impl Probes {
    /// None of another round's.
    fn of(cell: u64, round: u64) -> Self {
        if cell >> 32 != round & u64::from(u32::MAX) {
            return Probes::default();
        }
        Probes { wave: cell >> 22 & WAVES, under_way: cell >> 11 & COUNTS, passed: cell & COUNTS }
    }

    fn cell(self, round: u64) -> u64 {
        round << 32 | self.wave << 22 | self.under_way << 11 | self.passed
    }
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
