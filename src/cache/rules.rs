//! The decisions: may this request use the cache, may this answer be stored, and for how long is it fresh (RFC 9111).
//!
//! Pure functions over heads, a policy and a clock reading. Where the RFC leaves a choice, the careful one is taken:
//!
//! - Requests with credentials never use the cache, although section 3.5 would let a backend allow it, unless the route says so; nor do
//!   those to which a policy adds some. Other fields that a policy makes for each client are part of the key.
//! - Of `no-cache` and `private` with a list of fields, those fields are not stored, and the rest is.
//! - An answer that is stale when it arrives is stored only if it can be validated.
//! - What the answer says of its own staleness counts beside `s-maxage`, which by itself forbids stale answers.

use std::time::{Duration, SystemTime};

use http::header::{self, GetAll, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use pingora_http::ResponseHeader;

use super::control::{Control, LONGEST, directives, list_of, seconds};
use super::credentials::{self, Credentials};
use super::date;
use super::policy::{CachePolicy, Extra};
use super::said::Said;
use super::tags::Tags;
use crate::carrier;
use crate::exchange::is_gateways;
use crate::head::{BodyFraming, RequestHead};
use crate::wire::encode;

/// Why a request does not use the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    Method,
    /// It has a body or asks for another protocol, which the key does not know.
    Content,
    /// It carries credentials: what it gets may be for one client only.
    Credentials,
    /// It carries a field that may make it a request for something else, which the key does not know.
    Overriding,
    /// Its `Cache-Control` wants nothing to be kept of it.
    Asked,
    /// The route says so.
    Rule,
    /// What is stored cannot be given: it is not read in time, or breaks what was agreed on with clients.
    Unusable,
}

