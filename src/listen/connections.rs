//! The open connections of one worker, for whoever wants to look at them.
//!
//! Only its own worker writes a table, when a connection opens and when it closes; requests touch nothing but cells of their own
//! connection. Who reads copies the list out first, so that the worker never waits for long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::share;
use crate::tally::Counter;

/// Room for so many is kept while nobody is connected: a client that comes alone, again and again, would make it each time.
const KEPT: usize = 64;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaks {
    /// Not known yet: a PROXY header, a TLS handshake or the first bytes are awaited.
    Nothing,
    H1,
    H2,
    /// Whatever its ends like.
    Tcp,
}

impl Speaks {
    pub fn name(self) -> &'static str {
        match self {
            Speaks::Nothing => "opening",
            Speaks::H1 => "h1",
            Speaks::H2 => "h2",
            Speaks::Tcp => "tcp",
        }
    }
}

/// What is known of one open connection.
pub struct Entry {
    number: u64,
    opened: Instant,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The other end of the socket.
    pub peer: SocketAddr,
    client: OnceLock<SocketAddr>,
    speaks: AtomicU8,
    requests: AtomicU64,
    active: AtomicU32,
    route: Mutex<Option<Arc<str>>>,
    share: OnceLock<share::Seat>,
}

impl Entry {
    /// How long it has been open.
    pub fn age(&self) -> std::time::Duration {
        self.opened.elapsed()
    }

    /// The client's address, as a trusted PROXY header told it; else the other end of the socket.
    pub fn client(&self) -> SocketAddr {
        self.client.get().copied().unwrap_or(self.peer)
    }

    pub fn speaks(&self) -> Speaks {
        match self.speaks.load(Ordering::Relaxed) {
            1 => Speaks::H1,
            2 => Speaks::H2,
            3 => Speaks::Tcp,
            _ => Speaks::Nothing,
        }
    }

    /// Requests so far, those under way included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests under way. More than one only on HTTP/2.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The route of the request that was routed last.
    pub fn route(&self) -> Option<Arc<str>> {
        self.route.lock().clone()
    }

    /// Notes who the client is and what it speaks.
    pub fn identify(&self, client: SocketAddr, speaks: Speaks) {
        let _ = self.client.set(client);
        self.speaks.store(speaks as u8, Ordering::Relaxed);
    }

    /// What this connection takes of its address's share from now on: of one that speaks for a single client.
    pub fn sit(&self, seat: share::Seat) {
        let _ = self.share.set(seat);
    }

    /// Where its requests get their places; `None` for a proxy's connection, which carries many clients.
    pub fn share(&self) -> Option<&share::Seat> {
        self.share.get()
    }

    /// Counts a request until the guard is dropped.
    pub fn begin(&self) -> Serving<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        Serving(self)
    }

    /// Notes which route a request took. Mostly it is the same as the last one's.
    pub fn took(&self, route: &Arc<str>) {
        let mut last = self.route.lock();
        if !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, route)) {
            *last = Some(route.clone());
        }
    }
}

/// A request under way.
pub struct Serving<'a>(&'a Entry);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's connections.
pub struct ConnectionTable {
    accepted: Arc<Counter>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Arc<Entry>, ahash::RandomState>,
}

impl ConnectionTable {
    pub fn new(accepted: Arc<Counter>) -> Self {
        ConnectionTable { accepted, open: Mutex::default() }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.sum()
    }

    /// Counts a connection that the kernel gave to this worker.
    pub fn accept(&self) {
        self.accepted.add(1);
    }

    /// Lists a connection until the seat is dropped.
    pub fn enter(self: &Arc<Self>, listener: &Arc<str>, peer: SocketAddr) -> Seat {
        let mut open = self.open.lock();
        open.next += 1;
        let entry = Arc::new(Entry {
            number: open.next,
            opened: Instant::now(),
            listener: listener.clone(),
            peer,
            client: OnceLock::new(),
            speaks: AtomicU8::new(Speaks::Nothing as u8),
            requests: AtomicU64::new(0),
            active: AtomicU32::new(0),
            route: Mutex::new(None),
            share: OnceLock::new(),
        });
        open.entries.insert(entry.number, entry.clone());
        Seat { entry, table: self.clone() }
    }

    /// Every open connection, in no order.
    pub fn open(&self) -> Vec<Arc<Entry>> {
        self.open.lock().entries.values().cloned().collect()
    }
}

/// A place in the table.
pub struct Seat {
    entry: Arc<Entry>,
    table: Arc<ConnectionTable>,
}

impl Seat {
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.table.open.lock();
        open.entries.remove(&self.entry.number);
        if open.entries.is_empty() && open.entries.capacity() > KEPT {
            // What a flood of connections needed is not kept for ever.
            open.entries.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_listed_while_it_is_open() {
        let table = Arc::new(ConnectionTable::new(Arc::default()));
        let peer = SocketAddr::from(([192, 0, 2, 1], 4000));
        let seat = table.enter(&"public".into(), peer);
        let other = table.enter(&"public".into(), peer);
        let entry = seat.entry().clone();
        assert_eq!((entry.client(), entry.speaks(), entry.active()), (peer, Speaks::Nothing, 0));
        entry.identify(SocketAddr::from(([198, 51, 100, 7], 5)), Speaks::H2);
        assert_eq!((entry.client().port(), entry.speaks().name()), (5, "h2"));
        let (one, two) = (entry.begin(), entry.begin());
        drop(one);
        assert_eq!((entry.requests(), entry.active()), (2, 1));
        drop(two);
        entry.took(&"/a".into());
        assert_eq!(entry.route().as_deref(), Some("/a"));
        assert_eq!(table.open().len(), 2);
        drop(seat);
        assert_eq!(table.open().len(), 1);
        drop(other);
        assert!(table.open().is_empty());
    }
}
