//! Plain scalars by YAML 1.2's core schema (section 10.3.2). `.inf` and `.nan` are left out: no setting has a use for them, and a NaN
//! defeats every later comparison.

pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

pub(crate) fn unsigned(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    digits(text.strip_prefix('+').unwrap_or(text), 10)
}

pub(crate) fn signed(text: &str) -> Option<i64> {
    let negative = text.strip_prefix('-')?;
    digits(negative, 10)?;
    text.parse().ok()
}

/// `from_str_radix` alone would take a sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) { None } else { u64::from_str_radix(text, radix).ok() }
}

pub(crate) fn float(text: &str) -> Option<f64> {
    let bare = text.strip_prefix(['-', '+']).unwrap_or(text);
    // Rust would take `inf`, `nan` and `infinity`.
    if !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !bare.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    bare.parse::<f64>().ok().and_then(|_| text.parse().ok()).filter(|number: &f64| number.is_finite())
}

/// Whether an unquoted text would be read as something other than a string.
pub(crate) fn is_number(text: &str) -> bool {
    unsigned(text).is_some() || signed(text).is_some() || float(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_core_schema() {
        assert_eq!((unsigned("0x1F"), unsigned("0o17"), unsigned("+7"), unsigned("08")), (Some(31), Some(15), Some(7), Some(8)));
        for not in ["", "+", "0x", "0x+1", "1_000", "1.0", "-1", "18446744073709551616", "٣"] {
            assert_eq!(unsigned(not), None, "{not}");
        }
        assert_eq!((signed("-5"), signed("--5"), signed("-")), (Some(-5), None, None));
        assert_eq!((float("1e3"), float("-.5"), float("1.")), (Some(1000.0), Some(-0.5), Some(1.0)));
        for not in [".nan", "nan", "inf", ".inf", "-inf", ".", "e5", "1.2.3", "1e999"] {
            assert_eq!(float(not), None, "{not}");
        }
        assert_eq!((truth("True"), truth("yes"), truth("on")), (Some(true), None, None));
    }
}
