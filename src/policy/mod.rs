//! The gauntlet: what a request must pass before a backend hears of it. One folder per stage; the order of the folders' stages
//! ([`Stage`]) is the order of execution, and it cannot be configured.
//!
//! A policy is one file: its configuration type, its compiled type, its refusals and its tests. It joins only the phases it works
//! in ([`PlanBuilder`]). Its line in [`registry`] gives the configuration key, the JSON Schema, `portcullis policies` and the
//! reference page.

pub mod admit;
pub mod authn;
pub mod authz;
pub mod edge;
pub mod registry;
pub mod response;
pub mod shape;
#[cfg(test)]
pub mod testing;
pub mod validate;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::consumers::Consumers;
use crate::context::Context;
use crate::exchange::Exchange;
pub use crate::exchange::Stage;
use crate::head::RequestHead;
use crate::ledger::Ledger;
use crate::problem::{Place, Problem, Problems, did_you_mean};
use crate::redis::Redis;
use crate::reply::Flow;
use crate::tally::Tallies;
use crate::upstream::Service;
use crate::upstream::call::Engine;
use crate::value::Spanned;
pub use response::{Follows, OnResponse, Outgoing};

/// A policy: how it is configured, compiled and installed.
pub trait Policy: Sized + Send + Sync + 'static {
    /// Its key under `policies:`.
    const NAME: &'static str;
    const STAGE: Stage;
    /// One line for `portcullis policies` and the reference.
    const SUMMARY: &'static str;
    /// What people write; `deny_unknown_fields`.
    type Config: DeserializeOwned + JsonSchema + Send + Sync + 'static;

    /// Turns the configuration into what runs. What is wrong goes to `cx.problems`; `None` only if something did.
    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self>;

    /// Whether it is about one service, however many it is written for: each then has its own ([`Policy::install_for`]).
    const PER_SERVICE: bool = false;

    /// Joins the phases in which this policy has work.
    fn install(self: Arc<Self>, plan: &mut PlanBuilder);

    /// Joins them for the requests to this service, where it is [`Policy::PER_SERVICE`].
    fn install_for(self: Arc<Self>, service: &Service, ledger: &Ledger, tallies: &Tallies, plan: &mut PlanBuilder) {
        let _ = (service, ledger, tallies);
        self.install(plan);
    }
}

/// What a policy may ask of its surroundings while it is compiled.
pub struct Compile<'a> {
    pub problems: &'a mut Problems,
    /// Where this policy was written.
    pub place: Place,
    /// What its state is kept under: `global`, `service:cart`, `route:/cart/*`. A reload that leaves the scope alone leaves its
    /// state alone.
    pub scope: &'a str,
    /// State that outlives generations.
    pub ledger: &'a Ledger,
    pub consumers: &'a Arc<Consumers>,
    /// The folder that relative file names count from: the configuration file's.
    pub base: &'a std::path::Path,
    /// The file in which quotas are kept.
    pub quota_log: &'a std::path::Path,
    /// Where the policy counts what is its own.
    pub tallies: &'a Arc<Tallies>,
    /// The path of the route that it is written for, without `/*`; empty elsewhere.
    pub prefix: &'a str,
    /// Where state may run tasks of its own: they hold it weakly, so that they end with it. `None` where nothing is served, as in `check`.
    pub background: Option<&'a tokio::runtime::Handle>,
    /// The Redis that gateways share: [`Compile::shared_redis`].
    pub redis: Option<&'a Arc<Redis>>,
    /// Whether faults may be injected: `server.fault_injection`.
    pub faults: bool,
    /// The names under `services:`: [`Compile::service`].
    pub services: &'a [Arc<str>],
    /// Whether there is a `redis:` in the configuration. With one that did not compile, nobody who needs it has to say so again.
    pub redis_written: bool,
}

