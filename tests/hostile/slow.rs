//! Clients that take their time, or all the room there is.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::wire::*;
use crate::harness::{Gateway, eventually};

fn start(backend: u16, more: &str, server: &str) -> Gateway {
    let yaml = "
listeners:
  - bind: 127.0.0.1:$PORT
    timeouts: { header: 600ms, body: 600ms, keep_alive: 900ms, request: 1500ms }
    MORE
server: { workers: 2, SERVER }
routes:
  - { path: /ok/*, service: 127.0.0.1, port: BACKEND }
  - { path: /json/*, service: 127.0.0.1, port: BACKEND, policies: { validate: { json: true } } }
";
    Gateway::start(&yaml.replace("MORE", more).replace("SERVER", server).replace("BACKEND", &backend.to_string()))
}

/// Sends `begin`, then a byte every 50 ms until the connection ends.
fn trickle(port: u16, begin: &[u8], drip: &[u8]) -> (Talk, Duration) {
    let mut stream = connect(port);
    stream.write_all(begin).unwrap();
    let since = Instant::now();
    let mut whole = Talk { bytes: Vec::new(), closed: false };
    while !whole.closed && since.elapsed() < SOON {
        let heard = listen(&mut stream, Duration::from_millis(50));
        whole.bytes.extend(heard.bytes);
        whole.closed = heard.closed;
        if whole.bytes.is_empty() {
            let _ = stream.write_all(drip);
        }
    }
    (whole, since.elapsed())
}

fn assert_refused(talk: &Talk, status: u16, reason: &str) {
    let replies = talk.replies().unwrap();
    let [reply] = &replies[..] else { panic!("{}", talk.show()) };
    assert_eq!((reply.status, reply.reason().as_str(), talk.closed), (status, reason, true), "{}", talk.show());
}

#[test]
fn a_head_has_a_deadline_in_all() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "", "");
    for begin in [&b"G"[..], b"GET /ok/x HTTP/1.1\r\nHost: a\r\nX: ", b"GET /ok/x HTTP/1.1\r\nHost: a\r\n"] {
        for drip in [&b""[..], b"A"] {
            let (talk, took) = trickle(gateway.port(), begin, drip);
            assert_refused(&talk, 408, "head_timeout");
            assert!(took < SOON, "{took:?}");
        }
    }
    // Empty lines are not an endless prelude.
    let (talk, took) = trickle(gateway.port(), b"\r\n", b"\r\n");
    assert_refused(&talk, 400, "malformed_request_line");
    assert!(took < SOON, "{took:?}");
    // Also for the second request on a connection.
    let mut stream = connect(gateway.port());
    assert_eq!(ask(&mut stream, b"GET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n", 1).replies().unwrap()[0].status, 200);
    stream.write_all(b"GET /ok/y HT").unwrap();
    assert_refused(&listen(&mut stream, SOON), 408, "head_timeout");
    let line = gateway.wait_log(|line| line["reason"] == "head_timeout");
    assert_eq!(line["status"], 408);
    still_well(&gateway);
}

#[test]
fn a_body_that_stops_or_trickles_ends_in_408() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "", "");
    for path in ["/ok/x", "/json/x"] {
        for framing in ["Content-Length: 1000\r\n\r\n[", "Transfer-Encoding: chunked\r\n\r\n3e8\r\n["] {
            let begin = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}");
            let (talk, took) = trickle(gateway.port(), begin.as_bytes(), b"");
            assert_refused(&talk, 408, "body_timeout");
            assert!(took < SOON, "{took:?}");
            // Never silent for long enough, but not within the request's time either.
            let (talk, took) = trickle(gateway.port(), begin.as_bytes(), b" ");
            let replies = talk.replies().unwrap();
            assert!(
                matches!(&replies[..], [one] if matches!(one.status, 408 | 504) && !one.reason().is_empty()),
                "{path}: {}",
                talk.show()
            );
            assert!(talk.closed && took < SOON, "{path}: {took:?}");
        }
    }
    assert!(backend.seen().unwrap().iter().all(|seen| !seen.whole));
    still_well(&gateway);
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "", "");
    let since = Instant::now();
    let fresh = listen(&mut connect(gateway.port()), SOON);
    assert!(fresh.closed && fresh.bytes.is_empty() && since.elapsed() < SOON / 2);
    let mut stream = connect(gateway.port());
    assert_eq!(ask(&mut stream, b"GET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n", 1).replies().unwrap()[0].status, 200);
    let since = Instant::now();
    let idle = listen(&mut stream, SOON);
    assert!(idle.closed && idle.bytes.is_empty() && since.elapsed() < SOON / 2, "{}", idle.show());
    still_well(&gateway);
}

#[test]
fn heads_have_bounds() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "limits: { head: 16KiB, headers: 50, uri: 1KiB, body: 4KiB }", "");
    let head = |line: &str, fields: &str| format!("{line}\r\nHost: a\r\n{fields}\r\n");
    let port = gateway.port();
    for (attack, status, reason) in [
        (head("GET /ok/x HTTP/1.1", &"X: y\r\n".repeat(50)), 431, "too_many_headers"),
        (head("GET /ok/x HTTP/1.1", &format!("X: {}\r\n", "y".repeat(17_000))), 431, "head_too_large"),
        (head("GET /ok/x HTTP/1.1", &format!("{}: y\r\n", "x".repeat(17_000))), 431, "head_too_large"),
        (head("GET /ok/x HTTP/1.1", &format!("X: {}\r\n", "y".repeat(3000)).repeat(2000)), 431, "head_too_large"),
        (head(&format!("GET /ok/{} HTTP/1.1", "x".repeat(1100)), ""), 414, "uri_too_long"),
        (head(&format!("GET /ok/x?{} HTTP/1.1", "x".repeat(1100)), ""), 414, "uri_too_long"),
        (format!("GET /ok/{}", "x".repeat(3_000_000)), 414, "uri_too_long"),
        (format!("GET /{}", "x".repeat(100_000)), 414, "uri_too_long"),
        ("X".repeat(100_000), 400, "malformed_request_line"),
        (head("POST /ok/x HTTP/1.1", &format!("Content-Length: {}\r\n", u64::MAX / 2)), 413, "body_too_large"),
        (format!("{}{}", head("POST /ok/x HTTP/1.1", "Content-Length: 400000\r\n"), "a".repeat(400_000)), 413, "body_too_large"),
        (
            format!("{}1388\r\n{}\r\n0\r\n\r\n", head("POST /ok/x HTTP/1.1", "Transfer-Encoding: chunked\r\n"), "a".repeat(5000)),
            413,
            "body_too_large",
        ),
    ] {
        let talk = talk(port, attack.as_bytes(), SOON);
        assert!(talk.closed, "{reason}");
        assert_refused(&talk, status, reason);
        gateway.wait_log(|line| line["reason"] == reason && line["status"] == status);
    }
    assert!(backend.seen().unwrap().iter().all(|seen| !seen.whole));
    still_well(&gateway);
}

/// A connection from another loopback address.
fn connect_from(source: [u8; 4], port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.into()
}

const ASK: &[u8] = b"GET /ok/x HTTP/1.1\r\nHost: a\r\n\r\n";

fn served(stream: &mut TcpStream) -> bool {
    ask(stream, ASK, 1).replies().is_ok_and(|all| matches!(&all[..], [one] if one.status == 200))
}

#[test]
fn connections_are_capped_in_all_and_by_address() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "max_connections: 4\n    max_connections_per_address: 2", "");
    let from = |last: u8| connect_from([127, 0, 0, last], gateway.port());
    let mut first: Vec<_> = (0..2).map(|_| from(1)).collect();
    assert!(first.iter_mut().all(served));
    let third = listen(&mut from(1), SOON);
    assert!(third.closed && third.bytes.is_empty(), "the third from one address: {}", third.show());
    let mut others = [from(2), from(3)];
    assert!(others.iter_mut().all(served));
    let fifth = listen(&mut from(4), SOON);
    assert!(fifth.closed && fifth.bytes.is_empty(), "the fifth in all: {}", fifth.show());
    let metrics = gateway.admin_get("/metrics").1;
    assert!(metrics.contains("max_connections_per_address") && metrics.contains("\"max_connections\""), "{metrics}");
    drop(first);
    eventually("a place is free again", || served(&mut from(4)));
    still_well(&gateway);
}

#[test]
fn half_open_connections_block_nobody() {
    let backend = Recorder::start();
    let gateway = start(backend.port(), "h2c: true", "");
    let begins: [&[u8]; 4] = [b"", b"GET /ok/x HT", b"POST /ok/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b"PRI * HT"];
    let open: Vec<_> = (0..100)
        .map(|at| {
            let mut stream = connect(gateway.port());
            stream.write_all(begins[at % begins.len()]).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        let since = Instant::now();
        assert!(served(&mut connect(gateway.port())));
        assert!(since.elapsed() < SOON / 4, "{:?}", since.elapsed());
    }
    // And none of them stays for ever.
    for mut stream in open {
        assert!(listen(&mut stream, SOON).closed);
    }
    still_well(&gateway);
}

#[test]
fn too_many_requests_in_flight_are_told_to_come_back() {
    // A backend that accepts and never answers.
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gateway = start(backend.local_addr().unwrap().port(), "", "max_in_flight: 3, max_in_flight_per_address: 9");
    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connect(gateway.port());
            stream.write_all(ASK).unwrap();
            (stream, backend.accept().unwrap())
        })
        .collect();
    let mut stream = connect(gateway.port());
    // Refused, but the connection is none the worse for it.
    for _ in 0..3 {
        let talk = ask(&mut stream, b"POST /ok/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", 1);
        let replies = talk.replies().unwrap();
        let [reply] = &replies[..] else { panic!("{}", talk.show()) };
        assert_eq!((reply.status, reply.reason().as_str(), talk.closed), (503, "overloaded", false), "{}", talk.show());
        assert!(reply.field("retry-after").is_some_and(|after| after.parse::<u32>().is_ok_and(|seconds| seconds >= 1)));
    }
    drop(held);
    gateway.wait_log(|line| line["status"] == 503 && line["reason"] == "overloaded");
    eventually("there is room again", || {
        let talk = talk(gateway.port(), b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", SOON);
        talk.replies().is_ok_and(|all| matches!(&all[..], [one] if one.status == 404))
    });
    still_well(&gateway);
}
