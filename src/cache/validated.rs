//! What the service says of an answer that is stored already: a 304 (RFC 9111, sections 3.2 and 4.3.4), or the head of another one
//! (section 4.3.5).

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use http::header;
use pingora_cache::NoCacheReason;
use pingora_cache::predictor::CacheablePredictor;

use super::control::Control;
use super::entry::{Entry, Meta};
use super::fetch::Fetch;
use super::hit::Hit;
use super::memory::Excused;
use super::rules::{self, Came, Refusal};
use super::said::Said;
use super::tags::{self, Tags};
use super::turns::Verdict;
use super::{Cache, CachePolicy, StoredHead, reason};
use crate::wire::answer::AnswerHead;
use crate::wire::encode;

impl Cache {
    /// The service says that what is stored still holds: this is what it is now.
    ///
    /// With another `Vary` it is another one's answer as well, and is fetched anew by whoever wants it next; it may be used this once all
    /// the same.
    ///
    /// # Errors
    /// It speaks of something that is not what is stored. That is gone, and the fetch is to ask for the whole.
    pub fn validated(
        &self,
        mut fetch: Fetch,
        answer: &AnswerHead,
        asked: Option<Instant>,
        policy: &CachePolicy,
    ) -> Result<Hit, Box<Fetch>> {
        let Some(stale) = fetch.stale.take_if(|stale| is_about(answer, stale)) else {
            self.storage.forget(fetch.index, &fetch.key.primary);
            fetch.ask_whole();
            return Err(Box::new(fetch));
        };
        let was_asked = fetch.is_asked();
        let Fetch { key, index, turn, for_all: only_for_all, fallback, .. } = fetch;
        let came = self.came(asked);
        let mut meta = updated(&stale, answer, policy);
        let judged = if is_forbidden(&Said::by(answer)) {
            Err(reason(Refusal::Forbidden))
        } else if rules::are_alike(stale.meta.head.vary(), meta.head.vary()) {
            let said = Said { age: Said::by(answer).age, ..Said::by_stored(&meta.head) };
            self.judge_said(&said, key.place(), only_for_all, policy, came)
        } else {
            self.storage.forget(index, &key.primary);
            Err(NoCacheReason::Custom("another_vary"))
        };
        match judged {
            Ok(fresh) => {
                meta.renew(&fresh, came);
                meta.fallback = fallback;
                self.storage.refresh(index, &key.primary, "", for_all(&meta, answer), Some(stale.number));
                let verdict = if fresh.remaining.is_zero() { Verdict::Unfit } else { Verdict::Stored };
                turn.into_iter().for_each(|turn| turn.end(verdict));
            }
            Err(why) => {
                if is_forbidden(&Said::by(answer)) {
                    // Not even in the place of an error, or as a fallback.
                    self.storage.forget(index, &key.primary);
                }
                self.predictor.mark_uncacheable(&index.hashed(), why);
                turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
            }
        }
        Ok(Hit::validated(Entry { meta, ..Entry::clone(&stale) }, was_asked))
    }

    /// The head of what a GET would get: what is stored is updated by it, or, if it is another one, counts as stale (RFC 9111, section
    /// 4.3.5): it may still stand in for an error.
    pub(super) fn headed(&self, fetch: Fetch, answer: &AnswerHead, came: Came, policy: &CachePolicy) {
        let Fetch { key, index, stale: Some(stale), for_all: only_for_all, fallback, .. } = fetch else { return };
        if is_forbidden(&Said::by(answer)) {
            return self.storage.forget(index, &key.primary);
        }
        let is_as_long = answer
            .header_all(header::CONTENT_LENGTH.as_str())
            .next()
            .is_none_or(|now| stale.meta.head.header(&header::CONTENT_LENGTH) == Some(now));
        if !is_as_long || is_another(answer, &stale.meta.head) {
            return self.storage.outdate(index, &key.primary, stale.number, Excused::ForErrors(fallback));
        }
        // It has to say which one it is about.
        if [header::ETAG, header::LAST_MODIFIED].iter().all(|name| answer.header_all(name.as_str()).next().is_none()) {
            return;
        }
        let mut meta = updated(&stale, answer, policy);
        let alike = rules::are_alike(stale.meta.head.vary(), meta.head.vary());
        let judged = {
            let told = Said { age: Said::by(answer).age, ..Said::by_stored(&meta.head) };
            let is_kept = alike && (!only_for_all || rules::is_for_all(&told));
            rules::response(&told, policy, came).ok().filter(|_| is_kept)
        };
        match judged {
            Some(fresh) => {
                meta.renew(&fresh, came);
                meta.fallback = fallback;
                self.storage.refresh(index, &key.primary, "", for_all(&meta, answer), Some(stale.number));
            }
            None => self.storage.forget(index, &key.primary),
        }
    }
}

fn updated(stale: &Entry, by: &AnswerHead, policy: &CachePolicy) -> Meta {
    let said = Said::by(by);
    let date = said.date.is_none().then(encode::date_field);
    let mut meta = Meta { head: stale.meta.head.updated(by, date.as_ref().map(HeaderValue::as_bytes)), ..stale.meta.clone() };
    if said.names_tags() {
        // Too many of them: it is not stored any longer.
        meta.tags = Tags::of(&said).ok().flatten();
        if !policy.keep_tags {
            meta.head = meta.head.without(&tags::fields());
        }
    }
    meta
}

/// What others may have of it: not the fields that the stored answer or this one keeps for one client, as when it was admitted. Its own
/// client has them.
fn for_all(meta: &Meta, by: &AnswerHead) -> Meta {
    let mut withheld = Control::of(&Said::by_stored(&meta.head)).withheld_names();
    // A field that is meant for this cache may be left from before, and say nothing of what came now.
    withheld.extend(Control::of(&Said::by(by)).withheld_names());
    let mut meta = meta.clone();
    if !withheld.is_empty() {
        meta.head = meta.head.without(&withheld);
    }
    meta
}

/// Whether an answer's validators are those of another one than what is stored.
pub(super) fn is_another(answer: &AnswerHead, stored: &StoredHead) -> bool {
    [header::ETAG, header::LAST_MODIFIED]
        .iter()
        .any(|name| answer.header_all(name.as_str()).next().is_some_and(|now| stored.header(name) != Some(now)))
}

/// Whether it says of itself that it is not for this cache, whatever was said before.
pub(super) fn is_forbidden(said: &Said<'_>) -> bool {
    let control = Control::of(said);
    Tags::of(said).is_err() || control.private || control.no_store && !control.must_understand
}

/// Whether a 304 is about what is stored: it names no tag, or the same one (RFC 9111, section 4.3.4).
fn is_about(answer: &AnswerHead, stale: &Arc<Entry>) -> bool {
    let known = stale.meta.head.header(&header::ETAG);
    answer.header_all("etag").all(|tag| known.is_some_and(|known| rules::is_same_tag(tag, known)))
}
