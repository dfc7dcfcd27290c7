//! `round_robin`: the endpoints take turns, the heavy ones more of them.

use super::rota::Rota;
use super::{Ask, Balancer, NoSettings, Seat};

pub struct RoundRobin {
    /// Of the seats' numbers.
    rota: Rota<usize>,
}

impl Balancer for RoundRobin {
    const NAME: &'static str = "round_robin";
    const SUMMARY: &'static str = "(the default) lets them take turns.";
    type Settings = NoSettings;

    fn build(seats: &[Seat], _: &NoSettings) -> Self {
        RoundRobin { rota: Rota::of(seats) }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let (at, number) = self.rota.at(ask.turn)?;
        if ask.is_open() {
            return Some(*number);
        }
        let takes = |number: &&usize| seats.get(**number).is_some_and(|seat| ask.takes(seat));
        // The neighbours are asked, rather than the next tickets, because a light endpoint may be many tickets away.
        Some(number).filter(takes).or_else(|| self.rota.after(at).find(takes)).copied()
    }
}
