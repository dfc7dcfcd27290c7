//! `ip_restriction`: which client addresses may come at all, by lists of networks. The most specific network decides.
//!
//! The lists are laid flat when the configuration is loaded: address space cut into pieces, each admitted or not. A look-up is one
//! binary search, over four bytes a piece for IPv4, however many networks there are and however they nest.
//!
//! Deliberately not here: who a proxy in front says the client is (the listener's `trusted_proxies`), limits by address
//! (`address_limit`), and networks together with other conditions (`authz` rules).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cidr;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::{Place, Problem};
use crate::reply::{Flow, Reply};
use crate::value::Spanned;

/// The longest file with networks, in bytes: some three million of them.
const MAX_FILE: u64 = 64 << 20;

/// So many wrong lines of one file are reported.
const MOST_COMPLAINTS: usize = 20;

/// Which client addresses may. An address in networks of both lists is judged by the longest prefix; one in none passes unless there
/// is a list of who may.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpRestrictionConfig {
    /// The networks and addresses that may: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
    pub allow: Vec<Spanned<String>>,
    /// Those that may not.
    pub deny: Vec<Spanned<String>>,
    /// A file with more that may, one in a line; `#` starts a comment. Read when the configuration is loaded, 64 MiB at most.
    pub allow_file: Option<Spanned<PathBuf>>,
    /// A file with more that may not.
    pub deny_file: Option<Spanned<PathBuf>>,
}

/// The compiled policy.
pub struct IpRestriction {
    map: AddressMap,
    /// Where it was written, for the log.
    scope: Box<str>,
}

impl OnRequest for IpRestriction {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        if self.map.admits(exchange.client) {
            return Flow::Continue(());
        }
        Reply::new(StatusCode::FORBIDDEN, Self::NAME, "ip_denied", "This address may not use this resource.")
            .decided_by(&*self.scope)
            .refuse()
    }
}

impl Policy for IpRestriction {
    const NAME: &'static str = "ip_restriction";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Admits by the client's address: lists of networks, the longest prefix decides (403).";
    type Config = IpRestrictionConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        if config.allow.is_empty() && config.deny.is_empty() && config.allow_file.is_none() && config.deny_file.is_none() {
            let problem = Problem::error(cx.place, "`ip_restriction` without a list restricts nothing");
            cx.problems.push(problem.hint("allow, deny, allow_file or deny_file"));
            return None;
        }
        let mut list = List::default();
        for (written, file, allows) in [(&config.allow, &config.allow_file, true), (&config.deny, &config.deny_file, false)] {
            for text in written {
                list.add(&text.value, text.place, || format!("`{}`", text.value), allows, cx);
            }
            if let Some(file) = file {
                list.add_file(file, allows, cx);
            }
        }
        let otherwise = config.allow.is_empty() && config.allow_file.is_none();
        if list.sound && !otherwise && !list.nets.iter().any(|(_, allows)| *allows) {
            // An empty file locks everyone out, which can be meant; an operator should see it.
            cx.problems.push(Problem::warning(cx.place, "nobody is allowed: the list of who may is empty"));
        }
        list.sound.then(|| IpRestriction { map: AddressMap::new(list.nets, otherwise), scope: cx.scope.into() })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

/// What was read so far.
struct List {
    nets: Vec<(IpNet, bool)>,
    known: std::collections::HashMap<IpNet, bool, ahash::RandomState>,
    sound: bool,
}

impl Default for List {
    fn default() -> Self {
        List { nets: Vec::new(), known: Default::default(), sound: true }
    }
}

impl List {
    fn add(&mut self, text: &str, place: Place, named: impl Fn() -> String, allows: bool, cx: &mut Compile<'_>) -> bool {
        let Some(net) = cidr::parse(text) else {
            let hint = "write an address (10.0.0.1) or a network (10.0.0.0/8, 2001:db8::/32)";
            cx.problems.push(Problem::error(place, format!("{} is no network", named())).hint(hint));
            self.sound = false;
            return false;
        };
        let net = canonical(net.trunc());
        match self.known.insert(net, allows) {
            None => self.nets.push((net, allows)),
            Some(before) if before != allows => {
                cx.problems.push(Problem::error(place, format!("{} is both allowed and denied", named())));
                self.sound = false;
                return false;
            }
            Some(_) => {}
        }
        true
    }

