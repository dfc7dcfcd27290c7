//! What is done with each call: what its service's policies make of it, and what of its answers is kept.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::{json, ok, yaml};
use crate::harness::*;

/// A service that says how often it was asked.
fn counting(fields: &'static str) -> Backend {
    let count = AtomicUsize::new(0);
    Backend::answering(move |_| json(fields, &count.fetch_add(1, Ordering::Relaxed).to_string()))
}

fn parts(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-portcullis-parts").unwrap_or_default()
}

fn dashboard(gateway: &Gateway) -> Answer {
    get(gateway.port(), "/api/dashboard")
}

#[test]
fn a_services_own_fields_are_set_and_removed_for_parts_as_well() {
    let (one, other) = (Backend::answering(|_| ok("1")), Backend::answering(|_| ok("2")));
    let config = |of_one: &str, route: &str| {
        let all = yaml(
            &[("one", &one), ("other", &other)],
            &format!(
                "\n      calls: {{ one: {{ service: one, path: '/1', headers: {{ X-Said: call }} }}, other: {{ service: other, path: /2 }} }}{route}\n\
                 policies: {{ request_headers: {{ set: {{ X-All: '1', X-Who: all }} }} }}"
            ),
        );
        all.replacen("' ] }", &format!("' ], policies: {of_one} }}"), 1)
    };
    let sent = [("X-Internal", "secret"), ("Cookie", "a=1")];
    let set = "{ request_headers: { remove: [X-Internal, Cookie], set: { X-Who: 'one {host}', X-Said: service } } }";
    let gateway = Gateway::start(&config(set, ""));
    assert_eq!(request(gateway.port(), "GET", "/api/dashboard", &sent, b"").status, 200);
    let seen = one.last();
    assert_eq!((seen.header("x-internal"), seen.header("cookie")), (None, None), "{}", seen.head_text());
    assert_eq!((seen.header("x-who"), seen.header("x-all")), (Some("one 127.0.0.1"), None), "one in the place of the other");
    assert_eq!(seen.all("x-said"), ["call"], "a call knows best");
    let seen = other.last();
    assert_eq!((seen.header("x-internal"), seen.header("x-who"), seen.header("x-all")), (Some("secret"), Some("all"), Some("1")));
    // What the route says holds for all its calls.
    let gateway = Gateway::start(&config(set, "\n    policies: { request_headers: { set: { X-Who: route } } }"));
    assert_eq!(request(gateway.port(), "GET", "/api/dashboard", &sent, b"").status, 200);
    assert_eq!((one.last().header("x-who"), one.last().header("x-internal")), (Some("route"), Some("secret")));
    assert_eq!((other.last().header("x-who"), other.last().header("x-all")), (Some("route"), None));
}

#[test]
fn parts_are_kept_one_by_one() {
    let (one, other) = (counting(""), counting(""));
    let compose = "
      calls:
        one: { service: one, path: /1, query: { page: '{query.page}' }, cache: { ttl: 1h } }
        other: { service: other, path: /2 }
      answer: { meta: true }";
    let gateway = Gateway::start(&yaml(&[("one", &one), ("other", &other)], compose));
    let first = dashboard(&gateway);
    assert_eq!((parts(&first), &first.json()["_meta"]["one"]["source"]), ("", &"live".into()));
    let second = dashboard(&gateway);
    assert_eq!((&second.json()["one"], &second.json()["other"]), (&0.into(), &1.into()));
    assert!(parts(&second).starts_with("one=hit;age=") && parts(&second).ends_with(", other=ok"), "{}", parts(&second));
    let meta = &second.json()["_meta"]["one"];
    assert_eq!((&meta["state"], &meta["source"], &meta["status"]), (&"hit".into(), &"cache".into(), &200.into()));
    assert!(meta["age"].is_u64() && second.json()["_meta"]["other"].get("age").is_none(), "{meta}");
    assert_eq!(second.header("cache-control"), None, "nobody but the gateway was told that it may be kept");
    let page = get(gateway.port(), "/api/dashboard?page=2");
    assert_eq!(page.json()["one"], 1, "another question");
    let line = gateway.wait_log(|line| line["parts"].as_str().is_some_and(|parts| parts.contains("one=hit")));
    assert_eq!(line["answered_by"], "compose");
    gateway.wait_metric("portcullis_composed_parts_total{route=\"/api/dashboard\",part=\"one\",outcome=\"hit\"}", 1.0);
    gateway.wait_metric("portcullis_route_cache_requests_total{route=\"/api/dashboard\",state=\"hit\"}", 1.0);
    // A reload that leaves the call alone leaves what is kept alone.
    gateway.rewrite(&yaml(&[("one", &one), ("other", &other)], &compose.replace("path: /2", "path: /3")));
    assert_eq!(gateway.reload().0, 200);
    assert!(parts(&dashboard(&gateway)).starts_with("one=hit"));
    // What the client wants of caches, it wants of the parts.
    let anew = request(gateway.port(), "GET", "/api/dashboard", &[("Cache-Control", "no-cache")], b"");
    assert_eq!((parts(&anew), &anew.json()["one"]), ("", &2.into()));
}

