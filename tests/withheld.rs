//! What is not kept for others, whoever has it fetched: what a rule keeps from the cache, what a fallback takes the place of, and what is
//! worse than what is there.

use std::sync::{Arc, Mutex};

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

/// A status, fields, and a body.
type Told = (u16, Vec<(&'static str, &'static str)>, &'static str);

/// Answers as it was told last, and says for whom it was: `X-For` is what the request has in `X-Preview`.
struct Teller {
    origin: Origin,
    told: Arc<Mutex<Told>>,
}

impl Teller {
    fn start() -> Teller {
        let told: Arc<Mutex<Told>> = Arc::new(Mutex::new((200, Vec::new(), "")));
        let known = told.clone();
        let origin = Origin::start(move |asked: &Asked| {
            let (status, fields, body) = known.lock().unwrap().clone();
            let whom = [("X-For", asked.header("x-preview").unwrap_or("all"))];
            let all = answer(status, &[&fields[..], &whom].concat(), body);
            Act::Send(if asked.method == "HEAD" { all[..all.len() - body.len()].to_vec() } else { all })
        });
        Teller { origin, told }
    }

    fn says(&self, status: u16, fields: &[(&'static str, &'static str)], body: &'static str) {
        *self.told.lock().unwrap() = (status, fields.to_vec(), body);
    }

    fn gateway(&self, routes: &str) -> Gateway {
        Gateway::start(&self.yaml(routes))
    }

    fn yaml(&self, routes: &str) -> String {
        format!(
            "listeners: [ {{ bind: '127.0.0.1:$PORT' }} ]\nserver: {{ workers: 1 }}\n\
             services: {{ s: {{ endpoints: [ '127.0.0.1:{}' ] }} }}\nroutes:\n{routes}\n",
            self.origin.port()
        )
    }
}

const SECOND: (&str, &str) = ("Cache-Control", "max-age=1");
const MINUTE: (&str, &str) = ("Cache-Control", "max-age=60");
const PREVIEW: (&str, &str) = ("X-Preview", "secret");
const STORED_ALONE: (&str, &str) = ("Cache-Control", "only-if-cached");

/// Until what is stored is no longer fresh, for those who ask in English where that makes a difference.
fn expired(gateway: &Gateway, path: &str) {
    eventually("it expires", || {
        let answer = request(gateway.port(), "GET", path, &[STORED_ALONE, ("Accept-Language", "en")], b"");
        !answer.cache_status().contains("; hit") || answer.cache_status().contains("ttl=-")
    });
}

#[test]
fn what_a_rule_keeps_from_the_cache_is_not_fetched_for_it_either() {
    let teller = Teller::start();
    let rule = "no_store: '\"x-preview\" in request.headers'";
    let gateway = teller.gateway(&format!(
        "  - {{ path: /swr/*, service: s, policies: {{ cache: {{ stale_while_revalidate: 60s, {rule} }} }} }}\n  \
         - {{ path: /whole/*, service: s, policies: {{ cache: {{ ranges: whole, {rule} }} }} }}\n  \
         - {{ path: /parts/*, service: s, policies: {{ cache: {{ ranges: parts, {rule} }} }} }}\n  \
         - {{ path: /head/*, service: s, policies: {{ cache: {{ {rule} }} }} }}"
    ));
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| request(gateway.port(), method, path, fields, b"");
    let previews = |path: &str| {
        let asked = teller.origin.asked();
        asked.iter().filter(|asked| asked.target == path && asked.header("x-preview").is_some()).count()
    };
    // Who is given a stale answer asks for nothing behind it.
    teller.says(200, &[SECOND], "old");
    ask("GET", "/swr/a", &[]);
    expired(&gateway, "/swr/a");
    teller.says(200, &[MINUTE], "new");
    for fields in [&[PREVIEW][..], &[PREVIEW, ("Range", "bytes=0-0")]] {
        let stale = ask("GET", "/swr/a", fields);
        assert!(stale.cache_status().contains("stale-while-revalidate"), "{stale:?}");
    }
    assert!(ask("HEAD", "/swr/a", &[PREVIEW]).cache_status().contains("stale-while-revalidate"));
    eventually("another one has it fetched", || ask("GET", "/swr/a", &[]).text() == "new");
    assert_eq!(ask("GET", "/swr/a", &[]).header("x-for"), Some("all"));
    assert_eq!(previews("/swr/a"), 0);
    // It is answered from what is there.
    assert!(ask("GET", "/swr/a", &[PREVIEW]).cache_status().contains("; hit"));
    // A part of what is not stored is its own, and so is the head of what is.
    teller.says(200, &[MINUTE, ("ETag", "\"1\"")], "0123456789");
    for path in ["/whole/a", "/parts/a", "/head/b"] {
        for fields in [&[PREVIEW, ("Range", "bytes=0-1")][..], &[PREVIEW]] {
            assert_eq!(ask("GET", path, fields).header("x-for"), Some("secret"), "{path}");
        }
        assert_eq!(ask("GET", path, &[]).cache_status(), "portcullis; fwd=miss; stored", "{path}");
        assert_eq!(ask("GET", path, &[]).header("x-for"), Some("all"), "{path}");
    }
    teller.says(200, &[SECOND, ("ETag", "\"1\"")], "a");
    ask("GET", "/head/a", &[]);
    expired(&gateway, "/head/a");
    teller.says(200, &[MINUTE, ("ETag", "\"1\"")], "a");
    assert_eq!(ask("HEAD", "/head/a", &[PREVIEW]).header("x-for"), Some("secret"));
    assert_eq!(ask("GET", "/head/a", &[STORED_ALONE]).status, 504, "it is as stale as before");
    // Another one's renews it.
    ask("HEAD", "/head/a", &[]);
    assert!(ask("GET", "/head/a", &[]).cache_status().contains("; hit"));
    // The head of another version takes out nothing.
    teller.says(200, &[MINUTE, ("ETag", "\"2\"")], "a");
    let anew = ask("HEAD", "/head/a", &[PREVIEW, ("Cache-Control", "no-cache")]);
    assert_eq!(anew.header("etag"), Some("\"2\""));
    assert!(ask("GET", "/head/a", &[]).cache_status().contains("; hit"));
}

const FALLBACK: &str = "fallback: { on: [ 404, 429, 5xx ], json: { items: [] } }";

#[test]
fn what_a_fallback_takes_the_place_of_is_not_kept() {
    let teller = Teller::start();
    let gateway = teller.gateway(&format!(
        "  - {{ path: /swr/*, service: s, {FALLBACK}, policies: {{ cache: {{ stale_while_revalidate: 60s }} }} }}\n  \
         - {{ path: /whole/*, service: s, {FALLBACK}, policies: {{ cache: {{ ranges: whole }} }} }}\n  \
         - {{ path: /none/*, service: s, fallback: {{ on: [ 404 ], cached: 1h }}, policies: {{ cache: {{}} }} }}"
    ));
    let ask = |path: &str, fields: &[(&str, &str)]| request(gateway.port(), "GET", path, fields, b"");
    for (number, status) in [404, 429, 503].into_iter().enumerate() {
        let path = format!("/swr/{number}");
        teller.says(200, &[SECOND], "old");
        assert_eq!(ask(&path, &[]).text(), "old");
        expired(&gateway, &path);
        teller.says(status, &[MINUTE], "internal");
        assert_eq!(ask(&path, &[]).text(), "old");
        eventually("it is asked again", || teller.origin.count(&path) > 1);
        teller.says(200, &[MINUTE], "new");
        eventually("the service is well again", || {
            let answer = ask(&path, &[]);
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.text() == "new"
        });
    }
    teller.says(404, &[MINUTE], "internal");
    for fields in [&[][..], &[("Range", "bytes=0-0")], &[("Range", "bytes=0-0")], &[]] {
        let answer = ask("/whole/a", fields);
        assert_eq!((answer.status, answer.text().as_str()), (200, "{\"items\":[]}"), "{answer:?}");
    }
    // Where the fallback has nothing, it is passed on, and not kept: next time it may have something.
    for _ in 0..2 {
        let answer = ask("/none/a", &[]);
        assert_eq!((answer.status, answer.cache_status()), (404, "portcullis; fwd=miss"));
    }
}

#[test]
fn a_reload_keeps_from_clients_what_was_stored_before() {
    let teller = Teller::start();
    let route = |fallback: &str| teller.yaml(&format!("  - {{ path: /*, service: s, {fallback} policies: {{ cache: {{}} }} }}"));
    let gateway = Gateway::start(&route(""));
    teller.says(404, &[MINUTE], "internal");
    get(gateway.port(), "/a");
    assert!(get(gateway.port(), "/a").cache_status().contains("; hit"));
    gateway.rewrite(&route(&format!("{FALLBACK},")));
    assert_eq!(gateway.reload().0, 200);
    let answer = get(gateway.port(), "/a");
    assert_eq!((answer.status, answer.header("x-portcullis-fallback")), (200, Some("static")), "{answer:?}");
    // And whoever wants what is stored alone is given none of it.
    assert_ne!(request(gateway.port(), "GET", "/a", &[STORED_ALONE], b"").status, 404);
}

#[test]
fn an_error_is_no_last_good_answer_and_takes_the_place_of_none() {
    let mut teller = Teller::start();
    let gateway = teller.gateway(
        "  - { path: /last/*, service: s, fallback: { on: [ error, timeout ], cached: 1h, json: { items: [] } }, policies: { cache: { ttl_by_status: { 5xx: 1s } } } }\n  \
           - { path: /excused/*, service: s, policies: { cache: { stale_if_error: 60s } } }",
    );
    let ask = |path: &str, language: &str| request(gateway.port(), "GET", path, &[("Accept-Language", language)], b"");
    // One that was never good: 404 as well.
    for (path, status) in [("/last/503", 503), ("/last/404", 404), ("/last/429", 429)] {
        teller.says(status, &[SECOND], "busy");
        assert_eq!(ask(path, "en").cache_status(), "portcullis; fwd=miss; stored");
        expired(&gateway, path);
    }
    // One that was good, until there was trouble.
    let varies = ("Vary", "Accept-Language");
    for (path, status) in [("/last/good", 503), ("/last/many", 429), ("/last/late", 408)] {
        teller.says(200, &[SECOND, varies], "good");
        ask(path, "en");
        expired(&gateway, path);
        teller.says(status, &[MINUTE], "busy");
        for language in ["en", "de"] {
            let answer = ask(path, language);
            assert_eq!((answer.status, answer.cache_status().contains("stored")), (status, false), "{answer:?}");
        }
    }
    // What is gone is gone.
    teller.says(200, &[SECOND], "good");
    ask("/last/gone", "en");
    expired(&gateway, "/last/gone");
    teller.says(404, &[SECOND], "gone");
    assert!(ask("/last/gone", "en").cache_status().contains("stored"));
    expired(&gateway, "/last/gone");
    // An error stands for no other one.
    teller.says(503, &[SECOND], "one");
    ask("/excused/a", "en");
    expired(&gateway, "/excused/a");
    teller.says(503, &[SECOND], "two");
    let answer = ask("/excused/a", "en");
    assert_eq!((answer.text().as_str(), answer.cache_status()), ("two", "portcullis; fwd=stale; stored"));
    teller.origin.stop();
    for (path, given) in [
        ("/last/503", "{\"items\":[]}"),
        ("/last/404", "{\"items\":[]}"),
        ("/last/429", "{\"items\":[]}"),
        ("/last/gone", "{\"items\":[]}"),
        ("/last/good", "good"),
        ("/last/many", "good"),
        ("/last/late", "good"),
    ] {
        let answer = ask(path, "en");
        assert_eq!((answer.status, answer.text().as_str()), (200, given), "{path} {answer:?}");
    }
}
