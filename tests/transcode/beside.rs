//! What is made into calls beside what makes copies, chooses, judges, changes and tells: none of it knows that these were calls.

use super::*;

const PRODUCT: &str = "/v1/products/a?shelf=s";

/// The same with a service of plain HTTP beside it.
fn beside(service: &str, routes: &str, other: &Backend) -> Shop {
    let others = format!("        {service}\n      other: {{ endpoints: ['127.0.0.1:{}'] }}", other.port());
    shop_beside(&Files::new(), "", &others, routes)
}

fn of_type(kind: &'static str, body: &'static str) -> Backend {
    Backend::answering(move |_| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

#[test]
fn copies_are_of_the_request_and_compared_in_json() {
    let other = of_type("application/json", r#"{"sku":"a","name":"s","unitPrice":79.99}"#);
    let routes = "
      - { path: '/v1/*', service: shop, policies: { mirror: { service: other, compare: true } } }
      - { path: '/from/*', strip_prefix: /from, service: other, policies: { mirror: { service: shop, compare: true } } }";
    let shop = beside("", routes, &other);
    let compared = |count: f64| shop.gateway.wait_metric("portcullis_mirror_compared_total{outcome=\"same\"}", count);
    assert_eq!(shop.get(PRODUCT).status, 200);
    compared(1.0);
    let copy = other.last();
    assert_eq!((&*copy.method, &*copy.target, copy.header("content-type")), ("GET", PRODUCT, None), "{copy:?}");
    // A copy is made into a call as well.
    assert_eq!(shop.get(&format!("/from{PRODUCT}")).status, 200);
    compared(2.0);
    // What is posted is copied as it came, and a failure of the copy's is nobody's.
    let answer = shop.send("POST", "/v1/echo", r#"{"text":"x"}"#);
    assert_eq!(answer.text(), r#"{"text":"x"}"#);
    shop.gateway.wait_metric("portcullis_mirror_compared_total{outcome=\"body\"}", 1.0);
    assert_eq!(other.last().body, br#"{"text":"x"}"#);
    assert_eq!(shop.get("/from/v1/fail/13").status, 200);
    shop.gateway.wait_metric("portcullis_mirror_compared_total{outcome=\"status\"}", 1.0);
}

#[test]
fn pages_of_other_origins_see_answers_and_failures() {
    let routes =
        "      - { path: '/*', service: shop, policies: { cors: { origins: 'https://app.example.com', expose: [X-Trailing] } } }";
    let shop = shop_with("", routes);
    let page = ("Origin", "https://app.example.com");
    let asks = [page, ("Access-Control-Request-Method", "PATCH"), ("Access-Control-Request-Headers", "content-type")];
    let answer = request(shop.gateway.port(), "OPTIONS", "/v1/echo/parts/a:mend", &asks, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(page.1)), "{answer:?}");
    for (target, status) in [(PRODUCT, 200), ("/v1/products/none", 404), ("/v1/nothing", 404), ("/v1/watch?count=1", 200)] {
        let answer = request(shop.gateway.port(), "GET", target, &[page], b"");
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some(page.1)), "{target}: {answer:?}");
        assert!(answer.header("access-control-expose-headers").unwrap().contains("x-trailing"), "{target}: {answer:?}");
    }
    let stranger = request(shop.gateway.port(), "GET", PRODUCT, &[("Origin", "https://evil.example")], b"");
    assert_eq!(stranger.header("access-control-allow-origin"), None, "{stranger:?}");
}

#[test]
fn codes_that_are_the_servers_fault_open_a_breaker_and_no_others_do() {
    let other = Backend::http();
    for (code, opens) in [
        (2, true),
        (13, true),
        (14, true),
        (15, true),
        (4, true),
        (3, false),
        (5, false),
        (7, false),
        (8, false),
        (12, false),
        (16, false),
    ] {
        // Behind the initial metadata, and as all that there is.
        for late in [false, true] {
            let breaker = "circuit_breaker: { consecutive_failures: 3, open_for: 60s }\n        retries: { attempts: 0 }";
            let shop = beside(breaker, "      - { path: '/*', service: shop }", &other);
            let failing = format!("/v1/fail/{code}?late={late}");
            let before = shop.get(&failing).status;
            for _ in 0..2 {
                assert_eq!(shop.get(&failing).status, before, "{code} {late}");
            }
            let after = shop.get(&failing);
            match opens {
                true => after.assert_problem(503, "upstream", "circuit_open"),
                false => after.assert_problem(before, "transcode", "call_failed"),
            }
        }
    }
}

#[test]
fn an_endpoint_whose_calls_fail_is_left_out() {
    let files = Files::new();
    let set = files.write("shop.pb", descriptors());
    let good = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    let bad = H2Backend::start(|_, mut respond| async move {
        let head = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "14");
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    });
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services:
      shop:
        endpoints: ['127.0.0.1:$GOOD', '127.0.0.1:$BAD']
        protocol: grpc
        retries: { attempts: 0 }
        outlier_detection: { consecutive_5xx: 3, base_ejection: 1m, max_ejected: 50% }
        transcode: { descriptors: shop.pb, services: [shop.v1.Catalog] }
    routes: [ { path: '/*', service: shop } ]
";
    let yaml = filled(yaml, &[("$GOOD", good.port()), ("$BAD", bad.port())]);
    let gateway = Gateway::start_in(&files, &yaml);
    assert!((0..4).any(|_| get(gateway.port(), PRODUCT).status == 503), "both are asked");
    eventually("it is left out", || {
        get(gateway.port(), PRODUCT);
        gateway.metric("portcullis_upstream_ejected{service=\"shop\"}") == 1.0
    });
    for _ in 0..10 {
        assert_eq!(get(gateway.port(), PRODUCT).status, 200);
    }
}

#[test]
fn a_split_is_of_calls_and_of_requests() {
    let other = of_type("application/json", r#"{"sku":"other"}"#);
    let routes = "      - { path: '/*', split: [ { service: shop, weight: 50 }, { service: other, weight: 50 } ] }";
    let shop = beside("", routes, &other);
    let skus: Vec<String> = (0..60).map(|_| shop.json("GET", PRODUCT, "")["sku"].as_str().unwrap().to_owned()).collect();
    let (calls, requests) = (skus.iter().filter(|sku| *sku == "a").count(), skus.iter().filter(|sku| *sku == "other").count());
    assert!(calls > 5 && requests > 5 && calls + requests == 60, "{skus:?}");
    let lines = shop.gateway.wait_lines(60);
    for line in &lines {
        let is_call = line["service"] == "shop";
        assert_eq!(
            (line["grpc_status"] == json!(0), line["grpc_method"] == "/shop.v1.Catalog/GetProduct"),
            (is_call, is_call),
            "{line}"
        );
    }
}

#[test]
fn dry_runs_let_calls_pass_and_count_them() {
    let routes = "
      - path: '/*'
        service: shop
        policies:
          rate_limit: { by: client_address, limit: 1/hour, burst: 1, dry_run: true }
          validate: { mode: report, body: { schema: { type: object, required: [text] } } }";
    let shop = shop_with("", routes);
    for _ in 0..3 {
        assert_eq!(shop.get(PRODUCT).status, 200);
        assert_eq!(shop.json("POST", "/v1/echo", r#"{"anInt32":1}"#), json!({ "anInt32": 1 }));
    }
    assert!(shop.gateway.metric("portcullis_rate_limit_dry_run_total") >= 4.0);
}

#[test]
fn pages_stand_for_the_gateways_refusals_and_not_for_the_services_failures() {
    let routes = "      - { path: '/*', service: shop, policies: { error_pages: { pages: [ { type: text/html, text: '<p>{{ reason }}</p>' } ] } } }";
    let shop = shop_with("", routes);
    let asks = |target: &str| request(shop.gateway.port(), "GET", target, &[("Accept", "text/html")], b"");
    let refused = asks("/v1/nothing");
    assert_eq!(
        (refused.status, refused.header("content-type"), refused.text()),
        (404, Some("text/html; charset=utf-8"), "<p>no_rule</p>".to_owned())
    );
    // What a service has answered is its answer, as from any service.
    let failed = asks("/v1/products/none");
    assert_eq!((failed.status, failed.header("content-type")), (404, Some("application/problem+json")), "{failed:?}");
    assert_eq!(failed.json()["grpc_code"], "NOT_FOUND");
}

#[test]
fn what_is_long_is_compressed_and_lines_are_told_as_they_come() {
    let routes = "      - { path: '/*', service: shop, policies: { compress: { codings: [gzip], min_size: 100 }, etag: { up_to: 1MiB } } }";
    let shop = shop_with("", routes);
    let coded = |target: &str, more: &[(&str, &str)]| {
        let fields = [&[("Accept-Encoding", "gzip")][..], more].concat();
        request(shop.gateway.port(), "GET", target, &fields, b"")
    };
    let text = |answer: &Answer| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut text).unwrap();
        text
    };
    let long = format!("/v1/products/a?shelf={}", "s".repeat(400));
    let answer = coded(&long, &[]);
    assert_eq!((answer.header("content-encoding"), answer.header("vary").is_some()), (Some("gzip"), true), "{answer:?}");
    assert_eq!(text(&answer), shop.get(&long).text());
    assert_eq!(coded("/v1/products/a?shelf=s", &[]).header("content-encoding"), None, "it is short");
    let failed = coded(&format!("/v1/fail/5?message={}", "m".repeat(400)), &[]);
    assert_eq!((failed.status, failed.header("content-encoding")), (404, Some("gzip")), "{failed:?}");
    assert!(text(&failed).contains("NOT_FOUND"));
    // Each line is there before the next one is made.
    let mut client = Client::connect(shop.gateway.port());
    let fields = "Accept-Encoding: gzip\r\nAccept: application/x-ndjson";
    client.send(format!("GET /v1/watch?count=3&size=2000&pauseMs=2000 HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
    let began = std::time::Instant::now();
    let mut seen = Vec::new();
    while find(&seen, b"\r\n\r\n").is_none_or(|at| seen.len() < at + 40) {
        seen.extend(client.take(1));
    }
    assert!(began.elapsed() < std::time::Duration::from_millis(1900), "{:?}", began.elapsed());
    // The same message has the same tag. One of the service's own stays, and is for the service to compare, or for a cache.
    let echo = "/v1/echo?text=x";
    let tag = shop.get(echo).header("etag").unwrap().to_owned();
    let unchanged = request(shop.gateway.port(), "GET", echo, &[("If-None-Match", &tag)], b"");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{unchanged:?}");
    assert_eq!(shop.get(PRODUCT).header("etag"), Some("\"e1\""));
}

#[test]
fn what_is_cached_is_given_in_parts_and_told_in_the_log() {
    let shop = shop_with("", "      - { path: '/*', service: shop, policies: { cache: { ttl: 1h } } }");
    let whole = shop.get(PRODUCT);
    let part = |range: &str, more: &[(&str, &str)]| {
        let fields = [&[("Range", range)][..], more].concat();
        request(shop.gateway.port(), "GET", PRODUCT, &fields, b"")
    };
    for (range, text) in [("bytes=0-4", &whole.text()[..5]), ("bytes=-3", &whole.text()[whole.body.len() - 3..])] {
        let answer = part(range, &[]);
        assert_eq!((answer.status, &*answer.text()), (206, text), "{range}: {answer:?}");
        assert!(answer.header("content-range").unwrap().ends_with(&format!("/{}", whole.body.len())), "{answer:?}");
    }
    assert_eq!(part("bytes=4000-", &[]).status, 416);
    let other = part("bytes=0-4", &[("If-Range", "\"other\"")]);
    assert_eq!((other.status, other.text()), (200, whole.text()), "{other:?}");
    let head = request(shop.gateway.port(), "HEAD", PRODUCT, &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")), "{head:?}");
    let line = shop.gateway.wait_log(|line| line["cache"] == "miss" && line["path"] == "/v1/products/a");
    let facts = (&line["grpc_method"], &line["grpc_status"], &line["status"], &line["answered_by"]);
    assert_eq!(facts, (&json!("/shop.v1.Catalog/GetProduct"), &json!(0), &json!(200), &json!("upstream")), "{line}");
    // Nobody was called.
    let line = shop.gateway.wait_log(|line| line["method"] == "HEAD");
    assert_eq!(
        (&line["cache"], &line["grpc_method"], &line["answered_by"]),
        (&json!("hit"), &Value::Null, &json!("cache")),
        "{line}"
    );
    let line = shop.gateway.wait_log(|line| line["status"] == 206);
    assert_eq!((&line["cache"], &line["grpc_status"]), (&json!("hit"), &Value::Null), "{line}");
}

/// GraphQL whose fields are methods of gRPC's.
#[test]
fn graphql_is_answered_by_methods() {
    let routes = "
      - path: /graphql
        graphql:
          schema: |
            type Query { product(sku: ID!, shelf: String): Product  echo(text: String!): Echo }
            type Product { sku: ID!  name: String!  price: Float  twin: Product }
            type Echo { text: String  big: String }
          fields:
            Query.product: { service: shop, path: '/v1/products/{arg.sku}', query: { shelf: '{arg.shelf}' } }
            Query.echo: { service: shop, method: POST, path: /shop.v1.Catalog/Echo, body: { text: '{arg.text}', anInt64: 9007199254740993 } }
            Product.price: { from: unitPrice }
            Product.twin: { service: shop, path: '/v1/products/{parent.sku}' }
            Echo.big: { from: anInt64 }";
    let shop = shop_with("", routes);
    let ask_of = |shop: &Shop, query: &str| {
        let answer = shop.send("POST", "/graphql", &json!({ "query": query }).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let ask = |query: &str| ask_of(&shop, query);
    let answer = ask(r#"{ product(sku: "a", shelf: "s") { sku name price twin { sku } } echo(text: "x") { text big } }"#);
    let product = json!({ "sku": "a", "name": "s", "price": 79.99, "twin": { "sku": "a" } });
    assert_eq!(answer, json!({ "data": { "product": product, "echo": { "text": "x", "big": "9007199254740993" } } }));
    // NOT_FOUND is null; what else fails is an error, without the service's words.
    assert_eq!(ask(r#"{ product(sku: "none") { sku } }"#), json!({ "data": { "product": null } }));
    let shop =
        shop_with("", &routes.replace("/v1/products/{arg.sku}", "/v1/fail/13").replace(", query: { shelf: '{arg.shelf}' }", ""));
    let answer = ask_of(&shop, r#"{ product(sku: "a") { sku } }"#);
    assert_eq!((&answer["data"]["product"], &answer["errors"][0]["path"]), (&Value::Null, &json!(["product"])), "{answer}");
    assert!(!answer.to_string().contains("INTERNAL"), "{answer}");
    shop.gateway.wait_metric("portcullis_transcoded_calls_total{service=\"shop\",code=\"INTERNAL\"}", 1.0);
}
