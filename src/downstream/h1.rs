//! One HTTP/1.x connection from a client: its buffer, its body decoder, its writer.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::ext::get_tcp_info;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{BODY_MALFORMED, CLIENT_GONE, CLIENT_STALLED};
use crate::exchange::RequestId;
use crate::head::{HeaderEdits, RequestHead};
use crate::reply::{Reply, Worded};
use crate::wait::{Alarm, within};
use crate::wire::answer::AnswerHead;
use crate::wire::body::{BodyDecoder, Decoded};
use crate::wire::encode::{self, AnswerFraming};
use crate::wire::head::{BadHead, HeadLimits, HeadScan, Refused};
use crate::wire::{scratch, trailers};

/// What is read from the socket at once.
const READ: usize = 16 * 1024;
/// Bytes of a next request that are taken in while an answer is under way. Beyond, the socket's own buffers push back.
const READ_AHEAD: usize = 64 * 1024;
/// The largest buffer for writing that an idle connection keeps.
const KEPT: usize = 2 * 1024;
/// Bodies up to this size are copied behind the head and leave with it in one system call.
const COALESCE: usize = 16 * 1024;

/// How often a connection is looked at that cannot tell by itself that it was reset.
pub const LOOK: Duration = Duration::from_millis(500);
/// How often a client that has ended its input is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(15);
/// Linux's numbers for the states of a connection that is over, and of one whose other end says nothing more.
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;

