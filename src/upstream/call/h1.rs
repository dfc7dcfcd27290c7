//! One exchange over one HTTP/1.1 connection: the request there, the answer back.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::AsyncReadExt;

use super::client::Client;
use super::request::{self, SentFraming};
use super::transport::{Transport, Turn};
use super::{Broken, CONTINUE_AFTER, Call, Came, Piece, gone, head_limit, pass_interim};
use crate::upstream::Service;
use crate::upstream::gate::Place;
use crate::wait::{Alarm, Pace, counted, within};
use crate::wire::answer::{self, AnswerHead, BadAnswer};
use crate::wire::body::{BodyDecoder, Decoded};
use crate::wire::{encode, scratch, trailers};

/// Read at once; doubled for answers that turn out to be long.
const READ: usize = scratch::SIZE;
const READ_MORE: usize = 128 * 1024;
/// What fits into a fresh connection's send buffer, so that writing it cannot wait for the service to read.
const WRITE_AT_ONCE: usize = 64 * 1024;
/// A body up to this size, which is whole in memory, is copied behind the head to leave with it.
const COPIED: usize = 16 * 1024;

/// A connection, and where it stands in its exchange.
pub struct Line {
    transport: Transport,
    read: BytesMut,
    kept: bool,
    /// The exchange ended cleanly, and the service keeps the connection open.
    clean: bool,
    /// For the wait for answers.
    alarm: Alarm,
    sending: Sending,
    /// What is still to come of the answer.
    body: BodyDecoder,
    came: Came,
    /// The answer began before the service had the whole request.
    early: bool,
    /// How much is read at once.
    amount: usize,
    /// When the attempt's time for the answer's head is over, where it has one.
    due: Option<Instant>,
    /// Its place at an endpoint that has room for so many. Behind the transport: it is free once that is closed.
    place: Option<Place>,
}

