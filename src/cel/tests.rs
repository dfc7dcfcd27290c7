use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::exchange::{Identity, RouteName};

fn compiled(source: &str, kind: Kind) -> Result<Expression, Vec<String>> {
    let mut problems = Problems::default();
    let expression = Expression::compile(source, Place::NOWHERE, &mut problems, kind);
    let said = problems.iter().map(|problem| format!("{} {}", problem.message, problem.hint.as_deref().unwrap_or_default()));
    let said: Vec<String> = said.collect();
    assert_eq!(expression.is_some(), said.is_empty(), "{source}: {said:?}");
    expression.ok_or(said)
}

fn rule(source: &str) -> Expression {
    compiled(source, Kind::Bool).unwrap_or_else(|said| panic!("{source}: {said:?}"))
}

fn complaint(source: &str) -> String {
    compiled(source, Kind::Bool).expect_err(source).remove(0)
}

fn request() -> RequestHead {
    RequestHead::build(
        "POST",
        "/shops/7/orders?page=2&role=user&role=admin&empty&q=a%20b+c%2",
        &[("host", "Shop.example"), ("X-Tenant", "acme"), ("accept", "text/html"), ("Accept", "text/plain")],
    )
}

fn exchange() -> Exchange {
    let mut exchange = Exchange::for_tests();
    exchange.route = Some(RouteName { names: Arc::new("/shops/{shop}/*"), number: 0 });
    exchange.params.push(("shop".into(), "7".into()));
    exchange.identity = Some(Arc::new(Identity {
        consumer: Some("acme".into()),
        method: "jwt",
        subject: "ada".into(),
        scopes: vec!["orders:read".into(), "orders:write".into()],
        groups: vec!["staff".into()],
        plan: Some("pro".into()),
        claims: Some(Arc::new(json!({
            "email_verified": true, "age": 41, "big": u64::MAX, "score": 0.5, "nothing": null,
            "realm_access": { "roles": ["editor", "admin"] }, "https://example.com/tenant": "acme",
        }))),
        ..Identity::default()
    }));
    exchange
}

fn holds(source: &str) -> Result<bool, RuleError> {
    rule(source).bool(&request(), &exchange())
}

#[test]
fn reads_everything_there_is_to_know() {
    for source in [
        "request.method == 'POST' && request.path == '/shops/7/orders' && request.host == 'shop.example'",
        "request.headers['x-tenant'] == 'acme' && request.headers['X-TENANT'] == 'acme' && request.headers.accept.contains('html')",
        "request.headers.accept == 'text/html, text/plain'",
        "has(request.headers.accept) && !has(request.headers.cookie) && 'host' in request.headers && !('cookie' in request.headers)",
        "request.headers.exists(name, name == 'x-tenant' && request.headers[name] == 'acme') && request.headers.size() == 3",
        "request.query.page == ['2'] && 'admin' in request.query.role && request.query.role.size() == 2 && request.query.empty[0] == ''",
        "request.query.q[0] == 'a b c%2' && !has(request.query.none)",
        "request.client == '192.0.2.1' && cidr('192.0.2.0/24').containsIP(request.client) && !cidr('10.0.0.0/8').containsIP(request.client)",
        "request.protocol == 'HTTP/1.1' && request.scheme == 'http' && request.tls_version == '' && request.server_name == ''",
        "request.listener == 'test' && request.content_length == 0 && request.time > 1700000000",
        "timestamp(request.time).getFullYear() >= 2024",
        "identity.authenticated && identity.consumer == 'acme' && identity.method == 'jwt' && identity.subject == 'ada'",
        "'orders:read' in identity.scopes && identity.groups.exists(it, it.startsWith('st')) && identity.plan in ['pro', 'team']",
        "identity.claims.email_verified && identity.claims.age > 40 && identity.claims.score == 0.5 && identity.claims.nothing == null",
        "'admin' in identity.claims.realm_access.roles && identity.claims['https://example.com/tenant'] == 'acme'",
        "has(identity.claims.realm_access.roles) && !has(identity.claims.realm_access.none)",
        "identity.claims.exists(name, name == 'age')",
        "route.id == '/shops/{shop}/*' && route.params.shop == '7' && int(route.params['shop']) == 7",
        "request.path.matches('^/shops/[0-9]+/') && !request.path.matches('[A-Z]')",
        "identity.scopes.map(it, it.split(':')[0]).all(it, it == 'orders') && identity.scopes.filter(it, it.endsWith('write')).size() == 1",
    ] {
        assert_eq!(holds(source), Ok(true), "{source}");
    }
    let number = |source: &str| compiled(source, Kind::Int).unwrap().int(&request(), &exchange());
    assert_eq!(number("request.method == 'POST' ? 5 : 1"), Ok(5));
    assert_eq!(number("int(route.params.shop) * 2"), Ok(14));
    assert_eq!(number("identity.claims.big"), Err(RuleError::Result));
    assert_eq!(number("identity.claims.score"), Err(RuleError::Result));
}

