//! Answers from memory: the same requests in the same order go to two gateways, and neither the client, nor the backend, nor the log may
//! tell them apart.

use std::fmt::Write;
use std::io::Read;

use crate::harness::*;
use crate::peers::{Act, Asked, Origin, answer};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const MODIFIED: &str = "Fri, 26 Mar 2010 00:05:00 GMT";
const BEFORE: &str = "Fri, 26 Mar 2010 00:04:59 GMT";
const DATE: (&str, &str) = ("Date", "Sat, 27 Mar 2010 00:00:00 GMT");

const YAML: &str = "
listeners:
  - { bind: '127.0.0.1:$PORT' }
  - { bind: '127.0.0.1:$PORT2', h2c: true }
  - { bind: '127.0.0.1:$PORT3', tls: { certificates: [ { cert: cert0.pem, key: key0.pem } ] } }
server: { workers: 2 }
services: { origin: { endpoints: [ '127.0.0.1:ORIGIN' ] } }
consumers: [ { name: known, api_keys: [ { hash: 'sha256:a8ae6e6ee929abea3afcfc5258c8ccd6f85273e0d4626d26c7279f3250f77c8e' } ] } ]
routes:
  - { path: /plain/*, service: origin, strip_prefix: /plain, policies: { cache: { ttl: 60s } } }
  - { path: /keyed/*, service: origin, strip_prefix: /keyed, policies: { cache: { ttl: 60s, key_headers: [ X-Tenant ], query: none } } }
  - { path: /short/*, service: origin, strip_prefix: /short, policies: { cache: { ttl: 2s } } }
  - { path: /auth/*, service: origin, strip_prefix: /auth, policies: { cache: { ttl: 60s }, authn: { api_key: {}, optional: true } } }
  - { path: /limited/*, service: origin, strip_prefix: /limited, policies: { cache: { ttl: 60s }, rate_limit: { by: route, limit: 3/hour } } }
  - path: /edited/*
    service: origin
    strip_prefix: /edited
    rewrite_host: inner.example
    policies:
      cache: { ttl: 60s }
      request_headers: { set: { Accept-Language: fr, X-Id: '{request_id}' }, add: { X-Shape: round }, remove: [ If-Modified-Since ] }
      response_headers:
        set: { X-R: gate, Age: '7', Content-Type: text/edited }
        add: { Vary: Origin, X-Many: three, Cache-Status: edited }
        remove: [ ETag, Accept-Ranges, Server, Date, Cache-Status ]
";

fn behave(asked: &Asked) -> Vec<u8> {
    let said = |name: &str| asked.header(name).unwrap_or("-").to_owned();
    let text = ("Content-Type", "text/plain");
    let (tag, modified) = (("ETag", "\"v1\""), ("Last-Modified", MODIFIED));
    match asked.target.split('?').next().unwrap() {
        "/tagged" if asked.header("if-none-match") == Some("\"v1\"") => answer(304, &[tag, DATE], ""),
        "/tagged" => {
            answer(200, &[tag, modified, text, DATE, ("sErVeR", "o"), ("X-Many", "one"), ("x-many", "two")], "0123456789")
        }
        "/weak" => answer(200, &[("ETag", "W/\"a,b\""), DATE, ("Accept-Ranges", "none"), ("Content-Encoding", "x")], "weak"),
        "/language" => answer(200, &[("Vary", "Accept-Language"), DATE], said("accept-language")),
        "/shape" => answer(200, &[("Vary", "X-Shape, host"), ("Vary", "X-Named"), DATE], said("x-shape") + &said("host")),
        "/coding" if said("accept-encoding").contains("gzip") => answer(
            200,
            &[("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip"), ("ETag", "\"z\""), DATE],
            "not really zipped",
        ),
        "/coding" => answer(200, &[("Vary", "Accept-Encoding"), ("ETag", "\"p\""), DATE], "plain"),
        "/told" => answer(200, &[DATE, ("Cache-Status", "origin; hit"), ("Age", "20"), ("X-Request-Id", "theirs")], "told"),
        "/dateless" => answer(200, &[("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5")], "dateless"),
        "/empty" => answer(200, &[DATE], ""),
        "/nothing" => answer(204, &[DATE, tag], ""),
        "/missing" => answer(404, &[DATE, tag], "missing"),
        "/moved" => answer(301, &[DATE, ("Location", "/elsewhere")], ""),
        "/private" => answer(200, &[DATE, ("Cache-Control", "private")], "one client's"),
        "/large" => answer(200, &[DATE, tag], vec![b'l'; 400_000]),
        "/chunked" => {
            let head = "HTTP/1.1 200 Fine\r\nDate: Sat, 27 Mar 2010 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").into_bytes()
        }
        "/events" => answer(200, &[DATE, ("Content-Type", "text/event-stream")], "data: 1\n\n"),
        "/many" => {
            let fields: Vec<(String, String)> = (0..60).map(|number| (format!("X-Field-{number}"), "v".repeat(number))).collect();
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).chain([DATE]).collect();
            answer(200, &fields, "many")
        }
        _ => answer(200, &[DATE], format!("{} {}", said("x-tenant"), asked.target)),
    }
}

struct Played {
    gateway: Gateway,
    origin: Origin,
    /// What was seen, step by step.
    seen: Vec<String>,
    /// How many answers came from memory.
    hits: usize,
    files: Files,
}

impl Played {
    fn start() -> Played {
        let origin = Origin::start(|asked| Act::Send(behave(asked)));
        let yaml = YAML.replace("ORIGIN", &origin.port().to_string());
        let files = Files::new();
        files.certificate(&["localhost"]);
        let gateway = Gateway::start_in(&files, &yaml);
        Played { gateway, origin, seen: Vec::new(), hits: 0, files }
    }

    /// Notes an answer, without what differs from one request to the next.
    fn note(&mut self, what: &str, answer: &Answer) -> Answer {
        let mut fields: Vec<String> = answer
            .headers
            .iter()
            .map(|(name, value)| {
                let name = name.to_ascii_lowercase();
                let value = match &*name {
                    "x-request-id" => format!("{} bytes", value.len()),
                    "date" if value != DATE.1 => "now".to_owned(),
                    "age" if value.len() < 3 && value != "7" => format!("{}s", value.parse::<u64>().unwrap() / 10 * 10),
                    "cache-status" => match value.split_once("ttl=") {
                        Some((before, _)) => format!("{before}ttl"),
                        None => value.clone(),
                    },
                    _ => value.clone(),
                };
                format!("{name}: {value}")
            })
            .collect();
        // Only the order of fields of one name says anything.
        fields.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
        self.hits += usize::from(answer.all("cache-status").last().is_some_and(|status| status.contains("hit")));
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let body = if body.len() > 100 { format!("{} bytes", body.len()) } else { body };
        self.seen.push(format!("{what}\n  {} {}\n  {}\n  {body:?}", answer.version, answer.status, fields.join("\n  ")));
        answer.clone()
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let headers: Vec<(&str, &str)> = [("Host", "one.example")].into_iter().chain(headers.iter().copied()).collect();
        let answer = request(self.gateway.port(), method, path, &headers, body);
        self.note(&format!("{method} {path} {headers:?}"), &answer)
    }

    fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, b"")
    }

    /// Sends bytes on one connection, and reads the answers to requests of these methods.
    fn raw(&mut self, bytes: &str, methods: &[&str], stays: bool) {
        let mut client = Client::connect(self.gateway.port());
        client.send(bytes);
        for method in methods {
            let answer = client.answer_to(method);
            self.note(&format!("{method} of {bytes:?}"), &answer);
        }
        if stays {
            client.send("HEAD /plain/tagged HTTP/1.1\r\nHost: one.example\r\n\r\n");
            let answer = client.answer_to("HEAD");
            self.note("and once more", &answer);
        } else {
            assert!(client.is_closed(), "{bytes:?}");
        }
    }

    fn curl(&mut self, port: u16, scheme: &str, path: &str, args: &[&str]) {
        let (url, to) = (format!("{scheme}://localhost:{port}{path}"), format!("localhost:{port}:127.0.0.1"));
        let mut all = vec!["--resolve", &to, "-k", "-H", "Host: one.example"];
        all.extend(args);
        all.push(&url);
        let answer = curl(&all);
        self.note(&format!("{scheme} {path} {args:?}"), &answer);
    }
}

/// Plays the same to two gateways: what clients see of both is the same.
#[track_caller]
fn clients_see_the_same(script: impl Fn(&mut Played)) -> [Played; 2] {
    let [one, other] = [(); 2].map(|()| {
        let mut road = Played::start();
        script(&mut road);
        road
    });
    for (first, second) in one.seen.iter().zip(&other.seen) {
        assert!(first == second, "by the first:\n{first}\n\nby the second:\n{second}");
    }
    assert_eq!(one.seen.len(), other.seen.len());
    [one, other]
}

/// That, and what the backend, the log and the metrics see. Gives back how many hits there were.
#[track_caller]
fn alike(script: impl Fn(&mut Played)) -> usize {
    let [one, other] = clients_see_the_same(script);
    let asked = |road: &Played| -> Vec<String> { road.origin.asked().into_iter().map(|asked| asked.target).collect() };
    assert_eq!(asked(&one), asked(&other), "what the backend was asked");
    assert_eq!(log(&one), log(&other));
    for state in ["hit", "miss", "bypass", "expired", "revalidated"] {
        let metric = format!("portcullis_cache_requests_total{{state=\"{state}\"}}");
        assert_eq!(one.gateway.metric(&metric), other.gateway.metric(&metric), "{state}");
    }
    for road in [&one, &other] {
        assert!(!road.gateway.stderr().contains("panicked"), "{}", road.gateway.stderr());
        assert!(road.files.dir().exists());
    }
    one.hits
}

/// The log's lines without what differs from one request to the next; in no order, for there are two workers.
fn log(road: &Played) -> Vec<String> {
    let lines = road.gateway.wait_lines(road.seen.len());
    let mut texts: Vec<String> = lines
        .iter()
        .map(|line| {
            let mut text = String::new();
            for name in ["protocol", "method", "path", "query", "route", "service", "status", "answered_by", "reason", "consumer"]
            {
                let _ = write!(text, "{name}={} ", line[name]);
            }
            for name in ["bytes_in", "bytes_out", "cache", "retries"] {
                let _ = write!(text, "{name}={} ", line[name]);
            }
            let _ = write!(text, "endpoint={} upstream={}", line.get("endpoint").is_some(), line.get("upstream_us").is_some());
            text
        })
        .collect();
    texts.sort();
    texts
}

#[test]
fn whatever_is_stored() {
    let paths = ["tagged", "weak", "told", "dateless", "empty", "nothing", "missing", "moved", "private", "large", "chunked"];
    let hits = alike(|road| {
        for path in paths.iter().chain(&["events", "many"]) {
            let path = format!("/plain/{path}");
            for _ in 0..2 {
                road.get(&path, &[]);
                road.ask("HEAD", &path, &[], b"");
            }
            // Not even looked up.
            road.ask("POST", &path, &[], b"x");
        }
    });
    assert_eq!(hits, 12 * 3);
}

#[test]
fn conditions_and_ranges() {
    let long = format!("\"x\"{}, \"v1\"", ", \"x\"".repeat(500));
    let conditions: Vec<Vec<(&str, &str)>> = vec![
        vec![("If-None-Match", "\"v1\"")],
        vec![("If-None-Match", "W/\"v1\"")],
        vec![("If-None-Match", "v1")],
        vec![("If-None-Match", "\"v0\"")],
        vec![("If-None-Match", "")],
        vec![("If-None-Match", "*")],
        vec![("If-None-Match", "\"v0\""), ("If-None-Match", "\"v1\"")],
        vec![("If-None-Match", &long)],
        vec![("If-None-Match", ",,, \"v1\" x")],
        vec![("If-None-Match", "\u{e9}\"v1\"")],
        vec![("If-Modified-Since", MODIFIED)],
        vec![("If-Modified-Since", BEFORE)],
        vec![("If-Modified-Since", "Friday, 26-Mar-10 00:05:00 GMT")],
        vec![("If-Modified-Since", "never")],
        vec![("If-Modified-Since", BEFORE), ("If-Modified-Since", MODIFIED)],
        vec![("If-None-Match", "\"v0\""), ("If-Modified-Since", MODIFIED)],
        vec![("If-Match", "\"v0\"")],
        vec![("If-Unmodified-Since", BEFORE)],
        // The backend would not see it, and neither does the cache.
        vec![("Connection", "If-None-Match"), ("If-None-Match", "\"v1\"")],
        vec![("Range", "bytes=2-4")],
        vec![("Range", "bytes=2-4"), ("If-Range", "\"v1\"")],
        vec![("Range", "bytes=2-4"), ("If-Range", "\"v0\"")],
        vec![("Range", "bytes=20-")],
        vec![("Range", "bytes=-3")],
        vec![("Range", "bytes=-0")],
        vec![("Range", "bytes=-18446744073709551616")],
        vec![("Range", "bytes=0-1,-18446744073709551616")],
        vec![("Range", "bytes=3-18446744073709551616")],
        vec![("Range", "bytes=18446744073709551616-5")],
        vec![("Range", "bytes=0-1,-0")],
        vec![("Range", "lines=1-2")],
        vec![("Range", "")],
        vec![("Range", "bytes=2-4"), ("If-None-Match", "\"v1\"")],
        vec![("Connection", "Range"), ("Range", "bytes=2-4")],
        vec![("If-Range", "\"v1\"")],
    ];
    let hits = alike(|road| {
        for path in ["/plain/tagged", "/plain/weak", "/plain/missing", "/plain/nothing", "/plain/empty", "/edited/tagged"] {
            road.get(path, &[]);
            for headers in &conditions {
                road.get(path, headers);
                road.ask("HEAD", path, headers, b"");
            }
        }
    });
    assert!(hits > 200, "{hits}");
}

#[test]
fn keys_and_variants() {
    let hits = alike(|road| {
        for _ in 0..2 {
            for language in ["de", "en", "de, en", ""] {
                road.get("/plain/language", &[("Accept-Language", language)]);
                road.get("/edited/language", &[("Accept-Language", language)]);
            }
            road.get("/plain/language", &[("Accept-Language", "de"), ("accept-LANGUAGE", "en")]);
            road.get("/plain/language", &[]);
            for coding in ["gzip", "gzip, br", "identity", "br;q=0"] {
                road.get("/plain/coding", &[("Accept-Encoding", coding)]);
                road.ask("HEAD", "/plain/coding", &[("Accept-Encoding", coding)], b"");
                road.get("/plain/coding", &[("Accept-Encoding", coding), ("If-None-Match", "\"z\"")]);
            }
            for path in ["/plain/shape", "/edited/shape"] {
                for headers in [
                    &[][..],
                    &[("X-Shape", "square")],
                    // Neither reaches the backend.
                    &[("X-Shape", "square"), ("Connection", "X-Shape")],
                    &[("X_Shape", "square")],
                    &[("X-Named", "1")],
                    &[("Connection", "x-named, close"), ("X-Named", "1")],
                ] {
                    road.get(path, headers);
                }
            }
            for target in ["a", "a?", "a?x=1", "a?x=2", "a%20b", "%61", "./a", "a;b"] {
                road.get(&format!("/plain/{target}"), &[]);
                road.get(&format!("/keyed/{target}"), &[]);
                road.get(&format!("/keyed/{target}"), &[("X-Tenant", "one")]);
                road.get(&format!("/keyed/{target}"), &[("X-Tenant", "one"), ("X-Tenant", "two")]);
            }
            for host in ["two.example", "TWO.example", "two.example:80", "two.example:81"] {
                let answer = request(road.gateway.port(), "GET", "/plain/host", &[("Host", host)], b"");
                road.note(host, &answer);
            }
        }
    });
    assert!(hits > 60, "{hits}");
}

#[test]
fn who_may_not_use_it() {
    let hits = alike(|road| {
        for path in ["/plain/a", "/auth/a", "/limited/a"] {
            for headers in [
                &[][..],
                &[("Authorization", "Bearer x")],
                &[("Cookie", "a=b")],
                &[("Cache-Control", "no-cache")],
                &[("Cache-Control", "max-age=0")],
                &[("Cache-Control", "only-if-cached, max-stale=9")],
                &[("Pragma", "no-cache")],
                &[("X-API-Key", KEY)],
                &[("X-API-Key", "wrong")],
                &[("Content-Length", "0")],
                &[("Upgrade", "websocket"), ("Connection", "upgrade")],
                &[("Age", "9"), ("Cache-Status", "forged; hit"), ("X-Request-Id", "forged")],
                &[],
            ] {
                road.get(path, headers);
            }
            road.ask("GET", path, &[], b"a body");
            road.ask("OPTIONS", path, &[], b"");
            road.ask("DELETE", path, &[], b"");
            road.get(path, &[]);
        }
    });
    // Not after the DELETE, which took it away.
    assert_eq!(hits, 8);
}

#[test]
fn whatever_is_under_it() {
    let hits = alike(|road| {
        for path in ["/plain/tagged", "/plain/large", "/plain/nothing", "/edited/tagged"] {
            road.get(path, &[]);
        }
        let host = "Host: one.example\r\n";
        road.raw(&format!("GET /plain/tagged HTTP/1.0\r\n{host}\r\n"), &["GET"], false);
        road.raw(&format!("GET /plain/tagged HTTP/1.0\r\n{host}Connection: keep-alive\r\n\r\n"), &["GET"], true);
        road.raw(&format!("GET /plain/nothing HTTP/1.0\r\n{host}Connection: keep-alive\r\n\r\n"), &["GET"], true);
        road.raw(&format!("HEAD /plain/tagged HTTP/1.0\r\n{host}\r\n"), &["HEAD"], false);
        road.raw(&format!("GET /plain/tagged HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), &["GET"], false);
        road.raw(&format!("GET /plain/tagged HTTP/1.1\r\n{host}Expect: 100-continue\r\n\r\n"), &["GET"], true);
        let (get, head) = ("GET /plain/large HTTP/1.1\r\n", "HEAD /plain/large HTTP/1.1\r\n");
        let pipeline = format!("{get}{host}\r\n{head}{host}\r\n{get}{host}If-None-Match: \"v1\"\r\n\r\n{get}{host}\r\n");
        road.raw(&pipeline, &["GET", "HEAD", "GET", "GET"], true);
        // An empty body in chunks is a body; the next request follows it.
        let chunked = format!("GET /plain/tagged HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        road.raw(&chunked, &["GET"], true);
        let (h2c, tls) = (road.gateway.port2(), road.gateway.port3());
        for path in
            ["/plain/tagged", "/plain/large", "/plain/empty", "/plain/nothing", "/plain/missing", "/edited/tagged", "/plain/told"]
        {
            for args in
                [&[][..], &["-I"], &["-H", "If-None-Match: \"v1\""], &["-H", "Range: bytes=1-2"], &["-H", "Cookie: a=b"], &[]]
            {
                road.curl(h2c, "http", path, &[&["--http2-prior-knowledge"], args].concat());
                road.curl(tls, "https", path, &[&["--http2"], args].concat());
                road.curl(tls, "https", path, &[&["--http1.1"], args].concat());
            }
        }
    });
    assert!(hits > 100, "{hits}");
}

#[test]
fn what_has_expired() {
    let paths = ["/short/tagged", "/short/a"];
    let [one, _] = clients_see_the_same(|road| {
        for path in paths {
            road.get(path, &[]);
        }
        for path in paths {
            // How often differs, so it is not noted; nor is the backend asked.
            eventually("what is stored expires", || {
                let fields = [("Host", "one.example"), ("Cache-Control", "only-if-cached")];
                request(road.gateway.port(), "HEAD", path, &fields, b"").status == 504
            });
            let again = road.get(path, &[]);
            assert!(again.header("cache-status").unwrap().contains("fwd=stale"), "{again:?}");
            road.get(path, &[]);
        }
    });
    assert_eq!(one.hits, 2);
}

/// A client that takes its answer slowly gets all of it; one that goes away in the middle leaves a line that says so.
#[test]
fn slow_clients_and_those_who_leave() {
    let mut road = Played::start();
    road.get("/plain/large", &[]);
    let mut slow = Client::connect(road.gateway.port());
    let requests = "GET /plain/large HTTP/1.1\r\nHost: one.example\r\n\r\n".repeat(100);
    slow.send(&requests);
    let mut bytes = 0;
    let mut some = [0; 4096];
    while bytes < 16 * 400_000 {
        bytes += slow.stream().read(&mut some).unwrap();
    }
    drop(slow);
    let line = road.gateway.wait_log(|line| line["client_closed"] == true);
    assert_eq!((line["status"].as_u64(), line["answered_by"].as_str()), (Some(200), Some("cache")), "{line}");
    assert_eq!(line["cache"], "hit");
    assert_eq!(road.get("/plain/large", &[]).body.len(), 400_000);
    assert_eq!(road.origin.count("/large"), 1);
}
