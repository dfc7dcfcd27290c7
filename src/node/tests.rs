//! Attacks on parsing and decoding together, for a place is only right if both agree.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::{Node, decode, parse, redacted_json};
use crate::problem::{Place, Problems};
use crate::value::{OneOrMany, Period, Raw, Secret, Size, Spanned};

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "PASSWORD" => Some("hunter2".to_owned()),
        "BAD" => Some("not a number".to_owned()),
        _ => None,
    }
}

fn read(yaml: &str) -> (Option<std::sync::Arc<Node>>, Vec<String>) {
    let mut problems = Problems::default();
    let root = parse(yaml, &env, &mut problems);
    (root, said(&mut problems))
}

fn said(problems: &mut Problems) -> Vec<String> {
    problems.sort();
    let one = |problem: &crate::problem::Problem| {
        let hint = problem.hint.as_ref().map(|hint| format!(" [{hint}]")).unwrap_or_default();
        format!("{problem}{hint}")
    };
    problems.iter().map(one).collect()
}

fn decoded<T: serde::de::DeserializeOwned>(yaml: &str) -> (Option<T>, Vec<String>) {
    let mut problems = Problems::default();
    let value = parse(yaml, &env, &mut problems).and_then(|root| decode(&root, &mut problems));
    (value, said(&mut problems))
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Route {
    path: Spanned<String>,
    #[serde(default)]
    methods: OneOrMany<Method>,
    port: Option<u16>,
    timeout: Option<Period>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize, PartialEq, Clone, Copy)]
