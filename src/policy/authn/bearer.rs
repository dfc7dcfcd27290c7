//! Bearer tokens: one credential, which any of a route's issuers may have signed.
//!
//! Here is where the token stands and what is remembered of it. What it must say is `jwt`'s question.

use std::sync::Arc;

use http::{HeaderName, header};

use super::Consumers;
use super::challenge::BEARER;
use super::failure::Failure;
use super::jwt::{JwtConfig, JwtMethod, Verified};
use super::jwt_token::{Token, bearer};
use super::method::{Carriers, Method, Verdict};
use super::token_cache::TokenCache;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;

/// The tokens of some issuers.
pub struct BearerMethod {
    issuers: Vec<JwtMethod>,
    consumers: Arc<Consumers>,
    pub(super) tokens: Option<Arc<TokenCache>>,
    /// Keeps this configuration's cache entries apart from any other's.
    token_key: [u8; 32],
}

impl BearerMethod {
    /// `capacity` is the cache's, in tokens of up to 2 KiB; 0 for none.
    pub fn compile(configs: &[JwtConfig], capacity: usize, cx: &mut Compile<'_>) -> Option<Self> {
        if configs.is_empty() {
            cx.problems
                .push(Problem::error(cx.place, "`jwt` needs at least one issuer").hint("leave `jwt` out to take no tokens"));
            return None;
        }
        // All of them, so that every problem is found in one go.
        let issuers: Vec<Option<JwtMethod>> = configs.iter().map(|config| JwtMethod::compile(config, cx)).collect();
        let issuers = issuers.into_iter().collect::<Option<Vec<_>>>()?;
        let print = fingerprint(&issuers, cx.consumers, capacity);
        // The cache's name says everything that its entries depend on, keys included: a reload that changes none of it keeps the
        // cache, a rotated key leaves it behind, and routes of one configuration share it. The scope has no influence on a verdict.
        let name = blake3::Hash::from(blake3::derive_key("portcullis authn token cache name", &print)).to_hex();
        let tokens = (capacity > 0).then(|| cx.ledger.keep(&format!("authn/tokens/{name}"), || TokenCache::new(capacity)));
        Some(BearerMethod { issuers, consumers: cx.consumers.clone(), tokens, token_key: print })
    }

    fn verify(&self, token: &[u8], now: u64) -> Result<Verified, Failure> {
        let key = *blake3::keyed_hash(&self.token_key, token).as_bytes();
        if let Some(tokens) = &self.tokens
            && let Some(verified) = tokens.get(&key, now)?
        {
            return Ok(verified);
        }
        let parsed = Token::parse(token)?;
        let mut furthest = Failure::MalformedToken;
        for issuer in &self.issuers {
            match issuer.verify(&parsed, token.len(), now, &self.consumers) {
                Ok(verified) => {
                    if let Some(tokens) = &self.tokens {
                        tokens.put(key, verified.clone());
                    }
                    return Ok(verified);
                }
                Err(failure) => furthest = furthest.max(failure),
            }
        }
        Err(furthest)
    }
}

impl Method for BearerMethod {
    fn check(&self, head: &RequestHead, _: &Exchange, now: u64) -> Verdict {
        match bearer(head) {
            Ok(None) => Verdict::Absent,
            Ok(Some(token)) => self.verify(token, now).map(|verified| verified.proved).into(),
            Err(failure) => Verdict::Failed(failure),
        }
    }

    fn scheme(&self) -> Option<&'static str> {
        Some(BEARER)
    }

    fn carriers(&self) -> Carriers {
        Carriers { headers: vec![header::AUTHORIZATION], ..Carriers::default() }
    }

    fn sets(&self) -> Vec<HeaderName> {
        self.issuers.iter().flat_map(JwtMethod::claim_headers).cloned().collect()
    }
}

/// Tells apart any two configurations that could judge a token differently.
fn fingerprint(issuers: &[JwtMethod], consumers: &Consumers, capacity: usize) -> [u8; 32] {
    let mut print = blake3::Hasher::new_derive_key("portcullis authn token cache");
    super::feed(&mut print, &capacity.to_be_bytes());
    super::feed(&mut print, consumers.fingerprint());
    issuers.iter().for_each(|issuer| issuer.feed(&mut print));
    *print.finalize().as_bytes()
}