impl Compile<'_> {
    /// What of it the rooms below the policies know.
    pub fn context(&mut self) -> Context<'_> {
        Context {
            problems: self.problems,
            place: self.place,
            scope: self.scope,
            base: self.base,
            ledger: self.ledger,
            tallies: self.tallies,
            background: self.background,
        }
    }

    /// The name of a service that is to be called, which has an entry under `services:`.
    pub fn service(&mut self, name: &Spanned<String>) -> Option<Arc<str>> {
        let known = self.services.iter().find(|known| ***known == *name.value);
        if known.is_none() {
            let problem = Problem::error(name.place, format!("there is no service `{}` under `services`", name.value));
            self.problems.push(match did_you_mean(&name.value, self.services.iter().map(|name| &**name)) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint("define it there, with its `endpoints`"),
            });
        }
        known.cloned()
    }

    /// Whether the route's path has the parameter that is written at `place`; elsewhere than at a route nobody knows.
    pub fn param(&mut self, name: &str, place: Place) -> bool {
        let known = self.prefix.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        if self.prefix.is_empty() || known.clone().any(|known| known == name) {
            return true;
        }
        let problem = Problem::error(place, format!("the route's path has no parameter {{{name}}}"));
        self.problems.push(match did_you_mean(name, known) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint("name it there: `path: /items/{id}`"),
        });
        false
    }

    /// The shared Redis, for what is written at `place` and needs it.
    pub fn shared_redis(&mut self, place: Place) -> Option<Arc<Redis>> {
        if self.redis.is_none() && !self.redis_written {
            let problem = Problem::error(place, "this needs a Redis, and there is none");
            self.problems.push(problem.hint("write `redis: { nodes: HOST:6379 }` at the top of the file"));
        }
        self.redis.cloned()
    }
}

/// Works on the head alone, without waiting.
pub trait OnRequest: Send + Sync {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow;
    /// Whether it has to know if there is a body where none is announced: it is waited for until something of it has come, or its end.
    fn asks_for_body(&self) -> bool {
        false
    }
}

/// Works on the head, and may have to wait for somebody else: another server, or its turn.
pub trait OnWait: Send + Sync {
    /// What can be said without waiting; `None` if there is something to wait for.
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow>;

    /// Called where [`OnWait::at_once`] said nothing. Dropped where it stands when the client goes away or the request's time is over,
    /// and must then leave nothing behind.
    /// `engine` is for whoever waits for a service.
    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, engine: Engine<'a>) -> Waiting<'a>;
}

/// The future of [`OnWait::wait`].
pub type Waiting<'a> = Pin<Box<dyn Future<Output = Flow> + Send + 'a>>;

/// Works on the whole request body, which is read into memory first, up to the bound.
pub trait OnBody: Send + Sync {
    /// The most bytes this policy takes; a longer body is refused with 413.
    fn bound(&self) -> usize;
    /// Whether this request's body has to be read at all.
    fn wants(&self, head: &RequestHead) -> bool;
    fn on_body(&self, head: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow;
    /// Whether a body that turns out to be longer than the bound goes on its way all the same, without having been looked at.
    fn passes_longer(&self) -> bool {
        false
    }
    /// It does now.
    fn on_longer(&self, _exchange: &mut Exchange) {}
    /// Whether it means what the body says, and not its bytes: it is shown what is behind the content codings, then.
    fn reads_content(&self) -> bool {
        false
    }
    /// Nobody can see what is behind them. `None`: that is refused.
    fn on_unreadable(&self, _head: &RequestHead, _exchange: &mut Exchange) -> Option<Flow> {
        None
    }
}

/// What a step does.
#[derive(Clone)]
pub enum Work {
    Head(Arc<dyn OnRequest>),
    Wait(Arc<dyn OnWait>),
    Body(Arc<dyn OnBody>),
    /// Chooses one of the route's views, whose steps are all that follows.
    View,
}

/// One installed step.
#[derive(Clone)]
pub struct Step {
    pub stage: Stage,
    pub name: &'static str,
    pub work: Work,
    /// The number of the one service of a split that this step is for. `None`: whoever answers.
    pub service: Option<u32>,
    /// It looks at a body before anybody has proved who he is, because that is what the proof is made of.
    pub proves: bool,
}

/// What a route does with a request, in the order in which it does it. Holds only the work that this route asked for.
#[derive(Clone, Default)]
pub struct Plan {
    /// In the order of the stages; within a stage, in the registry's.
    pub steps: Vec<Step>,
    /// What is done with its answers, in the registry's order.
    pub response: Vec<Arc<dyn OnResponse>>,
    /// A step may take an answer's whole body into memory.
    pub holds_answers: bool,
    /// The policies that work on answers, in the order in which they do.
    pub response_names: Vec<&'static str>,
    /// Every policy's name, in execution order, for `portcullis routes`.
    pub names: Vec<(Stage, &'static str)>,
    /// What policies set for the road itself.
    pub options: RouteOptions,
}

#[cfg(test)]
impl Plan {
    pub fn heads(&self) -> impl Iterator<Item = &Arc<dyn OnRequest>> {
        self.steps.iter().filter_map(|step| if let Work::Head(run) = &step.work { Some(run) } else { None })
    }

