//! The client's side of an exchange, whatever the protocol: reading the request's body, writing the answer.
//!
//! [`Downstream`] is what the door refuses with, what is answered with from the cache or from a service, and where a request's body comes
//! from: one reader and one writer for all of them.

mod answer;
mod asking;
mod control;
mod endless;
pub mod h1;
mod request_body;
mod retry_buffer;
mod seen;
mod staged;
pub mod stream;
mod upstream_request;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, Method};
use pingora_error::ErrorType;

use crate::grpc::Messages;
use crate::grpc::web::TextReader;
use crate::listen::share::Purse;
pub use crate::upstream::call::CLIENT_GONE;
use crate::wait::Pace;
use crate::wire::answer::AnswerHead;
use crate::wire::stages::Stages;
use crate::wire::upgraded::Upgraded;
pub use answer::{apply_to_response, reply_parts};
pub use control::ExchangeControl;
pub use endless::is_endless;
use h1::H1;
use retry_buffer::RetryBuffer;
pub use seen::{may_see_upstream, seen_upstream};
use stream::H2;
pub use upstream_request::upstream_request;

/// What is under an upgrade on the client's side.
pub type Tunnel = Upgraded<h1::Io, ()>;

/// How a body that cannot be read ends a request.
pub const BODY_TIMEOUT: ErrorType = ErrorType::Custom("BodyTimeout");
pub const BODY_MALFORMED: ErrorType = ErrorType::Custom("BodyMalformed");
pub const BODY_TOO_LARGE: ErrorType = ErrorType::Custom("BodyTooLarge");
/// There is no memory left for it.
pub const BODY_BUDGET: ErrorType = ErrorType::Custom("BodyBudget");
/// The client took nothing of its answer for too long.
pub const CLIENT_STALLED: ErrorType = ErrorType::Custom("ClientStalled");
/// The client takes its time, and there is no memory left for what is kept for it meanwhile.
pub const UNPAID: ErrorType = ErrorType::Custom("AnswerBudget");

/// What came back.
pub struct Returned {
    pub wire: Wire,
    /// An answer was begun. If not, one can still be given.
    pub answered: bool,
    /// The answer is whole.
    pub finished: bool,
    /// The exchange ended as it should, and an HTTP/1.1 connection may carry the next one.
    pub reusable: bool,
    pub body_sent: u64,
    pub body_read: u64,
}

/// The connection, or stream, under an exchange.
pub enum Wire {
    H1(Box<H1>),
    H2(Box<H2>),
}

/// Another interim answer in the place of one, or `None` to pass it on as it came.
pub type Interim = Box<dyn Fn(&AnswerHead) -> Option<AnswerHead> + Send + Sync>;

/// One exchange with one client.
pub struct Downstream {
    wire: Option<Wire>,
    method: Method,
    /// The body, where a policy had it read whole.
    buffered: Option<Bytes>,
    /// The body's beginning, which was awaited before the request went on its way.
    begun: Option<Bytes>,
    retry: Option<RetryBuffer>,
    /// Where the memory for the body comes from.
    purse: Option<Purse>,
    answered: bool,
    /// An interim answer was passed on.
    told: bool,
    max_body: u64,
    /// Where the body stands, if its bound is one on each of its messages. Boxed, for few have one.
    messages: Option<Box<Messages>>,
    /// What is made of interim answers, on the few routes that change any.
    interim: Option<Interim>,
    /// Reads the body, if it is base64 of what the service gets (gRPC-Web).
    text: Option<Box<TextReader>>,
    /// What works on the answer's body.
    stages: Option<Box<Stages>>,
    body_read: u64,
    body_sent: u64,
    /// How the body has to come; `None` for one that may take its time.
    pace: Option<Pace>,
    /// How long the body was waited for, in all.
    waited: Duration,
    control: Arc<ExchangeControl>,
    /// Whatever the answer says of itself, it is a stream.
    streams: bool,
    /// When the request's body had come whole, if there is one.
    uploaded: Option<std::time::Instant>,
    finished: bool,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// An unread body up to this many bytes is read and dropped so that a refused request's connection can be kept.
pub const UNREAD: u64 = 64 * 1024;

impl Downstream {
    // In line, like the two that take it by value: it is large, and would be copied on its way.
    #[inline]
    pub fn new(wire: Wire, method: Method) -> Self {
        Downstream {
            wire: Some(wire),
            method,
            buffered: None,
            begun: None,
            retry: None,
            purse: None,
            answered: false,
            told: false,
            max_body: u64::MAX,
            messages: None,
            interim: None,
            text: None,
            stages: None,
            body_read: 0,
            body_sent: 0,
            pace: None,
            waited: Duration::ZERO,
            control: Arc::default(),
            streams: false,
            uploaded: None,
            finished: false,
        }
    }