    fn add_file(&mut self, file: &Spanned<PathBuf>, allows: bool, cx: &mut Compile<'_>) {
        let path = cx.base.join(&file.value);
        let named = file.value.display().to_string();
        let text = match std::fs::metadata(&path) {
            Ok(data) if data.len() > MAX_FILE => Err(format!("`{named}` is longer than 64 MiB")),
            Ok(_) => std::fs::read_to_string(&path).map_err(|error| format!("cannot read `{named}`: {error}")),
            Err(error) => Err(format!("cannot read `{named}`: {error}")),
        };
        let text = match text {
            Ok(text) => text,
            Err(message) => {
                cx.problems.push(Problem::error(file.place, message));
                self.sound = false;
                return;
            }
        };
        let mut complaints = 0;
        for (number, line) in (1..).zip(text.lines()) {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            let shown = || format!("line {number} of `{named}`, `{}`,", entry.chars().take(60).collect::<String>());
            if !self.add(entry, file.place, shown, allows, cx) {
                complaints += 1;
                if complaints == MOST_COMPLAINTS {
                    cx.problems.push(Problem::error(file.place, format!("there may be more wrong lines in `{named}`")));
                    return;
                }
            }
        }
    }
}

/// An IPv4 network that is written as IPv6 (`::ffff:10.0.0.0/104`) is the IPv4 network.
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => match six.network().to_ipv4_mapped() {
            Some(four) => ipnet::Ipv4Net::new(four, six.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        net => net,
    }
}

/// Address space in pieces, each admitted or not.
#[derive(Debug)]
pub struct AddressMap {
    v4: Pieces<u32>,
    v6: Pieces<u128>,
}

impl AddressMap {
    /// The network with the longest prefix decides for each address; `otherwise` where there is none.
    pub fn new(nets: impl IntoIterator<Item = (IpNet, bool)>, otherwise: bool) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, allows) in nets {
            match canonical(net) {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()), allows)),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()), allows)),
            }
        }
        AddressMap {
            v4: Pieces::new(v4, otherwise, |last| last.checked_add(1)),
            v6: Pieces::new(v6, otherwise, |last| last.checked_add(1)),
        }
    }

    pub fn admits(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.at(u32::from(address)),
            IpAddr::V6(address) => self.v6.at(u128::from(address)),
        }
    }
}

/// Where the verdict changes: it is `first` before the first start, and the other one after each.
#[derive(Debug)]
struct Pieces<T> {
    first: bool,
    starts: Box<[T]>,
}

impl<T: Ord + Copy> Pieces<T> {
    /// `nets` are networks: any two of them are disjoint, or one is inside the other.
    fn new(mut nets: Vec<(T, T, bool)>, otherwise: bool, next: impl Fn(T) -> Option<T>) -> Self {
        // Outer before inner.
        nets.sort_unstable_by(|left, right| left.0.cmp(&right.0).then(right.1.cmp(&left.1)));
        let mut changes: Vec<(T, bool)> = Vec::with_capacity(nets.len() * 2);
        let mut open: Vec<(T, bool)> = Vec::new();
        let close = |open: &mut Vec<(T, bool)>, changes: &mut Vec<(T, bool)>, before: Option<T>| {
            while let Some((last, _)) = open.last().copied() {
                if before.is_some_and(|start| last >= start) {
                    return;
                }
                open.pop();
                let outside = open.last().map_or(otherwise, |(_, allows)| *allows);
                changes.extend(next(last).map(|start| (start, outside)));
            }
        };
        for (start, last, allows) in nets {
            close(&mut open, &mut changes, Some(start));
            changes.push((start, allows));
            open.push((last, allows));
        }
        close(&mut open, &mut changes, None);
        // Of several changes at one address the last one counts; one that changes nothing is none.
        let mut verdict = otherwise;
        let mut starts = Vec::new();
        for (at, (start, allows)) in changes.iter().enumerate() {
            let superseded = changes.get(at + 1).is_some_and(|(following, _)| following == start);
            if !superseded && *allows != verdict {
                starts.push(*start);
                verdict = *allows;
            }
        }
        Pieces { first: otherwise, starts: starts.into() }
    }

