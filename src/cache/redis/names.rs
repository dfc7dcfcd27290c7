//! Under which keys an answer stands in Redis.
//!
//! A key of the cache says who asks, and with which cookies, so none of it is shown: names are digests. All that is kept of one target has
//! its digest as hash tag, so that it is on one node of a Cluster, beside the key that says when the target was changed last.

use pingora_cache::key::HashBinary;

use crate::cache::entry::Index;
use crate::cache::key::target_of;

/// What tells these digests from all others.
const TARGET: &str = "portcullis 2026 cache in redis: target";
const KEY: &str = "portcullis 2026 cache in redis: key";

/// The digest of a whole key, which is compared: nobody finds two keys that share one.
pub(super) type Digest = [u8; 32];

fn digest(context: &str, bytes: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_derive_key(context).update(bytes).finalize()
}

/// What is kept of one target.
pub(super) struct OfTarget(String);

/// What is kept under one key.
pub(super) struct Names {
    of_target: OfTarget,
    pub(super) digest: Digest,
}

impl OfTarget {
    pub(super) fn new(prefix: &str, target: &[u8]) -> Self {
        let hex = digest(TARGET, target).to_hex();
        OfTarget(format!("{prefix}cache:{{{}}}", hex.get(..32).unwrap_or_default()))
    }

    /// Says what was asked for too early to count, by the clock of Redis.
    pub(super) fn changed(&self) -> String {
        format!("{}:changed", self.0)
    }
}

impl Names {
    pub(super) fn new(prefix: &str, primary: &[u8]) -> Self {
        Names { of_target: OfTarget::new(prefix, target_of(primary)), digest: *digest(KEY, primary).as_bytes() }
    }

    pub(super) fn changed(&self) -> String {
        self.of_target.changed()
    }

    /// Of the first answer, or of the variants that share a slot.
    pub(super) fn answer(&self, variance: Option<HashBinary>) -> String {
        let hex = blake3::Hash::from_bytes(self.digest).to_hex();
        let first = format!("{}:{hex}", self.of_target.0);
        let slot = Index { primary: HashBinary::default(), variance }.slot().variance;
        match slot.and_then(|slot| slot.first().copied()) {
            None => first,
            Some(slot) => format!("{first}:{slot}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_nothing_and_those_of_a_target_share_a_slot() {
        let names = |key: &[u8]| Names::new("p:", key);
        let (one, other) = (names(b"consumer ann"), names(b"consumer bob"));
        assert_ne!(one.answer(None), other.answer(None));
        let [first, variant, changed] = [one.answer(None), one.answer(Some([7; 16])), one.changed()];
        for name in [&first, &variant, &changed] {
            assert!(!name.contains("ann") && name.starts_with("p:cache:{"), "{name}");
            assert_eq!(name.split(['{', '}']).nth(1), first.split(['{', '}']).nth(1));
        }
        assert!(variant.ends_with(":7") && one.answer(Some([71; 16])) == variant, "{variant}");
    }
}
