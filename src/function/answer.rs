//! What a function has returned, as an answer.
//!
//! As API Gateway reads it: in format 2.0 whatever has no `statusCode` is the body of a 200; in the other formats it has to have one. What
//! is wrong is never passed on in part.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::config::EventFormat;
use crate::head::{MAX_ANSWER_FIELDS, TRAVEL_FIELDS};
use crate::jose::json;

/// An answer as the function wants it.
#[derive(Debug)]
pub struct Told {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
}

/// Why what was returned is no answer, in a word for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    Json,
    NoStatus,
    Status,
    Fields,
    Body,
    Base64,
}

impl Bad {
    pub fn why(self) -> &'static str {
        match self {
            Bad::Json => "no JSON",
            Bad::NoStatus => "no statusCode",
            Bad::Status => "statusCode is no status",
            Bad::Fields => "headers that are none",
            Bad::Body => "body is no text",
            Bad::Base64 => "body is no base64",
        }
    }
}

/// Reads what was returned.
///
/// # Errors
/// See [`Bad`].
pub fn read(format: EventFormat, payload: &[u8]) -> Result<Told, Bad> {
    match json::value(payload).ok_or(Bad::Json)? {
        Value::Object(mut members) if members.contains_key("statusCode") => whole(format, &mut members),
        other if format == EventFormat::V2 => Ok(inferred(&other)),
        _ => Err(Bad::NoStatus),
    }
}

/// Reads the head of an answer whose body follows: it has its `statusCode`, and is otherwise as in format 2.0.
///
/// # Errors
/// See [`Bad`].
pub fn read_head(head: &[u8]) -> Result<Told, Bad> {
    match json::value(head).ok_or(Bad::Json)? {
        Value::Object(mut members) if members.contains_key("statusCode") => whole(EventFormat::V2, &mut members),
        _ => Err(Bad::NoStatus),
    }
}

/// All of it is the body.
fn inferred(value: &Value) -> Told {
    let body = match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Told { status: StatusCode::OK, fields: HeaderMap::from_iter([kind]), body }
}

fn whole(format: EventFormat, members: &mut Map<String, Value>) -> Result<Told, Bad> {
    let status = status(members.get("statusCode")).ok_or(Bad::Status)?;
    let mut fields = HeaderMap::new();
    let listed = each(members.get("multiValueHeaders"))?;
    for (name, values) in listed {
        match values {
            Value::Array(values) => values.iter().try_for_each(|value| put(&mut fields, name, value))?,
            Value::Null => {}
            _ => return Err(Bad::Fields),
        }
    }
    let several = fields.clone();
    for (name, value) in each(members.get("headers"))? {
        // Of a field that is in both, what the list says counts.
        if !several.contains_key(name.as_str()) {
            put(&mut fields, name, value)?;
        }
    }
    match members.get("cookies") {
        None | Some(Value::Null) => {}
        Some(Value::Array(cookies)) if format == EventFormat::V2 => {
            cookies.iter().try_for_each(|cookie| put(&mut fields, header::SET_COOKIE.as_str(), cookie))?;
        }
        Some(_) if format != EventFormat::V2 => {}
        Some(_) => return Err(Bad::Fields),
    }
    let coded = match members.get("isBase64Encoded") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(coded)) => *coded,
        Some(_) => return Err(Bad::Body),
    };
    let body = match members.remove("body") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if coded => STANDARD.decode(text).map_err(|_| Bad::Base64)?,
        Some(Value::String(text)) => text.into_bytes(),
        Some(_) => return Err(Bad::Body),
    };
    if !body.is_empty() {
        let usual = match format {
            EventFormat::V2 => "text/plain;charset=utf-8",
            EventFormat::V1 => "application/json",
            EventFormat::Alb => "application/octet-stream",
        };
        fields.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(usual));
    }
    Ok(Told { status, fields, body })
}

/// A final one, as a number or, as some write it, as a text.
fn status(value: Option<&Value>) -> Option<StatusCode> {
    let number = match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.len() == 3 => text.parse().ok(),
        _ => None,
    };
    let number = u16::try_from(number?).ok().filter(|number| (200..=599).contains(number))?;
    StatusCode::from_u16(number).ok()
}

fn each(value: Option<&Value>) -> Result<impl Iterator<Item = (&String, &Value)>, Bad> {
    match value {
        None | Some(Value::Null) => Ok(None.into_iter().flatten()),
        Some(Value::Object(members)) => Ok(Some(members).into_iter().flatten()),
        Some(_) => Err(Bad::Fields),
    }
}

/// Adds a field, unless it is one that whoever writes the answer decides.
fn put(fields: &mut HeaderMap, name: &str, value: &Value) -> Result<(), Bad> {
    let value = match value {
        Value::Null => return Ok(()),
        Value::String(text) => HeaderValue::from_bytes(text.as_bytes()),
        Value::Number(number) => HeaderValue::try_from(number.to_string()),
        Value::Bool(truth) => HeaderValue::try_from(truth.to_string()),
        Value::Array(_) | Value::Object(_) => return Err(Bad::Fields),
    };
    let (name, value) = (HeaderName::from_bytes(name.as_bytes()).map_err(|_| Bad::Fields)?, value.map_err(|_| Bad::Fields)?);
    if !TRAVEL_FIELDS.contains(&name.as_str()) {
        if fields.len() >= MAX_ANSWER_FIELDS {
            return Err(Bad::Fields);
        }
        fields.try_append(name, value).map_err(|_| Bad::Fields)?;
    }
    Ok(())
}
