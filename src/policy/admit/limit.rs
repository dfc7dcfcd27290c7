//! One limit: whose requests it counts together, what they cost, how many there may be, and where it counts.
//!
//! Deliberately not here: what becomes of a request when several limits are asked, and what the client is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::cost::{Cost, CostConfig};
use super::fields;
use super::plan::{self, PlanConfig, Tiers};
use crate::by::By;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::Rule;
use crate::limits::all::Ask;
use crate::limits::config::{Algorithm, EVICTED, max_keys, rule};
use crate::limits::key::Key;
use crate::limits::shared::Shared;
use crate::limits::shared::config::Shared as SharedChoice;
use crate::limits::store::{Meter, Reading, Store};
use crate::policy::{Compile, RouteOptions};
use crate::problem::Problem;
use crate::tally::Counter as Tally;
use crate::value::{Rate, Spanned};

/// One limit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// What the limit is called in the `RateLimit` fields and in metrics, and what its state is kept under over reloads: 1 to 64
    /// letters, digits, `_`, `-`, `.`. Default: the words under `by`, with a number if they are used twice.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// Whose requests are counted together: `client_address` (the default), `consumer`, `credential` (whatever the method),
    /// `subject`, `api_key`, `{ header: NAME }`, `{ cookie: NAME }`, `{ claim: org.id }`, `{ param: NAME }` (a segment of the
    /// route's path), a list of up to eight of these (requests that agree in all of them), or `route` (everybody's). What a
    /// request does not have (an anonymous one, a missing header) is its client's address instead.
    #[serde(default)]
    pub by: By,
    /// How many requests per period: `1000/minute`. At most 1000000000 per period (16777215 in a sliding window), and a period of
    /// at most 366 days.
    pub limit: Spanned<Rate>,
    /// How many requests may come at once: the bucket's capacity. Default: the limit's count. 0 admits one at a time. Not with a
    /// sliding window.
    #[serde(default)]
    pub burst: Option<Spanned<u32>>,
    /// `token_bucket` (the default) or `sliding_window`.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What a request costs: a whole number, or `{ header: NAME, max: NUMBER }`, or `{ cel: EXPRESSION, max: NUMBER }`. 0 is
    /// free. What costs more than the limit's capacity is refused. Default 1.
    #[serde(default)]
    pub cost: Spanned<CostConfig>,
    /// Other limits for consumers of some plans: `{ free: 10/minute, pro: { limit: 1000/minute, burst: 50 }, internal: unlimited
    /// }`. Everybody else has `limit`.
    #[serde(default)]
    pub plans: BTreeMap<String, Spanned<PlanConfig>>,
    /// `true`: refuses nothing and tells the client nothing, but counts what it would have refused
    /// (`portcullis_rate_limit_dry_run_total`).
    #[serde(default)]
    pub dry_run: bool,
    /// Counts together with other gateways, in the Redis under `redis`: `exact`, `leased`, or a table that says more. Default: each gateway counts alone.
    #[serde(default)]
    pub shared: Option<Spanned<SharedChoice>>,
    /// How many clients are remembered at a time, 1 to 100000000. Default: 1000000. A change forgets what was counted.
    #[serde(default)]
    pub max_keys: Option<Spanned<u64>>,
}

/// Where a limit counts.
pub enum Counter {
    /// In this process.
    Local(Meter),
    /// Together with other gateways.
    Shared(Arc<Shared>),
}

impl Counter {
    pub fn rule(&self) -> &Rule {
        match self {
            Counter::Local(meter) => meter.rule(),
            Counter::Shared(shared) => shared.rule(),
        }
    }
}

/// A compiled limit.
pub struct Limit {
    pub name: Box<str>,
    by: By,
    cost: Cost,
    tiers: Tiers<Tier>,
    /// A limit on trial: where it counts what it would have refused.
    pub dry_run: Option<Arc<Tally>>,
}

/// What a limit is for the consumers of one plan.
pub struct Tier {
    pub counter: Counter,
    /// The beginning of its item in `RateLimit`.
    pub prefix: Box<str>,
    /// Its item in `RateLimit-Policy`.
    pub policy: String,
}

/// What one request asks of one limit.
pub struct Demand<'a> {
    /// The limit's name.
    pub name: &'a str,
    pub tier: &'a Tier,
    pub key: Key,
    pub cost: u64,
    /// Nanoseconds, on the scale of [`crate::limits::nanoseconds`].
    pub now: u64,
}

