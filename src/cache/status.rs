//! `Cache-Status` (RFC 9211): what the cache did, said to the client.
//!
//! `Age` is not in here: pingora writes it into every answer that it takes from storage without asking the backend.

use std::fmt::Write;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use pingora_cache::{CachePhase, HttpCache, NoCacheReason};

use super::hit::Excuse;
use super::rules::{Bypass, Use};
use super::stock;

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The longest key that is shown.
const LONGEST_KEY: usize = 1024;

/// What the cache did with one request, for the field, the log and the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from memory; fresh for so many more seconds.
    Hit {
        ttl: u64,
    },
    /// Answered from disk; fresh for so many more seconds.
    Disk {
        ttl: u64,
    },
    /// Answered from Redis; fresh for so many more seconds.
    Redis {
        ttl: u64,
    },
    /// Answered with what another request has asked for, while it came.
    Collapsed,
    /// A stored answer had expired, for so many seconds, and was given all the same.
    Stale {
        since: u64,
        excuse: Excuse,
    },
    /// A stored answer had expired, or its client wanted it looked after; the backend said that it still holds.
    Revalidated {
        asked: bool,
    },
    /// Asked the backend because the client would not have what is stored.
    Reloaded {
        stored: bool,
    },
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
        let meta = cache.maybe_cache_meta();
        let has_meta = meta.is_some();
        let now = meta.map_or_else(SystemTime::now, stock::now_for);
        let until = meta.map(|meta| meta.fresh_until());
        let since = || until.and_then(|until| now.duration_since(until).ok()).unwrap_or_default().as_secs();
        match cache.phase() {
            CachePhase::Hit => {
                let left = until.and_then(|until| until.duration_since(now).ok()).unwrap_or_default();
                Outcome::Hit { ttl: left.as_secs() }
            }
            CachePhase::Stale => Outcome::Stale { since: since(), excuse: Excuse::Error(None) },
            CachePhase::StaleUpdating => Outcome::Stale { since: since(), excuse: Excuse::Revalidating },
            CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => Outcome::Revalidated { asked: false },
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
            Outcome::Disk { .. } | Outcome::Redis { .. } | Outcome::Collapsed => "hit",
            Outcome::Stale { .. } => "stale",
            Outcome::Revalidated { .. } => "revalidated",
            Outcome::Reloaded { .. } => "reloaded",
            Outcome::Expired { .. } => "expired",
            Outcome::Miss { .. } => "miss",
            Outcome::Predicted { .. } | Outcome::Bypass(_) => "bypass",
        }
    }

    /// The same with what was asked for, as the key has it: on which route, of which host, and where. What else is part of the key, as who
    /// asks or what some fields say, is not shown.
    pub fn field_with_key(self, route: &str, host: &str, path: &str, query: Option<&str>) -> HeaderValue {
        let mark = if query.is_some() { "?" } else { "" };
        let key = format!("{route} {host}{path}{mark}{}", query.unwrap_or_default());
        // RFC 9651, section 3.3.3.
        if matches!(self, Outcome::Bypass(_)) || key.len() > LONGEST_KEY || !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.field();
        }
        let key = key.replace('\\', "\\\\").replace('"', "\\\"");
        let plain = self.field();
        let field = plain.to_str().map(|plain| format!("{plain}; key=\"{key}\""));
        field.ok().and_then(|field| HeaderValue::try_from(field).ok()).unwrap_or(plain)
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
            Outcome::Disk { ttl } => behind(ttl, "disk"),
            Outcome::Redis { ttl } => behind(ttl, "redis"),
            Outcome::Collapsed => HeaderValue::from_static("portcullis; fwd=miss; collapsed"),
            Outcome::Stale { since, excuse } => stale(since, excuse),
            Outcome::Revalidated { asked: false } => HeaderValue::from_static("portcullis; fwd=stale; fwd-status=304"),
            Outcome::Revalidated { asked: true } => HeaderValue::from_static("portcullis; fwd=request; fwd-status=304"),
            Outcome::Reloaded { stored: kept } => stored("portcullis; fwd=request", "portcullis; fwd=request; stored", kept),
            Outcome::Expired { stored: kept } => stored("portcullis; fwd=stale", "portcullis; fwd=stale; stored", kept),
            Outcome::Miss { stored: kept } => stored("portcullis; fwd=miss", "portcullis; fwd=miss; stored", kept),
            Outcome::Predicted { stored: kept } => {
                stored("portcullis; fwd=bypass; detail=predicted", "portcullis; fwd=bypass; stored; detail=predicted", kept)
            }
            // Section 2.2 has words of its own for a method that is not cached and for the client's directives.
            Outcome::Bypass(Bypass::Method) => HeaderValue::from_static("portcullis; fwd=method"),
            Outcome::Bypass(Bypass::Asked) => HeaderValue::from_static("portcullis; fwd=request"),
            Outcome::Bypass(Bypass::Credentials) => HeaderValue::from_static("portcullis; fwd=bypass; detail=credentials"),
            Outcome::Bypass(Bypass::Overriding) => HeaderValue::from_static("portcullis; fwd=bypass; detail=overriding"),
            Outcome::Bypass(Bypass::Rule) => HeaderValue::from_static("portcullis; fwd=bypass; detail=rule"),
            Outcome::Bypass(Bypass::Unusable) => HeaderValue::from_static("portcullis; fwd=bypass; detail=unusable"),
            Outcome::Bypass(Bypass::Content) => HeaderValue::from_static("portcullis; fwd=bypass; detail=content"),
        }
    }
}

