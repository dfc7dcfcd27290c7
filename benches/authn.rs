//! What it costs to know a client by its token: verified afresh, and remembered.
//!
//! `cargo bench --bench authn`. Compare within one run only. It ends with the ratio of the two medians, and fails if a token that is
//! remembered costs more than a twentieth of one whose ES256 signature is verified.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use portcullis::config::Source;
use portcullis::exchange::Exchange;
use portcullis::head::RequestHead;
use portcullis::policy::{OnWait, Work};
use portcullis::snapshot::{self, Surroundings};
use serde_json::json;

const ROUNDS: usize = 51;
const MOST: f64 = 1.0 / 20.0;

/// The policy of a route, as a configuration with a cache of that many tokens compiles it.
fn policy(folder: &Path, kept: u32) -> Arc<dyn OnWait> {
    let yaml = format!(
        "listeners: [ {{ bind: 127.0.0.1:0 }} ]
policies:
  authn:
    jwt: {{ issuer: https://id.example.com, audience: shop, keys: [ {{ id: k1, public_key: {{ file: public.pem }} }} ] }}
    token_cache: {kept}
routes: [ {{ path: /*, service: 127.0.0.1, port: 9 }} ]
"
    );
    let path = folder.join("bench.yaml");
    std::fs::write(&path, yaml).unwrap();
    let (mut source, document) = Source::read(&path);
    let compiled = document.and_then(|document| snapshot::compile(&document, &mut source, &Surroundings::detached(), 1));
    let compiled = compiled.unwrap_or_else(|| panic!("{}", source.report(false)));
    let mut steps = compiled.routes.iter().flat_map(|route| &route.plan.steps);
    steps.find_map(|step| if let Work::Wait(run) = &step.work { Some(run.clone()) } else { None }).unwrap()
}

/// An access token as issuers make them, of about 500 bytes.
fn token(key: &EncodingKey) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://id.example.com", "aud": "shop", "sub": "0f6c1c0e-6d37-4b7e-9d1e-0a2b8a4f2a11", "iat": now, "exp": now + 3600,
        "jti": "WnxM6H6CRQFPYes0d9Qo1QQ", "client_id": "mobile", "scope": "catalog:read orders:read orders:write",
        "realm_access": { "roles": ["buyer", "seller"] },
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": "k1" })), part(&claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

/// The time of one request through the policy, the exchange that it writes to included.
fn once(policy: &dyn OnWait, head: &RequestHead, times: u32) -> Duration {
    let started = Instant::now();
    for _ in 0..times {
        let mut exchange = Exchange::for_tests();
        assert!(policy.at_once(black_box(head), &mut exchange).is_some_and(|flow| flow.is_continue()));
        black_box(exchange);
    }
    started.elapsed() / times
}

fn main() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("public.pem"), pair.public_key_pem()).unwrap();
    let token = token(&EncodingKey::from_ec_der(&pair.serialize_der()));
    let head =
        RequestHead::build("GET", "/", &[("host", "shop"), ("authorization", &format!("Bearer {token}")), ("accept", "*/*")]);
    let (afresh, kept) = (policy(folder.path(), 0), policy(folder.path(), 1000));
    let empty = || {
        let started = Instant::now();
        (0..1000).for_each(|_| drop(black_box(Exchange::for_tests())));
        started.elapsed() / 1000
    };
    // In turns, so that whatever else the machine does falls on all of them.
    let (mut verified, mut remembered, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        verified.push(once(&*afresh, &head, 20));
        remembered.push(once(&*kept, &head, 1000));
        nothing.push(empty());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (verified, remembered, nothing) = (median(&mut verified), median(&mut remembered), median(&mut nothing));
    let ratio = remembered.as_secs_f64() / verified.as_secs_f64();
    println!("token of {} bytes, medians of {ROUNDS} rounds:", token.len());
    println!("  ES256 verified   {verified:>10.1?}");
    println!("  remembered       {remembered:>10.1?}   of which the exchange itself {nothing:.1?}");
    println!("  ratio            1/{:.0}, at most 1/{:.0} is wanted", 1.0 / ratio, 1.0 / MOST);
    assert!(ratio <= MOST, "a remembered token costs too much");
}
