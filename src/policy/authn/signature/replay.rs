//! The replay window: signed requests that were taken already. In memory, for as long as their signatures could be valid.
//!
//! There is one window for the process, with a shelf for each policy: whatever a reload does to a policy (another `max_age`, another
//! place), what was taken stays taken. A shelf has two generations of a set: the younger one takes what comes, and when it is a
//! policy's window old the older one is forgotten. So everything is remembered for at least that long, and no more than is allowed:
//! when both are full nothing more is taken, for a signature that is not remembered could come twice. For the same reason none is
//! taken that is older than the memory itself: than the process, or than what was forgotten before a reload that has longer patience.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What is remembered under: a digest.
pub type Mark = [u8; 16];

/// Which request brought it. The same request may ask twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearer {
    pub connection: usize,
    pub started: std::time::Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    First,
    Again,
    Full,
    /// It is so old that it may have been taken before anything was remembered.
    Unknown,
}

/// A signature that was found good.
pub struct Signed {
    pub mark: Mark,
    pub bearer: Bearer,
    /// In seconds since 1970, as the client says.
    pub created: u64,
    /// How far ahead the client's clock may be, in seconds.
    pub skew: u64,
}

/// What one policy remembers.
pub struct Seat {
    window: Arc<Window>,
    scope: Arc<str>,
    /// How long a signature can be valid, in seconds.
    seconds: u64,
    /// How many are remembered.
    most: usize,
}

struct Shelf {
    /// Ends with the last policy of this scope. What it took stays for as long as it matters.
    scope: Weak<str>,
    young: HashMap<Mark, Bearer, ahash::RandomState>,
    old: HashMap<Mark, Bearer, ahash::RandomState>,
    /// When the younger generation began, in seconds since 1970.
    began: u64,
    /// What was taken before this second may be forgotten.
    forgotten: u64,
}

struct Shelves {
    /// What was taken before this second, another process took.
    start: u64,
    shelves: Vec<Shelf>,
}

/// The signatures of all policies.
pub struct Window(Mutex<Shelves>);

/// A shelf that nobody uses any more is of no use after this many seconds: twice the longest that a signature can be valid.
const LONGEST: u64 = 4 * 86_400;

impl Window {
    /// `start` is now, in seconds since 1970.
    pub fn new(start: u64) -> Self {
        Window(Mutex::new(Shelves { start, shelves: Vec::new() }))
    }

    /// What the policy of that scope remembers, for as long as a signature can be valid (`seconds`) and up to `most` of them.
    pub fn seat(self: Arc<Self>, scope: &str, seconds: u64, most: usize, now: u64) -> Seat {
        let scope = self.0.lock().join(scope, now);
        Seat { window: self, scope, seconds, most }
    }
}

impl Shelves {
    fn join(&mut self, scope: &str, now: u64) -> Arc<str> {
        self.shelves.retain(|shelf| shelf.scope.strong_count() > 0 || now.saturating_sub(shelf.began) <= LONGEST);
        if let Some(known) = self.shelves.iter().find_map(|shelf| shelf.scope.upgrade().filter(|known| **known == *scope)) {
            return known;
        }
        // It may be another one's successor, under another name.
        let forgotten = self.shelves.iter().map(|shelf| shelf.forgotten).max().unwrap_or_default();
        let scope: Arc<str> = scope.into();
        self.shelves.push(Shelf {
            scope: Arc::downgrade(&scope),
            young: HashMap::default(),
            old: HashMap::default(),
            began: now,
            forgotten,
        });
        scope
    }
}

impl Seat {
    /// Takes a signature, if it was not taken before. `now` in seconds since 1970.
    pub fn see(&self, signed: &Signed, now: u64) -> Seen {
        let mut window = self.window.0.lock();
        // After a clock was set back nothing would be taken until it is where it was.
        window.start = window.start.min(now);
        let start = window.start;
        let own = |shelf: &Shelf| std::ptr::addr_eq(shelf.scope.as_ptr(), Arc::as_ptr(&self.scope));
        let Some(at) = window.shelves.iter().position(own) else { return Seen::Full };
        if let Some(shelf) = window.shelves.get_mut(at) {
            shelf.turn(self.seconds, now);
        }
        let known = |shelf: &Shelf| shelf.young.get(&signed.mark).or_else(|| shelf.old.get(&signed.mark)).copied();
        if let Some(known) = window.shelves.iter().find_map(known) {
            return if known == signed.bearer { Seen::First } else { Seen::Again };
        }
        let Some(shelf) = window.shelves.get_mut(at) else { return Seen::Full };
        if signed.created < start || signed.created.saturating_sub(signed.skew) < shelf.forgotten {
            return Seen::Unknown;
        }
        if shelf.young.len() + shelf.old.len() >= self.most {
            return Seen::Full;
        }
        shelf.young.insert(signed.mark, signed.bearer);
        Seen::First
    }
}

