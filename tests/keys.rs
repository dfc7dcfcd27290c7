//! API keys that come and go while the gateway runs.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

const CONFIG: &str = "
listeners: [ { bind: 127.0.0.1:$PORT } ]
access_log: { output: { file: access.log }, query: true }
services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
consumers:
  - { name: acme, scopes: [ read ], groups: [ partners ] }
  - { name: 'globex ltd' }
policies: { authn: { api_key: { query: key } } }
routes:
  - { path: /any/*, service: a }
  - { path: /writes, service: a, policies: { authz: { scopes: [ write ] } } }
";

fn config(backend: &Backend, more: &str) -> String {
    filled(CONFIG, &[("$BACKEND", backend.port())]) + more
}

fn start(more: &str) -> (Backend, Gateway) {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(&backend, more));
    (backend, gateway)
}

fn ask(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(gateway.admin(), method, path, &[], body.as_bytes())
}

/// The id and the key.
#[track_caller]
fn issue(gateway: &Gateway, consumer: &str, body: &Value) -> (String, String) {
    let answer = ask(gateway, "POST", &format!("/consumers/{consumer}/keys"), body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json();
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

fn revoke(gateway: &Gateway, consumer: &str, id: &str) -> u16 {
    ask(gateway, "DELETE", &format!("/consumers/{consumer}/keys/{id}"), &Value::Null).status
}

fn with_key(gateway: &Gateway, key: &str) -> Answer {
    request(gateway.port(), "GET", "/any/x", &[("X-API-Key", key)], b"")
}

#[track_caller]
fn refused(gateway: &Gateway, key: &str, status: u16, reason: &str) {
    with_key(gateway, key).assert_problem(status, "authn", reason);
}

#[test]
fn a_key_works_from_its_issue_to_its_revocation() {
    let (backend, gateway) = start("key_store: {}\n");
    let answer = ask(&gateway, "POST", "/consumers/acme/keys", &json!({ "label": "für die CI" }));
    let made = answer.json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")));
    assert_eq!(answer.header("location"), Some(&*format!("/consumers/acme/keys/{id}")));
    assert!(key.starts_with(&format!("pk_{id}_")) && key.len() == 55, "{key}");
    assert_eq!((&made["state"], &made["label"], &made["expires_at"]), (&json!("active"), &json!("für die CI"), &Value::Null));

    assert_eq!(with_key(&gateway, key).status, 200);
    let seen = backend.last();
    assert_eq!((seen.all("x-consumer-name"), seen.all("x-auth-scopes")), (vec!["acme"], vec!["read"]));
    assert!(!seen.head_text().contains(key));
    assert_eq!(get(gateway.port(), &format!("/any/q?key={key}&a=b")).status, 200);
    gateway.wait_log(|line| line["path"] == "/any/q");

    let listed = ask(&gateway, "GET", "/consumers/acme/keys", &Value::Null).json();
    assert_eq!((listed["keys"][0]["id"].as_str(), listed["keys"].as_array().unwrap().len()), (Some(id), 1));
    assert_eq!(ask(&gateway, "GET", &format!("/consumers/acme/keys/{id}"), &Value::Null).json()["id"], id);
    // A consumer's keys are its own.
    assert_eq!(revoke(&gateway, "globex%20ltd", id), 404);
    assert_eq!(ask(&gateway, "GET", "/consumers/globex%20ltd/keys", &Value::Null).json()["keys"], json!([]));

    let secret = &key[12..];
    let (_, metrics) = gateway.admin_get("/metrics");
    assert!(metrics.contains("portcullis_issued_api_keys 1\n"), "{metrics}");
    let (_, dumped) = gateway.admin_get("/config");
    let file = std::fs::read(gateway.dir().join("state/keys.redb")).unwrap();
    let texts =
        [listed.to_string(), metrics, dumped, gateway.log_text(), gateway.stderr(), String::from_utf8_lossy(&file).into_owned()];
    for text in &texts {
        assert!(!text.contains(secret), "the key stands in {}", &text[..text.len().min(200)]);
    }
    assert!(!listed.to_string().contains("sha256"));

    assert_eq!(revoke(&gateway, "acme", id), 204);
    refused(&gateway, key, 401, "unknown_api_key");
    assert_eq!(revoke(&gateway, "acme", id), 404);
    let said = gateway.stderr();
    for line in
        [format!("audit: issued the API key {id} of consumer \"acme\" by 127.0.0.1:"), format!("audit: revoked the API key {id}")]
    {
        assert!(said.contains(&line), "{line}: {said}");
    }
}

#[test]
fn both_roads_know_issued_keys() {
    let backend = Backend::http();
    served(&config(&backend, "key_store: { prefix: live_ }\n"), |gateway| {
        let (_, key) = issue(gateway, "acme", &json!({ "scopes": ["write"] }));
        assert!(key.starts_with("live_"));
        assert_eq!(request(gateway.port(), "GET", "/writes", &[("X-API-Key", &key)], b"").status, 200);
        let (_, plain) = issue(gateway, "acme", &Value::Null);
        request(gateway.port(), "GET", "/writes", &[("X-API-Key", &plain)], b"").assert_problem(
            403,
            "authz",
            "insufficient_scope",
        );
        refused(gateway, "live_guess", 401, "unknown_api_key");
    });
}

#[test]
fn a_rotation_overlaps_and_a_life_ends() {
    let (_backend, gateway) = start("key_store: {}\n");
    let (id, old) = issue(&gateway, "acme", &json!({ "scopes": ["write"], "label": "shop" }));
    let path = format!("/consumers/acme/keys/{id}/rotate");
    let answer = ask(&gateway, "POST", &path, &json!({ "overlap": "2s" }));
    let made = answer.json();
    assert_eq!((answer.status, &made["label"], &made["scopes"]), (201, &json!("shop"), &json!(["write"])));
    assert_eq!((&made["replaces"]["id"], &made["replaces"]["replaced_by"]), (&json!(id), &made["id"]));
    let new = made["key"].as_str().unwrap();
    assert_eq!((with_key(&gateway, &old).status, with_key(&gateway, new).status), (200, 200));
    assert_eq!(ask(&gateway, "POST", &path, &Value::Null).status, 409);
    eventually("the overlap ends", || with_key(&gateway, &old).status == 401);
    refused(&gateway, &old, 401, "expired_api_key");
    assert_eq!(with_key(&gateway, new).status, 200);

    let (id, short) = issue(&gateway, "acme", &json!({ "expires_in": "2s" }));
    assert_eq!(with_key(&gateway, &short).status, 200);
    eventually("the key expires", || with_key(&gateway, &short).status == 401);
    refused(&gateway, &short, 401, "expired_api_key");
    gateway.wait_log(|line| line["reason"] == "expired_api_key" && line["decided_by"] == format!("key {id}"));
    let listed = ask(&gateway, "GET", &format!("/consumers/acme/keys/{id}"), &Value::Null).json();
    assert_eq!(listed["state"], "expired");
    assert_eq!(ask(&gateway, "POST", &format!("/consumers/acme/keys/{id}/rotate"), &Value::Null).status, 409);
}

#[test]
fn what_makes_no_sense_is_refused_and_explained() {
    let (_backend, gateway) = start("key_store: {}\n");
    let keys = "/consumers/acme/keys";
    let cases = [
        ("POST", "/consumers/nobody/keys", "".to_owned(), 404),
        ("GET", "/consumers/nobody/keys", "".to_owned(), 404),
        ("GET", "/consumers/acme/keys/nosuch", "".to_owned(), 404),
        ("DELETE", "/consumers/acme/keys/nosuch", "".to_owned(), 404),
        ("POST", "/consumers/acme/keys/nosuch/rotate", "".to_owned(), 404),
        ("PUT", keys, "{}".to_owned(), 405),
        ("POST", keys, "{".to_owned(), 400),
        ("POST", keys, "[1]".to_owned(), 400),
        ("POST", keys, r#"{"scope":["a"]}"#.to_owned(), 400),
        ("POST", keys, r#"{"scopes":["a b"]}"#.to_owned(), 400),
        ("POST", keys, r#"{"expires_in":"soon"}"#.to_owned(), 400),
        ("POST", keys, r#"{"expires_in":"0s"}"#.to_owned(), 400),
        ("POST", keys, r#"{"expires_at":"2001-01-01T00:00:00Z"}"#.to_owned(), 400),
        ("POST", keys, r#"{"expires_in":"1h","expires_at":"2999-01-01T00:00:00Z"}"#.to_owned(), 400),
        ("POST", keys, format!(r#"{{"label":"{}"}}"#, "x".repeat(300)), 400),
        ("POST", keys, format!(r#"{{"label":"{}"}}"#, "x".repeat(20_000)), 413),
        ("GET", "/consumers/acme/keys?limit=0", "".to_owned(), 400),
        ("GET", "/consumers/acme/keys?limit=many", "".to_owned(), 400),
        ("GET", "/consumers/acme/keys?page=2", "".to_owned(), 400),
    ];
    for (method, path, body, status) in cases {
        let answer = request(gateway.admin(), method, path, &[], body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {}: {}", &body[..body.len().min(80)], answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    let from_a_page = request(gateway.admin(), "POST", keys, &[("Origin", "https://evil.example")], b"");
    assert_eq!(from_a_page.status, 403);
    assert_eq!(ask(&gateway, "GET", keys, &Value::Null).json()["keys"], json!([]));

    let (_backend, without) = start("");
    assert_eq!(ask(&without, "POST", keys, &Value::Null).status, 404);
    let files = Files::new();
    for (wrong, told) in [
        ("key_store: { backend: redis }", "no Redis"),
        ("key_store: { path: . }", "is a folder"),
        ("key_store: { prefix: 'a b' }", "prefix"),
        ("key_store: { backend: redis, path: x }", "no path"),
        ("admin: { token: { file: short } }", "16 bytes"),
    ] {
        files.write("short", "0123456789");
        files.write("wrong.yaml", format!("listeners: [ {{ bind: 127.0.0.1:1 }} ]\n{wrong}\n"));
        let ran = portcullis(files.dir(), &["check", "wrong.yaml"]);
        assert!(ran.code == 1 && ran.stderr.contains(told), "{wrong}: {ran:?}");
    }
}

#[test]
fn changes_take_the_token_where_there_is_one() {
    const TOKEN: &str = "0123456789abcdef-admin";
    let backend = Backend::http();
    let yaml = config(&backend, "key_store: {}\nadmin: { bind: '127.0.0.1:$ADMIN', token: '${ADMIN_TOKEN}' }\n");
    let gateway = Gateway::start_with(&yaml, &[("ADMIN_TOKEN", TOKEN)]);
    let post = |path: &str, authorization: &[(&str, &str)]| request(gateway.admin(), "POST", path, authorization, b"");
    let keys = "/consumers/acme/keys";
    for wrong in [&[][..], &[("Authorization", "Bearer 0123456789abcdef-admim")], &[("Authorization", "Basic eDp5")]] {
        for path in [keys, "/reload", "/consumers/acme/keys/x/rotate"] {
            let answer = post(path, wrong);
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"admin\"")), "{path}");
        }
    }
    let right = format!("Bearer {TOKEN}");
    assert_eq!(post(keys, &[("Authorization", &right)]).status, 201);
    assert_eq!(post("/reload", &[("Authorization", &right)]).status, 200);
    assert_eq!(get(gateway.admin(), keys).json()["keys"].as_array().unwrap().len(), 1, "reading needs none");
    let (_, dumped) = gateway.admin_get("/config");
    assert!(dumped.contains("${ADMIN_TOKEN}") && !dumped.contains(TOKEN) && !gateway.stderr().contains(TOKEN));
    assert!(gateway.stderr().contains("audit: refused POST /consumers/acme/keys without the admin token by 127.0.0.1:"));
}

#[test]
fn keys_outlive_reloads_and_their_consumer_decides() {
    let backend = Backend::http();
    let yaml = config(&backend, "key_store: {}\n");
    let gateway = Gateway::start(&yaml);
    let (_, key) = issue(&gateway, "acme", &Value::Null);
    gateway.rewrite(&yaml.replace("scopes: [ read ]", "scopes: [ read, write ]"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(with_key(&gateway, &key).status, 200);
    assert_eq!(backend.last().all("x-auth-scopes"), ["read write"]);
    gateway.rewrite(&yaml.replace("name: acme", "name: acne"));
    assert_eq!(gateway.reload().0, 200);
    refused(&gateway, &key, 401, "unknown_api_key");
    let left = ask(&gateway, "GET", "/consumers/acme/keys", &Value::Null).json();
    assert_eq!(left["keys"].as_array().unwrap().len(), 1, "it can still be seen and revoked");
    gateway.rewrite(&yaml);
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(with_key(&gateway, &key).status, 200);
}

/// Every key whose issue was confirmed is there after a crash, and none whose revocation was.
#[test]
fn a_crash_in_the_middle_of_writes_loses_nothing_that_was_confirmed() {
    let store = Files::new();
    let backend = Backend::http();
    let yaml = config(&backend, &format!("key_store: {{ path: {}/keys.redb }}\n", store.dir().display()));
    let (mut good, mut gone): (Vec<(String, String)>, Vec<String>) = Default::default();
    for round in 0..3 {
        let gateway = Gateway::start(&yaml);
        for (_, key) in &good {
            assert_eq!(with_key(&gateway, key).status, 200, "round {round}");
        }
        for key in &gone {
            refused(&gateway, key, 401, "unknown_api_key");
        }
        let (crashed, confirmed) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut good, mut gone) = (Vec::new(), Vec::new());
                while !crashed.load(Ordering::SeqCst) {
                    let Some(made) = try_ask(gateway.admin(), "POST", "/consumers/acme/keys") else { break };
                    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
                    good.push((id, key));
                    confirmed.fetch_add(1, Ordering::SeqCst);
                    if good.len() % 3 == 0 {
                        let (id, key) = good.remove(0);
                        // Not knowing whether it was revoked, nothing can be said of it.
                        if try_ask(gateway.admin(), "DELETE", &format!("/consumers/acme/keys/{id}")).is_some() {
                            gone.push(key);
                        }
                    }
                }
                (good, gone)
            });
            eventually("some are confirmed", || confirmed.load(Ordering::SeqCst) >= 4 + 3 * round);
            gateway.signal("KILL");
            crashed.store(true, Ordering::SeqCst);
            let (more_good, more_gone) = writer.join().unwrap();
            good.extend(more_good);
            gone.extend(more_gone);
        });
    }
}

/// `None` where no answer came.
fn try_ask(port: u16, method: &str, path: &str) -> Option<Value> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if head.starts_with("HTTP/1.1 204") { Some(Value::Null) } else { serde_json::from_str(body).ok() }
}

/// The old process and the new one have the file open at the same time, and both hear what changes.
#[test]
fn an_upgrade_keeps_the_keys_and_a_revocation_reaches_both_processes() {
    let backend = Backend::http();
    let gateway = Gateway::start(&config(&backend, "key_store: {}\nserver: { workers: 1, grace: 20s }\n"));
    let (id, key) = issue(&gateway, "acme", &Value::Null);
    let mut open = Client::connect(gateway.port());
    assert_eq!(open.request("GET", "/any/x", &[("X-API-Key", &key)], b"").status, 200);
    let before = gateway.pid();
    let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
    assert!(ran.code == 0 && gateway.pid() != before, "{ran:?}");
    eventually("the successor's admin API answers", || std::net::TcpStream::connect(("127.0.0.1", gateway.admin())).is_ok());
    assert_eq!(with_key(&gateway, &key).status, 200);
    let (_, new) = issue(&gateway, "acme", &Value::Null);
    assert_eq!(with_key(&gateway, &new).status, 200);
    assert_eq!(revoke(&gateway, "acme", &id), 204);
    refused(&gateway, &key, 401, "unknown_api_key");
    std::thread::sleep(Duration::from_secs(1));
    // Still connected to the old process, which lets each connection have one more request, or closes it.
    let answer =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open.request("GET", "/any/x", &[("X-API-Key", &key)], b"")));
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 401));
}

/// A real one, with its data in a file.
struct RedisServer {
    process: Option<Child>,
    port: Port,
    files: Files,
}

impl RedisServer {
    fn start() -> Self {
        let mut server = RedisServer { process: None, port: Port::lease(), files: Files::new() };
        server.run();
        server
    }

    fn run(&mut self) {
        let port = self.port.number().to_string();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--dir",
            ])
            .arg(self.files.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("these tests need redis-server: {error}")));
        eventually("redis-server answers", || std::net::TcpStream::connect(("127.0.0.1", self.port.number())).is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long until it is so.
#[track_caller]
fn took(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    eventually(what, &mut condition);
    start.elapsed()
}

#[test]
fn gateways_that_share_a_redis_share_keys() {
    let mut redis = RedisServer::start();
    let backend = Backend::http();
    let more = format!("redis: {{ nodes: '127.0.0.1:{}' }}\nkey_store: {{ backend: redis }}\n", redis.port.number());
    let yaml = config(&backend, &more);
    let (one, two) = (Gateway::start(&yaml), Gateway::start(&yaml));
    for _ in 0..3 {
        let (id, key) = issue(&one, "acme", &Value::Null);
        assert_eq!(with_key(&one, &key).status, 200);
        assert!(took("the other knows it", || with_key(&two, &key).status == 200) < Duration::from_secs(1));
        assert_eq!(revoke(&one, "acme", &id), 204);
        refused(&one, &key, 401, "unknown_api_key");
        assert!(took("the other refuses it", || with_key(&two, &key).status == 401) < Duration::from_secs(1));
    }
    // What one issued, the other may rotate.
    let (id, key) = issue(&one, "acme", &Value::Null);
    took("the other knows it", || with_key(&two, &key).status == 200);
    let rotated = ask(&two, "POST", &format!("/consumers/acme/keys/{id}/rotate"), &json!({ "overlap": "0s" }));
    assert_eq!(rotated.status, 201);
    let new = rotated.json()["key"].as_str().unwrap().to_owned();
    assert!(took("the old one ends", || with_key(&one, &key).status == 401) < Duration::from_secs(1));
    took("the new one is known", || with_key(&one, &new).status == 200);

    // Without Redis what is known stays, nothing changes, and a gateway that knows nothing says so.
    redis.kill();
    assert_eq!((with_key(&one, &new).status, with_key(&two, &new).status), (200, 200));
    let answer = ask(&one, "POST", "/consumers/acme/keys", &Value::Null);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    eventually("the staleness shows", || one.metric("portcullis_key_store_stale_seconds") >= 1.0);
    assert!(one.metric("portcullis_key_store_errors_total") > 0.0);
    let late = Gateway::start(&yaml);
    refused(&late, &new, 503, "key_store_unavailable");

    redis.run();
    eventually("the late one catches up", || with_key(&late, &new).status == 200);
    eventually("it is fresh again", || one.metric("portcullis_key_store_stale_seconds") == 0.0);
    let id = new[3..11].to_owned();
    assert_eq!(revoke(&late, "acme", &id), 204);
    for gateway in [&one, &two] {
        eventually("everybody refuses it", || with_key(gateway, &new).status == 401);
    }
}

/// The command talks to the admin API; a password's hash needs no gateway.
#[test]
fn the_command_line_manages_keys() {
    let (_backend, gateway) = start("key_store: {}\n");
    let admin = format!("127.0.0.1:{}", gateway.admin());
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["keys", "--admin", &admin].iter().chain(args).copied().collect();
        portcullis(gateway.dir(), &all)
    };
    let made = run(&["create", "globex ltd", "--label", "ci", "--scope", "write", "--expires-in", "90d"]);
    let key = made.stdout.trim().to_owned();
    assert!(made.code == 0 && key.starts_with("pk_"), "{made:?}");
    assert_eq!(with_key(&gateway, &key).status, 200);
    let id = &key[3..11];
    let listed = run(&["list", "globex ltd"]);
    assert!(listed.stdout.contains(id) && listed.stdout.contains("ci") && !listed.stdout.contains(&key[12..]), "{listed:?}");
    let rotated = run(&["rotate", "globex ltd", id, "--overlap", "1h"]);
    assert_eq!(with_key(&gateway, rotated.stdout.trim()).status, 200);
    let revoked = run(&["revoke", "globex ltd", id]);
    assert!(revoked.code == 0 && with_key(&gateway, &key).status == 401, "{revoked:?}");
    let again = run(&["revoke", "globex ltd", id]);
    assert!(again.code == 1 && again.stderr.contains("no such key"), "{again:?}");
}
