//! What is tried again, what is not, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Answer, Client, Files, Gateway, Port, eventually, get, portcullis, request};
use crate::peers::{Act, Asked, Origin, answer};

/// One worker, so that turns are taken in one row. `service` and `route` are flow style, without braces.
fn yaml(service: &str, route: &str) -> String {
    format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]\nserver: {{ workers: 1 }}\nservices:\n  it: {{ {service} }}\nroutes: [ {{ \
         path: /*, service: it{route} }} ]\n"
    )
}

fn start(service: &str) -> Gateway {
    Gateway::start(&yaml(service, ""))
}

/// An endpoint that answers so many requests badly, and then well.
fn sick(times: usize, bad: impl Fn() -> Act + Send + Sync + 'static) -> Origin {
    let left = AtomicUsize::new(times);
    Origin::start(move |_| {
        let was = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if was.is_ok() { bad() } else { Act::Send(answer(200, &[], "well")) }
    })
}

fn attempts(origin: &Origin) -> Vec<Option<String>> {
    origin.asked().iter().map(|asked| asked.header("x-portcullis-attempt").map(str::to_owned)).collect()
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

const WELL: fn() -> (u16, String) = || (200, "well".to_owned());

#[test]
fn each_condition_is_met_by_its_failure_and_by_no_other() {
    type Bad = fn() -> Act;
    let failures: [(&str, Bad, u16); 5] = [
        ("503", || Act::Send(answer(503, &[], "busy")), 503),
        ("gateway_error", || Act::Send(answer(502, &[], "")), 502),
        ("retriable_headers", || Act::Send(answer(400, &[("X-Retry", "yes")], "again")), 400),
        ("reset", || Act::Last(Vec::new()), 502),
        (
            "timeout",
            || {
                std::thread::sleep(Duration::from_millis(700));
                Act::Last(answer(200, &[], "late"))
            },
            504,
        ),
    ];
    for (condition, bad, status) in failures {
        for (on, again) in [(condition, true), ("connect, refused, 418", false)] {
            let listed = if on == "retriable_headers" { ", retriable_headers: [ X-Retry ]" } else { "" };
            let origin = sick(1, bad);
            let gateway = start(&format!(
                "endpoints: [ '127.0.0.1:{}' ], timeouts: {{ try: 300ms }}, retries: {{ on: [ {on} ]{listed}, backoff: {{ base: 0s }} }}",
                origin.port()
            ));
            let told = get(gateway.port(), "/");
            let what = format!("{condition} with {on}: {told:?}");
            let line = gateway.wait_log(|line| line["path"] == "/");
            if again {
                assert_eq!(said(&told), WELL(), "{what}");
                assert_eq!(attempts(&origin), [None, Some("2".to_owned())], "{what}");
                let why = match condition {
                    "gateway_error" => "502",
                    "retriable_headers" => "retriable_header",
                    other => other,
                };
                assert_eq!((&line["retries"], &line["retried_for"]), (&1.into(), &why.into()), "{line}");
                let kind = match condition {
                    "503" | "gateway_error" => "status",
                    "retriable_headers" => "retriable_header",
                    other => other,
                };
                gateway.wait_metric(&format!("portcullis_retries_total{{service=\"it\",reason=\"{kind}\"}}"), 1.0);
            } else {
                assert_eq!(told.status, status, "{what}");
                assert_eq!(origin.asked().len(), 1, "{what}");
                assert!(line.get("retried_for").is_none(), "{line}");
            }
        }
    }
}

#[test]
fn another_endpoint_is_asked_where_there_is_one() {
    let (bad, good) = (Origin::start(|_| Act::Send(answer(503, &[], "busy"))), Origin::named("well"));
    let gateway = start(&format!(
        "endpoints: [ '127.0.0.1:{}', '127.0.0.1:{}' ], retries: {{ on: [ 503 ], budget: {{ share: 100% }} }}",
        bad.port(),
        good.port()
    ));
    for _ in 0..20 {
        assert_eq!(said(&get(gateway.port(), "/")), WELL());
    }
    assert_eq!(good.asked().len(), 20);
    assert!((10..=20).contains(&bad.asked().len()), "nobody is asked twice for one request");
    // The connection of an answer that was dropped is used again.
    assert!(bad.asked().iter().all(|asked| asked.connection == 0), "{:?}", bad.asked().last());
    let line = gateway.wait_log(|line| line["retries"] == 1);
    assert_eq!(line["endpoint"], format!("127.0.0.1:{}", good.port()));
}

#[test]
fn what_may_have_been_done_is_not_done_twice_unless_somebody_says_so() {
    for (config, key, again) in [
        ("", None, false),
        (", methods: [ POST ]", None, true),
        (", idempotency_key: Idempotency-Key", None, false),
        (", idempotency_key: Idempotency-Key", Some(""), false),
        (", idempotency_key: Idempotency-Key", Some("7e1c"), true),
    ] {
        for bad in [(|| Act::Send(answer(503, &[], ""))) as fn() -> Act, || Act::Last(Vec::new())] {
            let origin = sick(1, bad);
            let gateway = start(&format!(
                "endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 5xx, reset ]{config}, backoff: {{ base: 0s }} }}",
                origin.port()
            ));
            let fields: Vec<_> = key.iter().map(|key| ("Idempotency-Key", *key)).collect();
            let told = request(gateway.port(), "POST", "/", &fields, b"pay");
            assert_eq!(origin.asked().len(), 1 + usize::from(again), "{config} {key:?}");
            assert_eq!(told.status == 200, again, "{config} {key:?} {told:?}");
            assert!(origin.asked().iter().all(|asked| asked.body == b"pay"));
        }
    }
    // What is listed takes the place of what is idempotent.
    let origin = sick(1, || Act::Send(answer(503, &[], "")));
    let gateway = start(&format!("endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ], methods: [ GET ] }}", origin.port()));
    assert_eq!(request(gateway.port(), "PUT", "/", &[], b"x").status, 503);
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn bodies_are_repeated_whole_up_to_the_bound() {
    for (size, again) in [(0, true), (1024, true), (99_999, true), (100_000, true), (100_001, false)] {
        for chunked in [false, true] {
            // Answers once it has all of the request.
            let origin = sick(1, || Act::Send(answer(503, &[], "busy")));
            let gateway = start(&format!(
                "endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ], buffer: 100000, backoff: {{ base: 0s }} }}",
                origin.port()
            ));
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let told = match chunked {
                false => request(gateway.port(), "PUT", "/", &[], &body),
                true => {
                    let mut sent = Vec::new();
                    for piece in body.chunks(10_000) {
                        sent.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                        sent.extend_from_slice(piece);
                        sent.extend_from_slice(b"\r\n");
                    }
                    sent.extend_from_slice(b"0\r\n\r\n");
                    request(gateway.port(), "PUT", "/", &[("Transfer-Encoding", "chunked")], &sent)
                }
            };
            let what = format!("{size} {chunked} {told:?}");
            assert_eq!(told.status, if again { 200 } else { 503 }, "{what}");
            assert_eq!(origin.asked().len(), 1 + usize::from(again), "{what}");
            assert!(origin.asked().iter().all(|asked| asked.body == body), "{what}");
        }
    }
}

#[test]
fn an_endpoint_says_when_to_come_back_within_bounds() {
    for (after, again) in [("1", true), ("2", false), ("3600", false), ("Fri, 31 Dec 2049 23:59:59 GMT", false)] {
        let origin = sick(1, move || Act::Send(answer(503, &[("Retry-After", after)], "busy")));
        let gateway = start(&format!(
            "endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ], max_retry_after: 1s, backoff: {{ base: 0s }} }}",
            origin.port()
        ));
        let began = Instant::now();
        let told = get(gateway.port(), "/");
        let took = began.elapsed();
        assert_eq!(told.status, if again { 200 } else { 503 }, "{after}");
        match again {
            true => assert!(took >= Duration::from_secs(1), "{took:?}"),
            false => assert_eq!(told.header("retry-after"), Some(after), "the client is told"),
        }
    }
}

#[test]
fn no_attempt_is_begun_for_which_there_is_no_time() {
    let origin = sick(5, || Act::Send(answer(503, &[("Retry-After", "30")], "busy")));
    let gateway = Gateway::start(&yaml(
        &format!("endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ], max_retry_after: 1m }}", origin.port()),
        ", timeout: 5s",
    ));
    let began = Instant::now();
    assert_eq!(said(&get(gateway.port(), "/")), (503, "busy".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn a_storm_costs_no_more_than_the_budget() {
    let origin = Origin::start(|_| Act::Send(answer(503, &[], "dead")));
    let service = |extra: &str| {
        format!(
            "endpoints: [ '127.0.0.1:{}' ], retries: {{ attempts: 3, on: [ 503 ], backoff: {{ base: 0s }}, budget: {{ share: 20%, \
             min_per_second: 0 }} }}{extra}",
            origin.port()
        )
    };
    let gateway = start(&service(""));
    let ask = |count: usize| {
        let mut client = Client::connect(gateway.port());
        (0..count).for_each(|_| assert_eq!(client.get("/").status, 503));
    };
    ask(500);
    // A reload that does not touch it does not refill it.
    gateway.rewrite(&yaml(&service(", retry_after: 2s"), ""));
    assert_eq!(gateway.reload().0, 200);
    ask(500);
    let retries = origin.asked().len() - 1000;
    assert!((100..=201).contains(&retries), "{retries} retries for 1000 requests");
    let exhausted = gateway.metric("portcullis_retry_budget_exhausted_total{service=\"it\"}");
    assert!(exhausted >= 700.0, "{exhausted}");
    gateway.wait_metric("portcullis_retries_total{service=\"it\",reason=\"status\"}", retries as f64);
}

#[test]
fn a_client_that_leaves_ends_the_wait_and_a_reload_does_not() {
    let origin = sick(1, || Act::Send(answer(503, &[("Retry-After", "2")], "busy")));
    let service = format!(
        "endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ], max_retry_after: 1m, backoff: {{ base: 0s }} }}",
        origin.port()
    );
    let gateway = start(&service);
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/left", &[], b"");
    eventually("it was asked once", || origin.count("/left") == 1);
    client.reset();
    let line = gateway.wait_log(|line| line["path"] == "/left");
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
    assert_eq!(origin.count("/left"), 1);
    // What is waiting goes on in its own generation.
    let origin = sick(1, || Act::Send(answer(503, &[("Retry-After", "2")], "busy")));
    let service = service.replace(
        &service[service.find("127.0.0.1:").unwrap()..service.find("' ]").unwrap()],
        &format!("127.0.0.1:{}", origin.port()),
    );
    gateway.rewrite(&yaml(&service, ""));
    assert_eq!(gateway.reload().0, 200);
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/waits", &[], b"");
    eventually("it was asked once", || origin.count("/waits") == 1);
    gateway.rewrite(&yaml(&service.replace("on: [ 503 ]", "on: [ 502 ]"), ""));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(said(&client.answer_to("GET")), WELL());
}

#[test]
fn an_interim_answer_that_was_passed_on_ends_it() {
    let bad = || {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".to_vec();
        Act::Send([early, answer(503, &[], "busy")].concat())
    };
    let origin = sick(1, bad);
    let gateway = start(&format!("endpoints: [ '127.0.0.1:{}' ], retries: {{ on: [ 503 ] }}", origin.port()));
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/", &[], b"");
    let mut seen = Vec::new();
    client.half_close();
    seen.extend(client.rest());
    let text = String::from_utf8_lossy(&seen);
    assert!(text.contains("103") && text.contains("503"), "{text}");
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn a_client_cannot_say_which_attempt_it_is() {
    let origin = Origin::named("well");
    let gateway = start(&format!("endpoints: [ '127.0.0.1:{}' ]", origin.port()));
    let marks = ["X-Portcullis-Attempt", "X-Portcullis-Mirror", "X-Portcullis-Fallback"];
    request(gateway.port(), "GET", "/", &marks.map(|name| (name, "9")), b"");
    assert_eq!(attempts(&origin), [None]);
    // Nor that it is a copy, or asked in another's stead.
    assert!(marks.iter().all(|name| origin.asked()[0].header(&name.to_ascii_lowercase()).is_none()));
}

#[test]
fn an_upgrade_is_tried_again_only_where_no_connection_was_made() {
    let dead = Port::lease();
    let origin = Origin::start(|_| Act::Send(answer(503, &[], "busy")));
    let gateway = start(&format!(
        "endpoints: [ '127.0.0.1:{}', '127.0.0.1:{}' ], retries: {{ on: [ connect, 503 ], attempts: 3 }}",
        dead.number(),
        origin.port()
    ));
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for asked in 1..=4 {
        assert_eq!(request(gateway.port(), "GET", "/", &upgrade, b"").status, 503);
        assert_eq!(origin.asked().len(), asked);
    }
    eventually("connections were tried again", || {
        gateway.metric("portcullis_retries_total{service=\"it\",reason=\"connect\"}") >= 2.0
    });
}

#[test]
fn one_address_is_connected_to_again_where_somebody_says_so() {
    let mut origin = Origin::named("well");
    let service = |on: &str| {
        format!(
            "endpoints: [ '127.0.0.1:{}' ], retries: {{ {on} attempts: 10, backoff: {{ base: 500ms, max: 1s }} }}",
            origin.port()
        )
    };
    let (explicit, default) = (start(&service("on: [ connect ],")), start(&service("")));
    origin.stop();
    get(default.port(), "/").assert_problem(502, "upstream", "connect_failure");
    let mut client = Client::connect(explicit.port());
    client.send_request("POST", "/", &[], b"x");
    eventually("it was tried again", || explicit.metric("portcullis_retries_total{service=\"it\",reason=\"connect\"}") >= 1.0);
    origin.back();
    assert_eq!(said(&client.answer_to("POST")), WELL());
}

#[test]
fn a_route_has_its_own_word_and_a_split_and_a_cache_keep_it() {
    let flaky = |name: &'static str| {
        Origin::start(move |asked: &Asked| {
            let again = asked.header("x-portcullis-attempt").is_some();
            Act::Send(if again { answer(200, &[("Cache-Control", "max-age=60")], name) } else { answer(503, &[], "busy") })
        })
    };
    let (a, b) = (flaky("a"), flaky("b"));
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
         server: {{ workers: 1 }}
         services:
           a: {{ endpoints: [ '127.0.0.1:{}' ] }}
           b: {{ endpoints: [ '127.0.0.1:{}' ] }}
         routes:
           - {{ path: /plain, service: a }}
           - {{ path: /again, service: a, retries: {{ on: [ 503 ] }} }}
           - path: /split
             split: [ {{ service: a, weight: 1 }}, {{ service: b, weight: 1 }} ]
             retries: {{ on: [ 503 ] }}
           - {{ path: /cached, service: b, retries: {{ on: [ 503 ] }}, policies: {{ cache: {{ ttl: 1m }} }} }}
        ",
        a.port(),
        b.port()
    ));
    assert_eq!(get(gateway.port(), "/plain").status, 503);
    assert_eq!(said(&get(gateway.port(), "/again")), (200, "a".to_owned()));
    for _ in 0..20 {
        let told = get(gateway.port(), "/split");
        assert_eq!(told.status, 200, "{told:?}");
        let line = gateway.wait_log(|line| line["path"] == "/split");
        assert!(["a", "b"].contains(&line["service"].as_str().unwrap()), "{line}");
    }
    let before = b.count("/cached");
    for _ in 0..3 {
        assert_eq!(said(&get(gateway.port(), "/cached")), (200, "b".to_owned()));
    }
    assert_eq!(b.count("/cached") - before, 2, "one fill, with one retry");
}

#[test]
fn what_cannot_be_meant_is_said_and_so_is_what_another_engine_cannot() {
    let files = Files::new();
    let check = |text: &str| {
        files.write("portcullis.yaml", text.replace("$PORT", "8080"));
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        format!("{}{}", ran.stdout, ran.stderr)
    };
    for (retries, says) in [
        ("on: [ connect-failure ]", "did you mean `connect`?"),
        ("retry_on: [ 5xx ]", "`on`"),
        ("num_retries: 2", "`attempts`"),
        ("attempts: 0, on: [ 503 ]", "has no effect with `attempts: 0`"),
        ("methods: [ POST ]", "safe with every method"),
        ("on: [ unavailable ]", "methods: [ POST ]"),
    ] {
        let told = check(&yaml(&format!("endpoints: [ '127.0.0.1:1' ], retries: {{ {retries} }}"), ""));
        assert!(told.contains(says), "{retries}: {told}");
    }
    let route = "
        listeners: [ { bind: '127.0.0.1:8080' } ]
        services: { it: { endpoints: [ '127.0.0.1:1' ] } }
        routes: [ { path: /, service: it, retries: { budget: { min_per_second: 1000 } } } ]
    ";
    let told = check(route);
    assert!(told.contains("a retry budget is its service's") && told.contains("portcullis.yaml:4:"), "{told}");
    let stock = |service: &str| {
        check(&yaml(&format!("endpoints: [ '127.0.0.1:1' ], {service}"), "").replace("workers: 1", "engine: pingora"))
    };
    for (service, says) in [
        ("retries: { on: [ 503 ] }", "`retries.on` cannot be had"),
        ("retries: { backoff: { base: 1ms } }", "`retries.backoff` cannot be had"),
        ("retries: { budget: { share: 5% } }", "`retries.budget` cannot be had"),
        ("timeouts: { try: 1s }", "`timeouts.try` cannot be had"),
    ] {
        let told = stock(service);
        assert!(told.contains(says), "{service}: {told}");
    }
    assert!(!stock("retries: { attempts: 2 }").contains("cannot be had with `engine"));
}

/// Of what is uploaded, nothing is lost or doubled when the endpoint answers before it has all.
#[test]
fn an_early_answer_is_asked_for_again_with_the_whole_body() {
    let left = Arc::new(AtomicUsize::new(1));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (count, bodies) = (left.clone(), seen.clone());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut read = Vec::new();
            let mut buffer = [0; 4096];
            let head = loop {
                let got = stream.read(&mut buffer).unwrap_or(0);
                if got == 0 {
                    break None;
                }
                read.extend_from_slice(&buffer[..got]);
                if let Some(end) = crate::harness::find(&read, b"\r\n\r\n") {
                    break Some(end + 4);
                }
            };
            let Some(head) = head else { continue };
            if count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                // Says no at once, and keeps the connection open: what comes on it next would be a part of this request.
                stream.write_all(&answer(503, &[], "busy")).unwrap();
                let rest = std::io::Read::bytes(&stream).map_while(Result::ok).count();
                bodies.lock().unwrap().push(format!("unread {rest}"));
                continue;
            }
            while read.len() < head + 30_000 {
                let got = stream.read(&mut buffer).unwrap_or(0);
                if got == 0 {
                    break;
                }
                read.extend_from_slice(&buffer[..got]);
            }
            bodies.lock().unwrap().push(format!("whole {}", read.len() - head));
            stream.write_all(&answer(200, &[], "well")).unwrap();
        }
    });
    let gateway = start(&format!("endpoints: [ '127.0.0.1:{port}' ], retries: {{ on: [ 503 ], backoff: {{ base: 0s }} }}"));
    let mut client = Client::connect(gateway.port());
    let body = vec![b'x'; 30_000];
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body[..20_000]);
    eventually("the first attempt was given up", || seen.lock().unwrap().iter().any(|seen| seen.starts_with("unread")));
    client.send(&body[20_000..]);
    assert_eq!(said(&client.answer_to("PUT")), WELL());
    assert_eq!(seen.lock().unwrap().last().unwrap(), "whole 30000");
}
