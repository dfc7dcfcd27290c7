//! Pages and tables that are written from what the code knows, and are current. `make reference` writes them anew.

use std::fmt::Write as _;

use portcullis::policy::registry::REGISTRY;
use regex::Regex;

use super::{page, refusals, root};
use crate::packaging::reference;

/// Above what is generated.
const MARK: &str = "<!-- From here on generated from the code: `make reference`. -->\n";

/// The page that says how a policy is used, and the beginnings of the names of its metrics.
const MORE: [(&str, &str, &[&str]); 29] = [
    ("cors", "guide/browsers.md", &["portcullis_cors_"]),
    ("csrf", "guide/browsers.md#what-pages-may-not-send", &[]),
    ("bounds", "guide/limits.md#bounds-of-listeners-and-of-the-process", &[]),
    ("ip_restriction", "guide/authorization.md", &[]),
    ("address_limit", "guide/limits.md", &["portcullis_rate_limit_"]),
    ("websocket", "guide/protocols.md#websocket", &["portcullis_websocket"]),
    ("validate", "guide/contracts.md", &["portcullis_contract_"]),
    ("openapi", "guide/openapi.md", &["portcullis_openapi_"]),
    ("graphql", "guide/graphql.md", &["portcullis_graphql_"]),
    (
        "authn",
        "guide/authentication.md",
        &["portcullis_jwks_", "portcullis_introspections_", "portcullis_issued_", "portcullis_key_store_"],
    ),
    ("authz", "guide/authorization.md", &["portcullis_authz_"]),
    ("external_auth", "guide/authorization.md#asking-another-service", &["portcullis_external_auth_"]),
    ("rate_limit", "guide/limits.md#limits", &["portcullis_rate_limit_", "portcullis_lease_"]),
    ("quota", "guide/limits.md#quotas", &["portcullis_quota_"]),
    ("throttle", "guide/limits.md#slower-instead-of-refused", &["portcullis_throttle_"]),
    ("priority", "guide/limits.md#slower-instead-of-refused", &[]),
    ("concurrency_limit", "guide/limits.md#slower-instead-of-refused", &["portcullis_concurrency_"]),
    ("adaptive_concurrency", "guide/limits.md#slower-instead-of-refused", &["portcullis_adaptive_concurrency_"]),
    ("fault", "guide/services.md#faults-on-purpose", &["portcullis_faults_"]),
    ("request_headers", "guide/routing.md#what-the-service-sees", &[]),
    ("reshape", "guide/reshape.md", &["portcullis_reshape_"]),
    ("answer_contract", "guide/contracts.md#answers", &["portcullis_contract_"]),
    ("etag", "guide/answers.md#tags-and-304", &[]),
    ("security_headers", "guide/answers.md#security-headers", &[]),
    ("response_headers", "guide/routing.md#what-the-service-sees", &[]),
    ("compress", "guide/answers.md#compression", &[]),
    ("cache", "guide/caching.md", &["portcullis_cache_"]),
    ("error_pages", "guide/answers.md#pages-for-errors", &[]),
    ("mirror", "guide/services.md#copies-of-requests", &["portcullis_mirror"]),
];

fn is_updating() -> bool {
    std::env::var_os("UPDATE_REFERENCE").is_some()
}

