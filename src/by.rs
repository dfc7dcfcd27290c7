//! What requests are told apart by: the `by` of limits, the `key` of `consistent_hash`, the `by` of sticky sessions; and what it makes of a
//! request.
//!
//! Deliberately not here: the limits themselves, and where a request goes.

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use crate::carrier::query_values;
use crate::exchange::{Exchange, Identity};
use crate::head::RequestHead;
use crate::limits::key::{Hashing, Key, Piece, Pieces};
use crate::node::Node;

/// The most things that can be combined.
const MOST_PARTS: usize = 8;

/// One thing by which clients are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The client's address: an IPv4 address, or an IPv6 /64.
    ClientAddress,
    /// The consumer's name.
    Consumer,
    /// The credential that was used: an API key, a token's issuer and subject, whatever the method.
    Credential,
    /// A token's issuer and subject; for other credentials their consumer.
    Subject,
    /// The API key that was used.
    ApiKey,
    /// A header field's value. The client chooses it: only for fields that a trusted proxy sets.
    Header(HeaderName),
    /// A cookie's value. The client chooses it.
    Cookie(String),
    /// A claim of the token.
    Claim(String),
    /// What a `{name}` segment of the route's path matched.
    Param(String),
    /// A query parameter's value. The client chooses it.
    Query(String),
}

/// Whose requests are counted together: those that agree in all parts. Without any part, everybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By(SmallVec<[Part; 1]>);

/// The policies that count by somebody.
pub const POLICIES: [&str; 4] = ["rate_limit", "quota", "throttle", "concurrency_limit"];

/// Whether what is written under `by` is about an identity, which only `authn` gives a request.
pub fn asks_who(by: &Node) -> bool {
    let word = |node: &Node| node.as_str().is_some_and(|word| matches!(word, "consumer" | "credential" | "subject" | "api_key"));
    word(by) || by.get("claim").is_some() || by.items().iter().any(asks_who)
}

impl Default for By {
    fn default() -> Self {
        By(SmallVec::from_iter([Part::ClientAddress]))
    }
}

impl Part {
    const WORDS: [&'static str; 5] = ["client_address", "consumer", "credential", "subject", "api_key"];
    /// Those that take a name.
    const NAMED: [&'static str; 5] = ["header", "cookie", "claim", "param", "query"];

    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "client_address" => Part::ClientAddress,
            "consumer" => Part::Consumer,
            "credential" => Part::Credential,
            "subject" => Part::Subject,
            "api_key" => Part::ApiKey,
            _ => {
                if let Some((kind, name)) = text.split_once(':') {
                    return Self::named(kind, name);
                }
                let known: Vec<&str> = Self::WORDS.into_iter().chain(["route"]).collect();
                let hint = crate::problem::foreign::word(text, &known);
                let hint = hint.map_or_else(String::new, |word| format!("; did you mean `{word}`?"));
                let words = Self::WORDS.map(|word| format!("`{word}`")).join(", ");
                return Err(format!(
                    "expected one of {words}, `route`, or `header: NAME`, `cookie:`, `claim:`, `param:`, `query:`{hint}"
                ));
            }
        })
    }

    fn named(kind: &str, name: &str) -> Result<Self, String> {
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("expected a name after `{kind}:`"));
        }
        Ok(match kind {
            "header" => {
                Part::Header(HeaderName::from_bytes(name.as_bytes()).map_err(|_| "this is not a header name".to_owned())?)
            }
            "cookie" => Part::Cookie(name.to_owned()),
            "claim" => Part::Claim(name.to_owned()),
            "param" => Part::Param(name.to_owned()),
            "query" => Part::Query(name.to_owned()),
            _ => return Err(format!("expected {} and a name", Self::NAMED.map(|kind| format!("`{kind}:`")).join(", "))),
        })
    }

    fn word(&self) -> &str {
        match self {
            Part::ClientAddress => "client_address",
            Part::Consumer => "consumer",
            Part::Credential => "credential",
            Part::Subject => "subject",
            Part::ApiKey => "api_key",
            Part::Header(name) => name.as_str(),
            Part::Cookie(name) | Part::Claim(name) | Part::Param(name) | Part::Query(name) => name,
        }
    }

    /// What tells it apart from every other part.
    fn text(&self) -> String {
        let kind = match self {
            Part::Header(_) => "header:",
            Part::Cookie(_) => "cookie:",
            Part::Claim(_) => "claim:",
            Part::Param(_) => "param:",
            Part::Query(_) => "query:",
            _ => "",
        };
        format!("{kind}{}", self.word())
    }

    fn piece<'a>(&'a self, head: &'a RequestHead, exchange: &'a Exchange) -> Option<Piece<'a>> {
        let identity = exchange.identity.as_deref();
        let text = match self {
            Part::ClientAddress => return Some(Piece::Address(exchange.client)),
            Part::Consumer => identity?.consumer.as_deref().map(|name| name.as_bytes().into()),
            Part::Credential => identity.map(credential),
            Part::Subject => identity.map(subject),
            Part::ApiKey => identity.filter(|identity| identity.method == "api_key").map(|key| key.credential.as_bytes().into()),
            Part::Header(name) => header(head, name.as_str()),
            Part::Cookie(name) => head.cookie(name).filter(|value| !value.is_empty()).map(Cow::Borrowed),
            Part::Claim(path) => claim(identity?, path),
            Part::Param(name) => exchange.param(name).map(|value| value.as_bytes().into()),
            Part::Query(name) => query_values(head.query().unwrap_or_default(), name).find(|value| !value.is_empty()),
        };
        text.map(Piece::Text)
    }
}

