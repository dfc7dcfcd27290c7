//! The beginning of a TLS connection, read by a bystander: which name does the client ask for?
//!
//! Own code, because it is little and has to be strict: what the gateway and the service behind it read differently, a client could use
//! to get to a service under another one's name. So it takes what RFC 8446 says a hello is and nothing else, and says "malformed" to the
//! rest: BoringSSL and OpenSSL, which come after it, refuse the same. A library that reads hellos would bring either a whole TLS stack
//! or a parser that is lenient and not incremental.
//!
//! Bytes are looked at once each, however a sender cuts them, and are never more than [`MOST`]. With Encrypted Client Hello the name is
//! that of the outer hello, which is all that anybody in between is meant to see.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The longest hello, as BoringSSL takes it: browsers' are under 2 KiB.
const LONGEST: usize = 16 * 1024;
/// With the headers of the records that it comes in.
pub const MOST: usize = 2 * LONGEST;
/// The most that one record holds (RFC 8446, section 5.1).
const LONGEST_RECORD: usize = 16 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// So much is read at once.
const READ: usize = 2048;

/// How a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// With a TLS hello, for this name, in lower case and without a final dot.
    Hello(Option<Box<str>>),
    /// With something else than TLS.
    Other,
    /// With what began as a TLS hello and is none: why, as a stable word.
    Bad(&'static str),
}

const MALFORMED: Greeting = Greeting::Bad("hello_malformed");
const TOO_LARGE: Greeting = Greeting::Bad("hello_too_large");

/// Reads a hello as it comes.
#[derive(Default)]
pub struct Reader {
    header: Vec<u8>,
    /// What is to come of the record.
    left: usize,
    message: Vec<u8>,
    /// Bytes so far.
    seen: usize,
    records: usize,
}

impl Reader {
    /// Takes more bytes. `None` if yet more are needed; else it has seen enough.
    pub fn push(&mut self, mut bytes: &[u8]) -> Option<Greeting> {
        while !bytes.is_empty() {
            if self.seen >= MOST {
                return Some(TOO_LARGE);
            }
            if self.left == 0 {
                let (first, rest) = bytes.split_first()?;
                (bytes, self.seen) = (rest, self.seen + 1);
                self.header.push(*first);
                if !self.may_begin() {
                    // Behind a record of TLS nothing else is expected.
                    return Some(if self.records == 0 { Greeting::Other } else { MALFORMED });
                }
                if let [_, _, _, high, low] = *self.header {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    if self.left == 0 || self.left > LONGEST_RECORD {
                        return Some(if self.records == 0 { Greeting::Other } else { MALFORMED });
                    }
                    self.records += 1;
                    self.header.clear();
                }
                continue;
            }
            let (now, rest) = bytes.split_at_checked(self.left.min(MOST - self.seen)).unwrap_or((bytes, &[]));
            self.left -= now.len();
            self.seen += now.len();
            bytes = rest;
            self.message.extend_from_slice(now);
            if let Some(greeting) = self.look() {
                return Some(greeting);
            }
        }
        None
    }

    /// Whether a record of a handshake may begin so. `SSLv2` hellos, which begin otherwise, are none of ours.
    fn may_begin(&self) -> bool {
        match *self.header {
            [kind] => kind == HANDSHAKE,
            [_, major] => major == 3,
            // TLS 1.0 to 1.3; the record's own version never rose beyond 1.2.
            [_, _, minor] => minor <= 4,
            _ => true,
        }
    }

    /// Looks at the message as far as it has come.
    fn look(&self) -> Option<Greeting> {
        if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Some(MALFORMED);
        }
        let [_, high, middle, low] = *self.message.first_chunk::<4>()?;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > LONGEST {
            return Some(TOO_LARGE);
        }
        let body = self.message.get(4..4 + length)?;
        // A client that has sent its hello waits: what stands behind it in the same record is no TLS.
        let whole = self.message.len() == 4 + length && self.left == 0;
        Some(if whole { parse(body).unwrap_or(MALFORMED) } else { MALFORMED })
    }
}

/// The bytes of a vector that stands behind its length.
fn vector<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(content)
}

/// RFC 8446, section 4.1.2.
fn parse(body: &[u8]) -> Option<Greeting> {
    // The version, and the random.
    let (_, mut rest) = body.split_at_checked(2 + 32)?;
    let session = vector(&mut rest, 1)?;
    let suites = vector(&mut rest, 2)?;
    let compressions = vector(&mut rest, 1)?;
    if session.len() > 32 || suites.is_empty() || !suites.len().is_multiple_of(2) || compressions.is_empty() {
        return None;
    }
    // TLS 1.2 knows hellos without extensions.
    if rest.is_empty() {
        return Some(Greeting::Hello(None));
    }
    let mut extensions = vector(&mut rest, 2)?;
    if !rest.is_empty() {
        return None;
    }
    let mut name = None;
    while let Some((kind, mut after)) = extensions.split_first_chunk::<2>() {
        let content = vector(&mut after, 2)?;
        extensions = after;
        if u16::from_be_bytes(*kind) == SERVER_NAME {
            // Of two, the service might take the other one.
            if name.replace(server_name(content)?).is_some() {
                return None;
            }
        }
    }
    extensions.is_empty().then_some(Greeting::Hello(name))
}

/// RFC 6066, section 3: a list that has exactly one entry, for there is but one kind of names.
fn server_name(mut content: &[u8]) -> Option<Box<str>> {
    let mut list = vector(&mut content, 2)?;
    let (kind, mut rest) = list.split_first()?;
    let name = vector(&mut rest, 2)?;
    list = rest;
    if *kind != HOST_NAME || !list.is_empty() || !content.is_empty() {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if name.is_empty() || name.len() > 253 || !name.iter().all(plain) {
        return None;
    }
    Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into())
}

/// Reads from a socket until it is known how the connection begins. Gives what was read, `read` in front, for whoever has to have it.
///
/// # Errors
/// `TimedOut`, `UnexpectedEof` before anything is known, or the socket's own.
pub async fn read(socket: &mut TcpStream, read: &[u8], deadline: Instant) -> (Vec<u8>, io::Result<Greeting>) {
    let mut reader = Reader::default();
    let mut all = read.to_vec();
    let mut known = reader.push(read);
    let work = async {
        loop {
            if let Some(known) = known.take() {
                return Ok(known);
            }
            let before = all.len();
            all.reserve(READ);
            if (&mut *socket).take(READ as u64).read_buf(&mut all).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            known = reader.push(all.get(before..).unwrap_or_default());
        }
    };
    let greeting = tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    (all, greeting)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
