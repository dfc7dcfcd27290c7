//! What a client gets when its route's service answers nothing: the route's fallback.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::judge::code_of;
use super::{Failed, broke_off, call_failed, client_failed, hit, parts, relay, stale};
use crate::cache::Hit;
use crate::downstream::Downstream;
use crate::head::HeaderEdit;
use crate::journey::Journey;
use crate::reply::Reply;
use crate::route::Cause;
use crate::snapshot::fallback::{CACHED, Fallback, How};
use crate::upstream::Service;
use crate::upstream::call::{Call, Caller, Tries, may_be_repeated};
use crate::wire::answer::AnswerHead;
use crate::wire::encode::is_bodiless;
use crate::wire::view::AnswerView;

const X_PORTCULLIS_FALLBACK: HeaderName = HeaderName::from_static("x-portcullis-fallback");

/// The reason where there is an answer, and nobody is to see it.
const UNWANTED: &str = "unwanted_answer";

/// For how long after its lifetime the last good answer may be given.
pub fn within(journey: &Journey) -> Option<Duration> {
    journey.route()?.fallback.as_ref()?.cached
}

/// A fallback that can be given, and why it is.
pub struct Due {
    fallback: Arc<Fallback>,
    given: Given,
    /// So can what stands behind a stored answer.
    has_more: bool,
    cause: Cause,
    reason: &'static str,
}

/// What of it is given.
enum Given {
    Cached(Box<Hit>),
    How,
}

impl Due {
    /// Whether it asks somebody, who may take his time.
    pub fn asks(&self) -> bool {
        matches!(self.given, Given::How) && matches!(self.fallback.how, Some(How::Service(_)))
    }

    /// What of it can be given indeed: a stored answer that cannot be read is as if it were not there. `None` if nothing can be.
    pub async fn settled(mut self) -> Option<Self> {
        if let Given::Cached(hit) = &self.given
            && !hit::is_readable(hit).await
        {
            self.given = Given::How;
            return Some(self).filter(|due| due.has_more);
        }
        Some(self)
    }
}

/// The fallback for an exchange that ended like this; `None` of it is that the request's time was over. `None` if there is none, or if the
/// client has been answered, or cannot be.
pub fn due(journey: &Journey, down: &Downstream, ended: Option<&Result<(), Failed>>) -> Option<Due> {
    let fallback = journey.route()?.fallback.as_ref()?;
    let (cause, reason) = match ended {
        Some(Err(Failed::Answer(reply))) if reply.policy == Service::NAME || reply.of_service => {
            match (reply.reason, reply.status.as_u16()) {
                (UNWANTED, _) => (Cause::Status, UNWANTED),
                // Somebody in the service's place has answered with it.
                (reason, _) if reply.of_service && fallback.replaces(reply.status) => (Cause::Status, reason),
                (reason @ "circuit_open", _) => (Cause::Open, reason),
                (reason, 504) => (Cause::Timeout, reason),
                (reason, 500..) => (Cause::Error, reason),
                _ => return None,
            }
        }
        // A client's own deadline is nobody's fault.
        None if !journey.is_late(Duration::ZERO) => (Cause::Timeout, "request_timeout"),
        _ => return None,
    };
    if cause != Cause::Status && !fallback.is_for(cause) {
        return None;
    }
    let in_time = ended.is_some();
    let given = given(fallback, journey, down, in_time)?;
    let has_more = matches!(given, Given::Cached(_)) && can_be_given(fallback, journey, down, in_time);
    Some(Due { fallback: fallback.clone(), given, has_more, cause, reason })
}

fn given(fallback: &Fallback, journey: &Journey, down: &Downstream, in_time: bool) -> Option<Given> {
    if down.is_answered() {
        return None;
    }
    if let Some(hit) = fallback.cached.and_then(|within| stale::last_good(journey, within)) {
        return Some(Given::Cached(Box::new(hit)));
    }
    can_be_given(fallback, journey, down, in_time).then_some(Given::How)
}

/// Whether there is something to give where the cache has nothing.
fn can_be_given(fallback: &Fallback, journey: &Journey, down: &Downstream, in_time: bool) -> bool {
    match &fallback.how {
        None => false,
        Some(How::Own { .. }) => !journey.dialect.is_grpc(),
        // There has to be time left, and all of the request: nothing of it was sent, or what was is still at hand, and nothing was done about it
        // or it may be sent twice.
        Some(How::Service(_)) => {
            let unsent = journey.tries.started.is_none();
            in_time
                && !journey.head.upgrade
                && (unsent || down.can_replay() && (journey.tries.undone || may_be_sent_twice(journey)))
        }
    }
}

