//! One request's way through the gateway, as a sequence of named steps, the same for both protocols:
//! begin, route, the steps of its route; then it is forwarded to a service. Whatever happens, its log line is written
//! and it is counted when the [`Journey`] is dropped, so that no way out can be forgotten.

mod ends;
pub mod gauntlet;
mod spelled;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderValue, StatusCode, header};

use crate::cache::{self, CachePolicy};
use crate::carrier::strip_query_param;
use crate::core::WorkerState;
use crate::downstream::{BODY_BUDGET, BODY_MALFORMED, BODY_TIMEOUT, BODY_TOO_LARGE, ExchangeControl, seen_upstream};
use crate::exchange::{Connection, Ending, Exchange, RouteName, Verdict};
use crate::grpc::{self, Dialect, GRPC_STATUS, GRPC_TIMEOUT};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::listen::forwarded::{self, Hop};
use crate::listen::trace::{self, Trace};
use crate::observe::Record;
use crate::observe::record::trace_id;
use crate::path::Handling;
use crate::policy::Work;
use crate::reply::{Flow, Reply};
use crate::route::Found;
use crate::snapshot::{ActiveListener, Route};
use crate::upstream::call::Tries;
use crate::upstream::{Protocol, Service};
use crate::wire::answer::AnswerHead;
pub use gauntlet::{Client, Places};

/// How it ended, for the log line and the metrics.
#[derive(Default)]
pub struct Outcome {
    pub status: u16,
    /// Who answered and why, if it was the gateway itself.
    pub verdict: Option<Verdict>,
    /// Which rule, limit, scope ... decided, if it was the gateway itself.
    pub decided_by: Option<Box<str>>,
    /// The service's number among those that answer the route.
    pub service: Option<u32>,
    pub upstream: Option<Duration>,
    /// How long the client took for its request, if it has a body.
    pub upload: Option<Duration>,
    /// Interim answers that the backend sent.
    pub interim: u32,
    pub cache: &'static str,
    /// The status of a gRPC call, whoever gave it.
    pub grpc_status: Option<u32>,
    /// The client went away in the middle of its answer.
    pub client_closed: bool,
    /// The version of HTTP in which the service answered.
    pub answered_in: http::Version,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// When a request's time is over.
#[derive(Clone, Copy)]
pub struct TimeLimit {
    /// An answer has ended by then, or has begun if it is a stream.
    pub answer: Option<tokio::time::Instant>,
    /// A stream, too, has ended by then: its client's own deadline.
    pub call: Option<tokio::time::Instant>,
}

/// Where a run of the steps came to rest.
pub enum Pause {
    Done(Flow),
    /// The step of this number has to wait.
    Wait(usize),
    /// The step of this number wants the body.
    Body(usize),
}

/// A request under way, and the one generation that it sees.
pub struct Journey {
    pub view: Arc<WorkerState>,
    pub head: Box<RequestHead>,
    /// The route's number in its generation; see [`WorkerState::route`].
    pub routed: Option<u32>,
    pub exchange: Exchange,
    pub outcome: Outcome,
    /// The answer that a hook of a stock server decided on, until it is written.
    pub refusal: Option<Box<Reply>>,
    /// How the service was asked.
    pub tries: Tries,
    /// Of the exchange that is under way.
    pub control: Option<Arc<ExchangeControl>>,
    /// What this request may do with the cache, on a route that has one.
    pub cache_use: Option<crate::cache::Use>,
    /// When a gRPC client's own deadline passes.
    call_due: Option<Instant>,
    /// It ended by itself, in whatever way: it was not cut off with the process.
    ended: bool,
    /// How the client wants to be answered.
    pub dialect: Dialect,
    /// The 304 by which a backend said that a stored answer still holds.
    pub validation: Option<Box<cache::Validation>>,
    /// The listener's bounds, where the route has none of its own.
    bounds: Bounds,
    wall: SystemTime,
}

/// The most that a request may take, unless its route says otherwise.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bytes.
    body: u64,
    time: Option<Duration>,
    paths: Handling,
}

