//! Conditions on who it is: consumers, groups, roles, claims and scopes, as lists.

use std::collections::HashSet;
use std::ops::ControlFlow;

use http::{HeaderValue, StatusCode, header};

use super::claims::{ClaimPath, ClaimTest};
use super::{AuthzConfig, List, NAME};
use crate::exchange::Identity;
use crate::policy::Compile;
use crate::problem::{Place, Problem, Severity, did_you_mean};
use crate::reply::{Flow, Reply};

type Names = HashSet<Box<str>, ahash::RandomState>;

/// The lists of one entry, compiled. An empty one asks for nothing.
pub struct Conditions {
    scopes: Vec<Box<str>>,
    any_scope: Vec<Box<str>>,
    consumers: Names,
    groups: Names,
    deny_consumers: Names,
    deny_groups: Names,
    roles: Option<(ClaimPath, ClaimTest)>,
    claims: Vec<(ClaimPath, ClaimTest)>,
    /// `Bearer error="insufficient_scope", scope="..."`, and the same without naming scopes.
    lacks_scopes: HeaderValue,
    lacks_any_scope: HeaderValue,
}

#[derive(Clone, Copy)]
enum Denial {
    Anonymous,
    ConsumerDenied,
    ConsumerNotAllowed,
    GroupDenied,
    GroupNotAllowed,
    RoleNotAllowed,
    ClaimNotAllowed,
    LacksScopes,
    LacksAnyScope,
}

impl Conditions {
    /// `Ok(None)` if there are none; `Err` if something is wrong with them, which was said.
    pub(super) fn compile(config: &AuthzConfig, cx: &mut Compile<'_>) -> Result<Option<Conditions>, ()> {
        let lists = [
            &config.scopes,
            &config.any_scope,
            &config.roles,
            &config.consumers,
            &config.groups,
            &config.deny_consumers,
            &config.deny_groups,
        ];
        let before = cx.problems.len();
        // An empty list could mean "everyone" or "no one"; neither should be guessed.
        if lists.iter().any(|list| list.as_ref().is_some_and(Vec::is_empty)) {
            cx.problems.push(Problem::error(cx.place, "a list of `authz` cannot be empty").hint("leave the key out"));
        }
        if config.claims.as_ref().is_some_and(|claims| claims.is_empty()) {
            cx.problems.push(Problem::error(cx.place, "`claims` cannot be empty").hint("leave the key out"));
        }
        check_scopes(&config.scopes, cx);
        check_scopes(&config.any_scope, cx);
        check_consumers(&config.consumers, cx);
        check_consumers(&config.deny_consumers, cx);
        let roles = roles(config, cx);
        let claims = claims(config, cx);
        if cx.problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return Err(());
        }
        if lists.iter().all(|list| list.is_none()) && claims.is_empty() {
            return Ok(None);
        }
        let plain = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        let scopes: Vec<Box<str>> = listed(&config.scopes).collect();
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" "));
        Ok(Some(Conditions {
            lacks_scopes: HeaderValue::try_from(challenge).unwrap_or_else(|_| plain.clone()),
            lacks_any_scope: plain,
            scopes,
            any_scope: listed(&config.any_scope).collect(),
            consumers: listed(&config.consumers).collect(),
            groups: listed(&config.groups).collect(),
            deny_consumers: listed(&config.deny_consumers).collect(),
            deny_groups: listed(&config.deny_groups).collect(),
            roles,
            claims,
        }))
    }

    pub fn check(&self, identity: Option<&Identity>) -> Flow {
        match self.judge(identity) {
            Ok(()) => ControlFlow::Continue(()),
            Err(denial) => self.refuse(denial, identity),
        }
    }

    fn judge(&self, identity: Option<&Identity>) -> Result<(), Denial> {
        let identity = identity.ok_or(Denial::Anonymous)?;
        let consumer = identity.consumer.as_deref();
        let in_group = |names: &Names| identity.groups.iter().any(|group| names.contains(&**group));
        if consumer.is_some_and(|name| self.deny_consumers.contains(name)) {
            return Err(Denial::ConsumerDenied);
        }
        if in_group(&self.deny_groups) {
            return Err(Denial::GroupDenied);
        }
        if !self.consumers.is_empty() && !consumer.is_some_and(|name| self.consumers.contains(name)) {
            return Err(Denial::ConsumerNotAllowed);
        }
        if !self.groups.is_empty() && !in_group(&self.groups) {
            return Err(Denial::GroupNotAllowed);
        }
        let claims = identity.claims.as_deref();
        let holds = |(path, test): &(ClaimPath, ClaimTest)| test.holds(claims.and_then(|claims| path.find(claims)));
        if !self.roles.as_ref().is_none_or(holds) {
            return Err(Denial::RoleNotAllowed);
        }
        if !self.claims.iter().all(holds) {
            return Err(Denial::ClaimNotAllowed);
        }
        let has = |wanted: &str| identity.scopes.iter().any(|scope| **scope == *wanted);
        if !self.scopes.iter().all(|wanted| has(wanted)) {
            return Err(Denial::LacksScopes);
        }
        if !self.any_scope.is_empty() && !self.any_scope.iter().any(|wanted| has(wanted)) {
            return Err(Denial::LacksAnyScope);
        }
        Ok(())
    }

    /// What refused, and what was missing: for those who wrote the conditions, so it may say what they ask for.
    fn decided_by(&self, denial: Denial, identity: Option<&Identity>) -> Option<Box<str>> {
        let identity = identity?;
        let lacks =
            |(path, test): &&(ClaimPath, ClaimTest)| !test.holds(identity.claims.as_deref().and_then(|claims| path.find(claims)));
        let named = |what: &str, claims: &[(ClaimPath, ClaimTest)]| {
            claims.iter().find(lacks).map(|(path, _)| format!("{what} {}", path.text()))
        };
        let has = |wanted: &str| identity.scopes.iter().any(|scope| **scope == *wanted);
        let text = match denial {
            Denial::Anonymous => return None,
            Denial::ConsumerDenied => "deny_consumers".to_owned(),
            Denial::ConsumerNotAllowed => "consumers".to_owned(),
            Denial::GroupDenied => {
                let group = identity.groups.iter().find(|group| self.deny_groups.contains(&***group))?;
                format!("deny_groups {group}")
            }
            Denial::GroupNotAllowed => "groups".to_owned(),
            Denial::RoleNotAllowed => named("roles", self.roles.as_slice())?,
            Denial::ClaimNotAllowed => named("claim", &self.claims)?,
            Denial::LacksScopes => {
                let missing: Vec<&str> = self.scopes.iter().map(|scope| &**scope).filter(|scope| !has(scope)).collect();
                format!("scope {}", missing.join(" "))
            }
            Denial::LacksAnyScope => {
                let wanted: Vec<&str> = self.any_scope.iter().map(|scope| &**scope).collect();
                format!("any_scope {}", wanted.join(" "))
            }
        };
        Some(text.into())
    }

    /// Says which kind of condition refused, and not what it asks for, but for the scopes that RFC 6750 names.
    fn refuse(&self, denial: Denial, identity: Option<&Identity>) -> Flow {
        let (reason, detail) = match denial {
            Denial::Anonymous => ("anonymous", "This resource is not open to unknown clients."),
            Denial::ConsumerDenied => ("consumer_denied", "This consumer may not use this resource."),
            Denial::ConsumerNotAllowed => ("consumer_not_allowed", "This consumer may not use this resource."),
            Denial::GroupDenied => ("group_denied", "Members of this consumer's groups may not use this resource."),
            Denial::GroupNotAllowed => ("group_not_allowed", "This resource is for members of other groups."),
            Denial::RoleNotAllowed => ("role_not_allowed", "This resource is for other roles."),
            Denial::ClaimNotAllowed => ("claim_not_allowed", "The token's claims do not admit to this resource."),
            Denial::LacksScopes | Denial::LacksAnyScope => ("insufficient_scope", "The credentials lack a scope that is needed."),
        };
        let mut reply = Reply::new(StatusCode::FORBIDDEN, NAME, reason, detail);
        reply.decided_by = self.decided_by(denial, identity);
        // RFC 6750, section 3.1; it speaks of Bearer tokens only.
        if identity.is_some_and(|identity| super::BEARER.contains(&identity.method)) {
            match denial {
                Denial::LacksScopes => reply = reply.header(header::WWW_AUTHENTICATE, self.lacks_scopes.clone()),
                Denial::LacksAnyScope => reply = reply.header(header::WWW_AUTHENTICATE, self.lacks_any_scope.clone()),
                _ => {}
            }
        }
        ControlFlow::Break(reply)
    }
}

