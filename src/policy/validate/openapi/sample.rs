//! A value that is as a schema says: for mocks, and for whoever tests a contract.
//!
//! Examples first, then `default`, `const` and `enum`, then whatever the keywords allow. Bounded in size and depth: a schema may be within
//! itself, and what is optional is left out where it goes deep.

use std::cell::Cell;

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Number, Value, json};

use crate::carrier::{decode_escapes, lossy};
use crate::schema::{Direction, pattern_syntax};

/// So many levels have what is optional.
const SHALLOW: usize = 4;
const DEEPEST: usize = 24;
/// The most values within one.
const MOST: usize = 2000;
/// The longest text and list that is made.
const LONGEST: u64 = 1000;

/// Makes values from the schemas of one document.
pub struct Sampler<'v> {
    document: &'v Value,
    direction: Direction,
    left: Cell<usize>,
}

impl<'v> Sampler<'v> {
    pub fn new(document: &'v Value, direction: Direction) -> Self {
        Sampler { document, direction, left: Cell::new(MOST) }
    }

    pub fn value(&self, schema: &'v Value) -> Value {
        self.left.set(MOST);
        self.make(schema, 0, 0)
    }

    /// What a `$ref` leads to.
    pub fn followed(&self, mut value: &'v Value) -> &'v Value {
        for _ in 0..16 {
            let Some(fragment) = value.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#')) else { break };
            let Some(found) = self.document.pointer(&lossy(decode_escapes(fragment))) else { break };
            value = found;
        }
        value
    }

    /// `number`: the how manieth of a list it is, for those whose elements must differ.
    fn make(&self, schema: &'v Value, depth: usize, number: u64) -> Value {
        let schema = self.followed(schema);
        let left = self.left.get();
        if depth > DEEPEST || left == 0 {
            return Value::Null;
        }
        self.left.set(left - 1);
        let nth = |list: &Vec<Value>| list.get(usize::try_from(number).unwrap_or(0) % list.len().max(1)).cloned();
        let said =
            schema.get("example").or_else(|| schema.get("default")).or_else(|| schema.get("const")).filter(|_| number == 0);
        let listed = || schema.get("examples").and_then(Value::as_array).filter(|_| number == 0).and_then(nth);
        let options = || schema.get("enum").and_then(Value::as_array).and_then(nth);
        // What is made of parts may have some that go the other way.
        if let Some(said) = said
            .cloned()
            .or_else(listed)
            .or_else(options)
            .filter(|said| !said.is_object() && !said.is_array() && fits(schema, said))
        {
            return said;
        }
        let list = |key: &str| schema.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
        let mut made = None;
        for part in list("allOf").into_iter().flatten() {
            made = Some(merged(made, self.make(part, depth + 1, number)));
        }
        if let Some(alternatives) = list("oneOf").or(list("anyOf")) {
            let not_null = |one: &&Value| self.followed(one).get("type").and_then(Value::as_str) != Some("null");
            if let Some(first) = alternatives.iter().find(not_null).or(alternatives.first()) {
                let mut value = self.make(first, depth + 1, number);
                self.name_kind(schema, first, &mut value);
                made = Some(merged(made, value));
            }
        }
        match self.kind(schema) {
            "object" => merged(made, self.object(schema, depth)),
            "array" => self.array(schema, depth),
            "string" => Value::String(text(schema, number)),
            "integer" => numeric(schema, true, number),
            "number" => numeric(schema, false, number),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => made.unwrap_or_else(|| json!("text")),
        }
    }

    fn kind(&self, schema: &'v Value) -> &'v str {
        match schema.get("type") {
            Some(Value::String(name)) => name,
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null"),
            _ if schema.get("properties").is_some() || schema.get("additionalProperties").is_some() => "object",
            _ if schema.get("required").is_some() => "object",
            _ if schema.get("items").is_some() => "array",
            _ if schema.get("pattern").is_some() => "string",
            _ => "",
        }
    }

    /// Says which of the alternatives it is.
    fn name_kind(&self, schema: &'v Value, chosen: &'v Value, value: &mut Value) {
        let Some(property) = schema.pointer("/discriminator/propertyName").and_then(Value::as_str) else { return };
        let path = chosen.get("$ref").and_then(Value::as_str).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let mapping = schema.pointer("/discriminator/mapping").and_then(Value::as_object);
        let mapped = mapping
            .into_iter()
            .flatten()
            .find(|(_, target)| target.as_str().is_some_and(|target| target == path || target == name));
        if let Some(members) = value.as_object_mut() {
            members.insert(property.to_owned(), Value::from(mapped.map_or(name, |(value, _)| value.as_str())));
        }
    }

    fn object(&self, schema: &'v Value, depth: usize) -> Value {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut members = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let target = self.followed(property);
            let is = |key: &str| property.get(key).or(target.get(key)) == Some(&Value::Bool(true));
            let other_way = match self.direction {
                Direction::ToService => is("readOnly"),
                Direction::ToClient => is("writeOnly"),
                Direction::Neither => false,
            };
            let wanted = required.contains(&name.as_str()) || depth < SHALLOW;
            if other_way || !wanted || property == &Value::Bool(false) {
                continue;
            }
            members.insert(name.clone(), self.make(property, depth + 1, 0));
        }
        let more = schema.get("additionalProperties").filter(|more| more.is_object());
        for name in required.iter().filter(|name| !properties.is_some_and(|known| known.contains_key(**name))) {
            members.insert((*name).to_owned(), more.map_or(json!("text"), |more| self.make(more, depth + 1, 0)));
        }
        let least = schema.get("minProperties").and_then(Value::as_u64).unwrap_or(0).min(LONGEST);
        let mut number = 0;
        while (members.len() as u64) < least && number < LONGEST {
            number += 1;
            members.insert(format!("name{number}"), more.map_or(json!("text"), |more| self.make(more, depth + 1, 0)));
        }
        Value::Object(members)
    }

    fn array(&self, schema: &'v Value, depth: usize) -> Value {
        let said = |key: &str| schema.get(key).and_then(Value::as_u64);
        let most = said("maxItems").unwrap_or(LONGEST);
        let count = said("minItems").unwrap_or(u64::from(depth < SHALLOW)).min(LONGEST).min(most);
        let prefix = schema.get("prefixItems").and_then(Value::as_array);
        let each = |number: u64| {
            let own = prefix.and_then(|all| all.get(usize::try_from(number).unwrap_or(0)));
            let items = own.or(schema.get("items")).filter(|items| items.is_object());
            items.map_or(json!(number), |items| self.make(items, depth + 1, number))
        };
        (0..count).map(each).collect()
    }
}

fn merged(first: Option<Value>, second: Value) -> Value {
    match (first, second) {
        (Some(Value::Object(mut first)), Value::Object(second)) => {
            for (name, value) in second {
                // One of which nothing was known but its name gives way.
                if first.get(&name).is_none_or(|known| known == "text") {
                    first.insert(name, value);
                }
            }
            Value::Object(first)
        }
        (Some(first), Value::Null) => first,
        (Some(first @ Value::Object(_)), _) => first,
        (_, second) => second,
    }
}

/// Whether what is given as an example can be one: documents have others, too.
fn fits(schema: &Value, said: &Value) -> bool {
    let is = |name: &str| match name {
        "string" => said.is_string(),
        "integer" => said.is_i64() || said.is_u64(),
        "number" => said.is_number(),
        "boolean" => said.is_boolean(),
        "null" => said.is_null(),
        _ => false,
    };
    let length = said.as_str().map(|text| text.chars().count() as u64);
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    let short = bound("minLength").zip(length).is_some_and(|(least, length)| length < least);
    let long = bound("maxLength").zip(length).is_some_and(|(most, length)| length > most);
    let listed = schema.get("enum").and_then(Value::as_array).is_none_or(|options| options.contains(said));
    let typed = match schema.get("type") {
        Some(Value::String(name)) => is(name) || said.is_null() && schema.get("nullable") == Some(&Value::Bool(true)),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    typed && listed && !short && !long
}

fn text(schema: &Value, number: u64) -> String {
    let said = |key: &str| schema.get(key).and_then(Value::as_u64);
    let (least, most) = (said("minLength").unwrap_or(0).min(LONGEST), said("maxLength").unwrap_or(LONGEST));
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        let found = pattern_syntax(pattern).and_then(|hir| {
            let mut made = (0..=8).chain([16, 32, 64, 128, u32::try_from(least).unwrap_or(0)]).map(|more| {
                let mut out = String::new();
                from_pattern(&hir, more, &mut out);
                out
            });
            made.find(|text| (least..=most).contains(&(text.chars().count() as u64)))
        });
        if let Some(found) = found {
            return found;
        }
    }
    let text = match schema.get("format").and_then(Value::as_str).unwrap_or_default() {
        "date-time" => "2026-01-02T03:04:05Z",
        "date" => "2026-01-02",
        "time" => "03:04:05Z",
        "email" => "user@example.com",
        "hostname" => "www.example.com",
        "ipv4" => "192.0.2.1",
        "ipv6" => "2001:db8::1",
        "uri" | "url" | "uri-reference" => "https://example.com/",
        "uuid" => "123e4567-e89b-42d3-a456-426614174000",
        "json-pointer" => "/a/b",
        "byte" => "dGV4dA==",
        _ => "text",
    };
    let mut text = text.to_owned();
    if number > 0 {
        text.push_str(&number.to_string());
    }
    while (text.chars().count() as u64) < least {
        text.push('x');
    }
    text.chars().take(usize::try_from(most).unwrap_or(usize::MAX)).collect()
}

/// A text of the pattern, with `more` turns of what may come often.
fn from_pattern(hir: &Hir, more: u32, out: &mut String) {
    if out.len() as u64 > LONGEST {
        return;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(Class::Unicode(class)) => {
            let plain = |c: &char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(c));
            let first = class.ranges().first().map(|range| range.start());
            out.extend(('a'..='z').chain('0'..='9').chain('A'..='Z').chain(' '..='~').find(plain).or(first));
        }
        HirKind::Class(Class::Bytes(class)) => out.extend(class.ranges().first().map(|range| char::from(range.start()))),
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(u32::MAX);
            for _ in 0..repetition.min.saturating_add(more).min(most).min(1000) {
                from_pattern(&repetition.sub, more, out);
            }
        }
        HirKind::Capture(capture) => from_pattern(&capture.sub, more, out),
        HirKind::Concat(all) => all.iter().for_each(|one| from_pattern(one, more, out)),
        HirKind::Alternation(all) => all.iter().take(1).for_each(|one| from_pattern(one, more, out)),
    }
}

