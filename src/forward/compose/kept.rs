//! Parts that were had before: what a call's `cache` has for it, who fetches what it has not, and what stands in for an answer that cannot be
//! had. The rules, the keys, the turns and the store are those of any route's cache.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use http::{Method, StatusCode};

use super::call::{Asking, Ended, Gathered, How, part_of, unanswered, unreadable, unwanted};
use super::fields::Fields;
use crate::cache::{self, Excuse, Flown, Hit, Keeping, Key, Looked, Outcome, Use, Wishes};
use crate::downstream::seen_upstream;
use crate::exchange::Exchange;
use crate::forward::cached::{Asker, Begun, look_on};
use crate::forward::judge::Judge;
use crate::forward::refresh::Refresh;
use crate::forward::stale;
use crate::head::RequestHead;
use crate::journey::use_of;
use crate::route::compose::Part;
use crate::route::compose::state::{Fault, State};
use crate::upstream::call::{Answer, Call, CallError, Fill, Own, Tries};

/// What a call's cache has for it.
pub struct Kept {
    pub key: Key,
    pub wishes: Wishes,
    used: Use,
    looked: Looked,
}

/// Where an answer comes from: the service, and what is stored of it meanwhile; or what was stored.
type Found = Result<(Answer, Keeping), Box<Hit>>;

