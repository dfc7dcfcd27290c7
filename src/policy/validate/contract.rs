//! What a request is held to by JSON Schema: its body, and its header fields, query and path parameters.
//!
//! Everything that is wrong is told at once, as members `errors` of the problem document, each with its place, the keyword and a sentence. Never a
//! value: what a client sent can be a password, and an answer ends up in logs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::report::{Outcome, Part, Report, Wrong};
use crate::carrier::{decode_escapes, lossy, query_values};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::jose::json;
use crate::policy::{Compile, Policy};
use crate::problem::{Place, Problem};
use crate::reply::{Flow, Reply, push_json};
use crate::schema::{Broken, Schema, Types, Violation};
use crate::value::Spanned;

/// So many ways in which a request is wrong are told.
pub const MOST_TOLD: usize = 20;
/// The longest file with a schema, in bytes.
const LARGEST_FILE: u64 = 16 << 20;
/// What a check may take: so many steps, and so many for each byte. Longer than that nobody's body keeps a worker.
const STEPS: u64 = 100_000;
const STEPS_PER_BYTE: u64 = 8;

/// A JSON Schema, written here or in a file.
#[derive(Debug, Clone)]
pub struct SchemaConfig(pub Spanned<Value>);

impl<'de> Deserialize<'de> for SchemaConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let schema = Spanned::<Value>::deserialize(deserializer)?;
        if schema.value.is_null() {
            return Err(serde::de::Error::custom("found nothing where a JSON Schema is expected"));
        }
        Ok(SchemaConfig(schema))
    }
}

impl JsonSchema for SchemaConfig {
    fn schema_name() -> Cow<'static, str> {
        "JsonSchema".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({
            "description": "A JSON Schema (draft 4 to 2020-12), or `{ file: order.json }`. References stay in the document.",
            "type": "object"
        })
    }
}

/// What is done with what breaks a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It passes, and is counted: `GET /contracts` of the admin API.
    Report,
    /// Nobody looks.
    Off,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BodyConfig {
    /// What a JSON body has to be; else 400. A body of another type is refused with 415, unless `content_types` takes it.
    pub schema: SchemaConfig,
}

/// Compiled.
pub struct Contract {
    body: Option<Schema>,
    params: Vec<Param>,
    pub mode: Mode,
    report: Arc<Report>,
}

struct Param {
    part: Part,
    name: Box<str>,
    /// The same for [`Part::Header`].
    field: Option<HeaderName>,
    required: bool,
    schema: Schema,
}

/// Schemas as they are written.
pub struct Written<'a> {
    pub body: Option<&'a BodyConfig>,
    pub headers: &'a BTreeMap<String, SchemaConfig>,
    pub query: &'a BTreeMap<String, SchemaConfig>,
    pub path: &'a BTreeMap<String, SchemaConfig>,
    pub mode: Mode,
    pub formats: bool,
}

impl Contract {
    /// `None` without a schema. What is wrong goes to `cx.problems`.
    pub fn compile(written: &Written<'_>, cx: &mut Compile<'_>) -> Option<Contract> {
        let body = written.body.and_then(|body| schema(&body.schema.0, written.formats, cx)).map(|(schema, _)| schema);
        let mut params = Vec::new();
        for (part, all) in [(Part::Header, written.headers), (Part::Query, written.query), (Part::Path, written.path)] {
            for (name, config) in all {
                let field = (part == Part::Header).then(|| HeaderName::from_bytes(name.as_bytes()));
                if let Some(Err(_)) = field {
                    cx.problems.push(Problem::error(config.0.place, format!("`{name}` is not a header name")));
                    continue;
                }
                if part == Part::Path && !cx.param(name, config.0.place) {
                    continue;
                }
                if let Some((schema, required)) = schema(&config.0, written.formats, cx) {
                    params.push(Param { part, name: name.as_str().into(), field: field.and_then(Result::ok), required, schema });
                }
            }
        }
        if (body.is_none() && params.is_empty()) || written.mode == Mode::Off {
            return None;
        }
        Some(Contract { body, params, mode: written.mode, report: Report::of(cx.ledger, cx.tallies, cx.scope) })
    }

    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    pub fn look_at_params(&self) -> bool {
        self.params.iter().any(|param| param.part == Part::Path)
    }

