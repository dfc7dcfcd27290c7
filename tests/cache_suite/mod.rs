//! The public tests of HTTP caches (the npm package `http-cache-tests`, those of cache-tests.fyi), run against the gateway with their own
//! server behind it. What comes of them is listed in docs/develop/cache-tests.md.

mod others;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use others::Others;
use serde_json::Value;

use crate::harness::{Files, Gateway, Port, eventually, installed, request};

/// Tests of what a cache must do that this one does not do, and why.
const EXPLAINED: [(&str, &str); 11] = [
    (
        "age-parse-prefix",
        "`Age: 0,7200` counts as stale here, as `Age: 0, 0` and two `Age` do in the suite: the least fresh wins. (So says the test's own name. RFC \
         9111, section 5.1, would take the first; who does so fails nine of the suite's twelve.)",
    ),
    (
        "headers-store-Set-Cookie",
        "An answer that sets a cookie is for one client and is not stored, unless `private=\"Set-Cookie\"` says which part of it that is.",
    ),
    (
        "headers-store-Set-Cookie2",
        "As with `Set-Cookie`: it is out of use (RFC 6265), but not every client knows that. Those that pass do not know the field.",
    ),
    ("304-etag-update-response-Set-Cookie", "An answer that sets a cookie is not stored, so there is nothing to update."),
    ("304-etag-update-response-Set-Cookie2", "As with `Set-Cookie`."),
    (
        "headers-store-Transfer-Encoding",
        "The suite's server answers with a `Transfer-Encoding` that does not exist, which is an answer that cannot be framed: 502.",
    ),
    (
        "304-etag-update-response-ETag",
        "The suite's 304 names another `ETag` than what is stored; RFC 9111, section 4.3.4, has that update nothing, so the answer is fetched whole.",
    ),
    (
        "stale-close-must-revalidate",
        "The suite's server closes the connection, and the test wants a field that only this server's answers have: no answer of a gateway passes, \
         be it the 502 that is due.",
    ),
    ("stale-close-no-cache", "As with `must-revalidate`."),
    ("stale-close-proxy-revalidate", "As with `must-revalidate`."),
    ("stale-close-s-maxage=2", "As with `must-revalidate`."),
];

/// Tests of what makes a good cache that this one does not do, and why.
const LEFT: [(&str, &str); 15] = [
    (
        "conditional-lm-fresh-no-lm",
        "It asks by a date before the stored `Date`: by RFC 9111, section 4.3.2, that is changed since, and 200.",
    ),
    ("method-POST", "A POST is answered from the cache only where `methods` names it, and never a GET by it."),
    ("other-cookie", "A `Cookie` is a credential, unless `cookies` says which ones are not."),
    ("other-set-cookie", "An answer that sets a cookie is for one client. Some keep it without the field."),
    ("partial-store-partial-complete", "Parts without a strong validator are not put together (RFC 9111, section 3.4)."),
    (
        "partial-store-partial-reuse-partial",
        "Parts are kept where `ranges: parts` says so; the suite's says that it is six bytes long and has five, and is not kept there either.",
    ),
    ("partial-store-partial-reuse-partial-absent", "As above."),
    ("partial-store-partial-reuse-partial-byterange", "As above."),
    ("partial-store-partial-reuse-partial-suffix", "As above."),
    ("vary-normalise-combine", "Requests match that the service sees in the same words: it may read the first line alone."),
    (
        "vary-normalise-lang-case",
        "As above; with `vary: { accept_language: [ en, de ] }` the service is asked in the same words, and it passes.",
    ),
    ("vary-normalise-lang-order", "As above; the order may be one of preference (RFC 9110, section 12.5.4)."),
    ("vary-normalise-lang-select", "Which language an answer is in is for the service to choose."),
    ("vary-normalise-lang-space", "As with the case of letters."),
    (
        "vary-normalise-space",
        "Where blanks mean nothing is for a field's own syntax to say (RFC 9111, section 4.1), and nobody knows that of this one.",
    ),
];

/// The suite's own server.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passes,
    Fails,
    /// What it builds on does not hold.
    Depends,
    /// It did not come to what it is about.
    Setup,
    /// It is for browsers.
    NotRun,
}

struct Results(BTreeMap<String, Value>);

impl Results {
    fn verdict(&self, id: &str) -> Verdict {
        let Some(test) = self.0.get(id) else { return Verdict::NotRun };
        let depends = |on: &Value| !matches!(self.verdict(on.as_str().unwrap()), Verdict::Passes | Verdict::NotRun);
        match &test["result"] {
            _ if test["depends"].as_array().unwrap().iter().any(depends) => Verdict::Depends,
            Value::Bool(true) => Verdict::Passes,
            Value::Null => Verdict::NotRun,
            Value::Array(said) if said[0] == "Setup" => Verdict::Setup,
            _ => Verdict::Fails,
        }
    }

    /// Those of a kind that do not pass.
    fn missing<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value, Verdict)> {
        let of_kind = self.0.iter().filter(move |(_, test)| test["kind"] == kind);
        let judged = of_kind.map(|(id, test)| (id.as_str(), test, self.verdict(id)));
        judged.filter(|(_, _, verdict)| !matches!(verdict, Verdict::Passes | Verdict::NotRun))
    }

    fn count(&self, suite: Option<&str>, kind: &str) -> (usize, usize) {
        let of_kind = self.0.iter().filter(|(_, test)| test["kind"] == kind && suite.is_none_or(|suite| test["suite"] == suite));
        let judged: Vec<_> = of_kind.map(|(id, _)| self.verdict(id)).filter(|verdict| *verdict != Verdict::NotRun).collect();
        (judged.iter().filter(|verdict| **verdict == Verdict::Passes).count(), judged.len())
    }
}

