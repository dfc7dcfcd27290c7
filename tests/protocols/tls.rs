//! TLS towards clients: certificates by name, versions, ALPN, and new certificates without a restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::json;

use super::tool;
use crate::harness::{Backend, Client, Files, Gateway, curl, eventually};

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// What `openssl s_client` says of a handshake, and whether it succeeded.
fn handshake(port: u16, args: &[&str]) -> (bool, String) {
    let to = format!("127.0.0.1:{port}");
    tool("openssl", &[&["s_client", "-connect", &to][..], args].concat(), b"")
}

/// The certificate that is served for a name.
fn served(port: u16, name: Option<&str>) -> String {
    let args = name.map_or(vec!["-noservername"], |name| vec!["-servername", name]);
    let (_, said) = handshake(port, &args);
    let begin = said.find("-----BEGIN CERTIFICATE-----").unwrap_or_else(|| panic!("no certificate: {said}"));
    let end = "-----END CERTIFICATE-----";
    let length = said[begin..].find(end).unwrap() + end.len();
    without_space(&said[begin..begin + length])
}

struct Setup {
    gateway: Gateway,
    _backend: Backend,
}

impl std::ops::Deref for Setup {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

fn gateway(files: &Files, certificates: &[(&Path, &Path)], tls: &str) -> Setup {
    let list: Vec<_> =
        certificates.iter().map(|(cert, key)| format!("{{ cert: '{}', key: '{}' }}", cert.display(), key.display())).collect();
    let backend = Backend::http();
    let gateway = Gateway::start_in(
        files,
        &format!(
            "
             listeners: [ {{ bind: '127.0.0.1:$PORT', tls: {{ certificates: [ {} ] {tls} }} }} ]
             services: {{ backend: {{ endpoints: ['127.0.0.1:{}'] }} }}
             routes: [ {{ path: /*, service: backend }} ]
            ",
            list.join(", "),
            backend.port()
        ),
    );
    Setup { gateway, _backend: backend }
}

#[test]
fn the_name_chooses_the_certificate() {
    let files = Files::new();
    let (first, second, third) = (
        files.certificate(&["first.example.com"]),
        files.certificate(&["shop.example.com"]),
        files.certificate(&["*.example.com", "example.org"]),
    );
    let gateway = gateway(&files, &[(&first.0, &first.1), (&second.0, &second.1), (&third.0, &third.1)], "");
    for (name, expected) in [
        (Some("first.example.com"), &first),
        (Some("shop.example.com"), &second),
        (Some("SHOP.example.com"), &second),
        (Some("other.example.com"), &third),
        (Some("example.org"), &third),
        // Unknown, or none: the first.
        (Some("unknown.test"), &first),
        (Some("a.b.example.com"), &first),
        (None, &first),
    ] {
        assert!(served(gateway.port(), name) == without_space(&expected.2), "{name:?}");
    }
    // With a client that verifies.
    for (name, trusted) in [("shop.example.com", &second), ("any.example.com", &third)] {
        for (version, expected) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
            let resolve = format!("{name}:{}:127.0.0.1", gateway.port());
            let url = format!("https://{name}:{}/{name}", gateway.port());
            let answer = curl(&[version, "--cacert", trusted.0.to_str().unwrap(), "--resolve", &resolve, &url]);
            assert_eq!((answer.version.as_str(), answer.status), (expected, 200), "{answer:?}");
            assert_eq!(answer.json()["headers"]["x-forwarded-proto"], "https");
        }
        let line = gateway.wait_log(|line| line["path"] == format!("/{name}"));
        assert_eq!((&line["tls"], &line["host"]), (&json!("TLSv1.3"), &json!(name)), "{line}");
    }
}

#[test]
fn a_connection_carries_one_request_after_the_other() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["first.example.com"]);
    let gateway = gateway(&files, &[(&cert, &key)], "");
    let resolve = format!("first.example.com:{}:127.0.0.1", gateway.port());
    let url = |path: &str| format!("https://first.example.com:{}{path}", gateway.port());
    let body = "b".repeat(200_000);
    let args = [
        "-q",
        "-sS",
        "--http1.1",
        "--cacert",
        cert.to_str().unwrap(),
        "--resolve",
        &resolve,
        "-w",
        "%{http_code} %{num_connects};",
    ];
    let data = files.write("data", &body);
    let data = format!("@{}", data.display());
    let urls = [url("/1"), url("/2"), url("/3")];
    let more = ["--data-binary", &data, "-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null", &urls[0], &urls[1], &urls[2]];
    let (ended, said) = tool("curl", &[&args[..], &more].concat(), b"");
    assert!(ended, "{said}");
    assert_eq!(said, "200 1;200 0;200 0;");
}

#[test]
fn old_versions_are_refused_and_counted() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["first.example.com"]);
    let gateway = gateway(&files, &[(&cert, &key)], "");
    let failures = || gateway.metric("portcullis_tls_handshake_failures_total");
    assert_eq!(failures(), 0.0);
    let (done, said) = handshake(gateway.port(), &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(!done && said.contains("alert protocol version"), "{said}");
    eventually("the failure is counted", || failures() == 1.0);
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (done, said) = handshake(gateway.port(), &[version]);
        assert!(done && said.contains(name), "{said}");
    }
    // Whoever speaks HTTP to a TLS port.
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.answer_to("GET").assert_problem(400, "door", "http_on_tls_port");
    eventually("the failure is counted", || failures() == 2.0);
    let lines = gateway.wait_lines(1);
    assert_eq!((lines.len(), &lines[0]["reason"]), (1, &"http_on_tls_port".into()));
}

#[test]
fn the_oldest_version_is_configurable() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["first.example.com"]);
    let gateway = gateway(&files, &[(&cert, &key)], ", min_version: 1.3");
    assert!(!handshake(gateway.port(), &["-tls1_2"]).0);
    assert!(handshake(gateway.port(), &["-tls1_3"]).0);
}

#[test]
fn the_protocol_is_negotiated() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["first.example.com"]);
    let both = gateway(&files, &[(&cert, &key)], "");
    for (offer, chosen) in [
        ("h2,http/1.1", "ALPN protocol: h2"),
        ("http/1.1,h2", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
        ("h2", "ALPN protocol: h2"),
    ] {
        let (done, said) = handshake(both.port(), &["-alpn", offer]);
        assert!(done && said.contains(chosen), "{offer}: {said}");
    }
    let (done, said) = handshake(both.port(), &["-alpn", "spdy/3"]);
    assert!(!done && said.contains("no application protocol"), "{said}");
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["first.example.com"]);
    let only = gateway(&files, &[(&cert, &key)], ", h2: false");
    let (done, said) = handshake(only.port(), &["-alpn", "h2,http/1.1"]);
    assert!(done && said.contains("ALPN protocol: http/1.1"), "{said}");
    let resolve = format!("first.example.com:{}:127.0.0.1", only.port());
    let url = format!("https://first.example.com:{}/", only.port());
    assert_eq!(curl(&["--http2", "--cacert", cert.to_str().unwrap(), "--resolve", &resolve, &url]).version, "HTTP/1.1");
}

/// A TLS connection that stays open, for whatever is typed into it.
struct Open {
    process: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Open {
    fn new(port: u16, name: &str) -> Open {
        let mut process = Command::new("openssl")
            .args(["s_client", "-quiet", "-servername", name, "-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Open { process, input, output }
    }

    /// The status of a GET, after its whole answer has been read.
    fn get(&mut self) -> String {
        self.input.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (mut status, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the connection was closed");
            match line.trim().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(_) => {}
                None if line.trim().is_empty() => break,
                None => status = line.trim().to_owned(),
            }
        }
        self.output.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_new_certificate_is_served_after_hup_and_open_connections_stay() {
    let files = Files::new();
    let (cert, key, old) = files.certificate(&["first.example.com"]);
    let gateway = gateway(&files, &[(&cert, &key)], "");
    let mut open = Open::new(gateway.port(), "first.example.com");
    assert_eq!(open.get(), "HTTP/1.1 200 OK");
    assert!(served(gateway.port(), None) == without_space(&old));

    let (new_cert, new_key, new) = files.certificate(&["first.example.com"]);
    std::fs::copy(&new_key, &key).unwrap();
    std::fs::copy(&new_cert, &cert).unwrap();
    // Not before it is asked to.
    assert!(served(gateway.port(), None) == without_space(&old));
    gateway.signal("HUP");
    eventually("the new certificate is served", || served(gateway.port(), None) == without_space(&new));
    assert_eq!(open.get(), "HTTP/1.1 200 OK");

    // One that does not fit its key changes nothing.
    let (other, _, _) = files.certificate(&["first.example.com"]);
    std::fs::copy(&other, &cert).unwrap();
    gateway.signal("HUP");
    eventually("the reload is refused", || gateway.metric("portcullis_reloads_total{result=\"refused\"}") == 1.0);
    assert!(served(gateway.port(), None) == without_space(&new));
    assert!(gateway.stderr().contains("goes on serving"), "{}", gateway.stderr());
    assert_eq!(open.get(), "HTTP/1.1 200 OK");
}

/// A plain listener that redirects sends everybody to the same host, path and query over TLS, and serves nobody.
#[test]
fn a_plain_listener_redirects_to_tls() {
    let backend = Backend::http();
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["shop.example"]);
    let yaml = format!(
        "
        listeners:
          - {{ bind: '127.0.0.1:$PORT', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}
          - {{ bind: '127.0.0.1:$PORT2', h2c: true, redirect: https }}
          - {{ bind: '127.0.0.1:$PORT3', redirect: {{ port: 9443 }}, trusted_proxies: [ 127.0.0.1 ] }}
        services: {{ backend: {{ endpoints: ['127.0.0.1:{}'] }} }}
        routes: [ {{ path: /*, service: backend }} ]
        ",
        cert.display(),
        key.display(),
        backend.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let ask = |port: u16, method: &str, target: &str, headers: &[(&str, &str)]| {
        let mut client = Client::connect(port);
        let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        client.send(format!("{method} {target} HTTP/1.1\r\n{head}\r\n"));
        client.answer_to(method)
    };
    let (plain, fixed, tls) = (gateway.port2(), gateway.port3(), gateway.port());
    for (port, method, target, host, status, location) in [
        (plain, "GET", "/a/b?c=d%20e&f", "shop.example".to_owned(), 301, "https://shop.example/a/b?c=d%20e&f".to_owned()),
        (plain, "HEAD", "/", "SHOP.example".to_owned(), 301, "https://shop.example/".to_owned()),
        (plain, "POST", "/a", "shop.example".to_owned(), 308, "https://shop.example/a".to_owned()),
        (plain, "GET", "/a", format!("shop.example:{plain}"), 301, format!("https://shop.example:{tls}/a")),
        (plain, "GET", "/a", format!("[::1]:{plain}"), 301, format!("https://[::1]:{tls}/a")),
        (fixed, "GET", "/a", "shop.example".to_owned(), 301, "https://shop.example:9443/a".to_owned()),
    ] {
        let answer = ask(port, method, target, &[("Host", &host)]);
        assert_eq!((answer.status, answer.header("location")), (status, Some(&*location)), "{method} {target} {host}");
    }
    let h2 = curl(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{plain}/x?y")]);
    assert_eq!((h2.status, h2.header("location")), (301, Some(&*format!("https://127.0.0.1:{tls}/x?y"))));
    // What a trusted proxy took over TLS would be sent in a circle.
    assert_eq!(ask(fixed, "GET", "/", &[("Host", "shop.example"), ("X-Forwarded-Proto", "https")]).status, 200);
    assert_eq!(backend.requests().len(), 1, "nothing else was served");
    // The host is the one that the client named, as far as a trusted proxy says it; everybody else's word counts nothing.
    for (port, claimed, location) in [
        (fixed, "shop.example", "https://shop.example:9443/a"),
        (fixed, "shop.example:8080", "https://shop.example:9443/a"),
        (fixed, "evil.example/x", "https://inner:9443/a"),
        (plain, "shop.example", "https://inner/a"),
    ] {
        let answer = ask(port, "GET", "/a", &[("Host", "inner"), ("X-Forwarded-Host", claimed)]);
        assert_eq!((answer.status, answer.header("location")), (301, Some(location)), "{port} {claimed}");
    }
    assert_eq!(ask(plain, "GET", "/", &[("Host", "shop.example"), ("X-Forwarded-Proto", "https")]).status, 301, "nobody's word");
    // Hosts by which a URL would lead elsewhere.
    for host in ["evil.example/", "a@evil.example", "a\\evil.example", "", "shop.example:80@evil.example"] {
        let answer = ask(plain, "GET", "//evil.example/x", &[("Host", host)]);
        assert_eq!((answer.status, answer.header("location")), (400, None), "{host}");
    }
}
