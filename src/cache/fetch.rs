//! What is looked for and not found: who fetches it, whether the answer is stored, and where.
//!
//! A key's first answer stands in the primary place, whatever it varies by; those that its `Vary` tells apart stand beside it, each under
//! its variance. They count only as long as the primary stands that they were found by: `created` of the primary is the oldest that a
//! variant may be, so that whatever takes the primary away (a purge, another `Vary`) takes all of them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode};
use pingora_cache::NoCacheReason;
use pingora_cache::key::HashBinary;
use pingora_cache::predictor::CacheablePredictor;

use super::entry::{Entry, Index, Meta};
use super::hit::Hit;
use super::memory::Filling;
use super::said::Said;
use super::turns::{self, Turn, Verdict, Waiting};
use super::{Cache, CachePolicy, Key, LOCK_RETRIES, LOCK_WAIT, Outcome, StoredHead, Use, key, reason, rules};
use crate::wire::answer::AnswerHead;
use crate::wire::encode;

/// What is stored for a request.
pub enum Looked {
    Fresh(Hit),
    /// Nothing that can be given as it is.
    Missed(Missed),
    /// The key's earlier answers could not be stored, so it was not looked for.
    Predicted(Key),
}

/// See [`Looked`].
pub struct Missed {
    key: Key,
    /// Where its answer belongs.
    index: Index,
    /// What stands there and has expired.
    stale: Option<Arc<Entry>>,
    /// How many fetches had ended before it was looked.
    ended: u64,
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
    key: Key,
    index: Index,
    stale: Option<Arc<Entry>>,
    /// `None` if its answer is not stored, or is as an exception.
    turn: Option<Turn>,
    predicted: bool,
    /// It may not store.
    read_only: bool,
    /// Whatever its answer says of itself, it is a stream.
    streams: bool,
}

/// How long, and how often, one request waits for others.
#[derive(Default)]
pub struct Patience {
    times: usize,
    until: Option<Instant>,
}

/// What becomes of an answer on its way to the client.
pub enum Keeping {
    Nothing,
    Storing(Box<Storing>),
    /// It is only counted, by how many more bytes it may have: was it too long before, and is it short enough now?
    Measuring(Key, usize),
}

/// An answer that is stored once its body is whole.
pub struct Storing {
    turn: Option<Turn>,
    key: Key,
    index: Index,
    variance: Option<HashBinary>,
    fresh_until: SystemTime,
    created: SystemTime,
    epoch: SystemTime,
    /// Where the answer has none.
    date: Option<HeaderValue>,
    filling: Filling,
    /// Of the longest body that the route, and the memory, stores.
    left: usize,
}

