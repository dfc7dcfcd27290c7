//! The client's side of an exchange, whatever the protocol: reading the request's body, writing the answer.
//!
//! [`Downstream`] is what the door refuses with, what is answered with from the cache or from a service, and where a request's body comes
//! from: one reader and one writer for all of them.

mod asking;
mod control;
pub mod h1;
mod seen;
pub mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::exchange::{Exchange, RequestId, X_REQUEST_ID, is_gateways};
use crate::grpc::{Dialect, Messages};
use crate::head::{BodyFraming, HeaderEdit, HeaderEdits, RequestHead};
use crate::listen::share::Purse;
use crate::reply::Reply;
use crate::upstream::call::passes;
use crate::wait::{Pace, counted, within};
use crate::wire::answer::AnswerHead;
use crate::wire::{encode, h2};
pub use control::ExchangeControl;
use h1::H1;
pub use seen::seen_upstream;
use stream::H2;

/// How a body that cannot be read ends a request.
pub const BODY_TIMEOUT: ErrorType = ErrorType::Custom("BodyTimeout");
pub const BODY_MALFORMED: ErrorType = ErrorType::Custom("BodyMalformed");
pub const BODY_TOO_LARGE: ErrorType = ErrorType::Custom("BodyTooLarge");
/// There is no memory left for it.
pub const BODY_BUDGET: ErrorType = ErrorType::Custom("BodyBudget");
pub use crate::upstream::call::CLIENT_GONE;
/// The client took nothing of its answer for too long.
pub const CLIENT_STALLED: ErrorType = ErrorType::Custom("ClientStalled");
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
    max_body: u64,
    /// Where the body stands, if its bound is one on each of its messages.
    messages: Option<Messages>,
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

/// What was read of a body, kept so that another backend can be tried.
struct RetryBuffer {
    bytes: BytesMut,
    truncated: bool,
}

