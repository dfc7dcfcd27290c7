//! Every policy there is, in the order of the stages. A policy's line here gives its configuration key, its JSON Schema, its line in
//! `portcullis policies` and its entry in the reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{Compile, Plan, PlanBuilder, Policy, Stage};
use crate::ledger::Ledger;
use crate::node::{self, Kind, Node};
use crate::problem::{Problem, did_you_mean, foreign};
use crate::tally::Tallies;
use crate::upstream::Service;

/// A policy that was compiled, whatever its type.
pub trait Installable: Send + Sync {
    fn install_into(self: Arc<Self>, plan: &mut PlanBuilder);
    /// See [`Policy::PER_SERVICE`].
    fn is_per_service(&self) -> bool;
    fn install_for(self: Arc<Self>, at: &Site<'_>, service: &Service, plan: &mut PlanBuilder);
}

/// Where a plan is made.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The services that the route leads to; several for a split, in its order.
    pub services: &'a [Arc<Service>],
    pub ledger: &'a Ledger,
    pub tallies: &'a Tallies,
}

impl<P: Policy> Installable for P {
    fn install_into(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.add(self);
    }

    fn is_per_service(&self) -> bool {
        P::PER_SERVICE
    }

    fn install_for(self: Arc<Self>, at: &Site<'_>, service: &Service, plan: &mut PlanBuilder) {
        plan.add_for(self, service, at.ledger, at.tallies);
    }
}

/// A policy's line.
pub struct Entry {
    pub name: &'static str,
    pub stage: Stage,
    pub summary: &'static str,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    compile: fn(&Node, &mut Compile<'_>) -> Option<Arc<dyn Installable>>,
}

const fn entry<P: Policy>() -> Entry {
    Entry {
        name: P::NAME,
        stage: P::STAGE,
        summary: P::SUMMARY,
        schema: |generator| generator.subschema_for::<P::Config>(),
        compile: |node, cx| {
            let before = cx.problems.len();
            let config = node::decode::<P::Config>(node, cx.problems);
            if let Some(key) = only_required::<P::Config>(node) {
                cx.problems.drop_from(before, |_| true);
                let example = node.as_str().filter(|text| !text.contains(char::is_control) && text.len() < 40).unwrap_or("...");
                let problem = Problem::error(node.place(), format!("`{}` is a table", P::NAME));
                cx.problems.push(problem.hint(format!("write `{}: {{ {key}: {example} }}`", P::NAME)));
            }
            let (decoded, place) = (cx.problems.len(), cx.place);
            let policy = config.and_then(|config| P::compile(&config, cx));
            if decoded > before {
                // What the policy as a whole lacks then, it lacks because of what was refused in it.
                cx.problems.drop_from(decoded, |problem| problem.place == place);
            }
            Some(Arc::new(policy?))
        },
    }
}

/// The one key that a table of this type needs, where its value alone was written instead: `rate_limit: 5/minute`.
fn only_required<C: JsonSchema>(node: &Node) -> Option<String> {
    let Kind::Scalar(found) = &node.kind else { return None };
    if found.is_interpolated() || found.text == "true" {
        return None;
    }
    let mut generator = SchemaGenerator::default();
    let schema = C::json_schema(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    let alternatives = schema.get("anyOf").and_then(|all| all.as_array()).into_iter().flatten();
    let mut tables = std::iter::once(&schema).chain(alternatives).map(|schema| {
        let name = schema.get("$ref").and_then(|path| path.as_str()).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| definitions.get(name)).unwrap_or(schema)
    });
    match tables.find_map(|table| table.get("required").and_then(|keys| keys.as_array()))?.as_slice() {
        [key] => key.as_str().map(str::to_owned),
        _ => None,
    }
}

/// Whether a policy works on answers behind those that hold them to contracts.
pub fn is_behind_contracts(name: &str) -> bool {
    let place = |name: &str| REGISTRY.iter().position(|entry| entry.name == name);
    place(name) > place(super::shape::answer_contract::AnswerContract::NAME)
}

