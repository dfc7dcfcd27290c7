//! How many bytes a second one direction of a connection may have.
//!
//! What is over the rate is left unread, so that whoever sends is slowed down by his own socket, and nothing is held here for it. The
//! arithmetic is that of GCRA: a moment up to which the rate is used up, which every byte moves on and which is never further back than a burst.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::pump::SIZE;

/// So much of a second may come at once after a pause.
const BURST: u64 = 8;
/// And so much is waited for, that a rate does not become many small packets.
const STEP: u64 = 32;
/// Nor at a low one.
const LEAST_STEP: u64 = 1024;

/// The rates of one connection, in bytes per second. None is less than [`LEAST`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// From the client to the service.
    pub upload: Option<u64>,
    /// From the service to the client.
    pub download: Option<u64>,
}

/// The least rate there is.
pub const LEAST: u64 = LEAST_STEP;

/// One direction's.
pub struct Pace {
    rate: u64,
    /// Up to here the rate is used up.
    used: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub fn of(rate: Option<u64>, now: Instant) -> Option<Pace> {
        let mut pace = Pace { rate: rate?.max(LEAST), used: now, timer: None };
        pace.used = now.checked_sub(pace.burst()).unwrap_or(now);
        Some(pace)
    }

    /// How many bytes may be read now, at most [`SIZE`]; waits until that is more than a few.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let step = (self.rate / STEP).max(LEAST_STEP).min(SIZE as u64);
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let free = self.free(Instant::now());
            if free as u64 >= step {
                return Poll::Ready(free);
            }
            self.timer = Some(Box::pin(tokio::time::sleep_until(self.used + self.time_of(step))));
        }
    }

    /// So many bytes came.
    pub fn took(&mut self, bytes: usize) {
        self.used += self.time_of(bytes as u64);
    }

    /// How many bytes may come. What was not used before a burst ago is gone.
    fn free(&mut self, now: Instant) -> usize {
        if let Some(earliest) = now.checked_sub(self.burst()) {
            self.used = self.used.max(earliest);
        }
        let free = now.saturating_duration_since(self.used).as_nanos() * u128::from(self.rate) / 1_000_000_000;
        usize::try_from(free).unwrap_or(SIZE).min(SIZE)
    }

    fn burst(&self) -> Duration {
        self.time_of((self.rate / BURST).max(LEAST_STEP))
    }

    /// Rounded up: never above the rate.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanoseconds = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How long it takes to read so many bytes, and in how many reads.
    async fn takes(pace: &mut Pace, mut bytes: usize) -> (Duration, u32) {
        let began = Instant::now();
        let mut reads = 0;
        while bytes > 0 {
            let now = poll_fn(|cx| pace.poll(cx)).await.min(bytes);
            pace.took(now);
            bytes -= now;
            reads += 1;
        }
        (began.elapsed(), reads)
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_comes_in_pieces_worth_a_packet() {
        for rate in [LEAST, 10_000, 1_000_000, 1_000_000_000] {
            let mut pace = Pace::of(Some(rate), Instant::now()).unwrap();
            let (took, reads) = takes(&mut pace, 10 * rate as usize).await;
            assert!((9.0..10.1).contains(&took.as_secs_f64()), "{rate}: {took:?}");
            assert!(reads < 400 || rate > 10_000_000, "{rate}: {reads} reads");
            // What nobody used for an hour is an eighth of a second's worth, or one step.
            tokio::time::advance(Duration::from_secs(3600)).await;
            let (took, _) = takes(&mut pace, 2 * rate as usize).await;
            assert!((0.9..2.1).contains(&took.as_secs_f64()), "{rate}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_counts() {
        let mut pace = Pace::of(Some(2048), Instant::now()).unwrap();
        pace.took(4096);
        let (took, _) = takes(&mut pace, 1).await;
        assert!((1.9..2.1).contains(&took.as_secs_f64()), "{took:?}");
    }
}
