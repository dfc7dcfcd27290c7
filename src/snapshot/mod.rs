//! One generation of the configuration, compiled whole and immutable. A request sees exactly one from its first byte to its log
//! line.

mod compile;
mod doors;
#[cfg(test)]
mod examples_tests;
pub mod fallback;
mod stock;
pub mod tcp;
#[cfg(test)]
mod void_tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderName;

pub use compile::{Surroundings, compile, metrics};

use crate::cache::CachePolicy;
use crate::cidr::Occupant;
use crate::consumers::Consumers;
use crate::head::RequestHead;
use crate::keys::KeyStore;
use crate::limits::heavy_hitters::HeavyHitters;
use crate::listen::bound::BoundHosts;
use crate::listen::guard::Guard;
use crate::listen::listener::Listener;
use crate::listen::share::BodyMemory;
use crate::listen::trace;
use crate::observe::{AnswerMetrics, ListenerMetrics, RouteMetrics, ServiceMetrics};
use crate::path::AmbiguousPaths;
use crate::policy::{OnRequest, Plan};
use crate::redis::Redis;
use crate::route::back::Back;
use crate::route::compose::facade::Facade;
use crate::route::compose::{Composition, state};
use crate::route::views::{Tags, Views};
use crate::route::{OwnAnswer, Rewrite, RouteTables, Split};
use crate::tally::{Counter, Tallies};
use crate::upstream::Service;
use crate::wire::head::HeadLimits;

/// A listener, and what is kept about it from one generation to the next.
pub struct ActiveListener {
    pub listener: Listener,
    pub head_limits: HeadLimits,
    pub guard: Arc<Guard>,
    /// Who connects how often.
    pub arrivals: Arc<HeavyHitters>,
    pub metrics: Arc<ListenerMetrics>,
    /// Who takes connections as they are, and, on a listener for HTTPS, under which names.
    pub tcp: Option<tcp::TcpRoutes>,
}

impl std::ops::Deref for ActiveListener {
    type Target = Listener;

    fn deref(&self) -> &Listener {
        &self.listener
    }
}

impl ActiveListener {
    /// Whether a new connection of this client is one more than it may bring so soon. `None` for a client that is not counted.
    pub fn is_flooded_by(&self, client: Option<IpAddr>) -> bool {
        let counted = client.zip(self.listener.arrivals.as_ref());
        counted.is_some_and(|(client, allowance)| self.arrivals.observe(Occupant::from(client), allowance).is_none())
    }
}

/// Who answers a route's requests.
pub enum Answer {
    Service(Arc<Service>),
    Split(Split, Vec<Arc<Service>>),
    /// Nobody is asked.
    Own(Box<OwnAnswer>),
    /// Several are, and their answers are made one.
    Compose(Box<Composed>),
    /// One of the views does, each of which is a route of its own; these are the services of all of them.
    Views(Vec<Arc<Service>>),
}

/// Of which view a route is the answer.
pub struct OfView {
    pub name: Arc<str>,
    pub tags: Tags,
}

/// What an answer is made of, and the services that are asked for it.
pub struct Composed {
    pub composition: Composition,
    /// The schema of GraphQL whose fields the calls are for.
    pub graphql: Option<Box<Facade>>,
    /// In the order of the composition's numbers.
    pub services: Vec<Arc<Service>>,
    /// How each of them is asked, in the same order.
    pub roads: Box<[Road]>,
    /// Fields by which services hear who asks, beside those that all know.
    pub identity: Box<[HeaderName]>,
    /// A policy of a service decides by what the path's parameters took.
    pub by_params: bool,
    /// In the order of its parts.
    pub counts: Box<[PartCounts]>,
}

/// What the policies make of the calls to one service.
pub struct Road {
    /// What is done with the head on its way.
    pub steps: Vec<Arc<dyn OnRequest>>,
    pub cache: Option<Arc<CachePolicy>>,
    /// Under which name its answers are kept.
    pub id: Arc<str>,
}

