//! May it now: limits by identity, after the request has proved who sends it.
//!
//! One limit is a name, whose requests it counts together ([`crate::by`]), what each of them costs ([`cost`]), how many there may be
//! ([`crate::limits::rule`]: a token bucket or a sliding window; other plans may have other rules), and where it counts
//! ([`limit::Counter`]: in this process, or shared with other gateways; [`joint`] asks several wherever they count).
//! The arithmetic and the memory are [`crate::limits`]'s. [`fields`] tells the client, whatever the policy; [`rate_limit`] is the policy. [`quota`] counts by the calendar, and survives a restart. The coarse guard
//! that stands before authentication is `edge::address_limit`, which uses the same meter.
//!
//! Beside the limits: [`throttle`] lets requests wait their turn and [`concurrency`] counts those under way, both with the lines of
//! [`crate::limits::line`]; [`adaptive`] finds out how many a service can take ([`crate::limits::gradient`]) and sheds the rest by [`priority`].

pub mod adaptive;
pub mod concurrency;
pub mod cost;
pub mod fault;
pub mod fields;
pub mod joint;
pub mod limit;
pub mod plan;
pub mod priority;
pub mod quota;
pub mod rate_limit;
#[cfg(test)]
mod rate_limit_tests;
pub mod throttle;
