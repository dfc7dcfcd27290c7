//! The road: takes a request to its service through the one engine that calls services ([`crate::upstream::call`]), and the answer back
//! to the client.

mod cached;
pub mod compose;
pub mod fallback;
mod filling;
pub mod hit;
mod judge;
mod mirror;
pub mod own;
pub mod paid;
mod parts;
mod refresh;
mod relay;
pub mod stale;
mod tunnel;
pub mod web;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pingora_error::{Error, ErrorType};

use crate::cache::Use;
use crate::downstream::{CLIENT_STALLED, Downstream, UNPAID};
use crate::exchange::Verdict;
use crate::journey::{ANSWER_BUDGET, Journey, body_refusal, out_of_time};
use crate::reply::Reply;
use crate::upstream::call::client::Overheard;
use crate::upstream::call::{Answer, Broken, Call, CallError, Caller, call_error};
use crate::upstream::{AttemptOutcome, Protocol, Service};
use crate::wait::pinned;
use crate::wire::answer::BadAnswer;
use crate::wire::stages::refusal;
pub use filling::UnderWay;
use hit::Missed;

/// How far apart the service's clock and the gateway's may be when both look at the end of the same call.
const CLOCKS: Duration = Duration::from_millis(50);

/// How an exchange ended that did not end well.
#[derive(Debug)]
pub enum Failed {
    /// No answer was begun: give this one.
    Answer(Box<Reply>),
    /// The client went away.
    ClientGone,
    /// The client took nothing of its answer for too long.
    ClientStopped,
    /// The service broke off in the middle of its answer.
    BrokeOff,
    /// Nothing of a stored answer can be read: it is as if it were not there.
    Unreadable,
    /// Nor of one that somebody else fetches, by way of the disk. It is not waited for once more.
    Unreached,
    /// The gateway broke it off, for it came too slowly.
    TooSlow,
    /// The gateway has closed a WebSocket, or broken off an answer to a client that is too slow, for this reason.
    Closed(Verdict),
}

/// Takes one request to its service and the answer back.
///
/// # Errors
/// See [`Failed`]. Cancel-safe in the sense that dropping the future ends the exchange with the service and leaves the client's
/// connection as it is. What is being stored meanwhile is left in `under_way`, and can go on.
pub async fn run(
    caller: &Arc<Caller>,
    journey: &mut Journey,
    down: &mut Downstream,
    service: &Service,
    missed: Option<Missed>,
    under_way: &mut Option<UnderWay>,
) -> Result<(), Failed> {
    if service.protocol.plain() == Protocol::Http1 {
        down.look_ahead().await;
    }
    if journey.route().is_some_and(|route| route.back.is_some())
        && let Some(mending) = journey.mending()
    {
        down.map_interim(Box::new(move |answer| mending.interim(answer)));
    }
    match missed {
        None => {}
        Some(Missed::Bypass(why)) => journey.cache_use = Some(Use::Bypass(why)),
        Some(Missed::Alone) => hit::go_alone(journey)?,
        // Boxed: it must not make the common one's future larger.
        Some(Missed::Ask(ask)) => match pinned(|| cached::run(caller, journey, down, service, ask, under_way)).await {
            Err(Failed::Unreadable) => {
                if let Missed::Ask(ask) = hit::anew(journey) {
                    match pinned(|| cached::run(caller, journey, down, service, ask, under_way)).await {
                        Err(Failed::Unreadable | Failed::Unreached) => drop(journey.answer_dropped()),
                        ended => return ended,
                    }
                }
                hit::go_alone(journey)?;
            }
            Err(Failed::Unreached) => {
                journey.answer_dropped();
                hit::go_alone(journey)?;
            }
            ended => return ended,
        },
    }
    let mut copy = mirror::begin(caller, journey, down, true);
    let answer = {
        let target = journey.upstream_target();
        let Journey { view, head, exchange, tries, .. } = &mut *journey;
        let call = Call { head, exchange, target: target.as_deref(), fill: None, stands_for: None };
        match &mut copy {
            None => caller.send(service, &call, tries, down, &view.tls).await,
            // Boxed: it must not make the common one's future larger.
            Some(copy) => {
                let mut client = Overheard { client: &mut *down, by: copy };
                Box::pin(caller.send(service, &call, tries, &mut client, &view.tls)).await
            }
        }
    };
    let mut answer = answer.map_err(|error| call_failed(error, journey, down))?;
    // What has not been sent by now never will be.
    drop(copy);
    journey.answer_began(down.uploaded());
    journey.endpoint_answered(service, &answer.head);
    if let Some(reply) = fallback::replaces(journey, down, &answer.head) {
        return Err(let_go(caller, answer, service, reply));
    }
    if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
        return pinned(|| tunnel::run(answer, journey, down, service)).await;
    }
    if let Some(reply) = journey.not_switched(answer.head.status) {
        return Err(Failed::Answer(reply));
    }
    match relay::answer(&mut answer, journey, down, service).await {
        Ok(()) => {
            if let Some(watch) = journey.compared.take() {
                watch.end(answer.head.status);
            }
            caller.keep(answer, service);
            Ok(())
        }
        Err(broken) => {
            let failed = broke_off(broken, journey, down);
            // Of an answer that is replaced, what has come is dropped; for the rest nobody waits.
            if matches!(&failed, Failed::Answer(_)) && !down.is_answered() && relay::is_all_here(&mut answer) {
                caller.keep(answer, service);
            }
            Err(failed)
        }
    }
}

