//! `quota`: how much a consumer may use per day, week or month of the calendar.
//!
//! Unlike `rate_limit` it neither refills nor forgets: the count begins anew when the period does, and it survives a restart. The
//! request path counts in memory ([`book`]); what was counted is written to a [`journal`] behind it, once a second and when the
//! process ends or hands over. A process that is killed loses at most what it counted since the last write: [`crate::limits::book::FLUSH`] and
//! the time that writing takes.
//!
//! Deliberately not here: quotas that several machines count together.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use smallvec::SmallVec;

use super::cost::{Cost, CostConfig};
use super::fields;
use super::plan::{self, Tiers};
use crate::by::By;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::limits::all::{Ask, Outcome, decide};
use crate::limits::book::{Account, Book, Draw};
use crate::limits::calendar::{Allowance, Calendar, Span, Unit};
use crate::limits::key::{Hashing, Key, Piece};
use crate::limits::store::Reading;
use crate::policy::{Compile, OnRequest, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::value::{OneOrMany, Spanned};

/// Clients per quota, if the configuration does not say.
const DEFAULT_MAX_KEYS: u64 = 100_000;
const MOST_MAX_KEYS: u64 = 10_000_000;
/// A value that is longer is kept as a digest.
const LONGEST_VALUE: usize = 128;

/// One quota.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaConfig {
    /// What the quota is called in the `RateLimit` fields, in metrics and in the admin API, and what it is kept under: 1 to 64
    /// letters, digits, `_`, `-`, `.`. Default: the words under `by` and the period, such as `consumer-month`.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// Whose requests are counted together, as for `rate_limit`. Default: `consumer`; an anonymous request is counted by its
    /// client's address.
    #[serde(default = "consumer")]
    pub by: By,
    /// How much per period of the calendar: `100000/month`, `5000/week` (from Monday), `1000/day`. At most 2^53.
    pub limit: Spanned<Allowance>,
    /// Where the calendar is: a name of the IANA time zone database. Default: `UTC`.
    #[serde(default)]
    pub time_zone: Option<Spanned<String>>,
    /// What a request costs, as for `rate_limit`. Default 1.
    #[serde(default)]
    pub cost: Spanned<CostConfig>,
    /// Other quotas for consumers of some plans, per the same period: `{ free: 1000/month, enterprise: unlimited }`. Everybody
    /// else has `limit`.
    #[serde(default)]
    pub plans: BTreeMap<String, Spanned<PlanQuota>>,
    /// `true`: refuses nothing and tells the client nothing, but counts what it would have refused
    /// (`portcullis_rate_limit_dry_run_total`).
    #[serde(default)]
    pub dry_run: bool,
    /// How many clients are remembered at a time, 1 to 10000000. Default: 100000.
    #[serde(default)]
    pub max_keys: Option<Spanned<u64>>,
}

fn consumer() -> By {
    By::consumer()
}

/// A plan's quota: an allowance, or `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanQuota {
    Limited(Allowance),
    Unlimited,
}

impl<'de> Deserialize<'de> for PlanQuota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "unlimited" {
            return Ok(PlanQuota::Unlimited);
        }
        Allowance::parse(&text).map(PlanQuota::Limited).map_err(de::Error::custom)
    }
}

impl JsonSchema for PlanQuota {
    fn schema_name() -> Cow<'static, str> {
        "PlanQuota".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let allowance = generator.subschema_for::<Allowance>();
        json_schema!({ "anyOf": [{ "const": "unlimited" }, allowance] })
    }
}

/// The compiled policy.
pub struct Quotas {
    quotas: Vec<Limited>,
    trials: Vec<Limited>,
    /// Kept for as long as a policy counts in it.
    _book: Arc<Book>,
}

/// One quota, ready to be asked.
struct Limited {
    name: String,
    by: By,
    cost: Cost,
    tiers: Tiers<Tier>,
    calendar: Calendar,
    account: Arc<Account>,
    max_keys: usize,
    prefix: Box<str>,
    dry_run: Option<Arc<Counter>>,
}

struct Tier {
    limit: u64,
    /// Its item in `RateLimit-Policy`.
    policy: String,
}

/// What one request asks of one quota.
struct Demand<'a> {
    quota: &'a Limited,
    tier: &'a Tier,
    key: String,
    cost: u64,
    span: Span,
    now: i64,
}

impl Demand<'_> {
    fn draw(&self) -> Draw<'_> {
        let Demand { quota, tier, key, cost, span, now } = self;
        Draw { key, cost: *cost, limit: tier.limit, span: *span, now: *now, max_keys: quota.max_keys }
    }
}

