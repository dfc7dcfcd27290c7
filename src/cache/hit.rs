//! A stored answer that can be given as it is: fresh, validated for this request, or stale with an excuse.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::HeaderName;
use http::{Method, StatusCode};
use pingora_http::RequestHeader;
use pingora_proxy::RangeType;

use super::conditions::is_unchanged;
use super::entry::Entry;
use super::flow::{Flow, Flowing};
use super::lent::Lent;
use super::pieces::Chunks;
use super::range::range;
use super::rules::{self, Wishes};
use super::said::Said;
use super::{CachePolicy, Outcome, StoredHead};

/// See the module.
pub struct Hit {
    pub(super) entry: Arc<Entry>,
    /// How old it is, in seconds, from when its backend made it. `None` if that has validated it for this very request (RFC 9111, section
    /// 5.1).
    age: Option<u64>,
    outcome: Outcome,
    /// Its body is still on its way, or on disk.
    flowing: Option<(Arc<Flow>, usize)>,
    tier: Tier,
}

/// Where an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Nowhere: it is still on its way.
    None,
    Memory,
    Disk,
    Redis,
}

impl Tier {
    /// Where the body of what is in memory is.
    fn of(entry: &Entry) -> Self {
        if entry.long.is_some() { Tier::Disk } else { Tier::Memory }
    }

    /// For the log.
    pub fn word(self) -> &'static str {
        match self {
            Tier::None => "",
            Tier::Memory => "memory",
            Tier::Disk => "disk",
            Tier::Redis => "redis",
        }
    }
}

/// Why a stale answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// Another one is being asked for (RFC 5861, section 3).
    Revalidating,
    /// The service answered nothing, or this status (RFC 5861, section 4).
    Error(Option<u16>),
    /// The client takes it so old.
    Asked,
    /// The route's fallback: it has been stale for no longer than this.
    Fallback(Duration),
}

impl Excuse {
    /// In RFC 9211's `detail`.
    pub fn as_str(self) -> &'static str {
        match self {
            Excuse::Revalidating => "stale-while-revalidate",
            Excuse::Error(_) => "stale-if-error",
            Excuse::Asked => "max-stale",
            Excuse::Fallback(_) => "fallback",
        }
    }
}

/// A stored answer whose lifetime is over.
pub(super) struct Stale {
    /// For how long.
    pub(super) since: Duration,
    pub(super) status: StatusCode,
    /// For how many seconds it may be given.
    pub(super) while_revalidate: u32,
    pub(super) if_error: u32,
}

impl Stale {
    /// Whether it may be given, on whichever engine. `said`: what it says of caches.
    pub(super) fn is_excused<'s>(&self, excuse: Excuse, policy: &CachePolicy, said: impl FnOnce() -> Said<'s>) -> bool {
        let within = |seconds: u32| self.since < Duration::from_secs(u64::from(seconds));
        let excused = match excuse {
            // The route has no excuse at all.
            _ if policy.max_stale.is_zero() => false,
            Excuse::Revalidating => within(self.while_revalidate),
            // One error in the place of another helps nobody.
            Excuse::Error(_) => within(self.if_error) && !rules::is_error(self.status),
            Excuse::Asked => rules::may_be_stale(&said()),
            Excuse::Fallback(most) => is_good(self.status) && self.since <= most && rules::may_be_stale(&said()),
        };
        excused && !policy.refuses(self.status)
    }
}

fn is_good(status: StatusCode) -> bool {
    status.as_u16() < 400
}

impl Hit {
    /// `None` if it is not fresh any more.
    pub(super) fn fresh(entry: &Arc<Entry>, now: SystemTime) -> Option<Self> {
        let left = entry.meta.fresh_until.duration_since(now).ok().filter(|left| !left.is_zero())?;
        let ttl = left.as_secs();
        let (outcome, flowing, tier) = match long(entry) {
            None => (Outcome::Hit { ttl }, None, Tier::Memory),
            flowing => (Outcome::Disk { ttl }, flowing, Tier::Disk),
        };
        Some(Hit { age: Some(age(entry, now).as_secs()), outcome, entry: entry.clone(), flowing, tier })
    }

