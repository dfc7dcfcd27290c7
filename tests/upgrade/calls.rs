//! Calls of gRPC's, and of what is made into them, while the process is replaced: none is lost (GOAWAY, RFC 9113, section 6.8).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{assert_exits_well, upgraded};
use crate::harness::{Client, Files, Gateway, eventually, filled, request, try_curl};
use crate::protocols::peer::{Conversation, Peer};
use crate::transcode::descriptors;

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 2, grace: 20s }
    services:
      echo: { endpoints: ['127.0.0.1:$ECHO'], protocol: grpc }
      shop: { endpoints: ['127.0.0.1:$SHOP'], protocol: grpc, transcode: { descriptors: shop.pb, services: [shop.v1.Catalog] } }
    routes:
      - { path: '/portcullis.test.Echo/*', service: echo }
      - { path: '/*', service: shop }
";

struct Setup {
    gateway: Gateway,
    _servers: [Peer; 2],
}

fn setup() -> Setup {
    let files = Files::new();
    let set = files.write("shop.pb", descriptors());
    let (echo, shop) = (Peer::start("grpc_server.py", &[]), Peer::start("rest_grpc.py", &[set.to_str().unwrap()]));
    let yaml = filled(YAML, &[("$ECHO", echo.port()), ("$SHOP", shop.port())]);
    Setup { gateway: Gateway::start_in(&files, &yaml), _servers: [echo, shop] }
}

#[test]
fn grpc_clients_that_keep_calling_lose_no_call() {
    let mut setup = setup();
    let mut clients: Vec<_> =
        (0..2).map(|_| Conversation::start("grpc_upgrade.py", &[&format!("127.0.0.1:{}", setup.gateway.port())])).collect();
    for client in &mut clients {
        assert_eq!(client.line(), "under way");
    }
    for _ in 0..2 {
        upgraded(&setup.gateway);
    }
    for client in &mut clients {
        client.say("enough");
    }
    for client in &mut clients {
        let facts: Value = serde_json::from_str(&client.line()).unwrap();
        assert_eq!((&facts["failures"], &facts["stream"], &facts["bidi"]), (&json!([]), &json!(true), &json!(true)), "{facts}");
        assert!(facts["calls"].as_u64().unwrap() > 50, "{facts}");
    }
    drop(clients);
    assert_exits_well(&mut setup.gateway);
}

#[test]
fn what_is_made_into_calls_is_not_lost_either() {
    let mut setup = setup();
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Lines under way, over HTTP/1.1 and over HTTP/2, and a body of lines that is not at its end.
    let watch = "/v1/watch?count=100&pauseMs=50";
    let mut lines = Client::connect(setup.gateway.port());
    lines.send(format!("GET {watch} HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n"));
    let mut seen = Vec::new();
    while crate::harness::find(&seen, b"{\"sku\":\"1\"}").is_none() {
        seen.extend(lines.take(1));
    }
    let mut uploading = Client::connect(setup.gateway.port());
    let head = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\nConnection: close";
    uploading.send(format!("POST /v1/converse HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n{head}\r\n\r\n"));
    let line = "{\"sku\":\"before\"}\n";
    uploading.send(format!("{:x}\r\n{line}\r\n", line.len()));
    let mut heard = Vec::new();
    while crate::harness::find(&heard, b"BEFORE").is_none() {
        heard.extend(uploading.take(1));
    }
    let (port, url) = (setup.gateway.port(), setup.gateway.url(watch));
    let streamed = std::thread::scope(|scope| {
        let streamed = scope.spawn(|| try_curl(&["--http2-prior-knowledge", "-N", "-H", "Accept: application/x-ndjson", &url]));
        for kind in ["rest", "connect", "curl"] {
            let (stop, made, gateway) = (&stop, &made, &setup.gateway);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let answer = match kind {
                        "rest" => request(port, "GET", "/v1/products/a?slowMs=20", &[], b""),
                        "connect" => {
                            let fields = [("Content-Type", "application/json"), ("Connect-Protocol-Version", "1")];
                            request(port, "POST", "/shop.v1.Catalog/GetProduct", &fields, br#"{"sku":"a","slowMs":20}"#)
                        }
                        _ => try_curl(&["--http2-prior-knowledge", &gateway.url("/v1/products/a?slowMs=20")]).unwrap(),
                    };
                    assert!(answer.status == 200 && answer.text().contains("\"sku\":\"a\""), "{kind}: {answer:?}");
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2 {
                let before = made.load(Ordering::SeqCst);
                eventually("calls are made", || made.load(Ordering::SeqCst) > before + 10);
                upgraded(&setup.gateway);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        streamed.join().unwrap()
    });
    let last = |text: &str| assert!(text.contains("{\"sku\":\"99\"}"), "{text}");
    last(&streamed.unwrap().text());
    last(&String::from_utf8_lossy(&lines.rest()));
    let line = "{\"sku\":\"after\"}\n";
    uploading.send(format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()));
    let rest = String::from_utf8_lossy(&uploading.rest()).into_owned();
    assert!(rest.contains("AFTER") && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_exits_well(&mut setup.gateway);
}
