//! A stream of HTTP/2 as a transport: what an extended CONNECT opens (RFC 8441), on either side of the gateway.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::small::{SMALL, SmallFrames, gather};

/// Both directions of a stream. What is read opens the window for as much again, and what is written waits for the other end's: neither
/// holds more than the window, nor more frames than it need: what comes in small ones while nobody reads is gathered ([`Absorb`]), and what
/// is written in small ones waits until those before it are sent.
///
/// Dropped before both directions have ended, it resets the stream.
pub struct Duplex<H> {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What has come and was not read yet.
    rest: Bytes,
    /// What has come behind it while nobody read.
    gathered: BytesMut,
    small: SmallFrames,
    ended: bool,
    /// Lives as long as the stream.
    _held: H,
}

impl<H> Duplex<H> {
    /// `gathered`: what was taken in already, and the other end was not told of.
    pub fn new(receive: RecvStream, send: SendStream<Bytes>, gathered: BytesMut, held: H) -> Self {
        Duplex { receive, send, rest: Bytes::new(), gathered, small: SmallFrames::default(), ended: false, _held: held }
    }

    /// Gives the stream up.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}

/// What can take in what comes while nobody reads it, so that it costs no more memory than its bytes.
pub trait Absorb {
    /// Takes in what is there, and hears of what comes.
    fn absorb(&mut self, cx: &mut Context<'_>);
}

#[cfg(test)]
impl Absorb for &[u8] {
    fn absorb(&mut self, _: &mut Context<'_>) {}
}

#[cfg(test)]
impl Absorb for tokio::io::Repeat {
    fn absorb(&mut self, _: &mut Context<'_>) {}
}

impl<H> Absorb for Duplex<H> {
    fn absorb(&mut self, cx: &mut Context<'_>) {
        gather(&mut self.receive, &mut self.gathered, cx);
    }
}

/// Why the other end has broken a stream off, if that is what this error says.
pub fn reset_reason(error: &io::Error) -> Option<Reason> {
    let error = error.get_ref()?.downcast_ref::<h2::Error>()?;
    error.reason().filter(|_| error.is_reset() && error.is_remote())
}

impl<H: Unpin> AsyncRead for Duplex<H> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() && !this.gathered.is_empty() {
            this.rest = std::mem::take(&mut this.gathered).freeze();
        }
        while this.rest.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(piece)) if piece.len() < SMALL => {
                    // Perhaps one of many.
                    this.gathered.extend_from_slice(&piece);
                    gather(&mut this.receive, &mut this.gathered, cx);
                    this.rest = std::mem::take(&mut this.gathered).freeze();
                }
                Some(Ok(piece)) => this.rest = piece,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                // Trailers would have nobody to hear them.
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.rest.len().min(buffer.remaining());
        buffer.put_slice(this.rest.get(..count).unwrap_or_default());
        this.rest.advance(count);
        // It fails only on a stream that is over.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl<H: Unpin> AsyncWrite for Duplex<H> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = match ready!(this.small.poll_room(&mut this.send, bytes.len(), cx)) {
            Some(Ok(room)) => room,
            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let piece = Bytes::copy_from_slice(bytes.get(..room).unwrap_or_default());
        this.small.send(&mut this.send, piece, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            this.send.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
