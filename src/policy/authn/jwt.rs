//! Tokens of one issuer, or one family of issuers: their configuration, and what their claims must say.
//!
//! Not in here: parsing and signatures (`jwt_token`), keys (`jwt_keys`), remembering verdicts (`token_cache`), and keys that are
//! fetched over the network.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Consumers;
use super::failure::Failure;
use super::identity::{IDENTITY_HEADERS, encode, header_value, set_or_remove};
use super::jwt_keys::{JwtKeyConfig, VerifyKey, parse_algorithm};
use super::jwt_token::{Token, date, lookup, normal_type, texts};
use super::method::Proved;
use crate::exchange::Identity;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::{OneOrMany, Period, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "jwt";

const DEFAULT_LEEWAY: u64 = 60;
const MAX_LEEWAY: u64 = 600;

/// Signed tokens (JWT, RFC 7519) in `Authorization: Bearer`, and nowhere else. `exp` and `sub` are always required.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// The issuers that are accepted, compared byte for byte with `iss`. Default: any, and `iss` may be missing.
    pub issuer: Option<OneOrMany<Spanned<String>>>,
    /// The audiences of which `aud` must hold one. Default: any, which also takes tokens that were meant for others.
    pub audience: Option<OneOrMany<Spanned<String>>>,
    /// The algorithms that keys may be configured for. Default: whatever the keys imply. A token never chooses.
    pub algorithms: Vec<Spanned<String>>,
    /// The keys that tokens may be signed with; at least one.
    pub keys: Vec<JwtKeyConfig>,
    /// How far the issuer's clock may be off, for `exp` and `nbf`. Default 60s, at most 10m.
    pub leeway: Option<Spanned<Period>>,
    /// Claims that must be there and not null, beside `exp` and `sub`.
    pub require: Vec<Spanned<String>>,
    /// Claims that go upstream: header field name to claim name; `a.b` looks into objects. Strings, numbers and booleans go as they
    /// are, lists of them joined with commas; anything else is left out. Bytes that a header cannot hold, and `%`, are
    /// percent-encoded. A client that sends these fields itself has them removed.
    pub claims_to_headers: BTreeMap<String, Spanned<String>>,
    /// The claim with the scopes: a string with spaces, or a list. Default: `scope`, and where a token lacks it, `scp`.
    pub scope_claim: Option<Spanned<String>>,
    /// A claim with the names of groups: a string or a list. Default: none; groups are then the consumer's.
    pub groups_claim: Option<Spanned<String>>,
    /// What the header member `typ` may be, where it is there. Default: `JWT` and `at+jwt`.
    pub types: Vec<Spanned<String>>,
    /// Takes tokens without `exp`, which never expire.
    pub allow_no_expiry: bool,
}

/// [`JwtConfig`], compiled.
pub struct JwtMethod {
    keys: Vec<VerifyKey>,
    issuers: Vec<Box<str>>,
    audiences: Vec<Box<str>>,
    types: Vec<Box<str>>,
    require: Vec<Box<str>>,
    /// Sorted by header, because the configuration's map is.
    claims: Vec<(HeaderName, Box<str>)>,
    scope_claim: Option<Box<str>>,
    groups_claim: Option<Box<str>>,
    /// Seconds.
    leeway: u64,
    allow_no_expiry: bool,
}

/// A token that was found good, and all that follows from it.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Sets or removes each header of `claims_to_headers`.
    pub proved: Arc<Proved>,
    /// The second in which the token is no longer good, leeway included.
    pub until: u64,
    /// The first second in which it is, leeway included.
    pub from: u64,
    /// The token's length in bytes.
    pub size: usize,
}

impl Verified {
    /// RFC 7519, sections 4.1.4 and 4.1.5: not on or after `exp`, not before `nbf`.
    pub fn check_time(&self, now: u64) -> Result<(), Failure> {
        if now >= self.until {
            Err(Failure::Expired)
        } else if now < self.from {
            Err(Failure::NotYetValid)
        } else {
            Ok(())
        }
    }
}

