//! `fault`: answers late or not at all, on purpose, to try what clients and services make of it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::listen::trace;
use crate::policy::{Compile, OnWait, PlanBuilder, Policy, Stage, Waiting};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::upstream::call::Engine;
use crate::value::{Period, Share, Spanned, period_within};

const NAME: &str = "fault";
const LONGEST: u64 = 60_000;

/// Faults that the gateway injects: a request waits first, and is then refused. Only with `server: { fault_injection: true }`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FaultConfig {
    /// Refuses requests in the service's stead.
    pub abort: Option<AbortConfig>,
    /// Lets requests wait before anything else is done for them.
    pub delay: Option<DelayConfig>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbortConfig {
    /// The status of the answer, 400 to 599. gRPC clients get the code that stands for it.
    pub status: Spanned<u16>,
    /// How many of the requests it is for. Default: all.
    #[serde(default)]
    pub share: Share,
    /// Only requests for which this CEL expression is true: `request.headers['x-fault'] == 'abort'`, `identity.consumer == 'tester'`.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DelayConfig {
    /// How long they wait, `1ms` to `1m`.
    #[serde(rename = "for")]
    pub time: Spanned<Period>,
    /// How many of the requests it is for. Default: all.
    #[serde(default)]
    pub share: Share,
    /// Only requests for which this CEL expression is true.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
}

/// The compiled policy.
pub struct Fault {
    abort: Option<(StatusCode, Whose)>,
    delay: Option<(Duration, Whose)>,
}

/// Whose requests a fault is for.
struct Whose {
    share: Share,
    when: Option<Expression>,
    injected: Arc<Counter>,
}

impl Whose {
    fn compile(share: Share, when: Option<&Spanned<String>>, fault: &str, cx: &mut Compile<'_>) -> Option<Self> {
        let compiled = when.map(|when| Expression::compile(&when.value, when.place, cx.problems, Kind::Bool));
        let help = "Faults that were injected on purpose, by kind.";
        let injected = cx.tallies.counter("portcullis_faults_injected_total", help, &[("scope", cx.scope), ("fault", fault)]);
        Some(Whose { share, when: compiled.map_or(Some(None), |when| when.map(Some))?, injected })
    }

    /// A condition that fails on a request is not met: nobody is hurt by mistake.
    fn takes(&self, head: &RequestHead, exchange: &Exchange) -> bool {
        self.share.takes(trace::random()) && self.when.as_ref().is_none_or(|when| when.bool(head, exchange).unwrap_or(false))
    }
}

impl Fault {
    fn aborts(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        let Some((status, whose)) = self.abort.as_ref().filter(|(_, whose)| whose.takes(head, exchange)) else {
            return Flow::Continue(());
        };
        whose.injected.add(1);
        exchange.fault = if exchange.fault.is_empty() { "abort" } else { "delay,abort" };
        Reply::new(*status, NAME, "fault_injected", "This answer is a fault that was injected on purpose.").refuse()
    }
}

impl Policy for Fault {
    const NAME: &'static str = NAME;
    const STAGE: Stage = Stage::Admit;
    const SUMMARY: &'static str =
        "Answers late or refuses on purpose, to try what clients make of it (the status that it is told).";
    type Config = FaultConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        if !cx.faults {
            let problem = Problem::error(cx.place, "faults are injected only where the whole gateway allows it");
            cx.problems.push(problem.hint("write `server: { fault_injection: true }`, or take `fault` out"));
        }
        if config.abort.is_none() && config.delay.is_none() {
            let problem = Problem::error(cx.place, "`fault` needs `abort` or `delay`");
            cx.problems.push(problem.hint("abort: { status: 503, share: 10% }"));
            return None;
        }
        let abort = config.abort.as_ref().map(|abort| {
            let status = StatusCode::from_u16(abort.status.value).ok().filter(|status| (400..600).contains(&status.as_u16()));
            if status.is_none() {
                cx.problems.push(Problem::error(abort.status.place, "`status` is from 400 to 599"));
            }
            let whose = Whose::compile(abort.share, abort.when.as_ref(), "abort", cx);
            Some((status?, whose?))
        });
        let delay = config.delay.as_ref().map(|delay| {
            let time = period_within("for", &delay.time, 1, LONGEST, cx.problems);
            let whose = Whose::compile(delay.share, delay.when.as_ref(), "delay", cx);
            Some((time?, whose?))
        });
        let (abort, delay) =
            (abort.map_or(Some(None), |abort| abort.map(Some)), delay.map_or(Some(None), |delay| delay.map(Some)));
        Some(Fault { abort: abort?, delay: delay? }).filter(|_| cx.faults)
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let looks = |whose: &Whose| whose.when.as_ref().is_some_and(Expression::looks_at_path);
        let by_path = self.abort.as_ref().is_some_and(|(_, whose)| looks(whose));
        plan.options().by_path |= by_path || self.delay.as_ref().is_some_and(|(_, whose)| looks(whose));
        plan.on_wait(self);
    }
}

impl OnWait for Fault {
    fn at_once(&self, head: &RequestHead, exchange: &mut Exchange) -> Option<Flow> {
        match &self.delay {
            Some((_, whose)) if whose.takes(head, exchange) => None,
            _ => Some(self.aborts(head, exchange)),
        }
    }

    fn wait<'a>(&'a self, head: &'a RequestHead, exchange: &'a mut Exchange, _: Engine<'a>) -> Waiting<'a> {
        Box::pin(async move {
            if let Some((time, whose)) = &self.delay {
                whose.injected.add(1);
                exchange.fault = "delay";
                tokio::time::sleep(*time).await;
            }
            self.aborts(head, exchange)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::testing::complaint;

    #[test]
    fn what_is_wrong_is_said() {
        for (config, part) in [
            (json!({ "abort": { "status": 503 } }), "only where the whole gateway allows it"),
            (json!({ "abort": { "status": 200 } }), "only where"),
        ] {
            let said = complaint::<Fault>(config.clone());
            assert!(said.contains(part), "{config}: {said}");
        }
    }
}
