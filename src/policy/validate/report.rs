//! What broke its contract, whether or not it was refused: so that one can be switched on without fear.
//!
//! Kept over reloads, for each place where `validate` is written, up to a bound; the kinds that were seen least go first. No value of a client's is in it:
//! the pointer has the names of members that the schema has, and `*` for others and for elements, so that no client can make kinds as it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::ledger::Ledger;
use crate::schema::{Schema, Violation};
use crate::tally::{Counter, Tallies};

/// Kinds of one place that are remembered, and consumers of one kind.
const MOST_KINDS: usize = 100;
/// The same of one with operations.
const MOST_KINDS_OF_MANY: usize = 1000;
const MOST_CONSUMERS: usize = 20;
/// How much of a shape is remembered: levels, values, and bytes of a name.
const DEEPEST: usize = 3;
const LARGEST: usize = 24;
const LONGEST_NAME: usize = 32;

/// Why an answer is refused that is not what was agreed on. The cache keeps none of those.
pub const BREAKS: &str = "answer_breaks_contract";

/// Where in a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Header,
    Query,
    Path,
    Cookie,
    Body,
    Answer,
}

impl Part {
    const ALL: [Part; 6] = [Part::Header, Part::Query, Part::Path, Part::Cookie, Part::Body, Part::Answer];

    pub fn name(self) -> &'static str {
        match self {
            Part::Header => "header",
            Part::Query => "query",
            Part::Path => "path",
            Part::Cookie => "cookie",
            Part::Body => "body",
            Part::Answer => "answer",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Refused,
    Reported,
}

/// One way in which a contract was broken.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The operation of a document, where there is one.
    pub operation: Box<str>,
    pub part: Part,
    /// The field's or parameter's.
    pub name: Box<str>,
    /// With `*` for elements, and for members that the schema does not name.
    pub pointer: Box<str>,
    pub keyword: &'static str,
    /// Of the last time.
    pub detail: String,
    pub count: u64,
    /// Who, and how often.
    pub consumers: BTreeMap<Box<str>, u64>,
    /// The shape of what was there the first time: names and types, and no value.
    pub example: Option<Value>,
    /// In seconds since 1970.
    pub first: u64,
    pub last: u64,
}

/// What is remembered for one place.
pub struct Report {
    /// Held by those whom it lists, for the ledger holds nothing.
    all: Arc<Reports>,
    counters: Vec<(Part, [Arc<Counter>; 2])>,
    kinds: Mutex<Vec<Kind>>,
}

/// All of them.
#[derive(Default)]
pub struct Reports(Mutex<BTreeMap<String, Weak<Report>>>);

impl Reports {
    pub fn of(ledger: &Ledger) -> Arc<Reports> {
        ledger.keep("contracts", Reports::default)
    }

    /// By where they are written.
    pub fn all(&self) -> Vec<(String, Vec<Kind>)> {
        let mut all = self.0.lock();
        all.retain(|_, report| report.strong_count() > 0);
        let reports = all.iter().filter_map(|(scope, report)| Some((scope.clone(), report.upgrade()?)));
        reports.map(|(scope, report)| (scope, report.kinds.lock().clone())).collect()
    }
}

impl Report {
    pub fn of(ledger: &Ledger, tallies: &Tallies, scope: &str) -> Arc<Report> {
        let all = Reports::of(ledger);
        let report = ledger.keep(&format!("{scope}/contract"), || {
            let help = "Requests and answers that broke their contract, by part and by what became of them.";
            let count = |part: Part, outcome| {
                let labels = [("scope", scope), ("part", part.name()), ("outcome", outcome)];
                tallies.counter("portcullis_contract_broken_total", help, &labels)
            };
            let counters = Part::ALL.map(|part| (part, [count(part, "refused"), count(part, "reported")]));
            Report { all, counters: counters.into(), kinds: Mutex::default() }
        });
        report.all.0.lock().insert(scope.to_owned(), Arc::downgrade(&report));
        report
    }

    pub fn count(&self, part: Part, outcome: Outcome) {
        let [refused, reported] = match self.counters.iter().find(|(known, _)| *known == part) {
            Some((_, counters)) => counters,
            None => return,
        };
        if outcome == Outcome::Refused { refused } else { reported }.add(1);
    }

