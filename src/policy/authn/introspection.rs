//! Tokens that only their authorization server can judge (RFC 7662): how that is configured, and what its answer must say.
//!
//! Not in here: how it is asked ([`crate::oidc::introspection`]), and remembering active tokens, which the route's token cache does.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;

use super::claims::{Accepted, ClaimRules, ClaimsConfig};
use super::failure::Failure;
use super::sources::TokenSourceConfig;
use crate::consumers::Consumers;
use crate::fingerprint::feed;
use crate::oidc::introspection::{ClientAuth, Server, ServerConfig, Word};
use crate::oidc::provider::ProviderConfig;
use crate::policy::Compile;
use crate::value::{OneOrMany, Period, Secret, Spanned, up_to_an_hour};

/// What `Identity::method` says.
pub const METHOD: &str = "introspection";

/// An authorization server that is asked about tokens. While it cannot be, such tokens are answered 503 `introspection_unavailable`
/// with `Retry-After`: nothing is let through unseen.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// Where tokens may stand. Default: `Authorization: Bearer`.
    #[serde(default)]
    pub from: Vec<TokenSourceConfig>,
    /// The introspection endpoint: `https`, or `http` on this machine.
    pub url: Spanned<String>,
    /// Who the gateway is to that server.
    pub client_id: Spanned<String>,
    pub client_secret: Spanned<Secret>,
    /// How the gateway says so: `basic` (HTTP Basic, the default), or `post` (in the form).
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// How the server is reached. The `timeout` is the longest that a request waits for its answer; default 2s here.
    #[serde(default)]
    pub provider: ProviderConfig,
    /// How long an active token is taken for active without asking again, and never beyond its `exp`: how long a revoked one may
    /// still be used. 0s to 1h, default 30s.
    #[serde(default)]
    pub cache: Option<Spanned<Period>>,
    /// How long an inactive token is refused without asking again. 0s to 1h, default 10s.
    #[serde(default)]
    pub inactive_cache: Option<Spanned<Period>>,
    /// The issuers of which `iss` must be one. Default: any, and `iss` may be missing.
    #[serde(default)]
    pub issuer: Option<OneOrMany<Spanned<String>>>,
    /// The audiences of which `aud` must hold one. Default: any.
    #[serde(default)]
    pub audience: Option<OneOrMany<Spanned<String>>>,
    /// How far the server's clock may be off, for `exp` and `nbf`. Default 60s, at most 10m.
    #[serde(default)]
    pub leeway: Option<Spanned<Period>>,
    /// Members that the answer must have, and not null.
    #[serde(default)]
    pub require: Vec<Spanned<String>>,
    /// Members that go upstream, as `claims_to_headers` of `jwt` does.
    #[serde(default)]
    pub claims_to_headers: BTreeMap<String, Spanned<String>>,
    /// The member that says which consumer a token belongs to, such as `client_id`: its value is one of a consumer's `subjects`, or
    /// a consumer's name. Default: `sub`, which is looked for among the `subjects` only.
    #[serde(default)]
    pub consumer_claim: Option<Spanned<String>>,
    /// The member with the scopes. Default: `scope`.
    #[serde(default)]
    pub scope_claim: Option<Spanned<String>>,
    /// The members with the names of groups or roles. Default: none.
    #[serde(default)]
    pub groups_claim: Option<OneOrMany<Spanned<String>>>,
    /// The member with the name of the plan. Default: none.
    #[serde(default)]
    pub plan_claim: Option<Spanned<String>>,
}

/// [`IntrospectionConfig`], compiled.
pub struct Introspection {
    server: Arc<Server>,
    rules: ClaimRules,
    /// Seconds.
    cache: u64,
}

impl Introspection {
    pub fn compile(config: &IntrospectionConfig, cx: &mut Compile<'_>) -> Option<Self> {
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
            // RFC 7662, section 2.2: only `active` is sure to be there.
            endless: true,
            client_is_subject: true,
        };
        let rules = ClaimRules::compile(METHOD, &rules, cx);
        let cache = up_to_an_hour(config.cache.as_ref(), 30, "cache", cx.problems);
        let server = ServerConfig {
            url: &config.url,
            client_id: &config.client_id,
            client_secret: &config.client_secret,
            client_auth: config.client_auth,
            provider: &config.provider,
            inactive_cache: config.inactive_cache.as_ref(),
        };
        let server = Server::compile(server, &mut cx.context());
        Some(Introspection { server: server?, rules: rules?, cache: cache?.as_secs() })
    }

    /// What the server's answers must say, and whom they prove.
    pub fn rules(&self) -> &ClaimRules {
        &self.rules
    }

    pub fn sets(&self) -> impl Iterator<Item = &HeaderName> {
        self.rules.sets()
    }

    /// Mixes in everything that a verdict, or what follows from it, depends on.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        self.rules.feed(print);
        feed(print, &self.cache.to_be_bytes());
        feed(print, self.server.print());
    }

    /// What can be said of a token without asking.
    pub fn known(&self, token: &[u8]) -> Option<Failure> {
        self.server.is_inactive(token).then_some(Failure::InactiveToken)
    }

    /// Asks, or joins those who do. The second is when to ask again.
    pub async fn ask(&self, token: &[u8], now: u64, consumers: &Consumers) -> Result<(Arc<Accepted>, u64), Failure> {
        match self.server.ask(token).await {
            Word::Active(claims) => {
                let accepted = self.rules.accept(Map::clone(&claims), now, consumers)?;
                let until = ClaimRules::expiry(&claims).min(now.saturating_add(self.cache));
                Ok((accepted, until))
            }
            Word::Inactive => Err(Failure::InactiveToken),
            Word::None => Err(Failure::IntrospectionUnavailable),
        }
    }
}
