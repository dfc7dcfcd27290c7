//! From the document to a snapshot. Every step reports what is wrong and goes on, so that one run shows everything.

mod answers;
mod compose;
mod policies;
mod tcp;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderName;

use super::fallback::Fallback;
use super::{ActiveListener, Answer, Route, Snapshot, doors, stock};
use crate::cache::Credentials;
use crate::config::{Document, Engine, Source};
use crate::consumers::Consumers;
use crate::keys::{self, KeyStore};
use crate::ledger::Ledger;
use crate::limits::heavy_hitters::HeavyHitters;
use crate::listen::bound::BoundHosts;
use crate::listen::config::ListenerConfig;
use crate::listen::guard::Guard;
use crate::listen::listener::{Limits, Listener};
use crate::listen::redirect::Redirect;
use crate::node::{self, Node};
use crate::observe::Metrics;
use crate::path::{self, AmbiguousPaths};
use crate::policy::authn::METHODS;
use crate::policy::registry::Table;
use crate::policy::{Plan, Work};
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::redis::Redis;
use crate::route::{Matcher, Rewrite, RouteConfig, RouteTables};
use crate::upstream::{Kept, Protocol, Service, Site, dns};
use crate::value::{Raw, Size, Spanned};
use crate::wire::head::HeadLimits;

/// How long all host names together may take to resolve. The rest is left to the background.
const RESOLVE: Duration = Duration::from_secs(5);
/// The least memory that a cache is worth having with: an eighth of it is for bodies on their way in.
const LEAST_CACHE: u64 = 1 << 20;
/// The least with which what is too long for memory gets to disk, one answer at a time.
const LEAST_BEFORE_DISK: u64 = 8 << 20;
/// The shortest admin token that is taken, in bytes: a shorter one could be guessed.
const SHORTEST_TOKEN: usize = 16;

/// What a generation is compiled into: the things that outlive it.
#[derive(Clone)]
pub struct Surroundings {
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    /// Where state runs its tasks; `None` where nothing is served.
    pub background: Option<tokio::runtime::Handle>,
}

impl Surroundings {
    /// For what services remember.
    pub fn kept(&self) -> Kept<'_> {
        Kept { ledger: &self.ledger, tallies: self.metrics.tallies(), background: self.background.as_ref() }
    }

    /// For a check that serves nothing.
    pub fn detached() -> Self {
        Surroundings { ledger: Arc::default(), metrics: metrics(), background: None }
    }
}

