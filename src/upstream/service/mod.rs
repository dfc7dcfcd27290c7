//! A service, compiled: its cluster and everything a request needs to know on the way to it.

mod compile;
mod pick;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::upstreams::peer::HttpPeer;

use super::balance::Balance;
use super::cluster::Cluster;
use super::config::Protocol;
use super::connect_calls::ConnectCalls;
use super::endpoint::Endpoint;
use super::gate::Queue;
use super::guard::Guard;
use super::health::Check;
use super::outlier;
use super::peer::{PeerTemplate, Timeouts, Trust};
use super::reflection::Transcoding;
use super::sticky::Sticky;
use crate::breaker;
use crate::credentials::UpstreamAuth;
use crate::function::Function;
use crate::head::AnswerLimits;
use crate::ledger::Ledger;
use crate::retry;
use crate::retry::hedge::Hedging;
use crate::tally::Tallies;
use crate::value::Raw;
use crate::wait::Pace;

pub(super) use compile::{MOST_ENDPOINTS, read_address};
pub use compile::{MOST_WEIGHT, check_name};
pub use pick::Picked;
pub use view::{FailingView, RouteBreakerView, ServiceView};

/// What outlives the generations, for what is compiled.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    pub ledger: &'a Ledger,
    pub tallies: &'a Arc<Tallies>,
    /// Where state may run tasks of its own. `None` where nothing is served.
    pub background: Option<&'a tokio::runtime::Handle>,
}

/// A service: what routes lead to.
#[derive(Clone)]
pub struct Service {
    /// As configured.
    pub name: Box<str>,
    /// Its identity, for the ledger and the watchers: the name, and for a service without an entry the port, too.
    pub key: Arc<str>,
    pub cluster: Arc<Cluster>,
    pub balance: Balance,
    pub sticky: Option<Arc<Sticky>>,
    pub protocol: Protocol,
    pub timeouts: Timeouts,
    pub limits: AnswerLimits,
    /// How an answer's body has to come.
    pace: Pace,
    /// When a call is tried again; the route's own, where it has some.
    pub retries: Arc<retry::Rules>,
    /// When a second copy of a call is sent elsewhere; the route's own, where it has some.
    pub hedging: Option<Arc<Hedging>>,
    /// How many may be at each endpoint, and how many wait for that, where it is bounded.
    pub queue: Option<Queue>,
    /// How many idle connections each core keeps.
    pub keep_alive: usize,
    /// Where it is not sent what requests are. `None` for most.
    pub converts: Option<Arc<Converts>>,
    /// What it takes of calls of the Connect protocol, which become gRPC's. `None`: it gets them as they came.
    pub connect: Option<Arc<ConnectCalls>>,
    /// How many connections to each endpoint each core makes ahead of requests.
    pub warm: usize,
    /// What clients are told while no endpoint is healthy.
    pub retry_after: Duration,
    pub dns_refresh: Duration,
    /// As written, for the compilation of routes.
    pub policies: Option<Raw>,
    pub(super) check: Option<Arc<Check>>,
    pub(super) outliers: Option<Arc<outlier::Rules>>,
    /// The service's circuit breaker, and that of the route.
    pub(super) breakers: Vec<Arc<Guard>>,
    /// Whether it matters what an answer is: see [`InFlightGuard::note`].
    pub(super) notes_answers: bool,
    /// The window of slow starts.
    pub(super) slow_start: Option<Duration>,
    aimed: bool,
    /// Some of its endpoints are found by name.
    named: bool,
    /// How soon the balance forgets how long endpoints took, where it wants to know.
    pub balance_decay: Option<Duration>,
    peers: PeerTemplate,
    /// For calls of gRPC's, where they go another way than everything else.
    calls: Option<Arc<PeerTemplate>>,
}

/// What becomes of a request before it is sent.
#[derive(Default)]
pub struct Converts {
    /// What requests mean that are no calls of gRPC's, where the service takes nothing else.
    pub transcoder: Option<Transcoding>,
    /// The function that it is an event for.
    pub function: Option<Arc<Function>>,
    /// What it is shown to say who the gateway is.
    pub auth: Option<Arc<UpstreamAuth>>,
}

/// What a gateway is told of itself.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Where it is.
    pub zone: Option<Arc<str>>,
    /// Which one of its fleet it is, from 0.
    pub number: Option<u32>,
}

impl Service {
    /// The policy name in the answers that the gateway makes in a service's stead.
    pub const NAME: &'static str = "upstream";

