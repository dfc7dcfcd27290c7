//! TLS by the name that the client asks for: passed on, or answered here.

use std::process::{Command, Stdio};

use pingora_core::tls::ssl::{Ssl, SslAcceptor, SslContextBuilder, SslFiletype, SslMethod, SslStream, SslVerifyMode};

use super::*;

/// An nginx with TLS of its own that says who it is, and its certificate.
struct Tls {
    nginx: Nginx,
    ca: std::path::PathBuf,
}

fn tls_server(files: &Files, names: &[&str], says: &str) -> Tls {
    let (cert, key, _) = files.certificate(names);
    let conf = format!(
        "listen 127.0.0.1:$PORT ssl http2; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 '{says} $ssl_server_name $server_protocol'; }}",
        cert.display(),
        key.display()
    );
    Tls { nginx: Nginx::start(&conf), ca: cert }
}

/// What curl gets at `https://NAME:PORT/`, if it trusts that certificate.
fn https(port: u16, name: &str, ca: &std::path::Path, more: &[&str]) -> Result<String, String> {
    let (url, resolve) = (format!("https://{name}:{port}/"), format!("{name}:{port}:127.0.0.1"));
    let ca = ca.display().to_string();
    let args = [&["--resolve", &resolve, "--cacert", &ca, &url], more].concat();
    try_curl(&args).map(|answer| answer.text())
}

