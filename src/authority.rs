//! The authority of a request, `host[:port]`, in the one spelling in which it is matched, keyed, forwarded, signed and told.
//!
//! RFC 3986 and RFC 9110 let many spellings name the same host: letters of either case, a dot at the end, a colon without a port behind
//! it, a port with zeros in front, an IPv6 address in any of its forms. A gateway that matches one of them and forwards another leaves
//! it to chance whether the backend takes the request for the same host's.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The longest host name in bytes (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// A well-formed authority: the host in lower case, without a dot at its end; an IPv6 address as RFC 5952 writes it; and the port, if
/// there is one, without zeros in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical<'a> {
    /// Borrowed where it came so, which is nearly always.
    pub text: Cow<'a, str>,
    host: usize,
}

impl Canonical<'_> {
    /// The host alone, brackets kept around an IPv6 address.
    pub fn host(&self) -> &str {
        self.text.get(..self.host).unwrap_or_default()
    }
}

/// `None` if it is no authority: userinfo, a bad port, bad bytes, an empty label, too long, nothing at all.
pub fn canonical(authority: &[u8]) -> Option<Canonical<'_>> {
    if authority.first() == Some(&b'[') {
        return bracketed(authority);
    }
    // In one pass, for every request has one. Two dots with nothing between them, or one in front, leave a label empty.
    let (mut length, mut seen, mut before, mut empty) = (0, 0, DOT, 0);
    for &byte in authority {
        let kind = KINDS.get(usize::from(byte)).copied().unwrap_or_default();
        if kind == 0 {
            break;
        }
        empty |= kind & before & DOT;
        seen |= kind;
        before = kind;
        length += 1;
    }
    let (name, rest) = authority.split_at_checked(length)?;
    let port = match rest {
        [] => None,
        [b':', port @ ..] => Some(port),
        _ => return None,
    };
    // A dot at the end names the same host (RFC 3986, section 3.2.2).
    let host = name.strip_suffix(b".").unwrap_or(name);
    if host.is_empty() || host.len() > LONGEST || empty != 0 {
        return None;
    }
    let port = Port::read(port)?;
    if seen & UPPER == 0 && name.len() == host.len() && port.is_canonical {
        return Some(Canonical { text: Cow::Borrowed(std::str::from_utf8(authority).ok()?), host: host.len() });
    }
    let mut text = std::str::from_utf8(host).ok()?.to_ascii_lowercase();
    port.write(&mut text);
    Some(Canonical { text: Cow::Owned(text), host: host.len() })
}

/// What a byte of a host's name is: nothing that there can be, a dot, an upper-case letter, or another one.
#[allow(clippy::indexing_slicing, reason = "while the program is compiled")]
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        kinds[byte as usize] = match byte as u8 {
            b'.' => DOT,
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => LETTER,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};
const LETTER: u8 = 1;
const UPPER: u8 = 2;
const DOT: u8 = 4;

fn bracketed(authority: &[u8]) -> Option<Canonical<'_>> {
    let text = std::str::from_utf8(authority).ok()?;
    let (address, after) = text.strip_prefix('[')?.split_once(']')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let port = match after {
        "" => None,
        after => Some(after.strip_prefix(':')?.as_bytes()),
    };
    let port = Port::read(port)?;
    let mut canonical = format!("[{address}]");
    let host = canonical.len();
    port.write(&mut canonical);
    Some(Canonical { text: if canonical == text { Cow::Borrowed(text) } else { Cow::Owned(canonical) }, host })
}

struct Port {
    number: Option<u16>,
    /// As it stands, colon included.
    is_canonical: bool,
}

impl Port {
    /// What stands behind the colon, if there is one. Nothing at all is legal there, and no port (RFC 3986, section 3.2.3).
    fn read(digits: Option<&[u8]>) -> Option<Port> {
        let Some(digits) = digits else { return Some(Port { number: None, is_canonical: true }) };
        if digits.is_empty() {
            return Some(Port { number: None, is_canonical: false });
        }
        let number = number(digits)?;
        Some(Port { number: Some(number), is_canonical: digits.first() != Some(&b'0') || digits.len() == 1 })
    }

    fn write(&self, text: &mut String) {
        if let Some(number) = self.number {
            text.push(':');
            text.push_str(itoa::Buffer::new().format(number));
        }
    }
}

/// A port's number: decimal digits and nothing else.
pub fn number(digits: &[u8]) -> Option<u16> {
    if !(1..=5).contains(&digits.len()) {
        return None;
    }
    let number = digits.iter().try_fold(0u32, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then_some(number * 10 + u32::from(digit))
    });
    u16::try_from(number?).ok()
}

