//! What a 304 says of the stored answer that it validates (RFC 9111, sections 3.2 and 4.3.4): every field of it replaces the stored
//! ones of its name, but for those that frame the body or say what it is coded in.
//!
//! Pingora takes over five fields, and neither `Vary` nor `Date` among them; so the 304 is kept when it comes, and the rest is put in
//! when what is to be stored, and what is to be sent, is known.

use http::header::{self, HeaderMap};
use pingora_cache::{CacheKey, CacheMeta, NoCacheReason, RespCacheable};
use pingora_http::ResponseHeader;

use super::rules::Came;
use super::stock::store;
use super::{Cache, CachePolicy, rules};

/// A 304 that came from the backend.
#[derive(Debug)]
pub struct Validation(HeaderMap);

impl Validation {
    /// `None` if it is no 304.
    pub fn of(answer: &ResponseHeader) -> Option<Box<Self>> {
        if answer.status != http::StatusCode::NOT_MODIFIED {
            return None;
        }
        let mut answer = answer.clone();
        let age = answer.remove_header(&header::AGE);
        rules::strip(&mut answer);
        if let Some(age) = age {
            let _ = answer.insert_header(header::AGE, age);
        }
        Some(Box::new(Validation(answer.headers.clone())))
    }

    /// Puts its fields in place of the stored ones.
    pub fn update(&self, stored: &mut ResponseHeader) {
        for name in self.0.keys().filter(|name| !rules::is_kept(name.as_str().as_bytes())) {
            let _ = stored.remove_header(name);
            for value in self.0.get_all(name) {
                // It came out of a header map, and fits into one.
                let _ = stored.append_header(name, value);
            }
        }
    }

    /// `response_cache_filter` of a validated answer: the metadata to store, or why it is not stored any longer. With another `Vary` it is
    /// another one's answer as well, and is fetched anew by whoever wants it next.
    pub fn store(
        &self,
        stored: &ResponseHeader,
        known: &CacheMeta,
        key: Option<&CacheKey>,
        cache: &Cache,
        policy: &CachePolicy,
        came: Came,
    ) -> RespCacheable {
        let tag = known.headers().get(header::ETAG).map(|tag| tag.as_bytes());
        if self.0.get_all(header::ETAG).iter().any(|new| tag.is_none_or(|known| !rules::is_same_tag(new.as_bytes(), known))) {
            // It speaks of something else (section 4.3.4). Pingora gives what was stored this once.
            key.into_iter().for_each(|key| cache.forget(key));
            return RespCacheable::Uncacheable(NoCacheReason::Custom("another_tag"));
        }
        let mut updated = stored.clone();
        self.update(&mut updated);
        let known = known.headers().get_all(header::VARY);
        if !rules::are_alike(rules::list(&known), rules::list(&updated.headers.get_all(header::VARY))) {
            key.into_iter().for_each(|key| cache.forget(key));
            return RespCacheable::Uncacheable(NoCacheReason::Custom("another_vary"));
        }
        store(&updated, policy, came)
    }
}