impl Bypass {
    pub fn reason(self) -> &'static str {
        match self {
            Bypass::Method => "method",
            Bypass::Content => "content",
            Bypass::Credentials => "credentials",
            Bypass::Overriding => "overriding",
            Bypass::Asked => "asked",
            Bypass::Rule => "rule",
            Bypass::Unusable => "unusable",
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
    /// Look up, and nothing else: whatever the backend answers says nothing to others, for a rule of the route keeps it from them.
    LookOnly,
    Bypass(Bypass),
}

/// May this request use the cache? `form`: as [`form`] says. `identified`: it proved who it is, in whatever way, or is taken for somebody.
/// `handed` says whether the backend sees a field of that name ([`CachePolicy::handed`]).
pub fn request(
    form: Use,
    head: &RequestHead,
    identified: bool,
    credentials: &Credentials,
    policy: &CachePolicy,
    handed: impl Fn(&HeaderName) -> bool,
) -> Use {
    if matches!(form, Use::Bypass(_)) {
        return form;
    }
    if identified || policy.handed.iter().any(handed) {
        return Use::Bypass(Bypass::Credentials);
    }
    let forbidden = match policy.extra.as_ref().is_some_and(|extra| knows_cookies(extra, head)) {
        false => credentials.forbid(head, &policy.key_headers),
        true => {
            let keyed = |name: &HeaderName| *name == header::COOKIE || policy.key_headers.contains(name);
            credentials.forbid_but(head, keyed).or_else(|| credentials.asked(head))
        }
    };
    forbidden.map_or(form, Use::Bypass)
}

/// As [`request`], of one by a consumer on a route that keeps entries for each: all that the service is `shown` of him is part of the key.
/// `query`: so is all of the query.
pub fn consumers(
    form: Use,
    head: &RequestHead,
    credentials: &Credentials,
    query: bool,
    shown: impl Fn(&HeaderName) -> bool,
) -> Use {
    if matches!(form, Use::Bypass(_)) {
        return form;
    }
    let keyed = |name: &HeaderName| credentials::is_usual(name) || !shown(name);
    let forbidden = credentials.forbid_but(head, keyed).or_else(|| credentials.asked(head).filter(|_| !query));
    forbidden.map_or(form, Use::Bypass)
}

/// As [`request`], of one that has credentials, on a route where such requests share what the service says is for all (RFC 9111, section
/// 3.5). They may be those of `Authorization`, and those of the route's `own` fields, which it has judged itself.
pub fn sharing(
    form: Use,
    head: &RequestHead,
    credentials: &Credentials,
    policy: &CachePolicy,
    own: &[HeaderName],
    handed: impl Fn(&HeaderName) -> bool,
) -> Use {
    if matches!(form, Use::Bypass(_)) {
        return form;
    }
    if policy.handed.iter().any(|name| *name != header::AUTHORIZATION && handed(name)) {
        return Use::Bypass(Bypass::Credentials);
    }
    let cookies = policy.extra.as_ref().is_some_and(|extra| knows_cookies(extra, head));
    let keyed = |name: &HeaderName| match *name {
        header::COOKIE => cookies,
        header::AUTHORIZATION => true,
        _ => own.contains(name) || policy.key_headers.contains(name),
    };
    credentials.forbid_but(head, keyed).or_else(|| credentials.asked(head)).map_or(form, Use::Bypass)
}

/// How a request may use the cache by its method, and by what it brings. `is_read`: its body is known, and part of the key.
#[inline]
pub fn form(head: &RequestHead, policy: &CachePolicy, is_read: bool) -> Use {
    let read_only = match head.method.as_str() {
        "GET" => head.header("range").is_some(),
        "HEAD" => true,
        _ => return by_body(head, policy, is_read),
    };
    if head.body != BodyFraming::None || head.upgrade {
        return Use::Bypass(Bypass::Content);
    }
    if read_only { Use::ReadOnly } else { Use::Full }
}

/// The same of a method that may ask by its body.
fn by_body(head: &RequestHead, policy: &CachePolicy, is_read: bool) -> Use {
    // What these say of other methods than GET is something else, or nothing.
    const PARTIAL: [&str; 6] = ["range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
    match policy.is_by_body(&head.method) {
        false => Use::Bypass(Bypass::Method),
        true if !is_read || PARTIAL.iter().any(|name| head.header(name).is_some()) => Use::Bypass(Bypass::Content),
        true => Use::Full,
    }
}

/// Whether every cookie of a request is part of the key, or is not shown to the service.
fn knows_cookies(extra: &Extra, head: &RequestHead) -> bool {
    // Of other methods none are kept from it.
    let drops = extra.is_for(&head.method);
    carrier::cookies_of(head).all(|(name, _)| extra.key_cookies.have(name) || drops && extra.drop_cookies.have(name))
}

/// What a request says of the answers that it takes (RFC 9111, section 5.2.1). In seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Nothing of it is kept, and nothing that was kept is wanted.
    pub no_store: bool,
    /// What is stored has to be validated, or fetched anew.
    pub reload: bool,
    pub max_age: Option<u32>,
    pub min_fresh: Option<u32>,
    /// It takes what has been stale for so long.
    pub max_stale: Option<u32>,
    /// It wants no answer of a backend.
    pub only_if_cached: bool,
    /// It has credentials: only what is for all is for it, and only if its answer is for all is that for others.
    pub for_all: bool,
}

impl Wishes {
    /// Those of a request, if the route listens to them.
    pub fn of(head: &RequestHead, policy: &CachePolicy) -> Self {
        let mut wishes = Wishes::default();
        if policy.ignore_requests {
            return wishes;
        }
        let (mut controlled, mut pragma) = (false, false);
        for (name, line) in head.headers() {
            match name.len() {
                13 if is(name, "cache-control") => {
                    controlled = true;
                    directives(line).for_each(|(name, argument)| wishes.hear(name, argument));
                }
                6 if is(name, "pragma") => pragma |= directives(line).any(|(name, _)| is(name, "no-cache")),
                _ => {}
            }
        }
        // Section 5.4.
        wishes.reload |= pragma && !controlled;
        wishes
    }

    fn hear(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let seconds = || seconds(argument).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        let least = |known: Option<u32>, seconds: u32| Some(known.map_or(seconds, |known| known.min(seconds)));
        match name.len() {
            7 if is(name, "max-age") => {
                // One that is no number is not the client's to use for making the service work.
                let Some(seconds) = seconds() else { return };
                self.max_age = least(self.max_age, seconds);
                self.reload |= seconds == 0;
            }
            8 if is(name, "no-cache") => self.reload = true,
            8 if is(name, "no-store") => self.no_store = true,
            9 if is(name, "max-stale") => {
                // Without a number: however stale it is.
                let most = if argument.is_none() { Some(u32::MAX) } else { seconds() };
                self.max_stale = most.map_or(self.max_stale, |most| least(self.max_stale, most));
            }
            9 if is(name, "min-fresh") => {
                let Some(seconds) = seconds() else { return };
                self.min_fresh = Some(self.min_fresh.unwrap_or(0).max(seconds));
            }
            14 if is(name, "only-if-cached") => self.only_if_cached = true,
            _ => {}
        }
    }

