//! `${NAME}` in a scalar: what the environment puts in.

/// What is wrong with one reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnvError {
    Missing(String),
    /// `${` without a closing brace or with something other than a name in it.
    Malformed,
}

/// Replaces `${NAME}` and `${NAME:-default}` (the default stands in for a variable that is unset or empty); `$${` is a literal `${`.
/// `None`: there is nothing to replace. What a variable contains is not looked at again.
pub(super) fn interpolate(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, EnvError> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (inside, behind) = after.split_once('}').ok_or(EnvError::Malformed)?;
        out.push_str(&look_up(inside, env)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn look_up(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, EnvError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err(EnvError::Malformed);
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(EnvError::Missing(name.to_owned())),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variable's name, if the scalar as written is one reference and nothing else (not even a default, which would be a literal).
pub(super) fn sole_reference(written: &str) -> Option<&str> {
    written.strip_prefix("${")?.strip_suffix('}').filter(|name| is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Option<String>, EnvError> {
        interpolate(text, &|name| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn replaces_once_and_keeps_the_rest() {
        assert_eq!(with("plain $HOST {x}"), Ok(None));
        assert_eq!(with("a-${HOST}:${HOST}!"), Ok(Some("a-db:db!".to_owned())));
        assert_eq!(with("${TRICK}"), Ok(Some("${HOST}".to_owned())));
        assert_eq!(with("${EMPTY}|${EMPTY:-x}|${NONE:-y:-z}"), Ok(Some("|x|y:-z".to_owned())));
    }

    #[test]
    fn escapes_with_a_second_dollar() {
        assert_eq!(with("$${HOST}"), Ok(Some("${HOST}".to_owned())));
        assert_eq!(with("$$${HOST}"), Ok(Some("$${HOST}".to_owned())));
        assert_eq!(with("$$ ${HOST}"), Ok(Some("$$ db".to_owned())));
    }

    #[test]
    fn refuses_what_is_missing_or_malformed() {
        assert_eq!(with("${NONE}"), Err(EnvError::Missing("NONE".to_owned())));
        assert_eq!(with("${HOST"), Err(EnvError::Malformed));
        assert_eq!(with("${}"), Err(EnvError::Malformed));
        assert_eq!(with("${1}"), Err(EnvError::Malformed));
    }

    #[test]
    fn knows_a_sole_reference() {
        assert_eq!(sole_reference("${A_1}"), Some("A_1"));
        for other in ["${A}x", "${A:-x}", "${A}${B}", "A", "$${A}"] {
            assert_eq!(sole_reference(other), None, "{other}");
        }
    }
}
