//! Routes that change the path or the host, and map back what the service says of it.

use crate::harness::*;

/// Answers with the fields that the request's `X-Say` fields hold, and with the status in `X-Status`.
fn says() -> Backend {
    Backend::answering(|request| {
        let status = request.header("x-status").unwrap_or("200");
        let fields: String = request.all("x-say").iter().map(|field| format!("{field}\r\n")).collect();
        let early = match request.header("x-early") {
            Some(link) => format!("HTTP/1.1 103 Early Hints\r\nLink: {link}\r\n\r\n"),
            None => String::new(),
        };
        let body = request.target.clone();
        format!("{early}HTTP/1.1 {status} Said\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

const YAML: &str = "
    listeners:
      - { bind: '127.0.0.1:$PORT', $H2C }
      - { bind: '127.0.0.1:$PORT2', trusted_proxies: [ 127.0.0.1 ] }
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      b: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      gone: { endpoints: [ '127.0.0.1:1' ] }
    routes:
      - { path: /shop/*, service: a, strip_prefix: /shop, rewrite_back: true }
      - { path: '/items/{id}', service: a, rewrite: '/v2/items/{id}', rewrite_back: true }
      - { path: '/of/{tenant}/*', service: a, rewrite: '/{tenant}/api/*', rewrite_back: { cookies: false } }
      - { path: /in/*, service: a, strip_prefix: /in, rewrite_host: app.internal, rewrite_back: { origins: [ 'https://old.internal:8443' ] } }
      - { path: /split/*, split: [ { service: a, weight: 1 }, { service: b, weight: 1 } ], strip_prefix: /split, rewrite_back: true }
      - { path: /spare/*, service: gone, strip_prefix: /spare, rewrite_back: true, fallback: { service: a } }
      - { path: /static/*, service: gone, strip_prefix: /static, rewrite_back: true, fallback: { status: 302, headers: { Location: /elsewhere } } }
      - { path: /cached/*, service: a, strip_prefix: /cached, rewrite_back: true, policies: { cache: { ttl: 60s } } }
      - { path: /plain/*, service: a, strip_prefix: /plain }
      - { path: /etag/*, service: a, strip_prefix: /etag, rewrite_back: true, policies: { response_headers: { add: { Link: '</ours>' } } } }
      - { path: /*, service: a }
";

fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&filled(&YAML.replace("$H2C", "h2c: true"), &[("$BACKEND", backend.port())]))
}

/// What the service says, and what its client hears.
fn hears(client: &mut Client, path: &str, said: &str) -> Vec<String> {
    let answer = client.request("GET", path, &[("Host", "shop.example"), ("X-Say", said), ("X-Status", "201")], b"");
    assert_eq!(answer.status, 201, "{path} {said}");
    let name = said.split(':').next().unwrap();
    answer.all(name).into_iter().map(str::to_owned).collect()
}

fn maps_back(gateway: &Gateway, backend: &Backend) {
    let own = format!("http://127.0.0.1:{}/a", backend.port());
    let with_port = format!("http://shop.example:{}/a/", backend.port());
    let mut client = Client::connect(gateway.port());
    for (path, said, heard) in [
        ("/shop/x", "Location: /a?b#c", "/shop/a?b#c"),
        ("/shop/x", &format!("Location: {own}"), "http://shop.example/shop/a"),
        ("/shop/x", &format!("Location: {with_port}"), "http://shop.example/shop/a/"),
        ("/shop/x", "Location: http://shop.example/a", "http://shop.example/shop/a"),
        ("/shop/x", "Location: https://shop.example/a", "https://shop.example/shop/a"),
        ("/shop/x", "Location: https://other.example/a", "https://other.example/a"),
        ("/shop/x", "Location: //other.example/a", "//other.example/a"),
        ("/shop/x", "Location: /\\other.example", "/\\other.example"),
        ("/shop", "Location: login", "/shop/login"),
        ("/shop/x", "Content-Location: /a%2fb", "/shop/a%2fb"),
        ("/shop/x", "Refresh: 3; url=/a", "3; url=/shop/a"),
        (
            "/shop/x",
            "Link: </a>; rel=next, <https://other.example/b>; rel=x",
            "</shop/a>; rel=next, <https://other.example/b>; rel=x",
        ),
        ("/shop/x", "Set-Cookie: a=b; Path=/; HttpOnly", "a=b; Path=/shop; HttpOnly"),
        ("/shop/x", "X-Other: /a", "/a"),
        ("/items/7", "Location: /v2/items/8", "/items/8"),
        ("/items/7", "Location: /v2//other.example", "/v2//other.example"),
        ("/items/7", "Location: /v3/items/8", "/v3/items/8"),
        ("/of/acme/x", "Location: /acme/api/y", "/of/acme/y"),
        ("/of/acme/x", "Location: /other/api/y", "/other/api/y"),
        ("/of/acme/x", "Set-Cookie: a=b; Path=/acme/api", "a=b; Path=/acme/api"),
        ("/in/x", "Location: http://app.internal/a", "http://shop.example/in/a"),
        ("/in/x", "Location: https://old.internal:8443/a", "https://shop.example/in/a"),
        ("/in/x", "Location: http://old.internal:8443/a", "http://old.internal:8443/a"),
        ("/in/x", "Set-Cookie: a=b; Domain=app.internal; Path=/", "a=b; Domain=shop.example; Path=/in"),
        ("/split/x", "Location: /a", "/split/a"),
        ("/spare/x", "Location: /a", "/spare/a"),
        ("/plain/x", "Location: /a", "/a"),
        ("/x", "Location: /a", "/a"),
    ] {
        assert_eq!(hears(&mut client, path, said), [heard], "{path} {said}");
    }
    // Each of several; what the gateway adds is not the service's word.
    let say = [("X-Say", "Set-Cookie: a=1; Path=/"), ("X-Say", "Set-Cookie: b=2"), ("X-Say", "Link: </theirs>")];
    let answer = client.request("GET", "/etag/x", &say, b"");
    assert_eq!(answer.all("set-cookie"), ["a=1; Path=/etag", "b=2"]);
    assert_eq!(answer.all("link"), ["</etag/theirs>", "</ours>"]);
    assert_eq!(client.get("/static/x").header("location"), Some("/elsewhere"));

    // The public name is what the proxy in front says, and a stranger says nothing.
    let forwarded = [
        ("Host", "gate.internal"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "8443"),
        ("X-Status", "302"),
        ("X-Say", "Location: http://gate.internal/a"),
    ];
    let mut trusted = Client::connect(gateway.port2());
    assert_eq!(trusted.request("GET", "/shop/x", &forwarded, b"").header("location"), Some("https://shop.example:8443/shop/a"));
    assert_eq!(client.request("GET", "/shop/x", &forwarded, b"").header("location"), Some("http://gate.internal/shop/a"));

    // What is stored is what the service said: each client hears it in its own words.
    let say = [
        ("Host", "gate.internal"),
        ("X-Say", "Content-Location: http://gate.internal/a"),
        ("X-Say", "Cache-Control: max-age=60"),
    ];
    for (proto, expected) in [("http", "http://gate.internal/cached/a"), ("https", "https://gate.internal/cached/a")] {
        for _ in 0..2 {
            let said = [&say[..], &[("X-Forwarded-Proto", proto)]].concat();
            let answer = trusted.request("GET", "/cached/x", &said, b"");
            assert_eq!(answer.header("content-location"), Some(expected), "{answer:?}");
        }
    }
    assert!(trusted.request("GET", "/cached/x", &say, b"").header("cache-status").is_some_and(|status| status.contains("hit")));
}

#[test]
fn what_a_service_says_of_itself_is_mapped_back() {
    let backend = says();
    let gateway = gateway(&backend);
    maps_back(&gateway, &backend);
    let h2 = |say: &str| curl(&["--http2-prior-knowledge", "-H", &format!("X-Say: {say}"), &gateway.url("/shop/x")]);
    let answer = h2("Location: /a");
    assert_eq!((answer.version.as_str(), answer.header("location")), ("HTTP/2", Some("/shop/a")));
    assert_eq!(h2("Set-Cookie: a=b; Path=/").header("set-cookie"), Some("a=b; Path=/shop"));
    // What is said in between, too.
    let mut client = Client::connect(gateway.port());
    assert_eq!(client.request("GET", "/shop/x", &[("X-Early", "</style.css>; rel=preload")], b"").status, 200);
    assert_eq!(client.interim[0].header("link"), Some("</shop/style.css>; rel=preload"));
    // Nothing of it is remembered by a connection.
    assert_eq!(client.request("GET", "/plain/x", &[("X-Early", "</style.css>")], b"").status, 200);
    assert_eq!(client.interim[0].header("link"), Some("</style.css>"));
}

#[test]
fn the_stock_engine_maps_back_the_same() {
    let backend = says();
    // It passes on no answers of another service.
    let yaml: String =
        YAML.replace("$H2C", "").lines().filter(|line| !line.contains("fallback")).map(|line| format!("{line}\n")).collect();
    let mut yaml = filled(&yaml, &[("$BACKEND", backend.port())]);
    yaml.push_str("    server: { engine: pingora, workers: 2 }\n");
    let gateway = Gateway::start(&yaml);
    let mut client = Client::connect(gateway.port());
    for (path, said, heard) in [
        ("/shop/x", "Location: http://shop.example/a", "http://shop.example/shop/a"),
        ("/shop/x", "Set-Cookie: a=b; Path=/", "a=b; Path=/shop"),
        ("/in/x", "Location: http://app.internal/a", "http://shop.example/in/a"),
    ] {
        assert_eq!(hears(&mut client, path, said), [heard], "{path} {said}");
    }
    assert_eq!(client.get("/shop/x").status, 200);
    assert_eq!(backend.last().header("x-forwarded-prefix"), Some("/shop"));
}

#[test]
fn a_service_is_told_what_its_paths_lack() {
    let backend = says();
    let gateway = gateway(&backend);
    let (mut stranger, mut trusted) = (Client::connect(gateway.port()), Client::connect(gateway.port2()));
    let mut told = |trust: bool, path: &str, prefixes: &[&str]| {
        let fields: Vec<_> = prefixes.iter().map(|prefix| ("X-Forwarded-Prefix", *prefix)).collect();
        let client = if trust { &mut trusted } else { &mut stranger };
        assert_eq!(client.request("GET", path, &fields, b"").status, 200, "{path}");
        backend.last().all("x-forwarded-prefix").join(" | ")
    };
    for (trust, path, prefixes, expected) in [
        (false, "/plain/a", &[][..], "/plain"),
        (false, "/plain", &[], "/plain"),
        (false, "/pl%61in//a", &[], "/plain"),
        (false, "/plain/a", &["/evil"], "/plain"),
        (false, "/x", &["/evil"], ""),
        (false, "/items/7", &["/evil"], ""),
        (true, "/plain/a", &["/outer"], "/outer/plain"),
        (true, "/plain/a", &["/outer/"], "/outer/plain"),
        (true, "/x", &["/outer"], "/outer"),
        // What it says of another path than the service's is not true of that one.
        (true, "/items/7", &["/outer"], ""),
        (true, "/plain/a", &["//evil.example"], "/plain"),
        (true, "/plain/a", &["https://evil.example"], "/plain"),
        (true, "/plain/a", &["/a/../b"], "/plain"),
        (true, "/plain/a", &["/a", "/b"], "/plain"),
        (true, "/plain/a", &["/a, /b"], "/plain"),
        (true, "/plain/a", &["/"], "/plain"),
    ] {
        assert_eq!(told(trust, path, prefixes), expected, "{trust} {path} {prefixes:?}");
    }
}

const DAV: &str = "
    listeners:
      - { bind: '127.0.0.1:$PORT' }
      - { bind: '127.0.0.1:$PORT2', trusted_proxies: [ 127.0.0.1 ] }
    services: { files: { endpoints: [ '127.0.0.1:$BACKEND' ] } }
    routes:
      - { path: /dav/*, service: files, strip_prefix: /dav, rewrite_back: true }
      - { path: /dav/private/*, service: files, strip_prefix: /dav, policies: { authn: { api_key: {} } } }
      - path: /ruled/*
        service: files
        strip_prefix: /ruled
        rewrite_back: true
        policies: { authz: { rules: [ { deny: \"request.path.startsWith('/ruled/private')\" } ] } }
      - { path: '/of/{who}/*', service: files, strip_prefix: '/of/{who}', rewrite_back: true, policies: { rate_limit: { by: 'param:who', limit: 1000/minute } } }
      - { path: /unmapped/*, service: files, strip_prefix: /unmapped }
";

#[test]
fn files_are_copied_and_moved_behind_a_stripped_prefix() {
    let files = Files::new();
    std::fs::create_dir_all(files.dir().join("www/private")).unwrap();
    files.write("www/private/x", "secret");
    let nginx = Nginx::start_in(
        &files,
        &format!(
            "root {}; dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on; dav_access user:rw;",
            files.dir().join("www").display()
        ),
    );
    let gateway = Gateway::start(&filled(DAV, &[("$BACKEND", nginx.port())]));
    let mut client = Client::connect(gateway.port());
    let host = format!("127.0.0.1:{}", gateway.port());
    let mut ask = |method: &str, path: &str, destination: &str| {
        client.request(method, path, &[("Destination", destination), ("Content-Length", "0")], b"")
    };
    assert_eq!(request(gateway.port(), "PUT", "/dav/a.txt", &[], b"hello").status, 201);
    // The way it fails without.
    assert!(ask("COPY", "/unmapped/a.txt", &format!("http://{host}/unmapped/none/b.txt")).status >= 400);
    assert_eq!(ask("COPY", "/dav/a.txt", &format!("http://{host}/dav/b.txt")).status, 204);
    assert_eq!(ask("MOVE", "/dav/b.txt", "/dav/c%20d.txt").status, 204);
    assert_eq!(get(gateway.port(), "/dav/c%20d.txt").text(), "hello");
    assert_eq!(get(gateway.port(), "/dav/b.txt").status, 404);
    assert!(files.dir().join("www/c d.txt").exists());
    // A client of TLS that somebody else ends names what nginx would not take for its own.
    let fields = [("Host", "dav.example"), ("X-Forwarded-Proto", "https"), ("Destination", "https://dav.example/dav/tls.txt")];
    assert_eq!(request(gateway.port2(), "COPY", "/dav/a.txt", &fields, b"").status, 204);
    assert_eq!(get(gateway.port(), "/dav/tls.txt").text(), "hello");

    // What another route protects, or this one's rules, is not reached by naming it as a destination.
    for destination in [
        "/dav/private/x",
        "/dav/./private/x",
        "/dav//private/x",
        "/dav/%70rivate/x",
        "/dav/x/../private/x",
        "/unmapped/x",
        "/elsewhere",
        "http://other.example/dav/x",
        "https://127.0.0.1/dav/x",
        "ftp://127.0.0.1/dav/x",
    ] {
        ask("COPY", "/dav/a.txt", destination).assert_problem(502, "route", "foreign_destination");
    }
    for destination in ["x", "", "//evil.example/dav/x", "/dav/%zz", "/dav/../../x", "/dav/x#y", "http://u@h/dav/x", "/dav/a b"] {
        ask("MOVE", "/dav/a.txt", destination).assert_problem(400, "route", "malformed_destination");
    }
    ask("COPY", "/dav/a.txt", "/dav/x%2Fprivate").assert_problem(400, "route", "ambiguous_path");
    let twice = [("Destination", "/dav/x"), ("Destination", "/dav/private/x")];
    request(gateway.port(), "COPY", "/dav/a.txt", &twice, b"").assert_problem(400, "route", "malformed_destination");
    let mut client = Client::connect(gateway.port());
    let mut ask = |path: &str, destination: &str| client.request("COPY", path, &[("Destination", destination)], b"").status;
    assert_eq!(ask("/ruled/a.txt", "/ruled/e.txt"), 204);
    assert_eq!(ask("/ruled/a.txt", "/ruled/private/x"), 403);
    assert_eq!(ask("/of/me/a.txt", "/of/me/f.txt"), 204);
    assert_eq!(ask("/of/me/a.txt", "/of/you/f.txt"), 502);
    assert_eq!(std::fs::read_to_string(files.dir().join("www/private/x")).unwrap(), "secret");
    assert_eq!(get(gateway.port(), "/dav/a.txt").text(), "hello");
}

#[test]
fn resources_beside_conditions_are_mapped() {
    let backend = says();
    let gateway = Gateway::start(&filled(DAV, &[("$BACKEND", backend.port())]));
    let conditions = "<http://h.example/dav/a> (<urn:uuid:1> [\"<x>\"]) </dav/private/x> (Not <urn:uuid:2>) <http://o.example/dav/b> ([\"e\"])";
    request(gateway.port(), "PUT", "/dav/a", &[("Host", "h.example"), ("If", conditions)], b"x");
    let mapped = "</a> (<urn:uuid:1> [\"<x>\"]) </dav/private/x> (Not <urn:uuid:2>) <http://o.example/dav/b> ([\"e\"])";
    assert_eq!(backend.last().all("if"), [mapped]);
    request(gateway.port(), "PUT", "/unmapped/a", &[("Host", "h.example"), ("If", conditions)], b"x");
    assert_eq!(backend.last().all("if"), [conditions]);
}

#[test]
fn what_cannot_be_mapped_back_is_said() {
    let files = Files::new();
    for (route, said) in [
        ("{ path: /a, respond: { body: x }, rewrite_back: true }", "no answer here is one service's"),
        ("{ path: /a, service: h, port: 1, rewrite_back: { origins: [ app.internal ] } }", "this is no origin"),
        ("{ path: /a, service: h, port: 1, rewrite_back: { origins: [ 'http://h/path' ] } }", "this is no origin"),
        ("{ path: /a, service: h, port: 1, rewrite_back: { fields: [ X ] } }", "unknown key"),
        ("{ path: /a, service: h, port: 1, rewrite_back: yes please }", "true, false, or a map"),
    ] {
        files.write("bad.yaml", format!("listeners: [ {{ bind: '127.0.0.1:1' }} ]\nroutes: [ {route} ]\n"));
        let ran = portcullis(files.dir(), &["check", "-c", "bad.yaml"]);
        assert!(ran.stderr.contains(said) || ran.stdout.contains(said), "{route}: {} {}", ran.stdout, ran.stderr);
    }
}
