use std::ops::ControlFlow;

use http::StatusCode;
use serde_json::json;

use super::*;
use crate::consumers::Consumers;
use crate::exchange::Identity;
use crate::ledger::Ledger;
use crate::problem::Problems;
use crate::reply::Reply;

fn compile(json: serde_json::Value) -> (Option<Authz>, Problems) {
    let consumers = serde_json::json!([{ "name": "acme" }, { "name": "globex" }]);
    let consumers: Vec<_> = serde_json::from_value(consumers).unwrap();
    let mut problems = Problems::default();
    let consumers =
        Arc::new(Consumers::compile(&consumers, crate::policy::authn::METHODS, std::path::Path::new("."), &mut problems));
    let policy = Authz::compile(
        &serde_json::from_value(json).unwrap(),
        &mut crate::policy::testing::context(&mut problems, "test", &Ledger::default(), &consumers, std::path::Path::new(".")),
    );
    (policy, problems)
}

fn identity(consumer: Option<&str>, scopes: &[&str], groups: &[&str]) -> Identity {
    Identity {
        consumer: consumer.map(Arc::from),
        credential: "c".into(),
        method: "jwt",
        subject: "s".into(),
        scopes: scopes.iter().map(|scope| Arc::from(*scope)).collect(),
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        ..Identity::default()
    }
}

fn judged(policy: &Authz, identity: Option<Identity>) -> Result<(), Box<Reply>> {
    asked(policy, "GET", identity)
}

fn asked(policy: &Authz, method: &str, identity: Option<Identity>) -> Result<(), Box<Reply>> {
    let mut exchange = Exchange::for_tests();
    exchange.identity = identity.map(Arc::new);
    match policy.on_request(&RequestHead::build(method, "/orders/7", &[("x-debug", "1")]), &mut exchange) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(reply) => Err(reply),
    }
}

fn reason(policy: &Authz, identity: Option<Identity>) -> &'static str {
    judged(policy, identity).map_or_else(|reply| reply.reason, |()| "")
}

#[test]
fn scopes_are_all_needed() {
    let policy = compile(serde_json::json!({ "scopes": ["a", "b"] })).0.unwrap();
    assert_eq!(reason(&policy, Some(identity(None, &["b", "c", "a"], &[]))), "");
    let reply = judged(&policy, Some(identity(None, &["a", "bb"], &[]))).unwrap_err();
    assert_eq!((reply.status, reply.reason), (StatusCode::FORBIDDEN, "insufficient_scope"));
    assert_eq!(reply.headers[0].1, "Bearer error=\"insufficient_scope\", scope=\"a b\"");
    let keyed = Identity { method: "api_key", ..identity(None, &[], &[]) };
    assert!(judged(&policy, Some(keyed)).unwrap_err().headers.is_empty(), "Bearer challenges are for Bearer tokens");
}

#[test]
fn one_of_any_scope_is_enough() {
    let policy = compile(serde_json::json!({ "any_scope": ["a", "b"] })).0.unwrap();
    assert_eq!(reason(&policy, Some(identity(None, &["b"], &[]))), "");
    let reply = judged(&policy, Some(identity(None, &["c"], &[]))).unwrap_err();
    assert_eq!(reply.headers[0].1, "Bearer error=\"insufficient_scope\"");
}

#[test]
fn every_condition_must_hold() {
    let config = serde_json::json!({ "consumers": ["acme"], "groups": ["gold", "silver"], "scopes": ["a"] });
    let policy = compile(config).0.unwrap();
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &["a"], &["silver"]))), "");
    assert_eq!(reason(&policy, Some(identity(Some("globex"), &["a"], &["silver"]))), "consumer_not_allowed");
    assert_eq!(reason(&policy, Some(identity(None, &["a"], &["silver"]))), "consumer_not_allowed");
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &["a"], &["bronze"]))), "group_not_allowed");
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &["A"], &["gold"]))), "insufficient_scope");
    assert_eq!(reason(&policy, None), "anonymous");
}