enum Method {
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "POST")]
    Post,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Limits {
    body: Option<Size>,
    strict: bool,
    pair: Option<(u8, String)>,
    weights: BTreeMap<String, f64>,
    balance: Option<Balance>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Balance {
    RoundRobin,
    Hash { by: String },
    Fixed(u8),
}

#[derive(Debug, Deserialize)]
struct Document {
    routes: Vec<Route>,
    #[serde(default)]
    services: BTreeMap<String, Route>,
    version: Option<String>,
}

#[test]
fn reads_every_shape() {
    let yaml = r#"
version: 2
routes:
  - path: "/x"
    methods: GET
    port: ${PORT}
    timeout: 2s
  - { path: /y, methods: [GET, POST], port: "${PORT}", limits: { body: 64KiB, strict: true, pair: [1, 2], weights: { a: 1, b: 2.5 } } }
  - path: 5
    limits: { balance: { hash: { by: ip } } }
  - { path: /z, limits: { balance: round_robin } }
  - { path: /z, limits: { balance: { fixed: 3 } } }
"#;
    let (document, problems) = decoded::<Document>(yaml);
    assert_eq!(problems, Vec::<String>::new());
    let document = document.unwrap();
    assert_eq!(document.version.as_deref(), Some("2"));
    let [first, second, third, fourth, fifth] = document.routes.as_slice() else { panic!("five routes") };
    assert_eq!(first.path.place, Place { line: 4, column: 11, width: 4 });
    assert_eq!((first.port, first.methods.0.as_slice()), (Some(8080), [Method::Get].as_slice()));
    assert_eq!((second.port, second.methods.len(), second.limits.body), (Some(8080), 2, Some(Size(65_536))));
    assert_eq!(second.limits.pair, Some((1, "2".to_owned())));
    assert_eq!(second.limits.weights.get("b"), Some(&2.5));
    assert_eq!((third.path.as_str(), third.path.place.line), ("5", 9));
    assert_eq!(third.limits.balance, Some(Balance::Hash { by: "ip".to_owned() }));
    assert_eq!(fourth.limits.balance, Some(Balance::RoundRobin));
    assert_eq!((fifth.limits.balance.as_ref(), fifth.port), (Some(&Balance::Fixed(3)), None));
}

#[test]
fn collects_every_problem_once() {
    let yaml = r#"routes:
  - path: /x
    methods: [GTE, POST]
    prot: 1
    timeout: 5 parsecs
  - methods: GET
  - path: /y
    port: 70000
    limits: { strict: yes, body: [], pair: [1, 2, 3], weights: { a: b }, balance: hsh }
  - path: [1]
services:
  a: { pth: /x }
  b: nothing
"#;
    let (document, problems) = decoded::<Document>(yaml);
    assert_eq!(
        problems,
        [
            "3:15: unknown value `GTE` [did you mean `GET`?]",
            "4:5: unknown key `prot` [did you mean `port`?]",
            "5:14: expected a duration such as 500ms or 2s, found `5 parsecs`",
            "6:5: missing required key `path`",
            "8:11: expected a whole number from 0 to 65535, found `70000`",
            "9:23: expected true or false, found `yes` [YAML 1.2 knows only `true` and `false`]",
            "9:34: expected a size such as 64KiB, 10MB or a number of bytes, found a list",
            "9:44: expected a list of 2 items, found 3 items",
            "9:69: expected a number, found `b`",
            "9:83: unknown value `hsh` [did you mean `hash`?]",
            "10:11: expected a string, found a list",
            "12:8: unknown key `pth` [did you mean `path`?]",
            "13:6: expected a map, found `nothing`",
        ]
    );
    // What could be left out was; routes and services that cannot be had are gone.
    let document = document.unwrap();
    assert_eq!((document.routes.len(), document.services.len()), (2, 0));
}

#[test]
fn says_what_is_missing_or_of_the_wrong_kind() {
    for (yaml, said) in [
        ("", "1:1: missing required key `routes`"),
        ("routes:", "1:8: expected a list, found nothing [give it a value, or remove the key]"),
        ("routes: 5", "1:9: expected a list, found `5`"),
        ("routes: { a: b }", "1:9: expected a list, found a map"),
        ("[]", "1:1: expected a map, found a list"),
        (
            "routes: [ { path: /, port: \"80\" } ]",
            "1:28: expected a whole number from 0 to 65535, found the string `\"80\"` [remove the quotes]",
        ),
        ("routes: [ { path: /, port: 1.5 } ]", "1:28: expected a whole number from 0 to 65535, found `1.5`"),
        ("routes: [ { path: / , timeout: 5 } ]", "1:32: expected a duration such as 500ms or 2s, found `5`, which has no unit"),
        ("routes: [ { path: ~ } ]", "1:19: expected a string, found nothing [give it a value, or remove the key]"),
        (
            "routes: [ { path: /, port: ~ } ]",
            "1:28: expected a whole number from 0 to 65535, found nothing [give it a value, or remove the key]",
        ),
        (
            "routes: [ { path: /, timeout: } ]",
            "1:30: expected a duration such as 500ms or 2s, found nothing [give it a value, or remove the key]",
        ),
        (
            "routes: [ { path: /, methods: [] } ]",
            "1:31: an empty list says nothing here [leave the key out, or write what belongs in the list]",
        ),
    ] {
        assert_eq!(decoded::<Document>(yaml).1, [said], "{yaml}");
    }
}

#[test]
fn never_says_what_the_environment_holds() {
    let (_, problems) = decoded::<Document>("routes: [ { path: /, port: \"${BAD}\", timeout: \"${PASSWORD}\" } ]");
    assert_eq!(
        problems,
        [
            "1:28: expected a whole number from 0 to 65535, found `${BAD}`",
            "1:47: expected a duration such as 500ms or 2s, found `${PASSWORD}`",
        ]
    );
    #[derive(Debug, Deserialize)]
    struct Keys {
        #[allow(dead_code)]
        password: Period,
        #[allow(dead_code)]
        other: Secret,
    }
    let (_, problems) = decoded::<Keys>("{ password: hunter2, other: hunter2 }");
    assert_eq!(
        problems,
        [
            "1:13: expected a duration such as 500ms or 2s, found [redacted]",
            "1:29: a secret must not be written in the configuration [name an environment variable as \"${NAME}\", or a file as { file: path }]",
        ]
    );
}

#[test]
fn refuses_in_the_file_what_would_hide_a_mistake() {
    for (yaml, said) in [
        ("a: 1\nb: 2\na: 3", "3:1: the key `a` stands twice in the same map [it stands on line 1 already: remove one of them]"),
        ("a: 1\n---\nb: 2", "2:1: a second document begins here"),
        ("a: !include x", "1:13: the tag `!include` has no meaning here"),
        ("a: !!binary x", "the tag `!!binary` has no meaning here"),
        ("a: ${NOPE}", "1:4: the environment variable `NOPE` is not set [set it, or give a default: ${NOPE:-default}]"),
        ("a: ${NOPE", "1:4: `${` must be followed by a variable's name and a closing brace"),
        ("a: &x [*x]", "1:8: this alias stands inside the value that it names"),
        ("? [a]\n: b", "1:3: a key must be a word"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "3:3: merge keys (`<<`) are not supported"),
        ("a: b\0c: d", "1:5: the file holds a control character (U+0000)"),
        ("a: b\n\tc: d", "a tab cannot be used here [indent with spaces]"),
        ("hosts: [*.example.com]", "`*` and `&` begin an alias and an anchor"),
        ("a: b: c", "1:5: a `:` is out of place"),
        ("a: \"b", "a quote is not closed"),
        ("a: [b\nc: d", "or its closing bracket?"),
        ("a:\n  - b\n c: d", "the indentation of this line does not fit"),
        ("{ port: ${PORT} }", "inside { } and [ ] a reference needs quotes"),
        ("a: @b", "a value cannot begin with this character [put the value in quotes]"),
        ("a\nb: c", "or the one above without its `:`"),
        ("x: 1\na\nb: c", "this line should be `key: value`"),
    ] {
        let (_, problems) = read(yaml);
        assert!(problems.len() == 1 && problems.concat().contains(said), "{yaml:?}: {problems:?}, wanted {said}");
    }
}

#[test]
fn bounds_nesting_and_expansion() {
    let deep = "[".repeat(100) + &"]".repeat(100);
    assert!(read(&deep).1.concat().contains("levels deep"));
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let inner = format!("*a{},", level - 1).repeat(10);
        writeln!(laughs, "a{level}: &a{level} [{inner}]").unwrap();
    }
    assert!(read(&laughs).1.concat().contains("unfold to too much"));
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..80 {
        writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    assert!(read(&chain).1.concat().contains("unfold to too much"));
    let many: String = (0..1000).map(|n| format!("a{n}: ${{NOPE}}\n")).collect();
    assert_eq!(read(&many).1.len(), 100);
}

#[test]
fn finds_duplicate_keys_in_maps_of_every_size() {
    for size in [2, 15, 16, 17, 18, 500] {
        let mut yaml: String = (0..size).map(|n| format!("k{n}: 1\n")).collect();
        yaml.push_str("k1: 2\nlast: 3\n");
        let (root, problems) = read(&yaml);
        assert!(problems.len() == 1 && problems.concat().contains("`k1` stands twice"), "{size}: {problems:?}");
        assert_eq!(root.unwrap().entries().len(), size + 1);
    }
}

#[test]
fn aliases_stand_for_what_they_name() {
    let (root, problems) = read("a: &x { b: [1, 2] }\nc: *x\nd: &s text\ne: *s");
    assert!(problems.is_empty(), "{problems:?}");
    let root = root.unwrap();
    assert_eq!(root.get("c").and_then(|c| c.get("b")).map(|b| b.items().len()), Some(2));
    assert_eq!(root.get("e").and_then(Node::as_str), Some("text"));
}

#[test]
fn an_empty_file_is_an_empty_map() {
    for yaml in ["", "\n\n", "# nothing\n", "---\n", "\u{feff}", "~"] {
        let (root, problems) = read(yaml);
        assert!(problems.is_empty() && root.is_some_and(|root| matches!(root.kind, super::Kind::Map(_))), "{yaml:?}");
    }
}

#[test]
fn finds_paths_by_place() {
    let yaml = "routes:\n  - path: /x\n    policies:\n      cors: { origins: [a, 日本] }\n      empty:\n  - &r path: \"/y z\"\nodd.key: 1\n";
    let (root, _) = read(yaml);
    let root = root.unwrap();
    let path = |line, column, width| root.path_of(Place { line, column, width });
    assert_eq!(root.path_of(root.place), None);
    assert_eq!(path(2, 5, 4).as_deref(), Some("routes[0].path"));
    assert_eq!(path(2, 11, 2).as_deref(), Some("routes[0].path"));
    assert_eq!(path(4, 28, 2).as_deref(), Some("routes[0].policies.cors.origins[1]"));
    assert_eq!(path(4, 7, 4).as_deref(), Some("routes[0].policies.cors"));
    assert_eq!(path(5, 13, 1).as_deref(), Some("routes[0].policies.empty"));
    assert_eq!(path(6, 15, 1).as_deref(), Some("routes[1].path"));
    assert_eq!(path(7, 1, 7).as_deref(), Some("[\"odd.key\"]"));
    assert_eq!(path(99, 1, 1), None);
    let places = [Place { line: 4, column: 7, width: 4 }, Place::NOWHERE, Place { line: 4, column: 28, width: 2 }];
    let found: Vec<bool> = root.paths_of(&places).iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, true]);
    let route = root.get("routes").and_then(|routes| routes.items().first()).unwrap();
    assert_eq!(root.path_of(route.place).as_deref(), Some("routes[0]"));
}

