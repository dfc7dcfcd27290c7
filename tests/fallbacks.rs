//! What a route gives in the place of answers that nobody is to see.

use std::io::{Read, Write};

use crate::harness::*;

/// Answers with the status that the request asks for.
fn moody() -> Backend {
    Backend::answering(|request| {
        let status = request.header("x-status").unwrap_or("200");
        let body = format!("{status} {}", request.body.len());
        let kept = request.header("x-keep").unwrap_or("max-age=60");
        let kind = format!("Cache-Control: {kept}\r\nContent-Type: text/plain");
        format!("HTTP/1.1 {status} As asked\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

const YAML: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    server: { workers: 1 }
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      calls: { endpoints: [ '127.0.0.1:$BACKEND' ], protocol: auto }
      spare: { endpoints: [ '127.0.0.1:$SPARE' ] }
      gone: { endpoints: [ '127.0.0.1:1' ] }
      slow: { endpoints: [ '127.0.0.1:$SLOW' ], timeouts: { response: 300ms } }
    routes:
      - { path: /static, service: a, fallback: { on: [ error, 5xx ], json: { items: [] }, headers: { Cache-Control: no-store } } }
      - { path: /spare, service: a, fallback: { on: [ 404, 502-503 ], service: spare } }
      - { path: /keyed, service: a, retries: { on: [ reset ], idempotency_key: Idempotency-Key }, fallback: { on: [ 503 ], service: spare } }
      - { path: /gone, service: gone, fallback: { service: spare } }
      - { path: /slow, service: slow, fallback: { service: spare } }
      - { path: /usual, service: a, fallback: { body: x } }
      - { path: /tried, service: a, retries: { attempts: 1, on: [ 503 ], backoff: { base: 1ms } }, fallback: { on: [ 503 ], body: soon } }
      - { path: /cached, service: a, policies: { cache: { ttl: 60s } }, fallback: { on: [ 5xx ], body: stand-in } }
      - { path: /kept/*, service: a, policies: { cache: {} }, fallback: { on: [ error, 5xx ], cached: 1h, body: none } }
      - { path: /split, split: [ { service: a, weight: 1 }, { service: calls, weight: 1 } ], fallback: { on: [ 500 ], status: 204 } }
      - { path: '/pkg.Svc/Call', service: calls, fallback: { on: [ 5xx ], body: x } }
";

fn setup() -> (Backend, Backend, Gateway) {
    let (backend, spare) = (moody(), Backend::named("spare"));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = silent.local_addr().unwrap().port();
    // Takes every connection, and says nothing on any.
    std::thread::spawn(move || silent.incoming().collect::<Vec<_>>());
    let gateway = Gateway::start(&filled(YAML, &[("$BACKEND", backend.port()), ("$SPARE", spare.port()), ("$SLOW", slow)]));
    (backend, spare, gateway)
}

#[test]
fn answers_of_a_status_are_replaced_before_anybody_sees_them() {
    let (backend, spare, gateway) = setup();
    let mut client = Client::connect(gateway.port());
    let mut ask = |method: &str, path: &str, status: &str, body: &[u8]| {
        let answer = client.request(method, path, &[("X-Status", status)], body);
        let fallback = answer.header("x-portcullis-fallback").unwrap_or("none").to_owned();
        (answer.status, answer.text(), fallback)
    };
    let items = || (200, "{\"items\":[]}".to_owned(), "static".to_owned());
    for status in ["500", "503", "599"] {
        assert_eq!(ask("GET", "/static", status, b""), items(), "{status}");
        assert_eq!(ask("POST", "/static", status, &[b'x'; 100_000]), items(), "{status}");
    }
    assert_eq!(ask("HEAD", "/static", "500", b""), (200, String::new(), "static".into()));
    for status in ["200", "404", "499"] {
        assert_eq!(ask("GET", "/static", status, b"").0.to_string(), status);
    }
    // What is not written is passed on.
    assert_eq!(ask("GET", "/usual", "503", b""), (503, "503 0".into(), "none".into()));
    assert_eq!(ask("GET", "/spare", "500", b""), (500, "500 0".into(), "none".into()));
    for (status, body) in [("404", &b""[..]), ("502", b"order"), ("503", b"")] {
        let (code, text, fallback) = ask(if body.is_empty() { "GET" } else { "PUT" }, "/spare", status, body);
        assert_eq!((code, fallback.as_str()), (200, "service"), "{status} {text}");
        assert!(text.contains("\"spare\""), "{text}");
        assert_eq!(spare.last().body, body);
    }
    assert_eq!(ask("GET", "/split", "500", b""), (204, String::new(), "static".into()));
    let before = backend.requests().len();
    assert_eq!(ask("GET", "/tried", "503", b""), (200, "soon".into(), "static".into()));
    assert_eq!(backend.requests().len(), before + 2, "it is tried again first");
    let line = gateway.wait_log(|line| line["path"] == "/tried");
    assert_eq!((&line["fallback"], &line["decided_by"]), (&"static".into(), &"unwanted_answer".into()), "{line}");
    gateway.wait_metric("portcullis_fallbacks_total{cause=\"status\",kind=\"service\"}", 3.0);
    // What is let go of costs no connection.
    assert!(backend.connections() <= 2, "one, and one for what is tried again");
    let h2 = curl(&["--http2-prior-knowledge", "-H", "X-Status: 500", &gateway.url("/static")]);
    assert_eq!((h2.status, h2.text().as_str()), (200, "{\"items\":[]}"));
    // A reload turns it off.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("on: [ error, 5xx ]", "on: [ error ]"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(ask("GET", "/static", "500", b"").0, 500);
}

#[test]
fn what_may_have_been_done_is_not_sent_to_another_service() {
    let (backend, spare, gateway) = setup();
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| {
        let fields = [&[("X-Status", "503")], fields].concat();
        let answer = request(gateway.port(), method, path, &fields, b"order");
        (answer.status, answer.header("x-portcullis-fallback").unwrap_or("none").to_owned())
    };
    assert_eq!(ask("POST", "/spare", &[]), (503, "none".into()));
    assert_eq!(ask("PATCH", "/spare", &[]), (503, "none".into()));
    assert_eq!(ask("POST", "/keyed", &[]), (503, "none".into()));
    assert_eq!(ask("POST", "/slow", &[]), (504, "none".into()));
    assert_eq!((backend.requests().len(), spare.requests().len()), (3, 0));
    // It is promised to be done once, or nothing was sent.
    assert_eq!(ask("POST", "/keyed", &[("Idempotency-Key", "7")]), (200, "service".into()));
    assert_eq!(ask("POST", "/gone", &[]), (200, "service".into()));
    assert_eq!(ask("PUT", "/slow", &[]), (200, "service".into()));
    assert_eq!(spare.requests().len(), 3);
    // What asks nobody is given for everything.
    assert_eq!(ask("POST", "/static", &[]), (200, "static".into()));
}

#[test]
fn what_stands_in_is_not_stored() {
    let (backend, _, gateway) = setup();
    let mut client = Client::connect(gateway.port());
    for _ in 0..2 {
        let answer = client.request("GET", "/cached", &[("X-Status", "500")], b"");
        assert_eq!((answer.status, answer.text().as_str()), (200, "stand-in"));
    }
    assert_eq!(client.get("/cached").text(), "200 0");
    assert_eq!(client.request("GET", "/cached", &[("X-Status", "500")], b"").text(), "200 0");
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn the_last_good_answer_stands_in_while_it_may() {
    let (_backend, _, gateway) = setup();
    let mut client = Client::connect(gateway.port());
    let mut ask =
        |path: &str, status: &str, keep: &str| client.request("GET", path, &[("X-Status", status), ("X-Keep", keep)], b"");
    let stands = |answer: &Answer| answer.header("x-portcullis-fallback").unwrap_or("none").to_owned();
    for (path, keep, given) in [
        ("/kept/a", "max-age=1", "cached"),
        // Its service has forbidden it.
        ("/kept/b", "max-age=1, must-revalidate", "static"),
        ("/kept/c", "no-store", "static"),
    ] {
        assert_eq!(ask(path, "200", keep).text(), "200 0");
        eventually("it has expired", || stands(&ask(path, "503", "no-store")) != "none");
        let answer = ask(path, "503", "no-store");
        let text = if given == "cached" { "200 0" } else { "none" };
        assert_eq!((answer.status, answer.text().as_str(), stands(&answer).as_str()), (200, text, given), "{path}");
        assert_eq!(answer.header("cache-status").is_some_and(|said| said.contains("fallback")), given == "cached", "{answer:?}");
        let line = gateway.wait_log(|line| line["path"] == path && line["fallback"] == given);
        assert_eq!(line["decided_by"], "unwanted_answer", "{line}");
    }
    assert_eq!(stands(&ask("/kept/never", "500", "no-store")), "static");
    // A request that does not use the cache gets nothing of it.
    let own = [("X-Status", "503"), ("Authorization", "Bearer x")];
    assert_eq!(stands(&request(gateway.port(), "GET", "/kept/a", &own, b"")), "static");
    assert!(gateway.metric("portcullis_fallbacks_total{cause=\"status\",kind=\"cached\"}") >= 2.0);
    // The service is well again.
    assert_eq!(stands(&ask("/kept/a", "200", "max-age=1")), "none");
}

#[test]
fn calls_get_no_static_answer() {
    let (.., gateway) = setup();
    let call = ["--http2-prior-knowledge", "-X", "POST", "-H", "Content-Type: application/grpc+x", "-H", "X-Status: 503"];
    let answer = curl(&[&call[..], &[&gateway.url("/pkg.Svc/Call")]].concat());
    assert_eq!(answer.header("x-portcullis-fallback"), None, "{answer:?}");
    assert!(answer.text() != "x", "{answer:?}");
}

#[test]
fn conditions_that_are_none_are_refused() {
    let files = Files::new();
    for wrong in ["200", "3xx", "often", "399-500", "600"] {
        let route = format!("{{ path: /a, service: h, port: 1, fallback: {{ on: [ {wrong} ], body: x }} }}");
        files.write("bad.yaml", format!("listeners: [ {{ bind: '127.0.0.1:1' }} ]\nroutes: [ {route} ]\n"));
        let ran = portcullis(files.dir(), &["check", "-c", "bad.yaml"]);
        assert!(ran.stderr.contains("a status from 400 on"), "{wrong}: {} {}", ran.stdout, ran.stderr);
    }
    for (fallback, said) in
        [("cached: 1h", "the route has no `cache`"), ("cached: 1ms", "cached"), ("on: [ 503 ]", "a fallback needs")]
    {
        let route = format!("{{ path: /a, service: h, port: 1, fallback: {{ {fallback} }} }}");
        files.write("bad.yaml", format!("listeners: [ {{ bind: '127.0.0.1:1' }} ]\nroutes: [ {route} ]\n"));
        let ran = portcullis(files.dir(), &["check", "-c", "bad.yaml"]);
        assert!(ran.stderr.contains(said), "{fallback}: {} {}", ran.stdout, ran.stderr);
    }
}

/// An answer that is held back until it is whole, and breaks off, leaves nothing in the one that is given for it.
#[test]
fn nothing_is_left_of_an_answer_that_was_held_back() {
    let broken = Backend::scripted(|mut stream| {
        let mut head = [0; 4096];
        if stream.read(&mut head).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf of");
        }
    });
    let spare = Backend::answering(|_| b"HTTP/1.1 200 OK\r\nETag: \"spare\"\r\nContent-Length: 5\r\n\r\nwhole".to_vec());
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services: { broken: { endpoints: [ '127.0.0.1:$BROKEN' ] }, spare: { endpoints: [ '127.0.0.1:$SPARE' ] } }
        routes:
          - { path: /*, service: broken, policies: { etag: { up_to: 64KiB } }, fallback: { service: spare } }
          - { path: /cached, service: broken, policies: { etag: { up_to: 64KiB }, cache: {} }, fallback: { service: spare } }
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$BROKEN", broken.port()), ("$SPARE", spare.port())]));
    for path in ["/", "/cached"] {
        let answer = get(gateway.port(), path);
        assert_eq!((answer.status, answer.text().as_str()), (200, "whole"), "{path}");
        assert_eq!((answer.header("etag"), answer.header("content-type")), (Some("\"spare\""), None), "{path}");
    }
}

/// Calls that fail at once have their status in the head of an answer of 200.
#[test]
fn calls_that_fail_at_once_can_be_had_elsewhere() {
    let call = |code: &'static str| {
        H2Backend::start(move |request, mut respond| async move {
            let code = request.headers().get("x-code").map_or(code, |_| "5");
            let answer = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
            let _ = respond.send_response(answer.body(()).unwrap(), true);
        })
    };
    let (down, spare) = (call("14"), call("0"));
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          calls: { endpoints: [ '127.0.0.1:$DOWN' ], protocol: grpc, retries: { on: [ reset ], methods: [ POST ] } }
          once: { endpoints: [ '127.0.0.1:$DOWN' ], protocol: grpc }
          spare: { endpoints: [ '127.0.0.1:$SPARE' ], protocol: grpc }
        routes:
          - { path: /pkg.Svc/Call, service: calls, fallback: { on: [ unavailable, internal ], service: spare } }
          - { path: /pkg.Svc/Once, service: once, fallback: { on: [ unavailable ], service: spare } }
          - { path: /pkg.Svc/Usual, service: calls, fallback: { service: spare } }
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$DOWN", down.port()), ("$SPARE", spare.port())]));
    let call = |path: &str, more: &[&str]| {
        let fields = ["--http2-prior-knowledge", "-X", "POST", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
        let answer = curl(&[&fields[..], more, &[&gateway.url(path)]].concat());
        let said = |name: &str| answer.header(name).unwrap_or("none").to_owned();
        (said("grpc-status"), said("x-portcullis-fallback"))
    };
    assert_eq!(call("/pkg.Svc/Call", &[]), ("0".into(), "service".into()));
    let line = gateway.wait_log(|line| line["path"] == "/pkg.Svc/Call");
    assert_eq!((&line["fallback"], &line["decided_by"]), (&"service".into(), &"unwanted_answer".into()), "{line}");
    // Another status, what may have been done, and where none is written.
    assert_eq!(call("/pkg.Svc/Call", &["-H", "X-Code: 5"]), ("5".into(), "none".into()));
    assert_eq!(call("/pkg.Svc/Once", &[]), ("14".into(), "none".into()));
    assert_eq!(call("/pkg.Svc/Usual", &[]), ("14".into(), "none".into()));
    assert_eq!((down.asked().len(), spare.asked().len()), (4, 1));
}

/// A service of HTTP/2's can say that it did nothing about a request, which may then be sent elsewhere, whatever its method.
#[test]
fn what_was_refused_unprocessed_is_sent_to_another_service() {
    let refusing = H2Backend::start(|request, mut respond| async move {
        let reason = if request.uri().path() == "/reset" { h2::Reason::INTERNAL_ERROR } else { h2::Reason::REFUSED_STREAM };
        respond.send_reset(reason);
    });
    let spare = Backend::named("spare");
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$IT' ], protocol: http2 }
          spare: { endpoints: [ '127.0.0.1:$SPARE' ] }
        routes: [ { path: /*, service: it, fallback: { service: spare } }, { path: /none, service: it } ]
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$IT", refusing.port()), ("$SPARE", spare.port())]));
    let answer = request(gateway.port(), "POST", "/order", &[], b"order");
    assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("service")), "{}", answer.text());
    assert_eq!((spare.last().method.as_str(), &*spare.last().body, spare.requests().len()), ("POST", &b"order"[..], 1));
    assert_eq!(refusing.asked().len(), 2, "it may have meant no more than that connection");
    let h2 = curl(&["--http2-prior-knowledge", "-d", "order", &gateway.url("/order")]);
    assert_eq!((h2.status, h2.header("x-portcullis-fallback")), (200, Some("service")));
    // What may have been done is sent to nobody else.
    request(gateway.port(), "POST", "/reset", &[], b"order").assert_problem(502, "upstream", "upstream_reset");
    request(gateway.port(), "POST", "/none", &[], b"order").assert_problem(503, "upstream", "upstream_refused");
    assert_eq!(spare.requests().len(), 2);
}

/// A service that goes away: it takes connections, and its GOAWAY leaves out every stream.
#[test]
fn what_a_goaway_leaves_out_is_sent_to_another_service() {
    let going = Backend::scripted(|mut stream| {
        let mut preface = [0; 24];
        let mut head = [0; 9];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        let _ = stream.write_all(&[0, 0, 0, frames::SETTINGS, 0, 0, 0, 0, 0]);
        while stream.read_exact(&mut head).is_ok() {
            let mut rest = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            if stream.read_exact(&mut rest).is_err() {
                return;
            }
            let said = match (head[3], head[4]) {
                (frames::SETTINGS, 0) => [&[0, 0, 0, frames::SETTINGS, frames::ACK, 0, 0, 0, 0][..], &[]].concat(),
                (frames::PING, 0) => [&[0, 0, 8, frames::PING, frames::ACK, 0, 0, 0, 0][..], &rest].concat(),
                (frames::HEADERS, _) => [&[0, 0, 8, frames::GOAWAY, 0, 0, 0, 0, 0][..], &[0; 8]].concat(),
                _ => Vec::new(),
            };
            let _ = stream.write_all(&said);
        }
    });
    let spare = Backend::named("spare");
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$IT' ], protocol: http2 }
          spare: { endpoints: [ '127.0.0.1:$SPARE' ] }
        routes: [ { path: /*, service: it, fallback: { service: spare } } ]
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$IT", going.port()), ("$SPARE", spare.port())]));
    for body in [&b"order"[..], b""] {
        let answer = request(gateway.port(), "POST", "/order", &[], body);
        assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("service")), "{}", answer.text());
        assert_eq!(spare.last().body, body);
    }
}

/// Of an answer that came and was dropped, nothing is said to the client: neither how its body was coded, nor what a policy has added, nor
/// which endpoint the session stays with.
#[test]
fn nothing_of_a_dropped_answer_is_left_in_a_fallback() {
    // Says more than it sends, or fails.
    let broken = Backend::scripted(|mut stream| {
        let mut read = [0; 4096];
        while let Ok(1..) = stream.read(&mut read) {
            let fails = read.windows(5).any(|text| text == b"/fail");
            let answer = if fails {
                "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else {
                format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{}", "x".repeat(2000))
            };
            if stream.write_all(answer.as_bytes()).is_err() || !fails {
                return;
            }
        }
    });
    let spare = moody();
    let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        policies: { response_headers: { add: { X-A: one } } }
        services:
          it: { endpoints: [ '127.0.0.1:$BROKEN' ], sticky: cookie }
          spare: { endpoints: [ '127.0.0.1:$SPARE' ], sticky: { cookie: { name: spare } } }
        routes:
          - path: /own/*
            service: it
            retries: { attempts: 0 }
            fallback: { on: [ error, 5xx ], json: { f: 1 } }
            policies: { compress: { min_size: 1 }, etag: { up_to: 1MiB }, cache: { default_ttl: 1m } }
          - path: /other/*
            service: it
            retries: { attempts: 0 }
            fallback: { on: [ error, 5xx ], service: spare }
            policies: { etag: { up_to: 1MiB } }
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$BROKEN", broken.port()), ("$SPARE", spare.port())]));
    for path in ["/own/cut", "/own/fail"] {
        // As it is, and as a client says it that takes no codings: the bodies are the same.
        for coding in ["gzip", "identity"] {
            for how in ["--http1.1", "--http2-prior-knowledge"] {
                let answer = curl(&[how, "-H", &format!("Accept-Encoding: {coding}"), &gateway.url(path)]);
                assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("static")), "{path} {coding}");
                let plain = match answer.header("content-encoding") {
                    None => answer.text(),
                    Some(_) => {
                        let mut text = String::new();
                        flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
                        text
                    }
                };
                assert_eq!(plain.trim(), "{\"f\":1}", "{path} {coding} {how}");
                assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
                assert_eq!(answer.all("x-a"), ["one"], "{path} {coding} {how}");
                assert!(answer.all("cache-status").is_empty() && answer.all("set-cookie").is_empty(), "{path}: {answer:?}");
            }
        }
    }
    for path in ["/other/cut", "/other/fail"] {
        let answer = request(gateway.port(), "GET", path, &[], b"");
        assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("service")), "{path}");
        assert_eq!(answer.all("x-a"), ["one"], "{path}");
        let cookies = answer.all("set-cookie");
        assert!(matches!(cookies.as_slice(), [one] if one.starts_with("spare=")), "{path}: {cookies:?}");
    }
}

/// A client can bring a failure of the first service about, so that the second one's rules would be none.
#[test]
fn a_services_own_policies_hold_where_it_stands_in() {
    let check = |global: &str, first: &str, second: &str, route: &str| {
        let files = Files::new();
        files.write(
            "gateway.yaml",
            format!(
                "listeners: [ {{ bind: 127.0.0.1:8080 }} ]\npolicies: {{ {global} }}\nservices:\n  \
                 a: {{ endpoints: [ 127.0.0.1:1 ], policies: {{ {first} }} }}\n  \
                 b: {{ endpoints: [ 127.0.0.1:2 ], policies: {{ {second} }} }}\n\
                 routes: [ {{ path: /a, service: a, fallback: {{ service: b }}, policies: {{ {route} }} }} ]\n"
            ),
        );
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        (ran.code, ran.stdout + &ran.stderr)
    };
    let deny = "ip_restriction: { deny: [ 10.0.0.0/8 ] }";
    let keep = "reshape: { response: [ { keep: /id } ] }";
    for (global, first, second, route) in [
        ("", "", deny, ""),
        ("", "ip_restriction: { deny: [ 10.0.0.0/7 ] }", deny, ""),
        // The first one's word is not the second's.
        (deny, "ip_restriction: false", "", ""),
        ("", "", "rate_limit: { by: route, limit: 1/s }", ""),
        ("", "", keep, ""),
        ("", "", "answer_contract: { schema: { type: object } }", ""),
        ("", "", "request_headers: { remove: [ X-Internal ] }", ""),
        ("", "request_headers: { set: { X-Key: a } }", "request_headers: { set: { X-Key: b } }", ""),
        ("", "", "response_headers: { remove: [ X-Internal ] }", ""),
    ] {
        let (code, said) = check(global, first, second, route);
        assert!(code == 1 && said.contains("stands in here for another service"), "{first} {second}: {said}");
        assert!(said.contains(": false`") && said.contains("gateway.yaml:6:"), "{said}");
    }
    for (global, first, second, route) in [
        ("", "", "", ""),
        (deny, "", deny, ""),
        ("", deny, deny, ""),
        ("", "", deny, deny),
        ("", "", deny, "ip_restriction: false"),
        ("", "", keep, "reshape: false"),
        (deny, "", "ip_restriction: false", ""),
        ("", "", "compress: {}", ""),
        ("", "", "response_headers: { set: { A: b } }", "response_headers: { set: { A: b } }"),
        ("request_headers: { set: { A: b } }", "", "", ""),
    ] {
        let (code, said) = check(global, first, second, route);
        assert_eq!(code, 0, "{first} {second} {route}: {said}");
    }
    // What the first one is asked with is nobody else's.
    let (code, said) = check("", "request_headers: { set: { X-Secret: of-a } }", "", "");
    assert!(code == 1 && said.contains("`a` has a `request_headers` that is not that of `b`"), "{said}");
}
