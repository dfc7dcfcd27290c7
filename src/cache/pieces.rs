//! Parts of an answer that its service has given by themselves (206), kept beside each other until they are all of it (RFC 9111, sections 3.3
//! and 3.4; RFC 9110, section 15.3.7).
//!
//! They never stand where a whole answer does: under an index of their own, by which nothing else looks, and with a mark that is compared
//! like the key. Only what has the same strong `ETag` and the same length is put together; without one, a part is kept by itself.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header;
use smallvec::SmallVec;

use super::entry::{Entry, Index, Meta};
use super::key::Key;
use super::memory::MemoryTier;
use super::rules;
use super::stored::StoredHead;
use crate::wire::answer::AnswerHead;

/// Stands in an entry's key where it has parts alone.
pub(super) const MARK: &str = "parts";
/// Of one answer. Of more of them, the shortest go.
const MOST: usize = 128;
/// What one of them needs beside its bytes.
const ALLOCATION: usize = std::mem::size_of::<Piece>() + 32;

/// Bytes of an answer, one behind the other.
pub type Chunks = SmallVec<[Bytes; 1]>;

/// What a 206 says that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    start: usize,
    pub(super) length: usize,
    /// Of the whole.
    pub(super) total: usize,
}

impl Part {
    /// `None` if it has several parts, is counted in something else, contradicts itself, or does not say of how much it is a part.
    pub(super) fn of(answer: &AnswerHead) -> Option<Self> {
        let mut said = answer.header_all("content-range");
        let (range, None) = (said.next()?, said.next()) else { return None };
        if answer
            .header_all("content-type")
            .any(|kind| kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/")))
        {
            return None;
        }
        let part = Part::read(range)?;
        (answer.length.is_none_or(|length| length == part.length as u64)).then_some(part)
    }

    /// `bytes 0-4/10`.
    fn read(range: &[u8]) -> Option<Self> {
        let range = std::str::from_utf8(range).ok()?.trim_matches([' ', '\t']);
        let (unit, range) = range.split_once(' ')?;
        let (range, total) = range.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let number =
            |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<usize>().ok()).flatten();
        let (first, last, total) = (number(first)?, number(last)?, number(total)?);
        let is = unit.eq_ignore_ascii_case("bytes") && first <= last && last < total;
        is.then(|| Part { start: first, length: last - first + 1, total })
    }
}

/// What there is of an answer.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Of the whole.
    pub(super) total: usize,
    /// In order; none begins before the one before it ends.
    pieces: Box<[Piece]>,
}

#[derive(Debug, Clone)]
struct Piece {
    start: usize,
    bytes: Bytes,
}

impl Piece {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

impl Pieces {
    fn of(part: Part, bytes: Bytes) -> Self {
        Pieces { total: part.total, pieces: Box::new([Piece { start: part.start, bytes }]) }
    }

    /// With one more, of no more than so many bytes in all.
    fn with(&self, start: usize, bytes: &Bytes, most: usize) -> Self {
        let (mut from, mut to) = (start, start + bytes.len());
        for piece in &self.pieces {
            // What is there already stays: it is the same.
            if piece.start <= from && from < piece.end() {
                from = piece.end();
            }
            if piece.start < to && to <= piece.end() {
                to = piece.start;
            }
        }
        let mut pieces: Vec<Piece> = self.pieces.to_vec();
        if from < to {
            pieces.retain(|piece| piece.start < from || piece.end() > to);
            let bytes = match to - from == bytes.len() {
                true => bytes.clone(),
                // A copy, so that it holds no more than it is.
                false => Bytes::copy_from_slice(bytes.get(from - start..to - start).unwrap_or_default()),
            };
            let at = pieces.partition_point(|piece| piece.start < from);
            pieces.insert(at, Piece { start: from, bytes });
        }
        while pieces.len() > MOST || pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>() > most {
            let Some((shortest, _)) = pieces.iter().enumerate().min_by_key(|(_, piece)| piece.bytes.len()) else { break };
            pieces.remove(shortest);
        }
        Pieces { total: self.total, pieces: pieces.into() }
    }

    /// How much there is.
    pub(super) fn held(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }

    /// In bytes.
    pub(super) fn weight(&self) -> usize {
        self.held() + self.pieces.len() * ALLOCATION
    }

