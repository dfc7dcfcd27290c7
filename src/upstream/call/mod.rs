//! The one way to a service: an endpoint is picked and connected to, the request is sent, the final head is read, and the body follows in
//! pieces. Whoever wants something of a service goes through [`Caller::send`], so that health, retries, pools and what is recorded of an
//! endpoint are the same for all.
//!
//! Not in here: what the client is told, which is for whoever called.

mod authorised;
pub mod client;
mod h1;
mod h2;
mod hedge;
mod invoked;
mod lines;
mod open;
mod own;
mod pool;
mod race;
pub mod request;
mod transcoded;
mod transport;
mod tries;
mod warm;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use parking_lot::Mutex;
use pingora_error::{Error, ErrorType};
use smallvec::SmallVec;

pub use client::{Client, NoMemory, Own};
pub(super) use h1::Line;
pub use own::{Engine, Question, Told, drained};
pub(super) use pool::Key;
pub use pool::SWEEP;
pub use request::{Fill, passes};
pub use transcoded::Transcoded;
pub use transport::{Transport, is_cut_off};
pub use tries::{Tries, meant};
pub use warm::Warmer;

use super::aim::Aim;
use super::endpoint::EndpointRef;
use super::gate::{Entered, Gate, Place, Queue, Shut};
use super::service::Converts;
use super::{AttemptOutcome, Endpoint, Protocol, Service, TlsConnector, connect_failure};
use crate::address::EndpointAddress;
use crate::exchange::{Exchange, is_gateways};
use crate::grpc::{Dialect, GRPC_STATUS, metadata, read_status};
use crate::head::{Edited, HeaderEdit, RequestHead};
use crate::reply::Reply;
use crate::retry::Why;
use crate::transcode::status;
use crate::wait::{Alarm, Pace, pinned};
use crate::wire::answer::{AnswerHead, BadAnswer};
use crate::wire::upgraded::Upgraded;
use authorised::Signing;
use lines::Lines;
use pool::Pool;
use race::Dialling;
use transcoded::Made;
use transport::Tls;

/// How long the service's `100 Continue` is waited for before the gateway says it itself.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);
/// The client is not there any more.
pub const CLIENT_GONE: ErrorType = ErrorType::Custom("ClientGone");

/// What is under an upgrade on the service's side.
pub type Tunnel = Upgraded<Transport, Box<lines::Place>>;

/// Why an exchange broke.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended before a byte of the answer.
    Stale,
    /// It ended in the answer's head.
    Lost,
    /// It failed instead of ending: whatever came of an answer is not the whole of it (RFC 9112, section 8).
    Failed,
    TimedOut,
    /// Its answer comes, and too slowly to be waited for.
    TooSlow,
    /// The service has said that it did nothing about the request: it may be asked for again, whatever the method (RFC 9113, section 8.7).
    Refused,
    /// The service broke the stream off.
    Reset(::h2::Reason),
    /// The answer cannot be passed on.
    Bad(BadAnswer),
    /// The request cannot be told in the service's protocol.
    Unfit,
    /// The client's side failed.
    Client(Box<Error>),
    /// The service's side failed in the middle of its answer.
    MidAnswer,
    /// The service has said how its call ended, and the answer is to break off nevertheless: nobody may take what came for the whole.
    Ended(Box<HeaderMap>),
}

impl Broken {
    /// What it says about the endpoint. `None` if the client is to blame, or the gateway: some answers are quiet, and their endpoints are well.
    pub fn outcome(&self) -> Option<AttemptOutcome> {
        match self {
            Broken::Client(_) | Broken::Unfit | Broken::TooSlow | Broken::Ended(_) => None,
            Broken::TimedOut => Some(AttemptOutcome::TimedOut),
            _ => Some(AttemptOutcome::Broken),
        }
    }

    /// Why the request would be sent again.
    fn why(&self) -> Option<Why> {
        match self {
            Broken::Stale | Broken::Lost | Broken::Failed | Broken::Reset(_) => Some(Why::Reset),
            Broken::TimedOut => Some(Why::Timeout),
            _ => None,
        }
    }

    /// Whether it may have been the end of a connection that nobody had noticed yet.
    fn is_stale(&self) -> bool {
        matches!(self, Broken::Stale | Broken::Lost | Broken::Failed)
    }
}

