//! Where a token may stand in a request: a header field, a cookie or a query parameter.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderName, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::failure::Failure;
use super::method::Carriers;
use crate::carrier::{cookie_values, query_values};
use crate::head::RequestHead;
use crate::jose::token::MAX_TOKEN;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::value::Spanned;

/// One place where a token may stand: exactly one of `header`, `cookie` and `query`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenSourceConfig {
    /// A header field with the token.
    pub header: Option<Spanned<String>>,
    /// The word before the token in that field, of any case, and a space. A field without it is no credential. Default: `Bearer` for
    /// `Authorization`, none for others.
    pub scheme: Option<Spanned<String>>,
    /// A cookie with the token. A browser sends it with requests that other sites made it send, too: protect what changes state.
    pub cookie: Option<Spanned<String>>,
    /// A query parameter with the token. Queries end up in histories and other servers' logs; it does not end up in this one's.
    pub query: Option<Spanned<String>>,
}

/// [`TokenSourceConfig`], compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    Header { name: HeaderName, scheme: Option<Box<str>> },
    Cookie(Arc<str>),
    Query(Arc<str>),
}

impl TokenSource {
    /// `Authorization: Bearer` (RFC 6750, section 2.1).
    pub fn bearer() -> Self {
        TokenSource::Header { name: header::AUTHORIZATION, scheme: Some("bearer".into()) }
    }

    /// What was written, or [`TokenSource::bearer`] where nothing was. `None` if any of it is wrong.
    pub fn compile_all(configs: &[TokenSourceConfig], cx: &mut Compile<'_>) -> Option<Vec<Self>> {
        if configs.is_empty() {
            return Some(vec![TokenSource::bearer()]);
        }
        let sources: Vec<Option<Self>> = configs.iter().map(|config| Self::compile(config, cx)).collect();
        sources.into_iter().collect()
    }

    fn compile(config: &TokenSourceConfig, cx: &mut Compile<'_>) -> Option<Self> {
        let named = [&config.header, &config.cookie, &config.query].into_iter().flatten();
        let place = named.clone().next().map_or(cx.place, |name| name.place);
        let mut wrong = |message: String| {
            cx.problems.push(Problem::error(place, message));
            None
        };
        if named.clone().count() != 1 {
            return wrong("a token's place is one of `header`, `cookie` and `query`".to_owned());
        }
        if config.scheme.is_some() && config.header.is_none() {
            return wrong("a `scheme` stands in a `header` only".to_owned());
        }
        if let Some(header) = &config.header {
            let Ok(name) = HeaderName::from_bytes(header.value.as_bytes()) else {
                return wrong(format!("`{}` is no header name", header.value));
            };
            if name == header::COOKIE {
                return wrong("the Cookie field holds many things; name the cookie with `cookie`".to_owned());
            }
            let implied = (name == header::AUTHORIZATION).then(|| Box::from("bearer"));
            let scheme: Option<Box<str>> =
                config.scheme.as_ref().map(|scheme| scheme.value.to_ascii_lowercase().into()).or(implied);
            if scheme.as_deref().is_some_and(|scheme| scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_graphic())) {
                return wrong("a `scheme` is one word".to_owned());
            }
            return Some(TokenSource::Header { name, scheme });
        }
        if let Some(cookie) = &config.cookie {
            let good = |byte: u8| byte.is_ascii_graphic() && !br#"()<>@,;:\"/[]?={}"#.contains(&byte);
            return if cookie.value.is_empty() || !cookie.value.bytes().all(good) {
                wrong(format!("`{}` is no name of a cookie", cookie.value))
            } else {
                Some(TokenSource::Cookie(cookie.value.as_str().into()))
            };
        }
        match &config.query {
            Some(query) if !query.value.is_empty() => Some(TokenSource::Query(query.value.as_str().into())),
            _ => wrong("a query parameter needs a name".to_owned()),
        }
    }

    pub fn carry(sources: &[Self]) -> Carriers {
        let mut carriers = Carriers::default();
        for source in sources {
            match source {
                TokenSource::Header { name, .. } => carriers.headers.push(name.clone()),
                TokenSource::Cookie(name) => carriers.cookies.push(name.clone()),
                TokenSource::Query(name) => carriers.queries.push(name.clone()),
            }
        }
        carriers
    }
}

/// The one token in a request, unchecked but neither empty nor too long. `None` if there is none at any of these places: not in
/// `Authorization` if it is of another scheme, nor in a cookie that is empty.
///
/// # Errors
///
/// A field with a token comes twice, or different tokens stand at different places.
pub fn find<'a>(sources: &'a [TokenSource], head: &'a RequestHead) -> Result<Option<Cow<'a, [u8]>>, Failure> {
    let mut found: Option<Cow<'a, [u8]>> = None;
    for source in sources {
        let Some(token) = source.find(head)? else { continue };
        match &found {
            Some(known) if *known != token => return Err(Failure::AmbiguousCredentials),
            _ => found = Some(token),
        }
    }
    match found.as_deref().map(<[u8]>::len) {
        Some(0) => Err(Failure::MalformedToken),
        Some(length) if length > MAX_TOKEN => Err(Failure::TokenTooLarge),
        _ => Ok(found),
    }
}

