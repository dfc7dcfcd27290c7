//! One exchange over one backend connection: the request there, the answer back.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use pingora_error::Error;
use tokio::io::AsyncReadExt;

use super::request::{self, Parts, SentFraming};
use super::transport::{Transport, Turn};
use crate::downstream::{CONTINUE_AFTER, Downstream};
use crate::journey::Journey;
use crate::upstream::Service;
use crate::wait::{Alarm, within};
use crate::wire::answer::{self, AnswerHead, BadAnswer};
use crate::wire::body::{BodyDecoder, Decoded};
use crate::wire::{encode, scratch, trailers};

/// Read at once; doubled for answers that turn out to be long.
const READ: usize = scratch::SIZE;
const READ_MORE: usize = 128 * 1024;
/// What fits into a fresh connection's send buffer, so that writing it cannot wait for the backend to read.
const WRITE_AT_ONCE: usize = 64 * 1024;
/// A body up to this size, which is whole in memory, is copied behind the head to leave with it.
const COPIED: usize = 16 * 1024;

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
    /// The answer cannot be passed on.
    Bad(BadAnswer),
    /// The client's side failed.
    Client(Box<Error>),
    /// The backend's side failed after the client had been sent the answer's head.
    MidAnswer,
}

impl Broken {
    /// Whether the backend, rather than the client, is to blame.
    pub fn is_backends(&self) -> bool {
        !matches!(self, Broken::Client(_))
    }
}

/// A connection to a backend.
pub struct Upstream {
    transport: Transport,
    read: BytesMut,
    kept: bool,
    /// The exchange ended cleanly, and the backend keeps the connection open.
    clean: bool,
    /// For the wait for answers.
    alarm: Alarm,
}

impl Upstream {
    pub fn new(transport: Transport) -> Self {
        Upstream { transport, read: BytesMut::new(), kept: false, clean: false, alarm: Alarm::default() }
    }

    /// Whether this connection has carried an exchange before.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// The connection, if it can carry another exchange. Bytes after the answer are nobody's: it is closed then.
    pub fn reusable(self) -> Option<Upstream> {
        // Idle, it holds no buffer.
        let idle = Upstream { read: BytesMut::new(), kept: true, clean: false, ..self };
        (self.clean && self.read.is_empty()).then_some(idle)
    }

    /// Whether nothing has come since the last answer: an end, or bytes that nobody asked for. Either way the connection is of no use.
    pub fn is_silent(&mut self) -> bool {
        self.transport.is_silent()
    }

    /// How the connection ended, when it did so in order.
    fn ended(&self) -> Broken {
        if self.read.is_empty() { Broken::Stale } else { Broken::Lost }
    }

    async fn fill(&mut self, amount: usize, limit: Duration) -> Result<usize, Broken> {
        let Upstream { transport, read, alarm, .. } = self;
        let filling = async {
            if amount <= scratch::SIZE {
                return scratch::read(transport, read).await;
            }
            read.reserve(amount);
            transport.read_buf(read).await
        };
        match alarm.within(limit, filling).await {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(_)) => Err(Broken::Failed),
            Err(_) => Err(Broken::TimedOut),
        }
    }

    async fn write(&mut self, bytes: &mut impl Buf, limit: Duration) -> Result<(), Broken> {
        match within(limit, self.transport.write(bytes)).await {
            Ok(written) => written.map_err(|_| Broken::Failed),
            Err(_) => Err(Broken::TimedOut),
        }
    }
}

/// Bytes on their way to a socket. The space is used again once all are gone.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
    /// Behind them, a body that is whole in memory: too large to be copied.
    body: Bytes,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.remaining() == 0
    }
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

/// The request's body on its way to the backend.
struct Sending {
    framing: SentFraming,
    /// Bytes that are framed and wait for the socket.
    pending: Pending,
    done: bool,
    /// The backend takes no more. What it has said before is still read.
    failed: bool,
    /// The body is not asked for before the backend says so, or this moment.
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

    fn end(&mut self) {
        if self.framing == SentFraming::Chunked {
            self.pending.bytes.extend_from_slice(encode::LAST_CHUNK);
        }
        self.done = true;
    }

    /// Nothing else is sent. A backend that has answered and closed resets what comes behind its answer; the answer stands.
    fn give_up(&mut self) {
        self.pending = Pending::default();
        self.withheld = None;
        self.done = true;
        self.failed = true;
    }
}

/// Sends the request and relays the answer.
pub async fn exchange(up: &mut Upstream, journey: &mut Journey, down: &mut Downstream, service: &Service) -> Result<(), Broken> {
    let mut sending = begin(journey, down);
    // A longer one is written while the answer is watched for: it may come first.
    if sending.done && sending.pending.remaining() <= WRITE_AT_ONCE {
        match up.write(&mut sending.pending, service.timeouts.write).await {
            Err(Broken::Failed) => sending.give_up(),
            written => written?,
        }
    }
    let answer = interim_and_final(up, journey, down, service, &mut sending).await?;
    journey.answer_began(down.uploaded());
    relay(up, journey, down, service, &mut sending, answer).await
}