fn listed(list: &List) -> impl Iterator<Item = Box<str>> {
    list.iter().flatten().map(|item| Box::from(item.value.as_str()))
}

/// A scope token (RFC 6749, section 3.3).
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn check_scopes(list: &List, cx: &mut Compile<'_>) {
    for scope in list.iter().flatten().filter(|scope| !is_scope(&scope.value)) {
        let problem = Problem::error(scope.place, format!("`{}` can never be a scope (RFC 6749, section 3.3)", scope.value));
        cx.problems.push(problem.hint("write several scopes as a list"));
    }
}

fn check_consumers(list: &List, cx: &mut Compile<'_>) {
    for name in list.iter().flatten().filter(|name| cx.consumers.by_name(&name.value).is_none()) {
        let mut problem = Problem::error(name.place, format!("there is no consumer `{}`", name.value));
        if let Some(meant) = did_you_mean(&name.value, cx.consumers.names()) {
            problem = problem.hint(format!("did you mean `{meant}`?"));
        }
        cx.problems.push(problem);
    }
}

fn roles(config: &AuthzConfig, cx: &mut Compile<'_>) -> Option<(ClaimPath, ClaimTest)> {
    let Some(roles) = &config.roles else {
        if let Some(unused) = &config.roles_claim {
            cx.problems.push(Problem::error(unused.place, "`roles_claim` says where `roles` are found, and there are none"));
        }
        return None;
    };
    let path = match &config.roles_claim {
        Some(claim) => ClaimPath::parse(&claim.value).or_else(|| {
            cx.problems.push(no_path(claim.place, &claim.value));
            None
        })?,
        None => ClaimPath::parse("roles")?,
    };
    let roles = roles.iter().map(|role| role.value.as_str().into()).collect();
    Some((path, ClaimTest::OneOf(roles)))
}

fn claims(config: &AuthzConfig, cx: &mut Compile<'_>) -> Vec<(ClaimPath, ClaimTest)> {
    let mut compiled = Vec::new();
    for (name, wanted) in config.claims.iter().flatten() {
        let path = ClaimPath::parse(name);
        if path.is_none() {
            cx.problems.push(no_path(wanted.place, name));
        }
        let test = ClaimTest::compile(&wanted.value, wanted.place, cx.problems);
        compiled.extend(path.zip(test));
    }
    compiled
}

fn no_path(place: Place, text: &str) -> Problem {
    let hint = "write `department`, `realm_access.roles` or `/resource_access/my.app/roles`";
    Problem::error(place, format!("`{text}` is no claim's name")).hint(hint)
}
