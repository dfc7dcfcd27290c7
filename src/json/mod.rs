//! JSON as a text that is worked on: what is not touched stays as it was written, to the digit and the escape, and members keep their order.
//!
//! - [`pointer`]: where in a document (RFC 6901), with `*` for every element and `**` for any depth.
//! - [`program`]: many pointers at once: what is kept and what is dropped, asked member by member.
//! - [`filter`]: a document as it comes, in pieces of any size, without what is to be dropped. Its memory is bounded by the depth.
//! - [`tree`]: a whole document that can be edited.
//! - [`exact`]: a whole document as values, for who takes some out of it.
//! - [`lex`]: the grammar's small parts.
//!
//! The readers are strict (RFC 8259): UTF-8 without a byte order mark, one value, at most [`DEEPEST`] levels. Written here and not taken from a
//! library: those that read in pieces give events and lose the spelling of numbers and texts, and serde_json's values lose digits.

pub mod exact;
pub mod filter;
mod letter;
pub mod lex;
pub mod pointer;
pub mod program;
pub mod tree;

pub use exact::{Exact, Members};
pub use filter::Filter;
pub use pointer::{Pointer, Token};
pub use program::{Mode, Program};
pub use tree::Tree;

/// How deep arrays and objects may be nested.
pub const DEEPEST: usize = 128;

/// The longest name of a member that a filter looks at, in bytes as it is written.
pub const LONGEST_NAME: usize = 64 * 1024;

/// Why a text is not worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NotUtf8,
    /// Another byte than the grammar wants.
    Syntax,
    /// It ends before its value does.
    Truncated,
    TooDeep,
    NameTooLong,
    /// An object has a name twice: two readers take two different values for it.
    DuplicateName,
    /// It has become larger than it may.
    TooLarge,
    /// Something is to be put into what is no object and no array.
    NoContainer,
    /// Something that is needed is not there.
    Absent,
    /// It is to become what has no words for it.
    Unsayable,
}

impl Fault {
    /// Whether the text itself is at fault, and not what was to be made of it.
    pub fn is_of_text(self) -> bool {
        !matches!(self, Fault::TooLarge | Fault::NoContainer | Fault::Absent | Fault::Unsayable)
    }

    /// For logs.
    pub fn word(self) -> &'static str {
        match self {
            Fault::NotUtf8 => "not_utf8",
            Fault::Syntax => "syntax",
            Fault::Truncated => "truncated",
            Fault::TooDeep => "too_deep",
            Fault::NameTooLong => "name_too_long",
            Fault::DuplicateName => "duplicate_name",
            Fault::TooLarge => "too_large",
            Fault::NoContainer => "no_container",
            Fault::Absent => "absent",
            Fault::Unsayable => "unsayable",
        }
    }
}

#[cfg(test)]
mod tests;
