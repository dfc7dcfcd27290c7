//! Where an endpoint is: an IP address with a port, or a Unix socket.
//!
//! Copied with every request, compared and hashed: no larger than an IP address with a port, and nothing to count references of. What
//! people write is read elsewhere.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::LazyLock;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

/// The longest name of a Unix socket in bytes: `sun_path` holds 108, and a path ends with a NUL (unix(7)).
pub const LONGEST_SOCKET_NAME: usize = 107;

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    Inet(SocketAddr),
    Unix(SocketName),
}

/// The name of a Unix socket: a path, or with a leading `@` a name in Linux's abstract namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName(&'static str);

/// Every name there ever was. Names come from the operator alone, who names few.
static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

impl SocketName {
    /// `None` for what names no socket: it is empty, too long, neither a path from the root nor abstract, or has a control character
    /// in it.
    pub fn new(name: &str) -> Option<Self> {
        let named = matches!(name.as_bytes(), [b'/' | b'@', _, ..]);
        if !named || name.len() > LONGEST_SOCKET_NAME || name.chars().any(char::is_control) {
            return None;
        }
        let mut names = NAMES.lock();
        let names = names.get_or_insert_default();
        let known = names.get(name).copied();
        Some(SocketName(known.unwrap_or_else(|| {
            let kept: &'static str = Box::leak(name.into());
            names.insert(kept);
            kept
        })))
    }

    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Without its `@`, if it is in the abstract namespace.
    pub fn as_abstract(self) -> Option<&'static str> {
        self.0.strip_prefix('@')
    }
}

impl EndpointAddress {
    /// `None` for a Unix socket.
    pub fn inet(self) -> Option<SocketAddr> {
        match self {
            EndpointAddress::Inet(address) => Some(address),
            EndpointAddress::Unix(_) => None,
        }
    }

    pub fn is_unix(self) -> bool {
        matches!(self, EndpointAddress::Unix(_))
    }
}

/// An address with its hash, which was made once: for the maps that every request looks into.
#[derive(Clone, Copy, Debug)]
pub struct HashedAddress {
    address: EndpointAddress,
    hash: u64,
}

impl HashedAddress {
    pub fn get(self) -> EndpointAddress {
        self.address
    }
}

impl From<EndpointAddress> for HashedAddress {
    fn from(address: EndpointAddress) -> Self {
        static HASHER: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
        HashedAddress { address, hash: HASHER.hash_one(address) }
    }
}

impl PartialEq for HashedAddress {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.address == other.address
    }
}

impl Eq for HashedAddress {}

impl Hash for HashedAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// For maps by [`HashedAddress`]: the hash is there already.
#[derive(Default)]
pub struct AsHashed(u64);

impl Hasher for AsHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl<A: Into<SocketAddr>> From<A> for EndpointAddress {
    fn from(address: A) -> Self {
        EndpointAddress::Inet(address.into())
    }
}

impl PartialEq<SocketAddr> for EndpointAddress {
    fn eq(&self, other: &SocketAddr) -> bool {
        *self == EndpointAddress::Inet(*other)
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.0)
    }
}

/// As people write it: `10.0.0.1:9001`, `[::1]:9001` or `unix:/run/app.sock`.
impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointAddress::Inet(address) => address.fmt(f),
            EndpointAddress::Unix(name) => name.fmt(f),
        }
    }
}

impl Serialize for EndpointAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_was_made_once_finds_the_same() {
        let address = |port: u16| HashedAddress::from(EndpointAddress::from(([127, 0, 0, 1], port)));
        let mut map: std::collections::HashMap<HashedAddress, u16, std::hash::BuildHasherDefault<AsHashed>> = Default::default();
        map.extend((1..500).map(|port| (address(port), port)));
        assert!((1..500).all(|port| map.get(&address(port)) == Some(&port)));
        assert!(
            !map.contains_key(&address(500))
                && address(1) != address(2)
                && address(1).get() == EndpointAddress::from(([127, 0, 0, 1], 1))
        );
    }

    #[test]
    fn is_no_larger_than_an_ip_address_with_its_port() {
        assert_eq!(size_of::<EndpointAddress>(), size_of::<SocketAddr>());
    }

    #[test]
    fn the_same_name_is_kept_once() {
        let (one, two) = (SocketName::new("/run/app.sock").unwrap(), SocketName::new("/run/app.sock").unwrap());
        assert!(one == two && std::ptr::eq(one.as_str(), two.as_str()));
        assert_eq!(EndpointAddress::Unix(one).to_string(), "unix:/run/app.sock");
        assert_eq!(SocketName::new("@app").unwrap().as_abstract(), Some("app"));
    }

    #[test]
    fn what_names_no_socket_is_refused() {
        let long = format!("/{}", "a".repeat(LONGEST_SOCKET_NAME));
        for name in ["", "/", "@", "run/app.sock", "/run/\0app", "/run/app\n", &long] {
            assert_eq!(SocketName::new(name), None, "{name:?}");
        }
        assert!(SocketName::new(&long[1..].replacen('a', "/", 1)).is_some());
    }
}