    pub fn auth(&self) -> Option<&Arc<UpstreamAuth>> {
        self.converts.as_ref()?.auth.as_ref()
    }

    /// Whether requests are made into calls of gRPC's.
    pub fn transcodes(&self) -> bool {
        self.converts.as_ref().is_some_and(|converts| converts.transcoder.is_some())
    }

    /// What requests mean that are no calls of gRPC's.
    pub fn transcoding(&self) -> Option<&Transcoding> {
        self.converts.as_ref()?.transcoder.as_ref()
    }

    /// Closes connections that have been idle too long.
    pub fn sweep(&self) {
        if self.queue.is_some() {
            let now = Instant::now();
            self.cluster.endpoints().iter().for_each(|(_, endpoint)| endpoint.gate().sweep(now));
        }
    }

    /// Whether requests may go to this endpoint now.
    pub fn may_ask(&self, endpoint: &Endpoint) -> bool {
        self.check.as_ref().is_none_or(|check| endpoint.passes_checks(check.initial))
            && !endpoint.is_drained()
            && !endpoint.is_ejected()
            && !endpoint.is_shut()
    }

    /// Whether health checks have found that this endpoint is not well.
    pub fn is_unwell(&self, endpoint: &Endpoint) -> bool {
        self.check.as_ref().is_some_and(|check| !endpoint.passes_checks(check.initial))
    }

    /// Whether its endpoints are checked.
    pub fn is_checked(&self) -> bool {
        self.check.is_some()
    }

    /// How to connect to `endpoint`. `sni` replaces the name that TLS asks for and verifies. Reads are bounded by `timeouts.response`.
    pub fn peer(&self, endpoint: &Endpoint, sni: Option<&str>) -> Box<HttpPeer> {
        Box::new(self.peers.peer(endpoint, sni))
    }

    /// The same over HTTP/2.
    pub fn http2_peer(&self, endpoint: &Endpoint) -> Box<HttpPeer> {
        Box::new(self.calls.as_deref().unwrap_or(&self.peers).peer(endpoint, None))
    }

    /// What `endpoint` is held to before a connection to it may be used; `None` without TLS.
    pub fn trust(&self, endpoint: &Endpoint) -> Option<Trust> {
        self.peers.trust(endpoint)
    }

    pub fn is_tls(&self) -> bool {
        self.peers.is_tls()
    }

    /// Whether it matters to the choice of an endpoint what a request is.
    pub fn is_aimed(&self) -> bool {
        self.aimed
    }

    /// How an answer's body has to come; what has no end of its own may be silent for longer, and is not held to a rate.
    pub fn pace(&self, endless: bool) -> Pace {
        match endless {
            false => self.pace,
            true => Pace { silence: self.timeouts.stream, rate: 0, ..self.pace },
        }
    }

    /// How many requests its endpoints have had since this was asked last: for its retry budget.
    pub fn new_requests(&self) -> u64 {
        self.cluster.endpoints().iter().map(|(_, endpoint)| endpoint.new_requests()).sum()
    }

    /// Whether a circuit breaker of the service as a whole is open: a call that has failed is not tried again.
    pub fn is_tripped(&self) -> bool {
        self.breakers.iter().filter_map(|guard| guard.whole()).any(|breaker| breaker.state() != breaker::State::Closed)
    }

    /// Whether it matters what the status of a gRPC call is.
    pub fn reads_calls(&self) -> bool {
        self.notes_answers || self.balance_decay.is_some()
    }

    /// Whether it has to be known how long answers take.
    pub fn measures(&self) -> bool {
        self.balance_decay.is_some()
            || self.outliers.as_ref().is_some_and(|rules| rules.measures())
            || self.breakers.iter().any(|guard| guard.measures())
    }

    /// Whether there is something to watch: health checks, shares that grow, host names, or what comes of requests.
    pub fn is_watched(&self) -> bool {
        self.check.is_some()
            || self.slow_start.is_some()
            || self.outliers.is_some()
            || self.has_breakers()
            || self.cluster.names().next().is_some()
            || matches!(self.transcoding(), Some(Transcoding::Reflected(_)))
    }

    /// Whether each endpoint has a circuit breaker of its own.
    pub(super) fn has_breakers(&self) -> bool {
        self.breakers.iter().any(|guard| guard.is_of_endpoints())
    }
}

#[cfg(test)]
mod tests;
