//! What the gateway holds while nothing happens: connections that wait, and routes that nobody asks for.
//!
//! The bounds are those of a release build (`PORTCULLIS_BINARY=target/release/portcullis make test TESTS=memory`), and hold for a debug
//! build as well, which these tests mostly see.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use pingora_core::tls::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode};

use crate::harness::{Backend, Client, Files, Gateway, eventually, filled};

const KIB: f64 = 1024.0;

/// Resident memory in bytes.
fn resident(gateway: &Gateway) -> f64 {
    gateway.resident() as f64
}

/// The same once it does not change any more: what was needed on the way is given back by and by, on a busy machine later.
fn settled(gateway: &Gateway) -> f64 {
    let (mut before, mut same) = (0.0, 0);
    eventually("its memory does not change", || {
        let now = resident(gateway);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        same == 20
    });
    before
}

/// Opens connections that each ask once, and says what one of them holds afterwards. A first lot warms everything up.
fn held_by_each<T>(gateway: &Gateway, count: usize, open: impl Fn() -> T) -> f64 {
    let warm: Vec<T> = (0..count / 4).map(|_| open()).collect();
    let is_idle =
        |wanted: usize| eventually("every connection is idle", || gateway.metric("portcullis_connections") == wanted as f64);
    is_idle(warm.len());
    let before = settled(gateway);
    let connections: Vec<T> = (0..count).map(|_| open()).collect();
    is_idle(warm.len() + count);
    let each = (settled(gateway) - before) / count as f64;
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

/// A service that takes every WebSocket, and leaves it be: on one thread, however many there are.
fn quiet_service() -> u16 {
    let (told, tells) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap().port()).unwrap();
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut buffer = [0; 1024];
                    let _ = socket.read(&mut buffer).await;
                    let _ = socket.write_all(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
                    // Until it is closed.
                    while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                });
            }
        });
    });
    tells.recv().unwrap()
}

/// `make bench-websockets` opens 10,000 of them, from other processes.
#[test]
fn an_idle_websocket_holds_little() {
    let count = 1000;
    let service = quiet_service();
    // It holds 15.2 and 15.4 in a debug build, and up to 16 where other tests take the machine's time.
    for (rules, bound) in [("false", 18.0), ("{ max_message: 64KiB, messages: 100/s, idle: 1h, ping: 1m }", 18.0)] {
        let gateway = Gateway::start(
            &filled(
                "
                listeners: [ { bind: '127.0.0.1:$PORT', max_connections: 20000, max_connections_per_address: 20000 } ]
                server: { max_in_flight: 20000, max_in_flight_per_address: 20000 }
                services: { quiet: { endpoints: [ '127.0.0.1:$SERVICE' ] } }
                routes: [ { path: /*, service: quiet, policies: { websocket: $RULES } } ]
                ",
                &[("$SERVICE", service)],
            )
            .replace("$RULES", rules),
        );
        let open = || {
            let mut client = Client::connect(gateway.port());
            client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            assert_eq!(client.answer_to("GET").status, 101);
            client
        };
        let are_open = |count: usize| {
            eventually("all are open", || gateway.metric("portcullis_websockets_open{route=\"/*\"}") == count as f64);
        };
        let warm: Vec<_> = (0..200).map(|_| open()).collect();
        // It is asked for its metrics before as well: that takes memory of its own.
        are_open(warm.len());
        let before = settled(&gateway);
        let all: Vec<_> = (0..count).map(|_| open()).collect();
        are_open(all.len() + warm.len());
        let each = (settled(&gateway) - before) / count as f64;
        eprintln!("{:.1} KiB per idle WebSocket of {count}, both of its connections, with {rules}", each / KIB);
        assert!(each < bound * KIB, "an idle WebSocket holds {:.1} KiB with {rules}", each / KIB);
    }
}

/// `make bench-bulk` moves 4 GiB each way.
#[test]
fn a_body_of_any_length_takes_constant_memory() {
    const PIECE: usize = 1 << 20;
    let pieces: usize = std::env::var("PORTCULLIS_BULK_MIB").ok().and_then(|count| count.parse().ok()).unwrap_or(512);
    let backend = Backend::scripted(move |mut stream| {
        let mut seen = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => seen.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let end = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if let Some(length) = length {
            let mut left = length - (seen.len() - end);
            while left > 0 {
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => left -= count,
                    _ => return,
                }
            }
            let text = length.to_string();
            let _ = stream.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes());
            return;
        }
        let _ = stream.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", pieces * PIECE).as_bytes());
        let piece = vec![b'd'; PIECE];
        for _ in 0..pieces {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true, limits: { body: 8GiB } } ]
        services: { backend: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /*, service: backend } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    let whole = (pieces * PIECE).to_string();
    let moves = |version: &str, length: usize, up: bool| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "280", version, &gateway.url("/bulk")]);
        if up {
            // Of nothing but zeros, and no blocks on the disk.
            let file = gateway.files().dir().join("bulk");
            std::fs::File::create(&file).unwrap().set_len(length as u64).unwrap();
            curl.arg("-T").arg(file);
        } else {
            curl.args(["-o", "/dev/null", "-w", "%{size_download}"]);
        }
        let said = curl.output().unwrap();
        assert!(said.status.success(), "{version} up: {up}");
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            if up { length.to_string() } else { whole.clone() },
            "{version} up: {up}"
        );
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        moves(version, PIECE, true);
        // From here on the peak is of what follows.
        std::fs::write(format!("/proc/{}/clear_refs", gateway.pid()), "5").unwrap();
        let before = resident(&gateway);
        for up in [true, false] {
            moves(version, pieces * PIECE, up);
            let grown = (gateway.most_resident() as f64 - before) / KIB / KIB;
            eprintln!("{grown:.1} MiB more at the peak of {pieces} MiB, {version}, up: {up}");
            assert!(grown < 32.0, "{grown:.1} MiB more, {version}, up: {up}");
        }
    }
}
