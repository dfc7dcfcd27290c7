//! Routes with views: one URL, and for each kind of client an answer of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::*;

const PHONE: (&str, &str) = ("User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148");
const TV: (&str, &str) = ("X-Client", "tv");

/// A catalogue that says how often it was asked.
fn catalog() -> Backend {
    let count = AtomicUsize::new(0);
    Backend::answering(move |asked| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "n": number, "target": asked.target, "items": [
            { "sku": "SKU-789", "name": "Wireless Headphones", "price": 79.99, "poster": "/p/1.jpg", "description": "long" },
        ] })
        .to_string();
        let fields = "ETag: \"1\"\r\nCache-Control: max-age=60\r\nContent-Type: application/json";
        let unchanged = asked.header("if-none-match") == Some("\"1\"");
        match unchanged {
            true => format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n\r\n").into_bytes(),
            false => format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        }
    })
}

/// Mobile, web and TV get payloads of their own.
fn yaml(catalog: &Backend, more: &str) -> String {
    let hash = key_hash("k-gold");
    format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT, h2c: true }} ]\nserver: {{ workers: 1 }}\nadmin: {{ bind: 127.0.0.1:$ADMIN }}\n\
         services: {{ catalog: {{ endpoints: [ '127.0.0.1:{port}' ] }} }}\n\
         consumers: [ {{ name: acme, plan: gold, scopes: [offers], api_keys: [ {{ hash: '{hash}' }} ] }} ]\n\
         routes:
  - id: products
    path: /api/products
    service: catalog
    view_parameter: view
    views:
      partner:
        plans: [gold]
        headers: {{ X-Partner: {{ present: true }} }}
        compose: {{ calls: {{ offers: {{ service: catalog, path: /offers, target: target }} }} }}
      mobile:
        device: [mobile, tablet]
        policies: {{ reshape: {{ response: [ {{ keep: [/items/*/sku, /items/*/name] }} ] }}, etag: {{ up_to: 1MiB }} }}
      tv:
        headers: {{ X-Client: tv }}
        compose: {{ calls: {{ posters: {{ service: catalog, path: /posters, query: {{ limit: '5' }}, target: items, keep: [poster] }} }} }}
      debug: {{ only_asked: true, policies: {{ response_headers: {{ set: {{ X-Debug: '1' }} }} }} }}
      web: {{}}
    policies: {{ authn: {{ optional: true, api_key: {{}} }}{more} }}\n",
        port = catalog.port()
    )
}