impl Journey {
    /// The first step: who is asking from where, and under which id.
    pub fn begin(
        view: Arc<WorkerState>,
        door: &ActiveListener,
        connection: &Arc<Connection>,
        head: Box<RequestHead>,
    ) -> Box<Self> {
        let peer = connection.client.ip();
        let trusted = door.trusted_proxies.contains(peer);
        view.metrics.request_began();
        let (id, dialect) = (trace::request_id(&head, trusted), dialect(&head));
        let (wall, started) = (SystemTime::now(), Instant::now());
        let connection_held = connection.clone();
        let bounds = Bounds { body: door.limits.body, time: door.timeouts.request, paths: door.paths };
        // Made where it stays: it is large, and every move copies it. So nothing is called meanwhile: what unwinds in the middle of it would
        // have to drop its parts, and they would be made elsewhere first.
        let mut journey = Box::write(
            Box::new_uninit(),
            Journey {
                view,
                routed: None,
                exchange: Exchange::begun(connection_held, id, started),
                dialect,
                head,
                outcome: Outcome::default(),
                refusal: None,
                tries: Tries::default(),
                control: None,
                cache_use: None,
                call_due: None,
                ended: false,
                validation: None,
                bounds,
                wall,
            },
        );
        let Journey { view, head, exchange, .. } = &mut *journey;
        exchange.trusted = trusted;
        exchange.trusted_identity = door.trusted_identity.contains(peer);
        exchange.client = forwarded::real_client(peer, head, &door.trusted_proxies);
        let (secure, proxies) = (connection.tls.is_some(), trusted.then_some(&door.trusted_proxies));
        let scheme = forwarded::scheme(peer, secure, head, proxies);
        head.drop_default_port(scheme);
        let reserved = if exchange.trusted_identity { &[][..] } else { &view.snapshot.reserved_fields };
        let (client, local, via) = (exchange.client, connection.local, door.via.as_ref());
        let hop = Hop { peer, client, local, secure, scheme, proxies, reserved, via };
        exchange.told = Some(forwarded::told(connection, head, &hop, &mut exchange.to_upstream));
        let trace = Trace::of(head, false);
        trace.edits(head, &mut exchange.to_upstream);
        exchange.traceparent = trace.traceparent;
        journey
    }

    /// Chooses the route. 404 without one; 405 where only the method is wrong.
    pub fn choose_route(&mut self) -> Flow {
        self.check_first()?;
        let listener = &self.exchange.connection.listener;
        let found = self.view.snapshot.tables.of(listener).find(&self.head);
        if let Some(bound) = &self.view.snapshot.bound_hosts
            && bound.misdirected(&self.head.host, listener)
            && !matches!(&found, Found::Route { index, .. } if self.view.route(Some(*index)).is_some_and(|route| route.names_listeners))
        {
            return misdirected().refuse();
        }
        match found {
            Found::Route { index, params, .. } => {
                let Some(route) = self.view.route(Some(index)) else { return no_route() };
                if let Some(spelling) = &self.head.spelling {
                    let table = self.view.snapshot.tables.of(&self.exchange.connection.listener);
                    let judged =
                        spelled::Judge { view: &self.view, table, head: &self.head, spelling, listener: self.bounds.paths };
                    match judged.judge(index, route, &params) {
                        Ok(written) => self.exchange.written = Some(written),
                        Err(refusal) => return refusal.refuse(),
                    }
                }
                if !params.is_empty() {
                    self.exchange.params = params.into_iter().map(|(name, value)| (name.clone(), value.into())).collect();
                }
                let (exchange, head) = (&self.exchange, &self.head);
                let rewritten = route.rewrite.as_ref().and_then(|rewrite| rewrite.target(exchange.sent_path(head), head.query()));
                self.exchange.upstream_target = rewritten.or_else(|| spelled::target(exchange, head));
                if let Some(rewrite) = &route.rewrite {
                    self.exchange.upstream_host = rewrite.host().map(str::to_owned);
                }
                self.exchange.route = Some(RouteName { names: self.view.clone(), number: index });
                self.routed = Some(index);
                ControlFlow::Continue(())
            }
            Found::MethodNotAllowed { allow } => {
                Reply::new(StatusCode::METHOD_NOT_ALLOWED, "route", "method_not_allowed", "This path does not take this method.")
                    .header(header::ALLOW, allow)
                    .refuse()
            }
            Found::NotFound => no_route(),
        }
    }

