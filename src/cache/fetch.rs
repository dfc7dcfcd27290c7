//! What is looked for: whether it is there, and who fetches it if it is not. Where what is not in memory may be is [`super::behind`]'s to
//! say, and what becomes of the answer that is fetched [`super::admit`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use http::header::{self, HeaderName};
use pingora_cache::predictor::CacheablePredictor;
use pingora_http::RequestHeader;

use super::behind::{Found, tier_of};
use super::entry::{Entry, Index};
use super::flow::Flowing;
use super::hit::{Excuse, Hit};
use super::moment::Moment;
use super::pieces;
use super::said::Said;
use super::turns::{self, Turn, Verdict, Waiting};
use super::{Cache, CachePolicy, Key, LOCK_RETRIES, LOCK_WAIT, Outcome, Use, Wishes, key, rules, setback};

/// What is stored for a request.
pub enum Looked {
    /// It can be given as it is.
    Fresh(Hit),
    /// It can be, and somebody should fetch another one.
    Stale(Box<(Hit, Missed)>),
    /// Nothing that can be given as it is.
    Missed(Missed),
    /// Nor that, and the answer before could not be stored: each asks for itself, and at once.
    Predicted(Missed),
}

/// See [`Looked`].
pub struct Missed {
    pub(super) key: Key,
    /// Where its answer belongs.
    pub(super) index: Index,
    /// What stands there and has expired, or is not what the client wants.
    pub(super) stale: Option<Arc<Entry>>,
    /// How many fetches had ended before it was looked.
    ended: u64,
    why: Why,
}

/// Why what is stored is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Nothing,
    Expired,
    /// It has to be validated each time: what another one is told is not for this one.
    NeverFresh,
    /// The client wants none that is stored, or none like this.
    Asked,
}

/// What a stored answer is to a request.
pub(super) enum Worth {
    Given(Hit),
    /// While somebody fetches another one.
    Meanwhile(Hit),
    Nothing(Why),
}

impl Worth {
    #[inline]
    pub(super) fn of(entry: &Arc<Entry>, policy: &CachePolicy, wishes: &Wishes) -> Self {
        if wishes.for_all && !rules::is_for_all(&Said::by_stored(&entry.meta.head)) || policy.refuses(entry.meta.head.status) {
            return Worth::Nothing(Why::Nothing);
        }
        let now = setback::now_for(entry.meta.asked);
        match Hit::fresh(entry, now) {
            Some(hit) if hit.suits(wishes) => Worth::Given(hit),
            Some(_) => Worth::Nothing(Why::Asked),
            None => Worth::of_stale(entry, policy, wishes, now),
        }
    }

    fn of_stale(entry: &Arc<Entry>, policy: &CachePolicy, wishes: &Wishes, now: SystemTime) -> Self {
        let patient = !wishes.reload && wishes.max_age.is_none() && wishes.min_fresh.is_none();
        if let Some(hit) = Hit::stale(entry, now, Excuse::Revalidating, policy).filter(|_| patient) {
            return Worth::Meanwhile(hit);
        }
        let why = match wishes.reload {
            true => Why::Asked,
            false if rules::is_never_fresh(&Said::by_stored(&entry.meta.head), policy) => Why::NeverFresh,
            false => Why::Expired,
        };
        let takes = wishes.max_stale.and_then(|_| Hit::stale(entry, now, Excuse::Asked, policy));
        takes.filter(|hit| hit.suits_stale(wishes)).map_or(Worth::Nothing(why), Worth::Given)
    }
}

/// What there is to do about a miss.
pub enum Next {
    /// Ask the service.
    Fetch(Fetch),
    /// Wait for who is asking already, then look again.
    Wait(Key, Waiting),
    /// Look again.
    Look(Key),
}

/// A request to the service, and what may become of its answer.
pub struct Fetch {
    pub(super) key: Key,
    /// Where it was looked for.
    pub(super) index: Index,
    pub(super) stale: Option<Arc<Entry>>,
    /// `None` if nobody waits for it.
    pub(super) turn: Option<Turn>,
    why: Why,
    pub(super) predicted: bool,
    /// It may not store.
    pub(super) read_only: bool,
    /// Whatever its answer says of itself, it is a stream.
    pub(super) streams: bool,
    /// What is stored is not to be validated.
    whole: bool,
    /// Only what is for all is stored.
    pub(super) for_all: bool,
    /// It may not store but parts, and what turns out to be no part.
    pub(super) parts: bool,
    /// What comes of it is for its client alone.
    alone: bool,
    /// For how many seconds after its lifetime it may be its route's fallback.
    pub(super) fallback: u32,
}

