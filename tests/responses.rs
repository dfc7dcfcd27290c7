//! What the gateway makes of answers on their way to the client: compression, tags, security headers; and answers that it gives by itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;

use crate::harness::*;

const YAML: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ], timeouts: { response: 10s } }
      b: { endpoints: [ '127.0.0.1:$BACKEND' ] }
    policies: { compress: {} }
    routes:
      - { path: /cached/*, service: a, strip_prefix: /cached, policies: { cache: { ttl: 60s } } }
      - { path: /split/*, strip_prefix: /split, split: [ { service: a, weight: 1 }, { service: b, weight: 1 } ] }
      - { path: /off/*, service: a, strip_prefix: /off, policies: { compress: false } }
      - { path: /*, service: a }
";

fn text() -> String {
    (0..400).map(|number| format!("line {number} of a text that can be made shorter\n")).collect()
}

fn answer(status: u16, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Texts in many shapes.
fn backend() -> Backend {
    Backend::answering(|request| {
        const KIND: &str = "Content-Type: text/plain; charset=utf-8\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\n";
        let tag = request.header("if-none-match").unwrap_or_default().trim_start_matches("W/").to_owned();
        match request.target.as_str() {
            "/text" if tag == "\"v1\"" => b"HTTP/1.1 304 X\r\nETag: \"v1\"\r\n\r\n".to_vec(),
            "/text" if request.method == "HEAD" => {
                format!("HTTP/1.1 200 X\r\n{KIND}Accept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n", text().len()).into_bytes()
            }
            "/text" if request.header("range").is_some() => {
                answer(206, &format!("{KIND}Content-Range: bytes 0-4/{}\r\n", text().len()), "line ")
            }
            "/text" => answer(200, &format!("{KIND}Accept-Ranges: bytes\r\nContent-MD5: x\r\nDigest: y\r\n"), &text()),
            "/chunked" => {
                let text = text();
                let (one, other) = text.split_at(3000);
                format!(
                    "HTTP/1.1 200 OK\r\n{KIND}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\
                     X-Sum: 1\r\nDigest: z\r\n\r\n",
                    one.len(),
                    other.len()
                )
                .into_bytes()
            }
            "/short" => answer(200, KIND, "short"),
            "/coded" => answer(200, &format!("{KIND}Content-Encoding: br\r\n"), &text()),
            "/plain-please" => answer(200, "Content-Type: text/plain\r\nCache-Control: no-transform\r\n", &text()),
            "/picture" => answer(200, "Content-Type: image/png\r\n", &text()),
            "/grpc" => answer(200, "Content-Type: application/grpc\r\n", &text()),
            "/fault" => answer(500, KIND, &text()),
            "/none" => b"HTTP/1.1 204 X\r\nContent-Type: text/plain\r\n\r\n".to_vec(),
            "/broken" => {
                let text = text();
                format!("HTTP/1.1 200 X\r\n{KIND}Content-Length: {}\r\nConnection: close\r\n\r\n{}", text.len(), &text[..9000])
                    .into_bytes()
            }
            _ => answer(404, KIND, "none"),
        }
    })
}

fn gateway(yaml: &str, backend: &Backend) -> Gateway {
    Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]))
}

fn plain(answer: &Answer) -> String {
    let mut text = String::new();
    match answer.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap(),
        Some("br") => brotli::Decompressor::new(&answer.body[..], 4096).read_to_string(&mut text).unwrap(),
        Some("zstd") => zstd::stream::read::Decoder::new(&answer.body[..]).unwrap().read_to_string(&mut text).unwrap(),
        other => panic!("{other:?}"),
    };
    text
}

const GZIP: [(&str, &str); 1] = [("Accept-Encoding", "gzip")];

/// The same on both engines.
fn compresses(gateway: &Gateway) {
    let mut client = Client::connect(gateway.port());
    for path in ["/text", "/chunked", "/fault", "/split/text"] {
        for (accept, coding) in [("gzip, deflate", "gzip"), ("gzip, deflate, br", "br"), ("gzip, zstd", "zstd")] {
            let answer = client.request("GET", path, &[("Accept-Encoding", accept)], b"");
            assert_eq!(answer.header("content-encoding"), Some(coding), "{path} {answer:?}");
            assert_eq!(plain(&answer), text(), "{path}");
            assert!(answer.body.len() < text().len() / 4, "{path}: {}", answer.body.len());
            assert_eq!(answer.header("etag"), Some("W/\"v1\""), "{path}");
            assert_eq!(answer.all("vary"), ["Accept-Encoding"], "{path}");
            for name in ["content-length", "accept-ranges", "content-md5", "digest"] {
                assert_eq!(answer.header(name), None, "{path} {name}");
            }
        }
        let answer = client.request("GET", path, &[("Accept-Encoding", "gzip;q=0, identity")], b"");
        assert_eq!((answer.header("content-encoding"), answer.text()), (None, text()), "{path}");
        assert_eq!((answer.header("etag"), answer.all("vary")), (Some("\"v1\""), vec!["Accept-Encoding"]), "{path}");
    }
    // HEAD says what GET would.
    let head = client.request("HEAD", "/text", &GZIP, b"");
    assert_eq!((head.header("content-encoding"), head.header("etag")), (Some("gzip"), Some("W/\"v1\"")));
    assert_eq!((head.header("content-length"), head.header("accept-ranges")), (None, None));
    let held = client.request("GET", "/text", &[GZIP[0], ("If-None-Match", "W/\"v1\"")], b"");
    assert_eq!((held.status, held.header("etag"), held.all("vary")), (304, Some("W/\"v1\""), vec!["Accept-Encoding"]));
    let part = client.request("GET", "/text", &[GZIP[0], ("Range", "bytes=0-4")], b"");
    assert_eq!((part.status, part.text().as_str(), part.header("content-encoding")), (206, "line ", None));
    assert_eq!(part.header("etag"), Some("\"v1\""));
    for path in ["/short", "/coded", "/plain-please", "/picture", "/grpc", "/off/text"] {
        let answer = client.request("GET", path, &GZIP, b"");
        let coding = if path == "/coded" { Some("br") } else { None };
        assert_eq!((answer.status, answer.header("content-encoding"), answer.header("vary")), (200, coding, None), "{path}");
        assert!(answer.header("content-length").is_some(), "{path}");
    }
    assert_eq!(client.request("GET", "/none", &GZIP, b"").status, 204);
    let no_transform = client.request("GET", "/text", &[GZIP[0], ("Cache-Control", "no-transform")], b"");
    assert_eq!(no_transform.header("content-encoding"), None);
}

/// One entry of the cache serves clients of every coding.
fn compresses_hits(gateway: &Gateway, backend: &Backend) {
    let before = backend.requests().len();
    for (accept, coding) in
        [("deflate", None), ("br", Some("br")), ("gzip", Some("gzip")), ("zstd", Some("zstd")), ("identity", None)]
    {
        let answer = request(gateway.port(), "GET", "/cached/text", &[("Accept-Encoding", accept)], b"");
        assert_eq!((answer.status, answer.header("content-encoding")), (200, coding), "{accept} {answer:?}");
        let body = if coding.is_some() { plain(&answer) } else { answer.text() };
        assert_eq!(body, text(), "{accept}");
        assert_eq!(answer.header("accept-ranges").is_some(), coding.is_none(), "{accept}");
        assert_eq!(answer.all("vary"), ["Accept-Encoding"], "{accept}");
    }
    assert_eq!(backend.requests().len(), before + 1, "the others are hits");
    let held = request(gateway.port(), "GET", "/cached/text", &[GZIP[0], ("If-None-Match", "W/\"v1\"")], b"");
    assert_eq!((held.status, held.header("etag")), (304, Some("W/\"v1\"")));
    let part = request(gateway.port(), "GET", "/cached/text", &[GZIP[0], ("Range", "bytes=5-9")], b"");
    assert_eq!((part.status, part.text().as_str(), part.header("content-encoding")), (206, &text()[5..10], None));
    let head = request(gateway.port(), "HEAD", "/cached/text", &GZIP, b"");
    assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
}

#[test]
fn answers_are_compressed_for_who_takes_them_so() {
    let backend = backend();
    let gateway = gateway(YAML, &backend);
    compresses(&gateway);
    compresses_hits(&gateway, &backend);
    // The client before HTTP/1.1 learns of the end by the connection's.
    let old = raw(gateway.port(), b"GET /text HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let at = find(&old, b"\r\n\r\n").unwrap() + 4;
    let mut body = String::new();
    flate2::read::GzDecoder::new(&old[at..]).read_to_string(&mut body).unwrap();
    assert_eq!(body, text());
    // Trailers stay, but for those that are not true any more.
    let mut client = Client::connect(gateway.port());
    client.send("GET /chunked HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n");
    let all = String::from_utf8_lossy(&client.rest()).to_ascii_lowercase();
    assert!(all.ends_with("\r\n0\r\nx-sum: 1\r\n\r\n"), "{all:?}");
    // The log tells what the client got.
    let line = gateway.wait_log(|line| line["path"] == "/text" && line["status"] == 200);
    assert!(line["bytes_out"].as_u64().unwrap() < text().len() as u64 / 4, "{line}");
}

#[test]
fn answers_are_compressed_over_http_2() {
    let backend = backend();
    let gateway = gateway(YAML, &backend);
    for path in ["/text", "/chunked", "/cached/text", "/cached/text"] {
        let url = gateway.url(path);
        let asked = ["--http2-prior-knowledge", "-H", "Accept-Encoding: gzip", &url];
        let coded = curl(&asked);
        assert_eq!((coded.version.as_str(), coded.header("content-length")), ("HTTP/2", None), "{path}");
        assert_eq!(plain(&coded), text(), "{path}");
        let head = curl(&["--http2-prior-knowledge", "-I", "-H", "Accept-Encoding: gzip", &gateway.url("/text")]);
        assert_eq!((head.status, head.header("content-encoding")), (200, Some("gzip")), "{path}");
    }
}

#[test]
fn compressed_events_come_when_they_are_sent() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::scripted(move |mut stream: TcpStream| {
        let mut request = [0; 2048];
        if !matches!(stream.read(&mut request), Ok(1..)) {
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for number in 0..3 {
            let event = format!("data: {number}\n\n");
            let _ = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
            if wait.lock().unwrap().recv().is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    for engine in ["", "engine: pingora,"] {
        let yaml = format!("{YAML}\n    server: {{ {engine} workers: 1 }}\n");
        let gateway = gateway(&yaml, &backend);
        let mut client = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        client.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
        let mut got = Vec::new();
        for number in 0..3 {
            // Nothing else is sent before this event has come, and can be read.
            let wanted = format!("data: {number}\n\n");
            while !events(&got).ends_with(&wanted) {
                let mut piece = [0; 4096];
                let count = client.read(&mut piece).unwrap();
                assert!(count > 0, "{engine} {:?}", String::from_utf8_lossy(&got));
                got.extend_from_slice(&piece[..count]);
            }
            go.send(()).unwrap();
        }
    }
}

/// What can be read so far of a gzip body in chunks.
fn events(bytes: &[u8]) -> String {
    let Some(at) = find(bytes, b"\r\n\r\n") else { return String::new() };
    let (mut rest, mut coded, mut text) = (&bytes[at + 4..], Vec::new(), Vec::new());
    while let Some(end) = find(rest, b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let Some(piece) = rest.get(end + 2..end + 2 + length) else { break };
        coded.extend_from_slice(piece);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    let _ = flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn a_compressed_answer_that_breaks_off_does_not_look_whole() {
    let backend = backend();
    let gateway = gateway(YAML, &backend);
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/broken", &GZIP, b"");
    assert!(client.try_answer_to("GET").is_err());
    let line = gateway.wait_log(|line| line["path"] == "/broken");
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("answer_broke_off")));
    // And the gateway serves on.
    assert_eq!(get(gateway.port(), "/short").status, 200);
}

#[test]
fn a_client_that_leaves_a_compressed_answer_is_noticed() {
    let (told, left) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let backend = Backend::scripted(move |mut stream: TcpStream| {
        let mut request = [0; 2048];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nthe first\n");
        // Nothing else comes, and then the gateway hangs up.
        while matches!(stream.read(&mut request), Ok(1..)) {}
        let _ = told.lock().unwrap().send(());
    });
    let gateway = gateway(YAML, &backend);
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/endless", &GZIP, b"");
    let mut byte = [0];
    client.stream().read_exact(&mut byte).unwrap();
    client.reset();
    left.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(gateway.wait_log(|line| line["path"] == "/endless")["client_closed"], true);
}

const TAGGED: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ], timeouts: { response: 1s } } }
    policies: { etag: { up_to: 4KiB } }
    routes:
      - { path: /cached/*, service: a, strip_prefix: /cached, policies: { cache: { ttl: 60s } } }
      - { path: /both/*, service: a, strip_prefix: /both, policies: { compress: {} } }
      - { path: /stream, service: a, stream: true }
      - { path: /*, service: a }
";

#[test]
fn a_whole_answer_gets_a_tag_and_is_not_sent_twice() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/tagged" => answer(200, "ETag: \"own\"\r\n", "tagged"),
        "/long" => answer(200, "", &"x".repeat(4097)),
        "/long-chunks" => format!(
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n{}\r\n1001\r\n{}\r\n0\r\n\r\n",
            "x".repeat(0x800),
            "y".repeat(0x1001)
        )
        .into_bytes(),
        "/chunks" => b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".to_vec(),
        "/text" => answer(200, "Content-Type: text/plain\r\n", &"text ".repeat(500)),
        "/cut" => b"HTTP/1.1 200 X\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345".to_vec(),
        "/cut-chunks" => b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n12345\r\n".to_vec(),
        "/stalls" => b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n12345".to_vec(),
        "/fault" => answer(500, "", "fault"),
        _ if request.method == "HEAD" => b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ => answer(200, "Content-Type: text/plain\r\n", "plain"),
    });
    let gateway = gateway(TAGGED, &backend);
    let mut client = Client::connect(gateway.port());
    for (path, body) in [("/plain", "plain"), ("/chunks", "hello world"), ("/cached/plain", "plain"), ("/cached/plain", "plain")]
    {
        let first = client.get(path);
        assert_eq!((first.status, first.text().as_str()), (200, body), "{path}");
        assert_eq!(first.header("content-length"), Some(body.len().to_string().as_str()), "{path}");
        let tag = first.header("etag").unwrap().to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        let again = client.request("GET", path, &[("If-None-Match", &format!("\"x\", {tag}"))], b"");
        assert_eq!((again.status, again.header("etag"), again.body.len()), (304, Some(tag.as_str()), 0), "{path}");
        assert_eq!(again.header("content-length"), None, "{path}");
        let over_2 = curl(&["--http2-prior-knowledge", "-H", &format!("If-None-Match: {tag}"), &gateway.url(path)]);
        assert_eq!((over_2.status, over_2.header("etag")), (304, Some(tag.as_str())), "{path}");
        assert_eq!(client.request("GET", path, &[("If-None-Match", "\"x\"")], b"").status, 200, "{path}");
    }
    // What has a tag, is too long, a stream, no success, or has no body goes out as it came.
    assert_eq!(client.get("/tagged").header("etag"), Some("\"own\""));
    for (path, length) in [("/long", 4097), ("/long-chunks", 0x1801), ("/fault", 5), ("/stream", 5)] {
        let answer = client.get(path);
        assert_eq!((answer.header("etag"), answer.body.len()), (None, length), "{path}");
    }
    assert_eq!(client.request("HEAD", "/plain", &[], b"").header("etag"), None);
    // Whole first, then coded: both are known before the head goes.
    let both = client.request("GET", "/both/text", &GZIP, b"");
    assert_eq!((plain(&both), both.header("content-length")), ("text ".repeat(500), Some(both.body.len().to_string().as_str())));
    let tag = both.header("etag").unwrap().to_owned();
    let held = client.request("GET", "/both/text", &[GZIP[0], ("If-None-Match", &tag)], b"");
    assert_eq!((held.status, held.header("content-encoding")), (304, None));
    // Nothing was sent before all of it had come, so that there is a better answer than half of one.
    for (path, status, reason) in
        [("/cut", 502, "connection_lost"), ("/cut-chunks", 502, "connection_lost"), ("/stalls", 504, "response_timeout")]
    {
        get(gateway.port(), path).assert_problem(status, "upstream", reason);
    }
}

const OWN: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT$H2C } ]
    $SERVER
    policies: { security_headers: { frame_options: DENY, content_security_policy: \"default-src 'self'\" } }
    routes:
      - { path: /text, respond: { body: hello, headers: { X-A: b, Cache-Control: max-age=60 } } }
      - { path: /json, respond: { status: 201, json: { a: [ 1, true, null, text ], b: { c: 1.5 } } } }
      - { path: /page, respond: { file: page.html }, policies: { compress: {} } }
      - { path: /none, respond: { status: 204 } }
      - { path: /gone, respond: { status: 410, body: gone, content_type: text/x-gone } }
      - { path: /closed, respond: { body: secret }, policies: { authn: { api_key: {} } } }
      - { path: /few, respond: { body: few }, policies: { rate_limit: { by: client_address, limit: 1/hour, burst: 1 } } }
      - { path: /old/*, redirect: { to: 'https://new.example.com', status: 308 }, strip_prefix: /old }
      - { path: '/was/{id}', redirect: { to: 'https://new.example.com/', query: drop }, rewrite: '/is/{id}' }
      - { path: /fixed, redirect: { to: /elsewhere, status: 301 } }
      - { path: /secure/*, redirect: { https: true, status: 307 } }
      - { path: /asked, redirect: { to: '/help#faq?' } }
      - { path: /told, redirect: { to: 'https://new.example.com/help?a=1#faq' } }
      - { path: '/pkg.Svc/Call', maintenance: { retry_after: 10m } }
      - { path: /down, maintenance: { detail: Back at noon. } }
      - { path: /away, service: 127.0.0.1, port: $BACKEND }
";

fn own(backend: &Backend, server: &str, h2c: &str) -> Gateway {
    let files = Files::new();
    files.write("page.html", format!("<p>{}</p>", text()));
    let yaml = OWN.replace("$SERVER", server).replace("$H2C", h2c);
    Gateway::start_in(&files, &filled(&yaml, &[("$BACKEND", backend.port())]))
}

/// The same on both engines.
fn answers_by_itself(gateway: &Gateway) {
    let mut client = Client::connect(gateway.port());
    let hello = client.get("/text");
    assert_eq!((hello.status, hello.text().as_str(), hello.header("x-a")), (200, "hello", Some("b")));
    assert_eq!(hello.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!((hello.header("cache-control"), hello.header("content-length")), (Some("max-age=60"), Some("5")));
    assert!(hello.header("x-request-id").is_some() && hello.header("date").is_some());
    let tag = hello.header("etag").unwrap().to_owned();
    for held in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let held = client.request("GET", "/text", &[("If-None-Match", &held)], b"");
        assert_eq!((held.status, held.body.len(), held.header("etag")), (304, 0, Some(tag.as_str())));
    }
    let head = client.request("HEAD", "/text", &[], b"");
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (200, 0, Some("5")));
    // A body that nobody asked for is no hindrance.
    assert_eq!(client.request("POST", "/text", &[], b"body").text(), "hello");
    assert_eq!(client.request("PUT", "/text", &[("Transfer-Encoding", "chunked")], b"4\r\nbody\r\n0\r\n\r\n").text(), "hello");

    let json = client.get("/json");
    assert_eq!((json.status, json.text().as_str()), (201, "{\"a\":[1,true,null,\"text\"],\"b\":{\"c\":1.5}}\n"));
    assert_eq!(json.header("content-type"), Some("application/json"));
    let none = client.get("/none");
    assert_eq!((none.status, none.body.len(), none.header("content-length")), (204, 0, None));
    let gone = client.get("/gone");
    assert_eq!((gone.status, gone.header("content-type"), gone.header("etag")), (410, Some("text/x-gone"), None));
    let page = client.request("GET", "/page", &GZIP, b"");
    assert_eq!(plain(&page), format!("<p>{}</p>", text()));
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("etag").unwrap().starts_with("W/\""));
    assert_eq!(client.request("HEAD", "/page", &GZIP, b"").header("content-encoding"), Some("gzip"));

    // What a service is protected by protects an answer.
    client.get("/closed").assert_problem(401, "authn", "missing_credentials");
    assert_eq!([client.get("/few").status, client.get("/few").status], [200, 429]);

    for (target, status, location) in [
        ("/old/a%20b/c?d=e&f", 308, "https://new.example.com/a%20b/c?d=e&f"),
        ("/old", 308, "https://new.example.com/"),
        ("/was/7?x=1", 302, "https://new.example.com/is/7"),
        ("/fixed?x=1", 301, "/elsewhere?x=1"),
        ("/secure/a?b", 307, "https://shop.example/secure/a?b"),
        ("/asked", 302, "/help#faq?"),
        ("/asked?x=1", 302, "/help?x=1#faq?"),
        ("/told?x=1", 302, "https://new.example.com/help?a=1#faq"),
        ("/old//evil.example/x", 308, "https://new.example.com/evil.example/x"),
    ] {
        let sent = client.request("GET", target, &[("Host", "shop.example:80")], b"");
        assert_eq!((sent.status, sent.header("location"), sent.body.len()), (status, Some(location), 0), "{target}");
    }

    let claimed = [("Host", "inner"), ("X-Forwarded-Host", "shop.example")];
    let sent = client.request("GET", "/secure/a", &claimed, b"");
    assert_eq!(sent.header("location"), Some("https://inner/secure/a"), "nobody's word is believed who is not trusted");

    let down = client.get("/down");
    down.assert_problem(503, "route", "maintenance");
    // A call of gRPC-Web is one also if there is nothing in it.
    let call = curl(&["-X", "POST", "-H", "Content-Type: application/grpc-web+proto", &gateway.url("/pkg.Svc/Call")]);
    assert_eq!((call.status, call.header("grpc-status")), (200, Some("14")), "{call:?}");
    assert_eq!((down.header("retry-after"), down.json()["detail"].as_str()), (Some("60"), Some("Back at noon.")));

    // What browsers are told, on every kind of answer; what is written replaces the service's, what is not fills in.
    for path in ["/text", "/closed", "/down", "/old", "/nowhere", "/away"] {
        let answer = client.get(path);
        assert_eq!(answer.all("x-frame-options"), ["DENY"], "{path}");
        assert_eq!(answer.all("content-security-policy"), ["default-src 'self'"], "{path}");
        assert_eq!(answer.all("x-content-type-options"), ["nosniff"], "{path}");
        let referrer = if path == "/away" { "origin" } else { "strict-origin-when-cross-origin" };
        assert_eq!(answer.all("referrer-policy"), [referrer], "{path}");
        assert_eq!(answer.header("strict-transport-security"), None, "{path}: not over TLS");
    }
    for (path, status, by) in [("/text", 200, "respond"), ("/old/a%20b/c", 308, "redirect"), ("/down", 503, "route")] {
        let line = gateway.wait_log(|line| line["path"] == path && line["status"] == status);
        assert_eq!((line["answered_by"].as_str(), line["service"].as_str().unwrap_or_default()), (Some(by), ""), "{line}");
    }
}

fn framed() -> Backend {
    Backend::answering(|_| answer(200, "X-Frame-Options: SAMEORIGIN\r\nReferrer-Policy: origin\r\n", "ok"))
}

#[test]
fn routes_answer_by_themselves() {
    let backend = framed();
    let gateway = own(&backend, "", ", h2c: true");
    answers_by_itself(&gateway);
    let over_2 = curl(&["--http2-prior-knowledge", &gateway.url("/text")]);
    assert_eq!((over_2.version.as_str(), over_2.status, over_2.text().as_str()), ("HTTP/2", 200, "hello"));
    // A call hears of it in its own words.
    let call = ["--http2-prior-knowledge", "-X", "POST", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
    let call = curl(&[&call[..], &[&gateway.url("/pkg.Svc/Call")]].concat());
    assert_eq!(
        (call.status, call.header("grpc-status"), call.header("grpc-retry-pushback-ms")),
        (200, Some("14"), Some("600000"))
    );
    // A reload changes the answer, and the file's too.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.files().write("page.html", "new");
    gateway.rewrite(&yaml.replace("body: hello", "body: goodbye"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((get(gateway.port(), "/text").text(), get(gateway.port(), "/page").text()), ("goodbye".into(), "new".into()));
    // Which steps an answer passes can be seen.
    let ran = portcullis(gateway.dir(), &["routes", "-c", "gateway.yaml"]);
    assert!(
        ran.stdout.contains("/page  ->  respond  [security_headers, compress]  back: [security_headers, compress]"),
        "{}",
        ran.stdout
    );
}

#[test]
fn the_pingora_engine_does_the_same() {
    let texts = backend();
    let server = "\n    server: { engine: pingora, workers: 2 }\n";
    let stock = gateway(&format!("{}{server}", YAML.replace(", h2c: true", "")), &texts);
    compresses(&stock);
    compresses_hits(&stock, &texts);
    let backend = framed();
    answers_by_itself(&own(&backend, "server: { engine: pingora, workers: 2 }", ""));
}

#[test]
fn hsts_is_sent_over_tls_alone_also_behind_a_proxy() {
    let backend = framed();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1/32 ] } ]
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { security_headers: { hsts: max-age=60; preload } } } ]
    ";
    served(&filled(yaml, &[("$BACKEND", backend.port())]), |gateway| {
        let secure = request(gateway.port(), "GET", "/", &[("X-Forwarded-Proto", "https")], b"");
        assert_eq!(secure.header("strict-transport-security"), Some("max-age=60; preload"));
        assert_eq!(get(gateway.port(), "/").header("strict-transport-security"), None);
    });
}

#[test]
fn what_cannot_be_answered_is_said_with_its_place() {
    let files = Files::new();
    let check = |route: &str| {
        files.write("gateway.yaml", format!("listeners: [ {{ bind: 127.0.0.1:8080 }} ]\nroutes: [ {{ path: /a, {route} }} ]\n"));
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        (ran.code, ran.stderr)
    };
    assert_eq!(check("respond: { status: 200 }").0, 0);
    for (route, said) in [
        ("respond: { status: 100 }", "`status` is from 200 to 599"),
        ("respond: { status: 204, body: x }", "has no body"),
        ("respond: { body: x, json: {} }", "one of `body`, `json` and `file`"),
        ("respond: { file: nowhere.html }", "cannot read `nowhere.html`"),
        ("respond: { headers: { Content-Length: '1' } }", "how a message travels"),
        ("respond: { headers: { 'a b': x } }", "not a header name"),
        ("respond: { body: x }, service: a, port: 1", "either a `service` or a `respond`"),
        ("maintenance: {}, redirect: { to: /b }", "not both"),
        ("redirect: { to: //evil.example }", "another host"),
        ("redirect: { to: new.example.com }", "begins with `https://`"),
        ("redirect: { to: 'https://a b' }", "printable ASCII"),
        ("redirect: { to: 'https://user@a/' }", "its host is none"),
        ("redirect: { to: /b, https: true }", "one of `to` and `https: true`"),
        ("redirect: {}", "one of `to` and `https: true`"),
        ("redirect: { to: /b, status: 304 }", "301, 302, 303, 307 or 308"),
        ("maintenance: { retry_after: 2d }", "`retry_after`"),
        ("service: a, port: 1, policies: { compress: { types: [ text ] } }", "no media type"),
        ("service: a, port: 1, policies: { compress: { codings: [ deflate ] } }", "deflate"),
        ("service: a, port: 1, policies: { etag: { up_to: 0 } }", "`up_to`"),
        ("service: a, port: 1, policies: { security_headers: { frame_options: ALLOW } }", "no `x-frame-options`"),
    ] {
        let (code, stderr) = check(route);
        assert!(code == 1 && stderr.contains(said) && stderr.contains("gateway.yaml:2:"), "{route}: {stderr}");
    }
    files.write(
        "gateway.yaml",
        "listeners: [ { bind: 127.0.0.1:8080 } ]\nserver: { engine: pingora }\n\
         routes: [ { path: /a, service: a, port: 1, policies: { etag: { up_to: 1KiB } } } ]\n",
    );
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert!(ran.code == 1 && ran.stderr.contains("cannot be had with `engine: pingora`"), "{}", ran.stderr);
}
