//! Requests of routes that have a cache and find nothing there that can be given at once: waiting for somebody else's answer, filling,
//! and validating. The decisions are [`crate::cache`]'s; here they meet the engine that calls services, and the client.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{Method, StatusCode};

use super::filling::{Filling, UnderWay};
use super::hit::Ask;
use super::judge::Judge;
use super::{Failed, broke_off, call_failed, fallback, hit, let_go, mirror, parts, refresh, relay, stale};
use crate::cache::stored::not_modified;
use crate::cache::{
    Behind, CACHE_STATUS, Cache, CachePolicy, Excuse, Fetch, Heard, Hit, Keeping, Looked, Next, Outcome, Patience, Use, Verdict,
    Waiting, Wishes,
};
use crate::downstream::{Downstream, seen_upstream};
use crate::exchange::Exchange;
use crate::head::{HeaderEdit, RequestHead};
use crate::journey::{Answered, Journey};
use crate::policy::shape::cache::not_cached;
use crate::policy::validate::report::BREAKS;
use crate::reply::Reply;
use crate::upstream::Service;
use crate::upstream::call::client::{Ear, Overheard};
use crate::upstream::call::{Broken, Call, CallError, Caller, Client, Fill};
use crate::wire::answer::{AnswerHead, BadAnswer};
use crate::wire::encode::is_bodiless;
use crate::wire::view::AnswerView;

