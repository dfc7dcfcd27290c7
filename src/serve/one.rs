//! One exchange: the gauntlet, then the way to a stored answer or to a service, under the request's total deadline, and what is left to do
//! once it is over.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;

use super::worker::Worker;
use crate::cache::Hit;
use crate::downstream::{Downstream, ExchangeControl, Returned, Wire};
use crate::exchange::{Connection, Verdict};
use crate::forward::hit::{Found, Missed};
use crate::forward::paid::FREE;
use crate::forward::{self, Failed};
use crate::head::{BodyFraming, RequestHead};
use crate::journey::gauntlet::too_many_in_flight;
use crate::journey::{CLIENT_CLOSED, CLIENT_STOPPED, Journey, Places, TimeLimit};
use crate::listen::connections::Entry;
use crate::listen::share::{Place, Purse};
use crate::reply::Reply;
use crate::snapshot::ActiveListener;
use crate::upstream::Service;
use crate::upstream::call::Caller;
use crate::wait::Alarm;

/// One request: the gauntlet, then a road. Gives back the connection, if there still is one.
pub(super) async fn exchange(
    worker: &Arc<Worker>,
    door: &Arc<ActiveListener>,
    connection: &Arc<Connection>,
    entry: &Entry,
    head: Box<RequestHead>,
    wire: Wire,
    alarm: &mut Alarm,
) -> Option<Returned> {
    let _serving = entry.begin();
    let view = worker.view.load_full();
    let mut down = Downstream::new(wire, head.method.clone()).timeouts(door.body_pace(), door.timeouts.write);
    let mut journey = Journey::begin(view.clone(), door, connection, head);
    let Some(share) = share(worker, door, entry, &journey) else {
        refuse(&mut journey, &mut down, &too_many_in_flight()).await;
        return down.give_back();
    };
    let purse = || Purse::new(worker.core.shares, share.payer(), view.snapshot.body_memory);
    if journey.head.body != BodyFraming::None {
        down.set_purse(purse());
    }
    let mut place = Places::new(&worker.core.in_flight, view.snapshot.max_in_flight);
    let flow = match journey.sent_to_tls(door) {
        Some(reply) => reply.refuse(),
        None => journey.run_gauntlet(&mut down, &mut place, &worker.caller).await,
    };
    if let Some(route) = journey.route() {
        entry.took(&route.id);
        if route.plan.holds_answers || route.answer.composed().is_some() {
            down.set_purse_if_none(purse);
        }
    }
    match flow {
        ControlFlow::Break(reply) => refuse(&mut journey, &mut down, &reply).await,
        ControlFlow::Continue(()) => {
            let mut found = forward::hit::find(&mut journey);
            if let Some(Found::Fresh(hit)) = &found {
                if hit.length() > FREE {
                    down.set_purse_if_none(purse);
                }
                if from_memory(&mut journey, &mut down, hit, alarm).await {
                    return down.give_back();
                }
                found = Some(Found::Missed(forward::hit::anew(&mut journey)));
            }
            let missed = match found {
                Some(Found::Missed(missed)) => {
                    if matches!(missed, Missed::Ask(_)) {
                        down.set_purse_if_none(purse);
                    }
                    Some(missed)
                }
                _ => None,
            };
            // Only now, for a stored answer is nobody's turn.
            match journey.choose_service(&view) {
                Some(service) => forward_request(worker, &mut journey, &mut down, service, missed, alarm).await,
                // Boxed: few routes answer by themselves.
                None => Box::pin(by_itself(&worker.caller, &mut journey, &mut down, alarm)).await,
            }
        }
    }
    // Where it is: it would be copied on its way.
    down.take_back()
}

