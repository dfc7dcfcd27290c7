//! What else a path could mean to a backend.
//!
//! A gateway that decides by one reading of a path, before a backend that acts by another, protects nothing. Backends differ in whether
//! they decode `%2F`, take `\` for `/`, cut path parameters (`;x=1`) off, and decode once or twice; and in the order in which they do so,
//! which makes a difference: `/a;x%2Fb` is `/a` where parameters are cut first, `/a/b` where the slash is decoded first.

use super::normalise;

/// The most readings of one path that are looked at, and how long they may be together in bytes: what needs more was made to need more.
const MOST: usize = 64;
const MOST_BYTES: usize = 96 << 10;

/// A path has more readings than anybody's would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// Whether a canonical path has another reading.
pub fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    memchr::memchr2_iter(b';', b'%', bytes).any(|at| {
        let rest = bytes.get(at..).unwrap_or_default();
        rest.starts_with(b";")
            || [&b"%2F"[..], b"%5C", b"%3B"].iter().any(|escape| rest.starts_with(escape))
            || is_escaped_twice(rest)
    })
}

/// Whether it begins with something like `%2541`.
fn is_escaped_twice(rest: &[u8]) -> bool {
    rest.starts_with(b"%25") && rest.get(3..5).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Every other canonical path that a backend could take this one for: the steps that backends take, in any order and number.
///
/// None of them but the second decoding makes a dot segment, for [`normalise`] refuses what hides one.
///
/// # Errors
///
/// There are too many, or one of them would not be taken as a request's path.
pub fn readings(path: &str) -> Result<Vec<String>, TooMany> {
    let mut known = vec![path.to_owned()];
    let mut bytes = 0;
    let mut next = 0;
    while let Some(form) = known.get(next).cloned() {
        next += 1;
        for step in [decoded_slashes, decoded_backslashes, decoded_semicolons, without_parameters, decoded_again] {
            let Some(read) = step(&form) else { continue };
            let read = normalise(read.as_bytes()).map_err(|_| TooMany)?.into_owned();
            if known.contains(&read) {
                continue;
            }
            bytes += read.len();
            if known.len() > MOST || bytes > MOST_BYTES {
                return Err(TooMany);
            }
            known.push(read);
        }
    }
    known.swap_remove(0);
    Ok(known)
}

fn replaced(path: &str, escape: &str, by: &str) -> Option<String> {
    path.contains(escape).then(|| path.replace(escape, by))
}

fn decoded_slashes(path: &str) -> Option<String> {
    replaced(path, "%2F", "/")
}

/// Decoded to `\`, and that taken for `/`. A backend that leaves it as `\` reads what stands there.
fn decoded_backslashes(path: &str) -> Option<String> {
    replaced(path, "%5C", "/")
}

fn decoded_semicolons(path: &str) -> Option<String> {
    replaced(path, "%3B", ";")
}

/// Each segment without what follows its first `;`.
fn without_parameters(path: &str) -> Option<String> {
    if !path.contains(';') {
        return None;
    }
    let mut cut = String::with_capacity(path.len());
    for segment in path.split_inclusive('/') {
        match segment.split_once(';') {
            None => cut.push_str(segment),
            Some((name, parameters)) => {
                cut.push_str(name);
                cut.push_str(if parameters.ends_with('/') { "/" } else { "" });
            }
        }
    }
    Some(cut)
}

/// What was escaped twice, escaped once: `%2541` as `%41`, which then is `A`.
fn decoded_again(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find("%25") {
        let (before, escape) = rest.split_at_checked(at)?;
        let after = escape.get(3..)?;
        decoded.push_str(before);
        decoded.push_str(if is_escaped_twice(escape.as_bytes()) { "%" } else { "%25" });
        rest = after;
    }
    decoded.push_str(rest);
    (decoded != path).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::read;

    fn sorted(path: &str) -> Vec<String> {
        let mut all = readings(path).unwrap();
        all.sort();
        all
    }

    #[test]
    fn every_order_of_decoding_and_cutting() {
        for (path, expected) in [
            ("/a", &[][..]),
            ("/a%20b", &[]),
            ("/100%25", &[]),
            ("/admin%2Fusers", &["/admin/users"]),
            ("/%2Fadmin%2F", &["/admin/"]),
            ("/admin%5Cusers", &["/admin/users"]),
            ("/admin;x=1/users", &["/admin/users"]),
            ("/;x/admin", &["/admin"]),
            ("/admin/;x", &["/admin/"]),
            ("/admin%3Bx/users", &["/admin/users", "/admin;x/users"]),
            ("/a;x%2Fb", &["/a", "/a/b", "/a;x/b"]),
            ("/%2561dmin", &["/admin"]),
            ("/admin%252Fusers", &["/admin%2Fusers", "/admin/users"]),
            ("/open/%252e%252e/admin", &["/admin"]),
        ] {
            assert_eq!(sorted(path), expected, "{path}");
        }
    }

    #[test]
    fn what_was_made_to_have_many_is_refused() {
        assert_eq!(readings("/%252e%252e/admin"), Err(TooMany), "above the root");
        assert_eq!(readings("/a%2500"), Err(TooMany));
        assert_eq!(readings(&format!("/%{}41", "25".repeat(2000))), Err(TooMany));
        let all = "/a%2Fb%5Cc;d%3Be%252Ff%255Cg%253Bh/".repeat(200);
        assert_eq!(readings(&all), Err(TooMany));
    }

    proptest! {
        /// A path that is said to be unambiguous has no other reading, and no reading is anything but a canonical path.
        #[test]
        fn readings_are_canonical_paths(raw in "/([ab.;/]|%2[fF5eE]|%5c|%3b|41){0,12}") {
            let Ok((path, spelling)) = read(&raw) else { return Ok(()) };
            let Ok(all) = readings(&path) else { return Ok(()) };
            prop_assert_eq!(!all.is_empty(), spelling.is_some_and(|spelling| spelling.ambiguous), "{}", path);
            for reading in all {
                let again = normalise(reading.as_bytes());
                prop_assert_eq!(again.as_deref(), Ok(&*reading));
                prop_assert!(reading != path);
            }
        }
    }
}