/// Takes one request to what is stored, or to its service and the answer back and into the cache.
///
/// # Errors
/// See [`Failed`].
pub async fn run(
    caller: &Arc<Caller>,
    journey: &mut Journey,
    down: &mut Downstream,
    service: &Service,
    Ask { policy, used, wishes, looked, chosen }: Ask,
    under_way: &mut Option<UnderWay>,
) -> Result<(), Failed> {
    // Only GET has parts (RFC 9110, section 14.2).
    let wants_part = used != Use::Full && journey.head.method == Method::GET && policy.has_parts();
    if wants_part
        && let Looked::Missed(missed) | Looked::Predicted(missed) = &looked
        && let Some(hit) = parts::find(missed, &policy, &wishes, journey)
    {
        journey.outcome.service = chosen;
        return parts::give(&hit, journey, down).await;
    }
    // What it asks by, if it asks by its body, which is whole by now.
    let asks_by_body = journey.exchange.body_digest.is_some();
    let body = if asks_by_body { down.buffered().cloned() } else { None };
    let refresh = |mut fetch: Fetch| {
        fetch.keep_for(fallback::within(journey));
        if asks_by_body {
            // Conditions are something else with other methods than GET.
            fetch.ask_whole();
        }
        refresh::begin(caller, journey, service, &policy, fetch, body.clone().unwrap_or_default());
    };
    let begun = {
        let Journey { view, head, exchange, .. } = &*journey;
        let asker = Asker { cache: view.cache, head, exchange };
        look_on(looked, used, &wishes, &policy, &asker, pin!(down.gone()), refresh).await?
    };
    let mut fetch = match begun {
        Begun::Fetch(mut fetch) => {
            fetch.keep_for(fallback::within(journey));
            if asks_by_body {
                fetch.ask_whole();
            }
            // An answer to `If-Range` need not say what it is of: its client knows (RFC 9110, section 15.3.7).
            let is_told = seen_upstream(&journey.head, &journey.exchange, &header::IF_RANGE).is_empty();
            if wants_part && is_told && used == Use::ReadOnly {
                fetch.keep_parts();
            }
            fetch
        }
        Begun::Stored(hit, behind) => {
            if let Some(fetch) = behind {
                refresh(fetch);
            }
            // This request's answer is none of theirs.
            journey.outcome.service = chosen;
            return parts::give(&hit, journey, down).await;
        }
    };
    // Its body, if it has one, is here already.
    drop(mirror::begin(caller, journey, down, false));
    let (answer, fill) = loop {
        let fill = fetch.is_for_all().then(|| Fill { validators: fetch.validators() });
        let answer = {
            let target = journey.upstream_target();
            let Journey { view, head, exchange, tries, .. } = &mut *journey;
            let call = Call { head, exchange, target: target.as_deref(), fill: fill.as_ref(), stands_for: None };
            // If the client leaves, it goes on as long as others wait for it: they would have to wait for another one from the beginning.
            let mut client = Overheard { client: &mut *down, by: Others(&fetch) };
            caller.send(service, &call, tries, &mut client, &view.tls).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallError::Service(reply)) => {
                let excused = match stale::is_error(reply.status) {
                    true => excuse(&fetch, None, &policy, journey, down).await,
                    false => None,
                };
                let Some(hit) = excused else {
                    fetch.failed();
                    return Err(call_failed(CallError::Service(reply), journey, down));
                };
                // Who waits gets it as well.
                drop(fetch);
                journey.answer_began(down.uploaded());
                journey.outcome.decided_by = Some(reply.reason.into());
                return parts::give(&hit, journey, down).await;
            }
            Err(error) => return Err(call_failed(error, journey, down)),
        };
        journey.answer_began(down.uploaded());
        journey.endpoint_answered(service, &answer.head);
        if stale::is_error(answer.head.status)
            && let Some(hit) = excuse(&fetch, Some(answer.head.status.as_u16()), &policy, journey, down).await
        {
            drop(fetch);
            journey.answer_dropped();
            let mut answer = answer;
            if relay::is_all_here(&mut answer) {
                caller.keep(answer, service);
            }
            return parts::give(&hit, journey, down).await;
        }
        if let Some(reply) = fallback::replaces(journey, down, &answer.head) {
            fetch.failed();
            return Err(let_go(caller, answer, service, reply));
        }
        if answer.head.status == StatusCode::NOT_MODIFIED && fetch.is_whole() {
            // Of nothing that anybody could be given.
            fetch.failed();
            return Err(Failed::Answer(BadAnswer::Malformed.reply()));
        }
        // One that nobody has asked for is the client's, as it would be without a cache.
        if answer.head.status != StatusCode::NOT_MODIFIED || !fetch.validates() {
            break (answer, fill);
        }
        let validated = journey.view.cache.validated(fetch, &answer.head, journey.tries.started, &policy);
        caller.keep(answer, service);
        match validated {
            Ok(hit) => return parts::give(&hit, journey, down).await,
            Err(anew) => fetch = *anew,
        }
    };
    if journey.expects_stream() {
        fetch.expect_stream();
    }
    let outcome = fetch.outcome();
    let seen = |name: &_| seen_upstream(&journey.head, &journey.exchange, name);
    let (cache, asked) = (journey.view.cache, journey.tries.started);
    let keeping = match used != Use::LookOnly && Judge::of(journey).admits(&answer.head, &journey.tries) {
        true => cache.admit(fetch, &answer.head, &journey.head.method, asked, &policy, seen),
        false => {
            fetch.failed();
            Keeping::Nothing
        }
    };
    // Not in here: what is stored is for others as well, and goes on when the client's time is over.
    let UnderWay { filling, answer } = under_way.insert(UnderWay { filling: Filling::new(cache, keeping), answer });
    let outcome = outcome(filling.keeping.is_storing());
    let (date, tagged) = (filling.keeping.date().cloned(), filling.keeping.may_be_tagged());
    if answer.head.body.is_done() {
        // Before the client hears of it, who may ask again at once.
        filling.done(&answer.head);
    }
    // The client's own conditions were not passed on.
    let unchanged = fill.is_some() && parts::is_unchanged(journey, || answer.head.to_header().ok());
    let told = if unchanged { Some(not_modified(&answer.head)) } else { None };
    let head = told.as_ref().unwrap_or(&answer.head);
    let bodiless = answer.head.body.is_done() || is_bodiless(head.status);
    if tagged {
        journey.hide_tags(&answer.head);
    }
    let told = match tell(head, date, outcome, journey) {
        Ok(answered) => {
            let other = (answered.status != head.status).then(|| head.with_status(answered.status));
            down.stage(answered.stages);
            let exchange = &journey.exchange;
            let (head, via) = (other.as_ref().unwrap_or(head), exchange.via(head.version));
            let told = down.write_answer(head, &exchange.request_id, &exchange.to_client, via, bodiless).await;
            told.map_err(|error| broke_off(Broken::Client(error), journey, down))
        }
        Err(reply) => {
            // What has come of it is stored all the same, for others; but what breaks its contract is for nobody.
            if reply.reason == BREAKS {
                filling.keeping.give_up();
            }
            Err(Failed::Answer(reply))
        }
    };
    let ended = filling.pass_on(journey, down, service, answer, bodiless, told).await;
    journey.stored = filling.stored.unwrap_or_default();
    if let Some(fill) = under_way.take() {
        fill.end(caller, service);
    }
    match ended {
        Err(Failed::Answer(reply)) if !down.is_answered() && reply.policy == Service::NAME && stale::is_error(reply.status) => {
            // It began well, and the client has seen nothing of it.
            let Some(hit) = readable(stale::instead(journey, Excuse::Error(None)), down).await else {
                return Err(Failed::Answer(reply));
            };
            journey.answer_dropped();
            journey.outcome.decided_by = Some(reply.reason.into());
            parts::give(&hit, journey, down).await
        }
        ended => ended,
    }
}

