//! One exchange over one stream of an HTTP/2 connection.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, response};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::client::Client;
use super::lines::Place;
use super::request::{self, SentFraming};
use super::{Broken, CONTINUE_AFTER, Call, Came, Piece, gone, head_limit, pass_interim};
use crate::head::{AnswerLimits, Field, HeaderEdits, Span};
use crate::upstream::Service;
use crate::wait::{Pace, counted};
use crate::wire::answer::{AnswerHead, BadAnswer};
use crate::wire::body::BodyDecoder;
use crate::wire::duplex::Duplex;
use crate::wire::encode::is_bodiless;
use crate::wire::small::{SMALL, SmallFrames, gather};
use crate::wire::trailers;

/// A stream, and where it stands.
pub struct Stream {
    place: Box<Place>,
    sending: Option<Sending>,
    /// What the client will say once the service has switched (RFC 8441).
    switching: Option<SendStream<Bytes>>,
    answer: Answer,
    /// Bytes that were taken off the stream, and that its window does not know of yet.
    taken: usize,
    /// What has come while the client took nothing.
    gathered: BytesMut,
    /// How many small pieces of it have come, as far as anybody counts.
    small: u8,
    piece: Option<Piece>,
    came: Came,
    early: bool,
    /// It took no more before the client had sent all.
    unsent: bool,
    /// The request's end was sent.
    sent: bool,
    /// When the attempt's time for the answer's head is over, where it has one.
    due: Option<std::time::Instant>,
}

enum Answer {
    Unasked,
    Awaited(ResponseFuture),
    Begun(RecvStream),
    Over,
}

/// The request's body on its way to the service.
struct Sending {
    stream: SendStream<Bytes>,
    /// What was read and is not sent yet.
    piece: Bytes,
    /// The body's end was read; these come behind it.
    end: Option<Option<HeaderMap>>,
    /// The body is not asked for before the service says so, or this moment.
    withheld: Option<Instant>,
    small: SmallFrames,
    /// The end was sent.
    over: bool,
    /// What the policies have changed, which trailers must not change back.
    edits: HeaderEdits,
}

enum Event {
    Interim(response::Parts),
    Final(response::Parts, RecvStream),
    /// Something of the body was sent, or cannot be.
    Sent(bool),
    Piece(Option<Bytes>),
    /// It need not be withheld any longer.
    Unasked,
    Gone,
}

impl Stream {
    pub fn new(place: Box<Place>) -> Self {
        Stream {
            place,
            sending: None,
            switching: None,
            answer: Answer::Unasked,
            taken: 0,
            gathered: BytesMut::new(),
            small: 0,
            piece: None,
            came: Came::default(),
            early: false,
            unsent: false,
            sent: false,
            due: None,
        }
    }

