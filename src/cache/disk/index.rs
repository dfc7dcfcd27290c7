//! Where each answer stands on disk. In memory alone: it is made anew of what is there when the folder is opened.
//!
//! Of an entry it has 32 bytes, about 50 with what the tables keep free: the 16 bytes of its key's hash, where it is, how long, and
//! whether it was asked for. It is a hint: the record has the key.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use super::record::Place;
use crate::cache::entry::{Index as Key, VARIANTS};

/// So many that none is locked for long, even where its table grows.
const SHARDS: usize = 1024;
/// Of nothing else.
const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// A key's place among the places of all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot(u128);

impl Slot {
    /// Those of a key's variants.
    pub(super) fn variants(key: &Key) -> impl Iterator<Item = Slot> + use<> {
        let primary = key.primary;
        (0..VARIANTS).map(move |first| {
            let mut variance = [0; 16];
            variance.iter_mut().take(1).for_each(|byte| *byte = first);
            Slot::of(&Key { primary, variance: Some(variance) })
        })
    }

    pub(super) fn of(key: &Key) -> Self {
        let key = key.slot();
        let primary = u128::from_le_bytes(key.primary);
        Slot(match key.variance {
            None => primary,
            Some([first, ..]) => primary.wrapping_add((u128::from(first) + 1).wrapping_mul(ODD)),
        })
    }
}

#[derive(Clone, Copy)]
struct Held {
    place: Place,
    was_hit: bool,
}

#[derive(Default)]
struct Shard {
    held: HashMap<Slot, Held, ahash::RandomState>,
    /// What waits to be written there.
    pending: HashMap<Slot, u64, ahash::RandomState>,
    /// Forgotten before it was known whether there is anything on disk.
    barred: HashSet<Slot, ahash::RandomState>,
}

/// See the module.
pub(super) struct Index {
    shards: Box<[Mutex<Shard>]>,
    /// Of all that is held.
    count: AtomicUsize,
}

impl Index {
    pub(super) fn new() -> Self {
        Index { shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(), count: AtomicUsize::new(0) }
    }

    fn with<T>(&self, slot: Slot, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let shard = self.shards.get((slot.0 >> 64) as usize % SHARDS)?;
        Some(self.counted(shard, work))
    }

    fn counted<T>(&self, shard: &Mutex<Shard>, work: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = shard.lock();
        let before = shard.held.len();
        let done = work(&mut shard);
        if shard.held.len() != before {
            // It wraps where there are fewer now.
            self.count.fetch_add(shard.held.len().wrapping_sub(before), Ordering::Relaxed);
        }
        done
    }

    pub(super) fn find(&self, slot: Slot) -> Option<Place> {
        self.with(slot, |shard| {
            let held = shard.held.get_mut(&slot)?;
            held.was_hit = true;
            Some(held.place)
        })
        .flatten()
    }

    /// As [`Index::find`], but nobody wants it.
    pub(super) fn peek(&self, slot: Slot) -> Option<Place> {
        self.with(slot, |shard| shard.held.get(&slot).map(|held| held.place)).flatten()
    }

    pub(super) fn is_at(&self, slot: Slot, place: Place) -> bool {
        self.peek(slot) == Some(place)
    }

    /// Something will be written there. What stands there now does not count any more.
    pub(super) fn expect(&self, slot: Slot, ticket: u64, bars: bool) -> Option<Place> {
        self.with(slot, |shard| {
            shard.pending.insert(slot, ticket);
            if bars {
                shard.barred.insert(slot);
            }
            shard.held.remove(&slot)
        })
        .flatten()
        .map(|held| held.place)
    }

    /// It was written. `false` if it was forgotten meanwhile, or something else is to be written there.
    pub(super) fn settle(&self, slot: Slot, ticket: u64, place: Place) -> bool {
        self.with(slot, |shard| {
            if shard.pending.get(&slot) != Some(&ticket) {
                return false;
            }
            shard.pending.remove(&slot);
            shard.held.insert(slot, Held { place, was_hit: false });
            true
        })
        .unwrap_or(false)
    }

    /// It was not written.
    pub(super) fn abandon(&self, slot: Slot, ticket: u64) {
        self.with(slot, |shard| {
            if shard.pending.get(&slot) == Some(&ticket) {
                shard.pending.remove(&slot);
            }
        });
    }

    /// Nothing is there any more. What was. `bars`: nor is what may be found there yet.
    pub(super) fn forget(&self, slot: Slot, bars: bool) -> Option<Place> {
        self.with(slot, |shard| {
            shard.pending.remove(&slot);
            if bars {
                shard.barred.insert(slot);
            }
            shard.held.remove(&slot)
        })
        .flatten()
        .map(|held| held.place)
    }

    /// Forgets what is there if it is this. Whether it was.
    pub(super) fn forget_place(&self, slot: Slot, place: Place) -> bool {
        self.with(slot, |shard| {
            let is = shard.held.get(&slot).is_some_and(|held| held.place == place);
            if is {
                shard.held.remove(&slot);
            }
            is
        })
        .unwrap_or(false)
    }

