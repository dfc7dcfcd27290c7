//! Who is it? Proves the client's identity from a signed token or an API key, or refuses with 401.
//!
//! The backend hears of the result in four header fields ([`identity`]), which a client can never set on a route with this policy,
//! and sees no credentials unless the route says so. What the proved identity may do is `authz`'s question.
//!
//! Deliberately not in here yet: keys that are fetched over the network, introspection, Basic, client certificates. A token in a
//! query or a form (RFC 6750, sections 2.2 and 2.3) is never looked at: such tokens end up in logs.

pub mod api_key;
pub mod consumer;
pub mod failure;
pub mod identity;
mod json;
pub mod jwt;
pub mod jwt_keys;
#[cfg(test)]
mod jwt_tests;
pub mod jwt_token;
pub mod method;
#[cfg(test)]
mod tests;
pub mod token_cache;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::api_key::strip_query_param;
pub use self::consumer::{ApiKeyConfig, Consumer, ConsumerConfig, Consumers};

use self::api_key::{ApiKeyMethod, ApiKeyMethodConfig};
use self::consumer::KeyProof;
use self::failure::Failure;
use self::identity::{IDENTITY_HEADERS, IdentityHeaders, remove_lookalikes};
use self::jwt::{JwtConfig, JwtMethod};
use self::jwt_token::Token;
use self::token_cache::{Entry, TokenCache};
use super::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::exchange::{Exchange, Identity};
use crate::head::{HeaderEdit, HeaderEdits, RequestHead};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Spanned};

const DEFAULT_TOKENS: u32 = 10_000;
const MAX_TOKENS: u32 = 1_000_000;

/// How clients prove who they are. At least one of `jwt` and `api_key`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthnConfig {
    /// Signed tokens; a list for issuers that differ in their keys or claims. A token must satisfy one of them.
    pub jwt: Option<OneOrMany<JwtConfig>>,
    /// API keys of the `consumers`.
    pub api_key: Option<ApiKeyMethodConfig>,
    /// `true` (the default): one method suffices. `false`: a token and an API key are both needed. Either way whatever is presented
    /// must be right, and must not name two different consumers.
    pub any: bool,
    /// Lets requests without credentials pass, as nobody. Wrong credentials are refused all the same. Default `false`.
    pub optional: bool,
    /// What challenges call the protected area. Default `api`.
    pub realm: Option<Spanned<String>>,
    /// Lets the backend see the credentials as they came. Default `false`: `Authorization` (with `jwt`), the API key's header and its
    /// query parameter do not go upstream.
    pub forward_credentials: bool,
    /// How many verified tokens of up to 2 KiB are remembered; longer ones count several times. 0 to 1000000, default 10000.
    pub token_cache: Option<Spanned<u32>>,
}

impl Default for AuthnConfig {
    fn default() -> Self {
        AuthnConfig {
            jwt: None,
            api_key: None,
            any: true,
            optional: false,
            realm: None,
            forward_credentials: false,
            token_cache: None,
        }
    }
}

/// [`AuthnConfig`], compiled.
pub struct Authn {
    methods: Vec<JwtMethod>,
    api_key: Option<ApiKeyMethod>,
    all: bool,
    optional: bool,
    challenges: Challenges,
    consumers: Arc<Consumers>,
    tokens: Option<Arc<TokenCache>>,
    /// Keeps this configuration's cache entries apart from any other's.
    token_key: [u8; 32],
    /// Every header that any method sets from a claim.
    claim_headers: Vec<HeaderName>,
    /// The header fields that credentials come in.
    pub credential_headers: Vec<HeaderName>,
    /// The query parameter that an API key may come in. It must not be logged, and unless `forward_credentials` it must be taken out
    /// of the query that goes upstream ([`strip_query_param`]).
    pub credential_query: Option<Arc<str>>,
    pub forward_credentials: bool,
}

impl Policy for Authn {
    const NAME: &'static str = "authn";
    const STAGE: Stage = Stage::Authn;
    const SUMMARY: &'static str = "Proves who the client is: signed tokens (JWT) and API keys";
    type Config = AuthnConfig;

    fn compile(config: &AuthnConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let jwt = config.jwt.as_ref().map_or(&[][..], |list| &list.0);
        if jwt.is_empty() && config.api_key.is_none() {
            cx.problems.push(Problem::error(cx.place, "`authn` needs at least one method").hint("jwt or api_key"));
            return None;
        }
        if !config.any && jwt.len() > 1 {
            let problem =
                Problem::error(cx.place, "`any: false` with several `jwt` could never be satisfied: a request has one token");
            cx.problems.push(problem);
            return None;
        }
        // All of them, so that every problem is found in one go.
        let methods: Vec<Option<JwtMethod>> = jwt.iter().map(|config| JwtMethod::compile(config, cx)).collect();
        let api_key = match &config.api_key {
            Some(config) => Some(ApiKeyMethod::compile(config, cx.problems)),
            None => None,
        };
        let realm = realm(config, cx);
        let capacity = capacity(config, cx);
        let methods = methods.into_iter().collect::<Option<Vec<_>>>()?;
        let api_key = match api_key {
            Some(compiled) => Some(compiled?),
            None => None,
        };
        if api_key.is_some() && !cx.consumers.has_keys() {
            cx.problems
                .push(Problem::warning(cx.place, "no consumer has an API key, so that none can be right").hint("consumers"));
        }
        Some(Self::assemble(config, cx, methods, api_key, realm?, capacity?))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        if self.forward_credentials {
            plan.knobs().forward_credentials = true;
        }
        plan.knobs().credential_query = self.credential_query.clone();
        plan.on_request(self);
    }
}

