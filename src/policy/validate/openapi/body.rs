//! Bodies: which of an operation's media types a body is of, and what it stands for.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::super::media::{MediaType, Pattern};
use super::super::{form, json as grammar, multipart, xml};
use super::params::{BOTH, Style, Tree, has_brackets, leaf, pairs};
use crate::carrier::{decode, lossy};
use crate::jose::json;
use crate::schema::{Schema, Types, Violation, escaped};

/// A media type that is taken or given, and what is said of it.
#[derive(Debug)]
pub struct Media {
    pub pattern: Pattern,
    /// What it has to be; `None` for anything.
    pub node: Option<u32>,
    /// How the fields of a form are written.
    pub encodings: Vec<(Box<str>, Encoding)>,
}

#[derive(Debug)]
pub struct Encoding {
    /// What a part's `Content-Type` may be.
    pub types: Vec<Pattern>,
    pub style: Option<Style>,
    pub explode: bool,
}

/// What can be looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    Form,
    Multipart,
    Xml,
    Text,
}

impl Kind {
    pub fn of(media: &MediaType<'_>) -> Option<Kind> {
        if media.is_json() {
            Some(Kind::Json)
        } else if media.is("application", "x-www-form-urlencoded") {
            Some(Kind::Form)
        } else if media.is("multipart", "form-data") {
            Some(Kind::Multipart)
        } else if media.is_xml() {
            Some(Kind::Xml)
        } else if media.kind.eq_ignore_ascii_case("text") {
            Some(Kind::Text)
        } else {
            None
        }
    }
}

