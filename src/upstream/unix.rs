//! Unix sockets of endpoints, named by a path or in Linux's abstract namespace.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType};
use tokio::net::UnixStream;

use crate::address::{EndpointAddress, SocketName};

/// How soon a socket whose queue is full is tried again. It does not say when there is room.
const AGAIN: Duration = Duration::from_millis(5);

/// Connects. While the endpoint has more connections waiting than it lets wait, this waits too: whoever calls bounds it.
///
/// # Errors
/// There is no such socket, nobody listens, or the gateway may not.
pub async fn connect(name: SocketName) -> io::Result<UnixStream> {
    let address = of(name)?.into();
    loop {
        match UnixStream::connect_addr(&address).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

fn of(name: SocketName) -> io::Result<UnixAddress> {
    match name.as_abstract() {
        Some(name) => UnixAddress::from_abstract_name(name),
        None => UnixAddress::from_pathname(name.as_str()),
    }
}

/// What Pingora's peers hold: no more than a name for its pool, which cannot tell abstract ones apart. [`Dial`] connects.
pub fn pingora_address(address: EndpointAddress) -> SocketAddr {
    match address {
        EndpointAddress::Inet(address) => SocketAddr::Inet(address),
        // A name that was taken always fits.
        EndpointAddress::Unix(name) => UnixAddress::from_pathname(name.as_str())
            .map_or_else(|_| SocketAddr::Inet(([0, 0, 0, 0], 0).into()), SocketAddr::Unix),
    }
}

/// Connects in Pingora's stead, which takes no abstract name and gives up at once where a queue is full.
#[derive(Debug)]
pub struct Dial {
    pub name: SocketName,
    pub limit: Duration,
}

#[async_trait]
impl Connect for Dial {
    async fn connect(&self, _address: &SocketAddr) -> pingora_error::Result<Stream> {
        match tokio::time::timeout(self.limit, connect(self.name)).await {
            Ok(Ok(stream)) => Ok(stream.into()),
            Ok(Err(error)) => Err(Error::because(ErrorType::ConnectError, "a Unix socket", error)),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "a Unix socket"),
        }
    }
}
