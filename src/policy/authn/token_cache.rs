//! Tokens that were already found good. Checking an RSA or ECDSA signature costs tens of microseconds, and clients send one token
//! many times.
//!
//! Only good tokens are kept: bad ones would let anyone push the good ones out.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::failure::Failure;
use super::jwt::Verified;

/// A token's digest under a key of its policy's own. 256 bits, because two tokens with one key here would be one identity.
pub type TokenKey = [u8; 32];

/// Claims are kept with their token, so that a long token counts as several entries: bounded memory, not only a bounded number.
#[derive(Clone)]
struct BySize;

const UNIT: usize = 2048;

impl Weighter<TokenKey, Verified> for BySize {
    fn weight(&self, _: &TokenKey, verified: &Verified) -> u64 {
        verified.size.div_ceil(UNIT).max(1) as u64
    }
}

pub struct TokenCache {
    entries: Cache<TokenKey, Verified, BySize>,
}

impl TokenCache {
    /// Room for `entries` tokens of up to 2 KiB.
    pub fn new(entries: usize) -> Self {
        TokenCache { entries: Cache::with_weighter(entries, entries as u64, BySize) }
    }

    /// What is known of a token. One whose time is over is forgotten, and refused in the same second as if it had never been kept.
    pub fn get(&self, key: &TokenKey, now: u64) -> Result<Option<Verified>, Failure> {
        let Some(verified) = self.entries.get(key) else { return Ok(None) };
        if let Err(failure) = verified.check_time(now) {
            self.entries.remove(key);
            return Err(failure);
        }
        Ok(Some(verified))
    }

    pub fn put(&self, key: TokenKey, verified: Verified) {
        self.entries.insert(key, verified);
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
