//! A writer for one flat JSON object, straight into a reused buffer.
//!
//! Not a serialiser: it knows the few shapes that a log line has. What it writes is one line of valid UTF-8 without control
//! characters, whatever bytes it is given, so that a client can neither break a line nor speak to the reader's terminal.
//!
//! A line is written for every request, so it is written in few copies: a member's name comes with its quotes, comma and colon from
//! the program's text ([`member!`]), and a value that needs no escape is checked in large steps and copied whole.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::plain::all_plain;

/// Shows that a text was cut at its bound.
const ELLIPSIS: &str = "\u{2026}";

const HEX: [u8; 16] = *b"0123456789abcdef";

/// A member's name as it stands before its value: `member!("status")` is `,"status":`. For names that need no escape.
macro_rules! member {
    ($name:literal) => {
        $crate::observe::json::Member(concat!(",\"", $name, "\":"))
    };
}
pub(super) use member;

/// See [`member!`].
#[derive(Clone, Copy)]
pub struct Member(pub &'static str);

/// One object while it is written.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, first: true }
    }

    // Inlined, as what it calls is not, so that the name is copied as a constant.
    #[inline(always)]
    fn name(&mut self, member: Member) {
        if self.first {
            self.first = false;
            return self.out.extend_from_slice(member.0.as_bytes().get(1..).unwrap_or_default());
        }
        self.out.extend_from_slice(member.0.as_bytes());
    }

    /// A text of at most `bound` bytes; the rest is cut. Left out if empty.
    #[inline(always)]
    pub fn text(&mut self, member: Member, text: &[u8], bound: usize) {
        if !text.is_empty() {
            self.name(member);
            push_text(self.out, text, bound);
        }
    }

    /// A word from the program's own text, which needs no escape. Left out if empty.
    #[inline(always)]
    pub fn word(&mut self, member: Member, word: &'static str) {
        debug_assert!(all_plain(word.as_bytes()), "{word}");
        if !word.is_empty() {
            self.name(member);
            push_plain(self.out, word.as_bytes());
        }
    }

    /// Digits and the signs between them, which need no escape: a time.
    #[inline(always)]
    pub fn stamp(&mut self, member: Member, stamp: &[u8; STAMP]) {
        self.name(member);
        self.out.push(b'"');
        self.out.extend_from_slice(stamp);
        self.out.push(b'"');
    }

    #[inline(always)]
    pub fn number(&mut self, member: Member, number: u64) {
        self.name(member);
        push_number(self.out, number);
    }

    /// Writes `true`.
    #[inline(always)]
    pub fn flag(&mut self, member: Member) {
        self.name(member);
        self.out.extend_from_slice(b"true");
    }

    /// `192.0.2.1` or `2001:db8::1`.
    #[inline(always)]
    pub fn ip(&mut self, member: Member, ip: IpAddr) {
        self.name(member);
        push_address(self.out, ip, None);
    }

    /// `192.0.2.1:80` or `[2001:db8::1]:80`.
    #[inline(always)]
    pub fn address(&mut self, member: Member, address: SocketAddr) {
        self.name(member);
        push_address(self.out, address.ip(), Some(address.port()));
    }

    /// An object within this one.
    pub fn object(&mut self, member: Member) -> Object<'_> {
        self.name(member);
        Object::open(self.out)
    }

    pub fn close(self) {
        self.out.push(b'}');
    }
}

/// The length of `2026-11-22T03:12:20.123456Z`.
pub const STAMP: usize = 27;

