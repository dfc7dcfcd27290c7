//! `cache:` on a route: what people write, and what it compiles to.
//!
//! Not in here: the decisions for one request or response and the store ([`crate::cache`]), which belongs to the process and not to
//! a route.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cache::policy::{ByBody, Extra, Heuristic, Names, QueryKey, UNBOUNDED};
use crate::cache::{CachePolicy, accept};
use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::grpc::Dialect;
use crate::head::{BodyFraming, RequestHead};
use crate::policy::{Compile, OnBody, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::{Place, Problem};
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Period, Size, Spanned, StatusRange, count_within, period_within};
use crate::wire::streams::is_stream;

/// A longer lifetime than this is a mistake more often than a wish; purging by hand is the only way out of it.
const LONGEST_TTL: u64 = 30 * DAY;
const DAY: u64 = 24 * 3_600_000;
/// Every key header multiplies the entries of a route.
const MOST_KEY_HEADERS: usize = 16;
/// Names of query parameters, and of cookies that are not shown.
const MOST_PARAMETERS: usize = 64;
const DEFAULT_MAX_BODY: u64 = 1024 * 1024;
/// Of requests whose body is part of the key.
const DEFAULT_REQUEST_BODY: usize = 64 * 1024;
const MOST_REQUEST_BODY: usize = 1024 * 1024;

