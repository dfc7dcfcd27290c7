//! The cache on a route, with a backend that counts what it is asked.

use std::sync::Barrier;
use std::time::Duration;

use crate::harness::{Answer, Backend, Files, Gateway, eventually, get, portcullis, request};
use crate::peers::{Act, Asked, Origin, answer};

/// For what both have to do alike.
const ENGINES: [&str; 2] = ["portcullis", "pingora"];
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The origin says in the path what it does.
fn origin() -> Origin {
    Origin::start(|asked| Act::Send(behave(asked)))
}

fn behave(asked: &Asked) -> Vec<u8> {
    let path = asked.target.split('?').next().unwrap();
    let language = asked.header("accept-language").unwrap_or("-");
    match path {
        "/set-cookie" => answer(200, &[("Set-Cookie", "id=1")], "one client's"),
        "/private" => answer(200, &[("Cache-Control", "private, max-age=60")], "one client's"),
        "/no-store" => answer(200, &[("Cache-Control", "no-store")], "nobody's"),
        "/vary" => answer(200, &[("Vary", "Accept-Language")], language),
        "/vary-all" => answer(200, &[("Vary", "*")], "unique"),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(400));
            answer(200, &[], "slow")
        }
        "/slow-private" => {
            std::thread::sleep(Duration::from_millis(200));
            answer(200, &[("Cache-Control", "private")], "one client's")
        }
        "/big" => answer(200, &[], vec![b'x'; 100_000]),
        "/big-chunked" => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for _ in 0..100 {
                bytes.extend_from_slice(b"3e8\r\n");
                bytes.extend_from_slice(&[b'x'; 1000]);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            bytes
        }
        "/tagged" if asked.header("if-none-match") == Some("\"v1\"") => answer(304, &[("ETag", "\"v1\"")], ""),
        "/tagged" => answer(200, &[("ETag", "\"v1\""), ("Content-Type", "text/plain")], "0123456789"),
        "/empty" => answer(200, &[], ""),
        // With its key and its head it is longer than anything that a memory of 256 MiB keeps; without them it is not.
        "/longest" => answer(200, &[], vec![b'x'; 224 / 16 * 3 / 4 * (1 << 20) + (1 << 19) - 300]),
        "/trouble" => {
            let status = asked.target.split('?').nth(1).and_then(|status| status.parse().ok()).unwrap_or(200);
            answer(status, &[("Cache-Control", "max-age=1, stale-if-error=600")], status.to_string())
        }
        "/error" => answer(500, &[], "broken"),
        "/missing" => answer(404, &[], "not here"),
        _ if path.starts_with("/block/") => answer(200, &[], vec![b'y'; 50_000]),
        _ => answer(200, &[], format!("{} {}", asked.header("host").unwrap_or("-"), asked.target)),
    }
}

fn start(origin: &Origin, routes: &str) -> Gateway {
    let yaml = format!(
        "listeners:\n  - bind: 127.0.0.1:$PORT\nserver:\n  workers: 2\n  cache_memory: 1MiB\nservices:\n  origin:\n    endpoints: \
         [127.0.0.1:{}]\nconsumers:\n  - name: shop\n    api_keys:\n      - hash: {}\nroutes:\n{routes}",
        origin.port(),
        key_hash()
    );
    Gateway::start(&yaml)
}

