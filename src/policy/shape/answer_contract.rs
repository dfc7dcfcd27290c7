//! `answer_contract`: holds what a service answers to a JSON Schema, so that nothing leaves that clients were not promised.
//!
//! An answer is held back until it is whole and known to be good, but for the streams that say themselves that they are some. The service is
//! asked for answers without a coding: what it codes itself cannot be read here, and counts as broken. Where something is taken out, nobody is asked
//! for conditions either: the service's tags and dates are of answers that clients do not get.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::exchange::Exchange;
use crate::grpc::Dialect;
use crate::head::{HeaderEdit, RequestHead};
use crate::jose::json;
use crate::json::Tree;
use crate::policy::validate::contract::{SchemaConfig, schema};
use crate::policy::validate::media::{MediaType, UNCODED};
use crate::policy::validate::report::{Outcome, Part, Report, Wrong};
use crate::policy::{Compile, Follows, OnRequest, OnResponse, Outgoing, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::reply::{Flow, Reply};
use crate::schema::{Schema, Violation};
use crate::value::{Size, Spanned};
use crate::wire::coding::is_coded;
use crate::wire::stages::{Beyond, BodyStage, Changed, Validator, Whole};

/// The longest answer that may be held back, in bytes, and the longest that is where nobody says otherwise.
const MOST: u64 = 16 << 20;
const DEFAULT: u64 = 1 << 20;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerContractConfig {
    /// What the body of an answer with the status 2xx has to be. It is JSON.
    pub schema: SchemaConfig,
    /// Whether `format` in the schema asserts something. Default: false.
    #[serde(default)]
    pub formats: bool,
    /// What is done with answers that break it: clients get 502 instead (`enforce`), or the answer goes out and is counted (`report`), or nothing
    /// is looked at (`off`); or what the schema does not know is taken out (`strip`), and what is left is held to it.
    #[serde(default)]
    pub mode: AnswerMode,
    /// The longest body that is looked at, up to 16MiB: it is held back until it is whole. A longer one breaks the contract, and passes with
    /// `mode: report`. Default: 1MiB.
    pub up_to: Option<Spanned<Size>>,
}

/// What is done with answers that break the schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerMode {
    /// Clients get 502 instead.
    #[default]
    Enforce,
    /// They go out, and are counted: `GET /contracts` of the admin API.
    Report,
    /// Members of objects that the schema does not know are taken out; what is left has to be as it says, else 502.
    Strip,
    /// Nobody looks.
    Off,
}

/// The compiled policy.
pub struct AnswerContract {
    inner: Arc<Inner>,
    up_to: usize,
}

struct Inner {
    schema: Schema,
    mode: AnswerMode,
    report: Arc<Report>,
}

/// Looks at one answer.
struct Looking {
    inner: Arc<Inner>,
    consumer: Option<Arc<str>>,
    json: bool,
}

