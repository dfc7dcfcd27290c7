//! What may be shown of a configuration, and what is secret.
//!
//! The tree does not know the types it is decoded into, so the rule goes by the keys' last words and errs towards hiding:
//!
//! - Under a key that ends in `password`, `passphrase` or `secret` (or their plurals) every literal is hidden.
//! - Under one that ends in `key`, `token`, `hash`, `credential` or `authorization`, a literal or a list of literals is hidden; a map
//!   below is judged by its own keys. Under their plurals, a map's values are hidden too (`api_keys: { acme: ... }`).
//! - Under `set`, `add`, `append`, `headers` and `query`, a map's keys are names that people choose, for fields and parameters that may
//!   carry anything: a value is hidden unless its field is known to be harmless ([`is_harmless_field`]), or it is nothing but
//!   placeholders.
//! - Wherever it stands, a literal is hidden that holds a private key, a password's hash, an `Authorization` value, a URL with a user in
//!   it, or a query with a parameter of a secret's name. Of a URL or a path with a query, the query is hidden; of an expression over header
//!   fields or parameters, what they are compared with.
//! - Shown: what is a whole `${NAME}` reference; a value under the key `file`; the file name at `key` beside `cert`; truth values and
//!   null. Nothing that came from the environment is ever shown.

use super::env::sole_reference;
use super::{Key, Kind, Node, Scalar, Style, scalar};

pub(crate) const REDACTED: &str = "[redacted]";

/// How much of a value is hidden, by the keys above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Veil {
    Nothing,
    /// The values of a map whose keys are the names of fields or parameters.
    Fields,
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
        if self == Veil::Fields {
            return if is_harmless_field(key) { Veil::Nothing } else { Veil::All };
        }
        if key == "file" {
            return Veil::Nothing;
        }
        if matches!(self, Veil::All | Veil::Plural) {
            return Veil::All;
        }
        if key == "key" && map.iter().any(|(key, _)| key.text == "cert" || key.text == "certificate") {
            return Veil::Nothing;
        }
        if matches!(key, "set" | "add" | "append" | "default" | "headers" | "query") { Veil::Fields } else { by_name(key) }
    }

    /// Over the items of a list that is itself under this veil.
    pub(crate) fn over_items(self) -> Veil {
        match self {
            Veil::Plural => Veil::Literals,
            Veil::Fields => Veil::Nothing,
            other => other,
        }
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
    if matches!(veil, Veil::Nothing | Veil::Fields) || (style == Style::Plain && scalar::truth(written).is_some()) {
        return gives_itself_away(written);
    }
    !is_all_placeholders(written)
}

/// `{consumer}`, `{param.a}/{param.b}`: the words of templates, and nothing of one's own.
fn is_all_placeholders(written: &str) -> bool {
    let mut rest = written;
    let mut found = false;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((word, behind)) = after.split_once('}') else { return false };
        if !is_placeholder(word) || before.ends_with('$') || before.contains(char::is_alphanumeric) {
            return false;
        }
        (rest, found) = (behind, true);
    }
    found && !rest.contains(char::is_alphanumeric)
}

/// The words of [`crate::policy::shape`]'s templates.
fn is_placeholder(word: &str) -> bool {
    matches!(word, "request_id" | "client_address" | "consumer" | "subject" | "host") || word.starts_with("param.")
}

/// Fields whose values are no secrets: they are told to every client, or say only what is asked for.
pub(crate) fn is_harmless_field(name: &str) -> bool {
    const HARMLESS: [&str; 46] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "alt-svc",
        "api-version",
        "cache-control",
        "cdn-cache-control",
        "clear-site-data",
        "connection",
        "date",
        "deprecation",
        "dnt",
        "expect-ct",
        "expires",
        "feature-policy",
        "host",
        "nel",
        "origin",
        "origin-agent-cluster",
        "permissions-policy",
        "pragma",
        "range",
        "referrer-policy",
        "report-to",
        "reporting-endpoints",
        "retry-after",
        "save-data",
        "server",
        "sourcemap",
        "strict-transport-security",
        "sunset",
        "timing-allow-origin",
        "upgrade-insecure-requests",
        "user-agent",
        "vary",
        "via",
        "x-content-type-options",
        "x-download-options",
        "x-frame-options",
        "x-permitted-cross-domain-policies",
        "x-powered-by",
        "x-robots-tag",
        "x-xss-protection",
    ];
    const FAMILIES: [&str; 5] = ["access-control-", "content-", "cross-origin-", "x-forwarded-", "sec-ch-ua"];
    let lower = name.to_ascii_lowercase();
    HARMLESS.binary_search(&lower.as_str()).is_ok() || FAMILIES.iter().any(|family| lower.starts_with(family))
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
            authority.rsplit_once('@').is_some_and(|(user, _)| !is_all_references(user))
        })
        || text.split_once('?').is_some_and(|(_, query)| query.split(['&', '?']).any(is_secret_parameter))
}

/// `${USER}:${PASSWORD}`.
fn is_all_references(user: &str) -> bool {
    user.split(':').all(|part| part.is_empty() || sole_reference(part).is_some())
}

/// `token=4711`; not `token=${TOKEN}`.
fn is_secret_parameter(parameter: &str) -> bool {
    let value = |text: &str| !text.is_empty() && sole_reference(text).is_none();
    parameter
        .split_once('=')
        .is_some_and(|(name, text)| name_veils(name) && value(text.trim_end_matches(['"', '\'', ' ', '}', ','])))
}

/// A URL or a path without its query, which may hold anything.
fn without_query(text: &str) -> Option<String> {
    let (before, _) = text.split_once('?').filter(|(before, _)| before.starts_with('/') || before.contains("://"))?;
    Some(format!("{before}?{REDACTED}"))
}

/// An expression over what a client sends, without the texts that it is compared with: one of them may be shared with that client alone.
/// Names of fields are shown.
fn without_literals(text: &str) -> Option<String> {
    if !["request.headers", "request.query"].iter().any(|read| text.contains(read)) {
        return None;
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['"', '\'']) {
        let (before, literal) = rest.split_at(start);
        shown.push_str(before);
        let quote = if literal.starts_with('"') { '"' } else { '\'' };
        let raw = before.ends_with(['r', 'R']);
        let mut escaped = false;
        let end = literal.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped && !raw;
            ends
        });
        let (literal, behind) = literal.split_at_checked(end?.0 + 1)?;
        let names_a_field = before.trim_end().ends_with('[') || behind.trim_start().starts_with("in ");
        match names_a_field || literal.len() <= 2 {
            true => shown.push_str(literal),
            false => shown.extend([quote.to_string().as_str(), REDACTED, quote.to_string().as_str()]),
        }
        rest = behind;
    }
    shown.push_str(rest);
    Some(shown)
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
        Kind::Broken(written) => Value::from(shown_part(written)),
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
        .unwrap_or_else(|| shown_part(found.shown()).into())
}

/// What may be shown of a text that is not hidden as a whole.
fn shown_part(text: &str) -> String {
    without_literals(text).or_else(|| without_query(text)).unwrap_or_else(|| text.to_owned())
}
