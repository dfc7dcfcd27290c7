//! What values become: those of clients on their way in, and those of services on their way out (sections 3.5, 6.1.2 and 6.4.1).
//!
//! A variable is copied for each place where it stands, and a default for each place where nothing does: a short document can ask for
//! very much memory. Whoever has it is asked before it is taken.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::Wrong;
use super::ast::{Argument, Operation, Type, Value};
use super::schema::{InputValue, Kind, Schema};
use crate::json::Exact;

/// The longest value that is repeated to a client, in bytes.
const LONGEST_TOLD: usize = 64;

fn told(value: &impl std::fmt::Display) -> String {
    let text = value.to_string();
    if text.len() <= LONGEST_TOLD { text } else { "that value".to_owned() }
}

/// What a member of an object takes beside its value and the letters of its name.
const MEMBER: usize = 64;
/// What an object takes beside its members: it is a table.
const TABLE: usize = 256;

/// About what a value takes in memory.
fn takes(value: &Json) -> usize {
    let within = match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(takes).sum(),
        Json::Object(members) => TABLE + members.iter().map(|(name, member)| MEMBER + name.len() + takes(member)).sum::<usize>(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    };
    size_of::<Json>() + within
}

/// About what one of a service's takes in memory, beside itself.
pub fn takes_beside(value: &Exact) -> usize {
    let whole = |value| size_of::<Exact>() + takes_beside(value);
    match value {
        Exact::Text(text) => text.len(),
        Exact::Number(text) => text.len(),
        Exact::List(items) => items.iter().map(whole).sum(),
        Exact::Object(members) => TABLE + members.iter().map(|(name, member)| MEMBER + name.len() + whole(member)).sum::<usize>(),
        Exact::Null | Exact::Bool(_) => 0,
    }
}

/// Whether there is memory for so many bytes more.
pub type Pays<'a> = &'a dyn Fn(usize) -> bool;

/// What an operation's variables are, and what a copy of each takes.
#[derive(Debug, Default)]
pub struct Variables(BTreeMap<Box<str>, (Json, usize)>);

impl Variables {
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.get(name).map(|(value, _)| value)
    }

    /// A copy, for which memory was paid. Of none it is null.
    fn copy(&self, name: &str, pays: Pays<'_>) -> Result<Json, String> {
        match self.0.get(name) {
            Some((value, takes)) => paid(pays, *takes).map(|()| value.clone()),
            None => Ok(Json::Null),
        }
    }
}

fn paid(pays: Pays<'_>, bytes: usize) -> Result<(), String> {
    if pays(bytes) { Ok(()) } else { Err("it takes more memory than there is for it".to_owned()) }
}

/// A value in which no variable stands, of so many bytes at most.
///
/// # Errors
/// Why it is none of the type.
pub fn constant(schema: &Schema, ty: &Type, value: &Value, most: usize) -> Result<Json, String> {
    let left = std::cell::Cell::new(most);
    let pays = |bytes| left.get().checked_sub(bytes).map(|less| left.set(less)).is_some();
    literal(schema, ty, value, None, &pays)
}

/// A value that is written in a document. `variables`: what they are; `None` where there cannot be any.
fn literal(schema: &Schema, ty: &Type, value: &Value, variables: Option<&Variables>, pays: Pays<'_>) -> Result<Json, String> {
    if let Value::Variable(name) = value {
        let Some(variables) = variables else { return Err("no variable can stand there".to_owned()) };
        return match variables.get(name) {
            Some(Json::Null) | None if ty.is_non_null() => Err(format!("the variable \"${name}\" is null, and `{ty}` is needed")),
            // It was coerced when the request began.
            _ => variables.copy(name, pays),
        };
    }
    match ty {
        Type::NonNull(_) if *value == Value::Null => Err(format!("null is no `{ty}`")),
        Type::NonNull(within) => literal(schema, within, value, variables, pays),
        _ if *value == Value::Null => Ok(Json::Null),
        Type::List(within) => match value {
            Value::List(items) => {
                paid(pays, items.len().saturating_mul(size_of::<Json>()))?;
                items.iter().map(|item| literal(schema, within, item, variables, pays)).collect()
            }
            one => Ok(Json::Array(vec![literal(schema, within, one, variables, pays)?])),
        },
        Type::Named(name) => match (schema.kind(name), value) {
            (Some(Kind::Enum { values }), Value::Enum(word)) if values.iter().any(|known| known.name == *word) => {
                paid(pays, word.len())?;
                Ok((&**word).into())
            }
            (Some(Kind::Enum { .. }), _) => Err(format!("{} is no value of the enum `{name}`", told(value))),
            (Some(Kind::Input { fields }), Value::Object(members)) => {
                for (number, (member, _)) in members.iter().enumerate() {
                    if !fields.iter().any(|field| field.name == *member) {
                        return Err(format!("`{name}` has no field `{member}`"));
                    }
                    if members.iter().take(number).any(|(other, _)| other == member) {
                        return Err(format!("`{member}` is there twice"));
                    }
                }
                paid(pays, TABLE)?;
                let mut object = Map::new();
                for field in fields {
                    let given = members.iter().find(|(member, _)| *member == field.name).map(|(_, value)| value);
                    if let Some(value) = given_or_default(schema, field, given, variables, pays)
                        .map_err(|why| format!("`{}`: {why}", field.name))?
                    {
                        paid(pays, size_of::<Json>() + MEMBER + field.name.len())?;
                        object.insert(field.name.to_string(), value);
                    }
                }
                Ok(Json::Object(object))
            }
            (Some(Kind::Input { .. }), _) => Err(format!("{} is no input object `{name}`", told(value))),
            (Some(Kind::Scalar { .. }), value) => {
                let bad = || format!("{} is no `{name}`", told(value));
                if matches!(value, Value::Enum(_)) {
                    return Err(bad());
                }
                let is = match (&**name, value) {
                    ("Int", Value::Int(_)) | ("Float", Value::Int(_) | Value::Float(_)) => true,
                    ("ID", Value::Int(digits)) => {
                        paid(pays, digits.len())?;
                        return Ok((&**digits).into());
                    }
                    ("ID" | "String", Value::String(_)) | ("Boolean", Value::Boolean(_)) => true,
                    ("Int" | "Float" | "String" | "Boolean" | "ID", _) => false,
                    _ => true,
                };
                let plain = plain(value, variables, pays)?.ok_or_else(bad)?;
                if is { scalar(name, plain).ok_or_else(bad) } else { Err(bad()) }
            }
            _ => Err(format!("there is no input type `{name}`")),
        },
    }
}

