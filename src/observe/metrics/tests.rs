use super::*;
use std::collections::BTreeMap;

/// A sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text format 0.0.4, and fails on whatever is not of it.
fn parse(text: &str) -> Vec<Sample> {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        assert!(is_name(name), "{line}");
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let (label, after) = rest.split_once("=\"").unwrap();
                assert!(is_name(label), "{line}");
                let (value, after) = parse_value(after);
                assert!(labels.insert(label.to_owned(), value).is_none(), "twice: {line}");
                match after.strip_prefix(',') {
                    Some(after) => rest = after,
                    None => break rest = after.strip_prefix('}').unwrap(),
                }
            }
        }
        let value = rest.strip_prefix(' ').unwrap();
        samples.push((name.to_owned(), labels, if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() }));
    }
    samples
}

fn parse_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                other => other,
            }),
            _ => value.push(char),
        }
    }
    panic!("a label value without an end: {text}");
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = samples.iter().filter(|(known, known_labels, _)| {
        known == name && labels.iter().all(|(label, value)| known_labels.get(*label).is_some_and(|known| known == value))
    });
    let first = found.next().map(|(_, _, value)| *value);
    assert!(found.next().is_none(), "more than one {name} {labels:?}");
    first
}

fn metrics() -> Arc<Metrics> {
    Metrics::new("1.2.3", &[("tls", "openssl")])
}

#[test]
fn everything_is_in_the_text() {
    let metrics = metrics();
    let route = metrics.route("/cart/*");
    route.observe(&Method::GET, 200, Duration::from_millis(4), 10, 1000);
    route.observe(&Method::from_bytes(b"PURGE").unwrap(), 405, Duration::from_millis(1), 0, 0);
    metrics.no_route().observe(&Method::GET, 404, Duration::from_micros(80), 0, 0);
    metrics.no_route().observe(&Method::GET, 0, Duration::from_micros(80), 0, 0);
    let service = metrics.service("cart");
    service.observe(Duration::from_millis(3));
    service.retried();
    let endpoint = metrics.endpoint("cart", "10.0.0.1:9001");
    endpoint.set_healthy(false);
    let listener = metrics.listener("public");
    listener.opened();
    listener.refused("too_many");
    metrics.refusal("jwt", "token_expired");
    metrics.cache("hit");
    metrics.tls_handshake_failed();
    metrics.request_began();
    metrics.reload_applied(7);
    metrics.reload_refused();
    let samples = parse(&metrics.render());
    let expect = |name: &str, labels: &[(&str, &str)], expected: f64| {
        assert_eq!(value(&samples, &format!("portcullis_{name}"), labels), Some(expected), "{name} {labels:?}");
    };
    expect("requests_total", &[("route", "/cart/*"), ("method", "GET"), ("status_class", "2xx")], 1.0);
    expect("requests_total", &[("route", "/cart/*"), ("method", "other"), ("status_class", "4xx")], 1.0);
    expect("requests_total", &[("route", "-"), ("status_class", "other")], 1.0);
    expect("request_duration_seconds_bucket", &[("route", "/cart/*"), ("le", "0.003")], 1.0);
    expect("request_duration_seconds_bucket", &[("route", "/cart/*"), ("le", "0.005")], 2.0);
    expect("request_duration_seconds_bucket", &[("route", "/cart/*"), ("le", "+Inf")], 2.0);
    expect("request_duration_seconds_count", &[("route", "/cart/*")], 2.0);
    expect("request_duration_seconds_sum", &[("route", "/cart/*")], 0.005);
    expect("received_bytes_total", &[("route", "/cart/*")], 10.0);
    expect("sent_bytes_total", &[("route", "/cart/*")], 1000.0);
    expect("upstream_duration_seconds_count", &[("service", "cart")], 1.0);
    expect("upstream_retries_total", &[("service", "cart")], 1.0);
    expect("upstream_healthy", &[("service", "cart"), ("endpoint", "10.0.0.1:9001")], 0.0);
    expect("connections", &[("listener", "public")], 1.0);
    expect("connections_refused_total", &[("listener", "public"), ("reason", "too_many")], 1.0);
    expect("refusals_total", &[("policy", "jwt"), ("reason", "token_expired")], 1.0);
    expect("cache_requests_total", &[("state", "hit")], 1.0);
    expect("tls_handshake_failures_total", &[], 1.0);
    expect("in_flight", &[], 1.0);
    expect("reloads_total", &[("result", "applied")], 1.0);
    expect("reloads_total", &[("result", "refused")], 1.0);
    expect("config_generation", &[], 7.0);
    expect("build_info", &[("version", "1.2.3"), ("tls", "openssl")], 1.0);
}

