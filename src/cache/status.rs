//! `Cache-Status` (RFC 9211): what the cache did, said to the client.
//!
//! `Age` is not in here: pingora writes it into every answer that it takes from storage without asking the backend.

use std::fmt::Write;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use pingora_cache::{CachePhase, HttpCache, NoCacheReason};

use super::rules::{Bypass, Use};

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What the cache did with one request, for the field, the log and the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from memory; fresh for so many more seconds.
    Hit {
        ttl: u64,
    },
    /// A stored answer had expired; the backend said that it still holds.
    Revalidated,
    /// Asked the backend because the stored answer had expired.
    Expired {
        stored: bool,
    },
    /// Nothing was stored.
    Miss {
        stored: bool,
    },
    /// The backend's earlier answers for this key could not be stored, so nothing was looked up.
    Predicted {
        stored: bool,
    },
    Bypass(Bypass),
}

impl Outcome {
    /// Reads the outcome off pingora's state, once the response header is known. `stored` means "is being stored": its body has
    /// not arrived yet.
    pub fn of(cache: &HttpCache, used: Use) -> Self {
        if let Use::Bypass(why) = used {
            return Outcome::Bypass(why);
        }
        let has_meta = cache.maybe_cache_meta().is_some();
        match cache.phase() {
            CachePhase::Hit | CachePhase::Stale | CachePhase::StaleUpdating => {
                let left = cache.maybe_cache_meta().and_then(|meta| meta.fresh_until().duration_since(SystemTime::now()).ok());
                Outcome::Hit { ttl: left.unwrap_or_default().as_secs() }
            }
            CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => Outcome::Revalidated,
            CachePhase::Expired => Outcome::Expired { stored: has_meta },
            CachePhase::Miss if cache.lookup_duration().is_some() => Outcome::Miss { stored: has_meta },
            CachePhase::Miss => Outcome::Predicted { stored: has_meta },
            CachePhase::Bypass | CachePhase::Disabled(NoCacheReason::PredictedResponseTooLarge) => {
                Outcome::Predicted { stored: false }
            }
            CachePhase::Disabled(_) if cache.lookup_duration().is_none() => Outcome::Predicted { stored: false },
            CachePhase::Disabled(_) | CachePhase::Uninit | CachePhase::CacheKey => Outcome::Miss { stored: false },
        }
    }

    /// One word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Hit { .. } => "hit",
            Outcome::Revalidated => "revalidated",
            Outcome::Expired { .. } => "expired",
            Outcome::Miss { .. } => "miss",
            Outcome::Predicted { .. } | Outcome::Bypass(_) => "bypass",
        }
    }

    /// The field's value. A cache adds itself at the end of the list, so append it to what the backend sent.
    pub fn field(self) -> HeaderValue {
        let stored =
            |value: &'static str, with: &'static str, stored: bool| HeaderValue::from_static(if stored { with } else { value });
        match self {
            Outcome::Hit { ttl } => {
                let mut value = String::with_capacity(32);
                let _ = write!(value, "portcullis; hit; ttl={ttl}");
                HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("portcullis; hit"))
            }
            Outcome::Revalidated => HeaderValue::from_static("portcullis; fwd=stale; fwd-status=304"),
            Outcome::Expired { stored: kept } => stored("portcullis; fwd=stale", "portcullis; fwd=stale; stored", kept),
            Outcome::Miss { stored: kept } => stored("portcullis; fwd=miss", "portcullis; fwd=miss; stored", kept),
            Outcome::Predicted { stored: kept } => {
                stored("portcullis; fwd=bypass; detail=predicted", "portcullis; fwd=bypass; stored; detail=predicted", kept)
            }
            // Section 2.2 has words of its own for a method that is not cached and for the client's directives.
            Outcome::Bypass(Bypass::Method) => HeaderValue::from_static("portcullis; fwd=method"),
            Outcome::Bypass(Bypass::Asked) => HeaderValue::from_static("portcullis; fwd=request"),
            Outcome::Bypass(Bypass::Credentials) => HeaderValue::from_static("portcullis; fwd=bypass; detail=credentials"),
            Outcome::Bypass(Bypass::Content) => HeaderValue::from_static("portcullis; fwd=bypass; detail=content"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (outcome, expected) in [
            (Outcome::Hit { ttl: 27 }, "portcullis; hit; ttl=27"),
            (Outcome::Miss { stored: true }, "portcullis; fwd=miss; stored"),
            (Outcome::Miss { stored: false }, "portcullis; fwd=miss"),
            (Outcome::Expired { stored: true }, "portcullis; fwd=stale; stored"),
            (Outcome::Revalidated, "portcullis; fwd=stale; fwd-status=304"),
            (Outcome::Bypass(Bypass::Method), "portcullis; fwd=method"),
            (Outcome::Bypass(Bypass::Asked), "portcullis; fwd=request"),
            (Outcome::Bypass(Bypass::Credentials), "portcullis; fwd=bypass; detail=credentials"),
        ] {
            assert_eq!(outcome.field(), expected);
        }
    }

    #[test]
    fn a_cache_that_was_never_enabled_is_what_the_rules_said() {
        let cache = HttpCache::new();
        assert_eq!(Outcome::of(&cache, Use::Bypass(Bypass::Method)), Outcome::Bypass(Bypass::Method));
        assert_eq!(Outcome::of(&cache, Use::Full), Outcome::Predicted { stored: false });
    }
}
