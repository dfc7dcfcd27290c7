//! A message as JSON (proto3's JSON mapping), in the order of the fields' numbers and of the maps' keys: the same message is the same text.
//!
//! Written here although the library has a writer: that one has no bound, writes maps in another order each time, and an infinite number in a
//! wrapper as `null`.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::encoding::{self, Unread};
use super::type_name;
use super::wkt::{self, Known};
use crate::reply::push_json;

/// How deep messages may be in each other, those in an `Any` among them.
const DEEPEST: usize = 100;

/// Why a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritable {
    TooLarge,
    TooDeep,
    /// An `Any` of a type that is not among the descriptors.
    UnknownType,
    /// A time, a duration, a mask or a number that JSON has no text for, or an `Any` that holds something else than it says.
    Malformed,
}

impl Unwritable {
    pub fn why(self) -> &'static str {
        match self {
            Unwritable::TooLarge => "larger than it may be",
            Unwritable::TooDeep => "too deep",
            Unwritable::UnknownType => "with an Any of a type that is not among the descriptors",
            Unwritable::Malformed => "with a value that has no form in JSON",
        }
    }
}

/// How messages are written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub always_print: bool,
    pub proto_names: bool,
    pub enum_numbers: bool,
}

pub struct Writer<'o> {
    style: Style,
    out: &'o mut Vec<u8>,
    /// How long it may become.
    most: usize,
    depth: usize,
    /// How much memory what stands in `Any`s may take yet.
    left: usize,
}

type Written = Result<(), Unwritable>;

impl<'o> Writer<'o> {
    pub fn new(style: Style, out: &'o mut Vec<u8>, most: usize) -> Self {
        Writer { style, out, most, depth: 0, left: encoding::heaviest(most) }
    }

    /// # Errors
    /// See [`Unwritable`]; something may have been written by then.
    pub fn message(&mut self, message: &DynamicMessage) -> Written {
        if self.depth == DEEPEST {
            return Err(Unwritable::TooDeep);
        }
        self.depth += 1;
        let written = match Known::of(&message.descriptor()) {
            Some(known) => self.known(known, message),
            None => {
                self.out.push(b'{');
                self.fields(message, true).map(|_| self.out.push(b'}'))
            }
        };
        self.depth -= 1;
        written
    }

    /// `first`: nothing stands before them.
    fn fields(&mut self, message: &DynamicMessage, mut first: bool) -> Result<bool, Unwritable> {
        if self.style.always_print {
            let descriptor = message.descriptor();
            for field in descriptor.fields() {
                if !field.supports_presence() || message.has_field(&field) {
                    self.member(&field, &message.get_field(&field), &mut first)?;
                }
            }
        } else {
            for (field, value) in message.fields() {
                self.member(&field, value, &mut first)?;
            }
        }
        Ok(first)
    }

    fn member(&mut self, field: &FieldDescriptor, value: &Value, first: &mut bool) -> Written {
        self.comma(first);
        push_json(self.out, if self.style.proto_names { field.name() } else { field.json_name() });
        self.out.push(b':');
        self.field(field, value)
    }

