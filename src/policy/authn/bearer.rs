//! Bearer tokens: one credential, which any of a route's issuers may have signed, or the authorization server may know.
//!
//! Here is what becomes of a token: remembered, verified, verified once more with newer keys, asked about. What it must say is the
//! business of `claims`, where it stands that of `sources`.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use smallvec::SmallVec;

use super::AuthnConfig;
use super::challenge::BEARER;
use super::claims::Accepted;
use super::failure::Failure;
use super::introspection::{Introspection, IntrospectionConfig};
use super::jwt::{Issuer, JwtConfig};
use super::method::{Carriers, Method, Proving, Verdict};
use super::sources::{self, TokenSource};
use super::token_cache::{Known, TokenCache, TokenKey, Voucher};
use crate::consumers::Consumers;
use crate::consumers::Proved;
use crate::exchange::Exchange;
use crate::fingerprint::feed;
use crate::head::RequestHead;
use crate::jose::token::{MAX_TOKEN, Token};
use crate::oidc::jwks::Jwks;
use crate::policy::Compile;
use crate::problem::Problem;

/// The tokens that stand at the same places, whoever vouches for them.
pub struct BearerMethod {
    sources: Vec<TokenSource>,
    issuers: Vec<Issuer>,
    introspection: Option<Introspection>,
    consumers: Arc<Consumers>,
    tokens: Option<Arc<TokenCache>>,
    /// Keeps this configuration's cache entries apart from any other's.
    token_key: [u8; 32],
}

/// Why a token was refused, and whose newer keys could change that.
struct Refused<'a> {
    failure: Failure,
    stale: SmallVec<[&'a Arc<Jwks>; 1]>,
}

impl From<Failure> for Refused<'_> {
    fn from(failure: Failure) -> Self {
        Refused { failure, stale: SmallVec::new() }
    }
}

impl BearerMethod {
    /// One method for each set of places where tokens stand. `capacity` is the cache's, in tokens of up to 2 KiB; 0 for none.
    pub fn compile_all(config: &AuthnConfig, capacity: usize, cx: &mut Compile<'_>) -> Option<Vec<Self>> {
        let jwt: &[JwtConfig] = config.jwt.as_ref().map_or(&[], |list| &list.0);
        if config.jwt.is_some() && jwt.is_empty() {
            let problem = Problem::error(cx.place, "`jwt` needs at least one issuer");
            cx.problems.push(problem.hint("leave `jwt` out to take no signed tokens"));
        }
        // All of them, so that every problem is found in one go.
        let issuers: Vec<_> = jwt.iter().map(|jwt| (TokenSource::compile_all(&jwt.from, cx), Issuer::compile(jwt, cx))).collect();
        let introspection = config
            .introspection
            .as_ref()
            .map(|config: &IntrospectionConfig| (TokenSource::compile_all(&config.from, cx), Introspection::compile(config, cx)));
        let mut groups: Vec<(Vec<TokenSource>, Vec<Issuer>, Option<Introspection>)> = Vec::new();
        for (sources, issuer) in issuers {
            let (sources, issuer) = (sources?, issuer?);
            match groups.iter_mut().find(|(known, ..)| *known == sources) {
                Some((_, issuers, _)) => issuers.push(issuer),
                None => groups.push((sources, vec![issuer], None)),
            }
        }
        if let Some((sources, introspection)) = introspection {
            let (sources, introspection) = (sources?, introspection?);
            match groups.iter_mut().find(|(known, ..)| *known == sources) {
                Some((_, _, place)) => *place = Some(introspection),
                None => groups.push((sources, Vec::new(), Some(introspection))),
            }
        }
        let build = |(sources, issuers, introspection)| Self::new(sources, issuers, introspection, capacity, cx);
        Some(groups.into_iter().map(build).collect())
    }

