//! The routes of connections that are carried as they are, compiled.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::head::RequestHead;
use crate::listen::guard::{Caps, Guard, Permit, Refused};
use crate::listen::trace;
use crate::policy::Plan;
use crate::route::Split;
use crate::tcp::counts::Counts;
use crate::tcp::pace::Bandwidth;
use crate::tcp::{Names, ProxyVersion};
use crate::upstream::Service;

/// One route.
pub struct TcpRoute {
    pub id: Arc<str>,
    /// One, or those of the split.
    pub targets: Box<[Target]>,
    pub split: Option<Split>,
    /// The client's TLS is the service's to answer, also on a listener with TLS of its own.
    pub passthrough: bool,
    /// How the service is told who the client is.
    pub announce: Option<ProxyVersion>,
    pub max_connections: Option<u64>,
    pub per_address: Option<PerAddress>,
    pub bandwidth: Bandwidth,
    pub close_on_unhealthy: bool,
    pub half_closed: Duration,
    pub lifetime: Option<Duration>,
    pub counts: Counts,
}

/// Where a route's connections go.
pub struct Target {
    pub service: Arc<Service>,
    /// Those of the policies that look at nothing but the client's address.
    pub plan: Arc<Plan>,
    pub idle: Duration,
}

impl TcpRoute {
    /// Where a client's connection goes. There is no second choice: a canary that cannot be reached has to be seen.
    pub fn choose(&self, client: IpAddr) -> Option<&Target> {
        let number = self.split.as_ref().map_or(0, |split| split.pick(&RequestHead::unreadable(), client, trace::random()));
        self.targets.get(number)
    }

    /// The keys of the services.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| &*target.service.key)
    }
}

/// How many connections one address may have of a route at once.
pub struct PerAddress {
    /// Counts on over reloads.
    pub guard: Arc<Guard>,
    pub most: usize,
}

impl PerAddress {
    /// Counts one more, until the permit is dropped.
    ///
    /// # Errors
    /// It would be one too many.
    pub fn enter(&self, client: IpAddr) -> Result<Permit, Refused> {
        self.guard.try_enter(Some(client), Caps { connections: usize::MAX, per_address: self.most })
    }
}

/// The routes of one listener, by name.
pub type TcpRoutes = Names<Arc<TcpRoute>>;
