//! A body on its way in, for those who do not wait until all of it is there: whoever asked for it and reads more slowly than it comes,
//! and, where its length is known, all who want the same.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::disk::long::Long;
use super::disk::reader::Reader;
use super::entry::Entry;

/// A reader gets no more than this at once of what is still growing.
const PIECE: usize = 64 * 1024;

/// See the module.
#[derive(Default)]
pub struct Flow {
    body: Mutex<Arrived>,
    grown: Notify,
    /// It has become too long for memory.
    long: OnceLock<Reader>,
}

#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    /// All of it, as it is stored.
    whole: Option<Bytes>,
    /// No more will come.
    broken: bool,
}

/// What there is to read.
pub enum Piece {
    /// And whether it is the last.
    Some(Bytes, bool),
    /// Something that has to be waited for: see [`Flow::next`].
    OnDisk,
    /// Nothing yet.
    NoneYet,
    /// Nor will there be.
    Broken,
}

/// What has become of a flow.
pub(super) enum Left {
    Growing,
    Whole(Bytes),
    /// It was given up: so many bytes are kept for who has begun to read them.
    Part(usize),
}

impl Flow {
    pub(super) fn of(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Flow { body: Mutex::new(Arrived { bytes, ..Arrived::default() }), ..Flow::default() })
    }

    /// One that is on disk, or on its way there, for one reader.
    pub(super) fn of_long(long: Arc<Long>) -> Arc<Self> {
        let flow = Flow::default();
        flow.goes_on(long);
        Arc::new(flow)
    }

    /// All that has come of it, and what is to come, is there.
    pub(super) fn goes_on(&self, long: Arc<Long>) {
        let _ = self.long.set(Reader::new(long));
        self.body.lock().bytes = Vec::new();
        self.grown.notify_waiters();
    }

    /// What has come of it, to be put elsewhere.
    pub(super) fn copied(&self) -> Vec<u8> {
        self.body.lock().bytes.clone()
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let done = work(&mut self.body.lock().bytes);
        self.grown.notify_waiters();
        done
    }

    /// All has come. Gives it back.
    pub(super) fn end(&self) -> Bytes {
        let whole = {
            let mut body = self.body.lock();
            let whole = Bytes::from(std::mem::take(&mut body.bytes).into_boxed_slice());
            body.whole = Some(whole.clone());
            whole
        };
        self.grown.notify_waiters();
        whole
    }

    /// It is not stored. What has come is kept for who has begun to read it.
    pub(super) fn give_up(&self) {
        {
            let mut body = self.body.lock();
            body.broken = body.whole.is_none();
        }
        self.grown.notify_waiters();
    }

    /// What there is of it while nobody but its readers has it: nothing while it grows, for then it is counted as what arrives.
    pub(super) fn left(&self) -> Left {
        if self.long.get().is_some() {
            return Left::Growing;
        }
        let body = self.body.lock();
        match &body.whole {
            Some(whole) => Left::Whole(whole.clone()),
            None if body.broken => Left::Part(body.bytes.len()),
            None => Left::Growing,
        }
    }

    /// What there is from here on.
    pub fn at(&self, from: usize) -> Piece {
        if let Some(reader) = self.long.get() {
            return reader.long.at(from);
        }
        let body = self.body.lock();
        if let Some(whole) = &body.whole {
            return Piece::Some(whole.slice(from.min(whole.len())..), true);
        }
        match body.bytes.get(from..).filter(|rest| !rest.is_empty()) {
            Some(rest) => Piece::Some(Bytes::copy_from_slice(rest.get(..PIECE).unwrap_or(rest)), false),
            None if body.broken => Piece::Broken,
            None => Piece::NoneYet,
        }
    }

    /// The same for who can have it elsewhere, if the disk takes too long. `None` if it does.
    pub async fn first(&self, from: usize) -> Option<Piece> {
        match self.long.get() {
            Some(reader) => reader.first(from).await,
            None => Some(self.next(from).await),
        }
    }

    /// The same, once there is something.
    pub async fn next(&self, from: usize) -> Piece {
        loop {
            if let Some(reader) = self.long.get() {
                return reader.next(from).await;
            }
            let mut grown = std::pin::pin!(self.grown.notified());
            // From here on no word is missed.
            grown.as_mut().enable();
            match self.at(from) {
                Piece::NoneYet => grown.await,
                Piece::OnDisk => {}
                piece => return piece,
            }
        }
    }
}

/// An answer whose body is on its way, and will be so long.
#[derive(Clone)]
pub struct Flowing {
    pub flow: Arc<Flow>,
    pub length: usize,
    /// Without a body.
    pub(super) entry: Arc<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_get_what_has_come_and_then_the_rest() {
        let flow = Flow::of(b"he".to_vec());
        assert!(matches!(flow.at(0), Piece::Some(piece, false) if piece == "he"));
        assert!(matches!(flow.at(2), Piece::NoneYet));
        let reader = tokio::spawn({
            let flow = flow.clone();
            async move {
                let mut read = Vec::new();
                loop {
                    match flow.next(read.len()).await {
                        Piece::Some(piece, last) => {
                            read.extend_from_slice(&piece);
                            if last {
                                return Some(read);
                            }
                        }
                        _ => return None,
                    }
                }
            }
        });
        for piece in [&b"ll"[..], b"o"] {
            tokio::task::yield_now().await;
            flow.with(|bytes| bytes.extend_from_slice(piece));
        }
        assert_eq!(flow.end(), "hello");
        assert_eq!(reader.await.unwrap(), Some(b"hello".to_vec()));
        flow.give_up();
        assert!(matches!(flow.at(5), Piece::Some(piece, true) if piece.is_empty()));

        let flow = Flow::of(b"he".to_vec());
        flow.give_up();
        assert!(matches!(flow.next(0).await, Piece::Some(piece, false) if piece == "he"));
        assert!(matches!(flow.next(2).await, Piece::Broken));
    }
}
