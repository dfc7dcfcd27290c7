//! Making API keys.
//!
//! `pk_` + id + `_` + 43 characters that are 256 random bits in base64url: the prefix lets a scanner find keys in places where they
//! should not be, the id says which one it is. With a prefix of up to 3 characters a key has at most 55 bytes, which SHA-256 digests
//! in one block.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::KeyError;
use crate::consumers::KeyDigest;

/// Letters that are not mistaken for digits, nor make words.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID: usize = 8;

/// A new key's text. Shown to whoever ordered the key, once, and then forgotten.
pub struct KeyText(String);

impl KeyText {
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.0.as_bytes())
    }

    /// Gives it away.
    pub fn reveal(self) -> String {
        self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// A new id, 8 characters. Ids are random: one that is taken already is found out by the store.
///
/// # Errors
/// The system has no random bytes.
pub fn id() -> Result<String, KeyError> {
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte & 31)).copied().map_or('0', char::from);
    Ok(random::<ID>()?.iter().map(letter).collect())
}

/// A new key.
///
/// # Errors
/// The system has no random bytes.
pub fn key(prefix: &str, id: &str) -> Result<KeyText, KeyError> {
    Ok(KeyText(format!("{prefix}{id}_{}", URL_SAFE_NO_PAD.encode(random::<32>()?))))
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Unavailable("the system has no random bytes".to_owned()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_never_alike() {
        let (one, two) = (id().unwrap(), id().unwrap());
        assert_ne!(one, two);
        let text = key("pk_", &one).unwrap();
        assert!(!format!("{text:?}").contains(&one));
        let (digest, text) = (text.digest(), text.reveal());
        assert!(text.len() == 55 && text.starts_with(&format!("pk_{one}_")), "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'));
        assert_eq!(digest, KeyDigest::of(text.as_bytes()));
        assert_ne!(text, key("pk_", &one).unwrap().reveal());
    }
}
