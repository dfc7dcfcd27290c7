//! Unary calls of the Connect protocol to servers of gRPC: Connect's own client, curl, and what neither would send.

mod crossings;
mod hostile;

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::*;
use crate::protocols::peer::{Peer, play_npm};
use crate::transcode::descriptors;

/// Services of the same server: one whose methods are known, one of which nothing is known.
const SERVICES: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services:
      shop: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc, transcode: { descriptors: shop.pb, services: [shop.v1.Catalog] } }
      plain: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc, connect: { get: shop.v1.Catalog/GetProduct } }
";

struct Shop {
    gateway: Gateway,
    server: Peer,
}

fn shop(routes: &str) -> Shop {
    shop_of(SERVICES, routes)
}

fn shop_of(services: &str, routes: &str) -> Shop {
    let files = Files::new();
    let set = files.write("shop.pb", descriptors());
    let server = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    let yaml = filled(&format!("{services}    routes:\n{routes}"), &[("$BACKEND", server.port())]);
    Shop { gateway: Gateway::start_in(&files, &yaml), server }
}

const BOTH: &str = "
      - { path: '/shop/*', strip_prefix: /shop, service: shop }
      - { path: '/plain/*', strip_prefix: /plain, service: plain }
";
const GET_PRODUCT: &str = "/shop.v1.Catalog/GetProduct";
const VERSION: (&str, &str) = ("Connect-Protocol-Version", "1");
const PROTO: (&str, &str) = ("Content-Type", "application/proto");
const JSON: (&str, &str) = ("Content-Type", "application/json");

impl Shop {
    /// Calls by Connect's own client, below this path.
    fn play(&self, below: &str, calls: &Value) -> Vec<Value> {
        let set = self.gateway.dir().join("shop.pb");
        let url = self.gateway.url(below);
        let all = play_npm("connect_client.js", &[&url, set.to_str().unwrap(), "shop.v1.Catalog", &calls.to_string()]);
        all.as_array().unwrap().clone()
    }

    fn call(&self, path: &str, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        request(self.gateway.port(), "POST", path, fields, body.as_ref())
    }

    fn get(&self, target: &str) -> Answer {
        get(self.gateway.port(), target)
    }
}

/// `GetProductRequest`, or a `Product`, with this `sku` alone.
fn of_sku(sku: &str) -> Vec<u8> {
    [&[0x0a, u8::try_from(sku.len()).unwrap()][..], sku.as_bytes()].concat()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut run = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    run.write_all(text).unwrap();
    run.finish().unwrap()
}

/// What stands in an answer that is Connect's error.
#[track_caller]
fn error(answer: &Answer) -> (u16, String, String) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let error = answer.json();
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

/// The reason in the text of a refusal of the gateway's.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, code: &str, by: &str) {
    let (was, told, text) = error(answer);
    assert_eq!((was, &*told), (status, code), "{answer:?}");
    assert!(text.ends_with(&format!("({by})")), "{by}: {text}");
}

