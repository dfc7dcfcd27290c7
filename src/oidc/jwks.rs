//! Keys that an issuer publishes: fetched in the background, kept while the issuer is away, read by requests without a lock.
//!
//! A request waits for keys in two cases only, and never for long: there are none yet, or none of them signed its token. The latter makes
//! them be fetched again, at most once per `cooldown` however many such tokens come. So does a reload, whenever it comes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use super::discovery;
use super::provider::{Provider, ProviderConfig, Trouble};
use crate::context::Context;
use crate::fingerprint::feed;
use crate::jose::VerifyKey;
use crate::jose::jwk::read_set;
use crate::problem::Problem;
use crate::tally::{Counter, Gauge};
use crate::value::{Period, Spanned};

/// Keys are never fetched more often than this on the provider's word.
const LEAST_REFRESH: Duration = Duration::from_secs(30);
/// Between attempts while the provider is away: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// When keys are fetched, and who waits for them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwksConfig {
    /// The longest time between two fetches. A `Cache-Control` of the answer shortens it, to 30s at the least. 1s to 24h, default 10m.
    pub refresh: Option<Spanned<Period>>,
    /// The shortest time between two fetches that tokens cause which no known key has signed. 100ms to 1h, default 10s. A reload fetches
    /// at once.
    pub cooldown: Option<Spanned<Period>>,
    /// How long a request waits for keys to be fetched. 0s to 10s, default 1s. Then it is answered 401 `unknown_key`; or, as long as
    /// there were no keys at all, 503 `keys_unavailable` with `Retry-After`.
    pub wait: Option<Spanned<Period>>,
}

/// Where people wrote that an issuer's keys are.
#[derive(Clone, Copy)]
pub struct JwksSource<'a> {
    pub jwks_url: Option<&'a Spanned<String>>,
    /// The one issuer says where.
    pub discovery: bool,
    pub issuers: Option<&'a [Spanned<String>]>,
    pub provider: &'a ProviderConfig,
    pub pace: &'a JwksConfig,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    refresh: Duration,
    cooldown: Duration,
    wait: Duration,
}

/// The keys of one fetch.
pub struct KeySet {
    pub keys: Vec<VerifyKey>,
    /// Another number for every set of keys in this process. Never 0.
    pub generation: u64,
    print: [u8; 32],
}

/// What was fetched last. Lives in the ledger under what its trust rests on, so that a reload keeps it which changes when or how
/// patiently keys are fetched; until the old generation ends, both fetch for it.
#[derive(Default)]
struct Stock {
    current: ArcSwapOption<KeySet>,
    /// That of `current`; 0 before there is any.
    generation: AtomicU64,
    /// How many fetches have begun.
    asked: AtomicU64,
    /// Which of them brought the keys that are current. Held while they are changed.
    answered: Mutex<u64>,
}

impl Stock {
    /// Takes the keys of the fetch of that number, unless a later one was answered first: what was replaced meanwhile, or revoked, must
    /// not come back. The same keys again change nothing: what was concluded under them still holds.
    fn put(&self, number: u64, keys: Vec<VerifyKey>) {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let mut print = blake3::Hasher::new();
        keys.iter().for_each(|key| key.feed(&mut print));
        let print = *print.finalize().as_bytes();
        let mut answered = self.answered.lock();
        if number < *answered {
            return;
        }
        *answered = number;
        if self.current.load().as_ref().is_some_and(|known| known.print == print) {
            return;
        }
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        self.current.store(Some(Arc::new(KeySet { keys, generation, print })));
        self.generation.store(generation, Ordering::Release);
    }
}

/// An issuer's published keys, and the task that fetches them. Lives in the ledger.
pub struct Jwks {
    source: Source,
    provider: Arc<Provider>,
    allowed: Vec<Algorithm>,
    pace: Pace,
    /// Tells the stock from any other in the ledger.
    print: [u8; 32],
    stock: Arc<Stock>,
    state: Mutex<State>,
    /// There is a task that fetches.
    started: AtomicBool,
    /// Wakes the task that fetches.
    wanted: Arc<Notify>,
    /// How many attempts have ended.
    attempts: watch::Sender<u64>,
    counts: Counts,
}

/// Where the keys are.
enum Source {
    Url(Url),
    /// The issuer says where.
    Issuer(Box<str>, Url),
}

struct State {
    fetching: bool,
    /// When the last attempt ended.
    ended: Option<Instant>,
}

struct Counts {
    fetched: Arc<Counter>,
    failed: Arc<Counter>,
    keys: Arc<Gauge>,
    fetched_at: Arc<Gauge>,
}

