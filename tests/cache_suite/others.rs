//! What other caches do in the same tests: docs/develop/cache-tests.json, which `make bench-cache-suite` writes (loadtest/cache_suite.py).

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::{Results, Verdict, folder, said_of};

/// Of which version the package's record is, by its own list (results/index.mjs).
const RECORDED: [(&str, &str); 5] =
    [("apache", "2.4.46"), ("nginx", "1.18.0"), ("squid", "4.13"), ("trafficserver", "8.0.8"), ("varnish", "6.4.0")];

/// Where what was measured is far from what the package records, and why.
const FAR: [(&str, &str); 1] = [(
    "trafficserver",
    "the package's record is from before six of the tests were there, and heuristic freshness, which it was made without, accounts for one alone",
)];

struct Other {
    key: String,
    /// What the script wrote of it, but for its results.
    about: Value,
    results: Results,
    /// What the package itself records of it.
    recorded: Results,
}

pub struct Others {
    suite: String,
    all: Vec<Other>,
}

impl Others {
    /// `own` says of each test what it is about.
    pub fn recorded(own: &Results) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/develop/cache-tests.json");
        let written = read(path);
        let with = |results: &Value| {
            let mut with = Results(own.0.clone());
            with.0.iter_mut().for_each(|(id, test)| test["result"] = results[id.as_str()].clone());
            with
        };
        let caches = written["caches"].as_object().unwrap().iter();
        let all = caches.map(|(key, about)| Other {
            key: key.clone(),
            results: with(&about["results"]),
            recorded: with(&read(folder().join(format!("node_modules/http-cache-tests/results/{key}.json")))),
            about: about.clone(),
        });
        Others { suite: written["suite"].as_str().unwrap().to_owned(), all: all.collect() }
    }

    /// The names of those that pass a test.
    pub fn passing(&self, id: &str) -> String {
        let passing = self.all.iter().filter(|other| other.results.verdict(id) == Verdict::Passes);
        passing.map(Other::name).collect::<Vec<_>>().join(", ")
    }

    pub fn tell(&self, own: &Results, out: &mut String) {
        let _ = write!(
            out,
            "\n## Beside others\n\nWhat `make bench-cache-suite` has found of other shared caches with the same tests (`{}`), the same server behind them \
             and the same way\nto count. Each is set up to do what its origin says, beginning with the settings of the tests' own project \
             (`loadtest/peers/caches.py`). What came\nof a test in most rounds counts. \"Recorded\" is what the package itself records, of older versions.\n\n\
             | cache | version | must | should | recorded | must | should |\n|---|---|---|---|---|---|---|\n",
            self.suite
        );
        let cell = |(passed, all): (usize, usize)| format!("{passed}/{all}");
        let both =
            |results: &Results| format!("{} | {}", cell(results.count(None, "required")), cell(results.count(None, "optimal")));
        let _ = writeln!(out, "| Portcullis | this one | {} | | | |", both(own));
        for other in &self.all {
            let (now, then) = (both(&other.results), both(&other.recorded));
            let _ = writeln!(
                out,
                "| {} | {} | {now} | {} | {then} |",
                other.name(),
                other.word("version"),
                said_of(&RECORDED, &other.key).unwrap_or_default()
            );
        }
        out.push_str("\nHow they are set up:\n\n");
        for other in &self.all {
            let (system, date) = (other.word("system"), other.word("date"));
            let _ = writeln!(out, "- {} ({system}, {date}): {}.", other.name(), other.word("settings"));
        }
        out.push_str("\nWhere that differs from what is recorded, among the tests of both kinds:\n\n");
        for other in &self.all {
            let _ = writeln!(out, "- {}: {}.", other.name(), other.differences());
        }
        for other in self.all.iter().filter(|other| !other.unsteady().is_empty()) {
            let _ = writeln!(out, "\nNot the same in every round with {}: {}.", other.name(), named(&other.unsteady()));
        }
    }
}

impl Other {
    fn word(&self, key: &str) -> &str {
        self.about[key].as_str().unwrap()
    }

    fn name(&self) -> &str {
        self.word("name")
    }

    /// Of the tests that count.
    fn unsteady(&self) -> Vec<&str> {
        let names = self.about["unsteady"].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
        names.filter(|id| counts(&self.results.0[*id])).collect()
    }

    fn differences(&self) -> String {
        let passes = |results: &Results, id: &str| results.verdict(id) == Verdict::Passes;
        let counting = || self.results.0.iter().filter(|(_, test)| counts(test)).map(|(id, _)| id.as_str());
        let gained: Vec<&str> = counting().filter(|id| passes(&self.results, id) && !passes(&self.recorded, id)).collect();
        let lost: Vec<&str> = counting().filter(|id| !passes(&self.results, id) && passes(&self.recorded, id)).collect();
        let why = said_of(&FAR, &self.key).map(|why| format!("; {why}")).unwrap_or_default();
        match (gained.is_empty(), lost.is_empty()) {
            (true, true) => "nowhere".to_owned(),
            (false, true) => format!("passes {} now{why}", named(&gained)),
            (true, false) => format!("passes {} no longer{why}", named(&lost)),
            (false, false) => format!("passes {} now, and {} no longer{why}", named(&gained), named(&lost)),
        }
    }
}

/// A test of what a cache must do, or should.
fn counts(test: &Value) -> bool {
    test["kind"] == "required" || test["kind"] == "optimal"
}

fn named(ids: &[&str]) -> String {
    const MOST: usize = 6;
    if ids.len() > MOST {
        return format!("{} tests", ids.len());
    }
    ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}

fn read(path: PathBuf) -> Value {
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
