//! A whole document that can be edited: every value is a place in its text, so that what is not edited is written as it came.
//!
//! Values know their neighbours, so that an edit costs what it changes; what is written of an object or array in which nothing was changed is
//! one copy. No recursion but for [`Tree::keep`] and [`Tree::select`], whose depth is bounded.

use std::borrow::Cow;

use ahash::AHashSet;
use smallvec::SmallVec;

use super::lex::{self, is_space};
use super::pointer::{Token, index};
use super::program::{Fate, Program, States};
use super::{DEEPEST, Fault};

/// Nobody.
const NONE: u32 = u32::MAX;
/// Of an object with more members, names are looked up to find one twice.
const FEW: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    /// A text, a number, `true`, `false` or `null`.
    Scalar,
}

/// A part of the text.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    /// Something in it is not as it came.
    changed: bool,
    /// The member's name with its quotes; empty of an element.
    name: Span,
    text: Span,
    parent: u32,
    before: u32,
    after: u32,
    first: u32,
    last: u32,
}

/// A value of a tree. Numbers of one tree mean nothing in another.
pub type Id = u32;

/// A place for a value, whichever stands there.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    within: Id,
    behind: Id,
}

impl Spot {
    /// That of the whole document.
    pub const ROOT: Spot = Spot { within: NONE, behind: NONE };

    /// That of an array's first element.
    pub fn first(array: Id) -> Spot {
        Spot { within: array, behind: NONE }
    }

    /// The one behind the element that stands here.
    #[must_use]
    pub fn next(self, element: Id) -> Spot {
        Spot { behind: element, ..self }
    }
}

/// See the module.
pub struct Tree {
    /// The document, and behind it what was added.
    text: Vec<u8>,
    nodes: Vec<Node>,
    root: u32,
    /// How much may be added.
    room: usize,
}

fn span(start: usize, end: usize) -> Span {
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Span { start: number(start), end: number(end) }
}

impl Tree {
    /// Reads a document. `room` bounds what edits may add to it, in bytes.
    ///
    /// # Errors
    /// It is no JSON, or an object has a name twice.
    pub fn parse(document: &[u8], room: usize) -> Result<Tree, Fault> {
        if let Err(error) = std::str::from_utf8(document) {
            return Err(if error.error_len().is_none() { Fault::Truncated } else { Fault::NotUtf8 });
        }
        if document.len().saturating_add(room) >= u32::MAX as usize {
            return Err(Fault::TooLarge);
        }
        let nodes = Vec::with_capacity(document.len() / 12 + 4);
        let mut tree = Tree { text: document.to_vec(), nodes, root: NONE, room };
        tree.root = tree.read(0)?;
        Ok(tree)
    }

    pub fn root(&self) -> Id {
        self.root
    }

