//! One connection from accept to close: PROXY protocol, TLS, the choice of the protocol, and then one request after the other.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::seldom::{Seldom, and_more};
use super::watched::{self, Watched};
use super::worker::Worker;
use crate::cache::Hit;
use crate::downstream::h1::{Farewell, H1, Io, NextHead};
use crate::downstream::stream::H2;
use crate::downstream::{Downstream, ExchangeControl, Returned, UNREAD, Wire};
use crate::exchange::{Connection, Verdict};
use crate::forward::hit::{Found, Missed};
use crate::forward::{self, Failed};
use crate::grpc::Dialect;
use crate::head::{BodyFraming, RequestHead};
use crate::journey::gauntlet::too_many_in_flight;
use crate::journey::{CLIENT_CLOSED, CLIENT_STOPPED, Journey, Places, TimeLimit};
use crate::listen::config::Opening;
use crate::listen::connections::{Entry, Speaks};
use crate::listen::guard::Permit;
use crate::listen::proxy_protocol::{self, Received};
use crate::listen::share::{Place, Purse, Seat};
use crate::listen::socket::canonical;
use crate::listen::tls::{Protocol, Secured};
use crate::reply::Reply;
use crate::snapshot::ActiveListener;
use crate::upstream::Service;
use crate::wait::{Alarm, pinned};
use crate::wire::h2::Room;
use crate::wire::head::{BARE_LF, HTTP_ON_TLS, MALFORMED_LINE, Refused, TLS_HELLO};
use crate::wire::line;

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
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    let Some(Opened { connection, speaks }) = Box::pin(open(&worker, &door, socket, peer, &mut permit)).await else { return };
    if let Some(client) = door.counted_address(connection.client.ip()) {
        entry.sit(worker.core.shares.of(client).sit());
    }
    match speaks {
        Spoken::H1(h1) => {
            entry.identify(connection.client, Speaks::H1);
            serve_h1(worker, door, connection, entry, h1).await;
        }
        Spoken::Clear(h1, refused) => refuse_head(&worker, &door, &connection, entry, refused, h1).await,
        Spoken::H2(stream) => {
            entry.identify(connection.client, Speaks::H2);
            Box::pin(serve_h2(worker, door, connection, entry, stream)).await;
        }
    }
}

/// A connection on which requests can come.
struct Opened {
    connection: Arc<Connection>,
    speaks: Spoken,
}

enum Spoken {
    H1(Box<H1>),
    /// Clear HTTP, on a port that speaks TLS.
    Clear(Box<H1>, Box<Refused>),
    H2(Stream),
}

/// PROXY protocol, TLS, and the choice of the protocol. What fails is counted here.
async fn open(
    worker: &Worker,
    door: &ActiveListener,
    mut socket: TcpStream,
    peer: SocketAddr,
    permit: &mut Permit,
) -> Option<Opened> {
    let deadline = Instant::now() + door.timeouts.handshake;
    let local = socket.local_addr().map_or(door.bind, canonical);
    let began = match begin(door, &mut socket, peer, deadline).await {
        Ok(began) => began,
        // As the health checks of balancers do.
        Err(silent) if silent.kind() == io::ErrorKind::ConnectionAborted => return None,
        Err(_) => {
            door.metrics.refused("proxy_protocol");
            return None;
        }
    };
    // Counted already, unless a header has told of somebody else.
    if began.client.ip() != peer.ip() && door.is_flooded_by(door.counted_address(began.client.ip())) {
        too_quick(door, began.client);
        return None;
    }
    if let Some(address) = door.counted_address(began.client.ip())
        && let Err(refused) = permit.count_as(address, door.caps)
    {
        door.metrics.refused(refused.reason);
        return None;
    }
    let (tls, speaks) = match &door.tls {
        None if door.h2c && speaks_h2(&socket, &began.read, door.timeouts.header).await => {
            (None, Spoken::H2(Box::new(rewound(socket, &began.read))))
        }
        None => (None, Spoken::H1(Box::new(H1::new(Io::Plain(socket), &began.read)))),
        Some(acceptor) => match greeting(&socket, &began.read, deadline).await {
            // Nothing has failed where nothing was tried.
            Greeting::None => return None,
            Greeting::Noise => {
                handshake_failed(worker, door, began.client, "not_tls");
                return None;
            }
            Greeting::Http(refused) => {
                handshake_failed(worker, door, began.client, refused.bad.reason);
                (None, Spoken::Clear(Box::new(H1::new(Io::Plain(socket), &began.read)), refused))
            }
            Greeting::Tls => match acceptor.accept(rewound(socket, &began.read), deadline).await {
                Ok(Secured { stream, facts, protocol }) => {
                    let speaks = match protocol {
                        Protocol::H2 => Spoken::H2(Box::new(stream)),
                        Protocol::H1 => Spoken::H1(Box::new(H1::new(Io::Boxed(Box::new(stream)), &[]))),
                    };
                    (Some(facts), speaks)
                }
                Err(error) => {
                    handshake_failed(worker, door, began.client, error.reason());
                    return None;
                }
            },
        },
    };
    let listener = door.name.clone();
    let connection = Connection { peer, local, client: began.client, listener, tls, told: Default::default() };
    Some(Opened { connection: Arc::new(connection), speaks })
}

