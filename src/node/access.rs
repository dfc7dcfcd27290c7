//! How serde walks through a list, a map, an enum and our placed values: [`super::de`] without the scalars.

use serde::de::value::{SeqDeserializer, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::de::{Cx, De, address, key_de};
use super::fault::Fault;
use super::redact::Veil;
use super::{Key, Node, Scalar, scalar};

/// The items of a list but the poisoned ones.
pub(super) struct Items<'de, 'c> {
    nodes: &'de [Node],
    next: usize,
    cx: &'c Cx,
    veil: Veil,
    good: Option<usize>,
}

/// A list's identity: odd, so that it is not the address of its first item.
fn list_id(nodes: &[Node]) -> usize {
    nodes.as_ptr().addr() | 1
}

impl<'de, 'c> Items<'de, 'c> {
    pub(super) fn new(nodes: &'de [Node], cx: &'c Cx, veil: Veil) -> Self {
        Items { nodes, next: 0, cx, veil, good: cx.good_until(list_id(nodes), nodes.len()) }
    }

    fn set_good(&self, good: usize) {
        self.cx.set_good(list_id(self.nodes), self.nodes.len(), good);
    }
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        while let Some(node) = self.nodes.get(self.next) {
            let index = self.next;
            self.next += 1;
            if self.cx.skips(index, self.good) || self.cx.is_absent(node) {
                continue;
            }
            return self.cx.run(seed, node, self.veil).map(Some).inspect_err(|_| self.set_good(index));
        }
        self.set_good(self.nodes.len());
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len().saturating_sub(self.next))
    }
}

/// The entries of a map but the poisoned ones, and for a struct only those it knows.
pub(super) struct Entries<'de, 'c> {
    entries: &'de [(Key, Node)],
    next: usize,
    value: Option<&'de (Key, Node)>,
    cx: &'c Cx,
    veil: Veil,
    /// The map's own address.
    map: usize,
    fields: Option<&'static [&'static str]>,
    good: Option<usize>,
}

impl<'de, 'c> Entries<'de, 'c> {
    pub(super) fn new(
        entries: &'de [(Key, Node)],
        cx: &'c Cx,
        veil: Veil,
        map: usize,
        fields: Option<&'static [&'static str]>,
    ) -> Self {
        Entries { entries, next: 0, value: None, cx, veil, map, fields, good: cx.good_until(map, entries.len()) }
    }

    fn advance(&mut self) -> Option<&'de (Key, Node)> {
        while let Some(entry) = self.entries.get(self.next) {
            let index = self.next;
            self.next += 1;
            let known = self.fields.is_none_or(|fields| fields.contains(&entry.0.text.as_str()));
            if known && !self.cx.skips(index, self.good) && !self.cx.is_absent(&entry.1) {
                return Some(entry);
            }
        }
        self.cx.set_good(self.map, self.entries.len(), self.entries.len());
        None
    }

    /// The entry that was handed out last is not good.
    fn stop(&self) {
        self.cx.set_good(self.map, self.entries.len(), self.next.saturating_sub(1));
    }

    fn key<S: DeserializeSeed<'de>>(&self, seed: S, entry: &'de (Key, Node)) -> Result<S::Value, Fault> {
        seed.deserialize(key_de(&entry.0)).map_err(|fault| {
            self.stop();
            self.cx.refuse_key(fault, &entry.0, &entry.1, self.map)
        })
    }

    fn value<S: DeserializeSeed<'de>>(&self, seed: S, entry: &'de (Key, Node)) -> Result<S::Value, Fault> {
        let veil = self.veil.over(&entry.0.text, self.entries);
        self.cx.note_value(&entry.0, &entry.1);
        self.cx.run(seed, &entry.1, veil).inspect_err(|_| self.stop())
    }
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.value = self.advance();
        self.value.map(|entry| self.key(seed, entry)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self.value.take().ok_or_else(|| Fault::custom("a value was asked for before its key"))?;
        self.value(seed, entry)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len().saturating_sub(self.next))
    }
}

/// A map where a list is asked for: each item is a pair, and nothing but a pair.
pub(super) struct EntriesAsSeq<'de, 'c>(pub Entries<'de, 'c>);

impl<'de> SeqAccess<'de> for EntriesAsSeq<'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        match self.0.advance() {
            Some(entry) => seed.deserialize(EntryDe { entries: &self.0, entry }).map(Some),
            None => Ok(None),
        }
    }
}

struct EntryDe<'a, 'de, 'c> {
    entries: &'a Entries<'de, 'c>,
    entry: &'de (Key, Node),
}

