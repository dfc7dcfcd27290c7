//! Limits that several gateways count together, in Redis.
//!
//! *Exact*: every decision is one round trip and one script, which takes from all limits of the request or from none. Nobody is admitted
//! beyond the limit; each request waits for Redis.
//!
//! *Leased*: a gateway takes a slice of the limit ahead and decides by itself until it is used up ([`lease`]).
//!
//! The clock is Redis's own: gateways' clocks may differ. After a failover the new server's counts; one that lags is as if no time had
//! passed, never as if more had.
//!
//! When Redis does not answer within its deadline, each limit does what it was told to ([`Fail`]). What a command did that was not answered in time stays
//! counted: such a limit may admit less than it could, never more. A Redis that lost its memory begins with full limits.
//!
//! In a Cluster, limits of a request that count by different things are in different slots: they are asked one after the other, and what was
//! taken is given back if a later one refuses.

pub mod account;
pub mod config;
pub mod lease;

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use self::account::{Account, Ask, give_back};
pub use self::config::{Fail, Mode, SharedConfig};
use self::lease::Leases;
use super::key::{Hashing, Key};
use super::rule::Rule;
use super::store::{Meter, Reading, Store};
use crate::context::Context;
use crate::problem::Problem;
use crate::redis::{Redis, Unavailable};
use crate::tally::{Counter as Tally, Gauge};
use crate::value::Spanned;

/// A limit that several gateways count together, under one rule.
pub struct Shared {
    rule: Rule,
    account: Arc<Account>,
    hashing: Hashing,
    leases: Option<Arc<Leases>>,
    pub fail: Fail,
    /// This gateway's share, while it counts alone.
    pub alone: Meter,
    unanswered: Arc<Tally>,
    /// Published for as long as the limit is in force.
    _bound: Option<Arc<Gauge>>,
}

impl Shared {
    /// What is wrong goes to `cx.problems`; that there is no Redis, who asks for it has said.
    pub fn compile(
        config: &Spanned<config::Shared>,
        name: &str,
        rule: Rule,
        max_keys: usize,
        redis: Option<&Arc<Redis>>,
        cx: &mut Context<'_>,
    ) -> Option<Arc<Shared>> {
        let config::Shared(shared) = &config.value;
        if !(1..=10_000).contains(&shared.gateways.value) {
            cx.problems.push(Problem::error(shared.gateways.place, "`gateways` is from 1 to 10000"));
        }
        if let Some(lease) = &shared.lease {
            if shared.mode == Mode::Exact {
                cx.problems.push(Problem::error(lease.place, "a `lease` needs `mode: leased`"));
            } else if !(1..=rule.capacity()).contains(&lease.value) {
                let message = format!("a `lease` is between 1 and what the limit admits at once, {}", rule.capacity());
                cx.problems.push(Problem::error(lease.place, message));
            }
        }
        let redis = redis?;
        let most = shared.lease.as_ref().map_or((rule.capacity() / 20).max(1), |lease| lease.value);
        let labels = [("limit", name), ("scope", cx.scope)];
        let account = Arc::new(Account::new(redis.clone(), cx.scope, name, &rule));
        let leases = (shared.mode == Mode::Leased).then(|| {
            let shelf = format!("{}/leases/{name}/{rule:?}/{most}/{max_keys}/{:p}", cx.scope, Arc::as_ptr(redis));
            let mut is_new = false;
            let leases = cx.ledger.keep(&shelf, || {
                is_new = true;
                Leases::new(account.clone(), most, max_keys)
            });
            if let (true, Some(background)) = (is_new, cx.background) {
                Leases::keep_swept(&leases, background);
            }
            leases
        });
        let bound = leases.as_ref().map(|_| {
            let bound = cx.tallies.gauge("portcullis_lease_over_admission_bound", BOUND, &labels);
            bound.set(most);
            bound
        });
        let store = cx.ledger.keep(&format!("{}/alone/{name}/{max_keys}", cx.scope), || Store::new(max_keys));
        let unanswered = [labels[0], labels[1], ("fail", shared.fail.word())];
        Some(Arc::new(Shared {
            alone: Meter::new(store, rule.share(shared.gateways.value)),
            rule,
            // The same on all gateways that share these keys.
            hashing: Hashing::common(redis.prefix()),
            account,
            leases,
            fail: shared.fail,
            unanswered: cx.tallies.counter("portcullis_rate_limit_unanswered_total", UNANSWERED, &unanswered),
            _bound: bound,
        }))
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The same key for the same client on every gateway.
    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    pub fn leases(&self) -> Option<&Arc<Leases>> {
        self.leases.as_ref()
    }

    /// The longest that a request waits.
    pub fn deadline(&self) -> Duration {
        self.account.redis().deadline()
    }

    /// Counts a decision that had to be made without Redis.
    pub fn count_unanswered(&self) {
        self.unanswered.add(1);
    }

    /// Gives back what [`take_all`] took, in the background.
    pub fn give_back(&self, key: Key, cost: u64) {
        give_back(&self.account, key, cost);
    }
}

const BOUND: &str = "Requests per client that this gateway may have taken ahead of a leased limit: summed over the gateways, what may come on top of it.";
const UNANSWERED: &str = "Decisions made without Redis, because it did not answer, by what the limit does then.";

/// What one request asks of one exact limit.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    pub shared: &'a Shared,
    pub key: Key,
    pub cost: u64,
}

