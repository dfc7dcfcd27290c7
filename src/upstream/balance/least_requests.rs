//! `least_requests`: of two endpoints that are drawn by their weights, the one that has less to do for its weight.
//!
//! Two draws are nearly as good as looking at all of them, and many gateways that look at all of them at once would send everything to
//! the same one (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001). What an endpoint has to do is what this
//! process sent it and has not seen answered.

use super::rota::Rota;
use super::{Ask, Balancer, Seat};

pub struct LeastRequests {
    /// Of the seats' numbers.
    rota: Rota<usize>,
}

impl Balancer for LeastRequests {
    const NAME: &'static str = "least_requests";
    const SUMMARY: &'static str = "draws two and asks the one with fewer requests under way for its weight.";

    fn build(seats: &[Seat]) -> Self {
        LeastRequests { rota: Rota::new(seats.iter().enumerate().map(|(number, seat)| (seat.weight, number))) }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let dice = mix(ask.turn);
        let (at, one) = self.rota.at(dice)?;
        let other = self.rota.at(mix(dice)).map(|(_, other)| other).filter(|other| *other != one);
        let other = other.or_else(|| self.rota.after(at).next());
        let takes = |number: &&usize| seats.get(**number).is_some_and(|seat| ask.takes(seat));
        let drawn = [Some(one), other].into_iter().flatten().filter(takes).min_by(|one, other| {
            let [one, other] = [**one, **other].map(|number| seats.get(number));
            one.zip(other).map_or(std::cmp::Ordering::Equal, |(one, other)| lighter(one, other))
        });
        // Both were tried in vain: only retries come here.
        drawn.or_else(|| self.rota.after(at).find(takes)).copied()
    }
}

/// Which of the two has less to do for its weight.
fn lighter(one: &Seat, other: &Seat) -> std::cmp::Ordering {
    let [busy, other_busy] = [one, other].map(|seat| seat.endpoint.in_flight());
    busy.saturating_mul(u64::from(other.weight)).cmp(&other_busy.saturating_mul(u64::from(one.weight)))
}

/// Turns are consecutive, and draws must not be (SplitMix64).
fn mix(turn: u64) -> u64 {
    let mut z = turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::seats;
    use super::*;
    use crate::upstream::endpoint::{EndpointRef, InFlightGuard};

    /// How often each is picked, of so many turns.
    fn counts(seats: &[Seat], turns: u64) -> Vec<u64> {
        let balancer = LeastRequests::build(seats);
        let mut counts = vec![0; seats.len()];
        (0..turns).for_each(|turn| counts[balancer.pick(seats, &Ask { turn, exclude: &[] }).unwrap()] += 1);
        counts
    }

    fn keep_busy(seat: &Seat, requests: usize) -> Vec<InFlightGuard> {
        let held = Arc::new(EndpointRef::new(seat.endpoint.clone()));
        std::iter::repeat_with(|| InFlightGuard::begin(held.clone())).take(requests).collect()
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
        assert!((0.7..0.8).contains(&share), "{share}");
    }
}
