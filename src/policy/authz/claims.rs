//! Conditions on a token's claims: where a claim stands, and what it has to be.

use serde_json::{Map, Value};

use crate::problem::{Place, Problem, Problems};

/// Where a claim stands: `department`, `realm_access.roles` (nested), `https://example.com/tenant` (a name with a colon is one
/// name, whatever its dots), or a JSON Pointer (RFC 6901): `/resource_access/my.app/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<[Box<str>]>);

impl ClaimPath {
    pub fn parse(text: &str) -> Option<ClaimPath> {
        let names: Vec<Box<str>> = if let Some(pointer) = text.strip_prefix('/') {
            pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~").into()).collect()
        } else if text.contains(':') {
            vec![text.into()]
        } else {
            text.split('.').map(Box::from).collect()
        };
        names.iter().all(|name| !name.is_empty()).then(|| ClaimPath(names.into()))
    }

    /// As it is written, for the log.
    pub fn text(&self) -> String {
        self.0.join(".")
    }

    /// What stands there. Members of objects only: a path leads through no list.
    pub fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(claims, |value, name| value.as_object()?.get(&**name))
    }
}

/// What a claim has to be. A claim that is a list satisfies `OneOf` with any of its elements; a single value counts as a list of
/// one. Values are compared with their kinds: `true` is not `"true"`.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimTest {
    OneOf(Vec<Value>),
    AllOf(Vec<Value>),
    /// There, and not null; or not.
    Exists(bool),
}

impl ClaimTest {
    pub fn compile(value: &Value, place: Place, problems: &mut Problems) -> Option<ClaimTest> {
        let test = match value {
            Value::Array(values) => scalars(values).map(ClaimTest::OneOf),
            Value::Object(members) => written(members),
            Value::Null => None,
            scalar => Some(ClaimTest::OneOf(vec![scalar.clone()])),
        };
        if test.is_none() {
            let problem = Problem::error(place, "a claim is compared with a value, a list of which one is needed, or a table");
            problems.push(problem.hint("{ one_of: [a, b] }, { all_of: [a, b] } or { exists: true }; lists cannot be empty"));
        }
        test
    }

    pub fn holds(&self, claim: Option<&Value>) -> bool {
        let present = claim.filter(|claim| !claim.is_null());
        let elements = match present {
            Some(Value::Array(elements)) => elements.as_slice(),
            Some(single) => std::slice::from_ref(single),
            None => &[],
        };
        let has = |wanted: &Value| elements.iter().any(|element| equal(element, wanted));
        match self {
            ClaimTest::OneOf(wanted) => wanted.iter().any(has),
            ClaimTest::AllOf(wanted) => wanted.iter().all(has),
            ClaimTest::Exists(wanted) => present.is_some() == *wanted,
        }
    }
}

fn written(members: &Map<String, Value>) -> Option<ClaimTest> {
    let mut members = members.iter();
    let (Some((name, value)), None) = (members.next(), members.next()) else { return None };
    match (name.as_str(), value) {
        ("one_of", Value::Array(values)) => scalars(values).map(ClaimTest::OneOf),
        ("all_of", Value::Array(values)) => scalars(values).map(ClaimTest::AllOf),
        ("exists", Value::Bool(wanted)) => Some(ClaimTest::Exists(*wanted)),
        _ => None,
    }
}

fn scalars(values: &[Value]) -> Option<Vec<Value>> {
    let plain = |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
    (!values.is_empty() && values.iter().all(plain)).then(|| values.to_vec())
}

/// 1 and 1.0 are one number.
fn equal(claim: &Value, wanted: &Value) -> bool {
    match (claim, wanted) {
        (Value::Number(claim), Value::Number(wanted)) if claim != wanted => {
            (claim.is_f64() || wanted.is_f64()) && claim.as_f64() == wanted.as_f64()
        }
        _ => claim == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(path: &str, test: Value, claims: Value) -> bool {
        let mut problems = Problems::default();
        let test = ClaimTest::compile(&test, Place::NOWHERE, &mut problems).unwrap();
        test.holds(ClaimPath::parse(path).unwrap().find(&claims))
    }

    #[test]
    fn finds_nested_claims_on_every_way() {
        let claims = json!({
            "realm_access": { "roles": ["admin"] }, "realm_access.roles": "decoy", "https://example.com/tenant": "acme",
            "resource_access": { "my.app": { "a/b": 7 } },
        });
        assert!(holds("realm_access.roles", json!("admin"), claims.clone()));
        assert!(!holds("realm_access.roles", json!("decoy"), claims.clone()));
        assert!(holds("https://example.com/tenant", json!("acme"), claims.clone()));
        assert!(holds("/resource_access/my.app/a~1b", json!(7), claims.clone()));
        assert!(!holds("realm_access.roles.0", json!("admin"), claims.clone()));
        assert!(!holds("realm_access.none", json!("admin"), claims));
        for bad in ["", ".", "a..b", "a.", "/", "/a//b"] {
            assert_eq!(ClaimPath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn compares_with_kinds_and_looks_into_lists() {
        let claims =
            json!({ "roles": ["a", "b"], "one": "a", "verified": true, "age": 1, "empty": [], "nothing": null, "o": {} });
        for (path, test, expected) in [
            ("roles", json!("b"), true),
            ("roles", json!(["x", "b"]), true),
            ("roles", json!({ "one_of": ["x"] }), false),
            ("roles", json!({ "all_of": ["a", "b"] }), true),
            ("roles", json!({ "all_of": ["a", "c"] }), false),
            ("one", json!({ "all_of": ["a"] }), true),
            ("one", json!("A"), false),
            ("verified", json!(true), true),
            ("verified", json!("true"), false),
            ("age", json!(1.0), true),
            ("age", json!("1"), false),
            ("empty", json!({ "exists": true }), true),
            ("empty", json!("a"), false),
            ("nothing", json!({ "exists": true }), false),
            ("absent", json!({ "exists": false }), true),
            ("absent", json!("a"), false),
            ("o", json!("a"), false),
        ] {
            assert_eq!(holds(path, test.clone(), claims.clone()), expected, "{path} {test}");
        }
    }

    #[test]
    fn big_numbers_are_not_mixed_up() {
        assert!(!holds("id", json!(9007199254740993_u64), json!({ "id": 9007199254740992_u64 })));
    }

    #[test]
    fn what_is_no_test_is_a_problem() {
        for test in
            [json!(null), json!([]), json!([[1]]), json!({}), json!({ "one_of": "a" }), json!({ "exists": 1 }), json!({ "x": 1 })]
        {
            let mut problems = Problems::default();
            assert_eq!(ClaimTest::compile(&test, Place::NOWHERE, &mut problems), None, "{test}");
            assert!(problems.has_errors());
        }
    }
}
