//! A [`Node`] into any `Deserialize` type, collecting every problem on the way.
//!
//! Serde gives up at the first error. So the value that was refused is written down, marked as poisoned, and the whole is decoded
//! again as if that value were absent, until nothing more is found. What fails only because something below it was poisoned (a
//! required key that is refused, a list with an item missing) is poisoned in turn, silently. Containers remember how far they were
//! found good, so that ten thousand good routes are not decoded again for each bad one.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::access::{Entries, EntriesAsSeq, Items, KeyDe, Placed, Variant, reference_parts};
use super::fault::{Fault, What, unknown_key};
use super::redact::Veil;
use super::{Key, Kind, Node, Scalar, Style, magic, put_raw, scalar};
use crate::problem::{Place, Problem, Problems};

/// After so many problems of one decoding there is a last one that says so.
const MOST_PROBLEMS: usize = 100;
/// Decodings of a whole tree: each finds at least one more value to poison, a problem's own or one above it.
const MOST_PASSES: usize = 10 * MOST_PROBLEMS;
/// Shorter containers are not worth remembering.
const LONG: usize = 64;
/// So many of a long container's entries are always decoded, so that no visitor takes it for empty.
const ALWAYS: usize = 16;

/// Decodes a node, wherever it stands in its document. Every problem goes to `problems`, the first hundred at most. `None` if the value
/// as a whole cannot be had; `Some` together with new errors if what was refused could be left out (an unknown key, one item of a
/// list), which is good for finding more problems and for nothing else.
pub fn decode<T: DeserializeOwned>(node: &Node, problems: &mut Problems) -> Option<T> {
    let cx = Cx::default();
    let value = passes(node, &cx);
    let mut state = cx.state.into_inner();
    // What was refused while the file was parsed (a variable that is not set) is lost as well, though nothing new is said of it here.
    if !state.problems.is_empty() || !problems.is_empty() {
        state.note_losses(node, problems);
    }
    if state.full {
        state.problems.push(Problem::error(Place::NOWHERE, "there are more problems than these"));
    }
    for problem in state.problems {
        problems.push(problem);
    }
    value
}

fn passes<T: DeserializeOwned>(node: &Node, cx: &Cx) -> Option<T> {
    for _ in 0..MOST_PASSES {
        let before = cx.state.borrow().poisoned.len();
        match cx.run(std::marker::PhantomData::<T>, node, Veil::Nothing) {
            // The entries that this pass left out are good: once more with all of them.
            Ok(_) if std::mem::take(&mut cx.state.borrow_mut().skipped) => cx.state.borrow_mut().whole = true,
            Ok(value) => return Some(value),
            Err(_) => {
                let state = cx.state.borrow();
                let stuck = state.poisoned.len() == before;
                if stuck || state.full || state.poisoned.contains(&address(node)) {
                    return None;
                }
            }
        }
        cx.state.borrow_mut().skipped = false;
    }
    None
}

/// What one decoding knows beyond the tree.
#[derive(Default)]
pub(super) struct Cx {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    problems: Vec<Problem>,
    /// The addresses of nodes that count as absent.
    poisoned: HashSet<usize>,
    /// The addresses of keys that were reported as unknown.
    reported: HashSet<usize>,
    /// The addresses of empty lists under keys for which an empty list could be taken for "all" as well as for "none".
    void: HashSet<usize>,
    /// Maps with the known key that an unknown one in them was probably meant to be.
    meant: HashSet<(usize, String)>,
    /// How many entries of a long container are known to be good.
    good: HashMap<usize, usize>,
    /// This pass made use of `good`.
    skipped: bool,
    /// Nothing may be skipped any more.
    whole: bool,
    full: bool,
}

