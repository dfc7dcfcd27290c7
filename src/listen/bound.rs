//! Hosts that belong to listeners which require a client certificate, and hosts whose TLS is passed on to a service.
//!
//! A listener's requirement protects a host only if no other listener answers for it: whoever has no certificate would go there, with the
//! name of the protected host in `Host` and any other in the handshake. Whose a host is, the certificates say, as they do for the client.
//! A connection on which a client may not ask for a host is misdirected (RFC 9110, section 15.5.20).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::listener::Listener;

/// Whose hosts are whose, where it matters.
#[derive(Default)]
pub struct BoundHosts {
    exact: HashMap<Box<str>, Owners, ahash::RandomState>,
    /// By what follows `*.`, which stands for one label.
    wildcard: HashMap<Box<str>, Owners, ahash::RandomState>,
    /// By the listener that passes them on. Browsers ask one connection for all hosts that its certificate is for (RFC 9113, section
    /// 9.1.1), also for those that it does not lead to.
    passed: HashMap<Arc<str>, Passed, ahash::RandomState>,
}

#[derive(Default)]
struct Passed {
    exact: HashSet<Box<str>, ahash::RandomState>,
    /// What follows `*.`, which stands for one label or more.
    parents: HashSet<Box<str>, ahash::RandomState>,
}

impl Passed {
    fn contains(&self, host: &str) -> bool {
        let mut parents = memchr::memchr_iter(b'.', host.as_bytes()).filter_map(|dot| host.get(dot + 1..));
        self.exact.contains(host) || (!self.parents.is_empty() && parents.any(|parent| self.parents.contains(parent)))
    }
}

struct Owners {
    listeners: Vec<Arc<str>>,
    /// All of them require a client certificate.
    strict: bool,
}

impl BoundHosts {
    /// `None` if no listener requires a certificate, or none but that one listens.
    pub fn of<'a>(listeners: impl Iterator<Item = &'a Listener> + Clone) -> Option<BoundHosts> {
        if listeners.clone().count() < 2 || !listeners.clone().any(Listener::requires_certificate) {
            return None;
        }
        let mut bound = BoundHosts::default();
        for listener in listeners {
            for name in listener.tls.iter().flat_map(|tls| tls.names()) {
                let (map, name) =
                    name.strip_prefix("*.").map_or((&mut bound.exact, name), |parent| (&mut bound.wildcard, parent));
                let owners = map.entry(name.into()).or_insert_with(|| Owners { listeners: Vec::new(), strict: true });
                owners.listeners.push(listener.name.clone());
                owners.strict &= listener.requires_certificate();
            }
        }
        Some(bound)
    }

    /// Notes a host, or with `below` all under it, whose TLS this listener passes on.
    pub fn pass_on(&mut self, listener: &Arc<str>, host: &str, below: bool) {
        let passed = self.passed.entry(listener.clone()).or_default();
        if below {
            passed.parents.insert(host.into())
        } else {
            passed.exact.insert(host.into())
        };
    }

    /// Whether this host belongs to listeners that require a certificate, and this is none of them; or whether this listener
    /// passes it on.
    pub fn misdirected(&self, host: &str, listener: &str) -> bool {
        if self.passed.get(listener).is_some_and(|passed| passed.contains(host)) {
            return true;
        }
        let parent = || host.split_once('.').map_or("", |(_, parent)| parent);
        let owners = self.exact.get(host).or_else(|| self.wildcard.get(parent()));
        owners.is_some_and(|owners| owners.strict && !owners.listeners.iter().any(|owner| **owner == *listener))
    }
}
