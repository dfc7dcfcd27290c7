//! When a call is tried again: what for, how often, after how long, and within which budget.
//!
//! Here are the rules; which endpoint is asked next, and what is noted of it, is for the attempts themselves (`upstream/call`).

pub mod budget;
pub mod config;
pub mod hedge;
mod learned;

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, Method, header};

use self::budget::{Allowance, Budget};
use self::config::RetriesConfig;
use crate::grpc::{CODES, GRPC_RETRY_PUSHBACK, GRPC_STATUS, read_status};
use crate::problem::Problems;
use crate::tally::{Counter, Tallies};
use crate::value::StatusRange;

/// What a request is repeated for.
#[derive(Debug, Clone, Default)]
pub(super) struct On {
    pub connect: bool,
    pub refused: bool,
    pub reset: bool,
    pub timeout: bool,
    pub statuses: Vec<StatusRange>,
    /// The statuses of gRPC, a bit each.
    pub codes: u32,
    pub headers: Vec<HeaderName>,
    /// What may be repeated after something was sent; `None`: what is idempotent.
    pub methods: Option<Vec<Method>>,
    pub key: Option<HeaderName>,
    /// It was written, and is not the default.
    pub explicit: bool,
}

impl On {
    fn looks_at_answers(&self) -> bool {
        !self.statuses.is_empty() || self.codes != 0 || !self.headers.is_empty()
    }

    fn covers(&self, status: u16) -> bool {
        self.statuses.iter().any(|range| range.contains(status))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub attempts: u32,
    pub base: Duration,
    pub max: Duration,
    pub max_retry_after: Duration,
    pub buffer: usize,
}

/// Why an attempt was repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A kept connection was dead.
    Stale,
    Connect,
    Refused,
    Reset,
    Timeout,
    Status(u16),
    Code(u8),
    Header,
}

impl Why {
    const KINDS: [&str; 8] =
        ["stale_connection", "connect", "refused", "reset", "timeout", "status", "grpc_status", "retriable_header"];

    fn kind(self) -> usize {
        match self {
            Why::Stale => 0,
            Why::Connect => 1,
            Why::Refused => 2,
            Why::Reset => 3,
            Why::Timeout => 4,
            Why::Status(_) => 5,
            Why::Code(_) => 6,
            Why::Header => 7,
        }
    }
}

/// As the log has it.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Status(status) => write!(f, "{status}"),
            Why::Code(code) => f.write_str(CODES.iter().find(|(_, known)| known == code).map_or("grpc_status", |(name, _)| name)),
            other => f.write_str(Self::KINDS.get(other.kind()).copied().unwrap_or_default()),
        }
    }
}

/// What a service's endpoints speak.
#[derive(Debug, Clone, Copy)]
pub struct Speaks {
    pub http2: bool,
    /// gRPC and nothing else.
    pub calls_only: bool,
    /// Calls are made of requests, of which some may be repeated.
    pub transcodes: bool,
    /// Requests are sent twice also where nothing has failed.
    pub hedged: bool,
}

/// The rules of one service, or of a service on one route.
pub struct Rules {
    on: On,
    limits: Limits,
    allowance: Allowance,
    budget: Arc<Budget>,
    /// In the order of [`Why::KINDS`], those that can be.
    made: Vec<Option<Arc<Counter>>>,
    exhausted: Arc<Counter>,
    looks_at_answers: bool,
}

/// How long an answer asks to be left alone.
enum Asked {
    Nothing,
    Wait(Duration),
    Never,
}

impl Rules {
    /// For the service of that key. `None` only if there was a problem.
    pub fn compile(
        config: &RetriesConfig,
        speaks: Speaks,
        service: &str,
        budget: Arc<Budget>,
        tallies: &Tallies,
        problems: &mut Problems,
    ) -> Option<Self> {
        let (on, limits, allowance) = config.compile(speaks, problems)?;
        let help = "Attempts that were made again, by why.";
        let made = |reason| tallies.counter("portcullis_retries_total", help, &[("service", service), ("reason", reason)]);
        let can_be = [
            true,
            on.connect,
            on.refused && speaks.http2,
            on.reset,
            on.timeout,
            !on.statuses.is_empty(),
            on.codes != 0,
            !on.headers.is_empty(),
        ];
        let made = Why::KINDS.into_iter().zip(can_be).map(|(reason, can_be)| can_be.then(|| made(reason))).collect();
        let help = "Attempts that were not made again because the service's retry budget was spent.";
        let exhausted = tallies.counter("portcullis_retry_budget_exhausted_total", help, &[("service", service)]);
        let looks_at_answers = on.looks_at_answers();
        Some(Rules { on, limits, allowance, budget, made, exhausted, looks_at_answers })
    }

    /// The same, with what another one of the same service may spend.
    #[must_use]
    pub fn within(self, other: &Rules) -> Self {
        Rules { allowance: other.allowance, ..self }
    }

    /// How many more attempts may be made.
    pub fn attempts(&self) -> u32 {
        self.limits.attempts
    }

    /// How much of a body is kept to be sent again.
    pub fn buffer(&self) -> usize {
        self.limits.buffer
    }

    /// Whether an answer may be a reason.
    pub fn looks_at_answers(&self) -> bool {
        self.looks_at_answers
    }

    /// Whether the same endpoint may be asked again where there is no other one that could be connected to.
    pub fn is_explicit(&self) -> bool {
        self.on.explicit
    }

    /// Whether this is a reason at all.
    pub fn is_for(&self, why: Why) -> bool {
        match why {
            Why::Stale | Why::Header => true,
            Why::Connect => self.on.connect,
            Why::Refused => self.on.refused,
            Why::Reset => self.on.reset,
            Why::Timeout => self.on.timeout,
            Why::Status(status) => self.on.covers(status),
            Why::Code(code) => self.on.codes & 1 << code != 0,
        }
    }

