//! Refusals and errors in the operator's own words, by what clients accept.

use crate::harness::*;

const YAML: &str = "
    listeners: [ { bind: 127.0.0.1:$PORT, h2c: true } ]
    services:
      shop: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      nobody: { endpoints: [ '127.0.0.1:1' ] }
    consumers: [ { name: acme, api_keys: [ { hash: 'sha256:2a97516c354b68848cdbd8f54a226a0a55b21ed138e207ad6c5cbb9c00aa5aea' } ] } ]
    policies:
      error_pages:
        pages:
          - { type: text/html, status: 404, text: '<h1>{{ status }}: gone fishing</h1>' }
          - { type: text/html, file: page.html }
          - { type: application/json, text: '{\"error\": {\"code\": \"{{ reason }}\", \"message\": \"{{ detail }}\"}}' }
    routes:
      - { path: /keys, service: shop, policies: { authn: { api_key: { header: X-API-Key } } } }
      - { path: /pages, service: shop, policies: { cors: { origins: [ 'https://a.example' ] }, ip_restriction: { deny: [ 127.0.0.1 ] } } }
      - { path: /without, service: nobody, policies: { error_pages: false } }
      - { path: /down, service: nobody }
      - path: /closed
        maintenance: { retry_after: 10m, detail: 'Back at <noon>.' }
        policies: { error_pages: { pages: [ { type: text/plain, text: '{{ detail }} In {{ retry_after }} s.' } ] } }
      - { path: /*, service: shop }
";

/// What browsers say.
const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8");

fn start(backend: &Backend) -> Gateway {
    let files = Files::new();
    files.write("page.html", "<p class='{{ reason }}'>{{ title }}: {{ detail }} ({{ request_id }})</p>");
    Gateway::start_in(&files, &filled(YAML, &[("$BACKEND", backend.port())]))
}

fn kind(answer: &Answer) -> &str {
    answer.header("content-type").unwrap_or_default()
}

#[test]
fn clients_are_told_in_what_they_prefer() {
    let backend = Backend::answering(|request| {
        let (status, body) = if request.target == "/missing" { (404, "the service's own") } else { (200, "here") };
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let gateway = start(&backend);
    let mut client = Client::connect(gateway.port());

    let html = client.request("GET", "/keys", &[BROWSER], b"");
    let id = html.header("x-request-id").unwrap().to_owned();
    assert_eq!((html.status, kind(&html)), (401, "text/html; charset=utf-8"));
    assert!(html.text().starts_with("<p class='missing_credentials'>Unauthorized: "), "{}", html.text());
    assert!(html.text().ends_with(&format!(" ({id})</p>")), "{}", html.text());
    assert_eq!(html.header("cache-control"), Some("no-store"));
    assert!(html.header("www-authenticate").is_some());

    // Nobody gets them who does not ask.
    for accept in [&[][..], &[("Accept", "*/*")], &[("Accept", "image/png")], &[("Accept", "application/problem+json")]] {
        client.request("GET", "/keys", accept, b"").assert_problem(401, "authn", "missing_credentials");
    }
    let json = client.request("GET", "/keys", &[("Accept", "application/json")], b"");
    assert_eq!(
        (json.status, kind(&json), &json.json()["error"]["code"]),
        (401, "application/json", &"missing_credentials".into())
    );

    // HEAD announces what GET would have.
    let head = client.request("HEAD", "/keys", &[BROWSER], b"");
    assert_eq!((head.status, kind(&head), head.body.len()), (401, "text/html; charset=utf-8", 0));
    assert_eq!(head.header("content-length"), Some(html.body.len().to_string().as_str()));

    // A failure on the way to a service, and a route without pages of its own or with others.
    assert!(request(gateway.port(), "GET", "/down", &[BROWSER], b"").text().contains("Bad Gateway"));
    request(gateway.port(), "GET", "/without", &[BROWSER], b"").assert_problem(502, "upstream", "connect_failure");
    let closed = request(gateway.port(), "GET", "/closed", &[("Accept", "text/*")], b"");
    assert_eq!((closed.status, closed.text().as_str()), (503, "Back at <noon>. In 600 s."));

    // What pages may read stays so, whatever it looks like.
    let page = request(gateway.port(), "GET", "/pages", &[BROWSER, ("Origin", "https://a.example")], b"");
    assert_eq!((page.status, page.header("access-control-allow-origin")), (403, Some("https://a.example")));
    assert!(page.text().contains("Forbidden"));

    // A service's own errors are its own.
    assert_eq!(request(gateway.port(), "GET", "/missing", &[BROWSER], b"").text(), "the service's own");
}

#[test]
fn every_protocol_and_every_refusal_has_them() {
    let gateway = start(&Backend::http());
    // Before there is a route, and before there is a head.
    let wrong =
        raw(gateway.port(), "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nAccept: text/html\r\nConnection: close\r\n\r\n".as_bytes());
    assert!(wrong.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&wrong));
    let late = curl(&["--http2-prior-knowledge", "-H", "Accept: text/html", &gateway.url("/keys")]);
    assert_eq!((late.status, kind(&late)), (401, "text/html; charset=utf-8"));
    assert!(late.text().contains("Unauthorized"));
    // gRPC knows its own words only.
    let call = curl(&[
        "--http2-prior-knowledge",
        "-H",
        "Accept: text/html",
        "-H",
        "Content-Type: application/grpc",
        "-d",
        "",
        &gateway.url("/keys"),
    ]);
    assert_eq!((call.status, call.header("grpc-status"), call.body.len()), (200, Some("16"), 0));
    let line = gateway.wait_log(|line| line["reason"] == "missing_credentials");
    assert_eq!((&line["status"], &line["answered_by"]), (&401.into(), &"authn".into()));
}

#[test]
fn hosts_without_a_route_have_the_files_pages_and_a_reload_reads_them_anew() {
    let files = Files::new();
    files.write("page.html", "old {{ status }}");
    let yaml = "
        listeners: [ { bind: 127.0.0.1:$PORT } ]
        policies: { error_pages: { pages: [ { type: text/html, file: page.html } ] } }
        routes: [ { path: /here, respond: { body: here } } ]
    ";
    let gateway = Gateway::start_in(&files, yaml);
    let told = || request(gateway.port(), "GET", "/nowhere", &[BROWSER], b"").text();
    assert_eq!(told(), "old 404");
    gateway.files().write("page.html", "new {{ status }}");
    assert_eq!(gateway.reload().0, 200);
    assert_eq!(told(), "new 404");
    // What cannot be read takes no effect.
    gateway.files().write("page.html", "{{ nonsense }}");
    let (status, said) = gateway.reload();
    assert_eq!(status, 422, "{said}");
    assert!(said.to_string().contains("there is no `{{ nonsense }}`"), "{said}");
    assert_eq!(told(), "new 404");
}
