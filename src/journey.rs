//! One request's way through the gateway, as a sequence of named steps, the same for both protocols:
//! begin, route, the steps of its route; then it is forwarded to a service. Whatever happens, its log line is written
//! and it is counted when the [`Journey`] is dropped, so that no way out can be forgotten.

mod answering;
mod back;
mod content;
mod ends;
pub mod gauntlet;
mod own;
mod preflight;
mod record;
mod refusals;
mod spelled;
mod steps;
mod time;
mod viewed;

use std::borrow::Cow;
use std::cell::LazyCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, Method, StatusCode, header};

use crate::cache::policy::QueryKey;
use crate::cache::{self, CachePolicy};
use crate::carrier::strip_query_param;
use crate::core::WorkerState;
use crate::downstream::{ExchangeControl, seen_upstream};
use crate::exchange::{Connection, Exchange, RouteName, Verdict, is_identity};
use crate::grpc::web::Web;
use crate::grpc::{Dialect, GRPC_STATUS, connect};
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::listen::forwarded::{self, Hop};
use crate::listen::trace::{self, Trace};
use crate::path::Handling;
use crate::policy::shape::mirror::Watch;
use crate::reply::{Flow, Page, Reply};
use crate::route::Found;
use crate::snapshot::{ActiveListener, Route};
use crate::upstream::call::{Tries, meant};
use crate::upstream::{AttemptOutcome, Protocol, Service};
use crate::wire::answer::AnswerHead;
pub use answering::Answered;
pub use back::Mending;
use content::Content;
pub use gauntlet::{Client, Places};
pub use own::Given;
pub use refusals::{ANSWER_BUDGET, CLIENT_CLOSED, CLIENT_STOPPED, body_refusal, no_memory, out_of_time, too_large};
use refusals::{misdirected, no_route};
pub use steps::Pause;
pub use time::TimeLimit;

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
    /// Where the answer was stored, if it came from there.
    pub cache_tier: &'static str,
    /// What stood in for the service's answer, if something did.
    pub fallback: &'static str,
    /// The status of a gRPC call, whoever gave it.
    pub grpc_status: Option<u32>,
    /// What was said through a tunnel, once it is closed.
    pub tunnelled: Option<Box<Tunnelled>>,
    /// How the route answered by itself, if it did.
    pub own: Option<&'static str>,
    /// What became of the parts that the answer is made of, if it is made of any.
    pub parts: Option<Box<str>>,
    /// The client went away in the middle of its answer.
    pub client_closed: bool,
    /// The version of HTTP in which the service answered.
    pub answered_in: http::Version,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// What was said through a WebSocket, and how it was closed.
pub struct Tunnelled {
    pub messages_in: u64,
    pub messages_out: u64,
    /// What the first close frame said, whoever sent it. `None` if there was none.
    pub code: Option<u16>,
    /// `client`, `service` or `gateway`.
    pub closed_by: &'static str,
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
    /// The service that is asked in the other one's place.
    pub stand_in: Option<Arc<Service>>,
    /// Of the exchange that is under way.
    pub control: Option<Arc<ExchangeControl>>,
    /// Looks at the answer, where a copy's answer is compared with it.
    pub compared: Option<Box<Watch>>,
    /// There is a copy of it, or there will be.
    pub mirrored: bool,
    /// Of a split, the number of the service that the request is for, once that is drawn: whether or not it is asked.
    pub share: Option<u32>,
    /// What this request may do with the cache, on a route that has one.
    pub cache_use: Option<crate::cache::Use>,
    /// Which stored answer it was given, or was made of what it was given; 0: none.
    pub stored: u64,
    /// When the deadline of a gRPC call passes.
    call_due: Option<Instant>,
    /// When that of any other request passes, where a trusted proxy has set one.
    asked_due: Option<Instant>,
    /// It ended by itself, in whatever way: it was not cut off with the process.
    ended: bool,
    /// How the client wants to be answered.
    pub dialect: Dialect,
    /// What a refusal looks like to the client, where it prefers something else to a problem document.
    page: Option<Arc<Page>>,
    /// How what a service of gRPC answers is told to a browser.
    pub web: Option<Web>,
    /// The 304 by which a backend said that a stored answer still holds.
    pub validation: Option<Box<cache::Validation>>,
    /// How many changes to the answer there were before there was one. `None` without an answer, or where no policy works on it.
    edits_before: Option<u32>,
    /// What was made of a coded body, or put in the place of any.
    content: Option<Box<Content>>,
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
                page: None,
                web: None,
                head,
                outcome: Outcome::default(),
                refusal: None,
                tries: Tries::default(),
                stand_in: None,
                control: None,
                compared: None,
                mirrored: false,
                share: None,
                cache_use: None,
                stored: 0,
                call_due: None,
                asked_due: None,
                ended: false,
                validation: None,
                edits_before: None,
                content: None,
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
        if !exchange.trusted_identity {
            // Who a client says that it is counts nowhere: no route, rule or placeholder looks at it. The reserved ones are only kept from the
            // services: one of them may be where a client's own credential is looked for.
            head.remove_fields(is_identity);
        }
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
        if self.head.method == Method::OPTIONS {
            self.check_preflight()?;
        }
        let listener = &self.exchange.connection.listener;
        let (table, told) = (self.view.snapshot.tables.of(listener), &mut self.exchange.to_client);
        // Whatever the answer is, a refusal included: a cache on the way may keep that one, too.
        let found = table.find_telling(&self.head, |names| told.push(HeaderEdit::Add(header::VARY, names.clone())));
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
                if let Some(rewrite) = &route.rewrite {
                    self.exchange.to_upstream.extend(back::prefix_told(rewrite, &self.head, self.exchange.trusted));
                }
                self.exchange.route = Some(RouteName { names: self.view.clone(), number: index });
                self.routed = Some(index);
                if route.back.is_some() {
                    match self.destination(index, route) {
                        Ok(destination) => destination.apply(&mut self.exchange),
                        Err(refusal) => return refusal.refuse(),
                    }
                }
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

