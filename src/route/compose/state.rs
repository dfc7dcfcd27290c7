//! How a part of a composed answer ended, and the words for it.

use std::fmt::Write as _;
use std::time::Duration;

use super::Part;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ok,
    /// The service was not asked: it was stored, and is so many seconds old.
    Hit(u64),
    /// The same, and it has expired.
    Stale(u64),
    /// Its condition did not hold.
    Skipped,
    /// Something stood in for it.
    Fallback,
    Failed(Fault),
    /// The whole had failed meanwhile.
    Cancelled,
}

/// Why there is no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Timeout,
    /// The service could not be asked, or did not answer.
    Unavailable,
    Status(u16),
    Redirect(u16),
    NotJson,
    Malformed,
    TooDeep,
    TooLarge,
    CutOff,
    /// In a coding that was not asked for.
    Coded,
    /// What the call is made of was not there.
    NoValue,
    TooMany,
    Condition,
    /// There is no memory for it.
    Memory,
}

/// Every word there is, for the metrics.
pub const WORDS: [&str; 20] = [
    "ok",
    "hit",
    "stale",
    "skipped",
    "fallback",
    "cancelled",
    "timeout",
    "unavailable",
    "status",
    "redirect",
    "not_json",
    "malformed",
    "too_deep",
    "too_large",
    "cut_off",
    "coded",
    "no_value",
    "too_many",
    "condition",
    "memory",
];

impl Fault {
    pub fn word(self) -> &'static str {
        match self {
            Fault::Timeout => "timeout",
            Fault::Unavailable => "unavailable",
            Fault::Status(_) => "status",
            Fault::Redirect(_) => "redirect",
            Fault::NotJson => "not_json",
            Fault::Malformed => "malformed",
            Fault::TooDeep => "too_deep",
            Fault::TooLarge => "too_large",
            Fault::CutOff => "cut_off",
            Fault::Coded => "coded",
            Fault::NoValue => "no_value",
            Fault::TooMany => "too_many",
            Fault::Condition => "condition",
            Fault::Memory => "memory",
        }
    }

    /// The service's status, where that is the reason.
    pub fn status(self) -> Option<u16> {
        if let Fault::Status(status) | Fault::Redirect(status) = self { Some(status) } else { None }
    }
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Hit(_) => "hit",
            State::Stale(_) => "stale",
            State::Skipped => "skipped",
            State::Fallback => "fallback",
            State::Failed(fault) => fault.word(),
            State::Cancelled => "cancelled",
        }
    }

    /// Whether the answer has all that it should have of it.
    pub fn is_whole(self) -> bool {
        matches!(self, State::Ok | State::Hit(_) | State::Skipped)
    }

    /// Whether there is nothing to say of it.
    pub fn is_plain(self) -> bool {
        matches!(self, State::Ok | State::Skipped)
    }

    /// How old what was stored is, in seconds.
    pub fn age(self) -> Option<u64> {
        if let State::Hit(age) | State::Stale(age) = self { Some(age) } else { None }
    }

    /// What two parts of one are together: what there is worse to say of either.
    #[must_use]
    pub fn with(self, other: State) -> State {
        let rank = |state: State| match state {
            State::Failed(_) => 5,
            State::Cancelled => 4,
            State::Fallback => 3,
            State::Stale(_) => 2,
            State::Ok | State::Skipped => 1,
            State::Hit(_) => 0,
        };
        match (self, other) {
            (State::Hit(one), State::Hit(other)) => State::Hit(one.max(other)),
            (State::Stale(one), State::Stale(other)) => State::Stale(one.max(other)),
            (one, other) if rank(other) > rank(one) => other,
            (one, _) => one,
        }
    }
}

/// The states of all parts, as a dictionary (RFC 9651, section 3.2): `profile=ok, feed=status;code=500`. `timed`: how long each took is in
/// it, too, in milliseconds.
pub fn list<'a>(parts: impl Iterator<Item = (&'a Part, State, Duration)>, timed: bool) -> String {
    let mut list = String::new();
    for (part, state, took) in parts {
        let comma = if list.is_empty() { "" } else { ", " };
        let _ = write!(list, "{comma}{}={}", part.name, state.word());
        if let State::Failed(fault) = state
            && let Some(status) = fault.status()
        {
            let _ = write!(list, ";code={status}");
        }
        if let Some(age) = state.age() {
            let _ = write!(list, ";age={age}");
        }
        if timed && state != State::Skipped {
            let _ = write!(list, ";ms={}", took.as_millis());
        }
    }
    list
}
