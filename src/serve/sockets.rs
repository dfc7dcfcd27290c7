//! Listening sockets: one per worker and address, bound here or inherited from the process before.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::listen::socket;

/// Sockets by the address they are bound to. Kept by the main thread so that a successor can be given copies.
#[derive(Default)]
pub struct Sockets {
    open: BTreeMap<SocketAddr, Vec<TcpListener>>,
}

/// Sockets from the process before, not yet adopted.
#[derive(Default)]
pub struct Inherited {
    by_address: BTreeMap<SocketAddr, VecDeque<TcpListener>>,
}

impl Inherited {
    /// Sorts what was handed over. The keys are `address#n`.
    pub fn new(received: Vec<(String, OwnedFd)>) -> Self {
        let mut by_address: BTreeMap<SocketAddr, VecDeque<TcpListener>> = BTreeMap::new();
        for (key, descriptor) in received {
            let address = key.rsplit_once('#').and_then(|(address, _)| address.parse().ok());
            match address {
                Some(address) => by_address.entry(address).or_default().push_back(TcpListener::from(descriptor)),
                None => log::warn!("an inherited socket has no address: `{key}`"),
            }
        }
        Inherited { by_address }
    }

    pub fn take(&mut self, address: &SocketAddr) -> Vec<TcpListener> {
        self.by_address.remove(address).unwrap_or_default().into()
    }
}

impl Sockets {
    /// At least one socket for each of `workers` at this address: the inherited ones, all of them whatever their number, and new
    /// ones for the rest. A worker may get several.
    ///
    /// # Errors
    /// The address cannot be bound; nothing is kept then.
    pub fn open(&mut self, address: SocketAddr, workers: usize, inherited: &mut Inherited) -> io::Result<Vec<TcpListener>> {
        let mut sockets = inherited.take(&address);
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        while sockets.len() < workers {
            sockets.push(socket::bind(address).map_err(|error| io::Error::new(error.source.kind(), explain(&error)))?);
        }
        let copies = sockets.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
        self.open.insert(address, sockets);
        Ok(copies)
    }

    pub fn close(&mut self, address: &SocketAddr) {
        self.open.remove(address);
    }

    /// Everything that a successor needs, keyed `address#n`.
    pub fn to_hand_over(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let all = self.open.iter().flat_map(|(address, sockets)| sockets.iter().enumerate().map(move |one| (address, one)));
        all.map(|(address, (number, socket))| (format!("{address}#{number}"), socket.as_fd())).collect()
    }
}

/// The error with what to do about it; the address is named by whoever reports it.
fn explain(error: &socket::BindError) -> String {
    match error.hint() {
        Some(hint) => format!("{} ({hint})", error.source),
        None => error.source.to_string(),
    }
}
