//! How an exchange goes on, known to whoever holds a part of it while another part works.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module.
#[derive(Default)]
pub struct ExchangeControl {
    endless: AtomicBool,
    cut: AtomicBool,
    read: AtomicU64,
    sent: AtomicU64,
}

impl ExchangeControl {
    /// The answer is an upgrade, or a stream of events, of lines or of gRPC messages: it ends when its parties say so, and no total
    /// deadline applies.
    pub fn is_endless(&self) -> bool {
        self.endless.load(Ordering::Relaxed)
    }

    pub(super) fn set_endless(&self) {
        self.endless.store(true, Ordering::Relaxed);
    }

    /// The process ends, and this with it.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The bytes of bodies that came from the client and went there so far, for an exchange that is broken off.
    pub fn moved(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    pub(super) fn note_read(&self, bytes: u64) {
        self.read.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn note_sent(&self, bytes: u64) {
        self.sent.store(bytes, Ordering::Relaxed);
    }
}
