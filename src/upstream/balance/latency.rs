//! How long an endpoint takes, as an average that forgets: the peak-sensitive one of Finagle and Linkerd.
//!
//! A longer time than the average replaces it at once; shorter ones move it down with `1 - e^(-t/decay)`, where `t` is the time since
//! the last one. It fades while nobody asks, so that an endpoint that was slow is tried again.
//!
//! One word, which every core writes: an average of each core's own would know too little where there are many cores. A write that
//! meets another one is dropped, so that nobody waits: one of several in the same moment is all that an average needs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A tick of the clock that goes with the average, in microseconds. 32 bits of them are three days, after which an average that nobody
/// has asked for since has long faded.
const TICK: u128 = 64;

/// Seconds as a `f32` above, ticks below. Zero: nothing is known.
#[derive(Default)]
pub struct Latency(AtomicU64);

impl Latency {
    /// Takes in how long the endpoint took.
    pub fn observe(&self, took: Duration, now: Instant, decay: Duration) {
        let known = self.0.load(Ordering::Relaxed);
        let (average, at) = unpack(known);
        let (took, now) = (took.as_secs_f32().max(f32::MIN_POSITIVE), ticks(now));
        let average = if known == 0 || took >= average {
            took
        } else {
            let stays = fading(at, now, decay);
            average * stays + took * (1.0 - stays)
        };
        let _ = self.0.compare_exchange(known, pack(average, now), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The average in seconds, as far as it has faded. `None` if nothing is known.
    pub fn seconds(&self, now: Instant, decay: Duration) -> Option<f32> {
        let known = self.0.load(Ordering::Relaxed);
        let (average, at) = unpack(known);
        (known != 0).then(|| average * fading(at, ticks(now), decay))
    }

    /// The average in seconds as it was when it was last written.
    pub fn last(&self) -> Option<f32> {
        let known = self.0.load(Ordering::Relaxed);
        (known != 0).then(|| unpack(known).0)
    }
}

fn pack(average: f32, at: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(at)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

/// How much is left of what was known then.
fn fading(at: u32, now: u32, decay: Duration) -> f32 {
    let passed = now.wrapping_sub(at);
    // A thread that read the clock earlier and writes later is no three days behind.
    let passed = if passed > u32::MAX / 2 { 0 } else { passed };
    (-(passed as f32) * (TICK as f32 / 1e6) / decay.as_secs_f32()).exp()
}

fn ticks(now: Instant) -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    (now.saturating_duration_since(*START.get_or_init(Instant::now)).as_micros() / TICK) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let (latency, start) = (Latency::default(), Instant::now());
        ticks(start);
        assert_eq!(latency.seconds(start, DECAY), None);
        latency.observe(Duration::from_millis(10), start, DECAY);
        latency.observe(Duration::from_millis(200), start, DECAY);
        assert!((latency.seconds(start, DECAY).unwrap() - 0.2).abs() < 1e-3);
        latency.observe(Duration::from_millis(10), start + DECAY, DECAY);
        let now = latency.seconds(start + DECAY, DECAY).unwrap();
        let wanted = 0.2 * (-1f32).exp() + 0.01 * (1.0 - (-1f32).exp());
        assert!((now - wanted).abs() < 2e-3, "{now} {wanted}");
        let later = latency.seconds(start + 4 * DECAY, DECAY).unwrap();
        assert!(later < now / 15.0, "{later}");
    }

    #[test]
    fn a_clock_that_was_read_earlier_does_no_harm() {
        let (latency, start) = (Latency::default(), Instant::now());
        ticks(start);
        latency.observe(Duration::from_millis(10), start + DECAY, DECAY);
        assert!((latency.seconds(start, DECAY).unwrap() - 0.01).abs() < 1e-3);
    }
}
