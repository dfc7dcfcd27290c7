//! The grammar of what stands between a chunked body's data (RFC 9112, section 7.1): size lines with their extensions, and trailer fields.
//!
//! Both are read byte by byte from their beginning, so that a fault shows at one place in the stream, however packets cut it.

use super::body::BadBody;

/// The longest line that carries a chunk's size, its extensions included.
const MAX_SIZE_LINE: usize = 256;
/// The most digits of a size.
const MAX_DIGITS: u32 = 15;

/// A size line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeLine {
    pub size: u64,
    /// How many bytes the line takes, with its CR LF.
    pub length: usize,
    /// How many of them are extensions.
    pub extensions: usize,
}

/// Where in a size line one stands. Blanks around `;` and `=` are legal, though nobody should send them ("bad whitespace").
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    /// Blanks that an extension has to follow.
    BeforeExtension,
    /// Behind `;`: a name has to come.
    BeforeName,
    Name,
    /// Blanks behind a name: `=` or `;` has to follow.
    AfterName,
    /// Behind `=`: a value has to come.
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
    /// Behind the CR.
    End,
}

/// The size line at the front of `bytes`; `None` if it is not whole yet.
///
/// `chunk-size *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] ) CRLF`
///
/// # Errors
/// At the first byte that cannot belong to one.
pub(super) fn size_line(bytes: &[u8]) -> Result<Option<SizeLine>, BadBody> {
    let (mut at, mut size, mut digits) = (At::Size, 0u64, 0);
    for (number, &byte) in bytes.iter().enumerate() {
        let fault = if at == At::Size { BadBody::ChunkSize } else { BadBody::ChunkExtension };
        if number >= MAX_SIZE_LINE {
            return Err(BadBody::ChunkExtension);
        }
        at = match (at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                size = size << 4 | u64::from(hex(byte));
                digits += 1;
                At::Size
            }
            (At::Size, _) if digits == 0 => return Err(fault),
            (At::End, b'\n') => {
                let extensions = (number - 1).saturating_sub(digits as usize);
                return Ok(Some(SizeLine { size, length: number + 1, extensions }));
            }
            (At::Size | At::Name | At::Value | At::AfterQuoted, b'\r') => At::End,
            (At::Size | At::BeforeExtension | At::Name | At::AfterName | At::Value | At::AfterQuoted, b';') => At::BeforeName,
            (At::Size | At::BeforeExtension | At::Value | At::AfterQuoted, b' ' | b'\t') => At::BeforeExtension,
            (At::Name | At::AfterName, b' ' | b'\t') => At::AfterName,
            (At::BeforeName | At::BeforeValue, b' ' | b'\t') => at,
            (At::BeforeName | At::Name, _) if is_token(byte) => At::Name,
            (At::Name | At::AfterName, b'=') => At::BeforeValue,
            (At::BeforeValue | At::Value, _) if is_token(byte) => At::Value,
            (At::BeforeValue, b'"') => At::Quoted,
            (At::Quoted, b'"') => At::AfterQuoted,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted | At::Escaped, _) if is_text(byte) => At::Quoted,
            _ => return Err(fault),
        };
    }
    Ok(None)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a' - 10),
    }
}