/// How the parts of one call ended.
pub struct PartCounts(Vec<(&'static str, Arc<Counter>)>);

impl PartCounts {
    pub fn new(route: &str, part: &str, tallies: &Tallies) -> Self {
        let help = "Parts of composed answers, by how they ended.";
        let count = |word| {
            let labels = [("route", route), ("part", part), ("outcome", word)];
            (word, tallies.counter("portcullis_composed_parts_total", help, &labels))
        };
        PartCounts(state::WORDS.map(count).into())
    }

    pub fn note(&self, word: &str) {
        if let Some((_, count)) = self.0.iter().find(|(known, _)| *known == word) {
            count.add(1);
        }
    }
}

impl Answer {
    /// The number of the service for this request. A sticky split needs no memory: the same client always hashes to the same place.
    pub fn choose(&self, head: &RequestHead, client: IpAddr) -> u32 {
        match self {
            Answer::Service(_) | Answer::Own(_) | Answer::Compose(_) | Answer::Views(_) => 0,
            Answer::Split(split, _) => split.pick(head, client, trace::random()) as u32,
        }
    }

    /// Whether one of several services is drawn for each request.
    #[inline]
    pub fn is_split(&self) -> bool {
        matches!(self, Answer::Split(..))
    }

    /// The name of the service whose answer a request gets that has drawn this number. Empty where it is not one service's.
    #[inline]
    pub fn name(&self, number: Option<u32>) -> &str {
        match self {
            Answer::Service(service) => &service.key,
            Answer::Split(..) => number.and_then(|number| self.service(number)).map_or("", |service| &*service.key),
            Answer::Own(_) | Answer::Compose(_) | Answer::Views(_) => "",
        }
    }

    pub fn service(&self, number: u32) -> Option<&Service> {
        self.services().get(number as usize).map(|service| &**service)
    }

    /// The weights of a split, in the order of its services.
    pub fn weights(&self) -> Option<Vec<u32>> {
        match self {
            Answer::Split(split, _) => Some(split.weights().collect()),
            _ => None,
        }
    }

    pub fn services(&self) -> &[Arc<Service>] {
        match self {
            Answer::Service(service) => std::slice::from_ref(service),
            Answer::Split(_, services) | Answer::Views(services) => services,
            Answer::Own(_) | Answer::Compose(_) => &[],
        }
    }

    pub fn composed(&self) -> Option<&Composed> {
        if let Answer::Compose(composed) = self { Some(composed) } else { None }
    }

    /// Whether anything that it is made of is kept.
    pub fn keeps_parts(&self) -> bool {
        self.composed().is_some_and(|composed| composed.roads.iter().any(|road| road.cache.is_some()))
    }

    /// All that may be asked for a request, by whoever looks after them: one of [`Answer::services`], or several at once.
    pub fn asked(&self) -> &[Arc<Service>] {
        self.composed().map_or_else(|| self.services(), |composed| &composed.services)
    }
}

/// One route, compiled.
pub struct Route {
    pub id: Arc<str>,
    /// Under which name its answers are kept: its id, and the view's.
    pub kept_as: Arc<str>,
    /// What requests are given in its place, once they have been judged.
    pub views: Option<Box<Views>>,
    /// It is one of those.
    pub view: Option<Box<OfView>>,
    pub plan: Arc<Plan>,
    pub answer: Answer,
    pub rewrite: Option<Rewrite>,
    /// What the service says of its own addresses is mapped to what clients see.
    pub back: Option<Box<Back>>,
    /// What clients get when the service answers nothing.
    pub fallback: Option<Arc<fallback::Fallback>>,
    /// The request's total deadline, where it differs from the listener's.
    pub timeout: Option<Duration>,
    /// Every answer is a stream.
    pub stream: bool,
    /// What its services answer, in their order.
    pub answers: Box<[Arc<AnswerMetrics>]>,
    /// The body is read whole before a backend is asked.
    pub buffer_request: bool,
    /// It says which listeners serve it.
    pub names_listeners: bool,
    /// What becomes of ambiguous paths, where it differs from the listener's.
    pub ambiguous_paths: Option<AmbiguousPaths>,
    /// Whether several slashes are sent as one, where it differs from the listener's.
    pub merge_slashes: Option<bool>,
    pub metrics: Arc<RouteMetrics>,
}

pub struct Snapshot {
    /// Counts from 1; 0 is the empty one before the first.
    pub generation: u64,
    pub doors: Vec<Arc<ActiveListener>>,
    by_bind: HashMap<SocketAddr, usize, ahash::RandomState>,
    pub tables: RouteTables,
    /// Hosts that not every listener may serve. `None` for most.
    pub bound_hosts: Option<BoundHosts>,
    pub routes: Vec<Arc<Route>>,
    /// Their names, once anybody has asked.
    route_ids: OnceLock<HashSet<Arc<str>, ahash::RandomState>>,
    /// Those of connections that are carried as they are.
    pub tcp_routes: Vec<Arc<tcp::TcpRoute>>,
    /// The global policies, as far as they are about the answer to a request that no route takes.
    pub unrouted: Arc<Plan>,
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
    /// The Redis that this gateway shares with others.
    pub redis: Option<Arc<Redis>>,
    pub max_in_flight: usize,
    pub max_in_flight_per_address: usize,
    pub body_memory: BodyMemory,
    /// How many consumers the metrics tell apart.
    pub counted_consumers: usize,
    pub grace: Duration,
    pub workers: Option<usize>,
    pub cache_memory: usize,
    pub cache_disk: Option<Box<crate::cache::disk::Settings>>,
    /// In which Redis answers are kept, if not in `redis`; and how.
    pub cache_redis: Option<(Option<Arc<Redis>>, Box<crate::cache::redis::Settings>)>,
    pub upgrade_socket: Option<String>,
    pub admin: Option<SocketAddr>,
    /// The digest of the token that changing anything through the admin API takes.
    pub admin_token: Option<blake3::Hash>,
    /// Where keys are issued, and what new ones begin with.
    pub keys: Option<(Arc<KeyStore>, Arc<str>)>,
    pub consumers: Arc<Consumers>,
    pub access_log: crate::observe::Settings,
    /// The query parameters in which any route takes a credential: they are never logged.
    pub credential_queries: Vec<Arc<str>>,
    /// See [`Snapshot::caches`].
    has_cached: Arc<AtomicBool>,
    /// Where requests may carry credentials: one that does never uses the cache.
    pub credentials: crate::cache::Credentials,
    /// Fields under which some route's backends hear who the client is: `X-Auth-*` and `X-Consumer-*`, as far as any policy sets them. No
    /// client sends them, on no route, for routes may share a backend.
    pub reserved_fields: Vec<HeaderName>,
    /// By the services' keys.
    pub service_metrics: HashMap<Arc<str>, Arc<ServiceMetrics>, ahash::RandomState>,

    /// The configuration as it was written, secrets left out.
    pub document: serde_json::Value,
}

impl Snapshot {
    /// Whether anything may be stored: some route has a cache, or had one in a generation before, or there is a tier that outlasts the
    /// process. What changes or is purged meanwhile counts when a route has a cache again.
    pub fn caches(&self) -> bool {
        self.has_cached.load(Ordering::Relaxed)
    }

    pub fn door(&self, bind: &SocketAddr) -> Option<&Arc<ActiveListener>> {
        self.doors.get(*self.by_bind.get(bind)?)
    }

    /// Whether there is a route of that name. Made for being asked by very many at once: after a reload, by every tunnel.
    pub fn has_route(&self, id: &str) -> bool {
        self.route_ids.get_or_init(|| self.routes.iter().map(|route| route.id.clone()).collect()).contains(id)
    }
}