/// What a client says first to a port that speaks TLS.
enum Greeting {
    Tls,
    Http(Box<Refused>),
    Noise,
    /// It came and went, or stays without a word.
    None,
}

/// Looks at a client's first bytes, `read` of which were read already. Nothing is consumed.
async fn greeting(socket: &TcpStream, read: &[u8], deadline: Instant) -> Greeting {
    let mut first = [0];
    let first = match read.first() {
        Some(first) => *first,
        None => match tokio::time::timeout_at(deadline, socket.peek(&mut first)).await {
            Ok(Ok(1)) => {
                let [first] = first;
                first
            }
            _ => return Greeting::None,
        },
    };
    if first == line::TLS_HANDSHAKE {
        return Greeting::Tls;
    }
    let mut bytes = [0; 1024];
    let count = match tokio::time::timeout(Duration::ZERO, socket.peek(&mut bytes)).await {
        Ok(Ok(count)) => count,
        _ => 0,
    };
    let bytes = [read, bytes.get(..count).unwrap_or_default()].concat();
    match line::check(&bytes) {
        Err(BARE_LF | MALFORMED_LINE | TLS_HELLO) => Greeting::Noise,
        _ => Greeting::Http(Refused::new(HTTP_ON_TLS, &bytes)),
    }
}

fn handshake_failed(worker: &Worker, door: &ActiveListener, client: SocketAddr, reason: &'static str) {
    static LINES: Seldom = Seldom::new();
    worker.core.metrics.tls_handshake_failed();
    door.metrics.refused(reason);
    if let Some(held_back) = LINES.allow() {
        log::warn!("listener {}: no handshake with {client}: {reason}{}", door.name, and_more(held_back));
    }
}

