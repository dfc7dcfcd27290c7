//! What a route wants of the cache. What people write is `policy::shape::cache`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::control::LONGEST;
use super::credentials;
use crate::cel::Expression;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::value::StatusRange;

/// What of the query string is part of the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum QueryKey {
    /// All of it, byte for byte.
    #[default]
    All,
    /// Nothing: requests that differ only in their query share an entry.
    None,
    /// The parameters of these names, in the order of their names.
    Only(Names),
    /// All but these, in the order of their names.
    Ignore(Names),
}

impl QueryKey {
    /// Whether a parameter of this name is.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        match self {
            QueryKey::All => true,
            QueryKey::None => false,
            QueryKey::Only(names) => names.have(name),
            QueryKey::Ignore(names) => !names.have(name),
        }
    }
}

/// Names of parameters or cookies. One with a `*` at its end is the beginning of many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Names(Box<[Box<str>]>);

impl Names {
    pub fn new(names: impl IntoIterator<Item = Box<str>>) -> Self {
        Names(names.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn have(&self, name: &[u8]) -> bool {
        self.0.iter().any(|known| match known.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning.as_bytes()),
            None => known.as_bytes() == name,
        })
    }
}

/// What few routes ask of their cache.
#[derive(Debug, Default)]
pub struct Extra {
    /// Codings, and languages, to which what clients accept is cut down.
    pub accept_encoding: Option<Box<[Box<str>]>>,
    pub accept_language: Option<Box<[Box<str>]>>,
    /// Cookies that are part of the key, and those that the service is not shown.
    pub key_cookies: Names,
    pub drop_cookies: Names,
    /// Who has proved to be a consumer has entries of that consumer's.
    pub per_consumer: bool,
    /// Requests for which one of them holds do not use the cache, or store nothing.
    pub bypass: Option<Expression>,
    pub no_store: Option<Expression>,
    /// What is asked for once is not stored.
    pub second_request: bool,
    /// Requests with credentials share what the service says is for all.
    pub shared_with_auth: bool,
    /// Requests of other methods whose body is part of the key.
    pub by_body: Option<ByBody>,
    /// Who asks for a part of what is not stored has the whole fetched.
    pub whole_ranges: bool,
    /// Parts that the service gives are kept, and put together.
    pub keeps_parts: bool,
    /// How long answers of these statuses are fresh that do not say so.
    pub by_status: Box<[(StatusRange, Duration)]>,
    /// `Cache-Status` says what is asked for as the key has it.
    pub shows_key: bool,
}

/// Methods that ask for something by their body.
#[derive(Debug)]
pub struct ByBody {
    pub methods: Box<[Method]>,
    /// The longest body that is part of a key, in bytes.
    pub max: usize,
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
    pub extra: Option<Arc<Extra>>,
    /// What is stored is written to disk as well, where there is such a tier.
    pub on_disk: bool,
    /// And to Redis.
    pub in_redis: bool,
    /// Clients see the tags that answers bear.
    pub keep_tags: bool,
    /// Of answers that name no lifetime. Sorted.
    pub statuses: Box<[u16]>,
    /// From 400 on: what clients get something else in the place of is neither stored nor given.
    pub refused: Box<[StatusRange]>,
}

/// A lifetime guessed by how long ago the answer was last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heuristic {
    pub percent: u32,
    pub max: Duration,
    /// Also of statuses that are not listed, where an answer may be kept by what it says itself.
    pub unlisted: bool,
}

/// As long as a lifetime can be.
pub const UNBOUNDED: Duration = Duration::from_secs(LONGEST);

impl Extra {
    /// Whether a rule keeps this request from the cache.
    pub fn bypasses(&self, head: &RequestHead, exchange: &Exchange) -> bool {
        holds(self.bypass.as_ref(), head, exchange)
    }

    /// Whether a rule keeps what this request is answered from being stored.
    pub fn stores_nothing(&self, head: &RequestHead, exchange: &Exchange) -> bool {
        holds(self.no_store.as_ref(), head, exchange)
    }

    /// Whether the cache is there for requests of this method at all. Whatever the route does for those that use it, it does for these.
    pub fn is_for(&self, method: &Method) -> bool {
        matches!(*method, Method::GET | Method::HEAD) || self.asks_by_body(method)
    }

    fn asks_by_body(&self, method: &Method) -> bool {
        self.by_body.as_ref().is_some_and(|by_body| by_body.methods.contains(method))
    }

    /// Whether the service is asked in other words than the client's.
    pub fn asks_otherwise(&self) -> bool {
        self.accept_encoding.is_some() || self.accept_language.is_some() || !self.drop_cookies.is_empty()
    }
}

/// An expression that comes to nothing is for the careful side.
fn holds(rule: Option<&Expression>, head: &RequestHead, exchange: &Exchange) -> bool {
    rule.is_some_and(|rule| rule.bool(head, exchange).unwrap_or(true))
}

impl CachePolicy {
    pub fn keeps_status(&self, status: u16) -> bool {
        self.statuses.binary_search(&status).is_ok() || self.lifetime_of(status).is_some()
    }

    /// How long an answer of this status is fresh that does not say so, where the route says so of some.
    pub fn lifetime_of(&self, status: u16) -> Option<Duration> {
        let by_status = &self.extra.as_ref()?.by_status;
        by_status.iter().find(|(range, _)| range.contains(status)).map(|(_, lifetime)| *lifetime)
    }

    /// Requests of this method only ask, and their body says for what.
    pub fn is_by_body(&self, method: &Method) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.asks_by_body(method))
    }

    pub fn by_body(&self) -> Option<&ByBody> {
        self.extra.as_ref()?.by_body.as_ref()
    }

    /// Whether answers of this status are for nobody.
    #[inline]
    pub fn refuses(&self, status: StatusCode) -> bool {
        status.as_u16() >= 400 && self.refused.iter().any(|range| range.contains(status.as_u16()))
    }

    /// On a route that has something else for its clients in the place of answers of these statuses.
    pub fn refusing(&self, statuses: &[StatusRange]) -> Self {
        CachePolicy { refused: statuses.into(), ..self.clone() }
    }

    /// Who asks for a part of what is not stored has the whole fetched.
    pub fn fetches_whole(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.whole_ranges)
    }

    /// There may be parts: those that the service gives are kept.
    pub fn has_parts(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.keeps_parts)
    }

    /// What is asked for once is not stored.
    pub fn asks_twice(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.second_request)
    }

    /// On a route whose policies make fields of these names for each client.
    pub fn beside(&self, per_client: &[HeaderName]) -> Self {
        let (handed, keyed): (Vec<HeaderName>, Vec<HeaderName>) = per_client.iter().cloned().partition(credentials::is_usual);
        // What was said of the service is still so where a route says more.
        let handed = [&*self.handed, &handed].concat();
        CachePolicy { handed: handed.into(), ..self.keyed_by(&keyed) }
    }

    /// With fields of these names in the key as well.
    pub fn keyed_by(&self, names: &[HeaderName]) -> Self {
        let mut key_headers = [&*self.key_headers, names].concat();
        key_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        key_headers.dedup();
        CachePolicy { key_headers: key_headers.into(), ..self.clone() }
    }
}
