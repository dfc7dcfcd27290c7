//! Several services behind one route, each with its share: canaries and A/B tests.
//!
//! A sticky choice is a pure function of what it sticks to and of the targets' names and weights, by a fixed hash: the same on every
//! node, after every restart, with nothing stored and no cookie set. It is weighted rendezvous hashing (highest random weight): when
//! a weight changes, only the clients move that have to.
//!
//! Deliberately not here: whether the chosen service is healthy. A canary that answers 503 has to be seen, not covered up.

use std::net::IpAddr;

use super::config::{RouteConfig, SplitTarget, Sticky};
use crate::head::RequestHead;
use crate::problem::{Place, Problem, Problems};
use crate::value::Spanned;

/// The largest weight. Keeps sums far from any overflow, and is a fine enough grain for a canary of one in a million.
const LARGEST_WEIGHT: u32 = 1_000_000;

/// What is written about who answers a route, of requests or of connections.
pub struct Answering<'a> {
    pub service: Option<&'a Spanned<String>>,
    pub port: Option<u16>,
    pub split: Option<&'a [Spanned<SplitTarget>]>,
    pub sticky: Option<&'a Spanned<Sticky>>,
    /// Of the route.
    pub place: Place,
    /// What may be added where nothing answers.
    pub instead: &'static str,
}

impl<'a> From<&'a RouteConfig> for Answering<'a> {
    fn from(config: &'a RouteConfig) -> Self {
        Answering {
            service: config.service.as_ref(),
            port: config.port,
            split: config.split.as_deref(),
            sticky: config.sticky.as_ref(),
            place: config.path.place,
            instead: "add `service: NAME`, a `split` of several services, or `compose`, `respond`, `redirect`, `maintenance` or `mock`",
        }
    }
}

/// A compiled `split`.
#[derive(Debug, Clone)]
pub struct Split {
    targets: Box<[Target]>,
    /// The sum of the weights, at least 1.
    total: u64,
    key: Key,
}

#[derive(Debug, Clone)]
struct Target {
    /// Tells the targets apart in the rendezvous; made of the name, so that it does not depend on the order in the file.
    seed: u64,
    weight: u32,
}

/// What a choice sticks to.
#[derive(Debug, Clone)]
enum Key {
    Nothing,
    /// Lower case.
    Header(Box<str>),
    Cookie(Box<str>),
    Client,
}

impl Split {
    /// Checks what answers a route: one `service`, or a `split`, never both and never neither. `Some` is a split; the indices that
    /// [`Split::pick`] returns count `config.split`. `None` is a single service, or a problem.
    pub fn compile(written: &Answering<'_>, problems: &mut Problems) -> Option<Split> {
        if let (None, Some(sticky)) = (written.split, written.sticky) {
            problems.push(Problem::error(sticky.place, "`sticky` has a meaning for a `split` only"));
        }
        match (written.service, written.split) {
            (Some(_), None) => None,
            (None, Some(targets)) => split(written, targets, problems),
            (Some(service), Some(_)) => {
                problems.push(Problem::error(service.place, "a route has either a `service` or a `split`, not both"));
                None
            }
            (None, None) => {
                let problem = Problem::error(written.place, "nothing answers this route");
                problems.push(problem.hint(written.instead));
                None
            }
        }
    }

    /// The targets' weights, in their order.
    pub fn weights(&self) -> impl Iterator<Item = u32> {
        self.targets.iter().map(|target| target.weight)
    }

    /// The number of the target for this request. `random` decides, evenly over all of `u64`, unless the split is sticky and the
    /// request has what it sticks to.
    pub fn pick(&self, head: &RequestHead, client: IpAddr, random: u64) -> usize {
        let key = match &self.key {
            Key::Nothing => None,
            Key::Header(name) => head.header(name).filter(|value| !value.is_empty()).map(hash),
            Key::Cookie(name) => head.cookie(name).filter(|value| !value.is_empty()).map(hash),
            Key::Client => Some(hash_address(client)),
        };
        key.map_or_else(|| self.by_chance(random), |key| self.by_key(key))
    }

