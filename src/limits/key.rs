//! What a client is remembered under.
//!
//! Addresses, and texts of up to 16 bytes, are kept as they are; longer texts and combinations as a 128-bit BLAKE3 digest. Its
//! key is drawn at random by each process, so that nobody can prepare two texts that meet; only where processes count together
//! must they use the same one.
//!
//! Deliberately not here: what of a request makes its key (`by` of the policies that limit).

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use smallvec::SmallVec;

use super::table::{FIRST_KIND, RawKey};

/// A client, as far as one limit is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub(super) RawKey);

/// One thing by which clients are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Address(IpAddr),
    Text(Cow<'a, [u8]>),
}

/// Everything by which a limit tells its clients apart; nothing if it does not.
pub type Pieces<'a> = SmallVec<[Piece<'a>; 2]>;

/// The key of the digests in keys.
#[derive(Clone)]
pub struct Hashing([u8; 32]);

impl Hashing {
    /// This process's own, drawn at random.
    pub fn own() -> &'static Self {
        static OWN: LazyLock<Hashing> = LazyLock::new(|| {
            let mut secret = [0; 32];
            // Each `RandomState` is seeded by the operating system.
            for (place, index) in secret.chunks_mut(8).zip(0u64..) {
                place.copy_from_slice(&RandomState::new().hash_one(index).to_ne_bytes());
            }
            Hashing(secret)
        });
        &OWN
    }

    /// The same in every process that is given the same words, for those that count together.
    pub fn common(words: &str) -> Self {
        Hashing(blake3::derive_key("portcullis 2026 keys of shared limits", words.as_bytes()))
    }
}

impl Key {
    const WHOLE: u8 = FIRST_KIND;
    const IPV4: u8 = FIRST_KIND + 1;
    const IPV6: u8 = FIRST_KIND + 2;
    const DIGEST: u8 = FIRST_KIND + 3;
    const SEVERAL: u8 = FIRST_KIND + 4;
    /// Plus the length, 0 to 16.
    const TEXT: u8 = 32;

    /// One for everybody.
    pub const ALL: Key = Key(RawKey { kind: Self::WHOLE, bits: [0, 0] });

    /// An IPv4 address, or an IPv6 address's first 64 bits: what one customer of an access network is given (RFC 6177), within
    /// which a client may pick addresses as it likes. An IPv4 address in IPv6 form counts as IPv4.
    pub fn address(address: IpAddr) -> Self {
        Key(match address.to_canonical() {
            IpAddr::V4(address) => RawKey { kind: Self::IPV4, bits: [u64::from(address.to_bits()), 0] },
            IpAddr::V6(address) => RawKey { kind: Self::IPV6, bits: [(address.to_bits() >> 64) as u64, 0] },
        })
    }

    pub fn text(text: &[u8]) -> Self {
        Self::text_with(Hashing::own(), text)
    }

    fn text_with(hashing: &Hashing, text: &[u8]) -> Self {
        let mut exact = [0u8; 16];
        match exact.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                Key(RawKey { kind: Self::TEXT + text.len() as u8, bits: split(exact) })
            }
            None => Self::digest(hashing, Self::DIGEST, |hasher| {
                hasher.update(text);
            }),
        }
    }

    /// The key of all pieces together, in their order: `["a", "bc"]` and `["ab", "c"]` differ.
    pub fn of(pieces: &[Piece<'_>], hashing: &Hashing) -> Self {
        match pieces {
            [] => Self::ALL,
            [Piece::Address(address)] => Self::address(*address),
            [Piece::Text(text)] => Self::text_with(hashing, text),
            several => Self::digest(hashing, Self::SEVERAL, |hasher| {
                for piece in several {
                    match piece {
                        Piece::Address(address) => {
                            let RawKey { kind, bits: [bits, _] } = Self::address(*address).0;
                            hasher.update(&[kind]).update(&bits.to_le_bytes());
                        }
                        Piece::Text(text) => {
                            hasher.update(&[Self::TEXT]).update(&(text.len() as u64).to_le_bytes()).update(text);
                        }
                    }
                }
            }),
        }
    }

    fn digest(hashing: &Hashing, kind: u8, feed: impl FnOnce(&mut blake3::Hasher)) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&hashing.0);
        feed(&mut hasher);
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Key(RawKey { kind, bits: split(digest) })
    }

    /// All of it, for a store outside this process.
    pub fn to_bytes(self) -> [u8; 17] {
        let RawKey { kind, bits: [low, high] } = self.0;
        let mut bytes = [kind; 17];
        for (place, byte) in bytes.iter_mut().skip(1).zip(low.to_le_bytes().into_iter().chain(high.to_le_bytes())) {
            *place = byte;
        }
        bytes
    }
}

fn split(bytes: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_le_bytes(bytes);
    [bits as u64, (bits >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&[u8]]) -> Key {
        let pieces: Pieces<'_> = texts.iter().map(|text| Piece::Text(Cow::Borrowed(*text))).collect();
        Key::of(&pieces, Hashing::own())
    }

    #[test]
    fn keys_of_different_kinds_differ() {
        let v4: IpAddr = "1.2.3.4".parse().unwrap();
        let long = vec![b'x'; 4096];
        let keys = [
            Key::ALL,
            Key::address(v4),
            Key::address("::102:304:0:0:0:0".parse().unwrap()),
            Key::text(b""),
            Key::text(b"\0"),
            Key::text(&[4, 3, 2, 1]),
            Key::text(&[0; 16]),
            Key::text(&[0; 17]),
            Key::text(&long),
            Key::text(&long[1..]),
            texts(&[b"a", b"bc"]),
            texts(&[b"ab", b"c"]),
            texts(&[b"", b"abc"]),
            texts(&[b"1.2.3.4", b""]),
            Key::of(&[Piece::Address(v4), Piece::Text(Cow::Borrowed(b""))], Hashing::own()),
            Key::of(&[Piece::Text(Cow::Borrowed(b"")), Piece::Address(v4)], Hashing::own()),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{key:?}");
            assert!(keys[index + 1..].iter().all(|other| other.to_bytes() != key.to_bytes()), "{key:?}");
        }
        assert_eq!(Key::address("::ffff:1.2.3.4".parse().unwrap()), Key::address(v4));
        assert_eq!(Key::address("2001:db8::1".parse().unwrap()), Key::address("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(Key::address("2001:db8::1".parse().unwrap()), Key::address("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(Key::text(&long), Key::text(&long.clone()));
    }

    #[test]
    fn processes_agree_only_under_common_words() {
        let pieces = [Piece::Text(Cow::Borrowed(b"a text that is longer than sixteen bytes".as_slice()))];
        let [one, same, other] = ["a", "a", "b"].map(|words| Key::of(&pieces, &Hashing::common(words)));
        assert_eq!(one, same);
        assert!(one != other && one != Key::of(&pieces, Hashing::own()));
    }
}
