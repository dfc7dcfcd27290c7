//! Commands, files and keys that the pages name are there.

use std::collections::BTreeSet;

use regex::Regex;

use super::{pages, root};
use crate::harness::{Files, portcullis};
use crate::packaging::reference;

/// The pages but those that are generated, or tell of the past.
fn written() -> impl Iterator<Item = (String, String)> {
    let past = |path: &str| path == "CHANGELOG.md" || path == "docs/benchmarks.md" || path == "docs/reference.md";
    pages().into_iter().filter(move |(path, _)| !past(path))
}

/// What stands in fences that are for a shell.
fn shell(text: &str) -> String {
    let fenced = text.split("```").skip(1).step_by(2);
    let lines = fenced.filter_map(|block| block.strip_prefix("sh\n").or(block.strip_prefix("console\n")));
    lines.collect()
}

#[test]
fn every_command_is_one() {
    let folder = Files::new();
    let help = portcullis(folder.dir(), &["--help"]).stdout;
    let known: BTreeSet<&str> =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let makefile = super::page("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| !name.contains(' '))
        .collect();
    let ours = Regex::new(r"(?m)(?:^|[`$|] ?|sudo )portcullis ([a-z][a-z-]+)").unwrap();
    let make = Regex::new(r"(?m)(?:^|`|sudo )make ([a-z][a-z-]+)").unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, text) in written() {
        let inline: String = text
            .split("```")
            .step_by(2)
            .flat_map(|prose| prose.split('`').skip(1).step_by(2))
            .fold(String::new(), |all, code| all + "`" + code + "\n");
        let all = shell(&text) + &inline;
        for (pattern, known) in [(&ours, &known), (&make, &targets)] {
            for found in pattern.captures_iter(&all) {
                count += 1;
                if !known.contains(&found[1]) {
                    wrong.push(format!("{path}: {}", &found[0]));
                }
            }
        }
    }
    assert!(wrong.is_empty() && count > 30, "{count}: {wrong:#?}");
}

#[test]
fn every_file_of_ours_is_there() {
    let file = Regex::new(r"`((?:conf|loadtest|examples|scripts|src|tests|systemd|benches)/[A-Za-z0-9_./-]*)[^`]*`").unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    // It says how to make some.
    for (path, text) in written().filter(|(path, _)| path != "docs/develop/add-a-policy.md") {
        for found in file.captures_iter(&text) {
            count += 1;
            if !root().join(&found[1]).exists() {
                wrong.push(format!("{path}: {}", &found[1]));
            }
        }
    }
    assert!(wrong.is_empty() && count > 20, "{count}: {wrong:#?}");
}

/// `timeouts.response`, `server.max_in_flight`: every word of them is a key of the file.
#[test]
fn every_key_that_a_page_names_is_a_key_of_the_file() {
    let schema = portcullis::config::schema::schema();
    let keys: BTreeSet<String> = reference::keys(&schema).into_iter().collect();
    let code = Regex::new(r"`([a-z_]+(?:\[\])?(?:\.[a-z_]+(?:\[\])?)+)(?:: [^`]*)?`").unwrap();
    // Variables of rules, claims, files, and names of others.
    let other = Regex::new(r"^(request|identity|route|params|realm_access|org|quotas|keys|nginx|google)\.|\.(yaml|yml|json|proto|py|md|log|rs|sh|redb|pem|service|example|com|lua)$")
        .unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, text) in written() {
        let for_users = ["README.md", "docs/start.md", "docs/concepts.md", "docs/guide/", "docs/operate/"].iter();
        if !for_users.clone().any(|start| path.starts_with(start)) || path.starts_with("docs/guide/from-") {
            continue;
        }
        for found in code.captures_iter(&text).filter(|found| !other.is_match(&found[1])) {
            count += 1;
            if !found[1].split('.').all(|word| keys.contains(word.trim_end_matches("[]"))) {
                wrong.push(format!("{path}: {}", &found[1]));
            }
        }
    }
    assert!(wrong.is_empty() && count > 40, "{count}: {wrong:#?}");
}
