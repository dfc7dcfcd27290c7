//! What is under an upgrade, on either side of the gateway: a whole connection of HTTP/1.1, or one stream of HTTP/2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::duplex::{Absorb, Duplex};

/// See the module. `C` is the connection, and `H` what a stream holds as long as it lives.
pub enum Upgraded<C, H> {
    H1(C),
    H2(Box<Duplex<H>>),
}

impl<C, H> Upgraded<C, H> {
    /// Gives a stream up, for the reason that the other side had. A connection has no words for that.
    pub fn reset(&mut self, reason: Reason) {
        if let Upgraded::H2(stream) = self {
            stream.reset(reason);
        }
    }
}

impl<C, H> Absorb for Upgraded<C, H> {
    fn absorb(&mut self, cx: &mut Context<'_>) {
        // What comes on a connection of its own waits in the socket.
        if let Upgraded::H2(stream) = self {
            stream.absorb(cx);
        }
    }
}

impl<C: AsyncRead + Unpin, H: Unpin> AsyncRead for Upgraded<C, H> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(connection) => Pin::new(connection).poll_read(cx, buffer),
            Upgraded::H2(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<C: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Upgraded<C, H> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Upgraded::H1(connection) => Pin::new(connection).poll_write(cx, bytes),
            Upgraded::H2(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(connection) => Pin::new(connection).poll_flush(cx),
            Upgraded::H2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(connection) => Pin::new(connection).poll_shutdown(cx),
            Upgraded::H2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
