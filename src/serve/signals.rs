//! The signals a process obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// HUP: load the configuration and the certificates again, and reopen the access log.
    Reload,
    /// QUIT: start the binary anew and hand the sockets over.
    Upgrade,
    /// TERM: finish what is under way, then end.
    Stop,
    /// INT, or a second TERM: end now.
    Abort,
}

pub struct Signals {
    hup: Signal,
    quit: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            hup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.hup.recv() => Order::Reload,
            _ = self.quit.recv() => Order::Upgrade,
            _ = self.term.recv() => Order::Stop,
            _ = self.int.recv() => Order::Abort,
        }
    }
}
