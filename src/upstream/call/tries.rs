//! The attempts of one call: which endpoint is asked, how often, and what is recorded of it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::address::EndpointAddress;
use crate::grpc::{Dialect, GRPC_STATUS};
use crate::head::RequestHead;
use crate::reply::Reply;
use crate::retry::Why;
use crate::upstream::aim::Aim;
use crate::upstream::call::Broken;
use crate::upstream::call::transcoded::Transcoded;
use crate::upstream::gate::Place;
use crate::upstream::{AttemptOutcome, InFlightGuard, Picked, Service};

/// How often a call looks for another endpoint whose circuit breaker lets it through.
const MOST_TURNED_AWAY: u32 = 8;

/// What one call has tried so far. Connections that could not be made and kept connections that turned out to be dead are counted apart:
/// a dead connection says nothing about its endpoint, and has a second try of its own.
#[derive(Default)]
pub struct Tries {
    /// Every attempt, the first one among them.
    pub attempts: u32,
    /// The endpoint that was asked last.
    pub endpoint: Option<EndpointAddress>,
    /// When the last attempt's request was begun to be sent.
    pub started: Option<Instant>,
    /// Whoever was sent the request last has said that it did nothing about it. Then nobody has that was sent it before, or it is one that
    /// may be sent twice.
    pub undone: bool,
    /// When the request's time is over: no attempt is made for which there is none left.
    pub due: Option<tokio::time::Instant>,
    /// Why attempts were repeated, one after the other, for the log.
    pub why: String,
    /// Endpoints that could not be connected to.
    failed: Vec<EndpointAddress>,
    /// Endpoints that were asked in vain, those among them.
    tried: Vec<EndpointAddress>,
    next: Option<Picked>,
    /// What of the request decides where it goes, where its service wants to know.
    pub aim: Option<Box<Aim>>,
    /// A kept connection turned out to be dead, and the same was asked once more: an attempt that does not count against the service's
    /// retries, and that there is no second of.
    replayed: bool,
    flight: Option<InFlightGuard>,
    /// A circuit breaker has let nothing through, for so long.
    refused_for: Option<Duration>,
    /// What is known of the gRPC call whose end is awaited.
    call: Option<GrpcCall>,
    /// It is for nobody to wait for: a place is free at once, or it is not asked for.
    waits_for_nobody: bool,
    /// What came of a second copy of the request, if one was sent: `won` or `lost`.
    pub hedge: &'static str,
    /// The service was told of a deadline that the caller has set itself, and in another field than the request's.
    pub callers_deadline: bool,
    /// The call that the request was made into, where it was.
    pub transcoded: Option<Box<Transcoded>>,
}

/// A gRPC call whose status is behind its answer.
struct GrpcCall {
    /// Its client has set a deadline: that it is exceeded says nothing about the endpoint.
    own_deadline: bool,
    /// How long its head took.
    took: Option<Duration>,
    /// A message has come.
    answers: bool,
}

impl Tries {
    /// The endpoint that is asked now.
    pub fn flight(&self) -> Option<&InFlightGuard> {
        self.flight.as_ref()
    }

    fn pick(&self, service: &Service, exclude: &[EndpointAddress]) -> Option<Picked> {
        self.pick_as(service, exclude, !self.waits_for_nobody)
    }

    /// The same for who may wait for a place, or not.
    fn pick_as(&self, service: &Service, exclude: &[EndpointAddress], waits: bool) -> Option<Picked> {
        match &service.queue {
            None => service.pick_for(exclude, self.aim.as_deref()),
            Some(queue) => service.pick_open(exclude, self.aim.as_deref(), queue, waits),
        }
    }