impl Ask for Demand<'_> {
    fn peek(&self) -> Reading {
        self.quota.account.peek(&self.draw())
    }

    fn take(&self) -> Reading {
        match self.cost {
            0 => Reading { admitted: true, ..self.peek() },
            _ => self.quota.account.take(&self.draw()),
        }
    }

    fn refund(&self) {
        self.quota.account.refund(&self.draw());
    }
}

impl Limited {
    fn demand<'a>(&'a self, head: &RequestHead, exchange: &Exchange, now: i64) -> Option<Demand<'a>> {
        let tier = self.tiers.of(exchange)?;
        let key = key(&self.by.pieces(head, exchange));
        Some(Demand { quota: self, tier, key, cost: self.cost.of(head, exchange), span: self.calendar.span(now), now })
    }
}

/// The client's name in the book: readable where it can be, and different for different clients.
fn key(pieces: &[Piece<'_>]) -> String {
    let mut key = String::new();
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            key.push('|');
        }
        match piece {
            Piece::Address(address) => push_address(&mut key, *address),
            Piece::Text(text) => push_text(&mut key, text),
        }
    }
    key
}

const ADDRESS: &str = "address:";

fn push_address(key: &mut String, address: IpAddr) {
    // Writing to a string cannot fail.
    let _ = match address.to_canonical() {
        IpAddr::V4(address) => write!(key, "{ADDRESS}{address}"),
        IpAddr::V6(address) => {
            let network = std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
            write!(key, "{ADDRESS}{network}/64")
        }
    };
}

fn push_text(key: &mut String, text: &[u8]) {
    let plain = std::str::from_utf8(text).ok().filter(|text| {
        text.len() <= LONGEST_VALUE
            && !text.starts_with(['#', '|'])
            && !text.starts_with(ADDRESS)
            && !text.contains(|c: char| c == '|' || c.is_control())
    });
    match plain {
        Some(text) => key.push_str(text),
        // The same after a restart, so not under a key of this process.
        None => {
            let digest = Key::of(&[Piece::Text(Cow::Borrowed(text)), Piece::Text(Cow::Borrowed(b""))], &Hashing::common("quota"));
            key.push('#');
            for byte in digest.to_bytes() {
                let _ = write!(key, "{byte:02x}");
            }
        }
    }
}

impl OnRequest for Quotas {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let now = crate::limits::book::wall_clock();
        let demands: SmallVec<[Demand<'_>; 1]> =
            self.quotas.iter().filter_map(|quota| quota.demand(head, exchange, now)).collect();
        if let Some(outcome) = decide(&demands) {
            tell(&demands, &outcome, exchange)?;
        }
        for trial in &self.trials {
            let refused = trial.demand(head, exchange, now).is_some_and(|demand| !demand.take().admitted);
            if let Some(count) = trial.dry_run.as_ref().filter(|_| refused) {
                count.add(1);
            }
        }
        Flow::Continue(())
    }
}

fn tell(demands: &[Demand<'_>], outcome: &Outcome, exchange: &mut Exchange) -> Flow {
    let Outcome { limit, reading } = outcome;
    let policies = demands.iter().map(|demand| demand.tier.policy.as_str()).collect::<Vec<_>>().join(", ");
    if let (Ok(policies), Some(demand)) = (HeaderValue::try_from(policies), demands.get(*limit)) {
        fields::tell(exchange, policies, &demand.quota.prefix, &reading.quota, reading.admitted);
    }
    if reading.admitted {
        return Flow::Continue(());
    }
    let name = demands.get(*limit).map_or("", |demand| &demand.quota.name);
    if reading.quota.next == u64::MAX {
        let detail = "This request costs more than its quota ever admits.";
        return Reply::new(StatusCode::TOO_MANY_REQUESTS, Quotas::NAME, "cost_exceeds_limit", detail)
            .decided_by(format!("quota {name}"))
            .refuse();
    }
    Reply::new(StatusCode::TOO_MANY_REQUESTS, Quotas::NAME, "quota_exceeded", "The quota of this period is used up.")
        .decided_by(format!("quota {name}"))
        .retry_after(Duration::from_nanos(reading.quota.next))
        .refuse()
}

impl Policy for Quotas {
    const NAME: &'static str = "quota";
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str = "Limits what a consumer may use per day, week or month; survives a restart (429).";
    type Config = OneOrMany<QuotaConfig>;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let OneOrMany(configs) = config;
        if configs.is_empty() {
            cx.problems
                .push(Problem::error(cx.place, "a list of quotas without any quota").hint("write `false` to limit nothing"));
            return None;
        }
        let book = Book::of(cx.ledger);
        let mut names: Vec<String> = Vec::new();
        let mut all = Vec::new();
        for config in configs {
            let Some(quota) = Limited::compile(config, &names, &book, cx) else { continue };
            names.push(quota.name.clone());
            all.push(quota);
        }
        if all.len() < configs.len() || !open(&book, cx) {
            return None;
        }
        let (trials, quotas) = all.into_iter().partition(|quota| quota.dry_run.is_some());
        Some(Quotas { quotas, trials, _book: book })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        for quota in self.quotas.iter().chain(&self.trials) {
            plan.options().by_params |= quota.by.looks_at_params();
            plan.options().by_path |= quota.cost.looks_at_path();
        }
        plan.on_request(self);
    }
}

