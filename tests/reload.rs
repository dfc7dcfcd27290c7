//! Reloading, by HUP and by the admin API: everything or nothing, and nobody notices but those who should.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Client, Files, Gateway, Nginx, Port, curl, eventually, get, request};
use crate::peers::{Act, Origin, Wrk, answer};

/// A file whose routes, headers and limits depend on its letter; `/always` is in all of them.
fn letter(letter: &str, port: u16) -> String {
    let (limit, queue) = if letter == "a" { ("900000/s", 4096) } else { ("800000/s", 8192) };
    let header = format!("      response_headers: {{ set: {{ X-Generation: {letter} }} }}\n");
    let mut yaml = format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\n    limits: {{ headers: {} }}\nserver:\n  workers: 2\nservices:\n  backend:\n    \
         endpoints: [127.0.0.1:{port}]\n    keep_alive: {}\naccess_log:\n  output: {{ file: access.log }}\n  queue: {queue}\nroutes:\n",
        if letter == "a" { 50 } else { 60 },
        if letter == "a" { 64 } else { 128 },
    );
    yaml.push_str(&format!(
        "  - path: /always\n    service: backend\n    policies:\n      rate_limit: {{ limit: {limit}, by: route }}\n{header}"
    ));
    yaml.push_str(&format!("  - path: /only-{letter}\n    service: backend\n    policies:\n{header}"));
    for number in 0..20 {
        yaml.push_str(&format!("  - path: /{letter}/{number}/*\n    service: backend\n"));
    }
    yaml
}

#[test]
fn reloading_all_the_time_under_load_fails_no_request() {
    let nginx = Nginx::start("location / { return 200 'fine'; }");
    let gateway = Gateway::start(&letter("a", nginx.port()));
    let mut wrk = Wrk::start(gateway.port(), "/always", 20, 8);
    let (mut reloads, mut hups) = (0, 0);
    let mut next = Instant::now();
    while wrk.is_running() {
        let (now, other) = if reloads % 2 == 0 { ("b", "a") } else { ("a", "b") };
        gateway.rewrite(&letter(now, nginx.port()));
        if reloads % 5 == 4 {
            let generation = gateway.metric("portcullis_config_generation");
            gateway.signal("HUP");
            eventually("HUP reloads", || gateway.metric("portcullis_config_generation") > generation);
            hups += 1;
        } else {
            let (status, told) = gateway.reload();
            assert_eq!(status, 200, "{told}");
        }
        reloads += 1;
        // The new routes are there at once, and the old ones are gone.
        assert_eq!(get(gateway.port(), &format!("/only-{now}")).header("x-generation"), Some(now));
        assert_eq!(get(gateway.port(), &format!("/only-{other}")).status, 404);
        next += Duration::from_millis(100);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let load = wrk.finish();
    assert!(load.failures.is_empty(), "{load:?} with {reloads} reloads");
    assert!(load.requests > 500, "{load:?}");
    assert!(reloads > 50 && hups > 10, "{reloads} reloads, {hups} of them by HUP");
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"refused\"}"), 0.0);
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"applied\"}"), f64::from(reloads + 1));
    // Counters survive: a reload resets nothing.
    let counted = gateway.metric("portcullis_requests_total{method=\"GET\",route=\"/always\",status_class=\"2xx\"}");
    assert!(counted >= load.requests as f64, "{counted} of {load:?}");
}