fn key_hash() -> String {
    use aws_lc_rs::digest;
    let digest = digest::digest(&digest::SHA256, KEY.as_bytes());
    format!("sha256:{}", digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

const SIMPLE: &str = "  - path: /*\n    service: origin\n    policies:\n      cache: { ttl: 60s, max_body: 64KiB }\n";

#[track_caller]
fn assert_miss(answer: &Answer) {
    assert!(answer.cache_status().contains("fwd=miss"), "{:?}", answer.headers);
    assert_eq!(answer.header("age"), None);
}

#[track_caller]
fn assert_hit(answer: &Answer) {
    assert!(answer.cache_status().starts_with("portcullis; hit; ttl="), "{:?}", answer.headers);
    let age = answer.header("age").expect("an answer from the cache has an Age");
    assert!(age.parse::<u64>().is_ok(), "{age}");
}

/// Asks twice; whatever is answered, the backend must have been asked both times.
#[track_caller]
fn assert_never_stored(gateway: &Gateway, origin: &Origin, path: &str, headers: &[(&str, &str)]) {
    let before = origin.count(path);
    for _ in 0..2 {
        let answer = request(gateway.port(), "GET", path, headers, b"");
        assert!(
            !answer.cache_status().contains("hit") && !answer.cache_status().contains("stored"),
            "{path}: {:?}",
            answer.headers
        );
        assert_eq!(answer.header("age"), None, "{path}");
    }
    assert_eq!(origin.count(path), before + 2, "{path} {headers:?}");
}

#[test]
fn the_second_is_answered_from_memory() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    let first = get(gateway.port(), "/a");
    assert_eq!(first.status, 200);
    assert_miss(&first);
    assert!(first.cache_status().contains("stored"), "{:?}", first.headers);
    let second = get(gateway.port(), "/a");
    assert_hit(&second);
    assert_eq!(second.status, 200);
    assert_eq!(first.body, second.body);
    assert_eq!(origin.count("/a"), 1);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"), "what the gateway adds is not what is stored");
    assert!(second.header("x-request-id").is_some());

    let hit = gateway.wait_log(|line| line["cache"] == "hit");
    assert_eq!(hit["answered_by"], "cache");
    assert_eq!(hit["status"], 200);
    assert_eq!(hit["bytes_out"], second.body.len());
    assert!(hit.get("endpoint").is_none() && hit.get("upstream_us").is_none(), "{hit}");
    let miss = gateway.wait_log(|line| line["cache"] == "miss");
    assert_eq!(miss["answered_by"], "upstream");
    assert_eq!(gateway.metric("portcullis_cache_requests_total{state=\"hit\"}"), 1.0);
    assert_eq!(gateway.metric("portcullis_cache_requests_total{state=\"miss\"}"), 1.0);
}

#[test]
fn what_is_stored_expires_and_is_asked_for_again() {
    let origin = origin();
    let gateway = start(&origin, "  - path: /*\n    service: origin\n    policies:\n      cache: { ttl: 1s }\n");
    assert_miss(&get(gateway.port(), "/a"));
    assert_hit(&get(gateway.port(), "/a"));
    let mut last = None;
    eventually("the stored answer expires", || {
        last = Some(get(gateway.port(), "/a"));
        origin.count("/a") == 2
    });
    assert!(last.unwrap().cache_status().contains("fwd=stale"));

    get(gateway.port(), "/tagged");
    eventually("the stored answer is validated", || {
        let answer = get(gateway.port(), "/tagged");
        assert_eq!((answer.status, &*answer.body), (200, &b"0123456789"[..]));
        answer.cache_status().contains("fwd-status=304")
    });
    let asked = origin.asked();
    let validation = asked.iter().rfind(|asked| asked.target == "/tagged").unwrap();
    assert_eq!(validation.header("if-none-match"), Some("\"v1\""));
    assert_hit(&get(gateway.port(), "/tagged"));
}

#[test]
fn misses_at_the_same_time_ask_once() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    together(20, || {
        let answer = get(gateway.port(), "/slow");
        assert_eq!((answer.status, &*answer.body), (200, &b"slow"[..]));
    });
    assert_eq!(origin.count("/slow"), 1);

    // What cannot be stored must not be waited for in turn by everyone: 20 times 200 ms.
    let began = std::time::Instant::now();
    together(20, || assert_eq!(get(gateway.port(), "/slow-private").status, 200));
    assert_eq!(origin.count("/slow-private"), 20);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

fn together(clients: usize, work: impl Fn() + Sync) {
    let barrier = Barrier::new(clients);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                barrier.wait();
                work();
            });
        }
    });
}