/// Begins to keep the book in its file, where anything is served.
fn open(book: &Arc<Book>, cx: &mut Compile<'_>) -> bool {
    let Some(background) = cx.background else { return true };
    let wanted: &Path = cx.quota_log;
    match book.open(wanted, cx.tallies, background) {
        Ok(path) if path == wanted => true,
        Ok(path) => {
            let message = format!("quotas are kept in {} until the next upgrade or restart", path.display());
            cx.problems.push(Problem::warning(cx.place, message));
            true
        }
        Err(error) => {
            let message = format!("cannot keep quotas in {}: {error}", wanted.display());
            cx.problems.push(Problem::error(cx.place, message).hint("say where with `server: { quota_log: PATH }`"));
            false
        }
    }
}

impl Limited {
    fn compile(config: &QuotaConfig, taken: &[String], book: &Book, cx: &mut Compile<'_>) -> Option<Self> {
        let Allowance { count, unit } = config.limit.value;
        let name = super::limit::name(config.name.as_ref(), &format!("{}-{}", config.by.word(), unit.word()), taken, cx);
        let zone = zone(config.time_zone.as_ref(), cx);
        let cost = Cost::compile(&config.cost, name.as_deref().unwrap_or_default(), cx);
        let max_keys = max_keys(config.max_keys.as_ref(), cx);
        let plans = plans(config, unit, cx);
        let (name, zone, cost, max_keys) = (name?, zone?, cost?, max_keys?);
        let window = unit.seconds().map(Duration::from_secs);
        let tier = |limit: u64| Tier { limit, policy: fields::policy(&name, limit, window) };
        let plans = plans?.into_iter().map(|(plan, limit)| (plan.into(), limit.map(tier))).collect();
        // With another unit or other clients it is another quota.
        let account = book.account(&format!("{}/{name}/{}/{}", cx.scope, config.by.text(), unit.word()));
        let labels = [("limit", name.as_str()), ("scope", cx.scope)];
        account.count_evictions(cx.tallies.counter(
            "portcullis_rate_limit_evicted_total",
            crate::limits::config::EVICTED,
            &labels,
        ));
        let trial = || cx.tallies.counter("portcullis_rate_limit_dry_run_total", super::limit::DRY_RUN, &labels);
        Some(Limited {
            prefix: fields::prefix(&name),
            by: config.by.clone(),
            cost,
            tiers: Tiers { base: tier(count), plans },
            calendar: Calendar::new(unit, zone),
            account,
            max_keys,
            dry_run: config.dry_run.then(trial),
            name,
        })
    }
}

fn zone(config: Option<&Spanned<String>>, cx: &mut Compile<'_>) -> Option<TimeZone> {
    let Some(name) = config else { return Some(TimeZone::UTC) };
    let zone = TimeZone::get(name);
    if zone.is_err() {
        let message = format!("there is no time zone `{}` on this machine", name.value);
        cx.problems
            .push(Problem::error(name.place, message).hint("write one such as Europe/Berlin; the package `tzdata` has them"));
    }
    zone.ok()
}

fn max_keys(config: Option<&Spanned<u64>>, cx: &mut Compile<'_>) -> Option<usize> {
    let wanted = config.map_or(DEFAULT_MAX_KEYS, |config| config.value);
    if let Some(config) = config.filter(|_| !(1..=MOST_MAX_KEYS).contains(&wanted)) {
        cx.problems.push(Problem::error(config.place, format!("max_keys of a quota is between 1 and {MOST_MAX_KEYS}")));
        return None;
    }
    usize::try_from(wanted).ok()
}

fn plans<'a>(config: &'a QuotaConfig, unit: Unit, cx: &mut Compile<'_>) -> Option<Vec<(&'a str, Option<u64>)>> {
    let mut plans = Vec::new();
    for (plan, quota) in &config.plans {
        plan::check(plan, quota.place, cx);
        match quota.value {
            PlanQuota::Unlimited => plans.push((plan.as_str(), None)),
            PlanQuota::Limited(own) if own.unit == unit => plans.push((plan.as_str(), Some(own.count))),
            PlanQuota::Limited(_) => {
                let message = format!("the plans of one quota are counted per the same period, here per {}", unit.word());
                cx.problems.push(Problem::error(quota.place, message).hint("write a second quota for another period"));
            }
        }
    }
    (plans.len() == config.plans.len()).then_some(plans)
}