/// How long, and how often, one request waits for others.
#[derive(Default)]
pub struct Patience {
    times: usize,
    until: Option<Instant>,
}

impl Cache {
    /// What is stored under a request's key, or the variant of it that this request wants. `seen` are the values of a field of the
    /// request as the backend sees them.
    pub fn look<'v, V>(&self, policy: &CachePolicy, key: Key, wishes: &Wishes, seen: impl Fn(&HeaderName) -> V) -> Looked
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        self.look_with(&[], policy, key, wishes, seen)
    }

    /// The same, with what was found behind memory for this request: memory may not have room for it.
    pub fn look_with<'v, V>(
        &self,
        behind: &[Found],
        policy: &CachePolicy,
        key: Key,
        wishes: &Wishes,
        seen: impl Fn(&HeaderName) -> V,
    ) -> Looked
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let (index, entry, ended) = self.stored(Index::primary(&key), "", behind, policy, &key, seen);
        let missed = |stale, why| Missed { key, index, stale, ended, why };
        let missed = match entry {
            None => missed(None, if wishes.reload { Why::Asked } else { Why::Nothing }),
            Some(entry) => match Worth::of(&entry, policy, wishes) {
                Worth::Given(hit) => return Looked::Fresh(hit.found_in(tier_of(behind, &entry))),
                Worth::Meanwhile(hit) => {
                    let hit = hit.found_in(tier_of(behind, &entry));
                    return Looked::Stale(Box::new((hit, missed(Some(entry), Why::Expired))));
                }
                Worth::Nothing(Why::Nothing) => missed(None, Why::Nothing),
                Worth::Nothing(why) => missed(Some(entry), why),
            },
        };
        // Only now: of what is stored nothing is predicted.
        if self.is_predicted(&index) { Looked::Predicted(missed) } else { Looked::Missed(missed) }
    }

    /// Whether the last answer that belonged there could not be stored.
    pub(super) fn is_predicted(&self, index: &Index) -> bool {
        !self.predictor.cacheable_prediction(&index.hashed())
    }

    /// The parts of an answer that are stored, if they are what is `asked` for.
    pub fn parts<'v, V>(
        &self,
        policy: &CachePolicy,
        key: &Key,
        wishes: &Wishes,
        asked: &RequestHeader,
        seen: impl Fn(&HeaderName) -> V,
    ) -> Option<Hit>
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let entry = self.stored(Index::parts(key), pieces::MARK, &[], policy, key, seen).1?;
        let Worth::Given(hit) = Worth::of(&entry, policy, wishes) else { return None };
        hit.has(asked).then_some(hit)
    }

    /// Where the answer to a request stands, or belongs, of those with that mark; and how many fetches had ended before it was looked.
    pub(super) fn stored<'v, V>(
        &self,
        primary: Index,
        mark: &str,
        behind: &[Found],
        policy: &CachePolicy,
        key: &Key,
        seen: impl Fn(&HeaderName) -> V,
    ) -> (Index, Option<Arc<Entry>>, u64)
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let mut index = primary;
        let mut ended = self.turns.ended(&index);
        let Some(entry) = self.find(behind, &index, key, mark) else { return (index, None, ended) };
        if let Some(variance) = key::variance(policy, entry.meta.head.vary(), seen)
            && entry.meta.variance != Some(variance)
        {
            index.variance = Some(variance);
            ended = self.turns.ended(&index);
            // A purge takes the primary away alone: variants from before it was stored anew are gone with it.
            let counts =
                |variant: &Arc<Entry>| variant.meta.created >= entry.meta.created && variant.meta.variance == Some(variance);
            return (index, self.find(behind, &index, key, mark).filter(counts), ended);
        }
        (index, Some(entry), ended)
    }

    fn find(&self, behind: &[Found], index: &Index, key: &Key, mark: &str) -> Option<Arc<Entry>> {
        let found = self.storage.find(index, &key.primary, mark);
        if found.is_some() || behind.is_empty() {
            return found;
        }
        // What Redis has is looked for last, and is younger.
        let mut known = behind.iter().rev().filter(|found| found.sought == index.variance);
        known.find_map(|found| self.storage.still(index, &key.primary, "", found.entry.clone()))
    }

    /// The answer that is on its way, if it is one for this request as well.
    pub fn flowing<'v, V>(
        &self,
        policy: &CachePolicy,
        wishes: &Wishes,
        flowing: &Flowing,
        seen: impl Fn(&HeaderName) -> V,
    ) -> Option<Hit>
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let meta = &flowing.entry.meta;
        if self.storage.is_purged(&flowing.entry) {
            // It may be what there was before the change.
            return None;
        }
        if key::variance(policy, meta.head.vary(), seen) != meta.variance {
            return None;
        }
        if wishes.for_all && !rules::is_for_all(&Said::by_stored(&meta.head)) {
            return None;
        }
        Hit::flowing(flowing, setback::now_for(meta.asked), wishes)
    }

    /// What is stored for a request and may be given with this excuse, without a thought of fetching it: as a fallback what is fresh, too.
    pub fn kept<'v, V>(
        &self,
        policy: &CachePolicy,
        key: &Key,
        wishes: &Wishes,
        excuse: Excuse,
        seen: impl Fn(&HeaderName) -> V,
    ) -> Option<Hit>
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let entry = self.stored(Index::primary(key), "", &[], policy, key, seen).1?;
        let now = setback::now_for(entry.meta.asked);
        if wishes.for_all && !rules::is_for_all(&Said::by_stored(&entry.meta.head)) {
            return None;
        }
        let is_good = matches!(excuse, Excuse::Fallback(_)) && Hit::is_good(&entry);
        let fresh = if is_good { Hit::fresh(&entry, now) } else { None };
        fresh.or_else(|| Hit::stale(&entry, now, excuse, policy))
    }

    /// Forgets the stored answer of that number, if it is what stands there for this request, or nothing does in memory: where it may be
    /// besides. Not what somebody has stored in its place.
    #[cold]
    pub fn forget_number<'v, V>(&self, policy: &CachePolicy, key: &Key, number: u64, seen: impl Fn(&HeaderName) -> V)
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let (index, found, _) = self.stored(Index::primary(key), "", &[], policy, key, seen);
        if found.is_none_or(|entry| entry.number == number) {
            self.storage.forget(index, &key.primary);
        }
    }

    /// Takes the turn to fetch what was missed. A request that may not store takes none, but waits for others.
    pub fn turn(&'static self, missed: Missed, used: Use, wishes: &Wishes) -> Next {
        let Missed { key, index, stale, ended, why } = missed;
        let read_only = used != Use::Full;
        let fetch = |key, turn| Next::Fetch(Fetch { stale, turn, why, read_only, ..Fetch::of(key, index, wishes) });
        if matches!(why, Why::NeverFresh | Why::Asked) {
            return fetch(key, None);
        }
        // What was asked for before a change is not waited for by who asks after it. Which tags it has is known once it is on its way.
        let outdated = |since, flowing: Option<&Flowing>| {
            self.storage.was_touched(key.place(), &key.primary, Moment::of(since).get())
                || flowing.is_some_and(|flowing| self.storage.is_purged(&flowing.entry))
        };
        if read_only {
            // It goes to the service as it came: what has expired is not validated by a HEAD or a part.
            return match self.turns.others(&index, outdated) {
                Some(waiting) => Next::Wait(key, waiting),
                None => fetch(key, None),
            };
        }
        match self.turns.take(index, ended, outdated) {
            turns::Next::Fetch(turn) => fetch(key, Some(turn)),
            turns::Next::Wait(waiting) => Next::Wait(key, waiting),
            turns::Next::Look => Next::Look(key),
        }
    }

    /// Whether the answer would be stored, as far as that goes by how often it was asked for. It counts as asked for by that.
    pub fn is_asked_again(&self, missed: &Missed, policy: &CachePolicy) -> bool {
        missed.stale.is_some() || !policy.asks_twice() || self.was_asked(missed.key.halves())
    }

    /// What was found before, if it has not been taken out meanwhile.
    pub(super) fn stale(&self, entry: &Arc<Entry>, excuse: Excuse, policy: &CachePolicy) -> Option<Hit> {
        Hit::stale(entry, setback::now_for(entry.meta.asked), excuse, policy).filter(|_| !self.storage.is_gone(entry))
    }
}

