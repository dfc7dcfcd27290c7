//! GraphQL by a schema: what a document is ([`ast`]), what there is to ask for ([`schema`]), whether a document asks for that
//! ([`validate`]), what values become ([`coerce`]), and what the schema says of itself ([`introspect`]).
//!
//! After the specification of September 2025. Knows no HTTP and no services: who makes calls for fields is `forward::compose::graphql`.
//! Deliberately not here: subscriptions, and type extensions in schemas.

pub mod ast;
pub mod coerce;
pub mod introspect;
pub mod merge;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod validate;

use std::collections::BTreeMap;

pub use ast::Document;
pub use schema::Schema;

/// What is wrong with a document, and where in it: offsets in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub at: Vec<u32>,
}

impl Wrong {
    pub fn new(message: impl Into<String>, at: u32) -> Wrong {
        Wrong { message: message.into(), at: vec![at] }
    }
}

/// The lines and the columns of offsets, each from 1, as tools count them. The text is gone through once, however many there are.
pub fn locations(text: &str, offsets: impl IntoIterator<Item = u32>) -> BTreeMap<u32, (usize, usize)> {
    let mut places: BTreeMap<u32, (usize, usize)> = offsets.into_iter().map(|at| (at, (1, 1))).collect();
    let (mut line, mut column, mut letters) = (1, 1, text.char_indices().peekable());
    for (at, place) in &mut places {
        while let Some((_, letter)) = letters.next_if(|(here, _)| *here < *at as usize) {
            (line, column) = if letter == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        *place = (line, column);
    }
    places
}

/// The same of one.
pub fn location(text: &str, at: u32) -> (usize, usize) {
    locations(text, [at]).get(&at).copied().unwrap_or((1, 1))
}
