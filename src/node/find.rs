//! Finding one's way in a tree: by key, and from a place back to the configuration path.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::env::sole_reference;
use super::{Key, Kind, Node, Scalar};
use crate::problem::Place;

impl Node {
    pub fn place(&self) -> Place {
        self.place
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(found, _)| found.text == key).map(|(_, value)| value)
    }

    /// The keys and values of a map; of anything else, none.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; of anything else, none.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Seq(items) => items,
            _ => &[],
        }
    }

    /// A scalar's text, with the environment's values in it: not to be shown.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// Whether two values are the same but for their places and the order of their keys. With the environment's values in them.
    pub fn says_the_same(&self, other: &Node) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Null, Kind::Null) => true,
            (Kind::Scalar(one), Kind::Scalar(two)) => one.text == two.text && one.style == two.style,
            (Kind::Seq(one), Kind::Seq(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.says_the_same(two))
            }
            (Kind::Map(one), Kind::Map(two)) => {
                let has = |(key, value): &(Key, Node)| other.get(&key.text).is_some_and(|other| value.says_the_same(other));
                one.len() == two.len() && one.iter().all(has)
            }
            _ => false,
        }
    }

    /// `routes[3].policies.rate_limit`: the path of what stands at a place, the deepest if several do; a key counts as its value. A
    /// place in the middle of a value finds that value. `None` for the root and for places where nothing stands. Walks the whole tree:
    /// for several places, [`Node::paths_of`] walks it once.
    pub fn path_of(&self, place: Place) -> Option<String> {
        self.paths_of(&[place]).pop().flatten()
    }

    /// [`Node::path_of`] for each of some places.
    pub fn paths_of(&self, places: &[Place]) -> Vec<Option<String>> {
        let mut search = Search { lines: HashMap::new(), trail: Vec::new() };
        for place in places.iter().filter(|place| place.is_known()) {
            search.lines.entry(place.line).or_default().push(Found { place: *place, fit: Fit::No, path: String::new() });
        }
        search.visit(self);
        let path_at = |place: &Place| {
            let found = search.lines.get(&place.line)?.iter().find(|found| found.place == *place)?;
            Some(found.path.clone()).filter(|path| !path.is_empty())
        };
        places.iter().map(path_at).collect()
    }
}

impl Scalar {
    /// As written: what may be shown unless it is a secret.
    pub fn shown(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.text)
    }

    /// The environment, or an escape, changed it.
    pub fn is_interpolated(&self) -> bool {
        self.written.is_some()
    }

    /// The variable's name, if the scalar is one `${NAME}` and nothing else.
    pub fn reference(&self) -> Option<&str> {
        self.written.as_deref().and_then(sole_reference)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Within,
    Start,
    Exact,
}

fn fit(place: Place, found: Place) -> Fit {
    if found.line != place.line {
        Fit::No
    } else if found == place {
        Fit::Exact
    } else if found.column == place.column {
        Fit::Start
    } else if found.column < place.column && place.column < found.column.saturating_add(found.width) {
        Fit::Within
    } else {
        Fit::No
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// A place that is looked for, and the best that was found for it so far.
struct Found {
    place: Place,
    fit: Fit,
    path: String,
}

struct Search<'a> {
    lines: HashMap<u32, Vec<Found>>,
    trail: Vec<Step<'a>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, node: &'a Node) {
        self.offer(node.place);
        match &node.kind {
            Kind::Seq(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.trail.push(Step::Index(index));
                    self.visit(item);
                    self.trail.pop();
                }
            }
            Kind::Map(entries) => {
                for (key, value) in entries {
                    self.trail.push(Step::Key(&key.text));
                    self.offer(key.place);
                    self.visit(value);
                    self.trail.pop();
                }
            }
            _ => {}
        }
    }

    /// Children come after their parents, so the last of equals is the deepest.
    fn offer(&mut self, place: Place) {
        for found in self.lines.get_mut(&place.line).into_iter().flatten() {
            let fit = fit(found.place, place);
            if fit != Fit::No && fit >= found.fit {
                found.fit = fit;
                found.path = path(&self.trail);
            }
        }
    }
}

fn path(trail: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in trail {
        // Writing to a string does not fail.
        let _ = match step {
            Step::Index(index) => write!(path, "[{index}]"),
            Step::Key(key) if !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') => {
                let dot = if path.is_empty() { "" } else { "." };
                write!(path, "{dot}{key}")
            }
            Step::Key(key) => write!(path, "[{key:?}]"),
        };
    }
    path
}
