//! Parameters as OpenAPI has them: where they stand, and how texts become arrays and objects (`style`, `explode`).
//!
//! What separates the parts of a value is looked for before escapes are undone: `%2C` is a comma that belongs to the value. Reserved characters
//! may stand unescaped in any value; `allowReserved` tells clients so, and nothing has to be known of it here.

use std::borrow::Cow;

use http::HeaderName;
use serde_json::{Map, Value};
use smallvec::{SmallVec, smallvec};

use super::super::report::Part;
use crate::carrier::{cookie_values, decode, decode_escapes, lossy};
use crate::head::RequestHead;
use crate::jose::json;
use crate::route::templates::Taken;
use crate::schema::{Schema, Types};

/// The most parameters of one query or form.
pub const MOST_PAIRS: usize = 1000;
/// How deep `a[b][c]` may go.
const DEEPEST: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
}

impl Style {
    pub fn parse(text: &str) -> Option<Style> {
        Some(match text {
            "simple" => Style::Simple,
            "label" => Style::Label,
            "matrix" => Style::Matrix,
            "form" => Style::Form,
            "spaceDelimited" => Style::SpaceDelimited,
            "pipeDelimited" => Style::PipeDelimited,
            "deepObject" => Style::DeepObject,
            _ => return None,
        })
    }

    /// Whether values can stand there so.
    pub fn suits(self, part: Part) -> bool {
        match part {
            Part::Path => matches!(self, Style::Simple | Style::Label | Style::Matrix),
            Part::Query => matches!(self, Style::Form | Style::SpaceDelimited | Style::PipeDelimited | Style::DeepObject),
            Part::Header => self == Style::Simple,
            _ => self == Style::Form,
        }
    }
}

/// One parameter.
#[derive(Debug)]
pub struct Param {
    pub part: Part,
    pub name: Box<str>,
    /// The same for a header field.
    pub field: Option<HeaderName>,
    /// The number of its place in the path.
    pub place: usize,
    pub required: bool,
    pub style: Style,
    pub explode: bool,
    pub allow_empty: bool,
    /// The value is JSON (`content`).
    pub json: bool,
    /// What it has to be; `None` for anything.
    pub node: Option<u32>,
}

/// What a text could stand for; the first is what is told of if none is right.
pub type Candidates = SmallVec<[Value; 2]>;

/// The parameters of a query or a form: the name without escapes, the value with them.
pub type Pairs<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// `None` if there are too many.
pub fn pairs(text: &str) -> Option<Pairs<'_>> {
    let all = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs: Pairs<'_> = all.take(MOST_PAIRS + 1).map(|(name, value)| (lossy(decode(name)), value)).collect();
    (pairs.len() <= MOST_PAIRS).then_some(pairs)
}

