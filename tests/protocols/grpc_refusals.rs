//! What a gRPC client is told when the gateway itself answers, and when time is over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::frames::{Frames, HEADERS};
use super::peer::{Peer, play};
use crate::harness::{Backend, Client, Files, Gateway, curl, eventually, portcullis, request};

const H2C: &str = "--http2-prior-knowledge";

struct Setup {
    gateway: Gateway,
    _server: Peer,
    _plain: Backend,
}

fn setup() -> Setup {
    let server = Peer::start("grpc_server.py", &[]);
    let plain = Backend::http();
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, limits: {{ body: 100KiB }} }} ]
         services:
           grpc: {{ endpoints: ['127.0.0.1:{}'], protocol: grpc }}
           dead: {{ endpoints: ['127.0.0.1:1'], protocol: grpc, retries: {{ attempts: 0 }} }}
           plain: {{ endpoints: ['127.0.0.1:{}'] }}
         routes:
           - {{ path: /portcullis.test.Echo/*, service: grpc }}
           - {{ path: /private/*, service: grpc, policies: {{ authn: {{ api_key: {{}} }} }} }}
           - {{ path: /closed/*, service: grpc, policies: {{ ip_restriction: {{ deny: [127.0.0.0/8] }} }} }}
           - {{ path: /limited/*, service: grpc, policies: {{ rate_limit: {{ by: client_address, limit: 1/hour, burst: 0 }} }} }}
           - {{ path: /small/*, service: grpc, strip_prefix: /small, policies: {{ bounds: {{ max_body: 10 }} }} }}
           - {{ path: /hurried/*, service: grpc, strip_prefix: /hurried, timeout: 400ms }}
           - {{ path: /dead/*, service: dead }}
           - {{ path: /gets, methods: [GET], service: plain }}
           - {{ path: /web/*, service: plain, policies: {{ authn: {{ api_key: {{}} }} }} }}
        ",
        server.port(),
        plain.port()
    ));
    Setup { gateway, _server: server, _plain: plain }
}

impl Setup {
    fn call(&self, name: &str) -> Value {
        play("grpc_client.py", &[name, &format!("127.0.0.1:{}", self.gateway.port())])
    }
}

#[test]
fn a_refusal_is_a_status_of_grpc() {
    let setup = setup();
    setup.call("/limited/Unary");
    for (path, code, said, status) in [
        ("/private/Unary", "UNAUTHENTICATED", "(authn: ", 401),
        ("/closed/Unary", "PERMISSION_DENIED", "(ip_restriction: ", 403),
        ("/nowhere/Unary", "UNIMPLEMENTED", "(route: no_route)", 404),
        ("/gets", "UNIMPLEMENTED", "(route: method_not_allowed)", 405),
        ("/limited/Unary", "RESOURCE_EXHAUSTED", "(rate_limit: ", 429),
        ("/small/portcullis.test.Echo/Unary", "RESOURCE_EXHAUSTED", "(bounds: body_too_large)", 413),
        ("/dead/Unary", "UNAVAILABLE", "(upstream: ", 502),
    ] {
        let facts = setup.call(path);
        assert_eq!(facts["code"], code, "{path} {facts}");
        assert!(facts["details"].as_str().is_some_and(|details| details.contains(said)), "{path} {facts}");
        assert!(facts["trailing"]["x-request-id"].as_str().is_some_and(|id| !id.is_empty()), "{path} {facts}");
        let line = setup.gateway.wait_log(|line| line["path"] == path && line["status"] == status);
        assert!(line["grpc_status"].as_u64().is_some_and(|status| status > 0), "{line}");
        assert_eq!(line["request_id"], facts["trailing"]["x-request-id"], "{line}");
    }
    let facts = setup.call("/limited/Unary");
    let pushback: u64 = facts["trailing"]["grpc-retry-pushback-ms"].as_str().unwrap().parse().unwrap();
    let after: u64 = facts["trailing"]["retry-after"].as_str().unwrap().parse().unwrap();
    assert_eq!(pushback, after * 1000, "{facts}");
}

#[test]
fn a_refusal_of_a_call_is_one_frame_that_ends_the_stream() {
    let setup = setup();
    for path in ["/private/Unary", "/nowhere", "/dead/Unary"] {
        let mut frames = Frames::connect(setup.gateway.port());
        frames.post(1, path, &[("content-type", "application/grpc"), ("te", "trailers")]);
        let first = frames.next(1);
        assert!(first.kind == HEADERS && first.ends_stream(), "{path} {first:?}");
    }
}

#[test]
fn other_clients_of_the_route_keep_their_problem_document() {
    let setup = setup();
    let url = |path: &str| setup.gateway.url(path);
    curl(&[H2C, "-d", "x", &url("/private/Unary")]).assert_problem(401, "authn", "missing_credentials");
    curl(&[H2C, "-d", "x", "-H", "content-type: application/grpcs", &url("/private/Unary")]).assert_problem(
        401,
        "authn",
        "missing_credentials",
    );
    let answer = call(setup.gateway.port(), "/private/Unary", &[("content-type", "Application/gRPC+proto")]);
    assert_eq!((answer.status.as_u16(), field(&answer, "grpc-status")), (200, Some("16")), "{answer:?}");
    assert_eq!(
        (field(&answer, "content-type"), field(&answer, "content-length")),
        (Some("application/grpc"), None),
        "{answer:?}"
    );
}

#[test]
fn browsers_calls_are_refused_in_the_head_too() {
    let setup = setup();
    for (asked, told) in
        [("application/grpc-web+proto", "application/grpc-web"), ("application/grpc-web-text", "application/grpc-web-text")]
    {
        let answer = request(setup.gateway.port(), "POST", "/web/Unary", &[("Content-Type", asked)], b"\0\0\0\0\0");
        assert_eq!((answer.status, answer.header("grpc-status"), answer.text().as_str()), (200, Some("16"), ""), "{answer:?}");
        assert_eq!((answer.header("content-type"), answer.header("content-length")), (Some(told), Some("0")), "{answer:?}");
        let answer = call(setup.gateway.port(), "/web/Unary", &[("content-type", asked)]);
        assert_eq!((answer.status.as_u16(), field(&answer, "grpc-status")), (200, Some("16")), "{answer:?}");
    }
    // The connection goes on.
    let mut client = Client::connect(setup.gateway.port());
    for _ in 0..2 {
        let answer = client.request("POST", "/web/Unary", &[("Content-Type", "application/grpc-web")], b"\0\0\0\0\0");
        assert_eq!(answer.header("grpc-status"), Some("16"), "{answer:?}");
    }
}

/// A call as a client of gRPC makes it, that is answered by a head alone. (curl 7.88 hangs now and then where such a head comes before it
/// has sent its body.)
fn call(port: u16, path: &str, fields: &[(&str, &str)]) -> http::response::Parts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method("POST").uri(format!("http://a{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (answer, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
        // What is refused at once may be over by then.
        let _ = stream.send_data(bytes::Bytes::from_static(b"\0\0\0\0\0"), true);
        let (answer, body) = answer.await.unwrap().into_parts();
        assert!(body.is_end_stream(), "{answer:?}");
        answer
    })
}

fn field<'a>(answer: &'a http::response::Parts, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

/// The client itself waits for longer, so that what ends the call is the gateway.
fn timed(setup: &Setup, path: &str, timeout: &str) -> (crate::harness::Answer, Duration) {
    let started = Instant::now();
    let timeout = format!("grpc-timeout: {timeout}");
    let fields = [H2C, "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", &timeout];
    let frame = setup.gateway.files().write("call", b"\0\0\0\0\0");
    let body = format!("@{}", frame.display());
    let answer = curl(&[&fields[..], &["--data-binary", &body, &setup.gateway.url(path)]].concat());
    (answer, started.elapsed())
}

#[test]
fn a_calls_deadline_ends_it_and_cancels_it_at_the_backend() {
    let setup = setup();
    let (answer, took) = timed(&setup, "/portcullis.test.Echo/Slow", "500m");
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "{answer:?}");
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(10), "{took:?}");
    let line = setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Slow");
    assert_eq!(line["grpc_status"], 4, "{line}");
    // The backend was told what is left, and may be the first to look at its clock.
    if line["answered_by"] != "upstream" {
        assert_eq!((&line["status"], &line["reason"]), (&json!(504), &json!("deadline_exceeded")), "{line}");
    }
    assert_eq!(setup.call("was_cancelled")["answer"], "yes");
}

#[test]
fn a_deadline_ends_a_stream_that_has_begun() {
    let setup = setup();
    let mut frames = Frames::connect(setup.gateway.port());
    let fields = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "700m")];
    frames.post(1, "/portcullis.test.Echo/Count", &fields);
    let asked = b"[1000, 0.05]";
    frames.send(super::frames::DATA, super::frames::END_STREAM, 1, &[&[0, 0, 0, 0, asked.len() as u8][..], asked].concat());
    let first = frames.next(1);
    assert!(first.kind == HEADERS && !first.ends_stream(), "{first:?}");
    let last = std::iter::from_fn(|| Some(frames.next(1))).find(|frame| frame.kind != super::frames::DATA).unwrap();
    // Not a reset: the call has its status.
    assert!(last.kind == HEADERS && last.ends_stream(), "{last:?}");
    let line = setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Count");
    assert_eq!((&line["status"], &line["grpc_status"]), (&json!(200), &json!(4)), "{line}");
    // The backend, which was told what is left, may be the first to end it.
    if line["answered_by"] != "upstream" {
        assert_eq!(line["reason"], "answer_broke_off", "{line}");
    }
}

#[test]
fn the_backend_is_told_what_is_left_of_the_deadline() {
    let setup = setup();
    let (answer, _) = timed(&setup, "/portcullis.test.Echo/Headers", "20S");
    // Behind the message curl prints the trailers.
    let seen: Value = serde_json::Deserializer::from_slice(&answer.body[5..]).into_iter().next().unwrap().unwrap();
    let left = seen["time-remaining"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 20.0, "{seen}");
    // Too long for any clock, and as long as it may be.
    let (answer, _) = timed(&setup, "/portcullis.test.Echo/Unary", "99999999H");
    assert!(answer.text().contains("grpc-status: 0"), "{answer:?}");
    let facts = setup.call("/portcullis.test.Echo/Unary");
    assert_eq!(facts["code"], "OK", "{facts}");
    setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/Unary" && line["grpc_status"] == 0);
}

#[test]
fn a_malformed_deadline_is_refused() {
    let setup = setup();
    for (timeout, status) in [("500", "3"), ("1s", "3"), ("-1m", "3"), ("100000000m", "3"), ("1.5S", "3"), ("0n", "4")] {
        let fields = [("content-type", "application/grpc"), ("grpc-timeout", timeout)];
        let answer = call(setup.gateway.port(), "/portcullis.test.Echo/Unary", &fields);
        assert_eq!((answer.status.as_u16(), field(&answer, "grpc-status")), (200, Some(status)), "{timeout} {answer:?}");
    }
    setup.gateway.wait_log(|line| line["status"] == 400 && line["reason"] == "malformed_grpc_timeout");
    // On what is no call it is a field like any other.
    let answer = request(setup.gateway.port(), "GET", "/gets", &[("grpc-timeout", "soon")], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_routes_timeout_is_a_deadline_too() {
    let setup = setup();
    let facts = setup.call("/hurried/portcullis.test.Echo/Slow");
    assert_eq!(facts["code"], "DEADLINE_EXCEEDED", "{facts}");
    assert!(facts["details"].as_str().unwrap().contains("(door: request_timeout)"), "{facts}");
    setup.gateway.wait_log(|line| line["status"] == 504 && line["grpc_status"] == 4 && line["reason"] == "request_timeout");
}

#[test]
fn a_bound_is_on_each_message_of_a_stream_not_on_its_life() {
    let setup = setup();
    // 100 messages of 10 kB under a bound of 100 KiB.
    let facts = setup.call("client_stream_small");
    assert_eq!(facts, json!({ "answer": [100, 1_000_000] }));
    let facts = setup.call("client_stream_large");
    assert_eq!(facts["code"], "RESOURCE_EXHAUSTED", "{facts}");
    setup.gateway.wait_log(|line| line["status"] == 413 && line["grpc_status"] == 8);
}

/// A message that never was is refused at its announcement, and what counts messages is no way round the bound elsewhere.
#[test]
fn what_calls_itself_grpc_is_counted_in_bytes_elsewhere() {
    let setup = setup();
    let large = vec![0; 200_000];
    let answer = request(setup.gateway.port(), "POST", "/plain", &[("Content-Type", "application/grpc")], &large);
    assert_eq!(answer.header("grpc-status"), Some("12"), "{answer:?}");
    let backend = Backend::http();
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, limits: {{ body: 100KiB }} }} ]
         services: {{ plain: {{ endpoints: ['127.0.0.1:{}'] }} }}
         routes: [ {{ path: /*, service: plain }} ]
        ",
        backend.port()
    ));
    let fields = [("Content-Type", "application/grpc"), ("Transfer-Encoding", "chunked")];
    let mut client = Client::connect(gateway.port());
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{}: {}\r\n{}: {}\r\n\r\n",
        fields[0].0, fields[0].1, fields[1].0, fields[1].1
    ));
    client.send([b"30d40\r\n".as_slice(), &large, b"\r\n0\r\n\r\n"].concat());
    let answer = client.answer_to("POST");
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("8")), "{answer:?}");
    eventually("nothing is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

/// The server ends its call while the client still sends: the call is over, and nothing of it is held.
#[test]
fn a_call_that_its_server_ends_early_is_over() {
    let setup = setup();
    let mut frames = Frames::connect(setup.gateway.port());
    frames.post(1, "/portcullis.test.Echo/First", &[("content-type", "application/grpc"), ("te", "trailers")]);
    frames.send(super::frames::DATA, 0, 1, b"\0\0\0\0\x01x");
    let mut seen = Vec::new();
    while !seen.last().is_some_and(super::frames::Frame::ends_stream) {
        seen.push(frames.next(1));
    }
    // The client never ends its half.
    let reset = frames.next(1);
    assert_eq!(reset.code(), Some(0), "{reset:?}");
    let line = setup.gateway.wait_log(|line| line["path"] == "/portcullis.test.Echo/First");
    assert_eq!((&line["status"], &line["grpc_status"], line.get("reason")), (&json!(200), &json!(0), None), "{line}");
    eventually("nothing is in flight", || setup.gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn check_says_where_a_bound_is_on_a_whole_stream() {
    let files = Files::new();
    let yaml = |protocol: &str| {
        format!(
            "listeners: [ {{ bind: 127.0.0.1:8080 }} ]\n\
             services: {{ it: {{ endpoints: ['127.0.0.1:1'], protocol: {protocol} }} }}\n\
             routes: [ {{ path: /shop.v1.Orders/*, service: it }}, {{ path: /files/a.b/*, service: it }} ]\n"
        )
    };
    for (protocol, warnings) in [("http2", 1), ("grpc", 0)] {
        let path = files.write("it.yaml", yaml(protocol));
        let ran = portcullis(files.dir(), &["check", path.to_str().unwrap()]);
        assert_eq!((ran.code, ran.stderr.matches("this looks like gRPC").count()), (0, warnings), "{ran:?}");
    }
}