/// The statuses that RFC 9110, section 15.1, calls heuristically cacheable, without those that say something about this one request
/// or about the backend's state rather than about the resource (405, 414, 501), and without 206, which is a part of an answer.
const DEFAULT_STATUSES: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Keeps answers, to GET requests unless `methods` says more, in memory and where `server.cache_disk` and `server.cache_redis` say so on
/// disk and in Redis, and gives them to the next client that asks for the same, GET or HEAD. How long is the service's to say, by `Cache-Control` and `Expires` (RFC 9111), or in `Portcullis-Cache-Control` or `CDN-Cache-Control` (RFC 9213), which
/// then take their place; `{}` keeps what it says, and nothing else. Requests with
/// credentials do not use the cache, but for what `per`, `shared_with_auth` and `key_headers` say: with `Authorization`, `Cookie`, `Signature`, one of the usual fields for keys and tokens
/// (`X-API-Key`, `Api-Key`, `X-Auth-Token` and the like), anything that an `authn` of this file reads, or a proved identity. Fields that
/// `request_headers` or `external_auth` make for each client are part of the key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Short for `default_ttl` and `max_ttl` of this length: how long an answer is fresh when the service does not say, and the most
    /// it may say. More than 0, at most `30d`. Not beside these two.
    pub ttl: Option<Spanned<Period>>,
    /// How long an answer is fresh that names no lifetime; an `Age` that it arrives with is subtracted. At most `30d`. Default: `0s`, for
    /// not at all.
    pub default_ttl: Option<Spanned<Period>>,
    /// Lifetimes that answers name are raised to this. It changes nothing about `no-store`, `private` and `no-cache`. At most `30d`.
    /// Default: `0s`.
    pub min_ttl: Option<Spanned<Period>>,
    /// Lifetimes that answers name are cut to this. More than 0. Default: none.
    pub max_ttl: Option<Spanned<Period>>,
    /// Guesses the lifetime of answers that name none, by how long ago their `Last-Modified` was, before `default_ttl` counts. Where
    /// `statuses` is not written, also of 405, 414 and 501, and of any status whose answer says `public`. Default: it does not.
    pub heuristic: Option<HeuristicConfig>,
    /// For how long after its lifetime an answer may be given while a new one is fetched behind it, where it does not say so itself
    /// (`stale-while-revalidate`) and does not forbid it (`must-revalidate`, `proxy-revalidate`, `no-cache`, `s-maxage`). At most `30d`.
    /// Default: `0s`.
    pub stale_while_revalidate: Option<Spanned<Period>>,
    /// For how long after its lifetime an answer may be given when the service cannot be reached, or answers 500, 502, 503 or 504; as
    /// above (`stale-if-error`). At most `30d`. Default: `0s`.
    pub stale_if_error: Option<Spanned<Period>>,
    /// The most that either of them may be, whoever says it. `0s` means that no stale answer is ever given. At most `30d`. Default: `1d`, or
    /// the longer of the two.
    pub max_stale: Option<Spanned<Period>>,
    /// Whether what clients say in `Cache-Control` counts: `no-cache`, `no-store`, `max-age`, `min-fresh`, `max-stale`, `only-if-cached`.
    /// `ignore` keeps them from making the service work. Default: `honour`.
    #[serde(default)]
    pub client_directives: ClientDirectives,
    /// The longest body that is kept; longer ones are passed on uncached. At least 1 byte. Default: `1MiB`.
    #[serde(default = "default_max_body")]
    pub max_body: Spanned<Size>,
    /// Request headers whose values, as the backend sees them, are part of the key, besides those that the backend's `Vary` names. A
    /// field for keys or tokens that is named here does not keep a request from the cache: each value has its own entry. At most 16.
    /// Default: none.
    #[serde(default)]
    pub key_headers: Vec<Spanned<String>>,
    /// What of the query string is part of the key: `all` as it is written, `none` for services that do not look at it, `{ only: [ page, q ] }`
    /// or `{ ignore: [ 'utm_*', fbclid ] }`; with these two the order of the parameters makes no difference. The service is sent all of it
    /// whatever this says. Default: `all`.
    #[serde(default)]
    pub query: QueryConfig,
    /// What clients accept, cut down to what matters, so that those who would get the same share it. Default: as they say it.
    #[serde(default)]
    pub vary: Option<VaryConfig>,
    /// Which cookies a request may carry that uses the cache. Default: none.
    #[serde(default)]
    pub cookies: Option<CookiesConfig>,
    /// `consumer`: requests that `authn` has proved to be a consumer's use the cache, each consumer's entries being his own; what else the
    /// service is told of who asks (a token's subject, its scopes, a credential that is forwarded) is part of the key. Default: they do not use
    /// it.
    #[serde(default)]
    pub per: Option<Per>,
    /// Requests for which this CEL expression is true do not use the cache. So do those of which it cannot be told.
    #[serde(default)]
    pub bypass: Option<Spanned<String>>,
    /// Requests for which this CEL expression is true may be answered from the cache, but what the service answers them is not stored. So with
    /// those of which it cannot be told.
    #[serde(default)]
    pub no_store: Option<Spanned<String>>,
    /// `second_request` stores nothing that was asked for but once, so that what is asked for once takes no room. What was asked for is
    /// remembered for some 100,000 keys. Default: `first_request`.
    #[serde(default)]
    pub store_on: StoreOn,
    /// `true`: requests with credentials, those of `Authorization` or of this route's `authn`, use the cache for what the service says is for
    /// all, by `public`, `s-maxage` or `must-revalidate` (RFC 9111, section 3.5): they are given nothing else that is stored, and only such
    /// answers to them are. Who may ask is checked before, as ever. With `per: consumer` beside it, a consumer's entries are still his own.
    /// Default: false.
    #[serde(default)]
    pub shared_with_auth: bool,
    /// Methods whose answers are kept, beside those to GET and HEAD: `POST` and `QUERY`, for requests that change nothing and ask by their body
    /// (GraphQL queries, searches). Method, body, media type and coding are part of the key, as the service would get them. Such a request
    /// takes nothing out of the cache. An answer to what does change something has to say `no-store`. Default: GET, HEAD.
    #[serde(default)]
    pub methods: Vec<Spanned<String>>,
    /// The longest request body that is part of a key; requests with longer ones pass the cache by. At least 1 byte, at most `1MiB`. Only with
    /// `methods`. Default: `64KiB`.
    #[serde(default)]
    pub max_request_body: Option<Spanned<Size>>,
    /// What becomes of a request for a part (`Range`) of what is not stored: `pass` passes it on as it came, and nothing is stored; `parts`
    /// passes it on too, keeps the part that the service gives (206), and puts parts with the same strong `ETag` together; `whole`
    /// fetches the whole once for all who ask, if it may be stored, and cuts the part from it. Any client can then have the service send the
    /// whole by asking for a byte. Default: `pass`.
    #[serde(default)]
    pub ranges: Ranges,
    /// How long answers of these statuses are fresh that do not say so, whatever `default_ttl`, `max_ttl`, `heuristic` and `statuses` say:
    /// `{ 404: 10s, 5xx: 1s }`. Of two that fit, the one that names fewer statuses counts. At most `30d` each. Default: none.
    #[serde(default)]
    pub ttl_by_status: BTreeMap<String, Spanned<Period>>,
    /// Whether `Cache-Status` says what was asked for as the key has it (`key`, RFC 9211): the route, the host, the path and the query, without
    /// who asks and what his fields say. Default: false.
    #[serde(default)]
    pub show_key: bool,
    /// Whether what is stored is also written to disk, and looked for there, where `server.cache_disk` has a folder for it. Default: true.
    #[serde(default = "yes")]
    pub disk: bool,
    /// Whether what is stored is also written to Redis, and looked for there, where `server.cache_redis` says so. Default: true.
    #[serde(default = "yes")]
    pub redis: bool,
    /// Whether clients see the fields by which a service tags its answers for purges (`Surrogate-Key`, `Cache-Tag`). Default: false.
    #[serde(default)]
    pub keep_tags: bool,
    /// The statuses of answers that are kept although they name no lifetime, 200 to 599 without 206 and 304. Default: 200, 203, 204, 300,
    /// 301, 308, 404, 410.
    #[serde(default)]
    pub statuses: Option<Vec<Spanned<u16>>>,
}

/// A lifetime by how long ago an answer was last changed (RFC 9111, section 4.2.2).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeuristicConfig {
    /// How much of that time, 1 to 100. Default: 10.
    pub percent: Option<Spanned<u32>>,
    /// The most that comes of it, 1s to `30d`. Default: `1d`.
    pub max: Option<Spanned<Period>>,
}

