//! What people write for hosts and paths, taken apart and made canonical.

use std::fmt;
use std::sync::Arc;

use crate::authority;
use crate::path;

/// The most segments of a path pattern. Bounds the depth of the tree that patterns are kept in, and with it the work and the stack
/// of a lookup, whatever a client sends.
const MOST_SEGMENTS: usize = 64;

/// The longest host name in bytes (RFC 1035, section 2.3.4).
pub(super) const LONGEST_HOST: usize = 253;

/// A host or a family of hosts. Ordered as ids list them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Lower case.
    Exact(Box<str>),
    /// What follows `*.`, in lower case: `example.com` for `*.example.com`, which does not match `example.com` itself.
    Wildcard(Box<str>),
    Any,
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        if text.is_empty() || text.len() > LONGEST_HOST {
            return Err(format!("a host name has 1 to {LONGEST_HOST} characters"));
        }
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if name.starts_with('[') {
            if !name.ends_with(']') {
                return Err("a port does not belong in a route's host".to_owned());
            }
            let address = authority::canonical(name.as_bytes()).ok_or("this is not an IPv6 address")?;
            return Ok(HostPattern::Exact(address.host().into()));
        }
        let (wildcard, name) = name.strip_prefix("*.").map_or((false, name), |suffix| (true, suffix));
        if name.contains(':') {
            return Err("a port does not belong in a route's host".to_owned());
        }
        if name.contains('*') {
            return Err("a star stands for the leftmost labels only, as in *.example.com".to_owned());
        }
        let label_is_good = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(label_is_good) {
            return Err("a host name consists of labels of letters, digits and hyphens (xn--... for others)".to_owned());
        }
        Ok(if wildcard { HostPattern::Wildcard(name.into()) } else { HostPattern::Exact(name.into()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

/// One segment of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Canonical. Empty only as the last one: `/a/` is `a` and an empty segment.
    Static(Box<str>),
    /// One non-empty segment, by this name.
    Param(Arc<str>),
}

/// A path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathPattern {
    pub segments: Vec<Segment>,
    /// Whether `/*` follows the segments.
    pub prefix: bool,
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let relative = text.strip_prefix('/').ok_or_else(|| match text.starts_with(['~', '^', '=']) {
            true => "a path begins with a slash; there are no regular expressions, but `/x/{id}` and `/x/*`",
            false => "a path begins with a slash",
        })?;
        if let Some(before) = text.strip_suffix("/**") {
            return Err(format!("a prefix is written with one star: {before}/*"));
        }
        let (relative, prefix) = match relative.strip_suffix('*') {
            Some("") => return Ok(PathPattern { segments: Vec::new(), prefix: true }),
            Some(rest) => (rest.strip_suffix('/').ok_or("a star stands for whole segments: write /x/*, not /x*")?, true),
            None => (relative, false),
        };
        let mut segments = Vec::new();
        let mut pieces = relative.split('/').peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            segments.push(segment(piece, last && !prefix, &segments)?);
        }
        if segments.len() > MOST_SEGMENTS {
            return Err(format!("a path has at most {MOST_SEGMENTS} segments"));
        }
        Ok(PathPattern { segments, prefix })
    }

    /// The parameters' names, from left to right.
    pub(super) fn params(&self) -> impl Iterator<Item = &Arc<str>> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name),
            Segment::Static(_) => None,
        })
    }

    /// The path, if there is only one that matches.
    pub(super) fn exact(&self) -> Option<String> {
        let plain = !self.prefix && self.params().next().is_none();
        plain.then(|| self.to_string())
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Static(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
            }
        }
        if self.prefix { f.write_str("/*") } else { Ok(()) }
    }
}

fn segment(piece: &str, may_be_empty: bool, before: &[Segment]) -> Result<Segment, String> {
    if piece.is_empty() {
        let problem = "an empty segment matches nothing: requests' slashes are merged";
        return if may_be_empty { Ok(Segment::Static("".into())) } else { Err(problem.to_owned()) };
    }
    if let Some(name) = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}')) {
        check_param_name(name)?;
        let known = before.iter().any(|segment| matches!(segment, Segment::Param(known) if **known == *name));
        return if known { Err(format!("the parameter {{{name}}} stands here twice")) } else { Ok(Segment::Param(name.into())) };
    }
    if piece.contains(['{', '}', '*']) {
        return Err(format!(
            "`{piece}` is neither a plain segment nor a parameter: {{name}} and a final * stand for whole segments"
        ));
    }
    static_segment(piece).map(Segment::Static)
}

/// Letters, digits, `_` and `-`.
fn check_param_name(name: &str) -> Result<(), String> {
    let good = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if good { Ok(()) } else { Err(format!("`{name}` is no name for a parameter: letters, digits, _ and - are allowed")) }
}

/// The canonical spelling of one segment. Raw letters that are not ASCII are taken for UTF-8 and encoded.
pub(super) fn static_segment(piece: &str) -> Result<Box<str>, String> {
    if piece.contains(['?', '#']) {
        return Err("a path holds no query; match parameters with `query`".to_owned());
    }
    let mut raw = vec![b'/'];
    for &byte in piece.as_bytes() {
        if byte.is_ascii() { raw.push(byte) } else { path::push_escape(byte, &mut raw) }
    }
    let canonical = path::normalise(&raw).map_err(|problem| problem.detail().to_owned())?;
    match canonical.strip_prefix('/') {
        Some(segment) if !segment.is_empty() => Ok(segment.into()),
        _ => Err("dot segments never reach a route: they are resolved before".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_canonical() {
        for (text, expected) in [
            ("/", "/"),
            ("/*", "/*"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/*", "/a/*"),
            ("/a/{p}/b", "/a/{p}/b"),
            ("/%61%2fb", "/a%2Fb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/{p}/*", "/{p}/*"),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_paths_that_mislead() {
        for text in [
            "",
            "a",
            "*",
            "/a*",
            "/a/*/b",
            "/a//b",
            "//",
            "/a//*",
            "/{p}/{p}",
            "/{}",
            "/{a b}",
            "/x{p}",
            "/{p}.json",
            "/a/../b",
            "/.",
            "/..",
            "/%",
            "/a b",
            "/a?b=c",
            "/..;/a",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
        assert!(PathPattern::parse(&"/a".repeat(64)).is_ok());
        assert!(PathPattern::parse(&"/a".repeat(65)).is_err());
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("*", "*"),
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("*.Example.com", "*.example.com"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in
            ["", ".", "a..b", "a.*.b", "*a.b", "**", "*.", "a:80", "[::1]:80", "[x]", "a b", "b\u{fc}cher.example", "http://a"]
        {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
