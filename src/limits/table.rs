//! One shard's memory: an open-addressed table of buckets that grows, shrinks and forgets a few slots at a time.
//!
//! A library's hash map would do for lookups, but it moves all its entries at once when it grows, cannot be sampled, and can only be
//! swept whole; each of these is a pause on some request's path. Here every operation does a bounded amount of work.
//!
//! Deliberately not here: locks, and what a state means.

use super::rule::State;

/// Slots that are moved per operation while the table changes its size. Growth doubles at three quarters, so the move is over after
/// `slots / 16` operations, long before the new table can fill up.
const MOVE: usize = 16;
/// Slots that are looked at for expired entries per new key.
const SWEEP: usize = 8;
/// Live entries that are compared when one has to go.
const SAMPLE: usize = 8;
const SMALLEST: usize = 16;

const EMPTY: u8 = 0;
/// Was moved to the new table. Only in a table that is being emptied.
const MOVED: u8 = 1;
/// The first `kind` that a key may have.
pub const FIRST_KIND: u8 = 2;

/// What a bucket is kept under: all of it is stored and compared, so two keys never share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawKey {
    /// At least [`FIRST_KIND`]: how `bits` are to be read, so that an address is never a name.
    pub kind: u8,
    pub bits: [u64; 2],
}

/// What is remembered of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// From when on it can be forgotten, and 48 bits more.
    pub state: State,
    /// Under which rule it was written.
    pub epoch: u8,
}

/// Key and cell in 32 bytes. Plain words, because a vector of zeroed words comes from the allocator without being written to.
type Slot = [u64; 4];

fn pack(key: RawKey, cell: Cell) -> Slot {
    let [low, high] = key.bits;
    [low, high, cell.state.until, cell.state.rest << 16 | u64::from(cell.epoch) << 8 | u64::from(key.kind)]
}

fn kind(slot: &Slot) -> u8 {
    slot[3] as u8
}

fn key(slot: &Slot) -> RawKey {
    RawKey { kind: kind(slot), bits: [slot[0], slot[1]] }
}

fn cell(slot: &Slot) -> Cell {
    Cell { state: State { until: slot[2], rest: slot[3] >> 16 }, epoch: (slot[3] >> 8) as u8 }
}

/// Linear probing in a power of two.
struct Slots {
    slots: Vec<Slot>,
    len: usize,
}

impl Slots {
    fn new(size: usize) -> Self {
        Slots { slots: vec![[0; 4]; size], len: 0 }
    }

    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    fn at(&self, index: usize) -> Slot {
        self.slots.get(index).copied().unwrap_or_default()
    }

    fn put(&mut self, index: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
        }
    }

    fn find(&self, hash: u64, wanted: RawKey) -> Option<usize> {
        let mut index = hash as usize & self.mask();
        // The bound is for a table without any empty slot, which the load factor rules out.
        for _ in 0..self.slots.len() {
            let slot = self.slots.get(index)?;
            if kind(slot) == EMPTY {
                return None;
            }
            if key(slot) == wanted {
                return Some(index);
            }
            index = (index + 1) & self.mask();
        }
        None
    }

    /// The key is not in the table, and there is room.
    fn insert(&mut self, hash: u64, slot: Slot) {
        let mut index = hash as usize & self.mask();
        for _ in 0..self.slots.len() {
            if kind(&self.at(index)) == EMPTY {
                self.put(index, slot);
                self.len += 1;
                return;
            }
            index = (index + 1) & self.mask();
        }
    }

    /// Takes an entry out and closes the gap, so that no tombstones pile up.
    fn remove(&mut self, index: usize, hash_of: impl Fn(RawKey) -> u64) {
        let mask = self.mask();
        let (mut gap, mut next) = (index, (index + 1) & mask);
        while kind(&self.at(next)) != EMPTY && next != index {
            let slot = self.at(next);
            let home = hash_of(key(&slot)) as usize & mask;
            // It may move back as far as its home.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.put(gap, slot);
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.put(gap, [0; 4]);
        self.len -= 1;
    }
}

/// A table of at most `max` buckets.
pub struct Table {
    now: Slots,
    /// The table of another size that is being emptied into `now`, and how far that has come.
    before: Option<(Slots, usize)>,
    /// Where the sweep goes on.
    hand: usize,
    max: usize,
}

impl Table {
    pub fn new(max: usize) -> Self {
        Table { now: Slots::new(0), before: None, hand: 0, max: max.max(1) }
    }

    pub fn len(&self) -> usize {
        self.now.len + self.before.as_ref().map_or(0, |(before, _)| before.len)
    }

