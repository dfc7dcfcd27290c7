//! What a client is told of its limits: the `RateLimit-Policy` and `RateLimit` fields of draft-ietf-httpapi-ratelimit-headers-11
//! (May 2026).
//!
//! The first names every limit of the request, the second tells how much is left of the one nearest to biting, or of the one that
//! bit. `r` is how much would be admitted at once; `t` is the seconds until all of the limit is there again, so that `r / t`
//! suggests no more than the limit's own rate, and once nothing is left, or on a refusal, the seconds until the next request is
//! admitted, the same as `Retry-After`.
//!
//! Each field is there once, however many policies of a route have limits: a later policy adds its names to the first, and takes
//! the second over if its limit is nearer. A backend's own fields are kept beside these (section 7.2 of the draft).

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::exchange::Exchange;
use crate::head::HeaderEdit;
use crate::limits::rule::Quota;

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const SECOND: u64 = 1_000_000_000;

/// The beginning of an item that tells of the limit of that name, which holds nothing that would have to be escaped.
pub fn prefix(name: &str) -> Box<str> {
    format!("\"{name}\";r=").into()
}

/// The limit's item in `RateLimit-Policy`. The window is in whole seconds, and optional.
pub fn policy(name: &str, count: u64, window: Option<std::time::Duration>) -> String {
    match window.filter(|window| window.subsec_nanos() == 0) {
        Some(window) => format!("\"{name}\";q={count};w={}", window.as_secs()),
        None => format!("\"{name}\";q={count}"),
    }
}

/// Tells of one policy's limits: their items, and the one that is nearest, or that refused.
pub fn tell(exchange: &mut Exchange, policies: HeaderValue, prefix: &str, quota: &Quota, admitted: bool) {
    // Nothing is nearer than what refused.
    let left = if admitted { quota.remaining } else { 0 };
    let before = exchange.limit_left;
    let nearest = !admitted || before.is_none_or(|before| left < before);
    if before.is_none() {
        exchange.to_client.push(HeaderEdit::Add(RATE_LIMIT_POLICY.clone(), policies));
    } else if let Some(told) = told(exchange, &RATE_LIMIT_POLICY) {
        let all = [told.as_bytes(), b", ", policies.as_bytes()].concat();
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            *told = all;
        }
    }
    if !nearest {
        return;
    }
    exchange.limit_left = Some(left);
    let Some(item) = item(prefix, quota, admitted) else { return };
    match told(exchange, &RATE_LIMIT) {
        Some(told) => *told = item,
        None => exchange.to_client.push(HeaderEdit::Add(RATE_LIMIT.clone(), item)),
    }
}

/// What this gateway has to say under that name so far.
fn told<'a>(exchange: &'a mut Exchange, name: &HeaderName) -> Option<&'a mut HeaderValue> {
    exchange.to_client.iter_mut().find_map(|edit| match edit {
        HeaderEdit::Add(known, value) if known == name => Some(value),
        _ => None,
    })
}

fn item(prefix: &str, quota: &Quota, admitted: bool) -> Option<HeaderValue> {
    let wait = if !admitted || quota.remaining == 0 { quota.next } else { quota.full };
    let mut text: SmallVec<[u8; 128]> = SmallVec::from_slice(prefix.as_bytes());
    text.extend_from_slice(itoa::Buffer::new().format(quota.remaining).as_bytes());
    // What no wait would admit has nothing to wait for.
    if wait != u64::MAX {
        text.extend_from_slice(b";t=");
        text.extend_from_slice(itoa::Buffer::new().format(wait.div_ceil(SECOND).max(1)).as_bytes());
    }
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(exchange: &Exchange) -> Vec<&str> {
        exchange
            .to_client
            .iter()
            .map(|edit| if let HeaderEdit::Add(_, value) = edit { value.to_str().unwrap() } else { "" })
            .collect()
    }

    #[test]
    fn each_field_is_there_once_and_tells_of_the_nearest() {
        let mut exchange = Exchange::for_tests();
        let quota = |remaining| Quota { remaining, next: 0, full: 3 * SECOND };
        let value = |text| HeaderValue::from_static(text);
        tell(&mut exchange, value("\"a\";q=9"), &prefix("a"), &quota(5), true);
        tell(&mut exchange, value("\"b\";q=9"), &prefix("b"), &quota(7), true);
        assert_eq!(lines(&exchange), ["\"a\";q=9, \"b\";q=9", "\"a\";r=5;t=3"]);
        tell(&mut exchange, value("\"c\";q=9"), &prefix("c"), &quota(2), true);
        assert_eq!(lines(&exchange)[1], "\"c\";r=2;t=3");
        // A costly request is refused although something is left.
        let refused = Quota { remaining: 4, next: SECOND / 2, full: 9 * SECOND };
        tell(&mut exchange, value("\"d\";q=9"), &prefix("d"), &refused, false);
        assert_eq!(lines(&exchange), ["\"a\";q=9, \"b\";q=9, \"c\";q=9, \"d\";q=9", "\"d\";r=4;t=1"]);
    }
}