    /// A body that is announced as too long for this route is refused before anything else is done.
    pub fn check_announced_length(&self) -> Flow {
        self.check_length(self.max_body())
    }

    /// Takes the deadline that a gRPC client sends along. It counts from the head's arrival, for the client cannot know more.
    pub fn take_call_deadline(&mut self) -> Flow {
        if !self.dialect.is_grpc() {
            return ControlFlow::Continue(());
        }
        let mut said = self.head.header_all("grpc-timeout");
        let Some(timeout) = said.next() else { return ControlFlow::Continue(()) };
        let Some(timeout) = grpc::read_timeout(timeout).filter(|_| said.next().is_none()) else {
            let detail = "The field grpc-timeout is malformed.";
            return Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_grpc_timeout", detail).refuse();
        };
        // One that no clock reaches is none.
        self.call_due = self.exchange.started.checked_add(timeout);
        if timeout.is_zero() { self.out_of_time().refuse() } else { ControlFlow::Continue(()) }
    }

    /// What is left of the client's own deadline, as the backend of a gRPC call is told. `None` where a policy has its own word on it.
    pub fn call_time_left(&self) -> Option<HeaderEdit> {
        let left = self.call_due?.saturating_duration_since(Instant::now());
        let said = self.exchange.to_upstream.iter().any(|edit| *edit.name() == GRPC_TIMEOUT);
        let left = HeaderValue::try_from(grpc::write_timeout(left)).ok().filter(|_| !said)?;
        Some(HeaderEdit::Set(GRPC_TIMEOUT, left))
    }

    /// Notes the status that a backend gave a gRPC call, in its answer's head or behind its body.
    pub fn note_grpc_status(&mut self, fields: &http::HeaderMap) {
        let Some(status) = fields.get(GRPC_STATUS).filter(|_| self.dialect.is_grpc()) else { return };
        self.outcome.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
    }

    /// As [`Journey::note_grpc_status`].
    pub fn note_call_status(&mut self, answer: &AnswerHead) {
        if self.dialect.is_grpc() {
            let is = |name: &[u8]| name.eq_ignore_ascii_case(GRPC_STATUS.as_str().as_bytes());
            let status = answer.headers().find(|(name, _)| is(name)).and_then(|(_, status)| std::str::from_utf8(status).ok());
            self.outcome.grpc_status = status.and_then(|status| status.parse().ok()).or(self.outcome.grpc_status);
        }
    }

    /// Whether the client's own time for this call (gRPC) is over, give or take so much.
    pub fn is_late(&self, leeway: Duration) -> bool {
        self.call_due.is_some_and(|due| due.saturating_duration_since(Instant::now()) <= leeway)
    }

    /// The answer once the request's time is over.
    pub fn out_of_time(&self) -> Box<Reply> {
        out_of_time(self.call_due.is_some_and(|due| due <= Instant::now()))
    }

    /// Runs the route's steps from number `from` on, up to the first that cannot be done at once.
    pub fn run(&mut self, from: usize) -> Pause {
        let Journey { view, routed, head, exchange, outcome, .. } = self;
        let Some(route) = view.route(*routed) else { return Pause::Done(Flow::Continue(())) };
        let steps = route.plan.steps.get(from..).unwrap_or_default();
        let Some(mut stage) = steps.first().map(|step| step.stage) else { return Pause::Done(Flow::Continue(())) };
        let mut since = Instant::now();
        let mut pause = Pause::Done(Flow::Continue(()));
        for (number, step) in (from..).zip(steps) {
            if let Some(service) = step.service {
                let chosen = *outcome.service.get_or_insert_with(|| route.answer.choose(head, exchange.client));
                if chosen != service {
                    continue;
                }
            }
            if step.stage != stage {
                let now = Instant::now();
                exchange.spent(stage, now - since);
                (stage, since) = (step.stage, now);
            }
            let flow = match &step.work {
                Work::Head(run) => run.on_request(head, exchange),
                Work::Wait(run) => match run.at_once(head, exchange) {
                    Some(flow) => flow,
                    None => {
                        pause = Pause::Wait(number);
                        break;
                    }
                },
                Work::Body(run) if !run.wants(head) => continue,
                Work::Body(_) => {
                    pause = Pause::Body(number);
                    break;
                }
            };
            if flow.is_break() {
                pause = Pause::Done(flow);
                break;
            }
        }
        exchange.spent(stage, since.elapsed());
        pause
    }

