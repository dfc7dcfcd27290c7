//! What is written to Redis, one after the other by a thread of its own, from a queue that is bounded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::{io, thread};

use parking_lot::Mutex;
use pingora_cache::key::HashBinary;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::names::{Names, OfTarget};
use super::{Bound, RedisTier, life, value};
use crate::cache::entry::{Entry, Index};
use crate::cache::moment::Moment;
use crate::redis::{Script, Unavailable, cmd};

/// What waits to be written, in bytes of memory.
const WAITING: usize = 16 << 20;
/// What one order needs beside what it is about.
const ORDER: usize = 256;
/// Under way at once.
const BATCH: usize = 32;
/// For one command: no request waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// What is fetched while something is changed has come after so long, or is not stored.
const FETCHED: Duration = Duration::from_secs(60);
/// No answer is kept longer.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Stores an answer, unless its target was changed since it was asked for, or a younger one is there. Where nothing is noted of the target,
/// nothing counts that was asked for before.
static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local function text(value) if type(value) == 'string' then return value end return nil end
         local changed = text(redis.pcall('GET', KEYS[1]))
         if changed and #changed ~= #ARGV[1] then changed = nil end
         if changed and changed >= ARGV[1] then return 0 end
         local known = text(redis.pcall('GETRANGE', KEYS[2], 0, #ARGV[3] + #ARGV[1] - 1)) or ''
         if string.sub(known, 1, #ARGV[3]) == ARGV[3] and string.sub(known, #ARGV[3] + 1) > ARGV[1] then return 0 end
         if not changed then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[5])
         elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
         redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
         return 1",
    )
});

/// Notes when a target was changed: what was asked for before does not count.
static CHANGED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local known = redis.pcall('GET', KEYS[1])
         if type(known) == 'string' and #known == #ARGV[1] and known >= ARGV[1] then return 0 end
         local left = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
         redis.call('SET', KEYS[1], ARGV[1], 'PX', left)
         return 1",
    )
});

pub(super) enum Order {
    Store {
        variance: Option<HashBinary>,
        entry: Arc<Entry>,
    },
    Forget {
        variance: Option<HashBinary>,
        primary: Box<[u8]>,
    },
    Changed {
        target: Box<[u8]>,
        /// When, as a moment.
        at: u64,
    },
}

impl Order {
    pub(super) fn forget(index: Index, primary: &[u8]) -> Self {
        Order::Forget { variance: index.variance, primary: primary.into() }
    }

    fn weight(&self) -> usize {
        ORDER
            + match self {
                Order::Store { entry, .. } => entry.weight,
                Order::Forget { primary, .. } => primary.len(),
                Order::Changed { target, .. } => target.len(),
            }
    }
}

/// What waits for the thread, once there is one.
#[derive(Default)]
pub(super) struct Writes {
    sender: Mutex<Option<UnboundedSender<Order>>>,
    weight: Arc<AtomicUsize>,
}

/// What an order takes of the queue until it is done.
struct Room(Arc<AtomicUsize>, usize);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Writes {
    /// Whether there was room for it.
    pub(super) fn push(&self, order: Order) -> bool {
        let weight = order.weight();
        let fits = |held: usize| held.checked_add(weight).filter(|sum| *sum <= WAITING);
        if self.weight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let sent = self.sender.lock().as_ref().is_some_and(|sender| sender.send(order).is_ok());
        if !sent {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
        }
        sent
    }
}

/// Why nothing was written.
enum Unwritten {
    Failed(Unavailable),
    /// Redis does not answer, or has not said for too long what time it is.
    Unheard,
}

impl From<Unavailable> for Unwritten {
    fn from(error: Unavailable) -> Self {
        Unwritten::Failed(error)
    }
}

impl RedisTier {
    /// Starts the thread, which lives as long as the process.
    pub(in crate::cache) fn start(&'static self) -> io::Result<()> {
        let (sender, orders) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("cache-redis".to_owned()).spawn(move || runtime.block_on(self.write_on(orders)))?;
        *self.writes.sender.lock() = Some(sender);
        Ok(())
    }

    async fn write_on(&'static self, mut orders: UnboundedReceiver<Order>) {
        let mut batch = Vec::with_capacity(BATCH);
        while orders.recv_many(&mut batch, BATCH).await > 0 {
            // They begin one after the other, and so does what they send.
            let mut under_way: JoinSet<()> = batch.drain(..).map(|order| self.obey(order)).collect();
            while under_way.join_next().await.is_some() {}
        }
    }

    async fn obey(&'static self, order: Order) {
        let _room = Room(self.writes.weight.clone(), order.weight());
        let Some(bound) = self.bound.load_full() else { return self.figures.dropped.add(1) };
        let done = match bound.redis.is_down() {
            true => Err(Unwritten::Unheard),
            false => self.write(&bound, order).await,
        };
        if let Err(why) = done {
            self.figures.dropped.add(1);
            if let Unwritten::Failed(error) = why {
                self.figures.errors.add(1);
                self.complain("an answer was not written to the Redis of the cache", &error);
            }
        }
    }

    async fn write(&self, bound: &Bound, order: Order) -> Result<(), Unwritten> {
        let now = Moment::now().get();
        match order {
            Order::Store { variance, entry } => {
                let Some(settings) = self.settings.load_full() else { return Ok(()) };
                let times = bound.clock.before(entry.meta.asked, now).zip(bound.clock.before(now, now));
                let (asked, written) = times.ok_or(Unwritten::Unheard)?;
                let names = Names::new(&bound.prefix, &entry.primary);
                let value = value::write(&entry, variance, &names.digest, asked, written, settings.compress_above);
                let ttl = life(&entry).min(LONGEST).as_millis().max(1).to_string();
                let (changed, answer) = (names.changed(), names.answer(variance));
                let (at, before) = (value::digits(asked), value::digits(asked.saturating_sub(1)));
                let args = [at.as_bytes(), before.as_bytes(), value::MAGIC.as_bytes(), &value, ttl.as_bytes()];
                let asking = bound.redis.aside(PATIENCE);
                if asking.eval::<i64>(&STORE, &[changed.as_bytes(), answer.as_bytes()], &args).await? == 1 {
                    self.figures.stored.add(1);
                    self.figures.written.add(value.len() as u64);
                }
            }
            Order::Forget { variance, primary } => {
                let mut del = cmd("DEL");
                del.arg(Names::new(&bound.prefix, &primary).answer(variance));
                bound.redis.aside(PATIENCE).run::<i64>(&del).await?;
            }
            Order::Changed { target, at } => {
                let at = value::digits(bound.clock.after(at, now).ok_or(Unwritten::Unheard)?);
                let (name, least) = (OfTarget::new(&bound.prefix, &target).changed(), FETCHED.as_millis().to_string());
                let args = [at.as_bytes(), least.as_bytes()];
                bound.redis.aside(PATIENCE).eval::<i64>(&CHANGED, &[name.as_bytes()], &args).await?;
            }
        }
        Ok(())
    }
}
