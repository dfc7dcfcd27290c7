//! `tcp_routes`: which listener's connections go where, as they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Compiler;
use crate::listen::config::{ListenerConfig, ListenerProtocol};
use crate::listen::guard::Guard;
use crate::node::Node;
use crate::policy::registry::{REGISTRY, Table};
use crate::problem::{Place, Problem};
use crate::route::{Answering, HostPattern, Split, Sticky, check_id};
use crate::snapshot::ActiveListener;
use crate::snapshot::tcp::{PerAddress, Target, TcpRoute, TcpRoutes};
use crate::tcp::counts::Counts;
use crate::tcp::pace::{self, Bandwidth};
use crate::tcp::{BandwidthConfig, POLICIES, TcpRouteConfig};
use crate::upstream::Service;
use crate::value::{Period, Raw, Size, Spanned, count_within, period_within};

const MOST_CONNECTIONS: u32 = 1_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;
/// How long the end that is left may be silent, where nothing is written about it.
const HALF_CLOSED: Duration = Duration::from_secs(60);
/// In bytes per second.
const LARGEST_BANDWIDTH: u64 = 1 << 40;

/// The services of a route, each with where it is written.
type Services = Vec<(Arc<Service>, Place)>;

impl<'a> Compiler<'a> {
    /// Gives every listener the routes of its connections, and gives all of those.
    pub(super) fn tcp(&mut self, doors: &mut [Arc<ActiveListener>]) -> Vec<Arc<TcpRoute>> {
        let mut tables: HashMap<String, TcpRoutes> = HashMap::new();
        let mut ids = HashSet::new();
        let mut all = Vec::new();
        let document = self.document;
        for config in &document.tcp_routes {
            let patterns = self.patterns(config);
            let named = |pattern: &Option<Spanned<HostPattern>>| !matches!(pattern.as_deref(), None | Some(HostPattern::Any));
            let by_name = patterns.as_ref().is_none_or(|patterns| patterns.iter().all(named));
            let listeners = self.tcp_listeners(config, by_name);
            let id = self.tcp_id(config);
            if !ids.insert(id.clone()) {
                let place = config.id.as_ref().map_or(config.place, |id| id.place);
                let problem = Problem::error(place, format!("two TCP routes have the same id, `{id}`"));
                self.problems.push(problem.hint("they take the same connections, or one needs another `id`"));
                continue;
            }
            let route = self.tcp_route(config, &id, &listeners);
            let (Some(patterns), Some(route)) = (patterns, route) else { continue };
            all.push(route.clone());
            for listener in listeners {
                let table = tables.entry(listener.name().to_owned()).or_default();
                for pattern in &patterns {
                    if !table.slot(pattern.as_ref().map(|pattern| &pattern.value)).fill(route.clone()) {
                        self.taken_twice(config, pattern.as_ref(), listener);
                    }
                }
            }
        }
        for door in doors {
            let routes = tables.remove(&*door.name);
            let names = |config: &TcpRouteConfig| config.listeners.iter().any(|named| *named.value == *door.name);
            if door.is_tcp() && !document.tcp_routes.iter().any(|config| names(config)) {
                let place = document.listener(&door.name).map_or(Place::NOWHERE, |listener| listener.bind.place);
                let message = "no route takes this listener's connections: all of them will be closed";
                self.problems.push(Problem::warning(place, message).hint("add one under `tcp_routes` that names it"));
            }
            // Nobody else has it yet.
            if let Some(door) = Arc::get_mut(door) {
                door.tcp = routes;
            }
        }
        all
    }

    /// Says which HTTP routes name a listener that speaks no HTTP.
    pub(super) fn named_for_http(&mut self, named: &Spanned<String>) {
        if self.document.listener(&named.value).is_some_and(|listener| listener.is_tcp()) {
            let message = format!("`{}` has `protocol: tcp`, and serves no requests", named.value);
            self.problems.push(Problem::error(named.place, message).hint("its routes are those under `tcp_routes`"));
        }
    }

    fn tcp_id(&mut self, config: &Spanned<TcpRouteConfig>) -> Arc<str> {
        if let Some(id) = &config.id {
            let _ = check_id(&id.value, id.place, self.problems);
            return id.value.as_str().into();
        }
        let all = |names: &[Spanned<String>]| names.iter().map(|name| &*name.value).collect::<Vec<_>>().join(",");
        let listeners = all(&config.listeners.0);
        match &config.sni {
            Some(names) => format!("{}@{listeners}", all(&names.0)).into(),
            None => listeners.into(),
        }
    }

