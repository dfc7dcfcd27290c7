//! What the gateway speaks to backends: TLS, HTTP/2, kept connections; with nginx on the other side.

use std::path::Path;

use super::{SERVER, noise, tool};
use crate::harness::{Backend, Client, Files, Gateway, Nginx, curl, eventually, get, request};

/// A gateway with one service, written out, behind every path.
fn gateway(files: &Files, service: &str, section: &str) -> Gateway {
    Gateway::start_in(
        files,
        &format!(
            "
             listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
             services: {{ nginx: {service} }}
             routes: [ {{ path: /*, service: nginx }} ]
             {section}
            "
        ),
    )
}

/// An nginx that speaks TLS with this certificate and passes everything on to a backend that echoes bodies.
fn secure_nginx(listen: &str, cert: &Path, key: &Path, behind: u16) -> Nginx {
    Nginx::start(&format!(
        "listen 127.0.0.1:$PORT ssl {listen};
         ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 16m;
         location /about {{ return 200 '$server_protocol $ssl_server_name $host $request_method'; }}
         location / {{ proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1; }}
        ",
        cert.display(),
        key.display()
    ))
}

fn echo() -> Backend {
    Backend::answering(|request| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend_from_slice(&request.body);
        answer
    })
}

/// To an nginx in the clear and to one behind TLS: the test gets what an nginx needs in its `server` block, and
/// what a service that leads there says about TLS.
fn in_the_clear_and_over_tls(test: impl Fn(&str, &str) + Sync) {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["inner.example.com"]);
    let (cert, key) = (cert.display(), key.display());
    let listen = format!("listen 127.0.0.1:$PORT ssl; ssl_certificate {cert}; ssl_certificate_key {key};");
    let tls = format!("tls: {{ ca: '{cert}', server_name: inner.example.com }}");
    test("", "");
    test(&listen, &tls);
}

#[test]
fn a_backend_is_verified_by_authority_and_name() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["inner.example.com"]);
    let (other, _, _) = files.certificate(&["inner.example.com"]);
    let behind = echo();
    let nginx = secure_nginx("", &cert, &key, behind.port());
    let service = |tls: &str| format!("{{ endpoints: ['127.0.0.1:{}'], tls: {{ {tls} }} }}", nginx.port());
    let (ca, wrong) = (cert.display(), other.display());

    let good = gateway(&Files::new(), &service(&format!("ca: '{ca}', server_name: inner.example.com")), SERVER);
    let answer = get(good.port(), "/about");
    assert_eq!((answer.status, answer.text().split(' ').nth(1)), (200, Some("inner.example.com")), "{answer:?}");
    let body = noise(1 << 20);
    assert!(request(good.port(), "POST", "/echo", &[], &body).body == body);

    for tls in [
        // Another name than the certificate's, another authority, and none at all but the system's.
        format!("ca: '{ca}', server_name: outer.example.com"),
        format!("ca: '{wrong}', server_name: inner.example.com"),
        "server_name: inner.example.com".to_owned(),
    ] {
        let bad = gateway(&Files::new(), &service(&tls), SERVER);
        get(bad.port(), "/about").assert_problem(502, "upstream", "tls_failure");
        let line = bad.wait_log(|line| line["status"] == 502);
        assert_eq!(line["reason"], "tls_failure", "{line}");
    }
    let trusting = gateway(&Files::new(), &service("verify: false, server_name: any.example.com"), SERVER);
    assert_eq!(get(trusting.port(), "/about").status, 200);
    // Five gateways, two of which got through. nginx writes its line after its answer.
    let asked = || nginx.access_log().lines().filter(|line| line.contains("/about")).count();
    eventually("both that got through are logged", || asked() >= 2);
    assert_eq!(asked(), 2, "{}", nginx.access_log());
}

#[test]
fn a_plaintext_backend_where_tls_is_expected_is_a_bad_gateway() {
    let backend = Backend::scripted(|mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let tls = "tls: { verify: false, server_name: a.test }";
    let service = format!("{{ endpoints: ['127.0.0.1:{}'], {tls} }}", backend.port());
    let gateway = gateway(&Files::new(), &service, SERVER);
    get(gateway.port(), "/").assert_problem(502, "upstream", "tls_failure");
}

#[test]
fn http2_is_spoken_over_tls_and_in_the_clear() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["inner.example.com"]);
    let behind = echo();
    let secure = secure_nginx("http2", &cert, &key, behind.port());
    let clear = Nginx::start(&format!(
        "listen 127.0.0.1:$PORT http2; client_max_body_size 16m;
         location /about {{ return 200 '$server_protocol $ssl_server_name $host $request_method'; }}
         location / {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1; }}
        ",
        behind.port()
    ));
    let tls = format!("tls: {{ ca: '{}', server_name: inner.example.com }}", cert.display());
    for (port, tls) in [(secure.port(), &*tls), (clear.port(), "")] {
        // A busy machine shakes hands slowly.
        let timeouts = "timeouts: { connect: 20s }";
        let service = format!("{{ endpoints: ['127.0.0.1:{port}'], protocol: http2, {timeouts}, {tls} }}");
        let gateway = gateway(&Files::new(), &service, SERVER);
        let answer = request(gateway.port(), "GET", "/about", &[("Host", "shop.example.com")], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text();
        assert!(text.starts_with("HTTP/2.0 ") && text.ends_with(" shop.example.com GET"), "{text}");
        // From an HTTP/2 client, and bodies in both directions, of known and of unknown length.
        let about = curl(&["--http2-prior-knowledge", &gateway.url("/about")]);
        assert!(about.text().starts_with("HTTP/2.0 ") && about.version == "HTTP/2", "{about:?}");
        let body = noise(1 << 20);
        let file = gateway.files().write("body", &body);
        let data = format!("@{}", file.display());
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for args in [vec!["--data-binary", &data], vec!["-H", "Transfer-Encoding: chunked", "--data-binary", &data]] {
                let url = gateway.url("/echo");
                let answer = curl(&[&args[..], &[version, &url]].concat());
                assert!(answer.status == 200 && answer.body == body, "{version} {args:?} {}", answer.body.len());
            }
            let head = curl(&[version, "--head", &gateway.url("/about")]);
            assert_eq!((head.status, head.body.len()), (200, 0), "{head:?}");
            let empty = curl(&[version, "-X", "POST", &gateway.url("/echo")]);
            assert_eq!((empty.status, empty.body.len()), (200, 0), "{empty:?}");
        }
        // Many at once, more than one connection's worth of streams.
        let (_, said) = tool("h2load", &["-n", "2000", "-c", "3", "-m", "100", &gateway.url("/about")], b"");
        let failed: Vec<_> = gateway.log().into_iter().filter(|line| line["status"] != 200).take(3).collect();
        assert!(said.contains("status codes: 2000 2xx"), "{said} {failed:?}");
    }
}

#[test]
fn a_backend_without_http2_is_a_bad_gateway() {
    let files = Files::new();
    let (cert, key, _) = files.certificate(&["inner.example.com"]);
    let secure = secure_nginx("", &cert, &key, 9);
    let clear = Backend::http();
    let tls = format!("tls: {{ ca: '{}', server_name: inner.example.com }}", cert.display());
    for (port, tls) in [(secure.port(), &*tls), (clear.port(), "")] {
        let service = format!("{{ endpoints: ['127.0.0.1:{port}'], protocol: http2, {tls} }}");
        let gateway = gateway(&Files::new(), &service, SERVER);
        let answer = get(gateway.port(), "/about");
        assert_eq!((answer.status, answer.header("content-type")), (502, Some("application/problem+json")), "{answer:?}");
        assert_eq!(answer.json()["policy"], "upstream");
    }
}

#[test]
fn connections_to_backends_are_kept() {
    in_the_clear_and_over_tls(|listen, tls| {
        let nginx = Nginx::start(&format!("{listen} location / {{ return 200 '$connection_requests'; }}"));
        let service = format!("{{ endpoints: ['127.0.0.1:{}'], {tls} }}", nginx.port());
        let gateway = gateway(&Files::new(), &service, &SERVER.replace("workers: 2", "workers: 1"));
        // Connections of clients come and go, the one to the backend stays.
        let counts: Vec<u32> = (0..20).map(|_| get(gateway.port(), "/").text().parse().unwrap()).collect();
        let first = counts[0];
        assert_eq!(counts, (first..first + 20).collect::<Vec<_>>());
        let mut client = Client::connect(gateway.port());
        let counts: Vec<u32> = (0..20).map(|_| client.get("/").text().parse().unwrap()).collect();
        assert_eq!(counts, (first + 20..first + 40).collect::<Vec<_>>());
    });
}

#[test]
fn connections_that_the_backend_closes_are_made_anew() {
    in_the_clear_and_over_tls(|listen, tls| {
        // The last `keepalive_requests` of the file wins over the harness's only inside the server block.
        let nginx = Nginx::start(&format!("{listen} keepalive_requests 3; location / {{ return 200 '$connection_requests'; }}"));
        let service = format!("{{ endpoints: ['127.0.0.1:{}'], {tls} }}", nginx.port());
        let gateway = gateway(&Files::new(), &service, &SERVER.replace("workers: 2", "workers: 1"));
        let mut client = Client::connect(gateway.port());
        for _ in 0..30 {
            let answer = client.get("/");
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.text().parse::<u32>().unwrap() <= 3);
        }
        for _ in 0..10 {
            let answer = client.request("POST", "/", &[], b"body");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
}

#[test]
fn files_ranges_and_conditions_pass_through() {
    in_the_clear_and_over_tls(|listen, tls| {
        let files = Files::new();
        let content = noise(5 << 20);
        files.write("file.bin", &content);
        let nginx = Nginx::start_in(&files, &format!("{listen} root {};", files.dir().display()));
        let service = format!("{{ endpoints: ['127.0.0.1:{}'], {tls} }}", nginx.port());
        let gateway = gateway(&Files::new(), &service, SERVER);
        let mut client = Client::connect(gateway.port());
        let whole = client.get("/file.bin");
        assert!(whole.status == 200 && whole.body == content);
        let etag = whole.header("etag").unwrap();
        let part = client.request("GET", "/file.bin", &[("Range", "bytes=1000-1999")], b"");
        assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000-1999/5242880")), "{part:?}");
        assert!(part.body == content[1000..2000]);
        let same = client.request("GET", "/file.bin", &[("If-None-Match", etag)], b"");
        assert_eq!((same.status, same.body.len()), (304, 0), "{same:?}");
        let head = client.request("HEAD", "/file.bin", &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, Some("5242880")), "{head:?}");
        assert_eq!(client.get("/missing").status, 404);
        // Every answer so far came over one connection. And over HTTP/2:
        let whole = curl(&["--http2-prior-knowledge", &gateway.url("/file.bin")]);
        assert!(whole.status == 200 && whole.body == content);
    });
}

#[test]
fn an_upload_that_waits_for_100_continue_gets_it() {
    let backend = echo();
    let service = format!("{{ endpoints: ['127.0.0.1:{}'] }}", backend.port());
    let gateway = gateway(&Files::new(), &service, SERVER);
    let body = noise(2 << 20);
    let file = gateway.files().write("body", &body);
    let data = format!("@{}", file.display());
    // Long enough to fail the test if nobody says 100.
    let args = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "25", "--max-time", "20"];
    let answer = curl(&[&args[..], &["--data-binary", &data, &gateway.url("/")]].concat());
    assert!(answer.status == 200 && answer.body == body, "{:?}", answer.status);
}
