//! What keeps services up, crossed with every protocol, with splits and with a new process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Backend, Client, Files, Gateway, eventually, filled, get, portcullis, request};
use crate::peers::Origin;
use crate::protocols::peer::{Peer, play};

/// How many requests each endpoint of the service has had.
fn shares(gateway: &Gateway, service: &str) -> Vec<u64> {
    let (_, text) = gateway.admin_get("/upstreams");
    let all: Value = serde_json::from_str(&text).unwrap();
    let services = all["services"].as_array().unwrap();
    let found = services.iter().find(|known| known["name"] == service).expect("the service is listed");
    found["endpoints"].as_array().unwrap().iter().map(|endpoint| endpoint["requests"].as_u64().unwrap()).collect()
}

#[test]
fn sessions_stay_where_they_are_over_http2() {
    let services = [Peer::start("h2_service.js", &[]), Peer::start("h2_service.js", &[])];
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services: { it: { endpoints: [ '127.0.0.1:$AT_A', '127.0.0.1:$AT_B' ], protocol: http2, sticky: cookie } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT_A", services[0].port()), ("$AT_B", services[1].port())],
    ));
    let ask = |requests: Value| play("h2_client.js", &[&format!("http://127.0.0.1:{}", gateway.port()), &requests.to_string()]);
    let first = ask(json!([{ "path": "/" }]))[0].clone();
    let set = first["headers"]["set-cookie"][0].as_str().expect("a cookie");
    let cookie = set.split(';').next().unwrap();
    // As browsers send them over HTTP/2, in pieces.
    let next = json!({ "path": "/", "headers": { "cookie": ["a=1", cookie] } });
    for facts in ask(json!([next, next, next, next, next])).as_array().unwrap() {
        assert_eq!((&facts["status"], &facts["headers"]["set-cookie"]), (&json!(200), &Value::Null), "{facts}");
    }
    let mut shares = shares(&gateway, "it");
    shares.sort_unstable();
    assert_eq!(shares, [0, 6]);
}

#[test]
fn calls_of_a_session_go_to_one_server() {
    let servers = [Peer::start("grpc_server.py", &[]), Peer::start("grpc_server.py", &[])];
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$AT_A', '127.0.0.1:$AT_B' ], protocol: grpc, sticky: { by: { header: x-api-version } } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT_A", servers[0].port()), ("$AT_B", servers[1].port())],
    ));
    let address = format!("127.0.0.1:{}", gateway.port());
    for _ in 0..4 {
        assert_eq!(play("grpc_client.py", &["headers", &address])["seen"]["x-api-version"], "2");
    }
    let mut shares = shares(&gateway, "it");
    shares.sort_unstable();
    assert_eq!(shares, [0, 4]);
}

