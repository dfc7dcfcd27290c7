//! Answers of routes that answer by themselves.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};

use super::{Failed, client_failed, compose};
use crate::downstream::Downstream;
use crate::head::{BodyFraming, RequestHead};
use crate::jose::json::takes;
use crate::journey::{CLIENT_CLOSED, Given, Journey, no_memory};
use crate::listen::share::Purse;
use crate::policy::validate::json::{self, Limits};
use crate::policy::validate::media::is_json_document;
use crate::reply::{Flow, Reply};
use crate::upstream::call::Caller;
use crate::wire::encode::is_bodiless;

/// The longest request's body that calls are made of, in bytes.
const LONGEST_BODY: u64 = 1024 * 1024;
/// How deep it may be nested.
const DEEPEST_BODY: usize = 64;

/// Gives what the route answers by itself.
///
/// # Errors
/// [`Failed::Answer`] with a refusal, [`Failed::ClientGone`] or [`Failed::ClientStopped`].
pub async fn answer(caller: &Arc<Caller>, journey: &mut Journey, down: &mut Downstream) -> Result<(), Failed> {
    // What it takes of the memory for bodies is given back once the answer is written.
    let (given, _purse) = match journey.composed().map(|composed| composed.composition.reads_body) {
        None => (journey.give_own().map_err(Failed::Answer)?, None),
        // Boxed, as all that few requests do.
        Some(reads_body) => Box::pin(composed(caller, journey, down, reads_body)).await?,
    };
    down.give_up_body();
    down.stage(given.stages);
    let bodiless = given.body.is_empty() || journey.head.method == Method::HEAD || is_bodiless(given.head.status);
    let written = async {
        down.write_head(given.head, bodiless).await?;
        if !bodiless {
            down.write_body(given.body, true).await?;
        }
        down.finish().await
    };
    written.await.map_err(|error| client_failed(&error))
}

/// Makes an answer of several, for as long as the client waits for it.
async fn composed(
    caller: &Arc<Caller>,
    journey: &mut Journey,
    down: &mut Downstream,
    reads_body: bool,
) -> Result<(Given, Option<Purse>), Failed> {
    let mut purse = down.purse_beside();
    let body = match body(journey, down, reads_body).await? {
        None => None,
        Some(text) => {
            // What it is once it is read is more than it was.
            if !purse.as_mut().is_none_or(|purse| purse.charge(takes(&text))) {
                return Err(Failed::Answer(no_memory()));
            }
            Some(text)
        }
    };
    tokio::select! {
        biased;
        gathered = compose::gather(caller, journey, purse, body) => gathered.map_err(Failed::Answer),
        () = down.gone() => Err(Failed::ClientGone),
    }
}

/// The request's body, if it has one and any call is made of it.
async fn body(journey: &mut Journey, down: &mut Downstream, reads_body: bool) -> Result<Option<Bytes>, Failed> {
    if journey.head.body == BodyFraming::None || down.body_is_empty() {
        return Ok(None);
    }
    if journey.is_unsettled()
        && let Flow::Break(reply) = journey.settle_body(down).await
    {
        return Err(if reply.status == CLIENT_CLOSED { Failed::ClientGone } else { Failed::Answer(reply) });
    }
    if journey.head.body == BodyFraming::None {
        return Ok(None);
    }
    if !reads_body {
        let detail = "Nothing becomes of a body here: send the request without one.";
        return Err(Failed::Answer(Reply::new(StatusCode::BAD_REQUEST, "compose", "body_not_taken", detail)));
    }
    if !says_json(&journey.head) {
        let detail = "A body of this type is not taken here.";
        let reply = Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compose", "body_not_json", detail);
        // RFC 9110, section 15.5.16.
        return Err(Failed::Answer(reply.header(header::ACCEPT, HeaderValue::from_static("application/json"))));
    }
    let bound = journey.max_body().min(LONGEST_BODY);
    down.limit_body(bound);
    let reading = down.buffer_body(usize::try_from(bound).unwrap_or(usize::MAX));
    let read = match journey.due().first() {
        Some(due) => tokio::time::timeout_at(due, reading).await.map_err(|_| Failed::Answer(journey.out_of_time().closing()))?,
        None => reading.await,
    };
    let body = read.map_err(|error| client_failed(&error))?;
    if body.is_empty() {
        return Ok(None);
    }
    let most = usize::try_from(bound).unwrap_or(usize::MAX);
    let body = journey.content_of(&body, most, down, "compose").map_err(Failed::Answer)?;
    // A name that is there twice is one thing to whoever looked at the body before, and may be another here.
    let limits = Limits { unique: true, ..Limits::deep(DEEPEST_BODY) };
    json::check_within(&body, &limits).map(|()| Some(body)).map_err(|_| Failed::Answer(compose::malformed()))
}

/// What calls are made of is told services as `application/json`: a page of another site may send anything else without being asked for leave
/// (a form, `text/plain`, no type at all), with its user's cookies.
fn says_json(head: &RequestHead) -> bool {
    let mut kinds = head.header_all("content-type");
    matches!((kinds.next(), kinds.next()), (Some(kind), None) if is_json_document(kind))
}
