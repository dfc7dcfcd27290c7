//! Query parameters and cookies: read as a backend reads them, and taken out where they carry credentials.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, header};

use crate::head::{HeaderEdit, RequestHead};

/// The decoded values of every parameter called `name`, however the client encoded that name.
pub fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

/// `query` without every parameter called `name`, however it is encoded; the others stay as they are, byte for byte and in order.
/// What goes upstream after a credential came by query.
pub fn strip_query_param(query: &str, name: &str) -> String {
    let mut kept = String::with_capacity(query.len());
    let mut first = true;
    for pair in query.split('&') {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if *decode(key) == *name.as_bytes() {
            continue;
        }
        if !first {
            kept.push('&');
        }
        first = false;
        kept.push_str(pair);
    }
    kept
}

/// Undoes `application/x-www-form-urlencoded`: `%XX` and `+`. A `%` that begins no escape stands for itself, as it does to backends.
pub fn decode(text: &str) -> Cow<'_, [u8]> {
    decode_with(text, b' ')
}

/// As [`decode`], where `+` is a plus: in paths and in fragments.
pub fn decode_escapes(text: &str) -> Cow<'_, [u8]> {
    decode_with(text, b'+')
}

/// What was decoded of a text, as a text: what is no UTF-8 is replaced.
pub fn lossy(decoded: Cow<'_, [u8]>) -> Cow<'_, str> {
    match decoded {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn decode_with(text: &str, plus: u8) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Cow::Borrowed(text.as_bytes());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None if byte == b'+' => out.push(plus),
            None => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// Every cookie of the request, as `name=value` or whatever else the client wrote between two semicolons.
fn cookies(head: &RequestHead) -> impl Iterator<Item = &[u8]> {
    head.header_all("cookie").flat_map(|line| line.split(|&byte| byte == b';')).map(<[u8]>::trim_ascii)
}

fn cookie_pair(cookie: &[u8]) -> (&[u8], &[u8]) {
    let at = memchr::memchr(b'=', cookie).unwrap_or(cookie.len());
    let (name, value) = cookie.split_at_checked(at).unwrap_or((cookie, b""));
    (name.trim_ascii(), value.strip_prefix(b"=").unwrap_or_default().trim_ascii())
}

/// Every cookie of the request: its name, and all of it as it is written, but for the one space that stands behind a semicolon. A reader that
/// takes other spaces for a part of names or values is told something else by `a =1` than by `a=1`.
pub fn cookies_of(head: &RequestHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    let written = head.header_all("cookie").flat_map(|line| {
        let cookies = line.split(|&byte| byte == b';').enumerate();
        cookies.map(|(at, cookie)| cookie.strip_prefix(b" ").filter(|_| at > 0).unwrap_or(cookie))
    });
    written.filter(|cookie| !cookie.trim_ascii().is_empty()).map(|cookie| (cookie_pair(cookie).0, cookie))
}

/// The cookies of a field's value, without those whose names are `dropped`.
pub fn kept_cookies(field: &[u8], dropped: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let cookies = field.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let kept: Vec<&[u8]> = cookies.filter(|cookie| !cookie.is_empty() && !dropped(cookie_pair(cookie).0)).collect();
    kept.join(&b"; "[..])
}

/// The values of every cookie called `name`.
pub fn cookie_values<'a>(head: &'a RequestHead, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    cookies(head).map(cookie_pair).filter(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
}

/// What the `Cookie` field has to become so that no cookie of these names goes upstream; the others stay as they are and in order.
/// `None` if there is nothing to change.
pub fn strip_cookies(head: &RequestHead, names: &[Arc<str>]) -> Option<HeaderEdit> {
    let credential = |cookie: &&[u8]| names.iter().any(|name| cookie_pair(cookie).0 == name.as_bytes());
    if names.is_empty() || !cookies(head).any(|cookie| credential(&cookie)) {
        return None;
    }
    let kept: Vec<&[u8]> = cookies(head).filter(|cookie| !cookie.is_empty() && !credential(cookie)).collect();
    Some(match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !kept.is_empty() => HeaderEdit::Set(header::COOKIE, value),
        _ => HeaderEdit::Remove(header::COOKIE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_only_what_it_should() {
        for (query, kept) in [
            ("key=s", ""),
            ("a=1&key=s&b=2", "a=1&b=2"),
            ("key=s&a=%20+&key=t", "a=%20+"),
            ("%6bey=s&k%65y&keys=1", "keys=1"),
            ("a&&b", "a&&b"),
            ("key", ""),
            ("Key=1&a=key", "Key=1&a=key"),
            ("a=1&%zz=%&ke%79=x", "a=1&%zz=%"),
        ] {
            assert_eq!(strip_query_param(query, "key"), kept, "{query}");
        }
    }

    #[test]
    fn what_is_no_escape_stands_for_itself() {
        assert_eq!(lossy(decode("a+b%20c%2541")), "a b c%41");
        assert_eq!(lossy(decode_escapes("a+b%zz%4")), "a+b%zz%4");
        assert_eq!(lossy(decode_escapes("%+1%-1% 1%c3%A4%ff")), "%+1%-1% 1\u{e4}\u{fffd}", "digits have no sign");
        let values: Vec<_> = query_values("a=1&b=2&%61=3&a", "a").map(lossy).collect();
        assert_eq!(values, ["1", "3", ""]);
    }

    #[test]
    fn finds_and_strips_cookies() {
        let head = RequestHead::build("GET", "/", &[("Cookie", "a=1; t = x=y ;; b"), ("x", "y"), ("cookie", "t=2;c=\"3\"")]);
        assert_eq!(cookie_values(&head, "t").collect::<Vec<_>>(), [&b"x=y"[..], b"2"]);
        assert_eq!(cookie_values(&head, "T").count(), 0);
        match strip_cookies(&head, &["t".into()]) {
            Some(HeaderEdit::Set(name, value)) => assert_eq!((name, value.as_bytes()), (header::COOKIE, &b"a=1; b; c=\"3\""[..])),
            other => panic!("{other:?}"),
        }
        assert!(strip_cookies(&head, &["x".into()]).is_none() && strip_cookies(&head, &[]).is_none());
        let only = RequestHead::build("GET", "/", &[("cookie", "t=2")]);
        assert!(matches!(strip_cookies(&only, &["t".into()]), Some(HeaderEdit::Remove(_))));
    }
}