#[test]
fn a_request_ends_on_the_generation_that_it_began_with() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = hold.clone();
    let origin = Origin::start(move |asked| {
        while asked.target == "/always" && held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Send(answer(200, &[], "fine"))
    });
    let gateway = Gateway::start(&letter("a", origin.port()));
    let mut old = Client::connect(gateway.port());
    old.send_request("GET", "/always", &[], b"");
    eventually("the backend was asked", || origin.count("/always") == 1);
    gateway.rewrite(&letter("b", origin.port()));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/only-b").header("x-generation"), Some("b"));
    hold.store(false, Ordering::SeqCst);
    let heard = old.answer_to("GET");
    assert_eq!((heard.status, heard.header("x-generation")), (200, Some("a")));
    // The connection's next request is the new generation's.
    assert_eq!(old.get("/always").header("x-generation"), Some("b"));
    let lines: Vec<_> = (1..=2).map(|generation| gateway.wait_log(|line| line["generation"] == generation)).collect();
    assert_eq!((&lines[0]["path"], &lines[1]["status"]), (&"/always".into(), &200.into()));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&letter("a", origin.port()));
    let good = letter("b", origin.port());
    for (bad, word, said) in [
        (good.replace("rate_limit", "rate_limits"), "unknown policy `rate_limits`", "did you mean `rate_limit`?"),
        (good.replace("800000/s", "often"), "often", ""),
        (good.replace("service: backend", "service: bakend"), "bakend", "did you mean `backend`?"),
        (good.replace("routes:", "routes: ["), "", ""),
        (good.replace("listeners:", "listener:"), "listener", ""),
    ] {
        gateway.rewrite(&bad);
        let (status, told) = gateway.reload();
        assert_eq!(status, 422, "{told}");
        let told = told["problems"].to_string();
        assert!(told.contains(word) && told.contains(said), "{told}");
        assert!(told.contains("gateway.yaml:"), "every problem has its place: {told}");
        assert_eq!(get(gateway.port(), "/only-a").header("x-generation"), Some("a"));
        assert_eq!(get(gateway.port(), "/only-b").status, 404);
    }
    assert_eq!(gateway.metric("portcullis_reloads_total{result=\"refused\"}"), 5.0);
    assert_eq!(gateway.metric("portcullis_config_generation"), 1.0);
    gateway.rewrite(&good.replace("rate_limit", "rate_limits"));
    gateway.signal("HUP");
    eventually("the log says why", || gateway.stderr().contains("unknown policy `rate_limits`"));
    assert!(gateway.stderr().contains("the old one goes on serving"));
    assert_eq!(get(gateway.port(), "/only-a").status, 200);
    // And once it is good, it is taken.
    gateway.rewrite(&good);
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/only-b").status, 200);
}

fn on(binds: &[&str], mark: &str, origin: &Origin) -> String {
    let binds: String = binds.iter().map(|bind| format!("  - bind: 127.0.0.1:{bind}\n")).collect();
    format!(
        "listeners:\n{binds}routes:\n  - path: /*\n    service: 127.0.0.1\n    port: {}\n    policies:\n      response_headers: {{ \
         set: {{ X-Mark: {mark} }} }}\n",
        origin.port()
    )
}

fn accepts(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn a_changed_bind_opens_and_closes() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&on(&["$PORT"], "one", &origin));
    let mut kept = Client::connect(gateway.port());
    assert_eq!(kept.get("/").status, 200);
    gateway.rewrite(&on(&["$PORT2", "$PORT3"], "two", &origin));
    let (status, told) = gateway.reload();
    assert_eq!(status, 200, "{told}");
    for port in [gateway.port2(), gateway.port3()] {
        assert_eq!(get(port, "/").header("x-mark"), Some("two"));
    }
    assert!(!accepts(gateway.port()), "the old address is closed");
    // Who is connected there is answered once more, and told to go.
    let last = kept.get("/");
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(kept.is_closed());
    gateway.rewrite(&on(&["$PORT", "$PORT2"], "three", &origin));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/").header("x-mark"), Some("three"));
    assert_eq!(get(gateway.port2(), "/").header("x-mark"), Some("three"));
    assert!(!accepts(gateway.port3()));
}

#[test]
fn a_bind_that_is_taken_refuses_the_whole_file() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&on(&["$PORT"], "one", &origin));
    let lease = Port::lease();
    let taken = TcpListener::bind(("127.0.0.1", lease.number())).unwrap();
    let busy = taken.local_addr().unwrap();
    let port = busy.port().to_string();
    for _ in 0..2 {
        gateway.rewrite(&on(&["$PORT2", &port], "two", &origin));
        let (status, told) = gateway.reload();
        assert_eq!(status, 422, "{told}");
        let problems = told["problems"].to_string();
        assert!(problems.contains(&busy.to_string()) && problems.contains("in use by process"), "{problems}");
        assert_eq!(get(gateway.port(), "/").header("x-mark"), Some("one"), "the rest of the file did not take effect either");
        assert!(!accepts(gateway.port2()), "an address that was free is not kept open for a file that was refused");
    }
    drop(taken);
    let (status, told) = gateway.reload();
    assert_eq!(status, 200, "{told}");
    assert_eq!(get(busy.port(), "/").header("x-mark"), Some("two"));
    assert_eq!(get(gateway.port2(), "/").header("x-mark"), Some("two"));
}