    fn by_chance(&self, random: u64) -> usize {
        let mut left = ((u128::from(random) * u128::from(self.total)) >> 64) as u64;
        for (at, target) in self.targets.iter().enumerate() {
            match left.checked_sub(u64::from(target.weight)) {
                Some(less) => left = less,
                None => return at,
            }
        }
        0
    }

    fn by_key(&self, key: u64) -> usize {
        let scores = self.targets.iter().map(|target| score(mix(key ^ target.seed), target.weight));
        scores.enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(at, _)| at)
    }
}

/// Which target has the highest score is a draw with the odds of the weights: `-ln(u)` of an even `u` is exponential, and the
/// smallest of exponentials divided by their weights falls to each in proportion to its weight.
fn score(random: u64, weight: u32) -> f64 {
    if weight == 0 {
        return f64::NEG_INFINITY;
    }
    // 53 bits, in the open interval (0, 1).
    let even = ((random >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    even.ln() / f64::from(weight)
}

/// The finisher of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The same on every node and after every restart, and nobody can steer it towards a target without trying.
fn hash(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(first)
}

fn hash_address(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&(address.to_bits() >> 64).to_be_bytes()),
    }
}

fn split(written: &Answering<'_>, list: &[Spanned<SplitTarget>], problems: &mut Problems) -> Option<Split> {
    let before = problems.len();
    if let Some(port) = written.port {
        problems.push(Problem::error(written.place, format!("with `split`, port {port} belongs to one of its targets")));
    }
    let mut targets: Vec<Target> = Vec::with_capacity(list.len());
    for target in list {
        if target.weight > LARGEST_WEIGHT {
            let message = format!("the weight {} is out of range: 0 to {LARGEST_WEIGHT}", target.weight);
            problems.push(Problem::error(target.place, message));
        }
        let seed = hash(format!("{}:{}", target.service.value, target.port.unwrap_or(0)).as_bytes());
        if targets.iter().any(|known| known.seed == seed) {
            let message = format!("`{}` stands in this split twice", target.service.value);
            problems.push(Problem::error(target.service.place, message).hint("add the weights up"));
        }
        targets.push(Target { seed, weight: target.weight });
    }
    let total = targets.iter().map(|target| u64::from(target.weight)).sum();
    if total == 0 {
        let place = list.first().map_or(written.place, |target| target.place);
        problems.push(Problem::error(place, "no target of this split has a weight over 0: nothing would answer"));
    }
    let key = key(written.sticky, problems);
    (problems.len() == before).then(|| Split { targets: targets.into(), total, key })
}

