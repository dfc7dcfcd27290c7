//! `rate_limit`: how many requests a client may make, per consumer, subject, API key, address, header or for all together.
//!
//! Every answer carries the `RateLimit-Policy` and `RateLimit` fields of draft-ietf-httpapi-ratelimit-headers-11 (May 2026): the first
//! names all limits, the second tells how much is left of the one nearest to biting, or of the one that bit. `r` is how many requests
//! would be admitted at once; `t` is the seconds until the bucket is full, so that `r / t` suggests no more than the limit's own rate,
//! and once `r` is 0 the seconds until the next request is admitted, the same as `Retry-After` on a refusal. A backend's own fields
//! are kept beside these (section 7.2 of the draft).
//!
//! With several limits a request is admitted by all or counted by none: all are asked first, then all are taken from. When another
//! request of the same client comes in between and takes the last of one limit, what was already taken from the others is given back;
//! for that moment, some microseconds, they may refuse a request that they would have admitted. They never admit too many.
//!
//! Deliberately not here: limits that count over several gateways, and limits by cost or by bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use smallvec::SmallVec;

use super::by::By;
use super::store::{DEFAULT_MAX_KEYS, Key, MOST_MAX_KEYS, Meter, Reading, Store};
use super::{Gcra, nanoseconds};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, HeaderEdit, RequestHead};
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::value::{OneOrMany, Rate, Spanned};

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// One limit.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// What the limit is called in the `RateLimit` fields, and what its state is kept under over reloads: 1 to 64 letters, digits, `_`,
    /// `-`, `.`. Default: the word under `by`, with a number if it is used twice.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// Whose requests are counted together: `client_address` (the default), `consumer`, `subject`, `api_key`, `route` (everybody's), or
    /// `{ header: NAME }`. A request that has no such thing (an anonymous one, a missing header) is counted by its client address.
    #[serde(default)]
    pub by: By,
    /// How many requests per period: `1000/minute`. At most 1000000000 per period, and a period of at most 366 days.
    pub limit: Spanned<Rate>,
    /// How many requests may come at once: the bucket's capacity. Default: the limit's count. 0 admits one at a time.
    #[serde(default)]
    pub burst: Option<u32>,
    /// How many clients are remembered at a time, 1 to 100000000. Default: 1000000. A change forgets what was counted.
    #[serde(default)]
    pub max_keys: Option<Spanned<u64>>,
}

/// The compiled policy.
pub struct RateLimit {
    limits: Vec<Limit>,
    /// `RateLimit-Policy`, which is the same on every answer.
    policies: HeaderValue,
}

struct Limit {
    by: By,
    meter: Meter,
    /// `"name";r=`
    prefix: Box<str>,
}

struct Outcome {
    /// Index of the limit to tell of.
    limit: usize,
    reading: Reading,
}

impl RateLimit {
    fn decide(&self, head: &RequestHead, exchange: &Exchange, now: u64) -> Outcome {
        if let [limit] = self.limits.as_slice() {
            return Outcome { limit: 0, reading: limit.meter.take(limit.by.key(head, exchange), now) };
        }
        let keys: SmallVec<[Key; 4]> = self.limits.iter().map(|limit| limit.by.key(head, exchange)).collect();
        let asked = self.limits.iter().zip(&keys).map(|(limit, key)| limit.meter.peek(*key, now)).enumerate();
        if let Some((limit, reading)) =
            asked.filter(|(_, reading)| !reading.admitted).max_by_key(|(_, reading)| reading.quota.next)
        {
            return Outcome { limit, reading };
        }
        let mut nearest: Option<Outcome> = None;
        for (index, (limit, key)) in self.limits.iter().zip(&keys).enumerate() {
            let reading = limit.meter.take(*key, now);
            if !reading.admitted {
                // Another request took the last one since we asked.
                self.limits.iter().zip(&keys).take(index).for_each(|(limit, key)| limit.meter.refund(*key, now));
                return Outcome { limit: index, reading };
            }
            if nearest.as_ref().is_none_or(|nearest| reading.quota.remaining < nearest.reading.quota.remaining) {
                nearest = Some(Outcome { limit: index, reading });
            }
        }
        // `compile` refuses an empty list; without limits there is nothing to admit by.
        let nothing = super::Quota { remaining: 0, next: 0, full: 0 };
        nearest.unwrap_or(Outcome { limit: 0, reading: Reading { admitted: false, quota: nothing } })
    }

