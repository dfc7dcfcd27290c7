//! WebSocket over HTTP/2 (RFC 8441), with Node's client and service, to services of both versions.

use serde_json::{Value, json};

use super::peer::{Peer, play};
use crate::harness::{Backend, Client, Files, Gateway, curl, eventually, filled};

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true, timeouts: { write: 2s } } ]
    server: { workers: 1 }
    consumers: [ { name: friend, api_keys: [ { hash: 'sha256:2534d1b4c0d0112e35cb5e38503cbdc8a69fd89574258214f5e3f8431b0272c9' } ] } ]
    services:
      h1: { endpoints: ['127.0.0.1:$H1'] }
      h2: { endpoints: ['127.0.0.1:$H2'], protocol: http2 }
      mute: { endpoints: ['127.0.0.1:$MUTE'], protocol: http2 }
    routes:
      - { path: /ws/*, service: h1 }
      - { path: /private/ws/*, strip_prefix: /private, service: h1, policies: { authn: { api_key: {} } } }
      - { path: /pages/ws/*, strip_prefix: /pages, service: h1, policies: { websocket: { origins: 'https://a.example' } } }
      - { path: /small/ws/*, strip_prefix: /small, service: h1, policies: { websocket: { max_message: 1KiB } } }
      - { path: /few/ws/*, strip_prefix: /few, service: h1, policies: { concurrency_limit: { limit: 1 } } }
      - { path: /split/ws/*, strip_prefix: /split, split: [ { service: h1, weight: 1 }, { service: h2, weight: 0 } ] }
      - { path: /h2/*, strip_prefix: /h2, service: h2 }
      - { path: /mute/*, strip_prefix: /mute, service: mute }
      - { path: /own, respond: { status: 200, body: hello } }
";

struct Setup {
    gateway: Gateway,
    _peers: [Peer; 3],
}

fn setup() -> Setup {
    let h1 = Peer::start("ws_server.py", &[]);
    let (h2, mute) = (Peer::start("h2_ws_service.js", &[]), Peer::start("h2_ws_service.js", &["not"]));
    let ports = [("$H1", h1.port()), ("$H2", h2.port()), ("$MUTE", mute.port())];
    Setup { gateway: Gateway::start(&filled(YAML, &ports)), _peers: [h1, h2, mute] }
}

impl Setup {
    /// What came of these, on one connection.
    fn play(&self, wanted: Value) -> Vec<Value> {
        let said = play("h2_ws_client.js", &[&self.gateway.url(""), &wanted.to_string()]);
        assert_eq!(said["offered"], true, "{said}");
        said["facts"].as_array().unwrap().clone()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connection of HTTP/2 on which WebSockets can be opened, and what drives it.
async fn connect(port: u16) -> (h2::client::SendRequest<bytes::Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(connection);
    while !send.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    (send, driver)
}

fn handshake(path: &str) -> http::Request<()> {
    let mut request = http::Request::builder().method("CONNECT").uri(format!("http://a{path}")).body(()).unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    request
}

async fn eventually_async(mut condition: impl FnMut() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("not within 10 seconds");
}

#[test]
fn messages_pass_both_ways_and_many_share_a_connection() {
    let setup = setup();
    for (path, version) in [("/ws/echo", "h1"), ("/h2/echo", "h2"), ("/split/ws/echo", "h1")] {
        let one =
            json!({ "path": path, "say": ["hello", "grüße"], "big": 3 << 20, "headers": { "sec-websocket-protocol": "chat" } });
        let all = setup.play(json!([one, one, one]));
        for fact in all {
            assert_eq!((&fact["status"], &fact["heard"]), (&json!(200), &json!(["hello", "grüße"])), "{version}: {fact}");
            assert_eq!((&fact["big"], &fact["code"], &fact["ended"]), (&json!(3 << 20), &json!(1000), &json!(true)), "{fact}");
            assert_eq!(fact["reset"], 0, "{fact}");
            let told = &fact["headers"];
            assert_eq!(told["sec-websocket-protocol"], "chat", "{fact}");
            assert!(told.get("sec-websocket-accept").is_none() && told.get("upgrade").is_none(), "{fact}");
        }
        let line = setup.gateway.wait_log(|line| line["path"] == path);
        assert_eq!((&line["protocol"], &line["status"], &line["method"]), (&json!("h2"), &json!(101), &json!("GET")), "{line}");
        assert_eq!((&line["messages_in"], &line["closed_by"], &line["close_code"]), (&json!(3), &json!("client"), &json!(1000)));
    }
}

#[test]
fn an_http_1_1_client_reaches_a_service_of_http_2() {
    let setup = setup();
    let url = format!("ws://127.0.0.1:{}/h2", setup.gateway.port());
    let facts = play("ws_client.py", &["echo", &url]);
    assert_eq!((&facts["large"], &facts["many"], &facts["closed"]), (&json!(true), &json!(true), &json!(1000)), "{facts}");
    assert_eq!(facts["protocol"], "chat", "{facts}");
}

/// As browsers do it: `wss`, on the connection that they have. With a ping that nobody but the client hears.
#[test]
fn over_tls_it_is_the_same() {
    let (h1, files) = (Peer::start("ws_server.py", &[]), Files::new());
    files.certificate(&["localhost"]);
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', tls: { certificates: [ { cert: cert0.pem, key: key0.pem } ] } } ]
        server: { workers: 1 }
        services: { h1: { endpoints: ['127.0.0.1:$H1'] } }
        routes: [ { path: /ws/*, service: h1, policies: { websocket: { max_message: 8MiB, messages: 100/s, ping: 1s, idle: 1m } } } ]
    ";
    let gateway = Gateway::start_in(&files, &filled(yaml, &[("$H1", h1.port())]));
    let one = json!({ "path": "/ws/echo", "say": ["hello"], "big": 3 << 20 });
    let url = format!("https://127.0.0.1:{}", gateway.port());
    let said = play("h2_ws_client.js", &[&url, &json!([one, one]).to_string()]);
    for fact in said["facts"].as_array().unwrap() {
        assert_eq!((&fact["heard"], &fact["big"], &fact["code"]), (&json!(["hello"]), &json!(3 << 20), &json!(1000)), "{fact}");
    }
    let line = gateway.wait_log(|line| line["path"] == "/ws/echo");
    assert_eq!((&line["tls"], &line["protocol"], &line["messages_in"]), (&json!("TLSv1.3"), &json!("h2"), &json!(2)), "{line}");
}

#[test]
fn the_service_gets_a_handshake_of_its_own_version() {
    let setup = setup();
    let mine = json!({ "x-mine": "1", "origin": "https://b.example", "sec-websocket-key": "mine" });
    let all = setup.play(
        json!([{ "path": "/ws/headers", "hear": 1, "headers": mine }, { "path": "/h2/headers", "hear": 1, "headers": mine }]),
    );
    let seen = all[0]["heard"][0].as_str().unwrap().to_ascii_lowercase();
    for line in
        ["connection: upgrade", "upgrade: websocket", "x-mine: 1", "sec-websocket-version: 13", "origin: https://b.example"]
    {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
    assert_eq!(seen.matches("sec-websocket-key: ").count(), 1, "{seen}");
    assert!(!seen.contains("sec-websocket-key: mine"), "{seen}");
    let seen: Value = serde_json::from_str(all[1]["heard"][0].as_str().unwrap()).unwrap();
    assert_eq!(
        (&seen[":method"], &seen[":protocol"], &seen["x-mine"]),
        (&json!("CONNECT"), &json!("websocket"), &json!("1")),
        "{seen}"
    );
    assert!(seen.get("sec-websocket-key").is_none() && seen.get("upgrade").is_none(), "{seen}");
}

#[test]
fn every_rule_of_the_route_holds() {
    let setup = setup();
    let evil = json!({ "origin": "https://evil.example" });
    let all = setup.play(json!([
        { "path": "/private/ws/echo" },
        { "path": "/private/ws/echo", "headers": { "x-api-key": "top-secret-key" }, "say": ["let me in"] },
        { "path": "/pages/ws/echo", "headers": evil },
        { "path": "/nowhere" },
        { "path": "/ws/forbidden" },
        { "path": "/ws/plain" },
        { "path": "/own" },
        { "path": "/h2/refuse" },
        { "path": "/mute/" },
        { "path": "/small/ws/echo", "big": 2000 },
        { "path": "/ws/echo", "protocol": "connect-udp" },
        { "path": "/ws/echo", "headers": { "content-length": "5" } },
    ]));
    let status = |number: usize| all[number]["status"].as_u64();
    assert_eq!((status(0), status(1), &all[1]["heard"]), (Some(401), Some(200), &json!(["let me in"])));
    assert_eq!((status(2), status(3), status(4)), (Some(403), Some(404), Some(403)));
    // A 2xx that is no switch would be taken for the tunnel.
    assert_eq!((status(5), status(6), status(7), status(8)), (Some(502), Some(502), Some(403), Some(502)));
    assert!(all[5]["body"].as_str().unwrap().contains("not_switched"), "{}", all[5]);
    assert_eq!(all[9]["code"], 1009, "{}", all[9]);
    assert_eq!(status(10), Some(501), "{}", all[10]);
    assert!(status(11).is_none_or(|status| status == 400), "{}", all[11]);
    setup.gateway.wait_log(|line| line["reason"] == "message_too_large" && line["protocol"] == "h2");
    // The log says what the client has seen.
    let own = setup.gateway.wait_log(|line| line["path"] == "/own");
    assert_eq!((&own["status"], &own["reason"]), (&json!(502), &json!("not_switched")), "{own}");
}

#[test]
fn a_plain_connect_stays_refused() {
    let setup = setup();
    let all = setup.play(json!([{ "path": "/ws/echo", "protocol": null }]));
    assert_ne!(all[0]["status"], 200, "{}", all[0]);
    // And the connection goes on.
    assert_eq!(curl(&["--http2-prior-knowledge", &setup.gateway.url("/ws/plain")]).status, 200);
}

#[test]
fn ends_and_resets_are_carried_across() {
    let setup = setup();
    // The client's half ends without a close frame: so does the service's.
    let all = setup.play(json!([{ "path": "/h2/echo", "say": ["hello"], "then": "end" }]));
    assert_eq!((&all[0]["ended"], &all[0]["reset"]), (&json!(true), &json!(0)), "{}", all[0]);
    let ended = || curl(&["--http2-prior-knowledge", &setup.gateway.url("/h2/how")]).json()["ended"].clone();
    eventually("the service has heard the end", || ended() == "end");
    // Node ends its half before it resets a stream, so this is another client.
    runtime().block_on(async {
        let (mut send, driver) = connect(setup.gateway.port()).await;
        let (answer, mut stream) = send.send_request(handshake("/h2/echo"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        stream.send_data(bytes::Bytes::from_static(b"\x81\x85\0\0\0\0hello"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), &b"\x81\x05hello"[..]);
        stream.send_reset(h2::Reason::CANCEL);
        // The connection lives on until the service knows.
        eventually_async(|| ended() == "reset 8").await;
        driver.abort();
    });
    eventually("the service has heard the reset", || ended() == "reset 8");
    // `INTERNAL_ERROR` of the service's is the client's as well.
    let all = setup.play(json!([{ "path": "/h2/reset", "then": "wait" }]));
    assert_eq!((&all[0]["status"], &all[0]["reset"]), (&json!(200), &json!(2)), "{}", all[0]);
    setup.gateway.wait_metric("portcullis_in_flight", 0.0);
}

#[test]
fn places_are_counted_while_it_is_open() {
    let setup = setup();
    let all = setup.play(json!([{ "path": "/few/ws/echo", "say": ["a"] }, { "path": "/few/ws/echo", "say": ["a"] }]));
    let mut statuses: Vec<_> = all.iter().map(|fact| fact["status"].as_u64().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429], "{all:?}");
    assert_eq!(setup.play(json!([{ "path": "/few/ws/echo", "say": ["a"] }]))[0]["status"], 200);
}

/// A client that stops reading holds no more than its window and the send buffer, stops nobody else on its connection, and is given up.
#[test]
fn a_client_that_stops_reading_is_bounded() {
    use bytes::Bytes;
    let pieces = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let written = pieces.clone();
    let backend = Backend::scripted(move |mut stream| {
        use std::io::{Read, Write};
        let (mut seen, mut byte) = (Vec::new(), [0; 1]);
        while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            seen.push(byte[0]);
        }
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let key = seen
            .lines()
            .find_map(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key: ").then(|| line[19..].trim().to_owned()));
        let accept = portcullis::wire::websocket::handshake::accept(key.unwrap().as_bytes());
        let head =
            format!("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let frame = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[b'x'; 65536]].concat();
        while stream.write_all(&frame).is_ok() {
            written.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let ports = [("$H1", backend.port()), ("$H2", 9), ("$MUTE", 9)];
    let gateway = Gateway::start(&filled(YAML, &ports));
    runtime().block_on(async {
        let (mut send, driver) = connect(gateway.port()).await;
        let (answer, mut stream) = send.send_request(handshake("/ws/x"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        // Nothing is read. Others on the connection are served.
        for _ in 0..3 {
            let other = http::Request::builder().uri("http://a/own").body(()).unwrap();
            assert_eq!(send.send_request(other, true).unwrap().0.await.unwrap().status(), 200);
        }
        stream.send_data(Bytes::from_static(b"\x81\x80\0\0\0\0"), false).unwrap();
        // After `timeouts.write` it is over, and the stream is reset.
        let broke = async {
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                if gateway.log().iter().any(|line| line["path"] == "/ws/x") {
                    return;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(15), broke).await.unwrap();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
        }
        driver.abort();
    });
    let line = gateway.wait_log(|line| line["path"] == "/ws/x");
    assert_eq!(line["reason"], "client_write_timeout", "{line}");
    let taken = pieces.load(std::sync::atomic::Ordering::SeqCst) * 65536;
    assert!(taken < 16 << 20, "{taken} bytes were taken from the service");
}

#[test]
fn http_1_1_is_as_it_was() {
    let setup = setup();
    let mut client = Client::connect(setup.gateway.port());
    // To a service of HTTP/2 that does not offer it, the handshake is a plain request.
    let ask = "GET /mute/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
    client.send(ask);
    assert_eq!(client.answer_to("GET").status, 200);
    client.send("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    assert_eq!(client.answer_to("GET").status, 405);
}

/// On a connection that has the least room there is.
#[test]
fn short_messages_up_to_the_window_are_no_flood() {
    use portcullis::wire::small::gather;
    use portcullis::wire::turn::InTurns;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const COUNT: usize = 5000;
    runtime().block_on(async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], payload].concat()
        };
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(4, 0, 0, b""));
        // `POST http://a/`.
        all.extend(frame(1, 4, 1, b"\x83\x86\x84\x41\x01a"));
        all.extend(frame(0, 0, 1, b"12345678").repeat(COUNT));
        all.extend(frame(0, 1, 1, b""));
        near.write_all(&all).await.unwrap();
        let options = portcullis::wire::h2::options(16 * 1024, portcullis::wire::h2::Room::of(1, 1, 1));
        let mut wire = options.handshake::<_, bytes::Bytes>(InTurns::new(far)).await.unwrap();
        let (request, mut respond) = wire.accept().await.unwrap().unwrap();
        // Nobody passes anything on before all of it is there.
        let driven = tokio::spawn(async move { while wire.accept().await.is_some_and(|accepted| accepted.is_ok()) {} });
        // A task of its own, as every stream has: it has its turn.
        let waits = tokio::spawn(async move {
            let (mut body, mut gathered) = (request.into_body(), bytes::BytesMut::new());
            let waiting = std::future::poll_fn(|cx| {
                gather(&mut body, &mut gathered, cx);
                std::task::Poll::<()>::Pending
            });
            assert!(tokio::time::timeout(std::time::Duration::from_millis(300), waiting).await.is_err());
            let mut count = gathered.len();
            while let Some(piece) = body.data().await {
                count += piece.expect("the connection stands").len();
            }
            count
        });
        assert_eq!(waits.await.unwrap(), COUNT * 8);
        respond.send_response(http::Response::new(()), true).unwrap();
        assert!(near.read_u8().await.is_ok() && !driven.is_finished());
    });
}

/// A service that says two bytes at a time on `/ticks`, as many as fill a window, and then ends `/held`.
fn ticking() -> u16 {
    use bytes::Bytes;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut options = h2::server::Builder::new();
                    let mut wire = options.max_send_buffer_size(4096).handshake::<_, Bytes>(socket).await.unwrap();
                    let full = std::sync::Arc::new(tokio::sync::Notify::new());
                    while let Some(Ok((request, mut respond))) = wire.accept().await {
                        let full = full.clone();
                        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                        tokio::spawn(async move {
                            if request.uri().path() == "/held" {
                                full.notified().await;
                                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                                return drop(stream.send_data(Bytes::from_static(b"done"), true));
                            }
                            for _ in 0..128 * 1024 {
                                stream.reserve_capacity(2);
                                while stream.capacity() < 2 {
                                    let Some(Ok(_)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                                }
                                if stream.send_data(Bytes::from_static(b"\n\n"), false).is_err() {
                                    return;
                                }
                            }
                            full.notify_one();
                            std::future::pending::<()>().await;
                        });
                    }
                });
            }
        });
    });
    port
}

#[test]
fn short_messages_that_one_client_does_not_read_break_nobody_elses_stream() {
    let ports = [("$H1", 9), ("$H2", ticking()), ("$MUTE", 9)];
    let gateway = Gateway::start(&filled(&YAML.replace("write: 2s", "write: 60s"), &ports));
    runtime().block_on(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", gateway.port())).await.unwrap();
        let mut options = h2::client::Builder::new();
        let (mut send, connection) =
            options.initial_window_size(1024).data_frame_budget(1 << 30).handshake::<_, bytes::Bytes>(socket).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut ask = |path: &str| {
            let request = http::Request::builder().uri(format!("http://a/h2{path}")).body(()).unwrap();
            send.send_request(request, true).unwrap().0
        };
        let mut held = ask("/held").await.unwrap().into_body();
        let _ticks = ask("/ticks").await.unwrap();
        let said = tokio::time::timeout(std::time::Duration::from_secs(30), held.data()).await.expect("in time");
        assert_eq!(said.unwrap().unwrap(), &b"done"[..]);
        driver.abort();
    });
}
