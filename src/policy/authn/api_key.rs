//! API keys: reading one from a request, and taking it out of a query.
//!
//! Whom a key belongs to is the [`Consumers`](super::Consumers)' business.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::failure::Failure;
use crate::head::RequestHead;
use crate::problem::{Problem, Problems};
use crate::value::Spanned;

/// What `Identity::method` says.
pub const METHOD: &str = "api_key";

/// The longest key that is looked at, in bytes. 256 bits are 43 to 64 characters; the rest is room for a prefix.
const MAX_KEY: usize = 512;

/// Where an API key is looked for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeyMethodConfig {
    /// The header field with the key. Default: `X-API-Key`.
    pub header: Option<Spanned<String>>,
    /// A query parameter with the key, as well as the header. Default: none, because queries end up in logs and histories. It is
    /// taken out of the query that goes upstream.
    pub query: Option<Spanned<String>>,
}

/// [`ApiKeyMethodConfig`], compiled.
pub struct ApiKeyMethod {
    pub header: HeaderName,
    pub query: Option<Arc<str>>,
}

impl ApiKeyMethod {
    pub fn compile(config: &ApiKeyMethodConfig, problems: &mut Problems) -> Option<Self> {
        let header = match &config.header {
            None => Some(HeaderName::from_static("x-api-key")),
            Some(name) => match HeaderName::from_bytes(name.value.as_bytes()) {
                Ok(http::header::AUTHORIZATION) => {
                    problems.push(
                        Problem::error(name.place, "an API key cannot come in the Authorization field, which belongs to `jwt`")
                            .hint("X-API-Key"),
                    );
                    None
                }
                Ok(header) => Some(header),
                Err(_) => {
                    problems.push(Problem::error(name.place, format!("`{}` is no header name", name.value)));
                    None
                }
            },
        };
        let query = match &config.query {
            Some(name) if name.value.is_empty() => {
                problems.push(Problem::error(name.place, "a query parameter needs a name"));
                return None;
            }
            query => query.as_ref().map(|name| Arc::from(name.value.as_str())),
        };
        Some(ApiKeyMethod { header: header?, query })
    }

    /// The key that the client presented, if any. An empty one counts as presented.
    ///
    /// # Errors
    ///
    /// More than one key, wherever they stand, or one of a length that no key has.
    pub fn presented<'a>(&'a self, head: &'a RequestHead) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        let in_query = self.query.as_deref().into_iter().flat_map(|name| query_values(head.query().unwrap_or_default(), name));
        let mut found = head.header_all(self.header.as_str()).map(Cow::Borrowed).chain(in_query);
        let Some(key) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(Failure::AmbiguousCredentials);
        }
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Failure::UnknownApiKey);
        }
        Ok(Some(key))
    }
}

/// The decoded values of every parameter called `name`, however the client encoded that name.
fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

/// `query` without every parameter called `name`, however it is encoded; the others stay as they are, byte for byte and in order.
/// What goes upstream after an API key came by query.
pub fn strip_query_param(query: &str, name: &str) -> String {
    let mut kept = String::with_capacity(query.len());
    let mut first = true;
    for pair in query.split('&') {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if *decode(key) == *name.as_bytes() {
            continue;
        }
        if !first {
            kept.push('&');
        }
        first = false;
        kept.push_str(pair);
    }
    kept
}

/// Undoes `application/x-www-form-urlencoded`: `%XX` and `+`. A `%` that begins no escape stands for itself, as it does to backends.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Cow::Borrowed(text.as_bytes());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None if byte == b'+' => out.push(b' '),
            None => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(query: Option<&str>) -> ApiKeyMethod {
        ApiKeyMethod { header: HeaderName::from_static("x-api-key"), query: query.map(Arc::from) }
    }

    #[test]
    fn strips_only_what_it_should() {
        for (query, kept) in [
            ("key=s", ""),
            ("a=1&key=s&b=2", "a=1&b=2"),
            ("key=s&a=%20+&key=t", "a=%20+"),
            ("%6bey=s&k%65y&keys=1", "keys=1"),
            ("a&&b", "a&&b"),
            ("key", ""),
            ("Key=1&a=key", "Key=1&a=key"),
            ("a=1&%zz=%&ke%79=x", "a=1&%zz=%"),
        ] {
            assert_eq!(strip_query_param(query, "key"), kept, "{query}");
        }
    }

    #[test]
    fn finds_the_key_wherever_it_stands() {
        let both = method(Some("key"));
        let found = |target: &str, headers: &[(&str, &str)]| {
            both.presented(&RequestHead::build("GET", target, headers)).map(|key| key.map(|key| key.into_owned()))
        };
        assert_eq!(found("/", &[]), Ok(None));
        assert_eq!(found("/", &[("X-Api-KEY", "k")]), Ok(Some(b"k".to_vec())));
        assert_eq!(found("/?a=b&%6Bey=k%2B", &[]), Ok(Some(b"k+".to_vec())));
        assert_eq!(found("/?key=a&key=a", &[]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/?key=a", &[("x-api-key", "a")]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/", &[("x-api-key", "a"), ("X-API-KEY", "b")]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/", &[("x-api-key", "")]), Err(Failure::UnknownApiKey));
        assert_eq!(found("/", &[("x-api-key", &"a".repeat(MAX_KEY + 1))]), Err(Failure::UnknownApiKey));
        assert_eq!(method(None).presented(&RequestHead::build("GET", "/?key=a", &[])), Ok(None));
    }

    #[test]
    fn refuses_names_that_cannot_work() {
        for json in [r#"{"header":"a b"}"#, r#"{"header":"authorization"}"#, r#"{"query":""}"#] {
            let mut problems = Problems::default();
            assert!(ApiKeyMethod::compile(&serde_json::from_str(json).unwrap(), &mut problems).is_none());
            assert_eq!(problems.len(), 1);
        }
    }
}
