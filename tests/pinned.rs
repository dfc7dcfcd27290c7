//! What one client, or one service, can make the gateway hold by reading nothing, or by saying what it says in the smallest of pieces: at
//! real size, by what the process holds. `docs/operate/security.md` has the bounds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::runtime::Runtime;

use crate::harness::{Backend, Client, Gateway, H2Backend, eventually, filled, get, request};

const MIB: f64 = 1024.0 * 1024.0;

/// Resident memory, in MiB.
fn resident(gateway: &Gateway) -> f64 {
    gateway.resident() as f64 / MIB
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A connection whose streams have this window.
async fn connect(port: u16, window: u32) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut options = h2::client::Builder::new();
    options.initial_window_size(window).initial_connection_window_size(1 << 30).data_frame_budget(1 << 30);
    let (requests, connection) = options.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

fn ask(requests: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
    requests.send_request(request, true).unwrap().0
}

/// A service whose answers are so long, and may be cached.
fn lasting(length: usize) -> Backend {
    Backend::answering(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    })
}

#[test]
fn what_is_cached_no_more_is_held_for_slow_readers_up_to_their_share() {
    const LENGTH: usize = 1536 * 1024;
    const MANY: usize = 120;
    let backend = lasting(LENGTH);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1, cache_memory: 16MiB, buffered_bytes: 64MiB, buffered_bytes_per_address: 8MiB }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { cache: { max_body: 2MiB } } } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    assert_eq!(get(gateway.port(), "/popular").body.len(), LENGTH);
    let before = resident(&gateway);
    let runtime = runtime();
    let (popular, others, requests) = runtime.block_on(async {
        let mut requests = connect(gateway.port(), 0).await;
        let popular = ask(&mut requests, "/popular").await.unwrap().into_body();
        let mut others = Vec::new();
        for number in 0..MANY {
            others.push(ask(&mut requests, &format!("/{number}")).await.unwrap().into_body());
            if number.is_multiple_of(4) {
                let port = gateway.port();
                tokio::task::spawn_blocking(move || assert_eq!(get(port, "/popular").body.len(), LENGTH)).await.unwrap();
            }
        }
        (popular, others, requests)
    });
    let cut = || gateway.log().iter().filter(|line| line["reason"] == "answer_budget").count();
    // Of 180 MiB the cache has at most 14, and the client's share 8.
    eventually("whoever has no share left is let go", || cut() >= MANY / 2);
    let held = gateway.metric("portcullis_buffered_bytes") / MIB;
    assert!((4.0..=8.0).contains(&held), "{held} MiB");
    let grown = || resident(&gateway) - before;
    eventually("the memory is there again", || grown() < 64.0);
    let line = gateway.wait_log(|line| line["reason"] == "answer_budget");
    assert_eq!((&line["status"], &line["answered_by"]), (&200.into(), &"client".into()), "{line}");
    runtime.block_on(async {
        let mut cut = 0;
        // What is there for all may be read as slowly as anybody likes.
        for (number, mut body) in std::iter::once(popular).chain(others).enumerate() {
            match tokio::time::timeout(Duration::from_millis(100), body.data()).await {
                Err(_) => {}
                Ok(Some(Err(error))) if error.is_reset() && number > 0 => cut += 1,
                other => panic!("{number}: {other:?}"),
            }
        }
        assert!(cut >= MANY / 2, "{cut}");
    });
    // Its share is there again for others of it.
    drop(requests);
    drop(runtime);
    eventually("nothing is held", || gateway.metric("portcullis_buffered_bytes") == 0.0);
    assert_eq!(get(gateway.port(), "/popular").body.len(), LENGTH);
}

/// It is in memory once, however many read it: those of one address need not have room for it as often.
#[test]
fn what_several_slow_readers_share_is_charged_once() {
    const LENGTH: usize = 1536 * 1024;
    let backend = lasting(LENGTH);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1, cache_memory: 16MiB, buffered_bytes: 64MiB, buffered_bytes_per_address: 4MiB }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { cache: { max_body: 2MiB } } } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    // Of the host that they ask.
    let ask_anew = |method: &str| request(gateway.port(), method, "/shared", &[("Host", "a")], b"").body.len();
    assert_eq!(ask_anew("GET"), LENGTH);
    let held = || gateway.metric("portcullis_buffered_bytes");
    let runtime = runtime();
    let (mut readers, requests) = runtime.block_on(async {
        let mut requests = connect(gateway.port(), 0).await;
        let mut readers = Vec::new();
        for _ in 0..12 {
            readers.push(ask(&mut requests, "/shared").await.unwrap().into_body());
        }
        (readers, requests)
    });
    assert_eq!(held(), 0.0);
    // What is changed is asked for again, and takes the place of what they read.
    assert_eq!(ask_anew("POST"), LENGTH);
    eventually("one of them pays", || {
        assert_eq!(ask_anew("GET"), LENGTH);
        held() == LENGTH as f64
    });
    for left in (1..12).rev() {
        drop(readers.remove(0));
        eventually("one is gone", || gateway.metric("portcullis_in_flight") == f64::from(left));
    }
    eventually("the last one pays", || held() == LENGTH as f64);
    runtime.block_on(async {
        let last = tokio::time::timeout(Duration::from_millis(600), readers[0].data()).await;
        assert!(last.is_err(), "{last:?}");
    });
    assert_eq!(held(), LENGTH as f64);
    drop((readers, requests));
    eventually("nothing is held", || held() == 0.0);
    assert!(gateway.log().iter().all(|line| line["reason"] != "answer_budget"));
}

