//! Endpoints that have room for so many: who waits, for how long, who is let in, and what is never more than it may be.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Backend, Client, Files, Gateway, eventually, get, portcullis, request};
use crate::retries::faulty::{Fault, Faulty};

/// An endpoint that knows how many connections there are to it.
struct Counted {
    backend: Backend,
    open: Arc<Mutex<Vec<TcpStream>>>,
    most: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

/// Takes as many milliseconds as the path says, and switches protocols for `/switch`.
fn counted() -> Counted {
    let open = Arc::<Mutex<Vec<TcpStream>>>::default();
    let [most, asked] = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let (opens, peak, asks) = (open.clone(), most.clone(), asked.clone());
    let backend = Backend::scripted(move |stream| {
        opens.lock().unwrap().push(stream.try_clone().unwrap());
        peak.fetch_max(still(&opens), Ordering::SeqCst);
        converse(&stream, &asks);
    });
    Counted { backend, open, most, asked }
}

/// How many of them the other end has not closed, whether somebody here has noticed or not.
fn still(open: &Mutex<Vec<TcpStream>>) -> usize {
    /// `MSG_PEEK | MSG_DONTWAIT`.
    const LOOK: i32 = 0x42;
    let mut open = open.lock().unwrap();
    let mut byte = [std::mem::MaybeUninit::uninit()];
    open.retain(|stream| match socket2::SockRef::from(stream).recv_with_flags(&mut byte, LOOK) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    });
    open.len()
}

fn converse(mut stream: &TcpStream, asked: &AtomicUsize) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            read.drain(..end + 4);
            asked.fetch_add(1, Ordering::SeqCst);
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer: &[u8] = if target == "/switch" {
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            } else {
                let millis = target.rsplit('/').next().and_then(|millis| millis.parse().ok()).unwrap_or(0);
                std::thread::sleep(Duration::from_millis(millis));
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => read.extend_from_slice(&piece[..count]),
        }
    }
}

