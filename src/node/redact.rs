//! What may be shown of a configuration, and what is secret.
//!
//! The tree does not know the types it is decoded into, so the rule goes by the keys' last words and errs towards hiding:
//!
//! - Under a key that ends in `password`, `passphrase` or `secret` (or their plurals) every literal is hidden.
//! - Under one that ends in `key`, `token`, `hash`, `credential` or `authorization`, a literal or a list of literals is hidden; a map
//!   below is judged by its own keys. Under their plurals, a map's values are hidden too (`api_keys: { acme: ... }`).
//! - Wherever it stands, a literal is hidden that holds a private key, a password's hash, an `Authorization` value, or a URL with a
//!   password.
//! - Shown: what is a whole `${NAME}` reference; a value under the key `file`; the file name at `key` beside `cert`; truth values and
//!   null. Nothing that came from the environment is ever shown.

use super::env::sole_reference;
use super::{Key, Kind, Node, Scalar, Style, scalar};

pub(crate) const REDACTED: &str = "[redacted]";

/// How much of a value is hidden, by the keys above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Veil {
    Nothing,
    /// Literals and lists of them.
    Literals,
    /// Those, and the values of a map.
    Plural,
    /// Everything below.
    All,
}

impl Veil {
    /// Over the value of `key`, in a map that is itself under this veil.
    pub(crate) fn over(self, key: &str, map: &[(Key, Node)]) -> Veil {
        if key == "file" {
            return Veil::Nothing;
        }
        if matches!(self, Veil::All | Veil::Plural) {
            return Veil::All;
        }
        if key == "key" && map.iter().any(|(key, _)| key.text == "cert" || key.text == "certificate") {
            return Veil::Nothing;
        }
        by_name(key)
    }

    /// Over the items of a list that is itself under this veil.
    pub(crate) fn over_items(self) -> Veil {
        if self == Veil::Plural { Veil::Literals } else { self }
    }
}

/// Whether a key of this name hides anything.
pub(crate) fn name_veils(key: &str) -> bool {
    by_name(key) != Veil::Nothing
}

fn by_name(key: &str) -> Veil {
    const STRONG: [&str; 3] = ["password", "passphrase", "secret"];
    const WEAK: [&str; 6] = ["key", "token", "hash", "credential", "authorization", "passwd"];
    let lower = key.to_ascii_lowercase();
    let single = lower.strip_suffix("es").filter(|word| word.ends_with("hash")).or_else(|| lower.strip_suffix('s'));
    let ends = |words: &[&str], key: &str| words.iter().any(|word| key.ends_with(word));
    if ends(&STRONG, &lower) || single.is_some_and(|single| ends(&STRONG, single)) {
        Veil::All
    } else if ends(&WEAK, &lower) {
        Veil::Literals
    } else if single.is_some_and(|single| ends(&WEAK, single)) {
        Veil::Plural
    } else {
        Veil::Nothing
    }
}

/// Whether this scalar, under this veil, is not to be shown.
pub(crate) fn is_hidden(written: &str, style: Style, veil: Veil) -> bool {
    if sole_reference(written).is_some() {
        return false;
    }
    if veil == Veil::Nothing || (style == Style::Plain && scalar::truth(written).is_some()) {
        return gives_itself_away(written);
    }
    true
}

/// Literals that are secret whatever their key.
pub(crate) fn gives_itself_away(text: &str) -> bool {
    const BEGINNINGS: [&str; 8] = ["$argon2", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$scrypt$", "$pbkdf2"];
    let text = text.trim_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    BEGINNINGS.iter().any(|start| text.starts_with(start))
        || begins("bearer ")
        || begins("basic ")
        || text.contains("PRIVATE KEY-----")
        || text.split("://").skip(1).any(|rest| {
            let authority = rest.split(['/', '?', '#', ' ', '"', '\'']).next().unwrap_or_default();
            authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':') && !user.ends_with('}'))
        })
}

/// The document as JSON, as it was written: references instead of the environment's values, and [`REDACTED`] for what the rule above
/// hides.
pub fn redacted_json(node: &Node) -> serde_json::Value {
    json(node, Veil::Nothing)
}

fn json(node: &Node, veil: Veil) -> serde_json::Value {
    use serde_json::Value;
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Broken(written) if is_hidden(written, Style::Quoted, veil) => Value::from(REDACTED),
        Kind::Broken(written) => Value::from(written.as_str()),
        Kind::Scalar(found) if is_hidden(found.shown(), found.style, veil) => Value::from(REDACTED),
        Kind::Scalar(found) => literal(found),
        Kind::Seq(items) => items.iter().map(|item| json(item, veil.over_items())).collect(),
        Kind::Map(entries) => {
            let value = |(key, node): &(Key, Node)| (key.text.clone(), json(node, veil.over(&key.text, entries)));
            Value::Object(entries.iter().map(value).collect())
        }
    }
}

fn literal(found: &Scalar) -> serde_json::Value {
    let number = || scalar::unsigned(&found.text).map(Into::into).or_else(|| scalar::signed(&found.text).map(Into::into));
    let plain = found.style == Style::Plain && found.written.is_none();
    plain
        .then(|| {
            scalar::truth(&found.text).map(Into::into).or_else(number).or_else(|| scalar::float(&found.text).map(Into::into))
        })
        .flatten()
        .unwrap_or_else(|| found.shown().into())
}
