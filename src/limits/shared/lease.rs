//! Leases: what this gateway has taken of a limit ahead, by client, and decides by itself.
//!
//! A purse holds what was taken for one client. It begins with little, takes twice as much each time it is empty within 50 ms, up to
//! `most`, and half as much when it lasts for longer than 400 ms. It is filled up in the background when less than a quarter is
//! left, so that requests wait for Redis only when a client is new or comes in a sudden burst; one call per client at a time, so that
//! a purse never holds more than `most`. What Redis refuses is refused here, without asking again, until the moment that it named.
//!
//! What is in a purse has been counted already. So the limit is kept over time, and what may come on top within any window is what was
//! in purses when it began: `most` for every gateway. What is not used within [`LIFETIME`] is given back, and missing to others
//! until then; a gateway that ends takes its purses with it, and the bucket fills up again at its own rate.
//!
//! *Bounded*: at most `max_keys` purses. Requests of a client that finds no room, and those that come at once in greater number than a purse
//! holds, are decided in Redis one by one.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::key::Key;
use super::super::rule::Quota;
use super::super::store::Reading;
use super::account::{Account, Answer, Ask, ask, give_back};
use crate::redis::Unavailable;

/// How long a purse may be used before what is left in it is given back.
pub const LIFETIME: Duration = Duration::from_secs(1);
/// A purse that is empty sooner than this was too small.
const SHORT: u64 = 50_000_000;
/// A purse that lasts longer than this is larger than it needs to be.
const LONG: u64 = 400_000_000;
/// How often a request waits for a purse that others have emptied again, before it asks for itself.
const ROUNDS: usize = 2;
const SHARDS: usize = 16;
/// Purses that are given back at a time.
const SWEEP: usize = 1_000;

#[derive(Default)]
struct Purse {
    left: u64,
    /// How much to take next time.
    size: u64,
    /// When it was filled, and until when it may be used.
    filled: u64,
    until: u64,
    /// Redis refuses until then what costs as much or more.
    refused: u64,
    refused_cost: u64,
    /// What Redis told last.
    quota: Option<Quota>,
    /// The last call was not answered.
    failed: bool,
    filling: Option<watch::Receiver<()>>,
}

type Shard = Mutex<std::collections::HashMap<Key, Purse, ahash::RandomState>>;

/// All purses of one limit. Lives in the ledger.
pub struct Leases {
    account: Arc<Account>,
    most: u64,
    max_per_shard: usize,
    hasher: ahash::RandomState,
    shards: [Shard; SHARDS],
}

/// What a purse says to a request.
enum Said {
    Decided(Reading),
    Empty,
}

impl Leases {
    pub fn new(account: Arc<Account>, most: u64, max_keys: usize) -> Self {
        Leases {
            account,
            most: most.max(1),
            max_per_shard: max_keys.div_ceil(SHARDS),
            hasher: ahash::RandomState::new(),
            shards: Default::default(),
        }
    }

    fn shard(&self, key: Key) -> &Shard {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        #[expect(clippy::indexing_slicing, reason = "a remainder of the length")]
        &self.shards[index]
    }

    /// Decides without waiting, if there is enough in the purse, or if Redis refuses anyway.
    pub fn at_once(self: &Arc<Self>, key: Key, cost: u64, now: u64) -> Option<Reading> {
        match self.spend(key, cost, now) {
            Said::Decided(reading) => Some(reading),
            Said::Empty => None,
        }
    }

    /// Decides, once the purse has been filled if it has to be.
    ///
    /// # Errors
    /// Redis did not answer in this time.
    pub async fn take(self: &Arc<Self>, key: Key, cost: u64, now: u64, within: Duration) -> Result<Reading, Unavailable> {
        let work = async {
            for _ in 0..ROUNDS {
                if let Said::Decided(reading) = self.spend(key, cost, now) {
                    return Ok(reading);
                }
                let Some(mut filling) = self.fill(key, cost, now) else { break };
                // Ends with an error when the call is over: nothing is ever sent.
                let _ = filling.changed().await;
                if self.shard(key).lock().get(&key).is_some_and(|purse| purse.failed) {
                    return Err(Unavailable::Connection);
                }
            }
            if let Said::Decided(reading) = self.spend(key, cost, now) {
                return Ok(reading);
            }
            // No room for a purse, or more requests at once than one holds.
            self.take_one(key, cost, within).await
        };
        tokio::time::timeout(within, work).await.unwrap_or(Err(Unavailable::Timeout))
    }

    /// Puts back what a request took that was not admitted after all.
    pub fn refund(&self, key: Key, cost: u64) {
        if let Some(purse) = self.shard(key).lock().get_mut(&key) {
            purse.left = purse.left.saturating_add(cost).min(self.most.max(cost));
        }
    }

