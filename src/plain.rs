//! Which text can stand in a JSON string as it is. Every log line and every refusal asks, of hundreds of bytes.

/// How many bytes are looked at at once.
const BLOCK: usize = 16;

/// Whether every byte is printable ASCII that stands for itself in a JSON string. What is left at the end is looked at together with
/// bytes that were looked at already, and a text that is shorter than a block with blanks behind it.
pub fn all_plain(text: &[u8]) -> bool {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    if let Some(last) = text.last_chunk::<BLOCK>() {
        return blocks.iter().all(block_is_plain) && (rest.is_empty() || block_is_plain(last));
    }
    let mut block = [b' '; BLOCK];
    if let Some(start) = block.get_mut(..rest.len()) {
        start.copy_from_slice(rest);
    }
    block_is_plain(&block)
}

/// A mark for each byte that is not, and one look at all the marks: what the compiler makes of it has no branch and no loop.
#[inline]
fn block_is_plain(block: &[u8; BLOCK]) -> bool {
    let marks = block.map(|byte| u8::from(byte.wrapping_sub(0x20) >= 0x5f) | u8::from(byte == b'"') | u8::from(byte == b'\\'));
    u128::from_ne_bytes(marks) == 0
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
