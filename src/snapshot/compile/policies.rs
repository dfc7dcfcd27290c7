//! Which policies a route has: its own, its services', and those of all routes.

use std::sync::Arc;

use super::Compiler;
use crate::by;
use crate::node::{Key, Kind, Node};
use crate::policy::registry::{self, Entry, REGISTRY, Site, Table};
use crate::policy::validate::graphql::Graphql;
use crate::policy::{Compile, Plan, Policy as _, Stage, authz};
use crate::problem::{Place, Problem};
use crate::route::RouteConfig;
use crate::snapshot::Answer;
use crate::upstream::Service;
use crate::value::Raw;

/// Policies that change bodies on the way to a service, or keep something of its answers back.
pub(super) const SHAPING: [&str; 2] = ["answer_contract", "reshape"];

/// Policies that change the fields of what a service is asked, and of what it answers.
const FIELDS: [&str; 2] = ["request_headers", "response_headers"];

impl<'a> Compiler<'a> {
    pub(super) fn policies(&mut self, scope: &str, raw: Option<&Raw>) -> Table {
        raw.map(|Raw(node)| self.table(scope, "", node)).unwrap_or_default()
    }

    /// One policy that is written by itself.
    pub(super) fn table_of(&mut self, policy: &str, scope: &str, node: &Arc<Node>) -> Table {
        let key = Key { text: policy.to_owned(), place: node.place() };
        let alone = Node { kind: Kind::Map(vec![(key, Node::clone(node))]), ..Node::clone(node) };
        self.table(scope, "", &alone)
    }

    /// `path`: of the route that they are written for.
    pub(super) fn table(&mut self, scope: &str, path: &str, node: &Node) -> Table {
        let mut cx = Compile {
            problems: self.problems,
            place: node.place(),
            scope,
            ledger: &self.around.ledger,
            consumers: &self.consumers,
            base: self.base,
            quota_log: &self.quota_log,
            tallies: self.around.metrics.tallies(),
            prefix: path.strip_suffix("/*").unwrap_or(path),
            background: self.around.background.as_ref(),
            redis: self.redis.as_ref(),
            services: &self.service_names,
            faults: self.document.server.fault_injection,
            redis_written: self.document.redis.is_some(),
        };
        Table::compile(node, &mut cx)
    }

    pub(super) fn plan(&mut self, config: &'a RouteConfig, own: Option<Table>, answer: &Answer) -> Arc<Plan> {
        if let Answer::Compose(composed) = answer {
            return self.composed_plan(own, composed);
        }
        self.look_for_identity(config, answer);
        if let Answer::Views(_) = answer {
            return Arc::new(self.views_plan(config, own, answer));
        }
        if let Answer::Split(_, services) = answer {
            let table = self.split_table(config, services);
            let table = match own {
                Some(own) => table.overlaid(&own),
                None => table,
            };
            return Arc::new(table.plan(&self.site(services)));
        }
        let service = answer.services().first().map_or("", |service| &*service.key).to_owned();
        if own.is_none()
            && let Some(plan) = self.shared_plans.get(&service)
        {
            return plan.clone();
        }
        let mut table = self.global.clone();
        if let Some(of_service) = self.service_tables.get(&service) {
            table = table.overlaid(of_service);
        }
        if let Some(own) = own {
            return Arc::new(table.overlaid(&own).plan(&self.site(answer.services())));
        }
        let plan = Arc::new(table.plan(&self.site(answer.services())));
        self.shared_plans.insert(service, plan.clone());
        plan
    }

    /// What a route that answers GraphQL by itself has: a guard in any case.
    pub(super) fn with_guard(&mut self, config: &RouteConfig, place: Place, id: &str, own: Option<Table>) -> Table {
        let of_route = config.policies.as_ref().and_then(|Raw(node)| node.get(Graphql::NAME));
        if of_route.is_some_and(|node| node.as_str() == Some("false")) {
            let problem =
                Problem::error(place, "what clients ask of a schema has bounds, and `graphql: false` would take them away");
            self.problems.push(problem.hint("write `policies: { graphql: { ... } }`, or leave it out for its defaults"));
        }
        let own = own.unwrap_or_default();
        if of_route.is_some() || self.of_service("", Graphql::NAME).is_some() {
            return own;
        }
        let nothing = Arc::new(Node { place, kind: Kind::Map(Vec::new()) });
        self.table_of(Graphql::NAME, &format!("route:{id}"), &nothing).overlaid(&own)
    }