    /// These bytes of the whole, if all of them are there.
    pub(super) fn cut(&self, range: Range<usize>) -> Option<Chunks> {
        let (mut at, mut chunks) = (range.start, Chunks::new());
        for piece in &self.pieces {
            if at < range.end && piece.start <= at && at < piece.end() {
                let end = piece.end().min(range.end);
                chunks.push(piece.bytes.slice(at - piece.start..end - piece.start));
                at = end;
            }
        }
        (at >= range.end).then_some(chunks)
    }

    /// All of it, in one.
    fn whole(&self) -> Option<Bytes> {
        let chunks = self.cut(0..self.total)?;
        match &*chunks {
            [one] => Some(one.clone()),
            chunks => Some(Bytes::from(chunks.concat().into_boxed_slice())),
        }
    }

    /// How much of it is not there in the other one.
    pub(super) fn beyond(&self, other: Option<&Pieces>) -> usize {
        let is_there = |piece: &&Piece| {
            other.is_some_and(|other| other.pieces.iter().any(|known| known.bytes.as_ptr() == piece.bytes.as_ptr()))
        };
        self.pieces.iter().filter(|piece| !is_there(piece)).map(|piece| piece.bytes.len()).sum()
    }
}

impl Index {
    /// Where parts of what has this key are kept.
    pub(super) fn parts(key: &Key) -> Self {
        Index::primary(key).of_parts()
    }

