//! Routes with views: each view is a route behind the route, which has its steps up to the question who it is and whether he may; the view's
//! own say the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Compiler;
use crate::config::Document;
use crate::node::{Kind, Node};
use crate::policy::registry::{REGISTRY, Table};
use crate::policy::shape::view::OfView as Marks;
use crate::policy::{Plan, Stage, Step, Work};
use crate::problem::Problem;
use crate::route::views::{Tags, ViewConfig, Views, ViewsConfig};
use crate::route::{Matcher, Rewrite, RouteConfig};
use crate::snapshot::{Answer, OfView, Route};
use crate::value::{Raw, Spanned};

/// What is written of each view, as if it were of a route: by the number of its route.
pub(super) type Written = BTreeMap<usize, Vec<Spanned<RouteConfig>>>;

/// The routes that views are written as.
pub(super) fn written(document: &Document) -> Written {
    let with_views =
        document.routes.iter().enumerate().filter_map(|(number, route)| Some((number, route, route.views.as_ref()?)));
    with_views.map(|(number, route, views)| (number, views.0.iter().map(|(_, view)| as_route(route, view)).collect())).collect()
}

fn as_route(route: &Spanned<RouteConfig>, view: &Spanned<ViewConfig>) -> Spanned<RouteConfig> {
    let mut config = RouteConfig { views: None, view_parameter: None, ..route.value.clone() };
    let own = view.service.is_some() || view.compose.is_some() || view.port.is_some();
    if own {
        (config.service, config.port, config.compose) = (view.service.clone(), view.port, view.compose.clone());
        (config.split, config.sticky, config.graphql) = (None, None, None);
    }
    if let Some(Raw(over)) = &view.policies {
        config.policies = Some(match &config.policies {
            Some(Raw(under)) => Raw(Arc::new(overlaid(under, over))),
            None => Raw(over.clone()),
        });
    }
    Spanned::new(config, if own { view.place } else { route.place })
}

/// What is written of policies, one table over the other.
fn overlaid(under: &Node, over: &Node) -> Node {
    let kept = under.entries().iter().filter(|(key, _)| over.get(&key.text).is_none());
    Node { kind: Kind::Map(kept.chain(over.entries()).cloned().collect()), ..over.clone() }
}

impl<'a> Compiler<'a> {
    /// The route and its views, in that order. `first`: the number that the route will have.
    pub(super) fn viewed(
        &mut self,
        config: &'a Spanned<RouteConfig>,
        written: &'a [Spanned<RouteConfig>],
        (matcher, id, first): (Option<&Matcher>, &Arc<str>, usize),
        own: Option<Table>,
    ) -> Option<Vec<Route>> {
        let before = self.problems.error_count();
        let views = config.views.as_ref()?;
        let sketches = Views::sketch(views, self.problems);
        self.look_at_parameter(config);
        let mut routes = Vec::new();
        for ((name, view), written) in views.0.iter().zip(written) {
            let table = view.policies.as_ref().map(|Raw(node)| {
                self.refuse_what_judges(node);
                self.table(&format!("route:{id}@{name}"), &config.path.value, node)
            });
            let own = match (&own, table) {
                (Some(own), Some(table)) => own.overlaid(&table),
                (own, table) => table.or_else(|| own.clone()).unwrap_or_default(),
            };
            let so_far = self.problems.len();
            let compiled = self.route(written, (matcher, id, Some(name)), Some(own));
            // What the route says, and every view has, is said of it once.
            let known: Vec<_> = self.problems.iter().take(so_far).map(|known| (known.place, known.message.clone())).collect();
            self.problems.drop_from(so_far, |again| known.contains(&(again.place, again.message.clone())));
            routes.extend(compiled);
        }
        let sketches = sketches?;
        if self.problems.error_count() > before || routes.len() != sketches.len() {
            return None;
        }
        let answer = Answer::Views(services(&routes));
        let service = answer.services().first().map_or("", |service| &*service.key);
        self.look_for_who(config, service, views);
        let mut plan = self.plan(config, own, &answer);
        let judging = Arc::get_mut(&mut plan)?;
        judging.steps.retain(is_before);
        // Whether a path may be read otherwise is asked before it is known which view it is for.
        judging.options.by_path |= routes.iter().any(|route| route.plan.options.by_path);
        judging.options.by_params |= routes.iter().any(|route| route.plan.options.by_params);
        let credentials = judging.options.credential_headers.clone();
        (judging.options.cache, judging.options.mirror) = (None, None);
        judging.steps.push(Step { stage: Stage::Authz, name: "views", work: Work::View, service: None, proves: false });
        let tallies = self.around.metrics.tallies();
        let help = "Requests of routes with views, by the view that they got.";
        let count = |name: &str| tallies.counter("portcullis_route_views_total", help, &[("route", id), ("view", name)]);
        let numbers = (first + 1..).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let counted: Vec<_> = numbers.zip(sketches.iter().map(|sketch| count(&sketch.name))).collect();
        let names: Vec<Arc<str>> = sketches.iter().map(|sketch| sketch.name.clone()).collect();
        let parameter = config.view_parameter.as_ref().map(|parameter| &parameter.value);
        let views = Views::new(sketches, counted, parameter, &credentials);
        for (route, name) in routes.iter_mut().zip(names) {
            let tags = Tags::new(&name);
            let plan = Arc::get_mut(&mut route.plan)?;
            plan.steps.retain(|step| !is_before(step));
            plan.response.push(Arc::new(Marks { tags: tags.clone(), by_who: views.by_who }));
            route.view = Some(Box::new(OfView { name, tags }));
        }
        let matcher = matcher?;
        let rewrite = Rewrite::compile(config, matcher, self.problems);
        let back = self.rewrite_back(config, None)?;
        let made = self.made(config, (matcher, id), (plan, answer));
        let route = Route { rewrite, back, views: Some(Box::new(views)), ..made };
        routes.insert(0, route);
        Some(routes)
    }

