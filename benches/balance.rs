//! What it costs to choose an endpoint. The claim: a pick from 1,000 endpoints costs about what a pick from 1 does, next to the
//! tens of microseconds of a request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use portcullis::ledger::Ledger;
use portcullis::problem::{Place, Problems};
use portcullis::upstream::{Service, ServiceConfig};

fn main() {
    divan::main();
}

fn service(endpoints: usize, weighted: bool) -> Arc<Service> {
    let list: Vec<String> = (1..=endpoints)
        .map(|port| format!("{{ address: '10.0.0.1:{port}', weight: {} }}", if weighted { 1 + port % 100 } else { 1 }))
        .collect();
    let config: ServiceConfig = serde_yaml::from_str(&format!("endpoints: [{}]", list.join(", "))).expect("valid YAML");
    Service::compile("bench", Place::NOWHERE, &config, Path::new(""), &mut Problems::default(), &Ledger::default())
        .expect("a valid service")
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