impl State {
    /// Notes which keys of which maps count as absent, or lack something below, so that what is missing for that reason alone is not
    /// said a second time. Whether this node lacks anything.
    fn note_losses(&self, node: &Node, problems: &mut Problems) -> bool {
        if matches!(node.kind, Kind::Broken(_)) || self.poisoned.contains(&address(node)) {
            return true;
        }
        let mut lost = false;
        for item in node.items() {
            lost |= self.note_losses(item, problems);
        }
        for (key, value) in node.entries() {
            if self.note_losses(value, problems) || self.reported.contains(&address(key)) {
                problems.lose(node.place, &key.text);
                lost = true;
            }
        }
        for (_, meant) in self.meant.iter().filter(|(map, _)| *map == address(node)) {
            problems.lose(node.place, meant);
        }
        lost
    }
}

/// A node's identity for as long as the tree is borrowed.
pub(super) fn address<T>(of: &T) -> usize {
    std::ptr::from_ref(of).addr()
}

impl Cx {
    pub(super) fn is_absent(&self, node: &Node) -> bool {
        matches!(node.kind, Kind::Broken(_)) || self.state.borrow().poisoned.contains(&address(node))
    }

    /// Decodes one node. The only way in, so that every error ends here at the node it belongs to.
    pub(super) fn run<'de, S: DeserializeSeed<'de>>(&self, seed: S, node: &'de Node, veil: Veil) -> Result<S::Value, Fault> {
        if self.is_absent(node) {
            return Err(Fault::Consequence);
        }
        let fresh = match seed.deserialize(De { node, cx: self, veil }) {
            Ok(value) => return Ok(value),
            Err(Fault::Recorded) => return Err(Fault::Recorded),
            Err(Fault::Consequence) => None,
            Err(Fault::Fresh(fresh)) => Some(fresh),
        };
        if let Some(fresh) = fresh.filter(|fresh| !self.is_consequence(&fresh.what, node)) {
            let (message, hint) = fresh.into_words(node, veil);
            self.report(node.place, message, hint)?;
        }
        self.state.borrow_mut().poisoned.insert(address(node));
        Err(Fault::Recorded)
    }

    /// Whether a container is refused only for what is absent in it.
    fn is_consequence(&self, what: &What, node: &Node) -> bool {
        match what {
            What::Missing(field) => {
                node.get(field).is_some_and(|value| self.is_absent(value))
                    || self.state.borrow().meant.contains(&(address(node), (*field).to_owned()))
            }
            What::Words(_) | What::Length(_) => {
                node.items().iter().any(|item| self.is_absent(item))
                    || node.entries().iter().any(|(_, value)| self.is_absent(value))
            }
            _ => false,
        }
    }

    /// Notes a list that must not be empty; see [`super::may_be_empty`].
    pub(super) fn note_value(&self, key: &Key, node: &Node) {
        if matches!(&node.kind, Kind::Seq(items) if items.is_empty()) && !super::may_be_empty(&key.text) {
            self.state.borrow_mut().void.insert(address(node));
        }
    }

    fn is_void(&self, node: &Node) -> bool {
        self.state.borrow().void.contains(&address(node))
    }

    fn report(&self, place: Place, message: String, hint: Option<String>) -> Result<(), Fault> {
        let mut state = self.state.borrow_mut();
        if state.problems.len() >= MOST_PROBLEMS {
            state.full = true;
            return Err(Fault::Recorded);
        }
        state.problems.push(Problem { hint, ..Problem::error(place, message) });
        Ok(())
    }

    /// A key that the visitor refused: its entry counts as absent.
    pub(super) fn refuse_key(&self, fault: Fault, key: &Key, value: &Node, map: usize) -> Fault {
        let Fault::Fresh(fresh) = fault else { return fault };
        if let What::UnknownKey { allowed, .. } = fresh.what {
            if self.unknown(key, allowed, map).is_err() {
                return Fault::Recorded;
            }
        } else {
            let as_node = Node {
                place: key.place,
                kind: Kind::Scalar(Scalar { text: key.text.clone(), style: Style::Plain, written: None }),
            };
            let (message, hint) = fresh.into_words(&as_node, Veil::Nothing);
            if self.report(key.place, message, hint).is_err() {
                return Fault::Recorded;
            }
        }
        self.state.borrow_mut().poisoned.insert(address(value));
        Fault::Recorded
    }