    /// Whether the connection has carried an exchange before.
    pub fn is_kept(&self) -> bool {
        self.place.is_kept()
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
        self.begin(call, attempt, client, service)?;
        for seen in 0..=service.limits.interim {
            let (mut parts, body) = loop {
                match self.step(client, service).await? {
                    Event::Interim(parts) => break (parts, None),
                    Event::Final(parts, body) => break (parts, Some(body)),
                    _ => {}
                }
            };
            if body.is_some() {
                self.switch(&mut parts);
            }
            let end = body.as_ref().is_none_or(RecvStream::is_end_stream);
            let head = head_of(&parts, end, call.method(), &service.limits).map_err(Broken::Bad)?;
            if let Some(body) = body {
                self.answer = Answer::Begun(body);
                self.early = self.sending.is_some();
                if self.sending.as_ref().is_some_and(|sending| sending.withheld.is_some()) {
                    // The client was not asked for its body, and now it will not be.
                    self.sending = None;
                }
                return Ok(head);
            }
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                // There is no such thing in HTTP/2 (RFC 9113, section 8.6).
                return Err(Broken::Bad(BadAnswer::Malformed));
            }
            if seen == service.limits.interim {
                break;
            }
            pass_interim(&head, self.sending.as_mut().map(|sending| &mut sending.withheld), client).await?;
        }
        Err(Broken::Bad(BadAnswer::TooLarge))
    }

    /// Says of a final answer to an extended CONNECT what HTTP/1.1 would: that the service has switched, where it has, so that nobody else
    /// has to know of two ways. Where it has not, nothing more is said to it.
    fn switch(&mut self, parts: &mut response::Parts) {
        let Some(stream) = &mut self.switching else {
            return;
        };
        if parts.status.is_success() {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        } else {
            // It fails on a stream that is over.
            let _ = stream.send_data(Bytes::new(), true);
            self.switching = None;
        }
    }

    /// The stream under an upgrade.
    pub fn into_tunnel(self) -> Option<Duplex<Box<Place>>> {
        match (self.answer, self.switching) {
            (Answer::Begun(receive), Some(send)) => Some(Duplex::new(receive, send, self.gathered, self.place)),
            _ => None,
        }
    }

    /// Whether the client has sent all of its request, be it on its way still.
    pub fn has_all_of_the_request(&self) -> bool {
        !self.unsent && self.sending.as_ref().is_none_or(|sending| sending.end.is_some())
    }

    /// Sends the request's head, and what there is of its body already.
    fn begin<C: Client>(&mut self, call: &Call<'_>, attempt: u32, client: &mut C, service: &Service) -> Result<(), Broken> {
        let buffered = client.buffered().cloned();
        let expects = client.is_continue_owed();
        let parts = call.parts(attempt, buffered.as_ref(), client.body_is_empty(), expects);
        let switches = call.may_switch() && self.place.takes_connect();
        let (request, framing) = request::stream(&parts, service.is_tls(), switches).map_err(|_| Broken::Unfit)?;
        let whole = buffered.filter(|body| framing != SentFraming::None && !body.is_empty());
        // A stream whose end is not known ends with a frame of its own; that of a call (gRPC) must not end before its trailers could come.
        let bodiless =
            framing == SentFraming::None || framing == SentFraming::Length && whole.is_none() && client.body_is_empty();
        let (answer, stream) = self.place.send(request, bodiless && !switches).map_err(|error| broken(&error))?;
        self.answer = Answer::Awaited(answer);
        self.sent = bodiless;
        if switches {
            self.switching = Some(stream);
            return Ok(());
        }
        if bodiless {
            return Ok(());
        }
        let withheld = expects.then(|| Instant::now() + CONTINUE_AFTER);
        let (small, edits) = (SmallFrames::default(), HeaderEdits::new());
        let mut sending = Sending { stream, piece: Bytes::new(), end: None, withheld, small, over: false, edits };
        if whole.is_none() {
            sending.edits.clone_from(&call.exchange.to_upstream);
        }
        match whole {
            Some(body) => {
                sending.piece = body;
                sending.end = Some(trailers_of(client, &call.exchange.to_upstream));
            }
            None => {
                client.keep_for_replay(service.retries.buffer());
                sending.piece = client.replay().unwrap_or_default();
            }
        }
        self.sending = Some(sending);
        Ok(())
    }

    /// Waits for whatever comes first: the head of an answer, room for the request's body, a piece of it, or the client's end.
    async fn step<C: Client>(&mut self, client: &mut C, service: &Service) -> Result<Event, Broken> {
        let limit = match &self.sending {
            None => head_limit(&mut self.due, service),
            Some(sending) if !sending.piece.is_empty() => service.timeouts.write,
            Some(_) => Duration::MAX,
        };
        let Stream { answer, sending, place, .. } = self;
        let first = async {
            tokio::select! {
                biased;
                event = poll_fn(|cx| poll_head(answer, cx)) => event,
                event = send(sending, client) => event,
            }
        };
        let event = place.alarm.within(limit, first).await.map_err(|_| Broken::TimedOut)??;
        self.note(&event, client);
        if matches!(event, Event::Gone) { Err(gone()) } else { Ok(event) }
    }

    /// Takes in what has come of the request's body.
    fn note<C: Client>(&mut self, event: &Event, client: &mut C) {
        let Some(sending) = &mut self.sending else { return };
        match event {
            Event::Piece(Some(piece)) => sending.piece = piece.clone(),
            Event::Piece(None) => {
                sending.end = Some(trailers_of(client, &sending.edits));
            }
            Event::Unasked => sending.withheld = None,
            // The service takes no more. What it has said before is still read.
            Event::Sent(false) => {
                self.unsent = sending.end.is_none();
                self.sending = None;
            }
            _ => {}
        }
        if self.sending.as_mut().is_some_and(Sending::ends) {
            self.sending = None;
            self.sent = true;
        }
    }

    /// The answer is whole.
    fn end(&mut self) {
        if let Answer::Begun(body) = std::mem::replace(&mut self.answer, Answer::Over)
            && self.sent
        {
            self.place.retire(body);
        }
    }

    /// Lets the stream go, where its answer was one without a body.
    pub fn let_go(mut self) {
        if matches!(&self.answer, Answer::Begun(body) if body.is_end_stream()) {
            self.end();
        }
    }

    /// Whether the service has answered, whole, before it had the whole request, and nothing else will be read of it.
    pub fn is_early(&self) -> bool {
        self.early && matches!(&self.answer, Answer::Begun(body) if body.is_end_stream())
    }

    /// What there is of the answer's body without waiting.
    pub fn take(&mut self) -> Option<Piece> {
        if !self.gathered.is_empty() {
            let data = std::mem::take(&mut self.gathered).freeze();
            self.taken += data.len();
            self.came.bytes += data.len() as u64;
            return Some(Piece::Data(data, false));
        }
        match self.answer {
            Answer::Over => Some(self.piece.take().unwrap_or(Piece::End)),
            _ => self.piece.take(),
        }
    }

    /// Whether a small piece is not one of the few that most answers have.
    fn is_one_of_many(&mut self) -> bool {
        const FEW: u8 = 4;
        self.small = self.small.saturating_add(1);
        self.small > FEW
    }

    /// Takes in what comes of the answer's body while the client takes its time. Left to the library, small frames would take many times
    /// their bytes, until it ends the connection, with all that others do there. The window, which this does not open, bounds it.
    pub fn absorb(&mut self, cx: &mut Context<'_>) {
        if let (Answer::Begun(body), None) = (&mut self.answer, &self.piece) {
            // An end, or an error, is for whoever waits for more.
            gather(body, &mut self.gathered, cx);
        }
    }

    /// Waits for more of the answer's body, and sends what is left of the request's meanwhile. `pace` bounds the wait; as long as there is
    /// something to send it may be the client who is waited for, so that only silence counts.
    ///
    /// # Errors
    /// [`Broken::Client`], [`Broken::TimedOut`], [`Broken::TooSlow`], [`Broken::MidAnswer`], [`Broken::Reset`], or [`Broken::Bad`] for trailers that
    /// are too large.
    pub async fn more<C: Client>(&mut self, client: &mut C, service: &Service, pace: Pace) -> Result<(), Broken> {
        let pace = if self.sending.is_some() { Pace { rate: 0, ..pace } } else { pace };
        let (limit, late) = self.came.left(pace);
        let Stream { answer, sending, place, taken, gathered, came, .. } = self;
        let Answer::Begun(body) = answer else { return Ok(()) };
        // What was taken has been passed on by now.
        if *taken > 0 {
            let _ = body.flow_control().release_capacity(std::mem::take(taken));
        }
        // What came while the client took its time is more already, and perhaps all that there will be for long.
        if !gathered.is_empty() {
            return Ok(());
        }
        let first = async {
            tokio::select! {
                biased;
                piece = poll_fn(|cx| poll_piece(body, cx)) => Ok(Err(piece)),
                event = send(sending, client) => event.map(Ok),
            }
        };
        let waited = (pace.rate > 0).then_some(&mut came.waited);
        let event = place.alarm.within(limit, counted(waited, first)).await.map_err(|_| late)?;
        let piece = match event {
            Ok(Ok(event)) => {
                self.note(&event, client);
                return if matches!(event, Event::Gone) { Err(gone()) } else { Ok(()) };
            }
            Ok(Err(piece)) => piece,
            Err(error @ Broken::Client(_)) => return Err(error),
            // It takes no more of the request: its answer says what comes of that.
            Err(_) => {
                self.sending = None;
                return Ok(());
            }
        };
        let piece = piece.map_err(|error| match error.reason().filter(|_| error.is_reset() && error.is_remote()) {
            Some(reason) => Broken::Reset(reason),
            None => Broken::MidAnswer,
        })?;
        match &piece {
            Piece::Data(data, false) if data.len() < SMALL && self.is_one_of_many() => {
                self.gathered.extend_from_slice(data);
                let all = poll_fn(|cx| {
                    self.absorb(cx);
                    Poll::Ready(())
                });
                all.await;
                return Ok(());
            }
            Piece::Data(data, last) => {
                self.taken += data.len();
                self.came.bytes += data.len() as u64;
                if *last {
                    self.end();
                }
            }
            Piece::Trailers(fields) if trailers::size(fields) > service.limits.head => {
                return Err(Broken::Bad(BadAnswer::TooLarge));
            }
            Piece::Trailers(_) | Piece::End => self.end(),
        }
        self.piece = Some(piece);
        Ok(())
    }
}

