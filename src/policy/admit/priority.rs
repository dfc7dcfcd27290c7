//! `priority`: how much a request matters where load has to be shed. By itself it refuses nothing: `adaptive_concurrency` asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::exchange::{Exchange, Priority};
use crate::head::RequestHead;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::reply::Flow;

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PriorityConfig {
    /// Of every request that nothing below speaks of: `low`, `normal` (the default) or `high`.
    pub default: Priority,
    /// By the consumer's plan.
    pub plans: BTreeMap<String, Priority>,
    /// By the consumer's groups; of several, the highest counts. It goes before `plans`.
    pub groups: BTreeMap<String, Priority>,
}

/// The compiled policy.
pub struct PriorityOf(PriorityConfig);

impl OnRequest for PriorityOf {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        let identity = exchange.identity.as_deref();
        let groups = identity.map_or(&[][..], |identity| &identity.groups);
        let by_group = groups.iter().filter_map(|group| self.0.groups.get(&**group)).max();
        let by_plan = || self.0.plans.get(identity?.plan.as_deref()?);
        exchange.priority = by_group.or_else(by_plan).copied().unwrap_or(self.0.default);
        Flow::Continue(())
    }
}

impl Policy for PriorityOf {
    const NAME: &'static str = "priority";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Says which requests matter more where load has to be shed.";
    type Config = PriorityConfig;

    fn compile(config: &Self::Config, _: &mut Compile<'_>) -> Option<Self> {
        Some(PriorityOf(config.clone()))
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        plan.on_request(self);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Identity;
    use crate::policy::testing::compile;

    #[test]
    fn groups_go_before_plans_and_plans_before_the_default() {
        let config = json!({ "default": "low", "plans": { "pro": "normal" }, "groups": { "ops": "high", "batch": "low" } });
        let policy = compile::<PriorityOf>(config).unwrap();
        let of = |plan: Option<&str>, groups: &[&str]| {
            let mut exchange = Exchange::for_tests();
            let groups = groups.iter().map(|group| (*group).into()).collect();
            exchange.identity = Some(Arc::new(Identity { plan: plan.map(Into::into), groups, ..Identity::default() }));
            assert!(policy.on_request(&RequestHead::build("GET", "/", &[]), &mut exchange).is_continue());
            exchange.priority
        };
        assert_eq!(of(None, &[]), Priority::Low);
        assert_eq!(of(Some("pro"), &["other"]), Priority::Normal);
        assert_eq!(of(Some("pro"), &["batch"]), Priority::Low);
        assert_eq!(of(Some("pro"), &["batch", "ops"]), Priority::High);
    }
}