/// One more new connection than its address may bring so soon.
fn too_quick(door: &ActiveListener, client: SocketAddr) {
    static LINES: Seldom = Seldom::new();
    const REASON: &str = "max_new_connections_per_address";
    door.metrics.refused(REASON);
    if let Some(held_back) = LINES.allow() {
        log::warn!("listener {}: closed a new connection from {}: {REASON}{}", door.name, client.ip(), and_more(held_back));
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<ActiveListener>);

impl Open {
    fn count(door: &Arc<ActiveListener>) -> Self {
        door.metrics.opened();
        Open(door.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.closed();
    }
}

/// How a connection began.
struct Began {
    /// The client's address, as the socket or a trusted PROXY header tells it.
    client: SocketAddr,
    /// Bytes that were read to see that there is no PROXY header.
    read: SmallVec<[u8; 12]>,
}

async fn begin(door: &ActiveListener, socket: &mut TcpStream, peer: SocketAddr, deadline: Instant) -> io::Result<Began> {
    let opening = door.opening(peer.ip());
    match opening {
        Opening::Plain => return Ok(Began { client: peer, read: SmallVec::new() }),
        Opening::Refuse => return Err(io::ErrorKind::PermissionDenied.into()),
        Opening::Header | Opening::MaybeHeader => {}
    }
    match proxy_protocol::read_header(socket, deadline).await? {
        Received::Header(header) => Ok(Began { client: header.source.map_or(peer, canonical), read: SmallVec::new() }),
        Received::None { read } if opening == Opening::MaybeHeader => Ok(Began { client: peer, read }),
        Received::None { .. } => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn rewound(socket: TcpStream, read: &[u8]) -> L4Stream {
    let mut stream = L4Stream::from(socket);
    if !read.is_empty() {
        stream.rewind(read);
    }
    stream
}

/// Whether the client opens with HTTP/2's preface (RFC 9113, section 3.4). Nothing is consumed; `read` was before.
async fn speaks_h2(socket: &TcpStream, read: &[u8], limit: Duration) -> bool {
    let look = async {
        let mut bytes = [0u8; 24];
        let rest = H2_PREFACE.strip_prefix(read)?;
        loop {
            let count = socket.peek(&mut bytes).await.ok()?.min(rest.len());
            let seen = bytes.get(..count)?;
            if count == 0 || !rest.starts_with(seen) {
                return None;
            }
            if count == rest.len() {
                return Some(());
            }
            // More has to come; peeking again at once would spin.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    matches!(tokio::time::timeout(limit, look).await, Ok(Some(())))
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

async fn refuse(journey: &mut Journey, down: &mut Downstream, reply: &Reply) {
    journey.refused(reply);
    if reply.status != CLIENT_CLOSED {
        // A client that does not take its refusal is gone; there is nobody left to tell.
        let _ = down.reply(reply, journey.dialect, &journey.exchange.to_client, &journey.exchange.request_id).await;
    }
    journey.ended(down.body_read(), down.body_sent());
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
                tokio::spawn(Box::pin(async move {
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
            let kind = stream.request().headers.get(http::header::CONTENT_TYPE);
            journey.dialect = kind.map_or(Dialect::Plain, |kind| Dialect::of(kind.as_bytes()));
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

/// One request: the gauntlet, then a road. Gives back the connection, if there still is one.
async fn exchange(
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
    if journey.head.body != BodyFraming::None {
        down.set_purse(Purse::new(worker.core.shares, share.payer(), view.snapshot.body_memory));
    }
    let mut place = Places::new(&worker.core.in_flight, view.snapshot.max_in_flight);
    let elsewhere = door.redirect.and_then(|redirect| redirect.answer(&journey.head, journey.exchange.scheme()));
    let flow = match elsewhere {
        Some(reply) => reply.refuse(),
        None => journey.run_gauntlet(&mut down, &mut place, &worker.caller).await,
    };
    if let Some(route) = journey.route() {
        entry.took(&route.id);
    }
    match flow {
        ControlFlow::Break(reply) => refuse(&mut journey, &mut down, &reply).await,
        ControlFlow::Continue(()) => {
            let missed = match forward::hit::find(&journey) {
                Some(Found::Fresh(hit)) => {
                    from_memory(&mut journey, &mut down, &hit, alarm).await;
                    return down.give_back();
                }
                Some(Found::Missed(missed)) => Some(missed),
                None => None,
            };
            // Only now, for a stored answer is nobody's turn.
            match journey.choose_service(&view) {
                Some(service) => forward_request(worker, &mut journey, &mut down, service, missed, alarm).await,
                None => refuse(&mut journey, &mut down, &no_service()).await,
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
            down.bound_messages();
        }
    }
    journey.control = Some(down.control());
    journey.exchange.to_upstream.extend(journey.call_time_left());
    let (due, control) = (journey.due(), down.control());
    let ended = {
        let road = pin!(forward::run(&worker.caller, journey, down, service, missed));
        within_deadline(road, due, &control, alarm).await
    };
    journey.tries.end();
    forwarded(journey, down, ended).await;
}

/// Every route has one; if not, it is the gateway's own fault.
fn no_service() -> Box<Reply> {
    Reply::new(StatusCode::BAD_GATEWAY, Service::NAME, "upstream_error", "The backend could not answer.")
}

/// A stored answer, under the request's total deadline.
async fn from_memory(journey: &mut Journey, down: &mut Downstream, hit: &Hit, alarm: &mut Alarm) {
    let (due, control) = (journey.due(), down.control());
    let ended = {
        let road = pin!(forward::hit::answer(hit, journey, down));
        within_deadline(road, due, &control, alarm).await
    };
    forwarded(journey, down, ended).await;
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
                down.end_call(reply.trailers());
                journey.outcome.grpc_status = Some(crate::grpc::status(reply.status).into());
            }
            Verdict { policy: reply.policy, reason: "answer_broke_off" }
        }
        Failed::BrokeOff => Verdict { policy: "upstream", reason: "answer_broke_off" },
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
    let first = due.answer.into_iter().chain(due.call).min();
    if let Ok(ended) = alarm.until(first, road.as_mut()).await {
        return Some(ended);
    }
    if control.is_endless()
        && let Ok(ended) = alarm.until(due.call, road).await
    {
        return Some(ended);
    }
    None
}
