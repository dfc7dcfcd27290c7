//! Texts with `{placeholders}`. `{{` and `}}` are literal braces.

/// What such a text is made of.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Text(String),
    /// What stands between braces.
    Name(&'a str),
}

/// The parts of a text, in order; no text among them is empty, and no two follow each other.
///
/// # Errors
/// A sentence about a brace that has no other.
pub fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else if let Some(after) = from.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("`{` without `}`; a literal brace is written `{{`")?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Name(name));
            rest = after;
        } else {
            return Err("`}` without `{`; a literal brace is written `}}`".to_owned());
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}