/// Passes an interim answer on. The service's own word on a withheld body ends the wait for it.
async fn pass_interim<C: Client>(
    interim: &AnswerHead,
    withheld: Option<&mut Option<tokio::time::Instant>>,
    client: &mut C,
) -> Result<(), Broken> {
    if interim.status != StatusCode::CONTINUE {
        return client.write_interim(interim).await.map_err(Broken::Client);
    }
    if let Some(withheld) = withheld {
        *withheld = None;
    }
    client.say_continue().await.map_err(Broken::Client)
}

/// How much of an answer's body came, and how long it was waited for.
#[derive(Default)]
struct Came {
    bytes: u64,
    waited: Duration,
}

impl Came {
    /// How long more may be waited, and what it means that it was.
    fn left(&self, pace: Pace) -> (Duration, Broken) {
        let left = pace.left(self.waited, self.bytes);
        (left, if left < pace.silence { Broken::TooSlow } else { Broken::TimedOut })
    }
}

fn gone() -> Broken {
    Broken::Client(Error::new(CLIENT_GONE))
}

/// How a call ended that did not get an answer.
#[derive(Debug)]
pub enum CallError {
    /// Nothing can be had of the service; this is what that means to a client.
    Service(Box<Reply>),
    /// The client's side failed.
    Client(Box<Error>),
}

/// A piece of an answer's body.
#[derive(Debug)]
pub enum Piece {
    /// Whether it is the last one is known where the framing tells.
    Data(Bytes, bool),
    /// What comes behind the last piece.
    Trailers(HeaderMap),
    End,
}

/// What is asked of a service.
pub struct Call<'a> {
    pub head: &'a RequestHead,
    pub exchange: &'a Exchange,
    /// Another target than the head's.
    pub target: Option<&'a str>,
    pub fill: Option<&'a Fill>,
    /// The method of the request that the call was made of, where it was: what may be repeated is said of that one.
    pub stands_for: Option<&'a Method>,
}

impl Call<'_> {
    fn parts<'p>(&'p self, attempt: u32, buffered: Option<&Bytes>, empty: bool, expects: bool) -> request::Parts<'p> {
        let Call { head, exchange, target, fill, .. } = *self;
        request::Parts { head, exchange, target, fill, attempt, buffered: buffered.map(Bytes::len), empty, expects }
    }

    /// The method that the service sees.
    fn method(&self) -> &Method {
        request::method(self.fill, &self.head.method)
    }

    /// The path and the query that are asked for.
    fn target(&self) -> (&str, Option<&str>) {
        match self.target {
            Some(target) => target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query))),
            None => (&self.head.path, self.head.query()),
        }
    }

    /// Whether the service sees a call of gRPC's.
    fn is_grpc(&self) -> bool {
        self.dialect() == Dialect::Grpc
    }

    /// The media type of the body that goes to the service.
    fn content_type(&self) -> Option<&[u8]> {
        let name = http::header::CONTENT_TYPE;
        let edited = self.exchange.to_upstream.iter().rev().find(|edit| *edit.name() == name);
        match edited {
            Some(HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value)) => Some(value.as_bytes()),
            Some(HeaderEdit::Remove(_)) => None,
            None => self.head.header("content-type"),
        }
    }

    /// The lines of a field as policies have left them: the client's, where they still stand, and those of policies. `name` is lower case.
    fn lines<'l>(&'l self, name: &'l str) -> SmallVec<[&'l [u8]; 2]> {
        let edited = Edited::new(&self.exchange.to_upstream);
        let own = self.head.header_all(name).filter(|_| !edited.replaces(name.as_bytes()));
        let made = edited.added().filter(|(added, _)| added.as_str() == name).map(|(_, value)| value.as_bytes());
        own.chain(made).collect()
    }

    /// What the service sees the request as.
    fn dialect(&self) -> Dialect {
        self.content_type().map_or(Dialect::Plain, Dialect::of)
    }

    /// Whether the client's fields that go along can all be metadata.
    fn is_fit(&self) -> bool {
        let edited = Edited::new(&self.exchange.to_upstream);
        // What a policy takes away or replaces does not go along.
        let goes = |name: &[u8]| passes(name, true) && !is_gateways(name) && !edited.replaces(name);
        self.head.headers().all(|(name, value)| !goes(name) || metadata::fits(name, value))
    }

    fn may_switch(&self) -> bool {
        self.head.upgrade
    }

    /// Whether a second copy of it may be sent while the first is under way: one at most.
    fn may_be_hedged(&self, service: &Service, tries: &Tries) -> bool {
        tries.hedge.is_empty() && !self.head.upgrade && self.repeats(service)
    }

    /// Whether it may be asked twice, as the service says, after it was sent.
    fn repeats(&self, service: &Service) -> bool {
        may_be_repeated(service, self.stands_for.unwrap_or_else(|| self.method()), self.head, self.exchange)
    }
}

