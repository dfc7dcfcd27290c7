//! Fresh answers from the cache, given without asking anybody.
//!
//! For every kind of client. What has to be fetched or validated is [`super::cached`]'s, and parts are [`super::parts`]'.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode};

use super::paid::{FREE, Reading};
use super::{Failed, client_failed, paid, parts};
use crate::cache::{Bypass, CACHE_STATUS, CachePolicy, Flow, Flown, Hit, Looked, Outcome, Use, Wishes};
use crate::downstream::{Downstream, may_see_upstream, seen_upstream};
use crate::head::HeaderEdit;
use crate::journey::Journey;
use crate::policy::shape::cache::not_cached;
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
    /// It does, but what it has cannot be given in time: the client asks for itself, once.
    Alone,
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
pub fn find(journey: &mut Journey) -> Option<Found> {
    journey.draw();
    let journey = &*journey;
    let route = journey.route()?;
    let policy = route.plan.options.cache.as_ref()?;
    let Journey { head, exchange, .. } = journey;
    let (used, wishes) = match journey.cache_use(policy) {
        (Use::Bypass(why), _) => return Some(Found::Missed(Missed::Bypass(why))),
        use_of_it => use_of_it,
    };
    let seen = |name: &HeaderName| seen_upstream(head, exchange, name);
    let key = journey.cache_key(route, policy);
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

/// Forgets the stored answer that was last given to this request, or made of its own, which nobody can be given: it broke its contract, or does since the file was loaded anew.
#[cold]
pub fn forget(journey: &Journey) {
    let (Some(route), Some(policy)) = (journey.route(), journey.cache_policy()) else { return };
    let Journey { head, exchange, view, .. } = journey;
    if journey.stored == 0 || journey.dialect.is_grpc() || journey.dialect.is_web() || head.header("range").is_some() {
        // What was judged may be what this client has made of it. It is everybody else's.
        return;
    }
    let seen = |name: &HeaderName| seen_upstream(head, exchange, name);
    let key = journey.cache_key(route, policy);
    view.cache.forget_number(policy, &key, journey.stored, seen);
}

/// What is asked of the service in the place of a stored answer that broke its contract, or cannot be read.
#[cold]
pub fn anew(journey: &mut Journey) -> Missed {
    forget(journey);
    journey.answer_dropped();
    (journey.outcome.cache, journey.outcome.cache_tier) = ("", "");
    match find(journey) {
        // Somebody was quicker, or the disk takes too much time. This client asks for itself, once.
        Some(Found::Fresh(_) | Found::Missed(Missed::Ask(Ask { looked: Looked::Fresh(_) | Looked::Stale(_), .. }))) | None => {
            Missed::Alone
        }
        Some(Found::Missed(missed)) => missed,
    }
}

/// Has a request go on to its service without the cache.
///
/// # Errors
/// [`Failed::Answer`] for who wants nothing but what is stored.
#[cold]
pub(super) fn go_alone(journey: &mut Journey) -> Result<(), Failed> {
    if journey.cache_policy().is_some_and(|policy| Wishes::of(&journey.head, policy).only_if_cached) {
        return Err(Failed::Answer(not_cached()));
    }
    journey.cache_use = Some(Use::Bypass(Bypass::Unusable));
    // What was to be given was nobody's who is asked.
    let view = journey.view.clone();
    journey.choose_service(&view);
    Ok(())
}

/// Gives a stored answer to the client.
///
/// # Errors
/// [`Failed::ClientGone`] or [`Failed::ClientStopped`]; [`Failed::Unreadable`] or [`Failed::Unreached`] before the client has been told
/// anything.
pub async fn answer(hit: &Hit, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    let unchanged = parts::conditions(journey).and_then(|conditions| hit.not_modified(&conditions));
    let head = unchanged.as_ref().unwrap_or_else(|| hit.head());
    let bodiless = journey.head.method == Method::HEAD || is_bodiless(head.status) || hit.length() == 0;
    let first = match hit.flow() {
        // Boxed: few are so long.
        Some(flow) if !bodiless => Box::pin(begun(hit, flow, 0, down)).await?,
        _ => None,
    };
    let mut answer = head.to_answer(hit.length());
    let outcome = noted(hit, journey);
    // What the cache itself says of the answer: the first two for the policies to change, the last one after them.
    journey.answer_begins();
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
            let mut reading = Reading::new(journey.view.cache, hit.lent(), down.purse_beside());
            Box::pin(follow(flow, first, &mut reading, down, 0..hit.length(), true)).await?;
        }
    }
    down.finish().await.map_err(|error| client_failed(&error))
}

/// Notes what is given, and where it was found, for the log, the metrics, and the policies that look at answers once.
pub(super) fn noted(hit: &Hit, journey: &mut Journey) -> Outcome {
    let outcome = hit.outcome();
    journey.outcome.cache = outcome.word();
    journey.outcome.cache_tier = hit.tier().word();
    journey.view.cache.count_given(hit);
    (journey.exchange.shown_again, journey.stored) = (hit.is_shown_again(), hit.number());
    outcome
}

/// The first that there is from here on of a body that is on disk, before the client is told that there is one. What comes too late is no
/// damage, but its service is asked in the meantime.
///
/// # Errors
/// [`Failed::Unreadable`], or [`Failed::ClientGone`].
pub(super) async fn first(flow: &Flow, from: usize, down: &mut Downstream) -> Result<Bytes, Failed> {
    tokio::select! {
        biased;
        piece = flow.first(from) => match piece {
            Some(Flown::Some(piece, _)) => Ok(piece),
            _ => Err(Failed::Unreadable),
        },
        () = down.gone() => Err(Failed::ClientGone),
    }
}

/// The same of a body that may still be on its way: `None` if nothing of it has come yet from there on.
///
/// # Errors
/// As [`first`]; [`Failed::Unreached`] of what is on its way.
pub(super) async fn begun(hit: &Hit, flow: &Flow, from: usize, down: &mut Downstream) -> Result<Option<Bytes>, Failed> {
    let begun = match flow.at(from) {
        Flown::Some(piece, _) => return Ok(Some(piece).filter(|piece| !piece.is_empty())),
        Flown::NoneYet => return Ok(None),
        Flown::OnDisk => first(flow, from, down).await.map(Some),
        Flown::Broken => Err(Failed::Unreadable),
    };
    begun.map_err(|failed| match failed {
        Failed::Unreadable if hit.outcome() == Outcome::Collapsed => Failed::Unreached,
        failed => failed,
    })
}

/// Whether an answer can be given, as far as its first block shows. For what stands in for another one, which is dropped then: there is
/// nothing better, so that a slow disk is waited for.
pub(super) async fn is_readable(hit: &Hit) -> bool {
    match hit.on_disk() {
        Some(flow) => matches!(flow.next(0).await, Flown::Some(..)),
        None => true,
    }
}

/// A body, or a part of it, as it comes, after its `first` piece if that is here already. `ends`: nothing comes behind it.
pub(super) async fn follow(
    flow: &Flow,
    mut first: Option<Bytes>,
    reading: &mut Reading,
    down: &mut Downstream,
    range: Range<usize>,
    ends: bool,
) -> Result<(), Failed> {
    let mut sent = range.start;
    loop {
        let piece = match first.take().map_or_else(|| flow.at(sent), |first| Flown::Some(first, false)) {
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
                reading.during(pin!(down.write_body(piece, last && ends))).await.map_err(|error| client_failed(&error))?;
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
