//! JSON into a message (proto3's JSON mapping).
//!
//! Written here although the library has a reader: that one does not say where in a body it was stopped, takes the last of two spellings of
//! one field, `inf` for a number and what is beyond an integer for its largest.

use std::cell::Cell;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};

use super::bill::Bill;
use super::config::Unknown;
use super::encoding::{self, DEEPEST, ENTRY, MESSAGE, VALUE};
use super::field::Spelling;
use super::scalar::{self, Number};
use super::wkt::{self, Known};
use super::{field, type_name};

/// Where a body is not what the message wants, and what it would have to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// A JSON pointer.
    pub at: String,
    pub must: String,
}

impl Wrong {
    fn new(must: impl Into<String>) -> Wrong {
        Wrong { at: String::new(), must: must.into() }
    }

    fn below(mut self, name: impl std::fmt::Display) -> Wrong {
        let name = name.to_string().replace('~', "~0").replace('/', "~1");
        self.at = format!("/{name}{}", self.at);
        self
    }
}

fn too_much() -> Wrong {
    Wrong::new("must not be so much")
}

impl From<String> for Wrong {
    fn from(must: String) -> Wrong {
        Wrong::new(must)
    }
}

pub struct Reader<'p> {
    unknown: Unknown,
    spelling: Spelling,
    bill: Bill<'p>,
    depth: Cell<usize>,
}

impl<'p> Reader<'p> {
    pub fn new(unknown: Unknown, spelling: Spelling, bill: Bill<'p>) -> Reader<'p> {
        Reader { unknown, spelling, bill, depth: Cell::new(0) }
    }

    /// Whether what was to be read is too much.
    pub fn is_over(&self) -> bool {
        self.bill.is_over()
    }

    /// What is read, once all of it is paid for.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn whole<T>(&self, read: impl FnOnce(&Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        let whole = read(self)?;
        if self.bill.settle() { Ok(whole) } else { Err(too_much()) }
    }

    fn takes(&self, bytes: usize) -> Result<(), Wrong> {
        if self.bill.takes(bytes) { Ok(()) } else { Err(too_much()) }
    }

