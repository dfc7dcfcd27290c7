//! May it? Judges the proved identity and the request, or refuses with 403.
//!
//! [`Authz`] holds one entry or several, each for all methods or for some. Whatever an applicable entry says must hold: its lists
//! about who it is ([`conditions`]), and its [`rules`]. A client that proved nothing is refused by every list: where anonymous
//! clients are welcome, leave them out. It is told 403 even then, because asking for credentials is `authn`'s part, and that let the
//! client pass. Rules judge anonymous clients as well.
//!
//! [`external`] asks another service.

pub mod claims;
pub mod conditions;
pub mod external;
pub mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use self::conditions::Conditions;
use self::rules::{RuleConfig, Rules};
use super::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::exchange::{Exchange, Written};
use crate::head::RequestHead;
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Spanned};

const NAME: &str = "authz";

/// What `Identity::method` says of those who came with a Bearer token.
const BEARER: [&str; 2] = ["jwt", "introspection"];

/// Who may. At least one condition; lists cannot be empty. Everything that is written must hold. A list of such tables for conditions that
/// differ by method: every one for the request's method must hold, and a method that none of them is about is refused.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthzConfig {
    /// The methods that this is about. `GET` includes `HEAD`. Default: all.
    pub methods: Option<Vec<Spanned<String>>>,
    /// `true` leaves `methods` open to whoever `authn` let in: for the methods that need no condition beside others that do.
    pub anyone: Option<Spanned<bool>>,
    /// Scopes that are needed, all of them.
    pub scopes: Option<Vec<Spanned<String>>>,
    /// Scopes of which one is needed.
    pub any_scope: Option<Vec<Spanned<String>>>,
    /// The roles of which one is needed, as a token's claim has them.
    pub roles: Option<Vec<Spanned<String>>>,
    /// The claim with the roles, a text or a list of texts: `realm_access.roles`. Default: `roles`.
    pub roles_claim: Option<Spanned<String>>,
    /// What a token's claims have to be. The name of a nested claim has dots (`realm_access.roles`), or is a JSON Pointer
    /// (`/resource_access/my.app/roles`); one with a colon (`https://example.com/tenant`) is taken whole. Compared with a value, a list of
    /// which one is needed, `{ one_of: [...] }`, `{ all_of: [...] }` or `{ exists: true }`. A claim that is a list has each of its elements.
    pub claims: Option<BTreeMap<String, Spanned<serde_json::Value>>>,
    /// The only consumers that may.
    pub consumers: Option<Vec<Spanned<String>>>,
    /// The groups of which one is needed.
    pub groups: Option<Vec<Spanned<String>>>,
    /// Consumers that may not, whatever else holds.
    pub deny_consumers: Option<Vec<Spanned<String>>>,
    /// Groups whose members may not, whatever else holds.
    pub deny_groups: Option<Vec<Spanned<String>>>,
    /// Rules in CEL, at most 100: the first that holds decides. Where none does, the request passes, unless there is an `allow` among them. A
    /// rule that fails (it reads a header that is not there, say) refuses the request, is counted and logged.
    pub rules: Vec<RuleConfig>,
}

type List = Option<Vec<Spanned<String>>>;

/// [`AuthzConfig`], compiled.
pub struct Authz {
    entries: Vec<Entry>,
}

struct Entry {
    /// Empty for all.
    methods: Vec<Method>,
    conditions: Option<Conditions>,
    rules: Option<Rules>,
}

impl Policy for Authz {
    const NAME: &'static str = NAME;
    const STAGE: Stage = Stage::Authz;
    const SUMMARY: &'static str = "Admits by scope, role, claim, consumer, group and rule (403).";
    type Config = OneOrMany<AuthzConfig>;

    fn compile(configs: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        if configs.is_empty() {
            cx.problems.push(Problem::error(cx.place, "`authz` without an entry checks nothing"));
            return None;
        }
        let mut numbered = 0;
        let entries: Vec<Option<Entry>> = configs
            .iter()
            .map(|config| {
                let entry = Entry::compile(config, numbered, cx);
                numbered += config.rules.len();
                entry
            })
            .collect();
        Some(Authz { entries: entries.into_iter().collect::<Option<_>>()? })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().by_readings |= self.entries.iter().any(|entry| entry.rules.as_ref().is_some_and(Rules::look_at_path));
        plan.on_request(self);
    }
}

/// Whether this key is a condition that a client who proved nothing cannot meet.
pub fn asks_who(key: &str) -> bool {
    let lists = ["scopes", "any_scope", "roles", "claims", "consumers", "groups", "deny_consumers", "deny_groups"];
    lists.contains(&key)
}