impl RetryBuffer {
    fn keep(&mut self, piece: &[u8], purse: Option<&mut Purse>) {
        let needed = self.bytes.len() + piece.len();
        if self.truncated || needed > RETRY_BUFFER {
            return self.give_up();
        }
        // A body that is longer than what every request may hold costs memory that others could need more.
        let costs = needed > FREE && needed > self.bytes.capacity();
        let after = needed.next_power_of_two();
        if costs {
            if !purse.is_none_or(|purse| purse.charge(after - self.bytes.capacity())) {
                return self.give_up();
            }
            self.bytes.reserve(after - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }

    fn give_up(&mut self) {
        self.truncated = true;
        self.bytes = BytesMut::new();
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const RETRY_BUFFER: usize = 64 * 1024;
/// How long a stream that has said nothing about its body is waited for.
const FIRST_FRAME: Duration = Duration::from_millis(100);
/// What every request may keep of its body, to be sent a second time, without being charged for it.
const FREE: usize = 4 * 1024;
/// What is allocated at first for a body that comes in pieces.
const SMALLEST: usize = 1024;
/// What is awaited of a body whose length is known, before a backend is connected to.
const BEGINNING: u64 = 16 * 1024;
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
            max_body: u64::MAX,
            messages: None,
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

    /// The request's body may be silent for as long as it likes.
    pub fn await_body_without_limit(&mut self) {
        self.pace = None;
    }

    /// What the exchange and those who wait for it tell each other about how it goes on.
    pub fn control(&self) -> Arc<ExchangeControl> {
        self.control.clone()
    }

    /// Whatever the answer says of itself, it is a stream.
    pub fn expect_stream(&mut self) {
        self.streams = true;
    }

    pub fn body_read(&self) -> u64 {
        self.body_read
    }

    /// When the request's body had come whole, if there is one.
    pub fn uploaded(&self) -> Option<std::time::Instant> {
        self.uploaded
    }

    pub fn body_sent(&self) -> u64 {
        self.body_sent
    }

    /// Ends the exchange, and gives the connection back.
    #[inline]
    pub fn give_back(mut self) -> Option<Returned> {
        self.take_back()
    }

    /// The body is a gRPC stream: its bound is one on each message, for a stream may go on for hours.
    pub fn bound_messages(&mut self) {
        self.messages = Some(Messages::default());
    }

    /// Bounds the body that a road reads, in bytes.
    pub fn limit_body(&mut self, max_body: u64) {
        self.max_body = max_body;
    }

    /// Says where the memory for a body comes from.
    pub fn set_purse(&mut self, purse: Purse) {
        self.purse = Some(purse);
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        let paid = self.purse.as_mut().is_none_or(|purse| purse.charge(bytes));
        if paid { Ok(()) } else { Err(Error::new(BODY_BUDGET)) }
    }

    /// Adds to a body that is gathered. What is charged is what is allocated.
    fn gather(&mut self, whole: &mut BytesMut, piece: &[u8], bound: usize) -> Result<()> {
        let (needed, before) = (whole.len() + piece.len(), whole.capacity());
        if needed > before {
            let after = needed.max((2 * before).min(bound)).max(SMALLEST);
            self.charge(after - before)?;
            whole.reserve(after - whole.len());
        }
        whole.extend_from_slice(piece);
        Ok(())
    }

    /// Reads the whole body into memory. What is read is replayed to whoever reads the body later.
    ///
    /// # Errors
    /// [`BODY_TOO_LARGE`] beyond `bound`; [`BODY_BUDGET`] where there is no memory left for it; [`BODY_TIMEOUT`], [`BODY_MALFORMED`] or
    /// [`CLIENT_GONE`] if the body does not come whole.
    pub async fn buffer_body(&mut self, bound: usize) -> Result<Bytes> {
        if let Some(body) = &self.buffered {
            return Ok(body.clone());
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.read_body().await? {
            if whole.len() + piece.len() > bound {
                return Err(Error::new(BODY_TOO_LARGE));
            }
            if whole.is_empty() && self.wire_body_done() {
                self.charge(piece.len())?;
                self.buffered = Some(piece.clone());
                return Ok(piece);
            }
            self.gather(&mut whole, &piece, bound)?;
        }
        let whole = whole.freeze();
        self.buffered = Some(whole.clone());
        Ok(whole)
    }

    /// Waits for the beginning of a body of this framing, and keeps it for whoever reads the body later: a backend's connection is not for
    /// clients that have nothing to send yet. Where the length is known that is a good part of it; where it is not, whatever comes
    /// first, for the client may wait for a word in return.
    ///
    /// # Errors
    /// As [`Downstream::buffer_body`], and [`BODY_TOO_LARGE`] beyond what [`Downstream::limit_body`] said.
    pub async fn await_body(&mut self, framing: BodyFraming) -> Result<()> {
        let wanted = match framing {
            BodyFraming::Length(length) => length.min(BEGINNING) as usize,
            BodyFraming::Streamed => 1,
            BodyFraming::None => return Ok(()),
        };
        if self.buffered.is_some() || self.begun.is_some() {
            return Ok(());
        }
        let Some(first) = self.receive().await? else { return Ok(()) };
        if first.len() >= wanted {
            self.begun = Some(first);
            return Ok(());
        }
        let mut begun = BytesMut::new();
        self.gather(&mut begun, &first, wanted)?;
        drop(first);
        while begun.len() < wanted
            && let Some(piece) = self.receive().await?
        {
            self.gather(&mut begun, &piece, wanted)?;
        }
        self.begun = Some(begun.freeze());
        Ok(())
    }

    /// The next piece of the body, or `None` at its end.
    ///
    /// # Errors
    /// As [`Downstream::buffer_body`]. Cancel-safe.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let piece = match self.begun.take() {
            Some(begun) => Some(begun),
            None => self.receive().await?,
        };
        if let (Some(piece), Some(retry)) = (&piece, &mut self.retry) {
            retry.keep(piece, self.purse.as_mut());
        }
        Ok(piece)
    }

    /// The next piece of the body off the wire.
    async fn receive(&mut self) -> Result<Option<Bytes>> {
        let pace = self.pace.filter(|_| !self.control.is_endless());
        let limit = pace.map_or(Duration::MAX, |pace| pace.left(self.waited, self.body_read));
        let read = async {
            match &mut self.wire {
                Some(Wire::H1(wire)) => wire.read_body().await,
                Some(Wire::H2(stream)) => stream.read_body().await,
                None => Err(Error::new(CLIENT_GONE)),
            }
        };
        let piece = within(limit, counted(&mut self.waited, read)).await.map_err(|_| Error::new(BODY_TIMEOUT))??;
        if self.wire_body_done() {
            self.uploaded.get_or_insert_with(std::time::Instant::now);
        }
        if let Some(piece) = &piece {
            self.body_read += piece.len() as u64;
            self.control.note_read(self.body_read);
            let within = match &mut self.messages {
                None => self.body_read <= self.max_body,
                Some(messages) => messages.are_within(self.max_body, piece),
            };
            if !within {
                return Err(Error::new(BODY_TOO_LARGE));
            }
        }
        Ok(piece)
    }

    fn wire_body_done(&self) -> bool {
        if self.begun.is_some() {
            return false;
        }
        match &self.wire {
            Some(Wire::H1(wire)) => wire.body_done(),
            Some(Wire::H2(stream)) => stream.is_body_done(),
            None => true,
        }
    }

    /// Writes an answer of the gateway's own, a refusal or an error, as the client's `dialect` has it. `edits` are the fields that every
    /// answer carries.
    ///
    /// # Errors
    /// Only if the client cannot be written to.
    pub async fn reply(&mut self, reply: &Reply, dialect: Dialect, edits: &HeaderEdits, request_id: &RequestId) -> Result<()> {
        if let Some(Wire::H1(wire)) = &mut self.wire
            && (reply.close || wire.is_left_over(UNREAD))
        {
            wire.close_after();
        }
        if let Some(Wire::H1(wire)) = &mut self.wire {
            let worded = reply.worded(dialect, request_id);
            self.answered = true;
            if self.method != Method::HEAD {
                self.body_sent += worded.body.len() as u64;
            }
            wire.write_own(reply, &worded, request_id, edits, &self.method).await?;
            self.finished = true;
            return Ok(());
        }
        Box::pin(self.reply_to_stream(reply, dialect, edits, request_id)).await
    }

    async fn reply_to_stream(
        &mut self,
        reply: &Reply,
        dialect: Dialect,
        edits: &HeaderEdits,
        request_id: &RequestId,
    ) -> Result<()> {
        let (answer, body) = reply_parts(reply, dialect, edits, request_id)?;
        // A call's status in the head is the whole of the answer: one HEADERS frame that ends the stream.
        let bodiless = self.method == Method::HEAD || body.is_empty();
        self.write_head(Box::new(answer), bodiless).await?;
        if !bodiless {
            self.write_body(Bytes::from(body), true).await?;
        }
        self.finish().await
    }

    /// Writes the head of an answer that is given as a header map.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_head(&mut self, mut answer: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.answered {
            return Ok(());
        }
        if self.streams || is_endless(&answer) {
            self.control.set_endless();
        }
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_head(&mut answer, &self.method, end).await?,
            Some(Wire::H2(stream)) => {
                encode::strip(&mut answer);
                stream.write_head(*answer, end)?;
            }
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished |= end;
        self.answered = true;
        Ok(())
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.body_sent += data.len() as u64;
        self.control.note_sent(self.body_sent);
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_body(data, end).await?,
            Some(Wire::H2(_)) if data.is_empty() && !end => {}
            // Boxed: with the timers in it, it is larger than all that HTTP/1.1 may have to wait for.
            Some(Wire::H2(stream)) => Box::pin(stream.write_body(data, end)).await?,
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished |= end;
        Ok(())
    }

