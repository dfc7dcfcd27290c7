//! WebSocket, with a real server and a real client.

use serde_json::{Value, json};

use super::peer::{Peer, play};
use crate::harness::{Backend, Client, Files, Gateway, eventually};

struct Setup {
    gateway: Gateway,
    cert: String,
    _server: Peer,
}

fn setup() -> Setup {
    let server = Peer::start("ws_server.py", &[]);
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["ws.example.com"]);
    // The SHA-256 of `top-secret-key`.
    let hash = "sha256:2534d1b4c0d0112e35cb5e38503cbdc8a69fd89574258214f5e3f8431b0272c9";
    let gateway = Gateway::start_in(
        &files,
        &format!(
            "
             listeners:
               - {{ bind: '127.0.0.1:$PORT', timeouts: {{ body: 1s, request: 1500ms, keep_alive: 1s }} }}
               - bind: 127.0.0.1:$PORT2
                 tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
                 timeouts: {{ body: 1s, request: 1500ms, keep_alive: 1s }}
             services:
               ws: {{ endpoints: ['127.0.0.1:{}'], timeouts: {{ response: 1500ms }} }}
             consumers: [ {{ name: friend, api_keys: [ {{ hash: '{hash}' }} ] }} ]
             routes:
               - {{ path: /ws/*, service: ws }}
               - {{ path: /private/ws/*, strip_prefix: /private, service: ws, policies: {{ authn: {{ api_key: {{}} }} }} }}
            ",
            cert.display(),
            key.display(),
            server.port()
        ),
    );
    Setup { gateway, cert: cert.display().to_string(), _server: server }
}

impl Setup {
    fn play(&self, scene: &str) -> Value {
        play("ws_client.py", &[scene, &format!("ws://127.0.0.1:{}", self.gateway.port())])
    }

    fn play_tls(&self, scene: &str) -> Value {
        play("ws_client.py", &[scene, &format!("wss://127.0.0.1:{}", self.gateway.port2()), &self.cert])
    }
}

#[test]
fn text_binary_and_large_messages_are_echoed() {
    let setup = setup();
    for facts in [setup.play("echo"), setup.play_tls("echo")] {
        let whole = json!({
            "text": "grüße", "binary": [0, 1, 2, 255], "large": true, "empty": "", "many": true, "protocol": "chat", "closed": 1000,
        });
        assert_eq!(facts, whole);
    }
    let line = setup.gateway.wait_log(|line| line["status"] == 101);
    assert!(line["bytes_in"].as_u64().unwrap() > 3 << 20 && line["bytes_out"].as_u64().unwrap() > 3 << 20, "{line}");
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let setup = setup();
    for facts in [setup.play("push"), setup.play_tls("push")] {
        assert_eq!(facts, json!({ "messages": "all", "closed": 1000 }));
    }
}

#[test]
fn bytes_right_behind_the_switch_are_not_lost() {
    // As fast as a server can be: the answer and the first bytes of the tunnel in one piece, before the request is read.
    let backend = Backend::scripted(|mut stream| {
        use std::io::{Read, Write};
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst words";
        stream.write_all(answer).unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => seen.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let mut tunnelled = seen.split_off(seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4);
        while tunnelled.len() < 4 {
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => tunnelled.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        stream.write_all(&tunnelled).unwrap();
    });
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         services: {{ echo: {{ endpoints: ['127.0.0.1:{}'] }} }}
         routes: [ {{ path: /*, service: echo }} ]
        ",
        backend.port()
    ));
    for round in 0..200 {
        let mut client = Client::connect(gateway.port());
        // The client does not wait either.
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping");
        let answer = client.answer_to("GET");
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")), "{answer:?}");
        let rest = client.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "first wordsping", "round {round}");
    }
}

#[test]
fn each_side_hears_how_the_other_closed() {
    let setup = setup();
    for facts in [setup.play("server_closes"), setup.play_tls("server_closes")] {
        assert_eq!(facts, json!({ "code": 4321, "reason": "the server has had enough" }));
    }
    assert_eq!(setup.play("client_closes"), json!({ "seen": "4444 the client has had enough" }));
    // Neither side waited for the other until its patience was over: the server, which ends the connection, was heard.
    for line in setup.gateway.log() {
        assert!(line["duration_us"].as_u64().unwrap() < 5_000_000, "{line}");
    }
}

#[test]
fn the_backend_learns_of_a_client_that_vanished() {
    let setup = setup();
    assert_eq!(setup.play("client_vanishes"), json!({ "seen": "1006 " }));
    eventually("no request is in flight", || setup.gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn a_tunnel_may_be_idle_longer_than_any_timeout_of_requests() {
    let setup = setup();
    for facts in [setup.play("idle"), setup.play_tls("idle")] {
        assert_eq!(facts, json!({ "before": "before", "after": "after" }));
    }
}

#[test]
fn a_stream_limit_ends_a_silent_tunnel() {
    let server = Peer::start("ws_server.py", &[]);
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         services: {{ ws: {{ endpoints: ['127.0.0.1:{}'], timeouts: {{ stream: 1s }} }} }}
         routes: [ {{ path: /*, service: ws }} ]
        ",
        server.port()
    ));
    let mut client = Client::connect(gateway.port());
    client.send(HANDSHAKE);
    assert_eq!(client.answer_to("GET").status, 101);
    // It is told, before the connection ends.
    assert_eq!(client.rest(), b"\x88\x02\x03\xe9");
    gateway.wait_log(|line| line["status"] == 101);
}

const HANDSHAKE: &str = "GET /ws/echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn the_backend_gets_the_upgrade_and_no_other_hop_by_hop_field() {
    let setup = setup();
    let facts = setup.play("headers");
    let seen = facts["seen"].as_str().unwrap().to_ascii_lowercase();
    for line in
        ["connection: upgrade", "upgrade: websocket", "x-mine: 1", "x-forwarded-for: 127.0.0.1", "sec-websocket-version: 13"]
    {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
}

#[test]
fn a_refused_upgrade_leaves_no_tunnel() {
    let setup = setup();
    assert_eq!(setup.play("plain"), json!({ "status": 200 }));
    assert_eq!(setup.play("forbidden"), json!({ "status": 403 }));
    // The connection goes on as HTTP/1.1: what follows is a request, not bytes for the backend.
    let mut client = Client::connect(setup.gateway.port());
    let handshake = HANDSHAKE.replace("/ws/echo", "/ws/forbidden");
    for _ in 0..3 {
        client.send(&handshake);
        let answer = client.answer_to("GET");
        assert_eq!((answer.status, answer.text().as_str()), (403, "not for you\n"), "{answer:?}");
    }
    assert_eq!(client.get("/nowhere").status, 404);
}

#[test]
fn who_may_not_come_in_is_told_before_the_upgrade() {
    let setup = setup();
    let base = format!("ws://127.0.0.1:{}/private", setup.gateway.port());
    assert_eq!(play("ws_client.py", &["anonymous", &base]), json!({ "status": 401 }));
    assert_eq!(play("ws_client.py", &["with_key", &base]), json!({ "answer": "let me in" }));
    let line = setup.gateway.wait_log(|line| line["status"] == 401);
    assert_eq!(line.get("endpoint"), None, "{line}");
    let mut client = Client::connect(setup.gateway.port());
    client.send(HANDSHAKE.replace("/ws/echo", "/private/ws/echo"));
    client.answer_to("GET").assert_problem(401, "authn", "missing_credentials");
}

/// A backend that switches with this head, and goes on as `then` says.
fn switches(head: &'static str, then: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |mut stream| {
        use std::io::{Read, Write};
        let (mut seen, mut byte) = (Vec::new(), [0; 1]);
        while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            seen.push(byte[0]);
        }
        stream.write_all(head.as_bytes()).unwrap();
        then(stream);
    })
}

fn gateway_to(backend: &Backend, more: &str) -> Gateway {
    Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         services: {{ ws: {{ endpoints: ['127.0.0.1:{}'] }} }}
         routes: [ {{ path: /*, service: ws }} ]
         {more}
        ",
        backend.port()
    ))
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a_switch_has_no_length() {
    use std::io::{Read, Write};
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n";
    let backend = switches(head, |mut stream| {
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(b"more than three").unwrap();
    });
    let gateway = gateway_to(&backend, "");
    let mut client = Client::connect(gateway.port());
    client.send(ASK);
    let answer = client.answer_to("GET");
    assert_eq!((answer.status, answer.header("content-length")), (101, None), "{answer:?}");
    client.send("ping");
    assert_eq!(client.rest(), b"more than three");
}

#[test]
fn a_client_that_ends_its_half_hears_the_rest() {
    use std::io::{Read, Write};
    let (heard, hears) = std::sync::mpsc::channel();
    let hears = std::sync::Mutex::new(hears);
    let backend = switches(SWITCH, move |mut stream| {
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        // Once the client has ended its half.
        hears.lock().unwrap().recv().unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(300));
            stream.write_all(b"late ").unwrap();
        }
    });
    let gateway = gateway_to(&backend, "");
    let mut client = Client::connect(gateway.port());
    client.send(ASK);
    assert_eq!(client.answer_to("GET").status, 101);
    client.send("ping");
    client.half_close();
    heard.send(()).unwrap();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "late late late ");
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((line.get("reason"), &line["bytes_in"]), (None, &json!(4)), "{line}");
}

#[test]
fn what_a_stop_cuts_off_is_told_so() {
    use std::io::{Read, Write};
    let (told, tells) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let backend = switches(SWITCH, move |mut stream| {
        let mut ping = [0; 6];
        stream.read_exact(&mut ping).unwrap();
        // A whole frame, so that the next one may begin.
        stream.write_all(b"\x81\x02hi").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = told.lock().unwrap().send(rest);
    });
    let mut gateway = gateway_to(&backend, "server: { grace: 1s, workers: 2 }");
    let mut client = Client::connect(gateway.port());
    client.send(ASK);
    assert_eq!(client.answer_to("GET").status, 101);
    client.send(b"\x89\x80\0\0\0\0");
    let mut first = [0; 4];
    client.stream().read_exact(&mut first).unwrap();
    gateway.signal("TERM");
    // `1001`, going away, to both.
    assert_eq!(client.rest(), b"\x88\x02\x03\xe9");
    let rest = tells.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(rest, b"\x88\x82\0\0\0\0\x03\xe9");
    assert!(gateway.wait_exit(std::time::Duration::from_secs(20)).success());
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!((&line["answered_by"], &line["reason"]), (&json!("door"), &json!("shutdown")), "{line}");
}

/// A backend whose half of the tunnel is `play`ed on the socket behind its answer.
fn switching(play: impl Fn(&mut std::net::TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |mut stream| {
        use std::io::{Read, Write};
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => seen.push(byte[0]),
                _ => return,
            }
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer).unwrap();
        play(&mut stream);
    })
}

fn tunnel(backend: &Backend) -> (Gateway, Client) {
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         services: {{ it: {{ endpoints: ['127.0.0.1:{}'] }} }}
         routes: [ {{ path: /*, service: it }} ]
        ",
        backend.port()
    ));
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer_to("GET").status, 101);
    (gateway, client)
}

#[test]
fn the_end_of_the_clients_half_is_heard_and_answered() {
    use std::io::{Read, Write};
    let backend = switching(|stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        // Said only once the client has ended: what it waits for.
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    });
    let (gateway, mut client) = tunnel(&backend);
    client.send("x".repeat(300_000));
    client.half_close();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "300000 bytes");
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert!(line["duration_us"].as_u64().unwrap() < 4_000_000, "nobody's patience had to run out: {line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(300_000), &json!(12)), "{line}");
}

#[test]
fn the_end_of_the_services_half_does_not_end_the_clients() {
    use std::io::{Read, Write};
    let (told, hears) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let backend = switching(move |stream| {
        stream.write_all(b"that is all").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let _ = told.lock().unwrap().send(all.len());
    });
    let (_gateway, mut client) = tunnel(&backend);
    // The client reads to the end of the service's half, and speaks only then.
    assert_eq!(String::from_utf8_lossy(&client.rest()), "that is all");
    client.send("x".repeat(100_000));
    client.half_close();
    assert_eq!(hears.recv_timeout(std::time::Duration::from_secs(10)), Ok(100_000));
}

#[test]
fn neither_direction_waits_for_the_other() {
    use std::io::{Read, Write};
    const MUCH: usize = 16 << 20;
    // Both write all they have before they read: a tunnel that writes one way before it reads the other stops here.
    let backend = switching(|stream| {
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.write_all(&vec![b'b'; MUCH]).unwrap());
        let mut all = vec![0; MUCH];
        stream.read_exact(&mut all).unwrap();
        writing.join().unwrap();
    });
    let (_gateway, mut client) = tunnel(&backend);
    let mut writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&vec![b'c'; MUCH]).unwrap());
    assert_eq!(client.rest().len(), MUCH);
    writing.join().unwrap();
}
