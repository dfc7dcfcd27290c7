//! What the cache gives to whom, where an answer may be for one client only. Over both protocols.

use crate::harness::{Answer, Backend, Gateway, RecordedRequest, curl, filled};
use crate::peers::answer;

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const CONFIG: &str = "
    listeners:
      - { bind: 127.0.0.1:$PORT, h2c: true, trusted_proxies: [ 127.0.0.1 ] }
    server: { workers: 1 }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:
      - { name: guest }
      - { name: shop, api_keys: [ { hash: 'sha256:a8ae6e6ee929abea3afcfc5258c8ccd6f85273e0d4626d26c7279f3250f77c8e' } ] }
    policies: { cache: { ttl: 1h } }
    routes:
      - path: /account
        service: a
        policies:
          external_auth:
            url: http://127.0.0.1:$AUTH/
            request_headers: [ X-Door ]
            upstream_headers: [ X-Account ]
            client_headers: [ X-Greeting ]
      - { path: /token, service: a, policies: { external_auth: { url: 'http://127.0.0.1:$AUTH/', request_headers: [ X-Door ], upstream_headers: [ Authorization ] } } }
      - { path: /address, service: a, policies: { request_headers: { set: { X-Client: 'at {client_address}', X-Id: '{request_id}', X-Zone: eu } } } }
      - { path: /greeted, service: a, policies: { response_headers: { set: { X-Greeting: 'hello {client_address}' } } } }
      - { path: /optional, service: a, policies: { authn: { api_key: { header: X-Shop-Key, query: shop_key }, optional: true }, request_headers: { set: { X-Who: '{consumer}' } } } }
      - { path: /guest, service: a, policies: { authn: { api_key: { header: X-Shop-Key }, anonymous: guest } } }
      - { path: /keyed, service: a, policies: { cache: { ttl: 1h, key_headers: [ X-API-Key, X-Tenant ] }, request_headers: { set: { X-Tenant: fixed } } } }
      - { path: /noquery, service: a, policies: { cache: { ttl: 1h, query: none } } }
      - { path: /*, service: a }
";

/// Says whom it takes the request to be from.
fn backend() -> Backend {
    Backend::answering(|request| {
        let told = ["x-account", "authorization", "x-client", "x-who", "x-consumer-name", "x-api-key", "x-tenant"];
        let told: Vec<&str> = told.iter().filter_map(|name| request.header(name)).collect();
        answer(200, &[], format!("[{}]", told.join(" ")))
    })
}

/// Lets everybody pass. Whoever comes by a door has an account of that name.
fn service() -> Backend {
    Backend::answering(|request: &RecordedRequest| match request.header("x-door") {
        Some(door) => {
            let (token, greeting) = (format!("Bearer {door}"), format!("hello {door}"));
            answer(200, &[("X-Account", door), ("Authorization", &token), ("X-Greeting", &greeting)], "")
        }
        None => answer(200, &[], ""),
    })
}

struct Lab {
    backend: Backend,
    gateway: Gateway,
    _service: Backend,
}

impl Lab {
    fn start() -> Lab {
        let (backend, service) = (backend(), service());
        let yaml = filled(CONFIG, &[("$BACKEND", backend.port()), ("$AUTH", service.port())]);
        Lab { gateway: Gateway::start(&yaml), backend, _service: service }
    }

    fn ask(&self, protocol: &str, path: &str, fields: &[&str]) -> Answer {
        let url = self.gateway.url(path);
        let mut args = vec![protocol];
        args.extend(fields.iter().flat_map(|field| ["-H", field]));
        args.push(&url);
        let answer = curl(&args);
        assert_eq!(answer.status, 200, "{path} {fields:?}: {}", answer.text());
        answer
    }

    /// What was told to the backend for this answer.
    fn body(&self, protocol: &str, path: &str, fields: &[&str]) -> String {
        self.ask(protocol, path, fields).text()
    }

    #[track_caller]
    fn is_hit(&self, protocol: &str, path: &str, fields: &[&str], body: &str) {
        let before = self.backend.requests().len();
        let answer = self.ask(protocol, path, fields);
        assert_eq!(answer.text(), body, "{path} {fields:?}");
        assert!(answer.header("cache-status").unwrap().contains("hit"), "{path} {fields:?}: {:?}", answer.headers);
        assert_eq!(self.backend.requests().len(), before);
    }

    /// Neither given what was stored nor stored, however often it is asked for.
    #[track_caller]
    fn bypasses(&self, protocol: &str, path: &str, fields: &[&str], body: &str) {
        for _ in 0..2 {
            let answer = self.ask(protocol, path, fields);
            assert_eq!(answer.text(), body, "{path} {fields:?}");
            assert_eq!(answer.header("cache-status"), Some("portcullis; fwd=bypass; detail=credentials"), "{path} {fields:?}");
        }
    }
}

const PROTOCOLS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

#[test]
fn what_another_service_says_of_a_client_is_that_clients() {
    for protocol in PROTOCOLS {
        let lab = Lab::start();
        for (fields, body) in [
            (&["X-Door: ada"][..], "[ada]"),
            (&["X-Door: bob"], "[bob]"),
            (&[], "[]"),
            // Forged, and so removed before anything looks at it.
            (&["X-Door: eve", "X-Account: ada"], "[eve]"),
            (&["X-Account: ada"], "[]"),
        ] {
            assert_eq!(lab.body(protocol, "/account", fields), body, "{fields:?}");
            lab.is_hit(protocol, "/account", fields, body);
        }
        for name in ["ada", "bob"] {
            let greeted = lab.ask(protocol, "/account", &[&format!("X-Door: {name}")]);
            assert_eq!(greeted.all("x-greeting"), [format!("hello {name}")], "said afresh, never stored");
        }
        assert_eq!(lab.ask(protocol, "/account", &[]).header("x-greeting"), None);
        lab.bypasses(protocol, "/token", &["X-Door: ada"], "[Bearer ada]");
        assert_eq!(lab.body(protocol, "/token", &[]), "[]");
        lab.is_hit(protocol, "/token", &[], "[]");
    }
}

#[test]
fn what_a_template_says_of_a_client_is_that_clients() {
    for protocol in PROTOCOLS {
        let lab = Lab::start();
        let (ada, bob) = (&["X-Forwarded-For: 192.0.2.1"][..], &["X-Forwarded-For: 192.0.2.2"][..]);
        for (client, body) in [(ada, "[at 192.0.2.1]"), (bob, "[at 192.0.2.2]")] {
            assert_eq!(lab.body(protocol, "/address", client), body);
            lab.is_hit(protocol, "/address", client, body);
        }
        for client in [ada, bob] {
            let answer = lab.ask(protocol, "/greeted", client);
            let address = client[0].split(' ').nth(1).unwrap();
            assert_eq!(answer.all("x-greeting"), [format!("hello {address}")], "added to the answer, never stored");
        }
        lab.is_hit(protocol, "/greeted", ada, "[]");
    }
}

#[test]
fn a_key_that_the_backend_checks_itself_keeps_a_request_from_the_cache() {
    for protocol in PROTOCOLS {
        let lab = Lab::start();
        assert_eq!(lab.body(protocol, "/a", &[]), "[]");
        lab.bypasses(protocol, "/a", &["X-API-Key: one"], "[one]");
        lab.bypasses(protocol, "/a", &["x-api-key: two"], "[two]");
        let fields = ["Api-Key", "X-Auth-Token", "Proxy-Authorization", "X-Access-Token", "Private-Token", "Signature", "Cookie"];
        // And what any `authn` of the file reads, on a route without it.
        for name in fields.into_iter().chain(["X-Shop-Key"]) {
            lab.bypasses(protocol, "/a", &[&format!("{name}: one")], "[]");
        }
        lab.bypasses(protocol, "/a?shop_key=one", &[], "[]");
        lab.bypasses(protocol, "/noquery?x&shop%5Fkey=one", &[], "[]");
        lab.is_hit(protocol, "/a", &["X-Tenant: north"], "[]");

        for key in ["one", "two"] {
            let (field, body) = (format!("X-API-Key: {key}"), format!("[{key} fixed]"));
            assert_eq!(lab.body(protocol, "/keyed", &[&field]), body);
            lab.is_hit(protocol, "/keyed", &[&field], &body);
            // The backend sees the policy's field, and so does the key.
            lab.is_hit(protocol, "/keyed", &[&field, "X-Tenant: forged"], &body);
        }
        assert_eq!(lab.body(protocol, "/keyed", &[]), "[fixed]");
        lab.bypasses(protocol, "/keyed", &["X-API-Key: one", "X-Auth-Token: one"], "[one fixed]");
    }
}

#[test]
fn an_identity_keeps_a_request_from_the_cache_and_its_absence_does_not() {
    for protocol in PROTOCOLS {
        let lab = Lab::start();
        let key = format!("X-Shop-Key: {KEY}");
        assert_eq!(lab.body(protocol, "/optional", &[]), "[]");
        lab.bypasses(protocol, "/optional", &[&key], "[shop shop]");
        lab.bypasses(protocol, &format!("/optional?shop_key={KEY}"), &[], "[shop shop]");
        lab.is_hit(protocol, "/optional", &[], "[]");
        lab.bypasses(protocol, "/guest", &[], "[guest]");
        lab.bypasses(protocol, "/guest", &[&key], "[shop]");
        lab.bypasses(protocol, "/guest", &[], "[guest]");
    }
}
