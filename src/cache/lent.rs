//! A body that a client reads, and may read for longer than it is stored.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora_cache::key::HashBinary;

use super::Cache;
use super::entry::{Entry, Index};
use super::flow::{Flow, Left};
use super::key::{self, Key};
use super::pieces::Pieces;

/// See the module.
pub struct Lent {
    /// Where it is stored, if it is: there, or as the first of its key.
    index: Index,
    body: Body,
}

enum Body {
    Whole(Bytes),
    /// As long as somebody reads any of them.
    Pieces(Arc<Pieces>),
    Flowing(Arc<Flow>),
}

impl Lent {
    pub(super) fn whole(entry: &Entry) -> Self {
        let (index, body) = match &entry.pieces {
            Some(pieces) => (index_of(entry).of_parts(), Body::Pieces(pieces.clone())),
            None => (index_of(entry), Body::Whole(entry.body.clone())),
        };
        Lent { index, body }
    }

    pub(super) fn of_entry(entry: &Entry, flow: Arc<Flow>) -> Self {
        Lent { index: index_of(entry), body: Body::Flowing(flow) }
    }

    pub(super) fn flowing(key: &Key, variance: Option<HashBinary>, flow: Arc<Flow>) -> Self {
        Lent { index: Index { variance, ..Index::primary(key) }, body: Body::Flowing(flow) }
    }
}

fn index_of(entry: &Entry) -> Index {
    Index { primary: key::hash(&entry.primary), variance: entry.meta.variance }
}

/// Memory that only the readers of a body still have, all of them together.
pub struct Held {
    pub bytes: usize,
    /// Where it is: nothing else is there as long as one of them reads it.
    place: usize,
}

/// The bodies that one of their readers pays for.
#[derive(Default)]
pub(super) struct Payers(Mutex<HashSet<usize>>);

/// A reader's word that it pays for a body, so that the others need not: until it is dropped.
pub struct Paying {
    payers: &'static Payers,
    place: usize,
}

impl Drop for Paying {
    fn drop(&mut self) {
        self.payers.0.lock().remove(&self.place);
    }
}

impl Cache {
    /// What of a body only its readers still have. `None` while it is stored, or on its way to be: it is counted there.
    pub fn held_by_readers(&self, lent: &Lent) -> Option<Held> {
        let (bytes, place) = match &lent.body {
            Body::Whole(whole) => (self.if_gone(lent, whole), whole.as_ptr().addr()),
            Body::Pieces(pieces) => {
                let first = Index { variance: None, ..lent.index };
                let beyond = |index| self.storage.beyond(&index, pieces);
                (beyond(first).min(beyond(lent.index)), Arc::as_ptr(pieces).addr())
            }
            Body::Flowing(flow) => match flow.left() {
                Left::Growing => return None,
                Left::Whole(whole) => (self.if_gone(lent, &whole), whole.as_ptr().addr()),
                Left::Part(length) => (length, Arc::as_ptr(flow).addr()),
            },
        };
        (bytes > 0).then_some(Held { bytes, place })
    }

    /// For the first who asks of those who read it. Whoever gets it has to read it as long as he keeps it.
    pub fn pay_for(&'static self, held: &Held) -> Option<Paying> {
        let is_first = self.payers.0.lock().insert(held.place);
        is_first.then(|| Paying { payers: &self.payers, place: held.place })
    }

    fn if_gone(&self, lent: &Lent, body: &Bytes) -> usize {
        let first = Index { variance: None, ..lent.index };
        let is_stored =
            self.storage.has_body(&first, body) || lent.index.variance.is_some() && self.storage.has_body(&lent.index, body);
        if is_stored { 0 } else { body.len() }
    }
}
