//! What a route asks of a request beyond host and path.

use std::collections::BTreeSet;
use std::fmt;

use http::{HeaderName, HeaderValue, Method};

use super::config::ValueMatch;
use super::device::{self, Device};
use crate::head::RequestHead;
use crate::node::redact::{is_harmless_field, name_veils};
use crate::path::hex_value;

/// A set of methods. `GET` brings `HEAD` (RFC 9110, section 9.3.2: a resource that answers the one answers the other).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MethodSet {
    known: u16,
    /// Sorted.
    others: Vec<Method>,
}

/// In the order in which `Allow` and ids list them. `CONNECT` is not for a gateway, and sorts with the others.
const KNOWN: [Method; 8] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE];

/// The method's bit, 0 for one that is not [`KNOWN`].
fn bit(method: &Method) -> u16 {
    match *method {
        Method::GET => 1,
        Method::HEAD => 1 << 1,
        Method::POST => 1 << 2,
        Method::PUT => 1 << 3,
        Method::PATCH => 1 << 4,
        Method::DELETE => 1 << 5,
        Method::OPTIONS => 1 << 6,
        Method::TRACE => 1 << 7,
        _ => 0,
    }
}

impl MethodSet {
    pub(super) fn insert(&mut self, method: Method) {
        match bit(&method) {
            0 => {
                if let Err(at) = self.others.binary_search_by(|known| known.as_str().cmp(method.as_str())) {
                    self.others.insert(at, method);
                }
            }
            1 => self.known |= bit(&Method::GET) | bit(&Method::HEAD),
            bit => self.known |= bit,
        }
    }

    pub(super) fn contains(&self, method: &Method) -> bool {
        match bit(method) {
            0 => self.others.contains(method),
            bit => self.known & bit != 0,
        }
    }

    pub(super) fn merge(&mut self, other: &MethodSet) {
        self.known |= other.known;
        other.others.iter().for_each(|method| self.insert(method.clone()));
    }

    fn meets(&self, other: &MethodSet) -> bool {
        self.known & other.known != 0 || self.others.iter().any(|method| other.others.contains(method))
    }

    fn iter(&self) -> impl Iterator<Item = &Method> {
        KNOWN.iter().filter(|method| self.contains(method)).chain(&self.others)
    }

    /// As a route's id has it: `GET|POST`, without the HEAD that GET brings.
    pub(super) fn id(&self) -> String {
        let implied = self.contains(&Method::GET);
        let names: Vec<_> = self.iter().filter(|method| !(implied && **method == Method::HEAD)).map(Method::as_str).collect();
        names.join("|")
    }
}

/// As `Allow` has it: `GET, HEAD`.
impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, method) in self.iter().enumerate() {
            let comma = if count == 0 { "" } else { ", " };
            write!(f, "{comma}{method}")?;
        }
        Ok(())
    }
}

/// A set of devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct DeviceSet(u8);

impl DeviceSet {
    const ALL: [Device; 4] = [Device::Mobile, Device::Tablet, Device::Desktop, Device::Bot];

    pub(super) fn insert(&mut self, device: Device) {
        self.0 |= 1 << device as u8;
    }

    fn contains(self, device: Device) -> bool {
        self.0 & (1 << device as u8) != 0
    }
}

/// A request's device, found out at most once and only if somebody asks.
pub(super) struct Facts<'a> {
    pub head: &'a RequestHead,
    pub method: &'a Method,
    /// Lists of fields that the request will have, whatever their values: of one that is still to come.
    announced: &'a [&'a [u8]],
    device: std::cell::OnceCell<Device>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(head: &'a RequestHead) -> Self {
        Facts { head, method: &head.method, announced: &[], device: std::cell::OnceCell::new() }
    }

    pub(super) fn announced(head: &'a RequestHead, method: &'a Method, announced: &'a [&'a [u8]]) -> Self {
        Facts { head, method, announced, device: std::cell::OnceCell::new() }
    }

    fn announces(&self, name: &HeaderName) -> bool {
        let mut names = self.announced.iter().flat_map(|list| list.split(|&byte| byte == b','));
        names.any(|known| known.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    }

    fn device(&self) -> Device {
        *self.device.get_or_init(|| Device::of(self.head))
    }
}

/// One condition on a request. A header or a parameter that comes several times counts by its first value, everywhere: routing must
/// not depend on which of two contradicting values a reader happens to prefer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Predicate {
    Header(HeaderName, ValueMatch),
    Query(Box<str>, ValueMatch),
    Device(DeviceSet),
}