    /// Whether it is one that a fallback may give: an error, of whatever kind, is none.
    pub(super) fn is_good(entry: &Entry) -> bool {
        is_good(entry.meta.head.status)
    }

    /// `None` if there is no such excuse for it. This is the one way to a stale answer.
    pub(super) fn stale(entry: &Arc<Entry>, now: SystemTime, excuse: Excuse, policy: &CachePolicy) -> Option<Self> {
        let (meta, age) = (&entry.meta, age(entry, now));
        let since = now.duration_since(meta.fresh_until).unwrap_or_default();
        let said = || Said::by_stored(&meta.head);
        let excused = Stale {
            since,
            status: meta.head.status,
            while_revalidate: meta.stale_while_revalidate,
            if_error: meta.stale_if_error,
        }
        .is_excused(excuse, policy, said);
        let outcome = Outcome::Stale { since: since.as_secs(), excuse };
        let (age, tier) = (Some(age.as_secs()), Tier::of(entry));
        excused.then(|| Hit { age, outcome, entry: entry.clone(), flowing: long(entry), tier })
    }

    /// `asked`: it was fresh, but its client would not have it so.
    pub(super) fn validated(entry: Entry, asked: bool) -> Self {
        let (outcome, flowing, tier) = (Outcome::Revalidated { asked }, long(&entry), Tier::of(&entry));
        Hit { entry: Arc::new(entry), age: None, outcome, flowing, tier }
    }

    /// Somebody else has asked for it, and it is coming. `None` if a client with these wishes would not have it so.
    pub(super) fn flowing(flowing: &Flowing, now: SystemTime, wishes: &Wishes) -> Option<Self> {
        let age = age(&flowing.entry, now).as_secs();
        let left = flowing.entry.meta.fresh_until.duration_since(now).unwrap_or_default().as_secs();
        let (entry, flow) = (flowing.entry.clone(), Some((flowing.flow.clone(), flowing.length)));
        let suits = wishes.take(Duration::from_secs(age), Duration::from_secs(left));
        suits.then_some(Hit { age: Some(age), outcome: Outcome::Collapsed, entry, flowing: flow, tier: Tier::None })
    }

    /// This very request has had it fetched.
    pub fn was_fetched(&mut self) {
        if let Outcome::Hit { .. } | Outcome::Disk { .. } = self.outcome {
            self.outcome = Outcome::Miss { stored: true };
        }
    }

    /// It was found there for this request, behind memory.
    #[inline]
    pub(super) fn found_in(self, tier: Option<Tier>) -> Self {
        match tier {
            Some(tier) => self.found_behind(tier),
            None => self,
        }
    }

    #[cold]
    fn found_behind(mut self, tier: Tier) -> Self {
        self.tier = tier;
        self.outcome = match (self.outcome, tier) {
            (Outcome::Hit { ttl }, Tier::Disk) => Outcome::Disk { ttl },
            (Outcome::Hit { ttl }, Tier::Redis) => Outcome::Redis { ttl },
            (outcome, _) => outcome,
        };
        self
    }

    /// Where it was found.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Whether a client with these wishes has it, stale as it is.
    pub(super) fn suits_stale(&self, wishes: &Wishes) -> bool {
        let Outcome::Stale { since, .. } = self.outcome else { return false };
        wishes.take_stale(Duration::from_secs(self.age.unwrap_or(0)), Duration::from_secs(since))
    }

    /// How long the body is, or will be.
    pub fn length(&self) -> usize {
        self.flowing.as_ref().map_or_else(|| self.entry.length(), |(_, length)| *length)
    }

    /// Its body, if there is one, and all of it is there, on disk alone.
    pub fn on_disk(&self) -> Option<&Arc<Flow>> {
        self.flow().filter(|_| self.is_long() && self.length() > 0)
    }

