//! The one spelling of a request's path.
//!
//! The same bytes are matched, authorised, cached and forwarded, so every spelling of a path that a backend could take for the same
//! resource has to become one, or be refused, before anything looks at it. [`normalise`] does that for the path (RFC 3986, section
//! 6.2.2), [`check_query`] holds the query to bytes that no parser disagrees about.
//!
//! Whether an encoded slash separates, or `;` begins a parameter, is the backend's secret: these stay as they were written, and
//! [`readings()`] says what else they could mean, so that a path is only let through where it makes no difference ([`Spelling`]).
//!
//! Deliberately not here: the length bound (the door's), `OPTIONS *` and absolute-form targets (the door takes them apart), and which
//! route a reading takes.

mod made;
mod readings;
mod spelling;

use std::borrow::Cow;
use std::fmt;

pub use made::{Made, push_value, value};
pub use readings::{TooMany, is_ambiguous, readings};
pub use spelling::{AmbiguousPaths, Handling, Spelling};

/// Why a path or a query is refused. Nothing here repeats what the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathProblem {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A `%` without two hexadecimal digits.
    BadEscape,
    /// A zero byte, raw or as `%00`: programs written in C end the path there.
    Nul,
    /// A raw control byte.
    Control,
    /// A raw byte over 0x7F.
    NotAscii,
    /// A raw space or tab.
    Whitespace,
    /// A raw `#` (or, in a path, a `?`): the target was cut in the wrong place.
    Delimiter,
    /// A raw backslash: some backends take it for a slash, others do not.
    Backslash,
    /// `..` above the root.
    AboveRoot,
    /// A dot segment that only some backends would see: `..;a`, or `..` beside `%2F` or `%5C`.
    HiddenTraversal,
}

impl PathProblem {
    /// A stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            PathProblem::NotAbsolute => "path_not_absolute",
            PathProblem::BadEscape => "path_bad_escape",
            PathProblem::Nul => "path_nul",
            PathProblem::Control => "path_control",
            PathProblem::NotAscii => "path_not_ascii",
            PathProblem::Whitespace => "path_whitespace",
            PathProblem::Delimiter => "path_delimiter",
            PathProblem::Backslash => "path_backslash",
            PathProblem::AboveRoot => "path_above_root",
            PathProblem::HiddenTraversal => "path_hidden_traversal",
        }
    }

    /// A sentence for the client.
    pub fn detail(self) -> &'static str {
        match self {
            PathProblem::NotAbsolute => "The request target must begin with a slash.",
            PathProblem::BadEscape => "The path holds a percent sign without two hexadecimal digits.",
            PathProblem::Nul => "The request target holds a zero byte.",
            PathProblem::Control => "The request target holds a control character.",
            PathProblem::NotAscii => "The request target holds bytes that are not ASCII; percent-encode them.",
            PathProblem::Whitespace => "The request target holds whitespace; percent-encode it.",
            PathProblem::Delimiter => "The request target holds a delimiter in the wrong place.",
            PathProblem::Backslash => "The path holds a backslash; percent-encode it.",
            PathProblem::AboveRoot => "The path leads above the root.",
            PathProblem::HiddenTraversal => "The path hides a dot segment.",
        }
    }
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for PathProblem {}

/// What a raw byte means inside a segment.
enum Class {
    /// Stands for itself: RFC 3986 `pchar` without `%`.
    Plain,
    Percent,
    /// Browsers send it raw, the RFC does not allow it: it gets encoded.
    Encode,
    Bad(PathProblem),
}

fn class(byte: u8) -> Class {
    match byte {
        _ if is_plain(byte) => Class::Plain,
        b'%' => Class::Percent,
        b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encode,
        b'\\' => Class::Bad(PathProblem::Backslash),
        b' ' | b'\t' => Class::Bad(PathProblem::Whitespace),
        0 => Class::Bad(PathProblem::Nul),
        0x80.. => Class::Bad(PathProblem::NotAscii),
        b'#' | b'?' => Class::Bad(PathProblem::Delimiter),
        // A slash never gets here: the callers split at it.
        _ => Class::Bad(PathProblem::Control),
    }
}

