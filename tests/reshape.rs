//! `reshape` through real sockets: what leaves, for whom, and what never does.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::*;

/// An answer with this body.
fn answer(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

const PRODUCT: &str =
    r#"{"id":12345678901234567890,"price":1.10,"cost":0.7,"name":"caf\u00e9","variants":[{"sku":"a","cost":1e400},{"sku":"b"}]}"#;
const FILTERED: &str = r#"{"id":12345678901234567890,"price":1.10,"name":"caf\u00e9","variants":[{"sku":"a"},{"sku":"b"}]}"#;

#[test]
fn requests_arrive_in_the_service_s_shape() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - path: /orders/{shop}
            service: a
            policies:
              reshape:
                up_to: 64KiB
                forms: true
                request:
                  - rename: { /customerId: customer_id, /items/*/qty: quantity }
                  - set: { /shop: { param: shop }, /client: { expr: request.client } }
                  - default: { /currency: EUR }
                  - header: { X-Customer: /customer_id }
                  - query: { customer: /customer_id }
                  - remove: /debug
          - { path: /long, service: a, policies: { reshape: { up_to: 10B, beyond: pass, request: [ { remove: /a } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let body = r#"{ "customerId": 1.10, "debug": true, "items": [ { "qty": 20 } ] }"#;
            let url = gateway.url("/orders/berlin?a=1");
            let json = ["-H", "Content-Type: application/json"];
            for chunked in [None, Some("Transfer-Encoding: chunked")] {
                let framing = chunked.filter(|_| version == "--http1.1").unwrap_or("X-None: 1");
                let sent =
                    curl(&[&[version, "-d", body, "-H", "Digest: sha-256=x", "-H", framing, &url], &json[..]].concat()).json();
                assert_eq!(
                    sent["body"],
                    r#"{"customer_id":1.10,"items":[{"quantity":20}],"shop":"berlin","client":"127.0.0.1","currency":"EUR"}"#
                );
                assert_eq!(
                    (&sent["target"], &sent["headers"]["x-customer"]),
                    (&json!("/orders/berlin?a=1&customer=1.10"), &json!("1.10"))
                );
                let length = sent["body"].as_str().unwrap().len().to_string();
                assert_eq!(
                    (&sent["headers"]["content-length"], &sent["headers"]["digest"]),
                    (&json!(length), &json!(null)),
                    "{sent}"
                );
                assert!(sent["headers"]["transfer-encoding"].is_null());
            }
            let form = curl(&[version, "-d", "customerId=7&tag=a&tag=b", &url]).json();
            assert_eq!(
                form["body"],
                r#"{"customer_id":"7","tag":["a","b"],"shop":"berlin","client":"127.0.0.1","currency":"EUR"}"#
            );
            assert_eq!(form["headers"]["content-type"], "application/json");
            for (body, kind, status, reason) in [
                ("{", "application/json", 400, "body_malformed"),
                (r#"{"a":1,"a":2}"#, "application/json", 400, "body_malformed"),
                ("x", "text/plain", 415, "body_not_json"),
                (&"[".repeat(60_000), "application/json", 400, "body_malformed"),
                (&"[".repeat(70_000), "application/json", 413, "body_too_large"),
            ] {
                let kind = format!("Content-Type: {kind}");
                let refused = curl(&[version, "-d", body, "-H", &kind, &url]);
                assert_eq!((refused.status, &refused.json()["reason"]), (status, &json!(reason)), "{}", body.len());
            }
            assert_eq!(curl(&[version, &url]).status, 200, "nothing needs no shape");
            let long = curl(&[&[version, "-d", r#"{"a":1,"b":22222}"#, &gateway.url("/long")], &json[..]].concat()).json();
            assert_eq!(long["body"], r#"{"a":1,"b":22222}"#);
        }
        gateway.wait_metric("portcullis_reshape_bodies_total{way=\"request\",outcome=\"changed\"}", 6.0);
    });
}

#[test]
fn internal_fields_never_leave() {
    let backend = Backend::answering(|request| {
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        let nothing = request.method == "HEAD";
        let made = match path.as_str() {
            "/chunked" => {
                let mut made = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n".to_vec();
                for piece in PRODUCT.as_bytes().chunks(7) {
                    made.extend(format!("{:x}\r\n", piece.len()).bytes().chain(piece.iter().copied()).chain(*b"\r\n"));
                }
                made.extend(b"0\r\nDigest: sha-256=x\r\n\r\n");
                made
            }
            "/html" => b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\ncost".to_vec(),
            "/coded" => answer("Content-Encoding: gzip\r\n", "cost"),
            "/moved" => b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\ncost".to_vec(),
            "/busy" => b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ncost".to_vec(),
            "/failed" => {
                let body = r#"{"title":"no","cost":1}"#;
                format!("HTTP/1.1 404 No\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
            }
            "/part" => b"HTTP/1.1 206 Part\r\nContent-Type: application/json\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\ncost".to_vec(),
            "/range" => b"HTTP/1.1 416 No\r\nContent-Range: bytes */9\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ncost".to_vec(),
            "/empty" => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "/events" => b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: cost\n\n".to_vec(),
            "/nothing" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/root" => answer("", "\"cost\""),
            _ => answer("ETag: \"a\"\r\nLast-Modified: Sat, 28 Nov 2026 10:00:00 GMT\r\nAccept-Ranges: bytes\r\nDigest: sha-256=x\r\nContent-MD5: x\r\n", PRODUCT),
        };
        let head = find(&made, b"\r\n\r\n").unwrap() + 4;
        if nothing { made[..head].to_vec() } else { made }
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a, policies: { reshape: { response: [ { remove: [ /cost, '/variants/*/cost' ] } ] } } }
          - { path: /root, service: a, policies: { reshape: { response: [ { keep: /id } ] } } }
          - { path: /kept, service: a, policies: { reshape: { response: [ { keep: [ /id, /variants/1 ] } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let get = |path: &str, more: &[&str]| curl(&[&[version, &gateway.url(path)], more].concat());
            for path in ["/plain", "/chunked"] {
                let conditions: [&[&str]; 3] =
                    [&[], &["-H", "Range: bytes=30-60"], &["-H", "If-None-Match: \"a\"", "--compressed"]];
                for more in conditions {
                    let got = get(path, more);
                    assert_eq!((got.status, got.text().as_str()), (200, FILTERED), "{path} {more:?}");
                    for gone in ["etag", "last-modified", "accept-ranges", "digest", "content-md5"] {
                        assert_eq!(got.header(gone), None, "{gone}");
                    }
                }
            }
            let head = get("/plain", &["-I"]);
            assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, None, None));
            assert_eq!(get("/kept", &[]).text(), r#"{"id":12345678901234567890,"variants":[{"sku":"b"}]}"#);
            assert_eq!(get("/root", &[]).text(), "null");
            let range = get("/range", &[]);
            assert_eq!((range.status, range.header("content-range"), range.text().as_str()), (416, Some("bytes */9"), ""));
            let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Range: bytes=0-9"];
            if version == "--http1.1" {
                assert_eq!(get("/plain", &upgrade).text(), FILTERED, "who asks for an upgrade gets no other answer");
            }
            for path in ["/html", "/coded", "/events"] {
                let refused = get(path, &[]);
                assert_eq!((refused.status, &refused.json()["reason"]), (502, &json!("answer_not_json")), "{path}");
            }
            assert_eq!(get("/part", &[]).json()["reason"], "answer_partial");
            let moved = get("/moved", &[]);
            assert_eq!((moved.status, moved.header("location"), moved.text().as_str()), (302, Some("/x"), ""));
            let busy = get("/busy", &[]);
            assert_eq!((busy.status, busy.header("retry-after"), busy.text().as_str()), (503, Some("7"), ""));
            let failed = get("/failed", &[]);
            assert_eq!((failed.status, failed.text().as_str()), (404, r#"{"title":"no"}"#));
            assert_eq!((get("/empty", &[]).status, get("/nothing", &[]).status), (200, 204));
        }
        let old = raw(gateway.port(), b"GET /plain HTTP/1.0\r\nHost: a\r\n\r\n");
        assert!(String::from_utf8_lossy(&old).ends_with(FILTERED));
        let asked = backend.requests();
        assert!(
            asked
                .iter()
                .all(|request| request.header("accept-encoding") == Some("identity") && request.header("range").is_none())
        );
        assert!(asked.iter().all(|request| request.header("if-none-match").is_none()));
    });
}

/// Sends the beginning of an answer, and what follows it is up to the path.
fn breaking(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.ends_with(b"\r\n\r\n") {
        match std::io::Read::read(&mut stream, &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    }
    let path = String::from_utf8_lossy(&seen).split(' ').nth(1).unwrap_or_default().to_owned();
    let begun = br#"{"id":1,"list":[{"cost":1,"a":2},"#;
    let chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
    let mut out = Vec::new();
    out.extend_from_slice(chunked);
    out.extend(chunk(begun));
    match path.as_str() {
        // It ends well, but is not whole.
        "/short" => out.extend_from_slice(b"0\r\n\r\n"),
        "/trailers" => out.extend_from_slice(b"0\r\nX-End: 1\r\n\r\n"),
        "/wrong" => {
            out.extend(chunk(b"nonsense]}"));
            out.extend_from_slice(b"0\r\n\r\n");
        }
        // It breaks off.
        _ => {}
    }
    let _ = stream.write_all(&out);
    if path == "/wrong" {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_answer_that_is_not_whole_looks_broken() {
    let backend = Backend::scripted(breaking);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a, policies: { reshape: { response: [ { remove: '/list/*/cost' } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        for path in ["/short", "/trailers", "/wrong", "/breaks"] {
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                // Or another one is given, where nothing of it has gone.
                let got = try_curl(&[version, &gateway.url(path)]);
                assert!(got.as_ref().is_err() || got.as_ref().is_ok_and(|got| got.status == 502), "{path} {version}: {got:?}");
            }
            let old = raw(gateway.port(), format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes());
            assert!(!String::from_utf8_lossy(&old).contains("\"id\""), "{path}");
        }
        let line = gateway.wait_log(|line| line["path"] == "/short" && line["answered_by"] == "reshape");
        assert!(["answer_broke_off", "answer_malformed"].contains(&line["reason"].as_str().unwrap()), "{line}");
    });
}

#[test]
fn answers_are_reshaped_whole() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/broken" | "/passed" => answer("ETag: \"a\"\r\n", "{\"a\":"),
        "/twice" => answer("", "{\"a\":1,\"a\":2}"),
        "/long" => answer("", &format!("{{\"a\":\"{}\"}}", "x".repeat(100))),
        _ => answer("ETag: \"a\"\r\n", r#"{"data":{"user_id":7.0,"total":"1.10","secret":true}}"#),
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          compress: { min_size: 0 }
          etag: { up_to: 1KiB }
          answer_contract: { schema: { type: object, properties: { userId: {}, total: { type: number }, q: {} }, additionalProperties: false } }
          reshape:
            up_to: 100B
            response:
              - unwrap: { '': data }
              - header: { X-User: /user_id }
              - rename: { /user_id: userId }
              - convert: { /total: number }
              - remove: /secret
              - set: { /q: { query: q } }
        routes:
          - { path: /*, service: a }
          - { path: /passed, service: a, policies: { answer_contract: false, reshape: { on_unparsable: pass, response: [ { remove: /a } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let get = |path: &str, more: &[&str]| curl(&[&[version, "--compressed", &gateway.url(path)], more].concat());
        let made = get("/", &[]);
        assert_eq!(
            (made.status, made.text().as_str(), made.header("x-user")),
            (200, r#"{"userId":7.0,"total":1.10}"#, Some("7.0"))
        );
        let tag = made.header("etag").unwrap().to_owned();
        assert!(tag.starts_with("W/") && made.header("content-encoding").is_some());
        assert_eq!(get("/", &["-H", &format!("If-None-Match: {tag}")]).status, 304);
        assert_eq!(get("/", &["-H", "If-None-Match: \"a\""]).status, 200);
        assert_eq!(get("/?q=x", &["-H", &format!("If-None-Match: {tag}")]).text(), r#"{"userId":7.0,"total":1.10,"q":"x"}"#);
        for (path, reason) in [("/broken", "answer_malformed"), ("/twice", "answer_malformed"), ("/long", "answer_too_large")] {
            let refused = get(path, &[]);
            assert_eq!((refused.status, &refused.json()["reason"]), (502, &json!(reason)), "{path}");
        }
        assert_eq!(get("/passed", &[]).text(), "{\"a\":");
    }
    let stock = yaml.replace("workers: 1", "engine: pingora").replace("$PORT", "1");
    gateway.files().write("stock.yaml", stock);
    let refused = portcullis(gateway.dir(), &["check", "stock.yaml"]);
    assert!(refused.code != 0 && refused.stderr.contains("works on whole answers"), "{}", refused.stderr);
}

#[test]
fn each_audience_gets_its_own_also_from_the_cache() {
    let backend = Backend::answering(|request| {
        let fields = "ETag: \"a\"\r\nCache-Control: public, max-age=60, s-maxage=90\r\nPortcullis-Cache-Control: max-age=90\r\n";
        let made = answer(fields, PRODUCT);
        std::thread::sleep(Duration::from_millis(if request.target == "/slow" { 300 } else { 0 }));
        let head = find(&made, b"\r\n\r\n").unwrap() + 4;
        if request.method == "HEAD" { made[..head].to_vec() } else { made }
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - path: /*
            service: a
            policies:
              cache: { default_ttl: 60s }
              reshape:
                response:
                  - { remove: [ /cost, '/variants/*/cost' ], when: \"request.headers['x-audience'] != 'staff'\" }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let get = |path: &str, audience: &str, more: &[&str]| {
            let audience = format!("X-Audience: {audience}");
            curl(&[&["-H", &audience, &gateway.url(path)], more].concat())
        };
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for _ in 0..2 {
                let staff = get("/p", "staff", &[version]);
                assert_eq!((staff.text().as_str(), staff.header("etag")), (PRODUCT, None));
                assert_eq!(staff.header("portcullis-cache-control"), None, "another gateway on the way would keep it for all");
                for more in [
                    &[][..],
                    &["-H", "Range: bytes=30-60"],
                    &["-H", "If-None-Match: \"a\""],
                    &["-H", "If-None-Match: W/\"a\", *"],
                ] {
                    let public = get("/p", "public", &[more, &[version]].concat());
                    assert_eq!((public.status, public.text().as_str()), (200, FILTERED), "{more:?}");
                    assert_eq!(public.header("cache-control"), Some("max-age=60, private"));
                    assert!(public.header("vary").is_some_and(|vary| vary.contains("authorization")));
                    assert!(public.all("vary").iter().any(|vary| vary.contains("x-audience")), "{public:?}");
                }
                // Whoever does not say who he is gets less, not more.
                assert_eq!(curl(&[version, &gateway.url("/p")]).text(), FILTERED);
            }
            let head = get("/p", "public", &["-I", version]);
            assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, None, None));
        }
        assert_eq!(backend.requests().len(), 1, "all others were hits");
        // Many who wait for one fetch, each for his own.
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..8)
                .map(|number| {
                    let audience = if number % 2 == 0 { "staff" } else { "public" };
                    let get = &get;
                    (audience, scope.spawn(move || get("/slow", audience, &[]).text()))
                })
                .collect();
            for (audience, got) in waiting {
                assert_eq!(got.join().unwrap(), if audience == "staff" { PRODUCT } else { FILTERED }, "{audience}");
            }
        });
    });
}

