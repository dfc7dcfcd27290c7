//! What schemas say of the shape of a value, before there is one: for texts that have to become values first.

use serde_json::{Number, Value};

use super::{Node, Schema, Types};

/// How many references within one another are followed.
const DEEPEST: u32 = 12;
/// How many schemas are looked at for one question.
const MOST: u32 = 400;

impl Schema {
    /// The types that a schema, or what it refers to, names for a value.
    pub fn types_at(&self, node: u32) -> Types {
        let mut types = Types::default();
        self.each(node, DEEPEST, &mut { MOST }, &mut |node| {
            types.0 |= node.types.0;
            if node.types.is_any() && node.objects.is_some() {
                types.0 |= Types::OBJECT.0;
            }
            if node.types.is_any() && node.arrays.is_some() {
                types.0 |= Types::ARRAY.0;
            }
        });
        types
    }

    /// The schema of an array's elements.
    pub fn items_at(&self, node: u32) -> Option<u32> {
        let mut found = None;
        self.each(node, DEEPEST, &mut { MOST }, &mut |node| {
            found = found.or(node.arrays.as_ref().and_then(|arrays| arrays.items))
        });
        found
    }

    /// The schema of an object's member.
    pub fn member_at(&self, node: u32, name: &str) -> Option<u32> {
        let (mut found, mut other) = (None, None);
        self.each(node, DEEPEST, &mut { MOST }, &mut |node| {
            let Some(objects) = &node.objects else { return };
            found = found.or(objects.properties.get(name).copied());
            other = other.or(objects.additional);
        });
        found.or(other)
    }

    /// Whether an object's member has this name among those that are named.
    pub fn has_member(&self, node: u32, name: &str) -> bool {
        let mut found = false;
        self.each(node, DEEPEST, &mut { MOST }, &mut |node| {
            found |= node.objects.as_ref().is_some_and(|objects| objects.properties.contains_key(name));
        });
        found
    }

    /// Every schema that says something of the same value.
    fn each(&self, node: u32, depth: u32, left: &mut u32, visit: &mut impl FnMut(&Node)) {
        let (Some(depth), Some(fewer)) = (depth.checked_sub(1), left.checked_sub(1)) else { return };
        *left = fewer;
        let Some(node) = self.nodes.get(node as usize) else { return };
        visit(node);
        if let Some(target) = node.reference {
            self.each(target, depth, left, visit);
        }
        if let Some(logic) = &node.logic {
            logic.all.iter().chain(&logic.any).chain(&logic.one).for_each(|one| self.each(*one, depth, left, visit));
        }
    }

    /// Whether a member goes one way: its schema says so, or one that it refers to.
    pub(super) fn is_one_way(&self, node: u32, says: impl Fn(&Node) -> bool) -> bool {
        let mut found = false;
        let mut at = Some(node);
        for _ in 0..DEEPEST {
            let Some(node) = at.and_then(|at| self.nodes.get(at as usize)) else { break };
            found |= says(node);
            at = node.reference;
        }
        found
    }
}

impl Types {
    /// A text as a number, a boolean or nothing, where one of these is asked for and the text is one.
    pub fn read(self, text: &str) -> Value {
        let value = match text {
            "true" | "false" if self.has(Types::BOOLEAN) => Some(Value::Bool(text == "true")),
            "null" if self.has(Types::NULL) && !self.has(Types::STRING) => Some(Value::Null),
            // A number and nothing else: what begins so cannot be a tree.
            _ if text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
                && (self.has(Types::NUMBER) || self.has(Types::INTEGER)) =>
            {
                text.parse::<Number>().ok().map(Value::Number)
            }
            _ => None,
        };
        value.unwrap_or_else(|| Value::String(text.to_owned()))
    }
}
