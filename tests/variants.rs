//! What shares an entry of the cache, and what has one of its own: by the query, cookies, what clients accept, and consumers; what uses
//! the cache at all; and what operators see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const KEY_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const KEY_B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// It says what it was asked.
fn origin() -> Origin {
    Origin::start(|asked: &Asked| {
        let of = |name: &str| asked.header(name).unwrap_or("-").to_owned();
        let path = asked.target.split('?').next().unwrap();
        if path == "/part" {
            let part = [("Content-Range", "bytes 0-3/10"), ("Cache-Control", "max-age=600"), ("ETag", "\"v\"")];
            return Act::Send(match asked.header("range") {
                Some("bytes=0-3") => answer(206, &part, "0123"),
                Some("bytes=0-0,2-2") => answer(
                    206,
                    &[("Content-Type", "multipart/byteranges; boundary=x"), ("Cache-Control", "max-age=600")],
                    "--x--",
                ),
                _ => answer(200, &[("Cache-Control", "max-age=600"), ("ETag", "\"v\"")], "0123456789"),
            });
        }
        // One that sends a part although it was asked for the whole.
        if path == "/lying" {
            return Act::Send(answer(206, &[("Content-Range", "bytes 0-3/10"), ("Cache-Control", "max-age=600")], "0123"));
        }
        let said = [of("accept-encoding"), of("accept-language"), of("cookie"), of("x-consumer-name"), asked.target.clone()];
        let vary = ("Vary", "Accept-Encoding, Accept-Language");
        Act::Send(answer(200, &[vary, ("Cache-Control", "max-age=600"), ("Cache-Tag", "a,b")], said.join("|")))
    })
}

fn yaml(origin: &Origin) -> String {
    yaml_for(origin, "workers: 2")
}