    /// Takes a place at the endpoint for as long as the attempt.
    pub(super) fn hold(&mut self, place: Place) {
        if let Some(flight) = &mut self.flight {
            flight.hold(place);
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.flight.as_ref().is_some_and(InFlightGuard::holds)
    }

    /// Begins an attempt with the endpoint whose turn it is. `None` if none may be asked; see [`Tries::unavailable`].
    pub fn begin(&mut self, service: &Service) -> Option<&InFlightGuard> {
        (self.flight, self.refused_for, self.call) = (None, None, None);
        let mut next = self.next.take().or_else(|| self.pick(service, &self.failed));
        // Only where endpoints have circuit breakers of their own, and others take the last places for probes meanwhile.
        let mut turned_away = 0;
        while let Some(picked) = next {
            match picked.begin(service) {
                Ok(flight) => {
                    self.endpoint = Some(picked.addr);
                    if self.attempts > 0 {
                        // The endpoint counts it, and no client has asked for it.
                        service.retries.note_extra();
                    }
                    self.attempts += 1;
                    return Some(self.flight.insert(flight));
                }
                Err(refused) => {
                    self.refused_for = Some(self.refused_for.map_or(refused.left, |left| left.min(refused.left)));
                    if refused.whole {
                        return None;
                    }
                }
            }
            turned_away += 1;
            next = if turned_away < MOST_TURNED_AWAY { service.pick_admitted(&self.failed, self.aim.as_deref()) } else { None };
        }
        None
    }

    /// Why no attempt could be begun.
    pub fn unavailable(&self, service: &Service) -> Box<Reply> {
        match self.refused_for.or_else(|| service.shut_for()) {
            Some(left) => service.circuit_open(left),
            None => service.unavailable(),
        }
    }

    /// Notes that the request is about to be sent.
    pub(super) fn sends(&mut self) {
        (self.started, self.undone) = (Some(Instant::now()), false);
    }

    /// Begins an attempt with the same endpoint, whose kept connection was dead.
    pub fn again(&mut self, service: &Service) {
        self.note_again(service, Why::Stale);
        self.attempts += 1;
    }

    /// For a second copy of a request that is under way: where it goes, which is not where the first one is. `None` if there is nowhere.
    pub fn aside(&self, service: &Service) -> Option<Box<Tries>> {
        if service.is_tripped() {
            return None;
        }
        let mut tried = self.tried.clone();
        tried.extend(self.failed.iter().copied().chain(self.endpoint));
        let free = self.pick_as(service, &tried, false)?;
        Some(self.branch(free, tried))
    }

    /// For a second connection, beside one that is long in the making: to an address of the same host in the other family. `None` if there
    /// is none that may be asked.
    pub(super) fn to_other_family(&self, service: &Service) -> Option<Box<Tries>> {
        let endpoint = self.flight.as_ref()?.endpoint();
        if !self.may_retry(service) {
            return None;
        }
        let mut failed = self.failed.clone();
        failed.push(endpoint.address());
        let other = service.pick_of_other_family(&failed, self.aim.as_deref(), endpoint)?;
        Some(self.branch(other, failed))
    }

    /// What goes on beside this: it begins with `next`.
    fn branch(&self, next: Picked, failed: Vec<EndpointAddress>) -> Box<Tries> {
        let Tries { attempts, due, callers_deadline, .. } = *self;
        let next = Some(next);
        Box::new(Tries { attempts, due, callers_deadline, next, failed, waits_for_nobody: true, ..Tries::default() })
    }

    /// The second connection stands first, and is the one.
    pub(super) fn go_over_to(&mut self, service: &Service, other: Tries) {
        self.tried.extend(self.endpoint);
        self.note_again(service, Why::Connect);
        if !other.why.is_empty() {
            let _ = write!(self.why, ",{}", other.why);
        }
        self.failed = other.failed;
        (self.endpoint, self.flight, self.attempts) = (other.endpoint, other.flight, other.attempts);
    }

    /// No second connection could be made: what was tried for it is not tried again.
    pub(super) fn shun(&mut self, service: &Service, other: Tries) {
        if other.attempts > self.attempts {
            self.attempts = other.attempts;
            self.note_again(service, Why::Connect);
        }
        self.failed = other.failed;
        self.failed.retain(|address| Some(*address) != self.endpoint);
    }

    /// Notes that another endpoint has answered first, after this one was waited for so long.
    pub fn overtaken(&self, service: &Service, waited: Duration) {
        if let (Some(flight), Some(decay)) = (&self.flight, service.balance_decay) {
            flight.endpoint().learn_at_least(waited, decay);
        }
    }

    /// The second copy's answer is the one. The endpoint of the first is free again.
    pub fn go_on_as(&mut self, other: Tries) {
        self.tried.extend(self.endpoint);
        (self.endpoint, self.started, self.flight) = (other.endpoint, other.started, other.flight);
        (self.call, self.hedge) = (None, "won");
    }

    /// How many attempts were made because others had failed.
    pub fn retries(&self) -> u32 {
        self.attempts.saturating_sub(1 + u32::from(!self.hedge.is_empty()))
    }

    /// How long the endpoint has had the whole request. `uploaded`: when the client had sent the whole of a body.
    pub fn had(&self, uploaded: Option<Instant>) -> Option<Duration> {
        self.started.map(|started| uploaded.map_or(started, |uploaded| started.max(uploaded)).elapsed())
    }

    /// Notes an answer whose head has come, with a look at its fields. `uploaded`: when the client had sent the whole of a body.
    pub fn answered<'a>(
        &mut self,
        service: &Service,
        call: &RequestHead,
        status: StatusCode,
        field: impl Fn(&HeaderName) -> Option<&'a [u8]>,
        uploaded: Option<Instant>,
    ) {
        let took = if service.measures() { self.had(uploaded) } else { None };
        let Some(flight) = &mut self.flight else { return };
        let mut status = status;
        if let (Some(decay), Some(took)) = (service.balance_decay, took) {
            flight.endpoint().learn(status, took, decay);
        }
        let is_call = || field(&CONTENT_TYPE).is_some_and(|kind| Dialect::of(kind).is_grpc());
        if service.protocol.is_http2() && service.reads_calls() && is_call() {
            let own_deadline = self.callers_deadline || call.header("grpc-timeout").is_some();
            let Some(code) = field(&GRPC_STATUS) else {
                // Behind the body. The endpoint may have answered well so far, and still end with a failure.
                self.call = Some(GrpcCall { own_deadline, took, answers: false });
                return;
            };
            let Some(meant) = meant_by(code, own_deadline) else { return };
            status = meant;
            learn_of_call(service, flight, meant);
        }
        flight.note(service, AttemptOutcome::Status(status), took);
    }