/// The request's head, and what there is of its body already.
fn begin(journey: &Journey, down: &mut Downstream) -> Sending {
    let mut out = Vec::with_capacity(1024);
    let target = journey.upstream_target();
    let buffered = down.buffered().cloned();
    let expects = down.is_continue_owed();
    let parts = Parts {
        head: &journey.head,
        target: target.as_deref(),
        exchange: &journey.exchange,
        buffered: buffered.as_ref().map(Bytes::len),
        empty: down.body_is_empty(),
        expects,
    };
    let framing = request::write(&mut out, &parts);
    let mut sending = Sending {
        framing,
        pending: Pending { bytes: out, sent: 0, body: Bytes::new() },
        done: framing == SentFraming::None,
        failed: false,
        withheld: expects.then(|| tokio::time::Instant::now() + CONTINUE_AFTER),
    };
    if let Some(body) = buffered {
        match body.len() {
            ..=COPIED => sending.frame(&body),
            _ => sending.pending.body = body,
        }
        sending.done = true;
    } else if !sending.done {
        down.keep_for_replay();
        if let Some(replay) = down.replay() {
            sending.frame(&replay);
        }
    }
    sending
}

/// Waits for the final answer's head, and sends the body meanwhile.
async fn interim_and_final(
    up: &mut Upstream,
    journey: &Journey,
    down: &mut Downstream,
    service: &Service,
    sending: &mut Sending,
) -> Result<Box<AnswerHead>, Broken> {
    for seen in 0..=service.limits.interim {
        let head = loop {
            if !up.read.is_empty()
                && let Some(head) = answer::take(&mut up.read, &journey.head.method, &service.limits).map_err(Broken::Bad)?
            {
                break head;
            }
            step(up, down, service, sending).await?;
        };
        if !head.status.is_informational() {
            return Ok(head);
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: requests to upgrade take the other road.
            return Err(Broken::Bad(BadAnswer::Malformed));
        }
        if seen == service.limits.interim {
            break;
        }
        if head.status == StatusCode::CONTINUE {
            sending.withheld = None;
            down.say_continue().await.map_err(Broken::Client)?;
        } else {
            down.write_interim(&head).await.map_err(Broken::Client)?;
        }
    }
    Err(Broken::Bad(BadAnswer::TooLarge))
}

/// Waits for whatever comes first: a piece of the request's body, room to send it, bytes of the answer, or the client's end.
async fn step(up: &mut Upstream, down: &mut Downstream, service: &Service, sending: &mut Sending) -> Result<(), Broken> {
    if sending.pending.has_remaining() {
        return Box::pin(send_or_read(up, down, service, sending)).await;
    }
    if let Some(due) = sending.withheld {
        return Box::pin(word_or_body(up, down, sending, due)).await;
    }
    let reading = sending.pending.is_empty() && !sending.done;
    let limit = if sending.done { service.timeouts.response } else { Duration::MAX };
    let event = {
        let Upstream { transport, read, alarm, .. } = up;
        let first = async {
            tokio::select! {
                biased;
                count = scratch::read(transport, read) => Ok(Event::Answer(count)),
                event = client(down, reading), if reading || sending.done => event,
            }
        };
        alarm.within(limit, first).await.map_err(|_| Broken::TimedOut)?
    };
    match event.map_err(Broken::Client)? {
        // After a failed write an end may stand for that failure.
        Event::Answer(Ok(0)) if sending.failed => Err(Broken::Failed),
        Event::Answer(Ok(0)) => Err(up.ended()),
        Event::Answer(Ok(_)) => Ok(()),
        Event::Answer(Err(_)) => Err(Broken::Failed),
        Event::Piece(Some(piece)) => {
            sending.frame(&piece);
            Ok(())
        }
        Event::Piece(None) => {
            sending.end();
            Ok(())
        }
        Event::Gone => Err(gone()),
    }
}

