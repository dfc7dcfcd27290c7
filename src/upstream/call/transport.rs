//! What bytes to services travel over: a plain socket, or TLS.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use pingora_core::tls::ssl::SslRef;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::address::EndpointAddress;
use crate::upstream::unix;

/// The most that one TLS record holds (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// A connection's transport.
pub enum Transport {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Tls),
}

/// What [`Transport::turn`] did.
pub enum Turn {
    /// So many bytes were read; 0 is the end.
    Read(usize),
    /// Some bytes may have been sent.
    Sent,
}

impl Transport {
    /// A new connection, without TLS.
    ///
    /// # Errors
    /// None could be made.
    pub async fn plain(address: EndpointAddress) -> io::Result<Self> {
        match address {
            EndpointAddress::Inet(address) => connect(address).await.map(Transport::Plain),
            EndpointAddress::Unix(name) => Box::pin(unix::connect(name)).await.map(Transport::Unix),
        }
    }

    /// Breaks the connection off, so that its other end does not take what it has read for the whole.
    pub fn abort(self) {
        match self {
            Transport::Plain(stream) => {
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
            // Closing it is all that there is.
            Transport::Unix(_) => {}
            Transport::Tls(mut tls) => tls.broken = true,
        }
    }

    /// Whether its end, which was read, is one of TLS that its peer has not announced.
    pub fn is_cut_off(&self) -> bool {
        match self {
            Transport::Plain(_) | Transport::Unix(_) => false,
            Transport::Tls(tls) => tls.stream.get_ssl().is_some_and(is_cut_off),
        }
    }

    /// Whether nothing has come since the last answer: neither an end nor bytes that nobody asked for. Costs no system call unless
    /// the event loop has seen something.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Transport::Plain(stream) => is_not_yet(&stream.try_read(&mut [0])),
            Transport::Unix(stream) => is_not_yet(&stream.try_read(&mut [0])),
            Transport::Tls(tls) => tls.is_silent(),
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The connection takes no more.
    pub async fn write(&mut self, bytes: &mut impl Buf) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.write_all_of(bytes).await,
            Transport::Unix(stream) => stream.write_all_of(bytes).await,
            Transport::Tls(tls) => poll_fn(|cx| tls.poll_send(cx, bytes)).await,
        }
    }

    /// Reads into `read` or sends of `unsent`, whichever can be done first; reads if both can. An answer may come before the request
    /// is whole, and a backend that stops reading until its answer is taken would otherwise stop both.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn turn(&mut self, read: &mut BytesMut, amount: usize, unsent: &mut impl Buf) -> io::Result<Turn> {
        match self {
            Transport::Plain(stream) => stream.turn_over(read, amount, unsent).await,
            Transport::Unix(stream) => stream.turn_over(read, amount, unsent).await,
            Transport::Tls(tls) => {
                read.reserve(amount);
                poll_fn(|cx| match pin!(tls.read_buf(read)).poll(cx) {
                    Poll::Ready(count) => Poll::Ready(count.map(Turn::Read)),
                    Poll::Pending => tls.poll_send(cx, unsent).map_ok(|()| Turn::Sent),
                })
                .await
            }
        }
    }
}

