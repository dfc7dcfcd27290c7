//! Host names with addresses of both families: which are asked, and what one of which nobody answers costs.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use crate::harness::*;

/// Listeners of both families on one port.
fn both() -> (TcpListener, TcpListener) {
    loop {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(six) = TcpListener::bind(("::1", four.local_addr().unwrap().port())) {
            return (four, six);
        }
    }
}

fn saying(listener: TcpListener, text: &'static str) -> Backend {
    Backend::answering_on(listener, move |_| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    })
}

/// An address at which nobody answers, not even with a refusal: a full backlog leaves further handshakes alone.
struct Hole {
    _listener: TcpListener,
    _fill: Vec<TcpStream>,
}

fn hole(listener: TcpListener) -> Hole {
    rustix::net::listen(&listener, 0).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fill.push(stream);
        assert!(fill.len() < 64, "the backlog never fills");
    }
    Hole { _listener: listener, _fill: fill }
}

fn dns() -> Dns {
    Dns::start(&["host-record=both.test,127.0.0.1,::1", "host-record=four.test,127.0.0.1", "log-queries"])
}

/// Every request needs a connection of its own.
fn start(dns: &Dns, port: u16, service: &str) -> Gateway {
    Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
        server: {{ workers: 1 }}
        services:
          app: {{ discover: {{ dns: 'both.test:{port}', servers: [ {} ] }}, keep_alive: 0, {service} }}
        routes: [ {{ path: /*, service: app }} ]
        ",
        dns.server()
    ))
}

fn endpoints(gateway: &Gateway) -> Vec<Value> {
    let view: Value = serde_json::from_str(&gateway.admin_get("/upstreams").1).unwrap();
    view["services"][0]["endpoints"].as_array().unwrap().clone()
}

fn addresses(gateway: &Gateway) -> Vec<String> {
    endpoints(gateway).iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect()
}

/// Asks so often, and says how long each took.
fn ask(count: usize, mut one: impl FnMut()) -> Vec<Duration> {
    let mut took = || {
        let began = Instant::now();
        one();
        began.elapsed()
    };
    (0..count).map(|_| took()).collect()
}

/// The first one waits for the head start, and on a machine that is busy a few more take long; nobody waits for the limit of a connection.
fn assert_soon_passed_over(took: &[Duration]) {
    let slow = took.iter().filter(|took| **took >= Duration::from_millis(200)).count();
    assert!((1..=6).contains(&slow), "{took:?}");
    assert!(took.iter().all(|took| *took < Duration::from_secs(3)), "{took:?}");
    assert!(took[took.len() / 2..].iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
}

const LIMIT: &str = "timeouts: { connect: 10s }";

#[test]
fn an_address_of_which_nobody_answers_costs_no_connect_timeout() {
    for dead in ["[::1]", "127.0.0.1"] {
        let (four, six) = both();
        let port = four.local_addr().unwrap().port();
        let (lives, dies) = if dead == "[::1]" { (four, six) } else { (six, four) };
        let (_backend, _hole, dns) = (saying(lives, "here"), hole(dies), dns());
        let gateway = start(&dns, port, LIMIT);
        let took = ask(30, || assert_eq!(get(gateway.port(), "/").text(), "here"));
        assert_soon_passed_over(&took);
        let address = format!("{dead}:{port}");
        // It counts as one that could not be made: those who begin together, before anybody knows, have it left out.
        let failed = |one: &Value| one["address"] == address && one["failures"].as_u64() >= Some(1);
        assert!(endpoints(&gateway).iter().any(failed), "{:?}", endpoints(&gateway));
        let line = gateway.wait_log(|line| line["retries"] == 1);
        assert_eq!((&line["retried_for"], &line["status"]), (&"connect".into(), &200.into()), "{line}");
        assert!(line["endpoint"] != address, "{line}");
        let gateway = start(&dns, port, LIMIT);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| assert_eq!(get(gateway.port(), "/").text(), "here"));
            }
        });
        eventually("it is left out", || {
            endpoints(&gateway).iter().any(|one| one["address"] == address && one["state"] == "ejected")
        });
        // A reload keeps what is known of it.
        assert_eq!(gateway.reload().0, 200);
        let took = ask(10, || assert_eq!(get(gateway.port(), "/").status, 200));
        assert!(took.iter().all(|took| *took < Duration::from_millis(900)), "{took:?}");
    }
}

/// More of them than may be left out: who lost has no head start the next time.
#[test]
fn most_addresses_may_be_dead() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let others = ["127.0.0.2", "127.0.0.3"].map(|address| hole(TcpListener::bind((address, port)).unwrap()));
    let (_backend, _holes) = (saying(six, "here"), (hole(four), others));
    let dns = Dns::start(&[
        "host-record=both.test,127.0.0.1,::1",
        "host-record=both.test,127.0.0.2",
        "host-record=both.test,127.0.0.3",
    ]);
    let gateway = start(&dns, port, &format!("{LIMIT}, outlier_detection: false"));
    assert_eq!(addresses(&gateway).len(), 4);
    let took = ask(40, || assert_eq!(get(gateway.port(), "/").text(), "here"));
    let slow = took.iter().filter(|took| **took >= Duration::from_millis(240)).count();
    assert!((3..=8).contains(&slow), "one for each, and a machine that is busy: {took:?}");
    assert!(took[20..].iter().filter(|took| **took < Duration::from_millis(240)).count() >= 15, "{took:?}");
}

#[test]
fn connections_over_tls_race_as_well() {
    for protocol in ["http1", "http2"] {
        let files = Files::new();
        let (cert, key, _) = files.certificate(&["both.test"]);
        let at = format!(
            "listen 127.0.0.1:$PORT ssl http2; ssl_certificate {}; ssl_certificate_key {};",
            cert.display(),
            key.display()
        );
        let nginx = Nginx::start_in(&files, &format!("{at} location / {{ return 200 '$ssl_server_name'; }}"));
        let _hole = hole(TcpListener::bind(("::1", nginx.port())).unwrap());
        let dns = dns();
        let gateway = start(&dns, nginx.port(), &format!("protocol: {protocol}, tls: {{ ca: '{}' }}, {LIMIT}", cert.display()));
        let took = ask(20, || assert_eq!(get(gateway.port(), "/").text(), "both.test"));
        assert_soon_passed_over(&took);
    }
}

/// A body that was sent to nobody goes where the connection stands.
#[test]
fn a_request_with_a_body_is_sent_once() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let backend = saying(four, "here");
    let (_hole, dns) = (hole(six), dns());
    let gateway = start(&dns, port, LIMIT);
    for _ in 0..6 {
        assert_eq!(request(gateway.port(), "POST", "/", &[], &[b'x'; 100_000]).text(), "here");
    }
    let seen = backend.requests();
    assert_eq!((seen.len(), seen.iter().all(|one| one.body.len() == 100_000)), (6, true));
}

#[test]
fn connections_over_http2_race_as_well() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let _backend = H2Backend::on(four, |_, mut respond| async move {
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        let _ = body.send_data(Bytes::from_static(b"here"), true);
    });
    let (_hole, dns) = (hole(six), dns());
    let gateway = start(&dns, port, &format!("protocol: http2, {LIMIT}"));
    let took = ask(20, || assert_eq!(get(gateway.port(), "/").text(), "here"));
    assert_soon_passed_over(&took);
}

#[test]
fn connections_that_are_carried_as_they_are_race_as_well() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_backend, _hole, dns) = (saying(four, "here"), hole(six), dns());
    let gateway = Gateway::start(&format!(
        "
        listeners: [ {{ name: front, bind: '127.0.0.1:$PORT', protocol: tcp }} ]
        server: {{ workers: 1 }}
        services: {{ app: {{ discover: {{ dns: 'both.test:{port}', servers: [ {} ] }}, {LIMIT} }} }}
        tcp_routes: [ {{ listeners: front, service: app }} ]
        ",
        dns.server()
    ));
    let took = ask(20, || assert_eq!(get(gateway.port(), "/").text(), "here"));
    assert_soon_passed_over(&took);
}

#[test]
fn an_address_that_refuses_costs_nothing() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_backend, dns) = (saying(four, "here"), dns());
    drop(six);
    let gateway = start(&dns, port, LIMIT);
    let took = ask(20, || assert_eq!(get(gateway.port(), "/").text(), "here"));
    assert!(took.iter().all(|took| *took < Duration::from_millis(900)), "{took:?}");
}

/// With nobody at either, the failure is the one that there would be of one address, and as soon.
#[test]
fn with_no_address_left_the_limit_holds() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_holes, dns) = ((hole(four), hole(six)), dns());
    let gateway = start(&dns, port, "timeouts: { connect: 800ms }");
    let began = Instant::now();
    get(gateway.port(), "/").assert_problem(504, "upstream", "connect_timeout");
    let took = began.elapsed();
    assert!((800..2500).contains(&took.as_millis()), "{took:?}");
    // Where nothing may be tried again, there is no second connection either.
    let gateway = start(&dns, port, "timeouts: { connect: 800ms }, retries: { attempts: 0 }");
    get(gateway.port(), "/").assert_problem(504, "upstream", "connect_timeout");
    let asked: u64 = endpoints(&gateway).iter().map(|one| one["requests"].as_u64().unwrap()).sum();
    assert_eq!(asked, 1);
}

/// A second connection that could not be made either is an attempt like another.
#[test]
fn what_was_tried_beside_the_first_is_counted() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    drop(four);
    let (_hole, dns) = (hole(six), dns());
    let gateway = start(&dns, port, "dns_family: prefer_ipv6, timeouts: { connect: 800ms }");
    get(gateway.port(), "/").assert_problem(504, "upstream", "connect_timeout");
    let line = gateway.wait_log(|line| line["status"] == 504);
    assert_eq!((&line["retries"], &line["retried_for"]), (&1.into(), &"connect".into()), "{line}");
}

#[test]
fn the_preferred_family_is_asked_while_it_is_there() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_four, six, dns) = (saying(four, "four"), saying(six, "six"), dns());
    let gateway = start(&dns, port, "dns_family: prefer_ipv6");
    let all = |text: &str| ask(10, || assert_eq!(get(gateway.port(), "/").text(), text));
    all("six");
    // The preference is another one; what is known of the addresses stays.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("prefer_ipv6", "prefer_ipv4"));
    assert_eq!(gateway.reload().0, 200);
    all("four");
    let asked: Vec<_> = endpoints(&gateway).iter().map(|one| one["requests"].as_u64().unwrap()).collect();
    assert_eq!(asked, [10, 10]);
    gateway.rewrite(&yaml);
    assert_eq!(gateway.reload().0, 200);
    all("six");
    drop(six);
    all("four");
}

#[test]
fn a_family_that_is_not_wanted_is_not_asked_for() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_backends, dns) = ((saying(four, "four"), saying(six, "six")), dns());
    for engine in ["{ workers: 1 }", "{ engine: pingora }"] {
        let gateway = Gateway::start(&format!(
            "
            listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
            server: {engine}
            services:
              app: {{ discover: {{ dns: 'both.test:{port}', servers: [ {} ] }}, dns_family: ipv4 }}
              local: {{ endpoints: [ 'localhost:{port}' ], dns_family: ipv4 }}
            routes: [ {{ path: /*, service: app }}, {{ path: /local, service: local }} ]
            ",
            dns.server()
        ));
        for path in ["/", "/", "/", "/local", "/local"] {
            assert_eq!(get(gateway.port(), path).text(), "four");
        }
        assert_eq!(addresses(&gateway), [format!("127.0.0.1:{port}")]);
    }
    let log = dns.log();
    assert!(log.contains("query[A] both.test") && !log.contains("query[AAAA]"), "{log}");
    let gateway = start(&dns, port, "dns_family: ipv6");
    assert_eq!((get(gateway.port(), "/").text().as_str(), addresses(&gateway)), ("six", vec![format!("[::1]:{port}")]));
    // It has none: that is as if there were no such name.
    let yaml = std::fs::read_to_string(gateway.config_path()).unwrap();
    gateway.rewrite(&yaml.replace("both.test", "four.test"));
    let (code, told) = gateway.reload();
    assert!(code == 200 && told.to_string().contains("does not resolve"), "{told}");
    get(gateway.port(), "/").assert_problem(503, "upstream", "no_healthy_endpoint");
}

#[test]
fn addresses_behind_srv_records_have_families_too() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let _backends = (saying(four, "four"), saying(six, "six"));
    let srv = format!("srv-host=_http._tcp.app.test,both.test,{port},1,1");
    let dns = Dns::start(&["host-record=both.test,127.0.0.1,::1", &srv]);
    let yaml = |family: &str| {
        format!(
            "
            listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
            server: {{ workers: 1 }}
            services: {{ app: {{ discover: {{ srv: _http._tcp.app.test, servers: [ {} ] }}, dns_family: {family} }} }}
            routes: [ {{ path: /*, service: app }} ]
            ",
            dns.server()
        )
    };
    for (family, count, says) in [("ipv6", 1, "six"), ("prefer_ipv4", 2, "four")] {
        let gateway = Gateway::start(&yaml(family));
        let answers = (0..4).map(|_| get(gateway.port(), "/").text());
        assert!(answers.into_iter().all(|text| text == says), "{family}");
        assert_eq!(addresses(&gateway).len(), count, "{family}");
    }
}

#[test]
fn families_that_are_none_are_refused() {
    let files = Files::new();
    for (service, said) in [
        ("endpoints: [ 'a.test:80' ], dns_family: v4_only", "did you mean `ipv4`?"),
        ("endpoints: [ 'a.test:80' ], dns_family: auto", "did you mean `any`?"),
        ("endpoints: [ 'a.test:80' ], dns_family: ~", "dns_family"),
        ("endpoints: [ 'a.test:80' ], dns_lookup_family: any", "`dns_family`"),
        ("endpoints: [ '127.0.0.1:80' ], dns_family: ipv4", "`dns_family` has no effect"),
        ("discover: { file: a }, dns_family: any", "`dns_family` has no effect"),
    ] {
        let yaml =
            "listeners: [ { bind: '127.0.0.1:8123' } ]\nservices: { app: { SERVICE } }\nroutes: [ { path: /*, service: app } ]\n";
        files.write("bad.yaml", yaml.replace("SERVICE", service));
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains(said), "{service}: {told}");
    }
}

/// Who is overtaken says nothing of the service, which is being reached: its breaker stays closed, though many lose before one has won.
#[test]
fn those_who_are_overtaken_open_no_breaker_of_the_service() {
    let (four, six) = both();
    let port = four.local_addr().unwrap().port();
    let (_backend, _hole, dns) = (saying(four, "here"), hole(six), dns());
    let gateway = start(&dns, port, &format!("{LIMIT}, circuit_breaker: {{ consecutive_failures: 2, open_for: 60s }}"));
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| assert_eq!(get(gateway.port(), "/").text(), "here"));
            }
        });
    }
}
