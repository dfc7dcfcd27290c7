//! Which endpoints come first: priorities and zones, around whatever the algorithm is.
//!
//! The endpoints of a service fall into levels: by priority, and within one the gateway's own zone before the others. Requests go to the
//! first level as long as it has enough healthy endpoints; as their share falls, requests spill over to the next ones, as in Envoy: a
//! level that is well to the share `h` can take `h` times the overprovisioning factor of the requests, at most all of what is left.

use super::{Ask, Pick, Seat, mix};

/// Shares are of this.
const WHOLE: u32 = 1 << 16;

/// What one level is made of.
pub struct Level {
    pub pick: Box<dyn Pick>,
    /// How many endpoints it has, those among them that may not be asked.
    pub all: usize,
}

/// The endpoints that may be asked, in levels.
pub struct Levels {
    first: Box<dyn Pick>,
    /// The first level's share of the requests.
    share: u32,
    /// The others, each with the share that it and those before it have together.
    others: Box<[(u32, Box<dyn Pick>)]>,
}

impl Levels {
    /// `none` stands in where there are no levels.
    pub fn new(levels: Vec<Level>, factor: f64, none: Box<dyn Pick>) -> Self {
        let health = |level: &Level| {
            let share = level.pick.seats().len() as f64 / level.all.max(1) as f64;
            (share * factor).min(1.0)
        };
        let mut left = 1.0;
        let takes: Vec<f64> = levels
            .iter()
            .map(|level| {
                let takes = health(level).min(left);
                left -= takes;
                takes
            })
            .collect();
        // Where all of them together are not well enough, they share the rest.
        let sum: f64 = takes.iter().sum();
        let mut upto = 0.0;
        // A level that takes nothing stands by for what others cannot take.
        let mut shared =
            levels.into_iter().zip(takes).filter(|(level, _)| !level.pick.seats().is_empty()).map(|(level, takes)| {
                upto += takes / sum;
                ((upto * f64::from(WHOLE)).round() as u32, level.pick)
            });
        let (share, first) = shared.next().unwrap_or((WHOLE, none));
        Levels { first, share, others: shared.collect() }
    }

    /// The seat that a request may take. A level whose endpoints were all tried, or are all full, leaves it to the others.
    pub fn pick(&self, ask: &Ask<'_>) -> Option<&Seat> {
        if self.share == WHOLE {
            let standing_by = || self.others.iter().find_map(|(_, level)| level.pick(ask));
            return self.first.pick(ask).or_else(standing_by);
        }
        // Requests that agree in their key agree in their level, too.
        let drawn = (ask.key.map_or_else(|| mix(ask.dice()), digest) >> 48) as u32;
        let drawn = if drawn < self.share {
            &self.first
        } else {
            self.others.iter().find(|(upto, _)| drawn < *upto).map_or(&self.first, |(_, pick)| pick)
        };
        drawn.pick(ask).or_else(|| self.iter().find_map(|level| level.pick(ask)))
    }

    fn iter(&self) -> impl Iterator<Item = &dyn Pick> {
        std::iter::once(&*self.first).chain(self.others.iter().map(|(_, pick)| &**pick))
    }

    /// Every endpoint that may be asked.
    pub fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.iter().flat_map(Pick::seats)
    }
}

/// FNV-1a, mixed: the same in every process.
fn digest(key: &[u8]) -> u64 {
    mix(key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use super::super::Balance;
    use super::super::testing::{ask, keyed};
    use super::*;

    /// Levels of endpoints, of which so many are well.
    fn levels(levels: &[(u32, usize)]) -> Levels {
        let balance = Balance::default();
        let mut port = 0;
        let level = |(well, all): &(u32, usize)| {
            // Ports tell the levels apart.
            port += 1;
            let endpoint = || std::sync::Arc::new(crate::upstream::Endpoint::new(([10, 0, 0, 1], port).into(), "a:1", None));
            let seats = (0..*well).map(|_| Seat::new(endpoint(), 1)).collect();
            Level { pick: balance.build(seats), all: *all }
        };
        Levels::new(levels.iter().map(level).collect(), 1.4, balance.build(Vec::new()))
    }

    fn shares(levels: &Levels, count: usize) -> Vec<f64> {
        let mut counts = vec![0.0; count];
        for turn in 0..20_000 {
            let port = levels.pick(&ask(turn)).unwrap().endpoint.address().inet().unwrap().port();
            counts[usize::from(port) - 1] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn requests_spill_over_as_endpoints_fall_ill() {
        for (given, wanted) in [
            (vec![(10, 10), (10, 10)], vec![1.0, 0.0]),
            (vec![(8, 10), (10, 10)], vec![1.0, 0.0]),
            (vec![(5, 10), (10, 10)], vec![0.7, 0.3]),
            (vec![(0, 10), (10, 10)], vec![0.0, 1.0]),
            (vec![(1, 10), (1, 10)], vec![0.5, 0.5]),
            (vec![(5, 10), (1, 10), (10, 10)], vec![0.7, 0.14, 0.16]),
        ] {
            let shares = shares(&levels(&given), given.len());
            for (share, wanted) in shares.iter().zip(&wanted) {
                assert!((share - wanted).abs() < 0.02, "{given:?}: {shares:?}");
            }
        }
        assert!(levels(&[(0, 3), (0, 3)]).pick(&ask(1)).is_none());
        assert!(levels(&[]).pick(&ask(1)).is_none());
    }

    #[test]
    fn a_level_that_was_tried_leaves_it_to_the_next() {
        // All endpoints of a level have one address here.
        for well in [(1, 3), (3, 3)] {
            let both = levels(&[well, (2, 3)]);
            let tried = [both.first.seats()[0].endpoint.address()];
            for turn in 0..100 {
                let picked = both.pick(&Ask { exclude: &tried, ..ask(turn) }).unwrap();
                assert_ne!(picked.endpoint.address(), tried[0]);
            }
        }
    }

    #[test]
    fn a_key_keeps_its_level() {
        let levels = levels(&[(5, 10), (10, 10)]);
        for key in 0..100u32 {
            let key = key.to_le_bytes();
            let port = |turn| levels.pick(&Ask { turn, ..keyed(&key) }).unwrap().endpoint.address();
            assert!((0..20).all(|turn| port(turn) == port(0)));
        }
    }

    #[test]
    fn seats_are_those_of_all_levels() {
        assert_eq!(levels(&[(2, 10), (3, 10)]).seats().count(), 5);
    }
}
