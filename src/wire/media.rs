//! What a body is by its media type, where no more than its name counts: type and subtype, whatever the parameters say (RFC 9110, section 8.3.1).

use std::borrow::Cow;

/// Lines of JSON, by each of the names that they go by.
pub const LINES: [&str; 4] = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// Type and subtype of a `Content-Type`, or of a range of `Accept`, in lower case.
pub fn essence(kind: &[u8]) -> Cow<'_, [u8]> {
    let essence = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    match essence.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(essence.to_ascii_lowercase()),
        false => Cow::Borrowed(essence),
    }
}

/// Whether it is one document of JSON (`text/json` is what some call it): what is in lines of it is none.
pub fn is_json(kind: &[u8]) -> bool {
    let essence = essence(kind);
    matches!(&*essence, b"application/json" | b"text/json") || essence.ends_with(b"+json")
}

/// Whether it is lines of JSON.
pub fn is_lines(kind: &[u8]) -> bool {
    let essence = essence(kind);
    LINES.iter().any(|known| known.as_bytes() == &*essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_whatever_stands_behind_them() {
        for (kind, json, lines) in [
            ("application/json; charset=utf-8", true, false),
            (" Application/JSON ", true, false),
            ("text/json", true, false),
            ("application/merge-patch+json;v=1", true, false),
            ("Application/X-NDJSON; charset=utf-8", false, true),
            ("application/ndjson", false, true),
            ("application/jsonl", false, true),
            ("application/x-jsonlines", false, true),
            ("application/jsonlines", false, false),
            ("application/jsonp", false, false),
            ("text/plain; application/json", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_json(kind.as_bytes()), is_lines(kind.as_bytes())), (json, lines), "{kind}");
        }
    }
}