impl JwtMethod {
    pub fn compile(config: &JwtConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let algorithms: Vec<Option<Algorithm>> =
            config.algorithms.iter().map(|name| parse_algorithm(name, cx.problems)).collect();
        let known: Vec<Algorithm> = algorithms.iter().flatten().copied().collect();
        let keys: Vec<Option<VerifyKey>> =
            config.keys.iter().map(|key| VerifyKey::compile(key, &known, cx.base, cx.place, cx.problems)).collect();
        if config.keys.is_empty() {
            cx.problems.push(Problem::error(cx.place, "`jwt` needs at least one key to check tokens with").hint("keys"));
            return None;
        }
        let issuers = names(config.issuer.as_ref().map(|list| &*list.0), "issuer", cx);
        let audiences = names(config.audience.as_ref().map(|list| &*list.0), "audience", cx);
        if config.audience.is_none() {
            // RFC 8725, section 3.9.
            let problem =
                Problem::warning(cx.place, "without `audience`, tokens that were issued for other services are taken too");
            cx.problems.push(problem.hint("audience"));
        }
        let leeway = leeway(config.leeway.as_ref(), cx);
        let claims: Vec<_> = config.claims_to_headers.iter().map(|(header, claim)| claim_header(header, claim, cx)).collect();
        let types = match &*config.types {
            [] => vec!["jwt".into(), "at+jwt".into()],
            types => types.iter().map(|kind| normal_type(&kind.value).into()).collect(),
        };
        if algorithms.contains(&None) {
            return None;
        }
        let boxed = |name: &Spanned<String>| Box::from(name.value.as_str());
        Some(JwtMethod {
            keys: keys.into_iter().collect::<Option<_>>()?,
            issuers: issuers?,
            audiences: audiences?,
            types,
            require: config.require.iter().map(boxed).collect(),
            claims: claims.into_iter().collect::<Option<_>>()?,
            scope_claim: config.scope_claim.as_ref().map(boxed),
            groups_claim: config.groups_claim.as_ref().map(boxed),
            leeway: leeway?,
            allow_no_expiry: config.allow_no_expiry,
        })
    }

    /// The headers of `claims_to_headers`.
    pub fn claim_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.claims.iter().map(|(header, _)| header)
    }

    /// Mixes in everything that a verdict, or what follows from it, depends on.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        let lists = [&self.issuers, &self.audiences, &self.types, &self.require];
        lists.iter().for_each(|list| super::feed_all(print, list.iter().map(|item| item.as_bytes())));
        super::feed_all(print, self.claims.iter().flat_map(|(header, claim)| [header.as_str().as_bytes(), claim.as_bytes()]));
        let claims = [&self.scope_claim, &self.groups_claim];
        claims.iter().for_each(|claim| super::feed_all(print, claim.iter().map(|claim| claim.as_bytes())));
        super::feed(print, &self.leeway.to_be_bytes());
        super::feed(print, &[u8::from(self.allow_no_expiry), u8::try_from(self.keys.len()).unwrap_or(u8::MAX)]);
        self.keys.iter().for_each(|key| key.feed(print));
    }

    /// Everything there is to check about a token. `now` in seconds since 1970.
    pub fn verify(&self, token: &Token<'_>, size: usize, now: u64, consumers: &Consumers) -> Result<Verified, Failure> {
        let claims = token.claims(&self.keys, &self.types)?;
        let issuer = self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        let until = match date(&claims, "exp", f64::floor)? {
            Some(exp) => exp.saturating_add(self.leeway),
            None if self.allow_no_expiry => u64::MAX,
            None => return Err(Failure::MissingClaim),
        };
        let from = date(&claims, "nbf", f64::ceil)?.unwrap_or(0).saturating_sub(self.leeway);
        if self.require.iter().any(|name| lookup(&claims, name).is_none_or(Value::is_null)) {
            return Err(Failure::MissingClaim);
        }
        let subject = match claims.get("sub") {
            Some(Value::String(subject)) if !subject.is_empty() => subject.as_str(),
            Some(Value::String(_)) | None => return Err(Failure::MissingClaim),
            Some(_) => return Err(Failure::MalformedClaim),
        };
        let edit = |(header, claim): &(HeaderName, Box<str>)| {
            set_or_remove(header, lookup(&claims, claim).and_then(claim_value).as_ref())
        };
        let extra = self.claims.iter().map(edit).collect();
        let consumer = consumers.by_subject(issuer, subject);
        let mut groups = consumer.map(|consumer| consumer.groups.clone()).unwrap_or_default();
        groups.extend(self.groups(&claims)?.into_iter().map(Arc::from));
        let scopes = match self.scopes(&claims)? {
            Some(scopes) => scopes,
            None => consumer.map(|consumer| consumer.scopes.clone()).unwrap_or_default(),
        };
        let mut identity = Identity {
            consumer: consumer.map(|consumer| consumer.name.clone()),
            credential: issuer.unwrap_or(METHOD).into(),
            method: METHOD,
            subject: subject.into(),
            scopes,
            groups,
            plan: consumer.and_then(|consumer| consumer.plan.clone()),
            claims: None,
        };
        identity.claims = Some(Arc::new(Value::Object(claims)));
        let proved = Proved { extra, ..Proved::new(identity) };
        let verified = Verified { proved: Arc::new(proved), until, from, size };
        verified.check_time(now)?;
        Ok(verified)
    }

    fn check_issuer<'a>(&self, claims: &'a Map<String, Value>) -> Result<Option<&'a str>, Failure> {
        let issuer = match claims.get("iss") {
            None => None,
            Some(Value::String(issuer)) => Some(issuer.as_str()),
            Some(_) => return Err(Failure::MalformedClaim),
        };
        let accepted = self.issuers.is_empty() || self.issuers.iter().any(|known| Some(&**known) == issuer);
        if accepted { Ok(issuer) } else { Err(Failure::WrongIssuer) }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Failure> {
        let audience = texts(claims, "aud")?.unwrap_or_default();
        let accepted =
            self.audiences.is_empty() || audience.iter().any(|meant| self.audiences.iter().any(|known| **known == **meant));
        if accepted { Ok(()) } else { Err(Failure::WrongAudience) }
    }

    /// `None` if the token has no scope claim, which is not the same as an empty one.
    fn scopes(&self, claims: &Map<String, Value>) -> Result<Option<Vec<Arc<str>>>, Failure> {
        let found = match &self.scope_claim {
            Some(name) => lookup(claims, name),
            None => claims.get("scope").or_else(|| claims.get("scp")),
        };
        let keep = |scope: &&str| is_scope(scope);
        match found {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.split(' ').filter(keep).map(Arc::from).collect())),
            Some(Value::Array(items)) => Ok(Some(items.iter().filter_map(Value::as_str).filter(keep).map(Arc::from).collect())),
            Some(_) => Err(Failure::MalformedClaim),
        }
    }

    fn groups<'a>(&self, claims: &'a Map<String, Value>) -> Result<Vec<&'a str>, Failure> {
        match self.groups_claim.as_deref().and_then(|name| lookup(claims, name)) {
            None => Ok(Vec::new()),
            Some(Value::String(group)) => Ok(vec![group]),
            Some(Value::Array(items)) => Ok(items.iter().filter_map(Value::as_str).collect()),
            Some(_) => Err(Failure::MalformedClaim),
        }
    }
}

