//! Paths and queries that the gateway makes itself, of what somebody wrote and of values that clients and services send.
//!
//! A value is never more than a value: within a path it becomes letters of one segment, and where some backend might read more segments of
//! it, or another one (`..%2Fadmin`, `%252e`), there is no path. What a client could not ask for by itself, it cannot have asked for in a body
//! either.

use super::{is_ambiguous, is_unreserved, normalise, push_escape};

/// The longest path that is made of values, in bytes.
const LONGEST: usize = 8 * 1024;

/// Writes a value so that nothing in it means anything in a URL.
pub fn push_value(value: &[u8], out: &mut String) {
    let mut escape = Vec::with_capacity(3);
    for &byte in value {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            escape.clear();
            push_escape(byte, &mut escape);
            out.extend(escape.iter().copied().map(char::from));
        }
    }
}

/// A value as a segment of a path, or in a query.
pub fn value(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    push_value(value, &mut out);
    out
}

/// A path that is being made.
#[derive(Default)]
pub struct Made {
    path: String,
    /// What was written, with a letter for each value.
    outline: String,
}

impl Made {
    /// What somebody wrote stands as it is.
    pub fn text(&mut self, text: &str) {
        self.path.push_str(text);
        self.outline.push_str(text);
    }

    /// A value. `None` where it is none that a path can have: it is empty, or may be read as more than letters.
    pub fn value(&mut self, value: &[u8]) -> Option<()> {
        let from = self.path.len();
        push_value(value, &mut self.path);
        self.outline.push('x');
        let written = self.path.get(from..)?;
        (!written.is_empty() && !is_ambiguous(written)).then_some(())
    }

    /// The path in its one spelling. `None` where a segment would be one of dots, there would be other segments than are written, a value
    /// and what is written beside it would be an escape together, or it would be too long.
    pub fn path(self) -> Option<String> {
        let dots = self.path.split('/').any(|segment| matches!(segment, "." | ".."));
        let canonical = normalise(self.path.as_bytes()).ok()?;
        let levels = |path: &str| path.split('/').count();
        let fine = !is_ambiguous(&canonical) || is_ambiguous(&self.outline);
        (!dots && fine && levels(&canonical) == levels(&self.path) && canonical.len() <= LONGEST).then(|| canonical.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(value: &str) -> Option<String> {
        let mut made = Made::default();
        made.text("/orders/");
        made.value(value.as_bytes())?;
        made.text("/items");
        made.path()
    }

    #[test]
    fn a_value_is_one_segment_or_there_is_no_path() {
        for (value, path) in [
            ("7", "/orders/7/items"),
            ("a b", "/orders/a%20b/items"),
            ("..x", "/orders/..x/items"),
            ("é?#", "/orders/%C3%A9%3F%23/items"),
        ] {
            assert_eq!(made(value).as_deref(), Some(path), "{value}");
        }
        for value in
            ["", ".", "..", "a/b", "../x", "a\\b", "a;b", "%2e%2e%2f", "%2e%2e", "%41", "a%2Fb", "\0", &"x".repeat(LONGEST)]
        {
            assert_eq!(made(value), None, "{value}");
        }
        // What is written may be read otherwise: that is for whoever wrote it.
        let mut odd = Made::default();
        odd.text("/a;v=1/");
        odd.value(b"7").unwrap();
        assert_eq!(odd.path().as_deref(), Some("/a;v=1/7"));
        let mut together = Made::default();
        together.text("/%25");
        together.value(b"41").unwrap();
        assert_eq!(together.path(), None);
    }

    #[test]
    fn nothing_in_a_value_means_anything() {
        assert_eq!(value("acme / é~-._".as_bytes()), "acme%20%2F%20%C3%A9~-._");
    }
}
