//! What a route wants of the cache. What people write is `policy::shape::cache`.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::credentials;

/// What of the query string is part of the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueryKey {
    /// All of it, byte for byte.
    #[default]
    All,
    /// Nothing: requests that differ only in their query share an entry.
    None,
}

/// A route's compiled cache policy.
#[derive(Debug, Clone)]
pub struct CachePolicy {
    /// Upper bound and default of an answer's freshness.
    pub ttl: Duration,
    /// Longest body in bytes.
    pub max_body: usize,
    /// Sorted, each once. With those that the route's policies make for each client.
    pub key_headers: Box<[HeaderName]>,
    /// Credentials that the route's policies hand to the backend: a request with one never uses the cache.
    pub handed: Box<[HeaderName]>,
    pub query: QueryKey,
    /// Sorted.
    pub statuses: Box<[u16]>,
}

impl CachePolicy {
    pub fn keeps_status(&self, status: u16) -> bool {
        self.statuses.binary_search(&status).is_ok()
    }

    /// On a route whose policies make fields of these names for each client.
    pub fn beside(&self, per_client: &[HeaderName]) -> Self {
        let (handed, keyed): (Vec<HeaderName>, Vec<HeaderName>) = per_client.iter().cloned().partition(credentials::is_usual);
        let mut key_headers = [&*self.key_headers, &keyed].concat();
        key_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        key_headers.dedup();
        CachePolicy { key_headers: key_headers.into(), handed: handed.into(), ..self.clone() }
    }
}