#[test]
fn labels_are_escaped() {
    let metrics = metrics();
    let name = "a\"b\\c\nd{e=\"f\"} 1";
    let route = metrics.route(name);
    route.observe(&Method::GET, 200, Duration::ZERO, 0, 0);
    let samples = parse(&metrics.render());
    assert_eq!(value(&samples, "portcullis_requests_total", &[("route", name)]), Some(1.0));
}

#[test]
fn buckets_only_rise() {
    let metrics = metrics();
    let route = metrics.route("r");
    (0..1000).for_each(|n| route.observe(&Method::GET, 200, Duration::from_micros(n * n), 0, 0));
    let samples = parse(&metrics.render());
    let buckets: Vec<f64> = samples
        .iter()
        .filter(|(name, ..)| name == "portcullis_request_duration_seconds_bucket")
        .map(|(.., value)| *value)
        .collect();
    assert!(buckets.is_sorted());
    assert_eq!(buckets.last(), Some(&1000.0));
}

#[test]
fn a_reload_resets_nothing_and_removed_routes_vanish() {
    let metrics = metrics();
    let old = metrics.route("kept");
    old.observe(&Method::GET, 200, Duration::ZERO, 0, 0);
    let removed = metrics.route("removed");
    removed.observe(&Method::GET, 200, Duration::ZERO, 0, 0);
    let new = metrics.route("kept");
    drop((old, removed));
    new.observe(&Method::GET, 200, Duration::ZERO, 0, 0);
    let samples = parse(&metrics.render());
    assert_eq!(value(&samples, "portcullis_requests_total", &[("route", "kept")]), Some(2.0));
    assert_eq!(value(&samples, "portcullis_requests_total", &[("route", "removed")]), None);
    assert_eq!(metrics.series.routes.0.lock().len(), 1);
}

#[test]
fn concurrent_counts_add_up() {
    let metrics = metrics();
    let threads: Vec<_> = (0..12u64)
        .map(|n| {
            let metrics = metrics.clone();
            std::thread::spawn(move || {
                let route = metrics.route("shared");
                for _ in 0..5_000 {
                    metrics.request_began();
                    route.observe(&Method::POST, 201, Duration::from_micros(n), 1, 2);
                    metrics.refusal("jwt", "token_expired");
                    metrics.request_ended();
                }
                route
            })
        })
        .collect();
    let routes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let totals = routes[0].totals();
    assert_eq!((totals.requests(), totals.duration.count()), (60_000, 60_000));
    assert_eq!((totals.bytes_in, totals.bytes_out), (60_000, 120_000));
    assert_eq!(metrics.in_flight(), 0);
    assert_eq!(metrics.series.refusals.counter("jwt", "token_expired").sum(), 60_000);
}

#[test]
fn ten_thousand_idle_routes_are_cheap() {
    let metrics = metrics();
    let routes: Vec<_> = (0..10_000).map(|n| metrics.route(&format!("/route/{n}"))).collect();
    assert!(metrics.render().len() < 4096);
    drop(routes);
    metrics.sweep();
    assert!(metrics.series.routes.0.lock().is_empty());
}

#[test]
fn every_status_has_a_class() {
    for (status, class) in
        [(0, "other"), (99, "other"), (100, "1xx"), (199, "1xx"), (599, "5xx"), (600, "other"), (65535, "other")]
    {
        assert_eq!(CLASSES[class_index(status)], class);
    }
    for (index, name) in METHODS.iter().enumerate().take(9) {
        assert_eq!(method_index(&Method::from_bytes(name.as_bytes()).unwrap()), index);
    }
}

#[test]
fn every_word_of_the_cache_is_counted() {
    use crate::cache::{Bypass, Outcome};
    let outcomes = [
        Outcome::Hit { ttl: 1 },
        Outcome::Collapsed,
        Outcome::Stale { since: 1, excuse: crate::cache::Excuse::Asked },
        Outcome::Revalidated { asked: false },
        Outcome::Reloaded { stored: false },
        Outcome::Expired { stored: false },
        Outcome::Miss { stored: false },
        Outcome::Predicted { stored: false },
        Outcome::Bypass(Bypass::Method),
    ];
    let states = States::default();
    outcomes.iter().for_each(|outcome| states.count(outcome.word()));
    assert_eq!(states.counts().iter().map(|(_, count)| count).sum::<u64>(), outcomes.len() as u64);
}
