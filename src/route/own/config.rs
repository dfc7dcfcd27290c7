//! The YAML of routes that answer by themselves.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::route::fallback::JsonBody;
use crate::value::{Period, Spanned};

/// An answer that stands in the file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RespondConfig {
    /// 200 to 599. Default: 200.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    /// Fields of the answer, by name.
    #[serde(default)]
    pub headers: BTreeMap<String, Spanned<String>>,
    /// The body, as it stands here. One of `body`, `json` and `file`, or none.
    #[serde(default)]
    pub body: Option<Spanned<String>>,
    /// The body, written as JSON.
    #[serde(default)]
    pub json: Option<Spanned<JsonBody>>,
    /// The body is this file's, up to 1 MiB, read when the configuration is loaded. A relative name counts from the configuration's folder.
    #[serde(default)]
    pub file: Option<Spanned<String>>,
    /// The media type. Default: `text/plain; charset=utf-8` for `body`, `application/json` for `json`; for `file` what its name ends in
    /// tells (`.html`, `.css`, `.js`, `.json`, `.xml`, `.txt`, `.svg`, `.png`, `.ico` and their like), else `application/octet-stream`.
    #[serde(default)]
    pub content_type: Option<Spanned<String>>,
}

/// Sends clients elsewhere.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RouteRedirect")]
pub struct RedirectConfig {
    /// An origin (`https://new.example.com`), which keeps the path, or the route's `rewrite` of it; or a whole URL or a path, which takes its
    /// place.
    #[serde(default)]
    pub to: Option<Spanned<String>>,
    /// The same host over TLS, in place of `to`. A request that came so already is answered 404.
    #[serde(default)]
    pub https: bool,
    /// 301, 302, 303, 307 or 308. Default: 302, which nobody remembers.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    /// `keep` or `drop`. Default: `keep`. A `to` with a query of its own drops the client's.
    #[serde(default)]
    pub query: Query,
}

/// Answers from a document of OpenAPI.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MockConfig {
    /// The document: OpenAPI 3.0 or 3.1, YAML or JSON, up to 32MiB. A relative name counts from the configuration's folder.
    pub openapi: Spanned<String>,
    /// What stands before the document's paths, as clients see them: `/v1`. Default: the route's path without `/*`.
    #[serde(default)]
    pub base: Option<Spanned<String>>,
    /// Whether clients may choose the answer: `Prefer: code=404, example=cat`. Default: true.
    #[serde(default = "yes")]
    pub prefer: bool,
}

fn yes() -> bool {
    true
}

/// What becomes of the query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    #[default]
    Keep,
    Drop,
}

/// Refuses everything for a while, in the client's own words.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceConfig {
    /// When clients are told to come back, 1s to 1d. Default: 1m.
    pub retry_after: Option<Spanned<Period>>,
    /// A sentence for them. Default: `This is being worked on.`
    pub detail: Option<Spanned<String>>,
}
