//! May it now: limits by identity, after the request has proved who sends it.
//!
//! [`gcra`] is the arithmetic and [`store`] the memory; both know nothing of HTTP. [`by`] says whose requests are counted together, and
//! [`rate_limit`] is the policy. The coarse guard that stands before authentication is `edge::address_limit`, which uses the same meter.
//!
//! Deliberately not here: limits shared between gateways, quotas that survive a restart, and limits on concurrency.

pub mod adaptive;
pub mod by;
pub mod concurrency;
pub mod gcra;
pub mod gradient;
pub mod line;
pub mod priority;
pub mod rate_limit;
pub mod store;
mod table;
pub mod throttle;

use std::sync::LazyLock;
use std::time::Instant;

pub use gcra::{Gcra, Moment, Quota};
pub use store::{Key, Meter, Store};

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call in this process: the time scale of every meter. An earlier instant is 0.
pub fn nanoseconds(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BASE).as_nanos()).unwrap_or(u64::MAX)
}

/// The instant of [`nanoseconds`].
pub fn instant(ns: u64) -> Instant {
    *BASE + std::time::Duration::from_nanos(ns)
}