    pub(super) fn site<'s>(&'s self, services: &'s [Arc<Service>]) -> Site<'s> {
        Site { services, ledger: &self.around.ledger, tallies: self.around.metrics.tallies() }
    }

    /// Whoever a document of OpenAPI wants proved, has to be proved by something.
    pub(super) fn look_for_proof(&mut self, config: &'a RouteConfig, answer: &Answer, plan: &Plan) {
        let Some(openapi) = &plan.options.openapi else { return };
        let service = answer.services().first().map_or("", |service| &*service.key);
        openapi.look_for_proof(self.written(config, service, "authn"), self.problems);
    }

    /// What is written about this policy for a route with this service (none: ""): by the route, the service, or for all. `None` if it is off.
    pub(super) fn written(&self, config: &'a RouteConfig, service: &str, policy: &str) -> Option<&'a Node> {
        let own = config.policies.as_ref().and_then(|Raw(node)| node.get(policy));
        match own {
            Some(own) => Some(own).filter(|node| node.as_str() != Some("false")),
            None => self.of_service(service, policy),
        }
    }

    /// The same where the route says nothing of it.
    pub(super) fn of_service(&self, service: &str, policy: &str) -> Option<&'a Node> {
        let of_service = self.document.services.get(service).and_then(|config| config.policies.as_ref());
        let mut tables = [of_service, self.document.policies.as_ref()].into_iter().flatten();
        tables.find_map(|Raw(node)| node.get(policy)).filter(|node| node.as_str() != Some("false"))
    }

    /// Whether an `authn` is written for any route. Where there is one, a limit for all may well count addresses on the open routes.
    fn says_who_anywhere(&self) -> bool {
        let of_services = self.document.services.values().map(|service| service.policies.as_ref());
        let of_routes = self.document.routes.iter().map(|route| route.policies.as_ref());
        let mut tables = of_services.chain(of_routes).chain([self.document.policies.as_ref()]).flatten();
        tables.any(|Raw(node)| node.get("authn").is_some())
    }

    /// Conditions on who it is refuse everybody where nothing says who it is, and limits by who it is tell nobody apart.
    fn look_for_identity(&mut self, config: &'a RouteConfig, answer: &Answer) {
        let Some(service) = answer.services().first().map(|service| &*service.key) else { return };
        if self.written(config, service, "authn").is_some() {
            return;
        }
        let by_nobody = if self.says_who_anywhere() { &[][..] } else { &by::POLICIES };
        for policy in by_nobody {
            let Some(limits) = self.written(config, service, policy) else { continue };
            let each = if limits.items().is_empty() { std::slice::from_ref(limits) } else { limits.items() };
            let of_identity = each.iter().filter_map(|limit| limit.get("by")).find(|by| by::asks_who(by));
            if let Some(by) = of_identity {
                let message = format!("`{policy}` tells nobody apart by who they are: there is no `authn` that would say it");
                let hint = "add `authn`, here or for all routes; without it, each client address has a limit of its own";
                self.problems.push(Problem::warning(by.place, message).hint(hint));
            }
        }
        let Some(authz) = self.written(config, service, "authz") else { return };
        let entries = if authz.items().is_empty() { std::slice::from_ref(authz) } else { authz.items() };
        let of_identity = entries.iter().flat_map(Node::entries).find(|(key, _)| authz::asks_who(&key.text));
        if let Some((key, _)) = of_identity {
            let message = format!("`{}` refuses everybody: there is no `authn` that would say who a client is", key.text);
            self.problems.push(Problem::warning(key.place, message).hint("add `authn`, here or for all routes"));
        }
    }

