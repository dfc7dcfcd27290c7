//! The operator's API, on a listener of its own: health, metrics, what is configured and what runs, reload, and the consumers' API
//! keys.
//!
//! It listens on loopback unless told otherwise, and whoever reaches it may read; [`access`] says what else is asked of callers.
//! What changes anything but the generation leaves a line in the log that begins with `audit:`.

mod access;
mod cache;
mod connections;
mod contracts;
mod endpoints;
mod keys;
mod quotas;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::core::Core;
use crate::snapshot::Route;
use crate::snapshot::tcp::{Target, TcpRoute};
use crate::tally::{Gauge, Tallies};
use crate::upstream::call::{IdleConnections, idle_connections};
use crate::upstream::{Endpoint, Service};

/// What a reload did.
#[derive(Debug, Clone)]
pub struct Reloaded {
    pub generation: u64,
    /// What the operator should look at.
    pub warnings: Vec<String>,
}

/// Every reason why the configuration was refused. The old one goes on serving.
pub type Refused = Vec<String>;

/// Asks the process to load its configuration again.
pub struct ReloadRequest {
    /// Who asks, for the log.
    pub by: String,
    pub answer: oneshot::Sender<Result<Reloaded, Refused>>,
}

#[derive(Clone)]
struct Admin {
    core: Arc<Core>,
    reload: mpsc::Sender<ReloadRequest>,
}

/// The API's routes.
pub fn router(core: Arc<Core>, reload: mpsc::Sender<ReloadRequest>) -> Router {
    let admin = Admin { core, reload };
    Router::new()
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .route("/routes", get(routes))
        .route("/status", get(status))
        .route("/connections", get(connections::connections))
        .route("/reload", post(reload_now))
        .merge(endpoints::router())
        .merge(keys::router())
        .merge(quotas::router())
        .merge(contracts::router())
        .merge(cache::router())
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such resource", json!({})) })
        .method_not_allowed_fallback(|| async { problem(StatusCode::METHOD_NOT_ALLOWED, "wrong method", json!({})) })
        .layer(from_fn_with_state(admin.clone(), access::writes_need_the_token))
        .layer(from_fn(access::no_browsers))
        .with_state(admin)
}

/// Serves the API until the process ends.
pub async fn serve(socket: std::net::TcpListener, router: Router) {
    match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => {
            if let Err(error) = axum::serve(socket, router.into_make_service_with_connect_info::<SocketAddr>()).await {
                log::error!("the admin API ended: {error}");
            }
        }
        Err(error) => log::error!("the admin API cannot listen: {error}"),
    }
}

fn problem(status: StatusCode, detail: &str, more: Value) -> Response {
    let mut body = json!({ "title": status.canonical_reason(), "status": status.as_u16(), "detail": detail });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// Who asks, for the audit's lines: ` by 127.0.0.1:4711`.
struct Peer(String);

impl FromRequestParts<Admin> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, Infallible> {
        Ok(Peer(peer(&parts.extensions)))
    }
}

fn by(request: &Request) -> String {
    peer(request.extensions())
}

fn peer(extensions: &Extensions) -> String {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| format!(" by {peer}")).unwrap_or_default()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let generation = admin.core.snapshot.load().generation;
    if admin.core.drain.has_begun() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "draining", json!({ "generation": generation }));
    }
    Json(json!({ "status": "ready", "generation": generation })).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let snapshot = admin.core.snapshot.load_full();
    let metrics = &admin.core.metrics;
    // The handles live as long as the scrape: an endpoint that no generation has any more is not reported.
    let (mut held, mut gauges) = (Vec::new(), Vec::new());
    let idle = idle_connections();
    for service in snapshot.services.values() {
        for (weight, endpoint) in service.cluster.endpoints() {
            let handle = metrics.endpoint(&service.key, &endpoint.address().to_string());
            handle.set_healthy(weight > 0 && service.may_ask(&endpoint));
            held.push(handle);
            gauges.extend(standing(metrics.tallies(), &service.key, &endpoint));
            gauges.extend(balance(metrics.tallies(), service, weight, &endpoint));
            gauges.extend(idle.as_ref().map(|idle| pooled(metrics.tallies(), service, &endpoint, idle)));
        }
    }
    let text = metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// What keeps an endpoint from getting requests beside its health, and how many it has.
fn standing(tallies: &Tallies, service: &str, endpoint: &Endpoint) -> [Arc<Gauge>; 4] {
    let address = endpoint.address().to_string();
    let gauge = |name, help, value| {
        let gauge = tallies.gauge(name, help, &[("service", service), ("endpoint", &address)]);
        gauge.set(value);
        gauge
    };
    [
        gauge(
            "portcullis_upstream_ejected",
            "1 while an endpoint is left out for what came of its requests.",
            endpoint.is_ejected().into(),
        ),
        gauge("portcullis_upstream_drained", "1 while an operator has taken an endpoint out.", endpoint.is_drained().into()),
        gauge(
            "portcullis_upstream_circuit_open",
            "1 while an endpoint's own circuit breaker is open.",
            endpoint.is_shut().into(),
        ),
        gauge("portcullis_upstream_in_flight", "Requests that an endpoint is answering.", endpoint.in_flight()),
    ]
}

