//! `external_auth`: another service says whether a request may pass, over HTTP.
//!
//! What it is asked is like what Traefik's `forwardAuth`, nginx's `auth_request` and Envoy's HTTP `ext_authz` ask, so that services
//! written for them work here. What it may answer is bounded: named fields only, statuses that were named, 16 KiB, and until the
//! deadline. Its body is not looked at: a client that is refused gets the gateway's own, with the service's status and fields.
//!
//! It is a service of the gateway's, asked through the engine that calls all of them, or a URL, asked by a client of the policy's own. Either
//! way every worker has its own connections, because a request's future runs on its worker alone; they outlive a reload.

mod config;
mod decision;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

pub use self::config::{CacheConfig, ExternalAuthConfig, Fail, Ignore};

use self::config::{Checked, Whom};
use self::decision::{Decision, Memory, forbids_storing};
use crate::consumers::identity::{IdentityHeaders, remove_lookalikes};
use crate::exchange::{Exchange, is_identity};
use crate::head::{BodyFraming, HeaderEdit, HeaderEdits, RequestHead};
use crate::policy::{Compile, OnBody, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::{Counter, Tallies};
use crate::upstream::call::{Engine, Question};

const NAME: &str = "external_auth";
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// Idle connections of one worker, and how long they are kept. Shorter than what servers commonly allow.
const MAX_IDLE: usize = 64;
const IDLE: Duration = Duration::from_secs(30);

/// A body up to this length is read to its end, so that the connection can be used again.
const MAX_DRAIN: u64 = 64 * 1024;

/// The compiled policy.
pub struct ExternalAuth {
    rules: Checked,
    memory: Option<Memory>,
    way: Way,
    counts: Counts,
}

/// How the service is asked.
enum Way {
    /// Somewhere in the world, by a client of the policy's own.
    Url { url: reqwest::Url, clients: Arc<Clients> },
    /// A service of the gateway's, through the engine that calls all of them.
    Service { name: Arc<str>, target: Box<str>, host: Box<str> },
}

impl Policy for ExternalAuth {
    const NAME: &'static str = NAME;
    const STAGE: Stage = Stage::Authz;
    const SUMMARY: &'static str = "Asks another service whether a request may pass (the service's status, or 503).";
    type Config = ExternalAuthConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let rules = config.check(cx)?;
        let way = match &rules.whom {
            Whom::Service { name, target, host } => {
                Way::Service { name: name.clone(), target: target.clone(), host: host.clone() }
            }
            Whom::Url(url) => {
                let trust = rules.ca.as_deref().map(|pem| blake3::hash(pem).to_hex());
                let key = format!("{}/{NAME}/{url}/{}", cx.scope, trust.as_deref().unwrap_or_default());
                let clients = cx.ledger.keep(&key, || Clients {
                    https: url.scheme() == "https",
                    ca: rules.ca.clone(),
                    by_thread: Mutex::default(),
                });
                // Once, and not kept, so that certificates that cannot be used are a problem of the configuration.
                if let Err(error) = clients.build() {
                    let place = config.ca.as_ref().map_or(cx.place, |ca| ca.place);
                    cx.problems.push(Problem::error(place, format!("cannot make connections with this: {error}")));
                    return None;
                }
                Way::Url { url: url.clone(), clients }
            }
        };
        let memory = rules.cache.clone().map(|(ttl, entries, ignore)| Memory::new(ttl, entries, ignore));
        Some(ExternalAuth { counts: Counts::new(cx.tallies, cx.scope), rules, memory, way })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        // What the service judges by may be what the backend judges by, too.
        plan.options().per_client.extend(self.rules.upstream_headers.iter().chain(&self.rules.request_headers).cloned());
        plan.options().identity_fields.extend_from_slice(&self.rules.upstream_headers);
        if self.rules.body.is_some() {
            plan.on_body(self.clone());
        }
        // The service is told one path, and judges it in its own way.
        plan.options().by_path |= !self.rules.cache.as_ref().is_some_and(|(_, _, ignore)| ignore.contains(&Ignore::Path));
        plan.on_wait(self);
    }
}