impl Missed {
    /// Whether others may have what is fetched for this one without asking themselves.
    pub fn is_for_others(&self) -> bool {
        matches!(self.why, Why::Nothing | Why::Expired)
    }

    /// The same, to look for something else.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What it was looked for under.
    pub fn into_key(self) -> Key {
        self.key
    }

    /// What may be given in its place.
    pub fn excuse(&self, cache: &Cache, excuse: Excuse, policy: &CachePolicy) -> Option<Hit> {
        cache.stale(self.stale.as_ref()?, excuse, policy)
    }
}

impl Fetch {
    fn of(key: Key, index: Index, wishes: &Wishes) -> Self {
        Fetch {
            key,
            index,
            stale: None,
            turn: None,
            why: Why::Nothing,
            predicted: false,
            read_only: false,
            streams: false,
            whole: false,
            for_all: wishes.for_all,
            parts: false,
            alone: false,
            fallback: 0,
        }
    }

    /// One whose answer is stored only if it is not what is expected of it.
    pub fn predicted(missed: Missed, used: Use, wishes: &Wishes) -> Self {
        let Missed { key, index, stale, why, .. } = missed;
        Fetch { stale, why, predicted: true, read_only: used != Use::Full, ..Fetch::of(key, index, wishes) }
    }

    /// One for its own client alone.
    pub fn alone(key: Key, wishes: &Wishes) -> Self {
        let index = Index::primary(&key);
        Fetch { read_only: true, alone: true, ..Fetch::of(key, index, wishes) }
    }

