//! WebSocket frames (RFC 6455, section 5.2), as far as a gateway has to know them: where one begins and ends, and how a connection is
//! pinged and told to close.
//!
//! What a message says is nobody's business here, so payloads are passed over, with one exception: the first bytes of control frames, for
//! the code of a close and the gateway's own pongs.

pub mod handshake;
mod law;

pub use law::{Fault, Law};

/// What a close frame says.
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL_ERROR: u16 = 1002;
/// Stands for a close frame without a code; it is never sent.
pub const NO_CODE: u16 = 1005;
pub const POLICY_VIOLATION: u16 = 1008;
pub const TOO_BIG: u16 = 1009;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What the gateway's pings carry, and the pongs to them: an end that pings by itself uses words of its own.
const OURS: [u8; 8] = *b"portcull";

/// Who sends frames. Clients mask them, and services do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Client,
    Service,
}

/// The frame that closes a connection, as this one would send it. A reason has at most 123 bytes.
pub fn close(from: Speaker, code: u16, reason: &str) -> Vec<u8> {
    control(from, CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// The gateway's ping, as this one would send it.
pub fn ping(from: Speaker) -> Vec<u8> {
    control(from, PING, &OURS)
}

fn control(from: Speaker, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..125).unwrap_or(payload);
    let length = payload.len() as u8;
    let mut frame = vec![0x80 | opcode];
    match from {
        Speaker::Service => frame.push(length),
        // The mask hides nothing: who could be misled by these bytes is no one that a gateway's own words are for.
        Speaker::Client => frame.extend_from_slice(&[0x80 | length, 0, 0, 0, 0]),
    }
    frame.extend_from_slice(payload);
    frame
}

/// What comes before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    first: u8,
    pub masked: bool,
    pub length: u64,
    /// The length is written in as few bytes as it can be.
    minimal: bool,
    /// How many bytes it has.
    pub size: usize,
}

impl Head {
    fn opcode(self) -> u8 {
        self.first & 15
    }

    /// The last frame of its message.
    fn is_final(self) -> bool {
        self.first & 0x80 != 0
    }

    pub fn is_control(self) -> bool {
        self.first & 8 != 0
    }

    /// A message begins here.
    pub fn begins(self) -> bool {
        matches!(self.opcode(), 1..=7)
    }

    /// It may be the answer to the gateway's ping.
    pub fn may_be_ours(self) -> bool {
        self.opcode() == PONG && self.length == OURS.len() as u64
    }
}

/// What a piece of the stream was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The piece was empty, and more has to come.
    Nothing,
    /// A part of a head, or of a payload.
    Part,
    /// The end of a head.
    Head(Head),
    /// The end of a frame, which takes no bytes.
    End,
}

/// Where a stream of frames stands.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 14],
    /// How much of the next frame's head has come.
    filled: u8,
    /// The present frame's head has come, and its end was not told yet.
    open: bool,
    /// How much of the present frame's payload is to come.
    left: u64,
    /// The beginning of a control frame's payload, unmasked.
    note: [u8; OURS.len()],
    noted: u8,
    closed: Option<u16>,
}

impl Frames {
    /// Takes in what comes next: how many bytes, and what they were.
    pub fn take(&mut self, piece: &[u8]) -> (usize, Met) {
        if self.open && self.left == 0 {
            self.open = false;
            if self.opcode() == CLOSE && self.closed.is_none() {
                let [high, low, ..] = self.note;
                self.closed = Some(if self.noted >= 2 { u16::from_be_bytes([high, low]) } else { NO_CODE });
            }
            return (0, Met::End);
        }
        if piece.is_empty() {
            return (0, Met::Nothing);
        }
        if self.open {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            if self.in_control() {
                self.note(piece.get(..count).unwrap_or_default());
            }
            self.left -= count as u64;
            return (count, Met::Part);
        }
        for (at, byte) in piece.iter().enumerate() {
            if let Some(place) = self.head.get_mut(usize::from(self.filled)) {
                *place = *byte;
            }
            self.filled += 1;
            if let Some(head) = self.whole_head() {
                (self.filled, self.open, self.left, self.noted) = (0, true, head.length, 0);
                return (at + 1, Met::Head(head));
            }
        }
        (piece.len(), Met::Part)
    }

    /// The head, once it is whole.
    fn whole_head(&self) -> Option<Head> {
        let head = self.head.get(..usize::from(self.filled))?;
        let (first, second) = (*head.first()?, *head.get(1)?);
        let masked = second & 0x80 != 0;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let (extended, length, minimal) = match second & 0x7f {
            126 => {
                let length = number(head.get(2..4)?);
                (2, length, length > 125)
            }
            127 => {
                let length = number(head.get(2..10)?);
                (8, length, length > 0xffff && length >> 63 == 0)
            }
            short => (0, u64::from(short), true),
        };
        let size = 2 + extended + if masked { 4 } else { 0 };
        (head.len() >= size).then_some(Head { first, masked, length, minimal, size })
    }