/// Keeps the body for the question.
impl OnBody for ExternalAuth {
    fn bound(&self) -> usize {
        self.rules.body.unwrap_or_default()
    }

    fn wants(&self, head: &RequestHead) -> bool {
        head.body != BodyFraming::None
    }

    /// The service is told nothing of a coding.
    fn reads_content(&self) -> bool {
        true
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        exchange.body = Some(body.clone());
        Flow::Continue(())
    }
}

impl OnWait for ExternalAuth {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let memory = self.memory.as_ref()?;
        let known = memory.get(&memory.key(head, exchange, &self.rules.request_headers))?;
        self.counts.remembered.add(1);
        Some(self.apply(&known, head, exchange))
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, engine: Engine<'a>) -> Waiting<'a> {
        Box::pin(async move {
            let Some((decision, may_store)) = self.decision(head, exchange, engine).await else {
                return self.failed(head, exchange);
            };
            match decision {
                Decision::Allowed { .. } => self.counts.allowed.add(1),
                Decision::Denied { .. } => self.counts.denied.add(1),
            }
            let decision = Arc::new(decision);
            if let Some(memory) = self.memory.as_ref().filter(|_| may_store) {
                memory.put(memory.key(head, exchange, &self.rules.request_headers), decision.clone());
            }
            self.apply(&decision, head, exchange)
        })
    }
}

impl ExternalAuth {
    /// The decision, and whether it may be remembered. `None` for whatever is none: the service cannot be asked, is late, or says what it
    /// may not say.
    async fn decision(&self, head: &RequestHead, exchange: &mut Exchange, engine: Engine<'_>) -> Option<(Decision, bool)> {
        let method = if self.rules.body.is_some() { Method::POST } else { Method::GET };
        let mut fields = self.fields(head, exchange);
        let body = self.rules.body.map(|_| exchange.body.take().unwrap_or_default());
        if body.is_some()
            && let Some(kind) = head.header("content-type").and_then(|kind| HeaderValue::from_bytes(kind).ok())
        {
            fields.insert(http::header::CONTENT_TYPE, kind);
        }
        match &self.way {
            Way::Url { url, clients } => {
                let mut question = reqwest::Request::new(method, url.clone());
                *question.headers_mut() = fields;
                *question.body_mut() = body.map(Into::into);
                let client = clients.of_this_thread().ok()?;
                tokio::time::timeout(self.rules.timeout, self.ask_url(&client, question)).await.ok().flatten()
            }
            Way::Service { name, target, host } => {
                fields.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
                let question = Question { method, target, host, fields, body };
                let told = engine.ask(engine.services.get(name)?, question, exchange, self.rules.timeout).await?;
                self.judge(told.status, &told.fields)
            }
        }
    }

    fn judge(&self, status: StatusCode, fields: &HeaderMap) -> Option<(Decision, bool)> {
        Some((Decision::read(status, fields, &self.rules)?, !forbids_storing(fields)))
    }

