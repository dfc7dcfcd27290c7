use super::*;
use crate::ledger::Ledger;
use crate::policy::authn::Consumers;
use crate::problem::Problems;

fn compile(json: serde_json::Value) -> (Option<Authz>, Problems) {
    let consumers = serde_json::json!([{ "name": "acme" }, { "name": "globex" }]);
    let consumers: Vec<_> = serde_json::from_value(consumers).unwrap();
    let mut problems = Problems::default();
    let consumers = Arc::new(Consumers::compile(&consumers, &mut problems));
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
        method: JWT,
        subject: "s".into(),
        scopes: scopes.iter().map(|scope| Arc::from(*scope)).collect(),
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        ..Identity::default()
    }
}

fn judged(policy: &Authz, identity: Option<Identity>) -> Result<(), Box<Reply>> {
    let mut exchange = Exchange::for_tests();
    exchange.identity = identity.map(Arc::new);
    match policy.on_request(&RequestHead::build("GET", "/", &[]), &mut exchange) {
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