    fn field(&self, outcome: &Outcome) -> Option<HeaderValue> {
        let prefix = &self.limits.get(outcome.limit)?.prefix;
        let quota = outcome.reading.quota;
        let wait = if quota.remaining == 0 { quota.next } else { quota.full };
        let mut text: SmallVec<[u8; 128]> = SmallVec::from_slice(prefix.as_bytes());
        text.extend_from_slice(itoa::Buffer::new().format(quota.remaining).as_bytes());
        text.extend_from_slice(b";t=");
        text.extend_from_slice(itoa::Buffer::new().format(wait.div_ceil(1_000_000_000).max(1)).as_bytes());
        HeaderValue::from_bytes(&text).ok()
    }
}

impl OnRequest for RateLimit {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        // A request without a body is judged by when it came. One with a body may have taken its time since: by when it was complete.
        let at = if head.body == BodyFraming::None { exchange.started } else { Instant::now() };
        let outcome = self.decide(head, exchange, nanoseconds(at));
        exchange.to_client.push(HeaderEdit::Add(RATE_LIMIT_POLICY.clone(), self.policies.clone()));
        if let Some(field) = self.field(&outcome) {
            exchange.to_client.push(HeaderEdit::Add(RATE_LIMIT.clone(), field));
        }
        if outcome.reading.admitted {
            return Flow::Continue(());
        }
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, "rate_limited", "Too many requests. Try again later.")
            .retry_after(Duration::from_nanos(outcome.reading.quota.next))
            .refuse()
    }
}

