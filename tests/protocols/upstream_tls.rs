//! Backends behind TLS: who is verified, what is kept and shared, and bodies that go both ways at once.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pingora_core::tls::ssl::{SslAcceptor, SslFiletype, SslMethod, SslStream};

use super::{SERVER, noise};
use crate::harness::{Backend, Client, Files, Gateway, Nginx, curl, eventually, find, get, request, try_curl};

const NAME: &str = "inner.example.com";

/// A certificate for [`NAME`], and a gateway's trust in it.
struct Identity {
    files: Files,
    cert: PathBuf,
    key: PathBuf,
}

impl Identity {
    fn new() -> Identity {
        let files = Files::new();
        let (cert, key, _) = files.certificate(&[NAME, "other.example.com"]);
        Identity { files, cert, key }
    }

    fn tls(&self) -> String {
        trusting(&self.cert, NAME)
    }

    fn nginx(&self, server_conf: &str) -> Nginx {
        let (cert, key) = (self.cert.display(), self.key.display());
        let listen = "listen 127.0.0.1:$PORT ssl;";
        Nginx::start_in(&self.files, &format!("{listen} ssl_certificate {cert}; ssl_certificate_key {key}; {server_conf}"))
    }

    /// A backend that runs the script on each connection, after its handshake.
    fn backend(&self, script: impl Fn(&mut SslStream<TcpStream>) + Send + Sync + 'static) -> Backend {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_certificate_chain_file(&self.cert).unwrap();
        acceptor.set_private_key_file(&self.key, SslFiletype::PEM).unwrap();
        let acceptor = acceptor.build();
        Backend::scripted(move |stream| {
            if let Ok(mut stream) = acceptor.accept(stream) {
                script(&mut stream);
            }
        })
    }
}

fn trusting(authority: &Path, name: &str) -> String {
    format!("tls: {{ ca: '{}', server_name: {name} }}", authority.display())
}

/// A gateway with services of these definitions, each behind a path of its name. One worker: it has all kept connections.
fn gateway(services: &[(&str, &str)]) -> Gateway {
    let definitions: String = services.iter().map(|(name, it)| format!("\n  {name}: {{ {it} }}")).collect();
    let routes: String =
        services.iter().map(|(name, _)| format!("\n  - {{ path: /{name}/*, service: {name}, strip_prefix: /{name} }}")).collect();
    let section = SERVER.replace("workers: 2", "workers: 1");
    Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]\n{section}\nservices:{definitions}\nroutes:{routes}\n"
    ))
}

/// The next request's head, and what came behind it.
fn head(stream: &mut SslStream<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(end) = find(&read, b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8(read).unwrap(), rest));
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => read.extend_from_slice(&piece[..count]),
        }
    }
}

fn length(head: &str) -> usize {
    let field = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    field.map_or(0, |length| length.trim().parse().unwrap())
}

/// Reads what is left of a body that has a length.
fn drain(stream: &mut SslStream<TcpStream>, mut left: usize) {
    let mut piece = [0; 16 * 1024];
    while left > 0 {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => left -= count.min(left),
        }
    }
}

fn fine(stream: &mut SslStream<TcpStream>) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");
}

#[test]
fn connections_are_shared_only_under_the_same_trust() {
    let identity = Identity::new();
    let (stranger, _, _) = identity.files.certificate(&[NAME]);
    let nginx = identity.nginx("location / { return 200 '$ssl_server_name $connection $connection_requests'; }");
    let at = format!("endpoints: ['127.0.0.1:{}']", nginx.port());
    let gateway = gateway(&[
        ("right", &format!("{at}, {}", identity.tls())),
        ("same", &format!("{at}, {}", identity.tls())),
        ("wrong", &format!("{at}, {}", trusting(&stranger, NAME))),
        ("named", &format!("{at}, {}", trusting(&identity.cert, "other.example.com"))),
        ("blind", &format!("{at}, tls: {{ verify: false, server_name: {NAME} }}")),
        ("plain", &at),
    ]);
    let ask = |service: &str| {
        let answer = get(gateway.port(), &format!("/{service}/"));
        assert_eq!(answer.status, 200, "{service}: {answer:?}");
        let text = answer.text();
        let mut words = text.split(' ').map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap().parse::<u32>().unwrap())
    };
    let (name, verified, first) = ask("right");
    assert_eq!(name, NAME);
    for round in 1..4 {
        get(gateway.port(), "/wrong/").assert_problem(502, "upstream", "tls_failure");
        // nginx says so of plain HTTP on a TLS port.
        assert_eq!(get(gateway.port(), "/plain/").status, 400);
        let (name, connection, _) = ask("named");
        assert_eq!(name, "other.example.com");
        let (_, blind, _) = ask("blind");
        assert!(connection != verified && blind != verified && blind != connection, "{connection} {blind} {verified}");
        // Two services that trust alike may share; the verified connection is still the one of the beginning.
        assert_eq!(ask("same").1, verified);
        assert_eq!(ask("right"), (NAME.to_owned(), verified.clone(), first + 2 * round));
    }
}

