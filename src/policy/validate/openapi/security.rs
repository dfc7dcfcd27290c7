//! What a document says of who may ask (`security`), held against who was proved to ask. The proving is `authn`'s.

use std::collections::BTreeMap;

use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::contract::Mode;
use super::super::report::{Part, Wrong};
use super::document::{Document, Needs, Operation, Scheme};
use super::{Contract, refuse};
use crate::exchange::{Exchange, Identity};
use crate::head::RequestHead;
use crate::node::Node;
use crate::policy::{OnRequest, authn};
use crate::problem::{Place, Problem, Problems};
use crate::reply::Flow;
use crate::schema::Violation;
use crate::value::{OneOrMany, Spanned};

/// A method of `authn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Jwt,
    Introspection,
    ApiKey,
    Basic,
    Mtls,
    Signature,
}

impl Method {
    /// Its key in `authn`, which is what an identity calls it.
    fn name(self) -> &'static str {
        match self {
            Method::Jwt => authn::jwt::METHOD,
            Method::Introspection => authn::introspection::METHOD,
            Method::ApiKey => authn::api_key::METHOD,
            Method::Basic => authn::basic::METHOD,
            Method::Mtls => authn::mtls::METHOD,
            Method::Signature => authn::signature::METHOD,
        }
    }
}

/// Whether a document's word on who may ask counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    #[default]
    Enforce,
    Off,
}

/// By the scheme's name: the methods that prove it.
pub type Schemes = BTreeMap<String, OneOrMany<Spanned<Method>>>;

/// The document's security schemes, and which methods prove each.
pub struct Needed {
    methods: BTreeMap<Box<str>, Vec<Method>>,
    place: Place,
}

impl Needed {
    /// What is wrong goes to `problems`.
    pub fn compile(document: &Document, written: &Schemes, place: Place, problems: &mut Problems) -> Needed {
        for (name, methods) in written.iter().filter(|(name, _)| !document.schemes.contains_key(name.as_str())) {
            let message = format!("the document has no security scheme `{name}`");
            let known: Vec<&str> = document.schemes.keys().map(|name| &**name).collect();
            let place = methods.0.first().map_or(place, |method| method.place);
            problems.push(Problem::error(place, message).hint(format!("its schemes are: {}", known.join(", "))));
        }
        let methods = document.schemes.iter().map(|(name, scheme)| {
            let own = written.get(&**name).map(|methods| methods.0.iter().map(|method| method.value).collect::<Vec<_>>());
            let methods = own.unwrap_or_else(|| match scheme {
                Scheme::ApiKey => vec![Method::ApiKey],
                Scheme::Basic => vec![Method::Basic],
                Scheme::Bearer | Scheme::Scoped => vec![Method::Jwt, Method::Introspection],
                Scheme::MutualTls => vec![Method::Mtls],
                Scheme::Other(_) => Vec::new(),
            });
            (name.clone(), methods)
        });
        Needed { methods: methods.collect(), place }
    }

    fn of(&self, name: &str) -> &[Method] {
        self.methods.get(name).map_or(&[], Vec::as_slice)
    }

    /// Says which schemes nothing proves on a route with this `authn`.
    pub fn look(&self, document: &Document, authn: Option<&Node>, problems: &mut Problems) {
        let has = |method: &Method| authn.is_some_and(|authn| authn.get(method.name()).is_some());
        let all = authn.and_then(|authn| authn.get("any")).and_then(Node::as_str) == Some("false");
        let satisfied = |needs: &Needs| needs.iter().all(|(name, _)| self.of(name).iter().any(has)) && (needs.len() < 2 || all);
        let mut lacking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for operation in document.operations.iter().filter(|operation| !operation.lost) {
            let Some(alternatives) = operation.security.as_ref().filter(|all| !all.is_empty()) else { continue };
            if alternatives.iter().any(satisfied) {
                continue;
            }
            for (name, _) in alternatives.iter().flatten() {
                if !self.of(name).iter().any(has) || alternatives.iter().any(|needs| needs.len() > 1) {
                    lacking.entry(&**name).or_default().push(&operation.id);
                }
            }
        }
        for (name, operations) in lacking {
            let first = operations.first().copied().unwrap_or_default();
            let more = if operations.len() > 1 { format!(" and {} more", operations.len() - 1) } else { String::new() };
            let methods: Vec<&str> = self.of(name).iter().map(|method| method.name()).collect();
            let message = format!("the operation {first}{more} needs `{name}`, and nothing here proves it");
            let hint = match methods.as_slice() {
                [] => format!(
                    "say which method of `authn` does, as in `schemes: {{ {name}: jwt }}`; or `security: off` if the service proves it"
                ),
                methods => format!(
                    "add `authn: {{ {}: ... }}` (with `any: false`, where several are needed together); or `security: off` if the service proves it",
                    methods.join(": ... }` or `authn: { ")
                ),
            };
            problems.push(Problem::error(self.place, message).hint(hint));
        }
    }

