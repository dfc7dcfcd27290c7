//! Texts with placeholders over a request and what was answered so far, and how a value is written where it stands: percent-encoded in a
//! path and in a query, as bytes that are legal in a field, as itself in JSON. No value ever becomes more than what it stands for.

use std::borrow::Cow;

use serde_json::{Number, Value};

use super::Names;
use crate::carrier::{decode_escapes, lossy, query_values};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::json::{Exact, Members};
use crate::path;
use crate::problem::did_you_mean;
use crate::value::braces::{self, Part};

/// The longest target, and the longest value of a field, that are made of texts, in bytes.
pub const LONGEST: usize = 8 * 1024;

/// Fields within a JSON value, one in the other; of a list, an element by its number.
pub type Steps = Box<[Box<str>]>;

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Param(Box<str>),
    Query(Box<str>),
    Header(Box<str>),
    /// A claim of that name, which may be a URL, or else what stands in others.
    Claim(Box<str>, Option<Steps>),
    Subject,
    Consumer,
    ClientAddress,
    RequestId,
    Host,
    /// The request's body.
    Body(Steps),
    /// What a call was answered.
    Part(Box<str>, Steps),
    /// The element that the call is made for.
    Item(Steps),
    /// An argument of the field of GraphQL that the call is made for, or what is within it.
    Argument(Steps),
    /// What the object is that has the field.
    Parent(Steps),
    /// What all the objects are known by that the call is made for.
    Keys,
}

/// What is known of a field of GraphQL.
#[derive(Clone, Copy)]
pub struct OfField<'a> {
    pub arguments: &'a Value,
    pub parent: &'a Exact,
    pub keys: &'a [Exact],
}

/// What is known when a call is made.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
    pub parts: &'a Members,
    pub body: Option<&'a Exact>,
    pub item: Option<&'a Exact>,
    pub field: Option<OfField<'a>>,
}

