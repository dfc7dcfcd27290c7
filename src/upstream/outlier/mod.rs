//! Passive health: endpoints whose requests go wrong are left out for a while ("ejected"), without anybody asking them how they are.
//!
//! What an attempt came to is noted on the thread that made it, without a lock, and costs a look at a number where all is well. Only
//! when something has gone wrong often enough in a row is the service's watcher woken, which alone decides ([`judge`]): one thread, so
//! that the bound on how many are left out holds.
//!
//! What a client brings about by itself is no fault of an endpoint: a 4xx, an abort, a request whose body never came whole, a deadline
//! of its own. [`AttemptOutcome`] has no word for these.

pub mod config;
pub mod judge;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;

use crate::stripe::Striped;
use crate::value::Share;

/// What one attempt came to, as far as it says something about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It answered. Of a gRPC call, the status of HTTP that means the same.
    Status(StatusCode),
    /// No connection could be made.
    Unreachable,
    /// Nothing came in time.
    TimedOut,
    /// The connection broke off, or what came is no answer.
    Broken,
}

impl AttemptOutcome {
    /// There was no answer worth the name.
    pub fn is_local(self) -> bool {
        !matches!(self, AttemptOutcome::Status(_))
    }

    /// The endpoint failed. 501 and 505 are about the method and the version, which are the client's.
    pub fn is_failure(self) -> bool {
        match self {
            AttemptOutcome::Status(status) => status.is_server_error() && !matches!(status.as_u16(), 501 | 505),
            _ => true,
        }
    }

    fn is_gateway_error(self) -> bool {
        matches!(self, AttemptOutcome::Status(status) if matches!(status.as_u16(), 502..=504))
    }
}

/// What was noted of one attempt so far: an answer that had begun may still break off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noted {
    #[default]
    Nothing,
    /// It was well, after so many looks of the judge's, and has ended a row of so many attempts without an answer.
    Well {
        looks: u32,
        row: u32,
    },
    Failed,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Consecutive5xx = 1,
    ConsecutiveGatewayErrors,
    ConsecutiveLocalErrors,
    ConsecutiveConnectFailures,
    SuccessRate,
    FailurePercentage,
    Latency,
}

impl Reason {
    /// Those that rows of failures are about.
    const ROWS: [Reason; ROWS] = [
        Reason::Consecutive5xx,
        Reason::ConsecutiveGatewayErrors,
        Reason::ConsecutiveLocalErrors,
        Reason::ConsecutiveConnectFailures,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Consecutive5xx => "consecutive_5xx",
            Reason::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Reason::ConsecutiveLocalErrors => "consecutive_local_errors",
            Reason::ConsecutiveConnectFailures => "consecutive_connect_failures",
            Reason::SuccessRate => "success_rate",
            Reason::FailurePercentage => "failure_percentage",
            Reason::Latency => "latency",
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ROWS.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Whether it is about reaching the endpoint, and not about what it says.
    pub fn is_about_reach(self) -> bool {
        matches!(self, Reason::ConsecutiveLocalErrors | Reason::ConsecutiveConnectFailures)
    }
}

/// How many kinds of rows there are.
const ROWS: usize = 4;

/// What is too much, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The longest row of each kind, in the order of [`Reason::ROWS`]. 0 is never.
    consecutive: [u32; ROWS],
    success_rate: Option<SuccessRate>,
    failure_percentage: Option<FailurePercentage>,
    latency: Option<Latency>,
    interval: Duration,
    base: Duration,
    most: Duration,
    max_ejected: Share,
}

#[derive(Debug, Clone, PartialEq)]
struct SuccessRate {
    deviations: f64,
    requests: u32,
    endpoints: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct FailurePercentage {
    threshold: Share,
    requests: u32,
    endpoints: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Latency {
    factor: f64,
    difference: Duration,
    requests: u32,
    endpoints: u32,
}

impl Rules {
    /// Whether anything is looked at from time to time.
    fn has_statistics(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some() || self.latency.is_some()
    }

    /// Whether the status of an answer makes a difference.
    pub fn looks_at_answers(&self) -> bool {
        let [any, gateway, ..] = self.consecutive;
        any > 0 || gateway > 0 || self.has_statistics()
    }

    /// Whether it has to be known how long answers take.
    pub fn measures(&self) -> bool {
        self.latency.is_some()
    }

    /// How many of so many endpoints may be left out.
    fn may_eject(&self, all: usize) -> usize {
        if all < 2 { 0 } else { self.max_ejected.of(all).max(1) }
    }
}

/// What one thread has seen of an endpoint. Only ever rises.
#[derive(Default)]
struct Seen {
    attempts: AtomicU64,
    failures: AtomicU64,
    /// Answers that were timed, and their times in microseconds.
    timed: AtomicU64,
    micros: AtomicU64,
}

/// The sum over all threads.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    attempts: u64,
    failures: u64,
    timed: u64,
    micros: u64,
}

impl Sums {
    fn since(self, before: Sums) -> Sums {
        Sums {
            attempts: self.attempts.saturating_sub(before.attempts),
            failures: self.failures.saturating_sub(before.failures),
            timed: self.timed.saturating_sub(before.timed),
            micros: self.micros.saturating_sub(before.micros),
        }
    }

