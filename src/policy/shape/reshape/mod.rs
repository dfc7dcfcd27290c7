//! `reshape`: JSON bodies in other shapes, on both ways: fields that are renamed, moved, set, or that not everybody may see.
//!
//! Requests are reshaped behind everything that judges them, so that policies see what the client sent and the service what it understands.
//! Answers are reshaped before everything else that works on them: `answer_contract` and `etag` see what the client will. What the cache
//! stores is what the service sent; every hit is reshaped for whoever it is for.
//!
//! - [`config`]: what people write.
//! - [`steps`], [`values`]: what that becomes, and what it does to a body.
//! - [`xml`]: XML as JSON, and back.
//! - [`request`]: the way to the service; forms.
//! - [`answer`]: the way back.

pub mod answer;
pub mod config;
pub mod request;
pub mod steps;
#[cfg(test)]
mod tests;
pub mod values;
pub mod xml;

use std::sync::Arc;

use crate::json::Fault;
use crate::policy::validate::media::{MediaType, is_json_document as is_json};
use crate::policy::{Compile, PlanBuilder, Policy, Stage};
use crate::problem::Problem;
use crate::tally::{Counter, Tallies};
use crate::value::StatusRange;
use config::{Otherwise, ReshapeConfig};
use steps::{Beside, Settled, Steps, Way};
use xml::{Form, Xml};

/// The longest body that may be held, in bytes, and the longest that is where nobody says otherwise.
const MOST: u64 = 16 << 20;
const DEFAULT: u64 = 1 << 20;

/// The compiled policy.
pub struct Reshape {
    inner: Arc<Inner>,
}

/// What both ways need.
pub struct Inner {
    request: Steps,
    response: Steps,
    /// Empty: all.
    statuses: Vec<StatusRange>,
    up_to: usize,
    beyond: Otherwise,
    on_unparsable: Otherwise,
    other_types: Otherwise,
    forms: bool,
    xml: Option<Box<Xml>>,
    counts: Counts,
}

/// What became of bodies.
struct Counts([[Arc<Counter>; 3]; 2]);

#[derive(Clone, Copy)]
enum Outcome {
    Changed,
    Passed,
    Refused,
}

impl Counts {
    fn new(tallies: &Tallies, scope: &str) -> Self {
        let help = "Bodies that `reshape` changed, let pass as they were, or refused, by the way they were on.";
        Counts(["request", "response"].map(|way| {
            ["changed", "passed", "refused"].map(|outcome| {
                let labels = [("scope", scope), ("way", way), ("outcome", outcome)];
                tallies.counter("portcullis_reshape_bodies_total", help, &labels)
            })
        }))
    }

    fn count(&self, way: Way, outcome: Outcome) {
        if let Some(counter) = self.0.get(way as usize).and_then(|counts| counts.get(outcome as usize)) {
            counter.add(1);
        }
    }
}

impl Inner {
    /// Whether answers are worked on as they come.
    fn streams(&self) -> bool {
        self.response.filter_only() && self.on_unparsable == Otherwise::Refuse && self.answer_form().is_none()
    }

    /// `xml`, where it is about answers.
    fn answer_form(&self) -> Option<&Xml> {
        self.xml.as_deref().filter(|xml| xml.response.is_some())
    }

    /// A body in another shape, and in another form where that is said, and what is said beside it.
    fn made(
        &self,
        steps: &Steps,
        settled: &Settled,
        body: &[u8],
        forms: Option<(Form, Form)>,
    ) -> Result<(Vec<u8>, Beside), Fault> {
        let most = body.len().saturating_add(self.up_to);
        let Some(((is, becomes), xml)) = forms.zip(self.xml.as_deref()) else {
            return steps.apply(body, settled, self.up_to, |tree| Ok(tree.write()));
        };
        let read;
        let json = match is {
            Form::Json => body,
            Form::Xml => {
                read = xml.read(body, most)?;
                &read
            }
        };
        steps.apply(
            json,
            settled,
            self.up_to,
            |tree| if becomes == Form::Json { Ok(tree.write()) } else { xml.write(tree, most) },
        )
    }
}

/// Whether a body of this type is one document of XML, in UTF-8.
fn is_xml(kind: &[u8]) -> bool {
    MediaType::parse(kind).is_some_and(|media| media.is_xml() && media.is_utf8())
}

impl Policy for Reshape {
    const NAME: &'static str = "reshape";
    const STAGE: Stage = Stage::Shape;
    const SUMMARY: &'static str = "Renames, moves, sets and removes fields of JSON bodies, both ways (400, 413, 415, 502).";
    type Config = ReshapeConfig;

    fn compile(config: &Self::Config, cx: &mut Compile<'_>) -> Option<Self> {
        let before = cx.problems.len();
        let up_to = config.up_to.as_ref().map_or(DEFAULT, |size| size.value.0);
        if !(1..=MOST).contains(&up_to) {
            let place = config.up_to.as_ref().map_or(cx.place, |size| size.place);
            cx.problems.push(Problem::error(place, "`up_to` is from 1 to 16MiB"));
        }
        let request = Steps::compile(&config.request, Way::Request, cx);
        let response = Steps::compile(&config.response, Way::Response, cx);
        let statuses = config.statuses.as_ref().map_or_else(Vec::new, |statuses| statuses.to_vec());
        if config.statuses.is_some() && statuses.is_empty() {
            cx.problems.push(Problem::error(cx.place, "`statuses` is empty: no answer would be worked on"));
        }
        let xml = config.xml.as_deref().map(|xml| Box::new(Xml::compile(xml, cx)));
        if cx.problems.len() == before && request.is_empty() && response.is_empty() && !config.forms && xml.is_none() {
            let problem = Problem::error(cx.place, "`reshape` without steps does nothing");
            cx.problems.push(problem.hint("write `response: [ { remove: /internal } ]`"));
        }
        if cx.problems.iter().skip(before).any(|problem| problem.severity == crate::problem::Severity::Error) {
            return None;
        }
        let inner = Inner {
            request,
            response,
            statuses,
            up_to: usize::try_from(up_to).ok()?,
            beyond: config.beyond,
            on_unparsable: config.on_unparsable,
            other_types: config.other_types,
            forms: config.forms,
            xml,
            counts: Counts::new(cx.tallies, cx.scope),
        };
        Some(Reshape { inner: Arc::new(inner) })
    }

    fn install(self: Arc<Self>, plan: &mut PlanBuilder) {
        let Inner { request, response, forms, xml, .. } = &*self.inner;
        let options = plan.options();
        options.by_path |= request.looks_at_path() || response.looks_at_path();
        options.by_params |= request.looks_at_params() || response.looks_at_params();
        options.per_client.extend(request.made_fields());
        if !response.is_empty() || self.inner.answer_form().is_some() {
            let told = options.credential_headers.clone();
            let answers = Arc::new(answer::Answers::new(self.inner.clone(), told));
            if !self.inner.streams() {
                plan.holds_answers();
            }
            plan.on_request(answers.clone());
            plan.on_response(answers);
        }
        if !request.is_empty() || *forms || xml.as_ref().is_some_and(|xml| xml.request.is_some()) {
            let requests = Arc::new(request::Requests(self.inner.clone()));
            plan.on_request(requests.clone());
            plan.on_body(requests);
        }
    }
}
