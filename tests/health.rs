//! Endpoints that go wrong under requests: who is left out, for how long, and what no client can bring about. Circuit breakers, and what is
//! drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Client, Gateway, Port, eventually, get, portcullis, request};
use crate::peers::{Act, Origin, answer};
use crate::protocols::peer::{Peer, play};

/// One worker, so that turns are taken in one row. `service` and `route` are flow style, without braces.
fn yaml(service: &str, route: &str) -> String {
    format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nserver:\n  workers: 1\nservices:\n  it: {{ {service} }}\nroutes:\n  - {{ path: /*, \
         service: it, {route} }}\n"
    )
}

fn start(service: &str) -> Gateway {
    Gateway::start(&yaml(service, "timeout: 10s"))
}

fn upstreams(gateway: &Gateway) -> Value {
    let (status, text) = gateway.admin_get("/upstreams");
    assert_eq!(status, 200);
    serde_json::from_str(&text).unwrap()
}

fn service(gateway: &Gateway) -> Value {
    upstreams(gateway)["services"][0].clone()
}

fn endpoint(gateway: &Gateway, port: u16) -> Value {
    let endpoints = service(gateway)["endpoints"].as_array().unwrap().clone();
    let address = format!("127.0.0.1:{port}");
    endpoints.into_iter().find(|endpoint| endpoint["address"] == *address).expect("the endpoint is listed")
}

fn state(gateway: &Gateway, port: u16) -> String {
    endpoint(gateway, port)["state"].as_str().unwrap().to_owned()
}

/// A backend with a status that can be changed, and how often it was asked.
struct Moody {
    origin: Origin,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Moody {
    fn start(status: u16) -> Moody {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (status.clone(), asked.clone());
        let origin = Origin::start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            match now.load(Ordering::SeqCst) {
                // Hangs up without a word.
                0 => Act::Last(Vec::new()),
                status => Act::Send(answer(status, &[], "as told")),
            }
        });
        Moody { origin, status, asked }
    }

    fn port(&self) -> u16 {
        self.origin.port()
    }

    fn turn(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn addresses(ports: &[u16]) -> String {
    ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_left_alone_without_a_word_of_configuration() {
    let (mut gone, well) = (Origin::named("gone"), Origin::named("well"));
    gone.stop();
    let gateway = start(&format!("endpoints: [ {} ]", addresses(&[gone.port(), well.port()])));
    // No client notices: nothing was sent, so the other one is asked.
    eventually("it is left out", || {
        assert_eq!(get(gateway.port(), "/").status, 200);
        state(&gateway, gone.port()) == "ejected"
    });
    let view = endpoint(&gateway, gone.port());
    assert_eq!((&view["ejection"]["reason"], &view["ejection"]["times"]), (&"consecutive_connect_failures".into(), &1.into()));
    assert!(view["ejection"]["ends_in_ms"].as_u64().unwrap() > 5000, "{view}");
    assert!(view["why"].as_str().unwrap().starts_with("consecutive_connect_failures, for "), "{view}");
    assert_eq!(service(&gateway)["available"], 1);
    let requests = view["requests"].clone();
    for _ in 0..10 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
    assert_eq!(endpoint(&gateway, gone.port())["requests"], requests, "nobody asks it");
    gateway.wait_metric("portcullis_upstream_ejections_total{service=\"it\",reason=\"consecutive_connect_failures\"}", 1.0);
    assert_eq!(gateway.metric(&format!("portcullis_upstream_ejected{{endpoint=\"127.0.0.1:{}\"}}", gone.port())), 1.0);
    assert!(gateway.stderr().contains("3 connections in a row could not be made"), "{}", gateway.stderr());
    // A reload of something else changes nothing about it; one that turns it off does.
    let same = |more: &str| yaml(&format!("endpoints: [ {} ]{more}", addresses(&[gone.port(), well.port()])), "timeout: 9s");
    gateway.rewrite(&same(""));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(state(&gateway, gone.port()), "ejected");
    gateway.rewrite(&same(", outlier_detection: false"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(state(&gateway, gone.port()), "up");
}

#[test]
fn a_flapping_endpoint_is_left_out_longer_each_time_and_comes_back() {
    let (flapping, well) = (Moody::start(500), Moody::start(200));
    let rules = "consecutive_5xx: 3, base_ejection: 400ms, max_ejection: 1s";
    let gateway =
        start(&format!("endpoints: [ {} ], outlier_detection: {{ {rules} }}", addresses(&[flapping.port(), well.port()])));
    for times in 1..=3 {
        flapping.turn(500);
        eventually("it is left out", || {
            get(gateway.port(), "/");
            state(&gateway, flapping.port()) == "ejected"
        });
        let ejection = endpoint(&gateway, flapping.port())["ejection"].clone();
        assert_eq!((&ejection["reason"], &ejection["times"]), (&"consecutive_5xx".into(), &times.into()));
        assert!(ejection["ends_in_ms"].as_u64().unwrap() <= [440, 880, 1100][times - 1], "{ejection}");
        let before = flapping.asked();
        for _ in 0..10 {
            assert_eq!(get(gateway.port(), "/").status, 200);
            if state(&gateway, flapping.port()) == "ejected" {
                assert_eq!(flapping.asked(), before);
            }
        }
        flapping.turn(200);
        eventually("it is asked again", || {
            assert_eq!(get(gateway.port(), "/").status, 200);
            flapping.asked() > before
        });
    }
    assert_eq!(state(&gateway, flapping.port()), "up");
}

#[test]
fn never_more_than_the_share_is_left_out_and_a_guess_is_never_a_503() {
    let all: Vec<_> = (0..4).map(|_| Moody::start(500)).collect();
    let ports: Vec<_> = all.iter().map(Moody::port).collect();
    let rules = "consecutive_5xx: 2, max_ejected: 50%, base_ejection: 1h, max_ejection: 1h";
    let yaml_of = |ports: &[u16], more: &str| {
        yaml(&format!("endpoints: [ {} ], outlier_detection: {{ {rules}{more} }}", addresses(ports)), "timeout: 10s")
    };
    let gateway = Gateway::start(&yaml_of(&ports, ""));
    let ejected = || ports.iter().filter(|port| state(&gateway, **port) == "ejected").count();
    eventually("as many as may be are left out", || {
        (0..20).for_each(|_| assert_eq!(get(gateway.port(), "/").status, 500));
        gateway.metric("portcullis_upstream_ejections_prevented_total{service=\"it\"}") > 0.0
    });
    assert_eq!(ejected(), 2);
    // The rest are taken out by hand: those that are only suspected have to do.
    for port in ports.iter().filter(|port| state(&gateway, **port) != "ejected") {
        let drained = request(gateway.admin(), "POST", &format!("/upstreams/it/endpoints/127.0.0.1:{port}/drain"), &[], b"");
        assert_eq!(drained.status, 200);
    }
    assert_eq!(get(gateway.port(), "/").status, 500);
    assert_eq!(ejected(), 2);
}

#[test]
fn nothing_that_a_client_chooses_counts_against_an_endpoint() {
    // Answers 404 and 501, waits for whole bodies, and hangs up on those that do not come.
    let origin = Origin::start(|asked| match asked.target.as_str() {
        "/404" => Act::Send(answer(404, &[], "")),
        "/501" => Act::Send(answer(501, &[], "")),
        _ => Act::Send(answer(200, &[], "fine")),
    });
    let other = Origin::named("other");
    let rules = "consecutive_5xx: 1, consecutive_gateway_errors: 1, consecutive_local_errors: 1, consecutive_connect_failures: 1";
    let gateway = start(&format!(
        "endpoints: [ {} ], outlier_detection: {{ {rules} }}, circuit_breaker: {{ consecutive_failures: 1, min_requests: 1 }}",
        addresses(&[origin.port(), other.port()])
    ));
    let mut asked = 0;
    for _ in 0..4 {
        assert!([404, 200].contains(&get(gateway.port(), "/404").status));
        assert!([501, 200].contains(&get(gateway.port(), "/501").status));
        // Goes away in the middle of its body; sends half of it and stops; is not HTTP.
        for leave in [true, false] {
            let mut client = Client::connect(gateway.port());
            client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
            client.send(vec![b'x'; 50_000]);
            if leave {
                client.reset();
            }
        }
        let mut client = Client::connect(gateway.port());
        client.send("GET /away HTTP/1.1\r\nHost: a\r\n\r\n");
        client.reset();
        asked += 1;
    }
    gateway.wait_log(|line| line["reason"] == "client_closed");
    for _ in 0..10 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
    assert_eq!([origin.port(), other.port()].map(|port| state(&gateway, port)), ["up", "up"], "after {asked} rounds");
    assert_eq!(service(&gateway)["circuit_breaker"]["state"], "closed");
    assert_eq!(gateway.metric("portcullis_upstream_ejections_total"), 0.0);
}

const BREAKER: &str = "circuit_breaker: { failure_rate: 50%, min_requests: 10, window: 5s, open_for: 600ms, probes: 3 }";

#[test]
fn a_breaker_opens_spares_the_service_and_lets_it_have_everything_again() {
    let origin = Moody::start(500);
    let gateway = start(&format!("endpoints: [ {} ], {BREAKER}", addresses(&[origin.port()])));
    let started = Instant::now();
    let mut count = 0;
    while get(gateway.port(), "/").status == 500 {
        count += 1;
    }
    assert_eq!(count, 10, "after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5), "within its window");
    let refused = get(gateway.port(), "/");
    refused.assert_problem(503, "upstream", "circuit_open");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let view = service(&gateway)["circuit_breaker"].clone();
    assert_eq!((&view["state"], &view["why"]), (&"open".into(), &"10 of 10 failed".into()));
    let state = "portcullis_circuit_breaker_state{service=\"it\"}";
    assert_eq!(gateway.metric(state), 2.0);
    // It still fails: one probe finds out, and nobody else asks.
    eventually("it is asked again", || get(gateway.port(), "/").status == 500);
    assert_eq!(origin.asked(), 11);
    get(gateway.port(), "/").assert_problem(503, "upstream", "circuit_open");
    // It is well: after one round of probes everything gets through.
    origin.turn(200);
    eventually("a probe gets through", || get(gateway.port(), "/").status == 200);
    for _ in 0..20 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
    assert_eq!(gateway.metric(state), 0.0);
    for (to, times) in [("open", 2.0), ("half_open", 2.0), ("closed", 1.0)] {
        gateway.wait_metric(&format!("portcullis_circuit_breaker_transitions_total{{service=\"it\",to=\"{to}\"}}"), times);
    }
    assert!(gateway.metric("portcullis_circuit_breaker_refused_total{service=\"it\"}") >= 2.0);
    assert_eq!(gateway.wait_log(|line| line["reason"] == "circuit_open")["status"], 503);
    let told = gateway.stderr();
    for what in ["is open for 600ms: 10 of 10 failed", "is half open", "is open for 600ms: a probe failed", "is closed"] {
        assert!(told.contains(what), "{what}: {told}");
    }
}

#[test]
fn a_breaker_is_as_open_after_a_reload_as_before() {
    let origin = Moody::start(503);
    let slow_to_close = BREAKER.replace("600ms", "1h");
    let service_yaml = format!("endpoints: [ {} ], {slow_to_close}", addresses(&[origin.port()]));
    let gateway = start(&service_yaml);
    eventually("it opens", || get(gateway.port(), "/").text().contains("circuit_open"));
    gateway.rewrite(&yaml(&service_yaml, "timeout: 9s"));
    assert_eq!(gateway.reload().0, 200);
    let refused = get(gateway.port(), "/");
    refused.assert_problem(503, "upstream", "circuit_open");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 3000);
    assert_eq!(service(&gateway)["circuit_breaker"]["state"], "open");
    assert_eq!(gateway.metric("portcullis_circuit_breaker_state{service=\"it\"}"), 2.0);
}

#[test]
fn a_breaker_of_endpoints_leaves_the_others_alone() {
    let (ill, well) = (Moody::start(500), Moody::start(200));
    let rules = "circuit_breaker: { scope: endpoint, consecutive_failures: 3, open_for: 500ms, probes: 2 }";
    let gateway = start(&format!("endpoints: [ {} ], {rules}", addresses(&[ill.port(), well.port()])));
    eventually("it opens", || {
        get(gateway.port(), "/");
        state(&gateway, ill.port()) == "circuit_open"
    });
    assert_eq!(endpoint(&gateway, ill.port())["why"], "3 failures in a row");
    assert_eq!(ill.asked(), 3);
    assert_eq!(get(gateway.port(), "/").status, 200);
    // Both are ill: nobody is left.
    well.turn(500);
    eventually("nobody is left", || get(gateway.port(), "/").text().contains("circuit_open"));
    [&ill, &well].iter().for_each(|one| one.turn(200));
    eventually("both are asked again", || {
        get(gateway.port(), "/");
        [ill.port(), well.port()].iter().all(|port| endpoint(&gateway, *port)["circuit_breaker"]["state"] == "closed")
    });
    for _ in 0..10 {
        assert_eq!(get(gateway.port(), "/").status, 200);
    }
}

#[test]
fn a_routes_breaker_is_its_own() {
    let origin = Origin::start(|asked| Act::Send(answer(if asked.target.starts_with("/bad") { 500 } else { 200 }, &[], "")));
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nservices: {{ it: {{ endpoints: [ {} ] }} }}\nroutes:\n  - {{ id: bad, path: \
         /bad, service: it, circuit_breaker: {{ consecutive_failures: 2, open_for: 1h }} }}\n  - {{ path: /good, service: it }}\n",
        addresses(&[origin.port()])
    ));
    assert_eq!([0; 2].map(|_| get(gateway.port(), "/bad").status), [500, 500]);
    get(gateway.port(), "/bad").assert_problem(503, "upstream", "circuit_open");
    assert_eq!(get(gateway.port(), "/good").status, 200);
    let breakers = upstreams(&gateway)["route_circuit_breakers"].clone();
    assert_eq!((&breakers[0]["route"], &breakers[0]["state"]), (&"bad".into(), &"open".into()), "{breakers}");
}

#[test]
fn too_few_that_are_well_is_a_panic_if_asked_for() {
    for (then, status) in [("ask_all", 200), ("refuse", 503)] {
        let well = Origin::named("well");
        // They answer requests, and not the check.
        let ill = |_| Origin::start(|asked| Act::Send(answer(if asked.target == "/health" { 500 } else { 200 }, &[], "ill")));
        let ills: Vec<_> = (0..2).map(ill).collect();
        let ports = [well.port(), ills[0].port(), ills[1].port()];
        let gateway = start(&format!(
            "endpoints: [ {} ], panic: {{ below: 50%, then: {then} }}, health_check: {{ path: /health, interval: 100ms, \
             unhealthy_after: 1 }}",
            addresses(&ports)
        ));
        eventually("it panics", || service(&gateway)["panics"] == true);
        let seen: Vec<_> = (0..9).map(|_| get(gateway.port(), "/")).collect();
        assert!(seen.iter().all(|answer| answer.status == status), "{then}");
        if then == "ask_all" {
            assert_eq!(seen.iter().filter(|answer| answer.text() == "ill").count(), 6);
        }
        gateway.wait_metric("portcullis_upstream_panics_total{service=\"it\"}", 1.0);
    }
}

#[test]
fn a_drained_endpoint_gets_no_new_requests_and_finishes_what_it_has() {
    let release = Arc::new(AtomicUsize::new(0));
    let held = release.clone();
    let one = Origin::start(move |asked| {
        while asked.target == "/slow" && held.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Send(answer(200, &[], "one"))
    });
    let other = Origin::named("other");
    let gateway = start(&format!("endpoints: [ {} ]", addresses(&[one.port(), other.port()])));
    let mut slow = Vec::new();
    eventually("it has something to do", || {
        let mut client = Client::connect(gateway.port());
        client.send_request("GET", "/slow", &[], b"");
        slow.push(client);
        endpoint(&gateway, one.port())["in_flight"] == 1
    });
    let path = format!("/upstreams/it/endpoints/127.0.0.1:{}", one.port());
    let drained = request(gateway.admin(), "POST", &format!("{path}/drain"), &[], b"");
    assert_eq!((drained.status, &drained.json()["changed"]), (200, &true.into()));
    let view = &drained.json()["endpoints"][0];
    assert_eq!((&view["state"], &view["in_flight"]), (&"drained".into(), &1.into()));
    for _ in 0..6 {
        assert_eq!(get(gateway.port(), "/").text(), "other");
    }
    // It outlives a reload.
    gateway.rewrite(&yaml(&format!("endpoints: [ {} ]", addresses(&[one.port(), other.port()])), "timeout: 9s"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/").text(), "other");
    release.store(1, Ordering::SeqCst);
    let answers: Vec<_> = slow.iter_mut().map(|client| client.answer_to("GET").text()).collect();
    assert!(answers.contains(&"one".to_owned()), "{answers:?}");
    eventually("nothing is left there", || endpoint(&gateway, one.port())["in_flight"] == 0);
    assert_eq!(gateway.metric(&format!("portcullis_upstream_drained{{endpoint=\"127.0.0.1:{}\"}}", one.port())), 1.0);
    let back = request(gateway.admin(), "POST", &format!("{path}/undrain"), &[], b"");
    assert_eq!((back.status, &back.json()["endpoints"][0]["state"]), (200, &"up".into()));
    assert_eq!((0..4).filter(|_| get(gateway.port(), "/").text() == "one").count(), 2);
    assert!(gateway.stderr().contains("audit: drained the endpoint"), "{}", gateway.stderr());
    for nobody in ["/upstreams/it/endpoints/127.0.0.1:1/drain", "/upstreams/no/endpoints/127.0.0.1:1/drain"] {
        assert_eq!(request(gateway.admin(), "POST", nobody, &[], b"").status, 404);
    }
    // A weight of 0 says the same.
    let weightless = format!("endpoints: [ {{ address: '127.0.0.1:{}', weight: 0 }}, '127.0.0.1:{}' ]", one.port(), other.port());
    gateway.rewrite(&yaml(&weightless, "timeout: 9s"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(state(&gateway, one.port()), "drained");
    assert!((0..4).all(|_| get(gateway.port(), "/").text() == "other"));
}

#[test]
fn a_check_that_reaches_it_takes_an_unreachable_endpoint_back() {
    let (mut gone, well) = (Origin::named("gone"), Origin::named("well"));
    gone.stop();
    let gateway = start(&format!(
        "endpoints: [ {} ], outlier_detection: {{ base_ejection: 1h, max_ejection: 1h }}, health_check: {{ path: /, interval: 100ms, \
         unhealthy_after: 100 }}",
        addresses(&[gone.port(), well.port()])
    ));
    eventually("it is left out", || {
        assert_eq!(get(gateway.port(), "/").status, 200);
        state(&gateway, gone.port()) == "ejected"
    });
    gone.back();
    eventually("it is asked again", || state(&gateway, gone.port()) == "up");
}

#[test]
fn a_grpc_server_is_asked_for_its_own_word() {
    let server = Peer::start("grpc_server.py", &[]);
    let checked = |grpc: &str| {
        let check = format!("health_check: {{ grpc: {grpc}, interval: 100ms, unhealthy_after: 1, healthy_after: 1 }}");
        // Whatever the service speaks: the check speaks gRPC.
        let gateway = start(&format!("endpoints: [ {} ], protocol: grpc, {check}", addresses(&[server.port()])));
        eventually("it was checked", || !endpoint(&gateway, server.port())["last_check"].is_null());
        gateway
    };
    let whole = checked("true");
    assert_eq!(state(&whole, server.port()), "up", "{}", endpoint(&whole, server.port()));
    let unknown = checked("no.Such");
    assert_eq!(endpoint(&unknown, server.port())["why"], "the server knows no such service");
    let part = checked("shop.Catalog");
    assert_eq!(endpoint(&part, server.port())["why"], "answered NOT_SERVING");
    play("grpc_client.py", &["/portcullis.test.Echo/Recover", &format!("127.0.0.1:{}", server.port())]);
    eventually("it serves again", || state(&part, server.port()) == "up");
}

#[test]
fn a_check_looks_at_the_body_and_asks_as_it_is_told() {
    let mood = Arc::new(AtomicU16::new(0));
    let (now, well) = (mood.clone(), Origin::named("well"));
    let origin = Origin::start(move |asked| {
        let told = (asked.header("host"), asked.header("x-probe"));
        let body = match (told, now.load(Ordering::SeqCst)) {
            ((Some("inner.example"), Some("yes")), 1) => "a lot { \"ready\":  true }".to_owned() + &"x".repeat(200_000),
            _ => "{ \"ready\": false }".to_owned(),
        };
        Act::Send(answer(200, &[], body))
    });
    // The endpoint's own port is another one, and is never checked.
    let check = format!(
        "health_check: {{ path: /ready, port: {}, initial: unhealthy, host: inner.example, headers: {{ X-Probe: 'yes' }}, body: {{ regex: \
         'ready\"\\s*:\\s*true' }}, interval: 1h, unhealthy_interval: 100ms }}",
        origin.port()
    );
    let gateway = start(&format!("endpoints: [ {} ], {check}", addresses(&[well.port()])));
    // Nobody is sent there before it has proved itself.
    get(gateway.port(), "/").assert_problem(503, "upstream", "no_healthy_endpoint");
    eventually("it was found not ready", || {
        endpoint(&gateway, well.port())["why"].as_str().is_some_and(|why| why.starts_with("answered 200 without a match of"))
    });
    mood.store(1, Ordering::SeqCst);
    eventually("it is ready", || get(gateway.port(), "/").status == 200);
    // Asked again soon only as long as it was not well.
    let asked = origin.asked().len();
    assert_eq!(state(&gateway, well.port()), "up");
    std::thread::sleep(Duration::from_millis(300));
    assert!(origin.asked().len() <= asked + 1);
    assert_eq!(well.asked().iter().filter(|asked| asked.target == "/ready").count(), 0);
}

#[test]
fn a_route_answers_for_a_service_that_does_not() {
    let (gone, spare, slow) = (
        Port::lease(),
        Origin::named("spare"),
        Origin::start(|_| {
            std::thread::sleep(Duration::from_millis(500));
            Act::Send(answer(200, &[], "late"))
        }),
    );
    let bad = Moody::start(500);
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nservices:\n  gone: {{ endpoints: [ '127.0.0.1:{}' ] }}\n  spare: {{ endpoints: [ {} ] \
         }}\n  slow: {{ endpoints: [ {} ], timeouts: {{ response: 100ms }} }}\n  bad: {{ endpoints: [ {} ], circuit_breaker: {{ \
         consecutive_failures: 1, open_for: 1h }} }}\nroutes:\n  - {{ path: /static, service: gone, fallback: {{ status: 203, json: {{ items: \
         [] }}, headers: {{ X-From: gate }} }} }}\n  - {{ path: /spare, service: gone, fallback: {{ service: spare }} }}\n  - {{ path: /slow, \
         service: slow, fallback: {{ body: soon }} }}\n  - {{ path: /not, service: slow, fallback: {{ on: [ open ], body: soon }} }}\n  - {{ path: \
         /due, service: slow, timeout: 50ms, fallback: {{ body: soon }} }}\n  - {{ path: /bad, service: bad, fallback: {{ status: 204 }} }}\n",
        gone.number(),
        addresses(&[spare.port()]),
        addresses(&[slow.port()]),
        addresses(&[bad.port()])
    ));
    let got = get(gateway.port(), "/static");
    assert_eq!((got.status, got.text().as_str(), got.header("x-from")), (203, "{\"items\":[]}", Some("gate")));
    assert_eq!((got.header("x-portcullis-fallback"), got.header("content-type")), (Some("static"), Some("application/json")));
    let line = gateway.wait_log(|line| line["path"] == "/static");
    assert_eq!(
        (&line["fallback"], &line["answered_by"], &line["decided_by"]),
        (&"static".into(), &"fallback".into(), &"connect_failure".into())
    );
    // Without a body where there is none, and with the connection as it was.
    let mut kept = Client::connect(gateway.port());
    assert_eq!(kept.request("HEAD", "/static", &[], b"").status, 203);
    assert_eq!(kept.get("/static").status, 203);
    for (method, body) in [("GET", &b""[..]), ("POST", b"order")] {
        let got = request(gateway.port(), method, "/spare", &[], body);
        assert_eq!(
            (got.status, got.text().as_str(), got.header("x-portcullis-fallback")),
            (200, "spare", Some("service")),
            "{method}"
        );
        assert_eq!(spare.asked().last().unwrap().body, body);
    }
    assert_eq!(get(gateway.port(), "/slow").text(), "soon");
    assert_eq!(get(gateway.port(), "/due").text(), "soon");
    get(gateway.port(), "/not").assert_problem(504, "upstream", "response_timeout");
    // What a service does say is its own business, until its breaker opens.
    assert_eq!([0; 2].map(|_| get(gateway.port(), "/bad").status), [500, 204]);
    for (cause, times) in [("error", 5.0), ("timeout", 2.0), ("open", 1.0)] {
        gateway.wait_metric(&format!("portcullis_fallbacks_total{{cause=\"{cause}\"}}"), times);
    }
}

#[test]
fn the_status_is_printed_as_tables_and_as_json() {
    let (one, gone) = (Origin::named("one"), Port::lease());
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nservices:\n  one: {{ endpoints: [ {one} ], circuit_breaker: {{}} }}\n  other: {{ \
         endpoints: [ '127.0.0.1:{}' ], health_check: {{ tcp: true, interval: 100ms, unhealthy_after: 1 }} }}\nroutes:\n  - {{ id: \
         shared, path: /*, split: [ {{ service: one, weight: 90 }}, {{ service: other, weight: 10 }} ] }}\n",
        gone.number(),
        one = addresses(&[one.port()])
    ));
    eventually("the check is in", || gateway.admin_get("/upstreams").1.contains("\"unhealthy\""));
    let admin = format!("127.0.0.1:{}", gateway.admin());
    let ran = portcullis(gateway.dir(), &["status", "--admin", &admin]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = |starts: &str, has: &str| {
        let found = ran.stdout.lines().find(|line| line.starts_with(starts) && line.contains(has));
        found.unwrap_or_else(|| panic!("{starts} ... {has}: {}", ran.stdout)).to_owned()
    };
    assert!(line("version ", "generation 1").contains("applied 20"));
    assert!(line("one ", "round_robin").ends_with("1 of 1     closed"));
    line("other ", "0 of 1");
    assert!(line("other ", &format!("127.0.0.1:{}", gone.number())).contains("unhealthy"));
    assert!(line("shared ", "one").ends_with("90"));
    let ran = portcullis(gateway.dir(), &["status", "--json", "--admin", &admin]);
    let all: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&all["services"][1]["endpoints"][0]["state"], &all["splits"][0]["split"][1]["weight"]),
        (&"unhealthy".into(), &10.into())
    );
    let ran = portcullis(gateway.dir(), &["status", "--admin", &format!("127.0.0.1:{}", gone.number())]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot ask the gateway"), "{}", ran.stderr);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let port = Port::lease();
    let files = crate::harness::Files::new();
    let file = files.write(
        "bad.yaml",
        format!(
            "listeners: [ {{ bind: 127.0.0.1:1 }} ]\nservices:\n  it:\n    endpoints: [ 127.0.0.1:{} ]\n    passive: true\n    \
             circuit_breaker: {{ probes: 0 }}\n    panic: {{ below: 0% }}\nroutes:\n  - {{ path: /*, service: it, circuit_breaker: {{ \
             scope: endpoint }} }}\n",
            port.number()
        ),
    );
    let ran = portcullis(files.dir(), &["check", file.to_str().unwrap()]);
    for what in ["`outlier_detection`", "`probes` is 0", "`below` is 0%"] {
        assert!(ran.stderr.contains(what), "{what}: {}", ran.stderr);
    }
}

#[test]
fn a_service_is_listed_by_the_name_that_a_drain_takes() {
    let (one, two) = (Port::lease(), Port::lease());
    let route = |path: &str, port: u16| format!("    - {{ path: {path}, service: 127.0.0.1, port: {port} }}\n");
    let routes = format!("{}{}", route("/a", one.number()), route("/b", two.number()));
    let gateway = Gateway::start(&format!("listeners:\n  - bind: 127.0.0.1:$PORT\nroutes:\n{routes}"));
    let view: Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    let mut names: Vec<&str> = view["services"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let mut addresses = [one.number(), two.number()].map(|port| format!("127.0.0.1:{port}"));
    addresses.sort();
    assert_eq!(names, addresses);
    for name in names {
        let drained = request(gateway.admin(), "POST", &format!("/upstreams/{name}/endpoints/{name}/drain"), &[], b"");
        assert_eq!(drained.status, 200, "{name}: {drained:?}");
    }
}