    /// Found on disk. The later one counts; gives back what does not.
    pub(super) fn found(&self, slot: Slot, place: Place) -> SmallVec<[Place; 2]> {
        let found = self.with(slot, |shard| {
            if shard.barred.contains(&slot) || shard.pending.contains_key(&slot) {
                return smallvec![place];
            }
            match shard.held.get_mut(&slot) {
                Some(held) if held.place == place => smallvec![],
                Some(held) if held.place.is_long() != place.is_long() => {
                    // Of a segment and a file of its own it cannot be told which was written to later.
                    let known = held.place;
                    shard.held.remove(&slot);
                    shard.barred.insert(slot);
                    smallvec![known, place]
                }
                Some(held) if held.place > place => smallvec![place],
                Some(held) => smallvec![std::mem::replace(held, Held { place, was_hit: false }).place],
                None => {
                    shard.held.insert(slot, Held { place, was_hit: false });
                    smallvec![]
                }
            }
        });
        found.unwrap_or_default()
    }

    /// All that there is on disk was found.
    pub(super) fn is_complete(&self) {
        self.shards.iter().for_each(|shard| shard.lock().barred = HashSet::default());
    }

    /// Whether what is there was asked for since it was written; `None` if it is not there.
    pub(super) fn was_hit(&self, slot: Slot, place: Place) -> Option<bool> {
        self.with(slot, |shard| shard.held.get(&slot).filter(|held| held.place == place).map(|held| held.was_hit)).flatten()
    }

    /// It stands somewhere else now. Whether it was still there.
    pub(super) fn moved(&self, slot: Slot, from: Place, to: Place) -> bool {
        self.with(slot, |shard| match shard.held.get_mut(&slot) {
            Some(held) if held.place == from => {
                *held = Held { place: to, was_hit: false };
                true
            }
            _ => false,
        })
        .unwrap_or(false)
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            self.counted(shard, |shard| {
                shard.held.clear();
                shard.pending.clear();
            });
        }
    }

    /// Forgets all that stands in segments before this one. How many that were.
    pub(super) fn forget_before(&self, segment: u32) -> u64 {
        let forget = |shard: &mut Shard| {
            let before = shard.held.len();
            shard.held.retain(|_, held| held.place.segment >= segment || held.place.is_long());
            (before - shard.held.len()) as u64
        };
        self.shards.iter().map(|shard| self.counted(shard, forget)).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u32, offset: u32) -> Place {
        Place { segment, offset, length: 100 }
    }

    #[test]
    fn an_entry_has_32_bytes() {
        assert_eq!(std::mem::size_of::<(Slot, Held)>(), 32);
    }

    #[test]
    fn what_was_forgotten_while_it_waited_is_not_there() {
        let (index, slot) = (Index::new(), Slot(1 << 70));
        assert_eq!(index.expect(slot, 1, false), None);
        assert_eq!(index.find(slot), None);
        assert!(index.settle(slot, 1, place(1, 0)));
        assert_eq!(index.find(slot), Some(place(1, 0)));
        assert_eq!(index.expect(slot, 2, false), Some(place(1, 0)));
        assert_eq!(index.forget(slot, false), None);
        assert!(!index.settle(slot, 2, place(1, 100)));
        // Nor is what another one has overtaken.
        index.expect(slot, 3, false);
        index.expect(slot, 4, false);
        assert!(!index.settle(slot, 3, place(1, 200)) && index.settle(slot, 4, place(1, 300)));
        assert_eq!(index.find(slot), Some(place(1, 300)));
        assert!(!index.forget_place(slot, place(1, 0)) && index.forget_place(slot, place(1, 300)));
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn what_stood_in_segments_that_have_gone_is_forgotten() {
        let index = Index::new();
        for number in 0..100 {
            index.found(Slot(u128::from(number) << 64), place(number / 10, number));
        }
        assert_eq!((index.len(), index.forget_before(3), index.len()), (100, 30, 70));
        assert_eq!(index.peek(Slot(30 << 64)), Some(place(3, 30)));
        index.clear();
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn of_what_is_found_the_last_counts_and_nothing_that_was_forgotten() {
        let (index, slot) = (Index::new(), Slot(7));
        let found = |at| index.found(slot, at).to_vec();
        assert_eq!(found(place(2, 50)), []);
        assert_eq!(found(place(2, 0)), [place(2, 0)]);
        assert_eq!(found(place(3, 0)), [place(2, 50)]);
        index.forget(slot, true);
        assert_eq!(found(place(4, 0)), [place(4, 0)]);
        assert_eq!(index.find(slot), None);
        index.is_complete();
        // Which of these was written last, nobody knows.
        assert_eq!(found(place(7, Place::LONG)), []);
        assert_eq!(found(place(6, 0)), [place(7, Place::LONG), place(6, 0)]);
        assert_eq!(found(place(5, 0)), [place(5, 0)]);
        index.is_complete();
        assert_eq!(found(place(4, 0)), []);
        assert_eq!(index.was_hit(slot, place(4, 0)), Some(false));
        index.find(slot);
        assert_eq!(index.was_hit(slot, place(4, 0)), Some(true));
        assert!(index.moved(slot, place(4, 0), place(5, 0)) && !index.moved(slot, place(4, 0), place(6, 0)));
    }
}