/// A place in the share of the client's address. `None` if that is used up.
fn share<'a>(worker: &Worker, door: &ActiveListener, entry: &'a Entry, journey: &Journey) -> Option<Place<'a>> {
    let most = journey.view.snapshot.max_in_flight_per_address;
    match entry.share() {
        Some(seat) if !journey.exchange.trusted => seat.take(most),
        // Behind a proxy the client is another one with each request. What the proxy asks in its own name is bounded with all the rest.
        _ => match door.counted_address(journey.exchange.client) {
            Some(client) => worker.core.shares.of(client).take(most),
            None => Some(Place::uncounted()),
        },
    }
}

/// To the service and back, under the request's total deadline.
async fn forward_request(
    worker: &Worker,
    journey: &mut Journey,
    down: &mut Downstream,
    service: &Service,
    missed: Option<Missed>,
    alarm: &mut Alarm,
) {
    down.limit_body(journey.max_body());
    if journey.expects_stream() {
        down.expect_stream();
    }
    if service.protocol.is_http2() && journey.is_grpc() {
        down.await_body_without_limit();
        if journey.is_made_of_messages() {
            // Nothing of it was read yet.
            let _ = down.bound_messages();
        }
    }
    if journey.dialect.is_web()
        && let Err(reply) = forward::web::begin(journey, down, service)
    {
        return refuse(journey, down, &reply).await;
    }
    journey.control = Some(down.control());
    let (due, control) = (journey.due(), down.control());
    journey.tries.due = due.first();
    if journey.tries.due.is_some() {
        journey.hand_deadline_on();
    }
    // Whoever goes by the cache says nothing of what is in it.
    let asks = matches!(missed, Some(Missed::Ask(_)));
    let mut under_way = None;
    // What was waited for before may have taken all of it.
    let ended = if due.is_over() {
        None
    } else {
        let road = pin!(forward::run(&worker.caller, journey, down, service, missed, &mut under_way));
        within_deadline(road, due, &control, alarm).await
    };
    if ended.is_none() {
        journey.ran_out_of_time(down.uploaded());
        if let Some(fill) = under_way {
            fill.go_on(&worker.caller, journey, service);
        }
    }
    journey.tries.end();
    if asks
        && let Some(Err(failed)) = &ended
        && forward::hit::breaks_contract(failed, down)
    {
        forward::hit::forget(journey);
    }
    let ended = match forward::fallback::due(journey, down, ended.as_ref()) {
        // Boxed, as all that hardly any request does.
        Some(fallback) => match Box::pin(fall_back(worker, journey, down, fallback, alarm)).await {
            Some(Err(Failed::Unreadable)) => ended,
            fallen => fallen,
        },
        None => ended,
    };
    forwarded(journey, down, ended).await;
}

/// What a route answers by itself, under the request's total deadline.
async fn by_itself(caller: &Arc<Caller>, journey: &mut Journey, down: &mut Downstream, alarm: &mut Alarm) {
    let (due, control) = (journey.due(), down.control());
    let composes = journey.composed().is_some();
    let ended = {
        let road = pin!(forward::own::answer(caller, journey, down));
        // Parts are had within the request's time, and what is had by then is given also when it is over.
        if composes { Some(road.await) } else { within_deadline(road, due, &control, alarm).await }
    };
    forwarded(journey, down, ended).await;
}

/// Gives what stands in for the answer of a service that gave none.
async fn fall_back(
    worker: &Worker,
    journey: &mut Journey,
    down: &mut Downstream,
    fallback: forward::fallback::Due,
    alarm: &mut Alarm,
) -> Option<Result<(), Failed>> {
    let Some(fallback) = fallback.settled().await else { return Some(Err(Failed::Unreadable)) };
    let (due, control) = (journey.due(), down.control());
    let asks = fallback.asks();
    let ended = if asks && due.is_over() {
        None
    } else {
        let road = pin!(forward::fallback::give(&worker.caller, journey, down, fallback));
        // What is at hand is given also when the request's time is over.
        if asks { within_deadline(road, due, &control, alarm).await } else { Some(road.await) }
    };
    journey.tries.end();
    ended
}

