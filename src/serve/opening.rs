//! From an accepted socket to a connection on which requests can come: PROXY protocol, TLS, and the choice of the protocol.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::carried::Arrival;
use super::naming::{self, Chosen, Ends};
use super::worker::Worker;
use crate::downstream::h1::{H1, Io};
use crate::exchange::{Connection, TlsFacts};
use crate::listen::guard::Permit;
use crate::listen::listener::Opening;
use crate::listen::proxy_protocol::{self, Received};
use crate::listen::socket::canonical;
use crate::listen::tls::{Protocol, Secured};
use crate::observe::seldom::{Seldom, and_more};
use crate::snapshot::ActiveListener;
use crate::wire::head::{BARE_LF, HTTP_ON_TLS, MALFORMED_LINE, Refused, TLS_HELLO};
use crate::wire::line;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection on which requests can come.
pub(super) struct Opened {
    pub connection: Arc<Connection>,
    pub speaks: Spoken,
}

pub(super) enum Spoken {
    H1(Box<H1>),
    /// Clear HTTP, on a port that speaks TLS.
    Clear(Box<H1>, Box<Refused>),
    H2(Stream),
    /// Whatever it is, it is carried as it is.
    Other(Box<Arrival>),
}

/// PROXY protocol, TLS, and the choice of the protocol. What fails is counted here.
pub(super) async fn open(
    worker: &Worker,
    door: &ActiveListener,
    mut socket: TcpStream,
    peer: SocketAddr,
    permit: &mut Permit,
) -> Option<Opened> {
    let deadline = Instant::now() + door.timeouts.handshake;
    let local = socket.local_addr().map_or(door.bind, canonical);
    let mut began = match begin(door, &mut socket, peer, deadline).await {
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
    if door.is_tcp() || door.tcp.is_some() {
        let ends = Ends { client: began.client, destination: began.destination.unwrap_or(local) };
        match Box::pin(naming::choose(worker, door, socket, &began.read, ends, deadline)).await {
            Chosen::Served(unchanged, read) => {
                socket = unchanged;
                began.read = SmallVec::from_vec(read);
            }
            Chosen::Carried(arrival, tls) => {
                let connection = connection(door, peer, local, began.client, tls);
                return Some(Opened { connection, speaks: Spoken::Other(arrival) });
            }
            Chosen::Nothing => return None,
        }
    }
    let (tls, speaks) = match &door.tls {
        None if door.h2c && speaks_h2(&socket, &began.read, door.timeouts.header).await => {
            (None, Spoken::H2(Box::new(rewound(socket, &began.read))))
        }
        None => (None, Spoken::H1(Box::new(H1::accepted(socket, &began.read)))),
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
    Some(Opened { connection: connection(door, peer, local, began.client, tls), speaks })
}

fn connection(
    door: &ActiveListener,
    peer: SocketAddr,
    local: SocketAddr,
    client: SocketAddr,
    tls: Option<TlsFacts>,
) -> Arc<Connection> {
    Arc::new(Connection { peer, local, client, listener: door.name.clone(), tls, told: Default::default() })
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

pub(super) fn handshake_failed(worker: &Worker, door: &ActiveListener, client: SocketAddr, reason: &'static str) {
    static LINES: Seldom = Seldom::every(1);
    worker.core.metrics.tls_handshake_failed();
    door.metrics.refused(reason);
    if let Some(held_back) = LINES.allow() {
        log::warn!("listener {}: no handshake with {client}: {reason}{}", door.name, and_more(held_back));
    }
}

/// One more new connection than its address may bring so soon.
pub(super) fn too_quick(door: &ActiveListener, client: SocketAddr) {
    static LINES: Seldom = Seldom::every(1);
    const REASON: &str = "max_new_connections_per_address";
    door.metrics.refused(REASON);
    if let Some(held_back) = LINES.allow() {
        log::warn!("listener {}: closed a new connection from {}: {REASON}{}", door.name, client.ip(), and_more(held_back));
    }
}

/// Counts a connection as open until it is dropped.
pub(super) struct Open(Arc<ActiveListener>);

impl Open {
    pub fn count(door: &Arc<ActiveListener>) -> Self {
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
    /// Where the client meant to go, as a header tells it.
    destination: Option<SocketAddr>,
    /// Bytes that were read to see that there is no PROXY header.
    read: SmallVec<[u8; 12]>,
}

async fn begin(door: &ActiveListener, socket: &mut TcpStream, peer: SocketAddr, deadline: Instant) -> io::Result<Began> {
    let opening = door.opening(peer.ip());
    match opening {
        Opening::Plain => return Ok(Began { client: peer, destination: None, read: SmallVec::new() }),
        Opening::Refuse => return Err(io::ErrorKind::PermissionDenied.into()),
        Opening::Header | Opening::MaybeHeader => {}
    }
    match proxy_protocol::read_header(socket, deadline).await? {
        Received::Header(header) => {
            let destination = header.destination.map(canonical);
            Ok(Began { client: header.source.map_or(peer, canonical), destination, read: SmallVec::new() })
        }
        Received::None { read } if opening == Opening::MaybeHeader => Ok(Began { client: peer, destination: None, read }),
        Received::None { .. } => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(super) fn rewound(socket: TcpStream, read: &[u8]) -> L4Stream {
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
