//! One client that connects without end, or is refused without end, and what the others notice of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::*;

const REASON: &str = "max_new_connections_per_address";
const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

/// A connection from another loopback address.
fn from(last: u8, port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

/// Whether this connection is let in. One that is not is closed without a byte, and without waiting for one.
fn is_served(mut stream: &TcpStream, before: &[u8]) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = Vec::new();
    // A connection that is closed may break the writing.
    let _ = stream.write_all(&[before, GET].concat());
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => answer.extend_from_slice(&piece[..count]),
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("neither served nor closed: {error}"),
        }
        if find(&answer, b"\r\n\r\n").is_some() {
            break;
        }
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    !answer.is_empty()
}

fn yaml(backend: &Backend, more: &str) -> String {
    format!(
        "
        listeners: [ {{ name: public, bind: '127.0.0.1:$PORT'{more} }} ]
        server: {{ workers: 2 }}
        routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
        ",
        backend.port()
    )
}

#[test]
fn a_flood_from_one_address_is_closed_while_others_connect_freely() {
    let backend = Backend::http();
    let gateway = Gateway::start(&yaml(&backend, &format!(", {REASON}: 6/minute")));
    let refused = || gateway.metric(&format!("portcullis_connections_refused_total{{listener=\"public\",reason=\"{REASON}\"}}"));
    let mut first = Client::connect(gateway.port());
    let began = Instant::now();
    let served = (0..60).filter(|_| is_served(&from(1, gateway.port()), b"")).count();
    assert_eq!(served, 5, "the sixth connection is the client's own");
    eventually("each is counted", || refused() == 55.0);
    for other in 2..8 {
        assert!(is_served(&from(other, gateway.port()), b""));
    }
    assert_eq!(first.get("/x").status, 200, "what is open goes on");
    let lines = gateway.stderr().lines().filter(|line| line.contains(REASON)).count();
    assert!((1..=2 + began.elapsed().as_secs() as usize).contains(&lines), "at most one a second: {}", gateway.stderr());
    assert!(gateway.stderr().contains("listener public: closed a new connection from 127.0.0.1"), "{}", gateway.stderr());

    // A reload that changes something else forgets nothing.
    gateway.rewrite(&yaml(&backend, &format!(", {REASON}: 6/minute, max_connections: 60")));
    assert_eq!(gateway.reload().0, 200);
    assert!(!is_served(&from(1, gateway.port()), b""));
    assert!(is_served(&from(9, gateway.port()), b""));
    // Twice as many: those that it has had already count.
    gateway.rewrite(&yaml(&backend, &format!(", {REASON}: 12/minute")));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((0..20).filter(|_| is_served(&from(1, gateway.port()), b"")).count(), 6);
    gateway.rewrite(&yaml(&backend, ""));
    assert_eq!(gateway.reload().0, 200);
    assert!((0..20).all(|_| is_served(&from(1, gateway.port()), b"")));
}

#[test]
fn who_is_too_quick_is_not_even_greeted_by_tls() {
    let backend = Backend::http();
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["a.test"]);
    let tls = format!(", tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}", cert.display(), key.display());
    let gateway = Gateway::start_in(&files, &yaml(&backend, &format!("{tls}, {REASON}: 2/minute")));
    let open: Vec<_> = (0..2).map(|_| from(1, gateway.port())).collect();
    eventually("they are let in", || gateway.metric("portcullis_connections{listener=\"public\"}") == 2.0);
    assert!(!is_served(&from(1, gateway.port()), b""));
    let resolve = format!("a.test:{}:127.0.0.1", gateway.port());
    let url = format!("https://a.test:{}/", gateway.port());
    let cert = cert.display().to_string();
    assert!(try_curl(&["--cacert", &cert, "--resolve", &resolve, &url]).is_err());
    let other = curl(&["--interface", "127.0.0.3", "--cacert", &cert, "--resolve", &resolve, &url]);
    assert_eq!(other.status, 200);
    drop(open);
}

