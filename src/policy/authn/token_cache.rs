//! Tokens that were already found good. Checking an RSA or ECDSA signature costs tens of microseconds, and clients send one token
//! many times.
//!
//! Only good tokens are kept: bad ones would let anyone push the good ones out. What is kept is what a token says, not who that is:
//! entries outlive reloads, and consumers may lose by one what they had.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::claims::Accepted;
use super::failure::Failure;

/// A token's digest under a key of its policy's own. 256 bits, because two tokens with one key here would be one identity.
pub type TokenKey = [u8; 32];

/// A token that was found good, and on what that rests.
#[derive(Clone)]
pub struct Known {
    pub accepted: Arc<Accepted>,
    /// Who vouches for it.
    pub by: Voucher,
    /// The token's length in bytes.
    pub size: u32,
}

/// On whose word a token is taken.
#[derive(Debug, Clone, Copy)]
pub enum Voucher {
    /// The route's issuer of that number, whose fetched keys were those of that generation.
    Issuer(u32, u64),
    /// The authorization server, until that second; then it is asked again.
    Server(u64),
}

/// Claims are kept with their token, so that a long token counts as several entries: bounded memory, not only a bounded number.
#[derive(Clone)]
struct BySize;

const UNIT: u32 = 2048;

impl Weighter<TokenKey, Known> for BySize {
    fn weight(&self, _: &TokenKey, known: &Known) -> u64 {
        u64::from(known.size.div_ceil(UNIT).max(1))
    }
}

pub struct TokenCache {
    entries: Cache<TokenKey, Known, BySize>,
}

impl TokenCache {
    /// Room for `entries` tokens of up to 2 KiB.
    pub fn new(entries: usize) -> Self {
        TokenCache { entries: Cache::with_weighter(entries, entries as u64, BySize) }
    }

    /// What is known of a token. One whose time is over is forgotten, and refused in the same second as if it had never been kept.
    pub fn get(&self, key: &TokenKey, now: u64) -> Result<Option<Known>, Failure> {
        let Some(known) = self.entries.get(key) else { return Ok(None) };
        if let Err(failure) = known.accepted.check_time(now) {
            self.entries.remove(key);
            return Err(failure);
        }
        Ok(Some(known))
    }

    pub fn put(&self, key: TokenKey, known: Known) {
        self.entries.insert(key, known);
    }

    /// What a token's entry rested on is gone.
    pub fn forget(&self, key: &TokenKey) {
        self.entries.remove(key);
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
