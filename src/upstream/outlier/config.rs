//! `services: NAME: outlier_detection`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use super::{FailurePercentage, Latency, Rules, SuccessRate};
use crate::problem::{Problem, Problems};
use crate::value::{Period, Share, Spanned, count_within, period_within, share_within, switched, switched_schema};

/// The most of anything that is counted.
const MOST: u32 = 1_000_000;
const HOUR: u64 = 3_600_000;

/// `false`, `true` or a map; nothing is the default.
#[derive(Debug, Clone, Default)]
pub enum OutlierChoice {
    #[default]
    Unwritten,
    Off,
    On(Box<OutlierConfig>),
}

/// Which endpoints are left out for a while because of what came of their requests.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierConfig {
    /// So many answers in a row with a status of 500 or more: not 501 and 505, which a client brings about by its method or version.
    /// Of gRPC calls, the statuses that mean the same. 0 to 1000; 0 is never. Default: 5.
    pub consecutive_5xx: Spanned<u32>,
    /// So many answers in a row with 502, 503 or 504. 0 to 1000; 0 is never. Default: 0.
    pub consecutive_gateway_errors: Spanned<u32>,
    /// So many attempts in a row without a sound answer: no connection, none in time, the connection broken off, or an answer that is not
    /// HTTP. 0 to 1000; 0 is never. Default: 5.
    pub consecutive_local_errors: Spanned<u32>,
    /// So many connections in a row that could not be made. 0 to 1000; 0 is never. Default: 3, also without `outlier_detection`.
    pub consecutive_connect_failures: Spanned<u32>,
    /// Compares the endpoints' success rates. Default: it does not.
    pub success_rate: Option<Spanned<SuccessRateConfig>>,
    /// Looks at each endpoint's share of failures. Default: it does not.
    pub failure_percentage: Option<Spanned<FailurePercentageConfig>>,
    /// Compares how long the endpoints take. Default: it does not.
    pub latency: Option<Spanned<LatencyConfig>>,
    /// How often rates, shares and times are looked at, of the requests since the last time, `1s` to `1h`. Default: `10s`.
    pub interval: Spanned<Period>,
    /// How long an endpoint is left out the first time, `100ms` to `1h`; the second time twice as long, and so on. Each time of this
    /// length that it then does well takes one back. Varied by up to a tenth, so that endpoints do not all come back in one moment.
    /// Default: `10s`.
    pub base_ejection: Spanned<Period>,
    /// The longest that an endpoint is left out, `base_ejection` to `24h`. Default: `5m`.
    pub max_ejection: Spanned<Period>,
    /// The share of a service's endpoints that may be left out at a time, `1%` to `100%`, though always one of several. Default: `50%`.
    pub max_ejected: Spanned<Share>,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        OutlierConfig {
            consecutive_5xx: Spanned::nowhere(5),
            consecutive_gateway_errors: Spanned::nowhere(0),
            consecutive_local_errors: Spanned::nowhere(5),
            consecutive_connect_failures: Spanned::nowhere(3),
            success_rate: None,
            failure_percentage: None,
            latency: None,
            interval: seconds(10),
            base_ejection: seconds(10),
            max_ejection: seconds(300),
            max_ejected: Spanned::nowhere(Share::percent(50)),
        }
    }
}

/// An endpoint whose success rate is far below the others' is left out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessRateConfig {
    /// How many standard deviations below the mean of the endpoints' success rates is too far, 0.1 to 100. Default: 1.9.
    pub deviations: Spanned<f64>,
    /// An endpoint with fewer requests in the interval is not judged, 1 to 1000000. Default: 100.
    pub min_requests: Spanned<u32>,
    /// With fewer such endpoints nobody is judged, 2 to 10000. Default: 5.
    pub min_endpoints: Spanned<u32>,
}

impl Default for SuccessRateConfig {
    fn default() -> Self {
        SuccessRateConfig {
            deviations: Spanned::nowhere(1.9),
            min_requests: Spanned::nowhere(100),
            min_endpoints: Spanned::nowhere(5),
        }
    }
}

/// An endpoint of whose requests too many fail is left out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailurePercentageConfig {
    /// The share of failures that is too much, `1%` to `100%`. Default: `85%`.
    pub threshold: Spanned<Share>,
    /// An endpoint with fewer requests in the interval is not judged, 1 to 1000000. Default: 50.
    pub min_requests: Spanned<u32>,
    /// With fewer such endpoints nobody is judged, 1 to 10000. Default: 2.
    pub min_endpoints: Spanned<u32>,
}

impl Default for FailurePercentageConfig {
    fn default() -> Self {
        FailurePercentageConfig {
            threshold: Spanned::nowhere(Share::percent(85)),
            min_requests: Spanned::nowhere(50),
            min_endpoints: Spanned::nowhere(2),
        }
    }
}

/// An endpoint that takes far longer than the others is left out.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatencyConfig {
    /// How many times the median of the endpoints' mean times is too long, 1.1 to 1000. Default: 5.
    pub factor: Spanned<f64>,
    /// And at least this much longer than that median, `1ms` to `1h`: what is quick anyway may differ. Default: `50ms`.
    pub min_difference: Spanned<Period>,
    /// An endpoint with fewer answers in the interval is not judged, 1 to 1000000. Default: 50.
    pub min_requests: Spanned<u32>,
    /// With fewer such endpoints nobody is judged, 3 to 10000. Default: 3.
    pub min_endpoints: Spanned<u32>,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        LatencyConfig {
            factor: Spanned::nowhere(5.0),
            min_difference: Spanned::nowhere(Period(std::time::Duration::from_millis(50))),
            min_requests: Spanned::nowhere(50),
            min_endpoints: Spanned::nowhere(3),
        }
    }
}