/// Whether a request that was sent to the service may be sent once more, to it or to another, as the service says.
pub fn may_be_repeated(service: &Service, method: &Method, head: &RequestHead, exchange: &Exchange) -> bool {
    let edited = Edited::new(&exchange.to_upstream);
    service.retries.repeats(method, |name| {
        // What a policy takes away or replaces is not the client's promise.
        head.header(name.as_str()).filter(|_| !edited.replaces(name.as_str().as_bytes()))
    })
}

/// Calls services. One per worker: nothing of it is shared between cores.
#[derive(Default)]
pub struct Caller {
    idle: Pool,
    lines: Lines,
}

/// Those of the workers, for who wants to know how many connections they keep.
static LISTED: Mutex<Vec<Weak<Caller>>> = Mutex::new(Vec::new());

/// Idle connections, by the endpoint's address.
pub type IdleConnections = HashMap<EndpointAddress, usize>;

/// How many idle connections all workers keep. `None` where another engine keeps them.
pub fn idle_connections() -> Option<IdleConnections> {
    let callers: Vec<_> = LISTED.lock().iter().filter_map(Weak::upgrade).collect();
    let mut idle = IdleConnections::new();
    for caller in &callers {
        let mut tell = |address, count| *idle.entry(address).or_default() += count;
        caller.idle.count(&mut tell);
        caller.lines.count(&mut tell);
    }
    (!callers.is_empty()).then_some(idle)
}

/// Boxed: it goes from hand to hand, and stays where it is from one request to the next.
enum Connection {
    H1(Box<h1::Line>),
    H2(Box<h2::Stream>),
    /// None: the answer was made of another one, whose connection is in here if it still comes.
    Made(Box<Made>),
}

impl Connection {
    /// Sends the request, and waits for the head of the final answer.
    async fn ask<C: Client>(
        &mut self,
        call: &Call<'_>,
        attempt: u32,
        client: &mut C,
        service: &Service,
    ) -> Result<Box<AnswerHead>, Broken> {
        match self {
            Connection::H1(line) => line.ask(call, attempt, client, service).await,
            Connection::H2(stream) => stream.ask(call, attempt, client, service).await,
            Connection::Made(_) => Err(Broken::Unfit),
        }
    }

    /// Whether it has carried an exchange before.
    fn is_kept(&self) -> bool {
        match self {
            Connection::H1(line) => line.is_kept(),
            Connection::H2(stream) => stream.is_kept(),
            Connection::Made(_) => false,
        }
    }

    /// Whether the client has sent all of its request.
    fn has_all_of_the_request(&self) -> bool {
        match self {
            Connection::H1(line) => line.has_all_of_the_request(),
            Connection::H2(stream) => stream.has_all_of_the_request(),
            Connection::Made(_) => true,
        }
    }
}

/// An answer whose head is known.
pub struct Answer {
    pub head: Box<AnswerHead>,
    connection: Connection,
    key: Option<Key>,
}

impl Caller {
    /// One whose connections count in [`idle_connections`].
    pub fn listed() -> Arc<Caller> {
        let caller = Arc::new(Caller::default());
        let mut listed = LISTED.lock();
        listed.retain(|known| known.strong_count() > 0);
        listed.push(Arc::downgrade(&caller));
        caller
    }