#[test]
fn a_listener_never_shares_the_admin_apis_address() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&on(&["$PORT"], "one", &origin));
    gateway.rewrite(&on(&["$PORT", "$ADMIN"], "two", &origin));
    let (status, told) = gateway.reload();
    assert_eq!(status, 422, "{told}");
    assert!(told["problems"].to_string().contains("the admin API and a listener cannot both be on"), "{told}");
    for _ in 0..10 {
        assert_eq!(get(gateway.admin(), "/readyz").status, 200);
    }
}

#[test]
fn closing_an_address_under_load_loses_no_connection_that_was_accepted() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&on(&["$PORT", "$PORT2"], "one", &origin));
    let failures = Mutex::new(Vec::new());
    let port = gateway.port2();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                use std::io::{Read, Write};
                // Until the address is closed. A connection that was made must be answered.
                while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                    let mut text = String::new();
                    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    let read = asked.and_then(|()| stream.read_to_string(&mut text));
                    if !text.starts_with("HTTP/1.1 200") {
                        failures.lock().unwrap().push(format!("{read:?} {text}"));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        gateway.rewrite(&on(&["$PORT"], "two", &origin));
        assert_eq!(gateway.reload().0, 200);
    });
    let failures = failures.into_inner().unwrap();
    // A handshake that ends in the very moment of the close can only be reset: one moment, and one connection of each client in it.
    assert!(failures.len() <= 4, "{failures:?}");
}

