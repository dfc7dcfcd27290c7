//! What people write under `sticky`.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::cookie::OwnCookie;
use super::table::Table;
use super::{Means, Sticky};
use crate::by::By;
use crate::ledger::Ledger;
use crate::problem::{Place, Problem, Problems};
use crate::upstream::config::unknown_word;
use crate::value::{Period, Secret, Spanned, count_within, period_within};

/// The least bytes of a secret.
const LEAST_SECRET: usize = 16;
/// 400 days, beyond which browsers do not go (RFC 6265bis).
const LONGEST_AGE: u64 = 400 * 86_400_000;

/// Sticky sessions: `cookie`, or a map.
#[derive(Debug, Clone)]
pub struct StickyConfig(pub StickyMap);

/// Sticky sessions. One of `cookie`, `by` and `backend_cookie` says what sessions are known by.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StickyMap {
    /// A cookie that the gateway sets. It names the endpoint by an id that means nothing to others.
    pub cookie: Option<StickyCookieConfig>,
    /// What requests carry anyway, as in `balance: { consistent_hash: { key } }`: `consumer`, `subject`, `{ header: NAME }` and so on, or a
    /// list. A request that does not have all of it has no session.
    pub by: Option<By>,
    /// The name of a cookie that the endpoints themselves set: which one has set a value is learned from its answer.
    pub backend_cookie: Option<Spanned<String>>,
    /// With `by` and `backend_cookie`: after how long without a request a session is forgotten, `1s` to `30d`. Default: `1h`.
    pub idle: Option<Spanned<Period>>,
    /// With `by` and `backend_cookie`: how many sessions are remembered, 1 to 10,000,000; those that were used least make room. About 60
    /// bytes each. Default: 100,000.
    pub sessions: Option<Spanned<u32>>,
}

/// The cookie that the gateway sets.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StickyCookieConfig {
    /// Default: `sticky-` and the service's name.
    pub name: Option<Spanned<String>>,
    /// `Path`. Default: `/`.
    pub path: Spanned<String>,
    /// `Max-Age`, `1s` to `400d`. Default: none, and the cookie ends with the browser's session.
    pub max_age: Option<Spanned<Period>>,
    /// `Secure`: `auto`, for clients that come over TLS, `always` or `never`. Default: `auto`.
    pub secure: Secure,
    /// `HttpOnly`. Default: true.
    pub http_only: bool,
    /// `SameSite`: `lax`, `strict` or `none`, which browsers take only with `secure`. Default: `lax`.
    pub same_site: SameSite,
    /// A secret of at least 16 bytes, the same in all gateways that share these sessions. Without one, sessions are bound anew when the
    /// process is replaced, and another gateway does not know them.
    pub secret: Option<Spanned<Secret>>,
}

impl Default for StickyCookieConfig {
    fn default() -> Self {
        StickyCookieConfig {
            name: None,
            path: Spanned { value: "/".to_owned(), place: Place::NOWHERE },
            max_age: None,
            secure: Secure::default(),
            http_only: true,
            same_site: SameSite::default(),
            secret: None,
        }
    }
}

/// Whether a cookie is for TLS alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Secure {
    #[default]
    Auto,
    Always,
    Never,
}

/// With which requests from elsewhere a cookie comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    #[default]
    Lax,
    Strict,
    None,
}

impl<'de> Deserialize<'de> for StickyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;

        impl<'de> Visitor<'de> for Shape {
            type Value = StickyConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`cookie`, or `{ cookie: {} }`, `{ by: consumer }` or `{ backend_cookie: NAME }`")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<StickyConfig, E> {
                match word {
                    "cookie" => {
                        Ok(StickyConfig(StickyMap { cookie: Some(StickyCookieConfig::default()), ..StickyMap::default() }))
                    }
                    _ => Err(E::custom(unknown_word("kind of session", word, &["cookie"]))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StickyConfig, A::Error> {
                StickyMap::deserialize(MapAccessDeserializer::new(map)).map(StickyConfig)
            }
        }

        deserializer.deserialize_any(Shape)
    }
}

impl JsonSchema for StickyConfig {
    fn schema_name() -> Cow<'static, str> {
        "StickySessions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<StickyMap>();
        json_schema!({ "anyOf": [{ "const": "cookie" }, map] })
    }
}

