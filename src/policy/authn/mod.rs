//! Who is it? Proves the client's identity from whatever it presents, or refuses with 401.
//!
//! The backend hears of the result in four header fields ([`crate::consumers::identity`]), which a client can never set on a route with this policy,
//! and sees no credentials unless the route says so. What the proved identity may do is `authz`'s question.
//!
//! Every way to prove an identity is a [`method::Method`] in a file of its own, and has its line in [`methods`]. Here is what they
//! have in common: whether one suffices, whether they agree, and what is told to whom.

pub mod api_key;
pub mod aws_sigv4;
pub mod basic;
pub mod bearer;
mod challenge;
pub mod claims;
pub mod failure;
pub mod introspection;
pub mod jwt;
#[cfg(test)]
mod jwt_tests;
pub mod method;
pub mod mtls;
pub mod signature;
pub mod sources;
#[cfg(test)]
mod tests;
pub mod token_cache;

use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;

use self::api_key::{ApiKeyMethod, ApiKeyMethodConfig};
use self::aws_sigv4::{SigV4Config, SigV4Method};
use self::basic::{BasicConfig, BasicMethod};
use self::bearer::BearerMethod;
use self::challenge::Challenges;
use self::failure::Failure;
use self::introspection::IntrospectionConfig;
use self::jwt::JwtConfig;
use self::method::{Carriers, Method, Verdict};
use self::mtls::{MtlsConfig, MtlsMethod};
use self::signature::{SignatureConfig, SignatureMethod};
use super::{Compile, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::carrier::strip_cookies;
use crate::clock::unix_seconds as now;
use crate::consumers::identity::{IDENTITY_HEADERS, remove_lookalikes};
use crate::consumers::{Methods, Proved};
use crate::exchange::{Exchange, Identity};
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};
use crate::problem::{Problem, did_you_mean};
use crate::reply::Flow;
use crate::upstream::call::Engine;
use crate::value::{OneOrMany, Spanned};

const DEFAULT_TOKENS: u32 = 10_000;
const MAX_TOKENS: u32 = 1_000_000;

/// What `Identity::method` says of a request that proved nothing and need not.
pub const ANONYMOUS: &str = "anonymous";

/// What it says of who came with one of a consumer's own credentials.
pub const METHODS: Methods =
    Methods { api_key: api_key::METHOD, password: basic::METHOD, signing_key: signature::METHOD, aws_key: aws_sigv4::METHOD };

/// How clients prove who they are. At least one method, such as `jwt` or `api_key`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthnConfig {
    /// Signed tokens; a list for issuers that differ in their keys or claims. A token must satisfy one of them.
    pub jwt: Option<OneOrMany<JwtConfig>>,
    /// Tokens that only their authorization server can judge (RFC 7662). Beside `jwt` it is asked about the tokens that none of the
    /// issuers' keys signed.
    pub introspection: Option<IntrospectionConfig>,
    /// API keys of the `consumers`.
    pub api_key: Option<ApiKeyMethodConfig>,
    /// HTTP Basic (RFC 7617): user names and passwords of the `consumers`.
    pub basic: Option<BasicConfig>,
    /// The client's certificate, on listeners that ask for one.
    pub mtls: Option<MtlsConfig>,
    /// Requests that a consumer's key has signed (HTTP Message Signatures, RFC 9421).
    pub signature: Option<SignatureConfig>,
    /// Requests that a consumer's key has signed as AWS has it (Signature Version 4).
    pub aws_sigv4: Option<SigV4Config>,
    /// `true` (the default): one method suffices. `false`: all of them are needed, such as a token and an API key. Either way whatever
    /// is presented must be right, and must not name two different consumers.
    pub any: bool,
    /// Lets requests without credentials pass, as nobody. Wrong credentials are refused all the same. Default `false`.
    pub optional: bool,
    /// Lets requests without credentials pass as this consumer, with its scopes, groups and plan. Wrong credentials are refused all
    /// the same. Default: none.
    pub anonymous: Option<Spanned<String>>,
    /// What challenges call the protected area. Default `api`.
    pub realm: Option<Spanned<String>>,
    /// Lets the backend see the credentials as they came. Default `false`: the header fields, cookies and
    /// query parameters that credentials may stand in do not go upstream.
    pub forward_credentials: bool,
    /// How many tokens of up to 2 KiB that were found good are remembered, never beyond their expiry; longer ones count several times.
    /// 0 to 1000000, default 10000.
    pub token_cache: Option<Spanned<u32>>,
}

