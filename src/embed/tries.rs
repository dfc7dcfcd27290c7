//! Which endpoint is asked, and whether another one may be: what Pingora's loop asks of the hooks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::upstream::{Flight, Picked, Service};

/// Tells connections apart that are made for one attempt only.
static REPLAYS: AtomicU64 = AtomicU64::new(0);

/// One request's attempts.
#[derive(Default)]
pub struct Tries {
    /// Endpoints that could not be connected to.
    failed: Vec<SocketAddr>,
    next: Option<Picked>,
    asked: Option<SocketAddr>,
    /// Counts as in flight for as long as it is here.
    pub flight: Option<Flight>,
    /// So far, the one under way included.
    pub count: u32,
    /// A kept connection turned out to be dead, and the same was asked once more: an attempt that does not count against the service's
    /// retries, and that there is no second of.
    replayed: bool,
}

impl Tries {
    /// Begins another attempt; `None` if no endpoint is healthy.
    pub fn begin(&mut self, service: &Service) -> Option<Picked> {
        self.count += 1;
        let picked = self.next.take().or_else(|| service.pick(&self.failed))?;
        self.asked = Some(picked.addr);
        self.flight = Some(picked.begin());
        Some(picked)
    }

    /// A key for a connection of its own, where the next kept one may be as dead as the last.
    pub fn own_connection(&self) -> Option<u64> {
        self.replayed.then(|| REPLAYS.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes that no connection could be made. Whether another endpoint may be tried: nothing of the request has been sent.
    pub fn connect_failed(&mut self, service: &Service) -> bool {
        self.record_failure();
        self.flight = None;
        self.failed.extend(self.asked);
        if !self.may_retry(service) {
            return false;
        }
        // Only if there is another one to ask: otherwise the failure itself is the better answer.
        self.next = service.pick(&self.failed);
        self.next.is_some()
    }

    /// Notes that an endpoint refused the request before it did anything about it. Whether it may be asked for again, whole: another
    /// endpoint, or if there is none the same, for it may have meant no more than this connection.
    pub fn was_refused(&mut self, service: &Service) -> bool {
        self.record_failure();
        self.flight = None;
        if !self.may_retry(service) {
            return false;
        }
        let mut tried = self.failed.clone();
        tried.extend(self.asked);
        self.next = service.pick(&tried).or_else(|| service.pick(&self.failed));
        self.next.is_some()
    }

    /// Whether the same request may be sent once more because a kept connection was dead. Once: the next one is a new connection.
    pub fn replay(&mut self) -> bool {
        !std::mem::replace(&mut self.replayed, true)
    }

    pub fn record_failure(&self) {
        if let Some(flight) = &self.flight {
            flight.endpoint().record_failure();
        }
    }

    fn may_retry(&self, service: &Service) -> bool {
        self.count.saturating_sub(u32::from(self.replayed)) <= service.retries
    }
}
