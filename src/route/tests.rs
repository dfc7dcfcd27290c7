//! The table against cases by hand, and against a linear search that is too slow to be wrong.

use proptest::prelude::*;

use super::pattern::{HostPattern, PathPattern, Segment};
use super::predicate::Facts;
use super::*;
use crate::head::RequestHead;
use crate::problem::{Problems, Severity};

fn matchers(routes: &[&str]) -> Vec<Matcher> {
    let mut problems = Problems::default();
    let compile = |yaml: &&str| Matcher::compile(&serde_yaml::from_str(yaml).unwrap(), &mut problems).unwrap();
    routes.iter().map(compile).collect()
}

fn build(routes: &[&str]) -> (RouteTable, Problems) {
    let mut problems = Problems::default();
    (RouteTable::build(matchers(routes).into_iter().enumerate(), &mut problems), problems)
}

fn table(routes: &[&str]) -> RouteTable {
    let (table, problems) = build(routes);
    assert!(!problems.has_errors(), "{problems:?}");
    table
}

/// `GET /a` with headers, as the route's number, `405 ...` or `404`.
fn ask(table: &RouteTable, request: &str, headers: &[(&str, &str)]) -> String {
    let (method, target) = request.split_once(' ').unwrap();
    let head = RequestHead::build(method, target, headers);
    match table.find(&head) {
        Found::Route { index, params, rest } => {
            let params: Vec<_> = params.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            let rest = if rest.is_empty() { String::new() } else { format!(" *={rest}") };
            format!("{index}{}{rest}", params.concat())
        }
        Found::MethodNotAllowed { allow } => format!("405 {}", allow.to_str().unwrap()),
        Found::NotFound => "404".to_owned(),
    }
}

#[test]
fn the_more_specific_path_wins() {
    let table = table(&[
        "path: /*",
        "path: /a/*",
        "path: /a/{x}",
        "path: /a/b",
        "path: /a/{x}/c",
        "path: /a/b/*",
        "path: /a/b/d/{y}",
        "path: /{s}/b/c",
    ]);
    for (path, expected) in [
        ("/", "0 *=/"),
        ("/z", "0 *=/z"),
        ("/ab", "0 *=/ab"),
        ("/a", "1"),
        ("/a/", "1 *=/"),
        ("/a/b", "3"),
        ("/a/b/", "5 *=/"),
        ("/a/z", "2 x=z"),
        ("/a/z/c", "4 x=z"),
        // `/a/b/*` is static for longer than `/a/{x}/c`.
        ("/a/b/c", "5 *=/c"),
        ("/a/b/d/e", "6 y=e"),
        // Backtracks out of /a/b/d.
        ("/a/b/d/", "5 *=/d/"),
        ("/a/z/d", "1 *=/z/d"),
        ("/q/b/c", "7 s=q"),
        ("/q/b/d", "0 *=/q/b/d"),
    ] {
        assert_eq!(ask(&table, &format!("GET {path}"), &[]), expected, "{path}");
    }
}

#[test]
fn a_prefix_ends_at_a_slash_and_a_slash_counts() {
    let table = table(&["path: /x/*", "path: /a", "path: /b/", "path: /c/{p}", "path: /d/{p}/"]);
    for (path, expected) in [
        ("/xy", "404"),
        ("/x", "0"),
        ("/x/", "0 *=/"),
        ("/a/", "404"),
        ("/b", "404"),
        ("/b/", "2"),
        ("/c/", "404"),
        ("/c", "404"),
        ("/c/a%2Fb", "3 p=a%2Fb"),
        ("/d/e", "404"),
        ("/d/e/", "4 p=e"),
        ("*", "404"),
    ] {
        assert_eq!(ask(&table, &format!("GET {path}"), &[]), expected, "{path}");
    }
}

