//! One stored answer: its full key, its parsed metadata, its body, and what all of it weighs.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pingora_cache::key::{CacheHashKey, CompactCacheKey, HashBinary};
use pingora_cache::{CacheKey, CacheMeta};
use pingora_core::Result;

use super::changed::Place;
use super::disk::long::Long;
use super::key::{Key, halves};
use super::layout;
use super::moment::Moment;
use super::pieces::Pieces;
use super::rules::{Came, Freshness};
use super::stored::StoredHead;
use super::tags::Tags;

/// What an entry costs besides its bytes: itself, the reference counts, and about two slots in the tables.
const FIXED_WEIGHT: usize = std::mem::size_of::<Entry>() + 320;

/// 0 is nobody's.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// The most variants of one answer, beside the first.
pub(super) const VARIANTS: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    pub(super) primary: HashBinary,
    pub(super) variance: Option<HashBinary>,
}

impl Hash for Index {
    /// A half of each is enough, for both are hashes already: the one by a secret of the process, so that nobody can choose what meets in a table.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let half = |hash: HashBinary| halves(hash).1;
        state.write_u64(half(self.primary) ^ self.variance.map_or(0, |variance| half(variance).wrapping_add(1)));
    }
}

impl Index {
    pub(super) fn primary(key: &Key) -> Self {
        Index { primary: key.hash, variance: None }
    }

    /// Where it stands in the store: a key has room for so many variants, and who asks for ever more of them pushes out his own. Which one
    /// it is, the entry says.
    pub(super) fn slot(mut self) -> Self {
        if let Some(variance) = &mut self.variance {
            let slot = variance.first().copied().unwrap_or_default() % VARIANTS;
            *variance = Default::default();
            variance.iter_mut().take(1).for_each(|first| *first = slot);
        }
        self
    }

    /// As Pingora's predictor has it, which looks at nothing but a primary key's hash: each variant has one of its own.
    pub(super) fn hashed(&self) -> CacheKey {
        let number = u128::from_le_bytes(self.primary) ^ self.variance.map_or(0, u128::from_le_bytes);
        let mut key = CacheKey::new(Vec::new(), "");
        key.set_primary_bin_override(number.to_le_bytes());
        key
    }

    pub(super) fn of(key: &CacheKey) -> Self {
        Index { primary: key.primary_bin(), variance: key.variance_bin() }
    }

    pub(super) fn of_compact(key: &CompactCacheKey) -> Self {
        Index { primary: key.primary_bin(), variance: key.variance_bin() }
    }
}

/// What `CacheMeta` is made of, as far as this gateway uses it.
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) fresh_until: SystemTime,
    /// For the primary slot the provenance: pingora tells by it whether the variants around it are still its own.
    pub(super) created: SystemTime,
    pub(super) epoch: SystemTime,
    pub(super) variance: Option<HashBinary>,
    pub(super) stale_while_revalidate: u32,
    pub(super) stale_if_error: u32,
    /// When its service was asked for it: it is held against what was changed or purged since.
    pub(super) asked: u64,
    pub(super) tags: Option<Tags>,
    /// It may be written to disk.
    pub(super) on_disk: bool,
    /// And to Redis.
    pub(super) in_redis: bool,
    /// For how many seconds after its lifetime it may be its route's fallback, as the route says now.
    pub(super) fallback: u32,
    pub(super) head: StoredHead,
}

/// What Pingora carries along for this store.
#[derive(Clone)]
pub(super) struct Marks {
    pub(super) asked: u64,
    pub(super) tags: Option<Tags>,
    pub(super) on_disk: bool,
    pub(super) in_redis: bool,
}

impl Meta {
    pub(super) fn of(meta: &CacheMeta, is_variant: bool) -> Result<Self> {
        let marks = meta.extensions().get::<Marks>();
        Ok(Meta {
            asked: marks.map_or_else(|| Moment::now().get(), |marks| marks.asked),
            tags: marks.and_then(|marks| marks.tags.clone()),
            on_disk: marks.is_some_and(|marks| marks.on_disk),
            in_redis: marks.is_some_and(|marks| marks.in_redis),
            // A stock server has none.
            fallback: 0,
            fresh_until: meta.fresh_until(),
            created: if is_variant { meta.created() } else { meta.provenance() },
            epoch: meta.epoch(),
            variance: meta.variance(),
            stale_while_revalidate: meta.stale_while_revalidate_sec(),
            stale_if_error: meta.stale_if_error_sec(),
            head: StoredHead::of(meta.response_header())?,
        })
    }

    pub(super) fn to_meta(&self) -> Result<CacheMeta> {
        let (swr, sie) = (self.stale_while_revalidate, self.stale_if_error);
        let mut meta = CacheMeta::new(self.fresh_until, self.created, swr, sie, self.head.to_header()?);
        meta.set_epoch_override(self.epoch);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        let (asked, tags, on_disk, in_redis) = (self.asked, self.tags.clone(), self.on_disk, self.in_redis);
        meta.extensions_mut().insert(Marks { asked, tags, on_disk, in_redis });
        Ok(meta)
    }

    /// It is as fresh as the service says now.
    pub(super) fn renew(&mut self, fresh: &Freshness, came: Came) {
        let now = came.now;
        self.asked = came.asked;
        self.fresh_until = now + fresh.remaining;
        self.epoch = now.checked_sub(fresh.age).unwrap_or(now);
        (self.stale_while_revalidate, self.stale_if_error) = (fresh.while_revalidate, fresh.if_error);
    }

