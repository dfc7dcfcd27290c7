//! gRPC methods for clients that speak REST and JSON, before a real server (grpcio).

mod bad;
mod beside;
mod beside_envoy;
mod contracts;
mod crossings;
mod ends;
mod json_format;
mod mapping;
mod reflection;
mod rest;
mod streams;
mod strict;
mod uploads;

pub use bad::odd;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::*;
use crate::protocols::peer::Peer;

fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcode/protos")
}

/// All that the tests call, as a set of descriptors.
pub fn descriptors() -> Vec<u8> {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transcode/protos");
    let mut compiler = protox::Compiler::new([protos(), known]).unwrap();
    compiler.include_imports(true);
    for file in ["shop/catalog.proto", "catalog_service.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"] {
        compiler.open_file(file).unwrap();
    }
    compiler.encode_file_descriptor_set()
}

/// A gateway, and the server behind it.
struct Shop {
    gateway: Gateway,
    server: Peer,
}

/// `transcode`: what the service says of itself beside where the descriptors are; `routes` with `service: shop`.
fn shop_with(transcode: &str, routes: &str) -> Shop {
    shop_in(&Files::new(), transcode, routes)
}

/// The same with other files beside the configuration.
fn shop_in(files: &Files, transcode: &str, routes: &str) -> Shop {
    shop_beside(files, transcode, "", routes)
}

/// `beside`: more keys of the service, and other services.
fn shop_beside(files: &Files, transcode: &str, beside: &str, routes: &str) -> Shop {
    let set = files.write("shop.pb", descriptors());
    let server = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
    server: {{ workers: 1 }}
    services:
      shop:
        endpoints: ['127.0.0.1:{}']
        protocol: grpc
        transcode: {{ descriptors: shop.pb, services: [shop.v1.Catalog], names: both{transcode} }}
{beside}
    routes:
{routes}
",
        server.port()
    );
    Shop { gateway: Gateway::start_in(files, &yaml), server }
}

fn shop() -> Shop {
    shop_with("", "      - { path: '/*', service: shop }")
}

impl Shop {
    fn get(&self, target: &str) -> Answer {
        get(self.gateway.port(), target)
    }

