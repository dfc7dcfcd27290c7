//! gRPC with two client stacks, grpcio and Node's `@grpc/grpc-js`: what the gateway itself says to a call has to be the same to both.

use serde_json::{Value, json};

use super::peer::{Peer, play, play_npm};
use crate::harness::{Gateway, eventually, filled};

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true, limits: { body: 100KiB, head: 32KiB } } ]
    server: { workers: 1 }
    services:
      grpc: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc }
      dead: { endpoints: ['127.0.0.1:1'], protocol: grpc, retries: { attempts: 0 } }
      slow: { endpoints: ['127.0.0.1:$BACKEND'], protocol: grpc, timeouts: { response: 500ms } }
    routes:
      - { path: /portcullis.test.Echo/*, service: grpc }
      - { path: /private/*, service: grpc, policies: { authn: { api_key: {} } } }
      - { path: /closed/*, service: grpc, policies: { ip_restriction: { deny: [127.0.0.0/8] } } }
      - { path: /limited/*, service: grpc, policies: { rate_limit: { by: client_address, limit: 1/hour, burst: 0 } } }
      - { path: /small/*, service: grpc, strip_prefix: /small, policies: { bounds: { max_body: 10 } } }
      - { path: /hurried/*, service: grpc, strip_prefix: /hurried, timeout: 400ms }
      - { path: /slow/*, service: slow, strip_prefix: /slow }
      - { path: /dead/*, service: dead }
      - { path: /shut/*, maintenance: { retry_after: 10s } }
";

struct Setup {
    gateway: Gateway,
    _server: Peer,
}

fn setup() -> Setup {
    let server = Peer::start("grpc_server.py", &[]);
    Setup { gateway: Gateway::start(&filled(YAML, &[("$BACKEND", server.port())])), _server: server }
}

impl Setup {
    fn target(&self) -> String {
        format!("127.0.0.1:{}", self.gateway.port())
    }

    fn python(&self, name: &str) -> Value {
        play("grpc_client.py", &[name, &self.target()])
    }

    fn node(&self, name: &str) -> Value {
        play_npm("client.js", &[name, &self.target()])
    }
}

#[test]
fn refusals_and_errors_are_the_same_status_to_both() {
    let setup = setup();
    setup.python("/limited/Unary");
    for (path, code) in [
        ("/private/Unary", "UNAUTHENTICATED"),
        ("/closed/Unary", "PERMISSION_DENIED"),
        ("/nowhere/Unary", "UNIMPLEMENTED"),
        ("/limited/Unary", "RESOURCE_EXHAUSTED"),
        ("/small/portcullis.test.Echo/Unary", "RESOURCE_EXHAUSTED"),
        ("/hurried/portcullis.test.Echo/Slow", "DEADLINE_EXCEEDED"),
        ("/slow/portcullis.test.Echo/Slow", "DEADLINE_EXCEEDED"),
        ("/dead/Unary", "UNAVAILABLE"),
        ("/shut/Unary", "UNAVAILABLE"),
        // The server's own.
        ("/portcullis.test.Echo/Fail", "RESOURCE_EXHAUSTED"),
        ("/portcullis.test.Echo/Unary", "OK"),
    ] {
        let (python, node) = (setup.python(path), setup.node(path));
        assert_eq!((&python["code"], &node["code"]), (&json!(code), &json!(code)), "{path} {python} {node}");
        assert_eq!(python["details"], node["details"], "{path}");
        for name in ["retry-after", "grpc-retry-pushback-ms", "x-why", "x-length"] {
            let told = |facts: &Value| facts["trailing"][name].as_str().map(|value| value.trim_end_matches("000").to_owned());
            assert_eq!(told(&python).is_some(), told(&node).is_some(), "{path} {name}: {python} {node}");
        }
    }
}

#[test]
fn calls_end_alike_whoever_makes_them() {
    let setup = setup();
    for scene in ["fail", "server_stream_fails", "client_stream_small", "bidi"] {
        let (mut python, mut node) = (setup.python(scene), setup.node(scene));
        for facts in [&mut python, &mut node] {
            // What a call brings along beside its end is not told alike by the two.
            facts.as_object_mut().unwrap().remove("trailing");
        }
        assert_eq!(python, node, "{scene}");
    }
    let (python, node) = (setup.python("client_stream_large"), setup.node("client_stream_large"));
    assert_eq!((&python["code"], &node["code"]), (&json!("RESOURCE_EXHAUSTED"), &json!("RESOURCE_EXHAUSTED")), "{python} {node}");
    assert_eq!(python["details"], node["details"]);
    let node = setup.node("server_stream");
    assert_eq!(node, json!({ "messages": (0..20).map(|number| number.to_string()).collect::<Vec<_>>(), "code": "OK" }));
    let node = setup.node("headers");
    assert_eq!(
        (&node["seen"]["x-api-version"], &node["seen"]["x-blob-bin"]),
        (&json!("2"), &json!("b'\\x00\\x01\\xff'")),
        "{node}"
    );
    assert_eq!(node["initial"]["x-initial"], "before", "{node}");
}

#[test]
fn node_calls_are_cancelled_at_the_server_when_they_are_over() {
    let setup = setup();
    let facts = setup.node("deadline");
    assert_eq!((&facts["code"], &facts["cancelled"]), (&json!("DEADLINE_EXCEEDED"), &json!("yes")), "{facts}");
    assert!(facts["took"].as_f64().unwrap() < 10.0, "{facts}");
    // Another server, which has cancelled nothing yet.
    let server = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&filled(YAML, &[("$BACKEND", server.port())]));
    let target = format!("127.0.0.1:{}", gateway.port());
    assert_eq!(play_npm("client.js", &["cancelled", &target]), json!({ "cancelled": "yes" }));
    let facts = play_npm("client.js", &["cancelled_stream", &target]);
    assert_eq!((&facts["code"], &facts["messages"]), (&json!("CANCELLED"), &json!(["0", "1", "2"])), "{facts}");
    // The server ends its call while the client's half is open.
    assert_eq!(play_npm("client.js", &["early_end", &target]), json!({ "code": "OK", "answer": "one" }));
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn metadata_beyond_the_bound_of_heads_is_refused() {
    let setup = setup();
    let facts = setup.node("large_metadata");
    assert_eq!(facts["code"], "RESOURCE_EXHAUSTED", "{facts}");
    let line = setup.gateway.wait_log(|line| line["status"] == 431);
    assert_eq!(line["reason"], "head_too_large", "{line}");
}
