//! May it? Lists of addresses, conditions on who it is, rules, and another service's word. And every stage before the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::*;

const SECRET: &str = "a-shared-secret-of-at-least-32-bytes-4711";

fn hash(key: &str) -> String {
    let digits: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn token(claims: Value) -> String {
    let mut all = json!({ "iss": "https://id.example.com", "sub": "ada", "exp": jsonwebtoken::get_current_timestamp() + 600 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let token = jsonwebtoken::encode(&Header::default(), &all, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    format!("Bearer {token}")
}

/// An answer of the service that is asked.
fn said(status: &str, fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n").into_bytes()
}

mod order {
    use super::*;

    /// One route with work in every stage. What a request fails is for its headers to say.
    const CONFIG: &str = "
        listeners: [ { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.0/8 ] } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        consumers:
          - { name: good, api_keys: [ { hash: 'GOOD' } ], scopes: [ orders ] }
          - { name: poor, api_keys: [ { hash: 'POOR' } ] }
        routes:
          - path: /orders
            service: a
            policies:
              ip_restriction: { deny: [ 10.0.0.0/8 ] }
              validate: { json: true, required_headers: [ X-Tenant ] }
              authn: { api_key: {} }
              authz: { scopes: [ orders ] }
              external_auth: { url: 'http://127.0.0.1:$SERVICE/', request_headers: [ X-Verdict ], timeout: 5s }
              rate_limit: { by: { header: X-Bucket }, limit: 1/day }
              request_headers: { set: { X-Shaped: 'yes' } }
    ";

    /// In the order of the stages; within authz, in the registry's.
    const STEPS: [(u16, &str, &str); 6] = [
        (403, "ip_restriction", "ip_denied"),
        (400, "validate", "header_missing"),
        (401, "authn", "missing_credentials"),
        (403, "authz", "insufficient_scope"),
        (403, "external_auth", "external_auth_denied"),
        (429, "rate_limit", "rate_limited"),
    ];

    fn refusals(gateway: &Gateway) -> BTreeMap<&'static str, f64> {
        let count = |policy| gateway.metric(&format!("portcullis_refusals_total{{policy=\"{policy}\"}}"));
        STEPS.iter().map(|(_, policy, _)| (*policy, count(policy))).collect()
    }

    /// Every set of steps that a request can fail: the first of them refuses, and the later ones do nothing.
    #[test]
    fn the_first_stage_refuses_and_the_later_ones_do_nothing() {
        let backend = Backend::http();
        let service = Backend::answering(|asked| match asked.header("x-verdict") {
            Some("no") => said("403 Forbidden", ""),
            _ => said("200 OK", ""),
        });
        let yaml = filled(CONFIG, &[("$BACKEND", backend.port()), ("$SERVICE", service.port())]);
        let yaml = yaml.replace("GOOD", &hash("good-key")).replace("POOR", &hash("poor-key"));
        served(&yaml, |gateway| {
            let mut client = Client::connect(gateway.port());
            let mut answered = 0.0;
            // The one request that uses up the bucket `empty`.
            let fine = [("X-Forwarded-For", "192.0.2.1"), ("X-Tenant", "t"), ("X-API-Key", "good-key"), ("X-Bucket", "empty")];
            assert_eq!(client.request("GET", "/orders", &fine, b"").status, 200);
            answered += 1.0;
            for fails in 0..1u32 << STEPS.len() {
                let failed = |step: u32| fails & (1 << step) != 0;
                let bucket = format!("bucket-{fails}");
                let mut headers = vec![("X-Forwarded-For", if failed(0) { "10.9.9.9" } else { "192.0.2.1" })];
                if !failed(1) {
                    headers.push(("X-Tenant", "t"));
                }
                if !failed(2) {
                    headers.push(("X-API-Key", if failed(3) { "poor-key" } else { "good-key" }));
                }
                headers.push(("X-Verdict", if failed(4) { "no" } else { "yes" }));
                headers.push(("X-Bucket", if failed(5) { "empty" } else { &bucket }));
                let before = (refusals(gateway), service.requests().len(), backend.requests().len());
                let answer = client.request("GET", "/orders", &headers, b"");
                answered += 1.0;
                gateway.wait_metric("portcullis_requests_total", answered);
                let after = refusals(gateway);
                let first = (0..STEPS.len()).find(|step| failed(*step as u32));
                for (at, (status, policy, reason)) in STEPS.iter().enumerate() {
                    let refused = first == Some(at);
                    if refused {
                        answer.assert_problem(*status, policy, reason);
                    }
                    assert_eq!(after[policy] - before.0[policy], f64::from(u8::from(refused)), "{policy} of {fails:06b}");
                }
                let reached = |step: usize| first.is_none_or(|first| step <= first);
                assert_eq!(service.requests().len() - before.1, usize::from(reached(4)), "the service, {fails:06b}");
                assert_eq!(answer.header("ratelimit").is_some(), reached(5), "the limit, {fails:06b}");
                assert_eq!(backend.requests().len() - before.2, usize::from(first.is_none()), "the backend, {fails:06b}");
                if first.is_none() {
                    assert_eq!((answer.status, backend.last().header("x-shaped")), (200, Some("yes")));
                }
            }
            // Not one of the requests that another step refused took from a bucket.
            for fails in (0..1u32 << STEPS.len()).filter(|fails| fails & 0b100000 == 0 && *fails != 0) {
                let bucket = format!("bucket-{fails}");
                let headers = [&fine[..3], &[("X-Bucket", &*bucket)]].concat();
                assert_eq!(client.request("GET", "/orders", &headers, b"").status, 200, "{bucket}");
            }
        });
    }

    /// Nobody's body is read before it is known who he is and that he may.
    #[test]
    fn a_body_is_judged_after_addresses_and_credentials() {
        let backend = Backend::http();
        let service = Backend::answering(|_| said("200 OK", ""));
        let yaml = filled(CONFIG, &[("$BACKEND", backend.port()), ("$SERVICE", service.port())]);
        let yaml = yaml.replace("GOOD", &hash("good-key")).replace("POOR", &hash("poor-key"));
        served(&yaml, |gateway| {
            let ask = |address: &str, body: &[u8]| {
                let headers = [("X-Forwarded-For", address), ("X-Tenant", "t"), ("Content-Type", "application/json")];
                request(gateway.port(), "POST", "/orders", &headers, body)
            };
            ask("10.0.0.1", b"{").assert_problem(403, "ip_restriction", "ip_denied");
            ask("192.0.2.1", b"{").assert_problem(401, "authn", "missing_credentials");
            ask("192.0.2.1", b"{}").assert_problem(401, "authn", "missing_credentials");
            gateway.wait_metric("portcullis_refusals_total{policy=\"authn\"}", 2.0);
            assert!(service.requests().is_empty() && backend.requests().is_empty());
        });
    }
}

mod addresses {
    use super::*;

    #[test]
    fn lists_hold_behind_trusted_proxies_and_change_with_a_reload() {
        let backend = Backend::http();
        let files = Files::new();
        let list: String = (0..5000).map(|n| format!("198.{}.{}.0/24\n", 18 + n / 256, n % 256)).collect();
        files.write("deny.txt", format!("# scanners\n{list}"));
        let yaml = filled(
            "
            listeners:
              - { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.0/8 ] }
              - { name: direct, bind: 127.0.0.1:$PORT2 }
            services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
            policies: { ip_restriction: { deny_file: deny.txt } }
            routes:
              - { path: /open, service: a }
              - { path: /office, service: a, policies: { ip_restriction: { allow: [ 192.0.2.0/24, 2001:db8::/32 ], deny: [ 192.0.2.128/25 ] } } }
            ",
            &[("$BACKEND", backend.port())],
        );
        let gateway = Gateway::start_in(&files, &yaml);
        let from = |address: &str, path: &str| request(gateway.port(), "GET", path, &[("X-Forwarded-For", address)], b"");
        from("198.18.7.9", "/open").assert_problem(403, "ip_restriction", "ip_denied");
        from("::ffff:198.18.7.9", "/open").assert_problem(403, "ip_restriction", "ip_denied");
        assert_eq!(from("198.17.7.9", "/open").status, 200);
        assert_eq!(from("192.0.2.7", "/office").status, 200);
        assert_eq!(from("2001:db8::7", "/office").status, 200);
        from("192.0.2.200", "/office").assert_problem(403, "ip_restriction", "ip_denied");
        from("198.51.100.1", "/office").assert_problem(403, "ip_restriction", "ip_denied");
        // Nobody is believed who is no trusted proxy.
        let forged = request(gateway.port2(), "GET", "/office", &[("X-Forwarded-For", "192.0.2.7")], b"");
        forged.assert_problem(403, "ip_restriction", "ip_denied");
        files.write("deny.txt", "203.0.113.0/24\n");
        assert_eq!(gateway.reload().0, 200);
        assert_eq!(from("198.18.7.9", "/open").status, 200);
        assert_eq!(from("203.0.113.7", "/open").status, 403);
        // A list that cannot be read changes nothing.
        files.write("deny.txt", "203.0.113.0/24\nnonsense\n");
        let (status, said) = gateway.reload();
        assert!(status != 200 && said.to_string().contains("line 2"), "{status} {said}");
        assert_eq!(from("203.0.113.7", "/open").status, 403);
    }
}

mod conditions {
    use super::*;

    const CONFIG: &str = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          authn: { optional: true, jwt: { issuer: https://id.example.com, keys: [ { secret: '${JWT_SECRET}' } ] } }
        routes:
          - path: /orders/{id}
            service: a
            policies:
              authz:
                - { roles: [ clerk, admin ], roles_claim: realm_access.roles }
                - { methods: [ POST, DELETE ], scopes: [ orders:write ], claims: { email_verified: true } }
          - path: /rules/{owner}/*
            service: a
            policies:
              authz:
                rules:
                  - { deny: \"request.headers['user-agent'].contains('bot')\", message: No robots. }
                  - { allow: identity.subject == route.params.owner }
                  - { allow: \"request.method == 'GET' && 'public' in request.query.scope\" }
    ";

    #[test]
    fn roles_claims_and_methods() {
        let backend = Backend::http();
        served_with(&filled(CONFIG, &[("$BACKEND", backend.port())]), &[("JWT_SECRET", SECRET)], |gateway| {
            let ask = |method: &str, claims: Value| {
                request(gateway.port(), method, "/orders/7", &[("Authorization", &token(claims))], b"")
            };
            let clerk = |more: Value| {
                let mut claims = json!({ "realm_access": { "roles": ["clerk"] } });
                claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                claims
            };
            assert_eq!(ask("GET", clerk(json!({}))).status, 200);
            ask("GET", json!({ "roles": ["clerk"] })).assert_problem(403, "authz", "role_not_allowed");
            let lacking = ask("POST", clerk(json!({ "email_verified": true })));
            lacking.assert_problem(403, "authz", "insufficient_scope");
            assert_eq!(lacking.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\", scope=\"orders:write\""));
            let unverified = ask("POST", clerk(json!({ "scope": "orders:write", "email_verified": "true" })));
            unverified.assert_problem(403, "authz", "claim_not_allowed");
            assert!(!unverified.text().contains("email"), "a refusal does not say what would have been needed");
            assert_eq!(ask("POST", clerk(json!({ "scope": "orders:write", "email_verified": true }))).status, 200);
            get(gateway.port(), "/orders/7").assert_problem(403, "authz", "anonymous");
        });
    }

    /// What an entry says of some methods opens nothing for the others.
    #[test]
    fn methods_that_no_entry_is_about_do_not_reach_the_backend() {
        let backend = Backend::http();
        let yaml = "
            listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
            services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
            policies:
              authn: { optional: true, jwt: { issuer: https://id.example.com, keys: [ { secret: '${JWT_SECRET}' } ] } }
            routes:
              - path: /*
                service: a
                policies:
                  authz:
                    - { methods: [ POST ], scopes: [ orders:write ] }
                    - { methods: [ GET ], anyone: true }
        ";
        served_with(&filled(yaml, &[("$BACKEND", backend.port())]), &[("JWT_SECRET", SECRET)], |gateway| {
            let before = backend.requests().len();
            for method in ["DELETE", "PATCH", "OPTIONS", "PURGE", "QUERY"] {
                request(gateway.port(), method, "/", &[], b"").assert_problem(403, "authz", "method_not_covered");
                let answer = curl(&["--http2-prior-knowledge", "-X", method, &gateway.url("/")]);
                answer.assert_problem(403, "authz", "method_not_covered");
            }
            for method in ["post", "pOst", "delete"] {
                assert!(matches!(request(gateway.port(), method, "/", &[], b"").status, 400 | 403 | 501), "{method}");
            }
            assert_eq!(backend.requests().len(), before);
            for method in ["GET", "HEAD"] {
                assert_eq!(request(gateway.port(), method, "/", &[], b"").status, 200, "{method}");
            }
            request(gateway.port(), "POST", "/", &[], b"").assert_problem(403, "authz", "anonymous");
        });
    }

    #[test]
    fn rules_over_request_identity_and_route() {
        let backend = Backend::http();
        served_with(&filled(CONFIG, &[("$BACKEND", backend.port())]), &[("JWT_SECRET", SECRET)], |gateway| {
            let ada = token(json!({}));
            let ask = |path: &str, headers: &[(&str, &str)]| request(gateway.port(), "GET", path, headers, b"");
            assert_eq!(ask("/rules/ada/x", &[("User-Agent", "curl"), ("Authorization", &ada)]).status, 200);
            assert_eq!(ask("/rules/bob/x?scope=public", &[("User-Agent", "curl")]).status, 200);
            let robot = ask("/rules/ada/x", &[("User-Agent", "somebot/1"), ("Authorization", &ada)]);
            robot.assert_problem(403, "authz", "rule_denied");
            assert_eq!(robot.json()["detail"], "No robots.");
            let other = ask("/rules/bob/x?scope=private", &[("User-Agent", "curl"), ("Authorization", &ada)]);
            other.assert_problem(403, "authz", "rule_not_allowed");
            // Without the header the first rule fails, which refuses and is counted, and without the parameter the third.
            ask("/rules/ada/x", &[("Authorization", &ada)]).assert_problem(403, "authz", "rule_failed");
            ask("/rules/bob/x", &[("User-Agent", "curl"), ("Authorization", &ada)]).assert_problem(403, "authz", "rule_failed");
            gateway.wait_metric("portcullis_authz_rule_errors_total{rule=\"1\"}", 1.0);
            gateway.wait_metric("portcullis_authz_rule_errors_total{rule=\"3\"}", 1.0);
            for _ in 0..20 {
                ask("/rules/ada/x", &[("Authorization", &ada)]);
            }
            gateway.wait_metric("portcullis_authz_rule_errors_total{rule=\"1\"}", 21.0);
            assert_eq!(gateway.stderr().matches("rule 1: failed (missing)").count(), 1, "{}", gateway.stderr());
        });
    }

    #[test]
    fn a_rule_that_cannot_compile_is_a_problem_with_its_place() {
        let files = Files::new();
        let yaml = "\
listeners: [ { bind: 127.0.0.1:8080 } ]
services: { a: { endpoints: [ 127.0.0.1:9001 ] } }
routes:
  - path: /a
    service: a
    policies:
      authz:
        rules:
          - deny: request.metod == 'GET'
          - allow: request.path.startsWith(
          - allow: request.path
";
        files.write("bad.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        for (at, said) in
            [("9:19", "did you mean `request.method`?"), ("10:20", "no CEL expression"), ("11:20", "comes to a text")]
        {
            let arrow = format!("--> bad.yaml:{at}");
            let block =
                ran.stderr.split("\n\n").find(|block| block.contains(&arrow)).unwrap_or_else(|| panic!("{at}: {}", ran.stderr));
            assert!(block.contains(said), "{block}");
        }
    }
}

mod external {
    use super::*;

    fn config(backend: &Backend, service: u16, policy: &str) -> String {
        let yaml = "
            listeners: [ { bind: 127.0.0.1:$PORT } ]
            services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
            routes: [ { path: /*, service: a, policies: { external_auth: { url: 'http://127.0.0.1:$SERVICE/check?x=1', POLICY } } } ]
        ";
        filled(yaml, &[("$BACKEND", backend.port()), ("$SERVICE", service)]).replace("POLICY", policy)
    }

    /// The same, asked by a URL and as a service.
    fn both(backend: &Backend, service: u16, policy: &str) -> [String; 2] {
        let by_url = config(backend, service, policy);
        let url = format!("url: 'http://127.0.0.1:{service}/check?x=1'");
        assert!(by_url.contains(&url));
        let by_service = by_url.replace(&url, "service: judge, path: '/check?x=1'");
        [by_url, by_service.replace("services: {", &format!("services: {{ judge: {{ endpoints: [ '127.0.0.1:{service}' ] }},"))]
    }

    fn served_both(backend: &Backend, service: u16, policy: &str, test: impl Fn(&Gateway)) {
        both(backend, service, policy).iter().for_each(|yaml| served(yaml, &test));
    }

    #[test]
    fn the_service_decides_and_says_who_it_is() {
        let backend = Backend::http();
        let service = Backend::answering(|asked| match asked.header("authorization") {
            Some("Bearer good") => said(
                "200 OK",
                "X-User: ada\r\nX-User: admin\r\nX-Secret: s\r\nX-Consumer-Name: root\r\nSet-Cookie: seen=1\r\nSet-Cookie: b=2\r\n",
            ),
            Some("Bearer login") => said("302 Found", "Location: https://id.example.com/login\r\nX-User: ada\r\n"),
            _ => said("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"x\"\r\nX-Secret: s\r\n"),
        });
        let policy = "upstream_headers: [ X-User ], client_headers: [ Set-Cookie ], deny_statuses: [ 401, 403, 302 ], \
                      deny_headers: [ WWW-Authenticate, Location ], timeout: 5s";
        served_both(&backend, service.port(), policy, |gateway| {
            let ask = |authorization: &str| {
                let headers = [
                    ("Authorization", authorization),
                    ("X-User", "forged"),
                    ("X_User", "forged"),
                    ("Cookie", "c=1"),
                    ("X-Own", "1"),
                ];
                request(gateway.port(), "DELETE", "/a/b?c=d", &headers, b"")
            };
            let before = backend.requests().len();
            let answer = ask("Bearer good");
            assert_eq!((answer.status, answer.all("set-cookie")), (200, vec!["seen=1", "b=2"]), "{answer:?}");
            assert!(answer.header("x-user").is_none());
            let seen = backend.last();
            assert_eq!(seen.all("x-user"), ["ada", "admin"]);
            assert!(
                !seen.head_text().contains("forged") && !seen.head_text().contains("root") && seen.header("x-secret").is_none()
            );
            let asked = service.last();
            assert_eq!((&*asked.method, &*asked.target), ("GET", "/check?x=1"));
            for (name, value) in [
                ("x-forwarded-method", "DELETE"),
                ("x-forwarded-uri", "/a/b?c=d"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-for", "127.0.0.1"),
                ("cookie", "c=1"),
            ] {
                assert_eq!(asked.header(name), Some(value), "{name}");
            }
            // What everybody is sent is there once.
            assert_eq!(asked.all("x-request-id"), answer.all("x-request-id"));
            assert_eq!((asked.all("traceparent").len(), asked.all("host").len()), (1, 1), "{}", asked.head_text());
            assert!(asked.header("x-own").is_none() && asked.header("x-user").is_none());
            let refused = ask("Bearer bad");
            refused.assert_problem(401, "external_auth", "external_auth_denied");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"x\""));
            assert!(refused.header("x-secret").is_none());
            let login = ask("Bearer login");
            assert_eq!((login.status, login.header("location")), (302, Some("https://id.example.com/login")));
            assert_eq!(backend.requests().len() - before, 1);
            gateway.wait_metric("portcullis_external_auth_total{outcome=\"denied\"}", 2.0);
            gateway.wait_metric("portcullis_external_auth_total{outcome=\"allowed\"}", 1.0);
        });
    }

    #[test]
    fn connections_are_used_again() {
        let (backend, service) = (Backend::http(), Backend::answering(|_| said("200 OK", "")));
        served_both(&backend, service.port(), "timeout: 5s", |gateway| {
            let before = service.connections();
            let mut client = Client::connect(gateway.port());
            for _ in 0..50 {
                assert_eq!(client.request("GET", "/", &[], b"").status, 200);
            }
            assert!(service.connections() - before <= 2, "{} connections", service.connections() - before);
        });
    }

    #[test]
    fn nginx_can_be_asked() {
        let nginx = Nginx::start(
            "location / { if ($http_authorization != 'Basic Zm9v') { return 403; } add_header X-User foo; return 204; }",
        );
        let backend = Backend::http();
        let gateway = Gateway::start(&config(&backend, nginx.port(), "upstream_headers: [ X-User ], timeout: 5s"));
        assert_eq!(curl(&["-H", "Authorization: Basic Zm9v", &gateway.url("/x")]).status, 200);
        assert_eq!(backend.last().all("x-user"), ["foo"]);
        curl(&[&gateway.url("/x")]).assert_problem(403, "external_auth", "external_auth_denied");
    }

    /// Its certificate has to be one that the configuration trusts.
    #[test]
    fn a_service_behind_tls_is_asked_if_it_is_trusted() {
        let files = Files::new();
        let (trusted, key, _) = files.certificate(&["127.0.0.1"]);
        let (stranger, _, _) = files.certificate(&["127.0.0.1"]);
        let nginx = Nginx::start_in(
            &files,
            &format!(
                "listen 127.0.0.1:$PORT ssl; ssl_certificate {}; ssl_certificate_key {};
                 location / {{ add_header X-User foo; return 204; }}",
                trusted.display(),
                key.display(),
            ),
        );
        let backend = Backend::http();
        for (ca, status) in [(&trusted, 200), (&stranger, 503)] {
            let yaml =
                config(&backend, nginx.port(), &format!("ca: {}, upstream_headers: [ X-User ], timeout: 5s", ca.display()));
            let gateway = Gateway::start(&yaml.replace("http://127.0.0.1", "https://127.0.0.1"));
            assert_eq!(get(gateway.port(), "/").status, status, "{ca:?}");
        }
        assert_eq!((backend.requests().len(), backend.last().all("x-user")), (1, vec!["foo"]));
    }

    /// Slow, gone, hung up, no HTTP, another status, too much: each does what `fail` says, within the deadline.
    #[test]
    fn a_service_that_fails_closes_or_opens() {
        let closed_port = Port::lease();
        let slow = Backend::scripted(|stream| {
            let mut bytes = [0; 4096];
            while std::io::Read::read(&mut &stream, &mut bytes).is_ok_and(|read| read > 0) {}
        });
        let broken = Backend::scripted(|stream| drop(std::io::Write::write_all(&mut &stream, b"hello\r\n\r\n")));
        let error = Backend::answering(|_| said("500 Internal Server Error", ""));
        let redirect = Backend::answering(|_| said("302 Found", "Location: http://127.0.0.1:1/\r\n"));
        let long = Backend::answering(|_| said("200 OK", &format!("X-User: {}\r\n", "a".repeat(40_000))));
        let ports = [closed_port.number(), slow.port(), broken.port(), error.port(), redirect.port(), long.port()];
        let backend = Backend::http();
        for port in ports {
            for fail in ["closed", "open"] {
                let policy = format!("upstream_headers: [ X-User ], timeout: 300ms, fail: {fail}");
                for yaml in both(&backend, port, &policy) {
                    let gateway = Gateway::start(&yaml);
                    let since = Instant::now();
                    let answer = request(gateway.port(), "GET", "/", &[("X-User", "forged")], b"");
                    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
                    if fail == "closed" {
                        answer.assert_problem(503, "external_auth", "external_auth_unavailable");
                    } else {
                        assert_eq!(answer.status, 200);
                        assert!(backend.last().header("x-user").is_none(), "an open door is no way to say who one is");
                    }
                    gateway.wait_metric(&format!("portcullis_external_auth_total{{outcome=\"failed_{fail}\"}}"), 1.0);
                }
            }
        }
    }

    #[test]
    fn answers_are_remembered_for_their_time_and_their_credentials() {
        let backend = Backend::http();
        let service = Backend::answering(|asked| match asked.header("authorization") {
            Some("good") => said("200 OK", "X-User: ada\r\n"),
            Some("fresh") => said("200 OK", "Cache-Control: no-store\r\n"),
            Some("broken") => said("500 Oops", ""),
            _ => said("403 Forbidden", ""),
        });
        let policy = "timeout: 5s, upstream_headers: [ X-User ], cache: { ttl: 1h, ignore: [ path ] }";
        served_both(&backend, service.port(), policy, |gateway| {
            let asked = |authorization: &str, path: &str, status: u16| {
                let before = service.requests().len();
                let answer = request(gateway.port(), "GET", path, &[("Authorization", authorization), ("Host", "h")], b"");
                assert_eq!(answer.status, status);
                service.requests().len() - before
            };
            assert_eq!(asked("good", "/a", 200), 1);
            assert_eq!(asked("good", "/b", 200), 0);
            assert_eq!(backend.last().all("x-user"), ["ada"]);
            assert_eq!(asked("bad", "/a", 403), 1);
            assert_eq!(asked("bad", "/a", 403), 0);
            assert_eq!((asked("fresh", "/a", 200), asked("fresh", "/a", 200)), (1, 1));
            assert_eq!((asked("broken", "/a", 503), asked("broken", "/a", 503)), (1, 1), "a failure is not remembered");
            gateway.wait_metric("portcullis_external_auth_total{outcome=\"remembered\"}", 2.0);
        });
        let brief = Gateway::start(&config(&backend, service.port(), "timeout: 5s, cache: { ttl: 100ms }"));
        let before = service.requests().len();
        eventually("its time is over", || {
            assert_eq!(request(brief.port(), "GET", "/", &[("Authorization", "good")], b"").status, 200);
            service.requests().len() > before + 2
        });
    }

    #[test]
    fn the_body_goes_along_up_to_its_bound() {
        let backend = Backend::http();
        let service = Backend::answering(|asked| {
            if asked.body == b"{\"pay\":1}" && asked.method == "POST" { said("200 OK", "") } else { said("403 Forbidden", "") }
        });
        served_both(&backend, service.port(), "timeout: 5s, body: 16B", |gateway| {
            let ask = |body: &[u8]| request(gateway.port(), "PUT", "/", &[("Content-Type", "application/json")], body);
            assert_eq!(ask(b"{\"pay\":1}").status, 200);
            assert_eq!(backend.last().body, b"{\"pay\":1}");
            assert_eq!(service.last().header("content-type"), Some("application/json"));
            assert_eq!(ask(b"{\"pay\":2}").status, 403);
            let before = service.requests().len();
            assert_eq!(ask(&[b'x'; 17]).status, 413);
            assert_eq!(service.requests().len(), before);
        });
    }

    /// A client that goes away while the service is asked leaves nothing behind.
    #[test]
    fn a_client_that_goes_away_takes_its_question_along() {
        let backend = Backend::http();
        let service = Backend::scripted(|stream| {
            let mut bytes = [0; 4096];
            while std::io::Read::read(&mut &stream, &mut bytes).is_ok_and(|read| read > 0) {}
        });
        served_both(&backend, service.port(), "timeout: 20s", |gateway| {
            let before = service.connections();
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", "/", &[], b"");
            eventually("the service is asked", || service.connections() > before);
            // Its end of input alone would not say that it is gone.
            client.reset();
            gateway.wait_metric("portcullis_in_flight", 0.0);
            assert!(backend.requests().is_empty());
        });
    }

    /// Two endpoints, one of them dead, and one that hangs while its health check has not told yet.
    #[test]
    fn a_service_is_asked_with_its_balance_and_its_health() {
        let (backend, service, dead) = (Backend::http(), Backend::answering(|_| said("200 OK", "")), Port::lease());
        let yaml = config(&backend, service.port(), "timeout: 5s").replace("services: {", &format!(
            "services: {{ judge: {{ endpoints: [ '127.0.0.1:{}', '127.0.0.1:{}' ], health_check: {{ tcp: true, interval: 100ms, \
             unhealthy_after: 1 }} }},",
            dead.number(),
            service.port()
        ));
        let url = format!("url: 'http://127.0.0.1:{}/check?x=1'", service.port());
        served(&yaml.replace(&url, "service: judge, path: /judge, host: judge.internal"), |gateway| {
            for _ in 0..6 {
                assert_eq!(get(gateway.port(), "/").status, 200);
            }
            let asked = service.last();
            assert_eq!((&*asked.target, asked.header("host")), ("/judge", Some("judge.internal")));
            let view = || -> serde_json::Value { serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap() };
            let judge = |view: serde_json::Value| {
                view["services"].as_array().unwrap().iter().find(|service| service["name"] == "judge").unwrap().clone()
            };
            eventually("the dead one is found dead", || judge(view())["available"] == 1);
            assert!(judge(view())["endpoints"].as_array().unwrap().iter().any(|one| one["requests"].as_u64() > Some(0)));
        });
    }

    /// What backends hear from a trusted proxy is what the service hears: `https`, although this connection is plain.
    #[test]
    fn the_service_hears_of_the_client_what_backends_hear() {
        let (backend, service) = (Backend::http(), Backend::answering(|_| said("200 OK", "")));
        for yaml in both(&backend, service.port(), "timeout: 5s") {
            served(&yaml.replace("$PORT }", "$PORT, trusted_proxies: [ 127.0.0.1 ] }"), |gateway| {
                let told = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")];
                assert_eq!(request(gateway.port(), "GET", "/", &told, b"").status, 200);
                for asked in [service.last(), backend.last()] {
                    assert_eq!((asked.header("x-forwarded-proto"), asked.all("x-forwarded-for").len()), (Some("https"), 1));
                    assert!(asked.header("x-forwarded-for").unwrap().contains("192.0.2.7"));
                }
            });
        }
    }

    /// A reload that leaves the service alone leaves its connections and counts alone.
    #[test]
    fn a_reload_keeps_what_is_known_of_the_service() {
        let (backend, service) = (Backend::http(), Backend::answering(|_| said("200 OK", "")));
        let [_, yaml] = both(&backend, service.port(), "timeout: 5s");
        let gateway = Gateway::start(&yaml.replace("$PORT } ]", "$PORT } ]\n            server: { workers: 1 }"));
        let mut client = Client::connect(gateway.port());
        assert_eq!(client.get("/").status, 200);
        gateway.rewrite(
            &yaml.replace("timeout: 5s", "timeout: 4s").replace("$PORT } ]", "$PORT } ]\n            server: { workers: 1 }"),
        );
        assert_eq!(gateway.reload().0, 200);
        assert_eq!(client.get("/").status, 200);
        assert_eq!((service.requests().len(), service.connections()), (2, 1));
    }

    #[test]
    fn a_service_that_is_not_there_is_a_problem() {
        let backend = Backend::http();
        let [_, yaml] = both(&backend, 1, "timeout: 5s");
        for (service, said) in [
            ("service: juge, path: '/check?x=1'", "did you mean `judge`?"),
            ("service: judge, url: 'http://a/'", "either `url` or `service` says whom to ask, not both"),
            ("path: /", "`external_auth` needs `url` or `service`"),
            ("url: 'http://a/', host: b", "`host` goes with `service`"),
            ("service: judge, path: check", "`check` is not a path that can be requested"),
            ("service: judge, ca: x.pem", "`ca` goes with `url`"),
        ] {
            let files = Files::new();
            files.write("bad.yaml", yaml.replace("$PORT", "0").replace("service: judge, path: '/check?x=1'", service));
            let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
            assert!(ran.code != 0 && ran.stderr.contains(said), "{service}: {} {}", ran.stdout, ran.stderr);
        }
    }
}