impl Shelf {
    /// Forgets what is too old to matter to a policy with that window.
    fn turn(&mut self, seconds: u64, now: u64) {
        if now < self.forgotten {
            self.forgotten = now.saturating_sub(seconds);
        }
        // A clock that was set back makes a generation live longer, never shorter.
        let age = now.saturating_sub(self.began);
        if age <= seconds {
            return;
        }
        let young = std::mem::take(&mut self.young);
        (self.old, self.forgotten) = if age > seconds.saturating_mul(2) {
            (HashMap::default(), self.forgotten.max(now.saturating_sub(seconds)))
        } else {
            (young, self.forgotten.max(self.began))
        };
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: u64 = 10;

    struct Lab(Arc<Window>);

    impl Lab {
        fn new(start: u64) -> Lab {
            Lab(Arc::new(Window::new(start)))
        }

        fn seat(&self, scope: &str, seconds: u64, now: u64) -> Seat {
            self.0.clone().seat(scope, seconds, 100, now)
        }
    }

    fn signed(mark: u8, connection: usize, created: u64) -> Signed {
        let started = std::time::Instant::now();
        let bearer = Bearer { connection, started };
        Signed { mark: [mark; 16], bearer, created, skew: SKEW }
    }

    #[test]
    fn remembers_for_a_window_and_never_more_than_it_may() {
        let seat = Lab::new(0).0.seat("a", 60, 3, 1000);
        let one = signed(1, 1, 1000);
        let see = |mark, now| seat.see(&signed(mark, 2, now), now);
        assert_eq!(seat.see(&one, 1000), Seen::First);
        assert_eq!(seat.see(&one, 1000), Seen::First, "the same request asks again");
        assert_eq!(see(1, 1060), Seen::Again);
        assert_eq!(see(1, 1061), Seen::Again, "of the older generation");
        assert_eq!(see(2, 1061), Seen::First);
        assert_eq!(see(3, 1061), Seen::First);
        assert_eq!(see(4, 1061), Seen::Full);
        assert_eq!(see(4, 1122), Seen::First, "the first one is forgotten");
        assert_eq!(see(2, 1122), Seen::Again);
        assert_eq!(see(2, 2000), Seen::First);
    }

    #[test]
    fn what_is_older_than_the_process_is_not_taken() {
        let seat = Lab::new(1000).seat("a", 60, 1000);
        assert_eq!(seat.see(&signed(1, 1, 999), 1001), Seen::Unknown);
        assert_eq!(seat.see(&signed(1, 1, 1000), 1001), Seen::First);
        assert_eq!(seat.see(&signed(2, 1, 501), 501), Seen::First, "the clock was set back");
    }

    #[test]
    fn a_policy_that_moves_or_changes_its_patience_remembers_what_was_taken() {
        let lab = Lab::new(0);
        let seat = lab.seat("global", 60, 1000);
        assert_eq!(seat.see(&signed(1, 1, 1000), 1000), Seen::First);
        let patient = lab.seat("global", 3600, 1010);
        assert_eq!(patient.see(&signed(1, 2, 1000), 1010), Seen::Again);
        drop((seat, patient));
        let moved = lab.seat("route:/a", 3600, 1020);
        assert_eq!(moved.see(&signed(1, 2, 1000), 1020), Seen::Again);
        assert_eq!(lab.seat("route:/b", 60, 1030).see(&signed(1, 3, 1000), 1030), Seen::Again);
    }

    #[test]
    fn what_was_forgotten_is_not_taken_when_patience_grows() {
        let lab = Lab::new(0);
        let seat = lab.seat("a", 60, 1000);
        assert_eq!(seat.see(&signed(1, 1, 1000), 1000), Seen::First);
        for now in (1030..1400).step_by(30) {
            assert_eq!(seat.see(&signed((now / 30) as u8, 1, now - 49), now), Seen::First, "nothing that is timely is refused");
        }
        for (mark, scope) in [(200, "a"), (201, "b")] {
            let patient = lab.seat(scope, 3600, 1400);
            assert_eq!(patient.see(&signed(1, 2, 1000), 1400), Seen::Unknown);
            assert_eq!(patient.see(&signed(mark, 2, 1399), 1400), Seen::First);
        }
    }
}