impl Limit {
    /// `None` if this request's plan has no limit here.
    #[inline]
    pub fn demand<'a>(&'a self, head: &RequestHead, exchange: &Exchange, now: u64) -> Option<Demand<'a>> {
        let tier = self.tiers.of(exchange)?;
        let key = match &tier.counter {
            Counter::Local(_) => self.by.key(head, exchange),
            Counter::Shared(shared) => self.by.key_with(shared.hashing(), head, exchange),
        };
        Some(Demand { name: &self.name, tier, key, cost: self.cost.of(head, exchange), now })
    }

    /// Tells the road what of the path this limit looks at.
    pub fn claim(&self, options: &mut RouteOptions) {
        options.by_params |= self.by.looks_at_params();
        options.by_path |= self.cost.looks_at_path();
    }

    /// The one tier, of a limit that is the same for everybody.
    pub fn only_tier(&self) -> Option<&Tier> {
        self.tiers.plans.is_empty().then_some(&self.tiers.base)
    }

    /// Whether other gateways count here too.
    pub fn is_shared(&self) -> bool {
        matches!(self.tiers.base.counter, Counter::Shared(_))
    }

    /// What is wrong goes to `cx.problems`. `taken` are the names of the limits before this one.
    pub fn compile(config: &LimitConfig, policy: &'static str, taken: &[String], cx: &mut Compile<'_>) -> Option<Limit> {
        let name = name(config.name.as_ref(), &config.by.word(), taken, cx);
        let base = rule(&config.limit, config.burst.as_deref().copied(), config.algorithm, cx.problems);
        if let Some(burst) = config.burst.as_ref().filter(|_| config.algorithm == Algorithm::SlidingWindow) {
            let hint = "leave it out, or use `algorithm: token_bucket`";
            cx.problems.push(Problem::error(burst.place, "a sliding window has no burst").hint(hint));
        }
        let cost = Cost::compile(&config.cost, name.as_deref().unwrap_or_default(), cx);
        let max_keys = max_keys(config.max_keys.as_ref(), cx.problems);
        let mut plans = Vec::new();
        for (plan, limit) in &config.plans {
            plan::check(plan, limit.place, cx);
            plans.push(match &limit.value {
                PlanConfig::Unlimited => Some((plan, None)),
                PlanConfig::Limited(own) => rule(&Spanned::new(own.limit, limit.place), own.burst, config.algorithm, cx.problems)
                    .map(|rule| (plan, Some((own.limit, rule)))),
            });
        }
        let (name, base, cost, max_keys) = (name?, base?, cost?, max_keys?);
        let plans = plans.into_iter().collect::<Option<Vec<_>>>()?;
        // For everybody there is but one key.
        let max_keys = if config.by.is_everybody() { 1 } else { max_keys };
        let shelf = format!("{}/{policy}/{name}/{}/{max_keys}", cx.scope, config.by.text());
        let labels = [("limit", name.as_str()), ("scope", cx.scope)];
        let store = cx.ledger.keep(&shelf, || {
            Store::counting(max_keys, cx.tallies.counter("portcullis_rate_limit_evicted_total", EVICTED, &labels))
        });
        let mut tier = |rate: Rate, rule: Rule| {
            let counter = match &config.shared {
                None => Counter::Local(Meter::new(store.clone(), rule)),
                Some(shared) => {
                    let redis = cx.shared_redis(shared.place);
                    Counter::Shared(Shared::compile(shared, &name, rule, max_keys, redis.as_ref(), &mut cx.context())?)
                }
            };
            let policy = fields::policy(&name, rate.count, Some(rate.per));
            Some(Tier { counter, prefix: fields::prefix(&name), policy })
        };
        let tiers = Tiers {
            base: tier(config.limit.value, base)?,
            plans: plans
                .into_iter()
                .map(|(plan, limited)| match limited {
                    Some((rate, rule)) => Some((plan.as_str().into(), Some(tier(rate, rule)?))),
                    None => Some((plan.as_str().into(), None)),
                })
                .collect::<Option<_>>()?,
        };
        let dry_run = config.dry_run.then(|| cx.tallies.counter("portcullis_rate_limit_dry_run_total", DRY_RUN, &labels));
        Some(Limit { name: name.into(), by: config.by.clone(), cost, tiers, dry_run })
    }
}

pub(crate) const DRY_RUN: &str = "Requests that a limit on trial would have refused.";

impl Demand<'_> {
    /// No wait would admit it.
    pub fn is_hopeless(&self) -> bool {
        self.cost > self.tier.counter.rule().capacity()
    }
}

/// A shared limit answers as this gateway's share of it; [`super::joint`] asks the others.
impl Ask for Demand<'_> {
    fn peek(&self) -> Reading {
        match &self.tier.counter {
            Counter::Shared(shared) => shared.alone.peek(self.key, self.cost, self.now),
            Counter::Local(meter) => meter.peek(self.key, self.cost, self.now),
        }
    }

    fn take(&self) -> Reading {
        match &self.tier.counter {
            // What is free is not even remembered.
            Counter::Local(meter) if self.cost == 0 => meter.peek(self.key, 0, self.now),
            Counter::Shared(shared) if self.cost == 0 => shared.alone.peek(self.key, 0, self.now),
            Counter::Shared(shared) => shared.alone.take(self.key, self.cost, self.now),
            Counter::Local(meter) => meter.take(self.key, self.cost, self.now),
        }
    }

    fn refund(&self) {
        match &self.tier.counter {
            Counter::Local(meter) => meter.refund(self.key, self.cost, self.now),
            Counter::Shared(shared) => shared.alone.refund(self.key, self.cost, self.now),
        }
    }
}

/// The name that was given, or the word, with a number if it is taken.
pub(crate) fn name(given: Option<&Spanned<String>>, word: &str, taken: &[String], cx: &mut Compile<'_>) -> Option<String> {
    let Some(given) = given else {
        let numbered = (2..).map(|number| format!("{word}-{number}"));
        return std::iter::once(word.to_owned()).chain(numbered).find(|name| !taken.contains(name));
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !(1..=64).contains(&given.len()) || !given.bytes().all(legal) {
        let message = "a limit's name is 1 to 64 letters, digits, `_`, `-` or `.`";
        cx.problems.push(Problem::error(given.place, message));
        return None;
    }
    if taken.contains(&given.value) {
        cx.problems.push(Problem::error(given.place, format!("two limits are called `{}`", given.value)));
        return None;
    }
    Some(given.value.clone())
}