    fn opcode(&self) -> u8 {
        self.head.first().map_or(0, |first| first & 15)
    }

    /// The present frame, or the last one, is a control frame.
    pub fn in_control(&self) -> bool {
        self.opcode() & 8 != 0
    }

    fn note(&mut self, payload: &[u8]) {
        let second = self.head.get(1).copied().unwrap_or_default();
        // Behind the length, which has no further bytes in a control frame.
        let mask: [u8; 4] = match self.head.get(2..6) {
            Some(&[a, b, c, d]) if second & 0x80 != 0 => [a, b, c, d],
            _ => [0; 4],
        };
        for byte in payload {
            let Some(place) = self.note.get_mut(usize::from(self.noted)) else {
                // Longer than what is kept of it.
                self.noted = u8::MAX;
                return;
            };
            *place = byte ^ mask.get(usize::from(self.noted) & 3).copied().unwrap_or_default();
            self.noted += 1;
        }
    }

    /// Whether the frame that has just ended was the answer to the gateway's ping.
    pub fn was_ours(&self) -> bool {
        self.opcode() == PONG && usize::from(self.noted) == OURS.len() && self.note == OURS
    }

    /// How many bytes of a head that is not whole were taken in.
    pub fn begun(&self) -> usize {
        usize::from(self.filled)
    }

    /// In the middle of a payload.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a frame may begin here.
    pub fn are_whole(&self) -> bool {
        self.filled == 0 && !self.open
    }

    /// What the first close frame said, if there was one.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes over a piece, and says what was met.
    fn pass(frames: &mut Frames, piece: &[u8]) -> Vec<Met> {
        let (mut at, mut all) = (0, Vec::new());
        loop {
            let (count, met) = frames.take(&piece[at..]);
            at += count;
            match met {
                Met::Nothing => return all,
                Met::Part => {}
                other => all.push(other),
            }
        }
    }

    #[test]
    fn frames_end_where_they_end_however_they_are_cut() {
        let long = [&[0x82, 126, 1, 0][..], &[0xff; 256]].concat();
        let longer = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4][..], &[0x88; 65536]].concat();
        let (from_service, from_client) = (close(Speaker::Service, 1001, "bye"), close(Speaker::Client, 1001, "bye"));
        for frame in [&from_service[..], &from_client, &[0x89, 0], &[0x81, 3, b'a', b'b', b'c'], &long, &longer] {
            for size in (1..20).chain([frame.len()]) {
                let mut frames = Frames::default();
                let (mut passed, mut ends) = (0, 0);
                for piece in frame.chunks(size) {
                    assert_eq!(frames.are_whole(), passed == 0, "{passed} of {}", frame.len());
                    ends += pass(&mut frames, piece).iter().filter(|met| **met == Met::End).count();
                    passed += piece.len();
                }
                assert!(frames.are_whole() && ends == 1, "{} in pieces of {size}", frame.len());
                assert_eq!(frames.closed(), (frame[0] == 0x88).then_some(1001));
            }
        }
        let mut frames = Frames::default();
        pass(&mut frames, &[&from_client[..], &from_service, &[0x81]].concat());
        assert!(!frames.are_whole() && frames.begun() == 1);
    }

    #[test]
    fn the_code_of_a_close_is_read_through_its_mask() {
        let masked = [0x88, 0x82, 9, 8, 7, 6, 9 ^ 0x11, 8 ^ 0x5c];
        let mut frames = Frames::default();
        for byte in masked {
            pass(&mut frames, &[byte]);
        }
        assert_eq!(frames.closed(), Some(4444));
        let mut frames = Frames::default();
        pass(&mut frames, &[0x88, 0]);
        assert_eq!(frames.closed(), Some(NO_CODE));
    }

    #[test]
    fn only_the_answer_to_our_ping_is_ours() {
        for (payload, ours) in [(&OURS[..], true), (b"portcul!", false), (b"portcullis", false), (b"", false)] {
            for from in [Speaker::Client, Speaker::Service] {
                let mut frames = Frames::default();
                pass(&mut frames, &control(from, PONG, payload));
                assert_eq!(frames.was_ours(), ours, "{payload:?}");
            }
        }
        let mut frames = Frames::default();
        pass(&mut frames, &ping(Speaker::Client));
        assert!(!frames.was_ours());
    }
}