impl Cache {
    /// What is stored under a request's key, or the variant of it that this request wants. `seen` are the values of a field of the
    /// request as the backend sees them.
    pub fn look<'v, V>(&self, policy: &CachePolicy, key: Key, seen: impl Fn(&HeaderName) -> V) -> Looked
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        if !self.predictor.cacheable_prediction(&key.hashed()) {
            return Looked::Predicted(key);
        }
        let mut index = Index::primary(&key);
        let mut ended = self.turns.ended(&index);
        let Some(mut entry) = self.storage.find(&index, &key.primary, "") else {
            return Looked::Missed(Missed { key, index, stale: None, ended });
        };
        if let Some(variance) = key::variance(policy, entry.meta.head.vary(), seen)
            && entry.meta.variance != Some(variance)
        {
            index.variance = Some(variance);
            ended = self.turns.ended(&index);
            // A purge takes the primary away alone: variants from before it was stored anew are gone with it.
            let counts =
                |variant: &Arc<Entry>| variant.meta.created >= entry.meta.created && variant.meta.variance == Some(variance);
            match self.storage.find(&index, &key.primary, "").filter(counts) {
                Some(variant) => entry = variant,
                None => return Looked::Missed(Missed { key, index, stale: None, ended }),
            }
        }
        match Hit::fresh(&entry, SystemTime::now()) {
            Some(hit) => Looked::Fresh(hit),
            None => Looked::Missed(Missed { key, index, stale: Some(entry), ended }),
        }
    }

    /// Takes the turn to fetch what was missed. A request that may not store takes none, but waits for others.
    pub fn turn(&'static self, missed: Missed, used: Use) -> Next {
        let Missed { key, index, stale, ended } = missed;
        if used != Use::Full {
            // It goes to the service as it came: what has expired is not validated by a HEAD or a part.
            return match self.turns.others(&index) {
                Some(waiting) => Next::Wait(key, waiting),
                None => {
                    Next::Fetch(Fetch { key, index, stale: None, turn: None, predicted: false, read_only: true, streams: false })
                }
            };
        }
        match self.turns.take(index, ended) {
            turns::Next::Fetch(turn) => {
                Next::Fetch(Fetch { key, index, stale, turn: Some(turn), predicted: false, read_only: false, streams: false })
            }
            turns::Next::Wait(waiting) => Next::Wait(key, waiting),
            turns::Next::Look => Next::Look(key),
        }
    }

    /// Decides whether an answer is stored, and gets ready for its body. `asked` is when it was asked for.
    pub fn admit<'v, V>(
        &'static self,
        fetch: Fetch,
        answer: &AnswerHead,
        method: &Method,
        asked: Option<Instant>,
        policy: &CachePolicy,
        seen: impl Fn(&HeaderName) -> V,
    ) -> Keeping
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let Fetch { key, mut index, stale, turn, predicted, read_only, streams } = fetch;
        if read_only {
            return Keeping::Nothing;
        }
        let (mut said, now) = (Said::by(answer), SystemTime::now());
        said.stream |= streams;
        let promised = answer.length.and_then(|length| usize::try_from(length).ok());
        let most = policy.max_body.min(self.storage.most());
        let judged = match self.judge_said(&said, &key, asked, policy, now) {
            Ok(_) if promised.is_some_and(|length| length > most) => Err(NoCacheReason::ResponseTooLarge),
            judged => judged,
        };
        let fresh = match judged {
            Ok(fresh) => fresh,
            Err(why) => {
                if let Some(turn) = turn {
                    // The next request need not wait for another one's answer.
                    self.predictor.mark_uncacheable(&key.hashed(), why);
                    turn.end(Verdict::Unfit);
                }
                return Keeping::Nothing;
            }
        };
        if predicted {
            let known = key.hashed();
            let too_large = self.predictor.predicted_uncacheable_reason(&known);
            if promised.is_none() && too_large.is_none_or(|reason| reason == NoCacheReason::ResponseTooLarge) {
                // Whether it has become shorter is known at its end.
                return Keeping::Measuring(key, most);
            }
            self.predictor.mark_cacheable(&known);
            if *method != Method::GET || answer.status != StatusCode::OK {
                // It may be an answer to a condition of its client's.
                return Keeping::Nothing;
            }
        }
        let variance = key::variance(policy, rules::members(&said.vary), seen);
        let filling = Filling::new(self.storage, promised);
        if !filling.is_wanted() {
            // There is no room now: nobody need wait for what will not be there.
            turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
            return Keeping::Nothing;
        }
        let mut created = now;
        if index.variance.is_some() && index.variance != variance {
            // It varies by something else now: it takes the primary place, and with it all variants go.
            index.variance = None;
        } else if let Some(stale) = stale.filter(|stale| index.variance.is_none() && stale.meta.variance == variance) {
            // The variants beside it still count.
            created = stale.meta.created;
        }
        Keeping::Storing(Box::new(Storing {
            turn,
            key,
            index,
            variance,
            fresh_until: now + fresh.remaining,
            created,
            // The `Age` of a hit counts from here.
            epoch: now.checked_sub(fresh.age).unwrap_or(now),
            date: said.date.is_none().then(encode::date_field),
            filling,
            left: most,
        }))
    }

    fn judge_said(
        &self,
        said: &Said<'_>,
        key: &Key,
        asked: Option<Instant>,
        policy: &CachePolicy,
        now: SystemTime,
    ) -> Result<rules::Freshness, NoCacheReason> {
        if self.was_changed(&key.primary, asked) {
            // It may be what there was before the change.
            return Err(NoCacheReason::Custom("changed"));
        }
        rules::response(said, policy, now).map_err(reason)
    }

    /// The service says that what is stored still holds: this is what it is now. `None` if nothing was.
    ///
    /// With another `Vary` it is another one's answer as well, and is fetched anew by whoever wants it next; it may be used this once all
    /// the same (RFC 9111, section 4.3.4).
    pub fn validated(&self, fetch: Fetch, answer: &AnswerHead, asked: Option<Instant>, policy: &CachePolicy) -> Option<Hit> {
        let Fetch { key, index, stale, turn, .. } = fetch;
        let stale = stale?;
        let (now, told) = (SystemTime::now(), Said::by(answer));
        let date = told.date.is_none().then(encode::date_field);
        let head = stale.meta.head.updated(answer, date.as_ref().map(HeaderValue::as_bytes));
        let judged = if rules::are_alike(stale.meta.head.vary(), head.vary()) {
            let said = Said { age: told.age, ..Said::by_stored(&head) };
            self.judge_said(&said, &key, asked, policy, now)
        } else {
            self.storage.forget(index);
            Err(NoCacheReason::Custom("another_vary"))
        };
        let mut meta = Meta { head, ..stale.meta.clone() };
        match judged {
            Ok(fresh) => {
                meta.fresh_until = now + fresh.remaining;
                meta.epoch = now.checked_sub(fresh.age).unwrap_or(now);
                self.storage.refresh(index, &key.primary, "", meta.clone());
                turn.into_iter().for_each(|turn| turn.end(Verdict::Stored));
            }
            Err(why) => {
                self.predictor.mark_uncacheable(&key.hashed(), why);
                turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
            }
        }
        Some(Hit::validated(Entry { meta, ..Entry::clone(&stale) }))
    }

    /// A body that was only counted was short enough.
    fn became_short(&self, key: &Key) {
        self.predictor.mark_cacheable(&key.hashed());
    }

    fn became_long(&self, key: &Key) {
        self.predictor.mark_uncacheable(&key.hashed(), NoCacheReason::ResponseTooLarge);
    }
}

