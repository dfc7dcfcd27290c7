//! Clients that leave, that stop, that wait for a word first, and that have said all they have to say: what becomes of their requests.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use pingora_core::tls::ssl::{SslConnector, SslMethod, SslVerifyMode};

use crate::harness::{Backend, Client, Files, Gateway, eventually, find, request};
use crate::retries::faulty::{Fault, Faulty};

fn gateway(port: u16, more: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners:\n  - {{ bind: '127.0.0.1:$PORT', h2c: true, limits: {{ body: 100MB }}, timeouts: {{ write: 1s }} }}\nserver: {{ workers: 1 }}\n\
         services:\n  it: {{ endpoints: ['127.0.0.1:{port}'] {more} }}\nroutes:\n  - {{ path: /json/*, service: it, policies: {{ \
         validate: {{ json: true }} }} }}\n  - {{ path: /*, service: it }}\n"
    ))
}

/// Runs until it is done; fails if that takes too long.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time") })
}

async fn connect(port: u16) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let (send, connection) = h2::client::Builder::new().initial_window_size(64 * 1024).handshake(socket).await.unwrap();
    tokio::spawn(connection);
    send
}

fn open(send: &mut SendRequest<Bytes>, method: &str, path: &str, fields: &[(&str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = http::Request::builder().method(method).uri(format!("http://a{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    send.send_request(request.body(()).unwrap(), false).unwrap()
}

async fn body(mut from: RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(piece) = from.data().await {
        let piece = piece.unwrap();
        let _ = from.flow_control().release_capacity(piece.len());
        whole.extend_from_slice(&piece);
    }
    whole
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while find(&head, b"\r\n\r\n").is_none() && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[test]
fn a_client_that_ends_its_input_gets_its_answers() {
    let backend = Backend::answering(|request| {
        // Long enough for the end of input to be noticed first; if it is not, the test still holds.
        std::thread::sleep(Duration::from_millis(200));
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.target.len(), request.target).into_bytes()
    });
    let gateway = gateway(backend.port(), "");
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/one", &[], b"");
    client.send_request("POST", "/two", &[], b"body");
    client.send_request("POST", "/three", &[("Transfer-Encoding", "chunked")], b"4\r\nbody\r\n0\r\n\r\n");
    client.half_close();
    for target in ["/one", "/two", "/three"] {
        let answer = client.answer_to("GET");
        assert_eq!((answer.status, answer.text()), (200, target.to_owned()));
    }
    assert!(client.is_closed());
    // What was begun and cannot become whole is no request.
    let mut client = Client::connect(gateway.port());
    client.send("POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.half_close();
    assert_eq!(gateway.wait_log(|line| line["path"] == "/cut")["status"], 499);
    assert!(backend.requests().iter().all(|request| request.target != "/cut" || !request.complete));
    gateway.wait_metric("portcullis_in_flight", 0.0);
}

#[test]
fn a_client_that_leaves_while_its_backend_does_not_read_frees_its_place() {
    for protocol in ["http1", "http2"] {
        let backend = Faulty::start(protocol == "http2", Fault::Stall);
        let gateway = gateway(backend.port(), &format!(", protocol: {protocol}"));
        backend.arm(1, 0);
        let mut client = Client::connect(gateway.port());
        client.send("POST /h1 HTTP/1.1\r\nHost: a\r\nContent-Length: 80000000\r\n\r\n");
        client.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        // As much as there is room for, on the whole way.
        while (&mut client.stream()).write_all(&[b'x'; 65_536]).is_ok() {}
        assert_eq!(backend.seen().heads, 1);
        client.reset();
        let line = gateway.wait_log(|line| line["path"] == "/h1");
        assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{protocol} {line}");
        gateway.wait_metric("portcullis_in_flight", 0.0);

        // Four streams hold all of what their connection may send; then they are reset.
        backend.arm(4, 0);
        run(async {
            let mut send = connect(gateway.port()).await;
            let mut open_streams = Vec::new();
            for number in 0..4 {
                let (answer, mut stream) = open(&mut send, "POST", &format!("/h2/{number}"), &[]);
                stream.send_data(Bytes::from(vec![b'x'; 2 << 20]), false).unwrap();
                open_streams.push((answer, stream));
            }
            while backend.seen().heads < 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for (_, stream) in &mut open_streams {
                stream.send_reset(h2::Reason::CANCEL);
            }
            drop(open_streams);
            let (answer, mut stream) = open(&mut send, "POST", "/h2/well", &[]);
            stream.send_data(Bytes::from(vec![b'x'; 500_000]), true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!((answer.status().as_u16(), body(answer.into_body()).await), (200, b"500000".to_vec()), "{protocol}");
        });
        let mut left = 0;
        eventually("all four are logged", || {
            let lines = gateway.log();
            let of_streams = lines.iter().filter(|line| line["path"].as_str().is_some_and(|path| path.starts_with("/h2/")));
            left = of_streams.filter(|line| line["status"] == 499 && line["reason"] == "client_closed").count();
            left == 4
        });
        gateway.wait_metric("portcullis_in_flight", 0.0);
        if protocol == "http2" {
            // CANCEL, for each of them, and for the one before.
            eventually("the backend is told", || backend.seen().resets.iter().filter(|code| **code == 8).count() >= 4);
        }
    }
}

#[test]
fn clients_over_tls_may_end_their_input_and_may_leave() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["a"]);
    let stalls = Faulty::start(false, Fault::Stall);
    stalls.arm(1, 0);
    let answers = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(200));
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let gateway = Gateway::start_in(
        &files,
        &format!(
            "listeners:\n  - bind: '127.0.0.1:$PORT'\n    limits: {{ body: 100MB }}\n    tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] \
             }}\nserver: {{ workers: 1 }}\nroutes:\n  - {{ path: /stalls, service: 127.0.0.1, port: {} }}\n  - {{ path: /*, \
             service: 127.0.0.1, port: {} }}\n",
            cert.display(),
            key.display(),
            stalls.port(),
            answers.port()
        ),
    );
    let connect = || {
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        let socket = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connector.build().configure().unwrap().verify_hostname(false).connect("a", socket).unwrap()
    };
    let mut client = connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // `close_notify`, and the end of what is sent.
    let _ = client.shutdown();
    client.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(gateway.wait_log(|line| line["path"] == "/")["status"], 200);

    let mut client = connect();
    client.get_ref().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    client.write_all(b"POST /stalls HTTP/1.1\r\nHost: a\r\nContent-Length: 80000000\r\n\r\n").unwrap();
    while client.write_all(&[b'x'; 16_384]).is_ok() {}
    socket2::SockRef::from(client.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let line = gateway.wait_log(|line| line["path"] == "/stalls");
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
    gateway.wait_metric("portcullis_in_flight", 0.0);
}

#[test]
fn an_early_answer_is_passed_on_though_the_backend_resets_behind_it() {
    let backend = Backend::scripted(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").unwrap();
        // What it has not read makes a reset of its close.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let gateway = gateway(backend.port(), "");
    for round in 0..20 {
        let answer = request(gateway.port(), "POST", &format!("/{round}"), &[], &[b'x'; 250_000]);
        assert_eq!((answer.status, answer.text()), (413, "big".to_owned()), "{round} {answer:?}");
        // Where so much is still to come that the connection is not worth keeping, the answer says so.
        let mut client = Client::connect(gateway.port());
        client.send_request("POST", &format!("/{round}"), &[("Content-Length", "1000000")], &[b'x'; 100_000]);
        let answer = client.answer_to("POST");
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "{round} {answer:?}");
    }
    eventually("every request has left its line", || gateway.log().iter().filter(|line| line["status"] == 413).count() == 40);
}

/// A backend that says these bytes once it has a request's head, and tells what the head was and what came after it.
fn saying(first: &'static [u8], last: &'static [u8]) -> (Backend, mpsc::Receiver<(String, usize)>) {
    let (heard, hears) = mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    let backend = Backend::scripted(move |mut stream| {
        let head = read_head(&mut stream);
        stream.set_read_timeout(Some(Duration::from_millis(if first.is_empty() { 20_000 } else { 700 }))).unwrap();
        let mut body = [0; 4096];
        let before = if first.is_empty() { 0 } else { stream.read(&mut body).unwrap_or(0) };
        let _ = stream.write_all(first);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let after = if last.is_empty() { 0 } else { stream.read(&mut body).unwrap_or(0) };
        let _ = heard.lock().unwrap().send((head, before + after));
        let _ = stream.write_all(last);
        let _ = stream.read(&mut body);
    });
    (backend, hears)
}

const EXPECT: &str = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn the_backend_decides_whether_a_client_sends_its_body() {
    let patience = Duration::from_secs(20);
    // It does not want it.
    let (backend, hears) = saying(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno", b"");
    let refusing = gateway(backend.port(), "");
    let mut client = Client::connect(refusing.port());
    client.send(EXPECT);
    let answer = client.answer_to("POST");
    assert_eq!((answer.status, answer.text(), client.interim.len()), (401, "no".to_owned(), 0), "{:?}", client.interim);
    let (head, body_bytes) = hears.recv_timeout(patience).unwrap();
    assert!(head.contains("\r\nexpect: 100-continue\r\n") && body_bytes == 0, "{head} {body_bytes}");
    run(async {
        let mut send = connect(refusing.port()).await;
        let (answer, _stream) = open(&mut send, "POST", "/h2", &[("expect", "100-continue"), ("content-length", "4")]);
        assert_eq!(answer.await.unwrap().status().as_u16(), 401);
    });
    // It does.
    let (backend, hears) = saying(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let asking = gateway(backend.port(), "");
    let mut client = Client::connect(asking.port());
    client.send(EXPECT);
    let mut first = [0; 25];
    client.stream().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    let answer = client.answer_to("POST");
    assert_eq!((answer.status, answer.text(), client.interim.len()), (200, "ok".to_owned(), 0), "one 100 is enough");
    assert_eq!(hears.recv_timeout(patience).unwrap().1, 4);
}

#[test]
fn a_silent_backend_does_not_keep_a_client_from_sending() {
    let (backend, hears) = saying(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = gateway(backend.port(), "");
    let began = Instant::now();
    let mut client = Client::connect(gateway.port());
    client.send(EXPECT);
    let mut first = [0; 25];
    client.stream().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}: the backend had no time to say anything", began.elapsed());
    client.send("body");
    assert_eq!((client.answer_to("POST").status, client.interim.len()), (200, 0));
    assert_eq!(hears.recv_timeout(Duration::from_secs(20)).unwrap().1, 4);
    // One that does not wait is not kept waiting.
    let (backend, _hears) = saying(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = self::gateway(backend.port(), "");
    let mut client = Client::connect(gateway.port());
    client.send([EXPECT, "body"].concat());
    assert_eq!(client.answer_to("POST").status, 200);
}

#[test]
fn a_policy_that_wants_the_body_asks_for_it() {
    let backend = Backend::http();
    let gateway = gateway(backend.port(), "");
    let mut client = Client::connect(gateway.port());
    client.send(EXPECT.replace("/x", "/json/x").replace("Host: a", "Host: a\r\nContent-Type: application/json"));
    let mut first = [0; 25];
    client.stream().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(backend.requests().is_empty());
    client.send("[12]");
    assert_eq!((client.answer_to("POST").status, client.interim.len()), (200, 0));
    assert_eq!(backend.last().header("expect"), None, "the body is there");
}

#[test]
fn http2_clients_hear_interim_answers() {
    let hints =
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nConnection: x-own\r\nX-Own: 1\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let (backend, _hears) = saying(hints, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let gateway = gateway(backend.port(), "");
    run(async {
        let mut send = connect(gateway.port()).await;
        let (mut answer, mut stream) = open(&mut send, "POST", "/", &[("expect", "100-continue"), ("content-length", "4")]);
        let early = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((early.status().as_u16(), early.headers()["link"].as_bytes()), (103, &b"</style.css>"[..]), "{early:?}");
        assert_eq!(early.headers().get("x-own"), None);
        let go_on = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(go_on.status().as_u16(), 100);
        stream.send_data(Bytes::from_static(b"body"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), body(answer.into_body()).await), (200, b"ok".to_vec()));
    });
}

#[test]
fn a_stream_that_turns_out_empty_is_framed_as_empty() {
    let backend = Backend::http();
    let gateway = gateway(backend.port(), "");
    run(async {
        let mut send = connect(gateway.port()).await;
        for (method, pieces) in [("POST", 0), ("GET", 0), ("POST", 2)] {
            let (answer, mut stream) = open(&mut send, method, &format!("/{method}/{pieces}"), &[]);
            for _ in 0..pieces {
                stream.send_data(Bytes::from_static(b"ab"), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(answer.await.unwrap().status().as_u16(), 200);
        }
    });
    for seen in backend.requests() {
        assert!(seen.complete, "{seen:?}");
        let framed = seen.header("transfer-encoding").is_some();
        assert_eq!(
            (framed, seen.body.len()),
            if seen.target == "/POST/2" { (true, 4) } else { (false, 0) },
            "{}",
            seen.head_text()
        );
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_client_that_takes_nothing_is_told_of_in_the_log() {
    let backend = Backend::answering(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 30_000_000, b'x');
        answer
    });
    let gateway = gateway(backend.port(), "");
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/h1", &[], b"");
    let line = gateway.wait_log(|line| line["path"] == "/h1");
    let told = |line: &serde_json::Value| [&line["status"], &line["answered_by"], &line["reason"]].map(ToString::to_string);
    let wanted = ["200", "\"client\"", "\"client_write_timeout\""].map(str::to_owned);
    assert_eq!(told(&line), wanted, "{line}");
    drop(client);
    run(async {
        let mut send = connect(gateway.port()).await;
        let (answer, mut stream) = open(&mut send, "GET", "/h2", &[]);
        stream.send_data(Bytes::new(), true).unwrap();
        let _held = answer.await.unwrap();
        // Whatever does not fit into the window waits.
        while !gateway.log().iter().any(|line| line["path"] == "/h2") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let line = gateway.wait_log(|line| line["path"] == "/h2");
    assert_eq!(told(&line), wanted, "{line}");
}
