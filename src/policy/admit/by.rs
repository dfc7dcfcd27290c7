//! Whose requests a limit counts together: the `by` of `rate_limit`, and the key that it makes of a request.
//!
//! Deliberately not here: the limits themselves.

use std::fmt;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use smallvec::SmallVec;

use super::store::Key;
use crate::exchange::{Exchange, Identity};
use crate::head::RequestHead;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum By {
    /// The client's address: an IPv4 address, or an IPv6 /64.
    #[default]
    ClientAddress,
    /// The consumer's name.
    Consumer,
    /// A token's issuer and subject; for other credentials their consumer.
    Subject,
    /// The API key that was used.
    ApiKey,
    /// One bucket for all.
    Route,
    /// A header field's value. The client chooses it: only for fields that a trusted proxy sets.
    Header(HeaderName),
}

impl By {
    const WORDS: [&'static str; 5] = ["client_address", "consumer", "subject", "api_key", "route"];

    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "client_address" => By::ClientAddress,
            "consumer" => By::Consumer,
            "subject" => By::Subject,
            "api_key" => By::ApiKey,
            "route" => By::Route,
            _ => {
                if let Some(name) = text.strip_prefix("header:") {
                    return Self::header(name);
                }
                let hint = crate::problem::did_you_mean(text, Self::WORDS);
                let hint = hint.map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
                return Err(format!(
                    "expected one of {}, or `header: NAME`{hint}",
                    Self::WORDS.map(|word| format!("`{word}`")).join(", ")
                ));
            }
        })
    }

    fn header(name: &str) -> Result<Self, String> {
        HeaderName::from_bytes(name.trim().as_bytes()).map(By::Header).map_err(|_| "this is not a header name".to_owned())
    }

    /// The word it is written with, or the header's name.
    pub fn word(&self) -> &str {
        match self {
            By::ClientAddress => "client_address",
            By::Consumer => "consumer",
            By::Subject => "subject",
            By::ApiKey => "api_key",
            By::Route => "route",
            By::Header(name) => name.as_str(),
        }
    }

    /// The bucket that a request counts in.
    pub fn key(&self, head: &RequestHead, exchange: &Exchange) -> Key {
        let identity = exchange.identity.as_deref();
        let known = match self {
            By::ClientAddress => None,
            By::Consumer => identity.and_then(|identity| identity.consumer.as_deref()).map(|name| Key::text(name.as_bytes())),
            By::Subject => identity.map(subject),
            By::ApiKey => {
                identity.filter(|identity| identity.method == "api_key").map(|identity| Key::text(identity.credential.as_bytes()))
            }
            By::Route => Some(Key::ALL),
            By::Header(name) => header(head, name.as_str()),
        };
        known.unwrap_or_else(|| Key::address(exchange.client))
    }
}

/// A subject means something only together with who vouched for it: two issuers may both know an `alice`.
fn subject(identity: &Identity) -> Key {
    match identity.consumer.as_deref() {
        Some(consumer) if *consumer == *identity.subject => Key::text(consumer.as_bytes()),
        _ => Key::texts(&[identity.method.as_bytes(), identity.credential.as_bytes(), identity.subject.as_bytes()]),
    }
}

fn header(head: &RequestHead, name: &str) -> Option<Key> {
    let values: SmallVec<[&[u8]; 2]> = head.header_all(name).filter(|value| !value.is_empty()).collect();
    match values.as_slice() {
        [] => None,
        [value] => Some(Key::text(value)),
        // Nobody knows which of them the backend will read.
        several => Some(Key::texts(several)),
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByVisitor;

        impl<'de> Visitor<'de> for ByVisitor {
            type Value = By;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("client_address, consumer, subject, api_key, route or { header: NAME }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<By, E> {
                By::parse(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<By, A::Error> {
                let Some((kind, name)) = map.next_entry::<String, String>()? else {
                    return Err(A::Error::custom("expected `header: NAME`"));
                };
                if kind != "header" || map.next_key::<String>()?.is_some() {
                    return Err(A::Error::custom("expected only `header: NAME`"));
                }
                By::header(&name).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(ByVisitor)
    }
}

impl JsonSchema for By {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "By".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [
            { "type": "string", "enum": By::WORDS },
            { "type": "string", "pattern": "^header:" },
            { "type": "object", "properties": { "header": { "type": "string" } }, "required": ["header"], "additionalProperties": false },
        ] })
    }
}