#[test]
fn the_routes_cache_is_that_of_its_calls_and_a_call_knows_better() {
    let (one, other) = (counting("Cache-Control: max-age=60\r\nX-A: 1\r\n"), counting("Cache-Control: max-age=100\r\n"));
    let third = counting("Cache-Control: max-age=100\r\n");
    let compose = "
      calls:
        one: { service: one, path: /1 }
        same: { service: one, path: /1, group: twin }
        other: { service: other, path: /2, cache: false }
        sent: { service: third, path: /3, method: POST, body: {} }
    policies: { cache: {} }";
    let gateway = Gateway::start(&yaml(&[("one", &one), ("other", &other), ("third", &third)], compose));
    assert_eq!(dashboard(&gateway).json(), json!({ "one": 0, "twin": 0, "other": 0, "sent": 0 }));
    let second = dashboard(&gateway);
    assert_eq!(second.json(), json!({ "one": 0, "twin": 0, "other": 1, "sent": 1 }));
    assert!(parts(&second).starts_with("one=hit;age=") && parts(&second).contains("same=hit;age="), "{}", parts(&second));
    let told = second.header("cache-control").unwrap();
    let left: u64 = told.strip_prefix("max-age=").unwrap().parse().unwrap();
    assert!((1..=60).contains(&left), "{told}: as strict as the strictest, and no longer than is left of it");
    // A call that changes something forgets what was kept of it.
    let changing = "
      calls: { read: { service: one, path: '/item/{query.id}' }, write: { service: one, path: '/item/{query.id}', method: DELETE, when: request.method == 'DELETE' } }
    policies: { cache: { ttl: 1h } }";
    let gateway = Gateway::start(&yaml(&[("one", &one)], changing));
    let ask = |method: &str| request(gateway.port(), method, "/api/dashboard?id=7", &[], b"");
    ask("GET");
    assert!(parts(&ask("GET")).contains("read=hit"));
    assert_eq!(ask("DELETE").status, 200);
    assert!(!parts(&ask("GET")).contains("read=hit"), "it was changed");
}

/// The same question is asked once for one request, whatever its calls say of a cache, if they say the same.
#[test]
fn calls_that_keep_alike_are_made_once() {
    let one = counting("Cache-Control: max-age=60\r\n");
    let compose = "
      calls:
        a: { service: one, path: /1, cache: { ttl: 1m, statuses: [200] } }
        b: { service: one, path: /1, cache: { statuses: [200], ttl: 1m }, group: x.b }
        c: { service: one, path: /1, cache: { ttl: 2m } }
        d: { service: one, path: /1, cache: false }
        e: { service: one, path: /1, cache: false }";
    let gateway = Gateway::start(&yaml(&[("one", &one)], compose));
    let first = dashboard(&gateway).json();
    assert_eq!((&first["a"], &first["d"]), (&first["x"]["b"], &first["e"]));
    assert_eq!(one.requests().len(), 3, "one for each word: {first}");
    let second = dashboard(&gateway);
    let said = parts(&second);
    assert_eq!(said.matches("=hit").count(), 3, "{said}");
    assert_eq!(one.requests().len(), 4, "what is not kept is asked for again, once: {said}");
    assert_eq!(second.json()["a"], first["a"]);
}

