//! Faults that are injected on purpose.

use std::time::{Duration, Instant};

use crate::harness::{Backend, Client, Files, Gateway, filled, get, portcullis, request};
use crate::protocols::peer::{Peer, play};

fn config(backend: u16, fault: &str) -> String {
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { fault_injection: true, workers: 2 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /whole, service: a }
          - { path: /*, service: a, policies: { fault: FAULT } }
    ";
    filled(yaml, &[("$BACKEND", backend)]).replace("FAULT", fault)
}

#[test]
fn requests_are_refused_where_the_condition_holds() {
    let backend = Backend::http();
    let gateway =
        Gateway::start(&config(backend.port(), "{ abort: { status: 418, when: \"request.headers['x-fault'] == 'abort'\" } }"));
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert_eq!(request(gateway.port(), "GET", "/", &[("X-Fault", "no")], b"").status, 200);
    let mut client = Client::connect(gateway.port());
    for _ in 0..2 {
        client.request("GET", "/", &[("X-Fault", "abort")], b"").assert_problem(418, "fault", "fault_injected");
    }
    assert_eq!(client.request("GET", "/whole", &[("X-Fault", "abort")], b"").status, 200);
    let line = gateway.wait_log(|line| line["status"] == 418);
    assert_eq!((&line["fault"], &line["reason"]), (&"abort".into(), &"fault_injected".into()), "{line}");
    gateway.wait_metric("portcullis_faults_injected_total{fault=\"abort\"}", 2.0);
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn requests_wait_and_are_answered_then() {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(backend.port(), "{ delay: { for: 300ms } }"));
    let since = Instant::now();
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert!(since.elapsed() >= Duration::from_millis(300));
    let line = gateway.wait_log(|line| line["status"] == 200);
    assert_eq!(line["fault"], "delay", "{line}");
    let whole = Instant::now();
    assert_eq!(get(gateway.port(), "/whole").status, 200);
    assert!(whole.elapsed() < Duration::from_millis(300));
    assert!(gateway.wait_log(|line| line["path"] == "/whole")["fault"].is_null());
}

#[test]
fn a_share_is_met_and_the_rest_is_left_alone() {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(backend.port(), "{ abort: { status: 503, share: 20% } }"));
    let mut client = Client::connect(gateway.port());
    let aborted = (0..2000).filter(|_| client.get("/").status == 503).count();
    // Six standard deviations.
    assert!((290..=510).contains(&aborted), "{aborted}");
}

#[test]
fn a_call_ends_with_the_code_that_stands_for_it() {
    let server = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
        server: {{ fault_injection: true }}
        services: {{ grpc: {{ endpoints: ['127.0.0.1:{}'], protocol: grpc }} }}
        routes: [ {{ path: /*, service: grpc, policies: {{ fault: {{ abort: {{ status: 503 }} }} }} }} ]
        ",
        server.port()
    ));
    let facts = play("grpc_client.py", &["unary", &format!("127.0.0.1:{}", gateway.port())]);
    assert_eq!(facts["code"], "UNAVAILABLE", "{facts}");
}

#[test]
fn it_is_off_unless_the_whole_gateway_allows_it() {
    for (from, to, said) in [
        ("fault_injection: true, ", "", "write `server: { fault_injection: true }`"),
        ("FAULT", "{}", "`fault` needs `abort` or `delay`"),
        ("FAULT", "{ abort: { status: 200 } }", "`status` is from 400 to 599"),
        ("FAULT", "{ delay: { for: 5m } }", "between 1ms and 60s"),
        ("FAULT", "{ abort: { status: 503, share: 20 } }", "a share such as 10% or 0.5%"),
        ("FAULT", "{ abort: { status: 503, when: 'request.nothing == 1' } }", "nothing"),
    ] {
        let yaml = config(9, "FAULT").replace("$PORT", "0").replace(from, to).replace("FAULT", "{ abort: { status: 503 } }");
        let files = Files::new();
        files.write("bad.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        assert!(ran.code != 0 && ran.stderr.contains(said), "{to}: {} {}", ran.stdout, ran.stderr);
    }
}
