//! The watchers: one background thread that checks health and resolves names, for all services, for as long as they are in the
//! current generation.
//!
//! An endpoint counts as healthy until checks say otherwise. Checks of one service are spread over its interval and drift apart,
//! so that endpoints are not all asked in the same moment.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::{error, info, warn};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::call::SWEEP;
use super::cluster::{Board, Cluster, Standing};
use super::dns::{Name, Resolved};
use super::endpoint::Endpoint;
use super::health::{Check, Prober};
use super::health_config::Initial;
use super::outlier::judge::{self, Judge};
use super::reflection::{Asker, Reflecting};
use super::service::Service;
use crate::address::EndpointAddress;

/// How many checks run at a time: a bound on descriptors, and on the burst when a large configuration is loaded.
const MOST_CHECKS: usize = 256;
/// How many names are resolved at a time; each takes a thread of the resolver's.
const MOST_LOOKUPS: usize = 16;
/// How much time there is at least between two looks at what has come of requests, unless something else is due.
const PAUSE: Duration = Duration::from_millis(10);
/// How soon a name that has never resolved is asked again, unless `dns_refresh` is sooner.
const UNRESOLVED_REFRESH: Duration = Duration::from_secs(1);

/// An endpoint's health has changed.
#[derive(Debug, Clone)]
pub struct HealthChange<'a> {
    pub service: &'a str,
    pub address: EndpointAddress,
    pub healthy: bool,
    /// Why the last check failed.
    pub reason: Option<&'a str>,
}

/// Hears of every change of health, on the watchers' thread: it must not block.
pub type Observer = Box<dyn Fn(&HealthChange<'_>) + Send + Sync>;

/// Runs the health checks and keeps the names fresh. Stops when dropped.
pub struct Watchers {
    runtime: Handle,
    shared: Arc<Shared>,
    watched: Mutex<HashMap<Arc<str>, Watched>>,
    /// Dropped with the watchers, which ends the thread.
    _stop: oneshot::Sender<()>,
}

struct Watched {
    /// The present generation's service; its task follows.
    service: watch::Sender<Arc<Service>>,
    task: AbortHandle,
}

struct Shared {
    prober: Prober,
    checks: Semaphore,
    lookups: Semaphore,
    observer: Observer,
    asker: Arc<Asker>,
}

impl Watchers {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn new() -> std::io::Result<Self> {
        Self::observed(Box::new(|_| ()))
    }

    /// Starts the thread; `observer` hears of every change of health.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn observed(observer: Observer) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(MOST_LOOKUPS).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("watchers".to_owned()).spawn(move || {
            // An error means that the sender was dropped, which is how it is told to stop.
            let _ = runtime.block_on(stopped);
            // Questions to the resolver cannot be interrupted, and must not hold up the end.
            runtime.shutdown_background();
        })?;
        let shared = Shared {
            prober: Prober::default(),
            checks: Semaphore::new(MOST_CHECKS),
            lookups: Semaphore::new(MOST_LOOKUPS),
            observer,
            asker: Arc::default(),
        };
        let asker = Arc::downgrade(&shared.asker);
        handle.spawn(async move {
            loop {
                sleep(SWEEP).await;
                let Some(asker) = asker.upgrade() else { return };
                asker.sweep();
            }
        });
        Ok(Watchers { runtime: handle, shared: Arc::new(shared), watched: Mutex::default(), _stop: stop })
    }

    /// Watches exactly these services from now on: to be called after every swap of generations, with the services of the new one.
    /// What is watched already goes on undisturbed.
    pub fn sync(&self, services: &[Arc<Service>]) {
        let mut watched = self.watched.lock();
        let wanted: HashSet<&str> = services.iter().filter(|service| service.is_watched()).map(|service| &*service.key).collect();
        watched.retain(|key, entry| {
            let stays = wanted.contains(&**key);
            if !stays {
                entry.task.abort();
            }
            stays
        });
        for service in services {
            service.cluster.board().take(&service.cluster);
            forget_what_nobody_watches(service);
            if !service.is_watched() {
                continue;
            }
            match watched.get(&service.key) {
                Some(entry) => drop(entry.service.send_replace(service.clone())),
                None => drop(watched.insert(service.key.clone(), self.start(service.clone()))),
            }
        }
    }

    fn start(&self, service: Arc<Service>) -> Watched {
        let (sender, receiver) = watch::channel(service);
        let task = self.runtime.spawn(watch_service(receiver, self.shared.clone()));
        Watched { service: sender, task: task.abort_handle() }
    }
}

