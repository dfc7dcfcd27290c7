//! Messages as bytes: they are written in one pass, and weighed before they are read.
//!
//! Written here although the library has a writer: that one measures every message once for each that it is in, so that what is nested deeply takes
//! a time that grows with the depth. And a few bytes may be read into a message that takes hundreds.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// How deep messages may be in each other. gRPC's own readers go no deeper.
pub const DEEPEST: usize = 100;

/// About what a message takes, and one value in it.
pub const MESSAGE: usize = 768;
pub const VALUE: usize = 64;
/// About what an entry of a map takes beside its value.
pub const ENTRY: usize = 64;

/// What a message may take in memory that has at most so many bytes.
pub const fn heaviest(bytes: usize) -> usize {
    bytes.saturating_mul(16).saturating_add(1 << 20)
}

const VARINT: u8 = 0;
const EIGHT: u8 = 1;
const LENGTH: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FOUR: u8 = 5;

/// It is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Appends a message, of which the whole of `out` may become so long.
///
/// # Errors
/// See [`TooLong`]; something was written by then.
pub fn write(message: &DynamicMessage, out: &mut Vec<u8>, most: usize) -> Result<(), TooLong> {
    for (field, value) in message.fields() {
        match value {
            Value::List(values) if field.is_packed() => {
                key(field.number(), LENGTH, out);
                behind_length(out, most, |out| {
                    values.iter().for_each(|value| scalar(&field.kind(), value, out));
                    Ok(())
                })?;
            }
            Value::List(values) => values.iter().try_for_each(|value| one(&field, value, out, most))?,
            Value::Map(map) => {
                let kind = field.kind();
                let Some(entry) = kind.as_message().filter(|entry| entry.is_map_entry()) else { continue };
                let (keys, values) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                for (name, value) in map {
                    key(field.number(), LENGTH, out);
                    behind_length(out, most, |out| {
                        one(&keys, &of_key(name), out, most)?;
                        one(&values, value, out, most)
                    })?;
                }
            }
            value => one(&field, value, out, most)?,
        }
        if out.len() > most {
            return Err(TooLong);
        }
    }
    Ok(())
}

fn of_key(key: &MapKey) -> Value {
    match key {
        MapKey::Bool(key) => Value::Bool(*key),
        MapKey::I32(key) => Value::I32(*key),
        MapKey::I64(key) => Value::I64(*key),
        MapKey::U32(key) => Value::U32(*key),
        MapKey::U64(key) => Value::U64(*key),
        MapKey::String(key) => Value::String(key.clone()),
    }
}

/// A field's value, or one of several.
fn one(field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>, most: usize) -> Result<(), TooLong> {
    let number = field.number();
    match value {
        Value::Message(message) if field.is_group() => {
            key(number, GROUP, out);
            write(message, out, most)?;
            key(number, GROUP_END, out);
        }
        Value::Message(message) => {
            key(number, LENGTH, out);
            behind_length(out, most, |out| write(message, out, most))?;
        }
        Value::String(text) => bytes(number, text.as_bytes(), out),
        Value::Bytes(data) => bytes(number, data, out),
        value => {
            let kind = field.kind();
            key(number, wire_type(&kind), out);
            scalar(&kind, value, out);
        }
    }
    if out.len() > most { Err(TooLong) } else { Ok(()) }
}