impl Sending {
    /// Sends what there is room for. Whether the service takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(Ok(room)) = ready!(self.small.poll_room(&mut self.stream, self.piece.len(), cx)) else {
            return Poll::Ready(false);
        };
        let part = self.piece.split_to(room);
        self.over = self.piece.is_empty() && matches!(self.end, Some(None));
        Poll::Ready(self.small.send(&mut self.stream, part, self.over).is_ok())
    }

    /// Ends the body, if all of it is sent. Whether nothing is left to do.
    fn ends(&mut self) -> bool {
        if self.over || !self.piece.is_empty() {
            return self.over;
        }
        let ended = match self.end.take() {
            None => return false,
            Some(Some(fields)) if !fields.is_empty() => self.stream.send_trailers(fields),
            Some(_) => self.stream.send_data(Bytes::new(), true),
        };
        // It fails on a stream that is over, whose answer says why.
        drop(ended);
        true
    }
}

/// What the service is to have of the fields that came behind the client's body.
fn trailers_of<C: Client>(client: &C, edits: &HeaderEdits) -> Option<HeaderMap> {
    let mut fields = client.trailers()?;
    filter(&mut fields, edits);
    Some(fields)
}

/// Takes away what a request's trailers must not say: what those of an answer must not, and what its head must not.
fn filter(fields: &mut HeaderMap, edits: &HeaderEdits) {
    trailers::filter(fields, edits);
    let refused: Vec<_> = fields.keys().filter(|name| !request::passes(name.as_str().as_bytes(), false)).cloned().collect();
    for name in refused {
        fields.remove(name);
    }
}

