//! `adaptive_concurrency`: keeps each service from being asked for more at once than it can do, without anybody having to know how much
//! that is. What is too much is refused with 503 before the service hears of it, the lowest priority first.
//!
//! The limit is the service's own ([`crate::upstream::adaptive`]): written for all routes, every service has one; written at a route, each
//! service behind it has one for what comes by this route.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::ledger::Ledger;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::reply::{Flow, Reply};
use crate::tally::Tallies;
use crate::upstream::Service;
use crate::upstream::adaptive::{Adaptive, AdaptiveConfig, Bounds};

/// The compiled policy.
pub struct AdaptiveConcurrency {
    bounds: Bounds,
    scope: Box<str>,
}

/// Stands before one service.
struct Guard {
    adaptive: Adaptive,
    /// Where it was written and for which service, for the log.
    named: Box<str>,
}

impl OnRequest for Guard {
    fn on_request(&self, _: &RequestHead, exchange: &mut Exchange) -> Flow {
        if let Some(place) = self.adaptive.enter(exchange.priority) {
            exchange.held.push(place);
            return Flow::Continue(());
        }
        let detail = "The service has as much to do as it can. Try again later.";
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, AdaptiveConcurrency::NAME, "shed_load", detail)
            .retry_after(Duration::from_secs(1))
            .decided_by(&*self.named)
            .refuse()
    }
}

impl Policy for AdaptiveConcurrency {
    const NAME: &'static str = "adaptive_concurrency";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Finds how much a service can do at once, and sheds what is more, lowest priority first (503).";
    const PER_SERVICE: bool = true;
    type Config = AdaptiveConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        Some(AdaptiveConcurrency { bounds: Bounds::compile(config, cx.problems)?, scope: cx.scope.into() })
    }

    /// Where no service is asked there is nothing to guard.
    fn install(self: Arc<Self>, _: &mut PlanBuilder) {}

    fn install_for(self: Arc<Self>, service: &Service, ledger: &Ledger, tallies: &Tallies, plan: &mut PlanBuilder) {
        let adaptive = Adaptive::keep(self.bounds, &self.scope, &service.key, ledger, tallies);
        let named = format!("{}, service {}", self.scope, service.name).into();
        plan.on_request(Arc::new(Guard { adaptive, named }));
    }
}
