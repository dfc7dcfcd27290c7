//! A fresh stored answer, found without Pingora's state machine.
//!
//! These are the steps that its proxy takes on a fresh hit (pingora-proxy 0.9.1, `proxy_cache`), with the same functions behind them.
//! Whatever is not a plain fresh hit is not found here: the request then goes the longer way ([`HttpCache`](pingora_cache::HttpCache)), which does everything else.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName};
use pingora_cache::CacheKey;
use pingora_cache::predictor::CacheablePredictor;
use pingora_core::protocols::http::conditional_filter::not_modified_filter;
use pingora_http::RequestHeader;

use super::entry::Entry;
use super::{Cache, CachePolicy, Outcome, StoredHead, key};

/// A fresh stored answer.
pub struct Hit {
    entry: Arc<Entry>,
    /// How old it is, in seconds, from when its backend made it.
    pub age: u64,
    /// For how many more seconds it is fresh.
    ttl: u64,
}

impl Cache {
    /// The fresh answer that is stored under a request's key, or the variant of it that this request wants. `seen` are the values of
    /// a field of the request as the backend sees them.
    pub fn fresh<'v, V>(&self, policy: &CachePolicy, mut key: CacheKey, seen: impl Fn(&HeaderName) -> V) -> Option<Hit>
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        if !self.predictor.cacheable_prediction(&key) {
            return None;
        }
        let primary = self.storage.find(&key)?;
        let entry = match key::variance(policy, primary.meta.head.vary(), seen) {
            Some(variance) if primary.meta.variance != Some(variance) => {
                key.set_variance_key(variance);
                let variant = self.storage.find(&key)?;
                // A purge takes the primary away alone: variants from before it was stored anew are gone with it.
                let counts = variant.meta.created >= primary.meta.created && variant.meta.variance == Some(variance);
                counts.then_some(variant)?
            }
            _ => primary,
        };
        let now = SystemTime::now();
        let left = entry.meta.fresh_until.duration_since(now).ok()?;
        let age = now.duration_since(entry.meta.epoch).unwrap_or_default();
        Some(Hit { age: age.as_secs(), ttl: left.as_secs(), entry })
    }
}

impl Hit {
    pub fn head(&self) -> &StoredHead {
        &self.entry.meta.head
    }

    pub fn body(&self) -> &Bytes {
        &self.entry.body
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::Hit { ttl: self.ttl }
    }

    /// The answer for a client that has this one already, if `seen` of its request says so: `If-None-Match`, or else
    /// `If-Modified-Since` (RFC 9110, section 13.2.2).
    pub fn not_modified<'v, V>(&self, method: &Method, seen: impl Fn(&HeaderName) -> V) -> Option<StoredHead>
    where
        V: IntoIterator<Item = &'v [u8]>,
    {
        let request = asked(method, &[header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE], seen);
        // Few requests get here, so the judgement itself can be Pingora's.
        not_modified_filter(&request?, &self.head().to_header().ok()?).then(|| self.head().not_modified())
    }
}

/// A request with these fields alone, for Pingora's filters to look at. `None` if it has none of them. `seen` are the values of a field of the
/// request as the backend sees them.
pub fn asked<'v, V>(method: &Method, names: &[HeaderName], seen: impl Fn(&HeaderName) -> V) -> Option<RequestHeader>
where
    V: IntoIterator<Item = &'v [u8]>,
{
    let mut request = None;
    for name in names {
        for value in seen(name) {
            let request = match &mut request {
                Some(request) => request,
                None => request.insert(RequestHeader::build(method.clone(), b"/", None).ok()?),
            };
            request.append_header(name, pingora_http::header_value_from_slice(value)).ok()?;
        }
    }
    request
}
