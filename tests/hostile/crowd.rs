//! One client that would have everything: places, memory, the services' connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::http2::{Client as H2, borrowed, request};
use super::wire::*;
use crate::harness::{Backend, Client, Gateway, eventually, filled};

/// A connection from another loopback address.
fn from(last: u8, port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The one answer that comes to these bytes, as status and reason.
fn told(stream: &mut TcpStream, bytes: &[u8]) -> (u16, String) {
    let talk = ask(stream, bytes, 1);
    match &talk.replies().unwrap()[..] {
        [reply] => (reply.status, reply.reason()),
        _ => panic!("{}", talk.show()),
    }
}

fn get(target: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n").into_bytes()
}

/// A backend that answers once it is told to, but `/now` at once.
fn held() -> (Backend, std::sync::mpsc::Sender<()>) {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::answering(move |request| {
        if request.target != "/now" {
            let _ = wait.lock().unwrap().recv();
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    (backend, release)
}

#[test]
fn one_address_cannot_take_every_place() {
    let (backend, release) = held();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2, max_in_flight: 8 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let busy = |places: f64| gateway.wait_metric("portcullis_in_flight", places);
    // Half of the places at most: two over HTTP/1.1 and two streams of one connection.
    let mut open: Vec<_> = (0..2).map(|_| connect(gateway.port())).collect();
    open.iter_mut().for_each(|stream| stream.write_all(&get("/slow", "")).unwrap());
    let mut h2 = H2::connect(gateway.port());
    for stream in [1, 3] {
        assert!(h2.headers(stream, &borrowed(&request("GET", &[(":path", "/slow")], &[])), true));
    }
    busy(4.0);
    let mut more = connect(gateway.port());
    for _ in 0..3 {
        assert_eq!(told(&mut more, &get("/now", "")), (429, "too_many_in_flight".to_owned()), "and it keeps its connection");
    }
    assert!(h2.headers(5, &borrowed(&request("GET", &[(":path", "/now")], &[])), true));
    assert_eq!(h2.answer(5, SOON).problem(), (429, "too_many_in_flight".to_owned()));
    let line = gateway.wait_log(|line| line["reason"] == "too_many_in_flight");
    assert_eq!((&line["status"], &line["answered_by"]), (&429.into(), &"door".into()));
    assert!(gateway.metric("portcullis_refusals_total{policy=\"door\",reason=\"too_many_in_flight\"}") >= 4.0);
    // Whoever else comes is served.
    assert_eq!(told(&mut from(2, gateway.port()), &get("/now", "")).0, 200);
    // Four times, and the places of streams and of connections are there again.
    (0..4).for_each(|_| release.send(()).unwrap());
    busy(0.0);
    assert_eq!(told(&mut more, &get("/now", "")).0, 200);
    still_well(&gateway);
}

#[test]
fn behind_a_proxy_each_client_has_a_share_of_its_own() {
    let (backend, _release) = held();
    let yaml = "
        listeners:
          - { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1 ] }
          - { bind: 127.0.0.1:$PORT2, proxy_protocol: { trusted: [ 127.0.0.1 ] } }
        server: { workers: 2, max_in_flight: 9, max_in_flight_per_address: 2 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let client = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(gateway.port());
        stream.write_all(&get("/slow", &client("2001:db8::1"))).unwrap();
        open.push(stream);
    }
    gateway.wait_metric("portcullis_in_flight", 2.0);
    // One connection of the proxy's, one client after the other.
    let mut shared = connect(gateway.port());
    let refused = (429, "too_many_in_flight".to_owned());
    assert_eq!(told(&mut shared, &get("/now", &client("2001:db8::ffff"))), refused, "a /64 is one client");
    assert_eq!(told(&mut shared, &get("/now", &client("192.0.2.1"))).0, 200);
    // As the PROXY protocol tells it, it is the same client.
    let mut told_by_header = connect(gateway.port2());
    told_by_header.write_all(b"PROXY TCP6 2001:db8::9 2001:db8::1 8080 80\r\n").unwrap();
    assert_eq!(told(&mut told_by_header, &get("/now", "")), refused);
    // What the proxy asks in its own name is not counted by address.
    for _ in 0..5 {
        let mut stream = connect(gateway.port());
        stream.write_all(&get("/slow", "")).unwrap();
        open.push(stream);
    }
    gateway.wait_metric("portcullis_in_flight", 7.0);
    assert_eq!(told(&mut connect(gateway.port()), &get("/now", "")).0, 200);
    still_well(&gateway);
}

#[test]
fn a_client_that_sends_no_body_takes_no_place() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2, max_in_flight: 2, max_in_flight_per_address: 100 }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND }
          - { path: /json, service: 127.0.0.1, port: $BACKEND, policies: { validate: { json: true } } }
          - { path: /whole, service: 127.0.0.1, port: $BACKEND, buffer_request: true }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let mut open = Vec::new();
    for (path, sent) in [("/plain", ""), ("/plain", "{"), ("/json", "{"), ("/whole", "{"), ("/json", "")] {
        let mut stream = connect(gateway.port());
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{sent}");
        stream.write_all(head.as_bytes()).unwrap();
        open.push((stream, sent));
    }
    let mut h2 = H2::connect(gateway.port());
    let post = request("POST", &[(":path", "/json")], &[("content-type", "application/json")]);
    assert!(h2.headers(1, &borrowed(&post), false) && h2.data(1, b"{", false));
    gateway.wait_metric("portcullis_in_flight", 6.0);
    for _ in 0..3 {
        assert_eq!(told(&mut connect(gateway.port()), &get("/x", "")).0, 200, "there are two places, and nobody has one");
    }
    for (stream, sent) in &mut open {
        stream.write_all(&br#"{"a": 12}"#[sent.len()..]).unwrap();
        assert_eq!(told(stream, b"").0, 200, "and those who go on are served");
    }
    assert!(h2.data(1, b"}", true));
    assert!(h2.answer(1, SOON).ended);
    still_well(&gateway);
}

#[test]
fn a_body_has_a_least_rate_over_its_whole_length() {
    let backend = Backend::http();
    let yaml = "
        listeners:
          - bind: 127.0.0.1:$PORT
            h2c: true
            timeouts: { body: 20s, body_grace: 500ms }
            limits: { body_rate: 1KiB }
        server: { workers: 2 }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND }
          - { path: /json, service: 127.0.0.1, port: $BACKEND, policies: { validate: { json: true } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let slow = (408, "body_timeout".to_owned());
    for path in ["/plain", "/json"] {
        for (framing, drip) in [("Content-Length: 90000", &b" "[..]), ("Transfer-Encoding: chunked", b"1\r\n \r\n")] {
            let mut stream = connect(gateway.port());
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let since = Instant::now();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut heard = [0; 1];
            // Never silent, and never fast enough.
            while stream.peek(&mut heard).is_err() {
                assert!(since.elapsed() < SOON, "{path} {framing}: still read after {:?}", since.elapsed());
                let _ = stream.write_all(drip);
            }
            assert_eq!(told(&mut stream, b""), slow, "{path} {framing}");
            assert!(since.elapsed() >= Duration::from_millis(450), "{:?}", since.elapsed());
        }
        let mut h2 = H2::connect(gateway.port());
        let post = request("POST", &[(":path", path)], &[("content-type", "application/json")]);
        assert!(h2.headers(1, &borrowed(&post), false));
        let since = Instant::now();
        let answer = loop {
            assert!(h2.data(1, b" ", false) && since.elapsed() < SOON);
            let answer = h2.answer(1, Duration::from_millis(20));
            if answer.ended || answer.broken.is_some() {
                break answer;
            }
        };
        assert_eq!(answer.problem(), (408, slow.1.clone()), "{path}");
    }
    // A body over the rate takes longer than the grace, and comes whole.
    let mut stream = connect(gateway.port());
    stream.write_all(b"POST /fine HTTP/1.1\r\nHost: a\r\nContent-Length: 8000\r\n\r\n").unwrap();
    for _ in 0..20 {
        stream.write_all(&[b'x'; 400]).unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(told(&mut stream, b"").0, 200);
    assert_eq!(backend.last().body.len(), 8000);
    still_well(&gateway);
}

#[test]
fn a_backend_is_connected_to_once_a_body_has_begun() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2 }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let mut slow = Vec::new();
    for (framing, begun, rest) in [
        ("Content-Length: 5", "", "hello"),
        // Where the length is known, a byte is no beginning.
        ("Content-Length: 5", "h", "ello"),
        ("Transfer-Encoding: chunked", "", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\n", "hello\r\n0\r\n\r\n"),
    ] {
        for _ in 0..8 {
            let mut stream = connect(gateway.port());
            stream.write_all(format!("POST /slow HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{begun}").as_bytes()).unwrap();
            slow.push((stream, rest));
        }
    }
    let mut h2 = H2::connect(gateway.port());
    assert!(h2.headers(1, &borrowed(&request("POST", &[], &[])), false));
    gateway.wait_metric("portcullis_in_flight", slow.len() as f64 + 1.0);
    // Neither an empty body nor the wish to be told to go on is waited for.
    let mut fence = connect(gateway.port());
    assert_eq!(told(&mut fence, b"POST /fence HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").0, 200);
    assert_eq!(backend.connections(), 1, "32 clients that send nothing hold nothing");
    for (stream, rest) in &mut slow {
        stream.write_all(rest.as_bytes()).unwrap();
        assert_eq!(told(stream, b"").0, 200);
        assert_eq!((backend.last().body, backend.last().complete), (b"hello".to_vec(), true));
    }
    assert!(h2.data(1, b"hel", false) && h2.data(1, b"lo", true));
    assert!(h2.answer(1, SOON).ended);
    assert_eq!(backend.last().body, b"hello");
    // Where whatever comes first is all that is waited for, the service hears of it before the rest is there.
    let mut stream = connect(gateway.port());
    stream.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n").unwrap();
    stream.write_all(b"4\r\nello\r\n0\r\n\r\n").unwrap();
    assert_eq!(told(&mut stream, b"").0, 200);
    assert_eq!(backend.last().body, b"hello");
    still_well(&gateway);
}

#[test]
fn a_route_may_have_bodies_read_whole_before_its_service_is_asked() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2 }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND, buffer_request: true, policies: { bounds: { max_body: 200KiB } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let body = vec![b'x'; 100_000];
    let mut slow = connect(gateway.port());
    slow.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n").unwrap();
    slow.write_all(&body[1..]).unwrap();
    let mut h2 = H2::connect(gateway.port());
    assert!(h2.headers(1, &borrowed(&request("POST", &[], &[])), false) && h2.data(1, &body[1..], false));
    let held = || gateway.metric("portcullis_buffered_bytes");
    eventually("both bodies are in memory", || held() >= 199_998.0);
    assert!(held() < 600_000.0, "{}", held());
    assert_eq!(told(&mut connect(gateway.port()), &get("/fence", "")).0, 200);
    assert_eq!(backend.connections(), 1, "nobody else has asked");
    slow.write_all(b"x\r\n0\r\n\r\n").unwrap();
    assert_eq!(told(&mut slow, b"").0, 200);
    let seen = backend.last();
    assert_eq!(
        (seen.body.len(), seen.header("content-length"), seen.header("transfer-encoding")),
        (100_000, Some("100000"), None)
    );
    assert!(h2.data(1, b"x", true) && h2.answer(1, SOON).ended);
    assert_eq!(backend.last().body.len(), 100_000);
    let mut large = connect(gateway.port());
    let chunk = format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n{}", "x".repeat(0x40000));
    assert_eq!(told(&mut large, chunk.as_bytes()), (413, "body_too_large".to_owned()));
    // A client that waits for the word to send gets it from here.
    let mut waits = Client::connect(gateway.port());
    waits.send("PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let mut word = [0; 25];
    waits.stream().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    waits.send("ok");
    assert_eq!(waits.answer_to("PUT").status, 200);
    eventually("all of it is given back", || held() == 0.0);
    still_well(&gateway);
}

#[test]
fn bodies_together_take_no_more_memory_than_they_may() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2, buffered_bytes: 1MiB, buffered_bytes_per_address: 600KiB }
        routes:
          - { path: /json, service: 127.0.0.1, port: $BACKEND, policies: { validate: { json: true } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let head = "POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 250001\r\n\r\n";
    let begin = |stream: &mut TcpStream| {
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[b' '; 250_000]).unwrap();
    };
    let held = || gateway.metric("portcullis_buffered_bytes");
    let mut first: Vec<_> = (0..2).map(|_| connect(gateway.port())).collect();
    first.iter_mut().for_each(begin);
    eventually("two are in memory", || held() >= 500_000.0);
    // The address has had its share, over whatever protocol and framing; others have theirs.
    let mut third = connect(gateway.port());
    begin(&mut third);
    assert_eq!(told(&mut third, b""), (503, "body_budget".to_owned()));
    let mut h2 = H2::connect(gateway.port());
    let post = request("POST", &[(":path", "/json")], &[("content-type", "application/json")]);
    assert!(h2.headers(1, &borrowed(&post), false) && h2.data(1, &[b' '; 200_000], false));
    assert_eq!(h2.answer(1, SOON).problem(), (503, "body_budget".to_owned()));
    let mut other = from(2, gateway.port());
    begin(&mut other);
    eventually("and one of another address", || held() >= 750_000.0);
    let mut last = from(3, gateway.port());
    begin(&mut last);
    eventually("and the last that fits", || held() >= 1_000_000.0);
    let mut one_more = from(4, gateway.port());
    begin(&mut one_more);
    assert_eq!(told(&mut one_more, b"").1, "body_budget", "there is none left for all together");
    assert!(held() <= f64::from(1 << 20));
    let line = gateway.wait_log(|line| line["reason"] == "body_budget");
    assert_eq!(line["status"], 503);
    assert!(gateway.metric("portcullis_refusals_total{policy=\"door\",reason=\"body_budget\"}") >= 3.0);
    // Whole bodies are served, and what breaks off gives back what it held.
    for stream in &mut first {
        assert_eq!(told(stream, b"1").0, 200);
    }
    drop((other, last, one_more, h2));
    eventually("all of it is given back", || held() == 0.0);
    still_well(&gateway);
}

#[test]
fn a_body_is_read_once_the_client_is_known() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2 }
        consumers:
          - { name: known, api_keys: [ { hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' } ] }
        routes:
          - path: /json
            service: 127.0.0.1
            port: $BACKEND
            policies: { validate: { json: true, content_types: [ application/json ] }, authn: { api_key: {} }, authz: { consumers: [ known ] } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let head = |kind: &str, more: &str| {
        format!("POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{more}Content-Length: 10000\r\n\r\n")
    };
    // Refused before a byte of the body has come, and what is wrong with the head is said even earlier.
    let json = "application/json";
    assert_eq!(told(&mut connect(gateway.port()), head(json, "").as_bytes()).0, 401);
    assert_eq!(told(&mut connect(gateway.port()), head("text/plain", "").as_bytes()).0, 415);
    let mut h2 = H2::connect(gateway.port());
    let post = request("POST", &[(":path", "/json")], &[("content-type", json)]);
    assert!(h2.headers(1, &borrowed(&post), false));
    assert_eq!(h2.answer(1, SOON).problem().0, 401);
    // With a key the body is looked at.
    let key = "X-API-Key: test\r\n";
    let (mut bad, mut good) = (head(json, key), head(json, key));
    bad.push_str(&"{".repeat(10_000));
    good.push_str(&format!("{}1", " ".repeat(9_999)));
    assert_eq!(told(&mut connect(gateway.port()), bad.as_bytes()).0, 400);
    assert_eq!(told(&mut connect(gateway.port()), good.as_bytes()).0, 200);
    assert_eq!(backend.requests().len(), 1);
    still_well(&gateway);
}

/// A backend that sends a byte every 50 ms, this many.
fn dripping(count: usize) -> Backend {
    Backend::scripted(move |mut stream| {
        let mut heard = Vec::new();
        let mut piece = [0; 4096];
        while find(&heard, b"\r\n\r\n").is_none() {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(read) => heard.extend_from_slice(&piece[..read]),
            }
        }
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n").as_bytes());
        for _ in 0..count {
            if stream.write_all(b"x").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    })
}

#[test]
fn steady_transfers_have_no_total_time_unless_somebody_sets_one() {
    let backend = dripping(40);
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, timeouts: { body: 1s, write: 1s } } ]
        server: { workers: 2 }
        services: { drips: { endpoints: [ 127.0.0.1:$BACKEND ], timeouts: { response: 1s } } }
        routes: [ { path: /*, service: drips } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let answer = Client::connect(gateway.port()).get("/");
    assert_eq!((answer.status, answer.body.len()), (200, 40), "twice as long as any silence may be");
}

#[test]
fn a_transfer_that_is_cut_is_logged_as_what_it_was() {
    let backend = dripping(400);
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 2 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND, timeout: 600ms } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let mut h1 = Client::connect(gateway.port());
    h1.send_request("GET", "/h1", &[], b"");
    assert!(h1.try_answer_to("GET").is_err(), "it is not whole");
    let mut h2 = H2::connect(gateway.port());
    assert!(h2.headers(1, &borrowed(&request("GET", &[(":path", "/h2")], &[])), true));
    assert!(h2.answer(1, SOON).broken.is_some());
    for path in ["/h1", "/h2"] {
        let line = gateway.wait_log(|line| line["path"] == path);
        assert_eq!(
            (&line["status"], &line["answered_by"], &line["reason"]),
            (&200.into(), &"door".into(), &"answer_broke_off".into()),
            "{line}"
        );
        assert!((1..400).contains(&line["bytes_out"].as_u64().unwrap()), "{line}");
    }
}

/// A listener that is closed, and one whose bounds change, while an HTTP/2 connection is open.
#[test]
fn http2_connections_follow_a_reload_of_their_listener() {
    let backend = Backend::http();
    let yaml = |second: &str, body: &str| {
        let yaml = "
            listeners:
              - { bind: 127.0.0.1:$PORT, h2c: true, limits: { body: BODY } }
              SECOND
            routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
        filled(&yaml.replace("SECOND", second).replace("BODY", body), &[("$BACKEND", backend.port())])
    };
    let gateway = Gateway::start(&yaml("- { bind: 127.0.0.1:$PORT2, h2c: true }", "1MiB"));
    let post = |client: &mut H2, stream: u32| {
        let sent = client.headers(stream, &borrowed(&request("POST", &[], &[("content-length", "2000")])), false);
        assert!(sent);
        client.data(stream, &[b'x'; 2000], true);
        let answer = client.answer(stream, SOON);
        (answer.ended, answer.problem())
    };
    let (mut stays, mut closes) = (H2::connect(gateway.port()), H2::connect(gateway.port2()));
    assert_eq!(post(&mut stays, 1), (true, (0, String::new())));
    assert_eq!(post(&mut closes, 1), (true, (0, String::new())));
    gateway.rewrite(&yaml("", "1KiB"));
    assert_eq!(gateway.reload().0, 200);
    // The new bound holds for the next stream of a connection that was open before.
    assert_eq!(post(&mut stays, 3).1, (413, "body_too_large".to_owned()));
    // Nobody has to ask for the other one to say farewell.
    let farewell = closes.answer(3, SOON).broken;
    assert!(farewell.as_deref().is_some_and(|why| why == "closed" || why.starts_with("GOAWAY")), "{farewell:?}");
    still_well(&gateway);
}
