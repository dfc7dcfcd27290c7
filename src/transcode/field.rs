//! Fields of messages by name: `book.author.name`, and what is put there that came as a text.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::wkt::{self, Known};
use super::{scalar, wkt::is_text};

/// How deep a name may lead.
const DEEPEST: usize = 16;

/// A field, and the messages that it is in.
#[derive(Debug, Clone)]
pub struct FieldPath(Vec<FieldDescriptor>);

/// Why a name leads to no field, or to none that can be told as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Unknown,
    TooDeep,
    /// It leads through a list or a map: which element is meant cannot be said.
    ThroughMany,
    /// A message, or a map.
    NoText,
}

impl Lost {
    pub fn must(self) -> &'static str {
        match self {
            Lost::Unknown => "must name a field",
            Lost::TooDeep => "must not be so deep",
            Lost::ThroughMany => "must not lead through a list or a map",
            Lost::NoText => "must name a field that can be written as a text, not a message or a map",
        }
    }
}

/// By which name fields are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    Json,
    Proto,
    Both,
}

impl Spelling {
    /// The field of that name.
    pub fn find(self, message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
        let json = || message.get_field_by_json_name(name);
        let proto = || message.get_field_by_name(name);
        match self {
            Spelling::Json => json(),
            Spelling::Proto => proto(),
            Spelling::Both => json().or_else(proto),
        }
    }

    /// The name that is to be written, where a field has another one than that which was.
    pub fn meant(self, message: &MessageDescriptor, name: &str) -> Option<String> {
        let field = Spelling::Both.find(message, name)?;
        match self {
            Spelling::Json => Some(field.json_name().to_owned()),
            Spelling::Proto => Some(field.name().to_owned()),
            Spelling::Both => None,
        }
    }
}

impl FieldPath {
    /// # Errors
    /// There is no such field that can be written as a text.
    pub fn find(message: &MessageDescriptor, path: &str, spelling: Spelling) -> Result<FieldPath, Lost> {
        let mut fields: Vec<FieldDescriptor> = Vec::new();
        let mut inside = Some(message.clone());
        for name in path.split('.') {
            if fields.last().is_some_and(|last| last.is_list() || last.is_map()) {
                return Err(Lost::ThroughMany);
            }
            if fields.len() == DEEPEST {
                return Err(Lost::TooDeep);
            }
            let field = inside.as_ref().and_then(|message| spelling.find(message, name)).ok_or(Lost::Unknown)?;
            inside = match field.kind() {
                // What has a form of its own in JSON has no fields there.
                Kind::Message(message) if Known::of(&message).is_none() => Some(message),
                Kind::Message(message) if !is_text(&message) => return Err(Lost::NoText),
                _ => None,
            };
            fields.push(field);
        }
        match (fields.last(), inside) {
            (Some(last), None) if !last.is_map() => Ok(FieldPath(fields)),
            _ => Err(Lost::NoText),
        }
    }

    /// The field that the path leads to.
    pub fn last(&self) -> Option<&FieldDescriptor> {
        self.0.last()
    }

    /// The messages that it leads through, and the field.
    pub fn steps(&self) -> &[FieldDescriptor] {
        &self.0
    }

    pub fn first(&self) -> Option<&FieldDescriptor> {
        self.0.first()
    }

    /// Whether one of the two leads through, or to, where the other does.
    pub fn meets(&self, other: &FieldPath) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }

    /// Whether the field can be given more than once.
    pub fn is_list(&self) -> bool {
        self.last().is_some_and(FieldDescriptor::is_list)
    }

    /// Puts a text there; behind what is there already if it is a list.
    ///
    /// # Errors
    /// What it would have to be.
    pub fn put(&self, message: &mut DynamicMessage, text: &str) -> Result<(), String> {
        let Some((last, through)) = self.0.split_last() else { return Ok(()) };
        let mut at = message;
        for field in through {
            one_of_its_kind(at, field)?;
            at = at.get_field_mut(field).as_message_mut().ok_or("must be a message")?;
        }
        let value = read(&last.kind(), text)?;
        if last.is_list() {
            at.get_field_mut(last).as_list_mut().ok_or("must be a list")?.push(value);
            return Ok(());
        }
        one_of_its_kind(at, last)?;
        at.try_set_field(last, value).map_err(|_| "must be of the field's type".to_owned())
    }

    /// Takes away what is there.
    pub fn clear(&self, message: &mut DynamicMessage) {
        let Some((last, through)) = self.0.split_last() else { return };
        let mut at = message;
        for field in through {
            if !at.has_field(field) {
                return;
            }
            let Some(inside) = at.get_field_mut(field).as_message_mut() else { return };
            at = inside;
        }
        at.clear_field(last);
    }
}

/// That no other field of the same `oneof` has a value.
///
/// # Errors
/// One has.
pub fn one_of_its_kind(message: &DynamicMessage, field: &FieldDescriptor) -> Result<(), String> {
    let Some(group) = field.containing_oneof() else { return Ok(()) };
    match group.fields().find(|other| other != field && message.has_field(other)) {
        Some(other) => Err(format!("must not be there beside `{}`", other.json_name())),
        None => Ok(()),
    }
}

/// A value of a field that came in a path or a query.
fn read(kind: &Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Message(message) => {
            let known = Known::of(message).ok_or("must be a message")?;
            wkt::of_text(known, message, text).map(Value::Message)
        }
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::Enum(kind) => {
            let number = kind.get_value_by_name(text).map(|value| value.number());
            let number = number.or_else(|| scalar::plain_integer(text).and_then(|number| i32::try_from(number).ok()));
            number.map(Value::EnumNumber).ok_or_else(|| format!("must be a name or a number of {}", kind.name()))
        }
        kind => scalar::of_text(kind, text),
    }
}