/// What a placeholder stands for in this request.
pub enum Found<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Of the gateway's own: a claim, an argument.
    Json(&'a Value),
    /// Of a document that a client or a service has written.
    Exact(&'a Exact),
    Keys(&'a [Exact]),
}

impl<'a> Found<'a> {
    fn is_null(&self) -> bool {
        matches!(self, Found::Json(Value::Null) | Found::Exact(Exact::Null))
    }

    /// As it is written where everything is text. Lists and objects are no text, and nothing is none.
    pub fn bytes(self) -> Option<Cow<'a, [u8]>> {
        match self {
            Found::Bytes(bytes) => Some(bytes),
            Found::Json(Value::String(text)) => Some(Cow::Borrowed(text.as_bytes())),
            Found::Json(Value::Number(number)) => Some(Cow::Owned(digits(number)?.into_bytes())),
            Found::Json(value @ Value::Bool(_)) => Some(Cow::Owned(value.to_string().into_bytes())),
            Found::Json(_) => None,
            Found::Exact(Exact::Text(text)) => Some(Cow::Borrowed(text.as_bytes())),
            Found::Exact(Exact::Number(text)) => Some(Cow::Borrowed(text.as_bytes())),
            Found::Exact(Exact::Bool(value)) => Some(Cow::Borrowed(if *value { b"true" } else { b"false" })),
            Found::Exact(_) => None,
            // As most services take them. None of them has a comma in it ([`key`]).
            Found::Keys(keys) => Some(Cow::Owned(keys.iter().filter_map(key).collect::<Vec<_>>().join(",").into_bytes())),
        }
    }
}

impl Source {
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(name: &str, names: &Names<'_>) -> Result<Source, String> {
        const WORDS: [&str; 5] = ["subject", "consumer", "client_address", "request_id", "host"];
        let (root, rest) = name.split_once('.').map_or((name, None), |(root, rest)| (root, Some(rest)));
        let member = || rest.filter(|rest| !rest.is_empty()).ok_or(format!("`{{{name}}}` stands for nothing: which one?"));
        Ok(match (root, rest) {
            ("subject", None) => Source::Subject,
            ("consumer", None) => Source::Consumer,
            ("client_address", None) => Source::ClientAddress,
            ("request_id", None) => Source::RequestId,
            ("host", None) => Source::Host,
            ("param", _) => {
                let param = member()?;
                if !names.pattern.contains(&format!("{{{param}}}")) {
                    return Err(format!("`{{{name}}}` stands for nothing: the route's path has no `{{{param}}}`"));
                }
                Source::Param(param.into())
            }
            ("query", _) => Source::Query(member()?.into()),
            ("header", _) => Source::Header(member()?.to_ascii_lowercase().into()),
            ("claim", _) => {
                let name = member()?;
                // `https://example.com/tenant` is one name, whatever its dots.
                Source::Claim(name.into(), if name.contains(':') { None } else { Some(steps(name)?) })
            }
            ("body", _) => Source::Body(rest.map_or(Ok(Steps::default()), steps)?),
            ("item", _) if names.each => Source::Item(rest.map_or(Ok(Steps::default()), steps)?),
            ("item", _) => return Err("`{item}` has a meaning with `for_each` only".to_owned()),
            ("arg", _) if names.field.is_some() => {
                let argument = steps(member()?)?;
                let known = names.field.into_iter().flat_map(|field| field.arguments).copied();
                match argument.first().filter(|first| !known.clone().any(|known| *known == ***first)) {
                    None => Source::Argument(argument),
                    Some(first) => {
                        let near = did_you_mean(first, known).map(|near| format!("; did you mean `arg.{near}`?"));
                        return Err(format!("the field has no argument `{first}`{}", near.unwrap_or_default()));
                    }
                }
            }
            ("parent", _) if names.field.is_some_and(|field| field.is_within) => Source::Parent(steps(member()?)?),
            ("keys", None) if names.field.is_some_and(|field| field.is_batch) => Source::Keys,
            ("arg" | "parent" | "keys", _) => {
                let meaning = "`{arg.NAME}` stands for a field's argument, `{parent.FIELD}` for the object that has the field, `{keys}` for those of a `batch`";
                return Err(format!("`{{{name}}}` stands for nothing here: {meaning}"));
            }
            ("parts", _) => {
                let (call, field) = member()?.split_once('.').map_or((member()?, None), |(call, field)| (call, Some(field)));
                if !names.calls.contains(&call) {
                    let near = did_you_mean(call, names.calls.iter().copied());
                    let hint = near.map_or_else(String::new, |near| format!("; did you mean `parts.{near}`?"));
                    return Err(format!("there is no call `{call}`{hint}"));
                }
                Source::Part(call.into(), field.map_or(Ok(Steps::default()), steps)?)
            }
            _ => {
                let near = did_you_mean(name, WORDS).map(|word| format!("; did you mean `{{{word}}}`?"));
                let roots = "; there are `param`, `query`, `header`, `claim`, `body`, `parts` and others";
                return Err(format!("`{{{name}}}` stands for nothing{}", near.unwrap_or_else(|| roots.to_owned())));
            }
        })
    }

    /// What it stands for. `None` where there is no such thing.
    pub fn get<'a>(&'a self, known: &Known<'a>) -> Option<Found<'a>> {
        let Known { head, exchange, .. } = *known;
        let identity = exchange.identity.as_deref();
        let text = |text: &'a str| Found::Bytes(Cow::Borrowed(text.as_bytes()));
        Some(match self {
            Source::Param(name) => Found::Bytes(decode_escapes(exchange.param(name)?)),
            Source::Query(name) => Found::Bytes(query_values(head.query()?, name).next()?),
            Source::Header(name) => Found::Bytes(Cow::Borrowed(head.header(name)?)),
            Source::Claim(name, steps) => {
                let claims = identity?.claims.as_deref()?;
                Found::Json(claims.get(&**name).or_else(|| within(claims, steps.as_ref()?))?)
            }
            Source::Subject => text(&identity?.subject),
            Source::Consumer => text(identity?.consumer.as_deref()?),
            Source::ClientAddress => Found::Bytes(Cow::Owned(exchange.client.to_canonical().to_string().into_bytes())),
            Source::RequestId => text(&exchange.request_id),
            Source::Host => text(&head.host),
            Source::Body(steps) => Found::Exact(within(known.body?, steps)?),
            Source::Part(call, steps) => Found::Exact(within(known.parts.get(&**call)?, steps)?),
            Source::Item(steps) => Found::Exact(within(known.item?, steps)?),
            Source::Argument(steps) => Found::Json(within(known.field?.arguments, steps)?),
            Source::Parent(steps) => Found::Exact(within(known.field?.parent, steps)?),
            Source::Keys => Found::Keys(known.field?.keys),
        })
    }
}

/// A value that is there, and cannot stand in a target or a field: a list or an object, a number of a token's without all of its digits
/// ([`digits`]), or more than [`LONGEST`] bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsayable;

/// What something is known by, as a text. `None` for what cannot stand in a list of them.
pub fn key(value: &Exact) -> Option<String> {
    match value {
        Exact::Text(text) => (!text.is_empty() && !text.contains(',')).then(|| text.clone()),
        Exact::Number(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A number as a text. `None` for a whole one that is kept without all of its digits, as those of more than 64 bits are: whatever would be asked
/// for by the others is something else.
fn digits(number: &Number) -> Option<String> {
    /// From here on there are integers that are no floats.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = !number.is_f64() || number.as_f64().is_some_and(|value| value.abs() < EXACT);
    whole.then(|| number.to_string())
}

/// What others stand in.
pub trait Around: Sized {
    /// The member of that name, or the element of that number.
    fn step(&self, step: &str) -> Option<&Self>;
}

impl Around for Value {
    fn step(&self, step: &str) -> Option<&Self> {
        match self {
            Value::Object(members) => members.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }
}

impl Around for Exact {
    fn step(&self, step: &str) -> Option<&Self> {
        match self {
            Exact::Object(members) => members.get(step),
            Exact::List(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        }
    }
}

/// What stands there in a value.
pub fn within<'a, T: Around>(value: &'a T, steps: &[Box<str>]) -> Option<&'a T> {
    steps.iter().try_fold(value, |value, step| value.step(step))
}

/// `a.b.0`, as in a configuration.
///
/// # Errors
/// A sentence about what is wrong.
pub fn steps(text: &str) -> Result<Steps, String> {
    if text.split('.').any(str::is_empty) || text.split('.').count() > 16 {
        return Err(format!("`{text}` is no field such as `a` or `a.b`"));
    }
    Ok(text.split('.').map(Box::from).collect())
}

/// A compiled text.
#[derive(Debug, Clone)]
pub struct Text(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(Box<str>),
    Of(Source),
}

impl Text {
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(text: &str, names: &Names<'_>) -> Result<Text, String> {
        let piece = |part| match part {
            Part::Text(text) => Ok(Piece::Text(text.into())),
            Part::Name(name) => Source::parse(name, names).map(Piece::Of),
        };
        braces::parts(text)?.into_iter().map(piece).collect::<Result<_, _>>().map(Text)
    }

    /// What it is, if it is one placeholder and nothing else.
    pub fn alone(&self) -> Option<&Source> {
        if let [Piece::Of(source)] = self.0.as_slice() { Some(source) } else { None }
    }

    pub fn ends_in_value(&self) -> bool {
        matches!(self.0.last(), Some(Piece::Of(_)))
    }

    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter_map(|piece| if let Piece::Of(source) = piece { Some(source) } else { None })
    }

    /// With a letter for each placeholder: what is written beside them.
    pub fn outline(&self) -> String {
        self.0.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "x" }).collect()
    }

    /// As bytes of a target or a field. `None` where a value is missing.
    ///
    /// # Errors
    /// [`Unsayable`], which is not the same as nothing: without what is there something else would be asked for.
    pub fn said(&self, known: &Known<'_>) -> Result<Option<Vec<u8>>, Unsayable> {
        let (mut out, mut missing) = (Vec::new(), false);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Of(source) => match source.get(known).filter(|found| !found.is_null()) {
                    Some(found) => out.extend_from_slice(&found.bytes().ok_or(Unsayable)?),
                    None => missing = true,
                },
            }
        }
        if out.len() > LONGEST { Err(Unsayable) } else { Ok((!missing).then_some(out)) }
    }

    /// As a path in its one spelling, with a letter for what is of none of these sources. `None` where a value is missing, or none that a path can
    /// have ([`path::Made`]).
    pub fn path(&self, known: &Known<'_>, these: impl Fn(&Source) -> bool) -> Option<String> {
        let mut made = path::Made::default();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => made.text(text),
                Piece::Of(source) if these(source) => made.value(&source.get(known)?.bytes()?)?,
                Piece::Of(_) => made.value(b"x")?,
            }
        }
        made.path()
    }

    /// As text in JSON, of any length. `None` where a value is missing, or is no text.
    pub fn json(&self, known: &Known<'_>) -> Option<String> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Of(source) => out.extend_from_slice(&source.get(known)?.bytes()?),
            }
        }
        Some(lossy(Cow::Owned(out)).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::exchange::Identity;

    #[test]
    fn a_number_is_a_text_as_it_was_written_or_none() {
        for (written, text) in [
            ("7", Some("7")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("0.5", Some("0.5")),
            ("79.99", Some("79.99")),
            ("-12.0", Some("-12.0")),
            ("18446744073709551616", None),
            ("12345678901234567890123", None),
            ("100000000000000000000", None),
            ("-1e300", None),
            ("52.5200066", Some("52.5200066")),
        ] {
            // Of a token only what is kept; of a document all.
            let value = crate::jose::json::value(written.as_bytes()).unwrap();
            assert_eq!(Found::Json(&value).bytes().as_deref(), text.map(str::as_bytes), "{written}");
            let value = Exact::read(written.as_bytes()).unwrap();
            assert_eq!(key(&value).as_deref(), Some(written));
            assert_eq!(Found::Exact(&value).bytes().as_deref(), Some(written.as_bytes()));
        }
    }

    #[test]
    fn claims_are_found_by_their_whole_name_and_within_others() {
        let claims = json!({ "https://a.test/tenant": "acme", "org": { "id": 7, "teams": ["x"] }, "org.id": "whole" });
        let identity = Identity { claims: Some(Arc::new(claims)), ..Identity::default() };
        let exchange = Exchange { identity: Some(Arc::new(identity)), ..Exchange::for_tests() };
        let (head, parts) = (RequestHead::build("GET", "/", &[]), Members::default());
        let known = Known { head: &head, exchange: &exchange, parts: &parts, body: None, item: None, field: None };
        let names = Names { pattern: "/", calls: &[], each: false, field: None };
        let said = |name: &str| {
            let text = Text::parse(&format!("{{claim.{name}}}"), &names).unwrap();
            text.said(&known).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for (name, value) in [
            ("https://a.test/tenant", Some("acme")),
            ("org.id", Some("whole")),
            ("org.teams.0", Some("x")),
            ("https://a.test/x", None),
        ] {
            assert_eq!(said(name).as_deref(), value, "{name}");
        }
        assert!(Text::parse("{claim.a..b}", &names).is_err());
    }
}
