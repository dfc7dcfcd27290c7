//! What watching costs a request: run with `cargo bench --bench observe`, compare within one run.
//!
//! `logged` is a whole access log line; `metrics` is what a request counts. The others are the plain ways of doing the same, for
//! comparison: a line per channel message, and counters that all threads share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, SystemTime};

use divan::{Bencher, black_box};
use http::Method;
use portcullis::observe::access_log::{AccessLog, Settings, Target};
use portcullis::observe::record::Record;
use portcullis::observe::{Metrics, RouteMetrics};

const THREADS: [usize; 3] = [1, 2, 4];

fn main() {
    divan::main();
}

fn record() -> Record<'static> {
    Record {
        time: SystemTime::now(),
        request_id: b"0192f3a1-7c5e-7d10-a4b3-1f5d8e9c0b7a",
        trace_id: b"4bf92f3577b34da6a3ce929d0e0e4736",
        client: Some([203, 0, 113, 9].into()),
        peer: Some(([192, 0, 2, 1], 40000).into()),
        listener: "public",
        protocol: "h1",
        tls: "TLSv1.3",
        host: b"shop.example",
        method: b"GET",
        path: b"/api/products/4711",
        route: "shop.example/api/products/{sku}",
        service: "catalog-service",
        endpoint: Some(([10, 0, 0, 1], 9001).into()),
        status: 200,
        answered_by: "upstream",
        bytes_out: 1234,
        duration: Duration::from_micros(1234),
        upstream: Some(Duration::from_micros(1100)),
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        generation: 1,
        ..Record::default()
    }
}

static LOG: LazyLock<Arc<AccessLog>> = LazyLock::new(|| {
    let log = AccessLog::start().unwrap();
    log.apply(&Settings { target: Target::File("/dev/null".into()), queue: 1 << 20, query: false, refusals: None }).unwrap();
    log
});

// Small samples: a request thread is not at logging alone, and the writer thread gets its turns.
#[divan::bench(threads = THREADS, sample_size = 50, sample_count = 2000)]
fn logged(bencher: Bencher<'_, '_>) {
    bencher.bench(|| LOG.write(black_box(&record())));
}

static CHANNEL: LazyLock<mpsc::SyncSender<Vec<u8>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(8192);
    std::thread::spawn(move || receiver.iter().for_each(|line| drop(black_box(line))));
    sender
});

/// Only the hand-over: a ready line of the same length.
#[divan::bench(threads = THREADS, sample_size = 2000)]
fn channel_message_per_line(bencher: Bencher<'_, '_>) {
    bencher.bench(|| CHANNEL.try_send(black_box(vec![b'x'; 600])).is_ok());
}

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Metrics::new("0", &[]));
static ROUTE: LazyLock<Arc<RouteMetrics>> = LazyLock::new(|| METRICS.route("/api/*"));

#[divan::bench(threads = THREADS, sample_size = 2000)]
fn metrics(bencher: Bencher<'_, '_>) {
    bencher.bench(|| ROUTE.observe(black_box(&Method::GET), black_box(200), black_box(Duration::from_micros(1234)), 10, 1000));
}

static SHARED: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// The same five additions, to cells that all threads share.
#[divan::bench(threads = THREADS, sample_size = 2000)]
fn metrics_in_shared_cells(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        SHARED.iter().for_each(|cell| {
            black_box(cell.fetch_add(black_box(1), Ordering::Relaxed));
        })
    });
}

#[divan::bench(threads = THREADS, sample_size = 2000)]
fn refusal(bencher: Bencher<'_, '_>) {
    bencher.bench(|| METRICS.refusal(black_box("jwt"), black_box("token_expired")));
}
