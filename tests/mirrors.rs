//! Copies of requests: what they are, what is compared, and that nobody is harmed by them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::harness::{Backend, Client, Files, Gateway, Port, eventually, filled, get, portcullis, request};
use crate::protocols::peer::{Peer, play};

fn config(main: u16, shadow: u16, mirror: &str) -> String {
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services:
          main: { endpoints: [ '127.0.0.1:$MAIN' ] }
          shadow: { endpoints: [ '127.0.0.1:$SHADOW' ], timeouts: { connect: 300ms } }
        routes:
          - { path: /cached, service: main, policies: { cache: { ttl: 1h }, mirror: { service: shadow } } }
          - { path: /*, service: main, policies: { mirror: { service: shadow, MORE } } }
    ";
    filled(yaml, &[("$MAIN", main), ("$SHADOW", shadow)]).replace(", MORE", &format!(", {mirror}")).replace(",  }", " }")
}

fn copies(gateway: &Gateway, outcome: &str, count: u64) {
    gateway.wait_metric(&format!("portcullis_mirrored_requests_total{{outcome=\"{outcome}\"}}"), count as f64);
}

#[test]
fn a_copy_is_what_the_service_gets_and_says_that_it_is_one() {
    let (main, shadow) = (Backend::http(), Backend::http());
    let gateway = Gateway::start(&config(main.port(), shadow.port(), "share: 100%"));
    let mut client = Client::connect(gateway.port());
    let mut sent = 0;
    for (method, body) in [("GET", &b""[..]), ("POST", b"hello"), ("PUT", &[b'x'; 60_000])] {
        let answer = client.request(method, "/orders?a=1", &[("X-Own", "1"), ("Cookie", "c=1")], body);
        assert_eq!(answer.status, 200);
        sent += 1;
        copies(&gateway, "answered", sent);
        let (original, copy) = (main.last(), shadow.last());
        assert_eq!((&copy.method, &copy.target, &copy.body), (&original.method, &original.target, &original.body));
        for name in ["host", "x-own", "cookie", "x-request-id", "traceparent", "x-forwarded-for", "content-length"] {
            assert_eq!(copy.all(name), original.all(name), "{name}");
        }
        assert_eq!((copy.header("x-portcullis-mirror"), original.header("x-portcullis-mirror")), (Some("1"), None));
    }
    assert_eq!(shadow.connections(), 1, "its connection is kept");
    // In chunks, and over HTTP/2.
    client.send("POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.answer_to("POST").status, 200);
    copies(&gateway, "answered", sent + 1);
    assert_eq!(shadow.last().body, b"abcde");
    let answer = crate::harness::curl(&["--http2-prior-knowledge", "-d", "over h2", &gateway.url("/h2")]);
    assert_eq!(answer.status, 200);
    copies(&gateway, "answered", sent + 2);
    assert_eq!(shadow.last().body, b"over h2");
}

#[test]
fn credentials_go_along_only_as_the_route_says() {
    let (main, shadow) = (Backend::http(), Backend::http());
    // The SHA-256 of `top-secret-key`.
    let hash = "sha256:2534d1b4c0d0112e35cb5e38503cbdc8a69fd89574258214f5e3f8431b0272c9";
    let yaml = config(main.port(), shadow.port(), "share: 100%")
        .replace("mirror: { service: shadow, share", "authn: { api_key: {} }, mirror: { service: shadow, share")
        .replace(
            "        services:",
            &format!("        consumers: [ {{ name: friend, api_keys: [ {{ hash: '{hash}' }} ] }} ]\n        services:"),
        );
    let gateway = Gateway::start(&yaml);
    assert_eq!(request(gateway.port(), "GET", "/x", &[("X-API-Key", "top-secret-key")], b"").status, 200);
    copies(&gateway, "answered", 1);
    let copy = shadow.last();
    assert!(!copy.head_text().contains("top-secret-key"), "{}", copy.head_text());
    assert_eq!(copy.header("x-consumer-name"), Some("friend"));
    assert_eq!(get(gateway.port(), "/x").status, 401);
    assert_eq!(shadow.requests().len(), 1, "what is refused is not copied");
}

/// Refuses, hangs, never ends, hangs up: the client is answered as if nobody else was asked.
#[test]
fn a_mirror_that_fails_harms_nobody() {
    let main = Backend::http();
    let dead = Port::lease();
    let silent = Backend::scripted(|stream| {
        let mut bytes = [0; 4096];
        while (&stream).read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let endless = Backend::scripted(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(b"1\r\nx\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let rude = Backend::scripted(drop);
    for port in [dead.number(), silent.port(), endless.port(), rude.port()] {
        let gateway = Gateway::start(&config(main.port(), port, "timeout: 300ms, max_in_flight: 4"));
        let since = Instant::now();
        let mut client = Client::connect(gateway.port());
        for _ in 0..20 {
            assert_eq!(client.request("POST", "/", &[], b"body").status, 200);
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        let sum = || {
            ["answered", "failed", "dropped"]
                .map(|outcome| gateway.metric(&format!("portcullis_mirrored_requests_total{{outcome=\"{outcome}\"}}")))
                .iter()
                .sum::<f64>()
        };
        eventually("all copies are accounted for", || sum() == 20.0);
        assert!(gateway.log().iter().all(|line| line["status"] == 200 && line["service"] == "main"));
    }
}

#[test]
fn no_more_copies_are_under_way_than_may_be() {
    let main = Backend::http();
    let silent = Backend::scripted(|stream| {
        let mut bytes = [0; 4096];
        while (&stream).read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let gateway = Gateway::start(&config(main.port(), silent.port(), "timeout: 1m, max_in_flight: 3"));
    let mut client = Client::connect(gateway.port());
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    copies(&gateway, "dropped", 7);
    eventually("three are under way", || silent.connections() == 3);
    // Copies that are under way hold up neither a reload nor the end.
    assert_eq!(gateway.reload().0, 200);
    drop(client);
    let mut gateway = gateway;
    gateway.signal("TERM");
    assert!(gateway.wait_exit(Duration::from_secs(5)).success());
}

#[test]
fn who_sends_slowly_takes_no_place_and_his_time_is_not_the_services() {
    let (main, shadow) = (Backend::http(), Backend::http());
    let yaml = config(main.port(), shadow.port(), "max_in_flight: 1").replace(
        &format!("'127.0.0.1:{}' ]", main.port()),
        &format!("'127.0.0.1:{}' ], circuit_breaker: {{ slow_after: 300ms, min_requests: 100 }}", main.port()),
    );
    let gateway = Gateway::start(&yaml);
    let mut slow: Vec<_> = (0..3).map(|_| Client::connect(gateway.port())).collect();
    for client in &mut slow {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    }
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(get(gateway.port(), "/quick").status, 200);
    copies(&gateway, "answered", 1);
    for (client, sent) in slow.iter_mut().zip(2..) {
        client.send("67890");
        assert_eq!(client.answer_to("POST").status, 200);
        copies(&gateway, "answered", sent);
        assert_eq!(shadow.last().body, b"1234567890");
    }
    let upstreams: serde_json::Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    let breaker = &upstreams["services"][0]["circuit_breaker"];
    assert_eq!((&breaker["attempts"], &breaker["slow"]), (&4.into(), &0.into()), "{upstreams}");
}

#[test]
fn copies_are_charged_for_the_memory_that_they_hold() {
    let main = Backend::http();
    let silent = Backend::scripted(|stream| {
        let mut bytes = [0; 4096];
        while (&stream).read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let yaml = config(main.port(), silent.port(), "timeout: 2s, body: 1MiB, max_in_flight: 100")
        .replace("server: { workers: 1 }", "server: { workers: 1, buffered_bytes: 2MiB, buffered_bytes_per_address: 2MiB }");
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.port());
    for _ in 0..10 {
        assert_eq!(client.request("POST", "/", &[], &[b'x'; 300 << 10]).status, 200);
    }
    // What is held is held by the copies alone, and by no more of them than there is room for beside the requests themselves.
    let dropped = gateway.metric("portcullis_mirrored_requests_total{outcome=\"dropped\"}");
    assert!((4.0..=8.0).contains(&dropped), "{dropped}");
    gateway.wait_metric("portcullis_buffered_bytes", (10.0 - dropped) * f64::from(300 << 10));
    copies(&gateway, "failed", 10 - dropped as u64);
    gateway.wait_metric("portcullis_buffered_bytes", 0.0);
}

#[test]
fn what_is_too_large_or_a_stream_or_cached_is_not_copied() {
    let (main, shadow) = (Backend::http(), Backend::http());
    let gateway = Gateway::start(&config(main.port(), shadow.port(), "body: 100B"));
    let mut client = Client::connect(gateway.port());
    assert_eq!(client.request("POST", "/", &[], &[b'x'; 101]).status, 200);
    copies(&gateway, "too_large", 1);
    let chunk = "x".repeat(60);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3c\r\n{chunk}\r\n3c\r\n{chunk}\r\n0\r\n\r\n"
    ));
    assert_eq!(client.answer_to("POST").status, 200);
    copies(&gateway, "too_large", 2);
    assert_eq!(client.request("GET", "/", &[("Accept", "text/event-stream")], b"").status, 200);
    assert_eq!(client.request("GET", "/cached", &[], b"").status, 200);
    copies(&gateway, "answered", 1);
    assert_eq!(shadow.last().target, "/cached");
    assert_eq!(client.request("GET", "/cached", &[], b"").status, 200);
    assert_eq!(client.request("GET", "/last", &[], b"").status, 200);
    copies(&gateway, "answered", 2);
    let asked: Vec<_> = shadow.requests().into_iter().map(|asked| asked.target).collect();
    assert_eq!(asked, ["/cached", "/last"]);
}

#[test]
fn calls_and_websockets_are_not_copied() {
    let (shadow, grpc, socket) = (Backend::http(), Peer::start("grpc_server.py", &[]), Peer::start("ws_server.py", &[]));
    let yaml = config(grpc.port(), shadow.port(), "share: 100%").replace("main: {", "main: { protocol: grpc,");
    let gateway = Gateway::start(&yaml);
    assert_eq!(play("grpc_client.py", &["unary", &format!("127.0.0.1:{}", gateway.port())])["answer"], "hello");
    let gateway = Gateway::start(&config(socket.port(), shadow.port(), "share: 100%"));
    let facts = play("ws_client.py", &["echo", &format!("ws://127.0.0.1:{}", gateway.port())]);
    assert_eq!(facts["closed"], 1000, "{facts}");
    assert!(shadow.requests().is_empty());
}

#[test]
fn differences_are_counted_and_told_without_bodies() {
    let said =
        |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let main = Backend::answering(move |_| said("200 OK", "the private answer"));
    let shadow = Backend::answering(move |asked| match &*asked.target {
        "/same" => said("200 OK", "the private answer"),
        "/body" => said("200 OK", "another private one"),
        _ => said("500 Oops", "the private answer"),
    });
    let gateway = Gateway::start(&config(main.port(), shadow.port(), "compare: true"));
    for (path, outcome) in [("/same", "same"), ("/body", "body"), ("/status", "status")] {
        assert_eq!(get(gateway.port(), path).text(), "the private answer");
        gateway.wait_metric(&format!("portcullis_mirror_compared_total{{outcome=\"{outcome}\"}}"), 1.0);
    }
    let told = gateway.stderr();
    assert!(told.contains("mirror of `/*`: the client's answer was 200 (body "), "{told}");
    assert!(!told.contains("private"), "{told}");
}

#[test]
fn only_who_is_meant_is_copied() {
    let (main, shadow) = (Backend::http(), Backend::http());
    let when = "when: \"request.headers['x-canary'] == 'yes'\"";
    let gateway = Gateway::start(&config(main.port(), shadow.port(), when));
    let mut client = Client::connect(gateway.port());
    for (path, canary) in [("/a", "no"), ("/b", "yes"), ("/c", "")] {
        let headers: &[(&str, &str)] = if canary.is_empty() { &[] } else { &[("X-Canary", canary)] };
        assert_eq!(client.request("GET", path, headers, b"").status, 200);
    }
    copies(&gateway, "answered", 1);
    assert_eq!((shadow.requests().len(), &*shadow.last().target), (1, "/b"));
}

#[test]
fn what_cannot_be_is_said() {
    for (mirror, said) in [
        ("share: 101%", "a share such as 10% or 0.5%"),
        ("body: 2MiB", "`body` is at most 1MiB"),
        ("max_in_flight: 0", "max_in_flight"),
        ("when: '1 +'", "when"),
    ] {
        let files = Files::new();
        files.write("bad.yaml", config(1, 2, mirror).replace("$PORT", "0"));
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        assert!(ran.code != 0 && ran.stderr.contains(said), "{mirror}: {} {}", ran.stdout, ran.stderr);
    }
    let files = Files::new();
    files.write("bad.yaml", config(1, 2, "share: 1%").replace("$PORT", "8123").replace("workers: 1", "engine: pingora"));
    let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
    assert!(ran.code != 0 && ran.stderr.contains("`mirror` cannot be had with `engine: pingora`"), "{}", ran.stderr);
    files.write("bad.yaml", config(1, 2, "share: 1%").replace("$PORT", "8123").replace("service: shadow", "service: shado"));
    let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
    assert!(ran.code != 0 && ran.stderr.contains("did you mean `shadow`?"), "{}", ran.stderr);
}
