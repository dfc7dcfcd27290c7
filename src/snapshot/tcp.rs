//! The routes of connections that are carried as they are, compiled.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::Plan;
use crate::tcp::counts::Counts;
use crate::tcp::{Names, ProxyVersion};
use crate::upstream::Service;

/// One route.
pub struct TcpRoute {
    pub id: Arc<str>,
    pub service: Arc<Service>,
    /// Those of the policies that look at nothing but the client's address.
    pub plan: Arc<Plan>,
    /// The client's TLS is the service's to answer, also on a listener with TLS of its own.
    pub passthrough: bool,
    /// How the service is told who the client is.
    pub announce: Option<ProxyVersion>,
    pub max_connections: Option<u64>,
    pub close_on_unhealthy: bool,
    pub idle: Duration,
    pub lifetime: Option<Duration>,
    pub counts: Counts,
}

/// The routes of one listener, by name.
pub type TcpRoutes = Names<Arc<TcpRoute>>;
