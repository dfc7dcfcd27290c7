//! Pastes every line into a shell, and compares.

use std::path::Path;
use std::process::{Command, Stdio};

use super::signals::EarlySignals;
use super::tries::Try;
use super::{BOLD, DIM, PLAIN, print, statuses};

/// How much of a wrong answer is shown, in characters.
const MOST_SHOWN: usize = 2000;

/// Pastes all lines in their order, then all in the opposite order, because each must hold at any time and twice. Prints a table;
/// tells whether every line gave what it says.
pub fn paste_all(tries: &[Try], folder: &Path, early: &EarlySignals) -> bool {
    // What hangs is a failure, not a reason to wait for ever; and what the user's own file says is no concern of the demo's.
    if let Err(error) = std::fs::write(folder.join(".curlrc"), "max-time = 20\n") {
        print(&format!("cannot write to {}: {error}\n", folder.display()));
        return false;
    }
    let mut failed = 0;
    let passes: [(&str, Vec<&Try>); 2] = [("in order", tries.iter().collect()), ("backwards", tries.iter().rev().collect())];
    for (name, lines) in passes {
        print(&format!("{BOLD}{} lines, {name}{PLAIN}\n", lines.len()));
        for line in lines {
            if early.stopped() {
                return false;
            }
            let verdict = paste(line, folder);
            failed += usize::from(verdict.is_err());
            print(&row(line, &verdict));
        }
    }
    print(&match failed {
        0 => format!("\nall {} lines gave what they say, twice\n", tries.len()),
        failed => format!("\n{failed} of {} pastes gave something else\n", 2 * tries.len()),
    });
    failed == 0
}

fn row(line: &Try, verdict: &Result<(), Wrong>) -> String {
    let expected = statuses(&line.expect);
    // Colours have no width.
    let gap = " ".repeat(20usize.saturating_sub(line.expect.len() * 4).max(2));
    match verdict {
        Ok(()) => format!("\x1b[32mok\x1b[0m    {expected}{gap}{}\n", line.title),
        Err(Wrong { what, output }) => {
            let shown: String = output.chars().take(MOST_SHOWN).collect();
            format!("\x1b[31mwrong\x1b[0m {expected}{gap}{}: {what}\n      {}\n{DIM}{shown}{PLAIN}\n", line.title, line.command)
        }
    }
}

struct Wrong {
    what: String,
    output: String,
}

fn paste(line: &Try, folder: &Path) -> Result<(), Wrong> {
    let ran = Command::new("sh").arg("-c").arg(&line.command).env("CURL_HOME", folder).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| Wrong { what: format!("there is no shell: {error}"), output: String::new() })?;
    let mut output = String::from_utf8_lossy(&ran.stdout).into_owned();
    let wrong = |what: String, output: String| Err(Wrong { what, output });
    if ran.status.code() == Some(127) {
        return wrong("a command is not installed".to_owned(), String::from_utf8_lossy(&ran.stderr).into_owned());
    }
    let found = found(&output);
    if found != line.expect {
        output.push_str(&String::from_utf8_lossy(&ran.stderr));
        return wrong(format!("gave {found:?}"), output);
    }
    let lower = output.to_ascii_lowercase();
    match line.shows.iter().find(|text| !lower.contains(&text.to_ascii_lowercase())) {
        Some(missing) => wrong(format!("does not show `{missing}`"), output),
        None => Ok(()),
    }
}

/// The statuses of an output, in order; those of interim answers left out.
fn found(output: &str) -> Vec<u16> {
    let of_line = |line: &str| {
        let after = line.split_once("HTTP/")?.1;
        let status = after.split_ascii_whitespace().nth(1)?.parse().ok()?;
        (200..600).contains(&status).then_some(status)
    };
    output.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found_in_order() {
        let output = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\n\r\n{}\nHTTP/2 429 \r\n     10 HTTP/1.1 503\n";
        assert_eq!(found(output), [200, 429, 503]);
        assert_eq!(found("nothing"), [0u16; 0]);
    }

    #[test]
    fn a_line_is_held_to_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let line = |command: &str, expect: &[u16]| Try {
            group: "",
            title: "",
            command: command.to_owned(),
            expect: expect.to_vec(),
            shows: &["X-Seen"],
        };
        let paste = |line| paste(&line, folder.path()).map_err(|wrong| wrong.what);
        assert_eq!(paste(line("printf 'HTTP/1.1 200 OK\\nx-seen: 1'", &[200])), Ok(()));
        assert_eq!(paste(line("printf 'HTTP/1.1 200 OK\\nx-seen: 1'", &[404])), Err("gave [200]".to_owned()));
        assert_eq!(paste(line("echo HTTP/1.1 200 OK", &[200])), Err("does not show `X-Seen`".to_owned()));
        assert_eq!(paste(line("no-such-command-here", &[200])), Err("a command is not installed".to_owned()));
    }
}
