//! How often may it? Counted exactly, told to the client, and remembered over reloads.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::harness::*;

const ROUTE: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /hour, service: a, policies: { rate_limit: { limit: 5/hour } } }
      - { path: /burst, service: a, policies: { rate_limit: { limit: 100/hour, burst: 3 } } }
      - { path: /single, service: a, policies: { rate_limit: { limit: 1/hour, burst: 0 } } }
      - { path: /fast, service: a, policies: { rate_limit: { limit: 4/s, burst: 1 } } }
      - { path: /tenant, service: a, policies: { rate_limit: { name: tenants, by: { header: X-Tenant }, limit: 2/hour } } }
      - { path: /free, service: a }
      - path: /two
        service: a
        policies:
          rate_limit:
            - { name: minute, limit: 10/minute }
            - { name: day, limit: 3/day }
";

fn start(yaml: &str) -> (Backend, Gateway) {
    let backend = Backend::http();
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    (backend, gateway)
}

#[test]
fn exactly_as_many_as_it_says() {
    let (backend, gateway) = start(ROUTE);
    assert_eq!(passes(&gateway, "/hour", &[], 12), 5);
    assert_eq!(passes(&gateway, "/burst", &[], 12), 3);
    assert_eq!(passes(&gateway, "/single", &[], 12), 1);
    assert_eq!(passes(&gateway, "/free", &[], 30), 30);
    assert_eq!(passes(&gateway, "/two", &[], 12), 3);
    // What was refused never reached the backend.
    assert_eq!(backend.requests().len(), 5 + 3 + 1 + 30 + 3);
    gateway.wait_metric("portcullis_refusals_total{policy=\"rate_limit\",reason=\"rate_limited\"}", 7.0 + 9.0 + 11.0 + 9.0);
    let line = gateway.wait_log(|line| line["status"] == 429);
    assert_eq!((line["answered_by"].as_str(), line["reason"].as_str()), (Some("rate_limit"), Some("rate_limited")));
}

#[test]
fn exactly_as_many_from_many_connections_at_once() {
    let yaml = ROUTE.replace("5/hour", "50/hour");
    let (backend, gateway) = start(&yaml);
    let passed: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| passes(&gateway, "/hour", &[], 25))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!((passed, backend.requests().len()), (50, 50));
}

#[test]
fn the_client_is_told() {
    let (_backend, gateway) = start(ROUTE);
    for left in (0..5).rev() {
        let answer = get(gateway.port(), "/hour");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.all("ratelimit-policy"), ["\"client_address\";q=5;w=3600"]);
        let told = answer.all("ratelimit");
        assert!(told.len() == 1 && told[0].starts_with(&format!("\"client_address\";r={left};t=")), "{told:?}");
        assert_eq!(answer.header("retry-after"), None);
    }
    let refused = curl(&[&gateway.url("/hour")]);
    refused.assert_problem(429, "rate_limit", "rate_limited");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((700..=720).contains(&after), "a fifth of an hour, less what has passed: {after}");
    assert_eq!(refused.header("ratelimit"), Some(&*format!("\"client_address\";r=0;t={after}")));
    assert_eq!(refused.all("ratelimit-policy"), ["\"client_address\";q=5;w=3600"]);
    let two = get(gateway.port(), "/two");
    assert_eq!(two.all("ratelimit-policy"), ["\"minute\";q=10;w=60, \"day\";q=3;w=86400"]);
    assert!(two.header("ratelimit").unwrap().starts_with("\"day\";r=2;t="), "{two:?}");
    assert_eq!(get(gateway.port(), "/free").header("ratelimit-policy"), None);
}

#[test]
fn a_limit_refills() {
    let (_backend, gateway) = start(ROUTE);
    assert_eq!(get(gateway.port(), "/fast").status, 200);
    eventually("a quarter of a second admits one more", || get(gateway.port(), "/fast").status == 200);
}

#[test]
fn each_tenant_has_its_own() {
    let (_backend, gateway) = start(ROUTE);
    for tenant in ["a", "b", "c"] {
        assert_eq!(passes(&gateway, "/tenant", &[("X-Tenant", tenant)], 5), 2, "{tenant}");
    }
    // Without the header it is the address that counts.
    assert_eq!(passes(&gateway, "/tenant", &[], 5), 2);
    assert!(get(gateway.port(), "/tenant").header("ratelimit").unwrap().starts_with("\"tenants\";r=0"));
}

