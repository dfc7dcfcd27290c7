//! `consistent_hash`: requests that agree in their key go to the same endpoint, and few keys move when endpoints come or go.
//!
//! On `pingora-ketama`'s ring, which is nginx's: for a key of one part this gateway and an nginx with `hash KEY consistent` (and its
//! successors) choose the same endpoint for the same list of IP addresses and weights.
//!
//! With a bounded load (Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads, 2018) an endpoint that has more than its
//! share to do, times the bound, is passed over for the next on the ring.

use std::net::{Ipv6Addr, SocketAddr};

use pingora_ketama::{Bucket, Continuum};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Ask, Balancer, Seat, Settings};
use crate::address::EndpointAddress;
use crate::by::By;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// The most that weights may add up to, each unit of which is 160 points on the ring: 20 MiB of them.
const MOST_WEIGHT: u64 = 16_384;
/// The ring counts endpoints with 16 bits.
const MOST_SEATS: usize = 65_535;
/// How many points are looked at for an endpoint that takes the request, before the endpoints are gone through instead. The points of one
/// endpoint are many.
const MOST_STEPS: usize = 256;

/// Settings of `consistent_hash`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsistentHashSettings {
    /// What requests are told apart by: `client_address` (the default), `consumer`, `credential`, `subject`, `api_key`, `{ header: NAME }`,
    /// `{ cookie: NAME }`, `{ query: NAME }`, `{ param: NAME }`, `{ claim: NAME }`, or a list of these. A part that a request does not have
    /// is its client's address instead.
    pub key: By,
    /// How much more than its share an endpoint may have under way, 1.05 to 10, before the next on the ring is asked: at 1.25, a quarter
    /// more. Default: no bound.
    pub bounded_load: Option<Spanned<f64>>,
}

impl Settings for ConsistentHashSettings {
    fn check(&self, problems: &mut Problems) {
        let place = self.bounded_load.as_ref().map_or(Place::NOWHERE, |bound| bound.place);
        if self.bounded_load.as_ref().is_some_and(|bound| !(1.05..=10.0).contains(&bound.value)) {
            problems.push(Problem::error(place, "`bounded_load` is not between 1.05 and 10"));
        }
        if self.key.is_everybody() {
            let problem = Problem::error(place, "`key: route` would send every request to the same endpoint");
            problems.push(problem.hint("`balance: first` does that"));
        }
    }

    fn key(&self) -> Option<&By> {
        Some(&self.key)
    }

    fn counts_all(&self) -> bool {
        self.bounded_load.is_some()
    }
}

pub struct ConsistentHash {
    ring: Continuum,
    /// The seat at each of the ring's points.
    order: Box<[u16]>,
    bound: Option<Bound>,
}

struct Bound {
    factor: f64,
    /// What the weights add up to.
    weights: f64,
}

impl Balancer for ConsistentHash {
    const NAME: &'static str = "consistent_hash";
    const SUMMARY: &'static str = "sends requests that agree in a key (by default the client's address) to the same endpoint.";
    type Settings = ConsistentHashSettings;

    fn build(seats: &[Seat], settings: &ConsistentHashSettings) -> Self {
        let seats = seats.get(..MOST_SEATS).unwrap_or(seats);
        let sum: u64 = seats.iter().map(|seat| u64::from(seat.steady)).sum();
        let points = |weight: u32| match sum {
            0..=MOST_WEIGHT => weight,
            sum => (u64::from(weight) * MOST_WEIGHT / sum) as u32,
        };
        let buckets: Vec<Bucket> =
            seats.iter().map(|seat| Bucket::new(name(seat.endpoint.address()), points(seat.steady).max(1))).collect();
        let mut numbers: Vec<(SocketAddr, u16)> = seats.iter().map(|seat| name(seat.endpoint.address())).zip(0..).collect();
        numbers.sort_unstable();
        let ring = Continuum::new(&buckets);
        // Once around: the ring tells the address at a point, and a seat's number is what is wanted of it.
        let mut order = Vec::new();
        let mut point = 0;
        while let Some(address) = ring.get_addr(&mut point) {
            let found = numbers.binary_search_by_key(address, |(known, _)| *known);
            order.push(found.ok().and_then(|at| numbers.get(at)).map_or(0, |(_, number)| *number));
            if point == 0 {
                break;
            }
        }
        let bound = settings.bounded_load.as_ref().map(|factor| Bound { factor: factor.value, weights: sum as f64 });
        ConsistentHash { ring, order: order.into(), bound }
    }

    fn pick(&self, seats: &[Seat], ask: &Ask<'_>) -> Option<usize> {
        let turn = ask.dice().to_le_bytes();
        let from = self.ring.node_idx(ask.key.unwrap_or(&turn));
        let (before, after) = self.order.split_at_checked(from)?;
        let share = self.bound.as_ref().map(|bound| bound.share(seats));
        let fits = |seat: &Seat| {
            ask.takes(seat)
                && share.is_none_or(|share| (seat.endpoint.in_flight() + 1) as f64 <= (share * f64::from(seat.steady)).ceil())
        };
        let mut passed = None;
        for number in after.iter().chain(before).take(MOST_STEPS).map(|number| usize::from(*number)) {
            // One endpoint's points often lie side by side.
            if passed == Some(number) {
                continue;
            }
            if seats.get(number).is_some_and(fits) {
                return Some(number);
            }
            passed = Some(number);
        }
        let first = usize::from(*after.first().or(before.first())?);
        let (before, after) = seats.split_at_checked(first)?;
        let all = || after.iter().zip(first..).chain(before.iter().zip(0..));
        // No bound is worth refusing a request for.
        all().find(|(seat, _)| fits(seat)).or_else(|| all().find(|(seat, _)| ask.takes(seat))).map(|(_, number)| number)
    }
}

