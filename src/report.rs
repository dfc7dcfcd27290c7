//! Problems as people read them: the sentence, the line it is about with a caret under the place, and what to write instead.
//!
//! A line that holds a secret is never printed; which ones do is [`crate::node::redacted_json`]'s rule. Control characters in the file
//! do not reach the terminal.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::node::redact::{Veil, gives_itself_away, is_hidden, name_veils};
use crate::node::{Kind, NO_LITERAL, Node, Style, text_lines};
use crate::problem::{Place, Problem, Problems, Severity};

/// Columns of a source line that are shown at most.
const WIDEST: usize = 120;
/// Columns that stay visible before the caret when a long line is cut.
const LEAD: usize = 40;

/// Every problem in the order of the file, and the count at the end. `file` is the name to print, `text` its content, `root` its tree if
/// there is one (for the configuration paths, and for knowing what is secret).
pub fn render(problems: &Problems, file: &str, text: &str, root: Option<&Node>, color: bool) -> String {
    let source = Source::new(text, root);
    let paint = Paint { color };
    let mut out = String::new();
    for (problem, path) in sorted(problems, root) {
        block(&mut out, problem, path.as_deref(), file, &source, &paint);
        out.push('\n');
    }
    out.push_str(&summary(problems));
    out.push('\n');
    out
}

/// One line per problem, for logs and JSON: `file:line:column: error: message (path); hint: ...`.
pub fn lines(problems: &Problems, file: &str, root: Option<&Node>) -> Vec<String> {
    let one = |(problem, path): (&Problem, Option<String>)| {
        let Problem { place, message, hint, severity } = problem;
        let at = if place.is_known() { format!("{file}:{}:{}", place.line, place.column) } else { file.to_owned() };
        let path = path.map(|path| format!(" ({path})")).unwrap_or_default();
        let hint = hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
        clean(&format!("{at}: {}: {message}{path}{hint}", word(*severity)))
    };
    sorted(problems, root).into_iter().map(one).collect()
}

/// `2 errors, 1 warning`.
pub fn summary(problems: &Problems) -> String {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => "no problems".to_owned(),
        (_, 0) => count(errors, "error"),
        (0, _) => count(warnings, "warning"),
        _ => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}

/// By place, what has none last; each with its configuration path.
fn sorted<'a>(problems: &'a Problems, root: Option<&Node>) -> Vec<(&'a Problem, Option<String>)> {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|problem| (!problem.place.is_known(), problem.place));
    let places: Vec<Place> = sorted.iter().map(|problem| problem.place).collect();
    let paths = root.map_or_else(|| vec![None; places.len()], |root| root.paths_of(&places));
    sorted.into_iter().zip(paths).collect()
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

struct Paint {
    color: bool,
}

impl Paint {
    const RED: &str = "1;31";
    const YELLOW: &str = "1;33";
    const BLUE: &str = "1;34";
    const BOLD: &str = "1";

    fn in_color(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn block(out: &mut String, problem: &Problem, path: Option<&str>, file: &str, source: &Source<'_>, paint: &Paint) {
    let place = problem.place;
    let tone = if problem.severity == Severity::Error { Paint::RED } else { Paint::YELLOW };
    let head = paint.in_color(tone, &format!("{}:", word(problem.severity)));
    let gutter = if place.is_known() { place.line.to_string().len() } else { 1 };
    let pad = " ".repeat(gutter);
    let bar = paint.in_color(Paint::BLUE, "|");
    let arrow = paint.in_color(Paint::BLUE, "-->");
    let at = if place.is_known() { format!("{file}:{}:{}", place.line, place.column) } else { file.to_owned() };
    let path = path.map(|path| format!("  ({})", clean(path))).unwrap_or_default();
    // Writing to a string does not fail.
    let _ = writeln!(out, "{head} {}", paint.in_color(Paint::BOLD, &clean(&problem.message)));
    let _ = writeln!(out, "{pad}{arrow} {}{path}", clean(&at));
    let line = source.line(place.line);
    if let Some(line) = line.filter(|_| place.is_known()) {
        let _ = writeln!(out, "{pad} {bar}");
        if problem.message == NO_LITERAL || source.is_secret(place.line, line) {
            let _ = writeln!(out, "{pad} {bar} (this line is not shown, for it may hold a secret)");
        } else {
            let (shown, before, under) = cut(line, place);
            let number = paint.in_color(Paint::BLUE, &place.line.to_string());
            let caret = paint.in_color(tone, &"^".repeat(under));
            let _ = writeln!(out, "{number} {bar} {shown}");
            let _ = writeln!(out, "{pad} {bar} {}{caret}", " ".repeat(before));
        }
    }
    if let Some(hint) = &problem.hint {
        let _ = writeln!(out, "{pad} {} hint: {}", paint.in_color(Paint::BLUE, "="), clean(hint));
    }
}

/// The file's lines, and which of them hold a secret.
struct Source<'a> {
    lines: Vec<&'a str>,
    root: Option<&'a Node>,
    secret: HashSet<u32>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str, root: Option<&'a Node>) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text_lines(text).collect();
        let mut secret = HashSet::new();
        if let Some(root) = root {
            mark(root, Veil::Nothing, &mut secret);
        }
        Source { lines, root, secret }
    }

    fn line(&self, number: u32) -> Option<&'a str> {
        self.lines.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    fn is_secret(&self, number: u32, line: &str) -> bool {
        if self.secret.contains(&number) || line.split([' ', '"', '\'']).any(gives_itself_away) || gives_itself_away(line) {
            return true;
        }
        // A file that is not YAML has no tree to ask: go by the words on the line, and on the line that it is indented under.
        self.root.is_none() && (names_secret(line) || self.parent(number).is_some_and(names_secret))
    }

    fn parent(&self, number: u32) -> Option<&'a str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let indent = |line: &str| line.len() - line.trim_start().len();
        let own = self.lines.get(index).map(|line| indent(line))?;
        self.lines.get(..index)?.iter().rev().find(|line| !line.trim().is_empty() && indent(line) < own).copied()
    }
}