    /// # Errors
    /// As [`Writer::message`].
    pub fn field(&mut self, field: &FieldDescriptor, value: &Value) -> Written {
        self.value(&field.kind(), value)?;
        if self.out.len() > self.most { Err(Unwritable::TooLarge) } else { Ok(()) }
    }

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }

    fn value(&mut self, kind: &Kind, value: &Value) -> Written {
        if self.out.len() > self.most {
            return Err(Unwritable::TooLarge);
        }
        let mut digits = itoa::Buffer::new();
        match value {
            Value::Bool(value) => self.put(if *value { "true" } else { "false" }),
            Value::I32(value) => self.put(digits.format(*value)),
            Value::U32(value) => self.put(digits.format(*value)),
            Value::I64(value) => self.quoted(digits.format(*value)),
            Value::U64(value) => self.quoted(digits.format(*value)),
            Value::F32(value) => self.float(f64::from(*value), || serde_json::to_string(value)),
            Value::F64(value) => self.float(*value, || serde_json::to_string(value)),
            Value::String(value) => push_json(self.out, value),
            Value::Bytes(value) => {
                if value.len() > self.most {
                    return Err(Unwritable::TooLarge);
                }
                self.quoted(&STANDARD.encode(value));
            }
            Value::EnumNumber(number) => match kind {
                Kind::Enum(descriptor) => self.enumeration(descriptor, *number),
                _ => return Err(Unwritable::Malformed),
            },
            Value::Message(message) => return self.message(message),
            Value::List(list) => {
                let mut first = true;
                self.out.push(b'[');
                for value in list {
                    self.comma(&mut first);
                    self.value(kind, value)?;
                }
                self.out.push(b']');
            }
            Value::Map(map) => {
                let entry = kind.as_message().filter(|entry| entry.is_map_entry()).ok_or(Unwritable::Malformed)?;
                let values = entry.map_entry_value_field().kind();
                let mut entries: Vec<(&MapKey, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|entry| entry.0);
                let mut first = true;
                self.out.push(b'{');
                for (key, value) in entries {
                    self.comma(&mut first);
                    match key {
                        MapKey::Bool(key) => self.quoted(if *key { "true" } else { "false" }),
                        MapKey::I32(key) => self.quoted(digits.format(*key)),
                        MapKey::I64(key) => self.quoted(digits.format(*key)),
                        MapKey::U32(key) => self.quoted(digits.format(*key)),
                        MapKey::U64(key) => self.quoted(digits.format(*key)),
                        MapKey::String(key) => push_json(self.out, key),
                    }
                    self.out.push(b':');
                    self.value(&values, value)?;
                }
                self.out.push(b'}');
            }
        }
        Ok(())
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// A text that needs no escape.
    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        self.put(text);
        self.out.push(b'"');
    }

    /// A float of any width, which `text` writes with as few digits as tell it from its neighbours.
    fn float(&mut self, value: f64, text: impl FnOnce() -> serde_json::Result<String>) {
        if value.is_finite() {
            // A number is always written.
            let text = text().unwrap_or_default();
            self.put(text.strip_suffix(".0").unwrap_or(&text));
        } else if value.is_nan() {
            self.quoted("NaN");
        } else {
            self.quoted(if value > 0.0 { "Infinity" } else { "-Infinity" });
        }
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor, number: i32) {
        if descriptor.full_name() == "google.protobuf.NullValue" {
            return self.put("null");
        }
        match descriptor.get_value(number).filter(|_| !self.style.enum_numbers) {
            Some(value) => self.quoted(value.name()),
            None => self.put(itoa::Buffer::new().format(number)),
        }
    }

    fn known(&mut self, known: Known, message: &DynamicMessage) -> Written {
        match known {
            Known::Any => self.any(message),
            Known::Timestamp | Known::Duration | Known::FieldMask => {
                let text = wkt::text(known, message).ok_or(Unwritable::Malformed)?;
                push_json(self.out, &text);
                Ok(())
            }
            Known::Wrapper | Known::Struct | Known::ListValue => {
                let descriptor = message.descriptor();
                let field = descriptor.fields().next().ok_or(Unwritable::Malformed)?;
                self.field(&field, &message.get_field(&field))
            }
            Known::Value => {
                let Some((field, value)) = message.fields().next() else {
                    self.put("null");
                    return Ok(());
                };
                match value {
                    Value::F64(number) if !number.is_finite() => Err(Unwritable::Malformed),
                    value => self.field(&field, value),
                }
            }
        }
    }

    fn any(&mut self, any: &DynamicMessage) -> Written {
        let (url, value) = (any.get_field_by_name("type_url"), any.get_field_by_name("value"));
        let url = url.as_ref().and_then(|url| url.as_str()).ok_or(Unwritable::Malformed)?;
        let value = value.as_ref().and_then(|value| value.as_bytes()).ok_or(Unwritable::Malformed)?;
        if url.is_empty() && value.is_empty() {
            self.put("{}");
            return Ok(());
        }
        self.typed(&any.descriptor(), url, value)
    }

    /// What an `Any` holds. `near`: a type of the same descriptors.
    ///
    /// # Errors
    /// As [`Writer::message`].
    pub fn typed(&mut self, near: &MessageDescriptor, url: &str, value: &[u8]) -> Written {
        let descriptor = type_name(url).and_then(|name| near.parent_pool().get_message_by_name(name));
        let descriptor = descriptor.ok_or(Unwritable::UnknownType)?;
        // `google.protobuf.Empty` has no form of its own, and so no `value`.
        let is_whole = Known::of(&descriptor).is_some();
        let weight = encoding::weigh(&descriptor, value, self.left).map_err(|unread| match unread {
            Unread::Malformed => Unwritable::Malformed,
            Unread::TooDeep => Unwritable::TooDeep,
            Unread::TooHeavy => Unwritable::TooLarge,
        })?;
        self.left -= weight;
        let message = DynamicMessage::decode(descriptor, value).map_err(|_| Unwritable::Malformed)?;
        self.put("{\"@type\":");
        push_json(self.out, url);
        if is_whole {
            self.put(",\"value\":");
            self.message(&message)?;
        } else {
            if self.depth == DEEPEST {
                return Err(Unwritable::TooDeep);
            }
            self.depth += 1;
            self.fields(&message, false)?;
            self.depth -= 1;
        }
        self.out.push(b'}');
        Ok(())
    }
}