/// What a byte may be, as bits: every byte of every request is asked, and a table beats a chain of ranges.
#[allow(clippy::indexing_slicing, reason = "while the program is compiled")]
const BYTES: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0u8;
    while byte < 128 {
        let plain = is_unreserved(byte)
            || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@');
        let common = match byte {
            b'/' => COMMON | NOT_BEHIND_SLASH | SLASH,
            b'.' => COMMON | NOT_BEHIND_SLASH,
            b';' => 0,
            _ if plain => COMMON,
            _ => 0,
        };
        let query = matches!(byte, 0x21..=0x7e) && !matches!(byte, b'#' | b'"' | b'<' | b'>');
        kinds[byte as usize] = common | if plain { PLAIN } else { 0 } | if query { QUERY } else { 0 };
        byte += 1;
    }
    kinds
};
/// RFC 3986, section 3.3: `pchar`, without escapes.
const PLAIN: u8 = 1;
/// A query has it, and needs no escape for it.
const QUERY: u8 = 2;
/// A path in its one spelling has it where it is not the second of two that must not follow each other.
const COMMON: u8 = 4;
/// With a slash in front, an empty segment or one that begins with a dot.
const NOT_BEHIND_SLASH: u8 = 8;
/// One place above the bit for what must not follow it.
const SLASH: u8 = NOT_BEHIND_SLASH << 1;

fn bits(byte: u8) -> u8 {
    BYTES.get(usize::from(byte)).copied().unwrap_or_default()
}

fn is_plain(byte: u8) -> bool {
    bits(byte) & PLAIN != 0
}

/// RFC 3986, section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte means the same inside a segment, escaped or not. Of the plain ones only `;` may not: there are backends for which a
/// raw one begins a parameter and an escaped one is a letter like any other.
fn needs_no_escape(byte: u8) -> bool {
    byte != b';' && is_plain(byte)
}

/// The canonical spelling of an origin-form path (without the query):
///
/// - dot segments are resolved, also where the dots are percent-encoded; one that would leave the root is refused, because a
///   backend that clamps it and one that does not see different resources;
/// - escapes of what needs none in a segment (letters, digits and `-._~:@!$&'()*+,=`) are decoded, once; other escapes stay and get
///   upper-case digits, `%2F`, `%5C` and `%3B` among them;
/// - runs of slashes become one. Many backends merge them, and one that does must not see another path than the one that was
///   matched and authorised: `//admin` has to meet the rules of `/admin` here if it is going to mean `/admin` there;
/// - `"`, `<`, `>`, `[`, `]`, `^`, `` ` ``, `{`, `|`, `}` are encoded.
///
/// Applying it twice changes nothing. The result is ASCII, begins with `/`, holds no empty segment except at its end, and is
/// borrowed exactly when it equals `raw`.
///
/// # Errors
///
/// See [`PathProblem`].
pub fn normalise(raw: &[u8]) -> Result<Cow<'_, str>, PathProblem> {
    if !is_plainly_canonical(raw) {
        let canonical = rewrite(raw, Keep::Meaning)?.path;
        if canonical != raw {
            return String::from_utf8(canonical).map(Cow::Owned).map_err(|_| PathProblem::NotAscii);
        }
    }
    std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathProblem::NotAscii)
}

/// The canonical spelling of a path, and what else has to be known of it where it was spelled otherwise or can be read otherwise.
///
/// # Errors
///
/// See [`PathProblem`].
pub fn read(raw: &str) -> Result<(String, Option<Box<Spelling>>), PathProblem> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| PathProblem::NotAscii);
    if is_plainly_canonical(raw.as_bytes()) {
        return Ok((raw.to_owned(), None));
    }
    let path = text(rewrite(raw.as_bytes(), Keep::Meaning)?.path)?;
    let ambiguous = readings::is_ambiguous(&path);
    if !ambiguous && path == raw {
        return Ok((path, None));
    }
    let written = rewrite(raw.as_bytes(), Keep::Letters)?;
    let spelling = Spelling {
        raw: raw.to_owned(),
        written: text(written.path)?,
        ambiguous,
        empty_segments: raw.contains("//"),
        climbs_over_nothing: written.climbs_over_nothing,
    };
    Ok((path, Some(Box::new(spelling))))
}