impl Param {
    /// What it stands for in this request; `None` if it is not there.
    ///
    /// # Errors
    /// A sentence, where it can stand for nothing.
    pub fn read(
        &self,
        schema: &Schema,
        head: &RequestHead,
        taken: &Taken<'_>,
        query: &Pairs<'_>,
        others: &[Param],
    ) -> Result<Option<Candidates>, &'static str> {
        match self.part {
            Part::Path => taken.get(self.place).map_or(Ok(None), |text| self.in_path(schema, text).map(Some)),
            Part::Header => {
                let name = self.field.as_ref().map_or("", HeaderName::as_str);
                let lines: Vec<Cow<'_, str>> = head.header_all(name).map(String::from_utf8_lossy).collect();
                if lines.is_empty() { Ok(None) } else { self.one(schema, &lines.join(","), ',', Cow::Borrowed).map(Some) }
            }
            Part::Cookie => {
                let values: Vec<Cow<'_, str>> = cookie_values(head, &self.name).map(String::from_utf8_lossy).collect();
                let texts: Vec<&str> = values.iter().map(|value| &**value).collect();
                self.several(schema, &texts, |text| lossy(decode_escapes(text)))
            }
            _ => self.in_query(schema, query, others),
        }
    }

    fn types(&self, schema: &Schema) -> Types {
        self.node.map_or(Types::default(), |node| schema.types_at(node))
    }

    fn in_path(&self, schema: &Schema, text: &str) -> Result<Candidates, &'static str> {
        let plain = |text| lossy(decode_escapes(text));
        match self.style {
            Style::Label => {
                let text = text.strip_prefix('.').ok_or("must begin with a full stop")?;
                self.one(schema, text, if self.explode { '.' } else { ',' }, plain)
            }
            Style::Matrix => {
                let text = text.strip_prefix(';').ok_or("must begin with a semicolon")?;
                let named = |text: &str| {
                    let (name, value) = text.split_once('=').unwrap_or((text, ""));
                    (*lossy(decode_escapes(name)) == *self.name).then(|| value.to_owned())
                };
                let object = self.types(schema).has(Types::OBJECT);
                match self.explode {
                    true if object => self.one(schema, text, ';', plain),
                    true => {
                        let values: Option<Vec<String>> = text.split(';').map(named).collect();
                        let values = values.ok_or("must be named as the parameter is")?;
                        let texts: Vec<&str> = values.iter().map(String::as_str).collect();
                        self.several(schema, &texts, plain).map(Option::unwrap_or_default)
                    }
                    false => self.one(schema, &named(text).ok_or("must be named as the parameter is")?, ',', plain),
                }
            }
            _ => self.one(schema, text, ',', plain),
        }
    }

    fn in_query(&self, schema: &Schema, query: &Pairs<'_>, others: &[Param]) -> Result<Option<Candidates>, &'static str> {
        let form = |text| lossy(decode(text));
        let types = self.types(schema);
        let is_other = |name: &str| others.iter().any(|other| other.part == Part::Query && *other.name == *name);
        let named: Vec<&str> = query.iter().filter(|(name, _)| **name == *self.name).map(|(_, value)| *value).collect();
        let with_brackets = |(key, _): &(Cow<'_, str>, &str)| has_brackets(key, &self.name) && !is_other(key);
        if !named.is_empty() && query.iter().any(with_brackets) {
            return Err(BOTH);
        }
        // To many services `a[]` is `a`, or an element of it.
        let is_listed = |key: &str| key.strip_prefix(&*self.name) == Some("[]") && !is_other(key);
        if named.is_empty() && self.style == Style::Form && !self.json && query.iter().any(|(key, _)| is_listed(key)) {
            let texts: Vec<&str> = query.iter().filter(|(key, _)| is_listed(key)).map(|(_, value)| *value).collect();
            return self.several(schema, &texts, form);
        }
        match self.style {
            Style::DeepObject => {
                let tree = Tree::of(query, &self.name)?;
                let deep = match (&tree, self.node) {
                    (Some(tree), Some(node)) => Some(tree.value(schema, Some(node))),
                    (Some(tree), None) => Some(tree.value(schema, None)),
                    (None, _) => None,
                };
                // What may be something else than an object as well, stands under its own name then.
                match deep {
                    Some(deep) => Ok(Some(smallvec![deep])),
                    None => self.several(schema, &named, form),
                }
            }
            Style::Form if self.explode && types.has(Types::OBJECT) && named.is_empty() && !self.json => {
                let mut members = Map::new();
                for (name, _) in query.iter().filter(|(name, _)| !is_other(name)) {
                    let Some(node) = self.node.and_then(|node| schema.member_at(node, name)) else { continue };
                    let texts: Vec<&str> = query.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect();
                    members.entry(name.as_ref()).or_insert_with(|| leaf(schema, Some(node), &texts, form));
                }
                Ok((!members.is_empty()).then(|| smallvec![Value::Object(members)]))
            }
            Style::Form if !self.explode && !self.json => match named.as_slice() {
                [] => Ok(None),
                [one] => self.one(schema, one, ',', form).map(Some),
                _ => Err("must be there once"),
            },
            Style::SpaceDelimited | Style::PipeDelimited if !self.explode => {
                let [text] = named.as_slice() else {
                    return if named.is_empty() { Ok(None) } else { Err("must be there once") };
                };
                let separators: &[&str] = if self.style == Style::PipeDelimited { &["|", "%7C", "%7c"] } else { &["%20", "+"] };
                let mut joined = (*text).to_owned();
                for separator in separators {
                    joined = joined.replace(separator, "\u{1f}");
                }
                self.one(schema, &joined, '\u{1f}', form).map(Some)
            }
            _ => self.several(schema, &named, form),
        }
    }

    /// A value that is one text, with its parts apart.
    fn one<'t>(
        &self,
        schema: &Schema,
        text: &'t str,
        separator: char,
        plain: impl Fn(&'t str) -> Cow<'t, str>,
    ) -> Result<Candidates, &'static str> {
        if self.json {
            return as_json(&plain(text)).map(|value| smallvec![value]);
        }
        let types = self.types(schema);
        let mut all = Candidates::new();
        let whole = || types.read(plain(text).trim_matches(|c| self.part == Part::Header && matches!(c, ' ' | '\t')));
        let parts = || {
            let trimmed = |part: &'t str| if self.part == Part::Header { part.trim_matches([' ', '\t']) } else { part };
            text.split(separator).filter(|_| !text.is_empty()).map(trimmed)
        };
        let says_more = !types.is_any() && types != Types::ARRAY && types != Types::OBJECT;
        if says_more || types.is_any() {
            all.push(whole());
        }
        if types.has(Types::ARRAY) {
            let items = self.node.and_then(|node| schema.items_at(node)).map_or(Types::default(), |node| schema.types_at(node));
            all.push(parts().map(|part| items.read(&plain(part))).collect());
        }
        if types.has(Types::OBJECT) {
            let typed = |name: &str, value: &str| {
                let node = self.node.and_then(|node| schema.member_at(node, name));
                node.map_or(Types::default(), |node| schema.types_at(node)).read(value)
            };
            let mut members = Map::new();
            if self.explode {
                for part in parts() {
                    let (name, value) = part.split_once('=').unwrap_or((part, ""));
                    let name = plain(name);
                    members.insert(name.to_string(), typed(&name, &plain(value)));
                }
            } else {
                let parts: Vec<&str> = parts().collect();
                let (both, rest) = parts.as_chunks::<2>();
                if !rest.is_empty() && all.is_empty() {
                    return Err("must be names and values in turn");
                }
                for [name, value] in both {
                    let name = plain(name);
                    members.insert(name.to_string(), typed(&name, &plain(value)));
                }
            }
            all.push(Value::Object(members));
        }
        Ok(all)
    }

    /// A value that is several texts of one name.
    fn several<'t>(
        &self,
        schema: &Schema,
        texts: &[&'t str],
        plain: impl Fn(&'t str) -> Cow<'t, str>,
    ) -> Result<Option<Candidates>, &'static str> {
        match texts {
            [] => Ok(None),
            _ if self.json => match texts {
                [one] => as_json(&plain(one)).map(|value| Some(smallvec![value])),
                _ => Err("must be there once"),
            },
            [one] if self.part == Part::Cookie && !self.explode => self.one(schema, one, ',', plain).map(Some),
            _ => Ok(Some(candidates(schema, self.node, texts, plain))),
        }
    }

    /// Whether the members of an object stand in the query under their own names.
    fn takes_members(&self) -> bool {
        self.style == Style::Form && self.explode && !self.json
    }

    /// Whether nothing at all stands for it, and may.
    pub fn is_rightly_empty(&self, query: &Pairs<'_>) -> bool {
        let mut named = query.iter().filter(|(name, _)| **name == *self.name);
        self.allow_empty && matches!((named.next(), named.next()), (Some((_, "")), None))
    }

    /// Whether a name in a query is this one's, or one below it.
    pub fn takes_name(&self, schema: &Schema, name: &str) -> bool {
        let deep = self.style == Style::DeepObject && has_brackets(name, &self.name) && path(name, &self.name).is_some();
        let member = || self.takes_members() && self.node.is_some_and(|node| schema.member_at(node, name).is_some());
        let listed = || self.style == Style::Form && name.strip_prefix(&*self.name) == Some("[]");
        *name == *self.name || deep || listed() || member()
    }
}