    /// Waits with the step of that number, for as long as the client and the request's time last.
    pub async fn wait(&mut self, number: usize, client: &mut impl Client) -> Flow {
        let limit = self.deadline().unwrap_or(Duration::MAX);
        let since = Instant::now();
        let Journey { view, routed, head, exchange, .. } = self;
        let step = view.route(*routed).and_then(|route| route.plan.steps.get(number));
        let Some((Work::Wait(run), stage)) = step.map(|step| (&step.work, step.stage)) else { return Flow::Continue(()) };
        let flow = tokio::select! {
            biased;
            flow = tokio::time::timeout(limit, run.wait(head, exchange)) => flow.map_err(|_| ()),
            _ = client.gone() => Ok(client_gone()),
        };
        exchange.spent(stage, since.elapsed());
        flow.unwrap_or_else(|()| self.out_of_time().refuse())
    }

    /// Shows the body to the step of that number. It is read whole by the first step that wants it; 413 beyond the smallest bound of
    /// all that will.
    pub async fn body(&mut self, number: usize, client: &mut impl Client) -> Flow {
        let limit = self.deadline().unwrap_or(Duration::MAX);
        let since = Instant::now();
        let Some(route) = self.route() else { return no_route() };
        let wanting = route.plan.steps.iter().skip(number).filter_map(|step| match &step.work {
            Work::Body(run) if run.wants(&self.head) => Some(run),
            _ => None,
        });
        let bound = wanting.map(|run| run.bound()).min().unwrap_or(usize::MAX);
        self.check_length(bound as u64)?;
        let body = match tokio::time::timeout(limit, client.buffer_body(bound)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return body_refusal(&error.etype).map_or_else(client_gone, Reply::refuse),
            Err(_) => return body_refusal(&BODY_TIMEOUT).map_or_else(client_gone, Reply::refuse),
        };
        let Journey { view, routed, head, exchange, .. } = self;
        let step = view.route(*routed).and_then(|route| route.plan.steps.get(number));
        let Some((Work::Body(run), stage)) = step.map(|step| (&step.work, step.stage)) else { return Flow::Continue(()) };
        let flow = run.on_body(head, &body, exchange);
        exchange.spent(stage, since.elapsed());
        flow
    }

    /// Whether the route wants the whole body before it asks a backend.
    pub fn buffers_request(&self) -> bool {
        self.route().is_some_and(|route| route.buffer_request) && !self.head.upgrade && !self.is_grpc()
    }

    /// Reads the whole body, for as long as the request's time lasts.
    pub async fn buffer_request(&self, client: &mut impl Client) -> Flow {
        let bound = usize::try_from(self.max_body()).unwrap_or(usize::MAX);
        self.in_time(async { client.buffer_body(bound).await.map(drop) }).await
    }

    /// Whether the body has to have begun before a backend is asked. Not where the backend's word comes first, or may.
    pub fn awaits_body(&self) -> bool {
        let interactive = self.head.expects_continue || self.head.upgrade || self.is_grpc() || self.expects_stream();
        !interactive && !matches!(self.head.body, BodyFraming::None | BodyFraming::Length(0))
    }

    /// Waits for the beginning of the body, for as long as the request's time lasts.
    pub async fn await_body(&self, client: &mut impl Client) -> Flow {
        self.in_time(client.await_body(self.head.body)).await
    }

