//! Second copies of requests that take unusually long: whose answer is taken, what becomes of the other, what may be sent twice, what it
//! costs, and what it is good for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Answer, Client, Files, Gateway, curl, eventually, get, portcullis, request};
use crate::peers::{Act, Asked, Origin, answer};
use crate::retries::faulty::{Fault, Faulty};

const LONG: Duration = Duration::from_secs(5);

/// Takes long for what has `slow` in its path, and says who it is.
fn slow(name: &'static str) -> Origin {
    Origin::start(move |asked: &Asked| {
        if asked.target.contains("slow") {
            std::thread::sleep(LONG);
        }
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], format!("{name} {}", asked.body.len())))
    })
}

fn quick(name: &'static str) -> Origin {
    Origin::start(move |asked: &Asked| {
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], format!("{name} {}", asked.body.len())))
    })
}

/// The first is asked first. `service` and `routes` are in flow style, the routes with a comma behind each.
fn gateway(first: u16, second: u16, service: &str, routes: &str) -> Gateway {
    Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
        server: {{ workers: 1 }}
        services:
          it: {{ endpoints: ['127.0.0.1:{first}', '127.0.0.1:{second}'], balance: first, {service} }}
          other: {{ endpoints: ['127.0.0.1:{second}'] }}
        routes: [ {} {{ path: /*, service: it }} ]
        ",
        routes.split_whitespace().collect::<Vec<_>>().join(" ")
    ))
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

fn is(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

/// Nothing is under way at any endpoint.
fn at_rest(gateway: &Gateway) {
    eventually("nothing is under way", || {
        let (status, body) = gateway.admin_get("/upstreams");
        assert_eq!(status, 200);
        let upstreams: serde_json::Value = serde_json::from_str(&body).unwrap();
        !upstreams.to_string().contains("\"in_flight\":1") && gateway.metric("portcullis_in_flight") == 0.0
    });
}

#[test]
fn the_quicker_answer_is_taken_on_every_kind_of_route() {
    let (first, second) = (slow("first"), quick("second"));
    let routes = "
        { path: /cached/*, service: it, policies: { cache: { ttl: 60s } } },
        { path: /split/*, split: [ { service: it, weight: 1 }, { service: other, weight: 0 } ] },
        { path: /mirrored/*, service: it, policies: { mirror: { service: other } } },
        { path: /never/*, service: it, hedging: false, timeout: 1s },
    ";
    let gateway = gateway(first.port(), second.port(), "hedging: 50ms", routes);
    for path in ["/slow", "/cached/slow", "/split/slow", "/mirrored/slow"] {
        let since = Instant::now();
        assert_eq!(said(&get(gateway.port(), path)), is("second 0"), "{path}");
        assert!(since.elapsed() < LONG / 2, "{path} {:?}", since.elapsed());
        let line = gateway.wait_log(|line| line["path"] == path);
        assert_eq!((&line["hedge"], &line["retries"]), (&json!("won"), &json!(null)), "{line}");
        assert!(line["endpoint"].as_str().unwrap().ends_with(&format!(":{}", second.port())), "{line}");
    }
    assert_eq!(said(&curl(&["--http2-prior-knowledge", &gateway.url("/h2/slow")])), is("second 0"));
    // The service is told that it is a second one, and what is quick has none.
    assert_eq!(said(&get(gateway.port(), "/quick")), is("first 0"));
    assert_eq!((second.count("/quick"), second.count("/cached/slow")), (0, 1));
    let attempt =
        second.asked().iter().find(|asked| asked.target == "/slow").unwrap().header("x-portcullis-attempt").map(str::to_owned);
    assert_eq!(attempt.as_deref(), Some("2"));
    // From the cache now, and where the route says so there is one copy.
    assert_eq!(said(&get(gateway.port(), "/cached/slow")), is("second 0"));
    assert_eq!(second.count("/cached/slow"), 1);
    get(gateway.port(), "/never/slow").assert_problem(504, "door", "request_timeout");
    gateway.wait_metric("portcullis_hedges_total{service=\"it\",outcome=\"won\"}", 5.0);
    at_rest(&gateway);
    // A reload changes nothing about it.
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(said(&get(gateway.port(), "/slow")), is("second 0"));
}

#[test]
fn the_one_that_is_overtaken_is_cancelled() {
    for protocol in ["http1", "http2"] {
        let (first, second) =
            (Faulty::start(protocol == "http2", Fault::Silent), Faulty::start(protocol == "http2", Fault::Silent));
        let gateway = gateway(first.port(), second.port(), &format!("hedging: 50ms, protocol: {protocol}"), "");
        first.arm(1, 0);
        assert_eq!(said(&get(gateway.port(), "/")), is("0"), "{protocol}");
        assert_eq!((first.seen().heads, second.seen().heads), (1, 1), "{protocol}");
        match protocol {
            "http1" => eventually("its connection is closed", || first.seen().closed == 1),
            _ => eventually("its stream is reset", || first.seen().resets == [8]),
        }
        at_rest(&gateway);
        // Nobody has failed.
        let (_, upstreams) = gateway.admin_get("/upstreams");
        assert!(!upstreams.contains("\"failures\":1"), "{protocol} {upstreams}");
    }
}

#[test]
fn only_what_may_be_sent_twice_is_and_whole() {
    let (first, second) = (slow("first"), quick("second"));
    let gateway = gateway(
        first.port(),
        second.port(),
        "hedging: 50ms, retries: { on: [ connect ], buffer: 32KiB }",
        "
            { path: /keyed/*, service: it, retries: { on: [ connect ], idempotency_key: Idempotency-Key } },
            { path: /none/*, service: it, timeout: 1s },
        ",
    );
    let late = |answer: Answer| answer.assert_problem(504, "door", "request_timeout");
    late(request(gateway.port(), "POST", "/none/slow", &[], b"pay"));
    late(request(gateway.port(), "PUT", "/none/slow", &[], &[b'a'; 40_000]));
    assert_eq!(second.asked().len(), 0);
    assert_eq!(said(&request(gateway.port(), "PUT", "/slow", &[], &[b'a'; 30_000])), is("second 30000"));
    let key = [("Idempotency-Key", "1")];
    assert_eq!(said(&request(gateway.port(), "POST", "/keyed/slow", &key, b"pay")), is("second 3"));
    // A body that comes slowly is no fault of the endpoint's: its time begins when all of it is there.
    let mut client = Client::connect(gateway.port());
    client.send("PUT /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    eventually("the first one is asked", || first.asked().len() > 3 || gateway.metric("portcullis_in_flight") == 1.0);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(second.asked().len(), 2);
    client.send("2\r\nde\r\n0\r\n\r\n");
    assert_eq!(said(&client.answer_to("PUT")), is("second 5"));
    at_rest(&gateway);
}

#[test]
fn a_bad_answer_that_comes_first_is_not_taken_while_a_better_one_may_come() {
    // The first one fails late, the second one takes longer still.
    let first = Origin::start(|asked: &Asked| {
        std::thread::sleep(Duration::from_millis(if asked.target == "/late" { 1500 } else { 300 }));
        Act::Send(answer(if asked.target == "/late" { 200 } else { 503 }, &[], "first"))
    });
    let second = Origin::start(|asked: &Asked| {
        if asked.target == "/better" {
            std::thread::sleep(Duration::from_millis(900));
        }
        Act::Send(answer(if asked.target == "/better" { 200 } else { 502 }, &[], "second"))
    });
    let gateway = gateway(first.port(), second.port(), "hedging: 50ms", "");
    assert_eq!(said(&get(gateway.port(), "/better")), is("second"));
    // A second one that fails is forgotten, and if both fail it is the first one's answer.
    assert_eq!(said(&get(gateway.port(), "/late")), is("first"));
    assert_eq!(said(&get(gateway.port(), "/both")), (503, "first".to_owned()));
    let line = gateway.wait_log(|line| line["path"] == "/both");
    assert_eq!(line["hedge"], "lost", "{line}");
    gateway.wait_metric("portcullis_hedges_total{service=\"it\",outcome=\"lost\"}", 2.0);
    at_rest(&gateway);
}

#[test]
fn a_client_that_leaves_ends_both() {
    let (first, second) = (Faulty::start(false, Fault::Silent), Faulty::start(false, Fault::Silent));
    let gateway = gateway(first.port(), second.port(), "hedging: 50ms", "");
    first.arm(1, 0);
    second.arm(1, 0);
    let mut client = Client::connect(gateway.port());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are asked", || first.seen().heads == 1 && second.seen().heads == 1);
    client.reset();
    eventually("both are left", || first.seen().closed == 1 && second.seen().closed == 1);
    at_rest(&gateway);
    assert_eq!(gateway.wait_log(|line| line["status"] == 499)["reason"], "client_closed");
}

#[test]
fn a_call_is_sent_twice_where_its_service_says_that_it_may() {
    let (first, second) = (Faulty::start(true, Fault::Silent), Faulty::start(true, Fault::Silent));
    let service = "hedging: 50ms, protocol: grpc, retries: { methods: [ POST ] }";
    let gateway = gateway(first.port(), second.port(), service, "");
    first.arm(1, 0);
    let fields =
        ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 20S"];
    let call = gateway.files().write("call", b"\0\0\0\0\0");
    let answer = curl(&[&fields[..], &["--data-binary", &format!("@{}", call.display()), &gateway.url("/a.B/C")]].concat());
    assert_eq!(said(&answer), is("5"));
    eventually("the first one is cancelled", || first.seen().resets == [8]);
    assert_eq!(second.seen().whole, [[0; 5]]);
}

#[test]
fn nothing_is_sent_twice_beyond_the_budget() {
    let (first, second) = (slow("first"), quick("second"));
    let budget = "retries: { budget: { share: 0%, min_per_second: 0 } }";
    let gateway =
        gateway(first.port(), second.port(), &format!("hedging: 50ms, {budget}"), "{ path: /n/*, service: it, timeout: 500ms },");
    get(gateway.port(), "/n/slow").assert_problem(504, "door", "request_timeout");
    assert_eq!(second.asked().len(), 0);
    gateway.wait_metric("portcullis_hedges_total{service=\"it\",outcome=\"over_budget\"}", 1.0);
}

#[test]
fn what_cannot_be_meant_is_said() {
    let files = Files::new();
    let check = |service: &str, engine: &str| {
        let yaml = format!(
            "listeners: [ {{ bind: '127.0.0.1:8080' }} ]\n{engine}\nservices: {{ it: {{ {service} }} }}\nroutes: [ {{ path: /, service: it }} ]"
        );
        files.write("portcullis.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        format!("{}{}", ran.stdout, ran.stderr)
    };
    let two = "endpoints: [ '127.0.0.1:1', '127.0.0.1:2' ]";
    for (service, says) in [
        ("endpoints: [ '127.0.0.1:1' ], hedging: p95".to_owned(), "no second endpoint"),
        (format!("{two}, hedging: p95, sticky: cookie"), "sessions are `sticky`"),
        (format!("{two}, hedging: p95, protocol: grpc"), "gRPC calls are POST"),
        (format!("{two}, hedging: 40s"), "given up before that"),
        (format!("{two}, hedging: 2s, timeouts: {{ try: 1s }}"), "given up before that"),
        (format!("{two}, hedging: 0s"), "between 1ms and 1m"),
        (format!("{two}, hedging: p100"), "no percentile"),
        (format!("{two}, hedging: true"), "after how long"),
        (format!("{two}, hedging: ~"), "hedging"),
    ] {
        let told = check(&service, "");
        assert!(told.contains(says) && told.contains("portcullis.yaml:3:"), "{service}: {told}");
    }
    let told = check(&format!("{two}, hedging: p95"), "server: { engine: pingora }");
    assert!(told.contains("`hedging` cannot be had with `engine: pingora`"), "{told}");
    assert!(!check(&format!("{two}, hedging: p95"), "").contains("error"));
}

/// How long each of so many requests took, asked by several clients at once.
fn ask(gateway: &Gateway, path: &str, requests: usize) -> Vec<Duration> {
    let (next, took) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(requests)));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.port());
                while next.fetch_add(1, Ordering::Relaxed) < requests {
                    let since = Instant::now();
                    assert_eq!(client.get(path).status, 200);
                    took.lock().unwrap().push(since.elapsed());
                }
            });
        }
    });
    let mut took = took.into_inner().unwrap();
    took.sort_unstable();
    took
}

/// Two endpoints of which every hundredth answer takes two seconds: of a thousand requests all but one are answered in less than a fifth
/// of that, for less than 5 % more requests.
#[test]
fn a_hundredth_of_stalls_is_not_what_clients_see() {
    let stall = Duration::from_secs(2);
    let number = Arc::new(AtomicUsize::new(0));
    let stalls = || {
        let number = number.clone();
        Origin::start(move |_: &Asked| {
            let number = number.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(if number % 100 == 99 { stall } else { Duration::from_millis(number as u64 % 5) });
            Act::Send(answer(200, &[], "ok"))
        })
    };
    let origins = [stalls(), stalls()];
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 2 }}
        services: {{ it: {{ endpoints: ['127.0.0.1:{}', '127.0.0.1:{}'], hedging: p95 }} }}
        routes:
          - {{ path: /plain, service: it, hedging: false }}
          - {{ path: /hedged, service: it }}
        ",
        origins[0].port(),
        origins[1].port()
    ));
    const REQUESTS: usize = 2000;
    let near = |took: &[Duration]| took[took.len() - 1 - took.len() / 1000];
    let plain = near(&ask(&gateway, "/plain", REQUESTS));
    assert!(plain >= stall, "{plain:?}");
    // What is usual has to be known first.
    ask(&gateway, "/hedged", 300);
    let before = origins.iter().map(|origin| origin.count("/hedged")).sum::<usize>();
    let hedged = near(&ask(&gateway, "/hedged", REQUESTS));
    let extra = origins.iter().map(|origin| origin.count("/hedged")).sum::<usize>() - before - REQUESTS;
    eprintln!("p99.9 {plain:?} plain, {hedged:?} hedged, {extra} requests more of {REQUESTS}");
    assert!(hedged * 5 <= plain, "{hedged:?} of {plain:?}, {extra} more");
    assert!(extra * 20 < REQUESTS && extra > 0, "{extra} more");
}