/// One of a route's services, for what goes on without its request.
fn shared(journey: &Journey, service: &Service) -> Option<Arc<Service>> {
    let is_it = |known: &&Arc<Service>| std::ptr::eq(&***known, service);
    journey.route()?.answer.services().iter().find(is_it).cloned()
}

/// Lets go of an answer that another one takes the place of.
fn let_go(caller: &Caller, mut answer: Answer, service: &Service, reply: Box<Reply>) -> Failed {
    if relay::is_all_here(&mut answer) {
        caller.keep(answer, service);
    }
    Failed::Answer(reply)
}

fn call_failed(error: CallError, journey: &mut Journey, down: &Downstream) -> Failed {
    match error {
        CallError::Service(reply) => {
            // How long it took to fail.
            journey.answer_began(down.uploaded());
            Failed::Answer(reply)
        }
        CallError::Client(error) => client_failed(&error),
    }
}

/// What becomes of an exchange that breaks once the answer's head is known.
fn broke_off(broken: Broken, journey: &mut Journey, down: &mut Downstream) -> Failed {
    match broken {
        Broken::Client(error) if error.etype == ErrorType::InvalidHTTPHeader => Failed::Answer(BadAnswer::Malformed.reply()),
        Broken::Client(error) => client_failed(&error),
        // It was told what is left of the call's time, and looks at a clock of its own.
        _ if journey.is_late(CLOCKS) => Failed::Answer(out_of_time(true)),
        // The head waited for a body that does not come.
        broken if !down.is_answered() => service_failed(broken, journey),
        // A page sees no reset.
        broken @ Broken::Reset(_) if journey.dialect.is_web() => service_failed(broken, journey),
        Broken::Reset(reason) => {
            journey.service_failed(AttemptOutcome::Broken);
            down.pass_reset(reason);
            Failed::BrokeOff
        }
        Broken::TooSlow => Failed::TooSlow,
        Broken::Ended(_) => Failed::BrokeOff,
        // A call can be told how it ended also behind what came of its answer: a reset would say that somebody has cancelled it.
        broken if journey.dialect.is_grpc() => service_failed(broken, journey),
        _ => {
            journey.service_failed(AttemptOutcome::Broken);
            Failed::BrokeOff
        }
    }
}

/// The service's side is over; this is what is said of that.
fn service_failed(broken: Broken, journey: &mut Journey) -> Failed {
    broken.outcome().into_iter().for_each(|outcome| journey.service_failed(outcome));
    match journey.service().map(|service| call_error(broken, service)) {
        Some(CallError::Service(reply)) => Failed::Answer(reply),
        Some(CallError::Client(error)) => client_failed(&error),
        None => Failed::BrokeOff,
    }
}

/// How it is told that the client's side failed.
fn client_failed(error: &Error) -> Failed {
    match body_refusal(&error.etype).or_else(|| refusal(error)) {
        Some(reply) => Failed::Answer(reply),
        None if error.etype == CLIENT_STALLED => Failed::ClientStopped,
        None if error.etype == UNPAID => Failed::Closed(ANSWER_BUDGET),
        None => Failed::ClientGone,
    }
}