#[test]
fn a_certificate_that_has_expired_is_refused() {
    let mut identity = Identity::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    identity.cert = identity.files.write("expired.pem", params.self_signed(&key).unwrap().pem());
    identity.key = identity.files.write("expired-key.pem", key.serialize_pem());
    let nginx = identity.nginx("location / { return 200; }");
    let gateway = gateway(&[("it", &format!("endpoints: ['127.0.0.1:{}'], {}", nginx.port(), identity.tls()))]);
    get(gateway.port(), "/it/").assert_problem(502, "upstream", "tls_failure");
    assert!(!nginx.access_log().contains("GET"), "{}", nginx.access_log());
}

#[test]
fn a_backend_that_fails_the_handshake_is_passed_over() {
    let identity = Identity::new();
    let good = identity.backend(|stream| {
        while let Some((head, rest)) = head(stream) {
            drain(stream, length(&head) - rest.len());
            fine(stream);
        }
    });
    let bad = Backend::scripted(|mut stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")));
    let endpoints = format!("endpoints: ['127.0.0.1:{}', '127.0.0.1:{}']", bad.port(), good.port());
    let gateway = gateway(&[("it", &format!("{endpoints}, {}", identity.tls()))]);
    let body = noise(100_000);
    for _ in 0..6 {
        // Nothing has been sent, so even what must not be done twice is asked of another.
        assert_eq!(request(gateway.port(), "POST", "/it/", &[], &body).text(), "fine");
    }
    assert!(bad.connections() >= 3, "{}", bad.connections());
    gateway.wait_log(|line| line["retries"] == 1);
    let view: serde_json::Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    let failures: Vec<_> = view["services"][0]["endpoints"].as_array().unwrap().iter().map(|it| &it["failures"]).collect();
    assert!(failures[0].as_u64().unwrap() >= 3 && failures[1] == 0, "{view}");
}

#[test]
fn a_handshake_that_nobody_answers_is_504_in_time() {
    let identity = Identity::new();
    let mute = Backend::scripted(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let it = format!("endpoints: ['127.0.0.1:{}'], timeouts: {{ connect: 300ms }}, {}", mute.port(), identity.tls());
    let gateway = gateway(&[("it", &it)]);
    let began = Instant::now();
    get(gateway.port(), "/it/").assert_problem(504, "upstream", "connect_timeout");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_kept_connection_that_was_closed_is_noticed_before_it_is_used() {
    // With a word of farewell, as TLS wants it, and without.
    for polite in [true, false] {
        let identity = Identity::new();
        let closed = Arc::new(AtomicUsize::new(0));
        let counted = closed.clone();
        let backend = identity.backend(move |stream| {
            if let Some((head, rest)) = head(stream) {
                drain(stream, length(&head) - rest.len());
                fine(stream);
                if polite {
                    let _ = stream.shutdown();
                }
                let _ = stream.get_ref().shutdown(std::net::Shutdown::Both);
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let it = format!("endpoints: ['127.0.0.1:{}'], {}", backend.port(), identity.tls());
        let gateway = gateway(&[("it", &it)]);
        for round in 1..8 {
            // Of a kind that must not be sent twice: only a connection that is known to be open will do.
            let answer = request(gateway.port(), "POST", "/it/", &[], b"pay");
            assert_eq!((answer.status, &*answer.text()), (200, "fine"), "round {round}");
            eventually("the backend has closed", || closed.load(Ordering::SeqCst) == round);
        }
        assert_eq!(backend.connections(), 7);
    }
}

#[test]
fn a_kept_connection_that_breaks_is_replaced_where_asking_twice_does_no_harm() {
    let identity = Identity::new();
    // Answers the first request of each connection, and hangs up on the second.
    let backend = identity.backend(|stream| {
        if head(stream).is_some() {
            fine(stream);
            head(stream);
            let _ = stream.shutdown();
        }
    });
    let gateway = gateway(&[("it", &format!("endpoints: ['127.0.0.1:{}'], {}", backend.port(), identity.tls()))]);
    // After an odd number the last connection is a kept one.
    for round in 0..7 {
        assert_eq!(get(gateway.port(), "/it/").text(), "fine", "round {round}");
    }
    assert_eq!(backend.connections(), 7);
    let lost = request(gateway.port(), "POST", "/it/", &[], b"");
    lost.assert_problem(502, "upstream", "connection_lost");
}

#[test]
fn a_long_body_goes_up_while_the_answer_comes_down() {
    let identity = Identity::new();
    // Reads no more than it has sent back: who does not read its answer while sending never gets to the end.
    let backend = identity.backend(|stream| {
        let Some((head, rest)) = head(stream) else { return };
        let mut left = length(&head);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n");
        let _ = stream.write_all(&rest);
        left -= rest.len();
        let mut piece = [0; 16 * 1024];
        while left > 0 {
            let Ok(count @ 1..) = stream.read(&mut piece) else { return };
            left -= count;
            if stream.write_all(&piece[..count]).is_err() {
                return;
            }
        }
    });
    let gateway = gateway(&[("it", &format!("endpoints: ['127.0.0.1:{}'], {}", backend.port(), identity.tls()))]);
    let body = noise(10 << 20);
    let data = format!("@{}", gateway.files().write("body", &body).display());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(&[version, "-H", "Expect:", "--data-binary", &data, "--max-time", "60", &gateway.url("/it/")]);
        assert!(answer.status == 200 && answer.body == body, "{version}: {} {}", answer.status, answer.body.len());
    }
}

#[test]
fn an_answer_may_come_before_the_request_is_whole() {
    let identity = Identity::new();
    let backend = identity.backend(|stream| {
        let Some((head, rest)) = head(stream) else { return };
        let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!";
        let _ = stream.write_all(refusal.as_bytes());
        drain(stream, length(&head) - rest.len());
    });
    let gateway = gateway(&[("it", &format!("endpoints: ['127.0.0.1:{}'], {}", backend.port(), identity.tls()))]);
    for _ in 0..3 {
        let mut client = Client::connect(gateway.port());
        client.send("POST /it/ HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n");
        // Only the beginning, but enough for the backend to be asked.
        client.send([b'x'; 20_000]);
        let answer = client.answer_to("POST");
        assert_eq!((answer.status, &*answer.text()), (413, "no!"), "{answer:?}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_only_if_that_ended_in_order() {
    let identity = Identity::new();
    let body = noise(300_000);
    let sent = body.clone();
    let backend = identity.backend(move |stream| {
        let Some((head, _)) = head(stream) else { return };
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(&sent);
        if head.contains("/broken") {
            // Not a record of TLS: the end of all trust in this connection.
            let _ = stream.get_ref().write_all(b"\x17\x03\x03\x00\x20 an intruder's words, not sealed ");
            let _ = stream.get_ref().shutdown(std::net::Shutdown::Write);
            wait_for_end(stream.get_ref());
        } else {
            let _ = stream.shutdown();
        }
    });
    let gateway = gateway(&[("it", &format!("endpoints: ['127.0.0.1:{}'], {}", backend.port(), identity.tls()))]);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        assert!(curl(&[version, &gateway.url("/it/whole")]).body == body);
        let broken = try_curl(&[version, &gateway.url("/it/broken")]);
        assert!(broken.is_err(), "{version}: half an answer was passed off as a whole one");
    }
    gateway.wait_log(|line| line["reason"] == "answer_broke_off");
}

fn wait_for_end(mut stream: &TcpStream) {
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

/// RFC 9525: the subject's common name identifies nobody any more, unless the operator asks for it.
#[test]
fn a_backend_certificate_without_a_subject_alt_name_is_refused() {
    let files = Files::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, NAME);
    let cert = files.write("common.pem", params.self_signed(&key).unwrap().pem());
    let key = files.write("common.key", key.serialize_pem());
    let identity = Identity { files, cert, key };
    let nginx = identity.nginx("location / { return 200 'fine'; }");
    let endpoint = format!("endpoints: ['127.0.0.1:{}']", nginx.port());
    let tls = identity.tls();
    let checked = "health_check: { path: /, interval: 100ms, unhealthy_after: 1 }";
    let services = [
        ("strict", format!("{endpoint}, {tls}")),
        ("http2", format!("{endpoint}, {tls}, protocol: http2")),
        ("checked", format!("{endpoint}, {tls}, {checked}")),
        ("asked", format!("{endpoint}, {}", tls.replace(" }", ", allow_common_name: true }"))),
        ("blind", format!("{endpoint}, tls: {{ verify: false, server_name: {NAME} }}")),
    ];
    let services: Vec<(&str, &str)> = services.iter().map(|(name, it)| (*name, it.as_str())).collect();
    let gateway = gateway(&services);
    for _ in 0..2 {
        for strict in ["/strict/", "/http2/"] {
            get(gateway.port(), strict).assert_problem(502, "upstream", "tls_failure");
        }
        for taken in ["/asked/", "/blind/"] {
            assert_eq!(get(gateway.port(), taken).text(), "fine", "{taken}");
        }
    }
    eventually("the health check sees it too", || get(gateway.port(), "/checked/").status == 503);
}
