//! Which sessions go where, for those that no cookie of the gateway's own tells of.
//!
//! Bounded, and shared by all workers: a client's connections are taken by any of them. What a session is known by is not kept, only a
//! hash of it under a key of this process.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Id;

/// Sessions, each with its endpoint.
pub struct Table {
    sessions: Cache<u64, Entry>,
    hasher: ahash::RandomState,
    /// After so many seconds without a request a session is forgotten.
    idle: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    id: Id,
    /// In seconds after [`now`]'s first call.
    seen: u32,
}

/// What a session's name is made of.
pub struct Name<H>(H);

impl<H: Hasher> Name<H> {
    pub fn text(&mut self, text: &[u8]) {
        self.0.write_u64(text.len() as u64);
        self.0.write(text);
    }
}

impl Table {
    pub fn new(most: usize, idle: Duration) -> Self {
        let idle = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
        Table { sessions: Cache::new(most), hasher: ahash::RandomState::new(), idle }
    }

    /// What a session is known by.
    pub fn name(&self, tell: impl FnOnce(&mut Name<ahash::AHasher>)) -> u64 {
        let mut name = Name(self.hasher.build_hasher());
        tell(&mut name);
        name.0.finish()
    }

    /// Where the session goes. It is as young as a new one by it.
    pub fn find(&self, name: u64) -> Option<Id> {
        self.find_at(name, now())
    }

    pub fn bind(&self, name: u64, id: Id) {
        self.sessions.insert(name, Entry { id, seen: now() });
    }

    pub fn forget(&self, name: u64) {
        self.sessions.remove(&name);
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    fn find_at(&self, name: u64, now: u32) -> Option<Id> {
        let Entry { id, seen } = self.sessions.get(&name)?;
        let idle = now.saturating_sub(seen);
        if idle > self.idle {
            self.sessions.remove(&name);
            return None;
        }
        // Not with every request: it is a write that all workers share.
        if idle > self.idle / 16 {
            self.sessions.insert(name, Entry { id, seen: now });
        }
        Some(id)
    }
}

fn now() -> u32 {
    static START: OnceLock<Instant> = OnceLock::new();
    u32::try_from(START.get_or_init(Instant::now).elapsed().as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(most: usize, idle: u64) -> Table {
        now();
        Table::new(most, Duration::from_secs(idle))
    }

    #[test]
    fn sessions_age_unless_they_are_used() {
        let table = table(100, 100);
        let name = table.name(|name| name.text(b"s"));
        table.bind(name, 7);
        assert_eq!(table.find_at(name, 90), Some(7));
        assert_eq!(table.find_at(name, 190), Some(7));
        assert_eq!(table.find_at(name, 291), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let table = table(100, 100);
        (0..10_000).for_each(|name| table.bind(name, 1));
        assert!(table.len() <= 100, "{}", table.len());
    }

    #[test]
    fn names_that_only_look_alike_differ() {
        let table = table(1, 1);
        let name = |texts: &[&[u8]]| table.name(|name| texts.iter().for_each(|text| name.text(text)));
        assert_ne!(name(&[b"ab", b"c"]), name(&[b"a", b"bc"]));
        assert_eq!(name(&[b"ab"]), name(&[b"ab"]));
    }
}
