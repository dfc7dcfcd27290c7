//! Requests that are signed as AWS has it ([`crate::sigv4`]): what `curl --aws-sigv4`, the AWS command line and AWS's libraries send to an
//! endpoint of one's own.
//!
//! The signature covers the method, the path, the query, `Host`, all of AWS's own fields and the body. It is good for some minutes and can be used
//! again in that time, as with AWS itself; [`super::signature`] has signatures that are taken once.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::Authn;
use super::failure::Failure;
use super::method::{Carriers, Method, Verdict};
use crate::consumers::{AwsKey, Consumers, Proved};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead};
use crate::policy::{Compile, OnBody, Policy};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::sigv4::{self, ALGORITHM, Claim, Presigned, Signed, UNSIGNED};
use crate::value::{Period, Size, Spanned};

/// What `Identity::method` says.
pub const METHOD: &str = "aws_sigv4";

const CONTENT: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const DEFAULT_SKEW: u64 = 300;
const LONGEST_SKEW: u64 = 900;
const DEFAULT_BODY: usize = 1 << 20;
/// What a presigned query consists of beside what is asked for.
const PARAMETERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];

/// Requests that a consumer's `aws_keys` have signed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigV4Config {
    /// The region that signatures have to be for: a word that clients and gateway agree on, such as `eu-central-1`.
    pub region: Spanned<String>,
    /// The service that they have to be for, such as `execute-api`.
    pub service: Spanned<String>,
    /// How far the client's clock may be off, either way. Default 5m, at most 15m.
    #[serde(default)]
    pub clock_skew: Option<Spanned<Period>>,
    /// Takes signatures that do not cover the body (`UNSIGNED-PAYLOAD`): whoever is on the way can send another one. Default `false`.
    #[serde(default)]
    pub unsigned_payload: bool,
    /// Takes signatures in the query, too: an address that is good until it expires, a week at most, for whoever has it. Default `false`.
    #[serde(default)]
    pub presigned: bool,
    /// The longest body that is read to be compared with what was signed; more is 413. Default 1MiB.
    #[serde(default)]
    pub max_body: Option<Spanned<Size>>,
}

/// [`SigV4Config`], compiled.
#[derive(Clone)]
pub struct SigV4Method {
    region: Box<str>,
    service: Box<str>,
    skew: u64,
    unsigned: bool,
    presigned: bool,
    max_body: usize,
    consumers: Arc<Consumers>,
}

/// A claim whose key is known and whose time is now: only the signature itself is left to check.
struct Claimed<'a> {
    claim: Claim,
    key: &'a AwsKey,
    /// When it was signed, as it says.
    at: String,
    /// What the query was when it was signed.
    query: Option<String>,
    payload: Payload,
}

/// What was signed of the body.
enum Payload {
    /// The client says what its digest is, or that there is none.
    Said(String),
    /// Nothing says it: the digest is made of the body.
    Of,
}

impl SigV4Method {
    pub fn compile(config: &SigV4Config, cx: &mut Compile<'_>) -> Option<Self> {
        let mut good = true;
        for part in [&config.region, &config.service] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if part.value.is_empty() || part.value.len() > 64 || !part.value.bytes().all(plain) {
                let message = format!("`{}` cannot be part of what a signature is for", part.value);
                cx.problems.push(Problem::error(part.place, message).hint("letters, digits, `-`, `_` and `.`"));
                good = false;
            }
        }
        let skew = config.clock_skew.as_ref().map_or(DEFAULT_SKEW, |skew| skew.0.as_secs());
        if let Some(written) = config.clock_skew.as_ref().filter(|_| !(1..=LONGEST_SKEW).contains(&skew)) {
            cx.problems.push(Problem::error(written.place, "`clock_skew` is from 1s to 15m"));
            good = false;
        }
        if !good {
            return None;
        }
        if !cx.consumers.has_aws_keys() {
            let problem = Problem::warning(cx.place, "no consumer has a key of this kind, so that no signature can be right");
            cx.problems.push(problem.hint("consumers: [ { aws_keys: [ ... ] } ]"));
        }
        Some(SigV4Method {
            region: config.region.value.as_str().into(),
            service: config.service.value.as_str().into(),
            skew,
            unsigned: config.unsigned_payload,
            presigned: config.presigned,
            max_body: config.max_body.as_ref().map_or(DEFAULT_BODY, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            consumers: cx.consumers.clone(),
        })
    }

