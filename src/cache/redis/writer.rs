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
use super::{Bound, RedisTier, value};
use crate::cache::entry::{Entry, Index};
use crate::cache::memory::Body;
use crate::cache::moment::Moment;
use crate::redis::{Script, Unavailable};

/// What waits to be written, in bytes of memory, or one answer that is longer.
const WAITING: usize = 16 << 20;
/// And what has to be taken out, beyond that.
const TAKEN: usize = 1 << 20;
/// What one order needs beside what it is about.
const ORDER: usize = 256;
/// Under way at once.
const BATCH: usize = 32;
/// For one command: no request waits for it.
const PATIENCE: Duration = Duration::from_millis(500);
/// What is fetched while something is changed has come after so long, or is not stored.
const FETCHED: Duration = Duration::from_secs(60);
/// What gateways' looks at the clock may differ by, in microseconds.
pub(super) const AHEAD: u64 = 1_000_000;
/// No answer is kept longer.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Stores an answer, unless its target was changed since it was asked for, or a younger one is there. Where nothing is noted of the target,
/// nothing counts that was asked for a second before, and what was asked for so long ago that a note may be gone is not stored. What is ahead of the
/// clock was written before that was set back: how young one may be that is there, it is told. Where it is told what body is to be there, it
/// puts the head before that one, and says 2 if it is not there.
static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local function text(value) if type(value) == 'string' then return value end return nil end
         local changed, asked, now, magic = text(redis.pcall('GET', KEYS[1])), ARGV[1], ARGV[6], ARGV[3]
         if changed and (#changed ~= #asked or changed > now) then changed = nil end
         if changed and changed >= asked then return 0 end
         if not changed and asked < ARGV[7] then return 0 end
         local known = text(redis.pcall('GETRANGE', KEYS[2], 0, #magic + #asked - 1)) or ''
         local there = string.sub(known, #magic + 1)
         if string.sub(known, 1, #magic) == magic and there > ARGV[9] and there <= now then return 0 end
         local value = ARGV[4]
         if ARGV[8] ~= '' then
           local whole = text(redis.pcall('GET', KEYS[2])) or ''
           local at = #magic + #asked
           local start = tonumber(string.sub(whole, at + 1, at + 8))
           if string.sub(whole, 1, #magic) ~= magic or string.sub(whole, at + 9, at + 40) ~= ARGV[8] or not start then return 2 end
           value = value .. string.sub(whole, start + 1)
         end
         if not changed then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[5])
         elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[5]) then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
         redis.call('SET', KEYS[2], value, 'PX', ARGV[5])
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

/// Takes an answer out that was asked for before then, or is ahead of the clock.
static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local known = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[2] + #ARGV[1] - 1)
         if type(known) ~= 'string' then return 0 end
         local there = string.sub(known, #ARGV[2] + 1)
         if there >= ARGV[1] and there <= ARGV[3] then return 0 end
         return redis.call('DEL', KEYS[1])",
    )
});

pub(super) enum Order {
    Store {
        variance: Option<HashBinary>,
        entry: Arc<Entry>,
        body: Body,
    },
    /// What was asked for before that moment.
    Forget {
        variance: Option<HashBinary>,
        primary: Box<[u8]>,
        before: u64,
    },
    Changed {
        target: Box<[u8]>,
        /// When, as a moment.
        at: u64,
    },
}

impl Order {
    pub(super) fn forget(index: Index, primary: &[u8], before: u64) -> Self {
        Order::Forget { variance: index.variance, primary: primary.into(), before }
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
        let most = if matches!(order, Order::Store { .. }) { WAITING } else { WAITING + TAKEN };
        let fits = |held: usize| held.checked_add(weight).filter(|sum| held == 0 || *sum <= most);
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
        let done = self.write(&bound, order).await;
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
        // In a Cluster nodes fail one by one.
        let is_down = |name: &str| if bound.redis.is_down_at(name.as_bytes()) { Err(Unwritten::Unheard) } else { Ok(()) };
        match order {
            Order::Store { variance, entry, body: is } => {
                let Some(settings) = self.settings.load_full() else { return Ok(()) };
                if self.tier.is_purged(&entry) {
                    // By this process's own moments, which no clock touches.
                    return Ok(());
                }
                let times = bound.clock.before(entry.meta.asked, now).zip(bound.clock.before(now, now));
                let (asked, written) = times.ok_or(Unwritten::Unheard)?;
                let names = Names::new(&bound.prefix, &entry.primary);
                is_down(&names.changed())?;
                let head = value::head(&entry, variance, &names.digest, asked, written);
                let ttl = entry.meta.life().min(LONGEST).as_millis().max(1).to_string();
                let (changed, answer) = (names.changed(), names.answer(variance));
                let (at, before) = (value::digits(asked), value::digits(asked.saturating_sub(AHEAD)));
                // A little ahead: what others have written just now is not from before the clock was set.
                let ahead = value::digits(bound.clock.after(now, now).ok_or(Unwritten::Unheard)?.saturating_add(AHEAD));
                let least = value::digits(written.saturating_sub(u64::try_from(FETCHED.as_micros()).unwrap_or(u64::MAX)));
                let youngest = match is {
                    Body::New | Body::Same => at.clone(),
                    // It may be there by another look at the clock.
                    Body::Outdated => {
                        value::digits(bound.clock.after(entry.meta.asked, now).ok_or(Unwritten::Unheard)?.saturating_add(AHEAD))
                    }
                };
                let write = async |value: &[u8], body: &[u8]| {
                    let args = [
                        at.as_bytes(),
                        before.as_bytes(),
                        value::MAGIC.as_bytes(),
                        value,
                        ttl.as_bytes(),
                        ahead.as_bytes(),
                        least.as_bytes(),
                        body,
                        youngest.as_bytes(),
                    ];
                    let done =
                        bound.redis.aside(PATIENCE).eval::<i64>(&STORE, &[changed.as_bytes(), answer.as_bytes()], &args).await;
                    if done == Ok(1) {
                        self.figures.stored.add(1);
                        self.figures.written.add(value.len() as u64);
                    }
                    done
                };
                let is_there = is != Body::New && write(&head, value::body_code(&head)).await? != 2;
                // What is not there any more, or is another one there, is sent whole; but not in the place of what its service has now.
                if !is_there && is != Body::Outdated {
                    write(&[head, value::body(&entry, settings.compress_above)].concat(), b"").await?;
                }
            }
            Order::Forget { variance, primary, before } => {
                let name = Names::new(&bound.prefix, &primary).answer(variance);
                is_down(&name)?;
                let times = bound.clock.before(before, now).zip(bound.clock.after(now, now));
                let (before, ahead) = times.ok_or(Unwritten::Unheard)?;
                let (before, ahead) = (value::digits(before), value::digits(ahead.saturating_add(AHEAD)));
                let args = [before.as_bytes(), value::MAGIC.as_bytes(), ahead.as_bytes()];
                bound.redis.aside(PATIENCE).eval::<i64>(&FORGET, &[name.as_bytes()], &args).await?;
            }
            Order::Changed { target, at } => {
                let at = value::digits(bound.clock.after(at, now).ok_or(Unwritten::Unheard)?);
                let (name, least) = (OfTarget::new(&bound.prefix, &target).changed(), FETCHED.as_millis().to_string());
                let args = [at.as_bytes(), least.as_bytes()];
                is_down(&name)?;
                bound.redis.aside(PATIENCE).eval::<i64>(&CHANGED, &[name.as_bytes()], &args).await?;
            }
        }
        Ok(())
    }
}
