//! Weighted round robin in constant time: which of the seats a ticket number falls to.
//!
//! A cycle has as many tickets as the weights (divided by their common divisor) add up to. Every seat owns an interval of the
//! cycle as long as its weight. Consecutive tickets walk over the cycle in steps of a fixed stride that has no divisor in common
//! with the cycle's length, so a whole cycle visits every position once: the weights are met exactly. The stride is near the
//! golden section of the cycle, whose multiples spread evenly over any interval (Knuth, The Art of Computer Programming, vol. 3,
//! section 6.4, theorem S), so that a heavy seat's turns are spread out instead of coming in a row.
//!
//! Draws at random, and the best of several draws, come from the same table.
//!
//! Memory and building time grow with the seats, not with the weights; a lookup takes two steps on average. Where the weights of very many
//! seats add up to more than [`LONGEST`], they are made smaller in proportion, and met about as well as that allows.

use std::cmp::Ordering;

use super::{Ask, Seat, mix};

/// The share of a cycle that lies between two consecutive tickets.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// No cycle has many more tickets: two numbers below it can be multiplied.
const LONGEST: u64 = 1 << 31;

/// Seats with weights. Immutable: a change of health or of addresses builds a new one.
#[derive(Debug)]
pub struct Rota<T> {
    /// Each seat with the end of its interval (exclusive).
    seats: Vec<(u64, T)>,
    /// The first seat that can own a position in each of `seats.len()` equal parts of the cycle. Empty if all weights are equal:
    /// then the position is the seat.
    guide: Vec<u32>,
    total: u64,
    stride: u64,
}

impl<T> Rota<T> {
    /// At most `u16::MAX` seats are taken, the first ones: it keeps every product below within 64 bits and is far more than one
    /// service has. A weight of 0 leaves a seat out.
    pub fn new(seats: impl IntoIterator<Item = (u32, T)>) -> Self {
        let mut seats: Vec<(u64, T)> = seats
            .into_iter()
            .filter(|(weight, _)| *weight > 0)
            .take(usize::from(u16::MAX))
            .map(|(weight, seat)| (u64::from(weight), seat))
            .collect();
        let divisor = seats.iter().fold(0, |divisor, (weight, _)| gcd(*weight, divisor)).max(1);
        let sum: u64 = seats.iter().map(|(weight, _)| weight / divisor).sum();
        let divisor = divisor * sum.div_ceil(LONGEST).max(1);
        let mut total = 0;
        for (end, _) in &mut seats {
            total += (*end / divisor).max(1);
            *end = total;
        }
        let equal = total == seats.len() as u64;
        let stride = if equal { 1 } else { stride(total) };
        let guide = if equal { Vec::new() } else { guide(&seats, total) };
        Rota { seats, guide, total, stride }
    }

    /// The seat of this ticket, and its number. `None` only if there are no seats.
    pub fn at(&self, ticket: u64) -> Option<(usize, &T)> {
        let turn = ticket.checked_rem(self.total)?;
        let position = turn * self.stride % self.total;
        let first = match self.guide.get((position * self.seats.len() as u64 / self.total) as usize) {
            Some(first) => *first as usize,
            None => position as usize,
        };
        let (steps, (_, seat)) = self.seats.get(first..)?.iter().enumerate().find(|(_, (end, _))| position < *end)?;
        Some((first + steps, seat))
    }

    /// The seats in order, starting after seat number `from` and wrapping around.
    pub fn after(&self, from: usize) -> impl Iterator<Item = &T> {
        let (before, after) = self.seats.split_at(from.saturating_add(1).min(self.seats.len()));
        after.iter().chain(before).map(|(_, seat)| seat)
    }

    /// How many tickets a cycle has.
    #[cfg(test)]
    fn cycle(&self) -> u64 {
        self.total
    }
}

impl Rota<usize> {
    /// Of the seats' numbers, by their weights.
    pub fn of(seats: &[Seat]) -> Self {
        Rota::new(seats.iter().enumerate().map(|(number, seat)| (seat.weight, number)))
    }

    /// The better of two seats that are drawn by their weights.
    pub fn best_of_two(&self, seats: &[Seat], ask: &Ask<'_>, better: impl Fn(&Seat, &Seat) -> Ordering) -> Option<usize> {
        let dice = ask.dice();
        let (at, one) = self.at(dice)?;
        let other = self.at(mix(dice)).map(|(_, other)| other).filter(|other| *other != one);
        let other = other.or_else(|| self.after(at).next());
        self.best([Some(one), other].into_iter().flatten(), at, seats, ask, better)
    }

    /// The best of so many that are drawn by their weights.
    pub fn best_of(
        &self,
        draws: usize,
        seats: &[Seat],
        ask: &Ask<'_>,
        better: impl Fn(&Seat, &Seat) -> Ordering,
    ) -> Option<usize> {
        let dice = ask.dice();
        let (at, _) = self.at(dice)?;
        let draws = std::iter::successors(Some(dice), |dice| Some(mix(*dice))).take(draws);
        self.best(draws.filter_map(|dice| Some(self.at(dice)?.1)), at, seats, ask, better)
    }

