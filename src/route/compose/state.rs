//! How a part of a composed answer ended, and the words for it.

use std::fmt::Write as _;
use std::time::Duration;

use super::Part;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ok,
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
pub const WORDS: [&str; 18] = [
    "ok",
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
            State::Skipped => "skipped",
            State::Fallback => "fallback",
            State::Failed(fault) => fault.word(),
            State::Cancelled => "cancelled",
        }
    }

    /// Whether the answer has all that it should have of it.
    pub fn is_whole(self) -> bool {
        matches!(self, State::Ok | State::Skipped)
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
        if timed && state != State::Skipped {
            let _ = write!(list, ";ms={}", took.as_millis());
        }
    }
    list
}