/// The transport under a connection.
pub enum Io {
    Plain(TcpStream),
    /// After a TLS handshake, or anything else of Pingora's.
    Boxed(Stream),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Boxed(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Boxed(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Io::Boxed(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Io::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Boxed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Boxed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How the wait for a request's head ended.
pub enum NextHead {
    Head(Box<RequestHead>),
    /// The client closed, or nothing came within the keep-alive time: nothing is owed.
    Closed,
    /// It is no request, or did not come whole within its deadline.
    Bad(Box<Refused>),
}

const HEAD_TIMEOUT: BadHead =
    BadHead { status: StatusCode::REQUEST_TIMEOUT, reason: "head_timeout", detail: "The request's head did not come in time." };

/// How long a client that is closed may go on sending.
#[derive(Debug, Clone, Copy)]
pub struct Farewell {
    pub all: Duration,
    /// Without a byte.
    pub silence: Duration,
}

/// A connection, and where it stands in the current exchange.
pub struct H1 {
    io: Io,
    read: BytesMut,
    write: Vec<u8>,
    body: BodyDecoder,
    framing: AnswerFraming,
    version: Version,
    keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    continue_owed: bool,
    answered: bool,
    /// The head of the request that is under way was understood, so that its end can be found.
    head_read: bool,
    eof: bool,
    failed: bool,
    /// How long the client may take nothing of an answer.
    patience: Duration,
    /// Whether the process drains, so that the next answer is the connection's last.
    draining: Arc<AtomicBool>,
}

impl H1 {
    /// `read` are bytes that were read already.
    pub fn new(io: Io, read: &[u8]) -> Self {
        H1 {
            io,
            read: BytesMut::from(read),
            write: Vec::new(),
            body: BodyDecoder::Done,
            framing: AnswerFraming::None,
            version: Version::HTTP_11,
            keep_alive: true,
            continue_owed: false,
            answered: false,
            head_read: false,
            eof: false,
            failed: false,
            patience: Duration::from_secs(60),
            draining: Arc::default(),
        }
    }

    /// Once this is true, answers say that they are the connection's last.
    pub fn heed(&mut self, draining: Arc<AtomicBool>) {
        self.draining = draining;
    }

    /// Reads the next request's head. `idle` bounds the wait for its first byte, `deadline` counts from that byte to its last.
    pub async fn next_head(&mut self, limits: &HeadLimits, idle: Duration, deadline: Duration, alarm: &mut Alarm) -> NextHead {
        self.answered = false;
        self.head_read = false;
        self.framing = AnswerFraming::None;
        self.keep_alive = true;
        let mut scan = HeadScan::default();
        let mut until: Option<Instant> = None;
        loop {
            if !self.read.is_empty() {
                match scan.find(&mut self.read, limits) {
                    Ok(true) => return self.take_head(limits),
                    Ok(false) => {}
                    Err(bad) => return NextHead::Bad(Refused::new(bad, &self.read)),
                }
            }
            if self.read.is_empty() {
                // An idle connection holds no buffer, but for a small one to write into.
                self.read = BytesMut::new();
                if self.write.capacity() > KEPT {
                    self.write = Vec::new();
                }
                match alarm.within(idle, self.readable()).await {
                    Ok(Ok(())) => {}
                    _ => return NextHead::Closed,
                }
                if !self.read.is_empty() {
                    // Waiting took bytes in already, maybe the whole head.
                    continue;
                }
            }
            // Most heads come whole with their first byte, and need no clock.
            let left = match until {
                None if self.read.is_empty() => deadline,
                None => until.insert(Instant::now() + deadline).saturating_duration_since(Instant::now()),
                Some(until) => until.saturating_duration_since(Instant::now()),
            };
            match alarm.within(left, self.fill_small()).await {
                Ok(Ok(0)) | Ok(Err(_)) => return NextHead::Closed,
                Ok(Ok(_)) => {}
                Err(_) if self.read.is_empty() => return NextHead::Closed,
                Err(_) => return NextHead::Bad(Refused::new(HEAD_TIMEOUT, &self.read)),
            }
        }
    }

    fn take_head(&mut self, limits: &HeadLimits) -> NextHead {
        match crate::wire::head::take(&mut self.read, limits) {
            Ok(head) => {
                self.begin(&head);
                NextHead::Head(head)
            }
            Err(refused) => NextHead::Bad(refused),
        }
    }

    fn begin(&mut self, head: &RequestHead) {
        self.body = BodyDecoder::new(head.body);
        self.head_read = true;
        self.version = head.version;
        self.keep_alive = head.keep_alive;
        self.continue_owed = head.expects_continue && !self.body.is_done();
    }

    /// Waits for the first byte without holding a buffer for it, where the transport can.
    async fn readable(&mut self) -> io::Result<()> {
        match &self.io {
            Io::Plain(stream) => readable(stream).await,
            // TLS cannot be waited for without reading.
            Io::Boxed(_) => match self.fill_small().await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
        }
    }

    /// Reads a head, or what there is of it.
    async fn fill_small(&mut self) -> io::Result<usize> {
        let count = scratch::read(&mut self.io, &mut self.read).await?;
        self.eof |= count == 0;
        Ok(count)
    }

    /// Reads a body, or a part of it.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.read.capacity() - self.read.len() < READ / 4 {
            self.read.reserve(READ);
        }
        let count = self.io.read_buf(&mut self.read).await?;
        self.eof |= count == 0;
        Ok(count)
    }

    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether more of the request's body is left than is worth reading.
    pub fn is_left_over(&self, bound: u64) -> bool {
        matches!(self.body, BodyDecoder::Length(left) if left > bound)
    }

    pub fn body_done(&self) -> bool {
        self.body.is_done()
    }

    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// This exchange is the connection's last.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Whether the request's end can be found. A client that still waits for `100 Continue` may send its body after the final answer, or
    /// not: it has the choice (RFC 9110, section 10.1.1).
    fn knows_its_end(&self) -> bool {
        !self.continue_owed || self.body.is_done()
    }

    /// Whether the next answer is the connection's last, whatever the client thinks.
    fn is_last(&self) -> bool {
        !self.knows_its_end() || self.draining.load(Ordering::Relaxed)
    }

    /// The next piece of the request's body. Cancel-safe: what was read stays in the buffer.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            let decoded = self.body.decode(&mut self.read).map_err(|bad| {
                self.failed = true;
                Error::explain(BODY_MALFORMED, bad.reason())
            })?;
            match decoded {
                Decoded::Data(data) => return Ok(Some(data)),
                Decoded::Trailers(_) | Decoded::End => return Ok(None),
                Decoded::NeedMore => {}
            }
            if self.eof {
                return self.end_of_input();
            }
            if self.continue_owed {
                self.say_continue().await?;
            }
            if self.fill().await.or_err(CLIENT_GONE, "reading the request's body")? == 0 {
                return self.end_of_input();
            }
        }
    }

    fn end_of_input(&mut self) -> Result<Option<Bytes>> {
        if self.body == BodyDecoder::UntilClose {
            return Ok(None);
        }
        self.failed = true;
        Error::e_explain(CLIENT_GONE, "the request's body ended early")
    }

    /// The connection itself, what was read of it already, and how long the client may take nothing.
    pub fn into_tunnel(self) -> (Io, BytesMut, Duration) {
        (self.io, self.read, self.patience)
    }

    /// Waits until the client goes away. Bytes of a next request are kept.
    ///
    /// Its end of input alone says no more than that nothing else will be sent: it may still wait for its answer (RFC 9112, section 9.6).
    /// It is gone if it resets the connection, or if what it had begun to send cannot become whole any more.
    pub async fn gone(&mut self) {
        while !self.eof && self.read.len() < READ_AHEAD {
            // The wait itself needs no buffer, and mostly it is all there is.
            let ready = match &self.io {
                Io::Plain(stream) => readable(stream).await,
                Io::Boxed(_) => Ok(()),
            };
            if ready.is_err() || self.fill().await.is_err() {
                self.failed = true;
                return;
            }
            if self.eof && self.is_cut_short() {
                self.failed = true;
                return;
            }
            if self.eof {
                self.probe();
            }
        }
        self.reset().await;
    }

    /// Waits until the client resets the connection, or cannot complete its request any more, without taking anything in.
    pub async fn reset(&mut self) {
        let looking = async {
            while !self.has_left() {
                tokio::time::sleep(LOOK).await;
            }
        };
        match &self.io {
            Io::Plain(stream) => {
                tokio::select! {
                    // Told by the event loop, where it is asked for this alone.
                    _ = stream.ready(Interest::ERROR) => {}
                    () = looking => {}
                }
            }
            Io::Boxed(_) => looking.await,
        }
        self.failed = true;
    }

    /// Whether the client has reset the connection, or ended it with less than its request's body sent. A look at the socket, whatever
    /// waits there to be read.
    pub fn has_left(&self) -> bool {
        let socket = self.socket();
        match (get_tcp_info(socket.as_raw_fd()).map(|info| info.tcpi_state), self.body) {
            (Ok(TCP_CLOSE), _) => true,
            (Ok(TCP_CLOSE_WAIT), BodyDecoder::Length(left)) => {
                // TLS holds back a record, and what is encrypted is longer.
                let held = if matches!(self.io, Io::Plain(_)) { 0 } else { READ as u64 };
                let unread = rustix::io::ioctl_fionread(socket).unwrap_or(u64::MAX);
                unread.saturating_add(held + self.read.len() as u64) < left
            }
            _ => false,
        }
    }

    /// The socket under the transport.
    #[allow(unsafe_code)]
    fn socket(&self) -> BorrowedFd<'_> {
        match &self.io {
            Io::Plain(stream) => stream.as_fd(),
            // SAFETY: it is open for as long as the stream lives, which is borrowed for as long as this.
            Io::Boxed(stream) => unsafe { BorrowedFd::borrow_raw(stream.id()) },
        }
    }

    /// Whether the request's body can no longer become whole, now that nothing else comes.
    fn is_cut_short(&self) -> bool {
        let (mut body, mut rest) = (self.body, self.read.clone());
        loop {
            match body.decode(&mut rest) {
                Ok(Decoded::Data(_)) => {}
                Ok(Decoded::NeedMore) => return true,
                Ok(Decoded::End | Decoded::Trailers(_)) | Err(_) => return false,
            }
        }
    }

    /// Asks a client that has said all it has to say whether it is still there, now and then: one that is gone and one that listens
    /// look the same otherwise, for as long as there is nothing to send.
    fn probe(&self) {
        let often = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(3);
        // A socket that takes no options any more has failed already.
        let _ = SockRef::from(&self.socket()).set_tcp_keepalive(&often);
    }

    /// Queues the head of an answer, and sends it if nothing follows that it could leave with.
    pub async fn write_head(&mut self, answer: &mut ResponseHeader, method: &Method, end: bool) -> Result<()> {
        let framing = encode::framing(answer, method, self.version)
            .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "the backend's Content-Length is ambiguous"))?;
        encode::strip(answer);
        if framing == AnswerFraming::UntilClose {
            self.keep_alive = false;
        }
        if self.is_last() {
            // Whether the client now sends its body or not is its choice (RFC 9110, section 10.1.1): the framing is in doubt.
            self.keep_alive = false;
        }
        self.framing = if end && framing == AnswerFraming::Chunked {
            // Nothing follows: say so instead of framing an empty body.
            answer.insert_header(header::CONTENT_LENGTH, 0)?;
            AnswerFraming::Length(0)
        } else {
            framing
        };
        encode::head(&mut self.write, answer, self.framing, self.keep_alive, self.version);
        self.answered = true;
        if end { self.flush().await } else { Ok(()) }
    }

    /// Queues the head of a backend's answer, straight from its bytes.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_answer(
        &mut self,
        answer: &AnswerHead,
        request_id: &RequestId,
        edits: &HeaderEdits,
        via: Option<&HeaderValue>,
        method: &Method,
        end: bool,
    ) -> Result<()> {
        let bodiless = *method == Method::HEAD || encode::is_bodiless(answer.status);
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            (self.answered, self.keep_alive, self.framing) = (true, false, AnswerFraming::Tunnel);
            encode::relayed(&mut self.write, answer, request_id, edits, via, self.framing, false, self.version);
            return self.flush().await;
        }
        self.framing = match (bodiless, answer.length, self.version) {
            (true, ..) => AnswerFraming::None,
            (false, Some(length), _) => AnswerFraming::Length(length),
            (false, None, Version::HTTP_11) => AnswerFraming::Chunked,
            (false, None, _) => AnswerFraming::UntilClose,
        };
        self.keep_alive &= self.framing != AnswerFraming::UntilClose && !self.is_last();
        encode::relayed(&mut self.write, answer, request_id, edits, via, self.framing, self.keep_alive, self.version);
        self.answered = true;
        if end { self.finish().await } else { Ok(()) }
    }

    /// Sends a whole answer of the gateway's own: head and body in one write.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_own(
        &mut self,
        reply: &Reply,
        worded: &Worded,
        request_id: &RequestId,
        edits: &HeaderEdits,
        method: &Method,
    ) -> Result<()> {
        self.keep_alive &= !self.is_last();
        let mut length = itoa::Buffer::new();
        let always: [(&[u8], &[u8]); 3] = [
            (b"Content-Type", worded.media_type.as_bytes()),
            (b"Content-Length", length.format(worded.body.len()).as_bytes()),
            (b"Cache-Control", b"no-store"),
        ];
        let said = reply.headers.iter().chain(&worded.fields).map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let fields = always.into_iter().filter(|_| !encode::is_bodiless(worded.status)).chain(said);
        self.framing = AnswerFraming::None;
        encode::own(&mut self.write, worded.status, fields, request_id, edits, self.framing, self.keep_alive, self.version);
        if *method != Method::HEAD {
            self.write.extend_from_slice(&worded.body);
        }
        self.answered = true;
        self.flush().await
    }

    /// Whether the client waits for `100 Continue`, and has sent nothing of its body yet.
    pub fn is_continue_owed(&self) -> bool {
        self.continue_owed && self.read.is_empty() && !self.answered
    }

    /// Waits until a client that waits for `100 Continue` sends its body all the same, or ends its input.
    pub async fn unasked(&mut self) {
        while self.read.is_empty() && !self.eof {
            if self.fill().await.is_err() {
                self.failed = true;
                self.eof = true;
            }
        }
    }

    /// Tells a client that waits for it to send its body. Once.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn say_continue(&mut self) -> Result<()> {
        if std::mem::take(&mut self.continue_owed) && !self.answered {
            self.write.extend_from_slice(encode::CONTINUE);
            self.flush().await?;
        }
        Ok(())
    }

    /// Passes on an interim answer, to a client that can take one.
    ///
    /// # Errors
    /// The client cannot be written to.
    pub async fn write_interim(&mut self, answer: &AnswerHead) -> Result<()> {
        if self.version == Version::HTTP_11 {
            encode::interim(&mut self.write, answer);
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the head alone, if it still waits for a first piece of body that does not come.
    pub async fn flush(&mut self) -> Result<()> {
        if self.write.is_empty() {
            return Ok(());
        }
        let mut rest = self.write.as_slice();
        if let Io::Plain(stream) = &self.io
            && let Ok(count) = stream.try_write(rest)
        {
            // Nearly always all of it.
            rest = rest.get(count..).unwrap_or_default();
        }
        // Boxed: this is the way over TLS, and to clients that do not keep up.
        let sent = if rest.is_empty() { Ok(()) } else { Box::pin(put(&mut self.io, &mut rest, self.patience)).await };
        self.write.clear();
        self.failed |= sent.is_err();
        sent
    }

    /// Writes a piece of the answer's body.
    ///
    /// # Errors
    /// The client is gone, or the backend sends more than it announced.
    pub async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if !data.is_empty() {
            match &mut self.framing {
                AnswerFraming::None => {}
                AnswerFraming::Length(left) => {
                    let Some(rest) = left.checked_sub(data.len() as u64) else {
                        self.failed = true;
                        return Error::e_explain(
                            ErrorType::InvalidHTTPHeader,
                            "the backend's body is longer than its Content-Length",
                        );
                    };
                    *left = rest;
                    self.send(data, b"").await?;
                }
                AnswerFraming::Chunked => {
                    encode::chunk_head(&mut self.write, data.len());
                    // The last chunk leaves with the one before it.
                    let after = if end { &b"\r\n0\r\n\r\n"[..] } else { b"\r\n" };
                    self.send(data, after).await?;
                    if end {
                        self.framing = AnswerFraming::None;
                    }
                }
                AnswerFraming::UntilClose | AnswerFraming::Tunnel => self.send(data, b"").await?,
            }
        }
        if end { self.finish().await } else { Ok(()) }
    }

    /// Small pieces are gathered into one write; large ones go out from where they are.
    async fn send(&mut self, data: Bytes, after: &[u8]) -> Result<()> {
        if data.len() <= COALESCE {
            self.write.extend_from_slice(&data);
            self.write.extend_from_slice(after);
            return self.flush().await;
        }
        let mut whole = Buf::chain(Buf::chain(self.write.as_slice(), data), after);
        let sent = Box::pin(put(&mut self.io, &mut whole, self.patience)).await;
        self.write.clear();
        self.failed |= sent.is_err();
        sent
    }

    /// Ends the answer with these trailer fields, if they can follow it.
    ///
    /// # Errors
    /// As [`H1::finish`].
    pub async fn finish_with(&mut self, fields: &HeaderMap) -> Result<()> {
        if self.framing == AnswerFraming::Chunked && !fields.is_empty() {
            self.framing = AnswerFraming::None;
            trailers::last_chunk(&mut self.write, fields);
        }
        self.finish().await
    }

    /// Ends the answer. Harmless if it has ended.
    ///
    /// # Errors
    /// The client is gone, or the backend sent less than it announced.
    pub async fn finish(&mut self) -> Result<()> {
        match self.framing {
            AnswerFraming::Chunked => {
                self.framing = AnswerFraming::None;
                self.write.extend_from_slice(encode::LAST_CHUNK);
            }
            AnswerFraming::Length(left) if left > 0 => {
                self.failed = true;
                return Error::e_explain(ErrorType::ConnectionClosed, "the backend's body is shorter than its Content-Length");
            }
            AnswerFraming::UntilClose => self.framing = AnswerFraming::None,
            _ => {}
        }
        self.flush().await
    }

    /// Whether the connection may carry another request, once the rest of this one's body is drained.
    pub fn reusable(&self) -> bool {
        let complete = matches!(self.framing, AnswerFraming::None | AnswerFraming::Length(0));
        // After the client's end of input, what came before it is still answered.
        let more = !self.eof || !self.read.is_empty();
        self.keep_alive && self.answered && complete && !self.failed && more && self.write.is_empty()
    }

    /// Reads and drops what is left of a request's body, so that the next request can be found.
    /// `false`: it is not worth the wait, and the connection has to be closed.
    pub async fn drain(&mut self, bound: u64, limit: Duration) -> bool {
        if self.body.is_done() {
            return true;
        }
        if self.is_left_over(bound) {
            return false;
        }
        let mut left = bound;
        let drained = tokio::time::timeout(limit, async {
            // The answer is out, so nobody waits for `100 Continue` any more.
            self.continue_owed = false;
            while let Some(piece) = self.read_body().await? {
                left = left.checked_sub(piece.len() as u64).ok_or_else(|| Error::new(super::BODY_TOO_LARGE))?;
            }
            Result::<()>::Ok(())
        });
        matches!(drained.await, Ok(Ok(())))
    }

    /// Whether the client has nothing more to send that belongs to its request, as far as that can be known.
    pub fn is_read(&self) -> bool {
        self.head_read && self.body.is_done() && self.read.is_empty()
    }

    /// Closes so that the client reads the answer before it learns of the end: half-close, then a wait for its own end, in which what it
    /// sends is read and dropped. A plain close while bytes are unread would send RST, and RST discards what the client has not read
    /// yet (RFC 9112, section 9.6).
    ///
    /// An answer that only the connection's end delimits, and that broke off, must not end so: a reset tells it from a whole one. TLS
    /// tells it by the missing `close_notify`.
    pub async fn close(mut self, farewell: Farewell) {
        if self.framing == AnswerFraming::UntilClose {
            if let Io::Plain(stream) = &self.io {
                // A socket that takes no options any more has failed already.
                let _ = stream.set_zero_linger();
            }
            return;
        }
        let _ = tokio::time::timeout(farewell.all, async {
            if self.io.shutdown().await.is_err() || self.eof {
                return;
            }
            loop {
                self.read.clear();
                if !matches!(within(farewell.silence, self.fill()).await, Ok(Ok(1..))) {
                    return;
                }
            }
        })
        .await;
    }
}

