//! What is said of a file whose connections cannot go where it says.

use crate::harness::*;

/// What `check` says of this file, which has a listener for everything.
fn said(files: &Files, more: &str) -> (i32, String) {
    let yaml = format!(
        "listeners:
  - {{ name: raw, bind: '127.0.0.1:6000', protocol: tcp }}
  - {{ name: plain, bind: '127.0.0.1:8080' }}
  - {{ name: https, bind: '127.0.0.1:8443', tls: {{ certificates: [ {{ cert: cert0.pem, key: key0.pem }} ] }} }}
  - {{ name: opened, bind: '127.0.0.1:8444', protocol: tcp, tls: {{ certificates: [ {{ cert: cert0.pem, key: key0.pem }} ] }} }}
services:
  db: {{ endpoints: [ '127.0.0.1:5432' ] }}
  guarded: {{ endpoints: [ '127.0.0.1:5432' ], policies: {{ authz: {{ scopes: [ a ] }} }} }}
  sealed: {{ endpoints: [ 'sealed.invalid:5432' ], tls: true }}
routes: [ {{ path: /*, service: db, listeners: [ plain, https ] }} ]
{more}"
    );
    files.write("tcp.yaml", yaml);
    let ran = portcullis(files.dir(), &["check", "tcp.yaml"]);
    (ran.code, ran.stdout + &ran.stderr)
}

fn files() -> Files {
    let files = Files::new();
    files.certificate(&["example.org"]);
    files
}

#[test]
fn what_is_right_passes() {
    let (code, said) = said(
        &files(),
        "tcp_routes:
  - { listeners: [ raw, opened ], service: db, max_connections: 10, timeouts: { idle: 10m, lifetime: 12h }, send_proxy_protocol: v2 }
  - { listeners: raw, sni: [ a.example.org, '*.example.org' ], service: db }
  - { listeners: opened, sni: a.example.org, service: db, passthrough: true }
  - { listeners: https, sni: [ b.example.org ], service: localhost, port: 5432, passthrough: true }
  - { listeners: raw, sni: c.test, split: [ { service: db, weight: 90% }, { service: localhost, port: 5432, weight: 10% } ], sticky: client_address }
  - { id: all, listeners: raw, sni: '*', service: db, max_connections_per_address: 5, bandwidth: { upload: 1KiB, download: 10GiB }, timeouts: { half_closed: 5m }, policies: { ip_restriction: { allow: [ 10.0.0.0/8 ] }, address_limit: false } }
",
    );
    assert!(code == 0 && said.contains("ok (4 listeners"), "{said}");
}

#[test]
fn every_problem_is_told_at_its_place() {
    let files = files();
    for (route, told, hint) in [
        ("{ listeners: row, service: db }", "unknown listener `row`", "did you mean `raw`?"),
        ("{ listeners: raw, service: bd }", "unknown service `bd`", "did you mean `db`?"),
        ("{ listeners: [], service: db }", "`listeners` is empty", "name the listeners"),
        ("{ listeners: plain, service: db }", "`plain` is a listener for plain HTTP", "protocol: tcp"),
        ("{ listeners: https, service: db, passthrough: true }", "would leave nothing to it", "`sni`"),
        ("{ listeners: https, sni: '*', service: db, passthrough: true }", "would leave nothing to it", "`sni`"),
        ("{ listeners: https, sni: a.b, service: db }", "serves as HTTPS what it decrypts", "passthrough: true"),
        ("{ listeners: raw, sni: a.b, service: db, passthrough: false }", "has no `tls`", "leave `passthrough` out"),
        ("{ listeners: raw, sni: 'a_*', service: db }", "a star stands for the leftmost labels only", ""),
        ("{ listeners: raw, sni: [], service: db }", "an empty list says nothing here", "leave the key out"),
        ("{ listeners: raw, service: db, max_connections: 0 }", "`max_connections` is 0", ""),
        ("{ listeners: raw, service: db, timeouts: { idle: 1ms } }", "`idle`", ""),
        ("{ listeners: raw, service: db, timeouts: { lifetime: 31d } }", "`lifetime`", ""),
        ("{ listeners: raw, service: db, close_on_unhealthy: true }", "has no `health_check`", "tcp: true"),
        ("{ listeners: raw, service: db, send_proxy_protocol: v3 }", "v3", ""),
        (
            "{ listeners: raw, service: db, policies: { authn: { api_key: {} } } }",
            "`authn` is about requests",
            "`ip_restriction` and `address_limit`",
        ),
        ("{ listeners: raw, service: db, policies: { cashe: {} } }", "unknown policy `cashe`", "did you mean `cache`?"),
        ("{ listeners: raw, service: db, path: /a }", "unknown key `path`", ""),
        ("{ listeners: raw, service: db, port: 5432 }", "already says its ports", ""),
        ("{ listeners: raw, service: db, sni: null }", "sni", ""),
        ("{ service: db }", "listeners", ""),
        ("{ listeners: raw }", "nothing answers this route", "`service: NAME`, or a `split`"),
        ("{ listeners: raw, split: [] }", "an empty list says nothing here", ""),
        ("{ listeners: raw, service: db, sticky: client_address }", "`sticky` has a meaning for a `split` only", ""),
        ("{ listeners: raw, split: [ { service: db, weight: 1 } ], sticky: { header: A } }", "sticky", ""),
        ("{ listeners: raw, service: db, split: [ { service: db, weight: 1 } ] }", "not both", ""),
        ("{ listeners: raw, split: [ { service: db, weight: 0 } ] }", "no target of this split has a weight", ""),
        ("{ listeners: raw, split: [ { service: bd, weight: 1 } ] }", "unknown service `bd`", "did you mean `db`?"),
        (
            "{ listeners: raw, split: [ { service: db, weight: 1 }, { service: db, weight: 1 } ] }",
            "stands in this split twice",
            "",
        ),
        ("{ listeners: raw, service: db, max_connections_per_address: 0 }", "`max_connections_per_address` is 0", ""),
        ("{ listeners: raw, service: db, timeouts: { half_closed: 10ms } }", "`half_closed`", ""),
        ("{ listeners: raw, service: db, bandwidth: { upload: 1000 } }", "`upload` is 1000 bytes a second", ""),
        ("{ listeners: raw, service: db, bandwidth: { download: 2TiB } }", "`download`", "1KiB and 1TiB"),
        ("{ id: \"a\\u0007\", listeners: raw, service: db }", "printable", ""),
        (
            "{ listeners: raw, sni: a.b, service: db }\n  - { id: two, listeners: raw, sni: [ c.d, A.b. ], service: db }",
            "already takes `a.b` on listener `raw`",
            "one way",
        ),
        (
            "{ listeners: raw, service: db }\n  - { id: two, listeners: raw, service: db }",
            "already takes what no other takes",
            "one way",
        ),
        ("{ listeners: raw, service: db }\n  - { listeners: raw, service: db }", "the same id, `raw`", "another `id`"),
    ] {
        let (code, said) = said(&files, &format!("tcp_routes:\n  - {route}\n"));
        assert!(code == 1 && said.contains(told) && said.contains(hint) && said.contains("tcp_routes["), "{route}\n{said}");
    }
}

#[test]
fn what_is_about_requests_has_no_place_on_such_a_listener() {
    let files = files();
    let check = |listener: &str, more: &str| {
        files.write("tcp.yaml", format!("listeners: [ {{ name: raw, bind: '127.0.0.1:6000', {listener} }} ]\n{more}"));
        let ran = portcullis(files.dir(), &["check", "tcp.yaml"]);
        (ran.code, ran.stdout + &ran.stderr)
    };
    let route = "tcp_routes: [ { listeners: raw, service: a, port: 1 } ]\n";
    for key in [
        "redirect: https",
        "h2c: true",
        "via: a",
        "trusted_identity: [ 10.0.0.1 ]",
        "limits: { body: 1KiB }",
        "timeouts: { header: 1s }",
    ] {
        let (code, said) = check(&format!("protocol: tcp, {key}"), route);
        let last = key
            .split([':', '{'])
            .map(str::trim)
            .rfind(|word| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'));
        assert!(code == 1 && said.contains("is about requests, and this listener has `protocol: tcp`"), "{key} {last:?}\n{said}");
    }
    let (code, said) = check("protocol: tcp", "routes: [ { path: /a, listeners: raw, respond: { status: 200 } } ]\n");
    assert!(code == 1 && said.contains("serves no requests"), "{said}");
    let (code, said) = check("protocol: tcp", "");
    assert!(
        code == 0 && said.contains("no route takes this listener's connections") && !said.contains("there is no route"),
        "{said}"
    );
    let (code, said) = check("protocol: udp", route);
    assert!(code == 1 && said.contains("udp"), "{said}");
    let (code, said) = check("protocol: tcp", &format!("{route}server: {{ engine: pingora }}\n"));
    assert!(code == 1 && said.contains("`tcp_routes` cannot be had with `engine: pingora`"), "{said}");
    assert!(said.contains("`protocol: tcp` cannot be had with `engine: pingora`"), "{said}");
}

#[test]
fn what_will_hardly_be_meant_is_a_warning() {
    let files = files();
    let (code, text) = said(&files, "tcp_routes: [ { listeners: [ raw, opened ], service: guarded } ]\n");
    assert!(code == 0 && text.contains("`authz` of service `guarded` is about requests"), "{text}");
    let (code, text) =
        said(&files, "tcp_routes: [ { listeners: [ raw ], sni: a.b, service: sealed }, { listeners: opened, service: db } ]\n");
    assert!(code == 0 && text.contains("inside of the gateway's"), "{text}");
}
