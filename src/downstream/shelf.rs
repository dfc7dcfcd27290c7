//! Where a client's connection lies while the proxy road is busy with something else than the client.
//!
//! Pingora asks a session for more of the body, or for news of its client, only while there is room towards the backend. Where there is
//! none, for a backend that does not read, it would learn of nothing for as long as a write may take. So the session puts its connection
//! here whenever it is not asked, and the door keeps an eye on what lies here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::Wire;
use super::h1::LOOK;

/// A session's connection, while the session does not use it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Shelved>>);

#[derive(Default)]
struct Shelved {
    wire: Option<Wire>,
    /// The road knows already that the client is gone, and goes on: the answer is on its way into the cache.
    known: bool,
    look: Option<Pin<Box<Sleep>>>,
}

impl Shelf {
    pub(super) fn put(&self, wire: &mut Option<Wire>) {
        if wire.is_some() {
            self.0.lock().wire = wire.take();
        }
    }

    pub(super) fn take(&self, wire: &mut Option<Wire>) {
        if wire.is_none() {
            *wire = self.0.lock().wire.take();
        }
    }

    /// The road was told that the client is gone.
    pub(super) fn is_known(&self) {
        self.0.lock().known = true;
    }

    /// Ready once the client has reset what lies here. Whoever has it in use sees to it himself.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shelved = self.0.lock();
        let Shelved { wire, known, look } = &mut *shelved;
        match wire {
            _ if *known => Poll::Pending,
            None => {
                *look = None;
                Poll::Pending
            }
            Some(Wire::H2(stream)) if stream.is_ended() => Poll::Pending,
            Some(Wire::H2(stream)) => stream.poll_gone(cx),
            // What has come of it and is not read yet hides whatever comes behind: it has to be looked at.
            Some(Wire::H1(wire)) => {
                let timer = look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
                loop {
                    ready!(timer.as_mut().poll(cx));
                    if wire.has_left() {
                        return Poll::Ready(());
                    }
                    timer.as_mut().reset(Instant::now() + LOOK);
                }
            }
        }
    }
}
