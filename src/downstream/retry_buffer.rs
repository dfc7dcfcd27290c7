//! What is kept of a request's body so that it can be sent a second time.

use bytes::{Bytes, BytesMut};

use super::Downstream;
use crate::listen::share::Purse;

/// What every request may keep of its body, to be sent a second time, without being charged for it.
const FREE: usize = 4 * 1024;

/// What was read of a body, kept so that another backend can be tried.
pub(super) struct RetryBuffer {
    pub(super) bytes: BytesMut,
    pub(super) truncated: bool,
    /// It is kept up to this length.
    pub(super) most: usize,
}

impl RetryBuffer {
    pub(super) fn keep(&mut self, piece: &[u8], purse: Option<&mut Purse>) {
        let needed = self.bytes.len() + piece.len();
        if self.truncated || needed > self.most {
            return self.give_up();
        }
        // A body that is longer than what every request may hold costs memory that others could need more.
        let costs = needed > FREE && needed > self.bytes.capacity();
        let after = needed.next_power_of_two();
        if costs {
            if !purse.is_none_or(|purse| purse.charge(after - self.bytes.capacity())) {
                return self.give_up();
            }
            self.bytes.reserve(after - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }

    fn give_up(&mut self) {
        self.truncated = true;
        self.bytes = BytesMut::new();
    }
}

impl Downstream {
    /// From now on what is read of the body is kept, up to so many bytes, so that it can be sent a second time.
    pub fn keep_for_replay(&mut self, most: usize) {
        if self.buffered.is_none() && self.retry.is_none() {
            self.retry = Some(RetryBuffer { bytes: BytesMut::new(), truncated: false, most });
        }
    }

    /// What was read of the body so far, if all of it was kept.
    pub fn replay(&self) -> Option<Bytes> {
        let retry = self.retry.as_ref().filter(|retry| !retry.truncated && !retry.bytes.is_empty())?;
        Some(retry.bytes.clone().freeze())
    }

    pub fn can_replay(&self) -> bool {
        !self.answered
            && !self.told
            && (self.buffered.is_some() || self.body_read == 0 || self.retry.as_ref().is_some_and(|retry| !retry.truncated))
    }
}
