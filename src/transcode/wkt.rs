//! The well-known types that JSON writes otherwise than as their fields: times, durations, masks, wrappers.

mod time;

use std::fmt::Write as _;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::scalar;

/// The longest duration, in seconds.
const LONGEST: i64 = 315_576_000_000;

/// A well-known type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Any,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    /// `google.protobuf.Int32Value` and its like.
    Wrapper,
}

impl Known {
    pub fn of(message: &MessageDescriptor) -> Option<Known> {
        Some(match message.full_name().strip_prefix("google.protobuf.")? {
            "Any" => Known::Any,
            "Timestamp" => Known::Timestamp,
            "Duration" => Known::Duration,
            "FieldMask" => Known::FieldMask,
            "Struct" => Known::Struct,
            "Value" => Known::Value,
            "ListValue" => Known::ListValue,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
            | "StringValue" | "BytesValue" => Known::Wrapper,
            _ => return None,
        })
    }
}

/// Whether a message that is well known is declared as everybody knows it, so far as it has to be for its JSON.
pub fn is_usual(message: &MessageDescriptor) -> bool {
    let Some(known) = Known::of(message) else { return true };
    let field = |name: &str| message.get_field_by_name(name);
    let plain = |name: &str, is: fn(&Kind) -> bool| {
        field(name).is_some_and(|field| !field.is_list() && !field.is_map() && !field.is_group() && is(&field.kind()))
    };
    let count = message.fields().len();
    match known {
        Known::Any => {
            plain("type_url", |kind| *kind == Kind::String) && plain("value", |kind| *kind == Kind::Bytes) && count == 2
        }
        Known::Timestamp | Known::Duration => {
            plain("seconds", |kind| *kind == Kind::Int64) && plain("nanos", |kind| *kind == Kind::Int32) && count == 2
        }
        Known::FieldMask => field("paths").is_some_and(|paths| paths.is_list() && paths.kind() == Kind::String) && count == 1,
        Known::Struct => {
            let entry = field("fields").filter(FieldDescriptor::is_map).map(|fields| fields.kind());
            entry.as_ref().and_then(Kind::as_message).is_some_and(|entry| {
                entry.map_entry_key_field().kind() == Kind::String && is_of(&entry.map_entry_value_field().kind(), Known::Value)
            }) && count == 1
        }
        Known::ListValue => {
            field("values").is_some_and(|values| values.is_list() && is_of(&values.kind(), Known::Value)) && count == 1
        }
        Known::Value => {
            plain("null_value", |kind| kind.as_enum().is_some_and(|kind| kind.full_name() == "google.protobuf.NullValue"))
                && plain("number_value", |kind| *kind == Kind::Double)
                && plain("string_value", |kind| *kind == Kind::String)
                && plain("bool_value", |kind| *kind == Kind::Bool)
                && plain("struct_value", |kind| is_of(kind, Known::Struct))
                && plain("list_value", |kind| is_of(kind, Known::ListValue))
                && count == 6
        }
        Known::Wrapper => plain("value", |kind| kind.as_message().is_none() && kind.as_enum().is_none()) && count == 1,
    }
}

fn is_of(kind: &Kind, known: Known) -> bool {
    kind.as_message().is_some_and(|message| Known::of(message) == Some(known))
}

/// Whether a message can be written as one text, in a query for instance.
pub fn is_text(message: &MessageDescriptor) -> bool {
    matches!(Known::of(message), Some(Known::Timestamp | Known::Duration | Known::FieldMask | Known::Wrapper))
}

/// The one of them that a text stands for.
///
/// # Errors
/// What it would have to be.
pub fn of_text(known: Known, message: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    match known {
        Known::Timestamp => {
            let (seconds, nanos) = time::read(text).ok_or("must be a time such as 2026-01-31T12:00:00Z")?;
            moment(message, seconds, nanos)
        }
        Known::Duration => {
            let (seconds, nanos) = duration(text).ok_or("must be a duration such as 1.5s")?;
            moment(message, seconds, nanos)
        }
        Known::FieldMask => {
            let paths = text.split(',').filter(|path| !path.is_empty()).map(snake);
            let paths: Option<Vec<Value>> = paths.map(|path| path.map(Value::String)).collect();
            let mut mask = DynamicMessage::new(message.clone());
            set(&mut mask, "paths", Value::List(paths.ok_or("must be names of fields in camel case, with commas between")?))?;
            Ok(mask)
        }
        Known::Wrapper => {
            let kind = wrapped(message).ok_or("must be a wrapper")?;
            let value = match (&kind, text) {
                (Kind::Bool, "true") => Value::Bool(true),
                (Kind::Bool, "false") => Value::Bool(false),
                (Kind::Bool, _) => return Err(scalar::must_be(&kind)),
                _ => scalar::of_text(&kind, text)?,
            };
            wrap(message, value)
        }
        Known::Any | Known::Struct | Known::Value | Known::ListValue => Err("must be a message".to_owned()),
    }
}