    /// Whether it takes an answer so old that is fresh for so much longer.
    pub fn take(&self, age: Duration, left: Duration) -> bool {
        !self.reload
            && self.max_age.is_none_or(|most| age <= Duration::from_secs(most.into()))
            && self.min_fresh.is_none_or(|least| left >= Duration::from_secs(least.into()))
    }

    /// Whether it takes an answer so old that has been stale for so long.
    pub fn take_stale(&self, age: Duration, since: Duration) -> bool {
        self.max_stale.is_some_and(|most| since <= Duration::from_secs(most.into())) && self.take(age, Duration::ZERO)
    }
}

/// Whether a `Range` field has a part that is the last 0 bytes (RFC 9110, section 14.1.2).
pub fn asks_for_no_bytes(range: &[u8]) -> bool {
    let parts = range.splitn(2, |&byte| byte == b'=').nth(1).into_iter().flat_map(list_of);
    parts.filter_map(|part| part.strip_prefix(b"-")).any(|count| !count.is_empty() && count.iter().all(|&digit| digit == b'0'))
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its status is not one that the route keeps if the answer names no lifetime, or is of a part, or of no final answer.
    Status,
    /// `Set-Cookie` is for one client.
    SetCookie,
    /// `Cache-Control` says `no-store` or `private`, or `no-cache` of what cannot be validated.
    Forbidden,
    /// It varies by what no key can hold: `*`, fields that this gateway writes itself, or more fields than anyone needs.
    Vary,
    /// `Content-Length` is over the bound.
    TooLarge,
    /// Its end is the end of the connection, so a cut one looks whole (RFC 9112, section 8).
    Unframed,
    /// It is a stream without an announced end: it may last for hours, and nobody should wait for it.
    Stream,
    /// It names no lifetime, and neither does the route.
    Unnamed,
    /// Nothing of its lifetime is left.
    Stale,
    /// It bears more tags, or longer ones, than are kept: a purge might miss it.
    Tags,
    /// It was made for who has credentials, and does not say that it is for all.
    Credentials,
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
            Refusal::Unnamed => "unnamed",
            Refusal::Stale => "stale",
            Refusal::Tags => "tags",
            Refusal::Credentials => "credentials",
        }
    }
}

/// How long an answer may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Counted from now. Zero for what has to be validated before it is used.
    pub remaining: Duration,
    /// How old the answer was when it arrived (RFC 9111, section 4.2.3).
    pub age: Duration,
    /// For how many seconds after that it may be given while another one is asked for.
    pub while_revalidate: u32,
    /// For how many seconds after that it may be given in the place of an error.
    pub if_error: u32,
}

/// When an answer came.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    pub now: SystemTime,
    /// How long the backend took for it.
    pub after: Duration,
    /// When it was asked for; see [`super::moment`].
    pub asked: u64,
}

/// May this answer to a GET be stored, and how long is it fresh?
pub fn response(said: &Said<'_>, policy: &CachePolicy, came: Came) -> Result<Freshness, Refusal> {
    let control = Control::of(said);
    if said.status.is_informational() || matches!(said.status.as_u16(), 206 | 304) || policy.refuses(said.status) {
        return Err(Refusal::Status);
    }
    let expires = if control.targeted { None } else { expires(said, came.now) };
    let explicit = control.lifetime().map(Duration::from_secs).or(expires);
    if explicit.is_none() && !policy.keeps_status(said.status.as_u16()) && !is_guessed(said, &control, policy, came.now) {
        return Err(Refusal::Status);
    }
    if said.set_cookie && !control.withheld().iter().any(|name| is(name, "set-cookie")) {
        return Err(Refusal::SetCookie);
    }
    // Section 5.2.2.3: whoever understands the status goes by the rest.
    let understood = is_understood(said.status);
    if control.private || (control.no_store && !(control.must_understand && understood)) {
        return Err(Refusal::Forbidden);
    }
    if control.must_understand && !understood {
        return Err(Refusal::Forbidden);
    }
    if varies_too_much(said) {
        return Err(Refusal::Vary);
    }
    if Tags::of(said).is_err() {
        return Err(Refusal::Tags);
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
    freshness(said, &control, explicit, policy, came)
}

/// Whether a lifetime is guessed for a status that is not listed: RFC 9110, section 15.1, has three more for which it may be, and RFC 9111,
/// section 4.2.2, any that says `public`. The route's own lifetimes are not for them, nor is this where it has a list of its own.
fn is_guessed(said: &Said<'_>, control: &Control<'_>, policy: &CachePolicy, now: SystemTime) -> bool {
    policy.heuristic.is_some_and(|heuristic| heuristic.unlisted)
        && (control.public || matches!(said.status.as_u16(), 405 | 414 | 501))
        && heuristic(said, policy, now).is_some_and(|lifetime| !lifetime.is_zero())
}

/// The statuses in whose place a stale answer may be given (RFC 5861, section 4).
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// Statuses that tell of trouble, and nothing of what was asked for: whatever was answered before is as true as ever.
pub fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 429)
}

