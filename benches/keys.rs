//! What an API key costs: one decision, by how many keys there are.
//!
//! `cargo bench --bench keys`. Compare within one run only. `plain_map` is the yardstick: the key's text, found in a plain `HashMap` of
//! the same size. Instructions of a decision: run it under callgrind with `--sample-count 1` and two values of `--sample-size`; the
//! difference of the counts by the difference of the sizes. First of all it prints the memory that 100,000 keys take.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use portcullis::consumers::KeyDigest;
use portcullis::consumers::issued::{IssuedKey, IssuedKeys};
use portcullis::consumers::{ConsumerConfig, Consumers};
use portcullis::problem::Problems;

const SIZES: [usize; 2] = [1, 100_000];

fn main() {
    memory();
    divan::main();
}

/// As long as real ones: 55 bytes.
fn text(number: usize) -> String {
    format!("pk_{number:08}_{:043}", number.wrapping_mul(2_654_435_761))
}

fn consumers(json: serde_json::Value, issued: Option<Arc<IssuedKeys>>) -> Consumers {
    let configs: Vec<ConsumerConfig> = serde_json::from_value(json).unwrap();
    Consumers::compile(&configs, portcullis::policy::authn::METHODS, std::path::Path::new("."), &mut Problems::default())
        .with_issued(issued)
}

fn issued(count: usize) -> Arc<IssuedKeys> {
    let keys = Arc::new(IssuedKeys::default());
    let key = |number| (KeyDigest::of(text(number).as_bytes()), IssuedKey::new(&format!("{number:08}"), "acme", None, None));
    keys.replace((0..count).map(key));
    keys
}

fn with_issued(count: usize) -> Consumers {
    consumers(serde_json::json!([{ "name": "acme", "scopes": ["read"] }]), Some(issued(count)))
}

/// Texts in an order that no cache foresees.
fn shuffled(count: usize) -> Vec<String> {
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % count
    };
    (0..count.max(1024)).map(|_| text(next())).collect()
}

fn run(bencher: Bencher, count: usize, mut look: impl FnMut(&[u8]) -> bool) {
    let texts = shuffled(count);
    // What is made at a key's first use is made.
    texts.iter().for_each(|text| assert!(look(text.as_bytes())));
    let mut texts = texts.iter().cycle();
    bencher.bench_local(|| look(black_box(texts.next().unwrap().as_bytes())));
}

/// A key that the admin API issued.
#[divan::bench(args = SIZES)]
fn issued_key(bencher: Bencher, count: usize) {
    let consumers = with_issued(count);
    run(bencher, count, |key| consumers.by_key(key, 1).is_ok());
}

/// A key of the configuration.
#[divan::bench(args = SIZES)]
fn configured_key(bencher: Bencher, count: usize) {
    let hashes: Vec<_> =
        (0..count).map(|number| serde_json::json!({ "hash": KeyDigest::of(text(number).as_bytes()).to_string() })).collect();
    let consumers = consumers(serde_json::json!([{ "name": "acme", "scopes": ["read"], "api_keys": hashes }]), None);
    run(bencher, count, |key| consumers.by_key(key, 1).is_ok());
}

/// The yardstick.
#[divan::bench(args = SIZES)]
fn plain_map(bencher: Bencher, count: usize) {
    let map: HashMap<Vec<u8>, Arc<str>> = (0..count).map(|number| (text(number).into_bytes(), "acme".into())).collect();
    run(bencher, count, |key| map.get(key).is_some_and(|who| Arc::strong_count(&who.clone()) > 0));
}

/// The digest alone.
#[divan::bench]
fn sha256(bencher: Bencher) {
    let key = text(7);
    bencher.bench_local(|| KeyDigest::of(black_box(key.as_bytes())));
}

/// A guess.
#[divan::bench(args = SIZES)]
fn unknown_key(bencher: Bencher, count: usize) {
    let consumers = with_issued(count);
    let key = text(usize::MAX / 2);
    bencher.bench_local(|| consumers.by_key(black_box(key.as_bytes()), 1).is_err());
}

fn memory() {
    const KEYS: usize = 100_000;
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
    };
    let before = resident();
    let keys = with_issued(KEYS);
    let table = resident() - before;
    (0..KEYS).for_each(|number| assert!(keys.by_key(text(number).as_bytes(), 1).is_ok()));
    let used = resident() - before;
    println!("memory per key: {} bytes, {} once it was used", table / KEYS, used / KEYS);
}