/// The next thing to do for the request's body, or, once it is sent, the client's end.
async fn send<C: Client>(sending: &mut Option<Sending>, client: &mut C) -> Result<Event, Broken> {
    let Some(sending) = sending else {
        client.gone().await;
        return Ok(Event::Gone);
    };
    if !sending.piece.is_empty() {
        return tokio::select! {
            biased;
            taken = poll_fn(|cx| sending.poll_send(cx)) => Ok(Event::Sent(taken)),
            () = client.reset() => Ok(Event::Gone),
        };
    }
    if let Some(due) = sending.withheld {
        // Whether the body has begun or the wait is over makes no difference.
        let _ = tokio::time::timeout_at(due, client.unasked()).await;
        return Ok(Event::Unasked);
    }
    Box::pin(client.read_body()).await.map(Event::Piece).map_err(Broken::Client)
}

fn poll_head(answer: &mut Answer, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
    let Answer::Awaited(awaited) = answer else { return Poll::Pending };
    if let Poll::Ready(Some(interim)) = awaited.poll_informational(cx) {
        let interim = interim.map(|interim| Event::Interim(interim.into_parts().0));
        return Poll::Ready(interim.map_err(|error| broken(&error)));
    }
    let answer = ready!(std::pin::Pin::new(awaited).poll(cx)).map_err(|error| broken(&error))?;
    let (parts, body) = answer.into_parts();
    Poll::Ready(Ok(Event::Final(parts, body)))
}

