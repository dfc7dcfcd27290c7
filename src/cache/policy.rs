//! What a route wants of the cache. What people write is `policy::shape::cache`.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::control::LONGEST;
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
    /// Lifetime of an answer that names none.
    pub default_ttl: Duration,
    /// What lifetimes that answers name are raised to, and cut to.
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub heuristic: Option<Heuristic>,
    /// For how long an answer may be given that is stale, if it does not say so itself.
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    /// The most that both may be, whoever says it.
    pub max_stale: Duration,
    /// What clients say in `Cache-Control` makes no difference.
    pub ignore_requests: bool,
    /// Longest body in bytes.
    pub max_body: usize,
    /// Sorted, each once. With those that the route's policies make for each client.
    pub key_headers: Box<[HeaderName]>,
    /// Credentials that the route's policies hand to the backend: a request with one never uses the cache.
    pub handed: Box<[HeaderName]>,
    pub query: QueryKey,
    /// Clients see the tags that answers bear.
    pub keep_tags: bool,
    /// Of answers that name no lifetime. Sorted.
    pub statuses: Box<[u16]>,
}

/// A lifetime guessed by how long ago the answer was last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heuristic {
    pub percent: u32,
    pub max: Duration,
}

/// As long as a lifetime can be.
pub const UNBOUNDED: Duration = Duration::from_secs(LONGEST);

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