    fn spend(self: &Arc<Self>, key: Key, cost: u64, now: u64) -> Said {
        let mut shard = self.shard(key).lock();
        let Some(purse) = shard.get_mut(&key) else { return Said::Empty };
        let told = purse.quota.unwrap_or(Quota { remaining: 0, next: 0, full: 0 });
        if now < purse.until && purse.left >= cost {
            purse.left -= cost;
            let left = purse.left;
            let fill = left < purse.size.min(self.most) / 4 && purse.filling.is_none() && now >= purse.refused;
            drop(shard);
            if fill {
                self.fill(key, left + 1, now);
            }
            return Said::Decided(Reading { admitted: true, quota: Quota { remaining: told.remaining + left, ..told } });
        }
        if now < purse.refused && cost >= purse.refused_cost {
            let quota = Quota { remaining: purse.left.min(cost.saturating_sub(1)), next: purse.refused - now, ..told };
            return Said::Decided(Reading { admitted: false, quota });
        }
        Said::Empty
    }

    /// The call that fills this purse, begun if none is under way. `None` if there is no room for a purse.
    fn fill(self: &Arc<Self>, key: Key, need: u64, now: u64) -> Option<watch::Receiver<()>> {
        let mut shard = self.shard(key).lock();
        if shard.len() >= self.max_per_shard && !shard.contains_key(&key) {
            return None;
        }
        let purse = shard.entry(key).or_default();
        if let Some(filling) = purse.filling.as_ref().filter(|filling| filling.has_changed().is_ok()) {
            return Some(filling.clone());
        }
        let (over, filling) = watch::channel(());
        purse.filling = Some(filling.clone());
        purse.size = match now.saturating_sub(purse.filled) {
            _ if purse.size == 0 => (self.most / 8).max(1),
            ..SHORT => purse.size.saturating_mul(2).min(self.most),
            LONG.. => (purse.size / 2).max(1),
            _ => purse.size,
        };
        // What is stale goes back.
        let back = if now >= purse.until { std::mem::take(&mut purse.left) } else { 0 };
        let need = need.saturating_sub(purse.left);
        let want = purse.size.min(self.most.saturating_sub(purse.left)).max(need);
        drop(shard);
        let leases = self.clone();
        tokio::spawn(async move {
            let redis = leases.account.redis();
            let asks = [Ask { account: &leases.account, key, need, want, back }];
            let asked = ask(redis, redis.deadline(), &asks).await;
            leases.filled(key, need, asked);
            drop(over);
        });
        Some(filling)
    }

    fn filled(&self, key: Key, need: u64, outcome: Result<Answer, Unavailable>) {
        let now = super::super::nanoseconds(std::time::Instant::now());
        let mut shard = self.shard(key).lock();
        let Some(purse) = shard.get_mut(&key) else { return };
        purse.filling = None;
        let told = outcome.ok().and_then(|answer| Some((answer.all, *answer.told.first()?)));
        purse.failed = told.is_none();
        let Some((enough, told)) = told else { return };
        purse.quota = Some(told.quota);
        if enough {
            purse.left = purse.left.saturating_add(told.taken);
            purse.filled = now;
            purse.until = now.saturating_add(LIFETIME.as_nanos() as u64);
            purse.refused = 0;
        } else {
            purse.refused = now.saturating_add(told.quota.next);
            purse.refused_cost = need.saturating_add(purse.left);
        }
    }

    /// Decides one request in Redis.
    async fn take_one(&self, key: Key, cost: u64, within: Duration) -> Result<Reading, Unavailable> {
        let asks = [Ask { account: &self.account, key, need: cost, want: cost, back: 0 }];
        let answer = ask(self.account.redis(), within, &asks).await?;
        let told = answer.told.first().ok_or(Unavailable::Nonsense)?;
        Ok(Reading { admitted: answer.all, quota: told.quota })
    }

    /// Gives back what has been idle, and forgets purses that mean nothing any more.
    pub fn sweep(&self, now: u64) {
        let mut idle = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|key, purse| {
                let over = now >= purse.until && now >= purse.refused && purse.filling.is_none();
                if over && purse.left > 0 {
                    if idle.len() >= SWEEP {
                        return true;
                    }
                    idle.push((*key, purse.left));
                }
                !over
            });
        }
        for (key, left) in idle {
            give_back(&self.account, key, left);
        }
    }

    /// Sweeps for as long as somebody holds the leases.
    pub fn keep_swept(leases: &Arc<Self>, background: &tokio::runtime::Handle) {
        let leases: Weak<Self> = Arc::downgrade(leases);
        background.spawn(async move {
            loop {
                tokio::time::sleep(LIFETIME / 2).await;
                let Some(leases) = leases.upgrade() else { return };
                leases.sweep(super::super::nanoseconds(std::time::Instant::now()));
            }
        });
    }
}
