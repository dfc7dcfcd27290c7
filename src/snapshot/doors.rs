//! What is said while loading about routes that a listener serves with less protection than another one.

use std::sync::Arc;

use super::{ActiveListener, Route};
use crate::config::Document;
use crate::listen::bound::BoundHosts;
use crate::problem::{Problem, Problems};
use crate::route::Matcher;

/// Warns once for each listener.
pub fn warn(
    doors: &[Arc<ActiveListener>],
    bound: Option<&BoundHosts>,
    matchers: &[(usize, Matcher)],
    routes: &[Arc<Route>],
    document: &Document,
    problems: &mut Problems,
) {
    let strict = doors.iter().find(|door| door.requires_certificate() && !door.is_tcp());
    // One that redirects serves nothing, and one that speaks no HTTP no requests.
    for door in doors.iter().filter(|door| door.redirect.is_none() && !door.is_tcp()) {
        let place = document.listener(&door.name).map(|listener| listener.bind.place);
        let Some(place) = place else { continue };
        let reached = |matcher: &Matcher| {
            matcher.is_on(&door.name) && !matcher.hosts_all(|host| bound.is_some_and(|bound| bound.misdirected(host, &door.name)))
        };
        let here = || matchers.iter().filter(|(_, matcher)| reached(matcher));
        if let Some(strict) = strict.filter(|_| !door.requires_certificate())
            && here().any(|(_, matcher)| !matcher.names_listeners() && matcher.is_on(&strict.name))
        {
            let message = format!(
                "listener `{}` serves routes without the client certificate that listener `{}` requires for them",
                door.name, strict.name
            );
            problems.push(Problem::warning(place, message).hint("say with `listeners` which of them serve a route"));
        }
        let by_certificate = || {
            let shown = here().filter_map(|(number, _)| routes.get(*number));
            shown.filter(|route| route.plan.options.by_certificate)
        };
        if let Some(route) = by_certificate().next()
            && !door.asks_for_certificate()
        {
            let more = match by_certificate().count() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let message = format!(
                "listener `{}` asks no client for a certificate, and serves route `{}`{more}, where `authn.mtls` wants one",
                door.name, route.id
            );
            problems.push(
                Problem::warning(place, message).hint("say with `listeners` where the route is served, or set `tls.client_auth`"),
            );
        }
    }
}
