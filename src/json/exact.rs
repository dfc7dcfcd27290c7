//! A document as a tree of values whose numbers are as they were written: of more digits than any machine number has, with their zeros, or
//! beyond what floating point reaches.
//!
//! [`Tree`](super::Tree) is for who edits a document and writes it again. This one is for who takes values out of several documents and puts
//! them into others.

use std::io::{self, Write};

use indexmap::IndexMap;
use serde_json::Value;

use super::{DEEPEST, Fault, lex};

/// An object's members in their order. Of a name that is there twice the last one counts.
pub type Members = IndexMap<String, Exact, ahash::RandomState>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Exact {
    #[default]
    Null,
    Bool(bool),
    /// As it was written.
    Number(Box<str>),
    Text(String),
    List(Vec<Exact>),
    /// Boxed, for a table is large, and most values are none.
    Object(Box<Members>),
}

impl Exact {
    /// The value that the text holds, and nothing else beside it.
    ///
    /// # Errors
    /// It is no JSON in UTF-8, nested deeper than [`DEEPEST`] levels, or has a text that none of Unicode is.
    pub fn read(text: &[u8]) -> Result<Exact, Fault> {
        std::str::from_utf8(text).map_err(|_| Fault::NotUtf8)?;
        let mut reading = Reading { text, at: 0, depth: 0 };
        let value = reading.value()?;
        match reading.next() {
            None => Ok(value),
            Some(_) => Err(Fault::Syntax),
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Exact::Null => out.write_all(b"null"),
            Exact::Bool(value) => out.write_all(if *value { b"true" } else { b"false" }),
            Exact::Number(text) => out.write_all(text.as_bytes()),
            Exact::Text(text) => Ok(serde_json::to_writer(out, text)?),
            Exact::List(items) => {
                out.write_all(b"[")?;
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        out.write_all(b",")?;
                    }
                    item.write(out)?;
                }
                out.write_all(b"]")
            }
            Exact::Object(members) => {
                out.write_all(b"{")?;
                for (number, (name, member)) in members.iter().enumerate() {
                    if number > 0 {
                        out.write_all(b",")?;
                    }
                    serde_json::to_writer(&mut *out, name)?;
                    out.write_all(b":")?;
                    member.write(out)?;
                }
                out.write_all(b"}")
            }
        }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write(&mut out);
        out
    }

    /// The member of that name.
    pub fn get(&self, name: &str) -> Option<&Exact> {
        if let Exact::Object(members) = self { members.get(name) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Exact::Text(text) = self { Some(text) } else { None }
    }

    pub fn is_null(&self) -> bool {
        *self == Exact::Null
    }

    pub fn is_object(&self) -> bool {
        matches!(self, Exact::Object(_))
    }

    /// The value, with null in its place.
    #[must_use]
    pub fn take(&mut self) -> Exact {
        std::mem::take(self)
    }

    /// The same for who reckons with it: numbers are the nearest that 64 bits have, and null beyond all of those.
    pub fn rounded(&self) -> Value {
        match self {
            Exact::Null => Value::Null,
            Exact::Bool(value) => Value::Bool(*value),
            Exact::Number(text) => serde_json::from_str(text).map_or(Value::Null, Value::Number),
            Exact::Text(text) => Value::String(text.clone()),
            Exact::List(items) => items.iter().map(Exact::rounded).collect(),
            Exact::Object(members) => members.iter().map(|(name, member)| (name.clone(), member.rounded())).collect(),
        }
    }
}

impl From<Value> for Exact {
    fn from(value: Value) -> Exact {
        match value {
            Value::Null => Exact::Null,
            Value::Bool(value) => Exact::Bool(value),
            Value::Number(number) => Exact::Number(number.to_string().into()),
            Value::String(text) => Exact::Text(text),
            Value::Array(items) => Exact::List(items.into_iter().map(Exact::from).collect()),
            Value::Object(members) => {
                Exact::Object(Box::new(members.into_iter().map(|(name, member)| (name, Exact::from(member))).collect()))
            }
        }
    }
}

impl From<&str> for Exact {
    fn from(text: &str) -> Exact {
        Exact::Text(text.to_owned())
    }
}

