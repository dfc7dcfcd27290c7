//! The fast lane: plain requests to HTTP/1.1 backends, with or without TLS, on own connections and own codecs.
//!
//! It is the second of the two roads a request can take after the gauntlet, and clients and backends must not be able to tell them
//! apart. It takes what is commonest and leaves the rest to the proxy road: upgrades, HTTP/2 towards backends, and caching but for
//! what is commonest there: a fresh answer that is stored already ([`hit`]).
//! What it saves is Pingora's per-request work: header maps built and cloned, two channels between two loops, a task per kept
//! connection. TLS itself is Pingora's on both roads: whom a backend's certificate has to convince does not depend on the road.

pub mod hit;
mod pool;
mod relay;
mod request;
mod transport;

use std::net::SocketAddr;
use std::time::Instant;

use http::StatusCode;
use pingora_error::{Error, ErrorType};
use tokio::net::TcpStream;

pub use pool::{Pool, SWEEP};

use crate::downstream::{CLIENT_STALLED, Downstream};
use crate::journey::{Journey, body_refusal};
use crate::reply::Reply;
use crate::upstream::{Flight, Protocol, Service, connect_failure};
use crate::wire::answer::BadAnswer;
use pool::Key;
use relay::Upstream;
use transport::{Tls, Transport};

/// How an exchange ended that did not end well.
#[derive(Debug)]
pub enum Failed {
    /// No answer was begun: give this one.
    Answer(Box<Reply>),
    /// The client went away.
    ClientGone,
    /// The client took nothing of its answer for too long.
    ClientStopped,
    /// The backend broke off in the middle of its answer.
    BrokeOff,
}

/// Whether this request can take the lane.
pub fn takes(journey: &Journey, service: &Service) -> bool {
    let cached = journey.route().is_some_and(|route| route.plan.knobs.cache.is_some());
    journey.view.snapshot.lane && !cached && !journey.head.upgrade && service.protocol == Protocol::Http1
}

/// Takes one request to a backend and its answer back.
///
/// # Errors
/// See [`Failed`]. Cancel-safe in the sense that dropping the future closes the backend's connection and leaves the client's as it is.
pub async fn run(pool: &Pool, journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Failed> {
    let mut fresh = false;
    down.look_ahead().await;
    loop {
        let mut up = connect(pool, journey, service, fresh).await?;
        journey.outcome.upstream_started = Some(Instant::now());
        match relay::exchange(&mut up, journey, down, service).await {
            Ok(()) => {
                if let (Some(connection), Some(flight)) = (up.reusable(), &journey.flight) {
                    pool.keep(connection, key(flight, service), service);
                }
                return Ok(());
            }
            // The backend has closed a kept connection before its answer: asking again does no harm.
            Err(relay::Broken::Stale | relay::Broken::Lost | relay::Broken::Failed)
                if up.is_kept() && may_repeat(journey, down) && journey.replay() =>
            {
                journey.outcome.attempts += 1;
                fresh = true;
            }
            Err(broken) => {
                if let (Some(flight), true) = (&journey.flight, broken.is_backends()) {
                    flight.endpoint().record_failure();
                }
                return Err(failed(broken));
            }
        }
    }
}

/// A connection to the endpoint whose turn it is; if it cannot be had, to the next, as often as the service says.
async fn connect(pool: &Pool, journey: &mut Journey, service: &Service, fresh: bool) -> Result<Upstream, Failed> {
    loop {
        if !fresh || journey.flight.is_none() {
            let Some(picked) = journey.pick(service) else { return Err(Failed::Answer(service.unavailable())) };
            journey.outcome.endpoint = Some(picked.addr);
            journey.flight = Some(picked.begin());
            journey.outcome.attempts += 1;
        }
        let Some(flight) = &journey.flight else { return Err(Failed::Answer(service.unavailable())) };
        if let Some(kept) = (!fresh).then(|| pool.take(key(flight, service))).flatten() {
            return Ok(kept);
        }
        // Boxed: what most requests never do must not make every request's future larger.
        let connected = match service.is_tls() {
            true => Box::pin(connect_tls(journey, flight, service)).await,
            false => Box::pin(connect_plain(flight.endpoint().address(), service)).await,
        };
        match connected {
            Ok(transport) => return Ok(Upstream::new(transport)),
            Err(error) if !journey.connect_failed() => {
                return Err(Failed::Answer(connect_failure(&error).unwrap_or_else(|| {
                    upstream_reply(StatusCode::BAD_GATEWAY, "upstream_error", "The backend could not answer.")
                })));
            }
            Err(_) => {}
        }
    }
}

/// Which kept connections serve this flight.
fn key(flight: &Flight, service: &Service) -> Key {
    let endpoint = flight.endpoint();
    match service.trust(endpoint) {
        Some(trust) => Key::Tls(endpoint.address(), trust),
        None => Key::Plain(endpoint.address()),
    }
}

async fn connect_plain(address: SocketAddr, service: &Service) -> Result<Transport, ErrorType> {
    match tokio::time::timeout(service.timeouts.connect, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(Transport::Plain(stream))
        }
        Ok(Err(_)) => Err(ErrorType::ConnectError),
        Err(_) => Err(ErrorType::ConnectTimedout),
    }
}

async fn connect_tls(journey: &Journey, flight: &Flight, service: &Service) -> Result<Transport, ErrorType> {
    let endpoint = flight.endpoint();
    let peer = service.peer(endpoint, None);
    match journey.view.tls.connect(&peer).await {
        Ok(stream) => Ok(Transport::Tls(Tls::new(stream))),
        Err(error) => {
            log::debug!("{error}");
            Err(error.etype)
        }
    }
}

/// Whether the same request may be sent a second time: what it does twice is the same as once (RFC 9110, section 9.2.2), and its body
/// is still at hand.
fn may_repeat(journey: &Journey, down: &Downstream) -> bool {
    journey.head.method.is_idempotent() && down.can_replay()
}

fn upstream_reply(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, "upstream", reason, detail)
}

/// How it is told that a client could not be written to.
fn client_failed(error: &Error) -> Failed {
    if error.etype == CLIENT_STALLED { Failed::ClientStopped } else { Failed::ClientGone }
}

fn failed(broken: relay::Broken) -> Failed {
    use relay::Broken;
    match broken {
        Broken::Stale | Broken::Lost | Broken::Failed => {
            Failed::Answer(upstream_reply(StatusCode::BAD_GATEWAY, "connection_lost", "The connection to the backend was lost."))
        }
        Broken::TimedOut => {
            Failed::Answer(upstream_reply(StatusCode::GATEWAY_TIMEOUT, "response_timeout", "The backend did not answer in time."))
        }
        Broken::Bad(bad) => Failed::Answer(bad.reply()),
        Broken::Client(error) => match body_refusal(&error.etype) {
            Some(reply) => Failed::Answer(reply),
            None if error.etype == ErrorType::InvalidHTTPHeader => Failed::Answer(BadAnswer::Malformed.reply()),
            None => client_failed(&error),
        },
        Broken::MidAnswer => Failed::BrokeOff,
    }
}
