//! Stored answers, or the parts of them that are asked for (RFC 9110, section 14), given to who has waited for them, validated them, or
//! wants no more than a part.

use std::ops::Range;
use std::pin::pin;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method};
use pingora_core::protocols::http::conditional_filter::to_304;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{MultiRangeInfo, RangeType};

use super::paid::Reading;
use super::{Failed, client_failed, hit};
use crate::cache::{self, CACHE_STATUS, CachePolicy, Chunks, Flow, Hit, Missed, Wishes};
use crate::downstream::{BODY_BUDGET, Downstream, apply_to_response, may_see_upstream, seen_upstream};
use crate::journey::{Answered, Journey, body_refusal};
use crate::reply::Reply;
use crate::wire::view::AnswerView;

/// Gives what is stored, or the part of it that is asked for.
///
/// # Errors
/// As [`hit::answer`].
pub async fn give(hit: &Hit, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    let Some(asked) =
        asked(journey, &[header::RANGE, header::IF_RANGE]).filter(|asked| asked.headers.contains_key(header::RANGE))
    else {
        return hit::answer(hit, journey, down).await;
    };
    let Ok(mut head) = hit.head().to_header() else { return Err(Failed::BrokeOff) };
    if let Some(age) = hit.age() {
        // It fits.
        let _ = head.insert_header(header::AGE, HeaderValue::from(age));
    }
    let unchanged = conditions(journey).is_some_and(|conditions| hit.is_unchanged(&conditions));
    if unchanged {
        to_304(&mut head);
    }
    let parts = cache::range(&asked, &mut head, hit.length() == 0);
    if let Some(flow) = hit.flow().filter(|_| !unchanged && journey.head.method == Method::GET) {
        let parts = match parts {
            RangeType::Single(range) => Parts::One(range),
            RangeType::Invalid => Parts::One(0..0),
            RangeType::None => Parts::One(0..hit.length()),
            RangeType::Multi(several) => Parts::Several(several),
        };
        return Box::pin(read(&parts, flow, hit, head, journey, down)).await;
    }
    let mut reading = Reading::new(journey.view.cache, hit.lent(), down.purse_beside());
    let mut body = match &parts {
        _ if unchanged || journey.head.method == Method::HEAD => Chunks::new(),
        RangeType::Invalid => Chunks::new(),
        // Of parts alone nobody is given the whole: that was looked at before.
        RangeType::None => hit.cut(0..hit.length()).ok_or(Failed::BrokeOff)?,
        RangeType::Single(range) => hit.cut(range.clone()).ok_or(Failed::BrokeOff)?,
        // What is put together is this client's alone.
        RangeType::Multi(ranges) if !reading.pays(ranges.calculate_multipart_length()) => {
            return Err(body_refusal(&BODY_BUDGET).map_or(Failed::BrokeOff, Failed::Answer));
        }
        RangeType::Multi(ranges) => std::iter::once(assemble(ranges, hit).ok_or(Failed::BrokeOff)?).collect(),
    };
    let answered = tell(&mut head, hit, journey).map_err(Failed::Answer)?;
    down.stage(answered.stages);
    body.retain(|chunk| !chunk.is_empty());
    let written = async {
        down.write_head(Box::new(head), body.is_empty()).await?;
        let last = body.len().saturating_sub(1);
        for (number, chunk) in body.into_iter().enumerate() {
            reading.during(pin!(down.write_body(chunk, number == last))).await?;
        }
        down.finish().await
    };
    written.await.map_err(|error| client_failed(&error))
}

/// The parts that are stored of what was missed, if they are what this request asks for.
pub fn find(missed: &Missed, policy: &CachePolicy, wishes: &Wishes, journey: &Journey) -> Option<Hit> {
    let asked = asked(journey, &[header::RANGE, header::IF_RANGE])?;
    let seen = |name: &_| seen_upstream(&journey.head, &journey.exchange, name);
    journey.view.cache.parts(policy, missed.key(), wishes, &asked, seen)
}