    /// Notes the status that a backend gave a gRPC call, in its answer's head or behind its body.
    pub fn note_grpc_status(&mut self, fields: &http::HeaderMap) {
        let is_call = self.dialect.is_grpc() || self.tries.transcoded.is_some();
        let Some(status) = fields.get(GRPC_STATUS).filter(|_| is_call) else { return };
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

    pub fn cache_policy(&self) -> Option<&Arc<CachePolicy>> {
        self.route()?.plan.options.cache.as_ref()
    }

    /// What this request may do with its route's cache, and what it wants of it.
    pub fn cache_use(&self, policy: &CachePolicy) -> (cache::Use, cache::Wishes) {
        let Journey { view, head, exchange, .. } = self;
        let hides = || self.route().is_some_and(|route| !route.plan.options.forward_credentials);
        let own = || self.route().map_or(&[][..], |route| &route.plan.options.credential_headers);
        let (used, for_all) = use_of(&view.snapshot.credentials, head, exchange, policy, own, hides);
        match used {
            used @ cache::Use::Bypass(_) => (used, cache::Wishes::default()),
            used => match cache::Wishes::of(head, policy) {
                wishes if wishes.no_store => (cache::Use::Bypass(cache::Bypass::Asked), wishes),
                wishes => (used, cache::Wishes { for_all, ..wishes }),
            },
        }
    }

    /// What `Cache-Status` says of this outcome.
    pub fn cache_field(&self, outcome: cache::Outcome) -> http::HeaderValue {
        match self.cache_policy().and_then(|policy| policy.extra.as_deref()).filter(|extra| extra.shows_key) {
            Some(_) => self.keyed_field(outcome),
            None => outcome.field(),
        }
    }

    #[cold]
    fn keyed_field(&self, outcome: cache::Outcome) -> http::HeaderValue {
        let Some(route) = self.route() else { return outcome.field() };
        // A credential in the query is nobody's business, and where there is one it is not said which part of the query it is.
        let shown = self.view.snapshot.credentials.asked(&self.head).is_none();
        let query = self.cache_policy().filter(|_| shown).and_then(|policy| cache::key::query(&self.head, policy));
        let name = match route.answer.is_split() {
            true => Cow::Owned(format!("{}@{}", route.kept_as, route.answer.name(self.share))),
            false => Cow::Borrowed(&*route.kept_as),
        };
        outcome.field_with_key(&name, &self.head.host, &self.head.path, query.as_deref())
    }

    /// The key of what is stored for this request. Each service's answers are its own, so that of a split is drawn before.
    pub fn cache_key(&self, route: &Route, policy: &CachePolicy) -> cache::Key {
        let Journey { head, exchange, share, .. } = self;
        let kept_as = (&*route.kept_as, route.answer.name(*share));
        cache::key(head, exchange, |name| seen_upstream(head, exchange, name), kept_as, policy)
    }

    /// Draws, once, which of a split's services the request is for.
    #[inline]
    pub fn draw(&mut self) {
        let Journey { view, routed, head, exchange, share, .. } = self;
        if let Some(route) = view.route(*routed)
            && share.is_none()
            && route.answer.is_split()
        {
            *share = Some(route.answer.choose(head, exchange.client));
        }
    }

    /// The service that answers this request; for a split, chosen once, so that a retry stays with it, and so that asking which road
    /// to take does not draw lots a second time.
    pub fn choose_service<'a>(&mut self, view: &'a WorkerState) -> Option<&'a Service> {
        let answer = &view.route(self.routed)?.answer;
        self.draw();
        answer.service(*self.outcome.service.get_or_insert(self.share.unwrap_or_default()))
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