    /// Judges the header fields and parameters.
    pub fn head(&self, head: &RequestHead, exchange: &Exchange) -> Flow {
        let mut wrong = Vec::new();
        for param in &self.params {
            let values = param.values(head, exchange);
            if values.is_empty() {
                if param.required {
                    let violation = Violation::whole("required", "must be there");
                    wrong.push(Wrong::new(param.part, &param.name, violation));
                }
                continue;
            }
            let value = param.value(&values);
            let length: usize = values.iter().map(|value| value.len()).sum();
            if let Some(broken) = param.schema.broken(&value, steps(length), MOST_TOLD - wrong.len()) {
                let each = broken.violations.into_iter();
                wrong.extend(each.map(|violation| Wrong::in_value(param.part, &param.name, violation, &value, &param.schema)));
            }
            if wrong.len() >= MOST_TOLD {
                break;
            }
        }
        self.verdict(wrong, false, exchange)
    }

    /// Judges a body that is well-formed.
    pub fn body(&self, body: &Bytes, exchange: &Exchange) -> Flow {
        let Some(schema) = &self.body else { return Flow::Continue(()) };
        // What the grammar takes and the reader does not: a lone surrogate.
        let Some(value) = json::value(body) else {
            let violation = Violation::whole("json", "must be text that can be read");
            return self.verdict(vec![Wrong::new(Part::Body, "", violation)], false, exchange);
        };
        let Some(Broken { violations, more }) = schema.broken(&value, steps(body.len()), MOST_TOLD) else {
            return Flow::Continue(());
        };
        let wrong = violations.into_iter().map(|violation| Wrong::in_value(Part::Body, "", violation, &value, schema)).collect();
        self.verdict(wrong, more, exchange)
    }

    /// Something about a body as a whole, where that is only to be reported.
    pub fn note_body(&self, keyword: &'static str, detail: &'static str, exchange: &Exchange) {
        let _ = self.verdict(vec![Wrong::new(Part::Body, "", Violation::whole(keyword, detail))], false, exchange);
    }

    fn verdict(&self, wrong: Vec<Wrong<'_>>, more: bool, exchange: &Exchange) -> Flow {
        if wrong.is_empty() {
            return Flow::Continue(());
        }
        let outcome = if self.mode == Mode::Report { Outcome::Reported } else { Outcome::Refused };
        let consumer = exchange.consumer().map(|name| &**name);
        for one in &wrong {
            self.report.note(one, consumer);
        }
        self.report.count(wrong.first().map_or(Part::Body, |one| one.part), outcome);
        if outcome == Outcome::Reported {
            return Flow::Continue(());
        }
        let mut reply = Reply::new(
            StatusCode::BAD_REQUEST,
            super::request::Validate::NAME,
            "contract_broken",
            "The request is not what is taken here: `errors` says where.",
        );
        reply.members = Some(told(&wrong, more || wrong.len() >= MOST_TOLD).into());
        reply.refuse()
    }
}

/// How many steps the check of a value of so many bytes may take.
pub fn steps(bytes: usize) -> u64 {
    STEPS + STEPS_PER_BYTE * bytes as u64
}

/// The member `errors`, and whether there may be more.
pub fn told(wrong: &[Wrong<'_>], more: bool) -> String {
    let mut out = b",\"errors\":[".to_vec();
    for (number, Wrong { part, name, violation, .. }) in wrong.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"in\":");
        push_json(&mut out, part.name());
        for (key, text) in [
            ("name", *name),
            ("pointer", violation.pointer.as_str()),
            ("keyword", violation.keyword),
            ("detail", violation.detail.as_str()),
        ] {
            if key != "name" || !text.is_empty() {
                out.push(b',');
                push_json(&mut out, key);
                out.push(b':');
                push_json(&mut out, text);
            }
        }
        out.push(b'}');
    }
    out.push(b']');
    if more {
        out.extend_from_slice(b",\"more_errors\":true");
    }
    String::from_utf8(out).unwrap_or_default()
}