    /// The claim of a request, but for its signature. `None` if there is none.
    fn claimed(&self, head: &RequestHead, now: u64) -> Result<Option<Claimed<'_>>, Failure> {
        let is_ours = |field: &&[u8]| field.starts_with(ALGORITHM.as_bytes());
        let in_field = head.header_all("authorization").find(is_ours);
        let in_query = head.query().filter(|query| self.presigned && sigv4::is_presigned(query));
        let (claim, at, good_until, query) = match (in_field, in_query) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(Failure::AmbiguousCredentials),
            (Some(_), None) if head.header_all("authorization").count() > 1 => return Err(Failure::RepeatedAuthorization),
            (Some(field), None) => {
                let claim = std::str::from_utf8(field).ok().and_then(Claim::read).ok_or(Failure::MalformedSignature)?;
                (claim, stamp(head)?, None, head.query().map(str::to_owned))
            }
            (None, Some(query)) => {
                let Presigned { claim, at, expires, signed, .. } = Presigned::read(query).ok_or(Failure::MalformedSignature)?;
                (claim, at, Some(expires), Some(signed))
            }
        };
        let key = self.consumers.by_aws_key(&claim.key_id).ok_or(Failure::UnknownSigningKey)?;
        if *claim.region != *self.region || *claim.service != *self.service {
            return Err(Failure::WrongSigningScope);
        }
        let signed_at = sigv4::read_stamp(&at).ok_or(Failure::MalformedSignature)?;
        if signed_at > now.saturating_add(self.skew) {
            return Err(Failure::SignatureFromTheFuture);
        }
        if now > signed_at.saturating_add(good_until.unwrap_or(self.skew)) {
            return Err(Failure::StaleSignature);
        }
        covers(&claim, head, good_until.is_some())?;
        let payload = self.payload(head, good_until.is_some())?;
        Ok(Some(Claimed { claim, key, at, query, payload }))
    }

    fn payload(&self, head: &RequestHead, presigned: bool) -> Result<Payload, Failure> {
        let bodiless = head.body == BodyFraming::None;
        let said = single(head, CONTENT)?;
        match said {
            Some(said) if said.starts_with("STREAMING-") => Err(Failure::StreamingSignature),
            Some(UNSIGNED) if self.unsigned || bodiless => Ok(Payload::Said(UNSIGNED.to_owned())),
            Some(UNSIGNED) => Err(Failure::UnsignedPayload),
            Some(said) if said.len() == 64 => Ok(Payload::Said(said.to_owned())),
            Some(_) => Err(Failure::MalformedSignature),
            // Addresses of S3's are made before anybody knows of a body.
            None if presigned && &*self.service == "s3" && (self.unsigned || bodiless) => Ok(Payload::Said(UNSIGNED.to_owned())),
            None if presigned && &*self.service == "s3" => Err(Failure::UnsignedPayload),
            None => Ok(Payload::Of),
        }
    }

    fn prove(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Result<Option<Arc<Proved>>, Failure> {
        let Some(claimed) = self.claimed(head, now)? else { return Ok(None) };
        let Claimed { claim, key, at, query, payload } = claimed;
        let payload = match payload {
            Payload::Said(said) => {
                // A body is compared once it has come; where none comes, it is that of no bytes.
                if head.body == BodyFraming::None && said != UNSIGNED && said != sigv4::digest_of(b"") {
                    return Err(Failure::PayloadMismatch);
                }
                said
            }
            Payload::Of => sigv4::digest_of(exchange.body.as_deref().unwrap_or_default()),
        };
        let scope = claim.scope(&at).ok_or(Failure::MalformedSignature)?;
        let fields = fields(&claim, head)?;
        // The canonical spelling of the path, and the client's own; where slashes go to the backend as they came, only what is sent there counts.
        let sent = exchange.sent_path(head);
        let canonical = if sent.contains("//") { sent } else { &head.path };
        // Beside S3 signatures know no empty segments: one for another path would be good for this one.
        if sent.contains("//") && !scope.encodes_once() {
            return Err(Failure::BadRequestSignature);
        }
        let own = head.spelling.as_ref().and_then(|spelling| spelling.without_dots());
        for path in std::iter::once(canonical).chain(own) {
            let signed =
                Signed { method: head.method.as_str(), path, query: query.as_deref(), fields: &fields, payload: &payload };
            if bool::from(sigv4::signature(&key.secret, &scope, &signed).ct_eq(&claim.signature)) {
                return Ok(Some(key.proved.clone()));
            }
        }
        Err(Failure::BadRequestSignature)
    }
}

/// When the request says that it was signed: in AWS's own field, or in `Date`.
fn stamp(head: &RequestHead) -> Result<String, Failure> {
    if let Some(at) = single(head, DATE)? {
        return Ok(at.to_owned());
    }
    let date = single(head, "date")?.ok_or(Failure::MalformedSignature)?;
    if sigv4::read_stamp(date).is_some() {
        return Ok(date.to_owned());
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).map_err(|_| Failure::MalformedSignature)?;
    u64::try_from(at.as_second()).ok().and_then(sigv4::stamp).ok_or(Failure::MalformedSignature)
}

