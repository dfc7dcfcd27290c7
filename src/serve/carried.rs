//! A connection that is carried as it is: which route takes it, what that asks of it, and what it leaves in the log.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::SslStream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::worker::Worker;
use crate::exchange::{Connection, Exchange};
use crate::head::RequestHead;
use crate::listen::connections::{Entry, Speaks};
use crate::listen::trace;
use crate::observe::seldom::{Seldom, and_more};
use crate::observe::{AccessLog, CarriedRecord};
use crate::policy::{Plan, Work};
use crate::snapshot::ActiveListener;
use crate::snapshot::tcp::TcpRoute;
use crate::tcp::announce;
use crate::tcp::pump::{self, Bounds, End};
use crate::upstream::aim::Aim;
use crate::upstream::call::{CallError, Tries};
use crate::upstream::{Endpoint, Service};

/// What is told to a client whose name nobody takes: a fatal alert, `unrecognized_name` (RFC 6066, section 3).
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// So much is read at once of a client that waits.
const READ: usize = 2048;

/// How soon it is noticed that an endpoint is not well.
const LOOK: Duration = Duration::from_secs(1);

/// The client's side.
pub(super) enum Client {
    /// With what was read of it already.
    Plain(TcpStream, Vec<u8>),
    Tls(Box<SslStream<L4Stream>>, Vec<u8>),
}

/// A connection that is to be carried.
pub(super) struct Arrival {
    pub client: Client,
    /// Who takes it, or why nobody does.
    pub route: Result<Arc<TcpRoute>, &'static str>,
    /// `TLSv1.3`, or `passthrough`; empty without TLS.
    pub tls: &'static str,
    pub server_name: Option<Arc<str>>,
    /// Where the client meant to go, as the socket or a PROXY header tells it.
    pub destination: SocketAddr,
}

pub(super) async fn serve(
    worker: &Arc<Worker>,
    door: &Arc<ActiveListener>,
    connection: &Arc<Connection>,
    entry: &Entry,
    arrival: Box<Arrival>,
) {
    let Arrival { mut client, route, tls, server_name, destination } = *arrival;
    entry.identify(connection.client, Speaks::Tcp);
    let mut session = Session {
        log: worker.core.access_log.clone(),
        generation: worker.view.load().snapshot.generation,
        connection: connection.clone(),
        accepted: SystemTime::now(),
        started: Instant::now(),
        route: None,
        service: None,
        tls,
        server_name,
        tries: Tries::default(),
        reason: "shutdown",
        refused: false,
        decided_by: None,
        connect: None,
        received: 0,
        sent: 0,
    };
    let route = match route {
        Ok(route) => route,
        Err(reason) => {
            door.metrics.refused(reason);
            session.turn_away(reason);
            if let (Client::Plain(socket, _), "no_route", "passthrough") = (&client, reason, tls) {
                let _ = socket.try_write(UNRECOGNIZED_NAME);
            }
            return;
        }
    };
    session.route = Some(route.clone());
    entry.took(&route.id);
    let _serving = entry.begin();
    let address = connection.client.ip();
    let Some(target) = route.choose(address) else { return session.turn_away("no_route") };
    let service = &target.service;
    session.service = Some(service.clone());
    let Some(_open) = route.counts.enter(route.max_connections) else { return session.turn_away("max_connections") };
    let _permit = match route.per_address.as_ref().map(|bound| bound.enter(address)).transpose() {
        Ok(permit) => permit,
        Err(refused) => return session.turn_away(refused.reason),
    };
    let (head, mut exchange) = (RequestHead::unreadable(), exchange(connection, session.started));
    if let Err(refused) = admitted(&target.plan, &head, &mut exchange) {
        session.decided_by = refused.decided_by;
        return session.turn_away(refused.reason);
    }
    session.tries.aim = Aim::of(service, &head, &exchange);
    drop((head, exchange));
    let first: Arc<[u8]> = match route.announce {
        Some(version) => announce::header(version, connection.client, destination).into(),
        None => Arc::default(),
    };
    let opened = {
        let left = pin!(client.leaves());
        Box::pin(worker.caller.open(service, &mut session.tries, &first, &worker.core.tls, left)).await
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(CallError::Service(reply)) => {
            session.reason = reply.reason;
            note_failure(door, service, reply.reason);
            return client.abort();
        }
        Err(CallError::Client(_)) => {
            session.reason = "client_left";
            return;
        }
    };
    session.connect = Some(session.started.elapsed());
    let until = route.lifetime.map(|lifetime| tokio::time::Instant::now() + lifetime);
    let bounds = Bounds { idle: target.idle, half_closed: route.half_closed.min(target.idle), until };
    let mut over = worker.core.drain.end_watch();
    // One that was not well to begin with is asked because nobody is: then there is nowhere else to go.
    let left = |endpoint: &&Endpoint| route.close_on_unhealthy && !service.is_unwell(endpoint);
    let endpoint = session.tries.flight().map(|flight| flight.endpoint()).filter(left);
    let cut = async {
        tokio::select! {
            _ = over.wait_for(|over| *over) => End::Cut,
            () = unwell(service, endpoint) => End::Unhealthy,
        }
    };
    let (received, sent) = (&mut session.received, &mut session.sent);
    let moved = |more_received, more_sent| {
        *received += more_received;
        *sent += more_sent;
        route.counts.moved(more_received, more_sent);
    };
    let (client, end) = match client {
        Client::Plain(mut socket, read) => {
            let end = pump::carry(&mut socket, &mut opened, &read, bounds, route.bandwidth, cut, moved).await;
            (Client::Plain(socket, Vec::new()), end)
        }
        Client::Tls(mut stream, read) => {
            let end = pump::carry(&mut *stream, &mut opened, &read, bounds, route.bandwidth, cut, moved).await;
            (Client::Tls(stream, Vec::new()), end)
        }
    };
    session.reason = end.reason();
    // What did not come to its end must not look to anybody as if it had.
    if !end.is_whole() {
        if end != End::ClientReset {
            client.abort();
        }
        opened.abort();
    }
}

