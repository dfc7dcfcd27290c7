//! Is this a form (`application/x-www-form-urlencoded`, as the URL standard has it), read strictly?

use crate::carrier::decode;

/// The most fields.
const MOST: usize = 1000;

/// # Errors
/// What is wrong, as a sentence about the body.
pub fn check(body: &[u8]) -> Result<(), &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "must be UTF-8")?;
    if !body.iter().all(|byte| (0x21..0x7f).contains(byte) || *byte >= 0x80) {
        return Err("must have white space and control characters as escapes");
    }
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    if !memchr::memchr_iter(b'%', body).all(|at| digit(body.get(at + 1)) && digit(body.get(at + 2))) {
        return Err("must have two hexadecimal digits after each percent sign");
    }
    let mut count = 0;
    for part in text.split('&').filter(|part| !part.is_empty()) {
        count += 1;
        if count > MOST {
            return Err("must have at most 1000 fields");
        }
        if std::str::from_utf8(&decode(part)).is_err() {
            return Err("must be UTF-8");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_a_form() {
        for body in ["", "a=1&b=%20+x&c", "a=\u{e9}%C3%A9", "&&a", "a[b]=1&a=1=2"] {
            assert_eq!(check(body.as_bytes()), Ok(()), "{body}");
        }
        for body in ["a=%", "a=%4", "a=%zz", "a=%ff", "a b=1", "a=1\r\n", "{\"a\": 1}", "a=\u{1}"] {
            assert!(check(body.as_bytes()).is_err(), "{body}");
        }
        assert!(check(b"\xff").is_err() && check("a&".repeat(1001).as_bytes()).is_err());
    }
}
