//! With everything else: the cache, splits, retries, other protocols, compose, a reload.

use super::*;

#[test]
fn calls_of_grpcs_own_pass_as_they_are() {
    let shop = shop();
    let target = format!("127.0.0.1:{}", shop.gateway.port());
    let facts = crate::protocols::peer::play("grpc_client.py", &["/shop.v1.Catalog/Upload", &target]);
    // It is no message of the method's, and the server says so.
    assert_ne!(facts["code"], "UNIMPLEMENTED", "{facts}");
    let facts = crate::protocols::peer::play("grpc_client.py", &["/shop.v1.Catalog/Nothing", &target]);
    assert_eq!(facts["code"], "UNIMPLEMENTED", "{facts}");
}

#[test]
fn calls_of_grpc_web_pass_to_services_of_http2() {
    let shop = shop();
    let yaml = std::fs::read_to_string(shop.gateway.config_path()).unwrap();
    shop.gateway.rewrite(&yaml.replace("protocol: grpc", "protocol: http2"));
    assert_eq!(shop.gateway.reload().0, 200);
    let kind = [("Content-Type", "application/grpc-web+proto")];
    let answer = request(shop.gateway.port(), "POST", "/shop.v1.Catalog/GetProduct", &kind, b"\0\0\0\0\0");
    assert!(!answer.text().contains("json_needed"), "{}", answer.text());
    assert_eq!(shop.json("GET", "/v1/products/a", "")["sku"], "a");
}

#[test]
fn cached_answers_are_cached_and_validated() {
    let shop = shop_with("", "      - { path: '/*', service: shop, policies: { cache: {} } }");
    let first = shop.get("/v1/products/a");
    let second = shop.get("/v1/products/a");
    assert_eq!((first.status, first.text()), (200, second.text()));
    assert!(second.header("cache-status").unwrap().contains("hit"), "{:?}", second.header("cache-status"));
    assert_eq!((second.header("etag"), second.header("content-type")), (Some("\"e1\""), Some("application/json")));
    let unchanged = request(shop.gateway.port(), "GET", "/v1/products/a", &[("If-None-Match", "\"e1\"")], b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let head = request(shop.gateway.port(), "HEAD", "/v1/products/a", &[], b"");
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, first.header("content-length")));
    assert!(head.header("cache-status").unwrap().contains("hit"));
    // Not by a HEAD.
    assert_eq!(request(shop.gateway.port(), "HEAD", "/v1/products/h", &[], b"").status, 200);
    // Failures and streams are not kept.
    for _ in 0..2 {
        assert!(!shop.get("/v1/fail/5").header("cache-status").unwrap().contains("hit"));
        assert!(!shop.get("/v1/watch?count=1").header("cache-status").unwrap().contains("hit"));
    }
}

#[test]
fn head_is_get_without_a_body() {
    let shop = shop();
    let got = shop.get("/v1/products/a?shelf=s");
    let head = request(shop.gateway.port(), "HEAD", "/v1/products/a?shelf=s", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), got.header("content-length"));
    assert_eq!(request(shop.gateway.port(), "HEAD", "/v1/watch?count=3", &[], b"").status, 200);
    let mut client = Client::connect(shop.gateway.port());
    for _ in 0..3 {
        assert_eq!(client.request("HEAD", "/v1/products/a", &[], b"").status, 200);
        assert_eq!(client.get("/v1/products/a").status, 200);
    }
}