/// The connections to an endpoint that wait for requests.
fn pooled(tallies: &Tallies, service: &Service, endpoint: &Endpoint, idle: &IdleConnections) -> Arc<Gauge> {
    let address = endpoint.address().to_string();
    let help = "Connections to an endpoint's address that wait for requests, of all workers.";
    let gauge = tallies.gauge("portcullis_upstream_idle_connections", help, &[("service", &service.key), ("endpoint", &address)]);
    gauge.set(idle.get(&endpoint.address()).map_or(0, |count| *count as u64));
    gauge
}

/// What an endpoint's share of the requests depends on.
fn balance(tallies: &Tallies, service: &Service, weight: u32, endpoint: &Endpoint) -> Vec<Arc<Gauge>> {
    let address = endpoint.address().to_string();
    let gauge = |name, help, value| {
        let gauge = tallies.gauge(name, help, &[("service", &service.key), ("endpoint", &address)]);
        gauge.set(value);
        gauge
    };
    let weight = gauge("portcullis_upstream_weight", "An endpoint's weight, as configured or as set since.", weight.into());
    let now = std::time::Instant::now();
    let ewma = service.balance_decay.and_then(|decay| endpoint.latency.seconds(now, decay));
    let ewma = ewma.map(|seconds| {
        let help = "How long an endpoint takes to answer, as peak_ewma has it.";
        gauge("portcullis_upstream_ewma_microseconds", help, (f64::from(seconds) * 1e6) as u64)
    });
    std::iter::once(weight).chain(ewma).collect()
}

async fn config(State(admin): State<Admin>) -> Response {
    let snapshot = admin.core.snapshot.load();
    Json(json!({ "generation": snapshot.generation, "config": snapshot.document })).into_response()
}

async fn routes(State(admin): State<Admin>) -> Response {
    let snapshot = admin.core.snapshot.load();
    let routes: Vec<_> = snapshot.routes.iter().map(|route| describe(route)).collect();
    let mut all = json!({ "generation": snapshot.generation, "routes": routes });
    let tcp_routes: Vec<_> = snapshot.tcp_routes.iter().map(|route| describe_tcp(route)).collect();
    if let (false, Some(all)) = (tcp_routes.is_empty(), all.as_object_mut()) {
        all.insert("tcp_routes".to_owned(), tcp_routes.into());
    }
    Json(all).into_response()
}

fn describe_tcp(route: &TcpRoute) -> Value {
    let names = |target: &Target| target.plan.names.iter().map(|(_, name)| *name).collect::<Vec<_>>();
    let mut described = json!({
        "id": &*route.id,
        "service": route.services().next(),
        "policies": route.targets.first().map(names),
        "open": route.counts.open(),
    });
    if let (Some(split), Some(described)) = (&route.split, described.as_object_mut()) {
        let target = |(target, weight): (&Target, u32)| json!({ "service": &*target.service.key, "weight": weight, "policies": names(target) });
        described.retain(|key, _| key == "id" || key == "open");
        described.insert("split".to_owned(), route.targets.iter().zip(split.weights()).map(target).collect());
    }
    described
}

fn describe(route: &Route) -> Value {
    let services = route.answer.services().iter();
    let split = route.answer.weights().map(|weights| {
        let target = |(service, weight): (&Arc<Service>, u32)| json!({ "service": &*service.key, "weight": weight });
        services.zip(weights).map(target).collect::<Vec<_>>()
    });
    let mut described = json!({
        "id": &*route.id,
        "services": route.answer.asked().iter().map(|service| &*service.key).collect::<Vec<_>>(),
        "policies": route.plan.names.iter().map(|(stage, name)| json!({ "stage": stage.name(), "policy": name })).collect::<Vec<_>>(),
    });
    if let (Some(split), Some(described)) = (split, described.as_object_mut()) {
        described.insert("split".to_owned(), split.into());
    }
    if let (Some(view), Some(described)) = (&route.view, described.as_object_mut()) {
        described.insert("view".to_owned(), (*view.name).into());
    }
    described
}

/// What `portcullis status` begins with.
async fn status(State(admin): State<Admin>) -> Response {
    let core = &admin.core;
    let (at, succeeded) = core.metrics.last_reload();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": core.snapshot.load().generation,
        "last_reload_applied_at": at,
        "last_reload_succeeded": succeeded,
        "draining": core.drain.has_begun(),
        "in_flight": core.metrics.in_flight(),
        "connections": connections::count(core),
    }))
    .into_response()
}

async fn reload_now(State(admin): State<Admin>, Peer(by): Peer) -> Response {
    let (answer, wait) = oneshot::channel();
    if admin.reload.send(ReloadRequest { by, answer }).await.is_err() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the process is ending", json!({}));
    }
    match wait.await {
        Ok(Ok(done)) => Json(json!({ "generation": done.generation, "warnings": done.warnings })).into_response(),
        Ok(Err(problems)) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the configuration was refused; the old one goes on serving",
            json!({ "problems": problems }),
        ),
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "the process is ending", json!({})),
    }
}