/// What a wrapper wraps.
pub fn wrapped(message: &MessageDescriptor) -> Option<Kind> {
    message.get_field_by_name("value").map(|field| field.kind())
}

pub fn wrap(message: &MessageDescriptor, value: Value) -> Result<DynamicMessage, String> {
    let mut wrapper = DynamicMessage::new(message.clone());
    set(&mut wrapper, "value", value)?;
    Ok(wrapper)
}

fn moment(message: &MessageDescriptor, seconds: i64, nanos: i32) -> Result<DynamicMessage, String> {
    let mut moment = DynamicMessage::new(message.clone());
    set(&mut moment, "seconds", Value::I64(seconds))?;
    set(&mut moment, "nanos", Value::I32(nanos))?;
    Ok(moment)
}

/// Sets a field of a type that its own file may declare otherwise.
pub fn set(message: &mut DynamicMessage, name: &str, value: Value) -> Result<(), String> {
    message.try_set_field_by_name(name, value).map_err(|_| "must be of a type that is declared as usual".to_owned())
}

/// A time, duration or mask as a text. `None`: it has none, for it is out of range.
pub fn text(known: Known, message: &DynamicMessage) -> Option<String> {
    let number = |name: &str| {
        let value = message.get_field_by_name(name)?;
        value.as_i64().or_else(|| value.as_i32().map(i64::from))
    };
    match known {
        Known::Timestamp => time::write(number("seconds")?, number("nanos")?),
        Known::Duration => {
            let (seconds, nanos) = (number("seconds")?, number("nanos")?);
            let fits = seconds.abs() <= LONGEST
                && nanos.abs() < 1_000_000_000
                && (seconds >= 0 || nanos <= 0)
                && (seconds <= 0 || nanos >= 0);
            if !fits {
                return None;
            }
            let mut text = if seconds < 0 || nanos < 0 { "-".to_owned() } else { String::new() };
            let _ = write!(text, "{}", seconds.unsigned_abs());
            fraction(&mut text, nanos.unsigned_abs());
            text.push('s');
            Some(text)
        }
        Known::FieldMask => {
            let paths = message.get_field_by_name("paths")?;
            let paths: Option<Vec<String>> = paths.as_list()?.iter().map(|path| path.as_str().and_then(camel)).collect();
            Some(paths?.join(","))
        }
        _ => None,
    }
}

/// Adds what is behind the point: nothing, or three, six or nine digits.
fn fraction(text: &mut String, nanos: u64) {
    let _ = match nanos {
        0 => Ok(()),
        _ if nanos.is_multiple_of(1_000_000) => write!(text, ".{:03}", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1000) => write!(text, ".{:06}", nanos / 1000),
        _ => write!(text, ".{nanos:09}"),
    };
}

/// The nanoseconds that up to nine digits stand for.
fn nanos(digits: &str) -> Option<i32> {
    if !(1..=9).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

fn duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    if !(1..=12).contains(&whole.len()) || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let part = part.map_or(Some(0), nanos)?;
    (seconds < LONGEST || seconds == LONGEST && part == 0).then_some((sign * seconds, i32::try_from(sign).ok()? * part))
}

/// `unitPrice` for `unit_price`. `None` if it would not come back.
fn camel(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut after = false;
    for letter in path.chars() {
        match letter {
            'A'..='Z' => return None,
            '_' if after => return None,
            '_' => after = true,
            'a'..='z' if after => {
                out.push(letter.to_ascii_uppercase());
                after = false;
            }
            _ if after => return None,
            letter => out.push(letter),
        }
    }
    if after { None } else { Some(out) }
}

fn snake(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        match letter {
            '_' => return None,
            'A'..='Z' => {
                out.push('_');
                out.push(letter.to_ascii_lowercase());
            }
            letter => out.push(letter),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nothing_else() {
        for (text, value) in [
            ("0s", (0, 0)),
            ("1.5s", (1, 500_000_000)),
            ("-1.000000001s", (-1, -1)),
            ("-0.5s", (0, -500_000_000)),
            ("315576000000s", (LONGEST, 0)),
        ] {
            assert_eq!(duration(text), Some(value), "{text}");
        }
        for text in
            ["", "s", "1", "1.s", ".5s", "+1s", "1.0000000001s", "315576000001s", "315576000000.1s", "1 s", "--1s", "1e3s"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn masks_are_in_camel_case_or_not_told() {
        assert_eq!(
            (camel("a.unit_price"), snake("a.unitPrice")),
            (Some("a.unitPrice".to_owned()), Some("a.unit_price".to_owned()))
        );
        for path in ["unitPrice", "a__b", "a_1", "a_"] {
            assert_eq!(camel(path), None, "{path}");
        }
        assert_eq!(snake("a_b"), None);
    }
}