fn numeric(schema: &Value, whole: bool, number: u64) -> Value {
    let said = |key: &str| schema.get(key).and_then(Value::as_f64);
    let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let step = said("multipleOf").filter(|step| *step > 0.0).unwrap_or(if whole { 1.0 } else { 0.5 });
    let (mut least, mut most) = (said("minimum"), said("maximum"));
    let mut strictly = (flag("exclusiveMinimum"), flag("exclusiveMaximum"));
    if let Some(above) = said("exclusiveMinimum").filter(|above| least.is_none_or(|least| *above >= least)) {
        (least, strictly.0) = (Some(above), true);
    }
    if let Some(below) = said("exclusiveMaximum").filter(|below| most.is_none_or(|most| *below <= most)) {
        (most, strictly.1) = (Some(below), true);
    }
    let mut value = match (least, most) {
        (Some(least), _) => (least / step).ceil() * step,
        (None, Some(most)) => (most.min(1.0) / step).floor() * step,
        (None, None) => {
            if whole {
                step
            } else {
                step * 3.0
            }
        }
    };
    if strictly.0 && least == Some(value) {
        value += step;
    }
    if strictly.1 && most == Some(value) {
        value -= step;
    }
    value += step * number as f64;
    // Between narrow bounds.
    if let (Some(least), Some(most), false) = (least, most, whole)
        && (value > most || strictly.1 && value >= most)
    {
        value = f64::midpoint(least, most);
    }
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