    pub fn get(&self, hash: u64, key: RawKey) -> Option<Cell> {
        let found = self.now.find(hash, key).map(|index| self.now.at(index));
        let found = found.or_else(|| {
            let (before, _) = self.before.as_ref()?;
            before.find(hash, key).map(|index| before.at(index))
        });
        found.map(|slot| cell(&slot))
    }

    /// Runs `update` on the key's cell, if there is one. `None` from `update` leaves the cell as it is.
    pub fn update(&mut self, hash: u64, key: RawKey, update: impl FnOnce(Cell) -> Option<Cell>) -> bool {
        if let Some(index) = self.now.find(hash, key) {
            if let Some(cell) = update(cell(&self.now.at(index))) {
                self.now.put(index, pack(key, cell));
            }
            return true;
        }
        let Some((before, _)) = self.before.as_mut() else { return false };
        let Some(index) = before.find(hash, key) else { return false };
        if let Some(cell) = update(cell(&before.at(index))) {
            before.put(index, pack(key, cell));
        }
        true
    }

    /// Adds a key that is not there. Entries whose moment is not after `now` are forgotten on the way; when the table is full all the
    /// same, the one of a small sample that is nearest to full makes room. Returns whether a live entry had to.
    pub fn insert(&mut self, hash: u64, key: RawKey, cell: Cell, now: u64, hash_of: impl Fn(RawKey) -> u64 + Copy) -> bool {
        self.sweep(now, hash_of);
        let evicted = self.len() >= self.max && self.evict(hash_of);
        if (self.now.len + 1) * 4 > self.now.slots.len() * 3 {
            self.resize((self.now.slots.len() * 2).max(SMALLEST), hash_of);
        }
        self.now.insert(hash, pack(key, cell));
        evicted
    }

    /// A few slots' worth of the move to a table of another size.
    pub fn advance(&mut self, hash_of: impl Fn(RawKey) -> u64) {
        if self.before.is_some() {
            self.transfer(MOVE, hash_of);
        }
    }

    fn transfer(&mut self, slots: usize, hash_of: impl Fn(RawKey) -> u64) {
        let Some((before, at)) = self.before.as_mut() else { return };
        let end = at.saturating_add(slots).min(before.slots.len());
        for index in *at..end {
            let mut slot = before.at(index);
            if kind(&slot) >= FIRST_KIND {
                self.now.insert(hash_of(key(&slot)), slot);
                // Not empty: what was placed behind it must still be found.
                slot[3] = u64::from(MOVED);
                before.put(index, slot);
                before.len -= 1;
            }
        }
        *at = end;
        if end == before.slots.len() {
            self.before = None;
        }
    }

    fn resize(&mut self, size: usize, hash_of: impl Fn(RawKey) -> u64) {
        // The sizes above make sure that the last move is over by now.
        self.transfer(usize::MAX, hash_of);
        let before = std::mem::replace(&mut self.now, Slots::new(size));
        self.hand = 0;
        if before.len > 0 {
            self.before = Some((before, 0));
        }
    }

    fn sweep(&mut self, now: u64, hash_of: impl Fn(RawKey) -> u64 + Copy) {
        for _ in 0..SWEEP {
            let slot = self.now.at(self.hand);
            if kind(&slot) != EMPTY && cell(&slot).state.until < now {
                // Another entry may have moved into the gap: stay.
                self.now.remove(self.hand, hash_of);
                continue;
            }
            self.hand += 1;
            if self.hand >= self.now.slots.len() {
                self.hand = 0;
                self.shrink(hash_of);
                return;
            }
        }
    }

    /// After a flood of keys has expired, gives the memory back.
    fn shrink(&mut self, hash_of: impl Fn(RawKey) -> u64) {
        let size = self.now.slots.len();
        if self.before.is_none() && size > SMALLEST && self.now.len < size / 8 {
            self.resize(size / 2, hash_of);
        }
    }

