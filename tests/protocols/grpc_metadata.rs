//! Metadata that is far too large: who sends it hears of it, whichever side he is on, and nobody else does.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use serde_json::json;

use super::peer::{Peer, play, play_npm};
use crate::harness::{Answer, Files, Gateway, H2Backend, eventually, filled, request};

/// Answers as `x-how` says, or else the path: `/portcullis.test.Echo/trailers-100000` with so many bytes behind its message, `head-` with as many
/// before it.
fn generous() -> H2Backend {
    H2Backend::start(|request, mut respond| async move {
        let told = request.headers().get("x-how").map_or(request.uri().path(), |how| how.to_str().unwrap());
        let (how, size) = told.rsplit('/').next().unwrap().split_once('-').unwrap();
        let large = HeaderValue::from_bytes(&vec![b'm'; size.parse().unwrap()]).unwrap();
        let mut head = Response::builder().header("content-type", "application/grpc");
        if how == "head" {
            head = head.header("x-large", large.clone());
        }
        let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else { return };
        let _ = stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false);
        if how == "reset" {
            return stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        let mut trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        if how == "trailers" {
            trailers.insert("x-large", large);
        }
        let _ = stream.send_trailers(trailers);
    })
}

/// How a call of gRPC-Web ended, as its head says or its last message.
fn ended(web: &Answer) -> String {
    let body = || String::from_utf8_lossy(&web.body).into_owned();
    web.header("grpc-status").map_or_else(body, |code| format!("grpc-status: {code}"))
}

#[test]
fn a_client_that_sends_a_mebibyte_of_it_is_told() {
    let server = Peer::start("grpc_server.py", &[]);
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services: { grpc: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc } }
    routes: [ { path: '/*', service: grpc } ]
";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", server.port())]));
    let target = format!("127.0.0.1:{}", gateway.port());
    // One call is refused, and the stream beside it goes on.
    let large = play("grpc_client.py", &["large_metadata", &target]);
    assert_eq!(
        (&large["code"], &large["beside"], &large["after"]),
        (&json!("RESOURCE_EXHAUSTED"), &json!("beside"), &json!("after")),
        "{large}"
    );
    assert_eq!(gateway.wait_log(|line| line["status"] == 431)["reason"], "head_too_large");
    // What is far beyond that is not read to its end: the connection is given up with ENHANCE_YOUR_CALM, which Node knows what to call.
    let python = play("grpc_client.py", &["huge_metadata", &target]);
    assert_eq!(python["after"], "after", "{python}");
    assert!(python["code"] == "UNAVAILABLE" || python["code"] == "RESOURCE_EXHAUSTED", "{python}");
    let node = play_npm("client.js", &["huge_metadata", &target]);
    assert_eq!((&node["code"], &node["after"]), (&json!("RESOURCE_EXHAUSTED"), &json!("after")), "{node}");
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn a_service_that_sends_a_mebibyte_of_it_has_failed() {
    let (backend, good) = (generous(), Peer::start("grpc_server.py", &[]));
    let files = Files::new();
    files.write("shop.pb", crate::transcode::descriptors());
    let yaml = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services:
      generous: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc, retries: { attempts: 0 } }
      good: { endpoints: ['127.0.0.1:$GOOD'], protocol: grpc }
      rest:
        endpoints: ['127.0.0.1:$BACKEND']
        protocol: grpc
        retries: { attempts: 0 }
        transcode: { descriptors: shop.pb, services: [shop.v1.Catalog] }
    routes:
      - { path: '/portcullis.test.Echo/*', service: generous }
      - { path: '/good/*', strip_prefix: /good, service: good }
      - { path: '/v1/*', service: rest }
";
    let yaml = filled(yaml, &[("$BACKEND", backend.port()), ("$GOOD", good.port())]);
    let gateway = Gateway::start_in(&files, &yaml);
    let target = format!("127.0.0.1:{}", gateway.port());
    let call = |how: &str| play("grpc_client.py", &[&format!("/portcullis.test.Echo/{how}"), &target]);
    assert_eq!(call("trailers-10")["code"], "OK");
    let kinds = ["application/grpc-web", "application/proto"];
    for (how, reason) in [
        ("head-100000", "answer_head_too_large"),
        ("head-1048576", "malformed_answer"),
        ("trailers-100000", "answer_head_too_large"),
        ("trailers-1048576", "connection_lost"),
    ] {
        let path = format!("/portcullis.test.Echo/{how}");
        let facts = call(how);
        assert_eq!(facts["code"], "UNAVAILABLE", "{how}: {facts}");
        assert!(facts["details"].as_str().unwrap().contains(&format!("(upstream: {reason})")), "{how}: {facts}");
        let line = gateway.wait_log(|line| line["path"] == path);
        assert_eq!(line["grpc_status"], 14, "{line}");
        let [web, connect] = kinds.map(|kind| request(gateway.port(), "POST", &path, &[("Content-Type", kind)], b""));
        assert!(ended(&web).contains("grpc-status: 14"), "{how}: {web:?}");
        assert_eq!((connect.status, &connect.json()["code"]), (502, &json!("unavailable")), "{how}: {connect:?}");
        let rest = request(gateway.port(), "GET", "/v1/products/a", &[("X-How", how)], b"");
        rest.assert_problem(502, "upstream", reason);
        // Nobody else hears of it.
        assert_eq!(call("trailers-10")["code"], "OK", "{how}");
    }
    // A page is told of a reset as well.
    let web = request(gateway.port(), "POST", "/portcullis.test.Echo/reset-0", &[("Content-Type", "application/grpc-web")], b"");
    assert!(ended(&web).contains("grpc-status: 14"), "{web:?}");
    let good = play("grpc_client.py", &["/good/portcullis.test.Echo/Unary", &target]);
    assert_eq!(good["code"], "OK", "{good}");
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}
