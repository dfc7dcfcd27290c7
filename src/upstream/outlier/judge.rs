//! The judge of one service: looks at what is remembered of its endpoints, leaves some out and takes them back. Runs on the watchers'
//! thread, when a row of failures has become too long and when it is time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Ejection, Reason, Rules, Sums};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::service::Service;

/// What a judge remembers from one look to the next.
#[derive(Default)]
pub struct Judge {
    /// When statistics are due.
    due: Option<Instant>,
}

impl Judge {
    /// Looks at every endpoint. Whether anything has changed, and when to look again.
    pub fn look(&mut self, service: &Service, now: Instant, vary: impl Fn(Duration) -> Duration) -> (bool, Option<Instant>) {
        let endpoints: Vec<_> = service.cluster.endpoints().into_iter().map(|(_, endpoint)| endpoint).collect();
        let mut changed = take_back(service, &endpoints, now);
        let Some(rules) = service.outliers.as_deref() else { return (changed, None) };
        for endpoint in &endpoints {
            if let Some(reason) = endpoint.record.suspicion() {
                changed |= Bench { service, rules, endpoints: &endpoints, now }.eject(endpoint, reason, &vary);
            }
        }
        if rules.has_statistics() {
            let due = *self.due.get_or_insert_with(|| now + rules.interval);
            if due <= now {
                self.due = Some(now + rules.interval);
                for (endpoint, reason) in strays(rules, &endpoints) {
                    changed |= Bench { service, rules, endpoints: &endpoints, now }.eject(&endpoint, reason, &vary);
                }
            }
        } else {
            self.due = None;
        }
        let ends = endpoints.iter().filter_map(|endpoint| Some(endpoint.record.ejection()?.until));
        (changed, ends.chain(self.due).min())
    }
}

/// Those whose time is over; all of them where nobody is to be left out any more.
fn take_back(service: &Service, endpoints: &[Arc<Endpoint>], now: Instant) -> bool {
    let mut changed = false;
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.is_ejected()) {
        let Some(Ejection { until, .. }) = endpoint.record.ejection() else { continue };
        match &service.outliers {
            Some(_) if now < until => continue,
            Some(_) => endpoint.record.take_back(now),
            None => endpoint.record.forget(),
        }
        endpoint.set_ejected(false);
        changed = true;
        tell_back(service, endpoint, "its time is over");
    }
    changed
}

/// A check that went well ends an ejection that was about reaching the endpoint. Whether there was one.
pub fn proved_reachable(service: &str, endpoint: &Endpoint, now: Instant) -> bool {
    let about_reach = |ejection: Ejection| ejection.reason.is_about_reach();
    if !endpoint.is_ejected() || !endpoint.record.ejection().is_some_and(about_reach) {
        return false;
    }
    endpoint.record.take_back(now);
    endpoint.set_ejected(false);
    info!("service `{service}`: the endpoint {} is asked again: a health check reached it", endpoint.address());
    true
}

fn tell_back(service: &Service, endpoint: &Endpoint, why: &str) {
    info!("service `{}`: the endpoint {} is asked again: {why}", service.name, endpoint.address());
}

struct Bench<'a> {
    service: &'a Service,
    rules: &'a Rules,
    endpoints: &'a [Arc<Endpoint>],
    now: Instant,
}

impl Bench<'_> {
    /// Leaves an endpoint out, unless too many are already.
    fn eject(&self, endpoint: &Endpoint, reason: Reason, vary: impl Fn(Duration) -> Duration) -> bool {
        if endpoint.is_ejected() {
            return false;
        }
        let (name, address, why) = (&*self.service.name, endpoint.address(), self.why(reason));
        let board = self.service.cluster.board();
        let out = self.endpoints.iter().filter(|endpoint| endpoint.is_ejected()).count();
        if out >= self.rules.may_eject(self.endpoints.len()) {
            if endpoint.record.is_spared_anew(self.rules, self.now) {
                if self.endpoints.len() > 1 {
                    warn!("service `{name}`: the endpoint {address} would be left out ({why}), but {out} others are already");
                }
                board.count_prevented(reason.as_str());
            }
            return false;
        }
        let (ejection, length) = endpoint.record.eject(self.rules, reason, self.now, vary);
        endpoint.set_ejected(true);
        board.count_ejected(reason.as_str());
        let times = ejection.times;
        warn!("service `{name}`: the endpoint {address} is left out for {length:.1?}: {why} ({}, time {times})", reason.as_str());
        true
    }

    fn why(&self, reason: Reason) -> String {
        let [any, gateway, local, connect] = self.rules.consecutive;
        match reason {
            Reason::Consecutive5xx => format!("{any} answers in a row were 5xx"),
            Reason::ConsecutiveGatewayErrors => format!("{gateway} answers in a row were 502, 503 or 504"),
            Reason::ConsecutiveLocalErrors => format!("{local} attempts in a row got no answer"),
            Reason::ConsecutiveConnectFailures => format!("{connect} connections in a row could not be made"),
            Reason::SuccessRate => "its success rate is far below the others'".to_owned(),
            Reason::FailurePercentage => "too large a share of its requests failed".to_owned(),
            Reason::Latency => "it takes far longer than the others".to_owned(),
        }
    }
}