    fn success_rate(self) -> f64 {
        1.0 - (self.failures as f64 / self.attempts.max(1) as f64).min(1.0)
    }

    /// The mean time of an answer in seconds.
    fn mean(self) -> f64 {
        self.micros as f64 / self.timed.max(1) as f64 / 1e6
    }
}

/// How an endpoint is, or was, left out.
#[derive(Debug, Clone, Copy)]
pub struct Ejection {
    pub reason: Reason,
    pub until: Instant,
    /// How often in a row.
    pub times: u32,
    /// Whether it has come back.
    over: bool,
}

/// What is remembered of an endpoint's requests. Lives with the endpoint.
#[derive(Default)]
pub struct Record {
    /// In the order of [`Reason::ROWS`].
    rows: [AtomicU32; ROWS],
    /// Which row has become too long: a [`Reason`], or 0. For the judge to take.
    suspicion: AtomicU8,
    /// Only where there are statistics.
    seen: OnceLock<Striped<Seen>>,
    /// How often statistics were looked at.
    looks: AtomicU32,
    judged: Mutex<Judged>,
}

#[derive(Default)]
struct Judged {
    /// When statistics were looked at last.
    before: Sums,
    ejection: Option<Ejection>,
    /// How long it would be left out, had not too many been already.
    spared: Option<Instant>,
}

impl Record {
    /// Notes what an attempt came to, and tells whether the judge should have a look. `noted`: what was noted of the same one before.
    pub fn note(&self, rules: &Rules, outcome: AttemptOutcome, took: Option<Duration>, noted: &mut Noted) -> bool {
        let failed = outcome.is_failure();
        let now = self.looks.load(Ordering::Relaxed);
        let (anew, before) = match *noted {
            Noted::Failed => return false,
            Noted::Well { .. } if !failed => return false,
            Noted::Nothing => (true, 0),
            Noted::Well { looks, row } => (looks != now, row),
        };
        *noted = if failed { Noted::Failed } else { Noted::Well { looks: now, row: 0 } };
        if rules.has_statistics()
            && let Some(seen) = self.seen.get_or_init(|| Striped::new(|_| Seen::default())).mine()
        {
            // One that was looked at already is one more, or else there would be more failures than attempts.
            seen.attempts.fetch_add(u64::from(anew), Ordering::Relaxed);
            seen.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
            if let Some(took) = took {
                seen.timed.fetch_add(1, Ordering::Relaxed);
                seen.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
        let (local, unreachable) = (outcome.is_local(), outcome == AttemptOutcome::Unreachable);
        // Attempts without an answer say nothing about answers; an answer ends the rows of those that had none.
        let lengthens = [failed && !local, outcome.is_gateway_error(), local, unreachable];
        let ends = [!local, !local, !local, !unreachable];
        let mut suspect = false;
        for (number, reason) in Reason::ROWS.into_iter().enumerate() {
            let (Some(row), Some(most)) = (self.rows.get(number), rules.consecutive.get(number)) else { continue };
            let is = |which: &[bool; ROWS]| which.get(number) == Some(&true);
            if *most == 0 {
                continue;
            }
            if is(&lengthens) {
                // The row that it seemed to end goes on.
                let more = if reason == Reason::ConsecutiveLocalErrors { before + 1 } else { 1 };
                suspect |= self.lengthen(row, more, *most, reason);
            } else if is(&ends) {
                let length = end(row);
                if let (Noted::Well { row, .. }, Reason::ConsecutiveLocalErrors) = (&mut *noted, reason) {
                    *row = length;
                }
            }
        }
        suspect
    }

    /// Notes an answer, where it makes no difference which: it ends the rows of attempts that had none.
    #[inline]
    pub fn answered(&self) -> Noted {
        let [.., local, unreachable] = &self.rows;
        end(unreachable);
        Noted::Well { looks: 0, row: end(local) }
    }

    fn lengthen(&self, row: &AtomicU32, more: u32, most: u32, reason: Reason) -> bool {
        if row.fetch_add(more, Ordering::Relaxed).saturating_add(more) < most {
            return false;
        }
        row.store(0, Ordering::Relaxed);
        self.suspicion.store(reason as u8, Ordering::Release);
        true
    }

    fn sums(&self) -> Sums {
        self.seen.get().into_iter().flat_map(Striped::iter).fold(Sums::default(), |sums, seen| Sums {
            attempts: sums.attempts.wrapping_add(seen.attempts.load(Ordering::Relaxed)),
            failures: sums.failures.wrapping_add(seen.failures.load(Ordering::Relaxed)),
            timed: sums.timed.wrapping_add(seen.timed.load(Ordering::Relaxed)),
            micros: sums.micros.wrapping_add(seen.micros.load(Ordering::Relaxed)),
        })
    }

    /// What has come since the judge looked last.
    fn look(&self) -> Sums {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let sums = self.sums();
        sums.since(std::mem::replace(&mut self.judged.lock().before, sums))
    }

    fn suspicion(&self) -> Option<Reason> {
        Reason::of(self.suspicion.swap(0, Ordering::AcqRel))
    }

    /// How the endpoint is left out, if it is.
    pub fn ejection(&self) -> Option<Ejection> {
        self.judged.lock().ejection.filter(|ejection| !ejection.over)
    }

    /// Leaves the endpoint out. Returns how, and for how long.
    fn eject(&self, rules: &Rules, reason: Reason, now: Instant, vary: impl Fn(Duration) -> Duration) -> (Ejection, Duration) {
        let mut judged = self.judged.lock();
        let before = judged.ejection.map_or(0, |last| {
            let well = now.saturating_duration_since(last.until).as_millis() / rules.base.as_millis().max(1);
            last.times.saturating_sub(u32::try_from(well).unwrap_or(u32::MAX))
        });
        let times = before.saturating_add(1);
        let length = vary(rules.base.saturating_mul(times).min(rules.most));
        let ejection = Ejection { reason, until: now.checked_add(length).unwrap_or(now), times, over: false };
        judged.ejection = Some(ejection);
        (ejection, length)
    }

    /// Notes that the endpoint would be left out if not so many were already. Whether that is news: not within the time that it would have
    /// been left out for.
    fn is_spared_anew(&self, rules: &Rules, now: Instant) -> bool {
        let mut judged = self.judged.lock();
        let anew = judged.spared.is_none_or(|until| until <= now);
        if anew {
            judged.spared = now.checked_add(rules.base);
        }
        anew
    }

    /// The endpoint is asked again.
    fn take_back(&self, now: Instant) {
        self.look();
        let mut judged = self.judged.lock();
        if let Some(ejection) = &mut judged.ejection {
            ejection.over = true;
            ejection.until = ejection.until.min(now);
        }
        for row in &self.rows {
            end(row);
        }
        self.suspicion.store(0, Ordering::Release);
    }

    /// Forgets everything: nobody looks at it any more.
    fn forget(&self) {
        self.take_back(Instant::now());
        self.judged.lock().ejection = None;
    }
}

/// Ends a row, and tells how long it was. A line that nobody writes stays in every core's cache, so where there is nothing to end, nothing
/// is written.
#[inline]
fn end(row: &AtomicU32) -> u32 {
    if row.load(Ordering::Relaxed) != 0 { row.swap(0, Ordering::Relaxed) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problems;

    fn rules(yaml: &str) -> Rules {
        let choice: config::OutlierChoice = serde_yaml::from_str(yaml).unwrap();
        choice.compile(&mut Problems::default()).unwrap().unwrap()
    }

    fn status(code: u16) -> AttemptOutcome {
        AttemptOutcome::Status(StatusCode::from_u16(code).unwrap())
    }

    #[test]
    fn rows_are_counted_apart_and_ended_by_what_is_well() {
        let rules = rules(
            "{ consecutive_5xx: 3, consecutive_gateway_errors: 2, consecutive_local_errors: 2, consecutive_connect_failures: 0 }",
        );
        let record = Record::default();
        let note = |outcome| record.note(&rules, outcome, None, &mut Noted::Nothing).then(|| record.suspicion()).flatten();
        assert_eq!([500, 500, 200, 500, 500].map(|code| note(status(code))), [None; 5]);
        assert_eq!(note(status(500)), Some(Reason::Consecutive5xx));
        // What clients can bring about ends a row, or is none.
        assert_eq!([500, 500, 404, 500, 500, 501, 500, 500, 505].map(|code| note(status(code))), [None; 9]);
        assert_eq!(note(status(503)), None);
        assert_eq!(note(status(504)), Some(Reason::ConsecutiveGatewayErrors));
        assert_eq!(note(status(200)), None);
        // Attempts without an answer say nothing about answers, and the other way about an answer of whatever status ends their row.
        assert_eq!([AttemptOutcome::Unreachable, status(500), AttemptOutcome::TimedOut].map(note), [None; 3]);
        assert_eq!(note(AttemptOutcome::Broken), Some(Reason::ConsecutiveLocalErrors));
    }

    #[test]
    fn an_answer_that_breaks_off_is_one_attempt_and_one_failure() {
        let rules = rules("{ consecutive_5xx: 2, consecutive_local_errors: 2, failure_percentage: {} }");
        let record = Record::default();
        let (mut early, mut late, mut failed) = (Noted::Nothing, Noted::Nothing, Noted::Nothing);
        record.note(&rules, status(200), None, &mut early);
        record.note(&rules, status(200), None, &mut late);
        assert!(!record.note(&rules, AttemptOutcome::Broken, None, &mut early));
        let seen = record.look();
        assert_eq!((seen.attempts, seen.failures), (2, 1));
        // Of an interval that has been looked at already: now it is one of this one.
        record.note(&rules, AttemptOutcome::Broken, None, &mut late);
        let seen = record.look();
        assert_eq!((seen.attempts, seen.failures), (1, 1));
        record.suspicion();
        // A 500 that breaks off has failed once.
        assert!(!record.note(&rules, status(500), None, &mut failed));
        assert!(!record.note(&rules, AttemptOutcome::Broken, None, &mut failed));
        assert!(!record.note(&rules, status(500), None, &mut failed));
        let seen = record.look();
        assert_eq!((seen.attempts, seen.failures), (1, 1));
        assert!(record.note(&rules, status(500), None, &mut Noted::Nothing), "the second one in a row");
    }

    #[test]
    fn answers_that_all_break_off_are_a_row() {
        let rules = rules("{ consecutive_local_errors: 3 }");
        let record = Record::default();
        let suspect = [(); 3].map(|()| {
            let mut noted = Noted::Nothing;
            record.note(&rules, status(200), None, &mut noted);
            record.note(&rules, AttemptOutcome::Broken, None, &mut noted)
        });
        assert_eq!(suspect, [false, false, true]);
    }

    #[test]
    fn ejections_grow_to_their_bound_and_shrink_with_time() {
        let rules = rules("{ base_ejection: 10s, max_ejection: 25s }");
        let (record, start) = (Record::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let eject = |now| record.eject(&rules, Reason::Consecutive5xx, now, |length| length).1.as_secs();
        assert_eq!(eject(start), 10);
        assert_eq!(record.ejection().unwrap().times, 1);
        record.take_back(after(10));
        assert!(record.ejection().is_none());
        assert_eq!(eject(after(11)), 20);
        record.take_back(after(31));
        assert_eq!(eject(after(32)), 25);
        record.take_back(after(57));
        // Two times the base well: two taken back of three.
        assert_eq!(eject(after(78)), 20);
        record.forget();
        assert_eq!(eject(after(500)), 10);
    }

    #[test]
    fn who_is_spared_is_told_of_once_in_a_while() {
        let rules = rules("{ base_ejection: 10s }");
        let (record, start) = (Record::default(), Instant::now());
        let told = (0..30).filter(|second| record.is_spared_anew(&rules, start + Duration::from_secs(*second))).count();
        assert_eq!(told, 3);
    }

    #[test]
    fn the_default_looks_at_reachability_alone() {
        let rules = config::OutlierChoice::default().compile(&mut Problems::default()).unwrap().unwrap();
        assert_eq!(rules.consecutive, [0, 0, 0, 3]);
        assert!(!rules.has_statistics());
        assert_eq!([1, 2, 3, 4, 10].map(|all| rules.may_eject(all)), [0, 1, 1, 2, 5]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (yaml, key) in [
            ("consecutive_5xx: 1001", "`consecutive_5xx`"),
            ("base_ejection: 1ms", "`base_ejection`"),
            ("interval: 10ms", "`interval`"),
            ("max_ejected: 0%", "`max_ejected`"),
            ("success_rate: { deviations: 0 }", "`deviations`"),
            ("failure_percentage: { threshold: 0% }", "`threshold`"),
            ("latency: { factor: 1 }", "`factor`"),
            ("latency: { min_endpoints: 2 }", "`min_endpoints`"),
        ] {
            let mut problems = Problems::default();
            let choice: config::OutlierChoice = serde_yaml::from_str(&format!("{{ {yaml} }}")).unwrap();
            assert!(choice.compile(&mut problems).is_none(), "{yaml}");
            assert!(problems.iter().any(|problem| problem.message.contains(key)), "{yaml}");
        }
        assert!(serde_yaml::from_str::<config::OutlierChoice>("max_fails: 3").is_err());
    }
}