    #[inline]
    pub fn timeouts(mut self, read: Pace, write: Duration) -> Self {
        self.pace = Some(read);
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.set_patience(write),
            Some(Wire::H2(stream)) => stream.set_patience(write),
            None => {}
        }
        self
    }

    /// What the exchange and those who wait for it tell each other about how it goes on.
    pub fn control(&self) -> Arc<ExchangeControl> {
        self.control.clone()
    }

    /// Whatever the answer says of itself, it is a stream.
    pub fn expect_stream(&mut self) {
        self.streams = true;
    }

    /// What is made of interim answers.
    pub fn map_interim(&mut self, interim: Interim) {
        self.interim = Some(interim);
    }

    pub fn body_read(&self) -> u64 {
        self.body_read
    }

    pub fn body_sent(&self) -> u64 {
        self.body_sent
    }

    /// Ends the exchange, and gives the connection back.
    #[inline]
    pub fn give_back(mut self) -> Option<Returned> {
        self.take_back()
    }

    pub fn is_answered(&self) -> bool {
        self.answered
    }

    pub fn is_endless(&self) -> bool {
        self.control.is_endless()
    }

    /// Waits until the client resets its connection or stream, and takes nothing in that is not held anyway.
    pub async fn reset(&mut self) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.reset().await,
            Some(Wire::H2(stream)) => stream.reset_while_unread().await,
            None => {}
        }
    }

    /// Waits until the client goes away.
    pub async fn gone(&mut self) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.gone().await,
            Some(Wire::H2(stream)) => stream.gone().await,
            None => {}
        }
    }

    /// The connection or stream under an upgrade, what was read of it already, and how long the client may take nothing. It does not come
    /// back.
    pub fn into_tunnel(&mut self) -> Option<(Tunnel, BytesMut, Duration)> {
        match self.wire.take()? {
            Wire::H1(wire) => {
                let (io, read, patience) = wire.into_tunnel();
                Some((Tunnel::H1(io), read, patience))
            }
            Wire::H2(stream) => {
                let (stream, patience) = stream.into_tunnel()?;
                Some((Tunnel::H2(Box::new(stream)), BytesMut::new(), patience))
            }
        }
    }

    /// What a tunnel has carried so far.
    pub fn tunnelled(&mut self, read: u64, sent: u64) {
        (self.body_read, self.body_sent) = (read, sent);
        self.control.note_read(read);
        self.control.note_sent(sent);
    }

    /// [`Downstream::give_back`], for those who let it go themselves.
    pub fn take_back(&mut self) -> Option<Returned> {
        let reusable = self.reusable();
        let Downstream { answered, finished, body_sent, body_read, .. } = *self;
        Some(Returned { wire: self.wire.take()?, answered, finished, reusable, body_sent, body_read })
    }

    /// Whether the client connection can carry another exchange after this one.
    fn reusable(&self) -> bool {
        self.finished && matches!(&self.wire, Some(Wire::H1(wire)) if wire.reusable())
    }
}
