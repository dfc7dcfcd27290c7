//! Steps, compiled, and what they do to a body.
//!
//! What a request has to do with them (conditions, values) is settled first, once ([`Steps::settle`]): an answer is worked on when nobody has the
//! request at hand any more.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::config::{StepConfig, Target};
use super::values::{Source, compile as value};
use crate::cel::{Expression, Kind as CelKind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::json::tree::{Id, Kind, Rewrite, Spot};
use crate::json::{Fault, Mode, Pointer, Program, Token, Tree, lex};
use crate::path::Made;
use crate::policy::Compile;
use crate::problem::{Place, Problem};
use crate::value::Spanned;

/// The most steps of one list, those of `map` among them.
const MOST: usize = 100;

/// On which way a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Request,
    Response,
}

/// Steps, in their order.
pub struct Steps {
    steps: Vec<Step>,
    conditions: Vec<Condition>,
    sources: Vec<Source>,
}

struct Condition {
    expression: Expression,
    /// What it counts as where it fails.
    failed: bool,
}

struct Step {
    /// The number of its condition.
    when: Option<usize>,
    work: Work,
}

enum Work {
    Rename(Vec<(Pointer, Box<str>)>),
    Move(Vec<Moved>),
    Filter(Arc<Program>),
    /// Places and the numbers of their sources; whether only what is absent is set.
    Set(Vec<(Pointer, usize)>, bool),
    Wrap(Vec<(Pointer, Box<str>)>),
    Unwrap(Vec<(Pointer, Box<str>)>),
    Map(Pointer, Vec<Step>),
    Convert(Vec<(Pointer, Target)>),
    Header(Vec<(HeaderName, Pointer)>),
    Query(Vec<(Box<str>, Pointer)>),
    /// What stands before each place, the place, and what is left behind the last.
    Path(Vec<(Box<str>, Pointer)>, Box<str>),
}

/// What moves, in parts: the way that both have in common, and where they part.
struct Moved {
    common: Pointer,
    from: Pointer,
    to: Pointer,
}

/// What a request says to steps: which are left out, and what values are.
#[derive(Default)]
pub struct Settled {
    on: SmallVec<[bool; 4]>,
    values: Vec<Option<Box<[u8]>>>,
}

/// What steps make of things beside the body.
#[derive(Default)]
pub struct Beside {
    /// `None`: the field is removed.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    pub query: Vec<(Box<str>, Option<String>)>,
    pub path: Option<String>,
    /// The path ends in a place.
    pub ends_in_value: bool,
}

