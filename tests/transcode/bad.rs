//! What cannot be meant: configurations, and services that do not speak as they should.

use http::{HeaderMap, HeaderValue, Response};

use super::*;

pub fn checked(files: &Files, transcode: &str) -> String {
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:8080' }} ]\nservices:\n  shop:\n    endpoints: ['127.0.0.1:1']\n    protocol: grpc\n    transcode: {transcode}\n\
         routes: [ {{ path: '/*', service: shop }} ]\n"
    );
    files.write("gateway.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 1, "{transcode}: {}{}", ran.stdout, ran.stderr);
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn what_cannot_be_meant_is_told_with_its_place() {
    let files = Files::new();
    files.write("shop.pb", descriptors());
    files.write("no.pb", "no set");
    files.write("broken.proto", "syntax = \"proto3\";\nmessage A { string a = 1; string b = 1; }\n");
    files.write("typo.proto", "syntax = \"proto3\";\nmessage A { strin a = 1; }\n");
    files.write("far.proto", "syntax = \"proto3\";\nimport \"no/such.proto\";\nservice S {}\n");
    std::fs::create_dir(files.dir().join("up")).unwrap();
    files.write(
        "strange.proto",
        "syntax = \"proto3\";\npackage google.protobuf;\nmessage Struct { Struct fields = 1; }\n\
        service S { rpc R(Struct) returns (Struct); }\n",
    );
    files.write("up/up.proto", "syntax = \"proto3\";\nimport \"../typo.proto\";\nservice S {}\n");
    files.write(
        "bound.proto",
        "syntax = \"proto3\";\nimport \"google/api/annotations.proto\";\nmessage M { string a = 1; }\n\
        service S { rpc R(M) returns (M) { option (google.api.http) = { get: \"/x/{b}\" }; } }\n",
    );
    let rule = |rule: &str| format!("{{ descriptors: shop.pb, services: [shop.v1.Catalog], rules: [ {rule} ] }}");
    let get = |template: &str| rule(&format!("{{ method: shop.v1.Catalog.Echo, get: '{template}' }}"));
    for (transcode, said) in [
        ("{}".to_owned(), "needs to know the service's methods"),
        ("{ descriptors: shop.pb, protos: far.proto }".to_owned(), "one of `descriptors` and `protos`"),
        ("{ descriptors: absent.pb }".to_owned(), "absent.pb"),
        ("{ descriptors: no.pb }".to_owned(), "no set of descriptors"),
        ("{ descriptors: shop.pb, imports: x }".to_owned(), "`imports` are for `protos`"),
        ("{ protos: absent.proto }".to_owned(), "absent.proto"),
        ("{ protos: broken.proto }".to_owned(), "broken.proto"),
        ("{ protos: typo.proto }".to_owned(), "strin"),
        ("{ protos: far.proto }".to_owned(), "no/such.proto"),
        ("{ protos: up.proto, imports: up }".to_owned(), "up.proto:2:8"),
        ("{ protos: ../x.proto }".to_owned(), "x.proto"),
        ("{ protos: far.proto, imports: nowhere }".to_owned(), "`nowhere` is no folder"),
        ("{ protos: bound.proto }".to_owned(), "`/S/R` is annotated with `/x/{b}`"),
        ("{ descriptors: shop.pb, services: [shop.v1.Catalogue] }".to_owned(), "did you mean `shop.v1.Catalog`?"),
        ("{ descriptors: shop.pb, max_message: 1 }".to_owned(), "`max_message` is from 1KiB to 64MiB"),
        (rule("{ method: shop.v1.Catalog.Ecko, get: /a }"), "did you mean `shop.v1.Catalog.Echo`?"),
        (rule("{ method: shop.v1.Catalog.Echo }"), "one of `get`, `put`"),
        (rule("{ method: shop.v1.Catalog.Echo, get: /a, post: /a }"), "one of `get`, `put`"),
        (rule("{ method: shop.v1.Catalog.Echo, get: /a, body: '*' }"), "a GET request has no body"),
        (rule("{ method: shop.v1.Catalog.Echo, post: /a, body: nothing }"), "no such field"),
        (rule("{ method: shop.v1.Catalog.Echo, post: /a, body: inside.name }"), "field of the message itself"),
        (rule("{ method: shop.v1.Catalog.Echo, post: '/a/{text}', body: text }"), "stands in the path as well"),
        (rule("{ method: shop.v1.Catalog.Echo, get: /a, response_body: nothing }"), "no such field"),
        (rule("{ method: shop.v1.Catalog.Upload, post: '/a/{content_type}', body: '*' }"), "leaves no field"),
        (rule("{ method: shop.v1.Catalog.Collect, post: /a }"), "takes a stream"),
        (rule("{ method: shop.v1.Catalog.Echo, custom: { kind: 'A B', path: /a } }"), "no method of HTTP"),
        (rule("{ method: shop.v1.Catalog.Echo, custom: { kind: get, path: /a } }"), "upper case"),
        ("{ protos: strange.proto }".to_owned(), "`google.protobuf.Struct` is declared there otherwise"),
        (
            rule(
                "{ method: shop.v1.Catalog.Echo, get: /v1/products/one }, { method: shop.v1.Catalog.Fail, get: /v1/products/one }",
            ),
            "mean `/shop.v1.Catalog/Echo` already",
        ),
        (get("/a/{nothing}"), "must name a field"),
        (get("/a/{inside}"), "not a message"),
        (get("/a/{texts}"), "is a list"),
        (get("/a/{insides.name}"), "list or a map"),
        (get("/a/**/b"), "stands last"),
        (get("a"), "begins with a slash"),
    ] {
        let told = checked(&files, &transcode);
        assert!(told.contains(said), "{transcode}: {told}");
        assert!(told.contains("gateway.yaml:"), "{told}");
    }
    let yaml = "listeners: [ { bind: '127.0.0.1:8080' } ]\nservices: { shop: { endpoints: ['127.0.0.1:1'], transcode: { descriptors: shop.pb } } }\n";
    files.write("gateway.yaml", yaml);
    assert!(portcullis(files.dir(), &["check", "gateway.yaml"]).stderr.contains("protocol: grpc"));
    let yaml = format!("server: {{ engine: pingora }}\n{}", yaml.replace("'127.0.0.1:1']", "'127.0.0.1:1'], protocol: grpc"));
    files.write("gateway.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert!(ran.stderr.contains("`transcode` cannot be had with `engine: pingora`"), "{}", ran.stderr);
}