/// Statuses that speak of what was asked for, and not of who asks or how: what there is, that it is gone, or where it is for good.
pub fn is_of_target(status: StatusCode) -> bool {
    status.is_success() || matches!(status.as_u16(), 300 | 301 | 308 | 404 | 410)
}

/// Those of RFC 9110 that a whole answer can have.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 451 | 500..=505)
}

fn is_unframed(said: &Said<'_>) -> bool {
    said.version < Version::HTTP_2 && said.status != StatusCode::NO_CONTENT && !said.transfer_encoding
}

const MOST_VARY: usize = 16;

fn varies_too_much(said: &Said<'_>) -> bool {
    // What the gateway writes on the way to the backend: the client's request does not show what that saw.
    let written_here = |name: &[u8]| is_gateways(name) || is(name, "tracestate");
    let bad = |name: &[u8]| HeaderName::from_bytes(name).is_err() || name == b"*" || written_here(name);
    let mut count = 0;
    members(&said.vary).any(|name| {
        count += 1;
        count > MOST_VARY || bad(name)
    })
}

/// RFC 9111, section 4.2: `s-maxage`, else `max-age`, else `Expires`, else what the route says.
fn freshness(
    said: &Said<'_>,
    control: &Control<'_>,
    explicit: Option<Duration>,
    policy: &CachePolicy,
    came: Came,
) -> Result<Freshness, Refusal> {
    let reported = reported_age(said) + came.after;
    let by_status = if explicit.is_none() { policy.lifetime_of(said.status.as_u16()) } else { None };
    let (lifetime, age) = match explicit {
        Some(lifetime) => (lifetime.max(policy.min_ttl), reported.max(apparent_age(said, came.now))),
        // The route's word counts from when the answer came, whatever the backend's clock says.
        None => {
            let own = by_status.or_else(|| heuristic(said, policy, came.now));
            (own.unwrap_or(policy.default_ttl), reported_age(said))
        }
    };
    // Of two dates nobody knows which one is its own.
    let remaining = match control.no_cache || said.dates_differ {
        true => Duration::ZERO,
        // What the route says of a status is as long as it says.
        false => lifetime.saturating_sub(age).min(by_status.unwrap_or(policy.max_ttl)),
    };
    let window = |said: Option<u64>, own: Duration| {
        // Section 4.2.4: `s-maxage` forbids it, unless the answer names the exception beside it.
        let said = said.map(Duration::from_secs).or_else(|| control.s_maxage.is_none().then_some(own)).unwrap_or_default();
        let said = said.min(policy.max_stale);
        // They are whole ones from here on: what is written as less than one is not nothing.
        let seconds = said.as_secs() + u64::from(said.subsec_nanos() > 0);
        if control.no_cache || control.revalidate { 0 } else { u32::try_from(seconds).unwrap_or(u32::MAX) }
    };
    let while_revalidate = window(control.stale_while_revalidate, policy.stale_while_revalidate);
    let if_error = window(control.stale_if_error, policy.stale_if_error);
    let is_of_use =
        !remaining.is_zero() || said.etag || said.last_modified.is_some() || explicit.is_some() && while_revalidate > 0;
    if !is_of_use {
        return Err(match explicit {
            _ if control.no_cache => Refusal::Forbidden,
            None if lifetime.is_zero() => Refusal::Unnamed,
            _ => Refusal::Stale,
        });
    }
    Ok(Freshness { remaining, age, while_revalidate, if_error })
}