/// Takes from all these limits or from none. They are of one Redis.
///
/// # Errors
/// Redis did not answer until then. What was taken before that is given back.
pub async fn take_all(claims: &[Claim<'_>], until: Instant) -> Result<SmallVec<[Reading; 2]>, Unavailable> {
    let Some(first) = claims.first() else { return Ok(SmallVec::new()) };
    let redis = first.shared.account.redis().clone();
    let together = |claims: &[Claim<'_>]| -> SmallVec<[(Key, SmallVec<[usize; 2]>); 2]> {
        let mut groups: SmallVec<[(Key, SmallVec<[usize; 2]>); 2]> = SmallVec::new();
        for (index, claim) in claims.iter().enumerate() {
            match groups.iter_mut().find(|(key, _)| !redis.is_cluster() || *key == claim.key) {
                Some((_, group)) => group.push(index),
                None => groups.push((claim.key, SmallVec::from_slice(&[index]))),
            }
        }
        groups
    };
    let mut readings: SmallVec<[Option<Reading>; 2]> = SmallVec::from_elem(None, claims.len());
    let mut taken: SmallVec<[usize; 2]> = SmallVec::new();
    for (_, group) in together(claims) {
        let asks: SmallVec<[Ask<'_>; 2]> = group
            .iter()
            .filter_map(|index| claims.get(*index))
            .map(|claim| Ask { account: &claim.shared.account, key: claim.key, need: claim.cost, want: claim.cost, back: 0 })
            .collect();
        let give_back = |taken: &[usize]| {
            for claim in taken.iter().filter_map(|index| claims.get(*index)) {
                claim.shared.give_back(claim.key, claim.cost);
            }
        };
        let answer = match account::ask(&redis, until.saturating_duration_since(Instant::now()), &asks).await {
            Ok(answer) => answer,
            Err(error) => {
                give_back(&taken);
                return Err(error);
            }
        };
        for ((index, told), ask) in group.iter().zip(&answer.told).zip(&asks) {
            let admitted = answer.all || told.quota.remaining >= ask.need;
            if let Some(place) = readings.get_mut(*index) {
                *place = Some(Reading { admitted, quota: told.quota });
            }
        }
        if !answer.all {
            give_back(&taken);
            break;
        }
        taken.extend(group);
    }
    // Limits that were not asked any more admit: another one refused.
    let unasked = Reading { admitted: true, quota: super::Quota { remaining: u64::MAX, next: 0, full: 0 } };
    Ok(readings.into_iter().map(|reading| reading.unwrap_or(unasked)).collect())
}
