//! What the hooks of one request share, and what they do at both ends of it: everything up to the question which backend to ask, and the
//! line that is left.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use http::{StatusCode, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::Gateway;
use super::body::{Body, StockClient, length_required};
use super::reply::{MOST_LINGERING, linger};
use super::staged::Staged;
use crate::cache::Wishes;
use crate::downstream::upstream_request;
use crate::exchange::Connection;
use crate::grpc::Messages;
use crate::head::BodyFraming;
use crate::journey::gauntlet::too_many_in_flight;
use crate::journey::{Journey, Places};
use crate::listen::share::{Place, Purse};
use crate::reply::{Flow, Reply};
use crate::snapshot::ActiveListener;
use crate::upstream::Protocol;

pub(super) const NO_JOURNEY: ErrorType = ErrorType::Custom("NoJourney");

/// What a request's hooks remember.
#[derive(Default)]
pub struct Ctx {
    /// The same for all requests of a connection.
    pub(super) connection: Option<Arc<Connection>>,
    /// `None` before the request is read, and once it is logged.
    pub(super) journey: Option<Box<Journey>>,
    pub(super) door: Option<Arc<ActiveListener>>,
    /// The answer to a head that is refused, until it is given.
    pub(super) refused: Option<Box<Reply>>,
    /// What the client says of stored answers.
    pub(super) wishes: Wishes,
    pub(super) body: Body,
    /// Where the stream of messages stands, if the body's bound is one on each of them.
    pub(super) messages: Option<Messages>,
    pub(super) uploaded: Option<Instant>,
    /// The answer ends when its parties say so.
    pub(super) endless: bool,
    /// What works on the answer's body.
    pub(super) staged: Option<Staged>,
    /// The request's place among those of its client's address, and among all.
    pub(super) share: Option<Place<'static>>,
    pub(super) place: Option<Places<'static>>,
}

pub(super) fn journey(ctx: &mut Ctx) -> Result<&mut Journey> {
    ctx.journey.as_deref_mut().ok_or_else(|| Error::new(NO_JOURNEY))
}

impl Gateway {
    /// Ends an exchange whose client has its answer, and may still be writing.
    pub(super) async fn part(&self, session: &mut Session, ctx: &mut Ctx) {
        if session.is_body_done() {
            return;
        }
        end(session, ctx);
        let lingering = self.core().shares.linger(None, MOST_LINGERING, 0);
        if lingering.is_some() {
            linger(session).await;
        }
    }
}

/// Gives back what the request held, and writes its line.
pub(super) fn end(session: &Session, ctx: &mut Ctx) {
    if let Some(mut journey) = ctx.journey.take() {
        journey.tries.end();
        let down = session.as_downstream();
        let has_body = journey.head.body != BodyFraming::None;
        journey.outcome.upload = ctx.uploaded.filter(|_| has_body).map(|at| at - journey.exchange.started);
        journey.ended(down.body_bytes_read() as u64, down.body_bytes_sent() as u64);
        // The line is written when the journey is dropped.
    }
    (ctx.place, ctx.share) = (None, None);
}

/// What the listener says of its connections, as far as it can be said once a head is read.
pub(super) fn set_up(session: &mut Session, door: &ActiveListener) {
    session.set_read_timeout(Some(door.timeouts.body));
    session.set_write_timeout(Some(door.timeouts.write));
    session.set_pipelining_enabled(true);
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(door.timeouts.keep_alive.as_secs().max(1)));
    }
}

/// Everything up to the question which backend to ask. Then the session carries the request as the backend shall see it.
pub(super) async fn admit(gateway: &Gateway, session: &mut Session, ctx: &mut Ctx) -> Result<Flow> {
    if let Some(reply) = ctx.refused.take() {
        return Ok(reply.refuse());
    }
    let core = gateway.core();
    let Ctx { journey: Some(journey), door: Some(door), body, share, place, .. } = ctx else {
        return Err(Error::new(NO_JOURNEY));
    };
    let snapshot = journey.view.snapshot.clone();
    let taken = match door.counted_address(journey.exchange.client) {
        Some(client) => core.shares.of(client).take(snapshot.max_in_flight_per_address),
        None => Some(Place::uncounted()),
    };
    let Some(taken) = taken else { return Ok(too_many_in_flight().refuse()) };
    if journey.head.body != BodyFraming::None {
        body.purse = Some(Purse::new(core.shares, taken.payer(), snapshot.body_memory));
    }
    *share = Some(taken);
    if let Some(reply) = journey.sent_to_tls(door) {
        return Ok(reply.refuse());
    }
    let place = place.insert(Places::new(&core.in_flight, snapshot.max_in_flight));
    let framing = journey.head.body;
    let mut client = StockClient { session, body, framing };
    let flow = journey.run_gauntlet(&mut client, place, gateway.caller()).await;
    if flow.is_break() {
        return Ok(if body.lacks_length { length_required().refuse() } else { flow });
    }
    if journey.answers_by_itself() {
        return Ok(ControlFlow::Continue(()));
    }
    let view = journey.view.clone();
    let Some(service) = journey.choose_service(&view) else { return Err(Error::new(NO_JOURNEY)) };
    if journey.is_grpc() {
        // It may take its time.
        session.set_read_timeout(None);
    }
    let target = journey.upstream_target();
    let Ok(mut request) = upstream_request(&journey.head, target.as_deref(), &journey.exchange) else {
        let reply = Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_header", "A header field is malformed.");
        return Ok(reply.refuse());
    };
    if let Some(whole) = body.whole.as_ref().filter(|_| framing != BodyFraming::None) {
        // What is whole in memory has a length, whatever framing it came in.
        request.insert_header(header::CONTENT_LENGTH, whole.len())?;
    }
    if body.owes_continue {
        match service.protocol {
            // The backend shall say.
            Protocol::Http1 => request.insert_header(header::EXPECT, "100-continue")?,
            _ => session.write_continue_response().await.map_err(Error::into_down)?,
        }
    }
    // Asked first, for it looks into the client's own framing once, and the request that takes its place has another.
    session.is_body_done();
    *session.req_header_mut() = *request;
    Ok(ControlFlow::Continue(()))
}