/// Words before a colon that are names of secrets.
fn names_secret(line: &str) -> bool {
    let mut parts = line.split(':');
    // What follows the last colon is a value.
    parts.next_back();
    parts.any(|part| name_veils(part.trim_end().trim_end_matches(['"', '\''])))
}

/// Writes down the lines on which secret literals stand.
fn mark(node: &Node, veil: Veil, secret: &mut HashSet<u32>) {
    match &node.kind {
        Kind::Null => {}
        Kind::Scalar(found) if !is_hidden(found.shown(), found.style, veil) => {}
        Kind::Broken(written) if !is_hidden(written, Style::Quoted, veil) => {}
        Kind::Scalar(_) | Kind::Broken(_) => {
            secret.insert(node.place.line);
        }
        Kind::Seq(items) => items.iter().for_each(|item| mark(item, veil.over_items(), secret)),
        Kind::Map(entries) => {
            for (key, value) in entries {
                mark(value, veil.over(&key.text, entries), secret);
            }
        }
    }
}

/// The line as it is shown, the columns before the caret, and the caret's width. Tabs become spaces, for a terminal would put them
/// elsewhere than the caret's line does; a long line is cut around the caret.
fn cut(line: &str, place: Place) -> (String, usize, usize) {
    let from = place.column.saturating_sub(1) as usize;
    let to = from.saturating_add(place.width.max(1) as usize);
    let mut cells: Vec<(char, usize)> = Vec::new();
    let (mut before, mut under) = (0, 0);
    // Beyond what can be shown there is no need to look.
    for (index, c) in line.chars().enumerate().take(to.max(from + WIDEST).saturating_add(WIDEST)) {
        let (c, columns) = if c == '\t' { (' ', 4) } else { (printable(c), width(c)) };
        for _ in 0..if c == ' ' { columns } else { 1 } {
            cells.push((c, if c == ' ' { 1 } else { columns }));
        }
        if index < from {
            before += columns;
        } else if index < to {
            under += columns;
        }
    }
    // A place after the end of the line: where something is missing.
    before += from.saturating_sub(line.chars().count());
    let total: usize = cells.iter().map(|(_, columns)| columns).sum();
    if total <= WIDEST {
        return (cells.iter().map(|(c, _)| c).collect::<String>().trim_end().to_owned(), before, under.max(1));
    }
    let start = if before < WIDEST - LEAD { 0 } else { before - LEAD };
    let (mut shown, mut at, mut offset) = (String::new(), 0, None);
    for (c, columns) in cells {
        if at >= start && at + columns <= start + WIDEST {
            offset.get_or_insert(at);
            shown.push(c);
        }
        at += columns;
    }
    let (head, tail) = (if start > 0 { "..." } else { "" }, if at > start + WIDEST { "..." } else { "" });
    let before = before.saturating_sub(offset.unwrap_or(0));
    let under = under.min(WIDEST.saturating_sub(before)).max(1);
    (format!("{head}{shown}{tail}"), before + head.len(), under)
}

/// What a terminal would act on, or reorder, is replaced.
fn printable(c: char) -> char {
    let reorders =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    if c.is_control() || reorders { '\u{fffd}' } else { c }
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c == '\n' || c == '\t' { ' ' } else { printable(c) }).collect()
}

