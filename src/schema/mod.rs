//! JSON Schema, drafts 4 to 2020-12: compiled when the configuration is loaded, then asked about values.
//!
//! Written here, and not taken from a library, for what a gateway has to be sure of: whoever sends a body can neither make its checking slow
//! (patterns run on a linear-time engine, and a check has a bounded number of steps) nor make its answer large (violations are collected
//! up to a bound, not all of them first), and a violation never repeats a value. A schema is one table that is dropped whole.
//!
//! `$ref` and `$dynamicRef` lead to places in the same document; nothing is ever fetched. Lookaround and backreferences in a `pattern` are refused
//! when the schema is compiled. Formats are asserted where that is asked for, as far as [`format`] knows them; others say nothing.
//!
//! Deliberately not here: `$vocabulary` (its meta-schemas would have to be fetched), `contentEncoding` and `contentMediaType`, which assert nothing
//! since 2019-09, and a draft for each part of a document: the root's holds for all of it.

mod check;
mod compile;
mod format;
mod number;
mod pattern;
mod strip;
#[cfg(test)]
mod tests;
mod uri;
mod view;

pub use compile::escaped;
pub use pattern::syntax as pattern_syntax;

use ahash::AHashSet;
use regex::Regex;
use serde_json::Value;

/// The editions, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draft {
    Draft4,
    Draft6,
    Draft7,
    Draft201909,
    Draft202012,
}

impl Draft {
    /// The edition that a `$schema` names.
    pub fn of(uri: &str) -> Option<Draft> {
        let uri = uri.trim_end_matches('#');
        let name = uri.strip_prefix("http://json-schema.org/").or_else(|| uri.strip_prefix("https://json-schema.org/"))?;
        Some(match name {
            "draft-04/schema" => Draft::Draft4,
            "draft-06/schema" => Draft::Draft6,
            "draft-07/schema" => Draft::Draft7,
            "draft/2019-09/schema" => Draft::Draft201909,
            "draft/2020-12/schema" => Draft::Draft202012,
            _ => return None,
        })
    }
}

/// How the schemas of a document are to be read that is not itself one.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    pub draft: Draft,
    /// OpenAPI: `discriminator`.
    pub openapi: bool,
    /// OpenAPI 3.0: `nullable`, no names (`id`), and 1.0 is an integer.
    pub openapi_30: bool,
    /// `format` asserts.
    pub formats: bool,
    /// A pattern that cannot be run is left out, and noted, rather than a fault.
    pub lenient: bool,
}

/// The schemas of one document, compiled into one table.
#[derive(Debug)]
pub struct Parts {
    pub schema: Schema,
    /// The nodes of the schemas that were asked for, in their order.
    pub roots: Vec<u32>,
    /// What was left out of them.
    pub left_out: Vec<BadSchema>,
}

/// Which way a value goes: what is `readOnly` is not taken from clients, what is `writeOnly` not told to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Neither,
    ToService,
    ToClient,
}

/// What is wrong with a schema, and where in it (a JSON Pointer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSchema {
    pub pointer: String,
    pub message: String,
}

/// One way in which a value breaks its schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violation {
    /// Where, as a JSON Pointer into the value; empty for the whole of it.
    pub pointer: String,
    /// The same with `*` for each element, and for each member whose name is not the schema's: as many as the schema has, whatever is sent.
    pub place: String,
    pub keyword: &'static str,
    /// What would have been right. Never what was sent.
    pub detail: String,
}

impl Violation {
    /// Of a value as a whole.
    pub fn whole(keyword: &'static str, detail: impl Into<String>) -> Violation {
        Violation { keyword, detail: detail.into(), ..Violation::default() }
    }
}

/// What came of a check.
#[derive(Debug, Default)]
pub struct Broken {
    pub violations: Vec<Violation>,
    /// There are, or may be, more.
    pub more: bool,
}

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    root: u32,
    /// Where `$dynamicRef` may lead: the resource, the anchor, the node.
    dynamic: Vec<(u32, Box<str>, u32)>,
    /// Some of it goes one way only.
    one_way: bool,
    /// Of members, wherever.
    names: ahash::AHashSet<Box<str>>,
}

impl Schema {
    /// Compiles a document. `formats`: whether `format` asserts anything. The draft is the document's own `$schema`, else 2020-12.
    ///
    /// # Errors
    /// What is wrong with it, up to a bound.
    pub fn compile(document: &Value, formats: bool) -> Result<Schema, Vec<BadSchema>> {
        compile::compile(document, formats, None)
    }

    /// As [`Schema::compile`], with this draft for a document that names none.
    ///
    /// # Errors
    /// As there.
    pub fn compile_as(document: &Value, formats: bool, draft: Draft) -> Result<Schema, Vec<BadSchema>> {
        compile::compile(document, formats, Some(draft))
    }

    /// Compiles the schemas that stand at these places of a document, each with its JSON Pointer, and whatever they refer to in it.
    ///
    /// # Errors
    /// What is wrong with them, up to a bound.
    pub fn compile_parts(document: &Value, dialect: Dialect, roots: &[(&Value, String)]) -> Result<Parts, Vec<BadSchema>> {
        compile::compile_parts(document, dialect, roots)
    }

    /// As [`Schema::broken`], for one of several schemas of a document.
    pub fn broken_at(&self, root: u32, value: &Value, steps: u64, most: usize, direction: Direction) -> Option<Broken> {
        check::Check::new(self, steps, most.max(1)).going(direction).run_at(root, value)
    }