    /// A body that was read whole before the request went on its way.
    pub fn buffered(&self) -> Option<&Bytes> {
        self.buffered.as_ref()
    }

    /// Whether nothing of a body came or will come.
    pub fn body_is_empty(&self) -> bool {
        match (&self.buffered, &self.wire) {
            (Some(body), _) => body.is_empty(),
            (None, Some(Wire::H1(wire))) => self.body_read == 0 && wire.body_done(),
            (None, Some(Wire::H2(stream))) => stream.is_body_empty(),
            (None, None) => true,
        }
    }

    /// From now on what is read of the body is kept, up to 64 KiB, so that it can be sent a second time.
    pub fn keep_for_replay(&mut self) {
        if self.buffered.is_none() && self.retry.is_none() {
            self.retry = Some(RetryBuffer { bytes: BytesMut::new(), truncated: false });
        }
    }

    /// What was read of the body so far, if all of it was kept.
    pub fn replay(&self) -> Option<Bytes> {
        let retry = self.retry.as_ref().filter(|retry| !retry.truncated && !retry.bytes.is_empty())?;
        Some(retry.bytes.clone().freeze())
    }

    pub fn can_replay(&self) -> bool {
        !self.answered
            && (self.buffered.is_some() || self.body_read == 0 || self.retry.as_ref().is_some_and(|retry| !retry.truncated))
    }