/// Columns of a character in a terminal: none for marks that combine, two for East Asian wide ones and emoji. The common ranges of
/// Unicode's East Asian Width (UAX #11), which is enough for a caret.
fn width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x0483..=0x0489 | 0x0591..=0x05bd | 0x064b..=0x065f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff => 0,
        0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0x33ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xa000..=0xa4cf => 2,
        0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 => 2,
        0x1f300..=0x1f64f | 0x1f680..=0x1f6ff | 0x1f900..=0x1f9ff | 0x1fa70..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node;

    fn rendered(yaml: &str, place: Place, message: &str) -> String {
        let mut problems = Problems::default();
        let root = node::parse(yaml, &|_| None, &mut problems);
        problems.push(Problem::error(place, message).hint("do better"));
        render(&problems, "g.yaml", yaml, root.as_deref(), false)
    }

    #[test]
    fn points_at_the_place() {
        let out = rendered("routes:\n  - path: /x\n    nope: 1\n", Place { line: 3, column: 5, width: 4 }, "no");
        let wanted =
            "error: no\n --> g.yaml:3:5  (routes[0].nope)\n  |\n3 |     nope: 1\n  |     ^^^^\n  = hint: do better\n\n1 error\n";
        assert_eq!(out, wanted);
    }

    #[test]
    fn keeps_the_caret_under_tabs_and_wide_characters() {
        let caret = |line: &str, column, width| {
            let (shown, before, under) = cut(line, Place { line: 1, column, width });
            (shown, before, under)
        };
        assert_eq!(caret("a:\tb", 4, 1), ("a:    b".to_owned(), 6, 1));
        assert_eq!(caret("日本: 語", 5, 1), ("日本: 語".to_owned(), 6, 2));
        assert_eq!(caret("e\u{301}x", 3, 1), ("e\u{301}x".to_owned(), 1, 1));
        assert_eq!(caret("a:", 4, 1), ("a:".to_owned(), 3, 1));
        assert_eq!(caret("a\u{1b}[31m", 1, 1).0, "a\u{fffd}[31m");
        assert_eq!(caret("", 1, 0), (String::new(), 0, 1));
    }

    #[test]
    fn cuts_long_lines_around_the_caret() {
        let line = format!("{}HERE{}", "a".repeat(5_000), "b".repeat(5_000));
        let (shown, before, under) = cut(&line, Place { line: 1, column: 5_001, width: 4 });
        assert_eq!(shown.get(before..before + under), Some("HERE"));
        assert!(shown.starts_with("...") && shown.ends_with("...") && shown.len() <= WIDEST + 6);
        let (shown, before, under) = cut(&line, Place { line: 1, column: 1, width: u32::MAX });
        assert!(before == 0 && under <= WIDEST && shown.ends_with("..."));
    }

    #[test]
    fn prints_no_line_with_a_secret() {
        let place = |column| Place { line: 1, column, width: 1 };
        for yaml in [
            "{ name: a, password: hunter2, x: y }",
            "api_keys: [ { hash: hunter2 } ]",
            "redis: redis://me:hunter2@db:6379",
            "headers: { x: Bearer hunter2 }",
            "secret: hunter2\n\tbroken",
            "a: { client_secret: hunter2",
        ] {
            let out = rendered(yaml, place(3), "no");
            assert!(!out.contains("hunter2") && out.contains("not shown"), "{out}");
        }
        assert!(rendered("password: ${NAME:-}", place(1), "no").contains("not shown"));
        let parent = rendered("a:\n  secret:\n    - hunter2\n    - :\n  x", Place { line: 3, column: 5, width: 1 }, "no");
        assert!(!parent.contains("hunter2"), "{parent}");
        assert!(rendered("key: { file: a.pem }", place(1), "no").contains("a.pem"));
        assert!(rendered("tls: { cert: a.crt, key: a.pem }", place(1), "no").contains("a.pem"));
    }

    #[test]
    fn counts_and_sorts() {
        let mut problems = Problems::default();
        problems.push(Problem::warning(Place::NOWHERE, "everywhere"));
        problems.push(Problem::error(Place { line: 2, column: 1, width: 1 }, "second\u{1b}[2J"));
        problems.push(Problem::error(Place { line: 1, column: 1, width: 1 }, "first").hint("h"));
        assert_eq!(summary(&problems), "2 errors, 1 warning");
        assert_eq!(
            lines(&problems, "f", None),
            ["f:1:1: error: first; hint: h", "f:2:1: error: second\u{fffd}[2J", "f: warning: everywhere"]
        );
        let out = render(&problems, "f", "", None, true);
        assert!(
            out.contains("\u{1b}[1;31merror:\u{1b}[0m") && !out.contains("\u{1b}[2J") && out.ends_with("2 errors, 1 warning\n")
        );
    }
}
