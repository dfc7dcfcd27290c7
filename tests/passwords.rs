//! HTTP Basic: slow to check, and yet nobody waits for others' guesses.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::*;

const CONFIG: &str = "
listeners: [ { bind: 127.0.0.1:$PORT } ]
services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
consumers:
  - { name: acme, plan: pro, scopes: [ read ], passwords: [ { username: ada, hash: '$HASH' } ] }
policies: { authn: { basic: {}, realm: shop } }
routes:
  - { path: /any/*, service: a }
  - { path: /open, service: a, policies: { authn: false } }
  - { path: /narrow, service: a, policies: { authn: { basic: { at_once: 1, queue: 1, remember: 0s } } } }
";

/// As an operator would make it.
pub fn hash(password: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut process = command.arg("hash-password").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    let hash = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    hash
}

fn config(backend: &Backend, hash: &str) -> String {
    filled(CONFIG, &[("$BACKEND", backend.port())]).replace("$HASH", hash)
}

pub fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

fn ask(gateway: &Gateway, path: &str, credentials: &str) -> Answer {
    request(gateway.port(), "GET", path, &[("Authorization", &basic(credentials))], b"")
}

#[test]
fn a_password_proves_who_it_is() {
    let backend = Backend::http();
    let hash = hash("pass:wört");
    served(&config(&backend, &hash), |gateway| {
        let start = Instant::now();
        assert_eq!(ask(gateway, "/any/x", "ada:pass:wört").status, 200);
        let first = start.elapsed();
        let seen = backend.last();
        assert_eq!((seen.all("x-consumer-name"), seen.all("x-auth-method")), (vec!["acme"], vec!["basic"]));
        assert!(!seen.head_text().to_lowercase().contains("authorization"));
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(ask(gateway, "/any/x", "ada:pass:wört").status, 200);
        }
        assert!(start.elapsed() / 10 < first, "checked once, then remembered");
        for (credentials, reason) in [
            ("ada:wrong", "wrong_password"),
            ("eve:pass:wört", "wrong_password"),
            (":", "wrong_password"),
            ("ada", "malformed_basic"),
            ("ada:a\u{7}", "malformed_basic"),
        ] {
            let answer = ask(gateway, "/any/x", credentials);
            answer.assert_problem(401, "authn", reason);
            assert_eq!(answer.all("www-authenticate"), ["Basic realm=\"shop\", charset=\"UTF-8\""]);
        }
        let twice = [("Authorization", &*basic("ada:pass:wört")), ("Authorization", "Basic eDp5")];
        request(gateway.port(), "GET", "/any/x", &twice, b"").assert_problem(401, "authn", "ambiguous_credentials");
        let line = gateway.wait_log(|line| line["status"] == 200);
        assert_eq!(line["consumer"], json!("acme"));
        let (_, dumped) = gateway.admin_get("/config");
        for secret in [&*hash, "wört", &basic("ada:pass:wört")[6..]] {
            assert!(!dumped.contains(secret) && !gateway.log_text().contains(secret) && !gateway.stderr().contains(secret));
        }
    });
}

#[test]
fn a_new_hash_ends_the_old_password_at_once() {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(&backend, &hash("old")));
    assert_eq!(ask(&gateway, "/any/x", "ada:old").status, 200);
    gateway.rewrite(&config(&backend, &hash("new")));
    assert_eq!(gateway.reload().0, 200);
    ask(&gateway, "/any/x", "ada:old").assert_problem(401, "authn", "wrong_password");
    assert_eq!(ask(&gateway, "/any/x", "ada:new").status, 200);
}

/// Guesses take their turns; what needs no password does not wait, and what is too much is told so.
#[test]
fn guessing_does_not_stop_the_gateway() {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(&backend, &hash("right")));
    let statuses = std::thread::scope(|scope| {
        let gateway = &gateway;
        let guesses: Vec<_> = (0..12).map(|n| scope.spawn(move || ask(gateway, "/narrow", &format!("ada:guess{n}")))).collect();
        let mut slowest = Duration::ZERO;
        while !guesses.iter().all(|guess| guess.is_finished()) {
            let start = Instant::now();
            assert_eq!(get(gateway.port(), "/open").status, 200);
            slowest = slowest.max(start.elapsed());
        }
        // A check takes tens of milliseconds, twelve in a row far more than this on any machine that runs tests.
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect::<Vec<_>>()
    });
    let busy: Vec<&Answer> = statuses.iter().filter(|answer| answer.status == 503).collect();
    assert!(!busy.is_empty() && busy.len() < 12, "{statuses:?}");
    for answer in busy {
        answer.assert_problem(503, "authn", "password_checks_busy");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(ask(&gateway, "/narrow", "ada:right").status, 200);
}

#[test]
fn a_hash_that_cannot_be_is_told() {
    let files = Files::new();
    for (consumers, told) in [
        ("{ name: a, passwords: [ { hash: secret } ] }", "$argon2id$"),
        ("{ name: a, passwords: [ { hash: '$argon2id$v=19$m=99999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo' } ] }", "256 MiB"),
        ("{ name: a, passwords: [ { username: 'a:b', hash: $GOOD } ] }", "without `:`"),
        ("{ name: a, passwords: [ { hash: $GOOD }, { hash: $GOOD } ] }", "already a password"),
    ] {
        let consumers = consumers.replace("$GOOD", &format!("'{}'", hash("x")));
        files.write("wrong.yaml", format!("listeners: [ {{ bind: 127.0.0.1:1 }} ]\nconsumers: [ {consumers} ]\n"));
        let ran = portcullis(files.dir(), &["check", "wrong.yaml"]);
        assert!(ran.code == 1 && ran.stderr.contains(told), "{consumers}: {ran:?}");
        assert!(!ran.stderr.contains("m=19456"), "{ran:?}");
    }
}
