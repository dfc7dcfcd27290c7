//! What of a value its schema does not know: members that no `properties`, `patternProperties` or `additionalProperties` is about, in whatever
//! way these apply to the value (references, `allOf`, those of `anyOf` and `oneOf` that it is valid against, `if` with `then` or `else`).
//!
//! An object about whose members nothing is said at all keeps them. `additionalProperties: true`, or a schema there, is about every member.

use serde_json::Value;
use smallvec::SmallVec;

use super::Schema;
use super::check::Check;
use crate::json::Tree;
use crate::json::tree::Id;

/// Numbers of schemas.
type Rules = SmallVec<[u32; 8]>;

/// The most schemas that apply to one value.
const MOST_RULES: usize = 1000;

impl Schema {
    /// Takes out of `tree` what the schema does not know. `value` is what the tree holds. The number of members that went; `None` where that would
    /// take more than so many steps, after which the tree is of no use.
    pub fn strip(&self, tree: &mut Tree, value: &Value, steps: u64) -> Option<usize> {
        let mut strip = Strip { schema: self, tree, steps, gone: 0 };
        let mut rules = Rules::new();
        strip.apply(self.root, value, &mut rules)?;
        let root = strip.tree.root();
        strip.within(root, value, &rules)?;
        Some(strip.gone)
    }
}

struct Strip<'a> {
    schema: &'a Schema,
    tree: &'a mut Tree,
    steps: u64,
    gone: usize,
}

