use http::header::{AUTHORIZATION, CACHE_CONTROL};
use serde_json::json;

use super::*;
use crate::exchange::Identity;
use crate::policy::testing::{compile, complaint, plan};

fn checked(config: serde_json::Value) -> ExternalAuth {
    compile::<ExternalAuth>(config).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn answer(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn an_answer_says_only_what_it_was_allowed_to() {
    let policy = checked(json!({ "url": "http://a/check", "upstream_headers": ["X-User"], "client_headers": ["Set-Cookie"] }));
    let fields =
        answer(&[("x-user", "ada"), ("x-user", "bob"), ("x-auth-subject", "root"), ("set-cookie", "a=1"), ("connection", "x")]);
    let Some(Decision::Allowed { upstream, client }) = Decision::read(StatusCode::NO_CONTENT, &fields, &policy.rules) else {
        panic!()
    };
    assert_eq!(
        upstream.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect::<Vec<_>>(),
        ["x-user=ada", "x-user=bob"]
    );
    assert_eq!(client.len(), 1);
    let fields = answer(&[("www-authenticate", "Basic"), ("location", "/login"), ("x-user", "ada")]);
    let Some(Decision::Denied { status, headers }) = Decision::read(StatusCode::UNAUTHORIZED, &fields, &policy.rules) else {
        panic!()
    };
    assert_eq!((status.as_u16(), headers.len()), (401, 1));
    for failure in [100, 302, 304, 404, 429, 500, 503] {
        assert!(Decision::read(StatusCode::from_u16(failure).unwrap(), &fields, &policy.rules).is_none(), "{failure}");
    }
    let long = answer(&[("x-user", &"a".repeat(17_000))]);
    assert!(Decision::read(StatusCode::OK, &long, &policy.rules).is_none());
}

#[test]
fn what_the_service_sees_makes_the_key() {
    let config = |ignore: serde_json::Value| json!({ "url": "http://a/", "cache": { "ttl": "10s", "ignore": ignore } });
    let head = |method: &str, target: &str, token: &str| {
        RequestHead::build(method, target, &[("Host", "h"), ("authorization", token), ("x-other", "1")])
    };
    let key = |policy: &ExternalAuth, head: &RequestHead, exchange: &Exchange| {
        policy.memory.as_ref().unwrap().key(head, exchange, &policy.rules.request_headers)
    };
    let all = checked(config(json!([])));
    let exchange = Exchange::for_tests();
    let base = key(&all, &head("GET", "/a?b", "t"), &exchange);
    assert_eq!(
        base,
        key(&all, &RequestHead::build("GET", "/a?b", &[("host", "h"), ("Authorization", "t"), ("x-other", "2")]), &exchange)
    );
    for other in [
        head("POST", "/a?b", "t"),
        head("GET", "/b?b", "t"),
        head("GET", "/a?c", "t"),
        head("GET", "/a", "t"),
        head("GET", "/a?b", "u"),
    ] {
        assert_ne!(base, key(&all, &other, &exchange));
    }
    let mut elsewhere = Exchange::for_tests();
    elsewhere.client = "10.0.0.1".parse().unwrap();
    assert_ne!(base, key(&all, &head("GET", "/a?b", "t"), &elsewhere));
    let mut known = Exchange::for_tests();
    known.identity = Some(Arc::new(Identity { consumer: Some("acme".into()), ..Identity::default() }));
    assert_ne!(base, key(&all, &head("GET", "/a?b", "t"), &known));
    let few = checked(config(json!(["method", "path", "client"])));
    assert_eq!(key(&few, &head("GET", "/a?b", "t"), &exchange), key(&few, &head("PUT", "/x", "t"), &elsewhere));
    assert_ne!(key(&few, &head("GET", "/a?b", "t"), &exchange), key(&few, &head("GET", "/a?b", "u"), &exchange));
}

#[test]
fn an_answer_may_ask_not_to_be_remembered() {
    let said = |line: &'static str| {
        let mut map = HeaderMap::new();
        map.insert(CACHE_CONTROL, HeaderValue::from_static(line));
        forbids_storing(&map)
    };
    assert!(said("no-store") && said("private, No-Store") && said("max-age=0"));
    assert!(!said("max-age=60") && !forbids_storing(&HeaderMap::new()));
}

#[test]
fn the_service_hears_who_it_is_from_nobody_but_the_gateway() {
    let policy = checked(json!({ "url": "http://a/", "request_headers": ["Authorization", "X-Consumer-Name", "x-auth-scopes"] }));
    let sent =
        [("host", "h:8080"), ("authorization", "t"), ("x-consumer-name", "root"), ("x-auth-scopes", "all"), ("cookie", "c")];
    let head = RequestHead::build("DELETE", "/a/b?c=1", &sent);
    let mut exchange = Exchange::for_tests();
    exchange.identity =
        Some(Arc::new(Identity { consumer: Some("acme".into()), method: "jwt", subject: "ada".into(), ..Identity::default() }));
    let fields = policy.fields(&head, &exchange);
    let text = |name: &str| fields.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default();
    assert_eq!((text("x-consumer-name"), text("x-auth-subject"), text("x-auth-scopes")), ("acme", "ada", ""));
    assert_eq!((text("x-forwarded-method"), text("x-forwarded-uri"), text("x-forwarded-host")), ("DELETE", "/a/b?c=1", "h:8080"));
    assert_eq!((text("x-forwarded-for"), text("x-forwarded-proto"), text("x-request-id")), ("192.0.2.1", "http", "test-request"));
    assert_eq!(fields.get(AUTHORIZATION).unwrap(), "t");
    assert!(fields.get("cookie").is_none());
}

#[test]
fn a_body_is_kept_before_the_question() {
    let plan = plan(checked(json!({ "url": "http://a/", "body": "1KiB" })));
    assert_eq!(plan.bodies().count(), 1);
    assert_eq!(plan.steps.len(), 2);
    assert!(matches!(plan.steps[1].work, crate::policy::Work::Wait(_)));
}

#[test]
fn nothing_is_guessed() {
    for (config, part) in [
        (json!({ "url": "ftp://a/" }), "neither http nor https"),
        (json!({ "url": "/check" }), "cannot be read"),
        (json!({ "url": "http://u:p@a/" }), "credentials"),
        (json!({ "url": "http://a/#x" }), "fragment"),
        (json!({ "url": "http://a/", "upstream_headers": ["Content-Length"] }), "how a message travels"),
        (json!({ "url": "http://a/", "client_headers": ["Transfer-Encoding"] }), "how a message travels"),
        (json!({ "url": "http://a/", "upstream_headers": ["X-Forwarded-For"] }), "gateway's own"),
        (json!({ "url": "http://a/", "upstream_headers": ["a b"] }), "no name"),
        (json!({ "url": "http://a/", "deny_statuses": [200] }), "300 to 499"),
        (json!({ "url": "http://a/", "timeout": "1h" }), "1ms to 30s"),
        (json!({ "url": "http://a/", "body": "2MiB" }), "1 byte to 1MiB"),
        (json!({ "url": "http://a/", "body": "1KiB", "cache": { "ttl": "1s" } }), "cannot be remembered"),
        (json!({ "url": "http://a/", "cache": { "ttl": "2h" } }), "1ms to 1h"),
        (json!({ "url": "https://a/", "ca": "no/such/file" }), "cannot read"),
    ] {
        let said = complaint::<ExternalAuth>(config.clone());
        assert!(said.contains(part), "{config}: {said}");
    }
}
