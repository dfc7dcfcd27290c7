//! HTTP/2 from clients: over TLS, and in the clear with prior knowledge.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{SERVER, noise, tool};
use crate::harness::{Backend, Files, Gateway, curl, eventually, try_curl};

/// A plaintext listener that takes HTTP/2, one with TLS, and one for HTTP/1.1 only.
fn gateway(files: &Files, backend: &Backend) -> (Gateway, String) {
    let (cert, key, _) = files.certificate(&["h2.example.com", "localhost"]);
    let gateway = Gateway::start_in(
        files,
        &format!(
            "
             listeners:
               - {{ bind: '127.0.0.1:$PORT', h2c: true, limits: {{ body: 4MiB, head: 16KiB, uri: 1KiB }} }}
               - {{ bind: '127.0.0.1:$PORT2', tls: {{ certificates: [ {{ cert: '{}', key: '{}' }} ] }} }}
               - {{ bind: '127.0.0.1:$PORT3' }}
             services: {{ backend: {{ endpoints: ['127.0.0.1:{}'], timeouts: {{ connect: 20s }} }} }}
             routes:
               - {{ path: /*, service: backend }}
               - {{ host: posts.test, path: /posts, methods: [POST], service: backend }}
               - {{ path: /private, service: backend, policies: {{ authn: {{ api_key: {{}} }} }} }}
               - {{ path: /limited, service: backend, policies: {{ rate_limit: {{ by: client_address, limit: 1/hour }} }} }}
             {SERVER}
            ",
            cert.display(),
            key.display(),
            backend.port()
        ),
    );
    (gateway, cert.display().to_string())
}

const H2C: &str = "--http2-prior-knowledge";

#[test]
fn requests_pass_over_tls_and_in_the_clear() {
    let backend = Backend::http();
    let (gateway, cert) = gateway(&Files::new(), &backend);
    let url = format!("https://h2.example.com:{}/a?b=c", gateway.port2());
    let resolve = format!("h2.example.com:{}:127.0.0.1", gateway.port2());
    let answer = curl(&["--http2", "--cacert", &cert, "--resolve", &resolve, "-H", "X-Mine: 1", &url]);
    assert_eq!((answer.version.as_str(), answer.status), ("HTTP/2", 200), "{answer:?}");
    let seen = answer.json();
    assert_eq!((&seen["method"], &seen["target"], &seen["headers"]["x-mine"]), (&json!("GET"), &json!("/a?b=c"), &json!("1")));
    assert_eq!(seen["headers"]["host"], format!("h2.example.com:{}", gateway.port2()));
    assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
    assert_eq!(seen["headers"]["connection"], json!(null));
    let line = gateway.wait_log(|line| line["path"] == "/a");
    assert_eq!((&line["protocol"], &line["tls"], &line["status"]), (&json!("h2"), &json!("TLSv1.3"), &json!(200)), "{line}");

    let answer = curl(&[H2C, &gateway.url("/b")]);
    assert_eq!((answer.version.as_str(), answer.status), ("HTTP/2", 200), "{answer:?}");
    // The same listener still speaks HTTP/1.1.
    assert_eq!(curl(&["--http1.1", &gateway.url("/b")]).version, "HTTP/1.1");
    // Where it was not asked for, the preface is no request.
    let refused = try_curl(&[H2C, &format!("http://127.0.0.1:{}/", gateway.port3())]);
    assert!(refused.is_err(), "{refused:?}");
    // An upgrade to h2c is ignored, as RFC 9113 wants it by now.
    let answer = curl(&["--http2", &format!("http://127.0.0.1:{}/c", gateway.port3())]);
    assert_eq!((answer.version.as_str(), answer.status), ("HTTP/1.1", 200), "{answer:?}");
    assert_eq!(answer.json()["headers"]["http2-settings"], json!(null));
    assert_eq!(answer.json()["headers"]["upgrade"], json!(null));
}

#[test]
fn many_streams_share_a_connection() {
    let backend = Backend::http();
    let (gateway, _) = gateway(&Files::new(), &backend);
    for url in [gateway.url("/"), format!("https://localhost:{}/", gateway.port2())] {
        let to = format!("--connect-to=127.0.0.1:{}", url.rsplit(':').next().unwrap().trim_end_matches('/'));
        let (ended, said) = tool("h2load", &["-n", "4000", "-c", "4", "-m", "100", &to, &url], b"");
        assert!(ended && said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    }
    eventually("every stream is logged", || gateway.log().len() == 8000);
}

#[test]
fn large_bodies_pass_unchanged_in_both_directions() {
    let body = noise(3 << 20);
    let echo = Backend::answering(|request| {
        let head = match request.target.as_str() {
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()),
        };
        let mut answer = head.into_bytes();
        match request.target.as_str() {
            "/chunked" => {
                for piece in request.body.chunks(50_000) {
                    answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    answer.extend_from_slice(piece);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
            }
            _ => answer.extend_from_slice(&request.body),
        }
        answer
    });
    let files = Files::new();
    let file = files.write("body", &body);
    let (gateway, cert) = gateway(&files, &echo);
    let resolve = format!("h2.example.com:{}:127.0.0.1", gateway.port2());
    let secure = format!("https://h2.example.com:{}", gateway.port2());
    let data = format!("@{}", file.display());
    for path in ["/length", "/chunked"] {
        for args in [vec![H2C, "--data-binary", &data], vec![H2C, "-X", "POST", "-T", file.to_str().unwrap()]] {
            let url = gateway.url(path);
            let answer = curl(&[&args[..], &[&url]].concat());
            assert_eq!((answer.version.as_str(), answer.status), ("HTTP/2", 200));
            assert!(answer.body == body, "{path}: {} bytes came back", answer.body.len());
        }
        let url = format!("{secure}{path}");
        let answer = curl(&["--http2", "--cacert", &cert, "--resolve", &resolve, "--data-binary", &data, &url]);
        assert!(answer.status == 200 && answer.body == body, "{path}: {} bytes came back", answer.body.len());
    }
    let line = gateway.wait_log(|line| line["path"] == "/length");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(3 << 20), &json!(3 << 20)), "{line}");
}

#[test]
fn a_body_of_unknown_length_is_streamed_to_the_backend() {
    let backend = Backend::http();
    let (gateway, _) = gateway(&Files::new(), &backend);
    let mut client = Command::new("curl")
        .args(["-q", "-sS", "-i", H2C, "--max-time", "20", "-X", "POST", "-T", "-", "-H", "Expect:", &gateway.url("/stream")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    input.write_all(b"first ").unwrap();
    input.flush().unwrap();
    eventually("the request reaches the backend before its body ends", || backend.connections() == 1);
    input.write_all(b"second").unwrap();
    drop(input);
    let output = client.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/2 200"), "{output:?}");
    let seen = backend.last();
    assert_eq!((seen.header("transfer-encoding"), seen.header("content-length")), (Some("chunked"), None), "{seen:?}");
    assert_eq!(seen.body, b"first second");
}

#[test]
fn bodiless_requests_and_answers_stay_so() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/none" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/same" => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 10\r\n\r\n".to_vec(),
        "/empty" => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-Body: no\r\n\r\n".to_vec(),
    });
    let (gateway, _) = gateway(&Files::new(), &backend);
    let answer = curl(&[H2C, "--head", &gateway.url("/head")]);
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("1234"), 0), "{answer:?}");
    let seen = backend.last();
    assert_eq!((seen.method.as_str(), seen.header("transfer-encoding"), seen.header("content-length")), ("HEAD", None, None));
    for (path, status) in [("/none", 204), ("/same", 304), ("/empty", 200)] {
        let answer = curl(&[H2C, &gateway.url(path)]);
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{answer:?}");
    }
    let answer = curl(&[H2C, "-X", "POST", &gateway.url("/empty")]);
    assert_eq!(answer.status, 200);
    let seen = backend.last();
    assert!(seen.complete && seen.body.is_empty() && seen.header("transfer-encoding").is_none(), "{seen:?}");
}

#[test]
fn cookies_that_came_in_pieces_are_joined() {
    let backend = Backend::http();
    let (gateway, _) = gateway(&Files::new(), &backend);
    // nghttp sends what it is told; curl would join them itself.
    let url = gateway.url("/cookies");
    let (ended, said) = tool("nghttp", &["-v", "-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "x: 1", "-H", "x: 2", &url], b"");
    assert!(ended && said.contains(":status: 200"), "{said}");
    let seen = backend.last();
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.all("x"), ["1", "2"]);
}

#[test]
fn refusals_are_problem_bodies() {
    let backend = Backend::http();
    let files = Files::new();
    let large = files.write("large", noise(5 << 20));
    let (gateway, cert) = gateway(&files, &backend);
    let long = format!("/{}", "a".repeat(2000));
    let data = format!("@{}", large.display());
    curl(&[H2C, &gateway.url("/limited")]);
    let cases: [(&[&str], &str, u16, &str, &str); 7] = [
        (&[], "/private", 401, "authn", "missing_credentials"),
        (&["-H", "Host: posts.test"], "/posts", 405, "route", "method_not_allowed"),
        (&[], "/limited", 429, "rate_limit", "rate_limited"),
        (&[], "/a%zz", 400, "door", "path_bad_escape"),
        (&[], &long, 414, "door", "uri_too_long"),
        (&["--data-binary", &data], "/large", 413, "bounds", "body_too_large"),
        // No length is told, so it is found out while the body is on its way.
        (&["-H", "Content-Length:", "--data-binary", &data], "/large", 413, "bounds", "body_too_large"),
    ];
    for (args, path, status, policy, reason) in cases {
        let url = gateway.url(path);
        let answer = curl(&[args, &[H2C, &url]].concat());
        assert_eq!(answer.version, "HTTP/2");
        answer.assert_problem(status, policy, reason);
        gateway.wait_log(|line| line["status"] == status && line["protocol"] == "h2");
    }
    let resolve = format!("h2.example.com:{}:127.0.0.1", gateway.port2());
    let url = format!("https://h2.example.com:{}/private", gateway.port2());
    let answer = curl(&["--http2", "--cacert", &cert, "--resolve", &resolve, &url]);
    answer.assert_problem(401, "authn", "missing_credentials");
    // A refused stream is not the end of its connection: both come over one.
    let (_, said) = tool("nghttp", &["-v", &gateway.url("/private"), &gateway.url("/b")], b"");
    assert!(said.contains(":status: 401") && said.contains(":status: 200"), "{said}");
    assert_eq!(said.matches("Connected").count(), 1, "{said}");
}

#[test]
fn streams_finish_while_the_process_stops() {
    let backend = Backend::answering(|_| {
        // Long enough for the signal to come in between.
        std::thread::sleep(Duration::from_millis(1500));
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone".to_vec()
    });
    let (mut gateway, _) = gateway(&Files::new(), &backend);
    let client = Command::new("nghttp").args(["-v", &gateway.url("/slow")]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the request is under way", || backend.connections() == 1);
    gateway.signal("TERM");
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(":status: 200") && said.contains("done"), "{said}");
    assert!(said.contains("GOAWAY"), "{said}");
    assert!(gateway.wait_exit(Duration::from_secs(10)).success());
}
