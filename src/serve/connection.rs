//! One connection from accept to close: one request after the other, or streams at the same time.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::Stream;
use tokio::net::TcpStream;

use super::carried;
use super::one::{exchange, refuse};
use super::opening::{Open, Opened, Spoken, handshake_failed, open, too_quick};
use super::watched::{self, Watched};
use super::worker::Worker;
use crate::downstream::h1::{Farewell, H1, NextHead};
use crate::downstream::stream::H2;
use crate::downstream::{Downstream, Returned, UNREAD, Wire};
use crate::exchange::Connection;
use crate::grpc::{Dialect, connect};
use crate::journey::Journey;
use crate::listen::connections::{Entry, Speaks};
use crate::listen::share::Seat;
use crate::listen::socket::canonical;
use crate::snapshot::ActiveListener;
use crate::wait::{Alarm, pinned};
use crate::wire::h2::Room;
use crate::wire::head::Refused;

/// How long the rest of a body may take that is read and dropped.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long an idle connection waits for its last request while the process drains.
pub const LAST_CALL: Duration = Duration::from_secs(5);
/// How long an answered stream waits for its client to stop sending.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client may go on sending that has its answer: as long as nginx waits (`lingering_time`, `lingering_timeout`).
const LINGERING: Farewell = Farewell { all: Duration::from_secs(30), silence: Duration::from_secs(5) };
/// The same for one that has nothing more to send, or where too many linger.
const PARTING: Farewell = Farewell { all: Duration::from_secs(1), silence: Duration::from_secs(1) };
/// Connections that linger at once, in all and of one address.
const MOST_LINGERING: usize = 4096;
const MOST_LINGERING_OF_ONE: usize = 64;

/// Serves one accepted socket until it closes.
pub async fn serve(worker: Arc<Worker>, door: Arc<ActiveListener>, socket: TcpStream, peer: SocketAddr) {
    let peer = canonical(peer);
    if door.is_flooded_by(door.counted_address(peer.ip())) {
        return too_quick(&door, peer);
    }
    let mut permit = match door.guard.try_enter(door.counted_address(peer.ip()), door.caps) {
        Ok(permit) => permit,
        Err(refused) => return door.metrics.refused(refused.reason),
    };
    let _open = Open::count(&door);
    let seat = worker.connections.enter(&door.name, peer);
    let entry = seat.entry();
    // Boxed, here and below: a future is as large as its largest part for as long as it lives, and most connections are idle most of
    // the time.
    let Some(Opened { connection, speaks }) = pinned(|| open(&worker, &door, socket, peer, &mut permit)).await else { return };
    if let Some(client) = door.counted_address(connection.client.ip()) {
        entry.sit(worker.core.shares.of(client).sit());
    }
    match speaks {
        Spoken::H1(h1) => {
            entry.identify(connection.client, Speaks::H1);
            serve_h1(worker, door, connection, entry, h1).await;
        }
        Spoken::Clear(h1, refused) => refuse_head(&worker, &door, &connection, entry, refused, h1).await,
        Spoken::Other(arrival) => Box::pin(carried::serve(&worker, &door, &connection, entry, arrival)).await,
        Spoken::H2(stream) => {
            entry.identify(connection.client, Speaks::H2);
            Box::pin(serve_h2(worker, door, connection, entry, stream)).await;
        }
    }
}

