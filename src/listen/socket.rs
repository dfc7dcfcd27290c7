//! Listening sockets: how they are bound, and what a failure to bind says.
//!
//! Accepting, and handing sockets to the next process, are not here.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// How many finished handshakes the kernel keeps until they are accepted. It takes less if `net.core.somaxconn` is less.
pub const BACKLOG: i32 = 4096;

/// After this long without a byte the kernel asks whether the peer still exists, and gives up after [`KEEPALIVE_PROBES`] unanswered
/// questions: only so does a WebSocket whose peer lost power ever end.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

impl BindError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => Some("another program listens there; `ss -ltnp` shows which"),
            io::ErrorKind::PermissionDenied if self.address.port() < 1024 => Some(
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)",
            ),
            io::ErrorKind::AddrNotAvailable => Some("no interface of this host has that address"),
            _ => None,
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.source)?;
        self.hint().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds and listens: non-blocking, with SO_REUSEADDR and SO_REUSEPORT, so that every core has a socket of its own and the kernel
/// spreads the connections. TCP_NODELAY and keep-alive are set here because Linux hands them on to the accepted sockets, which saves
/// system calls per connection. TCP_DEFER_ACCEPT stays off: it would hide silent connections from the caps and deadlines.
///
/// `[::]` takes IPv4 as well, whose peers then look like `::ffff:192.0.2.1` (see [`canonical`]); on a host without IPv6 it is
/// `0.0.0.0`. SO_REUSEPORT lets a second process of the same user bind the same address: [`is_free`] comes first.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    match listen(address) {
        Err(source) if takes_both_families(address) && lacks_ipv6(&source) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            listen(address).map_err(|source| BindError { address, source })
        }
        result => result.map_err(|source| BindError { address, source }),
    }
}

/// Whether nobody listens on an address, or on every address with its port: what [`bind`] cannot notice.
pub fn is_free(address: SocketAddr) -> bool {
    match open(address, false) {
        Err(error) if takes_both_families(address) && lacks_ipv6(&error) => {
            is_free(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        // Whatever else is wrong with it, `bind` says.
        result => !matches!(result, Err(error) if error.kind() == io::ErrorKind::AddrInUse),
    }
}

/// One socket for each of `count` workers, all on one address; port 0 is resolved by the first. All or none.
pub fn bind_group(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let first = bind(address)?;
    let resolved = first.local_addr().map_err(|source| BindError { address, source })?;
    let mut group = vec![first];
    for _ in 1..count {
        group.push(bind(resolved)?);
    }
    Ok(group)
}

/// The address without its disguise: an IPv4 peer of a dual-stack socket as IPv4. Call it on what `accept` returns, before the
/// address is looked at or logged.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        // Untouched, and so with its scope id.
        IpAddr::V6(_) => address,
    }
}

fn takes_both_families(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

/// IPv6 is compiled out, or turned off by `ipv6.disable=1` or a sysctl.
fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Bound, and shared with other sockets or not.
fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!takes_both_families(address))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
        for _ in 0..500 {
            match listener.accept() {
                Ok(accepted) => return accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("nothing was accepted");
    }

    #[test]
    fn a_group_shares_one_port_and_accepted_sockets_inherit_the_options() {
        let group = bind_group("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(group.len(), 3);
        let address = group[0].local_addr().unwrap();
        assert!(group.iter().all(|listener| listener.local_addr().unwrap() == address));

        let single = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(single.local_addr().unwrap()).unwrap();
        let (accepted, _) = accept(&single);
        assert!(accepted.nodelay().unwrap());
        assert!(socket2::SockRef::from(&accepted).keepalive().unwrap());
    }

    #[test]
    fn the_unspecified_address_takes_ipv4_too() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap();
        let (_, peer) = accept(&listener);
        assert_eq!(canonical(peer).ip(), IpAddr::from([127, 0, 0, 1]));
    }

    #[test]
    fn a_taken_port_says_so() {
        // Without SO_REUSEPORT, so that ours cannot join it.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(taken.local_addr().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:") && text.contains("another program"), "{text}");
    }

    #[test]
    fn a_shared_port_is_not_free() {
        let shared = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = shared.local_addr().unwrap();
        assert!(bind(address).is_ok(), "the kernel would let a second process in");
        assert!(!is_free(address));
        assert!(!is_free(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())));
        drop(shared);
        assert!(is_free(address));
    }

    #[test]
    fn a_foreign_address_says_so() {
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no interface"), "{error}");
    }

    #[test]
    fn a_privileged_port_names_the_capability() {
        let error =
            BindError { address: "0.0.0.0:443".parse().unwrap(), source: io::Error::from(io::ErrorKind::PermissionDenied) };
        assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"));
    }
}
