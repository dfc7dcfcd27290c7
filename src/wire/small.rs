//! Small frames, on their way out and in.
//!
//! The library bounds what a stream may have unsent in bytes of payload, while each frame costs it some 300 bytes beside that: a service that
//! answers in words of two bytes, or a client that opens its window byte by byte, and does not read, would have it hold a hundred times its
//! bound. Here the frames of one stream that are not sent yet are counted, so that whoever has more to say waits, and says it in fewer. What
//! comes in small frames is put together, for the same reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use parking_lot::Mutex;

/// Frames from this length on are bounded well enough by their bytes.
pub const SMALL: usize = 512;
/// One small frame in so many is marked: those before it have gone when it goes. The first few of a stream cost nothing.
const EACH: u32 = 8;
/// So many marked ones may be unsent.
const MOST: usize = 16;

/// The small frames of one stream.
#[derive(Default)]
pub struct SmallFrames {
    count: u32,
    unsent: Option<Arc<Unsent>>,
}

#[derive(Default)]
struct Unsent {
    marks: AtomicUsize,
    waits: Mutex<Option<Waker>>,
}

/// A frame's payload, which is dropped when the frame is sent, or never will be.
struct Marked {
    payload: Bytes,
    unsent: Arc<Unsent>,
}

impl AsRef<[u8]> for Marked {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.unsent.marks.fetch_sub(1, Ordering::Release);
        let waits = self.unsent.waits.lock().take();
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}

impl Unsent {
    fn is_full(&self) -> bool {
        self.marks.load(Ordering::Acquire) >= MOST
    }
}

impl SmallFrames {
    /// How much of `wanted` bytes the stream takes now. `None`: it takes no more.
    pub fn poll_room(
        &self,
        stream: &mut SendStream<Bytes>,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<usize, h2::Error>>> {
        if let Some(unsent) = self.unsent.as_ref().filter(|unsent| unsent.is_full()) {
            *unsent.waits.lock() = Some(cx.waker().clone());
            // One may have gone meanwhile. If the stream is reset, all of them do.
            if unsent.is_full() {
                return Poll::Pending;
            }
        }
        stream.reserve_capacity(wanted);
        let room = ready!(stream.poll_capacity(cx));
        Poll::Ready(room.map(|room| room.map(|room| room.min(wanted))))
    }

    /// Hands a frame to the library.
    ///
    /// # Errors
    /// The stream is over.
    #[inline]
    pub fn send(&mut self, stream: &mut SendStream<Bytes>, piece: Bytes, end: bool) -> Result<(), h2::Error> {
        let piece = if piece.len() < SMALL && !end && !piece.is_empty() { self.small(piece) } else { piece };
        stream.send_data(piece, end)
    }

    #[inline]
    fn small(&mut self, piece: Bytes) -> Bytes {
        self.count = self.count.wrapping_add(1);
        if self.count.is_multiple_of(EACH) { self.marked(piece) } else { piece }
    }

    #[cold]
    fn marked(&mut self, payload: Bytes) -> Bytes {
        let unsent = self.unsent.get_or_insert_default().clone();
        unsent.marks.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Marked { payload, unsent })
    }
}

/// Takes in all that is there of a body. The window, which this does not open, bounds it. An end, or an error, is for whoever reads on.
pub fn gather(body: &mut RecvStream, gathered: &mut BytesMut, cx: &mut Context<'_>) {
    while let Poll::Ready(Some(Ok(piece))) = body.poll_data(cx) {
        gathered.extend_from_slice(&piece);
    }
}
