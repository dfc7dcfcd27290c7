//! What a limit costs: one decision, by how many clients are remembered, and with several threads at once.
//!
//! `cargo bench --bench limits`. Compare within one run only: `known_clients` beside `a_plain_hash_map` of the same size.
//!
//! Instructions per decision, whatever else the machine does: the difference of two runs such as
//! `COUNT=1000000:200000` and `COUNT=1000000:400000` (clients:decisions) under `valgrind --tool=callgrind`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::Bencher;
use portcullis::limits::{Gcra, Key, Meter, Moment, Rule, Store, Window};

fn main() {
    match std::env::var("COUNT").ok().and_then(|count| {
        let (clients, decisions) = count.split_once(':')?;
        Some((clients.parse().ok()?, decisions.parse().ok()?))
    }) {
        Some((clients, decisions)) => decide_for_counting(clients, decisions),
        None => divan::main(),
    }
}

/// Nothing but decisions about clients at random, once all are known.
fn decide_for_counting(clients: u64, decisions: u64) {
    let meter = meter(2, 1_000_000);
    (0..clients).for_each(|client| {
        meter.take(address(client), 1, 0);
    });
    let mut random = Random(1);
    for _ in 0..decisions {
        black_box(meter.take(address(random.below(clients)), 1, 1));
    }
}

/// Knuth's generator: a multiplication and an addition, so that it does not count.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
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
#[divan::bench(args = [1, 1_000, 100_000, 1_000_000])]
fn known_clients(bencher: Bencher, clients: u64) {
    let meter = meter(1, 1_000_000);
    know(&meter, clients);
    let mut random = Random(1);
    bencher.bench_local(|| meter.take(address(random.below(clients)), 1, 1));
}

/// Twice, so that no table is still on the move to another size.
fn know(meter: &Meter, clients: u64) {
    for client in (0..clients).chain(0..clients) {
        meter.take(address(client), 1, 0);
    }
}

/// The same in a sliding window.
#[divan::bench(args = [1, 1_000_000])]
fn known_clients_in_a_window(bencher: Bencher, clients: u64) {
    let meter =
        Meter::new(Arc::new(Store::new(1_000_000)), Rule::SlidingWindow(Window::new(1_000, Duration::from_secs(1)).unwrap()));
    know(&meter, clients);
    let mut random = Random(1);
    bencher.bench_local(|| meter.take(address(random.below(clients)), 1, 1));
}

/// What finding a client in a library's map costs, without any lock, bound or decision.
#[divan::bench(args = [1, 1_000, 100_000, 1_000_000])]
fn a_plain_hash_map(bencher: Bencher, clients: u64) {
    let mut map: HashMap<Key, (u64, u32), ahash::RandomState> = (0..clients).map(|client| (address(client), (1, 1))).collect();
    let mut random = Random(1);
    bencher.bench_local(|| {
        let found = map.get_mut(&black_box(address(random.below(clients))));
        if let Some((ns, part)) = found {
            *ns += 1;
            *part += 1;
        }
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
