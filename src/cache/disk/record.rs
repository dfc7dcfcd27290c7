//! One answer as it stands on disk: its place, its full key, its metadata and its body, with codes over all of it.
//!
//! The codes are made with the folder's key, and the head's is over its own place as well: what was half written, or overwritten, or is part
//! of a body that somebody has made to look like a record, or of an older record at another place, is none.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;

use super::bytes::{CODE, In, Out, code};
use crate::cache::changed::Place as Target;
use crate::cache::entry::{Entry, Meta};
use crate::cache::key::target_of;
use crate::cache::stored::StoredHead;
use crate::cache::tags::Tags;
use crate::head::{Field, Span};

/// Of every record, before its key.
pub(super) const FIXED: usize = 88;
const MAGIC: [u8; 4] = *b"pca1";
/// Written over it once the record does not count any more.
pub(super) const DEAD: [u8; 4] = *b"dead";
/// What is longer than this is none of ours.
pub(super) const LONGEST_HEAD: usize = 4 << 20;

/// Where a record is. Numbers of segments are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// Of all of it.
    pub(super) length: u32,
}

impl Place {
    /// In place of an offset: its body is in a file of its own, whose number is the segment's, and which it stands at the end of.
    pub(super) const LONG: u32 = u32::MAX;

    pub(super) fn is_long(&self) -> bool {
        self.offset == Place::LONG
    }
}

/// What stands before the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    pub(super) place: Place,
    key: u32,
    meta: u32,
    body: u64,
    /// By the disk's own clock.
    pub(super) asked: u64,
    /// How many notes there were when it was written.
    pub(super) notes: u64,
    body_code: [u8; CODE],
    pub(super) is_dead: bool,
}

/// A record up to its body.
struct Parts<'a> {
    /// Without what says whether it counts.
    fixed: &'a [u8],
    /// Its code, as it was written.
    known: &'a [u8],
    key: &'a [u8],
    meta: &'a [u8],
}

impl Fixed {
    /// Of what may be a record, without a look at its codes.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = In(bytes);
        let magic = from.array()?;
        if magic != MAGIC && magic != DEAD {
            return None;
        }
        let (segment, offset) = (from.u32()?, from.u32()?);
        let (key, meta, body) = (from.u32()?, from.u32()?, from.u64()?);
        let (asked, notes, body_code) = (from.u64()?, from.u64()?, from.array()?);
        let head = FIXED.checked_add(key as usize)?.checked_add(meta as usize)?;
        let beside = if offset == Place::LONG { 0 } else { body };
        let length = u32::try_from(u64::try_from(head).ok()?.checked_add(beside)?).ok()?;
        let place = Place { segment, offset, length };
        (head <= LONGEST_HEAD).then_some(Fixed { place, key, meta, body, asked, notes, body_code, is_dead: magic == DEAD })
    }

    /// How long the body is that stands elsewhere.
    pub(super) fn long_body(&self) -> Option<usize> {
        usize::try_from(self.body).ok().filter(|_| self.place.is_long() && !self.is_dead)
    }

    /// Up to the body.
    pub(super) fn head(&self) -> usize {
        FIXED + self.key as usize + self.meta as usize
    }

    fn parts<'a>(&self, head: &'a [u8]) -> Option<Parts<'a>> {
        let mut from = In(head);
        from.bytes(MAGIC.len())?;
        let fixed = from.bytes(FIXED - CODE - MAGIC.len())?;
        let known = from.bytes(CODE)?;
        Some(Parts { fixed, known, key: from.bytes(self.key as usize)?, meta: from.bytes(self.meta as usize)? })
    }

    /// The key, and which variant it is, of a record whose head is this. `None` if it is none, or one of another place.
    pub(super) fn key<'a>(&self, secret: &[u8; 32], place: (u32, u32), head: &'a [u8]) -> Option<(&'a [u8], Kind)> {
        if (self.place.segment, self.place.offset) != place {
            return None;
        }
        let Parts { fixed, known, key, meta } = self.parts(head)?;
        if code(secret, &[fixed, key, meta]) != known {
            return None;
        }
        let is_variant = meta.first() == Some(&1);
        let variance = meta.get(1..17)?.first_chunk().copied().filter(|_| is_variant);
        Some((key, Kind { variance }))
    }

    /// The answer, if all of it is as it was written. `moment` makes a moment of this process of one of the disk's.
    pub(super) fn entry(
        &self,
        secret: &[u8; 32],
        place: Place,
        record: &[u8],
        moment: impl Fn(u64) -> u64,
    ) -> Result<(Entry, Kind), Unfit> {
        let (answer, written) = self.whole(secret, place, record, moment).ok_or(Unfit::Damaged)?;
        // If the clock was set back, nobody knows how old it is.
        if written > SystemTime::now() { Err(Unfit::Later) } else { Ok(answer) }
    }

    /// And when it was written.
    fn whole(
        &self,
        secret: &[u8; 32],
        place: Place,
        record: &[u8],
        moment: impl Fn(u64) -> u64,
    ) -> Option<((Entry, Kind), SystemTime)> {
        let (head, body) = record.split_at_checked(self.head())?;
        let expected = if place.is_long() { 0 } else { self.body };
        if body.len() as u64 != expected || self.place != place || self.is_dead {
            return None;
        }
        let (key, kind) = self.key(secret, (place.segment, place.offset), head)?;
        if code(secret, &[body]) != self.body_code {
            return None;
        }
        let Parts { meta, .. } = self.parts(head)?;
        let mut from = In(meta.get(17..)?);
        let user_tag = std::str::from_utf8(from.text()?).ok()?;
        let (meta, written) = read_meta(&mut from, moment(self.asked))?;
        let target = Target::of(target_of(key));
        Some(((Entry::at(target, key, user_tag, meta, Bytes::copy_from_slice(body)), kind), written))
    }
}

