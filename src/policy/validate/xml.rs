//! XML (1.0, fifth edition) without a document type, read strictly. Reads the text once, tells whoever listens what is there ([`Sink`]), builds
//! nothing itself, and uses no recursion.
//!
//! A document type is refused whatever is in it: entities are what makes a small body large and reads files that are nobody's business, and no
//! service needs them. With none, the five entities that XML has by itself and references to characters are all that there is to check.
//! UTF-8 alone is taken; another encoding would have to be believed.

use ahash::AHashSet;

/// The most attributes of one element.
const MOST_ATTRIBUTES: usize = 256;
/// Of fewer, one that is there twice is looked for one by one.
const FEW: usize = 8;

/// Whether it is well-formed.
///
/// # Errors
/// The first fault, as a sentence about the body.
pub fn check(text: &[u8], deepest: usize) -> Result<(), String> {
    read(text, deepest, &mut Nobody).map_err(|(what, at)| format!("{what}, at byte {at}"))
}

/// Tells of everything that is there.
///
/// # Errors
/// The first fault, and where it is.
pub fn read<'a>(text: &'a [u8], deepest: usize, sink: &mut impl Sink<'a>) -> Result<(), (Fault, usize)> {
    let text = std::str::from_utf8(text).map_err(|error| (NOT_UTF8, error.valid_up_to()))?;
    let mut reader = Reader { text, at: 0, attributes: Vec::new(), sink };
    // A byte order mark says UTF-8, which it is.
    reader.skip("\u{feff}");
    reader.document(deepest).map_err(|what| (what, reader.at))
}