#[test]
fn an_ipv6_client_is_its_slash_64_and_a_proxy_is_not_counted() {
    let backend = Backend::http();
    let yaml = format!(
        "
        listeners:
          - {{ bind: '[::1]:$PORT', {REASON}: 3/minute }}
          - {{ bind: '127.0.0.1:$PORT2', {REASON}: 3/minute, proxy_protocol: {{ trusted: [ 127.0.0.1 ], required: false }} }}
          - {{ bind: '127.0.0.1:$PORT3', {REASON}: 3/minute, trusted_proxies: [ 127.0.0.1 ] }}
        routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
        ",
        backend.port()
    );
    let gateway = Gateway::start(&yaml);
    let six = || TcpStream::connect(("::1", gateway.port())).unwrap();
    assert_eq!((0..9).filter(|_| is_served(&six(), b"")).count(), 3);
    let header = |client: &str| format!("PROXY TCP6 {client} 2001:db8::1 8080 80\r\n").into_bytes();
    let told = |client: &str| is_served(&from(1, gateway.port2()), &header(client));
    let served = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:f::3", "2001:db8::4", "2001:db8::5"].map(told);
    assert_eq!(served, [true, true, true, false, false], "a /64 is one client");
    assert!(told("2001:db8:0:1::1") && told("2001:db8:0:2::1"));
    // Who comes directly is counted once.
    assert_eq!((0..9).filter(|_| is_served(&from(2, gateway.port2()), b"")).count(), 3);
    assert!((0..9).all(|_| is_served(&from(1, gateway.port3()), b"")));
    assert_eq!((0..9).filter(|_| is_served(&from(2, gateway.port3()), b"")).count(), 3);
}

#[test]
fn check_says_what_is_wrong_with_a_rate() {
    let folder = Files::new();
    for (rate, told) in [
        ("100/hour", "`max_new_connections_per_address` counts over at most 1m"),
        ("0/s", "lets nothing pass"),
        ("100", "expected"),
        ("false", "expected"),
    ] {
        let yaml = format!("listeners: [ {{ bind: ':8080', {REASON}: {rate} }} ]\nroutes: []\n");
        folder.write("gateway.yaml", yaml);
        let ran = portcullis(folder.dir(), &["check", "gateway.yaml"]);
        assert!(ran.code != 0 && [&*ran.stdout, &ran.stderr].concat().contains(told), "{rate}: {ran:?}");
    }
    for (sampling, told) in [("5/hour", "`refusals_per_client` counts over at most 1m"), ("true", "expected")] {
        folder.write(
            "gateway.yaml",
            format!("listeners: [ {{ bind: ':8080' }} ]\nroutes: []\naccess_log: {{ refusals_per_client: {sampling} }}\n"),
        );
        let ran = portcullis(folder.dir(), &["check", "gateway.yaml"]);
        assert!(ran.code != 0 && [&*ran.stdout, &ran.stderr].concat().contains(told), "{sampling}: {ran:?}");
    }
}

#[test]
fn a_flood_of_refusals_leaves_room_in_the_log() {
    let backend = Backend::http();
    let yaml = |sampling: &str| {
        format!(
            "
            listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, trusted_proxies: [ 127.0.0.1 ] }} ]
            access_log: {{ output: {{ file: access.log }}, refusals_per_client: {sampling} }}
            server: {{ workers: 2 }}
            routes: [ {{ path: /served, service: 127.0.0.1, port: {} }} ]
            ",
            backend.port()
        )
    };
    let gateway = Gateway::start(&yaml("10/2s"));
    let mut proxy = Client::connect(gateway.port());
    let mut ask = |client: &str, path: &str| proxy.request("GET", path, &[("X-Forwarded-For", client)], b"").status;
    let began = Instant::now();
    for _ in 0..300 {
        assert_eq!(ask("192.0.2.1", "/nowhere"), 404);
    }
    assert_eq!((ask("192.0.2.1", "/served"), ask("192.0.2.2", "/nowhere")), (200, 404));
    let at_most = 15 + 10 * (began.elapsed().as_secs() as usize / 2);
    gateway.wait_log(|line| line["client"] == "192.0.2.2" && line["status"] == 404);
    gateway.wait_log(|line| line["client"] == "192.0.2.1" && line["status"] == 200);
    let of = |client: &str| {
        gateway.log().into_iter().filter(|line| line["client"] == client && line["status"] == 404).collect::<Vec<_>>()
    };
    let written = of("192.0.2.1").len();
    assert!((10..=at_most).contains(&written), "{written}");
    let suppressed = || gateway.metric("portcullis_access_log_suppressed_total");
    eventually("all are accounted for", || of("192.0.2.1").len() as f64 + suppressed() == 300.0);
    assert_eq!(gateway.metric("portcullis_refusals_total{reason=\"no_route\"}"), 301.0, "the metrics leave nothing out");
    // The next line tells of those before it.
    eventually("a line is written again", || {
        ask("192.0.2.1", "/nowhere");
        of("192.0.2.1").iter().any(|line| line["suppressed"].as_u64() > Some(0))
    });
    let untold = |lines: &[serde_json::Value]| lines.iter().filter_map(|line| line["suppressed"].as_u64()).sum::<u64>();
    assert!(untold(&of("192.0.2.1")) as f64 <= suppressed());
    // Every line, where that is asked for.
    gateway.rewrite(&yaml("false"));
    assert_eq!(gateway.reload().0, 200);
    for _ in 0..50 {
        assert_eq!(ask("192.0.2.3", "/nowhere"), 404);
    }
    eventually("every line is there", || of("192.0.2.3").len() == 50);
}
