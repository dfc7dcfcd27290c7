//! How long an answer is fresh, who says so, and what is given once it is not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Answer, Client, Clock, Gateway, eventually, get, request};
use crate::peers::{Act, Asked, Origin, answer};

/// What the origin answers to each path, and how often it has answered at all: the body is its number.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Vec<Line>>>, Arc<AtomicUsize>);

/// A path, its status, and its fields.
type Line = (String, u16, Vec<(String, String)>);

impl Script {
    fn set(&self, path: &str, status: u16, fields: &[(&str, &str)]) {
        let mut lines = self.0.lock().unwrap();
        lines.retain(|(known, ..)| known != path);
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        lines.push((path.to_owned(), status, fields));
    }

    fn behave(&self, asked: &Asked) -> Vec<u8> {
        let path = asked.target.split('?').next().unwrap();
        let lines = self.0.lock().unwrap();
        let number = self.1.fetch_add(1, Ordering::SeqCst) + 1;
        let Some((_, status, fields)) = lines.iter().find(|(known, ..)| known == path) else {
            return answer(404, &[("Cache-Control", "no-store")], "unknown");
        };
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let tag = fields.iter().find(|(name, _)| *name == "ETag").map(|(_, value)| *value);
        // `X-304` is the tag of an origin that takes every condition for met.
        let lie = fields.iter().find(|(name, _)| *name == "X-304").map(|(_, value)| *value);
        match (asked.header("if-none-match"), tag, lie) {
            (Some(_), _, Some(other)) => answer(304, &[("ETag", other)], ""),
            (Some(asked), Some(tag), _) if asked == tag => answer(304, &fields, ""),
            _ => answer(*status, &fields, number.to_string()),
        }
    }
}

struct Played {
    gateway: Gateway,
    origin: Origin,
    script: Script,
}

impl Played {
    fn start(cache: &str) -> Played {
        Self::with(cache, "")
    }

