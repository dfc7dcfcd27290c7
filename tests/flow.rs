//! May it now, and if not, when? Requests that wait their turn, places that are limited, and load that is shed.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::harness::*;

/// What a backend of these tests answers.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request without waiting for its answer.
fn sent(port: u16, method: &str, target: &str) -> Client {
    let mut client = Client::connect(port);
    client.send_request(method, target, &[], b"");
    client
}

#[test]
fn twenty_at_once_leave_one_by_one() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let seen = starts.clone();
    let backend = Backend::answering(move |request| {
        seen.lock().unwrap().push((Instant::now(), request.target.clone()));
        OK.to_vec()
    });
    // The line is one for all workers.
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 2 }
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { throttle: { by: route, rate: 10/s, burst: 0 } } }
          - { path: /warm, service: 127.0.0.1, port: $BACKEND }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    assert_eq!(get(gateway.port(), "/warm").status, 200);
    starts.lock().unwrap().clear();
    let began = Instant::now();
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(sent(gateway.port(), "GET", &format!("/{number}")));
        // With the backend, or in line, before the next one comes: that is what makes an order of arrival.
        eventually("the first is with the backend", || !starts.lock().unwrap().is_empty());
        gateway.wait_metric("portcullis_throttle_delayed_total{scope=\"route:/*\"}", f64::from(number));
    }
    assert!(clients.iter_mut().all(|client| client.answer_to("GET").status == 200), "none is refused");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1880) && took <= Duration::from_secs(5), "{took:?}");
    let starts = starts.lock().unwrap();
    let order: Vec<_> = starts.iter().map(|(_, target)| target.clone()).collect();
    assert_eq!(order, (0..20).map(|number| format!("/{number}")).collect::<Vec<_>>());
    // The backend's own thread may see a request late, and the one after it not: that much may a window seem shorter than it was.
    let noise = Duration::from_millis(60);
    for (from, (first, _)) in starts.iter().enumerate() {
        for (turns, (later, _)) in (1u32..).zip(&starts[from + 1..]) {
            assert!(*later - *first + noise >= Duration::from_millis(100) * turns, "{turns} turns in {:?}", *later - *first);
        }
    }
}

