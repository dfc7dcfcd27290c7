//! What the gateway holds while nothing happens: connections that wait, and routes that nobody asks for.
//!
//! The bounds are those of a release build (`PORTCULLIS_BINARY=target/release/portcullis make test TESTS=memory`), and hold for a debug
//! build as well, which these tests mostly see.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pingora_core::tls::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode};

use crate::harness::{Backend, Client, Files, Gateway, eventually, filled};

const KIB: f64 = 1024.0;

/// Resident memory in bytes.
fn resident(gateway: &Gateway) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * KIB
}

/// Opens connections that each ask once, and says what one of them holds afterwards. A first lot warms everything up.
fn held_by_each<T>(gateway: &Gateway, count: usize, open: impl Fn() -> T) -> f64 {
    let warm: Vec<T> = (0..count / 4).map(|_| open()).collect();
    let is_idle =
        |wanted: usize| eventually("every connection is idle", || gateway.metric("portcullis_connections") == wanted as f64);
    is_idle(warm.len());
    std::thread::sleep(Duration::from_millis(200));
    let before = resident(gateway);
    let connections: Vec<T> = (0..count).map(|_| open()).collect();
    is_idle(warm.len() + count);
    std::thread::sleep(Duration::from_millis(200));
    let each = (resident(gateway) - before) / count as f64;
    drop(connections);
    each
}

#[test]
fn an_idle_connection_holds_little() {
    let backend = Backend::http();
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', max_connections_per_address: 5000 } ]
        services: { backend: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: backend } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    let each = held_by_each(&gateway, 800, || {
        let mut client = Client::connect(gateway.port());
        assert_eq!(client.request("GET", "/a", &[], b"").status, 200);
        client
    });
    eprintln!("{:.1} KiB per idle connection", each / KIB);
    assert!(each < 8.0 * KIB, "an idle connection holds {:.1} KiB", each / KIB);
}

#[test]
fn an_idle_tls_connection_holds_little() {
    holds_over_tls("X25519");
}

/// OpenSSL keeps the keys of the exchange for as long as the connection, and those are larger where they are to withstand quantum
/// computers.
#[test]
fn an_idle_tls_connection_with_post_quantum_keys_holds_little() {
    holds_over_tls("X25519MLKEM768");
}

fn holds_over_tls(groups: &str) {
    let bound = if cfg!(feature = "boringssl") { 15.0 } else { 37.0 };
    let backend = Backend::http();
    let files = Files::new();
    files.certificate(&["localhost"]);
    let gateway = Gateway::start_in(
        &files,
        &filled(
            "
            listeners:
              - { bind: '127.0.0.1:$PORT', tls: { certificates: [ { cert: cert0.pem, key: key0.pem } ] }, max_connections_per_address: 5000 }
            services: { backend: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
            routes: [ { path: /*, service: backend } ]
            ",
            &[("$BACKEND", backend.port())],
        ),
    );
    // Without the system's authorities, which take a while to read.
    let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    #[cfg(not(feature = "boringssl"))]
    context.set_groups_list(groups).unwrap();
    #[cfg(feature = "boringssl")]
    context.set_curves_list(groups).unwrap();
    let context = context.build();
    let each = held_by_each(&gateway, 1600, || secured(&context, gateway.port()));
    eprintln!("{:.1} KiB per idle TLS connection, {groups}", each / KIB);
    assert!(each < bound * KIB, "an idle TLS connection holds {:.1} KiB", each / KIB);
}

fn secured(context: &SslContext, port: u16) -> SslStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // Without Nagle's algorithm, as browsers and curl: the request follows the handshake's last message, which needs no answer.
    stream.set_nodelay(true).unwrap();
    let mut stream = Ssl::new(context).unwrap().connect(stream).unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"}") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "closed after {}", answer.escape_ascii());
        answer.extend_from_slice(&buffer[..count]);
    }
    stream
}

#[test]
fn ten_thousand_routes_fit() {
    let with = |count: usize| {
        let mut yaml =
            "listeners: [ { bind: '127.0.0.1:$PORT' } ]\nservices: { backend: { endpoints: [ '127.0.0.1:9' ] } }\nroutes:\n"
                .to_owned();
        for number in 0..count {
            writeln!(yaml, "  - {{ path: '/r{number}/{{id}}/*', service: backend }}").unwrap();
        }
        let gateway = Gateway::start(&yaml);
        assert_eq!(Client::connect(gateway.port()).request("GET", "/nowhere", &[], b"").status, 404);
        resident(&gateway)
    };
    let more = with(10_000) - with(1);
    eprintln!("{:.1} MiB for 10,000 routes", more / KIB / KIB);
    assert!(more < 50.0 * KIB * KIB, "10,000 routes hold {:.1} MiB", more / KIB / KIB);
}
