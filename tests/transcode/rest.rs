//! Clients of gRPC before a service that speaks REST.

use super::*;
use crate::protocols::peer::play;

struct Setup {
    gateway: Gateway,
    files: Files,
    backend: Backend,
}

/// What the service answers, and to which routes.
fn setup(transcode: &str, route: &str, answer: impl Fn(&RecordedRequest) -> String + Send + Sync + 'static) -> Setup {
    let files = Files::new();
    files.write("shop.pb", descriptors());
    let backend = Backend::answering(move |request| answer(request).into_bytes());
    let yaml = format!(
        "
    listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
    server: {{ workers: 1 }}
    services:
      shop:
        endpoints: ['127.0.0.1:{}']
        transcode: {{ serve: grpc, descriptors: shop.pb, services: [shop.v1.Catalog]{transcode} }}
    routes:
      - {{ path: '/*', service: shop{route} }}
",
        backend.port()
    );
    Setup { gateway: Gateway::start_in(&files, &yaml), files, backend }
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nX-Seen: yes\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn json_of(body: &str) -> String {
    answer("200 OK", "application/json; charset=utf-8", body)
}

impl Setup {
    fn calls(&self, calls: Value) -> Vec<Value> {
        let address = format!("127.0.0.1:{}", self.gateway.port());
        let set = self.files.dir().join("shop.pb");
        let said = play("json_caller.py", &[&address, set.to_str().unwrap(), &calls.to_string()]);
        said.as_array().unwrap().clone()
    }

    fn call(&self, method: &str, message: Value) -> Value {
        self.calls(json!([{ "method": format!("shop.v1.Catalog.{method}"), "message": message }])).remove(0)
    }
}

#[test]
fn fields_that_cannot_be_metadata_are_left_out() {
    let setup = setup("", "", |_| {
        let body = r#"{"sku":"a"}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-B-Bin: not base64!\r\nX-Good-Bin: YWJj\r\nX!a: 1\r\nX-Caf: caf\u{e9}\r\nX-Seen: yes";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let said = setup.call("GetProduct", json!({ "sku": "a" }));
    assert_eq!((&said["code"], &said["initial"]["x-seen"]), (&json!("OK"), &json!("yes")), "{said}");
    for absent in ["x-b-bin", "x!a", "x-caf"] {
        assert_eq!(said["initial"][absent], Value::Null, "{absent}: {said}");
    }
    assert_ne!(said["initial"]["x-good-bin"], Value::Null, "{said}");
}

#[test]
fn identity_is_no_coding() {
    let said_to_be = |coding: &'static str| {
        let setup = setup("", "", move |_| {
            let body = r#"{"sku":"a"}"#;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            format!("{head}Content-Encoding: {coding}\r\n\r\n{body}")
        });
        setup.call("GetProduct", json!({ "sku": "a" }))
    };
    for none in ["identity", "Identity, ", ""] {
        let said = said_to_be(none);
        assert_eq!((&said["code"], &said["message"]), (&json!("OK"), &json!({ "sku": "a" })), "{none}: {said}");
    }
    for coding in ["gzip", "identity, br", "x"] {
        let said = said_to_be(coding);
        assert_eq!(said["code"], "INTERNAL", "{coding}: {said}");
    }
}

#[test]
fn a_call_becomes_a_request_and_its_answer_a_message() {
    let setup = setup("", "", |request| match request.target.as_str() {
        target if target.starts_with("/v1/products/") => {
            json_of(r#"{"sku":"a","name":"A","unitPrice":79.99,"more":{"than":"known"}}"#)
        }
        _ => json_of(&String::from_utf8_lossy(&request.body)),
    });
    let said = setup.call("GetProduct", json!({ "sku": "a b", "shelf": "s&1", "slowMs": 3 }));
    assert_eq!(
        (&said["code"], &said["message"]),
        (&json!("OK"), &json!({ "sku": "a", "name": "A", "unitPrice": 79.99 })),
        "{said}"
    );
    assert_eq!(said["initial"]["x-seen"], "yes", "{said}");
    let seen = setup.backend.last();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/v1/products/a%20b?shelf=s%261&slowMs=3"));
    for field in ["content-type", "content-length", "grpc-timeout", "te", "grpc-accept-encoding"] {
        assert_eq!(seen.header(field), None, "{field}");
    }
    assert_eq!(seen.header("accept"), Some("application/json"));
    // The body is the message.
    let everything = json!({
        "anInt64": "-9007199254740993", "aDouble": 1.5, "text": "caf\u{e9}", "data": "AP8=", "colour": "GREEN", "numbers": [1, 2],
        "inside": { "name": "n", "many": [{ "number": "1" }] }, "byName": { "k": "1" }, "time": "2026-01-31T12:00:00.500Z",
        "structure": { "a": [null, true] }, "wrappedInt64": "0", "any": { "@type": "type.googleapis.com/shop.v1.Inside", "name": "in" }
    });
    let said = setup.call("Echo", everything.clone());
    assert_eq!(said["message"], everything, "{said}");
    let seen = setup.backend.last();
    assert_eq!((&*seen.method, &*seen.target, seen.header("content-type")), ("POST", "/v1/echo", Some("application/json")));
    let line = setup.gateway.wait_log(|line| line["grpc_method"] == "/shop.v1.Catalog/Echo");
    assert_eq!((&line["grpc_status"], &line["status"], &line["protocol"]), (&json!(0), &json!(200), &json!("h2")), "{line}");
    // What is no call passes as it is.
    assert_eq!(get(setup.gateway.port(), "/v1/products/b").json()["name"], "A");
}

#[test]
fn rules_are_read_backwards() {
    let rules = ", rules: [ { method: shop.v1.Catalog.Echo, put: '/v1/{inside.name=shelves/*}/{text}:mend', body: structure, response_body: structure },
        { method: shop.v1.Catalog.Metadata, delete: '/v1/all' }, { method: shop.v1.Catalog.GetProduct, get: '/v1/{sku=**}' } ]";
    let setup = setup(rules, "", |request| match request.method.as_str() {
        "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "GET" => json_of("{}"),
        _ => json_of(&String::from_utf8_lossy(&request.body)),
    });
    let message = json!({ "inside": { "name": "shelves/7", "number": "8" }, "text": "t", "structure": { "a": 1.0 }, "texts": ["x", "y z"], "aBool": true });
    let said = setup.call("Echo", message);
    assert_eq!(said["message"], json!({ "structure": { "a": 1.0 } }), "{said}");
    let seen = setup.backend.last();
    assert_eq!(&*seen.target, "/v1/shelves/7/t:mend?aBool=true&inside.number=8&texts=x&texts=y%20z");
    assert_eq!((&*seen.method, String::from_utf8_lossy(&seen.body).into_owned()), ("PUT", r#"{"a":1}"#.to_owned()));
    let said = setup.call("Metadata", json!({}));
    assert_eq!((&said["code"], &said["message"]), (&json!("OK"), &json!({})), "{said}");
    assert_eq!((setup.backend.last().method.as_str(), setup.backend.last().target.as_str()), ("DELETE", "/v1/all"));
    setup.call("GetProduct", json!({ "sku": "a/b c" }));
    assert_eq!(setup.backend.last().target, "/v1/a/b%20c");
    let before = setup.backend.requests().len();
    for (method, message) in [
        ("GetProduct", json!({})),
        ("GetProduct", json!({ "sku": "a/../b" })),
        ("GetProduct", json!({ "sku": "a//b" })),
        ("GetProduct", json!({ "sku": "%2e%2e" })),
        ("Echo", json!({ "inside": { "name": "other/7" }, "text": "t" })),
        ("Echo", json!({ "inside": { "name": "shelves/7/8" }, "text": "t" })),
        ("Echo", json!({ "inside": { "name": "shelves/7" }, "text": "../t" })),
        ("Echo", json!({ "inside": { "name": "shelves/7" }, "text": "t", "texts": ["x".repeat(9000)] })),
    ] {
        let said = setup.call(method, message.clone());
        assert_eq!(said["code"], "INVALID_ARGUMENT", "{method} {message}: {said}");
    }
    assert_eq!(setup.backend.requests().len(), before);
}

#[test]
fn failures_have_codes_and_say_why() {
    let setup = setup("", "", |request| {
        let name = request.target.rsplit('/').next().unwrap_or_default().to_owned();
        let (status, what) = name.split_once('-').unwrap_or((&name, ""));
        match what {
            "problem" => {
                answer(&format!("{status} X"), "application/problem+json", r#"{"title":"T","detail":"Sold out: caf\u00e9."}"#)
            }
            "named" => answer(&format!("{status} X"), "application/problem+json", r#"{"detail":"D","grpc_status":9}"#),
            "html" => answer(&format!("{status} X"), "text/html", "<h1>no</h1>"),
            // A field more, behind the status line.
            "retry" => answer(&format!("{status} X\r\nRetry-After: 7"), "text/plain", ""),
            "list" => json_of("[1]"),
            "huge" => json_of(&format!("{{\"sku\":\"{}\"}}", "x".repeat(20 << 20))),
            _ => answer(&format!("{status} X"), "text/plain", ""),
        }
    });
    for (sku, code, said) in [
        ("404-problem", "NOT_FOUND", "Sold out: caf\u{e9}."),
        ("409-problem", "ABORTED", "Sold out"),
        ("400-named", "FAILED_PRECONDITION", "D"),
        ("400", "INVALID_ARGUMENT", "400"),
        ("401", "UNAUTHENTICATED", "401"),
        ("403", "PERMISSION_DENIED", "403"),
        ("429-retry", "RESOURCE_EXHAUSTED", "429"),
        ("500-html", "INTERNAL", "500"),
        ("501", "UNIMPLEMENTED", "501"),
        ("503", "UNAVAILABLE", "503"),
        ("504", "DEADLINE_EXCEEDED", "504"),
        ("200-html", "INTERNAL", "no JSON"),
        ("200-list", "INTERNAL", "another type"),
        ("200-huge", "INTERNAL", "larger"),
        ("302", "UNKNOWN", "302"),
    ] {
        let answer = setup.call("GetProduct", json!({ "sku": sku }));
        assert_eq!(answer["code"], code, "{sku}: {answer}");
        assert!(answer["details"].as_str().unwrap().contains(said), "{sku}: {answer}");
        if sku == "429-retry" {
            assert_eq!(answer["fields"]["grpc-retry-pushback-ms"], "7000", "{answer}");
        }
    }
    for method in ["Watch", "Collect"] {
        let answer = setup.call(method, json!({}));
        assert_eq!(answer["code"], "UNIMPLEMENTED", "{method}: {answer}");
    }
    assert_eq!(setup.gateway.metric("portcullis_transcoded_calls_total{service=\"shop\",code=\"NOT_FOUND\"}"), 1.0);
}

#[test]
fn it_is_a_call_for_policies_deadlines_and_browsers() {
    let route = ", timeout: 700ms, policies: { rate_limit: { by: client_address, limit: 5/hour, burst: 4 } }";
    let setup = setup("", route, |request| {
        if request.target.contains("slow") {
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
        json_of(r#"{"sku":"a"}"#)
    });
    assert_eq!(setup.call("GetProduct", json!({ "sku": "slow" }))["code"], "DEADLINE_EXCEEDED");
    // gRPC-Web, as bytes and over HTTP/1.1.
    let message = [&[0, 0, 0, 0, 3][..], b"\x0a\x01a"].concat();
    let kind = [("Content-Type", "application/grpc-web+proto")];
    let web = request(setup.gateway.port(), "POST", "/shop.v1.Catalog/GetProduct", &kind, &message);
    assert_eq!((web.status, web.header("content-type")), (200, Some("application/grpc-web")), "{}", web.text());
    assert_eq!(find(&web.body, &message), Some(0), "{}", web.text());
    assert!(web.text().contains("grpc-status: 0"), "{}", web.text());
    let compressed = [&[1, 0, 0, 0, 3][..], b"\x0a\x01a"].concat();
    for (body, code) in [(&b""[..], "3"), (&message[..6], "3"), (&compressed, "12"), (&[&message[..], &message].concat(), "3")] {
        let web = request(setup.gateway.port(), "POST", "/shop.v1.Catalog/GetProduct", &kind, body);
        let told = web.header("grpc-status");
        assert!(told == Some(code) || told == Some("8"), "{code}: {told:?} {}", web.text());
    }
    assert_eq!(setup.call("GetProduct", json!({ "sku": "a" }))["code"], "RESOURCE_EXHAUSTED");
}

#[test]
fn what_cannot_be_served_is_told() {
    let files = Files::new();
    files.write("shop.pb", descriptors());
    for (protocol, transcode, said) in [
        ("grpc", "{ serve: grpc, descriptors: shop.pb, services: [shop.v1.Catalog] }", "speaks gRPC"),
        ("http1", "{ serve: grpc, reflection: true }", "`reflection`"),
        ("http1", "{ serve: rest, descriptors: shop.pb, services: [shop.v1.Catalog] }", "speaks HTTP/1.1"),
    ] {
        let yaml = format!(
            "listeners: [ {{ bind: '127.0.0.1:8080' }} ]\nservices:\n  shop:\n    endpoints: ['127.0.0.1:1']\n    protocol: {protocol}\n    \
             transcode: {transcode}\nroutes: [ {{ path: '/*', service: shop }} ]\n"
        );
        files.write("gateway.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains(said), "{transcode}: {told}");
    }
}
