//! The decisions: may this request use the cache, may this answer be stored, and for how long is it fresh (RFC 9111).
//!
//! Pure functions over heads, a policy and a clock reading. Where the RFC leaves a choice, the careful one is taken:
//!
//! - Requests with credentials never use the cache, although section 3.5 would let a backend allow it; nor do those to which a policy
//!   adds some. Other fields that a policy makes for each client are part of the key.
//! - `no-cache` and `private` with a list of fields count as without the list (sections 5.2.2.4 and 5.2.2.7 allow it).
//! - An answer that is stale when it arrives is not stored, not even to be validated later.
//! - Stale answers are never served; `stale-while-revalidate` and `stale-if-error` are not read.
//! - `only-if-cached`, `max-stale`, `min-fresh` and a positive `max-age` of a request are advice that is not taken.

use std::time::{Duration, SystemTime};

use http::header::{self, GetAll, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use pingora_http::ResponseHeader;

use super::credentials::Credentials;
use super::policy::CachePolicy;
use super::said::Said;
use crate::head::{BodyFraming, RequestHead};

/// Why a request does not use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    Method,
    /// It has a body or asks for another protocol, which the key does not know.
    Content,
    /// It carries credentials: what it gets may be for one client only.
    Credentials,
    /// Its `Cache-Control` or `Pragma` wants an answer from the backend.
    Asked,
}

impl Bypass {
    pub fn reason(self) -> &'static str {
        match self {
            Bypass::Method => "method",
            Bypass::Content => "content",
            Bypass::Credentials => "credentials",
            Bypass::Asked => "asked",
        }
    }
}

/// How a request may use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Look up; on a miss store what the backend answers.
    Full,
    /// Look up, but store nothing on a miss: HEAD, whose answer has no body, and ranges, for which fetching the whole might cost far
    /// more than was asked for. Both then go to the backend as they came.
    ReadOnly,
    Bypass(Bypass),
}

/// May this request use the cache? `identified`: it proved who it is, in whatever way, or is taken for somebody. `handed` says whether
/// the backend sees a field of that name ([`CachePolicy::handed`]).
pub fn request(
    head: &RequestHead,
    identified: bool,
    credentials: &Credentials,
    policy: &CachePolicy,
    handed: impl Fn(&HeaderName) -> bool,
) -> Use {
    let read_only = match head.method.as_str() {
        "GET" => head.header("range").is_some(),
        "HEAD" => true,
        _ => return Use::Bypass(Bypass::Method),
    };
    if head.body != BodyFraming::None || head.upgrade {
        return Use::Bypass(Bypass::Content);
    }
    if identified || credentials.are_in(head, &policy.key_headers) || policy.handed.iter().any(handed) {
        return Use::Bypass(Bypass::Credentials);
    }
    if wants_the_backend(head) {
        return Use::Bypass(Bypass::Asked);
    }
    if read_only { Use::ReadOnly } else { Use::Full }
}

/// RFC 9111, sections 5.2.1.1, 5.2.1.4, 5.2.1.5 and 5.4.
fn wants_the_backend(head: &RequestHead) -> bool {
    let mut controlled = false;
    for line in head.header_all("cache-control") {
        controlled = true;
        for (name, argument) in directives(line) {
            if is(name, "no-cache") || is(name, "no-store") || (is(name, "max-age") && seconds(argument) == Some(0)) {
                return true;
            }
        }
    }
    !controlled && head.header_all("pragma").flat_map(directives).any(|(name, _)| is(name, "no-cache"))
}

