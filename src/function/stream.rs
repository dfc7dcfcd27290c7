//! What a function returns as a stream: messages of AWS's event stream, and in them what the function has written: first what the answer is to be,
//! then its body.

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;

use super::answer::{self, Bad, Told};

/// The longest message: what a function writes at once is much shorter.
const MOST_MESSAGE: usize = 2 << 20;
/// The longest head of an answer.
const MOST_HEAD: usize = 64 << 10;
/// What stands between the head of an answer and its body.
const BETWEEN: [u8; 8] = [0; 8];

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// What the function has written.
    Chunk(Bytes),
    /// The function has ended: well, or with this error. The end of its log, if it was asked for.
    Complete { error: Option<String>, log: Option<String> },
    /// The service has failed.
    Exception(String),
}

/// What came is no message.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Messages as they come.
#[derive(Debug, Default)]
pub struct Messages {
    buffer: BytesMut,
}

impl Messages {
    pub fn add(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// How much memory it takes.
    pub fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether a message has begun.
    pub fn is_cut(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next message, once all of it is there. Messages of kinds that nobody knows are passed over.
    ///
    /// # Errors
    /// It is none, or is longer than any.
    pub fn message(&mut self) -> Result<Option<Event>, Malformed> {
        loop {
            let Some(prelude) = self.buffer.get(..12) else { return Ok(None) };
            let (total, fields) = (number(prelude, 0)?, number(prelude, 4)?);
            if checksum(prelude.get(..8).unwrap_or_default()) != number(prelude, 8)? as u32 {
                return Err(Malformed);
            }
            if total > MOST_MESSAGE || fields.saturating_add(16) > total {
                return Err(Malformed);
            }
            if self.buffer.len() < total {
                return Ok(None);
            }
            let mut message = self.buffer.split_to(total);
            let (signed, sum) = message.split_at_checked(total - 4).ok_or(Malformed)?;
            if checksum(signed) != number(sum, 0)? as u32 {
                return Err(Malformed);
            }
            let (kind, event) = kinds(message.get(12..12 + fields).ok_or(Malformed)?)?;
            message.truncate(total - 4);
            message.advance(12 + fields);
            let payload = message.freeze();
            match (kind.as_str(), event.as_str()) {
                ("event", "PayloadChunk") => return Ok(Some(Event::Chunk(payload))),
                ("event", "InvokeComplete") => {
                    let said: Value = serde_json::from_slice(&payload).unwrap_or_default();
                    let text =
                        |name: &str| said.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
                    return Ok(Some(Event::Complete { error: text("ErrorCode"), log: text("LogResult") }));
                }
                ("event", _) => {}
                (_, event) => return Ok(Some(Event::Exception(event.to_owned()))),
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let four: [u8; 4] = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(Malformed)?;
    Ok(u32::from_be_bytes(four) as usize)
}

/// What a message's fields say that it is: its kind, and its name within the kind.
fn kinds(mut fields: &[u8]) -> Result<(String, String), Malformed> {
    let (mut kind, mut event) = (String::new(), String::new());
    while !fields.is_empty() {
        let length = take(&mut fields, 1)?.first().copied().unwrap_or_default();
        let name = take(&mut fields, length.into())?;
        let length = match take(&mut fields, 1)?.first() {
            Some(0 | 1) => 0,
            Some(2) => 1,
            Some(3) => 2,
            Some(4) => 4,
            Some(5 | 8) => 8,
            Some(9) => 16,
            Some(6 | 7) => {
                let two: [u8; 2] = take(&mut fields, 2)?.try_into().map_err(|_| Malformed)?;
                u16::from_be_bytes(two).into()
            }
            _ => return Err(Malformed),
        };
        let value = take(&mut fields, length)?;
        let place = match name {
            b":message-type" => &mut kind,
            b":event-type" | b":exception-type" | b":error-code" => &mut event,
            _ => continue,
        };
        *place = String::from_utf8_lossy(value).into_owned();
    }
    Ok((kind, event))
}

fn take<'a>(fields: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = fields.split_at_checked(length).ok_or(Malformed)?;
    *fields = rest;
    Ok(taken)
}

/// CRC-32 as in zlib: the messages carry it.
fn checksum(bytes: &[u8]) -> u32 {
    // While the program is compiled.
    #[expect(clippy::indexing_slicing)]
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut sum = at as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
                bit += 1;
            }
            table[at] = sum;
            at += 1;
        }
        table
    };
    let step =
        |sum: u32, byte: &u8| TABLE.get(((sum ^ u32::from(*byte)) & 255) as usize).copied().unwrap_or_default() ^ (sum >> 8);
    !bytes.iter().fold(u32::MAX, step)
}

/// What is known of an answer from the beginning of what was written.
pub enum Begun {
    /// Too little has come.
    No,
    /// The answer's head, and what has come of its body.
    Head(Result<Told, Bad>, Bytes),
    /// There is no head: all is the body.
    Raw,
}

/// Looks for the head of an answer.
pub fn begun(written: &Bytes) -> Begun {
    match written.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None if written.len() < MOST_HEAD => return Begun::No,
        Some(b'{') => {}
        _ => return Begun::Raw,
    }
    match memchr::memmem::find(written, &BETWEEN) {
        Some(at) if at <= MOST_HEAD => {
            let body = written.slice(at + BETWEEN.len()..);
            let head = answer::read_head(&written.slice(..at));
            Begun::Head(head.map(|told| Told { body: Vec::new(), ..told }), body)
        }
        None if written.len() <= MOST_HEAD => Begun::No,
        _ => Begun::Raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as it stands on the wire.
    pub fn message(fields: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        for (name, value) in fields {
            head.push(name.len() as u8);
            head.extend_from_slice(name.as_bytes());
            head.push(7);
            head.extend_from_slice(&(value.len() as u16).to_be_bytes());
            head.extend_from_slice(value.as_bytes());
        }
        let mut out = ((head.len() + payload.len() + 16) as u32).to_be_bytes().to_vec();
        out.extend_from_slice(&(head.len() as u32).to_be_bytes());
        out.extend_from_slice(&checksum(&out).to_be_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(payload);
        out.extend_from_slice(&checksum(&out).to_be_bytes());
        out
    }

    fn event(kind: &str, payload: &[u8]) -> Vec<u8> {
        message(&[(":message-type", "event"), (":event-type", kind), (":content-type", "x")], payload)
    }

    #[test]
    fn messages_are_read_however_they_come() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
        let all = [
            event("PayloadChunk", b"one"),
            event("New", b"?"),
            event("InvokeComplete", br#"{"ErrorCode":"Unhandled","LogResult":"abc"}"#),
            message(&[(":message-type", "exception"), (":exception-type", "throttled")], b"{}"),
        ]
        .concat();
        let wanted = [
            Event::Chunk(Bytes::from_static(b"one")),
            Event::Complete { error: Some("Unhandled".into()), log: Some("abc".into()) },
            Event::Exception("throttled".into()),
        ];
        for step in [1, 7, all.len()] {
            let (mut messages, mut read) = (Messages::default(), Vec::new());
            for piece in all.chunks(step) {
                messages.add(piece);
                while let Some(event) = messages.message().unwrap() {
                    read.push(event);
                }
            }
            assert_eq!(read, wanted);
            assert!(!messages.is_cut());
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        let good = event("PayloadChunk", b"one");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let mut messages = Messages::default();
            messages.add(&bad);
            assert_eq!(messages.message(), Err(Malformed), "{at}");
        }
        for (total, fields) in [(u32::MAX, 0), (15, 0), (20, 10), (16, u32::MAX)] {
            let mut bad = [u32::to_be_bytes(total), u32::to_be_bytes(fields)].concat();
            bad.extend_from_slice(&checksum(&bad).to_be_bytes());
            let mut messages = Messages::default();
            messages.add(&bad);
            assert_eq!(messages.message(), Err(Malformed), "{total} {fields}");
        }
    }

    #[test]
    fn a_head_is_told_from_a_body() {
        let begun = |text: &[u8]| super::begun(&Bytes::copy_from_slice(text));
        let head = b"{\"statusCode\":201,\"headers\":{\"a\":\"b\"},\"cookies\":[\"c=1\"]}\0\0\0\0\0\0\0\0body";
        let Begun::Head(Ok(told), body) = begun(head) else { panic!("a head") };
        assert_eq!((told.status.as_u16(), &*body, told.fields.len()), (201, &b"body"[..], 2));
        assert!(matches!(begun(b"{\"statusCode\":201}\0\0\0"), Begun::No));
        assert!(matches!(begun(b""), Begun::No));
        assert!(matches!(begun(b"plain"), Begun::Raw));
        assert!(matches!(begun(b"{}\0\0\0\0\0\0\0\0"), Begun::Head(Err(Bad::NoStatus), _)));
        assert!(matches!(begun(&[b'{'; 70_000]), Begun::Raw));
    }
}
