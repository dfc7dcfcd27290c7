//! The header fields in which references stand beside other things. Each is read only as far as it has to be, and what is not understood
//! stays as it is.

use super::Sides;

/// `Refresh: 5; url=/next`.
pub fn refresh(value: &[u8], sides: &Sides<'_>) -> Option<Vec<u8>> {
    let delay = value.iter().position(|byte| matches!(byte, b';' | b','))?;
    let mut at = delay + 1;
    at += spaces(value.get(at..)?);
    if value.get(at..at + 3).is_some_and(|word| word.eq_ignore_ascii_case(b"url")) {
        let behind = at + 3 + spaces(value.get(at + 3..)?);
        if value.get(behind) == Some(&b'=') {
            at = behind + 1 + spaces(value.get(behind + 1..)?);
        }
    }
    let quote = value.get(at).filter(|byte| matches!(byte, b'"' | b'\''));
    let rest = value.get(at + usize::from(quote.is_some())..)?;
    let end = match quote {
        Some(quote) => rest.iter().position(|byte| byte == quote).unwrap_or(rest.len()),
        None => rest.trim_ascii_end().len(),
    };
    let (reference, behind) = rest.split_at_checked(end)?;
    let before = value.get(..value.len() - rest.len())?;
    Some([before, &sides.map(reference)?, behind].concat())
}

fn spaces(text: &[u8]) -> usize {
    text.len() - text.trim_ascii_start().len()
}

/// The targets of `Link: </next>; rel=next, </style.css>; rel=preload`.
pub fn link(value: &[u8], sides: &Sides<'_>) -> Option<Vec<u8>> {
    link_targets(value, |target| sides.map(target))
}

/// What stands between `<` and `>`, outside of quoted strings and of parentheses, each put in another's place. `None` if none is.
pub fn link_targets(value: &[u8], map: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let (mut out, mut changed) = (Vec::with_capacity(value.len() + 32), false);
    let (mut quoted, mut escaped, mut within) = (false, false, 0usize);
    let mut rest = value;
    while let Some((&byte, behind)) = rest.split_first() {
        if byte == b'<' && !quoted && within == 0 {
            let (target, after) = behind.split_at_checked(behind.iter().position(|&byte| byte == b'>')?)?;
            let mapped = map(target);
            changed |= mapped.is_some();
            out.push(b'<');
            out.extend_from_slice(mapped.as_deref().unwrap_or(target));
            rest = after;
            continue;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'(' if !quoted => within += 1,
            b')' if !quoted => within = within.saturating_sub(1),
            _ => {}
        }
        out.push(byte);
        rest = behind;
    }
    changed.then_some(out)
}

/// A `Set-Cookie`.
pub fn cookie(value: &[u8], sides: &Sides<'_>) -> Option<Vec<u8>> {
    let mut parts = value.split(|&byte| byte == b';');
    let pair = parts.next()?;
    // Browsers take such a cookie with this path alone.
    let bound = pair.trim_ascii_start().get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"__Host-"));
    let (mut out, mut changed) = (pair.to_vec(), false);
    for part in parts {
        let mapped = attribute(part, bound, sides);
        changed |= mapped.is_some();
        match mapped {
            Some(None) => {}
            Some(Some(mapped)) => {
                out.push(b';');
                out.extend_from_slice(&mapped);
            }
            None => {
                out.push(b';');
                out.extend_from_slice(part);
            }
        }
    }
    changed.then_some(out)
}

/// One attribute: another, or none at all.
fn attribute(part: &[u8], bound: bool, sides: &Sides<'_>) -> Option<Option<Vec<u8>>> {
    let equals = part.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (part.get(..equals)?, part.get(equals + 1..)?.trim_ascii());
    let named = |known: &[u8]| name.trim_ascii().eq_ignore_ascii_case(known);
    let with = |value: &[u8]| [name, b"=", value].concat();
    if named(b"path") && !bound {
        return Some(Some(with(&sides.cookie_path(value)?)));
    }
    if named(b"domain") {
        return Some(sides.cookie_domain(value)?.map(|domain| with(domain.as_bytes())));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::reference::tests::with;
    use super::*;

    fn each(map: fn(&[u8], &Sides<'_>) -> Option<Vec<u8>>, cases: &[(&str, &str)]) {
        for (from, to) in cases {
            let mapped = with(|sides| map(from.as_bytes(), sides)).map(|mapped| String::from_utf8(mapped).unwrap());
            assert_eq!(mapped.as_deref(), Some(*to).filter(|to| to != from), "{from}");
        }
    }

    #[test]
    fn refreshes() {
        each(
            refresh,
            &[
                ("5; url=/next", "5; url=/shop/next"),
                ("0;URL = '/next' ", "0;URL = '/shop/next' "),
                ("0,url=\"http://app.internal/a\"", "0,url=\"https://shop.example/shop/a\""),
                ("1.5; /next", "1.5; /shop/next"),
                ("5; url=https://other.example/", "5; url=https://other.example/"),
                ("5", "5"),
                ("5;", "5;"),
                ("5; url=", "5; url="),
                ("5; url='/a", "5; url='/shop/a"),
                ("", ""),
            ],
        );
    }

    #[test]
    fn links() {
        each(
            link,
            &[
                ("</a>; rel=next, </b>; title=\"</c>, \\\"</d>\"", "</shop/a>; rel=next, </shop/b>; title=\"</c>, \\\"</d>\""),
                ("<https://other.example/a>; rel=x", "<https://other.example/a>; rel=x"),
                ("</a>; rel=next, <b", "</a>; rel=next, <b"),
                ("nothing", "nothing"),
            ],
        );
    }

    #[test]
    fn cookies() {
        each(
            cookie,
            &[
                ("a=/b; Path=/; Secure", "a=/b; Path=/shop; Secure"),
                ("a=b;path = /cart ;HttpOnly", "a=b;path =/shop/cart;HttpOnly"),
                ("a=b; Domain=app.internal; Path=/x", "a=b; Domain=shop.example; Path=/shop/x"),
                ("__Host-a=b; Path=/; Secure", "__Host-a=b; Path=/; Secure"),
                ("__host-a=b; Path=/; Secure", "__host-a=b; Path=/; Secure"),
                ("a=b; Domain=.other.example", "a=b; Domain=.other.example"),
                ("a=b; Path; Path=", "a=b; Path; Path="),
                ("a", "a"),
                ("", ""),
            ],
        );
    }
}