/// The common case in one scan: nothing escaped, no path parameter, no empty segment, no segment that begins with a dot.
fn is_plainly_canonical(raw: &[u8]) -> bool {
    if raw.first() != Some(&b'/') {
        return false;
    }
    let (mut previous, mut strange) = (0, 0);
    for &byte in raw {
        let bits = bits(byte);
        strange |= (bits & (previous >> 1) & NOT_BEHIND_SLASH) | (!bits & COMMON);
        previous = bits;
    }
    strange == 0
}

/// What of a path's spelling stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// What it means, in the one spelling.
    Meaning,
    /// Empty segments, and the digits of escapes, as they were written.
    Letters,
}

struct Rewritten {
    path: Vec<u8>,
    /// A `..` stands behind an empty segment: with slashes merged it leads elsewhere than without.
    climbs_over_nothing: bool,
}

fn rewrite(raw: &[u8], keep: Keep) -> Result<Rewritten, PathProblem> {
    let Some((b'/', relative)) = raw.split_first() else { return Err(PathProblem::NotAbsolute) };
    // `out` holds whole segments, each after its slash, and no slash at its end until the last segment says so.
    let mut out = Vec::with_capacity(raw.len() + 16);
    let mut climbs_over_nothing = false;
    let mut segments = relative.split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push(b'/');
        push_segment(segment, keep, &mut out)?;
        let stays = match out.get(start + 1..).unwrap_or_default() {
            b"" if keep == Keep::Letters => true,
            b"" | b"." => {
                out.truncate(start);
                false
            }
            b".." => {
                out.truncate(start);
                while out.last() == Some(&b'/') {
                    out.pop();
                    climbs_over_nothing = true;
                }
                let parent = out.iter().rposition(|&byte| byte == b'/').ok_or(PathProblem::AboveRoot)?;
                out.truncate(parent);
                false
            }
            segment if hides_dot_segment(segment) => return Err(PathProblem::HiddenTraversal),
            _ => true,
        };
        if !stays && segments.peek().is_none() {
            out.push(b'/');
        }
    }
    Ok(Rewritten { path: out, climbs_over_nothing })
}

fn push_segment(segment: &[u8], keep: Keep, out: &mut Vec<u8>) -> Result<(), PathProblem> {
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        match class(byte) {
            Class::Plain => out.push(byte),
            Class::Encode => push_escape(byte, out),
            Class::Bad(problem) => return Err(problem),
            Class::Percent => {
                let digits = [bytes.next().copied().unwrap_or_default(), bytes.next().copied().unwrap_or_default()];
                match escaped(digits).ok_or(PathProblem::BadEscape)? {
                    0 => return Err(PathProblem::Nul),
                    decoded if needs_no_escape(decoded) => out.push(decoded),
                    _ if keep == Keep::Letters => out.extend_from_slice(&[b'%', digits[0], digits[1]]),
                    kept => push_escape(kept, out),
                }
            }
        }
    }
    Ok(())
}

/// The byte that two hexadecimal digits stand for.
fn escaped(digits: [u8; 2]) -> Option<u8> {
    Some(hex_value(digits[0])? << 4 | hex_value(digits[1])?)
}

/// Appends `%XX`.
pub(crate) fn push_escape(byte: u8, out: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
}