    fn unknown(&self, key: &Key, allowed: &[&str], map: usize) -> Result<(), Fault> {
        if !self.state.borrow_mut().reported.insert(address(key)) {
            return Ok(());
        }
        if let Some(meant) = crate::problem::foreign::meant(&key.text, allowed) {
            self.state.borrow_mut().meant.insert((map, meant.to_owned()));
        }
        let (message, hint) = unknown_key(&key.text, allowed);
        self.report(key.place, message, hint)
    }

    /// Where to go on after the first [`ALWAYS`] entries of a container with `length` of them.
    pub(super) fn good_until(&self, container: usize, length: usize) -> Option<usize> {
        if length < LONG {
            return None;
        }
        let state = self.state.borrow();
        state.good.get(&container).copied().filter(|good| !state.whole && *good > ALWAYS)
    }

    /// Whether the entry at `index` need not be decoded in this pass.
    pub(super) fn skips(&self, index: usize, good: Option<usize>) -> bool {
        let skips = index >= ALWAYS && good.is_some_and(|good| index < good);
        if skips {
            self.state.borrow_mut().skipped = true;
        }
        skips
    }

    pub(super) fn set_good(&self, container: usize, length: usize, good: usize) {
        if length >= LONG {
            self.state.borrow_mut().good.insert(container, good);
        }
    }
}

/// The deserializer over one node.
#[derive(Clone, Copy)]
pub(super) struct De<'de, 'c> {
    pub node: &'de Node,
    pub cx: &'c Cx,
    pub veil: Veil,
}

impl<'de, 'c> De<'de, 'c> {
    fn void(self) -> Fault {
        Fault::hinted(
            What::Safe("an empty list says nothing here".to_owned()),
            "leave the key out, or write what belongs in the list",
        )
    }

    fn refuse<V: Visitor<'de>>(self, visitor: &V) -> Fault {
        Fault::invalid_type(Unexpected::Other(""), visitor)
    }

    fn items(self, nodes: &'de [Node]) -> Items<'de, 'c> {
        Items::new(nodes, self.cx, self.veil.over_items())
    }

    fn entries(self, entries: &'de [(Key, Node)]) -> Entries<'de, 'c> {
        Entries::new(entries, self.cx, self.veil, address(self.node), None)
    }

    /// The text where a number or a truth value is asked for: unquoted, or a whole reference, which flow style forces into quotes.
    fn unquoted(self) -> Option<&'de str> {
        match &self.node.kind {
            Kind::Scalar(found) if found.style == Style::Plain || found.reference().is_some() => Some(&found.text),
            _ => None,
        }
    }

    fn integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Some(text) = self.unquoted() else { return Err(self.refuse(&visitor)) };
        if let Some(number) = scalar::unsigned(text) {
            visitor.visit_u64(number)
        } else if let Some(number) = scalar::signed(text) {
            visitor.visit_i64(number)
        } else {
            Err(self.refuse(&visitor))
        }
    }

    fn float<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.unquoted().and_then(|text| scalar::unsigned(text).map(|number| number as f64).or_else(|| scalar::float(text)))
        {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.refuse(&visitor)),
        }
    }

    fn text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Scalar(found) => visitor.visit_borrowed_str(&found.text),
            _ => Err(self.refuse(&visitor)),
        }
    }

    fn secret<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Scalar(found) => match reference_parts(found) {
                Some(parts) => visitor.visit_seq(parts),
                None => Err(Fault::hinted(What::Safe(super::NO_LITERAL.to_owned()), super::INSTEAD_OF_LITERAL)),
            },
            Kind::Map(entries) => visitor.visit_map(self.entries(entries)),
            _ => Err(self.refuse(&visitor)),
        }
    }
}

