//! The frames that go out on an HTTP/2 connection, looked at in passing (RFC 9113, section 4.1). The library below resets streams whose
//! requests are malformed without a word to whoever accepts them; what it writes is the only place where that can be seen.

/// What every frame begins with.
const HEADER: usize = 9;
const RST_STREAM: u8 = 3;

/// Where in the stream of frames one stands.
#[derive(Debug, Default)]
pub struct Frames {
    /// The header of the frame that begins, and the four bytes behind it if it is a reset.
    head: [u8; HEADER + 4],
    known: usize,
    /// Bytes of the frame that are of no interest.
    skip: usize,
}

impl Frames {
    /// Takes in bytes that were written, and tells the code of every stream reset among them.
    pub fn wrote(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            bytes = bytes.get(skipped..).unwrap_or_default();
            self.skip -= skipped;
            if self.skip > 0 {
                return;
            }
            let wanted = if self.known >= HEADER { self.head.len() } else { HEADER };
            let taken = (wanted - self.known).min(bytes.len());
            let (now, rest) = bytes.split_at_checked(taken).unwrap_or_default();
            if let Some(room) = self.head.get_mut(self.known..self.known + taken) {
                room.copy_from_slice(now);
            }
            self.known += taken;
            bytes = rest;
            let [high, middle, low, kind, _, _, _, _, _, code @ ..] = self.head;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if self.known == self.head.len() {
                reset(u32::from_be_bytes(code));
                (self.known, self.skip) = (0, length.saturating_sub(4));
            } else if self.known == HEADER && !(kind == RST_STREAM && length >= 4) {
                (self.known, self.skip) = (0, length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn resets_are_seen_however_the_writes_fall() {
        let bytes = [
            frame(4, &[0; 18]),
            frame(0, b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x09"),
            frame(3, &1u32.to_be_bytes()),
            frame(1, &[]),
            frame(0, &[3; 300]),
            frame(3, &8u32.to_be_bytes()),
            frame(7, &[1; 8]),
            frame(3, &0u32.to_be_bytes()),
        ]
        .concat();
        for size in 1..bytes.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            bytes.chunks(size).for_each(|piece| frames.wrote(piece, |code| seen.push(code)));
            assert_eq!(seen, [1, 8, 0], "{size}");
        }
    }
}
