//! How long a request may take, as callers set it and as services are told: once it is over nobody is asked, and every attempt has less.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Gateway, curl, eventually, get, request};
use crate::peers::{Act, Asked, Origin, answer};

const FIELD: &str = "X-Request-Deadline";

/// Takes as many milliseconds as the target says, and fails as often as `/fails` is asked for the first time.
fn slow() -> Origin {
    Origin::start(|asked: &Asked| {
        let millis = asked.target.rsplit('/').next().and_then(|millis| millis.parse().ok()).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(millis));
        let fails = asked.target.contains("fails") && asked.header("x-portcullis-attempt").is_none();
        Act::Send(answer(if fails { 503 } else { 200 }, &[], "told"))
    })
}

/// With two listeners: the second one trusts who asks. `server` begins with the engine, or is empty.
fn gateway(origin: &Origin, server: &str) -> Gateway {
    Gateway::start(&format!(
        "
        listeners:
          - {{ bind: '127.0.0.1:$PORT', h2c: true }}
          - {{ bind: '127.0.0.1:$PORT2', h2c: true, trusted_proxies: [ 127.0.0.0/8 ] }}
        server: {{ workers: 1, fault_injection: true, {server} }}
        services: {{ it: {{ endpoints: ['127.0.0.1:{}'] }} }}
        routes:
          - {{ path: /timed/*, service: it, timeout: 20s }}
          - {{ path: /waits/*, service: it, policies: {{ fault: {{ delay: {{ for: 400ms }} }} }} }}
          - {{ path: /cached/*, service: it, policies: {{ cache: {{ ttl: 60s }} }} }}
          - {{ path: /word/*, service: it, timeout: 20s, policies: {{ request_headers: {{ set: {{ {FIELD}: mine }} }} }} }}
          - {{ path: /stream/*, service: it, timeout: 20s, stream: true }}
          - {{ path: /*, service: it }}
        ",
        origin.port()
    ))
}

fn told(origin: &Origin, target: &str) -> Vec<Option<u64>> {
    let all = origin.asked();
    let of = all.iter().filter(|asked| asked.target == target);
    of.map(|asked| asked.header("x-request-deadline").map(|left| left.parse().unwrap())).collect()
}

fn a_caller_that_is_trusted_sets_a_deadline(server: &str) {
    let origin = slow();
    let gateway = gateway(&origin, server);
    let trusted = |path: &str, left: &str| request(gateway.port2(), "GET", path, &[(FIELD, left)], b"");
    assert_eq!(trusted("/plain", "10000").status, 200);
    let left = told(&origin, "/plain")[0].unwrap();
    assert!((5000..=10_000).contains(&left), "{left}");
    let since = Instant::now();
    trusted("/slow/8000", "500").assert_problem(504, "door", "deadline_exceeded");
    assert!(since.elapsed() >= Duration::from_millis(500) && since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
    let line = gateway.wait_log(|line| line["path"] == "/slow/8000");
    assert_eq!((&line["status"], &line["reason"]), (&json!(504), &json!("deadline_exceeded")), "{line}");
    // What is over asks nobody: from the start, or once it has been waited for something else.
    trusted("/none", "0").assert_problem(504, "door", "deadline_exceeded");
    trusted("/waits/long", "100").assert_problem(504, "door", "deadline_exceeded");
    for bad in ["soon", "1.5", "-1", "10s", "1000000000000"] {
        trusted("/none", bad).assert_problem(400, "door", "malformed_deadline");
    }
    // Nobody else sets one, and nobody's field goes through.
    for left in ["0", "100", "soon"] {
        assert_eq!(request(gateway.port(), "GET", "/stranger/300", &[(FIELD, left)], b"").status, 200);
    }
    assert_eq!(told(&origin, "/stranger/300"), [None; 3]);
    assert_eq!((origin.count("/none"), origin.count("/waits/long")), (0, 0));
    eventually("nothing is under way", || gateway.metric("portcullis_in_flight") == 0.0);
}

#[test]
fn a_trusted_caller_sets_a_deadline_and_strangers_do_not() {
    a_caller_that_is_trusted_sets_a_deadline("");
}

#[test]
fn a_trusted_caller_sets_a_deadline_of_a_stock_server_too() {
    a_caller_that_is_trusted_sets_a_deadline("engine: pingora");
}

#[test]
fn a_service_is_told_what_is_left_of_its_routes_time() {
    let origin = slow();
    let gateway = gateway(&origin, "");
    for path in ["/timed/a", "/timed/b"] {
        assert_eq!(get(gateway.port(), path).status, 200);
        let left = told(&origin, path)[0].unwrap();
        assert!((10_000..=20_000).contains(&left), "{left}");
    }
    // The shorter of both counts.
    assert_eq!(request(gateway.port2(), "GET", "/timed/c", &[(FIELD, "3000")], b"").status, 200);
    assert!(told(&origin, "/timed/c")[0].unwrap() <= 3000);
    // What has no bound has none to tell of, what may stream on for hours is not bounded by its route, and a policy has the last word.
    assert_eq!([get(gateway.port(), "/free").status, get(gateway.port(), "/stream/a").status], [200; 2]);
    assert_eq!([told(&origin, "/free"), told(&origin, "/stream/a")], [[None], [None]]);
    assert_eq!(get(gateway.port(), "/word/a").status, 200);
    let all = origin.asked();
    let words: Vec<_> =
        all.iter().filter(|asked| asked.target == "/word/a").map(|asked| asked.header("x-request-deadline")).collect();
    assert_eq!(words, [Some("mine")]);
}

#[test]
fn a_second_attempt_has_what_the_first_one_left() {
    let origin = slow();
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true, timeouts: {{ request: 20s }} }} ]
        server: {{ workers: 1 }}
        services: {{ it: {{ endpoints: ['127.0.0.1:{}'], retries: {{ attempts: 2, on: [ 503 ], backoff: {{ base: 1ms, max: 1ms }} }} }} }}
        routes:
          - {{ path: /short/*, service: it, timeout: 900ms }}
          - {{ path: /cached/*, service: it, policies: {{ cache: {{ ttl: 60s }} }} }}
          - {{ path: /*, service: it }}
        ",
        origin.port()
    ));
    for path in ["/fails/300", "/cached/fails/300"] {
        let asked = curl(&["--http2-prior-knowledge", &gateway.url(path)]);
        assert_eq!(asked.status, 200, "{asked:?}");
        let [Some(first), Some(second)] = told(&origin, path)[..] else { panic!("{:?}", origin.asked()) };
        assert!(second + 300 <= first && second > 1000, "{first} {second}");
    }
    // There is no third of what is over.
    get(gateway.port(), "/short/fails/600").assert_problem(504, "door", "request_timeout");
    let line = gateway.wait_log(|line| line["path"] == "/short/fails/600");
    assert_eq!(line["retries"], 1, "{line}");
}

#[test]
fn an_answer_from_memory_takes_no_time() {
    let origin = slow();
    let gateway = gateway(&origin, "");
    assert_eq!(get(gateway.port2(), "/cached/a").status, 200);
    assert_eq!(request(gateway.port2(), "GET", "/cached/a", &[(FIELD, "2000")], b"").status, 200);
    assert_eq!(origin.count("/cached/a"), 1);
    request(gateway.port2(), "GET", "/cached/b", &[(FIELD, "0")], b"").assert_problem(504, "door", "deadline_exceeded");
    assert_eq!(origin.count("/cached/b"), 0);
}
