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
    let server = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$AT' ], protocol: grpc, circuit_breaker: { consecutive_failures: 2, open_for: 300ms, probes: 1 } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT", server.port())],
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