fn folder() -> PathBuf {
    installed("cache-suite", &["tests/npm.sh", "tests/cache_suite"])
}

/// As loadtest/cache_suite.py has it too.
const GATEWAY: &str = include_str!("gateway.yaml");

fn run() -> Results {
    let (folder, files, port) = (folder(), Files::new(), Port::lease());
    let suite = folder.join("node_modules/http-cache-tests");
    let server = Command::new("node")
        .arg(folder.join("server.mjs"))
        .current_dir(&suite)
        .env("npm_config_protocol", "http")
        .env("npm_config_port", port.number().to_string())
        .env("npm_config_pidfile", files.dir().join("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(files.dir().join("stderr")).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs node: {error}"));
    let _server = Server(server);
    let gateway = Gateway::start(&GATEWAY.replace("$ORIGIN", &port.number().to_string()));
    eventually("the suite's server is there", || {
        request(gateway.port(), "GET", "/", &[("Cache-Control", "no-store")], b"").status == 200
    });
    let told = Command::new("node")
        .arg(folder.join("run.mjs"))
        .arg(format!("http://127.0.0.1:{}", gateway.port()))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(told.status.success());
    let lines = String::from_utf8(told.stdout).unwrap();
    let tests = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
    Results(tests.map(|test| (test["id"].as_str().unwrap().to_owned(), test)).collect())
}

fn page(results: &Results, others: &Others) -> String {
    let (required, optimal) = (results.count(None, "required"), results.count(None, "optimal"));
    let mut out = format!(
        "# The public tests of HTTP caches\n\nThe npm package `http-cache-tests` (0.4.5, that of cache-tests.fyi) is part of the test suite. It runs \
         against a route with\n`cache: {{ heuristic: {{}}, shared_with_auth: true }}`, and this page is written by it: `UPDATE_REFERENCE=1 cargo test --test main cache_suite`.\n\n\
         It passes {} of {} tests of what a cache must do, and {} of {} of what makes a good one.\n\n| suite | must | should |\n|---|---|---|\n",
        required.0, required.1, optimal.0, optimal.1
    );
    let mut suites: Vec<&str> = results.0.values().map(|test| test["suite"].as_str().unwrap()).collect();
    suites.sort_unstable();
    suites.dedup();
    for suite in suites {
        let cell = |(passed, all): (usize, usize)| if all == 0 { String::new() } else { format!("{passed}/{all}") };
        let of = |kind| cell(results.count(Some(suite), kind));
        let _ = writeln!(out, "| {suite} | {} | {} |", of("required"), of("optimal"));
    }
    others.tell(results, &mut out);
    out.push_str("\n## What it must do and does not\n\n| test | why | passed by |\n|---|---|---|\n");
    for (id, ..) in results.missing("required") {
        let why = said_of(&EXPLAINED, id).unwrap_or("?");
        let _ = writeln!(out, "| `{id}` | {why} | {} |", others.passing(id));
    }
    out.push_str("\n## What it could do and does not\n\n| test | what it asks for | why not | passed by |\n|---|---|---|---|\n");
    for (id, test, _) in results.missing("optimal") {
        let name = test["name"].as_str().unwrap().trim_end().replace('|', "\\|");
        let why = said_of(&LEFT, id).unwrap_or("?");
        let _ = writeln!(out, "| `{id}` | {name} | {why} | {} |", others.passing(id));
    }
    out
}

/// What a list says of a test, or of a cache.
fn said_of<'a>(list: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    list.iter().find(|(known, _)| *known == name).map(|(_, said)| *said)
}

/// Whether each that does not pass is explained, and each that is explained does not pass.
fn explained(results: &Results) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (kind, reasons) in [("required", &EXPLAINED[..]), ("optimal", &LEFT[..])] {
        let strange = results.missing(kind).filter(|(id, ..)| said_of(reasons, id).is_none());
        wrong.extend(strange.map(|(id, test, _)| format!("{id}: {}", test["result"])));
        let needless = reasons.iter().filter(|(id, _)| matches!(results.verdict(id), Verdict::Passes | Verdict::NotRun));
        wrong.extend(needless.map(|(id, _)| format!("{id} passes")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:#?}")) }
}

#[test]
fn what_comes_of_the_public_tests_is_listed_and_explained() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/develop/cache-tests.md");
    let mut wrong = String::new();
    // Some of them go by the clock, and fail where it is late.
    for _ in 0..3 {
        let results = run();
        let page = page(&results, &Others::recorded(&results));
        match explained(&results) {
            Ok(()) if std::env::var_os("UPDATE_REFERENCE").is_some() => return std::fs::write(path, page).unwrap(),
            Ok(()) if std::fs::read_to_string(&path).unwrap_or_default() == page => return,
            Ok(()) => wrong = format!("docs/develop/cache-tests.md is not what comes of the tests now:\n{page}"),
            Err(unexplained) => wrong = unexplained,
        }
    }
    panic!("{wrong}");
}
