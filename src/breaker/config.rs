//! `circuit_breaker`, of a service or of a route.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{BUCKETS, Rules};
use crate::problem::{Problem, Problems};
use crate::value::{Period, Share, Spanned, count_within, period_within, share_within};

/// Stops asking what fails anyway. Closed, it lets every request pass and counts what comes of them; once too many fail, or take too long,
/// it opens, and requests are answered at once: with the route's `fallback`, or 503 (`circuit_open`) and `Retry-After`. After `open_for`
/// it is half open: up to `probes` requests at a time are let through, and once so many did well it closes; if one fails it opens again. A
/// gRPC call does well with its first message, and fails with its status. A failure is an answer with a status of 500 or more (but for 501
/// and 505), the same in gRPC's words, no connection, no answer in time, or an answer that breaks off. What a client brings about counts
/// for nothing: a 4xx, an abort, a request body that does not come, a deadline of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Opens when this share of the attempts within `window` has failed, `1%` to `100%`. Default: `50%`.
    pub failure_rate: Spanned<Share>,
    /// Opens after so many failures in a row, whatever their share, 0 to 1000; 0 is never. Default: 0.
    pub consecutive_failures: Spanned<u32>,
    /// An answer whose head takes longer than this, from the request's last byte on, is slow, `1ms` to `1h`. Default: none is.
    pub slow_after: Option<Spanned<Period>>,
    /// Opens when this share of the attempts within `window` was slow, `1%` to `100%`. Needs `slow_after`. Default: `50%`.
    pub slow_rate: Spanned<Share>,
    /// How far back attempts count, `1s` to `10m`. Default: `10s`.
    pub window: Spanned<Period>,
    /// With fewer attempts than this within `window` a share means nothing, 1 to 1000000. Default: 20.
    pub min_requests: Spanned<u32>,
    /// How long it stays open, `100ms` to `1h`. Default: `5s`.
    pub open_for: Spanned<Period>,
    /// How many requests are let through at a time when it is half open, and how many have to do well, 1 to 1000. Default: 3.
    pub probes: Spanned<u32>,
    /// What opens: `service`, or each `endpoint` by itself, so that the others go on. A route's is about its service. Default: `service`.
    pub scope: Spanned<Scope>,
}

/// What a breaker is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Service,
    Endpoint,
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "service" => Ok(Scope::Service),
            "endpoint" => Ok(Scope::Endpoint),
            other => Err(serde::de::Error::unknown_variant(other, &["service", "endpoint"])),
        }
    }
}

impl JsonSchema for Scope {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BreakerScope".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["service", "endpoint"] })
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        let seconds = |count| Spanned::nowhere(Period(std::time::Duration::from_secs(count)));
        BreakerConfig {
            failure_rate: Spanned::nowhere(Share::percent(50)),
            consecutive_failures: Spanned::nowhere(0),
            slow_after: None,
            slow_rate: Spanned::nowhere(Share::percent(50)),
            window: seconds(10),
            min_requests: Spanned::nowhere(20),
            open_for: seconds(5),
            probes: Spanned::nowhere(3),
            scope: Spanned::nowhere(Scope::Service),
        }
    }
}

impl BreakerConfig {
    /// `None` only if there was a problem.
    pub fn compile(&self, problems: &mut Problems) -> Option<Rules> {
        let failure_rate = share_within("failure_rate", &self.failure_rate, problems);
        let row = count_within("consecutive_failures", &self.consecutive_failures, 0, 1000, problems);
        let slow_rate = share_within("slow_rate", &self.slow_rate, problems);
        let slow_after = self.slow_after.as_ref().map(|after| period_within("slow_after", after, 1, 3_600_000, problems));
        if self.slow_after.is_none() && self.slow_rate.place.is_known() {
            let problem = Problem::error(self.slow_rate.place, "`slow_rate` without `slow_after`: no answer would be slow");
            problems.push(problem.hint("for example `slow_after: 2s`"));
            return None;
        }
        let window = period_within("window", &self.window, 1000, 600_000, problems);
        let least = count_within("min_requests", &self.min_requests, 1, 1_000_000, problems);
        let open_for = period_within("open_for", &self.open_for, 100, 3_600_000, problems);
        let probes = count_within("probes", &self.probes, 1, 1000, problems);
        // An inner `None` is a problem that has been told.
        let slow_after = slow_after.map_or(Some(None), |after| after.map(Some))?;
        Some(Rules {
            failure_rate: failure_rate?,
            row: row?,
            slow_after,
            slow_rate: slow_rate?,
            bucket: u64::try_from(window?.as_millis()).unwrap_or(u64::MAX) / BUCKETS as u64,
            least: least?,
            open_for: open_for?,
            probes: probes?,
        })
    }
}
