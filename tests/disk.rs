//! The cache's tier on disk: over restarts, upgrades and `kill -9`, and with a disk that fails.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::peers::{Origin, Wrk};
use crate::tiers::*;

const CONFIG: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    server: { workers: 2, cache_memory: 16MiB, cache_disk: { path: $DISK, max_size: 64MiB }, grace: 5s, engine: $ENGINE }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:
      - { name: ann, api_keys: [ { hash: 'sha256:$ANN' } ] }
      - { name: bob, api_keys: [ { hash: 'sha256:$BOB' } ] }
    routes:
      - { id: all, path: /*, service: a, policies: { cache: { ttl: 1h, max_body: 4MiB, query: { ignore: [ 'utm_*' ] } } } }
      - { id: mine, path: /mine/*, service: a, policies: { authn: { api_key: {} }, cache: { ttl: 1h, per: consumer } } }
      - { id: memory, path: /memory/*, service: a, policies: { cache: { ttl: 1h, disk: false } } }
      - { id: stale, path: /stale/*, service: a, policies: { cache: { ttl: 1s, stale_if_error: 1h } } }
";

/// What a stock server cannot do.
const OWN: &str = "      - { id: good, path: /good/*, service: a, fallback: { cached: 1h }, policies: { cache: { ttl: 1s } } }
";

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        Disk(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn yaml(&self, origin: &Origin, engine: &str) -> String {
        let own = if engine == "pingora" { "" } else { OWN };
        let yaml = keyed(&[CONFIG, own].concat(), origin);
        yaml.replace("$DISK", self.path().to_str().unwrap()).replace("$ENGINE", engine)
    }

    #[track_caller]
    fn start(&self, origin: &Origin) -> Gateway {
        self.start_on(origin, "portcullis")
    }

    #[track_caller]
    fn start_on(&self, origin: &Origin, engine: &str) -> Gateway {
        let gateway = Gateway::start(&self.yaml(origin, engine));
        eventually("it has the folder", || is_open(&gateway));
        gateway
    }
}

fn is_open(gateway: &Gateway) -> bool {
    gateway.metric("portcullis_cache_disk_open") == 1.0
}

/// Stores these, and waits until they are written.
#[track_caller]
fn warm(gateway: &Gateway, paths: &[&str]) {
    let before = gateway.metric("portcullis_cache_disk_stored_total");
    for path in paths {
        assert_miss(&ask(gateway, path, &[]));
    }
    let all = before + paths.len() as f64;
    eventually("all is written", || gateway.metric("portcullis_cache_disk_stored_total") >= all);
}

fn stop(mut gateway: Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit(Duration::from_secs(20)).code(), Some(0), "{}", gateway.stderr());
}

fn kill(mut gateway: Gateway) {
    gateway.signal("KILL");
    gateway.wait_exit(Duration::from_secs(20));
}

/// Waits until what is on disk is known.
#[track_caller]
fn found(gateway: &Gateway, path: &str) -> Answer {
    eventually("the disk was looked through", || gateway.metric("portcullis_cache_disk_entries") > 0.0);
    ask(gateway, path, &[])
}

fn restart_on(engine: &str) {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start_on(&origin, engine);
    warm(&gateway, &["/a?utm_source=x", "/b/size-300000", "/gone", "/c"]);
    let first = ask(&gateway, "/a", &[]);
    assert_memory(&first);
    assert_miss(&ask(&gateway, "/memory/a", &[]));
    let etag = first.header("etag").unwrap().to_owned();
    stop(gateway);
    let asked = origin.asked().len();
    let gateway = disk.start_on(&origin, engine);
    let again = found(&gateway, "/a?utm_source=y");
    assert_disk(&again);
    assert_eq!((&again.body, again.header("etag")), (&first.body, Some(&*etag)));
    assert_eq!(again.header("cache-tag"), None);
    assert!(again.header("age").is_some());
    assert_memory(&ask(&gateway, "/a", &[]));
    // Parts of what is there, conditions, and heads.
    let part = ask(&gateway, "/b/size-300000", &[("Range", "bytes=100000-100009")]);
    assert_eq!((part.status, &*part.body), (206, &body("/b/size-300000", 1)[100_000..100_010]));
    assert_whole(&ask(&gateway, "/b/size-300000", &[]));
    assert_eq!(ask(&gateway, "/c", &[("If-None-Match", "*")]).status, 304);
    assert_eq!(request(gateway.port(), "HEAD", "/gone", &[HOST], b"").status, 200);
    assert_eq!(origin.asked().len(), asked, "nobody was asked");
    assert_miss(&ask(&gateway, "/memory/a", &[]));
    assert!(gateway.metric("portcullis_cache_disk_hits_total") >= 3.0);
}

#[test]
fn what_is_stored_outlasts_a_restart() {
    restart_on("portcullis");
}

#[test]
fn what_is_stored_outlasts_a_restart_of_a_stock_server() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start_on(&origin, "pingora");
    warm(&gateway, &["/a"]);
    let first = ask(&gateway, "/a", &[]);
    stop(gateway);
    let gateway = disk.start_on(&origin, "pingora");
    let again = found(&gateway, "/a");
    assert!(again.cache_status().contains("hit; ttl="), "{:?}", again.headers);
    assert_eq!((again.body, origin.count("/a")), (first.body, 1));
}

#[test]
fn variants_and_consumers_are_told_apart_on_disk() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    let (languages, keys) = (["de", "en", "fr"], [ANN, BOB]);
    let of = |gateway: &Gateway, language: &str| ask(gateway, "/vary", &[("Accept-Language", language)]);
    let mine = |gateway: &Gateway, key: &str| ask(gateway, "/mine/a", &[("X-API-Key", key)]);
    for language in languages {
        assert_miss(&of(&gateway, language));
    }
    for key in keys {
        assert_miss(&mine(&gateway, key));
    }
    stop(gateway);
    let gateway = disk.start(&origin);
    found(&gateway, "/nothing");
    // Not in the order in which they came.
    for language in ["fr", "de", "en"] {
        let answer = of(&gateway, language);
        // The first one comes with those that vary from it.
        if language == "de" {
            assert_memory(&answer)
        } else {
            assert_disk(&answer)
        }
        assert_eq!(answer.text(), language);
    }
    for key in [BOB, ANN] {
        let (answer, other) = (mine(&gateway, key), if key == ANN { "bob" } else { "ann" });
        assert_disk(&answer);
        assert!(!answer.text().contains(other), "{}", answer.text());
    }
    assert_miss(&of(&gateway, "it"));
    assert_eq!(ask(&gateway, "/mine/a", &[]).status, 401);
}

#[test]
fn what_was_purged_or_changed_does_not_come_back_after_a_kill() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    let gone = ["/url", "/p/1", "/p/2", "/t/tag", "/changed", "/changed?a=b"];
    warm(&gateway, &gone);
    warm(&gateway, &["/kept", "/soft"]);
    for order in [
        r#"{"urls": ["http://shop.example/url"]}"#,
        r#"{"prefixes": ["http://shop.example/p/"]}"#,
        r#"{"tags": ["tag"], "everywhere": true}"#,
        r#"{"urls": ["http://shop.example/soft"], "soft": true}"#,
    ] {
        let done = request(gateway.admin(), "POST", "/cache/purge", &[("Content-Type", "application/json")], order.as_bytes());
        assert_eq!((done.status, done.json()["disk"].as_str()), (200, Some("written")), "{}", done.text());
    }
    for path in ["/changed", "/changed?a=b"] {
        assert_eq!(request(gateway.port(), "POST", path, &[HOST], b"").status, 200);
    }
    kill(gateway);
    for round in 0..2 {
        let gateway = disk.start(&origin);
        assert_disk(&found(&gateway, "/kept"));
        if round == 0 {
            // Stale, so it is asked about.
            assert!(ask(&gateway, "/soft", &[]).cache_status().contains("fwd=stale"));
            for path in gone {
                assert_miss(&ask(&gateway, path, &[]));
                assert_memory(&ask(&gateway, path, &[]));
            }
            eventually("all is written", || gateway.metric("portcullis_cache_disk_stored_total") >= 7.0);
        } else {
            for path in gone {
                assert_disk(&ask(&gateway, path, &[]));
            }
        }
        kill(gateway);
    }
    let gateway = disk.start(&origin);
    found(&gateway, "/nothing");
    let done = request(gateway.admin(), "POST", "/cache/purge", &[], br#"{"hosts": ["shop.example"]}"#);
    assert_eq!(done.status, 200, "{}", done.text());
    kill(gateway);
    let gateway = disk.start(&origin);
    for path in ["/kept", "/url"] {
        assert_miss(&found(&gateway, path));
        assert_memory(&ask(&gateway, path, &[]));
    }
}

#[test]
fn a_dead_service_is_answered_for_from_disk() {
    let (disk, mut origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    warm(&gateway, &["/stale/a"]);
    stop(gateway);
    origin.stop();
    let gateway = disk.start(&origin);
    eventually("it is stale", || found(&gateway, "/stale/a").cache_status().contains("detail=stale-if-error"));
    assert_whole(&ask(&gateway, "/stale/a", &[]));
}

#[test]
fn what_stays_in_memory_is_not_looked_for_on_disk() {
    for engine in ["portcullis", "pingora"] {
        let (disk, origin) = (Disk::new(), origin());
        let gateway = disk.start_on(&origin, engine);
        warm(&gateway, &["/a", "/b"]);
        stop(gateway);
        let gateway = disk.start_on(&origin, engine);
        assert!(found(&gateway, "/b").cache_status().contains("hit; ttl="));
        // It was written before the route said so.
        does_without(&gateway, &disk.yaml(&origin, engine), "disk");
        assert_eq!(origin.count("/a"), 2, "{engine}");
    }
}

#[test]
fn the_last_good_answer_is_found_on_disk() {
    let (disk, mut origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    warm(&gateway, &["/good/a"]);
    stop(gateway);
    origin.stop();
    let gateway = disk.start(&origin);
    eventually("it is its route's fallback", || ask(&gateway, "/good/a", &[]).header("x-portcullis-fallback") == Some("cached"));
    assert_whole(&ask(&gateway, "/good/a", &[]));
}

/// Kills it so often while it is written to; whatever is found afterwards is as it was answered.
fn killed(rounds: usize) {
    let (disk, origin) = (Disk::new(), origin());
    let mut from_disk = 0;
    let sizes = [10, 3_000, 70_000, 400_000];
    for round in 0..rounds {
        let gateway = disk.start(&origin);
        let mut hits = 0;
        for number in 0..200 {
            for round in round.saturating_sub(2)..round {
                let answer = ask(&gateway, &format!("/{round}/{number}/size-{}", sizes[number % 4]), &[]);
                assert_whole(&answer);
                hits += usize::from(answer.cache_status().ends_with("detail=disk"));
            }
        }
        from_disk += hits;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..4 {
                let (gateway, stop) = (&gateway, &stop);
                scope.spawn(move || {
                    let mut number = client;
                    while !stop.load(Ordering::Relaxed) {
                        let path = format!("/{round}/{}/size-{}", number % 200, sizes[number % 4]);
                        // Some are purged by who changes them, so that they are written again and again.
                        let method = if number % 7 == 3 { "DELETE" } else { "GET" };
                        let sent = std::panic::catch_unwind(|| request(gateway.port(), method, &path, &[HOST], b""));
                        match sent {
                            Ok(answer) if answer.status == 200 && method == "GET" => assert_whole(&answer),
                            _ => {}
                        }
                        number += 4;
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(150 + 50 * (round as u64 % 7)));
            gateway.signal("KILL");
            stop.store(true, Ordering::Relaxed);
        });
        kill_and_wait(gateway);
    }
    assert!(from_disk > 50 * (rounds - 1), "{from_disk}");
}

fn kill_and_wait(mut gateway: Gateway) {
    gateway.wait_exit(Duration::from_secs(20));
}

#[test]
fn nothing_wrong_is_found_after_a_kill() {
    killed(5);
}

/// The long form: `make kills`.
#[test]
#[ignore = "takes minutes; `make kills`"]
fn nothing_wrong_is_found_after_fifty_kills() {
    killed(50);
}

#[test]
fn an_upgrade_hands_the_disk_over() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    warm(&gateway, &["/a", "/b"]);
    let mut wrk = Wrk::start(gateway.port(), "/loaded", 4, 4);
    let before = gateway.pid();
    let ran = portcullis(gateway.dir(), &["upgrade", "--pid-file", "gateway.pid", "--timeout", "60"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_ne!(gateway.pid(), before);
    eventually("the new one has the folder", || is_open(&gateway));
    assert_disk(&found(&gateway, "/a"));
    assert!(wrk.is_running());
    let load = wrk.finish();
    assert!(load.failures.is_empty(), "{:?}", load.failures);
    assert_eq!(origin.count("/a"), 1);
    // What it stores is there for the next one.
    warm(&gateway, &["/c"]);
    gateway.signal("KILL");
    eventually("it is gone", || get_is_refused(gateway.admin()));
    drop(gateway);
    let gateway = disk.start(&origin);
    assert_disk(&found(&gateway, "/b"));
    assert_disk(&ask(&gateway, "/c", &[]));
}

fn get_is_refused(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[test]
fn of_two_gateways_with_one_folder_one_has_it() {
    let (disk, origin) = (Disk::new(), origin());
    let first = disk.start(&origin);
    warm(&first, &["/a"]);
    let second = Gateway::start(&disk.yaml(&origin, "portcullis"));
    assert!(second.stderr().contains("another process's"), "{}", second.stderr());
    assert_miss(&ask(&second, "/a", &[]));
    assert_memory(&ask(&second, "/a", &[]));
    assert_miss(&ask(&second, "/b", &[]));
    assert!(!is_open(&second));
    stop(first);
    eventually("it has the folder", || is_open(&second));
    warm(&second, &["/c"]);
    stop(second);
    let third = disk.start(&origin);
    assert_disk(&found(&third, "/c"));
}

#[test]
fn a_reload_leaves_it_alone() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    warm(&gateway, &["/a"]);
    let yaml = disk.yaml(&origin, "portcullis");
    gateway.rewrite(&yaml.replace("max_size: 64MiB", "max_size: 128MiB").replace("ttl: 1h, max_body", "ttl: 2h, max_body"));
    let (status, told) = gateway.reload();
    assert_eq!(status, 200, "{told}");
    assert!(told.to_string().contains("`server.cache_disk` has changed"), "{told}");
    assert!(is_open(&gateway));
    warm(&gateway, &["/b"]);
    stop(gateway);
    let gateway = disk.start(&origin);
    assert_disk(&found(&gateway, "/a"));
    assert_disk(&ask(&gateway, "/b", &[]));
}

#[test]
fn nothing_that_is_damaged_is_given() {
    let (disk, origin) = (Disk::new(), origin());
    let names: Vec<String> = (0..20).map(|number| format!("/{number}/size-{}", 1 + number * 7_000)).collect();
    let paths: Vec<&str> = names.iter().map(String::as_str).collect();
    let gateway = disk.start(&origin);
    warm(&gateway, &paths);
    stop(gateway);
    let whole = disk.0.path().join("whole");
    copy(&disk.path(), &whole);
    let mut dice = 7_u64;
    for round in 0..6 {
        std::fs::remove_dir_all(disk.path()).unwrap();
        copy(&whole, &disk.path());
        for entry in std::fs::read_dir(disk.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let is_segment = path.extension().is_some_and(|extension| extension == "seg");
            if bytes.is_empty() || round % 2 == 1 && !is_segment {
                continue;
            }
            for _ in 0..20 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (dice >> 20) as usize % bytes.len();
                bytes[at] ^= 1 << (dice >> 60 & 7);
            }
            if round == 5 {
                bytes.truncate(bytes.len() / 2);
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let gateway = disk.start(&origin);
        for path in &paths {
            let answer = ask(&gateway, path, &[]);
            assert_eq!(answer.status, 200);
            assert_whole(&answer);
        }
        stop(gateway);
    }
}

fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn what_cannot_be_had_is_said_and_the_cache_is_in_memory() {
    let (disk, origin) = (Disk::new(), origin());
    std::fs::write(disk.path(), "a file").unwrap();
    let gateway = Gateway::start(&disk.yaml(&origin, "portcullis"));
    eventually("it is said", || gateway.stderr().contains("the disk cache cannot be had"));
    assert_miss(&ask(&gateway, "/a", &[]));
    assert_memory(&ask(&gateway, "/a", &[]));
    assert_eq!(request(gateway.port(), "POST", "/a", &[HOST], b"").status, 200);
    assert_miss(&ask(&gateway, "/a", &[]));
    // Once it can be had, it is.
    std::fs::remove_file(disk.path()).unwrap();
    let began = Instant::now();
    eventually("it has the folder", || is_open(&gateway));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(gateway.metric("portcullis_cache_disk_errors_total") >= 1.0);
}

#[test]
fn a_folder_that_is_removed_is_noticed_and_begins_anew() {
    let removals: [fn(&Path); 3] = [
        |path| std::fs::remove_dir_all(path).unwrap(),
        |path| std::fs::rename(path, path.with_extension("old")).unwrap(),
        |path| {
            for entry in std::fs::read_dir(path).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        },
    ];
    let origin = origin();
    std::thread::scope(|scope| {
        for remove in removals {
            let origin = &origin;
            scope.spawn(move || {
                let disk = Disk::new();
                let gateway = disk.start(origin);
                warm(&gateway, &["/a"]);
                remove(&disk.path());
                eventually("it is noticed", || gateway.metric("portcullis_cache_disk_errors_total") >= 1.0);
                // What is in memory stays there.
                assert_memory(&ask(&gateway, "/a", &[]));
                eventually("it has a folder again", || is_open(&gateway) && disk.path().join("lock").exists());
                let said = gateway.stderr();
                assert_eq!(said.matches("somebody has removed").count(), 1, "{said}");
                warm(&gateway, &["/b"]);
                stop(gateway);
                let gateway = disk.start(origin);
                assert_disk(&found(&gateway, "/b"));
            });
        }
    });
}

/// A device that is full; `None` where this user may not mount one.
pub struct Full(PathBuf);

impl Full {
    pub fn mount(path: PathBuf, size: &str) -> Option<Full> {
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size},mode=0700");
        let done = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).status();
        done.is_ok_and(|status| status.success()).then_some(Full(path))
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_miss_and_requests_go_on() {
    let (disk, origin) = (Disk::new(), origin());
    let Some(_full) = Full::mount(disk.path(), "6m") else { return eprintln!("left out: it takes the right to mount a tmpfs") };
    let gateway = disk.start(&origin);
    for number in 0..60 {
        let path = format!("/{number}/size-200000");
        let answer = ask(&gateway, &path, &[]);
        assert_eq!(answer.status, 200);
        assert_whole(&answer);
        assert_eq!(request(gateway.port(), "POST", "/changed", &[HOST], b"").status, 200);
    }
    eventually("it is counted", || gateway.metric("portcullis_cache_disk_errors_total") > 0.0);
    assert!(gateway.metric("portcullis_cache_disk_dropped_total") > 0.0);
    let said = gateway.stderr();
    assert!(said.contains("the disk cache cannot be written to"), "{said}");
    assert!(is_open(&gateway), "what is there is still read: {said}");
    let asked = origin.asked().len();
    assert_memory(&ask(&gateway, "/59/size-200000", &[]));
    assert_eq!(origin.asked().len(), asked);
    stop(gateway);
    // Nothing that could not be written is found.
    let gateway = disk.start(&origin);
    for number in 0..60 {
        assert_whole(&ask(&gateway, &format!("/{number}/size-200000"), &[]));
    }
}

#[test]
fn what_others_purged_meanwhile_is_not_found_after_a_restart() {
    let (disk, origin, redis) = (Disk::new(), origin(), Redis::start());
    let yaml = format!("    redis: {{ nodes: '127.0.0.1:{}' }}\n{}", redis.port(), disk.yaml(&origin, "portcullis"));
    let start = || {
        let gateway = Gateway::start(&yaml);
        eventually("it has the folder", || is_open(&gateway));
        gateway
    };
    let purge = |gateway: &Gateway, path: &str| {
        let order = format!(r#"{{"urls": ["http://shop.example{path}"]}}"#);
        let done = request(gateway.admin(), "POST", "/cache/purge", &[], order.as_bytes());
        assert_eq!((done.status, done.json()["others"].as_str()), (200, Some("told")), "{}", done.text());
    };
    let other = Gateway::start(&yaml.replace("/cache,", "/other,"));
    let gateway = start();
    warm(&gateway, &["/a", "/b", "/c"]);
    purge(&other, "/c");
    eventually("it was heard", || gateway.metric("portcullis_cache_purges_heard_total") >= 1.0);
    stop(gateway);
    purge(&other, "/a");
    let gateway = start();
    eventually("the others were heard", || gateway.metric("portcullis_cache_purges_heard_total") >= 1.0);
    assert_disk(&found(&gateway, "/b"));
    assert_miss(&ask(&gateway, "/a", &[]));
    assert_miss(&ask(&gateway, "/c", &[]));
}

#[test]
fn operators_see_what_is_on_disk() {
    let (disk, origin) = (Disk::new(), origin());
    let gateway = disk.start(&origin);
    warm(&gateway, &["/a", "/b"]);
    stop(gateway);
    let gateway = disk.start(&origin);
    eventually("both are known", || gateway.metric("portcullis_cache_disk_entries") == 2.0);
    let told = |path: &str| -> serde_json::Value { serde_json::from_str(&gateway.admin_get(path).1).unwrap() };
    let explained = told("/cache/explain?url=http://shop.example/a");
    assert_eq!(explained["would"], "hit", "{explained}");
    assert_eq!((explained["stored"].as_array().unwrap().len(), explained["on_disk"].as_array().unwrap().len()), (0, 1));
    let top = told("/cache/top");
    assert_eq!(
        (&top["disk"]["entries"], &top["disk"]["open"], &top["disk"]["max_bytes"]),
        (&2.into(), &true.into(), &(64 << 20).into())
    );
    let none = told("/cache/explain?url=http://shop.example/c");
    assert_eq!((&none["would"], none["on_disk"].as_array().unwrap().len()), (&"miss".into(), 0));
}

#[test]
fn bad_settings_are_told_all_at_once() {
    let files = Files::new();
    let yaml = "listeners: [ { bind: 127.0.0.1:8080 } ]\nserver: { cache_disk: { path: cache, max_size: 1MiB, deadline: 1h } }\n\
                routes: [ { path: /*, service: 127.0.0.1, port: 9, policies: { cache: { disk: 3 } } } ]\n";
    files.write("gateway.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    assert_ne!(ran.code, 0);
    let said = ran.stdout + &ran.stderr;
    for part in ["`cache_disk.path` is an absolute path", "from 64MiB to 16TiB", "from 1ms to 5s", "disk"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