/// Where it was stored only for the sake of its fallback it is stored for as long as that holds, on disk as well.
#[test]
fn a_fallback_outlives_a_restart() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = down.clone();
    let one = Backend::answering(move |_| match is_down.load(Ordering::Relaxed) {
        true => b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => json("Cache-Control: max-age=1\r\n", "\"good\""),
    });
    let files = Files::new();
    let disk = files.dir().join("kept");
    let compose = "\n      calls: { kept: { service: one, path: /, cache: {}, fallback: { cached: 1h } } }";
    let server = format!("server: {{ workers: 1, cache_disk: {{ path: '{}', max_size: 64MiB }} }}", disk.display());
    let config = yaml(&[("one", &one)], compose).replace("server: { workers: 1 }", &server);
    // The other process has other ports, and what a service is told of where its clients went is part of a key.
    let dashboard = |gateway: &Gateway| request(gateway.port(), "GET", "/api/dashboard", &[("Host", "shop.example")], b"");
    let mut gateway = Gateway::start(&config);
    eventually("it has the disk", || gateway.metric("portcullis_cache_disk_open") == 1.0);
    assert_eq!(dashboard(&gateway).json(), json!({ "kept": "good" }));
    eventually("it is written", || gateway.metric("portcullis_cache_disk_stored_total") >= 1.0);
    gateway.signal("TERM");
    gateway.wait_exit(Duration::from_secs(10));
    down.store(true, Ordering::Relaxed);
    let again = Gateway::start(&config);
    eventually("it has the disk", || again.metric("portcullis_cache_disk_open") == 1.0);
    eventually("it has expired", || parts(&dashboard(&again)).starts_with("kept=stale;age="));
    assert_eq!(dashboard(&again).json(), json!({ "kept": "good" }));
}

#[test]
fn a_stale_part_stands_in_and_says_how_old_it_is() {
    let down = Arc::new(AtomicBool::new(false));
    let status = |down: &Arc<AtomicBool>, fields: &'static str, failed: &'static str| {
        let down = down.clone();
        Backend::answering(move |_| match down.load(Ordering::Relaxed) {
            true => format!("HTTP/1.1 {failed} X\r\nContent-Length: 0\r\n\r\n").into_bytes(),
            false => json(fields, "\"good\""),
        })
    };
    let excused = status(&down, "Cache-Control: max-age=1, stale-if-error=600\r\n", "503");
    let kept = status(&down, "Cache-Control: max-age=1\r\n", "500");
    let refused = status(&down, "Cache-Control: max-age=1\r\n", "403");
    let compose = "
      calls:
        excused: { service: excused, path: /, cache: {} }
        kept: { service: kept, path: /, cache: {}, fallback: { cached: 1h } }
        refused: { service: refused, path: /, cache: {}, optional: true, fallback: { cached: 1h } }
      answer: { meta: true }";
    let gateway = Gateway::start(&yaml(&[("excused", &excused), ("kept", &kept), ("refused", &refused)], compose));
    assert_eq!(dashboard(&gateway).status, 200);
    down.store(true, Ordering::Relaxed);
    eventually("they have expired", || !parts(&dashboard(&gateway)).contains("hit"));
    let answer = dashboard(&gateway);
    let said = parts(&answer);
    assert!(said.starts_with("excused=stale;age=") && said.contains(", kept=stale;age="), "{said}");
    assert!(said.contains("refused=status;code=403"), "what a service refuses now is not given: {said}");
    assert_eq!((&answer.json()["kept"], &answer.json()["_meta"]["kept"]["source"]), (&"good".into(), &"stale".into()));
    assert_eq!((answer.header("cache-control"), answer.json().get("refused")), (Some("no-store"), None));
    // Nothing was ever kept: the next best thing.
    let gateway = Gateway::start(&yaml(
        &[("kept", &kept)],
        "\n      calls: { never: { service: kept, path: /, cache: {}, fallback: { cached: 1h, json: none } } }",
    ));
    assert_eq!((parts(&dashboard(&gateway)), dashboard(&gateway).json()), ("never=fallback", json!({ "never": "none" })));
}