    async fn in_time(&self, reading: impl Future<Output = pingora_error::Result<()>>) -> Flow {
        match tokio::time::timeout(self.deadline().unwrap_or(Duration::MAX), reading).await {
            Ok(Ok(())) => Flow::Continue(()),
            Ok(Err(error)) => body_refusal(&error.etype).map_or_else(client_gone, Reply::refuse),
            Err(_) => self.out_of_time().closing().refuse(),
        }
    }

    /// The longest body this request may have.
    pub fn max_body(&self) -> u64 {
        self.route().and_then(|route| route.plan.options.max_body).unwrap_or(self.bounds.body)
    }

    /// A declared length can be refused before a byte of it is read.
    fn check_length(&self, bound: u64) -> Flow {
        match self.head.body {
            BodyFraming::Length(length) if length > bound => too_large().refuse(),
            _ => ControlFlow::Continue(()),
        }
    }

    pub fn cache_policy(&self) -> Option<Arc<CachePolicy>> {
        self.route()?.plan.options.cache.clone()
    }

    /// What this request may do with its route's cache.
    pub fn cache_use(&self, policy: &CachePolicy) -> cache::Use {
        let Journey { view, head, exchange, .. } = self;
        let handed = |name: &_| !seen_upstream(head, exchange, name).is_empty();
        cache::rules::request(head, exchange.identity.is_some(), &view.snapshot.credentials, policy, handed)
    }

