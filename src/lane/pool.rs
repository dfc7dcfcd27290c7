//! Idle connections to backends, one pool per worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::relay::Upstream;
use parking_lot::Mutex;

use crate::upstream::Service;

/// How often connections that were idle too long are closed.
pub const SWEEP: Duration = Duration::from_secs(5);

/// The idle connections of one worker. The lock is never contended: only this worker's tasks take it.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<Kept>, ahash::RandomState>>,
}

struct Kept {
    connection: Upstream,
    until: Instant,
}

impl Pool {
    /// The connection to that address that was used last, if there is one that still stands.
    pub fn take(&self, address: SocketAddr) -> Option<Upstream> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(&address)?;
        while let Some(Kept { connection, .. }) = kept.pop() {
            if connection.is_silent() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless there are enough.
    pub fn keep(&self, connection: Upstream, address: Option<SocketAddr>, service: &Service) {
        let Some(address) = address else { return };
        let mut idle = self.idle.lock();
        let kept = idle.entry(address).or_default();
        if kept.len() < service.keep_alive {
            kept.push(Kept { connection, until: Instant::now() + service.timeouts.idle });
        }
    }

    /// Closes what has been idle too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.lock().retain(|_, kept| {
            kept.retain(|kept| kept.until > now);
            !kept.is_empty()
        });
    }
}
