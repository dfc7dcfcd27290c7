//! Fresh answers from the cache, given without asking anybody.
//!
//! In front of both roads and for every kind of client. What is more than a plain fresh hit (a miss, a revalidation, a range) is the
//! proxy road's, and clients must not be able to tell which of the two gave them a hit.

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode, Version};
use smallvec::SmallVec;

use super::{Failed, client_failed};
use crate::cache::{self, CACHE_STATUS, Hit, StoredHead, Use};
use crate::downstream::{Downstream, seen_upstream};
use crate::head::HeaderEdit;
use crate::journey::Journey;
use crate::wire::answer::AnswerHead;
use crate::wire::body::BodyDecoder;
use crate::wire::encode::is_bodiless;

/// The fresh stored answer to this request, if there is one and the lane may give it.
pub fn find(journey: &Journey) -> Option<Hit> {
    let route = journey.route()?;
    let policy = route.plan.options.cache.as_ref().filter(|_| journey.view.snapshot.lane)?;
    let Journey { head, exchange, .. } = journey;
    let seen = |name: &HeaderName| seen_upstream(head, exchange, name);
    if matches!(journey.cache_use(policy), Use::Bypass(_)) || !seen(&header::RANGE).is_empty() {
        return None;
    }
    let key = cache::key(head, exchange, seen, &route.id, policy);
    journey.view.cache.fresh(policy, key, seen)
}

/// Gives a stored answer to the client.
///
/// # Errors
/// [`Failed::ClientGone`] or [`Failed::ClientStopped`].
pub async fn answer(hit: &Hit, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    let unchanged = hit.not_modified(&journey.head.method, |name| seen_upstream(&journey.head, &journey.exchange, name));
    let head = unchanged.as_ref().unwrap_or_else(|| hit.head());
    journey.answered(head.status);
    let outcome = hit.outcome();
    journey.outcome.cache = outcome.word();
    journey.view.cache.count(outcome);
    // What the cache itself says of the answer: the first two for the policies to change, the last one after them.
    let edits = &mut journey.exchange.to_client;
    if head.status == StatusCode::OK {
        edits.insert(0, HeaderEdit::Set(header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
    }
    edits.insert(0, HeaderEdit::Set(header::AGE, HeaderValue::from(hit.age)));
    edits.push(HeaderEdit::Add(CACHE_STATUS, outcome.field()));
    let bodiless = journey.head.method == Method::HEAD || is_bodiless(head.status) || hit.body().is_empty();
    let answer = answer_head(head, hit.body().len());
    let exchange = &journey.exchange;
    let via = exchange.via(answer.version);
    down.write_answer(&answer, &exchange.request_id, &exchange.to_client, via, bodiless)
        .await
        .map_err(|error| client_failed(&error))?;
    if !bodiless {
        down.write_body(hit.body().clone(), true).await.map_err(|error| client_failed(&error))?;
    }
    down.finish().await.map_err(|error| client_failed(&error))
}

fn answer_head(head: &StoredHead, length: usize) -> AnswerHead {
    AnswerHead {
        buffer: head.buffer.clone(),
        status: head.status,
        reason: head.reason,
        fields: SmallVec::from_slice(&head.fields),
        // It need not be read.
        body: BodyDecoder::Done,
        length: (!is_bodiless(head.status)).then_some(length as u64),
        keep_alive: true,
        version: Version::HTTP_11,
    }
}