/// Writes what is generated below the mark of a page, or holds the page against it.
#[track_caller]
fn hold(path: &str, generated: &str) {
    let before = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let head = before.split_once(MARK).map_or("", |(head, _)| head);
    let whole = format!("{head}{MARK}{generated}");
    if is_updating() {
        std::fs::create_dir_all(root().join(path).parent().unwrap()).unwrap();
        std::fs::write(root().join(path), whole).unwrap();
        return;
    }
    assert!(before == whole, "{path} is not what the code says; write it anew with `make reference`");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn reasons(out: &mut String, told: &refusals::Told) {
    out.push_str("| reason | status | the client is told |\n|---|---|---|\n");
    for (reason, known) in told {
        let statuses: Vec<String> = known.statuses.iter().map(u16::to_string).collect();
        let _ = writeln!(out, "| `{reason}` | {} | {} |", statuses.join(", "), cell(&known.sentences.join(" / ")));
    }
}

/// The rows of the metrics' table whose names begin so.
fn metrics(starts: &[&str]) -> Vec<String> {
    let page = page("docs/operate/metrics.md");
    let rows = page.lines().filter(|line| starts.iter().any(|start| line.starts_with(&format!("| `{start}"))));
    rows.map(str::to_owned).collect()
}

#[test]
fn every_policy_has_a_page_and_the_pages_are_current() {
    let schema = portcullis::config::schema::schema();
    let refused = refusals::all();
    let mut index = String::from("\n| stage | policy | what it does |\n|---|---|---|\n");
    for entry in REGISTRY {
        let stage = entry.stage.name();
        let _ = writeln!(index, "| {stage} | [`{0}`]({0}.md) | {1} |", entry.name, cell(entry.summary));
        let (_, guide, starts) = MORE
            .iter()
            .find(|(name, ..)| *name == entry.name)
            .unwrap_or_else(|| panic!("add `{}` to MORE in this test", entry.name));
        let (kinds, keys) = reference::policy(&schema, entry.name);
        let mut out = format!("# `{}`\n\n{}\n\nStage: `{stage}`. Value: {kinds}.\n", entry.name, entry.summary);
        let _ = write!(
            out,
            "How it is used: [guide](../{guide}). In which order policies work: [concepts](../concepts.md#policies).\n{keys}"
        );
        if let Some(told) = refused.get(entry.name) {
            out.push_str("\n## Refusals\n\n");
            reasons(&mut out, told);
        }
        let rows = metrics(starts);
        if !rows.is_empty() {
            let _ = write!(out, "\n## Metrics\n\n| metric | labels | counts |\n|---|---|---|\n{}\n", rows.join("\n"));
        }
        hold(&format!("docs/policies/{}.md", entry.name), &out);
    }
    hold("docs/policies/README.md", &index);
    let files = std::fs::read_dir(root().join("docs/policies")).unwrap().count();
    assert_eq!(files, REGISTRY.len() + 1, "a page of a policy that is not there any more");
}

#[test]
fn every_reason_is_in_the_table_of_refusals() {
    let refused = refusals::all();
    let count: usize = refused.values().map(refusals::Told::len).sum();
    assert!(count > 100, "{count} reasons");
    let mut out = String::new();
    for (name, words) in refusals::OTHERS {
        let _ = write!(out, "\n## `{name}`: {words}\n\n");
        reasons(&mut out, &refused[name]);
    }
    for entry in REGISTRY {
        if let Some(told) = refused.get(entry.name) {
            let _ = write!(out, "\n## `{}`\n\n", entry.name);
            reasons(&mut out, told);
        }
    }
    let known = |name: &String| {
        REGISTRY.iter().any(|entry| entry.name == name) || refusals::OTHERS.iter().any(|(other, _)| other == name)
    };
    let strangers: Vec<_> = refused.keys().filter(|name| !known(name)).collect();
    assert!(strangers.is_empty(), "who are they? {strangers:?}");
    hold("docs/operate/refusals.md", &out);
}

/// Some metrics are only there at run time, where what they count has happened: their names in the source are held against the page.
#[test]
fn every_metric_in_the_source_is_in_the_table() {
    let page = page("docs/operate/metrics.md");
    let name = Regex::new(r#""(portcullis_[a-z_]+[a-z])""#).unwrap();
    let mut missing = Vec::new();
    let mut folders = vec![root().join("src")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for found in name.captures_iter(text).filter(|_| !path.to_string_lossy().ends_with("tests.rs")) {
                count += 1;
                if !page.contains(&format!("| `{}` |", &found[1])) {
                    missing.push(found[1].to_owned());
                }
            }
        }
    }
    assert!(missing.is_empty() && count > 40, "{count}: {missing:?}");
}

#[test]
fn every_endpoint_of_the_admin_api_is_in_its_table() {
    let page = page("docs/operate/admin-api.md");
    let route = Regex::new(r#"\.route\("([^"]+)", ([^\n]+)"#).unwrap();
    let method = Regex::new(r"\b(get|post|put|patch|delete)\(").unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("src/admin")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for found in route.captures_iter(&text) {
            for method in method.captures_iter(&found[2]) {
                let row = format!("| `{} {}", method[1].to_uppercase(), &found[1]);
                assert!(page.contains(&row), "{row} is not in docs/operate/admin-api.md");
                count += 1;
            }
        }
    }
    assert!(count >= 14, "{count} endpoints");
}
