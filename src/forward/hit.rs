//! Fresh answers from the cache, given without asking anybody.
//!
//! For every kind of client. What has to be fetched or validated is [`super::cached`]'s, and parts are [`super::parts`]'.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode};

use super::paid::{FREE, Reading};
use super::{Failed, client_failed, paid, parts};
use crate::cache::{self, Bypass, CACHE_STATUS, CachePolicy, Flow, Flown, Hit, Looked, Use, Wishes};
use crate::downstream::{Downstream, may_see_upstream, seen_upstream};
use crate::head::HeaderEdit;
use crate::journey::Journey;
use crate::policy::validate::report::BREAKS;
use crate::wire::encode::is_bodiless;
use crate::wire::view::AnswerView;

/// What the cache of a request's route has for it.
pub enum Found {
    Fresh(Hit),
    Missed(Missed),
}

/// Nothing that can be given as it is.
pub enum Missed {
    /// The request does not use the cache.
    Bypass(Bypass),
    Ask(Ask),
}

/// Nothing that can be given whole and at once was found. Somebody else may be fetching it.
pub struct Ask {
    pub policy: Arc<CachePolicy>,
    pub used: Use,
    pub wishes: Wishes,
    pub looked: Looked,
    /// The service that a policy has chosen already.
    pub chosen: Option<u32>,
}

/// What is stored for this request. `None` on a route without a cache.
pub fn find(journey: &Journey) -> Option<Found> {
    let route = journey.route()?;
    let policy = route.plan.options.cache.as_ref()?;
    let Journey { head, exchange, .. } = journey;
    let (used, wishes) = match journey.cache_use(policy) {
        (Use::Bypass(why), _) => return Some(Found::Missed(Missed::Bypass(why))),
        use_of_it => use_of_it,
    };
    let seen = |name: &HeaderName| seen_upstream(head, exchange, name);
    let key = cache::key(head, exchange, seen, &route.kept_as, policy);
    Some(match journey.view.cache.look(policy, key, &wishes, seen) {
        // A part is not what is stored as it is.
        Looked::Fresh(hit) if !may_see_upstream(head, exchange, &[header::RANGE]) || seen(&header::RANGE).is_empty() => {
            Found::Fresh(hit)
        }
        looked => {
            let chosen = journey.outcome.service;
            Found::Missed(Missed::Ask(Ask { policy: policy.clone(), used, wishes, looked, chosen }))
        }
    })
}

/// Whether what was to be given is not what was agreed on with clients, and can still be given otherwise.
pub fn breaks_contract(failed: &Failed, down: &Downstream) -> bool {
    !down.is_answered() && matches!(failed, Failed::Answer(reply) if reply.reason == BREAKS)
}

/// Forgets what is stored for this request, which nobody can be given: it broke its contract, or does since the file was loaded anew.
#[cold]
pub fn forget(journey: &Journey) {
    let (Some(route), Some(policy)) = (journey.route(), journey.cache_policy()) else { return };
    let Journey { head, exchange, view, .. } = journey;
    if journey.dialect.is_grpc() || journey.dialect.is_web() || head.header("range").is_some() {
        // What was judged may be what this client has made of it. It is everybody else's.
        return;
    }
    let seen = |name: &HeaderName| seen_upstream(head, exchange, name);
    let key = || cache::key(head, exchange, seen, &route.kept_as, policy);
    match view.cache.look(policy, key(), &Wishes::default(), seen) {
        Looked::Fresh(hit) => view.cache.drop_hit(&key(), &hit),
        Looked::Stale(stale) => view.cache.drop_hit(&key(), &stale.0),
        Looked::Missed(_) | Looked::Predicted(_) => {}
    }
}

/// What is asked of the service in the place of a stored answer that broke its contract.
#[cold]
pub fn anew(journey: &mut Journey) -> Missed {
    forget(journey);
    journey.answer_dropped();
    journey.outcome.cache = "";
    match find(journey) {
        Some(Found::Missed(missed)) => missed,
        // Somebody was quicker. This client asks for itself, once.
        _ => Missed::Bypass(Bypass::Rule),
    }
}