    /// # Errors
    /// It is not what the message wants.
    pub fn message(&self, descriptor: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, Wrong> {
        self.takes(MESSAGE)?;
        self.deeper(|| self.inside(descriptor, json))
    }

    /// One level below: a message, or an entry of a map, which is one to those who read it.
    fn deeper<T>(&self, read: impl FnOnce() -> Result<T, Wrong>) -> Result<T, Wrong> {
        let depth = self.depth.get();
        if depth == DEEPEST {
            return Err(Wrong::new("must not be so deep"));
        }
        self.depth.set(depth + 1);
        let read = read();
        self.depth.set(depth);
        read
    }

    fn inside(&self, descriptor: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, Wrong> {
        if let Some(known) = Known::of(descriptor) {
            return self.known(known, descriptor, json);
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let members = json.as_object().ok_or_else(|| Wrong::new("must be an object"))?;
        self.members(&mut message, members, None)?;
        Ok(message)
    }

    /// `but`: a member that is none of the message's.
    fn members(&self, message: &mut DynamicMessage, members: &Map<String, Json>, but: Option<&str>) -> Result<(), Wrong> {
        let descriptor = prost_reflect::ReflectMessage::descriptor(message);
        // Which fields have come, in either spelling: those that are `null` among them.
        let mut seen: Vec<u32> = Vec::with_capacity(members.len().min(16));
        for (name, json) in members {
            if but == Some(name) {
                continue;
            }
            let Some(field) = self.spelling.find(&descriptor, name) else {
                // One that is known by another name is not overlooked: whoever has written it means it.
                if let Some(meant) = self.spelling.meant(&descriptor, name) {
                    return Err(Wrong::new(format!("must be named `{meant}`")).below(name));
                }
                if self.unknown == Unknown::Ignore {
                    continue;
                }
                return Err(Wrong::new("must not be there: the message has no such field").below(name));
            };
            if seen.contains(&field.number()) {
                return Err(Wrong::new("must not be there in both spellings").below(name));
            }
            if seen.len() < 4096 {
                seen.push(field.number());
            }
            if let Some(value) = self.field(&field, json).map_err(|wrong| wrong.below(name))? {
                field::one_of_its_kind(message, &field).map_err(|must| Wrong::new(must).below(name))?;
                message.try_set_field(&field, value).map_err(|_| Wrong::new("must be of the field's type").below(name))?;
            }
        }
        Ok(())
    }

    /// A field's value. `None` leaves it as it is.
    ///
    /// # Errors
    /// It is not what the field wants.
    pub fn field(&self, field: &FieldDescriptor, json: &Json) -> Result<Option<Value>, Wrong> {
        let kind = field.kind();
        if json.is_null() && (field.is_list() || field.is_map() || !takes_null(&kind)) {
            return Ok(None);
        }
        if field.is_map() {
            return self.map(&kind, json).map(Some);
        }
        if !field.is_list() {
            return self.value(&kind, json);
        }
        self.list(&kind, json).map(Some)
    }

    fn list(&self, kind: &Kind, json: &Json) -> Result<Value, Wrong> {
        let elements = json.as_array().ok_or_else(|| Wrong::new("must be an array"))?;
        let mut list = Vec::with_capacity(elements.len());
        for (number, element) in elements.iter().enumerate() {
            list.extend(self.value(kind, element).map_err(|wrong| wrong.below(number))?);
        }
        Ok(Value::List(list))
    }

    fn map(&self, kind: &Kind, json: &Json) -> Result<Value, Wrong> {
        let entry = kind.as_message().filter(|entry| entry.is_map_entry()).ok_or_else(|| Wrong::new("must be a map"))?;
        let (keys, values) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let members = json.as_object().ok_or_else(|| Wrong::new("must be an object"))?;
        let mut map = std::collections::HashMap::with_capacity(members.len());
        for (name, json) in members {
            self.takes(ENTRY + name.len())?;
            let key = key(&keys, name).map_err(|must| Wrong::new(must).below(name))?;
            if let Some(value) = self.deeper(|| self.value(&values, json)).map_err(|wrong| wrong.below(name))?
                && map.insert(key, value).is_some()
            {
                return Err(Wrong::new("must not be there twice").below(name));
            }
        }
        Ok(Value::Map(map))
    }

    /// `None`: a name of an enumeration that nobody knows, where that is not minded.
    fn value(&self, kind: &Kind, json: &Json) -> Result<Option<Value>, Wrong> {
        self.takes(VALUE)?;
        let wrong = || Wrong::new(scalar::must_be(kind));
        match kind {
            Kind::Message(descriptor) => self.message(descriptor, json).map(|message| Some(Value::Message(message))),
            Kind::Enum(descriptor) => self.enumeration(descriptor, json),
            Kind::Bool => json.as_bool().map(|value| Some(Value::Bool(value))).ok_or_else(wrong),
            Kind::String | Kind::Bytes => {
                let text = json.as_str().ok_or_else(wrong)?;
                self.takes(text.len())?;
                Ok(Some(scalar::of_text(kind, text)?))
            }
            _ => match json {
                Json::Number(number) => Ok(Some(scalar::of_number(kind, Number::of_json(number).ok_or_else(wrong)?)?)),
                Json::String(text) => Ok(Some(scalar::of_text(kind, text)?)),
                _ => Err(wrong()),
            },
        }
    }

    fn enumeration(&self, descriptor: &EnumDescriptor, json: &Json) -> Result<Option<Value>, Wrong> {
        let must = || Wrong::new(scalar::must_be(&Kind::Enum(descriptor.clone())));
        match json {
            Json::Null if descriptor.full_name() == "google.protobuf.NullValue" => Ok(Some(Value::EnumNumber(0))),
            Json::String(name) => match descriptor.get_value_by_name(name) {
                Some(value) => Ok(Some(Value::EnumNumber(value.number()))),
                None if self.unknown == Unknown::Ignore => Ok(None),
                None => Err(must()),
            },
            Json::Number(number) => {
                let number = Number::of_json(number).ok_or_else(must)?;
                match scalar::of_number(&Kind::Int32, number) {
                    Ok(Value::I32(number)) => Ok(Some(Value::EnumNumber(number))),
                    _ => Err(must()),
                }
            }
            _ => Err(must()),
        }
    }

    fn known(&self, known: Known, descriptor: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, Wrong> {
        match known {
            Known::Any => self.any(descriptor, json),
            Known::Timestamp | Known::Duration | Known::FieldMask => match json {
                Json::String(text) => Ok(wkt::of_text(known, descriptor, text)?),
                _ => Err(Wrong::new("must be a text")),
            },
            Known::Wrapper => {
                let kind = wkt::wrapped(descriptor).ok_or_else(|| Wrong::new("must be a wrapper"))?;
                let value = self.value(&kind, json)?.ok_or_else(|| Wrong::new(scalar::must_be(&kind)))?;
                Ok(wkt::wrap(descriptor, value)?)
            }
            Known::Struct => {
                let members = json.as_object().ok_or_else(|| Wrong::new("must be an object"))?;
                let of = inner(descriptor, "fields")?;
                let entry = of.as_message().filter(|entry| entry.is_map_entry());
                let values = entry.map(|entry| entry.map_entry_value_field().kind());
                let values = values.ok_or_else(|| Wrong::new("must be an object"))?;
                let mut map = std::collections::HashMap::with_capacity(members.len());
                for (name, json) in members {
                    self.takes(ENTRY + name.len())?;
                    let value = self.deeper(|| self.value(&values, json)).map_err(|wrong| wrong.below(name))?;
                    map.extend(value.map(|value| (MapKey::String(name.clone()), value)));
                }
                filled(descriptor, "fields", Value::Map(map))
            }
            Known::ListValue => filled(descriptor, "values", self.list(&inner(descriptor, "values")?, json)?),
            Known::Value => {
                let (name, value) = match json {
                    Json::Null => ("null_value", Value::EnumNumber(0)),
                    Json::Bool(value) => ("bool_value", Value::Bool(*value)),
                    Json::Number(number) => ("number_value", Value::F64(number.as_f64().unwrap_or_default())),
                    Json::String(text) => {
                        self.takes(text.len())?;
                        ("string_value", Value::String(text.clone()))
                    }
                    Json::Array(_) => ("list_value", self.of_value(descriptor, "list_value", json)?),
                    Json::Object(_) => ("struct_value", self.of_value(descriptor, "struct_value", json)?),
                };
                filled(descriptor, name, value)
            }
        }
    }

    fn of_value(&self, descriptor: &MessageDescriptor, name: &str, json: &Json) -> Result<Value, Wrong> {
        let kind = inner(descriptor, name)?;
        self.value(&kind, json)?.ok_or_else(|| Wrong::new("must be a value"))
    }

    fn any(&self, descriptor: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, Wrong> {
        let members = json.as_object().ok_or_else(|| Wrong::new("must be an object"))?;
        if members.is_empty() {
            return Ok(DynamicMessage::new(descriptor.clone()));
        }
        let url = members.get("@type").and_then(Json::as_str).ok_or_else(|| Wrong::new("must be a text").below("@type"))?;
        let of = type_name(url).and_then(|name| descriptor.parent_pool().get_message_by_name(name));
        let of = of.ok_or_else(|| Wrong::new("must name a type that is known here").below("@type"))?;
        let message = if Known::of(&of).is_some() || of.full_name() == "google.protobuf.Empty" {
            if let Some(other) = members.keys().find(|name| !matches!(name.as_str(), "@type" | "value"))
                && self.unknown == Unknown::Refuse
            {
                return Err(Wrong::new("must not be there: the message has no such field").below(other));
            }
            let empty = Json::Object(Map::new());
            let value = match members.get("value") {
                None if of.full_name() == "google.protobuf.Empty" => &empty,
                None => return Err(Wrong::new("must be there").below("value")),
                Some(value) => value,
            };
            self.message(&of, value).map_err(|wrong| wrong.below("value"))?
        } else {
            self.takes(MESSAGE)?;
            let mut message = DynamicMessage::new(of);
            self.members(&mut message, members, Some("@type"))?;
            message
        };
        let mut any = DynamicMessage::new(descriptor.clone());
        wkt::set(&mut any, "type_url", Value::String(url.to_owned()))?;
        let mut value = Vec::new();
        // What it was made of was not too long, and it is looked at once more where it is sent.
        let _ = encoding::write(&message, &mut value, usize::MAX);
        self.takes(value.capacity())?;
        wkt::set(&mut any, "value", Value::Bytes(value.into()))?;
        Ok(any)
    }
}

fn inner(descriptor: &MessageDescriptor, name: &str) -> Result<Kind, Wrong> {
    descriptor
        .get_field_by_name(name)
        .map(|field| field.kind())
        .ok_or_else(|| Wrong::new("must be of a type that is declared as usual"))
}

fn filled(descriptor: &MessageDescriptor, name: &str, value: Value) -> Result<DynamicMessage, Wrong> {
    let mut message = DynamicMessage::new(descriptor.clone());
    wkt::set(&mut message, name, value)?;
    Ok(message)
}

/// Whether `null` is a value, and not the absence of one.
fn takes_null(kind: &Kind) -> bool {
    match kind {
        Kind::Message(message) => Known::of(message) == Some(Known::Value),
        Kind::Enum(kind) => kind.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn key(kind: &Kind, name: &str) -> Result<MapKey, String> {
    let value = match kind {
        Kind::Bool => match name {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return Err("must be named true or false".to_owned()),
        },
        kind => scalar::of_text(kind, name)?,
    };
    value.into_map_key().ok_or_else(|| "must be named by a whole number or a text".to_owned())
}