fn seconds(count: u64) -> Spanned<Period> {
    Spanned::nowhere(Period(std::time::Duration::from_secs(count)))
}

impl OutlierChoice {
    /// `Some(None)` is off; `None` only if there was a problem.
    pub fn compile(&self, problems: &mut Problems) -> Option<Option<Rules>> {
        match self {
            OutlierChoice::Off => Some(None),
            OutlierChoice::On(config) => compile(config, problems).map(Some),
            OutlierChoice::Unwritten => {
                // What a user would want who has never heard of it: an endpoint that cannot be reached is left alone. No client can bring
                // that about; all else a client may, by what it asks for, and is looked at only where somebody says so.
                let never = || Spanned::nowhere(0);
                let config =
                    OutlierConfig { consecutive_5xx: never(), consecutive_local_errors: never(), ..OutlierConfig::default() };
                compile(&config, problems).map(Some)
            }
        }
    }
}

fn compile(config: &OutlierConfig, problems: &mut Problems) -> Option<Rules> {
    let any = count_within("consecutive_5xx", &config.consecutive_5xx, 0, 1000, problems);
    let gateway = count_within("consecutive_gateway_errors", &config.consecutive_gateway_errors, 0, 1000, problems);
    let local = count_within("consecutive_local_errors", &config.consecutive_local_errors, 0, 1000, problems);
    let connect = count_within("consecutive_connect_failures", &config.consecutive_connect_failures, 0, 1000, problems);
    let interval = period_within("interval", &config.interval, 1000, HOUR, problems);
    let base = period_within("base_ejection", &config.base_ejection, 100, HOUR, problems);
    let least = u64::try_from(base.unwrap_or_default().as_millis()).unwrap_or_default();
    let most = match config.max_ejection.place.is_known() {
        true => period_within("max_ejection", &config.max_ejection, least, 24 * HOUR, problems),
        // A longer base is meant to be one.
        false => Some(config.max_ejection.value.0.max(base.unwrap_or_default())),
    };
    let max_ejected = share_within("max_ejected", &config.max_ejected, problems);
    let success_rate = config.success_rate.as_ref().map(|rate| {
        let deviations = within("deviations", &rate.deviations, 0.1, 100.0, problems);
        let requests = count_within("min_requests", &rate.min_requests, 1, MOST, problems);
        let endpoints = count_within("min_endpoints", &rate.min_endpoints, 2, 10_000, problems);
        Some(SuccessRate { deviations: deviations?, requests: requests?, endpoints: endpoints? })
    });
    let failure_percentage = config.failure_percentage.as_ref().map(|failing| {
        let threshold = share_within("threshold", &failing.threshold, problems);
        let requests = count_within("min_requests", &failing.min_requests, 1, MOST, problems);
        let endpoints = count_within("min_endpoints", &failing.min_endpoints, 1, 10_000, problems);
        Some(FailurePercentage { threshold: threshold?, requests: requests?, endpoints: endpoints? })
    });
    let latency = config.latency.as_ref().map(|latency| {
        let factor = within("factor", &latency.factor, 1.1, 1000.0, problems);
        let difference = period_within("min_difference", &latency.min_difference, 1, HOUR, problems);
        let requests = count_within("min_requests", &latency.min_requests, 1, MOST, problems);
        let endpoints = count_within("min_endpoints", &latency.min_endpoints, 3, 10_000, problems);
        Some(Latency { factor: factor?, difference: difference?, requests: requests?, endpoints: endpoints? })
    });
    // An inner `None` is a problem that has been told.
    let whole = |missing: bool| (!missing).then_some(());
    whole(matches!(success_rate, Some(None)) || matches!(failure_percentage, Some(None)) || matches!(latency, Some(None)))?;
    Some(Rules {
        consecutive: [any?, gateway?, local?, connect?],
        success_rate: success_rate.flatten(),
        failure_percentage: failure_percentage.flatten(),
        latency: latency.flatten(),
        interval: interval?,
        base: base?,
        most: most?,
        max_ejected: max_ejected?,
    })
}

fn within(what: &str, number: &Spanned<f64>, least: f64, most: f64, problems: &mut Problems) -> Option<f64> {
    if (least..=most).contains(&number.value) {
        return Some(number.value);
    }
    let message = format!("`{what}` is {}, which is not between {least} and {most}", number.value);
    problems.push(Problem::error(number.place, message));
    None
}

impl<'de> Deserialize<'de> for OutlierChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = switched(deserializer, "`true`, `false` or a map such as `{ consecutive_5xx: 5 }`")?;
        Ok(config.map_or(OutlierChoice::Off, |config| OutlierChoice::On(Box::new(config))))
    }
}

impl JsonSchema for OutlierChoice {
    fn schema_name() -> Cow<'static, str> {
        "OutlierDetection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        switched_schema::<OutlierConfig>(generator)
    }
}
