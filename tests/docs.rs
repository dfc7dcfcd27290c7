//! The pages: whatever they say has to be true, lead somewhere, and be current.

mod examples;
mod generated;
mod links;
mod refusals;
mod tasks;
mod words;

use std::path::{Path, PathBuf};

use crate::harness::portcullis_with;
use crate::packaging::{assert_passes, blocks, surroundings};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page for people, by its path from the root, with its text.
fn pages() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    let mut files: Vec<PathBuf> = ["README.md", "CHANGELOG.md", "loadtest/README.md"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_readme_is_short() {
    let lines = page("README.md").lines().count();
    assert!(lines <= 150, "{lines} lines: it says what this is, and the pages say how");
}

#[test]
fn every_configuration_in_the_pages_passes_the_check() {
    let files = surroundings();
    let mut count = 0;
    for (path, text) in pages() {
        for block in
            blocks(&text, "yaml").into_iter().filter(|block| block.starts_with("listeners:") || block.contains("\nlisteners:"))
        {
            // The folders that installing makes are not there.
            assert_passes(&files, &path, &block.replace("/var/log/portcullis/", ""));
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_readme_shows_what_its_file_comes_to() {
    let files = surroundings();
    files.write("shop.yaml", page("conf/shop.yaml"));
    let secret = [("SHOP_JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let ran = portcullis_with(files.dir(), &["routes", "-c", "shop.yaml"], &secret);
    let readme = page("README.md");
    let shown =
        blocks(&readme, "console").into_iter().find_map(|block| block.strip_prefix("$ portcullis routes -c conf/shop.yaml\n"));
    assert_eq!(shown, Some(&*ran.stdout), "{}", ran.stderr);
}
