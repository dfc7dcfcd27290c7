//! What is said to a port that expects something else, and what the operator learns of it.

use std::io::Write;
use std::time::{Duration, Instant};

use super::wire::*;
use crate::harness::{Files, Gateway, eventually};

const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[test]
fn a_plain_port_answers_at_once_what_can_be_no_request() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    for (begin, reason) in [
        (HELLO, "tls_on_plain_port"),
        (b"\x16", "tls_on_plain_port"),
        (b"\x00\x01", "malformed_request_line"),
        (b"SSH-2.0-X\r\n", "malformed_request_line"),
        (b"\x05\x01\x00", "malformed_request_line"),
        (b"get", "method_case"),
    ] {
        let mut stream = connect(gateway.port());
        stream.write_all(begin).unwrap();
        let since = Instant::now();
        let talk = ask(&mut stream, b"", 1);
        // The head's time is three seconds; this does not wait for it.
        assert!(since.elapsed() < Duration::from_millis(2500), "{:?}", since.elapsed());
        let replies = talk.replies().unwrap();
        let [reply] = &replies[..] else { panic!("{}", talk.show()) };
        assert_eq!((reply.status, reply.reason().as_str()), (400, reason), "{}", talk.show());
        assert!(talk.closed || listen(&mut stream, SOON).closed);
    }
    gateway.wait_metric("portcullis_refusals_total{policy=\"door\",reason=\"tls_on_plain_port\"}", 2.0);
    assert!(backend.is_untouched());
    still_well(&gateway);
}

#[test]
fn a_tls_port_tells_its_operator_what_came_instead() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["localhost"]);
    let yaml = format!(
        "
listeners:
  - bind: 127.0.0.1:$PORT
    timeouts: {{ handshake: 1s, header: 3s }}
    tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
routes:
  - {{ path: /ok, service: 127.0.0.1, port: 9 }}
",
        cert.display(),
        key.display()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let port = gateway.port();
    let failures = || gateway.metric("portcullis_tls_handshake_failures_total");
    // Who connects and says nothing has failed at nothing: not the one who leaves, nor the one who stays.
    drop(connect(port));
    assert!(listen(&mut connect(port), SOON).closed);
    assert!(failures() < 0.5);
    let secret = "GET /private?key=secret HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    for (begin, status) in
        [(secret, 400), ("GET", 400), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400), ("\0\0\0", 0), ("\u{ff}\u{ff}", 0)]
    {
        let talk = talk(port, begin.as_bytes(), SOON);
        assert!(talk.closed, "{begin:?} {}", talk.show());
        match &talk.replies().unwrap()[..] {
            [reply] => assert_eq!((reply.status, reply.reason().as_str()), (status, "http_on_tls_port"), "{begin:?}"),
            replies => assert!(replies.is_empty() && status == 0, "{begin:?} {}", talk.show()),
        }
    }
    gateway.wait_metric("portcullis_tls_handshake_failures_total", 5.0);
    let refused = |reason| gateway.metric(&format!("portcullis_connections_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!((refused("http_on_tls_port").round(), refused("not_tls").round()), (3.0, 2.0));
    let line = gateway.wait_log(|line| line["path"] == "/private");
    assert_eq!(
        (&line["method"], &line["host"], &line["reason"]),
        (&"GET".into(), &"shop.example".into(), &"http_on_tls_port".into())
    );
    assert!(!gateway.log_text().contains("secret"));
    // One line a second is written for all of them.
    for (begin, reason) in
        [(&b"\0\0\0"[..], "not_tls"), (b"GET / HTTP/1.1\r\n", "http_on_tls_port"), (HELLO, "handshake_timeout")]
    {
        eventually("the operator is told", || {
            talk(port, begin, SOON);
            gateway.stderr().lines().any(|line| line.contains("no handshake with 127.0.0.1:") && line.contains(reason))
        });
    }
    let lines = gateway.stderr().matches("no handshake with").count();
    assert!(lines as f64 <= failures(), "{lines}");
    still_well(&gateway);
}

#[test]
fn a_refused_head_leaves_what_was_read_of_it_in_the_log() {
    let backend = Recorder::start();
    let gateway = gateway(backend.port());
    let mut number = 0;
    let mut check = |attack: &str, logged: [&str; 3]| {
        number += 1;
        let talk = talk(gateway.port(), attack.as_bytes(), SOON);
        let replies = talk.replies().unwrap();
        let [reply] = &replies[..] else { panic!("{}", talk.show()) };
        let id = reply.field("x-request-id").unwrap().to_owned();
        let line = gateway.wait_log(|line| line["request_id"] == id.as_str());
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert_eq!([text("method"), text("path"), text("host")], logged, "{attack:?} {line}");
        assert!(!line.to_string().contains("secret"), "{line}");
    };
    let rest = "Host: a.example:80\r\nX-Key: secret\r\nbad\r\n\r\n";
    check(&format!("POST /a/b?key=secret HTTP/1.1\r\n{rest}"), ["POST", "/a/b", "a.example"]);
    check(&format!("DELETE http://B.example/c HTTP/1.1\r\n{rest}"), ["DELETE", "/c", "b.example"]);
    check("PUT /x HTTP/1.1\r\nHost: user:secret@a\r\n\r\n", ["PUT", "/x", ""]);
    check("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", ["PUT", "/x", "a"]);
    check("PUT /x HTTP/2.0\r\n", ["PUT", "/x", ""]);
    check("PATCH /../x HTTP/1.1\r\nHost: a\r\n\r\n", ["PATCH", "/../x", "a"]);
    check("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", ["TRACE", "/x", "a"]);
    check("TRACK /x HTTP/1.1\r\nHost: a\r\n\r\n", ["TRACK", "/x", "a"]);
    check("dElete /x HTTP/1.1\r\nHost: a\r\n\r\n", ["dElete", "/x", "a"]);
    check("G@T /x HTTP/1.1\r\nHost: a\r\n\r\n", ["", "", ""]);
    check("\x16\x03\x01", ["", "", ""]);
    // Out of time in the middle of it.
    check("GET /slow?key=secret HTTP/1.1\r\nHost: a\r\nX: ", ["GET", "/slow", "a"]);
    assert!(backend.is_untouched());
    still_well(&gateway);
}
