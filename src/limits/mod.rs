//! How many there may be: the arithmetic of limits and the memory behind it. Nothing here knows of HTTP.
//!
//! A [`rule`] is a token bucket ([`gcra`]) or a sliding [`window`]; a [`store`] remembers under a [`key`] what was counted, in a
//! [`table`] of bounded size; [`all`] asks several limits at once, and [`shared`] ones count with other gateways. The [`book`] counts
//! by the [`calendar`], and its [`journal`] survives a restart. A [`line`](mod@line) lets callers wait their turn, and a [`gradient`] finds out how
//! many a service can take. [`heavy_hitters`] tells who of any number of addresses does something more often than he may.

pub mod all;
pub mod book;
pub mod calendar;
pub mod config;
pub mod gcra;
pub mod gradient;
pub mod heavy_hitters;
pub mod journal;
pub mod key;
pub mod line;
pub mod rule;
pub mod shared;
pub mod store;
mod table;
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