impl By {
    pub fn consumer() -> Self {
        By(SmallVec::from_iter([Part::Consumer]))
    }

    /// Everybody together.
    pub fn everybody() -> Self {
        By(SmallVec::new())
    }

    /// Whether the path's parameters tell requests apart.
    pub fn looks_at_params(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Param(_)))
    }

    pub fn is_everybody(&self) -> bool {
        self.0.is_empty()
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// A name for a limit by this: the words, as far as they can stand in one.
    pub fn word(&self) -> String {
        if self.is_everybody() {
            return "route".to_owned();
        }
        let words: Vec<_> = self.0.iter().map(Part::word).collect();
        let legal = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
        words.join("-").chars().map(legal).take(56).collect()
    }

    /// All that it is made of: no two differ in meaning and agree in this.
    pub fn text(&self) -> String {
        self.0.iter().map(Part::text).collect::<Vec<_>>().join("+")
    }

    /// What the request is told apart by. A part that it does not have (an anonymous request, a missing header) is the client's
    /// address instead.
    pub fn pieces<'a>(&'a self, head: &'a RequestHead, exchange: &'a Exchange) -> Pieces<'a> {
        self.0.iter().map(|part| part.piece(head, exchange).unwrap_or(Piece::Address(exchange.client))).collect()
    }

    /// The same, or `None` if the request does not have all of it.
    pub fn all_pieces<'a>(&'a self, head: &'a RequestHead, exchange: &'a Exchange) -> Option<Pieces<'a>> {
        self.0.iter().map(|part| part.piece(head, exchange)).collect()
    }

    /// What the request counts under in this process.
    #[inline]
    pub fn key(&self, head: &RequestHead, exchange: &Exchange) -> Key {
        match self.0.as_slice() {
            [] => Key::ALL,
            [Part::ClientAddress] => Key::address(exchange.client),
            _ => self.key_with(Hashing::own(), head, exchange),
        }
    }

    /// The same, for counting together with other processes.
    pub fn key_with(&self, hashing: &Hashing, head: &RequestHead, exchange: &Exchange) -> Key {
        Key::of(&self.pieces(head, exchange), hashing)
    }
}

/// Several texts as one, each with its length before it, so that no others make the same.
fn joined(texts: &[&[u8]]) -> Cow<'static, [u8]> {
    let mut all = Vec::with_capacity(texts.iter().map(|text| text.len() + 8).sum());
    for text in texts {
        all.extend_from_slice(&(text.len() as u64).to_le_bytes());
        all.extend_from_slice(text);
    }
    Cow::Owned(all)
}

