//! Server-sent events: one by one, for as long as they like, and no longer than the client listens.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::SERVER;
use crate::harness::{Backend, Client, Files, Gateway, eventually, get};

const PAUSE: Duration = Duration::from_millis(200);

fn read_head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        seen.push(byte[0]);
    }
}

/// How many events the client has heard.
#[derive(Default)]
struct Heard(Mutex<usize>, Condvar);

impl Heard {
    fn set(&self, count: usize) {
        *self.0.lock().unwrap() = count;
        self.1.notify_all();
    }

    /// Waits for the client to have heard so many; whether it has, in the end.
    fn wait(&self, count: usize) -> bool {
        let (heard, patience) = (self.0.lock().unwrap(), Duration::from_secs(20));
        let (heard, _) = self.1.wait_timeout_while(heard, patience, |heard| *heard < count).unwrap();
        *heard >= count
    }
}

/// Tells 10 events, each only after the one before has been heard, and a pause: a gateway that holds one back never gets the next.
fn patient_backend(heard: Arc<Heard>) -> Backend {
    Backend::scripted(move |mut stream| {
        read_head(&mut stream);
        heard.set(0);
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for number in 0..10 {
            if !heard.wait(number) {
                return;
            }
            std::thread::sleep(PAUSE);
            let event = format!("data: {number}\n\n");
            if write!(stream, "{:x}\r\n{event}\r\n", event.len()).is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    })
}

/// Tells an event every [`PAUSE`], for ever. Counts the clients that went away.
fn endless_backend(gone: Arc<AtomicUsize>) -> Backend {
    Backend::scripted(move |mut stream| {
        read_head(&mut stream);
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut number = 0;
        loop {
            let event = format!("data: {number}\n\n");
            if write!(stream, "{:x}\r\n{event}\r\n", event.len()).is_err() {
                gone.fetch_add(1, Ordering::SeqCst);
                return;
            }
            number += 1;
            // The other side says nothing, so a read ends early only when it goes away.
            stream.set_read_timeout(Some(PAUSE)).unwrap();
            if matches!(stream.read(&mut [0; 1]), Ok(0)) {
                gone.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    })
}

fn gateway(backend: &Backend, service: &str) -> (Gateway, String) {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["events.example.com"]);
    let gateway = Gateway::start_in(
        &files,
        &format!(
            "
             listeners:
               - {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ request: 1s, body: 1s, keep_alive: 1s }} }}
               - bind: 127.0.0.1:$PORT2
                 tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}
                 timeouts: {{ request: 1s, body: 1s, keep_alive: 1s }}
             services: {{ events: {{ endpoints: ['127.0.0.1:{}'], timeouts: {{ {service} }} }} }}
             routes: [ {{ path: /*, service: events }} ]
             {SERVER}
            ",
            cert.display(),
            key.display(),
            backend.port()
        ),
    );
    (gateway, cert.display().to_string())
}

/// Listens to the 10 events, and says so after each. How long it took.
fn listen(heard: &Heard, args: &[&str]) -> Duration {
    let started = Instant::now();
    let mut client = Command::new("curl")
        .args(["-q", "-sS", "-N", "--max-time", "20", "-H", "Accept: text/event-stream"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need curl: {error}"));
    let mut output = client.stdout.take().unwrap();
    let (mut read, mut buffer) = (String::new(), [0; 4096]);
    while let Ok(count) = output.read(&mut buffer) {
        if count == 0 {
            break;
        }
        read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        heard.set(read.matches("\n\n").count());
    }
    assert!(client.wait().unwrap().success());
    assert_eq!(read, (0..10).map(|number| format!("data: {number}\n\n")).collect::<String>());
    started.elapsed()
}

#[test]
fn events_come_one_by_one_and_outlive_the_total_deadline() {
    let heard = Arc::new(Heard::default());
    let backend = patient_backend(heard.clone());
    let (gateway, cert) = gateway(&backend, "response: 30s");
    let resolve = format!("events.example.com:{}:127.0.0.1", gateway.port2());
    let secure = format!("https://events.example.com:{}/", gateway.port2());
    for args in [
        vec!["--http1.1", &gateway.url("/")],
        vec!["--http2-prior-knowledge", &gateway.url("/")],
        vec!["--http1.1", "--cacert", &cert, "--resolve", &resolve, &secure],
        vec!["--http2", "--cacert", &cert, "--resolve", &resolve, &secure],
    ] {
        assert!(listen(&heard, &args) > Duration::from_secs(1), "longer than the deadline of the listener");
    }
    eventually("all four are logged", || gateway.log().iter().filter(|line| line["status"] == 200).count() == 4);
    for line in gateway.log() {
        assert_eq!((line.get("reason"), &line["bytes_out"]), (None, &serde_json::json!(90)), "{line}");
    }
}

#[test]
fn a_client_that_hangs_up_ends_the_stream() {
    let gone = Arc::new(AtomicUsize::new(0));
    let backend = endless_backend(gone.clone());
    let (gateway, _) = gateway(&backend, "response: 30s");
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    let mut first = [0; 16];
    client.stream().read_exact(&mut first).unwrap();
    drop(client);
    eventually("the backend learns of it", || gone.load(Ordering::SeqCst) == 1);
    let line = gateway.wait_log(|line| line["client_closed"] == true);
    assert_eq!((&line["status"], &line["answered_by"], line.get("reason")), (&200.into(), &"upstream".into(), None), "{line}");

    let mut client = Command::new("curl")
        .args(["-q", "-sS", "-N", "--http2-prior-knowledge", "--max-time", "20", &gateway.url("/")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the backend learns of it", || gone.load(Ordering::SeqCst) == 2);
    eventually("no request is in flight", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn events_may_be_further_apart_than_an_answer_may_take() {
    let heard = Arc::new(Heard::default());
    let backend = patient_backend(heard.clone());
    // Which leaves a busy machine time enough for the head.
    let (gateway, _) = gateway(&backend, "response: 150ms");
    assert!(listen(&heard, &[&gateway.url("/")]) > PAUSE * 10);
}

#[test]
fn a_backend_that_does_not_begin_its_stream_is_given_up() {
    let backend = Backend::scripted(|mut stream| {
        read_head(&mut stream);
        let _ = stream.read(&mut [0; 1]);
    });
    let (gateway, _) = gateway(&backend, "response: 300ms");
    let answer = crate::harness::request(gateway.port(), "GET", "/", &[("Accept", "text/event-stream")], b"");
    answer.assert_problem(504, "upstream", "response_timeout");
    get(gateway.port(), "/").assert_problem(504, "upstream", "response_timeout");
    let answer = crate::harness::curl(&["--http2-prior-knowledge", "-H", "Accept: text/event-stream", &gateway.url("/")]);
    answer.assert_problem(504, "upstream", "response_timeout");
}

/// Says `kind`, and a line every so often, further apart than an answer may be silent.
fn lines(kind: &'static str, pause: Duration) -> Backend {
    Backend::scripted(move |mut stream| {
        read_head(&mut stream);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..4 {
            if stream.write_all(b"3\r\n{}\n\r\n").is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    })
}

#[test]
fn the_answers_type_says_whether_it_is_a_stream() {
    for kind in ["text/event-stream", "Application/X-NDJSON", "application/json-seq"] {
        let backend = lines(kind, Duration::from_millis(500));
        let (gateway, _) = gateway(&backend, "response: 250ms");
        // Longer silent than an answer may be, and longer at work than the listener allows; nobody asked for it.
        let answer = get(gateway.port(), "/");
        assert_eq!((answer.status, answer.body.len()), (200, 12), "{kind} {answer:?}");
        let answer = crate::harness::curl(&["--http2-prior-knowledge", &gateway.url("/")]);
        assert_eq!((answer.status, answer.body.len()), (200, 12), "{kind} {answer:?}");
    }
    // What is no stream is none because it was asked for as one.
    let backend = lines("application/json", Duration::from_secs(5));
    let (gateway, _) = gateway(&backend, "response: 250ms");
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    assert!(client.try_answer_to("GET").is_err());
    let line = gateway.wait_log(|line| line["path"] == "/");
    assert_eq!((&line["answered_by"], &line["reason"]), (&"upstream".into(), &"answer_broke_off".into()), "{line}");
    assert!(line["duration_us"].as_u64().unwrap() < 4_000_000, "{line}");
}

#[test]
fn a_route_says_that_its_answers_are_streams() {
    let backend = lines("application/json", Duration::from_millis(500));
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ request: 1s }} }} ]
         services: {{ lines: {{ endpoints: ['127.0.0.1:{}'], timeouts: {{ response: 250ms }} }} }}
         routes: [ {{ path: /stream, service: lines, stream: true }}, {{ path: /plain, service: lines }} ]
         {SERVER}
        ",
        backend.port()
    ));
    let answer = get(gateway.port(), "/stream");
    assert_eq!((answer.status, answer.body.len()), (200, 12), "{answer:?}");
    assert!(crate::harness::try_curl(&[&gateway.url("/plain")]).is_err());
}
