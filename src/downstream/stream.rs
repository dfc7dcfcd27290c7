//! One HTTP/2 stream from a client: its request's body, its answer's writer, and word of its end.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Response, StatusCode, header, request};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;

use super::{CLIENT_GONE, CLIENT_STALLED};
use crate::wait::within;
use crate::wire::duplex::Duplex;
use crate::wire::small::{SMALL, SmallFrames, gather};
use crate::wire::websocket::handshake;

/// A stream, and where it stands in its one exchange.
pub struct H2 {
    request: request::Parts,
    body: RecvStream,
    /// What was read of the body to see whether there is one.
    ahead: Option<Bytes>,
    /// What has come of it in small frames while nobody read.
    gathered: BytesMut,
    /// Anything of the body was read.
    begun: bool,
    /// The body's end was read, with these fields behind it.
    done: bool,
    trailers: Option<HeaderMap>,
    /// The client waits for `100 Continue` before it sends its body.
    continue_owed: bool,
    respond: SendResponse<Bytes>,
    /// The answer's body, once its head is sent.
    send: Option<SendStream<Bytes>>,
    small: SmallFrames,
    ended: bool,
    /// The service has switched to the protocol that an extended CONNECT asks for.
    switched: bool,
    /// How long the client may take nothing of an answer.
    patience: Duration,
}

impl H2 {
    pub fn new(request: http::Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (request, body) = request.into_parts();
        H2 {
            request,
            body,
            ahead: None,
            gathered: BytesMut::new(),
            begun: false,
            done: false,
            trailers: None,
            continue_owed: false,
            respond,
            send: None,
            small: SmallFrames::default(),
            ended: false,
            switched: false,
            patience: Duration::from_secs(60),
        }
    }

    /// The request as the protocol's layer read it.
    pub fn request(&self) -> &request::Parts {
        &self.request
    }

    /// Whether it is to become a tunnel (RFC 8441): what its client sends is no body.
    pub fn is_connect(&self) -> bool {
        self.request.method == Method::CONNECT
    }

    /// Turns the head by which an HTTP/1.1 service switches protocols into what HTTP/2 has for it.
    pub fn switch(&mut self, answer: &mut ResponseHeader) {
        answer.remove_header(handshake::ACCEPT);
        answer.remove_header(&header::CONTENT_LENGTH);
        self.switched = answer.set_status(StatusCode::OK).is_ok();
    }

