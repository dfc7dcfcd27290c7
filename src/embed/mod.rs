//! The gateway on a stock Pingora server: [`Gateway`] is a [`ProxyHttp`](pingora_proxy::ProxyHttp) like any other.
//!
//! It reads the same file as `portcullis run`, and a request passes the same steps, with the same refusals, log line and metrics. What
//! belongs to the door (accepting, reading heads off the wire, TLS) is Pingora's here, and so is the way to the service. What that
//! lacks beside our own is in `docs/embed.md`.
//!
//! | file | what it is for |
//! |---|---|
//! | `hooks` | `ProxyHttp`, as a table of contents |
//! | `ctx` | what the hooks of one request share, and both ends of it |
//! | `arrival` | a request as Pingora read it, made the one that policies see |
//! | `body` | bodies that policies read whole, and their bounds |
//! | `reply` | answers of the gateway's own |
//! | `staged` | stages that work on an answer's body |
//! | `tls` | Pingora's TLS, with our listeners' settings |
//! | [`engine`] | `server: { engine: pingora }`: all of it, from our own binary |

mod arrival;
mod body;
mod ctx;
pub mod engine;
mod hooks;
mod reply;
mod staged;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::admin::{self, Refused, ReloadRequest, Reloaded};
use crate::config::Source;
use crate::core::{Core, WorkerState};
use crate::ledger::Ledger;
use crate::limits::book::Book;
use crate::observe::AccessLog;
use crate::serve::{Failure, PidFile};
use crate::snapshot::{self, ActiveListener, Snapshot, Surroundings};
use crate::stripe::Striped;
use crate::upstream::Watchers;
use crate::upstream::call::{Caller, SWEEP};

/// A gateway, ready to be mounted: `http_proxy_service(&server.configuration, gateway.clone())`.
///
/// Clones are handles to one gateway. It is made once for the process and stays for its life: its cache and its counters are never freed.
/// It has threads of its own (health checks, the access log), so make it after the process has forked, if it does that.
#[derive(Clone)]
pub struct Gateway(Arc<Mounted>);

struct Mounted {
    path: PathBuf,
    around: Surroundings,
    core: &'static Arc<Core>,
    /// For policies that ask services. What clients ask goes through Pingora's own connections.
    caller: Arc<Caller>,
    /// What requests see, a part for each thread.
    views: Striped<Option<Arc<ArcSwap<WorkerState>>>>,
    watchers: Watchers,
    background: Handle,
    /// Held while a generation is made: they come one after another.
    reloading: Mutex<()>,
    admin: Mutex<Option<AbortHandle>>,
    /// What our own engine started the server with. `None` where it is somebody else's.
    fixed: OnceLock<engine::Fixed>,
    pid_file: Mutex<Option<PidFile>>,
    _stop: oneshot::Sender<()>,
}

