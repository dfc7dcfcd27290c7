//! What every worker shares: the current generation, and the things that outlive generations.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::cache::Cache;
use crate::cache::sharing;
use crate::exchange::RouteNames;
use crate::ledger::Ledger;
use crate::listen::connections::ConnectionTable;
use crate::listen::in_flight::InFlight;
use crate::listen::share::Shares;
use crate::observe::{AccessLog, Metrics};
use crate::snapshot::{Route, Snapshot, Surroundings};
use crate::upstream::TlsConnector;

pub struct Core {
    pub snapshot: Current,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub access_log: Arc<AccessLog>,
    pub cache: &'static Cache,
    pub in_flight: InFlight,
    /// What each client address takes of what all share.
    pub shares: &'static Shares,
    pub tls: Arc<TlsConnector>,
    /// The open connections, worker by worker.
    pub connections: Box<[Arc<ConnectionTable>]>,
    pub drain: Arc<Drain>,
}

impl Core {
    /// Around the first generation, for so many workers.
    pub fn new(snapshot: Snapshot, around: &Surroundings, access_log: Arc<AccessLog>, workers: usize) -> Arc<Core> {
        let cache = Cache::new(snapshot.cache_memory);
        if let Some(settings) = &snapshot.cache_disk
            && let Err(error) = cache.add_disk((**settings).clone(), around.metrics.tallies())
        {
            log::error!("the cache is in memory alone: {error}");
        }
        let tls = Arc::new(TlsConnector::default());
        let drain = Arc::new(Drain::default());
        let snapshot = Arc::new(snapshot);
        let first = WorkerState {
            newest: Arc::new(ArcSwap::new(snapshot.clone())),
            snapshot,
            metrics: around.metrics.clone(),
            access_log: access_log.clone(),
            cache,
            tls: tls.clone(),
            drain: drain.clone(),
        };
        Arc::new(Core {
            cache,
            snapshot: Current::new(first, workers),
            ledger: around.ledger.clone(),
            metrics: around.metrics.clone(),
            access_log,
            in_flight: InFlight::default(),
            shares: Shares::new(around.metrics.tallies()),
            tls,
            connections: (0..workers).map(|number| connection_table(around, number)).collect(),
            drain,
        })
    }

    /// Does with the cache what the gateways do with theirs that share a Redis with this one, for as long as the process lives.
    pub async fn follow_purges(core: Arc<Core>) {
        let current = || {
            let snapshot = core.snapshot.load();
            let redis = snapshot.redis.clone().filter(|_| snapshot.caches())?;
            let answers =
                snapshot.cache_redis.as_ref().map(|(own, settings)| (own.as_ref().unwrap_or(&redis).clone(), **settings));
            Some((redis, answers))
        };
        sharing::follow(core.cache, current, core.metrics.tallies()).await;
    }
}

fn connection_table(around: &Surroundings, number: usize) -> Arc<ConnectionTable> {
    let help = "Connections that a worker accepted. The kernel deals them out.";
    let accepted =
        around.metrics.tallies().counter("portcullis_connections_accepted_total", help, &[("worker", &number.to_string())]);
    Arc::new(ConnectionTable::new(accepted))
}

/// One generation, as the requests of one worker hold it.
///
/// Every request holds its generation until it ends, so the number of holders changes twice with each. One number for all workers would
/// be a cache line that every core writes for every request; so each worker has a view, and with it a count, of its own.
pub struct WorkerState {
    pub snapshot: Arc<Snapshot>,
    /// The generation that is in force by now, for requests that live longer than their own.
    pub newest: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub access_log: Arc<AccessLog>,
    pub cache: &'static Cache,
    pub tls: Arc<TlsConnector>,
    pub drain: Arc<Drain>,
}

impl WorkerState {
    /// The same of another generation, or for another worker.
    fn with(&self, snapshot: Arc<Snapshot>) -> Arc<WorkerState> {
        Arc::new(WorkerState {
            snapshot,
            newest: self.newest.clone(),
            metrics: self.metrics.clone(),
            access_log: self.access_log.clone(),
            cache: self.cache,
            tls: self.tls.clone(),
            drain: self.drain.clone(),
        })
    }

    /// The route of that number.
    pub fn route(&self, number: Option<u32>) -> Option<&Route> {
        self.snapshot.routes.get(number? as usize).map(Deref::deref)
    }
}

impl RouteNames for WorkerState {
    fn route_name(&self, number: u32) -> &str {
        self.route(Some(number)).map_or("", |route| &route.id)
    }
}

