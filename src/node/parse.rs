//! YAML 1.2 text into a [`Node`] tree.
//!
//! Stricter than YAML where leniency would hide a mistake: no key stands twice, no tags but the core ones, one document, and every
//! nesting and every expansion of aliases is bounded.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::env::{EnvError, interpolate};
use super::syntax;
use super::{Key, Kind, Node, Scalar, Style};
use crate::problem::{Place, Problem, Problems};

/// The most nodes in a document, each alias counted with everything in it.
const MOST_NODES: usize = 1_000_000;
/// The deepest nesting, aliases included. Decoding recurses, so this bounds the stack.
const DEEPEST: usize = 64;
/// After so many problems a file is not worth reading on.
const MOST_PROBLEMS: usize = 100;
/// Maps with more keys than this are checked for duplicates by a hash set.
const SMALL_MAP: usize = 16;

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a document, and `env` for its `${NAME}` references. An empty one is an empty map. `None`, with a problem, if it is not
/// YAML or breaks a bound; a tree together with problems if only single values are wrong.
pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>, problems: &mut Problems) -> Option<Arc<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The scanner takes a NUL for the end of the file, which would silently drop everything after it.
    if let Some(problem) = syntax::control_character(text) {
        problems.push(problem);
        return None;
    }
    let mut builder = Builder { env, problems, found: 0, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => builder.event(event, span)?,
            Err(error) => {
                problems.push(syntax::explain(&error, text));
                return None;
            }
        }
    }
    let root = builder.root.take().filter(|root| !matches!(root.kind, Kind::Null));
    let empty = || Node { place: Place { line: 1, column: 1, width: 1 }, kind: Kind::Map(Vec::new()) };
    Some(Arc::new(root.unwrap_or_else(empty)))
}

/// A map or list whose end has not come yet.
struct Frame {
    open: Open,
    start: Marker,
    anchor: usize,
    /// Nodes in it so far, itself included.
    nodes: usize,
    /// Levels below it so far.
    height: usize,
}

enum Open {
    Seq(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashSet<String>, key: Pending },
}

enum Pending {
    /// The next node is a key.
    Key,
    Value(Key),
    /// The value of a key that was refused.
    Skip,
}

/// A node that is complete, with what the bounds need to know.
#[derive(Clone)]
struct Built {
    node: Node,
    nodes: usize,
    height: usize,
    /// Nobody wrote it: the value after a colon with nothing behind it.
    empty: bool,
}