    fn fields(&self, head: &RequestHead, exchange: &Exchange) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(16);
        // A client's word on who it is says no more here than to a backend.
        let believed = |name: &&HeaderName| exchange.trusted_identity || !is_identity(name.as_str().as_bytes());
        for name in self.rules.request_headers.iter().filter(believed) {
            for value in head.header_all(name.as_str()).filter_map(|value| HeaderValue::from_bytes(value).ok()) {
                fields.append(name.clone(), value);
            }
        }
        let target = match head.query() {
            Some(query) => format!("{}?{query}", head.path),
            None => head.path.clone(),
        };
        let client = exchange.client.to_canonical().to_string();
        for (name, value) in [
            ("x-forwarded-method", head.method.as_str().as_bytes()),
            ("x-forwarded-proto", exchange.scheme().as_bytes()),
            ("x-forwarded-host", head.authority()),
            ("x-forwarded-uri", target.as_bytes()),
            ("x-forwarded-for", client.as_bytes()),
            ("x-request-id", exchange.request_id.as_bytes()),
            ("traceparent", exchange.traceparent.as_slice()),
        ] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        if let Some(identity) = &exchange.identity {
            let mut edits = HeaderEdits::new();
            IdentityHeaders::of(identity).write(identity.method, &mut edits);
            for edit in edits {
                match edit {
                    HeaderEdit::Set(name, value) => drop(fields.insert(name, value)),
                    HeaderEdit::Add(name, value) => drop(fields.append(name, value)),
                    // The client may have been allowed to send a field of that name.
                    HeaderEdit::Remove(name) => drop(fields.remove(name)),
                }
            }
        }
        fields
    }

    async fn ask_url(&self, client: &reqwest::Client, question: reqwest::Request) -> Option<(Decision, bool)> {
        let mut answer = client.execute(question).await.ok()?;
        let judged = self.judge(answer.status(), answer.headers())?;
        if answer.content_length().is_some_and(|length| length <= MAX_DRAIN) {
            while let Ok(Some(_)) = answer.chunk().await {}
        }
        Some(judged)
    }

    fn apply(&self, decision: &Decision, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        match decision {
            Decision::Allowed { upstream, client } => {
                self.remove_forgeries(head, exchange);
                exchange.to_upstream.extend(upstream.iter().map(|(name, value)| HeaderEdit::Add(name.clone(), value.clone())));
                exchange.to_client.extend(client.iter().map(|(name, value)| HeaderEdit::Add(name.clone(), value.clone())));
                Flow::Continue(())
            }
            Decision::Denied { status, headers } => {
                let mut reply = Reply::new(*status, NAME, "external_auth_denied", "This request was refused.");
                reply.headers.extend(headers.iter().cloned());
                ControlFlow::Break(reply)
            }
        }
    }

    /// What the service says about a request, nobody else does.
    fn remove_forgeries(&self, head: &RequestHead, exchange: &mut Exchange) {
        let names = &self.rules.upstream_headers;
        exchange.to_upstream.extend(names.iter().map(|name| HeaderEdit::Remove(name.clone())));
        remove_lookalikes(head, names.iter(), &mut exchange.to_upstream);
    }

    fn failed(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        match self.rules.fail {
            Fail::Open => {
                self.counts.failed_open.add(1);
                self.remove_forgeries(head, exchange);
                Flow::Continue(())
            }
            Fail::Closed => {
                self.counts.failed_closed.add(1);
                let detail = "The service that authorizes requests cannot be asked.";
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, NAME, "external_auth_unavailable", detail).refuse()
            }
        }
    }
}

/// What became of the questions.
struct Counts {
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    remembered: Arc<Counter>,
    failed_open: Arc<Counter>,
    failed_closed: Arc<Counter>,
}

impl Counts {
    fn new(tallies: &Tallies, scope: &str) -> Self {
        let counter = |outcome| {
            let help = "Requests that another service was asked about, by outcome.";
            tallies.counter("portcullis_external_auth_total", help, &[("scope", scope), ("outcome", outcome)])
        };
        Counts {
            allowed: counter("allowed"),
            denied: counter("denied"),
            remembered: counter("remembered"),
            failed_open: counter("failed_open"),
            failed_closed: counter("failed_closed"),
        }
    }
}

/// One client for each thread that asks.
struct Clients {
    https: bool,
    ca: Option<Vec<u8>>,
    by_thread: Mutex<HashMap<ThreadId, reqwest::Client>>,
}

impl Clients {
    fn of_this_thread(&self) -> reqwest::Result<reqwest::Client> {
        let thread = std::thread::current().id();
        if let Some(known) = self.by_thread.lock().get(&thread) {
            return Ok(known.clone());
        }
        let client = self.build()?;
        self.by_thread.lock().insert(thread, client.clone());
        Ok(client)
    }

    fn build(&self) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            // A redirect is an answer for the client, or none at all; and the environment's proxy is nobody to tell credentials.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .http1_max_headers(100)
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_idle_timeout(IDLE);
        builder = match (&self.ca, self.https) {
            (Some(pem), _) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?),
            // Without TLS the system's certificates need not be read.
            (None, false) => builder.tls_certs_only([]),
            (None, true) => builder,
        };
        builder.build()
    }
}