/// A new connection. One to the same host stands as soon as it has been asked for, though the kernel says that it is under way: then there is
/// no turn of the event loop to wait for.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    let _ = socket.set_tcp_nodelay(true);
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stands = socket.peer_addr().is_ok();
    let stream = TcpStream::from_std(socket.into())?;
    if !stands {
        poll_fn(|cx| stream.poll_write_ready(cx)).await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

/// What both kinds of sockets do in the same way, each with methods of its own for it.
trait Socket {
    /// See [`Transport::write`].
    async fn write_all_of(&self, bytes: &mut impl Buf) -> io::Result<()>;
    /// See [`Transport::turn`].
    async fn turn_over(&self, read: &mut BytesMut, amount: usize, unsent: &mut impl Buf) -> io::Result<Turn>;
}

macro_rules! socket {
    ($type:ty) => {
        impl Socket for $type {
            async fn write_all_of(&self, bytes: &mut impl Buf) -> io::Result<()> {
                let mut first = true;
                while bytes.has_remaining() {
                    let mut written = self.try_write(bytes.chunk());
                    if std::mem::take(&mut first) && is_not_yet(&written) {
                        // Of a connection that is new the event loop does not know yet that it takes bytes.
                        written = rustix::net::send(self, bytes.chunk(), SendFlags::NOSIGNAL).map_err(io::Error::from);
                    }
                    match written {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(count) => bytes.advance(count),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            poll_fn(|cx| self.poll_write_ready(cx)).await?;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }

            async fn turn_over(&self, read: &mut BytesMut, amount: usize, unsent: &mut impl Buf) -> io::Result<Turn> {
                let readable = poll_fn(|cx| match self.poll_read_ready(cx) {
                    Poll::Ready(_) => Poll::Ready(true),
                    Poll::Pending => self.poll_write_ready(cx).map(|_| false),
                });
                let done = if readable.await {
                    read.reserve(amount);
                    self.try_read_buf(read).map(Turn::Read)
                } else {
                    self.try_write(unsent.chunk()).map(|count| {
                        unsent.advance(count);
                        Turn::Sent
                    })
                };
                // It was said to be ready and was not: the next turn waits again.
                if is_not_yet(&done) { Ok(Turn::Sent) } else { done }
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

/// For what is no exchange: an upgraded connection.
impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(_) | Transport::Unix(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

/// A connection after its handshake.
pub struct Tls {
    stream: Stream,
    /// Bytes were written and may still be held back below.
    unflushed: bool,
    /// How the connection ended, if that was found out behind bytes that had to be told first.
    end: Option<io::Result<()>>,
    /// It is not to look as if it had come to its end.
    broken: bool,
}

impl Tls {
    pub fn new(stream: Stream) -> Self {
        Tls { stream, unflushed: false, end: None, broken: false }
    }

    /// Session tickets, which a backend sends when it likes, are silence: they are no bytes of an answer.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // A task that has done much already would be told to wait, whatever the connection has to say.
        let reading = tokio::task::unconstrained(poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut buffer)));
        pin!(reading).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Sends all of `bytes`. What is held back below is sent while the answer is waited for.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut impl Buf) -> Poll<io::Result<()>> {
        while bytes.has_remaining() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes.chunk()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => bytes.advance(count),
            }
        }
        self.unflushed = self.poll_flush(cx)?.is_pending();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Tls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tls = self.get_mut();
        if tls.unflushed {
            // What is waited for may be the answer to what is held back.
            tls.unflushed = tls.poll_flush(cx).is_pending();
        }
        if let Some(end) = tls.end.take() {
            return Poll::Ready(end);
        }
        let begin = buffer.filled().len();
        // The library gives one record at a time. Buffers for long answers hold more, and behind a full one there is mostly another.
        loop {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut tls.stream).poll_read(cx, buffer);
            let count = buffer.filled().len() - before;
            if count == RECORD && buffer.remaining() > 0 {
                continue;
            }
            if before == begin {
                return polled;
            }
            if let (Poll::Ready(end), 0) = (polled, count) {
                tls.end = Some(end);
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl Drop for Tls {
    /// Says that this end is one, if the socket takes it at once (RFC 8446, section 6.1).
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

/// Whether a connection whose end was read has ended without `close_notify` (RFC 8446, section 6.1). The library reads such an end like any
/// other, and its Rust binding tells the difference only to whoever has the stream that Pingora wraps.
#[cfg(feature = "boringssl")]
#[allow(unsafe_code)]
pub fn is_cut_off(ssl: &SslRef) -> bool {
    use foreign_types_shared::ForeignTypeRef;
    use pingora_core::tls::ssl_sys;

    // SAFETY: it is valid for as long as it is borrowed, and nothing is done but to read two of its flags.
    let told = unsafe { ssl_sys::SSL_get_shutdown(ssl.as_ptr()) };
    told & ssl_sys::SSL_RECEIVED_SHUTDOWN == 0
}

/// OpenSSL takes it for an error, and not for an end.
#[cfg(not(feature = "boringssl"))]
pub fn is_cut_off(_: &SslRef) -> bool {
    false
}

fn is_not_yet<T>(done: &io::Result<T>) -> bool {
    matches!(done, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
