//! What it costs to say whether a request may: lists of addresses, claims, and rules in CEL.
//!
//! `cargo bench --bench authz`. Compare within one run only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use divan::Bencher;
use ipnet::{IpNet, Ipv4Net};
use portcullis::cel::{Expression, Kind};
use portcullis::exchange::{Exchange, Identity};
use portcullis::head::RequestHead;
use portcullis::policy::edge::ip_restriction::AddressMap;
use portcullis::problem::{Place, Problems};
use serde_json::json;

fn main() {
    divan::main();
}

fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 32) as u32
}

/// One look-up among so many networks, by random addresses.
#[divan::bench(args = [10, 1_000, 100_000])]
fn address(bencher: Bencher, networks: usize) {
    let mut state = 7;
    let nets = (0..networks).map(|at| {
        let prefix = 16 + (at % 17) as u8;
        (IpNet::V4(Ipv4Net::new(Ipv4Addr::from(random(&mut state)), prefix).unwrap().trunc()), at % 3 == 0)
    });
    let map = AddressMap::new(nets.collect::<Vec<_>>(), true);
    bencher.bench_local(move || map.admits(black_box(IpAddr::V4(random(&mut state).into()))));
}

const RULES: [(&str, &str); 6] = [
    ("literal", "true"),
    ("method", "request.method == 'GET'"),
    ("path_and_header", "request.path.startsWith('/api/') && request.headers['x-tenant'] == 'acme'"),
    (
        "typical",
        "request.method == 'POST' && request.path.startsWith('/api/orders') && 'orders:write' in identity.scopes && \
         identity.claims.department in ['sales', 'ops'] && cidr('192.0.2.0/24').containsIP(request.client)",
    ),
    ("pattern", "request.path.matches('^/api/orders/[0-9]+$')"),
    ("macro", "identity.groups.exists(group, group.startsWith('team-'))"),
];

/// One evaluation.
#[divan::bench(args = RULES.map(|(name, _)| name))]
fn rule(bencher: Bencher, name: &str) {
    let source = RULES.iter().find(|(known, _)| *known == name).unwrap().1;
    let expression = Expression::compile(source, Place::NOWHERE, &mut Problems::default(), Kind::Bool).unwrap();
    let head = RequestHead::build(
        "POST",
        "/api/orders/4711?page=2",
        &[
            ("host", "shop.example"),
            ("user-agent", "bench"),
            ("accept", "*/*"),
            ("x-tenant", "acme"),
            ("content-type", "application/json"),
        ],
    );
    let mut exchange = Exchange::for_tests();
    exchange.identity = Some(Arc::new(Identity {
        subject: "ada".into(),
        method: "jwt",
        scopes: vec!["orders:read".into(), "orders:write".into()],
        groups: vec!["staff".into(), "team-blue".into()],
        claims: Some(Arc::new(json!({ "sub": "ada", "department": "ops", "email_verified": true }))),
        ..Identity::default()
    }));
    assert!(expression.bool(&head, &exchange).is_ok());
    bencher.bench_local(|| expression.bool(black_box(&head), &exchange));
}
