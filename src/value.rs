//! The small values that configuration types are made of: durations, sizes, rates, secrets, and wrappers that keep places.
//!
//! They are written the way people say them (`500ms`, `2MiB`, `1000/minute`) and refuse what is ambiguous. What a value means to
//! a policy is not in here.

mod bounds;
pub mod braces;
mod secret;
mod statuses;
mod switch;
mod units;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

pub use self::bounds::{count_within, period_within, share_within, up_to_an_hour};
pub use self::secret::Secret;
pub use self::statuses::StatusRange;
pub use self::switch::{switched, switched_schema};
pub use self::units::{Period, Rate, Share, Size};
use crate::node::{self, Node, magic};
use crate::problem::Place;

/// A value together with the place where it was written. Read by any deserializer but this crate's, the place is
/// [`Place::NOWHERE`]. Two values at different places are equal.
#[derive(Clone, Copy, Default)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Spanned<T> {
    pub fn new(value: T, place: Place) -> Self {
        Spanned { value, place }
    }

    /// A value that nobody wrote: a default.
    pub fn nowhere(value: T) -> Self {
        Spanned { value, place: Place::NOWHERE }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> From<T> for Spanned<T> {
    fn from(value: T) -> Self {
        Spanned::nowhere(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: PartialOrd> PartialOrd for Spanned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Spanned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl<T: std::hash::Hash> std::hash::Hash for Spanned<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);

        macro_rules! single {
            ($($method:ident($type:ty)),*) => {
                $(fn $method<E: de::Error>(self, value: $type) -> Result<Self::Value, E> {
                    T::deserialize(value.into_deserializer()).map(Spanned::nowhere)
                })*
            };
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            // Our deserializer: the three numbers of the place, then the value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let short = || A::Error::custom("a placed value was not complete");
                let line = seq.next_element()?.ok_or_else(short)?;
                let column = seq.next_element()?.ok_or_else(short)?;
                let width = seq.next_element()?.ok_or_else(short)?;
                let value = seq.next_element()?.ok_or_else(short)?;
                Ok(Spanned { value, place: Place { line, column, width } })
            }

            // Every other one.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(Spanned::nowhere)
            }

            // Serde's own deserializers of single values hand them over as they are.
            single!(visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str));

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Spanned::nowhere)
            }
        }

        deserializer.deserialize_newtype_struct(magic::SPANNED, SpannedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany(Vec::new())
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for OneOrMany<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        /// The single values, for other deserializers than ours, which always gives a sequence.
        macro_rules! single {
            ($($method:ident($type:ty)),*) => {
                $(fn $method<E: de::Error>(self, value: $type) -> Result<Self::Value, E> {
                    T::deserialize(value.into_deserializer()).map(|value| OneOrMany(vec![value]))
                })*
            };
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(|value| OneOrMany(vec![value]))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_any(self)
            }

            single!(visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str));
        }

        deserializer.deserialize_newtype_struct(magic::ONE_OR_MANY, ListVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// Any YAML, kept with its places, to be decoded later with [`node::decode`]. Only this crate's deserializer can read one.
#[derive(Clone, Debug)]
pub struct Raw(pub Arc<Node>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            // Our deserializer leaves the node beside the road, for nothing but plain data passes through a visitor.
            fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
                node::take_raw().map(Raw).ok_or_else(|| E::custom("a raw value needs a configuration file"))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Raw, D::Error> {
                Err(D::Error::custom("a raw value needs a configuration file"))
            }
        }

        deserializer.deserialize_newtype_struct(magic::RAW, RawVisitor)
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        node::redacted_json(&self.0).serialize(serializer)
    }
}

impl JsonSchema for Raw {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Raw".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}
