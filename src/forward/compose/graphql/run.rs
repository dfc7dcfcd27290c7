//! The execution of one operation (section 6), level by level: all calls that one level needs are made at once, the same one once, and what
//! a `batch` can ask for together is asked for together.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::super::{Body, Done, Gathering, One, Question, State, crowd};
use super::note;
use super::tree::{Key, NODE, Tree, What};
use crate::exchange::Exchange;
use crate::graphql::ast::{Directive, Field, Kind as OperationKind, Operation, Selection, Type};
use crate::graphql::coerce::Variables;
use crate::graphql::schema::{FieldDef, Kind};
use crate::graphql::{Document, Wrong, coerce, introspect, validate};
use crate::head::RequestHead;
use crate::jose::json;
use crate::json::{Exact, Members};
use crate::route::compose::Part;
use crate::route::compose::facade::{Batch, Facade, FieldCall};
use crate::route::compose::state::Fault;
use crate::route::compose::text::{self, OfField, key, within};

/// For how many values memory is paid at once.
const AT_ONCE: usize = 1024;

/// How many bytes of values memory is paid for at once, at the least.
const PIECE: usize = 16 << 10;
/// The most that the arguments of one request's fields take together, in bytes.
const LARGEST_ARGUMENTS: usize = 64 << 20;

/// Why there is no answer.
#[derive(Clone, Copy)]
pub(super) enum Over {
    Memory,
    Values,
}

/// Fields that are one in the answer.
type Group<'a> = Arc<[&'a Field]>;

/// What is asked for of the objects of one type, whichever they are: found out once, for there may be very many of them.
struct Asked<'a> {
    key: &'a str,
    def: &'a FieldDef,
    fields: Group<'a>,
    arguments: Result<Arc<Value>, Wrong>,
}

/// By a type's name and a group's, as long as the latter is there.
type Known<'a> = HashMap<(usize, usize), (Group<'a>, Arc<[Asked<'a>]>), ahash::RandomState>;

/// A field that waits for a call.
struct Pending<'a> {
    node: u32,
    def: &'a FieldDef,
    fields: Group<'a>,
    what: Waits,
}

enum Waits {
    For(Question),
    /// One of a batch, with the field's arguments.
    Among(Exact, Arc<Value>),
    /// It is known what for.
    Asked,
}

/// All that one batch asks for.
struct Batched<'a> {
    number: usize,
    arguments: Arc<Value>,
    all: Vec<(Pending<'a>, Exact)>,
}

/// One call, and who waits for it.
struct Ask<'a> {
    number: usize,
    question: Question,
    waiting: Vec<(Pending<'a>, Option<Exact>)>,
}

/// What is under way.
pub(super) struct Running<'a> {
    gathering: &'a Gathering<'a>,
    facade: &'a Facade,
    document: &'a Document,
    variables: &'a Variables,
    tree: Tree<'a>,
    dones: Vec<Done>,
    calls_left: usize,
    /// How many values memory was paid for.
    paid: usize,
    /// How many bytes of values it was paid for that are not there yet.
    room: usize,
    /// What the arguments of fields take.
    arguments: Cell<usize>,
    /// Calls that wait and cannot be one with any other: what changes something is asked for each time.
    sure: usize,
    over: Option<Over>,
    known: Known<'a>,
}

type Next<'a> = Vec<Pending<'a>>;

/// The keys of one call for many, and who waits for it.
type Chunk<'a> = (Vec<Exact>, Vec<(Pending<'a>, Option<Exact>)>);

impl<'a> Running<'a> {
    pub(super) fn new(
        gathering: &'a Gathering<'a>,
        facade: &'a Facade,
        document: &'a Document,
        variables: &'a Variables,
        dones: Vec<Done>,
    ) -> Self {
        let calls_left = facade.max_calls;
        Running {
            gathering,
            facade,
            document,
            variables,
            tree: Tree::new(),
            dones,
            calls_left,
            paid: 0,
            room: 0,
            arguments: Cell::new(0),
            sure: 0,
            over: None,
            known: Known::default(),
        }
    }