    /// The service that answers this request; for a split, chosen once, so that a retry stays with it, and so that asking which road
    /// to take does not draw lots a second time.
    pub fn choose_service<'a>(&mut self, view: &'a WorkerState) -> Option<&'a Service> {
        let answer = &view.route(self.routed)?.answer;
        let number = *self.outcome.service.get_or_insert_with(|| answer.choose(&self.head, self.exchange.client));
        answer.service(number)
    }

    /// The route that was chosen.
    pub fn route(&self) -> Option<&Route> {
        self.view.route(self.routed)
    }

    /// The service that was chosen.
    pub fn service(&self) -> Option<&Service> {
        self.route()?.answer.service(self.outcome.service?)
    }

    /// The target to ask the backend for: rewritten by the route, and without credentials that came in the query.
    pub fn upstream_target(&self) -> Option<String> {
        let rewritten = self.exchange.upstream_target.as_deref();
        let options = self.route().map(|route| &route.plan.options);
        let credentials =
            options.filter(|options| !options.forward_credentials).map_or(&[][..], |options| &options.credential_queries);
        if credentials.is_empty() {
            return rewritten.map(str::to_owned);
        }
        let (path, query) = match rewritten {
            Some(target) => target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query))),
            None => (self.head.path.as_str(), self.head.query()),
        };
        let query = query.map(|query| without(query, credentials)).filter(|query| !query.is_empty());
        Some(query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
    }

    /// The last policies' word on an answer that came from a backend or the cache.
    pub fn answered(&mut self, status: StatusCode) {
        self.outcome.status = status.as_u16();
        let Journey { view, routed, exchange, .. } = self;
        for step in view.route(*routed).iter().flat_map(|route| &route.plan.response) {
            step.on_response(status, exchange);
        }
    }

    /// Forgets what the cache has of the target that this request has changed, if a backend's answer says that it has.
    pub fn changed<'a>(&self, status: StatusCode, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        if self.head.method.is_safe() || !self.view.snapshot.caches || !(status.is_success() || status.is_redirection()) {
            return;
        }
        let names = |name: &[u8]| name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location");
        let named = fields.filter(|(name, _)| names(name)).map(|(_, value)| value);
        self.view.cache.changed(&self.head, self.exchange.scheme(), named);
    }

    /// Notes an answer of the gateway's own.
    pub fn refused(&mut self, reply: &Reply) {
        // An answer that has begun already, and cannot be given, has had its fields.
        if self.outcome.status == 0 {
            let Journey { view, routed, exchange, .. } = self;
            let plan = view.route(*routed).map_or(&view.snapshot.unrouted, |route| &route.plan);
            plan.response.iter().for_each(|step| step.on_refusal(exchange));
        }
        self.outcome.status = reply.status.as_u16();
        self.outcome.verdict = Some(Verdict { policy: reply.policy, reason: reply.reason });
        self.outcome.decided_by.clone_from(&reply.decided_by);
        if self.dialect.is_grpc() {
            self.outcome.grpc_status = Some(grpc::status(reply.status).into());
        }
    }

    /// Notes how long the service took. It does not before the client has sent the whole of its body.
    pub fn answer_began(&mut self, uploaded: Option<Instant>) {
        let asked = self.tries.started.map(|started| uploaded.map_or(started, |uploaded| started.max(uploaded)));
        self.outcome.upstream = asked.map(|asked| asked.elapsed());
    }

    /// Notes that it is over, and the bytes of both bodies.
    pub fn ended(&mut self, bytes_in: u64, bytes_out: u64) {
        self.ended = true;
        self.outcome.bytes_in = bytes_in;
        self.outcome.bytes_out = bytes_out;
    }

    /// How long the request may take, counted from its head's last byte. A gRPC call has a limit only where its route says so: it may
    /// stream for hours before it is answered, and brings a deadline of its client's.
    fn limit(&self) -> Option<Duration> {
        let own = self.route().and_then(|route| route.timeout);
        if self.is_grpc() { own } else { own.or(self.bounds.time) }
    }

    /// When the request's time is over.
    pub fn due(&self) -> TimeLimit {
        let answer = self.limit().and_then(|limit| self.exchange.started.checked_add(limit));
        let instant = tokio::time::Instant::from_std;
        TimeLimit { answer: answer.map(instant), call: self.call_due.map(instant) }
    }

    /// What is left of the request's time.
    pub fn deadline(&self) -> Option<Duration> {
        let left = self.limit().map(|limit| limit.saturating_sub(self.exchange.started.elapsed()));
        let call = self.call_due.map(|due| due.saturating_duration_since(Instant::now()));
        match (left, call) {
            (Some(left), Some(call)) => Some(left.min(call)),
            (left, call) => left.or(call),
        }
    }

    /// A gRPC call, on a route to services that can speak it.
    pub fn is_grpc(&self) -> bool {
        let mut services = self.route().into_iter().flat_map(|route| route.answer.services());
        self.head.version == http::Version::HTTP_2
            && self.dialect == Dialect::Grpc
            && services.all(|service| service.protocol.is_http2())
    }

    /// A gRPC call to services that take nothing else. On others the messages would be anything that a client says they are.
    pub fn is_made_of_messages(&self) -> bool {
        let mut services = self.route().into_iter().flat_map(|route| route.answer.services());
        self.is_grpc() && services.all(|service| service.protocol == Protocol::Grpc)
    }

    /// Its route says that every answer is a stream.
    pub fn expects_stream(&self) -> bool {
        self.route().is_some_and(|route| route.stream)
    }

    /// The client asks for a stream, on which silence is no fault: an upgrade, server-sent events or gRPC.
    pub fn asks_for_stream(&self) -> bool {
        let events = |accept: &[u8]| memchr::memmem::find(accept, b"text/event-stream").is_some();
        self.head.upgrade || self.expects_stream() || self.head.header("accept").is_some_and(events) || self.is_grpc()
    }
}

/// How the sender of this head wants to be answered. A call has a body, so most heads need not be searched.
fn dialect(head: &RequestHead) -> Dialect {
    match (head.body, head.version) {
        (BodyFraming::None, http::Version::HTTP_2) | (BodyFraming::Length(_) | BodyFraming::Streamed, _) => {
            head.header("content-type").map_or(Dialect::Plain, Dialect::of)
        }
        (BodyFraming::None, _) => Dialect::Plain,
    }
}

/// `query` without the parameters of these names.
fn without<'a>(query: &'a str, names: &[Arc<str>]) -> Cow<'a, str> {
    names.iter().fold(Cow::Borrowed(query), |query, name| Cow::Owned(strip_query_param(&query, name)))
}

fn no_route() -> Flow {
    Reply::new(StatusCode::NOT_FOUND, "route", "no_route", "No route matches this request.").refuse()
}