    /// Whether a request of this method may be repeated once it was sent. `field`: what the service sees of its fields.
    pub fn repeats<'a>(&self, method: &Method, field: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> bool {
        let listed = match &self.on.methods {
            None => method.is_idempotent(),
            Some(methods) => methods.contains(method),
        };
        listed || self.on.key.as_ref().is_some_and(|key| field(key).is_some_and(|value| !value.is_empty()))
    }

    /// Why an answer is to be asked for again, and how long it asks to be left alone.
    pub fn of_answer<'a>(&self, status: u16, field: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Option<(Why, Option<Duration>)> {
        let code = || field(&GRPC_STATUS).and_then(read_status);
        let why = if self.on.covers(status) {
            Why::Status(status)
        } else if self.on.codes != 0
            && let Some(code) = code().filter(|code| self.on.codes & 1 << code != 0)
        {
            Why::Code(code)
        } else if self.on.headers.iter().any(|name| field(name).is_some()) {
            Why::Header
        } else {
            return None;
        };
        match asked(field) {
            Asked::Nothing => Some((why, None)),
            Asked::Wait(wait) if wait <= self.limits.max_retry_after => Some((why, Some(wait))),
            Asked::Wait(_) | Asked::Never => None,
        }
    }

    /// How long to wait before retry number `number`, from 1.
    pub fn backoff(&self, number: u32) -> Duration {
        let most = self.limits.base.saturating_mul(1 << number.saturating_sub(1).min(16)).min(self.limits.max);
        let drawn = std::hash::RandomState::new().hash_one(number) >> 11;
        most.mul_f64(drawn as f64 / (1u64 << 53) as f64)
    }

    /// Takes a retry out of the budget, if there is one left. `new`: how many requests the service's endpoints have had since that was
    /// asked last.
    pub fn spend(&self, new: impl FnOnce() -> u64) -> bool {
        let fine = self.budget.take(self.allowance, Instant::now(), new);
        if !fine {
            self.exhausted.add(1);
        }
        fine
    }

    /// Counts a request to an endpoint that no client asked for.
    pub fn note_extra(&self) {
        self.budget.note_extra();
    }

    /// Counts an attempt that is made again.
    pub fn note(&self, why: Why) {
        if let Some(Some(counter)) = self.made.get(why.kind()) {
            counter.add(1);
        }
    }
}

/// `Retry-After` in seconds (a date would need the service's clock), and gRPC's own word, which is "never" where it is no number (gRFC A6).
fn asked<'a>(field: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Asked {
    let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(pushback) = field(&GRPC_RETRY_PUSHBACK) {
        return number(pushback).map_or(Asked::Never, |millis| Asked::Wait(Duration::from_millis(millis)));
    }
    match field(&header::RETRY_AFTER) {
        None => Asked::Nothing,
        // A date is at least as far away as the next second, and mostly much farther.
        Some(text) => number(text).map_or(Asked::Never, |seconds| Asked::Wait(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: &str) -> Rules {
        let config: RetriesConfig = serde_yaml::from_str(yaml).unwrap();
        let budget = Arc::new(Budget::new(Instant::now()));
        let rules = Rules::compile(
            &config,
            Speaks { http2: false, calls_only: false, transcodes: false, hedged: false },
            "it",
            budget,
            &Tallies::default(),
            &mut Problems::default(),
        );
        rules.unwrap()
    }

    #[test]
    fn an_answer_says_when_to_come_back() {
        let rules = rules(
            "{ on: [503, unavailable, retriable_headers], methods: [POST], retriable_headers: [X-Retry], max_retry_after: 2s }",
        );
        let of = |status: u16, fields: &[(&'static str, &'static str)]| {
            let find = |name: &HeaderName| fields.iter().find(|(known, _)| name == known).map(|(_, value)| value.as_bytes());
            rules.of_answer(status, find).map(|(why, wait)| (why.to_string(), wait.map(|wait| wait.as_millis())))
        };
        assert_eq!(of(503, &[]), Some(("503".into(), None)));
        assert_eq!(of(503, &[("retry-after", "2")]), Some(("503".into(), Some(2000))));
        assert_eq!(of(503, &[("retry-after", "3600")]), None);
        assert_eq!(of(503, &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), None);
        assert_eq!(of(503, &[("retry-after", "99999999999999999999999")]), None);
        assert_eq!(of(200, &[("grpc-status", "14")]), Some(("unavailable".into(), None)));
        assert_eq!(of(200, &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "50")]), Some(("unavailable".into(), Some(50))));
        assert_eq!(of(200, &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")]), None);
        assert_eq!(of(200, &[("grpc-status", "5")]), None);
        assert_eq!(of(200, &[("grpc-status", "200")]), None);
        assert_eq!(of(200, &[("x-retry", "")]), Some(("retriable_header".into(), None)));
        assert_eq!(of(404, &[]), None);
    }

    #[test]
    fn backoff_grows_to_its_bound_and_is_drawn_anew() {
        let rules = rules("{ on: [503], backoff: { base: 100ms, max: 300ms } }");
        for (number, most) in [(1, 100), (2, 200), (3, 300), (10, 300)] {
            let drawn: Vec<u128> = (0..200).map(|_| rules.backoff(number).as_millis()).collect();
            assert!(drawn.iter().all(|wait| *wait <= most), "{number}: {drawn:?}");
            assert!(drawn.iter().any(|wait| *wait < most / 4) && drawn.iter().any(|wait| *wait > most * 3 / 4), "{drawn:?}");
        }
    }
}