/// The examples of docs/develop/add-a-policy.md, which are policies in this build alone.
#[cfg(test)]
pub const EXAMPLES: [&str; 3] = ["maintenance", "served_by", "shout"];

/// In the order of execution.
pub static REGISTRY: &[Entry] = &[
    entry::<super::edge::cors::Cors>(),
    entry::<super::edge::size::Bounds>(),
    entry::<super::edge::ip_restriction::IpRestriction>(),
    entry::<super::edge::address_limit::AddressLimit>(),
    entry::<super::edge::websocket::WebSocket>(),
    // Here and below: the examples, tried as they stand on their page.
    #[cfg(test)]
    entry::<super::edge::maintenance::Maintenance>(),
    entry::<super::validate::csrf::Csrf>(),
    entry::<super::validate::request::Validate>(),
    entry::<super::validate::openapi::Openapi>(),
    entry::<super::validate::graphql::Graphql>(),
    entry::<super::authn::Authn>(),
    entry::<super::authz::Authz>(),
    entry::<super::authz::external::ExternalAuth>(),
    entry::<super::admit::rate_limit::RateLimit>(),
    entry::<super::admit::quota::Quotas>(),
    entry::<super::admit::throttle::Throttle>(),
    entry::<super::admit::priority::PriorityOf>(),
    entry::<super::admit::concurrency::ConcurrencyLimit>(),
    entry::<super::admit::adaptive::AdaptiveConcurrency>(),
    entry::<super::admit::fault::Fault>(),
    entry::<super::shape::headers::RequestHeaders>(),
    entry::<super::shape::reshape::Reshape>(),
    entry::<super::shape::answer_contract::AnswerContract>(),
    entry::<super::shape::etag::Etag>(),
    entry::<super::shape::security_headers::SecurityHeaders>(),
    entry::<super::shape::headers::ResponseHeaders>(),
    entry::<super::shape::compress::Compress>(),
    entry::<crate::cache::CachePolicy>(),
    entry::<super::shape::error_pages::ErrorPages>(),
    entry::<super::shape::mirror::Mirror>(),
    #[cfg(test)]
    entry::<super::shape::served_by::ServedBy>(),
    #[cfg(test)]
    entry::<super::shape::shout::Shout>(),
];

/// Whether a policy that is written at a service is about how much that service is asked, and not about who may ask: behind a split,
/// it works for the requests that go to that service.
pub fn is_of_service(entry: &Entry) -> bool {
    entry.stage == Stage::Admit
}

/// Policies that do nothing with `{}`: written at a route, that would undo what a service or all routes have.
const EMPTY_SAYS_NOTHING: [&str; 4] = ["bounds", "ip_restriction", "reshape", "validate"];

/// What one `policies:` table says about one policy.
#[derive(Clone)]
enum Slot {
    Off,
    On(Arc<dyn Installable>),
    /// What each service of a split has of its own, or nothing.
    Each(Vec<Option<Arc<dyn Installable>>>),
}

/// One compiled `policies:` table, or several laid over each other.
#[derive(Clone, Default)]
pub struct Table(BTreeMap<usize, Slot>);

