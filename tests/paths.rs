//! One path, several spellings: what a backend takes for a protected path meets its protection, or is refused.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::*;

const ROUTES: &str = "
    listeners: [ { bind: '127.0.0.1:$PORT', h2c: true } ]
    services:
      a: { endpoints: [ '127.0.0.1:$BACKEND' ] }
      b: { endpoints: [ '127.0.0.1:$BACKEND' ] }
    routes:
      - { path: /admin/*, service: a, policies: { authn: { api_key: {} } } }
      - { path: '/users/{id}/secrets', service: a, policies: { authn: { api_key: {} } } }
      - { path: '/colon/users%3Aexport', service: a, policies: { authn: { api_key: {} } } }
      - { path: /npm/*, service: a }
      - { path: '/items/{id}', service: a }
      - { path: '/items/{id}/parts', service: a }
      - { path: '/items/{id}/stock', service: b }
      - { path: '/items/{id}/price', service: a, methods: [PUT] }
      - { path: '/projects/{id}', service: a, ambiguous_paths: keep }
      - { path: /strict/*, service: a, ambiguous_paths: refuse }
      - { path: /objects/*, service: a, merge_slashes: false }
      - { path: /stripped/*, service: a, strip_prefix: /stripped, merge_slashes: false }
      - { path: '/tenants/{tenant}/*', service: a, policies: { rate_limit: { by: 'param:tenant', limit: 1000/minute } } }
      - { path: /rules/*, service: a, policies: { authz: { rules: [ { deny: \"request.path.startsWith('/rules/internal')\" } ] } } }
      - { path: /asked/*, service: a, policies: { external_auth: { url: 'http://127.0.0.1:$BACKEND/judge' } } }
      - { path: /cached/*, service: a, merge_slashes: false, policies: { cache: { ttl: 60s } } }
      - { path: /*, service: a }
";

/// The status, and the reason of a refusal.
fn outcome(answer: &Answer) -> String {
    match answer.status {
        200 => "200".to_owned(),
        status => format!("{status} {}", answer.json()["reason"].as_str().unwrap()),
    }
}

/// What is asked, and what becomes of it: the target that arrives, or a refusal.
const CASES: &[(&str, &str)] = &[
    // One spelling, in routes as in requests.
    ("/admin/users:export", "401 missing_credentials"),
    ("/admin/users%3Aexport", "401 missing_credentials"),
    ("/%61dmin/users", "401 missing_credentials"),
    ("//admin//users", "401 missing_credentials"),
    ("/colon/users:export", "401 missing_credentials"),
    ("/colon/users%3aexport", "401 missing_credentials"),
    ("/a%3A%40%21%24%26%27%28%29%2A%2B%2C%3Db", "/a:@!$&'()*+,=b"),
    // Another reading meets another protection.
    ("/admin%2Fusers", "400 ambiguous_path"),
    ("/admin%2fusers", "400 ambiguous_path"),
    ("/%2Fadmin", "400 ambiguous_path"),
    ("/admin%5Cusers", "400 ambiguous_path"),
    ("/admin;x=1/users", "400 ambiguous_path"),
    ("/admin%3Bx=1/users", "400 ambiguous_path"),
    ("/;/admin", "400 ambiguous_path"),
    ("/admin%252Fusers", "400 ambiguous_path"),
    ("/%2561dmin/users", "400 ambiguous_path"),
    ("/open/%252e%252e/admin", "400 ambiguous_path"),
    ("/users/7/secrets;x", "400 ambiguous_path"),
    ("/users%2F7%2Fsecrets", "400 ambiguous_path"),
    ("/npm/..%2Fadmin", "400 path_hidden_traversal"),
    ("/npm/..%3Bx/admin", "400 path_hidden_traversal"),
    // It makes no difference, and goes as it came.
    ("/npm/@scope%2fname", "/npm/@scope%2fname"),
    ("/npm/%40scope%2Fname", "/npm/@scope%2Fname"),
    ("/any/group%2Fproject/issues;v=1", "/any/group%2Fproject/issues;v=1"),
    ("/any/a%5cb%3bc%2541", "/any/a%5cb%3bc%2541"),
    // Another route of the same policies and service makes none; another service does.
    ("/items/7%2Fparts", "/items/7%2Fparts"),
    ("/items/7%2Fstock", "400 ambiguous_path"),
    // It would go to the open route, which is before the same service.
    ("/items/7%2Fprice", "/items/7%2Fprice"),
    // As the route says.
    ("/projects/group%2Fproject", "/projects/group%2Fproject"),
    ("/strict/a%2Fb", "400 ambiguous_path"),
    ("/strict/a;b", "400 ambiguous_path"),
    ("/strict//a", "400 ambiguous_path"),
    ("/strict/a%20b/c:d", "/strict/a%20b/c:d"),
    ("/any//b", "/any/b"),
    ("/objects//b///c//", "/objects//b///c//"),
    ("/objects/https://example.com//x", "/objects/https://example.com//x"),
    ("/objects/a//../b", "400 ambiguous_path"),
    ("//stripped//a//b", "//a//b"),
    // By what policies look at.
    ("/tenants/acme/a%2Fb", "/tenants/acme/a%2Fb"),
    ("/tenants/acme;x=1/a", "400 ambiguous_path"),
    ("/tenants/acme%2Fx/a", "400 ambiguous_path"),
    ("/rules/internal/x", "403 rule_denied"),
    ("/rules/internal%2Fx", "403 rule_denied"),
    ("/rules/;x/internal", "400 ambiguous_path"),
    ("/rules/%2Finternal", "400 ambiguous_path"),
    ("/rules/a%2Fb", "/rules/a%2Fb"),
    ("/asked/a", "/asked/a"),
    ("/asked/a%2Fb", "400 ambiguous_path"),
];

fn gateway(backend: &Backend) -> Gateway {
    let yaml = ROUTES;
    let port = backend.port().to_string();
    Gateway::start(&yaml.replace("$BACKEND", &port))
}

#[test]
fn each_spelling_meets_what_it_means() {
    let backend = Backend::http();
    let gateway = gateway(&backend);
    for (target, expected) in CASES {
        let seen = backend.requests().len();
        for answer in
            [get(gateway.port(), target), curl(&["--http2-prior-knowledge", "--path-as-is", "--globoff", &gateway.url(target)])]
        {
            if expected.starts_with('/') {
                assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                assert_eq!(answer.json()["target"], *expected, "{target}");
            } else {
                assert_eq!(outcome(&answer), *expected, "{target}");
            }
        }
        let arrived = backend.requests().len() - seen;
        assert!(expected.starts_with('/') || arrived == 0, "{target}: what is refused reached the backend");
    }
    let line = gateway.wait_log(|line| line["path"] == "/admin%2Fusers");
    assert_eq!((&line["status"], &line["reason"]), (&400.into(), &"ambiguous_path".into()), "{line}");
}

#[test]
fn the_cache_knows_one_spelling_and_every_kept_one() {
    let backend = Backend::http();
    let gateway = gateway(&backend);
    for (target, asked) in [
        ("/cached/a:b", true),
        ("/cached/a%3Ab", false),
        ("/cached/./a%3ab", false),
        // They go to the backend as they came, which may tell them apart.
        ("/cached//a:b", true),
        ("/cached/a%2Fb", true),
        ("/cached/a%2Fb", false),
        ("/cached/a%2fb", true),
    ] {
        let before = backend.requests().len();
        assert_eq!(get(gateway.port(), target).status, 200, "{target}");
        assert_eq!(backend.requests().len() - before, usize::from(asked), "{target}");
    }
}

#[test]
fn no_spelling_gets_past_the_protection() {
    let backend = Backend::http();
    let gateway = gateway(&backend);
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(spelling(), proptest::collection::vec(step(), 0..8)), |(target, steps)| {
        let answer = get(gateway.port(), &target);
        if answer.status != 200 {
            return Ok(());
        }
        let arrived = answer.json()["target"].as_str().unwrap().to_owned();
        let mut read = arrived.clone().into_bytes();
        for step in &steps {
            read = step.take(&read);
            let text = String::from_utf8_lossy(&read).into_owned();
            prop_assert!(!is_protected(&text), "{target} arrived as {arrived}, which {steps:?} read as {text}");
        }
        Ok(())
    });
    outcome.unwrap();
}

fn is_protected(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    matches!(segments.as_slice(), ["", "admin", ..] | ["", "users", _, "secrets"])
}

/// What backends do to a path.
#[derive(Debug, Clone, Copy)]
enum Step {
    Decode,
    Cut,
    Turn,
    Merge,
    Dots,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Decode), Just(Step::Cut), Just(Step::Turn), Just(Step::Merge), Just(Step::Dots)]
}

impl Step {
    fn take(self, path: &[u8]) -> Vec<u8> {
        match self {
            Step::Decode => decode(path),
            Step::Turn => path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
            Step::Cut => {
                let segments = path.split(|byte| *byte == b'/');
                segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap()).collect::<Vec<_>>().join(&b'/')
            }
            Step::Merge => {
                let mut merged = path.to_vec();
                merged.dedup_by(|one, other| *one == b'/' && *other == b'/');
                merged
            }
            Step::Dots => {
                let mut kept: Vec<&[u8]> = Vec::new();
                for segment in path.split(|byte| *byte == b'/') {
                    match segment {
                        b"." => {}
                        b".." if kept.len() > 1 => drop(kept.pop()),
                        b".." => {}
                        segment => kept.push(segment),
                    }
                }
                kept.join(&b'/')
            }
        }
    }
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        let escaped = (*byte == b'%').then(|| after.get(..2)).flatten();
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(value.unwrap_or(*byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// A protected path, written in some way.
fn spelling() -> impl Strategy<Value = String> {
    let words = prop_oneof![Just("admin/users"), Just("admin"), Just("users/7/secrets"), Just("open/../admin")];
    let letters = words.prop_flat_map(|words| words.chars().map(letter).collect::<Vec<_>>());
    (slash(), letters, prop_oneof![Just(""), Just("/"), Just(";x"), Just("%2F"), Just("/x%2f..")])
        .prop_map(|(slash, letters, end)| format!("/{}{}{end}", slash.trim_start_matches('/'), letters.concat()))
}

fn letter(letter: char) -> BoxedStrategy<String> {
    if letter == '/' {
        return slash().prop_map(str::to_owned).boxed();
    }
    let code = u32::from(letter);
    prop_oneof![
        20 => Just(letter.to_string()),
        1 => Just(format!("%{code:02x}")),
        1 => Just(format!("%25{code:02X}")),
        1 => Just(format!("%2525{code:02X}")),
    ]
    .boxed()
}

fn slash() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "/",
        "/",
        "/",
        "//",
        "%2F",
        "%2f",
        "%5C",
        "%252F",
        "%255c",
        "/./",
        "/x/../",
        "/;a/",
        ";v=1/",
        ";v%2F",
        "%3Bv/",
        "%253B/",
        "/%2e/",
        "/x/%2e%2e/",
        "/x/..;/",
        "/x%2F..%2F",
        "/x/%252e%252e/",
        "/x;y=/../",
        "/.%2F",
        "%2F%2F",
    ])
}

#[test]
fn check_says_where_a_spelling_is_never_met() {
    let files = Files::new();
    let check = |route: &str| {
        let yaml = format!("listeners: [ {{ bind: 127.0.0.1:1 }} ]\nroutes: [ {{ service: localhost, port: 1, {route} }} ]\n");
        portcullis(files.dir(), &["check", files.write("gateway.yaml", yaml).to_str().unwrap()])
    };
    let rule = |path: &str| format!("path: /*, policies: {{ authz: {{ rules: [ {{ deny: \"request.path == '{path}'\" }} ] }} }}");
    let ran = check(&rule("/users%3Aexport"));
    assert!(ran.code == 0 && ran.stderr.contains("no request's path holds `/users%3Aexport`"), "{ran:?}");
    assert!(ran.stderr.contains("write `/users:export`"), "{ran:?}");
    let ran = check("path: /maps;v=1/*");
    assert!(ran.code == 0 && ran.stderr.contains("some services read this path otherwise"), "{ran:?}");
    for good in [&*rule("/users:export"), &rule("/a%20b"), "path: /maps;v=1/*, ambiguous_paths: keep", "path: /users%3Aexport"] {
        let ran = check(good);
        assert!(ran.code == 0 && !ran.stderr.contains("path"), "{good}: {ran:?}");
    }
    for bad in ["ambiguous_paths: maybe", "merge_slashes: 1"] {
        let ran = check(&format!("path: /*, {bad}"));
        assert!(ran.code == 1 && ran.stderr.contains(bad), "{bad}: {ran:?}");
    }
}
