//! What is under an upgrade on the service's side: a whole connection, or one stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lines::Place;
use super::transport::Transport;
use crate::wire::duplex::Duplex;

/// See the module.
pub enum Upgraded {
    H1(Transport),
    H2(Box<Duplex<Box<Place>>>),
}

impl Upgraded {
    /// Gives a stream up, for the reason that the client had. A connection has no words for that.
    pub fn reset(&mut self, reason: Reason) {
        if let Upgraded::H2(stream) = self {
            stream.reset(reason);
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(transport) => Pin::new(transport).poll_read(cx, buffer),
            Upgraded::H2(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Upgraded::H1(transport) => Pin::new(transport).poll_write(cx, bytes),
            Upgraded::H2(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(transport) => Pin::new(transport).poll_flush(cx),
            Upgraded::H2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Upgraded::H1(transport) => Pin::new(transport).poll_shutdown(cx),
            Upgraded::H2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
