//! What a file says that a stock Pingora server cannot do. Nothing of it is passed over: a bound that is written has to hold.

use std::sync::Arc;

use super::Route;
use crate::config::{Document, Engine};
use crate::listen::config::ListenerConfig;
use crate::problem::{Place, Problem, Problems};
use crate::retry::config::RetriesConfig;
use crate::upstream::Protocol;
use crate::upstream::connect_calls::ConnectChoice;

/// Refuses what `server.engine: pingora` cannot do.
pub fn check(document: &Document, routes: &[Arc<Route>], problems: &mut Problems) {
    if document.server.engine.value != Engine::Pingora {
        return;
    }
    for listener in document.listeners.iter() {
        check_listener(listener, problems);
    }
    if let Some(route) = document.tcp_routes.first() {
        let problem = Problem::error(route.place, "`tcp_routes` cannot be had with `engine: pingora`");
        problems.push(problem.hint("take them out, or `engine` out of `server`"));
    }
    if let Some(route) = routes.iter().find(|route| route.plan.options.mirror.is_some()) {
        let message = format!("`mirror` cannot be had with `engine: pingora`, and the route `{}` has one", route.id);
        problems.push(Problem::error(document.server.engine.place, message).hint("take `mirror` out, or `engine`"));
    }
    if let Some(route) = routes.iter().find(|route| route.plan.options.websocket.is_some()) {
        let message = format!("`websocket` cannot be had with `engine: pingora`, and the route `{}` has it", route.id);
        problems.push(Problem::error(document.server.engine.place, message).hint("take `websocket` out, or `engine`"));
    }
    let refreshes =
        |route: &&Arc<Route>| route.plan.options.cache.as_ref().is_some_and(|cache| !cache.stale_while_revalidate.is_zero());
    if let Some(route) = routes.iter().find(refreshes) {
        let message = format!(
            "`cache.stale_while_revalidate` cannot be had with `engine: pingora`, and the route `{}` has one: what has expired is \
             validated first there",
            route.id
        );
        problems.push(Problem::error(document.server.engine.place, message).hint("take it out, or `engine` out of `server`"));
    }
    let extra = |route: &Arc<Route>| route.plan.options.cache.as_ref().and_then(|cache| cache.extra.clone());
    for (key, has) in [
        ("cache.methods", (|extra| extra.by_body.is_some()) as fn(&crate::cache::Extra) -> bool),
        ("cache.ranges: whole", |extra| extra.whole_ranges),
        ("cache.ranges: parts", |extra| extra.keeps_parts),
    ] {
        if let Some(route) = routes.iter().find(|route| extra(route).is_some_and(|extra| has(&extra))) {
            let message = format!("`{key}` cannot be had with `engine: pingora`, and the route `{}` has it", route.id);
            problems.push(Problem::error(document.server.engine.place, message).hint("take it out, or `engine` out of `server`"));
        }
    }
    for route in &document.routes {
        if let Some(retries) = &route.retries {
            check_retries(retries, problems);
        }
        if let Some(hedging) = &route.hedging {
            refuse(hedging.place, "`hedging`", problems);
        }
    }
    for compose in document.routes.iter().filter_map(|route| route.compose.as_ref()) {
        refuse(compose.place, "`compose`", problems);
    }
    for graphql in document.routes.iter().filter_map(|route| route.graphql.as_ref()) {
        refuse(graphql.place, "`graphql` of a route", problems);
    }
    let views = document.routes.iter().filter_map(|route| route.views.as_ref()).flat_map(|views| &views.0);
    for compose in views.filter_map(|(_, view)| view.compose.as_ref()) {
        refuse(compose.place, "`compose`", problems);
    }
    for fallback in document.routes.iter().filter_map(|route| route.fallback.as_ref()) {
        refuse(fallback.place, "`fallback`", problems);
    }
    for service in document.services.values() {
        if service.keep_alive.place.is_known() {
            let message =
                "`keep_alive` has no effect with `engine: pingora`, which keeps idle connections to all services together";
            problems.push(Problem::warning(service.keep_alive.place, message));
        }
        check_retries(&service.retries, problems);
        if let Some(hedging) = &service.hedging {
            refuse(hedging.place, "`hedging`", problems);
        }
        for (key, bound) in [("`max_connections`", &service.max_connections), ("`max_pending`", &service.max_pending)] {
            if let Some(bound) = bound {
                refuse(bound.place, key, problems);
            }
        }
        if let Some(attempt) = &service.timeouts.attempt {
            refuse(attempt.place, "`timeouts.try`", problems);
        }
        for (place, key) in
            [(service.timeouts.body_grace.place, "`timeouts.body_grace`"), (service.limits.body_rate.place, "`limits.body_rate`")]
        {
            if place.is_known() {
                refuse(place, key, problems);
            }
        }
        if service.protocol == Protocol::Auto {
            let message = "`protocol: auto` cannot be had with `engine: pingora`";
            let hint = "write two services with the same endpoints, one with `protocol: grpc`, or take `engine` out of `server`";
            problems.push(Problem::error(service.endpoints.place, message).hint(hint));
        }
        if let Some(transcode) = &service.transcode {
            refuse(transcode.place, "`transcode`", problems);
        }
        if let Some(connect) = service.connect.as_ref().filter(|connect| matches!(connect.value, ConnectChoice::On(_))) {
            refuse(connect.place, "`connect`", problems);
        }
        if let Some(lambda) = &service.lambda {
            refuse(lambda.place, "`lambda`", problems);
        }
        if let Some(auth) = &service.upstream_auth {
            refuse(auth.place, "`upstream_auth`", problems);
        }
        if service.warm.value > 0 {
            refuse(service.warm.place, "`warm`", problems);
        }
    }
}

