//! The digests under which API keys are kept.

use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::digest;
use subtle::ConstantTimeEq;

/// The SHA-256 of an API key.
///
/// One round of a fast hash is enough here, unlike for passwords: a key is 256 random bits, so there is no list of likely keys to
/// try, and slowing each try down adds nothing to 2^256 of them. It also lets a digest be looked up instead of compared in turn.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 32];
        // SHA-256's digest is 32 bytes long, so that the zip covers it.
        bytes.iter_mut().zip(digest::digest(&digest::SHA256, key).as_ref()).for_each(|(to, from)| *to = *from);
        KeyDigest(bytes)
    }

    pub fn last(&self) -> u8 {
        let [.., last] = self.0;
        last
    }

    /// `sha256:` and 64 hexadecimal digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let mut bytes = [0; 32];
        for (to, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *to = digit(*high)? << 4 | digit(*low)?;
        }
        Some(KeyDigest(bytes))
    }
}

/// In constant time. The attacker cannot choose a digest's bytes, only keys, so that a plain comparison would leak little; but this
/// costs nothing and needs no argument.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// As it is written in the configuration. Whoever has it cannot make the key from it.
impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}
