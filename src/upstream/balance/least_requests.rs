//! `least_requests`: of a few endpoints that are drawn by their weights, the one that has the least to do for its weight.
//!
//! Two draws are nearly as good as looking at all of them, and many gateways that look at all of them at once would send everything to
//! the same one (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001). What an endpoint has to do is what this
//! process sent it and has not seen answered.
//!
//! That is a count, and no time. Where many requests are under way all endpoints have the same number of them, so that each gets as many as it
//! answers: of one that is 20 times as slow as two others, every 41st request waits. Where mostly none is under way, there is nothing to tell
//! endpoints apart by, and it gets its third. To look at all of them changes neither. `peak_ewma` is for who wants time to count.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::Deserialize;

use super::rota::Rota;
use super::{Ask, Balancer, Seat, Settings};
use crate::problem::{Place, Problems};
use crate::value::{Spanned, count_within};

/// The most endpoints that are drawn.
const MOST_CHOICES: u32 = 16;

/// Settings of `least_requests`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeastRequestsSettings {
    /// How many endpoints are drawn, 2 to 16. Default: 2.
    pub choices: Spanned<u32>,
    /// Looks at all endpoints instead. Its cost grows with their number, and several gateways that do so send their requests to the same
    /// endpoint at once. Default: false.
    pub full_scan: bool,
}

impl Default for LeastRequestsSettings {
    fn default() -> Self {
        LeastRequestsSettings { choices: Spanned { value: 2, place: Place::NOWHERE }, full_scan: false }
    }
}

impl Settings for LeastRequestsSettings {
    fn check(&self, problems: &mut Problems) {
        count_within("choices", &self.choices, 2, MOST_CHOICES, problems);
    }
}

pub struct LeastRequests {
    /// Of the seats' numbers.
    rota: Rota<usize>,
    /// How many are drawn; `None` for all.
    choices: Option<usize>,
}

impl Balancer for LeastRequests {
    const NAME: &'static str = "least_requests";
    const SUMMARY: &'static str = "draws two and asks the one with fewer requests under way for its weight.";
    type Settings = LeastRequestsSettings;

    fn build(seats: &[Seat], settings: &LeastRequestsSettings) -> Self {
        let choices = (!settings.full_scan).then_some(settings.choices.value as usize);
        LeastRequests { rota: Rota::of(seats), choices }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let lighter = |one: &Seat, other: &Seat| lighter(one, other);
        match self.choices {
            Some(2) => self.rota.best_of_two(seats, ask, lighter),
            Some(choices) => self.rota.best_of(choices, seats, ask, lighter),
            None => self.rota.best_of_all(seats, ask, lighter),
        }
    }
}

/// Which of the two has less to do for its weight.
fn lighter(one: &Seat, other: &Seat) -> Ordering {
    let [busy, other_busy] = [one, other].map(|seat| seat.endpoint.in_flight());
    busy.saturating_mul(u64::from(other.weight)).cmp(&other_busy.saturating_mul(u64::from(one.weight)))
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    use super::super::testing::{ask, counts as counts_of, seats, under_way};
    use super::*;
    use crate::upstream::InFlightGuard;

    fn counts(seats: &[Seat], turns: u64) -> Vec<u64> {
        counts_of(&LeastRequests::build(seats, &LeastRequestsSettings::default()), seats, turns)
    }

    fn keep_busy(seat: &Seat, requests: usize) -> Vec<InFlightGuard> {
        std::iter::repeat_with(|| under_way(seat)).take(requests).collect()
    }

    #[test]
    fn who_is_slow_is_asked_less() {
        let seats = seats(&[1, 1, 1, 1]);
        let _busy = keep_busy(&seats[2], 5);
        let counts = counts(&seats, 4000);
        assert_eq!(counts[2], 0, "of two that are drawn the other one is idle");
        assert!(counts.iter().filter(|count| **count > 1000).count() == 3, "{counts:?}");
    }

    #[test]
    fn who_is_heavy_may_have_more_to_do() {
        let seats = seats(&[1, 4]);
        let _busy = (keep_busy(&seats[0], 1), keep_busy(&seats[1], 3));
        assert_eq!(counts(&seats, 100), [0, 100]);
        let _more = keep_busy(&seats[1], 2);
        assert_eq!(counts(&seats, 100), [100, 0]);
    }

    #[test]
    fn idle_endpoints_are_asked_by_their_weight() {
        let counts = counts(&seats(&[1, 3]), 40_000);
        let share = counts[1] as f64 / 40_000.0;
        assert!((0.73..0.77).contains(&share), "{share}");
    }

    #[test]
    fn a_full_scan_finds_the_one_that_is_idle() {
        let seats = seats(&[1; 50]);
        let _busy: Vec<_> = seats.iter().enumerate().filter(|(at, _)| *at != 37).map(|(_, seat)| keep_busy(seat, 1)).collect();
        let scan = LeastRequests::build(&seats, &LeastRequestsSettings { full_scan: true, ..LeastRequestsSettings::default() });
        assert_eq!(counts_of(&scan, &seats, 100)[37], 100);
    }

    /// What an endpoint gets of the requests that is 20 times as slow as two others, with so many clients who wait so long between two.
    fn share_of_the_slow_one(settings: &LeastRequestsSettings, clients: usize, pause: u64) -> f64 {
        let seats = seats(&[1, 1, 1]);
        let balancer = LeastRequests::build(&seats, settings);
        let mut held: Vec<Option<InFlightGuard>> = std::iter::repeat_with(|| None).take(clients).collect();
        let mut next: BinaryHeap<_> = (0..clients).map(|client| Reverse((client as u64, client))).collect();
        let (mut turn, mut counts) = (0, [0u64; 3]);
        while turn < 20_000 {
            let Reverse((now, client)) = next.pop().unwrap();
            if held[client].take().is_some() {
                next.push(Reverse((now + pause, client)));
                continue;
            }
            let at = balancer.pick(&seats, &ask(turn)).unwrap();
            counts[at] += 1;
            held[client] = Some(under_way(&seats[at]));
            next.push(Reverse((now + if at == 2 { 200 } else { 10 }, client)));
            turn += 1;
        }
        counts[2] as f64 / 20_000.0
    }

    #[test]
    fn a_count_says_little_of_who_is_slow() {
        for full_scan in [false, true] {
            let settings = LeastRequestsSettings { full_scan, ..LeastRequestsSettings::default() };
            let (busy, quiet) = (share_of_the_slow_one(&settings, 30, 0), share_of_the_slow_one(&settings, 1, 90));
            assert!((0.018..0.032).contains(&busy), "{full_scan}: {busy}");
            assert!((0.3..0.37).contains(&quiet), "{full_scan}: {quiet}");
        }
    }

    /// Of 20 endpoints with 400 requests under way, of which the oldest ends whenever one begins, none has twice its share.
    #[test]
    fn two_choices_keep_everybody_below_twice_the_mean() {
        let seats = seats(&[1; 20]);
        let balancer = LeastRequests::build(&seats, &LeastRequestsSettings::default());
        let mut held = VecDeque::new();
        let mut worst = 0;
        for turn in 0..20_000 {
            let at = balancer.pick(&seats, &ask(turn)).unwrap();
            held.push_back(under_way(&seats[at]));
            if held.len() > 400 {
                held.pop_front();
                worst = worst.max(seats.iter().map(|seat| seat.endpoint.in_flight()).max().unwrap());
            }
        }
        assert!(worst < 40, "{worst} where the mean is 20");
    }
}