#[test]
fn what_is_one_clients_is_never_stored() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    for headers in [("Authorization", "Bearer x"), ("Cookie", "id=1")] {
        assert_never_stored(&gateway, &origin, "/a", &[headers]);
    }
    for path in ["/set-cookie", "/private", "/no-store", "/vary-all", "/error"] {
        assert_never_stored(&gateway, &origin, path, &[]);
    }
    // Nor is what was stored for everybody given to those who ask for their own.
    get(gateway.port(), "/b");
    assert_hit(&get(gateway.port(), "/b"));
    assert_never_stored(&gateway, &origin, "/b", &[("Authorization", "Bearer x")]);
    assert_never_stored(&gateway, &origin, "/b", &[("Cookie", "id=1")]);
    assert_never_stored(&gateway, &origin, "/b", &[("Cache-Control", "no-store")]);
    for method in ["POST", "PUT", "DELETE"] {
        let answer = request(gateway.port(), method, "/b", &[], b"x");
        assert_eq!(answer.cache_status(), "portcullis; fwd=method");
    }
    assert_miss(&get(gateway.port(), "/b"));
    get(gateway.port(), "/missing");
    let missing = get(gateway.port(), "/missing");
    assert_hit(&missing);
    assert_eq!(missing.status, 404);
}

#[test]
fn variants_are_kept_apart() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    let ask = |language: &str| request(gateway.port(), "GET", "/vary", &[("Accept-Language", language)], b"");
    for language in ["de", "en"] {
        let answer = ask(language);
        assert_miss(&answer);
        assert_eq!(answer.body, language.as_bytes());
    }
    for language in ["de", "en", "de"] {
        let answer = ask(language);
        assert_hit(&answer);
        assert_eq!(answer.body, language.as_bytes());
    }
    let without = get(gateway.port(), "/vary");
    assert_miss(&without);
    assert_eq!(without.body, b"-");
    assert_eq!(origin.count("/vary"), 3);
}

#[test]
fn hosts_and_queries_are_kept_apart() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    for (host, path) in [("one.example", "/a"), ("two.example", "/a"), ("one.example", "/a?x=1"), ("one.example", "/a?x=2")] {
        let ask = || request(gateway.port(), "GET", path, &[("Host", host)], b"");
        let answer = ask();
        assert_miss(&answer);
        assert_eq!(answer.body, format!("{host} {path}").into_bytes());
        let answer = ask();
        assert_hit(&answer);
        assert_eq!(answer.body, format!("{host} {path}").into_bytes());
    }
}

#[test]
fn a_head_is_answered_from_what_a_get_stored() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    let before = request(gateway.port(), "HEAD", "/tagged", &[], b"");
    assert_eq!((before.status, before.body.len()), (200, 0));
    assert_miss(&get(gateway.port(), "/tagged"));
    let after = request(gateway.port(), "HEAD", "/tagged", &[], b"");
    assert_hit(&after);
    assert_eq!((after.status, after.header("content-length"), after.body.len()), (200, Some("10"), 0));
    assert_eq!(origin.count("/tagged"), 2);
}

#[test]
fn conditions_and_ranges_are_answered_from_memory() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    get(gateway.port(), "/tagged");
    let ask = |headers: &[(&str, &str)]| request(gateway.port(), "GET", "/tagged", headers, b"");
    let unchanged = ask(&[("If-None-Match", "\"v1\"")]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{:?}", unchanged.headers);
    assert_eq!(unchanged.header("etag"), Some("\"v1\""));
    assert!(unchanged.cache_status().contains("hit"), "{:?}", unchanged.headers);
    assert_eq!(gateway.wait_log(|line| line["status"] == 304)["cache"], "hit");
    let changed = ask(&[("If-None-Match", "\"v0\"")]);
    assert_eq!((changed.status, &*changed.body), (200, &b"0123456789"[..]));
    let part = ask(&[("Range", "bytes=2-4")]);
    assert_eq!((part.status, &*part.body), (206, &b"234"[..]), "{:?}", part.headers);
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(part.header("content-length"), Some("3"));
    let beyond = ask(&[("Range", "bytes=20-")]);
    assert_eq!(beyond.status, 416, "{:?}", beyond.headers);
    let whole = get(gateway.port(), "/tagged");
    assert_hit(&whole);
    assert_eq!(whole.body, b"0123456789");
    assert_eq!(origin.count("/tagged"), 1);
}