impl Strip<'_> {
    fn is_valid(&mut self, rule: u32, value: &Value) -> Option<bool> {
        let (valid, left) = Check::new(self.schema, self.steps, 0).asked(rule, value);
        self.steps = left;
        (left > 0).then_some(valid)
    }

    /// Adds a schema and what else applies with it.
    fn apply(&mut self, number: u32, value: &Value, rules: &mut Rules) -> Option<()> {
        self.steps = self.steps.checked_sub(1)?;
        if rules.contains(&number) {
            return Some(());
        }
        if rules.len() >= MOST_RULES {
            return None;
        }
        rules.push(number);
        let schema = self.schema;
        let Some(node) = schema.nodes.get(number as usize) else { return Some(()) };
        if let Some(target) = node.reference {
            self.apply(target, value, rules)?;
        }
        if let Some((target, _)) = &node.dynamic {
            self.apply(*target, value, rules)?;
        }
        if let Some(logic) = &node.logic {
            for rule in &logic.all {
                self.apply(*rule, value, rules)?;
            }
            for rule in logic.any.iter().chain(&logic.one) {
                if self.is_valid(*rule, value)? {
                    self.apply(*rule, value, rules)?;
                }
            }
            if let Some(condition) = logic.condition {
                let holds = self.is_valid(condition, value)?;
                let then = if holds { logic.then } else { logic.otherwise };
                for rule in Some(condition).filter(|_| holds).into_iter().chain(then) {
                    self.apply(rule, value, rules)?;
                }
            }
        }
        if let (Some(objects), Value::Object(members)) = (&node.objects, value) {
            for (_, rule) in objects.dependent_schemas.iter().filter(|(name, _)| members.contains_key(&**name)) {
                self.apply(*rule, value, rules)?;
            }
        }
        Some(())
    }

    fn within(&mut self, id: Id, value: &Value, rules: &Rules) -> Option<()> {
        let children: Vec<Id> = self.tree.children(id).collect();
        match value {
            // Both hold their members in the order of the document, each name once.
            Value::Object(members) => {
                let schema = self.schema;
                let about = |rule: &u32| schema.nodes.get(*rule as usize).and_then(|node| node.objects.as_deref());
                let named = rules.iter().filter_map(about).any(|objects| {
                    !objects.properties.is_empty() || !objects.patterns.is_empty() || objects.additional.is_some()
                });
                if !named {
                    return Some(());
                }
                for (child, (name, member)) in children.into_iter().zip(members) {
                    let mut known = false;
                    let mut inner = Rules::new();
                    for objects in rules.iter().filter_map(about) {
                        let patterns =
                            objects.patterns.iter().filter(|(pattern, _)| pattern.is_match(name)).map(|(_, rule)| *rule);
                        let mut all: Rules = objects.properties.get(name.as_str()).copied().into_iter().chain(patterns).collect();
                        if all.is_empty() {
                            all.extend(objects.additional);
                        }
                        for rule in
                            all.into_iter().filter(|rule| !schema.nodes.get(*rule as usize).is_some_and(|node| node.never))
                        {
                            known = true;
                            self.apply(rule, member, &mut inner)?;
                        }
                    }
                    if known {
                        self.within(child, member, &inner)?;
                    } else {
                        self.tree.detach(child);
                        self.gone += 1;
                    }
                }
            }
            Value::Array(items) => {
                for (number, (child, item)) in children.into_iter().zip(items).enumerate() {
                    let mut inner = Rules::new();
                    let schema = self.schema;
                    for arrays in rules.iter().filter_map(|rule| schema.nodes.get(*rule as usize)?.arrays.as_deref()) {
                        if let Some(rule) = arrays.prefix.get(number).copied().or(arrays.items) {
                            self.apply(rule, item, &mut inner)?;
                        }
                    }
                    self.within(child, item, &inner)?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strip(schema: Value, document: &str) -> String {
        let schema = Schema::compile(&schema, false).unwrap();
        let mut tree = Tree::parse(document.as_bytes(), 0).unwrap();
        let value = serde_json::from_str(document).unwrap();
        schema.strip(&mut tree, &value, 100_000).unwrap();
        String::from_utf8(tree.write()).unwrap()
    }

    #[test]
    fn what_no_schema_is_about_goes() {
        let item = json!({ "type": "object", "properties": { "id": {}, "free": { "type": "object" } } });
        for (schema, document, left) in [
            (json!({ "properties": { "a": {} } }), r#"{"a":1.10,"b":2,"c":{"a":1}}"#, r#"{"a":1.10}"#),
            (
                json!({ "items": item }),
                r#"[{"id":1e2,"x":1,"free":{"any":1}},{"y":1},7]"#,
                r#"[{"id":1e2,"free":{"any":1}},{},7]"#,
            ),
            (json!({ "type": "object" }), r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#),
            (json!({ "properties": { "a": {} }, "additionalProperties": true }), r#"{"b":1}"#, r#"{"b":1}"#),
            (json!({ "properties": { "a": {} }, "additionalProperties": item }), r#"{"b":{"id":1,"x":2}}"#, r#"{"b":{"id":1}}"#),
            (
                json!({ "properties": { "a": {}, "no": false }, "additionalProperties": false }),
                r#"{"a":1,"no":1,"b":1}"#,
                r#"{"a":1}"#,
            ),
            (json!({ "patternProperties": { "^x-": item } }), r#"{"x-1":{"id":1,"q":2},"y":1}"#, r#"{"x-1":{"id":1}}"#),
            (
                json!({ "allOf": [{ "properties": { "a": {} } }, { "$ref": "#/$defs/b" }], "$defs": { "b": { "properties": { "b": {} } } } }),
                r#"{"a":1,"b":2,"c":3}"#,
                r#"{"a":1,"b":2}"#,
            ),
            (
                json!({ "oneOf": [
                    { "properties": { "kind": { "const": "cat" }, "lives": {} } },
                    { "properties": { "kind": { "const": "dog" }, "name": {} } },
                ] }),
                r#"{"kind":"dog","name":"x","lives":9}"#,
                r#"{"kind":"dog","name":"x"}"#,
            ),
            (
                json!({ "if": { "properties": { "a": { "const": 1 } } }, "then": { "properties": { "b": {} } }, "else": { "properties": { "c": {} } } }),
                r#"{"a":1,"b":1,"c":1}"#,
                r#"{"a":1,"b":1}"#,
            ),
            (
                json!({ "properties": { "next": { "$ref": "#" }, "id": {} } }),
                r#"{"id":1,"next":{"x":1,"next":{"id":2,"x":1}}}"#,
                r#"{"id":1,"next":{"next":{"id":2}}}"#,
            ),
            (
                json!({ "properties": { "list": { "prefixItems": [item] } } }),
                r#"{"list":[{"x":1},{"x":1}]}"#,
                r#"{"list":[{},{"x":1}]}"#,
            ),
        ] {
            assert_eq!(strip(schema.clone(), document), left, "{schema}");
        }
    }

    #[test]
    fn its_work_is_bounded() {
        let schema = Schema::compile(&json!({ "items": { "anyOf": [{ "items": {} }, { "items": {} }] } }), false).unwrap();
        let document = format!("[{}0]", "[1,2,3],".repeat(1000));
        let value = serde_json::from_str(&document).unwrap();
        let mut tree = Tree::parse(document.as_bytes(), 0).unwrap();
        assert_eq!(schema.strip(&mut tree, &value, 1000), None);
    }
}
