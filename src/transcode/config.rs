//! What people write under `services: NAME: transcode:`.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::value::{OneOrMany, Period, Size, Spanned, switched, switched_schema};

/// gRPC methods of this service for clients that speak REST and JSON. Calls of gRPC's own go to the service as they are. Needs
/// `protocol: grpc`, `http2` or `auto`, or `serve: grpc`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Transcode")]
pub struct TranscodeConfig {
    /// Which of the two the clients speak: `rest`, and the service gRPC; or `grpc`, and the service REST. Then unary calls of gRPC's and gRPC-Web's
    /// become the requests that the first rule of their method says, and what is no call goes to the service as it is. Default: `rest`.
    #[serde(default)]
    pub serve: Serve,
    /// A set of compiled descriptors (`protoc --include_imports --descriptor_set_out=FILE`, `buf build -o FILE`), or several, up to 32 MiB
    /// together. A relative name counts from the configuration's folder. Either this, `protos` or `reflection`.
    #[serde(default)]
    pub descriptors: OneOrMany<Spanned<String>>,
    /// `.proto` files, named as they would be imported, which are compiled when the configuration is loaded; up to 2,000 files and 32 MiB
    /// with all that they import.
    #[serde(default)]
    pub protos: OneOrMany<Spanned<String>>,
    /// The folders that `protos` and what they import are looked for in, in order, and nowhere else. `google/protobuf/*.proto`,
    /// `google/api/annotations.proto`, `http.proto`, `httpbody.proto` and `field_behavior.proto`, and `google/rpc/*.proto` are there without being
    /// in any. Default: the configuration's folder.
    #[serde(default)]
    pub imports: OneOrMany<Spanned<String>>,
    /// Asks the service itself, by gRPC's server reflection (`v1`, and where there is none `v1alpha`): up to 1,000 services, and 2,000 files and
    /// 16 MiB of descriptors. `true`, or how. Default: false.
    #[serde(default)]
    pub reflection: ReflectionChoice,
    /// The services that can be called, such as `shop.v1.Catalog`. Default: all that `protos`, or `descriptors`, declare, or that the
    /// service says that it has, but for gRPC's own (`grpc.*`).
    #[serde(default)]
    pub services: OneOrMany<Spanned<String>>,
    /// Which requests mean which methods, beside what the methods' `google.api.http` annotations say. Rules for a method take the place of its
    /// annotation.
    #[serde(default)]
    pub rules: Vec<Spanned<RuleConfig>>,
    /// Whether every method can be called with `POST /package.Service/Method` and its message as the body, too. Default: true.
    #[serde(default = "on")]
    pub default_paths: bool,
    /// What becomes of query parameters that name no field: `refuse` (400) or `ignore`. Default: `refuse`.
    #[serde(default)]
    pub unknown_query: Unknown,
    /// What becomes of members of a body, and of names of an enumeration, that the message does not know: `refuse` (400) or `ignore`. Default:
    /// `refuse`.
    #[serde(default)]
    pub unknown_fields: Unknown,
    /// Writes fields that have no presence also where they have their default: 0, `""`, `false`, `[]`. Default: false, they are left out.
    #[serde(default)]
    pub always_print: bool,
    /// Names fields as the `.proto` file does (`unit_price`) and not in camel case (`unitPrice`). Default: false.
    #[serde(default)]
    pub proto_names: bool,
    /// How fields may be named in bodies and queries: as answers name them (`written`), or in either spelling (`both`). Policies that look at
    /// members and parameters by name know the one that they are told: with `both`, the other one passes them by. Default: `written`.
    #[serde(default)]
    pub names: Names,
    /// Writes enumerations as numbers, not names. Both are understood. Default: false.
    #[serde(default)]
    pub enum_numbers: bool,
    /// The largest message either way, `1KiB` to `64MiB`. Its JSON may be four times as long. Default: `4MiB`.
    #[serde(default)]
    pub max_message: Option<Spanned<Size>>,
}

/// `false`, `true` or a map.
#[derive(Debug, Clone, Default)]
pub struct ReflectionChoice(pub Option<ReflectionConfig>);

/// How a service is asked what its methods are.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "TranscodeReflection")]
pub struct ReflectionConfig {
    /// How often it is asked again, `1s` to `24h`. Until it has answered, and where what it answers cannot be used, what was known stays.
    /// Default: `5m`.
    pub refresh: Spanned<Period>,
}

impl Default for ReflectionConfig {
    fn default() -> Self {
        ReflectionConfig { refresh: Spanned::nowhere(Period(Duration::from_secs(300))) }
    }
}

impl<'de> Deserialize<'de> for ReflectionChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        switched(deserializer, "`true`, `false` or `{ refresh: 5m }`").map(ReflectionChoice)
    }
}

impl JsonSchema for ReflectionChoice {
    fn schema_name() -> Cow<'static, str> {
        "TranscodeReflectionChoice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        switched_schema::<ReflectionConfig>(generator)
    }
}

fn on() -> bool {
    true
}

/// What clients speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TranscodeServe")]
pub enum Serve {
    #[default]
    Rest,
    Grpc,
}

/// How fields may be named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TranscodeNames")]
pub enum Names {
    #[default]
    Written,
    Both,
}

/// What becomes of what nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TranscodeUnknown")]
pub enum Unknown {
    #[default]
    Refuse,
    Ignore,
}

/// Requests that mean a method: one of `get`, `put`, `post`, `delete`, `patch` and `custom`, with a template of paths such as
/// `/v1/{name=shelves/*}/books/{book}:read`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TranscodeRule")]
pub struct RuleConfig {
    /// `package.Service.Method`.
    pub method: Spanned<String>,
    /// The template, for GET requests.
    #[serde(default)]
    pub get: Option<Spanned<String>>,
    /// The same for PUT.
    #[serde(default)]
    pub put: Option<Spanned<String>>,
    /// The same for POST.
    #[serde(default)]
    pub post: Option<Spanned<String>>,
    /// The same for DELETE.
    #[serde(default)]
    pub delete: Option<Spanned<String>>,
    /// The same for PATCH.
    #[serde(default)]
    pub patch: Option<Spanned<String>>,
    /// Another method of HTTP, or `*` for all.
    #[serde(default)]
    pub custom: Option<CustomConfig>,
    /// The field that the body is, or `*`: the body is the message, but for what the path says. Default: there is no body.
    #[serde(default)]
    pub body: Option<Spanned<String>>,
    /// The field of the answer that is the whole answer. Default: all of it is.
    #[serde(default)]
    pub response_body: Option<Spanned<String>>,
}

/// A method of HTTP that has no key of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TranscodeCustom")]
pub struct CustomConfig {
    /// `HEAD`, `OPTIONS`, or whatever; `*` for all.
    pub kind: Spanned<String>,
    /// The template.
    pub path: Spanned<String>,
}
