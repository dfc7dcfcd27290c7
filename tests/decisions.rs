//! What the log and the metrics say of who decided: the rule, the limit, the scope, the key, the service.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Backend, Client, Gateway, eventually, request, served};

/// The SHA-256 of `top-secret-key`.
const HASH: &str = "sha256:2534d1b4c0d0112e35cb5e38503cbdc8a69fd89574258214f5e3f8431b0272c9";
const KEY: (&str, &str) = ("X-API-Key", "top-secret-key");

#[test]
fn the_log_names_what_refused_and_the_client_does_not_hear_of_it() {
    let backend = Backend::http();
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        services: {{ it: {{ endpoints: ['127.0.0.1:{}'] }} }}
        consumers: [ {{ name: friend, scopes: [read], api_keys: [ {{ id: first-key, hash: '{HASH}' }} ] }} ]
        policies: {{ authn: {{ api_key: {{}} }} }}
        routes:
          - {{ path: /scope, service: it, policies: {{ authz: {{ scopes: [read, orders-write] }} }} }}
          - {{ path: /rule, service: it, policies: {{ authz: {{ rules: [ {{ deny: 'request.method == \"GET\"' }} ] }} }} }}
          - path: /limit
            service: it
            policies: {{ rate_limit: [ {{ name: wide, by: route, limit: 100/hour }}, {{ name: narrow, by: route, limit: 1/hour }} ] }}
          - {{ path: /address, service: it, policies: {{ ip_restriction: {{ deny: [127.0.0.0/8] }} }} }}
          - {{ path: /slow, service: it, policies: {{ throttle: {{ rate: 1/hour, max_queue: 0 }} }} }}
          - {{ path: /open, service: it }}
        ",
        backend.port()
    );
    served(&yaml, |gateway| {
        request(gateway.port(), "GET", "/limit", &[KEY], b"");
        request(gateway.port(), "GET", "/slow", &[KEY], b"");
        for (path, status, decided) in [
            ("/scope", 403, "scope orders-write"),
            ("/rule", 403, "route:/rule, rule 1"),
            ("/limit", 429, "limit narrow"),
            ("/slow", 429, "route:/slow"),
        ] {
            let answer = request(gateway.port(), "GET", path, &[KEY], b"");
            assert_eq!(answer.status, status, "{path} {answer:?}");
            let line = gateway.wait_log(|line| line["path"] == path && line["status"] == status);
            assert_eq!((&line["decided_by"], &line["credential"]), (&json!(decided), &json!("first-key")), "{line}");
            assert_eq!(answer.json().as_object().unwrap().len(), 6, "{answer:?}");
            assert!(!answer.text().contains("orders-write") && !answer.text().contains("rule 1"), "{answer:?}");
        }
        // Before anybody is asked who he is.
        assert_eq!(request(gateway.port(), "GET", "/address", &[KEY], b"").status, 403);
        let line = gateway.wait_log(|line| line["path"] == "/address");
        assert_eq!((&line["decided_by"], line.get("credential")), (&json!("route:/address"), None), "{line}");
        request(gateway.port(), "GET", "/open", &[KEY], b"");
        let line = gateway.wait_log(|line| line["path"] == "/open");
        assert_eq!((&line["credential"], line.get("decided_by")), (&json!("first-key"), None), "{line}");
        assert!(!gateway.log_text().contains("top-secret-key"));
        let refusals = "portcullis_route_refusals_total{policy=\"rate_limit\",reason=\"rate_limited\",route=\"/limit\"}";
        gateway.wait_metric(refusals, 1.0);
    });
}

#[test]
fn consumers_are_counted_where_that_is_asked_for() {
    let backend = Backend::http();
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        consumers: [ {{ name: friend, api_keys: [ {{ hash: '{HASH}' }} ] }} ]
        policies: {{ authn: {{ api_key: {{}} }} }}
        routes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]
        metrics: {{ consumers: 0 }}
        ",
        backend.port()
    );
    let count = "portcullis_consumer_requests_total{consumer=\"friend\",status_class=\"2xx\"}";
    let gateway = Gateway::start(&yaml);
    assert_eq!(request(gateway.port(), "GET", "/", &[KEY], b"").status, 200);
    gateway.wait_metric("portcullis_requests_total", 1.0);
    assert_eq!(gateway.metric(count), 0.0);
    gateway.rewrite(&yaml.replace("consumers: 0", "consumers: 10"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(request(gateway.port(), "GET", "/", &[KEY], b"").status, 200);
    gateway.wait_metric(count, 1.0);
}

#[test]
fn a_canary_that_fails_shows_in_the_metrics() {
    let good = Backend::http();
    let bad = Backend::answering(|_| b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec());
    let yaml = format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        services: {{ good: {{ endpoints: ['127.0.0.1:{}'] }}, bad: {{ endpoints: ['127.0.0.1:{}'] }} }}
        routes: [ {{ id: both, path: /*, split: [ {{ service: good, weight: 1 }}, {{ service: bad, weight: 1 }} ] }} ]
        ",
        good.port(),
        bad.port()
    );
    served(&yaml, |gateway| {
        let count = |service: &str, status: &str| {
            gateway.metric(&format!("portcullis_answers_total{{route=\"both\",service=\"{service}\",status=\"{status}\"}}"))
        };
        let mut client = Client::connect(gateway.port());
        let answers: Vec<u16> = (0..40).map(|_| client.get("/").status).collect();
        let (well, ill) = answers.iter().partition::<Vec<u16>, _>(|status| **status == 200);
        assert!(!well.is_empty() && !ill.is_empty(), "{answers:?}");
        eventually("all are counted", || count("good", "200") + count("bad", "500") == 40.0);
        assert_eq!((count("good", "200"), count("bad", "500")), (well.len() as f64, ill.len() as f64));
    });
}

#[test]
fn the_clients_time_is_not_the_services() {
    let backend = Backend::http();
    let yaml = format!(
        "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nroutes: [ {{ path: /*, service: 127.0.0.1, port: {} }} ]\n",
        backend.port()
    );
    served(&yaml, |gateway| {
        let mut client = Client::connect(gateway.port());
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n");
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            client.stream().write_all(b"ab").unwrap();
        }
        assert_eq!(client.answer_to("POST").status, 200);
        let line = gateway.wait_log(|line| line["method"] == "POST");
        let micros = |field: &str| line[field].as_u64().unwrap();
        assert!(micros("upload_us") >= 800_000, "{line}");
        assert!(micros("upstream_us") + micros("upload_us") <= micros("duration_us"), "{line}");
        client.get("/");
        let line = gateway.wait_log(|line| line["method"] == "GET");
        assert!(line.get("upload_us").is_none(), "{line}");
    });
}

#[test]
fn the_end_of_a_services_last_endpoint_is_told_once_and_why() {
    // Nobody listens there.
    let gateway = Gateway::start(
        "
        listeners: [ { bind: '127.0.0.1:$PORT' } ]
        services:
          lost:
            endpoints: ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.1:3']
            health_check: { tcp: true, interval: 100ms }
        routes: [ { path: /*, service: lost } ]
        ",
    );
    let told = || gateway.stderr().matches("service `lost`: 0 of 3 endpoints left").count();
    eventually("it is told", || told() == 1);
    // And not again with every check.
    let checked = || gateway.admin_get("/upstreams").1;
    let before = checked();
    eventually("it was checked again", || checked() != before);
    assert_eq!(told(), 1, "{}", gateway.stderr());
    assert!(gateway.stderr().contains("of the last one, 127.0.0.1:"), "{}", gateway.stderr());
}