    /// Sends a call to an endpoint of the service; to another one where that does no harm and the service allows it. Returns with the
    /// head of the final answer.
    ///
    /// Dropped, it closes the connection, or resets the stream.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send<C: Client>(
        &self,
        service: &Service,
        call: &Call<'_>,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
    ) -> Result<Answer, CallError> {
        tries.aim = Aim::of(service, call.head, call.exchange);
        if service.protocol.is_http2() || service.connect.is_some() {
            if call.dialect().is_grpc() {
                if service.protocol.is_http2() && !call.is_fit() {
                    return Err(CallError::Service(transcoded::unfit_metadata()));
                }
            } else if let Some(calls) = transcoded::connect::meant(service, call) {
                return Box::pin(transcoded::connect::send(self, calls, service, call, (tries, client), tls)).await;
            }
        }
        if let Some(converts) = &service.converts {
            return Box::pin(self.converted(converts, service, call, tries, client, tls)).await;
        }
        self.dispatch(service, call, tries, client, tls).await
    }

    /// The same where the service is not sent what requests are.
    async fn converted<C: Client>(
        &self,
        converts: &Converts,
        service: &Service,
        call: &Call<'_>,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
    ) -> Result<Answer, CallError> {
        if let Some(function) = &converts.function {
            return invoked::send(self, function, service, call, (tries, client), tls).await;
        }
        match &converts.transcoder {
            Some(transcoding) if transcoding.serves_grpc() == call.dialect().is_grpc() => {
                let transcoder = transcoding.now().ok_or_else(|| CallError::Service(transcoded::unknown(service)))?;
                match transcoder.serves_grpc() {
                    false => transcoded::send(self, &transcoder, service, call, (tries, client), tls).await,
                    true => transcoded::rest::send(self, &transcoder, service, call, (tries, client), tls).await,
                }
            }
            _ => self.authorised(service, call, tries, client, tls).await,
        }
    }

    /// A call with what the service wants to be shown.
    async fn authorised<C: Client>(
        &self,
        service: &Service,
        call: &Call<'_>,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
    ) -> Result<Answer, CallError> {
        match service.auth() {
            Some(auth) => authorised::send(self, auth, service, call, (tries, client), tls).await,
            None => self.dispatch(service, call, tries, client, tls).await,
        }
    }

    /// The same, as it stands.
    fn dispatch<'c, C: Client>(
        &'c self,
        service: &'c Service,
        call: &'c Call<'_>,
        tries: &'c mut Tries,
        client: &'c mut C,
        tls: &'c Arc<TlsConnector>,
    ) -> impl Future<Output = Result<Answer, CallError>> + 'c {
        self.dispatch_signed(service, call, tries, client, tls, None)
    }

    /// The same. `signing`: what the call is signed by, for a try that comes later than its signature.
    async fn dispatch_signed<C: Client>(
        &self,
        service: &Service,
        call: &Call<'_>,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
        signing: Option<&Signing<'_>>,
    ) -> Result<Answer, CallError> {
        let (mut fresh, mut renewed) = (false, None);
        let spoken = service.protocol.spoken(|| call.is_grpc());
        loop {
            let (mut connection, mut key) = self.connect(service, spoken, tries, client, tls, fresh).await?;
            if let Some(signing) = signing
                && let Some(exchange) = Box::pin(signing.renewed(call, service)).await?
            {
                renewed = Some(exchange);
            }
            let again = renewed.as_deref().map(|exchange| Call { exchange, ..*call });
            let call = again.as_ref().unwrap_or(call);
            tries.sends();
            let attempt = tries.attempts;
            let asked = if let Some(hedging) = &service.hedging
                && call.may_be_hedged(service, tries)
            {
                // Boxed, as all that few services want.
                let asking = Box::pin(self.ask_hedged(service, hedging, call, tries, client, tls, (connection, key)));
                let ended = asking.await;
                (connection, key) = (ended.1, ended.2);
                ended.0
            } else {
                match &mut connection {
                    Connection::H1(line) => line.ask(call, attempt, client, service).await,
                    // Boxed: it must not make the other one's future larger.
                    Connection::H2(stream) => pinned(|| stream.ask(call, attempt, client, service)).await,
                    Connection::Made(_) => Err(Broken::Unfit),
                }
            };
            let broken = match asked {
                Ok(head) => {
                    tries.answered(service, call.head, head.status, field_of(&head), client.uploaded());
                    let again = match service.retries.looks_at_answers() {
                        true => ask_again(call, &head, service, tries, client),
                        false => None,
                    };
                    let answer = Answer { head, connection, key: Some(key) };
                    let Some(wait) = again else { return Ok(answer) };
                    Box::pin(self.pause(Some(answer), wait, service, client)).await?;
                    fresh = false;
                    continue;
                }
                Err(broken) => broken,
            };
            // A kept connection that the service had closed already: asking again does no harm if asking twice does none (RFC 9110,
            // section 9.2.2), and the body is still at hand.
            if broken.is_stale() && connection.is_kept() && call.repeats(service) && client.can_replay() && tries.replay() {
                tries.again(service);
                fresh = true;
                continue;
            }
            if matches!(broken, Broken::Refused) && client.can_replay() && tries.was_refused(service) {
                fresh = false;
                continue;
            }
            match broken.outcome() {
                // An endpoint that breaks off while the client is still sending may have had enough of waiting for it.
                Some(_) if !connection.has_all_of_the_request() => tries.failed_for_the_client(),
                Some(outcome) => tries.failed(service, outcome),
                None => {}
            }
            if let Some(why) = broken.why()
                && !call.head.upgrade
                && client.can_replay()
                && call.repeats(service)
                && let Some(wait) = tries.again_for(service, why, None)
            {
                drop(connection);
                Box::pin(self.pause(None, wait, service, client)).await?;
                fresh = false;
                continue;
            }
            return Err(call_error(broken, service));
        }
    }

    /// Waits before another attempt, for as long as the client does, and puts away what came of the last one.
    async fn pause<C: Client>(
        &self,
        answer: Option<Answer>,
        wait: Duration,
        service: &Service,
        client: &mut C,
    ) -> Result<(), CallError> {
        let until = tokio::time::Instant::now() + wait;
        let waited = async {
            // Of a connection that still waits for its request nothing can be kept: whatever came next would be taken for a part of it.
            if let Some(answer) = answer.filter(|answer| answer.connection.has_all_of_the_request()) {
                self.put_away(answer, service).await;
            }
            tokio::time::sleep_until(until).await;
        };
        tokio::select! {
            biased;
            () = waited => Ok(()),
            () = left(client) => Err(CallError::Client(Error::new(CLIENT_GONE))),
        }
    }

    /// A place at the endpoint whose turn it is, for whose service only so many are: waits for one, for as long as the client does.
    /// `kept`: an idle connection of this kind will do. `None` if it has one already.
    async fn enter<C: Client>(
        &self,
        service: &Service,
        queue: Queue,
        tries: &mut Tries,
        client: &mut C,
        kept: Option<&Key>,
    ) -> Result<Option<Entered>, CallError> {
        tokio::select! {
            biased;
            entered = self.place(service, queue, tries, kept) => entered.map_err(CallError::Service),
            () = left(client) => Err(CallError::Client(Error::new(CLIENT_GONE))),
        }
    }

    /// The same, whoever wants it.
    async fn place(
        &self,
        service: &Service,
        queue: Queue,
        tries: &mut Tries,
        kept: Option<&Key>,
    ) -> Result<Option<Entered>, Box<Reply>> {
        let Some(gate) = tries.flight().filter(|_| !tries.holds()).map(|flight| flight.endpoint().gate().clone()) else {
            return Ok(None);
        };
        gate.enter(self.number(), kept, queue).await.map(Some).map_err(|shut| {
            tries.end();
            no_place(service, shut)
        })
    }

    /// Tells it from the others.
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// A connection to the endpoint whose turn it is; if it cannot be had, to the next, as often as the service says.
    async fn connect<C: Client>(
        &self,
        service: &Service,
        spoken: Protocol,
        tries: &mut Tries,
        client: &mut C,
        tls: &Arc<TlsConnector>,
        mut fresh: bool,
    ) -> Result<(Connection, Key), CallError> {
        loop {
            if !fresh || tries.flight().is_none() {
                fresh = false;
                tries.begin(service);
            }
            let Some(flight) = tries.flight() else { return Err(CallError::Service(tries.unavailable(service))) };
            let key = key(flight.endpoint(), service);
            let mut place = None;
            if let Some(queue) = service.queue {
                let kept = Some(&key).filter(|_| !fresh && spoken == Protocol::Http1);
                match Box::pin(self.enter(service, queue, tries, client, kept)).await? {
                    Some(Entered::Line(line)) => return Ok((Connection::H1(line), key)),
                    Some(Entered::Place(free)) => place = Some(free),
                    None => {}
                }
            } else if spoken == Protocol::Http1
                && let Some(kept) = (!fresh).then(|| self.idle.take(&key)).flatten()
            {
                return Ok((Connection::H1(kept), key));
            }
            let Some(flight) = tries.flight() else { return Err(CallError::Service(tries.unavailable(service))) };
            let ready = match spoken {
                Protocol::Http2 | Protocol::Grpc => self.lines.at_once(&key, fresh),
                Protocol::Http1 | Protocol::Auto => None,
            };
            let connected = match ready {
                Some(place) => Ok((Connection::H2(Box::new(h2::Stream::new(place))), key)),
                None => {
                    let dialling = self.dial(service, spoken, flight.held(), key, tls, fresh);
                    match service.may_race() {
                        false => dialling.await,
                        // Boxed: what most requests never do must not make every request's future larger.
                        true => {
                            let beside = |other| self.connect_beside(service, spoken, other, tls);
                            Box::pin(race::race(service, tries, dialling, beside)).await
                        }
                    }
                }
            };
            match connected {
                Ok((mut connection, key)) => {
                    match (&mut connection, place) {
                        (_, None) => {}
                        (Connection::H1(line), Some(place)) => line.hold(place),
                        // It is for as long as the request.
                        (Connection::H2(_) | Connection::Made(_), Some(place)) => tries.hold(place),
                    }
                    return Ok((connection, key));
                }
                Err(_) if tries.connect_failed(service) => {}
                Err(error) => {
                    if let Some(wait) = tries.connect_again(service) {
                        Box::pin(self.pause(None, wait, service, client)).await?;
                        continue;
                    }
                    return Err(CallError::Service(
                        connect_failure(&error)
                            .unwrap_or_else(|| reply(StatusCode::BAD_GATEWAY, "upstream_error", "The backend could not answer.")),
                    ));
                }
            }
        }
    }

    /// A new connection to an endpoint, or a place on one that is made for it.
    fn dial<'a>(
        &'a self,
        service: &'a Service,
        spoken: Protocol,
        endpoint: Arc<EndpointRef>,
        key: Key,
        tls: &'a Arc<TlsConnector>,
        fresh: bool,
    ) -> Dialling<'a, (Connection, Key)> {
        match (spoken, &key) {
            (Protocol::Http1 | Protocol::Auto, Key::Plain(address)) => {
                let address = address.get();
                Box::pin(async move {
                    let line = connect_plain(address, service).await?;
                    Ok((Connection::H1(line), key))
                })
            }
            (Protocol::Http1 | Protocol::Auto, Key::Tls(..)) => Box::pin(async move {
                let line = connect_tls(&endpoint, service, tls).await?;
                Ok((Connection::H1(line), key))
            }),
            (Protocol::Http2 | Protocol::Grpc, _) => Box::pin(async move {
                let peer = || service.http2_peer(&endpoint);
                let place = self.lines.place(key.clone(), peer, service, tls, fresh).await?;
                Ok((Connection::H2(Box::new(h2::Stream::new(place))), key))
            }),
        }
    }

    /// Takes a connection back, once the answer is whole and passed on.
    pub fn keep(&self, answer: Answer, service: &Service) {
        let Answer { head, connection, key } = answer;
        match (connection, key) {
            (Connection::H1(mut line), Some(key)) => {
                line.end(head.keep_alive);
                if let Some(mut line) = line.reusable() {
                    match line.take_place() {
                        None => self.idle.keep(line, key, service),
                        Some(place) => Gate::keep(place, line, key, self.number(), Instant::now() + service.timeouts.idle),
                    }
                }
            }
            (Connection::H2(stream), _) => stream.let_go(),
            (Connection::Made(made), _) => match *made {
                Made::Whole(..) | Made::Call(..) => {}
                Made::Streaming(streaming) => self.keep(streaming.into_answer(), service),
                Made::Streamed(streamed) => self.keep(streamed.into_answer(), service),
            },
            (Connection::H1(_), None) => {}
        }
    }

    /// Closes what has been idle too long.
    pub fn sweep(&self) {
        self.idle.sweep();
        self.lines.sweep();
    }
}

