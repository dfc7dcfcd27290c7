//! What is counted, and the handles through which it is counted.
//!
//! Handles are looked up by name once, while a snapshot is compiled; a request then only adds to cells of its own thread. Asking
//! again for a name gives the same handle as long as any generation holds it, so that a reload does not reset a counter. The
//! series of what no generation holds any more vanish: a route that was removed, once its last request has ended.
//!
//! The number of series is bounded by the configuration and by the words in the program's text; nothing a client sends becomes a
//! label. Series appear with their first count, so that ten thousand idle routes cost a scrape nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};

use super::access_log::Stats;
use super::answers::AnswerMetrics;
use super::background::{Background, Fetched};
use super::collect::Scrape;
use super::consumers::Consumers;
use super::histogram::{Histogram, Totals};
use super::websockets::WebSocketMetrics;
use super::words::Words;
use crate::tally::Tallies;
use crate::tally::shard::{Counter, Sharded};

/// The methods that are told apart (RFC 9110, section 9, and RFC 5789); the rest is `other`.
pub(super) const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// `other` is a status that is none: the client was gone before there was one.
pub(super) const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// The route label of requests that no route matched, the door's refusals included.
pub const NO_ROUTE: &str = "-";

/// The most pairs of policy and reason.
const REFUSALS: usize = 1024;
/// The most pairs of one route. What has no place among them is counted under `other`.
const ROUTE_REFUSALS: usize = 48;
/// The most reasons to refuse a connection.
const FEW: usize = 64;

fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

pub(super) fn class_index(status: u16) -> usize {
    match status {
        100..=599 => usize::from(status / 100 - 1),
        _ => 5,
    }
}

/// What a cache can have done with a request ([`crate::cache::Outcome::word`]).
const STATES: [&str; 7] = ["hit", "miss", "bypass", "expired", "revalidated", "stale", "reloaded"];

/// Requests by what a cache did with them.
#[derive(Debug, Default)]
pub struct States([Counter; STATES.len()]);

impl States {
    fn count(&self, state: &str) {
        if let Some((_, counter)) = STATES.iter().zip(&self.0).find(|(known, _)| **known == state) {
            counter.add(1);
        }
    }

    /// Those that there were any of.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let all = STATES.iter().zip(&self.0).map(|(state, counter)| (*state, counter.sum()));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

/// One thread's counts of one route.
#[derive(Debug, Default)]
struct RouteShard {
    requests: [[AtomicU64; CLASSES.len()]; METHODS.len()],
    duration: Histogram,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Counts a route's requests. Takes about 800 bytes per thread that serves the route, and next to nothing before it is used.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(super) route: String,
    shards: Sharded<RouteShard>,
    /// Made with the first refusal.
    refusals: OnceLock<Words>,
    /// Made with the first request to a cache.
    cached: OnceLock<Box<CacheMetrics>>,
    /// Made with the first fetch that no client waits for.
    background: OnceLock<Box<Background>>,
    /// Made with the first WebSocket.
    websockets: OnceLock<Box<WebSocketMetrics>>,
}

/// What a route's cache did.
#[derive(Debug, Default)]
struct CacheMetrics {
    states: States,
    saved: Counter,
}

/// A route's counts, summed up.
#[derive(Debug, Clone, Default)]
pub struct RouteTotals {
    /// By method, then by status class.
    pub(super) requests: [[u64; CLASSES.len()]; METHODS.len()],
    pub duration: Totals,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl RouteTotals {
    pub fn requests(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }
}

impl RouteMetrics {
    fn new(route: &str) -> Self {
        RouteMetrics {
            route: route.to_owned(),
            shards: Sharded::default(),
            refusals: OnceLock::new(),
            cached: OnceLock::new(),
            background: OnceLock::new(),
            websockets: OnceLock::new(),
        }
    }

    /// What is counted of its WebSockets.
    pub fn websockets(&self, tallies: &Arc<Tallies>) -> &WebSocketMetrics {
        self.websockets.get_or_init(|| Box::new(WebSocketMetrics::new(tallies, &self.route)))
    }

