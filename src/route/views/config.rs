//! `routes[].views` and `routes[].view_parameter`, as they are written.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::route::compose::ComposeConfig;
use crate::route::config::ValueMatch;
use crate::route::{Device, ordered::InOrder};
use crate::value::{OneOrMany, Raw, Spanned};

/// Views by name, in the order in which they are tried.
pub type ViewsConfig = InOrder<ViewConfig>;

/// One view: whom it is for, and what they get. All that is written of the former has to hold; the last view says nothing of it, and is for
/// everybody else.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// The class or classes of device that it is for, as far as the client's User-Agent and client hints tell.
    #[serde(default)]
    pub device: Option<OneOrMany<Device>>,
    /// Header fields that the request must have, written like the route's `headers`.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<ValueMatch>>,
    /// The consumers that it is for, by name.
    #[serde(default)]
    pub consumers: Option<OneOrMany<Spanned<String>>>,
    /// The groups of which a client has to be in one.
    #[serde(default)]
    pub groups: Option<OneOrMany<Spanned<String>>>,
    /// The plans of which a client has to have one.
    #[serde(default)]
    pub plans: Option<OneOrMany<Spanned<String>>>,
    /// The scopes of which a client has to have one.
    #[serde(default)]
    pub scopes: Option<OneOrMany<Spanned<String>>>,
    /// Nobody gets it who does not ask for it by the route's `view_parameter`. Default: false.
    #[serde(default)]
    pub only_asked: bool,
    /// The service that answers, written like the route's `service`. Default: what the route says.
    #[serde(default)]
    pub service: Option<Spanned<String>>,
    /// The port, where `service` is a host name. 1 to 65535.
    #[serde(default)]
    pub port: Option<u16>,
    /// An answer made of those of several services, in place of a service's.
    #[serde(default)]
    pub compose: Option<Box<Spanned<ComposeConfig>>>,
    /// Policies of this view alone, each in place of the route's of that name: those that come once it is known who asks, and that he may
    /// (`reshape`, `cache`, `response_headers`, `rate_limit` ...).
    #[serde(default)]
    pub policies: Option<Raw>,
}

/// A parameter of the query by which clients choose a view: its name, or a table.
#[derive(Debug, Clone)]
pub struct ViewParameterConfig {
    pub name: Spanned<String>,
    pub unknown: Unknown,
    pub pass_on: bool,
}

/// What becomes of a request for a view that there is not, or that is not for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// 400, `unknown_view`.
    #[default]
    Refuse,
    /// It gets the view that it would have got without the parameter.
    Ignore,
}

/// The table.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ParameterTable {
    /// The parameter's name.
    name: Spanned<String>,
    /// `refuse` for 400 where there is no such view, or none for this client; `ignore` for the view that it would have got. Default: `refuse`.
    #[serde(default)]
    unknown: Unknown,
    /// Whether services see the parameter. Default: false.
    #[serde(default)]
    pass_on: bool,
}

impl<'de> Deserialize<'de> for ViewParameterConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ViewParameterConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a parameter's name, or { name: ..., unknown: refuse | ignore, pass_on: ... }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ViewParameterConfig, E> {
                Ok(ViewParameterConfig { name: Spanned::nowhere(text.to_owned()), unknown: Unknown::default(), pass_on: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ViewParameterConfig, A::Error> {
                let ParameterTable { name, unknown, pass_on } = ParameterTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ViewParameterConfig { name, unknown, pass_on })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ViewParameterConfig {
    fn schema_name() -> Cow<'static, str> {
        "ViewParameterConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<ParameterTable>();
        json_schema!({
            "description": "A parameter's name, or a table.",
            "oneOf": [{ "type": "string" }, table]
        })
    }
}
