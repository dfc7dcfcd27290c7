//! One thread's connection: opened when it is needed, shared by all calls of the thread, opened again when it broke.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::counts::Counts;
use super::{MOST_WAITING, Unavailable};

/// What to connect to.
pub(super) struct Target {
    /// The nodes' addresses, for people.
    pub name: Box<str>,
    pub client: TargetClient,
    pub connect_timeout: Duration,
}

pub(super) enum TargetClient {
    /// `tls`: opening a connection reads the system's certificate authorities, which takes a thread of its own.
    Alone {
        client: Box<Client>,
        tls: bool,
    },
    Cluster(Box<ClusterClient>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Target {
    pub fn is_cluster(&self) -> bool {
        matches!(self.client, TargetClient::Cluster(_))
    }

    /// A new connection, driven by the event loop that this runs on.
    async fn open(&self) -> RedisResult<Connection> {
        match &self.client {
            TargetClient::Alone { client, tls } => {
                // Deadlines are the caller's.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(self.connect_timeout))
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(MOST_WAITING);
                if !tls {
                    return Ok(Connection::Alone(client.get_multiplexed_async_connection_with_config(&config).await?));
                }
                let (client, here) = (client.clone(), tokio::runtime::Handle::current());
                let opening = move || here.block_on(client.get_multiplexed_async_connection_with_config(&config));
                let opened =
                    tokio::task::spawn_blocking(opening).await.map_err(|_| RedisError::from((ErrorKind::Client, "no thread")))?;
                Ok(Connection::Alone(opened?))
            }
            TargetClient::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}

#[derive(Clone)]
enum Connection {
    Alone(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::Alone(connection) => command.query_async(connection).await,
            Connection::Cluster(connection) => command.query_async(connection).await,
        }
    }
}

enum State {
    Closed,
    /// Ends when the attempt is over.
    Opening(watch::Receiver<()>),
    Open {
        number: u64,
        connection: Connection,
    },
}

pub(super) struct Link {
    target: Arc<Target>,
    counts: Arc<Counts>,
    state: Mutex<State>,
    /// Connections opened so far.
    opened: AtomicU64,
    /// Attempts that failed in a row.
    failed: AtomicU32,
    waiting: AtomicUsize,
}

impl Link {
    pub fn new(target: Arc<Target>, counts: Arc<Counts>) -> Self {
        Link {
            target,
            counts,
            state: Mutex::new(State::Closed),
            opened: AtomicU64::new(0),
            failed: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Sends one command and waits for its answer, for as long as that takes. `text`: the command to send where Redis does not know the
    /// script of the first. Dropped before it ends, it leaves nothing behind but a command that may run.
    pub async fn ask(
        self: &Arc<Self>,
        command: &Cmd,
        text: Option<&(dyn Fn() -> Cmd + Send + Sync)>,
    ) -> Result<Value, Unavailable> {
        let _place = Place::take(&self.waiting).ok_or(Unavailable::Overloaded)?;
        let (number, mut connection) = self.connection().await?;
        match ask(&mut connection, command, text).await {
            Ok(value) => return Ok(value),
            Err(error) if !is_lost(&error) => return Err(refusal(&error)),
            // A Cluster's connection mends itself, node by node.
            Err(_) if matches!(connection, Connection::Cluster(_)) => return Err(Unavailable::Connection),
            Err(_) => self.lost(number),
        }
        // Most likely it broke while nobody used it: Redis was restarted, or closed what was idle.
        let (number, mut connection) = self.connection().await?;
        ask(&mut connection, command, text).await.map_err(|error| {
            if is_lost(&error) {
                self.lost(number);
                return Unavailable::Connection;
            }
            refusal(&error)
        })
    }

    /// Begins to open the connection, if it is not open.
    pub fn open(self: &Arc<Self>) {
        self.opening();
    }

    /// Whether an attempt to open it has ended.
    pub fn was_tried(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0 || self.failed.load(Ordering::Relaxed) > 0
    }

    /// Waits until it is open, or the attempt to open it is over.
    pub async fn connected(self: &Arc<Self>) {
        if let Some(mut opening) = self.opening() {
            // Ends with an error once the attempt is over: nothing is ever sent.
            let _ = opening.changed().await;
        }
    }

    async fn connection(self: &Arc<Self>) -> Result<(u64, Connection), Unavailable> {
        self.connected().await;
        match &*self.state.lock() {
            State::Open { number, connection } => Ok((*number, connection.clone())),
            _ => Err(Unavailable::Connection),
        }
    }

    /// The attempt under way, a new one if there is none; `None` if the connection is open.
    fn opening(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut state = self.state.lock();
        match &*state {
            State::Open { .. } => return None,
            // An attempt ends without a result if its event loop does.
            State::Opening(attempt) if attempt.has_changed().is_ok() => return Some(attempt.clone()),
            State::Opening(_) | State::Closed => {}
        }
        let (over, attempt) = watch::channel(());
        *state = State::Opening(attempt.clone());
        let link = self.clone();
        tokio::spawn(async move {
            let opened = tokio::time::timeout(link.target.connect_timeout, link.target.open()).await;
            link.finish(opened.unwrap_or_else(|_| Err(RedisError::from((ErrorKind::Io, "no connection in time")))));
            drop(over);
        });
        Some(attempt)
    }

    fn finish(&self, opened: RedisResult<Connection>) {
        let state = match opened {
            Ok(connection) => {
                self.failed.store(0, Ordering::Relaxed);
                self.counts.connected();
                State::Open { number: self.opened.fetch_add(1, Ordering::Relaxed), connection }
            }
            Err(error) => {
                // The first failure, and then fewer and fewer.
                if self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1).is_power_of_two() {
                    log::warn!("cannot connect to Redis ({}): {error}", self.target);
                }
                State::Closed
            }
        };
        *self.state.lock() = state;
    }

    /// Gives up the connection of that number, unless a newer one has taken its place.
    fn lost(&self, lost: u64) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Open { number, .. } if *number == lost) {
            *state = State::Closed;
            self.counts.disconnected();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if matches!(self.state.get_mut(), State::Open { .. }) {
            self.counts.disconnected();
        }
    }
}

async fn ask(connection: &mut Connection, command: &Cmd, text: Option<&(dyn Fn() -> Cmd + Send + Sync)>) -> RedisResult<Value> {
    let asked = connection.ask(command).await;
    match (asked, text) {
        (Err(error), Some(text)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => connection.ask(&text()).await,
        (asked, _) => asked,
    }
}

/// Whether the connection is of no more use, rather than the command.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || matches!(error.kind(), ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound)
}

fn refusal(error: &RedisError) -> Unavailable {
    Unavailable::Refused(error.code().unwrap_or("ERR").into())
}

/// One of the calls that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
