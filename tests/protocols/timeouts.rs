//! Every wait has an end, and what broke off never looks complete.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::SERVER;
use crate::harness::{Backend, Client, Gateway, Port, curl, eventually, get, request, try_curl};

fn read_head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// Sends these bytes after a request's head, then waits until the other side closes.
fn says(bytes: &'static [u8]) -> Backend {
    Backend::scripted(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(bytes);
        while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
    })
}

fn gateway(port: u16, listener: &str, service: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ {listener} }} }} ]
         services: {{ backend: {{ endpoints: ['127.0.0.1:{port}'], {service} }} }}
         routes: [ {{ path: /*, service: backend, {route} }} ]
         {SERVER}
        "
    ))
}

const H2C: &str = "--http2-prior-knowledge";

#[test]
fn a_backend_that_does_not_answer_is_a_gateway_timeout() {
    let backend = says(b"");
    let gateway = gateway(backend.port(), "", "timeouts: { response: 400ms }", "");
    let mut client = Client::connect(gateway.port());
    client.get("/").assert_problem(504, "upstream", "response_timeout");
    client.request("POST", "/", &[], b"body").assert_problem(504, "upstream", "response_timeout");
    curl(&[H2C, &gateway.url("/")]).assert_problem(504, "upstream", "response_timeout");
    let line = gateway.wait_log(|line| line["method"] == "POST");
    assert_eq!((&line["status"], &line["answered_by"]), (&json!(504), &json!("upstream")), "{line}");
    assert!(line["endpoint"].is_string(), "{line}");
}

/// A port that takes no more connections: its queue is full, so that the next handshake is not answered.
struct Full {
    port: u16,
    _held: (socket2::Socket, Vec<socket2::Socket>),
}

impl Full {
    fn new() -> Full {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            match socket.connect_timeout(&address, Duration::from_millis(300)) {
                Ok(()) => held.push(socket),
                Err(_) => break,
            }
            assert!(held.len() < 100, "the queue never fills");
        }
        Full { port: address.as_socket().unwrap().port(), _held: (listener, held) }
    }
}

#[test]
fn a_backend_that_cannot_be_reached_is_told_from_one_that_does_not_answer() {
    let full = Full::new();
    let gateway = gateway(full.port, "", "timeouts: { connect: 300ms }", "");
    let started = Instant::now();
    get(gateway.port(), "/").assert_problem(504, "upstream", "connect_timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
    curl(&[H2C, &gateway.url("/")]).assert_problem(504, "upstream", "connect_timeout");
    let nobody = Port::lease();
    let gateway = self::gateway(nobody.number(), "", "", "");
    get(gateway.port(), "/").assert_problem(502, "upstream", "connect_failure");
    request(gateway.port(), "POST", "/", &[], b"body").assert_problem(502, "upstream", "connect_failure");
    curl(&[H2C, &gateway.url("/")]).assert_problem(502, "upstream", "connect_failure");
}

#[test]
fn a_request_has_a_total_deadline() {
    let backend = says(b"");
    for (listener, route) in [("request: 500ms", ""), ("", "timeout: 500ms")] {
        let gateway = gateway(backend.port(), listener, "", route);
        get(gateway.port(), "/").assert_problem(504, "door", "request_timeout");
        curl(&[H2C, &gateway.url("/")]).assert_problem(504, "door", "request_timeout");
        let line = gateway.wait_log(|line| line["protocol"] == "h2");
        assert_eq!((&line["status"], &line["reason"]), (&json!(504), &json!("request_timeout")), "{line}");
        eventually("no request is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
    }
    // An answer that does not end in time ends early, and the client sees that it did.
    let drip = Backend::scripted(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"1\r\n.\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let gateway = gateway(drip.port(), "", "", "timeout: 500ms");
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_answer_to("GET").is_err());
    assert!(try_curl(&[H2C, &gateway.url("/")]).is_err());
}

#[test]
fn a_client_that_stops_sending_its_body_is_told() {
    let backend = Backend::http();
    let gateway = gateway(backend.port(), "body: 400ms", "", "");
    let mut client = Client::connect(gateway.port());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.answer_to("POST").assert_problem(408, "door", "body_timeout");
    assert!(client.is_closed());
    assert!(backend.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let backend = Backend::answering(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 50_000_000, b'x');
        answer
    });
    let gateway = gateway(backend.port(), "write: 500ms", "", "");
    let mut client = Client::connect(gateway.port());
    client.send("GET /h1 HTTP/1.1\r\nHost: a\r\n\r\n");
    let line = gateway.wait_log(|line| line["path"] == "/h1");
    assert!(line["bytes_out"].as_u64().unwrap() < 50_000_000, "{line}");
    assert!(client.try_answer_to("GET").is_err());

    // A client of HTTP/2 that never opens its window again: preface, settings, and a request for `/`.
    let mut client = Client::connect(gateway.port());
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    client.send([&[0, 0, 6, 1, 5, 0, 0, 0, 1][..], &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']].concat());
    let line = gateway.wait_log(|line| line["protocol"] == "h2");
    assert!(line["bytes_out"].as_u64().unwrap() < 50_000_000, "{line}");
    eventually("no request is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn an_answer_that_broke_off_is_never_complete() {
    let cases: [(&str, &[u8]); 5] = [
        ("length", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart of it"),
        ("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\n"),
        ("within a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\npart of it"),
        ("before the first chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("no chunk at all", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\npart of it\r\nnonsense\r\n"),
    ];
    for (what, bytes) in cases {
        let backend = Backend::scripted(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(bytes).unwrap();
            // The part arrives by itself, then the end.
            std::thread::sleep(Duration::from_millis(100));
        });
        let gateway = gateway(backend.port(), "", "", "");
        let mut client = Client::connect(gateway.port());
        client.send("GET /h1 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.try_answer_to("GET");
        assert!(!matches!(&answer, Ok(answer) if answer.status == 200), "{what}: {answer:?}");
        let line = gateway.wait_log(|line| line["path"] == "/h1");
        assert!(line["reason"].is_string(), "{what}: {line}");

        let answer = try_curl(&[H2C, &gateway.url("/h2")]);
        assert!(!matches!(&answer, Ok(answer) if answer.status == 200), "{what}: {answer:?}");
        gateway.wait_log(|line| line["path"] == "/h2");

        // HTTP/1.0 knows no chunks: only a reset tells a broken answer from a whole one.
        let mut client = Client::connect(gateway.port());
        client.send("GET /h1.0 HTTP/1.0\r\nHost: a\r\n\r\n");
        let answer = client.try_answer_to("GET");
        assert!(!matches!(&answer, Ok(answer) if answer.status == 200), "{what}: {answer:?}");
    }
}

#[test]
fn a_backend_that_hangs_up_before_its_answer_is_a_bad_gateway() {
    for bytes in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Le"] {
        let backend = Backend::scripted(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(bytes);
        });
        let gateway = gateway(backend.port(), "", "", "");
        get(gateway.port(), "/").assert_problem(502, "upstream", "connection_lost");
        curl(&[H2C, &gateway.url("/")]).assert_problem(502, "upstream", "connection_lost");
    }
    let backend = says(b"nonsense\r\n\r\n");
    let gateway = gateway(backend.port(), "", "", "");
    get(gateway.port(), "/").assert_problem(502, "upstream", "malformed_answer");
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let backend = Backend::scripted(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it");
    });
    let gateway = gateway(backend.port(), "", "", "");
    let mut client = Client::connect(gateway.port());
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "all of it"), "{answer:?}");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "{answer:?}");
    }
    let answer = curl(&[H2C, &gateway.url("/")]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "all of it"), "{answer:?}");
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer_to("GET").text(), "all of it");
}