/// Whether an answer may ever be given once it is stale, by someone who is told to (RFC 9111, section 4.2.4).
pub fn may_be_stale(said: &Said<'_>) -> bool {
    let control = Control::of(said);
    !control.no_cache && !control.revalidate && control.s_maxage.is_none()
}

/// Whether it says that it is for all, also where it was made for who has credentials (RFC 9111, section 3.5).
pub fn is_for_all(said: &Said<'_>) -> bool {
    let control = Control::of(said);
    control.public || control.must_revalidate || control.s_maxage.is_some()
}

/// Whether it has to be validated each time that it is wanted.
pub fn is_never_fresh(said: &Said<'_>, policy: &CachePolicy) -> bool {
    let control = Control::of(said);
    control.no_cache || (control.lifetime() == Some(0) && policy.min_ttl.is_zero())
}

/// Section 4.2.2: a part of the time since it was last changed.
fn heuristic(said: &Said<'_>, policy: &CachePolicy, now: SystemTime) -> Option<Duration> {
    let heuristic = policy.heuristic.as_ref()?;
    let changed = date::parse(said.last_modified?, now)?;
    let made = said.date.and_then(|made| date::parse(made, now)).unwrap_or(now);
    let since = made.duration_since(changed).ok()?;
    Some((since * heuristic.percent / 100).min(heuristic.max))
}

/// `Age`. Of one that is said twice, or is no number, nobody knows how old it is: the least fresh wins (section 5.1 would leave it out).
fn reported_age(said: &Said<'_>) -> Duration {
    let seconds = match said.age.as_slice() {
        [] => 0,
        [age] => seconds(Some(age)).filter(|_| !age.starts_with(b"\"")).unwrap_or(LONGEST),
        _ => LONGEST,
    };
    Duration::from_secs(seconds)
}

/// How old it looks by its `Date`, which was cut to the second.
fn apparent_age(said: &Said<'_>, now: SystemTime) -> Duration {
    let made = said.date.and_then(|made| date::parse(made, now));
    let since = made.and_then(|made| now.duration_since(made).ok()).unwrap_or_default();
    since.saturating_sub(Duration::from_secs(1))
}

/// `Expires` minus `Date`. A date that cannot be read, or more than one, means "already expired" (section 5.3).
fn expires(said: &Said<'_>, now: SystemTime) -> Option<Duration> {
    let (first, second) = (said.expires.first()?, said.expires.get(1));
    let until = date::parse(first, now).filter(|_| second.is_none());
    let from = said.date.and_then(|made| date::parse(made, now)).unwrap_or(now);
    let lifetime = until.and_then(|until| until.duration_since(from).ok()).unwrap_or_default();
    Some(lifetime.min(Duration::from_secs(LONGEST)))
}

/// A message without a `Date` is from the moment in which it came (RFC 9110, section 6.6.1).
pub fn date_it(answer: &mut ResponseHeader) {
    if !answer.headers.contains_key(header::DATE) {
        let _ = answer.insert_header(header::DATE, encode::date_field());
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

/// What a 304 does not change (RFC 9111, section 3.2): it is about the body as it is stored, or about the message that a field came in.
const KEPT: [&str; 7] =
    ["content-length", "transfer-encoding", "content-encoding", "content-range", "content-md5", "content-digest", "trailer"];

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

/// Whether a field is one that `private` or `no-cache` names. What the cache itself goes by stays.
pub fn is_withheld(name: &[u8], listed: &[u8]) -> bool {
    const NEEDED: [&str; 5] = ["vary", "cache-control", "content-length", "transfer-encoding", "date"];
    let same = |listed: &[u8]| name.eq_ignore_ascii_case(listed);
    (same(listed) || listed == b"set-cookie" && same(b"set-cookie2")) && !NEEDED.iter().any(|known| is(name, known))
}

/// Whether a validator of an answer is that of a stored one: a strong one is only itself (RFC 9110, section 8.8.3.2).
pub fn is_same_tag(tag: &[u8], known: &[u8]) -> bool {
    match tag.strip_prefix(b"W/") {
        None => tag == known,
        Some(tag) => known.strip_prefix(b"W/").unwrap_or(known) == tag,
    }
}

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
