//! What a reload takes away is gone with it, whatever the gateway remembers of a credential.

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::authn::{API_KEY, SECRET, bearer, now, token_with};
use crate::harness::*;
use crate::passwords::{basic, hash};

const CONFIG: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    server: { workers: 1 }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers: CONSUMERS
    policies:
      authn:
        jwt: { audience: shop, consumer_claim: CLAIM, keys: [ { secret: '${JWT_SECRET}' } ] }
        introspection:
          { url: 'http://127.0.0.1:$SERVER/', client_id: gateway, client_secret: '${JWT_SECRET}', consumer_claim: CLAIM, cache: 1h }
        api_key: {}
        basic: { remember: 1h }
    routes:
      - { path: /any, service: a }
      - { path: /staff, service: a, policies: { authz: { groups: [ staff ] } } }
      - { path: /scoped, service: a, policies: { authz: { scopes: [ catalog:read ] } } }
      - { path: /planned, service: a, policies: { rate_limit: { by: consumer, limit: 1/day, plans: { pro: unlimited } } } }
";

struct Lab {
    backend: Backend,
    server: Backend,
    gateway: Gateway,
    consumers: String,
}

impl Lab {
    /// With one consumer, whom every kind of credential belongs to: tokens by their `azp` or `sub`.
    fn start() -> Lab {
        let key: String = Sha256::digest(API_KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        let consumers = format!(
            "[ {{ name: acme, groups: [ staff ], scopes: [ catalog:read ], plan: pro, \
             api_keys: [ {{ hash: 'sha256:{key}' }} ], passwords: [ {{ hash: '{}' }} ] }} ]",
            hash("secret")
        );
        let backend = Backend::http();
        let server = Backend::answering(|_| {
            let body = json!({ "active": true, "sub": "someone", "azp": "acme", "exp": now() + 3600 }).to_string();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        });
        let yaml = config(&backend, &server, &consumers, "azp");
        let gateway = Gateway::start_with(&yaml, &[("JWT_SECRET", SECRET)]);
        Lab { backend, server, gateway, consumers }
    }

    fn reload(&self, consumers: &str, claim: &str) {
        self.gateway.rewrite(&config(&self.backend, &self.server, consumers, claim));
        let (status, said) = self.gateway.reload();
        assert_eq!(status, 200, "{said}");
    }

    fn ask(&self, path: &str, credential: &(&str, String)) -> u16 {
        request(self.gateway.port(), "GET", path, &[(credential.0, &*credential.1)], b"").status
    }

    /// The consumer that the backend is told.
    fn told(&self, credential: &(&str, String)) -> Option<String> {
        assert_eq!(self.ask("/any", credential), 200);
        self.backend.last().header("x-consumer-name").map(str::to_owned)
    }
}

fn config(backend: &Backend, server: &Backend, consumers: &str, claim: &str) -> String {
    let yaml = filled(CONFIG, &[("$BACKEND", backend.port()), ("$SERVER", server.port())]);
    yaml.replace("CONSUMERS", consumers).replace("CLAIM", claim)
}

fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    bearer(&token_with(Algorithm::HS256, &key, json!({ "alg": "HS256" }), claims.clone()))
}

/// Tokens whose consumer is looked up by a claim: they stay good without one.
fn tokens() -> Vec<(&'static str, String)> {
    let claims = json!({ "aud": "shop", "sub": "someone", "azp": "acme", "exp": now() + 3600 });
    vec![("Authorization", signed(&claims)), ("Authorization", "Bearer opaque".to_owned())]
}

/// The consumer's own.
fn keys() -> Vec<(&'static str, String)> {
    vec![("X-API-Key", API_KEY.to_owned()), ("Authorization", basic("acme:secret"))]
}

#[test]
fn groups_scopes_and_plans_end_with_the_reload() {
    let lab = Lab::start();
    let all: Vec<_> = tokens().into_iter().chain(keys()).collect();
    for credential in &all {
        for path in ["/staff", "/scoped", "/planned", "/planned"] {
            assert_eq!(lab.ask(path, credential), 200, "{path} {credential:?}");
        }
    }
    lab.reload(&lab.consumers.replace("groups: [ staff ], ", ""), "azp");
    for credential in &all {
        assert_eq!((lab.ask("/staff", credential), lab.ask("/scoped", credential)), (403, 200), "{credential:?}");
    }
    lab.reload(&lab.consumers.replace("scopes: [ catalog:read ], ", ""), "azp");
    for credential in &all {
        assert_eq!((lab.ask("/staff", credential), lab.ask("/scoped", credential)), (200, 403), "{credential:?}");
    }
    lab.reload(&lab.consumers.replace("plan: pro, ", ""), "azp");
    let passed = all.iter().flat_map(|credential| [lab.ask("/planned", credential), lab.ask("/planned", credential)]);
    assert_eq!(passed.filter(|status| *status == 200).count(), 1, "all of one consumer, which has no plan any more");
}

#[test]
fn a_consumer_ends_with_the_reload() {
    let lab = Lab::start();
    for credential in tokens().iter().chain(&keys()) {
        assert_eq!(lab.told(credential).as_deref(), Some("acme"), "{credential:?}");
    }
    lab.reload(
        &lab.consumers.replace("name: acme", "name: other").replace("passwords: [ {", "passwords: [ { username: acme,"),
        "azp",
    );
    for credential in &tokens() {
        assert_eq!((lab.told(credential), lab.ask("/staff", credential)), (None, 403), "{credential:?}");
    }
    for credential in &keys() {
        assert_eq!(lab.told(credential).as_deref(), Some("other"), "{credential:?}");
    }
    lab.reload("[ { name: other, groups: [ staff ] } ]", "azp");
    for credential in &keys() {
        assert_eq!(lab.ask("/any", credential), 401, "{credential:?}");
    }
    assert_eq!(lab.server.requests().len(), 1, "what the token says stays remembered");
}

#[test]
fn another_consumer_claim_counts_from_the_reload_on() {
    let lab = Lab::start();
    for credential in &tokens() {
        assert_eq!(lab.told(credential).as_deref(), Some("acme"));
    }
    lab.reload(&lab.consumers, "sub");
    for credential in &tokens() {
        assert_eq!((lab.told(credential), lab.ask("/staff", credential)), (None, 403));
    }
    lab.reload(&lab.consumers.replace("name: acme", "name: acme, subjects: [ someone ]"), "sub");
    for credential in &tokens() {
        assert_eq!(lab.told(credential).as_deref(), Some("acme"));
    }
}

#[test]
fn a_changed_password_or_key_counts_from_the_reload_on() {
    let lab = Lab::start();
    let keys = keys();
    assert!(keys.iter().all(|credential| lab.ask("/any", credential) == 200));
    let begin = lab.consumers.find("$argon2id").unwrap();
    let end = begin + lab.consumers[begin..].find('\'').unwrap();
    let changed = lab.consumers.replace(&lab.consumers[begin..end], &hash("another"));
    let digest = changed.find("sha256:").unwrap() + "sha256:".len();
    let changed = changed.replace(&changed[digest..digest + 64], &"0".repeat(64));
    lab.reload(&changed, "azp");
    for credential in &keys {
        assert_eq!(lab.ask("/any", credential), 401, "{credential:?}");
    }
}