#[test]
fn shows_the_document_without_its_secrets() {
    let yaml = r#"
url: redis://me:hunter2@db
port: 80
on: true
from_env: ${PASSWORD}
mixed: "x-${PASSWORD}"
password: "{hunter2}"
also: { client_secret: "${PASSWORD}", token: { file: t.txt }, api_key: { header: X-Key }, keys: [hunter2, { hash: hunter2, name: n }] }
defaulted: { secret: "${NOPE:-hunter2}" }
users: { passwords: { a: hunter2 } }
tls: { cert: c.pem, key: k.pem }
jwks_url: https://id/keys
request_headers:
  set: { X-Backend: hunter2, x-pin: 4711, Cache-Control: no-store, X-Who: "{consumer}", X-Env: "${PASSWORD}", X-Part: "v-{consumer}", file: hunter2 }
  add: { X-Other: "x-${PASSWORD}", Content-Security-Policy: default-src }
  remove: [ X-Debug ]
response_headers: { set: { Strict-Transport-Security: max-age=1, X-Token: hunter2 } }
headers: { X-Origin: hunter2, X-Edge: { prefix: hunter2 }, X-There: { present: true }, Accept: text/html }
query: { key: hunter2 }
limits: { headers: 100 }
log: { query: true }
urls: [ "https://hunter2@git/x", "https://${PORT}:${PASSWORD}@db/", "https://id/keys?p=hunter2", "/check?access_token=hunter2", "https://id/@scope" ]
rules:
  - { deny: "request.headers['x-origin'] != 'hunter2' && request.path == \"hunter2\"", message: no }
  - { allow: "'x-tier' in request.headers || 'it\\'s hunter2' == request.query.a[0]" }
  - { allow: "request.path.startsWith('/a')" }
"#;
    let (root, problems) = read(yaml);
    assert!(problems.is_empty(), "{problems:?}");
    let hidden = super::redact::REDACTED;
    let wanted = serde_json::json!({
        "url": hidden, "port": 80, "on": true, "from_env": "${PASSWORD}", "mixed": "x-${PASSWORD}", "password": hidden,
        "also": {
            "client_secret": "${PASSWORD}", "token": { "file": "t.txt" }, "api_key": { "header": "X-Key" },
            "keys": [hidden, { "hash": hidden, "name": "n" }],
        },
        "defaulted": { "secret": hidden },
        "users": { "passwords": { "a": hidden } },
        "tls": { "cert": "c.pem", "key": "k.pem" },
        "jwks_url": "https://id/keys",
        "request_headers": {
            "set": {
                "X-Backend": hidden, "x-pin": hidden, "Cache-Control": "no-store", "X-Who": "{consumer}", "X-Env": "${PASSWORD}",
                "X-Part": hidden, "file": hidden,
            },
            "add": { "X-Other": hidden, "Content-Security-Policy": "default-src" },
            "remove": ["X-Debug"],
        },
        "response_headers": { "set": { "Strict-Transport-Security": "max-age=1", "X-Token": hidden } },
        "headers": {
            "X-Origin": hidden, "X-Edge": { "prefix": hidden }, "X-There": { "present": true }, "Accept": "text/html",
        },
        "query": { "key": hidden },
        "limits": { "headers": 100 },
        "log": { "query": true },
        "urls": [
            hidden, "https://${PORT}:${PASSWORD}@db/", "https://id/keys?[redacted]", hidden, "https://id/@scope",
        ],
        "rules": [
            { "deny": "request.headers['x-origin'] != '[redacted]' && request.path == \"[redacted]\"", "message": "no" },
            { "allow": "'x-tier' in request.headers || '[redacted]' == request.query.a[0]" },
            { "allow": "request.path.startsWith('/a')" },
        ],
    });
    assert_eq!(redacted_json(&root.unwrap()), wanted);
}