#[test]
fn the_host_is_chosen_first_and_for_good() {
    let table = table(&[
        "path: /*",
        "path: /a\nhost: x.example.com",
        "path: /b\nhost: '*.example.com'",
        "path: /c\nhost: '*.x.example.com'",
        "path: /d\nhost: '[::1]'",
        "path: /e\nhost: ['*', e.example]",
    ]);
    for (host, path, expected) in [
        ("x.example.com", "/a", "1"),
        ("X.example.com.", "/a", "1"),
        ("x.example.com", "/b", "404"),
        ("y.example.com", "/b", "2"),
        ("y.z.example.com", "/b", "2"),
        ("y.x.example.com", "/c", "3"),
        ("y.x.example.com", "/b", "404"),
        ("example.com", "/b", "0 *=/b"),
        (".example.com", "/b", "0 *=/b"),
        ("", "/b", "0 *=/b"),
        ("e.example", "/e", "5"),
        ("e.example", "/f", "404"),
        ("other", "/e", "5"),
    ] {
        assert_eq!(ask(&table, &format!("GET {path}"), &[("Host", host)]), expected, "{host} {path}");
    }
    let mut head = RequestHead::build("GET", "/d", &[]);
    head.host = "[::1]".into();
    assert!(matches!(table.find(&head), Found::Route { index: 4, .. }));
    head.host = format!("{}example.com", "a.".repeat(500));
    assert!(matches!(table.find(&head), Found::Route { index: 0, .. }));
}

#[test]
fn failed_predicates_fall_through() {
    let table = table(&[
        "path: /a",
        "path: /a\nversion: 2",
        "path: /a\nversion: 2\nquery: { beta: { present: true } }",
        "path: /*\nheaders: { X-Any: '1' }",
        "path: /a/{x}\ndevice: [mobile, tablet]",
        "path: /a/{x}\ndevice: bot",
    ]);
    assert_eq!(ask(&table, "GET /a", &[]), "0");
    assert_eq!(ask(&table, "GET /a", &[("api-version", "2")]), "1");
    assert_eq!(ask(&table, "GET /a?beta", &[("api-version", "2")]), "2");
    assert_eq!(ask(&table, "GET /a?beta", &[]), "0");
    assert_eq!(ask(&table, "GET /a/b", &[]), "404");
    assert_eq!(ask(&table, "GET /a/b", &[("x-any", "1")]), "3 *=/a/b");
    assert_eq!(ask(&table, "GET /a/b", &[("x-any", "1"), ("sec-ch-ua-mobile", "?1")]), "4 x=b");
    assert_eq!(ask(&table, "GET /a/b", &[("user-agent", "Googlebot/2.1")]), "5 x=b");
}

#[test]
fn not_allowed_only_if_nothing_but_the_method_failed() {
    let table = table(&[
        "path: /a\nmethods: [GET, POST]",
        "path: /a\nmethods: DELETE\nheaders: { X: '1' }",
        "path: /b\nmethods: GET",
        "path: /b\nmethods: PUT",
        "path: /c\nmethods: GET",
        "path: /c/*",
        "path: /d\nmethods: PUT\nheaders: { X: '1' }",
        "path: /{p}\nmethods: PATCH",
    ]);
    for (request, header, expected) in [
        ("GET /a", "0", "0"),
        ("HEAD /a", "0", "0"),
        ("PUT /a", "0", "405 GET, HEAD, POST, PATCH"),
        ("OPTIONS /a", "1", "405 GET, HEAD, POST, PATCH, DELETE"),
        ("DELETE /a", "1", "1"),
        ("DELETE /a", "0", "405 GET, HEAD, POST, PATCH"),
        ("PATCH /a", "0", "7 p=a"),
        ("POST /b", "0", "405 GET, HEAD, PUT, PATCH"),
        ("POST /c", "0", "5"),
        ("PUT /d", "0", "405 PATCH"),
        ("get /b", "0", "405 GET, HEAD, PUT, PATCH"),
        ("GET /x/y", "0", "404"),
    ] {
        assert_eq!(ask(&table, request, &[("x", header)]), expected, "{request}");
    }
}

#[test]
fn predicates_that_fail_make_it_404() {
    let table = table(&["path: /d\nmethods: PUT\nheaders: { X: '1' }"]);
    assert_eq!(ask(&table, "PUT /d", &[]), "404");
    assert_eq!(ask(&table, "GET /d", &[]), "404");
    assert_eq!(ask(&table, "GET /d", &[("x", "1")]), "405 PUT");
}