/// A client that speaks HTTP/2 by hand and never reads: its windows are as wide as can be, and its socket is small.
fn deaf(port: u16, path: &str, streams: u32) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let mut socket: TcpStream = socket.into();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection.
    bytes.extend_from_slice(b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff");
    bytes.extend_from_slice(b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0");
    for number in 0..streams {
        let path = format!("{path}{number}");
        let fields = [&[0x82, 0x86, 0x04, path.len() as u8], path.as_bytes(), &[0x01, 1, b'a']].concat();
        bytes.extend_from_slice(&[0, 0, fields.len() as u8, 1, 5]);
        bytes.extend_from_slice(&(2 * number + 1).to_be_bytes());
        bytes.extend_from_slice(&fields);
    }
    socket.write_all(&bytes).unwrap();
    socket
}

/// A service that answers in words of two bytes without end, each in a chunk of its own; and how many bytes of them it could write.
fn chatty() -> (Backend, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let backend = Backend::scripted(move |mut stream| {
        let mut seen = Vec::new();
        let mut byte = [0; 1024];
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(length @ 1..) => seen.extend_from_slice(&byte[..length]),
                _ => return,
            }
        }
        if seen.starts_with(b"GET /now") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let words = b"2\r\nhi\r\n".repeat(512);
        while stream.write_all(&words).is_ok() {
            count.fetch_add(words.len(), Ordering::Relaxed);
        }
    });
    (backend, written)
}

/// Waits until it does not rise any more.
fn settles(what: &str, count: impl Fn() -> usize) {
    let mut last = (count(), std::time::Instant::now());
    eventually(what, || {
        let now = count();
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        now > 0 && last.1.elapsed() > Duration::from_millis(700)
    });
}

#[test]
fn small_pieces_that_a_client_does_not_read_cost_no_more_than_their_bytes() {
    let (backend, written) = chatty();
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    assert_eq!(get(gateway.port(), "/now").status, 200);
    let before = resident(&gateway);
    let _deaf = deaf(gateway.port(), "/words", 24);
    eventually("all are answered", || gateway.metric("portcullis_in_flight") >= 24.0);
    settles("no more is taken of the service", || written.load(Ordering::Relaxed));
    let grown = resident(&gateway) - before;
    eprintln!("{grown:.1} MiB for 24 streams of two-byte words");
    assert!(grown < 32.0, "{grown:.1} MiB");
    assert_eq!(get(gateway.port(), "/now").status, 200);
}

/// A service that speaks HTTP/2: `/words...` is answered in frames of two bytes without end, `/now` at once, and `/wait` once it is told.
fn whispering() -> (u16, Arc<AtomicUsize>, Arc<tokio::sync::Notify>) {
    let (port, ports) = std::sync::mpsc::channel();
    let (sent, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let told = (sent.clone(), go.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            port.send(listener.local_addr().unwrap().port()).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let (sent, go) = (sent.clone(), go.clone());
                tokio::spawn(async move {
                    let mut options = h2::server::Builder::new();
                    options.enable_connect_protocol().max_send_buffer_size(4096);
                    let mut wire = options.handshake::<_, Bytes>(socket).await.unwrap();
                    while let Some(Ok((request, mut respond))) = wire.accept().await {
                        let (sent, go) = (sent.clone(), go.clone());
                        tokio::spawn(async move {
                            let answer = http::Response::new(());
                            if request.uri().path() == "/now" {
                                let _ = respond.send_response(answer, true);
                                return;
                            }
                            let mut stream = respond.send_response(answer, false).unwrap();
                            if request.uri().path() == "/wait" {
                                go.notified().await;
                                let _ = stream.send_data(Bytes::from_static(b"done"), true);
                                return;
                            }
                            // A WebSocket's text of no length, or two bytes of anything.
                            loop {
                                stream.reserve_capacity(2);
                                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                                let piece = Bytes::from_static(b"\x81\0").slice(..room.min(2));
                                let count = piece.len();
                                if stream.send_data(piece, false).is_err() {
                                    return;
                                }
                                if sent.fetch_add(count, Ordering::Relaxed).is_multiple_of(1024) {
                                    tokio::task::yield_now().await;
                                }
                            }
                        });
                    }
                });
            }
        });
    });
    (ports.recv().unwrap(), told.0, told.1)
}