#[test]
fn what_the_schema_does_not_know_is_stripped() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/wrong" => answer("", r#"{"id":"x","secret":1}"#),
        "/part" => {
            b"HTTP/1.1 206 Part\r\nContent-Type: application/json\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\n\r\n\"sec"
                .to_vec()
        }
        "/html" => b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\nsecret".to_vec(),
        "/clean" => answer("ETag: \"a\"\r\n", r#"{ "id": 1.0 }"#),
        _ => answer(
            "ETag: \"a\"\r\n",
            r#"{ "id": 12345678901234567890, "secret": 1, "list": [ { "sku": "caf\u00e9", "cost": 1 } ] }"#,
        ),
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies:
          cache: { default_ttl: 60s }
          answer_contract:
            mode: strip
            schema:
              type: object
              properties: { id: { type: number }, list: { type: array, items: { properties: { sku: {} }, additionalProperties: false } } }
        routes:
          - { path: /*, service: a }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for more in [&[][..], &["-H", "Range: bytes=0-90"]] {
            let got = curl(&[&[version, &gateway.url("/")], more].concat());
            assert_eq!(got.text(), r#"{"id":12345678901234567890,"list":[{"sku":"caf\u00e9"}]}"#);
            assert_eq!((got.status, got.header("etag")), (200, None));
        }
        let clean = curl(&[version, &gateway.url("/clean")]);
        assert_eq!((clean.text().as_str(), clean.header("etag")), (r#"{ "id": 1.0 }"#, Some("\"a\"")));
        for path in ["/wrong", "/part", "/html"] {
            let refused = curl(&[version, &gateway.url(path)]);
            assert_eq!((refused.status, &refused.json()["reason"]), (502, &json!("answer_breaks_contract")), "{path}");
        }
    }
}

#[test]
fn another_shape_after_a_reload_is_another_answer() {
    let backend = Backend::answering(|request| match request.header("if-none-match") {
        Some(_) => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
        None => answer("ETag: \"a\"\r\nCache-Control: max-age=60\r\n", r#"{"a":1,"b":2,"c":3}"#),
    });
    let yaml = |steps: &str| {
        filled(
            &"
            listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
            services:
              a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
              b: { endpoints: [ '127.0.0.1:$BACKEND' ] }
            routes:
              - { path: /cached, service: a, policies: { cache: {}, reshape: { response: [ STEPS ] } } }
              - { path: /split, split: [ { service: a, weight: 1 }, { service: b, weight: 1 } ], policies: { reshape: { response: [ STEPS ] } } }
            "
            .replace("STEPS", steps),
            &[("$BACKEND", backend.port())],
        )
    };
    served(&yaml("{ remove: /a }"), |gateway| {
        gateway.rewrite(&yaml("{ remove: /a }"));
        assert_eq!(gateway.reload().0, 200);
        for path in ["/cached", "/cached", "/split", "/split"] {
            assert_eq!(curl(&["-H", "If-None-Match: \"a\"", &gateway.url(path)]).text(), r#"{"b":2,"c":3}"#);
        }
        gateway.rewrite(&yaml("{ keep: /a }"));
        assert_eq!(gateway.reload().0, 200);
        for path in ["/cached", "/split", "/split"] {
            assert_eq!(curl(&["-H", "If-None-Match: \"a\"", &gateway.url(path)]).text(), r#"{"a":1}"#);
        }
        assert_eq!(
            backend.requests().iter().filter(|request| request.target == "/cached").count(),
            1,
            "one entry for all shapes"
        );
    });
}

#[test]
fn a_body_does_not_lead_a_request_elsewhere() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a, policies: { reshape: { request: [ { path: '/orders/{/id}/items' } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let post = |id: &str| {
            let body = json!({ "id": id }).to_string();
            request(gateway.port(), "POST", "/", &[("Content-Type", "application/json")], body.as_bytes())
        };
        assert_eq!(post("a b?").json()["target"], "/orders/a%20b%3F/items");
        for id in ["..", "../admin", "%2e%2e%2f", "%2e%2e", "a;b", "a\\b", "", &"x".repeat(9000)] {
            post(id).assert_problem(400, "reshape", "body_malformed");
        }
    });
}

const ORDER: &str = "<?xml version=\"1.0\"?>\n<o:order xmlns:o=\"urn:o\" id=\"7\">\n  <line sku=\"a\">2</line>\n  <note>&lt;caf\u{e9}&gt;</note>\n</o:order>";

#[test]
fn services_of_xml_have_clients_of_json() {
    let backend = Backend::answering(|request| {
        let (kind, body) = match request.target.split('?').next().unwrap_or_default() {
            "/doctype" => ("text/xml", "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>".to_owned()),
            "/latin" => ("text/xml; charset=iso-8859-1", "<a/>".to_owned()),
            "/deep" => ("text/xml", format!("{}{}", "<a>".repeat(61), "</a>".repeat(61))),
            "/many" => ("text/xml", format!("<a>{}</a>", "<b/>".repeat(20_000))),
            "/echo" => ("application/xml", String::from_utf8(request.body.clone()).unwrap()),
            "/json" => ("application/json", r#"{"o:order":{"note":"1.0"}}"#.to_owned()),
            _ => ("application/vnd.order+xml", ORDER.to_owned()),
        };
        let fields = "ETag: \"a\"\r\nContent-MD5: x\r\nCache-Control: max-age=60\r\n";
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        (if request.method == "HEAD" { head } else { head + &body }).into_bytes()
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - path: /*
            service: a
            policies:
              cache: {}
              reshape:
                up_to: 64KiB
                xml: { request: xml, response: json, lists: [ line ], root: order }
                request: [ { remove: /secret } ]
                response: [ { unwrap: { '': 'o:order' } }, { convert: { /@id: integer, '/line/*/#text': number } } ]
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    let wanted = r##"{"@xmlns:o":"urn:o","@id":7,"line":[{"@sku":"a","#text":2}],"note":"<caf\u00e9>"}"##;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for time in 0..2 {
            let answer = curl(&[version, &gateway.url("/order")]);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.text());
            assert_eq!(answer.json(), serde_json::from_str::<serde_json::Value>(wanted).unwrap(), "{time}");
            assert_eq!(answer.header("content-length").unwrap(), answer.body.len().to_string());
            assert_eq!((answer.header("etag"), answer.header("content-md5")), (None, None));
            let head = curl(&["-I", version, &gateway.url("/order")]);
            assert_eq!((head.header("content-type"), head.header("content-length")), (Some("application/json"), None));
        }
        assert_eq!(curl(&[version, &gateway.url("/json")]).json(), json!({ "note": "1.0" }), "JSON is taken as well");
        for path in ["/doctype", "/deep", "/many"] {
            let refused = curl(&[version, &gateway.url(path)]);
            refused.assert_problem(502, "reshape", if path == "/many" { "answer_too_large" } else { "answer_malformed" });
        }
        curl(&[version, &gateway.url("/latin")]).assert_problem(502, "reshape", "answer_not_json");

        let post = |kind: &str, body: &str| {
            curl(&[version, "-H", &format!("Content-Type: {kind}"), "--data-binary", body, &gateway.url("/echo")])
        };
        let made = post("application/json", r#"{"secret":1,"item":[1.10,{"@id":"a&b"}],"none":null}"#);
        assert_eq!(made.json(), json!({ "order": { "item": ["1.10", { "@id": "a&b" }], "none": "" } }));
        let sent = backend.last();
        assert_eq!(sent.header("content-type"), Some("application/xml; charset=utf-8"));
        assert_eq!(
            String::from_utf8_lossy(&sent.body),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<order><item>1.10</item><item id=\"a&amp;b\"/><none/></order>"
        );
        assert_eq!(sent.header("content-length").unwrap(), sent.body.len().to_string());
        // XML goes on as XML, by the same steps.
        post("text/xml", "<a><b/></a>");
        assert_eq!(String::from_utf8_lossy(&backend.last().body), "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<a><b/></a>");
        for (kind, body, status, reason) in [
            ("application/json", r#"{"a b":1}"#, 400, "body_malformed"),
            ("application/json", "{\"a\":\"\\u0000\"}", 400, "body_malformed"),
            ("text/xml", "<a>", 400, "body_malformed"),
            ("text/xml", "<!DOCTYPE a><a/>", 400, "body_malformed"),
            ("text/xml; charset=utf-7", "<a/>", 415, "body_not_json"),
        ] {
            post(kind, body).assert_problem(status, "reshape", reason);
        }
    }
    let stock = yaml.replace("workers: 1", "engine: pingora").replace("$PORT", "1");
    gateway.files().write("stock.yaml", stock);
    let refused = portcullis(gateway.dir(), &["check", "stock.yaml"]);
    assert!(refused.code != 0 && refused.stderr.contains("works on whole answers"), "{}", refused.stderr);
}

