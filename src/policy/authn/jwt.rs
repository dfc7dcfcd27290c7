//! Tokens of one issuer, or one family of issuers: how they are configured, and the keys that they must be signed with.
//!
//! Not in here: where a token stands (`bearer`), its text ([`crate::jose`]), what its claims must say (`claims`), remembering verdicts
//! (`token_cache`), and fetching keys ([`crate::oidc`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::Deserialize;

use super::claims::{Accepted, ClaimRules, ClaimsConfig};
use super::failure::Failure;
use super::sources::TokenSourceConfig;
use crate::consumers::Consumers;
use crate::fingerprint::{feed, feed_all};
use crate::jose::key::{JwtKeyConfig, VerifyKey, parse_algorithm};
use crate::jose::token::{Token, normal_type};
use crate::oidc::jwks::{Jwks, JwksConfig, JwksSource};
use crate::oidc::provider::ProviderConfig;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::{OneOrMany, Period, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "jwt";

/// Signed tokens (JWT, RFC 7519). `exp` and `sub` are always required. The keys come from `keys`, from `jwks_url`, or from the place
/// that the issuer publishes (`discovery`).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// Where the token may stand. Default: `Authorization: Bearer`. A request with different tokens in several of these places is
    /// refused.
    pub from: Vec<TokenSourceConfig>,
    /// The issuers that are accepted, compared byte for byte with `iss`. Default: any, and `iss` may be missing.
    pub issuer: Option<OneOrMany<Spanned<String>>>,
    /// The audiences of which `aud` must hold one. Default: any, which also takes tokens that were meant for others.
    pub audience: Option<OneOrMany<Spanned<String>>>,
    /// The algorithms that keys may have. Default: whatever the keys imply. A token never chooses.
    pub algorithms: Vec<Spanned<String>>,
    /// Keys that tokens may be signed with, beside those that are fetched.
    pub keys: Vec<Spanned<JwtKeyConfig>>,
    /// Where the issuer publishes its keys, as a JWK Set (RFC 7517): `https`, or `http` on this machine. Shared secrets in it are
    /// never used.
    pub jwks_url: Option<Spanned<String>>,
    /// Asks the issuer itself where its keys are: the metadata of OpenID Connect Discovery 1.0, or else of RFC 8414. Needs exactly
    /// one `issuer`, which the metadata must repeat byte for byte. Default `false`.
    pub discovery: bool,
    /// How often keys are fetched, and how long requests wait for them.
    pub jwks: JwksConfig,
    /// How the server with the keys is reached.
    pub provider: ProviderConfig,
    /// How far the issuer's clock may be off, for `exp` and `nbf`. Default 60s, at most 10m.
    pub leeway: Option<Spanned<Period>>,
    /// Claims that must be there and not null, beside `exp` and `sub`.
    pub require: Vec<Spanned<String>>,
    /// Claims that go upstream: header field name to claim name; `a.b` looks into objects. Strings, numbers and booleans go as they
    /// are, lists of them joined with commas; anything else is left out. Bytes that a header cannot hold, and `%`, are
    /// percent-encoded. A client that sends these fields itself has them removed.
    pub claims_to_headers: BTreeMap<String, Spanned<String>>,
    /// The claim that says which consumer a token belongs to, such as `azp` or `client_id`: its value is one of a consumer's
    /// `subjects`, or a consumer's name. Default: `sub`, which is looked for among the `subjects` only.
    pub consumer_claim: Option<Spanned<String>>,
    /// The claim with the scopes: a string with spaces, or a list. Default: `scope`, and where a token lacks it, `scp`.
    pub scope_claim: Option<Spanned<String>>,
    /// The claims with the names of groups or roles (`realm_access.roles`): strings or lists. They are added to the consumer's
    /// groups. Default: none.
    pub groups_claim: Option<OneOrMany<Spanned<String>>>,
    /// The claim with the name of the plan, where it is not the consumer's. Default: none.
    pub plan_claim: Option<Spanned<String>>,
    /// What the header member `typ` may be, where it is there. Default: `JWT` and `at+jwt`.
    pub types: Vec<Spanned<String>>,
    /// Takes tokens without `exp`, which never expire.
    pub allow_no_expiry: bool,
}

/// [`JwtConfig`], compiled.
pub struct Issuer {
    keys: Vec<VerifyKey>,
    /// Keys that are fetched.
    pub jwks: Option<Arc<Jwks>>,
    types: Vec<Box<str>>,
    rules: ClaimRules,
}

