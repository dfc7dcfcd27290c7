//! Which request goes where, and as what it arrives there.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::time::Duration;

use crate::harness::*;

/// The smallest useful gateway, as the documentation shows it, but for the names: these never resolve, on no host (RFC 6761, section 6.4).
const SMALLEST: &str = "\
listeners:
  - bind: 0.0.0.0:8080
routes:
  - path: /products/*
    service: catalog-service.invalid
    port: 9001
  - path: /cart/*
    service: cart-service.invalid
    port: 9002
";

/// Method (GET if it is not there) and target, header fields, and who answers.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// A gateway whose services are backends that say their names.
struct Named {
    gateway: Gateway,
    backends: Vec<Backend>,
}

impl Named {
    fn start(names: &[&str], routes: &str) -> Named {
        let backends: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
        let services: String = names
            .iter()
            .zip(&backends)
            .map(|(name, backend)| format!("  {name}: {{ endpoints: [\"127.0.0.1:{}\"] }}\n", backend.port()))
            .collect();
        let gateway =
            Gateway::start(&format!("listeners: [ {{ bind: \"127.0.0.1:$PORT\" }} ]\nservices:\n{services}routes:\n{routes}\n"));
        Named { gateway, backends }
    }

    /// Who answers this request: a backend's name, or the status of a refusal.
    #[track_caller]
    fn asks(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
        let answer = request(self.gateway.port(), method, target, headers, b"");
        if answer.status != 200 {
            return answer.status.to_string();
        }
        answer.json()["name"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn check(&self, cases: &[Case<'_>]) {
        for (request, headers, expected) in cases {
            let (method, target) = request.split_once(' ').unwrap_or(("GET", request));
            assert_eq!(self.asks(method, target, headers), *expected, "{request} {headers:?}");
        }
    }
}

#[test]
fn the_smallest_configuration_is_accepted_as_it_stands() {
    let files = Files::new();
    let path = files.write("portcullis.yaml", SMALLEST);
    let ran = portcullis(files.dir(), &["check", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("1 listeners, 2 services, 2 routes"), "{ran:?}");
    // Nobody knows these names here: a warning for each, with its place.
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("portcullis.yaml:5:"), "{ran:?}");
    assert!(ran.stderr.contains("catalog-service") && ran.stderr.contains("cart-service"), "{ran:?}");
}

#[test]
fn the_smallest_configuration_starts_and_answers_503_for_names_that_do_not_resolve() {
    // Only the port is another, so that tests can run side by side.
    let gateway = Gateway::start(&SMALLEST.replace("8080", "$PORT"));
    for path in ["/products/1", "/cart"] {
        let answer = get(gateway.port(), path);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    get(gateway.port(), "/other").assert_problem(404, "route", "no_route");
    assert!(gateway.stderr().contains("catalog-service"), "the log warns: {}", gateway.stderr());
}

#[test]
fn the_smallest_configuration_routes_to_names_that_resolve() {
    let (catalog, cart) = (Backend::named("catalog"), Backend::named("cart"));
    let yaml = SMALLEST
        .replace("8080", "$PORT")
        .replace("9001", &catalog.port().to_string())
        .replace("9002", &cart.port().to_string())
        .replace("catalog-service.invalid", "localhost")
        .replace("cart-service.invalid", "localhost");
    let gateway = Gateway::start(&yaml);
    for (path, name) in [("/products", "catalog"), ("/products/7?full=1", "catalog"), ("/cart/", "cart")] {
        let answer = curl(&[&gateway.url(path)]);
        assert_eq!(answer.json()["name"], name, "{path}");
        assert_eq!(answer.json()["target"], path);
    }
}

#[test]
fn hosts() {
    let named = Named::start(
        &["exact", "wild", "deep", "any", "two"],
        "  - { host: shop.example.com, path: /a, service: exact }
  - { host: '*.example.com', path: /*, service: wild }
  - { host: '*.eu.example.com', path: /*, service: deep }
  - { host: [one.test, two.test], path: /*, service: two }
  - { path: /*, service: any }",
    );
    named.check(&[
        ("/a", &[("Host", "shop.example.com")], "exact"),
        ("/a", &[("Host", "SHOP.Example.COM:8080")], "exact"),
        ("/a", &[("Host", "shop.example.com.")], "exact"),
        // The host is chosen first, and nothing falls back to another one.
        ("/b", &[("Host", "shop.example.com")], "404"),
        ("/b", &[("Host", "www.example.com")], "wild"),
        ("/b", &[("Host", "a.b.example.com")], "wild"),
        ("/b", &[("Host", "a.eu.example.com")], "deep"),
        ("/b", &[("Host", "eu.example.com")], "wild"),
        ("/b", &[("Host", "example.com")], "any"),
        ("/b", &[("Host", "two.test")], "two"),
        ("/b", &[("Host", "[::1]:80")], "any"),
        ("/b", &[("Host", "evilexample.com")], "any"),
    ]);
    // An absolute target names the host.
    let mut client = Client::connect(named.gateway.port());
    client.send("GET http://two.test/x?y HTTP/1.1\r\nHost: two.test\r\n\r\n");
    let answer = client.answer_to("GET");
    assert_eq!((answer.json()["name"].as_str(), answer.json()["target"].as_str()), (Some("two"), Some("/x?y")));
}

#[test]
fn paths_from_the_most_specific() {
    // Not in the order in which they are tried: the order of the file has no say.
    let named = Named::start(
        &["prefix", "param", "exact", "deeper", "slash", "root"],
        "  - { path: /*, service: root }
  - { path: /x/*, service: prefix }
  - { path: '/x/{id}', service: param }
  - { path: /x/new, service: exact }
  - { path: '/x/{id}/items/{item}', service: deeper }
  - { path: /x/new/, service: slash }",
    );
    named.check(&[
        ("/x", &[], "prefix"),
        ("/x/", &[], "prefix"),
        ("/xy", &[], "root"),
        ("/X/new", &[], "root"),
        ("/x/new", &[], "exact"),
        ("/x/new/", &[], "slash"),
        ("/x/new/more", &[], "prefix"),
        ("/x/7", &[], "param"),
        ("/x/7/", &[], "prefix"),
        ("/x/7/items/8", &[], "deeper"),
        ("/x/new/items/8", &[], "deeper"),
        ("/x/7/items", &[], "prefix"),
        ("/", &[], "root"),
        // An encoded slash separates nothing, but some backends think so: what they would read takes another route.
        ("/x/a%2Fb", &[], "400"),
        ("/x%2Fnew", &[], "400"),
        ("/x/y/a%2Fb", &[], "prefix"),
        // Normalised before it is matched.
        ("/x/%6eew", &[], "exact"),
        ("/y/../x/./new", &[], "exact"),
        ("//x//new", &[], "exact"),
    ]);
}

#[test]
fn predicates() {
    let named = Named::start(
        &["plain", "beta", "tenant", "anonymous", "query", "v2", "v3"],
        "  - { path: /p, service: plain }
  - { path: /p, service: beta, headers: { X-Beta: 'yes' } }
  - { path: /p, service: tenant, headers: { X-Beta: 'yes', X-Tenant: { prefix: acme- } } }
  - { path: /q, service: plain, headers: { Authorization: { present: true } } }
  - { path: /q, service: anonymous, headers: { Authorization: { present: false } } }
  - { path: /r, service: query, query: { format: json pretty } }
  - { path: /r, service: plain, query: { format: { present: false } } }
  - { path: /api, service: plain }
  - { path: /api, service: v2, version: 2 }
  - { path: /api, service: v3, version: { header: X-V, is: '3' } }
  - { path: /v2/api, service: v2 }",
    );
    named.check(&[
        ("/p", &[], "plain"),
        ("/p", &[("X-Beta", "no")], "plain"),
        ("/p", &[("x-beta", "yes")], "beta"),
        ("/p", &[("X-Beta", "yes"), ("X-Tenant", "acme-1")], "tenant"),
        ("/p", &[("X-Beta", "yes"), ("X-Tenant", "other")], "beta"),
        ("/p", &[("X-Tenant", "acme-1")], "plain"),
        ("/q", &[("Authorization", "x")], "plain"),
        ("/q", &[], "anonymous"),
        ("/r?a=b&format=json%20pretty", &[], "query"),
        ("/r?format=json+pretty", &[], "query"),
        ("/r?a=b", &[], "plain"),
        // Every route of this path wants something else.
        ("/r?format=xml", &[], "404"),
        ("/api", &[], "plain"),
        ("/api", &[("API-Version", "2")], "v2"),
        ("/api", &[("API-Version", "9")], "plain"),
        ("/api", &[("X-V", "3")], "v3"),
        ("/v2/api", &[], "v2"),
    ]);
}

#[test]
fn devices() {
    let named = Named::start(
        &["mobile", "tablet", "desktop", "bot"],
        "  - { path: /, service: mobile, device: mobile }
  - { path: /, service: tablet, device: tablet }
  - { path: /, service: desktop, device: desktop }
  - { path: /, service: bot, device: bot }",
    );
    let iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
    let ipad = "Mozilla/5.0 (iPad; CPU OS 16_0 like Mac OS X) AppleWebKit/605.1.15";
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0";
    let google = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    named.check(&[
        ("/", &[("User-Agent", iphone)], "mobile"),
        ("/", &[("User-Agent", ipad)], "tablet"),
        ("/", &[("User-Agent", firefox)], "desktop"),
        ("/", &[("User-Agent", google)], "bot"),
        ("/", &[], "desktop"),
        ("/", &[("User-Agent", firefox), ("Sec-CH-UA-Mobile", "?1")], "mobile"),
        ("/", &[("User-Agent", firefox), ("Sec-CH-UA-Mobile", "?0"), ("Sec-CH-UA-Platform", "\"Android\"")], "tablet"),
    ]);
    assert_eq!(curl(&["-A", iphone, &named.gateway.url("/")]).json()["name"], "mobile");
}

/// Whoever keeps answers on the way has nothing but the URL and what `Vary` names: where fields choose the route, all that may come of it says so.
#[test]
fn caches_on_the_way_are_told_the_fields_that_choose_a_route() {
    let named = Named::start(
        &["web", "tv", "beta", "rest"],
        "  - { id: web, path: /home, service: web }
  - { id: tv, path: /home, headers: { X-Client: tv }, service: tv, policies: { cache: { ttl: 1m } } }
  - { id: phone, path: /home, device: [mobile], respond: { status: 200, json: { name: phone } } }
  - { id: beta, path: /only/beta, methods: [GET], version: { header: X-Api-Version, is: '2' }, service: beta }
  - { id: gone, path: /moved, headers: { Cookie: { present: true } }, redirect: { to: /home, status: 308 } }
  - { id: rest, path: /only/*, service: rest }
  - { id: by_query, path: /query, query: { view: tv }, service: tv }
  - { id: by_query_else, path: /query, methods: [GET], service: web }
  - { id: plain, path: /plain, service: web }",
    );
    const DEVICES: &str = "sec-ch-ua-mobile, sec-ch-ua-platform, user-agent, x-client";
    type Case = (&'static str, &'static [(&'static str, &'static str)], u16, &'static [&'static str]);
    let cases: &[Case] = &[
        ("GET /home", &[], 200, &[DEVICES]),
        ("GET /home", &[("X-Client", "tv")], 200, &[DEVICES]),
        // From the gateway's own cache as well, which keeps the routes apart.
        ("GET /home", &[("X-Client", "tv")], 200, &[DEVICES]),
        ("GET /home", &[("Sec-CH-UA-Mobile", "?1")], 200, &[DEVICES]),
        ("GET /only/beta", &[("X-Api-Version", "2")], 200, &["x-api-version"]),
        ("GET /only/beta", &[], 200, &["x-api-version"]),
        ("POST /only/beta", &[], 200, &["x-api-version"]),
        ("GET /only/other", &[("X-Api-Version", "2")], 200, &[]),
        ("GET /moved", &[("Cookie", "a=1")], 308, &["cookie"]),
        ("GET /moved", &[], 404, &["cookie"]),
        ("GET /query?view=tv", &[], 200, &[]),
        ("POST /query", &[], 405, &[]),
        ("GET /plain", &[("X-Client", "tv")], 200, &[]),
        ("GET /nowhere", &[], 404, &[]),
    ];
    for (asked, fields, status, varies) in cases {
        let (method, target) = asked.split_once(' ').unwrap();
        let answer = request(named.gateway.port(), method, target, fields, b"");
        assert_eq!((answer.status, answer.all("vary")), (*status, varies.to_vec()), "{asked} {fields:?}");
    }
    assert_eq!(named.asks("GET", "/home", &[("X-Client", "tv")]), "tv");
    assert_eq!(named.asks("GET", "/home", &[]), "web");
    assert_eq!(named.backends[1].requests().len(), 2, "one of them for /query: what was kept is given again");
}

#[test]
fn wrong_path_and_wrong_method_are_told_apart() {
    let named = Named::start(
        &["read", "write", "beta"],
        "  - { path: /m, methods: GET, service: read }
  - { path: /m, methods: [PUT, DELETE], service: write }
  - { path: /m/*, methods: POST, service: write, headers: { X-Beta: { present: true } } }
  - { path: '/m/{id}', methods: PATCH, service: beta }",
    );
    let port = named.gateway.port();
    named.check(&[("PUT /m", &[], "write"), ("POST /m/x", &[("X-Beta", "1")], "write"), ("PATCH /m/x", &[], "beta")]);
    let wrong = request(port, "POST", "/m", &[], b"");
    // `/m/*` matches `/m` too, but not without its header.
    wrong.assert_problem(405, "route", "method_not_allowed");
    let allowed = |answer: &Answer| {
        let allow = answer.header("allow").expect("Allow").to_owned();
        allow.split(',').map(|method| method.trim().to_owned()).collect::<HashSet<_>>()
    };
    assert_eq!(allowed(&wrong), ["GET", "HEAD", "PUT", "DELETE"].map(str::to_owned).into());
    let wrong = request(port, "GET", "/m/x", &[], b"");
    wrong.assert_problem(405, "route", "method_not_allowed");
    assert_eq!(allowed(&wrong), ["PATCH"].map(str::to_owned).into());
    let missing = request(port, "POST", "/n", &[], b"");
    missing.assert_problem(404, "route", "no_route");
    assert_eq!(missing.header("allow"), None);
    // HEAD goes where GET goes.
    assert_eq!(request(port, "HEAD", "/m", &[], b"").status, 200);
    assert_eq!(named.backends[0].last().method, "HEAD");
    // A refusal of HEAD has no body, but says how long it would be.
    let refused = request(port, "HEAD", "/n", &[], b"");
    assert_eq!((refused.status, refused.body.len()), (404, 0));
}

/// How many of `count` requests each backend answers.
fn shares(named: &Named, count: usize, headers: impl Fn(usize) -> Vec<(&'static str, String)>) -> BTreeMap<String, usize> {
    let mut client = Client::connect(named.gateway.port());
    let mut shares = BTreeMap::new();
    for number in 0..count {
        let headers = headers(number);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let answer = client.request("GET", "/", &headers, b"");
        *shares.entry(answer.json()["name"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    shares
}

#[test]
fn a_split_follows_its_weights() {
    let routes = "  - path: /
    split: [ { service: stable, weight: 80 }, { service: canary, weight: 20 }, { service: off, weight: 0 } ]";
    let named = Named::start(&["stable", "canary", "off"], routes);
    let shares = shares(&named, 1000, |_| Vec::new());
    // Five standard deviations of 1,000 draws at 20% are 63.
    assert!((137..=263).contains(&shares["canary"]), "{shares:?}");
    assert_eq!(shares["canary"] + shares["stable"], 1000, "{shares:?}");
}

/// A service's own limit holds behind a split for what goes to that service, and for nothing else.
#[test]
fn the_services_of_a_split_keep_their_own_limits() {
    let (stable, canary) = (Backend::named("stable"), Backend::named("canary"));
    let yaml = filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        policies: { adaptive_concurrency: { max: 500 } }
        services:
          stable: { endpoints: [ '127.0.0.1:$STABLE' ] }
          canary:
            endpoints: [ '127.0.0.1:$CANARY' ]
            policies: { rate_limit: { by: client_address, limit: 3/day }, adaptive_concurrency: { max: 50 } }
        routes:
          - path: /*
            split: [ { service: stable, weight: 1 }, { service: canary, weight: 1 } ]
            sticky: { header: X-User }
          - { path: /direct, service: canary }
        ",
        &[("$STABLE", stable.port()), ("$CANARY", canary.port())],
    );
    served(&yaml, |gateway| {
        let port = gateway.port();
        let ask = |user: usize| request(port, "GET", "/", &[("X-User", &format!("user-{user}"))], b"");
        let answers: Vec<Answer> = (0..40).map(ask).collect();
        let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        let canaries = passed.iter().filter(|answer| answer.json()["name"] == "canary").count();
        assert_eq!(canaries, 3, "as many as the service's own limit lets pass");
        assert!(passed.len() > 8 && refused.len() > 5, "{} passed, {} refused", passed.len(), refused.len());
        refused.iter().for_each(|answer| answer.assert_problem(429, "rate_limit", "rate_limited"));
        // One account, whichever route asks the service.
        get(port, "/direct").assert_problem(429, "rate_limit", "rate_limited");
        // And each its own controller, global or the service's.
        eventually("both are told", || {
            let of = |scope: &str, service: &str| {
                gateway.metric(&format!("portcullis_adaptive_concurrency_limit{{scope=\"{scope}\",service=\"{service}\"}}"))
            };
            of("global", "stable") > 0.0 && of("service:canary", "canary") > 0.0
        });
    });
}

/// What a route, or all of them, say of adaptive concurrency is for each service by itself: one that fails takes nothing from the others.
#[test]
fn a_failing_service_of_a_split_takes_no_room_from_the_others() {
    let good = Backend::answering(|request| {
        if request.target.starts_with("/slow") {
            std::thread::sleep(Duration::from_millis(300));
        }
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    let bad = Backend::answering(|_| b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec());
    let limits = "policies: { adaptive_concurrency: { min: 1, initial: 8, max: 8 } }";
    for (everywhere, here) in [(limits, ""), ("", limits)] {
        let yaml = format!(
            "
        listeners: [ {{ bind: 127.0.0.1:$PORT }} ]
        {everywhere}
        services:
          good: {{ endpoints: [ '127.0.0.1:{}' ] }}
          bad: {{ endpoints: [ '127.0.0.1:{}' ] }}
        routes:
          - path: /*
            split: [ {{ service: good, weight: 1 }}, {{ service: bad, weight: 1 }} ]
            sticky: {{ header: X-User }}
            {here}
        ",
            good.port(),
            bad.port()
        );
        served(&yaml, |gateway| {
            let port = gateway.port();
            let status = |user: &str, path: &str| request(port, "GET", path, &[("X-User", user)], b"").status;
            let users = || (0..100).map(|number| format!("user-{number}"));
            let lucky = users().find(|user| status(user, "/") == 200).unwrap();
            let unlucky = users().find(|user| status(user, "/") == 503).unwrap();
            // Until the limit of whoever is asked here is down to the least.
            eventually("the limit falls", || {
                (0..20).for_each(|_| {
                    status(&unlucky, "/");
                });
                let (_, metrics) = gateway.admin_get("/metrics");
                metrics.lines().any(|line| line.starts_with("portcullis_adaptive_concurrency_limit{") && line.ends_with(" 1"))
            });
            let statuses: Vec<u16> = std::thread::scope(|scope| {
                let asking: Vec<_> = (0..5).map(|_| scope.spawn(|| status(&lucky, "/slow"))).collect();
                asking.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(statuses, [200; 5], "the good service has room for seven");
        });
    }
}

/// Which service of a split answers is chance, or the client's cookie: what judges a request cannot depend on it.
#[test]
fn services_of_a_split_that_judge_differently_are_a_problem() {
    let check = |canary: &str, global: &str, route: &str| {
        let files = Files::new();
        files.write(
            "split.yaml",
            format!(
                "listeners: [ {{ bind: 127.0.0.1:8080 }} ]
policies: {global}
services:
  stable: {{ endpoints: [ '127.0.0.1:9001' ], policies: {{ ip_restriction: {{ deny: [ 192.0.2.0/24 ], allow: [ 0.0.0.0/0 ] }} }} }}
  canary: {{ endpoints: [ '127.0.0.1:9002' ], policies: {canary} }}
routes:
  - path: /*
    split:
      - {{ service: stable, weight: 1 }}
      - {{ service: canary, weight: 0 }}
    policies: {route}
"
            ),
        );
        portcullis(files.dir(), &["check", "split.yaml"])
    };
    let same = "{ ip_restriction: { allow: [ 0.0.0.0/0 ], deny: [ 192.0.2.0/24 ] } }";
    for (canary, global, route) in [
        (same, "{}", "{}"),
        // What the route says itself stands for all.
        ("{ authn: { api_key: {} } }", "{}", "{ authn: false, ip_restriction: false }"),
        ("{ authn: { api_key: {} } }", "{}", "{ authn: { api_key: {} }, ip_restriction: false }"),
        ("{}", same, "{}"),
        ("{ rate_limit: { limit: 1/s }, ip_restriction: { allow: [ 0.0.0.0/0 ], deny: [ 192.0.2.0/24 ] } }", "{}", "{}"),
    ] {
        let ran = check(canary, global, route);
        assert_eq!(ran.code, 0, "{canary} {global} {route}: {}", ran.stderr);
    }
    for (canary, global, route, differs) in [
        ("{}", "{}", "{}", &["ip_restriction"][..]),
        ("{ ip_restriction: { deny: [ 192.0.2.0/25 ], allow: [ 0.0.0.0/0 ] } }", "{}", "{}", &["ip_restriction"]),
        ("{ ip_restriction: false }", same, "{}", &["ip_restriction"]),
        ("{ authn: { api_key: {} }, cache: { ttl: 1s } }", "{}", "{ ip_restriction: false }", &["authn", "cache"]),
        ("{ authn: false }", "{ authn: { api_key: {} } }", "{ ip_restriction: false }", &["authn"]),
    ] {
        let ran = check(canary, global, route);
        assert_eq!(ran.code, 1, "{canary} {global} {route}");
        let said: Vec<&str> = ran.stderr.split("\n\n").filter(|block| block.contains("error: ")).collect();
        assert_eq!(said.len(), differs.len() + usize::from(said.len() > differs.len()), "{}", ran.stderr);
        for (policy, said) in differs.iter().zip(&said) {
            assert!(said.contains(&format!("but not their `{policy}`")) && said.contains("split.yaml:10:"), "{said}");
            assert!(said.contains(&format!("write `{policy}` under this route's `policies`")), "{said}");
        }
    }
}

#[test]
fn a_split_over_services_of_different_protocols_follows_its_weights() {
    let plain = Backend::named("plain");
    let nginx = Nginx::start("listen 127.0.0.1:$PORT http2; location / { return 200 '{\"name\":\"h2\"}'; }");
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services:
          plain: { endpoints: [ '127.0.0.1:$PLAIN' ] }
          h2: { endpoints: [ '127.0.0.1:$NGINX' ], protocol: http2 }
        routes: [ { path: /, split: [ { service: plain, weight: 1 }, { service: h2, weight: 1 } ] } ]
        ",
        &[("$PLAIN", plain.port()), ("$NGINX", nginx.port())],
    ));
    let mut client = Client::connect(gateway.port());
    let plain = (0..600).filter(|_| client.get("/").json()["name"] == "plain").count();
    // Five standard deviations of 600 draws at 50% are 61.
    assert!((239..=361).contains(&plain), "{plain} of 600");
}

#[test]
fn a_sticky_split_keeps_a_client_where_it_is() {
    for sticky in ["{ header: X-User }", "{ cookie: sid }"] {
        let routes = format!(
            "  - path: /
    split: [ {{ service: a, weight: 1 }}, {{ service: b, weight: 1 }} ]
    sticky: {sticky}"
        );
        let named = Named::start(&["a", "b"], &routes);
        let headers = |user: usize| match sticky.contains("header") {
            true => vec![("X-User", format!("user-{user}"))],
            false => vec![("Cookie", format!("other=1; sid=user-{user}; more=2"))],
        };
        let mut chosen = HashSet::new();
        for user in 0..20 {
            let shares = shares(&named, 5, |_| headers(user));
            assert_eq!(shares.len(), 1, "user {user} went to {shares:?}");
            chosen.extend(shares.into_keys());
        }
        assert_eq!(chosen.len(), 2, "20 users, all with one of two");
        // Who has no such thing is spread.
        assert_eq!(shares(&named, 60, |_| Vec::new()).len(), 2);
    }
}

#[test]
fn a_split_that_sticks_to_the_address_keeps_it() {
    let routes = "  - path: /
    split: [ { service: a, weight: 1 }, { service: b, weight: 1 } ]
    sticky: client_address";
    let named = Named::start(&["a", "b"], routes);
    assert_eq!(shares(&named, 30, |_| Vec::new()).len(), 1);
}

const REWRITES: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT } ]
    services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /api/v1/*, strip_prefix: /api/v1, service: a }
      - { path: '/old/{sku}/*', rewrite: '/v2/items/{sku}/*', service: a }
      - { path: '/one/{sku}', rewrite: '/items/{sku}', service: a }
      - { path: /host/*, rewrite_host: internal.test, service: a }
      - { path: /*, service: a }
";

#[test]
fn what_arrives_at_the_backend() {
    let backend = Backend::http();
    served(&filled(REWRITES, &[("$BACKEND", backend.port())]), |gateway| {
        for (sent, arrived) in [
            ("/api/v1/x/y?q=1", "/x/y?q=1"),
            ("/api/v1", "/"),
            ("/api/v1/", "/"),
            ("/api/v1?q", "/?q"),
            ("/old/7/a/b?q=1&r", "/v2/items/7/a/b?q=1&r"),
            ("/old/a%2Fb/c", "/v2/items/a%2Fb/c"),
            ("/one/x%20y", "/items/x%20y"),
            // Normalised once; the same bytes are matched and forwarded.
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.", "/a/"),
            ("/%7Euser/%41", "/~user/A"),
            ("/a%2fb%5cc", "/a%2fb%5cc"),
            ("/caf%c3%a9/%3a%40%2b", "/caf%c3%a9/:@+"),
            ("/a%252e%252e/b", "/a%252e%252e/b"),
            ("//a///b", "/a/b"),
            ("/x/../api/v1/z", "/z"),
            // The query is nobody's business.
            ("/a?x=/../%2e&y=%41+%2F", "/a?x=/../%2e&y=%41+%2F"),
        ] {
            let answer = get(gateway.port(), sent);
            assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
            let request = backend.last();
            let line = request.head_text().lines().next().unwrap().to_owned();
            assert_eq!(line, format!("GET {arrived} HTTP/1.1"), "for {sent}");
        }
        // The Host is the client's unless the route says otherwise.
        request(gateway.port(), "GET", "/plain", &[("Host", "Shop.test:81")], b"");
        assert_eq!(backend.last().all("host"), ["shop.test:81"]);
        request(gateway.port(), "GET", "/host/x", &[("Host", "shop.test")], b"");
        assert_eq!(backend.last().all("host"), ["internal.test"]);
        assert_eq!(backend.last().header("x-forwarded-host"), Some("shop.test"));
    });
}

#[test]
fn curl_cannot_climb_either() {
    let nginx = Nginx::start("location = /secret { return 200 secret; } location / { return 200 $request_uri; }");
    let gateway = Gateway::start(&filled(
        "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        services: { a: { endpoints: [ '127.0.0.1:$NGINX' ] } }
        routes: [ { path: /public/*, service: a } ]
        ",
        &[("$NGINX", nginx.port())],
    ));
    let get = |path: &str| curl(&["--path-as-is", &gateway.url(path)]);
    assert_eq!(get("/public/a/../b").text(), "/public/b");
    for path in
        ["/public/../secret", "/public/%2e%2e/secret", "/public/x/..%2f..%2f..%2fsecret", "//secret", "/public/..;/secret"]
    {
        let answer = get(path);
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    // Only what is below the prefix reached the backend.
    let log = nginx.access_log();
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn the_routes_are_listed_with_their_policies() {
    let named = Named::start(
        &["a"],
        "  - path: /a/{id}
    methods: GET
    service: a
    policies: { rate_limit: { limit: 10/s }, bounds: { max_body: 1KiB } }
  - { path: /b, service: a, id: plain }",
    );
    let ran = portcullis(named.gateway.dir(), &["routes", "-c", "gateway.yaml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, ["GET /a/{id}  ->  a  [bounds, rate_limit]", "plain  ->  a  [no policies]"]);
    let (status, routes) = named.gateway.admin_get("/routes");
    let routes: serde_json::Value = serde_json::from_str(&routes).unwrap();
    assert_eq!(status, 200);
    assert_eq!(routes["routes"][0]["id"], "GET /a/{id}");
    assert_eq!(routes["routes"][0]["policies"][1]["policy"], "rate_limit");
}
