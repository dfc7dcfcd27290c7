//! The Redis that several gateways share: one standalone server, or a Cluster, under `redis:`.
//!
//! What a caller may rely on: [`Redis::run`] and [`Redis::eval`] answer within the configured deadline, whatever Redis does, and never
//! block the event loop. Who asks says what happens when Redis does not answer ([`Unavailable`]); nothing here decides that.
//!
//! *One connection per thread that asks*, opened when it first does, on that thread's own event loop, and used by all its requests at
//! once: commands are pipelined in the order in which they come. Nothing crosses from one core to another on the way of a request.
//! A connection that breaks is opened again by the next call, after a growing pause where opening fails.
//!
//! *A breaker*, shared by all threads: after a few failures in a row calls fail at once, and one call at a time finds out whether Redis is
//! back, so that an outage costs a few requests the deadline and all others nothing. In a Cluster there is one for every 256 slots,
//! for the nodes fail one by one.
//!
//! *Bounded*: no more than [`MOST_WAITING`] calls wait on one connection; more fail at once.
//!
//! A command may run twice: where the connection breaks before its answer came, it is sent once more over a new one. Callers send what
//! does no harm twice: a limit that counts one request too many, a key that is written again.
//!
//! Deliberately not here: what is stored, and under which keys.

mod breaker;
mod config;
mod counts;
mod link;
mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::Value;
pub use ::redis::{Cmd, FromRedisValue, cmd};

use self::breaker::Breaker;
pub use self::config::RedisConfig;
use self::counts::Counts;
use self::link::{Link, Target};
pub use self::script::Script;
use crate::tally::{Tallies, shard};

/// Calls that may wait for an answer on one connection at a time.
pub const MOST_WAITING: usize = 1024;

/// Why Redis did not answer, or not with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// No answer within the deadline.
    Timeout,
    /// There is no connection, or it broke.
    Connection,
    /// Not asked: the breaker is open.
    Open,
    /// Not asked: [`MOST_WAITING`] calls wait on this connection.
    Overloaded,
    /// Redis refused: its error code, such as `NOPERM`, `LOADING`, `OOM`, `READONLY`, `CLUSTERDOWN`.
    Refused(Box<str>),
    /// The answer is none that the question allows.
    Nonsense,
}

impl Unavailable {
    /// A stable word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Unavailable::Timeout => "timeout",
            Unavailable::Connection => "connection",
            Unavailable::Open => "breaker_open",
            Unavailable::Overloaded => "overloaded",
            Unavailable::Refused(_) => "refused",
            Unavailable::Nonsense => "nonsense",
        }
    }

    /// Whether it says that Redis itself, rather than this one command, is in trouble.
    fn is_outage(&self) -> bool {
        matches!(self, Unavailable::Timeout | Unavailable::Connection)
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Refused(code) => write!(f, "refused ({code})"),
            other => f.write_str(other.word()),
        }
    }
}

impl std::error::Error for Unavailable {}

/// The shared Redis. One per configuration; lives in the ledger, so that a reload that leaves `redis:` alone keeps its connections.
pub struct Redis {
    target: Arc<Target>,
    deadline: Duration,
    prefix: Box<str>,
    /// By the thread's slot; the last is for threads without one.
    links: Box<[Arc<Link>]>,
    breakers: Box<[Breaker]>,
    counts: Arc<Counts>,
}

impl Redis {
    fn new(target: Target, deadline: Duration, prefix: &str, counts: Counts) -> Self {
        let breakers = if target.is_cluster() { breaker::CLUSTER } else { 1 };
        let counts = Arc::new(counts);
        let target = Arc::new(target);
        Redis {
            links: (0..=shard::slots()).map(|_| Arc::new(Link::new(target.clone(), counts.clone()))).collect(),
            breakers: (0..breakers).map(|_| Breaker::default()).collect(),
            target,
            deadline,
            prefix: prefix.into(),
            counts,
        }
    }

    /// The same for other work, with connections and breakers of its own: neither waits for the other, nor is judged by it, nor counted in
    /// its figures.
    pub fn apart(&self) -> Redis {
        let counts = Arc::new(Counts::new(&Tallies::default()));
        Redis {
            target: self.target.clone(),
            deadline: self.deadline,
            prefix: self.prefix.clone(),
            links: self.links.iter().map(|_| Arc::new(Link::new(self.target.clone(), counts.clone()))).collect(),
            breakers: self.breakers.iter().map(|_| Breaker::default()).collect(),
            counts,
        }
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The longest that a call takes.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether keys of one command must share a hash tag (`{...}`).
    pub fn is_cluster(&self) -> bool {
        self.target.is_cluster()
    }

    /// Whether the last that was heard of Redis is that it does not answer. Cheap; for what may be put off until it does.
    pub fn is_down(&self) -> bool {
        let now = breaker::now();
        self.breakers.iter().any(|breaker| breaker.is_open(now))
    }

    /// The same of who has this key.
    pub fn is_down_at(&self, key: &[u8]) -> bool {
        let index = if self.breakers.len() > 1 { breaker::of_key(key) } else { 0 };
        self.breakers.get(index).is_some_and(|breaker| breaker.is_open(breaker::now()))
    }

    /// Opens this thread's connection ahead of the first call.
    pub fn warm(&self) {
        self.link().open();
    }

    /// Asks with this deadline. The breaker is heard, and hears of it.
    pub fn within(&self, deadline: Duration) -> Asking<'_> {
        Asking { redis: self, deadline, aside: false }
    }