    /// Whether it has a word for a member of this name, wherever.
    pub fn names(&self, member: &str) -> bool {
        self.names.contains(member)
    }

    /// How many schemas and subschemas there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the value is as the schema says. `steps` bounds the work.
    pub fn is_valid(&self, value: &Value, steps: u64) -> bool {
        check::Check::new(self, steps, 0).run(value).is_none()
    }

    /// How the value breaks the schema, if it does: at most so many violations. `steps` bounds the work; a value that takes more is
    /// taken for broken.
    pub fn broken(&self, value: &Value, steps: u64, most: usize) -> Option<Broken> {
        check::Check::new(self, steps, most.max(1)).run(value)
    }

    /// The types that the schema itself names for the whole value, as bits of [`Types`].
    pub fn types(&self) -> Types {
        self.nodes.get(self.root as usize).map_or(Types::default(), |node| node.types)
    }

    /// The types of an array's elements, as far as they are named.
    pub fn item_types(&self) -> Types {
        let items = self.nodes.get(self.root as usize).and_then(|node| node.arrays.as_ref()?.items);
        items.and_then(|items| self.nodes.get(items as usize)).map_or(Types::default(), |node| node.types)
    }
}

/// A set of types. The empty one is any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Types(u8);

impl Types {
    pub const NULL: Types = Types(1);
    pub const BOOLEAN: Types = Types(1 << 1);
    pub const OBJECT: Types = Types(1 << 2);
    pub const ARRAY: Types = Types(1 << 3);
    pub const NUMBER: Types = Types(1 << 4);
    pub const STRING: Types = Types(1 << 5);
    pub const INTEGER: Types = Types(1 << 6);

    /// In the order of their bits.
    const NAMES: [&'static str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

    fn add(&mut self, name: &str) -> bool {
        let found = Types::NAMES.iter().position(|known| *known == name);
        self.0 |= found.map_or(0, |bit| 1 << bit);
        found.is_some()
    }

    pub fn is_any(self) -> bool {
        self.0 == 0
    }

    /// Whether it names one of these.
    pub fn has(self, these: Types) -> bool {
        self.0 & these.0 != 0
    }

    fn names(self) -> String {
        let names: Vec<_> =
            Types::NAMES.into_iter().enumerate().filter(|(bit, _)| self.0 & 1 << bit != 0).map(|(_, name)| name).collect();
        names.join(" or ")
    }
}

/// One schema or subschema.
#[derive(Debug, Default)]
struct Node {
    /// `false`: nothing is valid.
    never: bool,
    /// The number of the resource that it stands in.
    resource: u32,
    reference: Option<u32>,
    /// `$dynamicRef`: where it leads at first, and the anchor by which it may lead elsewhere; `$recursiveRef` is the same without a name.
    dynamic: Option<(u32, Box<str>)>,
    types: Types,
    /// A number without a fraction (1.0) is no integer: draft 4.
    strict_integers: bool,
    read_only: bool,
    write_only: bool,
    options: Option<Box<Options>>,
    constant: Option<Box<Value>>,
    numbers: Option<Box<Numbers>>,
    strings: Option<Box<Strings>>,
    arrays: Option<Box<Arrays>>,
    objects: Option<Box<Objects>>,
    logic: Option<Box<Logic>>,
    unevaluated_items: Option<u32>,
    unevaluated_properties: Option<u32>,
}

/// `enum`.
#[derive(Debug, Default)]
struct Options {
    strings: AHashSet<Box<str>>,
    others: Vec<Value>,
}

#[derive(Debug, Default)]
struct Numbers {
    least: Option<serde_json::Number>,
    above: Option<serde_json::Number>,
    most: Option<serde_json::Number>,
    below: Option<serde_json::Number>,
    multiple_of: Option<serde_json::Number>,
}

#[derive(Debug, Default)]
struct Strings {
    least: u64,
    most: Option<u64>,
    pattern: Option<Regex>,
    format: Option<format::Format>,
}

#[derive(Debug, Default)]
struct Arrays {
    least: u64,
    most: Option<u64>,
    unique: bool,
    prefix: Vec<u32>,
    /// For those behind the prefix.
    items: Option<u32>,
    contains: Option<Contains>,
}

#[derive(Debug)]
struct Contains {
    node: u32,
    least: u64,
    most: Option<u64>,
    /// Before 2020-12, what it took is still unevaluated.
    evaluates: bool,
}

#[derive(Debug, Default)]
struct Objects {
    least: u64,
    most: Option<u64>,
    required: Vec<Box<str>>,
    properties: ahash::AHashMap<Box<str>, u32>,
    patterns: Vec<(Regex, u32)>,
    additional: Option<u32>,
    names: Option<u32>,
    dependent_required: Vec<(Box<str>, Vec<Box<str>>)>,
    dependent_schemas: Vec<(Box<str>, u32)>,
}

#[derive(Debug, Default)]
struct Logic {
    all: Vec<u32>,
    any: Vec<u32>,
    one: Vec<u32>,
    not: Option<u32>,
    condition: Option<u32>,
    then: Option<u32>,
    otherwise: Option<u32>,
    /// Which of `any` or `one` it is, by a member's value.
    choice: Option<Box<Choice>>,
}

/// OpenAPI's `discriminator`.
#[derive(Debug)]
struct Choice {
    property: Box<str>,
    /// It chooses of `one`; else of `any`.
    of_one: bool,
    by: ahash::AHashMap<Box<str>, u32>,
    /// Nothing else than these is taken.
    complete: bool,
}