#[test]
fn retries_are_for_what_may_be_asked_twice() {
    let files = Files::new();
    let set = files.write("shop.pb", descriptors());
    let server = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
    server: {{ workers: 1 }}
    services:
      shop:
        endpoints: ['127.0.0.1:{}']
        protocol: grpc
        retries: {{ attempts: 2, on: [unavailable], budget: {{ share: 100% }} }}
        transcode: {{ descriptors: shop.pb, services: [shop.v1.Catalog] }}
    routes: [ {{ path: '/*', service: shop }} ]
",
        server.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let answer = get(gateway.port(), "/v1/products/flaky1");
    assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("asked 2")));
    let line = gateway.wait_log(|line| line["path"] == "/v1/products/flaky1");
    assert_eq!((&line["retries"], &line["grpc_status"]), (&json!(1), &json!(0)), "{line}");
    // The same by POST.
    let answer = request(
        gateway.port(),
        "POST",
        "/shop.v1.Catalog/GetProduct",
        &[("Content-Type", "application/json")],
        br#"{"sku":"flaky2"}"#,
    );
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[test]
fn policies_see_json() {
    let routes = "      - path: /v1/products/*
        service: shop
        policies: { reshape: { response: [ { keep: [/sku, /unitPrice] } ] }, etag: { up_to: 1MiB } }
      - path: /api/v1/echo
        service: shop
        strip_prefix: /api
        policies: { validate: { body: { schema: { type: object, required: [text] } } } }
      - { path: /small, service: shop, rewrite: /v1/echo, policies: { bounds: { max_body: 20 } } }";
    let shop = shop_with("", routes);
    let answer = shop.get("/v1/products/a");
    assert_eq!((answer.status, answer.text()), (200, r#"{"sku":"a","unitPrice":79.99}"#.to_owned()));
    assert_eq!(shop.json("POST", "/api/v1/echo", r#"{"text":"t"}"#), json!({ "text": "t" }));
    assert_eq!(shop.send("POST", "/api/v1/echo", r#"{"anInt32":1}"#).json()["policy"], "validate");
    assert_eq!(shop.send("POST", "/small", r#"{"text":"t"}"#).status, 200);
    assert_eq!(shop.send("POST", "/small", r#"{"text":"tttttttttttttttt"}"#).status, 413);
}

#[test]
fn composed_answers_are_made_of_calls() {
    let routes = "      - path: /page
        compose:
          calls:
            product: { service: shop, path: /v1/products/a, query: { shelf: s } }
            echo: { service: shop, path: /v1/echo, query: { text: t } }
            none: { service: shop, path: /v1/products/none, optional: true }";
    let shop = shop_with("", routes);
    let page = shop.json("GET", "/page", "");
    assert_eq!(page["product"], json!({ "sku": "a", "name": "s", "unitPrice": 79.99 }), "{page}");
    assert_eq!(page["echo"], json!({ "text": "t" }));
}

#[test]
fn a_failure_that_is_kept_names_no_request() {
    let shop = shop_with("", "      - { path: '/*', service: shop, policies: { cache: { ttl: 1m } } }");
    let (first, second) = (shop.get("/v1/fail/5"), shop.get("/v1/fail/5"));
    assert!(second.header("cache-status").unwrap().contains("hit"), "{second:?}");
    for answer in [first, second] {
        assert_eq!((answer.status, &answer.json()["reason"]), (404, &json!("call_failed")));
        assert_eq!(answer.json()["request_id"], Value::Null, "{}", answer.text());
    }
}

#[test]
fn a_coding_that_a_policy_has_undone_is_none() {
    use std::io::Write;
    let coded = |body: &str| {
        let mut run = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        run.write_all(body.as_bytes()).unwrap();
        run.finish().unwrap()
    };
    let routes = "
      - { path: '/made/*', strip_prefix: /made, service: shop, policies: { reshape: { request: [ { set: { /anInt32: 5 } } ] } } }
      - { path: '/*', service: shop }";
    let shop = shop_with("", routes);
    let fields = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")];
    let send = |target: &str| request(shop.gateway.port(), "POST", target, &fields, &coded(r#"{"text":"t"}"#));
    let answer = send("/made/v1/echo");
    assert_eq!((answer.status, answer.text()), (200, r#"{"anInt32":5,"text":"t"}"#.to_owned()));
    send("/v1/echo").assert_problem(415, "transcode", "content_encoding_unsupported");
}

#[test]
fn http2_clients_get_the_same() {
    let shop = shop();
    let answer = curl(&["--http2-prior-knowledge", &shop.gateway.url("/v1/products/a?shelf=s")]);
    assert_eq!((answer.status, answer.text()), (200, r#"{"sku":"a","name":"s","unitPrice":79.99}"#.to_owned()));
    let answer = curl(&["--http2-prior-knowledge", "-H", "Accept: application/x-ndjson", &shop.gateway.url("/v1/watch?count=2")]);
    // Behind the body stands how the call ended, for who can read it.
    assert_eq!(answer.text(), "{\"sku\":\"0\"}\n{\"sku\":\"1\"}\ngrpc-status: 0\r\nx-trailing: behind\r\n");
    let url = shop.gateway.url("/v1/echo");
    let answer = curl(&["--http2-prior-knowledge", "-H", "Content-Type: application/json", "-d", r#"{"text":"x"}"#, &url]);
    assert_eq!(answer.json(), json!({ "text": "x" }));
}

#[test]
fn a_reload_takes_other_descriptors() {
    let shop = shop();
    shop.get("/v1/items/a").assert_problem(404, "transcode", "no_rule");
    let yaml = std::fs::read_to_string(shop.gateway.config_path()).unwrap();
    let rule = "services: [shop.v1.Catalog], rules: [ { method: shop.v1.Catalog.GetProduct, get: '/v1/items/{sku}' } ]";
    shop.gateway.rewrite(&yaml.replace("services: [shop.v1.Catalog]", rule));
    assert_eq!(shop.gateway.reload().0, 200);
    assert_eq!(shop.json("GET", "/v1/items/a?shelf=s", "")["sku"], "a");
    // In place of what the annotation says.
    shop.get("/v1/products/a").assert_problem(404, "transcode", "no_rule");
    // A broken set changes nothing.
    shop.gateway.files().write("shop.pb", "no set");
    assert_ne!(shop.gateway.reload().0, 200);
    assert_eq!(shop.json("GET", "/v1/items/a?shelf=s", "")["sku"], "a");
    assert!(shop.server.port() > 0);
}