impl Asking<'_> {
    /// `None` for a call that does not use a cache.
    pub fn kept(&self, how: &How<'_>, head: &RequestHead, exchange: &Exchange) -> Option<Kept> {
        let policy = how.road.cache.as_deref()?;
        // What is stored would be older than what the client takes; its part is looked after like the whole.
        let (used, for_all) = use_of(&self.view.snapshot.credentials, head, exchange, policy, || &[], || true);
        let wishes = Wishes { for_all, ..Wishes::of(self.head, policy) };
        let used = match used {
            used @ Use::Bypass(_) => used,
            _ if wishes.no_store => Use::Bypass(cache::Bypass::Asked),
            used => used,
        };
        if let Use::Bypass(why) = used {
            self.count(Outcome::Bypass(why), 0);
            return None;
        }
        let seen = |name: &_| seen_upstream(head, exchange, name);
        let key = cache::key(head, exchange, seen, (&how.road.id, ""), policy);
        let looked = self.view.cache.look(policy, key.clone(), &wishes, seen);
        Some(Kept { key, used, wishes, looked })
    }

    /// What is stored, or what the service answers, and whether that is stored.
    pub async fn look(
        &self,
        how: &How<'_>,
        (head, exchange): (&RequestHead, &Exchange),
        target: &str,
        tries: &mut Tries,
        kept: Kept,
    ) -> Result<Found, Fault> {
        let (cache, service) = (self.view.cache, how.service);
        let Some(policy) = &how.road.cache else { return Err(Fault::Unavailable) };
        let Kept { used, wishes, looked, .. } = kept;
        let asker = Asker { cache, head, exchange };
        // With its client everything here ends.
        let begun = look_on(looked, used, &wishes, policy, &asker, pin!(pending()), drop).await;
        let mut fetch = match begun.map_err(|_| Fault::Unavailable)? {
            Begun::Fetch(fetch) => fetch,
            Begun::Stored(hit, behind) => {
                if let Some(mut fetch) = behind {
                    fetch.keep_for(how.last_good);
                    let refresh = Refresh {
                        caller: self.caller.clone(),
                        cache,
                        policy: policy.clone(),
                        judge: Judge::Part(how.part.max_body),
                        metrics: self.metrics.clone(),
                        fetch,
                        tls: self.view.tls.clone(),
                        service: service.clone(),
                        head: head.clone(),
                        exchange: exchange.retold(),
                        target: Some(target.to_owned()),
                        body: bytes::Bytes::new(),
                    };
                    refresh.begin();
                }
                return Ok(Err(Box::new(hit)));
            }
        };
        fetch.keep_for(how.last_good);
        loop {
            let fill = fetch.is_for_all().then(|| Fill { validators: fetch.validators() });
            let call = Call { head, exchange, target: Some(target), fill: fill.as_ref(), stands_for: None };
            let answer = match self.caller.send(service, &call, tries, &mut Own(bytes::Bytes::new()), &self.view.tls).await {
                Ok(answer) => answer,
                Err(error) => {
                    let excused = matches!(&error, CallError::Service(reply) if stale::is_error(reply.status));
                    let hit = if excused { fetch.excuse(cache, Excuse::Error(None), policy) } else { None };
                    let Some(hit) = hit else {
                        fetch.failed();
                        return Err(unanswered(error));
                    };
                    return Ok(Err(Box::new(hit)));
                }
            };
            let status = answer.head.status;
            if stale::is_error(status)
                && let Some(hit) = fetch.excuse(cache, Excuse::Error(Some(status.as_u16())), policy)
            {
                // Who waits need not wait for what is left of the answer as well.
                drop(fetch);
                self.caller.put_away(answer, service).await;
                return Ok(Err(Box::new(hit)));
            }
            if status != StatusCode::NOT_MODIFIED || !fetch.validates() {
                let outcome = fetch.outcome();
                let seen = |name: &_| seen_upstream(head, exchange, name);
                let keeping = cache.admit(fetch, &answer.head, &Method::GET, tries.started, policy, seen);
                self.count(outcome(keeping.is_storing()), 0);
                return Ok(Ok((answer, keeping)));
            }
            let validated = cache.validated(fetch, &answer.head, tries.started, policy);
            self.caller.keep(answer, service);
            match validated {
                Ok(hit) => return Ok(Err(Box::new(hit))),
                Err(anew) => fetch = *anew,
            }
        }
    }

    /// A part that was stored, or that another one has asked for and that is coming. Only the latter can be cut off.
    pub async fn stored(&self, part: &Part, hit: &Hit) -> Ended {
        self.count(hit.outcome(), hit.length());
        let (head, age) = (hit.head().to_answer(hit.length()), hit.age());
        let state = match hit.outcome() {
            Outcome::Stale { .. } => State::Stale(age.unwrap_or_default()),
            _ => State::Hit(age.unwrap_or_default()),
        };
        if let Some(fault) = unwanted(head.status).or_else(|| unreadable(&head, hit.length() == 0, part.max_body)) {
            return Err(fault);
        }
        let body = match hit.flow() {
            None if !self.pays(hit.length()) => return Err(Fault::Memory),
            None => hit.body().clone(),
            Some(flow) => {
                let mut body = Gathered { asking: self, bytes: bytes::BytesMut::new(), most: part.max_body };
                loop {
                    match flow.next(body.bytes.len()).await {
                        Flown::Some(piece, last) => {
                            body.add(&piece)?;
                            if last {
                                break body.bytes.freeze();
                            }
                        }
                        Flown::NoneYet | Flown::OnDisk => {}
                        Flown::Broken => return Err(Fault::CutOff),
                    }
                }
            }
        };
        part_of(head.status, state, body, Fields::of(&head, age))
    }

    /// The last good answer, where the service gave none. What it has refused is not given in its stead.
    pub fn last_good(
        &self,
        how: &How<'_>,
        head: &RequestHead,
        exchange: &Exchange,
        (key, wishes): (&Key, &Wishes),
        within: Duration,
        fault: Fault,
    ) -> Option<Ended> {
        let refused = |status: u16| (400..500).contains(&status) && !matches!(status, 408 | 429);
        if fault == Fault::Memory || matches!(fault, Fault::Status(status) if refused(status)) {
            return None;
        }
        let policy = how.road.cache.as_deref()?;
        let hit =
            self.view.cache.kept(policy, key, wishes, Excuse::Fallback(within), |name| seen_upstream(head, exchange, name))?;
        if hit.flow().is_some() {
            // It is on disk, and longer than any part is.
            return None;
        }
        let (head, age) = (hit.head().to_answer(hit.length()), hit.age());
        if unwanted(head.status).or_else(|| unreadable(&head, hit.length() == 0, how.part.max_body)).is_some()
            || !self.pays(hit.length())
        {
            return None;
        }
        self.count(hit.outcome(), hit.length());
        // Whatever it was then, it is not what the service says now.
        let state = State::Stale(age.unwrap_or_default());
        Some(part_of(head.status, state, hit.body().clone(), Fields::of(&head, age))).filter(Result::is_ok)
    }

    /// Counts what the cache has done for a part, and how much of it came from there.
    fn count(&self, outcome: Outcome, length: usize) {
        self.view.metrics.cache(outcome.word());
        self.metrics.cached(outcome.word(), length as u64);
    }
}