#[test]
fn what_is_not_there_is_an_error_and_never_an_answer() {
    for (source, error) in [
        ("request.headers.cookie == ''", RuleError::Missing),
        ("request.headers[request.path] == ''", RuleError::Missing),
        ("request.query.page[1] == '2'", RuleError::Missing),
        ("identity.claims.none", RuleError::Missing),
        ("identity.claims.realm_access.none == 1", RuleError::Missing),
        ("identity.claims.age == 41 && identity.claims.age.startsWith('4')", RuleError::Type),
        ("identity.claims.age", RuleError::Result),
        ("identity.claims.age / 0 == 1", RuleError::Arithmetic),
        ("identity.claims.age * 9223372036854775807 > 1", RuleError::Arithmetic),
        ("int(request.path) == 1", RuleError::Conversion),
        ("cidr('10.0.0.0/8').containsIP(request.path)", RuleError::Conversion),
    ] {
        assert_eq!(holds(source), Err(error), "{source}");
    }
    // CEL's own rule: what decides a condition alone makes up for the other side.
    assert_eq!(holds("identity.claims.none == 1 || request.method == 'POST'"), Ok(true));
    assert_eq!(holds("identity.claims.none == 1 && request.method == 'GET'"), Ok(false));
}

#[test]
fn anonymous_clients_are_empty_and_not_missing() {
    let rule = rule("!identity.authenticated && identity.consumer == '' && identity.scopes == [] && !has(identity.claims.sub)");
    assert_eq!(rule.bool(&request(), &Exchange::for_tests()), Ok(true));
}

#[test]
fn a_wrong_expression_is_a_problem_of_the_configuration() {
    for (source, part) in [
        ("", "empty"),
        ("request.method ==", "no CEL expression"),
        ("request.method = 'GET'", "no CEL expression"),
        ("request.metod == 'GET'", "did you mean `request.method`?"),
        ("method == 'GET'", "did you mean `request.method`?"),
        ("reqest.method == 'GET'", "did you mean `request.method`?"),
        ("jwt.sub == 'x'", "unknown variable `jwt.sub`"),
        ("request == 1", "not a value of its own"),
        ("identity.claims.exists(request, requestt == 'x')", "unknown variable `requestt`"),
        ("request.path.startwith('/a')", "did you mean `startsWith`?"),
        ("request.path.replace('a', 'b') == ''", "unknown function `replace`"),
        ("system('x')", "unknown function `system`"),
        ("request.path.matches(request.query.q[0])", "literal text"),
        ("request.path.matches('(')", "no regular expression"),
        ("request.path.matches('(a{1000}){1000}')", "no regular expression"),
        ("matches(request.path, 'a')", "called on a text"),
        ("cidr(request.client).containsIP('10.0.0.1')", "literal text"),
        ("cidr('10.0.0.0/33').containsIP(request.client)", "no address range"),
        ("request.path", "comes to a text"),
        ("size(request.path)", "comes to a whole number"),
        ("identity.scopes", "comes to a list"),
        ("request.path && true", "cannot take a text"),
        ("!request.headers.cookie", "cannot take a text"),
        ("identity.scopes.startsWith('a')", "cannot take a list"),
        ("has(request.path)", "always there"),
        ("Rule{a: 1} == 1", "there is no type"),
    ] {
        let said = complaint(source);
        assert!(said.contains(part), "{source}: {said}");
    }
    assert!(complaint(&format!("request.path == '{}'", "a".repeat(MAX_SOURCE))).contains("at most 4096 bytes"));
    assert!(compiled("request.path", Kind::Int).is_err());
}

