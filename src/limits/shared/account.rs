//! A limit's place in Redis: its keys, its numbers, and the one script that counts.
//!
//! Keys are `PREFIXlimit:NAME:SCOPE:{CLIENT}`, where the scope is a digest, for it may hold anything, and the client is in hexadecimal. The
//! client is the hash tag: in a Cluster all limits that count by the same thing are in one slot, and are asked in one call.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use smallvec::SmallVec;

use super::super::key::Key;
use super::super::rule::{Quota, Rule};
use crate::redis::{Redis, Script, Unavailable};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("count.lua")));

/// What is asked of one limit.
pub struct Ask<'a> {
    pub account: &'a Account,
    pub key: Key,
    /// Refused if there is less.
    pub need: u64,
    /// Taken if there is that much.
    pub want: u64,
    /// Given back first.
    pub back: u64,
}

/// What a limit answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub taken: u64,
    pub quota: Quota,
}

/// What all limits of a call answered together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// All of them gave what was needed; else none gave anything.
    pub all: bool,
    /// In the order of the asks.
    pub told: SmallVec<[Told; 2]>,
}

/// Where one limit counts in Redis, under one rule.
pub struct Account {
    redis: Arc<Redis>,
    start: Box<str>,
    /// The rule, as the script takes it.
    numbers: [String; 4],
    is_bucket: bool,
}

impl Account {
    pub fn new(redis: Arc<Redis>, scope: &str, name: &str, rule: &Rule) -> Self {
        let scope = blake3::hash(scope.as_bytes()).to_hex();
        let scope = scope.get(..16).unwrap_or_default();
        let start = format!("{}limit:{name}:{scope}:{{", redis.prefix()).into();
        let (is_bucket, count, per) = match rule {
            Rule::TokenBucket(gcra) => (true, gcra.count(), gcra.period()),
            Rule::SlidingWindow(window) => (false, window.limit(), window.period()),
        };
        let kind = if is_bucket { "b" } else { "w" };
        let per = Duration::from_nanos(per).as_micros().max(1);
        let numbers = [kind.to_owned(), count.to_string(), per.to_string(), rule.capacity().to_string()];
        Account { redis, start, numbers, is_bucket }
    }

    pub fn redis(&self) -> &Arc<Redis> {
        &self.redis
    }

    /// Whether what was taken can be given back later: a window cannot tell any more what it was taken from.
    pub fn takes_back(&self) -> bool {
        self.is_bucket
    }

    fn key(&self, key: Key) -> Vec<u8> {
        let bytes = key.to_bytes();
        let mut text = Vec::with_capacity(self.start.len() + 2 * bytes.len() + 1);
        text.extend_from_slice(self.start.as_bytes());
        for byte in bytes {
            text.extend([byte >> 4, byte & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
        }
        text.push(b'}');
        text
    }
}

/// Asks limits of one Redis, in one round trip. In a Cluster all must have the same key.
///
/// # Errors
/// Redis did not answer in this time.
pub async fn ask(redis: &Redis, within: Duration, asks: &[Ask<'_>]) -> Result<Answer, Unavailable> {
    let keys: SmallVec<[Vec<u8>; 2]> = asks.iter().map(|ask| ask.account.key(ask.key)).collect();
    let keys: SmallVec<[&[u8]; 2]> = keys.iter().map(Vec::as_slice).collect();
    let amounts: SmallVec<[[String; 3]; 2]> =
        asks.iter().map(|ask| [ask.need, ask.want, ask.back].map(|amount| amount.to_string())).collect();
    let args: SmallVec<[&[u8]; 14]> = asks
        .iter()
        .zip(&amounts)
        .flat_map(|(ask, amounts)| ask.account.numbers.iter().chain(amounts))
        .map(|number| number.as_bytes())
        .collect();
    let answer: Vec<u64> = redis.within(within).eval(&SCRIPT, &keys, &args).await?;
    let Some((all, told)) = answer.split_first() else { return Err(Unavailable::Nonsense) };
    let told: SmallVec<[Told; 2]> = told
        .chunks_exact(4)
        .filter_map(|numbers| match *numbers {
            [taken, remaining, next, full] => {
                let quota = Quota { remaining, next: next.saturating_mul(1_000), full: full.saturating_mul(1_000) };
                Some(Told { taken, quota })
            }
            _ => None,
        })
        .collect();
    if told.len() != asks.len() {
        return Err(Unavailable::Nonsense);
    }
    Ok(Answer { all: *all == 1, told })
}

/// Gives back what was taken, in the background: nobody waits for it, and where Redis does not hear of it, it stays taken.
pub fn give_back(account: &Arc<Account>, key: Key, amount: u64) {
    if amount == 0 || !account.takes_back() {
        return;
    }
    let account = account.clone();
    tokio::spawn(async move {
        let asks = [Ask { account: &account, key, need: 0, want: 0, back: amount }];
        let _ = ask(&account.redis, account.redis.deadline(), &asks).await;
    });
}
