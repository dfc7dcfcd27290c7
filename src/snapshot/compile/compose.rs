//! Routes whose answers are made of those of several services.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use super::Compiler;
use super::policies::SHAPING;
use crate::cache::credentials;
use crate::node::Node;
use crate::policy::registry::Table;
use crate::policy::{Plan, Work};
use crate::problem::Problem;
use crate::route::RouteConfig;
use crate::route::compose::facade::{Facade, Named};
use crate::route::compose::{ComposeConfig, Composition, Wanted};
use crate::snapshot::{Answer, Composed, PartCounts, Road};
use crate::upstream::Service;
use crate::value::{Raw, Spanned};

/// Policies that work on each call of a composed answer, and not on its client's request.
const OF_CALLS: [&str; 2] = ["request_headers", "cache"];

impl<'a> Compiler<'a> {
    /// What such a route answers with. `None` only if there was a problem.
    pub(super) fn composed(
        &mut self,
        config: &Spanned<RouteConfig>,
        written: &Spanned<ComposeConfig>,
        (id, route): (&str, &str),
        own: Option<&Table>,
        graphql: Option<(Facade, Vec<Named>)>,
    ) -> Option<Answer> {
        self.refuse_what_calls_say(config);
        let arguments: Option<Vec<Vec<&str>>> = graphql.as_ref().map(|(_, named)| named.iter().map(Named::arguments).collect());
        let fields = graphql.as_ref().zip(arguments.as_ref()).map(|((_, named), arguments)| {
            named.iter().zip(arguments).map(|(named, arguments)| named.names(arguments)).collect::<Vec<_>>()
        });
        let path = &config.path.value;
        let (mut composition, wanted) = Composition::compile(written, path, fields.as_deref(), self.problems)?;
        // Which of them are made, and with what, the request says.
        composition.reads_body |= graphql.is_some();
        let whole = match own {
            Some(own) => self.global.overlaid(own),
            None => self.global.clone(),
        };
        let options = whole.plan(&self.site(&[])).options;
        self.look_at_anonymous(&composition, &wanted);
        let (mut services, mut roads, mut by_params) = (Vec::new(), Vec::new(), false);
        let mut tables = BTreeMap::new();
        for wanted in wanted {
            // Calls that say the same of it share what is kept, as those do that say nothing: one that is made twice is kept, and asked for, once.
            let alike = |Raw(node): &Raw| {
                let mut said = written.calls.0.iter().filter_map(|(name, call)| Some((name.as_str(), call.cache.as_ref()?)));
                said.find_map(|(name, Raw(other))| node.says_the_same(other).then_some(name))
            };
            let of_call = wanted.cache.map(|(call, raw)| {
                let call = alike(raw).unwrap_or(call);
                let made = || self.table_of("cache", &format!("route:{route}#{call}"), &raw.0);
                (call, &*tables.entry(call).or_insert_with(made))
            });
            let service = self.service(wanted.service, wanted.port, wanted.of);
            if service.is_some() {
                self.look_at_policies_of(config, wanted.service);
            }
            if let Some(service) = &service {
                let (road, looks) = self.road(route, own, service, of_call, (&options.per_client, &wanted.fields));
                roads.push(road);
                by_params |= looks;
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
        let counts = composition.parts.iter().map(|part| PartCounts::new(id, &part.name, tallies)).collect();
        for (part, call) in composition.parts.iter().zip(&written.calls.0) {
            let cached = call.1.fallback.as_ref().and_then(|fallback| fallback.cached.as_ref());
            let keeps = roads.get(part.service).is_some_and(|road| road.cache.is_some());
            if let Some(cached) = cached.filter(|_| !keeps) {
                let problem =
                    Problem::error(cached.place, "nothing was kept that this fallback could give: the call has no `cache`");
                self.problems.push(problem.hint("add `cache` to the call, or to the route's policies"));
                return None;
            }
        }
        let identity = options.identity_fields.into_iter().chain(options.per_client).chain(options.credential_headers);
        let (identity, roads) = (identity.collect(), roads.into());
        let graphql = graphql.map(|(facade, _)| Box::new(facade));
        Some(Answer::Compose(Box::new(Composed { composition, graphql, services, roads, identity, by_params, counts })))
    }

    /// What is made of the calls to one service: what the route says of it, else the service, else all routes; of what is kept, the call goes
    /// before them. `true` beside it if that looks at what the path's parameters took.
    fn road(
        &self,
        route: &str,
        own: Option<&Table>,
        service: &Service,
        of_call: Option<(&str, &Table)>,
        (per_client, fields): (&[HeaderName], &[(HeaderName, bool)]),
    ) -> (Road, bool) {
        let mut table = self.global.clone();
        if let Some(of_service) = self.service_tables.get(&*service.key) {
            table = table.overlaid(of_service);
        }
        if let Some(own) = own {
            table = table.overlaid(own);
        }
        if let Some((_, of_call)) = of_call {
            table = table.overlaid(of_call);
        }
        let id = format!("{route}#{}#{}", of_call.map(|(call, _)| call).unwrap_or_default(), service.key);
        let Plan { steps, options, .. } = table.only(&OF_CALLS).plan(&self.site(&[]));
        let steps = steps.into_iter().filter_map(|step| if let Work::Head(run) = step.work { Some(run) } else { None }).collect();
        let cache = options.cache.map(|cache| match per_client.is_empty() && fields.is_empty() {
            true => cache,
            // The service may answer by whatever the call says: what is made of a request is as if a policy had made it for its client, and
            // what the file says is the same for all of them, a credential included.
            false => {
                let (made, written): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, made)| *made);
                let names = |all: Vec<&(HeaderName, bool)>| all.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
                Arc::new(cache.beside(per_client).beside(&names(made)).keyed_by(&names(written)))
            }
        });
        (Road { steps, cache, id: id.into() }, options.by_params)
    }