#[test]
fn denied_consumers_come_first() {
    let policy = compile(serde_json::json!({ "deny_consumers": ["acme"] })).0.unwrap();
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &[], &[]))), "consumer_denied");
    assert_eq!(reason(&policy, Some(identity(Some("globex"), &[], &[]))), "");
    assert_eq!(reason(&policy, Some(identity(None, &[], &[]))), "");
    assert_eq!(reason(&policy, None), "anonymous", "a list of who may not is no invitation to everyone else");
}

#[test]
fn nothing_is_guessed() {
    for json in [
        serde_json::json!({}),
        serde_json::json!({ "consumers": [] }),
        serde_json::json!({ "scopes": ["a b"] }),
        serde_json::json!({ "any_scope": [""] }),
        serde_json::json!({ "deny_consumers": ["nobody-i-know"] }),
    ] {
        let (policy, problems) = compile(json.clone());
        assert!(policy.is_none() && problems.has_errors(), "{json}");
    }
    let (_, problems) = compile(serde_json::json!({ "consumers": ["acmee"] }));
    assert_eq!(problems.iter().next().unwrap().hint.as_deref(), Some("did you mean `acme`?"));
}

fn with_claims(claims: serde_json::Value) -> Option<Identity> {
    Some(Identity { claims: Some(Arc::new(claims)), ..identity(None, &["a"], &["staff"]) })
}

#[test]
fn roles_and_claims_come_from_the_token() {
    let policy = compile(json!({
        "roles": ["editor", "admin"], "roles_claim": "realm_access.roles",
        "claims": { "email_verified": true, "department": ["sales", "ops"] },
    }));
    let policy = policy.0.unwrap();
    let claims = |roles: serde_json::Value, department: &str| {
        with_claims(json!({ "realm_access": { "roles": roles }, "email_verified": true, "department": department }))
    };
    assert_eq!(reason(&policy, claims(json!(["viewer", "admin"]), "ops")), "");
    assert_eq!(reason(&policy, claims(json!("editor"), "ops")), "");
    assert_eq!(reason(&policy, claims(json!(["viewer"]), "ops")), "role_not_allowed");
    assert_eq!(reason(&policy, claims(json!(["admin"]), "legal")), "claim_not_allowed");
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &[], &[]))), "role_not_allowed", "an API key has no claims");
    assert_eq!(reason(&policy, None), "anonymous");
}

#[test]
fn groups_can_be_denied() {
    let policy = compile(json!({ "deny_groups": ["suspended"] })).0.unwrap();
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &[], &["gold", "suspended"]))), "group_denied");
    assert_eq!(reason(&policy, Some(identity(Some("acme"), &[], &["gold"]))), "");
}

#[test]
fn conditions_may_differ_by_method() {
    let policy = compile(json!([
        { "groups": ["staff"] },
        { "methods": ["GET"], "scopes": ["orders:read"] },
        { "methods": ["POST", "PUT"], "scopes": ["orders:write"] },
    ]));
    let policy = policy.0.unwrap();
    let asked = |method: &str, scopes: &[&str], groups: &[&str]| {
        asked(&policy, method, Some(identity(None, scopes, groups))).map_or_else(|reply| reply.reason, |()| "")
    };
    assert_eq!(asked("GET", &["orders:read"], &["staff"]), "");
    assert_eq!(asked("GET", &["orders:write"], &["staff"]), "insufficient_scope");
    assert_eq!(asked("HEAD", &["orders:write"], &["staff"]), "insufficient_scope", "HEAD is no way around GET");
    assert_eq!(asked("POST", &["orders:read"], &["staff"]), "insufficient_scope");
    assert_eq!(asked("PUT", &["orders:write"], &["staff"]), "");
    assert_eq!(asked("DELETE", &[], &["staff"]), "", "the first entry is about every method");
    assert_eq!(asked("DELETE", &[], &[]), "group_not_allowed");
}

