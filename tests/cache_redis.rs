//! The cache's tier in Redis: shared by gateways and over their restarts, held against purges and changes, and done without where Redis
//! fails.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};
use crate::tiers::*;

const CONFIG: &str = "
    redis: { nodes: [ $NODES ] }
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    server: { workers: 2, cache_redis: { deadline: 500ms }, engine: portcullis }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    consumers:
      - { name: ann, api_keys: [ { hash: 'sha256:$ANN' } ] }
      - { name: bob, api_keys: [ { hash: 'sha256:$BOB' } ] }
    routes:
      - { id: all, path: /*, service: a, policies: { cache: { ttl: 1h, max_body: 4MiB } } }
      - { id: mine, path: /mine/*, service: a, policies: { authn: { api_key: {} }, cache: { ttl: 1h, per: consumer } } }
      - { id: memory, path: /memory/*, service: a, policies: { cache: { ttl: 1h, redis: false } } }
      - { id: short, path: /short/*, service: a, policies: { cache: { ttl: 1s, stale_if_error: 1h } } }
      - { id: behind, path: /behind/*, service: a, policies: { cache: { ttl: 1s, stale_while_revalidate: 1h } } }
";

fn yaml(nodes: &str, origin: &Origin) -> String {
    keyed(CONFIG, origin).replace("$NODES", nodes)
}

fn of(redis: &Redis, origin: &Origin) -> String {
    yaml(&format!("'127.0.0.1:{}'", redis.port()), origin)
}

#[track_caller]
fn start(yaml: &str) -> Gateway {
    let gateway = Gateway::start(yaml);
    wait_open(&gateway);
    gateway
}

#[track_caller]
fn wait_open(gateway: &Gateway) {
    eventually("it looks into Redis", || gateway.metric("portcullis_cache_redis_open") == 1.0);
}

fn stored(gateway: &Gateway) -> f64 {
    gateway.metric("portcullis_cache_redis_stored_total")
}

/// Asks for these, and waits until all of them are in Redis.
#[track_caller]
fn warm(gateway: &Gateway, asked: &[(&str, &[(&str, &str)])]) {
    let before = stored(gateway);
    for (path, fields) in asked {
        assert_miss(&ask(gateway, path, fields));
    }
    let all = before + asked.len() as f64;
    eventually("all is written", || stored(gateway) >= all);
}

#[track_caller]
fn warm_paths(gateway: &Gateway, paths: &[&str]) {
    let none: &[(&str, &str)] = &[];
    warm(gateway, &paths.iter().map(|path| (*path, none)).collect::<Vec<_>>());
}

#[track_caller]
fn purge(gateway: &Gateway, body: &Value) {
    let fields = [("Content-Type", "application/json")];
    let answer = request(gateway.admin(), "POST", "/cache/purge", &fields, body.to_string().as_bytes());
    assert_eq!((answer.status, answer.json()["others"].as_str()), (200, Some("told")), "{}", answer.text());
}

#[test]
fn gateways_share_what_one_of_them_has_fetched() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/a", "/b/size-300000", "/c", "/d"]);
    let first = ask(&one, "/a", &[]);
    assert_memory(&first);
    let again = ask(&two, "/a", &[]);
    assert_redis(&again);
    assert_eq!((&again.body, again.header("etag")), (&first.body, first.header("etag")));
    assert!(again.header("age").is_some() && again.header("cache-tag").is_none());
    assert_memory(&ask(&two, "/a", &[]));
    // A part, a condition, and a head, each of what memory has not got yet.
    let part = ask(&two, "/b/size-300000", &[("Range", "bytes=100000-100009")]);
    assert_eq!((part.status, &*part.body), (206, &body("/b/size-300000", 1)[100_000..100_010]));
    assert_whole(&ask(&two, "/b/size-300000", &[]));
    assert_eq!(ask(&two, "/c", &[("If-None-Match", "*")]).status, 304);
    let head = request(two.port(), "HEAD", "/d", &[HOST], b"");
    assert_redis(&head);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("2000"), 0));
    // What memory has of it was stored by a gateway that is gone.
    drop(one);
    let three = start(&yaml);
    assert_redis(&ask(&three, "/a", &[("Cache-Control", "only-if-cached")]));
    assert_eq!(origin.asked().len(), 4, "each was asked for once");
    for (path, tier) in [("/a", "redis"), ("/a", "memory"), ("/c", "redis"), ("/d", "redis")] {
        two.wait_log(|line| line["path"] == path && line["cache"] == "hit" && line["cache_tier"] == tier);
    }
    // A route may do without.
    assert_miss(&ask(&two, "/memory/a", &[]));
    assert_miss(&ask(&three, "/memory/a", &[]));
    let metric = |name: &str| two.metric(&format!("portcullis_cache_redis_{name}"));
    assert!(metric("hits_total") >= 4.0 && metric("lookup_microseconds_total") > 0.0);
    assert_eq!(metric("errors_total") + metric("damaged_total") + metric("dropped_total"), 0.0);
    // Compressed, and without a word of whose it is.
    assert!(metric("read_bytes_total") < 100_000.0, "{}", metric("read_bytes_total"));
    let keys = redis.cli(&["KEYS", "portcullis:cache:*"]);
    assert!(keys.lines().count() >= 8 && !keys.contains("shop"), "{keys}");
    for key in keys.lines() {
        let left: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!((3_000_000..=3_600_000).contains(&left), "{key}: {left}");
    }
}

#[test]
fn variants_and_consumers_are_told_apart_in_redis() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    for language in ["de", "en", "fr"] {
        warm(&one, &[("/vary", &[("Accept-Language", language)])]);
    }
    for key in [ANN, BOB] {
        warm(&one, &[("/mine/a", &[("X-API-Key", key)])]);
    }
    let two = start(&yaml);
    for language in ["fr", "de", "en"] {
        let answer = ask(&two, "/vary", &[("Accept-Language", language)]);
        // The first one comes with those that vary from it.
        if language == "de" {
            assert_memory(&answer)
        } else {
            assert_redis(&answer)
        }
        assert_eq!(answer.text(), language);
    }
    assert_miss(&ask(&two, "/vary", &[("Accept-Language", "it")]));
    for key in [BOB, ANN] {
        let answer = ask(&two, "/mine/a", &[("X-API-Key", key)]);
        assert_redis(&answer);
        assert!(!answer.text().contains(if key == ANN { "bob" } else { "ann" }), "{}", answer.text());
    }
    assert_eq!(ask(&two, "/mine/a", &[]).status, 401);
    let keys = redis.cli(&["KEYS", "*"]);
    assert!(!keys.contains("ann") && !keys.contains("mine"), "{keys}");
}

#[test]
fn what_is_purged_on_one_gateway_is_given_by_none() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let [one, two] = [start(&yaml), start(&yaml)];
    let gone = ["/url", "/p/1", "/p/2", "/t/tag"];
    warm_paths(&one, &gone);
    warm_paths(&one, &["/kept", "/soft", "/short/soft"]);
    // In the memory of one, and in Redis alone.
    assert_redis(&ask(&two, "/url", &[]));
    for body in [
        json!({ "urls": ["http://shop.example/url"] }),
        json!({ "prefixes": ["http://shop.example/p/"] }),
        json!({ "tags": ["tag"], "everywhere": true }),
        json!({ "urls": ["http://shop.example/soft"], "soft": true }),
    ] {
        purge(&one, &body);
    }
    let ordered = Instant::now();
    let heard = || two.metric("portcullis_cache_purges_heard_total") >= 4.0;
    eventually("it is heard", heard);
    assert!(ordered.elapsed() < Duration::from_secs(1), "{:?}", ordered.elapsed());
    for path in gone {
        assert_miss(&ask(&two, path, &[]));
        assert_memory(&ask(&two, path, &[]));
    }
    // Stale: it is asked about.
    let soft = ask(&two, "/soft", &[]);
    assert!(soft.cache_status().contains("fwd=stale"), "{:?}", soft.headers);
    assert_redis(&ask(&two, "/kept", &[]));
    // One that was not there then hears of all of it before it looks, and has what was stored since.
    eventually("all is written", || stored(&two) >= 5.0);
    let three = start(&yaml);
    for path in ["/kept", "/url", "/p/1", "/p/2", "/t/tag", "/soft"] {
        assert_redis(&ask(&three, path, &[]));
    }
    purge(&three, &json!({ "hosts": ["shop.example"] }));
    assert_miss(&ask(&three, "/short/soft", &[]));
    assert_miss(&ask(&three, "/kept", &[]));
    let four = start(&yaml);
    assert_miss(&ask(&four, "/p/1", &[]));
}

#[test]
fn what_was_on_its_way_when_it_was_purged_is_given_by_none() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let [one, two] = [start(&yaml), start(&yaml)];
    std::thread::scope(|scope| {
        let fill = scope.spawn(|| ask(&one, "/slow/a", &[]));
        eventually("it is asked for", || origin.count("/slow/a") == 1);
        purge(&two, &json!({ "urls": ["http://shop.example/slow/a"] }));
        assert_miss(&fill.join().unwrap());
    });
    // Whether or not it was written: it counts nowhere.
    warm_paths(&one, &["/after"]);
    assert_miss(&ask(&two, "/slow/a", &[]));
    assert_miss(&ask(&start(&yaml), "/slow/b", &[]));
    assert_eq!(origin.count("/slow/a"), 2);
}

#[test]
fn what_a_request_has_changed_is_not_in_redis_any_more() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/a", "/a?x=1", "/b"]);
    // The one that it passes knows it at once, though another one has stored it.
    assert_eq!(request(two.port(), "POST", "/a?x=1", &[HOST], b"").status, 200);
    for path in ["/a", "/a?x=1"] {
        assert_miss(&ask(&two, path, &[]));
    }
    assert_redis(&ask(&two, "/b", &[]));
    let three = start(&yaml);
    assert_eq!(request(three.port(), "DELETE", "/b", &[HOST], b"").status, 200);
    // And others that did not hear of it, once it is written: the client does not wait for that.
    eventually("it is noted", || {
        let four = start(&yaml);
        ask(&four, "/b", &[]).cache_status().contains("fwd=")
    });
}

#[test]
fn stale_answers_are_given_from_redis_where_they_may_be() {
    let (redis, mut origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    warm_paths(&one, &["/short/a", "/behind/a"]);
    let two = start(&yaml);
    std::thread::sleep(Duration::from_millis(1_100));
    // Given at once, and fetched behind its back.
    let stale = ask(&two, "/behind/a", &[]);
    assert!(stale.cache_status().ends_with("detail=stale-while-revalidate"), "{:?}", stale.headers);
    two.wait_log(|line| line["path"] == "/behind/a" && line["cache"] == "stale" && line["cache_tier"] == "redis");
    eventually("another one was fetched", || origin.count("/behind/a") == 2);
    origin.stop();
    let dead = ask(&two, "/short/a", &[]);
    assert!(dead.cache_status().ends_with("detail=stale-if-error"), "{:?}", dead.headers);
    assert_whole(&dead);
}

#[test]
fn what_expired_here_is_found_where_another_one_has_fetched_it_anew() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin).replace("ttl: 1s, stale_if_error: 1h", "ttl: 5s");
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/short/a"]);
    assert_redis(&ask(&two, "/short/a", &[]));
    let before = stored(&one);
    eventually("it has expired", || ask(&one, "/short/a", &[]).cache_status().contains("fwd=stale"));
    eventually("it is written", || stored(&one) > before);
    assert_redis(&ask(&two, "/short/a", &[]));
    assert_memory(&ask(&two, "/short/a", &[]));
    assert_eq!(origin.count("/short/a"), 2);
}

#[test]
fn what_is_fetched_behind_a_clients_back_is_fetched_by_one_gateway() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin).replace("ttl: 1s, stale_while_revalidate", "ttl: 5s, stale_while_revalidate");
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/behind/a"]);
    assert_redis(&ask(&two, "/behind/a", &[]));
    let before = stored(&one);
    eventually("it is stale", || ask(&one, "/behind/a", &[]).cache_status().contains("stale-while-revalidate"));
    eventually("another one was fetched and written", || stored(&one) > before);
    let fetched = ask(&one, "/behind/a", &[]);
    eventually("it is found behind the other one's client", || ask(&two, "/behind/a", &[]).body == fetched.body);
    assert_eq!(origin.count("/behind/a"), 2);
}

#[test]
fn whatever_else_stands_in_redis_is_a_miss() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    let paths: Vec<String> = (0..8).map(|number| format!("/{number}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    warm_paths(&one, &paths);
    let keys = redis.cli(&["KEYS", "portcullis:cache:*"]);
    let keys: Vec<&str> = keys.lines().filter(|key| !key.ends_with(":changed")).collect();
    assert_eq!(keys.len(), 8);
    // Cut, longer, changed at its end, foreign, of another version, another key's, another kind, and gone.
    let cut = "redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, -20))";
    redis.cli(&["EVAL", cut, "1", keys[0]]);
    redis.cli(&["APPEND", keys[1], "x"]);
    redis.cli(&["SETRANGE", keys[2], "300", "x\u{1}x"]);
    redis.cli(&["SET", keys[3], "hello"]);
    redis.cli(&["SETRANGE", keys[4], "0", "pcr0"]);
    redis.cli(&["EVAL", "redis.call('SET', KEYS[1], redis.call('GET', KEYS[2]))", "2", keys[5], keys[6]]);
    redis.cli(&["DEL", keys[6]]);
    redis.cli(&["LPUSH", keys[6], "x"]);
    redis.cli(&["DEL", keys[7]]);
    let two = start(&yaml);
    for path in &paths {
        let answer = ask(&two, path, &[]);
        assert_miss(&answer);
        assert_whole(&answer);
    }
    assert_eq!(two.metric("portcullis_cache_redis_damaged_total"), 6.0);
    // They are written over.
    eventually("all is written", || stored(&two) >= 8.0);
    let three = start(&yaml);
    for path in &paths {
        assert_redis(&ask(&three, path, &[]));
    }
    redis.cli(&["FLUSHALL"]);
    let four = start(&yaml);
    for path in &paths {
        assert_miss(&ask(&four, path, &[]));
    }
}

#[test]
fn who_asks_for_the_same_at_once_has_redis_asked_once_and_the_service_once() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    let all = |gateway: &Gateway, path: &str| {
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..50).map(|_| scope.spawn(|| ask(gateway, path, &[]))).collect();
            asking.into_iter().for_each(|answer| assert_whole(&answer.join().unwrap()));
        });
    };
    all(&one, "/slow/a");
    assert_eq!(origin.count("/slow/a"), 1);
    eventually("it is written", || stored(&one) >= 1.0);
    let two = start(&yaml);
    all(&two, "/slow/a");
    assert_eq!(origin.count("/slow/a"), 1);
    assert!(two.metric("portcullis_cache_redis_hits_total") < 10.0);
}

#[test]
fn without_redis_requests_wait_no_longer_than_the_deadline() {
    let (mut redis, origin) = (Redis::start(), origin());
    const DEADLINE: u64 = 200;
    let yaml = of(&redis, &origin).replace("deadline: 500ms", &format!("deadline: {DEADLINE}ms"));
    let gateway = start(&yaml);
    let (ends, number) = (AtomicBool::new(false), AtomicUsize::new(0));
    let slowest = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut slowest = Duration::ZERO;
                    while !ends.load(Ordering::Relaxed) {
                        // Misses and hits.
                        let path = format!("/{}", number.fetch_add(1, Ordering::Relaxed) / 2);
                        let began = Instant::now();
                        let answer = ask(&gateway, &path, &[]);
                        slowest = slowest.max(began.elapsed());
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        assert_whole(&answer);
                    }
                    slowest
                })
            })
            .collect();
        let done = || gateway.metric("portcullis_cache_redis_stored_total");
        eventually("it is written to", || done() > 20.0);
        redis.pause();
        eventually("it is late", || gateway.metric("portcullis_cache_redis_late_total") > 0.0);
        eventually("nobody waits for it", || gateway.metric("portcullis_cache_redis_skipped_total") > 20.0);
        redis.resume();
        let before = done();
        eventually("it is written to again", || done() > before + 20.0);
        wait_open(&gateway);
        redis.kill();
        eventually("it is missed", || gateway.metric("portcullis_cache_redis_open") == 0.0);
        redis.restart();
        let before = done();
        eventually("it is written to again", || done() > before + 20.0);
        wait_open(&gateway);
        ends.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    });
    // What a busy machine takes is not Redis's.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // Of those that have waited for it, not for their service, most have waited so long, and no longer.
    let own = |line: &Value| line["duration_us"].as_u64().unwrap() - line["upstream_us"].as_u64().unwrap_or_default();
    let mut waited: Vec<u64> = gateway.log().iter().map(|line| own(line) / 1000).filter(|ms| *ms >= DEADLINE * 9 / 10).collect();
    waited.sort_unstable();
    assert!(!waited.is_empty() && waited[waited.len() / 2] < DEADLINE * 3 / 2, "{waited:?}");
    let complaints = gateway.stderr().matches("the cache does without Redis").count();
    assert!(complaints <= 1, "{complaints}");
    // It works as before, for others too.
    warm_paths(&gateway, &["/after"]);
    assert_redis(&ask(&start(&yaml), "/after", &[]));
}

#[test]
fn operators_see_what_is_in_redis() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    warm(&one, &[("/vary", &[("Accept-Language", "de")])]);
    warm(&one, &[("/vary", &[("Accept-Language", "en")])]);
    let two = start(&yaml);
    let explain = |path: &str| -> Value {
        serde_json::from_str(&two.admin_get(&format!("/cache/explain?url=http://shop.example{path}")).1).unwrap()
    };
    let told = explain("/vary&header=Accept-Language:en");
    assert_eq!((told["would"].as_str(), told["stored"].as_array().map(Vec::len)), (Some("hit"), Some(0)), "{told}");
    let there = told["in_redis"].as_array().unwrap();
    assert_eq!((there.len(), there.iter().filter(|entry| entry["fits"] == true).count()), (2, 1), "{told}");
    assert_eq!(explain("/none")["in_redis"], json!([]));
    assert_miss(&ask(&two, "/none", &[]));
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin);
    let (one, two) = (start(&yaml), Gateway::start(&yaml.replace("cache_redis: { deadline: 500ms }, ", "")));
    warm_paths(&one, &["/a", "/b", "/c"]);
    purge(&two, &json!({ "urls": ["http://shop.example/c"] }));
    assert_miss(&ask(&two, "/a", &[]));
    assert!(!two.admin_get("/metrics").1.contains("portcullis_cache_redis"));
    two.rewrite(&yaml);
    assert_eq!(two.reload().0, 200);
    wait_open(&two);
    assert_redis(&ask(&two, "/b", &[]));
    assert_miss(&ask(&two, "/c", &[]));
    // One that leaves it as it is.
    two.rewrite(&yaml.replace("id: short", "id: shorter"));
    assert_eq!(two.reload().0, 200);
    assert_memory(&ask(&two, "/b", &[]));
    two.rewrite(&yaml.replace("cache_redis: { deadline: 500ms }, ", ""));
    assert_eq!(two.reload().0, 200);
    eventually("it is off", || two.metric("portcullis_cache_redis_open") == 0.0);
    warm_paths(&one, &["/d"]);
    assert_miss(&ask(&two, "/d", &[]));
}

#[test]
fn a_stock_server_shares_it_as_well() {
    let (redis, origin) = (Redis::start(), origin());
    let yaml = of(&redis, &origin).replace("engine: portcullis", "engine: pingora");
    // Nothing is fetched behind a client's back there.
    let yaml: String = yaml.lines().filter(|line| !line.contains("id: behind")).map(|line| format!("{line}\n")).collect();
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/a", "/b"]);
    let again = ask(&two, "/a", &[]);
    assert!(again.cache_status().contains("hit; ttl="), "{:?}", again.headers);
    assert_whole(&again);
    purge(&one, &json!({ "urls": ["http://shop.example/b"] }));
    eventually("it is heard", || two.metric("portcullis_cache_purges_heard_total") >= 1.0);
    assert_miss(&ask(&two, "/b", &[]));
    assert_eq!((origin.count("/a"), origin.count("/b")), (1, 2));
}

#[test]
fn what_is_not_to_be_in_redis_is_not_looked_for_there() {
    for engine in ["engine: portcullis", "engine: pingora"] {
        let (redis, origin) = (Redis::start(), origin());
        let yaml = of(&redis, &origin).replace("engine: portcullis", engine);
        let yaml: String = yaml.lines().filter(|line| !line.contains("id: behind")).map(|line| format!("{line}\n")).collect();
        let [one, two] = [start(&yaml), start(&yaml)];
        warm_paths(&one, &["/a", "/b"]);
        assert!(ask(&two, "/b", &[]).cache_status().contains("hit; ttl="), "{engine}");
        does_without(&two, &yaml, "redis");
        assert_eq!(origin.count("/a"), 2, "{engine}");
    }
}

/// What is good as a route's fallback is kept for as long.
#[test]
fn the_last_good_answer_is_found_in_redis() {
    let (redis, mut origin) = (Redis::start(), origin());
    let good = "      - { id: good, path: /good/*, service: a, fallback: { cached: 1h }, policies: { cache: { ttl: 1s } } }\n";
    let yaml = format!("{}{good}", of(&redis, &origin).trim_end_matches(' '));
    let one = start(&yaml);
    warm_paths(&one, &["/good/a"]);
    for key in redis.cli(&["KEYS", "portcullis:cache:*"]).lines() {
        let left: i64 = redis.cli(&["PTTL", key]).parse().unwrap();
        assert!((3_000_000..=3_601_000).contains(&left), "{key}: {left}");
    }
    drop(one);
    origin.stop();
    let two = start(&yaml);
    eventually("it is its route's fallback", || ask(&two, "/good/a", &[]).header("x-portcullis-fallback") == Some("cached"));
    assert_whole(&ask(&two, "/good/a", &[]));
}

/// Answers in a Redis of their own; purges go on by the one that gateways share.
#[test]
fn answers_may_have_a_redis_of_their_own() {
    let (shared, own, origin) = (Redis::start(), Redis::start(), origin());
    let plain = of(&shared, &origin);
    let to = format!("cache_redis: {{ redis: {{ nodes: '127.0.0.1:{}' }}, deadline: 500ms }}", own.port());
    let yaml = plain.replace("cache_redis: { deadline: 500ms }", &to);
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/a", "/b", "/c"]);
    let keys = |redis: &Redis| redis.cli(&["KEYS", "*"]);
    assert!(!keys(&shared).contains("cache:") && keys(&own).contains("cache:"), "{} {}", keys(&shared), keys(&own));
    assert_redis(&ask(&two, "/a", &[]));
    purge(&one, &json!({ "urls": ["http://shop.example/b"] }));
    eventually("it is heard", || two.metric("portcullis_cache_purges_heard_total") >= 1.0);
    assert_miss(&ask(&two, "/b", &[]));
    // One that starts hears of it as well, and finds what was not purged.
    purge(&two, &json!({ "urls": ["http://shop.example/a"] }));
    let three = start(&yaml);
    assert_miss(&ask(&three, "/a", &[]));
    assert_redis(&ask(&three, "/c", &[]));
    assert!(keys(&shared).contains("purges") && !keys(&own).contains("purges"), "{} {}", keys(&shared), keys(&own));
    // A reload goes to another Redis, and back. What was there before does not count: who knows what was changed meanwhile.
    let (four, five) = (start(&yaml), start(&plain));
    for (yaml, by, before) in [(&plain, &five, "/d"), (&yaml, &one, "/e")] {
        warm_paths(by, &[before]);
        four.rewrite(yaml);
        assert_eq!(four.reload().0, 200);
        let finds =
            |path: &str| ask(&four, path, &[("Cache-Control", "only-if-cached")]).cache_status().ends_with("detail=redis");
        let mut number = 0;
        eventually("it looks there", || {
            number += 1;
            let path = format!("{before}/{number}");
            warm_paths(by, &[path.as_str()]);
            finds(&path)
        });
        assert!(!finds(before), "{before}");
    }
    // One that starts there counts it.
    assert_redis(&ask(&start(&yaml), "/e", &[]));
    // While it is down nothing is found there, and purges are told.
    drop(own);
    purge(&one, &json!({ "urls": ["http://shop.example/c"] }));
    assert_miss(&ask(&one, "/c", &[]));
    assert_memory(&ask(&one, "/c", &[]));
}

/// Answers that outlive the list of what was purged.
#[test]
fn what_was_purged_stays_purged_where_the_list_is_lost_and_answers_are_not() {
    let (shared, own, origin) = (Redis::start(), Redis::start(), origin());
    let to = format!("cache_redis: {{ redis: {{ nodes: '127.0.0.1:{}' }}, deadline: 500ms }}", own.port());
    let yaml = of(&shared, &origin).replace("cache_redis: { deadline: 500ms }", &to);
    let one = start(&yaml);
    warm_paths(&one, &["/a", "/b"]);
    purge(&one, &json!({ "urls": ["http://shop.example/a"] }));
    drop(one);
    shared.cli(&["FLUSHALL"]);
    let two = start(&yaml);
    assert_miss(&ask(&two, "/a", &[]));
    assert_miss(&ask(&two, "/b", &[]));
    // And what comes after that is shared.
    warm_paths(&two, &["/c"]);
    assert_redis(&ask(&start(&yaml), "/c", &[]));
}

/// RFC 9111, section 4.3.5: what a HEAD says is not what its service has is not the youngest by that, here as on other gateways.
#[test]
fn what_a_head_has_found_to_be_old_takes_nothing_elses_place() {
    let redis = Redis::start();
    let version = Arc::new(AtomicUsize::new(1));
    let now = version.clone();
    let origin = Origin::start(move |asked: &Asked| {
        let version = now.load(Ordering::Relaxed).to_string();
        let fields = [("ETag", &*format!("\"{version}\"")), ("Cache-Control", "max-age=600, stale-if-error=600")];
        // A HEAD has the length of its GET, and no body.
        let all = answer(200, &fields, &version);
        Act::Send(if asked.method == "HEAD" { all[..all.len() - version.len()].to_vec() } else { all })
    });
    let yaml = of(&redis, &origin);
    let [one, two] = [start(&yaml), start(&yaml)];
    let head = |gateway: &Gateway, path: &str| {
        let head = request(gateway.port(), "HEAD", path, &[HOST, ("Cache-Control", "no-cache")], b"");
        assert_eq!(head.header("etag"), Some("\"2\""));
    };
    warm_paths(&one, &["/a", "/b"]);
    version.store(2, Ordering::Relaxed);
    let before = stored(&two);
    assert_eq!(ask(&two, "/a", &[("Cache-Control", "no-cache")]).text(), "2");
    eventually("the new one is written", || stored(&two) > before);
    let before = stored(&one);
    head(&one, "/a");
    // Orders are obeyed one after the other: the second one's has come when the third is written.
    head(&one, "/b");
    eventually("what it says of the other one is written", || stored(&one) > before);
    warm_paths(&one, &["/c"]);
    let three = start(&yaml);
    let found = ask(&three, "/a", &[]);
    assert_redis(&found);
    assert_eq!(found.text(), "2");
    // Of the old one Redis knows that it is.
    assert_eq!(ask(&three, "/b", &[]).text(), "2");
}

/// A 304 sends no body to Redis, but where that is not there any more.
#[test]
fn what_is_validated_is_renewed_without_its_body() {
    let redis = Redis::start();
    // As long when it is compressed.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..300_000).map(|_| noise()).collect();
    let whole = noise.clone();
    let origin = Origin::start(move |asked: &Asked| match asked.header("if-none-match") {
        Some(_) => Act::Send(answer(304, &[("ETag", "\"a\""), ("X-Number", "two"), ("Cache-Control", "max-age=600")], "")),
        None => {
            let fields = [("ETag", "\"a\""), ("X-Number", "one"), ("Cache-Control", "max-age=1, stale-if-error=600")];
            Act::Send(answer(200, &fields, &noise))
        }
    });
    let yaml = of(&redis, &origin);
    let one = start(&yaml);
    let written = || one.metric("portcullis_cache_redis_written_bytes_total");
    for (path, evicted) in [("/a", false), ("/b", true)] {
        warm_paths(&one, &[path]);
        if evicted {
            let keys = redis.cli(&["KEYS", "portcullis:cache:*"]);
            keys.lines().for_each(|key| assert_eq!(redis.cli(&["DEL", key]), "1"));
        }
        let (before, had) = (stored(&one), written());
        eventually("it is validated", || ask(&one, path, &[]).header("x-number") == Some("two"));
        eventually("it is written", || stored(&one) > before);
        let took = written() - had;
        assert!(if evicted { took > 290_000.0 } else { took < 3_000.0 }, "{path}: {took}");
        let two = start(&yaml);
        let found = ask(&two, path, &[]);
        assert_redis(&found);
        assert!(found.header("x-number") == Some("two") && found.body == whole, "{path}: {:?}", found.headers);
        assert_eq!(two.metric("portcullis_cache_redis_damaged_total"), 0.0);
    }
    assert_eq!(one.metric("portcullis_cache_redis_errors_total"), 0.0);
}

/// A way to Redis on which every connection takes its time before anything passes.
fn far(port: u16, time: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                std::thread::sleep(time);
                let there = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (mut from, mut to) = (near.try_clone().unwrap(), there.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to).map(|_| to.shutdown(Shutdown::Both)));
                let _ = std::io::copy(&mut &there, &mut &near);
                let _ = near.shutdown(Shutdown::Both);
            });
        }
    });
    far
}

#[test]
fn a_connection_that_is_opened_for_the_first_time_is_no_failure() {
    let (redis, origin) = (Redis::start(), origin());
    let one = start(&of(&redis, &origin));
    let paths: Vec<String> = (0..12).map(|number| format!("/{number}")).collect();
    warm_paths(&one, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let far = far(redis.port(), Duration::from_millis(400));
    let two = start(&yaml(&format!("'127.0.0.1:{far}'"), &origin).replace("deadline: 500ms", "deadline: 200ms"));
    // Each on a connection of its own, and so on either of the workers.
    for path in &paths {
        assert_whole(&ask(&two, path, &[]));
    }
    let metric = |name: &str| two.metric(&format!("portcullis_cache_redis_{name}_total"));
    assert_eq!(metric("late") + metric("errors"), 0.0);
    // And then it is open on both, though nobody asked on either.
    let mut number = 0;
    eventually("it is found there", || {
        number += 1;
        let path = format!("/later/{number}");
        warm_paths(&one, &[&path]);
        ask(&two, &path, &[]).cache_status().ends_with("detail=redis")
    });
}

#[test]
fn answers_go_over_tls_to_a_redis_that_is_trusted() {
    let (files, origin) = (Files::new(), origin());
    let (cert, key, _) = files.certificate(&["127.0.0.1"]);
    let others = Files::new();
    let (other, ..) = others.certificate(&["127.0.0.1"]);
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let tls =
        ["--port", "0", "--tls-port", "$PORT", "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
    let redis = Redis::start_with(&files, &[&tls[..], &["--tls-auth-clients", "no"]].concat());
    let nodes = format!("nodes: [ '127.0.0.1:{}' ]", redis.port());
    let over = |ca: &str| of(&redis, &origin).replace(&nodes, &format!("{nodes}, tls: {{ ca: '{ca}' }}, connect_timeout: 5s"));
    let [one, two] = [start(&over(&cert)), start(&over(&cert))];
    warm_paths(&one, &["/a", "/b/size-300000"]);
    eventually("it is found there", || {
        two.metric("portcullis_cache_redis_hits_total") > 0.0 || {
            ask(&two, "/a", &[("Cache-Control", "only-if-cached")]).status == 200
        }
    });
    assert_redis(&ask(&two, "/b/size-300000", &[]));
    assert_whole(&ask(&two, "/b/size-300000", &[]));
    let metric = |name: &str| two.metric(&format!("portcullis_cache_redis_{name}_total"));
    assert_eq!(metric("late") + metric("errors") + metric("damaged"), 0.0);
    // Nor is anything said to one that is not trusted.
    let ca = other.display().to_string();
    let three = Gateway::start(&over(&ca));
    eventually("it says why", || three.stderr().contains("certificate"));
    assert_miss(&ask(&three, "/a", &[]));
    assert_memory(&ask(&three, "/a", &[]));
    assert_eq!(three.metric("portcullis_cache_redis_open"), 0.0);
}

#[test]
fn a_cluster_will_do() {
    let (cluster, origin) = (Cluster::start(), origin());
    let yaml = yaml(&cluster.addresses(), &origin).replace("nodes: [", "cluster: true, nodes: [");
    let one = start(&yaml);
    let paths: Vec<String> = (0..12).map(|number| format!("/{number}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    warm_paths(&one, &paths);
    purge(&one, &json!({ "urls": ["http://shop.example/3"] }));
    let two = start(&yaml);
    for path in &paths {
        let answer = ask(&two, path, &[]);
        if *path == "/3" {
            assert_miss(&answer)
        } else {
            assert_redis(&answer)
        }
        assert_whole(&answer);
    }
}

#[test]
fn a_user_who_may_do_little_will_do() {
    let origin = origin();
    let rules = "+mget +del +eval +evalsha +get +set +getrange +pttl +pexpire +time +xadd +xrange +xrevrange";
    let (redis, files) = (Redis::start(), Files::new());
    let secret = files.write("secret", "secret").display().to_string();
    let user = [&["ACL", "SETUSER", "gateway", "on", ">secret", "~portcullis:*"][..], &rules.split(' ').collect::<Vec<_>>()[..]]
        .concat();
    assert_eq!(redis.cli(&user), "OK");
    let login = format!("nodes: [ '127.0.0.1:{}' ], username: gateway, password: {{ file: '{secret}' }}", redis.port());
    let yaml = of(&redis, &origin).replace(&format!("nodes: [ '127.0.0.1:{}' ]", redis.port()), &login);
    let [one, two] = [start(&yaml), start(&yaml)];
    warm_paths(&one, &["/a"]);
    assert_redis(&ask(&two, "/a", &[]));
    assert_eq!(request(two.port(), "POST", "/a", &[HOST], b"").status, 200);
    assert_miss(&ask(&two, "/a", &[]));
    // Without the right to write there, all else goes on.
    assert_eq!(redis.cli(&["ACL", "SETUSER", "gateway", "-set", "-mget"]), "OK");
    assert_miss(&ask(&one, "/b", &[]));
    assert_memory(&ask(&one, "/b", &[]));
    eventually("it is counted", || one.metric("portcullis_cache_redis_dropped_total") >= 1.0);
    assert!(one.metric("portcullis_cache_redis_errors_total") >= 1.0);
}

#[test]
fn what_cannot_be_is_said() {
    let files = Files::new();
    let yaml = "listeners: [ { bind: 127.0.0.1:8080 } ]\nserver: { cache_redis: { deadline: 2s, max_body: 64MiB } }\n\
                routes: [ { path: /*, service: a, port: 1, policies: { cache: { redis: 1 } } } ]\n";
    files.write("portcullis.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    for part in ["`cache_redis.deadline` is from 1ms to 1s", "from 1KiB to 32MiB", "redis: { nodes:", "redis"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
