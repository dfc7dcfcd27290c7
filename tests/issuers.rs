//! Issuers and authorization servers that misbehave, change, or are asked about odd tokens: no client decides what the others get.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use crate::authn::{bearer, now, token_with};
use crate::harness::*;
use crate::peers::answer;

fn ask(gateway: &Gateway, token: &str) -> Answer {
    request(gateway.port(), "GET", "/", &[("Authorization", &bearer(token))], b"")
}

/// Each token says what the server answers.
fn server() -> Backend {
    Backend::answering(|request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let said = |token: &str| form.starts_with(&format!("token={token}"));
        let good = json!({ "active": true, "sub": "ada", "exp": now() + 600 }).to_string();
        match () {
            () if said("bad-request") => answer(400, &[], "{\"error\":\"invalid_request\"}"),
            () if said("too-large") => answer(413, &[], ""),
            () if said("broken") => answer(500, &[], ""),
            () if said("moved") => answer(302, &[("Location", "https://elsewhere.invalid/")], ""),
            () if said("odd") => answer(200, &[], "[]"),
            () if said("endless") => answer(200, &[], vec![b' '; 600 * 1024]),
            () => answer(200, &[], good),
        }
    })
}

#[test]
fn one_clients_odd_tokens_shut_nobody_out() {
    let (backend, server) = (Backend::http(), server());
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        policies:
          authn:
            introspection:
              url: http://127.0.0.1:$SERVER/
              client_id: gateway
              client_secret: '${SECRET}'
              from: [ { header: Authorization, scheme: Bearer }, { header: X-Token } ]
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
    ";
    let yaml = filled(yaml, &[("$BACKEND", backend.port()), ("$SERVER", server.port())]);
    let gateway = Gateway::start_with(&yaml, &[("SECRET", "s3cret-of-the-gateway")]);
    for (number, odd) in ["bad-request", "too-large", "broken", "moved", "odd", "endless"].into_iter().enumerate() {
        for count in 0..4 {
            ask(&gateway, &format!("{odd}{count}")).assert_problem(503, "authn", "introspection_unavailable");
        }
        assert_eq!(ask(&gateway, &format!("good{number}")).status, 200, "after {odd}");
    }
    let asked = server.requests().len();
    for odd in ["two words", "caf\u{e9}", &"x".repeat(16 * 1024 + 1)] {
        let refused = request(gateway.port(), "GET", "/", &[("X-Token", odd)], b"");
        assert!(matches!(refused.status, 400 | 401 | 431), "{}: {}", refused.status, refused.text());
    }
    assert_eq!(server.requests().len(), asked, "what is no token is nobody's business");
}

/// A key, and its name in the set of its issuer.
#[derive(Clone)]
struct Key {
    sign: EncodingKey,
    published: serde_json::Value,
}

fn key(id: Option<&str>) -> Key {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let sign = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let mut published = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    if let Some(id) = id {
        published["kid"] = json!(id);
    }
    Key { sign, published }
}

fn token(key: &Key, id: Option<&str>, number: usize) -> String {
    let mut header = json!({ "alg": "ES256" });
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    let claims = json!({ "sub": "ada", "aud": "shop", "exp": now() + 600, "n": number });
    token_with(Algorithm::ES256, &key.sign, header, claims)
}

/// An issuer that publishes one key.
struct Issuer {
    server: Backend,
    current: Arc<Mutex<Key>>,
}

impl Issuer {
    fn start(key: Key) -> Issuer {
        let current = Arc::new(Mutex::new(key));
        let shared = current.clone();
        let server =
            Backend::answering(move |_| answer(200, &[], json!({ "keys": [shared.lock().unwrap().published] }).to_string()));
        Issuer { server, current }
    }

    fn publish(&self, key: &Key) {
        *self.current.lock().unwrap() = key.clone();
    }

    fn asked(&self) -> usize {
        self.server.requests().len()
    }

    fn gateway(&self, backend: &Backend, cooldown: &str) -> Gateway {
        let yaml = "
            listeners: [ { bind: 127.0.0.1:$PORT } ]
            server: { workers: 1 }
            policies:
              authn:
                jwt: { audience: shop, jwks_url: 'http://127.0.0.1:$ISSUER/', jwks: { refresh: 24h, cooldown: COOLDOWN, wait: 10s } }
            routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
        let yaml = filled(yaml, &[("$BACKEND", backend.port()), ("$ISSUER", self.server.port())]);
        Gateway::start(&yaml.replace("COOLDOWN", cooldown))
    }
}

#[test]
fn a_key_that_is_replaced_under_its_name_is_fetched() {
    let backend = Backend::http();
    for (published, named) in [(Some("k"), Some("k")), (None, Some("k")), (None, None)] {
        let (first, second) = (key(published), key(published));
        let issuer = Issuer::start(first.clone());
        let gateway = issuer.gateway(&backend, "100ms");
        let old = token(&first, named, 0);
        assert_eq!(ask(&gateway, &old).status, 200);
        issuer.publish(&second);
        let new = token(&second, named, 1);
        eventually("the new key is fetched, once the cooldown is over", || ask(&gateway, &new).status == 200);
        ask(&gateway, &old).assert_problem(401, "authn", "bad_signature");
    }
}

#[test]
fn forged_tokens_cause_one_fetch_per_cooldown() {
    let backend = Backend::http();
    let (genuine, forged) = (key(Some("k")), key(Some("k")));
    let issuer = Issuer::start(genuine.clone());
    let gateway = issuer.gateway(&backend, "1h");
    assert_eq!(ask(&gateway, &token(&genuine, Some("k"), 0)).status, 200);
    for number in 0..20 {
        ask(&gateway, &token(&forged, Some("k"), number)).assert_problem(401, "authn", "bad_signature");
    }
    assert_eq!(issuer.asked(), 1);
    assert_eq!(ask(&gateway, &token(&genuine, Some("k"), 1)).status, 200);
}

#[test]
fn a_reload_fetches_keys() {
    let backend = Backend::http();
    let (first, second) = (key(Some("k")), key(Some("k")));
    let issuer = Issuer::start(first.clone());
    let gateway = issuer.gateway(&backend, "1h");
    let (old, new) = (token(&first, Some("k"), 0), token(&second, Some("k"), 0));
    assert_eq!(ask(&gateway, &old).status, 200);
    issuer.publish(&second);
    assert_eq!((ask(&gateway, &old).status, ask(&gateway, &new).status), (200, 401));
    assert_eq!(gateway.reload().0, 200);
    eventually("the key that was withdrawn is forgotten", || ask(&gateway, &old).status == 401);
    assert_eq!(ask(&gateway, &new).status, 200);
    assert_eq!(issuer.asked(), 2);
}