    pub(super) fn of_parts(self) -> Self {
        // Nothing else is looked for by it; a key that has it as its hash is told apart by the mark.
        Index { primary: (!u128::from_le_bytes(self.primary)).to_le_bytes(), ..self }
    }
}

/// A part that has come.
pub(super) struct Arrived {
    pub(super) part: Part,
    pub(super) body: Bytes,
    /// Where the whole belongs, and what it is `created`.
    pub(super) whole: (Index, std::time::SystemTime),
    /// The most that is kept of the answer.
    pub(super) most: usize,
}

impl MemoryTier {
    /// Keeps a part beside those that it belongs to, or in the place of those that it does not; and all of it, once they are all of it.
    /// `entry` is without a body.
    pub(super) fn keep_part(&self, index: Index, mut entry: Entry, arrived: Arrived) {
        let Arrived { part, body, whole: (whole_index, created), most } = arrived;
        // Whoever has stored another part meanwhile is not overtaken, but not for ever.
        for _ in 0..4 {
            let known = self.peek(&index).filter(|known| known.is_for(&entry.primary, MARK));
            let joined = known.as_ref().filter(|known| self.belong_together(known, &entry, part));
            if joined.is_none()
                && known.as_ref().is_some_and(|known| known.meta.asked > entry.meta.asked && !self.is_purged(known))
            {
                // They are of an answer that was asked for later.
                return;
            }
            let pieces = match joined.and_then(|known| known.pieces.as_ref()) {
                Some(pieces) => pieces.with(part.start, &body, most),
                None => Pieces::of(part, body.clone()),
            };
            if let Some(known) = joined {
                // What was changed since the first of them was asked for counts for all.
                entry.meta.asked = entry.meta.asked.min(known.meta.asked);
                entry.checked = entry.meta.asked.into();
            }
            if let Some(body) = pieces.whole() {
                let meta = Meta { created, ..entry.meta.clone() };
                let whole = Entry::at(entry.place, &entry.primary, "", meta, body);
                if self.fits(whole.weight) {
                    self.put(whole_index, whole);
                    self.forget_parts(index);
                    return;
                }
            }
            let next = Entry { pieces: Some(Arc::new(pieces)), ..entry.clone() }.renumbered().weighed();
            if !self.fits(next.weight) {
                return;
            }
            match known {
                None => return self.put_parts(index, next),
                Some(known) => {
                    if self.change(index, |found| (found.number == known.number).then_some(next)) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether a part is of the same answer as those that are there, and none of them was purged meanwhile.
    fn belong_together(&self, known: &Entry, new: &Entry, part: Part) -> bool {
        let tag = |head: &StoredHead| head.header(&header::ETAG).filter(|tag| !tag.starts_with(b"W/")).map(<[u8]>::to_vec);
        let same_tag = tag(&known.meta.head).is_some_and(|known| tag(&new.meta.head) == Some(known));
        // What the whole is said to be is what each of its parts says.
        let alike = |name| known.meta.head.header(&name) == new.meta.head.header(&name);
        same_tag
            && [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE].into_iter().all(alike)
            && known.pieces.as_ref().is_some_and(|pieces| pieces.total == part.total)
            && known.meta.variance == new.meta.variance
            && rules::are_alike(known.meta.head.vary(), new.meta.head.vary())
            && !self.is_purged(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_of_what_it_is_one() {
        let part = |start, length, total| Some(Part { start, length, total });
        assert_eq!(Part::read(b"bytes 0-4/10"), part(0, 5, 10));
        assert_eq!(Part::read(b" Bytes 9-9/10 "), part(9, 1, 10));
        for wrong in [
            &b"bytes 0-4/*"[..],
            b"bytes */10",
            b"bytes 4-3/10",
            b"bytes 0-10/10",
            b"items 0-4/10",
            b"bytes=0-4/10",
            b"bytes 0-4",
            b"bytes +0-4/10",
            b"bytes 0 -4/10",
            b"bytes -4/10",
            b"bytes 0-/10",
            b"bytes 0-4/18446744073709551616",
            b"bytes 0-18446744073709551615/18446744073709551615",
            b"\xff",
        ] {
            assert_eq!(Part::read(wrong), None, "{wrong:?}");
        }
    }

    fn held(pieces: &Pieces) -> Vec<(usize, String)> {
        pieces.pieces.iter().map(|piece| (piece.start, String::from_utf8(piece.bytes.to_vec()).unwrap())).collect()
    }

    #[test]
    fn pieces_are_put_beside_each_other() {
        let whole = b"0123456789";
        let of = |range: Range<usize>| Bytes::from_static(&whole[range]);
        let first = Pieces::of(Part { start: 4, length: 2, total: 10 }, of(4..6));
        assert_eq!((first.cut(4..6).map(|chunks| chunks.concat()), first.cut(3..6)), (Some(b"45".to_vec()), None));
        let more = first.with(0, &of(0..5), 100);
        assert_eq!(held(&more), [(0, "0123".into()), (4, "45".into())]);
        assert_eq!(more.cut(1..6).map(|chunks| chunks.concat()), Some(b"12345".to_vec()));
        assert!(more.whole().is_none());
        // What lies within a longer one goes.
        let longer = more.with(3, &of(3..7), 100);
        assert_eq!(held(&longer), [(0, "0123".into()), (4, "45".into()), (6, "6".into())]);
        let all = longer.with(2, &of(2..10), 100);
        assert_eq!(all.whole().map(|all| all.to_vec()), Some(whole.to_vec()), "{:?}", held(&all));
        assert_eq!(all.held(), 10);
        // Nothing new.
        assert_eq!(held(&all.with(1, &of(1..3), 100)), held(&all));
    }

    /// Whatever comes in whatever order, what is given is what is there.
    #[test]
    fn no_order_of_parts_makes_other_bytes() {
        let whole: Vec<u8> = (0..=250).collect();
        let mut seed = 1_u32;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for _ in 0..2000 {
            let mut pieces = Pieces::of(Part { start: 7, length: 1, total: whole.len() }, Bytes::copy_from_slice(&whole[7..8]));
            for _ in 0..next(40) {
                let start = next(whole.len());
                let end = start + 1 + next(whole.len() - start);
                pieces = pieces.with(start, &Bytes::copy_from_slice(&whole[start..end]), 120);
                assert!(pieces.held() <= 120);
                let mut last = 0;
                for piece in &pieces.pieces {
                    assert!(piece.start >= last && *piece.bytes == whole[piece.start..piece.end()]);
                    last = piece.end();
                }
            }
            let start = next(whole.len());
            let end = start + 1 + next(whole.len() - start);
            if let Some(chunks) = pieces.cut(start..end) {
                assert_eq!(chunks.concat(), whole[start..end]);
            }
        }
    }

    #[test]
    fn the_shortest_of_too_many_go() {
        let mut pieces = Pieces::of(Part { start: 0, length: 4, total: 10_000 }, Bytes::from_static(b"abcd"));
        for at in 1..400 {
            pieces = pieces.with(at * 10, &Bytes::from_static(b"x"), 1000);
        }
        assert_eq!((pieces.pieces.len(), pieces.cut(0..4).map(|chunks| chunks.concat())), (MOST, Some(b"abcd".to_vec())));
        let long = pieces.with(5000, &Bytes::from(vec![1; 999]), 1000);
        assert_eq!(held(&long).len() + long.held(), 1000);
    }
}
