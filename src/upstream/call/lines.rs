//! HTTP/2 connections to endpoints: shared by many exchanges, so that the connections of one worker are where its calls find them, and not
//! where calls bring them back to.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::Request;
use parking_lot::Mutex;
use pingora_core::protocols::{ALPN, Stream as Transport};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::AbortHandle;

use super::pool::Key;
use crate::address::EndpointAddress;
use crate::upstream::{Service, TlsConnector};
use crate::wait::Alarm;
use crate::wire::turn::InTurns;

/// How many requests share one connection, if the endpoint allows as many.
const MOST_STREAMS: usize = 128;
/// What an endpoint may send of one answer before somebody has read it.
const WINDOW: u32 = 256 * 1024;
/// As much as all streams together: a client that does not read its answer holds up nobody else's.
const CONNECTION_WINDOW: u32 = WINDOW * MOST_STREAMS as u32;
/// What the library may keep of small frames that nobody has read yet: each costs it some 256 bytes beside its payload, which windows do not
/// count. Beyond this it ends the connection, with all that others do on it. Streams whose clients do not read do not come to that, be their
/// windows full of frames of one byte: what comes is taken in meanwhile ([`absorb`](super::Answer::absorb)). It has to do for what
/// comes in one [turn](InTurns).
const FRAMES: usize = 4 * 1024 * 1024;
/// How often a connection is pinged, and how long an answer to that may take: a dead one is noticed before many requests are lost on it.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// How long the first answer to a ping is waited for before a connection is used.
const FIRST_PONG: Duration = Duration::from_secs(1);

/// The connections of one worker.
#[derive(Default)]
pub struct Lines {
    to: Mutex<HashMap<Key, Towards, ahash::RandomState>>,
}

/// Those to one endpoint.
#[derive(Default)]
struct Towards {
    open: Vec<Arc<Line>>,
    /// A connection that is being made. Whoever wants one meanwhile waits for the same.
    making: Option<Arc<Making>>,
}

type Making = OnceCell<Result<Arc<Line>, ErrorType>>;

/// A connection.
struct Line {
    requests: SendRequest<Bytes>,
    streams: AtomicUsize,
    /// It has carried an exchange.
    used: AtomicBool,
    over: Arc<AtomicBool>,
    idle: Duration,
    since: Mutex<Instant>,
    /// Of exchanges that are over, for the next ones: to set one anew costs less than to make one.
    alarms: Mutex<Vec<Alarm>>,
    /// Streams that are over. The library wakes the connection's task when one is dropped, for nothing but to see that it is gone; dropped
    /// when the next request has woken it already, they cost no turn of their own.
    over_with: Mutex<Vec<RecvStream>>,
}

/// How many streams that are over wait for the next request.
const OVER_WITH: usize = 8;

/// A stream's place on a connection, until it is dropped.
pub struct Place {
    line: Arc<Line>,
    requests: SendRequest<Bytes>,
    kept: bool,
    /// For the wait for answers.
    pub alarm: Alarm,
}

/// What a connection has for a request.
enum Room {
    Place(Box<Place>),
    None,
    /// The endpoint has ended it, or has said that it takes no more requests.
    Over,
}

impl Place {
    /// Whether the connection has carried an exchange before.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether the endpoint has said that it takes an extended CONNECT (RFC 8441).
    pub fn takes_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Begins an exchange.
    ///
    /// # Errors
    /// The connection takes none.
    pub fn send(&mut self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let sent = self.requests.send_request(request, end)?;
        self.line.over_with.lock().clear();
        Ok(sent)
    }

    /// Takes a stream of which both halves have ended, and nothing is left to be read.
    pub fn retire(&self, stream: RecvStream) {
        let mut over_with = self.line.over_with.lock();
        if over_with.len() < OVER_WITH {
            over_with.push(stream);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.used.store(true, Ordering::Relaxed);
        self.line.alarms.lock().push(std::mem::take(&mut self.alarm));
        if self.line.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.line.since.lock() = Instant::now();
        }
    }
}

