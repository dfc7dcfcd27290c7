//! Answers that come as slowly as they can: how long services that dribble may hold a client, and who is not meant.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::harness::*;

const DRIP: Duration = Duration::from_millis(100);
/// The longest that a test waits for what does not end.
const LONG: Duration = Duration::from_millis(2500);

/// The head of an answer, and then a byte of its body ten times a second; of `/whole`, all of it at once.
fn dripping() -> Backend {
    Backend::scripted(|mut stream| {
        let mut read = Vec::new();
        while find(&read, b"\r\n\r\n").is_none() {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let asked = String::from_utf8_lossy(&read).into_owned();
        let kind = if asked.contains("/events") { "text/event-stream" } else { "text/plain" };
        let (length, drop) = if asked.contains("/whole") { (WHOLE, WHOLE) } else { (1000, 1) };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: max-age=60\r\n\r\n");
        let mut sent = stream.write_all(head.as_bytes());
        let mut left = length;
        while sent.is_ok() && left > 0 {
            std::thread::sleep(DRIP);
            sent = stream.write_all(&vec![b'x'; drop]);
            left -= drop;
        }
    })
}

/// More than the sockets in between hold.
const WHOLE: usize = 24 << 20;

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services:
      it: { endpoints: [ '127.0.0.1:$AT' ], timeouts: { body_grace: 1s }, limits: { body_rate: 1KiB } PROTOCOL }
      quick: { endpoints: [ '127.0.0.1:$AT' ], timeouts: { body_grace: 1s }, limits: { body_rate: 2MiB } PROTOCOL }
      spare: { endpoints: [ '127.0.0.1:$SPARE' ] }
    routes:
      - { path: /*, service: it }
      - { path: /cached, service: it, policies: { cache: {} } }
      - { path: /stream, service: it, stream: true }
      - { path: /whole, service: quick }
      - { path: /held, service: it, policies: { etag: { up_to: 64KiB } } }
      - { path: /held/spare, service: it, policies: { etag: { up_to: 64KiB } }, fallback: { on: [ timeout ], service: spare } }
";

fn yaml(port: u16, spare: u16, protocol: &str) -> String {
    filled(&YAML.replace("PROTOCOL", protocol), &[("$AT", port), ("$SPARE", spare)])
}

/// What comes of an answer within [`LONG`], without its head, and how long that took.
fn taken(gateway: &Gateway, path: &str) -> (usize, Duration) {
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    let began = Instant::now();
    let mut all = Vec::new();
    loop {
        let left = LONG.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => all.extend_from_slice(&buffer[..count]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(_) => {}
        }
    }
    let head = find(&all, b"\r\n\r\n").expect("a head") + 4;
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all));
    (all.len() - head, began.elapsed())
}

/// What holds whatever the service speaks.
fn assert_bounded(gateway: &Gateway) {
    for path in ["/", "/cached"] {
        let (came, took) = taken(gateway, path);
        assert!((5..100).contains(&came) && (Duration::from_millis(800)..LONG).contains(&took), "{path}: {came} in {took:?}");
        let line = gateway.wait_log(|line| line["path"] == path && line["reason"] == "answer_too_slow");
        assert_eq!((&line["status"], &line["answered_by"]), (&200.into(), &"upstream".into()), "{line}");
    }
    gateway.wait_metric("portcullis_upstream_answers_too_slow_total{service=\"it\"}", 2.0);
    for path in ["/events", "/stream"] {
        let (came, took) = taken(gateway, path);
        assert!(came > 10 && took >= LONG, "{path}: {came} in {took:?}");
        gateway.wait_log(|line| line["path"] == path && line["client_closed"] == true);
    }
    // What the client has seen nothing of can still be answered, or be had elsewhere.
    get(gateway.port(), "/held").assert_problem(504, "upstream", "answer_too_slow");
    let answer = get(gateway.port(), "/held/spare");
    assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("service")));
    let h2 = try_curl(&["--http2-prior-knowledge", &gateway.url("/")]);
    assert!(h2.is_err_and(|why| why.contains("92") || why.contains("stream")), "the stream is reset");
    // Slow is the client, and its time is its own.
    let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
    stream.write_all(b"GET /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let (mut all, mut buffer) = (0, vec![0; 256 << 10]);
    let began = Instant::now();
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            break;
        }
        all += count;
        // A quarter of it within the grace.
        if began.elapsed() < 2 * LONG {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert!(all > WHOLE && began.elapsed() > 2 * LONG, "{all} in {:?}", began.elapsed());
}

#[test]
fn an_answer_that_dribbles_is_given_up() {
    let (service, spare) = (dripping(), Backend::named("spare"));
    let gateway = Gateway::start(&yaml(service.port(), spare.port(), ""));
    assert_bounded(&gateway);
    // It can be turned off, and is by a reload.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("body_rate: 1KiB", "body_rate: 0"));
    assert_eq!(gateway.reload().0, 200);
    let (came, took) = taken(&gateway, "/");
    assert!(came > 10 && took >= LONG, "{came} in {took:?}");
}

#[test]
fn so_is_one_over_http2() {
    let service = H2Backend::start(|request, mut respond| async move {
        let path = request.uri().path();
        let kind = match path {
            "/events" => "text/event-stream",
            "/calls" => "application/grpc",
            _ => "text/plain",
        };
        let whole = path == "/whole";
        let answer = http::Response::builder().header("content-type", kind).header("cache-control", "max-age=60");
        let Ok(mut body) = respond.send_response(answer.body(()).unwrap(), false) else { return };
        if whole {
            let mut left = Bytes::from(vec![b'x'; WHOLE + 1]);
            while !left.is_empty() {
                body.reserve_capacity(left.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else { return };
                let part = left.split_to(room.min(left.len()));
                let _ = body.send_data(part, left.is_empty());
            }
            return;
        }
        loop {
            tokio::time::sleep(DRIP).await;
            if body.send_data(Bytes::from_static(b"x"), false).is_err() {
                return;
            }
        }
    });
    let spare = Backend::named("spare");
    let gateway = Gateway::start(&yaml(service.port(), spare.port(), ", protocol: http2"));
    assert_bounded(&gateway);
    let (came, took) = taken(&gateway, "/calls");
    assert!(came > 10 && took >= LONG, "{came} in {took:?}");
}

#[test]
fn rates_that_cannot_hold_are_refused() {
    let files = Files::new();
    for (service, server, said) in [
        ("timeouts: { body_grace: 0s }", "", "body_grace"),
        ("limits: { body_rate: fast }", "", "body_rate"),
        ("limits: { body_rate: ~ }", "", "body_rate"),
        ("limits: { body_rate: 1KiB }", "server: { engine: pingora }", "`limits.body_rate` cannot be had with `engine: pingora`"),
        (
            "timeouts: { body_grace: 9s }",
            "server: { engine: pingora }",
            "`timeouts.body_grace` cannot be had with `engine: pingora`",
        ),
    ] {
        let service = format!("{{ endpoints: [ '127.0.0.1:80' ], {service} }}");
        let yaml =
            "listeners: [ { bind: '127.0.0.1:8123' } ]\nservices: { it: SERVICE }\nroutes: [ { path: /*, service: it } ]\n";
        files.write("bad.yaml", format!("{}{server}\n", yaml.replace("SERVICE", &service)));
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains(said), "{service}: {told}");
    }
}

/// What has begun well, and comes to nothing before its client has seen any of it, is an error of the service as any other.
#[test]
fn a_stale_answer_stands_for_one_that_is_given_up() {
    let service = Backend::scripted(|mut stream| {
        loop {
            let mut read = Vec::new();
            while find(&read, b"\r\n\r\n").is_none() {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => read.extend_from_slice(&buffer[..count]),
                    _ => return,
                }
            }
            let asked = String::from_utf8_lossy(&read).to_ascii_lowercase();
            let length = if asked.contains("x-good") { 4 } else { 1000 };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nCache-Control: max-age=1\r\n\r\n");
            let mut sent = stream.write_all(format!("{head}good").as_bytes());
            if asked.contains("/breaks") && length > 4 {
                return;
            }
            while sent.is_ok() && length > 4 {
                std::thread::sleep(DRIP);
                sent = stream.write_all(b"x");
            }
        }
    });
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$AT' ], timeouts: { body_grace: 1s }, limits: { body_rate: 1KiB }, retries: { attempts: 0 } }
        routes:
          - path: /*
            service: it
            policies: { cache: { stale_if_error: 1h }, etag: { up_to: 64KiB }, response_headers: { add: { X-A: '1' } } }
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$AT", service.port())]));
    for path in ["/slow", "/breaks"] {
        assert_eq!(request(gateway.port(), "GET", path, &[("X-Good", "1")], b"").text(), "good");
        let fresh = || request(gateway.port(), "GET", path, &[("Cache-Control", "only-if-cached")], b"").status == 200;
        eventually("it expires", || !fresh());
        let stale = get(gateway.port(), path);
        let said = stale.header("cache-status").unwrap_or_default();
        assert_eq!((stale.status, stale.text()), (200, "good".to_owned()), "{path} {:?}", stale.headers);
        assert!(said.starts_with("portcullis; fwd=stale; ttl=") && said.ends_with("detail=stale-if-error"), "{said}");
        assert_eq!(stale.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-a")).count(), 1, "{:?}", stale.headers);
        let why = if path == "/slow" { "answer_too_slow" } else { "connection_lost" };
        gateway.wait_log(|line| line["path"] == path && line["cache"] == "stale" && line["decided_by"] == why);
    }
}