/// A scope token (RFC 6749, section 3.3). What is none is dropped: a list's `a b` must not turn into two scopes on its way upstream.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn names(list: Option<&[Spanned<String>]>, what: &str, cx: &mut Compile<'_>) -> Option<Vec<Box<str>>> {
    let Some(list) = list else { return Some(Vec::new()) };
    // An empty list would read as "any" further down: say so instead of opening the door.
    if list.is_empty() || list.iter().any(|name| name.value.is_empty()) {
        let place = list.iter().find(|name| name.value.is_empty()).map_or(cx.place, |name| name.place);
        cx.problems.push(Problem::error(place, format!("`{what}` cannot be empty")));
        return None;
    }
    Some(list.iter().map(|name| name.value.as_str().into()).collect())
}

fn leeway(period: Option<&Spanned<Period>>, cx: &mut Compile<'_>) -> Option<u64> {
    let Some(period) = period else { return Some(DEFAULT_LEEWAY) };
    let seconds = period.value.0.as_secs();
    if period.value.0 > std::time::Duration::from_secs(MAX_LEEWAY) {
        cx.problems.push(Problem::error(period.place, "`leeway` is at most 10m"));
        return None;
    }
    Some(seconds)
}

/// Fields that decide how a message is framed or routed, carry credentials, or are the gateway's own to set.
const RESERVED: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn claim_header(header: &str, claim: &Spanned<String>, cx: &mut Compile<'_>) -> Option<(HeaderName, Box<str>)> {
    let Ok(name) = HeaderName::from_bytes(header.as_bytes()) else {
        cx.problems.push(Problem::error(claim.place, format!("`{header}` is no header name")));
        return None;
    };
    if RESERVED.contains(&name.as_str()) || IDENTITY_HEADERS.contains(&&name) {
        cx.problems.push(Problem::error(claim.place, format!("`{header}` cannot be set from a claim")));
        return None;
    }
    Some((name, claim.value.as_str().into()))
}

/// A claim as a header value; `None` for what has no plain text form.
fn claim_value(claim: &Value) -> Option<HeaderValue> {
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    match claim {
        Value::Array(items) => {
            // Within a list, a comma that belongs to an item must not look like one between items.
            let items: Option<Vec<String>> =
                items.iter().map(|item| Some(encode(&plain(item)?, |byte| byte == b',').into_owned())).collect();
            let joined = items?.join(",");
            (!joined.is_empty() && joined.len() <= super::identity::MAX_VALUE)
                .then(|| HeaderValue::from_str(&joined).ok())
                .flatten()
        }
        single => header_value(&plain(single)?),
    }
}
