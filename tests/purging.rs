//! What operators take out of the cache: by URL, prefix, host and tag; hard and soft; here and on every gateway that shares a Redis.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const CONFIG: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    server: { workers: 2 }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /*, service: a, policies: { cache: { ttl: 1h, stale_while_revalidate: 10m } } }
      - { id: seen, path: /seen/*, service: a, policies: { cache: { ttl: 1h, keep_tags: true } } }
      - { path: /tagless/*, service: a, policies: { cache: { ttl: 1h } } }
";

/// Its answers bear the tags that their queries say, and how often it was asked.
fn origin() -> Origin {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::start(move |asked: &Asked| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = asked.target.split('?').next().unwrap();
        if path == "/slow" {
            std::thread::sleep(Duration::from_millis(700));
        }
        let is_fastly = path.starts_with("/fastly") || path.starts_with("/seen");
        let (which, between) = if is_fastly { ("Surrogate-Key", " ") } else { ("Cache-Tag", ",") };
        let tags = path.rsplit('/').next().unwrap().replace('+', between);
        let many = (0..1001).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        let tags = if path.ends_with("/many") { many } else { tags };
        Act::Send(answer(200, &[(which, &tags)], number.to_string()))
    })
}

fn start(origin: &Origin) -> Gateway {
    Gateway::start(&filled(CONFIG, &[("$BACKEND", origin.port())]))
}

fn get_of(gateway: &Gateway, host: &str, path: &str) -> Answer {
    request(gateway.port(), "GET", path, &[("Host", host)], b"")
}

fn state(answer: &Answer) -> &str {
    let status = answer.header("cache-status").unwrap();
    match status {
        _ if status.contains("stale-while") => "stale",
        _ if status.contains("hit") => "hit",
        _ => "miss",
    }
}

#[track_caller]
fn warm(gateway: &Gateway, paths: &[(&str, &str)]) {
    for (host, path) in paths {
        // An old one may be given first.
        eventually("it is stored", || state(&get_of(gateway, host, path)) == "hit");
    }
}

fn order(gateway: &Gateway, body: &Value) -> Answer {
    request(gateway.admin(), "POST", "/cache/purge", &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

#[track_caller]
fn purge(gateway: &Gateway, body: &Value) -> Value {
    let answer = order(gateway, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

const SHOP: &str = "shop.example";
const OTHER: &str = "other.example";

#[test]
fn what_an_operator_purges_is_fetched_anew_and_nothing_else() {
    let origin = origin();
    let gateway = start(&origin);
    let all = [
        (SHOP, "/a/red+blue"),
        (SHOP, "/a/red+blue?x=1"),
        (SHOP, "/fastly/red+green"),
        (SHOP, "/ab/none"),
        (OTHER, "/a/red+blue"),
        (SHOP, "/seen/red"),
    ];
    let everywhere = |tags: &[&str]| json!({ "tags": tags, "everywhere": true });
    for (body, gone) in [
        (json!({ "urls": ["https://shop.example/a/red+blue"] }), &[0][..]),
        (json!({ "urls": ["SHOP.example:8443/x/%2e./a/red+blue?x=1"] }), &[0, 1]),
        (json!({ "urls": ["https://shop.example/a/", "http://shop.example/a"] }), &[]),
        (json!({ "prefixes": ["https://shop.example/a"] }), &[0, 1, 3]),
        (json!({ "prefixes": ["shop.example/a/"] }), &[0, 1]),
        (json!({ "prefixes": ["shop.example"] }), &[0, 1, 2, 3, 5]),
        (json!({ "hosts": ["other.example"] }), &[4]),
        (everywhere(&["red"]), &[0, 1, 2, 4, 5]),
        (everywhere(&["blue", "green"]), &[0, 1, 2, 4]),
        (everywhere(&["re", "RED", "d"]), &[]),
        (json!({ "tags": ["red"], "host": "Other.Example" }), &[4]),
        (json!({ "tags": ["red"], "route": "seen" }), &[5]),
        (json!({ "everything": true }), &[0, 1, 2, 3, 4, 5]),
    ] {
        warm(&gateway, &all);
        let asked = origin.asked().len();
        assert_eq!(purge(&gateway, &body)["others"], "none");
        for (number, (host, path)) in all.iter().enumerate() {
            let expected = if gone.contains(&number) { "miss" } else { "hit" };
            assert_eq!(state(&get_of(&gateway, host, path)), expected, "{body}: {host} {path}");
            assert_eq!(state(&get_of(&gateway, host, path)), "hit", "{body}: {host} {path}");
        }
        assert_eq!(origin.asked().len() - asked, gone.len(), "{body}");
    }
}

#[test]
fn a_soft_purge_gives_the_old_answer_once_more() {
    let origin = origin();
    let gateway = start(&origin);
    let path = "/a/red";
    warm(&gateway, &[(SHOP, path), (SHOP, "/a/blue")]);
    let old = get_of(&gateway, SHOP, path).text();
    purge(&gateway, &json!({ "tags": ["red"], "everywhere": true, "soft": true }));
    let stale = get_of(&gateway, SHOP, path);
    assert_eq!((state(&stale), stale.text()), ("stale", old.clone()), "{stale:?}");
    eventually("another one is fetched behind it", || {
        let answer = get_of(&gateway, SHOP, path);
        state(&answer) == "hit" && answer.text() != old
    });
    assert_eq!(state(&get_of(&gateway, SHOP, "/a/blue")), "hit");
    // Where nothing stale may be given, it is as a hard one.
    warm(&gateway, &[(SHOP, "/seen/red")]);
    purge(&gateway, &json!({ "hosts": [SHOP], "soft": true }));
    assert_eq!(state(&get_of(&gateway, SHOP, "/seen/red")), "miss");
    // A hard one behind it leaves nothing that could be given.
    purge(&gateway, &json!({ "tags": ["red"], "everywhere": true, "soft": true }));
    purge(&gateway, &json!({ "tags": ["red"], "everywhere": true }));
    assert_eq!(state(&get_of(&gateway, SHOP, path)), "miss");
}

#[test]
fn clients_do_not_see_tags_unless_the_route_shows_them() {
    let origin = origin();
    let gateway = start(&origin);
    let has = |answer: &Answer| (answer.header("surrogate-key").is_some(), answer.header("cache-tag").is_some());
    for path in ["/a/red", "/fastly/red"] {
        for _ in 0..2 {
            assert_eq!(has(&get_of(&gateway, SHOP, path)), (false, false), "{path}");
        }
        // Nor where the request does not use the cache.
        let with_cookie = request(gateway.port(), "GET", path, &[("Cookie", "a=1")], b"");
        assert_eq!(has(&with_cookie), (false, false), "{path}");
        assert_eq!(has(&request(gateway.port(), "POST", path, &[], b"")), (false, false), "{path}");
    }
    for _ in 0..2 {
        let answer = get_of(&gateway, SHOP, "/seen/red");
        assert_eq!(answer.header("surrogate-key"), Some("red"));
    }
    // More than any answer may have: a purge might miss it.
    for _ in 0..3 {
        assert_eq!(state(&get_of(&gateway, SHOP, "/a/many")), "miss");
    }
}

#[test]
fn a_stand_ins_tags_are_hidden_as_well() {
    let origin = origin();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        server: { workers: 1 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] }, gone: { endpoints: [ '127.0.0.1:1' ] } }
        routes:
          - { path: /seen/*, service: gone, fallback: { service: a }, policies: { cache: { keep_tags: true } } }
          - { path: /*, service: gone, fallback: { service: a }, policies: { cache: {} } }
    ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", origin.port())]));
    for (path, tags) in [("/a/red", None), ("/seen/red", Some("red"))] {
        for fields in [&[][..], &[("Cookie", "a=1")]] {
            let answer = request(gateway.port(), "GET", path, fields, b"");
            let told = answer.header("surrogate-key").or(answer.header("cache-tag"));
            assert_eq!((answer.header("x-portcullis-fallback"), told), (Some("service"), tags), "{path} {fields:?}");
        }
    }
}

#[test]
fn what_was_asked_for_before_a_purge_is_not_given_after_it() {
    let origin = origin();
    let gateway = start(&origin);
    for body in
        [json!({ "hosts": [SHOP] }), json!({ "urls": ["shop.example/slow"] }), json!({ "tags": ["slow"], "everywhere": true })]
    {
        for soft in [false, true] {
            purge(&gateway, &json!({ "everything": true }));
            let asked = origin.count("/slow");
            let mut first = Client::connect(gateway.port());
            first.send_request("GET", "/slow", &[("Host", SHOP)], b"");
            eventually("it is asked", || origin.count("/slow") > asked);
            let mut body = body.clone();
            body["soft"] = soft.into();
            purge(&gateway, &body);
            // Waits for the first one, which is not for it.
            let second = get_of(&gateway, SHOP, "/slow");
            let old = first.answer_to("GET");
            assert_eq!((old.status, second.status), (200, 200));
            eventually("a newer one is stored", || {
                let answer = get_of(&gateway, SHOP, "/slow");
                state(&answer) == "hit" && answer.text() != old.text()
            });
        }
    }
}

#[test]
fn orders_are_checked_and_need_the_operators_token() {
    let origin = origin();
    let yaml = filled(CONFIG, &[("$BACKEND", origin.port())]) + "    admin: { bind: '127.0.0.1:$ADMIN', token: '${TOKEN}' }\n";
    let gateway = Gateway::start_with(&yaml, &[("TOKEN", "0123456789abcdef0123456789abcdef")]);
    warm(&gateway, &[(SHOP, "/a/red")]);
    assert_eq!(order(&gateway, &json!({ "everything": true })).status, 401);
    assert_eq!(state(&get_of(&gateway, SHOP, "/a/red")), "hit");
    let with_token = |body: &str| {
        let token = [("Authorization", "Bearer 0123456789abcdef0123456789abcdef")];
        request(gateway.admin(), "POST", "/cache/purge", &token, body.as_bytes())
    };
    let many = json!({ "hosts": vec!["h"; 1001] }).to_string();
    for (body, status) in [
        ("", 400),
        ("[1]", 400),
        ("{\"url\":\"/a\"}", 400),
        ("{}", 422),
        ("{\"soft\":true}", 422),
        ("{\"urls\":[\"/a\"]}", 422),
        ("{\"urls\":[\"ftp://shop.example/a\"]}", 422),
        ("{\"urls\":[\"https://user@shop.example/a\"]}", 422),
        ("{\"urls\":[\"https://shop.example/a#b\"]}", 422),
        ("{\"urls\":[\"https://shop.example/a%zz\"]}", 422),
        ("{\"prefixes\":[\"https://shop.example/a?b\"]}", 422),
        ("{\"hosts\":[\"\"]}", 422),
        ("{\"hosts\":[\"a/b\"]}", 422),
        ("{\"tags\":[\"red\"]}", 422),
        ("{\"tags\":[\"red\"],\"host\":\"h\",\"everywhere\":true}", 422),
        ("{\"tags\":[\"red\"],\"route\":\"nobody\"}", 422),
        ("{\"tags\":[\"\"],\"everywhere\":true}", 422),
        ("{\"hosts\":[\"h\"],\"everywhere\":true}", 422),
        (&many, 422),
    ] {
        let answer = with_token(body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(!answer.json()["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(state(&get_of(&gateway, SHOP, "/a/red")), "hit");
    // As an operator does it.
    let admin = format!("127.0.0.1:{}", gateway.admin());
    let run = |args: &[&str], token: &str| {
        let args: Vec<&str> = ["cache", "purge", "--admin", &admin].iter().chain(args).copied().collect();
        portcullis_with(gateway.dir(), &args, &[("PORTCULLIS_ADMIN_TOKEN", token)])
    };
    let token = "0123456789abcdef0123456789abcdef";
    assert!(run(&["--everything"], "wrong").code != 0);
    assert!(run(&[], token).code != 0);
    assert!(run(&["--tag", "red"], token).code != 0);
    for args in [&["https://shop.example/a/red"][..], &["--prefix", "shop.example/a/"], &["--tag", "red", "--everywhere"]] {
        warm(&gateway, &[(SHOP, "/a/red")]);
        let ran = run(args, token);
        assert!(ran.code == 0 && ran.stdout == "purged: 1\n", "{ran:?}");
        assert_eq!(state(&get_of(&gateway, SHOP, "/a/red")), "miss", "{args:?}");
    }
    assert!(gateway.stderr().contains("audit: purged"));
}

#[test]
fn a_stock_server_purges_as_well() {
    let origin = origin();
    let yaml = filled(CONFIG, &[("$BACKEND", origin.port())]);
    let yaml = yaml.replace("workers: 2", "engine: pingora").replace(", stale_while_revalidate: 10m", "");
    let gateway = Gateway::start(&yaml);
    for body in [
        json!({ "urls": ["shop.example/a/red"] }),
        json!({ "prefixes": ["shop.example/a/"] }),
        json!({ "tags": ["red"], "host": SHOP }),
        json!({ "hosts": [SHOP], "soft": true }),
    ] {
        warm(&gateway, &[(SHOP, "/a/red"), (OTHER, "/a/red")]);
        purge(&gateway, &body);
        let answer = get_of(&gateway, SHOP, "/a/red");
        assert_eq!((state(&answer), answer.header("cache-tag")), ("miss", None), "{body}");
        let answer = get_of(&gateway, SHOP, "/a/red");
        assert_eq!((state(&answer), answer.header("cache-tag")), ("hit", None), "{body}");
        assert_eq!(state(&get_of(&gateway, OTHER, "/a/red")), "hit", "{body}");
    }
    assert_eq!(get_of(&gateway, SHOP, "/seen/red").header("surrogate-key"), Some("red"));
}

const STREAM: &str = "portcullis:{cache}:purges";

fn shared(redis: &Redis, origin: &Origin) -> [Gateway; 2] {
    let yaml =
        format!("    redis: {{ nodes: '127.0.0.1:{}' }}\n", redis.port()) + &filled(CONFIG, &[("$BACKEND", origin.port())]);
    std::array::from_fn(|_| Gateway::start(&yaml))
}

fn is_hit(gateway: &Gateway, path: &str) -> bool {
    state(&get_of(gateway, SHOP, path)) == "hit"
}

#[track_caller]
fn within_a_second(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    eventually(what, &mut condition);
    assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
}

#[test]
fn gateways_that_share_a_redis_purge_together() {
    let (mut redis, origin) = (Redis::start(), origin());
    let [one, two] = shared(&redis, &origin);
    let path = "/a/red";
    let warm_both = || [&one, &two].into_iter().for_each(|gateway| warm(gateway, &[(SHOP, path), (SHOP, "/a/blue")]));
    for body in [
        json!({ "urls": ["shop.example/a/red"] }),
        json!({ "prefixes": ["shop.example/a/r"] }),
        json!({ "tags": ["red"], "everywhere": true }),
    ] {
        warm_both();
        assert_eq!(purge(&one, &body)["others"], "told");
        assert!(!is_hit(&one, path));
        within_a_second("the other one hears of it", || !is_hit(&two, path));
        assert!(is_hit(&two, path) && is_hit(&two, "/a/blue"), "once");
    }
    assert_eq!(two.metric("portcullis_cache_purges_heard_total"), 3.0);
    // What a request changes is the cache's that it passes: clients do not write into Redis.
    warm_both();
    let records = redis.cli(&["XLEN", STREAM]);
    assert_eq!(request(one.port(), "POST", path, &[("Host", SHOP)], b"").status, 200);
    assert!(!is_hit(&one, path) && is_hit(&two, path));
    // As long as an order may be: in several records, so that one of them holds up nobody.
    let mut tags = (0..900).map(|number| format!("{number:01000}")).collect::<Vec<_>>();
    tags.push("red".to_owned());
    warm_both();
    assert_eq!(purge(&one, &json!({ "tags": tags, "everywhere": true }))["others"], "told");
    within_a_second("the other one hears of all of it", || !is_hit(&two, path));
    let [before, after] = [records, redis.cli(&["XLEN", STREAM])].map(|count| count.parse::<usize>().unwrap());
    assert!((20..=60).contains(&(after - before)), "{before} {after}");
    // Paused: said honestly, and told later.
    warm_both();
    redis.pause();
    let told = order(&one, &json!({ "tags": ["red"], "everywhere": true }));
    assert_eq!((told.status, &told.json()["others"]), (202, &json!("not_told")), "{}", told.text());
    assert!(!is_hit(&one, path) && is_hit(&two, path));
    let admin = format!("127.0.0.1:{}", one.admin());
    let ran = portcullis(one.dir(), &["cache", "purge", "--admin", &admin, "shop.example/none"]);
    assert!(ran.code != 0 && ran.stderr.contains("have not been told"), "{ran:?}");
    two.wait_metric("portcullis_cache_purges_behind_seconds", 1.0);
    redis.resume();
    eventually("it is told once Redis is back", || !is_hit(&two, path));
    two.wait_metric("portcullis_cache_purges_behind_seconds", 0.0);
    assert!(is_hit(&two, "/a/blue"));
    let said = two.stderr();
    assert!(said.contains("what is purged goes from the cache of this gateway alone") && !said.contains("ERROR"), "{said}");
    // Killed, and back with nothing in it: what was stored is looked after, and what was purged meanwhile is gone.
    warm_both();
    redis.kill();
    assert_eq!(order(&one, &json!({ "tags": ["red"], "everywhere": true })).status, 202);
    assert!(is_hit(&two, path));
    redis.restart();
    eventually("it is told once Redis is back", || {
        state(&get_of(&two, SHOP, path)) == "miss" || two.metric("portcullis_cache_purges_missed_total") == 1.0
    });
    two.wait_metric("portcullis_cache_purges_missed_total", 1.0);
    warm_both();
    assert_eq!(purge(&one, &json!({ "hosts": [SHOP] }))["others"], "told");
    within_a_second("they hear each other again", || !is_hit(&two, path));
}

/// Whoever has ordered it may leave before the others are told.
#[test]
fn an_order_goes_to_all_though_its_client_does_not_wait() {
    let (redis, origin) = (Redis::start(), origin());
    let [one, two] = shared(&redis, &origin);
    let path = "/a/red";
    [&one, &two].into_iter().for_each(|gateway| warm(gateway, &[(SHOP, path)]));
    // In several records: Redis obeys what it has been sent, and the last of them has not been.
    let mut tags = (0..100).map(|number| format!("{number:01000}")).collect::<Vec<_>>();
    tags.push("red".to_owned());
    let body = json!({ "tags": tags, "everywhere": true }).to_string();
    redis.pause();
    let mut client = Client::connect(one.admin());
    client.send_request("POST", "/cache/purge", &[("Content-Type", "application/json")], body.as_bytes());
    eventually("it is purged there", || !is_hit(&one, path));
    client.reset();
    // It has heard of that.
    assert_eq!(one.admin_get("/readyz").0, 200);
    redis.resume();
    eventually("the other one hears of it", || !is_hit(&two, path));
}

#[test]
fn a_gateway_that_was_away_for_too_long_forgets_everything() {
    let (redis, origin) = (Redis::start(), origin());
    let [one, two] = shared(&redis, &origin);
    warm(&two, &[(SHOP, "/a/red")]);
    purge(&one, &json!({ "hosts": [OTHER] }));
    eventually("it hears of it", || two.metric("portcullis_cache_purges_heard_total") == 1.0);
    assert!(is_hit(&two, "/a/red"));
    redis.cli(&[
        "EVAL",
        "redis.call('DEL', KEYS[1]); return redis.call('XADD', KEYS[1], '9999999999999-0', 'by', 'x', 'what', 'nonsense')",
        "1",
        STREAM,
    ]);
    eventually("all of it is gone", || !is_hit(&two, "/a/red"));
    assert!(two.metric("portcullis_cache_purges_missed_total") >= 1.0);
}

#[test]
fn what_a_failover_has_lost_is_told_again() {
    let (redis, origin) = (Redis::start(), origin());
    let [one, two] = shared(&redis, &origin);
    assert_eq!(purge(&one, &json!({ "tags": ["of one"], "everywhere": true }))["others"], "told");
    eventually("it hears of it", || two.metric("portcullis_cache_purges_heard_total") == 1.0);
    let told = || redis.cli(&["XRANGE", STREAM, "-", "+"]).contains("of one");
    assert!(told());
    // As a replica would be that never had it, and has been told of something since.
    redis.cli(&[
        "EVAL",
        "redis.call('DEL', KEYS[1]); return redis.call('XADD', KEYS[1], '9999999999999-0', 'by', 'x', 'what', ARGV[1])",
        "1",
        STREAM,
        "{\"soft\":true,\"purges\":[{\"host\":\"other.example\"}]}",
    ]);
    eventually("it is told once more", told);
    eventually("both have missed something", || {
        [&one, &two].iter().all(|gateway| gateway.metric("portcullis_cache_purges_missed_total") >= 1.0)
    });
}

/// What all threads of a gateway have worked so far.
fn worked(gateway: &Gateway) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Nothing is walked, so that nobody waits for it: an order costs the gateway the same work among many as among few. `make bench-cache` purges a
/// million, with a disk and a Redis, and looks at how long hits take meanwhile.
#[test]
fn a_purge_is_no_more_work_among_many_than_among_few() {
    const MANY: usize = 10_000;
    let origin = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: all\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let files = Files::new();
    let gateway = Gateway::start_in(
        &files,
        &filled(
            &format!(
                "
                listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
                server: {{ workers: 1, cache_disk: {{ path: {}, max_size: 64MiB }} }}
                access_log: {{ output: false }}
                routes: [ {{ path: /*, service: 127.0.0.1, port: $BACKEND, policies: {{ cache: {{}} }} }} ]
                ",
                files.dir().join("cache").display()
            ),
            &[("$BACKEND", origin.port())],
        ),
    );
    let orders = [
        json!({ "prefixes": ["http://shop.example/a/"] }),
        json!({ "tags": ["all"], "everywhere": true }),
        json!({ "hosts": ["shop.example"] }),
        json!({ "everything": true, "soft": true }),
    ];
    let fill = |paths: std::ops::Range<usize>| {
        std::thread::scope(|scope| {
            for client in 0..4 {
                let (gateway, paths) = (&gateway, paths.clone());
                scope.spawn(move || {
                    let mut connection = Client::connect(gateway.port());
                    for number in paths.skip(client).step_by(4) {
                        connection.request("GET", &format!("/a/{number}"), &[("Host", SHOP)], b"");
                    }
                });
            }
        });
    };
    // The least of some rounds: the threads have other things to do as well.
    let work = |order: &Value| {
        let rounds = (0..3).map(|_| {
            let before = worked(&gateway);
            (0..100).for_each(|_| drop(purge(&gateway, order)));
            worked(&gateway) - before
        });
        rounds.min().unwrap()
    };
    fill(0..100);
    let few: Vec<Duration> = orders.iter().map(work).collect();
    fill(0..MANY);
    // On disk as well, as far as the disk has kept up.
    eventually("all are stored", || gateway.metric("portcullis_cache_disk_entries") > 0.9 * MANY as f64);
    for (order, few) in orders.iter().zip(few) {
        let many = work(order);
        println!("{order}: {few:?} of work among few, {many:?} among many");
        assert!(many < few * 2, "{order}: {many:?} among many, {few:?} among few");
    }
}
