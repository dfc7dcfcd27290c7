//! A request of GraphQL over HTTP: where its documents stand in a query or in a body of JSON.
//!
//! Read so that no service can read another document in it: every name once, and in one place.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::carrier;
use crate::policy::validate::json::{self, Limits};

/// How deep a body may be nested: variables are values of any depth.
const DEEPEST: usize = 64;
/// The parameters that a service reads.
const PARAMETERS: [&str; 4] = ["query", "operationName", "variables", "extensions"];

/// By which services know a document that is not there, each in its own way, and nobody here: beside one that is there it would be another.
const NAMES: [&str; 8] = ["documentId", "document_id", "docId", "doc_id", "queryId", "query_id", "queryHash", "id"];

/// One operation that is asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub query: Option<String>,
    pub operation: Option<String>,
    pub variables: Option<Map<String, Value>>,
    /// SHA-256 of the document, in hexadecimal digits (`extensions.persistedQuery.sha256Hash`).
    pub hash: Option<String>,
}

/// What a body holds.
#[derive(Debug, PartialEq)]
pub enum Body {
    One(Asked),
    Many(Vec<Asked>),
}

/// Reads a body. `None` if it is none of these, or could be read in two ways.
pub fn of_body(body: &[u8]) -> Option<Body> {
    json::check_within(body, &Limits { unique: true, ..Limits::deep(DEEPEST) }).ok()?;
    of_value(serde_json::from_slice(body).ok()?)
}

/// The same of a body that was read.
pub fn of_value(body: Value) -> Option<Body> {
    match body {
        Value::Array(all) => all.into_iter().map(asked).collect::<Option<_>>().map(Body::Many),
        one => asked(one).map(Body::One),
    }
}

fn asked(value: Value) -> Option<Asked> {
    let Value::Object(mut members) = value else { return None };
    let mut take = |name: &str| members.remove(name).filter(|value| !value.is_null());
    let asked = Asked {
        query: optional(take("query"), text)?,
        operation: optional(take("operationName"), text)?.filter(|name| !name.is_empty()),
        variables: optional(take("variables"), object)?,
        hash: optional(take("extensions"), object)?.map_or(Some(None), |extensions| hash(&extensions))?,
    };
    // There are those who know names of members in any case, and take the last one.
    let hides = members.keys().any(|name| PARAMETERS.iter().chain(&NAMES).any(|known| is_alike(name, known)));
    (!hides).then_some(asked)
}

/// Whether some service might take one name for the other: in another case, also where Unicode folds a letter to one of ASCII's, or with
/// blanks around it.
fn is_alike(name: &str, known: &str) -> bool {
    let folded = name.trim().chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        letter => letter.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|letter| letter.to_ascii_lowercase()))
}

/// Whether a query has anything of a request of GraphQL in it, under whatever spelling: services may read it beside a body.
pub fn is_in_query(query: &str) -> bool {
    pairs(query).any(|(name, _)| known(&name).is_some())
}

/// Whether a query names a document, though it may say nothing of it.
pub fn names_document(query: &str) -> bool {
    pairs(query).any(|(name, _)| known(&name) == Some(Some(0)))
}

/// Reads a query. `None` if it is no request, or could be read in two ways.
pub fn of_query(query: &str) -> Option<Asked> {
    if query.contains(';') {
        // There are those who separate by it.
        return None;
    }
    let mut found: [Option<String>; PARAMETERS.len()] = Default::default();
    for (name, value) in pairs(query) {
        match known(&name) {
            None => {}
            Some(None) => return None,
            Some(Some(number)) => {
                let value = String::from_utf8(carrier::decode(value).into_owned()).ok()?;
                if found.get_mut(number)?.replace(value).is_some() {
                    return None;
                }
            }
        }
    }
    let [query, operation, variables, extensions] = found.map(|value| value.filter(|value| !value.is_empty()));
    let json = |text: String| {
        json::check_within(text.as_bytes(), &Limits { unique: true, ..Limits::deep(DEEPEST) }).ok()?;
        serde_json::from_str(&text).ok()
    };
    let object_of = |text: Option<String>| match text {
        None => Some(None),
        Some(text) => match json(text)? {
            Value::Null => Some(None),
            value => object(value).map(Some),
        },
    };
    let hash = match object_of(extensions)? {
        Some(extensions) => hash(&extensions)?,
        None => None,
    };
    Some(Asked { query, operation, variables: object_of(variables)?, hash })
}

fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    // There are those who separate by a semicolon.
    let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (carrier::lossy(carrier::decode(name)), value))
}

/// The number of a parameter; none of it where some service might take the name for one of them (`query[]`, `QUERY`).
#[allow(clippy::option_option, reason = "it is one, it may be one, it is none")]
fn known(name: &str) -> Option<Option<usize>> {
    let name = name.trim();
    if let Some(number) = PARAMETERS.iter().position(|known| *known == name) {
        return Some(Some(number));
    }
    let root = name.split(['[', '.', ' ']).next().unwrap_or_default();
    PARAMETERS.iter().chain(&NAMES).any(|known| is_alike(root, known)).then_some(None)
}

