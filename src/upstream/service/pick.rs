//! Which endpoint of a service a request goes to, and what clients are told where there is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::Service;
use crate::address::EndpointAddress;
use crate::reply::Reply;
use crate::retry::Why;
use crate::upstream::aim::Aim;
use crate::upstream::endpoint::{Endpoint, EndpointRef, InFlightGuard};
use crate::upstream::gate::Queue;
use crate::upstream::guard::Refused;

/// The endpoint whose turn it is.
#[derive(Clone)]
pub struct Picked {
    pub addr: EndpointAddress,
    pub endpoint: Arc<EndpointRef>,
}

impl Picked {
    /// Counts a request as in flight until the answer is dropped.
    ///
    /// # Errors
    /// A circuit breaker is open.
    pub fn begin(&self, service: &Service) -> Result<InFlightGuard, Refused> {
        InFlightGuard::admit(self.endpoint.clone(), service)
    }
}

impl Service {
    /// The endpoint whose turn it is, at a cost that does not grow with their number; `None` if no endpoint is healthy, or if
    /// `exclude` holds all that are: unhealthy endpoints are never asked, not even when there are no others.
    ///
    /// Every thread takes turns of its own, so that cores do not contend for one counter. Over any whole cycle of one thread's
    /// picks (as many as the weights, divided by their common divisor, add up to) the weights are met exactly, as long as health
    /// and addresses do not change; over all threads, the shares are off by at most the unfinished cycle of each.
    ///
    /// `exclude` is for retries: the addresses that were tried in vain.
    pub fn pick(&self, exclude: &[EndpointAddress]) -> Option<Picked> {
        self.pick_for(exclude, None)
    }

    /// The same for a request that says where it wants to go.
    pub fn pick_for(&self, exclude: &[EndpointAddress], aim: Option<&Aim>) -> Option<Picked> {
        let endpoint = self.cluster.pick(exclude, aim)?;
        Some(Picked { addr: endpoint.address(), endpoint })
    }

    /// The same where the endpoint's own circuit breaker lets one through.
    pub fn pick_admitted(&self, exclude: &[EndpointAddress], aim: Option<&Aim>) -> Option<Picked> {
        let now = Instant::now();
        self.pick_of(exclude, aim, &|endpoint| self.admits(endpoint, now))
    }

    /// The same where endpoints have room for so many only: one that has a place free, or else, if the request may wait, one whose queue has.
    pub fn pick_open(&self, exclude: &[EndpointAddress], aim: Option<&Aim>, queue: &Queue, waits: bool) -> Option<Picked> {
        let first = self.pick_for(exclude, aim)?;
        if !first.endpoint.gate().is_full(queue.most) {
            return Some(first);
        }
        let now = Instant::now();
        let free = |endpoint: &Endpoint| !endpoint.gate().is_full(queue.most) && self.admits(endpoint, now);
        let picked = self.pick_of(exclude, aim, &free);
        if picked.is_some() || !waits {
            return picked;
        }
        if first.endpoint.gate().has_room(queue.pending) {
            return Some(first);
        }
        self.pick_of(exclude, aim, &|endpoint| endpoint.gate().has_room(queue.pending) && self.admits(endpoint, now))
    }

    /// The same among the addresses that the endpoint's host has of the other family.
    pub fn pick_of_other_family(&self, exclude: &[EndpointAddress], aim: Option<&Aim>, endpoint: &Endpoint) -> Option<Picked> {
        let now = Instant::now();
        self.pick_of(exclude, aim, &|other| endpoint.is_of_other_family(other) && self.admits(other, now))
    }

    /// Whether a connection that is long in the making may have another one beside it: see [`super::call`]. Where endpoints have room for
    /// so many only, the second one would take a place that others wait for.
    pub fn may_race(&self) -> bool {
        self.named && self.queue.is_none() && self.retries.is_for(Why::Connect) && self.retries.attempts() > 0
    }

    /// The same among those that fit.
    fn pick_of(&self, exclude: &[EndpointAddress], aim: Option<&Aim>, fits: &dyn Fn(&Endpoint) -> bool) -> Option<Picked> {
        let endpoint = self.cluster.pick_of(exclude, aim, Some(fits))?;
        Some(Picked { addr: endpoint.address(), endpoint })
    }

    /// Whether the endpoint's own circuit breakers let one through.
    fn admits(&self, endpoint: &Endpoint, now: Instant) -> bool {
        self.breakers.iter().all(|guard| guard.admits(endpoint, now))
    }

    /// How long at least no endpoint may be asked because circuit breakers are open. `None` if that is not why.
    pub fn shut_for(&self) -> Option<Duration> {
        self.breakers.iter().find(|guard| guard.is_of_endpoints())?;
        let now = Instant::now();
        let endpoints = self.cluster.endpoints();
        endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.is_shut())
            .filter_map(|(_, endpoint)| endpoint.breaker().open_left(now))
            .min()
    }

    /// The answer while no endpoint is healthy, or all have as much to do as they may: 503 with `Retry-After`.
    pub fn unavailable(&self) -> Box<Reply> {
        if self.cluster.available() > 0 && self.queue.is_some() {
            return self.queue_full();
        }
        if self.cluster.available() > 0 {
            let detail = "Every endpoint of this service has as much to do as it may.";
            return Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "endpoints_full", detail)
                .retry_after(self.retry_after);
        }
        let detail = "No endpoint of this service is available.";
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "no_healthy_endpoint", detail).retry_after(self.retry_after)
    }

    /// The answer while a circuit breaker is open: 503 with what is left of it in `Retry-After`.
    pub fn circuit_open(&self, left: Duration) -> Box<Reply> {
        let detail = "This service has failed too often, and is not asked for a moment.";
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "circuit_open", detail).retry_after(left)
    }

    /// The answer where as many requests wait for an endpoint as may: 503 with `Retry-After`.
    pub fn queue_full(&self) -> Box<Reply> {
        let detail = "As many requests wait for this service as may.";
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "queue_full", detail).retry_after(self.retry_after)
    }

    /// The answer where no endpoint had room in time: 503 with `Retry-After`.
    pub fn queue_timeout(&self) -> Box<Reply> {
        let detail = "No endpoint of this service had room for the request in time.";
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "queue_timeout", detail).retry_after(self.retry_after)
    }
}
