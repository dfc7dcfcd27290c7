//! What passes by nobody: fields that cannot be metadata, names that policies do not know, bodies of no type.

use super::*;

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn what_is_too_deep_for_the_service_does_not_get_there() {
    let shop = shop();
    // An entry of a map is a message to those who read it.
    let structure = |depth: usize| format!("{{\"structure\":{}1{}}}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    let list = |depth: usize| format!("{{\"value\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let inside = |depth: usize| format!("{{\"inside\":{}{{}}{}}}", r#"{"deeper":"#.repeat(depth), "}".repeat(depth));
    let entry = |depth: usize| format!("{{\"byNumber\":{{\"1\":{}{{}}{}}}}}", r#"{"deeper":"#.repeat(depth), "}".repeat(depth));
    let bodies: [&dyn Fn(usize) -> String; 4] = [&structure, &list, &inside, &entry];
    for body in bodies {
        let mut passed = 0;
        for depth in (10..=40).step_by(6).chain(30..=36).chain(46..=52).chain(94..=101) {
            let answer = shop.send("POST", "/v1/echo", &body(depth));
            match answer.status {
                200 => passed += 1,
                400 => answer.assert_problem(400, "transcode", "unfit_message"),
                _ => panic!("{depth}: {} {}", answer.status, answer.text()),
            }
        }
        assert!(passed > 5, "{passed}");
    }
}

fn asked(shop: &Shop, field: (&str, &str)) -> u16 {
    request(shop.gateway.port(), "GET", "/v1/metadata", &[field], b"").status
}

#[test]
fn what_cannot_be_metadata_reaches_no_service() {
    let shop = shop();
    let seen = |field: (&str, &str)| {
        let answer = request(shop.gateway.port(), "GET", "/v1/metadata", &[field], b"");
        assert_eq!(answer.status, 200, "{field:?}: {}", answer.text());
        answer.json()["fields"][field.0.to_ascii_lowercase()].as_str().map(str::to_owned)
    };
    assert_eq!(seen(("X-Token-Bin", "YQ==")).as_deref(), Some("61"));
    for field in [("x!a", "1"), ("x*a", "1"), ("X-Token-Bin", "zzz"), ("X-Token-Bin", "a"), ("X-Token-Bin", "YQ==,YQ==")] {
        assert_eq!(seen(field), None, "{field:?}");
    }
    // And nobody else is worse off, on the same connection.
    assert_eq!(seen(("X-Token-Bin", "YWJj")).as_deref(), Some("616263"));
    // Those who call by gRPC are told.
    let message = [&[0, 0, 0, 0, 3][..], b"\x0a\x01a"].concat();
    let call = |field: (&str, &str)| {
        let fields = [("Content-Type", "application/grpc-web"), field];
        request(shop.gateway.port(), "POST", "/shop.v1.Catalog/GetProduct", &fields, &message)
    };
    for field in [("x!a", "1"), ("X-Token-Bin", "zzz")] {
        assert_eq!(call(field).header("grpc-status"), Some("3"), "{field:?}");
    }
    for field in [("x_a!", "1"), ("X-Token-Bin", "YWJj"), ("x-plain", "\u{e9}")] {
        assert_eq!(call(field).header("grpc-status"), None, "{field:?}");
    }
    let line = shop.gateway.wait_log(|line| line["reason"] == "unfit_metadata");
    assert_eq!((&line["endpoint"], &line["grpc_status"]), (&Value::Null, &json!(3)), "{line}");
}

#[test]
fn no_client_opens_the_breaker_by_its_fields() {
    let shop = shop();
    let yaml = std::fs::read_to_string(shop.gateway.config_path()).unwrap();
    let breaker = "protocol: grpc\n    circuit_breaker: { consecutive_failures: 3 }";
    shop.gateway.rewrite(&yaml.replace("protocol: grpc", breaker));
    assert_eq!(shop.gateway.reload().0, 200);
    for _ in 0..10 {
        assert_eq!((asked(&shop, ("x!a", "1")), asked(&shop, ("X-Token-Bin", "zzz"))), (200, 200));
    }
}

#[test]
fn fields_have_one_name_unless_it_is_said_otherwise() {
    let strict = |more: &str| {
        let shop = shop_with("", "      - { path: '/*', service: shop }");
        let yaml = std::fs::read_to_string(shop.gateway.config_path()).unwrap();
        shop.gateway.rewrite(&yaml.replace("names: both", &format!("names: written{more}")));
        assert_eq!(shop.gateway.reload().0, 200);
        shop
    };
    for (more, name, other) in [("", "anInt32", "an_int32"), (", proto_names: true", "an_int32", "anInt32")] {
        for unknown in ["", ", unknown_fields: ignore, unknown_query: ignore"] {
            let shop = strict(&format!("{more}{unknown}"));
            assert_eq!(shop.json("POST", "/v1/echo", &format!("{{\"{name}\":7}}")), json!({ name: 7 }));
            assert_eq!(shop.json("GET", &format!("/v1/echo?{name}=7"), ""), json!({ name: 7 }));
            let answer = shop.send("POST", "/v1/echo", &format!("{{\"{other}\":7}}"));
            answer.assert_problem(400, "transcode", "unfit_message");
            assert_eq!(answer.json()["errors"][0]["detail"], format!("must be named `{name}`"), "{}", answer.text());
            let answer = shop.get(&format!("/v1/echo?{other}=7"));
            answer.assert_problem(400, "transcode", "unfit_message");
            assert_eq!(answer.json()["errors"][0]["name"], other, "{}", answer.text());
        }
    }
}

#[test]
fn a_body_says_what_it_is() {
    let shop = shop();
    let send = |fields: &[(&str, &str)], body: &str| request(shop.gateway.port(), "POST", "/v1/echo", fields, body.as_bytes());
    send(&[], "{}").assert_problem(415, "transcode", "json_needed");
    assert_eq!(send(&[], "").status, 200);
    for coding in ["gzip", "identity, br", "x"] {
        send(&[JSON, ("Content-Encoding", coding)], "{}").assert_problem(415, "transcode", "content_encoding_unsupported");
    }
    assert_eq!(send(&[JSON, ("Content-Encoding", "identity")], "{}").status, 200);
    let upload = request(shop.gateway.port(), "POST", "/v1/raw", &[("Content-Encoding", "gzip")], b"abc");
    upload.assert_problem(415, "transcode", "content_encoding_unsupported");
}

#[test]
fn a_failed_call_has_two_names_for_fallbacks_and_retries() {
    let shop = shop_with(
        "",
        "      - { path: '/v1/fail/14', service: shop, fallback: { on: [unavailable], body: instead } }
      - { path: '/v1/fail/5', service: shop, fallback: { on: [not_found], body: instead } }
      - { path: '/v1/products/flaky1', service: shop, retries: { on: ['503'] } }
      - { path: '/v1/products/flaky2', service: shop, retries: { on: [gateway_error] } }
      - { path: '/v1/products/flaky3', service: shop, retries: { on: [unavailable] } }
      - { path: '/v1/products/flaky4', service: shop, retries: { on: ['502'] } }",
    );
    assert_eq!((shop.get("/v1/fail/14").text(), shop.get("/v1/fail/5").text()), ("instead".to_owned(), "instead".to_owned()));
    for (number, status) in [(1, 200), (2, 200), (3, 200), (4, 503)] {
        assert_eq!(shop.get(&format!("/v1/products/flaky{number}")).status, status, "{number}");
    }
}

#[test]
fn a_value_does_not_choose_the_method() {
    let rules = ", rules: [ { method: shop.v1.Catalog.GetProduct, get: '/v1/products/{sku}' },
        { method: shop.v1.Catalog.Echo, get: '/v1/products/{text}:export' },
        { method: shop.v1.Catalog.GetProduct, post: '/v1/made/{sku}', body: '*' },
        { method: shop.v1.Catalog.Echo, post: '/v1/made/{text}:export', body: '*' } ]";
    let routes = "      - { path: '/v1/*', service: shop }
      - path: '/of/{sku}'
        compose: { calls: { one: { service: shop, path: '/v1/products/{param.sku}' } } }
      - { path: /made, service: shop, policies: { reshape: { request: [ { path: '/v1/made/{/id}' }, { remove: /id } ] } } }
      - { path: '/doc/v1/*', service: shop, strip_prefix: /doc, policies: { openapi: { file: api.yaml, base: /doc } } }";
    let files = Files::new();
    let document = "openapi: 3.1.0\ninfo: { title: t, version: '1' }\npaths:\n  /v1/products/{sku}:\n    get: { operationId: getProduct, parameters: \
        [ { name: sku, in: path, required: true, schema: { type: string } } ], responses: { '200': { description: fine } } }\n";
    files.write("api.yaml", document);
    let shop = shop_in(&files, rules, routes);
    assert_eq!(shop.get("/v1/products/a:export").json(), json!({ "text": "a" }));
    for path in ["/v1/products/a%3Aexport", "/of/a:export", "/of/a%3Aexport", "/doc/v1/products/a:export"] {
        let answer = shop.get(path);
        assert_eq!((answer.status, &answer.text().contains(r#""sku":"a:export""#)), (200, &true), "{path}: {}", answer.text());
    }
    let made = request(shop.gateway.port(), "POST", "/made", &[JSON], b"{\"id\":\"a:export\"}");
    assert_eq!((made.status, &made.text().contains(r#""sku":"a:export""#)), (200, &true), "{}", made.text());
}

#[test]
fn a_failure_may_be_kept_and_a_401_has_a_challenge() {
    let cache = "      - { path: '/*', service: shop, policies: { cache: { ttl: 30s, ttl_by_status: { 404: 30s } } } }";
    let shop = shop_with("", cache);
    assert_eq!((shop.get("/v1/products/none").status, shop.get("/v1/products/none").status), (404, 404));
    let hit = shop.get("/v1/products/none");
    assert!(hit.header("cache-status").unwrap().contains("hit"), "{:?}", hit.header("cache-status"));
    assert_eq!(shop.get("/v1/fail/16").header("www-authenticate"), Some("Bearer"));
}