impl Answer {
    /// Whether the service has answered, whole, before it had the whole request, and nothing else will be read of it.
    pub fn is_early(&self) -> bool {
        match &self.connection {
            Connection::H1(line) => line.is_early(),
            Connection::H2(stream) => stream.is_early(),
            Connection::Made(made) => made.is_early(),
        }
    }

    /// What there is of the body without waiting.
    ///
    /// # Errors
    /// [`Broken::MidAnswer`].
    pub fn take(&mut self) -> Result<Option<Piece>, Broken> {
        match &mut self.connection {
            Connection::H1(line) => line.take(),
            Connection::H2(stream) => Ok(stream.take()),
            Connection::Made(made) => made.take(),
        }
    }

    /// Waits for more of the body, and sends what is left of the request's meanwhile. `endless`: it is one that may be silent for long.
    ///
    /// # Errors
    /// [`Broken::Client`], [`Broken::TimedOut`], [`Broken::TooSlow`], [`Broken::MidAnswer`] or [`Broken::Reset`].
    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service, endless: bool) -> Result<(), Broken> {
        if let Connection::Made(made) = &mut self.connection {
            return Box::pin(made.more(client, service)).await;
        }
        self.more_of_service(client, service, endless).await
    }

    /// The same of an answer that was not made of another one.
    async fn more_of_service<C: Client>(&mut self, client: &mut C, service: &Service, endless: bool) -> Result<(), Broken> {
        let pace = service.pace(endless);
        let more = match &mut self.connection {
            Connection::H1(line) => line.more(client, service, pace).await,
            Connection::H2(stream) => pinned(|| stream.more(client, service, pace)).await,
            Connection::Made(_) => Ok(()),
        };
        if matches!(more, Err(Broken::TooSlow)) {
            service.cluster.board().count_too_slow();
        }
        more
    }

    /// Takes in what comes of the body while the client takes its time, where that costs less memory than to leave it be.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        match &mut self.connection {
            Connection::H1(_) => {}
            Connection::H2(stream) => stream.absorb(cx),
            Connection::Made(made) => made.absorb(cx),
        }
    }

    /// Waits for the client, and meanwhile [absorbs](Answer::absorb).
    pub fn meanwhile<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = T> {
        poll_fn(move |cx| {
            let done = work.as_mut().poll(cx);
            if done.is_pending() {
                self.absorb(cx);
            }
            done
        })
    }

    /// The connection or stream under an upgrade, what was read of it already, what its waits are timed with, and its place.
    pub fn into_tunnel(self) -> Option<(Tunnel, BytesMut, Alarm, Option<Place>)> {
        match self.connection {
            Connection::H1(line) => {
                let (transport, read, alarm, place) = line.into_tunnel();
                Some((Upgraded::H1(transport), read, alarm, place))
            }
            Connection::H2(stream) => {
                Some((Upgraded::H2(Box::new(stream.into_tunnel()?)), BytesMut::new(), Alarm::default(), None))
            }
            Connection::Made(_) => None,
        }
    }
}