/// Those that the statistics since the last look say something against.
fn strays(rules: &Rules, endpoints: &[Arc<Endpoint>]) -> Vec<(Arc<Endpoint>, Reason)> {
    let present: Vec<_> = endpoints.iter().filter(|endpoint| !endpoint.is_ejected()).collect();
    let sums: Vec<Sums> = present.iter().map(|endpoint| endpoint.record.look()).collect();
    let mut found: Vec<(usize, Reason)> = Vec::new();
    if let Some(rate) = &rules.success_rate {
        let judged = with(&sums, |sums| sums.attempts >= u64::from(rate.requests), Sums::success_rate);
        if judged.len() >= rate.endpoints as usize {
            let (mean, deviation) = spread(&judged);
            let least = mean - rate.deviations * deviation;
            found.extend(judged.iter().filter(|(_, rate)| *rate < least).map(|(at, _)| (*at, Reason::SuccessRate)));
        }
    }
    if let Some(failing) = &rules.failure_percentage {
        let judged: Vec<_> = sums.iter().enumerate().filter(|(_, sums)| sums.attempts >= u64::from(failing.requests)).collect();
        if judged.len() >= failing.endpoints as usize {
            let bad = judged.iter().filter(|(_, sums)| failing.threshold.is_reached(sums.failures, sums.attempts));
            found.extend(bad.map(|(at, _)| (*at, Reason::FailurePercentage)));
        }
    }
    if let Some(latency) = &rules.latency {
        let mut judged = with(&sums, |sums| sums.timed >= u64::from(latency.requests), Sums::mean);
        if judged.len() >= latency.endpoints as usize {
            judged.sort_by(|(_, one), (_, other)| one.total_cmp(other));
            // Of an even number the lower one: half of the endpoints may be slow.
            let median = judged.get((judged.len() - 1) / 2).map_or(0.0, |(_, mean)| *mean);
            let most = (median * latency.factor).max(median + latency.difference.as_secs_f64());
            // The slowest first, for not all of them may be left out.
            found.extend(judged.iter().rev().filter(|(_, mean)| *mean > most).map(|(at, _)| (*at, Reason::Latency)));
        }
    }
    found.into_iter().filter_map(|(at, reason)| Some(((*present.get(at)?).clone(), reason))).collect()
}

/// Of those of which enough is known, a figure and who they are.
fn with(sums: &[Sums], enough: impl Fn(&Sums) -> bool, figure: impl Fn(Sums) -> f64) -> Vec<(usize, f64)> {
    sums.iter().enumerate().filter(|(_, sums)| enough(sums)).map(|(at, sums)| (at, figure(*sums))).collect()
}

/// Mean and standard deviation.
fn spread(figures: &[(usize, f64)]) -> (f64, f64) {
    let count = figures.len().max(1) as f64;
    let mean = figures.iter().map(|(_, figure)| figure).sum::<f64>() / count;
    let variance = figures.iter().map(|(_, figure)| (figure - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::config::OutlierChoice;
    use super::super::{AttemptOutcome, Noted};
    use super::*;
    use crate::problem::Problems;

    /// Endpoints with so many requests each, of which so many failed, that took so many milliseconds.
    fn seen(rules: &Rules, each: &[(u32, u32, u64)]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(&(all, failed, millis), port): (&(u32, u32, u64), u16)| {
            let endpoint = Arc::new(Endpoint::new(([10, 0, 0, 1], port).into(), "a:1", None));
            for number in 0..all {
                let status = if number < failed { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
                let took = Some(Duration::from_millis(millis));
                endpoint.record.note(rules, AttemptOutcome::Status(status), took, &mut Noted::Nothing);
            }
            endpoint
        };
        each.iter().zip(1..).map(endpoint).collect()
    }

    fn found(yaml: &str, each: &[(u32, u32, u64)]) -> Vec<u16> {
        let choice: OutlierChoice = serde_yaml::from_str(yaml).unwrap();
        let rules = choice.compile(&mut Problems::default()).unwrap().unwrap();
        let endpoints = seen(&rules, each);
        let strays = strays(&rules, &endpoints);
        assert!(self::strays(&rules, &endpoints).is_empty(), "what was judged once is not judged again");
        strays.into_iter().map(|(endpoint, _)| endpoint.address().inet().unwrap().port()).collect()
    }

    #[test]
    fn the_success_rate_is_compared_with_the_others() {
        let yaml = "{ consecutive_5xx: 0, success_rate: { min_requests: 100, min_endpoints: 5 } }";
        let (well, ill) = ((100, 2, 1), (100, 40, 1));
        assert_eq!(found(yaml, &[well, well, well, well, well, ill]), [6]);
        // All of them are bad, so that none is an outlier; or too little is known.
        assert!(found(yaml, &[ill; 6]).is_empty());
        assert!(found(yaml, &[well, well, well, ill]).is_empty());
        assert!(found(yaml, &[well, well, well, well, well, (99, 99, 1)]).is_empty());
    }

    #[test]
    fn a_share_of_failures_is_too_much_by_itself() {
        let yaml = "{ consecutive_5xx: 0, failure_percentage: { threshold: 50%, min_requests: 10 } }";
        assert_eq!(found(yaml, &[(10, 5, 1), (10, 4, 1), (10, 10, 1), (9, 9, 1)]), [1, 3]);
        assert!(found(yaml, &[(10, 10, 1), (9, 0, 1)]).is_empty());
    }

    #[test]
    fn who_is_much_slower_than_the_median_is_found() {
        let yaml = "{ consecutive_5xx: 0, latency: { factor: 3, min_difference: 20ms, min_requests: 10 } }";
        let at = |millis| (10, 0, millis);
        assert_eq!(found(yaml, &[at(20), at(61), at(20), at(200)]), [4, 2]);
        assert!(found(yaml, &[at(1), at(15), at(1)]).is_empty(), "quick anyway");
        assert!(found(yaml, &[at(20), at(200)]).is_empty(), "of two nobody knows which");
    }
}