/// What of the query is part of the key.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryConfig {
    /// All of it, as it is written.
    #[default]
    All,
    /// Nothing.
    None,
    /// These parameters. A `*` at the end of a name stands for anything.
    Only(OneOrMany<Spanned<String>>),
    /// All but these.
    Ignore(OneOrMany<Spanned<String>>),
}

/// What clients accept, in the words in which the service is asked.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaryConfig {
    /// The codings that matter, the best first: `Accept-Encoding` becomes those that the client accepts, or `identity`. At most 8. Default: as
    /// it came.
    pub accept_encoding: Option<OneOrMany<Spanned<String>>>,
    /// The languages that there are: `Accept-Language` becomes the one that suits the client best, and goes where none does. At most 64.
    /// Default: as it came.
    pub accept_language: Option<OneOrMany<Spanned<String>>>,
}

/// Which cookies a request may carry that uses the cache; one with any other does not.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CookiesConfig {
    /// Those whose values are part of the key. A `*` at the end of a name stands for anything. At most 16.
    pub key: Vec<Spanned<String>>,
    /// Those that are not shown to the service with GET, HEAD and what `methods` lists, such as `_ga*`. At most 64.
    pub drop: Vec<Spanned<String>>,
}

/// Whose the entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A consumer's.
    Consumer,
}

/// When an answer is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreOn {
    /// As soon as it is asked for.
    #[default]
    FirstRequest,
    /// Once it was asked for before.
    SecondRequest,
}

/// What becomes of requests for parts of what is not stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ranges {
    /// They go to the service as they came.
    #[default]
    Pass,
    /// The whole is fetched, and stored.
    Whole,
    /// They go to the service as they came, and the parts that it gives are stored.
    Parts,
}

/// What clients' directives do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientDirectives {
    /// They count.
    #[default]
    Honour,
    /// They make no difference.
    Ignore,
}

/// The client wants no answer of the service, and there is no other (RFC 9111, section 5.2.1.7).
pub fn not_cached() -> Box<Reply> {
    let detail = "Nothing is stored that could be given, and the request wants nothing else.";
    Reply::new(StatusCode::GATEWAY_TIMEOUT, CachePolicy::NAME, "not_cached", detail)
}

fn yes() -> bool {
    true
}

fn default_max_body() -> Spanned<Size> {
    Spanned { value: Size(DEFAULT_MAX_BODY), place: Place::NOWHERE }
}

impl Policy for CachePolicy {
    const NAME: &'static str = "cache";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Answers from memory what was answered before, as long as it is fresh";
    type Config = CacheConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let lifetimes = check_lifetimes(config, cx);
        let unlisted = config.statuses.is_none();
        let heuristic = config.heuristic.as_ref().map(|heuristic| check_heuristic(heuristic, unlisted, cx));
        let stale = check_stale(config, cx);
        let max_body = check_max_body(&config.max_body, cx);
        let key_headers = check_key_headers(&config.key_headers, cx);
        let statuses = check_statuses(config.statuses.as_deref(), cx);
        let (query, extra) = (check_query(&config.query, cx), check_extra(config, cx));
        let ((default_ttl, min_ttl, max_ttl), (stale_while_revalidate, stale_if_error, max_stale)) = (lifetimes?, stale?);
        Some(CachePolicy {
            default_ttl,
            min_ttl,
            max_ttl,
            heuristic: match heuristic {
                Some(heuristic) => Some(heuristic?),
                None => None,
            },
            stale_while_revalidate,
            stale_if_error,
            max_stale,
            ignore_requests: config.client_directives == ClientDirectives::Ignore,
            max_body: max_body?,
            key_headers: key_headers?,
            handed: Box::default(),
            query: query?,
            extra: extra?,
            on_disk: config.disk,
            in_redis: config.redis,
            keep_tags: config.keep_tags,
            statuses: statuses?,
            refused: Box::default(),
        })
    }

    /// The road itself asks the cache, between the last step and the backend; the one step there may be is how the service is asked.
    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let extra = self.extra.clone();
        plan.options().cache = Some(self);
        let Some(extra) = extra else { return };
        if extra.by_body.is_some() {
            // After all that looks into bodies, and changes them.
            plan.on_body(Arc::new(BodyKey(extra.clone())));
        }
        plan.options().by_path |= [&extra.bypass, &extra.no_store].into_iter().flatten().any(Expression::looks_at_path);
        if extra.asks_otherwise() {
            plan.on_request(Arc::new(Asking(extra)));
        }
    }
}

/// Has the service asked in words that many clients share.
struct Asking(Arc<Extra>);

impl OnRequest for Asking {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        accept::ask(&self.0, head, &mut exchange.to_upstream);
        Flow::Continue(())
    }
}

/// Makes the body a part of the key.
struct BodyKey(Arc<Extra>);