impl Inner {
    fn broken(&self, wrong: &[Wrong<'_>], consumer: Option<&str>) -> Result<(), Box<Reply>> {
        let outcome = if self.mode == AnswerMode::Report { Outcome::Reported } else { Outcome::Refused };
        let Some(decided) = self.report.judge_answer("", wrong, consumer, outcome) else { return Ok(()) };
        let detail = "The service's answer is not what was agreed on.";
        let reply = Reply::new(StatusCode::BAD_GATEWAY, AnswerContract::NAME, "answer_breaks_contract", detail);
        Err(reply.decided_by(decided))
    }
}

/// What is wrong with an answer as a whole.
fn wrong(keyword: &'static str, detail: &str) -> Wrong<'static> {
    Wrong::new(Part::Answer, "", Violation::whole(keyword, detail))
}

impl Looking {
    /// Takes out what the schema does not know: the body without it, where there was something; `None` where that cannot be told.
    fn strip(&self, body: &Bytes, value: &mut Value, steps: u64) -> Option<Option<Bytes>> {
        let mut tree = Tree::parse(body, 0).ok()?;
        if self.inner.schema.strip(&mut tree, value, steps)? == 0 {
            return Some(None);
        }
        let left = tree.write();
        *value = json::value(&left)?;
        Some(Some(left.into()))
    }
}

impl Whole for Looking {
    fn whole(self: Box<Self>, _: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>> {
        let consumer = self.consumer.as_deref();
        let steps = crate::policy::validate::contract::steps(body.len());
        let Some(mut value) = self.json.then(|| json::value(body)).flatten() else {
            self.inner.broken(&[wrong("json", "must be JSON")], consumer)?;
            return Ok(None);
        };
        let mut left = None;
        if self.inner.mode == AnswerMode::Strip {
            match self.strip(body, &mut value, steps) {
                Some(body) => left = body,
                None => self.inner.broken(&[wrong("strip", "must be what can be taken apart")], consumer)?,
            }
        }
        if let Some(broken) = self.inner.schema.broken(&value, steps, 20) {
            let each = broken.violations.into_iter();
            let wrong: Vec<_> =
                each.map(|violation| Wrong::in_value(Part::Answer, "", violation, &value, &self.inner.schema)).collect();
            self.inner.broken(&wrong, consumer)?;
        }
        Ok(left)
    }
}

impl OnRequest for AnswerContract {
    fn on_request(&self, head: &RequestHead, exchange: &mut Exchange) -> Flow {
        exchange.to_upstream.push(HeaderEdit::Set(header::ACCEPT_ENCODING, UNCODED));
        if self.inner.mode == AnswerMode::Strip && (head.method == Method::GET || head.method == Method::HEAD) {
            let conditions = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE];
            exchange.to_upstream.extend(conditions.map(HeaderEdit::Remove));
        }
        if self.inner.mode != AnswerMode::Report {
            // Of a part nobody can say whether it is of what was agreed on.
            let whole = [header::RANGE, header::IF_RANGE];
            exchange.to_upstream.extend(whole.map(HeaderEdit::Remove));
        }
        Flow::Continue(())
    }
}

impl OnResponse for AnswerContract {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let strips = self.inner.mode == AnswerMode::Strip;
        if strips && answer.status() == StatusCode::NOT_MODIFIED {
            // Nobody was asked for it, and what it speaks of is not what the client has.
            answer.changes_body(Validator::Drop);
        }
        if !answer.status().is_success() || self.inner.mode == AnswerMode::Off {
            return Flow::Continue(());
        }
        let looks = self.inner.mode != AnswerMode::Report;
        if !looks && answer.exchange.shown_again {
            // That was told when it was first given.
            return Flow::Continue(());
        }
        let judge = |one: Wrong<'_>| {
            let consumer = answer.exchange.consumer().map(|name| &**name);
            self.inner.broken(&[one], consumer).map_or_else(Reply::refuse, Flow::Continue)
        };
        let follows = answer.follows_as_said();
        let media = answer.first(&header::CONTENT_TYPE).and_then(MediaType::parse);
        let calls = || Dialect::of(answer.head.header("content-type").unwrap_or_default()).is_grpc();
        match follows {
            // Two readers could take it for two things.
            Follows::Stream | Follows::Part | Follows::Body if answer.is_of_several_types() => {
                return judge(wrong("contentType", "must have one Content-Type"));
            }
            // What a client has chosen is no way around what was agreed on.
            Follows::Stream if looks && answer.is_made() => return judge(wrong("json", "must not be a stream")),
            Follows::Stream => return Flow::Continue(()),
            // On trial, what a route says is a stream goes on as it comes.
            Follows::Body if !looks && answer.follows() == Follows::Stream => return Flow::Continue(()),
            // Whoever says that he calls by gRPC gets no other answer by that than others do.
            _ if looks && follows != Follows::Nothing && calls() => return judge(wrong("json", "must not be a stream")),
            Follows::Part if looks => return judge(wrong("json", "must be whole")),
            Follows::Nothing if strips && answer.head.method == Method::HEAD => {
                answer.changes_body(Validator::Drop);
                return Flow::Continue(());
            }
            Follows::Body => {}
            Follows::Part | Follows::Nothing => return Flow::Continue(()),
        }
        let is_json = media.is_some_and(|media| media.is_json());
        let json = is_json && !answer.all(&header::CONTENT_ENCODING).into_iter().any(is_coded);
        let consumer = answer.exchange.consumer().cloned();
        let beyond = if self.inner.mode == AnswerMode::Report { Beyond::Pass } else { Beyond::Refuse(Self::NAME) };
        let run = Box::new(Looking { inner: self.inner.clone(), consumer, json });
        // Where nothing is taken out, the body stays what it is, and nobody asks for the validator.
        let stage = BodyStage::Whole { bound: self.up_to, beyond, validator: Validator::Drop, run };
        answer.whole_as_said(|| stage);
        Flow::Continue(())
    }
}

impl Policy for AnswerContract {
    const NAME: &'static str = "answer_contract";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Holds answers of the service to a JSON Schema (502).";
    type Config = AnswerContractConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let up_to = config.up_to.as_ref().map_or(DEFAULT, |size| size.value.0);
        if !(1..=MOST).contains(&up_to) {
            let place = config.up_to.as_ref().map_or(cx.place, |size| size.place);
            cx.problems.push(Problem::error(place, "`up_to` is from 1 to 16MiB"));
            return None;
        }
        let (schema, _) = schema(&config.schema.0, config.formats, cx)?;
        let report = Report::of(cx.ledger, cx.tallies, cx.scope);
        let inner = Arc::new(Inner { schema, mode: config.mode, report });
        Some(AnswerContract { inner, up_to: usize::try_from(up_to).ok()? })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        if self.inner.mode != AnswerMode::Off {
            plan.holds_answers();
            plan.on_request(self.clone());
            plan.on_response(self);
        }
    }
}