/// The first field of a name in an answer's head.
fn field_of<'a>(head: &'a AnswerHead) -> impl Fn(&HeaderName) -> Option<&'a [u8]> {
    move |name| {
        let is = |field: &[u8]| field.eq_ignore_ascii_case(name.as_str().as_bytes());
        head.headers().find(|(field, _)| is(field)).map(|(_, value)| value)
    }
}

/// Waits until the client goes away, whether it is still sending or not.
async fn left<C: Client>(client: &mut C) {
    let whole = client.body_is_empty() || client.buffered().is_some() || client.uploaded().is_some();
    match whole {
        true => client.gone().await,
        false => client.reset().await,
    }
}

/// The answer where no endpoint has a place.
fn no_place(service: &Service, shut: Shut) -> Box<Reply> {
    match shut {
        Shut::Full => service.queue_full(),
        Shut::TimedOut => service.queue_timeout(),
    }
}

/// Whether an answer is to be asked for again, and how long to wait before that.
#[cold]
fn ask_again<C: Client>(
    call: &Call<'_>,
    head: &AnswerHead,
    service: &Service,
    tries: &mut Tries,
    client: &C,
) -> Option<Duration> {
    let (why, asked) = service.retries.of_answer(head.status.as_u16(), field_of(head)).or_else(|| {
        // What its client would be told.
        call.stands_for?;
        let code = field_of(head)(&GRPC_STATUS).and_then(read_status).filter(|code| *code != 0)?;
        service.retries.of_answer(status::http(code).as_u16(), field_of(head))
    })?;
    let may = !call.head.upgrade && client.can_replay() && call.repeats(service);
    if may { tries.again_for(service, why, asked) } else { None }
}