impl Entry {
    fn compile(config: &AuthzConfig, numbered: usize, cx: &mut Compile<'_>) -> Option<Entry> {
        // Each says what is wrong with it before any gives up.
        let methods = methods(&config.methods, cx);
        let conditions = Conditions::compile(config, cx);
        let rules = Rules::compile(&config.rules, numbered, cx);
        let (methods, conditions, rules) = (methods?, conditions.ok()?, rules.ok()?);
        let conditional = conditions.is_some() || rules.is_some();
        match &config.anyone {
            None if conditional => {}
            None => {
                let problem = Problem::error(cx.place, "`authz` without a condition checks nothing");
                let hint = "scopes, any_scope, roles, claims, consumers, groups, deny_consumers, deny_groups or rules";
                cx.problems.push(problem.hint(match methods.is_empty() {
                    true => hint.to_owned(),
                    false => format!("{hint}; or `anyone: true` for methods that need none"),
                }));
                return None;
            }
            Some(anyone) => {
                let wrong = if !**anyone {
                    "`anyone` is `true` or left out"
                } else if conditional {
                    "`anyone` goes with no condition"
                } else if methods.is_empty() {
                    "`anyone` without `methods` would check nothing: turn the policy off with `authz: false`"
                } else {
                    return Some(Entry { methods, conditions, rules });
                };
                cx.problems.push(Problem::error(anyone.place, wrong));
                return None;
            }
        }
        Some(Entry { methods, conditions, rules })
    }

    fn is_about(&self, method: &Method) -> bool {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.methods.is_empty() || self.methods.contains(method)
    }
}

impl OnRequest for Authz {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        self.decide(head, exchange)?;
        match exchange.written.take() {
            None => Flow::Continue(()),
            Some(mut written) => {
                let flow = self.decide_for_all(head, exchange, &mut written);
                exchange.written = Some(written);
                flow
            }
        }
    }
}

impl Authz {
    /// What may pass by the path as it is matched has to pass by every other reading of it: a backend acts by one of them.
    fn decide_for_all(&self, head: &RequestHead, exchange: &mut Exchange, written: &mut Written) -> Flow {
        for reading in &mut written.readings {
            let read = RequestHead { path: reading.path.clone(), ..head.clone() };
            std::mem::swap(&mut exchange.params, &mut reading.params);
            let flow = self.decide(&read, exchange);
            std::mem::swap(&mut exchange.params, &mut reading.params);
            if flow.is_break() && reading.destination {
                return flow;
            }
            if flow.is_break() {
                return Reply::ambiguous_path().refuse();
            }
        }
        Flow::Continue(())
    }

    fn decide(&self, head: &RequestHead, exchange: &Exchange) -> Flow {
        let mut judged = false;
        for entry in self.entries.iter().filter(|entry| entry.is_about(&head.method)) {
            judged = true;
            if let Some(conditions) = &entry.conditions {
                conditions.check(exchange.identity.as_deref())?;
            }
            if let Some(rules) = &entry.rules {
                rules.check(head, exchange)?;
            }
        }
        if !judged {
            // Whoever wrote conditions for some methods did not mean the others, nor those that clients make up, to be open.
            let detail = "This resource is not open to this method.";
            return Reply::new(StatusCode::FORBIDDEN, NAME, "method_not_covered", detail).refuse();
        }
        Flow::Continue(())
    }
}

fn methods(list: &List, cx: &mut Compile<'_>) -> Option<Vec<Method>> {
    let Some(list) = list else { return Some(Vec::new()) };
    if list.is_empty() {
        cx.problems.push(Problem::error(cx.place, "`methods` cannot be empty").hint("leave the key out for all methods"));
        return None;
    }
    let mut methods = Vec::with_capacity(list.len());
    for written in list {
        let upper = written.value.to_ascii_uppercase();
        match Method::from_bytes(written.value.as_bytes()) {
            Ok(_) if written.value == "*" => {
                let problem = Problem::error(written.place, "`*` is no method that clients send");
                cx.problems.push(problem.hint("leave `methods` out for all methods"));
                return None;
            }
            // Methods differ by case (RFC 9110, section 9.1), so that `post` would never be asked about.
            Ok(_) if upper != written.value => {
                let problem = Problem::error(written.place, format!("`{}` is no method that clients send", written.value));
                cx.problems.push(problem.hint(format!("did you mean `{upper}`?")));
                return None;
            }
            Ok(Method::HEAD) => {
                let problem = Problem::error(written.place, "`HEAD` is included in `GET`, so that it is never the laxer one");
                cx.problems.push(problem.hint("write `GET`"));
                return None;
            }
            Ok(method) => methods.push(method),
            Err(_) => {
                cx.problems.push(Problem::error(written.place, format!("`{}` is no method", written.value)));
                return None;
            }
        }
    }
    Some(methods)
}

#[cfg(test)]
mod tests;
