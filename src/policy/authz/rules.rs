//! Rules in CEL, for what lists cannot say. The first that holds decides.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::NAME;
use crate::cel::{Expression, Kind};
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::policy::Compile;
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::tally::Counter;
use crate::value::Spanned;

/// The most rules of one entry.
const MAX_RULES: usize = 100;

/// How often one rule's failures are logged at most; the metric counts them all.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A rule: `allow` or `deny`, and when. Expressions are CEL over `request`, `identity` and `route`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Lets the request pass this entry when it holds; later rules are not asked.
    pub allow: Option<Spanned<String>>,
    /// Refuses the request when it holds.
    pub deny: Option<Spanned<String>>,
    /// What a client that this rule refuses is told. Only with `deny`.
    pub message: Option<Spanned<String>>,
}

pub struct Rules {
    rules: Vec<Rule>,
    /// A list with an `allow` refuses whatever no rule decides.
    allows_by_default: bool,
}

struct Rule {
    when: Expression,
    allows: bool,
    message: Option<String>,
    /// `route:/cart/*, rule 2`.
    name: String,
    failures: Arc<Counter>,
    /// When a failure may be logged next, in milliseconds on the process's own clock.
    quiet_until: AtomicU64,
}

impl Rules {
    /// `Ok(None)` if there are none; `Err` if something is wrong with them, which was said. `before`: how many rules of this policy
    /// were numbered before these.
    pub(super) fn compile(configs: &[RuleConfig], before: usize, cx: &mut Compile<'_>) -> Result<Option<Rules>, ()> {
        if configs.len() > MAX_RULES {
            cx.problems.push(Problem::error(cx.place, format!("`rules` has at most {MAX_RULES} rules")));
            return Err(());
        }
        let compiled: Vec<Option<Rule>> =
            configs.iter().zip(before + 1..).map(|(config, number)| Rule::compile(config, number, cx)).collect();
        let rules = compiled.into_iter().collect::<Option<Vec<Rule>>>().ok_or(())?;
        let allows_by_default = !rules.iter().any(|rule| rule.allows);
        Ok((!rules.is_empty()).then_some(Rules { rules, allows_by_default }))
    }

    pub(super) fn look_at_path(&self) -> bool {
        self.rules.iter().any(|rule| rule.when.looks_at_path())
    }

    pub fn check(&self, head: &RequestHead, exchange: &Exchange) -> Flow {
        for rule in &self.rules {
            match rule.when.bool(head, exchange) {
                Ok(false) => {}
                Ok(true) if rule.allows => return ControlFlow::Continue(()),
                Ok(true) => {
                    let detail = rule.message.clone().unwrap_or_else(|| "This resource is not open to this request.".to_owned());
                    return Reply::new(StatusCode::FORBIDDEN, NAME, "rule_denied", detail)
                        .decided_by(rule.name.as_str())
                        .refuse();
                }
                Err(error) => {
                    rule.failed(error.word());
                    return refuse("rule_failed", &rule.name);
                }
            }
        }
        if self.allows_by_default { ControlFlow::Continue(()) } else { refuse("rule_not_allowed", "no rule") }
    }
}

#[cfg(test)]
impl Rules {
    pub fn failures(&self) -> u64 {
        self.rules.iter().map(|rule| rule.failures.sum()).sum()
    }
}

fn refuse(reason: &'static str, rule: &str) -> Flow {
    Reply::new(StatusCode::FORBIDDEN, NAME, reason, "This resource is not open to this request.").decided_by(rule).refuse()
}

impl Rule {
    fn compile(config: &RuleConfig, number: usize, cx: &mut Compile<'_>) -> Option<Rule> {
        let (written, allows) = match (&config.allow, &config.deny) {
            (Some(allow), None) => (allow, true),
            (None, Some(deny)) => (deny, false),
            (Some(one), Some(_)) => {
                cx.problems.push(Problem::error(one.place, "a rule either allows or denies").hint("write two rules"));
                return None;
            }
            (None, None) => {
                let problem = Problem::error(cx.place, "a rule needs `allow` or `deny`");
                cx.problems.push(problem.hint("{ deny: \"request.path.startsWith('/internal')\" }"));
                return None;
            }
        };
        if allows && let Some(message) = &config.message {
            cx.problems.push(Problem::error(message.place, "`message` is for a rule that denies"));
        }
        let when = Expression::compile(&written.value, written.place, cx.problems, Kind::Bool)?;
        let labels = [("scope", cx.scope), ("rule", &*number.to_string())];
        Some(Rule {
            when,
            allows,
            message: config.message.as_ref().map(|message| message.value.clone()),
            name: format!("{}, rule {number}", cx.scope),
            failures: cx.tallies.counter(
                "portcullis_authz_rule_errors_total",
                "Requests refused because a rule failed.",
                &labels,
            ),
            quiet_until: AtomicU64::new(0),
        })
    }

    #[cold]
    fn failed(&self, why: &'static str) {
        self.failures.add(1);
        let now = since_start();
        let until = self.quiet_until.load(Ordering::Relaxed);
        let next = now + u64::try_from(LOG_EVERY.as_millis()).unwrap_or(u64::MAX);
        if now >= until && self.quiet_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log::warn!("authz, {}: failed ({why}); such requests are refused", self.name);
        }
    }
}

/// Milliseconds since this was first asked.
fn since_start() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