#[test]
fn a_range_that_misses_stores_no_part() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    request(gateway.port(), "GET", "/tagged", &[("Range", "bytes=2-4")], b"");
    let whole = get(gateway.port(), "/tagged");
    assert_miss(&whole);
    assert_eq!((whole.status, &*whole.body), (200, &b"0123456789"[..]));
}

#[test]
fn long_bodies_pass_whole_and_unstored() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    for path in ["/big", "/big-chunked"] {
        for _ in 0..2 {
            let answer = get(gateway.port(), path);
            assert_eq!(answer.status, 200);
            assert!(answer.body.len() == 100_000 && answer.body.iter().all(|byte| *byte == b'x'), "{path}");
            assert!(!answer.cache_status().contains("hit"), "{path}");
        }
        assert_eq!(origin.count(path), 2, "{path}");
    }
}

#[test]
fn memory_is_bounded() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    let path = |number: usize| format!("/block/{number}");
    for number in 0..100 {
        assert_eq!(get(gateway.port(), &path(number)).body.len(), 50_000);
    }
    let kept = (0..100).filter(|number| {
        // Only looked up: what a HEAD misses is not stored, and so evicts nothing.
        request(gateway.port(), "HEAD", &path(*number), &[], b"").cache_status().contains("hit")
    });
    let kept = kept.count();
    assert!((1..=20).contains(&kept), "{kept} blocks of 50 kB are held in 1 MiB");
}

#[test]
fn policies_judge_what_comes_from_memory_as_well() {
    let origin = origin();
    let gateway = start(
        &origin,
        concat!(
            "  - path: /limited/*\n    service: origin\n    policies:\n      cache: { ttl: 60s }\n",
            "      rate_limit: { by: route, limit: 2/hour }\n",
            "  - path: /open/*\n    service: origin\n    policies:\n      cache: { ttl: 60s }\n",
            "      authn: { api_key: {}, optional: true }\n",
            "  - path: /closed/*\n    service: origin\n    policies:\n      cache: { ttl: 60s }\n      authn: { api_key: {} }\n",
        ),
    );
    let port = gateway.port();
    assert_miss(&get(port, "/limited/a"));
    assert_hit(&get(port, "/limited/a"));
    let third = get(port, "/limited/a");
    third.assert_problem(429, "rate_limit", "rate_limited");
    assert_eq!(third.header("cache-status"), None);

    assert_miss(&get(port, "/open/a"));
    assert_hit(&get(port, "/open/a"));
    assert_eq!(request(port, "GET", "/open/a", &[("X-API-Key", "wrong")], b"").status, 401);
    let known = request(port, "GET", "/open/a", &[("X-API-Key", KEY)], b"");
    assert_eq!((known.status, known.cache_status()), (200, "portcullis; fwd=bypass; detail=credentials"));

    assert_eq!(request(port, "GET", "/closed/a", &[("X-API-Key", KEY)], b"").status, 200);
    assert_eq!(get(port, "/closed/a").status, 401);
    assert_eq!(request(port, "GET", "/closed/a", &[("X-API-Key", KEY)], b"").status, 200);
    assert_eq!(origin.count("/closed/a"), 2);
}

#[test]
fn a_reload_keeps_what_is_stored() {
    let origin = origin();
    let gateway = start(&origin, SIMPLE);
    assert_miss(&get(gateway.port(), "/a"));
    assert_eq!(gateway.reload().0, 200);
    assert_hit(&get(gateway.port(), "/a"));
}