#[test]
fn who_does_not_read_the_small_pieces_of_a_shared_connection_ends_nobody_elses_stream() {
    let (service, sent, go) = whispering();
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services: { whispering: { endpoints: [ '127.0.0.1:$SERVICE' ], protocol: http2 } }
        routes: [ { path: /*, service: whispering } ]
        ",
        &[("$SERVICE", service)],
    ));
    let mut neighbour = Client::connect(gateway.port());
    assert_eq!(neighbour.get("/now").status, 200);
    neighbour.send_request("GET", "/wait", &[], b"");
    let before = resident(&gateway);
    let runtime = runtime();
    for upgrade in [false, true] {
        let held = runtime.block_on(async {
            let mut requests = connect(gateway.port(), 0).await;
            let mut held = Vec::new();
            for number in 0..4 {
                let path = format!("http://a/words{number}");
                if upgrade {
                    while !requests.is_extended_connect_protocol_enabled() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    let mut request = http::Request::connect(path).version(http::Version::HTTP_2).body(()).unwrap();
                    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
                    request.headers_mut().insert("sec-websocket-version", http::HeaderValue::from_static("13"));
                    let (answer, stream) = requests.send_request(request, false).unwrap();
                    let answer = answer.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    held.push((answer.into_body(), Some(stream)));
                } else {
                    held.push((ask(&mut requests, &format!("/words{number}")).await.unwrap().into_body(), None));
                }
            }
            (requests, held)
        });
        settles("no more is taken of the service", || sent.load(Ordering::Relaxed));
        let grown = resident(&gateway) - before;
        eprintln!("{grown:.1} MiB for 4 streams of two-byte frames, upgraded: {upgrade}");
        assert!(grown < 40.0, "{grown:.1} MiB, upgraded: {upgrade}");
        assert_eq!(get(gateway.port(), "/now").status, 200);
        drop(held);
    }
    go.notify_one();
    assert_eq!(neighbour.answer_to("GET").text(), "done", "on the connection that all share");
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
}

/// A client that takes nothing for a while, and then all that the service has said until it was stopped. Nothing more follows.
#[test]
fn what_came_while_a_client_took_nothing_does_not_wait_for_more() {
    let (sent, stuck) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, done) = (sent.clone(), stuck.clone());
    let service = H2Backend::start(move |_, mut respond| {
        let (count, done) = (count.clone(), done.clone());
        async move {
            let answer = http::Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
            let mut stream = respond.send_response(answer, false).unwrap();
            loop {
                stream.reserve_capacity(1024);
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
                let Ok(Some(Ok(room))) = tokio::time::timeout(Duration::from_millis(700), room).await else { break };
                let event = vec![b'~'; room.min(1024)];
                count.fetch_add(event.len(), Ordering::Relaxed);
                stream.send_data(event.into(), false).unwrap();
            }
            done.fetch_add(1, Ordering::Relaxed);
            // Until the client goes.
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    });
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services: { events: { endpoints: [ '127.0.0.1:$SERVICE' ], protocol: http2 } }
        routes: [ { path: /*, service: events } ]
        ",
        &[("$SERVICE", service.port())],
    ));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], gateway.port())).into()).unwrap();
    let mut client: TcpStream = socket.into();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually("the service is stopped", || stuck.load(Ordering::Relaxed) == 1);
    let sent = sent.load(Ordering::Relaxed);
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut came, mut buffer) = (0, vec![0; 64 * 1024]);
    while came < sent {
        match client.read(&mut buffer) {
            Ok(count @ 1..) => came += buffer[..count].iter().filter(|byte| **byte == b'~').count(),
            other => panic!("{came} of {sent} bytes, then {other:?}"),
        }
    }
}

/// What is sent in few large pieces, and not read: the windows and the sockets bound it.
#[test]
fn slow_readers_of_large_answers_hold_little() {
    let backend = lasting(8 << 20);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    assert_eq!(get(gateway.port(), "/now").status, 200);
    let before = resident(&gateway);
    let runtime = runtime();
    let streams = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut requests = connect(gateway.port(), 0).await;
            for number in 0..50 {
                held.push(ask(&mut requests, &format!("/{number}")).await.unwrap());
            }
        }
        held
    });
    let each = (resident(&gateway) - before) * 1024.0 / streams.len() as f64;
    eprintln!("{each:.1} KiB for each stream whose window is shut");
    assert!(each < 256.0, "{each:.1} KiB");
    let before = resident(&gateway);
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", "/a", &[], b"");
            client
        })
        .collect();
    gateway.wait_metric("portcullis_in_flight", 250.0);
    std::thread::sleep(Duration::from_millis(500));
    let each = (resident(&gateway) - before) * 1024.0 / clients.len() as f64;
    eprintln!("{each:.1} KiB for each HTTP/1.1 client that does not read");
    assert!(each < 256.0, "{each:.1} KiB");
}

/// The same where the gateway knows nothing of what it carries: connections of TCP routes, and WebSockets.
#[test]
fn tunnels_that_one_end_does_not_read_hold_little() {
    const MANY: usize = 60;
    let backend = Backend::scripted(|mut stream| {
        let mut seen = vec![0; 1024];
        let count = stream.read(&mut seen).unwrap_or(0);
        if seen[..count].starts_with(b"GET /ws") {
            let _ = stream.write_all(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        }
        // A message without end, in fragments.
        let fragment = [&[0x01, 126, 4, 0][..], &[b'x'; 1024]].concat().repeat(16);
        while stream.write_all(&fragment).is_ok() {}
    });
    let gateway = Gateway::start(&filled(
        "
        listeners:
          - { name: http, bind: '127.0.0.1:$PORT' }
          - { name: tcp, bind: '127.0.0.1:$PORT2', protocol: tcp }
        server: { workers: 1 }
        services: { back: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes: [ { path: /ws, service: back }, { path: /judged/*, strip_prefix: /judged, service: back, policies: { websocket: {} } } ]
        tcp_routes: [ { listeners: tcp, service: back } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").into_bytes();
    for (name, port, first) in [
        ("TCP connection", gateway.port2(), b"hello".to_vec()),
        ("WebSocket", gateway.port(), upgrade("/ws")),
        ("judged WebSocket", gateway.port(), upgrade("/judged/ws")),
    ] {
        let open = |count: usize| {
            let opened = (0..count).map(|_| {
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                socket.write_all(&first).unwrap();
                socket
            });
            let opened: Vec<_> = opened.collect();
            std::thread::sleep(Duration::from_millis(1500));
            opened
        };
        let _warm = open(10);
        let before = resident(&gateway);
        let opened = open(MANY);
        let each = (resident(&gateway) - before) * 1024.0 / opened.len() as f64;
        eprintln!("{each:.1} KiB for each {name} that is not read");
        assert!(each < 96.0, "{each:.1} KiB for each {name}");
    }
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
}

/// Frames that ask for an answer, from a client that reads none.
#[test]
fn floods_of_frames_that_want_an_answer_hold_nothing() {
    let gateway = Gateway::start(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        routes: [ { path: /*, respond: { status: 200 } } ]
        ",
    );
    assert_eq!(get(gateway.port(), "/now").status, 200);
    let before = resident(&gateway);
    let floods: [(&str, &[u8]); 4] = [
        ("SETTINGS", b"\0\0\0\x04\0\0\0\0\0"),
        ("PING", b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("PRIORITY", b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x01"),
        ("WINDOW_UPDATE", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"),
    ];
    for (name, frame) in floods {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut socket = deaf(gateway.port(), "/", 0);
            socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let many = frame.repeat(4096);
            // Until the gateway reads no more, or has had enough.
            for _ in 0..100 {
                if socket.write_all(&many).is_err() {
                    break;
                }
            }
            held.push(socket);
        }
        let grown = resident(&gateway) - before;
        eprintln!("{grown:.1} MiB for floods of {name}");
        assert!(grown < 32.0, "{grown:.1} MiB for {name}");
        assert_eq!(get(gateway.port(), "/now").status, 200, "{name}");
    }
}

/// The end of a stream in a frame of its own without a byte is what gRPC's clients send: it must not count as a flood of empty frames.
#[test]
fn a_thousand_streams_that_end_with_an_empty_frame_share_a_connection() {
    let backend = Backend::http();
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ",
        &[("$BACKEND", backend.port())],
    ));
    let said = crate::protocols::peer::play("h2_empty_ends.js", &[&gateway.url(""), "1000"]);
    assert_eq!(said, serde_json::json!({ "answered": 1000, "connections": 1 }));
}
