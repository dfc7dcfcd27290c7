//! gRPC, as far as a gateway has to speak it: how a call is known, how it is refused, its deadline, its messages.
//!
//! After gRPC's [protocol over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), and gRPC-Web's
//! [over any HTTP](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md). Nothing here looks into a message.

pub mod connect;
pub mod metadata;
pub mod web;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, StatusCode};

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long a client is to wait before it tries again, in milliseconds (gRFC A6).
pub const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How long the client waits for the call, all told.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How a client wants to be answered, as its `Content-Type` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// By a problem document.
    #[default]
    Plain,
    Grpc,
    /// gRPC in a browser's reach. What is answered without a message has its status in the head, as in gRPC itself.
    Web,
    /// The same in base64.
    WebText,
    /// A request of HTTP that is a call ([`connect`]), and is answered as one.
    Connect,
}

impl Dialect {
    /// Media types have no case; behind this one there may be `+proto`, `; charset=utf-8` and the like.
    pub fn of(content_type: &[u8]) -> Self {
        const KIND: &[u8] = b"application/grpc";
        let Some((kind, rest)) = content_type.split_at_checked(KIND.len()) else { return Dialect::Plain };
        if !kind.eq_ignore_ascii_case(KIND) {
            return Dialect::Plain;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'+' | b';' | b' ' | b'\t')).unwrap_or(rest.len());
        let rest = rest.get(..end).unwrap_or_default();
        match rest.len() {
            0 => Dialect::Grpc,
            4 if rest.eq_ignore_ascii_case(b"-web") => Dialect::Web,
            9 if rest.eq_ignore_ascii_case(b"-web-text") => Dialect::WebText,
            _ => Dialect::Plain,
        }
    }

    /// In messages behind prefixes, with a status of their own.
    pub fn is_grpc(self) -> bool {
        matches!(self, Dialect::Grpc | Dialect::Web | Dialect::WebText)
    }

    /// Whether a code of gRPC's is what its client wants to know.
    pub fn has_code(self) -> bool {
        self != Dialect::Plain
    }

    pub fn is_web(self) -> bool {
        matches!(self, Dialect::Web | Dialect::WebText)
    }

    /// The media type of an answer of the gateway's own.
    pub fn media_type(self) -> &'static str {
        match self {
            Dialect::Plain => "application/problem+json",
            Dialect::Grpc => "application/grpc",
            Dialect::Web => "application/grpc-web",
            Dialect::WebText => "application/grpc-web-text",
            Dialect::Connect => connect::Codec::Json.media_type(),
        }
    }
}

/// What failed calls end with, by name.
pub const CODES: [(&str, u8); 16] = [
    ("cancelled", 1),
    ("unknown", 2),
    ("invalid_argument", 3),
    ("deadline_exceeded", 4),
    ("not_found", 5),
    ("already_exists", 6),
    ("permission_denied", 7),
    ("resource_exhausted", 8),
    ("failed_precondition", 9),
    ("aborted", 10),
    ("out_of_range", 11),
    ("unimplemented", 12),
    ("internal", 13),
    ("unavailable", 14),
    ("data_loss", 15),
    ("unauthenticated", 16),
];

/// A message behind its prefix. `flags`: what is said of it, 0 of most.
pub fn framed(flags: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(flags);
    // Messages are bounded by far less.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Reads a `grpc-status`. Those that nobody has given a meaning are of no use here.
pub fn read_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|code| *code <= 16)
}

/// What gRPC calls a refusal that HTTP has this status for.
pub fn status(refusal: StatusCode) -> u8 {
    match refusal.as_u16() {
        499 => 1,                               // CANCELLED
        400 | 406 | 411 | 414 | 415 | 422 => 3, // INVALID_ARGUMENT
        408 | 504 => 4,                         // DEADLINE_EXCEEDED
        403 => 7,                               // PERMISSION_DENIED
        413 | 429 | 431 => 8,                   // RESOURCE_EXHAUSTED
        412 | 421 | 428 => 9,                   // FAILED_PRECONDITION
        409 => 10,                              // ABORTED
        404 | 405 | 501 => 12,                  // UNIMPLEMENTED
        500 => 13,                              // INTERNAL
        502 | 503 => 14,                        // UNAVAILABLE
        401 | 407 => 16,                        // UNAUTHENTICATED
        _ => 2,                                 // UNKNOWN
    }
}

/// Reads a `grpc-timeout`: at most eight digits and a unit. Hours to nanoseconds: the longest is 11,415 years.
pub fn read_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Writes a `grpc-timeout` in the finest unit whose eight digits hold it, rounded down: the backend must not think that it has longer.
pub fn write_timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let nanos = left.as_nanos();
    let units = [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000)];
    let (unit, size) = units.into_iter().find(|(_, size)| nanos / size <= MOST).unwrap_or(('H', 3_600_000_000_000));
    format!("{}{unit}", (nanos / size).min(MOST))
}