impl OnBody for BodyKey {
    fn bound(&self) -> usize {
        self.0.by_body.as_ref().map_or(0, |by_body| by_body.max)
    }

    fn wants(&self, head: &RequestHead) -> bool {
        let Some(by_body) = &self.0.by_body else { return false };
        let is_long = matches!(head.body, BodyFraming::Length(length) if length > by_body.max as u64);
        let mut kinds = head.header_all("content-type");
        // A call's messages may have no end, nor may lines whose length nobody has said.
        let endless = |kind| Dialect::of(kind).is_grpc() || head.body == BodyFraming::Streamed && is_stream(kind);
        by_body.methods.contains(&head.method) && !is_long && !head.upgrade && !kinds.any(endless)
    }

    fn on_body(&self, _: &RequestHead, body: &Bytes, exchange: &mut Exchange) -> Flow {
        // What changes something is done each time.
        let changes = exchange.operation.as_ref().is_some_and(|operation| operation.names.may_change(operation.number));
        // It may have become longer since.
        if body.len() <= self.bound() && !changes {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
            exchange.body_digest = digest.as_ref().try_into().ok().map(Box::new);
        }
        Flow::Continue(())
    }

    fn passes_longer(&self) -> bool {
        true
    }
}

/// The methods beside GET and HEAD. `None` of it where there are none.
#[allow(clippy::option_option, reason = "the outer one is whether there was a problem")]
fn check_by_body(config: &CacheConfig, cx: &mut Compile<'_>) -> Option<Option<ByBody>> {
    let (mut methods, mut fine) = (Vec::new(), true);
    for method in &config.methods {
        match &*method.value {
            "GET" | "HEAD" => {}
            name @ ("POST" | "QUERY") => methods.extend(Method::from_bytes(name.as_bytes())),
            other => {
                let is_small = ["GET", "HEAD", "POST", "QUERY"].iter().any(|name| name.eq_ignore_ascii_case(other));
                let why = if is_small { "case counts" } else { "it changes something" };
                let message = format!("answers to `{}` are not kept: {why}", other.escape_debug());
                cx.problems.push(Problem::error(method.place, message).hint("the methods are GET, HEAD, POST and QUERY"));
                fine = false;
            }
        }
    }
    let max = match &config.max_request_body {
        None => Some(DEFAULT_REQUEST_BODY),
        Some(size) => {
            let bytes = usize::try_from(size.value.0).ok().filter(|bytes| (1..=MOST_REQUEST_BODY).contains(bytes));
            if bytes.is_none() {
                let problem = Problem::error(size.place, "max_request_body is at least 1 byte, and at most 1MiB");
                cx.problems.push(problem.hint("write a size such as 64KiB"));
            } else if methods.is_empty() && fine {
                let problem = Problem::error(size.place, "`max_request_body` counts for `POST` and `QUERY` alone");
                cx.problems.push(problem.hint("write `methods: [ POST ]` as well, or leave it out"));
                fine = false;
            }
            bytes
        }
    };
    let max = max.filter(|_| fine)?;
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    methods.dedup();
    Some((!methods.is_empty()).then(|| ByBody { methods: methods.into(), max }))
}

/// Lifetimes by status, those of fewer statuses first.
fn check_by_status(config: &CacheConfig, cx: &mut Compile<'_>) -> Option<Box<[(StatusRange, Duration)]>> {
    let (mut found, mut fine) = (Vec::new(), true);
    for (statuses, period) in &config.ttl_by_status {
        let range = StatusRange::parse(statuses).filter(|range| range.first >= 200 && range.first != 206 && range.first != 304);
        if range.is_none() {
            let message = format!("`{}` are no statuses that are kept", statuses.escape_debug());
            cx.problems.push(Problem::error(period.place, message).hint("write 404, 5xx or 500-504; 206 and 304 are not kept"));
        }
        let lifetime = period_within("ttl_by_status", period, 0, LONGEST_TTL, cx.problems);
        match range.zip(lifetime) {
            Some(pair) => found.push(pair),
            None => fine = false,
        }
    }
    let length = |range: &StatusRange| range.last - range.first;
    found.sort_by_key(|(range, _)| length(range));
    for (at, (range, _)) in found.iter().enumerate() {
        // Of those that say it for as many, none is the narrower one.
        let both = |(other, _): &&(StatusRange, Duration)| {
            length(other) == length(range) && other.first <= range.last && range.first <= other.last
        };
        if let Some((other, _)) = found.iter().skip(at + 1).find(both) {
            let message = format!(
                "`ttl_by_status` says of {} twice how long it is fresh, and neither names fewer statuses",
                range.first.max(other.first)
            );
            cx.problems.push(Problem::error(cx.place, message).hint("write each status once, or in ranges of different lengths"));
            fine = false;
        }
    }
    fine.then(|| found.into())
}