#[test]
fn raw_values_keep_their_places() {
    let (raw, problems) = decoded::<BTreeMap<Spanned<String>, Raw>>("a: 1\nb:\n  rate: 5 parsecs");
    assert!(problems.is_empty());
    let raw = raw.unwrap();
    let places: Vec<u32> = raw.keys().map(|key| key.place.line).collect();
    assert_eq!(places, [1, 2]);
    let mut problems = Problems::default();
    let later = raw.values().nth(1).unwrap();
    assert!(decode::<BTreeMap<String, Period>>(&later.0, &mut problems).is_some_and(|map| map.is_empty()));
    assert_eq!(said(&mut problems), ["3:9: expected a duration such as 500ms or 2s, found `5 parsecs`"]);
    assert!(serde_json::from_str::<Raw>("null").is_err());
}

#[test]
fn lists_of_pairs_keep_the_order() {
    let (pairs, problems) = decoded::<Vec<(String, u8)>>("z: 1\na: 2");
    assert_eq!((pairs, problems.len()), (Some(vec![("z".to_owned(), 1), ("a".to_owned(), 2)]), 0));
    assert_eq!(decoded::<Vec<(String, u8)>>("z: 1\na: x").1, ["2:4: expected a whole number from 0 to 255, found `x`"]);
    let (by_number, _) = decoded::<BTreeMap<u16, bool>>("80: true");
    assert_eq!(by_number.unwrap().get(&80), Some(&true));
}