/// Compiles a document. `None` if anything is wrong; `source.problems` then says what, all of it.
pub fn compile(document: &Document, source: &mut Source, around: &Surroundings, generation: u64) -> Option<Snapshot> {
    let base = source.base().to_owned();
    let mut problems = std::mem::take(&mut source.problems);
    let root = source.root.clone();
    let written = views::written(document);
    let mut compiler = Compiler::new(document, &written, root.as_deref(), &base, around, &mut problems);
    let mut doors = compiler.doors();
    compiler.services();
    let tcp_routes = compiler.tcp(&mut doors);
    let of_requests = doors.iter().filter(|door| !door.is_tcp());
    let mut bound_hosts = BoundHosts::of(of_requests.clone().map(|door| &door.listener));
    for (door, routes) in of_requests.filter_map(|door| Some((door, door.tcp.as_ref()?))) {
        let bound = bound_hosts.get_or_insert_default();
        routes.listed().for_each(|(host, below)| bound.pass_on(&door.name, host, below));
    }
    let (tables, routes) = compiler.routes(&doors, bound_hosts.as_ref());
    let unrouted = Arc::new(compiler.global.plan(&compiler.site(&[])));
    let admin = compiler.admin(&doors);
    compiler.bounds();
    stock::check(document, &routes, compiler.problems);
    compiler.body_memory(&doors, &routes);
    let access_log = document.access_log.compile(&base, compiler.problems);
    let admin_token = compiler.admin_token();
    let (services, redis, answers) = (compiler.services, compiler.redis, compiler.answers);
    let (keys, consumers) = (compiler.keys, compiler.consumers);
    problems.sort();
    let refused = problems.has_errors();
    if refused {
        source.problems = problems;
        return None;
    }
    // Now, so that a new service does not answer 503 until the resolver has been asked.
    let to_resolve: Vec<_> = services.values().cloned().collect();
    dns::resolve(&to_resolve, RESOLVE, &mut problems);
    problems.sort();
    source.problems = problems;
    let server = &document.server;
    let options = || routes.iter().map(|route| &route.plan.options);
    let credential_queries = options().flat_map(|options| options.credential_queries.iter().cloned()).collect::<BTreeSet<_>>();
    let credential_headers = options().flat_map(|options| options.credential_headers.iter().cloned());
    let identity = options().flat_map(|options| options.identity_fields.iter());
    let reserved = identity.filter(|name| ["x-auth-", "x-consumer-"].iter().any(|start| name.as_str().starts_with(start)));
    let mut reserved_fields: Vec<HeaderName> = reserved.cloned().collect();
    reserved_fields.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    reserved_fields.dedup();
    let has_cached = around.ledger.keep("caches", AtomicBool::default);
    if options().any(|options| options.cache.is_some())
        || routes.iter().any(|route| route.answer.keeps_parts())
        // What processes before, and other gateways, have left there.
        || server.cache_disk.is_some()
        || server.cache_redis.is_some()
    {
        has_cached.store(true, Ordering::Relaxed);
    }
    Some(Snapshot {
        reserved_fields,
        has_cached,
        credentials: Credentials::new(credential_headers, credential_queries.iter().cloned()),
        credential_queries: credential_queries.into_iter().collect(),
        generation,
        by_bind: doors.iter().enumerate().map(|(index, door)| (door.listener.bind, index)).collect(),
        doors,
        tables,
        bound_hosts,
        routes,
        route_ids: Default::default(),
        tcp_routes,
        unrouted,
        max_in_flight: *server.max_in_flight as usize,
        max_in_flight_per_address: server.in_flight_per_address(),
        body_memory: server.body_memory(),
        counted_consumers: document.metrics.consumers.as_ref().map_or(0, |count| count.value as usize),
        grace: server.grace.0,
        workers: server.workers.as_ref().map(|workers| usize::from(**workers)),
        cache_memory: usize::try_from(server.cache_memory.value.0).unwrap_or(usize::MAX),
        cache_disk: server.cache_disk.as_ref().map(|disk| Box::new(disk.settings())),
        cache_redis: server.cache_redis.as_ref().map(|redis| (answers, Box::new(redis.settings()))),
        upgrade_socket: server.upgrade_socket.clone(),
        admin,
        admin_token,
        keys: keys.zip(document.key_store.as_ref().map(|store| store.prefix.as_str().into())),
        consumers,
        access_log,
        service_metrics: services.keys().map(|key| (key.clone(), around.metrics.service(key))).collect(),
        services,
        redis,
        document: source.root.as_deref().map(node::redacted_json).unwrap_or_default(),
    })
}

struct Compiler<'a> {
    document: &'a Document,
    views: &'a views::Written,
    /// What was written, with what was refused of it.
    root: Option<&'a Node>,
    base: &'a Path,
    quota_log: PathBuf,
    around: &'a Surroundings,
    problems: &'a mut Problems,
    keys: Option<Arc<KeyStore>>,
    consumers: Arc<Consumers>,
    redis: Option<Arc<Redis>>,
    /// The Redis of the cache's own.
    answers: Option<Arc<Redis>>,
    services: BTreeMap<Arc<str>, Arc<Service>>,
    /// Everything under `services:`, what could not be had of it as well.
    service_names: Vec<Arc<str>>,
    global: Table,
    /// Each service's own policies.
    service_tables: HashMap<String, Table>,
    /// Plans of routes without policies of their own, by service: most routes share one.
    shared_plans: HashMap<String, Arc<Plan>>,
}