/// What is left of the wait for an answer's head, where each attempt has a limit of its own: counted from the first time that this is
/// asked, when the service has the whole request.
fn head_limit(due: &mut Option<Instant>, service: &Service) -> Duration {
    let Some(limit) = service.timeouts.attempt else { return service.timeouts.response };
    let now = Instant::now();
    let due = *due.get_or_insert(now + limit);
    due.saturating_duration_since(now).min(service.timeouts.response)
}

/// Which connections serve requests to this endpoint.
fn key(endpoint: &Endpoint, service: &Service) -> Key {
    match service.trust(endpoint) {
        Some(trust) => Key::Tls(endpoint.hashed_address(), trust),
        None => Key::Plain(endpoint.hashed_address()),
    }
}

async fn connect_plain(address: EndpointAddress, service: &Service) -> Result<Box<h1::Line>, ErrorType> {
    // The connection's own from then on.
    let mut alarm = Alarm::default();
    match alarm.within(service.timeouts.connect, Transport::plain(address)).await {
        Ok(Ok(transport)) => Ok(Box::new(h1::Line::new(transport, alarm))),
        Ok(Err(_)) => Err(ErrorType::ConnectError),
        Err(_) => Err(ErrorType::ConnectTimedout),
    }
}

async fn connect_tls(endpoint: &Endpoint, service: &Service, tls: &TlsConnector) -> Result<Box<h1::Line>, ErrorType> {
    let peer = service.peer(endpoint, None);
    match tls.connect(&*peer).await {
        Ok(stream) => Ok(Box::new(h1::Line::new(Transport::Tls(Tls::new(stream)), Alarm::default()))),
        Err(error) => {
            log::debug!("{error}");
            Err(error.etype)
        }
    }
}

