//! `GET /upstreams`: how every service and every endpoint stands, and why. `POST /upstreams/{service}/endpoints/{address}/drain` and
//! `undrain`: no new requests for an endpoint, until it is taken back. Those that are under way there go on.
//! `PUT /upstreams/{service}/endpoints/{address}/weight` with `{"weight": 5}`: another weight than the configured one, until `DELETE`.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::{Admin, Peer, problem};
use crate::snapshot::Snapshot;
use crate::upstream::call::idle_connections;
use crate::upstream::service::MOST_WEIGHT;
use crate::upstream::{Endpoint, Service};

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/upstreams", get(list))
        .route("/upstreams/{service}/endpoints/{address}/drain", post(drain))
        .route("/upstreams/{service}/endpoints/{address}/undrain", post(undrain))
        .route("/upstreams/{service}/endpoints/{address}/weight", put(weigh).delete(unweigh))
}

async fn list(State(admin): State<Admin>) -> Response {
    let snapshot = admin.core.snapshot.load();
    let idle = idle_connections();
    let services: Vec<_> = snapshot.services.values().map(|service| service.view_with(idle.as_ref())).collect();
    let routes = snapshot.routes.iter().flat_map(|route| route.answer.asked());
    let breakers: Vec<_> = routes.filter_map(|service| service.route_breaker()).collect();
    Json(json!({ "generation": snapshot.generation, "services": services, "route_circuit_breakers": breakers })).into_response()
}

async fn drain(State(admin): State<Admin>, by: Peer, Path((service, address)): Path<(String, String)>) -> Response {
    set(&admin.core.snapshot.load(), &by, &service, &address, true)
}

async fn undrain(State(admin): State<Admin>, by: Peer, Path((service, address)): Path<(String, String)>) -> Response {
    set(&admin.core.snapshot.load(), &by, &service, &address, false)
}

fn set(snapshot: &Snapshot, Peer(by): &Peer, service: &str, address: &str, drained: bool) -> Response {
    let Some(service) = snapshot.services.get(service) else {
        return problem(StatusCode::NOT_FOUND, "no such service", json!({}));
    };
    let named = named(service, address);
    if named.is_empty() {
        return problem(StatusCode::NOT_FOUND, "the service has no such endpoint", json!({}));
    }
    let mut changed = false;
    for (_, endpoint) in &named {
        if endpoint.set_drained(drained) {
            changed = true;
            let what = if drained { "drained" } else { "took back" };
            log::info!("audit: {what} the endpoint {} of the service `{}`{by}", endpoint.address(), service.key);
        }
    }
    if changed {
        service.cluster.board().publish();
        service.cluster.board().count_drained(drained);
    }
    let endpoints: Vec<_> = named.iter().map(|(weight, endpoint)| service.view_of(*weight, endpoint)).collect();
    Json(json!({ "changed": changed, "endpoints": endpoints })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    weight: u32,
}

async fn weigh(
    State(admin): State<Admin>,
    by: Peer,
    Path((service, address)): Path<(String, String)>,
    body: Result<Json<Weight>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(Weight { weight })) if weight <= MOST_WEIGHT => {
            set_weight(&admin.core.snapshot.load(), &by, &service, &address, Some(weight))
        }
        _ => problem(StatusCode::BAD_REQUEST, "the body is {\"weight\": N}, as JSON, with N from 0 to 1000", json!({})),
    }
}

async fn unweigh(State(admin): State<Admin>, by: Peer, Path((service, address)): Path<(String, String)>) -> Response {
    set_weight(&admin.core.snapshot.load(), &by, &service, &address, None)
}

fn set_weight(snapshot: &Snapshot, Peer(by): &Peer, service: &str, address: &str, weight: Option<u32>) -> Response {
    let Some(service) = snapshot.services.get(service) else {
        return problem(StatusCode::NOT_FOUND, "no such service", json!({}));
    };
    let named = named(service, address);
    if named.is_empty() {
        return problem(StatusCode::NOT_FOUND, "the service has no such endpoint", json!({}));
    }
    for (_, endpoint) in &named {
        endpoint.set_weight(weight);
        let what = weight.map_or_else(|| "the configured one".to_owned(), |weight| weight.to_string());
        log::info!("audit: set the weight of the endpoint {} of the service `{}` to {what}{by}", endpoint.address(), service.key);
    }
    service.cluster.board().publish();
    let views = service.view().endpoints.into_iter();
    let is = |address| named.iter().any(|(_, endpoint)| endpoint.address() == address);
    Json(json!({ "endpoints": views.filter(|view| is(view.address)).collect::<Vec<_>>() })).into_response()
}

/// By its address, or by what was configured, which may be a name of several.
fn named(service: &Service, address: &str) -> Vec<(u32, Arc<Endpoint>)> {
    let endpoints = service.cluster.endpoints().into_iter();
    let is = |endpoint: &Endpoint| endpoint.address().to_string() == address || endpoint.authority() == address;
    endpoints.filter(|(_, endpoint)| is(endpoint)).collect()
}
