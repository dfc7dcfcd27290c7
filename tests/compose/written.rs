//! What is refused when a composition is loaded, and where that is said.

use super::yaml;
use crate::harness::*;

/// What `check` says of a composition.
fn said(compose: &str) -> String {
    let backend = Backend::http();
    let files = Files::new();
    let config = yaml(&[("a", &backend), ("b", &backend)], compose).replace("$PORT", "8080");
    files.write("gateway.yaml", config);
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    ran.stdout + &ran.stderr
}

#[test]
fn mistakes_are_said_with_their_place_and_a_hint() {
    for (compose, words) in [
        ("{ calls: {} }", &["1 to 32 calls"][..]),
        ("{ calls: { A: { service: a, path: / } } }", &["no name of a call", "`group`"]),
        ("{ calls: { a: { service: nobody, path: / } } }", &["unknown service `nobody`"]),
        ("{ calls: { a: { service: a, path: x } } }", &["begins with `/`"]),
        ("{ calls: { a: { service: a, path: '/?a=1' } } }", &["`query`"]),
        ("{ calls: { a: { service: a, path: '/a/../b' } } }", &["no path of a call"]),
        ("{ calls: { a: { service: a, path: '/{parts.a.id}' } } }", &["wait for each other: `a` -> `a`"]),
        (
            "{ calls: { a: { service: a, path: '/{parts.b.id}' }, b: { service: b, path: /, when: parts.c != null }, c: { service: b, path: '/{parts.a}' } } }",
            &["wait for each other: `a` -> `b` -> `c` -> `a`"],
        ),
        (
            "{ calls: { user: { service: a, path: /, query: { x: '{parts.usr.id}' } } } }",
            &["no call `usr`", "did you mean `parts.user`"],
        ),
        ("{ calls: { user: { service: a, path: /, when: parts.usr == null } } }", &["no call `usr`", "parts.user"]),
        ("{ calls: { a: { service: a, path: '/{param.sku}' } } }", &["no `{sku}`"]),
        ("{ calls: { a: { service: a, path: '/{item.id}' } } }", &["`for_each`"]),
        ("{ calls: { a: { service: a, path: '/{subjct}' } } }", &["did you mean `{subject}`"]),
        ("{ calls: { a: { service: a, path: '/{' } } }", &["without `}`"]),
        ("{ calls: { a: { service: a, path: /, method: TRACE } } }", &["GET, POST"]),
        ("{ calls: { a: { service: a, path: /, body: { a: 1 } } } }", &["a GET has no body"]),
        ("{ calls: { a: { service: a, path: /, headers: { Host: x } } } }", &["how a message travels"]),
        ("{ calls: { a: { service: a, path: /, max_body: 1GiB } } }", &["16MiB"]),
        ("{ calls: { a: { service: a, path: /, fallback: {} } } }", &["json: []"]),
        ("{ calls: { a: { service: a, path: /, fallback: { json: 1, service: b } } } }", &["of the other kind"]),
        ("{ calls: { a: { service: a, path: /, optional: true, pass_statuses: [404] } } }", &["optional part"]),
        ("{ calls: { a: { service: a, path: /, pass_statuses: [200] } } }", &["between 400 and 599"]),
        ("{ calls: { a: { service: a, path: /, for_each: { in: subject } } } }", &["parts.orders.items"]),
        (
            "{ calls: { a: { service: a, path: /, for_each: { in: parts.b.x, max: 5000 } }, b: { service: b, path: / } } }",
            &["1000"],
        ),
        (
            "{ calls: { a: { service: a, path: /, group: x }, b: { service: b, path: /, group: x.y } } }",
            &["both stand at `x`", "append"],
        ),
        ("{ calls: { a: { service: a, path: / } }, answer: { set_cookie: [b] } }", &["no call `b`"]),
        ("{ calls: { a: { service: a, path: / } } }\n    service: a", &["either a `service` or a `compose`"]),
        ("{ calls: { a: { service: a, path: / } } }\n    rewrite: /x", &["`rewrite` is about one service"]),
        ("{ calls: { a: { service: a, path: /, cache: { ttl: 0s } } } }", &["a ttl of 0 keeps nothing"]),
        ("{ calls: { a: { service: a, path: /, cache: { tll: 1m } } } }", &["ttl"]),
        ("{ calls: { a: { service: a, path: /, cache: 5m } } }", &["cache"]),
        ("{ calls: { a: { service: a, path: /, cache: } } }", &["nothing"]),
        ("{ calls: { a: { service: a, path: /, fallback: { cached: 1h } } } }", &["the call has no `cache`"]),
        ("{ calls: { a: { service: a, path: /, cache: {}, fallback: { cached: 1ms } } } }", &["`cached`"]),
        ("{ calls: { a: { service: a, path: '/{subject}', anonymous: true } } }", &["is made of who asks"]),
        ("{ calls: { a: { service: a, path: /, anonymous: true, client_headers: [Cookie] } } }", &["`cookie` says who asks"]),
        ("{ calls: { a: { service: a, path: / } } }\n    fallback: { json: 1 }", &["at the call"]),
        ("{ calls: { a: { service: a, path: /, group: _meta.x } }, answer: { meta: true } }", &["`_meta` is what"]),
        (
            "{ calls: { a: { service: a, path: /, group: ., for_each: { in: parts.b } }, b: { service: b, path: / } } }",
            &["a list has no fields", "give `group` a name"],
        ),
        ("{ calls: { a: null } }", &["nothing"]),
        ("{ calls: { a: { service: a, path: /, optional: } } }", &["nothing"]),
    ] {
        let said = said(compose);
        for word in words {
            assert!(said.contains(word), "{compose}\n{said}");
        }
        assert!(said.contains("gateway.yaml:"), "{said}");
    }
    assert!(!said("{ calls: { a: { service: a, path: / } } }").contains("error"));
}

