//! Where the values come from that steps put into bodies.
//!
//! In CEL, and not in a language of templates: an expression is typed, so that a text becomes a JSON text whatever is in it, and a number a number;
//! its cost is bounded, and it is the language in which conditions are written everywhere else. A template makes text, in which every value has to
//! be escaped by whoever writes it.

use http::HeaderName;
use serde_json::Value;

use super::config::ValueConfig;
use super::steps::{Way, pointer};
use crate::carrier::{decode_escapes, lossy, query_values};
use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::json::{Tree, lex};
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::Spanned;

/// Where a value comes from.
pub enum Source {
    /// JSON as it is written.
    Fixed(Box<[u8]>),
    Expression(Box<Expression>),
    Header(HeaderName),
    Query(Box<str>),
    Param(Box<str>),
}

const KEYS: &str = "`expr`, `header`, `query`, `param`, `json` and `value`";

/// What is wrong goes to `cx.problems`.
pub fn compile(written: &Spanned<ValueConfig>, _way: Way, cx: &mut Compile<'_>) -> Option<Source> {
    let place = written.place;
    let refuse = |cx: &mut Compile<'_>, message: String| {
        let hint = format!("a value is a text, a number, a boolean, or a table with one of {KEYS}");
        cx.problems.push(Problem::error(place, message).hint(hint));
        None
    };
    let fixed = |value: &Value| serde_json::to_vec(value).ok().map(|json| Source::Fixed(json.into()));
    let table = match &written.value.0 {
        Value::Object(table) => table,
        Value::Array(_) => return refuse(cx, "a list is written `{ value: [...] }`".to_owned()),
        scalar => return fixed(scalar),
    };
    let mut entries = table.iter();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else {
        return refuse(cx, "this says nothing, or several things".to_owned());
    };
    if key == "value" {
        return fixed(value);
    }
    let Some(text) = value.as_str() else { return refuse(cx, format!("`{key}` is a text")) };
    Some(match key.as_str() {
        "expr" => Source::Expression(Box::new(Expression::compile(text, place, cx.problems, Kind::Any)?)),
        "header" => match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Source::Header(name),
            Err(_) => return refuse(cx, format!("`{text}` is not a header name")),
        },
        "query" => Source::Query(text.into()),
        "param" if !cx.param(text, place) => return None,
        "param" => Source::Param(text.into()),
        "json" => match Tree::parse(text.as_bytes(), 0) {
            Ok(_) => Source::Fixed(text.as_bytes().into()),
            Err(_) => return refuse(cx, "this is no JSON".to_owned()),
        },
        "pointer" => {
            let _ = pointer(text, place, cx);
            return refuse(cx, "what is in the body already is moved with `move`".to_owned());
        }
        _ => return refuse(cx, format!("`{key}` is nothing that a value could come from")),
    })
}

impl Source {
    /// Whether two clients that ask for the same target may get different values.
    pub fn differs(&self) -> bool {
        matches!(self, Source::Expression(_) | Source::Header(_))
    }

    /// The request's field that it is.
    pub fn field(&self) -> Option<&str> {
        if let Source::Header(name) = self { Some(name.as_str()) } else { None }
    }

    pub fn expression(&self) -> Option<&Expression> {
        if let Source::Expression(expression) = self { Some(expression) } else { None }
    }

    /// The value as JSON; `None` where there is none.
    pub fn value(&self, head: &RequestHead, exchange: &Exchange) -> Option<Box<[u8]>> {
        let text = match self {
            Source::Fixed(json) => return Some(json.clone()),
            Source::Expression(expression) => {
                let value = expression.json(head, exchange).ok()?;
                return serde_json::to_vec(&value).ok().map(Into::into);
            }
            Source::Header(name) => {
                let mut values = head.header_all(name.as_str());
                let first = String::from_utf8_lossy(values.next()?).into_owned();
                values.fold(first, |joined, more| joined + ", " + &String::from_utf8_lossy(more))
            }
            Source::Query(name) => lossy(query_values(head.query()?, name).next()?).into_owned(),
            Source::Param(name) => lossy(decode_escapes(exchange.param(name)?)).into_owned(),
        };
        Some(lex::quoted(&text).into())
    }
}