    /// Whether the client waits for `100 Continue` before it sends its body.
    pub fn is_continue_owed(&self) -> bool {
        self.buffered.is_none()
            && match &self.wire {
                Some(Wire::H1(wire)) => wire.is_continue_owed(),
                Some(Wire::H2(stream)) => stream.is_continue_owed(),
                None => false,
            }
    }

    /// Passes the backend's `100 Continue` on, to a client that still waits for it.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn say_continue(&mut self) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.say_continue().await,
            Some(Wire::H2(stream)) => {
                stream.say_continue();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Waits until something of the body is there, or its end, without asking for it.
    pub async fn unasked(&mut self) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.unasked().await,
            Some(Wire::H2(stream)) => stream.unasked().await,
            None => {}
        }
    }

    /// Waits a moment for the first bytes of a stream's body, or for the news that there are none: a body that is empty needs no framing
    /// towards the backend, and one that has begun is not.
    pub async fn look_ahead(&mut self) {
        if let (None, None, Some(Wire::H2(stream))) = (&self.buffered, &self.begun, &mut self.wire)
            && !stream.is_body_done()
            && !stream.is_continue_owed()
        {
            let _ = Box::pin(within(FIRST_FRAME, stream.unasked())).await;
        }
    }

    /// The backend has answered, whole, before it had the whole request, and nothing else will be read of it: where it is known that
    /// the rest is not worth waiting for, this exchange is the connection's last.
    pub fn give_up_body(&mut self) {
        if let Some(Wire::H1(wire)) = &mut self.wire
            && wire.is_left_over(UNREAD)
        {
            wire.close_after();
        }
    }

    pub fn is_answered(&self) -> bool {
        self.answered
    }

    pub fn is_endless(&self) -> bool {
        self.control.is_endless()
    }

    /// Waits until the client resets its connection or stream, and takes nothing in.
    pub async fn reset(&mut self) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.reset().await,
            Some(Wire::H2(stream)) => stream.gone().await,
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

    /// Passes on an interim answer (103 and the like).
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.write_interim(answer).await,
            Some(Wire::H2(stream)) => {
                stream.write_interim(answer.status, h2::interim(answer)?);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes the head of a backend's answer, with the gateway's own changes. On HTTP/1.1 it may wait for the first piece of body.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_answer(
        &mut self,
        answer: &AnswerHead,
        request_id: &RequestId,
        edits: &HeaderEdits,
        via: Option<&HeaderValue>,
        end: bool,
    ) -> Result<()> {
        let switches = answer.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if switches || self.streams || streams(answer, edits) {
            self.control.set_endless();
        }
        match &mut self.wire {
            Some(Wire::H1(wire)) => {
                self.answered = true;
                wire.write_answer(answer, request_id, edits, via, &self.method, end).await
            }
            Some(Wire::H2(stream)) => {
                stream.write_head(h2::answer(answer, request_id, edits, via)?, end)?;
                self.answered = true;
                Ok(())
            }
            None => Err(Error::new(CLIENT_GONE)),
        }
    }

    /// The connection under an upgrade, what was read of it already, and how long the client may take nothing. It does not come back.
    pub fn into_tunnel(&mut self) -> Option<(h1::Io, BytesMut, Duration)> {
        match self.wire.take() {
            Some(Wire::H1(wire)) => Some(wire.into_tunnel()),
            _ => None,
        }
    }

    /// What a tunnel has carried so far.
    pub fn tunnelled(&mut self, read: u64, sent: u64) {
        (self.body_read, self.body_sent) = (read, sent);
        self.control.note_read(read);
        self.control.note_sent(sent);
    }

    /// The service has broken its stream off in the middle of the answer, for this reason. The client of a stream is told so; what the
    /// service says of the gateway (ENHANCE_YOUR_CALM and the like) is not about the client.
    pub fn pass_reset(&mut self, reason: ::h2::Reason) {
        use ::h2::Reason;
        if let Some(Wire::H2(stream)) = &mut self.wire {
            stream.reset(if reason == Reason::CANCEL { reason } else { Reason::INTERNAL_ERROR });
        }
    }

    /// Ends an answer that has begun with a call's status (gRPC): the one thing that its client can still be told.
    pub fn end_call(&mut self, fields: HeaderMap) {
        if let Some(Wire::H2(stream)) = &mut self.wire {
            // A stream that is over needs no end.
            let _ = stream.write_trailers(fields);
        }
    }

    /// Sends what still waits to be sent with something else.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn flush(&mut self) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.flush().await,
            _ => Ok(()),
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// The client cannot be written to, or got less than was announced.
    pub async fn finish(&mut self) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.finish().await?,
            Some(Wire::H2(stream)) => stream.finish()?,
            None => return Err(Error::new(CLIENT_GONE)),
        }
        self.finished = true;
        Ok(())
    }

    /// Ends the answer with these trailer fields: behind chunks only if the client `wants` them. On HTTP/2 everybody can take them.
    ///
    /// # Errors
    /// As [`Downstream::finish`].
    pub async fn finish_with(&mut self, fields: HeaderMap, wants: bool) -> Result<()> {
        match &mut self.wire {
            Some(Wire::H1(wire)) if wants => wire.finish_with(&fields).await?,
            Some(Wire::H2(stream)) if !fields.is_empty() => stream.write_trailers(fields)?,
            _ => return self.finish().await,
        }
        self.finished = true;
        Ok(())
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

/// Upgrades and streams end when their parties say so.
pub fn is_endless(answer: &ResponseHeader) -> bool {
    let kind = answer.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    answer.status == http::StatusCode::SWITCHING_PROTOCOLS || is_stream(kind)
}

/// Whether a backend's answer says that it is a stream, or the last policy that has a say in that.
fn streams(answer: &AnswerHead, edits: &HeaderEdits) -> bool {
    match edits.iter().rev().find(|edit| *edit.name() == header::CONTENT_TYPE) {
        None => answer.header_all("content-type").any(is_stream),
        Some(HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value)) => is_stream(value.as_bytes()),
        Some(HeaderEdit::Remove(_)) => false,
    }
}

