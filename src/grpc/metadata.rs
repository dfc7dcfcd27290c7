//! What a header field can be that is metadata. Servers of gRPC's answer INTERNAL to what it cannot, as if it were their own fault, and some
//! lose more than the one call: they keep that a value is bad beside the name, in the table that a connection has for names.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// How binary values are written, padded or not.
pub const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Whether a field of that name and value can be.
pub fn fits(name: &[u8], value: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.iter().all(letter) && (!is_binary(name) || is_base64(value))
}

/// Whether its values are base64.
pub fn is_binary(name: &[u8]) -> bool {
    name.len() > 4 && name.get(name.len() - 4..).is_some_and(|end| end.eq_ignore_ascii_case(b"-bin"))
}

/// In the one way in which these bytes are written: not all readers take another. Several in one field, which the protocol has, they do
/// not take either.
fn is_base64(value: &[u8]) -> bool {
    let is_padded_otherwise = value.ends_with(b"=") && !value.len().is_multiple_of(4);
    // A field is bounded by its head.
    !is_padded_otherwise && BASE64.decode(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_metadata_is_told_from_what_cannot() {
        for (name, value, fine) in [
            ("x-a", "any thing", true),
            ("X-A.b_c", "\u{e9}", true),
            ("x!a", "1", false),
            ("x*", "1", false),
            ("x~a", "1", false),
            ("x-blob-bin", "", true),
            ("x-blob-bin", "AAH/", true),
            ("x-blob-bin", "YQ==", true),
            ("X-Blob-Bin", "YQ", true),
            ("x-blob-bin", "YQ=", false),
            ("x-blob-bin", "zzz", false),
            ("x-blob-bin", "a", false),
            ("x-blob-bin", "YQ==,YQ==", false),
            ("x-blob-bin", "Y Q==", false),
            ("x-blob-bin", "a_-b", false),
            ("-bin", "?", true),
        ] {
            assert_eq!(fits(name.as_bytes(), value.as_bytes()), fine, "{name}: {value}");
        }
    }
}