/// What is given for an argument or a field of an input object. `None`: nothing, and nothing stands in for it.
fn given_or_default(
    schema: &Schema,
    input: &InputValue,
    given: Option<&Value>,
    variables: Option<&Variables>,
    pays: Pays<'_>,
) -> Result<Option<Json>, String> {
    let is_there = match given {
        Some(Value::Variable(name)) => variables.is_none_or(|variables| variables.get(name).is_some()),
        given => given.is_some(),
    };
    match (given, &input.default) {
        (Some(value), _) if is_there => literal(schema, &input.ty, value, variables, pays).map(Some),
        (_, Some(default)) => literal(schema, &input.ty, default, None, pays).map(Some),
        _ if input.ty.is_non_null() => Err(format!("`{}` is needed", input.ty)),
        _ => Ok(None),
    }
}

/// A value of a scalar that the schema has of its own: as it is. `None`: it is no value.
fn plain(value: &Value, variables: Option<&Variables>, pays: Pays<'_>) -> Result<Option<Json>, String> {
    Ok(Some(match value {
        Value::Variable(name) => match variables {
            Some(variables) => variables.copy(name, pays)?,
            None => return Ok(None),
        },
        Value::Int(text) | Value::Float(text) => match serde_json::from_str::<Json>(text) {
            Ok(number) if number.is_number() => number,
            _ => return Ok(None),
        },
        Value::String(text) | Value::Enum(text) => {
            paid(pays, text.len())?;
            (&**text).into()
        }
        Value::Boolean(value) => (*value).into(),
        Value::Null => Json::Null,
        Value::List(items) => {
            paid(pays, items.len().saturating_mul(size_of::<Json>()))?;
            let mut all = Vec::with_capacity(items.len());
            for item in items {
                let Some(item) = plain(item, variables, pays)? else { return Ok(None) };
                all.push(item);
            }
            Json::Array(all)
        }
        Value::Object(members) => {
            paid(pays, TABLE)?;
            let mut all = Map::new();
            for (name, member) in members {
                paid(pays, size_of::<Json>() + MEMBER + name.len())?;
                let Some(member) = plain(member, variables, pays)? else { return Ok(None) };
                all.insert(name.to_string(), member);
            }
            Json::Object(all)
        }
    }))
}

/// A value of a scalar on its way in.
fn scalar(name: &str, value: Json) -> Option<Json> {
    match name {
        "Int" => whole(&value).map(Json::from),
        "Float" => value.as_f64().filter(|number| number.is_finite()).map(|_| value),
        "String" => value.is_string().then_some(value),
        "Boolean" => value.is_boolean().then_some(value),
        "ID" if value.is_string() => Some(value),
        "ID" => integral(&value).map(|id| id.to_string().into()),
        _ => Some(value),
    }
}

fn integral(value: &Json) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0)?;
        #[allow(clippy::cast_possible_truncation, reason = "it is whole, and short")]
        Some(number as i64)
    })
}

fn whole(value: &Json) -> Option<i32> {
    i32::try_from(integral(value)?).ok()
}

