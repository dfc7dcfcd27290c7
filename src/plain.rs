//! Which text can stand in a JSON string as it is. Every log line and every refusal asks, of hundreds of bytes.

/// Whether every byte is printable ASCII that stands for itself in a JSON string. Sixteen or eight bytes at a time; what is left at the
/// end is looked at together with bytes that were looked at already.
pub fn all_plain(text: &[u8]) -> bool {
    if let Some(last) = text.last_chunk::<16>() {
        let (blocks, _) = text.as_chunks::<16>();
        return blocks.iter().all(block_is_plain) && block_is_plain(last);
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        return block_is_plain(first) && block_is_plain(last);
    }
    text.iter().all(|&byte| is_plain(byte))
}

/// Without a branch, so that the compiler can look at all the bytes at once.
#[inline]
fn block_is_plain<const N: usize>(block: &[u8; N]) -> bool {
    block.iter().fold(0, |bad, &byte| bad | u8::from(!is_plain(byte))) == 0
}

#[inline]
fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(0x20) < 0x5f && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_at_a_time_see_what_one_sees() {
        assert!(all_plain(b""));
        for length in [1, 7, 8, 9, 15, 16, 17, 31, 33] {
            for (byte, at) in (0..=255u8).flat_map(|byte| (0..length).map(move |at| (byte, at))) {
                let mut text = vec![b'a'; length];
                text[at] = byte;
                let plain = (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
                assert_eq!(all_plain(&text), plain, "{text:?}");
            }
        }
    }
}
