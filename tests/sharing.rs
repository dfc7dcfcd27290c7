//! What few routes ask of their cache: answers that those share who have credentials, requests that ask by their body, parts of what is not
//! stored yet, lifetimes by status, and the key that is shown.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const KEY_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const KEY_B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Says how often it was asked, and by what; with the fields that the query names, or the status.
fn origin() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |asked: &Asked| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        if path.starts_with("/large") {
            // A part where it is asked for.
            let control = ("Cache-Control", if query.is_empty() { "max-age=600" } else { query });
            return Act::Send(match asked.header("range") {
                Some("bytes=2-3") => answer(206, &[("Content-Range", "bytes 2-3/10"), control], "23"),
                _ => answer(200, &[("ETag", "\"v\""), control], "0123456789"),
            });
        }
        if asked.body.ends_with(b"slow") {
            std::thread::sleep(std::time::Duration::from_millis(400));
        }
        let status = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(200);
        let control = query.replace('+', ", ");
        let fields: &[(&str, &str)] = if control.is_empty() { &[] } else { &[("Cache-Control", &control)] };
        let said = [number.to_string(), asked.header("authorization").unwrap_or("-").to_owned()].join("|");
        Act::Send(answer(status, fields, format!("{said}|{}", String::from_utf8_lossy(&asked.body))))
    })
}

fn yaml(origin: &Origin, routes: &str) -> String {
    format!(
        "
listeners: [ {{ bind: '127.0.0.1:$PORT', h2c: true }} ]
server: {{ workers: 2 }}
services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
consumers:
  - {{ name: north, api_keys: [ {{ hash: {} }} ] }}
  - {{ name: south, api_keys: [ {{ hash: {} }} ] }}
routes:
{routes}
",
        origin.port(),
        key_hash(KEY_A),
        key_hash(KEY_B)
    )
}

fn is_hit(answer: &Answer) -> bool {
    answer.cache_status().contains("; hit")
}