/// Says of a key that this engine does not have it.
fn refuse(place: Place, what: &str, problems: &mut Problems) {
    let message = format!("{what} cannot be had with `engine: pingora`");
    problems.push(Problem::error(place, message).hint("take it out, or `engine` out of `server`"));
}

/// There, connections are tried elsewhere, and so is what an HTTP/2 endpoint refuses; how often is all that can be said.
fn check_retries(retries: &RetriesConfig, problems: &mut Problems) {
    let places = [
        (Some(retries.on.place), "on"),
        (Some(retries.retriable_headers.place), "retriable_headers"),
        (retries.methods.as_ref().map(|methods| methods.place), "methods"),
        (retries.idempotency_key.as_ref().map(|key| key.place), "idempotency_key"),
        (Some(retries.backoff.base.place), "backoff"),
        (Some(retries.backoff.max.place), "backoff"),
        (Some(retries.max_retry_after.place), "max_retry_after"),
        (Some(retries.buffer.place), "buffer"),
        (retries.budget.place(), "budget"),
    ];
    for (place, key) in places {
        if let Some(place) = place.filter(Place::is_known) {
            refuse(place, &format!("`retries.{key}`"), problems);
        }
    }
}

fn check_listener(listener: &ListenerConfig, problems: &mut Problems) {
    let mut refuse = |place: Place, what: &str| refuse(place, what, problems);
    if let Some(proxy) = &listener.proxy_protocol {
        let place = proxy.trusted.first().map_or(listener.bind.place, |trusted| trusted.place);
        refuse(place, "the PROXY protocol");
    }
    if listener.bind.rsplit_once(':').is_some_and(|(_, port)| port == "0") {
        refuse(listener.bind.place, "a port that the system chooses");
    }
    if let Some(rate) = &listener.max_new_connections_per_address {
        refuse(rate.place, "`max_new_connections_per_address`");
    }
    if listener.is_tcp() {
        refuse(listener.protocol.place, "`protocol: tcp`");
    }
    let (timeouts, limits) = (&listener.timeouts, &listener.limits);
    for (place, what) in [
        (listener.max_connections.place, "`max_connections`"),
        (listener.max_connections_per_address.place, "`max_connections_per_address`"),
        (timeouts.handshake.place, "`timeouts.handshake`"),
        (timeouts.header.place, "`timeouts.header`"),
        (timeouts.body_grace.place, "`timeouts.body_grace`"),
        (limits.body_rate.place, "`limits.body_rate`"),
    ] {
        if place.is_known() {
            refuse(place, what);
        }
    }
}
