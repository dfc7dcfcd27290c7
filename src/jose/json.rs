//! JSON that others wrote, read into a tree.
//!
//! [`Value`] is never asked to read it. Where serde_json is built with `raw_value`, which any dependency may switch on, that takes an object with
//! a name of serde_json's own for the JSON in its text, and reads it with the whole depth again: one nested body would be read into something that
//! nobody else sees in it, or until the stack ends. The visitor here knows no such names.
//!
//! [`object`] and [`unique`] read strictly: a member that occurs twice is an error, at any depth.
//! RFC 7515 (section 4) and RFC 7519 (section 4) leave parsers the choice of taking the last of two equal members. Two parties that
//! choose differently see two different tokens under one signature, so this one does not choose.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The object that `bytes` hold, and nothing else beside it. `None` for anything that is no JSON text in UTF-8, no object, nested
/// deeper than 128 levels, or has a duplicate member.
pub fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    if let Value::Object(members) = unique(bytes)? { Some(members) } else { None }
}

/// The value that `bytes` hold, read as strictly as [`object`].
pub fn unique(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Tree<true>>(bytes).ok().map(|Tree(value)| value)
}

/// The value that `bytes` hold, and nothing else beside it. `None` for anything that is no JSON text in UTF-8, or nested deeper than 128 levels.
/// Of a member that occurs twice the last one counts.
pub fn value(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Tree<false>>(bytes).ok().map(|Tree(value)| value)
}

/// About what a JSON text takes once it is read: more than it has bytes, for `{"":0}` becomes a table.
pub fn takes(text: &[u8]) -> usize {
    let values = memchr::memchr_iter(b',', text).count().max(memchr::memchr_iter(b':', text).count());
    let nested = memchr::memchr2_iter(b'{', b'[', text).count();
    text.len() + 160 * values + 512 * nested
}

/// `UNIQUE`: no object has a member twice.
struct Tree<const UNIQUE: bool>(Value);

impl<'de, const UNIQUE: bool> Deserialize<'de> for Tree<UNIQUE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor::<UNIQUE>).map(Tree)
    }
}

struct TreeVisitor<const UNIQUE: bool>;

impl<'de, const UNIQUE: bool> Visitor<'de> for TreeVisitor<UNIQUE> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if UNIQUE { "JSON without duplicate members" } else { "JSON" })
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Tree::<UNIQUE>(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let Tree::<UNIQUE>(value) = members.next_value()?;
            if object.insert(name, value).is_some() && UNIQUE {
                return Err(A::Error::custom("a duplicate member"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let text = br#" {"a":[1,-2,0.5,1e3,true,null,"\u00e9"],"b":{"a":{}}} "#;
        assert_eq!(Value::Object(object(text).unwrap()), serde_json::from_slice::<Value>(text).unwrap());
        assert_eq!(value(text), serde_json::from_slice(text).unwrap());
        assert_eq!(value(br#"{"a":1,"b":2,"a":{"c":1,"c":3}}"#), Some(serde_json::json!({ "a": { "c": 3 }, "b": 2 })));
        assert_eq!((value(b" 7 "), value(b"7 7"), value(b"1e999")), (Some(7.into()), None, None));
    }

    #[test]
    fn names_of_serde_json_are_names() {
        for (name, text) in [("RawValue", "5"), ("RawValue", "[[[]]]"), ("Number", "5")] {
            let name = format!("$serde_json::private::{name}");
            let nested = serde_json::json!({ "id": { name: text } });
            assert_eq!(value(nested.to_string().as_bytes()), Some(nested.clone()));
            assert_eq!(object(nested.to_string().as_bytes()).map(Value::Object), Some(nested));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(value(&nested(127)).is_some() && value(&nested(200)).is_none() && value(&nested(500_000)).is_none());
    }

    #[test]
    fn refuses_duplicates_at_any_depth() {
        assert!(object(br#"{"a":1,"a":1}"#).is_none());
        assert!(object(br#"{"a":1,"\u0061":2}"#).is_none(), "the same name in another spelling");
        assert!(object(br#"{"x":[{"a":1,"a":2}]}"#).is_none());
        assert!(object(br#"{"x":{"a":1},"y":{"a":2}}"#).is_some());
        assert!(unique(br#"[{"a":1,"a":2}]"#).is_none() && unique(b"[1,1]").is_some());
    }

    #[test]
    fn refuses_what_is_no_object() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        for text in
            [&b""[..], b"[]", b"1", b"{", b"{}{}", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}", b"{\"a\":1e999}", deep.as_bytes()]
        {
            assert!(object(text).is_none(), "{:?}", String::from_utf8_lossy(text));
        }
    }
}
