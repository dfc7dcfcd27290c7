//! What backends and clients get to see of each other: header fields, framing, names, and ends.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::harness::*;

const PLAIN: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ], timeouts: { response: 10s } } }
    routes: [ { path: /*, service: a } ]
";

fn plain(backend: &Backend) -> String {
    filled(PLAIN, &[("$BACKEND", backend.port())])
}

fn trusting(backend: &Backend) -> String {
    plain(backend).replace("bind: 127.0.0.1:$PORT }", "bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1/32, 10.0.0.0/8 ] }")
}

/// Answers with these bytes, whatever is asked.
fn answers(bytes: &'static str) -> Backend {
    Backend::answering(move |_| bytes.as_bytes().to_vec())
}

#[test]
fn header_policies_shape_both_ways() {
    let backend = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Debug: 1\r\nX-Debug: 2\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok"
            .to_vec()
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - path: '/items/{sku}'
            service: a
            policies:
              request_headers:
                remove: [ X-Gone, Cookie ]
                set: { X-Sku: '{param.sku}', X-Id: '{request_id}', X-Client: 'at {client_address} {{x}}', X-Who: '{consumer}' }
                add: { X-More: added }
              response_headers:
                remove: [ Server, X-Debug ]
                set: { Strict-Transport-Security: max-age=1, X-Sku: 's-{param.sku}' }
                add: { Vary: Origin }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let sent = [
            ("X-Gone", "1"),
            ("x-gone", "2"),
            ("Cookie", "a=b"),
            ("X-Sku", "forged"),
            ("X-Who", "forged"),
            ("X-More", "mine"),
            ("X-Kept", "kept"),
        ];
        let answer = request(gateway.port(), "GET", "/items/7%20a", &sent, b"");
        assert_eq!(answer.status, 200);
        let seen = backend.last();
        for (name, values) in [
            ("x-gone", vec![]),
            ("cookie", vec![]),
            ("x-sku", vec!["7%20a"]),
            ("x-client", vec!["at 127.0.0.1 {x}"]),
            // What cannot be made is removed, not left to the client.
            ("x-who", vec![]),
            ("x-more", vec!["mine", "added"]),
            ("x-kept", vec!["kept"]),
            ("x-id", vec![answer.header("x-request-id").unwrap()]),
        ] {
            assert_eq!(seen.all(name), values, "{name} in {}", seen.head_text());
        }
        for (name, values) in [
            ("server", vec![]),
            ("x-debug", vec![]),
            ("strict-transport-security", vec!["max-age=1"]),
            ("x-sku", vec!["s-7%20a"]),
            ("vary", vec!["Accept", "Origin"]),
        ] {
            assert_eq!(answer.all(name), values, "{name} in {answer:?}");
        }
    });
}

#[test]
fn the_request_id_is_kept_only_from_those_who_are_trusted() {
    let backend = Backend::http();
    let id = |gateway: &Gateway, sent: &[(&str, &str)]| {
        let answer = request(gateway.port(), "GET", "/", sent, b"");
        let told = answer.all("x-request-id");
        assert_eq!(told.len(), 1, "{answer:?}");
        assert_eq!(backend.last().all("x-request-id"), told, "the backend, the client and the log hear the same");
        gateway.wait_log(|line| line["request_id"] == told[0]);
        told[0].to_owned()
    };
    let made = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    served(&plain(&backend), |gateway| {
        let (one, other) = (id(gateway, &[]), id(gateway, &[("X-Request-Id", "mine-1")]));
        assert!(made(&one) && made(&other) && one != other, "{one} {other}");
    });
    served(&trusting(&backend), |gateway| {
        assert_eq!(id(gateway, &[("X-Request-Id", "their.id_1-a")]), "their.id_1-a");
        for bad in ["a b", "a\"b", "", &"x".repeat(129), "<script>"] {
            assert!(made(&id(gateway, &[("X-Request-Id", bad)])), "{bad}");
        }
        assert!(made(&id(gateway, &[("X-Request-Id", "one"), ("X-Request-Id", "two")])));
        // A refusal as well.
        let refused = request(gateway.port(), "GET", "/%zz", &[("X-Request-Id", "r-1")], b"");
        assert_eq!(refused.json()["request_id"].as_str(), refused.header("x-request-id"));
    });
}

#[test]
fn a_trace_goes_on_or_begins() {
    let backend = Backend::http();
    served(&plain(&backend), |gateway| {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let sent = format!("00-{trace}-00f067aa0ba902b7-01");
        request(gateway.port(), "GET", "/go", &[("traceparent", &sent), ("tracestate", "v=1")], b"");
        let seen = backend.last();
        let parent = seen.header("traceparent").unwrap().to_owned();
        assert!(parent.starts_with(&format!("00-{trace}-")) && parent.ends_with("-01") && parent.len() == 55, "{parent}");
        assert!(!parent.contains("00f067aa0ba902b7"), "the gateway has a span of its own");
        assert_eq!(seen.all("tracestate"), ["v=1"]);
        gateway.wait_log(|line| line["path"] == "/go" && line["trace_id"] == trace);
        for bad in [
            "",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            request(gateway.port(), "GET", "/begin", &[("traceparent", bad), ("tracestate", "v=1")], b"");
            let seen = backend.last();
            let parent = seen.header("traceparent").unwrap();
            assert!(parent.len() == 55 && !parent.contains(trace) && seen.all("traceparent").len() == 1, "{parent}");
            assert_eq!(seen.header("tracestate"), None, "a state without its trace");
        }
    });
}

#[test]
fn strangers_are_not_believed_about_who_they_are() {
    let backend = Backend::http();
    let forged = [
        ("Host", "shop.test:8080"),
        ("X-Forwarded-For", "192.0.2.1, 10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-User", "root"),
        ("X_Forwarded_For", "192.0.2.9"),
        ("X-Real-IP", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1;proto=https"),
    ];
    served(&plain(&backend), |gateway| {
        request(gateway.port(), "GET", "/x", &forged, b"");
        let seen = backend.last();
        for (name, values) in [
            ("x-forwarded-for", vec!["127.0.0.1"]),
            ("x-forwarded-proto", vec!["http"]),
            ("x-forwarded-host", vec!["shop.test:8080"]),
            ("x-forwarded-port", vec!["8080"]),
            ("x-forwarded-prefix", vec![]),
            ("x-forwarded-user", vec![]),
            ("x_forwarded_for", vec![]),
            ("x-real-ip", vec!["127.0.0.1"]),
        ] {
            assert_eq!(seen.all(name), values, "{name}");
        }
        let forwarded = seen.all("forwarded");
        assert!(forwarded.len() == 1 && forwarded[0].contains("for=127.0.0.1"), "{forwarded:?}");
        let head = seen.head_text();
        assert!(!head.contains("192.0.2") && !head.contains("evil"), "{head}");
        assert_eq!(gateway.wait_log(|line| line["path"] == "/x")["client"], "127.0.0.1");
    });
    served(&trusting(&backend), |gateway| {
        request(gateway.port(), "GET", "/x", &forged, b"");
        let seen = backend.last();
        for (name, values) in [
            ("x-forwarded-for", vec!["192.0.2.1, 10.0.0.1, 127.0.0.1"]),
            ("x-forwarded-proto", vec!["https"]),
            ("x-forwarded-host", vec!["evil.test"]),
            ("x-forwarded-port", vec!["443"]),
            // The real client: the first from the right that is no trusted proxy.
            ("x-real-ip", vec!["192.0.2.1"]),
            ("x_forwarded_for", vec![]),
        ] {
            assert_eq!(seen.all(name), values, "{name}");
        }
        let forwarded = seen.all("forwarded");
        assert!(
            forwarded.len() == 1
                && forwarded[0]
                    .starts_with("for=192.0.2.1;proto=https;host=\"evil.test\", for=10.0.0.1, for=127.0.0.1;proto=http;"),
            "{forwarded:?}"
        );
        let line = gateway.wait_log(|line| line["path"] == "/x");
        assert_eq!(line["client"], "192.0.2.1");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    });
}

#[test]
fn what_belongs_to_a_connection_ends_with_it() {
    let backend = answers(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authenticate: Basic\r\nX-End: 2\r\nContent-Length: 2\r\n\r\nok",
    );
    served(&plain(&backend), |gateway| {
        let sent = [
            ("Connection", "keep-alive, X-Secret, te"),
            ("X-Secret", "1"),
            ("Keep-Alive", "timeout=5"),
            ("TE", "trailers, deflate"),
            ("Trailer", "X-T"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic eA=="),
            ("X-End", "1"),
        ];
        let mut client = Client::connect(gateway.port());
        let answer = client.request("GET", "/", &sent, b"");
        let seen = backend.last();
        for name in ["x-secret", "keep-alive", "te", "trailer", "proxy-connection", "proxy-authorization", "upgrade"] {
            assert_eq!(seen.header(name), None, "{name} in {}", seen.head_text());
        }
        assert_eq!(seen.all("x-end"), ["1"]);
        for name in ["x-hop", "keep-alive", "proxy-connection"] {
            assert_eq!(answer.header(name), None, "{name} in {answer:?}");
        }
        assert_eq!(answer.all("x-end"), ["2"]);
        // The client's connection lives on, whatever the backend says about its own.
        assert_eq!(client.get("/").status, 200);
        // A field cannot be nominated away that frames or names the message.
        for name in ["Content-Length", "Host", "X-Request-Id"] {
            let refused = request(gateway.port(), "POST", "/", &[("Connection", name), ("Content-Length", "2")], b"hi");
            refused.assert_problem(400, "door", "connection_header");
        }
    });
}

#[test]
fn a_backend_that_closes_does_not_close_the_client() {
    let backend = answers("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    served(&plain(&backend), |gateway| {
        let before = backend.connections();
        let mut client = Client::connect(gateway.port());
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(backend.connections() - before, 5);
    });
}

#[test]
fn backend_connections_are_kept() {
    let backend = Backend::http();
    served(&plain(&backend), |gateway| {
        let before = backend.connections();
        let mut client = Client::connect(gateway.port());
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 200);
        }
        assert_eq!(backend.connections() - before, 1);
    });
}

#[test]
fn answers_without_a_body() {
    let backend = Backend::answering(|request| {
        let answer = match (&*request.method, &*request.target) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"e\"\r\n\r\n",
            (_, "/204") => "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
            (_, "/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 12345\r\n\r\n",
            (_, "/0") => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            (_, "/205") => "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext",
        };
        answer.as_bytes().to_vec()
    });
    served(&plain(&backend), |gateway| {
        let mut client = Client::connect(gateway.port());
        for (method, target, status) in
            [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/0", 200), ("GET", "/205", 205)]
        {
            let answer = client.request(method, target, &[], b"");
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{method} {target}");
            if status == 204 {
                assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (None, None), "{answer:?}");
            }
            if method == "HEAD" {
                assert_eq!((answer.header("content-length"), answer.header("etag")), (Some("12345"), Some("\"e\"")));
            }
            // Not a byte is left over that would spoil the next one.
            assert_eq!(client.get("/next").text(), "next", "after {method} {target}");
        }
        assert_eq!(curl(&["-I", &gateway.url("/")]).header("content-length"), Some("12345"));
    });
}

#[test]
fn bodies_of_every_framing() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n";
    let until_close = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world";
    let http10 = "HTTP/1.0 200 OK\r\n\r\nhello world";
    for bytes in [chunked, until_close, http10] {
        let backend = if bytes == http10 {
            Backend::scripted(move |mut stream| {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(bytes.as_bytes());
            })
        } else {
            answers(bytes)
        };
        served(&plain(&backend), |gateway| {
            let mut client = Client::connect(gateway.port());
            for _ in 0..2 {
                // Whatever the backend's framing, the client's connection lives on.
                let answer = client.get("/");
                assert_eq!((answer.status, &*answer.text()), (200, "hello world"), "{bytes:?}");
            }
            assert_eq!(curl(&[&gateway.url("/")]).text(), "hello world");
            // An HTTP/1.0 client knows no chunks.
            let mut client = Client::connect(gateway.port());
            client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
            let answer = client.answer_to("GET");
            assert_eq!(answer.header("transfer-encoding"), None, "{answer:?}");
            assert_eq!(answer.text(), "hello world");
            assert!(client.is_closed());
            let line = gateway.wait_log(|line| line["user_agent"].as_str().is_some_and(|agent| agent.starts_with("curl")));
            assert_eq!((line["status"].as_u64(), line["bytes_out"].as_u64()), (Some(200), Some(11)));
        });
    }
}

#[test]
fn http_1_0_clients() {
    let backend = Backend::http();
    served(&plain(&backend), |gateway| {
        let mut client = Client::connect(gateway.port());
        client.send("GET /old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer_to("GET");
        assert_eq!(
            (answer.status, answer.header("connection").map(str::to_ascii_lowercase).as_deref()),
            (200, Some("keep-alive"))
        );
        client.send("GET /old HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer_to("GET").json()["target"], "/old");
        assert!(client.is_closed());
        assert_eq!(backend.last().version, "HTTP/1.1");
        assert_eq!(curl(&["--http1.0", "-d", "x=y", &gateway.url("/old")]).json()["body"], "x=y");
        // One that names no host is routed where nobody else wants it.
        let mut client = Client::connect(gateway.port());
        client.send("GET /old HTTP/1.0\r\n\r\n");
        assert_eq!(client.answer_to("GET").status, 200);
        assert!(backend.last().all("host").len() == 1, "{}", backend.last().head_text());
    });
}

#[test]
fn several_requests_in_one_write_are_answered_in_order() {
    let backend = Backend::http();
    served(&plain(&backend).replace("path: /*", "path: /ok/*"), |gateway| {
        let mut bytes = Vec::new();
        for number in 0..20 {
            match number % 4 {
                0 => write!(bytes, "GET /ok/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => write!(bytes, "POST /ok/{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET "),
                2 => write!(bytes, "GET /refused/{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
                _ => write!(
                    bytes,
                    "PUT /ok/{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
                ),
            }
            .unwrap();
        }
        let mut client = Client::connect(gateway.port());
        client.send(&bytes);
        for number in 0..20 {
            let answer = client.answer_to("GET");
            if number % 4 == 2 {
                answer.assert_problem(404, "route", "no_route");
                continue;
            }
            let echo = answer.json();
            assert_eq!(echo["target"], format!("/ok/{number}"));
            assert_eq!(echo["body"], ["", "GET ", "", "hi"][number % 4]);
        }
        // The last one may ask to close; then that is the end.
        client.send("GET /ok/a HTTP/1.1\r\nHost: a\r\n\r\nGET /ok/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /ok/never HTTP/1.1\r\n");
        assert_eq!(client.answer_to("GET").json()["target"], "/ok/a");
        let last = client.answer_to("GET");
        assert_eq!((last.json()["target"].as_str(), last.header("connection")), (Some("/ok/b"), Some("close")));
        assert!(client.is_closed());
        assert!(backend.requests().iter().all(|request| request.target != "/ok/never"));
    });
}

#[test]
fn a_request_in_single_bytes() {
    let backend = Backend::http();
    served(&plain(&backend), |gateway| {
        let mut client = Client::connect(gateway.port());
        let bytes = b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for byte in bytes {
            client.send([*byte]);
        }
        let echo = client.answer_to("POST").json();
        assert_eq!((&echo["target"], &echo["body"]), (&json!("/slow"), &json!("abc")));
    });
}

#[test]
fn a_client_that_goes_away_is_logged_as_499() {
    let (arrived, arrivals) = mpsc::channel();
    let arrived = std::sync::Mutex::new(arrived);
    let backend = Backend::scripted(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = arrived.lock().unwrap().send(());
        // Never answers: waits for the other side's end.
        while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {}
        let _ = arrived.lock().unwrap().send(());
    });
    served(&plain(&backend), |gateway| {
        let mut client = Client::connect(gateway.port());
        client.send("GET /gone HTTP/1.1\r\nHost: a\r\n\r\n");
        arrivals.recv_timeout(Duration::from_secs(10)).expect("the request arrives");
        client.reset();
        let line = gateway.wait_log(|line| line["path"] == "/gone");
        assert_eq!(
            (&line["status"], &line["answered_by"], &line["reason"]),
            (&json!(499), &json!("client"), &json!("client_closed"))
        );
        arrivals.recv_timeout(Duration::from_secs(10)).expect("the backend hears of it");
        gateway.wait_metric("portcullis_in_flight", 0.0);
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ] {
        let backend = Backend::scripted(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes.as_bytes());
        });
        served(&plain(&backend), |gateway| {
            let mut client = Client::connect(gateway.port());
            client.send_request("GET", "/half", &[], b"");
            let answer = client.try_answer_to("GET");
            assert!(answer.is_err(), "{answer:?}");
            assert!(try_curl(&[&gateway.url("/half")]).is_err());
            let line = gateway.wait_log(|line| line["path"] == "/half");
            assert_eq!(
                (&line["status"], &line["answered_by"], &line["reason"]),
                (&json!(200), &json!("upstream"), &json!("answer_broke_off")),
                "{line}"
            );
        });
    }
}

#[test]
fn failures_of_a_backend_have_names() {
    let closed = Port::lease();
    let silent = Backend::scripted(|mut stream| while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {});
    let rude = Backend::scripted(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let garbled = answers("HTTQ/1.1 zwei hundert\r\n\r\n");
    let smuggling = answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc");
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services:
          closed: { endpoints: [ '127.0.0.1:$CLOSED' ] }
          silent: { endpoints: [ '127.0.0.1:$SILENT' ], timeouts: { response: 200ms } }
          rude: { endpoints: [ '127.0.0.1:$RUDE' ] }
          garbled: { endpoints: [ '127.0.0.1:$GARBLED' ] }
          smuggling: { endpoints: [ '127.0.0.1:$SMUGGLING' ] }
        routes:
          - { path: /closed, service: closed }
          - { path: /silent, service: silent }
          - { path: /rude, service: rude }
          - { path: /garbled, service: garbled }
          - { path: /smuggling, service: smuggling }
        ",
        &[
            ("$CLOSED", closed.number()),
            ("$SILENT", silent.port()),
            ("$RUDE", rude.port()),
            ("$GARBLED", garbled.port()),
            ("$SMUGGLING", smuggling.port()),
        ],
    );
    served(&yaml, |gateway| {
        let mut client = Client::connect(gateway.port());
        for (path, status, reason) in [
            ("/closed", 502, "connect_failure"),
            ("/silent", 504, "response_timeout"),
            ("/rude", 502, "connection_lost"),
            ("/garbled", 502, "malformed_answer"),
            ("/smuggling", 502, "malformed_answer"),
        ] {
            client.get(path).assert_problem(status, "upstream", reason);
            let line = gateway.wait_log(|line| line["path"] == path);
            assert_eq!((&line["status"], &line["reason"]), (&json!(status), &json!(reason)));
        }
    });
}

#[test]
fn nginx_behind_and_curl_in_front() {
    let files = Files::new();
    let large: Vec<u8> = (0..5_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    files.write("large.bin", &large);
    let nginx = Nginx::start_in(
        &files,
        "root .; location = /gone { return 410; } location = /moved { return 302 /large.bin; } location / { gzip on; gzip_min_length 1; gzip_types *; }",
    );
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$NGINX' ] } }
        routes: [ { path: /*, service: a } ]
        ",
        &[("$NGINX", nginx.port())],
    );
    served(&yaml, |gateway| {
        let url = gateway.url("/large.bin");
        let answer = curl(&[&url]);
        assert!(answer.status == 200 && answer.body == large, "{} bytes", answer.body.len());
        assert!(curl(&["--compressed", &url]).body == large);
        let part = curl(&["-r", "1000-1999", &url]);
        assert!(part.status == 206 && part.body == large[1000..2000]);
        assert_eq!(part.header("content-range"), Some("bytes 1000-1999/5000000"));
        let etag = answer.header("etag").unwrap();
        let unchanged = curl(&["-H", &format!("If-None-Match: {etag}"), &url]);
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        let gone = curl(&[&gateway.url("/gone")]);
        // A backend's own error is the backend's word.
        assert_eq!((gone.status, gone.header("content-type")), (410, Some("text/html")));
        let line = gateway.wait_log(|line| line["status"] == 410);
        assert_eq!((&line["answered_by"], line.get("reason")), (&json!("upstream"), None));
        let moved = curl(&["--max-redirs", "0", &gateway.url("/moved")]);
        assert_eq!(moved.status, 302);
        let line = gateway.wait_log(|line| line["path"] == "/large.bin" && line["status"] == 200);
        assert_eq!(line["bytes_out"].as_u64(), Some(5_000_000));
    });
    assert!(nginx.access_log().contains("GET /large.bin HTTP/1.1"));
}

/// What `response_headers` says of the site holds for the gateway's own answers too; what it says of content does not.
#[test]
fn response_headers_are_on_refusals_where_they_belong() {
    let backend = Backend::http();
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services:
          a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
          down: { endpoints: [ '127.0.0.1:1' ] }
        policies: { response_headers: { set: { Strict-Transport-Security: max-age=31536000 } } }
        routes:
          - path: /api/*
            service: a
            policies:
              authn: { api_key: {} }
              response_headers:
                set:
                  Strict-Transport-Security: max-age=31536000
                  Access-Control-Allow-Origin: https://app.example
                  Cache-Control: public, max-age=600
                  Content-Type: text/html
                  Content-Security-Policy: default-src 'self'
                  Set-Cookie: a=b
                add: { Vary: Origin }
                remove: [ Server, WWW-Authenticate ]
          - { path: /down, service: down }
          - { path: /open, service: a, methods: [ GET ] }
        ",
        &[("$BACKEND", backend.port())],
    );
    served(&yaml, |gateway| {
        let url = |path: &str| gateway.url(path);
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let refused = curl(&[version, &url("/api/x")]);
            assert_eq!(refused.status, 401);
            for (name, value) in [
                ("strict-transport-security", Some("max-age=31536000")),
                ("access-control-allow-origin", Some("https://app.example")),
                ("content-security-policy", Some("default-src 'self'")),
                ("vary", Some("Origin")),
                ("content-type", Some("application/problem+json")),
                ("set-cookie", None),
            ] {
                assert_eq!(refused.header(name), value, "{version} {name}");
            }
            assert_eq!(refused.all("vary").len(), 1);
            assert!(refused.header("www-authenticate").is_some(), "a refusal keeps what it says itself");
            assert!(!refused.header("cache-control").unwrap_or_default().contains("600"));
            for (path, method, status) in
                [("/down", "GET", 502), ("/none", "GET", 404), ("/open", "PUT", 405), ("/open", "GET", 200)]
            {
                let answer = curl(&[version, "-X", method, &url(path)]);
                assert_eq!(answer.status, status, "{version} {path}");
                let once = answer.all("strict-transport-security");
                assert_eq!(once, ["max-age=31536000"], "{version} {method} {path}");
            }
        }
    });
}