const SHARED: &str = "
  - { path: /shared/*, service: a, policies: { cache: { default_ttl: 600s, shared_with_auth: true } } }
  - { path: /ours/*, service: a, policies: { authn: { api_key: {} }, cache: { default_ttl: 600s, shared_with_auth: true } } }
  - id: both
    path: /both/*
    service: a
    policies: { authn: { api_key: {} }, cache: { default_ttl: 600s, shared_with_auth: true, per: consumer } }
  - { path: /*, service: a, policies: { cache: { default_ttl: 600s } } }
";

const BASIC: (&str, &str) = ("Authorization", "Basic x");
const OTHER: (&str, &str) = ("Authorization", "Basic y");

#[test]
fn what_is_for_all_is_shared_with_those_who_have_credentials() {
    for engine in ["workers: 2", "engine: pingora"] {
        let origin = origin();
        let gateway = Gateway::start(&yaml(&origin, SHARED).replace("workers: 2", engine));
        let get = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "GET", path, fields, b"");
        for control in ["public+max-age=600", "s-maxage=600", "max-age=600+must-revalidate", "public"] {
            let path = format!("/shared/a?{control}");
            assert!(!is_hit(&get(&path, &[BASIC])), "{control}");
            let others: [&[(&str, &str)]; 3] = [&[BASIC], &[OTHER], &[]];
            for fields in others {
                let answer = get(&path, fields);
                assert!(is_hit(&answer) && answer.text().contains("Basic x"), "{control} {fields:?}: {answer:?}");
            }
        }
        // Whatever does not say so is neither stored nor given, whoever has asked for it first.
        for control in ["max-age=600", "max-age=600+proxy-revalidate", "public+no-store", "private+public", ""] {
            let path = format!("/shared/b?{control}");
            for fields in [[BASIC], [OTHER], [BASIC]] {
                let answer = get(&path, &fields);
                assert!(!is_hit(&answer) && answer.text().contains(fields[0].1), "{control}: {answer:?}");
            }
        }
        assert!(!is_hit(&get("/shared/c?max-age=600", &[])) && is_hit(&get("/shared/c?max-age=600", &[])));
        assert!(!is_hit(&get("/shared/c?max-age=600", &[BASIC])), "it was made for nobody in particular, and does not say so");
        assert!(is_hit(&get("/shared/c?max-age=600", &[])), "and is still there");
        // Other credentials than those, and other routes.
        for fields in [("Cookie", "a=1"), ("X-API-Key", "x"), ("X-Original-URL", "/b")] {
            let answer = get("/shared/a?public", &[BASIC, fields]);
            assert!(answer.cache_status().contains("fwd=bypass"), "{answer:?}");
        }
        for _ in 0..2 {
            assert!(get("/a?public", &[BASIC]).cache_status().contains("detail=credentials"));
        }
    }
}

#[test]
fn consumers_share_what_is_for_all() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, SHARED));
    let get = |path: &str, key: &str| request(gateway.port(), "GET", path, &[("X-API-Key", key)], b"");
    get("/ours/a?public", "wrong").assert_problem(401, "authn", "unknown_api_key");
    assert!(!is_hit(&get("/ours/a?public", KEY_A)) && is_hit(&get("/ours/a?public", KEY_B)));
    // Who may not ask is refused, whatever is stored.
    assert_eq!(get("/ours/a?public", "wrong").status, 401);
    assert_eq!(request(gateway.port(), "GET", "/ours/a?public", &[], b"").status, 401);
    assert!(!is_hit(&get("/ours/a?max-age=600", KEY_A)) && !is_hit(&get("/ours/a?max-age=600", KEY_A)));
    // With entries of their own, those are theirs.
    for path in ["/both/a?public", "/both/a?max-age=600"] {
        assert!(!is_hit(&get(path, KEY_A)) && is_hit(&get(path, KEY_A)) && !is_hit(&get(path, KEY_B)), "{path}");
    }
    // A reload keeps what is stored.
    assert_eq!(gateway.reload().0, 200);
    assert!(is_hit(&get("/ours/a?public", KEY_B)));
    let h2 = curl(&["--http2-prior-knowledge", "-H", &format!("X-API-Key: {KEY_A}"), &gateway.url("/ours/a?public")]);
    assert!(is_hit(&h2), "{h2:?}");
    let host = format!("127.0.0.1:{}", gateway.port());
    for (path, field, would) in [
        ("/shared/a?public", "Authorization:x", "miss"),
        ("/both/a?public", "Accept:x", "depends"),
        ("/ours/a?public", "X-API-Key:x", "hit"),
        ("/a?public", "Authorization:x", "bypass"),
    ] {
        let url = format!("http://{host}{}", path.replace('?', "%3f"));
        let told: Value =
            serde_json::from_str(&gateway.admin_get(&format!("/cache/explain?url={url}&header={field}")).1).unwrap();
        assert_eq!(told["would"], would, "{path}: {told}");
    }
}

const BY_BODY: &str = "
  - { path: /graphql, service: a, policies: { cache: { methods: [ GET, HEAD, POST, QUERY ], max_request_body: 1KiB, default_ttl: 600s } } }
  - id: shaped
    path: /shaped
    service: a
    policies: { reshape: { request: [ { remove: /nonce } ] }, cache: { methods: [ POST ], default_ttl: 600s } }
  - { path: /each, service: a, policies: { authn: { api_key: {} }, cache: { methods: [ POST ], default_ttl: 600s, per: consumer } } }
  - { path: /stale, service: a, policies: { cache: { methods: [ POST ], stale_while_revalidate: 60s } } }
  - { path: /*, service: a, policies: { cache: { default_ttl: 600s } } }
";

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn what_is_asked_for_by_a_body_is_kept_for_that_body() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, BY_BODY));
    let ask =
        |method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]| request(gateway.port(), method, path, fields, body);
    let (one, two) = (b"{\"query\":\"{a}\"}".as_slice(), b"{\"query\":\"{b}\"}".as_slice());
    assert!(!is_hit(&ask("POST", "/graphql", &[JSON], one)));
    let answer = ask("POST", "/graphql", &[JSON], one);
    assert!(is_hit(&answer) && answer.text().ends_with("{\"query\":\"{a}\"}"), "{answer:?}");
    assert_eq!(answer.header("accept-ranges"), None);
    // Another body, type, coding, method, or target.
    for (method, path, fields, body) in [
        ("POST", "/graphql", &[JSON][..], two),
        ("POST", "/graphql", &[("Content-Type", "text/plain")], one),
        ("POST", "/graphql", &[], one),
        ("POST", "/graphql", &[JSON, ("Content-Encoding", "gzip")], one),
        ("POST", "/graphql?x", &[JSON], one),
        ("POST", "/graphql", &[JSON], b""),
        ("QUERY", "/graphql", &[JSON], one),
        ("GET", "/graphql", &[], b""),
    ] {
        assert!(!is_hit(&ask(method, path, fields, body)), "{method} {path} {fields:?}");
        assert!(is_hit(&ask(method, path, fields, body)), "{method} {path} {fields:?}");
    }
    // Chunked, over HTTP/2, and after a reload.
    let h2 = ["--http2-prior-knowledge", "-H", "Content-Type: application/json", "-d", "{\"query\":\"{a}\"}"];
    assert!(is_hit(&curl(&[&h2[..], &[&gateway.url("/graphql")]].concat())));
    let chunked = ["-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked", "-d", "{\"query\":\"{a}\"}"];
    assert!(is_hit(&curl(&[&chunked[..], &[&gateway.url("/graphql")]].concat())));
    assert_eq!(gateway.reload().0, 200);
    assert!(is_hit(&ask("POST", "/graphql", &[JSON], one)));
    // It has taken nothing out of the cache; what does change something has.
    assert!(is_hit(&ask("GET", "/graphql", &[], b"")));
    ask("PUT", "/graphql", &[], b"x");
    assert!(!is_hit(&ask("GET", "/graphql", &[], b"")) && !is_hit(&ask("POST", "/graphql", &[JSON], one)));
    // What passes by it reaches the service whole, and takes nothing out either.
    let long = vec![b'x'; 2000];
    for (fields, body) in [
        (&[JSON][..], &long[..]),
        (&[JSON, ("If-None-Match", "*")], one),
        (&[JSON, ("Range", "bytes=0-0")], one),
        (&[JSON, BASIC], one),
    ] {
        for _ in 0..2 {
            let answer = ask("POST", "/graphql", fields, body);
            assert!(answer.status == 200 && answer.cache_status().contains("fwd=bypass"), "{fields:?}: {answer:?}");
            assert!(answer.body.ends_with(body), "{fields:?}");
        }
    }
    let chunked = ["-H", "Transfer-Encoding: chunked", "-d", &"y".repeat(3000)];
    let answer = curl(&[&chunked[..], &[&gateway.url("/graphql")]].concat());
    assert!(answer.cache_status().contains("fwd=bypass") && answer.text().ends_with(&"y".repeat(3000)), "{answer:?}");
    assert!(is_hit(&ask("GET", "/graphql", &[], b"")));
    // Where a route does not say so, a POST is what it always is.
    assert!(!is_hit(&ask("GET", "/b", &[], b"")) && is_hit(&ask("GET", "/b", &[], b"")));
    assert!(ask("POST", "/b", &[JSON], one).cache_status().contains("fwd=method"));
    assert!(!is_hit(&ask("GET", "/b", &[], b"")));
    // Those who want the same at once ask once.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask("POST", "/graphql", &[JSON], b"slow").status, 200));
        }
    });
    assert_eq!(origin.asked().iter().filter(|asked| asked.body == b"slow").count(), 1);
    // A purge takes all that is stored of the URL.
    let url = format!("http://127.0.0.1:{}/graphql", gateway.port());
    let order = json!({ "urls": [url] }).to_string();
    assert!(is_hit(&ask("POST", "/graphql", &[JSON], one)) || is_hit(&ask("POST", "/graphql", &[JSON], one)));
    assert_eq!(request(gateway.admin(), "POST", "/cache/purge", &[], order.as_bytes()).status, 200);
    assert!(!is_hit(&ask("POST", "/graphql", &[JSON], one)));
}

#[test]
fn the_body_of_a_key_is_the_one_that_the_service_gets() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, BY_BODY));
    let ask = |path: &str, fields: &[(&str, &str)], body: &str| request(gateway.port(), "POST", path, fields, body.as_bytes());
    let first = ask("/shaped", &[JSON], "{\"a\":1,\"nonce\":7}");
    assert!(!is_hit(&first) && first.text().ends_with("{\"a\":1}"), "{first:?}");
    assert!(is_hit(&ask("/shaped", &[JSON], "{\"a\":1,\"nonce\":8}")));
    assert!(!is_hit(&ask("/shaped", &[JSON], "{\"a\":2,\"nonce\":8}")));
    // Each consumer's are his own.
    let of = |key: &'static str| [JSON, ("X-API-Key", key)];
    assert!(!is_hit(&ask("/each", &of(KEY_A), "{}")) && is_hit(&ask("/each", &of(KEY_A), "{}")));
    assert!(!is_hit(&ask("/each", &of(KEY_B), "{}")));
    // What is fetched behind a client's back is asked for by the same method and body.
    let path = "/stale?max-age=1";
    assert!(!is_hit(&ask(path, &[JSON], "{\"s\":1}")));
    eventually("it is given stale", || ask(path, &[JSON], "{\"s\":1}").cache_status().contains("stale-while-revalidate"));
    eventually("it was fetched anew", || {
        origin.asked().iter().filter(|asked| asked.target == path && asked.body == b"{\"s\":1}").count() >= 2
    });
    assert!(origin.asked().iter().all(|asked| asked.target != path || asked.body == b"{\"s\":1}"));
}

/// A body's values may have become the path, the query or a field, and be gone from it.
#[test]
fn what_steps_make_of_a_body_is_part_of_its_key() {
    let origin = Origin::start(|asked: &Asked| {
        let key = asked.header("x-h").unwrap_or("-");
        Act::Send(answer(200, &[], format!("{} {key} {}", asked.target, String::from_utf8_lossy(&asked.body))))
    });
    let routes = "
  - path: /made
    service: a
    policies:
      reshape:
        request: [ { path: '/of/{/id}' }, { query: { q: /q, r: /r } }, { header: { X-H: /h } }, { remove: [ /id, /q, /r, /h, /nonce ] } ]
      cache: { ttl: 600s, methods: [ POST ] }
";
    let gateway = Gateway::start(&yaml(&origin, routes));
    let ask = |body: &Value| request(gateway.port(), "POST", "/made", &[JSON], body.to_string().as_bytes());
    let bodies = [
        json!({ "id": "alice", "q": "1" }),
        json!({ "id": "bob", "q": "1" }),
        json!({ "id": "bob", "q": "2" }),
        json!({ "id": "bob", "r": "2" }),
        json!({ "id": "bob", "q": "1", "h": "a" }),
        json!({ "id": "bob", "q": "1", "h": "b" }),
        json!({ "id": "bob", "q": "1", "rest": 1 }),
        json!({ "id": "bob", "q": "\u{0}=1" }),
        json!({ "id": "bob", "q": "%00=1" }),
    ];
    let first: Vec<Answer> = bodies.iter().map(ask).collect();
    for (body, first) in bodies.iter().zip(&first) {
        assert!(first.status == 200 && !is_hit(first), "{body}: {first:?}");
        let mut other = body.clone();
        other["nonce"] = json!(1);
        for body in [body, &other] {
            let again = ask(body);
            assert!(is_hit(&again) && again.text() == first.text(), "{body}: {again:?}");
        }
    }
    assert_eq!(first[0].text(), "/of/alice?q=1 - {}");
    // A credential that is made of a body is one.
    let routes = routes.replace("X-H", "X-API-Key");
    gateway.rewrite(&yaml(&origin, &routes));
    assert_eq!(gateway.reload().0, 200);
    assert!((0..2).all(|_| ask(&bodies[4]).cache_status().contains("fwd=bypass")));
}

/// What keeps requests with cookies, or in other words, from each other's answers, does so whatever the method.
#[test]
fn cookies_and_languages_are_the_same_matter_for_requests_that_ask_by_their_body() {
    let origin = Origin::start(|asked: &Asked| {
        let seen = ["cookie", "accept-language"].map(|name| asked.header(name).unwrap_or("-").to_owned());
        Act::Send(answer(200, &[("Vary", "Accept-Language")], seen.join("|")))
    });
    let gateway = Gateway::start(&yaml(
        &origin,
        "
  - path: /*
    service: a
    policies:
      cache:
        ttl: 60s
        methods: [ POST ]
        cookies: { key: [ kind ], drop: [ '_ga*', session ] }
        vary: { accept_language: [ en, de ] }",
    ));
    let post = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "POST", path, fields, b"{}");
    let first = post("/a", &[("Cookie", "session=alice; _ga=1"), ("Accept-Language", "de-AT, en;q=0.5")]);
    assert_eq!((first.text().as_str(), is_hit(&first)), ("-|de", false), "the service is not shown it");
    let second = post("/a", &[("Cookie", "session=bob"), ("Accept-Language", "de")]);
    assert_eq!((second.text().as_str(), is_hit(&second)), ("-|de", true));
    let other = post("/a", &[("Cookie", "kind=x; session=bob"), ("Accept-Language", "de")]);
    assert_eq!((other.text().as_str(), is_hit(&other)), ("kind=x|de", false));
    for _ in 0..2 {
        let unknown = post("/a", &[("Cookie", "other=x")]);
        assert!(unknown.text().starts_with("other=x|") && unknown.cache_status().contains("detail=credentials"), "{unknown:?}");
        // A method that the cache is not for is what it was.
        let put = request(gateway.port(), "PUT", "/b", &[("Cookie", "session=alice"), ("Accept-Language", "fr")], b"{}");
        assert!(put.text() == "session=alice|fr" && put.cache_status().ends_with("fwd=method"), "{put:?}");
    }
}

#[test]
fn a_part_of_what_is_not_stored_is_passed_on_or_cut_from_the_whole() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(
        &origin,
        "
  - { path: '/large/whole/*', service: a, policies: { cache: { ranges: whole } } }
  - { path: '/large/second/*', service: a, policies: { cache: { ranges: whole, store_on: second_request } } }
  - { path: /*, service: a, policies: { cache: {} } }",
    ));
    let part = |path: &str| request(gateway.port(), "GET", path, &[("Range", "bytes=2-3")], b"");
    let asked = |path: &str| origin.asked().into_iter().filter(|asked| asked.target == path).collect::<Vec<_>>();
    for _ in 0..2 {
        let answer = part("/large/a");
        assert_eq!((answer.status, answer.text().as_str(), is_hit(&answer)), (206, "23", false));
    }
    let fetched = AtomicUsize::new(0);
    assert!(asked("/large/a").len() == 2 && asked("/large/a").iter().all(|asked| asked.header("range").is_some()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = part("/large/whole/a");
                assert_eq!((answer.status, answer.text().as_str()), (206, "23"), "{answer:?}");
                assert_eq!(answer.header("content-range"), Some("bytes 2-3/10"));
                fetched.fetch_add(usize::from(answer.cache_status().ends_with("fwd=miss; stored")), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(fetched.into_inner(), 1, "who had it fetched is told so");
    let asked_whole = asked("/large/whole/a");
    assert!(asked_whole.len() == 1 && asked_whole[0].header("range").is_none(), "once, for all of it");
    let whole = request(gateway.port(), "GET", "/large/whole/a", &[], b"");
    assert!(is_hit(&whole) && whole.text() == "0123456789");
    // What may not be stored is asked for as it came.
    for _ in 0..2 {
        let answer = part("/large/whole/b?no-store");
        assert_eq!((answer.status, answer.text().as_str(), is_hit(&answer)), (206, "23", false));
    }
    let headed = request(gateway.port(), "HEAD", "/large/whole/c", &[("Range", "bytes=2-3")], b"");
    assert!(headed.body.is_empty());
    assert_eq!(asked("/large/whole/c").len(), 1, "nothing is fetched for a HEAD");
    // What is not stored the first time is not fetched as a whole for nothing.
    for (hit, ranges) in [(false, &[true][..]), (false, &[true, false]), (true, &[true, false])] {
        let answer = part("/large/second/d");
        assert_eq!((answer.status, answer.text().as_str(), is_hit(&answer)), (206, "23", hit), "{answer:?}");
        let asked: Vec<bool> = asked("/large/second/d").iter().map(|asked| asked.header("range").is_some()).collect();
        assert_eq!(asked, ranges, "one request is one request");
    }
}

#[test]
fn lifetimes_go_by_status_and_keys_are_shown() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(
        &origin,
        "
  - path: /by/*
    service: a
    policies: { cache: { ttl: 30s, ttl_by_status: { 404: 10m, 410: 0s, 5xx: 5m, 503: 0s }, show_key: true } }
  - { path: /only/*, service: a, policies: { cache: { query: { only: [ q, page ] }, show_key: true } } }
  - { path: /ignore/*, service: a, policies: { cache: { query: { ignore: [ 'utm_*' ] }, show_key: true } } }
  - { path: /none/*, service: a, policies: { cache: { query: none, show_key: true } } }
  - { path: /*, service: a, policies: { authn: { api_key: { query: key } }, cache: { per: consumer, show_key: true, default_ttl: 1m } } }",
    ));
    let ttl = |path: &str| {
        let get = || request(gateway.port(), "GET", path, &[], b"");
        get();
        let answer = get();
        let ttl = answer.cache_status().split("ttl=").nth(1).and_then(|rest| rest.split(';').next().unwrap().parse::<u64>().ok());
        ttl.filter(|_| is_hit(&answer))
    };
    assert!(ttl("/by/404").is_some_and(|ttl| ttl > 500), "longer than what the service may say");
    assert!(ttl("/by/404?max-age=600").is_some_and(|ttl| ttl <= 30), "what it says counts first");
    assert!(ttl("/by/500").is_some_and(|ttl| (200..=300).contains(&ttl)));
    assert_eq!((ttl("/by/410"), ttl("/by/503"), ttl("/by/403")), (None, None, None));
    assert!(ttl("/by/200").is_some_and(|ttl| ttl <= 30));
    let answer = request(gateway.port(), "GET", "/by/a?x=1", &[], b"");
    assert!(answer.cache_status().contains("; key=\"") && answer.cache_status().ends_with(" 127.0.0.1/by/a?x=1\""), "{answer:?}");
    for (path, shown) in [
        ("/only/a?z=1&page=2&q=1&page=1", "/only/a?page=2&page=1&q=1"),
        ("/only/a?z=1", "/only/a"),
        ("/ignore/a?z=2&utm_x=1&a=1", "/ignore/a?a=1&z=2"),
        ("/none/a?x=1", "/none/a"),
        ("/by/a?", "/by/a?"),
    ] {
        let answer = get(gateway.port(), path);
        assert!(answer.cache_status().ends_with(&format!(" 127.0.0.1{shown}\"")), "{path} {answer:?}");
    }
    assert!(request(gateway.port(), "POST", "/by/a", &[], b"").cache_status().ends_with("fwd=method"));
    // Neither who asks nor his credential.
    for _ in 0..2 {
        let answer = request(gateway.port(), "GET", &format!("/q?a=1&key={KEY_A}"), &[], b"");
        assert!(answer.status == 200 && answer.cache_status().contains("key=\""), "{answer:?}");
        assert!(!answer.cache_status().contains("aaaa") && !answer.cache_status().contains("north"), "{answer:?}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let files = Files::new();
    for (policy, said) in [
        ("methods: [ PUT ]", "answers to `PUT` are not kept"),
        ("methods: [ post ]", "answers to `post` are not kept: case counts"),
        ("max_request_body: 1KiB", "`max_request_body` counts for `POST` and `QUERY` alone"),
        ("methods: [ POST ], max_request_body: 2MiB", "max_request_body is at least 1 byte, and at most 1MiB"),
        ("methods: [ POST ], max_request_body: 0", "max_request_body is at least 1 byte, and at most 1MiB"),
        ("ttl_by_status: { 206: 1s }", "`206` are no statuses that are kept"),
        ("ttl_by_status: { often: 1s }", "`often` are no statuses that are kept"),
        ("ttl_by_status: { 404: 31d }", "ttl_by_status"),
        ("ranges: some", "ranges"),
        ("query: { only: [] }", "write `query: none`"),
        ("query: { ignore: [] }", "write `query: all`"),
        ("cookies: { key: [ a ], drop: [ 'a*' ] }", "`a` is part of the key, and `drop: a*` keeps it from the service"),
        ("ttl_by_status: { 400-409: 1s, 405-414: 2s }", "`ttl_by_status` says of 405 twice"),
        ("ttl_by_status: { 404: 1s, 404-404: 2s }", "`ttl_by_status` says of 404 twice"),
    ] {
        let route = format!("{{ path: /a, service: h, port: 1, policies: {{ cache: {{ {policy} }} }} }}");
        files.write("bad.yaml", format!("listeners: [ {{ bind: 127.0.0.1:0 }} ]\nroutes: [ {route} ]\n"));
        let ran = portcullis(files.dir(), &["check", "bad.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains(said), "{policy}: {told}");
    }
    for (policy, said) in [
        ("methods: [ POST ]", "`cache.methods` cannot be had"),
        ("ranges: whole", "`cache.ranges: whole` cannot be had"),
        ("ranges: parts", "`cache.ranges: parts` cannot be had"),
    ] {
        let route = format!("{{ path: /a, service: h, port: 1, policies: {{ cache: {{ {policy} }} }} }}");
        let text = format!("server: {{ engine: pingora }}\nlisteners: [ {{ bind: 127.0.0.1:0 }} ]\nroutes: [ {route} ]\n");
        files.write("stock.yaml", text);
        let ran = portcullis(files.dir(), &["check", "stock.yaml"]);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && told.contains(said), "{policy}: {told}");
    }
}