#[test]
fn what_many_clients_want_at_once_is_asked_for_once() {
    let slow = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(300));
        json("Cache-Control: max-age=60\r\n", "\"one\"")
    });
    let compose = "\n      calls: { one: { service: one, path: /1, cache: {} } }";
    let gateway = Gateway::start(&yaml(&[("one", &slow)], compose).replace("workers: 1", "workers: 2"));
    let port = gateway.port();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(move || {
                let answer = get(port, "/api/dashboard");
                assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"one":"one"}"#));
            });
        }
    });
    assert_eq!(slow.requests().len(), 1);
    // One that leaves while others wait leaves them with another one's turn.
    let slow = Backend::answering(|asked| {
        std::thread::sleep(Duration::from_millis(if asked.target == "/warm" { 0 } else { 300 }));
        json("Cache-Control: max-age=60\r\n", "\"one\"")
    });
    let gateway = Gateway::start(&yaml(&[("one", &slow)], compose));
    let mut first = Client::connect(gateway.port());
    first.send("GET /api/dashboard HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    eventually("it is asked", || slow.requests().len() == 1);
    let port = gateway.port();
    let second = std::thread::spawn(move || get(port, "/api/dashboard"));
    std::thread::sleep(Duration::from_millis(50));
    first.reset();
    assert_eq!(second.join().unwrap().text(), r#"{"one":"one"}"#);
}

#[test]
fn what_cannot_be_a_part_is_not_kept() {
    for bytes in ["{", "<html>"] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let bad = Backend::answering(move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            0 => json("Cache-Control: max-age=60\r\n", bytes),
            _ => json("Cache-Control: max-age=60\r\n", "1"),
        });
        let gateway = Gateway::start(&yaml(&[("bad", &bad)], "\n      calls: { a: { service: bad, path: /, cache: {} } }"));
        dashboard(&gateway).assert_problem(502, "compose", "part_failed");
        assert_eq!(dashboard(&gateway).text(), r#"{"a":1}"#);
        assert!(parts(&dashboard(&gateway)).starts_with("a=hit"));
    }
    // What is not there is not there for as long as the service says, as on any route.
    let absent = Backend::answering(|_| b"HTTP/1.1 404 X\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n".to_vec());
    let gateway = Gateway::start(&yaml(
        &[("bad", &absent)],
        "\n      calls: { a: { service: bad, path: /, cache: {}, pass_statuses: [404] } }",
    ));
    for _ in 0..3 {
        dashboard(&gateway).assert_problem(404, "compose", "part_refused");
    }
    assert_eq!(absent.requests().len(), 1);
}

