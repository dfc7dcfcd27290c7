//! HTTP/2 frame by frame, for what no client shows: how many there were, and how a stream ended.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of a reset.
    pub fn code(&self) -> Option<u32> {
        (self.kind == RST_STREAM).then(|| u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }
}

/// One connection.
pub struct Frames {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Frames {
    /// With prior knowledge.
    pub fn connect(port: u16) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut frames = Frames { socket, read: Vec::new() };
        frames.send(SETTINGS, 0, 0, b"");
        frames
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.socket.write_all(&[&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()).unwrap();
    }

    /// Asks, and leaves the stream open. Names and values of less than 127 bytes.
    pub fn post(&mut self, stream: u32, path: &str, fields: &[(&str, &str)]) {
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", path)];
        let mut block = Vec::new();
        for (name, value) in pseudo.iter().chain(fields) {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, stream, &block);
    }

    /// The next frame of that stream.
    #[track_caller]
    pub fn next(&mut self, stream: u32) -> Frame {
        let until = Instant::now() + PATIENCE;
        loop {
            let frame = self.frame(until);
            if frame.kind == SETTINGS && frame.flags == 0 {
                self.send(SETTINGS, 1, 0, b"");
            }
            if frame.stream == stream && frame.kind != 8 {
                return frame;
            }
        }
    }

    #[track_caller]
    fn frame(&mut self, until: Instant) -> Frame {
        let mut piece = [0; 16384];
        loop {
            if let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = self.read.as_slice() {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if rest.len() >= length {
                    let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
                    let frame = Frame { kind: *kind, flags: *flags, stream, payload: rest[..length].to_vec() };
                    self.read.drain(..9 + length);
                    return frame;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no frame came");
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.socket.read(&mut piece) {
                Ok(0) => panic!("the connection ended"),
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("no frame came"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