    /// Says which operations that the document closes are open, for a document on trial refuses nobody.
    pub fn look_at_trial(&self, document: &Document, authn: Option<&Node>, problems: &mut Problems) {
        if authn.is_some_and(|authn| authn.get("optional").and_then(Node::as_str) != Some("true")) {
            return;
        }
        let closes = |operation: &&Operation| {
            operation.security.as_ref().is_some_and(|all| !all.is_empty() && all.iter().all(|needs| !needs.is_empty()))
        };
        let mut closed = document.operations.iter().filter(closes);
        let Some(first) = closed.next() else { return };
        let more = match closed.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!(
            "`mode: report` refuses nobody: {}{more}, which the document closes (`security`), can be asked for without credentials",
            first.id
        );
        let hint = "take `optional` out of `authn`, or let the service prove who asks; `security: off` says that it does";
        problems.push(Problem::warning(self.place, message).hint(hint));
    }

    /// Why somebody may not ask; `None` if he may.
    fn lacks<'n>(&self, alternatives: &'n [Needs], identity: Option<&Identity>) -> Option<Lack<'n>> {
        let mut scope = None;
        for needs in alternatives {
            if needs.is_empty() {
                return None;
            }
            let Some(identity) = identity else { continue };
            // With several, `authn` has seen to it that all were proved.
            let proved = needs.iter().any(|(name, _)| self.of(name).iter().any(|method| method.name() == identity.method));
            if !proved {
                continue;
            }
            let has = |scope: &str| identity.scopes.iter().any(|known| **known == *scope);
            match needs.iter().flat_map(|(_, scopes)| scopes).find(|scope| !has(scope.as_ref())) {
                None => return None,
                Some(missing) => scope = scope.or(Some(missing)),
            }
        }
        Some(scope.map_or(Lack::Proof, |scope| Lack::Scope(scope)))
    }
}

enum Lack<'a> {
    Proof,
    Scope(&'a str),
}

/// The step that asks whether it may be who it is.
pub struct Proving(pub std::sync::Arc<Contract>);

impl OnRequest for Proving {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        let contract = &*self.0;
        let Some((number, operation)) = contract.operation(exchange) else { return Flow::Continue(()) };
        let (Some(needed), Some(alternatives)) = (&contract.needed, &operation.security) else { return Flow::Continue(()) };
        if alternatives.is_empty() {
            return Flow::Continue(());
        }
        let Some(lack) = needed.lacks(alternatives, exchange.identity.as_deref()) else { return Flow::Continue(()) };
        if contract.mode == Mode::Report {
            let violation = match lack {
                Lack::Proof => Violation::whole("security", "must prove who asks"),
                Lack::Scope(_) => Violation::whole("security", "must have the scopes that are needed"),
            };
            let wrong = vec![Wrong::new(Part::Header, "", violation)];
            return contract.verdict(wrong, false, exchange, number, operation);
        }
        match lack {
            Lack::Proof => {
                let detail = "This operation needs credentials, or other ones.";
                let mut reply = refuse(StatusCode::UNAUTHORIZED, "credentials_needed", detail);
                for challenge in challenges(&contract.document, operation) {
                    reply = reply.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
                reply.refuse()
            }
            Lack::Scope(scope) => {
                let detail = "These credentials may not ask for this operation.";
                refuse(StatusCode::FORBIDDEN, "operation_scope_missing", detail).decided_by(scope).refuse()
            }
        }
    }
}

/// What a client can come with (RFC 9110, section 11.6.1): there is always one.
fn challenges(document: &Document, operation: &Operation) -> Vec<&'static str> {
    let names = operation.security.iter().flatten().flatten().map(|(name, _)| name);
    let mut all: Vec<&'static str> = names
        .filter_map(|name| document.schemes.get(name))
        .map(|scheme| match scheme {
            Scheme::Basic => "Basic realm=\"api\", charset=\"UTF-8\"",
            Scheme::Bearer | Scheme::Scoped => "Bearer realm=\"api\"",
            Scheme::ApiKey => "ApiKey realm=\"api\"",
            Scheme::MutualTls | Scheme::Other(_) => "Mutual realm=\"api\"",
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