/// A service that answers `/v1/...` in the way that the path says.
pub fn odd() -> (H2Backend, Gateway) {
    let backend = H2Backend::start(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut message = Vec::new();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            message.extend_from_slice(&piece);
        }
        let asked = String::from_utf8_lossy(message.get(7..).unwrap_or_default()).into_owned();
        let grpc = || Response::builder().header("content-type", "application/grpc");
        let trailers =
            |status: &'static str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
        let product = b"\0\0\0\0\x03\x0a\x01p";
        let mut answer = |data: &[u8], end: Option<HeaderMap>| {
            let mut stream = respond.send_response(grpc().body(()).unwrap(), false).unwrap();
            stream.send_data(data.to_vec().into(), end.is_none()).unwrap();
            if let Some(fields) = end {
                stream.send_trailers(fields).unwrap();
            }
        };
        match asked.as_str() {
            "good" => answer(product, Some(trailers("0"))),
            "other_type" => answer(b"\0\0\0\0\x02\x0a\xff", Some(trailers("0"))),
            "truncated" => answer(b"\0\0\0\0\x09\x0a", Some(trailers("0"))),
            "huge" => answer(b"\0\x40\0\0\0", Some(trailers("0"))),
            "compressed" => answer(b"\x01\0\0\0\x03abc", Some(trailers("0"))),
            "twice" => answer(&[&product[..], &product[..]].concat(), Some(trailers("0"))),
            "none" => answer(b"", Some(trailers("0"))),
            "trailers" => {
                let mut fields = trailers("0");
                for (name, value) in [("set-cookie", "a=b"), ("connect-x", "1"), ("location", "/elsewhere")] {
                    fields.insert(http::HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                answer(product, Some(fields));
            }
            "no_trailers" => answer(product, None),
            "odd_status" => answer(product, Some(trailers("many"))),
            "no_status" => answer(product, Some(HeaderMap::new())),
            "html" => {
                let head = Response::builder().header("content-type", "text/html").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data("<h1>Hello</h1>".into(), true).unwrap();
            }
            "html_503" => {
                let head = Response::builder().status(503).header("content-type", "text/html").body(()).unwrap();
                respond.send_response(head, true).unwrap();
            }
            "moved" => {
                let head = Response::builder().status(302).header("location", "https://evil.example").body(()).unwrap();
                respond.send_response(head, true).unwrap();
            }
            _ => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    });
    let files = Files::new();
    files.write("shop.pb", descriptors());
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
    server: {{ workers: 1 }}
    services:
      shop: {{ endpoints: ['127.0.0.1:{}'], protocol: grpc, retries: {{ attempts: 0 }}, transcode: {{ descriptors: shop.pb, services: [shop.v1.Catalog] }} }}
    routes:
      - {{ path: '/*', service: shop }}
      - {{ path: '/any/*', strip_prefix: /any, service: shop, fallback: {{ on: [error], body: instead }} }}
      - {{ path: '/503/*', strip_prefix: /503, service: shop, fallback: {{ on: [503], body: instead }} }}
",
        backend.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    (backend, gateway)
}

#[test]
fn what_there_is_memory_for_on_an_idle_gateway_is_served() {
    let shop = shop();
    let many = |name: &str, one: &str, count: usize| format!("{{\"{name}\":[{}{one}]}}", format!("{one},").repeat(count - 1));
    for (name, one, most) in [
        ("insides", r#"{"name":"a product of ours","number":"7"}"#, 128_000),
        ("value", "1", 256_000),
        ("numbers", "1", 2_048_000),
        ("texts", r#""a text""#, 512_000),
    ] {
        let mut count = 16_000;
        let mut refused = false;
        while count <= most {
            let answer = shop.send("POST", "/v1/echo", &many(name, one, count));
            // The larger one is never served where the smaller one is not; and never does it say that there might be memory later.
            match answer.status {
                200 => assert!(!refused, "{count} {name}"),
                413 => refused = true,
                // It was called, and the answer takes more than the request did.
                502 => answer.assert_problem(502, "transcode", "unfit_answer"),
                _ => panic!("{count} {name}: {}", answer.text()),
            }
            assert!(count > 16_000 || answer.status == 200, "{name}: {}", answer.text());
            count *= 2;
        }
        assert!(refused, "{name}");
    }
    // Nothing of it is still held.
    eventually("all is given back", || shop.gateway.metric("portcullis_buffered_bytes") == 0.0);
    // Where there is less, less is served, and never are clients told to try again.
    let yaml = std::fs::read_to_string(shop.gateway.config_path()).unwrap();
    shop.gateway.rewrite(&yaml.replace("workers: 1", "workers: 1, buffered_bytes: 4MiB"));
    assert_eq!(shop.gateway.reload().0, 200);
    for (count, status) in [(100, 200), (20_000, 413)] {
        let answer = shop.send("POST", "/v1/echo", &many("insides", "{}", count));
        assert_eq!(answer.status, status, "{count}: {}", answer.text());
    }
}

#[test]
fn services_that_answer_otherwise_are_bad_gateways() {
    let (_backend, gateway) = odd();
    assert_eq!(get(gateway.port(), "/v1/products/good").json(), json!({ "sku": "p" }));
    for (how, status, reason) in [
        ("other_type", 502, "unfit_answer"),
        ("truncated", 502, "bad_answer"),
        ("huge", 502, "answer_too_large"),
        ("compressed", 502, "bad_answer"),
        ("twice", 502, "bad_answer"),
        ("none", 502, "bad_answer"),
        ("no_trailers", 502, "no_grpc_status"),
        ("no_status", 502, "no_grpc_status"),
        ("odd_status", 500, "call_failed"),
        ("html", 502, "no_grpc"),
        ("html_503", 503, "no_grpc"),
        ("moved", 502, "no_grpc"),
    ] {
        let answer = get(gateway.port(), &format!("/v1/products/{how}"));
        assert_eq!((answer.status, answer.header("location")), (status, None), "{how}: {}", answer.text());
        answer.assert_problem(status, "transcode", reason);
    }
    // Whoever noticed, the service has failed.
    for how in ["other_type", "truncated", "huge", "twice", "no_trailers", "html", "html_503"] {
        assert_eq!(get(gateway.port(), &format!("/any/v1/products/{how}")).text(), "instead", "{how}");
    }
    assert_eq!(get(gateway.port(), "/503/v1/products/html_503").text(), "instead");
    get(gateway.port(), "/503/v1/products/html").assert_problem(502, "transcode", "no_grpc");
    // A request that means nothing is the client's fault.
    get(gateway.port(), "/any/v1/nothing").assert_problem(404, "transcode", "no_rule");
    assert_eq!(get(gateway.port(), "/v1/products/reset").status, 502);
    assert_eq!(get(gateway.port(), "/v1/products/good").status, 200);
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}
