//! What of the parts' header fields is the composed answer's: the strictest word on caching, every field that any part varies by, and the
//! cookies of those parts that may set any.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::HeaderValue;

use crate::wire::answer::AnswerHead;

/// What is kept of one part's fields.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    freshness: Freshness,
    vary: Vec<Box<str>>,
    pub set_cookie: Vec<HeaderValue>,
}

/// What an answer says of caching (RFC 9111, section 5.2.2), in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Freshness {
    no_store: bool,
    no_cache: bool,
    private: bool,
    must_revalidate: bool,
    max_age: Option<u64>,
    s_maxage: Option<u64>,
}

impl Fields {
    /// `age`: of one that was stored, in seconds.
    pub fn of(head: &AnswerHead, age: Option<u64>) -> Fields {
        let age = age.or_else(|| head.header_all("age").next().and_then(number)).unwrap_or_default();
        let vary = head.header_all("vary").flat_map(|line| line.split(|&byte| byte == b','));
        let vary = vary.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase());
        let cookies = head.header_all("set-cookie").filter_map(|cookie| HeaderValue::from_bytes(cookie).ok());
        Fields {
            freshness: Freshness::of(head.header_all("cache-control"), age),
            vary: vary.filter(|name| !name.is_empty()).map(Into::into).collect(),
            set_cookie: cookies.collect(),
        }
    }
}

impl Freshness {
    fn of<'a>(lines: impl Iterator<Item = &'a [u8]>, age: u64) -> Freshness {
        let mut said = Freshness::default();
        for directive in lines.flat_map(|line| line.split(|&byte| byte == b',')) {
            let (name, value) = match memchr::memchr(b'=', directive) {
                Some(at) => (directive.get(..at).unwrap_or_default(), directive.get(at + 1..).unwrap_or_default()),
                None => (directive, &b""[..]),
            };
            let value = value.trim_ascii();
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            // What has been spent of it is gone. What cannot be read is nothing.
            let seconds = || Some(number(value).unwrap_or_default().saturating_sub(age));
            match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"no-store" => said.no_store = true,
                b"no-cache" => said.no_cache = true,
                b"private" => said.private = true,
                b"must-revalidate" | b"proxy-revalidate" => said.must_revalidate = true,
                b"max-age" => said.max_age = least(said.max_age, seconds()),
                b"s-maxage" => said.s_maxage = least(said.s_maxage, seconds()),
                _ => {}
            }
        }
        said
    }

    fn is_silent(&self) -> bool {
        *self == Freshness::default()
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// The `Cache-Control` of an answer made of parts: as strict as the strictest. `None` where none says anything.
pub fn cache_control<'a>(parts: impl Iterator<Item = &'a Fields> + Clone, partial: bool, private: bool) -> Option<String> {
    if partial {
        return Some("no-store".to_owned());
    }
    let all = parts.map(|fields| &fields.freshness);
    let any = |is: fn(&Freshness) -> bool| all.clone().any(is);
    if all.clone().all(Freshness::is_silent) {
        return private.then(|| "private, no-cache".to_owned());
    }
    if any(|part| part.no_store) {
        return Some("no-store".to_owned());
    }
    let private = private || any(|part| part.private);
    let mut said = String::from(if private { "private, " } else { "" });
    // Of a part that says nothing nobody knows how long it holds.
    let max_age = all.clone().filter_map(|part| part.max_age).min();
    if any(|part| part.no_cache || part.max_age.or(part.s_maxage).is_none()) {
        said.push_str("no-cache");
        return Some(said);
    }
    let _ = write!(said, "max-age={}", max_age.unwrap_or_default());
    if !private && any(|part| part.s_maxage.is_some()) {
        let shared = all.clone().filter_map(|part| part.s_maxage.or(part.max_age)).min();
        let _ = write!(said, ", s-maxage={}", shared.unwrap_or_default());
    }
    if any(|part| part.must_revalidate) {
        said.push_str(", must-revalidate");
    }
    Some(said)
}

/// The `Vary` of an answer made of parts, whose calls are made of these fields of the client's. `None` where nothing varies.
pub fn vary<'a>(parts: impl Iterator<Item = &'a Fields>, own: &[&'a str]) -> Option<String> {
    let names = parts.flat_map(|fields| &fields.vary).filter(|name| !matches!(&***name, "accept-encoding" | "accept"));
    let names: BTreeSet<&str> = names.map(|name| &**name).chain(own.iter().copied()).collect();
    // (The gateway asks in its own way what they are coded in, and which media type.)
    let names: Vec<&str> = names.into_iter().collect();
    if names.contains(&"*") {
        return Some("*".to_owned());
    }
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::Method;

    use super::*;

    fn fields(lines: &str) -> Fields {
        let raw = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n");
        let head = crate::wire::answer::take(&mut BytesMut::from(raw.as_bytes()), &Method::GET, &Default::default());
        Fields::of(&head.unwrap().unwrap(), None)
    }

    fn told(parts: &[&str]) -> String {
        let parts: Vec<Fields> = parts
            .iter()
            .map(|part| fields(&if part.is_empty() { String::new() } else { format!("Cache-Control: {part}\r\n") }))
            .collect();
        cache_control(parts.iter(), false, false).unwrap_or_default()
    }

    #[test]
    fn the_strictest_word_on_caching_is_that_of_the_whole() {
        for (parts, whole) in [
            (&["", ""][..], ""),
            (&["max-age=60", "max-age=30"], "max-age=30"),
            (&["max-age=60", ""], "no-cache"),
            (&["max-age=60", "no-store"], "no-store"),
            (&["max-age=60", "private, max-age=5"], "private, max-age=5"),
            (&["max-age=60, s-maxage=600", "max-age=90"], "max-age=60, s-maxage=90"),
            (&["s-maxage=600, private", "max-age=90"], "private, max-age=90"),
            (&["max-age=60, must-revalidate", "max-age=70"], "max-age=60, must-revalidate"),
            (&["max-age=nonsense", "max-age=70"], "max-age=0"),
            (&["No-Cache, max-age=9", "max-age=70"], "no-cache"),
        ] {
            assert_eq!(told(parts), whole, "{parts:?}");
        }
        let old = fields("Cache-Control: max-age=60\r\nAge: 45\r\n");
        assert_eq!(cache_control([&old].into_iter(), false, false).unwrap(), "max-age=15");
        assert_eq!(cache_control([&old].into_iter(), true, false).unwrap(), "no-store");
        assert_eq!(cache_control([&old].into_iter(), false, true).unwrap(), "private, max-age=15");
    }

    #[test]
    fn the_whole_varies_by_what_any_part_does() {
        let (one, other) = (fields("Vary: Accept-Language, X-A\r\n"), fields("Vary: accept-encoding\r\nVary: x-a\r\n"));
        assert_eq!(vary([&one, &other].into_iter(), &["x-b"]).unwrap(), "accept-language, x-a, x-b");
        assert_eq!(vary([&other, &fields("Vary: *\r\n")].into_iter(), &[]).unwrap(), "*");
        assert_eq!(vary([&fields("")].into_iter(), &[]), None);
    }
}