    /// # Errors
    /// There is no room for the answer.
    pub(super) async fn execute(&mut self, operation: &'a Operation) -> Result<(), Over> {
        let facade = self.facade;
        let Some(root) = validate::root_of(&facade.schema, operation.kind) else { return Ok(()) };
        let mut next = Vec::new();
        let asked = self.asked(root, &[&operation.set]);
        self.object(0, root, &asked, &Exact::Null, &mut next);
        self.over.map_or(Ok(()), Err)?;
        if operation.kind == OperationKind::Mutation {
            // One after the other, each with all that is asked for of it.
            for one in next {
                self.levels(vec![one]).await?;
            }
            return Ok(());
        }
        self.levels(next).await
    }

    /// The answer, for which memory was paid, and what has become of the calls. `None`: there is no memory for it.
    pub(super) fn finish(self, text: &str) -> (Option<Vec<u8>>, Vec<Done>) {
        let mut length = Length(0);
        // Counting does not fail, nor does writing to memory.
        let _ = self.tree.write(text, &mut length);
        let body = self.gathering.asking.pays(length.0).then(|| {
            let mut body = Vec::with_capacity(length.0);
            let _ = self.tree.write(text, &mut body);
            body
        });
        (body, self.dones)
    }

    /// What has become of the calls, where there is no answer.
    pub(super) fn dones(self) -> Vec<Done> {
        self.dones
    }