impl Sticky {
    /// `key` is the service's identity. `None` only if there was a problem.
    pub fn compile(
        config: &Spanned<StickyConfig>,
        service: &str,
        key: &str,
        base: &Path,
        problems: &mut Problems,
        ledger: &Ledger,
    ) -> Option<Self> {
        let Spanned { value: StickyConfig(map), place } = config;
        let table = |problems: &mut Problems| {
            let most =
                map.sessions.as_ref().map_or(Some(100_000), |most| count_within("sessions", most, 1, 10_000_000, problems));
            let hour = Duration::from_secs(3600);
            let idle = map.idle.as_ref().map_or(Some(hour), |idle| period_within("idle", idle, 1000, 30 * 86_400_000, problems));
            let (most, idle) = (most? as usize, idle?);
            // Another table where other bounds are asked for.
            let name = format!("service:{key}:sessions:{most}:{}", idle.as_secs());
            Some(ledger.keep(&name, || Table::new(most, idle)))
        };
        let (by, secret) = match (&map.cookie, &map.by, &map.backend_cookie) {
            (Some(cookie), None, None) => {
                let unused = map.idle.as_ref().map(|idle| idle.place).or(map.sessions.as_ref().map(|most| most.place));
                if let Some(place) = unused {
                    let message =
                        "`idle` and `sessions` are of what the gateway remembers, which is nothing where a cookie tells";
                    problems.push(Problem::error(place, message));
                    return None;
                }
                let (cookie, secret) = compile_cookie(cookie, service, *place, base, problems)?;
                (Means::Cookie(cookie), secret)
            }
            (None, Some(by), None) if by.is_everybody() => {
                problems.push(Problem::error(*place, "`by: route` would make all requests one session"));
                return None;
            }
            (None, Some(by), None) => (Means::Key(by.clone(), table(problems)?), None),
            (None, None, Some(name)) => {
                if !is_token(&name.value) {
                    problems.push(Problem::error(name.place, format!("`{}` cannot be a cookie's name", name.value)));
                    return None;
                }
                (Means::Learned(name.value.as_str().into(), table(problems)?), None)
            }
            _ => {
                let problem = Problem::error(*place, "what are the sessions known by?");
                problems.push(problem.hint("write one of `cookie`, `by` and `backend_cookie`"));
                return None;
            }
        };
        let root = match secret {
            Some(secret) => Arc::new(blake3::derive_key("portcullis 2026 sticky sessions", &secret)),
            None => ledger.keep(&format!("service:{key}:sticky"), random),
        };
        // Another key for every service: what a client was given for one means nothing to the others.
        let key = *blake3::keyed_hash(&root, key.as_bytes()).as_bytes();
        Some(Sticky { by, key, _root: root })
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

fn is_token(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// The cookie, and the secret if there is one. `None` only if there was a problem.
fn compile_cookie(
    config: &StickyCookieConfig,
    service: &str,
    place: Place,
    base: &Path,
    problems: &mut Problems,
) -> Option<(OwnCookie, Option<Vec<u8>>)> {
    let name = config.name.as_ref().map_or_else(|| format!("sticky-{service}"), |name| name.value.clone());
    if !is_token(&name) {
        let place = config.name.as_ref().map_or(place, |name| name.place);
        problems.push(Problem::error(place, format!("`{name}` cannot be a cookie's name")));
        return None;
    }
    let path = &config.path;
    let printable = path.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';' && byte != b',');
    if !path.value.starts_with('/') || !printable {
        problems.push(Problem::error(path.place, format!("`{}` cannot be a cookie's path", path.value)));
        return None;
    }
    if config.same_site == SameSite::None && config.secure == Secure::Never {
        let problem = Problem::error(place, "browsers take no cookie with `same_site: none` and without `Secure`");
        problems.push(problem.hint("write `secure: always`"));
        return None;
    }
    let max_age = match &config.max_age {
        Some(age) => Some(period_within("max_age", age, 1000, LONGEST_AGE, problems)?.as_secs()),
        None => None,
    };
    let secret = match &config.secret {
        Some(secret) => match secret.value.read(base) {
            Ok(bytes) if bytes.len() >= LEAST_SECRET => Some(bytes),
            Ok(_) => {
                problems.push(Problem::error(secret.place, format!("the secret has less than {LEAST_SECRET} bytes")));
                return None;
            }
            Err(why) => {
                problems.push(Problem::error(secret.place, why));
                return None;
            }
        },
        None => None,
    };
    let attributes = OwnCookie::attributes(&path.value, max_age, config.http_only, config.same_site);
    Some((OwnCookie { name: name.into(), attributes, secure: config.secure }, secret))
}
