//! Moments of this process, by a clock that nobody sets: what was stored is told from what was purged after it, whatever becomes of the
//! time of day.

use std::sync::LazyLock;
use std::time::Instant;

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the cache was made, and [`Moment::FIRST`] more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// When the cache was made. What is before this is of other processes, which wrote it to disk.
    pub const FIRST: u64 = 1 << 62;

    /// To be called once before there is anything to tell apart.
    pub fn begin() {
        LazyLock::force(&BASE);
    }

    pub fn now() -> Self {
        Moment::of(Instant::now())
    }

    pub fn of(at: Instant) -> Self {
        Moment(
            u64::try_from(at.saturating_duration_since(*BASE).as_nanos()).unwrap_or(u64::MAX / 4).saturating_add(Moment::FIRST),
        )
    }

    pub fn get(self) -> u64 {
        self.0
    }
}
