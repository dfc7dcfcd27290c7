//! One worker per core: a thread with an event loop and connections to services of its own. Nothing is shared on the hot path but
//! what [`Core`](crate::core::Core) holds, and connections never move from one worker to another.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::connection;
use crate::core::{Core, WorkerState};
use crate::listen::connections::ConnectionTable;
use crate::upstream::call::{Caller, SWEEP, Warmer};
use crate::wait::pinned;

/// How soon an endpoint that is new or has come back is noticed.
const WARM: Duration = Duration::from_secs(1);
/// How long those have to say goodbye who are cut off when the grace is over.
pub const FAREWELL: Duration = Duration::from_secs(1);
pub struct Worker {
    pub core: Arc<Core>,
    /// What this worker's requests see.
    pub view: Arc<ArcSwap<WorkerState>>,
    /// This worker's open connections.
    pub connections: Arc<ConnectionTable>,
    /// Calls services.
    pub caller: Arc<Caller>,
}

/// What the main thread asks of a worker.
pub enum Command {
    /// Accept from this socket for the listener bound to this address.
    Listen(SocketAddr, TcpListener),
    /// Stop accepting for this address, after what already waits in the socket was accepted.
    Close(SocketAddr, oneshot::Sender<()>),
}

/// A running worker, from outside.
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

impl Handle {
    pub fn send(&self, command: Command) {
        // A worker that is gone takes the process with it; nobody waits for an answer then.
        let _ = self.commands.send(command);
    }

    /// Whether the thread has ended, as it does once the process drains and its last connection is closed.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a worker's thread.
///
/// # Errors
/// No thread or no event loop can be made.
pub fn start(core: Arc<Core>, number: usize) -> io::Result<Handle> {
    let (commands, orders) = mpsc::unbounded_channel();
    let of_its_own = core.connections.get(number).cloned().zip(core.snapshot.view(number));
    let (table, view) = of_its_own.ok_or_else(|| io::Error::other("more workers than tables"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        runtime.block_on(run(core, view, table, orders));
    })?;
    Ok(Handle { commands, thread })
}

async fn run(
    core: Arc<Core>,
    view: Arc<ArcSwap<WorkerState>>,
    table: Arc<ConnectionTable>,
    mut orders: mpsc::UnboundedReceiver<Command>,
) {
    let worker = Arc::new(Worker { core, view, connections: table, caller: Caller::listed() });
    // Every connection's task holds a sender: the receiver ends when the last one is gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    // Ahead of the first request, which would have to wait for it.
    if let Some(redis) = &worker.core.snapshot.load().redis {
        redis.warm();
    }
    let sweeping = tokio::spawn(sweep(worker.clone()));
    let ahead = worker.clone();
    tokio::spawn(async move {
        if ahead.core.snapshot.load().services.values().any(|service| service.is_tls()) {
            ahead.core.tls.warm().await;
        }
    });
    let cache = worker.core.cache;
    let warming = [tokio::spawn(keep_warm(worker.clone())), tokio::spawn(cache.keep_warm())];
    let mut loops: HashMap<SocketAddr, Vec<oneshot::Sender<oneshot::Sender<()>>>> = HashMap::new();
    loop {
        tokio::select! {
            // Orders first: a socket that was bound before the process began to drain may have connections waiting.
            biased;
            order = orders.recv() => match order {
                Some(Command::Listen(bind, socket)) => match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => {
                        let (stop, stopped) = oneshot::channel();
                        loops.entry(bind).or_default().push(stop);
                        tokio::spawn(accept(worker.clone(), bind, socket, stopped, alive.clone()));
                    }
                    Err(error) => log::error!("cannot listen on {bind}: {error}"),
                },
                Some(Command::Close(bind, done)) => {
                    for stop in loops.remove(&bind).unwrap_or_default() {
                        let (closed, wait) = oneshot::channel();
                        if stop.send(closed).is_ok() {
                            let _ = wait.await;
                        }
                    }
                    let _ = done.send(());
                }
                None => break,
            },
            // Not `changed`: the process may have begun to drain before this worker ran.
            () = worker.core.drain.begins() => break,
        }
    }
    warming.iter().for_each(|task| task.abort());
    for stop in loops.into_values().flatten() {
        let (closed, wait) = oneshot::channel();
        if stop.send(closed).is_ok() {
            let _ = wait.await;
        }
    }
    drop(alive);
    let mut over = worker.core.drain.end_watch();
    tokio::select! {
        _ = all_gone.recv() => {}
        _ = over.wait_for(|over| *over) => {
            // With the runtime all tasks are dropped, and every request leaves its line.
            let _ = tokio::time::timeout(FAREWELL, all_gone.recv()).await;
            return;
        }
    }
    sweeping.abort();
}

async fn sweep(worker: Arc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        worker.caller.sweep();
        worker.view.load().snapshot.services.values().for_each(|service| service.sweep());
    }
}

/// Makes connections ahead of requests, where a service wants some.
async fn keep_warm(worker: Arc<Worker>) {
    let mut warmer = Warmer::default();
    loop {
        let generation = worker.core.snapshot.generation();
        let services: Vec<_> = worker.view.load().snapshot.services.values().cloned().collect();
        let passes = worker.core.snapshot.passes(generation);
        let wanted = warmer.turn(&worker.caller, &services, &worker.core.tls, passes).await;
        // Held while waiting, they would keep a generation that has passed.
        drop(services);
        tokio::select! {
            () = worker.core.snapshot.passes(generation) => {}
            () = tokio::time::sleep(WARM), if wanted => {}
        }
    }
}

async fn accept(
    worker: Arc<Worker>,
    bind: SocketAddr,
    socket: tokio::net::TcpListener,
    mut stop: oneshot::Receiver<oneshot::Sender<()>>,
    alive: mpsc::Sender<()>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            // Only once nothing waits to be accepted: a connection in the queue of a socket that closes is reset.
            closed = &mut stop => {
                drop(socket);
                if let Ok(closed) = closed {
                    let _ = closed.send(());
                }
                return;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                worker.connections.accept();
                let Some(door) = worker.view.load().snapshot.door(&bind).cloned() else { continue };
                let (worker, alive) = (worker.clone(), alive.clone());
                // Boxed: spawning moves a future several times, and its end is written over it.
                tokio::spawn(pinned(|| async move {
                    connection::serve(worker, door, stream, peer).await;
                    drop(alive);
                }));
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                log::warn!("cannot accept on {bind}: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
