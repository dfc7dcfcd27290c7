//! What the claims of a credential must say, and the identity that they make. The same for tokens that are signed and for tokens that
//! are asked about.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::failure::Failure;
use crate::consumers::Consumer;
use crate::consumers::Consumers;
use crate::consumers::Proved;
use crate::consumers::identity::{IDENTITY_HEADERS, encode, header_value, set_or_remove};
use crate::exchange::Identity;
use crate::fingerprint::{feed, feed_all};
use crate::head::TRAVEL_FIELDS;
use crate::jose::token::{date, lookup, texts};
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::{OneOrMany, Period, Spanned};

const DEFAULT_LEEWAY: u64 = 60;
const MAX_LEEWAY: u64 = 600;

/// What methods let people write about claims.
pub struct ClaimsConfig<'a> {
    pub issuer: Option<&'a OneOrMany<Spanned<String>>>,
    pub audience: Option<&'a OneOrMany<Spanned<String>>>,
    pub leeway: Option<&'a Spanned<Period>>,
    pub require: &'a [Spanned<String>],
    pub claims_to_headers: &'a BTreeMap<String, Spanned<String>>,
    pub consumer_claim: Option<&'a Spanned<String>>,
    pub scope_claim: Option<&'a Spanned<String>>,
    pub groups_claim: Option<&'a OneOrMany<Spanned<String>>>,
    pub plan_claim: Option<&'a Spanned<String>>,
    /// Whether a credential without `exp` is taken.
    pub endless: bool,
    /// Whether `client_id` stands in for a missing `sub` (RFC 7662 has both as optional).
    pub client_is_subject: bool,
}

/// [`ClaimsConfig`], compiled.
pub struct ClaimRules {
    method: &'static str,
    issuers: Vec<Box<str>>,
    audiences: Vec<Box<str>>,
    require: Vec<Box<str>>,
    /// Sorted by header, because the configuration's map is.
    headers: Vec<(HeaderName, Box<str>)>,
    consumer_claim: Option<Box<str>>,
    scope_claim: Option<Box<str>>,
    groups_claims: Vec<Box<str>>,
    plan_claim: Option<Box<str>>,
    /// Seconds.
    leeway: u64,
    endless: bool,
    client_is_subject: bool,
}

/// A credential whose claims were found good. It says nothing of who that is: that is the present generation's to say
/// ([`ClaimRules::proved`]).
#[derive(Debug)]
pub struct Accepted {
    /// An object.
    claims: Arc<Value>,
    /// The second in which the credential is no longer good, leeway included.
    pub until: u64,
    /// The first second in which it is, leeway included.
    pub from: u64,
    /// What it proved for the generation that asked last.
    bound: ArcSwap<Bound>,
}

/// Whom the claims belong to, and what follows from that, among one generation's consumers.
#[derive(Debug)]
struct Bound {
    /// The number of [`Consumers`].
    consumers: u64,
    /// Sets or removes each header of `claims_to_headers`.
    proved: Arc<Proved>,
}

impl Accepted {
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

impl ClaimRules {
    /// `method` is what [`Identity::method`] will say.
    pub fn compile(method: &'static str, config: &ClaimsConfig<'_>, cx: &mut Compile<'_>) -> Option<Self> {
        let issuers = names(config.issuer, "issuer", cx);
        let audiences = names(config.audience, "audience", cx);
        let groups_claims = names(config.groups_claim, "groups_claim", cx);
        let leeway = leeway(config.leeway, cx);
        let headers: Vec<_> = config.claims_to_headers.iter().map(|(header, claim)| claim_header(header, claim, cx)).collect();
        let boxed = |name: &Spanned<String>| Box::from(name.value.as_str());
        Some(ClaimRules {
            method,
            issuers: issuers?,
            audiences: audiences?,
            require: config.require.iter().map(boxed).collect(),
            headers: headers.into_iter().collect::<Option<_>>()?,
            consumer_claim: config.consumer_claim.map(boxed),
            scope_claim: config.scope_claim.map(boxed),
            groups_claims: groups_claims?,
            plan_claim: config.plan_claim.map(boxed),
            leeway: leeway?,
            endless: config.endless,
            client_is_subject: config.client_is_subject,
        })
    }