/// The port of a canonical authority, if it names one.
pub fn port(authority: &[u8]) -> Option<&[u8]> {
    // The colons of an IPv6 address stand in front of its bracket.
    let colon = memchr::memrchr(b':', authority).filter(|_| authority.last() != Some(&b']'))?;
    authority.get(colon + 1..)
}

/// The host of a canonical authority, brackets kept around an IPv6 address.
pub fn host(authority: &str) -> &str {
    let behind = port(authority.as_bytes()).map_or(0, |port| port.len() + 1);
    authority.get(..authority.len() - behind).unwrap_or(authority)
}

/// The port that a scheme means when none is named.
pub fn default_port(scheme: &str) -> &'static str {
    if scheme == "https" { "443" } else { "80" }
}

/// A canonical authority without the port that its scheme means anyway (RFC 9110, section 4.2.3).
pub fn without_default_port<'a>(authority: &'a [u8], scheme: &str) -> &'a [u8] {
    let suffix: &[u8] = if scheme == "https" { b":443" } else { b":80" };
    authority.strip_suffix(suffix).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(authority: &str) -> Option<String> {
        canonical(authority.as_bytes()).map(|canonical| canonical.text.into_owned())
    }

    #[test]
    fn one_host_has_one_spelling() {
        for (written, wanted) in [
            ("shop.example", "shop.example"),
            ("SHOP.example", "shop.example"),
            ("shop.example.", "shop.example"),
            ("Shop.Example.:8080", "shop.example:8080"),
            ("h:", "h"),
            ("h.:", "h"),
            ("h:080", "h:80"),
            ("h:0", "h:0"),
            ("127.0.0.1:65535", "127.0.0.1:65535"),
            ("x_y~z-1", "x_y~z-1"),
            ("[::1]", "[::1]"),
            ("[::1]:", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:0443", "[::1]:443"),
            ("[2001:DB8:0:0:1:0:0:1]", "[2001:db8::1:0:0:1]"),
            ("[::ffff:c000:201]:80", "[::ffff:192.0.2.1]:80"),
        ] {
            assert_eq!(text(written).as_deref(), Some(wanted), "{written}");
            let again = canonical(wanted.as_bytes()).unwrap();
            assert!(matches!(again.text, Cow::Borrowed(_)), "{wanted} needs no copy");
            let host = again.host();
            assert!(wanted == host || wanted.starts_with(&format!("{host}:")), "{wanted}: {host}");
        }
    }

    #[test]
    fn what_is_no_authority_has_none() {
        let long = format!("{}a", "a.".repeat(127));
        for written in [
            "",
            ".",
            "..",
            "a..",
            "a..b",
            ".a",
            "a...:80",
            ":",
            ":80",
            "a b",
            "u@h",
            "h,h",
            "h/x",
            "a\u{e9}",
            "a%41",
            "h:x",
            "h:+80",
            "h:-1",
            "h:65536",
            "h:000080",
            "h:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]80",
            "[]",
            "[1.2.3.4]",
            "[::1%25lo]",
            &long,
        ] {
            assert_eq!(text(written), None, "{written}");
        }
        assert!(text(&long[1..]).is_none() && text(&long[2..]).is_some(), "253 characters, and no empty label");
    }

    #[test]
    fn ports() {
        for (authority, expected) in
            [("h", None), ("h:80", Some("80")), ("[::1]", None), ("[::1]:8080", Some("8080")), ("", None)]
        {
            assert_eq!(port(authority.as_bytes()), expected.map(str::as_bytes), "{authority}");
        }
        assert_eq!(without_default_port(b"h:80", "http"), b"h");
        assert_eq!(without_default_port(b"h:80", "https"), b"h:80");
        assert_eq!(without_default_port(b"[::1]:443", "https"), b"[::1]");
        assert_eq!(without_default_port(b"h:8443", "https"), b"h:8443");
    }

    proptest::proptest! {
        /// The canonical form is its own, says the same host and port, and only differs where it must.
        #[test]
        fn is_a_fixed_point(text in "[a-zA-Z0-9.\\-_~:\\[\\]]{0,24}") {
            if let Some(once) = canonical(text.as_bytes()) {
                let twice = canonical(once.text.as_bytes()).unwrap();
                proptest::prop_assert_eq!(&twice.text, &once.text);
                proptest::prop_assert!(matches!(twice.text, Cow::Borrowed(_)));
                proptest::prop_assert_eq!(twice.host(), once.host());
                proptest::prop_assert!(!once.host().ends_with('.') && !once.host().contains(".."));
                proptest::prop_assert!(!once.text.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }
    }
}