impl Steps {
    /// What is wrong goes to `cx.problems`.
    pub fn compile(written: &[Spanned<StepConfig>], way: Way, cx: &mut Compile<'_>) -> Steps {
        let mut steps = Steps { steps: Vec::new(), conditions: Vec::new(), sources: Vec::new() };
        let mut left = MOST;
        steps.steps = steps.list(written, way, &mut left, cx);
        steps
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether they can work on a body as it comes.
    pub fn filter_only(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.work, Work::Filter(_)))
    }

    /// Whether what they do may differ for two clients that ask for the same target.
    pub fn differ(&self) -> bool {
        !self.conditions.is_empty() || self.sources.iter().any(Source::differs)
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let conditions = self.conditions.iter().map(|condition| &condition.expression);
        conditions.chain(self.sources.iter().filter_map(Source::expression))
    }

    pub fn looks_at_path(&self) -> bool {
        self.expressions().any(Expression::looks_at_path)
    }

    /// The fields that are made of what is in the body.
    pub fn made_fields(&self) -> Vec<HeaderName> {
        self.without().headers.into_iter().map(|(name, _)| name).collect()
    }

    /// The request's fields that they look at, in lower case; one of them is `*` if they may be any.
    pub fn fields(&self) -> Vec<&str> {
        let sources = self.sources.iter().filter_map(Source::field);
        let mut fields: Vec<&str> = self.expressions().flat_map(Expression::headers).map(|name| &**name).chain(sources).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    pub fn looks_at_params(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Param(_)))
    }

    fn list(&mut self, written: &[Spanned<StepConfig>], way: Way, left: &mut usize, cx: &mut Compile<'_>) -> Vec<Step> {
        let mut list = Vec::new();
        for step in written {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => {
                    cx.problems.push(Problem::error(step.place, format!("there are at most {MOST} steps")));
                    return list;
                }
            }
            list.extend(self.step(step, way, left, cx));
        }
        list
    }

    fn step(&mut self, written: &Spanned<StepConfig>, way: Way, left: &mut usize, cx: &mut Compile<'_>) -> Option<Step> {
        let place = written.place;
        let step = &written.value;
        let mut works = Vec::new();
        let filters = [(&step.keep, Mode::Keep), (&step.remove, Mode::Remove)];
        for (places, mode) in filters.into_iter().filter_map(|(places, mode)| Some((places.as_ref()?, mode))) {
            let pointers: Vec<Pointer> = places.iter().filter_map(|text| pointer(text, text.place, cx)).collect();
            if places.is_empty() {
                let what = if mode == Mode::Keep { "nothing would be left" } else { "nothing would go" };
                cx.problems.push(Problem::error(place, format!("this list is empty: {what}")));
            }
            if pointers.iter().any(Pointer::is_root) {
                cx.problems.push(Problem::error(place, "`\"\"` is the whole body: name what is in it"));
            }
            works.push(Work::Filter(Arc::new(Program::new(mode, &pointers))));
        }
        if let Some(names) = &step.rename {
            works.push(Work::Rename(named(names, cx)));
        }
        if let Some(moves) = &step.moved {
            let moved = moves.0.iter().filter_map(|(from, to)| Moved::compile(from, to, cx));
            works.push(Work::Move(moved.collect()));
        }
        for (values, absent) in [(&step.set, false), (&step.absent, true)] {
            let Some(values) = values else { continue };
            let mut list = Vec::new();
            for (at, written) in &values.0 {
                let (Some(at), Some(source)) = (pointer(at, written.place, cx), value(written, way, cx)) else { continue };
                if at.0.contains(&Token::Deep) {
                    cx.problems.push(Problem::error(written.place, "`**` names no place that could be set"));
                }
                list.push((at, self.sources.len()));
                self.sources.push(source);
            }
            works.push(Work::Set(list, absent));
        }
        if let Some(names) = &step.wrap {
            works.push(Work::Wrap(named(names, cx)));
        }
        if let Some(names) = &step.unwrap {
            works.push(Work::Unwrap(named(names, cx)));
        }
        if let Some(map) = &step.map {
            let steps = self.list(&map.steps, way, left, cx);
            if map.steps.is_empty() {
                cx.problems.push(Problem::error(map.over.place, "`map` has no steps"));
            }
            works.extend(pointer(&map.over, map.over.place, cx).map(|over| Work::Map(over, steps)));
        }
        if let Some(types) = &step.convert {
            let each = types.0.iter().filter_map(|(at, target)| Some((pointer(at, target.place, cx)?, target.value)));
            works.push(Work::Convert(each.collect()));
        }
        if let Some(fields) = &step.header {
            let mut list = Vec::new();
            for (name, at) in &fields.0 {
                list.extend(crate::policy::shape::headers::name(name, at.place, cx).zip(one(at, cx)));
            }
            works.push(Work::Header(list));
        }
        if let Some(parameters) = &step.query {
            if way == Way::Response {
                cx.problems.push(Problem::error(place, "an answer has no query parameters"));
            }
            let each = parameters.0.iter().filter_map(|(name, at)| Some((name.as_str().into(), one(at, cx)?)));
            works.push(Work::Query(each.collect()));
        }
        if let Some(written) = &step.path {
            if way == Way::Response {
                cx.problems.push(Problem::error(place, "an answer has no path"));
            }
            works.push(path(written, cx));
        }
        let filters = works.iter().all(|work| matches!(work, Work::Filter(_)));
        let when = step.when.as_ref().and_then(|source| {
            let expression = Expression::compile(source, source.place, cx.problems, CelKind::Bool)?;
            self.conditions.push(Condition { expression, failed: filters });
            Some(self.conditions.len() - 1)
        });
        let work = works.pop();
        if work.is_none() && step.map.is_none() || !works.is_empty() {
            let message = if works.is_empty() { "this step does nothing" } else { "a step is one thing: these are several" };
            cx.problems.push(Problem::error(place, message).hint("write each as a step of its own: `- rename: { /a: b }`"));
        }
        Some(Step { when, work: work? })
    }

    /// What they come to for this request.
    pub fn settle(&self, head: &RequestHead, exchange: &Exchange) -> Settled {
        let holds = |condition: &Condition| condition.expression.bool(head, exchange).unwrap_or(condition.failed);
        Settled {
            on: self.conditions.iter().map(holds).collect(),
            values: self.sources.iter().map(|source| source.value(head, exchange)).collect(),
        }
    }

    fn are_on<'a>(steps: &'a [Step], settled: &'a Settled) -> impl Iterator<Item = &'a Work> {
        let is_on = |step: &&Step| step.when.is_none_or(|number| settled.on.get(number).copied().unwrap_or(false));
        steps.iter().filter(is_on).map(|step| &step.work)
    }

    /// Whether they do anything at all.
    pub fn work(&self, settled: &Settled) -> bool {
        Self::are_on(&self.steps, settled).next().is_some()
    }

    /// Whether one that is on makes the path.
    pub fn makes_path(&self, settled: &Settled) -> bool {
        Self::are_on(&self.steps, settled).any(Work::makes_path)
    }

    pub fn may_make_path(&self) -> bool {
        self.steps.iter().any(|step| step.work.makes_path())
    }

    /// What is said beside a body that says nothing: every field and parameter that could come of one is removed.
    pub fn without(&self) -> Beside {
        let mut beside = Beside::default();
        self.steps.iter().for_each(|step| step.work.unsaid(&mut beside));
        beside
    }

    /// The lists of those that are on, where they are [`Steps::filter_only`].
    pub fn filters(&self, settled: &Settled) -> Vec<Arc<Program>> {
        let filter = |work: &Work| if let Work::Filter(program) = work { Some(program.clone()) } else { None };
        Self::are_on(&self.steps, settled).filter_map(filter).collect()
    }

    /// Reshapes a body, and writes what has become of it.
    ///
    /// # Errors
    /// It cannot be done. Nothing of it is to be used.
    pub fn apply(
        &self,
        body: &[u8],
        settled: &Settled,
        room: usize,
        write: impl FnOnce(&Tree) -> Result<Vec<u8>, Fault>,
    ) -> Result<(Vec<u8>, Beside), Fault> {
        let mut tree = Tree::parse(body, room)?;
        let mut beside = Beside::default();
        for work in Self::are_on(&self.steps, settled) {
            work.apply(&mut tree, Spot::ROOT, settled, &mut beside)?;
        }
        let written = write(&tree)?;
        // What has been put into itself several times over may be more than was added.
        if written.len() > body.len().saturating_add(room) { Err(Fault::TooLarge) } else { Ok((written, beside)) }
    }
}