impl Authn {
    fn assemble(
        config: &AuthnConfig,
        cx: &Compile<'_>,
        methods: Vec<JwtMethod>,
        api_key: Option<ApiKeyMethod>,
        realm: &str,
        capacity: usize,
    ) -> Self {
        let print = fingerprint(&methods, cx.consumers, capacity);
        // The cache's name says everything that its entries depend on, keys included: a reload that changes none of it keeps the
        // cache, a rotated key leaves it behind, and routes of one configuration share it. The scope has no influence on a verdict.
        let name = blake3::Hash::from(blake3::derive_key("portcullis authn token cache name", &print)).to_hex();
        let tokens = (capacity > 0 && !methods.is_empty())
            .then(|| cx.ledger.keep(&format!("authn/tokens/{name}"), || TokenCache::new(capacity)));
        let mut claim_headers: Vec<HeaderName> = methods.iter().flat_map(JwtMethod::claim_headers).cloned().collect();
        claim_headers.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        claim_headers.dedup();
        let bearer = (!methods.is_empty()).then_some(header::AUTHORIZATION);
        Authn {
            challenges: Challenges::new(realm, !methods.is_empty(), api_key.is_some()),
            credential_headers: bearer.into_iter().chain(api_key.as_ref().map(|method| method.header.clone())).collect(),
            credential_query: api_key.as_ref().and_then(|method| method.query.clone()),
            methods,
            api_key,
            all: !config.any,
            optional: config.optional,
            consumers: cx.consumers.clone(),
            tokens,
            token_key: print,
            claim_headers,
            forward_credentials: config.forward_credentials,
        }
    }

    /// The whole policy. `now` in seconds since 1970.
    fn authenticate(&self, head: &RequestHead, exchange: &mut Exchange, now: u64) -> Flow {
        let proof = match self.prove(head, now) {
            Ok(Some(proof)) => Some(proof),
            Ok(None) if self.optional => None,
            Ok(None) => return self.challenges.refuse(Failure::MissingCredentials),
            Err(failure) => return self.challenges.refuse(failure),
        };
        let edits = &mut exchange.to_upstream;
        if !self.forward_credentials {
            edits.extend(self.credential_headers.iter().cloned().map(HeaderEdit::Remove));
        }
        remove_lookalikes(head, IDENTITY_HEADERS.iter().copied().chain(&self.claim_headers), edits);
        exchange.identity = self.write(proof, edits);
        Flow::Continue(())
    }

    fn prove(&self, head: &RequestHead, now: u64) -> Result<Option<Proof<'_>>, Failure> {
        let token = if self.methods.is_empty() { None } else { jwt_token::bearer(head)? };
        let key = self.api_key.as_ref().map(|method| method.presented(head)).transpose()?.flatten();
        if self.all && token.is_some() != key.is_some() && !self.methods.is_empty() && self.api_key.is_some() {
            return Err(Failure::MissingCredentials);
        }
        // Whatever is presented is checked, also where less would have sufficed: a wrong credential is never waved through.
        let token = token.map(|token| self.verify(token, now)).transpose()?;
        let key = key.map(|key| self.consumers.by_key(&key).ok_or(Failure::UnknownApiKey)).transpose()?;
        match (token, key) {
            (None, None) => Ok(None),
            (Some(token), None) => Ok(Some(Proof::Token(token))),
            (None, Some(key)) => Ok(Some(Proof::Key(key))),
            (Some(token), Some(key)) => both(token, &key).map(Some),
        }
    }

    fn verify(&self, token: &[u8], now: u64) -> Result<Entry, Failure> {
        let key = *blake3::keyed_hash(&self.token_key, token).as_bytes();
        if let Some(tokens) = &self.tokens
            && let Some(entry) = tokens.get(&key, now)?
        {
            return Ok(entry);
        }
        let parsed = Token::parse(token)?;
        let mut furthest = Failure::MalformedToken;
        for (at, method) in self.methods.iter().enumerate() {
            match method.verify(&parsed, token.len(), now, &self.consumers) {
                Ok(verified) => {
                    let entry = Entry { method: at, verified: Arc::new(verified) };
                    if let Some(tokens) = &self.tokens {
                        tokens.put(key, entry.clone());
                    }
                    return Ok(entry);
                }
                Err(failure) => furthest = furthest.max(failure),
            }
        }
        Err(furthest)
    }

    /// Tells the backend who it is, and takes away whatever the client said about that itself.
    fn write(&self, proof: Option<Proof<'_>>, edits: &mut HeaderEdits) -> Option<Arc<Identity>> {
        let (token, identity) = match proof {
            None => {
                edits.extend(IDENTITY_HEADERS.iter().map(|name| HeaderEdit::Remove((*name).clone())));
                (None, None)
            }
            Some(Proof::Key(key)) => {
                key.headers.write(api_key::METHOD, edits);
                (None, Some(key.identity.clone()))
            }
            Some(Proof::Token(entry)) => {
                entry.verified.headers.write(jwt::METHOD, edits);
                let identity = entry.verified.identity.clone();
                (Some(entry), Some(identity))
            }
            Some(Proof::Both(entry, identity)) => {
                IdentityHeaders::of(&identity).write(jwt::METHOD, edits);
                (Some(entry), Some(identity))
            }
        };
        // A method sets or removes its own headers; those of the others are removed.
        let own = token.as_ref().and_then(|entry| self.methods.get(entry.method));
        let foreign = |name: &&HeaderName| own.is_none_or(|method| method.claim_headers().all(|known| known != *name));
        edits.extend(self.claim_headers.iter().filter(foreign).cloned().map(HeaderEdit::Remove));
        if let Some(entry) = token {
            edits.extend(entry.verified.claims.iter().cloned());
        }
        identity
    }
}

