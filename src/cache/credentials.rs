//! Which requests carry credentials, so that what they get may be for one client only, or fields that make it an answer to another request.
//!
//! A backend may check a key that this gateway never reads. So the fields that usually carry one count, on every route, along with
//! those that any `authn` of the configuration reads; a route that names one in `key_headers` keeps an entry for each value instead.

use std::sync::Arc;

use http::HeaderName;

use super::rules::Bypass;
use crate::carrier::query_values;
use crate::head::RequestHead;

/// Fields that say who asks, or prove it, by custom. `Authorization`: RFC 9111, section 3.5.
const USUAL: [&str; 35] = [
    "api-key",
    "apikey",
    "authorization",
    "client-cert",
    "client-cert-chain",
    "cookie",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "remote-user",
    "signature",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-apikey",
    "x-auth-key",
    "x-auth-method",
    "x-auth-scopes",
    "x-auth-subject",
    "x-auth-token",
    "x-authorization",
    "x-consumer-name",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-user",
    "x-functions-key",
    "x-goog-api-key",
    "x-rapidapi-key",
    "x-remote-user",
    "x-session-id",
    "x-session-token",
    "x-subscription-token",
    "x-vault-token",
];

/// Fields by which a service may answer for another target, host or method than what is asked for, and than what the key says: what it
/// answers then is for nobody else. (`X-Forwarded-Prefix` and the like come from trusted proxies only, and are part of the key.)
const OVERRIDING: [&str; 14] = [
    "front-end-https",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-http-path-override",
    "x-method-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

/// Whether a service may take a field of that name for another target, host or method than what it is asked for.
pub fn is_overriding(name: &[u8]) -> bool {
    OVERRIDING.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a field of that name usually carries a credential.
pub fn is_usual(name: &HeaderName) -> bool {
    USUAL.binary_search(&name.as_str()).is_ok()
}

/// As [`is_usual`], in whatever case.
pub fn is_usual_name(name: &[u8]) -> bool {
    HeaderName::from_bytes(name).is_ok_and(|name| is_usual(&name))
}

/// Where requests may carry credentials, for all routes of a configuration.
#[derive(Debug)]
pub struct Credentials {
    /// The shorter first.
    headers: Box<[HeaderName]>,
    /// A bit for every [`slot`] that one of the fields has: most fields of most requests have none of them.
    slots: u128,
    /// Names of query parameters.
    queries: Box<[Arc<str>]>,
}

impl Credentials {
    /// The usual fields, and those that the configuration reads credentials from.
    pub fn new(headers: impl IntoIterator<Item = HeaderName>, queries: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut headers: Vec<HeaderName> =
            USUAL.into_iter().chain(OVERRIDING).map(HeaderName::from_static).chain(headers).collect();
        let order = |name: &HeaderName| (name.as_str().len(), name.to_string());
        headers.sort_by_cached_key(order);
        headers.dedup();
        let slots = headers.iter().fold(0, |slots, name| slots | slot(name.as_str().as_bytes()));
        Credentials { headers: headers.into(), slots, queries: queries.into_iter().collect() }
    }

    /// Why a request that carries such a field does not use the cache, but for fields that are part of its key. One walk over its fields.
    pub fn forbid(&self, head: &RequestHead, keyed: &[HeaderName]) -> Option<Bypass> {
        self.forbid_but(head, |name| keyed.contains(name)).or_else(|| self.asked(head))
    }

    /// A query parameter with a credential.
    #[inline]
    pub fn asked(&self, head: &RequestHead) -> Option<Bypass> {
        if self.queries.is_empty() {
            return None;
        }
        let asked = |query: &str| self.queries.iter().any(|name| query_values(query, name).next().is_some());
        head.query().is_some_and(asked).then_some(Bypass::Credentials)
    }

    /// The same of fields alone, but for those that are `keyed`.
    pub fn forbid_but(&self, head: &RequestHead, keyed: impl Fn(&HeaderName) -> bool) -> Option<Bypass> {
        let named = |name: &[u8]| {
            let from = self.headers.partition_point(|known| known.as_str().len() < name.len());
            let mut alike = self.headers.iter().skip(from).take_while(|known| known.as_str().len() == name.len());
            let known = alike.find(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()));
            known.filter(|known| !keyed(known))
        };
        let why = |name: &HeaderName| if OVERRIDING.contains(&name.as_str()) { Bypass::Overriding } else { Bypass::Credentials };
        head.headers().filter(|(name, _)| self.slots & slot(name) != 0).find_map(|(name, _)| named(name)).map(why)
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Credentials::new([], [])
    }
}

/// One of 128 bits, by a name's length and its last letter, in whatever case.
fn slot(name: &[u8]) -> u128 {
    let last = name.last().map_or(0, |last| last | 0x20);
    1 << ((name.len() * 7 + usize::from(last)) & 127)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_fields_and_those_of_the_configuration_count() {
        let credentials = Credentials::new([HeaderName::from_static("x-shop-key")], ["api_key".into()]);
        let has = |target: &str, fields: &[(&str, &str)], keyed: &[HeaderName]| {
            credentials.forbid(&RequestHead::build("GET", target, fields), keyed) == Some(Bypass::Credentials)
        };
        assert!(USUAL.is_sorted() && OVERRIDING.is_sorted());
        for name in OVERRIDING {
            let head = RequestHead::build("GET", "/", &[(name, "/b")]);
            assert_eq!(credentials.forbid(&head, &[]), Some(Bypass::Overriding), "{name}");
            assert_eq!(credentials.forbid(&head, &[HeaderName::from_static(name)]), None, "{name}");
        }
        for name in USUAL.into_iter().chain(["x-shop-key"]) {
            let field = HeaderName::from_static(name);
            assert!(has("/", &[("host", "a"), (&name.to_uppercase(), "")], &[]), "{name}");
            assert!(!has("/", &[(name, "1")], &[field]), "{name} is part of the key");
        }
        let plain = ["host", "accept", "accept-encoding", "user-agent", "if-none-match", "x-tenant", "origin", "referer", "via"];
        assert!(!has("/?q=api_key", &plain.map(|name| (name, "1")), &[]));
        for query in ["/?api_key=1", "/?a&api_key", "/?api%5fkey=1"] {
            assert!(has(query, &[], &[]), "{query}");
        }
    }
}
