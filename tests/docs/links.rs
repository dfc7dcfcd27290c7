//! Links lead to pages that are there, and to headings that they have.

use std::collections::BTreeSet;

use super::{page, pages, root};

/// The pages' text without code, which may hold brackets of its own.
fn prose(text: &str) -> String {
    let mut out = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside = line.split('`').step_by(2);
            out.extend(outside.flat_map(|piece| [piece, "`"]));
            out.push('\n');
        }
    }
    out
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if !fenced && line.starts_with('#') {
            found.insert(anchor(line.trim_start_matches('#').trim()));
        }
    }
    found
}

fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, text) in pages() {
        for target in targets(&text) {
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            count += 1;
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let folder = root().join(&path).parent().unwrap().to_owned();
            let there = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            let leads = there.exists()
                && (heading.is_empty() || anchors(&std::fs::read_to_string(&there).unwrap_or_default()).contains(heading));
            if !leads {
                wrong.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 60, "{count} links");
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut next = vec!["README.md".to_owned()];
    while let Some(path) = next.pop() {
        for target in targets(&page(&path)) {
            let file = target.split('#').next().unwrap();
            let Ok(there) = root().join(&path).parent().unwrap().join(file).canonicalize() else { continue };
            let Ok(there) = there.strip_prefix(root().canonicalize().unwrap()).map(|path| path.display().to_string()) else {
                continue;
            };
            if there.ends_with(".md") && reached.insert(there.clone()) {
                next.push(there);
            }
        }
    }
    let lost: Vec<String> = pages().into_iter().map(|(path, _)| path).filter(|path| !reached.contains(path)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn headings_become_the_anchors_that_they_have_on_the_web() {
    assert_eq!(anchor("Keys that come and go"), "keys-that-come-and-go");
    assert_eq!(anchor("`services.NAME.tls`"), "servicesnametls");
    assert_eq!(anchor("Via, OPTIONS"), "via-options");
    assert_eq!(targets("[a](b.md#c) `[no](x)`\n```\n[no](y)\n```\n[d](e)"), ["b.md#c", "e"]);
}