/// Why a record is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is not as it was written.
    Damaged,
    /// It was written later than it is now. It may be good once the clock is right.
    Later,
}

/// Which place of its key it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// `None`: the first.
    pub(super) variance: Option<[u8; 16]>,
}

/// An answer as it is written at that place.
pub(super) fn encode(secret: &[u8; 32], place: (u32, u32), kind: Kind, entry: &Entry, asked: u64, notes: u64) -> Vec<u8> {
    encode_at(secret, place, kind, entry, asked, notes, SystemTime::now())
}

pub(super) fn encode_at(
    secret: &[u8; 32],
    place: (u32, u32),
    kind: Kind,
    entry: &Entry,
    asked: u64,
    notes: u64,
    now: SystemTime,
) -> Vec<u8> {
    encode_with(secret, place, kind, entry, (asked, notes), entry.body.len() as u64, now)
}

/// The record of a body that is in a file of its own.
pub(super) fn encode_long(secret: &[u8; 32], number: u32, kind: Kind, entry: &Entry, since: (u64, u64), body: u64) -> Vec<u8> {
    encode_with(secret, (number, Place::LONG), kind, entry, since, body, SystemTime::now())
}

fn encode_with(
    secret: &[u8; 32],
    (segment, offset): (u32, u32),
    kind: Kind,
    entry: &Entry,
    (asked, notes): (u64, u64),
    length: u64,
    now: SystemTime,
) -> Vec<u8> {
    let mut meta = Out::default();
    meta.0.push(u8::from(kind.variance.is_some()));
    meta.0.extend_from_slice(&kind.variance.unwrap_or_default());
    meta.text(entry.user_tag.as_bytes());
    write_meta(&mut meta, &entry.meta, now);
    let meta = meta.0;
    let mut out = Out(Vec::with_capacity(FIXED + entry.primary.len() + meta.len() + entry.body.len()));
    out.0.extend_from_slice(&MAGIC);
    out.u32(segment);
    out.u32(offset);
    out.u32(u32::try_from(entry.primary.len()).unwrap_or(u32::MAX));
    out.u32(u32::try_from(meta.len()).unwrap_or(u32::MAX));
    out.u64(length);
    out.u64(asked);
    out.u64(notes);
    out.0.extend_from_slice(&code(secret, &[&entry.body]));
    out.0.resize(FIXED - CODE, 0);
    let code = code(secret, &[out.0.get(MAGIC.len()..).unwrap_or_default(), &entry.primary, &meta]);
    for part in [&code[..], &entry.primary, &meta, &entry.body] {
        out.0.extend_from_slice(part);
    }
    out.0
}

