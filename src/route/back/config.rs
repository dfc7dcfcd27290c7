//! The YAML of `rewrite_back`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::authority;
use crate::problem::{Problem, Problems};
use crate::value::{Spanned, switched};

/// Whether what the service says of its own addresses is mapped to those that clients see: in `Location`, `Content-Location`, `Refresh`, `Link`
/// and the `Path` and `Domain` of cookies, and the other way round in the `Destination` and `If` of WebDAV requests. `true`, or a map.
#[derive(Debug, Clone, Default)]
pub struct RewriteBackConfig {
    on: bool,
    written: Written,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Written {
    /// Other names that the service has for itself: `https://app.internal`, `http://10.0.0.7:8080`. Those of its endpoints and
    /// `rewrite_host` are known.
    origins: Vec<Spanned<String>>,
    /// Whether cookies are mapped as well. Default: true.
    cookies: bool,
}

impl Default for Written {
    fn default() -> Self {
        Written { origins: Vec::new(), cookies: true }
    }
}

impl<'de> Deserialize<'de> for RewriteBackConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = switched(deserializer, "true, false, or a map such as { origins: [ \"https://app.internal\" ] }")?;
        Ok(RewriteBackConfig { on: written.is_some(), written: written.unwrap_or_default() })
    }
}

impl JsonSchema for RewriteBackConfig {
    fn schema_name() -> Cow<'static, str> {
        "RewriteBackConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = Written::json_schema(generator);
        json_schema!({ "anyOf": [{ "type": "boolean" }, map] })
    }
}

/// A route's `rewrite_back`, compiled.
#[derive(Debug)]
pub struct Back {
    /// Schemes, and authorities in their one spelling.
    origins: Vec<(&'static str, Box<str>)>,
    pub cookies: bool,
}

impl Back {
    /// An outer `None` only if there was a problem, an inner one where it is off.
    pub fn compile(config: &RewriteBackConfig, problems: &mut Problems) -> Option<Option<Box<Back>>> {
        if !config.on {
            return Some(None);
        }
        let mut origins = Vec::new();
        for written in &config.written.origins {
            let parts = written.split_once("://").and_then(|(scheme, rest)| {
                let scheme = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?;
                let known = authority::canonical(rest.strip_suffix('/').unwrap_or(rest).as_bytes())?;
                let text = authority::without_default_port(known.text.as_bytes(), scheme);
                Some((scheme, Box::from(std::str::from_utf8(text).ok()?)))
            });
            match parts {
                Some(parts) => origins.push(parts),
                None => {
                    let message = "this is no origin: a scheme, a host and a port where it is not the scheme's";
                    problems.push(Problem::error(written.place, message).hint("for example `https://app.internal:8443`"));
                }
            }
        }
        let fine = origins.len() == config.written.origins.len();
        fine.then(|| Some(Box::new(Back { origins, cookies: config.written.cookies })))
    }

    /// Whether the service is said to call itself so. `authority` is in its one spelling, without its scheme's own port.
    pub fn names(&self, scheme: &str, authority: &str) -> bool {
        self.origins.iter().any(|(known, text)| *known == scheme && **text == *authority)
    }

    /// The hosts among them.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.origins.iter().map(|(_, text)| authority::host(text))
    }
}