    pub fn bodies(&self) -> impl Iterator<Item = &Arc<dyn OnBody>> {
        self.steps.iter().filter_map(|step| if let Work::Body(run) = &step.work { Some(run) } else { None })
    }
}

/// What the road, rather than a step, has to obey.
#[derive(Clone, Default)]
pub struct RouteOptions {
    /// The longest request body in bytes, whatever its framing. `None`: the server's bound.
    pub max_body: Option<u64>,
    pub cache: Option<Arc<crate::cache::CachePolicy>>,
    /// Who answers the questions of browsers, before anything else is done.
    pub cors: Option<Arc<edge::cors::Cors>>,
    /// What refusals and errors look like to clients that want no problem document.
    pub error_pages: Option<Arc<shape::error_pages::ErrorPages>>,
    /// Who gets copies of the requests.
    pub mirror: Option<Arc<shape::mirror::Mirror>>,
    /// The document that the route is held to.
    pub openapi: Option<Arc<validate::openapi::Openapi>>,
    /// What a client may ask of GraphQL, and how it is told that it may not.
    pub graphql: Option<Arc<validate::graphql::Graphql>>,
    /// What WebSockets may do, where that is bounded.
    pub websocket: Option<Arc<edge::websocket::WebSocket>>,
    /// The query parameters that carry credentials: they go neither to the backend nor into a log.
    pub credential_queries: Vec<Arc<str>>,
    /// The header fields that carry credentials.
    pub credential_headers: Vec<http::HeaderName>,
    /// The fields of which a policy makes the value that the backend sees, for each client another one.
    pub per_client: Vec<http::HeaderName>,
    /// The fields under which this route's backends hear who the client is, beside those that every backend knows.
    pub identity_fields: Vec<http::HeaderName>,
    /// Whoever passes has proved who he is, or is taken for somebody.
    pub identified: bool,
    /// The request's credentials go to the backend as they came.
    pub forward_credentials: bool,
    /// Clients cannot prove who they are without a certificate.
    pub by_certificate: bool,
    /// A policy decides by the path in a way that nobody here can repeat for another reading of it.
    pub by_path: bool,
    /// A policy decides by what the path's parameters took.
    pub by_params: bool,
    /// A policy decides by the path, and asks itself again for every other reading of it ([`crate::exchange::Written`]).
    pub by_readings: bool,
}

/// Collects the steps of one route's plan.
pub struct PlanBuilder {
    plan: Plan,
    /// See [`PlanBuilder::on_response_as_seen`].
    as_seen: Vec<(&'static str, Arc<dyn OnResponse>)>,
    stage: Stage,
    name: &'static str,
    service: Option<u32>,
}

impl PlanBuilder {
    pub fn new() -> Self {
        PlanBuilder { plan: Plan::default(), as_seen: Vec::new(), stage: Stage::Edge, name: "", service: None }
    }

    /// Installs a policy under its own stage and name.
    pub fn add<P: Policy>(&mut self, policy: Arc<P>) {
        self.name::<P>();
        policy.install(self);
    }

    /// Installs a policy for the requests to one service.
    fn add_for<P: Policy>(&mut self, policy: Arc<P>, service: &Service, ledger: &Ledger, tallies: &Tallies) {
        self.name::<P>();
        policy.install_for(service, ledger, tallies, self);
    }

