//! The examples of docs/develop/add-a-policy.md, which are policies like any other in this build. That the page shows them as they are is
//! held by `tests/docs/examples.rs`.

use std::path::Path;

use super::{Snapshot, Surroundings, compile};
use crate::config::Source;
use crate::policy::registry::{EXAMPLES, REGISTRY};
use crate::report;

const PAGE: &str = include_str!("../../docs/develop/add-a-policy.md");

/// A file with these policies at its one route, and what is said of it.
fn compiled(policies: &str) -> (Option<Snapshot>, String) {
    let text = format!(
        "listeners:\n  - bind: 127.0.0.1:8080\n\nroutes:\n  - {{ path: /shop/*, service: shop, port: 9001, policies: {{ {policies} }} }}\n"
    );
    let (mut source, document) = Source::from_text(Path::new("gateway.yaml"), text.clone());
    let snapshot = document.and_then(|document| compile(&document, &mut source, &Surroundings::detached(), 1));
    (snapshot, report::render(&source.problems, "gateway.yaml", &text, source.root.as_deref(), false))
}

#[test]
fn the_examples_for_newcomers_are_policies_like_any_other() {
    let (snapshot, said) = compiled("maintenance: { retry_after: 10m }, served_by: { name: edge-1 }, shout: { end: '!' }");
    assert!(snapshot.is_some(), "{said}");
    for name in EXAMPLES {
        assert!(REGISTRY.iter().any(|entry| entry.name == name && PAGE.contains(entry.summary)), "{name}");
    }
    let (snapshot, said) = compiled("served_by: { name: \"a\\nb\" }");
    assert!(snapshot.is_none() && said.contains("this cannot be a header's value"), "{said}");
}

#[test]
fn a_wrong_value_is_refused_as_the_page_says() {
    let (snapshot, said) = compiled("maintenance: { retry_after: 2h }");
    assert!(snapshot.is_none());
    let shown = PAGE.split("```").find(|block| block.trim_start().starts_with("error:")).unwrap().trim();
    assert!(said.contains(shown), "the page shows\n{shown}\nand this is said:\n{said}");
}