impl Line {
    /// Gives it the place that it takes.
    pub fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Its place, for who keeps both.
    pub fn take_place(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// `alarm`: what the wait for the connection was timed with, if it was.
    pub fn new(transport: Transport, alarm: Alarm) -> Self {
        Line {
            transport,
            read: BytesMut::new(),
            kept: false,
            clean: false,
            alarm,
            sending: Sending::default(),
            body: BodyDecoder::Done,
            came: Came::default(),
            early: false,
            amount: READ,
            due: None,
            place: None,
        }
    }

    /// Whether this connection has carried an exchange before.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The connection, made ahead of the request that it will carry. Until then it may end like one that is kept.
    pub fn waiting(mut self: Box<Self>) -> Box<Self> {
        self.kept = true;
        self
    }

    /// The connection, if it can carry another exchange. Bytes after the answer are nobody's: it is closed then.
    pub fn reusable(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.clean || !self.read.is_empty() {
            return None;
        }
        // Idle, it holds no buffer.
        self.read = BytesMut::new();
        self.sending.pending = Pending::default();
        (self.kept, self.clean, self.early, self.amount) = (true, false, false, READ);
        Some(self)
    }

    /// Whether nothing has come since the last answer: an end, or bytes that nobody asked for. Either way the connection is of no use.
    pub fn is_silent(&mut self) -> bool {
        self.transport.is_silent()
    }

    /// The connection under an upgrade, what was read of it already, what its waits are timed with, and its place.
    pub fn into_tunnel(self) -> (Transport, BytesMut, Alarm, Option<Place>) {
        (self.transport, self.read, self.alarm, self.place)
    }

    /// How the connection ended, when it did so in order.
    fn ended(&self) -> Broken {
        if self.read.is_empty() { Broken::Stale } else { Broken::Lost }
    }

    /// Sends the request, and waits for the head of the final answer.
    ///
    /// # Errors
    /// See [`Broken`].
    pub async fn ask<C: Client>(
        &mut self,
        call: &Call<'_>,
        attempt: u32,
        client: &mut C,
        service: &Service,
    ) -> Result<Box<AnswerHead>, Broken> {
        self.begin(call, attempt, client, service);
        // A longer one is written while the answer is watched for: it may come first.
        if self.sending.done && self.sending.pending.remaining() <= WRITE_AT_ONCE {
            let Line { transport, sending, .. } = self;
            match within(service.timeouts.write, transport.write(&mut sending.pending)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.sending.give_up(),
                Err(_) => return Err(Broken::TimedOut),
            }
        }
        let answer = self.interim_and_final(call, client, service).await?;
        (self.body, self.came) = (answer.body, Came::default());
        // A service that answers before it has the whole request may not read the rest as a part of it.
        self.early = !self.sending.done || self.sending.pending.has_remaining() || self.sending.failed;
        if self.early && self.sending.withheld.take().is_some() {
            // The client was not asked for its body, and now it will not be.
            self.sending.done = true;
        }
        Ok(answer)
    }

    /// Whether the service has answered, whole, before it had the whole request, and nothing else will be read of it.
    pub fn is_early(&self) -> bool {
        self.early && is_at_hand(self.body, &self.read)
    }

    /// Whether the client has sent all of its request, be it on its way still.
    pub fn has_all_of_the_request(&self) -> bool {
        self.sending.done && !self.sending.cut
    }

    /// The request's head, and what there is of its body already.
    fn begin<C: Client>(&mut self, call: &Call<'_>, attempt: u32, client: &mut C, service: &Service) {
        self.due = None;
        let mut out = Vec::with_capacity(1024);
        let buffered = client.buffered().cloned();
        let expects = client.is_continue_owed();
        let framing = request::write(&mut out, &call.parts(attempt, buffered.as_ref(), client.body_is_empty(), expects));
        let sending = &mut self.sending;
        *sending = Sending {
            framing,
            pending: Pending { bytes: out, sent: 0, body: Bytes::new() },
            done: framing == SentFraming::None,
            failed: false,
            cut: false,
            withheld: expects.then(|| tokio::time::Instant::now() + CONTINUE_AFTER),
        };
        if let Some(body) = buffered.filter(|_| framing != SentFraming::None) {
            match body.len() {
                ..=COPIED => sending.frame(&body),
                _ => sending.pending.body = body,
            }
            sending.done = true;
        } else if !sending.done {
            client.keep_for_replay(service.retries.buffer());
            if let Some(replay) = client.replay() {
                sending.frame(&replay);
            }
        }
    }

    /// Waits for the final answer's head, and sends the body meanwhile.
    async fn interim_and_final<C: Client>(
        &mut self,
        call: &Call<'_>,
        client: &mut C,
        service: &Service,
    ) -> Result<Box<AnswerHead>, Broken> {
        for seen in 0..=service.limits.interim {
            let head = loop {
                if !self.read.is_empty()
                    && let Some(head) = answer::take(&mut self.read, call.method(), &service.limits).map_err(Broken::Bad)?
                {
                    break head;
                }
                self.step(client, service).await?;
            };
            if !head.status.is_informational() {
                return Ok(head);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                // Nobody asked for it, or not for this. To the client everything behind it would be the answer, to the service everything
                // behind the request a protocol that no one here understands.
                return if call.may_switch() { Ok(head) } else { Err(Broken::Bad(BadAnswer::Malformed)) };
            }
            if seen == service.limits.interim {
                break;
            }
            pass_interim(&head, Some(&mut self.sending.withheld), client).await?;
        }
        Err(Broken::Bad(BadAnswer::TooLarge))
    }

    /// Waits for whatever comes first: a piece of the request's body, room to send it, bytes of the answer, or the client's end.
    async fn step<C: Client>(&mut self, client: &mut C, service: &Service) -> Result<(), Broken> {
        if self.sending.pending.has_remaining() {
            return Box::pin(self.send_or_read(client, service)).await;
        }
        if let Some(due) = self.sending.withheld {
            return Box::pin(self.word_or_body(client, due)).await;
        }
        let reading = !self.sending.done;
        let limit = if reading { Duration::MAX } else { head_limit(&mut self.due, service) };
        let event = {
            let Line { transport, read, alarm, .. } = self;
            let first = async {
                tokio::select! {
                    biased;
                    count = scratch::read(transport, read) => Ok(Event::Answer(count)),
                    event = body_or_end(client, reading) => event,
                }
            };
            alarm.within(limit, first).await.map_err(|_| Broken::TimedOut)?
        };
        match event.map_err(Broken::Client)? {
            // After a failed write an end may stand for that failure.
            Event::Answer(Ok(0)) if self.sending.failed => Err(Broken::Failed),
            Event::Answer(Ok(0)) => Err(self.ended()),
            Event::Answer(Ok(_)) => Ok(()),
            Event::Answer(Err(_)) => Err(Broken::Failed),
            Event::Piece(Some(piece)) => {
                self.sending.frame(&piece);
                Ok(())
            }
            Event::Piece(None) => {
                self.sending.end();
                Ok(())
            }
            Event::Gone => Err(gone()),
        }
    }

    /// What is left of the request is written, and what comes of the answer meanwhile is read. A client that goes away while the service
    /// does not read ends the exchange.
    async fn send_or_read<C: Client>(&mut self, client: &mut C, service: &Service) -> Result<(), Broken> {
        let turn = self.transport.turn(&mut self.read, READ, &mut self.sending.pending);
        let turned = tokio::select! {
            biased;
            turned = within(service.timeouts.write, turn) => turned,
            () = client.reset() => return Err(gone()),
        };
        match turned {
            Ok(Ok(Turn::Read(0))) => Err(self.ended()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => {
                self.sending.give_up();
                Ok(())
            }
            Err(_) => Err(Broken::TimedOut),
        }
    }

    /// The client waits for `100 Continue`: what comes of the answer is read, until the service has said it, the client sends its body
    /// unasked, or the wait is over.
    async fn word_or_body<C: Client>(&mut self, client: &mut C, due: tokio::time::Instant) -> Result<(), Broken> {
        let Line { transport, read, .. } = self;
        tokio::select! {
            biased;
            count = scratch::read(transport, read) => match count {
                Ok(0) => Err(self.ended()),
                Ok(_) => Ok(()),
                Err(_) => Err(Broken::Failed),
            },
            _ = tokio::time::timeout_at(due, client.unasked()) => {
                self.sending.withheld = None;
                Ok(())
            }
        }
    }

    /// What there is of the answer's body without waiting.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn take(&mut self) -> Result<Option<Piece>, Broken> {
        if self.body.is_done() {
            return Ok(Some(Piece::End));
        }
        let before = self.read.len();
        match self.body.decode(&mut self.read).map_err(|_| Broken::MidAnswer)? {
            Decoded::Data(piece) => {
                if before >= self.amount {
                    self.amount = READ_MORE;
                }
                Ok(Some(Piece::Data(piece, self.body.is_done())))
            }
            Decoded::Trailers(section) => Ok(Some(Piece::Trailers(trailers::read(&section)))),
            Decoded::NeedMore | Decoded::End if self.body.is_done() => Ok(Some(Piece::End)),
            Decoded::NeedMore | Decoded::End => Ok(None),
        }
    }

    /// Waits for more of the answer's body, and sends what is left of the request's meanwhile. `pace` bounds the wait; as long as there is
    /// something to send it may be the client who is waited for, so that only silence counts.
    ///
    /// # Errors
    /// [`Broken::Client`], [`Broken::TimedOut`], [`Broken::TooSlow`] or [`Broken::MidAnswer`].
    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service, pace: Pace) -> Result<(), Broken> {
        if !self.sending.done || self.sending.pending.has_remaining() {
            return match within(pace.silence, self.step(client, service)).await.unwrap_or(Err(Broken::TimedOut)) {
                Ok(()) => Ok(()),
                Err(Broken::Stale | Broken::Lost) if self.body == BodyDecoder::UntilClose => {
                    self.body = BodyDecoder::Done;
                    Ok(())
                }
                Err(Broken::Client(error)) => Err(Broken::Client(error)),
                Err(Broken::TimedOut) => Err(Broken::TimedOut),
                Err(_) => Err(Broken::MidAnswer),
            };
        }
        let amount = self.amount;
        // An answer may be endless: a client that goes away meanwhile ends the exchange.
        let count = tokio::select! {
            biased;
            count = self.fill(amount, pace) => count.map_err(|broken| match broken {
                Broken::TimedOut | Broken::TooSlow => broken,
                _ => Broken::MidAnswer,
            })?,
            () = client.gone() => return Err(gone()),
        };
        match count {
            0 if self.body == BodyDecoder::UntilClose && !self.sending.failed => self.body = BodyDecoder::Done,
            0 => return Err(Broken::MidAnswer),
            _ => {}
        }
        Ok(())
    }