impl Jwks {
    /// `None` within, if no keys are fetched at all.
    pub fn compile(config: JwksSource<'_>, allowed: &[Algorithm], cx: &mut Context<'_>) -> Option<Option<Arc<Self>>> {
        let pace = pace(config.pace, cx);
        if config.jwks_url.is_none() && !config.discovery {
            return pace.map(|_| None);
        }
        let provider = Provider::compile(config.provider, cx)?;
        let source = source(config, &provider, cx);
        let (pace, source) = (pace?, source?);
        let (kind, address) = match &source {
            Source::Url(url) => ("jwks", url.as_str()),
            Source::Issuer(issuer, _) => ("issuer", &**issuer),
        };
        let mut print = blake3::Hasher::new();
        feed(&mut print, kind.as_bytes());
        feed(&mut print, address.as_bytes());
        feed(&mut print, &provider.trust);
        allowed.iter().for_each(|algorithm| feed(&mut print, &[*algorithm as u8]));
        let trust = print.finalize();
        let stock = cx.ledger.keep(&format!("authn/keys/{}", trust.to_hex()), Stock::default);
        [pace.refresh, pace.cooldown, pace.wait, provider.timeout]
            .iter()
            .for_each(|time| feed(&mut print, &time.as_nanos().to_be_bytes()));
        let name = print.finalize().to_hex();
        let counts = Counts::new(address, cx);
        let jwks = cx.ledger.keep(&format!("authn/jwks/{name}"), || Jwks {
            source,
            provider,
            allowed: allowed.to_vec(),
            pace,
            print: *trust.as_bytes(),
            stock,
            state: Mutex::new(State { fetching: cx.background.is_some(), ended: None }),
            started: AtomicBool::new(false),
            wanted: Arc::default(),
            attempts: watch::channel(0).0,
            counts,
        });
        if let Some(background) = cx.background {
            if jwks.started.swap(true, Ordering::Relaxed) {
                // Who reloads wants what is true now.
                jwks.want();
            } else {
                background.spawn(keep_fresh(Arc::downgrade(&jwks), jwks.wanted.clone()));
            }
        }
        Some(Some(jwks))
    }

    /// The keys as they were fetched last; `None` before the first success.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.stock.current.load_full()
    }

    /// The number of the keys that are current; 0 before there are any.
    pub fn generation(&self) -> u64 {
        self.stock.generation.load(Ordering::Acquire)
    }

    /// What tells these keys from any others in the ledger, however they are fetched.
    pub fn print(&self) -> &[u8; 32] {
        &self.print
    }

    /// How long a request waits for them.
    pub fn patience(&self) -> Duration {
        self.pace.wait
    }

    /// Whether there is something to wait for: keys are being fetched, or may be by now.
    pub fn may_change(&self) -> bool {
        !self.pace.wait.is_zero() && self.state.lock().may_change(self.cooldown())
    }

    /// Resolves when the next attempt to fetch keys has ended, and sees to it that there is one; at once if it would be too soon.
    pub async fn changed(&self) {
        let mut attempts = self.attempts.subscribe();
        {
            let mut state = self.state.lock();
            if !state.may_change(self.cooldown()) {
                return;
            }
            self.begin(&mut state);
        }
        let _ = attempts.changed().await;
    }

    /// Sees to it that keys are fetched now.
    fn want(&self) {
        self.begin(&mut self.state.lock());
    }

    fn begin(&self, state: &mut State) {
        if !state.fetching {
            state.fetching = true;
            self.wanted.notify_one();
        }
    }

    /// While there are no keys at all, nobody gains from long pauses.
    fn cooldown(&self) -> Duration {
        if self.generation() == 0 { self.pace.cooldown.min(FIRST_RETRY) } else { self.pace.cooldown }
    }

    /// One attempt; for how long its result is good.
    async fn fetch(&self) -> Result<Duration, Trouble> {
        let number = self.stock.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let url = match &self.source {
            Source::Url(url) => url.clone(),
            Source::Issuer(issuer, url) => discovery::jwks_uri(&self.provider, issuer, url).await?,
        };
        let answer = self.provider.get(&url).await?;
        let keys = read_set(&answer.body, &self.allowed).map_err(Trouble::Unusable)?;
        self.counts.keys.set(keys.len() as u64);
        self.stock.put(number, keys);
        let least = LEAST_REFRESH.min(self.pace.refresh);
        Ok(answer.max_age.map_or(self.pace.refresh, |age| age.clamp(least, self.pace.refresh)))
    }

    /// One attempt, told to whoever waits; when to make the next one.
    async fn attempt(&self, failures: &mut u32) -> Duration {
        self.state.lock().fetching = true;
        let result = self.fetch().await;
        let next = match result {
            Ok(next) => {
                if *failures > 0 {
                    log::info!("the keys of {} can be fetched again", self.source);
                }
                *failures = 0;
                self.counts.fetched.add(1);
                self.counts.fetched_at.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
                next
            }
            Err(trouble) => {
                if *failures == 0 {
                    let kept = if self.generation() == 0 { "there are none yet" } else { "the last good ones stay" };
                    log::warn!("the keys of {} cannot be fetched, {kept}: {trouble}", self.source);
                }
                *failures = failures.saturating_add(1);
                self.counts.failed.add(1);
                let retry = FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(8));
                retry.min(LONGEST_RETRY).min(self.pace.refresh)
            }
        };
        *self.state.lock() = State { fetching: false, ended: Some(Instant::now()) };
        self.attempts.send_modify(|attempts| *attempts = attempts.wrapping_add(1));
        next.mul_f64(jitter())
    }
}