#[test]
fn connects_own_client_calls_services_of_grpc() {
    let shop = shop(BOTH);
    let product = |sku: &str, name: &str| json!({ "sku": sku, "name": name, "unitPrice": 79.99 });
    for (below, json) in [("/shop", false), ("/shop", true), ("/plain", false)] {
        for http in ["1.1", "2"] {
            let message = |sku: &str| json!({ "sku": sku, "shelf": "s" });
            let all = shop.play(below, &json!([
                { "method": "GetProduct", "message": message("a"), "http": http, "json": json },
                { "method": "GetProduct", "message": message("b"), "http": http, "json": json, "gzip": true },
                { "method": "Find", "message": message("c"), "http": http, "json": json, "get": true },
                { "method": "GetProduct", "message": message("none"), "http": http, "json": json },
                { "method": "GetProduct", "message": { "sku": "slow", "slowMs": 3000 }, "http": http, "json": json, "timeoutMs": 300 },
                { "method": "Metadata", "http": http, "json": json, "headers": { "x-api-version": "2", "x-blob-bin": "AAH/" }, "timeoutMs": 9000 },
                { "method": "Fail", "http": http, "json": json, "message": { "code": 9, "message": "50 % \u{e4}", "late": true,
                    "details": ["google.rpc.ErrorInfo=reason:WHY", "google.rpc.Unknown"] } },
            ]));
            let case = format!("{below} {json} {http}: {all:?}");
            assert_eq!((&all[0]["code"], &all[0]["answer"]), (&json!("OK"), &product("a", "s")), "{case}");
            assert_eq!(
                (&all[0]["header"]["x-initial"], &all[0]["trailer"]["x-trailing"]),
                (&json!("before"), &json!("behind")),
                "{case}"
            );
            let blob = STANDARD_NO_PAD.encode([0, 0xff]);
            assert_eq!(all[0]["trailer"]["x-blob-bin"].as_str().unwrap().trim_end_matches('='), blob, "{case}");
            assert_eq!(all[1]["answer"], product("b", "s"), "{case}");
            // Whose descriptors say so is called with GET; of the other one nothing is known.
            match below {
                "/shop" => assert_eq!(all[2]["answer"], product("c", "s"), "{case}"),
                _ => assert_eq!(all[2]["code"], "Unimplemented", "{case}"),
            }
            assert_eq!((&all[3]["code"], &all[3]["text"]), (&json!("NotFound"), &json!("There is no product `none`.")), "{case}");
            assert_eq!(all[4]["code"], "DeadlineExceeded", "{case}");
            let seen = &all[5]["answer"]["fields"];
            assert_eq!((&seen["x-api-version"], &seen["x-blob-bin"]), (&json!("2"), &json!("0001ff")), "{case}");
            let left: f64 = seen["deadline"].as_str().unwrap().parse().unwrap();
            assert!((1.0..9.0).contains(&left), "{case}");
            assert!(
                seen.as_object().unwrap().keys().all(|name| !name.starts_with("connect-") && name != "content-encoding"),
                "{case}"
            );
            assert_eq!((&all[6]["code"], &all[6]["text"]), (&json!("FailedPrecondition"), &json!("50 % \u{e4}")), "{case}");
            assert_eq!(
                all[6]["details"],
                json!([
                    { "type": "google.rpc.ErrorInfo", "value": { "reason": "WHY" } },
                    { "type": "google.rpc.Unknown", "value": null },
                ]),
                "{case}"
            );
            assert_eq!(all[6]["metadata"]["x-initial"], "before", "{case}");
        }
    }
    let line = shop.gateway.wait_log(|line| line["path"] == "/plain/shop.v1.Catalog/GetProduct" && line["grpc_status"] == 5);
    let facts = (&line["grpc_method"], &line["status"], &line["answered_by"], &line["protocol"]);
    assert_eq!(facts, (&json!(GET_PRODUCT), &json!(404), &json!("upstream"), &json!("h1")), "{line}");
    assert!(shop.gateway.metric("portcullis_connect_calls_total{service=\"shop\",code=\"OK\"}") >= 12.0);
    assert_eq!(shop.gateway.metric("portcullis_connect_calls_total{service=\"plain\",code=\"FAILED_PRECONDITION\"}"), 2.0);
}

