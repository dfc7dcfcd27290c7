//! XML as JSON, and JSON as XML: one convention, the same both ways.
//!
//! | XML | JSON |
//! |---|---|
//! | an element with text alone, or with nothing | a text: `"7"`, `""` |
//! | an element with attributes or elements | an object: attributes as `@name`, its text as `#text`, then the elements by their names |
//! | elements of one name, and those that are declared to be lists | an array, where the first of them stands |
//! | the document | an object with its one element |
//!
//! Names keep their prefixes (`soap:Body`, `@xmlns:soap`). Comments and instructions are left out, and so is white space between elements; of text
//! with elements among it the order is lost. All values of XML are texts: `convert` makes numbers of them.
//!
//! The other way, `null` and what is empty are empty elements, numbers keep their digits, and an empty array is nothing. Where there is not one member
//! alone that could be the document's element, there is one around it, and lists within lists have elements called `item`. What XML has no words
//! for (a name with a space, a control character) is a fault, and so is what would become longer than it may.

use std::borrow::Cow;

use ahash::{AHashMap, AHashSet};
use http::HeaderValue;
use smallvec::SmallVec;

use super::config::{Format, XmlConfig};
use crate::head::RequestHead;
use crate::json::tree::{Id, Kind};
use crate::json::{Fault, Tree, lex};
use crate::policy::Compile;
use crate::policy::validate::media::{MediaType, preference};
use crate::policy::validate::xml::{self, Sink};
use crate::problem::Problem;

/// How deep elements may be nested: each is a level of JSON, and another one where it is of a list.
const DEEPEST: usize = 60;
/// The most elements and pieces of text.
const MOST: usize = 200_000;
/// Of fewer elements, those of one name are looked for one by one.
const FEW: usize = 16;
/// What the elements of a list are called that is in a list.
const ITEM: &str = "item";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `xml`, compiled.
pub struct Xml {
    pub request: Option<Format>,
    pub response: Option<Format>,
    lists: AHashSet<Box<str>>,
    root: Box<str>,
    media_type: HeaderValue,
}

/// What a body is, or becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Xml,
}

impl Xml {
    /// What is wrong goes to `cx.problems`.
    pub fn compile(config: &XmlConfig, cx: &mut Compile<'_>) -> Xml {
        if config.request.is_none() && config.response.is_none() {
            let problem = Problem::error(cx.place, "`xml` says nothing of requests and nothing of answers");
            cx.problems.push(problem.hint("write `xml: { response: json }`"));
        }
        if config.request == Some(Format::Accept) {
            cx.problems.push(Problem::error(cx.place, "a request goes on as `json` or as `xml`").hint("`accept` is for answers"));
        }
        for name in config.lists.iter().flat_map(|lists| lists.iter()).chain(&config.root) {
            if !xml::is_element(name) {
                cx.problems.push(Problem::error(name.place, format!("`{}` is no name of an element", name.value)));
            }
        }
        let mut media_type = HeaderValue::from_static("application/xml; charset=utf-8");
        if let Some(written) = &config.media_type {
            let is_xml = MediaType::parse(written.as_bytes()).is_some_and(|media| media.is_xml() && media.is_utf8());
            match HeaderValue::from_str(written) {
                Ok(value) if is_xml => media_type = value,
                _ => {
                    let problem = Problem::error(written.place, format!("`{}` is no type of XML in UTF-8", written.value));
                    cx.problems.push(problem.hint("`application/xml`, `text/xml; charset=utf-8`, `application/soap+xml`"));
                }
            }
        }
        Xml {
            request: config.request,
            response: config.response,
            lists: config.lists.iter().flat_map(|lists| lists.iter()).map(|name| name.value.as_str().into()).collect(),
            root: config.root.as_ref().map_or("root", |name| name.value.as_str()).into(),
            media_type,
        }
    }

    /// What an answer of this form becomes for this client. `None` where nothing is said of answers.
    pub fn answer(&self, is: Form, head: &RequestHead) -> Option<Form> {
        Some(match self.response? {
            Format::Json => Form::Json,
            Format::Xml => Form::Xml,
            Format::Accept => {
                let json = preference(head, "application/json");
                let xml = preference(head, "application/xml").max(preference(head, "text/xml"));
                match json.cmp(&xml) {
                    std::cmp::Ordering::Greater => Form::Json,
                    std::cmp::Ordering::Less => Form::Xml,
                    std::cmp::Ordering::Equal => is,
                }
            }
        })
    }