    /// Asks past the breaker, neither held up by it nor counted in it: for work whose failure says nothing of what requests would be
    /// answered.
    pub fn aside(&self, deadline: Duration) -> Asking<'_> {
        Asking { redis: self, deadline, aside: true }
    }

    /// Whether this thread's connection has been opened, or tried in vain. Before that a call that takes long says nothing of Redis.
    pub fn was_tried(&self) -> bool {
        self.link().was_tried()
    }

    /// Opens this thread's connection, if it is not open, and waits until it is, or cannot be, but no longer than that.
    pub async fn connect(&self, most: Duration) {
        // Whoever asks then finds out.
        let _ = crate::wait::within(most, self.link().connected()).await;
    }

    fn link(&self) -> &Arc<Link> {
        let index = shard::slot().unwrap_or(usize::MAX).min(self.links.len() - 1);
        // There is always a last one.
        #[expect(clippy::indexing_slicing)]
        &self.links[index]
    }

    fn breaker(&self, command: &Cmd) -> &Breaker {
        let index = if self.breakers.len() > 1 { breaker::of_slot(command) } else { 0 };
        #[expect(clippy::indexing_slicing)]
        &self.breakers[index.min(self.breakers.len() - 1)]
    }

    /// Tells the breaker what came of a call.
    fn ended(&self, breaker: &Breaker, outcome: &Result<Value, Unavailable>) {
        match outcome {
            Err(error) if error.is_outage() => {
                if breaker.failed(breaker::now()) {
                    self.counts.breaker_opened();
                    log::warn!("Redis ({}) does not answer: {error}", self.target);
                }
            }
            Err(Unavailable::Overloaded) => {}
            _ => {
                if breaker.answered() {
                    self.counts.breaker_closed();
                    log::info!("Redis ({}) answers again", self.target);
                }
            }
        }
    }
}

/// How Redis is asked.
pub struct Asking<'a> {
    redis: &'a Redis,
    deadline: Duration,
    aside: bool,
}

impl Asking<'_> {
    /// Runs one command. In a Cluster its keys must share a slot.
    ///
    /// # Errors
    /// There was no usable answer, after the deadline at the latest. The command may have run all the same.
    pub async fn run<T: FromRedisValue>(self, command: &Cmd) -> Result<T, Unavailable> {
        self.ask(command, None).await
    }

    /// Runs a script: by its digest, and where Redis does not know it yet (a new server, or one that lost its scripts) with its text.
    /// In a Cluster the keys must share a slot.
    ///
    /// # Errors
    /// As [`Asking::run`].
    pub async fn eval<T: FromRedisValue>(self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<T, Unavailable> {
        self.ask(&script.by_digest(keys, args), Some(&|| script.by_text(keys, args))).await
    }

    async fn ask<T: FromRedisValue>(
        self,
        command: &Cmd,
        text: Option<&(dyn Fn() -> Cmd + Send + Sync)>,
    ) -> Result<T, Unavailable> {
        let Asking { redis, deadline, aside } = self;
        let started = Instant::now();
        let breaker = (!aside).then(|| redis.breaker(command));
        if breaker.is_some_and(|breaker| !breaker.lets_pass(breaker::now(), deadline)) {
            redis.counts.ended(Err(&Unavailable::Open));
            return Err(Unavailable::Open);
        }
        let asked = crate::wait::within(deadline, redis.link().ask(command, text)).await;
        let outcome = asked.unwrap_or(Err(Unavailable::Timeout));
        if let Some(breaker) = breaker {
            redis.ended(breaker, &outcome);
            redis.counts.ended(outcome.as_ref().map(|_| started.elapsed()));
        }
        ::redis::from_redis_value(outcome?).map_err(|_| Unavailable::Nonsense)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The gauge outlives this client, where another one has taken its place.
        self.breakers.iter().filter(|breaker| breaker.is_tripped()).for_each(|_| self.counts.breaker_closed());
    }
}