#[test]
fn a_call_is_a_plain_request_of_http() {
    let shop = shop(BOTH);
    // What curl sends in a minute's work.
    let url = shop.gateway.url(&format!("/shop{GET_PRODUCT}"));
    let head = ["-H", "content-type: application/json", "-H", "connect-protocol-version: 1"];
    let answer = curl(&[&head[..], &["-d", r#"{"sku":"a","shelf":"s"}"#, &url]].concat());
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    assert_eq!(answer.text(), r#"{"sku":"a","name":"s","unitPrice":79.99}"#);
    assert_eq!((answer.header("x-initial"), answer.header("trailer-x-trailing")), (Some("before"), Some("behind")), "{answer:?}");
    for gone in ["x-trailing", "grpc-status", "trailer-grpc-status", "grpc-accept-encoding"] {
        assert_eq!(answer.header(gone), None, "{gone}: {answer:?}");
    }
    let answer = shop.call(&format!("/plain{GET_PRODUCT}"), &[PROTO], of_sku("a"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/proto")), "{answer:?}");
    assert!(answer.body.starts_with(&of_sku("a")), "{answer:?}");
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    // No message at all is one of proto's, and none of JSON's.
    assert_eq!(shop.call(&format!("/plain{GET_PRODUCT}"), &[PROTO], "").status, 200);
    let answer = shop.call(&format!("/shop{GET_PRODUCT}"), &[JSON, VERSION], "");
    assert_refused(&answer, 400, "invalid_argument", "transcode: malformed_json");
    // Without its version, JSON is REST's, as ever.
    let answer = shop.call(&format!("/shop{GET_PRODUCT}"), &[JSON], r#"{"sku":"none"}"#);
    answer.assert_problem(404, "transcode", "call_failed");
    // So is a raw body, whatever its type is.
    let answer = shop.call("/shop/v1/raw", &[PROTO], "ab");
    assert_eq!((answer.status, answer.text()), (200, "ba".to_owned()), "{answer:?}");
    // To Connect it is a message like any other.
    let answer = shop.call("/shop/shop.v1.Catalog/Upload", &[JSON, VERSION], r#"{"contentType":"text/x","data":"YWI="}"#);
    assert_eq!(answer.json(), json!({ "contentType": "TEXT/X", "data": "YmE=" }), "{answer:?}");
}

#[test]
fn codes_have_their_statuses_and_names() {
    let shop = shop(BOTH);
    let names = [
        (1, 499, "canceled"),
        (2, 500, "unknown"),
        (3, 400, "invalid_argument"),
        (4, 504, "deadline_exceeded"),
        (5, 404, "not_found"),
        (6, 409, "already_exists"),
        (7, 403, "permission_denied"),
        (8, 429, "resource_exhausted"),
        (9, 400, "failed_precondition"),
        (10, 409, "aborted"),
        (11, 400, "out_of_range"),
        (12, 501, "unimplemented"),
        (13, 500, "internal"),
        (14, 503, "unavailable"),
        (15, 500, "data_loss"),
        (16, 401, "unauthenticated"),
    ];
    for (code, status, name) in names {
        for late in [false, true] {
            let body = json!({ "code": code, "message": "why", "late": late }).to_string();
            let answer = shop.call("/shop/shop.v1.Catalog/Fail", &[JSON, VERSION], body);
            assert_eq!(error(&answer), (status, name.to_owned(), "why".to_owned()), "{code} {late}");
        }
    }
    let body = r#"{"code":14,"pushbackMs":1500,"details":["google.rpc.ErrorInfo=reason:WHY"]}"#;
    let answer = shop.call("/shop/shop.v1.Catalog/Fail", &[JSON, VERSION], body);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{answer:?}");
    assert_eq!(
        answer.json()["details"][0],
        json!({ "type": "google.rpc.ErrorInfo", "value": STANDARD_NO_PAD.encode(b"\x0a\x03WHY") })
    );
    let denied = shop.call("/shop/shop.v1.Catalog/Fail", &[JSON, VERSION], r#"{"code":16}"#);
    assert!(denied.header("www-authenticate").is_some(), "{denied:?}");
    // A method that there is not is the service's to say, and of JSON's nothing is known.
    assert_eq!(error(&shop.call("/plain/shop.v1.Catalog/Nothing", &[PROTO], "")).1, "unimplemented");
    let answer = shop.call("/shop/shop.v1.Catalog/Nothing", &[JSON, VERSION], "{}");
    assert_refused(&answer, 404, "unimplemented", "transcode: no_method");
}

#[test]
fn what_changes_nothing_may_be_called_by_a_link() {
    let shop = shop(BOTH);
    let find = "/shop/shop.v1.Catalog/Find?connect=v1";
    let answer = shop.get(&format!("{find}&encoding=json&message=%7B%22sku%22%3A%22a%22%2C%22shelf%22%3A%22s%22%7D"));
    assert_eq!((answer.status, answer.text()), (200, r#"{"sku":"a","name":"s","unitPrice":79.99}"#.to_owned()));
    let message = of_sku("a\u{3f}\u{3f}\u{3f}\u{3e}");
    for text in [URL_SAFE_NO_PAD.encode(&message), URL_SAFE.encode(&message).replace('=', "%3D")] {
        // In any order, and with others beside them.
        let answer = shop.get(&format!("/plain{GET_PRODUCT}?message={text}&x=y&encoding=proto&base64=1&connect=v1"));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/proto")), "{text}: {answer:?}");
        assert!(answer.body.starts_with(&message), "{text}: {answer:?}");
        let head = request(
            shop.gateway.port(),
            "HEAD",
            &format!("/plain{GET_PRODUCT}?message={text}&encoding=proto&base64=1&connect=v1"),
            &[],
            b"",
        );
        assert_eq!((head.status, head.body.len()), (200, 0), "{head:?}");
    }
    let gzipped = gzip(br#"{"sku":"z","shelf":"s"}"#);
    let answer = shop.get(&format!("{find}&encoding=json&base64=1&compression=gzip&message={}", URL_SAFE_NO_PAD.encode(gzipped)));
    assert_eq!(answer.json()["sku"], "z", "{answer:?}");
    // What may change something is not.
    for target in [
        "/shop/shop.v1.Catalog/GetProduct?connect=v1&encoding=json&message=%7B%7D",
        "/plain/shop.v1.Catalog/Find?connect=v1&encoding=proto&message=",
    ] {
        let answer = shop.get(target);
        assert_refused(&answer, 405, "unimplemented", "connect_rpc: get_not_allowed");
        assert_eq!(answer.header("allow"), Some("POST"), "{answer:?}");
    }
    for (query, by) in [
        ("connect=v1&message=%7B%7D", "connect_rpc: malformed_query"),
        ("connect=v1&encoding=json", "connect_rpc: malformed_query"),
        ("connect=v1&encoding=json&message=%7B%7D&message=%7B%22sku%22%3A%22b%22%7D", "connect_rpc: malformed_query"),
        ("connect=v1&connect=v2&encoding=json&message=%7B%7D", "connect_rpc: malformed_query"),
        ("connect=v1&encoding=json&message=*&base64=1", "connect_rpc: malformed_message"),
        ("connect=v1&encoding=json&message=%ff", "connect_rpc: malformed_message"),
        ("connect=v1&encoding=json&message=%7B", "transcode: malformed_json"),
        ("connect=v1&encoding=json&message=%7B%22sku%22%3A1%7D", "transcode: unfit_message"),
        ("connect=v1&encoding=json&message=%7B%7D&compression=gzip", "connect_rpc: content_encoding_malformed"),
    ] {
        assert_refused(&shop.get(&format!("/shop/shop.v1.Catalog/Find?{query}")), 400, "invalid_argument", by);
    }
    let answer = shop.get("/shop/shop.v1.Catalog/Find?connect=v1&encoding=xml&message=x");
    assert_refused(&answer, 415, "invalid_argument", "connect_rpc: codec_unsupported");
    let answer =
        request(shop.gateway.port(), "GET", "/shop/shop.v1.Catalog/Find?connect=v1&encoding=json&message=%7B%7D", &[], b"{}");
    assert_refused(&answer, 400, "invalid_argument", "connect_rpc: unexpected_body");
    // Another version, or none, is no call.
    shop.get("/shop/shop.v1.Catalog/Find?connect=v2&encoding=json&message=%7B%7D").assert_problem(
        405,
        "transcode",
        "method_not_bound",
    );
}

#[test]
fn binary_metadata_is_taken_padded_or_not_and_one_by_one() {
    let shop = shop(BOTH);
    let seen = |value: &str| {
        let answer = shop.call("/shop/shop.v1.Catalog/Metadata", &[JSON, VERSION, ("X-Blob-Bin", value)], "{}");
        assert_eq!(answer.status, 200, "{value}: {answer:?}");
        answer.json()["fields"]["x-blob-bin"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!((seen(&STANDARD.encode([7])), seen(&STANDARD_NO_PAD.encode([7]))), ("07".to_owned(), "07".to_owned()));
    // As browsers join two of one name.
    assert_eq!(seen("Bw==, CA"), "07, 08");
    for bad in ["no base64!", "Bw==, ?"] {
        let answer = shop.call("/shop/shop.v1.Catalog/Metadata", &[JSON, VERSION, ("X-Blob-Bin", bad)], "{}");
        assert_refused(&answer, 400, "invalid_argument", "upstream: unfit_metadata");
    }
}

#[test]
fn a_service_that_takes_json_gets_it_as_it_is() {
    // It answers with what it was told, and what it was told it was.
    let backend = H2Backend::start(|request, mut respond| async move {
        let kind = request.headers().get("content-type").cloned().unwrap();
        let mut body = request.into_body();
        let mut message = Vec::new();
        while let Some(Ok(piece)) = body.data().await {
            message.extend_from_slice(&piece);
        }
        let head =
            http::Response::builder().header("content-type", "application/grpc+json").header("x-told", kind).body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(message.into(), false).unwrap();
        stream
            .send_trailers(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), http::HeaderValue::from_static("0"))]))
            .unwrap();
    });
    let yaml = |connect: &str| {
        let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services: { it: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc$CONNECT } }
    routes: [ { path: '/*', service: it } ]
";
        filled(&yaml.replace("$CONNECT", connect), &[("$BACKEND", backend.port())])
    };
    let gateway = Gateway::start(&yaml(", connect: { json: true }"));
    let ask = || request(gateway.port(), "POST", "/a.B/C", &[JSON, VERSION], b"{\"any\": 1}");
    let answer = ask();
    assert_eq!(
        (answer.status, answer.header("x-told"), &*answer.body),
        (200, Some("application/grpc+json"), &b"{\"any\": 1}"[..]),
        "{answer:?}"
    );
    gateway.rewrite(&yaml(""));
    assert_eq!(gateway.reload().0, 200);
    assert_refused(&ask(), 415, "invalid_argument", "connect_rpc: codec_unsupported");
    let answer = request(gateway.port(), "POST", "/a.B/C", &[PROTO], b"\x08\x01");
    assert_eq!(
        (answer.status, answer.header("x-told"), &*answer.body),
        (200, Some("application/grpc"), &b"\x08\x01"[..]),
        "{answer:?}"
    );
    // Where it is off, the service gets what came, and has to know what that is.
    gateway.rewrite(&yaml(", connect: false"));
    assert_eq!(gateway.reload().0, 200);
    let answer = request(gateway.port(), "POST", "/a.B/C", &[PROTO], b"\x08\x01");
    assert_eq!(answer.header("x-told"), Some("application/proto"), "{answer:?}");
}
