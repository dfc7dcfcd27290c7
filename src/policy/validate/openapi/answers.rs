//! What a service answers, held to its operation.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora_http::ResponseHeader;

use super::super::contract::{MOST_TOLD, Mode, steps};
use super::super::media::MediaType;
use super::super::report::{Outcome, Part, Wrong};
use super::document::Operation;
use super::{Contract, Openapi, body};
use crate::exchange::Exchange;
use crate::grpc::Dialect;
use crate::jose::json;
use crate::policy::{Follows, OnResponse, Outgoing, Policy};
use crate::reply::{Flow, Reply};
use crate::schema::{Direction, Violation};
use crate::wire::coding::is_coded;
use crate::wire::encode::is_bodiless;
use crate::wire::stages::{Beyond, BodyStage, Changed, Validator, Whole};

/// The step that looks at answers.
pub struct Answers(pub Arc<Contract>);

/// Looks at one answer that has begun.
struct Looking {
    contract: Arc<Contract>,
    number: u32,
    node: Option<u32>,
    consumer: Option<Arc<str>>,
}

impl Contract {
    /// What is to be done with an answer that is not as the document says.
    fn breaks(&self, of: Option<(u32, &Operation)>, wrong: &[Wrong<'_>], consumer: Option<&str>) -> Result<(), Box<Reply>> {
        let id = of.map_or("", |(_, operation)| &*operation.id);
        let outcome = if self.answers == Mode::Enforce { Outcome::Refused } else { Outcome::Reported };
        if let Some((number, operation)) = of {
            self.counts.broken(&operation.id, number, outcome);
        }
        let Some(decided) = self.report.judge_answer(id, wrong, consumer, outcome) else { return Ok(()) };
        let detail = "The service's answer is not what was agreed on.";
        let reply = Reply::new(StatusCode::BAD_GATEWAY, Openapi::NAME, "answer_breaks_contract", detail);
        Err(reply.decided_by(decided))
    }
}

/// Whether what it answers to a GET is looked into.
pub fn is_looked_into(operation: &Operation) -> bool {
    let content = |status| operation.answers.iter().find(|(of, _)| of.takes(status)).map(|(_, content)| content);
    [200, 206].into_iter().filter_map(content).flatten().any(body::Media::is_looked_into)
}

impl OnResponse for Answers {
    fn on_response(&self, answer: &mut Outgoing<'_>) -> Flow {
        let contract = &self.0;
        let exchange: &Exchange = answer.exchange;
        if contract.answers == Mode::Report && exchange.shown_again {
            // That was told when it was first given.
            return Flow::Continue(());
        }
        let of = contract.operation(exchange);
        let consumer = exchange.consumer().cloned();
        let judge = |violation: Violation| {
            let wrong = [Wrong::new(Part::Answer, "", violation)];
            match contract.breaks(of, &wrong, consumer.as_deref()) {
                Ok(()) => Flow::Continue(()),
                Err(reply) => reply.refuse(),
            }
        };
        let status = answer.status();
        let Some((number, operation)) = of else {
            // A request that no operation is for gets here where none is refused. Its answer was never agreed on.
            return if status.is_success() {
                judge(Violation::whole("paths", "is of no operation of the document"))
            } else {
                Flow::Continue(())
            };
        };
        let Some((_, content)) = operation.answers.iter().find(|(of, _)| of.takes(status.as_u16())) else {
            // What a service says of its own failures, or of a client's, few documents tell whole.
            return if status.is_success() {
                judge(Violation::whole("responses", "has a status that is not in the document"))
            } else {
                Flow::Continue(())
            };
        };
        if content.is_empty() {
            return Flow::Continue(());
        }
        let follows = answer.follows_as_said();
        let enforces = contract.answers == Mode::Enforce;
        let looks_in = enforces && content.iter().any(body::Media::is_looked_into);
        let calls = || Dialect::of(answer.head.header("content-type").unwrap_or_default()).is_grpc();
        let media = answer.first(&header::CONTENT_TYPE).and_then(MediaType::parse);
        match follows {
            // Of a body that would be there, HEAD tells the type.
            Follows::Nothing if answer.head.method != Method::HEAD || is_bodiless(status) || media.is_none() => {
                return Flow::Continue(());
            }
            // Two readers could take it for two things.
            _ if answer.is_of_several_types() => return judge(Violation::whole("contentType", "must have one Content-Type")),
            // Whoever says that he calls by gRPC gets no other answer by that than others do.
            Follows::Body | Follows::Part if looks_in && calls() => {
                return judge(Violation::whole("json", "must not be a stream"));
            }
            Follows::Part if looks_in => return judge(Violation::whole("json", "must be whole")),
            // Several parts at once: the type is not that of the whole.
            Follows::Part if media.is_some_and(|media| media.is("multipart", "byteranges")) => return Flow::Continue(()),
            _ => {}
        }
        let Some(one) = media.and_then(|media| content.iter().find(|one| one.pattern.matches(&media))) else {
            let is_empty = answer.length() == Some(0);
            return if is_empty {
                Flow::Continue(())
            } else {
                judge(Violation::whole("content", "has a Content-Type that is not in the document"))
            };
        };
        if follows != Follows::Body || !media.is_some_and(|media| media.is_json()) || one.node.is_none() {
            return Flow::Continue(());
        }
        if answer.all(&header::CONTENT_ENCODING).into_iter().any(is_coded) {
            return judge(Violation::whole("json", "must be without a coding"));
        }
        // On trial, what a route says is a stream goes on as it comes.
        if !enforces && answer.follows() == Follows::Stream {
            return Flow::Continue(());
        }
        let beyond = if enforces { Beyond::Refuse(Openapi::NAME) } else { Beyond::Pass };
        let run = Box::new(Looking { contract: contract.clone(), number, node: one.node, consumer });
        let stage = BodyStage::Whole { bound: contract.up_to, beyond, validator: Validator::Weaken, run };
        answer.whole_as_said(|| stage);
        Flow::Continue(())
    }
}

impl Whole for Looking {
    fn whole(self: Box<Self>, _: &mut ResponseHeader, body: &Bytes) -> Changed<Option<Bytes>> {
        let Some(operation) = self.contract.document.operations.get(self.number as usize) else { return Ok(None) };
        let schema = &self.contract.document.schema;
        let wrong: Vec<Wrong<'_>> = match (json::value(body), self.node) {
            (Some(value), Some(node)) => {
                let told = schema.broken_at(node, &value, steps(body.len()), MOST_TOLD, Direction::ToClient);
                let each = told.map(|told| told.violations).unwrap_or_default().into_iter();
                each.map(|violation| Wrong::in_value(Part::Answer, "", violation, &value, schema)).collect()
            }
            (None, _) => vec![Wrong::new(Part::Answer, "", Violation::whole("json", "must be JSON"))],
            _ => Vec::new(),
        };
        if !wrong.is_empty() {
            self.contract.breaks(Some((self.number, operation)), &wrong, self.consumer.as_deref())?;
        }
        Ok(None)
    }
}
