//! The key of a handshake and the answer to it (RFC 6455, section 4.2.2), which HTTP/2 does without (RFC 8441, section 5): between the two
//! the gateway asks, or answers, by itself.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub const KEY: &str = "sec-websocket-key";
pub const ACCEPT: &str = "sec-websocket-accept";

/// A key for the handshake of a request, made of what no other request has.
pub fn key(unique: &[&[u8]]) -> String {
    let mut hash = blake3::Hasher::new();
    for part in unique {
        hash.update(part);
    }
    STANDARD.encode(hash.finalize().as_bytes().get(..16).unwrap_or_default())
}

/// What a server answers to this key. SHA-1 proves nothing here but that the server has read the handshake.
pub fn accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_the_standard_does() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let one = key(&[b"a", b"b"]);
        assert_eq!((one.len(), one == key(&[b"a", b"c"])), (24, false));
    }
}