    /// The answer is whole, and was passed on. `keep_alive`: the service keeps the connection open.
    pub fn end(&mut self, keep_alive: bool) {
        self.clean = keep_alive && !self.early;
    }

    async fn fill(&mut self, amount: usize, pace: Pace) -> Result<usize, Broken> {
        let (limit, late) = self.came.left(pace);
        let Line { transport, read, alarm, came, .. } = self;
        let filling = async {
            if amount <= scratch::SIZE {
                return scratch::read(transport, read).await;
            }
            read.reserve(amount);
            transport.read_buf(read).await
        };
        match alarm.within(limit, counted(&mut came.waited, filling)).await {
            Ok(Ok(count)) => {
                came.bytes += count as u64;
                Ok(count)
            }
            Ok(Err(_)) => Err(Broken::Failed),
            Err(_) => Err(late),
        }
    }
}

enum Event {
    Answer(io::Result<usize>),
    Piece(Option<Bytes>),
    Gone,
}

/// The next piece of the request's body, or, once it is sent, the client's end.
async fn body_or_end<C: Client>(client: &mut C, reading: bool) -> pingora_error::Result<Event> {
    if reading {
        // Boxed: most requests have no body.
        return Box::pin(client.read_body()).await.map(Event::Piece);
    }
    client.gone().await;
    Ok(Event::Gone)
}

