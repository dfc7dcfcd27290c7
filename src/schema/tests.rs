use serde_json::{Value, json};

use super::*;

fn broken(schema: Value, value: Value) -> Vec<(String, &'static str)> {
    let schema = Schema::compile(&schema, true).unwrap();
    let broken = schema.broken(&value, 100_000, 20).map_or_else(Vec::new, |broken| broken.violations);
    assert_eq!(schema.is_valid(&value, 100_000), broken.is_empty());
    broken.into_iter().map(|violation| (violation.pointer, violation.keyword)).collect()
}

fn faults(schema: Value) -> Vec<String> {
    Schema::compile(&schema, false).unwrap_err().into_iter().map(|fault| format!("{} {}", fault.pointer, fault.message)).collect()
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    let schema = json!({
        "type": "object",
        "required": ["id", "items"],
        "properties": {
            "id": { "type": "integer", "minimum": 1 },
            "mail": { "type": "string", "format": "email" },
            "items": { "type": "array", "items": { "$ref": "#/$defs/item" }, "maxItems": 2 }
        },
        "additionalProperties": false,
        "$defs": { "item": { "type": "object", "properties": { "a/b": { "enum": ["x", "y"] } }, "required": ["a/b"] } }
    });
    let value = json!({ "id": 0, "mail": "no", "items": [{ "a/b": "z" }, {}, 7], "more": 1 });
    let said = broken(schema.clone(), value);
    let said: Vec<_> = said.iter().map(|(pointer, keyword)| (pointer.as_str(), *keyword)).collect();
    let wanted = [
        ("/id", "minimum"),
        ("/items", "maxItems"),
        ("/items/0/a~1b", "enum"),
        ("/items/1", "required"),
        ("/items/2", "type"),
        ("/mail", "format"),
        ("/more", "additionalProperties"),
    ];
    let mut sorted = said.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    assert_eq!(broken(schema, json!({ "id": 1.0, "items": [{ "a/b": "x" }] })), []);
}

#[test]
fn no_value_is_repeated() {
    let schema = json!({ "type": "object", "properties": { "pin": {
        "type": "integer", "const": 1, "enum": [2], "minimum": 9000, "maximum": 3, "multipleOf": 7, "not": { "type": "integer" },
        "anyOf": [{ "type": "null" }], "oneOf": [{}, {}]
    } } });
    let schema = Schema::compile(&schema, true).unwrap();
    let broken = schema.broken(&json!({ "pin": 4711 }), 1000, 50).unwrap();
    assert!(broken.violations.len() >= 7, "{broken:?}");
    assert!(broken.violations.iter().all(|violation| !violation.detail.contains("4711")), "{broken:?}");
}

#[test]
fn violations_and_steps_are_bounded() {
    let schema = Schema::compile(&json!({ "items": { "type": "string" } }), false).unwrap();
    let value: Value = (0..100_000).collect();
    let broken = schema.broken(&value, u64::MAX, 20).unwrap();
    assert_eq!((broken.violations.len(), broken.more), (20, true));
    // Two ways at each level, each of them down to the last.
    let twice = json!({ "anyOf": [{ "items": { "$ref": "#" }, "not": { "minItems": 1 } }, { "items": { "$ref": "#" }, "not": { "minItems": 1 } }] });
    let twice = Schema::compile(&twice, false).unwrap();
    let deep = (0..100).fold(json!([]), |value, _| json!([value]));
    let broken = twice.broken(&deep, 200_000, 20).unwrap();
    assert_eq!(broken.violations.last().map(|violation| violation.keyword), Some("complexity"));
    let unique = Schema::compile(&json!({ "uniqueItems": true }), false).unwrap();
    let many: Value = (0..200_000).map(|number| json!({ "a": number })).collect();
    assert!(unique.is_valid(&many, u64::MAX));
}

#[test]
fn numbers_are_what_they_say() {
    for (schema, value, good) in [
        (json!({ "multipleOf": 0.01 }), json!(19.99), true),
        (json!({ "multipleOf": 0.01 }), json!(19.999), false),
        (json!({ "multipleOf": 0.1 }), json!(1e300), true),
        (json!({ "maximum": 9007199254740992u64 }), json!(9007199254740993u64), false),
        (json!({ "minimum": 0.1 }), json!(0.1), true),
        (json!({ "const": 1 }), json!(1.0), true),
        (json!({ "type": "integer" }), json!(1.5), false),
        (json!({ "enum": [18446744073709551615u64] }), json!(18446744073709551614u64), false),
    ] {
        assert_eq!(broken(schema.clone(), value.clone()).is_empty(), good, "{schema} {value}");
    }
}

#[test]
fn what_cannot_be_held_is_refused_at_once() {
    for (schema, what) in [
        (json!({ "$ref": "https://evil.test/a.json" }), "nothing is fetched"),
        (json!({ "$ref": "file:///etc/passwd" }), "nothing is fetched"),
        (json!({ "$ref": "#/$defs/none" }), "leads nowhere"),
        (json!({ "$ref": "#" }), "leads back to itself"),
        (json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "anyOf": [{ "$ref": "#" }] } } }), "leads back to itself"),
        (
            json!({ "properties": { "a": { "pattern": "(?=a)b" } } }),
            "/properties/a/pattern the pattern cannot be used: lookaround",
        ),
        (json!({ "pattern": r"(a)\1" }), "backreferences"),
        (json!({ "pattern": "(?:a{1000}){1000}" }), "too large"),
        (json!({ "pattern": "[" }), "cannot be used"),
        (json!({ "type": "text" }), "`type` is one of"),
        (json!({ "minLength": -1 }), "whole number"),
        (json!({ "required": "a" }), "list of names"),
        (json!({ "multipleOf": 0 }), "more than 0"),
        (json!({ "allOf": [] }), "list of schemas"),
        (json!({ "properties": { "a": 7 } }), "a schema is a table"),
        (json!({ "$schema": "https://json-schema.org/draft/next/schema" }), "not known"),
    ] {
        let said = faults(schema.clone());
        assert!(said.iter().any(|said| said.contains(what)), "{schema}: {said:?}");
    }
}

