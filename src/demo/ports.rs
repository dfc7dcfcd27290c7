//! Where the demo listens: on the friendly port if nobody else does, else on a free one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use socket2::{Domain, Socket, Type};

/// A port on the loopback interface that is this process's until it is dropped.
pub struct Port {
    pub number: u16,
    /// Two demos that start together must not take the same port: the gateway's sockets share theirs (SO_REUSEPORT) and would not
    /// notice. A name in the abstract namespace belongs to one process and leaves no file.
    _name: Option<UnixListener>,
    /// Bound but not listening: nothing is delivered here, and nobody else gets the port.
    _bound: Socket,
}

impl Port {
    /// A port for the gateway to listen on.
    ///
    /// # Errors
    /// Not even a free port could be had.
    pub fn claim(friendly: u16) -> io::Result<Port> {
        Port::shared(friendly).or_else(|_| Port::free())
    }

    fn free() -> io::Result<Port> {
        let try_one = || {
            let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            Port::shared(found)
        };
        // Somebody else may be quicker, but not every time.
        (0..16).fold(try_one(), |outcome, _| outcome.or_else(|_| try_one()))
    }

    fn shared(number: u16) -> io::Result<Port> {
        let name = UnixAddr::from_abstract_name(format!("portcullis-demo-{number}"))?;
        let name = UnixListener::bind_addr(&name)?;
        // Does not share, and so fails if anybody listens there, on this address or on all.
        drop(TcpListener::bind((Ipv4Addr::LOCALHOST, number))?);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Shared with the gateway's sockets, which share as well, but not with whoever only reuses addresses.
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, number)).into())?;
        Ok(Port { number, _name: Some(name), _bound: socket })
    }

    /// A port that nobody listens on, nor will: the address of a backend that is down.
    ///
    /// # Errors
    /// There is none.
    pub fn dead() -> io::Result<Port> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Port { number: address.port(), _name: None, _bound: socket })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_is_claimed_once() {
        let one = Port::free().unwrap();
        let two = Port::claim(one.number).unwrap();
        assert_ne!(one.number, two.number);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_claimed() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        assert_ne!(Port::claim(number).unwrap().number, number);
    }

    #[test]
    fn the_gateway_can_listen_on_a_claimed_port_and_gets_every_connection() {
        let port = Port::free().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        assert!(TcpListener::bind(address).is_err(), "somebody else can");
        let listener = crate::listen::socket::bind(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        for _ in 0..8 {
            let _client = TcpStream::connect(address).unwrap();
            listener.accept().unwrap();
        }
    }

    #[test]
    fn nobody_answers_on_a_dead_port() {
        let port = Port::dead().unwrap();
        let error = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
