//! Patterns as JSON Schema has them (ECMA-262, with its `u` flag), for an engine that takes a time in proportion to the text's length.
//!
//! What differs is written anew: `\d`, `\w` and `\b` are about ASCII in ECMA-262, `\s` and `.` about its own lists, `\uXXXX` and `\cX` are escapes, and a
//! class holds no operators. Lookaround and backreferences no such engine has.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// What a compiled pattern may take, in bytes.
const LARGEST: usize = 2 << 20;

const SPACE: &str = r"\t\n\x0B\x0C\r\x20\u{A0}\u{FEFF}\u{2028}\u{2029}\p{Zs}";

/// # Errors
/// A sentence on what it has that is not there.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let text = translated(pattern)?;
    RegexBuilder::new(&text).size_limit(LARGEST).dfa_size_limit(LARGEST).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        error => error.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned(),
    })
}

/// The pattern as what it is made of, for whoever makes texts of it. `None` if it cannot be used.
pub fn syntax(pattern: &str) -> Option<regex_syntax::hir::Hir> {
    regex_syntax::parse(&translated(pattern).ok()?).ok()
}

fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, class, &mut out)?,
            '[' if !class => {
                class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if chars.next_if_eq(&']').is_some() {
                    // `[]` is nothing, `[^]` is anything.
                    class = false;
                    let negated = out.ends_with('^');
                    out.truncate(out.len() - if negated { 2 } else { 1 });
                    out.push_str(if negated { r"(?s:.)" } else { r"[^\s\S]" });
                }
            }
            ']' if class => {
                class = false;
                out.push(']');
            }
            // Operators of the other engine.
            '[' | '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && chars.peek() == Some(&'-') => out.push_str(r"\-"),
            '.' if !class => out.push_str(r"[^\n\r\u{2028}\u{2029}]"),
            '(' if !class && chars.peek() == Some(&'?') => {
                let ahead: String = chars.clone().take(3).collect();
                if ["?=", "?!", "?<=", "?<!"].iter().any(|word| ahead.starts_with(word)) {
                    return Err("lookaround is not taken: no text may make matching slow".to_owned());
                }
                out.push('(');
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn escape(chars: &mut Peekable<Chars<'_>>, class: bool, out: &mut String) -> Result<(), String> {
    let Some(c) = chars.next() else { return Err("it ends in the middle of an escape".to_owned()) };
    let set = |inside: &str, negated: bool| match (class, negated) {
        (true, false) => inside.to_owned(),
        (_, true) => format!("[^{inside}]"),
        (false, false) => format!("[{inside}]"),
    };
    match c {
        'd' => out.push_str(&set("0-9", false)),
        'D' => out.push_str(&set("0-9", true)),
        'w' => out.push_str(&set("0-9A-Za-z_", false)),
        'W' => out.push_str(&set("0-9A-Za-z_", true)),
        's' => out.push_str(&set(SPACE, false)),
        'S' => out.push_str(&set(SPACE, true)),
        'b' if class => out.push_str(r"\x08"),
        'b' => out.push_str(r"(?-u:\b)"),
        'B' if !class => out.push_str(r"(?-u:\B)"),
        '0' if !chars.peek().is_some_and(char::is_ascii_digit) => out.push_str(r"\x00"),
        '1'..='9' => return Err("backreferences are not taken: no text may make matching slow".to_owned()),
        'k' => return Err("backreferences are not taken: no text may make matching slow".to_owned()),
        'c' => match chars.next().filter(char::is_ascii_alphabetic) {
            Some(letter) => out.push_str(&format!(r"\x{:02X}", (letter as u32) % 32)),
            None => return Err("`\\c` takes a letter".to_owned()),
        },
        'u' => {
            let first = code(chars)?;
            let pair = (0xd800..0xdc00).contains(&first) && {
                let mut ahead = chars.clone();
                ahead.next() == Some('\\') && ahead.next() == Some('u')
            };
            let value = match pair {
                true => {
                    chars.next();
                    chars.next();
                    0x10000 + ((first - 0xd800) << 10) + code(chars)?.wrapping_sub(0xdc00)
                }
                false => first,
            };
            char::from_u32(value).ok_or("an escape is no character")?;
            out.push_str(&format!(r"\u{{{value:X}}}"));
        }
        'a'..='z' | 'A'..='Z' if !"tnvfrpPx".contains(c) => return Err(format!("`\\{c}` is no escape")),
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
    Ok(())
}

/// The digits of `\uXXXX` or `\u{X}`.
fn code(chars: &mut Peekable<Chars<'_>>) -> Result<u32, String> {
    let digits: String = match chars.next_if_eq(&'{') {
        Some(_) => chars.by_ref().take_while(|c| *c != '}').take(8).collect(),
        None => chars.by_ref().take(4).collect(),
    };
    u32::from_str_radix(&digits, 16).map_err(|_| "`\\u` takes four hexadecimal digits".to_owned())
}
