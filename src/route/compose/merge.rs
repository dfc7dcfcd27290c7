//! Where the parts of a composed answer stand in it, and what is left of each.
//!
//! A part that nothing is taken out of goes into the answer byte for byte as its service wrote it. Of the others no number changes its digits.

use std::io::Write;

use ahash::AHashMap;
use bytes::Bytes;

use super::config::CallConfig;
use super::text::{Steps, steps, within};
use crate::json::{Exact, Members};
use crate::problem::{Place, Problem, Problems};

/// Where one part stands, and what is left of it.
#[derive(Debug)]
pub struct Standing {
    /// Empty: its fields are the answer's.
    group: Steps,
    append: bool,
    target: Option<Steps>,
    keep: Vec<Steps>,
    rename: Vec<(Box<str>, Box<str>)>,
}

/// What a part has come to.
#[derive(Debug, Clone)]
pub enum Body {
    /// JSON as it came.
    Raw(Bytes),
    Value(Exact),
    /// One for each element that its call was made for.
    Many(Vec<Body>),
}

impl Standing {
    pub fn compile(name: &str, config: &CallConfig, problems: &mut Problems) -> Option<Standing> {
        let before = problems.len();
        let mut read = |text: &str, place: Place| {
            steps(text).map_err(|why| problems.push(Problem::error(place, why))).ok().unwrap_or_default()
        };
        let group = match config.group.as_ref().map(|group| (group.value.as_str(), group.place)) {
            None => Steps::from([Box::from(name)]),
            Some((".", _)) => Steps::default(),
            Some((group, place)) => read(group, place),
        };
        let target = config.target.as_ref().map(|target| read(&target.value, target.place));
        let keep = config.keep.iter().map(|field| read(&field.value, field.place)).collect();
        let rename = config.rename.iter().map(|(old, new)| (old.as_str().into(), new.value.as_str().into())).collect();
        if group.is_empty() && config.append {
            let place = config.group.as_ref().map_or(Place::NOWHERE, |group| group.place);
            problems.push(Problem::error(place, "the answer itself is no list to append to").hint("give `group` a name"));
        }
        if group.is_empty()
            && let Some(each) = &config.for_each
        {
            let problem = Problem::error(each.place, "a list has no fields that could be the answer's");
            problems.push(problem.hint("give `group` a name"));
        }
        (problems.len() == before).then_some(Standing { group, append: config.append, target, keep, rename })
    }

    /// Whether it stands there, or within what does.
    pub fn is_at(&self, name: &str) -> bool {
        self.group.first().is_some_and(|first| **first == *name)
    }

    /// Whether it stands in the answer as it came.
    pub fn is_plain(&self) -> bool {
        !self.group.is_empty() && !self.append && self.target.is_none() && self.keep.is_empty() && self.rename.is_empty()
    }

    /// What is left of a value.
    pub fn shape(&self, mut value: Exact) -> Exact {
        if let Some(target) = &self.target {
            value = target.iter().fold(value, |mut value, step| take(&mut value, step));
        }
        if !self.keep.is_empty() {
            value = each(value, &|value| self.kept(&value));
        }
        if self.rename.is_empty() {
            return value;
        }
        each(value, &|value| match value {
            Exact::Object(members) => {
                let new =
                    |name: String| self.rename.iter().find(|(old, _)| **old == *name).map_or(name, |(_, new)| new.to_string());
                Exact::Object(Box::new(members.into_iter().map(|(name, member)| (new(name), member)).collect()))
            }
            other => other,
        })
    }

    fn kept(&self, value: &Exact) -> Exact {
        if !value.is_object() {
            return value.clone();
        }
        let mut kept = Members::default();
        for steps in &self.keep {
            let Some(found) = within(value, steps) else { continue };
            insert(&mut kept, steps, found.clone());
        }
        Exact::Object(Box::new(kept))
    }
}

/// Puts a value in its place, and the objects around it where there are none.
fn insert(members: &mut Members, steps: &[Box<str>], value: Exact) {
    match steps {
        [] => {}
        [last] => drop(members.insert(last.to_string(), value)),
        [step, rest @ ..] => {
            let next = members.entry(step.to_string()).or_default();
            if !next.is_object() {
                *next = Exact::Object(Box::default());
            }
            if let Exact::Object(within) = next {
                insert(within, rest, value);
            }
        }
    }
}

/// Takes a member out.
fn take(value: &mut Exact, step: &str) -> Exact {
    let found = match value {
        Exact::Object(members) => members.get_mut(step),
        Exact::List(items) => step.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
        _ => None,
    };
    found.map(Exact::take).unwrap_or_default()
}

/// Of a list, each element.
fn each(value: Exact, work: &dyn Fn(Exact) -> Exact) -> Exact {
    match value {
        Exact::List(items) => Exact::List(items.into_iter().map(work).collect()),
        value => work(value),
    }
}

