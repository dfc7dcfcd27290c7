//! `peak_ewma`: of two endpoints that are drawn by their weights, the one that is likely to answer sooner: how long it takes, times what it
//! has to do, for its weight.
//!
//! As Finagle and Linkerd do it. An endpoint of which nothing is known yet is tried by one request at a time; what fails counts as having
//! taken long, or else an endpoint that is quick to fail would draw all requests.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use super::rota::Rota;
use super::{Ask, Balancer, Seat, Settings};
use crate::problem::{Place, Problems};
use crate::value::{Period, Spanned, period_within};

/// Finagle's and Linkerd's own.
pub const DECAY: Duration = Duration::from_secs(10);
/// In seconds, what the answer of an endpoint is expected to take of which nothing is known but that it was asked.
const UNKNOWN: f32 = 1e6;

/// Settings of `peak_ewma`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeakEwmaSettings {
    /// How soon the gateway forgets how long an endpoint took: after this time about a third of it is left. `100ms` to `10m`. Default: `10s`.
    pub decay: Spanned<Period>,
}

impl Default for PeakEwmaSettings {
    fn default() -> Self {
        PeakEwmaSettings { decay: Spanned { value: Period(DECAY), place: Place::NOWHERE } }
    }
}

impl Settings for PeakEwmaSettings {
    fn check(&self, problems: &mut Problems) {
        period_within("decay", &self.decay, 100, 600_000, problems);
    }

    fn decay(&self) -> Option<Duration> {
        Some(self.decay.value.0)
    }
}

pub struct PeakEwma {
    /// Of the seats' numbers.
    rota: Rota<usize>,
    decay: Duration,
}

impl Balancer for PeakEwma {
    const NAME: &'static str = "peak_ewma";
    const SUMMARY: &'static str =
        "draws two and asks the one that is likely to answer sooner, by how long it took and what it has to do.";
    type Settings = PeakEwmaSettings;

    fn build(seats: &[Seat], settings: &PeakEwmaSettings) -> Self {
        PeakEwma { rota: Rota::of(seats), decay: settings.decay.value.0 }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let now = Instant::now();
        let cost = |seat: &Seat| cost(seat, now, self.decay);
        self.rota.best_of_two(seats, ask, |one, other| cost(one).partial_cmp(&cost(other)).unwrap_or(Ordering::Equal))
    }
}

fn cost(seat: &Seat, now: Instant, decay: Duration) -> f32 {
    let busy = seat.endpoint.in_flight() as f32;
    let takes = match seat.endpoint.latency.seconds(now, decay) {
        Some(seconds) => seconds,
        None if busy > 0.0 => UNKNOWN,
        None => 0.0,
    };
    takes * (busy + 1.0) / seat.weight as f32
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ask, counts, seats, under_way};
    use super::*;

    fn balancer(seats: &[Seat]) -> PeakEwma {
        PeakEwma::build(seats, &PeakEwmaSettings::default())
    }

    #[test]
    fn who_takes_long_is_asked_less() {
        let seats = seats(&[1, 1, 1]);
        for (seat, millis) in seats.iter().zip([5, 100, 5]) {
            seat.endpoint.latency.observe(Duration::from_millis(millis), Instant::now(), DECAY);
        }
        let counts = counts(&balancer(&seats), &seats, 3000);
        assert!(counts[1] == 0 && counts[0] > 1000 && counts[2] > 1000, "{counts:?}");
    }

    #[test]
    fn who_is_unknown_is_tried_by_one_at_a_time() {
        let seats = seats(&[1, 1]);
        seats[0].endpoint.latency.observe(Duration::from_millis(5), Instant::now(), DECAY);
        assert_eq!(counts(&balancer(&seats), &seats, 10), [0, 10]);
        let _trial = under_way(&seats[1]);
        assert_eq!(counts(&balancer(&seats), &seats, 10), [10, 0]);
    }

    #[test]
    fn who_is_quick_but_busy_gives_way() {
        let seats = seats(&[1, 1]);
        for (seat, millis) in seats.iter().zip([5, 20]) {
            seat.endpoint.latency.observe(Duration::from_millis(millis), Instant::now(), DECAY);
        }
        let _busy: Vec<_> = (0..9).map(|_| under_way(&seats[0])).collect();
        assert_eq!(balancer(&seats).pick(&seats, &ask(1)), Some(1));
    }
}