#[test]
fn reports_ties() {
    let severity = |routes: &[&str]| {
        let (_, problems) = build(routes);
        let list: Vec<_> = problems.iter().map(|problem| problem.severity).collect();
        list
    };
    let fine: [&[&str]; 7] = [
        &["path: /a", "path: /a/"],
        &["path: /a", "path: /a\nmethods: GET"],
        &["path: /a\nmethods: GET", "path: /a\nmethods: POST"],
        &["path: /a\nversion: 1", "path: /a\nversion: 2"],
        &["path: /a\nhost: a", "path: /a\nhost: b"],
        &["path: /a/{x}", "path: /a/*"],
        &["path: /a\ndevice: bot", "path: /a\ndevice: [mobile, tablet]"],
    ];
    for routes in fine {
        assert_eq!(severity(routes), [], "{routes:?}");
    }
    let tied: [&[&str]; 4] = [
        &["path: /a\nversion: 1", "path: /a\nmethods: GET"],
        &["path: /a/{x}\nmethods: [GET, POST]", "path: /a/{y}\nmethods: [GET, PUT]"],
        &["path: /a\nmethods: GET", "path: /a\nmethods: HEAD"],
        &["path: /a\nhost: [a, b]\nversion: 1", "path: /a\nhost: [b, c]\nheaders: { X: y }"],
    ];
    for routes in tied {
        assert_eq!(severity(routes), [Severity::Warning], "{routes:?}");
    }
    let lost: [&[&str]; 6] = [
        &["path: /a", "path: /a"],
        &["path: /a", "path: /%61"],
        &["path: /a/{x}/*", "path: /a/{y}/*"],
        &["path: /a\nhost: [a, b]", "path: /a\nhost: [b, c]"],
        &["path: /a\nversion: 1", "path: /a\nheaders: { api-version: 1 }"],
        &["id: x\npath: /a", "id: x\npath: /b"],
    ];
    for routes in lost {
        assert_eq!(severity(routes), [Severity::Error], "{routes:?}");
    }
    assert_eq!(severity(&["path: /a", "id: /a\npath: /b"]), [Severity::Error]);
}

#[test]
fn many_routes_on_one_path_load_quickly() {
    let yaml: Vec<String> = (0..3000).map(|number| format!("path: /a\nheaders: {{ tenant: t{number} }}")).collect();
    let yaml: Vec<&str> = yaml.iter().map(String::as_str).collect();
    let (table, problems) = build(&yaml);
    assert!(problems.is_empty());
    assert_eq!(ask(&table, "GET /a", &[("tenant", "t2999")]), "2999");
}

/// How specific a matching pattern is, segment by segment: smaller is first.
fn rank(pattern: &PathPattern) -> Vec<u8> {
    let kinds = pattern.segments.iter().map(|segment| u8::from(matches!(segment, Segment::Param(_))));
    kinds.chain([if pattern.prefix { 2 } else { 0 }]).collect()
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let long_enough =
        if pattern.prefix { segments.len() >= pattern.segments.len() } else { segments.len() == pattern.segments.len() };
    long_enough
        && pattern.segments.iter().zip(&segments).all(|(segment, text)| match segment {
            Segment::Static(wanted) => **wanted == **text,
            Segment::Param(_) => !text.is_empty(),
        })
}

fn host_rank(host: &HostPattern, asked: &str) -> Option<usize> {
    match host {
        HostPattern::Exact(name) => (**name == *asked).then_some(usize::MAX),
        HostPattern::Wildcard(suffix) => asked.strip_suffix(&**suffix)?.strip_suffix('.').map(|_| suffix.len()),
        HostPattern::Any => Some(0),
    }
}

