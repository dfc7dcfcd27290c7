//! URI references (RFC 3986, section 5), as far as the parts of one document name each other by them.

use crate::carrier::decode_escapes;

/// The reference, resolved against a base. The fragment stays.
pub fn join(base: &str, reference: &str) -> String {
    if has_scheme(reference) || base.is_empty() {
        return reference.to_owned();
    }
    let base = base.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return base.to_owned();
    }
    if reference.starts_with('#') {
        return format!("{base}{reference}");
    }
    let (scheme, rest) = if has_scheme(base) { base.split_once(':').unwrap_or(("", base)) } else { ("", base) };
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}:") };
    if reference.starts_with("//") {
        return format!("{scheme}{reference}");
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(after) => {
            let end = after.find('/').unwrap_or(after.len());
            (format!("//{}", after.get(..end).unwrap_or_default()), after.get(end..).unwrap_or_default())
        }
        None => (String::new(), rest),
    };
    let (target, fragment) = reference.split_once('#').map_or((reference, None), |(target, fragment)| (target, Some(fragment)));
    let merged = match target.starts_with('/') {
        true => target.to_owned(),
        false => {
            let folder =
                path.split('?').next().unwrap_or_default().rfind('/').map_or("", |at| path.get(..=at).unwrap_or_default());
            let folder = if folder.is_empty() && !authority.is_empty() { "/" } else { folder };
            format!("{folder}{target}")
        }
    };
    let path = without_dots(&merged);
    let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{scheme}{authority}{path}{fragment}")
}

pub(super) fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

fn without_dots(path: &str) -> String {
    if !path.split('/').any(|part| part == "." || part == "..") {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Decodes the escapes of a URI's fragment; as it is where they make no text.
pub fn decoded(fragment: &str) -> String {
    String::from_utf8(decode_escapes(fragment).into_owned()).unwrap_or_else(|_| fragment.to_owned())
}
