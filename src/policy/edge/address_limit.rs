//! `address_limit`: the coarse guard by client address, before authentication, so that guessing credentials is cheap to absorb.
//!
//! Counts every request of an IPv4 address, or of an IPv6 /64 (within which a client picks addresses as it likes), whatever becomes of
//! the request later. A route's `rate_limit` stands beside it and does not replace it. It tells the client no more than `Retry-After`:
//! how much an attacker may still try is none of the attacker's business.
//!
//! Deliberately not here: limits by identity (`rate_limit`), lists of addresses, and caps on connections, which are the listener's.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::config::{Algorithm, EVICTED, max_keys, rule};
use crate::limits::{Key, Meter, Store, nanoseconds};
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::reply::{Flow, Reply};
use crate::value::{Rate, Spanned};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressLimitConfig {
    /// How many requests per period one client address (IPv4), or one /64 network (IPv6), may make: `100/s`.
    pub limit: Spanned<Rate>,
    /// How many of them may come at once. Default: the limit's count. 0 admits one at a time.
    #[serde(default)]
    pub burst: Option<u32>,
    /// How many addresses are remembered at a time, 1 to 100000000. Default: 1000000. A change forgets what was counted.
    #[serde(default)]
    pub max_keys: Option<Spanned<u64>>,
}

/// The compiled policy.
pub struct AddressLimit {
    meter: Meter,
}

impl OnRequest for AddressLimit {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        // Nothing has been waited for yet: the request's own time is now.
        let reading = self.meter.take(Key::address(exchange.client), 1, nanoseconds(exchange.started));
        if reading.admitted {
            return Flow::Continue(());
        }
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, "address_limited", "Too many requests from this address.")
            .retry_after(Duration::from_nanos(reading.quota.next))
            .refuse()
    }
}

impl Policy for AddressLimit {
    const NAME: &'static str = "address_limit";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Limits the requests of one client address before authentication (429).";
    type Config = AddressLimitConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let rule = rule(&config.limit, config.burst, Algorithm::TokenBucket, cx.problems);
        let max_keys = max_keys(config.max_keys.as_ref(), cx.problems);
        let (rule, max_keys) = (rule?, max_keys?);
        let store = cx.ledger.keep(&format!("{}/{}/{max_keys}", cx.scope, Self::NAME), || {
            let labels = [("limit", Self::NAME), ("scope", cx.scope)];
            Store::counting(max_keys, cx.tallies.counter("portcullis_rate_limit_evicted_total", EVICTED, &labels))
        });
        Some(AddressLimit { meter: Meter::new(store, rule) })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint, plan};

    fn admitted(policy: &AddressLimit, address: &str, tries: usize) -> usize {
        let head = RequestHead::build("GET", "/", &[]);
        (0..tries)
            .filter(|_| {
                let mut exchange = Exchange::for_tests();
                exchange.client = address.parse().unwrap();
                policy.on_request(&head, &mut exchange).is_continue()
            })
            .count()
    }

    #[test]
    fn each_address_has_its_own_count_and_a_network_has_one() {
        let policy = compile::<AddressLimit>(json!({ "limit": "10/hour", "burst": 4 })).unwrap();
        assert_eq!(admitted(&policy, "192.0.2.1", 10), 4);
        assert_eq!(admitted(&policy, "::ffff:192.0.2.1", 10), 0);
        assert_eq!(admitted(&policy, "192.0.2.2", 10), 4);
        assert_eq!(admitted(&policy, "2001:db8::1", 3), 3);
        assert_eq!(admitted(&policy, "2001:db8::2", 3), 1);
        assert_eq!(admitted(&policy, "2001:db8:0:1::2", 3), 3);
    }

    #[test]
    fn stands_before_the_body_and_authentication() {
        let plan = plan(compile::<AddressLimit>(json!({ "limit": "10/s" })).unwrap());
        let stages: Vec<_> = plan.steps.iter().map(|step| step.stage).collect();
        assert_eq!(stages, [Stage::Edge]);
    }

    #[test]
    fn says_when_to_come_back() {
        let policy = compile::<AddressLimit>(json!({ "limit": "1/minute" })).unwrap();
        admitted(&policy, "192.0.2.1", 1);
        let reply = policy.on_request(&RequestHead::build("GET", "/", &[]), &mut Exchange::for_tests()).break_value().unwrap();
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(reply.headers[0].1, "60");
        assert!(complaint::<AddressLimit>(json!({ "limit": "1/s", "by": "consumer" })).contains("unknown field"));
    }
}
