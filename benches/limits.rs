//! What a limit costs: one decision, by how many clients are remembered, and with several threads at once.
//!
//! `cargo bench --bench limits`. Compare within one run only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::Bencher;
use portcullis::policy::admit::{Gcra, Key, Meter, Moment, Rule, Store};

fn main() {
    divan::main();
}

fn meter(count: u64, max_keys: usize) -> Meter {
    Meter::new(Arc::new(Store::new(max_keys)), Rule::TokenBucket(Gcra::new(count, Duration::from_secs(1), None).unwrap()))
}

fn address(number: u64) -> Key {
    Key::address(IpAddr::V4(Ipv4Addr::from_bits(number as u32)))
}

/// The arithmetic alone.
#[divan::bench]
fn decide(bencher: Bencher) {
    let gcra = Gcra::new(1_000_000, Duration::from_secs(1), None).unwrap();
    let (mut tat, mut now) = (Moment::ZERO, 0);
    bencher.bench_local(|| {
        now += 500;
        if let Some(new) = gcra.admit(black_box(tat), now, 1) {
            tat = new;
        }
        gcra.quota(tat, now, 1)
    });
}

/// One client over and over, admitted or refused.
#[divan::bench(args = [10, 1_000_000_000])]
fn one_client(bencher: Bencher, count: u64) {
    let meter = meter(count, 1_000_000);
    let mut now = 0;
    bencher.bench_local(|| {
        now += 100;
        meter.take(black_box(address(1)), 1, now)
    });
}

/// Clients at random, all remembered.
#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn known_clients(bencher: Bencher, clients: u64) {
    let meter = meter(1, 1_000_000);
    for client in 0..clients {
        meter.take(address(client), 1, 0);
    }
    let mut random = 1u64;
    bencher.bench_local(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        meter.take(address((random >> 33) % clients), 1, 1)
    });
}

/// Every request from a new client, in a full store.
#[divan::bench]
fn flood_of_new_clients(bencher: Bencher) {
    let meter = meter(1, 100_000);
    let mut client = 0;
    bencher.bench_local(|| {
        client += 1;
        meter.take(address(client), 1, 0)
    });
}

/// Several threads, each with clients of its own.
#[divan::bench(threads = [1, 2, 4])]
fn threads_apart(bencher: Bencher) {
    let meter = meter(1_000_000_000, 1_000_000);
    let next = AtomicU64::new(0);
    bencher.with_inputs(|| address(next.fetch_add(1, Ordering::Relaxed) % 10_000)).bench_values(|key| meter.take(key, 1, 1));
}

/// Several threads, one bucket: the worst case, `by: route`.
#[divan::bench(threads = [1, 2, 4])]
fn threads_together(bencher: Bencher) {
    let meter = meter(1_000_000_000, 1);
    bencher.bench(|| meter.take(black_box(Key::ALL), 1, 1));
}

/// A text that fits into the key, and one that is hashed.
#[divan::bench(args = ["acme-mobile", "tenant-0123456789abcdef0123456789abcdef"])]
fn text_key(text: &str) -> Key {
    Key::text(black_box(text).as_bytes())
}
