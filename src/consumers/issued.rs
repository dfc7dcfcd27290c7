//! API keys that are issued and revoked while the gateway runs, as the request path sees them: a table in memory.
//!
//! Where the keys are kept, and how gateways hear of each other's changes, is the business of [`crate::keys`], which fills this table.
//! Reading it takes no lock and costs the same whether it holds one key or a hundred thousand; writing replaces one of its
//! [`SHARDS`] parts.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::{Consumers, KeyDigest, KeyFault, Proved};
use crate::exchange::Identity;

/// So many parts that replacing one copies few keys: 400 of 100,000.
const SHARDS: usize = 256;

/// A key that never expires.
pub const NEVER: u64 = u64::MAX;

/// One key, without the key.
pub struct IssuedKey {
    pub id: Arc<str>,
    /// The name of the consumer that it belongs to. It counts only while the configuration has that consumer.
    pub consumer: Arc<str>,
    /// What it may do, where that is not what its consumer may.
    pub scopes: Option<Box<[Arc<str>]>>,
    /// In seconds since 1970; from that second on it is refused.
    pub expires: u64,
    /// What it proves in the generation that asked last: the consumer's groups and plan are the configuration's to say.
    bound: ArcSwapOption<Bound>,
}

struct Bound {
    consumers: u64,
    proved: Arc<Proved>,
}

impl IssuedKey {
    pub fn new(id: &str, consumer: &str, scopes: Option<&[String]>, expires: Option<u64>) -> Self {
        IssuedKey {
            id: id.into(),
            consumer: consumer.into(),
            scopes: scopes.map(|scopes| scopes.iter().map(|scope| scope.as_str().into()).collect()),
            expires: expires.unwrap_or(NEVER),
            bound: ArcSwapOption::empty(),
        }
    }

