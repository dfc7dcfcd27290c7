//! What is fetched again before it expires: in the background, one attempt at a time however many requests want it, and the last good one
//! is kept for as long as it is good.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::clock::unix_seconds;
use crate::tally::{Counter, Gauge, Tallies};

/// The pause after the first attempt that failed; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How long a request waits for an attempt that is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// A new one is fetched at least so long before the old one expires, if it was good for long enough.
const EARLY: u64 = 300;
/// Something younger than this is not doubted.
const YOUNG: Duration = Duration::from_secs(60);

/// What was fetched.
pub struct Fetched<T> {
    pub item: T,
    /// Until when it is good, in seconds since 1970. `None`: nobody has said.
    pub expires: Option<u64>,
}

pub type Fetching<'a, T> = Pin<Box<dyn Future<Output = Result<Fetched<T>, String>> + Send + 'a>>;

/// Where it is fetched from.
pub trait Origin: Send + Sync + 'static {
    type Item: Send + Sync + 'static;

    /// One attempt, which ends in bounded time. The error is a sentence for the log, without secrets.
    fn fetch(&self) -> Fetching<'_, Self::Item>;

    /// How long what nobody has bounded is used before it is fetched again.
    fn again(&self) -> Duration;
}

/// See the module.
pub struct Fresh<T> {
    origin: Box<dyn Origin<Item = T>>,
    /// What it is, for the log: `the credentials of the service \`x\``.
    name: String,
    current: ArcSwapOption<Held<T>>,
    state: Mutex<State>,
    attempts: watch::Sender<u64>,
    wanted: Arc<Notify>,
    started: AtomicBool,
    counts: Counts,
}

struct Held<T> {
    item: T,
    expires: Option<u64>,
    since: Instant,
}

struct State {
    fetching: bool,
    failures: u32,
}

struct Counts {
    good: Arc<Counter>,
    failed: Arc<Counter>,
    expires: Arc<Gauge>,
}

impl<T: Send + Sync + 'static> Fresh<T> {
    pub fn new(service: &str, origin: Box<dyn Origin<Item = T>>, served: bool, tallies: &Tallies) -> Self {
        let fetches = |result| {
            let help = "Attempts to fetch the credentials that a service is shown.";
            tallies.counter("portcullis_upstream_credentials_fetches_total", help, &[("service", service), ("result", result)])
        };
        let help = "When the credentials that a service is shown expire, in seconds since 1970; 0 if that is not known.";
        let expires = tallies.gauge("portcullis_upstream_credentials_expiry_timestamp_seconds", help, &[("service", service)]);
        Fresh {
            origin,
            name: format!("the credentials for the service `{service}`"),
            current: ArcSwapOption::empty(),
            state: Mutex::new(State { fetching: served, failures: 0 }),
            attempts: watch::channel(0).0,
            wanted: Arc::default(),
            started: AtomicBool::new(false),
            counts: Counts { good: fetches("ok"), failed: fetches("failed"), expires },
        }
    }

    /// Sees to it that it is kept fresh, for as long as somebody holds it. Once is enough.
    pub fn start(self: &Arc<Self>, background: &Handle) {
        if !self.started.swap(true, Ordering::Relaxed) {
            background.spawn(keep_fresh(Arc::downgrade(self), self.wanted.clone()));
        }
    }

    /// What `make` makes of it, if it is there and good.
    pub fn with<R>(&self, make: impl FnOnce(&T) -> R) -> Option<R> {
        let held = self.current.load();
        let held = held.as_deref()?;
        let good = held.expires.is_none_or(|at| unix_seconds() < at);
        good.then(|| make(&held.item))
    }

    /// Waits until the attempt that is under way has ended. After one that has failed nobody waits, and nobody brings about the next: traffic must
    /// not void its pause.
    pub async fn wait(&self) {
        let mut attempts = self.attempts.subscribe();
        {
            if !self.state.lock().fetching {
                return;
            }
        }
        let _ = tokio::time::timeout(PATIENCE, attempts.changed()).await;
    }

    /// The service does not take it: unless it is young, it is fetched anew.
    pub fn doubt(&self) {
        if self.current.load().as_ref().is_some_and(|held| held.since.elapsed() >= YOUNG) {
            let mut state = self.state.lock();
            if !state.fetching {
                state.fetching = true;
                self.wanted.notify_one();
            }
        }
    }

    /// One attempt; how long until the next.
    async fn attempt(&self) -> Duration {
        self.state.lock().fetching = true;
        let fetched = self.origin.fetch().await;
        let mut state = self.state.lock();
        let next = match fetched {
            Ok(Fetched { item, expires }) => {
                if state.failures > 0 {
                    log::info!("{} can be fetched again", self.name);
                }
                state.failures = 0;
                self.counts.good.add(1);
                self.counts.expires.set(expires.unwrap_or_default());
                self.current.store(Some(Arc::new(Held { item, expires, since: Instant::now() })));
                let left = expires.map(|at| at.saturating_sub(unix_seconds()));
                // Never sooner than in a second, whatever a server says.
                let next = |left: u64| Duration::from_secs(left.saturating_sub((left / 5).clamp(1, EARLY)).max(1));
                left.map_or_else(|| self.origin.again(), next)
            }
            Err(why) => {
                if state.failures == 0 {
                    log::warn!("{} cannot be fetched, and the last good ones stay until they expire: {why}", self.name);
                }
                state.failures = state.failures.saturating_add(1);
                self.counts.failed.add(1);
                FIRST_RETRY.saturating_mul(1 << (state.failures - 1).min(5)).min(LONGEST_RETRY)
            }
        };
        state.fetching = false;
        drop(state);
        self.attempts.send_modify(|attempts| *attempts = attempts.wrapping_add(1));
        next
    }
}

/// Wakes the task, so that it ends now and not at its next attempt.
impl<T> Drop for Fresh<T> {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

async fn keep_fresh<T: Send + Sync + 'static>(fresh: std::sync::Weak<Fresh<T>>, wanted: Arc<Notify>) {
    loop {
        let Some(held) = fresh.upgrade() else { return };
        let next = held.attempt().await;
        drop(held);
        let _ = tokio::time::timeout(next, wanted.notified()).await;
    }
}