    fn with(cache: &str, more: &str) -> Played {
        let script = Script::default();
        let played = script.clone();
        let origin = Origin::start(move |asked| Act::Send(played.behave(asked)));
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\n{more}\nservices: {{ origin: {{ endpoints: [ 127.0.0.1:{} ] }} }}\n\
             routes: [ {{ path: /*, service: origin, policies: {{ cache: {cache} }} }} ]",
            origin.port()
        );
        Played { gateway: Gateway::start(&yaml), origin, script }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.gateway.port(), "GET", path, headers, b"")
    }

    fn state(&self, path: &str, headers: &[(&str, &str)]) -> String {
        self.get(path, headers).cache_status().to_owned()
    }

    /// Until what is stored has expired.
    fn expired(&self, path: &str) {
        eventually("it expires", || !self.state(path, &[("Cache-Control", "only-if-cached")]).starts_with("portcullis; hit"));
    }
}

#[track_caller]
fn says(answer: &Answer, state: &str, body: &str) {
    assert!(answer.cache_status().starts_with(state), "{state}: {:?}", answer.headers);
    assert_eq!(answer.text(), body, "{:?}", answer.headers);
}

#[test]
fn a_route_that_says_nothing_keeps_what_the_origin_says() {
    let played = Played::start("{}");
    let control = |path: &str, value: &str| played.script.set(path, 200, &[("Cache-Control", value)]);
    played.script.set("/silent", 200, &[]);
    control("/hour", "max-age=3600");
    control("/shared", "max-age=0, s-maxage=60");
    control("/none", "no-store");
    played.script.set("/moved", 302, &[("Location", "/"), ("Cache-Control", "max-age=60")]);
    played.script.set("/broken", 500, &[("Cache-Control", "max-age=60")]);
    played.script.set("/moved-silently", 302, &[("Location", "/")]);
    played.script.set("/targeted", 200, &[("Cache-Control", "no-store"), ("CDN-Cache-Control", "max-age=60")]);
    played.script.set("/ours", 200, &[("CDN-Cache-Control", "no-store"), ("Portcullis-Cache-Control", "max-age=60")]);
    for (path, kept) in [
        ("/silent", false),
        ("/hour", true),
        ("/shared", true),
        ("/none", false),
        ("/moved", true),
        ("/broken", true),
        ("/moved-silently", false),
        ("/targeted", true),
        ("/ours", true),
    ] {
        let first = played.get(path, &[]).text();
        let second = played.get(path, &[]);
        assert_eq!(second.header("cache-status").unwrap().starts_with("portcullis; hit"), kept, "{path} {:?}", second.headers);
        assert_eq!(second.text() == first, kept, "{path}");
    }
    let hour = played.state("/hour", &[]);
    let left: u64 = hour.split("ttl=").nth(1).unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&left), "{hour}");
}

#[test]
fn an_old_date_is_an_old_answer() {
    let played = Played::start("{}");
    let date = |seconds: i64| {
        let stamp = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap();
        stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    for (path, age) in [("/young", 10), ("/old", 100), ("/ahead", -100)] {
        played.script.set(path, 200, &[("Cache-Control", "max-age=50"), ("Date", &date(age))]);
        played.get(path, &[]);
    }
    let young = played.get("/young", &[]);
    assert!(young.header("cache-status").unwrap().contains("hit"), "{:?}", young.headers);
    let age: u64 = young.header("age").unwrap().parse().unwrap();
    assert!((8..30).contains(&age), "{age}");
    assert!(!played.state("/old", &[]).contains("hit"));
    assert!(played.state("/ahead", &[]).contains("hit"));
}

#[test]
fn what_may_not_be_used_without_asking_is_asked_for_each_time() {
    let played = Played::start("{}");
    played.script.set("/a", 200, &[("Cache-Control", "no-cache"), ("ETag", "\"v1\"")]);
    says(&played.get("/a", &[]), "portcullis; fwd=miss; stored", "1");
    for _ in 0..2 {
        says(&played.get("/a", &[]), "portcullis; fwd=stale; fwd-status=304", "1");
    }
    // Also many at once, none of whom waits for another's.
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| says(&played.get("/a", &[]), "portcullis; fwd=stale; fwd-status=304", "1"));
        }
    });
    assert_eq!(played.origin.count("/a"), 13);
    played.script.set("/a", 200, &[("Cache-Control", "no-cache"), ("ETag", "\"v2\"")]);
    says(&played.get("/a", &[]), "portcullis; fwd=stale; stored", "14");
    // A client's own validator is answered from what is stored, once the origin has said that it holds.
    let unchanged = played.get("/a", &[("If-None-Match", "\"v2\"")]);
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"v2\"")), "{:?}", unchanged.headers);
    assert_eq!(played.get("/a", &[("If-None-Match", "\"v1\"")]).status, 200);
}

#[test]
fn fields_that_are_for_one_client_are_not_stored() {
    let played = Played::start("{}");
    let fields = [
        ("Cache-Control", "max-age=60, private=\"Set-Cookie, X-User\", no-cache=\"x-now\""),
        ("Set-Cookie", "id=1"),
        ("X-User", "ann"),
        ("X-Now", "1"),
        ("X-All", "1"),
    ];
    played.script.set("/a", 200, &fields);
    let first = played.get("/a", &[]);
    assert_eq!(
        (first.header("set-cookie"), first.header("x-user"), first.header("x-now")),
        (Some("id=1"), Some("ann"), Some("1"))
    );
    let second = played.get("/a", &[]);
    says(&second, "portcullis; hit", "1");
    assert_eq!((second.header("set-cookie"), second.header("x-user"), second.header("x-now")), (None, None, None));
    assert_eq!(second.header("x-all"), Some("1"));
    played.script.set("/b", 200, &[("Cache-Control", "max-age=60, private=\"X-User\""), ("Set-Cookie", "id=1")]);
    for number in ["2", "3"] {
        assert_eq!(played.get("/b", &[]).text(), number);
    }
}

#[test]
fn a_304_about_something_else_changes_nothing() {
    let played = Played::start("{}");
    for (path, tag, other) in [("/strong", "\"v1\"", "\"v2\""), ("/weak", "W/\"v1\"", "\"v1\"")] {
        played.script.set(path, 200, &[("Cache-Control", "max-age=1"), ("ETag", tag), ("X-304", other)]);
        let first = played.get(path, &[]).text();
        played.expired(path);
        let whole = played.get(path, &[]);
        assert_eq!((whole.status, whole.header("etag")), (200, Some(tag)), "{:?}", whole.headers);
        assert_ne!(whole.text(), first);
        let asked: Vec<_> = played.origin.asked().into_iter().filter(|asked| asked.target == path).collect();
        let conditions: Vec<_> = asked.iter().map(|asked| asked.header("if-none-match")).collect();
        assert_eq!(conditions, [None, Some(tag), None], "{path}");
    }
}

#[test]
fn what_a_client_says_of_stored_answers() {
    let played = Played::start("{}");
    let control = |value| [("Cache-Control", value)];
    played.script.set("/a", 200, &[("Cache-Control", "max-age=60"), ("Age", "20")]);
    let refused = played.get("/a", &control("only-if-cached"));
    refused.assert_problem(504, "cache", "not_cached");
    assert_eq!(played.origin.count("/a"), 0);
    played.get("/a", &[]);
    says(&played.get("/a", &control("only-if-cached")), "portcullis; hit", "1");
    for takes in ["max-age=30", "min-fresh=20", "max-stale", "max-age=x", "only-if-cached, max-age=50"] {
        says(&played.get("/a", &control(takes)), "portcullis; hit", "1");
    }
    // What is let through replaces what is stored.
    let mut number = 1;
    for refuses in ["no-cache", "max-age=0", "max-age=10", "min-fresh=50"] {
        number += 1;
        says(&played.get("/a", &control(refuses)), "portcullis; fwd=request; stored", &number.to_string());
        says(&played.get("/a", &[]), "portcullis; hit", &number.to_string());
    }
    number += 1;
    says(&played.get("/a", &[("Pragma", "no-cache")]), "portcullis; fwd=request; stored", &number.to_string());
    says(&played.get("/a", &control("no-store")), "portcullis; fwd=request", "7");
    says(&played.get("/a", &[]), "portcullis; hit", "6");
    // Where there is something to ask about, that is asked.
    played.script.set("/tagged", 200, &[("Cache-Control", "max-age=60"), ("ETag", "\"v\"")]);
    says(&played.get("/tagged", &[]), "portcullis; fwd=miss", "8");
    says(&played.get("/tagged", &control("no-cache")), "portcullis; fwd=request; fwd-status=304", "8");

    played.script.set("/short", 200, &[("Cache-Control", "max-age=1")]);
    played.script.set("/strict", 200, &[("Cache-Control", "max-age=1, must-revalidate")]);
    let (short, strict) = (played.get("/short", &[]).text(), played.get("/strict", &[]).text());
    played.expired("/short");
    played.expired("/strict");
    let stale = played.get("/short", &control("max-stale=30"));
    says(&stale, "portcullis; hit; ttl=", &short);
    assert!(stale.header("cache-status").unwrap().ends_with("detail=max-stale"), "{:?}", stale.headers);
    assert_ne!(played.get("/strict", &control("max-stale=30")).text(), strict);

    let deaf = Played::start("{ client_directives: ignore }");
    deaf.script.set("/a", 200, &[("Cache-Control", "max-age=60")]);
    for directive in ["only-if-cached", "no-cache", "no-store", "max-age=0"] {
        deaf.get("/a", &control(directive));
    }
    assert_eq!(deaf.origin.count("/a"), 1);
}

#[test]
fn the_last_good_answer_stands_for_an_error() {
    let mut played = Played::start("{ stale_if_error: 1h }");
    for (path, control) in [
        ("/a", "max-age=1"),
        ("/own", "max-age=1, stale-if-error=60"),
        ("/short", "max-age=1, stale-if-error=0"),
        ("/strict", "max-age=1, must-revalidate"),
        ("/shared", "s-maxage=1"),
    ] {
        played.script.set(path, 200, &[("Cache-Control", control)]);
        played.get(path, &[]);
    }
    let paths = ["/a", "/own", "/short", "/strict", "/shared"];
    paths.iter().for_each(|path| played.expired(path));
    for path in paths {
        played.script.set(path, 503, &[]);
    }
    for (path, body) in [("/a", Some("1")), ("/own", Some("2")), ("/short", None), ("/strict", None), ("/shared", None)] {
        let answer = played.get(path, &[]);
        match body {
            Some(body) => says(&answer, "portcullis; fwd=stale; fwd-status=503; ttl=", body),
            None => assert_eq!(answer.status, 503, "{path}"),
        }
    }
    let line = played.gateway.wait_log(|line| line["cache"] == "stale");
    assert_eq!((line["status"].as_u64(), line["answered_by"].as_str()), (Some(200), Some("cache")), "{line}");
    assert!(played.gateway.metric("portcullis_cache_requests_total{state=\"stale\"}") >= 2.0);
    // What is no failure of the service is an answer.
    played.script.set("/a", 404, &[]);
    assert_eq!(played.get("/a", &[]).status, 404);

    played.script.set("/b", 200, &[("Cache-Control", "max-age=1"), ("ETag", "\"b\"")]);
    let good = played.get("/b", &[]).text();
    played.expired("/b");
    played.origin.stop();
    let stale = played.get("/b", &[]);
    assert_eq!((stale.status, stale.text()), (200, good.clone()), "{:?}", stale.headers);
    let said = stale.header("cache-status").unwrap();
    assert!(said.starts_with("portcullis; fwd=stale; ttl=") && said.ends_with("detail=stale-if-error"), "{said}");
    assert!(stale.header("age").unwrap().parse::<u64>().unwrap() >= 1);
    // Many at once, each of them.
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(played.get("/b", &[]).text(), good));
        }
    });
    let part = played.get("/b", &[("Range", "bytes=0-0")]);
    assert_eq!((part.status, part.text()), (206, good[..1].to_owned()), "{:?}", part.headers);
    assert_eq!(request(played.gateway.port(), "HEAD", "/b", &[], b"").status, 200);
    assert_eq!(get(played.gateway.port(), "/nothing").status, 502);
    // It comes back, and is asked again: once, however many want it.
    played.script.set("/b", 200, &[("Cache-Control", "max-age=600"), ("ETag", "\"b\"")]);
    let before = played.origin.count("/b");
    played.origin.back();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| eventually("it is fresh again", || played.state("/b", &[]).starts_with("portcullis; hit")));
        }
    });
    assert_eq!(played.origin.count("/b") - before, 1);
    assert_eq!(played.get("/b", &[]).text(), good, "it was validated");
}

#[test]
fn what_is_fetched_while_no_client_waits_is_counted_and_failures_are_said() {
    let mut played = Played::with("{ stale_while_revalidate: 1h }", "server: { workers: 1 }");
    let stale = [("Cache-Control", "max-age=0, stale-while-revalidate=60"), ("ETag", "\"v\"")];
    played.script.set("/a", 200, &stale);
    played.get("/a", &[]);
    let count = |played: &Played, outcome: &str| {
        played.gateway.metric(&format!("portcullis_route_cache_background_total{{route=\"/*\",outcome=\"{outcome}\"}}"))
    };
    let comes = |played: &Played, outcome: &str, more: u64| {
        let before = count(played, outcome);
        for done in 1..=more {
            played.get("/a", &[]);
            eventually(outcome, || count(played, outcome) >= before + done as f64);
        }
    };
    comes(&played, "validated", 2);
    played.script.set("/a", 200, &stale[..1]);
    comes(&played, "stored", 1);
    // What stays in its place is good still.
    played.script.set("/a", 503, &[]);
    comes(&played, "failed", 2);
    played.origin.stop();
    comes(&played, "failed", 1);
    let said = |text: &str| text.matches("behind its clients' backs failed").count();
    eventually("it is said", || said(&played.gateway.stderr()) > 0);
    let text = played.gateway.stderr();
    assert_eq!(said(&text), 1, "once a minute: {text}");
    assert!(
        text.contains("route `/*`: what was fetched from `origin` behind its clients' backs failed: it answered 503"),
        "{text}"
    );
    played.origin.back();
    played.script.set("/a", 200, &[("Cache-Control", "private")]);
    comes(&played, "not_stored", 1);
}

#[test]
fn a_stale_answer_is_given_while_another_one_is_fetched() {
    // Pingora's own engine does not do this.
    let played = Played::with("{ stale_while_revalidate: 1h }", "server: { workers: 2 }");
    played.script.set("/a", 200, &[("Cache-Control", "max-age=1")]);
    played.script.set("/tagged", 200, &[("Cache-Control", "max-age=1"), ("ETag", "\"v\"")]);
    played.script.set("/strict", 200, &[("Cache-Control", "max-age=1, must-revalidate")]);
    for path in ["/a", "/tagged", "/strict"] {
        played.get(path, &[]);
    }
    for path in ["/a", "/tagged"] {
        let asked = played.origin.count(path);
        let mut last = None;
        eventually("it is given stale", || {
            let answer = played.get(path, &[]);
            let said = answer.header("cache-status").unwrap().to_owned();
            let stale = said.starts_with("portcullis; hit; ttl=") && said.ends_with("detail=stale-while-revalidate");
            last = Some(said);
            stale
        });
        eventually("another one was fetched", || played.origin.count(path) > asked);
        eventually("and is given", || !played.state(path, &[]).contains("detail=stale"));
    }
    assert_eq!(played.get("/tagged", &[]).text(), "2");
    assert_ne!(played.get("/a", &[]).text(), "1");
    let validations: Vec<_> = played.origin.asked().into_iter().filter(|asked| asked.target == "/tagged").collect();
    assert!(validations[1..].iter().all(|asked| asked.header("if-none-match") == Some("\"v\"")), "{validations:?}");
    eventually("what has to be asked for is", || played.state("/strict", &[]).contains("fwd=stale"));
    // Also what is never fresh: one request asks for all.
    played.script.set("/zero", 200, &[("Cache-Control", "max-age=0, stale-while-revalidate=60")]);
    played.get("/zero", &[]);
    let said = played.state("/zero", &[]);
    assert!(said.starts_with("portcullis; hit; ttl="), "{said}");
    // A failing service is asked behind everybody's back.
    played.script.set("/a", 500, &[]);
    eventually("it is asked in vain", || {
        assert_eq!(played.get("/a", &[]).status, 200);
        played.gateway.metric("portcullis_cache_requests_total{state=\"stale\"}") > 4.0
    });
}

#[test]
fn a_head_tells_what_is_stored() {
    let played = Played::start("{}");
    let head = |headers: &[(&str, &str)]| request(played.gateway.port(), "HEAD", "/a", headers, b"");
    let fields = |tag: &'static str, x: &'static str| [("Cache-Control", "max-age=60"), ("ETag", tag), ("X-A", x)];
    played.script.set("/a", 200, &fields("\"v1\"", "one"));
    played.get("/a", &[]);
    played.script.set("/a", 200, &fields("\"v1\"", "two"));
    // It is asked for by the client, and says that the same is there with another field.
    assert_eq!(head(&[("Cache-Control", "no-cache")]).header("x-a"), Some("two"));
    let updated = played.get("/a", &[]);
    says(&updated, "portcullis; hit", "1");
    assert_eq!(updated.header("x-a"), Some("two"));
    played.script.set("/a", 200, &fields("\"v2\"", "three"));
    head(&[("Cache-Control", "no-cache")]);
    says(&played.get("/a", &[]), "portcullis; fwd=miss; stored", "4");
}

/// RFC 9111, section 4.3.2.
#[test]
fn without_a_date_of_its_last_change_an_answer_is_as_old_as_its_date() {
    let played = Played::start("{ default_ttl: 60s }");
    const DATE: &str = "Fri, 26 Mar 2010 00:05:00 GMT";
    const LATER: &str = "Fri, 26 Mar 2010 00:05:10 GMT";
    const BEFORE: &str = "Fri, 26 Mar 2010 00:04:59 GMT";
    const SINCE: &str = "If-Modified-Since";
    played.script.set("/a", 200, &[("Date", DATE), ("ETag", "\"a\"")]);
    played.script.set("/b", 200, &[("Date", BEFORE), ("Last-Modified", DATE)]);
    played.script.set("/c", 404, &[("Date", DATE), ("Cache-Control", "max-age=999999999")]);
    for path in ["/a", "/b", "/c"] {
        assert!(played.state(path, &[]).contains("stored"), "{path}");
    }
    let range = ("Range", "bytes=0-0");
    for (path, fields, status) in [
        ("/a", &[(SINCE, DATE)][..], 304),
        ("/a", &[(SINCE, LATER)], 304),
        ("/a", &[(SINCE, DATE), range], 304),
        ("/a", &[(SINCE, BEFORE)], 200),
        ("/a", &[(SINCE, BEFORE), range], 206),
        ("/a", &[(SINCE, "never")], 200),
        ("/a", &[(SINCE, DATE), (SINCE, LATER)], 200),
        ("/a", &[(SINCE, LATER), ("If-None-Match", "\"b\"")], 200),
        ("/b", &[(SINCE, BEFORE)], 200),
        ("/b", &[(SINCE, DATE)], 304),
        ("/c", &[(SINCE, LATER)], 404),
    ] {
        // A HEAD has no parts.
        for method in if status == 206 { &["GET"][..] } else { &["GET", "HEAD"] } {
            let answer = request(played.gateway.port(), method, path, fields, b"");
            assert!(answer.header("cache-status").unwrap().contains("; hit"), "{path} {fields:?}: {:?}", answer.headers);
            assert_eq!(answer.status, status, "{method} {path} {fields:?}");
        }
    }
    // Of what it has just said the service is the judge.
    played.script.set("/d", 200, &[("Date", DATE)]);
    assert_eq!(played.get("/d", &[(SINCE, LATER)]).status, 200);
    assert_eq!(played.get("/d", &[(SINCE, LATER)]).status, 304);
}

/// RFC 9111, section 4.3.5: what a HEAD says is another one is stale, and not gone.
#[test]
fn what_a_head_has_found_to_be_old_still_stands_in_for_errors() {
    let played = Played::start("{ stale_if_error: 1h, stale_while_revalidate: 1h }");
    let head = |headers: &[(&str, &str)]| request(played.gateway.port(), "HEAD", "/a", headers, b"");
    let fields = |tag: &'static str| [("Cache-Control", "max-age=60"), ("ETag", tag)];
    played.script.set("/a", 200, &fields("\"v1\""));
    says(&played.get("/a", &[]), "portcullis; fwd=miss; stored", "1");
    played.script.set("/a", 200, &fields("\"v2\""));
    assert_eq!(head(&[("Cache-Control", "no-cache")]).header("etag"), Some("\"v2\""));
    played.script.set("/a", 503, &[]);
    let stale = played.get("/a", &[]);
    assert!(stale.header("cache-status").unwrap().contains("fwd=stale; fwd-status=503"), "{:?}", stale.headers);
    assert_eq!((stale.status, stale.text().as_str()), (200, "1"));
    // It is not given while another one is fetched.
    played.script.set("/a", 200, &fields("\"v2\""));
    let anew = played.get("/a", &[]);
    assert!(anew.header("cache-status").unwrap().contains("fwd=stale") && anew.text() != "1", "{:?}", anew.headers);
    assert_eq!(anew.header("etag"), Some("\"v2\""));
    // What it says must not be kept is not.
    head(&[("Cache-Control", "no-cache")]);
    played.script.set("/a", 200, &[("Cache-Control", "no-store"), ("ETag", "\"v2\"")]);
    head(&[("Cache-Control", "no-cache")]);
    played.script.set("/a", 503, &[]);
    assert_eq!(played.get("/a", &[]).status, 503);
}

/// What has been stored for everybody is forgotten by whoever changes it, while somebody fetches it.
#[test]
fn a_change_in_the_middle_of_a_fetch_is_after_it() {
    let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, wait) = (begun.clone(), go.clone());
    let origin = Origin::start(move |asked| {
        if asked.target == "/a" && asked.body.is_empty() {
            seen.fetch_add(1, Ordering::SeqCst);
            let until = Instant::now() + Duration::from_secs(20);
            while wait.load(Ordering::SeqCst) == 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], "before"))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nroutes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/a", &[], b"");
    eventually("the origin is asked", || begun.load(Ordering::SeqCst) == 1);
    assert_eq!(request(gateway.port(), "PUT", "/a", &[], b"x").status, 200);
    go.store(1, Ordering::SeqCst);
    assert_eq!(client.answer_to("GET").text(), "before");
    let next = get(gateway.port(), "/a");
    assert!(!next.header("cache-status").unwrap().contains("hit"), "{:?}", next.headers);
}

#[test]
fn nor_is_a_part_that_was_asked_for_earlier_and_comes_later() {
    let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, wait) = (begun.clone(), go.clone());
    let origin = Origin::start(move |_| {
        let is_first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        let until = Instant::now() + Duration::from_secs(20);
        while is_first && wait.load(Ordering::SeqCst) == 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let tag = if is_first { "\"old\"" } else { "\"new\"" };
        Act::Send(answer(206, &[("Cache-Control", "max-age=60"), ("ETag", tag), ("Content-Range", "bytes 0-4/10")], "01234"))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{ ranges: parts }} }} }} ]",
        origin.port()
    ));
    let range = [("Range", "bytes=0-4")];
    let ask = || request(gateway.port(), "GET", "/a", &range, b"");
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/a", &range, b"");
    eventually("the origin is asked", || begun.load(Ordering::SeqCst) == 1);
    assert_eq!(ask().header("etag"), Some("\"new\""));
    assert!(ask().cache_status().starts_with("portcullis; hit"));
    go.store(1, Ordering::SeqCst);
    assert_eq!(client.answer_to("GET").header("etag"), Some("\"old\""));
    assert_eq!(ask().header("etag"), Some("\"new\""));
}

#[test]
fn only_a_strong_validator_makes_a_part_and_a_star_is_met_by_all_that_is_stored() {
    let played = Played::start("{}");
    let (then, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT");
    let lasting = ("Cache-Control", "max-age=9999999999");
    played.script.set("/strong", 200, &[lasting, ("ETag", "\"v\"")]);
    played.script.set("/weak", 200, &[lasting, ("ETag", "W/\"v\"")]);
    played.script.set("/dated", 200, &[lasting, ("Last-Modified", then), ("Date", later)]);
    played.script.set("/just-changed", 200, &[lasting, ("Last-Modified", then), ("Date", then)]);
    played.script.set("/plain", 200, &[lasting]);
    for (path, validator, status) in [
        ("/strong", "\"v\"", 206),
        ("/strong", "\"w\"", 200),
        ("/weak", "W/\"v\"", 200),
        ("/dated", then, 206),
        ("/just-changed", then, 200),
        ("/plain", "\"v\"", 200),
    ] {
        played.get(path, &[]);
        let answer = played.get(path, &[("Range", "bytes=0-0"), ("If-Range", validator)]);
        assert_eq!(answer.status, status, "{path} {validator} {:?}", answer.headers);
        assert!(answer.cache_status().starts_with("portcullis; hit"), "{path} {:?}", answer.headers);
        assert_eq!(played.get(path, &[("If-None-Match", "*")]).status, 304, "{path}");
    }
    // Which of two dates is meant, nobody knows.
    assert_eq!(played.get("/dated", &[("If-Modified-Since", later)]).status, 304);
    assert_eq!(played.get("/dated", &[("If-Modified-Since", later), ("If-Modified-Since", later)]).status, 200);
}

#[test]
fn a_fetch_that_began_earlier_and_ends_later_is_not_the_latest() {
    let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, wait) = (begun.clone(), go.clone());
    let origin = Origin::start(move |asked| {
        let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
        if number == 1 {
            let until = Instant::now() + Duration::from_secs(20);
            while wait.load(Ordering::SeqCst) == 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(asked.target, "/a");
        Act::Send(answer(200, &[("Cache-Control", "max-age=60")], number.to_string()))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    let mut client = Client::connect(gateway.port());
    client.send_request("GET", "/a", &[], b"");
    eventually("the origin is asked", || begun.load(Ordering::SeqCst) == 1);
    assert_eq!(request(gateway.port(), "GET", "/a", &[("Cache-Control", "no-cache")], b"").text(), "2");
    assert_eq!(get(gateway.port(), "/a").text(), "2");
    go.store(1, Ordering::SeqCst);
    assert_eq!(client.answer_to("GET").text(), "1");
    let next = get(gateway.port(), "/a");
    assert_eq!((next.text(), next.cache_status().starts_with("portcullis; hit")), ("2".to_owned(), true), "{:?}", next.headers);
}

#[test]
fn what_is_given_meanwhile_ends_with_an_answer_that_cannot_be_stored() {
    let played = Played::with("{ stale_while_revalidate: 1h, stale_if_error: 1h }", "server: { workers: 2 }");
    let changed: [(u16, &[(&str, &str)]); 3] =
        [(200, &[("Cache-Control", "private")]), (200, &[("Cache-Control", "no-store")]), (404, &[])];
    // Without what this is about, an hour of the old answer would pass.
    for (number, (status, fields)) in changed.into_iter().enumerate() {
        let path = format!("/{number}");
        played.script.set(&path, 200, &[("Cache-Control", "max-age=1")]);
        let first = played.get(&path, &[]).text().to_owned();
        played.script.set(&path, status, fields);
        // While it is fetched, the old one is given.
        eventually("what the service has now is given", || {
            let answer = played.get(&path, &[]);
            answer.status == status && answer.text() != first
        });
        // In the place of an error, but not what the service has taken back.
        played.script.set(&path, 500, &[("Cache-Control", "no-store")]);
        assert_eq!(played.get(&path, &[]).status, if status == 404 { 200 } else { 500 });
    }
}

#[test]
fn a_refusal_of_one_client_takes_nothing_from_the_others() {
    let mut origin = Origin::start(|asked| {
        let (lasts, status) = match (asked.header("accept-language"), asked.header("x-bad").is_some()) {
            (Some("de"), _) => ("max-age=600", 200),
            (_, true) => ("no-store", 403),
            _ => ("max-age=1, stale-while-revalidate=600, stale-if-error=600", 200),
        };
        Act::Send(answer(status, &[("Cache-Control", lasts), ("Vary", "Accept-Language"), ("ETag", "\"v\"")], status.to_string()))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    let ask = |fields: &[(&str, &str)]| request(gateway.port(), "GET", "/a", fields, b"");
    let is_hit = |fields: &[(&str, &str)]| ask(fields).cache_status().starts_with("portcullis; hit");
    let (english, german) = (("Accept-Language", "en"), ("Accept-Language", "de"));
    ask(&[english]);
    ask(&[german]);
    assert!(is_hit(&[english]) && is_hit(&[german]));
    // Fresh: who wants it anew is refused alone.
    let reload = ("Cache-Control", "no-cache");
    assert_eq!(ask(&[english, reload, ("X-Bad", "1")]).status, 403);
    assert!(is_hit(&[english]) && is_hit(&[german]));
    eventually("it expires", || ask(&[english, ("Cache-Control", "only-if-cached")]).cache_status().contains("stale-while"));
    let asked = origin.count("/a");
    assert_eq!(ask(&[english, ("X-Bad", "1")]).status, 200);
    eventually("it is asked for behind his back", || origin.count("/a") > asked);
    origin.stop();
    assert_eq!(ask(&[english]).text(), "200", "the last good answer is there");
    assert!(is_hit(&[german]), "and so is the other variant");
}

#[test]
fn an_unstorable_answer_to_one_variant_leaves_the_others() {
    let origin = Origin::start(|asked| {
        let lasts = match (asked.header("accept-language"), asked.header("x-now").is_some()) {
            (Some("de"), _) => "max-age=600",
            (_, true) => "no-store",
            _ => "max-age=1",
        };
        Act::Send(answer(200, &[("Cache-Control", lasts), ("Vary", "Accept-Language")], lasts))
    });
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2 }}\n\
         routes: [ {{ path: /*, service: 127.0.0.1, port: {}, policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    let ask = |fields: &[(&str, &str)]| request(gateway.port(), "GET", "/a", fields, b"");
    let (english, german) = (("Accept-Language", "en"), ("Accept-Language", "de"));
    ask(&[english]);
    ask(&[german]);
    eventually("it expires", || ask(&[english, ("Cache-Control", "only-if-cached")]).status == 504);
    assert_eq!(ask(&[english, ("X-Now", "1")]).text(), "no-store");
    assert!(ask(&[german]).cache_status().starts_with("portcullis; hit"));
    assert!(ask(&[english, ("X-Now", "1")]).cache_status().contains("fwd"), "nothing of it is given");
}

#[test]
fn what_a_reload_finds_to_be_another_one_is_stored_no_more() {
    let played = Played::start("{ max_body: 1KiB }");
    let asked = [("Cache-Control", "no-cache")];
    for (path, tag, becomes, left) in [
        ("/other", "\"1\"", "\"2\"", "fwd=miss"),
        // One client's answer says nothing of everybody's.
        ("/same", "\"1\"", "\"1\"", "hit"),
    ] {
        played.script.set(path, 200, &[("Cache-Control", "max-age=60"), ("ETag", tag)]);
        played.get(path, &[]);
        assert!(played.state(path, &[]).starts_with("portcullis; hit"));
        played.script.set(path, 200, &[("Cache-Control", "max-age=60"), ("Set-Cookie", "a=b"), ("ETag", becomes)]);
        assert_eq!(played.get(path, &asked).header("etag"), Some(becomes));
        let state = played.state(path, &[]);
        assert!(state.contains(left), "{path}: {state}");
    }
}

#[test]
fn a_stale_answer_is_nobodys_who_is_asked_behind_it() {
    let origin = Origin::start(|_| Act::Send(answer(200, &[("Cache-Control", "max-age=0, stale-while-revalidate=60")], "a")));
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 1 }}\n\
         services: {{ a: {{ endpoints: [ 127.0.0.1:{0} ] }}, b: {{ endpoints: [ 127.0.0.1:{0} ] }} }}\n\
         routes: [ {{ path: /*, split: [ {{ service: a, weight: 1 }}, {{ service: b, weight: 1 }} ], policies: {{ cache: {{}} }} }} ]",
        origin.port()
    ));
    assert!(gateway_says(&gateway, "/a").starts_with("portcullis; fwd=miss"));
    // Each service has an answer of its own.
    eventually("its service is drawn again", || gateway_says(&gateway, "/a").contains("stale-while-revalidate"));
    let line = gateway.wait_log(|line| line["cache"] == "stale");
    assert!(line["service"].as_str().unwrap_or_default().is_empty(), "{line}");
}

/// An endpoint that keeps something for each tenant is asked for that tenant, whoever asks.
#[test]
fn what_is_fetched_behind_a_client_is_asked_for_where_the_client_would_be() {
    let origin = |number: usize| {
        let fields = [("Cache-Control", "max-age=1, stale-while-revalidate=60")];
        Origin::start(move |_| Act::Send(answer(200, &fields, number.to_string())))
    };
    let origins: Vec<Origin> = (0..5).map(origin).collect();
    let endpoints: Vec<String> = origins.iter().map(|origin| format!("127.0.0.1:{}", origin.port())).collect();
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 1 }}\n\
         services: {{ a: {{ endpoints: [ {} ], balance: {{ consistent_hash: {{ key: {{ param: tenant }} }} }} }} }}\n\
         routes: [ {{ path: '/of/{{tenant}}', service: a, policies: {{ cache: {{}} }} }} ]",
        endpoints.join(", ")
    ));
    let paths: Vec<String> = (0..6).map(|number| format!("/of/t{number}")).collect();
    let first: Vec<String> = paths.iter().map(|path| get(gateway.port(), path).text()).collect();
    let asked = |path: &str| origins.iter().flat_map(Origin::asked).filter(|asked| asked.target == path).count();
    for (path, first) in paths.iter().zip(first) {
        eventually("it is given stale", || gateway_says(&gateway, path).contains("stale-while-revalidate"));
        eventually("another one was fetched", || asked(path) >= 2);
        eventually("and is given", || !gateway_says(&gateway, path).contains("detail"));
        assert_eq!(get(gateway.port(), path).text(), first, "{path}");
    }
}

fn gateway_says(gateway: &Gateway, path: &str) -> String {
    get(gateway.port(), path).cache_status().to_owned()
}

/// Somebody sets the time of day back: what is stored becomes no younger by that.
#[test]
fn a_clock_that_is_set_back_makes_nothing_younger() {
    for engine in ["portcullis", "pingora"] {
        let clock = Clock::start();
        let origin = Origin::start(|asked| {
            let vary = ("Vary", "Accept-Language");
            Act::Send(match asked.target.as_str() {
                "/short" => answer(200, &[("Cache-Control", "max-age=3, stale-if-error=0")], ""),
                "/vary" => answer(200, &[("Cache-Control", "max-age=600"), vary], asked.header("accept-language").unwrap_or("-")),
                _ => answer(200, &[("Cache-Control", "max-age=600")], ""),
            })
        });
        let yaml = format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 2, engine: {engine} }}\nservices: {{ origin: {{ endpoints: [ \
             127.0.0.1:{} ] }} }}\nroutes:\n  - {{ path: /*, service: origin, policies: {{ cache: {{}} }} }}",
            origin.port()
        );
        let gateway = Gateway::start_with(&yaml, &clock.env());
        let is_hit = |answer: &Answer| answer.cache_status().starts_with("portcullis; hit");
        let warm = |path: &str, fields: &[(&str, &str)]| {
            eventually("it is stored", || is_hit(&request(gateway.port(), "GET", path, fields, b"")));
        };
        let age = || {
            let told = get(gateway.port(), "/long");
            assert!(is_hit(&told), "{engine}: {:?}", told.headers);
            told.header("age").and_then(|age| age.parse::<u64>().ok()).unwrap()
        };
        let speaks = |language: &'static str| [("Accept-Language", language)];
        warm("/long", &[]);
        warm("/vary", &speaks("en"));
        warm("/vary", &speaks("de"));
        warm("/short", &[]);
        clock.set(-3600);
        // Nobody is told that it is fresh for an hour, and it does not stay.
        let told = get(gateway.port(), "/short");
        let ttl = told.cache_status().split("ttl=").nth(1).and_then(|ttl| ttl.parse::<u64>().ok());
        assert!(ttl.is_none_or(|ttl| ttl <= 3), "{engine}: {:?}", told.headers);
        eventually("it is not fresh any more", || !is_hit(&get(gateway.port(), "/short")));
        // Pingora says an age of its own.
        assert!(age() >= 2 || engine == "pingora", "{engine}");
        // What is stored from now on is kept as ever, the variants of what was stored before as well.
        warm("/short", &[]);
        warm("/new", &[]);
        for language in ["en", "de", "fr"] {
            warm("/vary", &speaks(language));
            assert_eq!(request(gateway.port(), "GET", "/vary", &speaks(language), b"").text(), language, "{engine}");
        }
        assert_eq!(origin.count("/vary"), 3, "{engine}: what was stored before is still there");
        // Set right again, it has the old one fetched anew at worst.
        clock.set(0);
        for path in ["/long", "/short", "/new"] {
            warm(path, &[]);
        }
        assert!(age() < 600, "{engine}");
    }
}