/// Who is told what is in a document.
pub trait Sink<'a> {
    /// An element begins, and ends at once if it is empty. The attributes' values are as they are written.
    ///
    /// # Errors
    /// There is too much of it.
    fn start(&mut self, name: &'a str, attributes: &[(&'a str, &'a str)], is_empty: bool) -> Result<(), Fault>;

    /// The innermost one ends, which was not empty.
    fn end(&mut self);

    /// Text as it is written: with references, or literally (CDATA).
    ///
    /// # Errors
    /// There is too much of it.
    fn text(&mut self, raw: &'a str, literal: bool) -> Result<(), Fault>;
}

struct Nobody;

impl<'a> Sink<'a> for Nobody {
    fn start(&mut self, _: &'a str, _: &[(&'a str, &'a str)], _: bool) -> Result<(), Fault> {
        Ok(())
    }

    fn end(&mut self) {}

    fn text(&mut self, _: &'a str, _: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// What is wrong, as a sentence about the body.
pub type Fault = &'static str;

pub const NOT_UTF8: Fault = "must be UTF-8";
pub const TOO_DEEP: Fault = "must not be nested so deeply";
pub const TOO_MUCH: Fault = "must not have so many elements";
const MALFORMED: Fault = "must be well-formed XML";

struct Reader<'a, 's, S> {
    text: &'a str,
    at: usize,
    /// Those of the element that begins.
    attributes: Vec<(&'a str, &'a str)>,
    sink: &'s mut S,
}

impl<'a, S: Sink<'a>> Reader<'a, '_, S> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn need(&mut self, word: &str) -> Result<(), Fault> {
        if self.skip(word) { Ok(()) } else { Err(MALFORMED) }
    }

    fn space(&mut self) -> bool {
        let length = self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += length;
        length > 0
    }

    /// Everything up to this, which is passed.
    fn until(&mut self, end: &str) -> Result<&'a str, Fault> {
        let rest = self.rest();
        let length = rest.find(end).ok_or(MALFORMED)?;
        let found = rest.get(..length).unwrap_or_default();
        self.at += length + end.len();
        if found.chars().all(is_char) { Ok(found) } else { Err(MALFORMED) }
    }

    fn name(&mut self) -> Result<&'a str, Fault> {
        let rest = self.rest();
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = rest.get(..length).unwrap_or_default();
        self.at += length;
        if name.starts_with(is_name_start) { Ok(name) } else { Err(MALFORMED) }
    }

    fn document(&mut self, deepest: usize) -> Result<(), Fault> {
        self.declaration()?;
        self.beside()?;
        self.need("<")?;
        let mut open: Vec<&str> = Vec::new();
        loop {
            // After `<`, of an element that begins.
            let (name, is_empty) = self.start()?;
            if open.len() >= deepest {
                return Err(TOO_DEEP);
            }
            self.sink.start(name, &self.attributes, is_empty)?;
            if !is_empty {
                open.push(name);
            }
            if !self.content(&mut open)? {
                break;
            }
        }
        self.beside()?;
        if self.rest().is_empty() { Ok(()) } else { Err(MALFORMED) }
    }

    /// What stands in elements, up to the start of the next one (true), or the end of the outermost.
    fn content(&mut self, open: &mut Vec<&'a str>) -> Result<bool, Fault> {
        while let Some(name) = open.last() {
            let rest = self.rest();
            let length = rest.find('<').ok_or(MALFORMED)?;
            let text = rest.get(..length).unwrap_or_default();
            self.characters(text, true)?;
            if length > 0 {
                self.sink.text(text, false)?;
            }
            if self.skip("</") {
                if self.name()? != *name {
                    return Err("must close its elements in their order");
                }
                self.space();
                self.need(">")?;
                open.pop();
                self.sink.end();
            } else if self.skip("<!--") {
                self.comment()?;
            } else if self.skip("<![CDATA[") {
                let text = self.until("]]>")?;
                self.sink.text(text, true)?;
            } else if self.skip("<?") {
                self.instruction()?;
            } else {
                self.need("<")?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn declaration(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        if !rest.strip_prefix("<?xml").is_some_and(|after| after.starts_with([' ', '\t', '\r', '\n'])) {
            return Ok(());
        }
        self.at += "<?xml".len();
        let said = self.until("?>")?;
        let mut words = Vec::new();
        let mut left = said.trim_matches([' ', '\t', '\r', '\n']);
        while !left.is_empty() {
            let (name, after) = left.split_once('=').ok_or(MALFORMED)?;
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(MALFORMED)?;
            let (value, after) = after.get(1..).and_then(|after| after.split_once(quote)).ok_or(MALFORMED)?;
            words.push((name.trim_end(), value));
            left = after.trim_start();
            if !left.is_empty() && left.len() == after.len() {
                return Err(MALFORMED);
            }
        }
        let mut words = words.into_iter().peekable();
        match words.next() {
            Some(("version", version)) if version.starts_with("1.") => {}
            _ => return Err(MALFORMED),
        }
        if let Some((_, encoding)) = words.next_if(|(name, _)| *name == "encoding")
            && !encoding.eq_ignore_ascii_case("utf-8")
            && !encoding.eq_ignore_ascii_case("us-ascii")
        {
            return Err("must be UTF-8");
        }
        match (words.next(), words.next()) {
            (None, _) | (Some(("standalone", "yes" | "no")), None) => Ok(()),
            _ => Err(MALFORMED),
        }
    }

    /// What may stand before and after the element that is all of it.
    fn beside(&mut self) -> Result<(), Fault> {
        loop {
            self.space();
            if self.skip("<!--") {
                self.comment()?;
            } else if self.skip("<?") {
                self.instruction()?;
            } else if self.rest().starts_with("<!DOCTYPE") {
                return Err("must not have a document type");
            } else {
                return Ok(());
            }
        }
    }

    fn comment(&mut self) -> Result<(), Fault> {
        self.until("--")?;
        self.need(">")
    }

    fn instruction(&mut self) -> Result<(), Fault> {
        let target = self.name()?;
        if target.eq_ignore_ascii_case("xml") {
            return Err(MALFORMED);
        }
        if self.skip("?>") {
            return Ok(());
        }
        if !self.space() {
            return Err(MALFORMED);
        }
        self.until("?>").map(drop)
    }

    /// The name, and whether it is closed at once.
    fn start(&mut self) -> Result<(&'a str, bool), Fault> {
        let name = self.name()?;
        self.attributes.clear();
        let mut known: AHashSet<&str> = AHashSet::new();
        loop {
            let apart = self.space();
            if self.skip("/>") {
                return Ok((name, true));
            }
            if self.skip(">") {
                return Ok((name, false));
            }
            if !apart {
                return Err(MALFORMED);
            }
            let attribute = self.name()?;
            if self.attributes.len() >= MOST_ATTRIBUTES {
                return Err("must not have so many attributes in an element");
            }
            if self.attributes.len() == FEW {
                known.extend(self.attributes.iter().map(|(name, _)| *name));
            }
            let is_known = match self.attributes.len() < FEW {
                true => self.attributes.iter().any(|(name, _)| *name == attribute),
                false => !known.insert(attribute),
            };
            if is_known {
                return Err("must not have an attribute twice in an element");
            }
            self.space();
            self.need("=")?;
            self.space();
            let quote = if self.skip("\"") { '"' } else { '\'' };
            if quote == '\'' {
                self.need("'")?;
            }
            let length = self.rest().find(quote).ok_or(MALFORMED)?;
            let value = self.rest().get(..length).unwrap_or_default();
            if value.contains('<') {
                return Err(MALFORMED);
            }
            self.characters(value, false)?;
            self.attributes.push((attribute, value));
            self.at += 1;
        }
    }

    /// Text that is next, with its references.
    fn characters(&mut self, text: &str, content: bool) -> Result<(), Fault> {
        let end = self.at + text.len();
        if !text.chars().all(is_char) || content && text.contains("]]>") {
            return Err(MALFORMED);
        }
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('&') {
            let (name, after) = after.split_once(';').ok_or(MALFORMED)?;
            if character(name).is_none() {
                return Err(if name.starts_with('#') { MALFORMED } else { "must not have entities" });
            }
            rest = after;
        }
        self.at = end;
        Ok(())
    }
}

/// The character that a reference stands for: one of the five that have names, or one by its number.
pub fn character(name: &str) -> Option<char> {
    let number = match name.strip_prefix("#x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit())),
        None => match name.strip_prefix('#') {
            Some(digits) => digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit())),
            None => {
                return Some(match name {
                    "amp" => '&',
                    "lt" => '<',
                    "gt" => '>',
                    "apos" => '\'',
                    "quot" => '"',
                    _ => return None,
                });
            }
        },
    };
    number.and_then(char::from_u32).filter(|c| is_char(*c))
}

/// Whether an element or an attribute may be called so.
pub fn is_element(name: &str) -> bool {
    name.starts_with(is_name_start) && name.chars().all(is_name)
}

/// Whether text may have it at all.
pub fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn is_name_start(c: char) -> bool {
    matches!(c, ':' | '_' | 'A'..='Z' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

fn is_name(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_is_xml() {
        for text in [
            "<a/>",
            "\u{feff}<?xml version=\"1.0\" encoding='UTF-8' standalone=\"yes\" ?>\n<!-- c --><?p q?>\n<a/>\n<!-- c -->\n",
            "<a b='1' c = \"&lt;&#65;&#x41;'\">t&amp;<b></b ><![CDATA[<x>&y;]]><?p?><!----></a>",
            "<x:\u{e9} xmlns:x='u'>\u{10ffff}]]</x:\u{e9}>",
        ] {
            assert_eq!(check(text.as_bytes(), 9), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_and_what_is_dangerous() {
        for text in [
            "",
            " ",
            "a",
            "<a>",
            "<a></b>",
            "<a><b></a></b>",
            "<a/><b/>",
            "<a/>x",
            "x<a/>",
            "<a b=1/>",
            "<a b='1' b='2'/>",
            "<a b='1'c='2'/>",
            "<a b='<'/>",
            "<a>&nbsp;</a>",
            "<a>&</a>",
            "<a>&#0;</a>",
            "<a>&#xD800;</a>",
            "<a>&#+1;</a>",
            "<a>]]></a>",
            "<a>\u{1}</a>",
            "<a><!-- -- --></a>",
            "<!DOCTYPE a><a/>",
            "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
            "<a><!DOCTYPE b></a>",
            "<?xml version='1.0' encoding='UTF-16'?><a/>",
            " <?xml version='1.0'?><a/>",
            "<?xml version='1.0'?><?xml version='1.0'?><a/>",
            "<?xml encoding='UTF-8'?><a/>",
            "<1a/>",
            "< a/>",
            "<a",
            "<a b",
            "<a/",
            "<a></a",
            "<![CDATA[x]]>",
            "<a><![CDATA[</a>",
            "<?xml version='1.0' standalone='yes' encoding='utf-8'?><a/>",
        ] {
            assert!(check(text.as_bytes(), 9).is_err(), "{text}");
        }
        assert!(check(b"<a>\xff</a>", 9).is_err());
        let deep = |levels: usize| format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
        assert_eq!(check(deep(9).as_bytes(), 9), Ok(()));
        assert!(check(deep(10).as_bytes(), 9).is_err());
        assert!(check("<a>".repeat(100_000).as_bytes(), 9).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(<|>|/|&|;|#|x|a|\"|'|=| |!|-|\\?|\\[|\\]|CDATA|\u{e9}){0,40}") {
            let _ = check(text.as_bytes(), 3);
        }
    }
}