/// A hit of a tier behind memory.
fn behind(ttl: u64, tier: &'static str) -> HeaderValue {
    let mut value = String::with_capacity(40);
    let _ = write!(value, "portcullis; hit; ttl={ttl}; detail={tier}");
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("portcullis; hit"))
}

/// Whoever was asked in vain is said to have been.
fn stale(since: u64, excuse: Excuse) -> HeaderValue {
    let mut value = String::with_capacity(80);
    // What is stale is so by something.
    let ttl = -i64::try_from(since.max(1)).unwrap_or(i64::MAX);
    let _ = match excuse {
        Excuse::Error(Some(status)) => write!(value, "portcullis; fwd=stale; fwd-status={status}; ttl={ttl}"),
        Excuse::Error(None) | Excuse::Fallback(_) => write!(value, "portcullis; fwd=stale; ttl={ttl}"),
        Excuse::Revalidating | Excuse::Asked => write!(value, "portcullis; hit; ttl={ttl}"),
    };
    let _ = write!(value, "; detail={}", excuse.as_str());
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("portcullis; fwd=stale"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (outcome, expected) in [
            (Outcome::Hit { ttl: 27 }, "portcullis; hit; ttl=27"),
            (Outcome::Disk { ttl: 27 }, "portcullis; hit; ttl=27; detail=disk"),
            (Outcome::Redis { ttl: 27 }, "portcullis; hit; ttl=27; detail=redis"),
            (Outcome::Miss { stored: true }, "portcullis; fwd=miss; stored"),
            (Outcome::Miss { stored: false }, "portcullis; fwd=miss"),
            (Outcome::Expired { stored: true }, "portcullis; fwd=stale; stored"),
            (Outcome::Revalidated { asked: false }, "portcullis; fwd=stale; fwd-status=304"),
            (Outcome::Revalidated { asked: true }, "portcullis; fwd=request; fwd-status=304"),
            (Outcome::Reloaded { stored: true }, "portcullis; fwd=request; stored"),
            (Outcome::Stale { since: 7, excuse: Excuse::Revalidating }, "portcullis; hit; ttl=-7; detail=stale-while-revalidate"),
            (Outcome::Stale { since: 0, excuse: Excuse::Revalidating }, "portcullis; hit; ttl=-1; detail=stale-while-revalidate"),
            (
                Outcome::Stale { since: 7, excuse: Excuse::Error(Some(503)) },
                "portcullis; fwd=stale; fwd-status=503; ttl=-7; detail=stale-if-error",
            ),
            (Outcome::Stale { since: 7, excuse: Excuse::Error(None) }, "portcullis; fwd=stale; ttl=-7; detail=stale-if-error"),
            (Outcome::Bypass(Bypass::Method), "portcullis; fwd=method"),
            (Outcome::Bypass(Bypass::Asked), "portcullis; fwd=request"),
            (Outcome::Bypass(Bypass::Credentials), "portcullis; fwd=bypass; detail=credentials"),
        ] {
            assert_eq!(outcome.field(), expected);
        }
    }

    #[test]
    fn the_key_is_a_string_of_printable_letters() {
        let hit = Outcome::Hit { ttl: 5 };
        let shown = |path: &str, query| hit.field_with_key("shop", "h.example", path, query);
        assert_eq!(shown("/a", None), "portcullis; hit; ttl=5; key=\"shop h.example/a\"");
        assert_eq!(shown("/a", Some("x=\"\\")), "portcullis; hit; ttl=5; key=\"shop h.example/a?x=\\\"\\\\\"");
        for long in ["/\u{e9}".to_owned(), "/\n".to_owned(), "x".repeat(LONGEST_KEY)] {
            assert_eq!(shown(&long, None), hit.field());
        }
        let none = Outcome::Bypass(Bypass::Credentials);
        assert_eq!(none.field_with_key("shop", "h", "/", None), none.field());
    }

    #[test]
    fn a_cache_that_was_never_enabled_is_what_the_rules_said() {
        let cache = HttpCache::new();
        assert_eq!(Outcome::of(&cache, Use::Bypass(Bypass::Method)), Outcome::Bypass(Bypass::Method));
        assert_eq!(Outcome::of(&cache, Use::Full), Outcome::Predicted { stored: false });
    }
}