/// Says of each two parts that cannot both stand where they shall.
pub fn check_standings(standings: &[(&Standing, Place)], problems: &mut Problems) {
    for (number, (one, _)) in standings.iter().enumerate() {
        for (other, place) in standings.iter().skip(number + 1) {
            let (short, long) = if one.group.len() <= other.group.len() { (one, other) } else { (other, one) };
            if short.group.is_empty() || !long.group.starts_with(&short.group) {
                continue;
            }
            let same = short.group.len() == long.group.len();
            if !(same && short.append && long.append) {
                let message = format!("two parts of the answer cannot both stand at `{}`", short.group.join("."));
                let hint = "give one of them another `group`, or both `append: true`";
                problems.push(Problem::error(*place, message).hint(hint));
            }
        }
    }
}

/// A composed answer that is put together.
#[derive(Default)]
pub struct Whole<'a> {
    members: Vec<(&'a str, Node<'a>)>,
    places: AHashMap<&'a str, usize>,
}

enum Node<'a> {
    Body(&'a Body),
    Value(&'a Exact),
    List(Vec<Node<'a>>),
    Object(Whole<'a>),
}

impl<'a> Whole<'a> {
    /// Puts a part in its place.
    pub fn put(&mut self, standing: &'a Standing, body: &'a Body) {
        let Some((last, way)) = standing.group.split_last() else {
            // What has no fields adds none.
            if let Body::Value(Exact::Object(members)) = body {
                members.iter().for_each(|(name, member)| self.set(name, Node::Value(member)));
            }
            return;
        };
        if !standing.append {
            return self.object(way, &mut |at| at.set(last, Node::Body(body)));
        }
        self.object(way, &mut |at| {
            let items: Vec<Node<'a>> = match body {
                Body::Many(bodies) => bodies.iter().flat_map(elements).collect(),
                body => elements(body),
            };
            match at.places.get(&**last).and_then(|place| at.members.get_mut(*place)) {
                Some((_, Node::List(list))) => list.extend(items),
                _ => at.set(last, Node::List(items)),
            }
        });
    }

    /// Makes sure that a list is there, though nothing is in it.
    pub fn promise(&mut self, standing: &'a Standing) {
        if standing.append {
            const NOTHING: &Body = &Body::Many(Vec::new());
            self.put(standing, NOTHING);
        }
    }

    /// Adds a member of the gateway's own.
    pub fn add(&mut self, name: &'static str, value: &'a Exact) {
        self.set(name, Node::Value(value));
    }

    fn set(&mut self, name: &'a str, node: Node<'a>) {
        match self.places.get(name).and_then(|place| self.members.get_mut(*place)) {
            Some((_, known)) => *known = node,
            None => {
                self.places.insert(name, self.members.len());
                self.members.push((name, node));
            }
        }
    }

    /// The object of that name, and those within it, made where there are none.
    fn object(&mut self, way: &'a [Box<str>], put: &mut dyn FnMut(&mut Whole<'a>)) {
        let Some((name, rest)) = way.split_first() else { return put(self) };
        let known = self.places.get(&**name).and_then(|place| self.members.get(*place));
        if !matches!(known, Some((_, Node::Object(_)))) {
            self.set(name, Node::Object(Whole::default()));
        }
        let place = self.places.get(&**name).copied();
        if let Some((_, Node::Object(whole))) = place.and_then(|place| self.members.get_mut(place)) {
            whole.object(rest, put);
        }
    }

    /// How long it is, in bytes, once it is written.
    pub fn length(&self) -> usize {
        let mut length = Length(0);
        self.write(&mut length);
        length.0
    }

    pub fn write(&self, out: &mut impl Write) {
        put(out, b"{");
        for (number, (name, node)) in self.members.iter().enumerate() {
            if number > 0 {
                put(out, b",");
            }
            let _ = serde_json::to_writer(&mut *out, name);
            put(out, b":");
            node.write(out);
        }
        put(out, b"}");
    }
}

fn elements(body: &Body) -> Vec<Node<'_>> {
    match body {
        Body::Value(Exact::List(items)) => items.iter().map(Node::Value).collect(),
        Body::Value(Exact::Null) => Vec::new(),
        body => vec![Node::Body(body)],
    }
}

impl Node<'_> {
    fn write(&self, out: &mut impl Write) {
        match self {
            Node::Body(body) => body.write(out),
            Node::Value(value) => write_value(value, out),
            Node::Object(whole) => whole.write(out),
            Node::List(items) => write_list(items, out, Node::write),
        }
    }
}

impl Body {
    pub const NULL: Body = Body::Value(Exact::Null);

    fn write(&self, out: &mut impl Write) {
        match self {
            Body::Raw(bytes) => put(out, bytes.trim_ascii()),
            Body::Value(value) => write_value(value, out),
            Body::Many(bodies) => write_list(bodies, out, Body::write),
        }
    }
}

fn write_list<T, W: Write>(items: &[T], out: &mut W, write: impl Fn(&T, &mut W)) {
    put(out, b"[");
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            put(out, b",");
        }
        write(item, out);
    }
    put(out, b"]");
}

/// Counts what is written, and keeps nothing of it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn put(out: &mut impl Write, bytes: &[u8]) {
    // Writing to memory does not fail.
    let _ = out.write_all(bytes);
}

fn write_value(value: &Exact, out: &mut impl Write) {
    // Writing to memory does not fail.
    let _ = value.write(out);
}
