//! What a route says of its WebSockets: their messages, their silence, and what both ends are told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::peer::{Peer, play};
use crate::harness::{Backend, Client, Files, Gateway, filled, get, portcullis, request};

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
const LONG: Duration = Duration::from_secs(20);

/// A client's frame, masked with nothing.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match length {
        ..126 => frame.push(0x80 | length as u8),
        126..65536 => frame.extend_from_slice(&[0xfe, (length >> 8) as u8, length as u8]),
        _ => frame.extend_from_slice(&[&[0xff][..], &(length as u64).to_be_bytes()].concat()),
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A service's.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(first, payload);
    frame[1] &= 0x7f;
    let mask = frame.len() - payload.len() - 4;
    frame.drain(mask..mask + 4);
    frame
}

fn closing(code: u16, reason: &str) -> Vec<u8> {
    plain(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

fn closing_masked(code: u16, reason: &str) -> Vec<u8> {
    masked(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// A service that switches, plays its part, and then reads to the end: what it was sent.
fn service(part: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> (Backend, Receiver<Vec<u8>>) {
    let (told, tells) = channel();
    let told = Mutex::new(told);
    let backend = Backend::scripted(move |mut stream| {
        let (mut seen, mut byte) = (Vec::new(), [0; 1]);
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => seen.push(byte[0]),
                _ => return,
            }
        }
        stream.write_all(SWITCH).unwrap();
        part(&mut stream);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = told.lock().unwrap().send(all);
    });
    (backend, tells)
}

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT' } ]
    server: { workers: 1 }
    services: { ws: { endpoints: ['127.0.0.1:$BACKEND'] } }
    routes: [ { id: it, path: /*, service: ws, policies: { websocket: $RULES } } ]
";

fn start(backend: u16, rules: &str) -> Gateway {
    Gateway::start(&filled(&YAML.replace("$RULES", rules), &[("$BACKEND", backend)]))
}

fn open(gateway: &Gateway, more: &str) -> Client {
    let mut client = Client::connect(gateway.port());
    client.send(format!("{ASK}{more}\r\n"));
    let answer = client.answer_to("GET");
    assert_eq!(answer.status, 101, "{answer:?}");
    client
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_for_both() {
    let hello = masked(0x81, b"hello");
    // In one frame, and in three; with a ping in between, which is no part of it.
    let whole = masked(0x82, &[b'x'; 1001]);
    let (first, ping, second) = (masked(0x02, &[b'x'; 600]), masked(0x89, &[b'p'; 100]), masked(0x00, &[b'x'; 400]));
    let fragments = [&first[..], &ping, &second, &masked(0x80, b"x")].concat();
    for (bad, passed) in [(whole, vec![]), (fragments, [first, ping, second].concat())] {
        let (backend, tells) = service(|_| {});
        let gateway = start(backend.port(), "{ max_message: 1000 }");
        let mut client = open(&gateway, "");
        client.send([&hello[..], &bad].concat());
        assert_eq!(client.rest(), closing(1009, "message_too_large"));
        // Nothing of the frame that is too much.
        let expected = [&hello[..], &passed, &closing_masked(1009, "message_too_large")].concat();
        assert_eq!(tells.recv_timeout(LONG).unwrap(), expected);
        let line = gateway.wait_log(|line| line["status"] == 101);
        assert_eq!((&line["answered_by"], &line["reason"]), (&json!("websocket"), &json!("message_too_large")), "{line}");
        assert_eq!((&line["closed_by"], &line["close_code"]), (&json!("gateway"), &json!(1009)), "{line}");
        gateway.wait_metric("portcullis_websocket_closed_total{route=\"it\",by=\"gateway\",code=\"1009\"}", 1.0);
        gateway.wait_metric("portcullis_refusals_total{policy=\"websocket\",reason=\"message_too_large\"}", 1.0);
    }
}

#[test]
fn what_the_service_says_is_bounded_as_well() {
    let (backend, tells) = service(|stream| {
        stream.write_all(&[plain(0x81, b"fine"), plain(0x82, &[b'x'; 70_000])].concat()).unwrap();
    });
    let gateway = start(backend.port(), "{ max_service_message: 64KiB }");
    let mut client = open(&gateway, "");
    assert_eq!(client.rest(), [plain(0x81, b"fine"), closing(1009, "message_too_large")].concat());
    assert_eq!(tells.recv_timeout(LONG).unwrap(), closing_masked(1009, "message_too_large"));
}

#[test]
fn too_many_messages_are_too_many() {
    let (backend, tells) = service(|_| {});
    let gateway = start(backend.port(), "{ messages: 3/h }");
    let mut client = open(&gateway, "");
    let fine = [masked(0x01, b"a"), masked(0x00, b"b"), masked(0x80, b"c"), masked(0x89, b""), masked(0x81, b"")].concat();
    client.send([&fine[..], &masked(0x81, b"one more")].concat());
    assert_eq!(client.rest(), closing(1008, "too_many_messages"));
    assert_eq!(tells.recv_timeout(LONG).unwrap(), [fine, closing_masked(1008, "too_many_messages")].concat());
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((&line["messages_in"], &line["messages_out"]), (&json!(2), &json!(0)), "{line}");
}

#[test]
fn malformed_frames_end_the_connection() {
    let long_ping = [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat();
    for (what, bad) in [
        ("unmasked", plain(0x81, b"hello")),
        ("a reserved opcode", masked(0x83, b"")),
        ("a long ping", long_ping),
        ("compressed without an agreement", masked(0xc1, b"hello")),
        ("a second message in the first", [masked(0x01, b"a"), masked(0x01, b"b")].concat()),
    ] {
        let (backend, tells) = service(|_| {});
        let gateway = start(backend.port(), "{}");
        let mut client = open(&gateway, "");
        client.send(&bad);
        client.half_close();
        assert_eq!(client.rest(), closing(1002, "malformed_frame"), "{what}");
        let told = tells.recv_timeout(LONG).unwrap();
        assert!(told.ends_with(&closing_masked(1002, "malformed_frame")), "{what}: {}", told.escape_ascii());
    }
    // Without the policy, nothing is looked at.
    let (backend, tells) = service(|_| {});
    let gateway = start(backend.port(), "false");
    let mut client = open(&gateway, "");
    client.send(plain(0x83, b"hello"));
    client.half_close();
    assert_eq!(tells.recv_timeout(LONG).unwrap(), plain(0x83, b"hello"));
}

/// The service is in the middle of a frame when the client breaks the law: the client gets the rest of it, and is told then.
#[test]
fn a_frame_that_is_under_way_is_not_cut() {
    let (go, goes) = channel();
    let goes = Mutex::new(goes);
    let whole = plain(0x82, &[b'y'; 3000]);
    let (first, rest) = (whole[..1000].to_vec(), whole[1000..].to_vec());
    let (backend, _tells) = service(move |stream| {
        stream.write_all(&first).unwrap();
        let () = goes.lock().unwrap().recv().unwrap();
        stream.write_all(&[&rest[..], &plain(0x81, b"this goes nowhere")].concat()).unwrap();
    });
    let gateway = start(backend.port(), "{ max_message: 10 }");
    let mut client = open(&gateway, "");
    let begun = client.take(1000);
    client.send(masked(0x81, b"longer than ten"));
    // The gateway has seen it by then: it is what the service waits for that comes later.
    std::thread::sleep(Duration::from_millis(300));
    go.send(()).unwrap();
    assert_eq!([&begun[..], &client.rest()].concat(), [whole, closing(1009, "message_too_large")].concat());
}

#[test]
fn an_end_that_does_not_answer_its_close_frame_is_not_waited_for() {
    let (backend, _tells) = service(|stream| {
        // It hears nothing, and goes on talking.
        while stream.write_all(&plain(0x81, b"tick")).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let gateway = start(backend.port(), "{ max_message: 10 }");
    let mut client = open(&gateway, "");
    let begun = Instant::now();
    client.send(masked(0x81, b"longer than ten"));
    assert!(client.rest().ends_with(&closing(1009, "message_too_large")));
    assert!((Duration::from_secs(4)..Duration::from_secs(15)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[test]
fn a_ping_keeps_quiet_connections_alive_and_its_answer_goes_no_further() {
    let (server, files) = (Peer::start("ws_server.py", &[]), Files::new());
    let yaml = YAML
        .replace("$RULES", "{ ping: 1s, pong: 2s }")
        .replace("'127.0.0.1:$BACKEND'] }", "'127.0.0.1:$BACKEND'], timeouts: { stream: 2s } }");
    let gateway = Gateway::start_in(&files, &filled(&yaml, &[("$BACKEND", server.port())]));
    // The library answers pings by itself. Silent for 3 s, which the service's `timeouts.stream` would not let it be.
    let facts = play("ws_client.py", &["idle", &format!("ws://127.0.0.1:{}", gateway.port())]);
    assert_eq!(facts, json!({ "before": "before", "after": "after" }));
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((&line["messages_in"], &line["messages_out"]), (&json!(2), &json!(2)), "{line}");
    assert_eq!((&line["closed_by"], &line["close_code"]), (&json!("client"), &json!(1000)), "{line}");
    drop(gateway);
    // And byte by byte: the answer to ours stays here, one to nobody's does not.
    let (backend, tells) = service(|_| {});
    let gateway = start(backend.port(), "{ ping: 1s, pong: 1s }");
    let mut client = open(&gateway, "");
    let ping = client.take(10);
    assert_eq!(ping[..2], [0x89, 8]);
    client.send([masked(0x8a, &ping[2..]), masked(0x8a, b"unasked"), masked(0x88, b"")].concat());
    // The service did not answer either: it is the one that is given up.
    let told = tells.recv_timeout(LONG).unwrap();
    let pings = masked(0x89, &ping[2..]);
    assert!(told.starts_with(&pings), "{}", told.escape_ascii());
    let rest = &told[pings.len()..];
    assert!(rest.starts_with(&[masked(0x8a, b"unasked"), masked(0x88, b"")].concat()), "{}", told.escape_ascii());
}

#[test]
fn an_end_that_is_dead_is_found_and_the_other_one_is_told() {
    let (backend, tells) = service(|stream| {
        let mut ping = [0; 14];
        stream.read_exact(&mut ping).unwrap();
        stream.write_all(&plain(0x8a, &ping[6..])).unwrap();
    });
    let gateway = start(backend.port(), "{ ping: 1s, pong: 1s }");
    let mut client = open(&gateway, "");
    // It takes all, and answers nothing.
    let begun = Instant::now();
    let told = client.rest();
    assert_eq!(told[..2], [0x89, 8]);
    assert_eq!(told[10..], closing(1001, "client_silent"));
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(tells.recv_timeout(LONG).unwrap().ends_with(&closing_masked(1001, "client_silent")));
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((&line["reason"], &line["close_code"]), (&json!("client_silent"), &json!(1001)), "{line}");
    assert_eq!(gateway.metric("portcullis_websockets_open{route=\"it\"}"), 0.0);
}

#[test]
fn without_messages_a_connection_is_idle_however_often_it_is_pinged() {
    let (backend, _tells) = service(|stream| {
        let beat = plain(0x89, b"beat");
        for _ in 0..40 {
            if stream.write_all(&beat).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let gateway = start(backend.port(), "{ idle: 1s }");
    let mut client = open(&gateway, "");
    std::thread::sleep(Duration::from_millis(700));
    client.send(masked(0x81, b"hello"));
    let begun = Instant::now();
    let told = client.rest();
    assert!(told.windows(8).any(|window| window == &closing(1001, "idle")[..8]), "{}", told.escape_ascii());
    assert!(begun.elapsed() > Duration::from_millis(900), "a message counts");
    assert_eq!(gateway.wait_log(|line| line["status"] == 101)["reason"], "idle");
}

#[test]
fn a_reload_that_takes_the_route_away_closes_its_connections_and_no_others() {
    let (backend, tells) = service(|_| {});
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services: { ws: { endpoints: ['127.0.0.1:$BACKEND'] } }
        routes:
          - { path: /ws, service: ws }
          - { path: /stays, service: ws }
        ",
        &[("$BACKEND", backend.port())],
    ));
    let mut gone = open(&gateway, "");
    let mut stays = Client::connect(gateway.port());
    stays.send(ASK.replace("/ws", "/stays") + "\r\n");
    assert_eq!(stays.answer_to("GET").status, 101);
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    // Another generation in which both are.
    gateway.rewrite(&yaml.replace("server: { workers: 1 }", "server: { workers: 1, grace: 9s }"));
    assert_eq!(gateway.reload().0, 200);
    gone.send(masked(0x81, b"still here"));
    gateway.rewrite(&yaml.replace("- { path: /ws, service: ws }", ""));
    assert_eq!(gateway.reload().0, 200);
    gone.send(masked(0x88, b""));
    assert_eq!(gone.rest(), closing(1001, ""));
    let told = tells.recv_timeout(LONG).unwrap();
    assert!(told.starts_with(&masked(0x81, b"still here")), "{}", told.escape_ascii());
    let line = gateway.wait_log(|line| line["path"] == "/ws");
    assert_eq!((&line["answered_by"], &line["reason"]), (&json!("route"), &json!("route_removed")), "{line}");
    stays.send(masked(0x81, b"hello"));
    stays.half_close();
    assert_eq!(tells.recv_timeout(LONG).unwrap(), masked(0x81, b"hello"));
}

#[test]
fn pages_of_other_origins_are_refused() {
    let (backend, _tells) = service(|_| {});
    let gateway = start(backend.port(), "{ origins: 'https://shop.example.com' }");
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Origin", "https://evil.example.com")];
    request(gateway.port(), "GET", "/ws", &upgrade, b"").assert_problem(403, "websocket", "origin");
    open(&gateway, "Origin: https://shop.example.com\r\n");
    open(&gateway, "");
}

#[test]
fn how_many_are_open_is_a_limit_on_concurrency() {
    let (backend, _tells) = service(|_| {});
    let rules = "{ ping: 1s }, concurrency_limit: { by: client_address, limit: 2 }";
    let gateway = start(backend.port(), rules);
    let held = [open(&gateway, ""), open(&gateway, "")];
    let refused = request(gateway.port(), "GET", "/ws", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], b"");
    refused.assert_problem(429, "concurrency_limit", "too_many_concurrent");
    gateway.wait_metric("portcullis_websockets_open{route=\"it\"}", 2.0);
    drop(held);
    gateway.wait_metric("portcullis_websockets_open{route=\"it\"}", 0.0);
    open(&gateway, "");
}

/// One client that breaks the law, or floods, is nobody else's trouble: the service's endpoint is not blamed for it.
#[test]
fn who_breaks_the_law_breaks_it_for_nobody_else() {
    let (backend, _tells) = service(|_| {});
    let backend = Arc::new(backend);
    let yaml = YAML
        .replace("$RULES", "{ max_message: 10 }")
        .replace("'127.0.0.1:$BACKEND'] }", "'127.0.0.1:$BACKEND'], outlier_detection: {} }");
    let gateway = Gateway::start(&filled(&yaml, &[("$BACKEND", backend.port())]));
    for _ in 0..6 {
        let mut client = open(&gateway, "");
        client.send(masked(0x81, b"longer than ten"));
        assert_eq!(client.rest(), closing(1009, "message_too_large"));
    }
    open(&gateway, "");
}

#[test]
fn a_stock_server_cannot_do_this_and_says_so() {
    let files = Files::new();
    let yaml = "listeners: [ { bind: '127.0.0.1:8080' } ]\nserver: { engine: pingora }\nservices: { a: { endpoints: ['127.0.0.1:9'] } }\n\
                routes: [ { path: /*, service: a, policies: { websocket: {} } } ]\n";
    std::fs::write(files.dir().join("gateway.yaml"), yaml).unwrap();
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("`websocket` cannot be had with `engine: pingora`"), "{said}");
}

#[test]
fn what_was_said_is_counted_without_any_policy() {
    let server = Peer::start("ws_server.py", &[]);
    let gateway = start(server.port(), "false");
    let facts = play("ws_client.py", &["server_closes", &format!("ws://127.0.0.1:{}", gateway.port())]);
    assert_eq!(facts["code"], 4321);
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((&line["closed_by"], &line["close_code"]), (&json!("service"), &json!(4321)), "{line}");
    assert_eq!((&line["messages_in"], &line["messages_out"]), (&json!(1), &json!(0)), "{line}");
    gateway.wait_metric("portcullis_websocket_messages_total{route=\"it\",direction=\"in\"}", 1.0);
    gateway.wait_metric("portcullis_websocket_closed_total{route=\"it\",by=\"service\",code=\"other\"}", 1.0);
    assert_eq!(get(gateway.port(), "/ws/plain").status, 200);
    assert_eq!(gateway.wait_log(|line| line["status"] == 200).get("messages_in"), None);
}