/// Whether a `Range` field has a part that is the last 0 bytes (RFC 9110, section 14.1.2).
pub fn asks_for_no_bytes(range: &[u8]) -> bool {
    let parts = range.splitn(2, |&byte| byte == b'=').nth(1).into_iter().flat_map(list_of);
    parts.filter_map(|part| part.strip_prefix(b"-")).any(|count| !count.is_empty() && count.iter().all(|&digit| digit == b'0'))
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its status is not one the route keeps.
    Status,
    /// `Set-Cookie` is for one client.
    SetCookie,
    /// `Cache-Control` says `no-store`, `no-cache` or `private`.
    Forbidden,
    /// It varies by what no key can hold: `*`, fields that this gateway writes itself, or more fields than anyone needs.
    Vary,
    /// `Content-Length` is over the bound.
    TooLarge,
    /// Its end is the end of the connection, so a cut one looks whole (RFC 9112, section 8).
    Unframed,
    /// It is a stream without an announced end: it may last for hours, and nobody should wait for it.
    Stream,
    /// Nothing of its lifetime is left.
    Stale,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Status => "status",
            Refusal::SetCookie => "set_cookie",
            Refusal::Forbidden => "forbidden",
            Refusal::Vary => "vary",
            Refusal::TooLarge => "too_large",
            Refusal::Unframed => "unframed",
            Refusal::Stream => "stream",
            Refusal::Stale => "stale",
        }
    }
}

/// How long an answer may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Counted from now; never zero.
    pub remaining: Duration,
    /// How old the answer was when it arrived, from its `Age`.
    pub age: Duration,
}

/// May this answer to a GET be stored, and how long is it fresh?
pub fn response(said: &Said<'_>, policy: &CachePolicy, now: SystemTime) -> Result<Freshness, Refusal> {
    if !policy.keeps_status(said.status.as_u16()) {
        return Err(Refusal::Status);
    }
    if said.set_cookie {
        return Err(Refusal::SetCookie);
    }
    if varies_too_much(said) {
        return Err(Refusal::Vary);
    }
    match said.content_length.map(|length| seconds(Some(length))) {
        Some(Some(length)) if length > policy.max_body as u64 => return Err(Refusal::TooLarge),
        // A length that is no number, which the upstream codec lets through only by mistake.
        Some(None) => return Err(Refusal::Unframed),
        Some(Some(_)) => {}
        None if is_unframed(said) => return Err(Refusal::Unframed),
        None if said.stream => return Err(Refusal::Stream),
        None => {}
    }
    freshness(said, policy.ttl, now)
}

fn is_unframed(said: &Said<'_>) -> bool {
    said.version < Version::HTTP_2 && said.status != StatusCode::NO_CONTENT && !said.transfer_encoding
}

/// The gateway writes these fields on the way to the backend, so the client's request does not show what the backend saw.
const WRITTEN_HERE: [&str; 9] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
];
const MOST_VARY: usize = 16;

fn varies_too_much(said: &Said<'_>) -> bool {
    let bad =
        |name: &[u8]| HeaderName::from_bytes(name).is_err() || name == b"*" || WRITTEN_HERE.iter().any(|known| is(name, known));
    let mut count = 0;
    members(&said.vary).any(|name| {
        count += 1;
        count > MOST_VARY || bad(name)
    })
}

/// RFC 9111, section 4.2: `s-maxage`, else `max-age`, else `Expires`, else the configured ttl, which is the upper bound as well.
fn freshness(said: &Said<'_>, ttl: Duration, now: SystemTime) -> Result<Freshness, Refusal> {
    let (mut shared, mut plain) = (None, None);
    for (name, argument) in said.cache_control.iter().copied().flat_map(directives) {
        if is(name, "no-store") || is(name, "no-cache") || is(name, "private") {
            return Err(Refusal::Forbidden);
        }
        let lifetime = if is(name, "s-maxage") {
            &mut shared
        } else if is(name, "max-age") {
            &mut plain
        } else {
            continue;
        };
        // Section 4.2.1: of several the shortest, and what is not a number counts as stale.
        let seconds = seconds(argument).unwrap_or(0);
        *lifetime = Some(lifetime.map_or(seconds, |known: u64| known.min(seconds)));
    }
    let age = age(said);
    let lifetime = shared.or(plain).map(Duration::from_secs).or_else(|| expires(said, now));
    let remaining = lifetime.unwrap_or(ttl).saturating_sub(age).min(ttl);
    if remaining.is_zero() { Err(Refusal::Stale) } else { Ok(Freshness { remaining, age }) }
}

/// The longest lifetime or age that is told apart from "for ever" (RFC 9111, section 1.2.2).
const LONGEST: u64 = 1 << 31;

fn age(said: &Said<'_>) -> Duration {
    let first = said.age.and_then(|value| list_of(value).next());
    Duration::from_secs(first.and_then(|value| seconds(Some(value))).unwrap_or(0))
}

