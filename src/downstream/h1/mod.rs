//! One HTTP/1.x connection from a client: its buffer, its body decoder, its writer.

mod answer;
mod io;
mod parting;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use pingora_error::{Error, OrErr, Result};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{BODY_MALFORMED, CLIENT_GONE};
use crate::head::RequestHead;
use crate::wait::Alarm;
use crate::wire::body::{BodyDecoder, Decoded};
use crate::wire::encode::AnswerFraming;
use crate::wire::head::{BadHead, HeadLimits, HeadScan, Refused};
use crate::wire::scratch;
pub use io::Io;
pub use parting::{Farewell, LOOK};

/// What is read from the socket at once.
const READ: usize = 16 * 1024;
/// The largest buffer for writing that an idle connection keeps.
const KEPT: usize = 2 * 1024;
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

    /// A connection that was accepted just now. Most clients have sent their request by then: it is read without waiting for a turn of the
    /// event loop that says so.
    pub fn accepted(socket: TcpStream, read: &[u8]) -> Self {
        let mut h1 = H1::new(Io::Plain(socket), read);
        if let Io::Plain(socket) = &h1.io {
            scratch::read_at_once(socket, &mut h1.read);
        }
        h1
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
    async fn readable(&mut self) -> std::io::Result<()> {
        match &self.io {
            Io::Plain(stream) => io::readable(stream).await,
            // TLS cannot be waited for without reading.
            Io::Boxed(_) => match self.fill_small().await? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
        }
    }

    /// Reads a head, or what there is of it.
    async fn fill_small(&mut self) -> std::io::Result<usize> {
        let count = scratch::read(&mut self.io, &mut self.read).await?;
        self.eof |= count == 0;
        Ok(count)
    }

    /// Reads a body, or a part of it.
    async fn fill(&mut self) -> std::io::Result<usize> {
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

    /// Waits until a client that waits for `100 Continue` sends its body all the same, or ends its input.
    pub async fn unasked(&mut self) {
        while self.read.is_empty() && !self.eof {
            if self.fill().await.is_err() {
                self.failed = true;
                self.eof = true;
            }
        }
    }
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
