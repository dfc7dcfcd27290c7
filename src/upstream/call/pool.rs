//! Idle connections over HTTP/1.1, one pool per worker.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::h1::Line;
use crate::address::{AsHashed, EndpointAddress, HashedAddress};
use crate::upstream::{Service, Trust};

/// How often connections that were idle too long are closed.
pub const SWEEP: Duration = Duration::from_secs(5);

/// What two connections have in common if one is as good as the other.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Plain(HashedAddress),
    Tls(HashedAddress, Trust),
}

impl Key {
    pub fn address(&self) -> EndpointAddress {
        match self {
            Key::Plain(address) | Key::Tls(address, _) => address.get(),
        }
    }
}

/// The idle connections of one worker. Plain ones and those over TLS are apart, so that none is ever taken for one of the others.
#[derive(Default)]
pub struct Pool {
    plain: Shelf<HashedAddress, BuildHasherDefault<AsHashed>>,
    tls: Shelf<(HashedAddress, Trust), ahash::RandomState>,
}

impl Pool {
    /// The connection of that kind that was used last, if there is one that still stands.
    pub fn take(&self, key: &Key) -> Option<Box<Line>> {
        match key {
            Key::Plain(address) => self.plain.take(address),
            Key::Tls(address, trust) => self.tls.take(&(*address, trust.clone())),
        }
    }

    /// Keeps a connection for the next request, unless there are enough.
    pub fn keep(&self, connection: Box<Line>, key: Key, service: &Service) {
        match key {
            Key::Plain(address) => self.plain.keep(connection, address, service),
            Key::Tls(address, trust) => self.tls.keep(connection, (address, trust), service),
        }
    }

    /// Tells how many there are to each address.
    pub fn count(&self, tell: &mut impl FnMut(EndpointAddress, usize)) {
        self.plain.count(|address| address.get(), tell);
        self.tls.count(|(address, _)| address.get(), tell);
    }

    /// Closes what has been idle too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.plain.sweep(now);
        self.tls.sweep(now);
    }
}

/// Connections of one kind. The lock is hardly ever contended: only this worker's tasks take it, and whoever wants to know how many there
/// are.
struct Shelf<K, S> {
    idle: Mutex<HashMap<K, Vec<Kept>, S>>,
}

struct Kept {
    connection: Box<Line>,
    until: Instant,
}

impl<K, S: Default> Default for Shelf<K, S> {
    fn default() -> Self {
        Shelf { idle: Mutex::default() }
    }
}

impl<K: Eq + Hash, S: BuildHasher> Shelf<K, S> {
    fn take(&self, key: &K) -> Option<Box<Line>> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(key)?;
        while let Some(Kept { mut connection, .. }) = kept.pop() {
            if connection.is_silent() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Box<Line>, key: K, service: &Service) {
        let mut idle = self.idle.lock();
        let kept = idle.entry(key).or_default();
        if kept.len() < service.keep_alive {
            kept.push(Kept { connection, until: Instant::now() + service.timeouts.idle });
        }
    }

    fn count(&self, address: impl Fn(&K) -> EndpointAddress, tell: &mut impl FnMut(EndpointAddress, usize)) {
        self.idle.lock().iter().for_each(|(key, kept)| tell(address(key), kept.len()));
    }

    fn sweep(&self, now: Instant) {
        self.idle.lock().retain(|_, kept| {
            kept.retain(|kept| kept.until > now);
            !kept.is_empty()
        });
    }
}
