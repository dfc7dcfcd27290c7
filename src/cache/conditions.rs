//! The conditions of a request, held against an answer (RFC 9110, section 13).

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use pingora_core::protocols::http::conditional_filter::not_modified_filter;
use pingora_http::{RequestHeader, ResponseHeader};

use super::date;

/// Whether a client has a stored answer already: `If-None-Match`, or else `If-Modified-Since` (section 13.2.2). One without `Last-Modified` is as
/// old as its `Date` (RFC 9111, section 4.3.2). A date that is none, or two of them, say nothing (section 13.1.3).
pub(super) fn is_unchanged(asked: &RequestHeader, stored: &ResponseHeader) -> bool {
    let dated = stored.headers.contains_key(header::LAST_MODIFIED);
    is_met(asked, stored, if dated { &header::LAST_MODIFIED } else { &header::DATE })
}

/// The same of one that has just come: when it was made says nothing of when it was changed.
pub fn is_unchanged_anew(asked: &RequestHeader, answer: &ResponseHeader) -> bool {
    is_met(asked, answer, &header::LAST_MODIFIED)
}

fn is_met(asked: &RequestHeader, answer: &ResponseHeader, dated: &HeaderName) -> bool {
    if answer.status != StatusCode::OK {
        return false;
    }
    if asked.headers.contains_key(header::IF_NONE_MATCH) {
        // Of an answer without a tag, too, any is a match.
        let any = |value: &http::HeaderValue| value.as_bytes().trim_ascii() == b"*";
        return asked.headers.get_all(header::IF_NONE_MATCH).iter().any(any) || not_modified_filter(asked, answer);
    }
    let changed = || date_of(&answer.headers, dated);
    matches!(asked.method, Method::GET | Method::HEAD)
        && date_of(&asked.headers, &header::IF_MODIFIED_SINCE)
            .is_some_and(|since| changed().is_some_and(|changed| changed <= since))
}

/// Whether `If-Range` lets a client have a part (section 13.1.5): one that it puts to those that it has, so that only a strong validator will
/// do. What is neither the tag nor the date of this very answer is left to who compares them.
pub(super) fn may_be_part(asked: &RequestHeader, answer: &ResponseHeader) -> bool {
    let mut said = asked.headers.get_all(header::IF_RANGE).iter();
    let Some(first) = said.next() else { return true };
    let is_date = !first.as_bytes().ends_with(b"\"");
    said.next().is_none() && !first.as_bytes().starts_with(b"W/") && (!is_date || is_strong_date(answer))
}

/// Whether nothing can have changed in the second of an answer's last change (section 8.8.2.2).
fn is_strong_date(answer: &ResponseHeader) -> bool {
    let dates = date_of(&answer.headers, &header::LAST_MODIFIED).zip(date_of(&answer.headers, &header::DATE));
    dates.is_some_and(|(changed, made)| made.duration_since(changed).is_ok_and(|since| since >= Duration::from_secs(1)))
}

/// That of the one field of that name.
fn date_of(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut said = headers.get_all(name).iter();
    let (first, None) = (said.next()?, said.next()) else { return None };
    date::parse(first.as_bytes(), SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const AGES_AGO: &str = "Sat, 05 Nov 1994 08:49:37 GMT";

    fn answer(fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        fields.iter().for_each(|(name, value)| {
            answer.append_header(*name, *value).unwrap();
        });
        answer
    }

    fn asked(fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut asked = RequestHeader::build("GET", b"/", None).unwrap();
        fields.iter().for_each(|(name, value)| {
            asked.append_header(*name, *value).unwrap();
        });
        asked
    }

    #[test]
    fn a_client_has_it_already() {
        let (none, since) = ("if-none-match", "if-modified-since");
        let (tagged, dated, made) =
            (answer(&[("etag", "W/\"v\"")]), answer(&[("last-modified", THEN)]), answer(&[("date", THEN)]));
        for (conditions, answer, is) in [
            (&[(none, "\"v\"")][..], &tagged, true),
            (&[(none, "\"a\", W/\"v\"")], &tagged, true),
            (&[(none, "\"a\""), (none, "\"v\"")], &tagged, true),
            (&[(none, "\"V\"")], &tagged, false),
            (&[(none, "*")], &tagged, true),
            (&[(none, "*")], &made, true),
            (&[(none, "\"v\"")], &made, false),
            (&[(none, "\"a\""), (since, THEN)], &dated, false),
            (&[(since, THEN)], &dated, true),
            (&[(since, LATER)], &dated, true),
            (&[(since, AGES_AGO)], &dated, false),
            (&[(since, "Sunday, 06-Nov-94 08:49:37 GMT")], &dated, true),
            (&[(since, "yesterday")], &dated, false),
            (&[(since, THEN), (since, THEN)], &dated, false),
            (&[(since, THEN)], &made, true),
            (&[(since, AGES_AGO)], &made, false),
            (&[(since, THEN)], &tagged, false),
        ] {
            assert_eq!(is_unchanged(&asked(conditions), answer), is, "{conditions:?} {answer:?}");
        }
        assert!(!is_unchanged_anew(&asked(&[(since, LATER)]), &made) && is_unchanged_anew(&asked(&[(since, LATER)]), &dated));
        let mut post = asked(&[(since, THEN)]);
        post.set_method(Method::POST);
        assert!(!is_unchanged(&post, &dated));
    }

    #[test]
    fn only_a_strong_validator_makes_a_part() {
        let dated = answer(&[("last-modified", THEN), ("date", LATER)]);
        let just_changed = answer(&[("last-modified", THEN), ("date", THEN)]);
        for (said, answer, may) in [
            (&[][..], &dated, true),
            (&[("if-range", "\"v\"")], &dated, true),
            (&[("if-range", "W/\"v\"")], &dated, false),
            (&[("if-range", "\"v\""), ("if-range", "\"v\"")], &dated, false),
            (&[("if-range", THEN)], &dated, true),
            (&[("if-range", THEN)], &just_changed, false),
            (&[("if-range", THEN)], &answer(&[]), false),
        ] {
            assert_eq!(may_be_part(&asked(said), answer), may, "{said:?} {answer:?}");
        }
    }
}
