//! Listening sockets: one per worker and address, bound here or inherited from the process before.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::listen::{holder, socket};

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

    fn holds(&self, address: &SocketAddr) -> bool {
        self.by_address.contains_key(address)
    }

    pub fn take(&mut self, address: &SocketAddr) -> Vec<TcpListener> {
        self.by_address.remove(address).unwrap_or_default().into()
    }
}

impl Sockets {
    /// Makes sure that no other process takes this address's connections, but for `before`, from which this one takes over.
    ///
    /// # Errors
    /// `AddrInUse`, with the other process's id where it can be seen.
    pub fn check_free(&self, address: SocketAddr, inherited: &Inherited, before: Option<u32>) -> io::Result<()> {
        if address.port() == 0 || inherited.holds(&address) || socket::is_free(address) {
            return Ok(());
        }
        let own = self.inodes().chain(inherited.by_address.values().flatten().filter_map(inode)).collect();
        let in_use = |who: String| io::Error::new(io::ErrorKind::AddrInUse, format!("the address is in use by {who}"));
        match holder::others(address, &own) {
            // Nobody to ask.
            None => Err(in_use("another process".to_owned())),
            // Or nobody who listens: whoever only keeps the address takes no connection, and does not share it unless that is meant.
            Some(others) => match others.iter().find(|other| other.pid.is_none() || other.pid != before) {
                None => Ok(()),
                Some(other) => Err(in_use(other.to_string())),
            },
        }
    }

    /// The process, not `before`, that began to listen on one of these addresses at the same time as this one and is older than it. Two
    /// that start at once do not see each other before both have bound. A socket without a process may be one that ends right now, so it
    /// says nothing about who is older.
    pub fn rival(&self, before: Option<u32>) -> Option<(SocketAddr, holder::Holder, bool)> {
        let own: HashSet<u64> = self.inodes().collect();
        let me = std::process::id();
        let began = |pid: u32| (holder::began(pid), pid);
        self.open.keys().find_map(|address| {
            let others = holder::others(*address, &own)?;
            let other = others.into_iter().find(|other| other.pid.is_none() || other.pid != before)?;
            let older = other.pid.is_some_and(|pid| began(pid) < began(me));
            Some((*address, other, older))
        })
    }

    fn inodes(&self) -> impl Iterator<Item = u64> {
        self.open.values().flatten().filter_map(inode)
    }

    /// At least one socket for each of `workers` at this address: the inherited ones, all of them whatever their number, and new
    /// ones for the rest. A worker may get several.
    ///
    /// # Errors
    /// The address cannot be bound; nothing is opened then.
    pub fn open(&mut self, address: SocketAddr, workers: usize, inherited: &mut Inherited) -> io::Result<Vec<TcpListener>> {
        let mut sockets = inherited.take(&address);
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        while sockets.len() < workers {
            match socket::bind(address) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    // What was inherited waits for the next try.
                    inherited.by_address.insert(address, sockets.into());
                    return Err(io::Error::new(error.source.kind(), explain(&error)));
                }
            }
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

fn inode(socket: &TcpListener) -> Option<u64> {
    rustix::fs::fstat(socket.as_fd()).ok().map(|facts| facts.st_ino)
}

/// The error with what to do about it; the address is named by whoever reports it.
fn explain(error: &socket::BindError) -> String {
    match error.hint() {
        Some(hint) => format!("{} ({hint})", error.source),
        None => error.source.to_string(),
    }
}