/// The same record at another place. `None` if it is none.
pub(super) fn moved(secret: &[u8; 32], mut record: Vec<u8>, (segment, offset): (u32, u32)) -> Option<Vec<u8>> {
    record.get_mut(4..8)?.copy_from_slice(&segment.to_le_bytes());
    record.get_mut(8..12)?.copy_from_slice(&offset.to_le_bytes());
    let fixed = Fixed::read(&record)?;
    let Parts { fixed, key, meta, .. } = fixed.parts(&record)?;
    let code = code(secret, &[fixed, key, meta]);
    record.get_mut(FIXED - CODE..FIXED)?.copy_from_slice(&code);
    Some(record)
}

/// What becomes of it has a version of its own in Redis as well ([`crate::cache::redis`]): one that is written otherwise is another one there.
pub(in crate::cache) fn write_meta(out: &mut Out, meta: &Meta, now: SystemTime) {
    out.u64(nanos(now));
    for time in [meta.fresh_until, meta.created, meta.epoch] {
        out.u64(nanos(time));
    }
    out.u32(meta.stale_while_revalidate);
    out.u32(meta.stale_if_error);
    out.0.push(u8::from(meta.variance.is_some()) | u8::from(meta.in_redis) << 1);
    out.0.extend_from_slice(&meta.variance.unwrap_or_default());
    out.text(meta.tags.as_ref().map_or("", Tags::as_text).as_bytes());
    let head = &meta.head;
    out.u16(head.status.as_u16());
    let span = |out: &mut Out, span: Span| {
        out.u32(span.start);
        out.u32(span.end);
    };
    span(out, head.reason);
    out.u32(head.fields.len() as u32);
    for field in &head.fields {
        span(out, field.name);
        span(out, field.value);
    }
    out.text(&head.buffer);
}

/// And when it was written.
pub(in crate::cache) fn read_meta(from: &mut In<'_>, asked: u64) -> Option<(Meta, SystemTime)> {
    let written = time(from.u64()?)?;
    let (fresh_until, created, epoch) = (time(from.u64()?)?, time(from.u64()?)?, time(from.u64()?)?);
    let (stale_while_revalidate, stale_if_error) = (from.u32()?, from.u32()?);
    let ([flags], variance) = (from.array()?, from.array()?);
    let (varies, in_redis) = (flags & 1 != 0, flags & 2 != 0);
    let tags = std::str::from_utf8(from.text()?).ok()?;
    let status = StatusCode::from_u16(from.u16()?).ok()?;
    let reason = span(from)?;
    let count = from.u32()? as usize;
    let mut fields = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        fields.push(Field { name: span(from)?, value: span(from)? });
    }
    let buffer = Bytes::copy_from_slice(from.text()?);
    let within = |span: &Span| span.start <= span.end && span.end as usize <= buffer.len();
    if !within(&reason) || !fields.iter().all(|field| within(&field.name) && within(&field.value)) {
        return None;
    }
    let meta = Meta {
        fresh_until,
        created,
        epoch,
        variance: varies.then_some(variance),
        stale_while_revalidate,
        stale_if_error,
        asked,
        tags: Tags::of_text(tags),
        on_disk: true,
        in_redis,
        fallback: 0,
        head: StoredHead { status, buffer, reason, fields: fields.into() },
    };
    Some((meta, written))
}

fn span(from: &mut In<'_>) -> Option<Span> {
    Some(Span { start: from.u32()?, end: from.u32()? })
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn time(nanos: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}