/// Whether the request may be sent to another service once the route's has had it, which may have done what it says: as for its retries.
fn may_be_sent_twice(journey: &Journey) -> bool {
    let Journey { head, exchange, .. } = journey;
    journey.service().is_some_and(|service| may_be_repeated(service, &head.method, head, exchange))
}

/// What an answer's status is taken for where the route's fallback is given in its place. `None` for all that are passed on, for most have
/// none, and it must be one that can be given.
#[inline]
pub fn replaces(journey: &Journey, down: &Downstream, answer: &AnswerHead) -> Option<Box<Reply>> {
    if answer.status.as_u16() < 400 && !journey.dialect.is_grpc() {
        return None;
    }
    unwanted(journey, down, answer)
}

fn unwanted(journey: &Journey, down: &Downstream, answer: &AnswerHead) -> Option<Box<Reply>> {
    let fallback = journey.route()?.fallback.as_ref()?;
    let status = if fallback.replaces(answer.status) {
        answer.status
    } else {
        let code = code_of(answer, &journey.tries);
        code.filter(|code| fallback.replaces_call(*code)).map(|_| StatusCode::BAD_GATEWAY)?
    };
    given(fallback, journey, down, true)?;
    let detail = "The backend's answer has a status for which this route has something else.";
    Some(Reply::new(status, Service::NAME, UNWANTED, detail))
}

/// Gives it.
///
/// # Errors
/// See [`Failed`].
pub async fn give(caller: &Caller, journey: &mut Journey, down: &mut Downstream, due: Due) -> Result<(), Failed> {
    let Due { fallback, given, cause, reason, .. } = due;
    let kind = match (&given, &fallback.how) {
        (Given::How, Some(how)) => how.as_str(),
        _ => CACHED,
    };
    if kind != CACHED {
        fallback.count(cause, false);
    }
    journey.outcome.fallback = kind;
    journey.outcome.decided_by = Some(reason.into());
    // An answer may have come, and been dropped: nothing that was made of it is the fallback's.
    journey.answer_dropped();
    let mark = HeaderEdit::Set(X_PORTCULLIS_FALLBACK, HeaderValue::from_static(kind));
    journey.exchange.to_client.push(mark);
    // There is no answer that a copy's could be compared with.
    journey.compared = None;
    if let Given::Cached(hit) = given {
        down.give_up_body();
        let ended = parts::give(&hit, journey, down).await;
        if matches!(ended, Err(Failed::Unreadable)) {
            // Only now it is known that it is not given.
            journey.exchange.to_client.pop();
            journey.outcome.fallback = "";
        } else {
            fallback.count(cause, true);
        }
        return ended;
    }
    match &fallback.how {
        Some(How::Own { head, body }) => {
            let answered = journey.answered(AnswerView::from(&**head)).map_err(Failed::Answer)?;
            let other = (answered.status != head.status).then(|| head.with_status(answered.status));
            let head = other.as_ref().unwrap_or(head);
            down.stage(answered.stages);
            // Nobody will read the rest.
            down.give_up_body();
            let bodiless = body.is_empty() || journey.head.method == Method::HEAD || is_bodiless(head.status);
            let exchange = &journey.exchange;
            let via = exchange.via(head.version);
            let written = async {
                down.write_answer(head, &exchange.request_id, &exchange.to_client, via, bodiless).await?;
                if !bodiless {
                    down.write_body(body.clone(), true).await?;
                }
                down.finish().await
            };
            written.await.map_err(|error| client_failed(&error))
        }
        Some(How::Service(service)) => ask(caller, journey, down, service).await,
        None => Err(Failed::BrokeOff),
    }
}

/// Asks another service.
async fn ask(caller: &Caller, journey: &mut Journey, down: &mut Downstream, service: &Arc<Service>) -> Result<(), Failed> {
    journey.tries = Tries::default();
    journey.stand_in = Some(service.clone());
    let answer = {
        let target = journey.upstream_target();
        let Journey { view, head, exchange, tries, .. } = &mut *journey;
        let call = Call { head, exchange, target: target.as_deref(), fill: None, stands_for: None };
        caller.send(service, &call, tries, down, &view.tls).await
    };
    let mut answer = answer.map_err(|error| call_failed(error, journey, down))?;
    journey.answer_began(down.uploaded());
    journey.endpoint_answered(service, &answer.head);
    match relay::answer(&mut answer, journey, down, service).await {
        Ok(()) => {
            caller.keep(answer, service);
            Ok(())
        }
        Err(broken) => Err(broke_off(broken, journey, down)),
    }
}