fn push_number(out: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

/// An address between quotes. The formatting machinery costs several times as much as the digits of an IPv4 address, and a line has
/// three.
fn push_address(out: &mut Vec<u8>, ip: IpAddr, port: Option<u16>) {
    out.push(b'"');
    match (ip, port) {
        (IpAddr::V4(v4), _) => {
            let [first, rest @ ..] = v4.octets();
            push_octet(out, first);
            for octet in rest {
                out.push(b'.');
                push_octet(out, octet);
            }
        }
        // Writing to a Vec cannot fail.
        (IpAddr::V6(v6), None) => drop(write!(out, "{v6}")),
        (IpAddr::V6(v6), Some(_)) => drop(write!(out, "[{v6}]")),
    }
    if let Some(port) = port {
        out.push(b':');
        push_number(out, port.into());
    }
    out.push(b'"');
}

fn push_octet(out: &mut Vec<u8>, octet: u8) {
    let (hundreds, rest) = (octet / 100, octet % 100);
    let (tens, ones) = (rest / 10, rest % 10);
    match (hundreds, tens) {
        (0, 0) => out.push(b'0' + ones),
        (0, _) => out.extend_from_slice(&[b'0' + tens, b'0' + ones]),
        _ => out.extend_from_slice(&[b'0' + hundreds, b'0' + tens, b'0' + ones]),
    }
}

/// Appends `text` as a JSON string of at most `bound` bytes before escaping (which makes at most six of one).
#[inline(never)]
fn push_text(out: &mut Vec<u8>, text: &[u8], bound: usize) {
    if text.len() <= bound && all_plain(text) {
        return push_plain(out, text);
    }
    out.push(b'"');
    let cut = text.len() > bound;
    push_escaped(out, if cut { whole_chars(text, bound) } else { text });
    if cut {
        out.extend_from_slice(ELLIPSIS.as_bytes());
    }
    out.push(b'"');
}

/// Appends what needs no escape.
fn push_plain(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// The first `bound` bytes, less what would be the beginning of a character.
fn whole_chars(text: &[u8], bound: usize) -> &[u8] {
    let is_continuation = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    // At most three steps back: what has more continuation bytes is no UTF-8 anyway.
    let end = (0..=3.min(bound)).map(|back| bound - back).find(|&end| !is_continuation(end)).unwrap_or(bound);
    text.get(..end).unwrap_or(text)
}

/// Invalid UTF-8 becomes U+FFFD.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            push_char(out, char);
        }
        if !chunk.invalid().is_empty() {
            push_char(out, char::REPLACEMENT_CHARACTER);
        }
    }
}

fn push_char(out: &mut Vec<u8>, char: char) {
    match char {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // C0, DEL and C1 controls move cursors; U+2028 and U+2029 end lines for some readers.
        _ if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
            out.extend_from_slice(b"\\u");
            let code = u32::from(char);
            for shift in [12, 8, 4, 0] {
                out.extend(HEX.get((code >> shift & 15) as usize));
            }
        }
        _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], bound: usize) -> (Vec<u8>, String) {
        let mut out = Vec::new();
        push_text(&mut out, bytes, bound);
        let read = serde_json::from_slice(&out).unwrap();
        (out, read)
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let (raw, read) = text(b"a\"b\\c\n\r\t\x00\x1b[2J\x7f\xc2\x9b1m\xe2\x80\xa8\xff\xfe/\xf0\x9f\x98\x80", 100);
        assert_eq!(read, "a\"b\\c\n\r\t\0\x1b[2J\x7f\u{9b}1m\u{2028}\u{fffd}\u{fffd}/\u{1f600}");
        let raw = String::from_utf8(raw).unwrap();
        assert!(!raw.chars().any(|char| char.is_control() || char == '\u{2028}'), "{raw}");
    }

    #[test]
    fn every_byte_alone_is_valid_json() {
        for byte in 0..=255u8 {
            let (_, read) = text(&[byte], 10);
            assert_eq!(read, String::from_utf8_lossy(&[byte]));
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(text("\u{1f600}".repeat(3).as_bytes(), 6).1, "\u{1f600}\u{2026}");
        assert_eq!(text("\u{1f600}".repeat(3).as_bytes(), 8).1, "\u{1f600}\u{1f600}\u{2026}");
        assert_eq!(text("\u{1f600}".as_bytes(), 2).1, "\u{2026}");
        assert_eq!(text(b"abcd", 4).1, "abcd");
        assert_eq!(text(b"abcde", 4).1, "abcd\u{2026}");
        assert_eq!(text(&[0x80; 50], 10).1.chars().count(), 11, "continuation bytes without a beginning");
        assert_eq!(text(b"abc", 0).1, "\u{2026}");
    }

    #[test]
    fn objects_nest() {
        let mut out = Vec::new();
        let mut line = Object::open(&mut out);
        line.text(member!("absent"), b"", 10);
        line.number(member!("n"), u64::MAX);
        let mut inner = line.object(member!("inner"));
        inner.ip(member!("v6"), std::net::Ipv6Addr::LOCALHOST.into());
        inner.ip(member!("v4"), [203, 0, 113, 9].into());
        inner.address(member!("a6"), "[2001:db8::1]:443".parse().unwrap());
        inner.address(member!("a4"), "10.0.0.1:65535".parse().unwrap());
        inner.close();
        line.text(member!("t"), b"x", 10);
        line.word(member!("w"), "word");
        line.word(member!("absent"), "");
        line.close();
        let inner = r#"{"v6":"::1","v4":"203.0.113.9","a6":"[2001:db8::1]:443","a4":"10.0.0.1:65535"}"#;
        let whole = format!(r#"{{"n":18446744073709551615,"inner":{inner},"t":"x","w":"word"}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), whole);
    }
}
