//! How calls end: statuses, details, metadata, deadlines.

use super::*;

#[test]
fn statuses_are_those_of_the_canonical_table() {
    let shop = shop();
    let all = [
        (1, 499, "CANCELLED"),
        (2, 500, "UNKNOWN"),
        (3, 400, "INVALID_ARGUMENT"),
        (4, 504, "DEADLINE_EXCEEDED"),
        (5, 404, "NOT_FOUND"),
        (6, 409, "ALREADY_EXISTS"),
        (7, 403, "PERMISSION_DENIED"),
        (8, 429, "RESOURCE_EXHAUSTED"),
        (9, 400, "FAILED_PRECONDITION"),
        (10, 409, "ABORTED"),
        (11, 400, "OUT_OF_RANGE"),
        (12, 501, "UNIMPLEMENTED"),
        (13, 500, "INTERNAL"),
        (14, 503, "UNAVAILABLE"),
        (15, 500, "DATA_LOSS"),
        (16, 401, "UNAUTHENTICATED"),
    ];
    for late in ["", "&late=true"] {
        for (code, status, name) in all {
            let answer = shop.get(&format!("/v1/fail/{code}?message=caf%C3%A9+100%25{late}"));
            answer.assert_problem(status, "transcode", "call_failed");
            let body = answer.json();
            assert_eq!((&body["grpc_status"], &body["grpc_code"]), (&json!(code), &json!(name)), "{body}");
            assert_eq!(body["detail"], "caf\u{e9} 100%");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!((answer.header("cache-control"), answer.header("grpc-status")), (None, None));
        }
    }
    let line = shop.gateway.wait_log(|line| line["path"] == "/v1/fail/16");
    assert_eq!((&line["grpc_method"], &line["grpc_status"]), (&json!("/shop.v1.Catalog/Fail"), &json!(16)), "{line}");
    assert_eq!((&line["status"], &line["answered_by"]), (&json!(401), &json!("upstream")), "{line}");
    assert_eq!(shop.gateway.metric("portcullis_transcoded_calls_total{service=\"shop\",code=\"UNAUTHENTICATED\"}"), 2.0);
    let answer = shop.get("/v1/fail/14?pushback_ms=2500");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("3")));
}

#[test]
fn details_are_told_as_json_where_their_types_are_known() {
    let shop = shop();
    let details = "details=google.rpc.ErrorInfo%3Dreason%3AOUT_OF_STOCK&details=google.rpc.LocalizedMessage%3Dmessage%3AAusverkauft\
                   &details=shop.v1.Product%3Dname%3AN&details=other.Unknown";
    let body = shop.get(&format!("/v1/fail/9?message=m&{details}")).json();
    assert_eq!(
        body["details"],
        json!([
            { "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "OUT_OF_STOCK" },
            { "@type": "type.googleapis.com/google.rpc.LocalizedMessage", "message": "Ausverkauft" },
            { "@type": "type.googleapis.com/shop.v1.Product", "name": "N" },
            { "@type": "type.googleapis.com/other.Unknown" },
        ]),
        "{body}"
    );
}

#[test]
fn fields_are_metadata_there_and_back() {
    let shop = shop_with("", "      - { path: '/*', service: shop, timeout: 5s }");
    let sent = [
        ("Authorization", "Bearer x"),
        ("X-Two", "1"),
        ("X-Two", "2"),
        ("X-Blob-Bin", "AP8="),
        ("X-Bad-Bin", "\u{7e}!"),
        ("X-Accented", "caf\u{e9}"),
        ("Grpc-Timeout", "1n"),
        ("Grpc-Status", "5"),
        ("If-None-Match", "*"),
        ("Cache-Control", "no-cache"),
        ("Accept-Language", "de"),
        ("X-Consumer-Name", "admin"),
        ("Connection", "x-hop"),
        ("X-Hop", "1"),
    ];
    let answer = request(shop.gateway.port(), "GET", "/v1/metadata", &sent, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = answer.json()["fields"].clone();
    assert_eq!(
        (&seen["authorization"], &seen["x-two"], &seen["x-blob-bin"]),
        (&json!("Bearer x"), &json!("1, 2"), &json!("00ff")),
        "{seen}"
    );
    assert_eq!((&seen["accept-language"], &seen["x-forwarded-proto"]), (&json!("de"), &json!("http")), "{seen}");
    for name in ["x-bad-bin", "x-accented", "grpc-status", "if-none-match", "cache-control", "x-consumer-name", "x-hop", "host"] {
        assert_eq!(seen.get(name), None, "{name}: {seen}");
    }
    // What is left of the route's time.
    let left: f64 = seen["deadline"].as_str().unwrap().parse().unwrap();
    assert!((3.0..5.0).contains(&left), "{left}");
    let answer = shop.get("/v1/products/a");
    assert_eq!((answer.header("x-initial"), answer.header("x-trailing")), (Some("before"), Some("behind")));
    assert_eq!((answer.header("x-blob-bin"), answer.header("etag")), (Some("AP8"), Some("\"e1\"")));
    assert_eq!(
        (answer.header("grpc-status"), answer.header("trailer"), answer.header("cache-control")),
        (None, None, Some("max-age=60"))
    );
    assert_eq!(answer.all("content-type"), ["application/json"]);
}

#[test]
fn a_call_takes_no_longer_than_its_route_allows() {
    let shop = shop_with("", "      - { path: '/*', service: shop, timeout: 300ms }");
    let answer = shop.get("/v1/products/a?slow_ms=5000");
    assert_eq!(answer.status, 504, "{}", answer.text());
    eventually("nothing is in flight", || shop.gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn raw_bodies_pass_both_ways() {
    let shop = shop();
    let body: Vec<u8> = (0..=255).collect();
    let answer = request(shop.gateway.port(), "POST", "/v1/raw", &[("Content-Type", "image/x")], &body);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("IMAGE/X")));
    assert_eq!(answer.body, body.iter().rev().copied().collect::<Vec<u8>>());
    assert_eq!(answer.header("content-length"), Some("256"));
    let answer = request(shop.gateway.port(), "POST", "/v1/raw", &[], b"");
    assert_eq!((answer.status, answer.header("content-type"), answer.body.len()), (200, Some("text/plain"), 0));
}
