//! Answers made of those of several services.

mod faults;
mod figures;
mod graph;
mod kept;
mod written;

use std::time::{Duration, Instant};

use crate::harness::*;

fn ok(body: &str) -> Vec<u8> {
    json("", body)
}

fn json(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// The five services of the dashboard.
fn five() -> Vec<(&'static str, Backend)> {
    let bodies = [
        ("profile", r#"{"id": 7, "name": "Ada", "credit": 10.00}"#),
        ("orders", r#"[{"id":1,"sku":"SKU-1"},{"id":2,"sku":"SKU-2"}]"#),
        ("feed", r#"{"entries":[1,2,3],"next":"n"}"#),
        ("ads", r#"{"ads":[]}"#),
        ("notifications", r#"{"unread":3}"#),
    ];
    bodies.into_iter().map(|(name, body)| (name, Backend::answering(move |_| ok(body)))).collect()
}

/// A route at `/api/dashboard` over services of these names.
fn yaml(services: &[(&str, &Backend)], compose: &str) -> String {
    let services: String = services
        .iter()
        .map(|(name, backend)| format!("  {name}: {{ endpoints: [ '127.0.0.1:{}' ] }}\n", backend.port()))
        .collect();
    format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true }} ]\nserver: {{ workers: 1 }}\nservices:\n{services}routes:\n  - path: /api/dashboard\n    \
         compose: {compose}\n"
    )
}

fn borrowed<'a>(services: &'a [(&'static str, Backend)]) -> Vec<(&'a str, &'a Backend)> {
    services.iter().map(|(name, backend)| (*name, backend)).collect()
}

const FIVE: &str = "
      calls:
        profile: { service: profile, path: /me, group: user }
        orders: { service: orders, path: /orders, query: { limit: '5' } }
        feed: { service: feed, path: /feed, optional: true, target: entries }
        ads: { service: ads, path: /ads, optional: true, timeout: 300ms, fallback: { json: { ads: [house] } }, group: . }
        notifications: { service: notifications, path: /unread, keep: [unread], rename: { unread: count }, optional: true }";

#[test]
fn a_dashboard_is_one_answer_of_five_services() {
    let services = five();
    let gateway = Gateway::start(&yaml(&borrowed(&services), FIVE));
    let answer = get(gateway.port(), "/api/dashboard");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let whole = concat!(
        r#"{"user":{"id": 7, "name": "Ada", "credit": 10.00},"orders":[{"id":1,"sku":"SKU-1"},{"id":2,"sku":"SKU-2"}],"#,
        r#""feed":[1,2,3],"ads":[],"notifications":{"count":3}}"#
    );
    assert_eq!(answer.text(), whole, "what nobody looks into is as it came, to the digit");
    assert_eq!(answer.header("x-portcullis-parts"), None, "nothing is missing");
    let head = request(gateway.port(), "HEAD", "/api/dashboard", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some(whole.len().to_string().as_str())));
    let h2 = curl(&["--http2-prior-knowledge", &gateway.url("/api/dashboard")]);
    assert_eq!((h2.status, h2.text()), (200, whole.to_owned()));
    let asked = services[1].1.last();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/orders?limit=5"));
    assert_eq!((asked.header("accept"), asked.header("accept-encoding")), (Some("application/json"), Some("identity")));
    assert!(asked.header("traceparent").is_some() && asked.header("x-forwarded-for").is_some());
    assert_eq!(services[1].1.connections(), 1, "the connection is kept");
    let line = gateway.wait_log(|line| line["protocol"] == "h2");
    assert_eq!((line["answered_by"].as_str(), line["status"].as_u64()), (Some("compose"), Some(200)));
    let parts = line["parts"].as_str().unwrap();
    assert!(parts.starts_with("profile=ok;ms=") && parts.contains(", notifications=ok;ms="), "{parts}");
    let count = "portcullis_composed_parts_total{route=\"/api/dashboard\",part=\"feed\",outcome=\"ok\"}";
    gateway.wait_metric(count, 3.0);
}

/// Compared with the slowest part alone, by medians: five that follow each other would take more than twice as long.
#[test]
fn it_takes_as_long_as_its_slowest_part() {
    let services: Vec<(&str, Backend)> = ["profile", "orders", "feed", "ads", "notifications"]
        .into_iter()
        .enumerate()
        .map(|(number, name)| {
            let backend = Backend::answering(move |_| {
                std::thread::sleep(Duration::from_millis(20 + 10 * number as u64));
                ok("{}")
            });
            (name, backend)
        })
        .collect();
    let more = "\n  - { path: /slowest, service: notifications }\n";
    let gateway = Gateway::start(&(yaml(&borrowed(&services), FIVE).replace("timeout: 300ms, ", "") + more));
    let mut client = Client::connect(gateway.port());
    let mut median = |path: &str| {
        let mut took: Vec<Duration> = (0..21)
            .map(|_| {
                let since = Instant::now();
                assert_eq!(client.get(path).status, 200);
                since.elapsed()
            })
            .collect();
        took.sort();
        took[10]
    };
    let (whole, slowest) = (median("/api/dashboard"), median("/slowest"));
    assert!(whole < slowest + Duration::from_millis(25), "{whole:?} against {slowest:?}");
}

#[test]
fn what_services_see_is_what_they_would_see_of_a_plain_route() {
    let (one, other) = (Backend::answering(|_| ok("{}")), Backend::answering(|_| ok("{}")));
    let compose = "
      calls:
        one:
          service: one
          path: '/users/{query.id}/x-{header.x-part}/{query.mail}'
          query: { q: '{query.q}', missing: '{query.nothing}', host: '{host}' }
          headers: { X-Given: 'a {query.q} b', X-Missing: '{subject}' }
        other: { service: other, path: /, client_headers: [Accept-Language], timeout: 5s }
      answer: { set_cookie: [one] }";
    let gateway = Gateway::start(&(yaml(&[("one", &one), ("other", &other)], compose) + "    timeout: 20s\n"));
    let sent = [
        ("X-Part", "p..q?a#b"),
        ("X-Missing", "forged"),
        ("Accept-Language", "de"),
        ("Cookie", "c=1"),
        ("If-None-Match", "\"x\""),
        ("Range", "bytes=0-1"),
        ("Accept-Encoding", "gzip"),
        ("X-Auth-Subject", "forged"),
    ];
    let answer = request(gateway.port(), "GET", "/api/dashboard?id=a%20b%3F%23&mail=a%40b.c&q=1%262%3D3%20%E2%82%AC", &sent, b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = one.last();
    let target = "/users/a%20b%3F%23/x-p..q%3Fa%23b/a@b.c?host=127.0.0.1&q=1%262%3D3%20%E2%82%AC";
    assert_eq!(seen.target, target);
    assert_eq!(seen.all("x-given").len(), 1);
    assert_eq!(
        (seen.header("x-missing"), seen.header("accept-language"), seen.header("cookie")),
        (None, Some("de"), Some("c=1"))
    );
    assert_eq!((seen.header("if-none-match"), seen.header("range"), seen.header("x-auth-subject")), (None, None, None));
    let seen = other.last();
    assert_eq!((seen.header("accept-language"), seen.header("cookie"), seen.header("x-part")), (Some("de"), None, None));
    assert_eq!(seen.header("host"), one.last().header("host"));
    let left: u64 = seen.header("x-request-deadline").unwrap().parse().unwrap();
    assert!(left <= 5000, "{left}");
    assert_eq!(one.last().header("traceparent"), seen.header("traceparent"));
    // Dots are no way up, nothing is no segment, and what some service decodes to more than one is none either.
    let bad = ["&id=..", "&id=", "", "&id=..%2Fadmin", "&id=a%2Fb", "&id=..%5Cadmin", "&id=a%00", "&id=..%3Bx", "&id=%252e%252e"];
    for bad in bad.map(|query| format!("/api/dashboard?mail=x{query}")) {
        let answer = request(gateway.port(), "GET", &bad, &[("X-Part", "1")], b"");
        answer.assert_problem(502, "compose", "part_failed");
        assert_eq!((&answer.json()["part"], &answer.json()["why"]), (&"one".into(), &"no_value".into()), "{bad}");
    }
    assert_eq!(one.requests().len(), 1);
}

#[test]
fn fields_of_parts_become_those_of_the_answer() {
    let one = Backend::answering(|_| {
        json("Cache-Control: max-age=60\r\nVary: X-A\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: 1\r\n", "{}")
    });
    let other = Backend::answering(|_| json("Cache-Control: max-age=90, private\r\nSet-Cookie: c=3\r\n", "[]"));
    let compose = "
      calls: { one: { service: one, path: / }, other: { service: other, path: / } }
      answer: { set_cookie: [one] }
    policies: { etag: { up_to: 1MiB }, response_headers: { set: { X-Gate: '1' } } }";
    let gateway = Gateway::start(&yaml(&[("one", &one), ("other", &other)], compose));
    let answer = get(gateway.port(), "/api/dashboard");
    assert_eq!(answer.header("cache-control"), Some("private, max-age=60"));
    assert_eq!((answer.header("vary"), answer.all("set-cookie")), (Some("x-a"), vec!["a=1", "b=2"]));
    assert_eq!((answer.header("x-own"), answer.header("x-gate")), (None, Some("1")));
    let tag = answer.header("etag").unwrap().to_owned();
    let again = request(gateway.port(), "GET", "/api/dashboard", &[("If-None-Match", &tag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
}

/// What a service lets caches keep under a URL that names somebody is nothing for the same URL of everybody.
#[test]
fn no_cache_is_told_to_give_one_client_what_was_made_for_another() {
    let one = Backend::answering(|_| json("Cache-Control: public, max-age=60, s-maxage=600\r\n", "{}"));
    for (call, said, varies) in [
        ("path: '/{query.id}'", "max-age=60, s-maxage=600", None),
        ("path: '/{client_address}'", "private, max-age=60", Some("authorization")),
        ("path: /, query: { user: '{subject}' }", "private, max-age=60", Some("authorization")),
        ("path: /, headers: { X-User: '{claim.id}' }", "private, max-age=60", Some("authorization")),
        ("path: /, method: POST, body: { user: '{consumer}' }", "private, max-age=60", Some("authorization")),
        ("path: /, fallback: { path: '/{subject}' }", "private, max-age=60", Some("authorization")),
        ("path: /, when: 'request.headers[\"x-who\"] == \"a\"'", "private, max-age=60", Some("authorization")),
        ("path: /, when: 'has(request.headers.x_who) || true'", "private, max-age=60", Some("authorization")),
        ("path: /, when: 'identity.subject == \"\"'", "private, max-age=60", Some("authorization")),
        ("path: /, when: 'true'", "max-age=60, s-maxage=600", None),
        ("path: '/{header.X-Who}'", "max-age=60, s-maxage=600", Some("x-who")),
    ] {
        let gateway = Gateway::start(&yaml(&[("one", &one)], &format!("\n      calls: {{ one: {{ service: one, {call} }} }}")));
        let answer = request(gateway.port(), "GET", "/api/dashboard?id=1", &[("X-Who", "a")], b"");
        assert_eq!((answer.status, answer.header("cache-control"), answer.header("vary")), (200, Some(said), varies), "{call}");
    }
    // Whoever reads them, credentials make an answer one client's; and no cache tells requests apart by their bodies.
    let calls = "\n      calls: { one: { service: one, path: /, query: { x: '{header.x-who}' } }, two: { service: one, path: '/{body.id}', optional: true } }";
    let gateway = Gateway::start(&yaml(&[("one", &one)], calls));
    for (name, value) in [("Authorization", "Bearer x"), ("Cookie", "a=1"), ("X-Api-Key", "k")] {
        let fields = [(name, value), ("Content-Type", "application/json")];
        let answer = request(gateway.port(), "GET", "/api/dashboard", &fields, br#"{"id":1}"#);
        assert_eq!((answer.header("cache-control"), answer.header("vary")), (Some("no-store"), Some("authorization, x-who")));
    }
    let gateway = Gateway::start(&yaml(&[("one", &one)], "\n      calls: { one: { service: one, path: / } }"));
    for (name, value) in [("Authorization", "Bearer x"), ("Cookie", "a=1"), ("X-Api-Key", "k")] {
        let answer = request(gateway.port(), "GET", "/api/dashboard", &[(name, value)], b"");
        assert_eq!((answer.header("cache-control"), answer.header("vary")), (Some("private, max-age=60"), Some("authorization")));
    }
}

/// One path, and a screen for each kind of client: nothing of one is given to another, here or in a cache on the way.
#[test]
fn each_kind_of_client_has_its_own_screen() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let shop = Backend::answering(move |asked| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let target = &asked.target;
        json("Cache-Control: max-age=60\r\nETag: \"x\"\r\n", &format!("{{\"for\":\"{target}\",\"number\":{number}}}"))
    });
    let config = format!(
        "
listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
server: {{ workers: 1 }}
services: {{ shop: {{ endpoints: [ '127.0.0.1:{}' ] }} }}
policies: {{ cache: {{}} }}
routes:
  - {{ id: web, path: /home, compose: {{ calls: {{ all: {{ service: shop, path: /same }} }} }}, policies: {{ etag: {{ up_to: 1MiB }} }} }}
  - {{ id: mobile, path: /home, device: [mobile], compose: {{ calls: {{ all: {{ service: shop, path: /same, keep: [number] }} }} }}, policies: {{ etag: {{ up_to: 1MiB }} }} }}
  - {{ id: tv, path: /home, headers: {{ X-Client: tv }}, compose: {{ calls: {{ all: {{ service: shop, path: /tv }} }} }} }}
  - {{ id: other, path: /home, query: {{ view: {{ present: true }} }}, respond: {{ status: 400, json: {{ error: none }} }} }}
",
        shop.port()
    );
    let gateway = Gateway::start(&config);
    let ask = |fields: &[(&str, &str)]| request(gateway.port(), "GET", "/home", fields, b"");
    let (phone, tv) = (("Sec-CH-UA-Mobile", "?1"), ("X-Client", "tv"));
    let mut tags = Vec::new();
    for _ in 0..2 {
        let (web, mobile) = (ask(&[]), ask(&[phone]));
        assert_eq!(web.json(), serde_json::json!({ "all": { "for": "/same", "number": 0 } }));
        assert_eq!(mobile.json(), serde_json::json!({ "all": { "number": 1 } }), "its own, though the question is the same");
        assert_eq!(ask(&[tv]).json()["all"]["for"], "/tv");
        for answer in [&web, &mobile, &ask(&[tv])] {
            let vary = answer.header("vary").unwrap();
            assert_eq!(vary, "sec-ch-ua-mobile, sec-ch-ua-platform, user-agent, x-client");
        }
        tags.extend([web, mobile].map(|answer| answer.header("etag").unwrap().to_owned()));
    }
    assert_eq!(shop.requests().len(), 3, "the second time nobody was asked");
    assert!(tags[0] != tags[1] && tags[0] == tags[2] && tags[1] == tags[3], "{tags:?}");
    assert_eq!(ask(&[phone, ("If-None-Match", &tags[0])]).status, 200, "that was another one's");
    assert_eq!(ask(&[phone, ("If-None-Match", &tags[1])]).status, 304);
    assert_eq!(get(gateway.port(), "/home?view=nobodys").status, 400);
    gateway.wait_log(|line| line["route"] == "mobile");
}

#[test]
fn a_client_cannot_send_a_call_elsewhere() {
    let one = Backend::answering(|_| ok("{}"));
    let gateway = Gateway::start(&yaml(&[("one", &one)], "\n      calls: { one: { service: one, path: /inner } }"));
    let fields = [("X-Original-URL", "/admin"), ("X-HTTP-Method-Override", "DELETE"), ("X-Host", "evil"), ("X-Fine", "1")];
    assert_eq!(request(gateway.port(), "GET", "/api/dashboard", &fields, b"").status, 200);
    let seen = one.last();
    assert_eq!((seen.target.as_str(), seen.header("x-fine")), ("/inner", Some("1")));
    assert!(
        ["x-original-url", "x-http-method-override", "x-host"].iter().all(|name| seen.header(name).is_none()),
        "{}",
        seen.head_text()
    );
}

#[test]
fn the_routes_policies_are_asked_first_and_services_are_not_reached_around_theirs() {
    let (one, other) = (Backend::answering(|_| ok("{}")), Backend::answering(|_| ok("{}")));
    let compose = "
      calls: { one: { service: one, path: / }, other: { service: other, path: / } }
    policies: { rate_limit: { by: route, limit: 1/hour }, request_headers: { set: { X-Set: '{host}' } } }";
    let gateway = Gateway::start(&yaml(&[("one", &one), ("other", &other)], compose));
    assert_eq!(get(gateway.port(), "/api/dashboard").status, 200);
    assert_eq!(one.last().header("x-set"), Some("127.0.0.1"));
    assert_eq!(get(gateway.port(), "/api/dashboard").status, 429);
    assert_eq!((one.requests().len(), other.requests().len()), (1, 1));
}

#[test]
fn bodies_are_refused_where_nothing_becomes_of_them() {
    let one = Backend::answering(|_| ok("{}"));
    let gateway = Gateway::start(&yaml(&[("one", &one)], "\n      calls: { one: { service: one, path: / } }"));
    let answer = request(gateway.port(), "POST", "/api/dashboard", &[], b"{}");
    answer.assert_problem(400, "compose", "body_not_taken");
    assert_eq!(request(gateway.port(), "POST", "/api/dashboard", &[("Content-Length", "0")], b"").status, 200);
    assert_eq!(one.requests().len(), 1);
}

#[test]
fn a_client_that_leaves_takes_its_calls_along() {
    let silent = Backend::scripted(|mut stream| {
        let mut bytes = [0; 4096];
        // Ends once the gateway hangs up.
        while std::io::Read::read(&mut stream, &mut bytes).is_ok_and(|read| read > 0) {}
    });
    let compose = "\n      calls: { one: { service: one, path: /1 }, two: { service: one, path: /2, optional: true } }";
    let gateway = Gateway::start(&yaml(&[("one", &silent)], compose));
    let gauge = format!("portcullis_upstream_in_flight{{service=\"one\",endpoint=\"127.0.0.1:{}\"}}", silent.port());
    let mut client = Client::connect(gateway.port());
    client.send("GET /api/dashboard HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are asked", || gateway.metric(&gauge) == 2.0);
    client.reset();
    eventually("both are let go", || gateway.metric(&gauge) == 0.0);
    let line = gateway.wait_log(|line| line["reason"] == "client_closed");
    assert_eq!(line["status"], 499);
}

#[test]
fn a_reload_does_not_touch_what_is_under_way() {
    let slow = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(400));
        ok("1")
    });
    let config = yaml(&[("one", &slow)], "\n      calls: { one: { service: one, path: /1 } }");
    let gateway = Gateway::start(&config);
    let mut client = Client::connect(gateway.port());
    client.send("GET /api/dashboard HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is asked", || !slow.requests().is_empty());
    gateway.rewrite(&config.replace("one: { service: one, path: /1 }", "two: { service: one, path: /2 }"));
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(client.answer_to("GET").text(), r#"{"one":1}"#);
    assert_eq!(client.get("/api/dashboard").text(), r#"{"two":1}"#);
}