impl Line {
    /// A place, on a connection that has carried nothing yet if `unused`.
    fn room(self: &Arc<Self>, unused: bool) -> Room {
        let mut requests = self.requests.clone();
        if self.over.load(Ordering::Relaxed) || is_over(&mut requests) {
            return Room::Over;
        }
        let most = MOST_STREAMS.min(requests.current_max_send_streams().max(1));
        let kept = self.used.load(Ordering::Relaxed);
        if unused && kept || self.streams.load(Ordering::Relaxed) >= most {
            return Room::None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        let alarm = self.alarms.lock().pop().unwrap_or_default();
        Room::Place(Box::new(Place { line: self.clone(), requests, kept, alarm }))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || is_over(&mut self.requests.clone())
    }

    fn is_idle_since(&self, now: Instant) -> bool {
        self.streams.load(Ordering::Relaxed) == 0 && now.saturating_duration_since(*self.since.lock()) >= self.idle
    }
}

/// Asked of a clone, which waits for no stream of its own.
fn is_over(requests: &mut SendRequest<Bytes>) -> bool {
    matches!(requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}

impl Towards {
    /// A place on a connection that is there. Those that are over and stand before it go.
    fn room(&mut self, unused: bool) -> Option<Box<Place>> {
        let mut found = None;
        self.open.retain(|line| {
            if found.is_some() {
                return true;
            }
            match line.room(unused) {
                Room::Place(place) => found = Some(place),
                Room::None => {}
                Room::Over => return false,
            }
            true
        });
        found
    }
}

impl Lines {
    /// A place on a connection that is there. `anew`: on one that has carried nothing yet.
    pub fn at_once(&self, key: &Key, anew: bool) -> Option<Box<Place>> {
        self.to.lock().get_mut(key)?.room(anew)
    }

    /// A place on a connection that is there, or on one that is made for it. `anew`: on one that has carried nothing yet.
    ///
    /// # Errors
    /// For [`connect_failure`](crate::upstream::connect_failure) to explain.
    pub async fn place(
        &self,
        key: Key,
        peer: impl Fn() -> Box<HttpPeer>,
        service: &Service,
        tls: &Arc<TlsConnector>,
        anew: bool,
    ) -> Result<Box<Place>, ErrorType> {
        let mut unused = anew;
        let until = Instant::now() + service.timeouts.connect;
        loop {
            let making = {
                let mut to = self.to.lock();
                let towards = to.entry(key.clone()).or_default();
                if let Some(place) = towards.room(unused) {
                    return Ok(place);
                }
                towards.making.get_or_insert_default().clone()
            };
            let made = making.get_or_init(|| async { open(&key, &peer(), service, tls).await.map(Arc::new) }).await.clone();
            let mut to = self.to.lock();
            let towards = to.entry(key.clone()).or_default();
            if towards.making.as_ref().is_some_and(|other| Arc::ptr_eq(other, &making)) {
                towards.making = None;
                towards.open.extend(made.iter().cloned());
            }
            drop(to);
            match made {
                Ok(line) => {
                    if let Room::Place(place) = line.room(false) {
                        return Ok(place);
                    }
                }
                Err(error) => return Err(error),
            }
            // Others who waited for it have filled it.
            if Instant::now() >= until {
                return Err(ErrorType::ConnectTimedout);
            }
            unused = false;
        }
    }

    /// Tells how many that carry nothing there are to each address.
    pub fn count(&self, tell: &mut impl FnMut(EndpointAddress, usize)) {
        for (key, towards) in self.to.lock().iter() {
            let idle = |line: &&Arc<Line>| line.streams.load(Ordering::Relaxed) == 0 && !line.over.load(Ordering::Relaxed);
            tell(key.address(), towards.open.iter().filter(idle).count());
        }
    }

    /// Closes what has been idle too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.to.lock().retain(|_, towards| {
            towards.open.retain(|line| !line.is_idle_since(now) && !line.is_over());
            // Left behind by a request that was given up.
            towards.making = towards.making.take().filter(|making| Arc::strong_count(making) > 1);
            !towards.open.is_empty() || towards.making.is_some()
        });
    }
}

