//! `server: { engine: pingora }`: the same file on a stock Pingora server, from our own binary. Its threads, its listeners, its TLS
//! handshakes, its way to the services, its shutdown and its upgrade. What of the file it cannot do is refused while the file is
//! compiled, and so by `check`.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{ExecutionPhase, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora_core::services::listening::Service;
use pingora_proxy::{HttpProxy, ProxyServiceBuilder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;

use super::{Gateway, threads};
use crate::config::{Engine, Source};
use crate::listen::tls::config::ClientAuthMode;
use crate::serve::{Failure, Options, PidFile};
use crate::snapshot::{ActiveListener, Snapshot};
use crate::wire::h2::{Room, options};

/// Idle connections kept to all services together.
const POOL: usize = 1024;
/// The most attempts that Pingora makes for one request, whatever the service says.
const MAX_ATTEMPTS: usize = 16;
/// How long nothing has to be under way before a process that shall end does.
const QUIET: Duration = Duration::from_millis(300);
/// How many seconds a process waits for the sockets of the one before it.
const PATIENCE: usize = 60;
const TICK: Duration = Duration::from_millis(50);
/// Where a process waits for the sockets of the one before it, unless the file says so.
const UPGRADE_SOCKET: &str = "portcullis-pingora.sock";

/// Whether the file at this path asks for this engine. What is wrong with it, whoever runs it will say.
pub fn is_wanted(path: &Path) -> bool {
    Source::read(path).1.is_some_and(|document| document.server.engine.value == Engine::Pingora)
}

/// Serves until a signal ends it. With `take_over`, the listening sockets come from the process that serves now, once that one gets
/// QUIT. `ready` is called once every listener accepts.
///
/// # Errors
/// Whatever keeps the process from starting.
pub fn run(options: &Options, take_over: bool, ready: impl FnOnce(&Snapshot) + Send + 'static) -> Result<(), Failure> {
    let gateway = Gateway::from_file(&options.config)?;
    let snapshot = gateway.core().snapshot.load_full();
    if !take_over {
        refuse_second(&snapshot, options.pid_file.as_deref())?;
    }
    let socket = snapshot.upgrade_socket.clone();
    let conf = ServerConf {
        threads: threads(&snapshot),
        upstream_keepalive_pool_size: POOL,
        max_retries: MAX_ATTEMPTS,
        grace_period_seconds: Some(snapshot.grace.as_secs().max(1)),
        graceful_shutdown_timeout_seconds: Some(1),
        upgrade_sock_connect_accept_max_retries: Some(PATIENCE),
        upgrade_sock: socket.unwrap_or_else(|| std::env::temp_dir().join(UPGRADE_SOCKET).to_string_lossy().into_owned()),
        ..ServerConf::default()
    };
    let signals = Signals { upgrade_socket: PathBuf::from(&conf.upgrade_sock) };
    let mut server = Server::new_with_opt_and_conf(Some(Opt { upgrade: take_over, ..Opt::default() }), conf);
    server.bootstrap();
    if take_over {
        // The sockets are here. Left behind, it would stand for a process that waits.
        let _ = std::fs::remove_file(&server.configuration.upgrade_sock);
    }
    let _ = gateway.0.fixed.set(Fixed::of(&snapshot));
    for service in services(&gateway, &snapshot, &server.configuration)? {
        server.add_service(service);
    }
    if !take_over {
        gateway.serve_admin()?;
    }
    let beside = gateway.clone();
    gateway.0.background.spawn(async move { reload_on_hangup(beside).await });
    let (beside, phases) = (gateway.clone(), server.watch_execution_phase());
    gateway.0.background.spawn(async move { end_early(beside, phases).await });
    let (beside, pid_file) = (gateway.clone(), options.pid_file.clone());
    let told = std::thread::Builder::new().name("ready".to_owned()).spawn(move || {
        until_serving(&beside, pid_file, take_over, &snapshot, ready);
    });
    told.map_err(|error| Failure::Io("no thread".to_owned(), error))?;
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    finish(&gateway);
    Ok(())
}

/// One service for the listeners that take HTTP/2 in clear text, and one for the others: with Pingora that is a service's to say.
fn services(gateway: &Gateway, snapshot: &Snapshot, conf: &Arc<ServerConf>) -> Result<Vec<Service<HttpProxy<Gateway>>>, Failure> {
    let mut services = Vec::new();
    for h2c in [false, true] {
        let doors: Vec<&Arc<ActiveListener>> = snapshot.doors.iter().filter(|door| door.h2c == h2c).collect();
        let Some(largest) = doors.iter().map(|door| door.head_limits.head).max() else { continue };
        let mut http = HttpServerOptions::default();
        http.h2c = h2c;
        http.h2_idle_timeout = doors.iter().map(|door| door.timeouts.keep_alive).max();
        let name = if h2c { "portcullis h2c" } else { "portcullis" };
        let mut service = ProxyServiceBuilder::new(conf, gateway.clone()).name(name).server_options(http).build();
        if let Some(proxy) = service.app_logic_mut() {
            proxy.h2_options = Some(options(largest, Room::default()));
        }
        for door in doors {
            let address = door.bind.to_string();
            match gateway.tls_settings(&door.name)? {
                Some(settings) => service.add_tls_with_settings(&address, None, settings),
                None => service.add_tcp(&address),
            }
        }
        services.push(service);
    }
    Ok(services)
}

/// What the server was started with, and no reload changes.
#[derive(PartialEq)]
pub struct Fixed(BTreeMap<SocketAddr, (bool, bool, Option<ClientAuthMode>)>);

impl Fixed {
    fn of(snapshot: &Snapshot) -> Fixed {
        let settings =
            |door: &ActiveListener| (door.h2c, door.tls.is_some(), door.tls.as_ref().and_then(|tls| tls.client_auth()));
        Fixed(snapshot.doors.iter().map(|door| (door.bind, settings(door))).collect())
    }

    /// What a next generation says of it.
    ///
    /// # Errors
    /// What would be served with less protection than the file then says.
    pub fn held_against(&self, next: &Snapshot) -> Result<Vec<String>, Vec<String>> {
        let next = Fixed::of(next);
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for (bind, settings) in &next.0 {
            match self.0.get(bind) {
                None => told.push(format!("listener `{bind}` is new; with `engine: pingora` it is served after the next start")),
                Some(known) if known != settings => {
                    refused.push(format!(
                        "listener `{bind}`: with `engine: pingora`, `tls`, `client_auth.mode` and `h2c` change by a restart"
                    ));
                }
                Some(_) => {}
            }
        }
        for bind in self.0.keys().filter(|bind| !next.0.contains_key(bind)) {
            told.push(format!(
                "listener `{bind}` is gone; with `engine: pingora` its address is closed at the next start, and serves nothing"
            ));
        }
        if refused.is_empty() { Ok(told) } else { Err(refused) }
    }
}

/// Pingora would bind in the middle of its start, and panic.
fn refuse_second(snapshot: &Snapshot, pid_file: Option<&Path>) -> Result<(), Failure> {
    for door in &snapshot.doors {
        let failed = |error| Failure::Io(format!("cannot listen on {}", door.bind), error);
        TcpListener::bind(door.bind).map(drop).map_err(failed)?;
    }
    match pid_file.map(|path| PidFile::check(path, None)) {
        Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::Io("another process is in the way".to_owned(), error))
        }
        _ => Ok(()),
    }
}