impl<'a> Compiler<'a> {
    fn new(
        document: &'a Document,
        views: &'a views::Written,
        root: Option<&'a Node>,
        base: &'a Path,
        around: &'a Surroundings,
        problems: &'a mut Problems,
    ) -> Self {
        let redis = document.redis.as_ref();
        let redis = redis.and_then(|redis| redis.compile(base, problems, &around.ledger, around.metrics.tallies()));
        let answers = document.server.cache_redis.as_ref().and_then(|cache| cache.redis.as_ref());
        let answers = answers.and_then(|redis| redis.compile(base, problems, &around.ledger, around.metrics.tallies()));
        let keys = document.key_store.as_ref().and_then(|store| {
            store.compile(keys::Setting {
                problems,
                place: store.place,
                ledger: &around.ledger,
                base,
                tallies: around.metrics.tallies(),
                background: around.background.as_ref(),
                redis: redis.as_ref(),
                redis_written: document.redis.is_some(),
            })
        });
        let issued = keys.as_ref().map(|keys| keys.issued().clone());
        let consumers = Arc::new(Consumers::compile(&document.consumers, METHODS, base, problems).with_issued(issued));
        let mut compiler = Compiler {
            document,
            views,
            root,
            base,
            quota_log: quota_log(document.server.quota_log.as_deref(), base),
            around,
            problems,
            keys,
            consumers,
            redis,
            answers,
            services: BTreeMap::new(),
            service_names: service_names(document, root),
            global: Table::default(),
            service_tables: HashMap::new(),
            shared_plans: HashMap::new(),
        };
        compiler.global = compiler.policies("global", document.policies.as_ref());
        compiler
    }

    fn doors(&mut self) -> Vec<Arc<ActiveListener>> {
        let mut doors: Vec<Arc<ActiveListener>> = Vec::new();
        if self.document.listeners.is_empty() && self.section("listeners").is_none_or(|written| written.items().is_empty()) {
            let problem = Problem::error(self.document.listeners.place, "there is no listener");
            self.problems.push(problem.hint("write `listeners: [ { bind: 0.0.0.0:8080 } ]`"));
        }
        for config in self.document.listeners.iter() {
            let Some(mut listener) = Listener::compile(config, self.base, self.problems) else { continue };
            listener.redirect = config.redirect.as_ref().map(|redirect| Redirect::compile(redirect, self.tls_port()));
            self.warn_of_clear_text(config, &listener.name);
            if let Some(twin) = doors.iter().find(|door| door.bind == listener.bind || door.name == listener.name) {
                let what = if twin.bind == listener.bind { "address" } else { "name" };
                let message = format!("two listeners have the same {what}, `{}`", listener.name);
                self.problems.push(Problem::error(config.bind.place, message));
                continue;
            }
            doors.push(self.door(listener));
        }
        doors
    }

    /// The port of the listener with TLS, if there is exactly one.
    fn tls_port(&self) -> Option<u16> {
        let https = |config: &ListenerConfig| config.tls.is_some() && !config.is_tcp();
        let mut ports = self.document.listeners.iter().filter(|config| https(config));
        let port = ports.next().and_then(|config| config.bind.rsplit_once(':')?.1.parse().ok());
        if ports.next().is_some() { None } else { port }
    }