/// A stored answer, under the request's total deadline. Whether the client has been told something: not of one that breaks its contract, or
/// that cannot be read.
async fn from_memory(journey: &mut Journey, down: &mut Downstream, hit: &Hit, alarm: &mut Alarm) -> bool {
    let (due, control) = (journey.due(), down.control());
    let ended = {
        let road = pin!(forward::hit::answer(hit, journey, down));
        within_deadline(road, due, &control, alarm).await
    };
    if let Some(Err(failed)) = &ended
        && (forward::hit::breaks_contract(failed, down) || matches!(failed, Failed::Unreadable))
    {
        return false;
    }
    forwarded(journey, down, ended).await;
    true
}

/// What is left to do once it is over. `ended` is `None` if the request's time was over first.
async fn forwarded(journey: &mut Journey, down: &mut Downstream, ended: Option<Result<(), Failed>>) {
    let failed = match ended {
        Some(Ok(())) => None,
        Some(Err(failed)) => Some(failed),
        None => Some(Failed::Answer(journey.out_of_time().closing())),
    };
    if let Some(failed) = failed {
        broke(journey, down, failed).await;
    }
    journey.outcome.upload = down.uploaded().map(|at| at - journey.exchange.started);
    journey.ended(down.body_read(), down.body_sent());
}

/// Tells the client what can still be told, and the log what happened.
async fn broke(journey: &mut Journey, down: &mut Downstream, failed: Failed) {
    let verdict = match failed {
        Failed::Answer(reply) if !down.is_answered() => return refuse(journey, down, &reply).await,
        Failed::Answer(reply) => {
            if journey.dialect.is_grpc() {
                match journey.web {
                    // It is over whether this can be told or not.
                    Some(web) => drop(down.write_body(web.trailers(&reply.trailers()), true).await),
                    None => down.end_call(reply.trailers()),
                }
                journey.outcome.grpc_status = Some(crate::grpc::status(reply.status).into());
            }
            Verdict { policy: reply.policy, reason: "answer_broke_off" }
        }
        Failed::BrokeOff | Failed::Unreadable | Failed::Unreached => Verdict { policy: "upstream", reason: "answer_broke_off" },
        Failed::TooSlow => Verdict { policy: "upstream", reason: "answer_too_slow" },
        Failed::Closed(verdict) => verdict,
        Failed::ClientStopped => CLIENT_STOPPED,
        Failed::ClientGone if down.is_answered() => {
            journey.outcome.client_closed = true;
            return;
        }
        Failed::ClientGone => {
            journey.outcome.status = CLIENT_CLOSED.as_u16();
            Verdict { policy: "client", reason: "client_closed" }
        }
    };
    journey.outcome.verdict = Some(verdict);
}

/// Lets a road run until the request's time is over; `None` if that came first. An upgrade or a stream, once begun, has only the limit
/// that its client gave it.
///
/// By reference: a future that is handed over by value is held twice, and these are the largest there are.
async fn within_deadline<T>(
    mut road: Pin<&mut impl Future<Output = T>>,
    due: TimeLimit,
    control: &ExchangeControl,
    alarm: &mut Alarm,
) -> Option<T> {
    if let Ok(ended) = alarm.until(due.first(), road.as_mut()).await {
        return Some(ended);
    }
    if control.is_endless()
        && let Ok(ended) = alarm.until(due.call, road).await
    {
        return Some(ended);
    }
    None
}

pub(super) async fn refuse(journey: &mut Journey, down: &mut Downstream, reply: &Reply) {
    let instead = journey.not_switched(reply.status);
    let reply = instead.as_deref().unwrap_or(reply);
    journey.refused(reply);
    if reply.status != CLIENT_CLOSED {
        // A client that does not take its refusal is gone; there is nobody left to tell.
        let _ = down.reply(reply, journey.wording(), &journey.exchange.to_client, &journey.exchange.request_id).await;
    }
    journey.ended(down.body_read(), down.body_sent());
}
