//! Who is it, and may it? And nobody but the gateway ever sees the proof.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::*;

pub const SECRET: &str = "a-shared-secret-of-at-least-32-bytes-4711";
pub const API_KEY: &str = "pk_live_0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "pk_live_ffffffffffffffffffffffffffffffffffffffffffffffff";

const CONFIG: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    access_log: { output: { file: access.log }, query: true }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:
      - name: acme
        api_keys: [ { id: main, hash: 'sha256:HASH' } ]
        scopes: [ catalog:read ]
        groups: [ partners ]
      - name: globex
        api_keys: [ { hash: 'sha256:OTHER' } ]
      - { name: alice, subjects: [ alice ], groups: [ staff ] }
    policies:
      authn:
        jwt:
          issuer: https://id.example.com
          audience: shop
          keys: [ { id: one, secret: '${JWT_SECRET}' } ]
          claims_to_headers: { X-Tenant: tenant }
        api_key: { query: api_key }
        realm: shop
    routes:
      - { path: /any/*, service: a }
      - { path: /public, service: a, policies: { authn: false } }
      - { path: /scoped, service: a, policies: { authz: { scopes: [ catalog:read ] } } }
      - { path: /staff, service: a, policies: { authz: { groups: [ staff ] } } }
      - { path: /acme, service: a, policies: { authz: { consumers: [ acme ] } } }
      - path: /optional
        service: a
        policies: { authn: { optional: true, api_key: {} } }
      - path: /raw
        service: a
        policies: { authn: { forward_credentials: true, api_key: { query: api_key } } }
";

fn config(backend: &Backend) -> String {
    let hash = |key: &str| Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    filled(CONFIG, &[("$BACKEND", backend.port())]).replace("HASH", &hash(API_KEY)).replace("OTHER", &hash(OTHER_KEY))
}

fn start() -> (Backend, Gateway) {
    let backend = Backend::http();
    let gateway = Gateway::start_with(&config(&backend), &[("JWT_SECRET", SECRET)]);
    (backend, gateway)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn token_with(algorithm: Algorithm, key: &EncodingKey, header: Value, claims: Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn claims(changed: Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example.com", "aud": "shop", "sub": "alice", "exp": now() + 600,
        "scope": "catalog:read orders", "tenant": "north",
    });
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub fn token(changed: Value) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    token_with(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), header, claims(changed))
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_token_proves_who_it_is() {
    let backend = Backend::http();
    served_with(&config(&backend), &[("JWT_SECRET", SECRET)], |gateway| {
        let authorization = bearer(&token(json!({})));
        let forged = [
            ("Authorization", &*authorization),
            ("X-Consumer-Name", "root"),
            ("X-Auth-Subject", "root"),
            ("x-auth-scopes", "everything"),
            ("X-Auth-Method", "trust me"),
            ("X_Auth_Subject", "root"),
            ("X-Tenant", "south"),
            ("X_Tenant", "south"),
        ];
        let answer = request(gateway.port(), "GET", "/any/x?q=1", &forged, b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = backend.last();
        assert_eq!(seen.all("x-auth-subject"), ["alice"]);
        assert_eq!(seen.all("x-consumer-name"), ["alice"]);
        assert_eq!(seen.all("x-auth-method"), ["jwt"]);
        assert_eq!(seen.all("x-auth-scopes"), ["catalog:read orders"]);
        assert_eq!(seen.all("x-tenant"), ["north"]);
        let head = seen.head_text();
        for absent in ["root", "everything", "south", "Bearer", "_", "uthorization"] {
            assert!(!head.contains(absent), "{absent} in {head}");
        }
        let line = gateway.wait_log(|line| line["path"] == "/any/x");
        assert_eq!((&line["consumer"], &line["subject"]), (&json!("alice"), &json!("alice")));
    });
}

#[test]
fn an_identity_cannot_be_forged_where_nobody_is_asked_for_one() {
    let backend = Backend::http();
    served_with(&config(&backend), &[("JWT_SECRET", SECRET)], |gateway| {
        let forged = [
            ("X-Consumer-Name", "root"),
            ("x-auth-subject", "root"),
            ("X-AUTH-SCOPES", "root"),
            ("X-Auth-Method", "root"),
            ("X-Authored-By", "kept"),
        ];
        assert_eq!(request(gateway.port(), "GET", "/public", &forged, b"").status, 200);
        let head = backend.last().head_text();
        assert!(!head.contains("root") && head.contains("kept"), "{head}");
    });
}

#[test]
fn a_wrong_token_gets_401_and_goes_nowhere() {
    let (backend, gateway) = start();
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let foreign = EncodingKey::from_secret(b"another-secret-of-at-least-32-bytes-0815");
    let none =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims(json!({})).to_string()));
    let long = EncodingKey::from_secret(SECRET.as_bytes());
    let cases = [
        (token(json!({ "exp": now() - 3600 })), "expired"),
        (token(json!({ "nbf": now() + 3600 })), "not_yet_valid"),
        (token(json!({ "iss": "https://evil.example" })), "wrong_issuer"),
        (token(json!({ "aud": ["bank", "post"] })), "wrong_audience"),
        (token(json!({ "sub": null })), "malformed_claim"),
        (token(json!({ "exp": "tomorrow" })), "malformed_claim"),
        (token_with(Algorithm::HS256, &foreign, header.clone(), claims(json!({}))), "bad_signature"),
        // The algorithm is the configuration's to say, not the token's.
        (
            token_with(Algorithm::HS512, &long, json!({ "alg": "HS512", "typ": "JWT" }), claims(json!({}))),
            "unsupported_algorithm",
        ),
        (none, "unsupported_algorithm"),
        ("not.a.token".to_owned(), "malformed_token"),
        ("x".repeat(10), "malformed_token"),
    ];
    for (token, reason) in cases {
        let answer = request(gateway.port(), "GET", "/any/x", &[("Authorization", &bearer(&token))], b"");
        let said = answer.json()["reason"].clone();
        answer.assert_problem(401, "authn", said.as_str().unwrap());
        // Which of two things that are both true is said first is no promise.
        let near = [("malformed_claim", "missing_claim"), ("unsupported_algorithm", "malformed_token")];
        assert!(said == reason || near.contains(&(reason, said.as_str().unwrap())), "{said} instead of {reason}");
        let challenges = answer.all("www-authenticate");
        assert_eq!(challenges.len(), 2, "{challenges:?}");
        assert!(challenges[0].starts_with("Bearer realm=\"shop\", error=\"invalid_token\""), "{challenges:?}");
        assert_eq!(challenges[1], "ApiKey realm=\"shop\"");
        assert!(!answer.text().contains(&token));
    }
    let answer = get(gateway.port(), "/any/x");
    answer.assert_problem(401, "authn", "missing_credentials");
    assert_eq!(answer.all("www-authenticate"), ["Bearer realm=\"shop\"", "ApiKey realm=\"shop\""]);
    let twice = [("Authorization", &*bearer(&token(json!({})))), ("Authorization", "Basic eA==")];
    request(gateway.port(), "GET", "/any/x", &twice, b"").assert_problem(401, "authn", "ambiguous_credentials");
    // A token in a query is no token.
    let path = format!("/any/x?access_token={}", token(json!({})));
    get(gateway.port(), &path).assert_problem(401, "authn", "missing_credentials");
    assert_eq!((backend.requests().len(), backend.connections()), (0, 0));
    gateway.wait_metric("portcullis_refusals_total{policy=\"authn\"}", 14.0);
}

#[test]
fn every_kind_of_key_and_only_that() {
    let backend = Backend::http();
    let files = Files::new();
    let mut keys = String::new();
    let mut signers = Vec::new();
    for (id, algorithm, name, kind) in [
        ("rs", Algorithm::RS256, "RS256", &rcgen::PKCS_RSA_SHA256),
        ("ps", Algorithm::PS384, "PS384", &rcgen::PKCS_RSA_SHA256),
        ("es", Algorithm::ES256, "ES256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("es384", Algorithm::ES384, "ES384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ed", Algorithm::EdDSA, "EdDSA", &rcgen::PKCS_ED25519),
    ] {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        files.write(&format!("{id}.pem"), pair.public_key_pem());
        keys.push_str(&format!("          - {{ id: {id}, algorithm: {name}, public_key: {{ file: {id}.pem }} }}\n"));
        let pem = pair.serialize_pem();
        let key = match name {
            "RS256" | "PS384" => EncodingKey::from_rsa_pem(pem.as_bytes()),
            "EdDSA" => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        signers.push((id, algorithm, name, key.unwrap(), pair.public_key_pem()));
    }
    for (id, length) in [("h384", 48), ("h512", 64)] {
        files.write(id, vec![b'k'; length]);
        keys.push_str(&format!("          - {{ id: {id}, algorithm: HS{}, secret: {{ file: {id} }} }}\n", &id[1..]));
        let algorithm = if length == 48 { Algorithm::HS384 } else { Algorithm::HS512 };
        let name = if length == 48 { "HS384" } else { "HS512" };
        signers.push((id, algorithm, name, EncodingKey::from_secret(&vec![b'k'; length]), String::new()));
    }
    let yaml = format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
policies:
  authn:
    jwt:
        audience: shop
        keys:
{keys}routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
",
        backend.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |token: &str| request(gateway.port(), "GET", "/", &[("Authorization", &bearer(token))], b"");
    for (id, algorithm, name, key, public) in &signers {
        let good = token_with(*algorithm, key, json!({ "alg": name, "kid": id }), claims(json!({})));
        assert_eq!(ask(&good).status, 200, "{name}");
        let other = if *id == "es" { "rs" } else { "es" };
        let mistaken = token_with(*algorithm, key, json!({ "alg": name, "kid": other }), claims(json!({})));
        assert_eq!(ask(&mistaken).status, 401, "{name} under another key's name");
        if !public.is_empty() {
            // The public key passed off as a shared secret.
            let secret = EncodingKey::from_secret(public.as_bytes());
            let confused = token_with(Algorithm::HS256, &secret, json!({ "alg": "HS256", "kid": id }), claims(json!({})));
            assert_eq!(ask(&confused).status, 401, "{name} as HS256");
        }
    }
}

#[test]
fn an_api_key_by_header_or_query() {
    let backend = Backend::http();
    served_with(&config(&backend), &[("JWT_SECRET", SECRET)], |gateway| {
        let port = gateway.port();
        let by_header = [("X-API-Key", API_KEY), ("X-Consumer-Name", "root"), ("X-Tenant", "south")];
        assert_eq!(request(port, "GET", "/any/h", &by_header, b"").status, 200);
        let seen = backend.last();
        assert_eq!(seen.all("x-consumer-name"), ["acme"]);
        assert_eq!(seen.all("x-auth-method"), ["api_key"]);
        assert_eq!(seen.header("x-api-key"), None);
        assert_eq!(seen.header("x-tenant"), None, "another method's claim cannot be forged");
        for (sent, arrived) in [
            (format!("/any/q?a=1&api_key={API_KEY}&b=2"), "/any/q?a=1&b=2"),
            (format!("/any/q?api_key={API_KEY}"), "/any/q"),
            (format!("/any/q?api%5Fkey={API_KEY}&b"), "/any/q?b"),
        ] {
            assert_eq!(get(port, &sent).status, 200, "{sent}");
            assert_eq!(backend.last().target, arrived);
        }
        assert_eq!(curl(&["-H", &format!("X-API-Key: {API_KEY}"), &gateway.url("/any/c")]).status, 200);
        // Where a route says so, the backend gets it as it came.
        assert_eq!(get(port, &format!("/raw?api_key={API_KEY}")).status, 200);
        assert_eq!(backend.last().target, format!("/raw?api_key={API_KEY}"));
        let before = backend.requests().len();
        for wrong in ["", "pk_live_0", &API_KEY[..API_KEY.len() - 1], &format!("{API_KEY}x"), &"k".repeat(600)] {
            request(port, "GET", "/any/x", &[("X-API-Key", wrong)], b"").assert_problem(401, "authn", "unknown_api_key");
        }
        let both = format!("/any/x?api_key={API_KEY}");
        request(port, "GET", &both, &[("X-API-Key", API_KEY)], b"").assert_problem(401, "authn", "ambiguous_credentials");
        // A wrong credential is not waved through because another one is right.
        let token = bearer(&token(json!({ "sub": "bob" })));
        let mixed = [("Authorization", &*token), ("X-API-Key", "nonsense")];
        request(port, "GET", "/any/x", &mixed, b"").assert_problem(401, "authn", "unknown_api_key");
        assert_eq!(backend.requests().len(), before);
    });
}

#[test]
fn anonymous_clients_where_they_are_welcome() {
    let (backend, gateway) = start();
    let forged = [("X-Consumer-Name", "root"), ("X-Auth-Subject", "root")];
    assert_eq!(request(gateway.port(), "GET", "/optional", &forged, b"").status, 200);
    assert_eq!((backend.last().header("x-consumer-name"), backend.last().header("x-auth-subject")), (None, None));
    request(gateway.port(), "GET", "/optional", &[("X-API-Key", "x")], b"").assert_problem(401, "authn", "unknown_api_key");
    assert_eq!(get(gateway.port(), "/public").status, 200);
}

#[test]
fn what_it_may_not_gets_403() {
    let (backend, gateway) = start();
    let port = gateway.port();
    let token = |changed: Value| bearer(&token(changed));
    let asks = |path: &str, header: (&str, &str)| request(port, "GET", path, &[header], b"");
    assert_eq!(asks("/scoped", ("Authorization", &token(json!({})))).status, 200);
    assert_eq!(asks("/scoped", ("X-API-Key", API_KEY)).status, 200);
    assert_eq!(asks("/staff", ("Authorization", &token(json!({})))).status, 200);
    assert_eq!(asks("/acme", ("X-API-Key", API_KEY)).status, 200);
    let allowed = backend.requests().len();
    let lacks = asks("/scoped", ("Authorization", &token(json!({ "scope": "orders" }))));
    assert_eq!(lacks.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\", scope=\"catalog:read\""));
    lacks.assert_problem(403, "authz", "insufficient_scope");
    asks("/scoped", ("X-API-Key", OTHER_KEY)).assert_problem(403, "authz", "insufficient_scope");
    asks("/staff", ("X-API-Key", API_KEY)).assert_problem(403, "authz", "group_not_allowed");
    asks("/acme", ("X-API-Key", OTHER_KEY)).assert_problem(403, "authz", "consumer_not_allowed");
    // Who it is comes before what it may.
    get(port, "/scoped").assert_problem(401, "authn", "missing_credentials");
    assert_eq!(backend.requests().len(), allowed);
    let line = gateway.wait_log(|line| line["status"] == 403 && line["path"] == "/acme");
    assert_eq!((&line["consumer"], &line["answered_by"]), (&json!("globex"), &json!("authz")));
}

#[test]
fn no_secret_is_ever_shown() {
    let backend = Backend::http();
    let yaml = format!("{}    server: {{ workers: 2 }}\n", config(&backend));
    let gateway = Gateway::start_with(&yaml, &[("JWT_SECRET", SECRET)]);
    let port = gateway.port();
    let good = token(json!({}));
    let bad = token(json!({ "aud": "bank" }));
    let mut expected = 0;
    for path in ["/any/x", "/scoped", "/nowhere", "/raw", "/public", "/optional"] {
        for headers in [
            vec![("Authorization", bearer(&good))],
            vec![("Authorization", bearer(&bad))],
            vec![("X-API-Key", API_KEY.to_owned())],
            vec![("Authorization", format!("Basic {API_KEY}"))],
            vec![("Cookie", format!("session={API_KEY}"))],
        ] {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
            request(port, "GET", path, &headers, b"");
            expected += 1;
        }
    }
    for path in ["/any/x", "/scoped", "/raw", "/any/%zz"] {
        // Also where the backend is told, and where the query is wrong in other ways.
        get(port, &format!("{path}?a=1&api_key={API_KEY}"));
        get(port, &format!("{path}?api_key={API_KEY}&api_key={OTHER_KEY}"));
        get(port, &format!("{path}?%61pi_key={API_KEY}#"));
        expected += 3;
    }
    gateway.wait_lines(expected);
    // A bad file with the secrets in the wrong places.
    gateway.rewrite(&config(&backend).replace("${JWT_SECRET}", SECRET).replace("realm: shop", &format!("relm: {SECRET}")));
    let (status, refused) = gateway.reload();
    assert_eq!(status, 422, "{refused}");
    gateway.signal("HUP");
    eventually("the refusal is logged", || gateway.stderr().contains("relm"));
    let mut shown = vec![
        ("the log", gateway.log_text()),
        ("stderr", gateway.stderr()),
        ("stdout", gateway.stdout()),
        ("the reload's answer", refused.to_string()),
    ];
    for path in ["/config", "/metrics", "/routes", "/upstreams", "/healthz", "/readyz"] {
        shown.push((path, gateway.admin_get(path).1));
    }
    let hash: String = Sha256::digest(API_KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let signature = good.rsplit('.').next().unwrap();
    for (place, text) in &shown {
        for secret in [SECRET, API_KEY, OTHER_KEY, &hash, &good, signature, &bad] {
            let found = text.lines().find(|line| line.contains(secret));
            assert!(found.is_none(), "a secret in {place}: {found:?}");
        }
    }
    assert!(shown[0].1.contains("a=1"), "the rest of the query is logged where the configuration says so");
    assert!(gateway.admin_get("/config").1.contains("${JWT_SECRET}"), "a reference is no secret");
}
