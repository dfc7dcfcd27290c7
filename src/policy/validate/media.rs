//! Media types (RFC 9110, section 8.3.1), the patterns that a configuration writes for them, and what clients say of them (`Accept`).

use http::HeaderValue;

use crate::head::{RequestHead, weighed};
use crate::wire::streams::is_stream;

/// How one asks for an answer without a coding: whoever says nothing takes any (RFC 9110, section 12.5.3).
pub const UNCODED: HeaderValue = HeaderValue::from_static("identity");

/// A `Content-Type` that was understood. Type and subtype are compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType<'a> {
    pub kind: &'a str,
    pub subtype: &'a str,
    parameters: &'a str,
}

/// Whether a body of this type is one document of JSON, in UTF-8.
pub fn is_json_document(kind: &[u8]) -> bool {
    !is_stream(kind) && MediaType::parse(kind).is_some_and(|media| media.is_json() && media.is_utf8())
}

impl<'a> MediaType<'a> {
    /// `None` if this is not a media type.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (kind, subtype) = essence.trim_end_matches([' ', '\t']).split_once('/')?;
        (is_token(kind) && is_token(subtype)).then_some(MediaType { kind, subtype, parameters })
    }

    /// `application/json`, or any type whose subtype ends in `+json` (RFC 6839, section 3.1).
    pub fn is_json(&self) -> bool {
        (self.kind.eq_ignore_ascii_case("application") && self.subtype.eq_ignore_ascii_case("json"))
            || suffix(self.subtype).is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
    }

    /// `application/xml`, `text/xml`, or any type whose subtype ends in `+xml` (RFC 7303).
    pub fn is_xml(&self) -> bool {
        self.is("application", "xml")
            || self.is("text", "xml")
            || suffix(self.subtype).is_some_and(|suffix| suffix.eq_ignore_ascii_case("xml"))
    }

    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind) && self.subtype.eq_ignore_ascii_case(subtype)
    }

    /// The value of a parameter, unquoted, where nobody can read it otherwise: all parameters are understood, and no other one begins with that name (`boundary`, `boundary*`).
    pub fn only_parameter(&self, wanted: &str) -> Option<&'a str> {
        let (mut rest, mut found) = (self.parameters, None);
        while let Some((name, value, after)) = parameter(rest) {
            let begins = name.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
            if begins && (name.len() > wanted.len() || found.replace(value).is_some()) {
                return None;
            }
            rest = after;
        }
        found.filter(|_| rest.trim_matches([' ', '\t', ';']).is_empty())
    }

    /// Whether there is no `charset`, or one that says UTF-8. Parameters that are not understood count as another charset.
    pub fn is_utf8(&self) -> bool {
        let mut rest = self.parameters;
        while let Some((name, value, after)) = parameter(rest) {
            if name.eq_ignore_ascii_case("charset")
                && !(value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8"))
            {
                return false;
            }
            rest = after;
        }
        rest.trim_matches([' ', '\t', ';']).is_empty()
    }
}

/// The next `name=value` or `name="value"`, and what follows its semicolon.
fn parameter(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.trim_start_matches([' ', '\t', ';']).split_once('=')?;
    if !is_token(name) {
        return None;
    }
    let (value, after) = match rest.strip_prefix('"') {
        // A quoted pair in a parameter is legal and never seen: it is not understood, hence refused.
        Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.contains('\\'))?,
        None => rest.split_at(rest.find([' ', '\t', ';']).unwrap_or(rest.len())),
    };
    let after = after.trim_start_matches([' ', '\t']);
    (after.is_empty() || after.starts_with(';')).then_some((name, value, after))
}

fn suffix(subtype: &str) -> Option<&str> {
    subtype.rsplit_once('+').map(|(_, suffix)| suffix)
}

pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What a configuration takes: `application/json`, `application/*`, `*/*+json`, `application/*+json` or `*/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// `None`: any.
    kind: Option<String>,
    subtype: Subtype,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subtype {
    Any,
    Suffix(String),
    Exact(String),
}

impl Pattern {
    /// `None` if this is none of the forms above.
    pub fn parse(text: &str) -> Option<Self> {
        let media = MediaType::parse(text.as_bytes())?;
        if media.parameters.is_empty() { Pattern::new(&media) } else { None }
    }

    /// The same of one that may have parameters, which say nothing here.
    pub fn of(text: &str) -> Option<Self> {
        Pattern::new(&MediaType::parse(text.as_bytes())?)
    }

    fn new(MediaType { kind, subtype, .. }: &MediaType<'_>) -> Option<Self> {
        let subtype = match subtype.strip_prefix('*') {
            Some("") => Subtype::Any,
            Some(rest) => Subtype::Suffix(rest.strip_prefix('+').filter(|suffix| !suffix.is_empty())?.to_owned()),
            None => Subtype::Exact((*subtype).to_owned()),
        };
        let kind = (*kind != "*").then(|| (*kind).to_owned());
        let stray = |text: &str| text.contains('*');
        let strays =
            kind.as_deref().is_some_and(stray) || matches!(&subtype, Subtype::Suffix(text) | Subtype::Exact(text) if stray(text));
        // `*/json` is no media range.
        let headless = kind.is_none() && matches!(subtype, Subtype::Exact(_));
        (!strays && !headless).then_some(Pattern { kind, subtype })
    }

    /// How much of a type it says: the more, the sooner it is meant.
    pub fn rank(&self) -> u8 {
        let subtype = match &self.subtype {
            Subtype::Exact(_) => 4,
            Subtype::Suffix(_) => 2,
            Subtype::Any => 0,
        };
        subtype + u8::from(self.kind.is_some())
    }

    /// Whether types of JSON are among what it takes.
    pub fn takes_json(&self) -> bool {
        match &self.subtype {
            Subtype::Any => self.kind.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("application")),
            Subtype::Suffix(suffix) => suffix.eq_ignore_ascii_case("json"),
            Subtype::Exact(subtype) => {
                let kind = self.kind.as_deref().unwrap_or_default();
                MediaType { kind, subtype, parameters: "" }.is_json()
            }
        }
    }

    pub fn matches(&self, media: &MediaType<'_>) -> bool {
        self.kind.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case(media.kind))
            && match &self.subtype {
                Subtype::Any => true,
                Subtype::Suffix(wanted) => suffix(media.subtype).is_some_and(|suffix| suffix.eq_ignore_ascii_case(wanted)),
                Subtype::Exact(subtype) => subtype.eq_ignore_ascii_case(media.subtype),
            }
    }
}

/// How much a client likes a media type, in thousandths: what its `Accept` says of the most special range that has it in it (RFC 9110, section
/// 12.5.1). Nothing at all, where it says nothing.
pub fn preference(head: &RequestHead, media_type: &str) -> u16 {
    let mut found = (0, 0);
    for (range, weight) in ranges(head) {
        let special = if range.eq_ignore_ascii_case(media_type.as_bytes()) {
            3
        } else if range == b"*/*" {
            1
        } else if let Some(kind) = range.strip_suffix(b"/*")
            && media_type.split('/').next().is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(kind))
        {
            2
        } else {
            continue;
        };
        if special > found.0 {
            found = (special, weight);
        }
    }
    found.1
}

/// The members of `Accept`, each with its weight.
pub fn ranges(head: &RequestHead) -> impl Iterator<Item = (&[u8], u16)> {
    head.header_all("accept").flat_map(|field| field.split(|&byte| byte == b',')).map(weighed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(text: &str) -> Option<MediaType<'_>> {
        MediaType::parse(text.as_bytes())
    }

    #[test]
    fn reads_media_types() {
        assert!(media(" Application/JSON ; charset=utf-8").unwrap().is_json());
        assert!(media("application/problem+json").unwrap().is_json());
        assert!(media("model/gltf+JSON").unwrap().is_json());
        for text in ["application/jsonx", "text/json", "application/json+xml", "application/x-json"] {
            assert!(!media(text).unwrap().is_json(), "{text}");
        }
        for text in ["", "json", "/json", "application/", "application /json", "a/b/c", "a/b, c/d", "\u{e9}/a"] {
            assert_eq!(media(text), None, "{text}");
        }
    }

    #[test]
    fn only_utf8_is_utf8() {
        for text in
            ["a/b", "a/b;", "a/b; charset=UTF-8", "a/b;charset=\"utf-8\" ; v=1", "a/b; v=\"a;charset=latin1\"", "a/b;;v=1"]
        {
            assert!(media(text).unwrap().is_utf8(), "{text}");
        }
        for text in [
            "a/b; charset=latin1",
            "a/b; v=1; CHARSET=utf-16",
            "a/b;charset=utf-8;charset=utf-7",
            "a/b; charset",
            "a/b;charset=\"utf-8",
            "a/b; charset = utf-16",
        ] {
            assert!(!media(text).unwrap().is_utf8(), "{text}");
        }
    }

    #[test]
    fn a_boundary_is_one() {
        let boundary = |text| media(text).unwrap().only_parameter("boundary");
        for text in ["a/b; boundary=x", "a/b;charset=utf-8; BOUNDARY=\"x\" ;"] {
            assert_eq!(boundary(text), Some("x"), "{text}");
        }
        for text in [
            "a/b",
            "a/b; boundary=x; boundary=y",
            "a/b; boundary=x; boundary*=utf-8''y",
            "a/b; boundary*0=x",
            "a/b; boundary=x; y",
            "a/b; boundary=x y; z=1",
        ] {
            assert_eq!(boundary(text), None, "{text}");
        }
    }

    #[test]
    fn patterns_take_json_or_not() {
        for (pattern, takes) in [
            ("application/json", true),
            ("application/vnd.a+json", true),
            ("application/*", true),
            ("*/*", true),
            ("*/*+json", true),
            ("image/*", false),
            ("text/csv", false),
            ("*/*+xml", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().takes_json(), takes, "{pattern}");
        }
    }

    #[test]
    fn patterns_match_what_they_say() {
        let matches = |pattern: &str, text: &str| Pattern::parse(pattern).unwrap().matches(&media(text).unwrap());
        assert!(matches("application/json", "Application/Json;charset=utf-8"));
        assert!(!matches("application/json", "application/problem+json"));
        assert!(matches("application/*", "application/xml") && !matches("application/*", "text/xml"));
        assert!(matches("*/*+json", "a/b+json") && !matches("*/*+json", "application/json"));
        assert!(matches("application/*+json", "application/b+json") && !matches("application/*+json", "a/b+json"));
        assert!(matches("*/*", "a/b"));
        for pattern in ["*", "*/json", "app*/json", "application/*json", "application/*+", "a/b;c=d", "", "a/**", "a/*+*"] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern}");
        }
    }
}