impl Table {
    /// Compiles one table. Every problem in it goes to `cx.problems`.
    pub fn compile(node: &Node, cx: &mut Compile<'_>) -> Table {
        let mut table = BTreeMap::new();
        if !matches!(node.kind, Kind::Map(_)) {
            let found = if node.is_null() { ", and there is nothing in it" } else { "" };
            let problem = Problem::error(node.place(), format!("`policies` is a table of policy names{found}"));
            cx.problems.push(if node.is_null() { problem.hint("leave the key out") } else { problem });
            return Table(table);
        }
        for (key, value) in node.entries() {
            let Some(index) = REGISTRY.iter().position(|entry| entry.name == key.text) else {
                let names = || REGISTRY.iter().map(|entry| entry.name);
                let near = did_you_mean(&key.text, names());
                let hint =
                    match near.map(|near| format!("did you mean `{near}`?")).or(foreign::policy(&key.text).map(str::to_owned)) {
                        Some(hint) => hint,
                        None => format!("the policies are {}", names().collect::<Vec<_>>().join(", ")),
                    };
                cx.problems.push(Problem::error(key.place, format!("unknown policy `{}`", key.text)).hint(hint));
                continue;
            };
            if value.as_str() == Some("false") {
                table.insert(index, Slot::Off);
                continue;
            }
            cx.place = key.place;
            let compile = REGISTRY.get(index).map(|entry| entry.compile);
            let policy = compile.and_then(|compile| compile(value, cx));
            if policy.is_some()
                && EMPTY_SAYS_NOTHING.contains(&key.text.as_str())
                && matches!(&value.kind, Kind::Map(all) if all.is_empty())
            {
                let problem = Problem::error(key.place, format!("`{}` without a setting does nothing", key.text));
                cx.problems.push(problem.hint("`false` turns a policy off"));
                continue;
            }
            if let Some(policy) = policy {
                table.insert(index, Slot::On(policy));
            }
        }
        Table(table)
    }

    /// Lays `over` on top: what it says of a policy replaces, whole, what this table says.
    pub fn overlaid(&self, over: &Table) -> Table {
        let mut merged = self.0.clone();
        merged.extend(over.0.iter().map(|(index, slot)| (*index, slot.clone())));
        Table(merged)
    }

    /// Lays what the services of a split say on top, in the split's order. A policy that bounds what a service is asked
    /// ([`is_of_service`]) works for the requests that go to that service; of the others, the services say the same.
    pub fn split(&self, services: &[&Table]) -> Table {
        let mut merged = self.clone();
        for index in services.iter().flat_map(|service| service.0.keys()) {
            let of = |table: &Table| match table.0.get(index).or(self.0.get(index)) {
                Some(Slot::On(policy)) => Some(policy.clone()),
                _ => None,
            };
            let each = services.iter().map(|service| of(service));
            let slot = match REGISTRY.get(*index).is_some_and(is_of_service) {
                true => Slot::Each(each.collect()),
                false => each.flatten().next().map_or(Slot::Off, Slot::On),
            };
            merged.0.insert(*index, slot);
        }
        merged
    }

    /// What it says of these policies, and of no others.
    pub fn only(mut self, names: &[&str]) -> Table {
        self.0.retain(|index, _| REGISTRY.get(*index).is_some_and(|entry| names.contains(&entry.name)));
        self
    }

    /// The policies that are on, but for these.
    pub fn names_beside(&self, names: &[&str]) -> Vec<&'static str> {
        let on = self.0.iter().filter(|(_, slot)| !matches!(slot, Slot::Off));
        on.filter_map(|(index, _)| REGISTRY.get(*index)).map(|entry| entry.name).filter(|name| !names.contains(name)).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The plan of a route with this table.
    pub fn plan(&self, at: &Site<'_>) -> Plan {
        let mut builder = PlanBuilder::new();
        let of_split = |number: u32| (at.services.len() > 1).then_some(number);
        let services = || (0..).zip(at.services);
        for slot in self.0.values() {
            match slot {
                Slot::Off => {}
                Slot::On(policy) if policy.is_per_service() => {
                    for (number, service) in services() {
                        builder.only_for(of_split(number));
                        policy.clone().install_for(at, service, &mut builder);
                    }
                }
                Slot::On(policy) => policy.clone().install_into(&mut builder),
                Slot::Each(policies) => {
                    for ((number, service), policy) in services().zip(policies) {
                        let Some(policy) = policy else { continue };
                        builder.only_for(Some(number));
                        policy.clone().install_for(at, service, &mut builder);
                    }
                }
            }
            builder.only_for(None);
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_in_the_order_of_the_stages() {
        assert!(REGISTRY.is_sorted_by_key(|entry| entry.stage));
        let mut names: Vec<_> = REGISTRY.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGISTRY.len());
    }
}