/// The gateway's own word on an answer, and the policies'.
///
/// # Errors
/// The answer that a policy gives instead.
fn tell(answer: &mut ResponseHeader, hit: &Hit, journey: &mut Journey) -> Result<Answered, Box<Reply>> {
    let outcome = hit::noted(hit, journey);
    let answered = journey.answered(AnswerView::from(&*answer))?;
    // It is one that exists.
    let _ = answer.set_status(answered.status);
    let exchange = &journey.exchange;
    if let Some(via) = exchange.via(answer.version) {
        // Only an absurd number of fields could fail here; the answer then goes out without that one.
        let _ = answer.append_header(header::VIA, via.clone());
    }
    apply_to_response(answer, &exchange.request_id, &exchange.to_client);
    let _ = answer.append_header(CACHE_STATUS, journey.cache_field(outcome));
    Ok(answered)
}

/// Whether the client has this answer, which has just come, already (RFC 9110, section 13.2.2).
pub fn is_unchanged(journey: &Journey, answer: impl FnOnce() -> Option<ResponseHeader>) -> bool {
    conditions(journey).is_some_and(|conditions| answer().is_some_and(|answer| cache::is_unchanged_anew(&conditions, &answer)))
}

/// What a request says of an answer that its client has, as the service would see it. `None` if it says nothing.
pub fn conditions(journey: &Journey) -> Option<RequestHeader> {
    asked(journey, &[header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE])
}

/// The request with these fields alone, as the service would see them.
fn asked(journey: &Journey, names: &[HeaderName]) -> Option<RequestHeader> {
    let Journey { head, exchange, .. } = journey;
    if !may_see_upstream(head, exchange, names) {
        return None;
    }
    cache::asked(&head.method, names, |name| seen_upstream(head, exchange, name))
}

/// What is read of a body that is not in memory.
enum Parts {
    One(Range<usize>),
    Several(MultiRangeInfo),
}

/// Gives parts of a body that is not in memory, as they are read.
async fn read(
    parts: &Parts,
    flow: &Flow,
    hit: &Hit,
    mut head: ResponseHeader,
    journey: &mut Journey,
    down: &mut Downstream,
) -> Result<(), Failed> {
    let start = match parts {
        Parts::One(range) => range.start,
        Parts::Several(several) => several.ranges.first().map_or(0, |range| range.start),
    };
    let is_empty = matches!(parts, Parts::One(range) if range.is_empty());
    let mut first = if is_empty { None } else { hit::begun(hit, flow, start, down).await? };
    let answered = tell(&mut head, hit, journey).map_err(Failed::Answer)?;
    down.stage(answered.stages);
    down.write_head(Box::new(head), is_empty).await.map_err(|error| client_failed(&error))?;
    let mut reading = Reading::new(journey.view.cache, hit.lent(), down.purse_beside());
    match parts {
        _ if is_empty => {}
        Parts::One(range) => hit::follow(flow, first, &mut reading, down, range.clone(), true).await?,
        Parts::Several(several) => {
            for range in &several.ranges {
                let before = before(several, range, hit.length()).into();
                reading.during(pin!(down.write_body(before, false))).await.map_err(|error| client_failed(&error))?;
                hit::follow(flow, first.take(), &mut reading, down, range.clone(), false).await?;
            }
            let behind = behind(several).into();
            reading.during(pin!(down.write_body(behind, true))).await.map_err(|error| client_failed(&error))?;
        }
    }
    down.finish().await.map_err(|error| client_failed(&error))
}

/// What stands before one of several parts (RFC 9110, section 14.6). As long as Pingora says in `Content-Length`.
fn before(several: &MultiRangeInfo, range: &Range<usize>, total: usize) -> String {
    let (boundary, last) = (&several.boundary, range.end.saturating_sub(1));
    let kind = several.content_type.as_ref().map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
    format!("\r\n--{boundary}\r\n{kind}Content-Range: bytes {}-{last}/{total}\r\n\r\n", range.start)
}

/// And behind the last.
fn behind(several: &MultiRangeInfo) -> String {
    format!("\r\n--{}--\r\n", several.boundary)
}

/// Several parts in one body.
fn assemble(several: &MultiRangeInfo, hit: &Hit) -> Option<Bytes> {
    let mut body = Vec::with_capacity(several.calculate_multipart_length());
    for range in &several.ranges {
        body.extend_from_slice(before(several, range, hit.length()).as_bytes());
        hit.cut(range.clone())?.iter().for_each(|chunk| body.extend_from_slice(chunk));
    }
    body.extend_from_slice(behind(several).as_bytes());
    Some(body.into())
}