fn yaml_for(origin: &Origin, server: &str) -> String {
    format!(
        "
listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
server: {{ {server} }}
services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
consumers:
  - {{ name: north, api_keys: [ {{ hash: {} }} ] }}
  - {{ name: south, api_keys: [ {{ hash: {} }} ] }}
routes:
  - {{ path: /vary/*, service: a, policies: {{ cache: {{ vary: {{ accept_encoding: [ br, gzip ], accept_language: [ en, de ] }} }} }} }}
  - {{ path: /packed/*, service: a, policies: {{ compress: {{}}, cache: {{ vary: {{ accept_encoding: identity, accept_language: en }} }} }} }}
  - {{ path: /only/*, service: a, policies: {{ cache: {{ query: {{ only: [ page, q ] }} }} }} }}
  - {{ path: /ignore/*, service: a, policies: {{ cache: {{ query: {{ ignore: [ 'utm_*', fbclid ] }} }} }} }}
  - {{ path: /cookies/*, service: a, policies: {{ cache: {{ cookies: {{ key: [ lang ], drop: [ '_ga*' ] }} }} }} }}
  - id: each
    path: /each/*
    service: a
    policies: {{ authn: {{ api_key: {{}} }}, cache: {{ per: consumer }} }}
  - id: rules
    path: /rules/*
    service: a
    policies:
      cache: {{ bypass: '\"x-debug\" in request.headers && request.headers[\"x-debug\"] == \"1\"', no_store: '\"preview\" in request.query' }}
  - {{ path: /unsure/*, service: a, policies: {{ cache: {{ bypass: 'request.headers[\"x-debug\"] == \"1\"' }} }} }}
  - {{ path: /twice/*, service: a, policies: {{ cache: {{ store_on: second_request }} }} }}
  - {{ id: plain, path: /*, service: a, policies: {{ cache: {{}} }} }}
",
        origin.port(),
        key_hash(KEY_A),
        key_hash(KEY_B)
    )
}

fn state(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{answer:?}");
    if answer.header("cache-status").unwrap().contains("hit") { "hit" } else { "miss" }
}

/// What the service was asked, and whether it was.
fn ask(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> (Vec<String>, bool) {
    let answer = request(gateway.port(), "GET", path, fields, b"");
    (answer.text().split('|').map(str::to_owned).collect(), state(&answer) == "hit")
}

#[test]
fn clients_share_what_is_the_same_for_them() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let get = |path: &str, encoding: &str, language: &str| {
        let all = [("Accept-Encoding", encoding), ("Accept-Language", language)];
        let fields: Vec<_> = all.into_iter().filter(|(_, value)| *value != "-").collect();
        let (said, hit) = ask(&gateway, path, &fields);
        (said[0].clone(), said[1].clone(), hit)
    };
    let told = |encoding: &str, language: &str, hit: bool| (encoding.to_owned(), language.to_owned(), hit);
    for (encoding, language, expected) in [
        ("gzip, deflate, br, zstd", "de-CH, de;q=0.9", told("br, gzip", "de", false)),
        ("br;q=0.1,GZIP", "DE", told("br, gzip", "de", true)),
        ("gzip", "de", told("gzip", "de", false)),
        ("x-gzip, compress", "de, en;q=0.5", told("gzip", "de", true)),
        ("-", "en-GB", told("identity", "en", false)),
        ("zstd", "en, fr;q=0.2", told("identity", "en", true)),
        ("gzip;q=0", "fr;q=0.9, en;q=0.1", told("identity", "en", true)),
        ("-", "fr", told("identity", "-", false)),
        ("-", "-", told("identity", "-", true)),
        // Who will not have it uncoded is asked for as he asks.
        ("gzip, identity;q=0", "en", told("gzip, identity;q=0", "en", false)),
    ] {
        assert_eq!(get("/vary/a", encoding, language), expected, "{encoding}; {language}");
    }
    // With `compress` one plain copy is stored, and each client gets it coded as it likes.
    let long = format!("/packed/{}", "x".repeat(2000));
    for (encoding, coded, hit) in [("gzip", Some("gzip"), false), ("zstd", Some("zstd"), true), ("identity", None, true)] {
        let answer = request(gateway.port(), "GET", &long, &[("Accept-Encoding", encoding)], b"");
        assert_eq!(state(&answer) == "hit", hit, "{encoding}");
        // The origin says no media type, so that what is packed here depends on `compress`'s own list.
        assert!(answer.header("content-encoding").is_none() || answer.header("content-encoding") == coded, "{answer:?}");
    }
    // Elsewhere each spelling is another request.
    assert!(!get("/a", "gzip, br", "de").2 && !get("/a", "br, gzip", "de").2);
}

#[test]
fn a_stock_server_shares_by_the_same_rules() {
    let origin = origin();
    let gateway = Gateway::start(&yaml_for(&origin, "engine: pingora"));
    let de = |encoding: &'static str| [("Accept-Encoding", encoding), ("Accept-Language", "de-AT, en;q=0.1")];
    for (path, fields, hit) in [
        ("/vary/a", &de("br, gzip")[..], false),
        ("/vary/a", &de("gzip;q=0.3,BR"), true),
        ("/vary/a", &de("gzip"), false),
        ("/only/a?page=1&x=2", &[], false),
        ("/only/a?x=3&page=1", &[], true),
        ("/ignore/a?utm_x=2", &[], false),
        ("/ignore/a", &[], true),
        ("/cookies/a", &[("Cookie", "lang=de")], false),
        ("/cookies/a", &[("Cookie", "_ga=1; lang=de")], true),
        ("/cookies/a", &[("Cookie", "lang=de; session=1")], false),
        ("/each/a", &[("X-API-Key", KEY_A)], false),
        ("/each/a", &[("X-API-Key", KEY_A)], true),
        ("/each/a", &[("X-API-Key", KEY_B)], false),
        ("/twice/a", &[], false),
        ("/twice/a", &[], false),
        ("/twice/a", &[], true),
    ] {
        let (said, was) = ask(&gateway, path, fields);
        assert_eq!(was, hit, "{path} {fields:?}: {said:?}");
    }
}

#[test]
fn the_query_counts_as_the_route_says() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let hit = |path: &str| ask(&gateway, path, &[]).1;
    for (path, expected) in [
        ("/only/a?page=1&q=x", false),
        ("/only/a?q=x&page=1", true),
        ("/only/a?z=9&q=x&&page=1&z", true),
        ("/only/a?page=1&q=y", false),
        ("/only/a?page=1", false),
        ("/only/a?page=1&page=2", false),
        ("/only/a?page=2&page=1", false),
        ("/only/a", false),
        ("/only/a?z", true),
        // What another reading of the query would find behind a semicolon counts.
        ("/only/a?z=1;q=x", false),
        ("/ignore/a?a=1&b=2", false),
        ("/ignore/a?b=2&utm_source=x&a=1&fbclid=y", true),
        ("/ignore/a?b=2&%75tm_source=x&a=1", true),
        ("/ignore/a?b=2&utm=x&a=1", false),
        ("/ignore/a?utm_source=1;a=2", false),
        ("/ignore/a", false),
        ("/a?a=1&b=2", false),
        ("/a?b=2&a=1", false),
    ] {
        assert_eq!(hit(path), expected, "{path}");
    }
    // The service sees all of it, and a change of any of them is one of all.
    assert_eq!(ask(&gateway, "/ignore/b?utm_source=x", &[]).0[4], "/ignore/b?utm_source=x");
    assert!(hit("/ignore/b?utm_source=y"));
    assert_eq!(request(gateway.port(), "POST", "/ignore/b?c", &[], b"").status, 200);
    assert!(!hit("/ignore/b"));
    let body = format!("{{\"urls\":[\"127.0.0.1:{}/ignore/b?c=1\"]}}", gateway.port());
    assert_eq!(request(gateway.admin(), "POST", "/cache/purge", &[], body.as_bytes()).status, 200);
    assert!(!hit("/ignore/b"));
}

#[test]
fn cookies_that_are_known_do_not_keep_a_request_from_the_cache() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let get = |cookie: &str| {
        let fields = [("Cookie", cookie)];
        let (said, hit) = ask(&gateway, "/cookies/a", if cookie.is_empty() { &[] } else { &fields });
        (said[2].clone(), hit)
    };
    for (cookie, shown, hit) in [
        ("lang=de", "lang=de", false),
        ("lang=de", "lang=de", true),
        ("_ga=1; lang=de; _gat_x=2", "lang=de", true),
        // Not every service reads these as the same: what is shown is what counts.
        ("lang =de", "lang =de", false),
        ("lang= de", "lang= de", false),
        ("lang", "lang", false),
        ("lang=", "lang=", false),
        ("lang=de", "lang=de", true),
        ("lang=en", "lang=en", false),
        ("", "-", false),
        ("_ga=GA1.2", "-", true),
        // A session is somebody's.
        ("lang=de; session=1", "lang=de; session=1", false),
        ("session=1; _ga=1", "session=1", false),
        ("session=1; _ga=1", "session=1", false),
    ] {
        assert_eq!(get(cookie), (shown.to_owned(), hit), "{cookie}");
    }
}

#[test]
fn each_consumer_has_entries_of_his_own() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let get = |path: &str, fields: &[(&str, &str)]| {
        let (said, hit) = ask(&gateway, path, fields);
        (said[3].clone(), hit)
    };
    for _ in 0..2 {
        assert_eq!(request(gateway.port(), "GET", "/each/a", &[], b"").status, 401);
    }
    let (north, south) = (("X-API-Key", KEY_A), ("X-API-Key", KEY_B));
    assert_eq!(get("/each/a", &[north]), ("north".to_owned(), false));
    assert_eq!(get("/each/a", &[north]), ("north".to_owned(), true));
    assert_eq!(get("/each/a", &[south]), ("south".to_owned(), false));
    assert_eq!(get("/each/a", &[south]), ("south".to_owned(), true));
    assert_eq!(get("/each/a", &[north]), ("north".to_owned(), true));
    // What else he shows the service tells his answers apart.
    assert!(!get("/each/a", &[north, ("Cookie", "session=1")]).1);
    assert!(!get("/each/a", &[north, ("Cookie", "session=2")]).1);
    assert!(get("/each/a", &[north, ("Cookie", "session=1")]).1);
    assert!(!get("/each/a", &[north, ("X-Original-URL", "/b")]).1);
    assert_eq!(request(gateway.port(), "GET", "/each/a", &[("X-API-Key", "wrong")], b"").status, 401);
    // Without it such a request does not use the cache.
    assert!(!get("/a", &[north]).1 && !get("/a", &[north]).1);
}

#[test]
fn rules_say_what_uses_the_cache_and_what_is_stored() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let hit = |path: &str, fields: &[(&str, &str)]| ask(&gateway, path, fields).1;
    let plain = [("X-Debug", "0")];
    assert!(!hit("/rules/a", &plain) && hit("/rules/a", &plain));
    assert!(!hit("/rules/a", &[("X-Debug", "1")]) && hit("/rules/a", &plain));
    assert!(hit("/rules/a", &[]));
    // Of which it cannot be told: for the careful side.
    assert!(!hit("/unsure/a", &plain) && hit("/unsure/a", &plain));
    let answer = request(gateway.port(), "GET", "/unsure/a", &[], b"");
    assert!(answer.header("cache-status").unwrap().contains("detail=rule"), "{answer:?}");
    assert!(!hit("/rules/a?preview", &plain) && !hit("/rules/a?preview", &plain));
    // What is asked for but once takes no room.
    assert!(!hit("/twice/a", &[]) && !hit("/twice/a", &[]) && hit("/twice/a", &[]));
    assert!(!hit("/twice/b", &[]) && hit("/twice/a", &[]));
}

#[test]
fn a_part_is_never_taken_for_the_whole() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let get = |method: &str, path: &str, fields: &[(&str, &str)]| request(gateway.port(), method, path, fields, b"");
    for _ in 0..2 {
        for (range, body) in [("bytes=0-3", "0123"), ("bytes=0-0,2-2", "--x--")] {
            let part = get("GET", "/part", &[("Range", range)]);
            assert_eq!((part.status, part.text()), (206, body.to_owned()));
            assert!(!part.header("cache-status").unwrap().contains("stored"), "{part:?}");
        }
        let lying = get("GET", "/lying", &[]);
        assert!(!lying.header("cache-status").unwrap().contains("hit"), "{lying:?}");
    }
    assert_eq!(state(&get("GET", "/part", &[])), "miss");
    let whole = get("GET", "/part", &[]);
    assert_eq!((state(&whole), whole.text()), ("hit", "0123456789".to_owned()));
    // From here on parts are cut from it.
    for (fields, status, body) in [
        (&[("Range", "bytes=4-5")][..], 206, "45"),
        (&[("Range", "bytes=-2"), ("If-Range", "\"v\"")], 206, "89"),
        (&[("Range", "bytes=-2"), ("If-Range", "\"w\"")], 200, "0123456789"),
        (&[("Range", "bytes=-2"), ("If-Range", "W/\"v\"")], 200, "0123456789"),
        (&[("Range", "bytes=10-")], 416, ""),
    ] {
        let answer = get("GET", "/part", fields);
        assert_eq!((answer.status, answer.text()), (status, body.to_owned()), "{fields:?}");
        assert!(answer.header("cache-status").unwrap().contains("hit"));
    }
    let headed = get("HEAD", "/part", &[]);
    assert_eq!((headed.status, headed.header("content-length")), (200, Some("10")));
}

#[test]
fn operators_see_what_is_stored_and_why() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin));
    let host = format!("127.0.0.1:{}", gateway.port());
    let explain = |query: &str| -> Value {
        let (status, text) = gateway.admin_get(&format!("/cache/explain?{query}"));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let url = format!("url=http://{host}/a%3fx%3d1");
    assert_eq!((&explain(&url)["would"], &explain(&url)["route"]), (&"miss".into(), &"plain".into()));
    ask(&gateway, "/a?x=1", &[("Accept-Language", "de")]);
    let told = explain(&format!("{url}&header=Accept-Language:de"));
    assert_eq!(told["would"], "hit", "{told}");
    let stored = &told["stored"][0];
    assert_eq!((&stored["fits"], &stored["status"], &stored["scheme"]), (&true.into(), &200.into(), &"http".into()));
    assert_eq!(
        (&stored["tags"], &stored["vary"]),
        (&serde_json::json!(["a", "b"]), &serde_json::json!(["Accept-Encoding", "Accept-Language"]))
    );
    assert!((590..=600).contains(&stored["ttl"].as_u64().unwrap()), "{told}");
    let other = explain(&url);
    assert_eq!((&other["would"], &other["stored"][0]["fits"]), (&"miss".into(), &false.into()));
    for (more, would, why) in [
        ("&method=POST", "bypass", "method"),
        ("&header=Cookie:a%3d1", "bypass", "credentials"),
        ("&header=Cache-Control:no-store", "bypass", "asked"),
        ("&header=Cache-Control:no-cache&header=Accept-Language:de", "miss", "the client wants none that is stored"),
        (
            "&header=Cache-Control:min-fresh%3d9999&header=Accept-Language:de",
            "revalidate",
            "the client wants one that is fresher than what is stored",
        ),
        ("&header=Cache-Control:max-age%3d300,min-fresh%3d1&header=Accept-Language:de", "hit", "it is fresh"),
        (
            "&header=Cache-Control:only-if-cached",
            "refused",
            "nothing is stored that could be given, and the client wants nothing else",
        ),
    ] {
        let told = explain(&format!("{url}{more}"));
        assert_eq!((&told["would"], &told["why"]), (&would.into(), &why.into()), "{more}");
    }
    // Whose they are depends on who proves to be whom.
    let told = explain(&format!("url=http://{host}/each/a"));
    assert_eq!(told["would"], "depends", "{told}");
    for bad in ["", "url=x%20y", "url=ftp://h/", "url=h/&method=A%20B", "url=h/&header=nonsense", "url=h/&colour=red"] {
        assert_eq!(gateway.admin_get(&format!("/cache/explain?{bad}")).0, 400, "{bad}");
    }
    // Softly purged, it has expired; purged, it is gone.
    for (soft, would) in [(true, "revalidate"), (false, "miss")] {
        let body = format!("{{\"hosts\":[\"127.0.0.1\"],\"soft\":{soft}}}");
        assert_eq!(request(gateway.admin(), "POST", "/cache/purge", &[], body.as_bytes()).status, 200);
        assert_eq!(explain(&format!("{url}&header=Accept-Language:de"))["would"], would);
    }
    // What takes the room. Queries may hold what is nobody's business.
    ask(&gateway, "/a?secret=1", &[]);
    ask(&gateway, &format!("/a/{}", "x".repeat(500)), &[]);
    ask(&gateway, "/only/a", &[]);
    let (status, text) = gateway.admin_get("/cache/top?limit=2");
    assert!(status == 200 && !text.contains("secret"), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(told["largest"].as_array().unwrap().len(), 2);
    assert!(told["largest"][0]["path"].as_str().unwrap().contains("xxx"), "{told}");
    let plain = told["routes"].as_array().unwrap().iter().find(|route| route["route"] == "plain").unwrap();
    assert_eq!(plain["entries"], 2, "{told}");
    assert_eq!(gateway.admin_get("/cache/top?limit=0").0, 400);
    // And how well it does.
    ask(&gateway, "/only/a", &[]);
    let route = "{route=\"/only/*\",state=\"hit\"}";
    gateway.wait_metric(&format!("portcullis_route_cache_requests_total{route}"), 1.0);
    assert!(gateway.metric("portcullis_route_cache_bytes_total{route=\"/only/*\"}") > 5.0);
}

fn one_that_cannot_be_stored_hides_no_other(server: &str) {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let origin = Origin::start(move |asked| {
        let control = if asked.header("x-v") == Some("evil") { "no-store" } else { "max-age=1000" };
        Act::Send(match (asked.header("if-none-match"), failing.load(Ordering::SeqCst)) {
            (_, true) => answer(500, &[], "failed"),
            (Some("\"v\""), _) => answer(304, &[("Vary", "X-V"), ("ETag", "\"v\""), ("Cache-Control", control)], ""),
            _ => answer(200, &[("Vary", "X-V"), ("ETag", "\"v\""), ("Cache-Control", control)], "fine"),
        })
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 {server} }}\nservices: {{ a: {{ endpoints: [ 127.0.0.1:{} ] }} }}\n\
         routes: [ {{ id: plain, path: /*, service: a, policies: {{ cache: {{ stale_if_error: 1h }} }} }} ]",
        origin.port()
    ));
    let ask =
        |variant: &str, more: &[(&str, &str)]| request(gateway.port(), "GET", "/c", &[&[("X-V", variant)], more].concat(), b"");
    let said = |answer: &Answer| answer.cache_status().to_owned();
    assert!(!said(&ask("a", &[])).contains("hit"));
    for _ in 0..3 {
        assert!(said(&ask("evil", &[])).starts_with("portcullis; fwd="));
        assert!(said(&ask("a", &[])).starts_with("portcullis; hit"));
    }
    if server.is_empty() {
        assert_eq!(said(&ask("evil", &[])), "portcullis; fwd=bypass; detail=predicted");
        // What its client says goes to the service, whose word it is then.
        assert_eq!(ask("evil", &[("If-None-Match", "\"v\"")]).status, 304);
        let explain = |variant: &str| {
            let url = format!("url=http://127.0.0.1:{}/c&header=X-V:{variant}", gateway.port());
            let (_, text) = gateway.admin_get(&format!("/cache/explain?{url}"));
            serde_json::from_str::<Value>(&text).unwrap()["would"].as_str().unwrap().to_owned()
        };
        assert_eq!((explain("a"), explain("evil"), explain("b")), ("hit".into(), "bypass".into(), "miss".into()));
    }
    fails.store(true, Ordering::SeqCst);
    assert_eq!(ask("evil", &[]).status, 500);
    assert_eq!((ask("a", &[]).status, ask("a", &[("Cache-Control", "only-if-cached")]).status), (200, 200));
}

#[test]
fn a_variant_that_cannot_be_stored_hides_no_other() {
    one_that_cannot_be_stored_hides_no_other("");
}

#[test]
fn nor_does_it_on_a_stock_server() {
    one_that_cannot_be_stored_hides_no_other(", engine: pingora");
}

#[test]
fn each_service_of_a_split_has_answers_of_its_own() {
    for engine in ["workers: 2", "engine: pingora"] {
        let named =
            |name: &'static str| Origin::start(move |_| Act::Send(answer(200, &[("Cache-Control", "max-age=600")], name)));
        let (one, other) = (named("one"), named("other"));
        let yaml = |weights: [u32; 2]| {
            format!(
                "
listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
server: {{ {engine} }}
services: {{ one: {{ endpoints: [ '127.0.0.1:{}' ] }}, other: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
routes:
  - id: sticky
    path: /sticky/*
    split: [ {{ service: one, weight: {} }}, {{ service: other, weight: {} }} ]
    sticky: {{ header: X-User }}
    policies: {{ cache: {{ show_key: true }} }}
  - {{ path: /drawn/*, split: [ {{ service: one, weight: 1 }}, {{ service: other, weight: 1 }} ], policies: {{ cache: {{}} }} }}
",
                one.port(),
                other.port(),
                weights[0],
                weights[1]
            )
        };
        let gateway = Gateway::start(&yaml([1, 1]));
        let ask = |user: &str, path: &str| request(gateway.port(), "GET", path, &[("X-User", user)], b"");
        let users: Vec<String> = (0..16).map(|number| format!("u{number}")).collect();
        // Where a client belongs is told by what it is given of what nobody else has asked for.
        let own: Vec<String> = users.iter().map(|user| ask(user, &format!("/sticky/{user}")).text()).collect();
        assert!(own.iter().any(|text| text == "one") && own.iter().any(|text| text == "other"), "{own:?}");
        for _ in 0..2 {
            for (user, own) in users.iter().zip(&own) {
                let answer = ask(user, "/sticky/same");
                assert_eq!(&answer.text(), own, "{engine} {user} {answer:?}");
                let key = format!("; key=\"sticky@{own} 127.0.0.1/sticky/same\"");
                assert!(answer.header("cache-status").unwrap().ends_with(&key), "{answer:?}");
            }
        }
        let asked = |path: &str| one.count(path) + other.count(path);
        assert_eq!(asked("/sticky/same"), 2, "each service once");
        // By chance both are seen, and each is asked once.
        let mut seen = std::collections::BTreeSet::new();
        eventually("both are drawn", || {
            seen.insert(get(gateway.port(), "/drawn/a").text());
            seen.len() == 2
        });
        assert_eq!(asked("/drawn/a"), 2);
        // What is stored of both is told.
        let (status, told) = gateway.admin_get(&format!("/cache/explain?url=http://127.0.0.1:{}/sticky/same", gateway.port()));
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (status, told["would"].as_str(), told["stored"].as_array().map(Vec::len)),
            (200, Some("depends"), Some(2)),
            "{told}"
        );
        assert!(told["stored"].as_array().unwrap().iter().all(|stored| stored["fits"] == true), "{told}");
        // Another weight leaves what is stored with the service that it is from.
        gateway.rewrite(&yaml([0, 1]));
        assert_eq!(gateway.reload().0, 200);
        assert!(users.iter().all(|user| ask(user, "/sticky/same").text() == "other"));
        assert_eq!(asked("/sticky/same"), 2);
    }
}