#[test]
fn clients_choose_between_json_and_xml() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/xml" => b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 8\r\n\r\n<a>1</a>".to_vec(),
        "/gone" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => answer("Cache-Control: max-age=60\r\nVary: x-a\r\n", r#"{"a":1}"#),
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a, policies: { cache: {}, reshape: { xml: { response: accept, media_type: text/xml } } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<a>1</a>";
    for (path, accept, kind, body) in [
        ("/json", "application/json", "application/json", r#"{"a":1}"#),
        ("/json", "*/*", "application/json", r#"{"a":1}"#),
        ("/json", "application/json;q=0.5, application/xml", "text/xml", xml),
        ("/json", "text/xml", "text/xml", xml),
        ("/xml", "text/xml", "text/xml", "<a>1</a>"),
        ("/xml", "application/json", "application/json", r#"{"a":"1"}"#),
        ("/xml", "text/html", "text/xml", "<a>1</a>"),
    ] {
        let answer = request(gateway.port(), "GET", path, &[("Accept", accept)], b"");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path} {accept}");
        assert_eq!(answer.text(), body, "{path} {accept}");
        assert!(answer.all("vary").iter().any(|vary| vary.contains("accept")), "{path} {accept}");
    }
    assert_eq!(backend.requests().len(), 4, "one entry of the cache is for both");
    assert_eq!(get(gateway.port(), "/gone").status, 204);
    for (written, what) in [
        ("{}", "says nothing of requests"),
        ("{ request: accept }", "goes on as `json` or as `xml`"),
        ("{ response: json, lists: 'a b' }", "is no name of an element"),
        ("{ response: xml, media_type: text/plain }", "is no type of XML"),
        ("{ response: yaml }", "accept"),
    ] {
        gateway
            .files()
            .write("bad.yaml", yaml.replace("$PORT", "1").replace("{ response: accept, media_type: text/xml }", written));
        let refused = portcullis(gateway.dir(), &["check", "bad.yaml"]);
        assert!(refused.code != 0 && refused.stderr.contains(what), "{written}: {}", refused.stderr);
    }
}

/// Where nothing of an answer has gone yet, its client is told that there is none.
#[test]
fn an_answer_that_is_none_from_its_first_byte_on_is_refused() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/bom" => answer("", "\u{feff}{\"id\":1}"),
        "/two" => answer("", "{\"id\":1} {\"id\":2}"),
        _ => answer("", "{\"id\":1}"),
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: a, policies: { reshape: { response: [ { keep: /id } ] } } } ]
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(curl(&[version, &gateway.url("/good")]).text(), "{\"id\":1}");
        for path in ["/bom", "/two"] {
            let refused = curl(&[version, &gateway.url(path)]);
            assert_eq!((refused.status, &refused.json()["reason"]), (502, &json!("answer_malformed")), "{path} {version}");
        }
    }
    let old = raw(gateway.port(), b"GET /two HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(String::from_utf8_lossy(&old).contains(" 502 "), "{}", String::from_utf8_lossy(&old));
    gateway.wait_log(|line| line["path"] == "/bom" && line["reason"] == "answer_malformed" && line["status"] == 502);
}