    /// Remembers what is wrong with an answer, and counts it. Where it is refused, what decided that: for the operator, and not for the client, for
    /// it is about the service.
    pub fn judge_answer(&self, operation: &str, wrong: &[Wrong<'_>], consumer: Option<&str>, outcome: Outcome) -> Option<String> {
        wrong.iter().for_each(|one| self.note_of(operation, one, consumer));
        self.count(Part::Answer, outcome);
        let first = wrong.first().map(|one| format!("{} {}", one.violation.keyword, one.violation.pointer));
        (outcome == Outcome::Refused).then(|| first.unwrap_or_default().trim_end().to_owned())
    }

    /// Remembers one. Only what breaks a contract takes the lock.
    pub fn note(&self, wrong: &Wrong<'_>, consumer: Option<&str>) {
        self.note_of("", wrong, consumer);
    }

    /// Remembers one of an operation.
    pub fn note_of(&self, operation: &str, wrong: &Wrong<'_>, consumer: Option<&str>) {
        let Wrong { part, name, violation, example } = wrong;
        let (part, name) = (*part, *name);
        let pointer = violation.place.as_str();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let mut kinds = self.kinds.lock();
        let same = |kind: &Kind| {
            kind.part == part
                && *kind.operation == *operation
                && *kind.name == *name
                && *kind.pointer == *pointer
                && kind.keyword == violation.keyword
        };
        let at = match kinds.iter().position(same) {
            Some(at) => at,
            None => {
                if kinds.len() >= (if operation.is_empty() { MOST_KINDS } else { MOST_KINDS_OF_MANY })
                    && let Some(rarest) =
                        kinds.iter().enumerate().min_by_key(|(_, kind)| (kind.count, kind.last)).map(|(at, _)| at)
                {
                    kinds.swap_remove(rarest);
                }
                kinds.push(Kind {
                    operation: operation.into(),
                    part,
                    name: name.into(),
                    pointer: pointer.into(),
                    keyword: violation.keyword,
                    detail: String::new(),
                    count: 0,
                    consumers: BTreeMap::new(),
                    example: None,
                    first: now,
                    last: now,
                });
                kinds.len() - 1
            }
        };
        let Some(kind) = kinds.get_mut(at) else { return };
        kind.count += 1;
        kind.last = now;
        kind.detail.clone_from(&violation.detail);
        if kind.example.is_none() {
            kind.example.clone_from(example);
        }
        let consumer = consumer.unwrap_or("");
        if kind.consumers.contains_key(consumer) || kind.consumers.len() < MOST_CONSUMERS {
            *kind.consumers.entry(consumer.into()).or_default() += 1;
        }
    }
}

/// What of a request or an answer is wrong, and where.
pub struct Wrong<'a> {
    pub part: Part,
    pub name: &'a str,
    pub violation: Violation,
    /// The shape of what is there, where something is.
    pub example: Option<Value>,
}

impl<'a> Wrong<'a> {
    pub fn new(part: Part, name: &'a str, violation: Violation) -> Self {
        Wrong { part, name, violation, example: None }
    }

    /// With what is wrong in this value.
    pub fn in_value(part: Part, name: &'a str, violation: Violation, value: &Value, schema: &Schema) -> Self {
        let example = value.pointer(&violation.pointer).map(|there| shape(there, schema, DEEPEST, &mut { LARGEST }));
        Wrong { part, name, violation, example }
    }
}

/// The names and types of a value, as far as there is room: `{"sku":"string","tags":["string"]}`.
fn shape(value: &Value, schema: &Schema, depth: usize, left: &mut usize) -> Value {
    *left = left.saturating_sub(1);
    let (deeper, more) = (depth.saturating_sub(1), "...".to_owned());
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(number) if number.is_f64() => "number".into(),
        Value::Number(_) => "integer".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) if depth > 0 => {
            let mut shapes: Vec<Value> = Vec::new();
            for item in items.iter().take(LARGEST) {
                let of = shape(item, schema, deeper, left);
                if !shapes.contains(&of) {
                    shapes.push(of);
                }
                if *left == 0 {
                    shapes.push(more.into());
                    break;
                }
            }
            shapes.into()
        }
        Value::Object(members) if depth > 0 => {
            let mut shapes = Map::new();
            for (name, member) in members {
                if *left == 0 {
                    shapes.insert(more, Value::Null);
                    break;
                }
                let name = if is_plain_name(name) && schema.names(name) { name.as_str() } else { "*" };
                shapes.insert(name.to_owned(), shape(member, schema, deeper, left));
            }
            shapes.into()
        }
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

/// Whether a name looks like one that somebody has given to a member, and not like what could be somebody's: an address, a number, a key.
fn is_plain_name(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$'));
    letters && name.len() <= LONGEST_NAME && name.bytes().filter(u8::is_ascii_digit).count() <= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_a_shape() {
        let value = serde_json::json!({
            "list": [{ "notes_of_mine": 1, "pin": 4711, "who": "ada", "ada@x.test": true, "4929123456781234": null }, { "pin": 1.5, "deep": { "in": {} } }],
            "many": (0..100).collect::<Vec<_>>(),
        });
        let known = ["list", "pin", "who", "deep", "in", "many", "ada@x.test"];
        let known: Map<String, Value> = known.into_iter().map(|name| (name.to_owned(), true.into())).collect();
        let schema = Schema::compile(&serde_json::json!({ "properties": known }), false).unwrap();
        let at = |pointer: &str| {
            let violation = Violation { pointer: pointer.to_owned(), keyword: "type", ..Violation::default() };
            Wrong::in_value(Part::Body, "", violation, &value, &schema)
                .example
                .map_or_else(String::new, |example| example.to_string())
        };
        assert_eq!(at("/list/0/who"), "\"string\"");
        assert_eq!(at("/list/0"), r#"{"*":"null","pin":"integer","who":"string"}"#);
        assert_eq!(at("/list/1"), r#"{"pin":"number","deep":{"in":{}}}"#);
        assert_eq!(at("/many"), r#"["integer","..."]"#);
        assert_eq!(at("/none"), "");
        assert!(at("").len() < 500 && !at("").contains("ada") && !at("").contains("47"), "{}", at(""));
    }

    #[test]
    fn kinds_are_bounded_and_counted() {
        let report = Report::of(&Ledger::default(), &Tallies::default(), "route:/test");
        for number in 0..300 {
            let place = |place: &str| Violation { place: place.to_owned(), keyword: "type", ..Violation::default() };
            report.note(&Wrong::new(Part::Body, "", place("/items/*/price")), Some("acme"));
            report.note(&Wrong::new(Part::Body, "", place(&format!("/x{number}"))), None);
        }
        let kinds = report.kinds.lock();
        assert_eq!(kinds.len(), MOST_KINDS);
        let prices = kinds.iter().find(|kind| &*kind.pointer == "/items/*/price").expect("what was seen often stays");
        assert!(prices.count == 300 && prices.consumers.contains_key("acme"));
    }
}