/// The value of a hexadecimal digit.
pub(crate) fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Whether a segment, not a dot segment itself, becomes one for a backend that cuts path parameters off (`..;a`, as servlet
/// containers do) or decodes separators before it resolves dots (`..%2Fadmin`).
fn hides_dot_segment(segment: &[u8]) -> bool {
    if !segment.contains(&b'.') {
        return false;
    }
    let mut rest = segment;
    loop {
        let end = rest.windows(3).position(|three| matches!(three, b"%2F" | b"%2f" | b"%5C" | b"%5c"));
        let piece = end.map_or(rest, |end| rest.get(..end).unwrap_or_default());
        let name = piece.split(|&byte| byte == b';').next().unwrap_or_default();
        let name = name
            .windows(3)
            .position(|three| matches!(three, b"%3B" | b"%3b"))
            .map_or(name, |at| name.get(..at).unwrap_or_default());
        if matches!(name, b"." | b"..") {
            return true;
        }
        match end {
            Some(end) => rest = rest.get(end + 3..).unwrap_or_default(),
            None => return false,
        }
    }
}

/// Holds a query (without its `?`) to visible ASCII without `#`. Escapes are not looked at, good or bad: the query belongs to the
/// backend, goes to it byte for byte, and forms in the wild do hold a bare `%`.
///
/// # Errors
///
/// [`PathProblem::Nul`], [`PathProblem::Control`], [`PathProblem::Whitespace`], [`PathProblem::NotAscii`] or
/// [`PathProblem::Delimiter`].
pub fn check_query(raw: &[u8]) -> Result<(), PathProblem> {
    match raw.iter().find(|&&byte| !matches!(byte, 0x21..=0x7e) || byte == b'#') {
        None => Ok(()),
        Some(0) => Err(PathProblem::Nul),
        Some(b' ' | b'\t') => Err(PathProblem::Whitespace),
        Some(b'#') => Err(PathProblem::Delimiter),
        Some(0x80..) => Err(PathProblem::NotAscii),
        Some(_) => Err(PathProblem::Control),
    }
}

/// A query, checked, and as it is matched and forwarded if that is otherwise: [`check_query`] and [`encode_query`] in one look, for
/// nearly every query passes both as it came.
///
/// # Errors
///
/// See [`check_query`].
pub fn read_query(raw: &[u8]) -> Result<Option<Vec<u8>>, PathProblem> {
    if raw.iter().fold(QUERY, |all, &byte| all & bits(byte)) == QUERY {
        return Ok(None);
    }
    check_query(raw).map(|()| encode_query(raw))
}

/// A query as it is matched and forwarded: `"`, `<` and `>`, which clients send raw and URIs do not have (RFC 3986, section 3.4), are
/// encoded as browsers do. Everything else stays as it is. `None` if there is nothing to encode, which is the rule.
pub fn encode_query(raw: &[u8]) -> Option<Vec<u8>> {
    let strange = |byte: &u8| matches!(byte, b'"' | b'<' | b'>');
    raw.iter().any(strange).then(|| {
        let mut out = Vec::with_capacity(raw.len() + 16);
        for byte in raw {
            if strange(byte) { push_escape(*byte, &mut out) } else { out.push(*byte) }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_look_at_a_query_sees_what_two_see() {
        for byte in 0..=255 {
            let raw = [b'a', byte, b'b'];
            assert_eq!(read_query(&raw), check_query(&raw).map(|()| encode_query(&raw)), "{byte}");
        }
        assert_eq!(read_query(b""), Ok(None));
    }

    #[test]
    fn queries_are_encoded_where_they_must_be() {
        assert_eq!(encode_query(b"a={b}&c=[%20]^`|'"), None);
        assert_eq!(encode_query(b"a=\"<>\"&b").as_deref(), Some(&b"a=%22%3C%3E%22&b"[..]));
    }

    fn canonical(raw: &str) -> String {
        normalise(raw.as_bytes()).unwrap().into_owned()
    }

    #[test]
    fn one_spelling() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%61%7e%2D", "/a~-"),
            ("/%2f%5c%3b", "/%2F%5C%3B"),
            ("/%3a%40%21%24%26%27%28%29%2a%2B%2c%3D", "/:@!$&'()*+,="),
            ("/users%3Aexport", "/users:export"),
            ("/%2541", "/%2541"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a\"<>^`{|}[]", "/a%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
            ("/a;v=1/b,c=2/(d)!*'", "/a;v=1/b,c=2/(d)!*'"),
        ] {
            assert_eq!(canonical(raw), expected, "{raw}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        for (raw, problem) in [
            (&b""[..], PathProblem::NotAbsolute),
            (b"*", PathProblem::NotAbsolute),
            (b"a/b", PathProblem::NotAbsolute),
            (b"http://x/", PathProblem::NotAbsolute),
            (b"/%", PathProblem::BadEscape),
            (b"/%4", PathProblem::BadEscape),
            (b"/%zz", PathProblem::BadEscape),
            (b"/%4/1", PathProblem::BadEscape),
            (b"/%+1", PathProblem::BadEscape),
            (b"/a%00b", PathProblem::Nul),
            (b"/a\0", PathProblem::Nul),
            (b"/a\x07", PathProblem::Control),
            (b"/a\x7f", PathProblem::Control),
            (b"/a\r\nb", PathProblem::Control),
            (b"/a b", PathProblem::Whitespace),
            (b"/a\tb", PathProblem::Whitespace),
            (b"/\xc3\xa9", PathProblem::NotAscii),
            (b"/a#b", PathProblem::Delimiter),
            (b"/a?b", PathProblem::Delimiter),
            (b"/a\\b", PathProblem::Backslash),
            (b"/..", PathProblem::AboveRoot),
            (b"/../x", PathProblem::AboveRoot),
            (b"/a/../../x", PathProblem::AboveRoot),
            (b"//../x", PathProblem::AboveRoot),
            (b"/%2e%2e/x", PathProblem::AboveRoot),
            (b"/a/..;/b", PathProblem::HiddenTraversal),
            (b"/a/%2e.;x=1/b", PathProblem::HiddenTraversal),
            (b"/a/..%2fb", PathProblem::HiddenTraversal),
            (b"/a/..%3Bx/b", PathProblem::HiddenTraversal),
            (b"/a/x%2F.%3bx%2Fb", PathProblem::HiddenTraversal),
            (b"/a/x%5C..", PathProblem::HiddenTraversal),
            // What is popped again is looked at all the same.
            (b"/a b/../c", PathProblem::Whitespace),
        ] {
            assert_eq!(normalise(raw), Err(problem), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn borrows_what_is_canonical() {
        for raw in ["/", "/a/b.c/d", "/.well-known/x", "/a%2Fb"] {
            assert!(matches!(normalise(raw.as_bytes()), Ok(Cow::Borrowed(_))), "{raw}");
        }
        assert!(matches!(normalise(b"/a%2fb"), Ok(Cow::Owned(_))));
    }

    #[test]
    fn queries() {
        for good in ["", "a=b&c", "a=%", "a=%zz&b=%00", "a[]={\"x\"}", "q=\\"] {
            assert_eq!(check_query(good.as_bytes()), Ok(()), "{good}");
        }
        assert_eq!(check_query(b"a=\0"), Err(PathProblem::Nul));
        assert_eq!(check_query(b"a b"), Err(PathProblem::Whitespace));
        assert_eq!(check_query(b"a\r"), Err(PathProblem::Control));
        assert_eq!(check_query(b"a\x7f"), Err(PathProblem::Control));
        assert_eq!(check_query(b"a#b"), Err(PathProblem::Delimiter));
        assert_eq!(check_query(b"\xff"), Err(PathProblem::NotAscii));
    }

    /// Paths made of the pieces that have meant trouble somewhere.
    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(&b"/"[..]),
            Just(&b"/"[..]),
            Just(&b"."[..]),
            Just(&b".."[..]),
            Just(&b"%2e"[..]),
            Just(&b"%2E"[..]),
            Just(&b"%2f"[..]),
            Just(&b"%5c"[..]),
            Just(&b"%25"[..]),
            Just(&b"%"[..]),
            Just(&b"2e"[..]),
            Just(&b"41"[..]),
            Just(&b"a"[..]),
            Just(&b";"[..]),
            Just(&b"{"[..]),
            Just(&b"\\"[..]),
            Just(&b"\xe9"[..]),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| [b"/", &pieces.concat()[..]].concat())
    }

    proptest! {
        #[test]
        fn twice_is_once(raw in prop_oneof![awkward(), proptest::collection::vec(any::<u8>(), 0..40)]) {
            if let Ok(once) = normalise(&raw) {
                let twice = normalise(once.as_bytes());
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(matches!(twice, Ok(Cow::Borrowed(_))));
                prop_assert_eq!(matches!(once, Cow::Borrowed(_)), once.as_bytes() == &raw[..]);
                prop_assert!(once.starts_with('/') && once.is_ascii() && !once.contains("//"));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }
    }
}