impl OnRequest for Authn {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        // A clock before 1970 is broken: at the end of time every token has expired, which refuses instead of trusting it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        self.authenticate(head, exchange, now)
    }
}

/// What the client proved, and by what.
enum Proof<'a> {
    Token(Entry),
    Key(KeyProof<'a>),
    Both(Entry, Arc<Identity>),
}

/// The identity is the token's; where it belongs to no consumer, the key's consumer is the one.
fn both<'a>(token: Entry, key: &KeyProof<'a>) -> Result<Proof<'a>, Failure> {
    let identity = &token.verified.identity;
    if identity.consumer.is_some() {
        if identity.consumer != key.identity.consumer {
            return Err(Failure::AmbiguousCredentials);
        }
        return Ok(Proof::Token(token));
    }
    let mut merged = Identity::clone(identity);
    merged.consumer = key.identity.consumer.clone();
    merged.groups.extend(key.identity.groups.iter().cloned());
    Ok(Proof::Both(token, Arc::new(merged)))
}

/// The `WWW-Authenticate` fields of a refusal, one for each method (RFC 9110, section 11.6.1).
struct Challenges {
    realm: Box<str>,
    bearer: Option<HeaderValue>,
    /// `ApiKey` is no registered scheme; a client that does not know it ignores it, as it must.
    api_key: Option<HeaderValue>,
}

impl Challenges {
    fn new(realm: &str, bearer: bool, api_key: bool) -> Self {
        let challenge = |scheme: &str| HeaderValue::from_str(&format!("{scheme} realm=\"{realm}\"")).ok();
        Challenges {
            realm: realm.into(),
            bearer: bearer.then(|| challenge("Bearer")).flatten(),
            api_key: api_key.then(|| challenge("ApiKey")).flatten(),
        }
    }

    fn refuse(&self, failure: Failure) -> Flow {
        let mut reply = Reply::new(StatusCode::UNAUTHORIZED, Authn::NAME, failure.reason(), failure.detail());
        if let Some(plain) = &self.bearer {
            let told = failure.bearer_error().and_then(|error| {
                let (realm, detail) = (&self.realm, failure.detail());
                HeaderValue::try_from(format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{detail}\"")).ok()
            });
            reply = reply.header(header::WWW_AUTHENTICATE, told.unwrap_or_else(|| plain.clone()));
        }
        if let Some(api_key) = &self.api_key {
            reply = reply.header(header::WWW_AUTHENTICATE, api_key.clone());
        }
        ControlFlow::Break(reply)
    }
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

/// Tells apart any two configurations that could judge a token differently.
fn fingerprint(methods: &[JwtMethod], consumers: &Consumers, capacity: usize) -> [u8; 32] {
    let mut print = blake3::Hasher::new_derive_key("portcullis authn token cache");
    feed(&mut print, &capacity.to_be_bytes());
    feed(&mut print, consumers.fingerprint());
    methods.iter().for_each(|method| method.feed(&mut print));
    *print.finalize().as_bytes()
}

/// With its length, so that no two sequences of fields run together into the same bytes.
fn feed(print: &mut blake3::Hasher, field: &[u8]) {
    print.update(&(field.len() as u64).to_be_bytes()).update(field);
}

/// A list: every item is announced, and so is its end.
fn feed_all<'a>(print: &mut blake3::Hasher, items: impl Iterator<Item = &'a [u8]>) {
    for item in items {
        print.update(&[1]);
        feed(print, item);
    }
    print.update(&[0]);
}