impl Work {
    fn makes_path(&self) -> bool {
        match self {
            Work::Path(..) => true,
            Work::Map(_, steps) => steps.iter().any(|step| step.work.makes_path()),
            _ => false,
        }
    }

    fn unsaid(&self, beside: &mut Beside) {
        match self {
            Work::Header(fields) => beside.headers.extend(fields.iter().map(|(name, _)| (name.clone(), None))),
            Work::Query(parameters) => beside.query.extend(parameters.iter().map(|(name, _)| (name.clone(), None))),
            Work::Map(_, steps) => steps.iter().for_each(|step| step.work.unsaid(beside)),
            _ => {}
        }
    }

    fn apply(&self, tree: &mut Tree, spot: Spot, settled: &Settled, beside: &mut Beside) -> Result<(), Fault> {
        // Whatever stands there when its turn comes: an entry before may have put something else in its place.
        let select = |tree: &Tree, at: &Pointer| tree.at(spot).map_or_else(Vec::new, |base| tree.select(base, &at.0));
        match self {
            Work::Rename(names) => {
                for (at, name) in names {
                    select(tree, at).into_iter().try_for_each(|id| tree.rename(id, name))?;
                }
            }
            Work::Move(moves) => moves
                .iter()
                .try_for_each(|moved| select(tree, &moved.common).into_iter().try_for_each(|within| moved.apply(tree, within)))?,
            Work::Filter(program) => {
                if let Some(base) = tree.at(spot)
                    && !tree.keep(base, program)
                {
                    let null = tree.make(b"null")?;
                    tree.replace(base, null);
                }
            }
            Work::Set(values, absent) => {
                for (at, number) in values {
                    let Some(base) = tree.at(spot) else { break };
                    set(tree, base, at, settled.values.get(*number).and_then(|value| value.as_deref()), *absent)?;
                }
            }
            Work::Wrap(names) => {
                for (at, name) in names {
                    // The innermost first, so that each is there when its turn comes.
                    select(tree, at).into_iter().rev().try_for_each(|id| tree.wrap(id, name))?;
                }
            }
            Work::Unwrap(names) => {
                for (at, name) in names {
                    for id in select(tree, at).into_iter().rev() {
                        if let Some(inner) = tree.member(id, name) {
                            tree.detach(inner);
                            tree.replace(id, inner);
                        }
                    }
                }
            }
            Work::Map(over, steps) => {
                for work in Steps::are_on(steps, settled) {
                    for array in
                        select(tree, over).into_iter().filter(|array| tree.kind(*array) == Kind::Array).collect::<Vec<_>>()
                    {
                        let mut spot = Spot::first(array);
                        while tree.at(spot).is_some() {
                            work.apply(tree, spot, settled, beside)?;
                            let Some(element) = tree.at(spot) else { break };
                            spot = spot.next(element);
                        }
                    }
                }
            }
            Work::Convert(types) => {
                for (at, target) in types {
                    select(tree, at).into_iter().try_for_each(|id| convert(tree, id, *target))?;
                }
            }
            Work::Header(fields) => {
                for (name, at) in fields {
                    let text = select(tree, at).first().and_then(|id| plain(tree, *id));
                    // Bytes beyond ASCII are legal in a field and understood by nobody in one way.
                    let value = text.filter(|text| text.is_ascii()).and_then(|text| HeaderValue::from_str(&text).ok());
                    beside.headers.push((name.clone(), value));
                }
            }
            Work::Query(parameters) => {
                for (name, at) in parameters {
                    let text = select(tree, at).first().and_then(|id| plain(tree, *id));
                    beside.query.push((name.clone(), text));
                }
            }
            Work::Path(pieces, rest) => {
                let mut made = Made::default();
                for (before, at) in pieces {
                    made.text(before);
                    let text = select(tree, at).first().and_then(|id| plain(tree, *id)).ok_or(Fault::Absent)?;
                    made.value(text.as_bytes()).ok_or(Fault::Absent)?;
                }
                made.text(rest);
                beside.path = Some(made.path().ok_or(Fault::Absent)?);
                beside.ends_in_value = rest.is_empty() && !pieces.is_empty();
            }
        }
        Ok(())
    }
}