    /// Reads the one value that the text holds from `from` to its end.
    fn read(&mut self, from: usize) -> Result<Id, Fault> {
        #[derive(PartialEq)]
        enum Expect {
            Value,
            ValueOrEnd,
            Name,
            NameOrEnd,
            Next,
        }
        let Tree { text, nodes, .. } = self;
        let first = nodes.len();
        let mut open: SmallVec<[(u32, u32); 16]> = SmallVec::new();
        let mut expect = Expect::Value;
        let mut name = Span::default();
        let mut at = from;
        loop {
            while text.get(at).copied().is_some_and(is_space) {
                at += 1;
            }
            let Some(&byte) = text.get(at) else { return Err(Fault::Truncated) };
            let kind = open.last().and_then(|(number, _)| nodes.get(*number as usize)).map(|node| node.kind);
            let closes = match byte {
                b'}' => kind == Some(Kind::Object) && matches!(expect, Expect::NameOrEnd | Expect::Next),
                b']' => kind == Some(Kind::Array) && matches!(expect, Expect::ValueOrEnd | Expect::Next),
                _ => false,
            };
            if closes {
                at += 1;
                let Some((number, count)) = open.pop() else { return Err(Fault::Syntax) };
                if let Some(node) = nodes.get_mut(number as usize) {
                    node.text.end = span(at, at).end;
                }
                if byte == b'}' && !unique(text, nodes, number, count as usize) {
                    return Err(Fault::DuplicateName);
                }
                if open.is_empty() {
                    break;
                }
                expect = Expect::Next;
                continue;
            }
            match expect {
                Expect::Next if byte == b',' => {
                    at += 1;
                    expect = if kind == Some(Kind::Object) { Expect::Name } else { Expect::Value };
                }
                Expect::Name | Expect::NameOrEnd if byte == b'"' => {
                    let end = lex::string(text, at)?;
                    name = span(at, end);
                    at = end;
                    while text.get(at).copied().is_some_and(is_space) {
                        at += 1;
                    }
                    match text.get(at) {
                        Some(b':') => at += 1,
                        Some(_) => return Err(Fault::Syntax),
                        None => return Err(Fault::Truncated),
                    }
                    expect = Expect::Value;
                }
                Expect::Value | Expect::ValueOrEnd => {
                    let (kind, end) = match byte {
                        b'{' => (Kind::Object, at + 1),
                        b'[' => (Kind::Array, at + 1),
                        b'"' => (Kind::Scalar, lex::string(text, at)?),
                        _ => match lex::word(byte) {
                            Some(word) => {
                                let rest = text.get(at..).unwrap_or_default();
                                if !rest.starts_with(word) {
                                    return Err(if word.starts_with(rest) { Fault::Truncated } else { Fault::Syntax });
                                }
                                (Kind::Scalar, at + word.len())
                            }
                            None => (Kind::Scalar, lex::number(text, at)?),
                        },
                    };
                    let number = u32::try_from(nodes.len()).map_err(|_| Fault::TooLarge)?;
                    let mut node = Node::new(kind, span(at, end));
                    node.name = std::mem::take(&mut name);
                    if let Some((parent, count)) = open.last_mut() {
                        *count += 1;
                        node.parent = *parent;
                        link(nodes, *parent, number, &mut node);
                    }
                    nodes.push(node);
                    at = end;
                    expect = match kind {
                        Kind::Scalar if open.is_empty() => break,
                        Kind::Scalar => Expect::Next,
                        _ if open.len() >= DEEPEST => return Err(Fault::TooDeep),
                        _ => {
                            open.push((number, 0));
                            if kind == Kind::Object { Expect::NameOrEnd } else { Expect::ValueOrEnd }
                        }
                    };
                }
                _ => return Err(Fault::Syntax),
            }
        }
        if text.get(at..).unwrap_or_default().iter().any(|byte| !is_space(*byte)) {
            return Err(Fault::Syntax);
        }
        u32::try_from(first).map_err(|_| Fault::TooLarge)
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn span(&self, span: Span) -> &[u8] {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    pub fn kind(&self, id: Id) -> Kind {
        self.node(id).map_or(Kind::Scalar, |node| node.kind)
    }

    /// A text, number or word as it is written.
    pub fn scalar(&self, id: Id) -> Option<&[u8]> {
        let node = self.node(id).filter(|node| node.kind == Kind::Scalar)?;
        Some(self.span(node.text))
    }

    /// A member's name with its quotes; empty of others.
    pub fn name(&self, id: Id) -> &[u8] {
        self.node(id).map_or(&[], |node| self.span(node.name))
    }

    /// What is in an object or array, in its order.
    pub fn children(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let mut next = self.node(id).map_or(NONE, |node| node.first);
        std::iter::from_fn(move || {
            let node = self.node(next)?;
            Some(std::mem::replace(&mut next, node.after))
        })
    }

    /// The member of that name.
    pub fn member(&self, object: Id, name: &str) -> Option<Id> {
        if self.kind(object) != Kind::Object {
            return None;
        }
        self.children(object).find(|child| self.node(*child).is_some_and(|node| is_name(self.span(node.name), name)))
    }

    fn element(&self, array: Id, number: u64) -> Option<Id> {
        self.children(array).nth(usize::try_from(number).ok()?)
    }

    /// What a level of a pointer leads to.
    pub fn child(&self, id: Id, name: &str) -> Option<Id> {
        match self.kind(id) {
            Kind::Object => self.member(id, name),
            Kind::Array => self.element(id, index(name)?),
            Kind::Scalar => None,
        }
    }

    /// Every value that the pointer leads to from `base`, in the document's order, each once.
    pub fn select(&self, base: Id, tokens: &[Token]) -> Vec<Id> {
        let mut found = Vec::new();
        self.find(base, tokens, &mut found);
        found
    }

    fn find(&self, at: Id, tokens: &[Token], found: &mut Vec<Id>) {
        match tokens.split_first() {
            None => found.push(at),
            Some((Token::Name(name), rest)) => {
                if let Some(child) = self.child(at, name) {
                    self.find(child, rest, found);
                }
            }
            Some((Token::Each, rest)) => self.children(at).for_each(|child| self.find(child, rest, found)),
            Some((Token::Deep, rest)) => {
                self.find(at, rest, found);
                self.children(at).for_each(|child| self.find(child, tokens, found));
            }
        }
    }

    /// What stands there now.
    pub fn at(&self, spot: Spot) -> Option<Id> {
        let found = match (self.node(spot.within), self.node(spot.behind)) {
            (None, _) => self.root,
            (Some(node), None) => node.first,
            (Some(_), Some(node)) => node.after,
        };
        (found != NONE).then_some(found)
    }

    // Edits.

    /// Marks what is around a value as changed.
    fn touch(&mut self, mut id: Id) {
        while let Some(node) = self.nodes.get_mut(id as usize).filter(|node| !node.changed) {
            node.changed = true;
            id = node.parent;
        }
    }

    fn add(&mut self, text: &[u8]) -> Result<Span, Fault> {
        self.room = self.room.checked_sub(text.len()).ok_or(Fault::TooLarge)?;
        let start = self.text.len();
        self.text.extend_from_slice(text);
        Ok(span(start, self.text.len()))
    }

    /// A value of its own, which stands nowhere yet.
    ///
    /// # Errors
    /// There is no room for it, or it is no JSON.
    pub fn make(&mut self, json: &[u8]) -> Result<Id, Fault> {
        let added = self.add(json)?;
        self.read(added.start as usize)
    }

    fn make_empty(&mut self, kind: Kind) -> Id {
        let id = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        let mut node = Node::new(kind, Span::default());
        node.changed = true;
        self.nodes.push(node);
        id
    }

    /// Takes a value out of what it is in.
    pub fn detach(&mut self, id: Id) {
        let Some(node) = self.nodes.get_mut(id as usize) else { return };
        let (parent, before, after) = (node.parent, node.before, node.after);
        (node.parent, node.before, node.after) = (NONE, NONE, NONE);
        if let Some(node) = self.nodes.get_mut(before as usize) {
            node.after = after;
        }
        if let Some(node) = self.nodes.get_mut(after as usize) {
            node.before = before;
        }
        if let Some(node) = self.nodes.get_mut(parent as usize) {
            if node.first == id {
                node.first = after;
            }
            if node.last == id {
                node.last = before;
            }
        }
        self.touch(parent);
    }

    /// Puts `other`, which stands nowhere, in the place of a value, under its name.
    pub fn replace(&mut self, id: Id, other: Id) {
        let Some(node) = self.nodes.get_mut(id as usize) else { return };
        let (name, parent, before, after) = (node.name, node.parent, node.before, node.after);
        (node.parent, node.before, node.after) = (NONE, NONE, NONE);
        if let Some(node) = self.nodes.get_mut(other as usize) {
            (node.name, node.parent, node.before, node.after) = (name, parent, before, after);
        }
        if let Some(node) = self.nodes.get_mut(before as usize) {
            node.after = other;
        }
        if let Some(node) = self.nodes.get_mut(after as usize) {
            node.before = other;
        }
        match self.nodes.get_mut(parent as usize) {
            Some(node) => {
                if node.first == id {
                    node.first = other;
                }
                if node.last == id {
                    node.last = other;
                }
            }
            None if self.root == id => self.root = other,
            None => {}
        }
        self.touch(parent);
    }

    /// Appends `child`, which stands nowhere, to an object or array.
    fn append(&mut self, parent: Id, child: Id, name: Span) {
        let last = self.node(parent).map_or(NONE, |node| node.last);
        if let Some(node) = self.nodes.get_mut(child as usize) {
            (node.parent, node.name, node.before, node.after) = (parent, name, last, NONE);
        }
        if let Some(node) = self.nodes.get_mut(last as usize) {
            node.after = child;
        }
        if let Some(node) = self.nodes.get_mut(parent as usize) {
            node.last = child;
            if node.first == NONE {
                node.first = child;
            }
        }
        self.touch(parent);
    }

    /// Gives a member another name, where it is one. A member that had it goes.
    ///
    /// # Errors
    /// There is no room.
    pub fn rename(&mut self, id: Id, name: &str) -> Result<(), Fault> {
        let Some(parent) = self.node(id).map(|node| node.parent).filter(|parent| *parent != NONE) else { return Ok(()) };
        if self.kind(parent) != Kind::Object {
            return Ok(());
        }
        match self.member(parent, name) {
            Some(other) if other == id => return Ok(()),
            Some(other) => self.detach(other),
            None => {}
        }
        let name = self.add(&lex::quoted(name))?;
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.name = name;
        }
        self.touch(parent);
        Ok(())
    }

    /// Puts a value, which stands nowhere, where one pointer leads from `base`, in place of what is there. Objects on the way are made, also in
    /// place of `null`; `-` is the place behind an array's last element.
    ///
    /// # Errors
    /// What is on the way is no object and no array, or has no such place.
    pub fn put(&mut self, base: Id, tokens: &[Token], value: Id) -> Result<(), Fault> {
        let Some((last, way)) = tokens.split_last() else {
            self.replace(base, value);
            return Ok(());
        };
        let mut at = base;
        for token in way {
            at = self.container(at)?;
            let Token::Name(name) = token else { return Err(Fault::NoContainer) };
            at = match self.child(at, name) {
                Some(child) => child,
                None => {
                    let made = self.make_empty(Kind::Object);
                    self.place(at, name, made)?;
                    made
                }
            };
        }
        let at = self.container(at)?;
        let Token::Name(name) = last else { return Err(Fault::NoContainer) };
        match self.child(at, name) {
            Some(child) => {
                self.replace(child, value);
                Ok(())
            }
            None => self.place(at, name, value),
        }
    }

    /// The object or array that is there, or an object in place of `null`.
    fn container(&mut self, id: Id) -> Result<Id, Fault> {
        match self.scalar(id) {
            None => Ok(id),
            Some(b"null") => {
                let made = self.make_empty(Kind::Object);
                self.replace(id, made);
                Ok(made)
            }
            Some(_) => Err(Fault::NoContainer),
        }
    }

    /// Appends a value under a name that is not there.
    fn place(&mut self, parent: Id, name: &str, value: Id) -> Result<(), Fault> {
        let name = match self.kind(parent) {
            Kind::Object => self.add(&lex::quoted(name))?,
            Kind::Array => {
                let count = || self.children(parent).count() as u64;
                if name != "-" && index(name).is_none_or(|number| number != count()) {
                    return Err(Fault::NoContainer);
                }
                Span::default()
            }
            Kind::Scalar => return Err(Fault::NoContainer),
        };
        self.append(parent, value, name);
        Ok(())
    }

    /// Puts a value into an object, as its only member.
    ///
    /// # Errors
    /// There is no room.
    pub fn wrap(&mut self, id: Id, name: &str) -> Result<(), Fault> {
        let made = self.make_empty(Kind::Object);
        let name = self.add(&lex::quoted(name))?;
        self.replace(id, made);
        self.append(made, id, name);
        Ok(())
    }

    /// Puts a value into an array, as its only element.
    pub fn list(&mut self, id: Id) {
        let made = self.make_empty(Kind::Array);
        self.replace(id, made);
        self.append(made, id, Span::default());
    }

    /// Writes other text in place of a scalar. `within` is a part of its own text: without copying it.
    ///
    /// # Errors
    /// There is no room.
    pub fn rewrite(&mut self, id: Id, with: Rewrite<'_>) -> Result<(), Fault> {
        let text = match with {
            Rewrite::Unquoted => self.node(id).map(|node| Span { start: node.text.start + 1, end: node.text.end - 1 }),
            Rewrite::To(text) => Some(self.add(text)?),
        };
        let parent = match (self.nodes.get_mut(id as usize), text) {
            (Some(node), Some(text)) => {
                node.text = text;
                node.parent
            }
            _ => NONE,
        };
        self.touch(parent);
        Ok(())
    }

    /// Keeps of a value what the pointers name, or drops it, as the program says. `false` if nothing at all is to be left.
    pub fn keep(&mut self, id: Id, program: &Program) -> bool {
        match program.root(self.kind(id) != Kind::Scalar) {
            Fate::Whole => true,
            Fate::Gone => false,
            Fate::Part(states) => {
                self.keep_within(id, program, &states);
                true
            }
        }
    }

    fn keep_within(&mut self, id: Id, program: &Program, states: &States) {
        let is_object = self.kind(id) == Kind::Object;
        let mut next = self.node(id).map_or(NONE, |node| node.first);
        let mut number = 0;
        while let Some(node) = self.node(next) {
            let (child, container) = (next, node.kind != Kind::Scalar);
            next = node.after;
            let fate = match is_object {
                true => program.member(states, self.span(node.name), container),
                false => program.element(states, number, container),
            };
            number += 1;
            match fate {
                Fate::Whole => {}
                Fate::Gone => self.detach(child),
                Fate::Part(states) => self.keep_within(child, program, &states),
            }
        }
    }

    /// The document as it is now.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len());
        self.write_to(self.root, &mut out);
        out
    }

