//! What it costs to start with 10,000 routes. The claim: `check`, and `run` up to the first answer, each take at most three times as
//! long as only parsing the file, measured in the same run.
//!
//! The three take turns, and the shortest of several turns counts: whatever else the machine does can only make a turn longer.
//! Parsing is timed inside this process, without reading the file; the two commands are timed from outside, with the start of their
//! process and everything else. On a machine that does other things as well, look at the processor time instead, which is beside it.
//!
//! `cargo bench --bench startup`, or with another number of routes: `cargo bench --bench startup -- 100000`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use portcullis::node;
use portcullis::problem::Problems;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUTES: usize = 10_000;
const TURNS: usize = 7;
const BOUND: f64 = 3.0;
const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

fn main() -> ExitCode {
    let count = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(ROUTES);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut good = true;
    for (what, style) in [("as short as routes can be", Style::Plain), ("with methods, hosts and policies", Style::Rich)] {
        let (port, admin) = (free_port(), free_port());
        let text = generate(count, style, port, admin);
        let file = folder.path().join("routes.yaml");
        std::fs::write(&file, &text).expect("the file is written");
        let [mut parsing, mut checking, mut starting] = [Cost::NONE; 3];
        for _ in 0..TURNS {
            parsing.add(|| parse(&text));
            checking.add(|| check(&file));
            starting.add(|| start(&file, port));
        }
        println!("{count} routes, {what} ({} KiB)", text.len() / 1024);
        for (name, cost) in [("parse", parsing), ("check", checking), ("run, up to the first answer", starting)] {
            let (wall, processor) = (cost.shortest / parsing.shortest, cost.processor / parsing.processor);
            println!("  {name:<28} {:>8.1} ms, {wall:.2} of parse; processor: {processor:.2} of parse", cost.shortest * 1e3);
            good &= wall <= BOUND;
        }
    }
    if good {
        return ExitCode::SUCCESS;
    }
    println!("more than {BOUND} times as long as parsing");
    ExitCode::FAILURE
}

/// In seconds.
#[derive(Clone, Copy)]
struct Cost {
    shortest: f64,
    /// Of all turns together: the kernel tells it in hundredths of a second.
    processor: f64,
}

impl Cost {
    const NONE: Cost = Cost { shortest: f64::INFINITY, processor: 0.0 };

    fn add(&mut self, work: impl FnOnce() -> Duration) {
        let before = processor_time();
        self.shortest = self.shortest.min(work().as_secs_f64());
        self.processor += processor_time() - before;
    }
}

/// Of this process and of its children that have ended (proc(5): `utime`, `stime`, `cutime`, `cstime`).
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn parse(text: &str) -> Duration {
    let mut problems = Problems::default();
    let began = Instant::now();
    let root = node::parse(text, &|_| None, &mut problems);
    let took = began.elapsed();
    assert!(root.is_some() && !problems.has_errors(), "the file parses");
    took
}

fn check(file: &Path) -> Duration {
    let began = Instant::now();
    let output = Command::new(PROGRAM).arg("check").arg(file).output().expect("the program runs");
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    took
}

fn start(file: &Path, port: u16) -> Duration {
    let began = Instant::now();
    let mut child = Command::new(PROGRAM)
        .args(["run", "-c"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    while !answers(port) {
        assert!(child.try_wait().expect("a child").is_none() && began.elapsed() < Duration::from_secs(120), "it serves");
        std::thread::sleep(Duration::from_micros(500));
    }
    let took = began.elapsed();
    child.kill().expect("it can be ended");
    child.wait().expect("it ends");
    took
}

/// The first answer: that there is no such route, for the backends do not exist. It has passed the whole routing table.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 12];
    let asked = stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 404"
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Rich,
}

fn generate(count: usize, style: Style, port: u16, admin: u16) -> String {
    let mut text = format!(
        "listeners:\n  - bind: 127.0.0.1:{port}\nadmin:\n  bind: 127.0.0.1:{admin}\naccess_log:\n  output: false\nservices:\n"
    );
    for service in 0..100 {
        let _ = writeln!(text, "  service-{service}:\n    endpoints: [10.0.0.1:{}, 10.0.0.2:{}]", 9000 + service, 9000 + service);
    }
    text.push_str("routes:\n");
    for route in 0..count {
        let service = route % 100;
        match style {
            Style::Plain => {
                let _ = writeln!(text, "  - path: /products/{route}/*\n    service: service-{service}");
            }
            Style::Rich => {
                let _ = writeln!(
                    text,
                    "  - id: route-{route}\n    host: [shop-{service}.example.com, '*.shop-{service}.example.com']\n    path: \
                     /v1/things-{route}/{{id}}/parts/{{part}}\n    methods: [GET, POST]\n    service: service-{service}\n    rewrite: \
                     /things/{{id}}/{{part}}\n    policies:\n      bounds: {{ max_body: 64KiB }}\n      rate_limit: {{ by: client_address, \
                     limit: 1000/minute }}\n      request_headers: {{ set: {{ X-Route: '{route}' }} }}"
                );
            }
        }
    }
    text
}