#[test]
fn secrets_rotate() {
    let origin = Origin::named("fine");
    let files = Files::new();
    let secrets = ["old-old-old-old-old-old-old-old-old-old", "new-new-new-new-new-new-new-new-new-new"];
    let file = files.write("jwt.secret", format!("{}\n", secrets[0]).as_bytes());
    let yaml = format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nroutes:\n  - path: /*\n    service: 127.0.0.1\n    port: {}\n    policies:\n      authn: \
         {{ jwt: {{ algorithms: [HS256], keys: [{{ secret: {{ file: jwt.secret }} }}] }} }}\n",
        origin.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let token = |secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let claims = serde_json::json!({ "sub": "alice", "exp": 4_000_000_000u64 });
        format!("Bearer {}", jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap())
    };
    let ask = |secret: &str| request(gateway.port(), "GET", "/", &[("Authorization", &token(secret))], b"").status;
    assert_eq!((ask(secrets[0]), ask(secrets[1])), (200, 401));
    std::fs::write(&file, format!("{}\n", secrets[1])).unwrap();
    assert_eq!((ask(secrets[0]), ask(secrets[1])), (200, 401), "a file is read when it is loaded, not before");
    assert_eq!(gateway.reload().0, 200);
    assert_eq!((ask(secrets[0]), ask(secrets[1])), (401, 200), "not even a remembered token outlives its key");
    std::fs::remove_file(&file).unwrap();
    let (status, told) = gateway.reload();
    assert_eq!(status, 422, "{told}");
    assert_eq!((ask(secrets[0]), ask(secrets[1])), (401, 200), "without its secret a route is not open, it stays as it was");
    assert!(!told.to_string().contains(secrets[1]));
    assert!(!gateway.stderr().contains(secrets[1]));
}

#[test]
fn certificates_rotate() {
    let origin = Origin::named("fine");
    let files = Files::new();
    let (cert, key, first) = files.certificate(&["localhost"]);
    let yaml = format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\n    tls:\n      certificates: [{{ cert: {}, key: {} }}]\nroutes:\n  - path: /*\n    \
         service: 127.0.0.1\n    port: {}\n",
        cert.display(),
        key.display(),
        origin.port()
    );
    let gateway = Gateway::start_in(&files, &yaml);
    let trust = |pem: &str| files.write("trusted.pem", pem.as_bytes()).display().to_string();
    let url = format!("https://localhost:{}/", gateway.port());
    assert_eq!(curl(&["--cacert", &trust(&first), &url]).status, 200);
    let other = Files::new();
    let (new_cert, new_key, second) = other.certificate(&["localhost"]);
    std::fs::copy(new_cert, &cert).unwrap();
    std::fs::copy(new_key, &key).unwrap();
    gateway.signal("HUP");
    eventually("the new certificate is served", || gateway.metric("portcullis_config_generation") == 2.0);
    assert_eq!(curl(&["--cacert", &trust(&second), &url]).status, 200);
    // A certificate without its key changes nothing.
    std::fs::remove_file(&key).unwrap();
    assert_eq!(gateway.reload().0, 422);
    assert_eq!(curl(&["--cacert", &trust(&second), &url]).status, 200);
}

#[test]
fn what_was_counted_is_still_counted() {
    let origin = Origin::named("fine");
    let yaml = |mark: &str| {
        format!(
            "listeners:\n  - bind: 127.0.0.1:$PORT\nroutes:\n  - path: /*\n    service: 127.0.0.1\n    port: {}\n    policies:\n      \
             rate_limit: {{ limit: 3/hour }}\n      response_headers: {{ set: {{ X-Mark: {mark} }} }}\n",
            origin.port()
        )
    };
    let gateway = Gateway::start(&yaml("one"));
    for mark in ["one", "two", "three"] {
        gateway.rewrite(&yaml(mark));
        assert_eq!(gateway.reload().0, 200);
        let answer = get(gateway.port(), "/");
        assert_eq!((answer.status, answer.header("x-mark")), (200, Some(mark)));
    }
    gateway.rewrite(&yaml("four"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(get(gateway.port(), "/").status, 429);
}

#[test]
fn what_takes_an_upgrade_is_said() {
    let origin = Origin::named("fine");
    let yaml = |workers: u8| format!("{}server:\n  workers: {workers}\n", on(&["$PORT"], "one", &origin));
    let gateway = Gateway::start(&yaml(1));
    gateway.rewrite(&yaml(2));
    for _ in 0..2 {
        let (status, told) = gateway.reload();
        assert_eq!(status, 200);
        assert!(told["warnings"].to_string().contains("server.workers"), "every time, as long as it is so: {told}");
    }
    gateway.signal("HUP");
    eventually("the log says it, too", || gateway.stderr().contains("server.workers"));
    gateway.rewrite(&yaml(1));
    let (_, told) = gateway.reload();
    assert!(!told["warnings"].to_string().contains("server.workers"), "{told}");
}

#[test]
fn an_open_connection_obeys_the_new_bounds() {
    let origin = Origin::named("fine");
    let yaml = |uri: &str| on(&[&format!("$PORT\n    limits: {{ uri: {uri} }}")], "one", &origin);
    let gateway = Gateway::start(&yaml("8KiB"));
    let mut kept = Client::connect(gateway.port());
    let long = format!("/{}", "x".repeat(200));
    assert_eq!(kept.get(&long).status, 200);
    gateway.rewrite(&yaml("100"));
    assert_eq!(gateway.reload().0, 200);
    // The head that the connection waits for already is read under the old bounds, the next one under the new.
    kept.get("/");
    assert_eq!(kept.get(&long).status, 414);
}

/// Whoever asks for a reload: the log says who it was and what came of it, and the metrics whether the last one was good.
#[test]
fn every_reload_leaves_its_origin_and_outcome() {
    let origin = Origin::named("fine");
    let gateway = Gateway::start(&letter("a", origin.port()));
    let good = letter("b", origin.port());
    let successful = || gateway.metric("portcullis_config_last_reload_successful");
    let stamp = || gateway.metric("portcullis_config_last_reload_success_timestamp_seconds");
    assert_eq!(successful(), 1.0);
    let started = stamp();
    assert!(started > 1_600_000_000.0, "{started}");
    gateway.rewrite(&good.replace("rate_limit", "rate_limits"));
    assert_eq!(gateway.reload().0, 422);
    let refused = "reload by the admin API by 127.0.0.1:";
    let said = gateway.stderr();
    let line = said.lines().find(|line| line.contains(refused)).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("the configuration was refused") && said.contains("unknown policy `rate_limits`"), "{said}");
    assert_eq!((successful(), stamp()), (0.0, started));
    gateway.signal("HUP");
    eventually("HUP is refused", || gateway.stderr().contains("reload by SIGHUP: the configuration was refused"));
    assert_eq!(successful(), 0.0);
    gateway.rewrite(&good);
    gateway.signal("HUP");
    eventually("HUP is obeyed", || gateway.stderr().contains("reload by SIGHUP: generation 2 serves"));
    eventually("the metrics say so", || successful() == 1.0);
    assert!(stamp() >= started);
    assert_eq!(gateway.reload().0, 200);
    assert!(gateway.stderr().lines().any(|line| line.contains(refused) && line.contains("generation 3 serves")));
}
