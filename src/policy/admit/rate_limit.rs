//! `rate_limit`: how much a client may ask for, per consumer, credential, address, header, claim or for all together.
//!
//! A request asks something of every limit of its route ([`Demand`]), is admitted by all of them or counted by none
//! ([`crate::limits::all`]), and is told ([`super::fields`]). Limits on trial (`dry_run`) are asked after those that count, of what these
//! admitted: as if they stood beside them.
//!
//! Deliberately not here: limits per day or month of the calendar (`quota`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::fields;
use super::joint::{Answer, Joint};
use super::limit::{Counter, Demand, Limit, LimitConfig};
use crate::exchange::Exchange;
use crate::head::{BodyFraming, RequestHead};
use crate::limits::all::{Ask, Outcome, decide};
use crate::limits::nanoseconds;
use crate::limits::shared::{Claim, take_all};
use crate::policy::{Compile, OnRequest, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::upstream::call::Engine;
use crate::value::OneOrMany;

/// The compiled policy.
pub struct RateLimit {
    pub(super) limits: Vec<Limit>,
    /// Limits on trial.
    trials: Vec<Limit>,
    /// `RateLimit-Policy`, where it is the same on every answer: where no limit differs by plan.
    policies: Option<HeaderValue>,
}

/// What one request asks of all limits.
pub type Demands<'a> = SmallVec<[Demand<'a>; 2]>;

impl RateLimit {
    /// What the request asks of the limits that count.
    pub fn demands<'a>(&'a self, head: &RequestHead, exchange: &Exchange) -> Demands<'a> {
        let now = judged_at(head, exchange);
        self.limits.iter().filter_map(|limit| limit.demand(head, exchange, now)).collect()
    }

    /// Refuses what no wait would admit, before anything is counted.
    pub fn check_costs(&self, demands: &[Demand<'_>], exchange: &mut Exchange) -> Flow {
        let Some(hopeless) = demands.iter().find(|demand| demand.is_hopeless()) else { return Flow::Continue(()) };
        if let Some(policies) = self.policies(demands) {
            fields::tell(exchange, policies, &hopeless.tier.prefix, &hopeless.peek().quota, false);
        }
        let detail = "This request costs more than its limit ever admits.";
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, "cost_exceeds_limit", detail)
            .decided_by(format!("limit {}", hopeless.name))
            .refuse()
    }

    /// Tells the client what came of its demands, and refuses the request if that is what came of them.
    pub fn tell(&self, demands: &[Demand<'_>], outcome: &Outcome, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let Outcome { limit, reading } = outcome;
        if let (Some(policies), Some(demand)) = (self.policies(demands), demands.get(*limit)) {
            fields::tell(exchange, policies, &demand.tier.prefix, &reading.quota, reading.admitted);
        }
        if reading.admitted {
            self.try_out(head, exchange);
            return Flow::Continue(());
        }
        let name = demands.get(*limit).map_or("", |demand| demand.name);
        Reply::new(StatusCode::TOO_MANY_REQUESTS, Self::NAME, "rate_limited", "Too many requests. Try again later.")
            .decided_by(format!("limit {name}"))
            .retry_after(Duration::from_nanos(reading.quota.next))
            .refuse()
    }

    /// Asks the limits on trial of a request that the others admitted.
    pub fn try_out(&self, head: &RequestHead, exchange: &Exchange) {
        if self.trials.is_empty() {
            return;
        }
        let now = judged_at(head, exchange);
        for trial in &self.trials {
            let (Some(demand), Some(count)) = (trial.demand(head, exchange, now), &trial.dry_run) else { continue };
            if let Counter::Shared(shared) = &demand.tier.counter {
                // Nobody waits for a trial.
                let (shared, key, cost, count) = (shared.clone(), demand.key, demand.cost, count.clone());
                tokio::spawn(async move {
                    let deadline = shared.deadline();
                    let refused = match shared.leases() {
                        Some(leases) => leases.take(key, cost, now, deadline).await.is_ok_and(|reading| !reading.admitted),
                        None => {
                            let taken = take_all(&[Claim { shared: &shared, key, cost }], Instant::now() + deadline).await;
                            taken.is_ok_and(|readings| readings.iter().any(|reading| !reading.admitted))
                        }
                    };
                    count.add(u64::from(refused));
                });
            } else if !demand.take().admitted {
                count.add(1);
            }
        }
    }

    fn policies(&self, demands: &[Demand<'_>]) -> Option<HeaderValue> {
        match &self.policies {
            Some(policies) => Some(policies.clone()),
            None => joined(demands.iter().map(|demand| demand.tier.policy.as_str())),
        }
    }
}

fn joined<'a>(items: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    HeaderValue::try_from(items.collect::<Vec<_>>().join(", ")).ok()
}