/// Who fetches for others and runs out of time lets go of the key: the next one fetches, at once.
#[test]
fn a_fetch_that_runs_out_of_time_holds_up_nobody() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let backend = Backend::answering(move |_| {
        if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_secs(3));
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let gateway = Gateway::start(&format!(
        "
         listeners: [ {{ bind: '127.0.0.1:$PORT', timeouts: {{ request: 300ms }} }} ]
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{ ttl: 1m }} }} }} ]
        ",
        backend.port()
    ));
    assert_eq!(get(gateway.port(), "/a").status, 504);
    let begun = std::time::Instant::now();
    assert_eq!(get(gateway.port(), "/a").text(), "ok");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
}

#[test]
fn what_is_said_to_be_stored_is() {
    let origin = origin();
    let all = [("0", "/empty"), ("0", "/a"), ("256MiB", "/longest")];
    for (engine, (memory, path)) in ENGINES.into_iter().flat_map(|engine| all.map(|case| (engine, case))) {
        let gateway = Gateway::start(&format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ engine: {engine}, cache_memory: {memory} }}\n\
             routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{ ttl: 60s, max_body: 32MiB }} }} }} ]\n",
            origin.port()
        ));
        assert_never_stored(&gateway, &origin, path, &[]);
    }
}

#[test]
fn what_is_stale_is_given_by_the_same_rule_on_each_engine() {
    for engine in ENGINES {
        let origin = origin();
        let gateway = Gateway::start(&format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ engine: {engine} }}\n\
             services: {{ origin: {{ endpoints: [ 127.0.0.1:{} ] }} }}\nroutes:\n\
             - {{ path: /a, service: origin, policies: {{ cache: {{ ttl: 1s, max_stale: 0s }} }} }}\n\
             - {{ path: /trouble, service: origin, policies: {{ cache: {{ query: none }} }} }}\n",
            origin.port()
        ));
        assert_miss(&get(gateway.port(), "/a"));
        eventually("nobody is given what has expired", || {
            request(gateway.port(), "GET", "/a", &[("Cache-Control", "max-stale=100")], b"");
            origin.count("/a") == 2
        });
        // An error in the place of another one helps nobody.
        assert_eq!(get(gateway.port(), "/trouble?503").status, 503);
        let mut statuses = Vec::new();
        eventually("the error is what the service says now", || {
            statuses.push(get(gateway.port(), "/trouble?500").status);
            statuses.last() == Some(&500)
        });
        assert_eq!(statuses.first(), Some(&503), "{engine}: the first one was stored");
        // What is good does.
        eventually("it is stored", || get(gateway.port(), "/trouble?200").status == 200);
        eventually("it has expired", || {
            let stale = get(gateway.port(), "/trouble?500");
            assert_eq!(stale.status, 200, "{engine}: {stale:?}");
            stale.cache_status().contains("fwd=stale")
        });
    }
}

#[test]
fn too_little_memory_is_refused() {
    let files = Files::new();
    let route = "routes: [ { path: /*, service: a, port: 1, policies: { cache: {} } } ]";
    let disk = "cache_disk: { path: /var/cache/p, max_size: 64MiB }";
    for (server, code, said) in [
        ("cache_memory: 4KiB", 1, "`cache_memory` is at least 1MiB"),
        ("cache_memory: 1023KiB", 1, "write 1MiB or more, `0` for no cache at all"),
        ("cache_memory: 1MiB", 0, "ok"),
        ("cache_memory: 0", 0, "ok"),
        (&format!("cache_memory: 0, {disk}"), 1, "`cache_disk` stays empty"),
        (&format!("cache_memory: 2MiB, {disk}"), 0, "nothing gets to disk that is too long for memory"),
        (&format!("cache_memory: 8MiB, {disk}"), 0, "ok"),
    ] {
        files.write("a.yaml", format!("listeners: [ {{ bind: 127.0.0.1:0 }} ]\nserver: {{ {server} }}\n{route}\n"));
        let ran = portcullis(files.dir(), &["check", "a.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == code && told.contains(said), "{server}: {told}");
    }
}
