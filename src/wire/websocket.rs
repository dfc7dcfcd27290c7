//! WebSocket frames (RFC 6455, section 5.2), as far as the gateway has to know them: where one ends, and how a connection is told to close.
//!
//! What is in a frame is nobody's business here.

/// `1001`: the endpoint is going away.
const GOING_AWAY: [u8; 2] = 1001u16.to_be_bytes();

/// The frame that closes a connection, as a server sends it, and as a client does, who has to mask it. The mask hides nothing.
pub const CLOSE_FROM_SERVER: [u8; 4] = [0x88, 2, GOING_AWAY[0], GOING_AWAY[1]];
pub const CLOSE_FROM_CLIENT: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, GOING_AWAY[0], GOING_AWAY[1]];

/// Where a stream of frames stands.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    /// How much of the next frame's head has come.
    filled: usize,
    /// How much of the present frame's payload is to come.
    left: u64,
}

impl Frames {
    /// Passes over a piece of the stream.
    pub fn pass(&mut self, mut piece: &[u8]) {
        loop {
            let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            self.left -= passed as u64;
            piece = piece.get(passed..).unwrap_or_default();
            let Some((byte, rest)) = piece.split_first() else { return };
            piece = rest;
            if let Some(place) = self.head.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            if let Some(length) = self.length() {
                (self.filled, self.left) = (0, length);
            }
        }
    }

    /// The payload's length, once the head is whole.
    fn length(&self) -> Option<u64> {
        let head = self.head.get(..self.filled)?;
        let second = *head.get(1)?;
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let (extended, length) = match second & 0x7f {
            126 => (2, head.get(2..4)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            127 => (8, head.get(2..10)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            short => (0, u64::from(short)),
        };
        (head.len() >= 2 + extended + mask).then_some(length)
    }

    /// Whether a frame may begin here.
    pub fn are_whole(&self) -> bool {
        self.filled == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_they_end_however_they_are_cut() {
        let long = [&[0x82, 126, 1, 0][..], &[0xff; 256]].concat();
        let longer = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4][..], &[0x88; 65536]].concat();
        for frame in [&CLOSE_FROM_SERVER[..], &CLOSE_FROM_CLIENT, &[0x89, 0], &[0x81, 3, b'a', b'b', b'c'], &long, &longer] {
            for size in (1..20).chain([frame.len()]) {
                let mut frames = Frames::default();
                let mut passed = 0;
                for piece in frame.chunks(size) {
                    assert_eq!(frames.are_whole(), passed == 0, "{passed} of {}", frame.len());
                    frames.pass(piece);
                    passed += piece.len();
                }
                assert!(frames.are_whole(), "{} in pieces of {size}", frame.len());
            }
        }
        let mut frames = Frames::default();
        frames.pass(&[&CLOSE_FROM_CLIENT[..], &CLOSE_FROM_SERVER, &[0x81]].concat());
        assert!(!frames.are_whole());
    }
}