    fn prove(&self, now: u64, consumers: &Consumers) -> Result<Arc<Proved>, KeyFault> {
        if now >= self.expires {
            return Err(KeyFault::Expired);
        }
        if let Some(bound) = &*self.bound.load()
            && bound.consumers == consumers.number()
        {
            return Ok(bound.proved.clone());
        }
        let consumer = consumers.by_name(&self.consumer).ok_or(KeyFault::Unknown)?;
        let mut proved = consumer.proved(self.id.clone(), consumers.methods.api_key);
        if let Some(scopes) = &self.scopes {
            proved = Proved::new(Identity { scopes: scopes.to_vec(), ..Identity::clone(&proved.identity) });
        }
        let proved = Arc::new(proved);
        self.bound.store(Some(Arc::new(Bound { consumers: consumers.number(), proved: proved.clone() })));
        Ok(proved)
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey").field("id", &self.id).field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

/// Digests are as good as random, so that eight of their bytes are the hash. Nobody can choose keys that collide in the table: what is
/// in it was issued here.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by key digests.
pub type ByDigest<T> = HashMap<KeyDigest, T, BuildHasherDefault<DigestHasher>>;

type Shard = ByDigest<Arc<IssuedKey>>;

/// Every key that was issued and not revoked.
pub struct IssuedKeys {
    shards: Vec<ArcSwap<Shard>>,
    /// One writer at a time: each replaces what the one before left.
    writing: Mutex<()>,
    /// Whether the store was ever read: before that, a key that is not here may well be a good one.
    complete: AtomicBool,
}

impl Default for IssuedKeys {
    fn default() -> Self {
        IssuedKeys {
            shards: std::iter::repeat_with(ArcSwap::default).take(SHARDS).collect(),
            writing: Mutex::new(()),
            complete: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for IssuedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKeys").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl IssuedKeys {
    /// Whom a key proves, at `now` seconds since 1970, in the generation that `consumers` belongs to.
    ///
    /// # Errors
    /// No such key, or its time is over, or its consumer is not in the configuration; or the store could not be read yet, so that
    /// nobody knows.
    pub fn prove(&self, digest: &KeyDigest, now: u64, consumers: &Consumers) -> Result<Arc<Proved>, KeyFault> {
        let shard = self.shards.get(shard_of(digest)).map(ArcSwap::load);
        match shard.as_ref().and_then(|shard| shard.get(digest)) {
            Some(key) => key.prove(now, consumers),
            None if self.complete.load(Ordering::Acquire) => Err(KeyFault::Unknown),
            None => Err(KeyFault::StoreUnavailable),
        }
    }

    /// The id of a key, also of one whose time is over.
    pub fn id(&self, digest: &KeyDigest) -> Option<Arc<str>> {
        Some(self.shards.get(shard_of(digest))?.load().get(digest)?.id.clone())
    }

    /// Takes keys in and out. What is both removed and inserted is inserted.
    pub fn change(&self, removed: &[KeyDigest], inserted: Vec<(KeyDigest, IssuedKey)>) {
        let _writing = self.writing.lock();
        let mut changed: HashMap<usize, Shard> = HashMap::new();
        let copy = |at: usize| self.shards.get(at).map(|shard| Shard::clone(&shard.load())).unwrap_or_default();
        for digest in removed {
            let at = shard_of(digest);
            changed.entry(at).or_insert_with(|| copy(at)).remove(digest);
        }
        for (digest, key) in inserted {
            let at = shard_of(&digest);
            changed.entry(at).or_insert_with(|| copy(at)).insert(digest, Arc::new(key));
        }
        for (at, shard) in changed {
            self.put(at, shard);
        }
    }

    /// Replaces all keys: this is everything that there is.
    pub fn replace(&self, keys: impl IntoIterator<Item = (KeyDigest, IssuedKey)>) {
        let _writing = self.writing.lock();
        let mut shards: Vec<Shard> = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        for (digest, key) in keys {
            if let Some(shard) = shards.get_mut(shard_of(&digest)) {
                shard.insert(digest, Arc::new(key));
            }
        }
        shards.into_iter().enumerate().for_each(|(at, shard)| self.put(at, shard));
        self.complete.store(true, Ordering::Release);
    }

    fn put(&self, at: usize, shard: Shard) {
        if let Some(slot) = self.shards.get(at) {
            slot.store(Arc::new(shard));
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the store was ever read.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

/// By a byte that the hash does not use.
fn shard_of(digest: &KeyDigest) -> usize {
    usize::from(digest.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumers::tests::compile;

    fn digest(key: &str) -> KeyDigest {
        KeyDigest::of(key.as_bytes())
    }

    fn key(id: &str, consumer: &str, expires: Option<u64>) -> IssuedKey {
        IssuedKey::new(id, consumer, None, expires)
    }

    #[test]
    fn a_key_is_its_consumers_until_it_ends() {
        let issued = IssuedKeys::default();
        let consumers = compile(serde_json::json!([{ "name": "acme", "scopes": ["read"], "groups": ["gold"], "plan": "pro" }])).0;
        assert_eq!(issued.prove(&digest("k"), 1, &consumers).unwrap_err(), KeyFault::StoreUnavailable);
        issued.replace([(digest("k"), key("k1", "acme", Some(100))), (digest("g"), key("k2", "globex", None))]);
        let proved = issued.prove(&digest("k"), 99, &consumers).unwrap();
        let identity = &proved.identity;
        assert_eq!((identity.consumer.as_deref(), &*identity.credential, identity.method), (Some("acme"), "k1", "api_key"));
        assert_eq!((identity.plan.as_deref(), identity.scopes.len(), identity.groups.len()), (Some("pro"), 1, 1));
        assert!(Arc::ptr_eq(&proved, &issued.prove(&digest("k"), 99, &consumers).unwrap()), "made once");
        assert_eq!(issued.prove(&digest("k"), 100, &consumers).unwrap_err(), KeyFault::Expired);
        assert_eq!(issued.prove(&digest("g"), 1, &consumers).unwrap_err(), KeyFault::Unknown, "no such consumer");
        assert_eq!(issued.prove(&digest("x"), 1, &consumers).unwrap_err(), KeyFault::Unknown);
    }

    #[test]
    fn each_generation_says_what_its_consumers_are() {
        let issued = IssuedKeys::default();
        issued.replace([(digest("k"), key("k1", "acme", None))]);
        let old = compile(serde_json::json!([{ "name": "acme", "groups": ["gold"] }])).0;
        let new = compile(serde_json::json!([{ "name": "acme", "groups": ["silver"] }])).0;
        for _ in 0..2 {
            assert_eq!(&*issued.prove(&digest("k"), 1, &old).unwrap().identity.groups[0], "gold");
            assert_eq!(&*issued.prove(&digest("k"), 1, &new).unwrap().identity.groups[0], "silver");
        }
        let gone = compile(serde_json::json!([])).0;
        assert_eq!(issued.prove(&digest("k"), 1, &gone).unwrap_err(), KeyFault::Unknown);
    }

    #[test]
    fn scopes_of_a_key_come_before_its_consumers() {
        let issued = IssuedKeys::default();
        let consumers = compile(serde_json::json!([{ "name": "acme", "scopes": ["read", "write"] }])).0;
        let scoped = IssuedKey::new("k1", "acme", Some(&["read".to_owned()]), None);
        issued.change(&[], vec![(digest("k"), scoped), (digest("l"), IssuedKey::new("k2", "acme", Some(&[]), None))]);
        assert_eq!(issued.prove(&digest("k"), 1, &consumers).unwrap().identity.scopes.len(), 1);
        assert!(issued.prove(&digest("l"), 1, &consumers).unwrap().identity.scopes.is_empty());
    }

    #[test]
    fn changes_touch_only_what_they_name() {
        let issued = IssuedKeys::default();
        let consumers = compile(serde_json::json!([{ "name": "acme" }])).0;
        issued.replace((0..2_000).map(|n| (digest(&n.to_string()), key("k", "acme", None))));
        let gone: Vec<KeyDigest> = (0..1_000).map(|n| digest(&n.to_string())).collect();
        issued.change(&gone, vec![(digest("0"), key("again", "acme", None))]);
        assert_eq!(issued.len(), 1_001);
        assert!(issued.prove(&digest("0"), 1, &consumers).is_ok() && issued.prove(&digest("1"), 1, &consumers).is_err());
        assert!(issued.prove(&digest("1999"), 1, &consumers).is_ok());
        issued.replace([]);
        assert!(issued.is_empty());
    }
}
