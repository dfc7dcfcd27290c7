//! gRPC, with its own server and client: every kind of call, metadata, trailers, deadlines, large messages.

use serde_json::{Value, json};

use super::peer::{Peer, play};
use crate::harness::{Files, Gateway};

/// A gateway in front of a gRPC server, with timeouts so short that no stream could live under them.
struct Setup {
    gateway: Gateway,
    cert: String,
    _server: Peer,
}

fn setup() -> Setup {
    let server = Peer::start("grpc_server.py", &[]);
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["grpc.example.com"]);
    let gateway = Gateway::start_in(
        &files,
        &format!(
            "
             listeners:
               - {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ body: 1s, request: 1500ms }} }}
               - bind: 127.0.0.1:$PORT2
                 tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
                 timeouts: {{ body: 1s, request: 1500ms }}
             services:
               grpc: {{ endpoints: ['127.0.0.1:{}'], protocol: grpc, timeouts: {{ response: 1500ms }} }}
             routes:
               - {{ path: /portcullis.test.Echo/*, service: grpc }}
            ",
            cert.display(),
            key.display(),
            server.port()
        ),
    );
    Setup { gateway, cert: cert.display().to_string(), _server: server }
}

impl Setup {
    fn call(&self, name: &str) -> Value {
        play("grpc_client.py", &[name, &format!("127.0.0.1:{}", self.gateway.port())])
    }

    fn call_tls(&self, name: &str) -> Value {
        play("grpc_client.py", &[name, &format!("127.0.0.1:{}", self.gateway.port2()), &self.cert])
    }
}

#[test]
fn unary_calls_carry_bytes_metadata_and_trailers() {
    let setup = setup();
    for facts in [setup.call("unary"), setup.call_tls("unary")] {
        assert_eq!((&facts["answer"], &facts["empty"], &facts["code"]), (&json!("hello"), &json!(""), &json!("OK")), "{facts}");
        assert_eq!((&facts["trailing"]["x-trailing"], &facts["trailing"]["x-length"]), (&json!("after"), &json!("5")), "{facts}");
    }
    let facts = setup.call("headers");
    let seen = &facts["seen"];
    assert_eq!((&seen["x-api-version"], &seen["x-blob-bin"]), (&json!("2"), &json!("b'\\x00\\x01\\xff'")), "{facts}");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1", "{facts}");
    assert_eq!(seen["x-request-id"], facts["initial"]["x-request-id"], "{facts}");
    assert_eq!(facts["initial"]["x-initial"], "before", "{facts}");
    let line = setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Headers");
    assert_eq!((&line["protocol"], &line["status"], &line["service"]), (&json!("h2"), &json!(200), &json!("grpc")), "{line}");
}

#[test]
fn a_status_that_is_not_ok_arrives_with_its_message_and_trailers() {
    let setup = setup();
    for facts in [setup.call("fail"), setup.call_tls("fail")] {
        assert_eq!((&facts["code"], &facts["details"]), (&json!("RESOURCE_EXHAUSTED"), &json!("no more: äöü %")), "{facts}");
        assert_eq!(facts["trailing"]["x-why"], "because", "{facts}");
    }
    let facts = setup.call("server_stream_fails");
    assert_eq!((&facts["code"], &facts["details"]), (&json!("DATA_LOSS"), &json!("the rest is lost")), "{facts}");
    assert_eq!(facts["messages"], json!(["one", "two"]), "{facts}");
}

#[test]
fn a_refused_call_is_an_error_to_the_client() {
    let setup = setup();
    assert_eq!(setup.call("refused")["code"], "UNIMPLEMENTED");
    setup.gateway.wait_log(|line| line["status"] == 404 && line["reason"] == "no_route");
}

#[test]
fn large_messages_pass_whole() {
    let setup = setup();
    for facts in [setup.call("large"), setup.call_tls("large")] {
        assert_eq!(facts, json!({ "length": 2 << 20, "same": true }));
    }
}

#[test]
fn streams_run_in_both_directions() {
    let setup = setup();
    let facts = setup.call("server_stream");
    assert_eq!((&facts["messages"], &facts["code"]), (&json!((0..20).collect::<Vec<_>>()), &json!("OK")), "{facts}");
    // 19 pauses of 50 ms: they came one by one, not all at the end.
    assert!(facts["spread"].as_f64().unwrap() > 0.5, "{facts}");
    let facts = setup.call("client_stream");
    assert_eq!(facts, json!({ "answer": [100, 1_000_000], "nothing": [0, 0] }));
    for facts in [setup.call("bidi"), setup.call_tls("bidi")] {
        assert_eq!(facts, json!({ "answers": (0..50).collect::<Vec<_>>(), "rest": 0, "code": "OK" }));
    }
}

#[test]
fn many_calls_share_one_connection() {
    let setup = setup();
    assert_eq!(setup.call("many"), json!({ "same": true }));
}

#[test]
fn a_stream_may_be_silent_longer_than_an_answer_may_take() {
    let setup = setup();
    for facts in [setup.call("patient"), setup.call_tls("patient")] {
        assert_eq!(facts, json!({ "answers": ["first", "second"], "rest": 0, "code": "OK" }));
    }
    assert_eq!(setup.call("slow_upload"), json!({ "answer": [3, 3] }));
}

#[test]
fn the_backend_learns_of_a_deadline_that_passed() {
    let setup = setup();
    let facts = setup.call("deadline");
    assert_eq!((&facts["code"], &facts["cancelled"]), (&json!("DEADLINE_EXCEEDED"), &json!("yes")), "{facts}");
    assert!(facts["took"].as_f64().unwrap() < 5.0, "{facts}");
    // The client gives up, or the gateway in its stead: both have the same deadline.
    let ended = |line: &Value| line["status"] == 499 || line["reason"] == "deadline_exceeded";
    setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Slow" && ended(line));
}

#[test]
fn a_backend_that_does_not_answer_a_call_is_given_up() {
    let setup = setup();
    let facts = setup.call("no_answer");
    assert_eq!(facts["code"], "DEADLINE_EXCEEDED", "{facts}");
    setup.gateway.wait_log(|line| line["status"] == 504 && line["reason"] == "response_timeout");
}

#[test]
fn a_backend_with_tls_is_called_over_tls() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["inner.example.com"]);
    let server = Peer::start("grpc_server.py", &[cert.to_str().unwrap(), key.to_str().unwrap()]);
    let gateway = Gateway::start_in(
        &files,
        &format!(
            "
             listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
             services:
               grpc:
                 endpoints: ['127.0.0.1:{}']
                 protocol: grpc
                 tls: {{ ca: '{}', server_name: inner.example.com }}
             routes: [ {{ path: /*, service: grpc }} ]
            ",
            server.port(),
            cert.display()
        ),
    );
    let target = format!("127.0.0.1:{}", gateway.port());
    assert_eq!(play("grpc_client.py", &["unary", &target])["answer"], "hello");
    assert_eq!(play("grpc_client.py", &["bidi", &target])["code"], "OK");
}
