//! Services that fall ill and recover: how soon they have everything again, and what is learned of them meanwhile.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, Files, Gateway, eventually, filled, get};
use crate::peers::{Act, Origin, answer};
use crate::protocols::peer::{Peer, play};

fn service(gateway: &Gateway) -> Value {
    let (status, text) = gateway.admin_get("/upstreams");
    assert_eq!(status, 200);
    serde_json::from_str::<Value>(&text).unwrap()["services"][0].clone()
}

#[test]
fn a_call_that_does_not_end_closes_a_breaker_with_its_first_message() {
    a_breaker_closes_with_the_first_message("{ workers: 1 }");
}

#[test]
fn on_the_stock_engine_too() {
    a_breaker_closes_with_the_first_message("{ engine: pingora }");
}

fn a_breaker_closes_with_the_first_message(server: &str) {
    let peer = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&filled(
        &"
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: SERVER
        services:
          it: { endpoints: [ '127.0.0.1:$AT' ], protocol: grpc, circuit_breaker: { consecutive_failures: 2, open_for: 300ms, probes: 1 } }
        routes: [ { path: /*, service: it } ]
        "
        .replace("SERVER", server),
        &[("$AT", peer.port())],
    ));
    let address = format!("127.0.0.1:{}", gateway.port());
    for _ in 0..2 {
        assert_eq!(play("grpc_client.py", &["server_stream_fails", &address])["code"], "DATA_LOSS");
    }
    assert_eq!(service(&gateway)["circuit_breaker"]["state"], "open");
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            // The breaker may still be open when the first one comes.
            loop {
                let facts = play("grpc_client.py", &["server_stream", &address]);
                if facts["code"] == "OK" {
                    return facts;
                }
            }
        });
        eventually("it is closed before the stream is over", || {
            let service = service(&gateway);
            service["circuit_breaker"]["state"] == "closed" && service["endpoints"][0]["in_flight"] == 1
        });
        assert_eq!(stream.join().unwrap()["messages"].as_array().map(Vec::len), Some(20));
    });
}

#[test]
fn an_answer_that_was_asked_for_again_is_learned_from() {
    let (bad, good) = (Origin::start(|_| Act::Send(answer(503, &[], "busy"))), Origin::named("well"));
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services:
          it:
            endpoints: [ '127.0.0.1:$BAD', '127.0.0.1:$GOOD' ]
            balance: peak_ewma
            retries: { on: [ 503 ], budget: { share: 100% } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$BAD", bad.port()), ("$GOOD", good.port())],
    ));
    for _ in 0..40 {
        assert_eq!(get(gateway.port(), "/").text(), "well");
    }
    let asked = bad.asked().len();
    assert!(asked <= 3, "it was asked {asked} times");
}

#[test]
fn a_retry_budget_does_not_starve_when_endpoints_change() {
    let [first, second] = [(); 2].map(|()| Origin::start(|_| Act::Send(answer(503, &[], "busy"))));
    let files = Files::new();
    files.write("endpoints.yaml", format!("[ '127.0.0.1:{}' ]", first.port()));
    let gateway = Gateway::start_in(
        &files,
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services:
          it:
            discover: { file: endpoints.yaml }
            retries: { on: [ 503 ], backoff: { base: 0s }, budget: { share: 100%, min_per_second: 0 } }
        routes: [ { path: /*, service: it } ]
        ",
    );
    let mut client = Client::connect(gateway.port());
    (0..300).for_each(|_| assert_eq!(client.get("/").status, 503));
    assert!(first.asked().len() > 450, "{}", first.asked().len());
    files.write("endpoints.new", format!("[ '127.0.0.1:{}' ]", second.port()));
    std::fs::rename(files.dir().join("endpoints.new"), files.dir().join("endpoints.yaml")).unwrap();
    eventually("the other one is asked", || {
        client.get("/");
        std::thread::sleep(Duration::from_millis(20));
        !second.asked().is_empty()
    });
    let before = second.asked().len();
    (0..200).for_each(|_| assert_eq!(client.get("/").status, 503));
    let asked = second.asked().len() - before;
    assert!(asked > 300, "200 requests and {} retries", asked - 200);
}

#[test]
fn a_retry_takes_no_turn_from_the_requests_to_come() {
    let origins = [Origin::start(|_| Act::Send(answer(503, &[], "busy"))), Origin::named("b"), Origin::named("c")];
    let [bad, b, c] = origins.each_ref().map(Origin::port);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services:
          it:
            endpoints: [ '127.0.0.1:$BAD', '127.0.0.1:$B', '127.0.0.1:$C' ]
            retries: { on: [ 503 ], backoff: { base: 0s }, budget: { share: 100% } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$BAD", bad), ("$B", b), ("$C", c)],
    ));
    let mut client = Client::connect(gateway.port());
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 200);
    }
    let [bad, b, c] = origins.each_ref().map(|origin| origin.asked().len());
    assert_eq!((bad, b + c), (20, 60), "a third of the first attempts each");
    assert!(b.min(c) > 20, "{b} {c}");
}

#[test]
fn what_cannot_be_found_is_told_and_so_are_idle_connections() {
    let origin = Origin::named("well");
    let files = Files::new();
    files.write("endpoints.yaml", format!("[ '127.0.0.1:{}' ]", origin.port()));
    let gateway = Gateway::start_in(
        &files,
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services: { it: { discover: { file: endpoints.yaml }, balance: peak_ewma } }
        routes: [ { path: /*, service: it } ]
        ",
    );
    assert_eq!(get(gateway.port(), "/").text(), "well");
    eventually("its connection is kept", || service(&gateway)["endpoints"][0]["idle_connections"] == 1);
    assert_eq!(gateway.metric("portcullis_upstream_idle_connections{service=\"it\"}"), 1.0);
    assert!(service(&gateway)["failing"].is_null());
    files.write("endpoints.yaml", "[ 'a: 1");
    eventually("it is told", || service(&gateway)["failing"][0]["kind"] == "file");
    eventually("it is counted", || {
        gateway.metric("portcullis_upstream_discovery_failures_total{service=\"it\",kind=\"file\"}") >= 1.0
    });
    assert_eq!(get(gateway.port(), "/").text(), "well");
    let ran = crate::harness::portcullis(gateway.dir(), &["status", "--admin", &format!("127.0.0.1:{}", gateway.admin())]);
    let line = |has: &str| ran.stdout.lines().find(|line| line.contains(has)).unwrap_or_default().to_owned();
    assert!(line("endpoints.yaml").contains("no list of endpoints"), "{}", ran.stdout);
    let columns: Vec<String> = line("127.0.0.1:").split_whitespace().map(str::to_owned).collect();
    // Service, endpoint, state, weight, in flight, idle, milliseconds, requests, failures.
    assert_eq!((columns.len(), &*columns[5], &*columns[7]), (9, "1", "2"), "{}", ran.stdout);
}

/// It says that it is well, each time, and then it is not.
#[test]
fn an_endpoint_whose_answers_all_break_off_is_left_out() {
    let well = Origin::named("well");
    let broken = Origin::start(|_| Act::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()));
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$WELL', '127.0.0.1:$BROKEN' ], outlier_detection: { consecutive_local_errors: 4 } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$WELL", well.port()), ("$BROKEN", broken.port())],
    ));
    for _ in 0..8 {
        let mut client = Client::connect(gateway.port());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.rest();
    }
    eventually("it is left out", || {
        let endpoints = service(&gateway)["endpoints"].as_array().unwrap().clone();
        endpoints.iter().any(|one| one["ejection"]["reason"] == "consecutive_local_errors")
    });
    for _ in 0..4 {
        assert_eq!(get(gateway.port(), "/").text(), "well");
    }
}