    /// Nobody is anonymous who is let through with his key.
    fn look_at_anonymous(&mut self, composition: &Composition, wanted: &[Wanted<'_>]) {
        for part in composition.parts.iter().filter(|part| part.anonymous) {
            let listed = part.client_fields.iter().flatten();
            let Some(name) = listed.into_iter().find(|name| credentials::is_usual_name(name.as_bytes())) else { continue };
            let Some(call) = wanted.get(part.service) else { continue };
            let message = format!("`{name}` says who asks, and this call is `anonymous`");
            self.problems
                .push(Problem::error(call.of, message).hint("take it out of `client_headers`, or `anonymous` out of the call"));
        }
    }

    /// What is done with the client's request of such a route: the rest is done with each call.
    pub(super) fn composed_plan(&self, own: Option<Table>, composed: &Composed) -> Arc<Plan> {
        let table = match own {
            Some(own) => self.global.overlaid(&own),
            None => self.global.clone(),
        };
        let mut plan = table.plan(&self.site(&[]));
        plan.steps.retain(|step| !OF_CALLS.contains(&step.name));
        plan.options.cache = None;
        plan.options.by_params |= composed.by_params;
        Arc::new(plan)
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
        let itself = |name: &str| of_service.is_some_and(|Raw(node)| node.get(name).is_some());
        let global = |name: &str| self.document.policies.as_ref().and_then(|Raw(node)| node.get(name));
        let missed = self.missed(config, &service.value, |entry| {
            global(entry.name).filter(|_| !(SHAPING.contains(&entry.name) && itself(entry.name)))
        });
        for name in missed {
            let message =
                format!("`{}` has a `{name}` of its own, which a part of a composed answer does not pass", service.value);
            let hint = format!("write `{name}` under this route's `policies`, the same or another, or `{name}: false`");
            let keeping = SHAPING.contains(&name).then_some("; the call's `keep` and `target` say what is left of a part");
            self.problems.push(Problem::error(service.place, message).hint(hint + keeping.unwrap_or_default()));
        }
    }
}
