//! A tree of path segments that yields every matching pattern, the most specific first.
//!
//! Deliberately not a radix tree over bytes: whole segments are what patterns are made of, a hash per segment costs the same however
//! many siblings there are, and backtracking over whole segments is what gives the next candidate when a predicate fails.

use std::ops::ControlFlow;

use ahash::AHashMap;
use http::HeaderValue;
use smallvec::SmallVec;

use super::pattern::{PathPattern, Segment};

/// What there is under one pattern.
#[derive(Default)]
pub(super) struct Leaf {
    /// In the order in which they are tried.
    pub candidates: SmallVec<[u32; 2]>,
    /// The request's fields by which one of them is chosen, or none, as `Vary` lists them. Boxed, for few have any.
    pub varies: Option<Box<HeaderValue>>,
}

/// What the parameters took, from left to right.
pub(super) type Captured<'a> = SmallVec<[&'a str; 4]>;

/// Up to how many children a scan is cheaper than a hash.
const FEW: usize = 4;

enum Children {
    Few(Box<[(Box<str>, u32)]>),
    Many(Box<AHashMap<Box<str>, u32>>),
}

impl Children {
    fn get(&self, segment: &str) -> Option<u32> {
        match self {
            Children::Few(list) => list.iter().find(|(known, _)| **known == *segment).map(|(_, child)| *child),
            Children::Many(map) => map.get(segment).copied(),
        }
    }
}

struct Node {
    children: Children,
    param: Option<u32>,
    /// Patterns that end here.
    here: Leaf,
    /// Patterns that take this and all below.
    prefix: Leaf,
}

/// The frozen tree. Node 0 is the root; its depth is bounded by the patterns' length.
pub(super) struct Trie {
    nodes: Box<[Node]>,
}

impl Trie {
    /// Calls `visit` with the candidates of each pattern that `path` matches, what the parameters took, and what a prefix left over
    /// (with its slash; empty if the pattern is no prefix or took all), until `visit` breaks.
    pub(super) fn walk<'a>(
        &'a self,
        path: &'a str,
        visit: &mut impl FnMut(&'a Leaf, &Captured<'a>, &'a str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if !path.starts_with('/') {
            return ControlFlow::Continue(());
        }
        self.step(0, path, &mut Captured::new(), visit)
    }

    /// `rest` is empty, or begins with the slash before the next segment. Each level of recursion is a level of the tree, so its
    /// depth is the configuration's, never the client's.
    fn step<'a>(
        &'a self,
        node: u32,
        rest: &'a str,
        captured: &mut Captured<'a>,
        visit: &mut impl FnMut(&'a Leaf, &Captured<'a>, &'a str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(node) = self.nodes.get(node as usize) else { return ControlFlow::Continue(()) };
        match rest.strip_prefix('/') {
            None if node.here.candidates.is_empty() => {}
            None => visit(&node.here, captured, "")?,
            Some(text) => {
                let end = memchr::memchr(b'/', text.as_bytes()).unwrap_or(text.len());
                let (segment, below) = text.split_at_checked(end).unwrap_or((text, ""));
                if let Some(child) = node.children.get(segment) {
                    self.step(child, below, captured, visit)?;
                }
                if let Some(child) = node.param
                    && !segment.is_empty()
                {
                    captured.push(segment);
                    self.step(child, below, captured, visit)?;
                    captured.pop();
                }
            }
        }
        if node.prefix.candidates.is_empty() { ControlFlow::Continue(()) } else { visit(&node.prefix, captured, rest) }
    }

    pub(super) fn leaves(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.nodes.iter_mut().flat_map(|node| [&mut node.here, &mut node.prefix])
    }
}

#[derive(Default)]
struct Draft<'p> {
    children: Vec<(&'p str, u32)>,
    param: Option<u32>,
    here: Leaf,
    prefix: Leaf,
}

/// Collects patterns. One map for the whole tree while it grows: a map per node would cost more than the tree.
pub(super) struct TrieBuilder<'p> {
    drafts: Vec<Draft<'p>>,
    index: AHashMap<(u32, &'p str), u32>,
}

impl<'p> TrieBuilder<'p> {
    pub(super) fn new() -> Self {
        TrieBuilder { drafts: vec![Draft::default()], index: AHashMap::new() }
    }

    /// Adds a candidate. Under one pattern, candidates are tried in the order in which they were added.
    pub(super) fn insert(&mut self, pattern: &'p PathPattern, candidate: u32) {
        let mut at = 0;
        for segment in &pattern.segments {
            at = self.child(at, segment);
        }
        if let Some(draft) = self.drafts.get_mut(at as usize) {
            let leaf = if pattern.prefix { &mut draft.prefix } else { &mut draft.here };
            leaf.candidates.push(candidate);
        }
    }

    fn child(&mut self, parent: u32, segment: &'p Segment) -> u32 {
        let fresh = self.drafts.len() as u32;
        let Some(draft) = self.drafts.get_mut(parent as usize) else { return 0 };
        let child = match segment {
            Segment::Static(text) => *self.index.entry((parent, text)).or_insert_with(|| {
                draft.children.push((text, fresh));
                fresh
            }),
            Segment::Param(_) => *draft.param.get_or_insert(fresh),
        };
        if child == fresh {
            self.drafts.push(Draft::default());
        }
        child
    }

    pub(super) fn finish(self) -> Trie {
        let freeze = |draft: Draft<'_>| {
            let children = draft.children.into_iter().map(|(text, child)| (text.into(), child));
            let children = if children.len() > FEW {
                Children::Many(Box::new(children.collect()))
            } else {
                Children::Few(children.collect())
            };
            Node { children, param: draft.param, here: draft.here, prefix: draft.prefix }
        };
        Trie { nodes: self.drafts.into_iter().map(freeze).collect() }
    }
}