    /// The best of all; of several that are as good, any.
    pub fn best_of_all(&self, seats: &[Seat], ask: &Ask<'_>, better: impl Fn(&Seat, &Seat) -> Ordering) -> Option<usize> {
        let (at, one) = self.at(ask.dice())?;
        self.best(std::iter::once(one).chain(self.after(at)), at, seats, ask, better)
    }

    /// The best of those that take the request; if none of them does, the next that does.
    fn best<'s>(
        &'s self,
        drawn: impl Iterator<Item = &'s usize>,
        at: usize,
        seats: &[Seat],
        ask: &Ask<'_>,
        better: impl Fn(&Seat, &Seat) -> Ordering,
    ) -> Option<usize> {
        let takes = |number: &&usize| seats.get(**number).is_some_and(|seat| ask.takes(seat));
        let best = drawn.filter(takes).min_by(|one, other| {
            let [one, other] = [**one, **other].map(|number| seats.get(number));
            one.zip(other).map_or(Ordering::Equal, |(one, other)| better(one, other))
        });
        best.or_else(|| self.after(at).find(takes)).copied()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The number nearest to the golden section of `total` that has no divisor in common with it.
fn stride(total: u64) -> u64 {
    let ideal = (total as f64 * GOLDEN).round() as u64;
    (0..total)
        .flat_map(|distance| [ideal.saturating_add(distance), ideal.saturating_sub(distance)])
        .find(|stride| (1..total.max(2)).contains(stride) && gcd(*stride, total) == 1)
        .unwrap_or(1)
}

fn guide<T>(seats: &[(u64, T)], total: u64) -> Vec<u32> {
    let parts = seats.len() as u64;
    let mut seat = 0;
    (0..parts)
        .map(|part| {
            // The first position of this part; positions before it belong to earlier parts.
            let start = (part * total).div_ceil(parts);
            while seats.get(seat).is_some_and(|(end, _)| *end <= start) {
                seat += 1;
            }
            seat as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cycle(weights: &[u32], from: u64) -> Vec<usize> {
        let rota = Rota::new(weights.iter().copied().zip(0..));
        (from..from + rota.cycle()).map(|ticket| *rota.at(ticket).unwrap().1).collect()
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(cycle(&[1, 1, 1], 0), [0, 1, 2]);
        assert_eq!(cycle(&[7, 7, 7], 0), [0, 1, 2]);
    }

    #[test]
    fn a_heavy_seat_does_not_get_its_turns_in_a_row() {
        let turns = cycle(&[5, 1, 1], 0);
        let longest = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(3), "{turns:?}");
        let turns = cycle(&[2, 1], 0);
        assert_ne!(turns[1], turns[0], "{turns:?}");
    }

    #[test]
    fn nobody_and_one() {
        assert!(Rota::<()>::new([]).at(5).is_none());
        assert!(Rota::new([(0, ())]).at(5).is_none());
        assert_eq!(Rota::new([(1000, 'a')]).at(u64::MAX), Some((0, &'a')));
    }

    #[test]
    fn after_goes_around_once() {
        let rota = Rota::new([(1, 'a'), (3, 'b'), (1, 'c')]);
        assert_eq!(rota.after(1).collect::<String>(), "cab");
        assert_eq!(rota.after(2).collect::<String>(), "abc");
        assert_eq!(rota.after(99).collect::<String>(), "abc");
    }

    proptest! {
        #[test]
        fn weights_are_met_exactly_over_any_cycle(weights in prop::collection::vec(1u32..=1000, 1..16), from in 0u64..u64::MAX / 2) {
            let turns = cycle(&weights, from);
            let divisor = weights.iter().fold(0, |divisor, weight| gcd(u64::from(*weight), divisor));
            for (seat, weight) in weights.iter().enumerate() {
                let got = turns.iter().filter(|turn| **turn == seat).count() as u64;
                prop_assert_eq!(got, u64::from(*weight) / divisor);
            }
        }
    }

    #[test]
    fn weights_are_kept_in_proportion_where_they_add_up_to_too_much() {
        // As large as a slow start makes them.
        let rota = Rota::new((0..60_000u32).map(|seat| (if seat < 30_000 { 100_000 } else { 50_001 }, seat)));
        let heavy = (0..300_000).filter(|ticket| *rota.at(ticket * 7919).unwrap().1 < 30_000).count();
        assert!((195_000..205_000).contains(&heavy), "{heavy}");
        for ticket in (0..100_000).chain(u64::MAX - 1000..u64::MAX) {
            assert!(rota.at(ticket).is_some());
        }
    }

    #[test]
    fn the_largest_rota_neither_overflows_nor_crawls() {
        let rota = Rota::new((0..70_000u32).map(|seat| (1 + seat % 1000, seat)));
        assert_eq!(rota.seats.len(), 65_535);
        for ticket in (0..1_000_000).chain(u64::MAX - 1000..u64::MAX) {
            assert!(rota.at(ticket).is_some());
        }
    }
}