impl Param {
    fn values<'a>(&'a self, head: &'a RequestHead, exchange: &'a Exchange) -> Vec<Cow<'a, str>> {
        match self.part {
            Part::Header => {
                let name = self.field.as_ref().map_or("", HeaderName::as_str);
                head.header_all(name).map(String::from_utf8_lossy).collect()
            }
            Part::Query => head.query().map_or_else(Vec::new, |query| query_values(query, &self.name).map(lossy).collect()),
            Part::Path => exchange.param(&self.name).map(|text| lossy(decode_escapes(text))).into_iter().collect(),
            Part::Cookie | Part::Body | Part::Answer => Vec::new(),
        }
    }

    /// What the texts stand for, as the schema has it: a list in one header field or path segment has commas, one in a query comes as several
    /// parameters of one name.
    fn value(&self, texts: &[Cow<'_, str>]) -> Value {
        let types = self.schema.types();
        if !types.has(Types::ARRAY) {
            let joined = if texts.len() > 1 { Cow::Owned(texts.join(", ")) } else { texts.first().cloned().unwrap_or_default() };
            return types.read(&joined);
        }
        let items = self.schema.item_types();
        match self.part {
            Part::Query => texts.iter().map(|text| items.read(text)).collect(),
            _ => texts.iter().flat_map(|text| text.split(',')).map(|text| items.read(text.trim())).collect(),
        }
    }
}

/// A schema, and whether a parameter says `required: true` in it.
pub fn schema(written: &Spanned<Value>, formats: bool, cx: &mut Compile<'_>) -> Option<(Schema, bool)> {
    let mut document = match file(&written.value) {
        Some(name) => read(&cx.base.join(name), name, written.place, cx)?,
        None => written.value.clone(),
    };
    let required = document.get("required") == Some(&Value::Bool(true));
    if required && let Some(map) = document.as_object_mut() {
        map.shift_remove("required");
    }
    match Schema::compile(&document, formats) {
        Ok(schema) => Some((schema, required)),
        Err(faults) => {
            for fault in faults {
                let at =
                    if fault.pointer.is_empty() { "the schema".to_owned() } else { format!("the schema at `{}`", fault.pointer) };
                cx.problems.push(Problem::error(written.place, format!("{at}: {}", fault.message)));
            }
            None
        }
    }
}

/// `{ file: order.json }`
fn file(written: &Value) -> Option<&str> {
    let map = written.as_object().filter(|map| map.len() == 1)?;
    map.get("file")?.as_str()
}

fn read(path: &Path, name: &str, place: Place, cx: &mut Compile<'_>) -> Option<Value> {
    let text = match std::fs::metadata(path) {
        Ok(data) if data.len() > LARGEST_FILE => Err("it is longer than 16MiB".to_owned()),
        Ok(_) => std::fs::read_to_string(path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let is_yaml = [".yaml", ".yml"].iter().any(|end| name.ends_with(end));
    let parsed = text.and_then(|text| match is_yaml {
        true => serde_yaml::from_str(&text).map_err(|error| error.to_string()),
        false => serde_json::from_str(&text).map_err(|error| error.to_string()),
    });
    parsed.map_err(|why| cx.problems.push(Problem::error(place, format!("cannot read the schema in `{name}`: {why}")))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_what_is_asked_for() {
        let types = |schema: Value| Schema::compile(&schema, false).unwrap().types();
        let number = types(serde_json::json!({ "type": ["integer", "null"] }));
        assert_eq!(number.read("7"), 7);
        assert_eq!(number.read("null"), Value::Null);
        let raw = r#"{"$serde_json::private::RawValue":"5"}"#;
        for text in ["07", " 7", "7 ", "7x", "-", "--7", "1e999", "", "true", "[7]", raw] {
            assert_eq!(number.read(text), Value::String(text.to_owned()), "{text}");
        }
        assert_eq!((number.read("-0.5"), number.read("1e2")), (serde_json::json!(-0.5), serde_json::json!(1e2)));
        assert_eq!(types(serde_json::json!({ "type": "boolean" })).read("true"), true);
        assert_eq!(types(serde_json::json!({ "type": "string" })).read("7"), "7");
        assert_eq!(types(serde_json::json!({})).read("7"), "7");
    }
}