/// `Expires` minus `Date`. A date that cannot be read, or more than one, means "already expired" (section 5.3).
fn expires(said: &Said<'_>, now: SystemTime) -> Option<Duration> {
    let (first, second) = (said.expires.first()?, said.expires.get(1));
    let until = date(first).filter(|_| second.is_none());
    let from = said.date.and_then(date).unwrap_or(now);
    Some(until.and_then(|until| until.duration_since(from).ok()).unwrap_or_default())
}

fn date(value: &[u8]) -> Option<SystemTime> {
    let timestamp = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(timestamp.as_second()).ok()?))
}

/// A message without a `Date` is from the moment in which it came (RFC 9110, section 6.6.1).
pub fn date_it(answer: &mut ResponseHeader, now: SystemTime) {
    if answer.headers.contains_key(header::DATE) {
        return;
    }
    let written =
        jiff::Timestamp::try_from(now).map(|now| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now));
    if let Ok(Ok(date)) = written {
        let _ = answer.insert_header(header::DATE, date);
    }
}

/// Takes out what belongs to one connection and not to the answer (RFC 9111, section 3.1), and the `Age` it arrived with.
pub fn strip(headers: &mut ResponseHeader) {
    let named: Vec<HeaderName> = list(&headers.headers.get_all(header::CONNECTION))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        // A backend cannot have its own framing removed.
        .filter(|name| ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::VARY].contains(name))
        .collect();
    for name in &named {
        headers.remove_header(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "te",
        "trailer",
        "upgrade",
        "age",
    ] {
        headers.remove_header(name);
    }
}

/// Every member of a list field, over all its lines.
pub fn list<'a>(lines: &GetAll<'a, HeaderValue>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    lines.iter().flat_map(|line| list_of(line.as_bytes()))
}

/// Every member of a list field, over all these lines.
pub fn members<'a>(lines: &[&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    lines.iter().copied().flat_map(list_of)
}

/// Every member of one line of a list field.
pub fn list_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// What a 304 does not change (RFC 9111, section 3.2): it is about the body as it is stored, or about the message that a field came in.
const KEPT: [&str; 5] = ["content-length", "transfer-encoding", "content-encoding", "content-range", "trailer"];

/// Whether a stored answer keeps its own field of this name, whatever a 304 says.
pub fn is_kept(name: &[u8]) -> bool {
    KEPT.iter().any(|known| is(name, known))
}

/// Whether two `Vary` name the same fields, in whatever order, case and number.
pub fn are_alike<'a>(known: impl Iterator<Item = &'a [u8]>, now: impl Iterator<Item = &'a [u8]>) -> bool {
    fn sorted<'a>(members: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut members: Vec<_> = members.map(<[u8]>::to_ascii_lowercase).collect();
        members.sort_unstable();
        members.dedup();
        members
    }
    sorted(known) == sorted(now)
}

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

/// Delta-seconds, quoted or not, capped at 2^31. `None` if it is not a number.
fn seconds(argument: Option<&[u8]>) -> Option<u64> {
    let argument = argument?;
    let digits = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(LONGEST)))
}

/// The directives of one `Cache-Control` line: names, and arguments with their quotes. A comma inside quotes does not separate.
fn directives(line: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (member, after) = split_member(rest);
            rest = after;
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            return Some(match memchr::memchr(b'=', member).and_then(|at| member.split_at_checked(at)) {
                Some((name, argument)) => (name.trim_ascii(), Some(argument.get(1..).unwrap_or_default().trim_ascii())),
                None => (member, None),
            });
        }
        None
    })
}

/// Up to the first comma outside quotes, and what follows it. A quote that is never closed takes the rest only if nothing is lost
/// by it: the line is then split at plain commas, so that no `no-store` can hide behind a stray quote.
fn split_member(line: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped, mut end) = (false, false, None);
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    if quoted {
        end = memchr::memchr(b',', line);
    }
    match end.and_then(|at| line.split_at_checked(at)) {
        Some((member, after)) => (member, after.get(1..).unwrap_or_default()),
        None => (line, b""),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