impl Policy for RateLimit {
    const NAME: &'static str = "rate_limit";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Limits how many requests a client may make per period (429).";
    type Config = OneOrMany<LimitConfig>;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let OneOrMany(configs) = config;
        if configs.is_empty() {
            cx.problems
                .push(Problem::error(cx.place, "a list of limits without any limit").hint("write `false` to limit nothing"));
            return None;
        }
        let mut names: Vec<String> = Vec::new();
        let mut policies = String::new();
        let mut limits = Vec::new();
        for config in configs {
            let name = name(config, &names, cx);
            let gcra = gcra(&config.limit, config.burst, cx);
            let max_keys = max_keys(config.max_keys.as_ref(), cx);
            let (Some(name), Some(gcra), Some(max_keys)) = (name, gcra, max_keys) else { continue };
            if !policies.is_empty() {
                policies.push_str(", ");
            }
            policies.push_str(&format!("\"{name}\";q={}", config.limit.count));
            // The window is in whole seconds; it is optional.
            if config.limit.per.subsec_nanos() == 0 {
                policies.push_str(&format!(";w={}", config.limit.per.as_secs()));
            }
            // For everybody there is but one bucket.
            let max_keys = if config.by == By::Route { 1 } else { max_keys };
            let shelf = format!("{}/{}/{name}/{}/{max_keys}", cx.scope, Self::NAME, config.by.word());
            let store = cx.ledger.keep(&shelf, || Store::new(max_keys));
            let prefix = format!("\"{name}\";r=").into();
            limits.push(Limit { by: config.by.clone(), meter: Meter::new(store, gcra), prefix });
            names.push(name);
        }
        let policies = HeaderValue::try_from(policies).ok()?;
        (limits.len() == configs.len()).then_some(RateLimit { limits, policies })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

/// The checked rate, or a problem at its place.
pub(crate) fn gcra(limit: &Spanned<Rate>, burst: Option<u32>, cx: &mut Compile<'_>) -> Option<Gcra> {
    Gcra::new(limit.count, limit.per, burst).map_err(|error| cx.problems.push(Problem::error(limit.place, error))).ok()
}

pub(crate) fn max_keys(config: Option<&Spanned<u64>>, cx: &mut Compile<'_>) -> Option<usize> {
    let Some(config) = config else { return Some(DEFAULT_MAX_KEYS) };
    let wanted = usize::try_from(config.value).ok().filter(|wanted| (1..=MOST_MAX_KEYS).contains(wanted));
    if wanted.is_none() {
        cx.problems.push(Problem::error(config.place, format!("max_keys is between 1 and {MOST_MAX_KEYS}")));
    }
    wanted
}

fn name(config: &LimitConfig, taken: &[String], cx: &mut Compile<'_>) -> Option<String> {
    let Some(given) = &config.name else {
        let word = config.by.word();
        let numbered = (2..).map(|number| format!("{word}-{number}"));
        return std::iter::once(word.to_owned()).chain(numbered).find(|name| !taken.contains(name));
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !(1..=64).contains(&given.len()) || !given.bytes().all(legal) {
        let message = "a limit's name is 1 to 64 letters, digits, `_`, `-` or `.`";
        cx.problems.push(Problem::error(given.place, message));
        return None;
    }
    if taken.contains(&given.value) {
        cx.problems.push(Problem::error(given.place, format!("two limits are called `{}`", given.value)));
        return None;
    }
    Some(given.value.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Identity;
    use crate::ledger::Ledger;
    use crate::policy::testing::{compile, compile_with, complaint};

    fn head() -> RequestHead {
        RequestHead::build("GET", "/", &[("host", "x")])
    }

    fn from(address: &str) -> Exchange {
        let mut exchange = Exchange::for_tests();
        exchange.client = address.parse().unwrap();
        exchange
    }

    fn identified(method: &'static str, consumer: Option<&str>, credential: &str, subject: &str) -> Exchange {
        let mut exchange = Exchange::for_tests();
        exchange.identity = Some(Arc::new(Identity {
            consumer: consumer.map(Into::into),
            credential: credential.into(),
            method,
            subject: subject.into(),
            scopes: vec![],
            groups: vec![],
            ..Identity::default()
        }));
        exchange
    }

    fn run(policy: &RateLimit, exchange: &mut Exchange) -> Option<Box<Reply>> {
        policy.on_request(&head(), exchange).break_value()
    }

    fn fields(exchange: &Exchange) -> Vec<(String, String)> {
        let text = |edit: &HeaderEdit| match edit {
            HeaderEdit::Add(name, value) => (name.to_string(), value.to_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        };
        exchange.to_client.iter().map(text).collect()
    }

    #[test]
    fn admits_the_limit_and_tells_on_every_answer() {
        let policy = compile::<RateLimit>(json!({ "limit": "3/hour", "name": "hourly" })).unwrap();
        for left in [2, 1] {
            let mut exchange = from("192.0.2.1");
            assert!(run(&policy, &mut exchange).is_none());
            let fields = fields(&exchange);
            assert_eq!(fields[0], ("ratelimit-policy".into(), "\"hourly\";q=3;w=3600".into()));
            assert_eq!(fields[1].1, format!("\"hourly\";r={left};t={}", (3 - left) * 1200));
        }
        assert!(run(&policy, &mut from("192.0.2.1")).is_none());
        let mut exchange = from("192.0.2.1");
        let reply = run(&policy, &mut exchange).unwrap();
        assert_eq!((reply.status, reply.policy, reply.reason), (StatusCode::TOO_MANY_REQUESTS, "rate_limit", "rate_limited"));
        assert_eq!(reply.headers[0], (http::header::RETRY_AFTER, HeaderValue::from(1200)));
        assert_eq!(fields(&exchange)[1].1, "\"hourly\";r=0;t=1200");
        assert!(run(&policy, &mut from("192.0.2.2")).is_none());
    }

    /// RFC 9651, section 4.2: a strict reader of the few forms that are written here.
    fn parse_list(text: &str) -> Vec<(String, Vec<(String, u64)>)> {
        text.split(", ")
            .map(|item| {
                let mut parts = item.split(';');
                let name = parts.next().unwrap().strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                assert!(name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'));
                let parameter = |part: &str| {
                    let (key, value) = part.split_once('=').unwrap();
                    assert!(key.bytes().all(|byte| byte.is_ascii_lowercase()) && value.len() <= 15);
                    (key.to_owned(), value.parse().unwrap())
                };
                (name.to_owned(), parts.map(parameter).collect())
            })
            .collect()
    }

    #[test]
    fn fields_are_structured_fields_however_large_the_limit() {
        for limit in [
            json!([{ "limit": "1000000000/s", "burst": 4294967295u32 }, { "limit": "1/300d", "burst": 0 }]),
            json!([{ "limit": "5/10s" }, { "limit": "5/10s" }, { "limit": "7/s", "by": { "header": "X-Tenant" } }]),
        ] {
            let policy = compile::<RateLimit>(limit).unwrap();
            let mut exchange = from("192.0.2.1");
            assert!(run(&policy, &mut exchange).is_none());
            let fields = fields(&exchange);
            let policies = parse_list(&fields[0].1);
            assert_eq!(policies.len(), policy.limits.len());
            let told = parse_list(&fields[1].1);
            assert_eq!(told.len(), 1);
            assert!(policies.iter().any(|(name, _)| *name == told[0].0));
            assert!(told[0].1.iter().any(|(key, value)| key == "t" && *value >= 1));
        }
    }

    #[test]
    fn two_limits_tell_of_the_nearer_and_count_together() {
        let limits = json!([
            { "name": "wide", "limit": "100/hour" },
            { "name": "narrow", "limit": "2/day", "by": { "header": "x-tenant" } },
        ]);
        let policy = compile::<RateLimit>(limits).unwrap();
        let ask = |tenant: &str| {
            let mut exchange = from("192.0.2.1");
            let flow = policy.on_request(&RequestHead::build("GET", "/", &[("X-Tenant", tenant)]), &mut exchange);
            (flow.is_continue(), parse_list(&fields(&exchange)[1].1))
        };
        assert!(ask("a").0);
        assert_eq!(ask("a").1[0].0, "narrow");
        for _ in 0..500 {
            let (admitted, told) = ask("a");
            assert!(!admitted);
            assert_eq!((told[0].0.as_str(), told[0].1[0].1), ("narrow", 0));
        }
        // What `narrow` refused was not counted by `wide`: 98 others are left.
        let admitted = (0..200).filter(|n| ask(&format!("tenant-{n}")).0).count();
        assert_eq!(admitted, 98);
        assert_eq!(ask("new").1[0].0, "wide");
        // And what `wide` refused was not counted by `narrow`.
        assert_eq!(policy.limits[1].meter.peek(Key::text(b"new"), u64::MAX / 4).quota.remaining, 2);
    }

    #[test]
    fn each_kind_of_client_has_its_own_bucket() {
        let refused = |by: serde_json::Value, first: &mut Exchange, second: &mut Exchange| {
            let policy = compile::<RateLimit>(json!({ "by": by, "limit": "1/hour" })).unwrap();
            assert!(run(&policy, first).is_none());
            run(&policy, second).is_some()
        };
        let who = |subject: &str| identified("jwt", Some("acme"), "https://id", subject);
        assert!(refused(json!("consumer"), &mut who("a"), &mut who("b")));
        assert!(!refused(json!("subject"), &mut who("a"), &mut who("b")));
        assert!(!refused(json!("subject"), &mut who("a"), &mut identified("jwt", Some("acme"), "https://other", "a")));
        assert!(refused(json!("subject"), &mut who("a"), &mut who("a")));
        // Without the thing: by address.
        assert!(refused(json!("consumer"), &mut from("192.0.2.1"), &mut from("192.0.2.1")));
        assert!(!refused(json!("consumer"), &mut from("192.0.2.1"), &mut from("192.0.2.9")));
        assert!(!refused(json!("consumer"), &mut from("192.0.2.1"), &mut who("a")));
        assert!(refused(json!("route"), &mut from("192.0.2.1"), &mut who("a")));
        let key = |id: &str| identified("api_key", Some("acme"), id, "acme");
        assert!(!refused(json!("api_key"), &mut key("k1"), &mut key("k2")));
        assert!(refused(json!("api_key"), &mut key("k1"), &mut key("k1")));
        assert!(refused(json!("subject"), &mut key("k1"), &mut key("k2")));
        assert!(refused(json!("header:X-Tenant"), &mut from("192.0.2.1"), &mut from("192.0.2.1")));
    }

    #[test]
    fn a_burst_of_zero_admits_one_at_a_time() {
        let policy = compile::<RateLimit>(json!({ "limit": "1000/day", "burst": 0 })).unwrap();
        assert!(run(&policy, &mut from("192.0.2.1")).is_none());
        assert!(run(&policy, &mut from("192.0.2.1")).is_some());
    }

    #[test]
    fn a_reload_keeps_the_state_of_its_scope() {
        let ledger = Ledger::default();
        let before = compile_with::<RateLimit>(&ledger, "route:/a", json!({ "limit": "4/hour" })).unwrap();
        (0..3).for_each(|_| assert!(run(&before, &mut from("192.0.2.1")).is_none()));
        let after = compile_with::<RateLimit>(&ledger, "route:/a", json!({ "limit": "6/hour" })).unwrap();
        let other = compile_with::<RateLimit>(&ledger, "route:/b", json!({ "limit": "6/hour" })).unwrap();
        let admitted = |policy: &RateLimit| (0..10).filter(|_| run(policy, &mut from("192.0.2.1")).is_none()).count();
        assert_eq!((admitted(&after), admitted(&other)), (3, 6));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(complaint::<RateLimit>(json!([])).contains("without any limit"));
        assert!(complaint::<RateLimit>(json!({ "limit": "2000000000/s" })).contains("1000000000"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "name": "a\"b" })).contains("name"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "max_keys": 0 })).contains("max_keys"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "by": "consumers" })).contains("did you mean `consumer`"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "by": "header:a b" })).contains("header name"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "by": { "cookie": "a" } })).contains("header: NAME"));
        assert!(complaint::<RateLimit>(json!({ "limit": "1/day", "burst": 4294967295u32 })).contains("ten years"));
        let twice = json!([{ "limit": "1/s", "name": "a" }, { "limit": "2/s", "name": "a" }]);
        assert!(complaint::<RateLimit>(twice).contains("two limits"));
    }
}
