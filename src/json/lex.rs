//! The small parts of JSON's grammar.

use std::borrow::Cow;

use super::Fault;

/// How many bytes from the beginning are a text's own: no quote, no backslash, no control character.
#[inline]
pub fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        let is = |byte: u8| {
            let other = word ^ (ONES * u64::from(byte));
            other.wrapping_sub(ONES) & !other
        };
        // The lowest bit that is set is right; those above it may be borrowed.
        let found = (is(b'"') | is(b'\\') | (word.wrapping_sub(ONES * 0x20) & !word)) & HIGH;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').unwrap_or(rest.len())
}

#[inline]
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// A number that is read byte by byte: what was read of it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Number {
    pub fn begin(byte: u8) -> Option<Number> {
        match byte {
            b'-' => Some(Number::Minus),
            b'0' => Some(Number::Zero),
            b'1'..=b'9' => Some(Number::Digits),
            _ => None,
        }
    }

    /// What it is with one byte more; `None` if that byte is none of its own.
    #[inline]
    pub fn step(self, byte: u8) -> Option<Number> {
        use Number::*;
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => Sign,
            (Exponent | Sign | Power, b'0'..=b'9') => Power,
            _ => return None,
        })
    }

    /// Whether it may end here.
    pub fn is_whole(self) -> bool {
        matches!(self, Number::Zero | Number::Digits | Number::Fraction | Number::Power)
    }
}

/// Whether this is a number and nothing else.
pub fn is_number(text: &[u8]) -> bool {
    number(text, 0) == Ok(text.len())
}

/// Where the text ends that begins with the quote at `start`: behind its other quote.
///
/// # Errors
/// It has no end, or is none.
#[inline]
pub fn string(text: &[u8], start: usize) -> Result<usize, Fault> {
    let mut at = start + 1;
    loop {
        at += plain(text.get(at..).unwrap_or_default());
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match text.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    let digits = text.get(at + 2..at + 6).ok_or(Fault::Truncated)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(Fault::Syntax);
                    }
                    at += 6;
                }
                Some(_) => return Err(Fault::Syntax),
                None => return Err(Fault::Truncated),
            },
            Some(_) => return Err(Fault::Syntax),
            None => return Err(Fault::Truncated),
        }
    }
}

/// The same of a text without escapes. `None` of any other.
#[inline(always)]
pub fn plain_string(text: &[u8], start: usize) -> Option<usize> {
    if text.get(start) != Some(&b'"') {
        return None;
    }
    let end = start + 1 + plain(text.get(start + 1..)?);
    (text.get(end) == Some(&b'"')).then_some(end + 1)
}

/// Where the number ends that begins at `start`.
///
/// # Errors
/// It is none.
#[inline(always)]
pub fn number(text: &[u8], start: usize) -> Result<usize, Fault> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        match rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len()) {
            0 if rest.is_empty() => Err(Fault::Truncated),
            0 => Err(Fault::Syntax),
            count => Ok(from + count),
        }
    };
    let begin = start + usize::from(text.get(start) == Some(&b'-'));
    let mut at = if text.get(begin) == Some(&b'0') { begin + 1 } else { digits(begin)? };
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let signed = matches!(text.get(at + 1), Some(b'+' | b'-'));
        at = digits(at + 1 + usize::from(signed))?;
    }
    Ok(at)
}

/// Where the text, number or word ends that begins at `start`, if it does.
#[inline(always)]
pub fn scalar(text: &[u8], start: usize) -> Option<usize> {
    let first = *text.get(start)?;
    match first {
        b'"' => string(text, start).ok(),
        // It might go on behind the last byte.
        b'-' | b'0'..=b'9' => number(text, start).ok().filter(|&end| end < text.len()),
        _ => {
            let word = word(first)?;
            text.get(start..)?.starts_with(word).then(|| start + word.len())
        }
    }
}

