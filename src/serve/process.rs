//! A process from start to end.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::claim::Claimed;
use super::pid_file::PidFile;
use super::signals::{Order, Signals};
use super::sockets::{Inherited, Sockets};
use super::worker::{self, Command, Handle};
use crate::admin::{self, Refused, ReloadRequest, Reloaded};
use crate::cache::disk;
use crate::config::Source;
use crate::core::Core;
use crate::ledger::Ledger;
use crate::limits::book::Book;
use crate::observe::AccessLog;
use crate::snapshot::{self, Snapshot, Surroundings};
use crate::successor;
use crate::upstream::Watchers;

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Options {
    pub config: PathBuf,
    /// Written once the process serves, removed when it ends.
    pub pid_file: Option<PathBuf>,
}

/// Why a process ended, or did not start.
#[derive(Debug)]
pub enum Failure {
    /// The configuration was refused; the report says why.
    Config(String),
    Io(String, io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Config(report) => f.write_str(report),
            Failure::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

pub(super) fn io_failure(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::Io(what, error)
}

/// Serves until a signal ends it. `ready` is called once every listener accepts.
///
/// # Errors
/// Whatever keeps the process from starting.
pub fn run(options: Options, ready: impl FnOnce(&Core)) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_failure("no event loop"))?;
    runtime.block_on(async {
        // Signals first: one that arrives during start-up waits instead of killing.
        let signals = Signals::new().map_err(io_failure("no signal handlers"))?;
        let mut process = Process::start(options).await?;
        ready(&process.core);
        process.serve(signals).await;
        Ok(())
    })
}

struct Process {
    options: Options,
    core: Arc<Core>,
    around: Surroundings,
    workers: Vec<Handle>,
    watchers: Watchers,
    sockets: Sockets,
    pid_file: Option<PidFile>,
    reloads: mpsc::Receiver<ReloadRequest>,
    admin: Option<AbortHandle>,
    fixed: Fixed,
}

/// What was configured when the process started and no reload changes.
struct Fixed {
    admin: Option<SocketAddr>,
    workers: Option<usize>,
    cache_memory: usize,
    cache_disk: Option<Box<disk::Settings>>,
}

impl Fixed {
    fn of(snapshot: &Snapshot) -> Self {
        Fixed {
            admin: snapshot.admin,
            workers: snapshot.workers,
            cache_memory: snapshot.cache_memory,
            cache_disk: snapshot.cache_disk.clone(),
        }
    }
}

enum End {
    /// Let the work under way finish; the service ends.
    Drain,
    /// Let the work under way finish; the successor goes on with the service.
    HandedOver,
    Now,
}

impl Process {
    async fn start(options: Options) -> Result<Self, Failure> {
        let around = Surroundings {
            ledger: Arc::new(Ledger::default()),
            metrics: snapshot::metrics(),
            background: Some(tokio::runtime::Handle::current()),
        };
        let (source, snapshot) = load(options.config.clone(), around.clone(), 1).await.map_err(io_failure("cannot compile"))?;
        let Some(snapshot) = snapshot else { return Err(Failure::Config(source.report(false))) };
        for line in source.lines() {
            log::warn!("{line}");
        }
        let mut handover = successor::Inheritance::receive().map_err(io_failure("cannot take over from the process before"))?;
        let mut inherited = Inherited::new(handover.take_sockets());
        let before = handover.before();
        let workers = snapshot.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let claimed = Claimed::alone(&snapshot, workers, &mut inherited, options.pid_file.as_deref(), before).await?;
        let Claimed { sockets, to_listen, admin } = claimed;
        let access_log = AccessLog::start().map_err(io_failure("cannot start the access log"))?;
        access_log.apply(&snapshot.access_log).map_err(io_failure("cannot open the access log"))?;
        around.metrics.watch_access_log(access_log.stats());
        let fixed = Fixed::of(&snapshot);
        let core = Core::new(snapshot, &around, access_log, workers);
        let (reload, reloads) = mpsc::channel(16);
        let serving_admin = admin.map(|socket| {
            let serving = tokio::spawn(admin::serve(socket, admin::router(core.clone(), reload)));
            serving.abort_handle()
        });
        tokio::spawn(Core::follow_purges(core.clone()));
        let handles = (0..workers).map(|number| worker::start(core.clone(), number)).collect::<io::Result<Vec<_>>>();
        let mut process = Process {
            options,
            pid_file: None,
            watchers: Watchers::new().map_err(io_failure("cannot start the health checks"))?,
            core,
            around,
            workers: handles.map_err(io_failure("cannot start a worker"))?,
            sockets,
            reloads,
            admin: serving_admin,
            fixed,
        };
        process.watch_services();
        for (bind, opened) in to_listen {
            process.listen(bind, opened);
        }
        process.core.metrics.reload_applied(1);
        process.write_pid_file(before)?;
        handover.acknowledge();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(process)
    }

