//! Turns at a connection of HTTP/2: so much is read of it before those that its frames are for have theirs.
//!
//! The library takes in all that a socket has before anybody else runs. What comes in small frames would pile up meanwhile, each of them many
//! times its bytes, until the library takes it for an attack and ends the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at a turn.
const MOST: usize = 8 * 1024;

/// A transport that is read in turns.
pub struct InTurns<T> {
    transport: T,
    /// How much of the present turn is over.
    read: usize,
}

impl<T> InTurns<T> {
    pub fn new(transport: T) -> Self {
        InTurns { transport, read: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for InTurns<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read >= MOST {
            this.read = 0;
            // Behind those who have been woken.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.transport).poll_read(cx, buffer);
        this.read = if read.is_ready() { this.read + buffer.filled().len() - before } else { 0 };
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for InTurns<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::AsyncReadExt;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// Goes to the end of those who wait for their turn. What tokio has for it waits for the sockets, too.
    async fn behind_the_others() {
        let mut been = false;
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut been, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn others_have_their_turn_before_all_is_read() {
        let (turns, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (counted, over) = (turns.clone(), done.clone());
        let tasks = LocalSet::new();
        tasks
            .run_until(async move {
                let reading = spawn_local(async move {
                    let mut endless = InTurns::new(tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink()));
                    let mut piece = [0; 1000];
                    let mut count = 0;
                    while count < 10 * MOST {
                        count += endless.read(&mut piece).await.unwrap();
                    }
                    over.set(true);
                });
                let other = spawn_local(async move {
                    while !done.get() {
                        counted.set(counted.get() + 1);
                        behind_the_others().await;
                    }
                });
                reading.await.unwrap();
                other.await.unwrap();
            })
            .await;
        assert!((8..=14).contains(&turns.get()), "{}", turns.get());
    }
}