fn bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    key(number, LENGTH, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes something, and puts its length before it: most are short, and have room for that.
fn behind_length(out: &mut Vec<u8>, most: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>) -> Result<(), TooLong> {
    let at = out.len();
    out.push(0);
    write(out)?;
    let end = out.len();
    if end > most {
        return Err(TooLong);
    }
    let mut length = Vec::with_capacity(10);
    varint((end - at - 1) as u64, &mut length);
    if length.len() > 1 {
        out.resize(end + length.len() - 1, 0);
        out.copy_within(at + 1..end, at + length.len());
    }
    if let Some(room) = out.get_mut(at..at + length.len()) {
        room.copy_from_slice(&length);
    }
    Ok(())
}

fn key(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let byte = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

fn wire_type(kind: &Kind) -> u8 {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => EIGHT,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => FOUR,
        Kind::String | Kind::Bytes | Kind::Message(_) => LENGTH,
        _ => VARINT,
    }
}

/// A number of that kind, without a key.
fn scalar(kind: &Kind, value: &Value, out: &mut Vec<u8>) {
    match (value, kind) {
        (Value::Bool(value), _) => out.push(u8::from(*value)),
        (Value::I32(value), Kind::Sfixed32) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::I32(value), Kind::Sint32) => varint(u64::from(((value << 1) ^ (value >> 31)).cast_unsigned()), out),
        (Value::I32(value) | Value::EnumNumber(value), _) => varint(i64::from(*value).cast_unsigned(), out),
        (Value::I64(value), Kind::Sfixed64) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::I64(value), Kind::Sint64) => varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out),
        (Value::I64(value), _) => varint(value.cast_unsigned(), out),
        (Value::U32(value), Kind::Fixed32) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::U32(value), _) => varint(u64::from(*value), out),
        (Value::U64(value), Kind::Fixed64) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::U64(value), _) => varint(*value, out),
        (Value::F32(value), _) => out.extend_from_slice(&value.to_le_bytes()),
        (Value::F64(value), _) => out.extend_from_slice(&value.to_le_bytes()),
        // They are written elsewhere.
        (Value::String(_) | Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_), _) => {}
    }
}

/// Why a message is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    Malformed,
    TooDeep,
    TooHeavy,
}

/// About what a message of that type takes in memory once it is read, at most so much.
///
/// # Errors
/// See [`Unread`].
pub fn weigh(of: &MessageDescriptor, mut bytes: &[u8], most: usize) -> Result<usize, Unread> {
    let mut scale = Scale { most, weight: 0 };
    scale.message(Some(of), &mut bytes, 0, false)?;
    Ok(scale.weight)
}

struct Scale {
    most: usize,
    weight: usize,
}

impl Scale {
    fn add(&mut self, weight: usize) -> Result<(), Unread> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > self.most { Err(Unread::TooHeavy) } else { Ok(()) }
    }

    /// `of`: nobody knows what it is where there is none. `group`: it ends with a mark, and not with the bytes.
    fn message(&mut self, of: Option<&MessageDescriptor>, bytes: &mut &[u8], depth: usize, group: bool) -> Result<(), Unread> {
        if depth == DEEPEST {
            return Err(Unread::TooDeep);
        }
        self.add(MESSAGE)?;
        while !bytes.is_empty() {
            let key = read_varint(bytes)?;
            let number = u32::try_from(key >> 3).map_err(|_| Unread::Malformed)?;
            let kind = of.and_then(|of| of.get_field(number)).map(|field| field.kind());
            self.add(VALUE)?;
            match key.to_le_bytes()[0] & 7 {
                VARINT => {
                    read_varint(bytes)?;
                }
                EIGHT => {
                    take(bytes, 8)?;
                }
                FOUR => {
                    take(bytes, 4)?;
                }
                LENGTH => {
                    let length = usize::try_from(read_varint(bytes)?).map_err(|_| Unread::Malformed)?;
                    let mut inner = take(bytes, length)?;
                    match &kind {
                        Some(Kind::Message(of)) => self.message(Some(of), &mut inner, depth + 1, false)?,
                        None | Some(Kind::String | Kind::Bytes) => self.add(length)?,
                        // Several numbers, one behind the other.
                        Some(kind) => self.add(VALUE.saturating_mul(match wire_type(kind) {
                            EIGHT => length / 8,
                            FOUR => length / 4,
                            _ => inner.iter().filter(|byte| **byte < 0x80).count(),
                        }))?,
                    }
                }
                GROUP => self.message(kind.as_ref().and_then(Kind::as_message), bytes, depth + 1, true)?,
                GROUP_END if group => return Ok(()),
                _ => return Err(Unread::Malformed),
            }
        }
        if group { Err(Unread::Malformed) } else { Ok(()) }
    }
}

pub fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8], Unread> {
    let (taken, left) = bytes.split_at_checked(length).ok_or(Unread::Malformed)?;
    *bytes = left;
    Ok(taken)
}

pub fn read_varint(bytes: &mut &[u8]) -> Result<u64, Unread> {
    let mut value = 0;
    for at in 0..10 {
        let (&byte, left) = bytes.split_first().ok_or(Unread::Malformed)?;
        *bytes = left;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Unread::Malformed)
}