/// The length of the trailer field at the front of `bytes`, with its CR LF; 2 for the empty line that ends the section, `None` if it is
/// not whole yet. The rules are those of a head's fields: a token, a colon at once, no fold, no control character.
///
/// # Errors
/// At the first byte that cannot belong to one.
pub(super) fn trailer_line(bytes: &[u8]) -> Result<Option<usize>, BadBody> {
    let name = bytes.iter().take_while(|&&byte| is_token(byte)).count();
    let rest = match (name, bytes.get(name)) {
        (_, None) => return Ok(None),
        (0, Some(b'\r')) => bytes.get(1..).unwrap_or_default(),
        (1.., Some(b':')) => {
            let value = bytes.get(name + 1..).unwrap_or_default();
            let length = value.iter().take_while(|&&byte| is_text(byte)).count();
            match value.get(length) {
                None => return Ok(None),
                Some(b'\r') => value.get(length + 1..).unwrap_or_default(),
                Some(_) => return Err(BadBody::Trailers),
            }
        }
        _ => return Err(BadBody::Trailers),
    };
    match rest.first() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(bytes.len() - rest.len() + 1)),
        Some(_) => Err(BadBody::Trailers),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a field's value is made of: anything but control characters, and the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_follow_their_grammar() {
        for (line, size) in [
            ("0\r\n", 0),
            ("00A\r\n", 10),
            ("fFfFfFfFfFfFfFf\r\n", 0x0fff_ffff_ffff_ffff),
            ("5;a\r\n", 5),
            ("5;a=b\r\n", 5),
            ("5 ;a\r\n", 5),
            ("5\t ; \ta = b ; c\r\n", 5),
            ("5;a=\"b c\\\"d\\\\;\"\r\n", 5),
            ("5;a=\"\"\r\n", 5),
            ("5;a=\"b\";c=d;e\r\n", 5),
            ("5;a=\"\u{e4}\" ;b\r\n", 5),
        ] {
            let read = size_line(format!("{line}rest").as_bytes()).unwrap().unwrap();
            assert_eq!((read.size, read.length), (size, line.len()), "{line:?}");
        }
        for line in ["", "g", "-1", "+1", "0x1", "1_0", ";a", " 5", "5g", "5\n", "5,", "5.0", "1111111111111111"] {
            assert_eq!(size_line(format!("{line}\r\n").as_bytes()), Err(BadBody::ChunkSize), "{line:?}");
        }
        for line in [
            "5 ",
            "5\t",
            "5;",
            "5;;",
            "5;a;",
            "5;a=",
            "5;=v",
            "5;k= ",
            "5;a=b=c",
            "5;a b",
            "5;a ",
            "5;a=b ",
            "5;a=b c",
            "5;a=\"b",
            "5;a=\"b\"c",
            "5;a=\"b\" ",
            "5;a=\"b\rc\"",
            "5;a=\"\0\"",
            "5;\"a\"",
            "5;a\0",
            "5;a\n",
            "5;a\rb",
            "5\r",
            "5;\u{e4}",
            "5;a=\u{e4}",
            "5 a",
            "5;a=\"b\n\"",
        ] {
            assert_eq!(size_line(format!("{line}\r\n").as_bytes()), Err(BadBody::ChunkExtension), "{line:?}");
        }
        assert_eq!(size_line(format!("5;{}", "a".repeat(300)).as_bytes()), Err(BadBody::ChunkExtension));
    }

    #[test]
    fn trailers_obey_the_rules_of_fields() {
        for line in ["\r\n", "A:\r\n", "A: b\r\n", "grpc-status:0\r\n", "A:\tb c\t\r\n", "A: \u{e4}\r\n", "A: \":;\\\r\n"] {
            assert_eq!(trailer_line(format!("{line}B: c\r\n").as_bytes()), Ok(Some(line.len())), "{line:?}");
        }
        for line in [
            ": x",
            " A: b",
            "\tA: b",
            "A : b",
            "A\t: b",
            "A",
            "A b: c",
            "A: b\nB: c",
            "A: b\rc",
            "A: \0",
            "A: \x7f",
            "\u{e4}: b",
            "(A): b",
            "\n",
            "\rA",
        ] {
            assert_eq!(trailer_line(format!("{line}\r\n").as_bytes()), Err(BadBody::Trailers), "{line:?}");
        }
        for part in ["", "A", "A:", "A: b", "A: b\r", "\r"] {
            assert_eq!(trailer_line(part.as_bytes()), Ok(None), "{part:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_verdict_is_final(bytes in proptest::collection::vec(proptest::sample::select(&b"05aF;= \t\"\\\r\n:x\0"[..]), 0..40)) {
            let size: Vec<_> = (0..=bytes.len()).map(|end| size_line(&bytes[..end])).filter(|read| *read != Ok(None)).collect();
            proptest::prop_assert!(size.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", size);
            let field: Vec<_> = (0..=bytes.len()).map(|end| trailer_line(&bytes[..end])).filter(|read| *read != Ok(None)).collect();
            proptest::prop_assert!(field.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", field);
        }
    }
}