    fn new(
        sources: Vec<TokenSource>,
        issuers: Vec<Issuer>,
        introspection: Option<Introspection>,
        capacity: usize,
        cx: &Compile<'_>,
    ) -> Self {
        let mut print = blake3::Hasher::new_derive_key("portcullis authn token cache");
        feed(&mut print, &capacity.to_be_bytes());
        feed(&mut print, &(issuers.len() as u64).to_be_bytes());
        issuers.iter().for_each(|issuer| issuer.feed(&mut print));
        introspection.iter().for_each(|introspection| introspection.feed(&mut print));
        let print = *print.finalize().as_bytes();
        // The cache's name says everything that its entries depend on, configured keys included: a reload that changes none of it
        // keeps the cache, and routes of one configuration share it. Neither the scope nor a token's place influences a verdict, and
        // whom a token belongs to is looked up afresh among each generation's consumers.
        let name = blake3::Hash::from(blake3::derive_key("portcullis authn token cache name", &print)).to_hex();
        let tokens = (capacity > 0).then(|| cx.ledger.keep(&format!("authn/tokens/{name}"), || TokenCache::new(capacity)));
        BearerMethod { sources, issuers, introspection, consumers: cx.consumers.clone(), tokens, token_key: print }
    }

    /// The cache of verified tokens, if there is one.
    pub fn cache(&self) -> Option<&Arc<TokenCache>> {
        self.tokens.as_ref()
    }

    fn present<'a>(&'a self, head: &'a RequestHead) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        sources::find(&self.sources, head)
    }

    /// What can be said of a token by its look: that it is too long, or has bytes that no access token has (RFC 6749, appendix A.12).
    /// Nobody is asked about those.
    fn look(token: &[u8]) -> Result<(), Failure> {
        if token.len() > MAX_TOKEN {
            return Err(Failure::TokenTooLarge);
        }
        if token.is_empty() || !token.iter().all(|byte| matches!(byte, 0x21..=0x7e)) {
            return Err(Failure::MalformedToken);
        }
        Ok(())
    }

    fn key(&self, token: &[u8]) -> TokenKey {
        *blake3::keyed_hash(&self.token_key, token).as_bytes()
    }

    /// Whom a token proves that is remembered, if that still holds.
    fn remembered(&self, key: &TokenKey, now: u64) -> Result<Option<Arc<Proved>>, Failure> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let Some(known) = tokens.get(key, now)? else { return Ok(None) };
        let rules = match known.by {
            Voucher::Issuer(number, generation) => {
                self.issuers.get(number as usize).filter(|issuer| issuer.holds(generation)).map(Issuer::rules)
            }
            Voucher::Server(until) => self.introspection.as_ref().filter(|_| now < until).map(Introspection::rules),
        };
        match rules {
            Some(rules) => rules.proved(&known.accepted, &self.consumers).map(Some),
            None => {
                tokens.forget(key);
                Ok(None)
            }
        }
    }

    fn remember(&self, key: TokenKey, token: &[u8], accepted: Arc<Accepted>, by: Voucher) {
        if let Some(tokens) = &self.tokens {
            let size = u32::try_from(token.len()).unwrap_or(u32::MAX);
            tokens.put(key, Known { accepted, by, size });
        }
    }

    /// Whether one of the issuers signed it.
    fn verify(&self, key: TokenKey, token: &[u8], now: u64) -> Result<Arc<Proved>, Refused<'_>> {
        if self.issuers.is_empty() {
            return Err(Failure::MalformedToken.into());
        }
        let parsed = Token::parse(token).map_err(Failure::from)?;
        let mut refused = Refused::from(Failure::MalformedToken);
        for (number, issuer) in (0..).zip(&self.issuers) {
            match issuer.verify(&parsed, now, &self.consumers) {
                Ok((accepted, generation)) => {
                    let proved = issuer.rules().proved(&accepted, &self.consumers)?;
                    self.remember(key, token, accepted, Voucher::Issuer(number, generation));
                    return Ok(proved);
                }
                Err(failure) => {
                    refused.failure = refused.failure.max(failure);
                    refused.stale.extend(issuer.stale_for(&parsed, failure));
                }
            }
        }
        // Once somebody's keys fitted, nobody else's will.
        if !unsigned(refused.failure) {
            refused.stale.clear();
        }
        Err(refused)
    }

    /// The authorization server, if this refusal is not the last word on the token.
    fn second_opinion(&self, failure: Failure) -> Option<&Introspection> {
        self.introspection.as_ref().filter(|_| unsigned(failure))
    }

    async fn prove(&self, token: &[u8], now: u64) -> Result<Arc<Proved>, Failure> {
        let key = self.key(token);
        if let Some(proved) = self.remembered(&key, now)? {
            return Ok(proved);
        }
        Self::look(token)?;
        let mut refused = match self.verify(key, token, now) {
            Ok(proved) => return Ok(proved),
            Err(refused) => refused,
        };
        if let Some(patience) = refused.stale.iter().map(|jwks| jwks.patience()).max() {
            let newer = refused.stale.iter().map(|jwks| jwks.changed());
            // One after the other, under one deadline: all of them are being fetched at the same time.
            let all = async {
                for one in newer {
                    one.await;
                }
            };
            let _ = tokio::time::timeout(patience, all).await;
            refused = match self.verify(key, token, now) {
                Ok(proved) => return Ok(proved),
                Err(refused) => refused,
            };
        }
        let Some(introspection) = self.second_opinion(refused.failure) else { return Err(refused.failure) };
        let (accepted, until) = introspection.ask(token, now, &self.consumers).await?;
        let proved = introspection.rules().proved(&accepted, &self.consumers)?;
        self.remember(key, token, accepted, Voucher::Server(until));
        Ok(proved)
    }

    fn judge(&self, token: &[u8], now: u64) -> Verdict {
        let key = self.key(token);
        match self.remembered(&key, now) {
            Ok(Some(proved)) => return Verdict::Proved(proved),
            Ok(None) => {}
            Err(failure) => return Verdict::Failed(failure),
        }
        if let Err(failure) = Self::look(token) {
            return Verdict::Failed(failure);
        }
        match self.verify(key, token, now) {
            Ok(proved) => Verdict::Proved(proved),
            Err(refused) if !refused.stale.is_empty() => Verdict::Waits,
            Err(refused) => match self.second_opinion(refused.failure) {
                Some(introspection) => introspection.known(token).map_or(Verdict::Waits, Verdict::Failed),
                None => Verdict::Failed(refused.failure),
            },
        }
    }
}