impl Moved {
    fn compile(from: &str, to: &Spanned<String>, cx: &mut Compile<'_>) -> Option<Moved> {
        let (from, target) = (pointer(from, to.place, cx)?, pointer(to, to.place, cx)?);
        let common = from.0.iter().zip(&target.0).take_while(|(one, other)| one == other).count();
        let split = |pointer: &Pointer| pointer.0.get(common..).map(|rest| Pointer(rest.into())).unwrap_or_default();
        let moved = Moved { common: Pointer(from.0.get(..common)?.into()), from: split(&from), to: split(&target) };
        let problem = if !moved.from.is_one() || !moved.to.is_one() {
            "`*` and `**` have to stand in both places alike, before they part"
        } else if moved.from.is_root() || moved.to.is_root() {
            "nothing can be moved into itself, or in place of what it is in"
        } else {
            return Some(moved);
        };
        cx.problems.push(Problem::error(to.place, problem).hint("`wrap` and `unwrap` put things into objects and take them out"));
        None
    }

    fn apply(&self, tree: &mut Tree, within: Id) -> Result<(), Fault> {
        let Some(id) = tree.select(within, &self.from.0).first().copied() else { return Ok(()) };
        tree.detach(id);
        tree.put(within, &self.to.0, id)
    }
}

/// Sets what is at a place; `*` leads to what is there only.
fn set(tree: &mut Tree, base: Id, at: &Pointer, value: Option<&[u8]>, absent: bool) -> Result<(), Fault> {
    let split = at.0.iter().rposition(|token| *token == Token::Each).map_or(0, |last| last + 1);
    let (many, rest) = at.0.split_at_checked(split).unwrap_or((&[], &at.0));
    for within in tree.select(base, many) {
        let there = tree.select(within, rest).first().copied();
        match (value, there) {
            (_, Some(_)) if absent => {}
            (Some(value), _) => {
                let made = tree.make(value)?;
                tree.put(within, rest, made)?;
            }
            // Nothing of the client's may pass for what would have been set.
            (None, Some(there)) if at.is_root() => {
                let null = tree.make(b"null")?;
                tree.replace(there, null);
            }
            (None, Some(there)) => tree.detach(there),
            (None, None) => {}
        }
    }
    Ok(())
}