#[test]
fn who_goes_away_leaves_the_line_at_once() {
    let backend = Backend::answering(|_| OK.to_vec());
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        routes:
          - { path: /*, service: 127.0.0.1, port: $BACKEND, policies: { throttle: { rate: 20/minute, max_delay: 30s } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let waiting = "portcullis_throttle_waiting{scope=\"route:/*\"}";
    let began = Instant::now();
    assert_eq!(get(gateway.port(), "/0").status, 200);
    let first = sent(gateway.port(), "GET", "/1");
    gateway.wait_metric(waiting, 1.0);
    // One that has not even sent all of its body.
    let mut second = Client::connect(gateway.port());
    second.send("POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun");
    gateway.wait_metric(waiting, 2.0);
    let mut third = sent(gateway.port(), "GET", "/3");
    gateway.wait_metric(waiting, 3.0);
    first.reset();
    // What it has begun to send will never be whole.
    drop(second);
    gateway.wait_metric(waiting, 1.0);
    assert_eq!(third.answer_to("GET").status, 200);
    assert!(began.elapsed() < Duration::from_secs(9), "it moved up to the first turn: {:?}", began.elapsed());
    let targets: Vec<_> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/0", "/3"]);
    assert_eq!(gateway.wait_log(|line| line["path"] == "/1")["status"], 499);
}

/// A backend that answers once it is told to.
#[derive(Default)]
struct Latch(Mutex<bool>, Condvar);

impl Latch {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.lock().unwrap();
        let (open, _) = self.1.wait_timeout_while(open, Duration::from_secs(30), |open| !*open).unwrap();
        assert!(*open);
    }
}

#[test]
fn only_so_many_are_under_way_at_once() {
    let latch = Arc::new(Latch::default());
    let waits = latch.clone();
    let backend = Backend::answering(move |request| {
        if request.target.starts_with("/slow") {
            waits.wait();
        }
        OK.to_vec()
    });
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        policies: { concurrency_limit: { limit: 2 } }
        routes:
          - { path: /slow, service: 127.0.0.1, port: $BACKEND }
          - { path: /patient, service: 127.0.0.1, port: $BACKEND, policies: { concurrency_limit: { by: route, limit: 1, max_wait: 20s } } }
          - { path: /slow/patient, service: 127.0.0.1, port: $BACKEND, policies: { concurrency_limit: { by: route, limit: 1, max_wait: 20s } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let mut one = sent(gateway.port(), "GET", "/slow");
    let two = sent(gateway.port(), "GET", "/slow");
    eventually("both are with the backend", || backend.requests().len() == 2);
    let refused = get(gateway.port(), "/slow");
    refused.assert_problem(429, "concurrency_limit", "too_many_concurrent");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let line = gateway.wait_log(|line| line["status"] == 429);
    assert_eq!(line["decided_by"], "global", "{line}");
    // A client that goes away gives its place back.
    two.reset();
    gateway.wait_log(|line| line["status"] == 499);
    let mut three = sent(gateway.port(), "GET", "/slow");
    eventually("the third is with the backend", || backend.requests().len() == 3);
    get(gateway.port(), "/slow").assert_problem(429, "concurrency_limit", "too_many_concurrent");
    // With patience, one more waits for the place, and gets it.
    let mut holds = sent(gateway.port(), "GET", "/slow/patient");
    eventually("the patient route is busy", || backend.requests().len() == 4);
    let mut waits = sent(gateway.port(), "GET", "/slow/patient");
    gateway.wait_metric("portcullis_concurrency_waiting{scope=\"route:/slow/patient\"}", 1.0);
    latch.open();
    for client in [&mut one, &mut three, &mut holds, &mut waits] {
        assert_eq!(client.answer_to("GET").status, 200);
    }
    assert_eq!((0..5).filter(|_| get(gateway.port(), "/slow").status == 200).count(), 5);
}

/// How a crowd fared: answers and refusals, and the slowest of the best 95 of 100 answers.
struct Fared {
    answered: usize,
    refused: usize,
    slow: Duration,
}

/// A crowd that asks for a while. Who is refused comes back a little later.
fn crowd(port: u16, path: &str, clients: usize, time: Duration) -> Fared {
    let until = Instant::now() + time;
    let ask = move |path: String| {
        let (mut client, mut times, mut refused) = (Client::connect(port), Vec::new(), 0);
        while Instant::now() < until {
            let since = Instant::now();
            match client.get(&path).status {
                200 => times.push(since.elapsed()),
                503 => {
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => panic!("{other}"),
            }
        }
        (times, refused)
    };
    let crowd: Vec<_> = (0..clients)
        .map(|_| {
            std::thread::spawn({
                let path = path.to_owned();
                move || ask(path)
            })
        })
        .collect();
    let (times, refused): (Vec<_>, Vec<usize>) = crowd.into_iter().map(|one| one.join().unwrap()).unzip();
    let mut times: Vec<_> = times.into_iter().flatten().collect();
    times.sort_unstable();
    // Of a crowd that was turned away to the last nobody was slow.
    let slow = times.get(times.len() * 95 / 100).copied().unwrap_or_default();
    Fared { answered: times.len(), refused: refused.iter().sum(), slow }
}

/// A backend that works on so many requests at a time, 20 ms on each, and lets the others wait.
fn limited_backend(places: usize) -> Backend {
    let free = Arc::new((Mutex::new(places), Condvar::new()));
    Backend::answering(move |_| {
        let (count, changed) = &*free;
        *changed.wait_while(count.lock().unwrap(), |free| *free == 0).unwrap() -= 1;
        std::thread::sleep(Duration::from_millis(20));
        *count.lock().unwrap() += 1;
        changed.notify_one();
        OK.to_vec()
    })
}

#[test]
fn a_service_is_not_asked_for_more_than_it_can_do() {
    let (backend, other) = (limited_backend(4), limited_backend(4));
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        consumers:
          - { name: free, plan: free, api_keys: [ { hash: $FREE } ] }
        services:
          found: { endpoints: [ '127.0.0.1:$BACKEND' ], policies: { adaptive_concurrency: { initial: 8 } } }
          open: { endpoints: [ '127.0.0.1:$OTHER' ] }
        routes:
          - { path: /found, service: found }
          - { path: /batch, service: found, policies: { priority: { default: low } } }
          - { path: /open, service: open }
        ";
    let hash = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let ports = [("$BACKEND", backend.port()), ("$OTHER", other.port())];
    let gateway = Gateway::start(&filled(&yaml.replace("$FREE", hash), &ports));
    // The first request makes the connection, which would count as the service's time.
    for path in ["/open", "/found"] {
        assert_eq!(get(gateway.port(), path).status, 200);
    }
    let time = Duration::from_secs(3);
    // At the same time, each with a backend of its own: whatever else the machine does slows down both.
    let port = gateway.port();
    let open = std::thread::spawn(move || crowd(port, "/open", 48, time));
    let found = crowd(gateway.port(), "/found", 48, time);
    let open = open.join().unwrap();
    assert!(found.refused > 0 && open.refused == 0);
    // The first second, in which the limit is found, counts as well.
    assert!(found.slow * 5 < open.slow * 4, "{:?} with a limit, {:?} without", found.slow, open.slow);
    assert!(found.answered * 10 > open.answered * 6, "{} with a limit, {} without", found.answered, open.answered);
    let limit = gateway.metric("portcullis_adaptive_concurrency_limit{scope=\"service:found\",service=\"found\"}");
    assert!((4.0..=24.0).contains(&limit), "{limit}");
    // Of two crowds the one that matters less is turned away more often.
    let port = gateway.port();
    let batch = std::thread::spawn(move || crowd(port, "/batch", 24, time));
    let normal = crowd(port, "/found", 24, time);
    let batch = batch.join().unwrap();
    assert!(normal.answered > batch.answered, "{} of normal priority, {} of low", normal.answered, batch.answered);
    assert!(
        gateway.metric("portcullis_adaptive_concurrency_shed_total{priority=\"low\",scope=\"service:found\",service=\"found\"}")
            > 0.0
    );
    gateway.wait_metric("portcullis_adaptive_concurrency_in_flight{scope=\"service:found\",service=\"found\"}", 0.0);
}

#[test]
fn a_rehearsal_only_counts() {
    let backend = Backend::answering(|_| OK.to_vec());
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        routes:
          - path: /*
            service: 127.0.0.1
            port: $BACKEND
            policies: { throttle: { rate: 1/minute, max_delay: 2m, dry_run: true } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    assert!((0..5).all(|_| get(gateway.port(), "/").status == 200));
    gateway.wait_metric("portcullis_throttle_dry_run_total{scope=\"route:/*\",would=\"delay\"}", 2.0);
    gateway.wait_metric("portcullis_throttle_dry_run_total{scope=\"route:/*\",would=\"refuse\"}", 2.0);
}

#[test]
fn what_is_wrong_with_a_line_is_said_with_its_place() {
    let files = Files::new();
    let yaml = "
listeners: [ { bind: 127.0.0.1:1 } ]
routes:
  - path: /*
    service: a
    port: 1
    policies:
      throttle: { rate: 1/s, max_delay: 1d, max_que: 3 }
      concurrency_limit: { limit: 0 }
      adaptive_concurrency: { tolerance: 0.5 }
      priority: urgent
";
    files.write("gateway.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    for expected in [":8:", "max_que", ":9:", "`limit` is from 1", ":10:", "`tolerance` is from 1.1", ":11:"] {
        assert!(said.contains(expected), "{expected} in {}", said);
    }
}