/// A request without a body is judged by when it came. One with a body may have taken its time since: by when it was complete.
fn judged_at(head: &RequestHead, exchange: &Exchange) -> u64 {
    nanoseconds(if head.body == BodyFraming::None { exchange.started } else { Instant::now() })
}

impl OnRequest for RateLimit {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let demands = self.demands(head, exchange);
        self.check_costs(&demands, exchange)?;
        match decide(&demands) {
            Some(outcome) => self.tell(&demands, &outcome, head, exchange),
            // Unlimited by its plan.
            None => {
                self.try_out(head, exchange);
                Flow::Continue(())
            }
        }
    }
}

impl RateLimit {
    fn answer(&self, demands: &[Demand<'_>], answer: &Answer, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        match answer {
            Answer::Decided(outcome) => self.tell(demands, outcome, head, exchange),
            // Unlimited by its plan, or by what its limits do without Redis.
            Answer::Unlimited => {
                self.try_out(head, exchange);
                Flow::Continue(())
            }
            Answer::Unavailable => {
                let detail = "The limits of this request cannot be checked at the moment. Try again later.";
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, Self::NAME, "limit_store_unavailable", detail)
                    .retry_after(Duration::from_secs(1))
                    .refuse()
            }
        }
    }
}

/// Where limits are shared with other gateways.
impl OnWait for RateLimit {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        let demands = self.demands(head, exchange);
        if let refused @ Flow::Break(_) = self.check_costs(&demands, exchange) {
            return Some(refused);
        }
        let answer = Joint::new(&demands).at_once()?;
        Some(self.answer(&demands, &answer, head, exchange))
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, _: Engine<'a>) -> Waiting<'a> {
        Box::pin(async move {
            let demands = self.demands(head, exchange);
            let answer = Joint::new(&demands).wait().await;
            self.answer(&demands, &answer, head, exchange)
        })
    }
}

impl Policy for RateLimit {
    const NAME: &'static str = "rate_limit";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Limits how many requests a client may make per period (429).";
    type Config = OneOrMany<LimitConfig>;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let OneOrMany(configs) = config;
        if configs.is_empty() {
            cx.problems
                .push(Problem::error(cx.place, "a list of limits without any limit").hint("write `false` to limit nothing"));
            return None;
        }
        let mut names: Vec<String> = Vec::new();
        let mut all = Vec::new();
        for config in configs {
            let Some(limit) = Limit::compile(config, Self::NAME, &names, cx) else { continue };
            names.push(limit.name.to_string());
            all.push(limit);
        }
        if all.len() < configs.len() {
            return None;
        }
        let (trials, limits): (Vec<_>, Vec<_>) = all.into_iter().partition(|limit| limit.dry_run.is_some());
        let tiers: Option<Vec<_>> = limits.iter().map(Limit::only_tier).collect();
        let policies = tiers.and_then(|tiers| joined(tiers.into_iter().map(|tier| tier.policy.as_str())));
        Some(RateLimit { limits, trials, policies })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        self.limits.iter().chain(&self.trials).for_each(|limit| limit.claim(plan.options()));
        if self.limits.iter().any(Limit::is_shared) {
            return plan.on_wait(self);
        }
        plan.on_request(self);
    }
}