    /// Whether its body is in a file of its own.
    pub(super) fn is_long(&self) -> bool {
        self.entry.long.is_some()
    }

    /// The body that is still on its way, or on disk.
    pub fn flow(&self) -> Option<&Arc<Flow>> {
        self.flowing.as_ref().map(|(flow, _)| flow)
    }

    /// Its body, for who reads it.
    pub fn lent(&self) -> Lent {
        match &self.flowing {
            Some((flow, _)) => Lent::of_entry(&self.entry, flow.clone()),
            None => Lent::whole(&self.entry),
        }
    }

    /// These bytes of its body, if they are in memory.
    pub fn cut(&self, range: Range<usize>) -> Option<Chunks> {
        match &self.entry.pieces {
            Some(pieces) => pieces.cut(range),
            None if self.flowing.is_some() => None,
            None => {
                let whole = &self.entry.body;
                Some(std::iter::once(whole.slice(range.start.min(whole.len())..range.end.min(whole.len()))).collect())
            }
        }
    }

    /// Whether a client with these wishes has it.
    pub(super) fn suits(&self, wishes: &Wishes) -> bool {
        let (Outcome::Hit { ttl } | Outcome::Disk { ttl } | Outcome::Redis { ttl }) = self.outcome else { return true };
        wishes.take(Duration::from_secs(self.age.unwrap_or(0)), Duration::from_secs(ttl))
    }

    /// Whether somebody was given it out of the cache before, or is given it by whoever fetches it.
    #[inline]
    pub fn is_shown_again(&self) -> bool {
        self.tier == Tier::None || self.entry.shown.again()
    }

    /// Which one of all that were stored it is. Never 0.
    pub fn number(&self) -> u64 {
        self.entry.number
    }

    pub fn age(&self) -> Option<u64> {
        self.age
    }

    pub fn head(&self) -> &StoredHead {
        &self.entry.meta.head
    }

    pub fn body(&self) -> &Bytes {
        &self.entry.body
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether a client has this answer already, if the conditions of its request say so.
    pub fn is_unchanged(&self, conditions: &RequestHeader) -> bool {
        self.head().to_header().is_ok_and(|head| is_unchanged(conditions, &head))
    }

    /// Whether the parts that a request asks for are all here.
    pub(super) fn has(&self, asked: &RequestHeader) -> bool {
        let Ok(mut head) = self.head().to_header() else { return false };
        match range(asked, &mut head, false) {
            RangeType::Single(range) => self.cut(range).is_some(),
            RangeType::Multi(several) => several.ranges.into_iter().all(|range| self.cut(range).is_some()),
            // How long the whole is, is known.
            RangeType::Invalid => true,
            RangeType::None => false,
        }
    }

    /// The answer for a client that has this one already.
    pub fn not_modified(&self, conditions: &RequestHeader) -> Option<StoredHead> {
        self.is_unchanged(conditions).then(|| self.head().not_modified())
    }
}

/// The body of an entry that is on disk.
fn long(entry: &Entry) -> Option<(Arc<Flow>, usize)> {
    entry.long.as_ref().map(|long| (Flow::of_long(long.clone()), long.length()))
}

fn age(entry: &Entry, now: SystemTime) -> Duration {
    now.duration_since(entry.meta.epoch).unwrap_or_default()
}

/// A request with these fields alone, for Pingora's filters to look at. `None` if it has none of them. `seen` are the values of a field of the
/// request as the backend sees them.
pub fn asked<'v, V>(method: &Method, names: &[HeaderName], seen: impl Fn(&HeaderName) -> V) -> Option<RequestHeader>
where
    V: IntoIterator<Item = &'v [u8]>,
{
    let mut request = None;
    for name in names {
        for value in seen(name) {
            let request = match &mut request {
                Some(request) => request,
                None => request.insert(RequestHeader::build(method.clone(), b"/", None).ok()?),
            };
            request.append_header(name, pingora_http::header_value_from_slice(value)).ok()?;
        }
    }
    request
}