#[test]
fn every_variable_and_function_that_is_offered_exists() {
    for variable in variables::VARIABLES {
        let rule = rule(&format!("{} == {}", variable.name, variable.name));
        assert!(rule.bool(&request(), &exchange()).is_ok(), "{}", variable.name);
    }
    for name in check::FUNCTIONS.iter().filter(|name| !["matches", "cidr"].contains(name)) {
        let calls = [format!("{name}(1, 2, 3, 4, 5) == 1"), format!("request.path.{name}(1, 2, 3, 4, 5) == 1")];
        // A function that is there is called with arguments it does not take; one that is not is not there.
        let found = calls.iter().any(|call| holds(call) == Err(RuleError::Type));
        assert!(found, "{name}");
    }
}

/// Nested so deep that a recursive evaluator would leave a worker's stack behind.
#[test]
fn depth_is_bounded() {
    for (open, close) in [("(", ")"), ("!", ""), ("[", "]"), ("-", ""), ("size([", "])"), ("1 + ", "")] {
        for depth in [30, 60, 90, 1000, 2000] {
            let source = format!("{}1{} == 1", open.repeat(depth), close.repeat(depth));
            let run = || {
                let mut problems = Problems::default();
                if let Some(rule) = Expression::compile(&source, Place::NOWHERE, &mut problems, Kind::Bool) {
                    let _ = rule.bool(&request(), &exchange());
                }
            };
            std::thread::scope(|scope| {
                std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, run).unwrap();
            });
        }
    }
    assert!(compiled(&format!("{}1 == 1", "1 + ".repeat(500)), Kind::Bool).is_err());
}

/// What a client can send at most, to rules that go through all of it, again and again.
#[test]
fn the_work_is_bounded_whatever_is_sent() {
    let query: String = (0..4000).map(|n| format!("a{n}&")).collect();
    let long = "x".repeat(8000);
    let many: Vec<(String, String)> = (0..100).map(|n| (format!("x-{n}"), "y".repeat(200))).collect();
    let mut headers: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.push(("long", &long));
    let head = RequestHead::build("GET", &format!("/?{query}"), &headers);
    let mut claims = serde_json::Map::new();
    claims.insert("roles".into(), (0..5000).map(|n| json!(format!("role-{n}"))).collect());
    let mut exchange = exchange();
    exchange.identity = Some(Arc::new(Identity { claims: Some(Arc::new(claims.into())), ..Identity::default() }));
    for source in [
        "request.query.all(a, request.query.all(b, a != 'x' || b != 'x'))",
        "request.query.exists(a, request.query.exists(b, request.query.exists(c, a + b + c == 'x')))",
        "request.query.map(a, request.query.map(b, a + b + request.headers.long)).size() == 1",
        "request.query.filter(a, request.headers.exists(b, request.headers[b] + request.headers.long == a)).size() > 0",
        "request.headers.exists_one(a, request.query.exists(b, request.headers[a].matches('(y+y+)+z') || a == b))",
        "identity.claims.roles.all(a, identity.claims.roles.all(b, identity.claims.roles.all(c, a + b + c != '')))",
        "identity.claims.roles.map(a, identity.claims.roles.filter(b, a == b)).size() > 0",
        // Errors that `||` and `exists` make up for do not hide that there was too much to do.
        "identity.claims.roles.all(a, identity.claims.roles.all(b, a != b || true)) || true",
    ] {
        let rule = rule(source);
        let since = Instant::now();
        assert_eq!(rule.bool(&head, &exchange), Err(RuleError::Work), "{source}");
        let took = since.elapsed();
        // Unoptimised, on a machine that does other things as well; unbounded it would be minutes.
        assert!(took < Duration::from_secs(2), "{source}: {took:?}");
    }
    let rule = rule("identity.claims.roles.exists(it, it == 'role-9')");
    assert_eq!(rule.bool(&request(), &exchange), Ok(true), "an ordinary list is no attack");
}

proptest::proptest! {
    /// No text makes the compiler panic, and what compiles never panics on a request.
    #[test]
    fn nothing_panics(source in "[a-z.()\\[\\]'\"&|!=<>0-9?:,+ *-]{0,60}", tail in "(request|identity|route)\\.[a-z]{0,8}") {
        for source in [source.clone(), format!("{source}{tail}"), format!("{tail} == {source}")] {
            let mut problems = Problems::default();
            if let Some(rule) = Expression::compile(&source, Place::NOWHERE, &mut problems, Kind::Bool) {
                proptest::prop_assert_ne!(rule.bool(&request(), &exchange()), Err(RuleError::Internal));
            }
        }
    }
}
