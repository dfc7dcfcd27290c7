//! A configuration file as a tree of nodes, each with its place, and what turns one into configuration types.
//!
//! [`parse`] reads YAML and the environment, [`decode`] fills `Deserialize` types and collects every problem on the way, and
//! [`redacted_json`] shows the document without its secrets. What the keys mean is not in here: that is the rooms' business.

mod access;
mod de;
mod env;
mod fault;
mod find;
mod parse;
pub(crate) mod redact;
mod scalar;
mod syntax;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

pub use self::de::decode;
pub use self::parse::parse;
pub use self::redact::redacted_json;
pub use self::syntax::text_lines;
use crate::problem::Place;

/// The names by which the types in [`crate::value`] ask the deserializer for more than serde's data model carries.
pub(crate) mod magic {
    pub const SPANNED: &str = "$portcullis::Spanned";
    pub const SECRET: &str = "$portcullis::Secret";
    pub const ONE_OR_MANY: &str = "$portcullis::OneOrMany";
    pub const RAW: &str = "$portcullis::Raw";
}

/// A value in a configuration file.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// `null`, `~` or nothing at all.
    Null,
    Scalar(Scalar),
    Seq(Vec<Node>),
    /// In the order of the file; no key stands twice.
    Map(Vec<(Key, Node)>),
    /// A scalar, as written, that [`parse`] has refused already. Decoding treats it as absent and does not complain again.
    Broken(String),
}

/// A scalar that is not null.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// With the environment's values in it.
    pub text: String,
    pub style: Style,
    /// Before the environment was looked at, if that changed anything. This, not `text`, is what may be shown to people.
    pub written: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// May be a number or a truth value.
    Plain,
    /// Quoted, or a block: always a string.
    Quoted,
}

/// A key in a map, as written: the environment does not reach keys.
#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

/// What is said of a secret's literal; its line is not printed, whatever its key.
pub(crate) const NO_LITERAL: &str = "a secret must not be written in the configuration";
pub(crate) const INSTEAD_OF_LITERAL: &str = "name an environment variable as \"${NAME}\", or a file as { file: path }";

/// Keys under which an empty list means what it says: nobody, nothing, none. Under every other it is refused, for it could be meant as
/// "all" as well: `rules: []` would let everybody pass, `algorithms: []` take every algorithm. Those here that have two meanings
/// (`scopes` of a consumer, and as a condition) are looked at where they are compiled.
fn may_be_empty(key: &str) -> bool {
    const MAY_BE_EMPTY: [&str; 19] = [
        "api_keys",
        "client_headers",
        "consumers",
        "deny_headers",
        "deny_statuses",
        "endpoints",
        "groups",
        "ignore",
        "key_headers",
        "listeners",
        "passwords",
        "remove",
        "request_headers",
        "routes",
        "scopes",
        "signing_keys",
        "subjects",
        "trusted_proxies",
        "upstream_headers",
    ];
    MAY_BE_EMPTY.binary_search(&key).is_ok()
}

thread_local! {
    /// The node on its way from the deserializer to `Raw`'s visitor.
    static RAW: RefCell<Option<Arc<Node>>> = const { RefCell::new(None) };
}

pub(crate) fn put_raw(node: Arc<Node>) {
    RAW.with(|slot| slot.replace(Some(node)));
}

pub(crate) fn take_raw() -> Option<Arc<Node>> {
    RAW.with(|slot| slot.take())
}
