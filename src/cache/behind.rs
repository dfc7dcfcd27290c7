//! The tiers behind memory: which of them a request that has missed looks into, and what it has found there.

use std::sync::Arc;
use std::time::Instant;

use pingora_cache::key::HashBinary;

use super::disk::Disk;
use super::entry::{Entry, Index};
use super::fetch::{Fetch, Missed};
use super::hit::{Hit, Tier};
use super::redis::{RedisTier, Wanted};
use super::turns::Verdict;
use super::{Cache, CachePolicy, setback};

/// An answer that was found behind memory.
pub struct Found {
    pub(super) entry: Arc<Entry>,
    /// Which one it was looked for as.
    pub(super) sought: Option<HashBinary>,
    tier: Tier,
}

/// What one request has found behind memory, and where it has looked.
#[derive(Default)]
pub struct Behind {
    /// A first answer that another one varies from, and that one; of disk, and of Redis.
    found: Vec<Found>,
    last: Option<Tier>,
    /// It is waited for once.
    has_no_disk: bool,
    /// What Redis was asked for, and by when it has to answer all of it.
    asked: Vec<Index>,
    until: Option<Instant>,
}

/// A tier behind memory that may have what was missed.
pub struct Lookup<'m> {
    missed: &'m Missed,
    on_disk: bool,
    of: Of,
}

enum Of {
    Disk(&'static Disk),
    Redis(&'static RedisTier, Instant),
}

impl Lookup<'_> {
    /// Finds it, if that does not take too long.
    pub async fn load(self) -> Option<Found> {
        let (index, primary, on_disk) = (self.missed.index, &*self.missed.key.primary, self.on_disk);
        let (entry, tier) = match self.of {
            Of::Disk(disk) => (disk.load(index, primary).await?, Tier::Disk),
            Of::Redis(redis, until) => (redis.load(Wanted { index, primary, on_disk }, until).await?, Tier::Redis),
        };
        Some(Found { entry, sought: index.variance, tier })
    }
}

impl Behind {
    /// What came of a lookup. Whether that is worth a second look.
    pub fn take(&mut self, found: Option<Found>) -> bool {
        let has_found = found.is_some();
        self.has_no_disk |= !has_found && self.last == Some(Tier::Disk);
        self.found.extend(found);
        has_found
    }

    /// For [`Cache::look_with`].
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    fn has(&self, tier: Tier) -> usize {
        self.found.iter().filter(|found| found.tier == tier).count()
    }
}

/// Where this entry was found behind memory, if it was.
#[inline]
pub(super) fn tier_of(found: &[Found], entry: &Entry) -> Option<Tier> {
    found.iter().find(|found| found.entry.number == entry.number).map(|found| found.tier)
}

impl Cache {
    /// The next tier that may have what was missed in memory, if there is one that this request has not asked yet. `predicted`: what was
    /// last stored of it could not be.
    pub fn behind<'m>(
        &self,
        missed: &'m Missed,
        policy: &CachePolicy,
        behind: &mut Behind,
        predicted: bool,
    ) -> Option<Lookup<'m>> {
        let on_disk = policy.on_disk;
        if let Some(disk) = self.disk()
            && on_disk
            && !behind.has_no_disk
            && missed.stale.is_none()
            && behind.has(Tier::Disk) < 2
            && disk.may_have(&missed.index)
        {
            behind.last = Some(Tier::Disk);
            return Some(Lookup { missed, on_disk, of: Of::Disk(disk) });
        }
        let redis = *self.storage.redis.get()?;
        // Another gateway may have a younger one than what has expired here.
        let may = policy.in_redis && !predicted && missed.is_for_others() && !behind.asked.contains(&missed.index);
        if !may || behind.asked.len() >= 2 {
            return None;
        }
        let until = match behind.until {
            Some(until) => until,
            None => *behind.until.insert(redis.until()?),
        };
        behind.last = Some(Tier::Redis);
        behind.asked.push(missed.index);
        Some(Lookup { missed, on_disk, of: Of::Redis(redis, until) })
    }

    /// Whether another gateway has fetched meanwhile what has expired here: then nobody need be asked.
    pub async fn is_fetched(&self, fetch: &mut Fetch, policy: &CachePolicy) -> bool {
        let may = policy.in_redis && fetch.turn.is_some() && fetch.stale.is_some() && !fetch.for_all;
        let Some(redis) = self.storage.redis.get().filter(|_| may) else { return false };
        let Some(until) = redis.until() else { return false };
        let wanted = Wanted { index: fetch.index, primary: &fetch.key.primary, on_disk: policy.on_disk };
        let found = redis.load(wanted, until).await;
        // It may be another variant's, or be from before.
        let is_it = |entry: &Entry| {
            let stale = fetch.stale.as_ref();
            stale.is_some_and(|stale| entry.meta.variance == stale.meta.variance && entry.meta.asked > stale.meta.asked)
        };
        let found = found.filter(|entry| is_it(entry) && self.storage.has_body(&fetch.index, &entry.body));
        let is_fresh = found.is_some_and(|entry| Hit::fresh(&entry, setback::now_for(entry.meta.asked)).is_some());
        if is_fresh {
            fetch.turn.take().into_iter().for_each(|turn| turn.end(Verdict::Stored));
        }
        is_fresh
    }
}
