//! An answer that is being made: its values, which of them can be null, and what is wrong with them.

use std::io::{Result, Write};

use serde_json::{Value, json};

use super::place;
use crate::graphql::locations;
use crate::json::Exact;

/// What stands there.
pub enum What {
    Null,
    Leaf(Exact),
    List(Vec<u32>),
    Object(Vec<u32>),
}

/// Where it stands in what it is part of.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    Root,
    Name(&'a str),
    At(u32),
}

struct Node<'a> {
    parent: u32,
    key: Key<'a>,
    nullable: bool,
    /// It has become null because of something in it: whatever is in it is nobody's any more.
    gone: bool,
    what: What,
}

struct Error {
    message: String,
    at: u32,
    node: u32,
    code: &'static str,
}

/// An answer. The first node is the whole.
pub struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    errors: Vec<Error>,
}

/// What a node takes of memory.
pub const NODE: usize = std::mem::size_of::<Node<'_>>() + std::mem::size_of::<u32>();
/// The most errors that are told.
const MOST_ERRORS: usize = 1000;

impl<'a> Tree<'a> {
    pub fn new() -> Self {
        let root = Node { parent: 0, key: Key::Root, nullable: true, gone: false, what: What::Null };
        Tree { nodes: vec![root], errors: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds to a list or an object.
    pub fn add(&mut self, parent: u32, key: Key<'a>, nullable: bool) -> u32 {
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node { parent, key, nullable, gone: false, what: What::Null });
        if let Some(Node { what: What::List(within) | What::Object(within), .. }) = self.nodes.get_mut(parent as usize) {
            within.push(number);
        }
        number
    }

    pub fn set(&mut self, node: u32, what: What) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.what = what;
        }
    }

    /// Says what is wrong with a value, which is null then, or whatever around it can be (section 6.4.4).
    pub fn fail(&mut self, node: u32, at: u32, code: &'static str, message: String) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(Error { message, at, node, code });
        }
        let mut number = node;
        while let Some(node) = self.nodes.get_mut(number as usize) {
            (node.what, node.gone) = (What::Null, true);
            if node.nullable || number == 0 {
                break;
            }
            number = node.parent;
        }
    }

    /// Whether anybody will see it.
    pub fn is_live(&self, node: u32) -> bool {
        let mut number = node;
        while let Some(node) = self.nodes.get(number as usize) {
            if node.gone {
                return false;
            }
            if number == 0 {
                return true;
            }
            number = node.parent;
        }
        false
    }

    fn path(&self, node: u32) -> Value {
        let mut path: Vec<Value> = Vec::new();
        let mut number = node;
        while let Some(node) = self.nodes.get(number as usize) {
            match node.key {
                Key::Root => break,
                Key::Name(name) => path.push(name.into()),
                Key::At(at) => path.push(at.into()),
            }
            number = node.parent;
        }
        path.reverse();
        path.into()
    }

    /// Writes the whole, and the errors before it. `text`: the document.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn write(&self, text: &str, out: &mut impl Write) -> Result<()> {
        out.write_all(b"{")?;
        if !self.errors.is_empty() {
            let places = locations(text, self.errors.iter().map(|error| error.at));
            let told = |error: &Error| {
                let (path, code) = (self.path(error.node), error.code);
                json!({ "message": error.message, "locations": [place(&places, error.at)], "path": path, "extensions": { "code": code } })
            };
            let errors: Vec<Value> = self.errors.iter().map(told).collect();
            write!(out, "\"errors\":{},", Value::from(errors))?;
        }
        out.write_all(b"\"data\":")?;
        self.node(0, out)?;
        out.write_all(b"}")
    }

    fn node(&self, number: u32, out: &mut impl Write) -> Result<()> {
        match self.nodes.get(number as usize).map(|node| &node.what) {
            None | Some(What::Null) => out.write_all(b"null")?,
            Some(What::Leaf(value)) => value.write(out)?,
            Some(What::List(within)) => {
                out.write_all(b"[")?;
                for (at, number) in within.iter().enumerate() {
                    if at > 0 {
                        out.write_all(b",")?;
                    }
                    self.node(*number, out)?;
                }
                out.write_all(b"]")?;
            }
            Some(What::Object(within)) => {
                out.write_all(b"{")?;
                for (at, number) in within.iter().enumerate() {
                    if at > 0 {
                        out.write_all(b",")?;
                    }
                    if let Some(Key::Name(name)) = self.nodes.get(*number as usize).map(|node| node.key) {
                        serde_json::to_writer(&mut *out, name)?;
                        out.write_all(b":")?;
                    }
                    self.node(*number, out)?;
                }
                out.write_all(b"}")?;
            }
        }
        Ok(())
    }
}