/// Waits until checks say of the endpoint that it is not well; for ever, if that is of no interest.
async fn unwell(service: &Service, endpoint: Option<&Endpoint>) {
    let Some(endpoint) = endpoint else { return std::future::pending().await };
    while !service.is_unwell(endpoint) {
        tokio::time::sleep(LOOK).await;
    }
}

impl Client {
    /// Ends once the client has ended or broken off. What it says until then is read, up to what is held of it in any case, and is the
    /// service's later. An end counts although it may only be that of its half: most that end while they wait have gone, and which of the
    /// two it is nobody can tell.
    async fn leaves(&mut self) {
        match self {
            Client::Plain(socket, read) => read_until_it_leaves(socket, read).await,
            Client::Tls(stream, read) => read_until_it_leaves(&mut **stream, read).await,
        }
    }

    /// Breaks the connection off.
    fn abort(self) {
        match self {
            Client::Plain(socket, _) => {
                let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            // It is closed without a `close_notify`, by which its client knows (RFC 8446, section 6.1).
            Client::Tls(stream, _) => drop(stream),
        }
    }
}

async fn read_until_it_leaves(client: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>) {
    while let Some(room) = pump::SIZE.checked_sub(read.len()).filter(|room| *room > 0) {
        let most = room.min(READ);
        read.reserve(most);
        match (&mut *client).take(most as u64).read_buf(read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    // It cannot be told any more without taking more.
    std::future::pending().await
}

fn exchange(connection: &Arc<Connection>, started: Instant) -> Exchange {
    Exchange::begun(connection.clone(), trace::new_request_id(), started)
}

/// Why a connection is not carried.
struct Denied {
    reason: &'static str,
    decided_by: Option<Box<str>>,
}

/// Runs the policies that look at nothing but the client's address.
fn admitted(plan: &Plan, head: &RequestHead, exchange: &mut Exchange) -> Result<(), Denied> {
    for step in &plan.steps {
        if let Work::Head(run) = &step.work
            && let ControlFlow::Break(reply) = run.on_request(head, exchange)
        {
            return Err(Denied { reason: reply.reason, decided_by: reply.decided_by });
        }
    }
    Ok(())
}

fn note_failure(door: &ActiveListener, service: &Service, reason: &'static str) {
    static LINES: Seldom = Seldom::every(1);
    if let Some(held_back) = LINES.allow() {
        let (door, service) = (&door.name, &service.name);
        log::warn!("listener {door}: no connection to service `{service}`: {reason}{}", and_more(held_back));
    }
}

/// What is known of one connection. It is logged and counted when this is dropped, however that comes about.
///
/// It holds nothing of its generation but the route and its service: it may outlast many.
struct Session {
    log: Arc<AccessLog>,
    generation: u64,
    connection: Arc<Connection>,
    accepted: SystemTime,
    started: Instant,
    route: Option<Arc<TcpRoute>>,
    service: Option<Arc<Service>>,
    tls: &'static str,
    server_name: Option<Arc<str>>,
    tries: Tries,
    /// If it is dropped where it stands, the process ends.
    reason: &'static str,
    /// The gateway did not let it in.
    refused: bool,
    decided_by: Option<Box<str>>,
    connect: Option<Duration>,
    received: u64,
    sent: u64,
}

impl Session {
    fn turn_away(&mut self, reason: &'static str) {
        (self.reason, self.refused) = (reason, true);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(route) = &self.route {
            route.counts.ended(self.reason);
        }
        let log = &self.log;
        let client = self.connection.client.ip();
        if !log.is_on() {
            return;
        }
        let Some(suppressed) = (if self.refused { log.samples(client) } else { Some(0) }) else { return };
        log.write(&CarriedRecord {
            time: self.accepted,
            client,
            peer: self.connection.peer,
            listener: &self.connection.listener,
            tls: self.tls,
            server_name: self.server_name.as_deref().unwrap_or_default(),
            route: self.route.as_ref().map_or("", |route| &route.id),
            service: self.service.as_ref().map_or("", |service| &service.key),
            endpoint: self.tries.endpoint,
            reason: self.reason,
            decided_by: self.decided_by.as_deref().unwrap_or_default(),
            suppressed,
            bytes_in: self.received,
            bytes_out: self.sent,
            duration: self.started.elapsed(),
            connect: self.connect,
            retries: self.tries.attempts.saturating_sub(1),
            retried_for: &self.tries.why,
            generation: self.generation,
        });
    }
}
