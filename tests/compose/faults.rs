//! What becomes of an answer when a part of it goes wrong: each way a service can fail, and that nobody else is harmed.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::{json, ok, yaml};
use crate::harness::*;

/// Answers with these bytes as they are, and hangs up.
fn scripted(bytes: impl Into<Vec<u8>>) -> Backend {
    let bytes = bytes.into();
    Backend::scripted(move |mut stream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(&bytes);
    })
}

const COMPOSE: &str = "
      calls:
        sound: { service: sound, path: /, optional: true }
        part: { service: part, path: /, timeout: 400ms, OPTIONAL }
      answer: { meta: true }";

#[test]
fn every_way_a_part_can_fail() {
    let dead = Port::lease();
    let html = json("", "<html></html>");
    let html = String::from_utf8(html).unwrap().replace("application/json", "text/html");
    let large = json("", &format!("\"{}\"", "x".repeat(1 << 20)));
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n", 2 << 20, "x".repeat(2 << 20));
    let deep = json("", &format!("{}{}", "[".repeat(200), "]".repeat(200)));
    let silent = Backend::scripted(|mut stream| {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let table: Vec<(Backend, &str)> = vec![
        (silent, "timeout"),
        (scripted("HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}"), "status;code=500"),
        (scripted("HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\n{}"), "status;code=404"),
        (scripted("HTTP/1.1 302 X\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"), "redirect;code=302"),
        (scripted(html), "not_json"),
        (scripted(large), "too_large"),
        (scripted(chunked), "too_large"),
        (scripted(deep), "too_deep"),
        (scripted(json("", "{\"a\":")), "malformed"),
        (scripted(json("", "{} {}")), "malformed"),
        (scripted(json("Content-Encoding: gzip\r\n", "{}")), "coded"),
        (scripted("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":1"), "cut_off"),
        (scripted("nonsense\r\n\r\n"), "unavailable"),
    ];
    let sound = Backend::answering(|_| ok("\"sound\""));
    let check = |port: u16, state: &str| {
        let config = yaml(&[("sound", &sound)], COMPOSE).replace(
            "services:\n",
            &format!("services:\n  part: {{ endpoints: [ '127.0.0.1:{port}' ], retries: {{ attempts: 0 }} }}\n"),
        );
        let word = state.split(';').next().unwrap();
        let gateway = Gateway::start(&config.replace("OPTIONAL", "optional: true"));
        let since = Instant::now();
        let answer = get(gateway.port(), "/api/dashboard");
        assert!(since.elapsed() < Duration::from_secs(5), "{state}");
        assert_eq!(answer.status, 200, "{state}");
        assert_eq!(answer.header("x-portcullis-parts"), Some(format!("sound=ok, part={state}").as_str()), "{}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        assert_eq!((&body["sound"], body.get("part")), (&"sound".into(), None), "{state}");
        assert_eq!((&body["_meta"]["part"]["state"], &body["_meta"]["sound"]["source"]), (&word.into(), &"live".into()));
        let count = format!("portcullis_composed_parts_total{{route=\"/api/dashboard\",part=\"part\",outcome=\"{word}\"}}");
        gateway.wait_metric(&count, 1.0);
        assert!(gateway.wait_lines(1)[0]["parts"].as_str().unwrap().contains(&format!("part={state};ms=")));
        // The memory that was taken is given back.
        gateway.wait_metric("portcullis_buffered_bytes", 0.0);
        drop(gateway);
        let gateway = Gateway::start(&config.replace(", OPTIONAL", ""));
        let answer = get(gateway.port(), "/api/dashboard");
        match word {
            "timeout" => answer.assert_problem(504, "compose", "part_timeout"),
            _ => answer.assert_problem(502, "compose", "part_failed"),
        }
        assert_eq!((&answer.json()["part"], &answer.json()["why"]), (&"part".into(), &word.into()));
        assert_eq!(gateway.wait_lines(1)[0]["decided_by"], "part");
    };
    for (backend, state) in &table {
        check(backend.port(), state);
    }
    check(dead.number(), "unavailable");
}

/// No content is nothing, and nothing is wrong with it.
#[test]
fn no_content_is_null() {
    let none = scripted("HTTP/1.1 204 No Content\r\n\r\n");
    let gateway = Gateway::start(&yaml(&[("part", &none)], "\n      calls: { part: { service: part, path: / } }"));
    let answer = get(gateway.port(), "/api/dashboard");
    assert_eq!((answer.text().as_str(), answer.header("x-portcullis-parts")), (r#"{"part":null}"#, None));
}

#[test]
fn fallbacks_stand_in_and_say_so() {
    let (bad, good) = (scripted("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"), Backend::answering(|_| ok(r#"{"a":"other"}"#)));
    let compose = "
      calls:
        fixed: { service: bad, path: /1, fallback: { json: { ads: [] } } }
        other: { service: bad, path: /2, fallback: { service: good, path: /stand-in }, target: a }
        gone: { service: bad, path: /3, optional: true, fallback: { service: bad, path: /4 } }
        list: { service: bad, path: /5, optional: true, append: true }
      answer: { meta: true }";
    let gateway = Gateway::start(&yaml(&[("bad", &bad), ("good", &good)], compose));
    let answer = get(gateway.port(), "/api/dashboard");
    let parts = "fixed=fallback, other=fallback, gone=status;code=503, list=status;code=503";
    assert_eq!((answer.status, answer.header("x-portcullis-parts")), (200, Some(parts)));
    let body = answer.json();
    assert_eq!((&body["fixed"], &body["other"]), (&serde_json::json!({ "ads": [] }), &"other".into()));
    assert_eq!((&body["list"], body.get("gone")), (&serde_json::json!([]), None));
    assert_eq!((&body["_meta"]["fixed"]["source"], &body["_meta"]["gone"]["status"]), (&"fallback".into(), &503.into()));
    assert_eq!((good.last().target.as_str(), answer.header("cache-control")), ("/stand-in", Some("no-store")));
}

#[test]
fn a_required_part_decides_what_the_whole_is() {
    let bad = scripted("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
    let hang = Backend::scripted(|mut stream| {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let compose = "
      calls:
        slow: { service: hang, path: / }
        item: { service: bad, path: /, pass_statuses: [404] }";
    let gateway = Gateway::start(&yaml(&[("bad", &bad), ("hang", &hang)], compose));
    let since = Instant::now();
    let answer = get(gateway.port(), "/api/dashboard");
    answer.assert_problem(404, "compose", "part_refused");
    assert!(since.elapsed() < Duration::from_secs(5), "nobody waits for the others");
    let line = &gateway.wait_lines(1)[0];
    assert!(line["parts"].as_str().unwrap().contains("slow=cancelled"), "{line}");
    let gateway = Gateway::start(&yaml(
        &[("bad", &bad)],
        "\n      calls: { item: { service: bad, path: / } }\n      answer: { failed_status: 424 }",
    ));
    get(gateway.port(), "/api/dashboard").assert_problem(424, "compose", "part_failed");
}

/// Once for all parts, and what was had by then is given.
#[test]
fn one_deadline_is_over_all() {
    let hang = Backend::scripted(|mut stream| {
        let mut bytes = [0; 4096];
        while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    });
    let quick = Backend::answering(|_| ok("1"));
    let compose = "
      calls: { quick: { service: quick, path: / }, slow: { service: hang, path: /, optional: true } }
    timeout: 500ms";
    let config = yaml(&[("quick", &quick), ("hang", &hang)], compose);
    let gateway = Gateway::start(&config);
    let since = Instant::now();
    let answer = get(gateway.port(), "/api/dashboard");
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&since.elapsed()), "{:?}", since.elapsed());
    assert_eq!((answer.status, answer.text()), (200, r#"{"quick":1}"#.to_owned()));
    assert_eq!(answer.header("x-portcullis-parts"), Some("quick=ok, slow=timeout"));
    let gateway = Gateway::start(&config.replace(", optional: true", ""));
    get(gateway.port(), "/api/dashboard").assert_problem(504, "compose", "part_timeout");
}

/// What the parts take is charged to the client, and the next one has all of it again.
#[test]
fn memory_is_bounded_and_given_back() {
    let big = Backend::answering(|_| ok(&format!("\"{}\"", "x".repeat(200_000))));
    let compose = "
      calls:
        one: { service: big, path: /1, optional: true }
        two: { service: big, path: /2, optional: true }
        three: { service: big, path: /3, optional: true }";
    let config = yaml(&[("big", &big)], compose)
        .replace("workers: 1", "workers: 1, buffered_bytes: 1MiB, buffered_bytes_per_address: 512KiB");
    let gateway = Gateway::start(&config);
    for _ in 0..5 {
        let answer = get(gateway.port(), "/api/dashboard");
        // Either a part had to go, or the whole; never more than there may be.
        match answer.status {
            200 => assert!(
                answer.header("x-portcullis-parts").unwrap().contains("memory"),
                "{:?}",
                answer.header("x-portcullis-parts")
            ),
            _ => answer.assert_problem(503, "door", "body_budget"),
        }
        gateway.wait_metric("portcullis_buffered_bytes", 0.0);
    }
}

/// Two hundred clients at once take no more than one may have who is alone: what there is no memory for is told, and never taken.
#[test]
fn two_hundred_clients_take_no_more_than_there_is() {
    const BOUND: f64 = 4.0 * 1024.0 * 1024.0;
    let big = Backend::answering(|_| ok(&format!("[\"{}\"]", "x".repeat(100_000))));
    let compose = "
      calls:
        one: { service: big, path: /1, optional: true }
        two: { service: big, path: /2, optional: true, keep: [a] }
        three: { service: big, path: '/3/{parts.two.9}', optional: true, fallback: { path: /4 } }";
    let bounds = "workers: 2, buffered_bytes: 4MiB, buffered_bytes_per_address: 4MiB";
    let gateway = Gateway::start(&yaml(&[("big", &big)], compose).replace("workers: 1", bounds));
    let port = gateway.port();
    let most = std::thread::scope(|scope| {
        let ask = || {
            let answer = get(port, "/api/dashboard");
            match answer.status {
                200 => answer.body.len() > 2,
                _ => {
                    answer.assert_problem(503, "door", "body_budget");
                    false
                }
            }
        };
        let clients: Vec<_> = (0..200).map(|_| scope.spawn(ask)).collect();
        let mut most = 0.0_f64;
        while !clients.iter().all(|client| client.is_finished()) {
            most = most.max(gateway.metric("portcullis_buffered_bytes"));
        }
        let served = clients.into_iter().map(|client| client.join().unwrap()).filter(|served| *served).count();
        assert!(served > 0, "nobody was served");
        most
    });
    assert!(most > 0.0 && most <= BOUND, "{most}");
    gateway.wait_metric("portcullis_buffered_bytes", 0.0);
    assert!(get(port, "/api/dashboard").body.len() > 200_000, "the next one has all of it again");
}

/// One small answer, over and over: what it comes to is paid before it is there.
#[test]
fn an_answer_that_repeats_a_part_is_paid_before_it_is_made() {
    let items = format!("[{}]", vec!["1"; 1000].join(","));
    let shop = Backend::answering(move |request| match request.target.as_str() {
        "/list" => ok(&items),
        _ => ok(&format!("\"{}\"", "x".repeat(20_000))),
    });
    let compose = "
      calls:
        list: { service: shop, path: /list, group: none }
        each: { service: shop, path: '/each/{item}', for_each: { in: parts.list, max: 1000 } }";
    let config = yaml(&[("shop", &shop)], compose);
    let gateway =
        Gateway::start(&config.replace("workers: 1", "workers: 1, buffered_bytes: 8MiB, buffered_bytes_per_address: 8MiB"));
    let answer = get(gateway.port(), "/api/dashboard");
    answer.assert_problem(503, "door", "body_budget");
    assert_eq!(shop.requests().len(), 2, "each question once");
    gateway.wait_metric("portcullis_buffered_bytes", 0.0);
}

/// A service that takes its time for one client takes nothing of the others', and nobody gets what is another one's.
#[test]
fn clients_do_not_meet_in_a_composed_answer() {
    let echo = Backend::answering(|request| {
        let who = request.header("x-who").unwrap_or_default().to_owned();
        if who == "slow" {
            std::thread::sleep(Duration::from_millis(500));
        }
        ok(&format!("\"{who}\""))
    });
    let compose = "\n      calls: { one: { service: echo, path: / }, two: { service: echo, path: /2, optional: true } }";
    let gateway = Gateway::start(&yaml(&[("echo", &echo)], compose));
    let port = gateway.port();
    let slow = std::thread::spawn(move || request(port, "GET", "/api/dashboard", &[("X-Who", "slow")], b"").text());
    let clients: Vec<_> = (0..8)
        .map(|number| {
            std::thread::spawn(move || {
                let who = format!("client-{number}");
                for _ in 0..20 {
                    let answer = request(port, "GET", "/api/dashboard", &[("X-Who", &who)], b"");
                    assert_eq!(answer.text(), format!(r#"{{"one":"{who}","two":"{who}"}}"#));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(slow.join().unwrap(), r#"{"one":"slow","two":"slow"}"#);
}

/// The breaker, the retries and the health of a service are those of all its requests.
#[test]
fn parts_go_the_way_of_all_requests() {
    let tried = std::sync::atomic::AtomicUsize::new(0);
    let flaky = Backend::answering(move |_| match tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("1"),
    });
    let down = scripted("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
    let compose = "
      calls:
        flaky: { service: flaky, path: /, retries: { attempts: 2, on: [503], backoff: { base: 1ms, max: 2ms } } }
        down: { service: down, path: /, optional: true }";
    let config = yaml(&[("flaky", &flaky), ("down", &down)], compose).replace(
        &format!("'127.0.0.1:{}' ]", down.port()),
        &format!("'127.0.0.1:{}' ], circuit_breaker: {{ min_requests: 5, failure_rate: 50% }}", down.port()),
    );
    let gateway = Gateway::start(&config);
    assert_eq!(get(gateway.port(), "/api/dashboard").json()["flaky"], 1);
    assert_eq!(gateway.metric("portcullis_upstream_retries_total{service=\"flaky\"}"), 1.0);
    eventually("the breaker opens", || {
        let answer = get(gateway.port(), "/api/dashboard");
        answer.header("x-portcullis-parts") == Some("flaky=ok, down=unavailable")
    });
}