/// Media types of which an answer has no end of its own: events, lines of JSON, messages, pictures of a camera.
const STREAMS: [&str; 8] = [
    "text/event-stream",
    "application/grpc",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-seq",
    "application/stream+json",
    "multipart/x-mixed-replace",
];

fn is_stream(content_type: &[u8]) -> bool {
    let begins = |kind: &&str| content_type.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind.as_bytes()));
    // The shortest of them has 16 bytes, and the commonest of others has fewer.
    content_type.len() >= 16 && STREAMS.iter().any(begins)
}

/// An answer of the gateway's own, ready to be written.
///
/// # Errors
/// Never in practice: every name and value was checked when it was made.
pub fn reply_parts(
    reply: &Reply,
    dialect: Dialect,
    edits: &HeaderEdits,
    request_id: &RequestId,
) -> Result<(ResponseHeader, Vec<u8>)> {
    let worded = reply.worded(dialect, request_id);
    let mut answer = ResponseHeader::build(worded.status, Some(8))?;
    if !encode::is_bodiless(worded.status) {
        answer.insert_header(header::CONTENT_TYPE, worded.media_type)?;
        if !dialect.is_grpc() {
            answer.insert_header(header::CONTENT_LENGTH, worded.body.len())?;
        }
        answer.insert_header(header::CACHE_CONTROL, "no-store")?;
    }
    for (name, value) in reply.headers.iter().chain(&worded.fields) {
        answer.append_header(name.clone(), value.clone())?;
    }
    apply_to_response(&mut answer, request_id, edits);
    Ok((answer, worded.body))
}

/// Gives an answer the request's id, then applies changes to it, in their order.
pub fn apply_to_response(answer: &mut ResponseHeader, request_id: &RequestId, edits: &HeaderEdits) {
    // As below: it cannot fail in practice.
    let _ = answer.insert_header(X_REQUEST_ID, request_id.as_bytes());
    for edit in edits {
        // Names and values were checked when they were made, so only an absurd number of fields could fail here; the answer then
        // goes out without that one.
        let _ = match edit {
            HeaderEdit::Set(name, value) => answer.insert_header(name.clone(), value.clone()),
            HeaderEdit::Add(name, value) => answer.append_header(name.clone(), value.clone()).map(drop),
            HeaderEdit::Remove(name) => {
                answer.remove_header(name);
                Ok(())
            }
        };
    }
}

