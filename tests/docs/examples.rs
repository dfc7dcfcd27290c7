//! The page for newcomers shows what is compiled and tested, and nothing else: `docs/develop/add-a-policy.md`.

use super::{page, root};
use crate::packaging::blocks;

const PAGE: &str = "docs/develop/add-a-policy.md";

/// Where each example of the page is compiled, where the page says that it belongs, and the lists that it takes a line in.
const EXAMPLES: [(&str, &str, [&str; 2]); 4] = [
    (
        "docs/develop/examples/maintenance.rs",
        "src/policy/edge/maintenance.rs",
        ["src/policy/edge/mod.rs", "src/policy/registry.rs"],
    ),
    (
        "docs/develop/examples/served_by.rs",
        "src/policy/shape/served_by.rs",
        ["src/policy/shape/mod.rs", "src/policy/registry.rs"],
    ),
    ("docs/develop/examples/shout.rs", "src/policy/shape/shout.rs", ["src/policy/shape/mod.rs", "src/policy/registry.rs"]),
    (
        "src/upstream/balance/first.rs",
        "src/upstream/balance/first.rs",
        ["src/upstream/balance/mod.rs", "src/upstream/balance/config.rs"],
    ),
];

#[test]
fn the_page_for_newcomers_shows_what_is_compiled() {
    let text = page(PAGE);
    let shown = blocks(&text, "rust");
    let (files, lines): (Vec<&str>, Vec<&str>) = shown.iter().partition(|block| block.starts_with("//!"));
    assert_eq!((files.len(), lines.len()), (EXAMPLES.len(), EXAMPLES.len()), "an example is new or gone");
    for (((file, line), (path, place, lists)), number) in files.iter().zip(&lines).zip(EXAMPLES).zip(1..) {
        assert_eq!(*file, page(path), "example {number} is not {path}");
        assert!(text.contains(&format!("`{place}`")), "the page does not say where {path} belongs");
        let name = place.rsplit('/').next().unwrap().trim_end_matches(".rs");
        let listed = [format!("mod {name};"), line.trim().to_owned()];
        for (list, line) in lists.iter().zip(&listed) {
            // With or without `pub`, and as it stands on a line of its own.
            let has = page(list).lines().any(|known| known.trim().trim_start_matches("pub ") == line);
            assert!(has, "{list} has no line `{line}`");
            assert!(text.contains(line.as_str()), "the page does not show `{line}`");
            assert!(text.contains(list) || list.ends_with("registry.rs") && text.contains("`REGISTRY`"), "{list} is not named");
        }
        assert!(root().join(path).is_file());
    }
}
