//! API keys: reading one from a request.
//!
//! Whom a key belongs to is the [`Consumers`](crate::consumers::Consumers)' business.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::failure::Failure;
use super::method::{Carriers, Method, Verdict};
use crate::carrier::query_values;
use crate::consumers::Consumers;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;
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
    consumers: Arc<Consumers>,
}

impl Method for ApiKeyMethod {
    fn check(&self, head: &RequestHead, _: &Exchange, now: u64) -> Verdict {
        match self.presented(head) {
            Ok(None) => Verdict::Absent,
            Ok(Some(key)) => self.consumers.by_key(&key, now).map_err(Failure::from).into(),
            Err(failure) => Verdict::Failed(failure),
        }
    }

    fn refused(&self, head: &RequestHead) -> Option<Box<str>> {
        let key = self.presented(head).ok()??;
        self.consumers.issued_key(&key).map(|id| format!("key {id}").into())
    }

    /// No registered scheme; a client that does not know it ignores it, as it must.
    fn scheme(&self) -> Option<&'static str> {
        Some("ApiKey")
    }

    fn carriers(&self) -> Carriers {
        Carriers { headers: vec![self.header.clone()], queries: self.query.iter().cloned().collect(), ..Carriers::default() }
    }
}

impl ApiKeyMethod {
    pub fn compile(config: &ApiKeyMethodConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let header = match &config.header {
            None => Some(HeaderName::from_static("x-api-key")),
            Some(name) => match HeaderName::from_bytes(name.value.as_bytes()) {
                Ok(http::header::AUTHORIZATION) => {
                    cx.problems.push(
                        Problem::error(name.place, "an API key cannot come in the Authorization field, which belongs to `jwt`")
                            .hint("X-API-Key"),
                    );
                    None
                }
                Ok(header) => Some(header),
                Err(_) => {
                    cx.problems.push(Problem::error(name.place, format!("`{}` is no header name", name.value)));
                    None
                }
            },
        };
        let query = match &config.query {
            Some(name) if name.value.is_empty() => {
                cx.problems.push(Problem::error(name.place, "a query parameter needs a name"));
                return None;
            }
            query => query.as_ref().map(|name| Arc::from(name.value.as_str())),
        };
        if !cx.consumers.has_keys() {
            cx.problems
                .push(Problem::warning(cx.place, "no consumer has an API key, so that none can be right").hint("consumers"));
        }
        Some(ApiKeyMethod { header: header?, query, consumers: cx.consumers.clone() })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn method(query: Option<&str>) -> ApiKeyMethod {
        ApiKeyMethod { header: HeaderName::from_static("x-api-key"), query: query.map(Arc::from), consumers: Arc::default() }
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
            let (mut problems, ledger, consumers) = Default::default();
            let mut cx = crate::policy::testing::context(&mut problems, "test", &ledger, &consumers, std::path::Path::new("."));
            assert!(ApiKeyMethod::compile(&serde_json::from_str(json).unwrap(), &mut cx).is_none());
            assert!(problems.has_errors());
        }
    }
}
