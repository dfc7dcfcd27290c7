//! Which requests carry credentials, so that what they get may be for one client only.
//!
//! A backend may check a key that this gateway never reads. So the fields that usually carry one count, on every route, along with
//! those that any `authn` of the configuration reads; a route that names one in `key_headers` keeps an entry for each value instead.

use std::sync::Arc;

use http::HeaderName;

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

/// Whether a field of that name usually carries a credential.
pub fn is_usual(name: &HeaderName) -> bool {
    USUAL.binary_search(&name.as_str()).is_ok()
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
        let mut headers: Vec<HeaderName> = USUAL.into_iter().map(HeaderName::from_static).chain(headers).collect();
        let order = |name: &HeaderName| (name.as_str().len(), name.to_string());
        headers.sort_by_cached_key(order);
        headers.dedup();
        let slots = headers.iter().fold(0, |slots, name| slots | slot(name.as_str().as_bytes()));
        Credentials { headers: headers.into(), slots, queries: queries.into_iter().collect() }
    }

    /// Whether a request has any, but for fields that are part of its key. One walk over its fields.
    pub fn are_in(&self, head: &RequestHead, keyed: &[HeaderName]) -> bool {
        let named = |name: &[u8]| {
            let from = self.headers.partition_point(|known| known.as_str().len() < name.len());
            let mut alike = self.headers.iter().skip(from).take_while(|known| known.as_str().len() == name.len());
            let known = alike.find(|known| name.eq_ignore_ascii_case(known.as_str().as_bytes()));
            known.is_some_and(|known| !keyed.contains(known))
        };
        let asked = |query: &str| self.queries.iter().any(|name| query_values(query, name).next().is_some());
        head.headers().any(|(name, _)| self.slots & slot(name) != 0 && named(name))
            || !self.queries.is_empty() && head.query().is_some_and(asked)
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
            credentials.are_in(&RequestHead::build("GET", target, fields), keyed)
        };
        assert!(USUAL.is_sorted());
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