fn as_json(text: &str) -> Result<Value, &'static str> {
    json::unique(text.as_bytes()).ok_or("must be JSON in which no object has a name twice")
}

/// What texts of one name stand for: a list where one is asked for, else the one value that there is.
fn candidates<'t>(schema: &Schema, node: Option<u32>, texts: &[&'t str], plain: impl Fn(&'t str) -> Cow<'t, str>) -> Candidates {
    let types = node.map_or(Types::default(), |node| schema.types_at(node));
    let mut all = Candidates::new();
    if let [one] = texts
        && types != Types::ARRAY
    {
        all.push(types.read(&plain(one)));
    }
    if types.has(Types::ARRAY) || all.is_empty() {
        let items = node.and_then(|node| schema.items_at(node)).map_or(Types::default(), |node| schema.types_at(node));
        all.push(texts.iter().map(|text| items.read(&plain(text))).collect());
    }
    all
}

/// The same, where one has to be chosen.
pub fn leaf<'t>(schema: &Schema, node: Option<u32>, texts: &[&'t str], plain: impl Fn(&'t str) -> Cow<'t, str>) -> Value {
    let all = candidates(schema, node, texts, plain);
    let fits = |value: &&Value| node.is_none_or(|node| schema.broken_at(node, value, 1000, 1, Default::default()).is_none());
    let fitting = if all.len() > 1 { all.iter().find(fits) } else { None };
    fitting.or(all.first()).cloned().unwrap_or_default()
}

/// What is wrong with `a=1&a[b]=2`: services read it in many ways.
pub const BOTH: &str = "must not be there with brackets and without";

/// Whether this name is `name[`, and whatever follows.
pub fn has_brackets(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.starts_with('['))
}