/// Looks after one service until it is aborted.
async fn watch_service(mut updates: watch::Receiver<Arc<Service>>, shared: Arc<Shared>) {
    let mut checks = Checks::default();
    let mut judge = Judge::default();
    let mut lookups = Lookups::default();
    let mut reflecting = Reflecting::default();
    let mut warmer = Instant::now();
    loop {
        let service = updates.borrow_and_update().clone();
        checks.align(&service, &shared);
        let ask_again = lookups.turn(&service, &shared);
        let looked = Instant::now();
        let look_again = look(&service, &mut judge);
        let reflect_again = reflecting.turn(&service, &shared.asker);
        let turn_again = ask_again.into_iter().chain(look_again).chain(reflect_again).min();
        let board = service.cluster.board().clone();
        // Held while waiting, it would keep a removed generation's endpoints in the ledger.
        let (cluster, slow_start) = (Arc::downgrade(&service.cluster), service.slow_start);
        drop(service);
        tokio::select! {
            changed = updates.changed() => if changed.is_err() { return },
            () = sleep_until(turn_again.unwrap_or(looked)), if turn_again.is_some() => (),
            () = woken(&board, looked + PAUSE) => (),
            () = warm_up(cluster, slow_start, &mut warmer) => (),
            Some(ended) = lookups.tasks.join_next(), if !lookups.tasks.is_empty() => {
                let service = updates.borrow().clone();
                if lookups.ended(ended, &service) {
                    service.cluster.board().publish();
                }
            }
            Some(ended) = reflecting.task.join_next(), if !reflecting.task.is_empty() => {
                reflecting.ended(ended, &updates.borrow().clone(), |wait| varied(wait, 0.9, 1.1));
            }
            Some(Err(ended)) = checks.tasks.join_next(), if !checks.tasks.is_empty() => {
                if ended.is_panic() {
                    error!("a health check panicked, and is started again");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Waits for something that wants a look, though not for every failure of a storm.
async fn woken(board: &Board, not_before: Instant) {
    board.woken().await;
    // Ends early where something else makes the watcher look, which is as good.
    sleep_until(not_before).await;
}

/// Has a look at what has come of requests, and tells when to have the next one.
fn look(service: &Service, judge: &mut Judge) -> Option<Instant> {
    let now = std::time::Instant::now();
    let (mut changed, mut next) = judge.look(service, now, |length| varied(length, 1.0, 1.1));
    for (_, endpoint) in service.cluster.endpoints() {
        let left = if service.has_breakers() { endpoint.breaker().open_left(now) } else { None };
        changed |= endpoint.set_shut(left.is_some());
        next = left.map(|left| now + left).into_iter().chain(next).min();
    }
    if changed {
        service.cluster.board().publish();
    }
    next.map(Instant::from_std)
}

/// What earlier generations found out about endpoints that nobody looks at any more: nobody would ever take it back.
fn forget_what_nobody_watches(service: &Service) {
    let mut changed = false;
    for (_, endpoint) in service.cluster.endpoints() {
        if service.check.is_none() && !endpoint.healthy() {
            endpoint.forget_checks();
        }
        changed |= !service.has_breakers() && endpoint.set_shut(false);
    }
    changed |= service.outliers.is_none() && Judge::default().look(service, std::time::Instant::now(), |length| length).0;
    if changed {
        service.cluster.board().publish();
    }
}

/// Lets the shares of endpoints grow that start slowly. Never ends; for a service without a slow start it does nothing. `next`: when they
/// grow again, however often this is begun anew.
async fn warm_up(cluster: Weak<Cluster>, window: Option<Duration>, next: &mut Instant) {
    let Some(window) = window else { return std::future::pending().await };
    loop {
        sleep_until(*next).await;
        *next = Instant::now() + (window / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
        if let Some(cluster) = cluster.upgrade() {
            cluster.warm_up();
        }
    }
}

/// What one service's names are asked, each at its own time and beside everything else: whoever does not answer holds up nobody.
#[derive(Default)]
struct Lookups {
    /// By the name's address in memory, when to ask again; `None` while it is asked.
    names: HashMap<usize, (Arc<Name>, Option<Instant>)>,
    tasks: JoinSet<(usize, bool)>,
}

impl Lookups {
    /// Asks what it is time to ask. Tells when it is time again.
    fn turn(&mut self, service: &Service, shared: &Arc<Shared>) -> Option<Instant> {
        let now = Instant::now();
        let wanted: HashMap<usize, &Arc<Name>> =
            service.cluster.names().map(|(name, _)| (Arc::as_ptr(name) as usize, name)).collect();
        self.names.retain(|id, _| wanted.contains_key(id));
        for (id, name) in wanted {
            let (name, due) = self.names.entry(id).or_insert_with(|| (name.clone(), Some(now)));
            if due.is_some_and(|due| due <= now) {
                *due = None;
                let (name, board, shared) = (name.clone(), service.cluster.board().clone(), shared.clone());
                let service = service.name.clone();
                self.tasks.spawn(async move { (id, refresh_name(&name, &service, &board, &shared).await) });
            }
        }
        self.names.values().filter_map(|(_, due)| *due).min()
    }

    /// Takes in the end of a question. Tells whether any endpoint came or went.
    fn ended(&mut self, ended: Result<(usize, bool), JoinError>, service: &Service) -> bool {
        let soon = || Some(Instant::now() + UNRESOLVED_REFRESH);
        match ended {
            Ok((id, changed)) => {
                if let Some((name, due)) = self.names.get_mut(&id) {
                    *due = Some(Instant::now() + next_refresh(name, service.dns_refresh));
                }
                changed
            }
            Err(ended) => {
                error!("a question for endpoints ended badly, and is asked again: {ended}");
                self.names.values_mut().filter(|(_, due)| due.is_none()).for_each(|(_, due)| *due = soon());
                false
            }
        }
    }
}

fn next_refresh(name: &Name, usual: Duration) -> Duration {
    match name.again() {
        // A lifetime that is over is over: asking earlier would be told what is left of it.
        Some(again) if !name.is_failing() => again,
        None if name.is_resolved() && !name.is_failing() => varied(usual, 0.9, 1.1),
        _ => varied(usual.min(UNRESOLVED_REFRESH), 0.9, 1.1),
    }
}

/// Tells whether any endpoint came or went.
async fn refresh_name(name: &Name, service: &str, board: &Board, shared: &Shared) -> bool {
    let answer = {
        // The semaphore is never closed.
        let _permit = shared.lookups.acquire().await;
        name.lookup().await
    };
    let resolved = name.update(answer);
    if name.is_failing() {
        board.count_not_found(name.kind());
    }
    match resolved {
        Resolved::Same => false,
        Resolved::Changed => {
            info!("service `{service}`: `{}` stands for {} addresses", name.host(), name.endpoints().len());
            true
        }
        Resolved::Lost => {
            let left = if name.is_resolved() { "its last addresses stay" } else { "it has no endpoints yet" };
            warn!("service `{service}`: `{}` does not resolve, {left}: {}", name.host(), name.why());
            false
        }
    }
}

/// The running checks of one service.
#[derive(Default)]
struct Checks {
    check: Option<Arc<Check>>,
    /// By the endpoint's address in memory: the `Arc` beside it keeps that from being used again.
    running: HashMap<usize, (Arc<Endpoint>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Checks {
    /// Starts the checks that are missing and stops those of endpoints that are gone. If the check itself was changed, all start
    /// anew.
    fn align(&mut self, service: &Service, shared: &Arc<Shared>) {
        while self.tasks.try_join_next().is_some() {}
        let unchanged = match (&self.check, &service.check) {
            (Some(old), Some(new)) => old.same_as(new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !unchanged {
            self.tasks.abort_all();
            self.running.clear();
            self.check = service.check.clone();
        }
        let Some(check) = self.check.clone() else { return };
        let endpoints = service.cluster.endpoints().into_iter();
        let wanted: HashMap<usize, Arc<Endpoint>> =
            endpoints.map(|(_, endpoint)| (Arc::as_ptr(&endpoint) as usize, endpoint)).collect();
        self.running.retain(|id, (_, task)| {
            // A check ends on its own only by a panic.
            let stays = wanted.contains_key(id) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, endpoint) in wanted {
            if !self.running.contains_key(&id) {
                let watched = CheckedEndpoint {
                    service: service.name.clone(),
                    endpoint: endpoint.clone(),
                    check: check.clone(),
                    board: service.cluster.board().clone(),
                    shared: shared.clone(),
                };
                let task = self.tasks.spawn(watched.run());
                self.running.insert(id, (endpoint, task));
            }
        }
    }
}

/// What one check task needs.
struct CheckedEndpoint {
    service: Box<str>,
    endpoint: Arc<Endpoint>,
    check: Arc<Check>,
    board: Arc<Board>,
    shared: Arc<Shared>,
}

impl CheckedEndpoint {
    /// Checks at once, then at the interval, until aborted.
    async fn run(self) {
        self.check_once().await;
        // A part of the interval only: endpoints that start together are spread over it.
        sleep(varied(self.check.interval(&self.endpoint), 0.2, 1.0)).await;
        loop {
            self.check_once().await;
            sleep(varied(self.check.interval(&self.endpoint), 0.9, 1.1)).await;
        }
    }

    async fn check_once(&self) {
        // The semaphore is never closed.
        let _permit = self.shared.checks.acquire().await;
        let started = std::time::Instant::now();
        let result = self.check.run(&self.shared.prober, &self.endpoint).await;
        let reason = result.as_ref().err().cloned();
        let changed = self.endpoint.observe(result, started.elapsed(), self.check.thresholds);
        let reached = reason.is_none() && judge::proved_reachable(&self.service, &self.endpoint, std::time::Instant::now());
        let proved = reason.is_none() && self.endpoint.prove() && self.check.initial == Initial::Unhealthy;
        if changed.is_some() || reached || proved {
            self.board.publish();
        }
        if let Some(healthy) = changed {
            self.board.count_health(healthy);
            self.tell(healthy, reason.as_deref());
        }
    }

    fn tell(&self, healthy: bool, reason: Option<&str>) {
        let (service, address) = (&*self.service, self.endpoint.address());
        if healthy {
            info!("service `{service}`: the endpoint {address} is healthy again");
        } else {
            warn!("service `{service}`: the endpoint {address} is unhealthy: {}", reason.unwrap_or("unknown"));
        }
        match self.board.standing() {
            Some(Standing { available: 0, all }) if !healthy => {
                let why = reason.unwrap_or("unknown");
                error!(
                    "service `{service}`: 0 of {all} endpoints left, requests are answered 503; of the last one, {address}: {why}"
                );
            }
            Some(Standing { available: 1, all }) if healthy && all > 0 => {
                info!("service `{service}`: 1 of {all} endpoints serves again");
            }
            _ => {}
        }
        (self.shared.observer)(&HealthChange { service, address, healthy, reason });
    }
}

/// `period` times something random between `least` and `most`.
fn varied(period: Duration, least: f64, most: f64) -> Duration {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    // Keyed at random for every process, which is all that is needed to keep gateways from asking in step.
    let drawn = ahash::RandomState::new().hash_one(DRAWN.fetch_add(1, Ordering::Relaxed));
    let share = (drawn >> 11) as f64 / (1u64 << 53) as f64;
    period.mul_f64(least + share * (most - least))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
