//! The policy as a whole: which credentials are asked for, and what the backend hears. The attacks on tokens are in `jwt_tests`.

use std::ops::ControlFlow;

use http::{StatusCode, header};

use super::*;
use crate::consumers::Consumers;
use crate::consumers::tests::hash_of;
use crate::ledger::Ledger;
use crate::problem::Problems;
use crate::reply::Reply;

pub const NOW: u64 = 1_700_000_000;

/// What a policy is compiled in: a folder with keys, consumers, and a ledger that outlives each policy.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub ledger: Ledger,
    pub consumers: Arc<Consumers>,
}

impl Lab {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), [b's'; 64]).unwrap();
        let mut lab = Lab { folder, ledger: Ledger::default(), consumers: Arc::default() };
        lab.consume(serde_json::json!([
            { "name": "acme", "api_keys": [{ "id": "k1", "hash": hash_of("key-acme") }], "subjects": ["u-acme"], "scopes": ["read", "write"], "groups": ["gold"] },
            { "name": "globex", "api_keys": [{ "hash": hash_of("key-globex") }] },
        ]));
        lab
    }

    pub fn consume(&mut self, json: serde_json::Value) {
        self.consumers = Arc::new(crate::consumers::tests::compile(json).0);
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    pub fn try_compile(&self, json: serde_json::Value) -> (Option<Authn>, Problems) {
        let config: AuthnConfig = serde_json::from_value(json).unwrap();
        let mut problems = Problems::default();
        let base = self.folder.path();
        let mut cx = crate::policy::testing::context(&mut problems, "test", &self.ledger, &self.consumers, base);
        (Authn::compile(&config, &mut cx), problems)
    }

    pub fn compile(&self, json: serde_json::Value) -> Authn {
        let (policy, problems) = self.try_compile(json);
        policy.unwrap_or_else(|| panic!("{problems:?}"))
    }
}