    /// For so long after its lifetime it may be its route's fallback.
    pub fn keep_for(&mut self, within: Option<Duration>) {
        self.fallback = within.map_or(0, |within| u32::try_from(within.as_secs()).unwrap_or(u32::MAX));
    }

    /// Its client asks for a part, and what comes of it may be kept.
    pub fn keep_parts(&mut self) {
        self.parts = self.read_only && !self.alone;
    }

    /// The service has failed. So it would those who wait, one after the other: each asks for itself, and at once.
    pub fn failed(self) {
        self.turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
    }

    /// Waits until nobody waits for what comes of it.
    pub async fn unwanted(&self) {
        if let Some(turn) = &self.turn {
            turn.unwanted().await;
        }
    }

    /// Whatever the answer says of itself, it is a stream.
    pub fn expect_stream(&mut self) {
        self.streams = true;
    }

    /// Whether the service is asked for the whole, whatever part of it, and on whatever condition, the client wants.
    pub fn is_for_all(&self) -> bool {
        !self.read_only && !self.predicted
    }

    /// Whether the service is asked for the whole once more, because its 304 was about something else than what is stored.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether there is something that the service may validate.
    pub fn validates(&self) -> bool {
        self.stale.is_some() && self.is_for_all() && !self.whole
    }

    /// What was missed, for who looks again.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What is stored did not help: the whole is asked for.
    pub fn ask_whole(&mut self) {
        self.whole = true;
    }

    /// Whether anything is stored that has expired, and is better than an error.
    pub fn has_better(&self) -> bool {
        self.stale.as_ref().is_some_and(|stale| !rules::is_error(stale.meta.head.status))
    }

    /// What may be given in the place of an error.
    pub fn excuse(&self, cache: &Cache, excuse: Excuse, policy: &CachePolicy) -> Option<Hit> {
        cache.stale(self.stale.as_ref()?, excuse, policy)
    }

    /// The client would not have what is stored.
    pub(super) fn is_asked(&self) -> bool {
        self.why == Why::Asked
    }

    /// The conditions under which the service need not answer with the whole.
    pub fn validators(&self) -> Vec<(HeaderName, HeaderValue)> {
        let Some(stale) = self.stale.as_ref().filter(|_| self.validates()) else { return Vec::new() };
        let pairs = [(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED), (header::IF_NONE_MATCH, header::ETAG)];
        let value = |stored: &HeaderName| HeaderValue::from_bytes(stale.meta.head.header(stored)?).ok();
        pairs.into_iter().filter_map(|(asked, stored)| Some((asked, value(&stored)?))).collect()
    }

    /// What is said of it once it is known whether its answer is stored.
    pub fn outcome(&self) -> impl Fn(bool) -> Outcome + use<> {
        let (predicted, why) = (self.predicted, self.why);
        move |stored| match (predicted, why) {
            (true, _) => Outcome::Predicted { stored },
            (false, Why::Nothing) => Outcome::Miss { stored },
            (false, Why::Expired | Why::NeverFresh) => Outcome::Expired { stored },
            (false, Why::Asked) => Outcome::Reloaded { stored },
        }
    }
}

impl Patience {
    /// How much longer may be waited; `None` if it was long, or often, enough.
    pub fn left(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + LOCK_WAIT);
        self.times += 1;
        let left = until.saturating_duration_since(now);
        (self.times <= LOCK_RETRIES + 1 && !left.is_zero()).then_some(left)
    }
}
