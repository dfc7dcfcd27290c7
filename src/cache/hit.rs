//! A stored answer that can be given as it is.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderName};
use pingora_core::protocols::http::conditional_filter::not_modified_filter;
use pingora_http::RequestHeader;

use super::entry::Entry;
use super::{Outcome, StoredHead};

/// See the module.
pub struct Hit {
    entry: Arc<Entry>,
    /// How old it is, in seconds, from when its backend made it. `None` if that has validated it for this very request (RFC 9111, section
    /// 5.1).
    age: Option<u64>,
    /// For how many more seconds it is fresh.
    ttl: u64,
}

impl Hit {
    /// `None` if it is not fresh any more.
    pub(super) fn fresh(entry: &Arc<Entry>, now: SystemTime) -> Option<Self> {
        let left = entry.meta.fresh_until.duration_since(now).ok()?;
        let age = now.duration_since(entry.meta.epoch).unwrap_or_default();
        Some(Hit { age: Some(age.as_secs()), ttl: left.as_secs(), entry: entry.clone() })
    }

    pub(super) fn validated(entry: Entry) -> Self {
        Hit { entry: Arc::new(entry), age: None, ttl: 0 }
    }

    pub fn age(&self) -> Option<u64> {
        self.age
    }

    pub fn head(&self) -> &StoredHead {
        &self.entry.meta.head
    }

    pub fn body(&self) -> &Bytes {
        &self.entry.body
    }

    pub fn outcome(&self) -> Outcome {
        if self.age.is_some() { Outcome::Hit { ttl: self.ttl } } else { Outcome::Revalidated }
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