/// A value that a variable is given.
///
/// # Errors
/// Why it is none of the type.
pub fn input(schema: &Schema, ty: &Type, value: Json, pays: Pays<'_>) -> Result<Json, String> {
    match ty {
        Type::NonNull(_) if value.is_null() => Err(format!("null is no `{ty}`")),
        Type::NonNull(within) => input(schema, within, value, pays),
        _ if value.is_null() => Ok(value),
        Type::List(within) => match value {
            Json::Array(items) => items.into_iter().map(|item| input(schema, within, item, pays)).collect(),
            one => Ok(Json::Array(vec![input(schema, within, one, pays)?])),
        },
        Type::Named(name) => match (schema.kind(name), value) {
            (Some(Kind::Enum { values }), Json::String(word)) if values.iter().any(|known| *known.name == *word) => {
                Ok(word.into())
            }
            (Some(Kind::Enum { .. }), value) => Err(format!("{} is no value of the enum `{name}`", told(&value))),
            (Some(Kind::Input { fields }), Json::Object(mut members)) => {
                let mut object = Map::new();
                for field in fields {
                    let given = members.remove(&*field.name);
                    let value = match (given, &field.default) {
                        (Some(value), _) => input(schema, &field.ty, value, pays).map(Some),
                        (None, Some(default)) => paid(pays, size_of::<Json>() + MEMBER + field.name.len())
                            .and_then(|()| literal(schema, &field.ty, default, None, pays))
                            .map(Some),
                        (None, None) if field.ty.is_non_null() => Err(format!("`{}` is needed", field.ty)),
                        (None, None) => Ok(None),
                    };
                    if let Some(value) = value.map_err(|why| format!("`{}`: {why}", field.name))? {
                        object.insert(field.name.to_string(), value);
                    }
                }
                match members.keys().next() {
                    Some(unknown) => Err(format!("`{name}` has no field `{}`", told(unknown))),
                    None => Ok(Json::Object(object)),
                }
            }
            (Some(Kind::Scalar { .. }), value) => {
                let bad = format!("{} is no `{name}`", told(&value));
                scalar(name, value).ok_or(bad)
            }
            (_, value) => Err(format!("{} is no `{name}`", told(&value))),
        },
    }
}

/// What an operation's variables are.
///
/// # Errors
/// One has no value that it can have.
pub fn variables(
    schema: &Schema,
    operation: &Operation,
    mut given: Map<String, Json>,
    pays: Pays<'_>,
) -> Result<Variables, Wrong> {
    let mut all = BTreeMap::new();
    for variable in &operation.variables {
        let bad = |why: String| Wrong::new(format!("Variable \"${}\": {why}", variable.name), variable.at);
        let value = match (given.remove(&*variable.name), &variable.default) {
            (Some(value), _) => input(schema, &variable.ty, value, pays).map_err(bad)?,
            (None, Some(default)) => literal(schema, &variable.ty, default, None, pays).map_err(bad)?,
            (None, None) if variable.ty.is_non_null() => return Err(bad(format!("`{}` is needed", variable.ty))),
            (None, None) => continue,
        };
        let takes = takes(&value);
        all.insert(variable.name.clone(), (value, takes));
    }
    Ok(Variables(all))
}

/// What a field's or a directive's arguments are.
///
/// # Errors
/// One has no value that it can have.
pub fn arguments(
    schema: &Schema,
    defined: &[InputValue],
    written: &[Argument],
    variables: &Variables,
    at: u32,
    pays: Pays<'_>,
) -> Result<Map<String, Json>, Wrong> {
    let mut all = Map::new();
    for input in defined {
        let given = written.iter().find(|argument| argument.name == input.name);
        let value = given_or_default(schema, input, given.map(|argument| &argument.value), Some(variables), pays);
        let place = given.map_or(at, |argument| argument.at);
        if let Some(value) = value.map_err(|why| Wrong::new(format!("Argument \"{}\": {why}", input.name), place))? {
            all.insert(input.name.to_string(), value);
        }
    }
    Ok(all)
}

/// A value of a service's as the answer has it: numbers as they were written, but for `Int`. `None`: it is none of the type, which has no fields.
pub fn output(schema: &Schema, name: &str, value: &Exact) -> Option<Exact> {
    let number = || if let Exact::Number(_) = value { value.rounded() } else { Json::Null };
    match (schema.kind(name)?, name) {
        (Kind::Enum { values }, _) => {
            let word = value.as_str()?;
            values.iter().any(|known| *known.name == *word).then(|| value.clone())
        }
        (Kind::Scalar { .. }, "Int") => whole(&number()).map(Json::from).map(Exact::from),
        // One that is beyond floating point is none of its.
        (Kind::Scalar { .. }, "Float") => number().is_number().then(|| value.clone()),
        (Kind::Scalar { .. }, "Boolean") => matches!(value, Exact::Bool(_)).then(|| value.clone()),
        (Kind::Scalar { .. }, "String" | "ID") => match value {
            Exact::Text(_) => Some(value.clone()),
            Exact::Number(text) => Some((&**text).into()),
            Exact::Bool(value) if name == "String" => Some(value.to_string().as_str().into()),
            _ => None,
        },
        (Kind::Scalar { .. }, _) => Some(value.clone()),
        _ => None,
    }
}