fn reply(status: StatusCode, reason: &'static str, detail: &'static str) -> Box<Reply> {
    Reply::new(status, Service::NAME, reason, detail)
}

/// What is said of a call that broke before the client was told anything.
pub fn call_error(broken: Broken, service: &Service) -> CallError {
    CallError::Service(match broken {
        Broken::Client(error) => return CallError::Client(error),
        Broken::Refused => said(&broken).retry_after(service.retry_after),
        broken => said(&broken),
    })
}

/// What is said of a call that broke, where it was not the client's side that failed.
fn said(broken: &Broken) -> Box<Reply> {
    match broken {
        Broken::Stale | Broken::Lost | Broken::Failed | Broken::MidAnswer | Broken::Ended(_) => {
            reply(StatusCode::BAD_GATEWAY, "connection_lost", "The connection to the backend was lost.")
        }
        Broken::TimedOut => reply(StatusCode::GATEWAY_TIMEOUT, "response_timeout", "The backend did not answer in time."),
        Broken::TooSlow => reply(StatusCode::GATEWAY_TIMEOUT, "answer_too_slow", "The backend's answer came too slowly."),
        Broken::Refused => {
            let detail = "The backend refused the request before it did anything about it.";
            reply(StatusCode::SERVICE_UNAVAILABLE, "upstream_refused", detail)
        }
        Broken::Reset(_) => reply(StatusCode::BAD_GATEWAY, "upstream_reset", "The backend broke the request off."),
        Broken::Bad(bad) => bad.reply(),
        Broken::Unfit | Broken::Client(_) => {
            reply(StatusCode::BAD_GATEWAY, "upstream_error", "The request cannot be told over HTTP/2.")
        }
    }
}