impl Issuer {
    pub fn compile(config: &JwtConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let algorithms: Vec<Option<Algorithm>> =
            config.algorithms.iter().map(|name| parse_algorithm(name, cx.problems)).collect();
        let known: Vec<Algorithm> = algorithms.iter().flatten().copied().collect();
        let keys: Vec<Option<VerifyKey>> =
            config.keys.iter().map(|key| VerifyKey::compile(&key.value, &known, cx.base, key.place, cx.problems)).collect();
        let jwks = JwksSource {
            jwks_url: config.jwks_url.as_ref(),
            discovery: config.discovery,
            issuers: config.issuer.as_ref().map(|list| &*list.0),
            provider: &config.provider,
            pace: &config.jwks,
        };
        let jwks = Jwks::compile(jwks, &known, &mut cx.context());
        if config.keys.is_empty() && config.jwks_url.is_none() && !config.discovery {
            cx.problems.push(
                Problem::error(cx.place, "`jwt` needs at least one key to check tokens with").hint("keys, jwks_url or discovery"),
            );
            return None;
        }
        if config.audience.is_none() {
            // RFC 8725, section 3.9.
            let problem =
                Problem::warning(cx.place, "without `audience`, tokens that were issued for other services are taken too");
            cx.problems.push(problem.hint("audience"));
        }
        let rules = ClaimsConfig {
            issuer: config.issuer.as_ref(),
            audience: config.audience.as_ref(),
            leeway: config.leeway.as_ref(),
            require: &config.require,
            claims_to_headers: &config.claims_to_headers,
            consumer_claim: config.consumer_claim.as_ref(),
            scope_claim: config.scope_claim.as_ref(),
            groups_claim: config.groups_claim.as_ref(),
            plan_claim: config.plan_claim.as_ref(),
            endless: config.allow_no_expiry,
            client_is_subject: false,
        };
        let rules = ClaimRules::compile(METHOD, &rules, cx);
        let types = match &*config.types {
            [] => vec!["jwt".into(), "at+jwt".into()],
            types => types.iter().map(|kind| normal_type(&kind.value).into()).collect(),
        };
        if algorithms.contains(&None) {
            return None;
        }
        Some(Issuer { keys: keys.into_iter().collect::<Option<_>>()?, jwks: jwks?, types, rules: rules? })
    }

    /// What its tokens must say, and whom they prove.
    pub fn rules(&self) -> &ClaimRules {
        &self.rules
    }

    /// The headers of `claims_to_headers`.
    pub fn sets(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.sets()
    }

    /// Mixes in everything that a verdict, or what follows from it, depends on, but for the fetched keys themselves.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        feed_all(print, self.types.iter().map(|kind| kind.as_bytes()));
        self.rules.feed(print);
        feed(print, &(self.keys.len() as u64).to_be_bytes());
        self.keys.iter().for_each(|key| key.feed(print));
        feed(print, self.jwks.as_ref().map_or(&[][..], |jwks| jwks.print()));
    }

    /// Everything there is to check about a token. `now` in seconds since 1970. The number is the generation of the fetched keys, 0
    /// where the configured ones sufficed: what it says holds for as long as they do.
    pub fn verify(&self, token: &Token<'_>, now: u64, consumers: &Consumers) -> Result<(Arc<Accepted>, u64), Failure> {
        token.check_header(&self.types)?;
        let (claims, generation) = match (token.claims(self.keys.iter()), &self.jwks) {
            (Ok(claims), _) => (claims, 0),
            (Err(fault), None) => return Err(fault.into()),
            (Err(fault), Some(jwks)) => {
                let set = jwks.current().ok_or(Failure::KeysUnavailable)?;
                (token.claims(set.keys.iter()).map_err(|other| fault.max(other))?, set.generation)
            }
        };
        Ok((self.rules.accept(claims, now, consumers)?, generation))
    }

    /// The fetched keys, if newer ones could make a difference to a token that was refused for this.
    pub fn stale_for(&self, token: &Token<'_>, failure: Failure) -> Option<&Arc<Jwks>> {
        let jwks = self.jwks.as_ref()?;
        // A key may be replaced without a new name, or have none: then a new key's tokens look forged until it is fetched.
        let helps = matches!(
            failure,
            Failure::UnknownKey | Failure::KeysUnavailable | Failure::UnsupportedAlgorithm | Failure::BadSignature
        );
        (helps && token.check_header(&self.types).is_ok() && jwks.may_change()).then_some(jwks)
    }

    /// Whether what was concluded under that generation of the fetched keys still holds.
    pub fn holds(&self, generation: u64) -> bool {
        generation == 0 || self.jwks.as_ref().is_some_and(|jwks| jwks.generation() == generation)
    }
}