/// Whether all that is left of an answer was read already.
fn is_at_hand(mut body: BodyDecoder, read: &BytesMut) -> bool {
    let mut rest = read.clone();
    while let Ok(Decoded::Data(_)) = body.decode(&mut rest) {}
    body.is_done()
}

/// Bytes on their way to a socket. The space is used again once all are gone.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
    /// Behind them, a body that is whole in memory: too large to be copied.
    body: Bytes,
}

impl Buf for Pending {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.sent + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()).unwrap_or(&self.body)
    }

    fn advance(&mut self, count: usize) {
        let before = count.min(self.bytes.len() - self.sent);
        self.sent += before;
        self.body.advance(count - before);
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

/// The request's body on its way to the service.
#[derive(Default)]
struct Sending {
    framing: SentFraming,
    /// Bytes that are framed and wait for the socket.
    pending: Pending,
    done: bool,
    /// The service takes no more. What it has said before is still read.
    failed: bool,
    /// It failed before the client had sent all.
    cut: bool,
    /// The body is not asked for before the service says so, or this moment.
    withheld: Option<tokio::time::Instant>,
}

impl Sending {
    fn frame(&mut self, piece: &Bytes) {
        match self.framing {
            SentFraming::Chunked => {
                encode::chunk_head(&mut self.pending.bytes, piece.len());
                self.pending.bytes.extend_from_slice(piece);
                self.pending.bytes.extend_from_slice(b"\r\n");
            }
            _ => self.pending.bytes.extend_from_slice(piece),
        }
    }

    /// Without the request's trailers: services that merge them into the head would see what no policy has seen.
    fn end(&mut self) {
        if self.framing == SentFraming::Chunked {
            self.pending.bytes.extend_from_slice(encode::LAST_CHUNK);
        }
        self.done = true;
    }

    /// Nothing else is sent. A service that has answered and closed resets what comes behind its answer; the answer stands.
    fn give_up(&mut self) {
        self.pending = Pending::default();
        self.withheld = None;
        self.cut = !self.done;
        self.done = true;
        self.failed = true;
    }
}
