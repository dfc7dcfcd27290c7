//! `maintenance`: refuses everything for as long as it is written.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::reply::{Flow, Reply};
use crate::value::{Period, Spanned, period_within};

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// When clients are told to come back, `1s` to `1h`.
    pub retry_after: Spanned<Period>,
}

/// The compiled policy.
pub struct Maintenance {
    retry_after: Duration,
}

impl OnRequest for Maintenance {
    fn on_request(&self, _: &RequestHead, _: &mut Exchange) -> Flow {
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "maintenance", "This is being worked on.")
            .retry_after(self.retry_after)
            .refuse()
    }
}

impl Policy for Maintenance {
    const NAME: &'static str = "maintenance";
    const STAGE: Stage = Stage::Edge;
    const SUMMARY: &'static str = "Refuses everything (503).";
    type Config = MaintenanceConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let retry_after = period_within("retry_after", &config.retry_after, 1000, 3_600_000, cx.problems)?;
        Some(Maintenance { retry_after })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::{compile, complaint};

    #[test]
    fn clients_are_told_when_to_come_back() {
        let policy = compile::<Maintenance>(json!({ "retry_after": "10m" })).unwrap();
        let flow = policy.on_request(&RequestHead::build("GET", "/", &[]), &mut Exchange::for_tests());
        let reply = flow.break_value().unwrap();
        assert_eq!((reply.status.as_u16(), reply.headers[0].1.to_str().unwrap()), (503, "600"));
        assert!(complaint::<Maintenance>(json!({ "retry_after": "2h" })).contains("`retry_after`"));
    }
}
