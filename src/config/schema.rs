//! The JSON Schema of a configuration file, for editors: the document's own, with the policies' schemas put in from the registry.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::Document;
use crate::policy::registry::REGISTRY;

/// The schema of the whole file (JSON Schema 2020-12).
pub fn schema() -> Value {
    let mut generator = SchemaGenerator::default();
    let document = Document::json_schema(&mut generator);
    let policies = policies(&mut generator);
    let cache = policies.get("properties").and_then(|all| all.get("cache")).cloned().unwrap_or_default();
    let mut root = document.to_value();
    let mut definitions = Value::Object(generator.take_definitions(true));
    put_policies(&mut root, &policies, &cache);
    put_policies(&mut definitions, &policies, &cache);
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "Portcullis configuration".into());
        root.insert("$defs".into(), definitions);
    }
    root
}

/// Whether a schema says nothing of what is written there.
fn is_raw(schema: &Value) -> bool {
    schema.as_object().is_none_or(|words| words.keys().all(|word| matches!(word.as_str(), "description" | "default")))
}

fn policies(generator: &mut SchemaGenerator) -> Schema {
    let mut properties = Map::new();
    for entry in REGISTRY {
        let schema = (entry.schema)(generator).to_value();
        properties.insert(
            entry.name.to_owned(),
            serde_json::json!({ "description": entry.summary, "anyOf": [schema, { "const": false }] }),
        );
    }
    json_schema!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// Replaces each object's `policies` property, and a call's `cache`, which the derived schemas know only as raw YAML.
fn put_policies(value: &mut Value, policies: &Schema, cache: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get_mut("properties")
                && let Some(slot) = properties.get_mut("policies")
            {
                let meaning = slot.get("description").cloned();
                *slot = policies.clone().to_value();
                if let (Some(slot), Some(meaning)) = (slot.as_object_mut(), meaning) {
                    slot.insert("description".into(), meaning);
                }
            }
            if let Some(Value::Object(properties)) = object.get_mut("properties")
                && let Some(slot) = properties.get_mut("cache").filter(|slot| is_raw(slot))
            {
                let meaning = slot.get("description").cloned();
                *slot = cache.clone();
                if let (Some(slot), Some(meaning)) = (slot.as_object_mut(), meaning) {
                    slot.insert("description".into(), meaning);
                }
            }
            object.values_mut().for_each(|inner| put_policies(inner, policies, cache));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| put_policies(inner, policies, cache)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever the schema lets people choose the keys and write any text as their values, nothing says what the text is.
    #[test]
    fn what_people_may_write_under_names_of_their_own_is_not_shown() {
        /// Names of fields and claims, places in bodies, and what a token's holder can read in it.
        const SHOWN: [&str; 8] = ["claims_to_headers", "claims", "header", "move", "rename", "type_names", "unwrap", "wrap"];
        const CANARY: &str = "canary-4711";
        let schema = schema();
        let mut free = std::collections::BTreeMap::new();
        find_free(&schema, &schema, &mut free);
        assert!(["set", "add", "headers", "query"].iter().all(|key| free.contains_key(*key)), "{free:?}");
        for (key, inner) in free.iter().filter(|(key, _)| !SHOWN.contains(&key.as_str())) {
            let plain = std::iter::once(format!("{key}: {{ X-Custom: {CANARY} }}"));
            let inner = inner.iter().map(|word| format!("{key}: {{ X-Custom: {{ {word}: {CANARY} }} }}"));
            for yaml in plain.chain(inner) {
                let mut problems = crate::problem::Problems::default();
                let root = crate::node::parse(&yaml, &|_| None, &mut problems).expect("is YAML");
                let shown = crate::node::redacted_json(&root).to_string();
                assert!(!shown.contains(CANARY), "{shown}");
            }
        }
    }

    fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
        name.map_or(schema, |name| resolved(root, &root["$defs"][name]))
    }

    /// Whether any text is a value of this schema.
    fn takes_any_text(root: &Value, schema: &Value) -> bool {
        let schema = resolved(root, schema);
        let text =
            || schema["type"] == "string" || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&"string".into()));
        let any = |word: &str| schema[word].as_array().is_some_and(|all| all.iter().any(|one| takes_any_text(root, one)));
        *schema == Value::Bool(true)
            || (text() && schema.get("pattern").is_none() && schema.get("enum").is_none())
            || any("anyOf")
            || any("oneOf")
    }

    /// The properties that are maps from any name to any text, with the keys under which the text may stand.
    fn find_free(root: &Value, schema: &Value, free: &mut std::collections::BTreeMap<String, Vec<String>>) {
        let Value::Object(object) = schema else {
            return schema.as_array().into_iter().flatten().for_each(|inner| find_free(root, inner, free));
        };
        for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let values = &resolved(root, property)["additionalProperties"];
            if takes_any_text(root, values) {
                let values = resolved(root, values);
                let shapes = values["oneOf"].as_array().or(values["anyOf"].as_array()).cloned().unwrap_or_default();
                let words =
                    shapes.iter().filter_map(|shape| shape["properties"].as_object()).flat_map(|words| words.keys().cloned());
                free.entry(name.clone()).or_default().extend(words);
            }
        }
        object.values().for_each(|inner| find_free(root, inner, free));
    }

    #[test]
    fn the_schema_knows_every_policy() {
        let schema = schema();
        let policies = &schema["properties"]["policies"]["properties"];
        for entry in REGISTRY {
            assert!(policies.get(entry.name).is_some(), "{} is missing", entry.name);
        }
        let meaning = &schema["properties"]["policies"]["description"];
        assert!(meaning.as_str().is_some_and(|text| text.contains("`false`")), "{meaning}");
    }
}
