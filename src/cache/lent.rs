//! A body that a client reads, and may read for longer than it is stored.

use std::sync::Arc;

use bytes::Bytes;
use pingora_cache::key::HashBinary;

use super::Cache;
use super::entry::{Entry, Index};
use super::flow::{Flow, Left};
use super::key::{self, Key};

/// See the module.
pub struct Lent {
    primary: Box<[u8]>,
    variance: Option<HashBinary>,
    body: Body,
}

enum Body {
    Whole(Bytes),
    Flowing(Arc<Flow>),
}

impl Lent {
    pub(super) fn whole(entry: &Entry) -> Self {
        Lent { primary: entry.primary.clone(), variance: entry.meta.variance, body: Body::Whole(entry.body.clone()) }
    }

    pub(super) fn of_entry(entry: &Entry, flow: Arc<Flow>) -> Self {
        Lent { primary: entry.primary.clone(), variance: entry.meta.variance, body: Body::Flowing(flow) }
    }

    pub(super) fn flowing(key: &Key, variance: Option<HashBinary>, flow: Arc<Flow>) -> Self {
        Lent { primary: (*key.primary).into(), variance, body: Body::Flowing(flow) }
    }
}

impl Cache {
    /// How many bytes of memory a body takes that only its readers still have. 0 while it is stored, or on its way to be: it is counted there.
    pub fn held_by_readers(&self, lent: &Lent) -> usize {
        match &lent.body {
            Body::Whole(whole) => self.if_gone(lent, whole),
            Body::Flowing(flow) => match flow.left() {
                Left::Growing => 0,
                Left::Whole(whole) => self.if_gone(lent, &whole),
                Left::Part(length) => length,
            },
        }
    }

    fn if_gone(&self, lent: &Lent, body: &Bytes) -> usize {
        let mut index = Index { primary: key::hash(&lent.primary), variance: None };
        let mut is_stored = self.storage.has_body(&index, body);
        if lent.variance.is_some() && !is_stored {
            index.variance = lent.variance;
            is_stored = self.storage.has_body(&index, body);
        }
        if is_stored { 0 } else { body.len() }
    }
}