/// Connects as `openssl s_client`, and gives what it says of the connection.
fn s_client(port: u16, args: &[&str]) -> String {
    let address = format!("127.0.0.1:{port}");
    let output =
        Command::new("openssl").args(["s_client", "-connect", &address]).args(args).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn tls_is_passed_on_by_the_name_that_is_asked_for() {
    let files = Files::new();
    let a = tls_server(&files, &["a.example.org"], "a");
    let b = tls_server(&files, &["b.example.org", "x.y.example.org"], "b");
    let other = tls_server(&files, &["elsewhere.test"], "other");
    let yaml = format!(
        "
        listeners: [ {{ name: edge, bind: '127.0.0.1:$PORT', protocol: tcp, timeouts: {{ handshake: 1s }} }} ]
        services:
          a: {{ endpoints: [ '127.0.0.1:{}' ] }}
          b: {{ endpoints: [ '127.0.0.1:{}' ] }}
          other: {{ endpoints: [ '127.0.0.1:{}' ] }}
        tcp_routes:
          - {{ listeners: edge, sni: A.example.org, service: a }}
          - {{ listeners: edge, sni: '*.example.org', service: b }}
        server: {{ workers: 2 }}
        ",
        a.nginx.port(),
        b.nginx.port(),
        other.nginx.port()
    );
    let gateway = Gateway::start(&yaml);
    let port = gateway.port();
    // The certificate is the server's own, and so is the choice of the protocol.
    assert_eq!(https(port, "a.example.org", &a.ca, &[]).unwrap(), "a a.example.org HTTP/2.0");
    assert_eq!(https(port, "a.example.org", &a.ca, &["--http1.1"]).unwrap(), "a a.example.org HTTP/1.1");
    assert_eq!(https(port, "b.example.org", &b.ca, &["--tls-max", "1.2"]).unwrap(), "b b.example.org HTTP/2.0");
    assert_eq!(https(port, "x.y.example.org", &b.ca, &[]).unwrap(), "b x.y.example.org HTTP/2.0");
    let line = gateway.wait_log(|line| line["server_name"] == "x.y.example.org");
    assert_eq!(
        (&line["tls"], &line["route"], &line["protocol"]),
        (&json!("passthrough"), &json!("*.example.org@edge"), &json!("tcp"))
    );
    // Nobody else's: with an alert, where there is TLS.
    assert!(https(port, "elsewhere.test", &other.ca, &[]).is_err());
    let said = s_client(port, &["-servername", "elsewhere.test"]);
    assert!(said.contains("unrecognized name"), "{said}");
    assert!(s_client(port, &["-noservername"]).contains("unrecognized name"));
    assert_eq!(gateway.wait_log(|line| line["server_name"] == "elsewhere.test")["reason"], "no_route");
    assert_eq!(raw(port, b"GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n"), b"");
    gateway.wait_log(|line| line["reason"] == "not_tls");
    // Who does not finish has a moment, however it trickles.
    let mut slow = connect(port);
    let began = Instant::now();
    for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" {
        slow.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(rest(&mut slow).unwrap_or_default(), b"");
    assert!((900..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    gateway.wait_log(|line| line["reason"] == "hello_timeout");
    assert_eq!(raw(port, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), b"");
    gateway.wait_log(|line| line["reason"] == "hello_malformed");
    gateway.wait_metric("portcullis_connections_refused_total{listener=\"edge\",reason=\"no_route\"}", 3.0);
    // With somebody for what is left over.
    let more = "  - { listeners: edge, sni: '*', service: other }\n          - { listeners: edge, service: a }\n        server";
    gateway.rewrite(&yaml.replace("server", more));
    assert_eq!(gateway.reload().0, 200, "{}", gateway.stderr());
    assert_eq!(https(port, "elsewhere.test", &other.ca, &[]).unwrap(), "other elsewhere.test HTTP/2.0");
    assert!(
        s_client(port, &["-noservername"]).contains("elsewhere.test")
            || s_client(port, &["-noservername"]).contains("BEGIN CERTIFICATE")
    );
    let answer = String::from_utf8(raw(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).unwrap();
    assert!(answer.contains("plain HTTP request was sent to HTTPS port"), "{answer}");
}

#[test]
fn some_names_are_passed_on_and_the_others_served() {
    let files = Files::new();
    let passed = tls_server(&files, &["db.example.org"], "passed");
    let (cert, key, _) = files.certificate(&["www.example.org", "db.example.org"]);
    let yaml = format!(
        "
        listeners:
          - {{ name: edge, bind: '127.0.0.1:$PORT', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}, timeouts: {{ handshake: 1s }} }}
        services: {{ db: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
        routes: [ {{ path: /*, respond: {{ status: 200, body: served }} }} ]
        tcp_routes: [ {{ listeners: edge, sni: db.example.org, service: db, passthrough: true }} ]
        server: {{ workers: 2 }}
        ",
        cert.display(),
        key.display(),
        passed.nginx.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let port = gateway.port();
    for version in ["--http1.1", "--http2"] {
        assert!(https(port, "db.example.org", &passed.ca, &[version]).unwrap().starts_with("passed db.example.org"));
        assert_eq!(https(port, "www.example.org", &cert, &[version]).unwrap(), "served");
    }
    // Without a name, with another protocol, with noise: as on any listener for HTTPS.
    assert!(
        s_client(port, &["-noservername"]).contains("www.example.org") || !s_client(port, &["-noservername"]).contains("errno")
    );
    let clear = String::from_utf8(raw(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).unwrap();
    assert!(clear.starts_with("HTTP/1.1 400"), "{clear}");
    let mut slow = connect(port);
    slow.write_all(b"\x16\x03\x01").unwrap();
    assert_eq!(rest(&mut slow).unwrap_or_default(), b"");
    assert_eq!(raw(port, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").first().copied().unwrap_or(21), 21, "an alert, or nothing");
    // A name that is passed on is not to be had over a connection to another one: a client that shares connections is sent back.
    let target = format!("https://www.example.org:{port}/");
    let resolve = format!("www.example.org:{port}:127.0.0.1");
    let ca = cert.display().to_string();
    let shared = curl(&["--resolve", &resolve, "--cacert", &ca, "-H", "Host: db.example.org", &target]);
    assert_eq!(shared.status, 421, "{shared:?}");
    gateway.wait_log(|line| line["route"] == "db.example.org@edge" && line["tls"] == "passthrough");
    gateway.wait_log(|line| line["protocol"] == "h2" && line["status"] == 200);
    // Where a balancer may say who the client is, and does not, its look for a header has read the beginning of the hello.
    let behind = yaml.replace("timeouts: {", "proxy_protocol: { trusted: [ 127.0.0.1 ], required: false }, timeouts: {");
    gateway.rewrite(&behind);
    assert_eq!(gateway.reload().0, 200);
    assert!(https(port, "db.example.org", &passed.ca, &[]).unwrap().starts_with("passed db.example.org"));
    assert_eq!(https(port, "www.example.org", &cert, &[]).unwrap(), "served");
    let through = https(port, "db.example.org", &passed.ca, &["--haproxy-protocol"]).unwrap();
    assert!(through.starts_with("passed db.example.org"));
}

#[test]
fn tls_is_answered_here_for_a_service_without() {
    let files = Files::new();
    let nginx = Nginx::start("location / { return 200 'plain $server_protocol'; }");
    let passed = tls_server(&files, &["own.example.org"], "own");
    let (cert, key, _) = files.certificate(&["*.example.org"]);
    let yaml = format!(
        "
        listeners:
          - {{ name: edge, bind: '127.0.0.1:$PORT', protocol: tcp, tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}
          - {{ name: again, bind: '127.0.0.1:$PORT2', protocol: tcp }}
        services:
          plain: {{ endpoints: [ '127.0.0.1:{}' ] }}
          own: {{ endpoints: [ '127.0.0.1:{}' ] }}
          over_tls: {{ endpoints: [ '127.0.0.1:{}' ], tls: {{ ca: '{}', server_name: own.example.org }} }}
        tcp_routes:
          - {{ listeners: edge, service: plain }}
          - {{ listeners: edge, sni: own.example.org, service: own, passthrough: true }}
          - {{ listeners: edge, sni: again.example.org, service: over_tls }}
          - {{ listeners: again, service: over_tls }}
        server: {{ workers: 2 }}
        ",
        cert.display(),
        key.display(),
        nginx.port(),
        passed.nginx.port(),
        passed.nginx.port(),
        passed.ca.display()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let port = gateway.port();
    // No protocol is chosen for the client, which then speaks HTTP/1.1.
    assert_eq!(https(port, "www.example.org", &cert, &[]).unwrap(), "plain HTTP/1.1");
    assert!(https(port, "own.example.org", &passed.ca, &[]).unwrap().starts_with("own own.example.org"));
    // To the service over TLS of the gateway's, be the client's decrypted or none at all.
    assert_eq!(https(port, "again.example.org", &cert, &[]).unwrap(), "own own.example.org HTTP/1.1");
    assert_eq!(get(gateway.port2(), "/").text(), "own own.example.org HTTP/1.1");
    let line = gateway.wait_log(|line| line["service"] == "plain");
    assert!(line["tls"].as_str().unwrap().starts_with("TLSv1") && line["server_name"] == "www.example.org", "{line}");
    assert_eq!(raw(port, b"PING\r\n"), b"");
    gateway.wait_log(|line| line["reason"] == "not_tls");
    // A service with another certificate than it should have is not connected to.
    gateway.rewrite(&yaml.replace("server_name: own.example.org", "server_name: other.example.org"));
    assert_eq!(gateway.reload().0, 200);
    assert!(raw(gateway.port2(), b"GET / HTTP/1.1\r\n\r\n").is_empty());
    gateway.wait_log(|line| line["reason"] == "tls_failure");
}

#[test]
fn what_is_cut_off_inside_of_tls_does_not_look_whole() {
    let back = listening(|mut stream| {
        stream.write_all(b"the first half").unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        match first {
            [b'r'] => reset(stream),
            _ => stream.write_all(b" and the second").unwrap(),
        }
    });
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["example.org"]);
    let yaml = plain(&[back], "", "").replace(
        "protocol: tcp",
        &format!("protocol: tcp, tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }}", cert.display(), key.display()),
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let says = |word: &str| {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", gateway.port())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(word.as_bytes()).unwrap();
        stdin.flush().unwrap();
        let output = client.wait_with_output().unwrap();
        drop(stdin);
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (said, complained) = says("w");
    assert_eq!(said, "the first half and the second", "{complained}");
    assert!(!complained.contains("unexpected eof"), "{complained}");
    let (_, complained) = says("r");
    assert!(complained.contains("unexpected eof") || complained.contains("errno=104"), "{complained}");
    gateway.wait_log(|line| line["reason"] == "service_reset");
}

#[test]
fn tls_that_ends_without_saying_so_is_a_break() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["example.org"]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = heard.clone();
    let back = listening(move |mut stream| {
        let all = rest(&mut stream).map_err(|error| error.kind());
        noted.lock().unwrap().push(all);
    });
    // One that says the same, and ends as it is asked to.
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).unwrap();
    acceptor.set_private_key_file(&key, SslFiletype::PEM).unwrap();
    acceptor.set_certificate_chain_file(&cert).unwrap();
    let acceptor = acceptor.build();
    let secure = listening(move |stream| {
        let Ok(mut stream) = acceptor.accept(stream) else { return };
        let mut asked = [0];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(b"said").unwrap();
        end(&mut stream, asked == *b"w");
    });
    let (cert, key) = (cert.display(), key.display());
    let yaml = format!(
        "
        listeners:
          - {{ name: edge, bind: '127.0.0.1:$PORT', protocol: tcp, tls: {{ certificates: [ {{ cert: '{cert}', key: '{key}' }} ] }} }}
          - {{ name: again, bind: '127.0.0.1:$PORT2', protocol: tcp }}
        services:
          back: {{ endpoints: [ '127.0.0.1:{back}' ] }}
          secure: {{ endpoints: [ '127.0.0.1:{secure}' ], tls: {{ ca: '{cert}', server_name: example.org }} }}
        tcp_routes: [ {{ listeners: edge, service: back }}, {{ listeners: again, service: secure }} ]
        server: {{ workers: 2 }}
        "
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::NONE);
    let context = context.build();
    // OpenSSL takes such an end for an error.
    let words =
        if cfg!(feature = "boringssl") { ["client_cut_off", "service_cut_off"] } else { ["client_reset", "service_reset"] };
    for (whole, reason) in [(true, "client_closed"), (false, words[0])] {
        let mut client = Ssl::new(&context).unwrap().connect(connect(gateway.port())).unwrap();
        client.write_all(b"half").unwrap();
        gateway.wait_metric("portcullis_tcp_bytes_total{route=\"edge\",direction=\"in\"}", if whole { 4.0 } else { 8.0 });
        end(&mut client, whole);
        gateway.wait_log(|line| line["reason"] == reason);
    }
    eventually("both were heard", || heard.lock().unwrap().len() == 2);
    assert_eq!(*heard.lock().unwrap(), [Ok(b"half".to_vec()), Err(ErrorKind::ConnectionReset)]);
    for (word, reason, whole) in [(b"w", "service_closed", true), (b"c", words[1], false)] {
        let mut client = connect(gateway.port2());
        client.write_all(word).unwrap();
        let all = rest(&mut client).map_err(|error| error.kind());
        assert_eq!(all.is_ok(), whole, "{all:?}");
        assert!(all.is_ok_and(|all| all == b"said") || !whole);
        drop(client);
        gateway.wait_log(|line| line["reason"] == reason);
    }
}

/// Ends it, with the word that belongs to that or without.
fn end(stream: &mut SslStream<TcpStream>, whole: bool) {
    if whole {
        stream.shutdown().unwrap();
    }
    stream.get_ref().shutdown(Shutdown::Write).unwrap();
}
