//! Who answers a route: a service, or a split.

use std::sync::Arc;

use super::Compiler;
use crate::policy::registry::Table;
use crate::policy::validate::openapi::mock::Mocks;
use crate::problem::{Place, Problem, did_you_mean};
use crate::route::back::Back;
use crate::route::compose::facade::Facade;
use crate::route::{Answering, FallbackConfig, OwnAnswer, RouteConfig, Split};
use crate::snapshot::Answer;
use crate::snapshot::fallback::{self, Fallback, How};
use crate::upstream::Service;
use crate::value::Spanned;

impl<'a> Compiler<'a> {
    /// `names`: the route's, and the one under which its answers are kept.
    pub(super) fn answer(
        &mut self,
        config: &Spanned<RouteConfig>,
        names: (&str, &str),
        policies: Option<&Table>,
    ) -> Option<Answer> {
        let own = [config.respond.is_some(), config.redirect.is_some(), config.maintenance.is_some(), config.mock.is_some()];
        if config.compose.is_some() || config.graphql.is_some() || own.contains(&true) {
            return self.own_answer(config, names, policies);
        }
        let lost = |key: &str| self.problems.has_lost(config.place, key);
        let own = ["compose", "graphql", "respond", "redirect", "maintenance", "mock"].into_iter().any(lost);
        if (config.service.is_none() && lost("service")) || lost("split") || own {
            // What is missing was refused; what is left of a split can still be looked at.
            for target in config.split.iter().flatten() {
                self.service(&target.service, target.port, target.place);
            }
            return None;
        }
        // Says it, too, where there is neither a service nor a split, or both.
        let split = Split::compile(&Answering::from(&**config), self.problems);
        if let Some(split) = split {
            let mut services = Vec::new();
            for target in config.split.iter().flat_map(|targets| targets.iter()) {
                services.push(self.service(&target.service, target.port, target.place));
            }
            let services = services.into_iter().collect::<Option<_>>()?;
            return Some(Answer::Split(split, services));
        }
        let service = config.service.as_ref()?;
        self.service(service, config.port, config.place).map(Answer::Service)
    }

    /// The same services behind the route's own circuit breaker, if it has one.
    pub(super) fn guarded(&mut self, config: &RouteConfig, route: &str, answer: Answer) -> Option<Answer> {
        let Some(breaker) = &config.circuit_breaker else { return Some(answer) };
        if matches!(answer, Answer::Own(_)) {
            let problem = Problem::error(breaker.place, "a circuit breaker has nothing to guard where no service is asked");
            self.problems.push(problem.hint("leave it out"));
            return None;
        }
        with_services(answer, |service| service.behind(route, breaker, self.problems, self.around.kept()))
    }

    /// The same services with the route's own word on retries, if it has one.
    pub(super) fn retried(&mut self, config: &RouteConfig, answer: Answer) -> Option<Answer> {
        let Some(retries) = &config.retries else { return Some(answer) };
        let own = config.hedging.is_some();
        let retried = |service: &Arc<Service>| {
            service.retried(retries, own || service.hedging.is_some(), self.problems, self.around.kept())
        };
        with_services(answer, retried)
    }

    /// The same services with the route's own word on second copies, if it has one.
    pub(super) fn hedged(&mut self, config: &RouteConfig, route: &str, answer: Answer) -> Option<Answer> {
        let Some(hedging) = &config.hedging else { return Some(answer) };
        with_services(answer, |service| service.hedged(hedging, route, self.problems, self.around.kept()))
    }

    /// How answers are mapped back to what clients see, if they are. `None` only if there was a problem.
    pub(super) fn rewrite_back(&mut self, config: &RouteConfig, answer: Option<&Answer>) -> Option<Option<Box<Back>>> {
        let Some(written) = &config.rewrite_back else { return Some(None) };
        let back = Back::compile(written, self.problems)?;
        if back.is_some() && matches!(answer, Some(Answer::Own(_) | Answer::Compose(_))) {
            let problem =
                Problem::error(written.place, "`rewrite_back` is about what a service says, and no answer here is one service's");
            self.problems.push(problem.hint("leave it out"));
            return None;
        }
        Some(back)
    }