/// What is said of a body is said of the one that the client has, whether it follows or not.
#[test]
fn nothing_is_told_of_a_body_that_the_client_does_not_get() {
    const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];
    let backend = Backend::answering(|request| {
        let fields = "ETag: \"a\"\r\nLast-Modified: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Digest: x\r\nRepr-Digest: x\r\nDigest: x\r\nContent-MD5: x\r\n";
        let made = answer(fields, r#"{"id":1,"pin":"1234"}"#);
        let head = find(&made, b"\r\n\r\n").unwrap() + 4;
        if request.method == "HEAD" { made[..head].to_vec() } else { made }
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        policies: { cache: { ttl: 60s } }
        routes:
          - { path: /strip, service: a, policies: { answer_contract: { mode: strip, schema: { properties: { id: {} } } } } }
          - { path: /coded, service: a, policies: { compress: { min_size: 1, codings: [ gzip ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for more in [&[][..], &["-H", "If-None-Match: *"], &["-H", "If-None-Match: \"a\""], &["-I"]] {
            let got = curl(&[&[version, &gateway.url("/strip")], more].concat());
            assert_eq!(got.status, 200, "{more:?}");
            for name in DIGESTS.into_iter().chain(["etag", "last-modified"]) {
                assert_eq!(got.header(name), None, "{more:?}");
            }
        }
        for more in [&[][..], &["-H", "If-None-Match: W/\"a\""], &["-I"]] {
            let coded = curl(&[&[version, "-H", "Accept-Encoding: gzip", &gateway.url("/coded")], more].concat());
            assert_eq!(coded.status, if more.len() == 2 { 304 } else { 200 });
            assert_eq!(coded.header("etag"), Some("W/\"a\""), "{more:?}");
            assert!(DIGESTS.iter().all(|name| coded.header(name).is_none()), "{more:?} {coded:?}");
        }
        let plain = curl(&[version, "-H", "If-None-Match: \"a\"", &gateway.url("/coded")]);
        assert_eq!((plain.status, plain.header("etag"), plain.header("digest")), (304, Some("\"a\""), Some("x")));
    }
}