fn check_query(query: &QueryConfig, cx: &mut Compile<'_>) -> Option<QueryKey> {
    Some(match query {
        QueryConfig::All => QueryKey::All,
        QueryConfig::None => QueryKey::None,
        QueryConfig::Only(names) => QueryKey::Only(check_parameters(names, "none", cx)?),
        QueryConfig::Ignore(names) => QueryKey::Ignore(check_parameters(names, "all", cx)?),
    })
}

/// An empty list is what the word `same` says: one thing is written in one way.
fn check_parameters(names: &[Spanned<String>], same: &str, cx: &mut Compile<'_>) -> Option<Names> {
    if names.is_empty() {
        let problem = Problem::error(cx.place, "an empty list of parameters under `query`");
        cx.problems.push(problem.hint(format!("write `query: {same}`, if that is meant, or the parameters' names")));
        return None;
    }
    check_names("parameters", names, MOST_PARAMETERS, cx)
}

fn check_names(what: &str, names: &[Spanned<String>], most: usize, cx: &mut Compile<'_>) -> Option<Names> {
    let mut ok = true;
    for name in names {
        let beginning = name.value.strip_suffix('*').unwrap_or(&name.value);
        if name.value.is_empty() || beginning.contains('*') || beginning.contains(['=', ';', '&']) {
            let message = format!("`{}` is no name, nor the beginning of one", name.value.escape_debug());
            cx.problems.push(Problem::error(name.place, message).hint("write it like `utm_*` or `page`, decoded"));
            ok = false;
        }
    }
    if let Some(extra) = names.get(most) {
        cx.problems.push(Problem::error(extra.place, format!("more than {most} {what}")));
        ok = false;
    }
    ok.then(|| Names::new(names.iter().map(|name| name.value.as_str().into())))
}

/// Whether a name, or the beginning of names, is one of those that a pattern is the beginning of.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

/// `None` of it where the route asks for nothing of all this.
#[allow(clippy::option_option, reason = "the outer one is whether there was a problem")]
fn check_extra(config: &CacheConfig, cx: &mut Compile<'_>) -> Option<Option<Arc<Extra>>> {
    let before = cx.problems.error_count();
    let mut extra = Extra { per_consumer: config.per.is_some(), ..Extra::default() };
    extra.second_request = config.store_on == StoreOn::SecondRequest;
    extra.shared_with_auth = config.shared_with_auth;
    extra.by_body = check_by_body(config, cx).flatten();
    extra.whole_ranges = config.ranges == Ranges::Whole;
    extra.keeps_parts = config.ranges == Ranges::Parts;
    extra.by_status = check_by_status(config, cx).unwrap_or_default();
    extra.shows_key = config.show_key;
    if let Some(vary) = &config.vary {
        extra.accept_encoding = vary.accept_encoding.as_ref().and_then(|names| check_tokens(names, 8, "gzip", cx));
        extra.accept_language = vary.accept_language.as_ref().and_then(|names| check_tokens(names, 64, "de or pt-BR", cx));
    }
    if let Some(cookies) = &config.cookies {
        extra.key_cookies = check_names("cookies", &cookies.key, MOST_KEY_HEADERS, cx).unwrap_or_default();
        extra.drop_cookies = check_names("cookies", &cookies.drop, MOST_PARAMETERS, cx).unwrap_or_default();
        for name in &cookies.key {
            let both = cookies.drop.iter().find(|other| covers(&other.value, &name.value) || covers(&name.value, &other.value));
            if let Some(other) = both {
                let (key, drop) = (name.value.escape_debug(), other.value.escape_debug());
                let message = format!("`{key}` is part of the key, and `drop: {drop}` keeps it from the service");
                cx.problems
                    .push(Problem::error(name.place, message).hint("write a cookie under `key` or under `drop`, not under both"));
            }
        }
    }
    let mut unsure = Vec::new();
    let mut expression = |what: &str, text: &Option<Spanned<String>>| {
        let text = text.as_ref()?;
        let expression = Expression::compile(&text.value, text.place, cx.problems, Kind::Bool)?;
        unsure.extend(expression.unsure().map(|member| {
            let message = format!("`{member}` is not always there, and `{what}` counts as true for requests without it");
            let mut parts = member.splitn(3, '.');
            let (root, map, key) = (parts.next(), parts.next(), parts.next());
            let [root, map, key] = [root, map, key].map(Option::unwrap_or_default);
            let hint = format!("ask for it first, if that is not meant: `\"{key}\" in {root}.{map} && ...`");
            Problem::warning(text.place, message).hint(hint)
        }));
        Some(expression)
    };
    (extra.bypass, extra.no_store) = (expression("bypass", &config.bypass), expression("no_store", &config.no_store));
    let cookies = config.cookies.is_some();
    let asked = cookies || config.vary.is_some() || config.per.is_some() || config.bypass.is_some() || config.no_store.is_some();
    let asked = asked
        || extra.second_request
        || extra.shared_with_auth
        || extra.by_body.is_some()
        || extra.whole_ranges
        || extra.keeps_parts;
    let asked = asked || !extra.by_status.is_empty() || extra.shows_key;
    unsure.into_iter().for_each(|problem| cx.problems.push(problem));
    (cx.problems.error_count() == before).then(|| asked.then(|| Arc::new(extra)))
}