    /// The headers of `claims_to_headers`.
    pub fn sets(&self) -> impl Iterator<Item = &HeaderName> {
        self.headers.iter().map(|(header, _)| header)
    }

    /// Mixes in everything that a verdict, or what follows from it, depends on.
    pub fn feed(&self, print: &mut blake3::Hasher) {
        let lists = [&self.issuers, &self.audiences, &self.require, &self.groups_claims];
        lists.iter().for_each(|list| feed_all(print, list.iter().map(|item| item.as_bytes())));
        feed_all(print, self.headers.iter().flat_map(|(header, claim)| [header.as_str().as_bytes(), claim.as_bytes()]));
        let claims = [&self.consumer_claim, &self.scope_claim, &self.plan_claim];
        claims.iter().for_each(|claim| feed_all(print, claim.iter().map(|claim| claim.as_bytes())));
        feed(print, self.method.as_bytes());
        feed(print, &self.leeway.to_be_bytes());
        feed(print, &[u8::from(self.endless), u8::from(self.client_is_subject)]);
    }

    /// Everything there is to check about claims that somebody vouched for, and whom they prove. `now` in seconds since 1970.
    pub fn accept(&self, claims: Map<String, Value>, now: u64, consumers: &Consumers) -> Result<Arc<Accepted>, Failure> {
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        let until = match date(&claims, "exp", f64::floor)? {
            Some(exp) => exp.saturating_add(self.leeway),
            None if self.endless => u64::MAX,
            None => return Err(Failure::MissingClaim),
        };
        let from = date(&claims, "nbf", f64::ceil)?.unwrap_or(0).saturating_sub(self.leeway);
        if self.require.iter().any(|name| lookup(&claims, name).is_none_or(Value::is_null)) {
            return Err(Failure::MissingClaim);
        }
        let claims = Arc::new(Value::Object(claims));
        let proved = self.bind(&claims, consumers)?;
        let bound = ArcSwap::from_pointee(Bound { consumers: consumers.number(), proved });
        let accepted = Accepted { claims, until, from, bound };
        accepted.check_time(now)?;
        Ok(Arc::new(accepted))
    }

    /// Whom accepted claims prove in the generation that `consumers` belongs to. A reload may have changed or removed whoever they
    /// belonged to before.
    pub fn proved(&self, accepted: &Accepted, consumers: &Consumers) -> Result<Arc<Proved>, Failure> {
        let bound = accepted.bound.load();
        if bound.consumers == consumers.number() {
            return Ok(bound.proved.clone());
        }
        let proved = self.bind(&accepted.claims, consumers)?;
        accepted.bound.store(Arc::new(Bound { consumers: consumers.number(), proved: proved.clone() }));
        Ok(proved)
    }

    fn bind(&self, all: &Arc<Value>, consumers: &Consumers) -> Result<Arc<Proved>, Failure> {
        let claims = all.as_object().ok_or(Failure::MalformedToken)?;
        let issuer = self.check_issuer(claims)?;
        let subject = self.subject(claims)?;
        let edit = |(header, claim): &(HeaderName, Box<str>)| {
            set_or_remove(header, lookup(claims, claim).and_then(claim_value).as_ref())
        };
        let extra = self.headers.iter().map(edit).collect();
        let consumer = self.consumer(claims, issuer, consumers)?;
        let mut groups = consumer.map(|consumer| consumer.groups.clone()).unwrap_or_default();
        groups.extend(self.groups(claims)?.into_iter().map(Arc::from));
        let scopes = match self.scopes(claims)? {
            Some(scopes) => scopes,
            None => consumer.map(|consumer| consumer.scopes.clone()).unwrap_or_default(),
        };
        let plan = match self.plan(claims)? {
            Some(plan) => Some(plan.into()),
            None => consumer.and_then(|consumer| consumer.plan.clone()),
        };
        let identity = Identity {
            consumer: consumer.map(|consumer| consumer.name.clone()),
            credential: issuer.unwrap_or(self.method).into(),
            method: self.method,
            subject: subject.into(),
            scopes,
            groups,
            plan,
            claims: Some(all.clone()),
        };
        Ok(Arc::new(Proved { extra, ..Proved::new(identity) }))
    }

