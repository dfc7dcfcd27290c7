//! What it costs to choose an endpoint. The claim: whatever the algorithm, a pick from 10,000 endpoints costs about what a pick from 3
//! does, next to the tens of microseconds of a request; `least_requests` with a full scan is the exception that its reference tells of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use portcullis::exchange::Exchange;
use portcullis::head::RequestHead;
use portcullis::ledger::Ledger;
use portcullis::problem::{Place, Problems};
use portcullis::upstream::aim::Aim;
use portcullis::upstream::{Kept, Service, ServiceConfig};

fn main() {
    divan::main();
}

fn service(endpoints: usize, weighted: bool) -> Arc<Service> {
    balanced(endpoints, weighted, "balance: round_robin")
}

fn balanced(endpoints: usize, weighted: bool, more: &str) -> Arc<Service> {
    let list: Vec<String> = (0..endpoints)
        .map(|at| {
            let address = format!("10.0.{}.{}:80", at / 250, at % 250);
            format!("{{ address: '{address}', weight: {} }}", if weighted { 1 + at % 100 } else { 1 })
        })
        .collect();
    let config: ServiceConfig = serde_yaml::from_str(&format!("endpoints: [{}]\n{more}", list.join(", "))).expect("valid YAML");
    let kept = Kept { ledger: &Ledger::default(), tallies: &Arc::default(), background: None };
    Service::compile("bench", Place::NOWHERE, &config, Path::new(""), &mut Problems::default(), kept).expect("a valid service")
}

/// Every algorithm, at the sizes of a small service, a large one and a very large one. `consistent_hash` has its key, which is read once
/// for a request and not for a pick.
#[divan::bench(
    args = [
        "round_robin", "least_requests", "least_requests: { choices: 4 }", "peak_ewma", "consistent_hash",
        "consistent_hash: { bounded_load: 1.25 }", "random", "first",
    ],
    consts = [3, 100, 10_000],
)]
fn pick<const ENDPOINTS: usize>(bencher: divan::Bencher, algorithm: &str) {
    let balance = if algorithm.contains(':') { format!("{{ {algorithm} }}") } else { algorithm.to_owned() };
    let service = balanced(ENDPOINTS, false, &format!("balance: {balance}"));
    let aim = Aim::of(&service, &RequestHead::build("GET", "/", &[]), &Exchange::for_tests());
    bencher.bench(|| service.pick_for(&[], aim.as_deref()));
}

#[divan::bench(args = [3, 100, 10_000])]
fn full_scan(bencher: divan::Bencher, endpoints: usize) {
    let service = balanced(endpoints, false, "balance: { least_requests: { full_scan: true } }");
    bencher.bench(|| service.pick(&[]));
}

/// What a request pays before its pick where its service has a key, or sticky sessions.
#[divan::bench(args = ["balance: consistent_hash", "sticky: cookie", "sticky: { by: { header: x-user } }"])]
fn aim(bencher: divan::Bencher, more: &str) {
    let service = balanced(3, false, more);
    let (head, exchange) = (RequestHead::build("GET", "/", &[("X-User", "ada"), ("Cookie", "a=1; b=2")]), Exchange::for_tests());
    bencher.bench(|| Aim::of(&service, &head, &exchange));
}

const SIZES: [usize; 4] = [1, 10, 100, 1000];

#[divan::bench(args = SIZES)]
fn pick_equal(bencher: divan::Bencher, endpoints: usize) {
    let service = service(endpoints, false);
    bencher.bench(|| service.pick(&[]));
}

#[divan::bench(args = SIZES)]
fn pick_weighted(bencher: divan::Bencher, endpoints: usize) {
    let service = service(endpoints, true);
    bencher.bench(|| service.pick(&[]));
}

#[divan::bench(args = SIZES, threads = [2])]
fn pick_two_cores(bencher: divan::Bencher, endpoints: usize) {
    let service = service(endpoints, false);
    bencher.bench(|| service.pick(&[]));
}

#[divan::bench]
fn peer(bencher: divan::Bencher) {
    let service = service(1, false);
    let picked = service.pick(&[]).expect("an endpoint");
    bencher.bench(|| service.peer(&picked.endpoint, None));
}