fn misdirected() -> Box<Reply> {
    let detail = "This host is served to clients with a certificate, on another connection.";
    Reply::new(StatusCode::MISDIRECTED_REQUEST, "route", "misdirected", detail)
}

pub fn too_large() -> Box<Reply> {
    Reply::new(StatusCode::PAYLOAD_TOO_LARGE, "bounds", "body_too_large", "The body is larger than this route accepts.")
}

/// The answer once the request's time is over; whether it is the client's own time.
pub fn out_of_time(clients_own: bool) -> Box<Reply> {
    let (reason, detail) = match clients_own {
        true => ("deadline_exceeded", "The call's deadline has passed."),
        false => ("request_timeout", "The request took longer than it may."),
    };
    Reply::new(StatusCode::GATEWAY_TIMEOUT, "door", reason, detail)
}

fn client_gone() -> Flow {
    Reply::new(CLIENT_CLOSED, "client", "client_closed", "The client closed the connection.").closing().refuse()
}

/// 499, as NGINX logs a client that went away before it had its answer. It is never sent.
pub const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// A client that took nothing of its answer until `timeouts.write` was over.
pub const CLIENT_STOPPED: Verdict = Verdict { policy: "client", reason: "client_write_timeout" };

/// The answer to a body that did not come as it should have; `None` if nobody is left to be answered.
pub fn body_refusal(kind: &pingora_error::ErrorType) -> Option<Box<Reply>> {
    if *kind == BODY_TOO_LARGE {
        Some(too_large().closing())
    } else if *kind == BODY_BUDGET {
        let detail = "The gateway has no memory left for another body.";
        let reply = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "door", "body_budget", detail);
        Some(reply.retry_after(Duration::from_secs(1)).closing())
    } else if *kind == BODY_TIMEOUT {
        let detail = "The request's body did not come in time.";
        Some(Reply::new(StatusCode::REQUEST_TIMEOUT, "door", "body_timeout", detail).closing())
    } else if *kind == BODY_MALFORMED {
        let detail = "The request's body is not framed as HTTP/1.1 says.";
        Some(Reply::new(StatusCode::BAD_REQUEST, "door", "malformed_body", detail).closing())
    } else {
        None
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        self.settle();
        let metrics = &self.view.metrics;
        metrics.request_ended();
        let took = self.exchange.started.elapsed();
        let outcome = &self.outcome;
        if !self.exchange.held.is_empty() {
            let answered_by = outcome.verdict.map(|verdict| verdict.policy);
            let ending = Ending { status: outcome.status, answered_by, upstream: outcome.upstream, took };
            self.exchange.held.drain(..).for_each(|held| held.release(&ending));
        }
        let route = self.route().map_or(metrics.no_route(), |route| &route.metrics);
        if let (Some(route), Some(service)) = (self.route(), outcome.service)
            && let Some(answers) = route.answers.get(service as usize)
        {
            answers.observe(outcome.status);
        }
        route.observe(&self.head.method, outcome.status, took, outcome.bytes_in, outcome.bytes_out);
        if let Some(verdict) = outcome.verdict {
            metrics.refusal(verdict.policy, verdict.reason);
            route.refused(verdict.policy, verdict.reason);
        }
        let most = self.view.snapshot.counted_consumers;
        if most > 0
            && let Some(consumer) = self.exchange.identity.as_ref().and_then(|identity| identity.consumer.as_ref())
        {
            metrics.consumer(consumer, outcome.status, most);
        }
        if !outcome.cache.is_empty() {
            metrics.cache(outcome.cache);
        }
        if (outcome.upstream.is_some() || self.tries.attempts > 1)
            && let Some(served) = self.service().and_then(|service| self.view.snapshot.service_metrics.get(&service.key))
        {
            if let Some(time) = outcome.upstream {
                served.observe(time);
            }
            (1..self.tries.attempts).for_each(|_| served.retried());
        }
        if self.view.access_log.is_on()
            && let Some(suppressed) = self.samples()
        {
            let query = self.loggable_query();
            self.view.access_log.write(&self.record(took, &query, suppressed));
        }
    }
}