/// A subject means something only together with who vouched for it: two issuers may both know an `alice`.
fn subject(identity: &Identity) -> Cow<'_, [u8]> {
    match identity.consumer.as_deref() {
        Some(consumer) if *consumer == *identity.subject => Cow::Borrowed(consumer.as_bytes()),
        _ => credential(identity),
    }
}

/// All tokens of an issuer have the same credential: their subjects tell them apart.
fn credential(identity: &Identity) -> Cow<'_, [u8]> {
    joined(&[identity.method.as_bytes(), identity.credential.as_bytes(), identity.subject.as_bytes()])
}

fn header<'a>(head: &'a RequestHead, name: &'a str) -> Option<Cow<'a, [u8]>> {
    let values: SmallVec<[&[u8]; 2]> = head.header_all(name).filter(|value| !value.is_empty()).collect();
    match values.as_slice() {
        [] => None,
        [value] => Some(Cow::Borrowed(*value)),
        // Nobody knows which of them the backend will read.
        several => Some(joined(several)),
    }
}

/// A claim of that name, or, for `org.id`, the member `id` of the claim `org`. What is neither text, number nor boolean counts as
/// its JSON; `null` is no claim.
fn claim<'a>(identity: &'a Identity, path: &str) -> Option<Cow<'a, [u8]>> {
    let claims = identity.claims.as_deref()?;
    let found = claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, name| value.get(name)))?;
    match found {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) if text.is_empty() => None,
        serde_json::Value::String(text) => Some(Cow::Borrowed(text.as_bytes())),
        other => Some(Cow::Owned(other.to_string().into_bytes())),
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByVisitor;

        impl<'de> Visitor<'de> for ByVisitor {
            type Value = By;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("client_address, consumer, credential, subject, api_key, route, { header: NAME } or a list of these")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<By, E> {
                if text == "route" {
                    return Ok(By::everybody());
                }
                Part::parse(text).map(|part| By(SmallVec::from_iter([part]))).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<By, A::Error> {
                named(map).map(|part| By(SmallVec::from_iter([part])))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<By, A::Error> {
                let mut parts: SmallVec<[Part; 1]> = SmallVec::new();
                while let Some(part) = seq.next_element::<Part>()? {
                    if parts.contains(&part) {
                        return Err(A::Error::custom("the same thing twice"));
                    }
                    parts.push(part);
                }
                match parts.len() {
                    1..=MOST_PARTS => Ok(By(parts)),
                    _ => Err(A::Error::custom("expected between one and eight things to count by")),
                }
            }
        }

        deserializer.deserialize_any(ByVisitor)
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartVisitor;

        impl<'de> Visitor<'de> for PartVisitor {
            type Value = Part;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("client_address, consumer, credential, subject, api_key or { header: NAME }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Part, E> {
                match text {
                    "route" => Err(E::custom("`route` counts everybody together and cannot be combined")),
                    _ => Part::parse(text).map_err(E::custom),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part, A::Error> {
                named(map)
            }
        }

        deserializer.deserialize_any(PartVisitor)
    }
}

fn named<'de, A: MapAccess<'de>>(mut map: A) -> Result<Part, A::Error> {
    let Some((kind, name)) = map.next_entry::<String, String>()? else {
        return Err(A::Error::custom("expected `header: NAME`, `cookie:`, `claim:`, `param:` or `query:`"));
    };
    let part = Part::named(&kind, &name).map_err(A::Error::custom)?;
    match map.next_key::<String>()? {
        None => Ok(part),
        Some(_) => Err(A::Error::custom("expected one name; to count by several things, write a list")),
    }
}

impl JsonSchema for By {
    fn schema_name() -> Cow<'static, str> {
        "By".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<_> = Part::WORDS.into_iter().collect();
        let all: Vec<_> = Part::WORDS.into_iter().chain(["route"]).collect();
        let text = json_schema!({ "type": "string", "pattern": "^(header|cookie|claim|param|query):" });
        let named = |kind: &str| json_schema!({ "type": "object", "properties": { kind: { "type": "string" } }, "required": [kind], "additionalProperties": false });
        let [header, cookie, claim, param, query] = Part::NAMED.map(named);
        json_schema!({ "oneOf": [
            { "type": "string", "enum": all }, text, header, cookie, claim, param, query,
            { "type": "array", "minItems": 1, "maxItems": MOST_PARTS,
              "items": { "oneOf": [{ "type": "string", "enum": words }, text, header, cookie, claim, param, query] } },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn by(value: serde_json::Value) -> By {
        serde_json::from_value(value).unwrap()
    }

    fn with_claims(claims: serde_json::Value) -> Exchange {
        let mut exchange = Exchange::for_tests();
        let identity = Identity { method: "jwt", subject: "ada".into(), claims: Some(Arc::new(claims)), ..Identity::default() };
        exchange.identity = Some(Arc::new(identity));
        exchange
    }

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let head = RequestHead::build("GET", "/", &[]);
        let key = |path: &str, claims: serde_json::Value| by(json!({ "claim": path })).key(&head, &with_claims(claims));
        assert_eq!(key("org.id", json!({ "org": { "id": "acme" } })), Key::text(b"acme"));
        assert_eq!(key("https://x.example/org", json!({ "https://x.example/org": "acme" })), Key::text(b"acme"));
        assert_eq!(key("n", json!({ "n": 7 })), Key::text(b"7"));
        let address = Key::address(Exchange::for_tests().client);
        for missing in
            [json!({}), json!({ "org": null }), json!({ "org": { "id": null } }), json!({ "org": { "id": "" } }), json!([1])]
        {
            assert_eq!(key("org.id", missing), address);
        }
    }

    #[test]
    fn a_missing_part_is_the_address_in_its_place() {
        let both = by(json!(["consumer", { "header": "X-Tenant" }]));
        let mut one = Exchange::for_tests();
        one.identity = Some(Arc::new(Identity { consumer: Some("acme".into()), ..Identity::default() }));
        let mut elsewhere = Exchange::for_tests();
        elsewhere.identity.clone_from(&one.identity);
        elsewhere.client = "198.51.100.7".parse().unwrap();
        let (with, without) = (RequestHead::build("GET", "/", &[("X-Tenant", "t")]), RequestHead::build("GET", "/", &[]));
        assert_eq!(both.key(&with, &one), both.key(&with, &elsewhere));
        assert_ne!(both.key(&without, &one), both.key(&without, &elsewhere));
        assert_ne!(both.key(&with, &one), both.key(&with, &Exchange::for_tests()));
        // A header that spells the address is not the address.
        let forged = RequestHead::build("GET", "/", &[("X-Tenant", "192.0.2.1")]);
        assert_ne!(both.key(&without, &one), both.key(&forged, &one));
    }

    #[test]
    fn values_that_only_look_alike_differ() {
        let tenant = by(json!("header:x-tenant"));
        let key = |values: &[&str]| {
            let fields: Vec<_> = values.iter().map(|value| ("X-Tenant", *value)).collect();
            tenant.key(&RequestHead::build("GET", "/", &fields), &Exchange::for_tests())
        };
        let keys = [key(&["a", "b"]), key(&["b", "a"]), key(&["ab"]), key(&["a, b"]), key(&["a\0"]), key(&["a"]), key(&[])];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one), "{index}");
        }
        assert_eq!(key(&[]), key(&[""]));
    }

    #[test]
    fn is_written_as_a_word_a_name_or_a_list() {
        assert!(by(json!("route")).is_everybody());
        let all = by(json!(["consumer", "param:tenant", { "cookie": "sid" }, { "claim": "org.id" }, { "header": "X-A" }]));
        assert_eq!(all.text(), "consumer+param:tenant+cookie:sid+claim:org.id+header:x-a");
        assert_eq!(by(json!({ "claim": "https://x/y" })).word(), "https___x_y");
        for bad in [
            json!([]),
            json!(["route"]),
            json!(["consumer", "consumer"]),
            json!({ "param": "" }),
            json!({ "header": "a", "claim": "b" }),
            json!({ "body": "x" }),
            json!(7),
        ] {
            assert!(serde_json::from_value::<By>(bad.clone()).is_err(), "{bad}");
        }
    }
}
