//! Nothing, and nothing in it, where something protects: made from the JSON Schema, so that a new key is looked at the day it comes.

use std::path::Path;

use serde_json::{Value, json};

use super::{Surroundings, compile};
use crate::config::{Source, schema};
use crate::problem::Problem;

/// A key of the schema: how to reach it, and whether it takes a list.
struct Found {
    path: Vec<Step>,
    list: bool,
}

#[derive(Clone)]
enum Step {
    Key(String),
    Item,
}

/// Every key of the whole file, policies once.
fn keys(schema: &Value) -> Vec<Found> {
    let mut found = Vec::new();
    walk(schema, schema, &mut Vec::new(), &mut found);
    found
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
    name.map_or(schema, |name| resolved(root, &root["$defs"][name]))
}

fn is_list(root: &Value, schema: &Value) -> bool {
    let schema = resolved(root, schema);
    let kind = schema["type"] == "array" || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&"array".into()));
    kind || ["anyOf", "oneOf"]
        .iter()
        .any(|word| schema[word].as_array().is_some_and(|all| all.iter().any(|one| is_list(root, one))))
}

fn walk(root: &Value, schema: &Value, path: &mut Vec<Step>, found: &mut Vec<Found>) {
    let schema = resolved(root, schema);
    assert!(path.len() < 20, "the schema goes in circles");
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(Step::Key(key.clone()));
        // Policies are looked at once, where they stand for all.
        let of_calls = path.iter().any(|step| step.is("calls") || step.is("fields"));
        let again = key == "policies" && path.len() > 1 || key == "cache" && of_calls;
        if !again {
            found.push(Found { path: path.clone(), list: is_list(root, property) });
            walk(root, property, path, found);
        }
        path.pop();
    }
    if schema["additionalProperties"].is_object() {
        path.push(Step::Key("x".to_owned()));
        found.push(Found { path: path.clone(), list: false });
        walk(root, &schema["additionalProperties"], path, found);
        path.pop();
    }
    if schema["items"].is_object() {
        path.push(Step::Item);
        walk(root, &schema["items"], path, found);
        path.pop();
    }
    for alternative in ["anyOf", "oneOf"].iter().flat_map(|word| schema[word].as_array()).flatten() {
        walk(root, alternative, path, found);
    }
}

impl Step {
    fn is(&self, name: &str) -> bool {
        matches!(self, Step::Key(key) if key == name)
    }
}

impl Found {
    /// A file with nothing but what it takes to reach this key, and `value` there.
    fn file(&self, value: Value) -> Value {
        self.path.iter().rev().fold(value, |inner, step| match step {
            Step::Key(key) => json!({ key: inner }),
            Step::Item => json!([inner]),
        })
    }

    fn name(&self) -> String {
        let words: Vec<&str> = self.path.iter().map(|step| if let Step::Key(key) = step { key } else { "-" }).collect();
        words.join(".")
    }

    fn last(&self) -> &str {
        match self.path.last() {
            Some(Step::Key(key)) => key,
            _ => "",
        }
    }
}

/// What is said of a file, with where it is said.
fn said_of(file: &Value) -> Vec<(Option<String>, Problem)> {
    let (mut source, document) = Source::from_text(Path::new("test.yaml"), file.to_string());
    if let Some(document) = document {
        let _ = compile(&document, &mut source, &Surroundings::detached(), 1);
    }
    let root = source.root.clone().expect("is YAML");
    source.problems.iter().map(|problem| (root.path_of(problem.place), problem.clone())).collect()
}

#[test]
fn nothing_at_all_is_never_taken_for_a_value() {
    let schema = schema::schema();
    let keys = keys(&schema);
    assert!(keys.len() > 250, "{}", keys.len());
    let mut missed = Vec::new();
    for key in &keys {
        let file = key.file(Value::Null);
        let said = said_of(&file);
        let hit = said.iter().any(|(_, problem)| {
            let words = &problem.message;
            problem.severity == crate::problem::Severity::Error
                && (words.contains("found nothing")
                    || words.contains("there is nothing in it")
                    || words.contains("a claim is compared"))
        });
        if !hit {
            missed.push(key.name());
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn an_empty_list_says_nothing_where_it_could_mean_all() {
    /// An empty list is none of something there, and absence would be the same or the stricter.
    const NONE_OF_THEM: [&str; 19] = [
        "consumers",
        "consumers.-.api_keys",
        "consumers.-.groups",
        "consumers.-.passwords",
        "consumers.-.scopes",
        "consumers.-.signing_keys",
        "consumers.-.subjects",
        "listeners.-.trusted_proxies",
        "policies.cache.key_headers",
        "policies.external_auth.cache.ignore",
        "policies.external_auth.client_headers",
        "policies.external_auth.deny_headers",
        "policies.external_auth.deny_statuses",
        "policies.external_auth.request_headers",
        "policies.external_auth.upstream_headers",
        "policies.request_headers.remove",
        "policies.response_headers.remove",
        "routes",
        "services.x.upstream_auth.oauth2_client_credentials.scopes",
    ];
    let schema = schema::schema();
    let mut lists = 0;
    let mut missed = Vec::new();
    for key in keys(&schema).iter().filter(|key| key.list) {
        let name = key.name();
        if NONE_OF_THEM.contains(&name.as_str()) {
            continue;
        }
        lists += 1;
        let mut file = key.file(json!([]));
        if let Some(route) = file.pointer_mut("/routes/0").and_then(Value::as_object_mut) {
            // What a route cannot do without, so that it is looked at.
            route.entry("path").or_insert("/".into());
        }
        let said = said_of(&file);
        let own = format!("`{}`", key.last());
        let hit = said.iter().any(|(_, problem)| {
            let words = &problem.message;
            words.contains("an empty list")
                || words.contains("cannot be empty")
                || words.contains("there is no listener")
                || words.contains("has no endpoints")
                || words.contains("serve nobody")
                || words.contains("nobody would reach it")
                || (words.contains(&own)
                    && (words.contains("without") || words.contains("empty") || words.contains("at least one")))
        });
        if !hit {
            missed.push((name, said));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(lists > 30, "{lists}");
}

/// A table of a policy with nothing in it is a policy that does nothing.
#[test]
fn a_policy_without_a_setting_is_refused_or_does_what_it_is_for() {
    /// These work without a setting.
    const WORK: [&str; 10] = [
        "adaptive_concurrency",
        "cache",
        "compress",
        "csrf",
        "graphql",
        "priority",
        "request_headers",
        "response_headers",
        "security_headers",
        "websocket",
    ];
    for entry in crate::policy::registry::REGISTRY.iter().filter(|entry| !WORK.contains(&entry.name)) {
        let file = json!({ "listeners": [{ "bind": "127.0.0.1:8080" }], "policies": { entry.name: {} } });
        let said = said_of(&file);
        let place = format!("policies.{}", entry.name);
        let hit = said.iter().any(|(path, _)| path.as_deref().is_some_and(|path| path.starts_with(&place)));
        assert!(hit, "{}: {said:#?}", entry.name);
    }
}