/// Waits until everything listens, then says so. After a take-over the process before may still hold the file and the operator's API.
fn until_serving(
    gateway: &Gateway,
    pid_file: Option<PathBuf>,
    take_over: bool,
    snapshot: &Snapshot,
    ready: impl FnOnce(&Snapshot),
) {
    let accepts = |door: &Arc<ActiveListener>| {
        let mut address = door.bind;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    };
    while !snapshot.doors.iter().all(accepts) {
        std::thread::sleep(TICK);
    }
    while take_over && gateway.serve_admin().is_err() {
        std::thread::sleep(TICK);
    }
    if let Some(path) = pid_file {
        loop {
            match PidFile::claim(&path, None) {
                Ok(file) => {
                    *gateway.0.pid_file.lock() = Some(file);
                    break;
                }
                Err(error) if take_over && error.kind() == io::ErrorKind::AlreadyExists => std::thread::sleep(TICK),
                Err(error) => {
                    log::error!("cannot write {}: {error}", path.display());
                    break;
                }
            }
        }
    }
    ready(snapshot);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Pingora leaves HUP to others; unheard, it would end the process.
async fn reload_on_hangup(gateway: Gateway) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return log::error!("HUP will not be heard: {error}"),
    };
    while hangups.recv().await.is_some() {
        let gateway = gateway.clone();
        // What came of it is in the log.
        let _ = tokio::task::spawn_blocking(move || gateway.reload()).await;
    }
}

/// Pingora waits for the whole grace, whatever is under way. Where nothing is any more, the process ends.
async fn end_early(gateway: Gateway, mut phases: broadcast::Receiver<ExecutionPhase>) {
    loop {
        match phases.recv().await {
            // The next process serves it from here on.
            Ok(ExecutionPhase::GracefulUpgradeCloseTimeout) => {
                if let Some(serving) = gateway.0.admin.lock().take() {
                    serving.abort();
                }
                *gateway.0.pid_file.lock() = None;
            }
            Ok(ExecutionPhase::ShutdownGracePeriod) => break,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        if gateway.core().metrics.in_flight() > 0 {
            quiet_since = Instant::now();
        }
        tokio::time::sleep(TICK).await;
    }
    let _ = tokio::task::spawn_blocking(move || {
        finish(&gateway);
        std::process::exit(0);
    })
    .await;
}

fn finish(gateway: &Gateway) {
    gateway.flush(Duration::from_secs(5));
    gateway.core().cache.close_disk();
    *gateway.0.pid_file.lock() = None;
}

/// TERM, INT and QUIT, as Pingora takes them, but for a QUIT that nobody has asked the sockets for: Pingora would end the process, and
/// with it the service.
struct Signals {
    upgrade_socket: PathBuf,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut quit), Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::quit()), signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            log::error!("no signal handlers");
            return ShutdownSignal::FastShutdown;
        };
        loop {
            tokio::select! {
                _ = quit.recv() => {
                    let waits = std::fs::metadata(&self.upgrade_socket).is_ok_and(|facts| facts.file_type().is_socket());
                    if waits {
                        return ShutdownSignal::GracefulUpgrade;
                    }
                    log::error!("QUIT is not obeyed: no process of `run --take-over` waits at {}", self.upgrade_socket.display());
                }
                _ = term.recv() => return ShutdownSignal::GracefulTerminate,
                _ = int.recv() => return ShutdownSignal::FastShutdown,
            }
        }
    }
}
