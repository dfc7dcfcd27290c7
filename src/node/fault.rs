//! The deserializer's error: what serde and the types' own visitors say, kept in parts until the node it belongs to is known, for only
//! the node tells what may be shown of its value.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::redact::{REDACTED, Veil, is_hidden};
use super::{Kind, Node, Scalar, Style, scalar};
use crate::problem::foreign;

#[derive(Debug)]
pub(super) enum Fault {
    /// The problem is written down; unwind.
    Recorded,
    /// The consequence of another problem; unwind.
    Consequence,
    Fresh(Box<Fresh>),
}

#[derive(Debug)]
pub(super) struct Fresh {
    pub what: What,
    pub hint: Option<String>,
}

#[derive(Debug)]
pub(super) enum What {
    /// A visitor's own words, which may quote the value.
    Words(String),
    /// Our own, which do not.
    Safe(String),
    /// Something else was expected; a sentence's end such as `a list`.
    Expected(String),
    /// Too few or too many items.
    Length(String),
    Missing(&'static str),
    UnknownKey {
        key: String,
        allowed: &'static [&'static str],
    },
    UnknownVariant {
        variants: &'static [&'static str],
    },
}

impl Fault {
    pub(super) fn fresh(what: What) -> Self {
        Fault::Fresh(Box::new(Fresh { what, hint: None }))
    }

    pub(super) fn hinted(what: What, hint: impl Into<String>) -> Self {
        Fault::Fresh(Box::new(Fresh { what, hint: Some(hint.into()) }))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Fresh(fresh) => match &fresh.what {
                What::Words(words) | What::Safe(words) => f.write_str(words),
                what => write!(f, "{what:?}"),
            },
            _ => f.write_str("the value is refused"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::fresh(What::Words(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::fresh(What::Expected(expectation(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::fresh(What::Expected(expectation(&expected.to_string())))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let items = if length == 1 { "item" } else { "items" };
        Fault::fresh(What::Length(format!("expected {}, found {length} {items}", expectation(&expected.to_string()))))
    }

    fn unknown_variant(_: &str, variants: &'static [&'static str]) -> Self {
        Fault::fresh(What::UnknownVariant { variants })
    }

    fn unknown_field(key: &str, allowed: &'static [&'static str]) -> Self {
        Fault::fresh(What::UnknownKey { key: key.to_owned(), allowed })
    }

    fn missing_field(field: &'static str) -> Self {
        Fault::fresh(What::Missing(field))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Fault::fresh(What::Safe(format!("the key `{field}` is given twice, once under another name")))
    }
}

/// Serde's and Rust's words for types in the words of people who write YAML.
fn expectation(expected: &str) -> String {
    let bare = expected.strip_prefix("a nonzero ").unwrap_or(expected);
    let least = if bare == expected { "0" } else { "1" };
    let most = match bare {
        "u8" => u8::MAX.to_string(),
        "u16" => u16::MAX.to_string(),
        "u32" => u32::MAX.to_string(),
        "u64" | "usize" | "u128" => return format!("a whole number, {least} or more"),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => return "a whole number".to_owned(),
        "f32" | "f64" => return "a number".to_owned(),
        "a boolean" => return "true or false".to_owned(),
        "a sequence" => return "a list".to_owned(),
        "a borrowed string" => return "a string".to_owned(),
        "path string" => return "a path".to_owned(),
        "unit" => return "nothing".to_owned(),
        "struct variant" | "newtype variant" | "tuple variant" => return "a map from this word to its settings".to_owned(),
        _ if bare.starts_with("struct ") => return "a map".to_owned(),
        _ if bare.starts_with("enum ") => return "a word".to_owned(),
        _ => return bare.strip_prefix("a tuple of size ").map_or(bare.to_owned(), |size| format!("a list of {size} items")),
    };
    format!("a whole number from {least} to {most}")
}

impl Fresh {
    /// The sentence and the hint, now that the node is known.
    pub(super) fn into_words(self, node: &Node, veil: Veil) -> (String, Option<String>) {
        match self.what {
            What::Safe(words) | What::Length(words) => (words, self.hint),
            What::Words(words) => (conceal(words, node, veil), self.hint),
            What::Expected(expected) => {
                let hint = self.hint.or_else(|| hint_for(&expected, node));
                (format!("expected {expected}, found {}", describe(node, veil)), hint)
            }
            What::Missing(field) => (format!("missing required key `{field}`"), self.hint),
            What::UnknownKey { key, allowed } => unknown_key(&key, allowed),
            What::UnknownVariant { variants } => {
                let hint = node.as_str().and_then(|text| foreign::word(text, variants));
                let hint =
                    hint.map_or_else(|| format!("one of: {}", variants.join(", ")), |near| format!("did you mean `{near}`?"));
                (format!("unknown value {}", describe(node, veil)), Some(hint))
            }
        }
    }
}

pub(super) fn unknown_key(key: &str, allowed: &[&str]) -> (String, Option<String>) {
    let hint = match foreign::meant(key, allowed) {
        Some(near) => format!("did you mean `{near}`?"),
        None if allowed.is_empty() => "no keys are allowed here".to_owned(),
        None => format!("allowed here: {}", allowed.join(", ")),
    };
    (format!("unknown key `{}`", shorten(key)), Some(hint))
}

fn hint_for(expected: &str, node: &Node) -> Option<String> {
    let Kind::Scalar(found) = &node.kind else {
        return node.is_null().then(|| "give it a value, or remove the key".to_owned());
    };
    let wants_number = expected.contains("number");
    if wants_number && found.style == Style::Quoted && scalar::is_number(&found.text) {
        return Some("remove the quotes".to_owned());
    }
    if expected == "true or false" && matches!(found.text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n")
    {
        return Some("YAML 1.2 knows only `true` and `false`".to_owned());
    }
    (expected == "true or false" && found.style == Style::Quoted && scalar::truth(&found.text).is_some())
        .then(|| "remove the quotes".to_owned())
}

/// A value, for the end of a sentence, as far as it may be shown.
fn describe(node: &Node, veil: Veil) -> String {
    match &node.kind {
        Kind::Null => "nothing".to_owned(),
        Kind::Seq(_) => "a list".to_owned(),
        Kind::Map(_) => "a map".to_owned(),
        Kind::Broken(_) => "a value that is refused already".to_owned(),
        Kind::Scalar(found) if is_hidden(found.shown(), found.style, veil) => REDACTED.to_owned(),
        Kind::Scalar(found) => {
            let quoted = found.style == Style::Quoted && (scalar::is_number(&found.text) || scalar::truth(&found.text).is_some());
            let (open, close) = if quoted { ("the string `\"", "\"`") } else { ("`", "`") };
            format!("{open}{}{close}", shorten(found.shown()))
        }
    }
}

/// Takes a value that must not be shown out of a visitor's words.
fn conceal(words: String, node: &Node, veil: Veil) -> String {
    let Kind::Scalar(Scalar { text, written, style }) = &node.kind else { return words };
    let shown = written.as_deref().unwrap_or(text);
    let hidden = is_hidden(shown, *style, veil);
    let escaped = text.escape_debug().to_string();
    if !(hidden || written.is_some()) || text.is_empty() || !(words.contains(text.as_str()) || words.contains(&escaped)) {
        return words;
    }
    // A short text would be found in the middle of other words.
    if text.chars().count() < 4 {
        return "this value is not valid here".to_owned();
    }
    let instead = if hidden { REDACTED } else { shown };
    words.replace(text.as_str(), instead).replace(&escaped, instead)
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