impl Default for AuthnConfig {
    fn default() -> Self {
        AuthnConfig {
            jwt: None,
            introspection: None,
            api_key: None,
            basic: None,
            mtls: None,
            signature: None,
            aws_sigv4: None,
            any: true,
            optional: false,
            anonymous: None,
            realm: None,
            forward_credentials: false,
            token_cache: None,
        }
    }
}

/// The configured methods, compiled; `None` if one of them is wrong. A method's line here is all that the policy knows of it.
///
/// They are asked in this order, and where several prove something, the first one's word counts.
fn methods(config: &AuthnConfig, cx: &mut Compile<'_>) -> Option<Vec<Arc<dyn Method>>> {
    fn shared<M: Method + 'static>(method: Option<M>) -> Option<Arc<dyn Method>> {
        Some(Arc::new(method?))
    }
    let tokens = capacity(config, cx);
    let bearers = BearerMethod::compile_all(config, tokens.unwrap_or_default(), cx);
    let others = [
        config.api_key.as_ref().map(|keys| shared(ApiKeyMethod::compile(keys, cx))),
        config.basic.as_ref().map(|basic| shared(BasicMethod::compile(basic, cx))),
        config.mtls.as_ref().map(|mtls| shared(MtlsMethod::compile(mtls, cx))),
        config.signature.as_ref().map(|signature| shared(SignatureMethod::compile(signature, cx))),
        config.aws_sigv4.as_ref().map(|aws| shared(SigV4Method::compile(aws, cx))),
    ];
    tokens?;
    let bearers = bearers?.into_iter().map(|bearer| shared(Some(bearer)));
    bearers.chain(others.into_iter().flatten()).collect()
}

/// [`AuthnConfig`], compiled.
pub struct Authn {
    methods: Vec<Arc<dyn Method>>,
    all: bool,
    /// Who a request without credentials is taken for.
    unproved: Unproved,
    challenges: Challenges,
    /// Every header that any method sets beside those that say who it is.
    set_by_methods: Vec<HeaderName>,
    carriers: Carriers,
    forward_credentials: bool,
    by_certificate: bool,
}

/// What becomes of a request without credentials.
enum Unproved {
    Refused,
    Nobody,
    Consumer(Arc<Proved>),
}

/// Usually one.
type Proofs = SmallVec<[Arc<Proved>; 2]>;

impl Policy for Authn {
    const NAME: &'static str = "authn";
    const STAGE: Stage = Stage::Authn;
    const SUMMARY: &'static str =
        "Proves who the client is: tokens (JWT, introspection), API keys, passwords, certificates, signatures";
    type Config = AuthnConfig;

