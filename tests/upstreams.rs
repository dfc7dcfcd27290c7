//! Balance, health, retries and timeouts, with backends that go away.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Client, Gateway, Port, eventually, get, request};
use crate::peers::{Act, Asked, Origin, answer};

/// One worker, so that turns are taken in one row.
fn start(service: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nserver:\n  workers: 1\nservices:\n  it:\n{service}routes:\n  - path: /*\n    \
         service: it\n"
    ))
}

fn body(gateway: &Gateway) -> String {
    let answer = get(gateway.port(), "/");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    String::from_utf8(answer.body).unwrap()
}

fn endpoint(gateway: &Gateway, port: u16) -> Value {
    let (status, text) = gateway.admin_get("/upstreams");
    assert_eq!(status, 200);
    let view: Value = serde_json::from_str(&text).unwrap();
    let endpoints = view["services"][0]["endpoints"].as_array().unwrap().clone();
    let address = format!("127.0.0.1:{port}");
    endpoints.into_iter().find(|endpoint| endpoint["address"] == *address).expect("the endpoint is listed")
}

fn is_healthy(gateway: &Gateway, port: u16) -> bool {
    endpoint(gateway, port)["healthy"] == true
}

#[test]
fn who_has_much_to_do_is_asked_less() {
    let (quick, other) = (Origin::named("quick"), Origin::named("other"));
    // Takes connections, and never answers.
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [quick.port(), other.port(), stuck.local_addr().unwrap().port()];
    let [quick_at, other_at, stuck_at] = ports.map(|port| format!("127.0.0.1:{port}"));
    let gateway = start(&format!("    balance: least_requests\n    endpoints: [ '{quick_at}', '{other_at}', '{stuck_at}' ]\n"));
    let of = |what: &str| ports.map(|port| endpoint(&gateway, port)[what].as_u64().unwrap());
    // Each by a connection of its own, until one got to the endpoint that never answers.
    let mut waiting = Vec::new();
    eventually("the silent endpoint has a request", || {
        let mut client = Client::connect(gateway.port());
        client.send_request("GET", "/", &[], b"");
        waiting.push(client);
        of("in_flight")[2] > 0
    });
    eventually("the others are done", || {
        of("requests").iter().sum::<u64>() == waiting.len() as u64 && of("in_flight")[..2] == [0, 0]
    });
    let before = of("requests")[2];
    for _ in 0..40 {
        assert!(["quick", "other"].contains(&body(&gateway).as_str()));
    }
    assert_eq!(of("requests")[2], before);
}

#[test]
fn weights_are_met_exactly() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    let gateway = start(&format!(
        "    endpoints:\n      - {{ address: 127.0.0.1:{}, weight: 5 }}\n      - {{ address: 127.0.0.1:{}, weight: 2 }}\n      - \
         127.0.0.1:{}\n",
        a.port(),
        b.port(),
        c.port()
    ));
    let mut counts: HashMap<String, u32> = HashMap::new();
    let mut row = String::new();
    for _ in 0..40 {
        let who = body(&gateway);
        row.push_str(&who);
        *counts.entry(who).or_default() += 1;
    }
    assert_eq!((counts["a"], counts["b"], counts["c"]), (25, 10, 5), "{row}");
    assert!(!row.contains("aaaa"), "turns are spread, not in blocks: {row}");
    assert_eq!(endpoint(&gateway, a.port())["requests"], 25);
    assert_eq!(endpoint(&gateway, a.port())["weight"], 5);
}

#[test]
fn a_sick_endpoint_gets_nothing_until_it_is_well() {
    let (mut a, b) = (Origin::named("a"), Origin::named("b"));
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}, 127.0.0.1:{}]\n    health_check: {{ path: /health, interval: 100ms, timeout: 1s, \
         healthy_after: 2, unhealthy_after: 2 }}\n",
        a.port(),
        b.port()
    ));
    let metric = format!("portcullis_upstream_healthy{{service=\"it\",endpoint=\"127.0.0.1:{}\"}}", a.port());
    let healthy = || gateway.metric(&metric);
    eventually("both were checked", || {
        [a.port(), b.port()].iter().all(|port| !endpoint(&gateway, *port)["last_check"].is_null())
    });
    assert_eq!(healthy(), 1.0);

    a.stop();
    // Even before a check has noticed, nobody gets an error: nothing was sent, so the other one is asked.
    for _ in 0..10 {
        assert_eq!(body(&gateway), "b");
    }
    eventually("the check notices", || !is_healthy(&gateway, a.port()));
    assert_eq!(healthy(), 0.0);
    assert_eq!(endpoint(&gateway, a.port())["last_check"]["ok"], false);
    let requests = endpoint(&gateway, a.port())["requests"].clone();
    for _ in 0..10 {
        assert_eq!(body(&gateway), "b");
    }
    assert_eq!(endpoint(&gateway, a.port())["requests"], requests, "a sick endpoint is not asked");

    a.back();
    eventually("it is taken back", || is_healthy(&gateway, a.port()));
    let both: Vec<_> = (0..4).map(|_| body(&gateway)).collect();
    assert_eq!(both.iter().filter(|who| *who == "a").count(), 2, "{both:?}");
    assert_eq!(healthy(), 1.0);
}

#[test]
fn a_check_looks_at_the_status() {
    let origin =
        Origin::start(|asked| Act::Send(if asked.target == "/health" { answer(503, &[], "") } else { answer(200, &[], "fine") }));
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}]\n    retry_after: 7s\n    health_check: {{ path: /health, interval: 100ms, unhealthy_after: 1 \
         }}\n",
        origin.port()
    ));
    eventually("it is found unwell", || !is_healthy(&gateway, origin.port()));
    let answer = get(gateway.port(), "/");
    answer.assert_problem(503, "upstream", "no_healthy_endpoint");
    assert_eq!(answer.header("retry-after"), Some("7"));
    let line = gateway.wait_log(|line| line["status"] == 503);
    assert_eq!(line["service"], "it");
    assert!(line.get("endpoint").is_none(), "{line}");
    // A refusal without a backend leaves the connection as it was.
    let mut kept = Client::connect(gateway.port());
    assert_eq!(kept.get("/").status, 503);
    assert_eq!(kept.get("/").status, 503);
}

#[test]
fn a_tcp_check_is_enough_where_there_is_no_path() {
    let mut origin = Origin::named("a");
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}]\n    health_check: {{ tcp: true, interval: 100ms, healthy_after: 1, unhealthy_after: 1 }}\n",
        origin.port()
    ));
    assert_eq!(body(&gateway), "a");
    origin.stop();
    eventually("503", || get(gateway.port(), "/").status == 503);
    origin.back();
    eventually("200", || get(gateway.port(), "/").status == 200);
}

#[test]
fn what_could_not_be_sent_is_sent_elsewhere_whatever_the_method() {
    let (dead, alive) = (Port::lease(), Origin::named("alive"));
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}, 127.0.0.1:{}]\n    outlier_detection: false\n",
        dead.number(),
        alive.port()
    ));
    let long = vec![b'z'; 300_000];
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        for body in [&b""[..], b"some", &long] {
            if method == "GET" && !body.is_empty() {
                continue;
            }
            for _ in 0..2 {
                let answer = request(gateway.port(), method, &format!("/{method}"), &[], body);
                assert_eq!((answer.status, &*answer.body), (200, &b"alive"[..]), "{method} with {} bytes", body.len());
                assert_eq!(alive.asked().last().unwrap().body, body, "{method}");
            }
        }
    }
    assert_eq!(alive.asked().len(), 26, "each request arrived once");
    let retried = gateway.wait_log(|line| line["retries"] == 1);
    assert_eq!(retried["endpoint"], format!("127.0.0.1:{}", alive.port()));
    eventually("retries are counted", || gateway.metric("portcullis_upstream_retries_total{service=\"it\"}") >= 13.0);
    assert!(endpoint(&gateway, dead.number())["failures"].as_u64().unwrap() >= 13);
    eventually("nothing is in flight", || {
        endpoint(&gateway, dead.number())["in_flight"] == 0 && endpoint(&gateway, alive.port())["in_flight"] == 0
    });
}

#[test]
fn nobody_to_connect_to_is_502() {
    let (one, two) = (Port::lease(), Port::lease());
    let gateway = start(&format!("    endpoints: [127.0.0.1:{}, 127.0.0.1:{}]\n", one.number(), two.number()));
    get(gateway.port(), "/").assert_problem(502, "upstream", "connect_failure");
    request(gateway.port(), "POST", "/", &[], b"body").assert_problem(502, "upstream", "connect_failure");
    assert_eq!(gateway.wait_log(|line| line["method"] == "POST")["retries"], 1);
    // And as many attempts as it says, no more.
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}, 127.0.0.1:{}]\n    retries: {{ attempts: 0 }}\n",
        one.number(),
        two.number()
    ));
    get(gateway.port(), "/").assert_problem(502, "upstream", "connect_failure");
    assert!(gateway.wait_log(|line| line["status"] == 502).get("retries").is_none());
}

#[test]
fn what_was_sent_is_not_sent_again() {
    // Reads the request, then hangs up without a word.
    let origin = Origin::start(|_| Act::Last(Vec::new()));
    let gateway = start(&format!("    endpoints: [127.0.0.1:{}]\n", origin.port()));
    for (method, body) in [("POST", &b"pay"[..]), ("PATCH", b"x"), ("GET", b"")] {
        let path = format!("/{method}");
        let answer = request(gateway.port(), method, &path, &[], body);
        answer.assert_problem(502, "upstream", "connection_lost");
        assert_eq!(origin.count(&path), 1, "{method} on a fresh connection");
    }
}

/// Answers the first request of each connection, and hangs up on the second.
fn forgetful(asked: &Asked) -> Act {
    if asked.number == 0 { Act::Send(answer(200, &[], "fine")) } else { Act::Last(Vec::new()) }
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_where_asking_twice_does_no_harm() {
    let origin = Origin::start(forgetful);
    let gateway = start(&format!("    endpoints: [127.0.0.1:{}]\n", origin.port()));
    for round in 0..5 {
        let answer = get(gateway.port(), "/");
        assert_eq!(answer.status, 200, "round {round}: {}", String::from_utf8_lossy(&answer.body));
    }
    assert!(origin.asked().iter().any(|asked| asked.number == 1), "no connection was kept, so nothing was tried");
    assert!(origin.asked().iter().any(|asked| asked.connection > 0));
    // On a kept connection that breaks after the bytes are out, a POST may have been executed.
    let mut refused = 0;
    for number in 0..4 {
        let path = format!("/post/{number}");
        let answer = request(gateway.port(), "POST", &path, &[], b"pay");
        if answer.status != 200 {
            answer.assert_problem(502, "upstream", "connection_lost");
            refused += 1;
        }
        assert_eq!(origin.count(&path), 1, "a POST went out twice");
    }
    assert!(refused > 0, "no POST met a kept connection");
}

#[test]
fn a_connection_that_idles_to_death_is_noticed() {
    let mut origin = Origin::named("a");
    let gateway = start(&format!("    endpoints: [127.0.0.1:{}]\n", origin.port()));
    assert_eq!(body(&gateway), "a");
    // A restart between two requests: the kept connection is gone, and even a POST can see that before it sends anything.
    for path in ["/one", "/two", "/three"] {
        origin.stop();
        origin.back();
        eventually("the close has arrived", || {
            let answer = request(gateway.port(), "POST", path, &[], b"pay");
            answer.status == 200
        });
        assert_eq!(origin.count(path), 1);
    }
}

#[test]
fn a_slow_answer_is_504_and_the_connection_is_not_used_again() {
    let origin = Origin::start(|asked| {
        if asked.target == "/slow" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        Act::Send(answer(200, &[], asked.target.as_bytes()))
    });
    let gateway = start(&format!("    endpoints: [127.0.0.1:{}]\n    timeouts: {{ response: 300ms }}\n", origin.port()));
    let began = Instant::now();
    let mut kept = Client::connect(gateway.port());
    let late = kept.get("/slow");
    late.assert_problem(504, "upstream", "response_timeout");
    assert!((300..1400).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    for path in ["/a", "/b", "/c"] {
        assert_eq!(get(gateway.port(), path).body, path.as_bytes(), "an answer that came late was given to someone else");
    }
    assert_eq!(origin.count("/slow"), 1, "what was sent is not sent again");
    let line = gateway.wait_log(|line| line["status"] == 504);
    assert!(line["duration_us"].as_u64().unwrap() >= 300_000, "{line}");
}

#[test]
fn a_connection_that_nobody_accepts_is_504_in_time() {
    // A full backlog leaves further handshakes unanswered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut fill = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fill.push(stream);
        assert!(fill.len() < 64, "the backlog never fills");
    }
    let gateway = start(&format!("    endpoints: [127.0.0.1:{port}]\n    timeouts: {{ connect: 200ms }}\n"));
    let began = Instant::now();
    get(gateway.port(), "/").assert_problem(504, "upstream", "connect_timeout");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_service_can_be_a_host_name() {
    let origin = Origin::named("by name");
    let gateway = start(&format!("    endpoints: [localhost:{}]\n", origin.port()));
    for _ in 0..4 {
        assert_eq!(body(&gateway), "by name");
    }
    assert_eq!(endpoint(&gateway, origin.port())["configured"], format!("localhost:{}", origin.port()));
    // As in the smallest file there is: a route that names a host and a port.
    let yaml = format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nroutes:\n  - path: /*\n    service: localhost\n    port: {}\n",
        origin.port()
    );
    let gateway = Gateway::start(&yaml);
    assert_eq!(body(&gateway), "by name");
    assert_eq!(gateway.wait_log(|line| line["status"] == 200)["service"], format!("localhost:{}", origin.port()));
}

#[test]
fn a_name_that_does_not_resolve_is_503_and_said() {
    let gateway = start("    endpoints: [no-such-host.invalid:80]\n");
    let answer = get(gateway.port(), "/");
    answer.assert_problem(503, "upstream", "no_healthy_endpoint");
    assert!(answer.header("retry-after").is_some());
    let (_, text) = gateway.admin_get("/upstreams");
    assert!(text.contains("\"unresolved\":[\"no-such-host.invalid\"]"), "{text}");
}

#[test]
fn health_survives_a_reload() {
    let (mut a, b) = (Origin::named("a"), Origin::named("b"));
    let gateway = start(&format!(
        "    endpoints: [127.0.0.1:{}, 127.0.0.1:{}]\n    health_check: {{ tcp: true, interval: 100ms, unhealthy_after: 1 }}\n",
        a.port(),
        b.port()
    ));
    a.stop();
    eventually("the check notices", || !is_healthy(&gateway, a.port()));
    assert_eq!(gateway.reload().0, 200);
    assert!(!is_healthy(&gateway, a.port()), "a reload does not make the sick well");
}