impl Gateway {
    /// Reads and compiles a configuration file, and starts what runs beside requests: health checks, DNS, the access log. Nothing
    /// listens: which addresses are served, the server that it is mounted on says.
    ///
    /// # Errors
    /// [`Failure::Config`] with every problem of the file, for a person to read; or what the system did not give.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Gateway, Failure> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| Failure::Io(what, error)
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed("no event loop"))?;
        let background = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("gateway".to_owned());
        let beside = thread.spawn(move || {
            // An error means that the sender was dropped, which is how it is told to stop.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        beside.map_err(failed("no thread"))?;
        let around = Surroundings {
            ledger: Arc::new(Ledger::default()),
            metrics: snapshot::metrics(),
            background: Some(background.clone()),
        };
        let path = path.as_ref().to_owned();
        let (source, snapshot) = load(&path, &around, 1);
        let Some(snapshot) = snapshot else { return Err(Failure::Config(source.report(false))) };
        source.lines().iter().for_each(|line| log::warn!("{line}"));
        let access_log = AccessLog::start().map_err(failed("cannot start the access log"))?;
        access_log.apply(&snapshot.access_log).map_err(failed("cannot open the access log"))?;
        around.metrics.watch_access_log(access_log.stats());
        let workers = threads(&snapshot);
        let core: &'static Arc<Core> = Box::leak(Box::new(Core::new(snapshot, &around, access_log, workers)));
        background.spawn(Core::follow_purges(core.clone()));
        let caller = Arc::new(Caller::default());
        let swept = Arc::downgrade(&caller);
        background.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(caller) = swept.upgrade() else { return };
                caller.sweep();
            }
        });
        let watchers = Watchers::new().map_err(failed("cannot start the health checks"))?;
        let gateway = Gateway(Arc::new(Mounted {
            path,
            around,
            core,
            caller: caller.clone(),
            views: Striped::new(|stripe| core.snapshot.view(stripe % workers)),
            watchers,
            background,
            reloading: Mutex::new(()),
            admin: Mutex::default(),
            fixed: OnceLock::new(),
            pid_file: Mutex::default(),
            _stop: stop,
        }));
        gateway.watch_services();
        gateway.warm();
        core.metrics.reload_applied(1);
        Ok(gateway)
    }

    /// Loads the file again, and puts it in force for the requests that begin from now on: all of it, or nothing. Blocks, for files are
    /// read and names resolved. Addresses are the server's: a listener that is new in the file is served once the server listens there.
    ///
    /// # Errors
    /// Every problem, on a line of its own; the old generation goes on serving.
    pub fn reload(&self) -> Result<Reloaded, Refused> {
        let _one = self.0.reloading.lock();
        let core = self.core();
        let outcome = self.load_and_swap();
        match &outcome {
            Ok(done) => {
                core.metrics.reload_applied(done.generation);
                done.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                log::info!("reload: generation {} serves", done.generation);
            }
            Err(problems) => {
                core.metrics.reload_refused();
                problems.iter().for_each(|problem| log::error!("{problem}"));
                log::error!("reload: the configuration was refused; the old one goes on serving");
            }
        }
        outcome
    }

    fn load_and_swap(&self) -> Result<Reloaded, Refused> {
        let core = self.core();
        let generation = core.snapshot.load().generation + 1;
        let (source, snapshot) = load(&self.0.path, &self.0.around, generation);
        let mut warnings = source.lines();
        let Some(snapshot) = snapshot else { return Err(warnings) };
        if let Some(fixed) = self.0.fixed.get() {
            warnings.extend(fixed.held_against(&snapshot)?);
        }
        core.access_log.reopen();
        if let Err(error) = core.access_log.apply(&snapshot.access_log) {
            return Err(vec![format!("cannot open the access log: {error}")]);
        }
        core.snapshot.store(snapshot);
        self.watch_services();
        self.warm();
        core.ledger.sweep();
        core.metrics.sweep();
        Ok(Reloaded { generation, warnings })
    }

    /// Serves the operator's API where the file says, beside the server. Nothing happens where the file turns it off.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn serve_admin(&self) -> Result<(), Failure> {
        let Some(address) = self.core().snapshot.load().admin else { return Ok(()) };
        let socket = listen(address).map_err(|error| Failure::Io(format!("cannot listen on {address} (admin)"), error))?;
        let (reload, mut reloads) = mpsc::channel::<ReloadRequest>(16);
        let router = admin::router(self.core().clone(), reload);
        // The socket is made Tokio's in there, which takes an event loop.
        let serving = self.0.background.spawn(admin::serve(socket, router));
        *self.0.admin.lock() = Some(serving.abort_handle());
        let gateway = self.clone();
        self.0.background.spawn(async move {
            while let Some(request) = reloads.recv().await {
                let gateway = gateway.clone();
                let reloaded = tokio::task::spawn_blocking(move || gateway.reload()).await;
                // An operator who hung up does not need the answer.
                let _ = request.answer.send(reloaded.unwrap_or_else(|error| Err(vec![error.to_string()])));
            }
        });
        Ok(())
    }

    /// Writes what still waits to be written: lines of the access log, and what was used of quotas. For the end of the process. `false`
    /// if the log took longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        Book::of(&self.core().ledger).save_and_say();
        self.core().access_log.flush(timeout)
    }

    fn core(&self) -> &'static Arc<Core> {
        self.0.core
    }

    fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// What a request of this thread sees.
    fn view(&self) -> Option<Arc<WorkerState>> {
        Some(self.0.views.mine()?.as_ref()?.load_full())
    }

    /// The listener whose word counts for connections to this address: the one that is bound to it, or to its port on every address. With
    /// but one listener, where that one is meant to listen is for the server to say.
    fn door<'a>(&self, snapshot: &'a Snapshot, local: SocketAddr) -> Option<&'a Arc<ActiveListener>> {
        let everywhere = |door: &&Arc<ActiveListener>| door.bind.ip().is_unspecified() && door.bind.port() == local.port();
        let only = || Some(&snapshot.doors).filter(|doors| doors.len() == 1 && self.0.fixed.get().is_none())?.first();
        snapshot.door(&local).or_else(|| snapshot.doors.iter().find(everywhere)).or_else(only)
    }

    fn watch_services(&self) {
        let services: Vec<_> = self.core().snapshot.load().services.values().cloned().collect();
        self.0.watchers.sync(&services);
    }

    /// Ahead of the first request, which would have to wait for it.
    fn warm(&self) {
        let _within = self.0.background.enter();
        if let Some(redis) = &self.core().snapshot.load().redis {
            redis.warm();
        }
    }
}

/// How many threads serve, where the file does not say so: one per core.
fn threads(snapshot: &Snapshot) -> usize {
    snapshot.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn load(path: &Path, around: &Surroundings, generation: u64) -> (Source, Option<Snapshot>) {
    let (mut source, document) = Source::read(path);
    let snapshot = document.and_then(|document| snapshot::compile(&document, &mut source, around, generation));
    (source, snapshot)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