/// What is wrong with a body before its schema is asked.
pub type Malformed = (String, &'static str, String);

fn malformed(keyword: &'static str, detail: impl Into<String>) -> Malformed {
    (String::new(), keyword, detail.into())
}

impl Media {
    /// Whether there is JSON of it that a schema is held to.
    pub fn is_looked_into(&self) -> bool {
        self.node.is_some() && self.pattern.takes_json()
    }

    fn encoding(&self, name: &str) -> Option<&Encoding> {
        self.encodings.iter().find(|(known, _)| **known == *name).map(|(_, encoding)| encoding)
    }

    /// What a body stands for; `None` if nothing of it can be held against a schema.
    ///
    /// # Errors
    /// It is not what it says that it is.
    pub fn read(
        &self,
        kind: Kind,
        schema: &Schema,
        media: &MediaType<'_>,
        body: &Bytes,
        limits: &grammar::Limits,
    ) -> Result<Option<Value>, Malformed> {
        match kind {
            Kind::Json => json_value(body, limits).map(Some),
            Kind::Form => {
                form::check(body).map_err(|why| malformed("form", why))?;
                self.form(schema, std::str::from_utf8(body).unwrap_or_default()).map(Some)
            }
            Kind::Multipart => self.multipart(schema, media, body, limits).map(Some),
            Kind::Xml => xml::check(body, limits.depth).map(|()| None).map_err(|why| malformed("xml", why)),
            Kind::Text => {
                let text = std::str::from_utf8(body).map_err(|_| malformed("text", "must be UTF-8"))?;
                Ok(Some(self.node.map_or(Types::default(), |node| schema.types_at(node)).read(text)))
            }
        }
    }

    fn form(&self, schema: &Schema, text: &str) -> Result<Value, Malformed> {
        let pairs = pairs(text).ok_or_else(|| malformed("form", "must have at most 1000 fields"))?;
        let mut members = Map::new();
        for (key, _) in &pairs {
            // A document may name a field with its brackets.
            let is_named = self.node.is_some_and(|node| schema.has_member(node, key));
            let name = if is_named { key } else { key.split('[').next().unwrap_or_default() };
            let is_deep = name.len() < key.len();
            if members.contains_key(name) {
                continue;
            }
            let other = |key: &str| if is_deep { *key == *name } else { has_brackets(key, name) };
            if pairs.iter().any(|(key, _)| other(key)) {
                return Err((below(name), "form", BOTH.to_owned()));
            }
            let node = self.node.and_then(|node| schema.member_at(node, name));
            let value = if is_deep {
                let tree = Tree::of(&pairs, name).map_err(|why| malformed("form", why))?;
                tree.map_or(Value::Null, |tree| tree.value(schema, node))
            } else {
                let texts: Vec<&str> = pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect();
                self.field(schema, node, name, &texts)?
            };
            members.insert(name.to_owned(), value);
        }
        Ok(Value::Object(members))
    }

    fn field(&self, schema: &Schema, node: Option<u32>, name: &str, texts: &[&str]) -> Result<Value, Malformed> {
        let types = node.map_or(Types::default(), |node| schema.types_at(node));
        let encoding = self.encoding(name);
        let items = || node.and_then(|node| schema.items_at(node));
        if let (Some(encoding), [one], true) = (encoding, texts, types.has(Types::ARRAY)) {
            let separators: &[&str] = match encoding.style {
                Some(Style::Form) if !encoding.explode => &[","],
                Some(Style::PipeDelimited) if !encoding.explode => &["|", "%7C", "%7c"],
                Some(Style::SpaceDelimited) if !encoding.explode => &["%20", "+"],
                _ => &[],
            };
            if !separators.is_empty() {
                let joined = separators.iter().fold((*one).to_owned(), |text, one| text.replace(one, "\u{1f}"));
                return Ok(joined
                    .split('\u{1f}')
                    .map(|part| leaf(schema, items(), &[part], |text| lossy(decode(text))))
                    .collect());
            }
        }
        // An object without a style of its own is JSON in its field.
        let says_json = encoding.is_some_and(|encoding| encoding.style.is_none() && has_json(&encoding.types));
        if let [one] = texts
            && (says_json || types == Types::OBJECT)
        {
            let detail = || "must be JSON in which no object has a name twice".to_owned();
            return json::unique(&decode(one)).ok_or_else(|| (below(name), "json", detail()));
        }
        Ok(leaf(schema, node, texts, |text| lossy(decode(text))))
    }

    fn multipart(
        &self,
        schema: &Schema,
        media: &MediaType<'_>,
        body: &[u8],
        limits: &grammar::Limits,
    ) -> Result<Value, Malformed> {
        let boundary = multipart::boundary(media).ok_or_else(|| malformed("multipart", "must name its boundary"))?;
        let parts = multipart::parts(body, boundary).map_err(|why| malformed("multipart", why))?;
        let mut members: Map<String, Value> = Map::new();
        let names: ahash::AHashSet<&str> = parts.iter().map(|part| part.name).collect();
        if names.iter().any(|name| name.split_once('[').is_some_and(|(plain, _)| names.contains(plain))) {
            return Err(malformed("multipart", BOTH));
        }
        let mut lists: ahash::AHashSet<&str> = ahash::AHashSet::new();
        for part in &parts {
            let name = self.member(schema, part.name)?;
            let node = self.node.and_then(|node| schema.member_at(node, name));
            let types = node.map_or(Types::default(), |node| schema.types_at(node));
            let is_list = types.has(Types::ARRAY);
            let node = if is_list { node.and_then(|node| schema.items_at(node)) } else { node };
            let value = self.part(schema, node, (name, part), limits)?;
            match members.get_mut(name) {
                None => {
                    members.insert(name.to_owned(), if is_list { Value::Array(vec![value]) } else { value });
                }
                Some(Value::Array(list)) if is_list || lists.contains(name) => list.push(value),
                // Two of what is no list: two readers take two different ones.
                Some(first) => {
                    *first = Value::Array(vec![first.take(), value]);
                    lists.insert(name);
                }
            }
        }
        Ok(Value::Object(members))
    }

    /// The member that a part is one of: `a[]` is an element of the list `a` to many services, and is held to what is said of that. Of other
    /// brackets behind a name that is known nobody can say what they stand for.
    fn member<'p>(&self, schema: &Schema, name: &'p str) -> Result<&'p str, Malformed> {
        let is_known = |name: &str| self.node.is_some_and(|node| schema.has_member(node, name));
        let Some((plain, brackets)) = name.split_once('[').filter(|(plain, _)| !is_known(name) && is_known(plain)) else {
            return Ok(name);
        };
        let node = self.node.and_then(|node| schema.member_at(node, plain));
        match brackets == "]" && node.is_some_and(|node| schema.types_at(node).has(Types::ARRAY)) {
            true => Ok(plain),
            false => Err((below(plain), "multipart", "must not have brackets behind its name".to_owned())),
        }
    }

    fn part(
        &self,
        schema: &Schema,
        node: Option<u32>,
        (name, part): (&str, &multipart::Part<'_>),
        limits: &grammar::Limits,
    ) -> Result<Value, Malformed> {
        let types = node.map_or(Types::default(), |node| schema.types_at(node));
        let said = part.content_type.and_then(|text| MediaType::parse(text.as_bytes()));
        if let Some(encoding) = self.encoding(name).filter(|encoding| !encoding.types.is_empty()) {
            let plain = MediaType::parse(b"text/plain");
            let is_taken = said.or(plain).is_some_and(|media| encoding.types.iter().any(|one| one.matches(&media)));
            if !is_taken {
                let detail = "must be of a Content-Type that is taken for it".to_owned();
                return Err((below(name), "encoding", detail));
            }
        }
        let is_json = said.is_some_and(|media| media.is_json()) || said.is_none() && types == Types::OBJECT;
        if is_json && part.filename.is_none() {
            return json_value(part.body, limits).map_err(|(_, keyword, detail)| (below(name), keyword, detail));
        }
        let text = String::from_utf8_lossy(part.body);
        Ok(if part.filename.is_some() { Value::String(text.into_owned()) } else { types.read(&text) })
    }
}

/// The JSON Pointer of a member.
fn below(name: &str) -> String {
    format!("/{}", escaped(name))
}

fn has_json(types: &[Pattern]) -> bool {
    MediaType::parse(b"application/json").is_some_and(|json| types.iter().any(|one| one.matches(&json)))
}

/// # Errors
/// It is not JSON, or more of it than is taken.
fn json_value(body: &[u8], limits: &grammar::Limits) -> Result<Value, Malformed> {
    if let Err(fault) = grammar::check_within(body, limits) {
        return Err(malformed("json", format!("{}, at byte {}", fault.kind.must(), fault.offset)));
    }
    json::value(body).ok_or_else(|| malformed("json", "must be text that can be read"))
}

/// A [`Malformed`] as a violation.
pub fn violation((pointer, keyword, detail): Malformed) -> Violation {
    // A field that is to be JSON may have any name; all others that are told of are the document's.
    let place = if keyword == "json" && !pointer.is_empty() { "/*".to_owned() } else { pointer.clone() };
    Violation { pointer, place, keyword, detail }
}