/// Where the object or array ends that begins at `start`, if it does, and is nested no deeper than so many levels.
pub fn container(text: &[u8], start: usize, levels: usize) -> Option<usize> {
    // What each level is, a bit for each: `DEEPEST` is 128.
    let (mut objects, mut depth) = (0_u128, 0);
    let mut at = start;
    loop {
        let opens = *text.get(at)?;
        let mut ends = true;
        if matches!(opens, b'{' | b'[') {
            if depth >= levels {
                return None;
            }
            depth += 1;
            objects = objects << 1 | u128::from(opens == b'{');
            at = space(text, at + 1);
            ends = text.get(at) == Some(&ending(opens));
            if !ends && opens == b'{' {
                at = member(text, at)?;
            }
        } else {
            at = scalar(text, at)?;
        }
        while ends {
            let is_object = objects & 1 == 1;
            at = space(text, at);
            match *text.get(at)? {
                b',' => {
                    at = space(text, at + 1);
                    if is_object {
                        at = member(text, at)?;
                    }
                    ends = false;
                }
                byte if byte == ending(if is_object { b'{' } else { b'[' }) => {
                    at += 1;
                    depth -= 1;
                    objects >>= 1;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => return None,
            }
        }
    }
}

/// What ends what this byte opens.
#[inline]
pub fn ending(opens: u8) -> u8 {
    // `[` and `]`, `{` and `}`.
    opens + 2
}

/// Where the value begins of the member that begins at `start`.
#[inline(always)]
pub fn member(text: &[u8], start: usize) -> Option<usize> {
    if text.get(start) != Some(&b'"') {
        return None;
    }
    let colon = space(text, string(text, start).ok()?);
    (text.get(colon) == Some(&b':')).then(|| space(text, colon + 1))
}

/// Where what is no space begins.
#[inline(always)]
pub fn space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|&byte| is_space(byte)) {
        at += 1;
    }
    at
}

/// The word that begins with this letter.
pub fn word(first: u8) -> Option<&'static [u8]> {
    match first {
        b't' => Some(b"true"),
        b'f' => Some(b"false"),
        b'n' => Some(b"null"),
        _ => None,
    }
}

/// What a text with its quotes says. `None` for one that no text of Unicode is: it has half of a pair of surrogates.
pub fn said(quoted: &[u8]) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', quoted).is_some() {
        return serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned);
    }
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// The text with its quotes.
pub fn quoted(text: &str) -> Vec<u8> {
    // A text cannot fail to be one.
    serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_plain_part_of_a_text_ends_where_it_does(bytes in proptest::collection::vec(prop_oneof![
            9 => Just(b'a'), 2 => any::<u8>(), 1 => Just(b'"'), 1 => Just(b'\\'), 1 => 0u8..0x22,
        ], 0..40)) {
            let slow = bytes.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').unwrap_or(bytes.len());
            prop_assert_eq!(plain(&bytes), slow);
        }

        #[test]
        fn numbers_are_what_serde_json_takes(text in "[-+0-9.eE]{1,8}") {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_number(text.as_bytes()), theirs);
            prop_assert_eq!(number(text.as_bytes(), 0).is_ok_and(|end| end == text.len()), theirs);
        }

        #[test]
        fn texts_are_what_serde_json_takes(text in r#""[a"\\nu0d8é/]{0,9}"?"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(string(text.as_bytes(), 0).is_ok_and(|end| end == text.len()), theirs, "{}", text);
        }
    }

    #[test]
    fn what_is_said_is_not_how_it_is_written() {
        assert_eq!(said(br#""\u0061\/\n""#).unwrap(), "a/\n");
        assert_eq!(said(br#""\ud83d\ude00""#).unwrap(), "\u{1f600}");
        assert_eq!((said(br#""\ud800""#), said(b"\"plain\"").unwrap().as_ref()), (None, "plain"));
        assert_eq!(quoted("a\"\0"), br#""a\"\u0000""#);
    }
}