    /// The second in which the credential expires by its own word, without leeway.
    pub fn expiry(claims: &Map<String, Value>) -> u64 {
        date(claims, "exp", f64::floor).ok().flatten().unwrap_or(u64::MAX)
    }

    fn subject<'a>(&self, claims: &'a Map<String, Value>) -> Result<&'a str, Failure> {
        let client = claims.get("client_id").filter(|_| self.client_is_subject);
        match claims.get("sub").or(client) {
            Some(Value::String(subject)) if !subject.is_empty() => Ok(subject),
            Some(Value::String(_)) | None => Err(Failure::MissingClaim),
            Some(_) => Err(Failure::MalformedClaim),
        }
    }

    /// Whom the claims belong to: the consumer that lists the subject; or, with a claim of its own, the one that lists its value or is
    /// called so. A client's id never counts as a subject here: whoever may register clients could name one after a person.
    fn consumer<'a>(
        &self,
        claims: &Map<String, Value>,
        issuer: Option<&str>,
        consumers: &'a Consumers,
    ) -> Result<Option<&'a Consumer>, Failure> {
        let Some(claim) = &self.consumer_claim else {
            return Ok(claims.get("sub").and_then(Value::as_str).and_then(|subject| consumers.by_subject(issuer, subject)));
        };
        match lookup(claims, claim) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(consumers.by_subject(issuer, name).or_else(|| consumers.by_name(name))),
            Some(_) => Err(Failure::MalformedClaim),
        }
    }

    fn plan<'a>(&self, claims: &'a Map<String, Value>) -> Result<Option<&'a str>, Failure> {
        match self.plan_claim.as_deref().and_then(|name| lookup(claims, name)) {
            None => Ok(None),
            Some(Value::String(plan)) => Ok(Some(plan)),
            Some(_) => Err(Failure::MalformedClaim),
        }
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
        let mut groups = Vec::new();
        for name in &self.groups_claims {
            match lookup(claims, name) {
                None => {}
                Some(Value::String(group)) => groups.push(group.as_str()),
                Some(Value::Array(items)) => groups.extend(items.iter().filter_map(Value::as_str)),
                Some(_) => return Err(Failure::MalformedClaim),
            }
        }
        Ok(groups)
    }
}

/// A scope token (RFC 6749, section 3.3). What is none is dropped: a list's `a b` must not turn into two scopes on its way upstream.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn names(list: Option<&OneOrMany<Spanned<String>>>, what: &str, cx: &mut Compile<'_>) -> Option<Vec<Box<str>>> {
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

/// Fields that carry credentials. Those that say how a message travels are not set from a claim either.
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

fn claim_header(header: &str, claim: &Spanned<String>, cx: &mut Compile<'_>) -> Option<(HeaderName, Box<str>)> {
    let Ok(name) = HeaderName::from_bytes(header.as_bytes()) else {
        cx.problems.push(Problem::error(claim.place, format!("`{header}` is no header name")));
        return None;
    };
    let text = name.as_str();
    if TRAVEL_FIELDS.contains(&text) || CREDENTIALS.contains(&text) || IDENTITY_HEADERS.contains(&&name) {
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
            (!joined.is_empty() && joined.len() <= crate::consumers::identity::MAX_VALUE)
                .then(|| HeaderValue::from_str(&joined).ok())
                .flatten()
        }
        single => header_value(&plain(single)?),
    }
}