    /// Whoever serves TLS hardly means to serve the same to those who do without, but where the clear text stays on this host or behind
    /// a proxy.
    fn warn_of_clear_text(&mut self, config: &ListenerConfig, name: &str) {
        let speaks_http = |listener: &ListenerConfig| !listener.is_tcp();
        let with_tls = self.document.listeners.iter().find(|other| other.tls.is_some() && speaks_http(other));
        let Some(with_tls) = with_tls.filter(|_| speaks_http(config)) else { return };
        let local = config.bind.parse::<SocketAddr>().is_ok_and(|bind| bind.ip().is_loopback());
        let behind = !config.trusted_proxies.is_empty() || config.proxy_protocol.is_some();
        // A route that names this listener alone is meant to be here.
        let both = |route: &RouteConfig| {
            let names = route.listeners.as_ref();
            names.is_none_or(|names| names.len() > 1 && names.iter().any(|listener| listener.value == name))
        };
        let shared = self.document.routes.iter().any(|route| both(route));
        if config.tls.is_none() && config.redirect.is_none() && !local && !behind && shared {
            let message = format!("this listener serves in clear text what `{}` serves over TLS", with_tls.bind.value);
            self.problems.push(Problem::warning(config.bind.place, message).hint("add `redirect: https` to it"));
        }
    }

    fn door(&self, listener: Listener) -> Arc<ActiveListener> {
        let guard = self.around.ledger.keep(&format!("guard:{}", listener.bind), Guard::new);
        let arrivals = self.around.ledger.keep(&format!("arrivals:{}", listener.bind), HeavyHitters::default);
        Arc::new(ActiveListener {
            head_limits: head_limits(&listener.limits),
            guard,
            arrivals,
            metrics: self.around.metrics.listener(&listener.name),
            listener,
            tcp: None,
        })
    }

    fn services(&mut self) {
        let server = &self.document.server;
        let zone = server.zone.as_ref().map(|zone| zone.value.as_str().into());
        let site = Site { zone, number: server.number.as_ref().map(|number| number.value) };
        for (name, config) in &self.document.services {
            let service = Service::compile_at(&site, name, config.place, config, self.base, self.problems, self.around.kept());
            if let Some(service) = service {
                self.services.insert(name.as_str().into(), service);
            }
            let table = self.policies(&format!("service:{name}"), config.policies.as_ref());
            self.service_tables.insert(name.clone(), table);
        }
        let refused = self.section("services").map(Node::entries).unwrap_or_default();
        for (key, node) in refused.iter().filter(|(key, _)| !self.document.services.contains_key(&key.text)) {
            self.look_through(&format!("service:{}", key.text), node);
        }
    }