/// The request as the backend shall see it: the client's fields without what belongs to the connection, then what the gateway tells, then
/// the policies' changes.
///
/// # Errors
/// Fields that `http` does not take, which the head reader has refused already.
pub fn upstream_request(head: &RequestHead, target: Option<&str>, exchange: &Exchange) -> Result<Box<RequestHeader>> {
    let query = head.query();
    let built;
    let target = match (target, query) {
        (Some(target), _) => target,
        (None, None) => head.path.as_str(),
        (None, Some(query)) => {
            built = format!("{}?{query}", head.path);
            &built
        }
    };
    let mut request = Box::new(RequestHeader::build(head.method.clone(), target.as_bytes(), Some(head.fields.len() + 8))?);
    request.set_version(head.version);
    for field in &head.fields {
        let name = field.name.of(&head.buffer);
        if passes(name, exchange.trusted_identity) && !is_gateways(name) {
            let name = String::from_utf8_lossy(name).into_owned();
            let value =
                pingora_http::header_value_from_raw(head.buffer.slice(field.value.start as usize..field.value.end as usize));
            request.append_header(name, value)?;
        }
    }
    let authority = exchange.upstream_host.as_deref().map_or_else(|| head.authority(), str::as_bytes);
    request.insert_header(header::HOST, pingora_http::header_value_from_slice(authority))?;
    if head.upgrade
        && let Some(protocol) = head.header("upgrade")
    {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, pingora_http::header_value_from_slice(protocol))?;
    }
    // gRPC servers insist on it (and HTTP/1.1 backends never see it, for it only comes from HTTP/2 clients).
    if head.header("te").is_some_and(|te| te.eq_ignore_ascii_case(b"trailers")) && head.version == http::Version::HTTP_2 {
        request.insert_header(header::TE, "trailers")?;
    }
    request.insert_header(TRACEPARENT, exchange.traceparent.as_slice())?;
    request.insert_header(X_REQUEST_ID, exchange.request_id.as_bytes())?;
    let told = exchange.told.iter().flat_map(|told| &told.edits);
    for edit in told.chain(&exchange.to_upstream) {
        match edit {
            HeaderEdit::Set(name, value) => request.insert_header(name.clone(), value.clone())?,
            HeaderEdit::Add(name, value) => request.append_header(name.clone(), value.clone()).map(drop)?,
            HeaderEdit::Remove(name) => {
                request.remove_header(name);
            }
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_sees_no_hop_by_hop_field() {
        let head = RequestHead::build(
            "GET",
            "/a?b",
            &[
                ("Host", "h"),
                ("Connection", "close"),
                ("Keep-Alive", "1"),
                ("X_Auth_Subject", "root"),
                ("X-Auth-Subject", "root"),
                ("X-Consumer-Name", "root"),
                ("Accept", "*/*"),
                ("TE", "trailers"),
            ],
        );
        let request = upstream_request(&head, None, &Exchange::for_tests()).unwrap();
        let mut names: Vec<_> = request.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "traceparent", "x-request-id"]);
        assert_eq!(request.raw_path(), b"/a?b");
    }

    #[test]
    fn whether_an_answer_streams_is_for_the_last_policy_to_say() {
        let answer = |kind: &str| {
            let raw = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n");
            crate::wire::answer::take(&mut BytesMut::from(raw.as_bytes()), &Method::GET, &Default::default()).unwrap().unwrap()
        };
        let set = |kind| HeaderEdit::Set(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        let (events, plain) = (answer("text/event-stream; charset=utf-8"), answer("text/plain"));
        assert!(streams(&events, &HeaderEdits::new()) && !streams(&plain, &HeaderEdits::new()));
        assert!(streams(&plain, &vec![set("text/plain"), set("application/grpc")]));
        assert!(!streams(&events, &vec![set("text/html")]));
        assert!(!streams(&events, &vec![HeaderEdit::Remove(header::CONTENT_TYPE)]));
    }
}
