//! The attempts of one call: which endpoint is asked, how often, and what is recorded of it.

use std::time::Instant;

use crate::address::EndpointAddress;
use crate::upstream::{InFlightGuard, Picked, Service};

/// What one call has tried so far. Connections that could not be made and kept connections that turned out to be dead are counted apart:
/// a dead connection says nothing about its endpoint, and has a second try of its own.
#[derive(Default)]
pub struct Tries {
    /// Every attempt, the first one among them.
    pub attempts: u32,
    /// The endpoint that was asked last.
    pub endpoint: Option<EndpointAddress>,
    /// When the last attempt's request was begun to be sent.
    pub started: Option<Instant>,
    /// Endpoints that could not be connected to.
    failed: Vec<EndpointAddress>,
    next: Option<Picked>,
    /// A kept connection turned out to be dead, and the same was asked once more: an attempt that does not count against the service's
    /// retries, and that there is no second of.
    replayed: bool,
    flight: Option<InFlightGuard>,
}

impl Tries {
    /// The endpoint that is asked now.
    pub fn flight(&self) -> Option<&InFlightGuard> {
        self.flight.as_ref()
    }

    /// Begins an attempt with the endpoint whose turn it is. `None` if none is healthy.
    pub fn begin(&mut self, service: &Service) -> Option<&InFlightGuard> {
        let picked = self.next.take().or_else(|| service.pick(&self.failed))?;
        self.endpoint = Some(picked.addr);
        self.attempts += 1;
        Some(self.flight.insert(picked.begin()))
    }

    /// Begins an attempt with the same endpoint.
    pub fn again(&mut self) {
        self.attempts += 1;
    }

    /// Notes that the endpoint failed.
    pub fn failed(&self) {
        if let Some(flight) = &self.flight {
            flight.endpoint().record_failure();
        }
    }

    /// Notes that an endpoint could not be connected to. Whether another one may be tried.
    pub fn connect_failed(&mut self, service: &Service) -> bool {
        if let Some(flight) = self.flight.take() {
            flight.endpoint().record_failure();
        }
        self.failed.extend(self.endpoint);
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
        if let Some(flight) = self.flight.take() {
            flight.endpoint().record_failure();
        }
        if !self.may_retry(service) {
            return false;
        }
        let mut tried = self.failed.clone();
        tried.extend(self.endpoint);
        self.next = service.pick(&tried).or_else(|| service.pick(&self.failed));
        self.next.is_some()
    }

    /// Whether the same request may be sent once more because a kept connection was dead. Once: the next one is a new connection.
    pub fn replay(&mut self) -> bool {
        !std::mem::replace(&mut self.replayed, true)
    }

    pub fn has_replayed(&self) -> bool {
        self.replayed
    }

    /// Whether the service allows another attempt.
    fn may_retry(&self, service: &Service) -> bool {
        self.attempts - u32::from(self.replayed).min(self.attempts) <= service.retries
    }

    /// The call is over: its endpoint is free again.
    pub fn end(&mut self) {
        self.flight = None;
    }
}
