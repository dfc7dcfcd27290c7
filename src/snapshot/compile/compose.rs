//! Routes whose answers are made of those of several services.

use super::Compiler;
use crate::node::Node;
use crate::policy::Stage;
use crate::policy::registry::REGISTRY;
use crate::problem::Problem;
use crate::route::RouteConfig;
use crate::route::compose::{ComposeConfig, Composition};
use crate::snapshot::{Answer, Composed, PartCounts};
use crate::value::{Raw, Spanned};

/// Policies that change bodies on the way to a service, or keep something of its answers back.
const KEEPING: [&str; 2] = ["answer_contract", "reshape"];

impl<'a> Compiler<'a> {
    /// What such a route answers with. `None` only if there was a problem.
    pub(super) fn composed(
        &mut self,
        config: &Spanned<RouteConfig>,
        written: &Spanned<ComposeConfig>,
        route: &str,
    ) -> Option<Answer> {
        self.refuse_what_calls_say(config);
        let (composition, wanted) = Composition::compile(written, &config.path.value, self.problems)?;
        let mut services = Vec::new();
        for wanted in wanted {
            let service = self.service(wanted.service, wanted.port, wanted.of);
            if service.is_some() {
                self.look_at_policies_of(config, wanted.service);
            }
            services.push(match (service, wanted.retries) {
                (Some(service), Some(retries)) => {
                    service.retried(retries, service.hedging.is_some(), self.problems, self.around.kept())
                }
                (service, _) => service,
            });
        }
        let services = services.into_iter().collect::<Option<_>>()?;
        let tallies = self.around.metrics.tallies();
        let counts = composition.parts.iter().map(|part| PartCounts::new(route, &part.name, tallies)).collect();
        Some(Answer::Compose(Box::new(Composed { composition, services, counts })))
    }

    /// What a route says of its one service has no meaning where each call says it itself.
    fn refuse_what_calls_say(&mut self, config: &RouteConfig) {
        let place = |written: &Option<Spanned<String>>| written.as_ref().map(|written| written.place);
        let said = [
            ("strip_prefix", place(&config.strip_prefix), "write the `path` of each call"),
            ("rewrite", place(&config.rewrite), "write the `path` of each call"),
            ("rewrite_host", place(&config.rewrite_host), "services see the client's `Host`"),
            ("fallback", config.fallback.as_ref().map(|fallback| fallback.place), "write a `fallback` at the call"),
            ("stream", config.stream.then_some(config.path.place), "leave it out"),
            ("buffer_request", config.buffer_request.then_some(config.path.place), "leave it out"),
        ];
        for (key, place, hint) in said {
            if let Some(place) = place {
                let message = format!("`{key}` is about one service, and this answer is made of those of several");
                self.problems.push(Problem::error(place, message).hint(hint));
            }
        }
        let written = |name: &str| {
            let node = config.policies.as_ref().and_then(|Raw(node)| node.get(name));
            node.filter(|node| node.as_str() != Some("false")).map(Node::place)
        };
        if let Some(place) = written("cache") {
            let problem = Problem::error(place, "`cache` keeps what one service answers, and no answer that is made of several");
            self.problems
                .push(problem.hint("take it out: clients and caches in front of this gateway are told how long the parts hold"));
        }
        if let Some(place) = written("mirror") {
            let problem = Problem::error(place, "`mirror` copies requests to one service, and here are calls to several");
            self.problems.push(problem.hint("take it out"));
        }
    }

    /// What judges the requests to a service judges those for a part as well, or the route says that it shall not: nobody comes to a service
    /// through a composed answer who would not come to it by itself, nor to what of its answers is kept from clients. The latter is about
    /// documents that are not the composed one, so that no other place's word is the route's.
    fn look_at_policies_of(&mut self, config: &RouteConfig, service: &Spanned<String>) {
        let of_service = self.document.services.get(&service.value).and_then(|service| service.policies.as_ref());
        let own = |name: &str| config.policies.as_ref().is_some_and(|Raw(node)| node.get(name).is_some());
        let global = |name: &str| self.document.policies.as_ref().and_then(|Raw(node)| node.get(name));
        let judging = REGISTRY.iter().filter(|entry| entry.stage != Stage::Shape || KEEPING.contains(&entry.name));
        let missed = judging.filter(|entry| {
            let said = of_service.and_then(|Raw(node)| node.get(entry.name)).filter(|node| node.as_str() != Some("false"));
            let same = || global(entry.name).zip(said).is_some_and(|(one, other)| one.says_the_same(other));
            said.is_some() && !own(entry.name) && (KEEPING.contains(&entry.name) || !same())
        });
        let problems: Vec<Problem> = missed
            .map(|entry| {
                let name = entry.name;
                let message =
                    format!("`{}` has a `{name}` of its own, which a part of a composed answer does not pass", service.value);
                let hint = format!("write `{name}` under this route's `policies`, the same or another, or `{name}: false`");
                let keeping = KEEPING.contains(&name).then_some("; the call's `keep` and `target` say what is left of a part");
                Problem::error(service.place, message).hint(hint + keeping.unwrap_or_default())
            })
            .collect();
        problems.into_iter().for_each(|problem| self.problems.push(problem));
    }
}
