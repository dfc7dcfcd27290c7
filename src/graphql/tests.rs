use std::cell::Cell;

use serde_json::{Map, json};

use super::validate::validate;
use super::*;
use crate::json::Exact;

const SCHEMA: &str = r#"
"A shop."
schema { query: Root mutation: Change }
type Root {
  "One of them."
  product(sku: ID!): Product
  products(first: Int = 10, filter: Filter, order: [Order!]): [Product!]!
  node(id: ID!): Node
  search(text: String!): [Found!]!
}
type Change { rename(sku: ID!, name: String!): Product }
interface Node { id: ID! }
type Product implements Node { id: ID! name: String! price: Float old: Int @deprecated(reason: "no") reviews(first: Int): [Review!] when: Date }
type Review implements Node { id: ID! text: String product: Product! }
union Found = Product | Review
enum Order { NAME PRICE }
input Filter { text: String, min: Float = 0.5, not: Filter, tags: [String!] }
scalar Date @specifiedBy(url: "https://example.com/date")
"#;

fn schema() -> Schema {
    Schema::parse(SCHEMA).unwrap()
}

fn told(text: &str) -> Vec<String> {
    match Document::parse(text, 10_000) {
        Ok(document) => validate(&schema(), &document).into_iter().map(|wrong| wrong.message).collect(),
        Err(wrong) => vec![wrong.message],
    }
}

#[test]
fn good_documents_pass() {
    for text in [
        "{ product(sku: 1) { id name reviews(first: 2) { text product { name } } } }",
        "query A($sku: ID!) { product(sku: $sku) { ...p } } fragment p on Product { name ... on Node { id } }",
        "query($first: Int) { products(first: $first, filter: { text: \"a\", not: { min: 1 } }, order: NAME) { name } }",
        "query($min: Float, $on: Boolean! = true) { products(filter: { min: $min }) { name @include(if: $on) } }",
        "{ search(text: \"\"\"x\"\"\") { __typename ... on Product { name } ... on Review { text } } }",
        "{ node(id: \"1\") { id ... on Product { a: name } ... on Review { a: text product { id } } } }",
        "mutation { rename(sku: 1, name: \"\\u00e9\\u{1F600}\\uD83D\\uDE00\") { name } }",
        "{ a: product(sku: 1) { name } b: product(sku: 2) { name } }",
        "{ product(sku: 1) { name name } product(sku: 1) { id } }",
        "{ __schema { types { name fields { args { defaultValue } type { ofType { name } } } } } __type(name: \"Product\") { kind } }",
    ] {
        // (A leaf that is null here and never there is no conflict that matters to anybody but the rule.)
        let told = told(text);
        assert!(told.is_empty() || text.contains("a: name } ... on Review { a: text"), "{text}: {told:?}");
    }
}

