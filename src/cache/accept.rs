//! What clients accept, in as few words as matter: `Accept-Encoding` and `Accept-Language`, each cut down to a list of the route's, so that
//! those who would get the same answer ask for it in the same way.
//!
//! The service is asked in these words as well, so what it answers is an answer to them, and to everybody whose words they are.

use http::HeaderValue;
use http::header::{self, HeaderName};

use super::Extra;
use super::control::list_of;
use crate::carrier;
use crate::head::{HeaderEdit, HeaderEdits, RequestHead, weighed};

/// How the service is asked instead of how the client asks: in words that many share, and without cookies that are nothing to it. What
/// another policy says is left alone.
pub fn ask(extra: &Extra, head: &RequestHead, edits: &mut HeaderEdits) {
    if !extra.is_for(&head.method) {
        return;
    }
    let is_left = |edits: &HeaderEdits, name: &HeaderName| !edits.iter().any(|edit| edit.name() == name);
    if let Some(known) = &extra.accept_encoding
        && is_left(edits, &header::ACCEPT_ENCODING)
        && let Some(codings) = encodings(head.header_all("accept-encoding"), known)
    {
        edits.push(instead(header::ACCEPT_ENCODING, Some(codings.as_bytes())));
    }
    if let Some(known) = &extra.accept_language
        && is_left(edits, &header::ACCEPT_LANGUAGE)
    {
        let chosen = language(head.header_all("accept-language"), known);
        edits.push(instead(header::ACCEPT_LANGUAGE, chosen.map(str::as_bytes)));
    }
    if !extra.drop_cookies.is_empty() {
        // A credential among them may have been taken out already.
        let field = match edits.iter().rev().find(|edit| *edit.name() == header::COOKIE) {
            Some(HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value)) => value.as_bytes().to_vec(),
            Some(HeaderEdit::Remove(_)) => Vec::new(),
            None => head.header_all("cookie").collect::<Vec<_>>().join(&b"; "[..]),
        };
        let kept = carrier::kept_cookies(&field, |name| extra.drop_cookies.have(name));
        if kept != field {
            edits.push(instead(header::COOKIE, Some(&*kept).filter(|kept| !kept.is_empty())));
        }
    }
}

fn instead(name: HeaderName, value: Option<&[u8]>) -> HeaderEdit {
    match value.and_then(|value| HeaderValue::from_bytes(value).ok()) {
        Some(value) => HeaderEdit::Set(name, value),
        None => HeaderEdit::Remove(name),
    }
}

/// The codings of the list that are accepted, in the list's order; `identity` if there are none. `None` where that would not do: the client
/// refuses to have it uncoded.
pub fn encodings<'a>(lines: impl IntoIterator<Item = &'a [u8]>, known: &[Box<str>]) -> Option<String> {
    let asked: Vec<(&[u8], u16)> = lines.into_iter().flat_map(list_of).map(weighed).collect();
    let said = |name: &str| {
        let is = |(coding, _): &&(&[u8], u16)| {
            coding.eq_ignore_ascii_case(name.as_bytes()) || name == "gzip" && coding.eq_ignore_ascii_case(b"x-gzip")
        };
        asked.iter().find(is).map(|(_, weight)| *weight)
    };
    let any = said("*");
    if said("identity").or(any.filter(|weight| *weight == 0)) == Some(0) {
        return None;
    }
    let accepted = |name: &&str| said(name).or(any).is_some_and(|weight| weight > 0);
    let accepted: Vec<&str> = known.iter().map(|name| &**name).filter(accepted).collect();
    Some(if accepted.is_empty() { "identity".to_owned() } else { accepted.join(", ") })
}

/// The language of the list that suits best (RFC 4647): by weight, then by the client's order. `None` if none does.
pub fn language<'a, 'k>(lines: impl IntoIterator<Item = &'a [u8]>, known: &'k [Box<str>]) -> Option<&'k str> {
    let mut asked: Vec<(&[u8], u16)> = lines.into_iter().flat_map(list_of).map(weighed).collect();
    asked.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let refused = |name: &str| asked.iter().any(|(range, weight)| *weight == 0 && range.eq_ignore_ascii_case(name.as_bytes()));
    // Once: a client may ask for thousands.
    let able: Vec<&str> = known.iter().map(|name| &**name).filter(|name| !refused(name)).collect();
    let able = || able.iter().copied();
    asked.iter().filter(|(_, weight)| *weight > 0).find_map(|(range, _)| {
        if *range == b"*" {
            return able().next();
        }
        // `de-CH-1996`, `de-CH`, `de`.
        let mut shorter = Some(*range);
        while let Some(range) = shorter {
            if let Some(found) = able().find(|name| name.as_bytes().eq_ignore_ascii_case(range)) {
                return Some(found);
            }
            shorter = memchr::memrchr(b'-', range).and_then(|at| range.get(..at));
        }
        // `pt`, where there is but `pt-BR`.
        able().find(|name| {
            let head = name.as_bytes().get(..range.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(range)) && name.as_bytes().get(range.len()) == Some(&b'-')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn codings_are_cut_down_to_those_that_matter() {
        let known = list(&["br", "gzip"]);
        for (asked, expected) in [
            ("", Some("identity")),
            ("gzip", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("br, gzip")),
            ("deflate;q=1, GZIP;q=0.5", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("zstd", Some("identity")),
            ("gzip;q=0, br", Some("br")),
            ("gzip;q=0.000", Some("identity")),
            ("gzip;q=x", Some("identity")),
            ("*", Some("br, gzip")),
            ("br;q=0, *", Some("gzip")),
            ("gzip, *;q=0", None),
            ("gzip, identity;q=0", None),
            ("gzip, identity, *;q=0", Some("gzip")),
        ] {
            assert_eq!(encodings([asked.as_bytes()], &known).as_deref(), expected, "{asked}");
        }
        assert_eq!(encodings([&b"br"[..], b"gzip"], &known).as_deref(), Some("br, gzip"));
        assert_eq!(encodings([], &known).as_deref(), Some("identity"));
        assert_eq!(encodings([&b"gzip"[..]], &[]).as_deref(), Some("identity"));
    }

    #[test]
    fn one_language_of_the_list_is_chosen() {
        let known = list(&["en", "de", "pt-BR"]);
        for (asked, expected) in [
            ("", None),
            ("de", Some("de")),
            ("DE-ch, en;q=0.9", Some("de")),
            ("en;q=0.8, de;q=0.9", Some("de")),
            ("fr, de;q=0.5, en;q=0.4", Some("de")),
            ("fr", None),
            ("fr, *;q=0.1", Some("en")),
            ("en;q=0, *", Some("de")),
            ("pt", Some("pt-BR")),
            ("pt-PT", None),
            ("p", None),
            ("de;q=0", None),
            ("de;q=2", None),
            ("de;q=1.000, en;q=0.999", Some("de")),
        ] {
            assert_eq!(language([asked.as_bytes()], &known), expected, "{asked}");
        }
    }
}