/// `b` and `c` of `a[b][c]`; `None` where the brackets are not of that spelling: `a[b`, `a[b]c`, `a[[b]]`, `a[][b]`.
fn path<'k>(key: &'k str, name: &str) -> Option<SmallVec<[&'k str; DEEPEST]>> {
    let inner = key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
    let path: SmallVec<[&str; DEEPEST]> = inner.split("][").collect();
    let (last, before) = path.split_last()?;
    (!last.contains(['[', ']']) && before.iter().all(|name| !name.is_empty() && !name.contains(['[', ']']))).then_some(path)
}

/// What `a[b][c]=1` says.
#[derive(Default, Debug)]
pub struct Tree<'a> {
    texts: Vec<&'a str>,
    below: Vec<(String, Tree<'a>)>,
}

impl<'a> Tree<'a> {
    /// Everything below this name; `None` if there is nothing.
    ///
    /// # Errors
    /// It goes too deep, or can be read in more than one way.
    pub fn of(pairs: &Pairs<'a>, name: &str) -> Result<Option<Tree<'a>>, &'static str> {
        let mut tree = Tree::default();
        for (key, value) in pairs {
            if !has_brackets(key, name) {
                continue;
            }
            let path = path(key, name).ok_or("must have its brackets as in `a[b][c]`")?;
            if path.len() > DEEPEST {
                return Err("goes too deep");
            }
            tree.insert(&path, value)?;
        }
        Ok((!tree.below.is_empty()).then_some(tree))
    }

    fn insert(&mut self, path: &[&str], value: &'a str) -> Result<(), &'static str> {
        // A value, or what is below it, but not both: one of them would be lost.
        if if path.is_empty() { !self.below.is_empty() } else { !self.texts.is_empty() } {
            return Err(BOTH);
        }
        let Some((first, rest)) = path.split_first() else {
            self.texts.push(value);
            return Ok(());
        };
        let at = match self.below.iter().position(|(name, _)| name == first) {
            Some(at) => at,
            None => {
                self.below.push(((*first).to_owned(), Tree::default()));
                self.below.len() - 1
            }
        };
        self.below.get_mut(at).map_or(Ok(()), |(_, below)| below.insert(rest, value))
    }

    /// As a value, as far as the schema tells its shape.
    pub fn value(&self, schema: &Schema, node: Option<u32>) -> Value {
        if self.below.is_empty() {
            return leaf(schema, node, &self.texts, |text| lossy(decode(text)));
        }
        let types = node.map_or(Types::default(), |node| schema.types_at(node));
        let numbered = self.below.iter().all(|(name, _)| name.bytes().all(|byte| byte.is_ascii_digit()));
        if numbered && (types.has(Types::ARRAY) || !types.has(Types::OBJECT)) {
            let items = node.and_then(|node| schema.items_at(node));
            let each = self.below.iter().flat_map(|(name, below)| match below.below.is_empty() && name.is_empty() {
                // `a[]=1&a[]=2`
                true => below.texts.iter().map(|text| leaf(schema, items, &[text], |text| lossy(decode(text)))).collect(),
                false => vec![below.value(schema, items)],
            });
            return each.collect();
        }
        let members = self.below.iter().map(|(name, below)| {
            let node = node.and_then(|node| schema.member_at(node, name));
            (name.clone(), below.value(schema, node))
        });
        Value::Object(members.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_read_in_one_way_or_not_at_all() {
        let tree = |query: &'static str| Tree::of(&pairs(query).unwrap(), "a").map(|tree| tree.is_some());
        for query in ["a[b]=1", "a%5Bb%5D[c]=1&a[d]=2", "a[]=1&a[]=2", "a[b][]=1", "a[b]=1&a[b]=2"] {
            assert_eq!(tree(query), Ok(true), "{query}");
        }
        for query in ["a=1", "ab[c]=1", ""] {
            assert_eq!(tree(query), Ok(false), "{query}");
        }
        for query in ["a[b=1", "a[b]c=1", "a[[b]]=1", "a[b]]=1", "a[][b]=1", "a[=1", "a[b]=1&a[b][c]=1", "a[b][c]=1&a[b]=1"] {
            assert!(tree(query).is_err(), "{query}");
        }
    }

    #[test]
    fn only_one_empty_value_is_empty() {
        let param = Param {
            part: Part::Query,
            name: "q".into(),
            field: None,
            place: 0,
            required: false,
            style: Style::Form,
            explode: true,
            allow_empty: true,
            json: false,
            node: None,
        };
        let empty = |query| param.is_rightly_empty(&pairs(query).unwrap());
        assert!(empty("q") && empty("a=1&q="));
        assert!(!empty("q=&q=x") && !empty("q=x&q=") && !empty("q=&q=") && !empty("q=x") && !empty(""));
    }
}
