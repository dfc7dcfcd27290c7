//! A service that is a function: where that is, in place of endpoints.

use std::path::Path;
use std::sync::Arc;

use super::super::Kept;
use super::context;
use crate::function::Function;
use crate::function::config::LambdaConfig;
use crate::problem::{Place, Problem, Problems};
use crate::upstream::config::{EndpointConfig, Protocol, ServiceConfig, TlsChoice, UpstreamTlsConfig};
use crate::value::Spanned;

/// The function, and the service's configuration as it is with the function's address among it. `None` only if there was a problem.
pub fn reached(
    name: &str,
    lambda: &Spanned<LambdaConfig>,
    config: &ServiceConfig,
    base: &Path,
    problems: &mut Problems,
    kept: Kept<'_>,
) -> Option<(ServiceConfig, Arc<Function>)> {
    let place = |given: bool, place: Place| given.then_some(place);
    let beside = [
        ("endpoints", place(!config.endpoints.is_empty(), config.endpoints.place)),
        ("discover", config.discover.as_ref().map(|one| one.place)),
        ("transcode", config.transcode.as_ref().map(|one| one.place)),
        ("connect", config.connect.as_ref().map(|one| one.place)),
        ("upstream_auth", config.upstream_auth.as_ref().map(|one| one.place)),
        ("health_check", config.health_check.as_ref().map(|one| one.place)),
        ("protocol", place(config.protocol != Protocol::Http1, lambda.place)),
    ];
    let mut fits = true;
    for (key, place) in beside {
        if let Some(place) = place {
            let problem =
                Problem::error(place, format!("`{key}` cannot be had beside `lambda`, which says all about where requests go"));
            problems.push(problem.hint(format!("leave `{key}` out")));
            fits = false;
        }
    }
    let compiled = Function::compile(lambda, &mut context(name, lambda.place, base, problems, kept));
    let (function, address) = compiled.filter(|_| fits)?;
    let mut config = config.clone();
    let written = Spanned::new(address.endpoint, lambda.function.place);
    config.endpoints = Spanned::new(vec![EndpointConfig::of(written)], lambda.place);
    match (&config.tls, address.tls) {
        (TlsChoice(None), true) => config.tls = TlsChoice(Some(Spanned::new(UpstreamTlsConfig::default(), lambda.place))),
        (TlsChoice(Some(tls)), false) => {
            problems
                .push(Problem::error(tls.place, "`tls` has no effect: `lambda.endpoint` is `http`").hint("write https there"));
            return None;
        }
        _ => {}
    }
    Some((config, function))
}