    /// One value as it is now.
    pub fn write_to(&self, top: Id, out: &mut Vec<u8>) {
        let mut at = top;
        while let Some(node) = self.node(at) {
            if at != top && !node.name.is_empty() {
                out.extend_from_slice(self.span(node.name));
                out.push(b':');
            }
            if node.kind == Kind::Scalar || !node.changed {
                out.extend_from_slice(self.span(node.text));
            } else {
                out.push(if node.kind == Kind::Object { b'{' } else { b'[' });
                if node.first != NONE {
                    at = node.first;
                    continue;
                }
                out.push(if node.kind == Kind::Object { b'}' } else { b']' });
            }
            // On to the next, or out of what ends here.
            loop {
                if at == top {
                    return;
                }
                let Some(node) = self.node(at) else { return };
                if node.after != NONE {
                    out.push(b',');
                    at = node.after;
                    break;
                }
                at = node.parent;
                out.push(if self.kind(at) == Kind::Object { b'}' } else { b']' });
            }
        }
    }
}

/// What a scalar becomes.
pub enum Rewrite<'a> {
    /// The text without its quotes.
    Unquoted,
    To(&'a [u8]),
}

impl Span {
    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl Node {
    fn new(kind: Kind, text: Span) -> Node {
        let name = Span::default();
        Node { kind, changed: false, name, text, parent: NONE, before: NONE, after: NONE, first: NONE, last: NONE }
    }
}

/// Makes a node that is about to be pushed its parent's last.
#[inline]
fn link(nodes: &mut [Node], parent: u32, number: u32, node: &mut Node) {
    let Some(above) = nodes.get_mut(parent as usize) else { return };
    node.before = std::mem::replace(&mut above.last, number);
    if above.first == NONE {
        above.first = number;
    }
    if let Some(before) = nodes.get_mut(node.before as usize) {
        before.after = number;
    }
}

/// Whether the name with its quotes is that one.
fn is_name(quoted: &[u8], name: &str) -> bool {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    match memchr::memchr(b'\\', inner) {
        None => inner == name.as_bytes(),
        Some(_) => lex::said(quoted).is_some_and(|said| said == name),
    }
}

/// Whether no two members of an object have one name.
fn unique(text: &[u8], nodes: &[Node], object: u32, count: usize) -> bool {
    if count < 2 {
        return true;
    }
    let mut names: SmallVec<[&[u8]; FEW]> = SmallVec::new();
    let mut escaped = false;
    let mut next = nodes.get(object as usize).map_or(NONE, |node| node.first);
    while let Some(node) = nodes.get(next as usize) {
        let name = text.get(node.name.start as usize..node.name.end as usize).unwrap_or_default();
        escaped |= memchr::memchr(b'\\', name).is_some();
        names.push(name);
        next = node.after;
    }
    if escaped {
        let mut known: AHashSet<Cow<'_, [u8]>> = AHashSet::with_capacity(count);
        return names.iter().all(|name| {
            known.insert(match lex::said(name) {
                Some(said) => Cow::Owned(said.into_owned().into_bytes()),
                // Half a pair of surrogates: told apart by how it is written.
                None => Cow::Borrowed(*name),
            })
        });
    }
    if count > FEW {
        let mut known: AHashSet<&[u8]> = AHashSet::with_capacity(count);
        return names.iter().all(|name| known.insert(name));
    }
    let mut rest = names.as_slice();
    while let Some((name, others)) = rest.split_first() {
        if others.contains(name) {
            return false;
        }
        rest = others;
    }
    true
}
