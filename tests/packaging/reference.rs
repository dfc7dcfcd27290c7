//! The configuration's reference, written from its JSON Schema: one table for each object, in the order in which people write them.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Above the tables; everything from here on is generated.
pub const MARK: &str = "<!-- From here on generated from the configuration's schema: `make reference`. -->\n";

/// The tables for this schema.
pub fn tables(schema: &Value) -> String {
    let mut writer = Writer { definitions: schema["$defs"].as_object().expect("definitions"), out: String::new() };
    writer.section("The file", "", schema);
    writer.out
}

/// The tables of one policy, and what its value may be.
pub fn policy(schema: &Value, name: &str) -> (String, String) {
    let mut writer = Writer { definitions: schema["$defs"].as_object().expect("definitions"), out: String::new() };
    let table = writer.resolve(&schema["properties"]["policies"]);
    let property = std::iter::once(table).chain(choices(table).map(|one| writer.resolve(one)));
    let property = property.map(|table| &table["properties"][name]).find(|found| found.is_object()).expect(name);
    for (place, object) in writer.objects(property, name, false) {
        writer.section(&format!("`{place}`"), &place, object);
    }
    (writer.kinds(property).join(", "), writer.out)
}

/// An object that has a table, and how one gets there: `tls`, `endpoints[]`, `services.NAME`.
type Found<'a> = (String, &'a Value);

struct Writer<'a> {
    definitions: &'a Map<String, Value>,
    out: String,
}

impl<'a> Writer<'a> {
    /// An object's table, then those of the objects in it.
    fn section(&mut self, title: &str, path: &str, object: &'a Value) {
        let depth = if path.contains('.') { "###" } else { "##" };
        let _ = write!(self.out, "\n{depth} {title}\n\n");
        let about = prose(object);
        if !path.is_empty() && !about.is_empty() {
            let _ = write!(self.out, "{about}\n\n");
        }
        self.out.push_str("| key | value | meaning |\n|---|---|---|\n");
        let properties = object["properties"].as_object().expect("properties");
        let required: Vec<_> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, property) in properties {
            let kinds = self.kinds(property).join(", ");
            let needed = if required.contains(&&**key) { " **Required.**" } else { "" };
            let _ = writeln!(self.out, "| `{key}` | {} | {}{needed} |", cell(&kinds), cell(&prose(property)));
        }
        for (key, property) in properties {
            // The same table everywhere, so it stands once.
            if key == "policies" && !path.is_empty() {
                continue;
            }
            for (place, inner) in self.objects(property, key, false) {
                let path = if path.is_empty() { place } else { format!("{path}.{place}") };
                self.section(&format!("`{path}`"), &path, inner);
            }
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(link) => &self.definitions[link.trim_start_matches("#/$defs/")],
            None => schema,
        }
    }

    /// The objects with tables that a value may be or hold, each once. `choice`: it is one of several ways of writing a value.
    fn objects(&self, schema: &'a Value, place: &str, choice: bool) -> Vec<Found<'a>> {
        let schema = self.resolve(schema);
        let mut found: Vec<Found<'a>> = Vec::new();
        if has_table(schema, choice) {
            found.push((place.to_owned(), schema));
        }
        let mut inner: Vec<Found<'a>> = choices(schema).flat_map(|one| self.objects(one, place, true)).collect();
        if let Some(only) = schema["properties"].as_object().filter(|_| found.is_empty()) {
            // One key is said with the value; what stands below it is not.
            inner.extend(only.iter().flat_map(|(key, property)| self.objects(property, &format!("{place}.{key}"), false)));
        }
        if schema["items"].is_object() {
            inner.extend(self.objects(&schema["items"], &format!("{place}[]"), choice));
        }
        if schema["additionalProperties"].is_object() {
            inner.extend(self.objects(&schema["additionalProperties"], &format!("{place}.NAME"), choice));
        }
        for (place, object) in inner {
            if !found.iter().any(|(_, known)| std::ptr::eq(*known, object)) {
                found.push((place, object));
            }
        }
        found
    }

    /// What a value may be, a few words for each way of writing it.
    fn kinds(&self, schema: &'a Value) -> Vec<String> {
        let schema = self.resolve(schema);
        let mut kinds: Vec<String> = Vec::new();
        for one in choices(schema).flat_map(|one| self.kinds(one)).chain(self.own_kinds(schema)) {
            if one != "null" && !kinds.contains(&one) {
                kinds.push(one);
            }
        }
        // A plain number is a size as well.
        if kinds.iter().any(|kind| kind == "size") {
            kinds.retain(|kind| kind != "integer");
        }
        let lists: Vec<String> = kinds.iter().filter(|kind| kind.starts_with("list of ")).cloned().collect();
        if lists.len() == 1 && kinds.len() > 1 {
            kinds.retain(|kind| !kind.starts_with("list of "));
            kinds.push("or a list of them".to_owned());
        }
        kinds
    }

    fn own_kinds(&self, schema: &'a Value) -> Vec<String> {
        if !schema["const"].is_null() {
            return vec![format!("`{}`", plain(&schema["const"]))];
        }
        if let Some(words) = schema["enum"].as_array() {
            return words.iter().map(|word| format!("`{}`", plain(word))).collect();
        }
        let types = schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |list| list.iter().collect());
        types.into_iter().filter_map(Value::as_str).map(|kind| self.word(kind, schema)).collect()
    }

    fn word(&self, kind: &str, schema: &'a Value) -> String {
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        let keys = || schema["properties"].as_object().into_iter().flat_map(Map::keys);
        match kind {
            "string" if pattern.contains("(ms|") => "duration".to_owned(),
            "string" if pattern.contains("minute") => "rate".to_owned(),
            "string" if schema["examples"][0].as_str().is_some_and(|example| example.ends_with("iB")) => "size".to_owned(),
            "string" if !pattern.is_empty() && pattern.starts_with("^header:") => "`header:NAME`".to_owned(),
            "array" => match &*self.kinds(&schema["items"]) {
                [one] => format!("list of {}", plural(one)),
                several => format!("list of {}", several.join(" or ")),
            },
            "object" if schema["additionalProperties"].is_object() => "table by name".to_owned(),
            "object" if has_table(schema, true) => "table".to_owned(),
            "object" if keys().next().is_some() => {
                format!("`{{ {} }}`", keys().map(|key| format!("{key}: ...")).collect::<Vec<_>>().join(", "))
            }
            "object" => "table".to_owned(),
            "boolean" => "`true`, `false`".to_owned(),
            kind => kind.to_owned(),
        }
    }
}

/// A choice with a single key (`{ file: PATH }`) needs no table, nor does an object whose keys explain themselves; the words for
/// the value say how it is written.
fn has_table(schema: &Value, choice: bool) -> bool {
    let Some(properties) = schema["properties"].as_object() else { return false };
    properties.values().any(|property| property["description"].is_string()) && !(choice && properties.len() == 1)
}

fn choices(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten()
}

fn plural(kind: &str) -> String {
    match kind {
        "table" | "string" | "integer" => format!("{kind}s"),
        other => other.to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn prose(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Every key of every object, for a check that does not depend on how the tables look.
pub fn keys(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(schema, &mut found);
    found.sort();
    found.dedup();
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(properties) = object.get("properties").and_then(Value::as_object) {
                found.extend(properties.keys().cloned());
            }
            object.values().for_each(|inner| collect(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, found)),
        _ => {}
    }
}