fn key(sticky: Option<&Spanned<Sticky>>, problems: &mut Problems) -> Key {
    match sticky.map(|sticky| &sticky.value) {
        None => Key::Nothing,
        Some(Sticky::ClientAddress) => Key::Client,
        Some(Sticky::Header(name)) => {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.push(Problem::error(name.place, format!("`{}` is no header name", name.value)));
            }
            Key::Header(name.to_ascii_lowercase().into())
        }
        Some(Sticky::Cookie(name)) => {
            // RFC 6265, section 4.1.1: a cookie's name is a token, as a method is.
            if http::Method::from_bytes(name.as_bytes()).is_err() {
                problems.push(Problem::error(name.place, format!("`{}` is no cookie name", name.value)));
            }
            Key::Cookie(name.as_str().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn config(weights: &[u32], sticky: Option<Sticky>) -> RouteConfig {
        let mut config: RouteConfig = serde_yaml::from_str("path: /").unwrap();
        let spanned = |value: String| serde_yaml::from_str::<Spanned<String>>(&value).unwrap();
        let target = |(at, weight): (usize, &u32)| {
            let target = SplitTarget { service: spanned(format!("s{at}")), port: None, weight: *weight };
            Spanned { value: target, place: Place::NOWHERE }
        };
        config.split = Some(weights.iter().enumerate().map(target).collect());
        config.sticky = sticky.map(|value| Spanned { value, place: Place::NOWHERE });
        config
    }

    fn compile(config: &RouteConfig) -> (Option<Split>, Problems) {
        let mut problems = Problems::default();
        (Split::compile(&Answering::from(config), &mut problems), problems)
    }

    fn by_user(weights: &[u32]) -> Split {
        let name = serde_yaml::from_str("X-User").unwrap();
        compile(&config(weights, Some(Sticky::Header(name)))).0.unwrap()
    }

    fn user(number: usize) -> RequestHead {
        RequestHead::build("GET", "/", &[("x-user", &format!("u{number}"))])
    }

    #[test]
    fn chance_follows_the_weights() {
        let split = compile(&config(&[1, 0, 3], None)).0.unwrap();
        let head = RequestHead::build("GET", "/", &[]);
        let mut counts = [0usize; 3];
        for step in 0..4000u64 {
            counts[split.pick(&head, CLIENT, step * (u64::MAX / 4000))] += 1;
        }
        assert!(counts[0].abs_diff(1000) < 3 && counts[1] == 0, "{counts:?}");
        assert_eq!(split.pick(&head, CLIENT, 0), 0);
        assert_eq!(split.pick(&head, CLIENT, u64::MAX), 2);
    }

    #[test]
    fn sticky_follows_the_weights_and_stays() {
        let split = by_user(&[90, 10, 0]);
        let mut counts = [0usize; 3];
        for number in 0..10_000 {
            let head = user(number);
            let at = split.pick(&head, CLIENT, number as u64);
            assert_eq!(split.pick(&head, CLIENT, !0), at);
            counts[at] += 1;
        }
        assert!(counts[1].abs_diff(1000) < 120 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn stays_the_same_across_versions() {
        let split = by_user(&[50, 50]);
        let picks: String = (0..16).map(|number| split.pick(&user(number), CLIENT, 0).to_string()).collect();
        assert_eq!(picks, PINNED);
    }

    /// Changing this moves every client of every sticky split at the next release.
    const PINNED: &str = "0010100001011100";

    #[test]
    fn a_changed_weight_moves_only_towards_it() {
        let (before, after) = (by_user(&[80, 10, 10]), by_user(&[80, 20, 10]));
        for number in 0..2000 {
            let (old, new) = (before.pick(&user(number), CLIENT, 0), after.pick(&user(number), CLIENT, 0));
            assert!(old == new || new == 1);
        }
    }

    #[test]
    fn without_its_key_chance_decides() {
        let split = by_user(&[50, 50]);
        for headers in [&[][..], &[("x-user", "")]] {
            let head = RequestHead::build("GET", "/", headers);
            assert_ne!(split.pick(&head, CLIENT, 0), split.pick(&head, CLIENT, u64::MAX));
        }
    }

    #[test]
    fn addresses_count_by_network() {
        let hash = |text: &str| hash_address(text.parse().unwrap());
        assert_eq!(hash("2001:db8::1"), hash("2001:db8::ffff"));
        assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
        assert_eq!(hash("::ffff:192.0.2.1"), hash("192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
    }

    #[test]
    fn refuses_what_nothing_answers() {
        let mut both = config(&[1], None);
        both.service = Some(serde_yaml::from_str("a").unwrap());
        let neither: RouteConfig = serde_yaml::from_str("path: /").unwrap();
        let mut twice = config(&[1, 1], None);
        twice.split.as_mut().unwrap()[1] = twice.split.as_ref().unwrap()[0].clone();
        let mut port = config(&[1], None);
        port.port = Some(1);
        let mut alone = config(&[], Some(Sticky::ClientAddress));
        alone.split = None;
        alone.service = Some(serde_yaml::from_str("a").unwrap());
        let cookie = config(&[1], Some(Sticky::Cookie(serde_yaml::from_str("a b").unwrap())));
        for wrong in
            [both, neither, twice, port, alone, cookie, config(&[], None), config(&[0, 0], None), config(&[1_000_001], None)]
        {
            let (split, problems) = compile(&wrong);
            assert!(split.is_none() && problems.len() == 1, "{wrong:?} {problems:?}");
        }
        let mut single = config(&[], None);
        single.split = None;
        single.service = Some(serde_yaml::from_str("a").unwrap());
        let (split, problems) = compile(&single);
        assert!(split.is_none() && problems.is_empty());
    }
}
