//! The refusal: 401 with a challenge for every method (RFC 9110, section 11.6.1), or 503 where the gateway could not find out.

use http::{HeaderValue, StatusCode, header};

use super::failure::Failure;
use crate::policy::Policy;
use crate::reply::{Flow, Reply};

/// Bearer tokens have challenges of their own (RFC 6750, section 3), which say what was wrong.
pub const BEARER: &str = "Bearer";

/// Passwords, which come in UTF-8 (RFC 7617, section 2.1).
pub const BASIC: &str = "Basic";

/// The `WWW-Authenticate` fields of a refusal, one for each scheme.
pub struct Challenges {
    realm: Box<str>,
    list: Vec<(&'static str, HeaderValue)>,
}

impl Challenges {
    /// `realm` is printable ASCII without `"` and `\`. A scheme that occurs twice is named once.
    pub fn new(realm: &str, schemes: impl IntoIterator<Item = &'static str>) -> Self {
        let mut list: Vec<(&'static str, HeaderValue)> = Vec::new();
        for scheme in schemes {
            let charset = if scheme == BASIC { ", charset=\"UTF-8\"" } else { "" };
            if !list.iter().any(|(known, _)| *known == scheme)
                && let Ok(challenge) = HeaderValue::try_from(format!("{scheme} realm=\"{realm}\"{charset}"))
            {
                list.push((scheme, challenge));
            }
        }
        Challenges { realm: realm.into(), list }
    }

    /// `decided` names the credential that was refused, for the log.
    pub fn refuse(&self, failure: Failure, decided: Option<Box<str>>) -> Flow {
        let mut reply = Reply::new(failure.status(), super::Authn::NAME, failure.reason(), failure.detail());
        reply.decided_by = decided;
        if failure.status() != StatusCode::UNAUTHORIZED {
            return reply.retry_after(RETRY).refuse();
        }
        for (scheme, plain) in &self.list {
            let told = failure.bearer_error().filter(|_| *scheme == BEARER).and_then(|error| {
                let (realm, detail) = (&self.realm, failure.detail());
                HeaderValue::try_from(format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{detail}\"")).ok()
            });
            reply = reply.header(header::WWW_AUTHENTICATE, told.unwrap_or_else(|| plain.clone()));
        }
        reply.refuse()
    }
}

/// When to try again after the gateway could not find out.
const RETRY: std::time::Duration = std::time::Duration::from_secs(5);
