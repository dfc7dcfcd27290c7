//! Idle connections to backends, one pool per worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::upstream::Service;

/// How often connections that were idle too long are closed.
pub const SWEEP: Duration = Duration::from_secs(5);

/// The idle connections of one worker. The lock is never contended: only this worker's tasks take it.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<Kept>, ahash::RandomState>>,
}

struct Kept {
    stream: TcpStream,
    until: Instant,
}

impl Pool {
    /// The connection to that address that was used last, if there is one that still stands.
    pub fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.lock();
        let kept = idle.get_mut(&address)?;
        while let Some(Kept { stream, .. }) = kept.pop() {
            // Costs no system call unless the event loop has seen something: an end, or bytes that nobody asked for. Either way
            // the connection is of no use.
            let mut byte = [0];
            if matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless there are enough.
    pub fn keep(&self, stream: TcpStream, address: Option<SocketAddr>, service: &Service) {
        let Some(address) = address else { return };
        let mut idle = self.idle.lock();
        let kept = idle.entry(address).or_default();
        if kept.len() < service.keep_alive {
            kept.push(Kept { stream, until: Instant::now() + service.timeouts.idle });
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