/// Routes like a large file's, with `bad` of them wrong.
pub(crate) fn large(routes: usize, bad: usize) -> String {
    let mut yaml = "services:\n".to_owned();
    for n in 0..routes / 10 {
        writeln!(yaml, "  s{n}: {{ path: /s{n}, port: 80 }}").unwrap();
    }
    yaml.push_str("routes:\n");
    for n in 0..routes {
        let timeout = if bad != 0 && n % (routes / bad) == routes / bad - 1 { "5 parsecs" } else { "5s" };
        writeln!(yaml, "  - path: /api/v{}/item-{n}/*\n    methods: [GET, POST]\n    port: 9001", n % 7).unwrap();
        writeln!(yaml, "    timeout: {timeout}\n    limits: {{ body: 64KiB, strict: true }}").unwrap();
    }
    yaml
}

#[test]
fn many_problems_in_a_large_file_stay_cheap_and_bounded() {
    let started = std::time::Instant::now();
    let (document, problems) = decoded::<Document>(&large(5_000, 50));
    assert_eq!((document.map(|document| document.routes.len()), problems.len()), (Some(5_000), 50));
    let (document, problems) = decoded::<Document>(&large(5_000, 500));
    assert!(document.is_none() && problems.len() == 101, "{}", problems.len());
    let (_, problems) = decoded::<Document>(&large(3_000, 0).replace("port", "prot"));
    assert_eq!(problems.len(), 101);
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

proptest::proptest! {
    #[test]
    fn no_text_brings_the_parser_down(text in "[-a:#\\[\\]{}&*!|>'\"%@`,? \n\t$\\\\0]{0,60}") {
        let mut problems = Problems::default();
        if let Some(root) = parse(&text, &env, &mut problems) {
            let _ = decode::<Document>(&root, &mut problems);
            let _ = redacted_json(&root);
        }
        let _ = crate::report::render(&problems, "f", &text, None, true);
    }
}