/// Codings or languages.
fn check_tokens(names: &[Spanned<String>], most: usize, like: &str, cx: &mut Compile<'_>) -> Option<Box<[Box<str>]>> {
    let mut ok = true;
    for name in names {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(good) {
            let message = format!("`{}` is none", name.value.escape_debug());
            cx.problems.push(Problem::error(name.place, message).hint(format!("write it like {like}")));
            ok = false;
        }
    }
    if let Some(extra) = names.get(most) {
        cx.problems.push(Problem::error(extra.place, format!("more than {most}: each multiplies the entries")));
        ok = false;
    }
    ok.then(|| names.iter().map(|name| name.value.as_str().into()).collect())
}

/// The default, the least and the most.
fn check_lifetimes(config: &CacheConfig, cx: &mut Compile<'_>) -> Option<(Duration, Duration, Duration)> {
    let CacheConfig { ttl, default_ttl, min_ttl, max_ttl, .. } = config;
    let mut bounded = |what: &str, period: &Option<Spanned<Period>>, least: u64, absent: Duration| match period {
        Some(period) => period_within(what, period, least, LONGEST_TTL, cx.problems),
        None => Some(absent),
    };
    let min = bounded("min_ttl", min_ttl, 0, Duration::ZERO);
    let (default, max) = match ttl {
        None => (bounded("default_ttl", default_ttl, 0, Duration::ZERO), bounded("max_ttl", max_ttl, 1, UNBOUNDED)),
        Some(ttl) => {
            if let Some(other) = default_ttl.as_ref().or(max_ttl.as_ref()) {
                let message = "`ttl` is short for `default_ttl` and `max_ttl`, and does not stand beside them";
                cx.problems.push(Problem::error(other.place, message).hint("write `default_ttl` and `max_ttl` alone"));
                return None;
            }
            let ttl = check_ttl(ttl, cx);
            (ttl, ttl)
        }
    };
    let (default, min, max) = (default?, min?, max?);
    let place = [min_ttl, default_ttl, max_ttl, ttl].into_iter().flatten().next().map_or(cx.place, |period| period.place);
    if min > max || default > max {
        let message = "`max_ttl` is shorter than `min_ttl` or `default_ttl`";
        cx.problems.push(Problem::error(place, message).hint("make it the longest of the three"));
        return None;
    }
    Some((default, min, max))
}

fn check_ttl(ttl: &Spanned<Period>, cx: &mut Compile<'_>) -> Option<Duration> {
    if ttl.value.0.is_zero() {
        let hint = "write `cache: false` to turn an inherited cache off, or no `ttl` to keep what the service says how long";
        cx.problems.push(Problem::error(ttl.place, "a ttl of 0 keeps nothing").hint(hint));
        return None;
    }
    period_within("ttl", ttl, 1, LONGEST_TTL, cx.problems)
}

fn check_heuristic(config: &HeuristicConfig, unlisted: bool, cx: &mut Compile<'_>) -> Option<Heuristic> {
    let percent = match &config.percent {
        Some(percent) => count_within("percent", percent, 1, 100, cx.problems),
        None => Some(10),
    };
    let max = match &config.max {
        Some(max) => period_within("max", max, 1000, LONGEST_TTL, cx.problems),
        None => Some(Duration::from_millis(DAY)),
    };
    Some(Heuristic { percent: percent?, max: max?, unlisted })
}

/// While a new one is fetched, in the place of an error, and the most of both.
fn check_stale(config: &CacheConfig, cx: &mut Compile<'_>) -> Option<(Duration, Duration, Duration)> {
    let mut bounded = |what: &str, period: &Option<Spanned<Period>>| {
        period.as_ref().map(|period| period_within(what, period, 0, LONGEST_TTL, cx.problems))
    };
    let while_revalidate = bounded("stale_while_revalidate", &config.stale_while_revalidate);
    let if_error = bounded("stale_if_error", &config.stale_if_error);
    let most = bounded("max_stale", &config.max_stale);
    let (while_revalidate, if_error) =
        (while_revalidate.unwrap_or(Some(Duration::ZERO))?, if_error.unwrap_or(Some(Duration::ZERO))?);
    let longer = while_revalidate.max(if_error);
    let most = most.unwrap_or(Some(longer.max(Duration::from_millis(DAY))))?;
    if let Some(period) = config.max_stale.as_ref().filter(|_| most < longer) {
        let message = "`max_stale` is shorter than `stale_while_revalidate` or `stale_if_error`";
        cx.problems.push(Problem::error(period.place, message).hint("make it the longest of the three"));
        return None;
    }
    Some((while_revalidate, if_error, most))
}

