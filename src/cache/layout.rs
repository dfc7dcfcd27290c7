//! How what is stored lies in memory: a key, a head, and a body that is short, in one piece.
//!
//! A hit among a million others finds none of them in the processor's caches, nor where they are in its tables of pages: apart, each is
//! waited for.

use bytes::Bytes;

/// Bodies up to this length, in bytes, stand behind their heads.
const JOINED: usize = 4 << 10;

/// A key, a head that `write` puts behind it in so many bytes, and a body.
#[inline]
pub(super) fn lay(key: &[u8], head: usize, body: Bytes, write: impl FnOnce(&mut Vec<u8>)) -> (Bytes, Bytes, Bytes) {
    let joins = body.len() <= JOINED;
    let behind = if joins { body.len() } else { 0 };
    // Exactly as long as it will be: what an entry weighs is counted by lengths.
    let mut bytes = Vec::with_capacity(key.len() + head + behind);
    bytes.extend_from_slice(key);
    write(&mut bytes);
    let end = bytes.len();
    if joins {
        bytes.extend_from_slice(&body);
    }
    let mut all = Bytes::from(bytes);
    let mut head = all.split_to(end);
    let key = head.split_to(key.len());
    (key, head, if joins { all } else { body })
}