/// Waits until a socket has bytes, or its end. In the one place that a socket has for a reader, which is cheaper than
/// [`TcpStream::readable`]'s list of them.
async fn readable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|cx| stream.poll_read_ready(cx)).await
}

/// Writes everything. The limit counts anew whenever the client takes some of it, so that a slow client is served and a stopped one is
/// not waited for.
async fn put(io: &mut Io, bytes: &mut impl Buf, patience: Duration) -> Result<()> {
    while bytes.has_remaining() {
        match within(patience, io.write_buf(bytes)).await {
            Ok(Ok(count)) if count > 0 => {}
            Ok(_) => return Error::e_explain(CLIENT_GONE, "the client takes no more bytes"),
            Err(_) => return Error::e_explain(CLIENT_STALLED, "the client took nothing for too long"),
        }
    }
    within(patience, io.flush())
        .await
        .map_or_else(|_| Err(Error::new(CLIENT_STALLED)), |sent| sent.or_err(CLIENT_GONE, "writing to the client"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head: 8192, fields: 64, target: 4096 };
    const SECOND: Duration = Duration::from_secs(1);

    /// Over TLS, where waiting for bytes and reading them is one step.
    #[tokio::test]
    async fn a_head_that_comes_in_one_piece_is_enough() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut h1 = H1::new(Io::Boxed(Box::new(server)), &[]);
        let mut alarm = Alarm::default();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let next = h1.next_head(&LIMITS, SECOND, Duration::from_millis(100), &mut alarm).await;
            assert!(matches!(next, NextHead::Head(_)));
        }
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let next = h1.next_head(&LIMITS, SECOND, Duration::from_millis(100), &mut alarm).await;
        assert!(matches!(next, NextHead::Bad(refused) if refused.bad == HEAD_TIMEOUT && refused.head.path == "/"));
    }
}
