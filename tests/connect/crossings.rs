//! With everything else: refusals of every kind, pages, the cache, retries, mirrors, splits, policies that see the message, a reload.

use super::*;

const FIND_A: &str = "/shop.v1.Catalog/Find?connect=v1&encoding=json&message=%7B%22sku%22%3A%22a%22%7D";

#[test]
fn the_gateways_refusals_are_connects_errors() {
    let shop = shop(
        "
      - { path: '/keyed/*', strip_prefix: /keyed, service: plain, policies: { authn: { api_key: {} } } }
      - { path: '/limited/*', strip_prefix: /limited, service: plain, policies: { rate_limit: { by: client_address, limit: 1/hour, burst: 1 } } }
      - { path: '/closed/*', strip_prefix: /closed, service: plain, policies: { ip_restriction: { deny: [127.0.0.0/8] } } }
      - { path: '/small/*', strip_prefix: /small, service: plain, policies: { bounds: { max_body: 10 } } }
      - { path: '/hurried/*', strip_prefix: /hurried, service: plain, timeout: 300ms }
      - { path: '/posts/*', strip_prefix: /posts, service: plain, methods: [POST] }
      - { path: '/paged/*', strip_prefix: /paged, service: plain, policies: { authn: { api_key: {} }, error_pages: { pages: [ { type: text/plain, text: 'a page' } ] } } }
      - path: '/judged/*'
        strip_prefix: /judged
        service: shop
        policies: { validate: { body: { schema: { type: object, required: [sku], properties: { sku: { maxLength: 3 } } } } } }
",
    );
    let long = vec![b'x'; 4000];
    let slow = [&of_sku("slow")[..], b"\x18\x88\x27"].concat();
    let limited = shop.call(&format!("/limited{GET_PRODUCT}"), &[PROTO], of_sku("a"));
    assert_eq!(limited.status, 200, "{limited:?}");
    for (below, body, status, code, by) in [
        ("/keyed", &of_sku("a")[..], 401, "unauthenticated", "authn: missing_credentials"),
        ("/limited", &of_sku("a"), 429, "resource_exhausted", "rate_limit: rate_limited"),
        ("/closed", &of_sku("a"), 403, "permission_denied", "ip_restriction: ip_denied"),
        ("/small", &long, 413, "resource_exhausted", "bounds: body_too_large"),
        ("/hurried", &slow, 504, "deadline_exceeded", "door: request_timeout"),
        ("/nowhere", &of_sku("a"), 404, "unimplemented", "route: no_route"),
        ("/paged", &of_sku("a"), 401, "unauthenticated", "authn: missing_credentials"),
    ] {
        let answer = shop.call(&format!("{below}{GET_PRODUCT}"), &[PROTO], body);
        let (was, told, text) = error(&answer);
        assert_eq!((was, &*told), (status, code), "{below} {text}");
        // Whoever was first: the service is told how long it has.
        assert!(below == "/hurried" || text.contains(by), "{below}: {text}");
        if status == 429 || status == 401 {
            let field = if status == 429 { "retry-after" } else { "www-authenticate" };
            assert!(answer.header(field).is_some(), "{below}: {answer:?}");
        }
    }
    let answer = shop.get(&format!("/posts{FIND_A}"));
    assert_eq!(
        (error(&answer).0, error(&answer).1, answer.header("allow")),
        (405, "unimplemented".to_owned(), Some("POST")),
        "{answer:?}"
    );
    // What the others are told is what it was.
    request(shop.gateway.port(), "POST", &format!("/keyed{GET_PRODUCT}"), &[JSON], b"{}").assert_problem(
        401,
        "authn",
        "missing_credentials",
    );
    // Policies see the message in JSON.
    let judged = |sku: &str| shop.call(&format!("/judged{GET_PRODUCT}"), &[JSON, VERSION], format!(r#"{{"sku":"{sku}"}}"#));
    assert_eq!(judged("abc").status, 200);
    let (status, code, text) = error(&judged("abcd"));
    assert_eq!((status, &*code), (400, "invalid_argument"), "{text}");
    let all = shop.play("/keyed", &json!([{ "method": "GetProduct" }]));
    assert_eq!(all[0]["code"], "Unauthenticated", "{all:?}");
    let all = shop.play("/limited", &json!([{ "method": "GetProduct" }]));
    assert_eq!(
        (&all[0]["code"], &all[0]["metadata"]["retry-after"].is_string()),
        (&json!("ResourceExhausted"), &true),
        "{all:?}"
    );
    let line = shop.gateway.wait_log(|line| line["status"] == 429);
    assert_eq!((&line["grpc_status"], &line["reason"].is_string()), (&json!(8), &true), "{line}");
}

#[test]
fn nobody_answers_and_nobody_is_there() {
    let gone = Port::lease();
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services: { it: { endpoints: ['127.0.0.1:$GONE'], protocol: grpc, retries: { attempts: 0 } } }
    routes:
      - { path: '/*', service: it }
      - { path: '/instead/*', service: it, fallback: { on: [error], status: 503, body: instead } }
";
    let gateway = Gateway::start(&filled(yaml, &[("$GONE", gone.number())]));
    let ask = |path: &str| request(gateway.port(), "POST", path, &[PROTO], b"");
    let (status, code, _) = error(&ask("/a.B/C"));
    assert_eq!((status, &*code), (502, "unavailable"));
    assert_eq!(ask("/instead/a.B/C").text(), "instead");
}

#[test]
fn metadata_that_is_too_large_is_refused_in_connects_words() {
    let shop = shop(BOTH);
    let value = "m".repeat(40_000);
    let target = format!("/plain{GET_PRODUCT}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let large = format!("x-large: {value}");
        let fields =
            [version, "-H", "content-type: application/proto", "-H", "connect-protocol-version: 1", "-H", &large, "-X", "POST"];
        let answer = curl(&[&fields[..], &[&shop.gateway.url(&target)]].concat());
        assert_eq!(answer.status, 431, "{version}: {answer:?}");
        if version != "--http1.1" {
            assert_eq!(error(&answer).1, "resource_exhausted", "{answer:?}");
        }
    }
}

#[test]
fn pages_of_other_origins_call_where_cors_lets_them() {
    let shop = shop(
        "      - { path: '/*', service: shop, policies: { cors: { origins: 'https://app.example.com', expose: [Trailer-X-Trailing] } } }\n",
    );
    let page = ("Origin", "https://app.example.com");
    let asks = [
        page,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "connect-protocol-version,content-type"),
    ];
    let answer = request(shop.gateway.port(), "OPTIONS", GET_PRODUCT, &asks, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(page.1)), "{answer:?}");
    let allowed = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.contains("connect-protocol-version") && allowed.contains("content-type"), "{answer:?}");
    for sku in ["a", "none"] {
        let answer = shop.call(GET_PRODUCT, &[JSON, VERSION, page], json!({ "sku": sku }).to_string());
        assert_eq!(answer.header("access-control-allow-origin"), Some(page.1), "{answer:?}");
        assert!(
            answer.header("access-control-expose-headers").unwrap().to_ascii_lowercase().contains("trailer-x-trailing"),
            "{answer:?}"
        );
    }
    let answer = request(shop.gateway.port(), "GET", FIND_A, &[page], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(page.1)), "{answer:?}");
}