/// A text, number or boolean as text.
fn plain(tree: &Tree, id: Id) -> Option<String> {
    match tree.scalar(id)? {
        b"null" => None,
        text if text.starts_with(b"\"") => lex::said(text).map(|text| text.into_owned()),
        word => String::from_utf8(word.to_vec()).ok(),
    }
}

fn convert(tree: &mut Tree, id: Id, target: Target) -> Result<(), Fault> {
    let Some(text) = tree.scalar(id) else {
        if target == Target::Array && tree.kind(id) == Kind::Object {
            tree.list(id);
        }
        return Ok(());
    };
    let inner = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    let is_null = text == b"null";
    let whole = |text: &[u8]| lex::is_number(text) && !text.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    match (target, inner) {
        (Target::Array, _) if !is_null => tree.list(id),
        (Target::String, None) if !is_null => {
            let quoted = [b"\"", text, b"\""].concat();
            tree.rewrite(id, Rewrite::To(&quoted))?;
        }
        (Target::Number, Some(inner)) if lex::is_number(inner) => tree.rewrite(id, Rewrite::Unquoted)?,
        (Target::Integer, Some(inner)) if whole(inner) => tree.rewrite(id, Rewrite::Unquoted)?,
        (Target::Boolean, Some(b"true" | b"false")) => tree.rewrite(id, Rewrite::Unquoted)?,
        _ => {}
    }
    Ok(())
}

/// A pointer, or a problem.
pub fn pointer(text: &str, place: Place, cx: &mut Compile<'_>) -> Option<Pointer> {
    Pointer::parse(text).map_err(|wrong| cx.problems.push(Problem::error(place, format!("`{text}`: {wrong}")))).ok()
}

/// A path with places in braces.
fn path(written: &Spanned<String>, cx: &mut Compile<'_>) -> Work {
    let mut pieces = Vec::new();
    let mut rest = written.value.as_str();
    let mut fixed = String::new();
    while let Some((before, after)) = rest.split_once('{') {
        let Some((place, after)) = after.split_once('}') else { break };
        fixed.push_str(before);
        let place = Spanned::new(place.to_owned(), written.place);
        pieces.extend(one(&place, cx).map(|at| (before.into(), at)));
        rest = after;
    }
    fixed.push_str(rest);
    let is_path =
        |text: &str| text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}?#%\\\"".contains(&byte));
    if !is_path(&fixed) || fixed.split('/').any(|segment| matches!(segment, "." | "..")) {
        let problem = Problem::error(written.place, "a path begins with `/`, and has no query, escapes, `.` or `..`");
        cx.problems.push(problem.hint("places stand in braces: `/customers/{/customer/id}`"));
    }
    Work::Path(pieces, rest.into())
}

/// A pointer to one place.
fn one(text: &Spanned<String>, cx: &mut Compile<'_>) -> Option<Pointer> {
    let found = pointer(text, text.place, cx)?;
    if !found.is_one() {
        cx.problems.push(Problem::error(text.place, "this needs one place: `*` and `**` are many"));
    }
    Some(found)
}

fn named(written: &super::config::Ordered<String>, cx: &mut Compile<'_>) -> Vec<(Pointer, Box<str>)> {
    let mut list = Vec::new();
    for (at, name) in &written.0 {
        if name.value.starts_with('/') {
            let problem = Problem::error(name.place, format!("`{}` is to be a name, not a place", name.value));
            cx.problems.push(problem.hint("`move` takes places"));
        }
        list.extend(pointer(at, name.place, cx).map(|at| (at, name.value.as_str().into())));
    }
    list
}