impl Fetch {
    /// One whose answer is stored only if it is not what is expected of its key.
    pub fn predicted(key: Key, used: Use) -> Self {
        let read_only = used != Use::Full;
        Fetch { index: Index::primary(&key), key, stale: None, turn: None, predicted: true, read_only, streams: false }
    }

    /// One for its own client alone.
    pub fn alone(key: Key) -> Self {
        Fetch { predicted: false, ..Fetch::predicted(key, Use::ReadOnly) }
    }

    /// Whatever the answer says of itself, it is a stream.
    pub fn expect_stream(&mut self) {
        self.streams = true;
    }

    /// Whether the service is asked for the whole, on behalf of all.
    pub fn is_for_all(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether there is something that the service may validate.
    pub fn validates(&self) -> bool {
        self.stale.is_some()
    }

    /// The conditions under which the service need not answer with the whole.
    pub fn validators(&self) -> Vec<(HeaderName, HeaderValue)> {
        let Some(stale) = &self.stale else { return Vec::new() };
        let pairs = [(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED), (header::IF_NONE_MATCH, header::ETAG)];
        let value = |stored: &HeaderName| HeaderValue::from_bytes(stale.meta.head.header(stored)?).ok();
        pairs.into_iter().filter_map(|(asked, stored)| Some((asked, value(&stored)?))).collect()
    }

    /// What is said of it once it is known whether its answer is stored.
    pub fn outcome(&self) -> impl Fn(bool) -> Outcome + use<> {
        let (predicted, expired) = (self.predicted, self.stale.is_some());
        move |stored| match (predicted, expired) {
            (true, _) => Outcome::Predicted { stored },
            (false, true) => Outcome::Expired { stored },
            (false, false) => Outcome::Miss { stored },
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

impl Keeping {
    pub fn is_storing(&self) -> bool {
        matches!(self, Keeping::Storing(_))
    }

    /// What the client is told of when the answer was made, where the service has not.
    pub fn date(&self) -> Option<&HeaderValue> {
        match self {
            Keeping::Storing(storing) => storing.date.as_ref(),
            _ => None,
        }
    }

    /// A piece of the body.
    pub fn add(&mut self, cache: &Cache, data: &[u8]) {
        match self {
            Keeping::Nothing => {}
            Keeping::Measuring(_, left) => match left.checked_sub(data.len()) {
                Some(less) => *left = less,
                None => *self = Keeping::Nothing,
            },
            Keeping::Storing(storing) => match storing.left.checked_sub(data.len()) {
                Some(less) => {
                    storing.left = less;
                    storing.filling.add(data);
                    if !storing.filling.is_wanted() {
                        self.give_up();
                    }
                }
                None => {
                    cache.became_long(&storing.key);
                    self.give_up();
                }
            },
        }
    }

    /// It will not be stored: nobody need wait for its end.
    pub fn give_up(&mut self) {
        if let Keeping::Storing(storing) = std::mem::replace(self, Keeping::Nothing) {
            storing.turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
        }
    }

    /// The body is whole.
    pub fn done(&mut self, cache: &Cache, answer: &AnswerHead) {
        match std::mem::replace(self, Keeping::Nothing) {
            Keeping::Nothing => {}
            Keeping::Measuring(key, _) => cache.became_short(&key),
            Keeping::Storing(storing) => storing.done(answer),
        }
    }
}

impl Storing {
    fn done(self, answer: &AnswerHead) {
        let Storing { turn, key, index, variance, fresh_until, created, epoch, date, filling, .. } = self;
        let meta = |length| {
            let head = StoredHead::of_answer(answer, date.as_ref().map(HeaderValue::as_bytes), length);
            Some(Meta { fresh_until, created, epoch, variance, stale_while_revalidate: 0, stale_if_error: 0, head })
        };
        let stored = filling.finish(index, &key.primary, "", meta) > 0;
        // What is not stored for want of room is another's turn: it may find some.
        turn.into_iter().for_each(|turn| turn.end(if stored { Verdict::Stored } else { Verdict::Failed }));
    }
}
