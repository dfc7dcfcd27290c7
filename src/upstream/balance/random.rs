//! `random`: any of them, the heavy ones more often.

use super::rota::Rota;
use super::{Ask, Balancer, NoSettings, Seat};

pub struct Random {
    /// Of the seats' numbers.
    rota: Rota<usize>,
}

impl Balancer for Random {
    const NAME: &'static str = "random";
    const SUMMARY: &'static str = "draws one, heavy ones more often.";
    type Settings = NoSettings;

    fn build(seats: &[Seat], _: &NoSettings) -> Self {
        Random { rota: Rota::of(seats) }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let (at, number) = self.rota.at(ask.dice())?;
        if ask.is_open() {
            return Some(*number);
        }
        let takes = |number: &&usize| seats.get(**number).is_some_and(|seat| ask.takes(seat));
        Some(number).filter(takes).or_else(|| self.rota.after(at).find(takes)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{counts, seats};
    use super::*;

    #[test]
    fn shares_are_within_two_hundredths_of_the_weights() {
        let seats = seats(&[5, 3, 2]);
        let counts = counts(&Random::build(&seats, &NoSettings::default()), &seats, 100_000);
        for (count, share) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((*count as f64 / 100_000.0 - share).abs() < 0.02, "{counts:?}");
        }
    }
}
