//! Stale answers: when what has expired may be given. Which excuse is good for how long is the cache's to say ([`Excuse`]); it is given
//! as any hit is.

use std::time::Duration;

pub use crate::cache::rules::is_error;
use crate::cache::{Excuse, Hit, Use};
use crate::downstream::seen_upstream;
use crate::journey::Journey;

/// The last good answer to this request, fresh or expired for at most `within`, if its service has not forbidden that (`must-revalidate` and
/// the like). `None` on a route without a cache, and for requests that do not use it.
pub fn last_good(journey: &Journey, within: Duration) -> Option<Hit> {
    instead(journey, Excuse::Fallback(within))
}

/// What is stored for this request and may be given in the place of the answer, for this reason.
pub fn instead(journey: &Journey, excuse: Excuse) -> Option<Hit> {
    let route = journey.route()?;
    let policy = route.plan.options.cache.as_ref()?;
    let (used, wishes) = journey.cache_use(policy);
    if matches!(used, Use::Bypass(_)) {
        return None;
    }
    let seen = |name: &_| seen_upstream(&journey.head, &journey.exchange, name);
    journey.view.cache.kept(policy, &journey.cache_key(route, policy), &wishes, excuse, seen)
}