    /// Counts a request by what the cache did, and what of the answer's body came from there.
    pub fn cached(&self, state: &'static str, saved: u64) {
        let cached = self.cached.get_or_init(Box::default);
        cached.states.count(state);
        if saved > 0 {
            cached.saved.add(saved);
        }
    }

    /// Requests by what the cache did, and the bytes that it gave.
    pub(super) fn cache(&self) -> Option<(Vec<(&'static str, u64)>, u64)> {
        let cached = self.cached.get()?;
        Some((cached.states.counts(), cached.saved.sum()))
    }

    /// Counts what came of a fetch that no client has waited for, and says what failed.
    pub fn fetched(&self, service: &str, fetched: &Fetched) {
        self.background.get_or_init(Box::default).count(&self.route, service, fetched);
    }

    /// Such fetches by what came of them.
    pub(super) fn background(&self) -> Vec<(&'static str, u64)> {
        self.background.get().map(|background| background.counts()).unwrap_or_default()
    }

    /// Counts a refusal on this route.
    pub fn refused(&self, policy: &'static str, reason: &'static str) {
        self.refusals.get_or_init(|| Words::new(ROUTE_REFUSALS)).counter(policy, reason).add(1);
    }

    pub(super) fn refusals(&self) -> Vec<((&'static str, &'static str), u64)> {
        self.refusals.get().map(Words::counts).unwrap_or_default()
    }

    /// Counts a request that has ended. `status` 0: there was no answer. `bytes_in` and `bytes_out` are body bytes from and to the
    /// client.
    pub fn observe(&self, method: &Method, status: u16, duration: Duration, bytes_in: u64, bytes_out: u64) {
        self.shards.with(|shard, adder| {
            if let Some(cell) = shard.requests.get(method_index(method)).and_then(|classes| classes.get(class_index(status))) {
                adder.add(cell, 1);
            }
            shard.duration.observe(duration, adder);
            adder.add(&shard.bytes_in, bytes_in);
            adder.add(&shard.bytes_out, bytes_out);
        });
    }

    pub fn totals(&self) -> RouteTotals {
        let mut totals = RouteTotals::default();
        for shard in self.shards.each() {
            for (sum, cell) in totals.requests.iter_mut().flatten().zip(shard.requests.iter().flatten()) {
                *sum += cell.load(Ordering::Relaxed);
            }
            totals.duration.add(&shard.duration);
            totals.bytes_in += shard.bytes_in.load(Ordering::Relaxed);
            totals.bytes_out += shard.bytes_out.load(Ordering::Relaxed);
        }
        totals
    }
}

/// Counts what a service's endpoints answer.
#[derive(Debug)]
pub struct ServiceMetrics {
    pub(super) service: String,
    duration: Sharded<Histogram>,
    pub(super) retries: Counter,
}

impl ServiceMetrics {
    fn new(service: &str) -> Self {
        ServiceMetrics { service: service.to_owned(), duration: Sharded::default(), retries: Counter::default() }
    }

    /// How long an attempt took, from the request sent to the answer's head, or to its failure.
    pub fn observe(&self, duration: Duration) {
        self.duration.with(|shard, adder| shard.observe(duration, adder));
    }

    /// Counts an attempt beyond a request's first.
    pub fn retried(&self) {
        self.retries.add(1);
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.duration.each().for_each(|shard| totals.add(shard));
        totals
    }
}

/// Whether an endpoint gets traffic. Healthy until said otherwise.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub(super) service: String,
    pub(super) endpoint: String,
    healthy: AtomicBool,
}

impl EndpointMetrics {
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

/// Counts a listener's connections.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(super) listener: String,
    pub(super) open: Counter,
    pub(super) refused: Words,
}

impl ListenerMetrics {
    fn new(listener: &str) -> Self {
        ListenerMetrics { listener: listener.to_owned(), open: Counter::default(), refused: Words::new(FEW) }
    }