#[test]
fn a_services_own_policies_are_not_gone_around() {
    let with = |policies: &str, route: &str| {
        let backend = Backend::http();
        let files = Files::new();
        let config =
            yaml(&[("a", &backend)], &format!("{{ calls: {{ x: {{ service: a, path: / }} }} }}{route}")).replace("$PORT", "8080");
        files.write("gateway.yaml", config.replace("' ] }", &format!("' ], policies: {policies} }}")));
        let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
        ran.stdout + &ran.stderr
    };
    let said = with("{ ip_restriction: { deny: [10.0.0.0/8] } }", "");
    assert!(said.contains("`a` has a `ip_restriction` of its own") && said.contains("ip_restriction: false"), "{said}");
    assert!(with("{ rate_limit: { by: route, limit: 1/s } }", "").contains("`rate_limit` of its own"));
    let fine = with("{ ip_restriction: { deny: [10.0.0.0/8] } }", "\n    policies: { ip_restriction: false }");
    assert!(!fine.contains("error"), "{fine}");
    assert!(!with("{ response_headers: { set: { A: b } } }", "").contains("error"));
    // What is kept from clients is kept from them here, too, or the route says that it need not be.
    for policy in ["reshape: { response: [ { remove: [ /secret ] } ] }", "answer_contract: { schema: { type: object } }"] {
        let name = policy.split(':').next().unwrap();
        let said = with(&format!("{{ {policy} }}"), "");
        assert!(said.contains(&format!("`a` has a `{name}` of its own")) && said.contains("`keep`"), "{said}");
        let fine = with(&format!("{{ {policy} }}"), &format!("\n    policies: {{ {name}: false }}"));
        assert!(!fine.contains("error"), "{fine}");
    }
}

#[test]
fn a_stock_engine_says_that_it_cannot() {
    let backend = Backend::http();
    let files = Files::new();
    let config = yaml(&[("a", &backend)], "{ calls: { a: { service: a, path: / } } }").replace("$PORT", "8080");
    files.write("gateway.yaml", config.replace("workers: 1", "workers: 1, engine: pingora"));
    let ran = portcullis(files.dir(), &["check", "gateway.yaml"]);
    let said = ran.stdout + &ran.stderr;
    assert!(said.contains("`compose` cannot be had with `engine: pingora`"), "{said}");
}
