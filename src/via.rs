//! `Via`: which gateways a message has passed, and how it came to them (RFC 9110, section 7.6.3).

use http::{HeaderValue, Version};

use crate::head::RequestHead;

/// The most of a gateway's own names in one request. No honest chain of gateways that share a name is as long.
const MOST: u8 = 10;

/// A gateway's name, and the values that it adds to what it forwards, made once.
#[derive(Debug)]
pub struct Via {
    name: Box<str>,
    http_10: HeaderValue,
    http_11: HeaderValue,
    http_2: HeaderValue,
}

impl Via {
    /// `None` if it is neither a name (a token) nor a host with or without a port.
    pub fn new(name: &str) -> Option<Via> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:[]".contains(&byte);
        if !(1..=128).contains(&name.len()) || !name.bytes().all(is_good) {
            return None;
        }
        let value = |version: &str| HeaderValue::try_from(format!("{version} {name}")).ok();
        Some(Via { name: name.into(), http_10: value("1.0")?, http_11: value("1.1")?, http_2: value("2")? })
    }

    /// What is added to a message that came in this version of HTTP.
    pub fn value(&self, came: Version) -> &HeaderValue {
        match came {
            Version::HTTP_2 => &self.http_2,
            Version::HTTP_10 => &self.http_10,
            _ => &self.http_11,
        }
    }

    /// Whether a request has come around so often that it will never leave.
    pub fn is_loop(&self, head: &RequestHead) -> bool {
        // Each turn adds a field of its own.
        if head.vias < MOST {
            return false;
        }
        let elements = head.header_all("via").flat_map(|line| line.split(|&byte| byte == b','));
        let names = elements.filter_map(|element| element.trim_ascii().split(u8::is_ascii_whitespace).nth(1));
        names.filter(|name| *name == self.name.as_bytes()).count() >= usize::from(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["portcullis", "edge-1.example:8080", "[::1]:80", "a"] {
            assert!(Via::new(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a\r\nx: y", "(a)", "\u{e9}", &"a".repeat(129)] {
            assert!(Via::new(bad).is_none(), "{bad}");
        }
        let via = Via::new("gate").unwrap();
        assert_eq!(via.value(Version::HTTP_10), "1.0 gate");
        assert_eq!(via.value(Version::HTTP_11), "1.1 gate");
        assert_eq!(via.value(Version::HTTP_2), "2 gate");
    }

    #[test]
    fn a_loop_is_its_own_name_again_and_again() {
        let via = Via::new("gate").unwrap();
        let head = |count: usize, value: &'static str| {
            let mut head = RequestHead::build("GET", "/", &vec![("Via", value); count]);
            head.vias = count as u8;
            head
        };
        assert!(via.is_loop(&head(10, "1.1 gate")));
        assert!(via.is_loop(&head(10, "1.1 other, 2 gate (a comment)")));
        assert!(!via.is_loop(&head(9, "1.1 gate")));
        assert!(!via.is_loop(&head(100, "1.1 other")));
        assert!(!via.is_loop(&head(100, "1.1 gates, gate")));
    }
}
