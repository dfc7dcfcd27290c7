//! The client's side of an exchange, as far as policies have to do with it: bodies that they read whole.
//!
//! Pingora sends a body on as it comes, and has no place for one that was read before a service is chosen, but for the buffer from which it
//! repeats a request: 64 KiB. What was read here is kept here; the buffer has to hold the end of it, so that Pingora knows that
//! there is something to send, and is replaced by the whole on its way. So a body whose length is known may be as long as its policies
//! allow, and one that comes in chunks no longer than that buffer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use crate::downstream::{BODY_BUDGET, BODY_MALFORMED, BODY_TIMEOUT, BODY_TOO_LARGE, CLIENT_GONE};
use crate::head::BodyFraming;
use crate::journey::Client;
use crate::listen::share::Purse;
use crate::reply::Reply;

/// What Pingora keeps of a body to repeat it.
const KEPT: u64 = 64 * 1024;

/// What is known of a request's body.
#[derive(Default)]
pub struct Body {
    /// All of it, where a policy had it read.
    pub whole: Option<Bytes>,
    /// Where the memory for it comes from.
    pub purse: Option<Purse>,
    /// The client waits for `100 Continue`, and was not told so yet.
    pub owes_continue: bool,
    /// It is longer than what can be kept of one that does not say how long it is.
    pub lacks_length: bool,
    /// The most that may be sent on.
    pub most: u64,
    /// What was sent on, in this attempt.
    pub passed: u64,
}

/// A client on a stock session.
pub struct StockClient<'a> {
    pub session: &'a mut Session,
    pub body: &'a mut Body,
    pub framing: BodyFraming,
}

impl Client for StockClient<'_> {
    async fn gone(&mut self) {
        // Asking Pingora whether an HTTP/1.x client is still there would take in what it sends next.
        match self.session.watch_h2_stream_close() {
            Some(idle) => drop(idle.await),
            None => std::future::pending().await,
        }
    }

    fn limit_body(&mut self, most: u64) {
        self.body.most = most;
    }

    async fn buffer_body(&mut self, bound: usize) -> Result<Bytes> {
        if let Some(whole) = &self.body.whole {
            return Ok(whole.clone());
        }
        if std::mem::take(&mut self.body.owes_continue) {
            self.session.write_continue_response().await.map_err(|error| Error::because(CLIENT_GONE, "100 Continue", error))?;
        }
        let mut whole = BytesMut::new();
        loop {
            let left = match self.framing {
                BodyFraming::Length(length) => length.saturating_sub(whole.len() as u64),
                BodyFraming::None | BodyFraming::Streamed => 0,
            };
            if left <= KEPT {
                // From here on it holds the end of the body, for no piece is longer than it.
                self.session.enable_retry_buffering();
            }
            let Some(piece) = self.session.read_request_body().await.map_err(broken)? else { break };
            if whole.len() + piece.len() > bound {
                return Err(Error::new(BODY_TOO_LARGE));
            }
            if self.session.retry_buffer_truncated() {
                self.body.lacks_length = true;
                return Err(Error::new(BODY_TOO_LARGE));
            }
            self.charge(piece.len())?;
            whole.extend_from_slice(&piece);
        }
        if !whole.is_empty() && self.session.get_retry_buffer().is_none() {
            self.body.lacks_length = true;
            return Err(Error::new(BODY_TOO_LARGE));
        }
        let whole = whole.freeze();
        self.body.whole = Some(whole.clone());
        Ok(whole)
    }

    async fn try_body(&mut self, bound: usize) -> Result<Option<Bytes>> {
        match self.framing {
            // What is read of it and cannot be kept cannot be given back.
            BodyFraming::Streamed if self.body.whole.is_none() => Ok(None),
            _ => self.buffer_body(bound).await.map(Some),
        }
    }

    fn replace_body(&mut self, body: Bytes) -> Result<()> {
        let before = self.body.whole.as_ref().map_or(0, Bytes::len);
        self.charge(body.len().saturating_sub(before))?;
        self.body.whole = Some(body);
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        let paid = self.body.purse.as_mut().is_none_or(|purse| purse.charge(bytes));
        if paid { Ok(()) } else { Err(Error::new(BODY_BUDGET)) }
    }

    fn body_is_empty(&self) -> bool {
        // Nobody has waited for it.
        false
    }

    async fn await_body(&mut self, _: BodyFraming) -> Result<()> {
        // What is read here could not be given back.
        Ok(())
    }
}

/// How a body that cannot be read ends a request, in our own words.
pub fn broken(error: Box<Error>) -> Box<Error> {
    let kind = match error.etype() {
        ErrorType::ReadTimedout => BODY_TIMEOUT,
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::H2Error => CLIENT_GONE,
        known if is_malformed(known) => BODY_MALFORMED,
        _ => return error,
    };
    Error::because(kind, "the request's body", error)
}

/// The same of an error that came out of Pingora's loop.
pub fn broken_on_its_way(error: &Error) -> Option<ErrorType> {
    let downstream = *error.esource() == ErrorSource::Downstream;
    match error.etype() {
        ErrorType::ReadTimedout if downstream => Some(BODY_TIMEOUT),
        known if downstream && is_malformed(known) => Some(BODY_MALFORMED),
        _ => None,
    }
}

fn is_malformed(kind: &ErrorType) -> bool {
    ["InvalidChunk", "InvalidTrailerEnd"].contains(&kind.as_str())
}

/// The answer to a body that is too long to be read without knowing how long it is.
pub fn length_required() -> Box<Reply> {
    let detail = "A body of more than 64 KiB needs a Content-Length on this route.";
    Reply::new(StatusCode::LENGTH_REQUIRED, "door", "length_required", detail).closing()
}

/// How long an unread body of a refused request may take that is read and dropped.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