struct Builder<'a> {
    env: Env<'a>,
    problems: &'a mut Problems,
    found: usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Built>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    /// `None`: stop reading.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => self.stop(
                Problem::error(place(span), "a second document begins here")
                    .hint("one file holds one document: remove the `---` line, or split the file"),
            ),
            Event::SequenceStart(anchor, tag) => self.open(Open::Seq(Vec::new()), anchor, tag, span),
            Event::MappingStart(anchor, tag) => {
                self.open(Open::Map { entries: Vec::new(), seen: HashSet::new(), key: Pending::Key }, anchor, tag, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, span),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Some(()),
        }
    }

    fn stop(&mut self, problem: Problem) -> Option<()> {
        self.problems.push(problem);
        None
    }

    fn report(&mut self, problem: Problem) -> Option<()> {
        self.found += 1;
        self.problems.push(problem);
        if self.found >= MOST_PROBLEMS { None } else { Some(()) }
    }

    fn open(&mut self, open: Open, anchor: usize, tag: Option<Cow<'_, Tag>>, span: Span) -> Option<()> {
        if matches!(self.stack.last(), Some(Frame { open: Open::Map { key: Pending::Key, .. }, .. })) {
            return self.stop(Problem::error(place(span), "a key must be a word, not a list or a map").hint(
                "a value that begins with `{` or `[` needs quotes, and inside { } and [ ] so does a reference: \"${NAME}\"",
            ));
        }
        if self.stack.len() >= DEEPEST {
            return self.stop(Problem::error(place(span), format!("this is nested more than {DEEPEST} levels deep")));
        }
        let fits = |tag: &Tag| match open {
            Open::Seq(_) => tag.suffix == "seq",
            Open::Map { .. } => tag.suffix == "map",
        };
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema() || !fits(tag)) {
            self.report(unknown_tag(&tag, span))?;
        }
        self.stack.push(Frame { open, start: span.start, anchor, nodes: 1, height: 1 });
        Some(())
    }

    fn close(&mut self, span: Span) -> Option<()> {
        let Some(Frame { open, start, anchor, nodes, height }) = self.stack.pop() else { return Some(()) };
        // Only a closing bracket has a width; a block ends where the next thing begins.
        let flow_end = (!span.is_empty() && span.end.line() == start.line()).then(|| column(span.end));
        let (kind, last) = match open {
            Open::Seq(items) => {
                let last = items.iter().map(|item| item.place).rfind(|item| item.line == number(start.line()));
                (Kind::Seq(items), last.map(end_of))
            }
            Open::Map { entries, .. } => {
                let last = entries.iter().rfind(|(key, _)| key.place.line == number(start.line()));
                // With the colon: a map is always wider than its first key, so that the two places differ.
                let last = last.map(|(key, value)| match value.place.line == key.place.line {
                    true => end_of(value.place).max(end_of(key.place) + 1),
                    false => end_of(key.place) + 1,
                });
                (Kind::Map(entries), last)
            }
        };
        let end = flow_end.or(last).unwrap_or(0);
        let place = Place { width: end.saturating_sub(column(start)).max(1), ..at(start) };
        self.complete(Built { node: Node { place, kind }, nodes, height, empty: false }, anchor)
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        span: Span,
    ) -> Option<()> {
        // The parser puts a static `~` where nothing is written; one that is written is an owned string.
        let empty = style == ScalarStyle::Plain && (text.is_empty() || matches!(text, Cow::Borrowed("~")));
        let place = place(span);
        let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
        let built = |kind| Built { node: Node { place, kind }, nodes: 1, height: 0, empty };
        if matches!(self.stack.last(), Some(Frame { open: Open::Map { key: Pending::Key, .. }, .. })) {
            let kind = if empty { Kind::Null } else { Kind::Scalar(Scalar { text: text.into_owned(), style, written: None }) };
            return self.complete(built(kind), anchor);
        }
        let style = match tag.as_deref().map(|tag| (tag, style_by_tag(tag, style))) {
            None => style,
            Some((_, Some(style))) => style,
            Some((tag, None)) => {
                self.report(unknown_tag(tag, span))?;
                return self.complete(built(Kind::Broken(text.into_owned())), anchor);
            }
        };
        let kind = match interpolate(&text, self.env) {
            Ok(Some(replaced)) => Kind::Scalar(Scalar { text: replaced, style, written: Some(text.into_owned()) }),
            Ok(None) if style == Style::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => Kind::Null,
            Ok(None) => Kind::Scalar(Scalar { text: text.into_owned(), style, written: None }),
            Err(error) => {
                self.report(reference_problem(error, place))?;
                Kind::Broken(text.into_owned())
            }
        };
        self.complete(built(kind), anchor)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Option<()> {
        match self.anchors.get(&anchor) {
            Some(built) => {
                let built = built.clone();
                // It brings everything that is in it.
                self.nodes += built.nodes;
                self.complete(built, 0)
            }
            None => self.stop(Problem::error(place(span), "this alias stands inside the value that it names")),
        }
    }

    /// Puts a complete node where it belongs.
    fn complete(&mut self, mut built: Built, anchor: usize) -> Option<()> {
        // What an anchor keeps is a copy, and counts as one.
        self.nodes += if anchor == 0 { 1 } else { 1 + built.nodes };
        if self.nodes > MOST_NODES || self.stack.len() + built.height > DEEPEST {
            return self.stop(
                Problem::error(built.node.place, "the document is too large, or its aliases unfold to too much")
                    .hint(format!("at most {MOST_NODES} values, nested at most {DEEPEST} deep")),
            );
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(built.node);
            return Some(());
        };
        frame.nodes = frame.nodes.saturating_add(built.nodes);
        frame.height = frame.height.max(built.height + 1);
        let mut problem = None;
        match &mut frame.open {
            Open::Seq(items) => {
                if anchor != 0 {
                    self.anchors.insert(anchor, built.clone());
                }
                items.push(built.node);
            }
            Open::Map { entries, seen, key } => match std::mem::replace(key, Pending::Key) {
                Pending::Key => {
                    if anchor != 0 {
                        self.anchors.insert(anchor, built.clone());
                    }
                    match accept_key(built.node, entries, seen) {
                        Ok(accepted) => *key = Pending::Value(accepted),
                        Err(refused) => {
                            *key = Pending::Skip;
                            problem = Some(refused);
                        }
                    }
                }
                Pending::Value(key) => {
                    if built.empty {
                        // The parser names the next token's place; just after the colon is where something is missing.
                        built.node.place = Place { column: end_of(key.place) + 1, width: 1, ..key.place };
                    }
                    if anchor != 0 {
                        self.anchors.insert(anchor, built.clone());
                    }
                    entries.push((key, built.node));
                }
                Pending::Skip => {
                    if anchor != 0 {
                        self.anchors.insert(anchor, built);
                    }
                }
            },
        }
        match problem {
            Some(problem) => self.report(problem),
            None => Some(()),
        }
    }
}

