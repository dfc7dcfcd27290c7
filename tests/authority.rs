//! Where a request goes and where it came from: one canonical host, what is told of it, whose word on it counts, and the names of the
//! gateways that it passed.

use std::sync::{Arc, Mutex};

use crate::harness::*;

/// Asks by HTTP/2 without TLS. The last argument is the path.
#[track_caller]
fn h2(gateway: &Gateway, args: &[&str], path: &str) -> Answer {
    let url = gateway.url(path);
    let all: Vec<&str> = ["--http2-prior-knowledge"].iter().chain(args).copied().chain([&*url]).collect();
    curl(&all)
}

/// What the backend saw of a field, as [`Backend::http`] tells it.
#[track_caller]
fn seen(answer: &Answer, name: &str) -> Option<String> {
    assert_eq!(answer.status, 200, "{answer:?}, body {}", answer.text());
    answer.json()["headers"][name].as_str().map(str::to_owned)
}

fn named(name: &str) -> Backend {
    Backend::named(name)
}

#[test]
fn nominated_fields_are_gone_before_anything_looks() {
    let (tenant, open) = (named("tenant"), named("open"));
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        consumers: [ { name: acme, api_keys: [ { hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' } ] } ]
        routes:
          - { path: /by-field, headers: { X-Tenant: a }, service: 127.0.0.1, port: $TENANT }
          - { path: /by-field, service: 127.0.0.1, port: $OPEN }
          - { path: /by-rule, service: 127.0.0.1, port: $OPEN, policies: { authz: { rules: [ { allow: \"'x-tenant' in request.headers\" } ] } } }
          - { path: /by-key, service: 127.0.0.1, port: $OPEN, policies: { authn: { api_key: {} } } }
          - { path: /by-demand, service: 127.0.0.1, port: $OPEN, policies: { validate: { required_headers: [ X-Tenant ] } } }
          - { path: /by-limit, service: 127.0.0.1, port: $OPEN, policies: { rate_limit: { by: { header: X-Tenant }, limit: 1/day } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$TENANT", tenant.port()), ("$OPEN", open.port())]));
    let ask = |path: &str, headers: &[(&str, &str)]| request(gateway.port(), "GET", path, headers, b"");
    let honest = [("X-Tenant", "a"), ("Connection", "keep-alive")];
    let nominating = [("X-Tenant", "a"), ("Connection", "keep-alive, x-TENANT"), ("x-tenant", "a")];
    assert_eq!(ask("/by-field", &honest).json()["name"], "tenant");
    let answer = ask("/by-field", &nominating);
    assert_eq!(answer.json()["name"], "open");
    assert_eq!(seen(&answer, "x-tenant"), None);
    assert_eq!(ask("/by-rule", &honest).status, 200);
    assert_eq!(ask("/by-rule", &nominating).status, 403);
    assert_eq!(ask("/by-key", &[("X-API-Key", "test")]).status, 200);
    assert_eq!(ask("/by-key", &[("X-API-Key", "test"), ("Connection", "X-API-Key")]).status, 401);
    assert_eq!(ask("/by-demand", &honest).status, 200);
    assert_eq!(ask("/by-demand", &nominating).status, 400);
    // A limit's key as well: without the field, all are one.
    assert_eq!(ask("/by-limit", &[("X-Tenant", "1"), ("Connection", "X-Tenant")]).status, 200);
    assert_eq!(ask("/by-limit", &[("X-Tenant", "2"), ("Connection", "X-Tenant")]).status, 429);
    for name in ["host", "Content-Length", "X-Forwarded-For", "forwarded"] {
        ask("/by-field", &[("Connection", name)]).assert_problem(400, "door", "connection_header");
    }
}

/// Spellings of `shop.example`, and of nothing else.
fn spellings() -> Vec<String> {
    let mut all = Vec::new();
    for name in ["shop.example", "SHOP.example", "Shop.Example", "shop.EXAMPLE"] {
        for dot in ["", "."] {
            for port in ["", ":", ":80", ":080"] {
                all.push(format!("{name}{dot}{port}"));
            }
        }
    }
    all
}

/// Matched, keyed, forwarded, told, logged and shown to expressions: one host.
#[test]
fn a_host_has_one_spelling_wherever_it_is_used() {
    let (shop, other) = (named("shop"), named("other"));
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        server: { workers: 1 }
        services:
          shop: { endpoints: [ '127.0.0.1:$SHOP' ] }
        routes:
          - path: /*
            host: shop.example
            service: shop
            policies:
              authz: { rules: [ { allow: \"request.host == 'shop.example' && request.headers.host in ['shop.example', 'shop.example:443']\" } ] }
          - { path: /cached, host: shop.example, service: shop, policies: { cache: { ttl: 60s } } }
          - { path: /v6, host: '[::0:1]', service: shop }
          - { path: /*, service: 127.0.0.1, port: $OTHER }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$SHOP", shop.port()), ("$OTHER", other.port())]));
    let is_canonical = |answer: &Answer, what: &str| {
        assert_eq!(answer.json()["name"], "shop", "{what}");
        for (name, value) in [("host", "shop.example"), ("x-forwarded-host", "shop.example"), ("x-forwarded-port", "80")] {
            assert_eq!(seen(answer, name).as_deref(), Some(value), "{name} for {what}");
        }
        assert!(seen(answer, "forwarded").unwrap().ends_with("host=\"shop.example\""), "{what}");
    };
    for (number, host) in spellings().iter().enumerate() {
        let path = format!("/{number}");
        is_canonical(&request(gateway.port(), "GET", &path, &[("Host", host)], b""), host);
        // Named in the target, and once more in the field, in another spelling.
        let absolute = format!("http://{host}/absolute");
        is_canonical(&request(gateway.port(), "GET", &absolute, &[("Host", &host.to_uppercase())], b""), &absolute);
        let field = format!("Host: {host}");
        is_canonical(&h2(&gateway, &["-H", &field], &path), &format!("h2 {host}"));
        request(gateway.port(), "GET", "/cached", &[("Host", host)], b"");
        h2(&gateway, &["-H", &field], "/cached");
        assert_eq!(gateway.wait_log(|line| line["path"] == path)["host"], "shop.example", "{host}");
    }
    let cached = shop.requests().iter().filter(|request| request.target == "/cached").count();
    assert_eq!(cached, 1, "one entry for all spellings");
    assert!(other.requests().is_empty());
    let v6 = request(gateway.port(), "GET", "/v6", &[("Host", "[0:0:0:0:0:0:0:1]:8080")], b"");
    assert_eq!((v6.json()["name"].as_str(), seen(&v6, "host").as_deref()), (Some("shop"), Some("[::1]:8080")));
    // Another port is another authority.
    let answer = request(gateway.port(), "GET", "/port", &[("Host", "SHOP.example:0443")], b"");
    assert_eq!(
        (seen(&answer, "host").as_deref(), seen(&answer, "x-forwarded-port").as_deref()),
        (Some("shop.example:443"), Some("443"))
    );
}

#[test]
fn a_host_with_an_empty_label_is_none() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    for host in
        ["api.example.com..", "api..example.com", ".api.example.com", ".", "..", ":80", "h:99999", "h:+80", "[::1", "[::1]x"]
    {
        request(gateway.port(), "GET", "/", &[("Host", host)], b"").assert_problem(400, "door", "host");
    }
    h2(&gateway, &["-H", "Host: api.example.com.."], "/").assert_problem(400, "door", "host");
    assert!(backend.requests().is_empty());
}

/// A shop that leads those who came without TLS to where it is, by what it is told.
fn redirecting() -> Backend {
    Backend::answering(|request| {
        let field = |name: &str| request.header(name).unwrap_or("-").to_owned();
        let (proto, host, port) = (field("x-forwarded-proto"), field("x-forwarded-host"), field("x-forwarded-port"));
        let prefix = request.header("x-forwarded-prefix").unwrap_or("");
        if proto == "http" {
            return format!("HTTP/1.1 301 Moved\r\nLocation: https://{host}{prefix}/\r\nContent-Length: 0\r\n\r\n").into_bytes();
        }
        let body = format!("{proto}://{host}:{port}{prefix} {} {}", field("host"), field("forwarded"));
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

#[test]
fn the_cache_keeps_apart_what_the_backend_is_told() {
    let backend = redirecting();
    let yaml = |rewrite: &str| {
        let yaml = format!(
            "
            listeners: [ {{ bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1 ] }} ]
            server: {{ workers: 1 }}
            services: {{ a: {{ endpoints: [ '127.0.0.1:$BACKEND' ] }} }}
            routes: [ {{ id: r, path: /*, service: a, {rewrite} policies: {{ cache: {{ ttl: 60s }} }} }} ]
            "
        );
        filled(&yaml, &[("$BACKEND", backend.port())])
    };
    let gateway = Gateway::start(&yaml(""));
    let ask = |fields: &[(&str, &str)]| {
        let all: Vec<_> = [("Host", "shop.example"), ("X-Forwarded-For", "192.0.2.1")].iter().chain(fields).copied().collect();
        request(gateway.port(), "GET", "/", &all, b"")
    };
    let requests = |what: &str, fields: &[(&str, &str)]| {
        let before = backend.requests().len();
        let (first, second) = (ask(fields), ask(fields));
        assert_eq!(backend.requests().len(), before + 1, "{what}: asked once, then a hit");
        assert_eq!((first.status, &first.body), (second.status, &second.body), "{what}");
        first
    };
    assert_eq!(requests("http", &[]).status, 301);
    assert_eq!(requests("https", &[("X-Forwarded-Proto", "https")]).status, 200, "no redirect to itself");
    let https = [("X-Forwarded-Proto", "https")];
    for foreign in [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "8443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Host", "shop.example:9443"),
    ] {
        let fields = [&https[..], &[foreign]].concat();
        requests(&format!("{foreign:?}"), &fields);
        let text = ask(&https).text();
        assert!(text.starts_with("https://shop.example:443 shop.example ") && !text.contains("evil"), "{text}");
    }
    // The same by the other field.
    let element = |host: &str| format!("for=192.0.2.1;proto=https;host={host}");
    let by_element = |host: &str| {
        let fields = [("Host", "shop.example"), ("Forwarded", &*element(host))];
        request(gateway.port(), "GET", "/element", &fields, b"").text()
    };
    assert!(by_element("evil.example").starts_with("https://evil.example:443 "));
    assert!(by_element("shop.example").starts_with("https://shop.example:443 "));
    // Who asks is no part of it.
    let before = backend.requests().len();
    for client in ["192.0.2.7", "192.0.2.8"] {
        let fields = [("Host", "shop.example"), ("X-Forwarded-For", client), ("X-Forwarded-Proto", "https")];
        assert_eq!(request(gateway.port(), "GET", "/", &fields, b"").status, 200);
    }
    assert_eq!(backend.requests().len(), before);
    // A reload that gives the service another host.
    gateway.rewrite(&yaml("rewrite_host: inner.example,"));
    assert_eq!(gateway.reload().0, 200);
    let answer = ask(&https);
    assert!(answer.text().contains(":443 inner.example "), "{}", answer.text());
}

#[test]
fn everybody_hears_the_same_scheme() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let service = Backend::answering(move |request| {
        hears.lock().unwrap().push(request.header("x-forwarded-proto").unwrap_or("-").to_owned());
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let backend = Backend::http();
    let yaml = "
        listeners:
          - { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1 ] }
          - { bind: 127.0.0.1:$PORT2 }
        routes:
          - path: /*
            service: 127.0.0.1
            port: $BACKEND
            policies:
              authz: { rules: [ { deny: \"request.scheme == 'https' && request.path == '/secure'\" }, { allow: 'true' } ] }
              external_auth: { url: 'http://127.0.0.1:$SERVICE/', timeout: 10s, cache: { ttl: 60s } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port()), ("$SERVICE", service.port())]));
    let https = [("X-Forwarded-Proto", "https")];
    for (port, sent, wanted) in
        [(gateway.port(), &https[..], "https"), (gateway.port(), &[], "http"), (gateway.port2(), &https, "http")]
    {
        heard.lock().unwrap().clear();
        let answer = request(port, "GET", &format!("/{wanted}/{port}"), sent, b"");
        assert_eq!(seen(&answer, "x-forwarded-proto").as_deref(), Some(wanted));
        assert_eq!(*heard.lock().unwrap(), [wanted]);
        let status = if wanted == "https" { 403 } else { 200 };
        assert_eq!(request(port, "GET", "/secure", sent, b"").status, status);
    }
}

#[test]
fn a_trusted_address_is_no_trusted_identity() {
    let backend = Backend::http();
    let yaml = "
        listeners:
          - { bind: 127.0.0.1:$PORT, trusted_proxies: [ 127.0.0.1 ] }
          - { bind: 127.0.0.1:$PORT2, trusted_identity: [ 127.0.0.0/8 ] }
          - { bind: 127.0.0.1:$PORT3 }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a }
          - path: /guarded
            service: a
            policies:
              authn:
                optional: true
                jwt: { issuer: https://id.example.com, audience: a, keys: [ { secret: '${SECRET}' } ], claims_to_headers: { X-Auth-Roles: roles } }
          - { path: /asked, service: a, policies: { external_auth: { url: 'http://127.0.0.1:1/', upstream_headers: [ X-Auth-Account, X-Plan ], fail: open } } }
          - { path: /named, headers: { X-Consumer-Name: root }, respond: { status: 204 } }
          - { path: /ruled, respond: { status: 204 }, policies: { authz: { rules: [ { deny: \"'x-consumer-name' in request.headers\" } ] } } }
        ";
    let secret = "s".repeat(32);
    let gateway = Gateway::start_with(&filled(yaml, &[("$BACKEND", backend.port())]), &[("SECRET", &secret)]);
    let claims = [
        ("X-Consumer-Name", "root"),
        ("X-Auth-Subject", "root"),
        ("X-Auth-Method", "jwt"),
        ("X-AUTH-Scopes", "all"),
        ("Client-Cert", ":AA==:"),
        ("Client-Cert-Chain", ":AA==:"),
        // What policies of other routes say.
        ("X-Auth-Roles", "admin"),
        ("X-Auth-Account", "1"),
    ];
    let sent = [&claims[..], &[("X-Auth-Token", "the-clients-own"), ("X-Request-Id", "r-1"), ("X-Plan", "gold")]].concat();
    for (port, passes) in [(gateway.port(), false), (gateway.port2(), true), (gateway.port3(), false)] {
        let answer = request(port, "GET", "/", &sent, b"");
        for (name, value) in claims {
            let wanted = passes.then_some(value);
            assert_eq!(seen(&answer, &name.to_ascii_lowercase()).as_deref(), wanted, "{name} {passes}");
        }
        assert_eq!(seen(&answer, "x-auth-token").as_deref(), Some("the-clients-own"));
        assert_eq!(seen(&answer, "x-request-id").as_deref() == Some("r-1"), port == gateway.port(), "an id is no identity");
        assert_eq!(seen(&answer, "x-plan").as_deref(), Some("gold"), "on this route it is nobody's");
        // Routes and rules look at what services would get, and at nothing else.
        assert_eq!(request(port, "GET", "/named", &claims[..1], b"").status, if passes { 204 } else { 200 });
        assert_eq!(request(port, "GET", "/ruled", &claims[..1], b"").status, if passes { 403 } else { 204 });
    }
    // Where a policy says it itself, nobody else does.
    let guarded = request(gateway.port2(), "GET", "/guarded", &sent, b"");
    assert_eq!((seen(&guarded, "x-auth-roles"), seen(&guarded, "x-consumer-name")), (None, None));
    let asked = request(gateway.port2(), "GET", "/asked", &sent, b"");
    assert_eq!((seen(&asked, "x-auth-account"), seen(&asked, "x-plan")), (None, None));
}

#[test]
fn via_names_the_gateway_both_ways() {
    let backend = Backend::answering(|request| {
        let via = request.all("via").join(" | ");
        let version = if request.target == "/old" { "HTTP/1.0" } else { "HTTP/1.1" };
        let kept = if request.target == "/cached" { "Cache-Control: max-age=60\r\n" } else { "" };
        format!("{version} 200 OK\r\nVia: 1.1 inner\r\n{kept}Content-Length: {}\r\n\r\n{via}", via.len()).into_bytes()
    });
    let yaml = "
        listeners:
          - { bind: 127.0.0.1:$PORT, h2c: true }
          - { bind: 127.0.0.1:$PORT2, via: edge-1 }
          - { bind: 127.0.0.1:$PORT3, via: false }
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /*, service: a }
          - { path: /cached, service: a, policies: { cache: { ttl: 60s } } }
          - { path: /removed, service: a, policies: { request_headers: { remove: [ Via ] }, response_headers: { remove: [ Via ] } } }
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let ask = |port: u16, path: &str, sent: &[(&str, &str)]| {
        let answer = request(port, "GET", path, sent, b"");
        (answer.text(), answer.all("via").join(" | "))
    };
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(ask(gateway.port(), "/", &[]), pair("1.1 portcullis", "1.1 inner | 1.1 portcullis"));
    assert_eq!(ask(gateway.port(), "/", &[("Via", "1.0 fred, 1.1 nowhere")]).0, "1.0 fred, 1.1 nowhere | 1.1 portcullis");
    assert_eq!(ask(gateway.port(), "/old", &[]).1, "1.1 inner | 1.0 portcullis", "the answer came in that version");
    assert_eq!(ask(gateway.port2(), "/", &[]), pair("1.1 edge-1", "1.1 inner | 1.1 edge-1"));
    assert_eq!(ask(gateway.port3(), "/", &[("Via", "1.0 fred")]), pair("1.0 fred", "1.1 inner"));
    assert_eq!(ask(gateway.port(), "/removed", &[("Via", "1.0 fred")]), pair("", ""), "policies have the last word");
    for _ in 0..2 {
        assert_eq!(ask(gateway.port(), "/cached", &[]).1, "1.1 inner | 1.1 portcullis");
    }
    let answer = h2(&gateway, &[], "/");
    assert_eq!((answer.text(), answer.all("via").join(" | ")), pair("2 portcullis", "1.1 inner | 1.1 portcullis"));
    // By HTTP/1.0, on a connection that has asked by HTTP/1.1.
    let mut client = Client::connect(gateway.port());
    assert_eq!(client.get("/").text(), "1.1 portcullis");
    client.send(format!("GET / HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n", gateway.port()));
    assert_eq!(client.answer_to("GET").text(), "1.0 portcullis");
    // Nothing was forwarded.
    assert_eq!(get(gateway.port(), "/%zz").header("via"), None);
    // A reload renames it, on the connections that are open as well.
    let mut client = Client::connect(gateway.port2());
    assert_eq!(client.get("/").text(), "1.1 edge-1");
    gateway.rewrite(&filled(&yaml.replace("edge-1", "edge-2"), &[("$BACKEND", backend.port())]));
    assert_eq!(gateway.reload().0, 200);
    eventually("the new name is used", || client.get("/").text() == "1.1 edge-2");
}

#[test]
fn a_request_that_comes_around_again_and_again_is_refused() {
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        routes: [ { path: /*, service: 127.0.0.1, port: $PORT } ]
        ";
    let gateway = Gateway::start(yaml);
    let turned_away = |answer: &Answer| {
        let problem = answer.json();
        assert_eq!((answer.status, problem["policy"].as_str(), problem["reason"].as_str()), (508, Some("door"), Some("loop")));
    };
    turned_away(&get(gateway.port(), "/"));
    // Others of that name in the way are no loop.
    let fields = vec![("Via", "1.1 other"); 20];
    let answer = request(gateway.port(), "GET", "/", &fields, b"");
    turned_away(&answer);
}

#[test]
fn options_may_end_at_the_gateway() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
        services: { a: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
        routes:
          - { path: /x/*, service: a }
          - { path: /some, methods: [ GET, OPTIONS ], service: a }
          - { path: /some, methods: [ DELETE ], service: a }
          - { path: /guarded, service: a, policies: { authn: { api_key: {} } } }
        consumers: [ { name: acme, api_keys: [ { hash: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08' } ] } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    const ALL: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    let bare = |answer: &Answer, allow: &str| {
        assert_eq!((answer.status, answer.header("allow")), (204, Some(allow)), "{answer:?}");
        assert!(answer.body.is_empty() && answer.header("content-length").is_none() && answer.header("content-type").is_none());
        assert!(answer.header("x-request-id").is_some());
    };
    // Of the gateway as a whole, however it is asked; and the connection goes on.
    let mut client = Client::connect(gateway.port());
    for target in ["*", "http://any.example", "http://any.example:80"] {
        let host = target.strip_prefix("http://").unwrap_or("any.example");
        bare(&client.request("OPTIONS", target, &[("Host", host)], b""), ALL);
    }
    bare(&h2(&gateway, &["-X", "OPTIONS", "--request-target", "*"], "/"), ALL);
    client.request("GET", "*", &[], b"").assert_problem(400, "door", "request_target");
    assert!(backend.requests().is_empty());
    let line = gateway.wait_log(|line| line["path"] == "*");
    assert_eq!(
        (line["status"].as_u64(), line["reason"].as_str(), line["method"].as_str()),
        (Some(204), Some("options"), Some("OPTIONS"))
    );
    // Of a path, where the client says that the request goes no further.
    let ask = |method: &str, path: &str, fields: &[(&str, &str)]| request(gateway.port(), method, path, fields, b"");
    bare(&ask("OPTIONS", "/x", &[("Max-Forwards", "0")]), ALL);
    bare(&ask("OPTIONS", "/some", &[("max-forwards", "00")]), "GET, HEAD, DELETE, OPTIONS");
    bare(&h2(&gateway, &["-X", "OPTIONS", "-H", "Max-Forwards: 0"], "/some"), "GET, HEAD, DELETE, OPTIONS");
    ask("OPTIONS", "/guarded", &[("Max-Forwards", "0")]).assert_problem(401, "authn", "missing_credentials");
    assert!(backend.requests().is_empty());
    for (sent, wanted) in [("1", "0"), ("10", "9"), ("4294967295", "4294967294"), ("99999999999999999999", "4294967294")] {
        assert_eq!(seen(&ask("OPTIONS", "/x", &[("Max-Forwards", sent)]), "max-forwards").as_deref(), Some(wanted));
    }
    assert_eq!(seen(&h2(&gateway, &["-X", "OPTIONS", "-H", "Max-Forwards: 3"], "/x"), "max-forwards").as_deref(), Some("2"));
    for bad in ["", "-1", "x", "1, 2", "+1"] {
        ask("OPTIONS", "/x", &[("Max-Forwards", bad)]).assert_problem(400, "door", "max_forwards");
    }
    ask("OPTIONS", "/x", &[("Max-Forwards", "1"), ("Max-Forwards", "1")]).assert_problem(400, "door", "max_forwards");
    // Of other methods the field says nothing.
    assert_eq!(seen(&ask("GET", "/x", &[("Max-Forwards", "0")]), "max-forwards").as_deref(), Some("0"));
}

#[test]
fn later_minor_versions_are_http_1_1() {
    let backend = Backend::http();
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        routes: [ { path: /*, service: 127.0.0.1, port: $BACKEND } ]
        ";
    let gateway = Gateway::start(&filled(yaml, &[("$BACKEND", backend.port())]));
    let mut client = Client::connect(gateway.port());
    for minor in 2..=9 {
        client.send(format!("POST /{minor} HTTP/1.{minor}\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"));
        let answer = client.answer_to("POST");
        assert_eq!((answer.version.as_str(), answer.status), ("HTTP/1.1", 200));
        assert_eq!((backend.last().version.as_str(), answer.json()["body"].as_str()), ("HTTP/1.1", Some("hi")));
    }
    client.send("GET / HTTP/1.2\r\n\r\n");
    client.answer_to("GET").assert_problem(400, "door", "host");
}