    fn name<P: Policy>(&mut self) {
        if registry::is_behind_contracts(P::NAME) {
            self.see();
        }
        self.stage = P::STAGE;
        self.name = P::NAME;
        if self.plan.names.last() != Some(&(P::STAGE, P::NAME)) {
            self.plan.names.push((P::STAGE, P::NAME));
        }
    }

    /// The steps that follow are for requests that go to this service of a split; `None` for all.
    pub(super) fn only_for(&mut self, service: Option<u32>) {
        self.service = service;
    }

    pub fn on_request(&mut self, run: Arc<dyn OnRequest>) {
        self.step(Work::Head(run));
    }

    /// Work on the head that is not done in the policy's own stage.
    pub fn on_request_at(&mut self, stage: Stage, run: Arc<dyn OnRequest>) {
        let own = std::mem::replace(&mut self.stage, stage);
        self.on_request(run);
        self.stage = own;
    }

    pub fn on_wait(&mut self, run: Arc<dyn OnWait>) {
        self.step(Work::Wait(run));
    }

    pub fn on_body(&mut self, run: Arc<dyn OnBody>) {
        self.step(Work::Body(run));
    }

    /// The same for a body that is part of the proof of who somebody is: it is read where it stands, and not late ([`read_late`]).
    pub fn on_proving_body(&mut self, run: Arc<dyn OnBody>) {
        self.step(Work::Body(run));
        self.plan.steps.last_mut().into_iter().for_each(|step| step.proves = true);
    }

    fn step(&mut self, work: Work) {
        self.plan.steps.push(Step { stage: self.stage, name: self.name, work, service: self.service, proves: false });
    }

    /// Adds work on answers.
    pub fn on_response(&mut self, run: Arc<dyn OnResponse>) {
        if self.plan.response_names.last() != Some(&self.name) {
            self.plan.response_names.push(self.name);
        }
        self.plan.response.push(run);
    }

    /// Adds work on answers as clients see them: in the place of `answer_contract`, behind all that gives them another shape.
    pub fn on_response_as_seen(&mut self, run: Arc<dyn OnResponse>) {
        self.as_seen.push((self.name, run));
    }

    fn see(&mut self) {
        for (name, run) in std::mem::take(&mut self.as_seen) {
            self.plan.response_names.push(name);
            self.plan.response.push(run);
        }
    }

    /// Says that a step takes whole bodies of answers into memory, which then counts as the client's.
    pub fn holds_answers(&mut self) {
        self.plan.holds_answers = true;
    }

    pub fn options(&mut self) -> &mut RouteOptions {
        &mut self.plan.options
    }

    /// Sorts by stage; within a stage, the registry's order stands. Here, and nowhere else, the cache hears of what the others do.
    pub fn finish(mut self) -> Plan {
        self.see();
        let options = &mut self.plan.options;
        if let Some(cache) = options.cache.as_mut().filter(|_| !options.per_client.is_empty()) {
            *cache = Arc::new(cache.beside(&options.per_client));
        }
        self.plan.steps.sort_by_key(|step| step.stage);
        read_late(&mut self.plan.steps);
        self.plan.names.sort_by_key(|(stage, _)| *stage);
        self.plan
    }
}

/// A body is not read for somebody who has not proved who he is and that he may: where a route asks for that, the steps that look into
/// bodies come after it, before the first that asks somebody else about the body.
fn read_late(steps: &mut Vec<Step>) {
    if !steps.iter().any(|step| matches!(step.stage, Stage::Authn | Stage::Authz)) {
        return;
    }
    let is_body = |step: &Step| matches!(step.work, Work::Body(_)) && !step.proves;
    let early = |step: &Step| is_body(step) && step.stage < Stage::Authz;
    let (mut bodies, mut rest): (Vec<_>, Vec<_>) = std::mem::take(steps).into_iter().partition(early);
    // A proof is of the bytes that came: it is looked at before anybody puts others in their place, or takes the trouble to read them.
    bodies.sort_by_key(|step| step.stage != Stage::Authn);
    let later = |step: &Step| step.stage > Stage::Authz || is_body(step);
    let number = rest.iter().position(later).unwrap_or(rest.len());
    rest.splice(number..number, bodies);
    *steps = rest;
}

impl Default for PlanBuilder {
    fn default() -> Self {
        Self::new()
    }
}
