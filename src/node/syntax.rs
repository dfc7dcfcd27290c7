//! Text that is not YAML, explained to the one who wrote it.

use saphyr_parser::ScanError;

use crate::problem::{Place, Problem};

/// The lines of a text as YAML breaks them: at LF, CR LF, or a lone CR.
pub fn text_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Line breaks, tabs and printable characters only.
pub(super) fn control_character(text: &str) -> Option<Problem> {
    let bad = |c: char| (c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r')) || c == '\u{feff}';
    let (index, found) = text.char_indices().find(|(_, c)| bad(*c))?;
    let until = text.get(..index + found.len_utf8()).unwrap_or_default();
    let (line, last) = text_lines(until).fold((0, ""), |(count, _), line| (count + 1, line));
    let column = last.chars().count();
    let place = Place { line: line as u32, column: column as u32, width: 1 };
    Some(
        Problem::error(place, format!("the file holds a control character (U+{:04X})", found as u32))
            .hint("is this a text file in UTF-8? inside double quotes, write it as an escape such as \\x00"),
    )
}

pub(super) fn explain(error: &ScanError, text: &str) -> Problem {
    let marker = error.marker();
    let place = Place { line: marker.line() as u32, column: marker.col() as u32 + 1, width: 1 };
    let line = text_lines(text).nth(marker.line().saturating_sub(1)).unwrap_or_default();
    let (message, hint) = in_words(error.info(), line);
    let problem = Problem::error(place, message);
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Most mistakes are a few: a tab, an indentation, a missing quote. The parser's own words are kept for the rest.
fn in_words(info: &str, line: &str) -> (String, Option<&'static str>) {
    const INDENT: &str = "indent with spaces, and give all keys of one map and all items of one list the same indentation";
    let has = |part: &str| info.contains(part);
    let flow_reference = line.contains("${") && (line.contains('{') || line.contains('['));
    let (message, hint) = if has("tab") && !has("stable") && (has("tabs ") || has("a tab") || has("tab cannot")) {
        ("a tab cannot be used here", "indent with spaces")
    } else if has("anchor or alias") || has("unknown anchor") {
        (
            "`*` and `&` begin an alias and an anchor, and this is neither",
            "a value that begins with `*` or `&` needs quotes: \"*.example.com\"",
        )
    } else if has("unexpected end of stream") || has("document indicator") {
        ("a quote is not closed", "look for the opening quote above; the same quote has to end it")
    } else if has("trailing content") {
        ("nothing can follow a closing quote", "a quote inside a quoted value is written as \\\" in \"...\" and as '' in '...'")
    } else if has("escape") || has("hexadecimal") {
        (
            "this is not an escape that double quotes know",
            "write a backslash as \\\\, or use single quotes, which have no escapes",
        )
    } else if (has("flow") || has("simple key") || has("plain scalar")) && flow_reference && line.matches('{').count() > 1 {
        ("a `{`, `}`, `[`, `]` or `,` is out of place", "inside { } and [ ] a reference needs quotes: \"${NAME}\"")
    } else if has("flow") {
        ("a `{` or `[` is not closed, or a `,` is missing", "its end must be indented deeper than the key it belongs to")
    } else if has("mapping values are not allowed") || has("illegal placement of ':'") {
        (
            "a `:` is out of place",
            "a value that holds `: ` needs quotes; or is this line indented too deep, or the one above without its `:` or its closing bracket?",
        )
    } else if has("mapping keys are not allowed") {
        ("a key is out of place", INDENT)
    } else if has("simple key") {
        (
            "this line should be `key: value`",
            "is the `:` missing, or the space after it? a value on several lines begins with `|` or `>`",
        )
    } else if has("block sequence entries are not allowed") {
        ("a list item is out of place", "a list begins on the line after its key, with `- ` before every item")
    } else if has("expected key") || has("'-' indicator") || has("indentation") || has("indented") || has("document start") {
        ("the indentation of this line does not fit the lines above", INDENT)
    } else if has("unexpected character") || has("cannot start with") {
        ("a value cannot begin with this character", "put the value in quotes")
    } else {
        return (format!("this is not YAML: {info}"), None);
    };
    (message.to_owned(), Some(hint))
}