/// Gives a stored answer to the client.
///
/// # Errors
/// [`Failed::ClientGone`] or [`Failed::ClientStopped`].
pub async fn answer(hit: &Hit, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    let unchanged = parts::conditions(journey).and_then(|conditions| hit.not_modified(&conditions));
    let head = unchanged.as_ref().unwrap_or_else(|| hit.head());
    let mut answer = head.to_answer(hit.length());
    let outcome = hit.outcome();
    journey.outcome.cache = outcome.word();
    journey.outcome.cache_tier = hit.tier().word();
    journey.view.cache.count(outcome);
    // What the cache itself says of the answer: the first two for the policies to change, the last one after them.
    journey.answer_begins();
    journey.exchange.shown_again = hit.is_shown_again();
    let asks_by_get = journey.exchange.body_digest.is_none();
    let edits = &mut journey.exchange.to_client;
    if let Some(age) = hit.age() {
        edits.push(HeaderEdit::Set(header::AGE, HeaderValue::from(age)));
    }
    if head.status == StatusCode::OK && asks_by_get {
        edits.push(HeaderEdit::Set(header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
    }
    let answered = journey.answered(AnswerView::from(&answer)).map_err(Failed::Answer)?;
    if answered.status != answer.status {
        answer = answer.with_status(answered.status);
    }
    down.stage(answered.stages);
    let field = journey.cache_field(outcome);
    journey.exchange.to_client.push(HeaderEdit::Add(CACHE_STATUS, field));
    let bodiless = journey.head.method == Method::HEAD || is_bodiless(head.status) || hit.length() == 0;
    let exchange = &journey.exchange;
    let via = exchange.via(answer.version);
    down.write_answer(&answer, &exchange.request_id, &exchange.to_client, via, bodiless)
        .await
        .map_err(|error| client_failed(&error))?;
    match hit.flow() {
        _ if bodiless => {}
        None if hit.length() <= FREE => {
            down.write_body(hit.body().clone(), true).await.map_err(|error| client_failed(&error))?;
        }
        // Boxed, as the next one: few are so long, and few wait for one.
        None => {
            let written = Box::pin(paid::write(hit, journey.view.cache, down)).await;
            written.map_err(|error| client_failed(&error))?;
        }
        Some(flow) => {
            let reading = Reading::new(journey.view.cache, hit.lent(), down.purse_beside());
            Box::pin(follow(flow, reading, down, 0..hit.length())).await?;
        }
    }
    down.finish().await.map_err(|error| client_failed(&error))
}

/// A body, or a part of it, as it comes.
pub(super) async fn follow(flow: &Flow, mut reading: Reading, down: &mut Downstream, range: Range<usize>) -> Result<(), Failed> {
    let mut sent = range.start;
    loop {
        let piece = match flow.at(sent) {
            Flown::OnDisk => tokio::select! {
                biased;
                piece = flow.next(sent) => piece,
                () = down.gone() => return Err(Failed::ClientGone),
            },
            piece => piece,
        };
        match piece {
            Flown::Some(mut piece, last) => {
                piece.truncate(range.end.saturating_sub(sent));
                sent += piece.len();
                let last = last || sent >= range.end;
                reading.during(pin!(down.write_body(piece, last))).await.map_err(|error| client_failed(&error))?;
                if last {
                    return Ok(());
                }
            }
            Flown::Broken => {
                let _ = down.flush().await;
                return Err(Failed::BrokeOff);
            }
            Flown::NoneYet | Flown::OnDisk => {
                reading.during(pin!(down.flush())).await.map_err(|error| client_failed(&error))?;
                tokio::select! {
                    biased;
                    _ = flow.next(sent) => {}
                    () = down.gone() => return Err(Failed::ClientGone),
                }
            }
        }
    }
}
