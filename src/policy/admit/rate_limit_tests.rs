//! Unit tests of `rate_limit`.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::limit::Counter;
use super::rate_limit::RateLimit;
use crate::exchange::Exchange;
use crate::exchange::Identity;
use crate::head::{HeaderEdit, RequestHead};
use crate::ledger::Ledger;
use crate::limits::Key;
use crate::policy::OnRequest;
use crate::policy::testing::{compile, compile_with, complaint};
use crate::reply::Reply;

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
    let Counter::Local(meter) = &policy.limits[1].only_tier().unwrap().counter else { panic!("it is not shared") };
    let counted = meter.peek(Key::text(b"new"), 1, u64::MAX / 4).quota.remaining;
    assert_eq!(counted, 2);
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
    assert!(complaint::<RateLimit>(json!({ "limit": "1/s", "by": { "body": "a" } })).contains("header:"));
    assert!(complaint::<RateLimit>(json!({ "limit": "1/day", "burst": 4294967295u32 })).contains("ten years"));
    let twice = json!([{ "limit": "1/s", "name": "a" }, { "limit": "2/s", "name": "a" }]);
    assert!(complaint::<RateLimit>(twice).contains("two limits"));
}