    /// Whether it is a gRPC call of which no message has come.
    pub fn awaits_a_message(&self) -> bool {
        self.call.as_ref().is_some_and(|call| !call.answers)
    }

    /// Notes that something of an answer's body has come. The call may never end, and half-open breakers do not wait for that.
    pub fn body_came(&mut self, service: &Service) {
        let Some(call) = self.call.as_mut().filter(|call| !call.answers) else { return };
        call.answers = true;
        if let Some(flight) = &mut self.flight {
            flight.note_begun(service, call.took);
        }
    }

    /// Notes what came behind an answer's body.
    pub fn ended_with(&mut self, service: &Service, trailers: &HeaderMap) {
        let Some(GrpcCall { own_deadline, took, .. }) = self.call.take() else { return };
        let meant = trailers.get(GRPC_STATUS).and_then(|code| meant_by(code.as_bytes(), own_deadline));
        if let (Some(status), Some(flight)) = (meant, &mut self.flight) {
            flight.note(service, AttemptOutcome::Status(status), took);
            learn_of_call(service, flight, status);
        }
    }

    /// Notes that a connection could be made on which no request is sent. That is all that will be known of the endpoint.
    pub fn connected(&mut self, service: &Service, took: Duration) {
        if let Some(flight) = &mut self.flight {
            flight.note(service, AttemptOutcome::Status(StatusCode::OK), Some(took));
            if let Some(decay) = service.balance_decay {
                flight.endpoint().learn(StatusCode::OK, took, decay);
            }
        }
    }

    /// Notes that the endpoint failed.
    pub fn failed(&mut self, service: &Service, outcome: AttemptOutcome) {
        if let Some(flight) = &mut self.flight {
            flight.note(service, outcome, None);
        }
    }

    /// Notes what a call that broke says of its endpoint.
    pub fn broke(&mut self, service: &Service, broken: &Broken) {
        if let Some(outcome) = broken.outcome() {
            self.failed(service, outcome);
        }
    }

    /// Notes that something went wrong that the client may have brought about.
    pub fn failed_for_the_client(&self) {
        if let Some(flight) = &self.flight {
            flight.endpoint().count_failure();
        }
    }

    /// Notes that an endpoint could not be connected to. Whether another one may be tried.
    pub fn connect_failed(&mut self, service: &Service) -> bool {
        self.unreachable(service);
        if !service.retries.is_for(Why::Connect) || !self.may_retry(service) {
            return false;
        }
        // Only if there is another one to ask: otherwise the failure itself is the better answer.
        self.next = self.pick(service, &self.failed);
        if self.next.is_some() {
            self.note_again(service, Why::Connect);
        }
        self.next.is_some()
    }

    /// Notes that alone.
    fn unreachable(&mut self, service: &Service) {
        if let Some(mut flight) = self.flight.take() {
            flight.note(service, AttemptOutcome::Unreachable, None);
        }
        self.failed.extend(self.endpoint);
        self.tried.extend(self.endpoint);
    }

    /// Notes that a connection to the endpoint was overtaken by one to another.
    pub(super) fn outpaced(&mut self, service: &Service) {
        if let Some(mut flight) = self.flight.take() {
            flight.note_unreachable_alone(service);
        }
        self.failed.extend(self.endpoint);
    }

    /// Where no other endpoint is left that could be connected to: how long to wait before the same are asked again, if somebody has
    /// said that they shall be. Behind one address there may be many.
    pub fn connect_again(&mut self, service: &Service) -> Option<Duration> {
        if !service.retries.is_explicit() || !service.retries.is_for(Why::Connect) || !self.may_retry(service) {
            return None;
        }
        let wait = self.wait(service, None)?;
        self.next = self.pick(service, &[]);
        self.next.as_ref()?;
        self.failed.clear();
        self.note_again(service, Why::Connect);
        Some(wait)
    }