    fn look_at_parameter(&mut self, config: &RouteConfig) {
        let Some(parameter) = &config.view_parameter else { return };
        let name = &parameter.name;
        if name.value.is_empty() || name.value.len() > 64 || name.value.chars().any(char::is_control) {
            let place = if name.place.is_known() { name.place } else { parameter.place };
            self.problems.push(Problem::error(place, "the name of a parameter has 1 to 64 printable characters"));
        }
    }

    /// A view for some is for nobody where nothing says who a client is.
    fn look_for_who(&mut self, config: &'a RouteConfig, service: &str, views: &ViewsConfig) {
        if self.written(config, service, "authn").is_some() {
            return;
        }
        for (name, view) in &views.0 {
            let lists = [&view.consumers, &view.groups, &view.plans, &view.scopes];
            if let Some(first) = lists.into_iter().flatten().flat_map(|list| list.iter()).next() {
                let message = format!("nobody gets the view `{name}`: there is no `authn` that would say who a client is");
                self.problems.push(Problem::warning(first.place, message).hint("add `authn`, here or for all routes"));
            }
        }
    }

    /// Which view it is is known when it has been judged.
    fn refuse_what_judges(&mut self, node: &Node) {
        for (key, _) in node.entries() {
            let judges = REGISTRY.iter().any(|entry| entry.name == key.text && entry.stage < Stage::Admit);
            if judges {
                let message = format!("`{}` is asked before it is known which view a request gets", key.text);
                self.problems.push(Problem::error(key.place, message).hint("write it under the route's `policies`"));
            }
        }
    }

    /// The plan of a route whose views answer: what each of their services says of whom it lets in has to be the same.
    pub(super) fn views_plan(&mut self, config: &'a RouteConfig, own: Option<Table>, answer: &Answer) -> Plan {
        let services = answer.services();
        let table = if services.is_empty() { self.global.clone() } else { self.split_table(config, services) };
        let table = match own {
            Some(own) => table.overlaid(&own),
            None => table,
        };
        table.plan(&self.site(services))
    }
}

fn is_before(step: &Step) -> bool {
    step.stage < Stage::Admit
}

/// Those that are asked by themselves, each once.
fn services(routes: &[Route]) -> Vec<Arc<crate::upstream::Service>> {
    let mut all: Vec<Arc<crate::upstream::Service>> = Vec::new();
    for service in routes.iter().flat_map(|route| route.answer.services()) {
        if !all.iter().any(|known| known.key == service.key) {
            all.push(service.clone());
        }
    }
    all
}
