//! Signed requests: HTTP Message Signatures (RFC 9421), with `Content-Digest` (RFC 9530) for the body.
//!
//! A consumer's key signs what the request says ([`base`]); the gateway makes the same text of the request that came and checks. What has to be
//! covered is the policy's say, for a signature over nothing proves nothing. A signature is taken once ([`replay`]).
//!
//! What the client signs is the request as the gateway understood it: the path in its canonical form or, as far as its escapes go, in
//! the client's own; a client that signs `/a/../b` is refused instead of believed.

pub mod base;
pub mod digest;
pub mod replay;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use sfv::{BareItem, InnerList, ListEntry, Parser};

use self::replay::{Bearer, Seat, Seen, Signed, Window};
use super::failure::Failure;
use super::method::{Carriers, Method, Verdict};
use crate::consumers::Proved;
use crate::consumers::{Consumers, SIGNING_ALGORITHMS};
use crate::exchange::Exchange;
use crate::fingerprint::feed;
use crate::head::{BodyFraming, RequestHead};
use crate::jose::key::VerifyKey;
use crate::policy::{Compile, OnBody};
use crate::problem::Problem;
use crate::value::{Period, Size, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "signature";

static SIGNATURE: HeaderName = HeaderName::from_static("signature");
static SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");

/// Where the ledger keeps what was taken: one window for all policies, wherever they stand.
const WINDOW: &str = "authn/signatures";

const DEFAULT_MAX_AGE: u64 = 300;
const DEFAULT_SKEW: u64 = 30;
const LONGEST: u64 = 86_400;
const DEFAULT_REMEMBERED: u32 = 100_000;
const MOST_REMEMBERED: u32 = 10_000_000;
/// Signatures on one request that are looked at.
const MOST_LABELS: usize = 8;

/// Requests that a consumer's key has signed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignatureConfig {
    /// What a signature has to cover at least, whole: derived components such as `@method`, or field names. Default: `@method`,
    /// `@authority` and `@path`, and `@query` where there is one. `@target-uri` stands for `@authority`, `@path` and `@query`.
    pub components: Option<Spanned<Vec<String>>>,
    /// Whether a body has to be covered by `content-digest`. Default true. If it is covered it is always checked.
    pub body_digest: Option<bool>,
    /// The longest body that is read to be compared with its digest; more is 413. Default 1MiB.
    pub max_body: Option<Spanned<Size>>,
    /// How long after `created` a signature is taken. Default 5m, at most 1d. One that was made before the gateway started is refused, for
    /// nobody knows whether it was used.
    pub max_age: Option<Spanned<Period>>,
    /// How far ahead a client's clock may be. Default 30s, at most 1d.
    pub clock_skew: Option<Spanned<Period>>,
    /// The `tag` that a signature must have. Default: any, or none.
    pub tag: Option<String>,
    /// Whether a signature must have a `nonce`. Default false: then what was signed is taken only once, however often it is signed, and a
    /// client that repeats a request within the same second needs a nonce.
    pub require_nonce: bool,
    /// How many signatures are remembered so that none is taken twice. Default 100000; 1 to 10000000, 40 bytes each. When that many came within
    /// twice `max_age`, more are answered 503.
    pub max_remembered: Option<Spanned<u32>>,
}

/// [`SignatureConfig`], compiled.
pub struct SignatureMethod {
    required: Vec<String>,
    query_too: bool,
    body_digest: bool,
    max_body: usize,
    max_age: u64,
    skew: u64,
    tag: Option<String>,
    require_nonce: bool,
    seat: Seat,
    consumers: Arc<Consumers>,
}

