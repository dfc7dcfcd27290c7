//! Who refuses, with which reason and which words: read from the source, where each stands beside the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

use super::root;

/// Reasons, and what is known of each.
pub type Told = BTreeMap<String, Known>;

/// What refuses without being a policy, with the words for it.
pub const OTHERS: [(&str, &str); 8] = [
    ("door", "the reading of requests, deadlines, overload"),
    ("route", "the choice of the route"),
    ("upstream", "the services"),
    ("compose", "answers made of those of several services"),
    ("transcode", "calls of gRPC's that are made of requests of REST's"),
    ("connect_rpc", "unary calls of the Connect protocol to services of gRPC's"),
    ("lambda", "functions of AWS Lambda"),
    ("client", "the client itself; it is logged, never sent"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // Commands, sample services and the operator's API refuse no request.
            if !["demo", "cli", "admin", "node"].contains(&&*name) {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Who refuses in this file, where the place itself does not say.
fn refuser(path: &str) -> &'static str {
    const FILES: [(&str, &str); 34] = [
        ("transcode", "transcode"),
        ("upstream/call/transcoded/connect", "connect_rpc"),
        ("upstream/call/transcoded", "transcode"),
        ("upstream/call/invoked", "lambda"),
        ("policy/shape/reshape", "reshape"),
        ("policy/shape/answer_contract", "answer_contract"),
        ("policy/edge/cors", "cors"),
        ("policy/validate/csrf", "csrf"),
        ("policy/edge/size", "bounds"),
        ("policy/edge/ip_restriction", "ip_restriction"),
        ("policy/edge/address_limit", "address_limit"),
        ("policy/edge/websocket", "websocket"),
        ("policy/validate/openapi", "openapi"),
        ("policy/validate/graphql", "graphql"),
        ("policy/validate", "validate"),
        ("policy/authn", "authn"),
        ("policy/authz/external", "external_auth"),
        ("policy/authz", "authz"),
        ("policy/admit/rate_limit", "rate_limit"),
        ("policy/admit/quota", "quota"),
        ("policy/admit/throttle", "throttle"),
        ("policy/admit/concurrency", "concurrency_limit"),
        ("policy/admit/adaptive", "adaptive_concurrency"),
        ("policy/admit/fault", "fault"),
        ("policy/shape/cache", "cache"),
        ("policy/shape/compress", "compress"),
        ("route/own", "route"),
        // In the name of whichever has to see a body.
        ("journey/content", "validate"),
        ("wire/stages", "upstream"),
        ("upstream", "upstream"),
        ("forward", "upstream"),
        ("proxy", "upstream"),
        ("embed/reply", "upstream"),
        ("wire/answer", "upstream"),
    ];
    FILES.iter().find(|(start, _)| path.starts_with(start)).map_or("door", |(_, name)| name)
}

/// The status of reasons in this file that stand beside none.
fn status(path: &str, reason: &str) -> Option<u16> {
    const FILES: [(&str, u16); 8] = [
        ("upstream/call/transcoded/connect", 400),
        ("upstream/call/transcoded", 502),
        ("policy/admit/fault", 0),
        ("policy/authn", 401),
        ("policy/authz/external", 0),
        ("policy/authz", 403),
        ("policy/admit/throttle", 429),
        ("wire/answer", 502),
    ];
    const REASONS: [(&str, u16); 16] = [
        // Whatever the call has ended with.
        ("call_failed", 0),
        ("json_duplicate_name", 400),
        ("json_too_many_members", 400),
        ("json_too_many_elements", 400),
        ("json_string_too_long", 400),
        ("charset_unsupported", 415),
        ("content_type_missing", 415),
        ("content_type_unsupported", 415),
        ("json_malformed", 400),
        ("json_not_utf8", 400),
        ("json_too_deep", 400),
        ("deadline_exceeded", 504),
        ("request_timeout", 504),
        ("shutdown", 503),
        ("headers_too_large", 431),
        ("too_many_headers", 431),
    ];
    let by_reason = REASONS.iter().find(|(name, _)| *name == reason);
    let by_file = || FILES.iter().find(|(start, _)| path.starts_with(start));
    by_reason.or_else(by_file).map(|(_, status)| *status).filter(|status| *status != 0)
}

/// The sentence that `detail` holds here: the last one that was given to it.
fn detail(before: &str) -> &str {
    let Some((_, after)) = before.rsplit_once("let detail =") else { return "" };
    let Some(sentence) = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else { return "" };
    if after.len() < 400 && !sentence.contains('{') { sentence } else { "" }
}

/// The status that stands before a reason, in its own statement.
fn explicit(before: &str) -> Option<u16> {
    let (_, after) = before.rsplit_once("StatusCode::")?;
    let name = after.split(|c: char| !c.is_ascii_uppercase() && c != '_').next()?;
    let apart = after.len() > 160 || after.contains([';', '}']);
    STATUSES.iter().find(|(known, _)| *known == name && !apart).map(|(_, status)| *status)
}

/// A sentence that the source breaks into lines, in one.
fn joined(sentence: &str) -> String {
    sentence.split("\\\n").map(|line| line.trim_start_matches(' ')).collect()
}

/// What is known of a reason.
#[derive(Default)]
pub struct Known {
    pub statuses: BTreeSet<u16>,
    pub sentences: Vec<String>,
}

/// Every reason in the source, by who refuses.
pub fn all() -> BTreeMap<String, Told> {
    const WORD: &str = r#""([a-z][a-z0-9]*(?:_[a-z0-9]+)*)""#;
    // `"reason", "The sentence."`, or a sentence that is put together.
    let beside = format!(r#"(?:"(door|route|upstream|compose|client|bounds)",\s*)?{WORD},\s*(?:"([A-Z][^"]*)"|detail|format!)"#);
    let named = format!(r#"(?:NAME|"(door|route|upstream|compose|client)"),\s*{WORD}()"#);
    let verdict = format!(r#"Verdict \{{ policy: "(\w+)", reason: {WORD}()"#);
    let called = format!(r#"()(?:refuse|bad)\((?:StatusCode::\w+,\s*)?{WORD}()"#);
    let json = r#"()=> \("(json_[a-z0-9_]+)"()"#.to_owned();
    let field = format!(r#"()BadHead \{{ status: StatusCode::\w+, reason: {WORD}, detail: "([^"]*)""#);
    let patterns: Vec<Regex> =
        [beside, named, verdict, called, json, field].iter().map(|text| Regex::new(text).unwrap()).collect();
    let mut found: BTreeMap<String, Told> = BTreeMap::new();
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if !text.contains("Reply") && !text.contains("reason") {
            continue;
        }
        let path = file.strip_prefix(root().join("src")).unwrap().display().to_string();
        for hit in patterns.iter().flat_map(|pattern| pattern.captures_iter(text)) {
            let group = |number| hit.get(number).map_or("", |group: regex::Match<'_>| group.as_str());
            let (policy, reason) = (Some(group(1)).filter(|policy| !policy.is_empty()).unwrap_or(refuser(&path)), group(2));
            if reason.starts_with("portcullis_") || OTHERS.iter().any(|(name, _)| *name == reason) {
                continue;
            }
            let known = found.entry(policy.to_owned()).or_default().entry(reason.to_owned()).or_default();
            let whole = hit.get(0).unwrap();
            let told = if whole.as_str().ends_with("detail") { detail(&text[..whole.start()]) } else { group(3) };
            let told = joined(told);
            if !told.is_empty() && !known.sentences.contains(&told) {
                known.sentences.push(told);
            }
            let explicit = explicit(&text[..hit.get(2).unwrap().start()]);
            let unavailable = text[whole.end()..].trim_start_matches([',', '\n', ' ']).starts_with("Unavailable");
            let bad = whole.as_str().starts_with("bad(") || text[..whole.start()].trim_end().ends_with("bad(");
            let told_status = match (unavailable, bad) {
                (true, _) => Some(503),
                (_, true) => Some(400),
                _ => explicit.or(status(&path, reason)),
            };
            known.statuses.extend(told_status);
        }
    }
    found
}

const STATUSES: [(&str, u16); 23] = [
    ("NO_CONTENT", 204),
    ("MOVED_PERMANENTLY", 301),
    ("PERMANENT_REDIRECT", 308),
    ("BAD_REQUEST", 400),
    ("UNAUTHORIZED", 401),
    ("FORBIDDEN", 403),
    ("NOT_FOUND", 404),
    ("METHOD_NOT_ALLOWED", 405),
    ("REQUEST_TIMEOUT", 408),
    ("LENGTH_REQUIRED", 411),
    ("PAYLOAD_TOO_LARGE", 413),
    ("URI_TOO_LONG", 414),
    ("UNSUPPORTED_MEDIA_TYPE", 415),
    ("EXPECTATION_FAILED", 417),
    ("MISDIRECTED_REQUEST", 421),
    ("TOO_MANY_REQUESTS", 429),
    ("REQUEST_HEADER_FIELDS_TOO_LARGE", 431),
    ("NOT_IMPLEMENTED", 501),
    ("BAD_GATEWAY", 502),
    ("SERVICE_UNAVAILABLE", 503),
    ("GATEWAY_TIMEOUT", 504),
    ("HTTP_VERSION_NOT_SUPPORTED", 505),
    ("LOOP_DETECTED", 508),
];