/// HTTP/1.x: one request after the other.
async fn serve_h1(
    worker: Arc<Worker>,
    mut door: Arc<ActiveListener>,
    connection: Arc<Connection>,
    entry: &Entry,
    mut h1: Box<H1>,
) {
    h1.heed(worker.core.drain.flag());
    // Both are made once and kept: what waits for them is every request.
    let mut alarm = Alarm::default();
    let mut draining = worker.core.drain.has_begun();
    let mut seen = 0;
    let mut begins = pin!(worker.core.drain.begins());
    loop {
        let idle = if draining { LAST_CALL.min(door.timeouts.keep_alive) } else { door.timeouts.keep_alive };
        let next = tokio::select! {
            biased;
            next = h1.next_head(&door.head_limits, idle, door.timeouts.header, &mut alarm) => next,
            _ = &mut begins, if !draining => {
                draining = true;
                continue;
            }
        };
        match next {
            NextHead::Head(head) => {
                if worker.core.drain.has_begun() || !stays_open(&worker, &mut door, &mut seen) {
                    h1.close_after();
                }
                let returned = pinned(|| exchange(&worker, &door, &connection, entry, head, Wire::H1(h1), &mut alarm)).await;
                h1 = match returned {
                    Some(Returned { wire: Wire::H1(mut wire), reusable: true, .. }) => {
                        if !wire.body_done() && !Box::pin(wire.drain(UNREAD, DRAIN_TIME)).await {
                            return Box::pin(close(&worker, entry, wire)).await;
                        }
                        wire
                    }
                    Some(Returned { wire: Wire::H1(wire), answered: true, .. }) => {
                        return Box::pin(close(&worker, entry, wire)).await;
                    }
                    _ => return,
                };
            }
            NextHead::Bad(refused) => return Box::pin(refuse_head(&worker, &door, &connection, entry, refused, h1)).await,
            NextHead::Closed => return,
        }
        // A reload that changed this listener's bounds is obeyed from the next request on.
        stays_open(&worker, &mut door, &mut seen);
    }
}

/// Follows a reload, if there was one since the generation that was `seen` last. `false` if it closed the listener that a connection came
/// through: what is open then is answered once more.
fn stays_open(worker: &Worker, door: &mut Arc<ActiveListener>, seen: &mut u64) -> bool {
    if worker.core.snapshot.generation() == *seen {
        return true;
    }
    let view = worker.view.load();
    let snapshot = &view.snapshot;
    let Some(current) = snapshot.door(&door.bind) else { return false };
    *seen = snapshot.generation;
    *door = current.clone();
    true
}

/// A head that is no request gets its answer, its log line and its place in the metrics all the same.
async fn refuse_head(
    worker: &Arc<Worker>,
    door: &Arc<ActiveListener>,
    connection: &Arc<Connection>,
    entry: &Entry,
    refused: Box<Refused>,
    h1: Box<H1>,
) {
    let Refused { bad, head } = *refused;
    let method = head.method.clone();
    let mut journey = Journey::begin(worker.view.load_full(), door, connection, Box::new(head));
    let mut down = Downstream::new(Wire::H1(h1), method).timeouts(door.body_pace(), door.timeouts.write);
    refuse(&mut journey, &mut down, &bad.reply()).await;
    if let Some(Returned { wire: Wire::H1(wire), .. }) = down.give_back() {
        drop(journey);
        close(worker, entry, wire).await;
    }
}

/// Closes a connection whose client has an answer, and gives it the time to read it. Many write their whole request before they look,
/// and a connection that is closed meanwhile is reset, which takes the answer with it (RFC 9112, section 9.6). What waits like that
/// costs a socket and no more; still there is a bound to it, beyond which clients have but a moment.
async fn close(worker: &Worker, entry: &Entry, wire: Box<H1>) {
    let address = entry.share().map(Seat::address);
    let may_linger = !wire.is_read() && !worker.core.drain.has_begun();
    let lingering = may_linger.then(|| worker.core.shares.linger(address, MOST_LINGERING, MOST_LINGERING_OF_ONE)).flatten();
    let patience = if lingering.is_some() { LINGERING } else { PARTING };
    wire.close(patience).await;
}