    fn send(&self, method: &str, target: &str, body: &str) -> Answer {
        request(self.gateway.port(), method, target, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// The body of an answer that is 200.
    #[track_caller]
    fn json(&self, method: &str, target: &str, body: &str) -> Value {
        let answer = self.send(method, target, body);
        assert_eq!(answer.status, 200, "{method} {target} {body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {target}");
        answer.json()
    }
}

/// The simplest of all: `GET /products/SKU-789` -> `catalogService.getProduct({sku})`.
#[test]
fn a_product_is_got_by_rest_from_a_service_that_knows_no_rest() {
    let files = Files::new();
    let set = files.write("all.pb", descriptors());
    let server = Peer::start("rest_grpc.py", &[set.to_str().unwrap()]);
    std::fs::copy(protos().join("catalog_service.proto"), files.dir().join("catalog.proto")).unwrap();
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
    server: {{ workers: 1 }}
    services:
      catalogService:
        endpoints: ['127.0.0.1:{}']
        protocol: grpc
        transcode:
          protos: catalog.proto
          rules:
            - {{ method: catalogService.getProduct, get: '/products/{{sku}}' }}
    routes:
      - {{ path: '/products/*', service: catalogService }}
",
        server.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let answer = get(gateway.port(), "/products/SKU-789");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.text(), r#"{"sku":"SKU-789","name":"Wireless Headphones","price":79.99}"#);
    assert_eq!(answer.header("content-length"), Some("60"));
    let line = gateway.wait_log(|line| line["path"] == "/products/SKU-789");
    assert_eq!((&line["grpc_method"], &line["grpc_status"]), (&json!("/catalogService/getProduct"), &json!(0)), "{line}");
    assert_eq!((&line["status"], &line["answered_by"]), (&json!(200), &json!("upstream")), "{line}");
}

#[test]
fn annotations_say_which_requests_mean_which_methods() {
    let shop = shop();
    let product = |target: &str| {
        let product = shop.json("GET", target, "");
        (product["sku"].as_str().unwrap_or_default().to_owned(), product["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(product("/v1/products/a"), ("a".to_owned(), "asked 1".to_owned()));
    assert_eq!(product("/v1/shelves/7/products/a"), ("a".to_owned(), "shelves/7".to_owned()));
    // One spelling of the path, and escapes as the template says.
    assert_eq!(product("/v1/x/../products/%62").0, "b");
    assert_eq!(product("/v1/products/caf%C3%A9%20x+y").0, "caf\u{e9} x+y");
    assert_eq!(product("/v1/products/a?shelf=s%26+2").1, "s& 2");
    let keeps = shop_with("", "      - { path: '/*', service: shop, ambiguous_paths: keep }");
    let name = keeps.json("PATCH", "/v1/echo/parts/a%2Fb/c%20d:mend", "{}");
    assert_eq!(name, json!({ "inside": { "name": "parts/a%2Fb/c d" } }));
    // However the client writes its escapes.
    assert_eq!(keeps.json("PATCH", "/v1/echo/parts/a%2fb/c%20d:mend", "{}"), name);
    let merges = shop_with("", "      - { path: '/*', service: shop, merge_slashes: false }");
    assert_eq!(merges.json("GET", "//v1/products/a", "")["sku"], "a");
    // The body beside what the path says, which goes before.
    let body = r#"{"inside":{"name":"mine","number":"7"}}"#;
    assert_eq!(shop.json("PATCH", "/v1/echo/parts/a:mend", body), json!({ "inside": { "name": "parts/a", "number": "7" } }));
    assert_eq!(shop.json("PUT", "/v1/echo/t?an_int32=7&aBool=true", r#"{"name":"n"}"#), json!({ "name": "n" }));
    assert_eq!(shop.json("PUT", "/v1/echo/t", ""), json!({}));
    // What is inside the body may stand in the path, and goes before.
    let rule = ", rules: [ { method: shop.v1.Catalog.Echo, patch: '/v1/insides/{inside.name=parts/*}', body: inside } ]";
    let update = shop_with(rule, "      - { path: '/*', service: shop }");
    for body in [r#"{"number":"7"}"#, r#"{"number":"7","name":"mine"}"#] {
        let updated = update.json("PATCH", "/v1/insides/parts/a", body);
        assert_eq!(updated, json!({ "inside": { "name": "parts/a", "number": "7" } }), "{body}");
    }
    assert_eq!(shop.json("POST", "/v1/texts?text=x", r#"["a","b"]"#), json!(["a", "b"]));
    assert_eq!(shop.json("POST", "/v1/texts", ""), json!([]));
    assert_eq!(shop.json("REPORT", "/v1/echo", r#"{"text":"r"}"#), json!({ "text": "r" }));
    // The default.
    assert_eq!(shop.json("POST", "/shop.v1.Catalog/Echo", r#"{"text":"d"}"#), json!({ "text": "d" }));
    assert_eq!(shop.json("POST", "/shop.v1.Catalog/Echo", ""), json!({}));
}

#[test]
fn queries_fill_fields_of_any_depth_and_kind() {
    let shop = shop();
    let echo = |query: &str| shop.json("GET", &format!("/v1/echo?{query}"), "");
    assert_eq!(echo("inside.deeper.name=x&inside.number=-5"), json!({ "inside": { "number": "-5", "deeper": { "name": "x" } } }));
    assert_eq!(echo("texts=a&texts=b&numbers=1&numbers=2&texts="), json!({ "numbers": [1, 2], "texts": ["a", "b", ""] }));
    assert_eq!(echo("colour=GREEN&colours=RED&colours=2"), json!({ "colour": "GREEN", "colours": ["RED", "GREEN"] }));
    assert_eq!(
        echo("time=2026-01-31T12:00:00.5%2B02:00&span=1.5s&mask=unitPrice,inside.name"),
        json!({ "time": "2026-01-31T10:00:00.500Z", "span": "1.500s", "mask": "unitPrice,inside.name" })
    );
    assert_eq!(
        echo("wrapped_int64=9007199254740993&wrappedBool=false&wrapped_string=&wrapped_bytes=_-8&wrapped_many=1&wrapped_many=2"),
        json!({
            "wrappedInt64": "9007199254740993", "wrappedBool": false, "wrappedString": "", "wrappedBytes": "/+8=", "wrappedMany": [1, 2]
        })
    );
    assert_eq!(
        echo("a_uint64=1&a_float=1e3&a_double=-Infinity"),
        json!({ "aDouble": "-Infinity", "aFloat": 1000, "aUint64": "1" })
    );
    assert_eq!(echo("maybe=0&a_bool=false&other=%F0%9F%A6%80"), json!({ "maybe": 0, "other": "\u{1f980}" }));
}

#[test]
fn what_a_query_cannot_say_is_refused_with_its_name() {
    let shop = shop();
    let refused = |query: &str| {
        let answer = shop.get(&format!("/v1/echo?{query}"));
        answer.assert_problem(400, "transcode", "unfit_message");
        let error = answer.json()["errors"][0].clone();
        (
            error["in"].as_str().unwrap().to_owned(),
            error["name"].as_str().unwrap().to_owned(),
            error["detail"].as_str().unwrap().to_owned(),
        )
    };
    for (query, name, detail) in [
        ("nothing=1", "nothing", "must name a field"),
        ("__proto__=1", "__proto__", "must name a field"),
        ("inside=1", "inside", "not a message"),
        ("inside.nothing=1", "inside.nothing", "must name a field"),
        ("insides.name=1", "insides.name", "list"),
        ("insides=1", "insides", "not a message"),
        ("by_name.a=1", "by_name.a", "list or a map"),
        ("by_name=1", "by_name", "map"),
        ("text.x=1", "text.x", "must name a field"),
        ("structure.fields=1", "structure.fields", "map"),
        ("text=a&text=b", "text", "twice"),
        ("an_int32=1&anInt32=2", "anInt32", "twice"),
        ("an_int32=2147483648", "an_int32", "int32"),
        ("an_int32=1.5", "an_int32", "whole"),
        ("an_int32=", "an_int32", "whole"),
        ("an_int32=+1", "an_int32", "whole"),
        ("a_uint64=-1", "a_uint64", "uint64"),
        ("a_bool=yes", "a_bool", "true or false"),
        ("colour=BLUE", "colour", "Colour"),
        ("data=@@", "data", "base64"),
        ("data=AA%3D", "data", "base64"),
        ("any.type_url=x", "any.type_url", "not a message"),
        ("value.string_value=x", "value.string_value", "not a message"),
        ("time=yesterday", "time", "time"),
        ("span=1", "span", "duration"),
        ("a_double=inf", "a_double", "number"),
        ("a_float=1e39", "a_float", "float"),
        ("text=%FF%FE", "text", "UTF-8"),
        ("text=%C0%AF", "text", "UTF-8"),
        ("chosen_text=a&chosen_number=1", "chosen_number", "beside"),
    ] {
        // The plus sign stands for itself here.
        let query = query.replace("=+", "=%2B");
        let (part, told, must) = refused(&query);
        assert_eq!((part.as_str(), told.as_str()), ("query", name), "{query}");
        assert!(must.contains(detail), "{query}: {must}");
    }
    let deep = format!("{}name=1", "inside.".to_owned() + &"deeper.".repeat(20));
    assert!(refused(&deep).2.contains("deep"));
    let many: String = (0..1001).map(|_| "texts=a&").collect();
    shop.get(&format!("/v1/echo?{many}")).assert_problem(400, "transcode", "too_many_parameters");
    shop.get("/v1/fail/x").assert_problem(400, "transcode", "unfit_message");
    // Bodies and paths have said it.
    let answer = shop.send("PUT", "/v1/echo/t?text=u", "{}");
    answer.assert_problem(400, "transcode", "unfit_message");
    let answer = shop.send("PUT", "/v1/echo/t?inside.number=1", "{}");
    answer.assert_problem(400, "transcode", "unfit_message");
    shop.send("POST", "/v1/echo?text=u", "{}").assert_problem(400, "transcode", "unfit_message");
    // Or it is ignored, where that is wanted.
    let lenient = shop_with(", unknown_query: ignore, unknown_fields: ignore", "      - { path: '/*', service: shop }");
    assert_eq!(lenient.json("GET", "/v1/echo?nothing=1&text=t&insides.name=2", ""), json!({ "text": "t" }));
    assert_eq!(
        lenient.json("POST", "/v1/echo?text=u", r#"{"no":{"x":[1]},"colour":"BLUE","an_int32":1}"#),
        json!({ "anInt32": 1 })
    );
    lenient.get("/v1/echo?an_int32=x").assert_problem(400, "transcode", "unfit_message");
}

#[test]
fn other_paths_are_404_and_other_methods_405() {
    let shop = shop();
    for path in [
        "/",
        "/v1",
        "/v1/products/",
        "/v1/products/a/b",
        "/shop.v1.Catalog/Nothing",
        "/shop.v2.Catalog/Echo",
        "/v1/products//a/b",
    ] {
        shop.get(path).assert_problem(404, "transcode", "no_rule");
    }
    let refused = shop.send("POST", "/v1/products/a", "{}");
    refused.assert_problem(405, "transcode", "method_not_bound");
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    let refused = shop.send("DELETE", "/v1/echo", "");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD, POST, REPORT")));
    assert_eq!(shop.send("OPTIONS", "/v1/products/a", "").header("allow"), Some("GET, HEAD"));
    let refused = shop.get("/shop.v1.Catalog/Echo");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    shop.send("POST", "/v1/collect", "{}").assert_problem(400, "transcode", "malformed_json");
    shop.send("GET", "/v1/products/a", "{}").assert_problem(400, "transcode", "unexpected_body");
    // Without the defaults.
    let shop = shop_with(", default_paths: false", "      - { path: '/*', service: shop }");
    shop.send("POST", "/shop.v1.Catalog/Echo", "{}").assert_problem(404, "transcode", "no_rule");
}

#[test]
fn hostile_paths_reach_no_method() {
    let shop = shop();
    for (path, status) in [
        ("/v1/products/%00", 400),
        ("/v1/products/%2e%2e", 404),
        ("/v1/products/..%2f..%2fadmin", 400),
        ("/v1/products/%C0%AE", 400),
        ("/v1/products/%ED%A0%80", 400),
        ("/v1/products/%", 400),
    ] {
        let answer = shop.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    // An encoded slash is a part of what the field says, as the template wants it.
    assert_eq!(shop.json("GET", "/v1/products/a%2Fb", "")["sku"], "a/b");
    // None of the others was a call.
    assert_eq!(shop.json("GET", "/v1/products/last", "")["name"], "asked 1");
}