fn yaml(endpoints: &[u16], service: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
    format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
        server: {{ workers: 2 }}
        services: {{ it: {{ endpoints: [ {} ], {service} }} }}
        routes: [ {{ path: /*, service: it }} ]
        ",
        endpoints.join(", ")
    )
}

fn pending(gateway: &Gateway) -> u64 {
    let (_, body) = gateway.admin_get("/upstreams");
    let services: Value = serde_json::from_str(&body).unwrap();
    let mut sum = 0;
    let mut look = vec![&services];
    while let Some(value) = look.pop() {
        match value {
            Value::Object(fields) => {
                sum += fields.get("pending").and_then(Value::as_u64).unwrap_or(0);
                look.extend(fields.values());
            }
            Value::Array(all) => look.extend(all),
            _ => {}
        }
    }
    sum
}

/// Asks on a connection of its own, and waits for nothing.
fn begin(gateway: &Gateway, path: &str) -> Client {
    let mut client = Client::connect(gateway.port());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn there_are_never_more_connections_than_may_be_whoever_asks() {
    for most in [1, 3] {
        let it = counted();
        let gateway =
            Gateway::start(&yaml(&[it.backend.port()], &format!("max_connections: {most}, timeouts: {{ queue: 20s }}")));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let mut client = Client::connect(gateway.port());
                    (0..10).for_each(|_| assert_eq!(client.get("/5").status, 200));
                    // Again on another connection, which may be another core's.
                    (0..5).for_each(|_| assert_eq!(get(gateway.port(), "/5").status, 200));
                });
            }
        });
        assert!(it.most.load(Ordering::SeqCst) <= most, "{} of {most}", it.most.load(Ordering::SeqCst));
        assert_eq!((it.asked.load(Ordering::SeqCst), pending(&gateway)), (180, 0));
        assert!(still(&it.open) >= 1, "they are kept open");
    }
}

#[test]
fn who_waits_is_let_in_once_somebody_leaves_and_refused_when_it_takes_too_long() {
    let it = counted();
    let gateway = Gateway::start(&yaml(
        &[it.backend.port()],
        "max_connections: 1, max_pending: 1, timeouts: { queue: 1500ms }, retry_after: 3s",
    ));
    let mut first = begin(&gateway, "/600");
    eventually("the first one is there", || it.asked.load(Ordering::SeqCst) == 1);
    let mut second = begin(&gateway, "/second");
    eventually("the second one waits", || pending(&gateway) == 1);
    let third = get(gateway.port(), "/third");
    third.assert_problem(503, "upstream", "queue_full");
    assert_eq!(third.header("retry-after"), Some("3"));
    assert_eq!([first.answer_to("GET").status, second.answer_to("GET").status], [200; 2]);
    let long = begin(&gateway, "/8000");
    eventually("the long one is there", || it.asked.load(Ordering::SeqCst) == 3);
    get(gateway.port(), "/late").assert_problem(503, "upstream", "queue_timeout");
    let line = gateway.wait_log(|line| line["path"] == "/late");
    assert_eq!(
        (&line["status"], &line["reason"], &line["retries"]),
        (&json!(503), &json!("queue_timeout"), &json!(null)),
        "{line}"
    );
    // Nobody has asked the endpoint, and it has failed nobody.
    assert_eq!(it.asked.load(Ordering::SeqCst), 3);
    assert!(!gateway.admin_get("/upstreams").1.contains("\"failures\":1"));
    // Who leaves while he waits leaves his turn to the next, and who leaves while he is answered his place.
    let waits = begin(&gateway, "/leaves");
    eventually("it waits", || pending(&gateway) == 1);
    waits.reset();
    eventually("it has left", || pending(&gateway) == 0);
    let mut last = begin(&gateway, "/last");
    eventually("another one waits", || pending(&gateway) == 1);
    long.reset();
    assert_eq!(last.answer_to("GET").status, 200);
    assert_eq!(it.most.load(Ordering::SeqCst), 1);
    eventually("nothing is under way", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn a_full_endpoint_is_passed_over() {
    let (one, other) = (counted(), counted());
    let gateway = Gateway::start(&yaml(&[one.backend.port(), other.backend.port()], "balance: first, max_connections: 1"));
    let mut first = begin(&gateway, "/1000");
    eventually("the first one is full", || one.asked.load(Ordering::SeqCst) == 1);
    assert_eq!(get(gateway.port(), "/").status, 200);
    assert_eq!(other.asked.load(Ordering::SeqCst), 1);
    assert_eq!(first.answer_to("GET").status, 200);
}

#[test]
fn an_upgraded_connection_keeps_its_place_and_a_reload_makes_room() {
    let it = counted();
    let service = "max_connections: 1, timeouts: { queue: 10s }";
    let gateway = Gateway::start(&yaml(&[it.backend.port()], service));
    let mut upgraded = Client::connect(gateway.port());
    upgraded.send("GET /switch HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(upgraded.answer_to("GET").status, 101);
    let mut waits = begin(&gateway, "/waits");
    eventually("it waits", || pending(&gateway) == 1);
    gateway.rewrite(&yaml(&[it.backend.port()], "max_connections: 2, timeouts: { queue: 10s }"));
    assert_eq!(gateway.reload().0, 200);
    // The next one finds that there is room, and goes behind who waits already.
    let mut next = begin(&gateway, "/next");
    assert_eq!([waits.answer_to("GET").status, next.answer_to("GET").status], [200; 2]);
    assert!(it.most.load(Ordering::SeqCst) <= 2);
    upgraded.reset();
    eventually("its place is free", || still(&it.open) <= 1);
}

#[test]
fn over_http2_requests_are_what_counts() {
    let it = Faulty::start(true, Fault::Silent);
    let gateway =
        Gateway::start(&yaml(&[it.port()], "protocol: http2, max_requests: 1, max_pending: 1, timeouts: { queue: 8s }"));
    it.arm(1, 0);
    let hangs = begin(&gateway, "/hangs");
    eventually("the first one is there", || it.seen().heads == 1);
    let mut waits = begin(&gateway, "/waits");
    eventually("it waits", || pending(&gateway) == 1);
    request(gateway.port(), "POST", "/third", &[], b"pay").assert_problem(503, "upstream", "queue_full");
    assert_eq!(it.seen().heads, 1);
    hangs.reset();
    assert_eq!(waits.answer_to("GET").status, 200);
    assert_eq!(pending(&gateway), 0);
}

#[test]
fn a_deadline_ends_the_wait_and_a_second_copy_waits_for_nobody() {
    let (one, other) = (counted(), counted());
    let service = "balance: first, max_connections: 1, max_pending: 5, hedging: 50ms";
    let yaml =
        yaml(&[one.backend.port(), other.backend.port()], service).replace("service: it }", "service: it, timeout: 900ms }");
    let gateway = Gateway::start(&yaml);
    let busy = begin(&gateway, "/3000");
    eventually("both are full: with it and its copy", || {
        one.asked.load(Ordering::SeqCst) == 1 && other.asked.load(Ordering::SeqCst) == 1
    });
    let waits = get(gateway.port(), "/waits");
    assert!(waits.status == 504 || waits.status == 200, "{waits:?}");
    drop(busy);
    eventually("nothing is under way", || gateway.metric("portcullis_in_flight") == 0.0 && pending(&gateway) == 0);
}

#[test]
fn what_cannot_be_meant_is_said() {
    let files = Files::new();
    let check = |service: &str, engine: &str| {
        let yaml = yaml(&[1, 2], service).replace("$PORT", "8080").replace("workers: 2", engine);
        files.write("portcullis.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        format!("{}{}", ran.stdout, ran.stderr)
    };
    for (service, says) in [
        ("max_connections: 0", "max_connections"),
        ("max_connections: 10, protocol: http2", "one connection of each core"),
        ("max_connections: 10, protocol: auto", "both connections and streams"),
        ("max_connections: 10, warm: 2", "`warm` is for each core"),
        ("max_pending: 10", "set `max_connections`"),
        ("max_pending: 10, protocol: grpc", "set `max_requests`"),
        ("timeouts: { queue: 2s }", "nothing to wait for"),
        ("max_connections: 10, timeouts: { queue: 0s }", "queue"),
        ("max_connections: ~", "max_connections"),
    ] {
        let told = check(service, "workers: 1");
        assert!(told.contains("error") && told.contains(says), "{service}: {told}");
    }
    for key in ["max_connections: 10", "max_connections: 10, max_pending: 10"] {
        assert!(check(key, "engine: pingora").contains("cannot be had with `engine: pingora`"), "{key}");
        assert!(!check(key, "workers: 1").contains("error"), "{key}");
    }
}