    /// The stream as a transport, and how long the client may take nothing. `None` before the answer's head.
    pub fn into_tunnel(self) -> Option<(Duplex<()>, Duration)> {
        Some((Duplex::new(self.body, self.send?, self.gathered, ()), self.patience))
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The client has said that it waits for a word before it sends its body.
    pub fn expect_continue(&mut self) {
        self.continue_owed = !self.is_body_done();
    }

    /// Waits until something of the body is there, or its end; without asking for it.
    pub async fn unasked(&mut self) {
        if self.ahead.is_none() && !self.done {
            // What went wrong is told to whoever reads on.
            self.ahead = poll_fn(|cx| self.poll_body(cx, false)).await.ok().flatten();
        }
    }

    /// Whether nothing of a body came or will come.
    pub fn is_body_empty(&self) -> bool {
        !self.begun && self.is_body_done()
    }

    /// Whether all of the body was read.
    pub fn is_body_done(&self) -> bool {
        self.ahead.is_none() && self.gathered.is_empty() && (self.done || self.body.is_end_stream())
    }

    /// The next piece of the body, `None` at its end. Cancel-safe.
    ///
    /// An empty DATA frame says nothing. Passed on, it would be written as the chunk that ends the body, and what follows would be the
    /// backend's next request.
    ///
    /// # Errors
    /// [`CLIENT_GONE`] if the stream was reset, or its connection is lost.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self.ahead.take() {
            Some(piece) => Ok(Some(piece)),
            None => poll_fn(|cx| self.poll_body(cx, true)).await,
        }
    }

    /// The fields that came behind the body: kept, for a body that is sent a second time has them, too.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// `ask`: a client that waits for `100 Continue` gets it, if nothing is there.
    fn poll_body(&mut self, cx: &mut Context<'_>, ask: bool) -> Poll<Result<Option<Bytes>>> {
        if !self.gathered.is_empty() {
            let piece = std::mem::take(&mut self.gathered).freeze();
            let _ = self.body.flow_control().release_capacity(piece.len());
            (self.begun, self.continue_owed) = (true, false);
            return Poll::Ready(Ok(Some(piece)));
        }
        if self.done {
            return Poll::Ready(Ok(None));
        }
        loop {
            let piece = match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => piece,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Error::because(CLIENT_GONE, "reading the body", error))),
                Poll::Ready(None) => {
                    let trailers = ready!(self.body.poll_trailers(cx));
                    self.trailers = trailers.map_err(|error| Error::because(CLIENT_GONE, "reading the trailers", error))?;
                    self.done = true;
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    if ask {
                        self.say_continue();
                    }
                    return Poll::Pending;
                }
            };
            // What is taken may be sent anew. It fails only on a stream that is over.
            let _ = self.body.flow_control().release_capacity(piece.len());
            if !piece.is_empty() {
                self.continue_owed = false;
                // The first is mostly the only one.
                let small = std::mem::replace(&mut self.begun, true) && piece.len() < SMALL;
                return Poll::Ready(Ok(Some(if small { self.with_the_next(&piece, cx) } else { piece })));
            }
        }
    }

    /// A small piece, and all that has come behind it.
    fn with_the_next(&mut self, piece: &[u8], cx: &mut Context<'_>) -> Bytes {
        let mut gathered = BytesMut::from(piece);
        gather(&mut self.body, &mut gathered, cx);
        let _ = self.body.flow_control().release_capacity(gathered.len() - piece.len());
        gathered.freeze()
    }

    /// Tells a client that waits for it to send its body. Once.
    pub fn say_continue(&mut self) {
        if std::mem::take(&mut self.continue_owed) {
            self.write_interim(StatusCode::CONTINUE, HeaderMap::new());
        }
    }

    /// Whether the client still waits for `100 Continue`.
    pub fn is_continue_owed(&self) -> bool {
        self.continue_owed && self.ahead.is_none() && self.send.is_none()
    }

    /// Sends an interim answer (1xx). One that cannot be sent any more is not missed: the stream is over, or the final one was first.
    pub fn write_interim(&mut self, status: StatusCode, fields: HeaderMap) {
        if self.send.is_none() {
            let mut interim = Response::new(());
            *interim.status_mut() = status;
            *interim.headers_mut() = fields;
            let _ = self.respond.send_informational(interim);
        }
    }

    /// Sends the head of the final answer; harmless if one was sent.
    ///
    /// # Errors
    /// The stream is over.
    pub fn write_head(&mut self, mut answer: ResponseHeader, end: bool) -> Result<()> {
        if self.send.is_some() || self.ended {
            return Ok(());
        }
        if self.is_connect() && answer.status.is_success() && !self.switched {
            // To its client it would be the tunnel.
            answer.set_status(StatusCode::BAD_GATEWAY)?;
        }
        if !answer.headers.contains_key(header::DATE) {
            answer.insert_header(header::DATE, get_cached_date())?;
        }
        let answer = Response::from_parts(answer.into(), ());
        self.send = Some(self.respond.send_response(answer, end).or_err(CLIENT_GONE, "sending the answer's head")?);
        self.ended = end;
        Ok(())
    }

    /// Sends a piece of the answer's body. The limit counts anew whenever the client takes some of it.
    ///
    /// # Errors
    /// [`CLIENT_GONE`] if the stream is over, [`CLIENT_STALLED`] if the client takes nothing for too long.
    pub async fn write_body(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(send) = &mut self.send else { return Error::e_explain(ErrorType::InternalError, "a body before its head") };
        while !data.is_empty() {
            let (small, body, gathered) = (&self.small, &mut self.body, &mut self.gathered);
            let room = poll_fn(|cx| {
                let room = small.poll_room(send, data.len(), cx);
                if room.is_pending() {
                    gather(body, gathered, cx);
                }
                room
            });
            let room = within(self.patience, room).await;
            let room = room.map_err(|_| Error::explain(CLIENT_STALLED, "the client took nothing for too long"))?;
            let Some(Ok(room)) = room else { return Error::e_explain(CLIENT_GONE, "the stream takes no more bytes") };
            let piece = data.split_to(room);
            self.ended = end && data.is_empty();
            self.small.send(send, piece, self.ended).or_err(CLIENT_GONE, "sending the answer's body")?;
        }
        if end { self.finish() } else { Ok(()) }
    }

    /// Ends the answer with trailers.
    ///
    /// # Errors
    /// The stream is over.
    pub fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match &mut self.send {
            Some(send) if !self.ended => {
                self.ended = true;
                send.send_trailers(trailers).or_err(CLIENT_GONE, "sending the answer's trailers")
            }
            _ => Ok(()),
        }
    }

    /// Ends the answer. Harmless if it has ended.
    ///
    /// # Errors
    /// The stream is over.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.send {
            Some(send) if !self.ended => {
                self.ended = true;
                send.send_data(Bytes::new(), true).or_err(CLIENT_GONE, "ending the answer")
            }
            _ => Ok(()),
        }
    }

    /// Gives the stream up, unless its answer is whole.
    pub fn reset(&mut self, reason: Reason) {
        if !self.ended {
            self.respond.send_reset(reason);
        }
    }

    /// Whether the answer is whole: what the client does with the stream from here on is no news.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Waits until the client resets the stream, or its connection is lost.
    pub async fn gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// The same, while nobody reads the request's body: what comes of it takes no more memory than its bytes, be its frames ever so small.
    pub async fn reset_while_unread(&mut self) {
        poll_fn(|cx| {
            if !self.done && !self.continue_owed {
                gather(&mut self.body, &mut self.gathered, cx);
            }
            self.poll_gone(cx)
        })
        .await;
    }

    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(drop)
    }
}