/// The one field of that name.
fn single<'a>(head: &'a RequestHead, name: &'a str) -> Result<Option<&'a str>, Failure> {
    let mut all = head.header_all(name);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => std::str::from_utf8(value).map(Some).map_err(|_| Failure::MalformedSignature),
        (Some(_), Some(_)) => Err(Failure::MalformedSignature),
    }
}

/// Whether the host, the time and all of AWS's own fields are signed.
fn covers(claim: &Claim, head: &RequestHead, presigned: bool) -> Result<(), Failure> {
    let timed = presigned || claim.covers(DATE) || (head.header(DATE).is_none() && claim.covers("date"));
    let is_own = |name: &[u8]| name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"));
    let is_covered = |name: &[u8]| claim.fields.iter().any(|field| field.as_bytes().eq_ignore_ascii_case(name));
    let all = head.headers().all(|(name, _)| !is_own(name) || is_covered(name));
    if claim.covers("host") && timed && all { Ok(()) } else { Err(Failure::UncoveredComponent) }
}

/// The signed fields as they came.
fn fields<'a>(claim: &'a Claim, head: &'a RequestHead) -> Result<Vec<(&'a str, &'a [u8])>, Failure> {
    let mut fields = Vec::with_capacity(claim.fields.len());
    for name in &claim.fields {
        let before = fields.len();
        match name.as_str() {
            // As the client wrote it; one of HTTP/2 may write it as the authority alone.
            "host" => fields.extend(Some(head.written_host()).filter(|host| !host.is_empty()).map(|host| ("host", host))),
            name => fields.extend(head.header_all(name).map(|value| (name, value))),
        }
        if fields.len() == before {
            return Err(Failure::MissingComponent);
        }
    }
    Ok(fields)
}

impl Method for SigV4Method {
    fn check(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Verdict {
        match self.prove(head, exchange, now) {
            Ok(None) => Verdict::Absent,
            Ok(Some(proved)) => Verdict::Proved(proved),
            Err(failure) => Verdict::Failed(failure),
        }
    }

    fn scheme(&self) -> Option<&'static str> {
        Some(ALGORITHM)
    }

    fn carriers(&self) -> Carriers {
        let fields = ["x-amz-date", "x-amz-content-sha256", "x-amz-security-token"].map(HeaderName::from_static);
        let queries = PARAMETERS.iter().filter(|_| self.presigned).map(|name| Arc::from(*name)).collect();
        let headers = std::iter::once(header::AUTHORIZATION).chain(fields).collect();
        Carriers { headers, queries, ..Carriers::default() }
    }

    fn proving_body(&self) -> Option<Arc<dyn OnBody>> {
        Some(Arc::new(Kept(self.clone())))
    }

    fn body(&self) -> Option<Arc<dyn OnBody>> {
        Some(Arc::new(Announced { bound: self.max_body, presigned: self.presigned }))
    }
}

/// Keeps the body of a request whose signature can only be checked with it: one that is all right as far as can be known without.
struct Kept(SigV4Method);

impl OnBody for Kept {
    fn bound(&self) -> usize {
        self.0.max_body
    }

    fn wants(&self, head: &RequestHead) -> bool {
        let of_body = || matches!(self.0.claimed(head, super::now()), Ok(Some(Claimed { payload: Payload::Of, .. })));
        head.body != BodyFraming::None && of_body()
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        exchange.body = Some(body.clone());
        Flow::Continue(())
    }
}

/// Compares the body of a signed request with the digest that it announces, which was signed.
struct Announced {
    bound: usize,
    presigned: bool,
}

impl OnBody for Announced {
    fn bound(&self) -> usize {
        self.bound
    }

    /// The signature was checked just before: it is good, or there is none, and then another method has proved who it is.
    fn wants(&self, head: &RequestHead) -> bool {
        let is_ours = |field: &[u8]| field.starts_with(ALGORITHM.as_bytes());
        let announced = head.header(CONTENT).is_some_and(|said| said != UNSIGNED.as_bytes());
        let signed =
            head.header_all("authorization").any(is_ours) || self.presigned && head.query().is_some_and(sigv4::is_presigned);
        head.body != BodyFraming::None && announced && signed
    }

    fn on_body(&self, head: &RequestHead, body: &Bytes, _: &mut Exchange) -> Flow {
        if head.header(CONTENT).is_some_and(|said| said.eq_ignore_ascii_case(sigv4::digest_of(body).as_bytes())) {
            return Flow::Continue(());
        }
        let failure = Failure::PayloadMismatch;
        let reply = Reply::new(failure.status(), Authn::NAME, failure.reason(), failure.detail());
        reply.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(ALGORITHM)).refuse()
    }
}