/// What is there has to be of its kind.
#[allow(clippy::option_option, reason = "the outer one is whether it is what it should be")]
fn optional<T>(value: Option<Value>, read: impl FnOnce(Value) -> Option<T>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => read(value).map(Some),
    }
}

fn text(value: Value) -> Option<String> {
    if let Value::String(text) = value { Some(text) } else { None }
}

fn object(value: Value) -> Option<Map<String, Value>> {
    if let Value::Object(members) = value { Some(members) } else { None }
}

#[allow(clippy::option_option, reason = "the outer one is whether it is what it should be")]
fn hash(extensions: &Map<String, Value>) -> Option<Option<String>> {
    let hides = |members: &Map<String, Value>, known: &str| members.keys().any(|name| name != known && is_alike(name, known));
    if hides(extensions, "persistedQuery") {
        return None;
    }
    let Some(persisted) = extensions.get("persistedQuery").filter(|value| !value.is_null()) else { return Some(None) };
    if persisted.as_object().is_some_and(|members| hides(members, "sha256Hash")) {
        return None;
    }
    let hash = persisted.get("sha256Hash")?.as_str()?;
    let is_one = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| Some(hash.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_one_request_or_several() {
        let full = json!({ "query": "{ a }", "operationName": "A", "variables": { "a": 1 }, "extensions": {
            "persistedQuery": { "version": 1, "sha256Hash": "AB".repeat(32) } }, "other": 1 });
        let Some(Body::One(asked)) = of_body(full.to_string().as_bytes()) else { panic!() };
        assert_eq!((asked.query.as_deref(), asked.operation.as_deref()), (Some("{ a }"), Some("A")));
        assert_eq!(asked.hash, Some("ab".repeat(32)));
        assert!(asked.variables.unwrap().contains_key("a"));
        let nulls = br#"{"query":"{ a }","operationName":null,"variables":null,"extensions":null}"#;
        assert_eq!(of_body(nulls), Some(Body::One(Asked { query: Some("{ a }".into()), ..Asked::default() })));
        assert!(matches!(of_body(br#"[{"query":"{ a }"},{"query":"{ b }"}]"#), Some(Body::Many(all)) if all.len() == 2));
        for bad in [
            &b"\"{ a }\""[..],
            b"1",
            b"{",
            br#"{"query":1}"#,
            br#"{"query":"{ a }","query":"{ b }"}"#,
            br#"{"query":"{ a }","que\u0072y":"{ b }"}"#,
            br#"{"query":"{ a }","variables":[]}"#,
            br#"{"query":"{ a }","operationName":1}"#,
            br#"{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}"#,
            br#"{"extensions":{"persistedQuery":1}}"#,
            br#"{"query":"{ a }","Query":"{ b }"}"#,
            br#"{"query":"{ a }","QUERY":null}"#,
            br#"{"query":"{ a }","query ":"{ b }"}"#,
            br#"{"query":"{ a }","OperationName":"B"}"#,
            br#"{"query":"{ a }","Variables":{"first":1000000}}"#,
            br#"{"query":"{ a }","variable\u017f":{"first":1000000}}"#,
            "{\"query\":\"{ a }\",\"exten\u{17f}ions\":{}}".as_bytes(),
            br#"[{"query":"{ a }"},{"query":"{ a }","qUery":"{ b }"}]"#,
            br#"{"query":"{ a }","extensions":{"PersistedQuery":{}}}"#,
            br#"{"query":"{ a }","extensions":{"persistedQuery":{"sha256Hash":"abababababababababababababababababababababababababababababababab","SHA256Hash":"x"}}}"#,
            br#"[{"query":"{ a }"},1]"#,
            b"[[]]",
            b"\xff",
        ] {
            assert_eq!(of_body(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_query_is_read_as_every_service_reads_it() {
        let asked = of_query("query=%7B+a%20%7D&variables=%7B%22a%22:1%7D&operationName=A&x=1").unwrap();
        assert_eq!((asked.query.as_deref(), asked.operation.as_deref()), (Some("{ a }"), Some("A")));
        assert!(asked.variables.is_some() && is_in_query("x=1&%71uery=a") && !is_in_query("x=query&querying=1"));
        assert!(is_in_query("x=1;query=a") && is_in_query("x=1;%71uery=a") && is_in_query("variable%C5%BF=a"));
        assert!(names_document("x=1&query=") && names_document("query") && !names_document("extensions=query&queries=1"));
        for bad in [
            "query=a&query=b",
            "query=a&%71uery=b",
            "query=a;query=b",
            "query[]=a",
            "query=a&query[x]=b",
            "QUERY=a",
            "query=a&variables=[]",
            "query=a&variables=%7B%22a%22:1,%22a%22:2%7D",
            "query=%ff",
            "extensions=%7B%22persistedQuery%22:1%7D",
        ] {
            assert_eq!(of_query(bad), None, "{bad}");
        }
    }
}