    async fn levels(&mut self, mut pending: Next<'a>) -> Result<(), Over> {
        while !pending.is_empty() {
            let asks = self.asks(pending);
            let (gathering, began) = (self.gathering, Instant::now());
            let parts = &gathering.composed.composition.parts;
            let asking = asks.iter().map(|ask| async move {
                match parts.get(ask.number) {
                    Some(part) => (ask.number, gathering.one(part, &ask.question).await, began.elapsed()),
                    None => (ask.number, failed(Fault::Unavailable), began.elapsed()),
                }
            });
            let ones = crowd::all(asking, self.facade.at_once, |_| false).await;
            pending = Vec::new();
            for (ask, one) in asks.into_iter().zip(ones) {
                let Some((number, one, took)) = one else { continue };
                self.taken(number, one, took, ask.waiting, &mut pending);
            }
            self.over.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// The calls that a level needs, each once.
    fn asks(&mut self, pending: Next<'a>) -> Vec<Ask<'a>> {
        self.sure = 0;
        let mut asks: Vec<Ask<'a>> = Vec::new();
        let mut known: HashMap<Vec<u8>, usize, ahash::RandomState> = HashMap::default();
        // By the call and the arguments, which are one for all objects of a list.
        let mut batches: Vec<Batched<'a>> = Vec::new();
        let mut places: HashMap<(usize, usize), usize, ahash::RandomState> = HashMap::default();
        for one in pending {
            let Some(number) = one.def.call.filter(|_| self.tree.is_live(one.node)) else { continue };
            let Pending { node, def, fields, what } = one;
            let one = Pending { node, def, fields, what: Waits::Asked };
            match what {
                Waits::Among(key, arguments) => {
                    let place = *places.entry((number, Arc::as_ptr(&arguments).addr())).or_insert_with(|| {
                        let same = |batch: &Batched<'_>| batch.number == number && batch.arguments == arguments;
                        batches.iter().position(same).unwrap_or_else(|| {
                            batches.push(Batched { number, arguments: arguments.clone(), all: Vec::new() });
                            batches.len() - 1
                        })
                    });
                    if let Some(batch) = batches.get_mut(place) {
                        batch.all.push((one, key));
                    }
                }
                Waits::For(question) => {
                    let id = identity(number, &question);
                    match id.as_ref().and_then(|id| known.get(id)).and_then(|at| asks.get_mut(*at)) {
                        Some(ask) => ask.waiting.push((one, None)),
                        None => {
                            if let Some(ask) = self.ask(number, question, vec![(one, None)]) {
                                known.extend(id.map(|id| (id, asks.len())));
                                asks.push(ask);
                            }
                        }
                    }
                }
                Waits::Asked => {}
            }
        }
        for batch in batches {
            self.batch(batch, &mut asks);
        }
        asks
    }

    /// The calls of a batch, each with so many keys at most.
    fn batch(&mut self, batch: Batched<'a>, asks: &mut Vec<Ask<'a>>) {
        let Batched { number, arguments, all } = batch;
        let most = self.facade.calls.get(number).and_then(|call| call.batch.as_ref()).map_or(1, |batch| batch.most);
        // In the order in which they came, each once.
        let mut places: HashMap<String, usize, ahash::RandomState> = HashMap::default();
        let mut chunks: Vec<Chunk<'a>> = Vec::new();
        for (one, value) in all {
            let Some(text) = key(&value) else { continue };
            let next = places.len();
            let place = *places.entry(text).or_insert(next) / most;
            if place == chunks.len() {
                chunks.push(Default::default());
            }
            if let Some((keys, waiting)) = chunks.get_mut(place) {
                if places.len() > next {
                    keys.push(value.clone());
                }
                waiting.push((one, Some(value)));
            }
        }
        for (keys, waiting) in chunks {
            if self.calls_left == 0 {
                // Nothing is made of what nobody will be asked for.
                waiting.iter().for_each(|(one, _)| self.say_beyond(one));
                continue;
            }
            match self.question(number, &arguments, &Exact::Null, &keys) {
                Ok(question) => asks.extend(self.ask(number, question, waiting)),
                Err(fault) => {
                    self.note_fault(fault);
                    waiting.iter().for_each(|(one, _)| self.fail(one, fault));
                }
            }
        }
    }

    fn note_fault(&mut self, fault: Fault) {
        if fault == Fault::Memory {
            self.over = Some(Over::Memory);
        }
    }

    /// One call more, if there may be one.
    fn ask(&mut self, number: usize, question: Question, waiting: Vec<(Pending<'a>, Option<Exact>)>) -> Option<Ask<'a>> {
        match self.calls_left.checked_sub(1) {
            Some(left) => {
                self.calls_left = left;
                Some(Ask { number, question, waiting })
            }
            None => {
                waiting.iter().for_each(|(one, _)| self.say_beyond(one));
                None
            }
        }
    }

    fn say_beyond(&mut self, one: &Pending<'a>) {
        self.say(one, "too_many_calls", "This request would take more calls than one may make.");
    }

    /// Whether there can be no call more for what waits, before anything is made of it.
    fn is_beyond(&self, is_sure: bool) -> bool {
        self.calls_left == 0 || is_sure && self.sure >= self.calls_left
    }

    fn question(&self, number: usize, arguments: &Value, parent: &Exact, keys: &[Exact]) -> Result<Question, Fault> {
        let asking = self.gathering.asking;
        let (head, exchange): (&RequestHead, &Exchange) = (asking.head, asking.exchange);
        let part = self.part(number).ok_or(Fault::Unavailable)?;
        let none = Members::default();
        let field = Some(OfField { arguments, parent, keys });
        let known = text::Known { head, exchange, parts: &none, body: None, item: None, field };
        let question = Question::of(part, &known);
        if !question.has_answer(part) {
            return Err(Fault::NoValue);
        }
        if asking.pays(question.takes()) { Ok(question) } else { Err(Fault::Memory) }
    }

    fn call_changes(&self, number: usize) -> bool {
        self.part(number).is_some_and(|part| *part.request.method() != http::Method::GET)
    }

    fn part(&self, number: usize) -> Option<&'a Part> {
        self.gathering.composed.composition.parts.get(number)
    }

    fn call(&self, number: usize) -> Option<&'a FieldCall> {
        self.facade.calls.get(number)
    }

    /// What a call has come to, for all who have waited for it.
    fn taken(
        &mut self,
        number: usize,
        one: One,
        took: std::time::Duration,
        waiting: Vec<(Pending<'a>, Option<Exact>)>,
        next: &mut Next<'a>,
    ) {
        let (call, pays) = (self.call(number), |bytes: &Bytes| self.gathering.asking.pays(json::takes(bytes)));
        let batch = call.and_then(|call| call.batch.as_ref());
        let is_nothing = |status: u16| call.is_some_and(|call| call.nothing.iter().any(|known| known.as_u16() == status));
        let state = match one.state {
            State::Failed(Fault::Status(status)) if is_nothing(status) => State::Ok,
            state => state,
        };
        let value = match (state, one.body) {
            (State::Failed(fault), _) => Err(fault),
            _ if matches!(one.state, State::Failed(_)) => Ok(Exact::Null),
            (_, Body::Value(value)) => Ok(value),
            (_, Body::Raw(bytes)) if pays(&bytes) => Exact::read(&bytes).map_err(|_| Fault::Malformed),
            (_, Body::Raw(_)) => Err(Fault::Memory),
            (_, Body::Many(_)) => Err(Fault::Malformed),
        };
        let value = value.and_then(|value| match (batch, &value) {
            (None, _)
            | (Some(_), Exact::Null)
            | (Some(Batch { by: Some(_), .. }), Exact::List(_))
            | (Some(Batch { by: None, .. }), Exact::Object(_)) => Ok(value),
            _ => Err(Fault::Malformed),
        });
        if let Some(done) = self.dones.get_mut(number) {
            note(done, value.as_ref().map_or_else(|fault| State::Failed(*fault), |_| state), took, one.got);
        }
        let value = match value {
            Ok(value) => value,
            Err(fault) => {
                self.note_fault(fault);
                return waiting.iter().for_each(|(one, _)| self.fail(one, fault));
            }
        };
        let Some(batch) = batch else {
            for (one, _) in waiting {
                self.complete(one.node, &one.def.ty, &one.fields, &value, next);
            }
            return;
        };
        // Whose each is.
        let is_list = matches!(waiting.first().map(|(one, _)| one.def.ty.nullable()), Some(Type::List(_)));
        let mut found: HashMap<String, Vec<&Exact>, ahash::RandomState> = HashMap::default();
        match (&batch.by, &value) {
            (Some(by), Exact::List(items)) => {
                for item in items {
                    if let Some(of) = within(item, by).and_then(key) {
                        found.entry(of).or_default().push(item);
                    }
                }
            }
            (None, Exact::Object(members)) => found.extend(members.iter().map(|(name, member)| (name.clone(), vec![member]))),
            _ => {}
        }
        let by = batch.by.is_some();
        for (one, of) in waiting {
            let mine = of.as_ref().and_then(key).and_then(|of| found.get(&of)).map(Vec::as_slice).unwrap_or_default();
            if by && is_list {
                self.list(one.node, &one.def.ty, &one.fields, mine, next);
            } else {
                self.complete(one.node, &one.def.ty, &one.fields, mine.first().copied().unwrap_or(&Exact::Null), next);
            }
        }
    }

    fn fail(&mut self, one: &Pending<'a>, fault: Fault) {
        let message = match fault {
            Fault::NoValue => "What is needed to ask for it is not there.",
            Fault::Timeout => "It took too long.",
            _ => "It cannot be had.",
        };
        self.say(one, fault.word(), message);
    }

    fn say(&mut self, one: &Pending<'a>, code: &'static str, message: &str) {
        self.tree.fail(one.node, one.fields.first().map_or(0, |field| field.at), code, message.to_owned());
    }

    /// What is asked for of objects of this type by these sets.
    fn asked(&mut self, ty: &'a str, sets: &[&'a [Selection]]) -> Arc<[Asked<'a>]> {
        let schema = &self.facade.schema;
        let (none_left, taken) = (Cell::new(false), &self.arguments);
        let pays = |bytes: usize| {
            let all = taken.get().saturating_add(bytes);
            let is_paid = !none_left.get() && all <= LARGEST_ARGUMENTS && self.gathering.asking.pays(bytes);
            if is_paid {
                taken.set(all);
            } else {
                none_left.set(true);
            }
            is_paid
        };
        let (mut groups, mut seen) = (Groups::default(), BTreeSet::new());
        sets.iter().for_each(|set| self.collect(ty, set, &mut groups, &mut seen));
        let asked = groups.list.into_iter().filter_map(|(key, fields)| {
            let first = *fields.first()?;
            let def = schema.field(ty, &first.name)?;
            let arguments = coerce::arguments(schema, &def.arguments, &first.arguments, self.variables, first.at, &pays);
            Some(Asked { key, def, fields: fields.into(), arguments: arguments.map(|all| Arc::new(Value::Object(all))) })
        });
        let asked: Arc<[Asked<'a>]> = asked.collect();
        if none_left.get() {
            self.over.get_or_insert(Over::Memory);
        }
        asked
    }

    /// The fields of an object.
    fn object(&mut self, node: u32, ty: &'a str, all: &[Asked<'a>], source: &Exact, next: &mut Next<'a>) {
        self.tree.set(node, What::Object(Vec::with_capacity(all.len())));
        let schema = &self.facade.schema;
        // They stand in the order in which they were asked for, whenever they are had.
        let mut children = Vec::with_capacity(all.len());
        for asked in all {
            if !self.may_add() {
                return;
            }
            children.push(self.tree.add(node, Key::Name(asked.key), !asked.def.ty.is_non_null()));
        }
        for (child, Asked { def, fields, arguments, .. }) in children.into_iter().zip(all) {
            if *def.name == *"__typename" {
                self.tree.set(child, What::Leaf(ty.into()));
                continue;
            }
            let arguments = match arguments {
                Ok(arguments) => arguments,
                Err(wrong) => {
                    let at = wrong.at.first().copied().unwrap_or_default();
                    self.tree.fail(child, at, "bad_argument", wrong.message.clone());
                    continue;
                }
            };
            if let (Some(number), false) = (def.call, ty.starts_with("__")) {
                let of_batch = self.call(number).and_then(|call| call.batch.as_ref());
                let what = match of_batch {
                    Some(batch) => match within(source, &batch.key) {
                        // Who has no key has nothing.
                        None | Some(Exact::Null) => {
                            self.complete(child, &def.ty, fields, &Exact::Null, next);
                            continue;
                        }
                        Some(value) if key(value).is_some() => Ok(Waits::Among(value.clone(), arguments.clone())),
                        Some(_) => Err(Fault::NoValue),
                    },
                    None => {
                        let is_sure = self.call_changes(number);
                        if self.is_beyond(is_sure) {
                            let one = Pending { node: child, def, fields: fields.clone(), what: Waits::Asked };
                            self.say_beyond(&one);
                            continue;
                        }
                        let question = self.question(number, arguments, source, &[]);
                        self.sure += usize::from(is_sure && question.is_ok());
                        question.map(Waits::For)
                    }
                };
                let (fault, what) = match what {
                    Ok(what) => (None, what),
                    Err(fault) => (Some(fault), Waits::Asked),
                };
                let one = Pending { node: child, def, fields: fields.clone(), what };
                match fault {
                    None => next.push(one),
                    Some(fault) => {
                        self.note_fault(fault);
                        self.fail(&one, fault);
                    }
                }
                continue;
            }
            let none = Map::new();
            let arguments = arguments.as_object().unwrap_or(&none);
            if def.name.starts_with("__") {
                let value = introspect::root(schema, &def.name, arguments);
                self.complete(child, &def.ty, fields, &value.into(), next);
            } else if ty.starts_with("__") {
                // What stands for a part of the schema has no numbers.
                let value = introspect::field(schema, ty, &source.rounded(), &def.name, arguments);
                self.complete(child, &def.ty, fields, &value.into(), next);
            } else {
                let value = match def.from.is_empty() {
                    true => source.get(&def.name),
                    false => within(source, &def.from),
                };
                self.complete(child, &def.ty, fields, value.unwrap_or(&Exact::Null), next);
            }
        }
    }

    /// A value of a service's, as it is of its type (section 6.4.3).
    fn complete(&mut self, node: u32, ty: &'a Type, fields: &Group<'a>, value: &Exact, next: &mut Next<'a>) {
        let at = fields.first().map_or(0, |field| field.at);
        match ty {
            Type::NonNull(_) if value.is_null() => {
                self.tree.fail(node, at, "null", "There is nothing, where there has to be something.".to_owned());
            }
            Type::NonNull(within) => self.complete(node, within, fields, value, next),
            _ if value.is_null() => self.tree.set(node, What::Null),
            Type::List(_) => match value {
                Exact::List(items) => self.list(node, ty, fields, &items.iter().collect::<Vec<_>>(), next),
                _ => self.unfit(node, at),
            },
            Type::Named(name) => self.named(node, name, fields, value, next),
        }
    }

    fn unfit(&mut self, node: u32, at: u32) {
        self.tree.fail(node, at, "unfit", "What was answered is not what the schema says.".to_owned());
    }

    fn list(&mut self, node: u32, ty: &'a Type, fields: &Group<'a>, items: &[&Exact], next: &mut Next<'a>) {
        let Type::List(within) = ty.nullable() else { return };
        self.tree.set(node, What::List(Vec::with_capacity(items.len().min(self.facade.max_values))));
        for (number, item) in (0..).zip(items) {
            if !self.may_add() {
                return;
            }
            let child = self.tree.add(node, Key::At(number), !within.is_non_null());
            self.complete(child, within, fields, item, next);
        }
    }

    fn named(&mut self, node: u32, name: &'a str, fields: &Group<'a>, value: &Exact, next: &mut Next<'a>) {
        let at = fields.first().map_or(0, |field| field.at);
        let schema = &self.facade.schema;
        let concrete = match schema.kind(name) {
            Some(Kind::Object { .. }) => Some(name),
            Some(Kind::Interface { .. } | Kind::Union { .. }) => {
                let said = match self.facade.type_names.get(name) {
                    Some(steps) => within(value, steps),
                    None => value.get("__typename"),
                };
                let known = said.and_then(Exact::as_str).and_then(|said| schema.types.get_key_value(said));
                known.map(|(known, _)| &**known).filter(|known| schema.is_object(known) && schema.is_sub(known, name))
            }
            _ => {
                // It is copied, and may stand in very many places.
                if !self.has_room(coerce::takes_beside(value)) {
                    return;
                }
                return match coerce::output(schema, name, value) {
                    Some(value) => self.tree.set(node, What::Leaf(value)),
                    None => self.unfit(node, at),
                };
            }
        };
        // What describes the schema is named by texts.
        let is_one = value.is_object() || name.starts_with("__");
        match concrete.filter(|_| is_one) {
            Some(concrete) => {
                // A type's name is of the schema, a group is kept along: neither is ever another one's.
                let id = (concrete.as_ptr().addr(), Arc::as_ptr(fields).cast::<()>().addr());
                let asked = match self.known.get(&id) {
                    Some((_, asked)) => asked.clone(),
                    None => {
                        let sets: Vec<&'a [Selection]> = fields.iter().map(|field| field.set.as_slice()).collect();
                        let asked = self.asked(concrete, &sets);
                        self.known.insert(id, (fields.clone(), asked.clone()));
                        asked
                    }
                };
                self.object(node, concrete, &asked, value, next);
            }
            None => self.unfit(node, at),
        }
    }

    /// Whether there is memory for so many bytes of values more.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.over.is_some() {
            return false;
        }
        if self.room < bytes {
            let more = bytes.max(PIECE);
            if !self.gathering.asking.pays(more) {
                self.over = Some(Over::Memory);
                return false;
            }
            self.room += more;
        }
        self.room -= bytes;
        true
    }

    /// Whether there may be one more value.
    fn may_add(&mut self) -> bool {
        let count = self.tree.len();
        if count >= self.facade.max_values {
            self.over.get_or_insert(Over::Values);
        } else if count >= self.paid {
            self.paid += AT_ONCE;
            if !self.gathering.asking.pays(AT_ONCE * NODE) {
                self.over.get_or_insert(Over::Memory);
            }
        }
        self.over.is_none()
    }

    /// The fields of a set that are asked for of this type, in the order of their names in the answer (section 6.3.2).
    fn collect(&self, ty: &str, set: &'a [Selection], groups: &mut Groups<'a>, seen: &mut BTreeSet<&'a str>) {
        let applies = |on: &str| self.facade.schema.is_sub(ty, on);
        for selection in set {
            match selection {
                Selection::Field(field) if self.is_wanted(&field.directives) => groups.add(field),
                Selection::Inline { on, directives, set, .. }
                    if self.is_wanted(directives) && on.as_deref().is_none_or(applies) =>
                {
                    self.collect(ty, set, groups, seen);
                }
                Selection::Spread { name, directives, .. } if self.is_wanted(directives) && seen.insert(name) => {
                    if let Some(fragment) = self.document.fragments.get(name).filter(|fragment| applies(&fragment.on)) {
                        self.collect(ty, &fragment.set, groups, seen);
                    }
                }
                _ => {}
            }
        }
    }

    fn is_wanted(&self, directives: &[Directive]) -> bool {
        let schema = &self.facade.schema;
        let says = |name: &str| {
            let directive = directives.iter().find(|directive| *directive.name == *name)?;
            let defined = schema.directives.get(name)?.arguments.iter().find(|input| *input.name == *"if")?;
            // (It is true or false: no copy of it takes any memory.)
            let defined = std::slice::from_ref(defined);
            let arguments = coerce::arguments(schema, defined, &directive.arguments, self.variables, directive.at, &|_| true);
            arguments.ok()?.get("if")?.as_bool()
        };
        says("skip") != Some(true) && says("include") != Some(false)
    }
}

/// Fields by the names that they have in the answer.
#[derive(Default)]
struct Groups<'a> {
    list: Vec<(&'a str, Vec<&'a Field>)>,
    places: HashMap<&'a str, usize, ahash::RandomState>,
}