    /// A section of the file as it was written.
    fn section(&self, name: &str) -> Option<&'a Node> {
        self.root.and_then(|root| root.get(name))
    }

    /// Says what is wrong with the policies of something that could not be had as a whole.
    fn look_through(&mut self, scope: &str, node: &Node) {
        if let Some(policies) = node.get("policies") {
            self.table(scope, "", policies);
        }
    }

    fn routes(&mut self, doors: &[Arc<ActiveListener>], bound: Option<&BoundHosts>) -> (RouteTables, Vec<Arc<Route>>) {
        let mut routes = Vec::with_capacity(self.document.routes.len());
        let mut matchers = Vec::with_capacity(self.document.routes.len());
        let serves = |listener: &ListenerConfig| !listener.is_tcp();
        if self.document.routes.is_empty() && self.document.listeners.iter().any(|listener| serves(listener)) {
            self.problems.push(Problem::warning(Place::NOWHERE, "there is no route: every request will be answered 404"));
        }
        let decoded: HashSet<Place> = self.document.routes.iter().map(|config| config.place).collect();
        for node in self.section("routes").map(Node::items).unwrap_or_default() {
            if !decoded.contains(&node.place()) {
                self.look_through("route:?", node);
            }
        }
        for (number, config) in self.document.routes.iter().enumerate() {
            let matcher = Matcher::compile(config, self.problems);
            self.listeners(config);
            let id = matcher.as_ref().map_or_else(|| Arc::from(&*config.path.value), |matcher| matcher.id().clone());
            let own = config.policies.as_ref().map(|Raw(node)| self.table(&format!("route:{id}"), &config.path.value, node));
            // Before it is known which view a request gets: a view's own plan has nothing that judges.
            let own = match &config.graphql {
                Some(graphql) => Some(self.with_guard(config, graphql.place, &id, own)),
                None => own,
            };
            if let Some(parameter) = config.view_parameter.as_ref().filter(|_| config.views.is_none()) {
                let problem = Problem::error(parameter.place, "`view_parameter` chooses among `views`, and the route has none");
                self.problems.push(problem.hint("write `views`, or take it out"));
            }
            let first = routes.len();
            let compiled = match self.views.get(&number) {
                None => self.route(config, (matcher.as_ref(), &id, None), own).map(|route| vec![route]),
                Some(views) => self.viewed(config, views, (matcher.as_ref(), &id, first), own),
            };
            let (Some(matcher), Some(compiled)) = (matcher, compiled) else { continue };
            self.ambiguous(config, &matcher);
            routes.extend(compiled.into_iter().map(Arc::new));
            matchers.push((first, matcher));
        }
        doors::warn(doors, bound, &matchers, &routes, self.document, self.problems);
        let listeners: Vec<Arc<str>> = doors.iter().map(|door| door.name.clone()).collect();
        (RouteTables::build(matchers, &listeners, self.problems), routes)
    }

    /// One route, or one of its views. `None` if something is wrong, which was said.
    fn route(
        &mut self,
        config: &'a Spanned<RouteConfig>,
        (matcher, id, view): (Option<&Matcher>, &Arc<str>, Option<&str>),
        own: Option<Table>,
    ) -> Option<Route> {
        let kept_as: Arc<str> = view.map_or_else(|| id.clone(), |view| format!("{id}#@{view}").into());
        let answer = self.answer(config, (id, &kept_as), own.as_ref());
        let answer = answer.and_then(|answer| self.guarded(config, id, answer));
        let answer = answer.and_then(|answer| self.retried(config, answer));
        let answer = answer.and_then(|answer| self.hedged(config, id, answer));
        let fallback = match &config.fallback {
            Some(fallback) => self.fallback(fallback, id).map(Some),
            None => Some(None),
        };
        let rewrite = matcher.and_then(|matcher| Rewrite::compile(config, matcher, self.problems));
        let back = self.rewrite_back(config, answer.as_ref());
        let (matcher, answer, fallback, back) = (matcher?, answer?, fallback?, back?);
        if let Some(none) = config.timeout.as_ref().filter(|timeout| timeout.value.is_zero()) {
            let problem = Problem::error(none.place, "`timeout` must be more than 0: no request would be answered");
            self.problems.push(problem.hint("leave it out for the listener's `timeouts.request`"));
        }
        let plan = refusing(self.plan(config, own, &answer), fallback.as_deref());
        self.look_for_proof(config, &answer, &plan);
        self.look_at_stand_in(config, &answer);
        self.warn_of_bounded_streams(config, &answer);
        if let Some(cached) = config.fallback.as_ref().and_then(|fallback| fallback.cached.as_ref())
            && plan.options.cache.is_none()
        {
            let problem =
                Problem::error(cached.place, "nothing was kept that this fallback could give: the route has no `cache`");
            self.problems.push(problem.hint("add `cache` to the route's policies"));
        }
        if plan.holds_answers && self.document.server.engine.value == Engine::Pingora {
            let message = "a policy of this route works on whole answers (`etag`, `answer_contract`, `reshape` with other steps than `keep` and `remove`), which cannot be had with `engine: pingora`";
            self.problems
                .push(Problem::error(config.path.place, message).hint("turn it off here, or take `engine` out of `server`"));
        }
        let made = self.made(config, (matcher, id), (plan, answer));
        Some(Route { kept_as, rewrite, back, fallback, ..made })
    }

    /// A route that has only been judged yet.
    fn made(&self, config: &RouteConfig, (matcher, id): (&Matcher, &Arc<str>), (plan, answer): (Arc<Plan>, Answer)) -> Route {
        Route {
            metrics: self.around.metrics.route(id),
            answers: answer.services().iter().map(|service| self.around.metrics.answers(id, &service.key)).collect(),
            id: id.clone(),
            kept_as: id.clone(),
            views: None,
            view: None,
            plan,
            answer,
            rewrite: None,
            back: None,
            fallback: None,
            timeout: config.timeout.as_ref().map(|timeout| timeout.value.0),
            stream: config.stream,
            buffer_request: config.buffer_request,
            names_listeners: matcher.names_listeners(),
            ambiguous_paths: config.ambiguous_paths,
            merge_slashes: config.merge_slashes,
        }
    }

    /// A route whose own path can be read in two ways serves nobody unless it says that it means what it says.
    fn ambiguous(&mut self, config: &RouteConfig, matcher: &Matcher) {
        let kept = |listener: &ListenerConfig| matches!(listener.ambiguous_paths, AmbiguousPaths::Keep);
        let keeps = match config.ambiguous_paths {
            Some(said) => said == AmbiguousPaths::Keep,
            None => self.document.listeners.iter().all(|listener| kept(listener)),
        };
        if !keeps && path::is_ambiguous(&matcher.template()) {
            let message =
                "some services read this path otherwise, so that requests for it may be refused (400, `ambiguous_path`)";
            self.problems.push(Problem::warning(config.path.place, message).hint("ambiguous_paths: keep"));
        }
    }

    /// Says of each listener that a route names whether there is one.
    fn listeners(&mut self, config: &RouteConfig) {
        for named in config.listeners.iter().flat_map(|names| &names.0) {
            if self.document.listener(&named.value).is_none() {
                self.unknown_listener(named);
            }
            self.named_for_http(named);
        }
    }

    fn unknown_listener(&mut self, named: &Spanned<String>) {
        let known = || self.document.listeners.iter().map(|listener| listener.name());
        let hint = match did_you_mean(&named.value, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the listeners are {}", known().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        self.problems.push(Problem::error(named.place, format!("unknown listener `{}`", named.value)).hint(hint));
    }

    /// A stream of gRPC's to a service that is not declared as gRPC is bounded as a whole, which nobody expects.
    fn warn_of_bounded_streams(&mut self, config: &RouteConfig, answer: &Answer) {
        // `/package.Service/...`
        let service =
            config.path.value.strip_prefix('/').and_then(|path| path.split_once('/')).map_or("", |(service, _)| service);
        let word = |word: &str| word.starts_with(|first: char| first.is_ascii_alphabetic()) && !word.contains(['{', '%', '-']);
        let looks_like_grpc = service.contains('.') && service.split('.').all(word);
        if looks_like_grpc && answer.services().iter().any(|service| service.protocol == Protocol::Http2) {
            let message = "this looks like gRPC, whose streams are bounded as a whole by `limits.body` and `bounds.max_body` on the way \
                           to a service with `protocol: http2`";
            let hint = "with `protocol: grpc` the bound is one on each message";
            self.problems.push(Problem::warning(config.path.place, message).hint(hint));
        }
    }

    fn admin(&mut self, doors: &[Arc<ActiveListener>]) -> Option<SocketAddr> {
        let admin = &self.document.admin;
        if !admin.enabled {
            return None;
        }
        match admin.bind.parse::<SocketAddr>() {
            Ok(address) => {
                if !address.ip().is_loopback() {
                    let message = "the admin API can be read without authentication, and this address is not a loopback one";
                    self.problems.push(Problem::warning(admin.bind.place, message).hint("bind it to 127.0.0.1 or [::1]"));
                }
                // Both could be bound, for sockets here share their port: clients would then reach the admin API every other time.
                if doors.iter().any(|door| shadow(door.bind, address)) {
                    let message = format!("the admin API and a listener cannot both be on `{address}`");
                    self.problems.push(Problem::error(admin.bind.place, message).hint("give `admin.bind` a port of its own"));
                }
                Some(address)
            }
            Err(_) => {
                let message = format!("`{}` is no address such as 127.0.0.1:9901", admin.bind.value);
                self.problems.push(Problem::error(admin.bind.place, message));
                None
            }
        }
    }

    /// The token's digest: comparing two of those takes the same time whatever is presented.
    fn admin_token(&mut self) -> Option<blake3::Hash> {
        let secret = self.document.admin.token.as_ref()?;
        let told = match secret.value.read(self.base) {
            Ok(token) if token.len() < SHORTEST_TOKEN => format!("`admin.token` has at least {SHORTEST_TOKEN} bytes"),
            Ok(token) if !token.iter().all(u8::is_ascii_graphic) => "`admin.token` is printable ASCII without spaces".to_owned(),
            Ok(token) => return Some(blake3::hash(&token)),
            Err(why) => why,
        };
        self.problems.push(Problem::error(secret.place, told).hint("openssl rand -hex 32"));
        None
    }

    /// A body that one client may not hold can never be read.
    fn body_memory(&mut self, doors: &[Arc<ActiveListener>], routes: &[Arc<Route>]) {
        let server = &self.document.server;
        let most = server.body_memory().per_address as u64;
        let unbounded = doors.iter().map(|door| door.limits.body).max().unwrap_or_default();
        let largest = routes.iter().flat_map(|route| {
            let whole = route.buffer_request.then(|| route.plan.options.max_body.unwrap_or(unbounded));
            let looked_at = route.plan.steps.iter().filter_map(|step| match &step.work {
                Work::Body(run) => Some(run.bound() as u64),
                _ => None,
            });
            whole.into_iter().chain(looked_at)
        });
        if let Some(largest) = largest.max().filter(|largest| *largest > most) {
            let place = server.buffered_bytes_per_address.as_ref().map_or(server.buffered_bytes.place, |size| size.place);
            let (largest, most) = (Size(largest), Size(most));
            let message =
                format!("bodies up to {largest} are read whole, and one client may hold {most}: larger ones are answered 503");
            self.problems
                .push(Problem::warning(place, message).hint("write `server: { buffered_bytes: ... }`, four times the largest"));
        }
    }

    fn cache_memory(&mut self) {
        let server = &self.document.server;
        let (place, size) = (server.cache_memory.place, server.cache_memory.value.0);
        let behind = server.cache_disk.as_ref().map(|_| "cache_disk");
        let behind = behind.or(server.cache_redis.as_ref().map(|_| "cache_redis"));
        let problem = match (size, behind) {
            (0, Some(behind)) => {
                let message = format!("with `cache_memory: 0` nothing is cached, and `{behind}` stays empty");
                Some(
                    Problem::error(place, message)
                        .hint("what goes there passes through memory: write at least 1MiB, or leave it out"),
                )
            }
            (1..LEAST_CACHE, _) => {
                let problem = Problem::error(place, "`cache_memory` is at least 1MiB: with less next to nothing can be kept");
                Some(problem.hint("write 1MiB or more, `0` for no cache at all, or leave it out for 64MiB"))
            }
            (LEAST_CACHE..LEAST_BEFORE_DISK, _) if server.cache_disk.is_some() => {
                let message = "with a `cache_memory` of less than 8MiB nothing gets to disk that is too long for memory";
                Some(Problem::warning(place, message).hint("write at least 8MiB"))
            }
            _ => None,
        };
        problem.into_iter().for_each(|problem| self.problems.push(problem));
    }

    fn bounds(&mut self) {
        let server = &self.document.server;
        if let Some(written) = &server.fast_lane {
            let message = "`fast_lane` has no effect: every request goes the same way";
            self.problems.push(Problem::warning(written.place, message).hint("leave it out"));
        }
        let mut within = |place: Place, good: bool, message: &str| {
            if !good {
                self.problems.push(Problem::error(place, message));
            }
        };
        if let Some(workers) = &server.workers {
            within(workers.place, (1..=512).contains(&workers.value), "`workers` is from 1 to 512");
        }
        if let Some(count) = &self.document.metrics.consumers {
            within(count.place, count.value <= 100_000, "`consumers` is at most 100000");
        }
        within(server.max_in_flight.place, server.max_in_flight.value > 0, "`max_in_flight` is at least 1");
        if let Some(most) = &server.max_in_flight_per_address {
            within(most.place, most.value > 0, "`max_in_flight_per_address` is at least 1");
        }
        within(server.buffered_bytes.place, server.buffered_bytes.value.0 > 0, "`buffered_bytes` is at least 1 byte");
        if let Some(most) = &server.buffered_bytes_per_address {
            within(most.place, most.value.0 > 0, "`buffered_bytes_per_address` is at least 1 byte");
        }
        if let Some(disk) = &server.cache_disk {
            let (path, size) = (&disk.path, &disk.max_size);
            within(
                path.place,
                Path::new(&path.value).is_absolute(),
                "`cache_disk.path` is an absolute path, as `/var/cache/portcullis`",
            );
            within(size.place, (64 << 20..=16 << 40).contains(&size.value.0), "`cache_disk.max_size` is from 64MiB to 16TiB");
            if let Some(deadline) = &disk.deadline {
                let good = (1..=5000).contains(&deadline.value.0.as_millis());
                within(deadline.place, good, "`cache_disk.deadline` is from 1ms to 5s");
            }
        }
        if let Some(redis) = &server.cache_redis {
            if let Some(deadline) = &redis.deadline {
                let good = (1..=1000).contains(&deadline.value.0.as_millis());
                within(deadline.place, good, "`cache_redis.deadline` is from 1ms to 1s");
            }
            if let Some(size) = &redis.max_body {
                within(size.place, (1 << 10..=32 << 20).contains(&size.value.0), "`cache_redis.max_body` is from 1KiB to 32MiB");
            }
        }
        within(server.grace.place, server.grace.0.as_secs() <= 3600, "`grace` is at most 1h");
        self.cache_memory();
        if let Some(redis) = server.cache_redis.as_ref().filter(|_| self.document.redis.is_none()) {
            let problem =
                Problem::error(redis.place, "`cache_redis` keeps answers in the Redis that gateways share, and there is none");
            self.problems.push(problem.hint("write `redis: { nodes: 10.0.0.5:6379 }` at the top level"));
        }
    }
}