impl Predicate {
    pub(super) fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Predicate::Header(name, wanted) => {
                if !facts.announced.is_empty() && facts.announces(name) {
                    return *wanted != ValueMatch::Present(false);
                }
                let value = facts.head.header(name.as_str());
                match wanted {
                    ValueMatch::Exact(text) => value == Some(text.as_bytes()),
                    ValueMatch::Prefix(text) => value.is_some_and(|value| value.starts_with(text.as_bytes())),
                    ValueMatch::Present(wanted) => value.is_some() == *wanted,
                }
            }
            Predicate::Query(name, wanted) => {
                let value = query_value(facts.head.query().unwrap_or_default(), name);
                match wanted {
                    ValueMatch::Exact(text) => value.is_some_and(|value| decoded(value).eq(text.bytes())),
                    ValueMatch::Prefix(text) => value.is_some_and(|value| decoded(value).take(text.len()).eq(text.bytes())),
                    ValueMatch::Present(wanted) => value.is_some() == *wanted,
                }
            }
            Predicate::Device(set) => set.contains(facts.device()),
        }
    }

    /// The request's fields that it looks at, in lower case.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        let (own, of_devices) = match self {
            Predicate::Header(name, _) => (Some(name.as_str()), &[][..]),
            Predicate::Query(..) => (None, &[][..]),
            Predicate::Device(_) => (None, &device::FIELDS[..]),
        };
        own.into_iter().chain(of_devices.iter().copied())
    }

    /// As a route's id has it. `name` is the header's or parameter's name as it was written. Ids stand in logs and metrics: of a field whose value
    /// may be a secret between the gateway and whoever is in front of it, they have a digest.
    pub(super) fn label(&self, name: &str, open: bool) -> String {
        let (mark, wanted) = match self {
            Predicate::Header(_, wanted) => ("", wanted),
            Predicate::Query(_, wanted) => ("?", wanted),
            Predicate::Device(set) => {
                let names: Vec<_> = DeviceSet::ALL.into_iter().filter(|device| set.contains(*device)).map(Device::name).collect();
                return format!("device={}", names.join("|"));
            }
        };
        let open = open
            || match self {
                Predicate::Header(name, _) => is_harmless_field(name.as_str()),
                _ => !name_veils(name),
            };
        let shown = |text: &str| match open {
            true => text.to_owned(),
            false => format!("#{}", blake3::hash(text.as_bytes()).to_hex().get(..8).unwrap_or_default()),
        };
        match wanted {
            ValueMatch::Exact(text) => format!("{mark}{name}={}", shown(text)),
            ValueMatch::Prefix(text) => format!("{mark}{name}={}*", shown(text)),
            ValueMatch::Present(true) => format!("{mark}{name}"),
            ValueMatch::Present(false) => format!("!{mark}{name}"),
        }
    }

    /// Whether no request meets both.
    fn excludes(&self, other: &Predicate) -> bool {
        match (self, other) {
            (Predicate::Header(name, wanted), Predicate::Header(name_2, wanted_2)) => name == name_2 && differ(wanted, wanted_2),
            (Predicate::Query(name, wanted), Predicate::Query(name_2, wanted_2)) => name == name_2 && differ(wanted, wanted_2),
            (Predicate::Device(set), Predicate::Device(set_2)) => set.0 & set_2.0 == 0,
            _ => false,
        }
    }
}

fn differ(one: &ValueMatch, other: &ValueMatch) -> bool {
    use ValueMatch::{Exact, Prefix, Present};
    match (one, other) {
        (Exact(one), Exact(other)) => one != other,
        (Exact(exact), Prefix(prefix)) | (Prefix(prefix), Exact(exact)) => !exact.starts_with(&**prefix),
        (Prefix(one), Prefix(other)) => !one.starts_with(&**other) && !other.starts_with(&**one),
        (Present(one), Present(other)) => one != other,
        (Present(present), _) | (_, Present(present)) => !present,
    }
}

/// The raw value of the first parameter whose decoded name is `name`; empty if it has no `=`.
fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!pair.is_empty() && decoded(key).eq(name.bytes())).then_some(value)
    })
}

/// `application/x-www-form-urlencoded`, decoded without a copy: `+` is a space, a bad escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || match bytes.next()? {
        b'+' => Some(b' '),
        b'%' => {
            let mut ahead = bytes.clone();
            let high = ahead.next().and_then(hex_value);
            let low = ahead.next().and_then(hex_value);
            match (high, low) {
                (Some(high), Some(low)) => {
                    bytes = ahead;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            }
        }
        byte => Some(byte),
    })
}

/// All that a route asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// `None`: any.
    pub methods: Option<MethodSet>,
    /// Sorted, so that equal conditions are equal values.
    pub predicates: Vec<Predicate>,
}

impl Conditions {
    /// How specific they are; a list of methods counts as one.
    pub(super) fn count(&self) -> usize {
        self.predicates.len() + usize::from(self.methods.is_some())
    }

    pub(super) fn method_passes(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }

    pub(super) fn predicates_hold(&self, facts: &Facts<'_>) -> bool {
        self.predicates.iter().all(|predicate| predicate.holds(facts))
    }