    /// The policies that requests to a service meet, and answers of it, but for those who come to it by another road: those that the route does
    /// not name, and in whose stead there is not the same `here`.
    pub(super) fn missed(
        &self,
        config: &RouteConfig,
        service: &str,
        here: impl Fn(&Entry) -> Option<&'a Node>,
    ) -> Vec<&'static str> {
        let meant = REGISTRY.iter().filter(|entry| entry.stage != Stage::Shape || SHAPING.contains(&entry.name));
        let missed = meant.filter(|entry| {
            let there = self.of_service(service, entry.name);
            there.is_some() && !names(config, entry.name) && !are_the_same(here(entry), there)
        });
        missed.map(|entry| entry.name).collect()
    }

    /// Those that change fields and are not the same for both services, where the route does not name them: a stand-in is asked in the fields
    /// that were made for the first service, which may be credentials, and answers in those of the first one's answers.
    fn other_fields(&self, config: &RouteConfig, first: &str, stand_in: &str) -> impl Iterator<Item = &'static str> {
        FIELDS.into_iter().filter(move |name| {
            !names(config, name) && !are_the_same(self.of_service(first, name), self.of_service(stand_in, name))
        })
    }

    /// Nobody comes to a service as another one's stand-in who would not come to it by itself, nor to what of its answers is kept from
    /// clients: a client can bring about many a failure of the first one.
    pub(super) fn look_at_stand_in(&mut self, config: &RouteConfig, answer: &Answer) {
        let Some(stand_in) = config.fallback.as_ref().and_then(|fallback| fallback.service.as_ref()) else { return };
        let first = answer.services().first().map_or("", |service| &*service.key);
        let other: Vec<_> = self.other_fields(config, first, &stand_in.value).collect();
        let missed = self.missed(config, &stand_in.value, |entry| self.of_service(first, entry.name));
        for name in missed.into_iter().chain(other) {
            let whose = if self.of_service(&stand_in.value, name).is_some() { &*stand_in.value } else { first };
            let message = match whose == first {
                true => format!("`{first}` has a `{name}` that is not that of `{}`, which stands in here for it", stand_in.value),
                false => format!("`{whose}` has a `{name}` that is not this route's, and stands in here for another service"),
            };
            let hint = format!("write `{name}` under this route's `policies`, the same or another, or `{name}: false`");
            self.problems.push(Problem::error(stand_in.place, message).hint(hint));
        }
    }

    /// The policies of a split, but for the route's own. One table stands for all its services, so what judges a request must be the
    /// same for each: otherwise it would be chance, or the client's cookie, that decides which judgement a request meets.
    pub(super) fn split_table(&mut self, config: &'a RouteConfig, services: &[Arc<Service>]) -> Table {
        let judging = REGISTRY.iter().filter(|entry| !registry::is_of_service(entry));
        for entry in judging.filter(|entry| !names(config, entry.name)) {
            let of = |service: &Service| self.written(config, &service.key, entry.name);
            let Some((first, others)) = services.split_first() else { continue };
            let Some(differs) = others.iter().position(|other| !are_the_same(of(first), of(other))) else { continue };
            let place = config.split.iter().flatten().nth(differs + 1).map_or(config.path.place, |target| target.service.place);
            let other = others.get(differs).map_or("", |other| &*other.key);
            let message = format!("`{}` and `{other}` share this route, but not their `{}`", first.key, entry.name);
            let hint = format!("write `{}` under this route's `policies`: it holds whichever of them answers", entry.name);
            self.problems.push(Problem::error(place, message).hint(hint));
        }
        let none = Table::default();
        let tables: Vec<&Table> =
            services.iter().map(|service| self.service_tables.get(&*service.key).unwrap_or(&none)).collect();
        self.global.split(&tables)
    }
}

/// Whether the route itself names a policy.
fn names(config: &RouteConfig, policy: &str) -> bool {
    config.policies.as_ref().is_some_and(|Raw(node)| node.get(policy).is_some())
}

/// Whether two services say the same of a policy; be it nothing.
fn are_the_same(one: Option<&Node>, other: Option<&Node>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.says_the_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}