/// HTTP/2: streams at the same time, each one exchange.
async fn serve_h2(
    worker: Arc<Worker>,
    mut door: Arc<ActiveListener>,
    connection: Arc<Connection>,
    entry: &Arc<Entry>,
    stream: Stream,
) {
    let options = crate::wire::h2::options(door.head_limits.head, room(&worker, entry));
    let handshake = options.handshake(Watched::new(stream, door.clone(), connection.client));
    let Ok(Ok(mut wire)) = tokio::time::timeout(door.timeouts.handshake, handshake).await else {
        return handshake_failed(&worker, &door, connection.client, "h2_handshake");
    };
    // What the client was told of heads cannot be taken back: where a reload changes it, it gets a new connection.
    let told = door.head_limits.head;
    let mut draining = false;
    let mut seen = 0;
    let mut begins = pin!(worker.core.drain.begins());
    let mut reloads = pin!(worker.core.snapshot.passes(seen));
    // Streams hold a clone each: the count says how many are open.
    let open = Arc::new(());
    loop {
        let idle = if draining { LAST_CALL.min(door.timeouts.keep_alive) } else { door.timeouts.keep_alive };
        let accepted = tokio::select! {
            biased;
            // First, for what is accepted after a reload obeys it.
            () = &mut reloads => {
                // If there is another one meanwhile, this says so at once.
                let generation = worker.view.load().snapshot.generation;
                reloads.set(worker.core.snapshot.passes(generation));
                // The listener may be closed, or have other bounds. Streams that have begun end as they began.
                let stays = stays_open(&worker, &mut door, &mut seen) && door.head_limits.head == told;
                if !stays && !draining {
                    draining = true;
                    wire.graceful_shutdown();
                }
                continue;
            }
            // This is what drives the whole connection.
            accepted = wire.accept() => accepted,
            _ = &mut begins, if !draining => {
                draining = true;
                wire.graceful_shutdown();
                continue;
            }
            _ = tokio::time::sleep(idle) => {
                if Arc::strong_count(&open) == 1 {
                    if draining {
                        // The client does not answer the farewell: it would stay for ever.
                        return;
                    }
                    draining = true;
                    wire.graceful_shutdown();
                }
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => {
                let (held, stream) = (open.clone(), Box::new(H2::new(request, respond)));
                let (worker, door, connection, entry) = (worker.clone(), door.clone(), connection.clone(), entry.clone());
                // Boxed: spawning moves a future many times.
                tokio::spawn(pinned(|| async move {
                    serve_stream(&worker, &door, &connection, &entry, stream).await;
                    drop(held);
                }));
            }
            // A client that is gone has broken no rule.
            Some(Err(error)) if error.is_io() => return,
            Some(Err(_)) => return watched::refused(&door, connection.client, "h2_connection_error"),
            None => return,
        }
    }
}

/// What a connection is told that it may have.
fn room(worker: &Worker, entry: &Entry) -> Room {
    let Some(seat) = entry.share() else { return Room::default() };
    let snapshot = worker.core.snapshot.load();
    Room::of(seat.address().connections(), snapshot.max_in_flight_per_address, snapshot.body_memory.per_address)
}

async fn serve_stream(
    worker: &Arc<Worker>,
    door: &Arc<ActiveListener>,
    connection: &Arc<Connection>,
    entry: &Entry,
    mut stream: Box<H2>,
) {
    match crate::wire::head::from_h2(stream.request(), stream.is_body_empty(), &door.head_limits) {
        Ok(head) => {
            if head.expects_continue {
                stream.expect_continue();
            }
            let mut alarm = Alarm::default();
            let returned = exchange(worker, door, connection, entry, head, Wire::H2(stream), &mut alarm).await;
            if let Some(Returned { wire: Wire::H2(mut stream), answered: true, .. }) = returned {
                linger(&mut stream).await;
            }
        }
        Err(refused) => {
            let Refused { bad, head } = *refused;
            let method = head.method.clone();
            let mut journey = Journey::begin(worker.view.load_full(), door, connection, Box::new(head));
            let fields = &stream.request().headers;
            let kind = fields.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
            journey.dialect = match kind.map_or(Dialect::Plain, Dialect::of) {
                Dialect::Plain if connect::is_call(&method, kind, || fields.contains_key(connect::VERSION), None) => {
                    Dialect::Connect
                }
                dialect => dialect,
            };
            let mut down = Downstream::new(Wire::H2(stream), method).timeouts(door.body_pace(), door.timeouts.write);
            refuse(&mut journey, &mut down, &bad.reply()).await;
        }
    }
}

/// Leaves a stream whose answer came before the end of its body open for a moment: dropping it resets it, and clients that are still
/// sending (curl 7.88 is one) forget the answer over the reset, even though it says `NO_ERROR` (RFC 9113, section 8.1). The window,
/// which is not opened any further, bounds what they can send meanwhile.
async fn linger(stream: &mut H2) {
    if !stream.is_body_done() {
        // Whether the client has reset the stream or the time is over makes no difference.
        let _ = tokio::time::timeout(LINGER, stream.gone()).await;
    }
}
