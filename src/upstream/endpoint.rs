//! One address behind a service, and what is known about it: its health and what it is doing. Lives in the ledger, so that
//! reloads do not forget it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use smallvec::SmallVec;

use super::balance::latency::Latency;
use super::balance::peak_ewma;
use super::balance::slow_start::Arrival;
use super::gate::{Gate, Place};
use super::guard::Refused;
use super::health_config::Initial;
use super::outlier::{AttemptOutcome, Noted, Record};
use super::service::Service;
use crate::address::{EndpointAddress, HashedAddress};
use crate::breaker::{Breaker, BreakerView, Pass, State};
use crate::stripe::Striped;

/// What an attempt that failed counts as having taken, lest an endpoint that is quick to fail draws requests.
const FAILED: Duration = Duration::from_secs(5);
/// No weight was set while the gateway runs.
const AS_CONFIGURED: u32 = u32::MAX;

/// An endpoint: where requests go.
pub struct Endpoint {
    address: HashedAddress,
    /// The address as configured, `host:port` or `unix:PATH`.
    authority: Box<str>,
    /// The host as configured, if it is a name: the name TLS asks for and verifies.
    host: Option<Arc<str>>,
    /// Starts out true: a gateway that has just started sends requests before the first check is in, instead of refusing them all.
    healthy: AtomicBool,
    /// A check went well, once.
    proved: AtomicBool,
    /// An operator has taken it out: it gets no new requests.
    drained: AtomicBool,
    /// Left out for what came of its requests.
    ejected: AtomicBool,
    /// Left out because its circuit breaker is open.
    shut: AtomicBool,
    /// When a connection to it was overtaken by one to another address of its host.
    overtaken: Mutex<Option<Instant>>,
    pub(super) record: Record,
    /// Where each endpoint has one.
    breaker: OnceLock<Arc<Breaker>>,
    /// Where it has room for so many only.
    gate: OnceLock<Arc<Gate>>,
    checks: Mutex<Checks>,
    load: Striped<Load>,
    /// How long it takes to answer, as far as its service's balance wants to know.
    pub latency: Latency,
    /// Since when it is asked.
    pub(super) arrival: Arrival,
    /// Set while the gateway runs.
    weight: AtomicU32,
    /// All endpoints of its service, where it matters how much they have to do together.
    crowd: OnceLock<Arc<Crowd>>,
    /// How many of its requests the service's retry budget knows of.
    budgeted: AtomicU64,
}

/// How many requests are under way at the endpoints of a service together.
pub struct Crowd(Striped<AtomicI64>);

impl Default for Crowd {
    fn default() -> Self {
        Crowd(Striped::new(|_| AtomicI64::new(0)))
    }
}

impl Crowd {
    fn add(&self, count: i64) {
        if let Some(mine) = self.0.mine() {
            mine.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub fn size(&self) -> u64 {
        u64::try_from(self.0.iter().map(|part| part.load(Ordering::Relaxed)).sum::<i64>()).unwrap_or(0)
    }
}

/// What one thread has done with an endpoint.
struct Load {
    /// Begun minus ended. May be negative where requests end on another thread; only the sum over the threads means something.
    in_flight: AtomicI64,
    requests: AtomicU64,
    failures: AtomicU64,
}

#[derive(Default)]
struct Checks {
    /// How many checks in a row have contradicted the present state.
    against: u32,
    last: Option<CheckView>,
}

/// How many checks in a row it takes to change an endpoint's health. Both are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub healthy_after: u32,
    pub unhealthy_after: u32,
}

/// The last health check, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct CheckView {
    pub ok: bool,
    /// When it ended; written as RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub at: Timestamp,
    pub took_ms: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// An endpoint, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointView {
    pub address: EndpointAddress,
    /// As configured: differs from `address` where a name was resolved.
    pub configured: String,
    /// What counts now: 0 is drained.
    pub weight: u32,
    /// What the configuration says, where another weight was set since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_weight: Option<u32>,
    /// What a slow start leaves of the weight, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How many requests may be under way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// How many connections there are to it, or requests over HTTP/2, where they are bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occupied: Option<usize>,
    /// How many requests wait for one of them to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<usize>,
    /// How long it takes to answer, where the service's balance wants to know: an average that forgets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ewma_ms: Option<f64>,
    /// `up`, or why it gets no new requests: `drained`, `unhealthy`, `ejected` or `circuit_open`.
    pub state: &'static str,
    /// Why it is not `up`, or not for all requests, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What health checks say; without any, true.
    pub healthy: bool,
    pub drained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<BreakerView>,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Connections to it that wait for a request, at all workers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_connections: Option<usize>,
    /// Requests sent to it since it is known, counting retries.
    pub requests: u64,
    /// Those of them that the caller recorded as failed.
    pub failures: u64,
    pub last_check: Option<CheckView>,
}