fn check_max_body(size: &Spanned<Size>, cx: &mut Compile<'_>) -> Option<usize> {
    match usize::try_from(size.value.0) {
        Ok(bytes) if bytes > 0 => Some(bytes),
        _ => {
            cx.problems.push(Problem::error(size.place, "max_body must be at least 1 byte").hint("write a size such as 1MiB"));
            None
        }
    }
}

fn check_key_headers(names: &[Spanned<String>], cx: &mut Compile<'_>) -> Option<Box<[HeaderName]>> {
    let mut ok = true;
    let mut refuse = |place: Place, message: String, hint: &str| {
        cx.problems.push(Problem::error(place, message).hint(hint));
        ok = false;
    };
    let mut parsed: Vec<HeaderName> = Vec::with_capacity(names.len());
    for name in names {
        match HeaderName::from_bytes(name.value.as_bytes()) {
            Err(_) => refuse(
                name.place,
                format!("`{}` is not a header name", name.value.escape_default()),
                "write it like Accept-Language",
            ),
            Ok(header) if [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION].contains(&header) => refuse(
                name.place,
                format!("`{header}` cannot be part of the key: a request that carries it never uses the cache"),
                "remove it",
            ),
            Ok(header) => parsed.push(header),
        }
    }
    if let Some(extra) = names.get(MOST_KEY_HEADERS) {
        refuse(
            extra.place,
            format!("more than {MOST_KEY_HEADERS} key headers"),
            "every one multiplies the entries; keep the few that matter",
        );
    }
    parsed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    parsed.dedup();
    ok.then(|| parsed.into())
}

