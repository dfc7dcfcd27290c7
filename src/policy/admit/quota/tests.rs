//! Unit tests of `quota`.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::exchange::Identity;
use crate::ledger::Ledger;
use crate::policy::testing::{compile, compile_with, complaint};

fn from(consumer: &str, plan: Option<&str>) -> Exchange {
    let mut exchange = Exchange::for_tests();
    let plan = plan.map(Into::into);
    exchange.identity = Some(Arc::new(Identity { consumer: Some(consumer.into()), plan, ..Identity::default() }));
    exchange
}

fn run(policy: &Quotas, exchange: &mut Exchange) -> Option<Box<Reply>> {
    policy.on_request(&RequestHead::build("GET", "/", &[]), exchange).break_value()
}

#[test]
fn each_consumer_has_what_its_plan_gives() {
    let config = json!({ "limit": "2/month", "plans": { "pro": "5/month", "internal": "unlimited" } });
    let policy = compile::<Quotas>(config).unwrap();
    let admitted = |name: &str, plan| (0..9).filter(|_| run(&policy, &mut from(name, plan)).is_none()).count();
    assert_eq!((admitted("a", None), admitted("b", Some("pro")), admitted("c", Some("internal"))), (2, 5, 9));
    assert_eq!(admitted("d", Some("no plan of this quota")), 2);
    // A consumer that moves to a larger plan keeps what it has used.
    assert_eq!(admitted("a", Some("pro")), 3);
    let reply = run(&policy, &mut from("a", None)).unwrap();
    assert_eq!((reply.policy, reply.reason), ("quota", "quota_exceeded"));
    let after: u64 = reply.headers[0].1.to_str().unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&after), "{after}");
}

#[test]
fn a_day_and_a_month_are_counted_together() {
    let ledger = Ledger::default();
    let config = json!([{ "limit": "100/month" }, { "limit": "2/day" }]);
    let policy = compile_with::<Quotas>(&ledger, "route:/q", config).unwrap();
    let admitted = (0..5).filter(|_| run(&policy, &mut from("a", None)).is_none()).count();
    assert_eq!(admitted, 2);
    let used: Vec<_> =
        Book::of(&ledger).lines(Some("a"), 9).into_iter().map(|line| (line.quota.to_string(), line.used)).collect();
    assert_eq!(
        used,
        [("route:/q/consumer-day/consumer/day".to_owned(), 2), ("route:/q/consumer-month/consumer/month".to_owned(), 2)]
    );
    assert_eq!(Book::of(&ledger).reset("a", None), 2);
    assert!(run(&policy, &mut from("a", None)).is_none());
}

#[test]
fn keys_are_readable_and_never_the_same_for_two() {
    let text = |text: &'static [u8]| Piece::Text(Cow::Borrowed(text));
    let address = |text: &str| Piece::Address(text.parse().unwrap());
    assert_eq!(key(&[text(b"acme"), text(b"t1")]), "acme|t1");
    assert_eq!(key(&[address("2001:db8::7")]), "address:2001:db8::/64");
    let keys = [
        key(&[address("192.0.2.1")]),
        key(&[text(b"address:192.0.2.1")]),
        key(&[text(b"a|b")]),
        key(&[text(b"a"), text(b"b")]),
        key(&[text(b"\0")]),
        key(&[text(b"\xff")]),
        key(&[text(b"")]),
        key(&[text(b"#23")]),
        key(&[Piece::Text(Cow::Owned(vec![b'x'; 100_000]))]),
    ];
    for (index, one) in keys.iter().enumerate() {
        assert!(one.len() < 64 && !keys[index + 1..].contains(one), "{one}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    assert!(complaint::<Quotas>(json!([])).contains("without any quota"));
    assert!(complaint::<Quotas>(json!({ "limit": "5/minute" })).contains("day, week and month"));
    assert!(complaint::<Quotas>(json!({ "limit": "5/day", "time_zone": "Mars/Olympus" })).contains("time zone"));
    assert!(complaint::<Quotas>(json!({ "limit": "5/day", "plans": { "pro": "5/month" } })).contains("same period"));
    assert!(complaint::<Quotas>(json!({ "limit": "5/day", "max_keys": 0 })).contains("max_keys"));
    assert!(complaint::<Quotas>(json!({ "limit": "5/day", "burst": 1 })).contains("unknown field"));
}
