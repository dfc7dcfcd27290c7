//! One stored answer: its full key, its parsed metadata, its body, and what all of it weighs.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora_cache::key::{CacheHashKey, CompactCacheKey, HashBinary};
use pingora_cache::{CacheKey, CacheMeta};
use pingora_core::Result;

/// What an entry costs besides its bytes: itself, the reference counts, and about two slots in the tables.
const FIXED_WEIGHT: usize = std::mem::size_of::<Entry>() + 320;
/// What a header field costs besides its bytes: its slot in the map, in the index, and the allocation of its value.
const FIELD_WEIGHT: usize = 160;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Index {
    pub(super) primary: HashBinary,
    pub(super) variance: Option<HashBinary>,
}

impl Index {
    pub(super) fn of(key: &CacheKey) -> Self {
        Index { primary: key.primary_bin(), variance: key.variance_bin() }
    }

    pub(super) fn of_compact(key: &CompactCacheKey) -> Self {
        Index { primary: key.primary_bin(), variance: key.variance_bin() }
    }
}

/// What `CacheMeta` is made of, as far as this gateway uses it.
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) fresh_until: SystemTime,
    /// For the primary slot the provenance: pingora tells by it whether the variants around it are still its own.
    pub(super) created: SystemTime,
    pub(super) epoch: SystemTime,
    pub(super) variance: Option<HashBinary>,
    pub(super) stale_while_revalidate: u32,
    pub(super) stale_if_error: u32,
    pub(super) header: ResponseHeader,
}

impl Meta {
    pub(super) fn of(meta: &CacheMeta, is_variant: bool) -> Self {
        Meta {
            fresh_until: meta.fresh_until(),
            created: if is_variant { meta.created() } else { meta.provenance() },
            epoch: meta.epoch(),
            variance: meta.variance(),
            stale_while_revalidate: meta.stale_while_revalidate_sec(),
            stale_if_error: meta.stale_if_error_sec(),
            header: unshared(meta.response_header()),
        }
    }

    pub(super) fn to_meta(&self) -> CacheMeta {
        let (swr, sie) = (self.stale_while_revalidate, self.stale_if_error);
        let mut meta = CacheMeta::new(self.fresh_until, self.created, swr, sie, self.header.clone());
        meta.set_epoch_override(self.epoch);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }

    /// The whole body is known now: a hit is framed by its length, whatever framing it arrived in.
    pub(super) fn set_length(&mut self, length: usize) -> Result<()> {
        self.header.remove_header(&header::TRANSFER_ENCODING);
        if self.header.status != StatusCode::NO_CONTENT {
            self.header.insert_header(header::CONTENT_LENGTH, length)?;
        }
        Ok(())
    }

    fn weight(&self) -> usize {
        let bytes = |(name, value): (&http::HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD_WEIGHT;
        self.header.headers.iter().map(bytes).sum()
    }
}

/// The same fields in memory of their own. As an upstream codec made them they are corners of its read buffer, which would stay
/// for as long as the entry. The backend's spelling of the names is not kept: it would be a second map to clone on every hit.
fn unshared(header: &ResponseHeader) -> ResponseHeader {
    let Ok(mut own) = ResponseHeader::build_no_case(header.status, Some(header.headers.len())) else { return header.clone() };
    for (name, value) in &header.headers {
        // Both were valid before and are copied byte for byte.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            let _ = own.append_header(name, value);
        }
    }
    own
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) primary: Box<[u8]>,
    pub(super) user_tag: Box<str>,
    pub(super) meta: Meta,
    pub(super) body: Bytes,
    /// In bytes; kept, because the store asks for it under its locks.
    pub(super) weight: usize,
}

impl Entry {
    pub(super) fn new(key: &CacheKey, meta: Meta, body: Bytes) -> Self {
        let entry = Entry { primary: key.primary_key().into(), user_tag: key.user_tag.as_str().into(), meta, body, weight: 0 };
        entry.weighed()
    }

    pub(super) fn weighed(mut self) -> Self {
        self.weight = FIXED_WEIGHT + self.primary.len() + self.user_tag.len() + self.meta.weight() + self.body.len();
        self
    }

    pub(super) fn is_for(&self, key: &CacheKey) -> bool {
        *self.primary == *key.primary_key() && *self.user_tag == *key.user_tag
    }
}
