//! What is wrong with a configuration, and where.
//!
//! Loading collects every [`Problem`] instead of stopping at the first one. A problem carries only its [`Place`]; the
//! configuration path (`routes[3].policies.rate_limit`) is looked up from the place when the report is rendered.

pub mod foreign;

use std::collections::{HashMap, HashSet};
use std::fmt;

/// Where a value stands in a configuration file. `line` and `column` count from 1, `column` in characters; a `Place` with `line`
/// 0 is [`Place::NOWHERE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
    /// How many characters the caret underlines; at least 1.
    pub width: u32,
}

impl Place {
    /// A default that nobody wrote, or a file as a whole.
    pub const NOWHERE: Place = Place { line: 0, column: 0, width: 0 };

    pub fn is_known(&self) -> bool {
        self.line != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is taken; the operator should look.
    Warning,
}

/// One thing that is wrong, in a sentence that names the offending value and never a secret.
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Problem {
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Error, place, message: message.into(), hint: None }
    }

    pub fn warning(place: Place, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, place, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

/// The collector that every step of loading writes to.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// Keys that were written in the map at a place, and that count as absent because something about them was refused.
    lost: HashMap<Place, HashSet<String>>,
}

impl Problems {
    pub fn push(&mut self, problem: Problem) {
        // The same wrong value is often reached on two ways (a global policy merged into two routes): say it once.
        if !self.list.iter().any(|known| known.place == problem.place && known.message == problem.message) {
            self.list.push(problem);
        }
    }

    /// Notes that this key of the map at this place, or something below it, was refused.
    pub fn lose(&mut self, place: Place, key: &str) {
        self.lost.entry(place).or_default().insert(key.to_owned());
    }

    /// Whether this key of the map at this place was written, and refused at least in part: what is missing for that reason has been
    /// said.
    pub fn has_lost(&self, place: Place, key: &str) -> bool {
        self.lost.get(&place).is_some_and(|keys| keys.contains(key))
    }

    /// Takes back, of the problems from the one numbered `from` on, those that `follow` from what was said before them.
    pub fn drop_from(&mut self, from: usize, follow: impl Fn(&Problem) -> bool) {
        let mut number = 0;
        self.list.retain(|problem| {
            number += 1;
            number <= from || !follow(problem)
        });
    }

    pub fn error_count(&self) -> usize {
        self.list.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// In the order of the file.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|problem| problem.place);
    }
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(did_you_mean("rate_limits", ["rate_limit", "cors"]), Some("rate_limit"));
        assert_eq!(did_you_mean("zzz", ["rate_limit", "cors"]), None);
    }

    #[test]
    fn says_the_same_thing_once() {
        let mut problems = Problems::default();
        let place = Place { line: 1, column: 2, width: 3 };
        problems.push(Problem::error(place, "no"));
        problems.push(Problem::error(place, "no"));
        assert_eq!(problems.len(), 1);
    }
}
