//! What is refused before anybody is asked who it is, and before a backend hears of it.

use std::io::Write;

use crate::harness::*;

const BOUNDED: &str = "
    listeners:
      - bind: 127.0.0.1:$PORT
        limits: { head: 4KiB, headers: 20, uri: 512B, body: 1MiB }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /open/*, service: a }
      - { path: /get, service: a, methods: GET }
      - path: /bounds
        service: a
        policies: { bounds: { max_body: 10B, max_uri: 64B, max_headers: 6, max_header_size: 300B, methods: [GET, POST] } }
      - path: /orders
        service: a
        policies:
          validate:
            required_headers: [ X-Tenant ]
            required_query: [ dry_run ]
            content_types: [ application/json, 'text/*' ]
            json: true
            max_json_depth: 8
            max_body: 100KiB
";

fn start() -> (Backend, Gateway) {
    let backend = Backend::http();
    let gateway = Gateway::start(&filled(BOUNDED, &[("$BACKEND", backend.port())]));
    (backend, gateway)
}

/// Nothing reached the backend, not even a connection, and every refusal left its line and its count.
#[track_caller]
fn assert_untouched(backend: &Backend, gateway: &Gateway, refused: usize) {
    assert_eq!((backend.requests().len(), backend.connections()), (0, 0), "{:?}", backend.requests());
    let lines = gateway.wait_lines(refused);
    assert_eq!(lines.len(), refused);
    assert!(lines.iter().all(|line| line["status"].as_u64().unwrap() >= 400 && line["reason"].is_string()), "{lines:?}");
    gateway.wait_metric("portcullis_refusals_total", refused as f64);
}

#[test]
fn malformed_heads_get_400_with_a_problem_and_a_closed_connection() {
    let (backend, gateway) = start();
    let cases = [
        ("GET /open/%zz HTTP/1.1\r\nHost: a\r\n\r\n", "path_bad_escape"),
        ("GET /open/%4 HTTP/1.1\r\nHost: a\r\n\r\n", "path_bad_escape"),
        ("GET /open/% HTTP/1.1\r\nHost: a\r\n\r\n", "path_bad_escape"),
        ("GET /open/%00 HTTP/1.1\r\nHost: a\r\n\r\n", "path_nul"),
        ("GET /../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", "path_above_root"),
        ("GET /open/../../etc HTTP/1.1\r\nHost: a\r\n\r\n", "path_above_root"),
        ("GET /%2e%2e/etc HTTP/1.1\r\nHost: a\r\n\r\n", "path_above_root"),
        ("GET /open/..%2f..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n", "path_hidden_traversal"),
        ("GET /open/..;x/etc HTTP/1.1\r\nHost: a\r\n\r\n", "path_hidden_traversal"),
        ("GET /open\\..\\x HTTP/1.1\r\nHost: a\r\n\r\n", "path_backslash"),
        ("GET /open HTTP/1.1\r\n\r\n", "host"),
        ("GET /open HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "host"),
        ("GET /open HTTP/1.1\r\nHost: a b\r\n\r\n", "host"),
        ("GET /open HTTP/1.1\r\nHost : a\r\n\r\n", "malformed_header"),
        ("GET /open HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", "malformed_header"),
        ("GET /open HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "malformed_header"),
        ("GET /open HTTP/1.1\nHost: a\n\n", "bare_line_feed"),
        ("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", "content_length"),
        ("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "content_length"),
        ("POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer_encoding"),
        (
            "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "ambiguous_framing",
        ),
        ("GET open HTTP/1.1\r\nHost: a\r\n\r\n", "request_target"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "request_target"),
        ("GE T /open HTTP/1.1\r\nHost: a\r\n\r\n", "malformed_request_line"),
        ("GET /open HTTP/2.0\r\nHost: a\r\n\r\n", "http_version"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "tls_on_plain_port"),
    ];
    for (bytes, reason) in cases {
        let mut client = Client::connect(gateway.port());
        client.send(bytes);
        let answer = client.answer_to("GET");
        let status = if reason == "http_version" { 505 } else { 400 };
        let problem = answer.json();
        println!("{bytes:?}: {problem}");
        answer.assert_problem(if problem["status"] == 400 { 400 } else { status }, "door", problem["reason"].as_str().unwrap());
        assert_eq!(problem["reason"], reason, "{bytes:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{bytes:?}");
        assert!(client.is_closed(), "{bytes:?}");
        gateway.wait_log(|line| line["request_id"] == problem["request_id"] && line["reason"] == reason);
    }
    assert_untouched(&backend, &gateway, cases.len());
}

#[test]
fn what_is_too_large_is_named() {
    let (backend, gateway) = start();
    let port = gateway.port();
    let long = format!("/open/{}", "x".repeat(600));
    get(port, &long).assert_problem(414, "door", "uri_too_long");
    get(port, &format!("/open/?{}", "x".repeat(600))).assert_problem(414, "door", "uri_too_long");
    assert_eq!(curl(&[&gateway.url(&long)]).status, 414);
    let big = "y".repeat(5000);
    request(port, "GET", "/open/", &[("X-Big", &big)], b"").assert_problem(431, "door", "head_too_large");
    let many = [("X", "y"); 20];
    request(port, "GET", "/open/", &many, b"").assert_problem(431, "door", "too_many_headers");
    let answer = request(port, "POST", "/open/", &[], &vec![b'z'; (1 << 20) + 1]);
    answer.assert_problem(413, "bounds", "body_too_large");
    // A bound that is announced to be passed is refused before a byte of the body.
    let mut client = Client::connect(port);
    client.send("POST /open/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n");
    client.answer_to("POST").assert_problem(413, "bounds", "body_too_large");
    assert!(client.interim.is_empty(), "nobody is told to send what is not taken");
    // The route's own bounds, within the listener's.
    request(port, "POST", "/bounds", &[], b"01234567890").assert_problem(413, "bounds", "body_too_large");
    get(port, &format!("/bounds?{}", "q".repeat(64))).assert_problem(414, "bounds", "uri_too_long");
    request(port, "GET", "/bounds", &[("A", "b"); 7], b"").assert_problem(431, "bounds", "too_many_headers");
    request(port, "GET", "/bounds", &[("A", &"b".repeat(300))], b"").assert_problem(431, "bounds", "headers_too_large");
    let wrong = request(port, "DELETE", "/bounds", &[], b"");
    wrong.assert_problem(405, "bounds", "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, POST"));
    let wrong = request(port, "PUT", "/get", &[], b"");
    wrong.assert_problem(405, "route", "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    let answer = Client::connect(port).request("CONNECT", "a:443", &[("Host", "a:443")], b"");
    answer.assert_problem(405, "door", "connect");
    request(port, "GET", "/open/", &[("Expect", "miracles")], b"").assert_problem(417, "door", "expectation");
    assert_untouched(&backend, &gateway, 15);
    // Just within the bounds.
    assert_eq!(request(port, "POST", "/bounds", &[], b"0123456789").status, 200);
    assert_eq!(get(port, &format!("/open/{}", "x".repeat(500))).status, 200);
}

#[test]
fn a_chunked_body_over_the_bound_is_413_and_never_arrives_whole() {
    let backend = Backend::http();
    served(&filled(BOUNDED, &[("$BACKEND", backend.port())]), |gateway| {
        let mut client = Client::connect(gateway.port());
        client.send("POST /open/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "c".repeat(64 * 1024));
        for _ in 0..17 {
            // The answer may come before the last of them.
            if client.stream().write_all(chunk.as_bytes()).is_err() {
                break;
            }
        }
        client.answer_to("POST").assert_problem(413, "bounds", "body_too_large");
        gateway.wait_log(|line| line["status"] == 413 && line["reason"] == "body_too_large");
        // One that is buffered for a policy is bounded as well.
        let mut client = Client::connect(gateway.port());
        client.send("POST /orders?dry_run=1 HTTP/1.1\r\nHost: a\r\nX-Tenant: t\r\nContent-Type: application/json\r\n");
        client.send("Transfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            if client.stream().write_all(chunk.as_bytes()).is_err() {
                break;
            }
        }
        let answer = client.answer_to("POST");
        assert_eq!(answer.status, 413, "{answer:?}");
    });
    assert!(backend.requests().iter().all(|request| !request.complete), "{}", backend.requests().len());
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const TENANT: (&str, &str) = ("X-Tenant", "acme");

#[test]
fn content_is_checked() {
    let (backend, gateway) = start();
    let port = gateway.port();
    let post = |headers: &[(&str, &str)], body: &[u8]| request(port, "POST", "/orders?dry_run=1", headers, body);
    let validate = |answer: Answer, status, reason| answer.assert_problem(status, "validate", reason);
    validate(post(&[JSON], b"{}"), 400, "header_missing");
    validate(post(&[JSON, ("X-Tenant", "")], b"{}"), 400, "header_missing");
    validate(request(port, "POST", "/orders", &[JSON, TENANT], b"{}"), 400, "query_parameter_missing");
    let wrong = post(&[TENANT, ("Content-Type", "application/xml")], b"<a/>");
    assert_eq!(wrong.header("accept"), Some("application/json, text/*"));
    validate(wrong, 415, "content_type_unsupported");
    validate(post(&[TENANT], b"{}"), 415, "content_type_missing");
    validate(post(&[TENANT, ("Content-Type", "application/json; charset=utf-16")], b"{}"), 415, "charset_unsupported");
    validate(post(&[TENANT, JSON, ("Content-Type", "text/plain")], b"{}"), 400, "ambiguous_content_type");
    let malformed: &[&[u8]] = &[
        b"{",
        b"{\"a\":1,}",
        b"[1 2]",
        b"{'a':1}",
        b"nul",
        b"01",
        b"1.",
        b"\"a\nb\"",
        b"\"\\x\"",
        b"{} {}",
        b"{\"a\"}",
        b"// c\n{}",
    ];
    for body in malformed {
        validate(post(&[TENANT, JSON], body), 400, "json_malformed");
    }
    validate(post(&[TENANT, JSON], b""), 400, "json_empty");
    validate(post(&[TENANT, JSON], b"  \n"), 400, "json_empty");
    validate(post(&[TENANT, JSON], b"\"\xff\""), 400, "json_not_utf8");
    validate(post(&[TENANT, JSON], b"[[[[[[[[[]]]]]]]]]"), 400, "json_too_deep");
    validate(post(&[TENANT, JSON], &vec![b' '; 100 * 1024 + 1]), 413, "body_too_large");
    let chunked = [TENANT, JSON, ("Transfer-Encoding", "chunked")];
    validate(post(&chunked, b"3\r\n{\"a\r\n2\r\n\":\r\n0\r\n\r\n"), 400, "json_malformed");
    post(&chunked, b"zz\r\n{}\r\n0\r\n\r\n").assert_problem(400, "door", "malformed_body");
    assert_untouched(&backend, &gateway, 7 + malformed.len() + 7);
    let curled =
        curl(&["-d", "{broken", "-H", "Content-Type: application/json", "-H", "X-Tenant: a", &gateway.url("/orders?dry_run=")]);
    assert_eq!((curled.status, curled.json()["reason"].as_str()), (400, Some("json_malformed")));
    assert_eq!(backend.requests().len(), 0);
}

#[test]
fn a_refusal_keeps_the_connection() {
    let (backend, gateway) = start();
    let mut client = Client::connect(gateway.port());
    for _ in 0..3 {
        client.get("/nowhere").assert_problem(404, "route", "no_route");
        // The body of a refused request is taken away before the next one is read.
        client.request("POST", "/orders", &[], &[b'x'; 20_000]).assert_problem(400, "validate", "header_missing");
        let chunked = [("Transfer-Encoding", "chunked")];
        client.request("POST", "/orders", &chunked, b"5\r\nhello\r\n0\r\n\r\n").assert_problem(400, "validate", "header_missing");
        client.request("POST", "/orders?dry_run", &[TENANT, JSON], b"{oops}").assert_problem(400, "validate", "json_malformed");
        assert_eq!(client.get("/open/x").json()["target"], "/open/x");
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn good_content_arrives_unharmed() {
    let backend = Backend::http();
    served(&filled(BOUNDED, &[("$BACKEND", backend.port())]), |gateway| {
        let port = gateway.port();
        let accepted: &[&[u8]] = &[b"{}", b" [1, -2.5e+3, \"\\u00e9\", null, true] ", b"\"x\"", b"0", b"[[[[[[[[]]]]]]]]"];
        for body in accepted {
            let answer = request(port, "POST", "/orders?dry_run=1", &[TENANT, JSON], body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(backend.last().body, *body);
        }
        // What is not JSON is not read as JSON.
        assert_eq!(request(port, "POST", "/orders?dry_run", &[TENANT, ("Content-Type", "text/plain")], b"{").status, 200);
        // Nor is there a body to be checked.
        assert_eq!(request(port, "GET", "/orders?dry_run", &[TENANT], b"").status, 200);
        // Buffered, over 64 KiB, with either framing.
        let json = format!("[{}1]", "12345, ".repeat(14_000)).into_bytes();
        assert!(json.len() > 64 * 1024 && json.len() < 100 * 1024);
        assert_eq!(request(port, "POST", "/orders?dry_run", &[TENANT, JSON], &json).status, 200);
        assert!(backend.last().body == json, "{} bytes arrived", backend.last().body.len());
        let mut chunked = Vec::new();
        for piece in json.chunks(1000) {
            write!(chunked, "{:x};ext=1\r\n", piece.len()).unwrap();
            chunked.extend_from_slice(piece);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        let headers = [TENANT, JSON, ("Transfer-Encoding", "chunked")];
        assert_eq!(request(port, "POST", "/orders?dry_run", &headers, &chunked).status, 200);
        assert!(backend.last().body == json, "{} bytes arrived", backend.last().body.len());
        // Streamed, up to the bound.
        let full: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        assert_eq!(request(port, "POST", "/open/", &[], &full).status, 200);
        assert!(backend.last().body == full && backend.last().header("content-length") == Some("1048576"));
        let mut chunked = format!("{:x}\r\n", full.len()).into_bytes();
        chunked.extend_from_slice(&full);
        chunked.extend_from_slice(b"\r\n0\r\n\r\n");
        assert_eq!(request(port, "PUT", "/open/", &[("Transfer-Encoding", "chunked")], &chunked).status, 200);
        assert!(backend.last().body == full, "{} bytes arrived", backend.last().body.len());
        let last = gateway.wait_log(|line| line["method"] == "PUT");
        assert_eq!((last["bytes_in"].as_u64(), last["status"].as_u64()), (Some(1 << 20), Some(200)));
    });
}

#[test]
fn curl_waits_for_100_continue() {
    let backend = Backend::http();
    let files = Files::new();
    let full = vec![b'f'; 1 << 20];
    let path = files.write("body", &full);
    let body = format!("@{}", path.display());
    served(&filled(BOUNDED, &[("$BACKEND", backend.port())]), |gateway| {
        // curl would send the body anyway after this time; less than it may take here.
        let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", &body];
        let open = gateway.url("/open/x");
        let answer = curl(&[&expect[..], &[&open]].concat());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(backend.last().body == full);
        // The backend was asked, and said nothing for a second.
        assert_eq!(backend.last().header("expect"), Some("100-continue"));
        let orders = gateway.url("/orders");
        let refused = curl(&[&expect[..], &["-H", "Content-Type: application/json", &orders]].concat());
        assert_eq!((refused.status, refused.json()["reason"].as_str()), (400, Some("header_missing")));
        let mut client = Client::connect(gateway.port());
        client.send("POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n");
        let mut first = [0; 25];
        std::io::Read::read_exact(&mut client.stream(), &mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        assert_eq!(client.answer_to("POST").json()["body"], "hello");
    });
}

/// A request over HTTP/2 whose client learns late how much body there is.
fn late_end(port: u16, method: &str, path: &str, body: &'static [u8]) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(format!("http://a{path}"));
        let request = request.header("content-type", "application/json").body(()).unwrap();
        let (answer, mut rest) = send.send_request(request, false).unwrap();
        // The head is on its way alone.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        rest.send_data(bytes::Bytes::from_static(body), true).unwrap();
        let status = answer.await.unwrap().status().as_u16();
        connection.abort();
        status
    })
}

/// Of a body of unknown length nobody knows whether it is one before something of it has come.
#[test]
fn a_body_of_which_nothing_came_is_none() {
    let backend = Backend::http();
    let files = Files::new();
    files.write(
        "api.yaml",
        "{ openapi: 3.1.0, info: { title: a, version: '1' }, paths: { /x: { get: { responses: { '200': { description: x } } } } } }",
    );
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /openapi/*, service: a, policies: { openapi: { file: api.yaml } } }
          - { path: /schema/*, service: a, policies: { validate: { body: { schema: { type: object } } } } }
          - { path: /reshape/*, service: a, policies: { reshape: { request: [ { set: { /a: 1 } } ] } } }
          - { path: /compose/x, compose: { calls: { one: { service: a, path: /x, group: none } } } }
          - { path: /plain/*, service: a }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let port = gateway.port();
    let chunked = |method: &str, path: &str, body: &[u8]| {
        request(port, method, path, &[JSON, ("Transfer-Encoding", "chunked")], body).status
    };
    for path in ["/openapi/x", "/schema/x", "/reshape/x", "/compose/x", "/plain/x"] {
        assert_eq!((chunked("GET", path, b"0\r\n\r\n"), late_end(port, "GET", path, b"")), (200, 200), "{path}");
        assert!(backend.last().body.is_empty() && backend.last().header("transfer-encoding").is_none(), "{path}");
    }
    for (path, status) in [("/openapi/x", 400), ("/schema/x", 400), ("/reshape/x", 400), ("/compose/x", 400)] {
        let one = (chunked("GET", path, b"1\r\n{\r\n0\r\n\r\n"), late_end(port, "GET", path, b"{"));
        assert_eq!(one, (status, status), "{path}");
    }
    // What has to be there is not there.
    assert_eq!((chunked("POST", "/schema/x", b"0\r\n\r\n"), late_end(port, "POST", "/schema/x", b"")), (400, 400));
    // Who comes late is served as everybody else.
    let mut client = Client::connect(port);
    client.send("POST /schema/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(request(port, "GET", "/openapi/x", &[], b"").status, 200);
    client.send("2\r\n{}\r\n0\r\n\r\n");
    assert_eq!(client.answer_to("POST").status, 200);
    assert_eq!(client.request("GET", "/openapi/x", &[], b"").status, 200);
}

/// What is read into memory is bounded by whoever reads it, and by the route.
#[test]
fn who_refuses_a_long_body_says_so() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /json, service: a, policies: { validate: { json: true, max_body: 10B } } }
          - { path: /both, service: a, policies: { validate: { json: true }, bounds: { max_body: 10B } } }
          - { path: /steps, service: a, policies: { reshape: { up_to: 10B, request: [ { set: { /a: 1 } } ] } } }
        ",
        &[("$BACKEND", backend.port())],
    );
    let gateway = Gateway::start(&yaml);
    for (path, policy) in [("/json", "validate"), ("/both", "bounds"), ("/steps", "reshape")] {
        let post = |fields: &[(&str, &str)], body: &[u8]| request(gateway.port(), "POST", path, fields, body);
        post(&[JSON], b"[1,2,3,4,5,6,7]").assert_problem(413, policy, "body_too_large");
        let chunked = b"f\r\n[1,2,3,4,5,6,7]\r\n0\r\n\r\n";
        post(&[JSON, ("Transfer-Encoding", "chunked")], chunked).assert_problem(413, policy, "body_too_large");
    }
    assert_eq!(backend.requests().len(), 0);
}