fn check_statuses(statuses: Option<&[Spanned<u16>]>, cx: &mut Compile<'_>) -> Option<Box<[u16]>> {
    let Some(statuses) = statuses else { return Some(DEFAULT_STATUSES.into()) };
    let mut ok = true;
    for status in statuses {
        let hint = match status.value {
            206 => "a part cannot stand for the whole: leave it out; ranges are cut from whole answers",
            304 => "leave it out; revalidation is handled without it",
            200..=599 => continue,
            _ => "statuses are 200 to 599",
        };
        cx.problems.push(Problem::error(status.place, format!("status {} cannot be kept", status.value)).hint(hint));
        ok = false;
    }
    if statuses.is_empty() {
        cx.problems.push(Problem::error(cx.place, "an empty list of statuses keeps nothing").hint("write `cache: false`"));
        ok = false;
    }
    let mut sorted: Vec<u16> = statuses.iter().map(|status| status.value).collect();
    sorted.sort_unstable();
    sorted.dedup();
    ok.then(|| sorted.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::problem::Problems;

    fn compile(yaml: &str) -> (Option<CachePolicy>, Vec<String>) {
        let config: CacheConfig = serde_yaml::from_str(yaml).unwrap();
        let (mut problems, ledger, consumers) = (Problems::default(), Ledger::default(), Arc::default());
        let base = std::path::Path::new(".");
        let mut cx = crate::policy::testing::context(&mut problems, "route:/x", &ledger, &consumers, base);
        let policy = CachePolicy::compile(&config, &mut cx);
        (policy, problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn the_smallest_configuration_has_sane_defaults() {
        let (policy, problems) = compile("{}");
        let policy = policy.unwrap();
        assert!(problems.is_empty());
        assert_eq!((policy.default_ttl, policy.min_ttl, policy.max_ttl), (Duration::ZERO, Duration::ZERO, UNBOUNDED));
        assert_eq!((policy.max_body, &policy.query, policy.heuristic), (1 << 20, &QueryKey::All, None));
        assert_eq!((policy.stale_while_revalidate, policy.stale_if_error), (Duration::ZERO, Duration::ZERO));
        assert!(policy.max_stale == Duration::from_millis(DAY) && !policy.ignore_requests);
        assert!(policy.keeps_status(200) && policy.keeps_status(404) && !policy.keeps_status(206) && !policy.keeps_status(500));
        assert!(policy.statuses.is_sorted());
    }

    #[test]
    fn ttl_is_short_for_two() {
        let thirty = Duration::from_secs(30);
        for yaml in ["ttl: 30s", "{default_ttl: 30s, max_ttl: 30s}"] {
            let policy = compile(yaml).0.unwrap();
            assert_eq!((policy.default_ttl, policy.min_ttl, policy.max_ttl), (thirty, Duration::ZERO, thirty), "{yaml}");
        }
        for yaml in [
            "{ttl: 1s, default_ttl: 1s}",
            "{ttl: 1s, max_ttl: 1s}",
            "{ttl: 1s, min_ttl: 2s}",
            "{default_ttl: 2s, max_ttl: 1s}",
            "{min_ttl: 2s, max_ttl: 1s}",
            "max_ttl: 0s",
            "default_ttl: 31d",
            "heuristic: {percent: 0}",
            "heuristic: {percent: 101}",
            "heuristic: {max: 0s}",
            "{stale_if_error: 2h, max_stale: 1h}",
            "{stale_while_revalidate: 31d}",
        ] {
            let (policy, problems) = compile(yaml);
            assert!(policy.is_none() && problems.len() == 1, "{yaml}: {problems:?}");
        }
        let policy = compile("{stale_if_error: 3d, heuristic: {}}").0.unwrap();
        assert_eq!(policy.max_stale, Duration::from_millis(3 * DAY));
        assert_eq!(policy.heuristic, Some(Heuristic { percent: 10, max: Duration::from_millis(DAY), unlisted: true }));
        assert!(!compile("{heuristic: {}, statuses: [200]}").0.unwrap().heuristic.unwrap().unlisted);
        assert_eq!(compile("max_stale: 0s").0.unwrap().max_stale, Duration::ZERO);
    }

    #[test]
    fn every_wrong_value_is_said_at_once() {
        let (policy, problems) =
            compile("{ttl: 0s, max_body: 0, key_headers: ['a b', Cookie, X-Ok], statuses: [200, 206, 304, 99, 600]}");
        assert!(policy.is_none());
        assert_eq!(problems.len(), 8, "{problems:?}");
        assert!(compile("ttl: 31d").0.is_none());
        assert!(compile("ttl: 30d").0.is_some());
        assert!(compile("{ttl: 1s, statuses: []}").0.is_none());
        let many: Vec<String> = (0..17).map(|i| format!("x-{i}")).collect();
        assert!(compile(&format!("{{ttl: 1s, key_headers: [{}]}}", many.join(","))).0.is_none());
    }

    #[test]
    fn key_headers_are_canonical() {
        let (policy, _) = compile("{ttl: 1s, query: none, key_headers: [X-B, x-a, x-b]}");
        let policy = policy.unwrap();
        assert_eq!(policy.key_headers.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-a", "x-b"]);
        assert_eq!(policy.query, QueryKey::None);
    }

    #[test]
    fn what_few_routes_ask_for_is_checked() {
        for yaml in [
            "query: !only ['']",
            "query: !ignore 'a*b'",
            "query: !ignore ['a=b']",
            "query: !only []",
            "query: !ignore []",
            "cookies: {key: [a], drop: ['*']}",
            "cookies: {key: ['_g*'], drop: [_ga]}",
            "ttl_by_status: {404: 1s, 404-404: 2s}",
            "ttl_by_status: {400-409: 1s, 405-414: 2s}",
            "vary: {accept_encoding: 'gz ip'}",
            "vary: {accept_language: ['*']}",
            "cookies: {key: ['a;b']}",
            "bypass: 'request.path =='",
        ] {
            let (policy, problems) = compile(yaml);
            assert!(policy.is_none() && !problems.is_empty(), "{yaml}");
        }
        let many: Vec<String> = (0..65).map(|number| format!("p{number}")).collect();
        assert!(compile(&format!("query: !ignore [{}]", many.join(","))).0.is_none());
        assert!(compile("{}").0.unwrap().extra.is_none());
        let policy = compile("{query: !ignore ['utm_*', x], cookies: {drop: ['_ga*']}, per: consumer, store_on: second_request}")
            .0
            .unwrap();
        let QueryKey::Ignore(names) = &policy.query else { panic!("{:?}", policy.query) };
        assert!(names.have(b"utm_source") && names.have(b"x") && !names.have(b"xy") && !names.have(b"utm"));
        let extra = policy.extra.unwrap();
        assert!(extra.per_consumer && extra.second_request && extra.asks_otherwise() && extra.drop_cookies.have(b"_gat"));
    }

    #[test]
    fn a_rule_that_may_come_to_nothing_is_warned_of() {
        for (rule, warned) in [
            ("request.headers[\"x-debug\"] == \"1\"", true),
            ("request.headers.accept == \"1\" && \"x-debug\" in request.headers", true),
            ("\"x-debug\" in request.headers && request.headers[\"X-Debug\"] == \"1\"", false),
            ("has(request.query.debug) && \"1\" in request.query.debug", false),
            ("request.path.startsWith(\"/debug\")", false),
        ] {
            let (policy, problems) = compile(&format!("{{bypass: '{rule}'}}"));
            assert!(policy.is_some(), "{rule}: {problems:?}");
            let found = problems.iter().any(|problem| problem.contains("counts as true for requests without it"));
            assert_eq!(found, warned, "{rule}: {problems:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_yaml::from_str::<CacheConfig>("{ttl: 1s, tll: 2s}").is_err());
        assert!(serde_yaml::from_str::<CacheConfig>("{ttl: 1s, query: some}").is_err());
    }

    #[test]
    fn installing_only_sets_an_option() {
        let mut builder = PlanBuilder::new();
        builder.add(Arc::new(compile("ttl: 1s").0.unwrap()));
        let plan = builder.finish();
        assert!(plan.options.cache.is_some() && plan.steps.is_empty());
        assert_eq!(plan.names, [(Stage::Shape, "cache")]);
    }
}