impl<'a> Groups<'a> {
    fn add(&mut self, field: &'a Field) {
        let place = *self.places.entry(field.key()).or_insert_with(|| {
            self.list.push((field.key(), Vec::new()));
            self.list.len() - 1
        });
        if let Some((_, group)) = self.list.get_mut(place)
            // Of what has no fields one is enough.
            && (group.is_empty() || !field.set.is_empty())
        {
            group.push(field);
        }
    }
}

/// How long what is written would be.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(fault: Fault) -> One {
    One { state: State::Failed(fault), body: Body::NULL, value: None, got: None }
}

/// What tells calls apart that may be one, with what stands in for each. `None` for one that is made each time.
fn identity(number: usize, question: &Question) -> Option<Vec<u8>> {
    let mut id = number.to_string().into_bytes();
    for request in [&question.request, &question.other] {
        // (No target and no field has an empty line in it.)
        id.extend_from_slice(b"\n\n");
        let Some(request) = request else { continue };
        if request.method != http::Method::GET {
            return None;
        }
        id.extend_from_slice(request.target.as_bytes());
        for (name, value) in &request.fields {
            id.push(b'\n');
            id.extend_from_slice(name.as_str().as_bytes());
            if let Some(value) = value {
                id.push(b':');
                id.extend_from_slice(value.as_bytes());
            }
        }
    }
    Some(id)
}
