//! Reading a request's body: in pieces, whole, or its beginning, under its bounds and out of the purse of its address.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_error::{Error, ErrorType, Result};

use super::{BODY_BUDGET, BODY_MALFORMED, BODY_TIMEOUT, BODY_TOO_LARGE, CLIENT_GONE, Downstream, UNREAD, Wire};
use crate::grpc::Messages;
use crate::grpc::web::TextReader;
use crate::head::BodyFraming;
use crate::listen::share::{Purse, grown};
use crate::wait::{counted, within};

/// How long a stream that has said nothing about its body is waited for.
const FIRST_FRAME: Duration = Duration::from_millis(100);

/// What is awaited of a body whose length is known, before a backend is connected to.
const BEGINNING: u64 = 16 * 1024;

impl Downstream {
    /// The request's body may be silent for as long as it likes.
    pub fn await_body_without_limit(&mut self) {
        self.pace = None;
    }

    /// When the request's body had come whole, if there is one.
    pub fn uploaded(&self) -> Option<std::time::Instant> {
        self.uploaded
    }

    /// The body is a gRPC stream: its bound is one on each message, for a stream may go on for hours.
    ///
    /// # Errors
    /// [`BODY_TOO_LARGE`]: one of the messages that were read already is beyond it.
    pub fn bound_messages(&mut self) -> Result<()> {
        let mut messages = Box::<Messages>::default();
        let mut read = self.buffered.iter().chain(&self.begun);
        let within = read.all(|piece| messages.are_within(self.max_body, piece));
        self.messages = Some(messages);
        if within { Ok(()) } else { Err(Error::new(BODY_TOO_LARGE)) }
    }

    /// The body is base64 of what the service gets, also what was read of it before.
    ///
    /// # Errors
    /// [`BODY_MALFORMED`]: what was read is none.
    pub fn read_text(&mut self) -> Result<()> {
        let mut reader = TextReader::default();
        for known in [&mut self.buffered, &mut self.begun].into_iter().filter(|known| known.is_some()) {
            *known = decoded(&mut reader, known.take())?;
        }
        if self.buffered.is_some() {
            return decoded(&mut reader, None).map(drop);
        }
        self.text = Some(Box::new(reader));
        Ok(())
    }

    /// Bounds the body that a road reads, in bytes.
    pub fn limit_body(&mut self, max_body: u64) {
        self.max_body = max_body;
    }

    /// Says where the memory for a body comes from.
    pub fn set_purse(&mut self, purse: Purse) {
        self.purse = Some(purse);
    }

    /// The same, if nothing was said yet.
    pub fn set_purse_if_none(&mut self, purse: impl FnOnce() -> Purse) {
        self.purse.get_or_insert_with(purse);
    }

    /// A purse for a copy of the body, or for what is kept of the answer.
    pub fn purse_beside(&self) -> Option<Purse> {
        self.purse.as_ref().map(Purse::beside)
    }

    /// How much of the memory for bodies there may be for this request beside what it holds, were nobody else there.
    pub fn most_memory(&self) -> usize {
        self.purse.as_ref().map_or(usize::MAX, |purse| purse.most().saturating_sub(purse.held()))
    }

    /// Takes so much of the memory for bodies, for as long as the request lasts.
    ///
    /// # Errors
    /// [`BODY_BUDGET`]: there is no more.
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        let paid = self.purse.as_mut().is_none_or(|purse| purse.charge(bytes));
        if paid { Ok(()) } else { Err(Error::new(BODY_BUDGET)) }
    }

    /// Adds to a body that is gathered. What is charged is what is allocated.
    fn gather(&mut self, whole: &mut BytesMut, piece: &[u8], bound: usize) -> Result<()> {
        if let Some(after) = grown(whole, piece.len(), bound) {
            self.charge(after - whole.capacity())?;
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
        match self.gather_all(bound).await? {
            Ok(body) => Ok(body),
            Err(why) => {
                self.begun = None;
                Err(Error::new(why))
            }
        }
    }

    /// The same, but a body beyond `bound`, or one that there is no memory for, is nobody's fault: `None`, and what was read of it is kept for
    /// whoever reads it later.
    ///
    /// # Errors
    /// As [`Downstream::buffer_body`], but for that.
    pub async fn try_body(&mut self, bound: usize) -> Result<Option<Bytes>> {
        Ok(self.gather_all(bound).await?.ok())
    }

    /// The whole body, or why it cannot be had whole; what came of it is what has begun, then.
    async fn gather_all(&mut self, bound: usize) -> Result<std::result::Result<Bytes, ErrorType>> {
        if let Some(body) = &self.buffered {
            return Ok(Ok(body.clone()));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.read_body().await? {
            let is_all = whole.is_empty() && self.wire_body_done();
            let why = if whole.len() + piece.len() > bound {
                Some(BODY_TOO_LARGE)
            } else if is_all {
                self.charge(piece.len()).is_err().then_some(BODY_BUDGET)
            } else {
                self.gather(&mut whole, &piece, bound).is_err().then_some(BODY_BUDGET)
            };
            if let Some(why) = why {
                if !whole.is_empty() {
                    // One piece more than was paid for.
                    whole.extend_from_slice(&piece);
                }
                self.begun = Some(if whole.is_empty() { piece } else { whole.freeze() });
                return Ok(Err(why));
            }
            if is_all {
                self.buffered = Some(piece.clone());
                return Ok(Ok(piece));
            }
        }
        let whole = whole.freeze();
        self.buffered = Some(whole.clone());
        Ok(Ok(whole))
    }

    /// Puts another body in the place of the one that was read whole.
    ///
    /// # Errors
    /// [`BODY_BUDGET`] where it is longer, and there is no memory left for that.
    pub fn replace_body(&mut self, body: Bytes) -> Result<()> {
        let before = self.buffered.as_ref().map_or(0, Bytes::len);
        self.charge(body.len().saturating_sub(before))?;
        self.buffered = Some(body);
        Ok(())
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
        let mut piece = within(limit, counted(&mut self.waited, read)).await.map_err(|_| Error::new(BODY_TIMEOUT))??;
        if self.wire_body_done() {
            self.uploaded.get_or_insert_with(std::time::Instant::now);
        }
        if let Some(piece) = &piece {
            self.body_read += piece.len() as u64;
            self.control.note_read(self.body_read);
        }
        if let Some(text) = &mut self.text {
            piece = decoded(text, piece)?;
        }
        if let Some(piece) = &piece {
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
            && !stream.is_connect()
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
}

/// What a piece of base64 stands for.
#[cold]
fn decoded(text: &mut TextReader, piece: Option<Bytes>) -> Result<Option<Bytes>> {
    let malformed = || Error::explain(BODY_MALFORMED, "the body is no base64");
    match piece {
        Some(piece) => text.decode(&piece).map(Some).map_err(|_| malformed()),
        None if text.is_whole() => Ok(None),
        None => Err(malformed()),
    }
}