    /// What the route answers by itself, if that is all it says.
    fn own_answer(&mut self, config: &Spanned<RouteConfig>, names: (&str, &str), policies: Option<&Table>) -> Option<Answer> {
        let said = [
            ("service", config.service.as_ref().map(|service| service.place)),
            ("split", config.split.as_ref().and_then(|targets| targets.first()).map(|target| target.place)),
            ("compose", config.compose.as_ref().map(|compose| compose.place)),
            ("graphql", config.graphql.as_ref().map(|graphql| graphql.place)),
            ("respond", config.respond.as_ref().map(|respond| respond.place)),
            ("redirect", config.redirect.as_ref().map(|redirect| redirect.place)),
            ("maintenance", config.maintenance.as_ref().map(|maintenance| maintenance.place)),
            ("mock", config.mock.as_ref().map(|mock| mock.place)),
        ];
        let mut said = said.into_iter().filter_map(|(key, place)| Some((key, place?)));
        if let (Some((first, _)), Some((second, place))) = (said.next(), said.next()) {
            let problem = Problem::error(place, format!("a route has either a `{first}` or a `{second}`, not both"));
            self.problems.push(problem.hint(format!("comment `{first}` out for as long as `{second}` holds")));
            return None;
        }
        if let Some(mock) = &config.mock {
            let path = &config.path.value;
            let mocks = Mocks::compile(mock, path.strip_suffix("/*").unwrap_or(path), self.base, self.problems)?;
            return Some(Answer::Own(Box::new(OwnAnswer::Mock(Box::new(mocks)))));
        }
        if let Some(compose) = &config.compose {
            return self.composed(config, compose, names, policies, None);
        }
        if let Some(graphql) = &config.graphql {
            let (facade, compose, named) = Facade::compile(graphql, self.base, self.problems)?;
            return self.composed(config, &compose, names, policies, Some((facade, named)));
        }
        OwnAnswer::compile(config, self.base, self.problems).map(|own| Answer::Own(Box::new(own)))
    }

    /// What a route gives when its service answers nothing. `None` only if there was a problem.
    pub(super) fn fallback(&mut self, config: &Spanned<FallbackConfig>, route: &str) -> Option<Arc<Fallback>> {
        let cached = fallback::cached(config, self.problems);
        let own = config.status.is_some() || config.json.is_some() || config.body.is_some() || !config.headers.is_empty();
        let how = match &config.service {
            None if !own && config.cached.is_some() => None,
            None => Some(fallback::own(config, config.place, self.problems)?),
            Some(service) if own => {
                let message = "a fallback is another `service`, or an answer of the gateway's own, not both";
                self.problems.push(Problem::error(service.place, message));
                return None;
            }
            Some(service) => Some(How::Service(self.service(service, config.port, config.place)?)),
        };
        Some(Arc::new(Fallback::new(config, cached?, how, route, self.around.metrics.tallies())))
    }

    /// The service of that name, or, with a port, the host of that name. `of`: where the map stands that names it.
    pub(super) fn service(&mut self, service: &Spanned<String>, port: Option<u16>, of: Place) -> Option<Arc<Service>> {
        let (name, place) = (service.value.as_str(), service.place);
        if self.document.services.contains_key(name) {
            if port.is_some() {
                let message = format!("`{name}` is defined under `services`, which already says its ports");
                self.problems.push(Problem::error(place, message).hint("leave `port` out, or name a host that is no service"));
            }
            // `None` if it did not compile, which was said where it stands.
            return self.services.get(name).cloned();
        }
        let Some(port) = port else {
            let written = self.section("services").and_then(|services| services.get(name)).is_some();
            // It was refused, or its port was.
            if !written && !self.problems.has_lost(of, "port") {
                let problem = Problem::error(place, format!("unknown service `{}`", shown(name)));
                self.problems.push(problem.hint(self.instead_of(name)));
            }
            return None;
        };
        let key: Arc<str> = format!("{name}:{port}").into();
        if let Some(known) = self.services.get(&key) {
            return Some(known.clone());
        }
        let service = Service::implied(name, port, place, self.problems, self.around.kept())?;
        self.services.insert(key, service.clone());
        Some(service)
    }

    /// What to write instead of a service that is not known.
    fn instead_of(&self, name: &str) -> String {
        if let Some(near) = did_you_mean(name, self.document.services.keys().map(String::as_str)) {
            return format!("did you mean `{near}`?");
        }
        let tls = name.starts_with("https://");
        let bare = name.split_once("://").map_or(name, |(_, rest)| rest);
        let bare = bare.split(['/', '?', '#']).next().unwrap_or(bare);
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port),
            _ if tls => (bare, "443"),
            _ if bare != name => (bare, "80"),
            _ => return format!("define it under `services`, or add `port` to use `{name}` as a host name"),
        };
        match host {
            _ if host.contains('@') => "write the host alone, and its port as `port`".to_owned(),
            _ if tls => {
                format!(
                    "define a service with `endpoints: [ \"{host}:{port}\" ]` and `tls: true` under `services`, and name it here"
                )
            }
            _ => format!("write `service: \"{host}\"` and `port: {port}`"),
        }
    }
}

/// A name as it may be said: not one with a user, and a password perhaps, in it.
fn shown(name: &str) -> &str {
    if name.contains('@') { "..." } else { name }
}

/// The same answer with other services. Where nobody is asked, nobody is asked twice.
fn with_services(answer: Answer, mut other: impl FnMut(&Arc<Service>) -> Option<Arc<Service>>) -> Option<Answer> {
    Some(match answer {
        Answer::Service(service) => Answer::Service(other(&service)?),
        Answer::Split(split, services) => Answer::Split(split, services.iter().map(other).collect::<Option<_>>()?),
        Answer::Compose(mut composed) => {
            composed.services = composed.services.iter().map(other).collect::<Option<_>>()?;
            Answer::Compose(composed)
        }
        own @ (Answer::Own(_) | Answer::Views(_)) => own,
    })
}
