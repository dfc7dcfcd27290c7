//! What people write.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::value::{OneOrMany, Size, Spanned, StatusRange};

#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReshapeConfig {
    /// Steps for a request's JSON body, on its way to the service, in their order.
    pub request: Vec<Spanned<StepConfig>>,
    /// Steps for an answer's JSON body, on its way to the client. Those that are `keep` and `remove` alone work on it as it comes; others hold it
    /// until it is whole.
    pub response: Vec<Spanned<StepConfig>>,
    /// The answers whose bodies are worked on: `2xx`, `[ 200, 404 ]`. Default: all. What leaves with another status leaves as it is.
    pub statuses: Option<OneOrMany<StatusRange>>,
    /// The longest body that is held until it is whole, up to 16MiB. Default: 1MiB.
    pub up_to: Option<Spanned<Size>>,
    /// What is done with a longer one that would have to be held: a request gets 413, an answer becomes 502 (`refuse`), or it goes on as it is
    /// (`pass`). Default: `refuse`.
    pub beyond: Otherwise,
    /// What is done with a body that says it is JSON and cannot be read, or has an object with a name twice: a request gets 400, an answer becomes
    /// 502, or breaks off where it has begun (`refuse`); or it goes on as it is (`pass`). Default: `refuse`.
    pub on_unparsable: Otherwise,
    /// What is done with a body of another type than JSON, or in a coding that cannot be undone (of answers: in any): a request gets 415, or 400 where it
    /// is not coded as it says, an answer of 2xx becomes 502, and others go without their body (`refuse`); or it goes on as it is (`pass`), as pictures and pages do. Default: `refuse`.
    pub other_types: Otherwise,
    /// Whether a form (`application/x-www-form-urlencoded`) is taken for an object of texts, and goes to the service as JSON; a name that comes several
    /// times becomes an array. Default: false.
    pub forms: bool,
    /// Whether bodies may be XML, and in which form they go on. Default: they are JSON.
    pub xml: Option<Box<XmlConfig>>,
}

/// Bodies of XML and JSON. Steps work on JSON, whatever a body was and becomes.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct XmlConfig {
    /// The form in which requests go on to the service: `json` or `xml`. Default: XML is another type than JSON.
    pub request: Option<Format>,
    /// The form in which answers go on to the client: `json`, `xml`, or `accept`, which is the one that it likes better by its `Accept`, else what the service
    /// sent.
    pub response: Option<Format>,
    /// Elements that are always lists in JSON, also where there is one of them.
    pub lists: Option<OneOrMany<Spanned<String>>>,
    /// The element around what has not one member alone. Default: `root`.
    pub root: Option<Spanned<String>>,
    /// The `Content-Type` of XML that is made. Default: `application/xml; charset=utf-8`.
    pub media_type: Option<Spanned<String>>,
}

/// See [`XmlConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "BodyFormat")]
pub enum Format {
    Json,
    Xml,
    Accept,
}

/// What becomes of what cannot be reshaped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// It goes no further.
    #[default]
    Refuse,
    /// It goes on as it is, whole.
    Pass,
}

/// One step: one of the keys below, and `when`. Places are JSON Pointers: `/items/*/id`, where `*` is every element or member, and `**` any depth.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StepConfig {
    /// A condition in CEL: the step is left out for requests for which it is false. One that fails counts as true for `keep` and `remove`, and as
    /// false for all others.
    pub when: Option<Spanned<String>>,
    /// Members and their new names: `{ /customer_id: customerId }`. Each keeps its place; a member that had the name goes.
    pub rename: Option<Ordered<String>>,
    /// Places and where what is there goes: `{ /address/city: /city }`. A `*` stands in both alike, before they part.
    #[serde(rename = "move")]
    pub moved: Option<Ordered<String>>,
    /// Places from which what is there goes.
    pub remove: Option<OneOrMany<Spanned<String>>>,
    /// Places of which what is there is all that stays, with the objects and arrays around it.
    pub keep: Option<OneOrMany<Spanned<String>>>,
    /// Places and their values: `{ /source: web, /customer: { expr: identity.consumer } }`. A value that cannot be made removes what is there.
    pub set: Option<Ordered<ValueConfig>>,
    /// The same, for places where nothing is.
    #[serde(rename = "default")]
    pub absent: Option<Ordered<ValueConfig>>,
    /// Places and names: what is there becomes the one member of an object. `{ "": data }` wraps the whole body.
    pub wrap: Option<Ordered<String>>,
    /// Places and names: the object there gives way to its member of that name. One without it stays.
    pub unwrap: Option<Ordered<String>>,
    /// Steps for each element of arrays, whose pointers begin at the element.
    #[schemars(with = "Option<MapSchema>")]
    pub map: Option<Box<MapConfig>>,
    /// Places and types: `string`, `number`, `integer`, `boolean` or `array`. Digits stay as they are; what is no value of the type stays too.
    pub convert: Option<Ordered<Target>>,
    /// Header fields and the places that they get their values from: of the request to the service, or of the answer. Where nothing is, or an
    /// object, or what no header can hold, the field is removed.
    pub header: Option<Ordered<String>>,
    /// The same for query parameters of the request to the service.
    pub query: Option<Ordered<String>>,
    /// The path of the request to the service, with places in braces: `/customers/{/customer/id}/orders`. Each is one segment, encoded; a body
    /// without one of them, or in which one is empty, `.` or `..`, cannot be reshaped.
    pub path: Option<Spanned<String>>,
}

/// `map` without its steps' steps, which would be a schema without an end in the reference.
#[derive(JsonSchema)]
#[schemars(rename = "MapConfig")]
#[allow(dead_code, reason = "it is there for its schema")]
struct MapSchema {
    /// The arrays.
    over: String,
    /// As in `request` and `response`.
    steps: Vec<serde_json::Map<String, Value>>,
}

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapConfig {
    pub over: Spanned<String>,
    pub steps: Vec<Spanned<StepConfig>>,
}

/// What a value is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    String,
    Number,
    Integer,
    Boolean,
    Array,
}

/// A value: a text, number or boolean as it is written, or a table that says where it comes from.
#[derive(Debug, Clone)]
pub struct ValueConfig(pub Value);

impl<'de> Deserialize<'de> for ValueConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_null() {
            return Err(serde::de::Error::custom(
                "found nothing where a value is expected; null is written `{ json: \"null\" }`",
            ));
        }
        Ok(ValueConfig(value))
    }
}

impl JsonSchema for ValueConfig {
    fn schema_name() -> Cow<'static, str> {
        "ReshapeValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text, a number or a boolean; or a table with one key: `expr` (CEL), `header`, `query` or `param` (the request's field, \
                            query parameter or path parameter, as text), `json` (JSON as it is written, digit for digit) or `value` (any YAML).",
            "type": ["string", "number", "boolean", "object"]
        })
    }
}

/// A table whose entries keep their order.
#[derive(Debug, Clone)]
pub struct Ordered<T>(pub Vec<(String, Spanned<T>)>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for MapVisitor<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    list.push(entry);
                }
                Ok(Ordered(list))
            }
        }

        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ordered_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, T>::json_schema(generator)
    }
}
