//! `cache:` on a route: what people write, and what it compiles to.
//!
//! Not in here: the decisions for one request or response and the store ([`crate::cache`]), which belongs to the process and not to
//! a route.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cache::CachePolicy;
use crate::cache::policy::QueryKey;
use crate::policy::{Compile, PlanBuilder, Policy, Stage};
use crate::problem::{Place, Problem};
use crate::value::{Period, Size, Spanned};

/// A longer lifetime than this is a mistake more often than a wish; purging by hand is the only way out of it.
const LONGEST_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Every key header multiplies the entries of a route.
const MOST_KEY_HEADERS: usize = 16;
const DEFAULT_MAX_BODY: u64 = 1024 * 1024;

/// The statuses that RFC 9110, section 15.1, calls heuristically cacheable, without those that say something about this one request
/// or about the backend's state rather than about the resource (405, 414, 501), and without 206, which is a part of an answer.
const DEFAULT_STATUSES: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Keeps answers to GET requests in memory and gives them to the next client that asks for the same, GET or HEAD. Requests with
/// credentials never use the cache: with `Authorization`, `Cookie`, `Signature`, one of the usual fields for keys and tokens
/// (`X-API-Key`, `Api-Key`, `X-Auth-Token` and the like), anything that an `authn` of this file reads, or a proved identity. Fields that
/// `request_headers` or `external_auth` make for each client are part of the key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// How long an answer is fresh when the backend does not say; also the most it may say. `Cache-Control: s-maxage` or `max-age`
    /// and `Expires` shorten it, never lengthen it; an `Age` that the answer arrives with is subtracted. More than 0, at most `30d`.
    pub ttl: Spanned<Period>,
    /// The longest body that is kept; longer ones are passed on uncached. At least 1 byte. Default: `1MiB`.
    #[serde(default = "default_max_body")]
    pub max_body: Spanned<Size>,
    /// Request headers whose values, as the backend sees them, are part of the key, besides those that the backend's `Vary` names. A
    /// field for keys or tokens that is named here does not keep a request from the cache: each value has its own entry. At most 16.
    /// Default: none.
    #[serde(default)]
    pub key_headers: Vec<Spanned<String>>,
    /// Whether the query string is part of the key. `none` is for backends that do not look at it. Default: `all`.
    #[serde(default)]
    pub query: QueryKey,
    /// The statuses that may be kept, 200 to 599 without 206 and 304. Default: 200, 203, 204, 300, 301, 308, 404, 410.
    #[serde(default)]
    pub statuses: Option<Vec<Spanned<u16>>>,
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
        let ttl = check_ttl(&config.ttl, cx);
        let max_body = check_max_body(&config.max_body, cx);
        let key_headers = check_key_headers(&config.key_headers, cx);
        let statuses = check_statuses(config.statuses.as_deref(), cx);
        Some(CachePolicy {
            ttl: ttl?,
            max_body: max_body?,
            key_headers: key_headers?,
            handed: Box::default(),
            query: config.query,
            statuses: statuses?,
        })
    }

    /// The road itself asks the cache, between the last step and the backend; there is no step to install.
    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.options().cache = Some(self);
    }
}

fn check_ttl(ttl: &Spanned<Period>, cx: &mut Compile<'_>) -> Option<Duration> {
    let Period(period) = ttl.value;
    if period.is_zero() {
        let problem = Problem::error(ttl.place, "a ttl of 0 keeps nothing");
        cx.problems.push(problem.hint("write `cache: false` to turn an inherited cache off"));
        return None;
    }
    if period > LONGEST_TTL {
        cx.problems.push(Problem::error(ttl.place, "the ttl is longer than 30 days").hint("write 30d or less"));
        return None;
    }
    Some(period)
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
        let (policy, problems) = compile("ttl: 30s");
        let policy = policy.unwrap();
        assert!(problems.is_empty());
        assert_eq!((policy.ttl, policy.max_body, policy.query), (Duration::from_secs(30), 1 << 20, QueryKey::All));
        assert!(policy.keeps_status(200) && policy.keeps_status(404) && !policy.keeps_status(206) && !policy.keeps_status(500));
        assert!(policy.statuses.is_sorted());
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
