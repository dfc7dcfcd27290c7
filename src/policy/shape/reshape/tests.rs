//! What steps do to bodies, and what is refused when they are written.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Reshape;
use crate::exchange::{Exchange, Identity};
use crate::head::{HeaderEdit, RequestHead};
use crate::json::Fault;
use crate::policy::testing::{compile, complaint};
use crate::reply::Flow;

fn apply_as(steps: Value, body: &str, head: &RequestHead, exchange: &Exchange) -> Result<String, Fault> {
    let policy = compile::<Reshape>(json!({ "request": steps })).unwrap_or_else(|problems| panic!("{problems:?}"));
    let settled = policy.inner.request.settle(head, exchange);
    let made = policy.inner.request.apply(body.as_bytes(), &settled, 10_000, |tree| Ok(tree.write()));
    made.map(|(body, _)| String::from_utf8(body).unwrap())
}

fn apply(steps: Value, body: &str) -> String {
    apply_as(steps, body, &RequestHead::build("POST", "/", &[]), &Exchange::for_tests()).unwrap()
}

#[test]
fn each_step_does_what_it_says() {
    let body =
        r#"{"id":1.10,"name":"x","list":[{"a":1,"b":"2"},{"a":1e400},3],"in":{"deep":{"n":12345678901234567890}},"no":null}"#;
    for (steps, made) in [
        (
            json!([{ "rename": { "/id": "ID", "/list/*/a": "b", "/list/0": "x", "/none": "y" } }]),
            r#"{"ID":1.10,"name":"x","list":[{"b":1},{"b":1e400},3],"in":{"deep":{"n":12345678901234567890}},"no":null}"#,
        ),
        (
            json!([{ "move": { "/in/deep/n": "/n", "/list/*/b": "/list/*/c/d", "/none": "/n" } }]),
            r#"{"id":1.10,"name":"x","list":[{"a":1,"c":{"d":"2"}},{"a":1e400},3],"in":{"deep":{}},"no":null,"n":12345678901234567890}"#,
        ),
        (json!([{ "remove": ["/list", "/in/deep"] }]), r#"{"id":1.10,"name":"x","in":{},"no":null}"#),
        (json!([{ "keep": "/list/*/a" }, { "rename": { "/list": "l" } }]), r#"{"l":[{"a":1},{"a":1e400}]}"#),
        (
            json!([{ "keep": "/id" }, { "set": { "/id": 2, "/a/b": true, "/l": { "value": [1, "x"] }, "/big": { "json": "1e400" } } }]),
            r#"{"id":2,"a":{"b":true},"l":[1,"x"],"big":1e400}"#,
        ),
        (
            json!([{ "keep": ["/id", "/no", "/list"] }, { "remove": "/list/2" }, { "default": { "/id": 9, "/no/x": 1, "/list/*/b": "" } }]),
            r#"{"id":1.10,"list":[{"a":1,"b":"2"},{"a":1e400,"b":""}],"no":{"x":1}}"#,
        ),
        (
            json!([{ "keep": ["/id", "/name"] }, { "wrap": { "": "data", "/data/id": "v" } }]),
            r#"{"data":{"id":{"v":1.10},"name":"x"}}"#,
        ),
        (
            json!([{ "keep": "/list" }, { "map": { "over": "/list", "steps": [{ "wrap": { "": "it", "/it/a": "v" } }, { "set": { "/n": { "json": "1.0" } } }] } }]),
            r#"{"list":[{"it":{"a":{"v":1},"b":"2"},"n":1.0},{"it":{"a":{"v":1e400}},"n":1.0},{"it":3,"n":1.0}]}"#,
        ),
        (json!([{ "unwrap": { "/in": "deep", "": "in", "/none": "x" } }]), r#"{"n":12345678901234567890}"#),
        (
            json!([{ "keep": "/list" }, { "map": { "over": "/list", "steps": [{ "wrap": { "": "it" } }, { "rename": { "/it/a": "A" } }] } }]),
            r#"{"list":[{"it":{"A":1,"b":"2"}},{"it":{"A":1e400}},{"it":3}]}"#,
        ),
        (
            json!([{ "keep": ["/id", "/name", "/list/0"] }, { "convert": { "/id": "string", "/list/0/b": "integer", "/name": "number", "/list/0": "array" } }]),
            r#"{"id":"1.10","name":"x","list":[[{"a":1,"b":2}]]}"#,
        ),
        (json!([{ "keep": "/list" }, { "set": { "/list/-": "new", "/list/0": 0 } }]), r#"{"list":[0,{"a":1e400},3,"new"]}"#),
    ] {
        assert_eq!(apply(steps.clone(), body), made, "{steps}");
    }
    for (steps, fault) in [
        (json!([{ "set": { "/id/x": 1 } }]), Fault::NoContainer),
        (json!([{ "set": { "/list/9": 1 } }]), Fault::NoContainer),
        (json!([{ "move": { "/name": "/id/x" } }]), Fault::NoContainer),
        (json!([{ "set": { "/big": { "json": format!("\"{}\"", "x".repeat(9_999)) } } }]), Fault::TooLarge),
    ] {
        let head = RequestHead::build("POST", "/", &[]);
        assert_eq!(apply_as(steps, body, &head, &Exchange::for_tests()), Err(fault));
    }
    for root in ["null", "7", "[]", "\"x\""] {
        assert_eq!(
            apply(json!([{ "rename": { "/a": "b" } }, { "remove": "/a" }, { "convert": { "/a": "string" } }]), root),
            root
        );
    }
}

#[test]
fn values_come_from_the_request_and_who_sent_it() {
    let head = RequestHead::build("POST", "/a?page=2&q=%22%3C", &[("x-tenant", "a\"b")]);
    let mut exchange = Exchange::for_tests();
    exchange.params.push(("sku".into(), "a%2Fb".into()));
    let set = json!([{ "set": {
        "/who": { "expr": "identity.consumer" }, "/scopes": { "expr": "identity.scopes" }, "/in": { "expr": "'in' in identity.scopes" },
        "/tenant": { "header": "X-Tenant" }, "/page": { "expr": "int(request.query.page[0])" }, "/q": { "query": "q" }, "/sku": { "param": "sku" },
        "/none": { "header": "X-None" }, "/bad": { "expr": "request.headers['x-none']" },
    } }]);
    let identity = Identity { consumer: Some("acme".into()), scopes: vec!["in".into()], ..Identity::default() };
    exchange.identity = Some(std::sync::Arc::new(identity));
    // What cannot be made is not left to the client.
    let made = apply_as(set, r#"{"none":"mine","bad":"mine","who":"mine"}"#, &head, &exchange).unwrap();
    assert_eq!(made, r#"{"who":"acme","scopes":["in"],"in":true,"tenant":"a\"b","page":2,"q":"\"<","sku":"a/b"}"#);

    let by_scope = json!([
        { "remove": "/cost", "when": "!('in' in identity.scopes)" },
        { "rename": { "/a": "b" }, "when": "request.headers['x-none'] == 'x'" },
        { "remove": "/secret", "when": "request.headers['x-none'] == 'x'" },
    ]);
    let body = r#"{"a":1,"cost":2,"secret":3}"#;
    assert_eq!(apply_as(by_scope.clone(), body, &head, &exchange).unwrap(), r#"{"a":1,"cost":2}"#);
    exchange.identity = Some(Default::default());
    assert_eq!(apply_as(by_scope, body, &head, &exchange).unwrap(), r#"{"a":1}"#);
}

/// What a request with this body becomes: the body, and the changes to its fields and target.
fn sent(config: Value, kind: &str, body: &str) -> Result<(String, Vec<String>, Option<String>), &'static str> {
    let plan = crate::policy::testing::plan(compile::<Reshape>(config).unwrap_or_else(|problems| panic!("{problems:?}")));
    let length = body.len().to_string();
    let mut head = RequestHead::build("POST", "/a?x=1&page=9&%70age=8", &[("content-type", kind), ("content-length", &length)]);
    head.body = crate::head::BodyFraming::Length(body.len() as u64);
    let mut exchange = Exchange::for_tests();
    for step in plan.heads() {
        if let Flow::Break(reply) = step.on_request(&head, &mut exchange) {
            return Err(reply.reason);
        }
    }
    let mut made = body.to_owned();
    for step in plan.bodies().filter(|step| step.wants(&head)) {
        if let Flow::Break(reply) = step.on_body(&head, &body.to_owned().into(), &mut exchange) {
            return Err(reply.reason);
        }
        made = exchange.new_body.take().map_or(made, |other| String::from_utf8(other.to_vec()).unwrap());
    }
    let show = |edit: &HeaderEdit| match edit {
        HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) => format!("{name}: {}", value.to_str().unwrap()),
        HeaderEdit::Remove(name) => format!("-{name}"),
    };
    Ok((
        made,
        exchange.to_upstream.iter().map(show).filter(|edit| !edit.contains("digest") && !edit.contains("md5")).collect(),
        exchange.upstream_target,
    ))
}

#[test]
fn fields_and_parameters_come_from_bodies() {
    let config = json!({ "request": [
        { "header": { "X-Customer": "/customer/id", "X-None": "/none", "X-Bad": "/bad" } },
        { "query": { "page": "/page", "x": "/none", "q r": "/bad" } },
        { "path": "/customers/{/customer/id}/of" },
        { "remove": "/page" },
    ] });
    let (body, edits, target) =
        sent(config, "application/json", r#"{"customer":{"id":7.0},"page":3,"bad":"a\r\nb: é&"}"#).unwrap();
    assert_eq!(body, r#"{"customer":{"id":7.0},"bad":"a\r\nb: é&"}"#);
    assert_eq!(edits, ["-x-customer", "-x-none", "-x-bad", "x-customer: 7.0", "-x-none", "-x-bad"]);
    assert_eq!(target.unwrap(), "/customers/7.0/of?page=3&q%20r=a%0D%0Ab%3A%20%C3%A9%26");
    let config = json!({ "on_unparsable": "pass", "other_types": "pass", "request": [{ "path": "/x/{/id}" }] });
    for (kind, body, path) in [
        ("application/json", r#"{"id":"a b:é"}"#, Some("/x/a%20b:%C3%A9?x=1&page=9&%70age=8")),
        ("application/json", r#"{"id":"../admin"}"#, None),
        ("application/json", r#"{"id":"a\\b"}"#, None),
        ("application/json", r#"{"id":"a\u0000"}"#, None),
        ("application/json", r#"{"id":".."}"#, None),
        ("application/json", r#"{"id":""}"#, None),
        ("application/json", "{}", None),
        ("application/json", "{", None),
        ("application/json", "", None),
        ("text/plain", r#"{"id":1}"#, None),
    ] {
        let made = sent(config.clone(), kind, body);
        assert_eq!(made.map(|(_, _, target)| target.unwrap()).ok().as_deref(), path, "{body}");
    }
}

#[test]
fn what_comes_of_a_body_comes_of_nothing_else() {
    let steps =
        json!([{ "header": { "X-Customer": "/customer" }, "when": "identity.authenticated" }, { "query": { "page": "/page" } }]);
    let config = json!({ "on_unparsable": "pass", "other_types": "pass", "request": steps });
    for (kind, body) in [("application/json", ""), ("application/json", "{"), ("text/plain", "x"), ("application/json", "{}")] {
        let (_, edits, target) = sent(config.clone(), kind, body).unwrap();
        assert!(edits.contains(&"-x-customer".to_owned()), "{edits:?}");
        assert_eq!(target.unwrap(), "/a?x=1", "{body}");
    }
    // Only what cannot be read passes, not what steps cannot be done to.
    let config = json!({ "on_unparsable": "pass", "request": [{ "set": { "/a/b": 1 } }] });
    assert_eq!(sent(config, "application/json", r#"{"a":7}"#).err(), Some("body_malformed"));
}

#[test]
fn forms_become_objects() {
    let config = json!({ "forms": true, "request": [{ "convert": { "/age": "integer" } }, { "default": { "/source": "web" } }] });
    let form = "application/x-www-form-urlencoded";
    let (body, edits, _) = sent(config.clone(), form, "name=J%C3%BCrgen+M&tag=a&age=7&tag=b&tag=&__proto__=x&&flag").unwrap();
    assert_eq!(body, r#"{"name":"Jürgen M","tag":["a","b",""],"age":7,"__proto__":"x","flag":"","source":"web"}"#);
    assert_eq!(edits, ["content-type: application/json"]);
    assert_eq!(sent(config.clone(), form, "a=%ff").err(), Some("body_malformed"));
    assert_eq!(sent(config.clone(), "text/plain", "a").err(), Some("body_not_json"));
    assert_eq!(sent(config, "application/json", "{\"a\":1,\"a\":2}").err(), Some("body_malformed"));
    let passing = json!({ "on_unparsable": "pass", "other_types": "pass", "request": [{ "remove": "/a" }] });
    for (kind, body) in
        [("application/json", "{\"a\":"), ("text/plain", "{\"a\":1}"), ("application/json;charset=latin1", "{\"a\":1}")]
    {
        assert_eq!(sent(passing.clone(), kind, body).unwrap().0, body);
    }
    assert_eq!(sent(passing, "application/merge-patch+json; charset=utf-8", "{\"a\":1}").unwrap().0, "{}");
}

#[test]
fn what_is_wrong_is_said() {
    for (config, word) in [
        (json!({}), "does nothing"),
        (json!({ "request": [{}] }), "does nothing"),
        (json!({ "request": [{ "remove": "/a", "keep": "/b" }] }), "several"),
        (json!({ "request": [{ "remove": "a" }] }), "JSON Pointer"),
        (json!({ "request": [{ "remove": "" }] }), "whole body"),
        (json!({ "request": [{ "keep": [] }] }), "empty"),
        (json!({ "request": [{ "rename": { "/a": "/b" } }] }), "not a place"),
        (json!({ "request": [{ "move": { "/a/*": "/b/*" } }] }), "before they part"),
        (json!({ "request": [{ "move": { "/a": "/a/b" } }] }), "itself"),
        (json!({ "request": [{ "set": { "/a": { "exr": "1" } } }] }), "could come from"),
        (json!({ "request": [{ "set": { "/a": ["x"] } }] }), "list"),
        (json!({ "request": [{ "set": { "/a": { "json": "{" } } }] }), "no JSON"),
        (json!({ "request": [{ "set": { "/a": null } }] }), "nothing"),
        (json!({ "request": [{ "set": { "/**/a": 1 } }] }), "`**`"),
        (json!({ "request": [{ "set": { "/a": { "expr": "identity.consumr" } } }] }), "unknown variable"),
        (json!({ "request": [{ "remove": "/a", "when": "identity.consumer" }] }), "true or false"),
        (json!({ "request": [{ "header": { "Host": "/a" } }] }), "cannot be changed"),
        (json!({ "request": [{ "header": { "X": "/a/*" } }] }), "one place"),
        (json!({ "response": [{ "query": { "x": "/a" } }] }), "no query"),
        (json!({ "response": [{ "path": "/a" }] }), "no path"),
        (json!({ "request": [{ "path": "/a/../{/b}" }] }), "a path begins"),
        (json!({ "request": [{ "path": "/a/{/b" }] }), "a path begins"),
        (json!({ "response": [{ "remove": "/a" }], "up_to": "1GiB" }), "16MiB"),
        (json!({ "response": [{ "remove": "/a" }], "statuses": [] }), "empty"),
    ] {
        let said = complaint::<Reshape>(config.clone());
        assert!(said.contains(word), "{config}: {said}");
    }
}

/// Bodies whose every number and text would suffer in other hands.
fn bodies() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "1.10",
        "1e400",
        "12345678901234567890",
        "\"\\ud83d\\ude00\"",
        "\"\\udc00\"",
        "null",
        "\"é\\/\"",
    ]);
    (leaf.clone(), leaf.clone(), leaf).prop_map(|(a, b, c)| format!(r#"{{"a":{a},"list":[{{"x":{b}}},{c}],"z":{c}}}"#))
}

proptest! {
    #[test]
    fn steps_and_their_opposites_leave_everything_as_it_was(body in bodies()) {
        for steps in [
            json!([{ "rename": { "/a": "q" } }, { "rename": { "/q": "a" } }]),
            json!([{ "wrap": { "": "data" } }, { "unwrap": { "": "data" } }]),
            json!([{ "wrap": { "/list/*": "it" } }, { "unwrap": { "/list/*": "it" } }]),
            json!([{ "move": { "/z": "/list/0/z" } }, { "move": { "/list/0/z": "/z" } }]),
            json!([{ "set": { "/new/er": 1 } }, { "remove": "/new" }]),
            json!([{ "default": { "/a": "other" } }]),
            json!([{ "keep": ["/a", "/list", "/z"] }]),
            json!([{ "map": { "over": "/list", "steps": [{ "wrap": { "": "it" } }, { "unwrap": { "": "it" } }] } }]),
        ] {
            prop_assert_eq!(apply(steps.clone(), &body), body.clone(), "{}", steps);
        }
        let there = apply(json!([{ "convert": { "/a": "string" } }]), &body);
        let number = body.starts_with("{\"a\":1");
        let back = apply(json!([{ "convert": { "/a": "number" } }]), &there);
        prop_assert_eq!(back == body, number || body.starts_with("{\"a\":\"") || body.starts_with("{\"a\":null"));
    }
}