fn hash(key: &str) -> String {
    let digits: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn with_consumers() -> String {
    "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:
      - { name: acme, api_keys: [ { hash: 'K1' }, { hash: 'K2' } ] }
      - { name: globex, api_keys: [ { hash: 'K3' } ] }
    policies: { authn: { api_key: {} } }
    routes:
      - { path: /key, service: a, policies: { rate_limit: { by: api_key, limit: 2/hour } } }
      - { path: /consumer, service: a, policies: { rate_limit: { by: consumer, limit: 3/hour } } }
      - { path: /subject, service: a, policies: { rate_limit: { by: subject, limit: 2/hour } } }
      - { path: /route, service: a, policies: { rate_limit: { by: route, limit: 4/hour } } }
    "
    .replace("K1", &hash("key-one"))
    .replace("K2", &hash("key-two"))
    .replace("K3", &hash("key-three"))
}

#[test]
fn by_key_consumer_subject_and_route() {
    let (_backend, gateway) = start(&with_consumers());
    let count = |path: &str| -> BTreeMap<&str, usize> {
        let keys = ["key-one", "key-two", "key-three"];
        keys.into_iter().map(|key| (key, passes(&gateway, path, &[("X-API-Key", key)], 5))).collect()
    };
    assert_eq!(count("/key"), [("key-one", 2), ("key-two", 2), ("key-three", 2)].into());
    assert_eq!(count("/consumer"), [("key-one", 3), ("key-two", 0), ("key-three", 3)].into());
    assert_eq!(count("/subject"), [("key-one", 2), ("key-two", 0), ("key-three", 2)].into());
    assert_eq!(count("/route"), [("key-one", 4), ("key-two", 0), ("key-three", 0)].into());
}

#[test]
fn the_coarse_limit_stands_before_authentication() {
    let yaml = with_consumers().replace("authn: {", "address_limit: { limit: 6/hour }, authn: {");
    let (backend, gateway) = start(&yaml);
    // Guessing is counted, whatever comes of it.
    for _ in 0..5 {
        request(gateway.port(), "GET", "/key", &[("X-API-Key", "guess")], b"").assert_problem(401, "authn", "unknown_api_key");
    }
    assert_eq!(request(gateway.port(), "GET", "/consumer", &[("X-API-Key", "key-one")], b"").status, 200);
    for key in ["guess", "key-one"] {
        let refused = request(gateway.port(), "GET", "/consumer", &[("X-API-Key", key)], b"");
        refused.assert_problem(429, "address_limit", "address_limited");
        assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1);
        assert_eq!(refused.header("www-authenticate"), None, "it was not asked who it is");
        assert_eq!(refused.header("ratelimit"), None, "the limit by identity was not asked either");
    }
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn each_client_behind_a_trusted_proxy_has_its_own() {
    let yaml = ROUTE.replace("bind: 127.0.0.1:$PORT }", "bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1 ] }");
    let (_backend, gateway) = start(&yaml);
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!(passes(&gateway, "/hour", &[("X-Forwarded-For", client)], 7), 5, "{client}");
    }
    // One /64 is one client.
    assert_eq!(passes(&gateway, "/hour", &[("X-Forwarded-For", "2001:db8::2")], 2), 0);
    // Without trust, nobody gets around it so.
    let (_backend, gateway) = start(ROUTE);
    assert_eq!(passes(&gateway, "/hour", &[("X-Forwarded-For", "192.0.2.1")], 4), 4);
    assert_eq!(passes(&gateway, "/hour", &[("X-Forwarded-For", "192.0.2.2")], 4), 1);
}

#[test]
fn a_reload_forgets_nothing() {
    let backend = Backend::http();
    let yaml = filled(ROUTE, &[("$BACKEND", backend.port())]);
    let gateway = Gateway::start(&yaml);
    assert_eq!(passes(&gateway, "/hour", &[], 4), 4);
    assert_eq!(passes(&gateway, "/burst", &[], 5), 3);
    // Something else changes.
    gateway.rewrite(&yaml.replace("path: /free,", "path: /gratis,"));
    let (status, answer) = gateway.reload();
    assert_eq!((status, answer["generation"].as_u64()), (200, Some(2)), "{answer}");
    assert_eq!(get(gateway.port(), "/gratis").status, 200);
    assert_eq!(passes(&gateway, "/hour", &[], 4), 1);
    assert_eq!(passes(&gateway, "/burst", &[], 4), 0);
    // A larger limit keeps what was consumed: 5 of now 8 are gone.
    gateway.rewrite(&yaml.replace("limit: 5/hour", "limit: 8/hour"));
    assert_eq!(gateway.reload().0, 200);
    let passed = passes(&gateway, "/hour", &[], 12);
    assert!((3..=4).contains(&passed), "{passed} passed after the limit grew by 3");
    // A bad file changes nothing.
    gateway.rewrite("listeners: none of your business");
    assert_eq!(gateway.reload().0, 422);
    assert_eq!(passes(&gateway, "/hour", &[], 3), 0);
    gateway.signal("HUP");
    eventually("the signal's reload is refused as well", || {
        gateway.metric("portcullis_reloads_total{result=\"refused\"}") >= 2.0
    });
    assert_eq!(passes(&gateway, "/hour", &[], 3), 0);
}