async fn open(key: &Key, peer: &HttpPeer, service: &Service, tls: &TlsConnector) -> Result<Line, ErrorType> {
    let limit = service.timeouts.connect;
    match key {
        Key::Plain(address) => {
            let connecting = async {
                let stream = super::Transport::plain(address.get()).await.map_err(|_| ErrorType::ConnectError)?;
                greet(stream, service).await
            };
            tokio::time::timeout(limit, connecting).await.unwrap_or(Err(ErrorType::ConnectTimedout))
        }
        Key::Tls(..) => {
            let stream: Transport = tls.connect(peer).await.map_err(|error| {
                log::debug!("{error}");
                error.etype
            })?;
            if stream.selected_alpn_proto() != Some(ALPN::H2) {
                return Err(ErrorType::TLSHandshakeFailure);
            }
            tokio::time::timeout(limit, greet(stream, service)).await.unwrap_or(Err(ErrorType::ConnectTimedout))
        }
    }
}

async fn greet(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: &Service) -> Result<Line, ErrorType> {
    let mut options = h2::client::Builder::new();
    options
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(FRAMES)
        .max_send_buffer_size(256 * 1024)
        // The library answers what is larger on its own, without saying how much too large it was. Up to here the engine judges.
        .max_header_list_size(u32::try_from(service.limits.head.saturating_mul(2)).unwrap_or(u32::MAX));
    let (requests, connection) = options.handshake(InTurns::new(stream)).await.map_err(|_| ErrorType::ConnectError)?;
    let over = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = oneshot::channel();
    drive(connection, over.clone(), ready);
    // How many streams the endpoint takes comes before its answer to a ping. One that answers none is used all the same.
    if let Ok(Err(_)) = tokio::time::timeout(FIRST_PONG, is_ready).await {
        return Err(ErrorType::ConnectError);
    }
    Ok(Line {
        requests,
        streams: AtomicUsize::new(0),
        used: AtomicBool::new(false),
        over,
        idle: service.timeouts.idle,
        since: Mutex::new(Instant::now()),
        alarms: Mutex::default(),
        over_with: Mutex::default(),
    })
}

/// Moves the connection's bytes, on a task of its own, until it ends or is found dead. It ends by itself once nobody can send on it any more.
///
/// It is pinged from another task: that one's timers are not for every frame to look at.
fn drive<T>(mut connection: Connection<T, Bytes>, over: Arc<AtomicBool>, ready: oneshot::Sender<()>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pings = connection.ping_pong();
    let (pinging, pinger) = oneshot::channel::<AbortHandle>();
    let ended = over.clone();
    let driving = tokio::spawn(async move {
        if let Err(error) = connection.await {
            log::debug!("an HTTP/2 connection to an endpoint ended: {error}");
        }
        ended.store(true, Ordering::Relaxed);
        if let Ok(pinger) = pinger.await {
            pinger.abort();
        }
    });
    let Some(pings) = pings else { return };
    let driving = driving.abort_handle();
    let pinger = tokio::spawn(async move {
        // It may have ended already.
        if is_found_dead(pings, ready).await && !over.swap(true, Ordering::Relaxed) {
            log::debug!("an HTTP/2 connection to an endpoint is dead");
            driving.abort();
        }
    });
    let _ = pinging.send(pinger.abort_handle());
}

/// Asks now and then whether the other end is there. `true` once it is not; `false` if nobody can tell.
async fn is_found_dead(mut pings: PingPong, ready: oneshot::Sender<()>) -> bool {
    let mut ready = Some(ready);
    loop {
        if ready.is_none() {
            tokio::time::sleep(PING).await;
        }
        match tokio::time::timeout(PONG, pings.ping(Ping::opaque())).await {
            // Nobody may wait for it any more.
            Ok(Ok(_)) => drop(ready.take().map(|ready| ready.send(()))),
            // It has never answered one: it may be alive all the same.
            Err(_) if ready.is_some() => return false,
            _ => return true,
        }
    }
}
