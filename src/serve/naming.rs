//! How a connection begins tells where it goes, on listeners some or all of whose connections are carried as they are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::carried::{Arrival, Client};
use super::opening::{handshake_failed, rewound};
use super::worker::Worker;
use crate::exchange::TlsFacts;
use crate::listen::tls::TlsAcceptor;
use crate::snapshot::ActiveListener;
use crate::snapshot::tcp::{TcpRoute, TcpRoutes};
use crate::tcp::hello::{self, Greeting};

/// What becomes of a connection.
pub(super) enum Chosen {
    /// It is carried, or refused in a way that is logged.
    Carried(Box<Arrival>, Option<TlsFacts>),
    /// It is served like any other; so much was read of it.
    Served(TcpStream, Vec<u8>),
    /// It is over.
    Nothing,
}

/// Who a connection is from, and where to.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub client: SocketAddr,
    /// Where the client meant to go, as the socket or a PROXY header tells it.
    pub destination: SocketAddr,
}

/// Chooses by the first bytes, `read` of which were read already, where there is something to choose.
pub(super) async fn choose(
    worker: &Worker,
    door: &ActiveListener,
    mut socket: TcpStream,
    read: &[u8],
    ends: Ends,
    deadline: Instant,
) -> Chosen {
    let arrival = |client, route, tls, server_name: Option<&str>| {
        let server_name = server_name.map(Arc::from);
        Box::new(Arrival { client, route, tls, server_name, destination: ends.destination })
    };
    let Some(routes) = &door.tcp else {
        let route = Err("no_route");
        return match door.is_tcp() {
            true => Chosen::Carried(arrival(Client::Plain(socket, Vec::new()), route, "", None), None),
            false => Chosen::Served(socket, read.to_vec()),
        };
    };
    if !routes.are_asked_for() && door.tls.is_none() {
        // At once: it may be the service that speaks first.
        let route = routes.any().cloned().ok_or("no_route");
        return Chosen::Carried(arrival(Client::Plain(socket, read.to_vec()), route, "", None), None);
    }
    let (bytes, greeting) = hello::read(&mut socket, read, deadline).await;
    let greeting = match greeting {
        Ok(greeting) => greeting,
        // It came and went, as the health checks of balancers do, or never said a word.
        Err(_) if bytes.is_empty() => return Chosen::Nothing,
        Err(error) => {
            let late = error.kind() == io::ErrorKind::TimedOut;
            if !door.is_tcp() {
                handshake_failed(worker, door, ends.client, if late { "handshake_timeout" } else { "handshake_aborted" });
                return Chosen::Nothing;
            }
            Greeting::Bad(if late { "hello_timeout" } else { "hello_aborted" })
        }
    };
    let name = match &greeting {
        Greeting::Hello(name) => name.as_deref(),
        _ => None,
    };
    let passed = if matches!(greeting, Greeting::Hello(_)) { "passthrough" } else { "" };
    let route = match (door.is_tcp(), taken_by(door, routes, &greeting)) {
        // What is wrong with the others, HTTPS says.
        (false, Err(_)) => return Chosen::Served(socket, bytes),
        (_, route) => route,
    };
    match (&route, &door.tls) {
        (Ok(route), Some(acceptor)) if !route.passthrough => {
            decrypted(worker, door, acceptor, rewound(socket, &bytes), ends, deadline, |client, tls| {
                arrival(client, Ok(route.clone()), tls, name)
            })
            .await
        }
        _ => Chosen::Carried(arrival(Client::Plain(socket, bytes), route, passed, name), None),
    }
}

fn taken_by(door: &ActiveListener, routes: &TcpRoutes, greeting: &Greeting) -> Result<Arc<TcpRoute>, &'static str> {
    let route = match greeting {
        Greeting::Bad(why) => return Err(why),
        Greeting::Other if door.tls.is_some() => return Err("not_tls"),
        Greeting::Hello(name) if !door.is_tcp() => routes.named(name.as_deref()),
        _ => routes.find(greeting),
    };
    let nobody = if matches!(greeting, Greeting::Other) { "not_tls" } else { "no_route" };
    route.cloned().ok_or(nobody)
}

async fn decrypted(
    worker: &Worker,
    door: &ActiveListener,
    acceptor: &TlsAcceptor,
    stream: pingora_core::protocols::l4::stream::Stream,
    ends: Ends,
    deadline: Instant,
    arrival: impl FnOnce(Client, &'static str) -> Box<Arrival>,
) -> Chosen {
    match acceptor.accept(stream, deadline).await {
        Ok(secured) => {
            let version = secured.facts.version;
            Chosen::Carried(arrival(Client::Tls(Box::new(secured.stream), Vec::new()), version), Some(secured.facts))
        }
        Err(error) => {
            handshake_failed(worker, door, ends.client, error.reason());
            Chosen::Nothing
        }
    }
}
