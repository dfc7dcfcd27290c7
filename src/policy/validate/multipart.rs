//! The parts of a `multipart/form-data` body (RFC 7578), read strictly: what is taken here in another way than by the service would get by.

use super::media::{MediaType, is_token};

/// The most parts of one body, and the most header lines of one part.
pub const MOST_PARTS: usize = 1000;
const MOST_LINES: usize = 16;
/// The longest boundary (RFC 2046, section 5.1.1).
const LONGEST_BOUNDARY: usize = 70;

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The field's name.
    pub name: &'a str,
    pub filename: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
}

/// The boundary that a `Content-Type` names, in one way only.
pub fn boundary<'a>(media: &MediaType<'a>) -> Option<&'a str> {
    let is_taken = |text: &&str| {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
        (1..=LONGEST_BOUNDARY).contains(&text.len()) && text.bytes().all(byte) && !text.ends_with(' ')
    };
    media.only_parameter("boundary").filter(is_taken)
}

/// The parts, in their order.
///
/// # Errors
/// What is wrong, as a sentence about the body.
pub fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, &'static str> {
    let first = format!("--{boundary}");
    let delimiter = format!("\r\n{first}");
    let finder = memchr::memmem::Finder::new(delimiter.as_bytes());
    let inner = memchr::memmem::Finder::new(first.as_bytes());
    // What stands before the first boundary says nothing (a preamble), and nobody sends one.
    let mut rest = body.strip_prefix(first.as_bytes()).ok_or("does not begin with its boundary")?;
    let mut parts = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"--") {
            let ends = matches!(after, b"" | b"\r\n");
            return if ends { Ok(parts) } else { Err("goes on after its last boundary") };
        }
        // White space after a boundary is allowed, and nobody sends any.
        rest = rest.strip_prefix(b"\r\n").ok_or("has a boundary that is followed by something else than a line's end")?;
        if parts.len() >= MOST_PARTS {
            return Err("has too many parts");
        }
        let end = finder.find(rest).ok_or("ends before its last boundary")?;
        let (one, after) = rest.split_at_checked(end).unwrap_or((rest, b""));
        let part = part(one)?;
        // Behind a lone CR or LF, many take it for a delimiter.
        let begins_line = |at: usize| at.checked_sub(1).is_none_or(|at| matches!(part.body.get(at), Some(b'\r' | b'\n')));
        if inner.find_iter(part.body).any(begins_line) {
            return Err("has a part with its boundary at the beginning of a line");
        }
        parts.push(part);
        rest = after.get(delimiter.len()..).unwrap_or_default();
    }
}

fn part(text: &[u8]) -> Result<Part<'_>, &'static str> {
    let (mut rest, mut disposition, mut content_type) = (text, None, None);
    for number in 0.. {
        if number > MOST_LINES {
            return Err("has a part with too many header lines");
        }
        let end = memchr::memmem::find(rest, b"\r\n").ok_or("has a part without an empty line after its header")?;
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, b""));
        rest = after.get(2..).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        // A lone CR or LF ends a line for many, and a NUL a name.
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("has a part with a control character in its header");
        }
        let line = std::str::from_utf8(line).map_err(|_| "has a header line that is not UTF-8")?;
        let (name, value) = line.split_once(':').ok_or("has a part with a header line without a colon")?;
        let slot = match name {
            name if name.starts_with([' ', '\t']) => return Err("has a folded header line"),
            name if !is_token(name) => return Err("has a part with a malformed header line"),
            name if name.eq_ignore_ascii_case("content-disposition") => &mut disposition,
            name if name.eq_ignore_ascii_case("content-type") => &mut content_type,
            // RFC 7578, section 4.7: no coding is left by which a part could hide what it is.
            name if name.eq_ignore_ascii_case("content-transfer-encoding") => {
                let plain = ["7bit", "8bit", "binary"].iter().any(|known| value.trim().eq_ignore_ascii_case(known));
                if !plain {
                    return Err("has a part with a transfer encoding");
                }
                continue;
            }
            _ => continue,
        };
        if slot.replace(value.trim_matches([' ', '\t'])).is_some() {
            return Err("has a part with a header line twice");
        }
    }
    let (name, filename) = fields(disposition.ok_or("has a part without a Content-Disposition")?)?;
    Ok(Part { name, filename, content_type, body: rest })
}