    fn listen(&self, bind: SocketAddr, sockets: Vec<TcpListener>) {
        for (socket, worker) in sockets.into_iter().zip(self.workers.iter().cycle()) {
            worker.send(Command::Listen(bind, socket));
        }
    }

    fn watch_services(&self) {
        let snapshot = self.core.snapshot.load();
        let services: Vec<_> = snapshot.services.values().cloned().collect();
        self.watchers.sync(&services);
    }

    async fn serve(&mut self, mut signals: Signals) {
        let end = loop {
            tokio::select! {
                order = signals.next() => match order {
                    Order::Reload => self.reload_and_say().await,
                    Order::Upgrade => if self.upgrade().await { break End::HandedOver },
                    Order::Stop => break End::Drain,
                    Order::Abort => break End::Now,
                },
                Some(request) = self.reloads.recv() => {
                    let outcome = self.reload(&format!("the admin API{}", request.by)).await;
                    // An operator who hung up does not need the answer.
                    let _ = request.answer.send(outcome);
                }
            }
        };
        if matches!(end, End::Drain) {
            // Not after a hand-over: systemd would take it for the end of the whole service, and end the successor too.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        if matches!(end, End::HandedOver) {
            // The successor waits for it.
            let cache = self.core.cache;
            tokio::task::spawn_blocking(move || cache.close_disk());
        }
        if !matches!(end, End::Now) {
            self.drain(&mut signals).await;
            let cache = self.core.cache;
            // What waits to be written is lost if this is not done, and nothing else.
            let _ = tokio::task::spawn_blocking(move || cache.close_disk()).await;
        }
        self.core.access_log.flush(Duration::from_secs(5));
        self.save_quotas().await;
    }

    async fn save_quotas(&self) {
        let book = Book::of(&self.core.ledger);
        // What cannot be written now was said, and is tried again as long as the process lives.
        let _ = tokio::task::spawn_blocking(move || book.save_and_say()).await;
    }

    async fn reload_and_say(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        self.core.access_log.reopen();
        // What came of it is in the log.
        let _ = self.reload("SIGHUP").await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Loads the configuration again. All of it takes effect, or nothing. Whoever asks for it, the log says who and what came of it.
    async fn reload(&mut self, origin: &str) -> Result<Reloaded, Refused> {
        let outcome = self.load_and_swap().await;
        match &outcome {
            Ok(done) => {
                self.core.metrics.reload_applied(done.generation);
                done.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                log::info!("reload by {origin}: generation {} serves", done.generation);
            }
            Err(problems) => {
                self.core.metrics.reload_refused();
                problems.iter().for_each(|problem| log::error!("{problem}"));
                log::error!("reload by {origin}: the configuration was refused; the old one goes on serving");
            }
        }
        outcome
    }

    async fn load_and_swap(&mut self) -> Result<Reloaded, Refused> {
        let current = self.core.snapshot.load_full();
        let generation = current.generation + 1;
        let loaded = load(self.options.config.clone(), self.around.clone(), generation).await;
        let (source, snapshot) = loaded.map_err(|error| vec![error.to_string()])?;
        let lines = source.lines();
        let Some(snapshot) = snapshot else { return Err(lines) };
        let mut warnings = lines;
        warnings.extend(needs_upgrade(&self.fixed, &Fixed::of(&snapshot)));
        let before: BTreeSet<SocketAddr> = current.doors.iter().map(|door| door.bind).collect();
        let after: BTreeSet<SocketAddr> = snapshot.doors.iter().map(|door| door.bind).collect();
        let opened = self.open_all(after.difference(&before).copied())?;
        if let Err(error) = self.core.access_log.apply(&snapshot.access_log) {
            for (bind, _) in &opened {
                self.sockets.close(bind);
            }
            return Err(vec![format!("cannot open the access log: {error}")]);
        }
        for bind in before.difference(&after) {
            self.close(*bind).await;
        }
        self.core.snapshot.store(snapshot);
        for (bind, sockets) in opened {
            self.listen(bind, sockets);
        }
        self.watch_services();
        self.core.ledger.sweep();
        self.core.metrics.sweep();
        Ok(Reloaded { generation, warnings })
    }

    /// Opens every new address, or none of them.
    fn open_all(&mut self, binds: impl Iterator<Item = SocketAddr>) -> Result<Vec<(SocketAddr, Vec<TcpListener>)>, Refused> {
        let mut opened = Vec::new();
        for bind in binds {
            let free = self.sockets.check_free(bind, &Inherited::default(), None);
            match free.and_then(|()| self.sockets.open(bind, self.workers.len(), &mut Inherited::default())) {
                Ok(sockets) => opened.push((bind, sockets)),
                Err(error) => {
                    for (bind, _) in &opened {
                        self.sockets.close(bind);
                    }
                    return Err(vec![format!("cannot listen on {bind}: {error}")]);
                }
            }
        }
        Ok(opened)
    }

    async fn close(&mut self, bind: SocketAddr) {
        // First, so that a worker's socket is closed in the moment in which nothing waits in it, and not later.
        self.sockets.close(&bind);
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            worker.send(Command::Close(bind, done));
            let _ = wait.await;
        }
    }

