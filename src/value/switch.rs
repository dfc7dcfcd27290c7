//! What is `true`, `false` or a map.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Reads one: `true` is the map in which nothing is written, `false` is `None`. `wanted`: what it is, for who has written something else.
///
/// # Errors
/// It is something else, or the map is bad.
pub fn switched<'de, D, T>(deserializer: D, wanted: &'static str) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    struct Switch<T>(&'static str, PhantomData<T>);

    impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Switch<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_bool<E: Error>(self, on: bool) -> Result<Option<T>, E> {
            Ok(on.then(T::default))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Switch(wanted, PhantomData))
}

/// The schema of one.
pub fn switched_schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let map = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, map] })
}
