//! Who of a service's endpoints is asked: by latency, by key, by session, by weight that is changed while the gateway runs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Answer, Client, Gateway, H2Backend, curl, eventually, filled, get, request, served};
use crate::peers::{Act, Asked, Origin, answer};

const QUICK: Duration = Duration::from_millis(15);
const SLOW: Duration = Duration::from_millis(300);
const CLIENTS: usize = 12;

/// Answers with its name after a while.
fn after(name: &'static str, delay: Duration) -> Origin {
    Origin::start(move |_| {
        std::thread::sleep(delay);
        Act::Send(answer(200, &[], name))
    })
}

/// So many requests, from `CLIENTS` clients at once.
fn load(gateway: &Gateway, requests: usize) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.port());
                (0..requests / CLIENTS).for_each(|_| assert_eq!(client.get("/").status, 200));
            });
        }
    });
}

/// One endpoint of three is 20 times as slow as the others. Who is slowed down is who is sent there: so those are counted, and nothing is
/// timed, which a machine that does other things too would do for all of them.
#[test]
fn a_slow_endpoint_does_not_slow_everybody() {
    let origins = [after("a", QUICK), after("b", QUICK), after("slow", SLOW)];
    let [a, b, slow] = origins.each_ref().map(Origin::port);
    let yaml = |balance: &str, endpoints: &[u16]| {
        let endpoints: Vec<_> = endpoints.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\nservices: {{ it: {{ balance: {balance}, endpoints: [ {} ] \
             }} }}\nroutes: [ {{ path: /*, service: it }} ]\n",
            endpoints.join(", ")
        )
    };
    let share = |balance: &str, requests: usize| {
        let gateway = Gateway::start(&yaml(balance, &[a, b, slow]));
        // The first ones find out who is who.
        load(&gateway, 5 * CLIENTS);
        let before = origins[2].asked().len();
        load(&gateway, requests);
        let share = (origins[2].asked().len() - before) as f64 / requests as f64;
        println!("{balance}: {share:.4}");
        share
    };
    // The slowest hundredth is that of the healthy ones.
    let by_latency = share("peak_ewma", 1200);
    assert!(by_latency <= 0.01, "{by_latency}");
    // Its share of the requests is what it can answer of them, one in 41, which is more than one in a hundred: a count of requests under way
    // knows no more, in whatever order ties are broken (see `least_requests.rs`).
    let by_requests = share("least_requests", 1200);
    assert!(by_requests < 0.06, "{by_requests}");
    let in_turn = share("round_robin", 240);
    assert!(in_turn > 0.3, "{in_turn}");
}

fn who(gateway: &Gateway, fields: &[(&str, &str)]) -> String {
    let answer = request(gateway.port(), "GET", "/", fields, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn a_key_goes_to_one_endpoint_wherever_it_comes_in() {
    let origins = [Origin::named("a"), Origin::named("b"), Origin::named("c")];
    let [a, b, c] = origins.each_ref().map(Origin::port);
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services:
          it:
            endpoints: [ 127.0.0.1:$AT_A, 127.0.0.1:$AT_B, 127.0.0.1:$AT_C ]
            balance: { consistent_hash: { key: { header: X-Tenant } } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT_A", a), ("$AT_B", b), ("$AT_C", c)],
    );
    served(&yaml, |gateway| {
        let places: HashMap<String, String> = (0..30)
            .map(|tenant| tenant.to_string())
            .map(|tenant| (tenant.clone(), who(gateway, &[("X-Tenant", &tenant)])))
            .collect();
        assert_eq!(places.values().collect::<HashSet<_>>().len(), 3, "{places:?}");
        for (tenant, place) in &places {
            assert!((0..3).all(|_| who(gateway, &[("X-Tenant", tenant)]) == *place), "{tenant}");
        }
        // Whoever has no tenant is told apart by address.
        let place = who(gateway, &[]);
        assert!((0..5).all(|_| who(gateway, &[]) == place));
    });
}

/// Two endpoints behind `sticky`.
fn two(sticky: &str, origins: &[Origin; 2]) -> String {
    filled(
        &format!(
            "
        listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
        services:
          it:
            endpoints: [ 127.0.0.1:$AT_A, 127.0.0.1:$AT_B ]
            sticky: {sticky}
        routes:
          - {{ path: /cached, service: it, policies: {{ cache: {{ ttl: 1m }} }} }}
          - {{ path: /*, service: it }}
        "
        ),
        &[("$AT_A", origins[0].port()), ("$AT_B", origins[1].port())],
    )
}

#[test]
fn a_cookie_of_ours_keeps_a_session_where_it_is() {
    let origins = [Origin::named("a"), Origin::named("b")];
    served(&two("cookie", &origins), |gateway| {
        let mut places = HashSet::new();
        for _ in 0..8 {
            let first = get(gateway.port(), "/");
            let set = first.header("set-cookie").expect("a cookie").to_owned();
            assert!(set.starts_with("sticky-it=") && set.contains("HttpOnly; SameSite=Lax") && !set.contains("Secure"), "{set}");
            let cookie = set.split(';').next().unwrap().to_owned();
            places.insert(cookie.clone());
            for _ in 0..4 {
                let next = request(gateway.port(), "GET", "/", &[("Cookie", &cookie)], b"");
                assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
            }
        }
        assert_eq!(places.len(), 2, "an id for each endpoint, and no more");
        // An id that nobody was given leads nowhere in particular.
        let forged = request(gateway.port(), "GET", "/", &[("Cookie", "sticky-it=AAAAAAAAAAAAAAAAAAAAAA")], b"");
        assert!(forged.status == 200 && forged.header("set-cookie").is_some());
    });
}

#[test]
fn a_stock_server_keeps_sessions_too() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let gateway = Gateway::start(&format!("{}\n        server: {{ engine: pingora, workers: 2 }}\n", two("cookie", &origins)));
    for _ in 0..4 {
        let first = get(gateway.port(), "/");
        let cookie = first.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
        for _ in 0..4 {
            let next = request(gateway.port(), "GET", "/", &[("Cookie", &cookie)], b"");
            assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
        }
    }
}

#[test]
fn a_cookie_of_ours_is_not_stored_with_an_answer() {
    let fresh = || Origin::start(|_| Act::Send(answer(200, &[("Cache-Control", "max-age=60")], "fresh")));
    let origins = [fresh(), fresh()];
    served(&two("cookie", &origins), |gateway| {
        assert!(get(gateway.port(), "/cached").header("set-cookie").is_some());
        let hit = get(gateway.port(), "/cached");
        assert!(hit.header("cache-status").unwrap().contains("hit"), "{:?}", hit.header("cache-status"));
        assert_eq!(hit.header("set-cookie"), None);
    });
}

#[test]
fn a_session_outlives_reloads_and_moves_when_its_endpoint_is_gone() {
    let mut origins = [Origin::named("a"), Origin::named("b")];
    let yaml = two("cookie", &origins);
    let gateway = Gateway::start(&yaml);
    let first = get(gateway.port(), "/");
    let cookie = |set: &str| set.split(';').next().unwrap().to_owned();
    let old = cookie(first.header("set-cookie").unwrap());
    gateway.rewrite(&format!("{yaml}\n          - {{ path: /other, service: it }}\n"));
    assert_eq!(gateway.reload().0, 200);
    for _ in 0..4 {
        assert_eq!(who(&gateway, &[("Cookie", &old)]), first.text());
    }
    let gone = usize::from(first.text() == "b");
    origins[gone].stop();
    let moved = request(gateway.port(), "GET", "/", &[("Cookie", &old)], b"");
    assert_ne!(moved.text(), first.text());
    let new = cookie(moved.header("set-cookie").expect("it is bound anew"));
    origins[gone].back();
    for _ in 0..4 {
        assert_eq!(who(&gateway, &[("Cookie", &new)]), moved.text(), "it stays where it went");
    }
}

/// As socket.io works: a session begins with an answer that sets a cookie, and whoever does not know it refuses what follows.
fn session_server(name: &'static str) -> Origin {
    let (known, next) = (Mutex::new(HashSet::new()), AtomicU64::new(0));
    Origin::start(move |asked: &Asked| {
        let sid = asked.header("cookie").and_then(|cookie| cookie.strip_prefix("io=")).map(str::to_owned);
        match sid {
            None => {
                let sid = format!("{name}{}", next.fetch_add(1, Ordering::SeqCst));
                known.lock().unwrap().insert(sid.clone());
                Act::Send(answer(200, &[("Set-Cookie", &format!("io={sid}; Path=/; HttpOnly"))], name))
            }
            Some(sid) if !known.lock().unwrap().contains(&sid) => Act::Send(answer(400, &[], "unknown session")),
            Some(_) if asked.header("upgrade").is_some() => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                Act::Last(format!("{head}{name}").into_bytes())
            }
            Some(_) => Act::Send(answer(200, &[], name)),
        }
    })
}

#[test]
fn sessions_that_a_service_keeps_itself_stay_together() {
    let origins = [session_server("a"), session_server("b")];
    served(&two("{ backend_cookie: io }", &origins), |gateway| {
        for _ in 0..6 {
            let first = get(gateway.port(), "/socket.io/?transport=polling");
            let set: Vec<_> = first.all("set-cookie");
            assert_eq!(set.len(), 1, "none of ours: {set:?}");
            let cookie = set[0].split(';').next().unwrap().to_owned();
            for method in ["GET", "POST", "GET", "POST"] {
                let next = request(gateway.port(), method, "/socket.io/", &[("Cookie", &cookie)], b"");
                assert_eq!((next.status, next.text()), (200, first.text()));
            }
            let mut socket = Client::connect(gateway.port());
            socket.send(format!(
                "GET /socket.io/ HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ));
            let said = String::from_utf8(socket.rest()).unwrap();
            assert!(said.starts_with("HTTP/1.1 101") && said.ends_with(&first.text()), "{said}");
        }
    });
}

#[test]
fn sessions_by_what_requests_carry_outlive_a_reload() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let yaml = two("{ by: { header: X-User } }", &origins);
    let gateway = Gateway::start(&yaml);
    let users: Vec<String> = (0..10).map(|user| user.to_string()).collect();
    let places = || users.iter().map(|user| who(&gateway, &[("X-User", user)])).collect::<Vec<_>>();
    let before = places();
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!(places(), before);
    gateway.rewrite(&format!("{yaml}\n          - {{ path: /other, service: it }}\n"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(places(), before);
    let (_, view) = gateway.admin_get("/upstreams");
    let view: serde_json::Value = serde_json::from_str(&view).unwrap();
    assert_eq!(view["services"][0]["sessions"], 10);
}

fn put_weight(gateway: &Gateway, port: u16, body: &str) -> crate::harness::Answer {
    let path = format!("/upstreams/it/endpoints/127.0.0.1:{port}/weight");
    Client::connect(gateway.admin()).request("PUT", &path, &[("Content-Type", "application/json")], body.as_bytes())
}

#[test]
fn a_weight_is_set_by_the_admin_api() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let gateway = Gateway::start(&two("cookie", &origins));
    let bound = |name: &str| {
        let mut cookie = String::new();
        eventually("a session there", || {
            let first = get(gateway.port(), "/");
            cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
            first.text() == name
        });
        cookie
    };
    let (a, b) = (origins[0].port(), bound("b"));
    let set = put_weight(&gateway, origins[1].port(), r#"{"weight": 0}"#);
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!((&set.json()["endpoints"][0]["weight"], &set.json()["endpoints"][0]["configured_weight"]), (&0.into(), &1.into()));
    assert!((0..6).all(|_| who(&gateway, &[]) == "a"), "the drained one gets nothing new");
    assert!((0..3).all(|_| who(&gateway, &[("Cookie", &b)]) == "b"), "and keeps what it has");
    let metric = format!("portcullis_upstream_weight{{service=\"it\",endpoint=\"127.0.0.1:{}\"}}", origins[1].port());
    assert_eq!(gateway.metric(&metric), 0.0);
    for bad in [r#"{"weight": 1001}"#, r#"{"weight": -1}"#, "{}", "5"] {
        assert_eq!(put_weight(&gateway, a, bad).status, 400, "{bad}");
    }
    assert_eq!(put_weight(&gateway, 1, r#"{"weight": 1}"#).status, 404);
    let path = format!("/upstreams/it/endpoints/127.0.0.1:{}/weight", origins[1].port());
    assert_eq!(Client::connect(gateway.admin()).request("DELETE", &path, &[], b"").status, 200);
    let both: HashSet<_> = (0..6).map(|_| who(&gateway, &[])).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn with_every_endpoint_full_clients_are_told_so() {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        drop(held.lock().unwrap());
        Act::Send(answer(200, &[], "done"))
    });
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { it: { endpoints: [ 127.0.0.1:$AT ], max_requests: 2, retry_after: 3s } }
        routes: [ { path: /*, service: it } ]
        ",
        &[("$AT", origin.port())],
    );
    served(&yaml, |gateway| {
        let shut = gate.lock().unwrap();
        let mut waiting: Vec<Client> = (0..2).map(|_| Client::connect(gateway.port())).collect();
        waiting.iter_mut().for_each(|client| client.send_request("GET", "/", &[], b""));
        eventually("both are there", || gateway.metric("portcullis_upstream_in_flight{service=\"it\"}") == 2.0);
        let refused = get(gateway.port(), "/");
        refused.assert_problem(503, "upstream", "endpoints_full");
        assert_eq!(refused.header("retry-after"), Some("3"));
        gateway.wait_metric("portcullis_refusals_total{policy=\"upstream\",reason=\"endpoints_full\"}", 1.0);
        drop(shut);
        waiting.iter_mut().for_each(|client| assert_eq!(client.answer_to("GET").status, 200));
        eventually("there is room again", || get(gateway.port(), "/").status == 200);
    });
}

/// A call that fails at once says so in the head of an answer of 200.
#[test]
fn calls_that_fail_bind_nobody() {
    let call = |code: &'static str| {
        H2Backend::start(move |_, mut respond| async move {
            let answer = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
            let _ = respond.send_response(answer.body(()).unwrap(), true);
        })
    };
    for failing in ["14", "4"] {
        let (ill, well) = (call(failing), call("0"));
        let yaml = "
        listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
        server: { workers: 1 }
        services:
          kept: { endpoints: [ '127.0.0.1:$ILL', '127.0.0.1:$WELL' ], protocol: grpc, sticky: { by: { header: X-S } } }
          named: { endpoints: [ '127.0.0.1:$ILL', '127.0.0.1:$WELL' ], protocol: grpc, sticky: cookie }
        routes:
          - { path: /kept.Svc/*, service: kept }
          - { path: /named.Svc/*, service: named }
        ";
        let gateway = Gateway::start(&filled(yaml, &[("$ILL", ill.port()), ("$WELL", well.port())]));
        for kind in ["application/grpc", "application/grpc-web+proto"] {
            let kind = format!("Content-Type: {kind}");
            let call = |path: &str, session: &str| {
                let fields = ["--http2-prior-knowledge", "-X", "POST", "-H", &kind, "-H", "TE: trailers", "-H", session];
                curl(&[&fields[..], &["--data-binary", "", &gateway.url(path)]].concat())
            };
            let status = |answer: &Answer| answer.header("grpc-status").map(str::to_owned);
            for session in 0..4 {
                let session = format!("X-S: {session}{}", kind.len());
                let all: Vec<_> = (0..16).map(|_| status(&call("/kept.Svc/A", &session)).unwrap()).collect();
                let bound = all.iter().position(|code| code == "0").expect("it is asked elsewhere");
                assert!(all[bound..].iter().all(|code| code == "0"), "{kind} {all:?}");
            }
            for _ in 0..4 {
                let answer = call("/named.Svc/A", "X-S: a");
                assert_eq!(answer.header("set-cookie").is_some(), status(&answer).unwrap() == "0", "{:?}", answer.headers);
            }
        }
    }
}