#[test]
fn each_service_of_a_split_keeps_its_sessions() {
    let origins = ["a", "b", "c", "d"].map(Origin::named);
    let [a, b, c, d] = origins.each_ref().map(Origin::port);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services:
          one: { endpoints: [ 127.0.0.1:$AT_A, 127.0.0.1:$AT_B ], sticky: cookie }
          two: { endpoints: [ 127.0.0.1:$AT_C, 127.0.0.1:$AT_D ], sticky: cookie }
        routes: [ { path: /*, split: [ { service: one, weight: 50 }, { service: two, weight: 50 } ] } ]
        ",
        &[("$AT_A", a), ("$AT_B", b), ("$AT_C", c), ("$AT_D", d)],
    ));
    let (mut cookies, mut seen) = (Vec::<String>::new(), std::collections::BTreeSet::new());
    for _ in 0..60 {
        let answer = request(gateway.port(), "GET", "/", &[("Cookie", &cookies.join("; "))], b"");
        assert_eq!(answer.status, 200);
        cookies.extend(answer.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned()));
        seen.insert(answer.text());
    }
    assert_eq!((cookies.len(), seen.len()), (2, 2), "{cookies:?} {seen:?}");
    assert!(cookies.iter().any(|one| one.starts_with("sticky-one=")) && cookies.iter().any(|one| one.starts_with("sticky-two=")));
}

#[test]
fn what_is_found_takes_part_in_a_split() {
    let [fixed, first, second] = ["fixed", "first", "second"].map(Backend::named);
    let files = Files::new();
    files.write("endpoints.yaml", format!("[ '127.0.0.1:{}' ]", first.port()));
    let gateway = Gateway::start_in(
        &files,
        &filled(
            "
            listeners: [ { bind: '127.0.0.1:$PORT' } ]
            server: { workers: 1 }
            services: { fixed: { endpoints: [ '127.0.0.1:$FIXED' ] }, found: { discover: { file: endpoints.yaml } } }
            routes: [ { path: /*, split: [ { service: fixed, weight: 50 }, { service: found, weight: 50 } ] } ]
            ",
            &[("$FIXED", fixed.port())],
        ),
    );
    let mut client = Client::connect(gateway.port());
    let mut ask = |count: usize| (0..count).for_each(|_| assert_eq!(client.get("/").status, 200));
    ask(100);
    let before = (fixed.requests().len(), first.requests().len());
    assert!(before.0 + before.1 == 100 && before.0.min(before.1) > 20, "{before:?}");
    files.write("new.yaml", format!("[ '127.0.0.1:{}' ]", second.port()));
    std::fs::rename(files.dir().join("new.yaml"), files.dir().join("endpoints.yaml")).unwrap();
    let address = format!("127.0.0.1:{}", second.port());
    eventually("it is followed", || gateway.admin_get("/upstreams").1.contains(&address));
    ask(100);
    let after = (fixed.requests().len() - before.0, second.requests().len());
    assert_eq!((first.requests().len(), after.0 + after.1), (before.1, 100));
    assert!(after.0.min(after.1) > 20, "{after:?}");
}

#[test]
fn a_new_process_goes_on_finding_endpoints() {
    let [first, second] = ["first", "second"].map(Backend::named);
    let files = Files::new();
    let list = |port: u16| {
        files.write("new.yaml", format!("[ '127.0.0.1:{port}' ]"));
        std::fs::rename(files.dir().join("new.yaml"), files.dir().join("endpoints.yaml")).unwrap();
    };
    list(first.port());
    let gateway = Gateway::start_in(
        &files,
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1 }
        services: { it: { discover: { file: endpoints.yaml } } }
        routes: [ { path: /*, service: it } ]
        ",
    );
    assert_eq!(get(gateway.port(), "/").json()["name"], "first");
    let before = gateway.pid();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(4);
            let mut last = String::new();
            while Instant::now() < until {
                let answer = get(gateway.port(), "/");
                assert_eq!(answer.status, 200, "{}", answer.text());
                last = answer.json()["name"].as_str().unwrap().to_owned();
            }
            last
        });
        let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
        assert!(ran.code == 0 && gateway.pid() != before, "{ran:?}");
        list(second.port());
        assert_eq!(load.join().unwrap(), "second");
    });
}

#[test]
fn a_websocket_is_not_mirrored_and_its_handshake_has_the_faults_of_its_route() {
    let (server, shadow) = (Peer::start("ws_server.py", &[]), Backend::http());
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        server: { workers: 1, fault_injection: true }
        services: { ws: { endpoints: [ '127.0.0.1:$WS' ] }, shadow: { endpoints: [ '127.0.0.1:$SHADOW' ] } }
        routes:
          - { path: /ws/*, service: ws, policies: { mirror: { service: shadow }, fault: { delay: { for: 300ms } } } }
          - { path: /ws/plain, service: ws, policies: { mirror: { service: shadow }, fault: { abort: { status: 503 } } } }
        ",
        &[("$WS", server.port()), ("$SHADOW", shadow.port())],
    ));
    let address = format!("ws://127.0.0.1:{}", gateway.port());
    let facts = play("ws_client.py", &["echo", &address]);
    assert_eq!((&facts["text"], &facts["large"], &facts["closed"]), (&json!("grüße"), &json!(true), &json!(1000)), "{facts}");
    let line = gateway.wait_log(|line| line["status"] == 101);
    assert_eq!(line["fault"], "delay", "{line}");
    assert!(line["duration_us"].as_u64().unwrap() >= 300_000, "{line}");
    assert_eq!(play("ws_client.py", &["plain", &address])["status"], 503);
    assert!(shadow.requests().is_empty());
}

#[test]
fn calls_are_tried_again_by_their_code() {
    let server = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          it: { endpoints: [ '127.0.0.1:$AT' ], protocol: grpc, retries: { on: [ unavailable ], methods: [ POST ], backoff: { base: 0s } } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT", server.port())],
    ));
    let address = format!("127.0.0.1:{}", gateway.port());
    for _ in 0..2 {
        let facts = play("grpc_client.py", &["/portcullis.test.Echo/Flaky", &address]);
        assert_eq!((&facts["code"], &facts["answer"]), (&json!("OK"), &json!("2")), "{facts}");
    }
    let line = gateway.wait_log(|line| line["retries"] == 1);
    assert_eq!(line["retried_for"], "unavailable", "{line}");
}

#[test]
fn calls_pass_a_route_that_compresses() {
    let server = Peer::start("grpc_server.py", &[]);
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services: { it: { endpoints: [ '127.0.0.1:$AT' ], protocol: grpc } }
        routes: [ { path: /*, service: it, policies: { compress: {} } } ]
        ",
        &[("$AT", server.port())],
    ));
    let address = format!("127.0.0.1:{}", gateway.port());
    for (call, fact, wanted) in [
        ("large", "same", json!(true)),
        ("unary", "trailing", json!({ "x-trailing": "after", "x-length": "5" })),
        ("server_stream", "code", json!("OK")),
        ("bidi", "code", json!("OK")),
        ("fail", "code", json!("RESOURCE_EXHAUSTED")),
    ] {
        let facts = play("grpc_client.py", &[call, &address]);
        assert_eq!(facts[fact], wanted, "{call}: {facts}");
    }
}