/// Where a stream of messages stands: each is a flag, four bytes of length, and so many bytes.
#[derive(Debug, Default)]
pub struct Messages {
    prefix: [u8; 5],
    /// How much of the next message's prefix has come.
    filled: usize,
    /// How much of the present message is to come.
    left: u64,
}

impl Messages {
    /// Passes over a piece of the stream. `false` once a message announces itself as longer than `most`.
    pub fn are_within(&mut self, most: u64, mut piece: &[u8]) -> bool {
        loop {
            let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            self.left -= passed as u64;
            piece = piece.get(passed..).unwrap_or_default();
            let missing = self.prefix.get_mut(self.filled..).unwrap_or_default();
            let count = missing.len().min(piece.len());
            if count == 0 {
                return true;
            }
            let (read, rest) = piece.split_at(count);
            missing.iter_mut().zip(read).for_each(|(to, from)| *to = *from);
            piece = rest;
            self.filled += count;
            if self.filled == self.prefix.len() {
                let [_, a, b, c, d] = self.prefix;
                (self.filled, self.left) = (0, u32::from_be_bytes([a, b, c, d]).into());
                if self.left > most {
                    return false;
                }
            }
        }
    }
}

/// A text as `grpc-message` has it: UTF-8, with all but printable ASCII, and `%` itself, as `%XX`.
pub fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 });
                out.push('%');
                out.push(digit(byte >> 4));
                out.push(digit(byte & 15));
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_known_by_the_media_type_alone() {
        for (kind, dialect) in [
            ("application/grpc", Dialect::Grpc),
            ("Application/gRPC", Dialect::Grpc),
            ("application/grpc+proto", Dialect::Grpc),
            ("application/grpc; charset=utf-8", Dialect::Grpc),
            ("application/grpc-web", Dialect::Web),
            ("application/grpc-web+proto", Dialect::Web),
            ("application/grpc-web-text", Dialect::WebText),
            ("application/grpc-web-text+proto", Dialect::WebText),
            ("application/grpcs", Dialect::Plain),
            ("application/grpc-", Dialect::Plain),
            ("application/json", Dialect::Plain),
            ("application/problem+json; application/grpc", Dialect::Plain),
            ("", Dialect::Plain),
        ] {
            assert_eq!(Dialect::of(kind.as_bytes()), dialect, "{kind}");
        }
    }

    #[test]
    fn a_timeout_is_read_in_every_unit_and_nothing_else() {
        let reads = |text: &str| read_timeout(text.as_bytes());
        assert_eq!(reads("500m"), Some(Duration::from_millis(500)));
        assert_eq!(reads("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(reads("2M"), Some(Duration::from_secs(120)));
        assert_eq!(reads("7S"), Some(Duration::from_secs(7)));
        assert_eq!((reads("1u"), reads("1n")), (Some(Duration::from_micros(1)), Some(Duration::from_nanos(1))));
        assert_eq!(reads("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(reads("0S"), Some(Duration::ZERO));
        for bad in ["", "m", "500", "500ms", "500 m", "-1m", "+1m", "1.5S", "100000000m", "1h", "1s", "\u{661}m"] {
            assert_eq!(reads(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_timeout_is_written_no_longer_than_it_is_and_reads_back() {
        for (left, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(500), "500000u"),
            (Duration::from_nanos(500_000_999), "500000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(99_999_999 * 3600), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(write_timeout(left), text);
            assert!(read_timeout(text.as_bytes()).unwrap() <= left);
        }
    }

    #[test]
    fn messages_are_bounded_however_the_stream_is_cut() {
        let message =
            |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), vec![0xff; length].as_slice()].concat();
        let within = [message(10), message(0), message(0), message(10), message(3)].concat();
        let beyond = [message(10), message(0), message(11)].concat();
        for size in 1..within.len() {
            let mut messages = Messages::default();
            assert!(within.chunks(size).all(|piece| messages.are_within(10, piece)), "{size}");
            let mut messages = Messages::default();
            assert!(!beyond.chunks(size).all(|piece| messages.are_within(10, piece)), "{size}");
        }
        assert!(Messages::default().are_within(0, b""));
        // At the announcement, before a byte of it.
        assert!(!Messages::default().are_within(10, b"\0\0\0\0\x0b"));
        assert!(!Messages::default().are_within(u64::from(u32::MAX) - 1, b"\0\xff\xff\xff\xff"));
    }

    #[test]
    fn a_message_is_printable_and_reads_back() {
        assert_eq!(message("The key is needed."), "The key is needed.");
        assert_eq!(message("100 %\u{e9}\n"), "100 %25%C3%A9%0A");
    }
}