impl TokenSource {
    fn find<'a>(&'a self, head: &'a RequestHead) -> Result<Option<Cow<'a, [u8]>>, Failure> {
        match self {
            TokenSource::Header { name, scheme } => {
                let repeated =
                    if *name == header::AUTHORIZATION { Failure::RepeatedAuthorization } else { Failure::AmbiguousCredentials };
                let Some(field) = only(head.header_all(name.as_str()), repeated)? else { return Ok(None) };
                Ok(match scheme {
                    Some(scheme) => after_scheme(field, scheme).map(Cow::Borrowed),
                    None => Some(Cow::Borrowed(field.trim_ascii())).filter(|token| !token.is_empty()),
                })
            }
            TokenSource::Cookie(name) => {
                let value = only(cookie_values(head, name), Failure::AmbiguousCredentials)?;
                let bare =
                    |value: &'a [u8]| value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
                Ok(value.map(bare).filter(|token| !token.is_empty()).map(Cow::Borrowed))
            }
            TokenSource::Query(name) => {
                let query = head.query().unwrap_or_default();
                Ok(only(query_values(query, name), Failure::AmbiguousCredentials)?.filter(|token| !token.is_empty()))
            }
        }
    }
}

/// Which of two a backend would believe is anyone's guess.
fn only<T>(mut values: impl Iterator<Item = T>, repeated: Failure) -> Result<Option<T>, Failure> {
    let first = values.next();
    if first.is_some() && values.next().is_some() { Err(repeated) } else { Ok(first) }
}

/// What follows the scheme; `None` for another one. May be empty: the scheme without a token is a broken credential, not none.
fn after_scheme<'a>(field: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let at = memchr::memchr(b' ', field).unwrap_or(field.len());
    let (word, rest) = field.split_at_checked(at)?;
    word.eq_ignore_ascii_case(scheme.as_bytes()).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sources: &[TokenSource], target: &str, fields: &[(&str, &str)]) -> Result<Option<Vec<u8>>, Failure> {
        find(sources, &RequestHead::build("GET", target, fields)).map(|token| token.map(Cow::into_owned))
    }

    fn sources(json: serde_json::Value) -> Result<Vec<TokenSource>, String> {
        let configs: Vec<TokenSourceConfig> = serde_json::from_value(json).unwrap();
        let (mut problems, ledger, consumers) = Default::default();
        let mut cx = crate::policy::testing::context(&mut problems, "test", &ledger, &consumers, std::path::Path::new("."));
        TokenSource::compile_all(&configs, &mut cx).ok_or_else(|| problems.iter().next().unwrap().message.clone())
    }

    #[test]
    fn reads_one_bearer_field() {
        let found = |fields: &[(&str, &str)]| found(&[TokenSource::bearer()], "/", fields);
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("AUTHORIZATION", "bEaReR  abc ")]), Ok(Some(b"abc".to_vec())));
        assert_eq!(found(&[("authorization", "Basic abc")]), Ok(None));
        assert_eq!(found(&[("authorization", "Bearerabc")]), Ok(None));
        assert_eq!(found(&[("authorization", "Bearer")]), Err(Failure::MalformedToken));
        assert_eq!(found(&[("authorization", "Bearer a"), ("Authorization", "Basic b")]), Err(Failure::RepeatedAuthorization));
        assert_eq!(found(&[("authorization", &format!("Bearer {}", "a".repeat(MAX_TOKEN + 1)))]), Err(Failure::TokenTooLarge));
    }

    #[test]
    fn reads_tokens_from_where_they_are_said_to_be() {
        let sources = sources(serde_json::json!([
            { "header": "X-Token" }, { "header": "X-Auth", "scheme": "Token" }, { "cookie": "session" }, { "query": "access_token" },
        ]))
        .unwrap();
        let found = |target: &str, fields: &[(&str, &str)]| found(&sources, target, fields);
        assert_eq!(found("/", &[("authorization", "Bearer a")]), Ok(None));
        assert_eq!(found("/", &[("x-token", "a b")]), Ok(Some(b"a b".to_vec())));
        assert_eq!(found("/", &[("x-auth", "token a")]), Ok(Some(b"a".to_vec())));
        assert_eq!(found("/", &[("x-auth", "other a")]), Ok(None));
        assert_eq!(found("/", &[("cookie", "a=b; session=\"tok\"")]), Ok(Some(b"tok".to_vec())));
        assert_eq!(found("/", &[("cookie", "session=")]), Ok(None));
        assert_eq!(found("/?access%5ftoken=a%2Eb&x=y", &[]), Ok(Some(b"a.b".to_vec())));
        assert_eq!(found("/?access_token=a", &[("cookie", "session=a"), ("x-token", "a")]), Ok(Some(b"a".to_vec())));
        assert_eq!(found("/?access_token=a", &[("cookie", "session=b")]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/", &[("cookie", "session=a; session=b")]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/?access_token=a&access_token=a", &[]), Err(Failure::AmbiguousCredentials));
        assert_eq!(found("/", &[("x-token", &"a".repeat(100_000))]), Err(Failure::TokenTooLarge));
    }

    #[test]
    fn refuses_places_that_are_none() {
        for (json, expected) in [
            (serde_json::json!([{}]), "one of"),
            (serde_json::json!([{ "header": "x", "cookie": "y" }]), "one of"),
            (serde_json::json!([{ "cookie": "y", "scheme": "z" }]), "`scheme`"),
            (serde_json::json!([{ "header": "a b" }]), "no header name"),
            (serde_json::json!([{ "header": "Cookie" }]), "with `cookie`"),
            (serde_json::json!([{ "header": "x", "scheme": "a b" }]), "one word"),
            (serde_json::json!([{ "cookie": "a=b" }]), "no name of a cookie"),
            (serde_json::json!([{ "query": "" }]), "needs a name"),
        ] {
            let message = sources(json.clone()).unwrap_err();
            assert!(message.contains(expected), "{json}: {message}");
        }
    }
}
