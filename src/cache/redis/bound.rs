//! One Redis that answers are kept in: the clock of the one that has the purges (the same, unless the cache has a Redis of its own), what was
//! purged by that, and whether all of it was heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::clock::Clock;
use crate::cache::Purge;
use crate::cache::moment::Moment;
use crate::cache::purges::Purges;
use crate::redis::Redis;

/// Purges of this gateway's that came before Redis was heard of; beyond that they are of everything.
const EARLY: usize = 1_000;

pub(in crate::cache) struct Bound {
    of: Arc<Redis>,
    /// With connections and a breaker of its own.
    pub(super) redis: Redis,
    pub(super) prefix: Box<str>,
    pub(super) clock: Clock,
    /// By its clock, in microseconds.
    pub(super) book: Purges,
    /// When all was heard that there was to hear; 0 for never.
    heard: AtomicU64,
    early: Mutex<Vec<(Purge, bool)>>,
    /// What was written before it was first looked at does not count: not all was heard, or noted there, that was purged or changed.
    is_late: AtomicBool,
}

impl Bound {
    /// `late`: this process has had answers in another one before, or by another one's purges.
    pub(in crate::cache) fn new(redis: &Arc<Redis>, late: bool) -> Self {
        Bound {
            of: redis.clone(),
            redis: redis.apart(),
            prefix: redis.prefix().into(),
            clock: Clock::default(),
            book: Purges::new(),
            heard: AtomicU64::new(0),
            early: Mutex::default(),
            is_late: AtomicBool::new(late),
        }
    }

    /// Whether it is that one.
    pub(in crate::cache) fn is_of(&self, redis: &Arc<Redis>) -> bool {
        Arc::ptr_eq(&self.of, redis)
    }

    /// Redis said what time it is, between these moments.
    pub(in crate::cache) fn look(&self, says: u64, sent: u64, received: u64) {
        if let Some(until) = self.clock.look(says, sent, received) {
            log::warn!("the clock of Redis was set back: what was stored there counts as purged");
            self.book.forget_before(until);
        }
        if self.is_late.load(Ordering::Relaxed)
            && let Some(until) = self.clock.after(received, received)
        {
            self.book.forget_before(until);
            self.is_late.store(false, Ordering::Relaxed);
        }
        let early = std::mem::take(&mut *self.early.lock());
        early.iter().for_each(|(purge, soft)| self.purged_here(purge, *soft));
    }

    /// All was heard that others have purged, as of that moment.
    pub(in crate::cache) fn has_heard_all(&self, sent: u64) {
        // What was purged before Redis was heard of counts first.
        if self.early.lock().is_empty() && !self.is_late.load(Ordering::Relaxed) {
            self.heard.store(sent, Ordering::Release);
        }
    }

    pub(super) fn has_heard(&self, within: Duration) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        heard > 0 && u128::from(Moment::now().get().saturating_sub(heard)) <= within.as_nanos()
    }

    /// That was purged, at that time by its clock.
    pub(in crate::cache) fn purged(&self, purge: &Purge, soft: bool, at: u64) {
        self.book.note_at(purge, soft, at);
    }

    /// Nobody knows any more what was purged up to then.
    pub(in crate::cache) fn forget_before(&self, at: u64) {
        self.book.forget_before(at);
    }

    /// That was purged now.
    pub(in crate::cache) fn purged_here(&self, purge: &Purge, soft: bool) {
        let mut early = self.early.lock();
        let now = Moment::now().get();
        if let Some(at) = self.clock.after(now, now) {
            drop(early);
            return self.purged(purge, soft, at);
        }
        if early.len() < EARLY {
            early.push((purge.clone(), soft));
        } else {
            *early = vec![(Purge::Everything, false)];
        }
        // Nothing is given before that was noted.
        self.heard.store(0, Ordering::Release);
    }
}
