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
    let mut root = document.to_value();
    let mut definitions = Value::Object(generator.take_definitions(true));
    put_policies(&mut root, &policies);
    put_policies(&mut definitions, &policies);
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), "Portcullis configuration".into());
        root.insert("$defs".into(), definitions);
    }
    root
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

/// Replaces each object's `policies` property, which the derived schemas know only as raw YAML.
fn put_policies(value: &mut Value, policies: &Schema) {
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
            object.values_mut().for_each(|inner| put_policies(inner, policies));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| put_policies(inner, policies)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
