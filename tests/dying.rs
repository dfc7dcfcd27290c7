//! Endpoints that are killed, stopped and started again under load, with real servers: what clients notice of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, Gateway, Nginx, eventually};

/// Three of nginx, each of which answers with its port.
fn three() -> [Nginx; 3] {
    [(); 3].map(|()| Nginx::start("location / { return 200 'from $server_port'; }"))
}

fn gateway(endpoints: &[Nginx; 3], service: &str) -> Gateway {
    let ports: Vec<String> = endpoints.iter().map(|nginx| format!("'127.0.0.1:{}'", nginx.port())).collect();
    Gateway::start(&format!(
        "
        listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]
        server: {{ workers: 2 }}
        services: {{ it: {{ endpoints: [ {} ], {service} }} }}
        routes: [ {{ path: /*, service: it }} ]
        ",
        ports.join(", ")
    ))
}

/// What clients saw while something happened.
#[derive(Debug)]
struct Told {
    requests: usize,
    /// What was no 200.
    errors: Vec<(u16, String)>,
    took: Vec<Duration>,
}

/// Clients that ask all the time while `happens`.
fn under_load(gateway: &Gateway, happens: impl FnOnce(&AtomicUsize)) -> Told {
    let (over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (errors, took) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (over, requests, errors, took) = (&over, &requests, &errors, &took);
            scope.spawn(move || {
                let mut client = Client::connect(gateway.port());
                let method = if number % 2 == 0 { "GET" } else { "PUT" };
                while !over.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    let answer = client.request(method, "/", &[], if method == "PUT" { &b"body"[..] } else { b"" });
                    took.lock().unwrap().push(since.elapsed());
                    requests.fetch_add(1, Ordering::Relaxed);
                    if answer.status != 200 {
                        errors.lock().unwrap().push((answer.status, answer.text()));
                    }
                }
            });
        }
        // They end also where it panics.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&over);
        happens(&requests);
    });
    Told { requests: requests.into_inner(), errors: errors.into_inner().unwrap(), took: took.into_inner().unwrap() }
}

/// Waits until so many more requests were answered.
fn pass(requests: &AtomicUsize, more: usize) {
    let until = requests.load(Ordering::Relaxed) + more;
    eventually("requests go on", || requests.load(Ordering::Relaxed) >= until);
}

fn lines(nginx: &Nginx) -> usize {
    nginx.access_log().lines().count()
}

#[test]
fn an_endpoint_that_is_killed_and_started_again_costs_no_client_an_error() {
    let mut endpoints = three();
    let service = "retries: { attempts: 2, on: [ connect, refused, reset ], budget: { min_per_second: 1000 } }, outlier_detection: { \
                   consecutive_connect_failures: 3, base_ejection: 1s }";
    let gateway = gateway(&endpoints, service);
    let told = under_load(&gateway, |requests| {
        for _ in 0..3 {
            pass(requests, 300);
            endpoints[1].kill();
            pass(requests, 600);
            endpoints[1].back();
            let before = lines(&endpoints[1]);
            eventually("it is asked again", || lines(&endpoints[1]) > before + 20);
        }
    });
    assert!(told.errors.is_empty(), "{} of {}: {:?}", told.errors.len(), told.requests, &told.errors[..told.errors.len().min(5)]);
}

#[test]
fn an_endpoint_that_stops_holds_up_a_few_and_fails_nobody() {
    let endpoints = three();
    let service = "timeouts: { try: 300ms }, outlier_detection: { consecutive_local_errors: 3, base_ejection: 1s }, retries: { attempts: 2, on: \
                   [ connect, refused, reset, timeout ] }";
    let gateway = gateway(&endpoints, service);
    let told = under_load(&gateway, |requests| {
        pass(requests, 300);
        endpoints[1].signal("STOP");
        eventually("it is left out", || gateway.admin_get("/upstreams").1.contains("\"ejected\""));
        pass(requests, 1500);
        endpoints[1].signal("CONT");
        let before = lines(&endpoints[1]);
        eventually("it is asked again", || lines(&endpoints[1]) > before + 20);
    });
    assert!(told.errors.is_empty(), "{} of {}: {:?}", told.errors.len(), told.requests, &told.errors[..told.errors.len().min(5)]);
    // Those that found it before it was left out, and those that tried it again.
    let held_up = told.took.iter().filter(|took| **took >= Duration::from_millis(300)).count();
    eprintln!("{held_up} of {} were held up", told.requests);
    assert!(held_up > 0 && held_up * 20 < told.requests, "{held_up} of {}", told.requests);
}
