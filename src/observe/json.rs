//! A writer for one flat JSON object, straight into a reused buffer.
//!
//! Not a serialiser: it knows the few shapes that a log line has. What it writes is one line of valid UTF-8 without control
//! characters, whatever bytes it is given, so that a client can neither break a line nor speak to the reader's terminal.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Shows that a text was cut at its bound.
const ELLIPSIS: &str = "\u{2026}";

const HEX: [u8; 16] = *b"0123456789abcdef";

/// One object while it is written. Keys are static words and are not escaped.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, first: true }
    }

    fn key(&mut self, key: &'static str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text of at most `bound` bytes; the rest is cut. Left out if empty.
    pub fn text(&mut self, key: &'static str, text: &[u8], bound: usize) {
        if !text.is_empty() {
            self.key(key);
            push_text(self.out, text, bound);
        }
    }

    pub fn number(&mut self, key: &'static str, number: u64) {
        self.key(key);
        push_number(self.out, number);
    }

    /// `192.0.2.1` or `2001:db8::1`.
    pub fn ip(&mut self, key: &'static str, ip: IpAddr) {
        self.key(key);
        self.out.push(b'"');
        push_ip(self.out, ip);
        self.out.push(b'"');
    }

    /// `192.0.2.1:80` or `[2001:db8::1]:80`.
    pub fn address(&mut self, key: &'static str, address: SocketAddr) {
        self.key(key);
        self.out.push(b'"');
        match address {
            SocketAddr::V4(v4) => push_ip(self.out, IpAddr::V4(*v4.ip())),
            SocketAddr::V6(v6) => {
                self.out.push(b'[');
                push_ip(self.out, IpAddr::V6(*v6.ip()));
                self.out.push(b']');
            }
        }
        self.out.push(b':');
        push_number(self.out, address.port().into());
        self.out.push(b'"');
    }

    /// An object within this one.
    pub fn object(&mut self, key: &'static str) -> Object<'_> {
        self.key(key);
        Object::open(self.out)
    }

    pub fn close(self) {
        self.out.push(b'}');
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The formatting machinery costs several times as much as the digits of an IPv4 address, and a line has three.
fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            let [first, rest @ ..] = v4.octets();
            push_number(out, first.into());
            for octet in rest {
                out.push(b'.');
                push_number(out, octet.into());
            }
        }
        // Writing to a Vec cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Whether every byte can stand in a JSON string as it is: [`is_plain`], eight bytes at a time. A log line has hundreds of them.
fn all_plain(text: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Sets the high bit of every byte that is 0. Borrows may set it in a byte above one that is 0, too, which changes no answer.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, rest) = text.as_chunks::<8>();
    words.iter().all(|word| {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let high_or_delete = (word | (word & !HIGH).wrapping_add(ONES)) & HIGH;
        control | high_or_delete | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\'))) == 0
    }) && rest.iter().all(|&byte| is_plain(byte))
}

/// Appends `text` as a JSON string of at most `bound` bytes before escaping (which makes at most six of one).
fn push_text(out: &mut Vec<u8>, text: &[u8], bound: usize) {
    out.push(b'"');
    let cut = text.len() > bound;
    let text = if cut { whole_chars(text, bound) } else { text };
    if all_plain(text) {
        out.extend_from_slice(text);
    } else {
        push_escaped(out, text);
    }
    if cut {
        out.extend_from_slice(ELLIPSIS.as_bytes());
    }
    out.push(b'"');
}

/// Printable ASCII that stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
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

    #[test]
    fn eight_bytes_at_a_time_see_what_one_sees() {
        for byte in 0..=255u8 {
            for at in 0..8 {
                for around in [b'a', b' ', b'~', byte] {
                    let mut word = [around; 8];
                    word[at] = byte;
                    assert_eq!(all_plain(&word), word.iter().all(|&byte| is_plain(byte)), "{word:?}");
                }
            }
        }
    }

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
        line.text("absent", b"", 10);
        line.number("n", u64::MAX);
        let mut inner = line.object("inner");
        inner.ip("v6", std::net::Ipv6Addr::LOCALHOST.into());
        inner.ip("v4", [203, 0, 113, 9].into());
        inner.address("a6", "[2001:db8::1]:443".parse().unwrap());
        inner.address("a4", "10.0.0.1:65535".parse().unwrap());
        inner.close();
        line.text("t", b"x", 10);
        line.close();
        let inner = r#"{"v6":"::1","v4":"203.0.113.9","a6":"[2001:db8::1]:443","a4":"10.0.0.1:65535"}"#;
        let whole = format!(r#"{{"n":18446744073709551615,"inner":{inner},"t":"x"}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), whole);
    }
}