    /// Whether one request could meet both.
    pub(super) fn overlap(&self, other: &Conditions) -> bool {
        let methods_meet = match (&self.methods, &other.methods) {
            (Some(one), Some(other)) => one.meets(other),
            _ => true,
        };
        methods_meet && !self.predicates.iter().any(|one| other.predicates.iter().any(|other| one.excludes(other)))
    }
}

/// Fields of requests as `Vary` lists them: each once, in the order of the alphabet. `None` for none.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let list = names.into_iter().collect::<Vec<_>>().join(", ");
    // Names of fields are what a field can have.
    (!list.is_empty()).then(|| HeaderValue::try_from(list).ok()).flatten()
}

/// The fields by which a request that meets one of these is told from one that meets another, or none of them.
pub(super) fn varies<'a>(all: impl Iterator<Item = &'a Conditions>) -> Option<HeaderValue> {
    listed(all.flat_map(|conditions| &conditions.predicates).flat_map(Predicate::fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(list: &[Method]) -> MethodSet {
        let mut set = MethodSet::default();
        list.iter().for_each(|method| set.insert(method.clone()));
        set
    }

    fn holds(predicate: &Predicate, target: &str, headers: &[(&str, &str)]) -> bool {
        predicate.holds(&Facts::new(&RequestHead::build("GET", target, headers)))
    }

    #[test]
    fn get_brings_head() {
        let set = methods(&[Method::POST, Method::GET]);
        assert!(set.contains(&Method::HEAD) && !set.contains(&Method::OPTIONS));
        assert_eq!(set.to_string(), "GET, HEAD, POST");
        assert_eq!(set.id(), "GET|POST");
        assert_eq!(methods(&[Method::HEAD]).id(), "HEAD");
        assert!(!methods(&[Method::HEAD]).contains(&Method::GET));
    }

    #[test]
    fn other_methods_are_methods() {
        let purge = Method::from_bytes(b"PURGE").unwrap();
        let ban = Method::from_bytes(b"BAN").unwrap();
        let set = methods(&[purge.clone(), Method::GET, ban, purge.clone()]);
        assert!(set.contains(&purge));
        assert_eq!(set.to_string(), "GET, HEAD, BAN, PURGE");
        assert!(set.meets(&methods(&[purge])));
        assert!(!set.meets(&methods(&[Method::PUT])));
    }

    #[test]
    fn headers() {
        let name = HeaderName::from_static("x-a");
        let exact = Predicate::Header(name.clone(), ValueMatch::Exact("1".into()));
        assert!(holds(&exact, "/", &[("X-A", "1")]));
        assert!(!holds(&exact, "/", &[("X-A", "2"), ("X-A", "1")]));
        assert!(!holds(&exact, "/", &[]));
        let absent = Predicate::Header(name.clone(), ValueMatch::Present(false));
        assert!(holds(&absent, "/", &[]));
        assert!(!holds(&absent, "/", &[("x-a", "")]));
        let prefix = Predicate::Header(name, ValueMatch::Prefix("ab".into()));
        assert!(holds(&prefix, "/", &[("x-a", "abc")]));
        assert!(!holds(&prefix, "/", &[("x-a", "a")]));
    }

    #[test]
    fn queries_are_compared_decoded() {
        let exact = Predicate::Query("k y".into(), ValueMatch::Exact("a b".into()));
        for query in ["k+y=a%20b", "%6b%20y=a+b", "&x&k+y=a+b&k+y=z"] {
            assert!(holds(&exact, &format!("/?{query}"), &[]), "{query}");
        }
        for query in ["k+y=a+b+", "k+y", "k+y=z&k+y=a+b", "ky=a+b", "k+y=a%2", ""] {
            assert!(!holds(&exact, &format!("/?{query}"), &[]), "{query}");
        }
        let present = Predicate::Query("k".into(), ValueMatch::Present(true));
        assert!(holds(&present, "/?k", &[]));
        assert!(holds(&present, "/?k=", &[]));
        assert!(!holds(&present, "/?", &[]));
        let prefix = Predicate::Query("k".into(), ValueMatch::Prefix("%z".into()));
        assert!(holds(&prefix, "/?k=%zz", &[]));
        assert!(!holds(&prefix, "/?k=%", &[]));
    }

    #[test]
    fn knows_what_cannot_both_be() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let prefix = |text: &str| ValueMatch::Prefix(text.into());
        for (one, other, excluded) in [
            (exact("a"), exact("b"), true),
            (exact("a"), exact("a"), false),
            (exact("ab"), prefix("a"), false),
            (exact("b"), prefix("a"), true),
            (prefix("a"), prefix("ab"), false),
            (prefix("a"), prefix("b"), true),
            (ValueMatch::Present(true), exact("a"), false),
            (ValueMatch::Present(false), exact("a"), true),
            (ValueMatch::Present(false), ValueMatch::Present(true), true),
        ] {
            assert_eq!(differ(&one, &other), excluded, "{one:?} {other:?}");
            assert_eq!(differ(&other, &one), excluded, "{other:?} {one:?}");
        }
    }
}
