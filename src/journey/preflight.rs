//! A browser's question whether a page of another origin may send a request (Fetch, "CORS-preflight fetch").

use http::Method;

use super::Journey;
use crate::exchange::RouteName;
use crate::policy::edge::address_limit::AddressLimit;
use crate::policy::edge::cors::Preflight;
use crate::policy::edge::ip_restriction::IpRestriction;
use crate::policy::{Policy, Work};
use crate::reply::Flow;
use crate::route::Found;

/// The policies that look at nothing but the client's address.
const BY_ADDRESS: [&str; 2] = [IpRestriction::NAME, AddressLimit::NAME];

impl Journey {
    /// Answers for the route of the request that the browser wants to send, if that route has `cors`. It is found by the method that the request
    /// will have, and with its fields as far as they are announced. Any other OPTIONS is a request like others.
    ///
    /// Whoever may not come, or comes too often, by his address alone is refused here as well: that needs no credentials, and the network that is kept
    /// out must not learn what there is. Nothing else of the plan is run. `bounds` is about requests that go on, and the listener's own limits have
    /// held for this one; what the services of a split have apart from each other is about how much each is asked, and none is asked here.
    #[cold]
    pub(super) fn check_preflight(&mut self) -> Flow {
        let Some(asked) = Preflight::of(&self.head) else { return Flow::Continue(()) };
        let listener = &self.exchange.connection.listener;
        let table = self.view.snapshot.tables.of(listener);
        let (found, takes) = match table.find_announced(&self.head, &asked.method, &asked.fields) {
            Found::MethodNotAllowed { allow } => {
                // Another method's route can tell that this one is not there.
                let other = allow.to_str().ok().and_then(|names| names.split(", ").next()?.parse::<Method>().ok());
                let found = other.map_or(Found::NotFound, |other| table.find_announced(&self.head, &other, &asked.fields));
                (found, Some(allow))
            }
            found => (found, None),
        };
        let Found::Route { index, .. } = found else { return Flow::Continue(()) };
        let Some(route) = self.view.route(Some(index)) else { return Flow::Continue(()) };
        let misdirected =
            self.view.snapshot.bound_hosts.as_ref().is_some_and(|bound| bound.misdirected(&self.head.host, listener));
        let Some(cors) = route.plan.options.cors.as_ref().filter(|_| !misdirected || route.names_listeners) else {
            return Flow::Continue(());
        };
        self.exchange.route = Some(RouteName { names: self.view.clone(), number: index });
        self.routed = Some(index);
        for step in route.plan.steps.iter().filter(|step| BY_ADDRESS.contains(&step.name)) {
            if let Work::Head(run) = &step.work {
                run.on_request(&self.head, &mut self.exchange)?;
            }
        }
        cors.answer(&self.head, &asked, takes.as_ref()).refuse()
    }
}
