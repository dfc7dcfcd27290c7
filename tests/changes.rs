//! What the cache does when what it holds has changed: by a request that passed here, or by the word of a backend that validates it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Answer, Gateway, curl, eventually, filled, get, request};
use crate::peers::{Act, Asked, Origin, answer};

const CONFIG: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    server: { workers: 2 }
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /*, service: a, policies: { cache: { ttl: 1h } } }
      - { path: /read/*, methods: [ GET, HEAD ], service: a, policies: { cache: { ttl: 1h, key_headers: [ X-Tenant ] } } }
      - { path: /read/*, service: a }
      - { path: /noquery, service: a, policies: { cache: { ttl: 1h, query: none } } }
";

fn start(origin: &Origin) -> Gateway {
    Gateway::start(&filled(CONFIG, &[("$BACKEND", origin.port())]))
}

fn state(answer: &Answer) -> &str {
    let status = answer.cache_status();
    if status.contains("hit") { "hit" } else { status.trim_start_matches("portcullis; ") }
}

fn is_hit(gateway: &Gateway, path: &str) -> bool {
    let answer = get(gateway.port(), path);
    assert_eq!(answer.status, 200);
    state(&answer) == "hit"
}

/// Stores it.
#[track_caller]
fn warm(gateway: &Gateway, path: &str) {
    get(gateway.port(), path);
    assert!(is_hit(gateway, path), "{path}");
}

#[test]
fn what_a_request_changes_is_not_answered_from_memory() {
    let origin = Origin::start(|asked: &Asked| {
        let named = |name: &str| asked.header(name).map(str::to_owned);
        let status = named("x-status").map_or(200, |status| status.parse().unwrap());
        let fields = [("Location", named("x-location")), ("Content-Location", named("x-content-location"))];
        let fields: Vec<(&str, &str)> = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        Act::Send(answer(status, &fields, "x"))
    });
    let gateway = start(&origin);
    let port = gateway.port();
    for path in ["/a", "/a?x=1", "/read/a", "/noquery?x=1"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "MKCOL"] {
            warm(&gateway, path);
            assert_eq!(request(port, method, path, &[], b"").status, 200);
            assert!(!is_hit(&gateway, path), "{method} {path}");
        }
        warm(&gateway, path);
        let url = gateway.url(path);
        assert_eq!(curl(&["--http2-prior-knowledge", "-X", "DELETE", &url]).status, 200);
        assert!(!is_hit(&gateway, path), "{path} over HTTP/2");
    }
    // On the same target, whatever else tells its answers apart.
    warm(&gateway, "/read/b");
    for tenant in ["north", "south"] {
        request(port, "GET", "/read/b", &[("X-Tenant", tenant)], b"");
    }
    assert_eq!(request(port, "POST", "/read/b", &[], b"").status, 200);
    for tenant in ["north", "south"] {
        assert_ne!(state(&request(port, "GET", "/read/b", &[("X-Tenant", tenant)], b"")), "hit");
    }
    // What changes nothing, and what is not said to have changed.
    for path in ["/a", "/read/a"] {
        warm(&gateway, path);
        assert_eq!(request(port, "OPTIONS", path, &[], b"").status, 200);
        for status in ["404", "500"] {
            assert_eq!(request(port, "POST", path, &[("X-Status", status)], b"").status.to_string(), status);
        }
        assert_eq!(request(port, "POST", "/other", &[], b"").status, 200);
        assert!(is_hit(&gateway, path), "{path}");
    }
    // What the answer names.
    let own = format!("http://127.0.0.1:{port}/a");
    for (field, location, goes) in [
        ("X-Location", "/a", true),
        ("X-Content-Location", "/x/../a", true),
        ("X-Location", &own, true),
        ("X-Location", "http://elsewhere.example/a", false),
        ("X-Location", "http://127.0.0.1:1/a", false),
    ] {
        for by in ["/b", "/read/x"] {
            warm(&gateway, "/a");
            let answer = request(port, "POST", by, &[(field, location), ("X-Status", "303")], b"");
            assert_eq!(answer.status, 303);
            assert_eq!(is_hit(&gateway, "/a"), !goes, "{field}: {location} by {by}");
        }
    }
}

const OLD: &str = "Sat, 27 Mar 2010 00:00:00 GMT";
const NEW: &str = "Sun, 28 Mar 2010 00:00:00 GMT";

/// The first answer is fresh for a second; what follows is a 304 with these fields, and fresh for long.
fn revalidating(fields: &'static [(&'static str, &'static str)]) -> Origin {
    Origin::start(move |asked: &Asked| {
        if asked.header("if-none-match").is_none() {
            let stored = [
                ("Cache-Control", "max-age=1"),
                ("ETag", "\"v\""),
                ("Date", OLD),
                ("Content-Type", "text/plain"),
                ("Vary", "Accept"),
                ("X-Note", "old"),
                ("X-Kept", "yes"),
            ];
            return Act::Send(answer(200, &stored, "0123456789"));
        }
        // By their dates they are years old.
        let fresh = [("Cache-Control", "max-age=2147483647"), ("ETag", "\"v\"")];
        Act::Send(answer(304, &[&fresh[..], fields].concat(), ""))
    })
}

/// Asks until the stored answer was validated.
fn validated(gateway: &Gateway) -> Answer {
    let mut last = get(gateway.port(), "/a");
    eventually("the stored answer is validated", || {
        last = get(gateway.port(), "/a");
        assert_eq!((last.status, &*last.body), (200, &b"0123456789"[..]));
        state(&last).contains("fwd-status=304")
    });
    last
}

#[test]
fn a_304_updates_every_field_but_those_of_the_body() {
    let origin = revalidating(&[
        ("Date", NEW),
        ("X-Note", "new"),
        ("X-Note", "newer"),
        ("X-Added", "1"),
        ("Content-Type", "text/html"),
        ("Vary", "accept"),
        ("Content-Length", "3"),
        ("Content-Encoding", "gzip"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ]);
    let gateway = start(&origin);
    let validation = validated(&gateway);
    let hit = get(gateway.port(), "/a");
    assert_eq!((state(&hit), &*hit.body), ("hit", &b"0123456789"[..]));
    for answer in [validation, hit] {
        assert_eq!(answer.all("x-note"), ["new", "newer"]);
        for (name, value) in
            [("x-added", "1"), ("x-kept", "yes"), ("date", NEW), ("content-type", "text/html"), ("content-length", "10")]
        {
            assert_eq!(answer.all(name), [value], "{name}");
        }
        assert!(["content-encoding", "x-hop"].iter().all(|name| answer.header(name).is_none()), "{:?}", answer.headers);
    }
    assert_eq!(origin.asked().len(), 2);
}

#[test]
fn a_validated_answer_is_from_the_moment_of_its_validation() {
    let origin = revalidating(&[]);
    let gateway = start(&origin);
    let validation = validated(&gateway);
    let date = validation.header("date").unwrap().to_owned();
    assert!(date != OLD && date.ends_with(" GMT"), "{date}");
    let hit = get(gateway.port(), "/a");
    assert_eq!((state(&hit), hit.header("date")), ("hit", Some(&*date)));
}

#[test]
fn an_answer_without_a_date_is_from_the_moment_it_came() {
    let origin = Origin::start(|_| Act::Send(answer(200, &[], "x")));
    let gateway = start(&origin);
    let first = get(gateway.port(), "/a");
    let date = first.header("date").unwrap().to_owned();
    let mut hit = get(gateway.port(), "/a");
    eventually("a second passes", || {
        hit = get(gateway.port(), "/a");
        hit.header("age").is_some_and(|age| age != "0")
    });
    assert_eq!((state(&hit), hit.header("date")), ("hit", Some(&*date)));
}

#[test]
fn the_vary_of_a_304_decides_what_is_answered_next() {
    let count = AtomicUsize::new(0);
    let origin = Origin::start(move |asked: &Asked| {
        let language = asked.header("accept-language").unwrap_or("none").to_owned();
        if asked.header("if-none-match").is_some() {
            return Act::Send(answer(
                304,
                &[("ETag", "\"v\""), ("Vary", "Accept-Language"), ("Cache-Control", "max-age=3600")],
                "",
            ));
        }
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let fields: &[(&str, &str)] = if first {
            &[("ETag", "\"v\""), ("Cache-Control", "max-age=1")]
        } else {
            &[("ETag", "\"v\""), ("Vary", "Accept-Language"), ("Cache-Control", "max-age=3600")]
        };
        Act::Send(answer(200, fields, language))
    });
    let gateway = start(&origin);
    let ask = |language: &str| request(gateway.port(), "GET", "/a", &[("Accept-Language", language)], b"");
    assert_eq!(ask("de").text(), "de");
    let mut validation = ask("de");
    eventually("the stored answer is validated", || {
        validation = ask("de");
        state(&validation) != "hit"
    });
    assert_eq!((validation.status, validation.text(), validation.header("vary")), (200, "de".into(), Some("Accept-Language")));
    for language in ["en", "de", "en", "de"] {
        assert_eq!(ask(language).text(), language);
    }
    assert_eq!((state(&ask("en")), state(&ask("de"))), ("hit", "hit"));
}