    /// Plans another attempt at a request that was sent, and whose sender may ask for it twice: how long to wait before it. `None`: what
    /// came of this one is the answer. `asked`: how long the endpoint wants to be left alone.
    pub fn again_for(&mut self, service: &Service, why: Why, asked: Option<Duration>) -> Option<Duration> {
        if !service.retries.is_for(why) || !self.may_retry(service) {
            return None;
        }
        let wait = self.wait(service, asked)?;
        self.turn_elsewhere(service, why).then_some(wait)
    }

    /// How long to wait before the next attempt. `None` if there is no time left for it.
    fn wait(&self, service: &Service, asked: Option<Duration>) -> Option<Duration> {
        let wait = service.retries.backoff(self.attempts) + asked.unwrap_or_default();
        let fits = self.due.is_none_or(|due| tokio::time::Instant::now() + wait < due);
        fits.then_some(wait)
    }

    /// Picks an endpoint for another attempt: one that was not asked yet, or if there is none any that could be connected to.
    fn turn_elsewhere(&mut self, service: &Service, why: Why) -> bool {
        self.tried.extend(self.endpoint);
        self.next = self.pick(service, &self.tried).or_else(|| self.pick(service, &self.failed));
        if self.next.is_none() || !service.retries.spend(|| service.new_requests()) {
            self.next = None;
            return false;
        }
        // Free again while it is waited.
        self.flight = None;
        self.note_again(service, why);
        true
    }

    fn note_again(&mut self, service: &Service, why: Why) {
        service.retries.note(why);
        let comma = if self.why.is_empty() { "" } else { "," };
        let _ = write!(self.why, "{comma}{why}");
    }

    /// Notes that an endpoint refused the request before it did anything about it. Whether it may be asked for again, whole: another
    /// endpoint, or if there is none the same, for it may have meant no more than this connection.
    pub fn was_refused(&mut self, service: &Service) -> bool {
        if let Some(mut flight) = self.flight.take() {
            flight.note(service, AttemptOutcome::Broken, None);
        }
        self.undone = true;
        service.retries.is_for(Why::Refused) && self.may_retry(service) && self.turn_elsewhere(service, Why::Refused)
    }

    /// Whether the same request may be sent once more because a kept connection was dead. Once: the next one is a new connection.
    pub fn replay(&mut self) -> bool {
        !std::mem::replace(&mut self.replayed, true)
    }

    pub fn has_replayed(&self) -> bool {
        self.replayed
    }

    /// Whether the service allows another attempt.
    fn may_retry(&self, service: &Service) -> bool {
        let late = self.due.is_some_and(|due| due <= tokio::time::Instant::now());
        !late
            && !service.is_tripped()
            && self.retries() - u32::from(self.replayed).min(self.retries()) < service.retries.attempts()
    }

    /// What goes on when the request is over: its endpoint is not free before that is.
    pub fn leave(&mut self) -> Tries {
        Tries { attempts: self.attempts, endpoint: self.endpoint, flight: self.flight.take(), ..Tries::default() }
    }

    /// The call is over: its endpoint is free again.
    pub fn end(&mut self) {
        self.flight = None;
    }
}

/// Lets the balance know of a call that has failed with an answer of 200.
fn learn_of_call(service: &Service, flight: &InFlightGuard, meant: StatusCode) {
    if service.balance_decay.is_some() && matches!(meant.as_u16(), 502..=504) {
        flight.endpoint().learn_failure();
    }
}

/// Whether the head of an answer says that a gRPC call has failed at its service.
pub(super) fn is_failed_call<'a>(field: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> bool {
    field(&GRPC_STATUS).and_then(|code| meant_by(code, false)).is_some_and(|status| status.is_server_error())
}

/// What the head of an answer says of its endpoint: of a gRPC call that has failed at once, what its own status means.
pub fn meant<'a>(status: StatusCode, field: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> StatusCode {
    let is_call = || field(&CONTENT_TYPE).is_some_and(|kind| Dialect::of(kind).is_grpc());
    let code = if status.is_success() { field(&GRPC_STATUS).filter(|_| is_call()) } else { None };
    code.and_then(|code| meant_by(code, false)).unwrap_or(status)
}

/// The status of HTTP that says of an endpoint what this one of gRPC's does. `None` where it says nothing: the deadline was the client's.
fn meant_by(code: &[u8], own_deadline: bool) -> Option<StatusCode> {
    match code {
        b"2" | b"13" | b"15" => Some(StatusCode::INTERNAL_SERVER_ERROR),
        b"4" if own_deadline => None,
        b"4" => Some(StatusCode::GATEWAY_TIMEOUT),
        b"14" => Some(StatusCode::SERVICE_UNAVAILABLE),
        _ => Some(StatusCode::OK),
    }
}