struct Reading<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reading<'_> {
    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.at = lex::space(self.text, self.at);
        self.text.get(self.at).copied()
    }

    /// Its depth is that of the text, which is bounded.
    fn value(&mut self) -> Result<Exact, Fault> {
        let first = self.next().ok_or(Fault::Truncated)?;
        match first {
            b'{' => {
                let mut members = Members::default();
                self.each(b'}', |reading| {
                    if reading.next() != Some(b'"') {
                        return Err(Fault::Syntax);
                    }
                    let name = reading.string()?;
                    if reading.next() != Some(b':') {
                        return Err(Fault::Syntax);
                    }
                    reading.at += 1;
                    let value = reading.value()?;
                    members.insert(name, value);
                    Ok(())
                })?;
                Ok(Exact::Object(Box::new(members)))
            }
            b'[' => {
                let mut items = Vec::new();
                self.each(b']', |reading| {
                    items.push(reading.value()?);
                    Ok(())
                })?;
                Ok(Exact::List(items))
            }
            b'"' => self.string().map(Exact::Text),
            _ => match lex::word(first) {
                Some(word) if self.text.get(self.at..).unwrap_or_default().starts_with(word) => {
                    self.at += word.len();
                    Ok(if first == b'n' { Exact::Null } else { Exact::Bool(first == b't') })
                }
                Some(_) => Err(Fault::Syntax),
                None => {
                    let end = lex::number(self.text, self.at)?;
                    // Digits and signs are UTF-8.
                    let number = std::str::from_utf8(self.text.get(self.at..end).unwrap_or_default());
                    self.at = end;
                    number.map(|number| Exact::Number(number.into())).map_err(|_| Fault::NotUtf8)
                }
            },
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let end = lex::string(self.text, self.at)?;
        let said = lex::said(self.text.get(self.at..end).unwrap_or_default()).ok_or(Fault::Syntax)?;
        self.at = end;
        Ok(said.into_owned())
    }

    /// All that is in an object or a list, whose first byte is the next one.
    fn each(&mut self, end: u8, mut one: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.depth == DEEPEST {
            return Err(Fault::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        if self.next() != Some(end) {
            loop {
                one(self)?;
                match self.next() {
                    Some(b',') => self.at += 1,
                    Some(byte) if byte == end => break,
                    Some(_) => return Err(Fault::Syntax),
                    None => return Err(Fault::Truncated),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for text in [
            r#"{"a":12345678901234567890123,"b":1e400,"c":1.10,"d":-0,"e":0.1000000000000000055511151231257827,"f":[1E+2,{}]}"#,
            r#"[null,true,false,"é\"",[],{"":[{"x":{"y":[]}}]}]"#,
            "7",
            "\"\"",
        ] {
            assert_eq!(String::from_utf8(Exact::read(text.as_bytes()).unwrap().to_vec()).unwrap(), text);
        }
        let spaced = Exact::read(b" { \"a\" : [ 1 , 2 ] , \"b\":\"\\u0061\" }\n").unwrap();
        assert_eq!(spaced.to_vec(), br#"{"a":[1,2],"b":"a"}"#);
        let twice = Exact::read(br#"{"a":1,"b":2,"a":3}"#).unwrap();
        assert_eq!((twice.to_vec(), twice.get("a")), (br#"{"a":3,"b":2}"#.to_vec(), Some(&Exact::Number("3".into()))));
    }

    #[test]
    fn numbers_are_rounded_for_who_reckons() {
        let value = Exact::read(b"[18446744073709551615,12345678901234567890123,1.10,1e400]").unwrap();
        assert_eq!(value.rounded(), json!([18_446_744_073_709_551_615_u64, 1.234_567_890_123_456_8e22, 1.1, null]));
        assert_eq!(Exact::from(json!({ "a": [1.5, "x"] })).rounded(), json!({ "a": [1.5, "x"] }));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(Exact::read(&deep(DEEPEST)).is_ok());
        assert_eq!(Exact::read(&deep(DEEPEST + 1)), Err(Fault::TooDeep));
        assert_eq!(Exact::read(&vec![b'['; 1_000_000]), Err(Fault::TooDeep));
        for text in
            ["", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "{a:1}", "01", "1 2", "nul", "nulls", "\"\\ud800\"", "[1 2]", "{,}", "-"]
        {
            assert!(Exact::read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Exact::read(b"\"\xff\""), Err(Fault::NotUtf8));
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_reads(text in r#"[\[\]{},:0-9.eE"a\\nu \-]{0,24}"#) {
            // (But for numbers beyond floating point, and names that serde_json knows as its own, neither of which is in here.)
            let theirs = serde_json::from_str::<Value>(&text);
            let ours = Exact::read(text.as_bytes());
            if let Ok(theirs) = theirs {
                prop_assert_eq!(ours.map(|value| value.rounded()), Ok(theirs));
            } else {
                prop_assert!(ours.is_err() || text.contains(['e', 'E']), "{}", text);
            }
        }
    }
}