#[test]
fn what_is_got_is_cached_and_what_is_posted_is_not() {
    let shop = shop("      - { path: '/*', service: shop, policies: { cache: {}, compress: { min_size: 10 } } }\n");
    let hit = |answer: &Answer| answer.header("cache-status").unwrap_or_default().contains("hit");
    let first = shop.get(FIND_A);
    let second = shop.get(FIND_A);
    // The server counts how often it was asked.
    assert_eq!((first.status, first.text(), hit(&first), hit(&second)), (200, second.text(), false, true), "{second:?}");
    assert_eq!((second.header("trailer-x-trailing"), second.header("content-type")), (Some("behind"), Some("application/json")));
    let head = request(shop.gateway.port(), "HEAD", FIND_A, &[], b"");
    assert_eq!((head.status, hit(&head), head.body.len()), (200, true, 0), "{head:?}");
    let unchanged = request(shop.gateway.port(), "GET", FIND_A, &[("If-None-Match", "\"e1\"")], b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{unchanged:?}");
    let part = request(shop.gateway.port(), "GET", FIND_A, &[("Range", "bytes=0-3")], b"");
    assert_eq!((part.status, part.text()), (206, first.text()[..4].to_owned()), "{part:?}");
    let coded = request(shop.gateway.port(), "GET", FIND_A, &[("Accept-Encoding", "gzip")], b"");
    assert_eq!((coded.header("content-encoding"), hit(&coded)), (Some("gzip"), true), "{coded:?}");
    for _ in 0..2 {
        let none = shop.get(&FIND_A.replace("%22a%22", "%22none%22"));
        assert_eq!((error(&none).0, hit(&none)), (404, false), "{none:?}");
        let posted = shop.call("/shop.v1.Catalog/Find", &[JSON, VERSION], r#"{"sku":"p"}"#);
        assert_eq!((posted.status, hit(&posted)), (200, false), "{posted:?}");
        // Another codec is another answer.
        let proto =
            format!("/shop.v1.Catalog/Find?connect=v1&encoding=proto&base64=1&message={}", URL_SAFE_NO_PAD.encode(of_sku("a")));
        assert_eq!(shop.get(&proto).header("content-type"), Some("application/proto"));
    }
    // By Connect's own client as well.
    let all = shop.play(
        "",
        &json!([
            { "method": "Find", "message": { "sku": "k" }, "get": true },
            { "method": "Find", "message": { "sku": "k" }, "get": true, "http": "2" },
        ]),
    );
    assert_eq!((&all[0]["code"], &all[0]["answer"]), (&json!("OK"), &all[1]["answer"]), "{all:?}");
    assert!(all[1]["header"]["cache-status"].as_str().unwrap().contains("hit"), "{all:?}");
}

#[test]
fn what_a_call_asks_for_in_its_query_is_always_part_of_the_key() {
    for query in ["none", "{ only: [page] }", "{ ignore: [message, encoding, 'b*'] }"] {
        let shop = shop(&format!("      - {{ path: '/*', service: shop, policies: {{ cache: {{ query: {query} }} }} }}\n"));
        let hit = |answer: &Answer| answer.header("cache-status").unwrap_or_default().contains("hit");
        let of = |sku: &str| FIND_A.replace("%22a%22", &format!("%22{sku}%22"));
        let (a, b) = (shop.get(FIND_A), shop.get(&of("b")));
        assert_eq!((a.status, b.status, hit(&b)), (200, 200, false), "{query}: {b:?}");
        assert_ne!(a.text(), b.text(), "{query}");
        let (a_again, b_again) = (shop.get(FIND_A), shop.get(&of("b")));
        assert_eq!((a_again.text(), b_again.text(), hit(&a_again)), (a.text(), b.text(), true), "{query}");
        let proto =
            format!("/shop.v1.Catalog/Find?connect=v1&encoding=proto&base64=1&message={}", URL_SAFE_NO_PAD.encode(of_sku("a")));
        assert_eq!(shop.get(&proto).header("content-type"), Some("application/proto"), "{query}");
        // What is none of the call's is as the route says.
        let beside = shop.get(&format!("{FIND_A}&baker=1"));
        assert_eq!((beside.text(), hit(&beside)), (a.text(), true), "{query}: {beside:?}");
    }
}

#[test]
fn a_call_and_a_request_with_its_body_are_two_things_to_the_cache() {
    let routes = |keeps: &str| format!("      - {{ path: '/*', service: shop, policies: {{ {keeps} }} }}\n");
    let cache = "cache: { methods: [POST], default_ttl: 1h, statuses: [200, 404] }";
    // What a policy does to the field does not make them one: it is no longer looked for then.
    for keeps in [cache.to_owned(), format!("{cache}, request_headers: {{ remove: [Connect-Protocol-Version] }}")] {
        for call_first in [true, false] {
            let shop = shop(&routes(&keeps));
            let target = "/shop.v1.Catalog/GetProduct";
            let call = || shop.call(target, &[JSON, VERSION], r#"{"sku":"none"}"#);
            let rest = || shop.call(target, &[JSON], r#"{"sku":"none"}"#);
            let hit = |answer: &Answer| answer.header("cache-status").unwrap_or_default().contains("hit");
            for again in [false, true] {
                let (called, asked) = if call_first {
                    let called = call();
                    (called, rest())
                } else {
                    let asked = rest();
                    (call(), asked)
                };
                assert_eq!(
                    (error(&called).0, &*error(&called).1, hit(&called)),
                    (404, "not_found", again),
                    "{keeps}: {called:?}"
                );
                let kind = asked.header("content-type");
                assert_eq!(
                    (asked.status, kind, hit(&asked)),
                    (404, Some("application/problem+json"), again),
                    "{keeps}: {asked:?}"
                );
            }
        }
    }
}

#[test]
fn who_only_asks_is_asked_for_again() {
    let services = SERVICES.replace(
        "protocol: grpc, tr",
        "protocol: grpc, retries: { attempts: 2, on: [unavailable], budget: { share: 100% } }, tr",
    );
    let shop = shop_of(&services, "      - { path: '/*', service: shop }\n");
    let answer = shop.get(&FIND_A.replace("%22a%22", "%22flaky1%22"));
    assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("asked 2")), "{answer:?}");
    let line = shop.gateway.wait_log(|line| line["method"] == "GET");
    assert_eq!(
        (&line["retries"], &line["grpc_status"], &line["grpc_method"]),
        (&json!(1), &json!(0), &json!("/shop.v1.Catalog/Find")),
        "{line}"
    );
    let posted = shop.call(GET_PRODUCT, &[JSON, VERSION], r#"{"sku":"flaky2"}"#);
    assert_eq!(error(&posted), (503, "unavailable".to_owned(), "once".to_owned()));
}

#[test]
fn calls_are_copied_split_and_broken_off_like_requests() {
    let shop = shop(
        "
      - { path: '/copied/*', strip_prefix: /copied, service: plain, policies: { mirror: { service: shop, compare: true } } }
      - { path: '/split/*', strip_prefix: /split, split: [ { service: plain, weight: 1 }, { service: shop, weight: 1 } ] }
",
    );
    for number in 1..=2_u32 {
        let answer = shop.call(&format!("/copied{GET_PRODUCT}"), &[PROTO], [&of_sku("a")[..], b"\x12\x01s"].concat());
        assert_eq!(answer.status, 200, "{answer:?}");
        shop.gateway.wait_metric("portcullis_mirrored_requests_total{outcome=\"answered\"}", number.into());
    }
    shop.gateway.wait_metric("portcullis_connect_calls_total{service=\"shop\",code=\"OK\"}", 2.0);
    let mut client = Client::connect(shop.gateway.port());
    for _ in 0..40 {
        let answer = client.request("POST", &format!("/split{GET_PRODUCT}"), &[PROTO], &of_sku("a"));
        assert!(answer.status == 200 && answer.body.starts_with(&of_sku("a")), "{answer:?}");
    }
    let both =
        |service: &str| shop.gateway.metric(&format!("portcullis_connect_calls_total{{service=\"{service}\",code=\"OK\"}}"));
    assert!(both("plain") > 2.0 && both("shop") > 2.0, "{} {}", both("plain"), both("shop"));
    assert_eq!(both("plain") + both("shop"), 44.0);
    // A client that leaves takes its call along.
    let mut leaving = Client::connect(shop.gateway.port());
    leaving.send_request("POST", &format!("/split{GET_PRODUCT}"), &[PROTO], &[&of_sku("slow")[..], b"\x18\x88\x27"].concat());
    shop.gateway.wait_metric("portcullis_in_flight", 1.0);
    leaving.reset();
    shop.gateway.wait_metric("portcullis_in_flight", 0.0);
    assert!(shop.server.port() > 0);
}

#[test]
fn other_services_get_such_calls_as_they_came() {
    let backend = Backend::http();
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services: { it: { endpoints: ['127.0.0.1:$BACKEND'] } }
    routes: [ { path: '/*', service: it }, { path: '/closed', service: it, policies: { authn: { api_key: {} } } } ]
";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let fields = [PROTO, VERSION, ("Connect-Timeout-Ms", "9000")];
    assert_eq!(request(gateway.port(), "POST", "/a.B/C", &fields, b"\x08\x01").status, 200);
    let asked = backend.last();
    assert_eq!(
        (asked.header("content-type"), asked.header("connect-timeout-ms"), &*asked.body),
        (Some("application/proto"), Some("9000"), &b"\x08\x01"[..])
    );
    assert_eq!(request(gateway.port(), "GET", "/a.B/C?connect=v1&encoding=json&message=%7B%7D", &[], b"").status, 200);
    // Who speaks Connect is refused in Connect, whoever answers.
    assert_eq!(error(&request(gateway.port(), "POST", "/closed", &fields, b"")).1, "unauthenticated");
}

#[test]
fn a_service_of_rest_is_called_as_well() {
    let backend = Backend::answering(|asked| {
        let (status, body) = if asked.target.ends_with("none") {
            ("404 Not Found", r#"{"detail":"no such thing"}"#)
        } else {
            ("200 OK", r#"{"sku":"a","name":"by rest"}"#)
        };
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    });
    let files = Files::new();
    files.write("shop.pb", descriptors());
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services: { it: { endpoints: ['127.0.0.1:$BACKEND'], transcode: { serve: grpc, descriptors: shop.pb, services: [shop.v1.Catalog] } } }
    routes: [ { path: '/*', service: it } ]
";
    let gateway = Gateway::start_in(&files, &filled(yaml, &[("$BACKEND", backend.port())]));
    let answer = request(gateway.port(), "POST", GET_PRODUCT, &[PROTO], &of_sku("a"));
    assert_eq!((answer.status, &*answer.body), (200, &b"\x0a\x01a\x12\x07by rest"[..]), "{answer:?}");
    assert_eq!(backend.last().target, "/v1/products/a");
    let answer = request(gateway.port(), "POST", GET_PRODUCT, &[JSON, VERSION], br#"{"sku":"a"}"#);
    assert_eq!(answer.json(), json!({ "sku": "a", "name": "by rest" }), "{answer:?}");
    let answer = request(gateway.port(), "POST", GET_PRODUCT, &[PROTO], &of_sku("none"));
    assert_eq!(error(&answer), (404, "not_found".to_owned(), "no such thing".to_owned()));
    // All else is the service's own.
    assert_eq!(request(gateway.port(), "POST", "/orders", &[JSON, VERSION], b"{}").status, 200);
    assert_eq!(backend.last().target, "/orders");
}

#[test]
fn who_leaves_or_runs_out_of_time_has_the_call_cancelled() {
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services: { it: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc } }
    routes: [ { path: '/*', service: it }, { path: '/hurried/*', strip_prefix: /hurried, service: it, timeout: 300ms } ]
";
    let slow = "/portcullis.test.Echo/Slow";
    for how in ["leaves", "late", "hurried"] {
        // Another server each time, which has cancelled nothing yet.
        let server = Peer::start("grpc_server.py", &[]);
        let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", server.port())]));
        let mut client = Client::connect(gateway.port());
        let began = std::time::Instant::now();
        match how {
            "leaves" => {
                client.send_request("POST", slow, &[PROTO], b"");
                gateway.wait_metric("portcullis_upstream_in_flight{service=\"it\"}", 1.0);
                // Behind it on the same connection: the server has begun with the one before.
                let behind = request(gateway.port(), "POST", "/portcullis.test.Echo/Unary", &[PROTO], b"x");
                assert_eq!(behind.text(), "x");
                // Not by the end of its half, behind which it may listen.
                client.reset();
            }
            "late" => {
                let answer = client.request("POST", slow, &[PROTO, ("Connect-Timeout-Ms", "300")], b"");
                assert_eq!((error(&answer).0, error(&answer).1), (504, "deadline_exceeded".to_owned()), "{answer:?}");
            }
            _ => {
                // The shorter time is the one that holds.
                let fields = [PROTO, ("Connect-Timeout-Ms", "60000")];
                let answer = client.request("POST", &format!("/hurried{slow}"), &fields, b"");
                assert_eq!((error(&answer).0, error(&answer).1), (504, "deadline_exceeded".to_owned()), "{answer:?}");
            }
        }
        let cancelled = request(gateway.port(), "POST", "/portcullis.test.Echo/WasCancelled", &[PROTO], b"");
        assert_eq!(cancelled.text(), "yes", "{how}");
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{how}: {:?}", began.elapsed());
    }
}