/// `form-data; name="a"; filename="b"`
fn fields(disposition: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (kind, mut rest) = disposition.split_once(';').unwrap_or((disposition, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err("has a part that is not form-data");
    }
    let (mut name, mut filename) = (None, None);
    while !rest.trim().is_empty() {
        let (key, after) = rest.trim_start().split_once('=').ok_or("has a part with a malformed Content-Disposition")?;
        let (value, after) = match after.strip_prefix('"') {
            // Browsers write a quote as %22; a backslash before one is read in two ways.
            Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.ends_with('\\')),
            None => {
                Some(after.split_at(after.find([';', ' ', '\t']).unwrap_or(after.len()))).filter(|(value, _)| is_token(value))
            }
        }
        .ok_or("has a part with a malformed Content-Disposition")?;
        let slot = match key {
            // Not in form-data (RFC 7578, section 4.2), and some take `name*` before `name`.
            key if key.contains('*') => return Err("has a part with a `*` in its Content-Disposition"),
            key if !is_token(key) => return Err("has a part with a malformed Content-Disposition"),
            // A backslash in it is there for some, and gone for others.
            key if key.eq_ignore_ascii_case("name") && value.contains('\\') => {
                return Err("has a part with a backslash in its name");
            }
            key if key.eq_ignore_ascii_case("name") => Some(&mut name),
            key if key.eq_ignore_ascii_case("filename") => Some(&mut filename),
            _ => None,
        };
        if slot.is_some_and(|slot| slot.replace(value).is_some()) {
            return Err("has a part with a name twice");
        }
        rest = after.trim_start().strip_prefix(';').unwrap_or(after);
        if !after.trim().is_empty() && !after.trim_start().starts_with(';') {
            return Err("has a part with a malformed Content-Disposition");
        }
    }
    Ok((name.ok_or("has a part without a name")?, filename))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_read() {
        let body = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x\r\ncontent-type: text/plain\r\n\
            Content-Disposition: form-data; name=b; filename=\"c d.txt\"\r\n\r\n\r\n--\r\n--x--\r\n";
        let parts = parts(body, "x").unwrap();
        let a = Part { name: "a", filename: None, content_type: None, body: b"1" };
        let b = Part { name: "b", filename: Some("c d.txt"), content_type: Some("text/plain"), body: b"\r\n--" };
        assert_eq!(parts, [a, b]);
        assert_eq!(super::parts(b"--x--", "x").unwrap(), []);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let head = "Content-Disposition: form-data; name=\"a\"";
        let whole = |head: &str| format!("--x\r\n{head}\r\n\r\n1\r\n--x--");
        assert!(parts(whole(head).as_bytes(), "x").is_ok());
        for body in [
            String::new(),
            format!("preamble\r\n{}", whole(head)),
            whole(head).replace("--x--", "--x"),
            format!("{}epilogue", whole(head)),
            whole("Content-Disposition: form-data; name=\"a\"; name=\"b\""),
            whole("Content-Disposition: attachment; name=\"a\""),
            whole("Content-Disposition: form-data"),
            whole("Content-Disposition: form-data; name=\"a\\\"; filename=\"x\""),
            whole("Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''x"),
            whole("Content-Disposition: form-data; name=\"a\" b"),
            whole(&format!("{head}\r\n{head}")),
            whole(&format!("{head}\r\n folded: x")),
            whole(&format!("{head}\r\nContent-Transfer-Encoding: base64")),
            whole("X: y"),
            whole(&format!("{head}; name*=UTF-8''b")),
            whole(&format!("{head}; name*0=b")),
            whole(&format!("{head}; filename =b")),
            whole(&format!("{head}; filename=b c")),
            whole("Content-Disposition: form-data; name=\"a\\b\""),
            whole(&format!("X: y\nContent-Disposition: form-data; name=b\r\n{head}")),
            whole(&format!("{head}\rX: y")),
            whole(&format!("{head}\r\nX: a\0b")),
            whole(&format!("{head}\r\nContent-Disposition : form-data; name=b")),
            whole(head).replace("1\r\n", "1\n--x\nContent-Disposition: form-data; name=b\n\n2\r\n"),
            whole(head).replace("1\r\n", "1\r--x--\r\n"),
            "--x\r\nno colon\r\n\r\n1\r\n--x--".to_owned(),
            "--x\r\nA: b\r\n--x--".to_owned(),
            "--x \r\n\r\n--x--".to_owned(),
        ] {
            assert!(parts(body.as_bytes(), "x").is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(--x|\r\n|:|;|=|\"|name|Content-Disposition: form-data|.){0,40}") {
            let _ = parts(text.as_bytes(), "x");
        }
    }
}