    /// Forgets what the cache has of the target that this request has changed, if a backend's answer says that it has. What is given back
    /// is to be waited for before the client hears of it.
    pub fn changed<'a>(
        &self,
        status: StatusCode,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Option<cache::disk::Noted> {
        if self.head.method.is_safe()
            || self.only_asks()
            || !self.view.snapshot.caches()
            || !(status.is_success() || status.is_redirection())
        {
            return None;
        }
        let names = |name: &[u8]| name.eq_ignore_ascii_case(b"location") || name.eq_ignore_ascii_case(b"content-location");
        let mending = LazyCell::new(|| self.mending());
        let named = fields.filter(|(name, _)| names(name)).map(|(_, value)| match &*mending {
            Some(mending) => mending.map(value),
            None => Cow::Borrowed(value),
        });
        let named: Vec<_> = named.collect();
        // What a WebDAV request has put elsewhere is new there, too.
        let put = self.head.header_all("destination").filter(|_| matches!(self.head.method.as_str(), "COPY" | "MOVE"));
        self.view.cache.changed(&self.head, self.exchange.scheme(), named.iter().map(|value| &**value).chain(put))
    }

    /// The route says that requests of this method change nothing.
    fn only_asks(&self) -> bool {
        self.cache_policy().is_some_and(|cache| cache.is_by_body(&self.head.method))
    }

    /// What an answer's tags say is for the gateway's cache, on a route that has one.
    pub fn hide_tags(&mut self, answer: &AnswerHead) {
        if self.hides_tags() && answer.headers().any(|(name, _)| cache::tags::is_one(name)) {
            self.exchange.to_client.extend(cache::tags::FIELDS.map(HeaderEdit::Remove));
        }
    }

    /// Whether clients do not see the tags of answers.
    pub fn hides_tags(&self) -> bool {
        self.cache_policy().is_some_and(|cache| !cache.keep_tags)
    }

    /// Notes that the service's endpoint failed.
    pub fn service_failed(&mut self, failure: AttemptOutcome) {
        let Journey { view, routed, outcome, tries, stand_in, .. } = self;
        let chosen = || view.route(*routed).and_then(|route| route.answer.service(outcome.service?));
        let service = stand_in.as_deref().or_else(chosen);
        if let Some(service) = service {
            tries.failed(service, failure);
        }
    }

    /// Notes that the request's time was over before it was answered. That is the service's fault if it had the request, whole, for most
    /// of that time; a client's own deadline says nothing. `uploaded`: when the client had sent the whole of a body.
    pub fn ran_out_of_time(&mut self, uploaded: Option<Instant>) {
        let whole = self.head.body == BodyFraming::None || uploaded.is_some();
        let (Some(limit), Some(had)) = (self.limit(), self.tries.had(uploaded)) else { return };
        if whole && self.outcome.upstream.is_none() && !self.is_late(Duration::ZERO) && had * 2 >= limit {
            self.service_failed(AttemptOutcome::TimedOut);
        }
    }

    /// Notes how long the service took. It does not before the client has sent the whole of its body.
    pub fn answer_began(&mut self, uploaded: Option<Instant>) {
        self.outcome.upstream = self.tries.had(uploaded);
    }

    /// Lets the service's sticky sessions know that the endpoint has answered.
    #[inline]
    pub fn endpoint_answered(&mut self, service: &Service, answer: &AnswerHead) {
        if service.sticky.is_some() {
            let is = |known: &[u8], name: &HeaderName| known.eq_ignore_ascii_case(name.as_str().as_bytes());
            let field = |name: &HeaderName| answer.headers().find(|(known, _)| is(known, name)).map(|(_, value)| value);
            self.bind(service, meant(answer.status, field), answer.header_all("set-cookie"));
        }
    }

