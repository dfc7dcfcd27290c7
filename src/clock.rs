//! The time of day, for what has to be compared with a date.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before that is broken: at the end of time everything has expired, which refuses instead of trusting.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}
