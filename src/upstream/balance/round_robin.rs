//! `round_robin`: the endpoints take turns, the heavy ones more of them.

use super::rota::Rota;
use super::{Ask, Balancer, Seat};

pub struct RoundRobin {
    /// Of the seats' numbers.
    rota: Rota<usize>,
}

impl Balancer for RoundRobin {
    const NAME: &'static str = "round_robin";
    const SUMMARY: &'static str = "(the default) lets them take turns.";

    fn build(seats: &[Seat]) -> Self {
        RoundRobin { rota: Rota::new(seats.iter().enumerate().map(|(number, seat)| (seat.weight, number))) }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let (at, number) = self.rota.at(ask.turn)?;
        if ask.exclude.is_empty() {
            return Some(*number);
        }
        let takes = |number: &&usize| seats.get(**number).is_some_and(|seat| ask.takes(seat));
        // Only retries come here. The neighbours are asked, rather than the next tickets, because a light endpoint may be many
        // tickets away.
        Some(number).filter(takes).or_else(|| self.rota.after(at).find(takes)).copied()
    }
}