    /// The same where the answer is another engine's. `status`: what it says of the endpoint.
    pub fn bind<'a>(&mut self, service: &Service, status: StatusCode, set_cookies: impl Iterator<Item = &'a [u8]>) {
        if service.sticky.is_none() {
            return;
        }
        // The cookie is of this answer, and goes if another one is given in its place.
        self.answer_begins();
        let Journey { tries, exchange, .. } = self;
        if let (Some(sticky), Some(aim), Some(flight)) = (&service.sticky, &tries.aim, tries.flight()) {
            let secure = exchange.told.as_ref().is_some_and(|told| told.scheme == "https");
            let cookie = sticky.answered(&aim.session, flight.endpoint().address(), status, set_cookies, secure);
            exchange.to_client.extend(cookie.map(|cookie| HeaderEdit::Add(header::SET_COOKIE, cookie)));
        }
    }

    /// Notes that it is over, and the bytes of both bodies.
    pub fn ended(&mut self, bytes_in: u64, bytes_out: u64) {
        self.ended = true;
        self.outcome.bytes_in = bytes_in;
        self.outcome.bytes_out = bytes_out;
    }

    /// A gRPC call, on a route to services that can speak it.
    pub fn is_grpc(&self) -> bool {
        let mut services = self.route().into_iter().flat_map(|route| route.answer.services());
        self.head.version == http::Version::HTTP_2
            && self.dialect == Dialect::Grpc
            && services.all(|service| service.protocol.is_http2())
    }

    /// A call of gRPC-Web to services that take gRPC alone: it is made one of theirs.
    pub fn is_web_call(&self) -> bool {
        let mut services = self.route().into_iter().flat_map(|route| route.answer.services()).peekable();
        self.dialect.is_web() && services.peek().is_some() && services.all(|service| service.protocol == Protocol::Grpc)
    }

    /// A call, whichever of the two.
    pub fn is_call(&self) -> bool {
        self.is_grpc() || self.is_web_call()
    }

    /// A gRPC call to services that take nothing else. On others the messages would be anything that a client says they are.
    pub fn is_made_of_messages(&self) -> bool {
        let mut services = self.route().into_iter().flat_map(|route| route.answer.services());
        self.is_grpc() && services.all(|service| matches!(service.protocol, Protocol::Grpc | Protocol::Auto))
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

/// What a request may do with a cache, and whether only what is for all is for it. `own`: the fields with credentials that its route has judged.
/// `hides`: whether its service is not shown the credentials that it brings in its query.
pub fn use_of<'a>(
    credentials: &cache::Credentials,
    head: &RequestHead,
    exchange: &Exchange,
    policy: &CachePolicy,
    own: impl FnOnce() -> &'a [http::HeaderName],
    hides: impl FnOnce() -> bool,
) -> (cache::Use, bool) {
    let shown = |name: &_| !seen_upstream(head, exchange, name).is_empty();
    match &policy.extra {
        Some(extra) => extra_use(extra, credentials, (head, exchange), policy, own, hides),
        None => {
            let form = cache::rules::form(head, policy, false);
            (cache::rules::request(form, head, exchange.identity.is_some(), credentials, policy, shown), false)
        }
    }
}

/// The same where the route asks more of its cache.
#[cold]
fn extra_use<'a>(
    extra: &cache::Extra,
    credentials: &cache::Credentials,
    (head, exchange): (&RequestHead, &Exchange),
    policy: &CachePolicy,
    own: impl FnOnce() -> &'a [http::HeaderName],
    hides: impl FnOnce() -> bool,
) -> (cache::Use, bool) {
    let shown = |name: &_| !seen_upstream(head, exchange, name).is_empty();
    let by_consumer = extra.per_consumer && exchange.identity.as_ref().is_some_and(|identity| identity.consumer.is_some());
    let form = cache::rules::form(head, policy, exchange.body_digest.is_some());
    let mut for_all = false;
    let used = match by_consumer {
        true => cache::rules::consumers(form, head, credentials, hides() || policy.query == QueryKey::All, shown),
        false => match cache::rules::request(form, head, exchange.identity.is_some(), credentials, policy, shown) {
            cache::Use::Bypass(cache::Bypass::Credentials) if extra.shared_with_auth => {
                for_all = true;
                cache::rules::sharing(form, head, credentials, policy, own(), shown)
            }
            used => used,
        },
    };
    let used = match used {
        cache::Use::Bypass(_) => used,
        _ if extra.bypasses(head, exchange) => cache::Use::Bypass(cache::Bypass::Rule),
        _ if extra.stores_nothing(head, exchange) => cache::Use::LookOnly,
        _ => used,
    };
    (used, for_all)
}

/// How the sender of this head wants to be answered. A call has a body, so most heads need not be searched.
fn dialect(head: &RequestHead) -> Dialect {
    let kind = match (head.body, head.version) {
        // A call is a POST, be there nothing in it.
        (BodyFraming::None, version) if version != http::Version::HTTP_2 && head.method != Method::POST => None,
        _ => head.header("content-type"),
    };
    match kind.map_or(Dialect::Plain, Dialect::of) {
        Dialect::Plain if !head.upgrade && connect::is_call(&head.method, kind, || says_version(head), head.query_bytes()) => {
            Dialect::Connect
        }
        dialect => dialect,
    }
}

fn says_version(head: &RequestHead) -> bool {
    head.header(connect::VERSION).is_some()
}

/// `query` without the parameters of these names.
fn without<'a>(query: &'a str, names: &[Arc<str>]) -> Cow<'a, str> {
    names.iter().fold(Cow::Borrowed(query), |query, name| Cow::Owned(strip_query_param(&query, name)))
}