    fn evict(&mut self, hash_of: impl Fn(RawKey) -> u64 + Copy) -> bool {
        if self.now.len == 0 {
            self.transfer(usize::MAX, hash_of);
        }
        let size = self.now.slots.len();
        let (mut seen, mut best) = (0, None);
        for step in 0..size {
            let index = (self.hand + step) & self.now.mask();
            let slot = self.now.at(index);
            if kind(&slot) == EMPTY {
                continue;
            }
            let ns = cell(&slot).state.until;
            if best.is_none_or(|(least, _)| ns < least) {
                best = Some((ns, index));
            }
            seen += 1;
            if seen == SAMPLE {
                // The next eviction samples others.
                self.hand = (index + 1) & self.now.mask();
                break;
            }
        }
        let Some((_, index)) = best else { return false };
        self.now.remove(index, hash_of);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn raw(n: u64) -> RawKey {
        RawKey { kind: FIRST_KIND, bits: [n, !n] }
    }

    fn at(ns: u64) -> Cell {
        Cell { state: State { until: ns, rest: 7 }, epoch: 3 }
    }

    /// A poor hash on purpose: long clusters and a wrap around the end.
    fn poor(key: RawKey) -> u64 {
        (key.bits[0] % 13) | 0xff00
    }

    fn good(key: RawKey) -> u64 {
        key.bits[0].wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    #[test]
    fn a_slot_keeps_every_bit() {
        let (key_in, cell_in) = (
            RawKey { kind: 255, bits: [u64::MAX, 5] },
            Cell { state: State { until: u64::MAX, rest: (1 << 48) - 1 }, epoch: 255 },
        );
        let slot = pack(key_in, cell_in);
        assert_eq!((key(&slot), cell(&slot)), (key_in, cell_in));
    }

    #[test]
    fn grows_and_finds_everything() {
        let mut table = Table::new(1_000_000);
        for n in 0..50_000 {
            table.advance(good);
            assert!(!table.insert(good(raw(n)), raw(n), at(n + 1), 0, good));
            assert_eq!(table.get(good(raw(n / 2)), raw(n / 2)), Some(at(n / 2 + 1)));
        }
        assert_eq!(table.len(), 50_000);
        assert!((0..50_000).all(|n| table.get(good(raw(n)), raw(n)) == Some(at(n + 1))));
        assert_eq!(table.get(good(raw(50_001)), raw(50_001)), None);
    }

    #[test]
    fn forgets_the_expired_and_shrinks() {
        let mut table = Table::new(1_000_000);
        for n in 0..20_000 {
            table.advance(good);
            table.insert(good(raw(n)), raw(n), at(10), 0, good);
        }
        let largest = table.now.slots.len();
        for n in 20_000..60_000 {
            table.advance(good);
            // Each is expired by the time the next one comes.
            table.insert(good(raw(n)), raw(n), at(n), n, good);
        }
        assert!(table.len() < 2_000, "{}", table.len());
        assert!(table.now.slots.len() < largest / 4);
    }

    #[test]
    fn a_full_table_loses_those_nearest_to_full() {
        let mut table = Table::new(1_000);
        let mut evicted = 0;
        for n in 0..3_000u64 {
            table.advance(good);
            evicted += usize::from(table.insert(good(raw(n)), raw(n), at(1_000 + n % 100), 0, good));
            assert!(table.len() <= 1_000);
        }
        assert_eq!(evicted, 2_000);
        let left: Vec<_> = (0..3_000).filter_map(|n| table.get(good(raw(n)), raw(n))).collect();
        assert_eq!(left.len(), 1_000);
        let mean = left.iter().map(|cell| cell.state.until - 1_000).sum::<u64>() / 1_000;
        assert!(mean > 55, "{mean}");
    }

    #[test]
    fn expired_entries_go_before_live_ones() {
        let mut table = Table::new(100);
        for n in 0..100 {
            table.insert(good(raw(n)), raw(n), at(50), 0, good);
            table.advance(good);
        }
        assert!((100..150).all(|n| !table.insert(good(raw(n)), raw(n), at(500), 60, good)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in proptest::collection::vec((0u64..200, 0u8..3), 1..600), poorly in any::<bool>()) {
            let hash_of = if poorly { poor } else { good };
            let (mut table, mut map) = (Table::new(10_000), HashMap::new());
            for (step, (n, what)) in ops.into_iter().enumerate() {
                table.advance(hash_of);
                let hash = hash_of(raw(n));
                let known = map.get(&n).copied();
                prop_assert_eq!(table.get(hash, raw(n)), known);
                match known {
                    Some(_) if what == 0 => {
                        let new = at(1_000 + step as u64);
                        prop_assert!(table.update(hash, raw(n), |_| Some(new)));
                        map.insert(n, new);
                    }
                    Some(_) => prop_assert!(table.update(hash, raw(n), |_| None)),
                    None => {
                        prop_assert!(!table.update(hash, raw(n), Some));
                        table.insert(hash, raw(n), at(999), 0, hash_of);
                        map.insert(n, at(999));
                    }
                }
                prop_assert_eq!(table.len(), map.len());
            }
        }

        #[test]
        fn removal_leaves_the_others(keys in proptest::collection::hash_set(0u64..500, 1..300), pivot in 0u64..500) {
            let mut table = Table::new(10_000);
            for &n in &keys {
                table.advance(poor);
                // Those below the pivot are expired from the start.
                table.insert(poor(raw(n)), raw(n), at(if n < pivot { 5 } else { 50 }), 0, poor);
            }
            for _ in 0..2_000 {
                table.advance(poor);
                table.sweep(10, poor);
            }
            for &n in &keys {
                prop_assert_eq!(table.get(poor(raw(n)), raw(n)).is_some(), n >= pivot);
            }
        }
    }
}