    /// Starts the binary anew and hands it the sockets. Whether it took over; if not, this process goes on.
    async fn upgrade(&mut self) -> bool {
        let snapshot = self.core.snapshot.load_full();
        // The successor reads them before it serves.
        self.save_quotas().await;
        let handed = successor::hand_over(&self.sockets.to_hand_over(), snapshot.upgrade_socket.as_deref()).await;
        match handed {
            Ok(pid) => {
                log::info!("process {pid} has taken over");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]);
                // The file is the successor's now, and so is the operator's API: whoever asks it means the process that serves.
                self.pid_file = None;
                self.options.pid_file = None;
                if let Some(admin) = self.admin.take() {
                    admin.abort();
                }
                true
            }
            Err(error) => {
                log::error!("the upgrade failed, and this process goes on serving: {error}");
                // Anew, so that `portcullis upgrade` sees that nothing more is coming, and in case the successor got as far as writing it.
                if let Err(error) = self.write_pid_file(None) {
                    log::error!("{error}");
                }
                false
            }
        }
    }

    /// Stops accepting and waits until the work under way is done, or the grace period is over, or a second signal comes.
    async fn drain(&mut self, signals: &mut Signals) {
        let grace = self.core.snapshot.load().grace;
        self.core.drain.begin();
        // The workers close theirs, and an address is closed with its last copy: until then the kernel lets clients in whom nobody
        // will ever accept.
        self.sockets = Sockets::default();
        self.wait_for_workers(grace, signals).await;
        if self.workers.iter().all(Handle::is_finished) {
            return;
        }
        log::warn!("{} requests were still under way when the grace was over, and are cut off", self.core.in_flight.requests());
        // Each leaves its line in the access log, and a WebSocket is told.
        self.core.drain.end();
        self.wait_for_workers(worker::FAREWELL * 2, signals).await;
    }

    /// Waits until the workers are done, for so long at most, or until a second signal comes.
    async fn wait_for_workers(&self, limit: Duration, signals: &mut Signals) {
        let until = Instant::now() + limit;
        while Instant::now() < until && !self.workers.iter().all(Handle::is_finished) {
            tokio::select! {
                _ = tokio::time::sleep(Duration::from_millis(20)) => {}
                order = signals.next() => if matches!(order, Order::Abort | Order::Stop) { break },
            }
        }
    }

    /// One that cannot be written is no reason not to serve; one that is another's is.
    fn write_pid_file(&mut self, before: Option<u32>) -> Result<(), Failure> {
        let Some(path) = &self.options.pid_file else { return Ok(()) };
        match PidFile::claim(path, before) {
            Ok(file) => self.pid_file = Some(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(second(error)),
            Err(error) => log::error!("cannot write {}: {error}", path.display()),
        }
        Ok(())
    }
}

pub(super) fn second(error: io::Error) -> Failure {
    Failure::Io("another process is in the way".to_owned(), error)
}

/// Reads and compiles the file on a thread of its own: a large one takes a while, and the admin API answers meanwhile.
async fn load(path: PathBuf, around: Surroundings, generation: u64) -> io::Result<(Source, Option<Snapshot>)> {
    let loading = tokio::task::spawn_blocking(move || {
        let (mut source, document) = Source::read(&path);
        let snapshot = document.and_then(|document| snapshot::compile(&document, &mut source, &around, generation));
        (source, snapshot)
    });
    loading.await.map_err(io::Error::other)
}

/// What a reload cannot change.
fn needs_upgrade(current: &Fixed, next: &Fixed) -> Vec<String> {
    let mut told = Vec::new();
    for (changed, what) in [
        (current.admin != next.admin, "admin.bind"),
        (current.workers != next.workers, "server.workers"),
        (current.cache_memory != next.cache_memory, "server.cache_memory"),
        (current.cache_disk != next.cache_disk, "server.cache_disk"),
    ] {
        if changed {
            told.push(format!("`{what}` has changed; it takes effect at the next upgrade or restart"));
        }
    }
    told
}