/// What is left of the request is written, and what comes of the answer meanwhile is read. A client that goes away while the backend does
/// not read ends the exchange.
async fn send_or_read(up: &mut Upstream, down: &mut Downstream, service: &Service, sending: &mut Sending) -> Result<(), Broken> {
    let turn = up.transport.turn(&mut up.read, READ, &mut sending.pending);
    let turned = tokio::select! {
        biased;
        turned = within(service.timeouts.write, turn) => turned,
        () = down.reset() => return Err(gone()),
    };
    match turned {
        Ok(Ok(Turn::Read(0))) => Err(up.ended()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => {
            sending.give_up();
            Ok(())
        }
        Err(_) => Err(Broken::TimedOut),
    }
}

/// The client waits for `100 Continue`: what comes of the answer is read, until the backend has said it, the client sends its body
/// unasked, or the wait is over.
async fn word_or_body(
    up: &mut Upstream,
    down: &mut Downstream,
    sending: &mut Sending,
    due: tokio::time::Instant,
) -> Result<(), Broken> {
    let Upstream { transport, read, .. } = up;
    tokio::select! {
        biased;
        count = scratch::read(transport, read) => match count {
            Ok(0) => Err(up.ended()),
            Ok(_) => Ok(()),
            Err(_) => Err(Broken::Failed),
        },
        _ = tokio::time::timeout_at(due, down.unasked()) => {
            sending.withheld = None;
            Ok(())
        }
    }
}

fn gone() -> Broken {
    Broken::Client(Error::new(crate::downstream::CLIENT_GONE))
}

enum Event {
    Answer(io::Result<usize>),
    Piece(Option<Bytes>),
    Gone,
}

/// The next piece of the request's body, or, once it is sent, the client's end.
async fn client(down: &mut Downstream, reading: bool) -> pingora_error::Result<Event> {
    if reading {
        // Boxed: most requests have no body.
        return Box::pin(down.read_body()).await.map(Event::Piece);
    }
    down.gone().await;
    Ok(Event::Gone)
}

/// Passes the answer on, and what is left of the request's body meanwhile.
async fn relay(
    up: &mut Upstream,
    journey: &mut Journey,
    down: &mut Downstream,
    service: &Service,
    sending: &mut Sending,
    mut answer: Box<AnswerHead>,
) -> Result<(), Broken> {
    journey.changed(answer.status, answer.headers());
    journey.answered(answer.status);
    // A backend that answers before it has the whole request may not read the rest as a part of it.
    let early = !sending.done || sending.pending.has_remaining() || sending.failed;
    if early {
        if sending.withheld.take().is_some() {
            // It was not asked for its body, and now it will not be.
            sending.done = true;
        }
        if is_at_hand(answer.body, &up.read) {
            down.give_up_body();
        }
    }
    let end = answer.body.is_done();
    let exchange = &journey.exchange;
    let via = exchange.via(answer.version);
    down.write_answer(&answer, &exchange.request_id, &exchange.to_client, via, end).await.map_err(Broken::Client)?;
    let mut amount = READ;
    while !answer.body.is_done() {
        let before = up.read.len();
        match next_piece(&mut answer.body, &mut up.read)? {
            Some(Decoded::Trailers(section)) => {
                let mut fields = trailers::read(&section);
                trailers::filter(&mut fields, &journey.exchange.to_client);
                down.finish_with(fields, trailers::wanted(&journey.head)).await.map_err(Broken::Client)?;
                break;
            }
            Some(Decoded::Data(piece)) => {
                let last = answer.body.is_done();
                if before >= amount {
                    amount = READ_MORE;
                }
                down.write_body(piece, last).await.map_err(Broken::Client)?;
                continue;
            }
            _ if answer.body.is_done() => break,
            _ => {}
        }
        // What was gathered so far must not wait for what may take a while.
        down.flush().await.map_err(Broken::Client)?;
        if !sending.done || sending.pending.has_remaining() {
            match step(up, down, service, sending).await {
                Ok(()) => continue,
                Err(Broken::Stale | Broken::Lost) if answer.body == BodyDecoder::UntilClose => answer.body = BodyDecoder::Done,
                Err(Broken::Client(error)) => return Err(Broken::Client(error)),
                Err(_) => return Err(Broken::MidAnswer),
            }
            continue;
        }
        match fill_or_gone(up, down, amount, service).await? {
            0 if answer.body == BodyDecoder::UntilClose && !sending.failed => answer.body = BodyDecoder::Done,
            0 => return Err(Broken::MidAnswer),
            _ => {}
        }
    }
    down.finish().await.map_err(Broken::Client)?;
    up.clean = answer.keep_alive && !early;
    Ok(())
}

/// Whether all that is left of an answer was read already.
fn is_at_hand(mut body: BodyDecoder, read: &BytesMut) -> bool {
    let mut rest = read.clone();
    while let Ok(Decoded::Data(_)) = body.decode(&mut rest) {}
    body.is_done()
}

/// More bytes of the answer; a client that goes away meanwhile ends the exchange, for an answer may be endless.
async fn fill_or_gone(up: &mut Upstream, down: &mut Downstream, amount: usize, service: &Service) -> Result<usize, Broken> {
    let limit = if down.is_endless() { service.timeouts.stream } else { service.timeouts.response };
    tokio::select! {
        biased;
        count = up.fill(amount, limit) => count.map_err(|_| Broken::MidAnswer),
        _ = down.gone() => Err(gone()),
    }
}

fn next_piece(body: &mut BodyDecoder, read: &mut BytesMut) -> Result<Option<Decoded>, Broken> {
    match body.decode(read).map_err(|_| Broken::MidAnswer)? {
        Decoded::NeedMore | Decoded::End => Ok(None),
        piece => Ok(Some(piece)),
    }
}
