//! May it? Checks the proved identity's scopes, consumer and groups, or refuses with 403.
//!
//! Every condition that is written must hold, whichever they are. A client that proved nothing is refused whatever they say: where
//! anonymous clients are welcome, leave this policy off. It answers 403 even then, because asking for credentials is `authn`'s part,
//! and that let the client pass.
//!
//! Deliberately not in here: rules on claims and requests (expressions) and external services. Each will be a policy, or a key, of
//! its own in this folder.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::exchange::{Exchange, Identity};
use crate::head::RequestHead;
use crate::problem::{Problem, did_you_mean};
use crate::reply::{Flow, Reply};
use crate::value::Spanned;

/// Who may. At least one condition; lists cannot be empty.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthzConfig {
    /// Scopes that are needed, all of them.
    pub scopes: Option<Vec<Spanned<String>>>,
    /// Scopes of which one is needed.
    pub any_scope: Option<Vec<Spanned<String>>>,
    /// The only consumers that may.
    pub consumers: Option<Vec<Spanned<String>>>,
    /// The groups of which one is needed.
    pub groups: Option<Vec<Spanned<String>>>,
    /// Consumers that may not, whatever else holds.
    pub deny_consumers: Option<Vec<Spanned<String>>>,
}

/// [`AuthzConfig`], compiled. An empty list or set asks for nothing.
pub struct Authz {
    scopes: Vec<Box<str>>,
    any_scope: Vec<Box<str>>,
    consumers: Names,
    groups: Names,
    deny_consumers: Names,
    /// `Bearer error="insufficient_scope", scope="..."`, and the same without naming scopes.
    lacks_scopes: HeaderValue,
    lacks_any_scope: HeaderValue,
}

/// What `Identity::method` says of those who came with a token.
const JWT: &str = "jwt";

type Names = HashSet<Box<str>, ahash::RandomState>;

impl Policy for Authz {
    const NAME: &'static str = "authz";
    const STAGE: Stage = Stage::Authz;
    const SUMMARY: &'static str = "Admits by scope, consumer and group";
    type Config = AuthzConfig;

    fn compile(config: &AuthzConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let lists = [&config.scopes, &config.any_scope, &config.consumers, &config.groups, &config.deny_consumers];
        if lists.iter().all(|list| list.is_none()) {
            let problem = Problem::error(cx.place, "`authz` without a condition checks nothing");
            cx.problems.push(problem.hint("scopes, any_scope, consumers, groups or deny_consumers"));
            return None;
        }
        // An empty list could mean "everyone" or "no one"; neither should be guessed.
        let mut sound = true;
        if lists.iter().any(|list| list.as_ref().is_some_and(Vec::is_empty)) {
            cx.problems.push(Problem::error(cx.place, "a list of `authz` cannot be empty").hint("leave the key out"));
            sound = false;
        }
        sound &= check_scopes(&config.scopes, cx) & check_scopes(&config.any_scope, cx);
        sound &= check_consumers(&config.consumers, cx) & check_consumers(&config.deny_consumers, cx);
        sound.then(|| Self::assemble(config))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

impl Authz {
    fn assemble(config: &AuthzConfig) -> Self {
        let plain = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        let scopes: Vec<Box<str>> = listed(&config.scopes).collect();
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" "));
        Authz {
            lacks_scopes: HeaderValue::try_from(challenge).unwrap_or_else(|_| plain.clone()),
            lacks_any_scope: plain,
            scopes,
            any_scope: listed(&config.any_scope).collect(),
            consumers: listed(&config.consumers).collect(),
            groups: listed(&config.groups).collect(),
            deny_consumers: listed(&config.deny_consumers).collect(),
        }
    }

    fn judge(&self, identity: Option<&Identity>) -> Result<(), Denial> {
        let identity = identity.ok_or(Denial::Anonymous)?;
        let consumer = identity.consumer.as_deref();
        if consumer.is_some_and(|name| self.deny_consumers.contains(name)) {
            return Err(Denial::ConsumerDenied);
        }
        if !self.consumers.is_empty() && !consumer.is_some_and(|name| self.consumers.contains(name)) {
            return Err(Denial::ConsumerNotAllowed);
        }
        if !self.groups.is_empty() && !identity.groups.iter().any(|group| self.groups.contains(&**group)) {
            return Err(Denial::GroupNotAllowed);
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

    fn refuse(&self, denial: Denial, identity: Option<&Identity>) -> Flow {
        let (reason, detail) = match denial {
            Denial::Anonymous => ("anonymous", "This resource is not open to unknown clients."),
            Denial::ConsumerDenied => ("consumer_denied", "This consumer may not use this resource."),
            Denial::ConsumerNotAllowed => ("consumer_not_allowed", "This consumer may not use this resource."),
            Denial::GroupNotAllowed => ("group_not_allowed", "This resource is for members of other groups."),
            Denial::LacksScopes | Denial::LacksAnyScope => ("insufficient_scope", "The credentials lack a scope that is needed."),
        };
        let mut reply = Reply::new(StatusCode::FORBIDDEN, Self::NAME, reason, detail);
        // RFC 6750, section 3.1; it speaks of Bearer tokens only.
        if identity.is_some_and(|identity| identity.method == JWT) {
            match denial {
                Denial::LacksScopes => reply = reply.header(header::WWW_AUTHENTICATE, self.lacks_scopes.clone()),
                Denial::LacksAnyScope => reply = reply.header(header::WWW_AUTHENTICATE, self.lacks_any_scope.clone()),
                _ => {}
            }
        }
        ControlFlow::Break(reply)
    }
}

impl OnRequest for Authz {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        let identity = exchange.identity.as_deref();
        match self.judge(identity) {
            Ok(()) => Flow::Continue(()),
            Err(denial) => self.refuse(denial, identity),
        }
    }
}

#[derive(Clone, Copy)]
enum Denial {
    Anonymous,
    ConsumerDenied,
    ConsumerNotAllowed,
    GroupNotAllowed,
    LacksScopes,
    LacksAnyScope,
}

type List = Option<Vec<Spanned<String>>>;

fn listed(list: &List) -> impl Iterator<Item = Box<str>> {
    list.iter().flatten().map(|item| Box::from(item.value.as_str()))
}

/// A scope token (RFC 6749, section 3.3).
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn check_scopes(list: &List, cx: &mut Compile<'_>) -> bool {
    let mut sound = true;
    for scope in list.iter().flatten().filter(|scope| !is_scope(&scope.value)) {
        let problem = Problem::error(scope.place, format!("`{}` can never be a scope (RFC 6749, section 3.3)", scope.value));
        cx.problems.push(problem.hint("write several scopes as a list"));
        sound = false;
    }
    sound
}

fn check_consumers(list: &List, cx: &mut Compile<'_>) -> bool {
    let mut sound = true;
    for name in list.iter().flatten().filter(|name| cx.consumers.by_name(&name.value).is_none()) {
        let mut problem = Problem::error(name.place, format!("there is no consumer `{}`", name.value));
        if let Some(meant) = did_you_mean(&name.value, cx.consumers.names()) {
            problem = problem.hint(format!("did you mean `{meant}`?"));
        }
        cx.problems.push(problem);
        sound = false;
    }
    sound
}

#[cfg(test)]
mod tests;