/// The generation that is in force.
pub struct Current {
    snapshot: Arc<ArcSwap<Snapshot>>,
    views: Box<[Arc<ArcSwap<WorkerState>>]>,
    /// Its number, which whoever waits for the next one looks at first.
    generation: AtomicU64,
    told: watch::Sender<u64>,
}

impl Current {
    pub fn new(first: WorkerState, workers: usize) -> Self {
        let another = || Arc::new(ArcSwap::new(first.with(first.snapshot.clone())));
        let views = std::iter::repeat_with(another).take(workers).collect();
        let generation = first.snapshot.generation;
        let (generation, told) = (AtomicU64::new(generation), watch::channel(generation).0);
        Current { snapshot: first.newest, views, generation, told }
    }

    /// For whoever asks now and then.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// As [`Current::load`], to be held for longer.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// For the requests of the worker of that number, if there is one.
    pub fn view(&self, worker: usize) -> Option<Arc<ArcSwap<WorkerState>>> {
        self.views.get(worker).cloned()
    }

    /// Puts a generation in force. Requests that have begun keep theirs.
    pub fn store(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(snapshot.clone());
        for view in &self.views {
            view.store(view.load().with(snapshot.clone()));
        }
        if let Some(view) = self.views.first() {
            view.load().drain.tell();
        }
        self.generation.store(snapshot.generation, Ordering::Release);
        self.told.send_replace(snapshot.generation);
    }

    /// The number of the generation in force, once every worker's requests see it: one look, for those who ask with every request.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits until another generation than the one that was `seen` is in force. To be polled by one task only.
    pub async fn passes(&self, seen: u64) {
        let mut told = self.told.subscribe();
        let mut told = pin!(told.wait_for(|generation| *generation != seen));
        let mut waits = false;
        poll_fn(|cx| {
            // As in [`is_told`].
            if waits && self.generation() == seen {
                return Poll::Pending;
            }
            waits = true;
            told.as_mut().poll(cx).map(drop)
        })
        .await;
    }
}

/// Whether the process drains: it takes no new connections, and those that are open get one more request each. And whether the time
/// for that is over, so that what is still under way is cut off.
pub struct Drain {
    begun: Arc<AtomicBool>,
    told: watch::Sender<bool>,
    ended: AtomicBool,
    over: watch::Sender<bool>,
    /// How often there was something to be told to those who stay for long: that the time is over, or another generation in force.
    news: AtomicU64,
    heard: watch::Sender<u64>,
}

impl Default for Drain {
    fn default() -> Self {
        let (told, over) = (watch::channel(false).0, watch::channel(false).0);
        let (news, heard) = (AtomicU64::new(0), watch::channel(0).0);
        Drain { begun: Arc::default(), told, ended: AtomicBool::new(false), over, news, heard }
    }
}

impl Drain {
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.told.send_replace(true);
    }

    /// The same, for who knows nothing of processes.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.begun.clone()
    }

    /// The time is over.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.over.send_replace(true);
        self.tell();
    }

    pub fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Becomes true when the time is over.
    pub fn end_watch(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    fn tell(&self) {
        let number = self.news.fetch_add(1, Ordering::AcqRel) + 1;
        self.heard.send_replace(number);
    }

    /// How often there was news.
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Waits until there is more than was `seen`: the time is over, or another generation is in force. To be polled by one task only.
    pub async fn hears(&self, seen: u64) {
        is_told(&self.heard, |number| *number != seen, || self.news() != seen).await;
    }

    /// Waits for it to begin. To be polled by one task only.
    pub async fn begins(&self) {
        is_told(&self.told, |told| *told, || self.has_begun()).await;
    }

    /// Waits for its time to be over. To be polled by one task only.
    pub async fn ends(&self) {
        is_told(&self.over, |over| *over, || self.is_over()).await;
    }
}

/// Waits until what is `told` is what is waited for, which `flag` says by then. To be polled by one task only.
///
/// Connections wait for this beside every request, or message. The list of those who wait has a lock that all cores would meet at; once on
/// the list, the flag says as much.
async fn is_told<T>(told: &watch::Sender<T>, is: impl Fn(&T) -> bool, flag: impl Fn() -> bool) {
    let mut told = told.subscribe();
    let mut told = pin!(told.wait_for(is));
    let mut waits = false;
    poll_fn(|cx| {
        if waits && !flag() {
            return Poll::Pending;
        }
        waits = true;
        told.as_mut().poll(cx).map(drop)
    })
    .await;
}
