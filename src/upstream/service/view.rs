//! A service as the admin API shows it.

use serde::Serialize;

use super::Service;
use crate::breaker::BreakerView;
use crate::upstream::call::{IdleConnections, idle_connections};
use crate::upstream::endpoint::{Endpoint, EndpointView};
use crate::upstream::reflection::{ReflectionView, Transcoding};
use crate::upstream::sticky::Sticky;

/// A service, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    pub name: String,
    pub balance: &'static str,
    pub protocol: &'static str,
    pub tls: bool,
    /// Whether health checks run.
    pub checked: bool,
    /// How many endpoints may be asked now.
    pub available: usize,
    /// Whether fewer endpoints are well than `panic.below` says.
    pub panics: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<BreakerView>,
    pub endpoints: Vec<EndpointView>,
    /// What is known of its methods, where it is asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reflection: Option<ReflectionView>,
    /// How many sticky sessions are remembered, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
    /// Host names that have not resolved yet.
    pub unresolved: Vec<String>,
    /// What cannot be asked for endpoints now. The last ones that it named stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<FailingView>,
}

/// What was asked for endpoints in vain, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct FailingView {
    /// `host`, `record` or `file`.
    pub kind: &'static str,
    pub name: String,
    pub why: String,
}

/// A route's circuit breaker, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct RouteBreakerView {
    pub route: String,
    pub service: String,
    #[serde(flatten)]
    pub circuit_breaker: BreakerView,
}

impl Service {
    /// The circuit breaker that a route has put before it.
    pub fn route_breaker(&self) -> Option<RouteBreakerView> {
        let guard = self.breakers.iter().find(|guard| guard.route().is_some())?;
        let (route, service) = (guard.route()?.to_owned(), self.key.to_string());
        Some(RouteBreakerView { route, service, circuit_breaker: guard.view_of_whole()? })
    }

    pub fn view(&self) -> ServiceView {
        self.view_with(idle_connections().as_ref())
    }

    /// The same, with the connections that all services' views have in common.
    pub fn view_with(&self, idle: Option<&IdleConnections>) -> ServiceView {
        let of = |endpoint: &Endpoint| idle.map(|idle| idle.get(&endpoint.address()).copied().unwrap_or_default());
        let failing = self.cluster.names().filter(|(name, _)| name.is_failing());
        let unresolved = self.cluster.names().filter(|(name, _)| !name.is_resolved());
        ServiceView {
            name: self.key.to_string(),
            balance: self.balance.as_str(),
            protocol: self.protocol.as_str(),
            tls: self.is_tls(),
            checked: self.check.is_some(),
            available: self.cluster.available(),
            panics: self.cluster.board().panics(),
            circuit_breaker: self.breakers.iter().filter(|guard| guard.route().is_none()).find_map(|guard| guard.view_of_whole()),
            endpoints: self
                .cluster
                .views(|weight, endpoint| EndpointView { idle_connections: of(endpoint), ..self.view_of(weight, endpoint) }),
            reflection: self.transcoding().and_then(Transcoding::view),
            sessions: self.sticky.as_deref().and_then(Sticky::sessions),
            unresolved: unresolved.map(|(name, _)| name.host().to_owned()).collect(),
            failing: failing
                .map(|(name, _)| FailingView { kind: name.kind(), name: name.host().to_owned(), why: name.why() })
                .collect(),
        }
    }

    /// One of its endpoints.
    pub fn view_of(&self, weight: u32, endpoint: &Endpoint) -> EndpointView {
        let each = self.breakers.iter().find(|guard| guard.is_of_endpoints());
        endpoint.view(weight, self.check.as_ref().map(|check| check.initial), each.map(|guard| guard.view(endpoint.breaker())))
    }
}