#[test]
fn a_part_is_validated_and_what_has_changed_is_fetched() {
    let tag = Arc::new(AtomicUsize::new(1));
    let now = tag.clone();
    let one = Backend::answering(move |asked| {
        let tag = format!("\"{}\"", now.load(Ordering::Relaxed));
        match asked.header("if-none-match") == Some(&tag) {
            true => format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\nCache-Control: no-cache\r\n\r\n").into_bytes(),
            false => json(&format!("ETag: {tag}\r\nCache-Control: no-cache\r\n"), &tag),
        }
    });
    let gateway = Gateway::start(&yaml(
        &[("one", &one)],
        "\n      calls: { one: { service: one, path: /, cache: {} } }\n    policies: { etag: { up_to: 1MiB } }",
    ));
    let first = dashboard(&gateway);
    assert_eq!((parts(&first), first.text().as_str()), ("", r#"{"one":"1"}"#));
    let again = dashboard(&gateway);
    assert_eq!((again.text(), again.header("etag")), (first.text(), first.header("etag")));
    assert!(parts(&again).starts_with("one=hit"), "{}", parts(&again));
    assert_eq!(one.last().header("if-none-match"), Some("\"1\""));
    let seen = [("If-None-Match", first.header("etag").unwrap())];
    assert_eq!(request(gateway.port(), "GET", "/api/dashboard", &seen, b"").status, 304);
    tag.store(2, Ordering::Relaxed);
    let changed = request(gateway.port(), "GET", "/api/dashboard", &seen, b"");
    assert_eq!((changed.status, changed.text().as_str()), (200, r#"{"one":"2"}"#));
    assert_ne!(changed.header("etag"), first.header("etag"));
}

#[test]
fn a_purge_reaches_parts_by_tag_and_by_url() {
    let one = counting("Cache-Control: max-age=600\r\nCache-Tag: red, blue\r\n");
    let compose = "\n      calls: { one: { service: one, path: /inner, query: { a: '1' }, cache: {} } }";
    let gateway = Gateway::start(&yaml(&[("one", &one)], compose));
    let order = |body: serde_json::Value| {
        let answer = request(
            gateway.admin(),
            "POST",
            "/cache/purge",
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for (number, purge) in [
        json!({ "tags": ["red"], "everywhere": true }),
        json!({ "urls": ["http://127.0.0.1/inner?a=1"] }),
        json!({ "tags": ["blue"], "route": "/api/dashboard" }),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(dashboard(&gateway).json()["one"], number);
        assert!(parts(&dashboard(&gateway)).starts_with("one=hit"));
        order(json!({ "tags": ["green"], "everywhere": true }));
        assert!(parts(&dashboard(&gateway)).starts_with("one=hit"));
        order(purge);
    }
    assert_eq!(dashboard(&gateway).json()["one"], 3);
}

/// Nobody gets what was made for another, and what nobody is told of may be everybody's.
#[test]
fn a_part_is_kept_for_all_only_if_its_service_hears_of_nobody() {
    let echo = Backend::answering(|asked| {
        let who =
            asked.header("x-consumer-name").or(asked.header("authorization")).or(asked.header("cookie")).unwrap_or("nobody");
        json("Cache-Control: max-age=600\r\n", &format!("\"{who}\""))
    });
    let compose = "
      calls:
        open: { service: one, path: /open, cache: {} }
        each: { service: one, path: /each, cache: { per: consumer } }
        all: { service: one, path: /all, anonymous: true, cache: {} }
    policies: { authn: { api_key: {} } }";
    let (north, south) = ("north-key-0123456789", "south-key-0123456789");
    let consumers = format!(
        "\nconsumers: [ {{ name: north, api_keys: [ {{ hash: {} }} ] }}, {{ name: south, api_keys: [ {{ hash: {} }} ] }} ]\n",
        key_hash(north),
        key_hash(south)
    );
    let gateway = Gateway::start(&(yaml(&[("one", &echo)], compose) + &consumers));
    let ask = |key: &str| request(gateway.port(), "GET", "/api/dashboard", &[("X-API-Key", key), ("Cookie", "c=1")], b"");
    let first = ask(north);
    assert_eq!(first.json(), json!({ "open": "north", "each": "north", "all": "nobody" }), "{}", first.text());
    assert_eq!(first.header("cache-control").map(|said| said.starts_with("private")), Some(true));
    let second = ask(south);
    assert_eq!(second.json(), json!({ "open": "south", "each": "south", "all": "nobody" }));
    assert_eq!(parts(&second).split(';').next(), Some("open=ok, each=ok, all=hit"));
    let third = ask(north);
    assert_eq!(third.json(), first.json());
    let states: Vec<&str> = parts(&third).split(", ").map(|part| part.split(';').next().unwrap()).collect();
    assert_eq!(states, ["open=ok", "each=hit", "all=hit"]);
    let seen: Vec<_> = echo.requests().into_iter().filter(|asked| asked.target == "/all").collect();
    assert_eq!(seen.len(), 1);
    for name in ["x-consumer-name", "x-auth-subject", "x-auth-method", "x-api-key", "cookie"] {
        assert_eq!(seen[0].header(name), None, "{}", seen[0].head_text());
    }
    assert!(seen[0].header("x-forwarded-for").is_some() && seen[0].header("traceparent").is_some());
}

/// A service may answer by whatever a call says, and by whom that was made of.
#[test]
fn a_calls_own_fields_are_part_of_what_its_answer_is_kept_by() {
    let session =
        Backend::answering(|asked| json("", &format!("{{\"token\":\"{}\"}}", asked.header("cookie").unwrap_or("none"))));
    let orders = Backend::answering(|asked| {
        let said = ["authorization", "x-user", "x-view"].into_iter().find_map(|name| asked.header(name));
        json("", &format!("\"{}\"", said.unwrap_or("nothing")))
    });
    let compose = "
      calls:
        session: { service: session, path: /session, cache: false }
        bearer: { service: orders, path: /bearer, anonymous: true, headers: { Authorization: 'Bearer {parts.session.token}' } }
        user: { service: orders, path: /user, client_headers: [], headers: { X-User: '{parts.session.token}' } }
        small: { service: orders, path: /view, client_headers: [], headers: { X-View: small } }
        big: { service: orders, path: /view, client_headers: [], headers: { X-View: big } }
        own: { service: orders, path: /own, client_headers: [], headers: { Authorization: 'Basic b3duOm93bg==' } }
    policies: { cache: { ttl: 1h } }";
    let gateway = Gateway::start(&yaml(&[("session", &session), ("orders", &orders)], compose));
    let ask = |cookie: &str| {
        let answer = request(gateway.port(), "GET", "/api/dashboard", &[("Cookie", cookie)], b"");
        let expected = json!({ "session": { "token": cookie }, "bearer": format!("Bearer {cookie}"), "user": cookie, "small": "small",
            "big": "big", "own": "Basic b3duOm93bg==" });
        assert_eq!(answer.json(), expected, "{}", answer.text());
        answer
    };
    ask("a=1");
    ask("a=2");
    let third = ask("a=1");
    let states: Vec<&str> = parts(&third).split(", ").map(|part| part.split(';').next().unwrap()).collect();
    assert_eq!(states, ["session=ok", "bearer=ok", "user=hit", "small=hit", "big=hit", "own=hit"]);
}

/// Who waits for what another one has asked for does not go without because that one has no time left.
#[test]
fn a_part_that_was_waited_for_is_asked_for_once_more() {
    let count = AtomicUsize::new(0);
    let one = Backend::scripted(move |mut stream| {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let whole = ok("\"slowly\"");
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            let _ = stream.write_all(&whole[..whole.len() - 4]);
            // Until the gateway has done with it.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.read(&mut request);
        } else {
            let _ = stream.write_all(&whole);
        }
    });
    let compose = "
      calls:
        hasty: { service: one, path: /, timeout: 500ms, optional: true }
        calm: { service: one, path: / }
    policies: { cache: { ttl: 1h } }";
    let gateway = Gateway::start(&yaml(&[("one", &one)], compose));
    let answer = dashboard(&gateway);
    assert_eq!((answer.status, answer.json()), (200, json!({ "calm": "slowly" })), "{}", answer.text());
    assert_eq!(parts(&answer), "hasty=timeout, calm=ok");
}

/// A service that answers as it was told last: status, type, fields and body.
fn told() -> (Backend, Arc<Mutex<[&'static str; 4]>>) {
    let told = Arc::new(Mutex::new(["200", "application/json", "max-age=1", "\"good\""]));
    let known = told.clone();
    let backend = Backend::answering(move |_| {
        let [status, kind, control, body] = *known.lock().unwrap();
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nCache-Control: {control}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    });
    (backend, told)
}

#[test]
fn what_is_fetched_behind_a_client_is_judged_as_what_is_fetched_for_it() {
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65)).leak();
    for (kind, body, state) in [
        ("text/html", "<html>", "not_json"),
        ("application/json", "{\"a\":", "malformed"),
        ("application/json", deep, "too_deep"),
        ("application/json", "\"much longer than a part may be, and that by far\"", "too_large"),
    ] {
        let (service, said) = told();
        let compose = "
      calls: { one: { service: one, path: /, optional: true, max_body: 131B, cache: { stale_while_revalidate: 60s }, fallback: { cached: 1h } } }";
        let compose = if state == "too_large" { compose.replace("131B", "40B") } else { compose.to_owned() };
        let gateway = Gateway::start(&yaml(&[("one", &service)], &compose));
        let stale = || parts(&dashboard(&gateway)).starts_with("one=stale");
        assert_eq!(dashboard(&gateway).json(), json!({ "one": "good" }));
        *said.lock().unwrap() = ["200", kind, "max-age=60", body];
        eventually("it has expired", stale);
        eventually("it is asked again", || service.requests().len() > 1);
        // Nothing of it is kept: it is asked again, and again.
        let asked = service.requests().len();
        eventually("it is asked once more", || {
            assert_eq!(dashboard(&gateway).json(), json!({ "one": "good" }), "{state}");
            service.requests().len() > asked
        });
        *said.lock().unwrap() = ["200", "application/json", "max-age=60", "\"new\""];
        eventually("it is well again", || dashboard(&gateway).json() == json!({ "one": "new" }));
    }
}

#[test]
fn an_error_does_not_take_the_place_of_the_last_good_answer() {
    for (status, control, cache) in [
        ("503", "max-age=60", "{}"),
        ("429", "max-age=60", "{}"),
        ("500", "no-cache", "{}"),
        ("503", "", "{ ttl_by_status: { 5xx: 1m } }"),
    ] {
        let (service, said) = told();
        let compose = format!(
            "\n      calls: {{ one: {{ service: one, path: /, optional: true, cache: {cache}, fallback: {{ cached: 1h }} }} }}"
        );
        let gateway = Gateway::start(&yaml(&[("one", &service)], &compose));
        assert_eq!(dashboard(&gateway).json(), json!({ "one": "good" }));
        *said.lock().unwrap() = [status, "application/json", control, "{}"];
        eventually("it has expired", || parts(&dashboard(&gateway)).starts_with("one=stale"));
        let asked = service.requests().len();
        for _ in 0..2 {
            let answer = dashboard(&gateway);
            assert_eq!((answer.json(), parts(&answer).starts_with("one=stale")), (json!({ "one": "good" }), true), "{status}");
        }
        assert_eq!(service.requests().len(), asked + 2, "it is asked each time");
        // What it refuses is refused from then on.
        *said.lock().unwrap() = ["404", "application/json", "max-age=60", "{}"];
        for _ in 0..2 {
            assert_eq!(parts(&dashboard(&gateway)), "one=status;code=404");
        }
    }
}