/// Those who wait for what is fetched for somebody else.
struct Others<'f>(&'f Fetch);

impl Ear for Others<'_> {
    fn piece(&mut self, _client: &impl Client, _piece: Option<&Bytes>) {}

    async fn unwanted(&mut self) {
        self.0.unwanted().await;
    }
}

/// What may be given in the place of the service's error. Who asks alone, because nobody else's answer would do, has to look for it.
async fn excuse(
    fetch: &Fetch,
    status: Option<u16>,
    policy: &CachePolicy,
    journey: &Journey,
    down: &mut Downstream,
) -> Option<Hit> {
    let excuse = Excuse::Error(status);
    readable(fetch.excuse(journey.view.cache, excuse, policy).or_else(|| stale::instead(journey, excuse)), down).await
}

/// What stands in for an error, if it can be read: else the error is the answer, and the service is not asked once more. Who has gone is given
/// nothing.
async fn readable(hit: Option<Hit>, down: &mut Downstream) -> Option<Hit> {
    let hit = hit?;
    if hit.on_disk().is_none() {
        return Some(hit);
    }
    tokio::select! {
        biased;
        // Boxed: few are so long.
        is_readable = Box::pin(hit::is_readable(&hit)) => is_readable.then_some(hit),
        () = down.gone() => None,
    }
}

/// What a request does that has found nothing that it could be given at once.
pub(super) enum Begun {
    Fetch(Fetch),
    /// It is given one, and another one may be fetched behind its back.
    Stored(Hit, Option<Fetch>),
}

/// Who wants what is stored, as far as the cache has to know.
pub(super) struct Asker<'a> {
    pub cache: &'static Cache,
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
}

