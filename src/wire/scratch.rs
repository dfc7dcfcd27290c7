//! Reading messages that are mostly small, without a large buffer for each.
//!
//! Whoever reads does not know how much there is, so the buffer must be large; what comes is mostly a few hundred bytes. Here every thread
//! has one buffer to read into, which stays in the processor's cache, and what came is copied to where it is wanted, into space of its
//! own size: cheaper than a large buffer per message, and a message that is kept holds no more memory than it needs.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, ReadBuf};

/// The most that one read takes.
pub const SIZE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Reads what is there, at most [`SIZE`] bytes, and appends it to `to`. 0: the end. Cancel-safe.
///
/// # Errors
/// Those of `from`.
pub async fn read(from: &mut (impl AsyncRead + Unpin), to: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| poll_read(Pin::new(&mut *from), cx, to)).await
}

/// As [`read`].
///
/// # Errors
/// Those of `from`.
pub fn poll_read(from: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>, to: &mut BytesMut) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(from.poll_read(cx, &mut buffer))?;
        to.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

/// Appends what a socket has at this moment, at most [`SIZE`] bytes: for one that is new, of which the event loop does not know yet what it
/// has. An end or an error is left for who reads next.
pub fn read_at_once(from: impl AsFd, to: &mut BytesMut) {
    SCRATCH.with_borrow_mut(|scratch| {
        if let Ok((count, _)) = rustix::net::recv(from, &mut **scratch, RecvFlags::DONTWAIT) {
            to.extend_from_slice(scratch.get(..count).unwrap_or_default());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn appends_what_came_in_space_of_its_size() {
        let long = vec![b'x'; SIZE + 5];
        let mut from = &long[..];
        let mut to = BytesMut::from(&b"ab"[..]);
        assert_eq!(read(&mut from, &mut to).await.unwrap(), SIZE);
        assert_eq!(read(&mut from, &mut to).await.unwrap(), 5);
        assert_eq!(read(&mut from, &mut to).await.unwrap(), 0);
        assert_eq!((to.len(), &to[..3]), (SIZE + 7, &b"abx"[..]));
        let (one, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut at_once = BytesMut::new();
        read_at_once(&one, &mut at_once);
        std::io::Write::write_all(&mut other, b"abc").unwrap();
        read_at_once(&one, &mut at_once);
        drop(other);
        read_at_once(&one, &mut at_once);
        assert_eq!(at_once, "abc");
        let mut small = BytesMut::new();
        read(&mut &b"GET / HTTP/1.1\r\n\r\n"[..], &mut small).await.unwrap();
        assert_eq!(small.capacity(), small.len());
    }
}