    /// For how long after its lifetime it may be given, with whatever excuse.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.stale_while_revalidate.max(self.stale_if_error).max(self.fallback)))
    }

    /// For how long it is good for anything from now on.
    pub(super) fn life(&self) -> Duration {
        match self.fresh_until.duration_since(SystemTime::now()) {
            Ok(left) => left.saturating_add(self.grace()),
            Err(since) => self.grace().saturating_sub(since.duration()),
        }
    }

    /// The whole body is known now.
    pub(super) fn set_length(&mut self, length: usize) {
        self.head = self.head.with_length(length);
    }
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) primary: Bytes,
    pub(super) user_tag: Box<str>,
    /// Where it is noted when the target was changed.
    pub(super) place: Place,
    pub(super) meta: Meta,
    pub(super) body: Bytes,
    /// In place of a body: parts of it. Never where a whole answer stands.
    pub(super) pieces: Option<Arc<Pieces>>,
    /// In place of a body: where it is on disk.
    pub(super) long: Option<Arc<Long>>,
    /// Of this body alone: one that replaces another inherits what that was `created`, so that the variants beside it still count.
    pub(super) number: u64,
    /// In bytes; kept, because the store asks for it under its locks.
    pub(super) weight: usize,
    /// It was held against all that was purged before.
    pub(super) checked: Checked,
    pub(super) shown: Shown,
}

/// Whether somebody was given it out of the cache.
#[derive(Default)]
pub(super) struct Shown(AtomicBool);

impl Shown {
    /// It is now. Whether it was before.
    pub(super) fn again(&self) -> bool {
        self.0.load(Ordering::Relaxed) || self.0.swap(true, Ordering::Relaxed)
    }
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Shown(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

pub(super) struct Checked(AtomicU64);

impl Checked {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, moment: u64) {
        self.0.fetch_max(moment, Ordering::Relaxed);
    }
}

impl From<u64> for Checked {
    fn from(moment: u64) -> Self {
        Checked(AtomicU64::new(moment))
    }
}

impl Clone for Checked {
    fn clone(&self) -> Self {
        Checked::from(self.get())
    }
}

impl Entry {
    #[cfg(test)]
    pub(super) fn new(primary: &[u8], user_tag: &str, meta: Meta, body: Bytes) -> Self {
        Entry::at(Place::of(super::key::target_of(primary)), primary, user_tag, meta, body)
    }

    /// `place` is that of the key's target.
    pub(super) fn at(place: Place, primary: &[u8], user_tag: &str, mut meta: Meta, body: Bytes) -> Self {
        let (primary, body) = joined(primary, &mut meta.head.buffer, body);
        Entry::laid(place, (primary, user_tag), meta, body)
    }

    /// The same of what lies together already.
    #[inline]
    pub(super) fn laid(place: Place, (primary, user_tag): (Bytes, &str), meta: Meta, body: Bytes) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let checked = Checked::from(meta.asked);
        let entry = Entry {
            primary,
            user_tag: user_tag.into(),
            place,
            meta,
            body,
            pieces: None,
            long: None,
            number,
            weight: 0,
            checked,
            shown: Shown::default(),
        };
        entry.weighed()
    }

    /// The same, with what its service says of it now. Nothing of the head before stays.
    pub(super) fn renewed(&self, mut meta: Meta) -> Self {
        let checked = Checked::from(meta.asked);
        let (primary, body) = joined(&self.primary, &mut meta.head.buffer, self.body.clone());
        Entry { primary, meta, body, checked, ..self.clone() }
    }

    /// Has what a hit is made of fetched from memory at once, rather than one after the other as it is wanted.
    #[inline]
    pub(super) fn touch(&self) {
        let fields = self.meta.head.fields.first().map_or(0, |field| field.name.start);
        let first = |bytes: &[u8]| bytes.first().copied().map_or(0, u32::from);
        std::hint::black_box(fields ^ first(&self.primary) ^ first(&self.meta.head.buffer) ^ first(&self.body));
    }

    /// What one weighs beside its body, with a head of at most this weight.
    pub(super) fn beside(primary: &[u8], tags: Option<&Tags>, head: usize) -> usize {
        FIXED_WEIGHT + primary.len() + head + tags.map_or(0, Tags::weight)
    }

    pub(super) fn weighed(mut self) -> Self {
        let tags = self.meta.tags.as_ref();
        let head = self.meta.head.weight();
        let body = self.pieces.as_ref().map_or(self.body.len(), |pieces| pieces.weight());
        self.weight = Entry::beside(&self.primary, tags, head) + self.user_tag.len() + body;
        self
    }

    /// With another body.
    pub(super) fn renumbered(mut self) -> Self {
        self.number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        self
    }

    /// How long the whole of it is.
    pub(super) fn length(&self) -> usize {
        match (&self.pieces, &self.long) {
            (Some(pieces), _) => pieces.total,
            (None, Some(long)) => long.length(),
            (None, None) => self.body.len(),
        }
    }

    /// Whether it stays where it stands in the store, at `index`, because it was asked for later than another one that belongs there. A key's
    /// first answer stands for all of its variants.
    pub(super) fn overtakes(&self, asked: u64, index: &Index, variance: Option<HashBinary>) -> bool {
        self.meta.asked > asked && (index.variance.is_none() || self.meta.variance == variance)
    }

    pub(super) fn is_for(&self, primary: &[u8], user_tag: &str) -> bool {
        *self.primary == *primary && *self.user_tag == *user_tag
    }
}

/// The same, laid anew.
fn joined(primary: &[u8], head: &mut Bytes, body: Bytes) -> (Bytes, Bytes) {
    let (primary, laid, body) = layout::lay(primary, head.len(), body, |bytes| bytes.extend_from_slice(head));
    *head = laid;
    (primary, body)
}
