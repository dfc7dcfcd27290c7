//! Sets of addresses, as the configuration writes them: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
//!
//! Only membership is answered. Which of several ranges an address falls into is not kept: overlapping ranges are merged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// What counts as one client: an IPv4 address, or an IPv6 /64, which is what one subscriber is given (RFC 6177), so that walking
/// through one's own /64 gains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occupant {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Occupant {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Occupant::V4(address.into()),
            IpAddr::V6(address) => Occupant::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// Address ranges, sorted and disjoint, so that membership is one binary search however many there are. An IPv4 address that
/// arrives mapped into IPv6 (`::ffff:10.0.0.1`, as a dual-stack socket reports it) counts as IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl CidrSet {
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => match net.network().to_ipv4_mapped().filter(|_| net.prefix_len() >= 96) {
                    Some(first) => {
                        let last = net.broadcast().to_ipv4_mapped().unwrap_or(first);
                        v4.push((u32::from(first), u32::from(last)));
                    }
                    None => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
                },
            }
        }
        CidrSet { v4: merged(v4), v6: merged(v6) }
    }

    /// Reads what people wrote. What is wrong becomes a problem at its place; the rest still makes a set, so that one mistake does
    /// not hide the next.
    pub fn compile(texts: &[Spanned<String>], problems: &mut Problems) -> Self {
        let nets = texts.iter().filter_map(|text| {
            let net = parse(&text.value).or_else(|| {
                let hint = "write an address (10.0.0.1) or a range (10.0.0.0/8, 2001:db8::/32)";
                problems.push(Problem::error(text.place, format!("`{}` is no address range", text.value)).hint(hint));
                None
            })?;
            if net.trunc() != net {
                let message = format!("`{}` has bits set behind the prefix; it is read as {}", text.value, net.trunc());
                problems.push(Problem::warning(text.place, message));
            }
            Some(net)
        });
        CidrSet::new(nets)
    }

    /// The addresses of one range, or one address. `None` if the text is neither.
    pub fn of(text: &str) -> Option<Self> {
        parse(text).map(|net| CidrSet::new([net]))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, u32::from(address)),
            IpAddr::V6(address) => within(&self.v6, u128::from(address)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether every address of a family is inside: a "trusted" set like that trusts the whole internet.
    pub fn is_everyone(&self) -> bool {
        self.v4.first() == Some(&(u32::from(Ipv4Addr::UNSPECIFIED), u32::MAX))
            || self.v6.first() == Some(&(u128::from(Ipv6Addr::UNSPECIFIED), u128::MAX))
    }
}

/// `10.0.0.0/8`, or an address alone. An IPv4-mapped range keeps its IPv6 form here.
pub fn parse(text: &str) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpNet>() {
        Ok(net) => Some(net),
        Err(_) => match text.parse::<IpAddr>().ok()?.to_canonical() {
            IpAddr::V4(address) => Some(IpNet::V4(Ipv4Net::from(address))),
            address => Some(IpNet::from(address)),
        },
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(open) if first <= open.1 => open.1 = open.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out.into()
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let at = ranges.partition_point(|(first, _)| *first <= address);
    at.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::Place;

    fn set(texts: &[&str]) -> CidrSet {
        CidrSet::new(texts.iter().map(|text| parse(text).unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn edges_are_inside_and_neighbours_are_not() {
        let set = set(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db7::", "2001:db9::", "::", "0.0.0.0"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn nested_ranges_do_not_hide_each_other() {
        let set = set(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "11.0.0.0/8"]);
        assert!(set.contains(ip("10.200.0.1")));
        assert!(set.contains(ip("11.0.0.1")));
        assert!(!set.contains(ip("12.0.0.0")));
    }

    #[test]
    fn mapped_addresses_are_ipv4_on_both_sides() {
        assert!(set(&["10.0.0.0/8"]).contains(ip("::ffff:10.1.2.3")));
        assert!(set(&["::ffff:10.0.0.0/104"]).contains(ip("10.1.2.3")));
        assert!(!set(&["::/0"]).contains(ip("10.1.2.3")));
    }

    #[test]
    fn knows_when_it_is_everyone() {
        assert!(set(&["0.0.0.0/0"]).is_everyone());
        assert!(set(&["::/0"]).is_everyone());
        assert!(!set(&["0.0.0.0/1"]).is_everyone());
        assert!(!CidrSet::default().is_everyone());
    }

    #[test]
    fn problems_name_the_value_and_the_place() {
        let place = Place { line: 3, column: 5, width: 9 };
        let written = |text: &str| Spanned { value: text.to_owned(), place };
        let mut problems = Problems::default();
        let set =
            CidrSet::compile(&[written("10.0.0.1/8"), written("10.0.0.0/33"), written("localhost"), written("")], &mut problems);
        assert!(set.contains(ip("10.9.9.9")));
        assert_eq!(problems.len(), 4);
        assert!(problems.iter().all(|problem| problem.place == place));
        assert!(problems.has_errors());
    }

    proptest! {
        #[test]
        fn agrees_with_asking_every_range(nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40), address in any::<u32>()) {
            let nets: Vec<Ipv4Net> = nets.iter().map(|(net, prefix)| Ipv4Net::new((*net).into(), *prefix).unwrap()).collect();
            let set = CidrSet::new(nets.iter().map(|net| IpNet::V4(*net)));
            let address = Ipv4Addr::from(address);
            prop_assert_eq!(set.contains(address.into()), nets.iter().any(|net| net.contains(&address)));
        }
    }
}
