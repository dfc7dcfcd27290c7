//! The rule that people wrote, checked.

use schemars::JsonSchema;
use serde::Deserialize;

use super::store::{DEFAULT_MAX_KEYS, MOST_MAX_KEYS};
use super::{Gcra, Rule, Window};
use crate::problem::{Problem, Problems};
use crate::value::{Rate, Spanned};

pub const EVICTED: &str = "Clients that were forgotten because a limit remembers no more of them.";

/// How requests are spread over a limit's period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// A bucket of `burst` tokens that is refilled evenly at the limit's rate, in nanoseconds (GCRA).
    #[default]
    TokenBucket,
    /// At most `limit` in the period that has just passed; of the period before, as much counts as the window still covers.
    SlidingWindow,
}

/// The checked rule, or a problem at its place.
pub fn rule(limit: &Spanned<Rate>, burst: Option<u32>, algorithm: Algorithm, problems: &mut Problems) -> Option<Rule> {
    let rule = match algorithm {
        Algorithm::TokenBucket => Gcra::new(limit.count, limit.per, burst).map(Rule::TokenBucket),
        Algorithm::SlidingWindow => Window::new(limit.count, limit.per).map(Rule::SlidingWindow),
    };
    rule.map_err(|error| problems.push(Problem::error(limit.place, error))).ok()
}

/// How many clients are remembered.
pub fn max_keys(config: Option<&Spanned<u64>>, problems: &mut Problems) -> Option<usize> {
    let Some(config) = config else { return Some(DEFAULT_MAX_KEYS) };
    let wanted = usize::try_from(config.value).ok().filter(|wanted| (1..=MOST_MAX_KEYS).contains(wanted));
    if wanted.is_none() {
        problems.push(Problem::error(config.place, format!("max_keys is between 1 and {MOST_MAX_KEYS}")));
    }
    wanted
}