    /// The names that it takes; one `None` for whatever is left over.
    fn patterns(&mut self, config: &TcpRouteConfig) -> Option<Vec<Option<Spanned<HostPattern>>>> {
        let Some(names) = &config.sni else { return Some(vec![None]) };
        let mut patterns = Vec::new();
        for name in names.iter() {
            match HostPattern::parse(&name.value) {
                Ok(pattern) => patterns.push(Some(Spanned::new(pattern, name.place))),
                Err(why) => self.problems.push(Problem::error(name.place, format!("`{}`: {why}", name.value))),
            }
        }
        (patterns.len() == names.len()).then_some(patterns)
    }

    fn taken_twice(&mut self, config: &Spanned<TcpRouteConfig>, name: Option<&Spanned<HostPattern>>, at: &ListenerConfig) {
        let (place, what) = match name {
            Some(name) => (name.place, format!("`{}`", name.value)),
            None => (config.place, "what no other takes".to_owned()),
        };
        let message = format!("another TCP route already takes {what} on listener `{}`", at.name());
        self.problems.push(Problem::error(place, message).hint("each name goes one way"));
    }

    /// The listeners that it names, as far as they are right for it.
    fn tcp_listeners(&mut self, config: &Spanned<TcpRouteConfig>, by_name: bool) -> Vec<&'a ListenerConfig> {
        let mut listeners = Vec::new();
        for named in config.listeners.iter() {
            let Some(listener) = self.document.listener(&named.value) else {
                self.unknown_listener(named);
                continue;
            };
            let passthrough = config.passthrough.as_ref();
            let passes = passthrough.is_some_and(|passthrough| passthrough.value);
            let problem = match (listener.protocol.value, listener.tls.is_some()) {
                (ListenerProtocol::Http, false) => {
                    let problem = Problem::error(named.place, format!("`{}` is a listener for plain HTTP", named.value));
                    Some(problem.hint("write `protocol: tcp` there"))
                }
                (ListenerProtocol::Http, true) if !by_name => {
                    let message = format!("`{}` serves HTTPS: this route would leave nothing to it", named.value);
                    Some(Problem::error(named.place, message).hint("say with `sni` which names are passed on"))
                }
                (ListenerProtocol::Http, true) if !passes => {
                    let message = format!("`{}` serves as HTTPS what it decrypts", named.value);
                    let hint = "write `passthrough: true`, or take a listener with `protocol: tcp`";
                    Some(Problem::error(named.place, message).hint(hint))
                }
                (ListenerProtocol::Tcp, false) => passthrough.filter(|_| !passes).map(|passthrough| {
                    let message = format!("`{}` has no `tls`, and passes all on as it is", named.value);
                    Problem::error(passthrough.place, message).hint("leave `passthrough` out")
                }),
                _ => None,
            };
            match problem {
                Some(problem) => self.problems.push(problem),
                None => listeners.push(&**listener),
            }
        }
        if config.listeners.is_empty() {
            let problem = Problem::error(config.place, "`listeners` is empty, so nobody comes this way");
            self.problems.push(problem.hint("name the listeners whose connections it takes"));
        }
        listeners
    }

    fn tcp_route(&mut self, config: &'a Spanned<TcpRouteConfig>, id: &Arc<str>, at: &[&ListenerConfig]) -> Option<Arc<TcpRoute>> {
        let answer = self.tcp_answer(config);
        let own = config.policies.as_ref().map(|Raw(node)| self.tcp_policies(id, node)).unwrap_or_default();
        let mut most = |key: &str, most: Option<&Spanned<u32>>| match most {
            Some(most) => count_within(key, most, 1, MOST_CONNECTIONS, self.problems).map(Some),
            None => Some(None),
        };
        let max_connections = most("max_connections", config.max_connections.as_ref());
        let per_address = most("max_connections_per_address", config.max_connections_per_address.as_ref());
        let bandwidth = self.bandwidth(&config.bandwidth);
        let mut within = |key: &str, period: Option<&Spanned<Period>>, most: u64| match period {
            Some(period) => period_within(key, period, 1000, most, self.problems).map(Some),
            None => Some(None),
        };
        let idle = within("idle", config.timeouts.idle.as_ref(), DAY);
        let half_closed = within("half_closed", config.timeouts.half_closed.as_ref(), DAY);
        let lifetime = within("lifetime", config.timeouts.lifetime.as_ref(), 30 * DAY);
        let (split, services) = answer?;
        let per_address = per_address?.map(|most| PerAddress {
            guard: self.around.ledger.keep(&format!("tcp_route:{id}"), Guard::new),
            most: most as usize,
        });
        let idle = idle?;
        let mut targets = Vec::new();
        for (service, place) in services {
            self.look_at_service(config, &service, place, at);
            let of_service = self.service_tables.get(&*service.key).cloned().unwrap_or_default();
            let table = self.global.overlaid(&of_service).overlaid(&own).only(&POLICIES);
            let plan = Arc::new(table.plan(&self.site(std::slice::from_ref(&service))));
            targets.push(Target { plan, idle: idle.unwrap_or(service.timeouts.stream), service });
        }
        Some(Arc::new(TcpRoute {
            id: id.clone(),
            targets: targets.into(),
            split,
            passthrough: config.passthrough.as_ref().is_some_and(|passthrough| passthrough.value),
            announce: config.send_proxy_protocol,
            max_connections: max_connections?.map(u64::from),
            per_address,
            bandwidth: bandwidth?,
            close_on_unhealthy: config.close_on_unhealthy.as_ref().is_some_and(|close| close.value),
            half_closed: half_closed?.unwrap_or(HALF_CLOSED),
            lifetime: lifetime?,
            counts: Counts::new(id, self.around.metrics.tallies()),
        }))
    }

    /// Who answers: a service, or those of a split, each with where it is written.
    fn tcp_answer(&mut self, config: &'a Spanned<TcpRouteConfig>) -> Option<(Option<Split>, Services)> {
        let lost = |key: &str| self.problems.has_lost(config.place, key);
        let lost = (config.service.is_none() && lost("service")) || lost("split");
        let sticky = config.sticky.as_ref().map(|sticky| Spanned::new(Sticky::from(sticky.value), sticky.place));
        let answering = Answering {
            service: config.service.as_ref(),
            port: config.port,
            split: config.split.as_deref(),
            sticky: sticky.as_ref(),
            place: config.place,
            instead: "add `service: NAME`, or a `split` of several services",
        };
        // What is missing was refused; what is left of a split can still be looked at.
        let split = if lost { None } else { Split::compile(&answering, self.problems) };
        let services = match (&config.service, &config.split) {
            (Some(service), None) => vec![(self.service(service, config.port, config.place)?, service.place)],
            (_, targets) => {
                let targets = targets.iter().flatten();
                let services = targets.map(|target| {
                    let service = self.service(&target.service, target.port, target.place);
                    service.map(|service| (service, target.service.place))
                });
                // All of them, so that what is wrong with any is said.
                let services: Vec<_> = services.collect();
                services.into_iter().collect::<Option<_>>()?
            }
        };
        (!lost && (split.is_some() || (config.split.is_none() && config.service.is_some()))).then_some((split, services))
    }

    fn bandwidth(&mut self, config: &BandwidthConfig) -> Option<Bandwidth> {
        let mut rate = |key: &str, written: Option<&Spanned<Size>>| {
            let Some(written) = written else { return Some(None) };
            let Size(rate) = written.value;
            if (pace::LEAST..=LARGEST_BANDWIDTH).contains(&rate) {
                return Some(Some(rate));
            }
            let message = format!("`{key}` is {rate} bytes a second, which is not between 1KiB and 1TiB");
            self.problems.push(Problem::error(written.place, message));
            None
        };
        let (upload, download) = (rate("upload", config.upload.as_ref()), rate("download", config.download.as_ref()));
        Some(Bandwidth { upload: upload?, download: download? })
    }

    /// What is about requests cannot hold for a connection that nobody looks into.
    fn tcp_policies(&mut self, id: &str, node: &Node) -> Table {
        for (key, _) in node.entries() {
            let name = key.text.as_str();
            if REGISTRY.iter().any(|entry| entry.name == name) && !POLICIES.contains(&name) {
                let message = format!("`{name}` is about requests, and a TCP route has none");
                let hint = format!("a TCP route may have {}", POLICIES.map(|name| format!("`{name}`")).join(" and "));
                self.problems.push(Problem::error(key.place, message).hint(hint));
            }
        }
        self.table(&format!("tcp_route:{id}"), "", node)
    }

    fn look_at_service(&mut self, config: &TcpRouteConfig, service: &Service, place: Place, at: &[&ListenerConfig]) {
        let passed = self.service_tables.get(&*service.key).map(|table| table.names_beside(&POLICIES)).unwrap_or_default();
        if let Some(first) = passed.first() {
            let message = format!(
                "`{first}` of service `{}` is about requests, and does not hold for this route's connections",
                service.name
            );
            self.problems.push(Problem::warning(place, message).hint("say who may connect with `ip_restriction`"));
        }
        if let Some(close) = config.close_on_unhealthy.as_ref().filter(|close| close.value && !service.is_checked()) {
            let message = format!("service `{}` has no `health_check` that would find its endpoints unhealthy", service.name);
            self.problems.push(Problem::error(close.place, message).hint("add one, such as `health_check: { tcp: true }`"));
        }
        let passes =
            |listener: &&ListenerConfig| listener.tls.is_none() || config.passthrough.as_ref().is_some_and(|it| it.value);
        if service.is_tls() && config.sni.is_some() && at.iter().any(passes) {
            let message = format!("service `{}` has `tls`, so that the client's TLS goes inside of the gateway's", service.name);
            let hint = "leave `tls` out of a service whose endpoints answer the clients' own TLS";
            self.problems.push(Problem::warning(place, message).hint(hint));
        }
    }
}