/// Takes the turn to fetch, or waits for who has it, unless the client is `gone`. `behind` fetches what is not for this client alone.
///
/// # Errors
/// [`Failed::Answer`] for who wants nothing but what is stored; [`Failed::ClientGone`].
pub(super) async fn look_on(
    mut looked: Looked,
    used: Use,
    wishes: &Wishes,
    policy: &CachePolicy,
    asker: &Asker<'_>,
    mut gone: Pin<&mut impl Future<Output = ()>>,
    behind: impl Fn(Fetch),
) -> Result<Begun, Failed> {
    let cache = asker.cache;
    let mut patience = Patience::default();
    let (mut failed, mut fetched) = (false, false);
    let mut tiers = Behind::default();
    let mut wants_whole = used == Use::ReadOnly
        && asker.head.method == Method::GET
        && asker.head.header("range").is_some()
        && policy.fetches_whole();
    let look = |key| cache.look(policy, key, wishes, |name| seen_upstream(asker.head, asker.exchange, name));
    loop {
        let predicted = matches!(looked, Looked::Predicted(_));
        if let Looked::Missed(missed) | Looked::Predicted(missed) = &looked
            && let Some(lookup) = cache.behind(missed, policy, &mut tiers, predicted)
        {
            let found = tokio::select! {
                biased;
                found = Box::pin(lookup.load()) => found,
                () = &mut gone => return Err(Failed::ClientGone),
            };
            if !tiers.take(found) {
                continue;
            }
            let (Looked::Missed(missed) | Looked::Predicted(missed)) = looked else { continue };
            let seen = |name: &_| seen_upstream(asker.head, asker.exchange, name);
            looked = cache.look_with(tiers.found(), policy, missed.into_key(), wishes, seen);
            continue;
        }
        let missed = match looked {
            Looked::Fresh(mut hit) => {
                if fetched {
                    hit.was_fetched();
                }
                return Ok(Begun::Stored(hit, None));
            }
            Looked::Stale(both) if wishes.only_if_cached => return Ok(Begun::Stored(both.0, None)),
            Looked::Stale(both) => {
                let (hit, missed) = *both;
                let behind = match used {
                    // What it is answered is for nobody else.
                    Use::LookOnly => None,
                    _ => match cache.turn(missed, Use::Full, wishes) {
                        Next::Fetch(fetch) => Some(fetch),
                        // Somebody does it already.
                        Next::Wait(..) | Next::Look(_) => None,
                    },
                };
                return Ok(Begun::Stored(hit, behind));
            }
            Looked::Predicted(_) | Looked::Missed(_) if wishes.only_if_cached => return Err(Failed::Answer(not_cached())),
            Looked::Predicted(missed) => return Ok(Begun::Fetch(Fetch::predicted(missed, used, wishes))),
            Looked::Missed(missed) => missed,
        };
        // Whoever was waited for got none: so would this one, after as long.
        if let Some(hit) = missed.excuse(cache, Excuse::Error(None), policy).filter(|_| failed) {
            return Ok(Begun::Stored(hit, None));
        }
        // What is not stored the first time is asked for as it came, not as the whole beside it.
        if std::mem::take(&mut wants_whole) && missed.is_for_others() && cache.is_asked_again(&missed, policy) {
            // Its part is cut from what comes of this, as it is for all who wait.
            looked = match cache.turn(missed, Use::Full, wishes) {
                Next::Fetch(fetch) => {
                    let key = fetch.key().clone();
                    fetched = true;
                    behind(fetch);
                    look(key)
                }
                Next::Wait(key, _) | Next::Look(key) => look(key),
            };
            continue;
        }
        let key = match cache.turn(missed, used, wishes) {
            Next::Fetch(fetch) => return Ok(Begun::Fetch(fetch)),
            Next::Look(key) => key,
            Next::Wait(key, mut waiting) => {
                let Some(left) = patience.left() else { return Ok(Begun::Fetch(Fetch::alone(key, wishes))) };
                let heard = tokio::select! {
                    biased;
                    heard = hear(&mut waiting, left, policy, wishes, asker) => heard,
                    () = &mut gone => return Err(Failed::ClientGone),
                };
                let verdict = match heard {
                    Ok(hit) => return Ok(Begun::Stored(hit, None)),
                    Err(verdict) => verdict,
                };
                if verdict == Some(Verdict::Unfit) {
                    return Ok(Begun::Fetch(Fetch::alone(key, wishes)));
                }
                failed = verdict != Some(Verdict::Stored);
                // There may be an answer now, or the next one may fetch it.
                key
            }
        };
        looked = look(key);
    }
}

/// Waits for what another one fetches: until it comes, or, if this request wants something else of it, until it is over.
async fn hear(
    waiting: &mut Waiting,
    most: Duration,
    policy: &CachePolicy,
    wishes: &Wishes,
    asker: &Asker<'_>,
) -> Result<Hit, Option<Verdict>> {
    let until = Instant::now() + most;
    match waiting.news(most).await {
        Some(Heard::Flowing(flowing)) => {
            let seen = |name: &HeaderName| seen_upstream(asker.head, asker.exchange, name);
            // A part is cut from the whole.
            match asker.cache.flowing(policy, wishes, &flowing, seen).filter(|_| seen(&header::RANGE).is_empty()) {
                Some(hit) => Ok(hit),
                None => Err(waiting.verdict(until.saturating_duration_since(Instant::now())).await),
            }
        }
        Some(Heard::Over(verdict)) => Err(Some(verdict)),
        Some(Heard::Nothing) | None => Err(None),
    }
}

/// The gateway's own word on an answer, beside the policies'.
///
/// # Errors
/// The answer that a policy gives instead.
fn tell(
    answer: &AnswerHead,
    date: Option<http::HeaderValue>,
    outcome: Outcome,
    journey: &mut Journey,
) -> Result<Answered, Box<Reply>> {
    (journey.outcome.cache, journey.outcome.cache_tier) = (outcome.word(), "");
    journey.answer_begins();
    // It may follow on a stored one that could not be given.
    journey.exchange.shown_again = false;
    if let Some(date) = date {
        // Whoever gets it later is told the same. The policies may have another word on it.
        journey.exchange.to_client.push(HeaderEdit::Set(http::header::DATE, date));
    }
    let answered = journey.answered(AnswerView::from(answer))?;
    let field = journey.cache_field(outcome);
    journey.exchange.to_client.push(HeaderEdit::Add(CACHE_STATUS, field));
    Ok(answered)
}