#[test]
fn a_method_that_no_entry_is_about_is_refused() {
    let policy = compile(json!([
        { "methods": ["POST"], "groups": ["staff"] },
        { "methods": ["GET", "OPTIONS"], "anyone": true },
    ]));
    let policy = policy.0.unwrap();
    let asked = |method: &str| {
        let staff = identity(None, &[], &["staff"]);
        asked(&policy, method, Some(staff)).map_or_else(|reply| reply.reason, |()| "")
    };
    for method in ["POST", "GET", "HEAD", "OPTIONS"] {
        assert_eq!(asked(method), "", "{method}");
    }
    for method in ["PUT", "DELETE", "PATCH", "PURGE", "post", "pOST", "gET", "Options", "CONNECT", "M-SEARCH"] {
        assert_eq!(asked(method), "method_not_covered", "{method}");
    }
    for (wrong, said) in [
        (json!({ "anyone": true }), "would check nothing"),
        (json!({ "methods": ["GET"], "anyone": false }), "is `true` or left out"),
        (json!({ "methods": ["GET"], "anyone": true, "scopes": ["a"] }), "goes with no condition"),
        (json!({ "methods": ["GET"] }), "checks nothing"),
        (json!({ "methods": ["*"], "scopes": ["a"] }), "`*` is no method"),
        (json!({ "methods": ["pATCH"], "scopes": ["a"] }), "`pATCH` is no method"),
    ] {
        let problems = compile(wrong.clone()).1;
        assert!(problems.iter().any(|problem| problem.message.contains(said)), "{wrong}: {problems:?}");
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let policy = compile(json!({ "rules": [
        { "deny": "'x-debug' in request.headers && identity.subject == 'mallory'", "message": "Not you." },
        { "allow": "request.method == 'GET'" },
        { "allow": "identity.claims.admin == true" },
    ] }));
    let policy = policy.0.unwrap();
    let mallory = Identity { subject: "mallory".into(), ..identity(None, &[], &[]) };
    let refused = judged(&policy, Some(mallory)).unwrap_err();
    assert_eq!((refused.reason, &*refused.detail), ("rule_denied", "Not you."));
    assert!(asked(&policy, "GET", None).is_ok(), "rules judge anonymous clients as well");
    assert!(asked(&policy, "POST", with_claims(json!({ "admin": true }))).is_ok());
    assert_eq!(asked(&policy, "POST", with_claims(json!({ "admin": false }))).unwrap_err().reason, "rule_not_allowed");
    let failed = asked(&policy, "POST", with_claims(json!({}))).unwrap_err();
    assert_eq!((failed.status, failed.reason), (StatusCode::FORBIDDEN, "rule_failed"), "what fails denies");
    let policy = compile(json!({ "rules": [{ "deny": "request.path.startsWith('/internal')" }] })).0.unwrap();
    assert!(asked(&policy, "POST", None).is_ok(), "a list that only denies lets the rest pass");
}

#[test]
fn a_failing_rule_denies_whatever_it_was_for() {
    for rules in [
        json!([{ "deny": "request.headers.none == 'x'" }]),
        json!([{ "allow": "request.headers.none == 'x'" }, { "allow": "true" }]),
    ] {
        let policy = compile(json!({ "rules": rules })).0.unwrap();
        assert_eq!(reason(&policy, None), "rule_failed");
        let failures: u64 = policy.entries[0].rules.iter().map(|rules| rules.failures()).sum();
        assert_eq!(failures, 1);
    }
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let (policy, problems) = compile(json!({
        "scopes": ["a b"], "roles": ["x"], "roles_claim": "a..b", "claims": { "": "x", "ok": null }, "consumers": ["nobody"],
        "methods": ["get"],
        "rules": [{ "deny": "request.pth == ''" }, { "allow": "request.path" }, {}, { "allow": "true", "deny": "true" }],
    }));
    assert!(policy.is_none());
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    for part in [
        "can never be a scope",
        "`a..b` is no claim's name",
        "`` is no claim's name",
        "a claim is compared",
        "no consumer `nobody`",
        "`get` is no method",
        "unknown variable `request.pth`",
        "comes to a text",
        "needs `allow` or `deny`",
        "either allows or denies",
    ] {
        assert!(messages.iter().any(|message| message.contains(part)), "{part}: {messages:?}");
    }
    for json in [
        json!([]),
        json!({ "methods": ["POST"] }),
        json!({ "methods": [], "scopes": ["a"] }),
        json!({ "methods": ["HEAD"], "scopes": ["a"] }),
    ] {
        assert!(compile(json.clone()).1.has_errors(), "{json}");
    }
}
