//! Which endpoints of a service may be asked: not those that were taken out, that are not well, or that are left out for a while. And
//! what happens when hardly any are left.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::config::unknown_word;
use super::endpoint::Endpoint;
use super::health_config::Initial;
use crate::problem::Problems;
use crate::value::{Share, Spanned, share_within};

/// What happens when too few endpoints are well.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PanicConfig {
    /// Fewer than this share of the endpoints (those that were drained do not count) are healthy and not ejected, `1%` to `100%`.
    pub below: Spanned<Share>,
    /// `ask_all`: all endpoints are asked, well or not, so that the few that are do not get everybody's requests. `refuse`: none is, and
    /// clients are told 503, so that what is left can recover. Default: `ask_all`.
    #[serde(default)]
    pub then: Then,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    AskAll,
    Refuse,
}

impl<'de> Deserialize<'de> for Then {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match &*String::deserialize(deserializer)? {
            "ask_all" => Ok(Then::AskAll),
            "refuse" => Ok(Then::Refuse),
            other => Err(serde::de::Error::custom(unknown_word("word", other, &["ask_all", "refuse"]))),
        }
    }
}

impl JsonSchema for Then {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PanicThen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["ask_all", "refuse"] })
    }
}

/// [`PanicConfig`], checked.
#[derive(Debug, Clone, Copy)]
pub struct Panic {
    below: Share,
    then: Then,
}

impl Panic {
    /// `None` only if there was a problem.
    pub fn compile(config: &PanicConfig, problems: &mut Problems) -> Option<Self> {
        Some(Panic { below: share_within("below", &config.below, problems)?, then: config.then })
    }
}

/// How it was decided who may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Those that are well.
    Well,
    /// Too few are, so that all are asked, or none.
    Panic(Then),
}

/// Those that may be asked. `checked`: what health checks say counts, and what an endpoint counts as before the first good one.
pub fn eligible(
    endpoints: Vec<(u32, Arc<Endpoint>)>,
    checked: Option<Initial>,
    panic: Option<Panic>,
) -> (Vec<(u32, Arc<Endpoint>)>, Choice) {
    let mut present: Vec<_> = endpoints.into_iter().filter(|(weight, endpoint)| *weight > 0 && !endpoint.is_drained()).collect();
    let healthy = |endpoint: &Endpoint| checked.is_none_or(|initial| endpoint.passes_checks(initial));
    let well = |endpoint: &Endpoint| healthy(endpoint) && !endpoint.is_ejected();
    let count = present.iter().filter(|(_, endpoint)| well(endpoint)).count();
    let too_few = |panic: &Panic| !present.is_empty() && !panic.below.is_reached(count as u64, present.len() as u64);
    let choice = panic.filter(too_few).map_or(Choice::Well, |panic| Choice::Panic(panic.then));
    match choice {
        Choice::Panic(Then::Refuse) => present.clear(),
        Choice::Panic(Then::AskAll) => present.retain(|(_, endpoint)| !endpoint.is_shut()),
        // An ejection is a guess, and never a reason to ask nobody at all.
        Choice::Well if count == 0 => present.retain(|(_, endpoint)| healthy(endpoint) && !endpoint.is_shut()),
        Choice::Well => present.retain(|(_, endpoint)| well(endpoint) && !endpoint.is_shut()),
    }
    (present, choice)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::endpoint::Thresholds;

    fn four() -> Vec<(u32, Arc<Endpoint>)> {
        let endpoint = |port: u16| (1, Arc::new(Endpoint::new(([10, 0, 0, 1], port).into(), "a:1", None)));
        (1..=4).map(endpoint).collect()
    }

    fn ports(four: &[(u32, Arc<Endpoint>)], checked: bool, panic: Option<Panic>) -> Vec<u16> {
        let (may, _) = eligible(four.to_vec(), checked.then_some(Initial::Healthy), panic);
        may.iter().map(|(_, endpoint)| endpoint.address().inet().unwrap().port()).collect()
    }

    fn ill(endpoint: &Endpoint) {
        endpoint.observe(Err(String::new()), Duration::ZERO, Thresholds { healthy_after: 1, unhealthy_after: 1 });
    }

    #[test]
    fn each_way_to_be_left_out_counts() {
        let mut four = four();
        four[0].0 = 0;
        four[1].1.set_drained(true);
        ill(&four[2].1);
        assert_eq!(ports(&four, true, None), [4]);
        assert_eq!(ports(&four, false, None), [3, 4], "without checks, what they said is forgotten");
        // A guess is better than nobody; a check's word, an operator's and a breaker's are not to be overruled.
        four[3].1.set_ejected(true);
        assert_eq!(ports(&four, true, None), [4]);
        four[3].1.set_shut(true);
        assert!(ports(&four, true, None).is_empty());
    }

    #[test]
    fn panic_asks_all_or_nobody() {
        let four = four();
        let panic = |then| Some(Panic { below: Share::percent(50), then });
        ill(&four[0].1);
        four[1].1.set_ejected(true);
        assert_eq!(ports(&four, true, panic(Then::AskAll)), [3, 4], "half of them are well");
        ill(&four[2].1);
        assert_eq!(ports(&four, true, panic(Then::AskAll)), [1, 2, 3, 4]);
        assert!(ports(&four, true, panic(Then::Refuse)).is_empty());
        // Who was taken out is not missed.
        [0, 2].into_iter().for_each(|at: usize| {
            four[at].1.set_drained(true);
        });
        assert_eq!(ports(&four, true, panic(Then::AskAll)), [4], "one of two");
    }
}
