//! The replay window: signatures that were taken already. In memory, for as long as a signature could be valid.
//!
//! Two generations of a set: the younger one takes what comes, and when it is a window old the older one is forgotten. So everything is
//! remembered for at least a window, and no more than is allowed: when both are full nothing more is taken, for a signature that is
//! not remembered could come twice.

use std::collections::HashMap;

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
}

#[derive(Default)]
struct Generations {
    young: HashMap<Mark, Bearer, ahash::RandomState>,
    old: HashMap<Mark, Bearer, ahash::RandomState>,
    /// Seconds since 1970.
    began: u64,
}

/// The signatures of one policy.
pub struct Window {
    seconds: u64,
    most: usize,
    generations: Mutex<Generations>,
}

impl Window {
    pub fn new(seconds: u64, most: usize) -> Self {
        Window { seconds, most, generations: Mutex::default() }
    }

    pub fn see(&self, mark: Mark, bearer: Bearer, now: u64) -> Seen {
        let mut generations = self.generations.lock();
        // A clock that was set back makes a generation live longer, never shorter.
        let age = now.saturating_sub(generations.began);
        if age > self.seconds {
            let young = std::mem::take(&mut generations.young);
            generations.old = if age > self.seconds.saturating_mul(2) { HashMap::default() } else { young };
            generations.began = now;
        }
        if let Some(known) = generations.young.get(&mark).or_else(|| generations.old.get(&mark)) {
            return if *known == bearer { Seen::First } else { Seen::Again };
        }
        if generations.young.len() + generations.old.len() >= self.most {
            return Seen::Full;
        }
        generations.young.insert(mark, bearer);
        Seen::First
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_for_a_window_and_never_more_than_it_may() {
        let window = Window::new(60, 3);
        let (one, two) = (
            Bearer { connection: 1, started: std::time::Instant::now() },
            Bearer { connection: 2, started: std::time::Instant::now() },
        );
        assert_eq!(window.see([1; 16], one, 1000), Seen::First);
        assert_eq!(window.see([1; 16], one, 1000), Seen::First, "the same request asks again");
        assert_eq!(window.see([1; 16], two, 1060), Seen::Again);
        assert_eq!(window.see([1; 16], two, 1061), Seen::Again, "of the older generation");
        assert_eq!(window.see([2; 16], two, 1061), Seen::First);
        assert_eq!(window.see([3; 16], two, 1061), Seen::First);
        assert_eq!(window.see([4; 16], two, 1061), Seen::Full);
        assert_eq!(window.see([4; 16], two, 1122), Seen::First, "the first one is forgotten");
        assert_eq!(window.see([2; 16], one, 1122), Seen::Again);
        assert_eq!(window.see([2; 16], one, 2000), Seen::First);
    }
}
