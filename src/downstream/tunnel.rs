//! What is under an upgrade on the client's side: a whole connection, or one stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h1::Io;
use crate::wire::duplex::Duplex;

/// See the module.
pub enum Tunnel {
    H1(Io),
    H2(Box<Duplex<()>>),
}

impl Tunnel {
    /// Gives a stream up, for the reason that the other side had. A connection has no words for that.
    pub fn reset(&mut self, reason: Reason) {
        if let Tunnel::H2(stream) = self {
            stream.reset(reason);
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::H1(io) => Pin::new(io).poll_read(cx, buffer),
            Tunnel::H2(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Tunnel::H1(io) => Pin::new(io).poll_write(cx, bytes),
            Tunnel::H2(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::H1(io) => Pin::new(io).poll_flush(cx),
            Tunnel::H2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Tunnel::H1(io) => Pin::new(io).poll_shutdown(cx),
            Tunnel::H2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