impl<'de> Deserializer<'de> for EntryDe<'_, 'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::invalid_type(Unexpected::Map, &"a list"))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        if length == 2 { visitor.visit_seq(Pair { de: self, next: 0 }) } else { self.deserialize_any(visitor) }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple_struct map struct enum identifier ignored_any
    }
}

struct Pair<'a, 'de, 'c> {
    de: EntryDe<'a, 'de, 'c>,
    next: u8,
}

impl<'de> SeqAccess<'de> for Pair<'_, 'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.next += 1;
        match self.next {
            1 => self.de.entries.key(seed, self.de.entry).map(Some),
            2 => self.de.entries.value(seed, self.de.entry).map(Some),
            _ => Ok(None),
        }
    }
}

/// A place's three numbers, then the value: what `Spanned` reads.
pub(super) struct Placed<'de, 'c> {
    de: De<'de, 'c>,
    next: u8,
}

impl<'de, 'c> Placed<'de, 'c> {
    pub(super) fn new(de: De<'de, 'c>) -> Self {
        Placed { de, next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Placed<'de, '_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let place = self.de.node.place;
        let number: U32Deserializer<Fault> = match self.next {
            0 => place.line,
            1 => place.column,
            2 => place.width,
            3 => {
                self.next += 1;
                return seed.deserialize(self.de).map(Some);
            }
            _ => return Ok(None),
        }
        .into_deserializer();
        self.next += 1;
        seed.deserialize(number).map(Some)
    }
}

/// The name and the value of a `${NAME}`; `None` for any other scalar.
pub(super) fn reference_parts(found: &Scalar) -> Option<SeqDeserializer<std::array::IntoIter<&str, 2>, Fault>> {
    found.reference().map(|name| SeqDeserializer::new([name, found.text.as_str()].into_iter()))
}

/// `{ variant: content }`.
pub(super) struct Variant<'de, 'c> {
    pub key: &'de Key,
    pub value: &'de Node,
    pub de: De<'de, 'c>,
}

impl<'de, 'c> EnumAccess<'de> for Variant<'de, 'c> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        match seed.deserialize(key_de(self.key)) {
            Ok(variant) => Ok((variant, self)),
            Err(fault) => Err(self.de.cx.refuse_key(fault, self.key, self.value, address(self.de.node))),
        }
    }
}

impl<'de> Variant<'de, '_> {
    fn content<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let veil = self.de.veil.over(&self.key.text, self.de.node.entries());
        self.de.cx.run(seed, self.value, veil)
    }
}

/// Hands a visitor on to a struct's or a tuple's deserializer, so that it goes through [`Cx::run`].
struct Content<V> {
    visitor: V,
    shape: Shape,
}

enum Shape {
    Tuple(usize),
    Struct(&'static [&'static str]),
}

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Content<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        match self.shape {
            Shape::Tuple(length) => deserializer.deserialize_tuple(length, self.visitor),
            Shape::Struct(fields) => deserializer.deserialize_struct("", fields, self.visitor),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'de, '_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        if self.value.is_null() {
            return Ok(());
        }
        Err(Fault::custom(format_args!("`{}` is a word of its own and takes no settings", self.key.text)))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.content(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        self.content(Content { visitor, shape: Shape::Tuple(length) })
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.content(Content { visitor, shape: Shape::Struct(fields) })
    }
}

/// A key: text first, but a number or a word of an enum where the type asks for one.
pub(super) struct KeyDe<'de> {
    pub key: &'de Key,
}

impl<'de> KeyDe<'de> {
    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = &self.key.text;
        if let Some(number) = scalar::unsigned(text) {
            visitor.visit_u64(number)
        } else if let Some(number) = scalar::signed(text) {
            visitor.visit_i64(number)
        } else {
            Err(Fault::invalid_type(Unexpected::Str(text), &visitor))
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for KeyDe<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(&self.key.text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == super::magic::SPANNED {
            visitor.visit_seq(PlacedKey { key: self.key, next: 0 })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let word: StrDeserializer<'_, Fault> = self.key.text.as_str().into_deserializer();
        visitor.visit_enum(word)
    }

    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);

    forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct PlacedKey<'de> {
    key: &'de Key,
    next: u8,
}

impl<'de> SeqAccess<'de> for PlacedKey<'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.next += 1;
        let place = self.key.place;
        let number: U32Deserializer<Fault> = match self.next {
            1 => place.line,
            2 => place.column,
            3 => place.width,
            4 => return seed.deserialize(key_de(self.key)).map(Some),
            _ => return Ok(None),
        }
        .into_deserializer();
        seed.deserialize(number).map(Some)
    }
}