impl Bound {
    /// How many requests an endpoint may have under way for each unit of its weight, this one among them.
    fn share(&self, seats: &[Seat]) -> f64 {
        let all = seats.first().and_then(|seat| seat.endpoint.crowd()).map_or(0, |crowd| crowd.size());
        self.factor * (all + 1) as f64 / self.weights.max(1.0)
    }
}

/// What an endpoint is called on the ring. Unix sockets get an address of their own that no packet goes to (RFC 6666).
fn name(address: EndpointAddress) -> SocketAddr {
    match address {
        EndpointAddress::Inet(address) => address,
        EndpointAddress::Unix(socket) => {
            let mut digest = [0; 16];
            blake3::Hasher::new().update(socket.as_str().as_bytes()).finalize_xof().fill(&mut digest);
            let low = u64::from_le_bytes(digest.first_chunk().copied().unwrap_or_default());
            (Ipv6Addr::from_bits(0x0100_u128 << 112 | u128::from(low)), 1).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::super::testing::{ask, keyed, seats, under_way};
    use super::*;
    use crate::upstream::endpoint::Crowd;

    const KEYS: u32 = 20_000;

    fn plain(seats: &[Seat]) -> ConsistentHash {
        ConsistentHash::build(seats, &ConsistentHashSettings::default())
    }

    /// Where each key goes.
    fn places(seats: &[Seat]) -> Vec<EndpointAddress> {
        let balancer = plain(seats);
        let of = |key: u32| seats[balancer.pick(seats, &keyed(key.to_string().as_bytes())).unwrap()].endpoint.address();
        (0..KEYS).map(of).collect()
    }

    #[test]
    fn few_keys_move_when_an_endpoint_comes_or_goes() {
        for n in [2, 3, 10, 50] {
            let all = seats(&vec![1; n]);
            let before = places(&all);
            for gone in [0, n / 2, n - 1] {
                let mut left = seats(&vec![1; n]);
                left.remove(gone);
                let moved = before.iter().zip(places(&left)).filter(|(before, after)| *before != after).count();
                let share = moved as f64 / f64::from(KEYS);
                assert!(share <= 1.0 / n as f64 + 0.02, "{n}: {share}");
                let of_the_gone = before.iter().filter(|place| **place == all[gone].endpoint.address()).count();
                assert_eq!(moved, of_the_gone, "nobody else's keys move");
            }
        }
    }

    #[test]
    fn chooses_as_nginx_does() {
        let seat = |port: u16| Seat::new(Arc::new(crate::upstream::Endpoint::new(([127, 0, 0, 1], port).into(), "a:1", None)), 1);
        let seats = [seat(7777), seat(7778)];
        let balancer = plain(&seats);
        for (key, port) in [("/some/path", 7778), ("/some/longer/path", 7777), ("/sad/zaidoon", 7778), ("/g", 7777)] {
            let at = balancer.pick(&seats, &keyed(key.as_bytes())).unwrap();
            assert_eq!(seats[at].endpoint.address().inet().unwrap().port(), port, "{key}");
        }
    }

    #[test]
    fn weights_count_and_even_the_largest_are_bounded() {
        let seats = seats(&[1000, 3000, 60_000]);
        let balancer = plain(&seats);
        assert!(balancer.order.len() <= 160 * MOST_WEIGHT as usize);
        let mut counts = HashMap::<usize, u32>::new();
        for key in 0..KEYS {
            *counts.entry(balancer.pick(&seats, &keyed(key.to_string().as_bytes())).unwrap()).or_default() += 1;
        }
        assert!(counts[&2] > counts[&1] * 10 && counts[&1] > counts[&0], "{counts:?}");
    }

    #[test]
    fn no_key_is_spread_over_all() {
        let seats = seats(&[1, 1, 1]);
        let balancer = plain(&seats);
        let mut counts = [0; 3];
        (0..3000).for_each(|turn| counts[balancer.pick(&seats, &ask(turn)).unwrap()] += 1);
        assert!(counts.iter().all(|count| *count > 600), "{counts:?}");
    }

    /// Half of the requests have the same key.
    #[test]
    fn a_bounded_load_holds() {
        let seats = seats(&[1; 10]);
        let crowd = Arc::new(Crowd::default());
        seats.iter().for_each(|seat| seat.endpoint.join(&crowd));
        let bound = Spanned { value: 1.25, place: Place::NOWHERE };
        let settings = ConsistentHashSettings { bounded_load: Some(bound), ..ConsistentHashSettings::default() };
        let balancer = ConsistentHash::build(&seats, &settings);
        let mut held = Vec::new();
        for number in 0..1000u32 {
            let key = if number % 2 == 0 { "hot".to_owned() } else { number.to_string() };
            let at = balancer.pick(&seats, &keyed(key.as_bytes())).unwrap();
            held.push(under_way(&seats[at]));
            let most = seats.iter().map(|seat| seat.endpoint.in_flight()).max().unwrap();
            assert!(most as f64 <= (1.25 * f64::from(number + 1) / 10.0).ceil(), "{most} of {number}");
        }
        assert_eq!(crowd.size(), 1000);
        held.clear();
        assert_eq!(crowd.size(), 0);
    }

    #[test]
    fn sockets_have_places_of_their_own() {
        let socket = |path: &str| EndpointAddress::Unix(crate::address::SocketName::new(path).unwrap());
        assert_ne!(name(socket("/run/a.sock")), name(socket("/run/b.sock")));
        assert_eq!(name(socket("/run/a.sock")), name(socket("/run/a.sock")));
    }
}