/// Whether no key was found that signed the token: it may be somebody else's, or no signed token at all.
fn unsigned(failure: Failure) -> bool {
    use Failure::{BadSignature, KeysUnavailable, MalformedToken, UnknownKey, UnsupportedAlgorithm, UnsupportedType};
    matches!(failure, MalformedToken | UnsupportedType | UnknownKey | UnsupportedAlgorithm | BadSignature | KeysUnavailable)
}

impl Method for BearerMethod {
    fn check(&self, head: &RequestHead, _: &Exchange, now: u64) -> Verdict {
        match self.present(head) {
            Ok(None) => Verdict::Absent,
            Ok(Some(token)) => self.judge(&token, now),
            Err(failure) => Verdict::Failed(failure),
        }
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, _: &'a Exchange, now: u64) -> Proving<'a> {
        Box::pin(async move {
            let token = self.present(head)?.ok_or(Failure::MissingCredentials)?;
            self.prove(&token, now).await
        })
    }

    /// A token that comes in a field of its own or a cookie cannot be asked for with a scheme.
    fn scheme(&self) -> Option<&'static str> {
        self.sources.contains(&TokenSource::bearer()).then_some(BEARER)
    }

    fn carriers(&self) -> Carriers {
        TokenSource::carry(&self.sources)
    }

    fn sets(&self) -> Vec<HeaderName> {
        let introspection = self.introspection.iter().flat_map(Introspection::sets);
        self.issuers.iter().flat_map(Issuer::sets).chain(introspection).cloned().collect()
    }
}