    pub fn opened(&self) {
        self.open.add(1);
    }

    pub fn closed(&self) {
        self.open.sub(1);
    }

    /// How many are open now.
    pub fn connections(&self) -> u64 {
        self.open.level()
    }

    /// Counts a connection that was closed before it got to speak.
    pub fn refused(&self, reason: &'static str) {
        self.refused.counter(reason, "").add(1);
    }
}

/// Handles by name, for as long as someone holds them.
#[derive(Debug)]
struct Shelf<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf(Mutex::default())
    }
}

impl<T> Shelf<T> {
    fn keep(&self, key: String, new: impl FnOnce() -> T) -> Arc<T> {
        let mut shelf = self.0.lock();
        if let Some(known) = shelf.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(new());
        shelf.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    /// What is still held; the rest is forgotten.
    fn live(&self) -> Vec<Arc<T>> {
        let mut live = Vec::new();
        self.0.lock().retain(|_, weak| weak.upgrade().map(|held| live.push(held)).is_some());
        live
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Series {
    pub version: String,
    /// `name, value` pairs of `build_info`, the version aside.
    pub build: Vec<(&'static str, String)>,
    pub no_route: RouteMetrics,
    routes: Shelf<RouteMetrics>,
    answers: Shelf<AnswerMetrics>,
    pub consumers: Consumers,
    services: Shelf<ServiceMetrics>,
    endpoints: Shelf<EndpointMetrics>,
    listeners: Shelf<ListenerMetrics>,
    pub refusals: Words,
    pub cache: States,
    pub tls_failures: Counter,
    pub in_flight: Counter,
    pub reloads_applied: Counter,
    pub reloads_refused: Counter,
    /// The last one was applied.
    pub last_reload_applied: AtomicBool,
    /// When one was applied last, in seconds since 1970.
    pub last_applied_at: AtomicU64,
    pub generation: AtomicU64,
    pub access_log: OnceLock<Arc<Stats>>,
    pub tallies: Arc<Tallies>,
}

impl Series {
    pub fn routes(&self) -> Vec<Arc<RouteMetrics>> {
        self.routes.live()
    }

    pub fn answers(&self) -> Vec<Arc<AnswerMetrics>> {
        self.answers.live()
    }

    pub fn services(&self) -> Vec<Arc<ServiceMetrics>> {
        self.services.live()
    }

    pub fn endpoints(&self) -> Vec<Arc<EndpointMetrics>> {
        self.endpoints.live()
    }

    pub fn listeners(&self) -> Vec<Arc<ListenerMetrics>> {
        self.listeners.live()
    }
}

/// The process's metrics, shared by all generations.
#[derive(Debug)]
pub struct Metrics {
    series: Arc<Series>,
    registry: Registry,
}

impl Metrics {
    /// `version` and `build` are the labels of `portcullis_build_info`; label names are lower-case words.
    pub fn new(version: &str, build: &[(&'static str, &str)]) -> Arc<Self> {
        let series = Arc::new(Series {
            version: version.to_owned(),
            build: build.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            no_route: RouteMetrics::new(NO_ROUTE),
            routes: Shelf::default(),
            answers: Shelf::default(),
            consumers: Consumers::default(),
            services: Shelf::default(),
            endpoints: Shelf::default(),
            listeners: Shelf::default(),
            refusals: Words::new(REFUSALS),
            cache: States::default(),
            tls_failures: Counter::default(),
            in_flight: Counter::default(),
            reloads_applied: Counter::default(),
            reloads_refused: Counter::default(),
            last_reload_applied: AtomicBool::new(false),
            last_applied_at: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            access_log: OnceLock::new(),
            tallies: Arc::default(),
        });
        let registry = Registry::new();
        if let Err(error) = registry.register(Box::new(Scrape::new(series.clone()))) {
            log::error!("the metrics cannot be collected: {error}");
        }
        Arc::new(Metrics { series, registry })
    }

    /// The handle of a route, by its id.
    pub fn route(&self, route: &str) -> Arc<RouteMetrics> {
        self.series.routes.keep(route.to_owned(), || RouteMetrics::new(route))
    }

    /// For requests that no route matched, and for what the door refused.
    pub fn no_route(&self) -> &RouteMetrics {
        &self.series.no_route
    }

    /// The handle of one of a route's services.
    pub fn answers(&self, route: &Arc<str>, service: &Arc<str>) -> Arc<AnswerMetrics> {
        self.series.answers.keep(format!("{route}\n{service}"), || AnswerMetrics::new(route, service))
    }

    /// Counts a request of this consumer, of whom at most `most` are told apart.
    pub fn consumer(&self, consumer: &Arc<str>, status: u16, most: usize) {
        self.series.consumers.observe(consumer, status, most);
    }

    pub fn service(&self, service: &str) -> Arc<ServiceMetrics> {
        self.series.services.keep(service.to_owned(), || ServiceMetrics::new(service))
    }

    pub fn endpoint(&self, service: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        self.series.endpoints.keep(format!("{service}\n{endpoint}"), || EndpointMetrics {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            healthy: AtomicBool::new(true),
        })
    }

    pub fn listener(&self, listener: &str) -> Arc<ListenerMetrics> {
        self.series.listeners.keep(listener.to_owned(), || ListenerMetrics::new(listener))
    }

    /// Counts a refusal. Cheap: no lock, and no memory that other threads write.
    pub fn refusal(&self, policy: &'static str, reason: &'static str) {
        self.series.refusals.counter(policy, reason).add(1);
    }

    /// Counts a request by what the cache did: `hit`, `miss`, `stale` ...
    pub fn cache(&self, state: &'static str) {
        self.series.cache.count(state);
    }

    pub fn tls_handshake_failed(&self) {
        self.series.tls_failures.add(1);
    }

    /// A request has begun. Every call needs one of [`Metrics::request_ended`], on any thread.
    pub fn request_began(&self) {
        self.series.in_flight.add(1);
    }

    pub fn request_ended(&self) {
        self.series.in_flight.sub(1);
    }

    /// How many requests are being served.
    pub fn in_flight(&self) -> u64 {
        self.series.in_flight.level()
    }

    /// A new configuration was applied as `generation`.
    pub fn reload_applied(&self, generation: u64) {
        self.series.generation.store(generation, Ordering::Relaxed);
        self.series.reloads_applied.add(1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.series.last_applied_at.store(now.as_secs(), Ordering::Relaxed);
        self.series.last_reload_applied.store(true, Ordering::Relaxed);
    }

    /// A new configuration was refused.
    pub fn reload_refused(&self) {
        self.series.reloads_refused.add(1);
        self.series.last_reload_applied.store(false, Ordering::Relaxed);
    }

    /// When a configuration was applied last, in seconds since 1970, and whether the last attempt to load one succeeded.
    pub fn last_reload(&self) -> (u64, bool) {
        let series = &self.series;
        (series.last_applied_at.load(Ordering::Relaxed), series.last_reload_applied.load(Ordering::Relaxed))
    }

    /// Reports on this access log as well. The first one counts.
    pub fn watch_access_log(&self, stats: Arc<Stats>) {
        let _ = self.series.access_log.set(stats);
    }

    /// Forgets the names that no generation holds. A scrape does that too; call it after a reload in case nobody scrapes.
    pub fn sweep(&self) {
        self.series.routes();
        self.series.answers();
        self.series.services();
        self.series.endpoints();
        self.series.listeners();
    }

    /// Where rooms count what is theirs.
    pub fn tallies(&self) -> &Arc<Tallies> {
        &self.series.tallies
    }

    /// For collectors of other rooms.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in Prometheus's text format 0.0.4 (`Content-Type: text/plain; version=0.0.4`). Takes in the order of 50
    /// microseconds per busy route: not for a thread that serves requests.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            log::error!("the metrics cannot be written: {error}");
            String::new()
        })
    }
}

#[cfg(test)]
mod tests;