    /// What a request of this form becomes.
    pub fn request(&self) -> Option<Form> {
        Some(if self.request? == Format::Xml { Form::Xml } else { Form::Json })
    }

    pub fn media_type(&self, form: Form) -> HeaderValue {
        if form == Form::Json { JSON } else { self.media_type.clone() }
    }

    /// A document as JSON.
    ///
    /// # Errors
    /// It is no XML, or too much of it.
    pub fn read(&self, text: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
        let mut document = Read { nodes: Vec::new(), attributes: Vec::new(), open: SmallVec::new(), root: None };
        xml::read(text, DEEPEST, &mut document).map_err(|(what, _)| match what {
            xml::TOO_MUCH => Fault::TooLarge,
            xml::TOO_DEEP => Fault::TooDeep,
            xml::NOT_UTF8 => Fault::NotUtf8,
            _ => Fault::Syntax,
        })?;
        let mut out = Out { bytes: Vec::with_capacity(text.len().min(most)), most };
        let Some(Node::Element { name, .. }) = document.node(document.root) else { return Err(Fault::Syntax) };
        out.push(b"{")?;
        out.name("", name)?;
        document.write(document.root, &self.lists, &mut out)?;
        out.push(b"}")?;
        Ok(out.bytes)
    }

    /// A document as XML.
    ///
    /// # Errors
    /// XML cannot say it, or only in more bytes than these.
    pub fn write(&self, tree: &Tree, most: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Out { bytes: Vec::with_capacity(256), most };
        out.push(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")?;
        let root = tree.root();
        let mut members = tree.children(root);
        let alone = members.next().filter(|_| tree.kind(root) == Kind::Object && members.next().is_none());
        let name = alone.filter(|member| tree.kind(*member) != Kind::Array).and_then(|member| lex::said(tree.name(member)));
        match (alone, name.filter(|name| xml::is_element(name))) {
            (Some(member), Some(name)) => element(tree, &name, member, &mut out)?,
            _ => element(tree, &self.root, root, &mut out)?,
        }
        Ok(out.bytes)
    }
}

/// What is written, up to a bound.
struct Out {
    bytes: Vec<u8>,
    most: usize,
}

impl Out {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(Fault::TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// A member's name in JSON. Names of XML need no escapes.
    fn name(&mut self, before: &str, name: &str) -> Result<(), Fault> {
        self.push(b"\"")?;
        self.push(before.as_bytes())?;
        self.push(name.as_bytes())?;
        self.push(b"\":")
    }

    /// A text in XML. In an attribute white space would become other white space, and elsewhere the end of a line another one.
    fn escaped(&mut self, text: &str, attribute: bool) -> Result<(), Fault> {
        if !text.chars().all(xml::is_char) {
            return Err(Fault::Unsayable);
        }
        let mut rest = text.as_bytes();
        let means = |byte: &u8| match byte {
            b'&' | b'<' | b'>' | b'\r' => true,
            b'"' | b'\t' | b'\n' => attribute,
            _ => false,
        };
        while let Some(at) = rest.iter().position(means) {
            let (plain, from) = rest.split_at_checked(at).unwrap_or_default();
            self.push(plain)?;
            self.push(match from.first() {
                Some(b'&') => b"&amp;",
                Some(b'<') => b"&lt;",
                Some(b'>') => b"&gt;",
                Some(b'"') => b"&quot;",
                Some(b'\t') => b"&#9;",
                Some(b'\n') => b"&#10;",
                _ => b"&#13;",
            })?;
            rest = from.get(1..).unwrap_or_default();
        }
        self.push(rest)
    }

    /// A scalar of JSON in XML.
    fn scalar(&mut self, scalar: &[u8], attribute: bool) -> Result<(), Fault> {
        match scalar.first() {
            Some(b'"') => self.escaped(&lex::said(scalar).ok_or(Fault::Unsayable)?, attribute),
            _ if scalar == b"null" => Ok(()),
            _ => self.push(scalar),
        }
    }
}

/// A value as an element, and an array as one that has its elements in it.
fn element(tree: &Tree, name: &str, id: Id, out: &mut Out) -> Result<(), Fault> {
    if !xml::is_element(name) {
        return Err(Fault::Unsayable);
    }
    out.push(b"<")?;
    out.push(name.as_bytes())?;
    let from = out.bytes.len();
    match tree.kind(id) {
        Kind::Scalar => {
            out.push(b">")?;
            out.scalar(tree.scalar(id).unwrap_or_default(), false)?;
        }
        Kind::Array => {
            out.push(b">")?;
            tree.children(id).try_for_each(|one| element(tree, ITEM, one, out))?;
        }
        Kind::Object => {
            let named = |id: Id| lex::said(tree.name(id)).ok_or(Fault::Unsayable);
            let mut text = None;
            for member in tree.children(id) {
                let name = named(member)?;
                if *name == *"#text" {
                    text = Some(tree.scalar(member).ok_or(Fault::Unsayable)?);
                }
                let Some(name) = name.strip_prefix('@') else { continue };
                let value = tree.scalar(member).filter(|_| xml::is_element(name)).ok_or(Fault::Unsayable)?;
                if value != b"null" {
                    out.push(b" ")?;
                    out.push(name.as_bytes())?;
                    out.push(b"=\"")?;
                    out.scalar(value, true)?;
                    out.push(b"\"")?;
                }
            }
            out.push(b">")?;
            out.scalar(text.unwrap_or(b"null"), false)?;
            for member in tree.children(id) {
                let name = named(member)?;
                if name.starts_with('@') || *name == *"#text" {
                    continue;
                }
                match tree.kind(member) {
                    Kind::Array => tree.children(member).try_for_each(|one| element(tree, &name, one, out))?,
                    _ => element(tree, &name, member, out)?,
                }
            }
        }
    }
    // Nothing is in it.
    let is_empty = out.bytes.last() == Some(&b'>') && !out.bytes.get(from..).unwrap_or_default().contains(&b'<');
    if is_empty {
        out.bytes.pop();
        return out.push(b"/>");
    }
    out.push(b"</")?;
    out.push(name.as_bytes())?;
    out.push(b">")
}

/// A document of XML, as it is read.
struct Read<'a> {
    nodes: Vec<(Node<'a>, Option<u32>)>,
    attributes: Vec<(&'a str, &'a str)>,
    /// The elements around what comes next, each with what is the last in it so far.
    open: SmallVec<[(u32, Option<u32>); 16]>,
    root: Option<u32>,
}

/// Beside each stands the next one in the same element.
enum Node<'a> {
    Element { name: &'a str, attributes: std::ops::Range<usize>, first: Option<u32> },
    Text { raw: &'a str, literal: bool },
}

impl<'a> Read<'a> {
    fn node(&self, number: Option<u32>) -> Option<&Node<'a>> {
        self.nodes.get(number? as usize).map(|(node, _)| node)
    }

    fn add(&mut self, node: Node<'a>) -> Result<u32, xml::Fault> {
        let number = u32::try_from(self.nodes.len()).ok().filter(|number| (*number as usize) < MOST).ok_or(xml::TOO_MUCH)?;
        self.nodes.push((node, None));
        match self.open.last_mut() {
            None => self.root = Some(number),
            Some((parent, last)) => match last.replace(number) {
                Some(last) => {
                    if let Some((_, next)) = self.nodes.get_mut(last as usize) {
                        *next = Some(number);
                    }
                }
                None => {
                    if let Some((Node::Element { first, .. }, _)) = self.nodes.get_mut(*parent as usize) {
                        *first = Some(number);
                    }
                }
            },
        }
        Ok(number)
    }

    /// Writes an element's value as JSON.
    fn write(&self, number: Option<u32>, lists: &AHashSet<Box<str>>, out: &mut Out) -> Result<(), Fault> {
        let Some(Node::Element { attributes, first, .. }) = self.node(number) else { return Ok(()) };
        let attributes = self.attributes.get(attributes.clone()).unwrap_or_default();
        let mut text = String::new();
        // The elements by their names, in the order in which the names come.
        let mut groups: Vec<(&str, SmallVec<[u32; 1]>)> = Vec::new();
        let mut known: AHashMap<&str, usize> = AHashMap::new();
        let mut next = *first;
        while let Some((number, (node, after))) = next.and_then(|number| Some((number, self.nodes.get(number as usize)?))) {
            next = *after;
            match node {
                Node::Text { raw, literal } => text.push_str(&if *literal { ended(raw) } else { said(raw, false) }),
                Node::Element { name, .. } => {
                    let many = groups.len() > FEW;
                    if many && known.is_empty() {
                        known = groups.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
                    }
                    let at = if many { known.get(name).copied() } else { groups.iter().position(|(known, _)| known == name) };
                    match at.and_then(|at| groups.get_mut(at)) {
                        Some((_, group)) => group.push(number),
                        None => {
                            if many {
                                known.insert(name, groups.len());
                            }
                            groups.push((name, SmallVec::from_slice(&[number])));
                        }
                    }
                }
            }
        }
        if attributes.is_empty() && groups.is_empty() {
            return out.push(&lex::quoted(&text));
        }
        let mut mark: &[u8] = b"{";
        let mut begin = |out: &mut Out| out.push(std::mem::replace(&mut mark, b","));
        for (name, raw) in attributes {
            begin(out)?;
            out.name("@", name)?;
            out.push(&lex::quoted(&said(raw, true)))?;
        }
        // Between elements, white space is how they are laid out.
        let is_layout = !groups.is_empty() && text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
        if !text.is_empty() && !is_layout {
            begin(out)?;
            out.name("", "#text")?;
            out.push(&lex::quoted(&text))?;
        }
        for (name, group) in &groups {
            begin(out)?;
            out.name("", name)?;
            if group.len() == 1 && !lists.contains(*name) {
                self.write(group.first().copied(), lists, out)?;
                continue;
            }
            for (at, one) in group.iter().enumerate() {
                out.push(if at == 0 { b"[" } else { b"," })?;
                self.write(Some(*one), lists, out)?;
            }
            out.push(b"]")?;
        }
        out.push(b"}")
    }
}

impl<'a> Sink<'a> for Read<'a> {
    fn start(&mut self, name: &'a str, attributes: &[(&'a str, &'a str)], is_empty: bool) -> Result<(), xml::Fault> {
        let from = self.attributes.len();
        if from + attributes.len() > MOST {
            return Err(xml::TOO_MUCH);
        }
        self.attributes.extend_from_slice(attributes);
        let number = self.add(Node::Element { name, attributes: from..self.attributes.len(), first: None })?;
        if !is_empty {
            self.open.push((number, None));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.open.pop();
    }

    fn text(&mut self, raw: &'a str, literal: bool) -> Result<(), xml::Fault> {
        self.add(Node::Text { raw, literal }).map(drop)
    }
}

/// Ends of lines are one character (XML 1.0, section 2.11).
fn ended(raw: &str) -> Cow<'_, str> {
    if raw.contains('\r') { Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n")) } else { Cow::Borrowed(raw) }
}

/// What text with references says. Of an attribute, white space is a space each (section 3.3.3).
fn said(raw: &str, attribute: bool) -> Cow<'_, str> {
    let mut raw = ended(raw);
    if attribute && raw.contains(['\t', '\n']) {
        raw = Cow::Owned(raw.replace(['\t', '\n'], " "));
    }
    if !raw.contains('&') {
        return raw;
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = &*raw;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (name, after) = after.split_once(';').unwrap_or((after, ""));
        out.extend(xml::character(name));
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(lists: &[&str]) -> Xml {
        Xml {
            request: None,
            response: None,
            lists: lists.iter().map(|name| (*name).into()).collect(),
            root: "root".into(),
            media_type: JSON,
        }
    }

    fn json(xml: &str) -> Result<String, Fault> {
        with(&["line"]).read(xml.as_bytes(), 1 << 16).map(|json| String::from_utf8(json).unwrap())
    }

    fn xml(json: &str) -> Result<String, Fault> {
        let tree = Tree::parse(json.as_bytes(), 0)?;
        let xml = String::from_utf8(with(&[]).write(&tree, 1 << 16)?).unwrap();
        let text = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap().to_owned();
        assert_eq!(xml::check(xml.as_bytes(), 300), Ok(()), "{xml}");
        Ok(text)
    }

    #[test]
    fn xml_becomes_json() {
        for (xml, json_of) in [
            ("<a/>", r#"{"a":""}"#),
            ("<a>7</a>", r#"{"a":"7"}"#),
            ("<?xml version='1.0'?><!-- c --><a> x <?p?></a>", r#"{"a":" x "}"#),
            ("<a b='1'/>", r#"{"a":{"@b":"1"}}"#),
            ("<a b='1'>t</a>", r##"{"a":{"@b":"1","#text":"t"}}"##),
            ("<a>\n  <b>1</b>\n  <c/>\n  <b>2</b>\n</a>", r#"{"a":{"b":["1","2"],"c":""}}"#),
            ("<a><line>1</line></a>", r#"{"a":{"line":["1"]}}"#),
            ("<a>x<b/>y</a>", r##"{"a":{"#text":"xy","b":""}}"##),
            ("<s:a xmlns:s='urn:s'><s:b s:c=''/></s:a>", r#"{"s:a":{"@xmlns:s":"urn:s","s:b":{"@s:c":""}}}"#),
            (
                "<a b='&lt;&#10;&#x41;\n\"'>&amp;\"<![CDATA[<&amp;]]>\r\n\\</a>",
                r##"{"a":{"@b":"<\nA \"","#text":"&\"<&amp;\n\\"}}"##,
            ),
            ("\u{feff}<é>ü</é>", r#"{"é":"ü"}"#),
        ] {
            assert_eq!(json(xml).as_deref(), Ok(json_of), "{xml}");
        }
        for (xml, fault) in [
            ("<a>", Fault::Syntax),
            ("", Fault::Syntax),
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", Fault::Syntax),
            ("<a>&x;</a>", Fault::Syntax),
            (&format!("{}{}", "<a>".repeat(61), "</a>".repeat(61)), Fault::TooDeep),
            (&format!("<a>{}</a>", "<b/>".repeat(MOST)), Fault::TooLarge),
            (&format!("<a>{}</a>", "\"".repeat(40_000)), Fault::TooLarge),
        ] {
            assert_eq!(json(xml), Err(fault), "{}", xml.chars().take(40).collect::<String>());
        }
        assert_eq!(with(&[]).read(b"<a>\xff</a>", 99), Err(Fault::NotUtf8));
    }

    #[test]
    fn json_becomes_xml() {
        for (json, xml_of) in [
            (r#"{"a":""}"#, "<a/>"),
            (r#"{"a":null}"#, "<a/>"),
            (r#"{"a":{}}"#, "<a/>"),
            (r#"{"a":1.10}"#, "<a>1.10</a>"),
            (r#"{"a":12345678901234567890}"#, "<a>12345678901234567890</a>"),
            (r##"{"a":{"c":true,"@b":"<\"\n","#text":"t","@none":null}}"##, "<a b=\"&lt;&quot;&#10;\">t<c>true</c></a>"),
            (
                r#"{"a":{"b":[1,{"c":2},[3,[4]],null,[]],"none":[]}}"#,
                "<a><b>1</b><b><c>2</c></b><b><item>3</item><item><item>4</item></item></b><b/><b/></a>",
            ),
            (r#"[1,{"a":2}]"#, "<root><item>1</item><item><a>2</a></item></root>"),
            (r#"{"a":1,"b":2}"#, "<root><a>1</a><b>2</b></root>"),
            (r#"{"a":[1]}"#, "<root><a>1</a></root>"),
            (r#"{"@a":1}"#, "<root a=\"1\"/>"),
            ("7", "<root>7</root>"),
            (r#"{"a":"]]>&amp;\u00e9\ud83d\ude00"}"#, "<a>]]&gt;&amp;amp;é\u{1f600}</a>"),
        ] {
            assert_eq!(xml(json).as_deref(), Ok(xml_of), "{json}");
        }
        for json in [
            r#"{"a":{"b c":1}}"#,
            r#"{"a":{"":1}}"#,
            r#"{"a":{"<b>":1}}"#,
            r#"{"a":{"1":1}}"#,
            r#"{"a":{"@":1}}"#,
            r#"{"a":{"@b":[]}}"#,
            r#"{"a":{"@b/><c":1}}"#,
            r##"{"a":{"#text":{}}}"##,
            r#"{"a":"\u0000"}"#,
            r#"{"a":"\u0007"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\uffff"}"#,
        ] {
            assert_eq!(xml(json), Err(Fault::Unsayable), "{json}");
        }
        let name = "n".repeat(1000);
        let many = format!("{{\"{name}\":[{}]}}", ["0"; 1000].join(","));
        assert_eq!(xml(&many), Err(Fault::TooLarge), "a name for each element");
    }

    proptest! {
        /// JSON that came of XML becomes XML of which the same JSON comes.
        #[test]
        fn there_and_back(text in "(<a>|<b c='x &lt;'>|<b c=''>|</a>|</b>|<d/>|x|&amp;|&#10;|&#13;|\\]|\u{e9}| ){0,24}") {
            if let Ok(first) = json(&format!("<r>{text}</r>")) {
                let again = xml(&first).unwrap();
                prop_assert_eq!(json(&again), Ok(first), "{}", text);
            }
        }

        #[test]
        fn what_is_written_is_xml(json in r#"\[("([a&<"@# \]>]|\\n|\\u00[01]0){0,3}":?|[\[\]{},]|1|null){0,12}\]"#) {
            let _ = xml(&json);
        }
    }
}