#[test]
fn bad_documents_are_told_why() {
    for (text, said) in [
        ("{ nothing }", "The type \"Root\" has no field \"nothing\"."),
        ("{ product(sku: 1) }", "say which of its fields are wanted"),
        ("{ product(sku: 1) { name { x } } }", "has no fields to choose from"),
        ("{ product { name } }", "The field \"product\" needs the argument \"sku\" of type"),
        ("{ product(sku: 1, x: 2) { name } }", "The field \"product\" takes no argument \"x\"."),
        ("{ product(sku: 1, sku: 1) { name } }", "The argument \"sku\" is given more than once."),
        ("{ product(sku: 1.5) { name } }", "1.5 is no `ID`"),
        ("{ products(first: 3000000000) { name } }", "3000000000 is no `Int`"),
        ("{ products(order: [NAM]) { name } }", "NAM is no value of the enum `Order`"),
        ("{ products(filter: { x: 1 }) { name } }", "`Filter` has no field `x`"),
        ("{ product(sku: null) { name } }", "null is no `ID!`"),
        ("query($a: Int) { product(sku: 1) { name } }", "Nothing uses the variable \"$a\"."),
        ("{ product(sku: $a) { name } }", "The variable \"$a\" is not declared."),
        ("query($a: String!) { product(sku: $a) { name } }", "is of type \"String!\", and stands where \"ID!\" is needed"),
        ("query($a: ID) { product(sku: $a) { name } }", "is of type \"ID\", and stands where"),
        ("query($a: Product) { product(sku: $a) { name } }", "cannot be of the type \"Product\""),
        ("query($a: Int = \"x\") { products(first: $a) { name } }", "\"x\" is no `Int`"),
        ("{ ...f }", "There is no fragment \"f\"."),
        ("{ product(sku: 1) { name } } fragment f on Product { name }", "Nothing uses the fragment \"f\"."),
        ("{ product(sku: 1) { ...f } } fragment f on Nothing { name }", "which has no fields"),
        ("{ product(sku: 1) { ...f } } fragment f on Product { ...g } fragment g on Product { ...f }", "spreads itself"),
        ("{ product(sku: 1) { ... on Review { text } } }", "can ever be of \"Review\""),
        ("{ product(sku: 1) { name @nothing } }", "There is no directive \"@nothing\"."),
        ("query @skip(if: true) { product(sku: 1) { name } }", "cannot stand there"),
        ("{ product(sku: 1) { name @skip(if: true) @skip(if: false) } }", "may stand there once"),
        ("{ product(sku: 1) { name @skip } }", "The directive \"@skip\" needs the argument \"if\" of type"),
        ("query A { product(sku: 1) { name } } query A { product(sku: 1) { name } }", "Several operations are named \"A\"."),
        ("query A { product(sku: 1) { name } } { product(sku: 1) { name } }", "has to be the only one"),
        ("{ a: product(sku: 1) { name } a: product(sku: 2) { name } }", "would be called \"a\""),
        ("{ product(sku: 1) { a: name a: id } }", "would be called \"a\""),
        ("{ search(text: \"a\") { ... on Product { a: price } ... on Review { a: text } } }", "one is `String`"),
        ("subscription { product(sku: 1) { name } }", "Subscriptions cannot be had"),
        ("{ product(sku: \"\\uD800\") { name } }", "Syntax error."),
        ("{ product(sku: 1) { name } ", "Syntax error."),
    ] {
        let told = told(text);
        assert!(told.iter().any(|wrong| wrong.contains(said)), "{text}: {told:?}");
    }
    assert_eq!(location("a\n  bc", 5), (2, 4));
    let places = locations("\u{e9}\nx\n", [0, 3, 4, 99]);
    assert_eq!(places.into_values().collect::<Vec<_>>(), [(1, 1), (2, 1), (2, 2), (3, 1)]);
    // Every way to it counts, and there are more of them than anybody can look at.
    let mut bomb = "{ product(sku: 1) { reviews { product { ...f0 } } } }".to_owned();
    for number in 0..40 {
        let next = number + 1;
        bomb += &format!(
            " fragment f{number} on Product {{ a: reviews {{ product {{ ...f{next} }} }} b: reviews {{ product {{ ...f{next} }} }} }}"
        );
    }
    bomb += " fragment f40 on Product { name }";
    let began = std::time::Instant::now();
    assert_eq!(told(&bomb), ["The document is too complex."]);
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn values_of_clients_are_coerced() {
    let schema = schema();
    let given = |ty: &str, value| coerce::input(&schema, &ast::Type::parse(ty).unwrap(), value, &|_| true);
    for (ty, value, is) in [
        ("Int", json!(3), json!(3)),
        ("Int", json!(3.0), json!(3)),
        ("Float", json!(3), json!(3)),
        ("ID", json!(3), json!("3")),
        ("[Int!]", json!(3), json!([3])),
        ("[[Int]]", json!([1]), json!([[1]])),
        ("Order", json!("NAME"), json!("NAME")),
        ("Filter", json!({ "not": {} }), json!({ "min": 0.5, "not": { "min": 0.5 } })),
        ("Filter", json!({ "min": null }), json!({ "min": null })),
        ("Date", json!({ "any": [1] }), json!({ "any": [1] })),
        ("Int", json!(null), json!(null)),
    ] {
        assert_eq!(given(ty, value.clone()), Ok(is), "{ty} {value}");
    }
    for (ty, value) in [
        ("Int", json!("3")),
        ("Int", json!(2_147_483_648_u64)),
        ("Int", json!(1.5)),
        ("Float", json!("1")),
        ("String", json!(1)),
        ("Boolean", json!(1)),
        ("ID", json!(1.5)),
        ("Int!", json!(null)),
        ("[Int!]", json!([null])),
        ("Order", json!("SIZE")),
        ("Filter", json!({ "x": 1 })),
        ("Filter", json!([])),
    ] {
        assert!(given(ty, value.clone()).is_err(), "{ty} {value}");
    }
    let document = Document::parse("query($a: Int = 2, $b: ID!, $c: Int) { products(first: $c) { name } }", 1000).unwrap();
    let variables = |given: serde_json::Value| {
        coerce::variables(&schema, &document.operations[0], given.as_object().unwrap().clone(), &|_| true)
    };
    let some = variables(json!({ "b": 1, "other": 1 })).unwrap();
    assert_eq!(["a", "b", "c", "other"].map(|name| some.get(name).cloned()), [Some(json!(2)), Some(json!("1")), None, None]);
    assert!(variables(json!({})).is_err() && variables(json!({ "b": null })).is_err());
    // What is not given leaves what the schema says; what is given as null does not.
    let ast::Selection::Field(field) = &document.operations[0].set[0] else { panic!() };
    let defined = &schema.field("Root", "products").unwrap().arguments;
    let arguments = |given: serde_json::Value| {
        let variables = variables(given).unwrap();
        coerce::arguments(&schema, defined, &field.arguments, &variables, 0, &|_| true).unwrap().get("first").cloned()
    };
    assert_eq!((arguments(json!({ "b": 1 })), arguments(json!({ "b": 1, "c": null }))), (Some(json!(10)), Some(json!(null))));
}

/// A variable that is named often is copied as often, and so is a default: whoever has the memory is asked before.
#[test]
fn copies_are_paid_for_before_they_are_made() {
    let schema = schema();
    let spends = |text: &str, given: serde_json::Value, most: usize| {
        let document = Document::parse(text, 10_000).unwrap();
        assert!(validate(&schema, &document).is_empty());
        let (operation, spent) = (&document.operations[0], Cell::new(0));
        let pays = |bytes: usize| {
            let all = spent.get() + bytes;
            if all <= most {
                spent.set(all);
            }
            all <= most
        };
        let ast::Selection::Field(field) = &operation.set[0] else { panic!() };
        let defined = &schema.field("Root", "products").unwrap().arguments;
        let made = coerce::variables(&schema, operation, given.as_object().unwrap().clone(), &pays)
            .and_then(|variables| coerce::arguments(&schema, defined, &field.arguments, &variables, 0, &pays));
        (made.map_err(|wrong| wrong.message), spent.get())
    };
    let tags = format!("query($v: String!) {{ products(filter: {{ tags: [{}] }}) {{ name }} }}", "$v ".repeat(1000));
    let long = json!({ "v": "x".repeat(10_000) });
    let (made, spent) = spends(&tags, long.clone(), 1_000_000);
    assert!(made.is_err_and(|why| why.contains("more memory")) && spent <= 1_000_000);
    let (made, spent) = spends(&tags, long, 50_000_000);
    assert_eq!(made.unwrap()["filter"]["tags"].as_array().unwrap().len(), 1000);
    assert!((10_000_000..20_000_000).contains(&spent), "{spent}");
    // `{}` is two letters, and what stands in for what is left out in it is many.
    let nested = "query($v: Filter) { products(filter: $v) { name } }";
    let mut filter = json!({});
    for _ in 0..50 {
        filter = json!({ "not": filter });
    }
    let (made, spent) = spends(nested, json!({ "v": filter }), 1_000_000);
    assert!(made.is_ok() && spent > 50 * 64, "{spent}");
    assert!(spends(nested, json!({ "v": { "not": {} } }), 100).0.is_err());
}

#[test]
fn values_of_services_are_what_the_schema_says_or_none() {
    let schema = schema();
    let out = |ty: &str, value: serde_json::Value| coerce::output(&schema, ty, &Exact::from(value)).map(|value| value.rounded());
    assert_eq!(out("ID", json!(7)), Some(json!("7")));
    assert_eq!(out("String", json!(7.5)), Some(json!("7.5")));
    assert_eq!(out("Int", json!(7.0)), Some(json!(7)));
    assert_eq!(out("Date", json!([1])), Some(json!([1])));
    for (ty, value) in
        [("Int", json!(1e10)), ("Int", json!("7")), ("Boolean", json!(1)), ("Order", json!("X")), ("String", json!({}))]
    {
        assert_eq!(out(ty, value), None, "{ty}");
    }
    let told = |ty: &str, text: &str| {
        let value = coerce::output(&schema, ty, &Exact::read(text.as_bytes()).unwrap())?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    };
    for (ty, text, said) in [
        ("ID", "12345678901234567890123", Some("\"12345678901234567890123\"")),
        ("String", "1.10", Some("\"1.10\"")),
        ("Float", "1.10", Some("1.10")),
        ("Float", "1e400", None),
        ("Int", "1e400", None),
        ("Int", "7.0", Some("7")),
        ("Date", "{\"a\":[1e400]}", Some("{\"a\":[1e400]}")),
    ] {
        assert_eq!(told(ty, text).as_deref(), said, "{ty} {text}");
    }
}

#[test]
fn a_schema_tells_of_itself() {
    let schema = schema();
    let no = Map::new();
    let all = json!({ "includeDeprecated": true });
    assert_eq!(introspect::field(&schema, "__Schema", &json!({}), "queryType", &no), json!("Root"));
    assert_eq!(introspect::field(&schema, "__Type", &json!("[Product!]!"), "kind", &no), json!("NON_NULL"));
    assert_eq!(introspect::field(&schema, "__Type", &json!("[Product!]!"), "ofType", &no), json!("[Product!]"));
    let fields =
        |arguments| introspect::field(&schema, "__Type", &json!("Product"), "fields", arguments).as_array().unwrap().len();
    assert_eq!((fields(&no), fields(all.as_object().unwrap())), (5, 6));
    let of_products = json!({ "type": "Root", "field": "products" });
    let arguments = introspect::field(&schema, "__Field", &of_products, "args", &no);
    assert_eq!(introspect::field(&schema, "__InputValue", &arguments[0], "defaultValue", &no), json!("10"));
    assert_eq!(introspect::field(&schema, "__Type", &json!("Node"), "possibleTypes", &no), json!(["Product", "Review"]));
    assert_eq!(introspect::root(&schema, "__type", json!({ "name": "Nothing" }).as_object().unwrap()), json!(null));
}

#[test]
fn bad_schemas_are_told_why() {
    for (text, said) in [
        ("", "Syntax error"),
        ("type A { a: Int }", "no object type `Query`"),
        ("type Query { a: Nothing }", "`a` is of the type `Nothing`"),
        ("type Query { a(b: Query): Int }", "`b` is of the type `Query`"),
        ("type Query { a: Int a: Int }", "there twice"),
        ("type Query { a: Int } type Query { b: Int }", "there twice"),
        ("type Query { __a: Int }", "two underscores"),
        ("type Query implements N { a: Int } interface N { b: Int }", "`N` has a field `b`"),
        ("type Query implements N { a: String } interface N { a: Int }", "`a` is `String`, and `Int` in `N`"),
        ("type Query { a: U } union U = X", "no object type `X`"),
        ("type Query { a(b: I): Int } input I { c: I! }", "needs itself"),
        ("type Query { a(b: Int = \"x\"): Int }", "the default of `b`"),
        ("type Query { a(b: I): Int } input I { c: I = {} }", "the default of `I.c`: it has itself in it"),
        ("type Query { a(b: I): Int } input I { c: [I!] = [{ }] }", "the default of `I.c`: it has itself in it"),
        ("type Query { a(b: I): Int } input I { c: J = { } } input J { d: I = { } }", "it has itself in it"),
        ("type Query { a(b: I = { c: { } }): Int } input I { c: J } input J { d: I = { c: { } } }", "it has itself in it"),
        ("type Query { a: Int } extend type Query { b: Int }", "and nothing else"),
        ("schema { query: Query subscription: S } type Query { a: Int } type S { a: Int }", "subscriptions cannot be had"),
        ("type Query { a: Int ", "Syntax error"),
    ] {
        let wrong = Schema::parse(text).unwrap_err();
        assert!(wrong.message.contains(said), "{text}: {}", wrong.message);
    }
}

#[test]
fn defaults_end_and_are_not_too_large() {
    for good in [
        "type Query { a(b: I = {}): Int } input I { c: I, d: Int = 1 }",
        "type Query { a(b: I): Int } input I { c: I = { c: null } }",
        "type Query { a(b: I): Int } input I { c: J = {} } input J { d: I, e: [I] = [] }",
    ] {
        Schema::parse(good).unwrap();
    }
    let chain = |fields: &str, count: usize| {
        let mut text = "type Query { a(b: I0): Int }".to_owned();
        for number in 0..count {
            let next = number + 1;
            text += &format!(" input I{number} {{ {} }}", fields.replace("NEXT", &format!("I{next}")));
        }
        Schema::parse(&format!("{text} input I{count} {{ z: Int = 1 }}"))
    };
    chain("x: NEXT = {}", 40).unwrap();
    // As deep as it takes more stack than there is, and as wide as it takes more memory.
    assert!(chain("x: NEXT = {}", 20_000).unwrap_err().message.contains("too deeply"));
    assert!(chain("x: NEXT = {}, y: NEXT = {}", 40).unwrap_err().message.contains("more memory"));
}