impl SignatureMethod {
    pub fn compile(config: &SignatureConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let mut good = true;
        let mut wrong = |place, message: String, problems: &mut crate::problem::Problems| {
            problems.push(Problem::error(place, message));
            good = false;
        };
        let mut seconds = |given: &Option<Spanned<Period>>, default: u64, name: &str, problems: &mut _| {
            let Some(given) = given else { return default };
            let seconds = given.0.as_secs();
            if seconds > LONGEST || seconds == 0 {
                wrong(given.place, format!("`{name}` is from 1s to 1d"), problems);
            }
            seconds
        };
        let max_age = seconds(&config.max_age, DEFAULT_MAX_AGE, "max_age", cx.problems);
        let skew = seconds(&config.clock_skew, DEFAULT_SKEW, "clock_skew", cx.problems);
        let remembered = config.max_remembered.as_ref().map_or(DEFAULT_REMEMBERED, |most| most.value);
        if let Some(most) = &config.max_remembered
            && !(1..=MOST_REMEMBERED).contains(&most.value)
        {
            wrong(most.place, format!("`max_remembered` is from 1 to {MOST_REMEMBERED}"), cx.problems);
        }
        let required = match &config.components {
            Some(given) => {
                for name in given.value.iter().filter(|name| !is_component(name)) {
                    wrong(given.place, format!("`{name}` is no component of a request"), cx.problems);
                }
                given.value.clone()
            }
            None => ["@method", "@authority", "@path"].map(str::to_owned).to_vec(),
        };
        if !good {
            return None;
        }
        if !cx.consumers.has_signing_keys() {
            let problem = Problem::warning(cx.place, "no consumer has a signing key, so that no signature can be right");
            cx.problems.push(problem.hint("consumers: [ { signing_keys: [ ... ] } ]"));
        }
        let now = super::now();
        let window = cx.ledger.keep(WINDOW, || Window::new(now));
        Some(SignatureMethod {
            query_too: config.components.is_none(),
            required,
            body_digest: config.body_digest.unwrap_or(true),
            max_body: config.max_body.as_ref().map_or(1 << 20, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            max_age,
            skew,
            tag: config.tag.clone(),
            require_nonce: config.require_nonce,
            seat: window.seat(cx.scope, max_age + skew, remembered as usize, now),
            consumers: cx.consumers.clone(),
        })
    }

    /// The first signature that could be meant for this gateway: of a known key, and with the right tag.
    fn prove(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Result<Arc<Proved>, Failure> {
        let inputs = dictionary(head, "signature-input")?;
        let signatures = dictionary(head, "signature")?;
        if inputs.len() > MOST_LABELS {
            return Err(Failure::MalformedSignature);
        }
        for (label, entry) in &inputs {
            let ListEntry::InnerList(covered) = entry else { return Err(Failure::MalformedSignature) };
            let text = |name: &str| covered.params.get(name).and_then(BareItem::as_str);
            if self.tag.is_some() && text("tag") != self.tag.as_deref() {
                continue;
            }
            let Some((key, proved)) = text("keyid").and_then(|id| self.consumers.by_signing_key(id)) else { continue };
            let signature = match signatures.get(label) {
                Some(ListEntry::Item(item)) => item.bare_item.as_byte_seq(),
                _ => None,
            };
            let signature = signature.ok_or(Failure::MalformedSignature)?;
            if text("alg").is_some_and(|named| Some(named) != algorithm_name(key.algorithm)) {
                return Err(Failure::BadRequestSignature);
            }
            let components = base::components(covered)?;
            self.covers(&components, head)?;
            let created = self.is_timely(covered, now)?;
            let signed = self.signed(key, covered, &components, head, exchange, signature)?;
            let base = signed.ok_or(Failure::BadRequestSignature)?;
            // A body is compared once it has come; where none comes, it is that of no bytes.
            let bodiless =
                head.body == BodyFraming::None && components.iter().any(|component| component.name == "content-digest");
            if bodiless && !digest::agrees_with(head, b"") {
                return Err(Failure::ContentDigestMismatch);
            }
            self.is_first(covered, &base, created, exchange, now)?;
            return Ok(proved.clone());
        }
        Err(Failure::UnknownSigningKey)
    }

    /// The text that was signed, if it is this request's, under one of the spellings of its path that a client may take for the right one: the
    /// canonical one, and its own. Where slashes go to the backend as they came, only what is sent there counts.
    fn signed(
        &self,
        key: &VerifyKey,
        covered: &InnerList,
        components: &[base::Component<'_>],
        head: &RequestHead,
        exchange: &Exchange,
        signature: &Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let sent = exchange.sent_path(head);
        let canonical = if sent.contains("//") { sent } else { &head.path };
        let base = base::base(covered, components, head, canonical, exchange)?;
        if key.verifies(&base, signature) {
            return Ok(Some(base));
        }
        let Some(own) = head.spelling.as_ref().and_then(|spelling| spelling.without_dots()) else { return Ok(None) };
        let base = base::base(covered, components, head, own, exchange)?;
        Ok(key.verifies(&base, signature).then_some(base))
    }

    /// Whether the signature covers all that it has to.
    fn covers(&self, components: &[base::Component<'_>], head: &RequestHead) -> Result<(), Failure> {
        let has = |name: &str| components.iter().any(|component| component.name == name && component.is_plain());
        let uri = |name: &str| matches!(name, "@authority" | "@path" | "@query" | "@scheme") && has("@target-uri");
        let request_target = |name: &str| matches!(name, "@path" | "@query") && has("@request-target");
        let good = |name: &str| has(name) || uri(name) || request_target(name);
        let query = !self.query_too || head.query().is_none() || good("@query");
        let digest = !self.body_digest || head.body == BodyFraming::None || has("content-digest");
        let all = self.required.iter().all(|name| good(name));
        if all && query && digest { Ok(()) } else { Err(Failure::UncoveredComponent) }
    }

    /// When it was made, in seconds since 1970, if that is neither too long ago nor to come.
    fn is_timely(&self, covered: &InnerList, now: u64) -> Result<u64, Failure> {
        let time = |name: &str| match covered.params.get(name) {
            None => Ok(None),
            Some(value) => value.as_int().and_then(|time| u64::try_from(time).ok()).ok_or(Failure::MalformedSignature).map(Some),
        };
        let created = time("created")?.ok_or(Failure::MalformedSignature)?;
        if created > now.saturating_add(self.skew) {
            return Err(Failure::SignatureFromTheFuture);
        }
        let over = now > created.saturating_add(self.max_age) || time("expires")?.is_some_and(|end| now > end);
        if over { Err(Failure::StaleSignature) } else { Ok(created) }
    }

    /// Last, so that only good signatures are remembered. What is remembered is what was signed, `base`, and not the signature: whoever sees
    /// one can make another of it that is as good (ECDSA's with n - s), and none of these says anything new.
    fn is_first(&self, covered: &InnerList, base: &[u8], created: u64, exchange: &Exchange, now: u64) -> Result<(), Failure> {
        let nonce = covered.params.get("nonce").and_then(BareItem::as_str);
        if nonce.is_none() && self.require_nonce {
            return Err(Failure::MalformedSignature);
        }
        let mut hasher = blake3::Hasher::new();
        let id = covered.params.get("keyid").and_then(BareItem::as_str).unwrap_or_default();
        feed(&mut hasher, id.as_bytes());
        feed(&mut hasher, nonce.map_or(base, str::as_bytes));
        hasher.update(&[u8::from(nonce.is_some())]);
        let mut mark = [0; 16];
        hasher.finalize_xof().fill(&mut mark);
        let connection = Arc::as_ptr(&exchange.connection) as usize;
        let bearer = Bearer { connection, started: exchange.started };
        match self.seat.see(&Signed { mark, bearer, created, skew: self.skew }, now) {
            Seen::First => Ok(()),
            Seen::Unknown => Err(Failure::SignatureBeforeStart),
            Seen::Again => Err(Failure::ReplayedSignature),
            Seen::Full => Err(Failure::ReplayWindowFull),
        }
    }
}

impl Method for SignatureMethod {
    fn check(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Verdict {
        if head.header("signature-input").is_none() && head.header("signature").is_none() {
            return Verdict::Absent;
        }
        self.prove(head, exchange, now).into()
    }

    fn body(&self) -> Option<Arc<dyn OnBody>> {
        Some(Arc::new(digest::ContentDigest { bound: self.max_body }))
    }

    /// No registered scheme: RFC 9421 has none. A client that does not know it ignores it, as it must.
    fn scheme(&self) -> Option<&'static str> {
        Some("Signature")
    }

    fn carriers(&self) -> Carriers {
        Carriers { headers: vec![SIGNATURE.clone(), SIGNATURE_INPUT.clone()], ..Carriers::default() }
    }
}

fn dictionary(head: &RequestHead, name: &str) -> Result<sfv::Dictionary, Failure> {
    let lines: Vec<&[u8]> = head.header_all(name).collect();
    Parser::parse_dictionary(&lines.join(&b", "[..])).map_err(|_| Failure::MalformedSignature)
}

fn is_component(name: &str) -> bool {
    let derived = ["@method", "@authority", "@scheme", "@path", "@query", "@request-target", "@target-uri"];
    let field = !name.starts_with('@') && HeaderName::from_bytes(name.as_bytes()).is_ok_and(|known| known.as_str() == name);
    derived.contains(&name) || field
}

fn algorithm_name(algorithm: jsonwebtoken::Algorithm) -> Option<&'static str> {
    SIGNING_ALGORITHMS.iter().find(|(_, known)| *known == algorithm).map(|(name, _)| *name)
}
