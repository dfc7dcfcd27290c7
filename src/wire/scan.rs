//! Where a request head ends.

use bytes::{Buf, BytesMut};

use super::bad_head::{BadHead, HEAD_TOO_LARGE, TARGET_TOO_LONG};
use super::head::HeadLimits;
use super::line;

/// Looks for the end of a head in what has arrived so far, so that the grammar runs once and not at every packet. What it says depends
/// on the bytes alone, and never on how packets cut them: each bound is passed, and each fault shows, at one place in the stream.
#[derive(Debug, Default)]
pub struct HeadScan {
    scanned: usize,
    blank: usize,
    /// The request line is whole and good.
    line: bool,
}

/// Empty lines before a request line are ignored (RFC 9112, section 2.2), but an endless run of them would keep a connection open
/// without ever being a request.
const MAX_BLANK: usize = 2;

impl HeadScan {
    /// Whether `buffer` holds a whole head. `Err` as soon as it cannot become an acceptable one.
    pub fn find(&mut self, buffer: &mut BytesMut, limits: &HeadLimits) -> Result<bool, BadHead> {
        if let Some(b'\r' | b'\n') = buffer.first() {
            while self.blank < MAX_BLANK && buffer.starts_with(b"\r\n") {
                buffer.advance(2);
                self.blank += 1;
            }
            match buffer.as_ref() {
                [] => return Ok(false),
                [b'\r'] if self.blank < MAX_BLANK => return Ok(false),
                [b'\r' | b'\n', ..] => return line::check(buffer),
                _ => {}
            }
        }
        // The method, the spaces and the version take less than 64 bytes beside the target.
        let longest = limits.target.saturating_add(64).min(limits.head);
        // Most heads come whole, and nothing behind them.
        if buffer.len() <= longest && buffer.ends_with(b"\r\n\r\n") {
            *self = HeadScan::default();
            return Ok(true);
        }
        if !self.line {
            self.line = line::check(buffer.get(..longest).unwrap_or(buffer))?;
            if !self.line {
                return if buffer.len() > longest { Err(TARGET_TOO_LONG) } else { Ok(false) };
            }
        }
        let from = self.scanned.saturating_sub(3);
        let fresh = buffer.get(from..).unwrap_or_default();
        // A blank line is LF CR LF; LF LF ends a head too, so that the grammar can refuse it.
        let end = memchr::memchr_iter(b'\n', fresh).find_map(|at| match fresh.get(at + 1..).unwrap_or_default() {
            [b'\n', ..] => Some(from + at + 2),
            [b'\r', b'\n', ..] => Some(from + at + 3),
            _ => None,
        });
        self.scanned = buffer.len();
        if end.unwrap_or(buffer.len()) > limits.head {
            return Err(HEAD_TOO_LARGE);
        }
        if end.is_some() {
            *self = HeadScan::default();
        }
        Ok(end.is_some())
    }
}
