//! What the service says of an answer that is stored already: a 304 (RFC 9111, sections 3.2 and 4.3.4), or the head of another one
//! (section 4.3.5).

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use http::header;
use pingora_cache::NoCacheReason;
use pingora_cache::predictor::CacheablePredictor;

use super::entry::{Entry, Meta};
use super::fetch::Fetch;
use super::hit::Hit;
use super::rules::{self, Came};
use super::said::Said;
use super::turns::Verdict;
use super::{Cache, CachePolicy};
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
            self.storage.forget(fetch.index);
            fetch.ask_whole();
            return Err(Box::new(fetch));
        };
        let was_asked = fetch.is_asked();
        let Fetch { key, index, turn, .. } = fetch;
        let came = self.came(asked);
        let mut meta = updated(&stale, answer);
        let judged = if rules::are_alike(stale.meta.head.vary(), meta.head.vary()) {
            let said = Said { age: Said::by(answer).age, ..Said::by_stored(&meta.head) };
            self.judge_said(&said, &key, asked, policy, came)
        } else {
            self.storage.forget(index);
            Err(NoCacheReason::Custom("another_vary"))
        };
        match judged {
            Ok(fresh) => {
                meta.renew(&fresh, came.now);
                self.storage.refresh(index, &key.primary, "", meta.clone());
                let verdict = if fresh.remaining.is_zero() { Verdict::Unfit } else { Verdict::Stored };
                turn.into_iter().for_each(|turn| turn.end(verdict));
            }
            Err(why) => {
                self.predictor.mark_uncacheable(&key.hashed(), why);
                turn.into_iter().for_each(|turn| turn.end(Verdict::Unfit));
            }
        }
        Ok(Hit::validated(Entry { meta, ..Entry::clone(&stale) }, was_asked))
    }

    /// The head of what a GET would get: what is stored is updated by it, or, if it is another one, is gone.
    pub(super) fn headed(&self, fetch: Fetch, answer: &AnswerHead, came: Came, policy: &CachePolicy) {
        let Fetch { key, index, stale: Some(stale), .. } = fetch else { return };
        let is = |name: &header::HeaderName, field: &[u8]| field.eq_ignore_ascii_case(name.as_str().as_bytes());
        let said = |name: &header::HeaderName| answer.headers().find(|(field, _)| is(name, field)).map(|(_, value)| value);
        let same = |name| said(&name).is_none_or(|now| stale.meta.head.header(&name) == Some(now));
        if !(same(header::ETAG) && same(header::LAST_MODIFIED) && same(header::CONTENT_LENGTH)) {
            return self.storage.forget(index);
        }
        // It has to say which one it is about.
        if said(&header::ETAG).is_none() && said(&header::LAST_MODIFIED).is_none() {
            return;
        }
        let mut meta = updated(&stale, answer);
        let alike = rules::are_alike(stale.meta.head.vary(), meta.head.vary());
        let judged = {
            let told = Said { age: Said::by(answer).age, ..Said::by_stored(&meta.head) };
            rules::response(&told, policy, came).ok().filter(|_| alike)
        };
        match judged {
            Some(fresh) => {
                meta.renew(&fresh, came.now);
                self.storage.refresh(index, &key.primary, "", meta);
            }
            None => self.storage.forget(index),
        }
    }
}

fn updated(stale: &Entry, by: &AnswerHead) -> Meta {
    let date = Said::by(by).date.is_none().then(encode::date_field);
    Meta { head: stale.meta.head.updated(by, date.as_ref().map(HeaderValue::as_bytes)), ..stale.meta.clone() }
}

/// Whether a 304 is about what is stored: it names no tag, or the same one (RFC 9111, section 4.3.4).
fn is_about(answer: &AnswerHead, stale: &Arc<Entry>) -> bool {
    let known = stale.meta.head.header(&header::ETAG);
    answer.header_all("etag").all(|tag| known.is_some_and(|known| rules::is_same_tag(tag, known)))
}
