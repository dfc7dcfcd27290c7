//! Answers that many want while one fetches them: nobody waits for a client that reads slowly, nor for more than what has come.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Client, Gateway, eventually, get, request, try_curl};
use crate::peers::{Act, Origin, answer as whole};

/// Longer than what sockets hold.
const LONG: usize = 8 << 20;

/// A backend that gives what it is told, piece by piece.
pub struct Slow {
    port: u16,
    asked: Arc<AtomicUsize>,
    gate: Arc<(Mutex<usize>, Condvar)>,
}

impl Slow {
    /// `pieces` of a body, each after the gate has let one more through.
    pub fn start(head: &'static str, pieces: Vec<Vec<u8>>) -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(0), Condvar::new())));
        let (count, lets) = (asked.clone(), gate.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (count, lets, pieces) = (count.clone(), lets.clone(), pieces.clone());
                std::thread::spawn(move || answer(stream, head, &pieces, &count, &lets));
            }
        });
        Slow { port, asked, gate }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn let_through(&self, pieces: usize) {
        *self.gate.0.lock().unwrap() = pieces;
        self.gate.1.notify_all();
    }

    fn gateway(&self, cache: &str) -> Gateway {
        self.gateway_with(&format!("cache: {cache}"))
    }

    fn gateway_with(&self, policies: &str) -> Gateway {
        // The engine's own way of doing it.
        Gateway::start(&format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2, cache_memory: 512MiB, max_in_flight_per_address: 5000 }}\nroutes: [ {{ path: /*, service: 127.0.0.1, port: {}, \
             policies: {{ {policies} }} }} ]",
            self.port
        ))
    }
}

fn answer(mut stream: TcpStream, head: &str, pieces: &[Vec<u8>], asked: &AtomicUsize, gate: &(Mutex<usize>, Condvar)) {
    loop {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => request.push(byte[0]),
                _ => return,
            }
        }
        asked.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(head.as_bytes());
        for (number, piece) in pieces.iter().enumerate() {
            let open = gate.0.lock().unwrap();
            let wait = |open: &mut usize| *open <= number;
            drop(gate.1.wait_timeout_while(open, Duration::from_secs(30), wait).unwrap());
            if number > 0 && pieces.len() > 100 {
                // Each by itself.
                std::thread::sleep(Duration::from_millis(1));
            }
            if piece.is_empty() || stream.write_all(piece).is_err() {
                return;
            }
        }
    }
}

fn ask(port: u16, path: &str) -> Client {
    let mut client = Client::connect(port);
    client.send_request("GET", path, &[], b"");
    client
}

fn long() -> Vec<u8> {
    (0..LONG).map(|at| (at / 1000) as u8).collect()
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8388608\r\n\r\n";
    let slow = Slow::start(head, vec![long()]);
    slow.let_through(1);
    let gateway = slow.gateway("{ max_body: 9MiB }");
    // It asks first, and never reads.
    let idle = ask(gateway.port(), "/a");
    eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
    let begun = Instant::now();
    let other = get(gateway.port(), "/a");
    assert!(other.body == long(), "{} bytes", other.body.len());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    eventually("it is stored", || get(gateway.port(), "/a").header("cache-status").unwrap().starts_with("portcullis; hit"));
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    // Nor does it get anything else, once it reads.
    let mut idle = idle;
    assert!(idle.answer_to("GET").body == long());
    assert_eq!(idle.get("/a").status, 200, "and its connection is as good as before");
}

#[test]
fn nor_does_one_whose_answer_has_no_length_and_is_too_long() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut body = Vec::new();
    for chunk in long().chunks(1 << 20) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let slow = Slow::start(head, vec![body]);
    slow.let_through(1);
    let gateway = slow.gateway("{ max_body: 6MiB }");
    let mut idle = ask(gateway.port(), "/a");
    eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
    // It is fetched as far as it can be stored, and then each asks for itself.
    let other = get(gateway.port(), "/a");
    assert!(other.body == long(), "{} bytes", other.body.len());
    assert!(idle.answer_to("GET").body == long());
    assert!(!get(gateway.port(), "/a").header("cache-status").unwrap().contains("hit"));
}

/// Each piece is small, so that nearly all that is written to it is what compression lets go between two of them.
#[test]
fn nor_does_one_whose_answer_is_compressed() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nContent-Length: 8388608\r\n\r\n";
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let body: Vec<u8> = (0..LONG).map(|_| noise()).collect();
    let slow = Slow::start(head, body.chunks(8192).map(<[u8]>::to_vec).collect());
    slow.let_through(usize::MAX);
    let gateway = slow.gateway_with("compress: {}, cache: { max_body: 9MiB }");
    let mut idle = Client::connect(gateway.port());
    idle.send_request("GET", "/a", &[("Accept-Encoding", "gzip")], b"");
    eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
    let begun = Instant::now();
    assert!(get(gateway.port(), "/a").body == body);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    let answer = idle.answer_to("GET");
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
}

#[test]
fn those_who_wait_get_what_has_come() {
    let head =
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"v\"\r\nVary: Accept-Language\r\nContent-Length: 10\r\n\r\n";
    let slow = Slow::start(head, vec![b"01234".to_vec(), b"56789".to_vec()]);
    let gateway = slow.gateway("{}");
    let first = ask(gateway.port(), "/a");
    eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
    slow.let_through(1);
    let mut seen = Vec::new();
    // Whoever fetches has the half, so it has come.
    while !seen.ends_with(b"01234") {
        let mut some = [0; 512];
        let count = first.stream().read(&mut some).unwrap();
        assert!(count > 0);
        seen.extend_from_slice(&some[..count]);
    }
    let mut others: Vec<Client> = (0..20).map(|_| ask(gateway.port(), "/a")).collect();
    for other in &mut others {
        let mut seen = Vec::new();
        while !seen.ends_with(b"01234") {
            let mut some = [0; 512];
            let count = other.stream().read(&mut some).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&some[..count]);
        }
        let text = String::from_utf8(seen).unwrap().to_lowercase();
        assert!(text.contains("cache-status: portcullis; fwd=miss; collapsed\r\n") && text.contains("\r\nage: "), "{text}");
    }
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    // One that has it already need not wait for the rest, and neither does a HEAD.
    assert_eq!(request(gateway.port(), "GET", "/a", &[("If-None-Match", "\"v\"")], b"").status, 304);
    let head = request(gateway.port(), "HEAD", "/a", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    // Another variant is another answer, and a part is cut from the whole.
    let mut german = Client::connect(gateway.port());
    german.send_request("GET", "/a", &[("Accept-Language", "de")], b"");
    let mut part = Client::connect(gateway.port());
    part.send_request("GET", "/a", &[("Range", "bytes=4-5")], b"");
    slow.let_through(2);
    let part = part.answer_to("GET");
    assert_eq!((part.status, part.text()), (206, "45".to_owned()));
    assert_eq!(german.answer_to("GET").text(), "0123456789");
    for other in &mut others {
        let mut rest = [0; 5];
        other.stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"56789");
        assert_eq!(other.get("/a").header("cache-status").unwrap().split(';').nth(1), Some(" hit"));
    }
    let mut rest = [0; 5];
    first.stream().read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"56789");
    assert_eq!(slow.asked.load(Ordering::SeqCst), 2, "once for each variant");
}

#[test]
fn a_fill_that_breaks_off_is_not_stored_and_looks_whole_to_nobody() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n";
    let slow = Slow::start(head, vec![b"01234".to_vec(), Vec::new()]);
    let gateway = slow.gateway("{}");
    slow.let_through(1);
    let mut clients = vec![ask(gateway.port(), "/a")];
    eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
    clients.extend((0..5).map(|_| ask(gateway.port(), "/a")));
    let mut half = [0; 64];
    for client in &mut clients {
        assert!(client.stream().read(&mut half).unwrap() > 0);
    }
    slow.let_through(2);
    for client in &mut clients {
        let rest = client.rest();
        assert!(
            !rest.ends_with(b"0123456789") && !rest.windows(5).any(|five| five == b"56789"),
            "{}",
            String::from_utf8_lossy(&rest)
        );
    }
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    let again = ask(gateway.port(), "/a").rest();
    assert!(!String::from_utf8_lossy(&again).to_lowercase().contains("portcullis; hit"));
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
}

/// One whose client has a deadline, or a route with a limit, ends with that: not the fill, nor what others get of it.
#[test]
fn a_fill_goes_on_when_its_clients_time_is_over() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n";
    for (path, ends) in [("/plain", None), ("/held", Some(504))] {
        let slow = Slow::start(head, vec![b"01234".to_vec(), b"56789".to_vec()]);
        let gateway = Gateway::start(&format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true, trusted_proxies: [ 127.0.0.0/8 ] }} ]\nserver: {{ workers: 1 }}\n\
             services: {{ it: {{ endpoints: [ 127.0.0.1:{} ] }} }}\nroutes:\n\
             - {{ path: /held, service: it, policies: {{ cache: {{}}, etag: {{ up_to: 64KiB }} }} }}\n\
             - {{ path: /short, service: it, timeout: 700ms, policies: {{ cache: {{}} }} }}\n\
             - {{ path: /*, service: it, policies: {{ cache: {{}} }} }}",
            slow.port
        ));
        slow.let_through(1);
        let mut first = Client::connect(gateway.port());
        first.send_request("GET", path, &[("X-Request-Deadline", "700")], b"");
        eventually("the backend is asked", || slow.asked.load(Ordering::SeqCst) == 1);
        let mut others: Vec<Client> = (0..3).map(|_| ask(gateway.port(), path)).collect();
        let url = gateway.url(path);
        let over_h2 = std::thread::spawn(move || try_curl(&["--http2-prior-knowledge", &url]));
        match ends {
            None => {
                let broken = first.rest();
                assert!(broken.ends_with(b"01234"), "{}", String::from_utf8_lossy(&broken));
            }
            Some(status) => assert_eq!(first.answer_to("GET").status, status),
        }
        gateway.wait_log(|line| line["path"] == path && line["status"].as_u64() == Some(ends.unwrap_or(200).into()));
        slow.let_through(2);
        for other in &mut others {
            assert_eq!(other.answer_to("GET").text(), "0123456789", "{path}");
        }
        // No line of the log says so.
        gateway.wait_metric("portcullis_route_cache_background_total{outcome=\"stored\"}", 1.0);
        assert_eq!(over_h2.join().unwrap().unwrap().text(), "0123456789");
        assert!(get(gateway.port(), path).header("cache-status").unwrap().starts_with("portcullis; hit"));
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1, "{path}");
        // So it is where nobody waits, and the limit is the route's.
        slow.let_through(1);
        let mut alone = ask(gateway.port(), "/short");
        assert!(alone.rest().ends_with(b"01234"));
        slow.let_through(2);
        eventually("it is stored", || {
            let again = request(gateway.port(), "GET", "/short", &[("Cache-Control", "only-if-cached")], b"");
            again.status == 200 && again.text() == "0123456789"
        });
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
        eventually("nothing is under way", || gateway.metric("portcullis_in_flight") == 0.0);
    }
}

/// Nobody waits for one after the other to fail.
/// What is fetched for one client alone is stored for nobody, whatever it says.
#[test]
fn those_who_have_waited_for_what_is_not_stored_ask_for_themselves_alone() {
    let number = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        if number == 0 {
            // The others come to wait for it.
            std::thread::sleep(Duration::from_millis(600));
        }
        let control = if number == 0 { "no-store" } else { "max-age=60" };
        Act::Send(whole(200, &[("Cache-Control", control)], number.to_string()))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    let mut first = ask(gateway.port(), "/a");
    eventually("it is asked for", || origin.asked().len() == 1);
    let waiting: Vec<Client> = (0..4).map(|_| ask(gateway.port(), "/a")).collect();
    assert_eq!(first.answer_to("GET").text(), "0");
    let mut bodies: Vec<String> = Vec::new();
    for mut client in waiting {
        let answer = client.answer_to("GET");
        let said = answer.header("cache-status").unwrap();
        assert!(said.contains("fwd=") && !said.contains("stored"), "{said}");
        bodies.push(answer.text());
    }
    bodies.sort();
    assert_eq!(bodies, ["1", "2", "3", "4"], "each has its own");
    // The next one has it stored.
    for (state, body) in [("fwd=bypass", "5"), ("hit; ttl=", "5")] {
        let answer = get(gateway.port(), "/a");
        assert!(answer.header("cache-status").unwrap().contains(state) && answer.text() == body, "{:?}", answer.headers);
    }
}

#[test]
fn those_who_have_waited_for_a_failure_ask_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (busy, peak) = (now.clone(), most.clone());
    let origin = Origin::start(move |asked| {
        peak.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(400));
        busy.fetch_sub(1, Ordering::SeqCst);
        match &*asked.target {
            "/breaks" => {
                Act::Last(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha".to_vec())
            }
            "/closes" => Act::Last(Vec::new()),
            _ => Act::Send(whole(500, &[], "failed")),
        }
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         services: {{ it: {{ endpoints: [ 127.0.0.1:{} ], retries: {{ attempts: 0 }} }} }}\nroutes:\n\
         - {{ path: /stands-in, service: it, fallback: {{ on: [ 5xx ], json: {{ a: 1 }} }}, policies: {{ cache: {{}} }} }}\n\
         - {{ path: /*, service: it, policies: {{ cache: {{}} }} }}",
        origin.port()
    ));
    for path in ["/stands-in", "/fails", "/closes", "/breaks"] {
        most.store(0, Ordering::SeqCst);
        let clients: Vec<Client> = (0..6).map(|_| ask(gateway.port(), path)).collect();
        for mut client in clients {
            match path {
                "/breaks" => drop(client.rest()),
                _ => {
                    let status = client.answer_to("GET").status;
                    assert_eq!(
                        status,
                        match path {
                            "/stands-in" => 200,
                            "/fails" => 500,
                            _ => 502,
                        },
                        "{path}"
                    );
                }
            }
        }
        assert!(most.load(Ordering::SeqCst) >= 3, "{path}: {most:?} at once");
    }
}