impl Journey {
    /// A request that ends without an answer, or in the middle of one, ran out of time, or its client went away.
    fn settle(&mut self) {
        if let Some(control) = self.control.as_deref().filter(|_| !self.ended) {
            // It was dropped where it stood, before it could say so itself.
            (self.outcome.bytes_in, self.outcome.bytes_out) = control.moved();
        }
        let cut = self.control.as_ref().is_some_and(|control| control.is_cut()) || !self.ended && self.view.drain.is_over();
        if cut && self.outcome.verdict.is_none() {
            if self.outcome.status == 0 {
                self.outcome.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
            }
            self.outcome.verdict = Some(Verdict { policy: "door", reason: "shutdown" });
            return;
        }
        if self.outcome.status != 0 {
            return;
        }
        let (status, verdict) = (CLIENT_CLOSED, Verdict { policy: "client", reason: "client_closed" });
        self.outcome.status = status.as_u16();
        self.outcome.verdict = Some(verdict);
    }

    /// Whether this request is logged: all are, but for refusals beyond a rate. If so, how many of its client's were left out before it.
    fn samples(&self) -> Option<u64> {
        let refused = self.outcome.verdict.is_some_and(|verdict| verdict.policy != "client");
        if refused && (400..500).contains(&self.outcome.status) {
            return self.view.access_log.samples(self.exchange.client);
        }
        Some(0)
    }

    /// The query without any credential: also on a route that takes none there, and on no route at all, because a client that
    /// mistakes the path still sends its key.
    fn loggable_query(&self) -> Cow<'_, [u8]> {
        let snapshot = &self.view.snapshot;
        match self.head.query_bytes() {
            Some(query) if snapshot.access_log.query && snapshot.credential_queries.is_empty() => Cow::Borrowed(query),
            Some(_) if snapshot.access_log.query => {
                let query = without(self.head.query().unwrap_or_default(), &snapshot.credential_queries);
                Cow::Owned(query.into_owned().into_bytes())
            }
            _ => Cow::Borrowed(b""),
        }
    }

    fn record<'a>(&'a self, took: Duration, query: &'a [u8], suppressed: u64) -> Record<'a> {
        let (head, exchange, outcome) = (&self.head, &self.exchange, &self.outcome);
        let identity = exchange.identity.as_deref();
        Record {
            time: self.wall,
            request_id: exchange.request_id.as_bytes(),
            trace_id: trace_id(&exchange.traceparent),
            client: Some(exchange.client),
            peer: Some(exchange.connection.peer),
            listener: &exchange.connection.listener,
            protocol: if head.version == http::Version::HTTP_2 { "h2" } else { "h1" },
            tls: exchange.connection.tls.as_ref().map_or("", |tls| tls.version),
            host: head.host.as_bytes(),
            method: head.loggable_method().as_bytes(),
            path: head.path.as_bytes(),
            query,
            route: self.route().map_or("", |route| &route.id),
            service: self.service().map_or("", |service| &service.key),
            endpoint: self.tries.endpoint,
            consumer: identity.and_then(|identity| identity.consumer.as_deref()).unwrap_or_default(),
            subject: identity.map_or("", |identity| &identity.subject),
            credential: identity.map_or("", |identity| &identity.credential),
            status: outcome.status,
            answered_by: match outcome.verdict {
                Some(verdict) => verdict.policy,
                None if outcome.cache.starts_with("hit") => "cache",
                None => "upstream",
            },
            reason: outcome.verdict.map_or("", |verdict| verdict.reason),
            decided_by: outcome.decided_by.as_deref().unwrap_or_default(),
            suppressed,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration: took,
            upstream: outcome.upstream,
            upload: outcome.upload,
            stages: exchange.stages,
            retries: self.tries.attempts.saturating_sub(1),
            cache: outcome.cache,
            client_closed: outcome.client_closed,
            grpc_status: outcome.grpc_status,
            user_agent: head.header("user-agent").unwrap_or_default(),
            generation: self.view.snapshot.generation,
        }
    }
}
