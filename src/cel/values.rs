//! Headers, parameters and claims as CEL sees them: maps that look a member up when they are asked for it, and prepared arguments.

use std::any::Any;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, MAP_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use serde_json::{Map, Value};

use super::variables::cow;
use crate::carrier::{decode, lossy};
use crate::cidr::CidrSet;
use crate::head::RequestHead;

/// Where a map's members come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    Headers(&'a RequestHead),
    Query(&'a RequestHead),
    Params(&'a [(Arc<str>, Box<str>)]),
    Object(&'a Map<String, Value>),
}

impl<'a> Source<'a> {
    /// The member of that name.
    pub fn get(self, name: &str) -> Option<Box<dyn Val + 'a>> {
        match self {
            Source::Headers(head) => header(head, name).map(|value| Box::new(cow(value)) as _),
            Source::Query(head) => {
                // Most names are as they are: they need no second look.
                let is_name = |key: &str| key == name || (key.contains(['%', '+']) && decoded(key) == name);
                let values = head.query_pairs().filter(|(key, _)| is_name(key));
                let values: Vec<Box<dyn Val + 'a>> = values.map(|(_, value)| Box::new(cow(decoded(value))) as _).collect();
                (!values.is_empty()).then(|| Box::new(CelList::from(values)) as _)
            }
            Source::Params(params) => {
                let (_, value) = params.iter().find(|(known, _)| **known == *name)?;
                Some(Box::new(CelString::from(&**value)))
            }
            Source::Object(members) => members.get(name).map(json),
        }
    }

    /// Every member's name, each once.
    fn names(self) -> Vec<CelString<'a>> {
        let mut names: Vec<CelString<'a>> = match self {
            Source::Headers(head) => {
                let names = head.headers().map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase());
                names.map(CelString::from).collect()
            }
            Source::Query(head) => head.query_pairs().map(|(name, _)| cow(decoded(name))).collect(),
            Source::Params(params) => params.iter().map(|(name, _)| CelString::from(&**name)).collect(),
            Source::Object(members) => members.keys().map(|name| CelString::from(name.as_str())).collect(),
        };
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A header's value; several fields of one name are one list (RFC 9110, section 5.3), so that a second field hides nothing.
fn header<'a>(head: &'a RequestHead, name: &str) -> Option<Cow<'a, str>> {
    let mut values = head.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value);
    let mut joined = String::from_utf8_lossy(values.next()?);
    for more in values {
        joined.to_mut().push_str(", ");
        joined.to_mut().push_str(&String::from_utf8_lossy(more));
    }
    Some(joined)
}

/// A query's name or value, as forms encode them. What is no escape stands as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    lossy(decode(text))
}

/// A JSON value; objects inside are looked up as they are needed.
pub fn json(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(json).collect::<Vec<_>>())),
        Value::Object(members) => Box::new(View::new(Source::Object(members))),
    }
}

/// A value as JSON: the other way round. `None` for what has no such form, and for what is nested too deeply.
pub fn written(value: &dyn Val, depth: usize) -> Option<Value> {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return Some(Value::String(text.inner().to_owned()));
    }
    if let Some(number) = value.downcast_ref::<CelInt>() {
        return Some(Value::from(*number.inner()));
    }
    if let Some(number) = value.downcast_ref::<CelUInt>() {
        return Some(Value::from(*number.inner()));
    }
    if let Some(number) = value.downcast_ref::<CelDouble>() {
        return serde_json::Number::from_f64(*number.inner()).map(Value::Number);
    }
    if let Some(value) = value.downcast_ref::<CelBool>() {
        return Some(Value::Bool(*value.inner()));
    }
    if value.downcast_ref::<CelNull>().is_some() {
        return Some(Value::Null);
    }
    let list = value.downcast_ref::<CelList>()?;
    let depth = depth.checked_sub(1)?;
    list.inner().iter().map(|item| written(&**item, depth)).collect()
}

/// A map that copies nothing: a member is made when it is asked for, the list of names when somebody goes through them.
#[derive(Debug)]
pub struct View<'a> {
    source: Source<'a>,
    names: OnceLock<Vec<CelString<'a>>>,
}

impl<'a> View<'a> {
    pub fn new(source: Source<'a>) -> Self {
        View { source, names: OnceLock::new() }
    }

    fn names(&self) -> &[CelString<'a>] {
        self.names.get_or_init(|| self.source.names())
    }
}

impl Val for View<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(View::new(self.source))
    }
}

impl Indexer for View<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let Some(name) = key.downcast_ref::<CelString>() else {
            return Err(ExecutionError::UnexpectedType { got: key.get_type().name().to_owned(), want: "string".to_owned() });
        };
        // The name may be the client's, and an error is to hold nothing of it.
        self.source.get(name.inner()).map(|value| CowVal::Owned(value as _)).ok_or_else(|| ExecutionError::no_such_key(""))
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Container for View<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(value.downcast_ref::<CelString>().is_some_and(|name| self.source.get(name.inner()).is_some()))
    }
}

impl Sizer for View<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.names().len()).unwrap_or(i64::MAX))
    }
}

impl Iterable for View<'_> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn CelIterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Names(self.names().iter()))
    }
}

struct Names<'b, 'a>(std::slice::Iter<'b, CelString<'a>>);

impl<'b, 'v, 'a: 'v> CelIterator<'b, 'v> for Names<'b, 'a> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|name| name as &(dyn Val + 'v))
    }
}

/// The pattern of a `matches`, compiled.
#[derive(Clone, Debug)]
pub struct Pattern(pub Arc<regex::Regex>);

pub static PATTERN_TYPE: Type = Type::new_unspecified_type("pattern");

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

pub fn matches(text: &CelString<'_>, pattern: &Pattern) -> CelBool {
    CelBool::from(pattern.0.is_match(text.inner()))
}

/// The network of a `cidr`, read.
#[derive(Clone, Debug)]
pub struct Network(pub Arc<CidrSet>);

pub static NETWORK_TYPE: Type = Type::new_unspecified_type("net.CIDR");

impl Val for Network {
    fn get_type(&self) -> &Type {
        &NETWORK_TYPE
    }

    fn cel_type() -> &'static Type {
        &NETWORK_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Network {}

pub fn contains_ip(network: &Network, address: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    match address.inner().parse::<IpAddr>() {
        Ok(address) => Ok(CelBool::from(network.0.contains(address))),
        Err(_) => Err(ExecutionError::function_error("containsIP", "no address")),
    }
}
