//! Against no server at all; real ones are asked in `tests/`.

use std::time::{Duration, Instant};

use super::*;
use crate::ledger::Ledger;
use crate::node;
use crate::problem::Problems;
use crate::tally::Tallies;

fn compile(yaml: &str, tallies: &Tallies) -> Result<Arc<Redis>, Vec<String>> {
    let mut problems = Problems::default();
    let environment = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
    let root = node::parse(yaml, &environment, &mut problems).unwrap();
    let config = node::decode::<RedisConfig>(&root, &mut problems);
    let redis = config
        .and_then(|config| config.compile(std::path::Path::new("/nonexistent"), &mut problems, &Ledger::default(), tallies));
    // An unknown key, or a password that is written out, is a problem beside a configuration that is otherwise sound.
    let complaints = || problems.iter().map(|problem| problem.to_string()).collect();
    redis.filter(|_| !problems.has_errors()).ok_or_else(complaints)
}

fn complaints(yaml: &str) -> String {
    let complaints = compile(yaml, &Tallies::default()).err().unwrap().join("; ");
    assert!(!complaints.is_empty() && !complaints.contains("hunter2"), "{complaints}");
    complaints
}

#[test]
fn configurations_are_checked() {
    let tallies = Tallies::default();
    let redis = compile("{ nodes: localhost:6379, username: gate, password: \"${PASSWORD}\", database: 3 }", &tallies).unwrap();
    assert_eq!((redis.prefix(), redis.deadline(), redis.is_cluster()), ("portcullis:", Duration::from_millis(10), false));
    let cluster = compile("{ nodes: [ \"10.0.0.1:7000\", \"[::1]:7001\" ], cluster: true, tls: {} }", &tallies).unwrap();
    assert!(cluster.is_cluster());
    for (yaml, complaint) in [
        ("{ nodes: [] }", "an empty list says nothing here"),
        ("{ nodes: redis }", "no address"),
        ("{ nodes: \"redis://redis:6379\" }", "no address"),
        ("{ nodes: \"redis:0\" }", "no address"),
        ("{ nodes: \"[redis]:6379\" }", "no address"),
        ("{ nodes: [ \"a:1\", \"b:2\" ] }", "1:19: a standalone Redis is one node"),
        ("{ nodes: \"a:1\", deadline: 1m }", "`deadline` is from"),
        ("{ nodes: \"a:1\", connect_timeout: 1ms }", "`connect_timeout` is from"),
        ("{ nodes: \"a:1\", cluster: true, database: 1 }", "only database 0"),
        ("{ nodes: \"a:1\", prefix: \"{a}\" }", "`prefix` is up to"),
        ("{ nodes: \"a:1\", username: x }", "without a password"),
        ("{ nodes: \"a:1\", password: hunter2 }", ""),
        ("{ nodes: \"a:1\", tls: { ca: missing.pem } }", "cannot read missing.pem"),
        ("{ nodes: \"a:1\", tls: { key: missing.pem } }", "belong together"),
        ("{ nodes: \"a:1\", paswort: x }", "paswort"),
    ] {
        let complaints = complaints(yaml);
        assert!(complaints.contains(complaint), "{yaml}: {complaints}");
    }
}

#[test]
fn an_unchanged_configuration_keeps_its_client() {
    let ledger = Ledger::default();
    let redis = |yaml: &str, password: &'static str| {
        let mut problems = Problems::default();
        let root = node::parse(yaml, &|_: &str| Some(password.to_owned()), &mut problems).unwrap();
        let config = node::decode::<RedisConfig>(&root, &mut problems).unwrap();
        config.compile(std::path::Path::new("."), &mut problems, &ledger, &Tallies::default()).unwrap()
    };
    let yaml = "{ nodes: \"a:1\", password: \"${P}\" }";
    let first = redis(yaml, "one");
    assert!(Arc::ptr_eq(&first, &redis(yaml, "one")));
    assert!(!Arc::ptr_eq(&first, &redis(yaml, "two")), "another password is another client");
    assert!(!Arc::ptr_eq(&first, &redis("{ nodes: \"a:1\", password: \"${P}\", deadline: 5ms }", "one")));
}

fn reading(tallies: &Tallies, name: &str, label: &str) -> u64 {
    let readings = tallies.read();
    let family = readings.iter().find(|reading| reading.name == name).unwrap();
    family.values.iter().filter(|(labels, _)| label.is_empty() || labels[0].1 == label).map(|(_, value)| value).sum()
}

#[tokio::test]
async fn nobody_listens() {
    let tallies = Tallies::default();
    // Bound and dropped: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = compile(&format!("{{ nodes: \"127.0.0.1:{port}\" }}"), &tallies).unwrap();
    for _ in 0..20 {
        let answer: Result<String, _> = redis.within(redis.deadline()).run(&cmd("PING")).await;
        assert!(matches!(answer, Err(Unavailable::Connection | Unavailable::Open)), "{answer:?}");
    }
    assert!(redis.is_down());
    assert_eq!(reading(&tallies, "portcullis_redis_breakers_open", ""), 1);
    assert_eq!(reading(&tallies, "portcullis_redis_calls_total", "connection"), 5);
    assert_eq!(reading(&tallies, "portcullis_redis_calls_total", "breaker_open"), 15);
}

#[tokio::test]
async fn one_that_never_answers_costs_the_deadline_and_then_nothing() {
    let tallies = Tallies::default();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let redis = compile(&format!("{{ nodes: \"{address}\", deadline: 20ms }}"), &tallies).unwrap();
    for round in 0..20 {
        let started = Instant::now();
        let answer: Result<String, _> = redis.within(redis.deadline()).run(&cmd("PING")).await;
        let took = started.elapsed();
        let expected = if round < 5 { Unavailable::Timeout } else { Unavailable::Open };
        assert_eq!(answer, Err(expected), "{round}");
        assert_eq!(took >= Duration::from_millis(20), round < 5, "{took:?}");
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    let answer: Result<String, _> = redis.within(redis.deadline()).run(&cmd("PING")).await;
    assert_eq!(answer, Err(Unavailable::Timeout), "one call finds out");
}

#[tokio::test]
async fn no_more_than_a_bound_wait() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = format!("{{ nodes: \"{}\", deadline: 200ms, connect_timeout: 5s }}", silent.local_addr().unwrap());
    let redis = compile(&yaml, &Tallies::default()).unwrap();
    let calls = (0..MOST_WAITING + 100).map(|_| {
        let redis = redis.clone();
        tokio::spawn(async move { redis.within(redis.deadline()).run::<String>(&cmd("PING")).await })
    });
    let mut overloaded = 0;
    for call in calls.collect::<Vec<_>>() {
        overloaded += usize::from(call.await.unwrap() == Err(Unavailable::Overloaded));
    }
    assert_eq!(overloaded, 100);
}