/// Wakes the task, so that it ends now and not at its next attempt.
impl Drop for Jwks {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

impl State {
    fn may_change(&self, cooldown: Duration) -> bool {
        self.fetching || self.ended.is_some_and(|ended| ended.elapsed() >= cooldown)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Url(url) => f.write_str(label(url.as_str())),
            Source::Issuer(issuer, _) => f.write_str(label(issuer)),
        }
    }
}

impl Counts {
    fn new(address: &str, cx: &Context<'_>) -> Self {
        let source = label(address);
        let fetches = |result| {
            let help = "Attempts to fetch an issuer's published keys.";
            cx.tallies.counter("portcullis_jwks_fetches_total", help, &[("source", source), ("result", result)])
        };
        let keys = "Keys of an issuer that can check tokens.";
        let fetched_at = "When an issuer's keys were fetched last, in seconds since 1970; 0 if never.";
        Counts {
            fetched: fetches("ok"),
            failed: fetches("failed"),
            keys: cx.tallies.gauge("portcullis_jwks_keys", keys, &[("source", source)]),
            fetched_at: cx.tallies.gauge("portcullis_jwks_fetched_timestamp_seconds", fetched_at, &[("source", source)]),
        }
    }
}

/// Fetches until nobody holds the keys any more.
async fn keep_fresh(keys: Weak<Jwks>, wanted: Arc<Notify>) {
    let mut failures = 0;
    loop {
        let Some(jwks) = keys.upgrade() else { return };
        let next = jwks.attempt(&mut failures).await;
        drop(jwks);
        let _ = tokio::time::timeout(next, wanted.notified()).await;
    }
}

/// An address without its query, which may hold a secret.
fn label(address: &str) -> &str {
    address.split(['?', '#']).next().unwrap_or_default()
}

/// 0.9 to 1, so that many gateways do not ask at once.
fn jitter() -> f64 {
    use std::hash::BuildHasher;
    let random = std::hash::RandomState::new().hash_one(0u8) % 1000;
    1.0 - random as f64 / 10_000.0
}

fn pace(config: &JwksConfig, cx: &mut Context<'_>) -> Option<Pace> {
    let mut within = |period: &Option<Spanned<Period>>, default: u64, range: (Duration, Duration), message: &str| match period {
        None => Some(Duration::from_secs(default)),
        Some(period) if (range.0..=range.1).contains(&period.value.0) => Some(period.value.0),
        Some(period) => {
            cx.problems.push(Problem::error(period.place, message));
            None
        }
    };
    let seconds = Duration::from_secs;
    let refresh = within(&config.refresh, 600, (seconds(1), seconds(24 * 3600)), "`refresh` is from 1s to 24h");
    let cooldown = within(&config.cooldown, 10, (Duration::from_millis(100), seconds(3600)), "`cooldown` is from 100ms to 1h");
    let wait = within(&config.wait, 1, (Duration::ZERO, seconds(10)), "`wait` is at most 10s");
    Some(Pace { refresh: refresh?, cooldown: cooldown?, wait: wait? })
}

fn source(config: JwksSource<'_>, provider: &Provider, cx: &mut Context<'_>) -> Option<Source> {
    if let Some(url) = config.jwks_url {
        if config.discovery {
            let problem = Problem::error(url.place, "either `jwks_url` says where the keys are, or the issuer does");
            cx.problems.push(problem.hint("leave `jwks_url` or `discovery` out"));
            return None;
        }
        return provider.address(url, cx).map(Source::Url);
    }
    match config.issuers {
        Some([issuer]) => {
            let url = provider.address(issuer, cx)?;
            if url.query().is_some() || url.fragment().is_some() {
                cx.problems.push(Problem::error(issuer.place, "an issuer with a query or a fragment cannot be discovered"));
                return None;
            }
            Some(Source::Issuer(issuer.value.as_str().into(), url))
        }
        _ => {
            let problem = Problem::error(cx.place, "`discovery` needs exactly one `issuer`");
            cx.problems.push(problem.hint("write one entry under `jwt` for each issuer"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kid: &str) -> Vec<VerifyKey> {
        let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
        let set = serde_json::json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y }] });
        read_set(set.to_string().as_bytes(), &[]).unwrap()
    }

    #[test]
    fn a_late_answer_does_not_bring_replaced_keys_back() {
        let stock = Stock::default();
        let generation = || stock.generation.load(Ordering::Acquire);
        assert_eq!(generation(), 0);
        stock.put(2, keys("new"));
        let new = generation();
        stock.put(1, keys("revoked"));
        assert_eq!(generation(), new, "asked for earlier");
        stock.put(3, keys("new"));
        assert_eq!(generation(), new, "the same keys");
        stock.put(2, keys("revoked"));
        assert_eq!(generation(), new, "the same keys, but later ones");
        stock.put(4, keys("newer"));
        assert!(generation() > new);
        assert_eq!(stock.current.load().as_ref().map(|keys| keys.generation), Some(generation()));
    }
}
