//! A path that was not written as it is matched, or that a backend may read otherwise.

use schemars::JsonSchema;
use serde::Deserialize;

use std::borrow::Cow;

/// What happens to a path that a backend may read otherwise than the gateway: one with an encoded slash or backslash (`%2F`, `%5C`), a
/// path parameter (`;x=1`, `%3B`) or something encoded twice (`%252F`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AmbiguousPaths {
    /// It is kept and sent as it came where that makes no difference (`@scope%2fname`), and refused (400, `ambiguous_path`) where another
    /// reading of it would take another route, or none, or could meet another decision of a policy that looks at the path.
    #[default]
    Auto,
    /// It is refused (400, `ambiguous_path`), and so is one with an empty segment (`//`).
    Refuse,
    /// It is kept and sent as it came, whatever a backend may take it for.
    Keep,
}

/// How a listener or a route takes paths that could be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handling {
    pub ambiguous: AmbiguousPaths,
    /// Whether the backend is sent one slash where the client wrote several.
    pub merge_slashes: bool,
}

/// What there is to know of a path beside its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// As the client wrote it, byte for byte.
    pub raw: String,
    /// Dot segments resolved and needless escapes decoded, but empty segments and the digits of escapes as the client wrote them. Its
    /// segments are those of the canonical path, if the empty ones are left out of account.
    pub(super) written: String,
    /// Whether [`super::readings()`] finds any.
    pub ambiguous: bool,
    /// Whether several slashes stand together.
    pub empty_segments: bool,
    /// A `..` stands behind an empty segment: with slashes merged it leads elsewhere than without.
    pub climbs_over_nothing: bool,
}

impl Spelling {
    /// As the client wrote it, unless it has dot segments: those the gateway resolves, and nobody else is believed to have meant the same.
    pub fn without_dots(&self) -> Option<&str> {
        let slashes = |path: &str| path.bytes().filter(|byte| *byte == b'/').count();
        (slashes(&self.raw) == slashes(&self.written)).then_some(&*self.raw)
    }

    /// What a backend is sent if its route rewrites nothing.
    pub fn sent(&self, merge_slashes: bool) -> Cow<'_, str> {
        if !(merge_slashes && self.empty_segments) {
            return Cow::Borrowed(&self.written);
        }
        let mut merged = String::with_capacity(self.written.len());
        for character in self.written.chars() {
            if !(character == '/' && merged.ends_with('/')) {
                merged.push(character);
            }
        }
        Cow::Owned(merged)
    }
}

#[cfg(test)]
mod tests {
    use crate::path::read;

    #[test]
    fn only_a_path_that_is_spelled_or_read_otherwise_has_one() {
        for raw in ["/", "/a/b.c/@d:e", "/a%20b", "/caf%C3%A9"] {
            assert_eq!(read(raw).unwrap(), (raw.to_owned(), None), "{raw}");
        }
        for (raw, path, ambiguous) in [
            ("/%61", "/a", false),
            ("/caf%c3%a9", "/caf%C3%A9", false),
            ("//a", "/a", false),
            ("/a%2fb", "/a%2Fb", true),
            ("/a%5Cb", "/a%5Cb", true),
            ("/a;b", "/a;b", true),
            ("/a%3Bb", "/a%3Bb", true),
            ("/a%2541", "/a%2541", true),
        ] {
            let (read, spelling) = read(raw).unwrap();
            let spelling = spelling.unwrap_or_else(|| panic!("{raw} has a spelling"));
            assert_eq!((read.as_str(), spelling.ambiguous, spelling.raw.as_str()), (path, ambiguous, raw));
        }
    }

    #[test]
    fn what_is_kept_is_sent_as_it_came() {
        for (raw, merged, kept) in [
            ("/@scope%2fname", "/@scope%2fname", "/@scope%2fname"),
            ("/%40scope%2Fname", "/@scope%2Fname", "/@scope%2Fname"),
            ("/a//b", "/a/b", "/a//b"),
            ("//a//", "/a/", "//a//"),
            ("/fetch/https://x/y", "/fetch/https:/x/y", "/fetch/https://x/y"),
            ("/a;x=1/b%3bc", "/a;x=1/b%3bc", "/a;x=1/b%3bc"),
            ("/a/./b/../c//", "/a/c/", "/a/c//"),
            ("/%7ea/caf%c3%A9", "/~a/caf%c3%A9", "/~a/caf%c3%A9"),
        ] {
            let spelling = read(raw).unwrap().1.unwrap();
            assert_eq!((&*spelling.sent(true), &*spelling.sent(false)), (merged, kept), "{raw}");
            assert!(!spelling.climbs_over_nothing, "{raw}");
        }
        assert!(read("/a//../b").unwrap().1.unwrap().climbs_over_nothing);
    }
}