/// How an endpoint is left out, for the admin API.
#[derive(Clone, Debug, Serialize)]
pub struct EjectionView {
    pub reason: &'static str,
    pub ends_in_ms: u64,
    /// How often in a row.
    pub times: u32,
}

impl Endpoint {
    pub fn new(address: EndpointAddress, authority: &str, host: Option<&str>) -> Self {
        Endpoint {
            address: address.into(),
            authority: authority.into(),
            host: host.map(Into::into),
            healthy: AtomicBool::new(true),
            proved: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            overtaken: Mutex::new(None),
            record: Record::default(),
            breaker: OnceLock::new(),
            gate: OnceLock::new(),
            checks: Mutex::default(),
            load: Striped::new(|_| Load {
                in_flight: AtomicI64::new(0),
                requests: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
            latency: Latency::default(),
            arrival: Arrival::default(),
            weight: AtomicU32::new(AS_CONFIGURED),
            crowd: OnceLock::new(),
            budgeted: AtomicU64::new(0),
        }
    }

    /// Replaces the configured weight, over reloads too; `None` brings it back. 0 drains the endpoint: it keeps the sticky sessions it
    /// has, and gets nothing else. Takes effect when the service's [`super::cluster::Board`] publishes.
    pub fn set_weight(&self, weight: Option<u32>) {
        self.weight.store(weight.unwrap_or(AS_CONFIGURED), Ordering::Relaxed);
    }

    /// The weight that was set, or else this one.
    pub fn weight_or(&self, configured: u32) -> u32 {
        match self.weight.load(Ordering::Relaxed) {
            AS_CONFIGURED => configured,
            weight => weight,
        }
    }

    /// From now on its requests count among those.
    pub fn join(&self, crowd: &Arc<Crowd>) {
        let _ = self.crowd.set(crowd.clone());
    }

    pub fn crowd(&self) -> Option<&Arc<Crowd>> {
        self.crowd.get()
    }

    pub fn address(&self) -> EndpointAddress {
        self.address.get()
    }

    pub fn hashed_address(&self) -> HashedAddress {
        self.address
    }

    /// The address as configured.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The `Host` of what the gateway itself asks of it: as configured, and `localhost` behind a Unix socket, which has no host.
    pub fn host_header(&self) -> &str {
        if self.address().is_unix() { "localhost" } else { &self.authority }
    }

    /// The host as configured, if it is a name.
    pub fn host(&self) -> Option<&Arc<str>> {
        self.host.as_ref()
    }

    /// When a connection to it was overtaken by one to another address of its host, and none has stood first since.
    pub(super) fn overtaken(&self) -> Option<Instant> {
        *self.overtaken.lock()
    }

    /// Notes who stood first.
    pub(super) fn note_overtaken(&self, at: Option<Instant>) {
        *self.overtaken.lock() = at;
    }

    /// Whether both are addresses of one host, and of different families.
    pub(super) fn is_of_other_family(&self, other: &Endpoint) -> bool {
        let families = self.address().inet().zip(other.address().inet());
        families.is_some_and(|(one, other)| one.is_ipv4() != other.is_ipv4()) && self.authority == other.authority
    }

    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// What health checks make of it. `initial` is what it counts as before the first good one.
    pub fn passes_checks(&self, initial: Initial) -> bool {
        self.healthy() && (initial == Initial::Healthy || self.proved.load(Ordering::Acquire))
    }

    /// Notes that a check went well. Whether it was the first one.
    pub(super) fn prove(&self) -> bool {
        !self.proved.load(Ordering::Acquire) && !self.proved.swap(true, Ordering::AcqRel)
    }

    /// The same host on another port. `None` behind a Unix socket, which has none.
    pub(super) fn at_port(&self, port: u16) -> Option<Endpoint> {
        let mut address = self.address().inet()?;
        address.set_port(port);
        Some(Endpoint::new(address.into(), &self.authority, self.host.as_deref()))
    }

    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Whether that changed anything.
    pub fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::AcqRel) != drained
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Acquire)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Ordering::Release);
    }

    /// Whether its circuit breaker is open.
    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// Whether that changed anything.
    pub(super) fn set_shut(&self, shut: bool) -> bool {
        self.shut.swap(shut, Ordering::AcqRel) != shut
    }

    /// Its own circuit breaker, in a service where each endpoint has one.
    pub(super) fn breaker(&self) -> &Arc<Breaker> {
        self.breaker.get_or_init(Arc::default)
    }

    /// Who may be there, in a service whose endpoints have room for so many.
    pub(super) fn gate(&self) -> &Arc<Gate> {
        self.gate.get_or_init(Arc::default)
    }

    /// Takes in the result of a check, and tells the new health if this check changed it.
    pub fn observe(&self, result: Result<(), String>, took: Duration, thresholds: Thresholds) -> Option<bool> {
        let ok = result.is_ok();
        let mut checks = self.checks.lock();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        checks.last = Some(CheckView { ok, at: Timestamp::now(), took_ms, error: result.err() });
        if ok == self.healthy() {
            checks.against = 0;
            return None;
        }
        checks.against = checks.against.saturating_add(1);
        let needed = if ok { thresholds.healthy_after } else { thresholds.unhealthy_after };
        if checks.against < needed {
            return None;
        }
        checks.against = 0;
        self.healthy.store(ok, Ordering::Release);
        Some(ok)
    }

    /// Forgets what checks said: the service is not checked any more.
    pub fn forget_checks(&self) {
        *self.checks.lock() = Checks::default();
        self.healthy.store(true, Ordering::Release);
    }

    /// Counts a request that begins.
    fn begin(&self) {
        if let Some(load) = self.load.mine() {
            load.in_flight.fetch_add(1, Ordering::Relaxed);
            load.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        if let Some(load) = self.load.mine() {
            load.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a request that failed: no connection, no answer, or whatever else the caller counts as this endpoint's fault.
    pub fn record_failure(&self) {
        self.count_failure();
        self.learn_failure();
    }

    /// Counts a failure that a client may have brought about: it does not make the endpoint look slow to everybody.
    pub fn count_failure(&self) {
        if let Some(load) = self.load.mine() {
            load.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets the balance know how long it took to answer. That it could not (502, 503, 504) counts as a failure.
    pub fn learn(&self, status: StatusCode, took: Duration, decay: Duration) {
        let failed = matches!(status.as_u16(), 502..=504);
        self.latency.observe(if failed { took.max(FAILED) } else { took }, Instant::now(), decay);
    }

    /// Lets the balance know that it takes at least so long: nobody has waited for the end.
    pub fn learn_at_least(&self, waited: Duration, decay: Duration) {
        let now = Instant::now();
        if self.latency.seconds(now, decay).is_none_or(|known| known < waited.as_secs_f32()) {
            self.latency.observe(waited, now, decay);
        }
    }

    /// Lets the balance know that it is no good at present.
    pub fn learn_failure(&self) {
        self.latency.observe(FAILED, Instant::now(), peak_ewma::DECAY);
    }

    /// Requests that are being answered now.
    pub fn in_flight(&self) -> u64 {
        let sum: i64 = self.load.iter().map(|load| load.in_flight.load(Ordering::Relaxed)).sum();
        // Threads are read one after the other: a request that ends meanwhile may be seen ending and not beginning.
        u64::try_from(sum).unwrap_or(0)
    }

    pub fn requests(&self) -> u64 {
        self.load.iter().map(|load| load.requests.load(Ordering::Relaxed)).sum()
    }

    /// How many requests have come since this was asked last: for the service's retry budget. Endpoints come and go, and so a sum over
    /// them says nothing of what is new.
    pub(super) fn new_requests(&self) -> u64 {
        let requests = self.requests();
        requests.saturating_sub(self.budgeted.swap(requests, Ordering::Relaxed))
    }

    pub fn failures(&self) -> u64 {
        self.load.iter().map(|load| load.failures.load(Ordering::Relaxed)).sum()
    }

    /// `checked`: what health checks say counts, and what it counts as before the first good one.
    pub fn view(&self, weight: u32, checked: Option<Initial>, circuit_breaker: Option<BreakerView>) -> EndpointView {
        let last_check = self.checks.lock().last.clone();
        let ejection = self.record.ejection().filter(|_| self.is_ejected()).map(|ejection| {
            let left = ejection.until.saturating_duration_since(Instant::now()).as_millis();
            let (reason, times) = (ejection.reason.as_str(), ejection.times);
            EjectionView { reason, ends_in_ms: u64::try_from(left).unwrap_or(u64::MAX), times }
        });
        let (state, why) = if self.is_drained() {
            ("drained", Some("by an operator".to_owned()))
        } else if weight == 0 {
            ("drained", Some("its weight is 0".to_owned()))
        } else if checked.is_some_and(|initial| !self.passes_checks(initial)) {
            let error = last_check.as_ref().and_then(|check| check.error.clone());
            ("unhealthy", error.or_else(|| Some("no check has gone well yet".to_owned()).filter(|_| self.healthy())))
        } else if let Some(ejection) = &ejection {
            ("ejected", Some(format!("{}, for {:.1} s more", ejection.reason, ejection.ends_in_ms as f64 / 1000.0)))
        } else if self.is_shut() {
            ("circuit_open", circuit_breaker.as_ref().and_then(|breaker| breaker.why.as_deref().map(str::to_owned)))
        } else {
            let half_open = circuit_breaker.as_ref().is_some_and(|breaker| breaker.state == State::HalfOpen.as_str());
            ("up", half_open.then(|| "its circuit breaker is half open".to_owned()))
        };
        EndpointView {
            address: self.address(),
            configured: self.authority.to_string(),
            weight,
            state,
            why,
            configured_weight: None,
            effective_weight: None,
            priority: None,
            zone: None,
            max_requests: None,
            occupied: self.gate.get().map(|gate| gate.there()),
            pending: self.gate.get().map(|gate| gate.waiting()),
            ewma_ms: None,
            healthy: self.healthy(),
            drained: self.is_drained(),
            ejection,
            circuit_breaker,
            in_flight: self.in_flight(),
            idle_connections: None,
            requests: self.requests(),
            failures: self.failures(),
            last_check,
        }
    }
}

/// An endpoint, as the requests of one thread hold it: the number of holders changes with every request, so threads do not share it.
pub struct EndpointRef(Arc<Endpoint>);

impl EndpointRef {
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        EndpointRef(endpoint)
    }
}

impl Deref for EndpointRef {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

/// A request on its way to an endpoint: counted as in flight until this is dropped.
pub struct InFlightGuard {
    endpoint: Arc<EndpointRef>,
    /// What the service's circuit breakers have let it through under, in their order.
    passes: SmallVec<[Pass; 1]>,
    /// What was noted of it.
    noted: Noted,
    /// Whether it counts among those of all endpoints: the crowd may be joined meanwhile.
    in_crowd: bool,
    /// Its place, where an endpoint has room for so many requests.
    place: Option<Place>,
}

impl InFlightGuard {
    /// Takes a place for as long as it lasts.
    pub(super) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    pub(super) fn holds(&self) -> bool {
        self.place.is_some()
    }

    pub fn begin(endpoint: Arc<EndpointRef>) -> Self {
        endpoint.begin();
        let crowd = endpoint.crowd();
        crowd.inspect(|crowd| crowd.add(1));
        let in_crowd = crowd.is_some();
        InFlightGuard { endpoint, in_crowd, passes: SmallVec::new(), noted: Noted::Nothing, place: None }
    }

    /// As [`InFlightGuard::begin`], if the service's circuit breakers let it.
    ///
    /// # Errors
    /// One of them is open.
    pub fn admit(endpoint: Arc<EndpointRef>, service: &Service) -> Result<Self, Refused> {
        let mut passes = SmallVec::new();
        for guard in &service.breakers {
            passes.push(guard.enter(&endpoint)?);
        }
        let mut flight = Self::begin(endpoint);
        flight.passes = passes;
        Ok(flight)
    }

    /// Notes what came of it. A second time if its answer breaks off.
    #[inline]
    pub fn note(&mut self, service: &Service, outcome: AttemptOutcome, took: Option<Duration>) {
        // By far the most: an answer, where nobody wants to know which.
        if service.notes_answers || outcome.is_local() {
            self.look_into(service, outcome, took);
        } else if self.noted == Noted::Nothing {
            let noted = self.endpoint.record.answered();
            self.noted = if outcome.is_failure() { Noted::Failed } else { noted };
        }
    }

    /// Notes that a connection to it was overtaken by one to another endpoint. That is about this one alone: the service is being reached.
    pub(super) fn note_unreachable_alone(&mut self, service: &Service) {
        let passes = std::mem::take(&mut self.passes);
        for (guard, mut pass) in service.breakers.iter().zip(passes).filter(|(guard, _)| guard.is_of_endpoints()) {
            if guard.note(&self.endpoint, &mut pass, AttemptOutcome::Unreachable, None) {
                service.cluster.board().wake();
            }
        }
        self.note(service, AttemptOutcome::Unreachable, None);
    }

    fn look_into(&mut self, service: &Service, outcome: AttemptOutcome, took: Option<Duration>) {
        if outcome.is_local() {
            self.endpoint.record_failure();
        }
        let mut look = false;
        if let Some(rules) = service.outliers.as_deref() {
            look = self.endpoint.record.note(rules, outcome, took, &mut self.noted);
        }
        for (guard, pass) in service.breakers.iter().zip(&mut self.passes) {
            look |= guard.note(&self.endpoint, pass, outcome, took);
        }
        if look {
            service.cluster.board().wake();
        }
    }

    /// Notes that it is well so far, for who has let it through to find out.
    pub fn note_begun(&mut self, service: &Service, took: Option<Duration>) {
        let well = AttemptOutcome::Status(StatusCode::OK);
        for (guard, pass) in service.breakers.iter().zip(&mut self.passes).filter(|(_, pass)| pass.is_probe()) {
            guard.note(&self.endpoint, pass, well, took);
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn held(&self) -> Arc<EndpointRef> {
        self.endpoint.clone()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.endpoint.end();
        if let Some(crowd) = self.endpoint.crowd().filter(|_| self.in_crowd) {
            crowd.add(-1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::new(([127, 0, 0, 1], 80).into(), "catalog:80", Some("catalog")))
    }

    fn check(endpoint: &Endpoint, ok: bool) -> Option<bool> {
        let result = if ok { Ok(()) } else { Err("refused".to_owned()) };
        endpoint.observe(result, Duration::ZERO, Thresholds { healthy_after: 2, unhealthy_after: 3 })
    }

    #[test]
    fn health_changes_only_after_enough_checks_in_a_row() {
        let endpoint = endpoint();
        assert_eq!([false, false, true, false, false].map(|ok| check(&endpoint, ok)), [None; 5]);
        assert!(endpoint.healthy());
        assert_eq!(check(&endpoint, false), Some(false));
        assert!(!endpoint.healthy());
        assert_eq!([true, false, true].map(|ok| check(&endpoint, ok)), [None; 3]);
        assert_eq!(check(&endpoint, true), Some(true));
        assert!(endpoint.healthy());
    }

    #[test]
    fn forgetting_gives_the_benefit_of_the_doubt() {
        let endpoint = endpoint();
        assert_eq!([false; 3].map(|ok| check(&endpoint, ok)), [None, None, Some(false)]);
        endpoint.forget_checks();
        assert!(endpoint.healthy());
        assert!(endpoint.view(1, Some(Initial::Healthy), None).last_check.is_none());
    }

    #[test]
    fn what_a_client_may_have_brought_about_makes_an_endpoint_look_slow_to_nobody() {
        let (of_clients, own) = (endpoint(), endpoint());
        of_clients.count_failure();
        own.record_failure();
        assert_eq!((of_clients.latency.last(), own.latency.last().is_some()), (None, true));
        let failures = |endpoint: &Endpoint| serde_json::to_value(endpoint.view(1, None, None)).unwrap()["failures"].clone();
        assert_eq!((failures(&of_clients), failures(&own)), (1.into(), 1.into()));
    }

    #[test]
    fn counts_requests_that_end_on_another_thread() {
        let endpoint = endpoint();
        let held = Arc::new(EndpointRef::new(endpoint.clone()));
        let (one, two) = (InFlightGuard::begin(held.clone()), InFlightGuard::begin(held));
        assert_eq!(endpoint.in_flight(), 2);
        std::thread::spawn(move || drop(one)).join().unwrap();
        assert_eq!(endpoint.in_flight(), 1);
        two.endpoint().record_failure();
        drop(two);
        let view = serde_json::to_value(endpoint.view(3, None, None)).unwrap();
        assert_eq!((&view["in_flight"], &view["requests"], &view["failures"]), (&0.into(), &2.into(), &1.into()));
        assert_eq!((&view["configured"], &view["weight"]), (&"catalog:80".into(), &3.into()));
    }
}