fn asked(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Answer {
    request(gateway.port(), "GET", target, headers, b"")
}

#[test]
fn mobile_web_and_tv_get_payloads_of_their_own() {
    let catalog = catalog();
    let gateway = Gateway::start(&yaml(&catalog, ""));
    let mobile = asked(&gateway, "/api/products?page=2", &[PHONE]);
    assert_eq!(mobile.json(), json!({ "items": [{ "sku": "SKU-789", "name": "Wireless Headphones" }] }));
    let tv = asked(&gateway, "/api/products", &[TV]);
    assert_eq!(tv.json(), json!({ "posters": [{ "poster": "/p/1.jpg" }] }));
    assert_eq!(catalog.last().target, "/posters?limit=5");
    let web = asked(&gateway, "/api/products?page=2", &[]);
    assert_eq!((&web.json()["target"], &web.json()["items"][0]["price"]), (&"/api/products?page=2".into(), &79.99.into()));
    // What a client says of itself, the earlier view first; and over HTTP/2.
    assert!(asked(&gateway, "/api/products", &[TV, PHONE]).json()["items"][0].get("price").is_none());
    let h2 = curl(&["--http2-prior-knowledge", "-H", "X-Client: tv", &gateway.url("/api/products")]);
    assert_eq!(h2.json(), tv.json());
    for answer in [&mobile, &tv, &web] {
        let vary: Vec<&str> = answer.all("vary").iter().flat_map(|line| line.split(", ")).collect::<Vec<_>>();
        for name in ["user-agent", "sec-ch-ua-mobile", "x-client", "x-partner", "x-api-key"] {
            assert!(vary.contains(&name), "{name} is not in {vary:?}");
        }
        let private = answer.header("cache-control").unwrap();
        assert!(private.contains("private") && !private.contains("public"), "{private}: who it is tells views apart");
    }
    let line = gateway.wait_log(|line| line["view"] == "tv" && line["protocol"] == "h2");
    assert_eq!((line["route"].as_str(), line["answered_by"].as_str()), (Some("products"), Some("compose")));
    gateway.wait_metric("portcullis_route_views_total{route=\"products\",view=\"mobile\"}", 2.0);
    let (_, routes) = gateway.admin_get("/routes");
    assert!(routes.contains("\"view\":\"tv\""), "{routes}");
    let ran = portcullis(gateway.dir(), &["routes", "--config", gateway.config_path().to_str().unwrap()]).stdout;
    assert!(ran.contains("products  ->  views  [authn]") && ran.contains("products @tv  ->  compose of catalog"), "{ran}");
}

#[test]
fn a_client_chooses_what_is_open_to_it_and_nothing_else() {
    let catalog = catalog();
    let gateway = Gateway::start(&yaml(&catalog, ""));
    let tv = asked(&gateway, "/api/products?a=1&view=tv&b=2", &[PHONE]);
    assert!(tv.json()["posters"].is_array());
    assert_eq!(tv.header("vary"), Some("x-api-key"), "the URL says the rest");
    let debug = asked(&gateway, "/api/products?a=1&view=debug&b=%20&view=web", &[PHONE]);
    assert_eq!((debug.header("x-debug"), &debug.json()["target"]), (Some("1"), &"/api/products?a=1&b=%20".into()));
    assert_eq!(asked(&gateway, "/api/products?view=web", &[]).json()["target"], "/api/products", "nothing is left of the query");
    let gold = ("X-API-Key", "k-gold");
    for (target, fields, offers) in [
        ("/api/products?view=partner", &[gold][..], true),
        ("/api/products", &[gold, ("X-Partner", "1")], true),
        ("/api/products", &[gold], false),
        ("/api/products", &[("X-Partner", "1")], false),
    ] {
        let answer = asked(&gateway, target, fields);
        assert_eq!((answer.status, answer.json()["offers"] == "/offers"), (200, offers), "{target} {fields:?}");
    }
    // One that is for others is as one that there is not.
    for target in ["/api/products?view=partner", "/api/products?view=nothing", "/api/products?view=", "/api/products?%76iew=TV"] {
        let refused = asked(&gateway, target, &[PHONE]);
        refused.assert_problem(400, "views", "unknown_view");
        assert!(!refused.text().contains("partner"), "{}", refused.text());
    }
    let let_pass =
        yaml(&catalog, "").replace("view_parameter: view", "view_parameter: { name: view, unknown: ignore, pass_on: true }");
    let gateway = Gateway::start(&let_pass);
    assert_eq!(asked(&gateway, "/api/products?view=nothing", &[]).json()["target"], "/api/products?view=nothing");
    assert!(asked(&gateway, "/api/products?view=partner", &[PHONE]).json()["items"][0].get("price").is_none());
}

#[test]
fn what_is_kept_of_one_view_is_given_on_no_other() {
    let catalog = catalog();
    let gateway = Gateway::start(&yaml(&catalog, ", cache: { ttl: 1h }"));
    let state = |target: &str, headers: &[(&str, &str)]| {
        let answer = asked(&gateway, target, headers);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let hit = answer.header("cache-status").or(answer.header("x-portcullis-parts")).is_some_and(|said| said.contains("hit"));
        (hit, answer.json()["n"].as_u64(), answer)
    };
    for (target, headers, hit) in [
        ("/api/products", &[][..], false),
        ("/api/products", &[PHONE], false),
        ("/api/products", &[TV], false),
        ("/api/products?view=debug", &[], false),
        ("/api/products", &[], true),
        ("/api/products?view=web", &[PHONE], true),
        ("/api/products", &[PHONE], true),
        ("/api/products?view=mobile", &[TV], true),
        ("/api/products", &[TV], true),
        ("/api/products?view=debug", &[TV], true),
    ] {
        assert_eq!(state(target, headers).0, hit, "{target} {headers:?}");
    }
    assert_eq!(catalog.requests().len(), 4);
    let head = request(gateway.port(), "HEAD", "/api/products", &[PHONE], b"");
    assert!(head.status == 200 && head.header("cache-status").unwrap().contains("hit"));
    // A tag is of one view, and its parts are.
    let web = state("/api/products", &[]).2;
    let tag = web.header("etag").unwrap().to_owned();
    assert_eq!(tag, "\"1~web\"");
    let again = |target: &str, fields: &[(&str, &str)]| asked(&gateway, target, fields).status;
    assert_eq!(again("/api/products", &[("If-None-Match", &tag)]), 304);
    assert_eq!(again("/api/products?view=debug", &[("If-None-Match", &tag)]), 200);
    assert_eq!(again("/api/products?view=mobile", &[("If-None-Match", &tag)]), 200);
    assert_eq!(again("/api/products", &[("Range", "bytes=0-3"), ("If-Range", &tag)]), 206);
    assert_eq!(again("/api/products?view=debug", &[("Range", "bytes=0-3"), ("If-Range", &tag)]), 200);
    let mobile = state("/api/products?view=mobile", &[]).2.header("etag").unwrap().to_owned();
    assert_eq!(again("/api/products?view=mobile", &[("If-None-Match", &mobile)]), 304);
    // It is told what there is, and a purge by URL takes all of them.
    let (_, told) = gateway.admin_get("/cache/explain?url=http%3A%2F%2F127.0.0.1%2Fapi%2Fproducts&header=X-Client%3Anone");
    assert!(told.contains("products#@web"), "{told}");
    let admin = format!("127.0.0.1:{}", gateway.admin());
    let ran = portcullis(gateway.dir(), &["cache", "purge", "--admin", &admin, "http://127.0.0.1/api/products"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for (target, headers) in [("/api/products", &[][..]), ("/api/products", &[PHONE]), ("/api/products?view=debug", &[])] {
        assert!(!state(target, headers).0, "{target} {headers:?} was purged");
    }
}

/// A date beside tags is not looked at, and is not either once those of other views are taken out.
#[test]
fn a_date_beside_tags_of_another_view_says_nothing() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let catalog = Backend::answering(|asked| {
        let (tag, date) = (asked.header("if-none-match"), asked.header("if-modified-since"));
        let fields = format!("ETag: \"1\"\r\nLast-Modified: {DATE}\r\nContent-Type: application/json");
        match tag.map_or(date.is_some(), |tag| tag == "\"1\"") {
            true => format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n\r\n").into_bytes(),
            false => format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes(),
        }
    });
    for more in ["", ", cache: { ttl: 1h }"] {
        let gateway = Gateway::start(&yaml(&catalog, more));
        let status = |view: &str, fields: &[(&str, &str)]| asked(&gateway, &format!("/api/products?view={view}"), fields).status;
        let date = ("If-Modified-Since", DATE);
        // Twice: of what is kept as well.
        for _ in 0..2 {
            assert_eq!((status("web", &[]), status("debug", &[])), (200, 200), "{more}");
            for (view, tag, expected) in [
                ("web", "\"1~web\"", 304),
                ("web", "\"0~debug\", \"1~web\"", 304),
                ("web", "\"1~debug\"", 200),
                ("web", "\"1\"", 200),
                ("debug", "\"1~web\"", 200),
            ] {
                assert_eq!(status(view, &[("If-None-Match", tag), date]), expected, "{view} {tag}{more}");
            }
            assert_eq!(status("web", &[date]), 304, "{more}");
        }
    }
}

#[test]
fn what_a_view_looks_at_in_a_path_can_be_read_in_one_way_alone() {
    let backend = Backend::http();
    let gateway = Gateway::start(&format!(
        "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nserver: {{ workers: 1 }}\n\
         services: {{ a: {{ endpoints: [ '127.0.0.1:{}' ] }} }}\n\
         routes:\n\
         \x20 - {{ path: '/p/{{sku}}', service: a, views: {{ tv: {{ headers: {{ X-Client: tv }}, policies: {{ request_headers: {{ set: {{ X-Sku: '{{param.sku}}' }} }} }} }}, web: {{}} }} }}\n\
         \x20 - {{ path: '/q/{{sku}}', service: a, views: {{ tv: {{ headers: {{ X-Client: tv }} }}, web: {{}} }} }}\n",
        backend.port()
    ));
    assert_eq!(asked(&gateway, "/p/x", &[TV]).status, 200);
    assert_eq!(backend.last().header("x-sku"), Some("x"));
    for fields in [&[TV][..], &[]] {
        asked(&gateway, "/p/x;y", fields).assert_problem(400, "route", "ambiguous_path");
        assert_eq!(asked(&gateway, "/q/x;y", fields).status, 200);
    }
}

#[test]
fn views_that_nobody_gets_are_told() {
    let catalog = catalog();
    let good = yaml(&catalog, "").replace("$PORT", "1").replace("$ADMIN", "2");
    let files = Files::new();
    let check = |yaml: &str| {
        files.write("portcullis.yaml", yaml);
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        (ran.code, format!("{}{}", ran.stdout, ran.stderr))
    };
    let (code, told) = check(&good);
    assert!(code == 0 && !told.contains("nobody gets"), "{told}");
    let (_, told) = check(&good.replace("    policies: { authn: { optional: true, api_key: {} } }\n", ""));
    assert!(told.contains("nobody gets the view `partner`") && !told.contains("view `mobile`"), "{told}");
    let (start, rest) = good.split_once("    views:\n").unwrap();
    let (_, end) = rest.split_once("      web: {}\n").unwrap();
    let (code, told) = check(&format!("{start}{end}"));
    assert!(code == 1 && told.contains("`view_parameter` chooses among `views`"), "{told}");
}

#[test]
fn views_go_to_services_of_their_own_through_a_reload() {
    let (one, other) = (Backend::named("one"), Backend::named("other"));
    let config = |rest: &str| {
        format!(
            "listeners: [ {{ bind: 127.0.0.1:$PORT }} ]\nadmin: {{ bind: 127.0.0.1:$ADMIN }}\n\
             services: {{ one: {{ endpoints: [ '127.0.0.1:{}' ] }}, other: {{ endpoints: [ '127.0.0.1:{}' ] }}, third: {{ endpoints: [ '127.0.0.1:1' ] }} }}\n\
             routes:\n  - {{ path: /x/*, strip_prefix: /x, split: [ {{ service: one, weight: 1 }}, {{ service: third, weight: 0 }} ], \
             views: {{ new: {{ headers: {{ X-New: '1' }}, service: other }}, old: {{}} }}, \
             policies: {{ rate_limit: {{ limit: 5/hour }} }}{rest} }}\n",
            one.port(),
            other.port()
        )
    };
    let gateway = Gateway::start(&config(""));
    let new = [("X-New", "1")];
    assert_eq!(asked(&gateway, "/x/a?b=1", &new).status, 200);
    assert_eq!((other.last().target.as_str(), one.requests().len()), ("/a?b=1", 0));
    assert_eq!(asked(&gateway, "/x/a", &[]).status, 200);
    assert_eq!(one.last().target, "/a");
    let line = gateway.wait_log(|line| line["view"] == "old");
    assert_eq!(line["service"], "one");
    gateway.rewrite(&config(", timeout: 5s"));
    assert_eq!(gateway.reload().0, 200);
    // One limit for all views, and it remembers.
    let statuses: Vec<u16> = (0..4).map(|_| asked(&gateway, "/x/a", &new).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[test]
fn bad_views_are_refused_where_they_stand() {
    let catalog = catalog();
    let good = yaml(&catalog, "");
    let files = Files::new();
    for (from, to, said) in [
        ("      web: {}\n", "", "the last view is for everybody that no other is for"),
        ("only_asked: true, ", "", "so that no view behind it is for anybody"),
        ("plans: [gold]", "plans: []", "an empty list says nothing here"),
        ("plans: [gold]", "device: toaster", "toaster"),
        ("      web: {}", "      Web: {}", "`Web` is no name of a view"),
        ("      web: {}", "      web: { service: nothing }", "unknown service `nothing`"),
        ("      web: {}", "      web: { policies: { authn: { api_key: {} } } }", "before it is known which view"),
        ("      web: {}", "      web: { policies: { reshaep: {} } }", "unknown policy `reshaep`"),
        (
            "      web: {}",
            "      web: { service: catalog, compose: { calls: { a: { service: catalog, path: /a } } } }",
            "either a `service` or a `compose`",
        ),
        ("    service: catalog\n", "", "service"),
        ("view_parameter: view", "view_parameter: ''", "the name of a parameter"),
        ("view_parameter: view", "view_parameter: { name: view, unknown: maybe }", "maybe"),
        ("X-Client: tv", "'X Client': tv", "is no header name"),
    ] {
        assert!(good.contains(from), "{from}");
        files.write("portcullis.yaml", good.replacen(from, to, 1).replace("$PORT", "1").replace("$ADMIN", "2"));
        let ran = portcullis(files.dir(), &["check", "portcullis.yaml"]);
        assert!(ran.code == 1 && ran.stderr.contains(said), "{to}: {}{}", ran.stdout, ran.stderr);
    }
}