/// What goes upstream in place of the client's own fields: the last edit of each name counts.
pub fn upstream(exchange: &Exchange, client: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> =
        client.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect();
    for edit in &exchange.to_upstream {
        match edit {
            HeaderEdit::Set(name, value) => {
                fields.retain(|(known, _)| known != name.as_str());
                fields.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
            HeaderEdit::Add(name, value) => fields.push((name.to_string(), value.to_str().unwrap().to_owned())),
            HeaderEdit::Remove(name) => fields.retain(|(known, _)| known != name.as_str()),
        }
    }
    fields.sort();
    fields
}

pub fn run(policy: &Authn, target: &str, fields: &[(&str, &str)], now: u64) -> Result<Exchange, Box<Reply>> {
    let mut exchange = Exchange::for_tests();
    let head = RequestHead::build("GET", target, fields);
    let proofs = policy.prove(&head, &exchange, now).expect("nothing to wait for");
    match policy.conclude(proofs, &head, &mut exchange) {
        ControlFlow::Continue(()) => Ok(exchange),
        ControlFlow::Break(reply) => Err(reply),
    }
}

fn refused(policy: &Authn, target: &str, fields: &[(&str, &str)]) -> (&'static str, Vec<String>) {
    let Err(reply) = run(policy, target, fields, NOW) else { panic!("admitted") };
    assert_eq!((reply.status, reply.policy), (StatusCode::UNAUTHORIZED, "authn"));
    assert!(reply.headers.iter().all(|(name, _)| name == header::WWW_AUTHENTICATE));
    (reply.reason, reply.headers.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn token(subject: &str) -> String {
    super::jwt_tests::hs256(&format!(r#"{{"sub":"{subject}","exp":{}}}"#, NOW + 100))
}

fn hs256_config() -> serde_json::Value {
    serde_json::json!({ "keys": [{ "secret": { "file": "secret" } }] })
}

#[test]
fn an_api_key_becomes_an_identity() {
    let policy = Lab::new().compile(serde_json::json!({ "api_key": { "query": "key" } }));
    let fields = [("X-API-Key", "key-acme"), ("accept", "*/*")];
    let exchange = run(&policy, "/", &fields, NOW).unwrap();
    let identity = exchange.identity.clone().unwrap();
    assert_eq!((identity.consumer.as_deref(), &*identity.credential, identity.method), (Some("acme"), "k1", "api_key"));
    assert_eq!(
        upstream(&exchange, &fields),
        pairs(&[
            ("accept", "*/*"),
            ("x-auth-method", "api_key"),
            ("x-auth-scopes", "read write"),
            ("x-auth-subject", "acme"),
            ("x-consumer-name", "acme")
        ])
    );
    assert!(run(&policy, "/?a=1&key=key-globex", &[], NOW).is_ok());
    assert_eq!(policy.carriers.queries, [Arc::<str>::from("key")]);
    assert_eq!(refused(&policy, "/", &[("x-api-key", "key-acmf")]).0, "unknown_api_key");
    assert_eq!(refused(&policy, "/?key=key-acme", &[("x-api-key", "key-acme")]).0, "ambiguous_credentials");
}

#[test]
fn challenges_name_every_method() {
    let lab = Lab::new();
    let both = lab.compile(serde_json::json!({ "jwt": hs256_config(), "api_key": {}, "realm": "shop" }));
    assert_eq!(
        refused(&both, "/", &[]),
        ("missing_credentials", vec!["Bearer realm=\"shop\"".into(), "ApiKey realm=\"shop\"".into()])
    );
    assert_eq!(refused(&both, "/", &[("authorization", "Basic YTpi")]).0, "missing_credentials");
    let (reason, challenges) = refused(&both, "/", &[("authorization", "Bearer x")]);
    assert_eq!(reason, "malformed_token");
    assert!(challenges[0].starts_with("Bearer realm=\"shop\", error=\"invalid_token\", error_description=\"The token"));
    let (_, challenges) = refused(&both, "/", &[("x-api-key", "nope")]);
    assert_eq!(challenges[0], "Bearer realm=\"shop\"", "no token was presented, so that nothing is said about one");
    let (reason, challenges) = refused(&both, "/", &[("authorization", "Bearer x"), ("authorization", "Bearer y")]);
    assert!(reason == "ambiguous_credentials" && challenges[0].contains("invalid_request"));
    let keys = lab.compile(serde_json::json!({ "api_key": {} }));
    assert_eq!(
        refused(&keys, "/", &[("authorization", "Bearer x")]),
        ("missing_credentials", vec!["ApiKey realm=\"api\"".into()])
    );
}

#[test]
fn identity_headers_cannot_be_forged() {
    let lab = Lab::new();
    let mut jwt = hs256_config();
    jwt["claims_to_headers"] = serde_json::json!({ "X-Tenant": "tenant" });
    let policy = lab.compile(serde_json::json!({ "jwt": jwt, "api_key": {}, "optional": true }));
    let forged = [
        ("X-Consumer-Name", "root"),
        ("x-auth-subject", "root"),
        ("X-AUTH-METHOD", "jwt"),
        ("X-Auth-Scopes", "admin"),
        ("X_Auth_Subject", "root"),
        ("x-tenant", "root"),
        ("X_TENANT", "root"),
    ];
    let anonymous = run(&policy, "/", &forged, NOW).unwrap();
    assert!(anonymous.identity.is_none());
    assert_eq!(upstream(&anonymous, &forged), []);

    let with = |credential| -> Vec<(&str, &str)> { forged.iter().copied().chain([credential]).collect() };
    let fields = with(("x-api-key", "key-globex"));
    let exchange = run(&policy, "/", &fields, NOW).unwrap();
    let expected = [("x-auth-method", "api_key"), ("x-auth-subject", "globex"), ("x-consumer-name", "globex")];
    assert_eq!(upstream(&exchange, &fields), pairs(&expected));

    let bearer = format!("Bearer {}", token("eve"));
    let fields = with(("Authorization", &bearer));
    let exchange = run(&policy, "/", &fields, NOW).unwrap();
    assert_eq!(upstream(&exchange, &fields), pairs(&[("x-auth-method", "jwt"), ("x-auth-subject", "eve")]));
}

#[test]
fn optional_admits_nobody_but_not_the_wrong_ones() {
    let policy = Lab::new().compile(serde_json::json!({ "jwt": hs256_config(), "api_key": {}, "optional": true }));
    let fields = [("authorization", "Basic YTpi")];
    let exchange = run(&policy, "/", &fields, NOW).unwrap();
    assert!(exchange.identity.is_none() && upstream(&exchange, &fields).is_empty());
    assert_eq!(refused(&policy, "/", &[("x-api-key", "nope")]).0, "unknown_api_key");
    assert_eq!(refused(&policy, "/", &[("authorization", "Bearer a.b.c")]).0, "malformed_token");
    let wrong_beside_right = [("authorization", "Bearer a.b.c"), ("x-api-key", "key-acme")];
    assert_eq!(refused(&policy, "/", &wrong_beside_right).0, "malformed_token");
}

#[test]
fn whoever_presents_nothing_may_be_a_consumer() {
    let policy = Lab::new().compile(serde_json::json!({ "jwt": hs256_config(), "api_key": {}, "anonymous": "acme" }));
    let exchange = run(&policy, "/", &[("x-consumer-name", "root")], NOW).unwrap();
    assert!(upstream(&exchange, &[]).contains(&("x-auth-method".into(), "anonymous".into())));
    let identity = exchange.identity.unwrap();
    assert_eq!((identity.consumer.as_deref(), identity.method, identity.scopes.len()), (Some("acme"), "anonymous", 2));
    assert_eq!(refused(&policy, "/", &[("x-api-key", "nope")]).0, "unknown_api_key");
    assert!(run(&policy, "/", &[("x-api-key", "key-globex")], NOW).is_ok());
}

#[test]
fn two_credentials_must_agree() {
    let lab = Lab::new();
    for any in [true, false] {
        let policy = lab.compile(serde_json::json!({ "jwt": hs256_config(), "api_key": {}, "any": any }));
        let run = |subject, key| {
            run(&policy, "/", &[("authorization", &format!("Bearer {}", token(subject))), ("x-api-key", key)], NOW)
        };
        let same = run("u-acme", "key-acme").unwrap().identity.unwrap();
        assert_eq!((&*same.subject, same.consumer.as_deref()), ("u-acme", Some("acme")));
        let merged = run("somebody", "key-acme").unwrap();
        assert!(upstream(&merged, &[]).contains(&("x-consumer-name".into(), "acme".into())));
        let merged = merged.identity.unwrap();
        assert_eq!((&*merged.subject, merged.consumer.as_deref(), merged.scopes.len()), ("somebody", Some("acme"), 0));
        assert_eq!(run("u-acme", "key-globex").err().unwrap().reason, "ambiguous_credentials");
    }
    for optional in [true, false] {
        let all = lab.compile(serde_json::json!({ "jwt": hs256_config(), "api_key": {}, "any": false, "optional": optional }));
        assert_eq!(refused(&all, "/", &[("x-api-key", "key-acme")]).0, "missing_credentials");
        assert_eq!(refused(&all, "/", &[("authorization", &format!("Bearer {}", token("u")))]).0, "missing_credentials");
        assert_eq!(run(&all, "/", &[], NOW).is_ok(), optional);
    }
}

#[test]
fn credentials_go_upstream_only_when_asked() {
    let lab = Lab::new();
    let bearer = format!("Bearer {}", token("u"));
    let fields = [("authorization", &*bearer)];
    let open = Arc::new(lab.compile(serde_json::json!({ "jwt": hs256_config(), "forward_credentials": true })));
    assert!(upstream(&run(&open, "/", &fields, NOW).unwrap(), &fields).iter().any(|(name, _)| name == "authorization"));
    let mut plan = PlanBuilder::new();
    plan.add(open);
    let plan = plan.finish();
    assert!(plan.options.forward_credentials && plan.steps.len() == 1);
}

#[test]
fn wrong_configurations_are_told() {
    let lab = Lab::new();
    for json in [
        serde_json::json!({}),
        serde_json::json!({ "jwt": [] }),
        serde_json::json!({ "jwt": {} }),
        serde_json::json!({ "api_key": {}, "anonymous": "nobody" }),
        serde_json::json!({ "api_key": {}, "realm": "a\"b" }),
        serde_json::json!({ "api_key": {}, "token_cache": 1_000_001 }),
        serde_json::json!({ "api_key": { "header": "a b" } }),
    ] {
        let (policy, problems) = lab.try_compile(json.clone());
        assert!(policy.is_none() && problems.has_errors(), "{json}");
    }
    assert!(serde_json::from_value::<AuthnConfig>(serde_json::json!({ "jwts": {} })).is_err());
}