fn accept_key(node: Node, entries: &[(Key, Node)], seen: &mut HashSet<String>) -> Result<Key, Problem> {
    let Kind::Scalar(Scalar { text, style, .. }) = node.kind else {
        return Err(Problem::error(node.place, "a key must be a word"));
    };
    if text == "<<" && style == Style::Plain {
        return Err(Problem::error(node.place, "merge keys (`<<`) are not supported")
            .hint("they are not part of YAML 1.2: give the whole value by an alias (`key: *name`), or write it out"));
    }
    let twice = if entries.len() < SMALL_MAP {
        entries.iter().any(|(key, _)| key.text == text)
    } else {
        if seen.is_empty() {
            seen.extend(entries.iter().map(|(key, _)| key.text.clone()));
        }
        !seen.insert(text.clone())
    };
    if twice {
        let first = entries.iter().find(|(key, _)| key.text == text).map_or(0, |(key, _)| key.place.line);
        return Err(Problem::error(node.place, format!("the key `{text}` stands twice in the same map"))
            .hint(format!("it stands on line {first} already: remove one of them")));
    }
    Ok(Key { text, place: node.place })
}

/// How a scalar with this tag is to be read; `None` for a tag that is not known.
fn style_by_tag(tag: &Tag, style: Style) -> Option<Style> {
    if tag.handle.is_empty() && tag.suffix == "!" {
        return Some(Style::Quoted);
    }
    if !tag.is_yaml_core_schema() {
        return None;
    }
    match tag.suffix.as_str() {
        "str" => Some(Style::Quoted),
        "int" | "float" | "bool" | "null" => Some(Style::Plain),
        _ => None,
    }
    .map(|tagged| if tag.suffix == "null" { style } else { tagged })
}

fn unknown_tag(tag: &Tag, span: Span) -> Problem {
    let tag = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
    Problem::error(place(span), format!("the tag `{tag}` has no meaning here"))
        .hint("remove it; a value that begins with `!` needs quotes")
}

fn reference_problem(error: EnvError, place: Place) -> Problem {
    match error {
        EnvError::Missing(name) => Problem::error(place, format!("the environment variable `{name}` is not set"))
            .hint(format!("set it, or give a default: ${{{name}:-default}}")),
        EnvError::Malformed => Problem::error(place, "`${` must be followed by a variable's name and a closing brace")
            .hint("write ${NAME} or ${NAME:-default}; for a literal ${ write $${"),
    }
}

/// Lines count from 1 in the parser's markers and columns from 0, both in characters.
fn at(marker: Marker) -> Place {
    Place { line: number(marker.line()), column: column(marker), width: 1 }
}

fn place(span: Span) -> Place {
    let width = if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Place { width: number(width).max(1), ..at(span.start) }
}

fn column(marker: Marker) -> u32 {
    number(marker.col()).saturating_add(1)
}

/// The column just after a place.
fn end_of(place: Place) -> u32 {
    place.column.saturating_add(place.width)
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