/// What a route's fallback takes the place of is not kept for its clients either.
fn refusing(plan: Arc<Plan>, fallback: Option<&Fallback>) -> Arc<Plan> {
    match (&plan.options.cache, fallback.map(Fallback::statuses)) {
        (Some(cache), Some(statuses)) if !statuses.is_empty() => {
            let cache = Some(Arc::new(cache.refusing(statuses)));
            let mut plan = Arc::unwrap_or_clone(plan);
            plan.options.cache = cache;
            Arc::new(plan)
        }
        _ => plan,
    }
}

/// Every name under `services:`, also of what was refused: who names it there is not wrong.
fn service_names(document: &Document, root: Option<&Node>) -> Vec<Arc<str>> {
    let refused = root.and_then(|root| root.get("services")).map(Node::entries).unwrap_or_default();
    let known = document.services.keys().map(String::as_str).chain(refused.iter().map(|(key, _)| &*key.text));
    known.collect::<BTreeSet<_>>().into_iter().map(Arc::from).collect()
}

/// Where quotas are kept: if nobody says, in the folder that systemd gives a service for its state, else beside the configuration.
fn quota_log(path: Option<&str>, base: &Path) -> PathBuf {
    match (path, std::env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty())) {
        (Some(path), _) => base.join(path),
        (None, Some(folder)) => PathBuf::from(folder).join("quotas.log"),
        (None, None) => base.join("state/quotas.log"),
    }
}

/// Whether two addresses take each other's connections.
fn shadow(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits { head: limits.head, fields: limits.headers, target: limits.uri }
}

/// The process's metrics, labelled with what was built.
pub fn metrics() -> Arc<Metrics> {
    let tls = if cfg!(feature = "boringssl") { "boringssl" } else { "openssl" };
    Metrics::new(env!("CARGO_PKG_VERSION"), &[("tls", tls)])
}
