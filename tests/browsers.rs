//! What browsers are told about pages of other origins (`cors`), and what such pages may not send (`csrf`): byte by byte, and in a real one.

use serde_json::{Value, json};

use crate::harness::*;

/// A service that has its own word on other origins, and on nothing else.
fn talkative() -> Backend {
    Backend::answering(|request| {
        let fields = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Origin: https://evil.test\r\n\
                      Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-Secret\r\n\
                      Access-Control-Allow-Methods: TRACE\r\nVary: Accept\r\nX-Total: 3\r\nX-Secret: 1\r\nCache-Control: max-age=60";
        let body = if request.method == "HEAD" { "" } else { "ok" };
        format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\n{body}").into_bytes()
    })
}

const SHOP: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      down: { endpoints: [ '127.0.0.1:1' ] }
    consumers: [ { name: me, api_keys: [ { hash: 'sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b' } ] } ]
    policies: { cors: { origins: [ https://app.test, 'http://localhost:*' ], credentials: true, expose: X-Total } }
    routes:
      - path: /items/*
        methods: [ GET, PUT ]
        service: a
        policies: { authn: { api_key: {} } }
      - { path: /items/*, methods: [ DELETE ], service: a, policies: { cors: { origins: https://admin.test } } }
      - { path: /limited, service: a, policies: { address_limit: { limit: 3/hour } } }
      - { path: /inside, service: a, policies: { ip_restriction: { allow: [ 192.0.2.0/24 ] } } }
      - { path: /open, service: a }
      - { path: /cached, service: a, policies: { cache: { ttl: 60s } } }
      - { path: /own, service: a, policies: { cors: false } }
      - { path: /public, service: a, policies: { cors: { origins: '*' } } }
      - { path: /beta, service: a, headers: { X-Beta: '1' }, policies: { cors: { origins: https://beta.test, max_age: 5s } } }
      - { path: /beta, service: a }
      - { path: /text, respond: { body: hello } }
      - { path: /down, service: down }
";

const APP: &str = "https://app.test";

fn ask<'a>(origin: &'a str, method: &'a str, names: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![("Origin", origin), ("Access-Control-Request-Method", method)];
    if !names.is_empty() {
        fields.push(("Access-Control-Request-Headers", names));
    }
    fields
}

fn allowed(answer: &Answer) -> Option<&str> {
    let all = answer.all("access-control-allow-origin");
    assert!(all.len() < 2, "{answer:?}");
    all.first().copied()
}

#[test]
fn preflights_are_answered_before_whatever_asks_for_credentials() {
    let backend = talkative();
    served(&filled(SHOP, &[("$BACKEND", backend.port())]), |gateway| {
        let mut client = Client::connect(gateway.port());
        for _ in 0..5 {
            let answer = client.request("OPTIONS", "/items/7", &ask(APP, "PUT", "authorization,content-type"), b"");
            assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
            for (name, value) in [
                ("access-control-allow-origin", Some(APP)),
                ("access-control-allow-credentials", Some("true")),
                ("access-control-allow-methods", Some("PUT")),
                ("access-control-allow-headers", Some("authorization, content-type")),
                ("access-control-max-age", Some("600")),
                ("access-control-expose-headers", None),
                ("content-length", None),
                ("ratelimit", None),
            ] {
                assert_eq!(answer.header(name), value, "{name} in {answer:?}");
            }
            let vary = answer.all("vary").join(", ");
            for part in ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"] {
                assert!(vary.contains(part), "{vary}");
            }
        }
        let line = gateway.wait_log(|line| line["method"] == "OPTIONS");
        assert_eq!((&line["status"], &line["reason"]), (&json!(204), &json!("preflight")));
        assert_eq!((&line["answered_by"], &line["route"]), (&json!("cors"), &json!("GET|PUT /items/*")));
        gateway.wait_metric("portcullis_cors_preflights_total{outcome=\"allowed\"}", 5.0);
        assert_eq!(gateway.metric("portcullis_refusals_total{policy=\"cors\"}"), 0.0);

        // By his address alone somebody may be refused before, so that the page can read it.
        let ask_limited = || request(gateway.port(), "OPTIONS", "/limited", &ask(APP, "GET", ""), b"");
        assert!((0..3).all(|_| ask_limited().status == 204));
        let answer = ask_limited();
        assert_eq!((answer.status, allowed(&answer)), (429, Some(APP)));
        assert_eq!(answer.json()["reason"], "address_limited");
        let answer = request(gateway.port(), "OPTIONS", "/inside", &ask(APP, "GET", ""), b"");
        assert_eq!((answer.status, allowed(&answer)), (403, Some(APP)));
        assert_eq!(answer.json()["reason"], "ip_denied");
        let line = gateway.wait_log(|line| line["reason"] == "ip_denied");
        assert_eq!(line["route"], "/inside", "{line}");
        // The route of the request that is asked about answers, whatever the methods of others.
        let ask = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "OPTIONS", path, fields, b"");
        let answer = ask("/items/7", &self::ask("https://admin.test", "DELETE", ""));
        assert_eq!((answer.status, allowed(&answer)), (204, Some("https://admin.test")));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let answer = ask("/items/7", &self::ask(APP, "DELETE", ""));
        assert_eq!((answer.status, allowed(&answer)), (403, None));
        assert_eq!(answer.json()["reason"], "origin_not_allowed");
        // One that no route takes is said to be missing, so that the browser can say so.
        let answer = ask("/items/7", &self::ask(APP, "PATCH", ""));
        assert_eq!((answer.status, allowed(&answer)), (204, Some(APP)));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, PUT, DELETE"));
        gateway.wait_log(|line| line["reason"] == "preflight_denied");
        // A field that the request will have chooses the route as the request itself will.
        let answer = ask("/beta", &self::ask("https://beta.test", "GET", "x-a, X-Beta"));
        assert_eq!((allowed(&answer), answer.header("access-control-max-age")), (Some("https://beta.test"), Some("5")));
        assert_eq!(allowed(&ask("/beta", &self::ask(APP, "GET", "x-a"))), Some(APP));
        assert!(backend.requests().is_empty(), "{:?}", backend.requests());

        // Any other OPTIONS is a request like others, and so is one on a route without `cors`.
        assert_eq!(ask("/items/7", &[("Origin", APP)]).status, 405);
        assert_eq!(ask("/open", &[("Access-Control-Request-Method", "GET")]).status, 200);
        let answer = ask("/own", &self::ask(APP, "GET", ""));
        assert_eq!(answer.all("access-control-allow-origin").len(), 2, "the service's own word");
        assert_eq!(backend.requests().len(), 2);
        assert_eq!(ask("/none", &self::ask(APP, "GET", "")).status, 404);
    });
}

#[test]
fn every_answer_can_be_read_by_those_who_may() {
    let backend = talkative();
    served(&filled(SHOP, &[("$BACKEND", backend.port())]), |gateway| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for (method, path, status) in [
                ("GET", "/open", 200),
                ("HEAD", "/open", 200),
                ("GET", "/items/1", 401),
                ("POST", "/items/1", 405),
                ("GET", "/down", 502),
                ("GET", "/nowhere", 404),
                ("GET", "/text", 200),
                ("GET", "/cached", 200),
            ] {
                let url = gateway.url(path);
                let from = |origin: &str| {
                    let how: &[&str] = if method == "HEAD" { &["-I"] } else { &["-X", method] };
                    curl(&[&[version, "-H", &format!("Origin: {origin}"), &url], how].concat())
                };
                for origin in [APP, "http://localhost:3000"] {
                    let answer = from(origin);
                    assert_eq!((answer.status, allowed(&answer)), (status, Some(origin)), "{version} {method} {path}");
                    for (name, value) in [
                        ("access-control-allow-credentials", "true"),
                        ("access-control-expose-headers", "Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, x-total"),
                    ] {
                        assert_eq!(answer.all(name), [value], "{version} {method} {path}");
                    }
                    assert_eq!(answer.header("access-control-allow-methods"), None);
                    let vary = answer.all("vary").join(", ");
                    assert_eq!(vary.matches("Origin").count(), 1, "{vary}");
                }
                for other in ["https://evil.test", "null", "http://app.test"] {
                    let answer = from(other);
                    assert_eq!((answer.status, allowed(&answer)), (status, None), "{version} {method} {path} {other}");
                    assert_eq!(answer.header("access-control-allow-credentials"), None);
                    assert_eq!(answer.header("access-control-expose-headers"), None);
                    assert!(answer.all("vary").join(", ").contains("Origin"), "caches keep the origins apart");
                }
            }
            let public = curl(&[version, &gateway.url("/public")]);
            assert_eq!((allowed(&public), public.header("vary")), (Some("*"), Some("Accept")));
        }
        // A limit, with what it says of itself.
        let limited = || request(gateway.port(), "GET", "/limited", &[("Origin", APP)], b"");
        for _ in 0..8 {
            limited();
        }
        let limited = limited();
        assert_eq!((limited.status, allowed(&limited)), (429, Some(APP)));
        assert!(limited.header("retry-after").is_some() && limited.header("access-control-expose-headers").is_some());
        // One entry serves every origin.
        let asked = backend.requests().iter().filter(|request| request.target == "/cached").count();
        assert_eq!(asked, 1, "hits are decorated behind the store");
    });
}

#[test]
fn a_reload_changes_who_may() {
    let backend = talkative();
    let yaml = filled(SHOP, &[("$BACKEND", backend.port())]);
    served(&yaml, |gateway| {
        let mut client = Client::connect(gateway.port());
        let mut from = |origin: &str| allowed(&client.request("GET", "/cached", &[("Origin", origin)], b"")).map(str::to_owned);
        assert_eq!((from(APP).as_deref(), from("https://new.test")), (Some(APP), None));
        gateway.rewrite(&yaml.replace("https://app.test", "https://new.test"));
        assert_eq!(gateway.reload().0, 200);
        assert_eq!((from(APP), from("https://new.test").as_deref()), (None, Some("https://new.test")));
    });
}

#[test]
fn what_other_pages_have_browsers_send_is_refused() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies: { csrf: { trusted_origins: https://partner.test } }
        routes:
          - { path: /*, service: a }
          - { path: /hook, service: a, policies: { csrf: false } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let host = format!("http://127.0.0.1:{}", gateway.port());
        let post = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "POST", path, fields, b"x").status;
        assert_eq!(post("/", &[]), 200);
        assert_eq!(post("/", &[("Origin", &host)]), 200);
        assert_eq!(post("/", &[("Sec-Fetch-Site", "same-origin")]), 200);
        assert_eq!(post("/", &[("Sec-Fetch-Site", "cross-site"), ("Origin", "https://partner.test")]), 200);
        for fields in [&[("Origin", "https://evil.test")][..], &[("Sec-Fetch-Site", "cross-site")], &[("Origin", "null")]] {
            assert_eq!(post("/", fields), 403, "{fields:?}");
            assert_eq!(post("/hook", fields), 200);
        }
        let line = gateway.wait_log(|line| line["status"] == 403);
        assert_eq!((&line["answered_by"], &line["reason"]), (&json!("csrf"), &json!("cross_origin")));
        let opening = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Origin", "https://evil.test"),
        ];
        assert_eq!(request(gateway.port(), "GET", "/", &opening, b"").status, 403);
    });
}

/// Chromium's own judgement: pages of one origin, the gateway on another.
#[test]
fn a_browser_lets_pages_read_what_the_gateway_grants() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        consumers: [ { name: me, api_keys: [ { hash: 'sha256:82c971973ccbf22b209995e2c1505e04201d2a488e19d471feb69662b8fb93d0' } ] } ]
        routes:
          - path: /private
            service: a
            policies:
              cors: { origins: '$PAGE', credentials: true, expose: X-Extra }
              response_headers: { set: { X-Extra: '1', X-Hidden: '1' } }
          - { path: /plain, service: a, policies: { cors: { origins: '$PAGE' } } }
          - { path: /others, service: a, policies: { cors: { origins: https://app.test, credentials: true } } }
          - { path: /public, service: a, policies: { cors: { origins: '*' } } }
          - { path: /none, service: a }
          - { path: /keys, methods: [ GET, PUT ], service: a, policies: { cors: { origins: '$PAGE' }, authn: { api_key: {} } } }
          - { path: /few, service: a, policies: { cors: { origins: '$PAGE', methods: [ PUT ], headers: [ X-A ] } } }
          - path: /once
            service: a
            policies: { cors: { origins: '$PAGE' }, rate_limit: { by: route, limit: 1/hour } }
          - { path: /form, service: a, policies: { csrf: {}, cors: { origins: '$PAGE' } } }
    ";
    let yaml = filled(yaml, &[("$BACKEND", backend.port())]);
    let mut gateway = None;
    let seen = in_browser(|page| {
        let started = gateway.insert(Gateway::start(&yaml.replace("$PAGE", page)));
        let script = r#"
            const at = path => "GATEWAY" + path;
            const own = { credentials: "include" };
            const fields = { headers: { "X-A": "1", "Content-Type": "application/json" } };
            return {
                simple: await read(at("/private"), own),
                preflighted: await read(at("/private"), { ...own, ...fields, method: "PATCH", body: "{}" }),
                without: await read(at("/plain")),
                include_without: await read(at("/plain"), own),
                others: await read(at("/others"), own),
                none: await read(at("/none")),
                none_preflighted: await read(at("/none"), fields),
                public: await read(at("/public")),
                public_include: await read(at("/public"), own),
                unauthorised: await read(at("/keys"), { method: "PUT", headers: { "X-Api-Key": "wrong" } }),
                authorised: await read(at("/keys"), { method: "PUT", headers: { "X-Api-Key": "browser-key" } }),
                not_taken: await read(at("/keys"), { method: "DELETE" }),
                put: await read(at("/few"), { method: "PUT", headers: { "X-A": "1" } }),
                other_method: await read(at("/few"), { method: "DELETE" }),
                other_field: await read(at("/few"), { headers: { "X-B": "1" } }),
                once: await read(at("/once")),
                twice: await read(at("/once")),
                forged: await read(at("/form"), { method: "POST", body: new URLSearchParams({ a: 1 }) }),
            };
        "#;
        script.replace("GATEWAY", &format!("http://127.0.0.1:{}", started.port()))
    });
    let status = |name: &str| seen[name]["status"].as_u64();
    let refused = |name: &str| assert_eq!(seen[name], json!("refused"), "{name}");
    let echoed = |name: &str| serde_json::from_str::<Value>(seen[name]["body"].as_str().unwrap()).unwrap();

    assert_eq!(echoed("simple")["headers"]["cookie"], "who=olga");
    assert_eq!((&seen["simple"]["headers"]["x-extra"], &seen["simple"]["headers"]["x-hidden"]), (&json!("1"), &Value::Null));
    assert!(seen["simple"]["headers"]["x-request-id"].is_string());
    assert_eq!((status("preflighted"), &echoed("preflighted")["method"]), (Some(200), &json!("PATCH")));
    assert_eq!((status("without"), &echoed("without")["headers"]["cookie"]), (Some(200), &Value::Null));
    refused("include_without");
    refused("others");
    refused("none");
    refused("none_preflighted");
    assert_eq!(status("public"), Some(200));
    refused("public_include");
    // What the gateway refuses can be read, and acted on.
    assert_eq!(status("unauthorised"), Some(401));
    assert!(seen["unauthorised"]["body"].as_str().unwrap().contains("\"policy\":\"authn\""));
    assert_eq!(status("authorised"), Some(200));
    refused("not_taken");
    assert_eq!(status("put"), Some(200));
    refused("other_method");
    refused("other_field");
    assert_eq!((status("once"), status("twice")), (Some(200), Some(429)));
    assert!(seen["twice"]["headers"]["retry-after"].is_string() && seen["twice"]["headers"]["ratelimit"].is_string(), "{seen}");
    // A form needs no leave of `cors` to be sent.
    assert_eq!(status("forged"), Some(403));
    assert!(seen["forged"]["body"].as_str().unwrap().contains("cross_origin"));

    let asked = backend.requests();
    assert!(asked.iter().all(|request| request.target != "/form" && (request.method != "OPTIONS" || request.target == "/none")));
}
