//! May it now: limits by identity, after the request has proved who sends it.
//!
//! One limit is a name, whose requests it counts together ([`by`]), what each of them costs ([`cost`]), how many there may be
//! ([`rule`]: a token bucket, [`gcra`], or a sliding [`window`]; other plans may have other rules), and where it counts
//! ([`limit::Counter`]: in this process, [`store`], or [`shared`] with other gateways; [`joint`] asks several wherever they count).
//! The arithmetic and the memory know nothing of HTTP. [`all`] asks several limits at once and [`fields`] tells the client,
//! whatever the policy; [`rate_limit`] is the policy. [`quota`] counts by the calendar, and survives a restart. The coarse guard
//! that stands before authentication is `edge::address_limit`, which uses the same meter.
//!
//! Beside the limits: [`throttle`] lets requests wait their turn and [`concurrency`] counts those under way, both with the lines of
//! [`line`]; [`adaptive`] finds out how many a service can take ([`gradient`]) and sheds the rest by [`priority`].

pub mod adaptive;
pub mod all;
pub mod by;
pub mod concurrency;
pub mod cost;
pub mod fields;
pub mod gcra;
pub mod gradient;
pub mod joint;
pub mod key;
pub mod limit;
pub mod line;
pub mod plan;
pub mod priority;
pub mod quota;
pub mod rate_limit;
#[cfg(test)]
mod rate_limit_tests;
pub mod rule;
pub mod shared;
pub mod store;
mod table;
pub mod throttle;
pub mod window;

use std::sync::LazyLock;
use std::time::Instant;

pub use gcra::{Gcra, Moment};
pub use key::Key;
pub use rule::{Quota, Rule, State};
pub use store::{Meter, Reading, Store};
pub use window::Window;

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call in this process: the time scale of every meter. An earlier instant is 0.
pub fn nanoseconds(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BASE).as_nanos()).unwrap_or(u64::MAX)
}

/// The instant of [`nanoseconds`].
pub fn instant(ns: u64) -> Instant {
    *BASE + std::time::Duration::from_nanos(ns)
}