macro_rules! by {
    ($how:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.$how(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for De<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Seq(items) => visitor.visit_seq(self.items(items)),
            Kind::Map(entries) => visitor.visit_map(self.entries(entries)),
            Kind::Broken(_) => Err(Fault::Consequence),
            Kind::Scalar(Scalar { text, style: Style::Quoted, .. }) => visitor.visit_borrowed_str(text),
            Kind::Scalar(Scalar { text, .. }) => {
                if let Some(truth) = scalar::truth(text) {
                    visitor.visit_bool(truth)
                } else if let Some(number) = scalar::unsigned(text) {
                    visitor.visit_u64(number)
                } else if let Some(number) = scalar::signed(text) {
                    visitor.visit_i64(number)
                } else if let Some(number) = scalar::float(text) {
                    visitor.visit_f64(number)
                } else {
                    visitor.visit_borrowed_str(text)
                }
            }
        }
    }

    by!(integer: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    by!(integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    by!(float: deserialize_f32 deserialize_f64);
    by!(text: deserialize_str deserialize_string deserialize_char deserialize_identifier);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.unquoted().and_then(scalar::truth) {
            Some(truth) => visitor.visit_bool(truth),
            None => Err(self.refuse(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // Also for nothing at all: a key with nothing behind it is a mistake (a value that was commented out, a template's empty
        // variable), and to take it for absent would turn off, without a word, what the key is there to turn on.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match name {
            magic::SPANNED => visitor.visit_seq(Placed::new(self)),
            magic::SECRET => self.secret(visitor),
            magic::ONE_OR_MANY => match &self.node.kind {
                Kind::Seq(_) if self.cx.is_void(self.node) => Err(self.void()),
                Kind::Seq(items) => visitor.visit_seq(self.items(items)),
                _ => visitor.visit_seq(Items::new(std::slice::from_ref(self.node), self.cx, self.veil)),
            },
            magic::RAW => {
                put_raw(Arc::new(self.node.clone()));
                visitor.visit_unit()
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Seq(_) if self.cx.is_void(self.node) => Err(self.void()),
            Kind::Seq(items) => visitor.visit_seq(self.items(items)),
            // A list of pairs, which keeps the order of a map.
            Kind::Map(entries) => visitor.visit_seq(EntriesAsSeq(self.entries(entries))),
            _ => Err(self.refuse(&visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            // Serde's tuples take what they need and do not look whether more follows.
            Kind::Seq(items) if items.len() > length => Err(Fault::invalid_length(items.len(), &visitor)),
            Kind::Seq(items) => visitor.visit_seq(self.items(items)),
            _ => Err(self.refuse(&visitor)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Map(entries) => visitor.visit_map(self.entries(entries)),
            _ => Err(self.refuse(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Kind::Map(entries) = &self.node.kind else { return Err(self.refuse(&visitor)) };
        let map = address(self.node);
        for (key, _) in entries.iter().filter(|(key, _)| !fields.contains(&key.text.as_str())) {
            self.cx.unknown(key, fields, map)?;
        }
        visitor.visit_map(Entries::new(entries, self.cx, self.veil, map, Some(fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.kind {
            Kind::Scalar(found) if variants.contains(&found.text.as_str()) => {
                let word: StrDeserializer<'_, Fault> = found.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            Kind::Scalar(_) => Err(Fault::fresh(What::UnknownVariant { variants })),
            Kind::Map(entries) => match entries.as_slice() {
                [(key, value)] => visitor.visit_enum(Variant { key, value, de: self }),
                _ => Err(Fault::fresh(What::Expected(format!("a map with exactly one of the keys {}", variants.join(", "))))),
            },
            _ => Err(Fault::fresh(What::Expected(format!("one of {}", variants.join(", "))))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct }
}

/// A key as a deserializer, for the types that ask it for more than text.
pub(super) fn key_de(key: &Key) -> KeyDe<'_> {
    KeyDe { key }
}
