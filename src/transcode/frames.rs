//! The messages of an answer, one at a time, out of the pieces that it comes in.

use bytes::{Buf, Bytes, BytesMut};

/// How long a prefix is: a flag, and four bytes of length.
const PREFIX: usize = 5;

/// Why there is no next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    TooLarge,
    /// Nobody has asked for that.
    Compressed,
}

/// What has come and is no message yet.
#[derive(Debug)]
pub struct Frames {
    most: usize,
    begun: BytesMut,
}

impl Frames {
    /// For messages of up to so many bytes.
    pub fn new(most: usize) -> Self {
        Frames { most, begun: BytesMut::new() }
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.begun.capacity()
    }

    /// Whether a message has begun and not ended.
    pub fn is_cut(&self) -> bool {
        !self.begun.is_empty()
    }

    pub fn add(&mut self, piece: &[u8]) {
        self.begun.extend_from_slice(piece);
    }

    /// # Errors
    /// See [`Bad`]. Of what announces itself as too long nothing is waited for.
    pub fn message(&mut self) -> Result<Option<Bytes>, Bad> {
        let Some([flag, a, b, c, d]) = self.begun.first_chunk::<PREFIX>().copied() else { return Ok(None) };
        if flag != 0 {
            return Err(Bad::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.most {
            return Err(Bad::TooLarge);
        }
        if self.begun.len() < PREFIX + length {
            return Ok(None);
        }
        self.begun.advance(PREFIX);
        Ok(Some(self.begun.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_they_are_cut() {
        let stream = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0\0\0", b"\0\0\0\0\x02de"].concat();
        for size in 1..=stream.len() {
            let mut frames = Frames::new(3);
            let mut messages = Vec::new();
            for piece in stream.chunks(size) {
                frames.add(piece);
                while let Some(message) = frames.message().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"abc"[..], b"", b"de"]);
            assert!(!frames.is_cut());
        }
    }

    #[test]
    fn what_is_announced_is_judged_before_it_comes() {
        let mut frames = Frames::new(3);
        frames.add(b"\0\0\0\0");
        assert_eq!((frames.message(), frames.is_cut()), (Ok(None), true));
        frames.add(b"\x04");
        assert_eq!(frames.message(), Err(Bad::TooLarge));
        let mut frames = Frames::new(3);
        frames.add(b"\x01\0\0\0\x01");
        assert_eq!(frames.message(), Err(Bad::Compressed));
    }
}