fn poll_piece(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>> {
    loop {
        match ready!(body.poll_data(cx)) {
            // An empty frame says nothing, but for the end.
            Some(Ok(data)) if data.is_empty() && !body.is_end_stream() => {}
            Some(Ok(data)) => return Poll::Ready(Ok(Piece::Data(data, body.is_end_stream()))),
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => {
                let fields = ready!(body.poll_trailers(cx))?;
                return Poll::Ready(Ok(fields.map_or(Piece::End, Piece::Trailers)));
            }
        }
    }
}

/// Why an exchange failed before the head of its answer.
fn broken(error: &h2::Error) -> Broken {
    let remote = error.is_remote();
    if remote && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)) {
        // The service did nothing about it. Streams above the last one that a GOAWAY names are the only ones that it ends.
        return Broken::Refused;
    }
    match error.reason() {
        Some(reason) if remote && error.is_reset() => Broken::Reset(reason),
        // The library's own judgement of what the service sent.
        Some(_) if !remote => Broken::Bad(BadAnswer::Malformed),
        _ => Broken::Stale,
    }
}

/// An answer's head, in the one form that all writers take.
pub(super) fn head_of(
    parts: &response::Parts,
    end: bool,
    method: &Method,
    limits: &AnswerLimits,
) -> Result<Box<AnswerHead>, BadAnswer> {
    assembled(parts.status, || of_map(&parts.headers), end || *method == Method::HEAD, limits)
}

pub(super) fn of_map(fields: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// A head of these fields, whose names are in lower case, as it would have come over HTTP/2.
pub(super) fn assembled<'f, I: Iterator<Item = (&'f [u8], &'f [u8])>>(
    status: StatusCode,
    all: impl Fn() -> I,
    end: bool,
    limits: &AnswerLimits,
) -> Result<Box<AnswerHead>, BadAnswer> {
    let reason = status.canonical_reason().unwrap_or_default();
    let measured = all().map(|(name, value)| name.len() + value.len() + 4);
    let (count, size) = measured.fold((0, 0), |(count, size), length| (count + 1, size + length));
    if "HTTP/1.1 200 \r\n\r\n".len() + reason.len() + size > limits.head || count > limits.fields {
        return Err(BadAnswer::TooLarge);
    }
    let mut buffer = Vec::with_capacity(size + reason.len());
    let mut put = |text: &[u8]| {
        let start = buffer.len() as u32;
        buffer.extend_from_slice(text);
        Span { start, end: buffer.len() as u32 }
    };
    let reason = put(reason.as_bytes());
    let mut fields: SmallVec<[Field; 16]> = SmallVec::new();
    let mut length = None;
    for (name, value) in all() {
        fields.push(Field { name: put(name), value: put(value) });
        if name != CONTENT_LENGTH.as_str().as_bytes() {
            continue;
        }
        let digits = std::str::from_utf8(value).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let told: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or(BadAnswer::Malformed)?;
        // It may be told once.
        if length.replace(told).is_some() {
            return Err(BadAnswer::Malformed);
        }
    }
    // What marks an open end: the stream itself says where it is.
    let body = if end || is_bodiless(status) { BodyDecoder::Done } else { BodyDecoder::UntilClose };
    let version = Version::HTTP_2;
    Ok(Box::new(AnswerHead { buffer: buffer.into(), status, reason, fields, body, length, keep_alive: true, version }))
}