#[test]
fn patterns_are_those_of_ecma() {
    for (pattern, text, good) in [
        (r"^\d+$", "\u{0663}", false),
        (r"^\w+$", "\u{e9}", false),
        (r"^\s$", "\u{feff}", true),
        (r"^.$", "\u{2028}", false),
        (r"^[a&&b]+$", "&a", true),
        (r"^[\w-]+$", "a-b", true),
        (r"^\u0041\/\cA$", "A/\u{1}", true),
        (r"^\uD83D\uDC32$", "\u{1f432}", true),
        (r"^[^]$", "\n", true),
        (r"^\p{Lu}$", "\u{c4}", true),
        ("a", "xax", true),
    ] {
        assert_eq!(broken(json!({ "pattern": pattern }), json!(text)).is_empty(), good, "{pattern} {text}");
    }
}

#[test]
fn elements_are_told_apart_in_linear_time() {
    let unique = |value: Value| broken(json!({ "uniqueItems": true }), value).is_empty();
    let filled = |more: Value| {
        let mut items: Vec<Value> = (0..10).map(|number| json!([number])).collect();
        items.push(more);
        Value::Array(items)
    };
    for (more, is_new) in [
        (json!([1]), false),
        (json!([1.0]), false),
        (json!([10]), true),
        (json!([[1]]), true),
        (json!([1, []]), true),
        (json!({ "a": 1 }), true),
        (json!(["1"]), true),
    ] {
        assert_eq!(unique(filled(more.clone())), is_new, "{more}");
    }
    assert!(!unique(json!([{ "a": 1, "b": [0.0] }, { "b": [-0.0], "a": 1 }])));

    // Leaves alone would make one of all of these, and so would numbers that are rounded.
    let shapes = |number: usize| {
        let bits = (0..17).map(|bit| if number >> bit & 1 == 1 { json!([[], []]) } else { json!([[[]]]) });
        Value::Array(bits.collect())
    };
    let close = |number: usize| {
        json!([9_223_372_036_854_770_000_u64 + (number % 700) as u64, 9_223_372_036_854_770_000_u64 + (number / 700) as u64])
    };
    let schema = Schema::compile(&json!({ "uniqueItems": true }), false).unwrap();
    let started = std::time::Instant::now();
    assert!(schema.is_valid(&(0..20_000).map(shapes).collect(), 3_000_000));
    assert!(schema.is_valid(&(0..20_000).map(close).collect(), 3_000_000));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn telling_elements_apart_takes_steps() {
    let schema = json!({ "type": "array", "uniqueItems": true, "items": { "$ref": "#" }, "maxItems": 5 });
    let schema = Schema::compile(&schema, false).unwrap();
    let nested = (0..60).fold(json!([[]]), |inner, _| json!([inner, []]));
    assert!(schema.is_valid(&nested, 10_000));
    let broken = schema.broken(&nested, 1_000, 20).unwrap();
    assert_eq!(broken.violations.last().unwrap().keyword, "complexity", "{broken:?}");
    let many = Value::Array(vec![json!(1); 10]);
    let said: Vec<_> = schema.broken(&many, 10_000, 20).unwrap().violations.iter().map(|one| one.keyword).collect();
    assert!(said.contains(&"maxItems") && !said.contains(&"uniqueItems"), "{said:?}");
}

#[test]
fn a_discriminator_chooses_in_openapi_alone_and_of_one_list() {
    let schema = json!({
        "discriminator": { "propertyName": "is" },
        "oneOf": [{ "$ref": "#/$defs/Cat" }, { "$ref": "#/$defs/Dog" }],
        "anyOf": [{ "required": ["name"] }, { "required": ["nick"] }],
        "$defs": { "Cat": { "required": ["lives"] }, "Dog": { "required": ["barks"] } }
    });
    let openapi = |schema: &Value, value: Value| {
        let dialect = Dialect { draft: Draft::Draft202012, openapi: true, openapi_30: false, formats: false, lenient: false };
        let parts = Schema::compile_parts(schema, dialect, &[(schema, String::new())]).unwrap();
        let broken = parts.schema.broken_at(parts.roots[0], &value, 1000, 20, Direction::Neither);
        broken.map_or_else(Vec::new, |broken| broken.violations.iter().map(|one| one.keyword).collect())
    };
    assert_eq!(openapi(&schema, json!({ "is": "Cat", "lives": 9, "name": "tom" })), [""; 0]);
    assert_eq!(openapi(&schema, json!({ "is": "Cat", "lives": 9 })), ["anyOf"], "the other list says something too");
    assert_eq!(openapi(&schema, json!({ "is": "Dog", "lives": 9, "name": "tom" })), ["required"]);
    assert_eq!(openapi(&schema, json!({ "is": "Cow", "barks": true, "name": "tom" })), ["discriminator"]);
    let plain = |value| broken(schema.clone(), value).into_iter().map(|(_, keyword)| keyword).collect::<Vec<_>>();
    assert_eq!(plain(json!({ "is": "Cow", "barks": true, "name": "tom" })), [""; 0], "a word like any other");
    assert_eq!(plain(json!({ "barks": true, "lives": 9, "name": "tom" })), ["oneOf"]);
}
