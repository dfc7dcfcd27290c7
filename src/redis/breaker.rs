//! Whether Redis is worth asking.
//!
//! After [`PATIENCE`] failures in a row nobody asks any more, but for one call at a time that finds out: after 50 ms at first, then after
//! twice as long each time up to half a second, each a quarter more or less, so that a fleet does not ask in step.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::redis::{Arg, Cmd};

/// Failures in a row that open the breaker.
const PATIENCE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Breakers of a Cluster, each for 16384 / 64 slots that follow each other. Nodes own ranges of slots.
pub(super) const CLUSTER: usize = 64;

/// Nanoseconds since the first call in this process, never 0.
pub(super) fn now() -> u64 {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanoseconds(BASE.elapsed()) + 1
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// The breaker in charge of the command's first key.
pub(super) fn of_slot(command: &Cmd) -> usize {
    let mut words = command.args_iter().filter_map(|word| match word {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    let name = words.next().unwrap_or_default();
    // EVALSHA digest 1 key ...
    let key = if name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"EVAL")) { words.nth(2) } else { words.next() };
    of_key(key.unwrap_or_default())
}

/// The breaker in charge of a key.
pub(super) fn of_key(key: &[u8]) -> usize {
    usize::from(slot(key)) * CLUSTER / SLOTS
}

const SLOTS: usize = 16_384;

/// The slot of a key (Redis Cluster specification, "Key distribution model"): the CRC16 (XMODEM) of its hash tag, or of all of it.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        rest.get(..rest.iter().position(|byte| *byte == b'}')?).filter(|tag| !tag.is_empty())
    });
    let mut crc = 0u16;
    for byte in tag.unwrap_or(key) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc % SLOTS as u16
}

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// In a row.
    failures: AtomicU32,
    /// When the next call may find out, in nanoseconds; 0 while closed.
    next: AtomicU64,
}

impl Breaker {
    /// Whether this call may ask. The one that finds out has until `deadline` before another may.
    pub fn lets_pass(&self, now: u64, deadline: Duration) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        if next == 0 {
            return true;
        }
        // Whoever is dropped while it asks is followed by the next.
        let after = now.saturating_add(nanoseconds(deadline + FIRST_PAUSE));
        now >= next && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether nobody may ask at the moment.
    pub fn is_open(&self, now: u64) -> bool {
        self.next.load(Ordering::Relaxed) > now
    }

    /// Whether it waits for somebody who finds out.
    pub fn is_tripped(&self) -> bool {
        self.next.load(Ordering::Relaxed) != 0
    }

    /// Counts a failure. Whether it opened the breaker.
    pub fn failed(&self, now: u64) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < PATIENCE {
            return false;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - PATIENCE).min(8)).min(LONGEST_PAUSE);
        // Between three and five quarters.
        let jitter = RandomState::new().hash_one(now) % 512;
        let pause = nanoseconds(pause) / 4 * 3 + nanoseconds(pause) / 1024 * jitter;
        self.next.swap(now.saturating_add(pause), Ordering::Relaxed) == 0
    }

    /// There was an answer. Whether that closed the breaker.
    pub fn answered(&self) -> bool {
        // Read first: as a rule there is nothing to write, and the line stays in every core's cache.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.next.load(Ordering::Relaxed) != 0 && self.next.swap(0, Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(10);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_find_out() {
        let breaker = Breaker::default();
        for _ in 0..PATIENCE - 1 {
            assert!(!breaker.failed(SECOND));
        }
        assert!(!breaker.answered());
        for _ in 0..PATIENCE - 1 {
            assert!(!breaker.failed(SECOND) && breaker.lets_pass(SECOND, DEADLINE));
        }
        assert!(breaker.failed(SECOND), "the fifth in a row");
        assert!(breaker.is_open(SECOND) && !breaker.lets_pass(SECOND, DEADLINE));
        let later = SECOND + SECOND / 10;
        assert!(breaker.lets_pass(later, DEADLINE), "one finds out");
        assert!(!breaker.lets_pass(later, DEADLINE), "and no other");
        assert!(!breaker.failed(later), "it was open already");
        assert!(breaker.lets_pass(later + SECOND, DEADLINE));
        assert!(breaker.answered());
        assert!(breaker.lets_pass(later, DEADLINE) && !breaker.answered());
    }

    #[test]
    fn the_pause_grows_up_to_a_bound() {
        let breaker = Breaker::default();
        (0..200).for_each(|_| {
            breaker.failed(SECOND);
        });
        let pause = breaker.next.load(Ordering::Relaxed) - SECOND;
        assert!((375_000_000..=625_000_000).contains(&pause), "{pause}");
    }

    #[test]
    fn who_gives_up_asking_is_followed_by_another() {
        let breaker = Breaker::default();
        (0..PATIENCE).for_each(|_| {
            breaker.failed(SECOND);
        });
        assert!(breaker.lets_pass(2 * SECOND, DEADLINE));
        assert!(!breaker.lets_pass(2 * SECOND + 50_000_000, DEADLINE));
        assert!(breaker.lets_pass(2 * SECOND + 60_000_000, DEADLINE));
    }

    #[test]
    fn a_clusters_breakers_go_by_the_first_key() {
        let of = |words: &[&str]| {
            let mut command = Cmd::new();
            words.iter().for_each(|word| {
                command.arg(word);
            });
            of_slot(&command)
        };
        // As `CLUSTER KEYSLOT` says.
        assert_eq!([slot(b"foo"), slot(b"123456789"), slot(b"a{foo}{b}")], [12_182, 12_739, 12_182]);
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
        assert_eq!(of(&["GET", "foo"]), 12_182 * 64 / 16_384);
        assert_eq!(of(&["EVALSHA", "0000", "1", "{foo}:x", "7"]), of(&["GET", "foo"]));
        assert!(of(&["PING"]) < CLUSTER);
    }
}