fn naive(matchers: &[Matcher], head: &RequestHead) -> String {
    let best = matchers.iter().flat_map(|matcher| &matcher.hosts).filter_map(|host| host_rank(host, &head.host)).max();
    let facts = Facts::new(head);
    let mut candidates: Vec<(usize, &Matcher)> = matchers
        .iter()
        .enumerate()
        .filter(|(_, matcher)| matcher.hosts.iter().any(|host| best.is_some() && host_rank(host, &head.host) == best))
        .filter(|(_, matcher)| path_matches(&matcher.path, &head.path) && matcher.conditions.predicates_hold(&facts))
        .collect();
    candidates.sort_by_key(|(at, matcher)| (rank(&matcher.path), std::cmp::Reverse(matcher.conditions.count()), *at));
    match candidates.iter().find(|(_, matcher)| matcher.conditions.method_passes(&head.method)) {
        Some((at, _)) => at.to_string(),
        None if candidates.is_empty() => "404".into(),
        None => "405".into(),
    }
}

fn route() -> impl Strategy<Value = String> {
    let segment = prop_oneof![3 => Just("a"), 2 => Just("b"), 3 => Just("{}")];
    let end = prop_oneof![3 => Just(""), 1 => Just("/"), 2 => Just("/*")];
    let host = prop_oneof![6 => Just(""), 1 => Just("host: x.y\n"), 1 => Just("host: '*.y'\n"), 1 => Just("host: ['*', z.x.y]\n"), 1 => Just("host: '*.x.y'\n")];
    let rest = prop_oneof![
        3 => Just(""),
        1 => Just("methods: GET\n"),
        1 => Just("methods: [POST, PUT]\n"),
        1 => Just("headers: { h: '1' }\n"),
        1 => Just("headers: { h: { present: false } }\nmethods: POST\n"),
        1 => Just("query: { q: '1' }\nheaders: { h: '1' }\n"),
    ];
    (proptest::collection::vec(segment, 0..4), end, host, rest).prop_map(|(segments, end, host, rest)| {
        let named = |(at, segment): (usize, &&str)| segment.replace("{}", &format!("{{p{at}}}"));
        let path = segments.iter().enumerate().map(named).map(|segment| format!("/{segment}")).collect::<String>() + end;
        let path = if path.is_empty() { "/" } else { &path };
        format!("path: '{path}'\n{host}{rest}")
    })
}

proptest! {
    #[test]
    fn finds_what_a_linear_search_finds(
        routes in proptest::collection::vec(route(), 1..24),
        requests in proptest::collection::vec(
            (
                prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("DELETE")],
                proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("ab")], 0..5),
                prop_oneof![2 => Just(""), 1 => Just("/")],
                prop_oneof![Just(""), Just("?q=1"), Just("?q=2&q=1")],
                prop_oneof![Just("x.y"), Just("w.x.y"), Just("z.x.y"), Just("v.y"), Just("y"), Just("")],
                prop_oneof![Just("1"), Just("2"), Just("")],
            ),
            1..24,
        ),
    ) {
        let yaml: Vec<&str> = routes.iter().map(String::as_str).collect();
        let matchers = matchers(&yaml);
        let (table, _) = build(&yaml);
        for (method, segments, end, query, host, header) in requests {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect::<String>() + end;
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let headers: &[(&str, &str)] = if header.is_empty() { &[("host", host)] } else { &[("host", host), ("h", header)] };
            let head = RequestHead::build(method, &format!("{path}{query}"), headers);
            let found = match table.find(&head) {
                Found::Route { index, params, rest } => {
                    let pattern = &matchers[index as usize].path;
                    // What was taken, put back, gives the path.
                    let mut values = params.iter().map(|(_, value)| *value);
                    let fill = |segment: &Segment| match segment {
                        Segment::Static(text) => format!("/{text}"),
                        Segment::Param(_) => format!("/{}", values.next().unwrap()),
                    };
                    let again: String = pattern.segments.iter().map(fill).collect::<String>() + rest;
                    prop_assert_eq!(&again, &path);
                    index.to_string()
                }
                Found::MethodNotAllowed { .. } => "405".into(),
                Found::NotFound => "404".into(),
            };
            prop_assert_eq!(found, naive(&matchers, &head), "{} {} {}", method, path, host);
        }
    }
}