    fn compile(config: &AuthnConfig, cx: &mut Compile<'_>) -> Option<Self> {
        // All of them, so that every problem is found in one go.
        let methods = methods(config, cx);
        if methods.as_ref().is_some_and(Vec::is_empty) {
            cx.problems.push(
                Problem::error(cx.place, "`authn` needs at least one method")
                    .hint("jwt, introspection, api_key, basic, mtls, signature or aws_sigv4"),
            );
            return None;
        }
        let unproved = unproved(config, cx);
        let realm = realm(config, cx);
        let methods = methods?;
        let mut carriers = Carriers::default();
        methods.iter().for_each(|method| carriers.merge(method.carriers()));
        let mut set_by_methods: Vec<HeaderName> = methods.iter().flat_map(|method| method.sets()).collect();
        set_by_methods.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        set_by_methods.dedup();
        let by_certificate = config.mtls.is_some() && (methods.len() == 1 || !config.any);
        Some(Authn {
            challenges: Challenges::new(realm?, methods.iter().filter_map(|method| method.scheme())),
            methods,
            all: !config.any,
            unproved: unproved?,
            set_by_methods,
            carriers,
            forward_credentials: config.forward_credentials,
            by_certificate,
        })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        if self.forward_credentials {
            plan.options().forward_credentials = true;
        }
        plan.options().by_certificate = self.by_certificate;
        plan.options().identified = plan.service.is_none() && !matches!(self.unproved, Unproved::Nobody);
        plan.options().credential_queries.clone_from(&self.carriers.queries);
        plan.options().credential_headers.clone_from(&self.carriers.headers);
        plan.options().identity_fields.extend_from_slice(&self.set_by_methods);
        self.methods.iter().filter_map(|method| method.proving_body()).for_each(|body| plan.on_proving_body(body));
        let bodies: Vec<_> = self.methods.iter().filter_map(|method| method.body()).collect();
        plan.on_wait(self);
        bodies.into_iter().for_each(|body| plan.on_body(body));
    }
}

