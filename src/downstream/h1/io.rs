//! The transport under a client's connection.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use pingora_core::protocols::Stream;
use pingora_error::{Error, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::downstream::{CLIENT_GONE, CLIENT_STALLED};
use crate::wait::within;

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

impl Io {
    /// The socket under the transport.
    #[allow(unsafe_code)]
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Io::Plain(stream) => stream.as_fd(),
            // SAFETY: it is open for as long as the stream lives, which is borrowed for as long as this.
            Io::Boxed(stream) => unsafe { BorrowedFd::borrow_raw(stream.id()) },
        }
    }
}

/// Waits until a socket has bytes, or its end. In the one place that a socket has for a reader, which is cheaper than
/// [`TcpStream::readable`]'s list of them.
pub(super) async fn readable(stream: &TcpStream) -> io::Result<()> {
    poll_fn(|cx| stream.poll_read_ready(cx)).await
}

/// Writes everything. The limit counts anew whenever the client takes some of it, so that a slow client is served and a stopped one is
/// not waited for.
pub(super) async fn put(io: &mut Io, bytes: &mut impl Buf, patience: Duration) -> Result<()> {
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
