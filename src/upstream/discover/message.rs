//! DNS messages (RFC 1035), as far as a stub resolver needs them: one question, and an answer's A, AAAA, SRV and CNAME records.
//!
//! Whatever an answer holds, reading it ends: names follow pointers only backwards, and nothing is read beyond its end.

use std::net::IpAddr;
use std::time::Duration;

pub const A: u16 = 1;
const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
const OPT: u16 = 41;
const IN: u16 = 1;
/// What is read of UDP at most, so that no packet is fragmented on its way.
pub const LARGEST_PACKET: u16 = 1232;
const MOST_RECORDS: usize = 4096;
/// A longer lifetime counts as none (RFC 2181, section 8).
const LONGEST_TTL: u32 = 1 << 31;

/// An answer, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the server says about the question: 0 is well, 3 no such name.
    pub code: u8,
    /// There is more than fits: ask over TCP.
    pub truncated: bool,
    pub records: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// In lower case, without the dot at its end.
    pub owner: String,
    pub ttl: Duration,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Address(IpAddr),
    Alias(String),
    Service { priority: u16, weight: u16, port: u16, target: String },
}

/// A question that wants recursion. `None` if the name cannot be asked for.
pub fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    // Flags: recursion desired. One question, and one additional record, which says how large an answer may be (RFC 6891).
    for word in [id, 0x0100, 1, 0, 0, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let before = out.len();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    if out.len() - before > 255 {
        return None;
    }
    for word in [kind, IN] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.push(0);
    for word in [OPT, LARGEST_PACKET, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    Some(out)
}

/// The answer to this question; `None` for whatever is none.
pub fn answer(message: &[u8], question: &[u8]) -> Option<Answer> {
    let mut reader = Reader { message, at: 0 };
    let (id, flags) = (reader.word()?, reader.word()?);
    let counts = [reader.word()?, reader.word()?, reader.word()?, reader.word()?];
    let asked = Reader { message: question, at: 0 }.word()?;
    let [questions, answers, authorities, more] = counts;
    if id != asked || flags & 0x8000 == 0 || questions != 1 {
        return None;
    }
    let mut theirs = Reader { message: question, at: 12 };
    let same = reader.name()? == theirs.name()? && reader.word()? == theirs.word()? && reader.word()? == theirs.word()?;
    if !same {
        return None;
    }
    let mut found = Answer { code: (flags & 15) as u8, truncated: flags & 0x0200 != 0, records: Vec::new() };
    let all = usize::from(answers) + usize::from(authorities) + usize::from(more);
    for number in 0..all.min(MOST_RECORDS) {
        let authority = (usize::from(answers)..usize::from(answers) + usize::from(authorities)).contains(&number);
        match reader.record() {
            // What a server says of its own authority is not asked for.
            Some(record) => found.records.extend(record.filter(|_| !authority)),
            None if found.truncated => break,
            None => return None,
        }
    }
    Some(found)
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.message.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    /// A record; the inner `None` for one of another kind.
    fn record(&mut self) -> Option<Option<Record>> {
        let owner = self.name()?;
        let (kind, class) = (self.word()?, self.word()?);
        let ttl = u32::from(self.word()?) << 16 | u32::from(self.word()?);
        let length = usize::from(self.word()?);
        let end = self.at.checked_add(length).filter(|end| *end <= self.message.len())?;
        let data = match (kind, length) {
            (A, 4) => {
                let octets = [self.byte()?, self.byte()?, self.byte()?, self.byte()?];
                Some(Data::Address(octets.into()))
            }
            (AAAA, 16) => {
                let mut octets = [0; 16];
                octets.copy_from_slice(self.message.get(self.at..end)?);
                Some(Data::Address(octets.into()))
            }
            (CNAME, _) => Some(Data::Alias(self.name()?)),
            (SRV, 7..) => {
                let (priority, weight, port) = (self.word()?, self.word()?, self.word()?);
                Some(Data::Service { priority, weight, port, target: self.name()? })
            }
            _ => None,
        };
        self.at = end;
        let ttl = Duration::from_secs(if ttl >= LONGEST_TTL { 0 } else { ttl.into() });
        Some(data.filter(|_| class == IN).map(|data| Record { owner, ttl, data }))
    }

    /// A name; a pointer leads further back each time.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let (mut at, mut behind) = (self.at, None);
        loop {
            let length = *self.message.get(at)?;
            match length {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + usize::from(length))?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    // Host names are letters, digits, hyphens and underscores: another byte is nothing that could be connected to.
                    let plain = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
                    name.push_str(std::str::from_utf8(label).ok().filter(|_| plain)?);
                    at += 1 + usize::from(length);
                }
                0xc0.. => {
                    let to = usize::from(length & 0x3f) << 8 | usize::from(*self.message.get(at + 1)?);
                    behind = behind.or(Some(at + 2));
                    if to >= at {
                        return None;
                    }
                    at = to;
                }
                _ => return None,
            }
            if name.len() > 255 {
                return None;
            }
        }
        self.at = behind.unwrap_or(at + 1);
        name.make_ascii_lowercase();
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to `question(7, "a.test", kind)`, with these records behind a pointer to the name.
    fn answered(kind: u16, flags: u16, records: &[(u16, &[u8])]) -> (Vec<u8>, Vec<u8>) {
        let question = question(7, "A.test", kind).unwrap();
        let mut message = question[..question.len() - 11].to_vec();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        message[10..12].copy_from_slice(&[0, 0]);
        for (kind, data) in records {
            message.extend_from_slice(&[0xc0, 12]);
            for word in [*kind, IN, 0, 30, data.len() as u16] {
                message.extend_from_slice(&word.to_be_bytes());
            }
            message.extend_from_slice(data);
        }
        (message, question)
    }

    #[test]
    fn reads_addresses_aliases_and_services() {
        let srv = [0, 1, 0, 2, 0x1f, 0x90, 1, b'b', 0xc0, 14];
        let (message, question) = answered(SRV, 0x8180, &[(A, &[10, 0, 0, 1]), (CNAME, &[1, b'c', 0xc0, 14]), (SRV, &srv)]);
        let answer = answer(&message, &question).unwrap();
        let data: Vec<_> = answer.records.into_iter().map(|record| (record.owner, record.ttl.as_secs(), record.data)).collect();
        assert_eq!(
            data,
            [
                ("a.test".to_owned(), 30, Data::Address([10, 0, 0, 1].into())),
                ("a.test".to_owned(), 30, Data::Alias("c.test".to_owned())),
                ("a.test".to_owned(), 30, Data::Service { priority: 1, weight: 2, port: 8080, target: "b.test".to_owned() }),
            ]
        );
    }

    #[test]
    fn takes_nothing_but_the_answer_to_the_question() {
        let (message, asked) = answered(A, 0x8180, &[(A, &[10, 0, 0, 1])]);
        assert!(answer(&message, &asked).is_some());
        for other in [question(8, "a.test", A), question(7, "b.test", A), question(7, "a.test", AAAA)] {
            assert_eq!(answer(&message, &other.unwrap()), None);
        }
        let (no_answer, asked) = answered(A, 0x0100, &[]);
        assert_eq!(answer(&no_answer, &asked), None);
    }

    #[test]
    fn every_broken_message_ends() {
        let srv = [0, 1, 0, 2, 0x1f, 0x90, 1, b'b', 0xc0, 14];
        let (message, asked) = answered(SRV, 0x8180, &[(CNAME, &[1, b'c', 0xc0, 14]), (SRV, &srv), (A, &[1, 2, 3, 4])]);
        for length in 0..message.len() {
            assert_eq!(answer(&message[..length], &asked), None, "{length}");
        }
        for at in 0..message.len() {
            for byte in [0, 0x3f, 0xc0, 0xff] {
                let mut broken = message.clone();
                broken[at] = byte;
                // Whatever comes of it.
                let _ = answer(&broken, &asked);
            }
        }
        // A pointer to itself.
        let (looping, asked) = answered(A, 0x8180, &[(CNAME, &[0xc0, 36])]);
        assert_eq!(answer(&looping, &asked), None);
    }

    #[test]
    fn names_that_cannot_be_asked_for_are_not() {
        for name in ["", "a..b", &"a".repeat(64), &vec!["a"; 200].join(".")] {
            assert_eq!(question(1, name, A), None, "{name}");
        }
    }
}
