//! Whether a service's answer is stored, and where.
//!
//! A key's first answer stands in the primary place, whatever it varies by; those that its `Vary` tells apart stand beside it, each under
//! its variance. They count only as long as the primary stands that they were found by: `created` of the primary is the oldest that a
//! variant may be, so that whatever takes the primary away (a purge, another `Vary`) takes all of them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use pingora_cache::NoCacheReason;
use pingora_cache::key::HashBinary;
use pingora_cache::predictor::CacheablePredictor;
use smallvec::SmallVec;

use super::changed::Place;
use super::control::Control;
use super::disk::WORTH;
use super::entry::{Entry, Index};
use super::fetch::Fetch;
use super::hit::Excuse;
use super::keeping::{Keeping, Storing};
use super::memory::{Excused, Filling};
use super::pieces::{self, Part};
use super::said::Said;
use super::tags::{self, Tags};
use super::turns::Verdict;
use super::{Cache, CachePolicy, Key, StoredHead, key, reason, rules, setback, validated};
use crate::wire::answer::AnswerHead;
use crate::wire::encode::{self, is_bodiless};

impl Cache {
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
        let came = self.came(asked);
        let is_part = answer.status == StatusCode::PARTIAL_CONTENT;
        if fetch.read_only && !(fetch.parts && (is_part || answer.status == StatusCode::OK)) {
            if *method == Method::HEAD && answer.status == StatusCode::OK {
                if policy.has_parts() {
                    self.headed_parts(&fetch.key, answer, policy, seen);
                }
                self.headed(fetch, answer, came, policy);
            }
            return Keeping::Nothing;
        }
        // What one client has asked for anew may be for him alone.
        let is_asked = fetch.is_asked();
        let Fetch { key, index, stale, turn, predicted, streams, for_all, parts, fallback, .. } = fetch;
        let sought = index;
        let (mut said, now) = (Said::by(answer), came.now);
        said.stream |= streams;
        let part = if is_part && parts { Part::of(answer) } else { None };
        if part.is_some() {
            // What is kept is of the whole.
            said.status = StatusCode::OK;
        }
        let promised = match (is_bodiless(answer.status), part) {
            // Whatever it says.
            (true, _) => Some(0),
            (false, Some(part)) => Some(part.length),
            (false, None) => answer.length.and_then(|length| usize::try_from(length).ok()),
        };
        let spills = policy.on_disk && part.is_none();
        let tagged = said.names_tags();
        // With too many of them it would not be stored.
        let tags = if tagged { Tags::of(&said).ok().flatten() } else { None };
        let fields = answer.fields.iter().map(|field| field.name.len() + field.value.len());
        let overhead = Entry::beside(&key.primary, tags.as_ref(), StoredHead::most_of(fields));
        let most = policy.max_body.min(if spills { self.storage.most_on_disk(overhead) } else { self.storage.most(overhead) });
        let place = key.place();
        let judged = match self.judge_said(&said, place, for_all, policy, came) {
            Ok(_) if promised.is_some_and(|length| length > most) => Err(NoCacheReason::ResponseTooLarge),
            Ok(_) if rules::is_trouble(said.status) && self.has_better(&key, stale.as_ref(), fallback, policy) => {
                Err(NoCacheReason::Custom("trouble"))
            }
            judged => judged,
        };
        let fresh = match judged {
            Ok(fresh) => fresh,
            Err(why) => {
                let is_another =
                    |stale: &Arc<Entry>| !is_asked || said.status.is_success() && validated::is_another(answer, &stale.meta.head);
                let tells = part.is_none() && !for_all && !predicted && rules::is_of_target(said.status);
                if let Some(stale) = stale.filter(|stale| tells && is_another(stale)) {
                    self.supersede(&key, index, &stale, &said, fallback);
                }
                if let Some(turn) = turn {
                    // The next request need not wait for another one's answer.
                    self.predictor.mark_uncacheable(&sought.hashed(), why);
                    turn.end(Verdict::Unfit);
                }
                return Keeping::Nothing;
            }
        };
        if predicted && part.is_none() {
            let known = sought.hashed();
            let too_large = self.predictor.predicted_uncacheable_reason(&known);
            if promised.is_none() && too_large.is_none_or(|reason| reason == NoCacheReason::ResponseTooLarge) {
                // Whether it has become shorter is known at its end.
                return Keeping::Measuring(sought, most);
            }
            self.predictor.mark_cacheable(&known);
            if *method != Method::GET || answer.status != StatusCode::OK {
                // It may be an answer to a condition of its client's.
                return Keeping::Nothing;
            }
        }
        if stale.is_none() && policy.asks_twice() && !self.was_asked(key.halves()) {
            // Others who want it now are asking for the second time.
            turn.into_iter().for_each(|turn| turn.end(Verdict::Failed));
            return Keeping::Nothing;
        }
        let variance = if said.vary.is_empty() { None } else { key::variance(policy, rules::members(&said.vary), &seen) };
        // What is not good for so long is not written.
        let grace = fresh.while_revalidate.max(fresh.if_error).max(fallback);
        let spills = spills && fresh.remaining.saturating_add(Duration::from_secs(grace.into())) > WORTH;
        let filling = Filling::new(self.storage, promised, overhead, spills);
        if !filling.is_wanted() {
            // There is no room now: nobody need wait for what will not be there.
            turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
            return Keeping::Nothing;
        }
        // Fields are named in quotes or not at all.
        let names_fields = said.cache_control.iter().any(|line| memchr::memchr(b'"', line).is_some());
        let mut withheld = if names_fields { Control::of(&said).withheld_names() } else { SmallVec::new() };
        if tagged && !policy.keep_tags {
            withheld.extend(tags::fields());
        }
        let new = setback::onward();
        let (mut index, mut created) = place_of(index, variance, stale.as_deref(), new);
        let parts = policy.has_parts().then(|| self.stored(Index::parts(&key), pieces::MARK, &[], policy, &key, &seen));
        let (mut whole, mut beside) = (None, None);
        match (part, parts) {
            (Some(part), Some((at, known, _))) => {
                whole = Some((part, index, created));
                (index, created) = place_of(at, variance, known.as_deref(), new);
            }
            (None, Some((at, Some(_), _))) => beside = Some(at),
            _ => {}
        }
        Keeping::Storing(Box::new(Storing {
            turn,
            key,
            place,
            index,
            sought,
            variance,
            fresh_until: now + fresh.remaining,
            lasts: !fresh.remaining.is_zero(),
            created,
            // The `Age` of a hit counts from here.
            epoch: now.checked_sub(fresh.age).unwrap_or(now),
            stale_while_revalidate: fresh.while_revalidate,
            stale_if_error: fresh.if_error,
            date: said.date.is_none().then(encode::date_field),
            asked: came.asked,
            tags,
            tagged,
            on_disk: policy.on_disk,
            in_redis: policy.in_redis,
            fallback,
            withheld,
            filling,
            part: whole,
            parts: beside,
            most,
            told: false,
            left: most,
        }))
    }

    /// The service has another answer than what is stored, and that cannot be stored: what is stored counts as stale, and is not even given in
    /// the place of an error if the service says that it is not for this cache.
    #[cold]
    fn supersede(&self, key: &Key, index: Index, stale: &Arc<Entry>, said: &Said<'_>, fallback: u32) {
        if !self.storage.is_gone(stale) {
            let excuse = if validated::is_forbidden(said) { Excused::Never } else { Excused::ForErrors(fallback) };
            self.storage.outdate(index, &key.primary, stale.number, excuse);
        }
    }

    /// The head of what a GET would get: parts of another one are gone.
    fn headed_parts<'v, V>(&self, key: &Key, answer: &AnswerHead, policy: &CachePolicy, seen: impl Fn(&HeaderName) -> V)
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let (index, Some(entry), _) = self.stored(Index::parts(key), pieces::MARK, &[], policy, key, seen) else { return };
        let known = entry.meta.head.header(&header::ETAG);
        let same = answer.header_all("etag").all(|tag| known == Some(tag))
            && answer.length.is_none_or(|length| length == entry.length() as u64);
        if !same {
            self.storage.forget_parts(index);
        }
    }

    pub(super) fn judge_said(
        &self,
        said: &Said<'_>,
        place: Place,
        for_all: bool,
        policy: &CachePolicy,
        came: rules::Came,
    ) -> Result<rules::Freshness, NoCacheReason> {
        if self.was_changed(place, came) {
            // It may be what there was before the change.
            return Err(NoCacheReason::Custom("changed"));
        }
        let fresh = rules::response(said, policy, came).map_err(reason)?;
        if for_all && !rules::is_for_all(said) { Err(reason(rules::Refusal::Credentials)) } else { Ok(fresh) }
    }

    /// Whether there is a good answer that may still be the route's fallback, for so many seconds after its lifetime, or for as long as
    /// another one who shares it wants it. An error would take its place, or, without the same `Vary`, that of all variants.
    #[cold]
    fn has_better(&self, key: &Key, stale: Option<&Arc<Entry>>, fallback: u32, policy: &CachePolicy) -> bool {
        let first = self.storage.find(&Index::primary(key), &key.primary, "");
        stale.into_iter().chain(&first).any(|entry| {
            let within = fallback.max(entry.meta.fallback);
            let excuse = Excuse::Fallback(Duration::from_secs(within.into()));
            within > 0 && self.stale(entry, excuse, policy).is_some()
        })
    }

    /// A body that was only counted was short enough.
    pub(super) fn became_short(&self, sought: Index) {
        self.predictor.mark_cacheable(&sought.hashed());
    }

    pub(super) fn became_long(&self, sought: Index) {
        self.predictor.mark_uncacheable(&sought.hashed(), NoCacheReason::ResponseTooLarge);
    }
}

/// Where an answer goes that was looked for there, and what it is `created`.
fn place_of(mut index: Index, variance: Option<HashBinary>, stale: Option<&Entry>, new: SystemTime) -> (Index, SystemTime) {
    let mut created = new;
    if index.variance.is_some() && index.variance != variance {
        // It varies by something else now: it takes the primary place, and with it all variants go.
        index.variance = None;
    } else if let Some(stale) = stale.filter(|stale| index.variance.is_none() && stale.meta.variance == variance) {
        // The variants beside it still count.
        created = stale.meta.created;
    }
    (index, created)
}
