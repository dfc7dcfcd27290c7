//! How a client leaves, and how it is left: word of its end, what is drained so that its next request can be found, and the close that
//! lets it read its answer.

use std::os::fd::AsRawFd;
use std::time::Duration;

use pingora_core::protocols::l4::ext::get_tcp_info;
use pingora_error::{Error, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWriteExt, Interest};

use super::io::readable;
use super::{H1, Io, READ};
use crate::downstream::BODY_TOO_LARGE;
use crate::wait::within;
use crate::wire::body::{BodyDecoder, Decoded};
use crate::wire::encode::AnswerFraming;

/// Bytes of a next request that are taken in while an answer is under way. Beyond, the socket's own buffers push back.
const READ_AHEAD: usize = 64 * 1024;

/// How often a connection is looked at that cannot tell by itself that it was reset.
pub const LOOK: Duration = Duration::from_millis(500);

/// How often a client that has ended its input is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(15);

/// Linux's numbers for the states of a connection that is over, and of one whose other end says nothing more.
const TCP_CLOSE: u8 = 7;

const TCP_CLOSE_WAIT: u8 = 8;

/// How long a client that is closed may go on sending.
#[derive(Debug, Clone, Copy)]
pub struct Farewell {
    pub all: Duration,
    /// Without a byte.
    pub silence: Duration,
}

impl H1 {
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
        let socket = self.io.socket();
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
        let _ = SockRef::from(&self.io.socket()).set_tcp_keepalive(&often);
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
                left = left.checked_sub(piece.len() as u64).ok_or_else(|| Error::new(BODY_TOO_LARGE))?;
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