    fn at(&self, address: T) -> bool {
        let changes = self.starts.partition_point(|start| *start <= address);
        self.first ^ (changes % 2 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    fn admits(policy: &IpRestriction, address: &str) -> bool {
        let mut exchange = Exchange::for_tests();
        exchange.client = address.parse().unwrap();
        policy.on_request(&RequestHead::build("GET", "/", &[]), &mut exchange).is_continue()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let config = json!({ "allow": ["10.0.0.0/8", "10.1.2.0/24", "2001:db8::/32"], "deny": ["10.1.0.0/16", "10.1.2.3", "2001:db8:1::/48"] });
        let policy = compile::<IpRestriction>(config).unwrap();
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("10.1.0.0", false),
            ("10.1.255.255", false),
            ("10.2.0.0", true),
            ("10.1.2.0", true),
            ("10.1.2.2", true),
            ("10.1.2.3", false),
            ("10.1.2.4", true),
            ("10.1.3.0", false),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:10.1.2.3", false),
            ("2001:db8::1", true),
            ("2001:db8:1::1", false),
            ("2001:db8:2::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(admits(&policy, address), expected, "{address}");
        }
    }

    #[test]
    fn a_list_of_who_may_not_admits_the_rest() {
        let policy = compile::<IpRestriction>(json!({ "deny": ["192.0.2.0/24", "::ffff:198.51.100.0/120"] })).unwrap();
        assert!(!admits(&policy, "192.0.2.9") && admits(&policy, "192.0.3.0") && admits(&policy, "::1"));
        assert!(!admits(&policy, "198.51.100.7") && admits(&policy, "198.51.101.0"), "mapped into IPv6 in the list");
        let everyone = compile::<IpRestriction>(json!({ "deny": ["0.0.0.0/0", "::/0"] })).unwrap();
        assert!(!admits(&everyone, "255.255.255.255") && !admits(&everyone, "0.0.0.0") && !admits(&everyone, "ffff::"));
    }

    #[test]
    fn says_no_more_than_that() {
        let policy = compile::<IpRestriction>(json!({ "allow": ["10.0.0.0/8"] })).unwrap();
        let reply = policy.on_request(&RequestHead::build("GET", "/", &[]), &mut Exchange::for_tests()).break_value().unwrap();
        assert_eq!((reply.status, reply.reason), (StatusCode::FORBIDDEN, "ip_denied"));
        assert!(!reply.detail.contains("10."));
    }

    #[test]
    fn nothing_is_guessed() {
        assert!(complaint::<IpRestriction>(json!({})).contains("restricts nothing"));
        assert!(complaint::<IpRestriction>(json!({ "allow": ["10.0.0.0/33"] })).contains("no network"));
        assert!(complaint::<IpRestriction>(json!({ "allow": ["10.0.0.0/8"], "deny": ["10.0.0.1/8"] })).contains("both"));
        assert!(complaint::<IpRestriction>(json!({ "deny": ["::ffff:10.0.0.0/104"], "allow": ["10.0.0.0/8"] })).contains("both"));
        assert!(complaint::<IpRestriction>(json!({ "deny_file": "no/such/file" })).contains("cannot read"));
    }

    #[test]
    fn files_hold_thousands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deny.txt");
        let list: String = (0..20_000u32).map(|n| format!("{}/32\n", std::net::Ipv4Addr::from(0x0a00_0000 + n * 2))).collect();
        std::fs::write(&path, format!("# known bad\n\n{list}2001:db8::/32 # a network\n")).unwrap();
        let policy = compile::<IpRestriction>(json!({ "deny_file": path })).unwrap();
        assert!(!admits(&policy, "10.0.0.0") && admits(&policy, "10.0.0.1") && !admits(&policy, "10.0.156.62"));
        assert!(!admits(&policy, "2001:db8::7"));
        std::fs::write(&path, "10.0.0.0/8\nnonsense\n").unwrap();
        assert!(complaint::<IpRestriction>(json!({ "deny_file": path })).contains("line 2"));
    }

    proptest! {
        #[test]
        fn agrees_with_asking_every_network(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32, any::<bool>()), 0..60),
            near in any::<prop::sample::Index>(),
            random in any::<u32>(),
            otherwise in any::<bool>(),
        ) {
            let mut known = std::collections::HashMap::new();
            for (bits, prefix, allows) in &nets {
                // Crowded, so that they nest.
                let net = ipnet::Ipv4Net::new((bits & 0x0fff_000f).into(), *prefix).unwrap().trunc();
                known.insert(IpNet::V4(net), *allows);
            }
            let map = AddressMap::new(known.iter().map(|(net, allows)| (*net, *allows)), otherwise);
            let edge = nets.get(near.index(nets.len().max(1))).map_or(0, |(bits, ..)| bits & 0x0fff_000f);
            for address in [random, edge, edge.wrapping_sub(1), edge.wrapping_add(1), 0, u32::MAX] {
                let address = IpAddr::V4(address.into());
                let best = known.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
                prop_assert_eq!(map.admits(address), best.map_or(otherwise, |(_, allows)| *allows));
            }
        }
    }
}
