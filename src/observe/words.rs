//! Counters named by pairs of static words, found without a lock.
//!
//! An append-only hash table of fixed size. The words come from the program's text, so their number is bounded already; the
//! fixed size makes sure of it. What finds no place is counted under `other`, `other`.

use std::sync::OnceLock;

use crate::tally::shard::Counter;

/// How many neighbouring places are tried.
const PROBES: usize = 16;

type Pair = (&'static str, &'static str);

#[derive(Debug)]
pub struct Words {
    places: Box<[OnceLock<(Pair, Counter)>]>,
    overflow: Counter,
}

impl Words {
    /// `capacity`: the most pairs; takes about 60 bytes each from the start.
    pub fn new(capacity: usize) -> Self {
        Words { places: std::iter::repeat_with(OnceLock::new).take(capacity.max(1)).collect(), overflow: Counter::default() }
    }

    /// The pair's counter. By content, not by address: the compiler may keep two copies of one word.
    #[inline]
    pub fn counter(&self, first: &'static str, second: &'static str) -> &Counter {
        let start = mixed(first, second) as usize % self.places.len();
        for at in start..start + PROBES.min(self.places.len()) {
            // Behind the last place comes the first.
            let at = if at < self.places.len() { at } else { at - self.places.len() };
            let Some(place) = self.places.get(at) else { break };
            let ((known_first, known_second), counter) = place.get_or_init(|| ((first, second), Counter::default()));
            if is_same(known_first, first) && is_same(known_second, second) {
                return counter;
            }
        }
        &self.overflow
    }

    /// Every pair that was ever asked for, and its count.
    pub fn counts(&self) -> Vec<(Pair, u64)> {
        let overflow = self.overflow.sum();
        let overflow = (overflow > 0).then_some((("other", "other"), overflow));
        self.places.iter().filter_map(OnceLock::get).map(|(pair, counter)| (*pair, counter.sum())).chain(overflow).collect()
    }
}

/// Where a search begins. Every refusal searches twice, and no client chooses these words: their ends and lengths tell them apart well
/// enough, and what meets in one place lies in the next.
fn mixed(first: &str, second: &str) -> u64 {
    let part = |word: &str| {
        let end = match word.as_bytes().last_chunk::<8>() {
            Some(end) => u64::from_le_bytes(*end),
            None => word.bytes().fold(0, |end, byte| (end << 8) | u64::from(byte)),
        };
        end.wrapping_add(word.len() as u64)
    };
    let product = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product(product(part(first)) ^ part(second)) >> 32
}

/// Mostly the very same text, which needs no comparing.
fn is_same(one: &'static str, other: &'static str) -> bool {
    std::ptr::eq(one, other) || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_share_a_counter() {
        let words = Words::new(512);
        let copy: &'static str = String::from("expired").leak();
        words.counter("jwt", "expired").add(1);
        words.counter("jwt", copy).add(1);
        words.counter("jwt", "missing").add(1);
        let mut counts = words.counts();
        counts.sort();
        assert_eq!(counts, [(("jwt", "expired"), 2), (("jwt", "missing"), 1)]);
    }

    #[test]
    fn the_number_of_pairs_is_bounded() {
        let words = Words::new(8);
        for n in 0..1_000 {
            words.counter("policy", n.to_string().leak()).add(1);
        }
        let counts = words.counts();
        assert!(counts.len() <= 9);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert!(counts.contains(&(("other", "other"), 992)));
    }
}
