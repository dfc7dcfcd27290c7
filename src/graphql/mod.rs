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

/// The line and the column of an offset, each from 1, as tools count them.
pub fn location(text: &str, at: u32) -> (usize, usize) {
    let before = text.get(..at as usize).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