impl Authn {
    /// What can be said at once; `None` if a method has to wait. `now` in seconds since 1970.
    fn prove(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Option<Result<Proofs, Failure>> {
        let (mut proofs, mut waits, mut absent) = (Proofs::new(), false, false);
        for method in &self.methods {
            match method.check(head, exchange, now) {
                Verdict::Absent => absent = true,
                Verdict::Proved(proved) => proofs.push(proved),
                // Whatever is presented is checked, also where less would have sufficed: a wrong credential is never waved through.
                Verdict::Failed(failure) => return Some(Err(failure)),
                Verdict::Waits => waits = true,
            }
        }
        if self.all && absent && (waits || !proofs.is_empty()) {
            return Some(Err(Failure::MissingCredentials));
        }
        (!waits).then_some(Ok(proofs))
    }

    /// What [`Authn::prove`] could not say, because somebody else has to be asked.
    async fn prove_waiting(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Result<Proofs, Failure> {
        let mut proofs = Proofs::new();
        for method in &self.methods {
            match method.check(head, exchange, now) {
                Verdict::Absent if self.all => return Err(Failure::MissingCredentials),
                Verdict::Absent => {}
                Verdict::Proved(proved) => proofs.push(proved),
                Verdict::Failed(failure) => return Err(failure),
                Verdict::Waits => proofs.push(method.wait(head, exchange, now).await?),
            }
        }
        Ok(proofs)
    }

    /// The policy's last word, and what the backend hears of it.
    fn conclude(&self, proofs: Result<Proofs, Failure>, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let (proofs, proved) = match proofs.and_then(|proofs| Ok((agreed(&proofs)?, proofs))) {
            Ok((proved, proofs)) => (proofs, proved),
            Err(failure) => {
                // Only where the refusal is about a key that is known: of other credentials nothing is.
                let which = || self.methods.iter().find_map(|method| method.refused(head));
                let decided = (failure == Failure::ExpiredApiKey).then(which).flatten();
                return self.challenges.refuse(failure, decided);
            }
        };
        exchange.body = None;
        let proved = match (proved, &self.unproved) {
            (Some(proved), _) => Some(proved),
            (None, Unproved::Nobody) => None,
            (None, Unproved::Consumer(consumer)) => Some(consumer.clone()),
            (None, Unproved::Refused) => return self.challenges.refuse(Failure::MissingCredentials, None),
        };
        let edits = &mut exchange.to_upstream;
        // For its own and for what the policies behind it change: to grow is to copy all that is there.
        edits.reserve(8);
        if !self.forward_credentials {
            edits.extend(self.carriers.headers.iter().cloned().map(HeaderEdit::Remove));
            edits.extend(strip_cookies(head, &self.carriers.cookies));
        }
        remove_lookalikes(head, IDENTITY_HEADERS.iter().copied().chain(&self.set_by_methods), edits);
        match &proved {
            Some(proved) => proved.write(edits),
            None => edits.extend(IDENTITY_HEADERS.iter().map(|name| HeaderEdit::Remove((*name).clone()))),
        }
        self.write_extras(&proofs, edits);
        exchange.identity = proved.map(|proved| proved.identity.clone());
        Flow::Continue(())
    }

    /// A method sets or removes its own headers; those that none of the proofs speaks of are removed.
    fn write_extras(&self, proofs: &[Arc<Proved>], edits: &mut HeaderEdits) {
        let extras = || proofs.iter().flat_map(|proved| &proved.extra);
        let spoken_of = |name: &HeaderName| extras().any(|edit| edit.name() == name);
        edits.extend(self.set_by_methods.iter().filter(|name| !spoken_of(name)).cloned().map(HeaderEdit::Remove));
        edits.extend(extras().cloned());
    }
}

impl OnWait for Authn {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let proofs = self.prove(head, exchange, now())?;
        Some(self.conclude(proofs, head, exchange))
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, _: Engine<'a>) -> Waiting<'a> {
        Box::pin(async move {
            let proofs = self.prove_waiting(head, exchange, now()).await;
            self.conclude(proofs, head, exchange)
        })
    }
}

/// The one identity that several proofs make: the first one's, with the first consumer that any of them names.
///
/// # Errors
///
/// Two of them name different consumers.
fn agreed(proofs: &[Arc<Proved>]) -> Result<Option<Arc<Proved>>, Failure> {
    let Some((first, others)) = proofs.split_first() else { return Ok(None) };
    let Some(known) = others.iter().find(|other| other.identity.consumer.is_some()) else { return Ok(Some(first.clone())) };
    let known = if first.identity.consumer.is_some() { first } else { known };
    let stranger = |other: &&Arc<Proved>| other.identity.consumer.is_some() && other.identity.consumer != known.identity.consumer;
    if others.iter().any(|other| stranger(&other)) {
        return Err(Failure::AmbiguousCredentials);
    }
    if Arc::ptr_eq(first, known) {
        return Ok(Some(first.clone()));
    }
    let mut merged = Identity::clone(&first.identity);
    merged.consumer.clone_from(&known.identity.consumer);
    merged.plan.clone_from(&known.identity.plan);
    merged.groups.extend(known.identity.groups.iter().cloned());
    Ok(Some(Arc::new(Proved::new(merged))))
}

fn unproved(config: &AuthnConfig, cx: &mut Compile<'_>) -> Option<Unproved> {
    let Some(name) = &config.anonymous else {
        return Some(if config.optional { Unproved::Nobody } else { Unproved::Refused });
    };
    if let Some(consumer) = cx.consumers.by_name(&name.value) {
        return Some(Unproved::Consumer(Arc::new(consumer.proved(ANONYMOUS.into(), ANONYMOUS))));
    }
    let problem = Problem::error(name.place, format!("unknown consumer `{}`", name.value));
    let near = did_you_mean(&name.value, cx.consumers.names());
    cx.problems.push(problem.hint(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "name one of `consumers`".to_owned(),
    }));
    None
}

fn realm<'a>(config: &'a AuthnConfig, cx: &mut Compile<'_>) -> Option<&'a str> {
    let Some(realm) = &config.realm else { return Some("api") };
    if realm.value.is_empty() || !realm.value.bytes().all(|byte| matches!(byte, 0x20..=0x7e if byte != b'"' && byte != b'\\')) {
        cx.problems.push(Problem::error(realm.place, "a realm is printable ASCII without `\"` and `\\`"));
        return None;
    }
    Some(&realm.value)
}

fn capacity(config: &AuthnConfig, cx: &mut Compile<'_>) -> Option<usize> {
    let Some(tokens) = &config.token_cache else { return usize::try_from(DEFAULT_TOKENS).ok() };
    if tokens.value > MAX_TOKENS {
        cx.problems.push(Problem::error(tokens.place, format!("`token_cache` is at most {MAX_TOKENS}")));
        return None;
    }
    usize::try_from(tokens.value).ok()
}
